//! Sizes or strides of up to [`MAX_RANK`] dimensions, held inline.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::error::{Error, Result};

/// The most dimensions an operand can have.
pub const MAX_RANK: usize = 6;

/// Sizes or strides of up to [`MAX_RANK`] dimensions, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Dims {
    rank: usize,
    values: [usize; MAX_RANK],
}

impl Dims {
    /// Dims from a slice.
    ///
    /// # Errors
    /// [`Error::Shape`] beyond [`MAX_RANK`] dimensions.
    pub fn new(values: &[usize]) -> Result<Self> {
        if values.len() > MAX_RANK {
            return Err(Error::shape(
                "shape",
                "rank",
                format!("{} dimensions; at most {MAX_RANK} are supported", values.len()),
            ));
        }
        let mut dims = Dims { rank: values.len(), ..Dims::default() };
        dims.values[..values.len()].copy_from_slice(values);
        Ok(dims)
    }

    /// Dims from an array, whose length is checked at compile time.
    pub fn from_array<const R: usize>(values: [usize; R]) -> Self {
        const { assert!(R <= MAX_RANK, "more dimensions than MAX_RANK") };
        let mut dims = Dims { rank: R, ..Dims::default() };
        dims.values[..R].copy_from_slice(&values);
        dims
    }

    /// The product of all sizes, or an error where it does not fit a `usize`.
    pub fn numel(&self) -> Result<usize> {
        // A zero anywhere makes the product zero, even beside sizes that would overflow.
        if self.contains(&0) {
            return Ok(0);
        }
        self.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(|| {
            Error::shape(
                "shape",
                "size",
                format!("{self} has more elements than a usize can count"),
            )
        })
    }

    /// Row-major strides for these sizes, in elements.
    pub fn row_major_strides(&self) -> Result<Dims> {
        self.numel()?;
        let mut strides = *self;
        let mut step = 1usize;
        for axis in (0..self.rank).rev() {
            strides.values[axis] = step;
            step = step.saturating_mul(self.values[axis].max(1));
        }
        Ok(strides)
    }

    /// As an array, where the rank is `R`.
    ///
    /// # Errors
    /// [`Error::Shape`] when it is not.
    pub fn to_array<const R: usize>(&self) -> Result<[usize; R]> {
        self[..].try_into().map_err(|_| {
            let found = self.rank;
            Error::shape("shape", "rank", format!("{self} has {found} dimensions, not {R}"))
        })
    }

    /// The outermost dimensions, without the last `n`.
    pub fn leading(&self, n: usize) -> &[usize] {
        &self[..self.rank.saturating_sub(n)]
    }
}

impl Deref for Dims {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.values[..self.rank]
    }
}

impl DerefMut for Dims {
    fn deref_mut(&mut self) -> &mut [usize] {
        &mut self.values[..self.rank]
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
