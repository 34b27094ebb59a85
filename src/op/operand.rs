//! What an operation knows of its operands.

use std::fmt;

use super::dims::Dims;
use crate::error::{Error, Result};
use crate::format::{BlockLayout, Format, ScaleLayout};
use crate::memory::{Access, Buffer, Region};
use crate::num::DType;

/// A strided array of plain elements.
///
/// Element `[i, j, …]` is at `i·strides[0] + j·strides[1] + …` elements from the start of `data`.
/// Strides may be 0 (broadcast) or overlap in inputs, never in outputs.
#[derive(Clone, Debug)]
pub struct Dense {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub dims: Dims,
    /// Strides in elements.
    pub strides: Dims,
    /// The bytes, from the first element on. `None` in a specification that is only explained.
    pub data: Option<Region>,
}

/// A contiguous array in a block-scaled format, blocks along the last storage dimension.
#[derive(Clone, Debug)]
pub struct Scaled {
    /// The format.
    pub format: Format,
    /// Sizes as stored: `[.., rows, k]`.
    pub dims: Dims,
    /// Whether the operation sees the last two dimensions swapped.
    pub transposed: bool,
    /// How the block scales lie.
    pub scale_layout: ScaleLayout,
    /// The bytes. `None` in a specification that is only explained.
    pub data: Option<ScaledData>,
}

/// The bytes of a [`Scaled`] operand.
#[derive(Clone, Debug)]
pub struct ScaledData {
    /// Codes, rows padded to whole blocks.
    pub codes: Region,
    /// Block scales.
    pub scales: Region,
    /// The f32 tensor scale of formats that have one.
    pub tensor_scale: Option<Region>,
}

/// An operand: its type, sizes and layout, and where its bytes are.
#[derive(Clone, Debug)]
pub enum Operand {
    /// Plain elements.
    Dense(Dense),
    /// Block-scaled codes.
    Scaled(Scaled),
}

impl Dense {
    /// A contiguous operand without data, for `explain`.
    pub fn spec(dtype: DType, dims: &[usize]) -> Result<Self> {
        let dims = Dims::new(dims)?;
        Ok(Dense { dtype, strides: dims.row_major_strides()?, dims, data: None })
    }

    /// How many elements lie between the first and the last, both included.
    pub fn span(&self) -> Result<usize> {
        if self.dims.contains(&0) {
            return Ok(0);
        }
        let last = self
            .dims
            .iter()
            .zip(self.strides.iter())
            .try_fold(0usize, |at, (&d, &s)| at.checked_add((d - 1).checked_mul(s)?));
        last.and_then(|l| l.checked_add(1)).ok_or_else(|| {
            Error::shape(
                "operand",
                "strides",
                format!("sizes {} with strides {} reach past a usize", self.dims, self.strides),
            )
        })
    }

    /// Whether the elements lie densely in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1usize;
        if self.dims.contains(&0) {
            return true;
        }
        for (&d, &s) in self.dims.iter().zip(self.strides.iter()).rev() {
            if d != 1 && s != step {
                return false;
            }
            step = step.saturating_mul(d);
        }
        true
    }

    /// How many elements from the first one each element lies, in row-major order.
    pub fn offsets(&self) -> Vec<usize> {
        let mut offsets = vec![0];
        for (&size, &stride) in self.dims.iter().zip(self.strides.iter()) {
            let steps = |start: usize| (0..size).map(move |i| start + i * stride);
            offsets = offsets.into_iter().flat_map(steps).collect();
        }
        offsets
    }

    /// Whether two different indices can reach the same element. Conservative: dimensions that
    /// interleave count as overlapping.
    pub fn overlaps_itself(&self) -> bool {
        let mut axes: Vec<(usize, usize)> = self
            .strides
            .iter()
            .zip(self.dims.iter())
            .filter(|(_, d)| **d > 1)
            .map(|(&s, &d)| (s, d))
            .collect();
        axes.sort_unstable();
        let mut reach = 0usize;
        for (stride, size) in axes {
            if stride <= reach {
                return true;
            }
            reach = reach.saturating_add((size - 1).saturating_mul(stride));
        }
        false
    }

    fn validate(&self, op: &'static str, arg: &'static str, access: Access) -> Result<()> {
        if self.dims.len() != self.strides.len() {
            return Err(Error::layout(
                op,
                arg,
                format!("{} sizes but {} strides", self.dims.len(), self.strides.len()),
            ));
        }
        let span = self.span()?;
        if access == Access::Write && self.overlaps_itself() {
            return Err(Error::layout(
                op,
                arg,
                format!(
                    "an output of sizes {} and strides {} writes some element twice; \
                     give it memory of its own",
                    self.dims, self.strides
                ),
            ));
        }
        if let Some(region) = &self.data {
            let need = span.saturating_mul(self.dtype.size());
            if need > region.len() {
                return Err(Error::layout(
                    op,
                    arg,
                    format!("{self} spans {need} bytes, but its region has {}", region.len()),
                ));
            }
        }
        Ok(())
    }
}

impl Scaled {
    /// An operand without data, for `explain`. `dims` as stored: `[.., rows, k]`.
    pub fn spec(format: Format, dims: &[usize]) -> Result<Self> {
        Ok(Scaled {
            format,
            dims: Dims::new(dims)?,
            transposed: false,
            scale_layout: ScaleLayout::RowMajor,
            data: None,
        })
    }

    /// The same operand with the last two dimensions swapped.
    pub fn transposed(mut self) -> Self {
        self.transposed = !self.transposed;
        self
    }

    /// Sizes as the operation sees them.
    pub fn logical_dims(&self) -> Dims {
        let mut dims = self.dims;
        let rank = dims.len();
        if self.transposed && rank >= 2 {
            dims.swap(rank - 2, rank - 1);
        }
        dims
    }

    /// Sizes and offsets of codes and scales.
    pub fn layout(&self) -> Result<BlockLayout> {
        let (rows, k) = match self.dims[..] {
            [] => (1, 1),
            [k] => (1, k),
            [.., rows, k] => (rows, k),
        };
        let batch = Dims::new(self.dims.leading(2))?.numel()?;
        BlockLayout::new(self.format, self.scale_layout, batch, rows, k)
    }

    fn validate(&self, op: &'static str, arg: &'static str) -> Result<()> {
        let layout = self.layout()?;
        let Some(data) = &self.data else { return Ok(()) };
        let tensor_scale = data.tensor_scale.as_ref().map_or(0, |r| r.len() / size_of::<f32>());
        let found = (data.codes.len(), data.scales.len(), tensor_scale);
        let need = (layout.codes_len(), layout.scales_bytes(), layout.tensor_scale_len());
        if found.0 < need.0 || found.1 < need.1 || found.2 != need.2 {
            return Err(Error::layout(
                op,
                arg,
                format!(
                    "{self} needs {} code bytes, {} scale bytes and {} tensor scales; \
                     its regions have {}, {} and {}",
                    need.0, need.1, need.2, found.0, found.1, found.2
                ),
            ));
        }
        Ok(())
    }
}

impl Scaled {
    /// Gives it zeroed memory of its own, by the caller's means of allocating `(bytes, label)`.
    pub(crate) fn allocate(
        &mut self,
        mut allocate: impl FnMut(usize, String) -> Result<Buffer>,
    ) -> Result<()> {
        let layout = self.layout()?;
        let format = self.format;
        let mut region =
            |bytes, part| allocate(bytes, format!("{format} {part}")).map(Region::whole);
        self.data = Some(ScaledData {
            codes: region(layout.codes_len(), "codes")?,
            scales: region(layout.scales_bytes(), "scales")?,
            tensor_scale: match layout.tensor_scale_len() {
                0 => None,
                n => Some(region(n * size_of::<f32>(), "tensor scale")?),
            },
        });
        Ok(())
    }

    /// The same operand over copies of its bytes.
    pub(crate) fn with_copies(&self, copy: impl Fn(&Region) -> Result<Region>) -> Result<Self> {
        let copies = |data: &ScaledData| -> Result<ScaledData> {
            Ok(ScaledData {
                codes: copy(&data.codes)?,
                scales: copy(&data.scales)?,
                tensor_scale: data.tensor_scale.as_ref().map(&copy).transpose()?,
            })
        };
        let data = self.data.as_ref().map(copies).transpose()?;
        Ok(Scaled { data, ..self.clone() })
    }
}

impl Operand {
    /// Sizes as the operation sees them.
    pub fn dims(&self) -> Dims {
        match self {
            Operand::Dense(dense) => dense.dims,
            Operand::Scaled(scaled) => scaled.logical_dims(),
        }
    }

    /// The dense operand, or `None` for a block-scaled one.
    pub fn as_dense(&self) -> Option<&Dense> {
        match self {
            Operand::Dense(dense) => Some(dense),
            Operand::Scaled(_) => None,
        }
    }

    /// The block-scaled operand, or `None` for a dense one.
    pub fn as_scaled(&self) -> Option<&Scaled> {
        match self {
            Operand::Dense(_) => None,
            Operand::Scaled(scaled) => Some(scaled),
        }
    }

    /// The element type, or `None` for a block-scaled operand.
    pub fn dtype(&self) -> Option<DType> {
        self.as_dense().map(|d| d.dtype)
    }

    /// Refuses integers, scales and packed codes.
    pub fn require_float(&self, op: &'static str, arg: &'static str) -> Result<()> {
        match self.dtype() {
            Some(dtype) if !dtype.is_float() => Err(Error::dtype(
                op,
                arg,
                format!("{arg} is {self}: a float or block format is expected; cast it first"),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses block formats and anything but floats.
    pub fn require_dense_float(&self, op: &'static str, arg: &'static str) -> Result<()> {
        match self.dtype() {
            Some(dtype) if dtype.is_float() => Ok(()),
            Some(_) => Err(Error::dtype(
                op,
                arg,
                format!("{arg} is {self}: a float is expected; cast it first"),
            )),
            None => Err(Error::dtype(
                op,
                arg,
                format!("{arg} is {self}: plain elements are expected; dequantize it first"),
            )),
        }
    }

    /// Refuses all but one of these data types.
    pub fn require_dtype(&self, op: &'static str, arg: &'static str, of: &[DType]) -> Result<()> {
        if self.dtype().is_some_and(|dtype| of.contains(&dtype)) {
            return Ok(());
        }
        let names: Vec<_> = of.iter().map(|d| d.name()).collect();
        let expected = names.join(" or ");
        Err(Error::dtype(
            op,
            arg,
            format!("{arg} is {self}: {expected} is expected; cast it first"),
        ))
    }

    /// Whether its bytes are bound.
    pub fn has_data(&self) -> bool {
        match self {
            Operand::Dense(dense) => dense.data.is_some(),
            Operand::Scaled(scaled) => scaled.data.is_some(),
        }
    }

    /// Checks sizes, strides and regions against each other.
    pub fn validate(&self, op: &'static str, arg: &'static str, access: Access) -> Result<()> {
        match self {
            Operand::Dense(dense) => dense.validate(op, arg, access),
            Operand::Scaled(scaled) => scaled.validate(op, arg),
        }
    }

    /// The parts of its bytes: elements, or codes, scales and tensor scale.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        let regions = match self {
            Operand::Dense(dense) => [dense.data.as_ref(), None, None],
            Operand::Scaled(scaled) => match &scaled.data {
                Some(data) => [Some(&data.codes), Some(&data.scales), data.tensor_scale.as_ref()],
                None => [None; 3],
            },
        };
        regions.into_iter().flatten()
    }
}

/// One operand of an operation, and how it is used.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// The argument's name.
    pub name: &'static str,
    /// Whether it is written.
    pub access: Access,
    /// The operand.
    pub operand: &'a Operand,
}

impl<'a> Use<'a> {
    /// An input.
    pub fn read(name: &'static str, operand: &'a Operand) -> Self {
        Use { name, access: Access::Read, operand }
    }

    /// An output.
    pub fn write(name: &'static str, operand: &'a Operand) -> Self {
        Use { name, access: Access::Write, operand }
    }
}

impl From<Dense> for Operand {
    fn from(dense: Dense) -> Self {
        Operand::Dense(dense)
    }
}

impl From<Scaled> for Operand {
    fn from(scaled: Scaled) -> Self {
        Operand::Scaled(scaled)
    }
}

impl fmt::Display for Dense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.dims, self.dtype)?;
        if !self.is_contiguous() {
            write!(f, " strides {}", self.strides)?;
        }
        Ok(())
    }
}

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.logical_dims(), self.format)?;
        if self.transposed {
            write!(f, " transposed")?;
        }
        if self.scale_layout != ScaleLayout::RowMajor {
            write!(f, " scales {:?}", self.scale_layout)?;
        }
        Ok(())
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Dense(dense) => dense.fmt(f),
            Operand::Scaled(scaled) => scaled.fmt(f),
        }
    }
}
