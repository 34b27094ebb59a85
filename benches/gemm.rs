//! Matrix products side by side with `matrixmultiply`: `cargo bench --bench gemm [-- --json]`.
//!
//! One thread, all threads and the peer on one thread run in turn, A B C A B C; medians after a
//! warm-up, on normal random values, with outputs poisoned before each run. The smallest product
//! also runs held to each lower level of instructions. Rows "at once" are as many products as there
//! are threads, each by a thread of its own: what threads that share nothing but the machine reach
//! together. In a grouped product the rows are divided
//! unevenly over eight matrices, which the peer multiplies one after the other. The limits are
//! measured in the same run: multiply-adds of registers only, in f32 also where integers are
//! multiplied, and reading memory larger than any cache.

mod common;

use common::{
    Limits, Report, assert_written, at_once, in_turn, kind_of, poison, random, stored_as, timed,
};
use ferrocerium::caps::Isa;
use ferrocerium::op::{Gemm, GroupedGemm, Op};
use ferrocerium::{Device, Tensor};
use serde_json::json;

const CASES: [Case; 5] = [
    Case { rows: &[256], n: 256, k: 256 },
    Case { rows: &[1024], n: 1024, k: 1024 },
    Case { rows: &[2048], n: 2048, k: 2048 },
    Case { rows: &[128], n: 4096, k: 4096 },
    Case { rows: &[37, 3, 0, 16, 1, 40, 8, 23], n: 1024, k: 1024 },
];

/// Types of B, or of A × B where A is not f32; behind a `/` what A is rounded to.
const KINDS: [&str; 5] = ["f32", "bf16", "f8e4m3 × f8e4m3", "nvfp4", "nvfp4/int8"];

/// Levels of instructions; those that the machine lacks fall away, so that a level may be another
/// one's by its name.
const LOWER: [(&str, &[Isa]); 2] = [("avx2", &[Isa::Avx2Fma]), ("portable", &[])];

fn main() {
    let threads = Device::cpu().caps().units;
    let limits = [Limits::measure(1), Limits::measure(threads)];
    let header = format!(
        "{:<30} {:<15} {:<9} {:>7} {:>9} {:>9} {:>7} {:>9} {:>9}",
        "m × n × k", "B", "level", "threads", "ms", "GFLOP/s", "GB/s", "of limit", "vs peer"
    );
    let mut report = Report::new(&Device::cpu(), &limits.each_ref(), &header);
    let mut measure = |case: Case, level: &str, isa: Option<&[Isa]>| {
        let device = |threads| {
            let builder = Device::builder().threads(threads);
            isa.map_or(builder.clone(), |isa| builder.isa(isa)).cpu().expect("threads are there")
        };
        let devices = [device(1), device(threads)];
        let own: Vec<_> = (0..threads).map(|_| device(1)).collect();
        let mut peer = Peer::new(case);
        for kind in KINDS {
            let [mut one, mut all] = devices.each_ref().map(|d| Product::new(d, case, kind));
            let mut several: Vec<_> = own.iter().map(|d| Product::new(d, case, kind)).collect();
            let [a, b, c, theirs] = in_turn([
                &mut || one.run(),
                &mut || all.run(),
                &mut || at_once(&mut several, Product::run),
                &mut || peer.run(),
            ]);
            one.report(level, &limits[0], a, theirs, &mut report);
            all.report(level, &limits[1], b, theirs, &mut report);
            if level == "best" && threads > 1 {
                // Of one product, as if all threads had computed it.
                one.report("at once", &limits[1], c / threads as f64, theirs, &mut report);
            }
        }
    };
    for case in CASES {
        measure(case, "best", None);
    }
    for (level, isa) in LOWER {
        measure(CASES[0], level, Some(isa));
    }
    report.finish();
}

/// Rows times a matrix, or those of each group times its own.
#[derive(Clone, Copy)]
struct Case {
    rows: &'static [usize],
    n: usize,
    k: usize,
}

impl Case {
    fn m(self) -> usize {
        self.rows.iter().sum()
    }
}

/// A product on a device.
struct Product {
    case: Case,
    kind: &'static str,
    device: Device,
    op: Op,
    out: Tensor<f32, 2>,
    bytes: usize,
}

impl Product {
    fn new(device: &Device, case: Case, kind: &'static str) -> Self {
        let Case { rows, n, k } = case;
        let m = case.m();
        let (a_type, b_type) = kind.split_once(" × ").unwrap_or(("f32", kind));
        let (format, device) = kind_of(device, b_type);
        let device = &device;
        let a = stored_as(&random(device, [m, k]).into(), a_type);
        let out = Tensor::<f32, 2>::zeros(device, [m, n]).expect("memory");
        let (op, weight_bytes) = if let [_] = rows {
            let b = stored_as(&random(device, [n, k]).into(), format);
            let bytes = b.bytes();
            let b = b.t().expect("a matrix").operand().clone();
            (Op::from(Gemm::new(a.operand().clone(), b, out.operand())), bytes)
        } else {
            let b = stored_as(&random(device, [rows.len(), n, k]).into(), format);
            let read = rows.iter().filter(|&&rows| rows > 0).count();
            let bytes = b.bytes() / rows.len() * read;
            let ends = rows.iter().scan(0, |end, &rows| {
                *end += rows as u32;
                Some(*end)
            });
            let offsets: Vec<u32> = std::iter::once(0).chain(ends).collect();
            let offsets = Tensor::from_host(device, [offsets.len()], &offsets).expect("memory");
            let b = b.t().expect("matrices").operand().clone();
            let op = GroupedGemm::new(a.operand().clone(), b, offsets.operand(), out.operand());
            (op.into(), bytes)
        };
        let bytes = weight_bytes + a.bytes() + m * n * size_of::<f32>();
        Product { case, kind, device: device.clone(), op, out, bytes }
    }

    /// The seconds of a run.
    fn run(&mut self) -> f64 {
        poison(&self.out);
        timed(|| self.device.run(&self.op).expect("sizes fit"))
    }

    fn report(&self, level: &str, limits: &Limits, seconds: f64, peer: f64, report: &mut Report) {
        assert_written(&self.out);
        let Case { rows, n, k } = self.case;
        let (m, groups) = (self.case.m(), rows.len());
        let flops = 2.0 * (m * n * k) as f64;
        let share = limits.floor(flops, self.bytes as f64) / seconds;
        let mut name = format!("{m} × {n} × {k}");
        if groups > 1 {
            name += &format!(", {groups} groups");
        }
        let line = format!(
            "{name:<30} {:<15} {level:<9} {:>7} {:>9.3} {:>9.1} {:>7.2} {:>8.0}% {:>8.2}×",
            self.kind,
            limits.threads,
            seconds * 1e3,
            flops / seconds / 1e9,
            self.bytes as f64 / seconds / 1e9,
            100.0 * share,
            peer / seconds,
        );
        let json = json!({
            "m": m, "n": n, "k": k, "groups": groups, "b": self.kind, "level": level,
            "threads": limits.threads, "seconds": seconds, "flops": flops / seconds,
            "operations": flops, "bytes": self.bytes, "share_of_limit": share,
            "peer": "matrixmultiply f32, one thread", "peer_seconds": peer,
        });
        report.row(&line, json);
    }
}

/// The same product of f32 by `matrixmultiply`.
struct Peer {
    case: Case,
    a: Vec<f32>,
    b: Vec<f32>,
    out: Vec<f32>,
}

impl Peer {
    fn new(case: Case) -> Self {
        let device = Device::cpu();
        let host = |shape| random(&device, shape).to_vec().expect("host");
        let Case { rows, n, k } = case;
        let m = case.m();
        Peer { case, a: host([m, k]), b: host([rows.len() * n, k]), out: vec![0.0; m * n] }
    }

    /// The seconds of a run.
    fn run(&mut self) -> f64 {
        self.out.fill(f32::NAN);
        timed(|| {
            let Case { rows, n, k } = self.case;
            let mut first = 0;
            for (matrix, &m) in rows.iter().enumerate() {
                let (a, b) = (&self.a[first * k..][..m * k], &self.b[matrix * n * k..][..n * k]);
                let out = &mut self.out[first * n..][..m * n];
                let (a, b, out, row) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr(), k as isize);
                // SAFETY: the slices have m·k, n·k and m·n elements, and the strides stay inside.
                unsafe {
                    let columns = n as isize;
                    matrixmultiply::sgemm(m, k, n, 1.0, a, row, 1, b, 1, row, 0.0, out, columns, 1);
                }
                first += m;
            }
        })
    }
}
