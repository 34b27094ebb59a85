//! Every layout against sequences of their own.

use std::ops::Range;

use ferrocerium::format::{Mxfp8, Nvfp4};
use ferrocerium::op::{Mask, Op};
use ferrocerium::{ScaledTensor, Tensor};
use proptest::prelude::*;

use crate::options::{Options, Sizes};
use crate::support::{DEVICE, Random};

/// Sequences of different lengths, packed one after the other.
struct Packed {
    options: Options,
    q: Tensor<f64, 3>,
    k: Tensor<f64, 3>,
    v: Tensor<f64, 3>,
    cu_q: Vec<i32>,
    cu_k: Vec<i32>,
}

impl Packed {
    fn random(random: &mut Random) -> Self {
        let sizes = Sizes::random(random);
        let mut offsets = |most: usize| {
            let mut cu = vec![0];
            for _ in 0..sizes.batch {
                cu.push(cu[cu.len() - 1] + random.below(most) as i32);
            }
            cu
        };
        let (cu_q, cu_k) = (offsets(5), offsets(7));
        let (total_q, total_k) = (cu_q[sizes.batch] as usize, cu_k[sizes.batch] as usize);
        Packed {
            options: Options::random(random, sizes.heads),
            q: random.tensor([total_q, sizes.heads, sizes.d]),
            k: random.tensor([total_k, sizes.kv_heads, sizes.d]),
            v: random.tensor([total_k, sizes.kv_heads, sizes.d_v]),
            cu_q,
            cu_k,
        }
    }

    fn batch(&self) -> usize {
        self.cu_q.len() - 1
    }

    fn rows(cu: &[i32], b: usize) -> Range<usize> {
        cu[b] as usize..cu[b + 1] as usize
    }

    /// Each sequence by itself, in the batched layout.
    fn expected(&self) -> Vec<f64> {
        let one = |x: &Tensor<f64, 3>, cu: &[i32], b: usize| -> Tensor<f64, 4> {
            x.slice(0, Self::rows(cu, b)).unwrap().unsqueeze(0).unwrap()
        };
        let sequence = |b| {
            let q = one(&self.q, &self.cu_q, b);
            let (k, v) = (one(&self.k, &self.cu_k, b), one(&self.v, &self.cu_k, b));
            let out: Tensor<f64, 4> = self.options.on(q.attention(&k, &v)).run().unwrap();
            out.to_vec().unwrap()
        };
        (0..self.batch()).flat_map(sequence).collect()
    }

    /// Keys or values in blocks in random order, with blocks of NaN among them.
    fn blocks(&self, x: &Tensor<f64, 3>, size: usize, table: &Tensor<i32, 2>) -> Tensor<f64, 4> {
        let [_, heads, d] = x.shape();
        let count = table.len() + 3;
        let pages = Tensor::full(&DEVICE, [count, size, heads, d], f64::NAN).unwrap();
        let table = table.host().unwrap();
        for b in 0..self.batch() {
            for (j, row) in Self::rows(&self.cu_k, b).enumerate() {
                let page = table[[b, j / size]] as usize;
                let place = pages.slice(0, page..page + 1).unwrap();
                let place = place.slice(1, j % size..j % size + 1).unwrap();
                let source = x.slice(0, row..row + 1).unwrap().unsqueeze::<4>(0).unwrap();
                place.copy_from(&source).unwrap();
            }
        }
        pages
    }

    fn kv_lens(&self) -> Tensor<u32, 1> {
        let lens: Vec<u32> =
            (0..self.batch()).map(|b| Self::rows(&self.cu_k, b).len() as u32).collect();
        vector(&lens)
    }
}

fn vector<E: ferrocerium::Element>(values: &[E]) -> Tensor<E, 1> {
    Tensor::from_host(&DEVICE, [values.len()], values).unwrap()
}

/// A block table that uses each block once, in random order; unused entries are wild.
fn table(random: &mut Random, packed: &Packed, size: usize) -> Tensor<i32, 2> {
    let (batch, width) = (packed.batch(), 7usize.div_ceil(size) + 1);
    let order = random.shuffled(batch * width + 3);
    let entry = |[b, i]: [usize; 2]| {
        let used = Packed::rows(&packed.cu_k, b).len().div_ceil(size);
        if i < used { order[b * width + i] as i32 } else { [-1, i32::MAX][i % 2] }
    };
    Tensor::from_fn(&DEVICE, [batch, width], entry).unwrap()
}

proptest! {
    #[test]
    fn packed_sequences_are_attended_to_one_by_one(seed: u64) {
        let p = Packed::random(&mut Random(seed));
        let builder = p.q.attention(&p.k, &p.v).varlen(&vector(&p.cu_q), &vector(&p.cu_k));
        let (out, lse) = p.options.on(builder).run_with_lse::<f64>().unwrap();
        prop_assert_eq!(out.to_vec().unwrap(), p.expected());
        prop_assert_eq!(lse.shape(), [p.q.shape()[0], p.q.shape()[1]]);
    }

    #[test]
    fn blocks_in_any_order_are_the_sequence(seed: u64, size in 1usize..5) {
        let mut random = Random(seed);
        let p = Packed::random(&mut random);
        let table = table(&mut random, &p, size);
        let (k, v) = (p.blocks(&p.k, size, &table), p.blocks(&p.v, size, &table));
        let builder = p.q.attention(&k, &v).paged(&table, &p.kv_lens());
        let out: Tensor<f64, 3> =
            p.options.on(builder.varlen_queries(&vector(&p.cu_q))).run().unwrap();
        prop_assert_eq!(out.to_vec().unwrap(), p.expected());
    }

    #[test]
    fn cache_longer_than_its_sequences_is_its_valid_part(seed: u64, spare in 0usize..3) {
        let p = Packed::random(&mut Random(seed));
        let capacity = 6 + spare;
        let cache = |x: &Tensor<f64, 3>| -> Tensor<f64, 4> {
            let ([_, heads, d], host) = (x.shape(), x.host().unwrap());
            Tensor::from_fn(&DEVICE, [p.batch(), capacity, heads, d], |[b, j, h, e]| {
                let rows = Packed::rows(&p.cu_k, b);
                if j < rows.len() { host[[rows.start + j, h, e]] } else { f64::NAN }
            })
            .unwrap()
        };
        let builder = p.q.attention(&cache(&p.k), &cache(&p.v)).kv_lens(&p.kv_lens());
        let out: Tensor<f64, 3> =
            p.options.on(builder.varlen_queries(&vector(&p.cu_q))).run().unwrap();
        prop_assert_eq!(out.to_vec().unwrap(), p.expected());
    }

    #[test]
    fn keys_of_a_mask_are_those_within_its_distances(
        position in -10i64..20, kv_len in 0usize..12,
        window in prop::option::of(1usize..12), ahead in prop::option::of(0usize..12),
    ) {
        let seen = |j: &usize| {
            let distance = *j as i64 - position;
            window.is_none_or(|w| distance > -(w as i64))
                && ahead.is_none_or(|n| distance <= n as i64)
        };
        let expected: Vec<usize> = (0..kv_len).filter(seen).collect();
        let found: Vec<usize> = Mask { window, ahead }.keys(position, kv_len).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn distances_beyond_every_number_are_all_keys() {
    let far = Mask { window: Some(usize::MAX), ahead: Some(usize::MAX) };
    assert_eq!(far.keys(-3, 5), 0..5);
    assert_eq!(far.keys(3, 5), 0..5);
}

#[test]
fn paged_cache_can_be_block_scaled() {
    let mut random = Random(11);
    let q = random.tensor([2, 1, 4, 32]);
    let k: ScaledTensor<Nvfp4, 4> = random.tensor([5, 2, 2, 32]).quantize().unwrap();
    let v: ScaledTensor<Mxfp8, 4> = random.tensor([5, 2, 2, 32]).quantize().unwrap();
    let table = Tensor::from_host(&DEVICE, [2, 2], &[4, 0, 2, 4]).unwrap();
    let lens = vector(&[3i64, 4]);
    let out: Tensor<f64, 4> = q.attention(&k, &v).paged(&table, &lens).causal().run().unwrap();
    let (k, v) = (k.dequantize::<f64>().unwrap(), v.dequantize::<f64>().unwrap());
    let plain: Tensor<f64, 4> = q.attention(&k, &v).paged(&table, &lens).causal().run().unwrap();
    assert_eq!(out.to_vec().unwrap(), plain.to_vec().unwrap());
}

#[test]
fn blocks_may_be_shared_by_sequences() {
    let q = Tensor::full(&DEVICE, [2, 1, 1, 1], 0.0f64).unwrap();
    let k = Tensor::full(&DEVICE, [2, 1, 1, 1], 0.0f64).unwrap();
    let v = Tensor::from_host(&DEVICE, [2, 1, 1, 1], &[2.0f64, 4.0]).unwrap();
    let table = Tensor::from_host(&DEVICE, [2, 2], &[0u32, 1, 0, 0]).unwrap();
    let out: Tensor<f64, 4> = q.attention(&k, &v).paged(&table, &vector(&[2, 2])).run().unwrap();
    assert_eq!(out.to_vec().unwrap(), [3.0, 2.0]);
}

#[test]
fn empty_layouts_give_empty_or_zero_results() {
    let none: Tensor<f64, 3> = Tensor::zeros(&DEVICE, [0, 2, 4]).unwrap();
    let out: Tensor<f64, 3> =
        none.attention(&none, &none).varlen(&vector(&[0]), &vector(&[0])).run().unwrap();
    assert!(out.is_empty());
    // Queries on a cache of no blocks, or of blocks of no keys.
    for shape in [[0, 3, 2, 4], [3, 0, 2, 4]] {
        let k: Tensor<f64, 4> = Tensor::zeros(&DEVICE, shape).unwrap();
        let q: Tensor<f64, 4> = Tensor::full(&DEVICE, [1, 1, 2, 4], 1.0).unwrap();
        let table: Tensor<i32, 2> = Tensor::full(&DEVICE, [1, 2], 9).unwrap();
        let out: Tensor<f64, 4> = q.attention(&k, &k).paged(&table, &vector(&[0])).run().unwrap();
        assert_eq!(out.to_vec().unwrap(), [0.0; 8]);
    }
}

#[test]
fn specification_can_be_explained() {
    let q: Tensor<f64, 4> = Tensor::zeros(&DEVICE, [1, 2, 2, 4]).unwrap();
    let spec: Op = q.attention(&q, &q).causal().spec::<f32>().unwrap();
    let text = DEVICE.explain(&spec).unwrap().to_string();
    assert!(text.contains("reference.attention"), "{text}");
    // 2·1·2 rows of scores and sums over 2 keys of 4 + 4 elements, beside the elements touched.
    assert_eq!(spec.work(), 64.0 + 4.0 * 16.0);
}
