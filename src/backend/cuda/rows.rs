//! Kernels over elements, most of them row by row: what they share.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, sizes_fit};
use super::driver::Grid;
use super::gpu::{Call, Gpu, Program};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::op::{Dims, MAX_RANK, Op, OpKind, Operand, Use, collapse};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// Threads of a block where a source does not say otherwise, as in `rows.cuh`.
pub(super) const THREADS: u32 = 128;

/// Elements that a thread reads and writes together.
pub(super) const EIGHT: usize = 8;

/// `RowSizes`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RowSizes([i32; MAX_RANK - 1]);

/// An array's rows: its last dimension, at each place of the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    dims: Dims,
    /// Sizes before the last, 1 where there are fewer.
    pub sizes: RowSizes,
    /// The last size.
    pub n: i32,
    /// How many rows there are.
    pub count: usize,
    /// How many blocks share a row, each with eight elements a thread.
    pub pieces: i32,
}

impl Rows {
    /// The rows of sizes that [`RowKernel`]s were asked to support.
    pub fn of(dims: Dims) -> Self {
        let mut sizes = [1; MAX_RANK - 1];
        let leading = dims.leading(1);
        let free = sizes.len() - leading.len();
        for (size, &d) in sizes[free..].iter_mut().zip(leading) {
            // Checked by `supports`.
            *size = d as i32;
        }
        let n = dims.last().copied().unwrap_or(1);
        let pieces = n.div_ceil(EIGHT * THREADS as usize) as i32;
        let count = leading.iter().product();
        Rows { dims, sizes: RowSizes(sizes), n: n as i32, count, pieces }
    }

    /// Blocks for all pieces of all rows.
    pub fn blocks(&self) -> usize {
        self.count.saturating_mul(self.pieces as usize)
    }
}

/// A kernel as data.
#[derive(Clone, Copy)]
pub(super) struct RowKernel {
    pub name: &'static str,
    pub summary: &'static str,
    pub op: OpKind,
    pub supports: fn(&Op, &Caps) -> Result<(), Unsupported>,
    /// Binds the operands and runs it; some output has elements.
    pub launch: fn(&Op, &mut Run<'_, '_, '_>) -> Result<()>,
}

/// One run of a kernel.
pub(super) struct Run<'c, 's, 'a> {
    pub call: &'c mut Call<'s, 'a>,
}

impl Run<'_, '_, '_> {
    pub fn read(
        &mut self,
        arg: &'static str,
        operand: Option<&Operand>,
        rows: &Rows,
    ) -> Result<Matrix> {
        Matrix::bind_opt(self.call, arg, operand, Access::Read, &rows.dims)
    }

    pub fn write(
        &mut self,
        arg: &'static str,
        operand: Option<&Operand>,
        rows: &Rows,
    ) -> Result<Matrix> {
        Matrix::bind_opt(self.call, arg, operand, Access::Write, &rows.dims)
    }

    /// Integers, likewise.
    pub fn indices(
        &mut self,
        arg: &'static str,
        operand: &Operand,
        access: Access,
        rows: &Rows,
    ) -> Result<Matrix> {
        Matrix::bind_indices(self.call, arg, operand, access, &rows.dims)
    }

    /// Runs blocks of [`THREADS`].
    pub fn run(
        &mut self,
        program: &Program,
        entry: &str,
        blocks: usize,
        args: &impl Pod,
    ) -> Result<()> {
        self.run_threads(program, entry, blocks, [THREADS, 0], args)
    }

    /// Runs blocks of so many threads and so much dynamic shared memory.
    pub fn run_threads(
        &mut self,
        program: &Program,
        entry: &str,
        blocks: usize,
        [threads, shared_memory]: [u32; 2],
        args: &impl Pod,
    ) -> Result<()> {
        // What a grid can hold; the launch refuses more.
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        let grid = Grid { blocks, threads, shared_memory };
        self.call.run(program, entry, grid, bytemuck::bytes_of(args))
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
        op.operands().into_iter().try_for_each(|Use { operand, .. }| {
            let dims = operand.dims();
            let rows = dims.leading(1).iter().fold(1, |n: usize, &d| n.saturating_mul(d));
            sizes_fit(&[rows, dims.last().copied().unwrap_or(1)])
        })
    }

    fn cost(&self, op: &Op, _caps: &Caps) -> Cost {
        // Elements of 4 bytes at what GB10 reads.
        const ELEMENTS_PER_SECOND: f64 = 230e9 / 4.0;
        Cost { seconds: op.work() / ELEMENTS_PER_SECOND }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let written = |u: &Use<'_>| u.access == Access::Write;
        let mut outputs = launch.op.operands().into_iter().filter(written);
        if outputs.all(|output| output.operand.dims().contains(&0)) {
            return Ok(());
        }
        let mut call = self.gpu.call(&self.info.name, launch);
        let mut run = Run { call: &mut call };
        (self.kernel.launch)(launch.op, &mut run)?;
        call.finish()
    }
}

/// Operands of an elementwise walk with rows as long as they can be, and be counted.
pub(super) fn in_long_rows(out: &Operand, inputs: &[&Operand]) -> (Operand, Vec<Operand>) {
    let collapsed = collapse(out, inputs);
    if sizes_fit(&collapsed.0.dims()).is_ok() {
        return collapsed;
    }
    (out.clone(), inputs.iter().map(|&input| input.clone()).collect())
}

/// An operation that is not the one that its kernel registered for.
pub(super) fn other_op(name: &str) -> Error {
    Error::kernel(name, "it was asked for another operation than it registered for")
}
