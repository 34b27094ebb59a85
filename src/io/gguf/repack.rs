//! ggml's FP4 blocks, taken apart into this crate's codes and scales. No value changes.

use super::BlockType;
use crate::format::Format;

/// The format that the blocks can be taken apart into.
pub(in crate::io) fn repacked_format(block: BlockType) -> Option<Format> {
    match block {
        BlockType::MXFP4 => Some(Format::Mxfp4),
        BlockType::NVFP4 => Some(Format::Nvfp4),
        _ => None,
    }
}

/// Takes whole blocks apart: codes two to a byte, neighbours together, and scales row-major.
/// Lengths follow from the number of blocks.
pub(in crate::io) fn repack(block: BlockType, bytes: &[u8], codes: &mut [u8], scales: &mut [u8]) {
    match block {
        BlockType::MXFP4 => take_apart::<17, 1, 16>(bytes, codes, scales),
        BlockType::NVFP4 => take_apart::<36, 4, 8>(bytes, codes, scales),
        _ => {}
    }
}

/// A block of `BYTES` is `SCALES` scales and then as many runs of `RUN` code bytes.
fn take_apart<const BYTES: usize, const SCALES: usize, const RUN: usize>(
    bytes: &[u8],
    codes: &mut [u8],
    scales: &mut [u8],
) {
    let blocks = bytes.as_chunks::<BYTES>().0.iter();
    let scales = scales.as_chunks_mut::<SCALES>().0;
    let codes = codes.chunks_exact_mut(SCALES * RUN);
    for ((block, scales), codes) in blocks.zip(scales).zip(codes) {
        let (block_scales, block_codes) = block.split_at(SCALES);
        scales.copy_from_slice(block_scales);
        let runs = block_codes.as_chunks::<RUN>().0.iter();
        for (run, codes) in runs.zip(codes.as_chunks_mut::<RUN>().0) {
            for (i, code) in codes.iter_mut().enumerate() {
                *code = nibble(run, 2 * i) | nibble(run, 2 * i + 1) << 4;
            }
        }
    }
}

/// Element `i` of a run: the low halves come first, then the high halves.
fn nibble(run: &[u8], i: usize) -> u8 {
    match run.get(i) {
        Some(byte) => byte & 0x0F,
        None => run[i - run.len()] >> 4,
    }
}
