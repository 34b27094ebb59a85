//! Scaled dot-product attention.

mod mask;
mod sequences;
mod validate;

pub use mask::Mask;
pub use sequences::Sequence;
pub use validate::AttentionSizes;

use super::operand::{Operand, Use};

/// `O = softmax(S)·V` for each sequence of a batch and each head, with
///
/// ```text
/// S[i, j] = c(scale · Q[i]·K[j]) + slope · (j − p_i)      where query i sees key j
/// c(s) = softcap · tanh(s / softcap), or s without a softcap
/// P[i, j] = e^S[i, j] / Z_i,   Z_i = e^sink + Σ_j e^S[i, j],   lse[i] = ln Z_i
/// ```
///
/// Query `i` of `q_len` stands at position `p_i = i + kv_len − q_len`: the last query is aligned
/// with the last key, whichever of the two is longer. Which keys it sees is the [`Mask`]'s say.
/// Head `h` reads key head `h / (heads / kv_heads)`. Without a sink, `Z` is the sum alone; a sink
/// takes part in the denominator only.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `q` | `[batch, q_len, heads, d]`, or `[total_q, heads, d]` with `cu_seqlens_q` | any float or block format (blocks along d) |
/// | `k` | as [`KvLayout`] says, last size `d` | any float or block format (blocks along d) |
/// | `v` | as `k`, last size `d_v` | any float or block format (blocks along d_v) |
/// | `sinks`, `alibi` | `[heads]` | any float |
/// | `cu_seqlens_q` | `[batch + 1]` | u32, i32 or i64 |
/// | `out` | as `q`, last size `d_v` | any float |
/// | `lse` | as `q`, without the last size | any float |
///
/// Sums and exponentials are computed in f32 or wider (f64 in the reference), and the output is
/// rounded once. Heads are independent, and so are queries.
///
/// Keys that a query does not see have no influence on it, whatever they hold, NaN and inf
/// included. Of those it sees: a NaN in the query or a key makes the row NaN, and so does a score
/// of +inf; a score of −inf gives its key the weight 0. A NaN in a value makes its column NaN; an
/// inf makes it inf or, where the weight underflows to 0, NaN. A row without keys, or with scores
/// of −inf only, is 0 and has the `lse` −inf (that of the sink, where there is one).
///
/// Sources: Vaswani et al. 2017 (attention), Ainslie et al. 2023 (shared key heads), Press et al.
/// 2022 (ALiBi), Gemma 2 2024 (softcap), Xiao et al. 2024 and gpt-oss 2025 (sinks), Kwon et al. 2023
/// (paged keys).
#[derive(Clone, Debug)]
pub struct Attention {
    /// Queries.
    pub q: Operand,
    /// Keys.
    pub k: Operand,
    /// Values.
    pub v: Operand,
    /// The result.
    pub out: Operand,
    /// Receives the natural logarithm of each row's denominator.
    pub lse: Option<Operand>,
    /// Factor of the scores; `None` for 1/√d.
    pub scale: Option<f32>,
    /// Bound of the scores, above 0.
    pub softcap: Option<f32>,
    /// Which keys a query sees.
    pub mask: Mask,
    /// A logit for each head that joins the denominator.
    pub sinks: Option<Operand>,
    /// The slope of each head's linear bias.
    pub alibi: Option<Operand>,
    /// Where each sequence's queries begin in a packed `q`, from 0 to `total_q`.
    pub cu_seqlens_q: Option<Operand>,
    /// How keys and values lie.
    pub kv: KvLayout,
}

/// How keys and values lie in memory.
///
/// Index operands are u32, i32 or i64. They are data: every value is checked when the operation runs,
/// and one out of range is an [`Error::Value`](crate::Error::Value).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KvLayout {
    /// `[batch, capacity, kv_heads, ..]`: every sequence has a row of its own.
    Batched {
        /// `[batch]`: how many keys of each sequence are valid; `None` for all.
        kv_lens: Option<Operand>,
    },
    /// `[total_kv, kv_heads, ..]`: one sequence after the other.
    Packed {
        /// `[batch + 1]`: where each begins, from 0 to `total_kv`.
        cu_seqlens_k: Operand,
    },
    /// `[num_blocks, block_size, kv_heads, ..]`: blocks in any order, shared or not.
    Paged {
        /// `[batch, max_blocks]`: the blocks of each sequence in order. Entries behind the last
        /// block that `kv_lens` calls for are not read.
        block_table: Operand,
        /// `[batch]`: how many keys each sequence has.
        kv_lens: Operand,
    },
}

impl Attention {
    /// `out = softmax(q·kᵀ/√d)·v`: every query sees every key of its sequence.
    pub fn new(
        q: impl Into<Operand>,
        k: impl Into<Operand>,
        v: impl Into<Operand>,
        out: impl Into<Operand>,
    ) -> Self {
        Attention {
            q: q.into(),
            k: k.into(),
            v: v.into(),
            out: out.into(),
            lse: None,
            scale: None,
            softcap: None,
            mask: Mask::ALL,
            sinks: None,
            alibi: None,
            cu_seqlens_q: None,
            kv: KvLayout::Batched { kv_lens: None },
        }
    }

    /// The factor of the scores: `scale`, else 1/√d (1 where d is 0).
    pub fn score_scale(&self) -> f64 {
        let d = self.q.dims().last().map_or(1, |&d| d.max(1));
        self.scale.map_or(1.0 / (d as f64).sqrt(), f64::from)
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        let mut uses = vec![Use::read("q", &self.q), Use::read("k", &self.k)];
        uses.push(Use::read("v", &self.v));
        uses.extend(self.sinks.iter().map(|o| Use::read("sinks", o)));
        uses.extend(self.alibi.iter().map(|o| Use::read("alibi", o)));
        uses.extend(self.cu_seqlens_q.iter().map(|o| Use::read("cu_seqlens_q", o)));
        match &self.kv {
            KvLayout::Batched { kv_lens } => {
                uses.extend(kv_lens.iter().map(|o| Use::read("kv_lens", o)));
            }
            KvLayout::Packed { cu_seqlens_k } => uses.push(Use::read("cu_seqlens_k", cu_seqlens_k)),
            KvLayout::Paged { block_table, kv_lens } => {
                uses.push(Use::read("block_table", block_table));
                uses.push(Use::read("kv_lens", kv_lens));
            }
        }
        uses.extend(self.lse.iter().map(|o| Use::write("lse", o)));
        uses.push(Use::write("out", &self.out));
        uses
    }
}
