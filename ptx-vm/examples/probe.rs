//! The same kernels on the emulator and on a GPU, compared bit for bit.
//!
//! `cargo run --release -p ptx-vm --example probe -- [--target sm_121a] [--rounds 4] [--exact]
//! [--json]`. With a CUDA driver the first GPU's own target is taken; without one, the
//! emulator's half runs alone and says so. Matrix instructions are computed in the hardware
//! arithmetic unless `--exact` is given. `FIDELITY.md` records what came out where.

#[path = "probe/cases.rs"]
mod cases;
#[path = "probe/driver.rs"]
mod driver;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::process::ExitCode;

use driver::Gpu;
use ptx_vm::{Arithmetic, Error};

/// What became of one case.
enum Outcome {
    /// The target does not have the instruction.
    Absent,
    /// The emulator ran it; there is no GPU.
    Alone,
    Equal,
    /// Values that differ, and the largest difference as integers.
    Different {
        values: usize,
        of: usize,
        most: u64,
    },
    Failed(String),
}

/// Compares values of `unit` bytes; floats of one sign differ by units in the last place.
fn compare(ours: &[u8], theirs: &[u8], unit: usize) -> Outcome {
    let value = |c: &[u8]| {
        let v = c.iter().rev().fold(0i64, |v, b| v << 8 | i64::from(*b));
        let sign = 1i64 << (8 * unit - 1);
        if v & sign != 0 { -(v & (sign - 1)) } else { v }
    };
    let mut differences = ours
        .chunks(unit)
        .zip(theirs.chunks(unit))
        .filter(|(a, b)| a != b)
        .map(|(a, b)| value(a).abs_diff(value(b)));
    match differences.next() {
        None => Outcome::Equal,
        Some(first) => {
            let (count, most) = differences.fold((1, first), |(n, most), d| (n + 1, most.max(d)));
            Outcome::Different { values: count, of: ours.len() / unit, most }
        }
    }
}

fn probe(case: &cases::Case, gpu: Option<&Gpu>, arithmetic: Arithmetic) -> Outcome {
    let ours = match case.emulate(arithmetic) {
        Ok(bytes) => bytes,
        Err(Error::IllegalForTarget { .. }) => return Outcome::Absent,
        Err(e) => return Outcome::Failed(format!("emulator: {e}")),
    };
    let Some(gpu) = gpu else { return Outcome::Alone };
    match gpu.run(&case.ptx, &case.args, case.threads, case.out) {
        Ok(theirs) => compare(&ours, &theirs, case.unit),
        Err(e) => Outcome::Failed(format!("GPU: {e}")),
    }
}

/// What the cases of one instruction came to.
#[derive(Default)]
struct Row {
    class: &'static str,
    cases: usize,
    ran: usize,
    equal: usize,
    values: usize,
    of: usize,
    most: u64,
    failure: Option<String>,
}

impl Row {
    fn add(&mut self, outcome: Outcome) {
        self.cases += 1;
        match outcome {
            Outcome::Absent => self.cases -= 1,
            Outcome::Alone => self.ran += 1,
            Outcome::Equal => {
                self.ran += 1;
                self.equal += 1;
            }
            Outcome::Different { values, of, most } => {
                self.ran += 1;
                self.values += values;
                self.of += of;
                self.most = self.most.max(most);
            }
            Outcome::Failed(e) => {
                self.failure.get_or_insert(e);
            }
        }
    }

    fn verdict(&self, gpu: bool) -> String {
        if let Some(e) = &self.failure {
            return e.lines().next().unwrap_or_default().to_string();
        }
        match (self.cases, gpu) {
            (0, _) => "not on this target".into(),
            (_, false) => "ran on the emulator".into(),
            _ if self.equal == self.ran => "equal".into(),
            _ => format!("{} of {} values differ, by at most {}", self.values, self.of, self.most),
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).map(String::as_str)
    };
    let has = |name: &str| args.iter().any(|a| a == name);
    let arithmetic = if has("--exact") { Arithmetic::Exact } else { Arithmetic::Hardware };
    let rounds = option("--rounds").and_then(|r| r.parse().ok()).unwrap_or(4);
    let gpu = Gpu::open();
    let (target, device) = match &gpu {
        Ok(g) => (
            option("--target").unwrap_or(&g.target).to_string(),
            format!("{} (driver {}.{})", g.name, g.driver / 1000, g.driver % 1000 / 10),
        ),
        Err(e) => {
            eprintln!("no GPU: {e}; only the emulator's half runs");
            (option("--target").unwrap_or("sm_121a").to_string(), "none".to_string())
        }
    };
    let mut rows: BTreeMap<(&str, String), Row> = BTreeMap::new();
    for case in cases::all(&target, rounds) {
        let outcome = probe(&case, gpu.as_ref().ok(), arithmetic);
        let row = rows.entry((case.class, case.name.clone())).or_default();
        row.class = case.class;
        row.add(outcome);
    }
    if has("--json") {
        println!(
            "{{\"device\": {device:?}, \"target\": {target:?}, \"arithmetic\": \"{arithmetic:?}\", \"rows\": ["
        );
        for (i, ((class, name), row)) in rows.iter().enumerate() {
            println!(
                "  {{\"class\": {class:?}, \"instruction\": {name:?}, \"cases\": {}, \"ran\": {}, \"equal\": {}, \"values_different\": {}, \"largest_difference\": {}, \"failure\": {}}}{}",
                row.cases,
                row.ran,
                row.equal,
                row.values,
                row.most,
                row.failure.as_ref().map_or("null".to_string(), |e| format!("{e:?}")),
                if i + 1 < rows.len() { "," } else { "" }
            );
        }
        println!("]}}");
    } else {
        println!("device: {device}; target {target}; {arithmetic:?} arithmetic");
        for ((class, name), row) in &rows {
            println!("{class:20} {:6} {name:70} {}", row.cases, row.verdict(gpu.is_ok()));
        }
    }
    let different = rows.values().any(|r| r.failure.is_some() || gpu.is_ok() && r.equal < r.ran);
    ExitCode::from(u8::from(different))
}
