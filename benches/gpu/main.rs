//! Kernels of an NVIDIA GPU side by side with cuBLASLt and PyTorch, and with what the machine can
//! do at most: `cargo bench --bench gpu --all-features [-- --device cuda:0 --json]`.
//!
//! A kernel's launches are recorded as one graph, each over operands of its own, together larger
//! than any cache; a time is that of a replay, by the wall clock from start to end of all its work,
//! over the number of launches: the median of several replays after a warm-up. Peers run as many
//! calls over as many operands, between two events of their stream. Copy bandwidth is measured in
//! the same run; what multiplies at most is what the vendor says.
//!
//! Without a GPU it runs small sizes on the emulator, which shows that all of it works: the times
//! say nothing then. What there is no peer or no limit for is left out, and the reason is printed.

mod cases;
mod cublaslt;
mod limits;
mod torch;

use ferrocerium::Device;
use ferrocerium::caps::Arch;
use serde_json::{Value, json};

use cases::{Case, cases};
use limits::Limits;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let as_json = arguments.iter().any(|arg| arg == "--json");
    let asked = arguments.iter().position(|arg| arg == "--device");
    let asked = asked.and_then(|at| arguments.get(at + 1)).map(String::as_str);
    let (device, why_emulated) = match open(asked) {
        Ok(opened) => opened,
        Err(error) => {
            if as_json {
                println!("{}", json!({"skipped": [error.to_string()]}));
            }
            eprintln!("skipped: {error}");
            return;
        }
    };
    let emulated = device.name().starts_with("emulated");
    let mut skipped: Vec<String> = why_emulated.into_iter().collect();
    let limits = Limits::of(&device, emulated, &mut skipped);
    if !as_json {
        println!("{}: {}\n{limits}\n", device.name(), device.caps());
        println!("{}", Row::HEAD);
    }
    let mut peers = Peers::find(emulated, &mut skipped);
    let mut rows = Vec::new();
    for case in cases(emulated) {
        match Row::measure(&device, &case, emulated, &limits, &mut peers) {
            Ok(row) => {
                if !as_json {
                    println!("{}", row.line());
                }
                rows.push(row);
            }
            Err(error) => skipped.push(format!("{}: {error}", case.name())),
        }
    }
    skipped.extend(peers.complaints);
    skipped.iter().for_each(|reason| eprintln!("skipped: {reason}"));
    if as_json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let result = json!({
            "device": device.name(), "caps": device.caps().to_string(), "limits": limits.json(),
            "rows": rows, "skipped": skipped,
        });
        println!("{result}");
    }
}

/// The device that was asked for, `cuda:N` or `emulated:ARCH`; else the first GPU, or the emulator
/// and why it is not a GPU.
fn open(asked: Option<&str>) -> ferrocerium::Result<(Device, Option<String>)> {
    let cuda = |number: &str| {
        let index = number.parse().map_err(|_| ferrocerium::Error::device("cuda: no number"))?;
        Device::cuda(index)
    };
    match asked.and_then(|name| name.split_once(':')) {
        Some(("cuda", number)) => Ok((cuda(number)?, None)),
        Some(("emulated", arch)) => Ok((Device::builder().emulated_discrete(arch.parse()?)?, None)),
        _ => match Device::cuda(0) {
            Ok(device) => Ok((device, None)),
            Err(error) => {
                let device = Device::builder().emulated_discrete(Arch::SM90A)?;
                Ok((device, Some(format!("everything on a GPU: {error}"))))
            }
        },
    }
}

/// The peers that are there.
struct Peers {
    cublaslt: Option<cublaslt::CublasLt>,
    torch: bool,
    complaints: Vec<String>,
}

impl Peers {
    fn find(emulated: bool, skipped: &mut Vec<String>) -> Self {
        let complaints = Vec::new();
        if emulated {
            skipped.push("cuBLASLt and PyTorch, which need a GPU".to_owned());
            return Peers { cublaslt: None, torch: false, complaints };
        }
        let cublaslt = cublaslt::CublasLt::open();
        let cublaslt = cublaslt.map_err(|e| skipped.push(format!("cuBLASLt: {e}"))).ok();
        let torch = torch::find().map_err(|e| skipped.push(format!("PyTorch: {e}"))).is_ok();
        Peers { cublaslt, torch, complaints }
    }

    /// The fastest peer's name and seconds for a case that peers have.
    fn measure(&mut self, case: &Case) -> Option<(&'static str, f64)> {
        let mut found = Vec::new();
        let mut note = |name, result: Result<f64, String>| match result {
            Ok(seconds) => found.push((name, seconds)),
            Err(error) => self.complaints.push(format!("{name}, {}: {error}", case.name())),
        };
        if let (Some(cublaslt), Some((sizes, fp8))) = (&self.cublaslt, case.plain_product()) {
            note("cuBLASLt", cublaslt.seconds(sizes, fp8, case.copies()));
        }
        if let (true, Some(question)) = (self.torch, case.for_torch()) {
            note("PyTorch", torch::seconds(&question));
        }
        found.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// What was measured of a case.
struct Row {
    name: String,
    kernels: String,
    seconds: f64,
    flops: f64,
    bytes: f64,
    /// The least seconds that the machine's limits allow, where they are known.
    floor: Option<f64>,
    peer: Option<(&'static str, f64)>,
}

impl Row {
    const HEAD: &str = "\
        case                                            ms    TFLOP/s       GB/s  of limit   vs peer  kernel";

    fn measure(
        device: &Device,
        case: &Case,
        emulated: bool,
        limits: &Limits,
        peers: &mut Peers,
    ) -> ferrocerium::Result<Self> {
        let replays = if emulated { 1 } else { 9 };
        let (seconds, kernels) = case.seconds(device, replays)?;
        let (flops, bytes) = (case.flops(), case.bytes());
        let floor = limits.floor(flops, bytes, case.multiplied_bits());
        let peer = peers.measure(case);
        Ok(Row { name: case.name(), kernels, seconds, flops, bytes, floor, peer })
    }

    fn line(&self) -> String {
        let percent = self.floor.map(|floor| format!("{:.0}%", 100.0 * floor / self.seconds));
        let ratio = self.peer.map(|(_, peer)| format!("{:.2}×", peer / self.seconds));
        format!(
            "{:<42} {:>9.4} {:>10.1} {:>10.1} {:>9} {:>9}  {}",
            self.name,
            self.seconds * 1e3,
            self.flops / self.seconds / 1e12,
            self.bytes / self.seconds / 1e9,
            percent.as_deref().unwrap_or("-"),
            ratio.as_deref().unwrap_or("-"),
            self.kernels,
        )
    }

    fn json(&self) -> Value {
        json!({
            "case": self.name, "kernels": self.kernels, "seconds": self.seconds,
            "flops": self.flops, "bytes": self.bytes,
            "share_of_limit": self.floor.map(|floor| floor / self.seconds),
            "peer": self.peer.map(|(name, _)| name),
            "peer_seconds": self.peer.map(|(_, seconds)| seconds),
        })
    }
}
