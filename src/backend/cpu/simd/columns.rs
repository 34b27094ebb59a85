//! Rows as they are stored to columns, or rows, of f32.
//!
//! To columns sixteen rows at a time: their words of four bytes are transposed, so that a vector
//! holds the same word of each row, and taken apart there: one element of f32, two of 16 bits, four
//! of FP8, eight of FP4. To rows, sixteen elements become words of their own first. Every conversion
//! is exact, and a scale rounds as it does in [`decode_e2m1`](super::decode_e2m1):
//! `(code · scale) · g`.

use super::Level;
use super::weights::Weights;

/// Puts element `(i, l)` of the first rows to `(l, i)` of `dst`, whose rows are `dst_stride` apart;
/// gives how many rows that was: none, or all but the last few, depending on level and code.
///
/// # Panics
/// When a column reaches past its slice.
pub fn columns(level: Level, rows: &Weights<'_>, dst: &mut [f32], dst_stride: usize) -> usize {
    let reach = rows.k().checked_sub(1).map_or(0, |last| last * dst_stride + rows.len());
    assert!(dst_stride >= rows.len() && reach <= dst.len(), "columns lie inside their slice");
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is present; the assertion above.
        Level::Avx512 => unsafe { x86::columns(rows, dst, dst_stride) },
        _ => 0,
    }
}

/// Puts the first rows to rows of `dst`, `dst_stride` apart; gives how many that was: none, or all
/// up to one that holds a special value, depending on level and code.
///
/// # Panics
/// When a row reaches past its slice.
pub fn rows(level: Level, rows: &Weights<'_>, dst: &mut [f32], dst_stride: usize) -> usize {
    let reach = rows.len().checked_sub(1).map_or(0, |last| last * dst_stride + rows.k());
    assert!(reach <= dst.len(), "rows lie inside their slice");
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is present; the assertion above.
        Level::Avx512 => unsafe { x86::rows(rows, dst, dst_stride) },
        _ => 0,
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use crate::backend::cpu::simd::weights::{Code, Scales, Weights};
    use crate::num::{DType, E2M1};

    /// Rows, and words, that are transposed at once.
    const SIDE: usize = 16;

    // Of functions with closures that the standard library calls, intrinsics become calls: the
    // library's are not compiled for the level. So arrays are filled by loops.

    /// How words are taken apart.
    trait Words {
        /// Elements of a word.
        const ELEMENTS: usize;

        /// Sixteen elements of a row, each the first of a word.
        ///
        /// # Safety
        /// The level is present, and `from` valid for the elements.
        unsafe fn spread(from: *const u8) -> __m512i;

        /// Whether some element is one that [`Words::element`] gets wrong.
        ///
        /// # Safety
        /// The level is present.
        unsafe fn special(_words: __m512i) -> bool {
            false
        }

        /// Element `E` of each word.
        ///
        /// # Safety
        /// The level is present, and `E` below [`Words::ELEMENTS`].
        unsafe fn element<const E: usize>(words: __m512i) -> __m512;
    }

    struct F32;
    struct Bf16;
    struct F16;
    struct E4m3;
    struct E5m2;
    struct Fp4;

    impl Words for F32 {
        const ELEMENTS: usize = 1;

        #[inline(always)]
        unsafe fn spread(from: *const u8) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }

        #[inline(always)]
        unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
            // SAFETY: the level is present.
            unsafe { _mm512_castsi512_ps(words) }
        }
    }

    impl Words for Bf16 {
        const ELEMENTS: usize = 2;

        #[inline(always)]
        unsafe fn spread(from: *const u8) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())) }
        }

        #[inline(always)]
        unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
            // SAFETY: the level is present.
            unsafe {
                _mm512_castsi512_ps(match E {
                    0 => _mm512_slli_epi32::<16>(words),
                    _ => _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000u32 as i32)),
                })
            }
        }
    }

    /// The f16 in the lower half of each word.
    ///
    /// # Safety
    /// AVX-512 F.
    #[inline(always)]
    unsafe fn halves(words: __m512i) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)) }
    }

    impl Words for F16 {
        const ELEMENTS: usize = 2;

        #[inline(always)]
        unsafe fn spread(from: *const u8) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())) }
        }

        #[inline(always)]
        unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
            // SAFETY: the level is present.
            unsafe {
                halves(match E {
                    0 => words,
                    _ => _mm512_srli_epi32::<16>(words),
                })
            }
        }
    }

    impl Words for E4m3 {
        const ELEMENTS: usize = 4;

        #[inline(always)]
        unsafe fn spread(from: *const u8) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
        }

        /// NaN.
        #[inline(always)]
        unsafe fn special(words: __m512i) -> bool {
            // SAFETY: the level is present.
            unsafe {
                let magnitude = _mm512_set1_epi8(0x7F);
                _mm512_cmpeq_epi8_mask(_mm512_and_si512(words, magnitude), magnitude) != 0
            }
        }

        /// Exponent and mantissa where f16 has the ends of its own; the biases are 7 and 15. In f32
        /// small values would be subnormal on the way, which takes some processors long.
        #[inline(always)]
        unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
            // SAFETY: the level is present.
            unsafe {
                let top = match E {
                    0 => _mm512_slli_epi32::<24>(words),
                    1 => _mm512_slli_epi32::<16>(words),
                    2 => _mm512_slli_epi32::<8>(words),
                    _ => words,
                };
                let fields = _mm512_set1_epi32(0xBF80);
                let half = _mm512_and_si512(_mm512_srai_epi32::<17>(top), fields);
                _mm512_mul_ps(halves(half), _mm512_set1_ps(256.0))
            }
        }
    }

    /// The upper half of an f16.
    impl Words for E5m2 {
        const ELEMENTS: usize = 4;

        #[inline(always)]
        unsafe fn spread(from: *const u8) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
        }

        #[inline(always)]
        unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
            // SAFETY: the level is present.
            unsafe {
                let half = match E {
                    0 => _mm512_slli_epi32::<8>(words),
                    1 => words,
                    2 => _mm512_srli_epi32::<8>(words),
                    _ => _mm512_srli_epi32::<16>(words),
                };
                halves(_mm512_and_si512(half, _mm512_set1_epi32(0xFF00)))
            }
        }
    }

    impl Words for Fp4 {
        const ELEMENTS: usize = 8;

        #[inline(always)]
        unsafe fn spread(from: *const u8) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe {
                let halves = from.cast::<i32>();
                let low = _mm512_set1_epi32(halves.read_unaligned());
                let high = halves.add(1).read_unaligned();
                let codes = _mm512_mask_set1_epi32(low, 0xFF00, high);
                let shifts = [0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28];
                _mm512_srlv_epi32(codes, _mm512_loadu_si512((&raw const shifts).cast()))
            }
        }

        #[inline(always)]
        unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
            // SAFETY: the level is present; the table has 16 values. The look-up takes the low
            // four bits of each lane.
            unsafe {
                let values = _mm512_loadu_ps(E2M1::VALUES.as_ptr());
                let codes = _mm512_srl_epi32(words, _mm_cvtsi32_si128(4 * E as i32));
                _mm512_permutexvar_ps(codes, values)
            }
        }
    }

    /// Calls `$f` with the words of a code.
    macro_rules! each_code {
        ($rows:expr, $f:ident($($argument:expr),*)) => {
            match $rows.code() {
                Code::Plain(DType::BF16) => $f::<Bf16>($rows, $($argument),*),
                Code::Plain(DType::F16) => $f::<F16>($rows, $($argument),*),
                // `Weights::new` lets no other type pass.
                Code::Plain(_) => $f::<F32>($rows, $($argument),*),
                Code::Fp8(DType::F8E5M2) => $f::<E5m2>($rows, $($argument),*),
                Code::Fp8(_) => $f::<E4m3>($rows, $($argument),*),
                Code::Nvfp4 | Code::Mxfp4 => $f::<Fp4>($rows, $($argument),*),
            }
        };
    }

    /// # Safety
    /// The level is present, and what [`super::columns`] asserts.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn columns(rows: &Weights<'_>, dst: &mut [f32], stride: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { each_code!(rows, all_columns(dst, stride)) }
    }

    /// # Safety
    /// The level is present, and what [`super::rows`] asserts.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn rows(rows: &Weights<'_>, dst: &mut [f32], stride: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { each_code!(rows, all_rows(dst, stride)) }
    }

    /// # Safety
    /// As [`columns`].
    #[inline(always)]
    unsafe fn all_columns<W: Words>(rows: &Weights<'_>, dst: &mut [f32], stride: usize) -> usize {
        let (words, whole) = (rows.k() / W::ELEMENTS, rows.len() / SIDE * SIDE);
        if !rows.k().is_multiple_of(W::ELEMENTS) {
            return 0;
        }
        let mut scales = RowScales::new();
        for i in (0..whole).step_by(SIDE) {
            scales.first = NONE;
            for first in (0..words).step_by(SIDE) {
                let count = (words - first).min(SIDE);
                let there = (1u32 << count).wrapping_sub(1) as u16;
                // SAFETY: words first .. first + count of rows i .. i + 16.
                let side = unsafe {
                    let mut side = [_mm512_setzero_si512(); SIDE];
                    for (r, words) in side.iter_mut().enumerate() {
                        let from = rows.start_of(i + r).cast::<i32>().wrapping_add(first);
                        *words = _mm512_maskz_loadu_epi32(there, from);
                    }
                    transposed(side)
                };
                for words in &side[..count] {
                    // SAFETY: the level is present.
                    if unsafe { W::special(*words) } {
                        return i;
                    }
                }
                for (w, &words) in side[..count].iter().enumerate() {
                    let l = (first + w) * W::ELEMENTS;
                    // SAFETY: the level is present; elements l .. of rows i .. i + 16.
                    unsafe {
                        let scale = scales.columns(rows.scales(), i, l);
                        let to = dst.as_mut_ptr().add(l * stride + i);
                        split::<W>(words, scale, to, stride);
                    }
                }
            }
        }
        whole
    }

    /// # Safety
    /// As [`rows`].
    #[inline(always)]
    unsafe fn all_rows<W: Words>(rows: &Weights<'_>, dst: &mut [f32], stride: usize) -> usize {
        if !rows.k().is_multiple_of(SIDE) {
            return 0;
        }
        let bytes = SIDE * rows.code().bits() / 8;
        let mut scales = RowScales::new();
        for i in 0..rows.len() {
            scales.first = NONE;
            for part in 0..rows.k() / SIDE {
                let l = part * SIDE;
                // SAFETY: sixteen elements of row i, and their places; the level is present.
                unsafe {
                    let words = W::spread(rows.start_of(i).wrapping_add(part * bytes));
                    if W::special(words) {
                        return i;
                    }
                    let scale = scales.row(rows.scales(), i, l);
                    let to = dst.as_mut_ptr().add(i * stride + l);
                    _mm512_storeu_ps(to, scaled(W::element::<0>(words), scale));
                }
            }
        }
        rows.len()
    }

    /// `(value · scale) · g`
    ///
    /// # Safety
    /// AVX-512 F.
    #[inline(always)]
    unsafe fn scaled(value: __m512, scale: Option<(__m512, f32)>) -> __m512 {
        match scale {
            // SAFETY: the caller's promise.
            Some((scale, g)) => unsafe {
                _mm512_mul_ps(_mm512_mul_ps(value, scale), _mm512_set1_ps(g))
            },
            None => value,
        }
    }

    /// The scales of some blocks of a row, or of sixteen rows.
    struct RowScales {
        /// Which sixteen blocks.
        first: usize,
        values: [[f32; SIDE]; SIDE],
    }

    /// No blocks.
    const NONE: usize = usize::MAX;

    impl RowScales {
        #[inline(always)]
        fn new() -> Self {
            RowScales { first: NONE, values: [[1.0; SIDE]; SIDE] }
        }

        /// That of element `l` of a row in all lanes, with the tensor scale.
        ///
        /// # Safety
        /// The level is present, and the row has the element.
        #[inline(always)]
        unsafe fn row(
            &mut self,
            scales: Option<&Scales<'_>>,
            row: usize,
            l: usize,
        ) -> Option<(__m512, f32)> {
            let scales = scales?;
            let block = l / scales.block_k;
            if block / SIDE != self.first {
                self.first = block / SIDE;
                // SAFETY: the caller's promise.
                unsafe {
                    let values = some(scales, row, block / SIDE * SIDE);
                    _mm512_storeu_ps(self.values[0].as_mut_ptr(), values);
                }
            }
            // SAFETY: the caller's promise.
            Some((unsafe { _mm512_set1_ps(self.values[0][block % SIDE]) }, scales.factor))
        }

        /// Those of element `l` of sixteen rows, with the tensor scale.
        ///
        /// # Safety
        /// The level is present, and the rows have the element.
        #[inline(always)]
        unsafe fn columns(
            &mut self,
            scales: Option<&Scales<'_>>,
            row: usize,
            l: usize,
        ) -> Option<(__m512, f32)> {
            let scales = scales?;
            let block = l / scales.block_k;
            if block / SIDE != self.first {
                self.first = block / SIDE;
                // SAFETY: the caller's promise.
                unsafe {
                    let mut side = [_mm512_setzero_si512(); SIDE];
                    for (r, side) in side.iter_mut().enumerate() {
                        *side = _mm512_castps_si512(some(scales, row + r, block / SIDE * SIDE));
                    }
                    let side = transposed(side);
                    for (values, side) in self.values.iter_mut().zip(side) {
                        _mm512_storeu_ps(values.as_mut_ptr(), _mm512_castsi512_ps(side));
                    }
                }
            }
            // SAFETY: the caller's promise.
            let scale = unsafe { _mm512_loadu_ps(self.values[block % SIDE].as_ptr()) };
            Some((scale, scales.factor))
        }
    }

    /// The scales of up to sixteen blocks of a row from one on.
    ///
    /// # Safety
    /// The level is present, and the row has the first of them.
    #[inline(always)]
    unsafe fn some(scales: &Scales<'_>, row: usize, block: usize) -> __m512 {
        let count = (scales.columns - block).min(SIDE);
        let at = row / scales.block_rows * scales.columns + block;
        let there = (1u32 << count).wrapping_sub(1) as u16;
        // SAFETY: `Weights::new` has seen that there are scales for each row; the exponent of
        // UE4M3 is biased by 7, that of f32 by 127.
        unsafe {
            let bytes = scales.bytes.as_ptr().wrapping_add(at * scales.dtype.size());
            if scales.dtype == DType::F32 {
                return _mm512_castsi512_ps(_mm512_maskz_loadu_epi32(there, bytes.cast()));
            }
            let bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(there, bytes.cast()));
            if scales.dtype == DType::UE4M3 {
                let bytes = _mm512_and_si512(bytes, _mm512_set1_epi32(0x7F));
                let nan = _mm512_cmpeq_epi32_mask(bytes, _mm512_set1_epi32(0x7F));
                let bits = _mm512_castsi512_ps(_mm512_slli_epi32::<20>(bytes));
                let values = _mm512_mul_ps(bits, _mm512_set1_ps(2f32.powi(120)));
                return _mm512_mask_mov_ps(values, nan, _mm512_set1_ps(f32::NAN));
            }
            let nan = _mm512_cmpeq_epi32_mask(bytes, _mm512_set1_epi32(0xFF));
            let least = _mm512_testn_epi32_mask(bytes, bytes);
            let bits = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(bytes));
            let values = _mm512_mask_mov_ps(bits, least, _mm512_set1_ps(2f32.powi(-127)));
            _mm512_mask_mov_ps(values, nan, _mm512_set1_ps(f32::NAN))
        }
    }

    /// The elements of sixteen words, a row each.
    ///
    /// # Safety
    /// The level is present, and `to` has the rows.
    #[inline(always)]
    unsafe fn split<W: Words>(
        words: __m512i,
        scale: Option<(__m512, f32)>,
        to: *mut f32,
        stride: usize,
    ) {
        macro_rules! elements {
            ($($e:literal)*) => {$(
                if $e < W::ELEMENTS {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let value = scaled(W::element::<$e>(words), scale);
                        _mm512_storeu_ps(to.add($e * stride), value);
                    }
                }
            )*};
        }
        elements!(0 1 2 3 4 5 6 7);
    }

    /// # Safety
    /// AVX-512 F.
    #[inline(always)]
    unsafe fn transposed(r: [__m512i; SIDE]) -> [__m512i; SIDE] {
        // SAFETY: the caller's promise.
        unsafe {
            // Of rows 4g .. 4g + 4: columns c, 4 + c, 8 + c and 12 + c at 4g + c.
            let mut quads = r;
            for g in (0..SIDE).step_by(4) {
                let (a, b) =
                    (_mm512_unpacklo_epi32(r[g], r[g + 1]), _mm512_unpackhi_epi32(r[g], r[g + 1]));
                let (c, d) = (
                    _mm512_unpacklo_epi32(r[g + 2], r[g + 3]),
                    _mm512_unpackhi_epi32(r[g + 2], r[g + 3]),
                );
                quads[g] = _mm512_unpacklo_epi64(a, c);
                quads[g + 1] = _mm512_unpackhi_epi64(a, c);
                quads[g + 2] = _mm512_unpacklo_epi64(b, d);
                quads[g + 3] = _mm512_unpackhi_epi64(b, d);
            }
            let mut out = r;
            for c in 0..4 {
                let (p, q) = (quads[c], quads[4 + c]);
                let (s, t) = (quads[8 + c], quads[12 + c]);
                let (low, high) =
                    (_mm512_shuffle_i32x4::<0x44>(p, q), _mm512_shuffle_i32x4::<0xEE>(p, q));
                let (low_2, high_2) =
                    (_mm512_shuffle_i32x4::<0x44>(s, t), _mm512_shuffle_i32x4::<0xEE>(s, t));
                out[c] = _mm512_shuffle_i32x4::<0x88>(low, low_2);
                out[4 + c] = _mm512_shuffle_i32x4::<0xDD>(low, low_2);
                out[8 + c] = _mm512_shuffle_i32x4::<0x88>(high, high_2);
                out[12 + c] = _mm512_shuffle_i32x4::<0xDD>(high, high_2);
            }
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Code, Fp4Table, Scales, detect};
    use crate::num::{DType, E2M1, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16};

    /// All columns and rows that are given, `most` columns, against `value(row, element)`.
    fn check(rows: &Weights<'_>, most: usize, value: impl Fn(usize, usize) -> f32) {
        for level in [Level::Portable, Level::of(&detect())] {
            let stride = rows.len() + 3;
            let mut dst = vec![f32::NAN; rows.k() * stride];
            let done = columns(level, rows, &mut dst, stride);
            #[cfg(target_arch = "x86_64")]
            let here = level == Level::Avx512;
            #[cfg(not(target_arch = "x86_64"))]
            let here = false;
            assert_eq!(done, if here { most } else { 0 }, "{level:?}");
            for (i, l) in (0..done).flat_map(|i| (0..rows.k()).map(move |l| (i, l))) {
                assert_eq!(dst[l * stride + i], value(i, l), "{level:?} row {i}, element {l}");
            }
            let stride = rows.k() + 1;
            let mut dst = vec![f32::NAN; rows.len() * stride];
            let done = super::rows(level, rows, &mut dst, stride);
            assert!(done >= most || !here || !rows.k().is_multiple_of(16), "{level:?}: {done}");
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
    fn rows_from_the_first_special_value_on_are_left() {
        let mut codes = [0x15u8; 48 * 8];
        codes[20 * 8 + 3] = 0xFF;
        let code = Code::Fp8(DType::F8E4M3);
        let weights = Weights::new(code, &codes, 8, (48, 8), None).expect("whole rows");
        check(&weights, 16, |_, _| F8E4M3::from_bits(0x15).to_f32());
    }

    #[test]
    fn fp4_is_code_times_scale_times_g() {
        let (rows, k) = (33, 64);
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
