//! Block-scaled outputs: `kernels/include/quantize.cuh`, and `kernels/quantize.cu` for conversions.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, require_readable};
use super::gpu::Program;
use super::rows::{RowKernel, RowSizes, Rows, Run, THREADS, other_op};
use super::source::{Scales, Source};
use crate::caps::{Caps, Isa};
use crate::error::{Error, Result};
use crate::format::{BlockLayout, Format, Quantizer};
use crate::memory::Access;
use crate::num::{DType, UE4M3};
use crate::op::{Convert, Op, OpKind, Operand, Scaled};
use crate::registry::Unsupported;

/// The most values of a row that a warp finds the scale of.
const WARP_BLOCK: usize = 128;

/// The most values of a row that every tile of a matrix product has whole blocks of.
const TILE_BLOCK: usize = 32;

/// `Blocks`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Blocks {
    codes: u64,
    scales: Scales,
    tensor: u64,
    pub amax: u64,
    wrong: u64,
    of_matrix: i64,
    n: i32,
    rows: i32,
    row_bytes: i32,
    scale_rows: i32,
    words: i32,
    max_code: i32,
    fixed: f32,
    looks: i32,
}

/// The arguments of a kernel whose result is quantised: `Args` end with where it goes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct Quantized<A> {
    args: A,
    to: Blocks,
}

/// How a format is quantised: what its kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quantizing {
    format: Format,
    quantizer: Quantizer,
    fixed: Option<f32>,
}

impl Quantizing {
    /// What an output asks for.
    pub fn new(to: &Scaled, quantizer: Option<Quantizer>, fixed: Option<f32>) -> Self {
        let quantizer = quantizer.unwrap_or_else(|| Quantizer::default_for(to.format));
        Quantizing { format: to.format, quantizer, fixed }
    }

    /// Whether kernels do it.
    pub fn supports(self, to: &Scaled, caps: &Caps) -> Result<(), Unsupported> {
        let spec = self.format.spec();
        if to.dims.contains(&0) {
            return Err(Unsupported(format!("has no values to quantise in {to}")));
        }
        let narrow = spec.code != DType::E2M1x2 || spec.scale == DType::UE4M3;
        if narrow && !caps.has(Isa::ConvertFp8) {
            return Err(Unsupported(format!("{} has no conversion to {to}", caps.target)));
        }
        if self.block() == 0 && self.quantizer == Quantizer::Mse && self.fixed.is_none() {
            let reason = "searches scales of up to 128 values of a row, not those of";
            return Err(Unsupported(format!("{reason} {to}")));
        }
        Ok(())
    }

    /// Values of a row that share a scale, where a warp has them all; else 0.
    fn block(self) -> usize {
        let spec = self.format.spec();
        if spec.block_rows == 1 && spec.block_k <= WARP_BLOCK { spec.block_k } else { 0 }
    }

    /// Whether it takes no more than a few neighbours of a row, and little beside their largest.
    pub fn fits_tiles(self) -> bool {
        let simple = [Quantizer::Amax, Quantizer::Ocp, Quantizer::OcpCeil];
        !self.looks_first() && self.block() <= TILE_BLOCK && simple.contains(&self.quantizer)
    }

    /// Whether a kernel looks for largest magnitudes first.
    fn looks_first(self) -> bool {
        let tensor = self.format.spec().tensor_scale;
        self.fixed.is_none() && (tensor || self.block() == 0)
    }

    /// Whether what it looks for is the largest of all values: kernels that make them can note it.
    pub fn has_one_largest(self) -> bool {
        self.looks_first() && self.format.spec().tensor_scale
    }

    /// What sources are compiled with.
    pub fn defines(self) -> Vec<(&'static str, u32)> {
        let spec = self.format.spec();
        let code = match spec.code {
            DType::F8E4M3 => 3,
            DType::F8E5M2 => 4,
            _ => 5,
        };
        let scale = match spec.scale {
            DType::E8M0 => 0,
            DType::UE4M3 => 1,
            _ => 2,
        };
        let rule = match self.quantizer {
            Quantizer::Amax => 0,
            Quantizer::Ocp => 1,
            Quantizer::OcpCeil => 2,
            Quantizer::FourOverSix => 3,
            Quantizer::Mse => 4,
        };
        let block = self.block() as u32;
        vec![("CODE", code), ("SCALE", scale), ("RULE", rule), ("BLOCK", block)]
    }

    /// Every one that kernels do.
    pub fn all() -> impl Iterator<Item = Self> {
        let of = |format: Format| {
            let rules = Quantizer::ALL.into_iter().filter(move |q| q.supports(format));
            rules.map(move |quantizer| Quantizing { format, quantizer, fixed: None })
        };
        let all = Format::ALL.into_iter().flat_map(of);
        all.filter(|q| q.block() > 0 || q.quantizer != Quantizer::Mse)
    }

    /// Binds an output.
    pub fn bind(self, run: &mut Run<'_, '_, '_>, arg: &'static str, to: &Scaled) -> Result<Blocks> {
        let layout = to.layout()?;
        let Source { matrix, mut scales } = Source::bind_scaled(run.call, arg, to, Access::Write)?;
        let amax = match (self.looks_first(), self.format.spec().tensor_scale) {
            (false, _) => 0,
            (true, true) => run.call.zeros(size_of::<u32>(), "largest magnitude")?,
            (true, false) => {
                let bytes = layout.scales_len() * size_of::<u32>();
                run.call.zeros(bytes, "largest magnitudes")?
            }
        };
        let tensor = std::mem::take(&mut scales.tensor);
        let row_bytes = layout.row_bytes();
        Ok(Blocks {
            codes: matrix.address,
            scales,
            tensor,
            amax,
            wrong: run.call.watch(not_finite(to.format, [layout.rows(), layout.k()]))?,
            of_matrix: (layout.scales_bytes() / layout.batch()) as i64,
            n: layout.k() as i32,
            rows: layout.rows() as i32,
            row_bytes: row_bytes as i32,
            scale_rows: layout.scale_rows() as i32,
            words: (matrix.address.is_multiple_of(8) && row_bytes.is_multiple_of(8)).into(),
            max_code: self.max_code(),
            fixed: self.fixed.unwrap_or(0.0),
            looks: 0,
        })
    }

    /// The largest UE4M3 scale with which values are f32 still: only a given tensor scale can make
    /// them larger.
    fn max_code(self) -> i32 {
        const LARGEST: u8 = 0x7E;
        let g = f64::from(self.fixed.unwrap_or(1.0));
        let holds = |code: &u8| {
            let scale = UE4M3::from_bits(*code).to_f64();
            f64::from(self.format.spec().code_max) * scale * g <= f64::from(f32::MAX)
        };
        (0..=LARGEST).rev().find(holds).unwrap_or(0).into()
    }

    /// Runs a kernel that quantises what it finds, of whose `Args` these are all but the last; where
    /// it must, once before to look for the largest magnitudes.
    pub fn run(
        self,
        run: &mut Run<'_, '_, '_>,
        program: &Program,
        entry: &str,
        [blocks, threads]: [usize; 2],
        args: impl Pod,
        to: Blocks,
    ) -> Result<()> {
        let passes = if self.looks_first() { &[1, 0][..] } else { &[0] };
        passes.iter().try_for_each(|&looks| {
            let args = Quantized { args, to: Blocks { looks, ..to } };
            run.run_threads(program, entry, blocks, [threads as u32, 0], &args)
        })
    }
}

/// What is wrong where a kernel reports a value that no block format holds.
fn not_finite(format: Format, [rows, n]: [usize; 2]) -> impl Fn(u64) -> Error {
    move |word| {
        let at = !word as usize;
        let (batch, row, column) = (at / n / rows, at / n % rows, at % n);
        Error::value(
            "quantize",
            "src",
            format!(
                "value {at} ([{batch}, {row}, {column}] of [batch, row, column]) is NaN or \
                 infinite, which {format} cannot hold; replace NaN and infinities first"
            ),
        )
    }
}

/// What `Args` of `quantize.cu` begins with.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    src: Matrix,
    scales: Scales,
    sizes: RowSizes,
    pieces: i32,
    n: i32,
    blocks: i32,
    of_matrix: i64,
}

/// What quantises rows, in that source.
const QUANTIZE_ROWS: &str = "quantize_rows";

/// `cuda.quantize`
pub(super) const QUANTIZE: RowKernel = RowKernel {
    name: "cuda.quantize",
    summary: "eight values a lane, scales by the lanes of a warp",
    op: OpKind::Convert,
    supports,
    launch,
};

fn program(quantizing: Quantizing) -> Program {
    let source = include_str!("../../../kernels/quantize.cu");
    Program { name: "quantize.cu", source, defines: quantizing.defines() }
}

/// Every program.
pub(super) fn programs() -> Vec<Program> {
    Quantizing::all().map(program).collect()
}

fn quantizing(op: &Convert) -> Option<(Quantizing, &Scaled)> {
    let to = op.dst.as_scaled()?;
    Some((Quantizing::new(to, op.quantizer, op.tensor_scale), to))
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::Convert(op) = op else { return Err(Unsupported::because("not a conversion")) };
    let Some((quantizing, to)) = quantizing(op) else {
        return Err(Unsupported(format!("quantises, which {} is not", op.dst)));
    };
    match &op.src {
        Operand::Dense(_) => require_readable(&op.src)?,
        Operand::Scaled(src) if src.transposed => {
            return Err(Unsupported(format!("reads along rows as stored, not {src}")));
        }
        Operand::Scaled(_) => {}
    }
    quantizing.supports(to, caps)
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::Convert(op) = op else { return Err(other_op(QUANTIZE.name)) };
    let (quantizing, to) = quantizing(op).ok_or_else(|| other_op(QUANTIZE.name))?;
    let rows = Rows::of(to.dims);
    let (source, of_matrix) = match &op.src {
        Operand::Dense(_) => (Source::plain(run.read("src", Some(&op.src), &rows)?), 0),
        Operand::Scaled(src) => {
            let layout: BlockLayout = src.layout()?;
            let of_matrix = (layout.scales_bytes() / layout.batch()) as i64;
            (Source::bind_scaled(run.call, "src", src, Access::Read)?, of_matrix)
        }
    };
    let args =
        Args { blocks: op.src.as_scaled().is_some().into(), of_matrix, ..Args::new(source, &rows) };
    let to = quantizing.bind(run, "dst", to)?;
    quantizing.run_rows(run, args, to, &rows)
}

impl Args {
    /// Of plain elements.
    fn new(source: Source, rows: &Rows) -> Self {
        Args {
            src: source.matrix,
            scales: source.scales,
            sizes: rows.sizes,
            pieces: rows.pieces,
            n: rows.n,
            blocks: 0,
            of_matrix: 0,
        }
    }
}

impl Quantizing {
    /// Quantises plain elements.
    pub fn rows(
        self,
        run: &mut Run<'_, '_, '_>,
        src: Matrix,
        dst: Blocks,
        rows: &Rows,
    ) -> Result<()> {
        self.run_rows(run, Args::new(Source::plain(src), rows), dst, rows)
    }

    /// The same of values whose largest was noted when they were made.
    pub fn noted_rows(
        self,
        run: &mut Run<'_, '_, '_>,
        src: Matrix,
        to: Blocks,
        rows: &Rows,
    ) -> Result<()> {
        let args = Quantized { args: Args::new(Source::plain(src), rows), to };
        run.run(&program(self), QUANTIZE_ROWS, rows.blocks(), &args)
    }

    fn run_rows(
        self,
        run: &mut Run<'_, '_, '_>,
        args: Args,
        to: Blocks,
        rows: &Rows,
    ) -> Result<()> {
        let shape = [rows.blocks(), THREADS as usize];
        self.run(run, &program(self), QUANTIZE_ROWS, shape, args, to)
    }
}
