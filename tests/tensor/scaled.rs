//! Parts of block-scaled tensors, and conversions into given memory.

use ferrocerium::format::{
    BlockFormat, Fp8Block128, Fp8PerRow, Fp8PerTensor, HessianFactor, Mxfp4, Mxfp8, Nvfp4,
    Quantizer, ScaleLayout,
};
use ferrocerium::{Device, F8E4M3, ScaledTensor, Tensor};
use proptest::prelude::*;

use crate::ops::{error, says, tensor, values};

/// The slice of the decoded tensor.
fn check<F: BlockFormat, const R: usize>(q: &ScaledTensor<F, R>, range: std::ops::Range<usize>) {
    let whole: Tensor<f32, R> = q.dequantize().unwrap();
    let expected = whole.slice(0, range.clone()).unwrap();
    let part = q.slice_outer(range.clone()).unwrap();
    assert_eq!(part.shape(), expected.shape());
    let found: Tensor<f32, R> = part.dequantize().unwrap();
    assert_eq!(values(&found), values(&expected), "{} {range:?}", F::FORMAT);
}

proptest! {
    #[test]
    fn rows_are_cut_anywhere_where_blocks_are_of_one_row(
        (rows, k) in (0usize..9, 0usize..70),
        ends in any::<[prop::sample::Index; 2]>(),
        seed: u64,
    ) {
        let x: Tensor<f32, 2> = tensor(&Device::reference(), [rows, k], seed);
        let [a, b] = ends.map(|e| e.index(rows + 1));
        let range = a.min(b)..a.max(b);
        check(&x.quantize::<Nvfp4>().unwrap(), range.clone());
        check(&x.quantize::<Mxfp4>().unwrap(), range.clone());
        check(&x.quantize::<Mxfp8<F8E4M3>>().unwrap(), range.clone());
        check(&x.quantize::<Fp8PerRow>().unwrap(), range.clone());
        check(&x.quantize::<Fp8PerTensor<F8E4M3>>().unwrap(), range);
    }

    #[test]
    fn matrices_of_a_batch_are_cut_anywhere(
        (batch, rows, k) in (0usize..5, 0usize..4, 0usize..40),
        ends in any::<[prop::sample::Index; 2]>(),
        tiled: bool,
        transposed: bool,
        seed: u64,
    ) {
        let x: Tensor<f32, 3> = tensor(&Device::reference(), [batch, rows, k], seed);
        let [a, b] = ends.map(|e| e.index(batch + 1));
        let range = a.min(b)..a.max(b);
        let mut q = x.quantize::<Nvfp4>().unwrap();
        if tiled {
            q = q.with_scale_layout(ScaleLayout::Tiled128x4).unwrap();
        }
        check(&if transposed { q.t() } else { q }, range.clone());
        check(&x.quantize::<Fp8Block128>().unwrap(), range.clone());
        check(&x.quantize::<Fp8PerTensor<F8E4M3>>().unwrap(), range);
    }
}

#[test]
fn rows_are_cut_between_blocks_and_tiles_only() {
    let x: Tensor<f32, 2> = tensor(&Device::reference(), [300, 130], 1);
    let blocks = x.quantize::<Fp8Block128>().unwrap();
    let tiles = x.quantize::<Nvfp4>().unwrap().with_scale_layout(ScaleLayout::Tiled128x4).unwrap();
    for range in [0..128, 128..300, 0..300, 256..256, 300..300, 128..256] {
        check(&blocks, range.clone());
        check(&tiles, range);
    }
    for range in [1..128, 0..127, 128..299] {
        let text = format!("{range:?}");
        says(&error(blocks.slice_outer(range.clone())), &[&text, "blocks of 128", "fp8"]);
        says(&error(tiles.slice_outer(range)), &[&text, "tiles of scales of 128", "nvfp4"]);
    }
}

#[test]
fn a_part_that_is_not_there_is_refused_by_name() {
    let device = Device::reference();
    let q = tensor::<f32, 2>(&device, [4, 32], 1).quantize::<Nvfp4>().unwrap();
    says(&error(q.slice_outer(2..5)), &["slice_outer", "2..5", "0..4", "[4, 32] nvfp4"]);
    says(&error(q.t().slice_outer(0..1)), &["slice_outer", "nvfp4 transposed", "before t()"]);
    let row = tensor::<f32, 1>(&device, [32], 1).quantize::<Nvfp4>().unwrap();
    says(&error(row.slice_outer(0..16)), &["slice_outer", "[32] nvfp4", "first dimension"]);
}

#[test]
fn a_slice_shares_bytes_and_allocates_nothing() {
    let device = Device::reference();
    let q = tensor::<f32, 2>(&device, [4, 32], 1).quantize::<Nvfp4>().unwrap();
    let before = device.memory().used;
    let part = q.slice_outer(1..3).unwrap();
    assert_eq!(device.memory().used, before);
    assert_eq!(part.bytes(), 2 * 16 + 2 * 2 + 4);
}

#[test]
fn conversions_write_into_given_memory() {
    let device = Device::reference();
    let x: Tensor<f32, 2> = tensor(&device, [3, 40], 2);
    let q = ScaledTensor::<Nvfp4, 2>::zeros(&device, [3, 40]).unwrap();
    x.quantize_into(&q, Quantizer::FourOverSix).unwrap();
    let expected = x.quantize_with::<Nvfp4>(Quantizer::FourOverSix).unwrap();
    let decoded = Tensor::<f64, 2>::zeros(&device, [3, 40]).unwrap();
    q.dequantize_into(&decoded).unwrap();
    assert_eq!(values(&decoded), values(&expected.dequantize::<f64>().unwrap()));

    // A part of a larger tensor, under the larger tensor's scale.
    let g = 0.01f32;
    let whole = ScaledTensor::<Nvfp4, 2>::zeros(&device, [5, 40]).unwrap();
    let rest: Tensor<f32, 2> = tensor(&device, [2, 40], 3);
    x.quantize_into(&whole.slice_outer(0..3).unwrap(), Quantizer::Amax.with_tensor_scale(g))
        .unwrap();
    rest.quantize_into(&whole.slice_outer(3..5).unwrap(), Quantizer::Amax.with_tensor_scale(g))
        .unwrap();
    let both = ScaledTensor::<Nvfp4, 2>::zeros(&device, [5, 40]).unwrap();
    let joined = Tensor::concat(0, &[&x, &rest]).unwrap();
    joined.quantize_into(&both, Quantizer::Amax.with_tensor_scale(g)).unwrap();
    let plain = |q: &ScaledTensor<Nvfp4, 2>| values(&q.dequantize::<f64>().unwrap());
    assert_eq!(plain(&whole), plain(&both));

    let mx = ScaledTensor::<Mxfp4, 2>::zeros(&device, [3, 40]).unwrap();
    let message = error(x.quantize_into(&mx, Quantizer::Ocp.with_tensor_scale(g)));
    says(&message, &["tensor_scale", "0.01", "mxfp4"]);
    says(&error(x.quantize_into(&whole, Quantizer::Amax)), &["[5, 40] nvfp4", "[3, 40]"]);
    says(&error(q.dequantize_into(&rest)), &["[2, 40] f32", "[3, 40]"]);
    let elsewhere = ScaledTensor::<Nvfp4, 2>::zeros(&Device::cpu(), [3, 40]).unwrap();
    says(&error(x.quantize_into(&elsewhere, Quantizer::Amax)), &["reference and cpu"]);
}

#[test]
fn error_feedback_gives_the_same_whatever_the_number_of_threads() {
    let k = 48;
    let x: Tensor<f32, 2> = tensor(&Device::reference(), [100, k], 1);
    let w: Tensor<f32, 2> = tensor(&Device::reference(), [37, k], 2);
    let hessian: Tensor<f32, 2> = x.t().matmul(&x).unwrap();
    let factor = HessianFactor::new(k, &hessian.to_vec().unwrap(), 0.01).unwrap();
    let on = |device: &Device| {
        let w = w.to_device(device).unwrap();
        let q = w.quantize_gptq::<Nvfp4>(Quantizer::Mse, &factor).unwrap();
        values(&q.dequantize::<f32>().unwrap())
    };
    let alone = on(&Device::reference());
    assert_eq!(on(&Device::builder().threads(3).cpu().unwrap()), alone);
    let refused = w.quantize_gptq::<Fp8PerTensor>(Quantizer::Mse, &factor);
    says(&error(refused), &["rows share scales"]);
    let nan = Tensor::full(&Device::reference(), [2, k], f32::NAN).unwrap();
    says(&error(nan.quantize_gptq::<Nvfp4>(Quantizer::Mse, &factor)), &["[0, 0] is NaN"]);
}
