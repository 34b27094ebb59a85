//! Block-scaled storage formats: narrow codes plus the scales that give them range.
//!
//! Every format here is one rule with different parameters. A matrix of `rows × k` values is cut
//! into blocks of `block_rows × block_k`; a value is
//!
//! ```text
//! x[r, c] = decode(code[r, c]) · decode(scale[r / block_rows, c / block_k]) · g
//! ```
//!
//! where `g` is the tensor scale for formats that have one, else 1.

mod codec;
mod dequantize;
mod layout;
mod quantize;
mod quantizer;
mod scale;
mod spec;

pub use dequantize::{Dequantizer, dequantize, dequantize_f64};
pub use layout::{BlockLayout, TILE_COLS, TILE_ROWS, convert_scales};
pub use quantize::{NonFinite, Quantized, RowQuantizer, amax, quantize};
pub use quantizer::{QuantizeOptions, Quantizer};
pub use spec::{BlockFormat, Format, FormatSpec, ScaleLayout, WHOLE};
pub use spec::{Fp8Block128, Fp8Group128, Fp8PerRow, Fp8PerTensor, Mxfp4, Mxfp8, Nvfp4};
