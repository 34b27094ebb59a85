//! What plain and grouped products have in common.

use bytemuck::{Pod, Zeroable};

use super::plan::{Family, Plan};
use super::quantized::BoundBlocks;
use super::split::{Split, SplitArgs};
use super::{MOST_PARTS, PART_STEP, SHORTEST_PART};
use crate::backend::cuda::args::{BATCH_RANK, Matrix, batch_sizes};
use crate::backend::cuda::epilogue::Epilogue;
use crate::backend::cuda::gpu::Call;
use crate::backend::cuda::quantize::{Blocks, Quantizing};
use crate::backend::cuda::source::{Scales, Source};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::op::{self, Dims, Gemm, GroupedGemm, Op, Operand, Scaled};
use crate::registry::{Launch, Unsupported};

/// A matrix product, or one for each group of rows.
pub(super) struct Product<'o> {
    pub a: &'o Operand,
    pub b: &'o Operand,
    pub d: &'o Operand,
    c: Option<&'o Operand>,
    alpha: f32,
    beta: f32,
    epilogue: &'o op::Epilogue,
    grouped: Option<&'o GroupedGemm>,
    /// Products of the batch.
    pub batch: usize,
    /// Groups of rows; 1 where there are none.
    pub groups: usize,
    /// Rows of `a`, of all groups.
    pub m: usize,
    /// Columns of `b`.
    pub n: usize,
    pub k: usize,
}

impl<'o> Product<'o> {
    /// The product of an operation that is one.
    pub fn of(op: &'o Op) -> Result<Self> {
        match op {
            Op::Gemm(op) => Self::plain(op),
            Op::GroupedGemm(op) => Self::grouped(op),
            _ => Err(Error::kernel("cuda.gemm", format!("{op} is not a matrix product"))),
        }
    }

    fn plain(op: &'o Gemm) -> Result<Self> {
        let sizes = op.sizes()?;
        Ok(Product {
            a: &op.a,
            b: &op.b,
            d: &op.d,
            c: op.c.as_ref(),
            alpha: op.alpha,
            beta: op.beta,
            epilogue: &op.epilogue,
            grouped: None,
            batch: sizes.batch,
            groups: 1,
            m: sizes.m,
            n: sizes.n,
            k: sizes.k,
        })
    }

    fn grouped(op: &'o GroupedGemm) -> Result<Self> {
        let sizes = op.sizes()?;
        Ok(Product {
            a: &op.a,
            b: &op.b,
            d: &op.d,
            c: None,
            alpha: op.alpha,
            beta: 0.0,
            epilogue: &op.epilogue,
            grouped: Some(op),
            batch: 1,
            groups: sizes.groups,
            m: sizes.total_m,
            n: sizes.n,
            k: sizes.k,
        })
    }

    /// How its operands are multiplied by instructions of the family.
    pub fn plan(&self, family: Family) -> Result<Plan, Unsupported> {
        Plan::new(family, self.a, self.b)
    }

    pub fn is_grouped(&self) -> bool {
        self.grouped.is_some()
    }

    /// In how many pieces the columns of `b` are taken.
    pub fn pieces(&self) -> usize {
        if self.epilogue.activation.is_gated() { 2 } else { 1 }
    }

    /// Whether the kernels have its epilogue.
    pub fn supports_epilogue(&self, caps: &Caps) -> Result<(), Unsupported> {
        Epilogue::supports(self.c, self.epilogue, self.d, caps)
    }

    /// Rows that meet a matrix `b`, on average.
    pub fn rows(&self) -> usize {
        self.m.div_ceil(self.groups.max(1))
    }

    /// Tiles of `height` rows, at most: each group can have one that is not full.
    pub fn tiles(&self, height: usize) -> usize {
        match self.grouped {
            Some(_) => (self.m / height).saturating_add(self.groups.min(self.m)),
            None => self.m.div_ceil(height),
        }
    }

    /// Blocks for tiles of these sides; the largest number where it is beyond all.
    pub fn blocks(&self, height: usize, width: usize) -> usize {
        let tiles = [self.tiles(height), self.n.div_ceil(width), self.batch];
        tiles.into_iter().fold(1, usize::saturating_mul)
    }

    /// Elements along k that are added up by themselves: depends on nothing else.
    pub fn part(&self) -> usize {
        self.k.div_ceil(MOST_PARTS).next_multiple_of(PART_STEP).max(SHORTEST_PART)
    }

    /// How many parts that makes, at least one.
    pub fn parts(&self) -> usize {
        self.k.div_ceil(self.part()).max(1)
    }

    /// Multiply-adds.
    pub fn products(&self) -> f64 {
        [self.batch, self.m, self.n, self.k].into_iter().map(|d| d as f64).product()
    }

    /// Bytes that are read and written, without scales; of matrices `b` as many as there are rows
    /// at most.
    pub fn traffic(&self) -> f64 {
        let bytes = |operand: &Operand| {
            let elements = operand.dims().iter().map(|&d| d as f64).product::<f64>();
            match operand {
                Operand::Dense(dense) => elements * dense.dtype.size() as f64,
                Operand::Scaled(scaled) => elements / scaled.format.spec().codes_per_byte as f64,
            }
        };
        let read = (self.m as f64 / self.groups.max(1) as f64).min(1.0);
        bytes(self.a) + bytes(self.b) * read + bytes(self.d)
    }

    /// Refuses offsets that are not those of groups, for a product without elements: no kernel
    /// looks at them. Where the operation is recorded, to be run for others, nothing does.
    pub fn check(&self, launch: &Launch<'_>) -> Result<()> {
        match self.grouped {
            Some(_) if launch.locks().are_recorded() => Ok(()),
            Some(op) => op.groups(|operand| launch.read_indices(operand)).map(drop),
            None => Ok(()),
        }
    }

    /// How its result is quantised, to that.
    pub fn quantizing(&self, to: &Scaled) -> Quantizing {
        Quantizing::new(to, self.epilogue.quantizer, None)
    }

    /// Where kernels leave the result: in `d`, nowhere else where they quantise it, or as f32 for
    /// the one that does.
    fn bind_result(&self, in_tiles: bool, call: &mut Call<'_, '_>) -> Result<Matrix> {
        let dims = self.d.dims();
        match self.d {
            Operand::Dense(_) => Matrix::bind(call, "d", self.d, Access::Write, &dims),
            Operand::Scaled(_) if in_tiles => Ok(Matrix::default()),
            Operand::Scaled(_) => {
                let bytes = dims.iter().copied().fold(size_of::<f32>(), usize::saturating_mul);
                Ok(Matrix::f32_rows(call.scratch(bytes, "values to quantise")?, &dims))
            }
        }
    }

    /// The parameters for tiles of `height` rows, and the factors, `b` by columns.
    pub fn bind(
        &self,
        height: usize,
        blocks: Option<&BoundBlocks>,
        split: Split,
        call: &mut Call<'_, '_>,
    ) -> Result<(Args, [Source; 2])> {
        let d_dims = self.d.dims();
        // What stands before the sizes of `b`: the batch, or the groups.
        let matrices = match self.grouped {
            Some(_) => Dims::new(&[self.groups])?,
            None => Dims::new(d_dims.leading(2))?,
        };
        let a = Source::bind(call, "a", self.a, &[d_dims.leading(2), &[self.m, self.k]].concat())?;
        let b = Source::bind(call, "b", self.b, &[&matrices[..], &[self.k, self.n]].concat())?;
        let b = b.transposed();
        let added = (self.alpha, self.c, self.beta);
        let in_tiles = blocks.is_some_and(|blocks| blocks.of_tiles().is_some());
        let d = (self.bind_result(in_tiles, call)?, d_dims);
        let mut epilogue = Epilogue::bind(added, self.epilogue, d, self.n, call)?;
        let groups = match self.grouped {
            Some(op) => {
                epilogue.by_group();
                Groups::bind(op, self.tiles(height), call)?
            }
            None => Groups::default(),
        };
        let args = Args {
            a: a.matrix,
            b: b.matrix,
            a_scales: a.scales,
            b_scales: b.scales,
            epilogue,
            batch: batch_sizes(&d_dims),
            m: self.m as i32,
            n: self.n as i32,
            k: self.k as i32,
            part: self.part() as i32,
            groups,
            split: split.bind(self, call)?,
            amax: blocks.map_or(0, BoundBlocks::amax),
        };
        Ok((args, [a, b]))
    }
}

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Args {
    a: Matrix,
    b: Matrix,
    a_scales: Scales,
    b_scales: Scales,
    pub epilogue: Epilogue,
    batch: [i32; BATCH_RANK],
    m: i32,
    n: i32,
    k: i32,
    part: i32,
    groups: Groups,
    pub split: SplitArgs,
    amax: u64,
}

/// `Args` where the result is quantised.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct QuantizingArgs {
    args: Args,
    to: Blocks,
}

impl Args {
    /// Hands the parameter of a kernel over, of one that quantises where there is where to.
    pub fn pass<R>(&self, to: Option<Blocks>, f: impl FnOnce(&[u8]) -> R) -> R {
        match to {
            Some(to) => f(bytemuck::bytes_of(&QuantizingArgs { args: *self, to })),
            None => f(bytemuck::bytes_of(self)),
        }
    }
}

/// `Groups`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
struct Groups {
    offsets: u64,
    wrong: u64,
    step: i64,
    dtype: i32,
    count: i32,
    tiles: i32,
    rows: i32,
}

impl Groups {
    fn bind(op: &GroupedGemm, tiles: usize, call: &mut Call<'_, '_>) -> Result<Self> {
        let sizes = op.sizes()?;
        let dims = [sizes.groups + 1];
        let offsets = Matrix::bind_indices(call, "offsets", &op.offsets, Access::Read, &dims)?;
        let asked = op.clone();
        Ok(Groups {
            offsets: offsets.address,
            wrong: call.watch(move |word| asked.misplaced(!word as usize))?,
            step: offsets.col,
            dtype: offsets.dtype,
            count: sizes.groups as i32,
            tiles: tiles as i32,
            rows: sizes.total_m as i32,
        })
    }
}
