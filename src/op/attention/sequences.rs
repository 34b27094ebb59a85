//! Where the queries and keys of each sequence are, once the index operands are read.

use std::ops::Range;

use super::{Attention, KvLayout};
use crate::error::Result;
use crate::op::indices::{indices, lengths, offsets};
use crate::op::operand::Operand;

const OP: &str = "attention";

/// One sequence of the batch.
///
/// Rows are counted over all leading sizes of `q`, or of `k` and `v`: the row of `q` is what lies
/// before `[heads, d]`.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Rows of its queries.
    pub queries: Range<usize>,
    /// How many keys it has.
    pub kv_len: usize,
    keys: KeyRows,
}

#[derive(Clone, Debug)]
enum KeyRows {
    From(usize),
    Blocks { blocks: Vec<usize>, size: usize },
}

impl Sequence {
    /// The row of key `j`, which is below `kv_len`.
    pub fn key_row(&self, j: usize) -> usize {
        match &self.keys {
            KeyRows::From(first) => first + j,
            KeyRows::Blocks { blocks, size } => blocks[j / size] * size + j % size,
        }
    }

    /// Its keys as runs of consecutive rows: the first row of each run, and how many keys every
    /// run but the last has.
    pub fn key_runs(&self) -> (Vec<usize>, usize) {
        match &self.keys {
            KeyRows::From(first) => (vec![*first], usize::MAX),
            KeyRows::Blocks { blocks, size } => {
                (blocks.iter().map(|block| block * size).collect(), *size)
            }
        }
    }

    /// How many keys from `j` on, which is below `kv_len`, lie in rows that follow each other.
    pub fn run_from(&self, j: usize) -> usize {
        let run = match &self.keys {
            KeyRows::From(_) => usize::MAX,
            KeyRows::Blocks { size, .. } => size - j % size,
        };
        run.min(self.kv_len - j)
    }

    /// The position of query `i` among the keys: the last query stands at the last key.
    pub fn position(&self, i: usize) -> i64 {
        i as i64 + self.kv_len as i64 - self.queries.len() as i64
    }
}

impl Attention {
    /// The sequences of a validated operation. `read` gets the values of an index operand, in
    /// row-major order.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) for an index out of range; those of `read`.
    pub fn sequences(
        &self,
        mut read: impl FnMut(&Operand) -> Result<Vec<i64>>,
    ) -> Result<Vec<Sequence>> {
        let sizes = self.sizes()?;
        let queries: Vec<Range<usize>> = match &self.cu_seqlens_q {
            None => (0..sizes.batch).map(|b| b * sizes.q_rows..(b + 1) * sizes.q_rows).collect(),
            Some(cu) => offsets(OP, "cu_seqlens_q", &read(cu)?, sizes.q_rows)?,
        };
        let keys: Vec<(usize, KeyRows)> = match &self.kv {
            KvLayout::Batched { kv_lens } => {
                let capacity = sizes.kv_rows;
                let lens = match kv_lens {
                    None => vec![capacity; sizes.batch],
                    Some(lens) => lengths(OP, "kv_lens", &read(lens)?, capacity)?,
                };
                let row = |(b, len)| (len, KeyRows::From(b * capacity));
                lens.into_iter().enumerate().map(row).collect()
            }
            KvLayout::Packed { cu_seqlens_k } => {
                let ranges = offsets(OP, "cu_seqlens_k", &read(cu_seqlens_k)?, sizes.kv_rows)?;
                ranges.into_iter().map(|r| (r.len(), KeyRows::From(r.start))).collect()
            }
            KvLayout::Paged { block_table, kv_lens } => {
                let (blocks, size) = (self.k.dims()[0], sizes.kv_rows);
                let table = read(block_table)?;
                let per_sequence = block_table.dims()[1];
                let capacity = per_sequence.saturating_mul(size);
                let lens = lengths(OP, "kv_lens", &read(kv_lens)?, capacity)?;
                let mut keys = Vec::with_capacity(lens.len());
                for (b, len) in lens.into_iter().enumerate() {
                    let first = b * per_sequence;
                    let used = &table[first..first + len.div_ceil(size.max(1))];
                    let blocks = indices(OP, "block_table", used, blocks)?;
                    keys.push((len, KeyRows::Blocks { blocks, size }));
                }
                keys
            }
        };
        let join = |(queries, (kv_len, keys))| Sequence { queries, kv_len, keys };
        Ok(queries.into_iter().zip(keys).map(join).collect())
    }
}
