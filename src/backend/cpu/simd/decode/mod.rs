//! Rows as they are stored to columns, or rows, of f32.
//!
//! To columns sixteen rows at a time: their words of four bytes are transposed, so that a vector
//! holds the same word of each row, and taken apart there: one element of f32, two of 16 bits, four
//! of FP8, eight of FP4. Every conversion is exact, and a scale rounds as it does in
//! [`decode_e2m1`](super::decode_e2m1): `(code · scale) · g`.

#[cfg(target_arch = "x86_64")]
mod columns;
#[cfg(target_arch = "x86_64")]
mod rows;
#[cfg(target_arch = "x86_64")]
mod scales;
#[cfg(target_arch = "x86_64")]
mod words;

#[cfg(target_arch = "x86_64")]
use super::unpack::{E4m3Table, E5m2Table};
use super::weights::Weights;
use super::{Level, unpacked};

/// Puts element `(i, l)` of the first rows to `(l, i)` of `dst`, whose rows are `dst_stride` apart;
/// gives how many rows that was: none, or all but the last few, depending on level and code. Rows
/// that follow `ahead` of each are asked for, if that is not 0.
///
/// # Panics
/// When a column reaches past its slice.
pub fn columns(
    level: Level,
    rows: &Weights<'_>,
    ahead: usize,
    dst: &mut [f32],
    dst_stride: usize,
) -> usize {
    let reach = rows.k().checked_sub(1).map_or(0, |last| last * dst_stride + rows.len());
    assert!(dst_stride >= rows.len() && reach <= dst.len(), "columns lie inside their slice");
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is present; the assertion above.
        Level::Avx512 => unsafe { avx512::columns(rows, ahead, dst, dst_stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512Vbmi => unsafe { avx512vbmi::columns(rows, ahead, dst, dst_stride) },
        _ => none(rows, ahead),
    }
}

/// Puts the rows to rows of `dst`, `dst_stride` apart; gives how many that was: all, but of FP4
/// none, depending on level and size. Rows that follow `ahead` of each are asked for, if that is
/// not 0.
///
/// # Panics
/// When a row reaches past its slice.
pub fn rows(
    level: Level,
    rows: &Weights<'_>,
    ahead: usize,
    dst: &mut [f32],
    dst_stride: usize,
) -> usize {
    let reach = rows.len().checked_sub(1).map_or(0, |last| last * dst_stride + rows.k());
    assert!(reach <= dst.len(), "rows lie inside their slice");
    if !rows.is_fp4() {
        unpacked::unpack_rows(level, rows, ahead, dst, dst_stride);
        return rows.len();
    }
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is present; the assertion above.
        Level::Avx512 => unsafe { avx512::fp4(rows, ahead, dst, dst_stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512Vbmi => unsafe { avx512vbmi::fp4(rows, ahead, dst, dst_stride) },
        _ => none(rows, ahead),
    }
}

/// Where no row is decoded here those that follow are asked for all the same.
fn none(rows: &Weights<'_>, ahead: usize) -> usize {
    if ahead > 0 {
        rows.prefetch(ahead);
    }
    0
}

/// Rows, and words, that are transposed at once.
#[cfg(target_arch = "x86_64")]
const SIDE: usize = 16;

/// As many words where there are no more.
#[cfg(target_arch = "x86_64")]
const HALF: usize = SIDE / 2;

/// The functions of one level.
#[cfg(target_arch = "x86_64")]
macro_rules! level {
    ($name:ident, $level:ident, $multishift:literal, $E4m3:ty, $E5m2:ty) => {
        mod $name {
            use super::columns::columns as to_columns;
            use super::words::{Bf16, F16, F32, Fp4};
            use crate::backend::cpu::simd::per_level::compiled_for;
            use crate::backend::cpu::simd::weights::{Code, Weights};
            use crate::num::DType;

            compiled_for! {
                $level:
                /// # Safety
                /// The level is present, and what [`super::columns`] asserts.
                pub(super) unsafe fn columns(
                    rows: &Weights<'_>,
                    ahead: usize,
                    dst: &mut [f32],
                    stride: usize,
                ) -> usize {
                    // SAFETY: the caller's promise.
                    unsafe {
                        match rows.code() {
                            Code::Plain(DType::BF16) => to_columns::<Bf16>(rows, ahead, dst, stride),
                            Code::Plain(DType::F16) => to_columns::<F16>(rows, ahead, dst, stride),
                            // `Weights::new` lets no other type pass.
                            Code::Plain(_) => to_columns::<F32>(rows, ahead, dst, stride),
                            Code::Fp8(DType::F8E5M2) => to_columns::<$E5m2>(rows, ahead, dst, stride),
                            Code::Fp8(_) => to_columns::<$E4m3>(rows, ahead, dst, stride),
                            Code::Nvfp4 | Code::Mxfp4 => to_columns::<Fp4>(rows, ahead, dst, stride),
                        }
                    }
                }
            }

            compiled_for! {
                $level:
                /// # Safety
                /// The level is present, and what [`super::rows`] asserts.
                pub(super) unsafe fn fp4(
                    rows: &Weights<'_>,
                    ahead: usize,
                    dst: &mut [f32],
                    stride: usize,
                ) -> usize {
                    // SAFETY: the caller's promise.
                    unsafe { super::rows::fp4::<$multishift>(rows, ahead, dst, stride) }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
level!(avx512, avx512, false, super::words::E4m3, super::words::E5m2);
#[cfg(target_arch = "x86_64")]
level!(avx512vbmi, avx512vnni, true, super::E4m3Table, super::E5m2Table);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Code, Fp4Table, Scales, detect, levels};
    use crate::num::{DType, E2M1, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16};

    /// All columns and rows that are given, `most` columns, against `value(row, element)`.
    fn check(rows: &Weights<'_>, most: usize, value: impl Fn(usize, usize) -> f32) {
        for level in [Level::Portable, Level::of(&detect())] {
            let stride = rows.len() + 3;
            let mut dst = vec![f32::NAN; rows.k() * stride];
            let done = columns(level, rows, 0, &mut dst, stride);
            #[cfg(target_arch = "x86_64")]
            let here = matches!(level, Level::Avx512 | Level::Avx512Vbmi);
            #[cfg(not(target_arch = "x86_64"))]
            let here = false;
            assert_eq!(done, if here { most } else { 0 }, "{level:?}");
            for (i, l) in (0..done).flat_map(|i| (0..rows.k()).map(move |l| (i, l))) {
                assert_eq!(dst[l * stride + i], value(i, l), "{level:?} row {i}, element {l}");
            }
            let stride = rows.k() + 1;
            let mut dst = vec![f32::NAN; rows.len() * stride];
            let done = super::rows(level, rows, 5, &mut dst, stride);
            let all = !rows.is_fp4() || here && rows.k().is_multiple_of(16);
            assert_eq!(done, if all { rows.len() } else { 0 }, "{level:?}");
            for (i, l) in (0..done).flat_map(|i| (0..rows.k()).map(move |l| (i, l))) {
                assert_eq!(dst[i * stride + l], value(i, l), "{level:?} row {i}, element {l}");
            }
        }
    }

    fn plain<E: Scalar>(code: Code, (rows, k): (usize, usize), element: impl Fn(usize) -> E) {
        let data: Vec<E> = (0..rows * (k + 4)).map(element).collect();
        let bytes = bytemuck::cast_slice(&data);
        let row_bytes = (k + 4) * size_of::<E>();
        let weights = Weights::new(code, bytes, row_bytes, (rows, k), None).expect("whole rows");
        check(&weights, rows / 16 * 16, |i, l| data[i * (k + 4) + l].to_f32());
    }

    #[test]
    fn every_element_of_sixteen_rows_goes_to_its_column() {
        for sizes in [(16, 4), (64, 64), (37, 100), (15, 8), (32, 20)] {
            plain(Code::Plain(DType::F32), sizes, |i| i as f32 * 0.37);
            plain(Code::Plain(DType::BF16), sizes, |i| bf16::from_f32(i as f32 * 0.37));
            plain(Code::Plain(DType::F16), sizes, |i| f16::from_bits((i % 0x7C00) as u16));
            let e4m3 = |i: usize| F8E4M3::from_bits((i % 127 + i / 127 % 2 * 128) as u8);
            plain(Code::Fp8(DType::F8E4M3), sizes, e4m3);
            let e5m2 = |i: usize| F8E5M2::from_bits((i % 124 + i / 124 % 2 * 128) as u8);
            plain(Code::Fp8(DType::F8E5M2), sizes, e5m2);
        }
    }

    #[test]
    fn every_code_of_fp8_becomes_its_value() {
        // Sixteen rows of sixteen, in which each code is once.
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let e4m3 = |code: u8| F8E4M3::from_bits(code).to_f32();
        let e5m2 = |code: u8| F8E5M2::from_bits(code).to_f32();
        let formats = [(DType::F8E4M3, &e4m3 as &dyn Fn(u8) -> f32), (DType::F8E5M2, &e5m2)];
        for (level, (dtype, value)) in levels().into_iter().flat_map(|l| formats.map(|f| (l, f))) {
            let weights = Weights::new(Code::Fp8(dtype), &codes, 16, (16, 16), None);
            let weights = weights.expect("whole rows");
            let (mut across, mut along) = ([0.0; 256], [0.0; 256]);
            let done = columns(level, &weights, 16, &mut across, 16);
            assert_eq!(super::rows(level, &weights, 0, &mut along, 16), 16, "{level:?}");
            for (i, code) in codes.iter().enumerate() {
                let same = |x: f32, y: f32| x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan();
                assert!(same(along[i], value(*code)), "{level:?} {dtype} {code:#x}: {}", along[i]);
                let column = across[i % 16 * 16 + i / 16];
                assert!(done == 0 || same(column, value(*code)), "{level:?} {dtype} {code:#x}");
            }
        }
    }

    #[test]
    fn fp4_is_code_times_scale_times_g() {
        // Words of scales are whole, or one is not, or none is.
        for k in [64, 80, 16] {
            fp4_of(33, k);
        }
    }

    fn fp4_of(rows: usize, k: usize) {
        let codes: Vec<u8> = (0..rows * k / 2).map(|i| (i * 7) as u8).collect();
        let scales: Vec<u8> = (0..rows * k / 16).map(|i| (i % 0x7F) as u8).collect();
        let table = Fp4Table::new(DType::UE4M3, 1.7);
        let given = Scales {
            bytes: &scales,
            dtype: DType::UE4M3,
            columns: k / 16,
            block_rows: 1,
            block_k: 16,
            factor: 1.7,
            fp4: table.as_ref(),
        };
        let weights = Weights::new(Code::Nvfp4, &codes, k / 2, (rows, k), Some(given));
        let value = |i: usize, l: usize| {
            let code = E2M1::from_bits(codes[(i * k + l) / 2] >> (4 * (l % 2)));
            code.to_f32() * UE4M3::from_bits(scales[(i * k + l) / 16]).to_f32() * 1.7
        };
        let weights = weights.expect("whole rows");
        check(&weights, 32, value);
        let odd = weights.every(1, 2, 16).expect("rows 1, 3, …, 31");
        check(&odd, 16, |i, l| value(2 * i + 1, l));
    }
}
