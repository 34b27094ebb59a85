//! Matrix products in every kind of tile, by every kind of instruction.

use ferrocerium::caps::{Arch, Isa};
use ferrocerium::format::{
    BlockFormat, Format, Fp8Block128, Mxfp4, Mxfp8, Nvfp4, Quantizer, ScaleLayout,
};
use ferrocerium::op::{Activation, Dense, Gemm, Op, OpKind, Operand, Scaled};
use ferrocerium::registry::Request;
use ferrocerium::testing::bounds::gamma;
use ferrocerium::{AnyTensor, DType, Device, ScaledTensor, Tensor, bf16};

use super::emulated;

/// Values whose products and sums are exact in f32.
fn small([i, j]: [usize; 2]) -> bf16 {
    bf16::from_f32(((i * 7 + j * 3) % 11) as f32 - 5.0)
}

#[test]
fn large_products_are_right_in_large_tiles() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    // 49 tiles of 128 × 128, those at the edges cut off; several slices along k, the last cut.
    let (m, n, k) = (800, 791, 290);
    let x = Tensor::from_fn(&device, [m, k], small).unwrap();
    let w = Tensor::from_fn(&device, [n, k], small).unwrap();
    let y: Tensor<f32, 2> = x.gemm(&w.t()).run().unwrap();
    assert_eq!(device.launches()["cuda.gemm"], 1);
    let y = y.host().unwrap();
    for i in (0..m).step_by(13) {
        for j in (0..n).step_by(7) {
            let dot: f32 = (0..k).map(|l| (small([i, l]) * small([j, l])).to_f32()).sum();
            assert_eq!(y[[i, j]], dot, "row {i}, column {j}");
        }
    }
}

/// The dot product of two rows of `small`.
fn small_dot(i: usize, j: usize, k: usize) -> f32 {
    (0..k).map(|l| (small([i, l]) * small([j, l])).to_f32()).sum()
}

#[test]
fn blocks_that_take_several_tiles_leave_them_all() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let device = device.with_request(Request::kernel("cuda.gemm"));
    // Of 16 × 64, of 64 × 64 and of 128 × 128; in bands, in batches, and with parts of k.
    for ([batch, m, n, k], how) in [
        ([1, 5, 6500, 70], "102 tiles of 16 × 64, by 96 blocks"),
        ([30, 3, 250, 33], "120 tiles of 16 × 64, by 96 blocks"),
        ([1, 700, 690, 40], "121 tiles of 64 × 64, by 96 blocks"),
        ([60, 20, 70, 33], "60 tiles of 128 × 128, by 48 blocks"),
        ([1, 1290, 640, 20], "55 tiles of 128 × 128, by 48 blocks"),
        ([1, 5, 840, 4096], "14 tiles of 16 × 64, k over 8 blocks each, by 96 blocks"),
    ] {
        let x = Tensor::from_fn(&device, [batch, m, k], |[b, i, l]| small([b + i, l])).unwrap();
        let w = Tensor::from_fn(&device, [n, k], small).unwrap();
        let y = Tensor::<f32, 3>::zeros(&device, [batch, m, n]).unwrap();
        let (a, b) = (x.operand().clone(), w.t().operand().clone());
        let op = Op::Gemm(Gemm::new(a, b, y.operand()));
        let text = device.explain(&op).unwrap().to_string();
        assert!(text.contains(how), "{text}");
        device.run(&op).unwrap();
        let y = y.host().unwrap();
        for at in (0..batch * m * n).step_by(97) {
            let [b, i, j] = [at / n / m, at / n % m, at % n];
            assert_eq!(y[[b, i, j]], small_dot(b + i, j, k), "{b}, {i}, {j} of {how}");
        }
    }
}

#[test]
fn blocks_take_the_tiles_of_groups_in_turn() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let device = device.with_request(Request::kernel("cuda.grouped_gemm"));
    // 33 groups with rows, of which one is more than a tile, and some without.
    let mut offsets = vec![0u32];
    for group in 0..40 {
        let rows = if group == 7 { 35 } else { group % 6 };
        offsets.push(offsets[group as usize] + rows);
    }
    let (groups, n, k) = (offsets.len() - 1, 200, 40);
    let m = offsets[groups] as usize;
    let x = Tensor::from_fn(&device, [m, k], small).unwrap();
    let w = Tensor::from_fn(&device, [groups, n, k], |[e, j, l]| small([e + j, l])).unwrap();
    let ends = Tensor::from_host(&device, [groups + 1], &offsets).unwrap();
    let y = x.grouped_gemm(&w.transpose(1, 2).unwrap(), &ends).run::<f32>().unwrap();
    let y = y.host().unwrap();
    for e in 0..groups {
        for i in offsets[e] as usize..offsets[e + 1] as usize {
            for j in (0..n).step_by(3) {
                assert_eq!(y[[i, j]], small_dot(i, e + j, k), "group {e}, row {i}, column {j}");
            }
        }
    }
}

#[test]
fn operands_that_are_contiguous_across_rows_are_multiplied_as_they_are() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    // Sizes that keep chunks of eight aligned, and others; few rows, some, and many.
    for [m, n, k] in [[16, 72, 100], [8, 8, 1], [48, 40, 64], [45, 38, 64], [1032, 1040, 70]] {
        let at = Tensor::from_fn(&device, [k, m], |[l, i]| small([i, l])).unwrap();
        let b = Tensor::from_fn(&device, [k, n], |[l, j]| small([j, l])).unwrap();
        let plain = at.t().gemm(&b).run::<f32>().unwrap();
        let gated = at.t().gemm(&b).activation(Activation::SwiGlu).run::<f32>().unwrap();
        let (plain, gated) = (plain.host().unwrap(), gated.host().unwrap());
        for i in (0..m).step_by(m / 7 + 1) {
            for j in (0..n / 2).step_by(n / 17 + 1) {
                let dot = |j: usize| -> f32 {
                    (0..k).map(|l| (small([i, l]) * small([j, l])).to_f32()).sum()
                };
                let (gate, up) = (dot(j), dot(j + n / 2));
                assert_eq!([plain[[i, j]], plain[[i, j + n / 2]]], [gate, up]);
                // The exponential is off by 2 units in the last place, the rest rounds 3 times.
                let silu = f64::from(gate) / (1.0 + (-f64::from(gate)).exp());
                let error = (f64::from(gated[[i, j]]) - silu * f64::from(up)).abs();
                let size = (f64::from(gate) * f64::from(up)).abs();
                assert!(error <= gamma(8) * size, "{m} × {n} × {k}: row {i}, column {j}");
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others_whatever_the_tile() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let f = |[i, j]: [usize; 2]| bf16::from_f32(((i * 37 + j * 11) % 101) as f32 * 0.013 - 0.6);
    let w = Tensor::from_fn(&device, [70, 200], f).unwrap();
    let x = Tensor::from_fn(&device, [40, 200], f).unwrap();
    let product = |x: &Tensor<bf16, 2>| -> Vec<f32> {
        x.gemm(&w.t()).run::<f32>().unwrap().to_vec().unwrap()
    };
    let whole = product(&x);
    for row in [0, 17, 39] {
        let alone = product(&x.slice(0, row..row + 1).unwrap());
        assert_eq!(alone, whole[row * 70..(row + 1) * 70], "row {row}");
    }
}

#[test]
fn explain_says_why_a_gpu_kernel_does_not_run() {
    let Some(device) = emulated(Arch::SM90A) else { return };
    let x = Tensor::<f32, 2>::zeros(&device, [4, 8]).unwrap();
    let explanation = device.explain(&x.gemm(&x.t()).spec::<f32>().unwrap()).unwrap();
    assert_eq!(explanation.chosen().unwrap().name, "reference.gemm");
    let text = explanation.to_string();
    assert!(text.contains("cuda.gemm"), "{text}");
    assert!(text.contains("not [4, 8] f32"), "{text}");
    let w = Blocks(Format::Nvfp4).matrix(&device, [64, 256], 1).scaled::<Nvfp4, 2>().unwrap();
    let x = Tensor::<bf16, 2>::zeros(&device, [1, 256]).unwrap();
    let text = device.explain(&x.gemm(&w.t()).spec::<f32>().unwrap()).unwrap().to_string();
    assert!(
        text.contains("(4 blocks of 16 columns, k in 1 parts, BF16 mma, b expanded)"),
        "{text}"
    );
}

#[test]
fn operations_of_several_threads_do_not_disturb_each_other() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let run = |n: usize| {
        let x = Tensor::from_fn(&device, [n, 40], small).unwrap();
        let y: Tensor<f32, 2> = x.gemm(&x.t()).run().unwrap();
        y.to_vec().unwrap()
    };
    let alone: Vec<_> = (1..5).map(run).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..5).map(|n| scope.spawn(move || run(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

/// What an operand is made of.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain(DType),
    Blocks(Format),
}
use Kind::{Blocks, Plain};

impl Kind {
    /// `[rows, cols]` of it, different for each `salt`.
    fn matrix(self, device: &Device, [rows, cols]: [usize; 2], salt: usize) -> AnyTensor {
        let wave = |[i, j]: [usize; 2]| ((i * 131 + j * 17 + i * j + salt) % 257) as f32 - 128.0;
        // Blocks of very different size.
        let x = Tensor::from_fn(device, [rows, cols], |[i, j]| {
            wave([i, j]) * 2f32.powi((i % 5) as i32 - (j / 32 % 3) as i32)
        });
        let x = AnyTensor::from(x.unwrap());
        match self {
            Plain(dtype) => x.cast(dtype).unwrap(),
            Blocks(format) => x.quantize(format, Quantizer::default_for(format)).unwrap(),
        }
    }
}

/// Checks some elements of x · wᵀ, by the kernel of that name, against sums in f64; gives all.
fn check(kernel: &str, device: &Device, x: &AnyTensor, w: &AnyTensor) -> Vec<f32> {
    let exact = |of: &AnyTensor| {
        let of = of.cast(DType::F64).unwrap().tensor::<f64, 2>().unwrap();
        (of.to_vec().unwrap(), of.shape())
    };
    let ((a, [m, k]), (b, [n, _])) = (exact(x), exact(w));
    let y = Tensor::<f32, 2>::zeros(device, [m, n]).unwrap();
    let op = Gemm::new(x.operand().clone(), w.t().unwrap().operand().clone(), y.operand());
    device.with_request(Request::kernel(kernel)).run(&Op::Gemm(op)).unwrap();
    let y = y.host().unwrap();
    for i in (0..m).step_by(37).chain([m - 1]) {
        for j in (0..n).step_by(29).chain([n - 1]) {
            let terms = (0..k).map(|l| a[i * k + l] * b[j * k + l]);
            let (sum, size) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
            let error = (f64::from(y[[i, j]]) - sum).abs();
            // Each term is added at most k times; scales round a few times more.
            assert!(error <= gamma(k + 8) * size, "{kernel}: {} is not {sum}", y[[i, j]]);
        }
    }
    let bits = (0..m * n).map(|at| y[[at / n, at % n]]);
    bits.collect()
}

#[test]
fn narrow_formats_are_right_in_large_tiles() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let (m, n, k) = (800, 791, 300);
    for (kernel, x, w) in [
        ("cuda.gemm", Plain(DType::BF16), Blocks(Format::Nvfp4)),
        ("cuda.gemm.fp8", Blocks(Format::Fp8Group128), Blocks(Format::Fp8Block128)),
        ("cuda.gemm.block_scaled", Blocks(Format::Nvfp4), Blocks(Format::Nvfp4)),
        ("cuda.gemm.block_scaled", Blocks(Format::Mxfp4), Blocks(Format::Mxfp4)),
        ("cuda.gemm.block_scaled", Blocks(Format::Mxfp8E4M3), Blocks(Format::Mxfp8E5M2)),
        ("cuda.gemm.block_scaled", Blocks(Format::Mxfp8E5M2), Blocks(Format::Mxfp4)),
        ("cuda.gemm.block_scaled", Blocks(Format::Mxfp4), Blocks(Format::Mxfp8E4M3)),
    ] {
        check(kernel, &device, &x.matrix(&device, [m, k], 1), &w.matrix(&device, [n, k], 2));
    }
}

#[test]
fn block_scaled_products_are_right_in_small_tiles_and_at_every_tail() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    for format in [Format::Nvfp4, Format::Mxfp4, Format::Mxfp8E4M3, Format::Mxfp8E5M2] {
        for [m, n, k] in [[1, 1, 1], [5, 70, 33], [17, 9, 64], [20, 33, 130], [3, 8, 512]] {
            let x = Blocks(format).matrix(&device, [m, k], 3);
            let w = Blocks(format).matrix(&device, [n, k], 4);
            check("cuda.gemm.block_scaled", &device, &x, &w);
        }
    }
}

#[test]
fn tiled_scales_give_the_same_bits_as_scales_in_rows() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let matrix = |shape, salt| {
        let matrix = Blocks(Format::Nvfp4).matrix(&device, shape, salt);
        matrix.scaled::<Nvfp4, 2>().unwrap()
    };
    for [m, n, k] in [[7, 150, 200], [130, 20, 80]] {
        let (x, w) = (matrix([m, k], 5), matrix([n, k], 6));
        let tiled = |of: &ferrocerium::ScaledTensor<Nvfp4, 2>| {
            of.with_scale_layout(ScaleLayout::Tiled128x4).unwrap()
        };
        let rows: Tensor<f32, 2> = x.matmul(&w.t()).unwrap();
        let tiles: Tensor<f32, 2> = tiled(&x).matmul(&tiled(&w).t()).unwrap();
        assert_eq!(rows.to_vec().unwrap(), tiles.to_vec().unwrap());
        // Weights of four bits, decoded.
        let y = Tensor::from_fn(&device, [m, k], small).unwrap();
        let rows = y.gemm(&w.t()).run::<f32>().unwrap();
        let tiles = y.gemm(&tiled(&w).t()).run::<f32>().unwrap();
        assert_eq!(rows.to_vec().unwrap(), tiles.to_vec().unwrap());
    }
    assert_eq!(device.launches()["cuda.gemm.block_scaled"], 4);
    assert_eq!(device.launches()["cuda.gemm.stream"], 2);
    assert_eq!(device.launches()["cuda.gemm"], 2);
}

#[test]
fn sixteen_bit_activations_are_never_narrowed() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let x = Tensor::from_fn(&device, [64, 256], small).unwrap();
    let w = Blocks(Format::Nvfp4).matrix(&device, [64, 256], 7).scaled::<Nvfp4, 2>().unwrap();
    let chosen = |op: &Op| device.explain(op).unwrap().chosen().unwrap().name.clone();
    assert_eq!(chosen(&x.gemm(&w.t()).spec::<f32>().unwrap()), "cuda.gemm");
    let x4 = x.quantize::<Nvfp4>().unwrap();
    assert_eq!(chosen(&x4.gemm(&w.t()).spec::<f32>().unwrap()), "cuda.gemm.block_scaled");
}

#[test]
fn where_sums_of_fp8_products_are_short_they_are_kept_in_sixteen_bit_instructions() {
    for (arch, kernel) in [(Arch::SM90A, "cuda.gemm"), (Arch::SM121A, "cuda.gemm.fp8")] {
        let Some(device) = emulated(arch) else { return };
        let x = Tensor::<f32, 2>::zeros(&device, [64, 256]).unwrap();
        let x = x.quantize::<ferrocerium::format::Fp8PerRow>().unwrap();
        let op = x.gemm(&x.t()).spec::<f32>().unwrap();
        assert_eq!(device.explain(&op).unwrap().chosen().unwrap().name, kernel);
    }
}

#[test]
fn fp8_is_twice_as_fast_as_sixteen_bits_where_the_machine_multiplies_it_and_else_as_fast() {
    for (arch, times) in [(Arch::SM89, 2), (Arch::SM90A, 1), (Arch::SM100A, 1), (Arch::SM121A, 2)] {
        let Some(device) = emulated(arch) else { return };
        let [a, b] = [(); 2].map(|()| Scaled::spec(Format::Fp8Row, &[4096, 4096]).unwrap());
        let d = Dense::spec(DType::BF16, &[4096, 4096]).unwrap();
        let op = Op::Gemm(Gemm::new(a, b.transposed(), d));
        let kernels = device.registry().kernels(OpKind::Gemm);
        let seconds = |name: &str| {
            let kernel = kernels.iter().find(|kernel| kernel.info().name == name).unwrap();
            kernel.cost(&op, device.caps()).seconds
        };
        assert_eq!(seconds("cuda.gemm") / seconds("cuda.gemm.fp8"), f64::from(times), "{arch}");
    }
}

#[test]
fn weights_stream_past_a_few_rows_at_every_tail_and_with_the_bits_of_tiles() {
    for arch in [Arch::SM90A, Arch::SM121A] {
        let Some(device) = emulated(arch) else { return };
        for w in [
            Plain(DType::BF16),
            Plain(DType::F8E4M3),
            Blocks(Format::Nvfp4),
            Blocks(Format::Mxfp4),
            Blocks(Format::Mxfp8E5M2),
            Blocks(Format::Fp8Row),
            Blocks(Format::Fp8Block128),
        ] {
            // One part and several, whole stages and not, aligned rows and not.
            for [m, n, k] in [[1, 24, 1280], [9, 17, 600], [16, 3, 33]] {
                let x = Plain(DType::BF16).matrix(&device, [m, k], 1);
                let w = w.matrix(&device, [n, k], 2);
                let streamed = check("cuda.gemm.stream", &device, &x, &w);
                assert_eq!(streamed, check("cuda.gemm", &device, &x, &w), "{m} × {n} × {k}");
            }
        }
    }
}

#[test]
fn scales_that_no_sixteen_bit_element_holds_are_exact() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    // Weights around 2^-140, or 2^130: past what BF16 holds, as are F16's everyday values.
    for (exponent, x) in [(-140, 2f32.powi(100)), (125, 2f32.powi(-100))] {
        for format in [Format::Mxfp8E4M3, Format::Mxfp8E5M2, Format::Mxfp4] {
            let w = Tensor::<f64, 2>::from_fn(&device, [24, 70], |[i, j]| {
                f64::from(small([i, j]).to_f32()) * 2f64.powi(exponent)
            });
            let w = AnyTensor::from(w.unwrap());
            let w = w.quantize(format, Quantizer::default_for(format)).unwrap();
            let x = Tensor::from_fn(&device, [16, 70], |at| bf16::from_f32(small(at).to_f32() * x));
            let x = AnyTensor::from(x.unwrap());
            check("cuda.gemm", &device, &x, &w);
            check("cuda.gemm.stream", &device, &x, &w);
        }
    }
}

#[test]
fn groups_of_rows_meet_their_matrices_in_every_kind_of_tile() {
    for arch in [Arch::SM90A, Arch::SM121A] {
        let Some(device) = emulated(arch) else { return };
        // More groups than a warp has lanes, most of them empty; then a few that are large.
        let mut sparse = vec![0; 70];
        (sparse[0], sparse[33], sparse[34], sparse[69]) = (3, 17, 1, 2);
        for (rows, kernel) in
            [(sparse, "cuda.grouped_gemm.stream"), (vec![130, 0, 20, 1], "cuda.grouped_gemm")]
        {
            let mut offsets = vec![0u32];
            rows.iter().for_each(|rows| offsets.push(offsets[offsets.len() - 1] + rows));
            let m = offsets[rows.len()] as usize;
            let x = Tensor::from_fn(&device, [m, 40], small).unwrap();
            let w = Tensor::from_fn(&device, [rows.len(), 24, 40], |[e, j, l]| small([e + j, l]));
            let w = w.unwrap();
            let ends = Tensor::from_host(&device, [offsets.len()], &offsets).unwrap();
            let y = x.grouped_gemm(&w.transpose(1, 2).unwrap(), &ends).run::<f32>().unwrap();
            assert_eq!(device.launches()[kernel], 1);
            let y = y.host().unwrap();
            for e in 0..rows.len() {
                for i in offsets[e] as usize..offsets[e + 1] as usize {
                    for j in 0..24 {
                        let terms = (0..40).map(|l| small([i, l]) * small([e + j, l]));
                        let dot: f32 = terms.map(bf16::to_f32).sum();
                        assert_eq!(y[[i, j]], dot, "group {e}, row {i}, column {j}");
                    }
                }
            }
        }
    }
}

#[test]
fn few_tiles_share_k_with_the_bits_of_many() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let variant = |kernel: &str, op: &Op| {
        let device = device.with_request(Request::kernel(kernel));
        device.explain(op).unwrap().to_string()
    };
    // Three parts of k, the last one shorter; more matrices than multiprocessors, and one of them.
    let k = 1100;
    for (kernel, m, w) in [
        ("cuda.gemm", 20, Plain(DType::BF16)),
        ("cuda.gemm.stream", 3, Blocks(Format::Nvfp4)),
        ("cuda.gemm", 5, Blocks(Format::Fp8Group128)),
    ] {
        let n = 24;
        let w = w.matrix(&device, [n, k], 1);
        let x = Tensor::from_fn(&device, [50, m, k], |[b, i, l]| small([b + 3 * i, l])).unwrap();
        let product = |x: &Tensor<bf16, 3>| {
            let [batch, m, _] = x.shape();
            let y = Tensor::<f32, 3>::zeros(&device, [batch, m, n]).unwrap();
            let x = x.operand().clone();
            let mut op = Gemm::new(x, w.t().unwrap().operand().clone(), y.operand());
            op.epilogue.activation = Activation::Silu;
            op.alpha = -0.5;
            let op = Op::Gemm(op);
            device.with_request(Request::kernel(kernel)).run(&op).unwrap();
            (variant(kernel, &op), y.to_vec().unwrap())
        };
        let (text, many) = product(&x);
        assert!(!text.contains("k over"), "{text}");
        let (text, few) = product(&x.slice(0, 7..8).unwrap());
        assert!(text.contains("k over 3 blocks each"), "{text}");
        assert_eq!(few, many[7 * m * n..8 * m * n], "{kernel}");
    }
}

#[test]
fn matrices_joined_by_their_rows_give_the_bits_of_each_by_itself() {
    for arch in [Arch::SM90A, Arch::SM121A] {
        let Some(device) = emulated(arch) else { return };
        let k = 320;
        let weights = [(24, 1.0f32), (40, 50.0)].map(|(n, size)| {
            let values =
                Tensor::from_fn(&device, [n, k], |[j, l]| size * small([j + n, l]).to_f32());
            values.unwrap().quantize::<Nvfp4>().unwrap()
        });
        let (all, scale) = ScaledTensor::concat_outer(&[&weights[0], &weights[1]]).unwrap();
        for (kernel, m) in [("cuda.gemm.stream", 3), ("cuda.gemm", 20)] {
            let x = Tensor::from_fn(&device, [m, k], small).unwrap();
            let product =
                |w: &ScaledTensor<Nvfp4, 2>| x.gemm(&w.t()).request(Request::kernel(kernel));
            let one = product(&all).column_scale(scale.as_ref().unwrap()).run::<f32>().unwrap();
            let one = one.to_vec().unwrap();
            let mut first = 0;
            for w in &weights {
                let n = w.shape()[0];
                let each = product(w).run::<f32>().unwrap().to_vec().unwrap();
                for (one, each) in one.chunks(64).zip(each.chunks(n)) {
                    assert_eq!(&one[first..first + n], each, "{kernel} on {arch}");
                }
                first += n;
            }
        }
    }
}

/// Checks that a product leaves the blocks that quantising its values makes, in tiles or after.
fn check_quantized<F: BlockFormat>(
    device: &Device,
    kind: Kind,
    quantizer: Quantizer,
    (layout, how): (ScaleLayout, &str),
) {
    for [m, n, k] in [[3, 40, 600], [66, 72, 40], [5, 3130, 40]] {
        let (x, w) = (kind.matrix(device, [m, k], 1), kind.matrix(device, [2 * n, k], 2));
        let product = |d: Operand| {
            let mut op = Gemm::new(x.operand().clone(), w.t().unwrap().operand().clone(), d);
            op.epilogue.activation = Activation::SwiGlu;
            op.epilogue.quantizer = Some(quantizer);
            Op::Gemm(op)
        };
        let y = Tensor::<f32, 2>::zeros(device, [m, n]).unwrap();
        device.run(&product(y.operand())).unwrap();
        let values = y.quantize_with::<F>(quantizer).unwrap();
        let d = ScaledTensor::<F, 2>::zeros(device, [m, n]).unwrap();
        let d = d.with_scale_layout(layout).unwrap();
        let op = product(d.operand());
        let text = device.explain(&op).unwrap().to_string();
        assert!(text.contains(how), "{text}");
        device.run(&op).unwrap();
        let bits = |of: &ScaledTensor<F, 2>| {
            of.dequantize::<f64>()
                .unwrap()
                .to_vec()
                .unwrap()
                .into_iter()
                .map(f64::to_bits)
                .collect()
        };
        let (found, due): (Vec<_>, Vec<_>) = (bits(&d), bits(&values));
        assert_eq!(found, due, "{m} × {n} × {k} to {}", F::FORMAT);
    }
}

#[test]
fn results_of_products_are_quantised_as_their_values_are() {
    for arch in [Arch::SM90A, Arch::SM121A] {
        let Some(device) = emulated(arch) else { return };
        let (rows, tiles) = (ScaleLayout::RowMajor, ScaleLayout::Tiled128x4);
        let (bf16, after) = (Plain(DType::BF16), "d quantised after it");
        check_quantized::<Nvfp4>(&device, bf16, Quantizer::FourOverSix, (tiles, after));
        check_quantized::<Mxfp8>(&device, bf16, Quantizer::Ocp, (tiles, after));
        check_quantized::<Fp8Block128>(&device, bf16, Quantizer::Amax, (rows, after));
        if device.caps().has(Isa::MmaBlockScaled) {
            let (mxfp8, mxfp4) = (Blocks(Format::Mxfp8E4M3), Blocks(Format::Mxfp4));
            let within = "d quantised with it";
            check_quantized::<Mxfp8>(&device, mxfp8, Quantizer::Ocp, (tiles, within));
            check_quantized::<Mxfp8>(&device, mxfp4, Quantizer::OcpCeil, (rows, within));
            check_quantized::<Mxfp4>(&device, mxfp8, Quantizer::Amax, (tiles, within));
            check_quantized::<Mxfp8>(&device, mxfp8, Quantizer::Mse, (rows, after));
        }
    }
}

#[test]
fn offsets_that_are_not_those_of_groups_are_refused() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let x = Tensor::from_fn(&device, [4, 32], small).unwrap();
    let w = Tensor::<bf16, 3>::zeros(&device, [2, 8, 32]).unwrap();
    for offsets in [[0i32, 5, 4], [1, 2, 4], [0, -1, 4], [0, 2, 3]] {
        let ends = Tensor::from_host(&device, [3], &offsets).unwrap();
        // The GPU finds out: whoever waits for the result is told.
        let y = x.grouped_gemm(&w.transpose(1, 2).unwrap(), &ends).run::<f32>().unwrap();
        let error = y.to_vec().unwrap_err();
        assert!(matches!(error, ferrocerium::Error::Value { .. }), "{offsets:?}: {error}");
        assert!(device.synchronize().is_err());
    }
}
