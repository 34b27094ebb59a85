//! What each format is, as plain data and as types.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use crate::error::Error;
use crate::num::DType;

/// A block side that spans the whole extent (all rows, or all of k).
pub const WHOLE: usize = usize::MAX;

/// A block-scaled format as a run-time value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Format {
    /// E2M1 codes, a UE4M3 scale per 16 along k, an f32 tensor scale (NVIDIA).
    Nvfp4,
    /// E2M1 codes, an E8M0 scale per 32 along k (OCP MX v1.0).
    Mxfp4,
    /// E4M3 codes, an E8M0 scale per 32 along k (OCP MX v1.0).
    Mxfp8E4M3,
    /// E5M2 codes, an E8M0 scale per 32 along k (OCP MX v1.0).
    Mxfp8E5M2,
    /// E4M3 codes, one f32 scale.
    Fp8TensorE4M3,
    /// E5M2 codes, one f32 scale.
    Fp8TensorE5M2,
    /// E4M3 codes, an f32 scale per row.
    Fp8Row,
    /// E4M3 codes, an f32 scale per 1×128 (activations of block-scaled FP8).
    Fp8Group128,
    /// E4M3 codes, an f32 scale per 128×128 (weights of block-scaled FP8).
    Fp8Block128,
}

/// The parameters of a format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FormatSpec {
    /// Name, as printed and parsed.
    pub name: &'static str,
    /// Type of the stored codes.
    pub code: DType,
    /// Codes in one stored byte: 2 for packed FP4, else 1.
    pub codes_per_byte: usize,
    /// Type of the block scales.
    pub scale: DType,
    /// Rows that share a scale, or [`WHOLE`].
    pub block_rows: usize,
    /// Columns along k that share a scale, or [`WHOLE`].
    pub block_k: usize,
    /// Whether there is an f32 tensor scale on top.
    pub tensor_scale: bool,
    /// Largest finite magnitude of a code.
    pub code_max: f32,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 9] = [
        Format::Nvfp4,
        Format::Mxfp4,
        Format::Mxfp8E4M3,
        Format::Mxfp8E5M2,
        Format::Fp8TensorE4M3,
        Format::Fp8TensorE5M2,
        Format::Fp8Row,
        Format::Fp8Group128,
        Format::Fp8Block128,
    ];

    /// The format's parameters.
    pub const fn spec(self) -> FormatSpec {
        const fn fp4(name: &'static str, scale: DType, block_k: usize) -> FormatSpec {
            FormatSpec {
                name,
                code: DType::E2M1x2,
                codes_per_byte: 2,
                scale,
                block_rows: 1,
                block_k,
                tensor_scale: matches!(scale, DType::UE4M3),
                code_max: 6.0,
            }
        }
        const fn fp8(
            name: &'static str,
            code: DType,
            scale: DType,
            block_rows: usize,
            block_k: usize,
        ) -> FormatSpec {
            FormatSpec {
                name,
                code,
                codes_per_byte: 1,
                scale,
                block_rows,
                block_k,
                tensor_scale: false,
                code_max: if matches!(code, DType::F8E4M3) { 448.0 } else { 57344.0 },
            }
        }
        match self {
            Format::Nvfp4 => fp4("nvfp4", DType::UE4M3, 16),
            Format::Mxfp4 => fp4("mxfp4", DType::E8M0, 32),
            Format::Mxfp8E4M3 => fp8("mxfp8", DType::F8E4M3, DType::E8M0, 1, 32),
            Format::Mxfp8E5M2 => fp8("mxfp8e5m2", DType::F8E5M2, DType::E8M0, 1, 32),
            Format::Fp8TensorE4M3 => fp8("fp8", DType::F8E4M3, DType::F32, WHOLE, WHOLE),
            Format::Fp8TensorE5M2 => fp8("fp8e5m2", DType::F8E5M2, DType::F32, WHOLE, WHOLE),
            Format::Fp8Row => fp8("fp8row", DType::F8E4M3, DType::F32, 1, WHOLE),
            Format::Fp8Group128 => fp8("fp8group128", DType::F8E4M3, DType::F32, 1, 128),
            Format::Fp8Block128 => fp8("fp8block128", DType::F8E4M3, DType::F32, 128, 128),
        }
    }

    /// The name, as printed and parsed: `"nvfp4"`, `"mxfp8"`, `"fp8row"`, …
    pub const fn name(self) -> &'static str {
        self.spec().name
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| Error::Parse {
            what: "block format",
            text: text.to_owned(),
            expected: Self::ALL.map(Format::name).join(", "),
        })
    }
}

/// How block scales lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScaleLayout {
    /// `[rows / block_rows, k / block_k]`, row-major: the storage and file layout.
    #[default]
    RowMajor,
    /// Tiles of 128 rows × 4 scales, as block-scaled tensor-core kernels read them: within a
    /// tile, offset = `(row % 32)·16 + (row / 32)·4 + col`; tiles in row-major order, rows padded
    /// to 128 and columns to 4 with zero bytes.
    Tiled128x4,
}

/// A block-scaled format as a type: the `F` of `ScaledTensor<F, R>`.
pub trait BlockFormat: Send + Sync + 'static {
    /// The format's run-time value.
    const FORMAT: Format;
}

macro_rules! format_type {
    ($($(#[$doc:meta])* $name:ident => $format:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}
        impl BlockFormat for $name {
            const FORMAT: Format = Format::$format;
        }
    )*};
}

format_type! {
    /// [`Format::Nvfp4`] as a type.
    Nvfp4 => Nvfp4;
    /// [`Format::Mxfp4`] as a type.
    Mxfp4 => Mxfp4;
    /// [`Format::Fp8Row`] as a type.
    Fp8PerRow => Fp8Row;
    /// [`Format::Fp8Group128`] as a type.
    Fp8Group128 => Fp8Group128;
    /// [`Format::Fp8Block128`] as a type.
    Fp8Block128 => Fp8Block128;
}

/// MXFP8 as a type, by element: [`Format::Mxfp8E4M3`] or [`Format::Mxfp8E5M2`].
pub struct Mxfp8<E = crate::num::F8E4M3>(PhantomData<E>);

/// FP8 with one scale for the tensor, by element: [`Format::Fp8TensorE4M3`] or
/// [`Format::Fp8TensorE5M2`].
pub struct Fp8PerTensor<E = crate::num::F8E4M3>(PhantomData<E>);

impl BlockFormat for Mxfp8<crate::num::F8E4M3> {
    const FORMAT: Format = Format::Mxfp8E4M3;
}

impl BlockFormat for Mxfp8<crate::num::F8E5M2> {
    const FORMAT: Format = Format::Mxfp8E5M2;
}

impl BlockFormat for Fp8PerTensor<crate::num::F8E4M3> {
    const FORMAT: Format = Format::Fp8TensorE4M3;
}

impl BlockFormat for Fp8PerTensor<crate::num::F8E5M2> {
    const FORMAT: Format = Format::Fp8TensorE5M2;
}
