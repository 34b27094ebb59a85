//! How ggml stores values: plain elements and blocks of 32 (or 64) with a scale.
//!
//! Blocks are decoded in `f32`. A stored scale has at most 11 significant bits (`f16`) and a code
//! at most 8, so `scale · code` is exact; formats with a minimum add it, which is the only
//! rounding. The K-quants multiply two scales first (17 bits) and then the code (at most 23), still
//! exact. Decoding therefore does not depend on the order of the products or on fused
//! multiply-add, and agrees bit for bit with every engine that computes in `f32`.
//!
//! | type | bytes | layout | value |
//! |---|---|---|---|
//! | Q4_0 | 18 | d:f16, 16 bytes of nibbles | d·(q − 8) |
//! | Q4_1 | 20 | d:f16, m:f16, 16 bytes of nibbles | d·q + m |
//! | Q5_0 | 22 | d:f16, 32 high bits, 16 bytes of nibbles | d·(q − 16) |
//! | Q5_1 | 24 | d:f16, m:f16, 32 high bits, 16 bytes of nibbles | d·q + m |
//! | Q8_0 | 34 | d:f16, 32 × i8 | d·q |
//! | MXFP4 | 17 | e:E8M0, 16 bytes of E2M1 codes | e2m1(q)·2^(e−127) |
//! | NVFP4 | 36 | 4 × UE4M3, 4 × 8 bytes of E2M1 codes | e2m1(q)·ue4m3(s) |
//!
//! Byte `i` of a run of nibbles holds element `i` in its low half and element `i + run` in its
//! high half, where `run` is the number of bytes: unlike this crate's own packed formats, where
//! a byte holds neighbours.

use std::fmt;

use half::{bf16, f16};

use super::kquants;
use crate::error::{Error, Result};
use crate::num::{DType, E2M1, E8M0, UE4M3};

macro_rules! block_types {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $len:literal, $bytes:literal;)*) => {
        /// A ggml storage type: plain elements, or blocks of values that share scales.
        ///
        /// The 2- and 3-bit types, the `IQ`, `TQ` and activation types are known by size, so that
        /// files with them open, but [`BlockType::decode`] refuses them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        // ggml's own spelling.
        #[allow(non_camel_case_types)]
        pub enum BlockType {
            $($(#[$doc])* $name,)*
        }

        impl BlockType {
            /// Every type.
            pub const ALL: &[BlockType] = &[$(BlockType::$name),*];

            /// The type of a number in a GGUF file (`ggml_type`).
            pub const fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The number in a GGUF file (`ggml_type`).
            pub const fn code(self) -> u32 {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// Values in a block; 1 for plain elements.
            pub const fn block_len(self) -> usize {
                match self {
                    $(Self::$name => $len,)*
                }
            }

            /// Bytes of a block.
            pub const fn block_bytes(self) -> usize {
                match self {
                    $(Self::$name => $bytes,)*
                }
            }

            /// The name, as ggml writes it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

block_types! {
    /// IEEE binary32.
    F32 = 0, "F32", 1, 4;
    /// IEEE binary16.
    F16 = 1, "F16", 1, 2;
    /// 4-bit codes around 8, one scale per 32.
    Q4_0 = 2, "Q4_0", 32, 18;
    /// 4-bit codes, scale and minimum per 32.
    Q4_1 = 3, "Q4_1", 32, 20;
    /// 5-bit codes around 16, one scale per 32.
    Q5_0 = 6, "Q5_0", 32, 22;
    /// 5-bit codes, scale and minimum per 32.
    Q5_1 = 7, "Q5_1", 32, 24;
    /// 8-bit codes, one scale per 32.
    Q8_0 = 8, "Q8_0", 32, 34;
    /// An activation type of ggml's own arithmetic; not decoded.
    Q8_1 = 9, "Q8_1", 32, 36;
    /// 2-bit K-quant; not decoded.
    Q2_K = 10, "Q2_K", 256, 84;
    /// 3-bit K-quant; not decoded.
    Q3_K = 11, "Q3_K", 256, 110;
    /// 4-bit codes, 6-bit scale and minimum per 32, both scaled per 256.
    Q4_K = 12, "Q4_K", 256, 144;
    /// 5-bit codes, 6-bit scale and minimum per 32, both scaled per 256.
    Q5_K = 13, "Q5_K", 256, 176;
    /// 6-bit codes around 32, 8-bit scale per 16, scaled per 256.
    Q6_K = 14, "Q6_K", 256, 210;
    /// An activation type of ggml's own arithmetic; not decoded.
    Q8_K = 15, "Q8_K", 256, 292;
    /// 2-bit codebook type; not decoded.
    IQ2_XXS = 16, "IQ2_XXS", 256, 66;
    /// 2-bit codebook type; not decoded.
    IQ2_XS = 17, "IQ2_XS", 256, 74;
    /// 3-bit codebook type; not decoded.
    IQ3_XXS = 18, "IQ3_XXS", 256, 98;
    /// 1-bit codebook type; not decoded.
    IQ1_S = 19, "IQ1_S", 256, 50;
    /// 4-bit codebook type; not decoded.
    IQ4_NL = 20, "IQ4_NL", 32, 18;
    /// 3-bit codebook type; not decoded.
    IQ3_S = 21, "IQ3_S", 256, 110;
    /// 2-bit codebook type; not decoded.
    IQ2_S = 22, "IQ2_S", 256, 82;
    /// 4-bit codebook type; not decoded.
    IQ4_XS = 23, "IQ4_XS", 256, 136;
    /// Signed 8-bit integers.
    I8 = 24, "I8", 1, 1;
    /// Signed 16-bit integers.
    I16 = 25, "I16", 1, 2;
    /// Signed 32-bit integers.
    I32 = 26, "I32", 1, 4;
    /// Signed 64-bit integers.
    I64 = 27, "I64", 1, 8;
    /// IEEE binary64.
    F64 = 28, "F64", 1, 8;
    /// 1-bit codebook type; not decoded.
    IQ1_M = 29, "IQ1_M", 256, 56;
    /// bfloat16.
    BF16 = 30, "BF16", 1, 2;
    /// Ternary type; not decoded.
    TQ1_0 = 34, "TQ1_0", 256, 54;
    /// Ternary type; not decoded.
    TQ2_0 = 35, "TQ2_0", 256, 66;
    /// E2M1 codes, one E8M0 scale per 32 (OCP MX).
    MXFP4 = 39, "MXFP4", 32, 17;
    /// E2M1 codes, one UE4M3 scale per 16, four of them a block (NVIDIA). The tensor scale, where
    /// there is one, is a tensor of its own: `x.scale` for `x.weight`.
    NVFP4 = 40, "NVFP4", 64, 36;
    /// 1-bit type; not decoded.
    Q1_0 = 41, "Q1_0", 128, 18;
}

impl BlockType {
    /// The element type, for types that are plain elements.
    pub const fn dtype(self) -> Option<DType> {
        Some(match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::F64 => DType::F64,
            Self::I8 => DType::I8,
            Self::I16 => DType::I16,
            Self::I32 => DType::I32,
            Self::I64 => DType::I64,
            _ => return None,
        })
    }

    fn decoder(self) -> Option<Decoder> {
        Some(match self {
            Self::F32 => |b, out| each(b, out, f32::from_le_bytes),
            Self::F16 => |b, out| each(b, out, |x| f16::from_le_bytes(x).to_f32()),
            Self::BF16 => |b, out| each(b, out, |x| bf16::from_le_bytes(x).to_f32()),
            Self::F64 => |b, out| each(b, out, |x| f64::from_le_bytes(x) as f32),
            Self::I8 => |b, out| each(b, out, |x| i8::from_le_bytes(x) as f32),
            Self::I16 => |b, out| each(b, out, |x| i16::from_le_bytes(x) as f32),
            Self::I32 => |b, out| each(b, out, |x| i32::from_le_bytes(x) as f32),
            Self::I64 => |b, out| each(b, out, |x| i64::from_le_bytes(x) as f32),
            Self::Q4_0 => |b, out| blocks(b, out, q4_0),
            Self::Q4_1 => |b, out| blocks(b, out, q4_1),
            Self::Q5_0 => |b, out| blocks(b, out, q5_0),
            Self::Q5_1 => |b, out| blocks(b, out, q5_1),
            Self::Q8_0 => |b, out| blocks(b, out, q8_0),
            Self::Q4_K => |b, out| blocks(b, out, kquants::q4_k),
            Self::Q5_K => |b, out| blocks(b, out, kquants::q5_k),
            Self::Q6_K => |b, out| blocks(b, out, kquants::q6_k),
            Self::MXFP4 => |b, out| blocks(b, out, mxfp4),
            Self::NVFP4 => |b, out| blocks(b, out, nvfp4),
            _ => return None,
        })
    }

    /// Whether [`BlockType::decode`] takes this type.
    pub fn is_decodable(self) -> bool {
        self.decoder().is_some()
    }

    pub(super) fn decodable_names() -> String {
        let names: Vec<_> =
            Self::ALL.iter().filter(|b| b.is_decodable()).map(|b| b.name()).collect();
        names.join(", ")
    }

    /// Decodes whole blocks into `f32`, by the formulas of this module's table.
    ///
    /// F64 and the wider integers round to nearest, ties to even. A scale of MXFP4 or NVFP4 that
    /// is NaN (E8M0 `0xFF`, UE4M3 `0x7F`) makes its block NaN, as the formats define it; ggml
    /// reads those two codes, which no quantiser writes, as 2^128 and 0.
    ///
    /// # Errors
    /// [`Error::DType`] for a type that is not decoded, [`Error::Shape`] when `bytes` is not a
    /// whole number of blocks or `out` not exactly their values.
    ///
    /// ```
    /// use ferrocerium::io::gguf::BlockType;
    ///
    /// // A Q8_0 block: scale 0.5, then the codes 0, 1, 2, …
    /// let mut block = vec![0x00, 0x38];
    /// block.extend(0..32u8);
    /// let mut values = [0.0; 32];
    /// BlockType::Q8_0.decode(&block, &mut values)?;
    /// assert_eq!(values[3], 1.5);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) -> Result<()> {
        const OP: &str = "decode";
        let decoder = self.decoder().ok_or_else(|| {
            Error::dtype(
                OP,
                "type",
                format!("{self} is not decoded here; use {}", Self::decodable_names()),
            )
        })?;
        let (len, size) = (self.block_len(), self.block_bytes());
        if !bytes.len().is_multiple_of(size)
            || !out.len().is_multiple_of(len)
            || bytes.len() / size != out.len() / len
        {
            return Err(Error::shape(
                OP,
                "out",
                format!(
                    "{} bytes and {} values; {self} takes {size} bytes for every {len} values",
                    bytes.len(),
                    out.len()
                ),
            ));
        }
        decoder(bytes, out);
        Ok(())
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Decodes bytes and values whose lengths have been checked against each other.
type Decoder = fn(&[u8], &mut [f32]);

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (x, y) in bytes.as_chunks().0.iter().zip(out) {
        *y = value(*x);
    }
}

fn blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (x, y) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(x, y);
    }
}

/// The `f16` at byte `at` of a block, exactly.
pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Unpacks a run of nibbles: low halves first, then high halves.
fn nibbles(run: &[u8], out: &mut [f32], value: impl Fn(usize, u8) -> f32) {
    let half = run.len();
    for (i, byte) in run.iter().enumerate() {
        out[i] = value(i, byte & 0x0F);
        out[i + half] = value(i + half, byte >> 4);
    }
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    nibbles(&block[2..], out, |_, q| d * f32::from(q as i8 - 8));
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    nibbles(&block[4..], out, |_, q| d * f32::from(q) + m);
}

/// Bit `i` of the 32 high bits, moved to the fifth place.
fn fifth_bit(high: u32, i: usize) -> u8 {
    ((high >> i & 1) as u8) << 4
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    nibbles(&block[6..], out, |i, q| d * f32::from((q | fifth_bit(high, i)) as i8 - 16));
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    nibbles(&block[8..], out, |i, q| d * f32::from(q | fifth_bit(high, i)) + m);
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (x, y) in block[2..].iter().zip(out) {
        *y = d * f32::from(*x as i8);
    }
}

/// The value of each E2M1 code.
const E2M1_VALUES: [f32; 16] = {
    let mut values = [0.0; 16];
    let mut code = 0;
    while code < 16 {
        values[code] = E2M1::from_bits(code as u8).to_f32();
        code += 1;
    }
    values
};

fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let scale = E8M0::from_bits(block[0]).to_f32();
    nibbles(&block[1..], out, |_, q| scale * E2M1_VALUES[usize::from(q)]);
}

fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    let (scales, codes) = block.split_at(4);
    for ((scale, run), out) in
        scales.iter().zip(codes.as_chunks::<8>().0).zip(out.as_chunks_mut::<16>().0)
    {
        let scale = UE4M3::from_bits(*scale).to_f32();
        nibbles(run, out, |_, q| scale * E2M1_VALUES[usize::from(q)]);
    }
}
