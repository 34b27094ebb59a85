//! A CUDA kernel of your own, from outside the crate: compiled at its first use, run in the device's
//! streams, and checked against the reference. Without a GPU it runs on the emulator.
//!
//! ```sh
//! cargo run --example custom_gpu_kernel --features cuda,emulator,testing
//! ```

use std::sync::Arc;

use ferrocerium::backend::cuda::{Gpu, Grid, Program};
use ferrocerium::caps::{Arch, Caps};
use ferrocerium::op::{Elementwise, Function, Op, OpKind, Operand};
use ferrocerium::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};
use ferrocerium::testing::{Config, conformance};
use ferrocerium::{DType, Device, Error, Result, Tensor};

const SOURCE: &str = r#"
struct Args { float* out; const float* a; const float* b; long long n; };

extern "C" __global__ void add(const __grid_constant__ Args args) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < args.n) args.out[i] = args.a[i] + args.b[i];
}
"#;

const THREADS: usize = 256;

/// Adds f32 tensors whose elements lie one after the other.
struct Add {
    info: KernelInfo,
    gpu: Arc<Gpu>,
}

impl Add {
    fn new(gpu: Arc<Gpu>) -> Self {
        let info = KernelInfo::new("mine.elementwise.add", OpKind::Elementwise, "adds f32");
        Add { info, gpu }
    }
}

/// Its operands, or why the kernel does not take them: decided here once, for `supports` and `launch`.
fn as_sum(op: &Op) -> Result<[&Operand; 3], Unsupported> {
    let Op::Elementwise(Elementwise { function: Function::Add, a, b: Some(b), out, .. }) = op
    else {
        return Err(Unsupported::because("it adds"));
    };
    let fits = |operand: &Operand| match operand {
        Operand::Dense(dense) => dense.dtype == DType::F32 && dense.is_contiguous(),
        _ => false,
    };
    let equal = a.dims() == out.dims() && b.dims() == out.dims();
    match equal && [a, b, out].into_iter().all(fits) {
        true => Ok([a, b, out]),
        false => Err(Unsupported::because("operands must be contiguous f32 of equal sizes")),
    }
}

impl Kernel for Add {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, op: &Op, _caps: &Caps) -> Result<(), Unsupported> {
        let [.., out] = as_sum(op)?;
        let n = out.dims().numel().map_err(|error| Unsupported(error.to_string()))?;
        match u32::try_from(n.div_ceil(THREADS)) {
            Ok(blocks) if blocks < 1 << 31 => Ok(()),
            _ => Err(Unsupported::because("a grid has less than 2^31 blocks")),
        }
    }

    fn cost(&self, op: &Op, _caps: &Caps) -> Cost {
        // 12 bytes of each element, at the speed of GB10's memory. Measure yours.
        let n = as_sum(op).ok().and_then(|[.., out]| out.dims().numel().ok()).unwrap_or(0);
        Cost::roofline(0.0, 1.0, 12.0 * n as f64, 273e9)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let [a, b, out] = as_sum(launch.op).map_err(|why| Error::kernel(&self.info.name, why.0))?;
        let n = out.dims().numel()?;
        // A contiguous operand of elements has one region of memory.
        let regions = (a.regions().next(), b.regions().next(), out.regions().next());
        let (Some(a), Some(b), Some(to)) = regions else { return Ok(()) };
        // There is no grid without blocks.
        if n == 0 {
            return Ok(());
        }
        let mut call = self.gpu.call(&self.info.name, launch);
        let addresses = [call.output(to)?, call.input(a)?, call.input(b)?];
        let args: Vec<u8> =
            addresses.into_iter().chain([n as u64]).flat_map(u64::to_le_bytes).collect();
        let program = Program { name: "add.cu", source: SOURCE, defines: Vec::new() };
        let blocks = n.div_ceil(THREADS) as u32;
        let grid = Grid { blocks, threads: THREADS as u32, shared_memory: 0 };
        call.run(&program, "add", grid, &args)?;
        call.finish()
    }
}

fn main() -> Result<()> {
    let device = Device::cuda(0).or_else(|error| {
        println!("{error}\nso the emulator runs it\n");
        Device::emulated(Arch::SM121A)
    })?;
    let gpu = device.gpu().ok_or_else(|| Error::device("the device is no GPU"))?;
    device.registry().register(Add::new(gpu))?;

    let x = Tensor::from_fn(&device, [3, 100], |[i, j]| (100 * i + j) as f32)?;
    let sum = x.add(&x)?;
    assert_eq!(sum.to_vec()?[299], 598.0);
    println!("{:?}", device.launches());

    // Random operations, against the reference: what a kernel must pass before it is trusted.
    let report = conformance(&device, |k| k.name.starts_with("mine."), &Config::default());
    println!("{report}");
    assert!(report.passed());
    Ok(())
}
