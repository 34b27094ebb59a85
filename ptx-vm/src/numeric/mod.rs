//! Number formats and their rounding, from first principles: a value is a sign, an integer
//! and a power of two, and [`round`] is the one place where bits are dropped.

pub(crate) mod directed;
pub(crate) mod element;
pub(crate) mod float;
pub(crate) mod native;
pub(crate) mod product;
pub(crate) mod sum;

pub(crate) use float::{Decoded, Format, Rounding, Value, decode};
