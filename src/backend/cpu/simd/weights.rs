//! Products with rows as they are stored, unpacked in registers on the way.

use std::ops::Range;

use super::lanes::Lanes;
use super::tile::{self, Out, Stored};
use super::unpack::{
    Bf16, E4m3, E5m2, F16, F32, Fp4Row, Fp4Table, Mxfp4, Nvfp4, Storage, Unpack, fp4_element,
};
use super::{LANES, Level, Rows};
use crate::num::{DType, E8M0, UE4M3};

/// Elements of the largest group that is unpacked at once: rows are padded to whole ones.
pub const GROUP: usize = 64;

/// Most elements along k that are summed up before the sum is added to the output. Six rows of
/// them fit a first-level cache.
pub const CHUNK: usize = 640;

/// Elements in a chunk along `k`: as few chunks as [`CHUNK`] allows, of about the same size.
pub fn chunk(k: usize) -> usize {
    let chunks = k.div_ceil(CHUNK).max(1);
    k.div_ceil(chunks).max(1).next_multiple_of(GROUP)
}

/// Bytes that are asked for ahead of those in use: what memory sends while it takes to answer.
/// Of rows that are multiplied at once, all bytes of the next ones, for they are read in stretches.
pub(super) const AHEAD: usize = 8 << 10;

/// Most bytes that, asked for ahead, stay in a second-level cache until they are used.
pub(super) const NEAR: usize = 128 << 10;

/// The most rows that [`stream`] multiplies at once.
pub const STREAM_ROWS: usize = 4;

/// What the bytes of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Elements of a float type of two or four bytes.
    Plain(DType),
    /// FP8 with f32, E8M0 or no block scales.
    Fp8(DType),
    /// FP4 with a UE4M3 scale for each 16.
    Nvfp4,
    /// FP4 with an E8M0 scale for each 32.
    Mxfp4,
}

impl Code {
    /// Bits of an element.
    pub fn bits(self) -> usize {
        match self {
            Code::Plain(dtype) => 8 * dtype.size(),
            Code::Fp8(_) => 8,
            Code::Nvfp4 | Code::Mxfp4 => 4,
        }
    }
}

/// Block scales in row-major order.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Their type.
    pub dtype: DType,
    /// Scales in a row.
    pub columns: usize,
    /// Rows that share a scale.
    pub block_rows: usize,
    /// Elements along k that share a scale.
    pub block_k: usize,
    /// The tensor scale.
    pub factor: f32,
    /// Of FP4, for that tensor scale.
    pub fp4: Option<&'a Fp4Table>,
}

/// Rows of elements as they are stored, contiguous along k.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    code: Code,
    bytes: &'a [u8],
    row_bytes: usize,
    rows: usize,
    k: usize,
    scales: Option<Scales<'a>>,
}

impl<'a> Weights<'a> {
    /// `rows` rows of `k` elements, `row_bytes` apart; `None` where the bytes do not hold them, or
    /// the scales are not what the code has.
    pub fn new(
        code: Code,
        bytes: &'a [u8],
        row_bytes: usize,
        (rows, k): (usize, usize),
        scales: Option<Scales<'a>>,
    ) -> Option<Self> {
        let width = match code {
            Code::Plain(DType::F32) => k.checked_mul(4)?,
            Code::Plain(DType::BF16 | DType::F16) => k.checked_mul(2)?,
            Code::Fp8(DType::F8E4M3 | DType::F8E5M2) => k,
            Code::Nvfp4 | Code::Mxfp4 => k.div_ceil(2),
            _ => return None,
        };
        let last = rows.checked_sub(1)?.checked_mul(row_bytes)?;
        if last.checked_add(width)? > bytes.len() {
            return None;
        }
        if let Some(scales) = &scales {
            let rows = rows.div_ceil(scales.block_rows.max(1));
            let blocks = k.div_ceil(scales.block_k.max(1));
            let need = rows.checked_mul(scales.columns)?.checked_mul(scales.dtype.size())?;
            let whole = scales.block_k.is_multiple_of(GROUP) || scales.block_k >= k;
            let fits = match code {
                Code::Plain(_) => false,
                Code::Fp8(_) => {
                    matches!(scales.dtype, DType::E8M0 | DType::F32)
                        && (whole || scales.block_k == 32)
                        && scales.factor == 1.0
                }
                // The level that reads the codes as integers needs exact halves of the scales.
                Code::Nvfp4 => {
                    let room = 2f32.powi(-90)..2f32.powi(90);
                    let shape = (scales.dtype, scales.block_k, scales.block_rows);
                    let table = scales.has_table::<Nvfp4>();
                    shape == (DType::UE4M3, 16, 1) && room.contains(&scales.factor) && table
                }
                Code::Mxfp4 => {
                    let shape = (scales.dtype, scales.block_k, scales.block_rows);
                    let table = scales.has_table::<Mxfp4>();
                    shape == (DType::E8M0, 32, 1) && scales.factor == 1.0 && table
                }
            };
            if !fits || scales.columns < blocks || need > scales.bytes.len() {
                return None;
            }
        } else if matches!(code, Code::Nvfp4 | Code::Mxfp4) {
            return None;
        }
        Some(Weights { code, bytes, row_bytes, rows, k, scales })
    }

    /// `len` of the rows, each `step` after the one before it; `None` where they are not all there,
    /// or share scales.
    pub fn every(&self, first: usize, step: usize, len: usize) -> Option<Self> {
        let last = len.checked_sub(1)?.checked_mul(step)?.checked_add(first)?;
        if last >= self.rows || step == 0 {
            return None;
        }
        let scales = match self.scales {
            Some(scales) if scales.block_rows != 1 => return None,
            Some(scales) => {
                let bytes = &scales.bytes[first * scales.columns * scales.dtype.size()..];
                Some(Scales { bytes, columns: scales.columns * step, ..scales })
            }
            None => None,
        };
        let bytes = &self.bytes[first * self.row_bytes..];
        Some(Weights { bytes, row_bytes: self.row_bytes * step, rows: len, scales, ..*self })
    }

    /// How many rows.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    pub(super) fn code(&self) -> Code {
        self.code
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    pub(super) fn scales(&self) -> Option<&Scales<'a>> {
        self.scales.as_ref()
    }

    /// The bytes of a row.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..(self.k * self.code.bits()).div_ceil(8)]
    }

    /// Where a row's bytes start.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn start_of(&self, row: usize) -> *const u8 {
        self.bytes.as_ptr().wrapping_add(row * self.row_bytes)
    }

    /// Has the processor fetch all rows to its second-level cache.
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        for row in 0..self.rows {
            const LINE: usize = 64;
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            for line in self.row(row).chunks(LINE) {
                // SAFETY: a hint, without effect on any state; SSE is part of the baseline.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
            }
        }
    }

    /// Whether each block of 16 elements is in the order that [`interleave`] makes where [`unpack`]
    /// gives it and [`stream`] multiplies with it.
    pub fn interleaved(&self) -> bool {
        self.is_fp4()
    }

    /// Whether they are NVFP4 or MXFP4.
    pub fn is_fp4(&self) -> bool {
        matches!(self.code, Code::Nvfp4 | Code::Mxfp4)
    }

    /// Where a row of FP4 begins.
    ///
    /// # Safety
    /// The row is one of these, and they are FP4.
    #[inline(always)]
    pub(super) unsafe fn fp4_row(&self, row: usize) -> Stored {
        let none = self.bytes.as_ptr();
        let scales = self
            .scales
            .map_or(none, |scales| scales.bytes.as_ptr().wrapping_add(row * scales.columns));
        // SAFETY: inside, by the caller's promise and `new`.
        Stored { codes: unsafe { self.bytes.as_ptr().add(row * self.row_bytes) }, scales }
    }

    /// The table of FP4's products; null for others.
    pub(super) fn fp4(&self) -> *const Fp4Row {
        let table = self.scales.and_then(|scales| scales.fp4);
        table.map_or(std::ptr::null(), |table| table.rows().as_ptr())
    }

    /// Where elements `first ..` of a row are, `first` a multiple of [`GROUP`]. FP8's scales are
    /// laid out in `scratch`, one for each group of 32.
    ///
    /// # Safety
    /// The row is one of these, and `first < k`.
    #[inline(always)]
    unsafe fn stored(&self, row: usize, first: usize, scratch: &mut [f32; CHUNK / 32]) -> Stored {
        let scales = match (self.code, &self.scales) {
            (Code::Nvfp4 | Code::Mxfp4, Some(scales)) => {
                let at = row * scales.columns + first / scales.block_k;
                scales.bytes.as_ptr().wrapping_add(at)
            }
            (Code::Fp8(_), scales) => {
                match scales {
                    Some(scales) => scales.spread(row, first, self.k, scratch),
                    None => scratch.fill(1.0),
                }
                scratch.as_ptr().cast()
            }
            // Plain elements have none, and `new` refuses FP4 without.
            _ => self.bytes.as_ptr(),
        };
        let bits = self.code.bits();
        // SAFETY: inside the row, by the caller's promise and `new`.
        let codes = unsafe { self.bytes.as_ptr().add(row * self.row_bytes + first * bits / 8) };
        Stored { codes, scales }
    }
}

/// Puts the elements of each block of 16 in the order of FP4's lanes, zeros behind the last.
pub fn interleave(src: &[f32], dst: &mut [f32]) {
    let (blocks, rest) = src.as_chunks::<LANES>();
    let (places, _) = dst.as_chunks_mut::<LANES>();
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    let blocks = blocks.iter().chain([&last]).chain(std::iter::repeat(&[0.0; LANES]));
    for (place, block) in places.iter_mut().zip(blocks) {
        *place = std::array::from_fn(|lane| block[fp4_element(lane)]);
    }
}

impl Scales<'_> {
    fn has_table<S: Storage>(&self) -> bool {
        self.fp4.is_some_and(|table| table.rows().len() == S::ROWS)
    }

    /// The scales of the groups of 32 from element `first` of a row on.
    fn spread(&self, row: usize, first: usize, k: usize, dst: &mut [f32; CHUNK / 32]) {
        let row = row / self.block_rows * self.columns;
        let (first, groups) = (first / 32, (k - first).div_ceil(32).min(dst.len()));
        // Groups of a block: a multiple of 32 elements, or all of them.
        let each = if self.block_k >= k { usize::MAX } else { self.block_k / 32 };
        let (mut done, mut block) = (0, first / each);
        while done < groups {
            let end = (block + 1).saturating_mul(each) - first;
            dst[done..end.min(groups)].fill(self.value(row + block));
            (done, block) = (end, block + 1);
        }
    }

    fn value(&self, at: usize) -> f32 {
        match self.dtype {
            DType::E8M0 => E8M0::from_bits(self.bytes[at]).to_f32(),
            DType::UE4M3 => UE4M3::from_bits(self.bytes[at]).to_f32(),
            _ => {
                let bytes = &self.bytes[4 * at..];
                f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
        }
    }
}

/// Calls `$f` with the vector type of the level and the storage of the code.
macro_rules! each_level {
    ($level:expr, $code:expr, $f:ident($($argument:expr),*)) => {
        match $level {
            Level::Portable => each_code!($code, portable::$f($($argument),*)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => each_code!($code, avx2::$f($($argument),*)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => each_code!($code, avx512::$f($($argument),*)),
        }
    };
}

macro_rules! each_code {
    ($code:expr, $module:ident::$f:ident($($argument:expr),*)) => {
        match $code {
            Code::Plain(DType::BF16) => $module::$f::<Bf16>($($argument),*),
            Code::Plain(DType::F16) => $module::$f::<F16>($($argument),*),
            // `Weights::new` lets no other type pass.
            Code::Plain(_) => $module::$f::<F32>($($argument),*),
            Code::Fp8(DType::F8E5M2) => $module::$f::<E5m2>($($argument),*),
            Code::Fp8(_) => $module::$f::<E4m3>($($argument),*),
            Code::Nvfp4 => $module::$f::<Nvfp4>($($argument),*),
            Code::Mxfp4 => $module::$f::<Mxfp4>($($argument),*),
        }
    };
}

/// `out[i · out_stride + j] = a[i] · w[rows.start + j]`.
///
/// Rows of `a` are arranged as [`Weights::interleaved`] says, and padded with zeros to a multiple
/// of [`GROUP`].
///
/// # Panics
/// With more than [`STREAM_ROWS`] rows of `a`, or where a row or output is missing.
pub fn stream(
    level: Level,
    a: Rows<'_>,
    weights: &Weights<'_>,
    rows: Range<usize>,
    out: &mut [f32],
    out_stride: usize,
) {
    assert!(a.len <= STREAM_ROWS && a.holds(weights.k.next_multiple_of(GROUP)), "rows of a");
    assert!(rows.start <= rows.end && rows.end <= weights.rows, "rows of weights");
    let columns = rows.end - rows.start;
    if a.len == 0 || columns == 0 {
        return;
    }
    assert!((a.len - 1) * out_stride + columns <= out.len(), "outputs lie inside their slice");
    let out = Out { to: out.as_mut_ptr(), stride: out_stride, add: false };
    // SAFETY: the level is present, for `Level::of` gives no other; rows and outputs were checked.
    unsafe { each_level!(level, weights.code, stream_at(a, weights, rows, out)) }
}

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
    assert!(row < weights.rows && first + len <= weights.k, "elements of the row");
    assert!(first.is_multiple_of(GROUP) && len <= CHUNK, "a chunk");
    assert!(dst.len().is_multiple_of(GROUP) && len <= dst.len(), "room for whole groups");
    if len == 0 {
        return dst.fill(0.0);
    }
    // SAFETY: the level is present, for `Level::of` gives no other; the sizes were checked.
    unsafe { each_level!(level, weights.code, unpack_at(weights, row, (first, len), dst)) }
}

/// The functions of one level: generic code, compiled with its instructions.
macro_rules! level {
    ($module:ident, $V:ty, $(#[$feature:meta])?) => {
        mod $module {
            use super::*;

            /// # Safety
            /// As [`super::stream_rows`], and the level is present.
            $(#[$feature])?
            pub(super) unsafe fn stream_at<U: Unpack<$V>>(
                a: Rows<'_>,
                weights: &Weights<'_>,
                rows: Range<usize>,
                out: Out,
            ) {
                // Many rows at once share what is loaded of `a`, and have sums that do not wait for
                // each other.
                // SAFETY: the caller's promises.
                unsafe {
                    match (a.len, U::CODE_BYTES / U::STEPS) {
                        (1, ..=8) => stream_rows::<$V, U, 1, 8>(a, weights, rows, out),
                        (1, _) => stream_rows::<$V, U, 1, 4>(a, weights, rows, out),
                        (2, _) => stream_rows::<$V, U, 2, 2>(a, weights, rows, out),
                        (3, _) => stream_rows::<$V, U, 3, 2>(a, weights, rows, out),
                        _ => stream_rows::<$V, U, 4, 2>(a, weights, rows, out),
                    }
                }
            }

            /// # Safety
            /// As [`super::unpack_row`], and the level is present.
            $(#[$feature])?
            pub(super) unsafe fn unpack_at<U: Unpack<$V>>(
                weights: &Weights<'_>,
                row: usize,
                part: (usize, usize),
                dst: &mut [f32],
            ) {
                // SAFETY: the caller's promises.
                unsafe { unpack_row::<$V, U>(weights, row, part, dst) }
            }
        }
    };
}

level!(portable, super::super::portable::Four,);
#[cfg(target_arch = "x86_64")]
level!(avx2, super::super::x86::Avx2, #[target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
level!(
    avx512,
    super::super::x86::Avx512,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
);

/// # Safety
/// `a` has `MR` rows of whole groups, `weights` the rows, `out` room for the products.
#[inline(always)]
unsafe fn stream_rows<V: Lanes, U: Unpack<V>, const MR: usize, const NR: usize>(
    a: Rows<'_>,
    weights: &Weights<'_>,
    rows: Range<usize>,
    out: Out,
) {
    let mut j = rows.start;
    while j < rows.end {
        // SAFETY: rows j .. of the range and their outputs, by the caller's promise.
        unsafe {
            let out = Out { to: out.to.add(j - rows.start), ..out };
            if j + NR <= rows.end {
                stream_tile::<V, U, MR, NR>(a, weights, j, out);
                j += NR;
            } else {
                stream_tile::<V, U, MR, 1>(a, weights, j, out);
                j += 1;
            }
        }
    }
}

/// # Safety
/// As [`stream_rows`], for rows `j .. j + NR`.
#[inline(always)]
unsafe fn stream_tile<V: Lanes, U: Unpack<V>, const MR: usize, const NR: usize>(
    a: Rows<'_>,
    weights: &Weights<'_>,
    j: usize,
    out: Out,
) {
    let (k, chunk) = (weights.k, chunk(weights.k));
    let tile = NR * weights.row_bytes;
    // Of long rows the processor itself fetches ahead.
    let ahead = (tile <= NEAR).then(|| j * weights.row_bytes + tile.max(AHEAD));
    let mut scratch = [[0.0; CHUNK / 32]; NR];
    let mut first = 0;
    while first < k {
        let len = chunk.min(k - first);
        let mut b = [Stored { codes: weights.bytes.as_ptr(), scales: weights.bytes.as_ptr() }; NR];
        for (c, (b, scratch)) in b.iter_mut().zip(&mut scratch).enumerate() {
            // SAFETY: a row of the range, and `first` in it.
            *b = unsafe { weights.stored(j + c, first, scratch) };
        }
        // SAFETY: `a` holds k rounded up to whole groups, and `chunk` is a multiple of a group;
        // `Weights::new` has checked codes and scales.
        unsafe {
            let a = (a.data.as_ptr().add(first), a.stride);
            let out = Out { add: first > 0, ..out };
            let passed = NR * (first / (LANES * U::STEPS) * U::CODE_BYTES);
            let ahead = ahead.map_or(std::ptr::null(), |ahead| {
                weights.bytes.as_ptr().wrapping_add(ahead + passed)
            });
            tile::tile::<V, U, MR, NR>(a, b, len, (weights.fp4(), ahead), out);
        }
        first += chunk;
    }
}

/// # Safety
/// The row has elements `first .. first + len`, and `dst` is a multiple of [`GROUP`] that holds
/// them.
#[inline(always)]
unsafe fn unpack_row<V: Lanes, U: Unpack<V>>(
    weights: &Weights<'_>,
    row: usize,
    (first, len): (usize, usize),
    dst: &mut [f32],
) {
    let mut scratch = [0.0; CHUNK / 32];
    // SAFETY: by the caller's promise.
    let stored = unsafe { weights.stored(row, first, &mut scratch) };
    let elements = LANES * U::STEPS;
    let (whole, rest) = (len / elements, len % elements);
    let (to, fp4) = (dst.as_mut_ptr(), weights.fp4());
    for g in 0..whole {
        // SAFETY: group g of the row and of `dst`.
        unsafe {
            let codes = stored.codes.add(g * U::CODE_BYTES);
            let scales = stored.scales.add(g * U::SCALE_BYTES);
            unpack_group::<V, U>(Stored { codes, scales }, fp4, to.add(g * elements));
        }
    }
    let mut done = whole * elements;
    if rest > 0 {
        let (mut codes, mut scales) = ([0u8; 64], [0u8; 8]);
        // SAFETY: the elements after the last whole group, and no more than a group's bytes.
        unsafe {
            let from = stored.codes.add(whole * U::CODE_BYTES);
            std::ptr::copy_nonoverlapping(from, codes.as_mut_ptr(), U::code_bytes(rest));
            let from = stored.scales.add(whole * U::SCALE_BYTES);
            std::ptr::copy_nonoverlapping(from, scales.as_mut_ptr(), U::scale_bytes(rest));
            let tail = Stored { codes: codes.as_ptr(), scales: scales.as_ptr() };
            unpack_group::<V, U>(tail, fp4, to.add(done));
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
        let raw = unsafe { U::load(from.codes, from.scales, fp4, pass) };
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
