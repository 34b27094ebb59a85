//! A kernel of your own, from outside the crate: registered, explained, forced, disabled,
//! replaced, and checked by the suite that every kernel of the crate goes through.
//!
//! ```sh
//! cargo run --example custom_kernel --features testing
//! ```

use ferrocerium::caps::{Caps, Target};
use ferrocerium::op::{Gather, Op, OpKind, Operand};
use ferrocerium::registry::{Cost, Kernel, KernelInfo, Launch, Request, Unsupported};
use ferrocerium::{Device, Result, Tensor};

/// Rows of a table, moved as bytes: of any element type, since none is looked at.
struct CopyRows(KernelInfo);

impl CopyRows {
    fn new(summary: &str) -> Self {
        CopyRows(KernelInfo::new("mine.gather.copy_rows", OpKind::Gather, summary))
    }
}

/// The number of rows of a contiguous matrix and the bytes of each, where it is one.
fn rows(operand: &Operand) -> Option<(usize, usize)> {
    match operand {
        Operand::Dense(dense) if dense.is_contiguous() => match dense.dims[..] {
            [rows, width] => Some((rows, width * dense.dtype.size())),
            _ => None,
        },
        _ => None,
    }
}

/// What the kernel runs, or why it does not: decided here once, for `supports` and `launch`.
fn as_rows(op: &Op) -> Result<(&Gather, usize, usize), Unsupported> {
    let Op::Gather(op) = op else { return Err(Unsupported::because("it is no gather")) };
    if op.axis != 0 || op.table.dtype() != op.out.dtype() {
        return Err(Unsupported::because("it moves whole rows, and converts nothing"));
    }
    match (rows(&op.table), rows(&op.out)) {
        (Some((size, bytes)), Some(_)) => Ok((op, size, bytes)),
        _ => Err(Unsupported::because("table and out must be contiguous matrices of elements")),
    }
}

impl Kernel for CopyRows {
    fn info(&self) -> &KernelInfo {
        &self.0
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        if caps.target != Target::Cpu {
            return Err(Unsupported::because("it runs on CPUs"));
        }
        as_rows(op).map(|_| ())
    }

    fn cost(&self, op: &Op, _caps: &Caps) -> Cost {
        // Each byte is read and written once, at the speed of main memory. Measure yours.
        let bytes = as_rows(op).map_or(0.0, |(op, _, row)| op.out.dims()[0] as f64 * row as f64);
        Cost::roofline(0.0, 1.0, 2.0 * bytes, 20e9)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let refuse = |why: Unsupported| ferrocerium::Error::kernel(&self.0.name, why.0);
        let (op, size, row) = as_rows(launch.op).map_err(refuse)?;
        let indices = launch.read_indices(&op.indices)?;
        // A contiguous operand of elements has one region of memory.
        let (Some(table), Some(out)) = (op.table.regions().next(), op.out.regions().next()) else {
            return Ok(());
        };
        let (table, out) = (launch.read(table)?, launch.write(out)?);
        for (position, index) in indices.into_iter().enumerate() {
            // An index out of range is an error of the caller's data.
            let at = op.check_index(position, index, size)?;
            out[position * row..][..row].copy_from_slice(&table[at * row..][..row]);
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let device = Device::best()?;
    let table = Tensor::from_fn(&device, [1000, 64], |[i, j]| (i * 64 + j) as f32)?;
    let ids = Tensor::from_vec(&device, vec![7u32, 0, 999])?;
    let embed = || -> Result<f32> {
        let rows: Tensor<f32, 2> = table.embed(&ids)?;
        rows.host().map(|rows| rows[[2, 63]])
    };
    let spec =
        Op::Gather(Gather::new(table.operand(), ids.operand(), table.slice(0, 0..3)?.operand()));

    // From here on, operations of this device choose it where it is the cheapest.
    device.registry().register(CopyRows::new("moves whole rows as bytes"))?;
    println!("{}\n", device.explain(&spec)?);
    assert_eq!(embed()?, 63_999.0);
    assert_eq!(device.launches()["mine.gather.copy_rows"], 1);

    // Another one by force: by call, or for a whole program by FERROCERIUM_KERNEL=reference.gather.
    let forced = device.with_request(Request::kernel("reference.gather"));
    println!("{}\n", forced.explain(&spec)?);

    // Out of the way for all, and back.
    device.registry().disable("mine.gather.copy_rows")?;
    println!("{}\n", device.explain(&spec)?);
    device.registry().enable("mine.gather.copy_rows")?;

    // A better version under the same name; the crate's own kernels can be replaced likewise.
    device.registry().replace(CopyRows::new("moves whole rows as bytes, second version"))?;
    let ours = device.registry().list().into_iter().find(|k| k.name.starts_with("mine."));
    println!("{}", ours.map_or_else(String::new, |k| format!("{}: {}", k.name, k.summary)));

    // Random operations, against the reference: what a kernel must pass before it is trusted.
    #[cfg(feature = "testing")]
    {
        use ferrocerium::testing::{Config, conformance};
        let report = conformance(&device, |k| k.name.starts_with("mine."), &Config::default());
        println!("{report}");
        assert!(report.passed());
    }
    Ok(())
}
