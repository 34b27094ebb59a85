//! Checks of an attention's operands against each other.

use super::{Attention, KvLayout};
use crate::error::{Error, Result};
use crate::op::check::require_dims;
use crate::op::indices::require_index;
use crate::op::operand::Operand;

const OP: &str = "attention";

/// Sizes of a validated [`Attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionSizes {
    /// How many sequences.
    pub batch: usize,
    /// Queries of each sequence; of all together where they are packed.
    pub q_rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, of which `heads` is a multiple.
    pub kv_heads: usize,
    /// The second size of a batched or paged `k` (capacity or block size); the first of a packed
    /// one.
    pub kv_rows: usize,
    /// Elements of a query and a key.
    pub d: usize,
    /// Elements of a value.
    pub d_v: usize,
}

impl Attention {
    /// The sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] where they do not fit together.
    pub fn sizes(&self) -> Result<AttentionSizes> {
        let (q, k, v) = (self.q.dims(), self.k.dims(), self.v.dims());
        let (q_batch, q_rows, heads, d) = match (&self.cu_seqlens_q, &q[..]) {
            (None, &[batch, len, heads, d]) => (batch, len, heads, d),
            (Some(cu), &[total, heads, d]) => (count(cu, "cu_seqlens_q")?, total, heads, d),
            (None, _) => {
                return Err(wrong_rank(
                    "q",
                    &self.q,
                    "[batch, q_len, heads, d]; packed queries need cu_seqlens_q",
                ));
            }
            (Some(_), _) => {
                return Err(wrong_rank("q", &self.q, "[total_q, heads, d] with cu_seqlens_q"));
            }
        };
        let (kv_batch, kv_rows, kv_heads, k_d) = match (&self.kv, &k[..]) {
            (KvLayout::Batched { .. }, &[batch, len, heads, d]) => (batch, len, heads, d),
            (KvLayout::Packed { cu_seqlens_k }, &[total, heads, d]) => {
                (count(cu_seqlens_k, "cu_seqlens_k")?, total, heads, d)
            }
            (KvLayout::Paged { block_table, .. }, &[_, size, heads, d]) => {
                let table = block_table.dims();
                let &[batch, _] = &table[..] else {
                    return Err(wrong_rank("block_table", block_table, "[batch, max_blocks]"));
                };
                (batch, size, heads, d)
            }
            (KvLayout::Batched { .. }, _) => {
                return Err(wrong_rank("k", &self.k, "[batch, kv_len, kv_heads, d]"));
            }
            (KvLayout::Packed { .. }, _) => {
                return Err(wrong_rank("k", &self.k, "[total_kv, kv_heads, d] when packed"));
            }
            (KvLayout::Paged { .. }, _) => {
                return Err(wrong_rank("k", &self.k, "[num_blocks, block_size, kv_heads, d]"));
            }
        };
        let differ = |arg, what: &str, found: usize, other: usize| {
            let (q, k) = (&self.q, &self.k);
            let problem = format!("q is {q}, k is {k}: {what} {found} and {other} differ");
            Err(Error::shape(OP, arg, problem))
        };
        if d != k_d {
            return differ("q, k", "head sizes", d, k_d);
        }
        if q_batch != kv_batch {
            return differ("q, k", "batch sizes", q_batch, kv_batch);
        }
        if kv_heads == 0 && heads != 0 || kv_heads != 0 && heads % kv_heads != 0 {
            return Err(Error::shape(
                OP,
                "q, k",
                format!(
                    "q is {}, k is {}: {heads} heads can not share {kv_heads} key heads; \
                     a multiple of {kv_heads} is expected",
                    self.q, self.k
                ),
            ));
        }
        let Some((&d_v, v_leading)) = v.split_last() else {
            return Err(wrong_rank("v", &self.v, "the sizes of k"));
        };
        if *v_leading != *k.leading(1) {
            return Err(Error::shape(
                OP,
                "v",
                format!(
                    "v is {}, k is {}: all sizes but the last must be the same",
                    self.v, self.k
                ),
            ));
        }
        Ok(AttentionSizes { batch: q_batch, q_rows, heads, kv_heads, kv_rows, d, d_v })
    }

    /// Multiply-adds of both products, as if every query saw every key.
    pub(in crate::op) fn products(&self) -> f64 {
        let Ok(sizes) = self.sizes() else { return 0.0 };
        let q = self.q.dims();
        let rows: f64 = q.leading(1).iter().map(|&n| n as f64).product();
        let keys = match &self.kv {
            KvLayout::Batched { .. } => sizes.kv_rows as f64,
            KvLayout::Packed { .. } => sizes.kv_rows as f64 / sizes.batch.max(1) as f64,
            KvLayout::Paged { block_table, .. } => {
                block_table.dims().last().map_or(0.0, |&n| n as f64) * sizes.kv_rows as f64
            }
        };
        rows * keys * (sizes.d as f64 + sizes.d_v as f64)
    }

    pub(in crate::op) fn validate(&self) -> Result<()> {
        let sizes = self.sizes()?;
        for (arg, operand) in [("q", &self.q), ("k", &self.k), ("v", &self.v)] {
            operand.require_float(OP, arg)?;
            if operand.as_scaled().is_some_and(|s| s.transposed) {
                return Err(Error::layout(
                    OP,
                    arg,
                    format!("{arg} is {operand}: its blocks must run along the last size"),
                ));
            }
        }
        for (arg, operand) in [("sinks", &self.sinks), ("alibi", &self.alibi)] {
            if let Some(operand) = operand {
                operand.require_dense_float(OP, arg)?;
                require_dims(OP, arg, operand, &[sizes.heads])?;
            }
        }
        if let Some(cu) = &self.cu_seqlens_q {
            require_index(OP, "cu_seqlens_q", cu, &[sizes.batch + 1])?;
        }
        match &self.kv {
            KvLayout::Batched { kv_lens: None } => {}
            KvLayout::Batched { kv_lens: Some(lens) } => {
                require_index(OP, "kv_lens", lens, &[sizes.batch])?;
            }
            KvLayout::Packed { cu_seqlens_k } => {
                require_index(OP, "cu_seqlens_k", cu_seqlens_k, &[sizes.batch + 1])?;
            }
            KvLayout::Paged { block_table, kv_lens } => {
                require_index(OP, "block_table", block_table, &block_table.dims())?;
                require_index(OP, "kv_lens", kv_lens, &[sizes.batch])?;
            }
        }
        let q = self.q.dims();
        let rows = q.leading(1);
        self.out.require_dense_float(OP, "out")?;
        require_dims(OP, "out", &self.out, &[rows, &[sizes.d_v]].concat())?;
        if let Some(lse) = &self.lse {
            lse.require_dense_float(OP, "lse")?;
            require_dims(OP, "lse", lse, rows)?;
        }
        if let Some(scale) = self.scale.filter(|s| !s.is_finite()) {
            return Err(Error::value(OP, "scale", format!("{scale}: a finite number is expected")));
        }
        if let Some(cap) = self.softcap.filter(|c| !(c.is_finite() && *c > 0.0)) {
            return Err(Error::value(
                OP,
                "softcap",
                format!("{cap}: a finite number above 0 is expected; leave it out for no cap"),
            ));
        }
        if self.mask.window == Some(0) {
            return Err(Error::value(
                OP,
                "window",
                "0 keys: at least 1 is expected; leave it out to see all",
            ));
        }
        Ok(())
    }
}

/// How many sequences lie between these offsets.
fn count(offsets: &Operand, arg: &'static str) -> Result<usize> {
    match offsets.dims()[..] {
        [n] if n > 0 => Ok(n - 1),
        _ => Err(wrong_rank(arg, offsets, "[batch + 1]")),
    }
}

fn wrong_rank(arg: &'static str, operand: &Operand, expected: &str) -> Error {
    Error::shape(OP, arg, format!("{arg} is {operand}: sizes {expected} are expected"))
}
