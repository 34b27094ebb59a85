//! What programs for attention on tensor cores are made for: variants, head sizes, shapes of
//! blocks, and how keys and values reach them.

use crate::backend::cuda::gemm::{CHUNK, DECODE_NVFP4, Mma, Way};
use crate::backend::cuda::gpu::Program;
use crate::caps::{Caps, Isa};
use crate::format::{Format, WHOLE};
use crate::num::DType;
use crate::op::{Attention, Dense, Operand, Scaled};
use crate::registry::Unsupported;

/// Head sizes that programs are made for; others are padded with zeros.
const WIDTHS: [usize; 6] = [64, 80, 96, 128, 192, 256];

/// The widest heads whose sums registers hold beside the weights of 32 keys, which an FP8
/// instruction takes, or whose tiles shared memory holds beside those of codes.
const NARROWED_WIDEST: usize = 192;

/// The widest heads whose sums registers hold beside what is decoded in them.
const CODES_WIDEST: usize = 128;

/// What `fp4_attention.cu` pads heads to: a word of block scales.
const CODES_STEP: usize = 64;

/// Rows that half a fragment holds.
pub(super) const FEW_ROWS: usize = 8;

/// Stages of tiles in shared memory.
const STAGES: usize = 2;

/// A registry entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Many queries: large tiles of rows, keys in one go.
    Prefill { rounded: bool },
    /// Many queries, rounded to the FP8 of keys and values; so are weights.
    Fp8,
    /// Many queries, rounded with keys, values and weights to what a block-scaled instruction takes.
    BlockScaled(Mma),
    /// Few queries: 16 rows, pieces of keys that are joined.
    Decode,
}

impl Variant {
    /// In order of registration: of two that take as long, the stricter.
    pub const ALL: [Variant; 6] = [
        Variant::Decode,
        Variant::Prefill { rounded: false },
        Variant::Prefill { rounded: true },
        Variant::Fp8,
        Variant::BlockScaled(Mma::Mxfp8),
        Variant::BlockScaled(Mma::Nvfp4),
    ];

    /// How many products of elements a weight and a value are.
    fn terms(self, mma: Mma) -> usize {
        match self {
            Variant::Prefill { rounded: true } | Variant::Fp8 | Variant::BlockScaled(_) => 1,
            _ if mma == Mma::F16 => 4,
            _ => 3,
        }
    }

    /// The instruction for whose operands 16-bit ones are rounded.
    fn rounds_to(self) -> Option<Mma> {
        match self {
            Variant::BlockScaled(mma) => Some(mma),
            _ => None,
        }
    }
}

/// How a block's warps share its rows and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    frags_m: usize,
    warps_m: usize,
    warps_n: usize,
    pub keys: usize,
}

impl Shape {
    /// Sums, scores, weights and what is decoded are kept in registers, of which a thread has 255.
    fn of(plan: &Plan) -> Self {
        let [d, d_v] = plan.widths;
        let decodes = plan.ways.iter().any(|way| matches!(way, Way::Decoded(_)));
        let fp4 = plan.ways.contains(&DECODE_NVFP4);
        let wide = d.max(d_v) > 192;
        let prefill = |frags_m, keys| Shape { frags_m, warps_m: 4, warps_n: 1, keys };
        match plan.variant {
            Variant::Decode if plan.keeps_codes() => {
                Shape { frags_m: 1, warps_m: 1, warps_n: 4, keys: 128 }
            }
            Variant::Decode if wide => Shape { frags_m: 1, warps_m: 1, warps_n: 2, keys: 32 },
            Variant::Decode => Shape { frags_m: 1, warps_m: 1, warps_n: 4, keys: 64 },
            Variant::Fp8 if d.max(d_v) > 128 || plan.softcap => prefill(1, 32),
            Variant::Fp8 => prefill(2, 32),
            // The weights of 64 keys are one fragment of NVFP4, two of MXFP8.
            Variant::BlockScaled(_) if d.max(d_v) > 128 => prefill(1, 64),
            Variant::BlockScaled(_) => Shape { warps_m: 8, ..prefill(1, 64) },
            Variant::Prefill { .. } if decodes && wide || fp4 && d.max(d_v) > 128 => prefill(1, 16),
            Variant::Prefill { .. } if decodes || d > 128 || d_v > 128 => prefill(1, 32),
            Variant::Prefill { .. } if plan.softcap && d_v > 96 => prefill(1, 32),
            Variant::Prefill { rounded: false } if plan.mma == Mma::F16 => prefill(1, 32),
            Variant::Prefill { .. } => prefill(2, 32),
        }
    }

    pub fn rows(self) -> usize {
        16 * self.frags_m * self.warps_m
    }

    pub fn threads(self) -> usize {
        32 * self.warps_m * self.warps_n
    }

    /// Bytes: the queries and the tiles, or the sums that are joined.
    fn shared_memory(self, plan: &Plan) -> usize {
        let [d, d_v] = plan.widths;
        let pitch = |width: usize| plan.mma.unit() * width + CHUNK as usize;
        let factors = |there| if there { size_of::<f32>() } else { 0 };
        let stage = self.keys * (pitch(d) + pitch(d_v) + factors(plan.k_scaled));
        let tiles = if let Some(mma) = plan.variant.rounds_to() {
            // Codes and scales of what is multiplied, and a tile that is not rounded yet.
            let codes = |width: usize| {
                let scales = width / in_step(mma) * mma.step_scales();
                mma.units(width) + CHUNK as usize + scales.next_multiple_of(4)
            };
            let queries = self.rows() * (codes(d) + factors(mma == Mma::Nvfp4));
            let rounded = self.keys * codes(d) + d_v * codes(self.keys);
            queries + rounded + stage + self.threads() / 32 * size_of::<u32>()
        } else if plan.keeps_codes() {
            let codes = |width: usize| width / 2 + width / 16;
            self.rows() * pitch(d) + STAGES * self.keys * (codes(d) + codes(d_v))
        } else {
            let queries = self.rows() * (pitch(d) + factors(plan.mma == Mma::Fp8));
            queries + STAGES * stage
        };
        let parts = self.warps_n * self.rows() * (d_v + 4 + 2) + self.rows();
        tiles.max(parts * size_of::<f32>())
    }
}

/// Elements that an instruction takes along k: 32 bytes.
fn in_step(mma: Mma) -> usize {
    64 / (mma.units(2) * mma.unit())
}

/// What a program is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    variant: Variant,
    /// The elements of tiles.
    mma: Mma,
    ways: [Way; 2],
    /// Padded.
    widths: [usize; 2],
    k_scaled: bool,
    softcap: bool,
}

impl Plan {
    pub fn new(variant: Variant, op: &Attention) -> Result<Self, Unsupported> {
        let half = match op.q.dtype() {
            Some(DType::BF16) => Mma::Bf16,
            Some(DType::F16) => Mma::F16,
            _ => return Err(Unsupported(format!("queries are BF16 or F16, not {}", op.q))),
        };
        let fp8 = variant == Variant::Fp8;
        let way = |operand: &Operand| {
            if fp8 {
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
        let rounds_to = variant.rounds_to();
        if rounds_to == Some(Mma::Nvfp4) && k.is_some_and(|k| k.scale == DType::F32) {
            return Err(Unsupported(format!("rounds keys by tiles, of one scale; not {}", op.k)));
        }
        let k_scaled = k.is_some_and(|k| k.scale == DType::F32 || k.tensor_scale);
        let mma = if fp8 { Mma::Fp8 } else { half };
        let narrows = fp8 || rounds_to.is_some();
        let widest = if narrows { NARROWED_WIDEST } else { WIDTHS[WIDTHS.len() - 1] };
        // An instruction takes so many elements of a key.
        let width = |size: usize, step: usize| {
            let fits =
                |width: &usize| (size..=widest).contains(width) && width.is_multiple_of(step);
            let found = WIDTHS.into_iter().find(fits).filter(|_| size > 0);
            found.ok_or_else(|| Unsupported(format!("head sizes are 1 to {widest}, not {size}")))
        };
        let wide = sizes.d.max(sizes.d_v) > CODES_WIDEST;
        let steps = match variant {
            Variant::Decode if ways == [DECODE_NVFP4; 2] && !wide => [CODES_STEP; 2],
            _ => [in_step(rounds_to.unwrap_or(mma)), 1],
        };
        let widths = [width(sizes.d, steps[0])?, width(sizes.d_v, steps[1])?];
        Ok(Plan { variant, mma, ways, widths, k_scaled, softcap: op.softcap.is_some() })
    }

    /// The instruction that multiplies.
    pub fn multiplies(&self) -> Mma {
        self.variant.rounds_to().unwrap_or(self.mma)
    }

    /// Products in the time of one of 16-bit elements. Those of what is rounded are not waited for,
    /// but instructions that round: `kernels/README.md` has how many.
    pub fn speed(&self, caps: &Caps) -> f64 {
        match self.variant.rounds_to() {
            Some(Mma::Nvfp4) => 1.5,
            Some(_) => 1.7,
            None => self.mma.speed(caps),
        }
    }

    /// Whether keys and values are decoded where they are multiplied: `kernels/fp4_attention.cu`.
    pub fn keeps_codes(&self) -> bool {
        let narrow = self.widths.iter().all(|&width| width <= CODES_WIDEST);
        self.variant == Variant::Decode && self.ways == [DECODE_NVFP4; 2] && narrow
    }

    /// Bytes of an element of tiles.
    pub fn unit(&self) -> usize {
        self.mma.unit()
    }

    /// Products of elements of a query and a key.
    pub fn products(&self) -> usize {
        self.widths[0] + self.variant.terms(self.mma) * self.widths[1]
    }

    pub fn shape(&self) -> Shape {
        Shape::of(self)
    }

    pub fn shared_memory(&self) -> usize {
        self.shape().shared_memory(self)
    }

    /// The source for keys and values whose rows are contiguous and aligned, or not, for lengths that
    /// the GPU alone knows, and for at most [`FEW_ROWS`] rows.
    pub fn program(&self, aligned: [bool; 2], lengths: bool, few_rows: bool) -> Program {
        let shape = self.shape();
        let splits = matches!(self.variant, Variant::Decode | Variant::Prefill { rounded: false });
        let mut defines = vec![
            ("MMA", self.mma as u32),
            ("D", self.widths[0] as u32),
            ("D_V", self.widths[1] as u32),
            ("K_LOAD", self.ways[0].load(aligned[0])),
            ("V_LOAD", self.ways[1].load(aligned[1])),
            ("K_SCALED", self.k_scaled.into()),
            ("SOFTCAP", self.softcap.into()),
            ("LENGTHS", lengths.into()),
            ("SPLIT_WEIGHTS", splits.into()),
            ("ROUND_TO", self.variant.rounds_to().map_or(0, |mma| mma as u32)),
            ("FRAGS_M", shape.frags_m as u32),
            ("WARPS_M", shape.warps_m as u32),
            ("WARPS_N", shape.warps_n as u32),
            ("TILE_KEYS", shape.keys as u32),
        ];
        if self.keeps_codes() {
            defines.push(("IN_CHUNKS", (aligned == [true; 2]).into()));
            defines.push(("FEW_ROWS", few_rows.into()));
        }
        let (name, source) = match self.variant {
            Variant::Decode if self.keeps_codes() => {
                ("fp4_attention.cu", include_str!("../../../../kernels/fp4_attention.cu"))
            }
            Variant::BlockScaled(_) => (
                "block_scaled_attention.cu",
                include_str!("../../../../kernels/block_scaled_attention.cu"),
            ),
            _ => ("flash_attention.cu", include_str!("../../../../kernels/flash_attention.cu")),
        };
        Program { name, source, defines }
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

/// Programs at head sizes that are usual, of keys and values of one kind.
pub(super) fn programs(caps: &Caps) -> Vec<Program> {
    let mut programs = Vec::new();
    let mut add = |variant, mma, way, width, all| {
        let (ways, widths) = ([way; 2], [width; 2]);
        let plan = Plan { variant, mma, ways, widths, k_scaled: all, softcap: all };
        programs.push(plan.program([true; 2], all, !all));
        if plan.keeps_codes() {
            programs.push(plan.program([!all; 2], all, all));
        }
    };
    if caps.has(Isa::MmaFp8Full) {
        let fits = |width: &usize| width.is_multiple_of(32) && *width <= NARROWED_WIDEST;
        let widths = WIDTHS.into_iter().filter(fits);
        widths.for_each(|width| add(Variant::Fp8, Mma::Fp8, Way::AsIs, width, false));
        add(Variant::Fp8, Mma::Fp8, Way::AsIs, 128, true);
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
        let rounds = caps.has(Isa::MmaBlockScaled);
        let variants = Variant::ALL.into_iter().filter(|&variant| match variant {
            Variant::Fp8 => false,
            Variant::BlockScaled(_) => rounds,
            _ => true,
        });
        for (variant, &way) in variants.flat_map(|v| ways.iter().map(move |way| (v, way))) {
            let codes = variant == Variant::Decode && way == DECODE_NVFP4;
            let fits = |width: &usize| match variant.rounds_to() {
                Some(mma) => width.is_multiple_of(in_step(mma)) && *width <= NARROWED_WIDEST,
                None if codes => *width > CODES_WIDEST || width.is_multiple_of(CODES_STEP),
                None => true,
            };
            let widths = WIDTHS.into_iter().filter(fits);
            widths.for_each(|width| add(variant, half, way, width, false));
            add(variant, half, way, 128, true);
        }
    }
    programs
}
