//! Attention on tensor cores: `kernels/flash_attention.cu`.
//!
//! One source, an entry for many queries and one for few, one that rounds weights, and one that
//! rounds queries and weights to FP8.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::tiles::{Cut, Tiles};
use super::{Lengths, sequences};
use crate::backend::cuda::args::{Matrix, require_readable, require_writable, sizes_fit};
use crate::backend::cuda::driver::Grid;
use crate::backend::cuda::gemm::{CHUNK, Mma, Way};
use crate::backend::cuda::gpu::{Gpu, Program};
use crate::backend::cuda::source::{Scales, Source};
use crate::caps::{Caps, Isa};
use crate::error::{Error, Result};
use crate::format::{Format, WHOLE};
use crate::memory::Access;
use crate::num::DType;
use crate::op::{Attention, AttentionSizes, Dense, KvLayout, Mask, Op, OpKind, Operand, Scaled};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Numerics, Unsupported};

/// Head sizes that programs are made for; others are padded with zeros.
const WIDTHS: [usize; 6] = [64, 80, 96, 128, 192, 256];

/// The widest heads whose sums registers hold beside the weights of 32 keys, which an FP8
/// instruction takes.
const NARROWED_WIDEST: usize = 192;

/// Stages of tiles in shared memory.
const STAGES: usize = 2;

/// A registry entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Many queries: large tiles of rows, keys in one go.
    Prefill { rounded: bool },
    /// Many queries, rounded to the FP8 of keys and values; so are weights.
    Narrowed,
    /// Few queries: 16 rows, pieces of keys that are joined.
    Decode,
}

impl Variant {
    /// In order of registration: of two that take as long, the stricter.
    pub const ALL: [Variant; 4] = [
        Variant::Decode,
        Variant::Prefill { rounded: false },
        Variant::Prefill { rounded: true },
        Variant::Narrowed,
    ];

    /// How many products of elements a weight and a value are.
    fn terms(self, mma: Mma) -> usize {
        match self {
            Variant::Prefill { rounded: true } | Variant::Narrowed => 1,
            _ if mma == Mma::F16 => 4,
            _ => 3,
        }
    }
}

/// How a block's warps share its rows and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    frags_m: usize,
    warps_m: usize,
    warps_n: usize,
    keys: usize,
}

impl Shape {
    /// Sums, scores, weights and what is decoded are kept in registers, of which a thread has 255.
    fn of(plan: &Plan) -> Self {
        let [d, d_v] = plan.widths;
        let decodes = plan.ways.iter().any(|way| matches!(way, Way::Decoded(_)));
        let wide = d.max(d_v) > 192;
        let prefill = |frags_m, keys| Shape { frags_m, warps_m: 4, warps_n: 1, keys };
        match plan.variant {
            Variant::Decode if wide => Shape { frags_m: 1, warps_m: 1, warps_n: 2, keys: 32 },
            Variant::Decode => Shape { frags_m: 1, warps_m: 1, warps_n: 4, keys: 64 },
            Variant::Narrowed if d.max(d_v) > 128 || plan.softcap => prefill(1, 32),
            Variant::Narrowed => prefill(2, 32),
            Variant::Prefill { .. } if decodes && wide => prefill(1, 16),
            Variant::Prefill { .. } if decodes || d > 128 || d_v > 128 => prefill(1, 32),
            Variant::Prefill { .. } if plan.softcap && d_v > 96 => prefill(1, 32),
            Variant::Prefill { rounded: false } if plan.mma == Mma::F16 => prefill(1, 32),
            Variant::Prefill { .. } => prefill(2, 32),
        }
    }

    fn rows(self) -> usize {
        16 * self.frags_m * self.warps_m
    }

    fn threads(self) -> usize {
        32 * self.warps_m * self.warps_n
    }

    /// Bytes: the queries and the tiles, or the sums that are joined.
    fn shared_memory(self, plan: &Plan) -> usize {
        let [d, d_v] = plan.widths;
        let pitch = |width: usize| plan.mma.unit() * width + CHUNK as usize;
        let factors = |there| if there { size_of::<f32>() } else { 0 };
        let stage = self.keys * (pitch(d) + pitch(d_v) + factors(plan.k_scaled));
        let queries = self.rows() * (pitch(d) + factors(plan.mma == Mma::Fp8));
        let tiles = queries + STAGES * stage;
        let parts = self.warps_n * self.rows() * (d_v + 4 + 2) + self.rows();
        tiles.max(parts * size_of::<f32>())
    }
}

/// A distance as the kernel takes it: beyond the farthest key all are alike, and a position added
/// to it does not overflow.
fn distance(n: Option<usize>, farthest: i32) -> i32 {
    n.and_then(|n| i32::try_from(n).ok()).unwrap_or(farthest).min(farthest)
}

/// What a program is made for.
#[derive(Clone, Copy, Debug)]
struct Plan {
    variant: Variant,
    mma: Mma,
    ways: [Way; 2],
    /// Padded.
    widths: [usize; 2],
    k_scaled: bool,
    softcap: bool,
}

impl Plan {
    fn new(variant: Variant, op: &Attention) -> Result<Self, Unsupported> {
        let half = match op.q.dtype() {
            Some(DType::BF16) => Mma::Bf16,
            Some(DType::F16) => Mma::F16,
            _ => return Err(Unsupported(format!("queries are BF16 or F16, not {}", op.q))),
        };
        let narrowed = variant == Variant::Narrowed;
        let way = |operand: &Operand| {
            if narrowed {
                return is_e4m3(operand).then_some(Way::AsIs).ok_or_else(|| {
                    Unsupported(format!("multiplies keys and values of FP8 E4M3, not {operand}"))
                });
            }
            Way::to_half(operand, half).ok_or_else(|| {
                let to = if half == Mma::F16 { "F16" } else { "BF16" };
                Unsupported(format!("expands keys and values to {to} exactly, not {operand}"))
            })
        };
        let sizes = op.sizes().map_err(|e| Unsupported(e.to_string()))?;
        let ways = [way(&op.k)?, way(&op.v)?];
        let spec = |operand: &Operand| operand.as_scaled().map(|scaled| scaled.format.spec());
        let (k, v) = (spec(&op.k), spec(&op.v));
        if k.is_some_and(|k| k.scale == DType::F32 && k.block_k != WHOLE && k.block_k < sizes.d) {
            return Err(Unsupported(format!("a key has one f32 scale, not those of {}", op.k)));
        }
        if v.is_some_and(|v| v.scale == DType::F32) {
            return Err(Unsupported(format!("values have no f32 scales, as {} has", op.v)));
        }
        let k_scaled = k.is_some_and(|k| k.scale == DType::F32 || k.tensor_scale);
        let mma = if narrowed { Mma::Fp8 } else { half };
        let widest = if narrowed { NARROWED_WIDEST } else { WIDTHS[WIDTHS.len() - 1] };
        // An instruction takes so many elements of a key.
        let width = |size: usize, step: usize| {
            let fits =
                |width: &usize| (size..=widest).contains(width) && width.is_multiple_of(step);
            let found = WIDTHS.into_iter().find(fits).filter(|_| size > 0);
            found.ok_or_else(|| Unsupported(format!("head sizes are 1 to {widest}, not {size}")))
        };
        let widths = [width(sizes.d, 32 / mma.unit())?, width(sizes.d_v, 1)?];
        Ok(Plan { variant, mma, ways, widths, k_scaled, softcap: op.softcap.is_some() })
    }

    fn shape(&self) -> Shape {
        Shape::of(self)
    }

    fn shared_memory(&self) -> usize {
        self.shape().shared_memory(self)
    }

    /// The source for keys and values whose rows are contiguous and aligned, or not, and for lengths
    /// that the GPU alone knows.
    fn program(&self, aligned: [bool; 2], lengths: bool) -> Program {
        let shape = self.shape();
        let splits = matches!(self.variant, Variant::Decode | Variant::Prefill { rounded: false });
        let defines = vec![
            ("MMA", self.mma as u32),
            ("D", self.widths[0] as u32),
            ("D_V", self.widths[1] as u32),
            ("K_LOAD", self.ways[0].load(aligned[0])),
            ("V_LOAD", self.ways[1].load(aligned[1])),
            ("K_SCALED", self.k_scaled.into()),
            ("SOFTCAP", self.softcap.into()),
            ("LENGTHS", lengths.into()),
            ("SPLIT_WEIGHTS", splits.into()),
            ("FRAGS_M", shape.frags_m as u32),
            ("WARPS_M", shape.warps_m as u32),
            ("WARPS_N", shape.warps_n as u32),
            ("TILE_KEYS", shape.keys as u32),
        ];
        let source = include_str!("../../../../kernels/flash_attention.cu");
        Program { name: "flash_attention.cu", source, defines }
    }
}

/// Whether an operand is of FP8 E4M3, with f32 scales or none.
fn is_e4m3(operand: &Operand) -> bool {
    match operand {
        Operand::Dense(dense) => dense.dtype == DType::F8E4M3,
        Operand::Scaled(scaled) => {
            let spec = scaled.format.spec();
            spec.code == DType::F8E4M3 && spec.scale == DType::F32
        }
    }
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
    runs: u64,
    parts: u64,
    lengths: Lengths,
    ahead: i32,
    window: i32,
    kv_heads: i32,
    group: i32,
    d: i32,
    d_v: i32,
    q_rows: i32,
    run: i32,
    run_shift: i32,
    q_chunks: i32,
    scale: f32,
    softcap: f32,
}

/// `cuda.attention.decode`, `cuda.attention.prefill`, and `.rounded` and `.fp8` of the latter
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
            Variant::Narrowed => (
                "cuda.attention.prefill.fp8",
                "mma.sync on FP8 E4M3 keys and values, queries rounded to it in units of a scale \
                 each, weights in units of 1/256",
            ),
        };
        let mut info = KernelInfo::new(name, OpKind::Attention, summary);
        info.numerics = match variant {
            Variant::Prefill { rounded: true } => Numerics::RoundedIntermediates,
            Variant::Narrowed => Numerics::NarrowedOperands,
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
            runs: call.constants(&work.runs, "runs of keys")?,
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
            run: work.run,
            run_shift: work.run_shift(),
            q_chunks: aligned(&q, sizes.d, 2).into(),
            scale: op.score_scale() as f32,
            softcap: op.softcap.unwrap_or(0.0),
        };
        let unit = plan.mma.unit();
        let aligned = [aligned(&k.matrix, sizes.d, unit), aligned(&v.matrix, sizes.d_v, unit)];
        let program = plan.program(aligned, lengths.is_some());
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

/// Programs at head sizes that are usual, of keys and values of one kind.
pub(super) fn programs(caps: &Caps) -> Vec<Program> {
    let mut programs = Vec::new();
    let mut add = |variant, mma, way, width, all| {
        let (ways, widths) = ([way; 2], [width; 2]);
        let plan = Plan { variant, mma, ways, widths, k_scaled: all, softcap: all };
        programs.push(plan.program([true; 2], all));
    };
    if caps.has(Isa::MmaFp8Full) {
        let fits = |width: &usize| width.is_multiple_of(32) && *width <= NARROWED_WIDEST;
        let widths = WIDTHS.into_iter().filter(fits);
        widths.for_each(|width| add(Variant::Narrowed, Mma::Fp8, Way::AsIs, width, false));
        add(Variant::Narrowed, Mma::Fp8, Way::AsIs, 128, true);
    }
    for (half, dtype) in [(Mma::Bf16, DType::BF16), (Mma::F16, DType::F16)] {
        let plain = Dense::spec(dtype, &[1, 1]).map(Operand::from);
        let formats = Format::ALL.map(|format| Scaled::spec(format, &[1, 1]).map(Operand::from));
        let operands = [plain].into_iter().chain(formats).filter_map(Result::ok);
        let mut ways: Vec<Way> = Vec::new();
        for way in operands.filter_map(|operand| Way::to_half(&operand, half)) {
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        let variants = Variant::ALL.into_iter().filter(|&variant| variant != Variant::Narrowed);
        for (variant, &way) in variants.flat_map(|v| ways.iter().map(move |way| (v, way))) {
            WIDTHS.into_iter().for_each(|width| add(variant, half, way, width, false));
            add(variant, half, way, 128, true);
        }
    }
    programs
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
        if plan.mma == Mma::Fp8 && !caps.has(Isa::MmaFp8Full) {
            let why = "adds up products of FP8 in f32, which is not what";
            return Err(Unsupported(format!("{why} {} does", caps.target)));
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
        let of_pair = plan.widths[0] + self.variant.terms(plan.mma) * plan.widths[1];
        // Few rows read tiles in shared memory more often for each product; blocks that take
        // all keys leave multiprocessors without work where there are few rows.
        let (speed, reach) = match self.variant {
            Variant::Decode => (0.5, 1.0),
            Variant::Prefill { .. } | Variant::Narrowed => (plan.mma.speed(), 0.25),
        };
        let products = pairs * (rows.next_multiple_of(tile) * of_pair) as f64;
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
