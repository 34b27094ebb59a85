//! The fast CPU kernels: their error is bounded, and their results depend on nothing but the
//! operands.
#![cfg(feature = "cpu")]

use ferrocerium::caps::Isa;
use ferrocerium::format::{
    BlockFormat, Format, Fp8Group128, Fp8PerRow, Mxfp4, Mxfp8, Nvfp4, Quantizer,
};
use ferrocerium::op::{Activation, Gemm, Op};
use ferrocerium::registry::{Numerics, Request};
use ferrocerium::{AnyTensor, DType, Device, ScaledTensor, Tensor, bf16};
use proptest::prelude::*;

/// Types that weights come in.
#[derive(Clone, Copy, Debug)]
enum Weight {
    Plain(DType),
    Blocks(Format),
}

fn weights() -> impl Strategy<Value = Weight> {
    let plain = [DType::F32, DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2];
    prop_oneof![
        prop::sample::select(plain.to_vec()).prop_map(Weight::Plain),
        prop::sample::select(Format::ALL.to_vec()).prop_map(Weight::Blocks),
    ]
}

/// Sizes around vectors, tiles and panels, and none.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..6, Just(15), Just(16), Just(17), Just(24), Just(25), 40usize..80]
}

/// Sizes along k: also around interleaved groups, and of several chunks.
fn depth() -> impl Strategy<Value = usize> {
    prop_oneof![4 => size(), 1 => 120usize..140, 1 => 600usize..1400]
}

/// Values of very different magnitudes, zeros among them.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -2.0f32..2.0,
        1 => Just(0.0f32),
        1 => Just(-0.0f32),
        1 => (-60i32..10).prop_map(|e| 2f32.powi(e)),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    weight: Weight,
    b_transposed: bool,
    values: Vec<f32>,
}

fn cases() -> impl Strategy<Value = Case> {
    (size(), size(), depth(), weights(), any::<bool>(), prop::collection::vec(value(), 64..97))
        .prop_map(|(m, n, k, weight, b_transposed, values)| {
            // Blocks run along k, so the weight is stored transposed.
            let b_transposed = b_transposed || matches!(weight, Weight::Blocks(_));
            Case { m, n, k, weight, b_transposed, values }
        })
}

impl Case {
    /// A and B on a device; A has `rows` rows from row `first`.
    fn operands(&self, device: &Device, first: usize, rows: usize) -> (Tensor<f32, 2>, AnyTensor) {
        let at = |i: usize, j: usize, step: usize| {
            self.values[(i * step + j * 7 + i * j) % self.values.len()]
        };
        let a = Tensor::from_fn(device, [rows, self.k], |[i, j]| at(first + i, j, 31)).unwrap();
        let stored = if self.b_transposed { [self.n, self.k] } else { [self.k, self.n] };
        let b = Tensor::from_fn(device, stored, |[i, j]| at(i, j, 13)).unwrap();
        let b = AnyTensor::from(b);
        let b = match self.weight {
            Weight::Plain(dtype) => b.cast(dtype).unwrap(),
            Weight::Blocks(format) => b.quantize(format, Quantizer::default_for(format)).unwrap(),
        };
        (a, if self.b_transposed { b.t().unwrap() } else { b })
    }

    /// The kernels that multiply such weights.
    fn kernels(&self) -> &'static [&'static str] {
        match self.weight {
            Weight::Blocks(Format::Nvfp4 | Format::Mxfp4) => {
                &["cpu.gemm", "cpu.gemm.int8", "cpu.gemm.fp4"]
            }
            _ => &["cpu.gemm"],
        }
    }

    /// A as a kernel takes it: in a format whose rows do not depend on each other where it is FP4.
    fn activations(kernel: &str, a: Tensor<f32, 2>) -> AnyTensor {
        match kernel {
            "cpu.gemm.fp4" => AnyTensor::from(a).quantize(Format::Mxfp4, Quantizer::Ocp).unwrap(),
            _ => a.into(),
        }
    }

    fn product(&self, device: &Device, kernel: &str, first: usize, rows: usize) -> Vec<f32> {
        let (a, b) = self.operands(device, first, rows);
        let a = Self::activations(kernel, a);
        let out = Tensor::<f32, 2>::zeros(device, [rows, self.n]).unwrap();
        let op = Gemm::new(a.operand().clone(), b.operand().clone(), out.operand());
        let numerics = Numerics::NarrowedOperands;
        let forced = device.with_request(Request { numerics, ..Request::kernel(kernel) });
        forced.run(&Op::Gemm(op)).unwrap();
        out.to_vec().unwrap()
    }

    /// The exact product, the product of magnitudes, and what rounding to int8 may move it by.
    fn exact(&self, kernel: &str) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let device = Device::reference();
        let (a, b) = self.operands(&device, 0, self.m);
        let a = Self::activations(kernel, a).cast(DType::F32).unwrap();
        let a = a.tensor::<f32, 2>().unwrap().to_vec().unwrap();
        let b = b.cast(DType::F64).unwrap().tensor::<f64, 2>().unwrap().to_vec().unwrap();
        let (k, n) = (self.k, self.n);
        // Half a step of each block of 16, and a little for the rounding of the quotient.
        let mut step = vec![0.0; a.len()];
        if kernel == "cpu.gemm.int8" {
            for (a, step) in a.chunks(k.max(1)).zip(step.chunks_mut(k.max(1))) {
                for (a, step) in a.chunks(16).zip(step.chunks_mut(16)) {
                    let most = a.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    step.fill(f64::from(most / 127.0).max(2f64.powi(-100)) * 0.5001);
                }
            }
        }
        let sum = |f: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            (0..self.m * n).map(|p| (0..k).map(|l| f(p / n * k + l, l * n + p % n)).sum()).collect()
        };
        (
            sum(&|i, j| f64::from(a[i]) * b[j]),
            sum(&|i, j| (f64::from(a[i].abs()) + step[i]) * b[j].abs()),
            sum(&|i, j| step[i] * b[j].abs()),
        )
    }
}

/// Every level that this machine has, by what is allowed.
fn levels() -> [&'static [Isa]; 4] {
    const BYTES: &[Isa] = &[Isa::Avx2Fma, Isa::Avx512, Isa::Neon, Isa::NeonDot];
    const ALL: &[Isa] =
        &[Isa::Avx2Fma, Isa::Avx512, Isa::Avx512Vnni, Isa::Neon, Isa::NeonDot, Isa::NeonI8mm];
    [&[], &[Isa::Avx2Fma, Isa::Neon], BYTES, ALL]
}

/// Those with fused multiply-add: on Arm all.
fn fused() -> Vec<&'static [Isa]> {
    levels()[if cfg!(target_arch = "aarch64") { 0 } else { 1 }..].to_vec()
}

fn device(isa: &[Isa], threads: usize) -> Device {
    Device::builder().isa(isa).threads(threads).cpu().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_product_is_within_the_bound_of_its_arithmetic_at_every_level(case in cases()) {
        // Decoding a block format rounds code · scale · g to f32 once, each product and each
        // addition round at most once more: k + 1 roundings on the way of any term, and the
        // sixteen partial sums are added in 4.
        let u = f64::from(f32::EPSILON) / 2.0;
        let roundings = (case.k + 6) as f64;
        let gamma = roundings * u / (1.0 - roundings * u);
        for kernel in case.kernels() {
            let (exact, magnitude, narrowing) = case.exact(kernel);
            for isa in levels() {
                let product = case.product(&device(isa, 2), kernel, 0, case.m);
                for (p, y) in product.iter().enumerate() {
                    // Below the smallest normal number a rounding is absolute.
                    let tiny = roundings * f64::from(f32::from_bits(1));
                    let bound = gamma * magnitude[p] + narrowing[p] + tiny;
                    let error = (f64::from(*y) - exact[p]).abs();
                    let exact = exact[p];
                    prop_assert!(error <= bound, "{kernel} {isa:?}: {y} is not {exact} ± {bound}");
                }
            }
        }
    }

    #[test]
    fn a_product_does_not_depend_on_the_number_of_threads(case in cases()) {
        for (isa, kernel) in levels().iter().flat_map(|isa| case.kernels().iter().map(move |k| (isa, k))) {
            let bits = |threads| -> Vec<u32> {
                let product = case.product(&device(isa, threads), kernel, 0, case.m);
                product.into_iter().map(f32::to_bits).collect()
            };
            let one = bits(1);
            prop_assert_eq!(&one, &bits(2));
            prop_assert_eq!(&one, &bits(5));
        }
    }

    #[test]
    fn a_row_of_a_product_does_not_depend_on_the_batch(case in cases()) {
        for (isa, kernel) in levels().iter().flat_map(|isa| case.kernels().iter().map(move |k| (isa, k))) {
            let device = device(isa, 2);
            let whole = case.product(&device, kernel, 0, case.m);
            for i in 0..case.m {
                let row = case.product(&device, kernel, i, 1);
                let same = row.iter().zip(&whole[i * case.n..]).all(|(a, b)| a.to_bits() == b.to_bits());
                prop_assert!(same, "row {i} of {} by {kernel} at {isa:?}", case.m);
            }
        }
    }

    #[test]
    fn levels_with_fused_multiply_add_give_the_same_bits(case in cases()) {
        for kernel in case.kernels() {
            let bits = |isa: &[Isa]| -> Vec<u32> {
                let product = case.product(&device(isa, 1), kernel, 0, case.m);
                product.into_iter().map(f32::to_bits).collect()
            };
            let wanted = bits(fused()[0]);
            for isa in &fused()[1..] {
                prop_assert_eq!(&bits(isa), &wanted, "{} at {:?}", kernel, isa);
            }
        }
    }
}

/// Matrices of the same inputs, with largest magnitudes of their own.
#[derive(Clone, Debug)]
struct Joined {
    m: usize,
    k: usize,
    parts: Vec<(usize, f32)>,
    values: Vec<f32>,
    alpha: f32,
    biased: bool,
}

fn joined() -> impl Strategy<Value = Joined> {
    let m = prop_oneof![6 => size(), 1 => 150usize..200];
    let part = (size(), prop::sample::select(vec![1.0f32, 0.03, 700.0]));
    let parts = prop::collection::vec(part, 1..4);
    let values = prop::collection::vec(value(), 64..97);
    let alpha = prop::sample::select(vec![1.0f32, 0.3]);
    (m, depth(), parts, values, alpha, any::<bool>()).prop_map(
        |(m, k, parts, values, alpha, biased)| Joined { m, k, parts, values, alpha, biased },
    )
}

impl Joined {
    fn at(&self, i: usize, j: usize, step: usize) -> f32 {
        self.values[(i * step + j * 7 + i * j) % self.values.len()]
    }

    /// The bits of products with all parts as one matrix, and with each by itself.
    fn products<F: BlockFormat>(&self, device: &Device) -> [Vec<u32>; 2] {
        let a = Tensor::from_fn(device, [self.m, self.k], |[i, j]| self.at(i, j, 31)).unwrap();
        let matrices: Vec<ScaledTensor<F, 2>> = (0..)
            .zip(&self.parts)
            .map(|(part, &(n, size))| {
                let value = |[i, j]: [usize; 2]| size * self.at(i + part, j, 13);
                Tensor::from_fn(device, [n, self.k], value).unwrap().quantize().unwrap()
            })
            .collect();
        let product =
            |b: &ScaledTensor<F, 2>, bias: &Tensor<f32, 1>, scale: Option<&Tensor<f32, 1>>| {
                let product = a.gemm(&b.t()).alpha(self.alpha);
                let product = if self.biased { product.bias(bias) } else { product };
                match scale {
                    Some(scale) => product.column_scale(scale),
                    None => product,
                }
                .run::<f32>()
                .unwrap()
            };
        let bits = |y: &Tensor<f32, 2>| y.to_vec().unwrap().into_iter().map(f32::to_bits).collect();
        let biases = |n: usize| Tensor::from_fn(device, [n], |[j]| self.at(3, j, 5)).unwrap();
        let biases: Vec<_> = self.parts.iter().map(|&(n, _)| biases(n)).collect();
        let (all, scale) =
            ScaledTensor::concat_outer(&matrices.iter().collect::<Vec<_>>()).unwrap();
        let bias = Tensor::concat(0, &biases.iter().collect::<Vec<_>>()).unwrap();
        let each: Vec<_> =
            matrices.iter().zip(&biases).map(|(b, bias)| product(b, bias, None)).collect();
        let each = Tensor::concat(1, &each.iter().collect::<Vec<_>>()).unwrap();
        [bits(&product(&all, &bias, scale.as_ref())), bits(&each)]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn matrices_joined_by_their_rows_give_the_bits_of_each_by_itself(case in joined()) {
        for isa in levels() {
            for numerics in [Numerics::AsGiven, Numerics::NarrowedOperands] {
                let request = Request { numerics, ..Request::default() };
                let device = device(isa, 2).with_request(request);
                let products = [
                    case.products::<Nvfp4>(&device),
                    case.products::<Mxfp4>(&device),
                    case.products::<Mxfp8>(&device),
                    case.products::<Fp8PerRow>(&device),
                    case.products::<Fp8Group128>(&device),
                ];
                for [one, each] in products {
                    prop_assert_eq!(one, each, "{:?}", isa);
                }
            }
        }
    }
}

/// The product of `m` rows of 200, of which `change` may change some, with FP4, by a kernel.
fn narrowed(kernel: &str, isa: &[Isa], m: usize, change: impl Fn(usize, f32) -> f32) -> Vec<u32> {
    let device = device(isa, 1);
    let f = |[i, j]: [usize; 2]| ((i * 37 + j * 11) % 101) as f32 * 0.013 - 0.6;
    let a = Tensor::from_fn(&device, [m, 200], |[i, j]| change(i, f([i, j]))).unwrap();
    let b = Tensor::from_fn(&device, [31, 200], f).unwrap().quantize::<Nvfp4>().unwrap();
    let request = Request { numerics: Numerics::NarrowedOperands, ..Request::kernel(kernel) };
    let device = device.with_request(request);
    let y: Tensor<f32, 2> = a.on(&device).matmul(&b.on(&device).t()).unwrap();
    y.to_vec().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn integer_products_have_the_same_bits_at_levels_with_fused_multiply_add() {
    for m in [1, 2, 3, 4, 7, 30] {
        let run = |isa: &[Isa]| narrowed("cpu.gemm.int8", isa, m, |_, x| x);
        let wanted = run(fused()[0]);
        for isa in &fused()[1..] {
            assert_eq!(run(isa), wanted, "{m} rows at {isa:?}");
        }
    }
}

#[test]
fn rows_that_int8_does_not_stand_for_are_multiplied_in_f32() {
    for isa in levels() {
        let plain = narrowed("cpu.gemm.int8", isa, 6, |_, x| x);
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2f32.powi(100)] {
            for m in [1, 6] {
                let strange =
                    |i: usize, x: f32| if i.is_multiple_of(2) && x > 0.5 { value } else { x };
                let found = narrowed("cpu.gemm.int8", isa, m, strange);
                let in_f32 = narrowed("cpu.gemm", isa, m, strange);
                for (i, row) in found.chunks(31).enumerate() {
                    let due = if i.is_multiple_of(2) { &in_f32 } else { &plain };
                    assert_eq!(row, &due[31 * i..][..31], "row {i} of {m} with {value} at {isa:?}");
                }
            }
        }
    }
}

#[test]
fn work_that_is_large_enough_for_several_threads_gives_the_bits_of_one() {
    let run = |threads| {
        let device = device(&[Isa::Avx2Fma, Isa::Avx512], threads);
        let f = |[i, j]: [usize; 2]| bf16::from_f32(((i * 37 + j * 11) % 101) as f32 * 0.013 - 0.6);
        let a = Tensor::from_fn(&device, [33, 300], f).unwrap();
        let b = Tensor::from_fn(&device, [100, 300], f).unwrap();
        let y: Tensor<f32, 2> = a.gemm(&b.t()).activation(Activation::SwiGlu).run().unwrap();
        y.to_vec().unwrap()
    };
    assert_eq!(run(1), run(3));
}

/// Causal attention of some of `n` queries of a device.
fn attention(device: &Device, n: usize, rows: std::ops::Range<usize>) -> Vec<f32> {
    let (heads, kv_heads, d) = (6, 2, 20);
    let f = |salt: usize| {
        move |[_, i, h, d]: [usize; 4]| ((i * 17 + h * 5 + d * 3 + salt) % 23) as f32 * 0.1 - 1.1
    };
    let q = Tensor::from_fn(device, [1, n, heads, d], f(1)).unwrap();
    let k = Tensor::from_fn(device, [1, n, kv_heads, d], f(2)).unwrap();
    let v = Tensor::from_fn(device, [1, n, kv_heads, d], f(3)).unwrap();
    // Causal attention aligns at the end: the last queries see as much as they do in the whole.
    let (q, keys) = (q.slice(1, rows.clone()).unwrap(), 0..rows.end);
    let (k, v) = (k.slice(1, keys.clone()).unwrap(), v.slice(1, keys).unwrap());
    q.attention(&k, &v).causal().run::<f32>().unwrap().to_vec().unwrap()
}

#[test]
fn attention_of_a_query_does_not_depend_on_the_others_or_on_threads() {
    // The longer one has keys in three chunks, which are tasks of their own where a query is
    // alone.
    for (n, some) in [(70, [0, 1, 31, 32, 69]), (1200, [0, 511, 512, 1030, 1199])] {
        for isa in levels() {
            let whole = attention(&device(isa, 1), n, 0..n);
            assert_eq!(whole, attention(&device(isa, 3), n, 0..n));
            let width = whole.len() / n;
            for row in some {
                for threads in [1, 2] {
                    let alone = attention(&device(isa, threads), n, row..row + 1);
                    let same = alone == whole[row * width..(row + 1) * width];
                    assert!(same, "query {row} of {n}, {threads} threads, {isa:?}");
                }
            }
        }
    }
}

#[test]
fn attention_agrees_with_the_reference() {
    // Scores of 20 products of at most 1.21, weights that sum to 1, values of at most 1.1: a few
    // hundred roundings of numbers near 1.
    for (n, rows) in [(70, 0..70), (1200, 1190..1200)] {
        let exact = attention(&Device::reference(), n, rows.clone());
        for isa in levels() {
            let fast = attention(&device(isa, 2), n, rows.clone());
            for (fast, exact) in fast.iter().zip(&exact) {
                assert!((fast - exact).abs() < 300.0 * f32::EPSILON, "{fast} {exact} {isa:?}");
            }
        }
    }
}

#[test]
fn what_a_query_does_not_see_can_hold_anything() {
    for isa in levels() {
        let device = device(isa, 2);
        let run = |unseen: f32| -> Vec<f32> {
            let q = Tensor::from_fn(&device, [1, 3, 2, 8], |[_, i, h, d]| (i + h + d) as f32 * 0.1);
            // The third key is for the third query only.
            let k = |[_, j, _, d]: [usize; 4]| if j == 2 { unseen } else { d as f32 * 0.1 };
            let k = Tensor::from_fn(&device, [1, 3, 1, 8], k).unwrap();
            let out = q.unwrap().attention(&k, &k).causal().run::<f32>().unwrap();
            out.slice(1, 0..2).unwrap().to_vec().unwrap()
        };
        for unseen in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(run(0.0), run(unseen), "{unseen} at {isa:?}");
        }
    }
}
