//! Kernels of one's own, right and wrong.

use std::sync::Arc;

use ferrocerium::backend::cuda::{Gpu, Grid, Program};
use ferrocerium::caps::{Arch, Caps};
use ferrocerium::op::{Op, OpKind};
use ferrocerium::registry::{Cost, Kernel, KernelInfo, Launch, Request, Unsupported};
use ferrocerium::{DType, Device, Tensor};

use super::emulated;

/// A kernel of one's own: doubles f32 values, one block of threads more than there are values for
/// when `broken`.
struct Double {
    info: KernelInfo,
    gpu: Arc<Gpu>,
    broken: bool,
}

const DOUBLE: &str = r#"
struct Args { float* to; const float* from; };

extern "C" __global__ void twice(const __grid_constant__ Args args) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    args.to[i] = 2.0f * args.from[i];
}
"#;

impl Kernel for Double {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, op: &Op, _caps: &Caps) -> Result<(), Unsupported> {
        let fits = |dtype: Option<DType>| dtype == Some(DType::F32);
        match op {
            Op::Convert(op) if fits(op.src.dtype()) && fits(op.dst.dtype()) => Ok(()),
            _ => Err(Unsupported::because("doubles f32")),
        }
    }

    fn cost(&self, _op: &Op, _caps: &Caps) -> Cost {
        Cost { seconds: 0.0 }
    }

    fn launch(&self, launch: &Launch<'_>) -> ferrocerium::Result<()> {
        let Op::Convert(op) = launch.op else { panic!("{}", launch.op) };
        let program = Program { name: "double.cu", source: DOUBLE, defines: Vec::new() };
        let mut call = self.gpu.call("test.double", launch);
        let to = call.output(op.dst.regions().next().unwrap())?;
        let from = call.input(op.src.regions().next().unwrap())?;
        let blocks = op.dst.dims().numel()? as u32 / 32 + u32::from(self.broken);
        let args = [to.to_le_bytes(), from.to_le_bytes()].concat();
        call.run(&program, "twice", Grid { blocks, threads: 32, shared_memory: 0 }, &args)?;
        call.finish()
    }
}

/// Gives a device that kernel, `test.double`, for a GPU.
fn add_double(device: &Device, gpu: Arc<Gpu>, broken: bool) {
    let info = KernelInfo::new("test.double", OpKind::Convert, "doubles");
    device.registry().register(Double { info, gpu, broken }).unwrap();
}

/// A device with that kernel, which is of another GPU.
pub fn with_double(broken: bool) -> Option<Device> {
    let device = emulated(Arch::SM121A)?;
    add_double(&device, Gpu::emulated(Arch::SM121A, 1).unwrap(), broken);
    Some(device)
}

/// What 64 values are, doubled by that kernel.
pub fn doubled(device: &Device) -> ferrocerium::Result<Vec<f32>> {
    let device = device.with_request(Request::kernel("test.double"));
    let x = Tensor::from_fn(&device, [64], |[i]| i as f32).unwrap();
    x.cast::<f32>().and_then(|y| y.to_vec())
}

/// The kernel does what it is meant to on a GPU.
pub fn check(device: &Device) {
    add_double(device, device.gpu().unwrap(), false);
    let expected: Vec<_> = (0..64).map(|i| 2.0 * i as f32).collect();
    assert_eq!(doubled(device).unwrap(), expected);
}

#[test]
fn a_kernel_of_one_s_own_runs() {
    if let Some(device) = emulated(Arch::SM121A) {
        check(&device);
    }
}

#[test]
fn what_a_kernel_does_wrong_is_an_error_with_kernel_line_block_and_thread() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    add_double(&device, device.gpu().unwrap(), true);
    let of_another = with_double(true).unwrap();
    for error in [&device, &of_another].map(|device| doubled(device).unwrap_err().to_string()) {
        for part in ["test.double", "`twice`", "double.cu:6", "block (2, 0, 0)", "thread (0, 0, 0)"]
        {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        assert!(error.contains("read of 4 bytes") && error.contains("outside"), "{error}");
    }
}
