//! Attention.

use super::dense::Tensor;
use super::gather::IndexElement;
use super::matmul::{MatOperand, require_same_device};
use crate::device::Device;
use crate::error::Result;
use crate::num::{DType, Element, Float};
use crate::op::{Attention, Dense, KvLayout, Op, Operand};
use crate::registry::Request;

impl<E: Float, const R: usize> Tensor<E, R> {
    /// Attention of these queries to keys and values of any float or block format: see
    /// [`Attention`] for the formula. Queries are `[batch, q_len, heads, d]`, or packed
    /// `[total_q, heads, d]`; keys are `[batch, kv_len, kv_heads, d]` unless
    /// [`paged`](AttentionBuilder::paged) or [`varlen`](AttentionBuilder::varlen) says otherwise.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// // One sequence, one query at the second of two keys, one head of size 1.
    /// let q = Tensor::from_host(&device, [1, 1, 1, 1], &[0.0f32])?;
    /// let k = Tensor::from_host(&device, [1, 2, 1, 1], &[5.0f32, 6.0])?;
    /// let v = Tensor::from_host(&device, [1, 2, 1, 1], &[1.0f32, 3.0])?;
    /// let out: Tensor<f32, 4> = q.attention(&k, &v).causal().run()?;
    /// assert_eq!(out.to_vec()?, [2.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn attention<const S: usize>(
        &self,
        k: &impl MatOperand<S>,
        v: &impl MatOperand<S>,
    ) -> AttentionBuilder<R> {
        AttentionBuilder::new(self, k, v)
    }
}

/// An attention that is being described: see [`Tensor::attention`].
#[must_use = "nothing is computed before `run`"]
pub struct AttentionBuilder<const R: usize> {
    device: Device,
    // What is wrong with an operand is reported by the call that ends the description.
    op: Result<Attention>,
}

impl<const R: usize> AttentionBuilder<R> {
    fn new<E: Float, const S: usize>(
        q: &Tensor<E, R>,
        k: &impl MatOperand<S>,
        v: &impl MatOperand<S>,
    ) -> Self {
        let describe = || {
            require_same_device(q.device(), k.mat_device())?;
            require_same_device(q.device(), v.mat_device())?;
            // Sizes and type of the result are set when it is asked for.
            let out = Dense::spec(DType::F32, &[])?;
            Ok(Attention::new(q.operand(), k.mat_operand(), v.mat_operand(), out))
        };
        AttentionBuilder { device: q.device().clone(), op: describe() }
    }

    fn edit(mut self, change: impl FnOnce(&mut Attention)) -> Self {
        if let Ok(op) = &mut self.op {
            change(op);
        }
        self
    }

    fn with<E: Element, const S: usize>(
        mut self,
        tensor: &Tensor<E, S>,
        change: impl FnOnce(&mut Attention, Operand),
    ) -> Self {
        if let Err(error) = require_same_device(&self.device, tensor.device()) {
            self.op = self.op.and(Err(error));
        }
        self.edit(|op| change(op, tensor.operand()))
    }

    /// Factor of the scores, instead of 1/√d.
    pub fn scale(self, scale: f32) -> Self {
        self.edit(|op| op.scale = Some(scale))
    }

    /// Bounds the scores: `cap · tanh(s / cap)`.
    pub fn softcap(self, cap: f32) -> Self {
        self.edit(|op| op.softcap = Some(cap))
    }

    /// Each query sees keys up to its own position; the last query stands at the last key.
    pub fn causal(self) -> Self {
        self.ahead(0)
    }

    /// Each query sees no more than `keys` keys up to its own position, that one included.
    pub fn window(self, keys: usize) -> Self {
        self.edit(|op| op.mask.window = Some(keys))
    }

    /// Each query sees no more than `keys` keys after its own position.
    pub fn ahead(self, keys: usize) -> Self {
        self.edit(|op| op.mask.ahead = Some(keys))
    }

    /// A logit for each head that joins the denominator of the softmax.
    pub fn sinks<S: Float>(self, sinks: &Tensor<S, 1>) -> Self {
        self.with(sinks, |op, sinks| op.sinks = Some(sinks))
    }

    /// Adds `slope[head] · (j − position)` to the scores.
    pub fn alibi<S: Float>(self, slopes: &Tensor<S, 1>) -> Self {
        self.with(slopes, |op, slopes| op.alibi = Some(slopes))
    }

    /// Only the first `lens[b]` keys of sequence `b` are there.
    pub fn kv_lens<I: IndexElement>(self, lens: &Tensor<I, 1>) -> Self {
        self.with(lens, |op, lens| op.kv = KvLayout::Batched { kv_lens: Some(lens) })
    }

    /// Keys and values are blocks `[num_blocks, block_size, kv_heads, ..]`; row `b` of the table
    /// names those of sequence `b` in order, of which the first `lens[b]` keys are there.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, bf16};
    /// let device = Device::cpu();
    /// let (heads, kv_heads, d, block) = (4, 2, 16, 8);
    /// // A cache of 6 blocks; two sequences, of 11 and 3 keys, decode a token each.
    /// let cache = Tensor::full(&device, [6, block, kv_heads, d], bf16::ONE)?;
    /// let table = Tensor::from_host(&device, [2, 2], &[5, 1, 2, 0])?;
    /// let lens = Tensor::from_vec(&device, vec![11, 3])?;
    /// let q = Tensor::full(&device, [2, 1, heads, d], bf16::ONE)?;
    /// let out: Tensor<bf16, 4> = q.attention(&cache, &cache).causal().paged(&table, &lens).run()?;
    /// assert_eq!(out.shape(), [2, 1, heads, d]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn paged<I: IndexElement, J: IndexElement>(
        self,
        block_table: &Tensor<I, 2>,
        lens: &Tensor<J, 1>,
    ) -> Self {
        let kv_lens = lens.operand();
        self.with(lens, |_, _| ()).with(block_table, |op, block_table| {
            op.kv = KvLayout::Paged { block_table, kv_lens };
        })
    }

    /// Queries, keys and values are packed, one sequence after the other: sequence `b` has
    /// queries `cu_q[b]..cu_q[b + 1]` and keys `cu_k[b]..cu_k[b + 1]`.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// // Sequences of 2 and 3 tokens, each attending to itself.
    /// let x = Tensor::from_fn(&device, [5, 1, 4], |[i, _, j]| (i * 4 + j) as f32)?;
    /// let cu = Tensor::from_vec(&device, vec![0, 2, 5])?;
    /// let out: Tensor<f32, 3> = x.attention(&x, &x).causal().varlen(&cu, &cu).run()?;
    /// let first = |row| -> ferrocerium::Result<f32> { Ok(out.host()?[[row, 0, 0]]) };
    /// assert_eq!((first(0)?, first(2)?), (0.0, 8.0));        // each sees itself only
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn varlen<I: IndexElement, J: IndexElement>(
        self,
        cu_q: &Tensor<I, 1>,
        cu_k: &Tensor<J, 1>,
    ) -> Self {
        let packed = |op: &mut Attention, cu_seqlens_k| op.kv = KvLayout::Packed { cu_seqlens_k };
        self.varlen_queries(cu_q).with(cu_k, packed)
    }

    /// Queries are packed, keys and values are not: for several queries of each sequence on a
    /// paged cache.
    pub fn varlen_queries<I: IndexElement>(self, cu_q: &Tensor<I, 1>) -> Self {
        self.with(cu_q, |op, cu| op.cu_seqlens_q = Some(cu))
    }

    /// Chooses the kernel as `request` says.
    pub fn request(mut self, request: Request) -> Self {
        self.device = self.device.with_request(request);
        self
    }

    fn output_shape(op: &Attention) -> Result<[usize; R]> {
        let sizes = op.sizes()?;
        let mut shape = op.q.dims().to_array::<R>()?;
        if let Some(last) = shape.last_mut() {
            *last = sizes.d_v;
        }
        Ok(shape)
    }

    /// Computes into a new tensor of `O`.
    ///
    /// # Errors
    /// Those of [`Op::validate`]; [`Error::Value`](crate::Error::Value) for an offset, length or
    /// block index out of range; [`Error::Device`](crate::Error::Device) across devices.
    pub fn run<O: Float>(self) -> Result<Tensor<O, R>> {
        let op = self.op?;
        let out = Tensor::for_result(&self.device, Self::output_shape(&op)?)?;
        run_into(&self.device, op, &out)?;
        Ok(out)
    }

    /// Computes into the memory of `out`.
    ///
    /// # Errors
    /// Those of [`AttentionBuilder::run`].
    pub fn run_into<O: Float>(self, out: &Tensor<O, R>) -> Result<()> {
        run_into(&self.device, self.op?, out)
    }

    /// The operation with a result of type `O`, as a specification: for [`Device::explain`].
    ///
    /// # Errors
    /// Those of [`Op::validate`] that concern sizes.
    pub fn spec<O: Float>(self) -> Result<Op> {
        let mut op = self.op?;
        op.out = Dense::spec(O::DTYPE, &Self::output_shape(&op)?)?.into();
        Ok(op.into())
    }
}

fn run_into<O: Float, const R: usize>(
    device: &Device,
    mut op: Attention,
    out: &Tensor<O, R>,
) -> Result<()> {
    op.out = out.operand();
    device.run(&op.into())
}

macro_rules! run_with_lse {
    ($rank:literal, $rows:literal) => {
        impl AttentionBuilder<$rank> {
            /// Computes the result, and the logarithm of each row's denominator: what it takes to
            /// combine attentions to separate sets of keys.
            ///
            /// ```
            /// use ferrocerium::{Device, Tensor};
            /// let device = Device::cpu();
            /// let q = Tensor::<f32, 4>::zeros(&device, [1, 1, 1, 8])?;
            /// let kv = Tensor::<f32, 4>::zeros(&device, [1, 4, 1, 8])?;
            /// let (out, lse) = q.attention(&kv, &kv).run_with_lse::<f32>()?;
            /// assert_eq!(out.shape(), [1, 1, 1, 8]);
            /// assert!((lse.host()?[[0, 0, 0]] - 4f32.ln()).abs() < 1e-6);
            /// # Ok::<(), ferrocerium::Error>(())
            /// ```
            ///
            /// # Errors
            /// Those of [`AttentionBuilder::run`].
            pub fn run_with_lse<O: Float>(self) -> Result<(Tensor<O, $rank>, Tensor<f32, $rows>)> {
                let mut op = self.op?;
                let shape = Self::output_shape(&op)?;
                let out = Tensor::for_result(&self.device, shape)?;
                let rows = std::array::from_fn(|axis| shape[axis]);
                let lse = Tensor::zeros_labelled(&self.device, rows, "lse")?;
                op.lse = Some(lse.operand());
                run_into(&self.device, op, &out)?;
                Ok((out, lse))
            }
        }
    };
}

run_with_lse!(4, 3);
run_with_lse!(3, 2);
