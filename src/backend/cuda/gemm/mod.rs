//! Matrix products on tensor cores: `kernels/gemm.cu`.

mod tile;

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::args::{BATCH_RANK, Matrix, batch_sizes, sizes_fit};
use super::driver::Grid;
use super::epilogue::Epilogue;
use super::gpu::{Gpu, Program};
use crate::caps::{Caps, Isa};
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::num::DType;
use crate::op::{Gemm, Op, OpKind, Operand};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};
use tile::Tile;

/// Bytes of the chunks that are copied asynchronously.
const CHUNK: i64 = 16;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    a: Matrix,
    b: Matrix,
    epilogue: Epilogue,
    batch: [i32; BATCH_RANK],
    m: i32,
    n: i32,
    k: i32,
    reserved: i32,
}

/// `cuda.gemm`
pub(super) struct GemmKernel {
    info: KernelInfo,
    gpu: Arc<Gpu>,
}

impl GemmKernel {
    pub(super) fn new(gpu: Arc<Gpu>) -> Self {
        let summary = "mma.sync on 16-bit operands, f32 accumulation in steps of 16 along k";
        GemmKernel { info: KernelInfo::new("cuda.gemm", OpKind::Gemm, summary), gpu }
    }

    fn gemm(&self, op: &Gemm, launch: &Launch<'_>) -> Result<()> {
        let sizes = op.sizes()?;
        let d_dims = op.d.dims();
        if d_dims.contains(&0) {
            return Ok(());
        }
        let mma = Mma::of(&op.a, &op.b).map_err(|u| Error::kernel(&self.info.name, u.0))?;
        let batch = d_dims.leading(2);
        let mut call = self.gpu.call(&self.info.name, launch);
        let mut bind = |arg, operand, rows, cols| {
            let dims = [batch, &[rows, cols]].concat();
            Matrix::bind(&mut call, arg, operand, Access::Read, &dims)
        };
        let a = bind("a", &op.a, sizes.m, sizes.k)?;
        let b = bind("b", &op.b, sizes.k, sizes.n)?.transposed();
        let epilogue = Epilogue::bind(op, sizes.n, &mut call)?;

        let tile = Tile::choose(&sizes, launch.caps.units);
        let (load_a, load_b) = (Load::of(&a, sizes.k, mma), Load::of(&b, sizes.k, mma));
        let module = self.gpu.module(&program(tile, mma, load_a, load_b))?;
        let args = Args {
            a,
            b,
            epilogue,
            batch: batch_sizes(&d_dims),
            m: sizes.m as i32,
            n: sizes.n as i32,
            k: sizes.k as i32,
            reserved: 0,
        };
        let grid = Grid {
            blocks: tile.blocks(&sizes) as u32,
            threads: tile.threads(),
            shared_memory: tile.shared_memory() as u32,
        };
        call.run(module, "gemm", grid, bytemuck::bytes_of(&args))?;
        call.finish()
    }
}

/// The source for a tile, an instruction, and the ways that A and B are loaded.
fn program(tile: Tile, mma: Mma, a: Load, b: Load) -> Program {
    let mut defines = tile.defines().to_vec();
    defines.extend([("MMA", mma as u32), ("A_LOAD", a as u32), ("B_LOAD", b as u32)]);
    let source = include_str!("../../../../kernels/gemm.cu");
    Program { name: "gemm.cu", source, defines }
}

/// Every program that a machine can run.
pub(super) fn programs(caps: &Caps) -> Vec<Program> {
    let mut programs = Vec::new();
    for tile in Tile::ALL.into_iter().filter(|tile| tile.shared_memory() <= caps.shared_memory) {
        for mma in [Mma::Bf16, Mma::F16] {
            for (a, b) in
                [Load::Copy, Load::Gather].map(|a| [(a, Load::Copy), (a, Load::Gather)]).concat()
            {
                programs.push(program(tile, mma, a, b));
            }
        }
    }
    programs
}

/// How rows reach shared memory, by its number in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Chunks along k are contiguous and aligned, and copied asynchronously.
    Copy = 0,
    /// Elements lie anywhere.
    Gather = 1,
}

impl Load {
    fn of(matrix: &Matrix, k: usize, mma: Mma) -> Self {
        if matrix.has_rows(k, mma.size(), CHUNK) { Load::Copy } else { Load::Gather }
    }
}

/// The matrix instruction, by its number in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mma {
    Bf16 = 0,
    F16 = 1,
}

impl Mma {
    /// The instruction for these operands.
    fn of(a: &Operand, b: &Operand) -> Result<Self, Unsupported> {
        match (a.dtype(), b.dtype()) {
            (Some(DType::BF16), Some(DType::BF16)) => Ok(Mma::Bf16),
            (Some(DType::F16), Some(DType::F16)) => Ok(Mma::F16),
            _ => {
                Err(Unsupported(format!("multiplies bf16 or f16 with the same, not {a} with {b}")))
            }
        }
    }

    /// Bytes of an element.
    fn size(self) -> usize {
        match self {
            Mma::Bf16 | Mma::F16 => 2,
        }
    }
}

impl Kernel for GemmKernel {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        let Op::Gemm(op) = op else { return Err(Unsupported::because("not a gemm")) };
        if !caps.has(Isa::Mma) {
            return Err(Unsupported(format!("{} has no mma.sync", caps.target)));
        }
        Mma::of(&op.a, &op.b)?;
        Epilogue::supports(op, caps)?;
        let sizes = op.sizes().map_err(|e| Unsupported(e.to_string()))?;
        let tile = Tile::choose(&sizes, caps.units);
        sizes_fit(&[sizes.batch, sizes.m, sizes.n, sizes.k, tile.blocks(&sizes)])?;
        if tile.shared_memory() > caps.shared_memory {
            return Err(Unsupported(format!(
                "a tile of {tile} takes {} bytes of shared memory, a block has {}",
                tile.shared_memory(),
                caps.shared_memory
            )));
        }
        Ok(())
    }

    fn cost(&self, op: &Op, caps: &Caps) -> Cost {
        // Half of what a multiprocessor of GB10 multiplies and adds at 2.4 GHz, and what all of
        // them read: slower machines are as much slower at everything that is compared.
        const PRODUCTS_PER_SECOND: f64 = 0.6e12;
        const BYTES_PER_SECOND: f64 = 230e9;
        let Op::Gemm(gemm) = op else { return Cost { seconds: f64::INFINITY } };
        let products = gemm.sizes().map_or(0.0, |s| s.products());
        let bytes = |operand: &Operand| {
            let elements = operand.dims().iter().map(|&d| d as f64).product::<f64>();
            elements * operand.dtype().map_or(1, DType::size) as f64
        };
        let bytes = bytes(&gemm.a) + bytes(&gemm.b) + bytes(&gemm.d);
        let units = caps.units as f64;
        Cost::roofline(products, PRODUCTS_PER_SECOND * units, bytes, BYTES_PER_SECOND)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Gemm(op) => self.gemm(op, launch),
            _ => Err(Error::kernel(&self.info.name, "not a gemm")),
        }
    }
}
