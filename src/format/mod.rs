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
//!
//! | format | type | code | block | scale | bytes per 1000 values | worst error of a value | of a small value |
//! |---|---|---|---|---|---|---|---|
//! | `nvfp4` | [`Nvfp4`] | E2M1 | 1 × 16 | UE4M3, and f32 for the tensor | 562.5 | 1/5 | s·g/4 below s·g |
//! | `mxfp4` | [`Mxfp4`] | E2M1 | 1 × 32 | E8M0 | 531.25 | 1/5 | s/4 below s |
//! | `mxfp8` | [`Mxfp8`] | E4M3 | 1 × 32 | E8M0 | 1031.25 | 1/17 | s·2^-10 below s·2^-6 |
//! | `mxfp8e5m2` | [`Mxfp8<F8E5M2>`](Mxfp8) | E5M2 | 1 × 32 | E8M0 | 1031.25 | 1/9 | s·2^-17 below s·2^-14 |
//! | `fp8` | [`Fp8PerTensor`] | E4M3 | the matrix | f32 | 1000 | 1/17 | s·2^-10 below s·2^-6 |
//! | `fp8e5m2` | [`Fp8PerTensor<F8E5M2>`](Fp8PerTensor) | E5M2 | the matrix | f32 | 1000 | 1/9 | s·2^-17 below s·2^-14 |
//! | `fp8row` | [`Fp8PerRow`] | E4M3 | a row | f32 | 1000 + 4 a row | 1/17 | s·2^-10 below s·2^-6 |
//! | `fp8group128` | [`Fp8Group128`] | E4M3 | 1 × 128 | f32 | 1031.25 | 1/17 | s·2^-10 below s·2^-6 |
//! | `fp8block128` | [`Fp8Block128`] | E4M3 | 128 × 128 | f32 | 1000.25 | 1/17 | s·2^-10 below s·2^-6 |
//!
//! Bytes are of whole blocks; a tail of k is stored as a whole block. Errors are relative to the
//! value for values that are neither small nor saturated: codes are rounded to nearest, so the
//! error is at most half the step between codes, widest relative to the value at the first midpoint
//! of a binade. Small values, which get subnormal codes, err by the absolute amount in the last
//! column at most. What a value exceeds the largest code by is lost on top; how far that can be is
//! the [`Quantizer`]'s affair: under [`Quantizer::Ocp`] up to a quarter of the value in MXFP4 and
//! an eighth in MXFP8, under [`Quantizer::Amax`] nothing but 1/17 in NVFP4, whose scales are
//! themselves rounded.
//!
//! What a quantiser costs a model is not the squared error of its weights: on SmolLM2-135M, as the
//! README's table measures it, NVFP4 by [`Quantizer::Mse`] is worse than by
//! [`Quantizer::FourOverSix`] (20% above f32 to 13%), the best of those without data. With
//! [error feedback](RowQuantizer::quantize_row_gptq) for a calibration text of 5,632 tokens,
//! layer by layer, and scales by `Mse`, it was 5.5% (8.6% with a text of another kind), and 2.0% with
//! inputs and weights rotated in blocks before, for a minute or so of two cores. FP8 with a scale a tensor is 0.4% above f32 by `Mse`, 1.2% by `Amax`.
//!
//! [`BlockLayout`] says where codes and scales lie, [`quantize`] and [`dequantize`] convert whole
//! tensors, [`RowQuantizer`] and [`Dequantizer`] do the same piece by piece. All work on slices.

mod codec;
mod dequantize;
mod gptq;
mod layout;
mod quantize;
mod quantizer;
mod scale;
mod spec;

pub use dequantize::{Dequantizer, dequantize, dequantize_f64};
pub use gptq::HessianFactor;
pub use layout::{BlockLayout, TILE_COLS, TILE_ROWS, convert_scales};
pub use quantize::{NonFinite, Quantized, RowQuantizer, amax, quantize};
pub use quantizer::{QuantizeOptions, Quantizer};
pub use spec::{BlockFormat, Format, FormatSpec, ScaleLayout, WHOLE};
pub use spec::{Fp8Block128, Fp8Group128, Fp8PerRow, Fp8PerTensor, Mxfp4, Mxfp8, Nvfp4};
