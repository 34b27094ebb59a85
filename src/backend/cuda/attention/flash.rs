//! Attention on tensor cores: `kernels/flash_attention.cu` and
//! `kernels/block_scaled_attention.cu`.
//!
//! An entry for many queries and one for few, one that rounds weights, one that rounds queries and
//! weights to FP8, and two that round all that is multiplied, to MXFP8 and to NVFP4.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::key_runs::KeyRuns;
use super::plan::{FEW_ROWS, Plan, Variant};
use super::tiles::{Cut, Tiles};
use super::{Lengths, sequences};
use crate::backend::cuda::args::{Matrix, require_readable, require_writable, sizes_fit};
use crate::backend::cuda::driver::Grid;
use crate::backend::cuda::gemm::{CHUNK, Mma};
use crate::backend::cuda::gpu::Gpu;
use crate::backend::cuda::source::{Scales, Source};
use crate::caps::{Caps, Isa};
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::op::{Attention, AttentionSizes, KvLayout, Mask, Op, OpKind, Operand};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Numerics, Unsupported};

/// A distance as the kernel takes it: beyond the farthest key all are alike, and a position added
/// to it does not overflow.
fn distance(n: Option<usize>, farthest: i32) -> i32 {
    n.and_then(|n| i32::try_from(n).ok()).unwrap_or(farthest).min(farthest)
}

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    q: Matrix,
    k: Matrix,
    v: Matrix,
    sinks: Matrix,
    alibi: Matrix,
    lse: Matrix,
    out: Matrix,
    k_scales: Scales,
    v_scales: Scales,
    tiles: u64,
    joints: u64,
    runs: KeyRuns,
    parts: u64,
    lengths: Lengths,
    ahead: i32,
    window: i32,
    kv_heads: i32,
    group: i32,
    d: i32,
    d_v: i32,
    q_rows: i32,
    q_chunks: i32,
    scale: f32,
    softcap: f32,
}

/// `cuda.attention.decode`, `cuda.attention.prefill`, and `.rounded`, `.fp8`, `.mxfp8` and `.nvfp4`
/// of the latter
pub(super) struct FlashKernel {
    info: KernelInfo,
    variant: Variant,
    gpu: Arc<Gpu>,
}

impl FlashKernel {
    pub(super) fn new(variant: Variant, gpu: Arc<Gpu>) -> Self {
        let (name, summary) = match variant {
            Variant::Decode => (
                "cuda.attention.decode",
                "mma.sync on BF16 or F16, query heads of a key head together, pieces of 256 keys \
                 joined in order; FP8 and FP4 keys and values expanded exactly",
            ),
            Variant::Prefill { rounded: false } => (
                "cuda.attention.prefill",
                "mma.sync on BF16 or F16, softmax online over tiles of keys, weights split into \
                 terms that keep f32's precision; FP8 and FP4 keys and values expanded exactly",
            ),
            Variant::Prefill { rounded: true } => (
                "cuda.attention.prefill.rounded",
                "as cuda.attention.prefill, weights rounded to BF16 or F16",
            ),
            Variant::Fp8 => (
                "cuda.attention.prefill.fp8",
                "mma.sync on FP8 E4M3 keys and values, queries rounded to it in units of a scale \
                 each, weights in units of 1/256",
            ),
            Variant::BlockScaled(Mma::Mxfp8) => (
                "cuda.attention.prefill.mxfp8",
                "block-scaled mma.sync on MXFP8 E4M3, to which queries and keys are rounded in \
                 blocks along the head, weights and values in blocks of 32 keys",
            ),
            Variant::BlockScaled(_) => (
                "cuda.attention.prefill.nvfp4",
                "block-scaled mma.sync on NVFP4, to which queries and keys are rounded in blocks \
                 along the head, weights and values in blocks of 16 keys",
            ),
        };
        let mut info = KernelInfo::new(name, OpKind::Attention, summary);
        info.numerics = match variant {
            Variant::Prefill { rounded: true } => Numerics::RoundedIntermediates,
            Variant::Fp8 => Numerics::NarrowedOperands,
            Variant::BlockScaled(Mma::Mxfp8) => Numerics::EightBitOperands,
            Variant::BlockScaled(_) => Numerics::FourBitOperands,
            _ => info.numerics,
        };
        FlashKernel { info, variant, gpu }
    }

    fn attention(&self, op: &Attention, launch: &Launch<'_>) -> Result<()> {
        let sizes = op.sizes()?;
        let plan = Plan::new(self.variant, op).map_err(|u| Error::kernel(&self.info.name, u.0))?;
        let (sequences, lengths) = sequences(op, &sizes, launch)?;
        let shape = plan.shape();
        let group = sizes.heads / sizes.kv_heads.max(1);
        let work = Tiles::new(
            &sequences,
            &Cut {
                rows: shape.rows(),
                keys: shape.keys,
                split: self.variant == Variant::Decode,
                group,
                kv_rows: sizes.kv_rows,
                // Which keys are seen depends on how many there are.
                mask: if lengths.is_some() { Mask::ALL } else { op.mask },
            },
        );
        if work.tiles.is_empty() || sizes.heads == 0 {
            return Ok(());
        }
        let blocks = work.tiles.len() * sizes.kv_heads;
        let joints = work.joints.len() * sizes.kv_heads * shape.rows();
        sizes_fit(&[blocks, joints]).map_err(|u| Error::kernel(&self.info.name, u.0))?;
        let mut call = self.gpu.call(&self.info.name, launch);
        let k = Source::bind(&mut call, "k", &op.k, &op.k.dims())?;
        let v = Source::bind(&mut call, "v", &op.v, &op.v.dims())?;
        let mut bind = |arg, operand: Option<&Operand>, access| {
            let dims = operand.map(Operand::dims).unwrap_or_default();
            Matrix::bind_opt(&mut call, arg, operand, access, &dims)
        };
        let q = bind("q", Some(&op.q), Access::Read)?;
        let sinks = bind("sinks", op.sinks.as_ref(), Access::Read)?;
        let alibi = bind("alibi", op.alibi.as_ref(), Access::Read)?;
        let lse = bind("lse", op.lse.as_ref(), Access::Write)?;
        let out = bind("out", Some(&op.out), Access::Write)?;
        let aligned = |matrix: &Matrix, width: usize, unit| matrix.has_rows(width, unit, CHUNK);
        let parts = work.pieces * sizes.kv_heads * shape.rows() * (sizes.d_v + 2);
        const FARTHEST: i32 = 1 << 30;
        let args = Args {
            q,
            k: k.matrix,
            v: v.matrix,
            sinks,
            alibi,
            lse,
            out,
            k_scales: k.scales,
            v_scales: v.scales,
            tiles: call.constants(&work.tiles, "tiles")?,
            joints: call.constants(&work.joints, "joints")?,
            runs: work.runs.bind(&mut call)?,
            parts: match parts {
                0 => 0,
                parts => call.scratch(parts * size_of::<f32>(), "parts")?,
            },
            lengths: match lengths {
                Some(lengths) => Lengths::bind(lengths, &sizes, &mut call)?,
                None => Lengths::default(),
            },
            ahead: distance(op.mask.ahead, FARTHEST - 1),
            window: distance(op.mask.window, FARTHEST),
            kv_heads: sizes.kv_heads as i32,
            group: group as i32,
            d: sizes.d as i32,
            d_v: sizes.d_v as i32,
            q_rows: sizes.q_rows.max(1) as i32,
            q_chunks: aligned(&q, sizes.d, 2).into(),
            scale: op.score_scale() as f32,
            softcap: op.softcap.unwrap_or(0.0),
        };
        let unit = plan.unit();
        let aligned = if plan.keeps_codes() {
            [k, v].map(|of| aligned(&of.matrix, 2, size_of::<u8>()) && of.scales.are_words())
        } else {
            [aligned(&k.matrix, sizes.d, unit), aligned(&v.matrix, sizes.d_v, unit)]
        };
        let few_rows = sequences.iter().all(|s| s.queries.len() * group <= FEW_ROWS);
        let program = plan.program(aligned, lengths.is_some(), few_rows);
        let threads = shape.threads() as u32;
        let shared_memory = plan.shared_memory() as u32;
        let grid = Grid { blocks: blocks as u32, threads, shared_memory };
        call.run(&program, "attention", grid, bytemuck::bytes_of(&args))?;
        if joints > 0 {
            let grid = Grid { blocks: joints as u32, threads, shared_memory: 0 };
            call.run(&program, "join", grid, bytemuck::bytes_of(&args))?;
        }
        call.finish()
    }
}

/// Queries and keys of a sequence, on average where they differ.
fn lengths(op: &Attention, sizes: &AttentionSizes) -> [usize; 2] {
    let each = |total: usize| total.div_ceil(sizes.batch.max(1));
    let queries = if op.cu_seqlens_q.is_some() { each(sizes.q_rows) } else { sizes.q_rows };
    let keys = match &op.kv {
        KvLayout::Batched { .. } => sizes.kv_rows,
        KvLayout::Packed { .. } => each(sizes.kv_rows),
        KvLayout::Paged { block_table, .. } => {
            block_table.dims().last().map_or(0, |&blocks| blocks * sizes.kv_rows)
        }
    };
    [queries, keys]
}

/// Bytes of one row.
fn row_bytes(operand: &Operand, width: usize) -> f64 {
    let bits = match operand {
        Operand::Dense(dense) => 8 * dense.dtype.size(),
        Operand::Scaled(scaled) => 8 / scaled.format.spec().codes_per_byte,
    };
    width as f64 * bits as f64 / 8.0
}

impl Kernel for FlashKernel {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        let Op::Attention(op) = op else { return Err(Unsupported::because("not attention")) };
        if !caps.has(Isa::Mma) {
            return Err(Unsupported(format!("{} has no {}", caps.target, Isa::Mma)));
        }
        let plan = Plan::new(self.variant, op)?;
        match plan.multiplies() {
            Mma::Fp8 if !caps.has(Isa::MmaFp8Full) => {
                let why = "adds up products of FP8 in f32, which is not what";
                return Err(Unsupported(format!("{why} {} does", caps.target)));
            }
            Mma::Mxfp8 | Mma::Nvfp4 if !caps.has(Isa::MmaBlockScaled) => {
                return Err(Unsupported(format!("{} has no {}", caps.target, Isa::MmaBlockScaled)));
            }
            _ => {}
        }
        [op.sinks.as_ref(), op.alibi.as_ref()]
            .into_iter()
            .flatten()
            .try_for_each(require_readable)?;
        for operand in [Some(&op.out), op.lse.as_ref()].into_iter().flatten() {
            require_writable(operand, caps)?;
        }
        let (q, k) = (op.q.dims(), op.k.dims());
        let rows = |dims: &[usize]| dims.iter().rev().skip(1).product();
        sizes_fit(&[rows(&q), rows(&k)])?;
        let shared_memory = plan.shared_memory();
        if shared_memory > caps.shared_memory {
            return Err(Unsupported(format!(
                "tiles of {} keys take {shared_memory} bytes of shared memory, a block has {}",
                plan.shape().keys,
                caps.shared_memory
            )));
        }
        Ok(())
    }

    fn cost(&self, op: &Op, caps: &Caps) -> Cost {
        // As `cuda.gemm` has them. All grows with the number of sequences alike, so that it is not
        // that number which decides for a kernel, and thereby the bits of a row.
        const PRODUCTS_PER_SECOND: f64 = 0.6e12;
        const BYTES_PER_SECOND: f64 = 230e9;
        let never = Cost { seconds: f64::INFINITY };
        let Op::Attention(op) = op else { return never };
        let (Ok(sizes), Ok(plan)) = (op.sizes(), Plan::new(self.variant, op)) else {
            return never;
        };
        let [queries, keys] = lengths(op, &sizes);
        let rows = queries * (sizes.heads / sizes.kv_heads.max(1));
        let tile = plan.shape().rows();
        let pairs = sizes.batch as f64 * sizes.kv_heads as f64 * keys as f64;
        // Few rows read tiles in shared memory more often for each product; blocks that take
        // all keys leave multiprocessors without work where there are few rows.
        let (speed, reach) = match self.variant {
            Variant::Decode => (0.5, 1.0),
            _ => (plan.speed(caps), 0.25),
        };
        let products = pairs * (rows.next_multiple_of(tile) * plan.products()) as f64;
        let rate = speed * PRODUCTS_PER_SECOND * caps.units as f64;
        // From memory once: what more blocks read is in the cache.
        let bytes = pairs * (row_bytes(&op.k, sizes.d) + row_bytes(&op.v, sizes.d_v));
        Cost::roofline(products, rate, bytes, reach * BYTES_PER_SECOND)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Attention(op) => self.attention(op, launch),
            _ => Err(Error::kernel(&self.info.name, "not attention")),
        }
    }
}
