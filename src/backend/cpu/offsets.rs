//! Where matrices or lines of an operand lie.

use crate::error::Result;
use crate::memory::room;

/// Row-major strides of some sizes.
pub(super) fn row_major(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    strides
}

/// Where matrices or lines lie: `step` apart from 0 on, or anywhere.
#[derive(Clone, Debug)]
pub(super) enum Offsets {
    Even { step: usize, len: usize },
    Each(Vec<usize>),
}

impl Offsets {
    pub(super) fn len(&self) -> usize {
        match self {
            Offsets::Even { len, .. } => *len,
            Offsets::Each(offsets) => offsets.len(),
        }
    }

    pub(super) fn get(&self, i: usize) -> Option<usize> {
        match self {
            Offsets::Even { step, len } => (i < *len).then(|| i * step),
            Offsets::Each(offsets) => offsets.get(i).copied(),
        }
    }

    /// One of them.
    ///
    /// # Panics
    /// Where there are not so many.
    pub(super) fn at(&self, i: usize) -> usize {
        match self {
            Offsets::Even { step, len } => {
                assert!(i < *len, "offset {i} of {len}");
                i * step
            }
            Offsets::Each(offsets) => offsets[i],
        }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = usize> + Clone {
        (0..self.len()).map(|i| self.at(i))
    }
}

/// Where each element of `batch_dims` (row-major) lies, for sizes that broadcast to them.
pub(super) fn batch_offsets(
    dims: &[usize],
    strides: &[usize],
    batch_dims: &[usize],
) -> Result<Offsets> {
    let skip = batch_dims.len() - dims.len();
    // Of each size that counts, from the last on, with what lies between its elements.
    let sizes = batch_dims.iter().enumerate().rev().map(|(axis, &size)| {
        let own = axis.checked_sub(skip).filter(|&own| dims[own] != 1);
        (size, own.map_or(0, |own| strides[own]))
    });
    let mut even = Some((1usize, 0usize));
    for (size, stride) in sizes.clone().filter(|(size, _)| *size != 1) {
        even = match even {
            Some((1, _)) => Some((size, stride)),
            Some((len, step)) if step.checked_mul(len) == Some(stride) => Some((len * size, step)),
            _ => None,
        };
    }
    if let Some((len, step)) = even {
        return Ok(Offsets::Even { step, len });
    }
    let count = batch_dims.iter().product();
    let mut offsets = room(count)?;
    offsets.extend((0..count).map(|index| {
        let (mut rest, mut offset) = (index, 0);
        for (size, stride) in sizes.clone() {
            offset += rest % size * stride;
            rest /= size;
        }
        offset
    }));
    Ok(Offsets::Each(offsets))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As [`batch_offsets`], by the definition: the place of each index.
    fn by_index(dims: &[usize], strides: &[usize], batch_dims: &[usize]) -> Vec<usize> {
        let skip = batch_dims.len() - dims.len();
        let places = row_major(batch_dims);
        let offset = |index: usize| {
            let of = |axis: usize| if dims[axis] == 1 { 0 } else { strides[axis] };
            let at = |axis: usize| index / places[skip + axis] % batch_dims[skip + axis];
            (0..dims.len()).map(|axis| at(axis) * of(axis)).sum()
        };
        (0..batch_dims.iter().product()).map(offset).collect()
    }

    #[test]
    fn offsets_are_those_of_each_index() {
        /// Sizes, strides, sizes that they broadcast to, and whether offsets are even.
        type Case<'a> = (&'a [usize], &'a [usize], &'a [usize], bool);
        let cases: [Case<'_>; 10] = [
            (&[], &[], &[], true),
            (&[], &[], &[2, 3], true),
            (&[2, 3], &[12, 4], &[2, 3], true),
            (&[2, 3], &[16, 4], &[2, 3], false),
            (&[2, 3], &[4, 8], &[2, 3], false),
            (&[3], &[5], &[1, 3], true),
            (&[3], &[5], &[2, 3], false),
            (&[2, 1], &[5, 99], &[2, 1], true),
            (&[2, 1], &[5, 99], &[2, 3], false),
            (&[0, 3], &[3, 1], &[0, 3], true),
        ];
        for (dims, strides, batch_dims, even) in cases {
            let found = batch_offsets(dims, strides, batch_dims).unwrap();
            let wanted = by_index(dims, strides, batch_dims);
            let case = format!("{dims:?} {strides:?} as {batch_dims:?}: {found:?}");
            assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{case}");
            assert_eq!(matches!(found, Offsets::Even { .. }), even, "{case}");
        }
    }

    #[test]
    fn offsets_end_where_there_are_no_more() {
        for offsets in [Offsets::Even { step: 4, len: 3 }, Offsets::Each(vec![0, 4, 8])] {
            assert_eq!((offsets.len(), offsets.get(2), offsets.at(2)), (3, Some(8), 8));
            assert_eq!(offsets.get(3), None);
            assert!(std::panic::catch_unwind(|| offsets.at(3)).is_err());
        }
    }
}
