//! Lines of f32 and back: norms, softmax, functions, casts and quantisation, against the memory
//! they move: `cargo bench --bench convert [-- --json]`.
//!
//! Medians after a warm-up, on normal random values, all cores, on tensors larger than the
//! second-level cache. The limit is reading memory on all cores, measured in the same run: writes
//! read first, so that most rows can not reach it. The peer for casts is the `half` crate's bulk
//! conversion, on one thread.

mod common;

use common::{Limits, Report, median, random, timed};
use ferrocerium::format::{Fp8PerRow, Mxfp4, Mxfp8, Nvfp4};
use ferrocerium::op::{
    Activation, ArgReduce, Convert, Elementwise, Function, Norm, NormKind, Op, Operand, Positions,
    Reduce, Reduction, Rope, RopeFrequencies, RopeScaling, RopeStyle, Softmax, TopK,
};
use ferrocerium::{Device, F8E4M3, F8E5M2, Tensor, bf16, f16};
use half::slice::HalfFloatSliceExt;
use serde_json::json;

const ROWS: usize = 2048;
const COLS: usize = 4096;

fn main() {
    let device = Device::cpu();
    let limits = Limits::measure(device.caps().units);
    let header = format!(
        "{:<24} {:>10} {:>9} {:>9} {:>9}",
        "[2048, 4096]", "ms", "GB/s", "of limit", "vs peer"
    );
    let mut report = Report::new(&device, &[&limits], &header);
    measure_all(&device, |name, bytes, seconds, peer| {
        let share = bytes / seconds / limits.bytes;
        let ratio = peer.map_or(String::new(), |peer| format!("{:>8.2}×", peer / seconds));
        let line = format!(
            "{name:<24} {:>10.3} {:>9.2} {:>8.0}% {ratio}",
            seconds * 1e3,
            bytes / seconds / 1e9,
            100.0 * share
        );
        let json = json!({
            "what": name, "bytes": bytes, "seconds": seconds, "share_of_limit": share,
            "peer_seconds": peer,
        });
        report.row(&line, json);
    });
    report.finish();
}

fn measure_all(device: &Device, mut row: impl FnMut(&str, f64, f64, Option<f64>)) {
    let n = (ROWS * COLS) as f64;
    let x = random(device, [ROWS, COLS]);
    let y = random(device, [ROWS, COLS]);
    let weight = random(device, [COLS]);
    let out = Tensor::<f32, 2>::zeros(device, [ROWS, COLS]).expect("memory");
    let run = |op: Op| median(|| timed(|| device.run(&op).expect("sizes fit")));

    let mut op = Norm::new(NormKind::Rms, x.operand(), out.operand(), 1e-5);
    op.weight = Some(weight.operand());
    row("rms_norm f32", 8.0 * n, run(op.into()), None);
    row("softmax f32", 8.0 * n, run(Softmax::new(x.operand(), out.operand()).into()), None);
    let heads = |x: &Tensor<f32, 2>| x.reshape([1, ROWS, COLS / 64, 64]).expect("fits").operand();
    let op = Rope {
        x: heads(&x),
        positions: Positions::From(7),
        style: RopeStyle::HalfSplit,
        frequencies: RopeFrequencies::new(10_000.0, 64, &RopeScaling::None).expect("valid"),
        out: heads(&out),
    };
    row("rope f32", 8.0 * n, run(op.into()), None);
    let mut binary = |name: &str, function| {
        let op = Elementwise::binary(function, x.operand(), y.operand(), out.operand());
        row(name, 12.0 * n, run(op.into()), None);
    };
    binary("add f32", Function::Add);
    binary("silu_mul f32", Function::Gate(Activation::SwiGlu));
    let mut unary = |name: &str, function| {
        let op = Elementwise::unary(function, x.operand(), out.operand());
        row(name, 8.0 * n, run(op.into()), None);
    };
    unary("gelu f32", Function::Activation(Activation::Gelu));
    unary("tanh f32", Function::Tanh);

    let x16 = x.cast::<bf16>().expect("a cast");
    let h16 = x.cast::<f16>().expect("a cast");
    let x8 = x.cast::<F8E4M3>().expect("a cast");
    let y8 = x.cast::<F8E5M2>().expect("a cast");
    let host = x.to_vec().expect("host");
    let mut peer_bf16 = vec![bf16::ZERO; host.len()];
    let mut peer_f16 = vec![f16::ZERO; host.len()];
    let mut peer_f32 = vec![0.0f32; host.len()];
    let to_bf16 = median(|| timed(|| peer_bf16.convert_from_f32_slice(&host)));
    let to_f16 = median(|| timed(|| peer_f16.convert_from_f32_slice(&host)));
    let from_bf16 = median(|| timed(|| peer_bf16.convert_to_f32_slice(&mut peer_f32)));
    let from_f16 = median(|| timed(|| peer_f16.convert_to_f32_slice(&mut peer_f32)));
    let convert = |src: Operand, dst: Operand| run(Convert::new(src, dst).into());
    row("f32 to bf16", 6.0 * n, convert(x.operand(), x16.operand()), Some(to_bf16));
    row("f32 to f16", 6.0 * n, convert(x.operand(), h16.operand()), Some(to_f16));
    row("f32 to e4m3", 5.0 * n, convert(x.operand(), x8.operand()), None);
    row("f32 to e5m2", 5.0 * n, convert(x.operand(), y8.operand()), None);
    row("bf16 to f32", 6.0 * n, convert(x16.operand(), out.operand()), Some(from_bf16));
    row("f16 to f32", 6.0 * n, convert(h16.operand(), out.operand()), Some(from_f16));
    row("e4m3 to f32", 5.0 * n, convert(x8.operand(), out.operand()), None);

    let x4 = x.quantize::<Nvfp4>().expect("finite values");
    let m4 = x.quantize::<Mxfp4>().expect("finite values");
    let m8 = x.quantize::<Mxfp8>().expect("finite values");
    let r8 = x.quantize::<Fp8PerRow>().expect("finite values");
    row("f32 to nvfp4", 4.5625 * n, convert(x.operand(), x4.operand()), None);
    row("f32 to mxfp4", 4.53125 * n, convert(x.operand(), m4.operand()), None);
    row("f32 to mxfp8", 5.03125 * n, convert(x.operand(), m8.operand()), None);
    row("f32 to fp8row", 5.0 * n, convert(x.operand(), r8.operand()), None);
    row("nvfp4 to f32", 4.5625 * n, convert(x4.operand(), out.operand()), None);
    row("nvfp4 to bf16", 2.5625 * n, convert(x4.operand(), x16.operand()), None);

    row("copy f32", 8.0 * n, convert(x.operand(), out.operand()), None);
    let turned = Tensor::<f32, 2>::zeros(device, [COLS, ROWS]).expect("memory");
    row("transpose f32", 8.0 * n, convert(x.t().operand(), turned.operand()), None);
    let mut sum = |name: &str, axis: usize, len: usize| {
        let out = Tensor::<f32, 1>::zeros(device, [len]).expect("memory");
        let op = Reduce::new(Reduction::Sum, x.operand(), vec![axis], out.operand());
        row(name, 4.0 * n, run(op.into()), None);
    };
    sum("sums of rows f32", 1, ROWS);
    sum("sums of columns f32", 0, COLS);
    let found = Tensor::<u32, 1>::zeros(device, [ROWS]).expect("memory");
    row("argmax f32", 4.0 * n, run(ArgReduce::max(x.operand(), 1, found.operand()).into()), None);
    let values = Tensor::<f32, 2>::zeros(device, [ROWS, 40]).expect("memory");
    let indices = Tensor::<u32, 2>::zeros(device, [ROWS, 40]).expect("memory");
    let op = TopK::new(x.operand(), values.operand(), indices.operand());
    row("top 40 f32", 4.0 * n, run(op.into()), None);
}
