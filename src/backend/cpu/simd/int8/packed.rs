//! Rows of A as int8 with a scale for each block.

use bytemuck::{Pod, Zeroable};

use super::super::Level;
use super::super::per_level::per_level;
use super::{BLOCK, BLOCKS, DOUBLED, GROUP, Int8Level, OFFSET};

/// Rounds a row to int8 in blocks of [`BLOCK`]: the scale is 1/127 of the largest magnitude, or
/// [`LEAST_SCALE`] where that is more; codes are the nearest integers to x / scale, even ones of two
/// that are as near. Gives whether it did: not where a value is not below [`LARGEST`].
///
/// # Panics
/// When `dst` is too short.
pub fn quantize(level: Int8Level, row: &[f32], dst: &mut [Packed]) -> bool {
    let dst = &mut dst[..row.len().div_ceil(GROUP)];
    let largest = match level {
        Int8Level::Portable => rounded(Level::Portable, row, dst),
        #[cfg(target_arch = "x86_64")]
        Int8Level::Avx2 => rounded(Level::Avx2, row, dst),
        // SAFETY: `Int8Level::of` gives no level that is not there; there are as many groups.
        #[cfg(target_arch = "x86_64")]
        Int8Level::Avx512Vnni => unsafe { super::avx512::rounded(row, dst) },
        #[cfg(target_arch = "aarch64")]
        Int8Level::NeonDot | Int8Level::NeonI8mm => rounded(Level::Neon, row, dst),
    };
    largest < LARGEST.to_bits()
}

/// Values of this size and above are not rounded to int8: sums of their products may overflow where
/// the products with the weights' scales would not.
const LARGEST: f32 = f32::from_bits((127 + 100) << 23);

/// The least scale of a block: 2⁻¹⁰⁰, so that nothing underflows.
pub(super) const LEAST_SCALE: f32 = f32::from_bits((127 - 100) << 23);

/// The largest code.
pub(super) const MOST: f32 = 127.0;

/// A group of a row of A.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Packed {
    /// Four bytes of each block at a time: see `Quad::Codes`.
    pub(super) codes: [[i8; 4 * BLOCKS]; 4],
    /// −12 times the sum of each block's codes.
    pub(super) offsets: [i32; BLOCKS],
    /// What an integer of each block stands for.
    pub(super) scales: [f32; BLOCKS],
}

impl Packed {
    #[inline(always)]
    fn of(elements: &[i8; GROUP], scales: [f32; BLOCKS]) -> Self {
        let mut packed = Packed { scales, ..Packed::default() };
        for (vector, codes) in packed.codes.iter_mut().enumerate() {
            for (at, code) in codes.iter_mut().enumerate() {
                let (block, i) = (at / 4, at % 4);
                *code = elements[BLOCK * block + 8 * (vector / 2) + vector % 2 + 2 * i];
            }
        }
        for (offset, block) in packed.offsets.iter_mut().zip(elements.chunks_exact(BLOCK)) {
            *offset = -OFFSET * block.iter().map(|&code| i32::from(code)).sum::<i32>();
        }
        packed
    }
}

per_level! {
    /// As [`quantize`]; gives the largest magnitude's bits.
    fn rounded(row: &[f32], dst: &mut [Packed]) -> u32 {
        let mut largest = 0;
        for (group, dst) in row.chunks(GROUP).zip(dst.iter_mut()) {
            let mut values = [0.0f32; GROUP];
            values[..group.len()].copy_from_slice(group);
            let (mut codes, mut scales) = ([0i8; GROUP], [0.0f32; BLOCKS]);
            let blocks = values.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK));
            for ((values, codes), scale) in blocks.zip(&mut scales) {
                // As integers, magnitudes are in order, and NaN above all of them.
                let magnitudes = values.iter().map(|x| x.to_bits() & !(1 << 31));
                let most = magnitudes.fold(0, u32::max);
                largest = largest.max(most);
                *scale = (f32::from_bits(most) / MOST).max(LEAST_SCALE);
                let inverse = 1.0 / *scale;
                for (code, x) in codes.iter_mut().zip(values) {
                    // Rounds to an integer, in the low bits of the sum.
                    const ROUNDS: f32 = 1.5 * (1 << 23) as f32;
                    *code = (x * inverse + ROUNDS).to_bits() as i8;
                }
            }
            *dst = Packed::of(&codes, scales);
        }
        largest
    }

    /// A row of FP4 codes, two a byte, and half the scales of its blocks of [`BLOCK`], as they are.
    pub fn pack_fp4(codes: &[u8], k: usize, scales: &[f32], dst: &mut [Packed]) {
        let scales = scales.chunks(BLOCKS).chain(std::iter::repeat(&[] as &[f32]));
        let groups = codes.chunks(GROUP / 2).zip(scales).zip(dst.iter_mut()).enumerate();
        for (g, ((codes, scales), dst)) in groups {
            let mut elements = [0i8; GROUP];
            for (pair, byte) in elements.chunks_exact_mut(2).zip(codes) {
                pair[0] = DOUBLED[usize::from(byte & 15)];
                pair[1] = DOUBLED[usize::from(byte >> 4)];
            }
            elements[GROUP.min(k - GROUP * g)..].fill(0);
            let mut all = [0.0; BLOCKS];
            all[..scales.len()].copy_from_slice(scales);
            *dst = Packed::of(&elements, all);
        }
    }
}

/// Half of a group of two rows of A, in the place of one: two of the four blocks.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Pair {
    /// Four bytes at a time. Of each block those of the codes at even places, the first row's and
    /// then the second's, then so of the codes at odd places.
    pub(super) codes: [[[i8; 4]; 4]; 4],
    /// Of each block the first row's scale, twice, and the second's.
    pub(super) scales: [[f32; 4]; 2],
}

/// Stores rows of A, `stride` apart, as pairs where the level multiplies two at once: rows 2i and
/// 2i + 1, for each `groups` groups. There is an even number of places then.
pub fn pair(level: Int8Level, rows: &mut [f32], stride: usize, groups: usize) {
    if level.places(1) == 1 {
        return;
    }
    for two in rows.chunks_mut(2 * stride) {
        let (first, second) = two.split_at_mut(stride);
        let first: &mut [Packed] = bytemuck::cast_slice_mut(&mut first[..groups * WORDS]);
        let second: &mut [Packed] = bytemuck::cast_slice_mut(&mut second[..groups * WORDS]);
        for (first, second) in first.iter_mut().zip(second) {
            let [low, high] = [0, 2].map(|block| paired(first, second, block));
            *first = bytemuck::cast(low);
            *second = bytemuck::cast(high);
        }
    }
}

/// Blocks `block` and `block + 1` of a group of two rows.
#[inline(always)]
fn paired(first: &Packed, second: &Packed, block: usize) -> Pair {
    let mut pair = Pair::zeroed();
    for (row, from) in [first, second].into_iter().enumerate() {
        for at in 0..2 {
            for (vector, codes) in from.codes.iter().enumerate() {
                let place = 2 * row + vector / 2;
                let codes = &codes[4 * (block + at)..];
                pair.codes[2 * at + vector % 2][place].copy_from_slice(&codes[..4]);
            }
            pair.scales[at][2 * row..2 * row + 2].fill(from.scales[block + at]);
        }
    }
    pair
}

/// f32 of a group.
const WORDS: usize = size_of::<Packed>() / size_of::<f32>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::detect;
    use crate::caps::Isa;

    /// Every level that this machine has.
    fn levels() -> Vec<Int8Level> {
        let some = [Isa::Avx2Fma, Isa::NeonDot];
        vec![Int8Level::Portable, Int8Level::of(&some), Int8Level::of(&detect())]
    }

    /// A row of `k` values, the sizes of its blocks far apart.
    fn row(k: usize) -> Vec<f32> {
        let size = |i: usize| 2f32.powi((i / BLOCK * 7 % 60) as i32 - 30);
        (0..k).map(|i| ((i * 37 % 101) as f32 - 50.3) * size(i)).collect()
    }

    #[test]
    fn codes_are_the_nearest_multiples_of_a_127th_of_the_largest_in_the_block() {
        for k in [1, 15, 16, 17, 63, 64, 65, 200] {
            let row = row(k);
            for level in levels() {
                let mut packed = vec![Packed::default(); k.div_ceil(GROUP)];
                assert!(quantize(level, &row, &mut packed));
                for (b, block) in row.chunks(BLOCK).enumerate() {
                    let (group, b) = (&packed[b / BLOCKS], b % BLOCKS);
                    let scale = block.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
                    assert_eq!(group.scales[b], scale);
                    let mut sum = 0;
                    for (e, x) in block.iter().enumerate() {
                        let code = group.codes[2 * (e / 8) + e % 2][4 * b + e % 8 / 2];
                        let off = f64::from(*x) / f64::from(scale) - f64::from(code);
                        assert!(off.abs() < 0.5001, "{x} is not {code} · {scale} at {level:?}");
                        sum += i32::from(code);
                    }
                    assert_eq!(group.offsets[b], -12 * sum, "{level:?}");
                }
            }
        }
    }

    #[test]
    fn what_int8_does_not_stand_for_is_told_and_the_smallest_values_are_not_scaled() {
        for level in levels() {
            let mut packed = [Packed::default(); 2];
            for (value, fits) in [
                (LARGEST / 2.0, true),
                (-LARGEST, false),
                (f32::INFINITY, false),
                (f32::NAN, false),
                (f32::from_bits(1), true),
                (0.0, true),
            ] {
                let mut row = [0.0; 70];
                row[69] = value;
                assert_eq!(quantize(level, &row, &mut packed), fits, "{value} at {level:?}");
                assert_eq!(packed[0].scales, [LEAST_SCALE; BLOCKS]);
            }
        }
    }
}
