//! Rows as they are stored, unpacked to f32.

use super::lanes::Lanes;
use super::per_level::compiled_for;
use super::stream::{CHUNK, GROUP, each_code, each_level};
use super::unpack::{Bf16, E4m3, E5m2, F16, F32, Fp4Row, Mxfp4, Nvfp4, Stored, Tail, Unpack};
#[cfg(target_arch = "x86_64")]
use super::unpack::{E4m3Table, E5m2Table};
use super::weights::{Code, Weights};
use super::{LANES, Level};
use crate::num::DType;

/// Elements `first .. first + len` of a row in f32, arranged as [`Weights::interleaved`] says and
/// padded with zeros to whole groups; `first` is a multiple of [`GROUP`], `len` at most [`CHUNK`].
///
/// # Panics
/// Where the row does not have them, or `dst` is not a multiple of [`GROUP`] that holds them.
pub fn unpack(
    level: Level,
    weights: &Weights<'_>,
    row: usize,
    (first, len): (usize, usize),
    dst: &mut [f32],
) {
    assert!(row < weights.len() && first + len <= weights.k(), "elements of the row");
    assert!(first.is_multiple_of(GROUP) && len <= CHUNK, "a chunk");
    assert!(dst.len().is_multiple_of(GROUP) && len <= dst.len(), "room for whole groups");
    if len == 0 {
        return dst.fill(0.0);
    }
    // SAFETY: the level is present, for `Level::of` gives no other; the sizes were checked.
    unsafe { each_level!(level, weights.code(), unpack_at(weights, row, (first, len), dst)) }
}

/// All rows in f32, in the order of their elements, to rows of `dst` that are `stride` apart. Rows
/// that follow `ahead` of each are asked for, if that is not 0.
///
/// # Panics
/// Where they are interleaved, or a row reaches past `dst`.
pub(super) fn unpack_rows(
    level: Level,
    weights: &Weights<'_>,
    ahead: usize,
    dst: &mut [f32],
    stride: usize,
) {
    assert!(!weights.interleaved(), "elements are in order");
    let reach = weights.len().checked_sub(1).map_or(0, |last| last * stride + weights.k());
    assert!(stride >= weights.k() && reach <= dst.len(), "rows lie inside their slice");
    if weights.k() > 0 {
        // SAFETY: the level is present, for `Level::of` gives no other; the assertions above.
        unsafe { each_level!(level, weights.code(), unpack_rows_at(weights, ahead, dst, stride)) }
    }
}

/// The functions of one level: generic code, compiled with its instructions.
macro_rules! level {
    ($level:ident, $V:ty) => {
        mod $level {
            use super::*;

            compiled_for! {
                $level:
                /// # Safety
                /// As [`super::unpack_row`], and the level is present.
                pub(super) unsafe fn unpack_at<U: Unpack<$V>>(
                    weights: &Weights<'_>,
                    row: usize,
                    part: (usize, usize),
                    dst: &mut [f32],
                ) {
                    // SAFETY: the caller's promises.
                    unsafe {
                        let mut scratch = Weights::NO_SCALES;
                        unpack_row::<$V, U>(weights, row, part, &mut scratch, dst);
                    }
                }
            }

            compiled_for! {
                $level:
                /// # Safety
                /// What [`super::unpack_rows`] asserts, and the level is present.
                pub(super) unsafe fn unpack_rows_at<U: Unpack<$V>>(
                    weights: &Weights<'_>,
                    ahead: usize,
                    dst: &mut [f32],
                    stride: usize,
                ) {
                    let (k, mut scratch) = (weights.k(), Weights::NO_SCALES);
                    for (row, dst) in (0..weights.len()).zip(dst.chunks_mut(stride)) {
                        if ahead > 0 {
                            weights.prefetch_row(row + ahead);
                        }
                        // SAFETY: parts of the row, and room for whole groups.
                        unsafe {
                            if k <= CHUNK && k.is_multiple_of(LANES * U::STEPS) {
                                unpack_row::<$V, U>(weights, row, (0, k), &mut scratch, &mut dst[..k]);
                                continue;
                            }
                            let mut padded = [0.0; CHUNK];
                            for (part, dst) in dst[..k].chunks_mut(CHUNK).enumerate() {
                                let part = (part * CHUNK, dst.len());
                                let to = &mut padded[..dst.len().next_multiple_of(GROUP)];
                                unpack_row::<$V, U>(weights, row, part, &mut scratch, to);
                                dst.copy_from_slice(&padded[..dst.len()]);
                            }
                        }
                    }
                }
            }
        }
    };
}

level!(portable, super::super::portable::Four);
#[cfg(target_arch = "x86_64")]
level!(avx2, super::super::x86::Avx2);
#[cfg(target_arch = "x86_64")]
level!(avx512, super::super::x86::Avx512);
#[cfg(target_arch = "x86_64")]
level!(avx512vnni, super::super::x86::Avx512);
#[cfg(target_arch = "aarch64")]
level!(neon, super::super::neon::Neon);

/// # Safety
/// The row has elements `first .. first + len`, `dst` holds them and is whole groups, and `scratch`
/// is as [`Weights::stored`] says.
#[inline(always)]
unsafe fn unpack_row<V: Lanes, U: Unpack<V>>(
    weights: &Weights<'_>,
    row: usize,
    (first, len): (usize, usize),
    scratch: &mut [f32; CHUNK / 32],
    dst: &mut [f32],
) {
    // SAFETY: by the caller's promise.
    let stored = unsafe { weights.stored(row, first, scratch) };
    let elements = LANES * U::STEPS;
    let (whole, rest) = (len / elements, len % elements);
    let (to, fp4) = (dst.as_mut_ptr(), weights.fp4());
    for g in 0..whole {
        // SAFETY: group g of the row and of `dst`.
        unsafe { unpack_group::<V, U>(stored.group::<U>(g), fp4, to.add(g * elements)) };
    }
    let mut done = whole * elements;
    if rest > 0 {
        let mut tail = Tail::ZERO;
        // SAFETY: the elements after the last whole group, and room for a group.
        unsafe {
            tail.fill::<U>(stored, whole, rest);
            unpack_group::<V, U>(tail.stored(), fp4, to.add(done));
        }
        done += elements;
    }
    dst[done..].fill(0.0);
}

/// # Safety
/// `from` is a group, and `to` has room for its elements.
#[inline(always)]
unsafe fn unpack_group<V: Lanes, U: Unpack<V>>(from: Stored, fp4: *const Fp4Row, to: *mut f32) {
    for pass in 0..LANES / V::WIDTH {
        // SAFETY: the caller's promise of a group.
        let raw = unsafe { U::load(from, fp4, pass) };
        macro_rules! steps {
            ($($step:literal)*) => {$(
                if $step < U::STEPS {
                    // SAFETY: vector `$step` of the group.
                    unsafe {
                        let to = to.add($step * LANES + pass * V::WIDTH);
                        U::value::<$step>(raw).store(to);
                    }
                }
            )*};
        }
        steps!(0 1 2 3 4 5 6 7);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Scales, levels};
    use crate::num::{E8M0, F8E4M3, F8E5M2, bf16};

    #[test]
    fn rows_of_any_size_unpack_to_their_elements() {
        let elements: Vec<bf16> = (0..9000).map(|i| bf16::from_f32(i as f32 * 0.37)).collect();
        let bytes = bytemuck::cast_slice(&elements);
        for (level, k) in levels().into_iter().flat_map(|l| [1, 20, 64, 96, 2060].map(|k| (l, k))) {
            let weights = Weights::new(Code::Plain(DType::BF16), bytes, 2 * k + 6, (4, k), None);
            let mut dst = vec![f32::NAN; 3 * (k + 5) + k];
            unpack_rows(level, &weights.expect("whole rows"), 2, &mut dst, k + 5);
            for (i, row) in dst.chunks(k + 5).enumerate() {
                let wanted = elements[i * (k + 3)..][..k].iter().map(|x| x.to_f32());
                assert!(wanted.eq(row[..k].iter().copied()), "{level:?} row {i} of {k}");
            }
        }
    }

    #[test]
    fn every_fp8_code_unpacks_to_its_value_times_its_scale() {
        let codes: Vec<u8> = (0..=u8::MAX).chain(0..40).collect();
        let scales = [125, 130, 126, 127, 120, 133, 128, 129, 140, 110];
        let k = codes.len();
        for dtype in [DType::F8E4M3, DType::F8E5M2] {
            let scaled = Scales {
                bytes: &scales,
                dtype: DType::E8M0,
                columns: scales.len(),
                block_rows: 1,
                block_k: 32,
                factor: 1.0,
                fp4: None,
            };
            let weights = Weights::new(Code::Fp8(dtype), &codes, k, (1, k), Some(scaled));
            let weights = weights.expect("a whole row");
            for level in levels() {
                let mut values = vec![f32::NAN; k.next_multiple_of(GROUP)];
                unpack(level, &weights, 0, (0, k), &mut values);
                for (i, value) in values.iter().enumerate() {
                    let wanted = match codes.get(i) {
                        None => 0.0,
                        Some(&code) if dtype == DType::F8E4M3 => F8E4M3::from_bits(code).to_f32(),
                        Some(&code) => F8E5M2::from_bits(code).to_f32(),
                    };
                    let scale = scales.get(i / 32).map_or(1.0, |s| E8M0::from_bits(*s).to_f32());
                    let wanted = wanted * scale;
                    let same = wanted.to_bits() == value.to_bits();
                    let same = same || wanted.is_nan() && value.is_nan();
                    assert!(same, "{level:?} {dtype} code {i}: {wanted}, not {value}");
                }
            }
        }
    }
}
