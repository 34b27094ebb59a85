//! What is fuzzed: by `cargo fuzz` with coverage, by `tests/fuzz.rs` without.
//!
//! A target takes any bytes and must return: no panic, no overflow, no more time or memory than
//! the size of its input calls for.

use std::path::Path;

use ferrocerium::format::{
    BlockLayout, Format, Quantized, Quantizer, ScaleLayout, dequantize, quantize,
};
use ferrocerium::io::gguf::Header;
use ferrocerium::io::npy;
use ferrocerium::io::safetensors::{parse_header, shard_names};
use ferrocerium::op::*;
use ferrocerium::{DType, E8M0, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16};

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("index", index),
    ("npy", npy),
    ("num", num),
    ("ops", ops),
];

/// The header of a GGUF file, and the values of its smaller tensors.
pub fn gguf(data: &[u8]) {
    let Ok(header) = Header::parse(data, Path::new("fuzz.gguf")) else { return };
    for (key, value) in header.metadata().iter() {
        assert!(header.metadata().get(key).is_some());
        let _ = (value.to_string(), value.to_u64(), value.to_f64());
    }
    for tensor in header.tensors() {
        let bytes = &data[tensor.bytes.clone()];
        assert_eq!(
            bytes.len(),
            tensor.len() / tensor.block.block_len() * tensor.block.block_bytes()
        );
        if tensor.len() <= 1 << 16 {
            let mut values = vec![0.0; tensor.len()];
            let _ = tensor.block.decode(bytes, &mut values);
        }
    }
}

/// The header of a safetensors file.
pub fn safetensors(data: &[u8]) {
    let Ok(tensors) = parse_header(data, Path::new("fuzz.safetensors"), 0) else { return };
    for tensor in &tensors {
        let bytes = &data[tensor.bytes.clone()];
        if let Some(dtype) = tensor.dtype {
            assert_eq!(bytes.len(), tensor.shape.iter().product::<usize>() * dtype.size());
        }
    }
}

/// The index of a model in several files.
pub fn index(data: &[u8]) {
    let Ok(names) = shard_names(data, Path::new("fuzz.json")) else { return };
    for file in names.values() {
        assert_eq!(Path::new(file).components().count(), 1, "{file:?} leads elsewhere");
    }
}

/// The header of NumPy's files.
pub fn npy(data: &[u8]) {
    let Ok(header) = npy::Header::parse(data, Path::new("fuzz.npy")) else { return };
    let bytes = &data[header.data.clone()];
    assert_eq!(bytes.len(), header.shape.iter().product::<usize>() * header.size);
    assert!(header.dtype.is_none_or(|dtype| dtype.size() == header.size));
}

/// Conversions of numbers, and blocks of them.
pub fn num(data: &[u8]) {
    let values: Vec<f32> =
        data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    macro_rules! again {
        ($x:expr, $($t:ty),*) => {$(
            // A value of the type is the type's nearest to itself.
            let once = <$t>::from_f32($x).to_f32();
            let twice = <$t>::from_f32(once).to_f32();
            assert!(once == twice || once.is_nan() && twice.is_nan(), "{} {}", $x, once);
        )*};
    }
    for &x in &values {
        again!(x, bf16, f16, F8E4M3, F8E5M2);
        if x.is_finite() && x > 0.0 {
            again!(x, UE4M3, E8M0);
        }
    }
    for bits in data.chunks_exact(8) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(bits);
        let x = f64::from_le_bytes(bytes);
        let (narrow, wide) = (F8E4M3::from_f64(x), <bf16 as Scalar>::from_f64(x));
        assert!(x.is_nan() == narrow.to_f32().is_nan() && x.is_nan() == wide.to_f32().is_nan());
    }
    let n = values.len().min(256);
    for format in Format::ALL {
        let quantizer = Quantizer::default_for(format);
        let layout = BlockLayout::new(format, ScaleLayout::RowMajor, 1, 1, n);
        let Ok(layout) = layout else { continue };
        let (mut codes, mut scales) = (vec![0; layout.codes_len()], vec![0; layout.scales_bytes()]);
        let mut g = 1.0;
        let tensor_scale = layout.spec().tensor_scale.then_some(&mut g);
        let out = Quantized { codes: &mut codes, scales: &mut scales, tensor_scale };
        let finite = values[..n].iter().all(|x| x.is_finite());
        assert_eq!(quantize(&layout, quantizer, &values[..n], out).is_ok(), finite);
        let mut back = vec![0.0; n];
        let done = dequantize(&layout, &codes, &scales, g, &mut back);
        assert!(done.is_ok() && (!finite || back.iter().all(|x| x.is_finite())), "{format}");
    }
}

/// Operations over operands of any sizes, strides and types.
pub fn ops(data: &[u8]) {
    let mut bytes = Bytes(data);
    let kind = bytes.next();
    let mut o = || bytes.operand();
    let op: Op = match kind % 12 {
        0 => {
            let mut op = Gemm::new(o(), o(), o());
            op.c = Some(o());
            op.epilogue.bias = Some(o());
            op.into()
        }
        1 => GroupedGemm::new(o(), o(), o(), o()).into(),
        2 => {
            let mut op = Norm::new(NormKind::Rms, o(), o(), 1e-5);
            op.weight = Some(o());
            op.into()
        }
        3 => Softmax::new(o(), o()).into(),
        4 => Elementwise::binary(Function::Add, o(), o(), o()).into(),
        5 => Gather::new(o(), o(), o()).into(),
        6 => Reduce::new(Reduction::Sum, o(), [usize::from(kind >> 4)], o()).into(),
        7 => ArgReduce::max(o(), usize::from(kind >> 4), o()).into(),
        8 => TopK::new(o(), o(), o()).into(),
        9 => Attention::new(o(), o(), o(), o()).into(),
        10 => {
            let frequencies = RopeFrequencies::new(10000.0, 8, &RopeScaling::None);
            let Ok(frequencies) = frequencies else { return };
            let (x, out, positions) = (o(), o(), Positions::Given(o()));
            Rope { x, positions, style: RopeStyle::HalfSplit, frequencies, out }.into()
        }
        _ => Convert::new(o(), o()).into(),
    };
    match op.validate() {
        Ok(()) => assert!(op.work() >= 0.0 && !op.to_string().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Small sizes, and some that overflow when multiplied.
    fn size(&mut self) -> usize {
        match self.next() {
            byte @ 0..=239 => usize::from(byte),
            byte => usize::MAX >> (usize::from(byte - 240) * 4),
        }
    }

    fn operand(&mut self) -> Operand {
        let (kind, rank) = (self.next(), usize::from(self.next()) % (MAX_RANK + 1));
        let dims: Vec<usize> = (0..rank).map(|_| self.size()).collect();
        let dtype = DType::ALL[usize::from(kind) % DType::ALL.len()];
        if kind >= 200 {
            let format = Format::ALL[usize::from(kind) % Format::ALL.len()];
            if let Ok(scaled) = Scaled::spec(format, &dims) {
                return if kind % 2 == 0 { scaled.into() } else { scaled.transposed().into() };
            }
        }
        let scalar =
            || Dense { dtype, dims: Dims::default(), strides: Dims::default(), data: None };
        let mut dense = Dense::spec(dtype, &dims).unwrap_or_else(|_| scalar());
        if kind % 5 == 0 {
            let last = dense.strides.len();
            (0..last).for_each(|axis| dense.strides[axis] = self.size());
        }
        dense.into()
    }
}
