//! The K-quants: super-blocks of 256 values whose block scales are themselves quantised.
//!
//! | type | bytes | layout | value |
//! |---|---|---|---|
//! | Q4_K | 144 | d:f16, dmin:f16, 12 scale bytes, 128 bytes of nibbles | d·s·q − dmin·m |
//! | Q5_K | 176 | d:f16, dmin:f16, 12 scale bytes, 32 high-bit bytes, 128 bytes of nibbles | d·s·q − dmin·m |
//! | Q6_K | 210 | 128 bytes of low nibbles, 64 of high pairs, 16 × i8 scales, d:f16 | d·s·(q − 32) |
//!
//! Products are taken left to right; all are exact, see the parent module's table.

use super::blocks::f16_at;

/// The 6-bit scale and minimum of block `j` of 8.
///
/// Bytes 0–3 hold the scales of blocks 0–3, bytes 4–7 their minima, in the low six bits. Bytes
/// 8–11 hold the low halves for blocks 4–7 (scale low, minimum high), whose upper two bits sit
/// atop bytes 0–3 and 4–7.
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 0x3F, packed[j + 4] & 0x3F)
    } else {
        (packed[j + 4] & 0x0F | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (scale.into(), min.into())
}

pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    four_or_five_bits(block, &block[16..], out, |_, _| 0);
}

pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let high = &block[16..48];
    // Bit `j` of byte `i` belongs to value `i` of block `j`.
    four_or_five_bits(block, &block[48..], out, |j, i| (high[i] >> j & 1) << 4);
}

/// Each run of 32 nibble bytes holds two blocks: the low halves, then the high halves.
fn four_or_five_bits(
    head: &[u8],
    nibbles: &[u8],
    out: &mut [f32; 256],
    high: impl Fn(usize, usize) -> u8,
) {
    let (d, dmin) = (f16_at(head, 0), f16_at(head, 2));
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&head[4..16], j);
        let (d, m) = (d * scale, dmin * min);
        let run = &nibbles[j / 2 * 32..][..32];
        for (i, (byte, y)) in run.iter().zip(out).enumerate() {
            let low = if j % 2 == 0 { byte & 0x0F } else { byte >> 4 };
            *y = d * f32::from(low | high(j, i)) - m;
        }
    }
}

pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, _) = rest.split_at(16);
    let d = f16_at(block, 208);
    // Value `v` lies in half `v / 128`, and there in run `r` of 32: runs 0 and 1 take the low
    // halves of the half's two runs of nibbles, runs 2 and 3 the high halves; run `r` takes bit
    // pair `r` of the half's high bytes.
    for (v, y) in out.iter_mut().enumerate() {
        let (half, r, i) = (v / 128, v / 32 % 4, v % 32);
        let nibble = low[half * 64 + r % 2 * 32 + i] >> (r / 2 * 4) & 0x0F;
        let pair = high[half * 32 + i] >> (r * 2) & 3;
        let scale = f32::from(scales[v / 16] as i8);
        *y = d * scale * f32::from((nibble | pair << 4) as i8 - 32);
    }
}
