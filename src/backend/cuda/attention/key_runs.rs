//! Where keys lie, as kernels of attention find them: `kernels/include/key_runs.cuh`.

use bytemuck::{Pod, Zeroable};

use crate::backend::cuda::gpu::Call;
use crate::error::Result;
use crate::op::Sequence;

/// `Run`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Run {
    outer: i32,
    inner: i32,
}

/// `KeyRuns`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct KeyRuns {
    runs: u64,
    keys: i32,
    shift: i32,
}

/// The runs of keys of a launch's sequences, one sequence after the other.
#[derive(Debug)]
pub(super) struct RunTable {
    runs: Vec<Run>,
    /// Keys of a run, the same for all sequences.
    keys: i32,
    kv_rows: usize,
}

impl RunTable {
    /// None yet, of keys that have so many rows of one outermost index.
    pub fn new(kv_rows: usize) -> Self {
        RunTable { runs: Vec::new(), keys: i32::MAX, kv_rows: kv_rows.max(1) }
    }

    /// Adds a sequence's; where they begin.
    pub fn add(&mut self, sequence: &Sequence) -> i32 {
        let first = self.runs.len() as i32;
        let (rows, keys) = sequence.key_runs();
        self.keys = i32::try_from(keys).unwrap_or(i32::MAX).max(1);
        self.runs.extend(rows.into_iter().map(|row| Run {
            outer: (row / self.kv_rows) as i32,
            inner: (row % self.kv_rows) as i32,
        }));
        first
    }

    /// The table on the GPU.
    pub fn bind(&self, call: &mut Call<'_, '_>) -> Result<KeyRuns> {
        let runs = call.constants(&self.runs, "runs of keys")?;
        Ok(KeyRuns { runs, keys: self.keys, shift: self.shift() })
    }

    /// The logarithm of a run's keys, or -1 where they are no power of two.
    fn shift(&self) -> i32 {
        match self.keys {
            // Longer than any sequence.
            i32::MAX => 31,
            keys if keys.count_ones() == 1 => keys.trailing_zeros() as i32,
            _ => -1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::DType;
    use crate::op::{Attention, Dense, KvLayout, Operand};

    fn spec(dtype: DType, dims: &[usize]) -> Operand {
        Dense::spec(dtype, dims).unwrap().into()
    }

    /// Attention of two queries a sequence, over keys whose leading sizes are these.
    fn attention(keys: [usize; 2], packed: bool) -> Attention {
        let leading = if packed { &keys[..1] } else { &keys[..] };
        let k = spec(DType::BF16, &[leading, &[1, 8]].concat());
        let q = spec(DType::BF16, &[2, 2, 1, 8]);
        Attention::new(q.clone(), k.clone(), k, q)
    }

    /// Where the kernel finds a key of the sequence whose runs begin there.
    fn row(table: &RunTable, first: i32, key: i32) -> usize {
        let shift = table.shift();
        let at = if shift >= 0 { key >> shift } else { key / table.keys };
        let Run { outer, inner } = table.runs[(first + at) as usize];
        let inner = (inner + key - at * table.keys) as usize;
        assert!(inner < table.kv_rows, "key {key} is of one outermost index");
        outer as usize * table.kv_rows + inner
    }

    fn finds_every_key(op: &Attention, kv_rows: usize, shift: i32, read: &[&[i64]]) {
        let mut read = read.iter();
        let sequences = op.sequences(|_| Ok(read.next().unwrap().to_vec())).unwrap();
        let mut table = RunTable::new(kv_rows);
        let firsts: Vec<i32> = sequences.iter().map(|sequence| table.add(sequence)).collect();
        assert_eq!(table.shift(), shift);
        assert_eq!(sequences.len(), 2);
        for (sequence, first) in sequences.iter().zip(firsts) {
            for key in 0..sequence.kv_len {
                assert_eq!(row(&table, first, key as i32), sequence.key_row(key));
            }
        }
    }

    #[test]
    fn keys_of_each_sequence_follow_each_other() {
        finds_every_key(&attention([2, 5], false), 5, 31, &[]);
    }

    #[test]
    fn packed_keys_begin_where_their_sequence_does() {
        let mut op = attention([9, 0], true);
        (op.q, op.out) = (spec(DType::BF16, &[4, 1, 8]), spec(DType::BF16, &[4, 1, 8]));
        op.cu_seqlens_q = Some(spec(DType::I32, &[3]));
        op.kv = KvLayout::Packed { cu_seqlens_k: spec(DType::I32, &[3]) };
        finds_every_key(&op, 9, 31, &[&[0, 2, 4], &[0, 3, 9]]);
    }

    #[test]
    fn paged_keys_lie_in_blocks_of_any_size() {
        for (size, shift) in [(8, 3), (1, 0), (6, -1)] {
            let mut op = attention([7, size], false);
            op.kv = KvLayout::Paged {
                block_table: spec(DType::I32, &[2, 3]),
                kv_lens: spec(DType::I32, &[2]),
            };
            let lens = [2 * size as i64 + 1, size as i64];
            finds_every_key(&op, size, shift, &[&[6, 0, 3, 2, 2, 2], &lens]);
        }
    }
}
