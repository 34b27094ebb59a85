//! Tensor maps: what `cp.async.bulk.tensor` copies.

use crate::error::{Error, FaultKind, Result};

/// Bytes of an encoded map, as on the device.
pub const TENSOR_MAP_BYTES: usize = 128;
/// First bytes of a map that this crate encoded.
const MAGIC: u64 = 0x7074_786d_6170_0001;
/// The device's limit of a box's size along one dimension.
const MAX_BOX: u32 = 256;

/// How rows of a box are permuted in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Swizzle {
    /// Not at all.
    #[default]
    None,
    /// 16-byte chunks within 32 bytes.
    B32,
    /// 16-byte chunks within 64 bytes.
    B64,
    /// 16-byte chunks within 128 bytes.
    B128,
}

/// A tiled tensor in device memory, and the box that one copy moves. Dimension 0 is the
/// contiguous one.
///
/// The encoded form is this crate's own (the device's is opaque): pass [`Self::encode`]'s
/// bytes as a kernel's `__grid_constant__ const CUtensorMap` parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    address: u64,
    element: u32,
    sizes: Vec<u64>,
    strides: Vec<u64>,
    box_sizes: Vec<u32>,
    swizzle: Swizzle,
}

impl TensorMap {
    /// A map of a tensor of `element` bytes an element; `strides` are in bytes, for
    /// dimensions 1 and up. Elements outside the tensor are read as zero and not written.
    ///
    /// # Errors
    /// What `cuTensorMapEncodeTiled` refuses: more than 5 dimensions, addresses or strides
    /// that are not multiples of 16, boxes over 256 along a dimension, inner box sizes that
    /// are no multiple of 16 bytes or exceed the swizzle's span.
    pub fn tiled(
        address: u64,
        element: u32,
        sizes: &[u64],
        strides: &[u64],
        box_sizes: &[u32],
        swizzle: Swizzle,
    ) -> Result<TensorMap> {
        let refuse = |m: String| Err(Error::Launch(format!("tensor map: {m}")));
        let n = sizes.len();
        if !(1..=5).contains(&n) || strides.len() != n - 1 || box_sizes.len() != n {
            return refuse(format!(
                "{n} sizes, {} strides and {} box sizes do not describe 1 to 5 dimensions",
                strides.len(),
                box_sizes.len()
            ));
        }
        if ![1, 2, 4, 8].contains(&element) {
            return refuse(format!("elements of {element} bytes; 1, 2, 4 and 8 are possible"));
        }
        if !address.is_multiple_of(16) || strides.iter().any(|s| s % 16 != 0 || *s >= 1 << 40) {
            return refuse("address and strides must be multiples of 16".into());
        }
        if sizes.iter().any(|s| *s == 0 || *s > 1 << 32) {
            return refuse("sizes must lie between 1 and 2^32".into());
        }
        if box_sizes.iter().any(|b| *b == 0 || *b > MAX_BOX) {
            return refuse(format!("box sizes must lie between 1 and {MAX_BOX}"));
        }
        let inner = u64::from(box_sizes[0]) * u64::from(element);
        if inner % 16 != 0 {
            return refuse(format!("the inner box size is {inner} bytes, not a multiple of 16"));
        }
        if let Some(span) = span(swizzle)
            && inner > span as u64
        {
            return refuse(format!(
                "the inner box size is {inner} bytes, the swizzle spans {span}"
            ));
        }
        let total: u64 =
            box_sizes.iter().map(|b| u64::from(*b)).product::<u64>() * u64::from(element);
        if total > 1 << 20 {
            return refuse(format!("a box of {total} bytes does not fit in shared memory"));
        }
        Ok(TensorMap {
            address,
            element,
            sizes: sizes.to_vec(),
            strides: strides.to_vec(),
            box_sizes: box_sizes.to_vec(),
            swizzle,
        })
    }

    /// The bytes to pass to a kernel.
    pub fn encode(&self) -> [u8; TENSOR_MAP_BYTES] {
        let mut out = [0u8; TENSOR_MAP_BYTES];
        let n = self.sizes.len();
        let swizzle = match self.swizzle {
            Swizzle::None => 0u64,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3,
        };
        let mut words =
            vec![MAGIC, self.address, u64::from(self.element) | swizzle << 8 | (n as u64) << 16];
        for i in 0..5 {
            words.push(self.sizes.get(i).copied().unwrap_or(0));
        }
        for i in 0..4 {
            words.push(self.strides.get(i).copied().unwrap_or(0));
        }
        for pair in [0, 2] {
            let get = |i: usize| u64::from(self.box_sizes.get(i).copied().unwrap_or(0));
            words.push(get(pair) | get(pair + 1) << 16);
        }
        words.push(u64::from(self.box_sizes.get(4).copied().unwrap_or(0)));
        for (chunk, w) in out.chunks_mut(8).zip(words) {
            chunk.copy_from_slice(&w.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(raw: &[u8; TENSOR_MAP_BYTES]) -> Option<TensorMap> {
        let mut words = [0u64; 16];
        for (w, chunk) in words.iter_mut().zip(raw.chunks(8)) {
            *w = chunk.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        }
        if words[0] != MAGIC {
            return None;
        }
        let n = (words[2] >> 16 & 0xff) as usize;
        let swizzle = match words[2] >> 8 & 0xff {
            0 => Swizzle::None,
            1 => Swizzle::B32,
            2 => Swizzle::B64,
            3 => Swizzle::B128,
            _ => return None,
        };
        let boxes: Vec<u32> = [words[12], words[12] >> 16, words[13], words[13] >> 16, words[14]]
            .iter()
            .map(|w| *w as u32 & 0xffff)
            .collect();
        let element = (words[2] & 0xff) as u32;
        let (sizes, strides) = (words.get(3..3 + n)?, words.get(8..8 + n.checked_sub(1)?)?);
        TensorMap::tiled(words[1], element, sizes, strides, boxes.get(..n)?, swizzle).ok()
    }

    pub(crate) fn box_bytes(&self) -> usize {
        self.box_sizes.iter().map(|b| *b as usize).product::<usize>() * self.element as usize
    }

    /// The alignment that a box needs in shared memory.
    pub(crate) fn shared_align(&self) -> u32 {
        128
    }

    /// Calls `f` with the device address of every row of the box (none where it lies
    /// outside in the outer dimensions), its place in the box, and the range of its
    /// elements inside the tensor.
    fn rows(
        &self,
        at: &[i32],
        mut f: impl FnMut(Option<u64>, usize, std::ops::Range<usize>) -> Result<(), FaultKind>,
    ) -> Result<(), FaultKind> {
        let n = self.sizes.len();
        if at.len() != n {
            let message = format!("{} coordinates for a map of {n} dimensions", at.len());
            return Err(FaultKind::InvalidOperand(message));
        }
        let inner = self.box_sizes[0] as usize;
        let outer: usize = self.box_sizes[1..].iter().map(|b| *b as usize).product();
        let first = i64::from(at[0]);
        let low = (-first).clamp(0, inner as i64) as usize;
        let high = (self.sizes[0] as i64 - first).clamp(0, inner as i64) as usize;
        for row in 0..outer {
            let mut rest = row;
            let mut offset = 0u64;
            let mut inside = low < high;
            for (d, &first) in at.iter().enumerate().skip(1) {
                let c = i64::from(first) + (rest % self.box_sizes[d] as usize) as i64;
                rest /= self.box_sizes[d] as usize;
                inside &= c >= 0 && (c as u64) < self.sizes[d];
                offset = offset.wrapping_add((c as u64).wrapping_mul(self.strides[d - 1]));
            }
            let begin = first + low as i64;
            let address = self
                .address
                .wrapping_add(offset)
                .wrapping_add_signed(begin * i64::from(self.element));
            f(inside.then_some(address), row * inner, low..high.max(low))?;
        }
        Ok(())
    }

    /// The bytes of a box, zero outside the tensor.
    pub(crate) fn gather(
        &self,
        at: &[i32],
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), FaultKind>,
    ) -> Result<Vec<u8>, FaultKind> {
        let e = self.element as usize;
        let mut out = vec![0u8; self.box_bytes()];
        self.rows(at, |address, start, range| match address {
            Some(a) => read(a, &mut out[(start + range.start) * e..(start + range.end) * e]),
            None => Ok(()),
        })?;
        Ok(out)
    }

    /// Writes the bytes of a box that lie inside the tensor.
    pub(crate) fn scatter(
        &self,
        at: &[i32],
        data: &[u8],
        mut write: impl FnMut(u64, &[u8]) -> Result<(), FaultKind>,
    ) -> Result<(), FaultKind> {
        let e = self.element as usize;
        self.rows(at, |address, start, range| match address {
            Some(a) => write(a, &data[(start + range.start) * e..(start + range.end) * e]),
            None => Ok(()),
        })
    }

    /// A box's bytes as they lie in shared memory at `base`.
    pub(crate) fn swizzle(&self, base: u64, data: &[u8]) -> Vec<u8> {
        let mut out = vec![0u8; data.len()];
        for (i, b) in data.iter().enumerate() {
            if let Some(o) = out.get_mut(self.swizzled(base, i)) {
                *o = *b;
            }
        }
        out
    }

    /// The inverse of [`Self::swizzle`].
    pub(crate) fn unswizzle(&self, base: u64, data: &[u8]) -> Vec<u8> {
        (0..data.len()).map(|i| data.get(self.swizzled(base, i)).copied().unwrap_or(0)).collect()
    }

    /// The pattern is one of addresses, so it depends on where the box lies.
    fn swizzled(&self, base: u64, i: usize) -> usize {
        let address = base + i as u64;
        let bits = match self.swizzle {
            Swizzle::None => return i,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3u32,
        };
        // Bits 4 and up of the address are changed by the bits from 7 on.
        let field = (1u64 << bits) - 1;
        let moved = address ^ (address >> 7 & field) << 4;
        (moved.wrapping_sub(base)) as usize
    }
}

fn span(s: Swizzle) -> Option<u32> {
    match s {
        Swizzle::None => None,
        Swizzle::B32 => Some(32),
        Swizzle::B64 => Some(64),
        Swizzle::B128 => Some(128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_survives_encoding() {
        let m = TensorMap::tiled(
            0x7f00_0000_0100,
            2,
            &[64, 32, 3],
            &[128, 4096],
            &[32, 8, 1],
            Swizzle::B64,
        );
        let m = m.expect("a legal map");
        assert_eq!(TensorMap::decode(&m.encode()), Some(m));
    }

    #[test]
    fn outside_elements_read_as_zero() {
        let m =
            TensorMap::tiled(0, 4, &[5, 2], &[32], &[4, 4], Swizzle::None).expect("a legal map");
        let read = |a: u64, out: &mut [u8]| {
            for (i, chunk) in out.chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&((a / 4) as u32 + i as u32 + 1).to_le_bytes());
            }
            Ok(())
        };
        let data = m.gather(&[3, 1], read).expect("all inside or zero");
        let words: Vec<u32> =
            data.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        let mut want = vec![0; 16];
        (want[0], want[1]) = (12, 13);
        assert_eq!(words, want);
    }

    #[test]
    fn swizzling_is_undone_and_permutes_chunks_by_row() {
        let m = TensorMap::tiled(0, 1, &[128, 8], &[128], &[128, 8], Swizzle::B128).expect("legal");
        let data: Vec<u8> = (0..1024).map(|i| (i / 16) as u8).collect();
        let s = m.swizzle(1024, &data);
        assert_eq!(m.unswizzle(1024, &s), data);
        // Row 1 starts with chunk 1 ^ 1 = 0 of the row at position 16.
        assert_eq!((s[128], s[128 + 16]), (9, 8));
    }
}
