//! Kernels that run a block of threads for each row of an operand: what they share.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, sizes_fit};
use super::driver::Grid;
use super::gpu::{Call, Gpu, Program};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::op::{Dims, MAX_RANK, Op, OpKind, Operand};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// Threads of a block, as in `rows.cuh`.
const THREADS: u32 = 128;

/// `RowSizes`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RowSizes([i32; MAX_RANK - 1]);

/// A kernel of rows, as data.
#[derive(Clone, Copy)]
pub(super) struct RowKernel {
    pub name: &'static str,
    pub summary: &'static str,
    pub op: OpKind,
    /// The kernel in the source.
    pub entry: &'static str,
    pub program: fn() -> Program,
    /// The operand whose rows they are.
    pub rows: fn(&Op) -> Option<&Operand>,
    pub supports: fn(&Op, &Caps) -> Result<(), Unsupported>,
    /// Binds the operands: the bytes of the kernel's parameter.
    pub bind: fn(&Op, &mut Rows<'_, '_, '_>) -> Result<Vec<u8>>,
}

/// The rows of an operation, and its operands being bound.
pub(super) struct Rows<'c, 's, 'a> {
    call: &'c mut Call<'s, 'a>,
    dims: Dims,
    /// Sizes before the last, 1 where there are fewer.
    pub sizes: RowSizes,
    /// The last size.
    pub n: i32,
}

impl Rows<'_, '_, '_> {
    pub fn read(&mut self, arg: &'static str, operand: Option<&Operand>) -> Result<Matrix> {
        Matrix::bind_opt(self.call, arg, operand, Access::Read, &self.dims)
    }

    pub fn write(&mut self, arg: &'static str, operand: Option<&Operand>) -> Result<Matrix> {
        Matrix::bind_opt(self.call, arg, operand, Access::Write, &self.dims)
    }
}

/// A [`RowKernel`] of one GPU.
pub(super) struct Registered {
    info: KernelInfo,
    kernel: RowKernel,
    gpu: Arc<Gpu>,
}

impl Registered {
    pub fn new(kernel: RowKernel, gpu: Arc<Gpu>) -> Self {
        Registered { info: KernelInfo::new(kernel.name, kernel.op, kernel.summary), kernel, gpu }
    }

    fn dims(&self, op: &Op) -> Result<Dims, Unsupported> {
        let rows = (self.kernel.rows)(op);
        let reason = || Unsupported(format!("not a {}", self.kernel.op.name()));
        rows.map(Operand::dims).ok_or_else(reason)
    }
}

impl Kernel for Registered {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        if caps.target.arch().is_none() {
            return Err(Unsupported::because("runs on GPUs"));
        }
        (self.kernel.supports)(op, caps)?;
        let dims = self.dims(op)?;
        let rows = dims.leading(1).iter().fold(1, |n: usize, &d| n.saturating_mul(d));
        sizes_fit(&[rows, dims.last().copied().unwrap_or(1)])
    }

    fn cost(&self, op: &Op, _caps: &Caps) -> Cost {
        // Elements of 4 bytes at what GB10 reads.
        const ELEMENTS_PER_SECOND: f64 = 230e9 / 4.0;
        Cost { seconds: op.work() / ELEMENTS_PER_SECOND }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let op = launch.op;
        let dims = self.dims(op).map_err(|u| Error::kernel(&self.info.name, u.0))?;
        if dims.contains(&0) {
            return Ok(());
        }
        let mut sizes = [1; MAX_RANK - 1];
        let leading = dims.leading(1);
        let free = sizes.len() - leading.len();
        for (size, &d) in sizes[free..].iter_mut().zip(leading) {
            // Checked by `supports`.
            *size = d as i32;
        }
        let blocks = leading.iter().product::<usize>() as u32;
        let mut call = self.gpu.call(&self.info.name, launch);
        let n = dims.last().map_or(1, |&n| n as i32);
        let mut rows = Rows { call: &mut call, dims, sizes: RowSizes(sizes), n };
        let args = (self.kernel.bind)(op, &mut rows)?;
        let module = self.gpu.module(&(self.kernel.program)())?;
        let grid = Grid { blocks, threads: THREADS, shared_memory: 0 };
        call.run(module, self.kernel.entry, grid, &args)?;
        call.finish()
    }
}
