//! `.npy`, NumPy's file format for one array.
//!
//! ```text
//! \x93NUMPY  major:u8 minor:u8  header_len:u16 (version 1) or u32 (2 and 3)
//! {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  spaces, newline  data
//! ```
//!
//! The three versions of the format (NEP 1, and [`numpy.lib.format`] for what came later) are
//! read. The header is a literal of Python, of which this reads what such a header can hold, and
//! nothing is ever evaluated; arrays of objects, which are Python pickles, are refused.
//!
//! | `descr` | read as |
//! |---|---|
//! | `i1 i2 i4 i8`, `u1 u2 u4 u8`, `f2 f4 f8` | those element types |
//! | `b1` | [`DType::U8`](crate::DType::U8), 0 or 1 |
//! | `V1`, `V2`, … | bytes without a meaning, as `ml_dtypes` writes bf16 and FP8: by the typed calls, as any element type of that size |
//!
//! Little-endian arrays are used in place ([`Npy::get`]), in Fortran order as a strided view;
//! big-endian ones are read into memory ([`Npy::read`]).
//!
//! [`numpy.lib.format`]: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

mod file;
mod header;
mod literal;
mod save;

pub use file::Npy;
pub use header::{Header, MAX_HEADER, MAX_SIZES};
pub use save::save;
