//! Random operations as plain data: small enough to print, complete enough to run again.

use proptest::prelude::*;

use super::distribution::Distribution;
use crate::error::Result;
use crate::format::{Format, Quantizer};
use crate::num::DType;
use crate::op::{Activation, Attention, Convert, Dense, Gather, Gemm, Mask, Operand};
use crate::{AnyTensor, Device, Tensor};

/// What an operand is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain elements.
    Plain(DType),
    /// A block format, by its default quantiser.
    Blocks(Format),
}

const FLOATS: [DType; 6] =
    [DType::F64, DType::F32, DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2];

impl Kind {
    /// Every float and block format.
    pub fn any() -> impl Strategy<Value = Kind> {
        prop_oneof![
            2 => prop::sample::select(&FLOATS[..]).prop_map(Kind::Plain),
            1 => prop::sample::select(&Format::ALL[..]).prop_map(Kind::Blocks),
        ]
    }

    /// Values of that kind; blocks run along the last dimension.
    pub(super) fn make(
        self,
        device: &Device,
        shape: &[usize],
        distribution: Distribution,
        seed: u64,
    ) -> Result<AnyTensor> {
        // Blocks hold finite values only.
        let distribution = match (self, distribution) {
            (Kind::Blocks(_), Distribution::NonFinite) => Distribution::Normal,
            (_, other) => other,
        };
        let values = distribution.values(shape.iter().product(), seed);
        let flat = Tensor::from_host(device, [values.len()], &values)?;
        let buffer = flat.region().buffer().clone();
        let plain = AnyTensor::from_buffer(device, DType::F32, shape, buffer, 0)?;
        match self {
            Kind::Plain(dtype) => plain.cast(dtype),
            Kind::Blocks(format) => plain.quantize(format, Quantizer::default_for(format)),
        }
    }
}

/// Sizes around those of tiles, vectors and blocks, and none.
pub fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0usize),
        2 => Just(1usize),
        2 => 2usize..8,
        2 => prop::sample::select(vec![15, 16, 17, 23, 24, 25, 31, 32, 33, 48, 64, 65]),
        1 => 66usize..150,
    ]
}

/// A matrix product.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Gemm`.
pub struct GemmCase {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Kind,
    pub b: Kind,
    pub d: DType,
    pub b_transposed: bool,
    pub b_shared: bool,
    pub alpha: f32,
    pub beta: f32,
    pub bias: bool,
    pub residual: bool,
    pub activation: Activation,
    pub distribution: Distribution,
    pub seed: u64,
}

/// Matrix products of every kind of operand, with every epilogue.
pub fn gemm_cases() -> impl Strategy<Value = GemmCase> {
    let shape = (1usize..4, sizes(), sizes(), sizes());
    let kinds = (Kind::any(), Kind::any(), prop::sample::select(&FLOATS[..]));
    let layout = (any::<bool>(), any::<bool>());
    let factor = || prop::sample::select(vec![1.0f32, -0.5, 2.0, 0.0]);
    let beta = prop::sample::select(vec![0.0f32, 0.0, 1.0, -0.25]);
    let epilogue = (any::<bool>(), any::<bool>(), prop::sample::select(&Activation::ALL[..]));
    let values = (Distribution::any(), any::<u64>());
    (shape, kinds, layout, (factor(), beta), epilogue, values).prop_map(
        |((batch, m, n, k), (a, b, d), (t, b_shared), (alpha, beta), epilogue, values)| GemmCase {
            batch,
            m,
            // Halves of equal width, for gated activations.
            n: if epilogue.2.is_gated() { 2 * n } else { n },
            k,
            a,
            b,
            d,
            // Blocks run along k.
            b_transposed: t || matches!(b, Kind::Blocks(_)),
            b_shared,
            alpha,
            beta,
            bias: epilogue.0,
            residual: epilogue.1,
            activation: epilogue.2,
            distribution: values.0,
            seed: values.1,
        },
    )
}

impl GemmCase {
    /// The operation over fresh inputs; `d` is without data.
    pub(super) fn build(&self, device: &Device) -> Result<Gemm> {
        let make = |kind: Kind, shape: &[usize], salt: u64| {
            kind.make(device, shape, self.distribution, self.seed.wrapping_add(salt))
        };
        let finite = |shape: &[usize], salt: u64| {
            let kind = Kind::Plain(DType::F32);
            kind.make(device, shape, Distribution::Normal, self.seed.wrapping_add(salt))
        };
        let a = make(self.a, &[self.batch, self.m, self.k], 1)?;
        let b_batch = if self.b_shared { 1 } else { self.batch };
        let b = if self.b_transposed {
            make(self.b, &[b_batch, self.n, self.k], 2)?.t()?
        } else {
            make(self.b, &[b_batch, self.k, self.n], 2)?
        };
        let width = if self.activation.is_gated() { self.n / 2 } else { self.n };
        let d = Dense::spec(self.d, &[self.batch, self.m, width])?;
        let mut op = Gemm::new(a.operand().clone(), b.operand().clone(), d);
        (op.alpha, op.beta) = (self.alpha, self.beta);
        op.epilogue.activation = self.activation;
        if self.beta != 0.0 {
            op.c = Some(finite(&[self.batch, self.m, self.n], 3)?.operand().clone());
        }
        if self.bias {
            op.epilogue.bias = Some(finite(&[self.n], 4)?.operand().clone());
        }
        if self.residual {
            let residual = finite(&[self.batch, self.m, width], 5)?;
            op.epilogue.residual = Some(residual.operand().clone());
        }
        Ok(op)
    }
}

/// Attention with keys and values of their own for each sequence.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Attention`.
pub struct AttentionCase {
    pub batch: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub kv_heads: usize,
    pub group: usize,
    pub d: usize,
    pub d_v: usize,
    pub q: DType,
    pub kv: Kind,
    pub out: DType,
    pub mask: Mask,
    pub softcap: Option<f32>,
    pub sinks: bool,
    pub alibi: bool,
    pub distribution: Distribution,
    pub seed: u64,
}

/// Attention over every kind of key and value, with every mask and bias.
pub fn attention_cases() -> impl Strategy<Value = AttentionCase> {
    let len = || prop_oneof![0usize..5, 30usize..36, 60usize..70];
    let shape = (1usize..3, len(), len(), 1usize..3, 1usize..4);
    let widths = (prop::sample::select(vec![1usize, 8, 16, 20, 33]), 1usize..20);
    let narrow = || prop::sample::select(vec![DType::F32, DType::BF16, DType::F16]);
    let option = prop::option::of(1usize..20);
    let mask = (option, prop::sample::select(vec![None, Some(0usize), Some(2)]));
    let extras = (prop::option::of(1.0f32..20.0), any::<bool>(), any::<bool>());
    let finite = Distribution::finite();
    (shape, widths, (narrow(), Kind::any(), narrow()), mask, extras, (finite, any::<u64>()))
        .prop_map(|(shape, (d, d_v), (q, kv, out), (window, ahead), extras, values)| {
            let (batch, q_len, kv_len, kv_heads, group) = shape;
            let (softcap, sinks, alibi) = extras;
            let mask = Mask { window, ahead };
            let (distribution, seed) = values;
            AttentionCase {
                batch,
                q_len,
                kv_len,
                kv_heads,
                group,
                d,
                d_v,
                q,
                kv,
                out,
                mask,
                softcap,
                sinks,
                alibi,
                distribution,
                seed,
            }
        })
}

impl AttentionCase {
    /// The operation over fresh inputs; `out` is without data.
    pub(super) fn build(&self, device: &Device) -> Result<Attention> {
        let heads = self.kv_heads * self.group;
        let make = |kind: Kind, shape: &[usize], salt: u64| -> Result<Operand> {
            let seed = self.seed.wrapping_add(salt);
            Ok(kind.make(device, shape, self.distribution, seed)?.operand().clone())
        };
        let q = make(Kind::Plain(self.q), &[self.batch, self.q_len, heads, self.d], 1)?;
        let k = make(self.kv, &[self.batch, self.kv_len, self.kv_heads, self.d], 2)?;
        let v = make(self.kv, &[self.batch, self.kv_len, self.kv_heads, self.d_v], 3)?;
        let out = Dense::spec(self.out, &[self.batch, self.q_len, heads, self.d_v])?;
        let mut op = Attention::new(q, k, v, out);
        (op.mask, op.softcap) = (self.mask, self.softcap);
        let vector = |salt| make(Kind::Plain(DType::F32), &[heads], salt);
        op.sinks = self.sinks.then(|| vector(4)).transpose()?;
        op.alibi = self.alibi.then(|| vector(5)).transpose()?;
        Ok(op)
    }
}

/// Rows of a table by index.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Gather`.
pub struct GatherCase {
    pub rows: usize,
    pub width: usize,
    pub picks: Vec<u32>,
    pub table: Kind,
    pub out: DType,
    pub distribution: Distribution,
    pub seed: u64,
}

/// Gathers from tables of every kind.
pub fn gather_cases() -> impl Strategy<Value = GatherCase> {
    let floats = prop::sample::select(&FLOATS[..]);
    let picks = prop::collection::vec(any::<u32>(), 0..20);
    (1usize..40, sizes(), picks, Kind::any(), floats, Distribution::finite(), any::<u64>())
        .prop_map(|(rows, width, mut picks, table, out, distribution, seed)| {
            picks.iter_mut().for_each(|pick| *pick %= rows as u32);
            GatherCase { rows, width, picks, table, out, distribution, seed }
        })
}

impl GatherCase {
    /// The operation over fresh inputs; `out` is without data.
    pub(super) fn build(&self, device: &Device) -> Result<Gather> {
        let table =
            self.table.make(device, &[self.rows, self.width], self.distribution, self.seed)?;
        let indices = Tensor::from_host(device, [self.picks.len()], &self.picks)?;
        let out = Dense::spec(self.out, &[self.picks.len(), self.width])?;
        Ok(Gather::new(table.operand().clone(), indices.operand(), out))
    }
}

/// A copy or cast.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Convert`.
pub struct ConvertCase {
    pub shape: [usize; 2],
    pub src: Kind,
    pub dst: DType,
    pub transposed: bool,
    pub distribution: Distribution,
    pub seed: u64,
}

/// Casts of every kind of operand to every float.
pub fn convert_cases() -> impl Strategy<Value = ConvertCase> {
    let floats = prop::sample::select(&FLOATS[..]);
    (sizes(), sizes(), Kind::any(), floats, any::<bool>(), Distribution::any(), any::<u64>())
        .prop_map(|(rows, cols, src, dst, transposed, distribution, seed)| ConvertCase {
            shape: [rows, cols],
            src,
            dst,
            transposed,
            distribution,
            seed,
        })
}

impl ConvertCase {
    /// The operation over fresh inputs; `dst` is without data.
    pub(super) fn build(&self, device: &Device) -> Result<Convert> {
        let src = self.src.make(device, &self.shape, self.distribution, self.seed)?;
        let src = if self.transposed { src.t()? } else { src };
        let dst = Dense::spec(self.dst, &src.shape())?;
        Ok(Convert::new(src.operand().clone(), dst))
    }
}
