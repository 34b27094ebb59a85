//! Random operands: what they are made of, how they lie in memory, and their values.

use proptest::prelude::*;

use super::distribution::{Distribution, Random};
use super::expected::reference;
use crate::Device;
use crate::error::Result;
use crate::format::{Format, ScaleLayout};
use crate::memory::Region;
use crate::num::DType;
use crate::op::{Convert, Dense, Dims, Operand, Scaled};
use crate::tensor::AnyTensor;

/// What memory that nobody may read holds: NaN in every float type.
pub(super) const POISON: u8 = 0xFF;

/// The floats.
pub const FLOATS: [DType; 6] =
    [DType::F32, DType::F64, DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2];

/// Every float; half of them f32, which shows errors best, or bf16.
pub fn floats() -> impl Strategy<Value = DType> {
    prop_oneof![
        2 => Just(DType::F32),
        1 => Just(DType::BF16),
        3 => prop::sample::select(&FLOATS[..]),
    ]
}

/// The types of indices.
pub const INDICES: [DType; 3] = [DType::U32, DType::I32, DType::I64];

/// What an operand is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain elements.
    Plain(DType),
    /// A block format, by its default quantiser.
    Blocks(Format, ScaleLayout),
}

impl Kind {
    /// Every float and block format, with every scale layout that it has.
    pub fn any() -> impl Strategy<Value = Kind> {
        prop_oneof![2 => Kind::plain(), 1 => Kind::blocks()]
    }

    /// Every float, as [`floats`] has them.
    pub fn plain() -> impl Strategy<Value = Kind> {
        floats().prop_map(Kind::Plain)
    }

    /// Every block format, with every scale layout that it has.
    pub fn blocks() -> impl Strategy<Value = Kind> {
        (prop::sample::select(&Format::ALL[..]), prop::bool::weighted(0.3)).prop_map(
            |(format, tiled)| {
                let tiled = tiled && format.spec().scale.size() == 1;
                let layout = if tiled { ScaleLayout::Tiled128x4 } else { ScaleLayout::RowMajor };
                Kind::Blocks(format, layout)
            },
        )
    }

    /// FP4, its scales row by row.
    pub(super) fn fp4() -> impl Strategy<Value = Kind> {
        let formats = prop::sample::select(vec![Format::Nvfp4, Format::Mxfp4]);
        formats.prop_map(|format| Kind::Blocks(format, ScaleLayout::RowMajor))
    }

    /// Whether it is a block format.
    pub fn is_blocks(self) -> bool {
        matches!(self, Kind::Blocks(..))
    }

    /// An operand of this kind without data.
    pub(super) fn spec(self, dims: &[usize], layout: Layout) -> Result<Operand> {
        Ok(match self {
            Kind::Plain(dtype) => layout.spec(dtype, dims)?.0.into(),
            Kind::Blocks(format, scale_layout) => {
                Scaled { scale_layout, ..Scaled::spec(format, dims)? }.into()
            }
        })
    }
}

/// How the elements of a plain operand lie in memory. Block formats are always contiguous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Densely, in row-major order.
    #[default]
    RowMajor,
    /// The last two dimensions in the other order.
    Transposed,
    /// As a window of a larger array: gaps in every dimension, and an offset.
    Window,
    /// Every second element along the last dimension.
    Stepped,
    /// The outermost stride is huge.
    Far,
    /// The first element along the outermost dimension is all that there is: a stride of 0.
    /// As [`Layout::RowMajor`] for outputs.
    Repeated,
}

/// Elements from one index of the outermost dimension to the next in [`Layout::Far`].
const FAR: usize = 65_537;

impl Layout {
    /// Any; half of the time row-major.
    pub fn any() -> impl Strategy<Value = Layout> {
        prop_oneof![
            10 => Just(Layout::RowMajor),
            3 => Just(Layout::Transposed),
            3 => Just(Layout::Window),
            2 => Just(Layout::Stepped),
            1 => Just(Layout::Far),
            2 => Just(Layout::Repeated),
        ]
    }

    /// Layouts of the operands of an operation: all row-major, for kernels that take nothing else,
    /// or any mixture.
    pub fn each<const N: usize>() -> impl Strategy<Value = [Layout; N]> {
        let any = prop::collection::vec(Layout::any(), N).prop_map(|all| {
            let mut layouts = [Layout::RowMajor; N];
            layouts.copy_from_slice(&all);
            layouts
        });
        prop_oneof![1 => Just([Layout::RowMajor; N]), 1 => any]
    }

    /// An operand without data, how many elements its memory has, and which of them is the first.
    pub(super) fn spec(self, dtype: DType, dims: &[usize]) -> Result<(Dense, usize, usize)> {
        let mut dense = Dense::spec(dtype, dims)?;
        let rank = dims.len();
        let mut first = 0;
        match self {
            _ if dense.dims.contains(&0) || rank == 0 => {}
            Layout::Transposed if rank > 1 => {
                let mut swapped = dense.dims;
                swapped.swap(rank - 2, rank - 1);
                dense.strides = swapped.row_major_strides()?;
                dense.strides.swap(rank - 2, rank - 1);
            }
            Layout::Window => {
                let wider: Vec<usize> = dims.iter().map(|d| d + 2).collect();
                dense.strides = Dims::new(&wider)?.row_major_strides()?;
                first = dense.strides.iter().sum();
            }
            Layout::Stepped => {
                let mut wider = dense.dims;
                wider[rank - 1] *= 2;
                dense.strides = wider.row_major_strides()?;
                dense.strides[rank - 1] = 2;
                first = 1;
            }
            Layout::Far if dims[0] <= 8 && dense.strides[0] < FAR => dense.strides[0] = FAR,
            _ => {}
        }
        let total = first + dense.span()? + usize::from(first > 0);
        Ok((dense, total, first))
    }
}

/// Where the values of an operation's operands come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// How they are drawn.
    pub distribution: Distribution,
    /// What they are drawn from: the same values for the same seed.
    pub seed: u64,
}

impl Source {
    /// Any values.
    pub fn any() -> impl Strategy<Value = Source> {
        Self::of(Distribution::any())
    }

    /// Any values, a half of them not finite.
    pub fn often_non_finite() -> impl Strategy<Value = Source> {
        Self::of(prop_oneof![Distribution::any(), Just(Distribution::NonFinite)])
    }

    fn of(distribution: impl Strategy<Value = Distribution>) -> impl Strategy<Value = Source> {
        let source = |(distribution, seed)| Source { distribution, seed };
        (distribution, any::<u64>().no_shrink()).prop_map(source)
    }

    /// Other values of the same distribution.
    pub(super) fn salted(self, salt: u64) -> Source {
        Source { seed: Random(self.seed ^ salt << 56).bits(), ..self }
    }

    /// Normal values, whatever the distribution: for operands that make nothing of others.
    pub(super) fn normal(self, salt: u64) -> Source {
        Source { distribution: Distribution::Normal, ..self.salted(salt) }
    }

    pub(super) fn random(self) -> Random {
        Random(self.seed)
    }

    /// An operand of these values, its gaps poisoned. Blocks run along the last dimension; where
    /// the distribution has NaN and infinities, some of their scales are NaN.
    pub(super) fn operand(
        self,
        device: &Device,
        kind: Kind,
        dims: &[usize],
        layout: Layout,
    ) -> Result<Operand> {
        let (stored, repeated) = match (layout, dims) {
            (Layout::Repeated, [n, rest @ ..]) if *n > 0 && !kind.is_blocks() => {
                ([&[1], rest].concat(), Some(*n))
            }
            _ => (dims.to_vec(), None),
        };
        let non_finite = self.distribution == Distribution::NonFinite;
        let blocks = kind.is_blocks();
        let distribution = if blocks { self.distribution.or_normal() } else { self.distribution };
        let values = distribution.values(stored.iter().product(), self.seed);
        let mut operand = store(home(device), kind, &stored, layout, &values)?;
        match &mut operand {
            Operand::Scaled(scaled) if non_finite => self.spoil(scaled)?,
            Operand::Dense(dense) => {
                if let Some(n) = repeated {
                    (dense.dims[0], dense.strides[0]) = (n, 0);
                }
            }
            Operand::Scaled(_) => {}
        }
        moved(operand, device)
    }

    /// Makes one scale in ten NaN.
    fn spoil(self, scaled: &Scaled) -> Result<()> {
        let Some(data) = &scaled.data else { return Ok(()) };
        let layout = scaled.layout()?;
        let mut random = self.salted(99).random();
        let mut scales = data.scales.buffer().write()?;
        for batch in 0..layout.batch() {
            for at in 0..layout.scale_rows() * layout.scale_cols() {
                if random.below(10) > 0 {
                    continue;
                }
                let (row, col) = (at / layout.scale_cols(), at % layout.scale_cols());
                let at = layout.scale_index(batch, row, col);
                match layout.spec().scale {
                    DType::E8M0 => scales[at] = 0xFF,
                    DType::UE4M3 => scales[at] = 0x7F,
                    _ => scales[4 * at..4 * at + 4].copy_from_slice(&f32::NAN.to_ne_bytes()),
                }
            }
        }
        Ok(())
    }

    /// Indices below `n`, row-major.
    pub(super) fn indices(
        self,
        device: &Device,
        dtype: DType,
        dims: &[usize],
        n: usize,
    ) -> Result<Operand> {
        let mut random = self.random();
        let count = dims.iter().product();
        let values: Vec<f64> = (0..count).map(|_| random.below(n.max(1)) as f64).collect();
        integers(device, dtype, dims, &values)
    }
}

/// Integers as an operand.
pub(super) fn integers(
    device: &Device,
    dtype: DType,
    dims: &[usize],
    values: &[f64],
) -> Result<Operand> {
    moved(store(home(device), Kind::Plain(dtype), dims, Layout::RowMajor, values)?, device)
}

/// The device in whose memory the operands of another one are made: that one, if the host can touch
/// its memory.
fn home(device: &Device) -> &Device {
    if device.memory_kind().host_readable() { device } else { reference() }
}

/// An operand in the memory of a device.
fn moved(operand: Operand, device: &Device) -> Result<Operand> {
    if home(device).is_same(device) {
        return Ok(operand);
    }
    let made = AnyTensor::from_operand(reference(), operand);
    Ok(made.to_device(device)?.operand().clone())
}

/// Row-major values as an operand, its gaps poisoned.
pub(super) fn store(
    device: &Device,
    kind: Kind,
    dims: &[usize],
    layout: Layout,
    values: &[f64],
) -> Result<Operand> {
    let mut plain = Dense::spec(DType::F64, dims)?;
    let buffer = device.allocate(std::mem::size_of_val(values), "values")?;
    buffer.write()?.copy_from_slice(bytemuck::cast_slice(values));
    plain.data = Some(Region::whole(buffer));
    let operand: Operand = match kind {
        Kind::Plain(dtype) => {
            let (mut dense, total, first) = layout.spec(dtype, dims)?;
            let size = dtype.size();
            let buffer = device.allocate(total * size, dtype.name())?;
            buffer.write()?.fill(POISON);
            dense.data = Some(Region::new(buffer, first * size, dense.span()? * size)?);
            dense.into()
        }
        Kind::Blocks(format, scale_layout) => {
            let mut scaled = Scaled { scale_layout, ..Scaled::spec(format, dims)? };
            scaled.allocate(|bytes, label| device.allocate(bytes, label))?;
            scaled.into()
        }
    };
    reference().run(&Convert::new(plain, operand.clone()).into())?;
    Ok(operand)
}

/// Sizes around those of tiles, vectors and blocks, and none.
pub fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0usize),
        3 => Just(1usize),
        4 => 2usize..8,
        4 => prop::sample::select(vec![15, 16, 17, 23, 24, 25, 31, 32, 33, 48, 64, 65]),
        2 => 66usize..150,
    ]
}

/// Sizes of up to `rank` dimensions, at least one: the last as [`sizes`] has it, the others small.
pub fn shapes(rank: usize) -> impl Strategy<Value = Vec<usize>> {
    let leading = prop_oneof![1 => Just(0usize), 8 => Just(1), 8 => Just(2), 8 => 3usize..8];
    (prop::collection::vec(leading, 0..rank), sizes()).prop_map(|(mut dims, last)| {
        dims.push(last);
        dims
    })
}

/// An operand with its last two dimensions swapped.
pub(super) fn transposed(operand: Operand) -> Operand {
    match operand {
        Operand::Dense(mut dense) => {
            let rank = dense.dims.len();
            dense.dims.swap(rank - 2, rank - 1);
            dense.strides.swap(rank - 2, rank - 1);
            dense.into()
        }
        Operand::Scaled(scaled) => scaled.transposed().into(),
    }
}
