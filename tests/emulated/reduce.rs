//! Reductions and searches on GPUs, about where threads and blocks share them in another way.

use ferrocerium::backend::cuda::Launched;
use ferrocerium::caps::Arch;
use ferrocerium::op::{ArgReduce, Op, Reduce, Reduction};
use ferrocerium::testing::bounds::{Verdict, compare};
use ferrocerium::testing::{Config, Expected, expected};
use ferrocerium::{Device, Element, F8E4M3, Float, Tensor, bf16};

use super::emulated;
use super::tensors::Random;

fn tensor<E: Float>(device: &Device, seed: u64, shape: [usize; 3]) -> Tensor<E, 3> {
    let mut random = Random(seed);
    Tensor::from_fn(device, shape, |_| E::from_f64(random.number() / 2.0)).unwrap()
}

/// Runs an operation, and looks whether what it writes is what it is to give.
fn checked<E: Element + Into<f64>, const R: usize>(op: &Op, out: &Tensor<E, R>, seed: u64) {
    out.device().run(op).unwrap();
    let found: Vec<f64> = out.to_vec().unwrap().into_iter().map(Into::into).collect();
    let what = format!("seed {seed}, {op}");
    match &expected(op).unwrap()[0] {
        Expected::Values { values, errors } => {
            assert_eq!(found.len(), values.len(), "{what}");
            for (i, (&exact, &error)) in values.iter().zip(errors).enumerate() {
                let verdict = compare(out.dtype(), found[i], exact, error);
                let right = matches!(verdict, Verdict::Within(_));
                assert!(right, "{what}: {} at {i}, not {exact} up to {error}", found[i]);
            }
        }
        Expected::OneOf(right) => {
            for (i, right) in right.iter().enumerate() {
                assert!(right.contains(&(found[i] as i64)), "{what}: {} at {i}", found[i]);
            }
        }
    }
}

/// Runs a reduction, or all, over dimensions of which the results stay.
fn reduces<E: Float>(x: &Tensor<E, 3>, axes: &[usize], functions: &[Reduction], seed: u64) {
    let device = x.device();
    let kept: [usize; 3] =
        std::array::from_fn(|a| if axes.contains(&a) { 1 } else { x.shape()[a] });
    for &function in functions {
        let out = Tensor::<f32, 3>::zeros(device, kept).unwrap();
        let op = Op::from(Reduce::new(function, x.operand(), axes, out.operand()));
        checked(&op, &out, seed);
    }
}

/// Finds the extremes along a dimension.
fn searches<E: Float>(x: &Tensor<E, 3>, axis: usize, seed: u64) {
    let device = x.device();
    let mut shape = x.shape().to_vec();
    shape.remove(axis);
    for largest in [true, false] {
        let out = Tensor::<u32, 2>::zeros(device, [shape[0], shape[1]]).unwrap();
        let (x, axis) = (x.operand(), axis);
        let op = Op::from(ArgReduce { x, axis, largest, out: out.operand() });
        checked(&op, &out, seed);
    }
}

/// Elements of one result: about as many as a thread, a warp, a block and a part have.
const SIDE_BY_SIDE: [usize; 13] = [1, 7, 8, 9, 63, 257, 1024, 1025, 4100, 8192, 8193, 16385, 20000];

#[test]
fn elements_side_by_side_are_shared_by_lanes_blocks_and_parts() {
    let seed = Config::default().seed;
    for device in [Arch::SM90A, Arch::SM121A].into_iter().filter_map(emulated) {
        for (i, n) in SIDE_BY_SIDE.into_iter().enumerate() {
            let functions = [Reduction::ALL[i % 6], Reduction::Sum, Reduction::Mean];
            let x = tensor::<bf16>(&device, seed, [1, 3, n]);
            reduces(&x, &[2], &functions, seed);
            searches(&x, 2, seed);
            // Eight that are not aligned, and not from a multiple of 8 on.
            let x = tensor::<f32>(&device, seed, [1, 2, n + 3]).slice(2, 3..n + 3).unwrap();
            reduces(&x, &[2], &functions[..2], seed);
            searches(&x, 2, seed);
        }
        // All into one, read as they lie in memory.
        let x = tensor::<F8E4M3>(&device, seed, [5, 40, 50]).permute([2, 0, 1]).unwrap();
        reduces(&x, &[0, 1, 2], &Reduction::ALL, seed);
        // Runs of a result, whole eights or not.
        for run in [8, 16, 100] {
            let x = tensor::<f32>(&device, seed, [100, 3, run]);
            reduces(&x, &[0, 2], &Reduction::ALL, seed);
        }
    }
}

#[test]
fn columns_are_shared_by_threads_and_parts() {
    let seed = Config::default().seed;
    for device in [Arch::SM90A, Arch::SM121A].into_iter().filter_map(emulated) {
        for (i, n) in [2, 3, 15, 16, 17, 63, 64, 65, 129, 300, 1000].into_iter().enumerate() {
            for (j, columns) in [2, 3, 8, 9, 24, 256, 264].into_iter().enumerate() {
                if n * columns > 40_000 {
                    continue;
                }
                let functions = [Reduction::ALL[(i + j) % 6], Reduction::Mean];
                let x = tensor::<bf16>(&device, seed, [1, n, columns]);
                reduces(&x, &[1], &functions, seed);
                searches(&x, 1, seed);
            }
        }
        // Of several matrices, and where columns are not neighbours in memory or not aligned.
        let x = tensor::<f32>(&device, seed, [3, 70, 40]);
        reduces(&x, &[1], &Reduction::ALL, seed);
        searches(&x, 1, seed);
        let transposed = x.permute([1, 2, 0]).unwrap();
        reduces(&transposed, &[0], &Reduction::ALL, seed);
        searches(&transposed, 0, seed);
        reduces(&x.slice(2, 3..35).unwrap(), &[1], &Reduction::ALL, seed);
        reduces(&x, &[0, 1], &Reduction::ALL, seed);
        reduces(&x, &[], &Reduction::ALL, seed);
        // Repeated elements.
        let repeated = x.slice(1, 0..1).unwrap().broadcast_to([3, 200, 40]).unwrap();
        reduces(&repeated, &[1], &Reduction::ALL, seed);
        reduces(&repeated, &[2], &Reduction::ALL, seed);
    }
}

#[test]
fn a_result_has_the_same_bits_whatever_others_there_are() {
    let seed = Config::default().seed;
    let Some(device) = emulated(Arch::SM121A) else { return };
    let bits = |x: &Tensor<f32, 3>, axis: usize| {
        let sums: Tensor<f32, 2> = x.sum(&[axis]).unwrap();
        sums.to_vec().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let x = tensor::<f32>(&device, seed, [3, 2, 20000]);
    let one = x.slice(0, 1..2).unwrap().slice(1, 1..2).unwrap();
    assert_eq!(bits(&one, 2), bits(&x, 2)[3..4], "seed {seed}");
    let x = tensor::<f32>(&device, seed, [3, 200, 48]);
    let one = x.slice(0, 1..2).unwrap();
    assert_eq!(bits(&one, 1), bits(&x, 1)[48..96], "seed {seed}");
    // Not aligned.
    let two = one.slice(2, 5..7).unwrap();
    assert_eq!(bits(&two, 1), bits(&x, 1)[53..55], "seed {seed}");
}

#[test]
fn few_results_of_many_elements_keep_a_machine_busy() {
    if emulated(Arch::SM90A).is_none() {
        return;
    }
    // Blocks of the sizes alone, on whatever machine.
    let launches = |units: usize, shape: [usize; 2], axes: &[usize]| -> Vec<Launched> {
        let (device, recording) = Device::builder().recorded(Arch::SM90A, units).unwrap();
        let x = Tensor::<bf16, 2>::zeros(&device, shape).unwrap();
        let kept: [usize; 2] =
            std::array::from_fn(|a| if axes.contains(&a) { 1 } else { shape[a] });
        let out = Tensor::<f32, 2>::zeros(&device, kept).unwrap();
        let op = Op::from(Reduce::new(Reduction::Sum, x.operand(), axes, out.operand()));
        device.run(&op).unwrap();
        recording.take()
    };
    for (shape, axes, expected) in [
        ([1, 1 << 22], &[0, 1][..], [("reduce_block", 512), ("reduce_parts", 1)]),
        ([4096, 4096], &[0], [("reduce_columns_by_eights", 1024), ("reduce_parts", 512)]),
        ([1 << 16, 64], &[0], [("reduce_columns_by_eights", 256), ("reduce_parts", 8)]),
    ] {
        for units in [1, 132] {
            let found = launches(units, shape, axes);
            let found: Vec<_> =
                found.iter().map(|l| (l.entry.as_str(), l.grid.blocks as usize)).collect();
            assert_eq!(found, expected, "{shape:?}");
        }
    }
}
