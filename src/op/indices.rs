//! Integers that are data: offsets, lengths and indices, checked when an operation runs.

use std::ops::Range;

use super::gather::Gather;
use super::operand::Operand;
use crate::error::{Error, Result};

/// Refuses an operand that does not hold indices in the given sizes.
pub(crate) fn require_index(
    op: &'static str,
    arg: &'static str,
    operand: &Operand,
    dims: &[usize],
) -> Result<()> {
    operand.require_dtype(op, arg, &Gather::INDEX_TYPES)?;
    super::check::require_dims(op, arg, operand, dims)
}

/// The ranges between successive offsets, which begin at 0, never fall and end at `total`.
pub(crate) fn offsets(
    op: &'static str,
    arg: &'static str,
    values: &[i64],
    total: usize,
) -> Result<Vec<Range<usize>>> {
    let wrong = |problem: String| Err(Error::value(op, arg, problem));
    match values {
        [] => return wrong("it is empty; offsets begin at 0".to_owned()),
        [first, ..] if *first != 0 => {
            return wrong(format!("it begins at {first}; offsets begin at 0"));
        }
        [.., last] if usize::try_from(*last) != Ok(total) => {
            return wrong(format!("it ends at {last}, but there are {total} rows to cover"));
        }
        _ => {}
    }
    let mut ranges = Vec::with_capacity(values.len() - 1);
    for (i, pair) in values.windows(2).enumerate() {
        match (usize::try_from(pair[0]), usize::try_from(pair[1])) {
            (Ok(start), Ok(end)) if start <= end => ranges.push(start..end),
            _ => {
                return wrong(format!(
                    "element {} is {}, below the {} before it; offsets never fall",
                    i + 1,
                    pair[1],
                    pair[0]
                ));
            }
        }
    }
    Ok(ranges)
}

/// Values from 0 to `most`.
pub(crate) fn lengths(
    op: &'static str,
    arg: &'static str,
    values: &[i64],
    most: usize,
) -> Result<Vec<usize>> {
    bounded(values, |n| n <= most).map_err(|(i, value)| {
        Error::value(op, arg, format!("element {i} is {value}; 0 to {most} is possible here"))
    })
}

/// Values below `count`.
pub(crate) fn indices(
    op: &'static str,
    arg: &'static str,
    values: &[i64],
    count: usize,
) -> Result<Vec<usize>> {
    bounded(values, |n| n < count).map_err(|(i, value)| {
        Error::value(op, arg, format!("element {i} is {value}, not an index below {count}"))
    })
}

/// All values, or the first that is refused and where it is.
fn bounded(values: &[i64], allowed: impl Fn(usize) -> bool) -> Result<Vec<usize>, (usize, i64)> {
    let check = |(i, &value): (usize, &i64)| {
        usize::try_from(value).ok().filter(|&n| allowed(n)).ok_or((i, value))
    };
    values.iter().enumerate().map(check).collect()
}
