//! Attention.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::BuildOp;
use super::narrow::{Blocks, to_e4m3};
use super::softmax::Weights;
use crate::Device;
use crate::error::Result;
use crate::format::Format;
use crate::num::DType;
use crate::op::{Attention, KvLayout, Mask, Op, Operand};
use crate::registry::Numerics;
use crate::testing::bounds::{TINY_F32, U_F32, gamma};
use crate::testing::expected::{Expected, decoded, in_f64, indices, values_opt};
use crate::testing::functions::{Approx, ELEMENTARY, Precision};
use crate::testing::operand::{INDICES, Kind, Layout, Source, integers};

/// How keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // As in `KvLayout`.
pub enum KvCase {
    Batched { lens: bool },
    Packed,
    Paged { block_size: usize },
}

/// Attention.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Attention`.
pub struct AttentionCase {
    pub batch: usize,
    /// The most queries and keys of a sequence.
    pub q_len: usize,
    pub kv_len: usize,
    pub kv_heads: usize,
    pub group: usize,
    pub d: usize,
    pub d_v: usize,
    pub q: Kind,
    pub k: Kind,
    pub v: Kind,
    pub out: DType,
    pub lse: Option<DType>,
    pub scale: Option<f32>,
    pub mask: Mask,
    pub softcap: Option<f32>,
    pub sinks: bool,
    pub alibi: bool,
    /// Whether queries are packed.
    pub packed: bool,
    pub kv: KvCase,
    pub index: DType,
    /// Of q, k, v, out and lse.
    pub layouts: [Layout; 5],
    pub source: Source,
}

/// Attention over every kind of key and value in every layout, with every mask and bias.
pub fn attention_cases() -> impl Strategy<Value = AttentionCase> {
    let len = || prop_oneof![0usize..5, 30usize..36, 60usize..70];
    let shape = (1usize..3, len(), len(), 1usize..3, 1usize..4);
    // Those of models, now and then.
    let widths = prop_oneof![
        5 => (prop::sample::select(vec![1usize, 8, 16, 20, 33]), 1usize..20),
        1 => prop::sample::select(vec![(64, 64), (80, 80), (96, 96), (128, 128), (192, 128)]),
    ];
    let narrow = || prop::sample::select(vec![DType::F32, DType::BF16, DType::F16]);
    let q = prop_oneof![8 => narrow().prop_map(Kind::Plain), 1 => Kind::any()];
    let out =
        prop_oneof![3 => narrow(), 1 => prop::sample::select(vec![DType::F8E4M3, DType::F64])];
    let kv = prop_oneof![2 => Kind::any().prop_map(|kind| (kind, kind)), 1 => (Kind::any(), Kind::any())];
    // Queries of 16 bits, and keys and values that they hold or that expand to them.
    let half = prop::sample::select(vec![DType::BF16, DType::BF16, DType::F16]);
    let halves = (half, Kind::blocks(), any::<[bool; 2]>()).prop_map(|(half, blocks, [k, v])| {
        let of = |in_blocks: bool| if in_blocks { blocks } else { Kind::Plain(half) };
        (Kind::Plain(half), (of(k), of(v)))
    });
    // Those that FP8 instructions multiply.
    let fp8 = prop::sample::select(vec![DType::BF16, DType::F16]).prop_map(|half| {
        let e4m3 = Kind::Plain(DType::F8E4M3);
        (Kind::Plain(half), (e4m3, e4m3))
    });
    let operands = prop_oneof![8 => (q, kv), 4 => halves, 1 => fp8];
    let kinds = (operands, out, prop::option::of(narrow()));
    let option = prop::option::of(1usize..20);
    let mask = (option, prop::sample::select(vec![None, Some(0usize), Some(2)]));
    let scale = prop_oneof![3 => Just(None), 1 => Just(Some(0.25f32)), 1 => Just(Some(-0.1))];
    let extras = (prop::option::of(1.0f32..20.0), any::<bool>(), any::<bool>(), scale);
    let kv_layout = prop_oneof![
        3 => Just(KvCase::Batched { lens: false }),
        1 => Just(KvCase::Batched { lens: true }),
        1 => Just(KvCase::Packed),
        1 => (1usize..9).prop_map(|block_size| KvCase::Paged { block_size }),
    ];
    let packing = (prop::bool::weighted(0.3), kv_layout, prop::sample::select(&INDICES[..]));
    let values = (Layout::each(), Source::any());
    (shape, widths, kinds, mask, extras, packing, values).prop_map(
        |(shape, (d, d_v), ((q, (k, v)), out, lse), (window, ahead), extras, packing, values)| {
            let (batch, q_len, kv_len, kv_heads, group) = shape;
            let (softcap, sinks, alibi, scale) = extras;
            let (packed, kv, index) = packing;
            let (layouts, source) = values;
            let mask = Mask { window, ahead };
            AttentionCase {
                batch,
                q_len,
                kv_len,
                kv_heads,
                group,
                d,
                d_v,
                q,
                k,
                v,
                out,
                lse,
                scale,
                mask,
                softcap,
                sinks,
                alibi,
                packed,
                kv,
                index,
                layouts,
                source,
            }
        },
    )
}

impl BuildOp for AttentionCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let heads = self.kv_heads * self.group;
        let mut random = self.source.salted(9).random();
        let index = |dims: &[usize], values: &[usize]| {
            let values: Vec<f64> = values.iter().map(|&i| i as f64).collect();
            integers(device, self.index, dims, &values)
        };
        let mut lens = |most: usize| -> Vec<usize> {
            (0..self.batch).map(|_| random.below(most + 1)).collect()
        };
        let offsets = |lens: &[usize]| {
            let mut ends = vec![0];
            lens.iter().for_each(|len| ends.push(ends[ends.len() - 1] + len));
            ends
        };
        let (batch, table) = (self.batch, [self.batch + 1]);
        let (q_leading, cu_seqlens_q) = if self.packed {
            let ends = offsets(&lens(self.q_len));
            (vec![ends[batch]], Some(index(&table, &ends)?))
        } else {
            (vec![batch, self.q_len], None)
        };
        let (kv_leading, kv) = match self.kv {
            KvCase::Batched { lens: given } => {
                let kv_lens = lens(self.kv_len);
                let kv_lens = given.then(|| index(&[batch], &kv_lens)).transpose()?;
                (vec![batch, self.kv_len], KvLayout::Batched { kv_lens })
            }
            KvCase::Packed => {
                let ends = offsets(&lens(self.kv_len));
                let total = ends[batch];
                (vec![total], KvLayout::Packed { cu_seqlens_k: index(&table, &ends)? })
            }
            KvCase::Paged { block_size } => {
                let kv_lens = index(&[batch], &lens(self.kv_len))?;
                let most = self.kv_len.div_ceil(block_size);
                // Blocks that some share and some do not use, in no order.
                let blocks = batch * most + 2;
                let mut random = self.source.salted(8).random();
                let picks: Vec<usize> = (0..batch * most).map(|_| random.below(blocks)).collect();
                let block_table = index(&[batch, most], &picks)?;
                (vec![blocks, block_size], KvLayout::Paged { block_table, kv_lens })
            }
        };
        let make = |kind: Kind, leading: &[usize], own: [usize; 2], at: usize| {
            let dims = [leading, &own].concat();
            self.source.salted(at as u64).operand(device, kind, &dims, self.layouts[at])
        };
        let q = make(self.q, &q_leading, [heads, self.d], 0)?;
        let k = make(self.k, &kv_leading, [self.kv_heads, self.d], 1)?;
        let v = make(self.v, &kv_leading, [self.kv_heads, self.d_v], 2)?;
        let rows = [&q_leading[..], &[heads]].concat();
        let out = [&rows[..], &[self.d_v]].concat();
        let mut op = Attention::new(q, k, v, Kind::Plain(self.out).spec(&out, self.layouts[3])?);
        op.lse = self.lse.map(|t| Kind::Plain(t).spec(&rows, self.layouts[4])).transpose()?;
        (op.mask, op.softcap, op.scale) = (self.mask, self.softcap, self.scale);
        (op.cu_seqlens_q, op.kv) = (cu_seqlens_q, kv);
        let vector = |salt| -> Result<Operand> {
            let kind = Kind::Plain(DType::F32);
            self.source.normal(salt).operand(device, kind, &[heads], Layout::RowMajor)
        };
        op.sinks = self.sinks.then(|| vector(4)).transpose()?;
        op.alibi = self.alibi.then(|| vector(5)).transpose()?;
        Ok(op.into())
    }
}

/// Errors of the scores through the softmax ([`Weights`]), and of the weighted sum of values, query
/// by query.
pub(in crate::testing) fn expected(op: &Attention, numerics: Numerics) -> Result<Vec<Expected>> {
    let values = in_f64(op.clone())?;
    let (mut k, mut v) = (decoded(&op.k, Precision::F32)?, decoded(&op.v, Precision::F32)?);
    hold_in_bf16(&mut k, &op.k);
    hold_in_bf16(&mut v, &op.v);
    let (rounding, q) = (Rounding::of(op, numerics), decoded(&op.q, Precision::F32)?);
    let d = op.q.dims().last().copied().unwrap_or(0).max(1);
    let narrowed = match rounding.to {
        Some(Narrow::E4m3) => q.chunks(d).flat_map(to_e4m3).collect(),
        Some(Narrow::Blocks(blocks)) => q.chunks(d).flat_map(|q| blocks.queries(q)).collect(),
        None => vec![0.0; q.len()],
    };
    let mut rows = Rows {
        op,
        rounding,
        q,
        narrowed,
        k,
        v,
        sinks: values_opt(op.sinks.as_ref())?,
        slopes: values_opt(op.alibi.as_ref())?,
    };
    let sizes = op.sizes()?;
    let heads = sizes.heads;
    let mut errors = vec![0.0; values.len()];
    let mut lse = vec![(0.0, 0.0); op.q.dims().leading(1).iter().product()];
    let given = rounding.blocks().map(|blocks| (blocks, rows.k.clone(), rows.v.clone()));
    for sequence in op.sequences(indices)? {
        if let Some((blocks, k, v)) = &given {
            let keys: Vec<usize> = (0..sequence.kv_len).map(|j| sequence.key_row(j)).collect();
            (rows.k, rows.v) = (k.clone(), v.clone());
            for head in 0..sizes.kv_heads {
                let row = |j: usize| keys[j] * sizes.kv_heads + head;
                blocks.widen_keys(&mut rows.k, k, d, (0..keys.len()).map(row));
                blocks.widen_values(&mut rows.v, v, sizes.d_v, (0..keys.len()).map(row));
            }
        }
        for (i, row) in sequence.queries.clone().enumerate() {
            let position = sequence.position(i);
            let seen = op.mask.keys(position, sequence.kv_len);
            for head in 0..heads {
                let keys: Vec<usize> = seen
                    .clone()
                    .map(|j| sequence.key_row(j) * sizes.kv_heads + head / (heads / sizes.kv_heads))
                    .collect();
                let first = seen.start as i64 - position;
                let at = row * heads + head;
                let own = at * sizes.d_v..(at + 1) * sizes.d_v;
                lse[at] = rows.errors(
                    at,
                    head,
                    &keys,
                    [seen.start as i64, first],
                    &values[own.clone()],
                    &mut errors[own],
                );
            }
        }
    }
    let mut expected = vec![Expected::Values { values, errors }];
    if op.lse.is_some() {
        let (values, errors) = lse.into_iter().unzip();
        expected.insert(0, Expected::Values { values, errors });
    }
    Ok(expected)
}

/// MXFP8 values are exact in bf16, but for those below its smallest normal number: matrix
/// instructions get them rounded to a multiple of 2⁻¹³³.
fn hold_in_bf16(values: &mut [Approx], operand: &Operand) {
    if operand
        .as_scaled()
        .is_some_and(|s| matches!(s.format, Format::Mxfp8E4M3 | Format::Mxfp8E5M2))
    {
        let step = DType::BF16.min_positive();
        for x in values {
            // A multiple stays as it is.
            x.error += if x.value % step == 0.0 { 0.0 } else { step / 2.0 };
        }
    }
}

/// What queries are rounded to, and more with them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Narrow {
    E4m3,
    Blocks(Blocks),
}

/// What weights lose before they meet values.
#[derive(Clone, Copy)]
struct Rounding {
    /// Relative.
    relative: f64,
    /// Of the largest weight: below the type's smallest step.
    floor: f64,
    /// Roundings of scores, which are in units of ln 2.
    of_scores: f64,
    /// What operands are rounded to before.
    to: Option<Narrow>,
}

impl Rounding {
    fn of(op: &Attention, numerics: Numerics) -> Self {
        let half = op.q.dtype().filter(|dtype| matches!(dtype, DType::BF16 | DType::F16));
        match half {
            Some(half) if numerics == Numerics::RoundedIntermediates => Rounding {
                relative: half.unit_roundoff().unwrap_or(0.0),
                floor: half.min_positive() / 2.0,
                // That of log2(e), of a product with it, and of their difference.
                of_scores: 4.0 * U_F32,
                to: None,
            },
            Some(_) if numerics == Numerics::NarrowedOperands => Rounding {
                relative: DType::F8E4M3.unit_roundoff().unwrap_or(0.0),
                // In units of 1/256.
                floor: DType::F8E4M3.min_positive() / 512.0,
                // As above, and that of the query's scale and of a product with it.
                of_scores: 6.0 * U_F32,
                to: Some(Narrow::E4m3),
            },
            Some(_) if numerics == Numerics::EightBitOperands => Rounding {
                // By blocks.
                relative: 0.0,
                floor: 0.0,
                // As of rounded weights: block scales are powers of two.
                of_scores: 4.0 * U_F32,
                to: Some(Narrow::Blocks(Blocks::Mxfp8)),
            },
            Some(_) if numerics == Numerics::FourBitOperands => Rounding {
                // By blocks.
                relative: 0.0,
                floor: 0.0,
                // As of FP8, and that of the keys' unit and of a product with it.
                of_scores: 8.0 * U_F32,
                to: Some(Narrow::Blocks(Blocks::Nvfp4)),
            },
            _ => Rounding { relative: 0.0, floor: 0.0, of_scores: 0.0, to: None },
        }
    }

    fn blocks(self) -> Option<Blocks> {
        match self.to {
            Some(Narrow::Blocks(blocks)) => Some(blocks),
            _ => None,
        }
    }

    /// Of weights up to `shares`, the first of which is that of key `first`: each a part of 1.
    fn of_weights(self, shares: &[f64], first: i64) -> Vec<f64> {
        if let Some(blocks) = self.blocks() {
            let block = |i: usize| (first + i as i64) / blocks.len() as i64;
            let mut most = BTreeMap::new();
            for (i, share) in shares.iter().enumerate() {
                let most = most.entry(block(i)).or_insert(0.0f64);
                *most = most.max(*share);
            }
            let moved = |(i, &p): (usize, &f64)| {
                blocks.moved(p, most.get(&block(i)).copied().unwrap_or(p), blocks.unit(1.0))
            };
            return shares.iter().enumerate().map(moved).collect();
        }
        // Nothing of what may be infinite.
        let of_weight = |p: &f64| match self.relative {
            0.0 => 0.0,
            relative => relative * p + self.floor,
        };
        shares.iter().map(of_weight).collect()
    }
}

struct Rows<'a> {
    op: &'a Attention,
    rounding: Rounding,
    q: Vec<Approx>,
    /// What queries lose when they are rounded.
    narrowed: Vec<f64>,
    k: Vec<Approx>,
    v: Vec<Approx>,
    sinks: Option<Vec<f64>>,
    slopes: Option<Vec<f64>>,
}

impl Rows<'_> {
    /// The errors of one query of one head that sees `keys`, of which the first is that of the
    /// sequence by number, and at a distance; gives its log-sum-exp and the error of that.
    fn errors(
        &self,
        query: usize,
        head: usize,
        keys: &[usize],
        [first, distance]: [i64; 2],
        values: &[f64],
        errors: &mut [f64],
    ) -> (f64, f64) {
        let d = self.op.q.dims().last().copied().unwrap_or(0);
        let infinite = |x: &Approx| x.value.is_infinite();
        let of_keys = self.rounding.blocks().is_some()
            && keys.iter().any(|key| self.k[key * d..][..d].iter().any(infinite));
        let of_query = self.rounding.to.is_some() && self.q[query * d..][..d].iter().any(infinite);
        if of_query || of_keys {
            errors.fill(f64::INFINITY);
            return (0.0, f64::INFINITY);
        }
        let slope = self.slopes.as_ref().map(|slopes| slopes[head]);
        let scores: Vec<Approx> = keys
            .iter()
            .zip(distance..)
            .map(|(&key, distance)| self.score(query, key, slope.map(|s| s * distance as f64)))
            .collect();
        let sink = self.sinks.as_ref().map(|sinks| sinks[head]);
        let weights = Weights::new(&scores, sink);
        let (d_v, n) = (values.len(), keys.len());
        let shares: Vec<[f64; 2]> = scores
            .iter()
            .map(|z| {
                let p = weights.share(*z);
                [p, weights.error(*z, p)]
            })
            .collect();
        let most: Vec<f64> = shares.iter().map(|[p, error]| p + error).collect();
        let rounded = self.rounding.of_weights(&most, first);
        for (col, (error, exact)) in errors.iter_mut().zip(values).enumerate() {
            let mut infinite = false;
            for ((&[p, exact_p], &rounded), &key) in shares.iter().zip(&rounded).zip(keys) {
                let v = self.v[key * d_v + col];
                infinite |= v.value.is_infinite();
                if v.value == 0.0 {
                    continue;
                }
                let moved = (exact_p + rounded) * (v.value.abs() + v.error) + p * v.error;
                // n sums and products; an online softmax rescales them every few keys.
                let rounding = gamma(2 * n + 8) * p * (v.value.abs() + v.error);
                *error += moved + rounding + TINY_F32;
            }
            if !exact.is_finite() {
                // A weight that underflows makes NaN of an infinity.
                *error = if infinite { f64::NAN } else { 0.0 };
            }
        }
        let lse = weights.log_sum_exp();
        (lse.value, lse.error)
    }

    /// The score of a key: `d` products and sums and the decoding of both; the scale, itself
    /// rounded; quotient, tanh and product of the softcap; the bias.
    fn score(&self, query: usize, key: usize, bias: Option<f64>) -> Approx {
        let d = self.op.q.dims().last().copied().unwrap_or(0);
        let (q, k) = (&self.q[query * d..][..d], &self.k[key * d..][..d]);
        let pairs = || q.iter().zip(k);
        let scale = self.op.score_scale();
        let mut s = scale * pairs().map(|(q, k)| q.value * k.value).sum::<f64>();
        let mut error = 0.0;
        if s.is_finite() {
            let size: f64 = pairs().map(|(q, k)| (q.value * k.value).abs()).sum();
            let lost: f64 = pairs().map(|(q, k)| q.value.abs() * k.error).sum();
            let narrowed = &self.narrowed[query * d..][..d];
            let lost = lost
                + (1.0 + gamma(d + 4))
                    * narrowed
                        .iter()
                        .zip(k)
                        .map(|(q, k)| q * (k.value.abs() + k.error))
                        .sum::<f64>();
            error = scale.abs() * (gamma(d + 4) * size + lost + d as f64 * TINY_F32) + TINY_F32;
        }
        if let Some(cap) = self.op.softcap.map(f64::from) {
            // max t·tanh′(t) = 0.448 times the quotient's u.
            let rounding = (ELEMENTARY + 2.0) * U_F32 * s.abs().min(cap);
            s = cap * (s / cap).tanh();
            error += rounding + TINY_F32;
        }
        if let Some(bias) = bias {
            s += bias;
            error += U_F32 * (bias.abs() + s.abs() + error);
        }
        if self.rounding.of_scores > 0.0 {
            error += self.rounding.of_scores * (s.abs() + error);
        }
        Approx { value: s, error: if s.is_finite() { error } else { 0.0 } }
    }
}
