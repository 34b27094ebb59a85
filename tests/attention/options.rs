//! Attention parameters to draw at random, and the formula written out.

use ferrocerium::Tensor;
use ferrocerium::tensor::AttentionBuilder;

use crate::support::Random;

/// Sizes of a batched attention.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub batch: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub kv_heads: usize,
    pub heads: usize,
    pub d: usize,
    pub d_v: usize,
}

impl Sizes {
    pub fn random(random: &mut Random) -> Self {
        let kv_heads = 1 + random.below(3);
        Sizes {
            batch: 1 + random.below(3),
            q_len: random.below(7),
            kv_len: random.below(7),
            kv_heads,
            heads: kv_heads * (1 + random.below(3)),
            d: random.below(5),
            d_v: 1 + random.below(4),
        }
    }

    pub fn q(&self) -> [usize; 4] {
        [self.batch, self.q_len, self.heads, self.d]
    }

    pub fn k(&self) -> [usize; 4] {
        [self.batch, self.kv_len, self.kv_heads, self.d]
    }

    pub fn v(&self) -> [usize; 4] {
        [self.batch, self.kv_len, self.kv_heads, self.d_v]
    }
}

/// Everything but the layout.
#[derive(Clone, Default)]
pub struct Options {
    pub window: Option<usize>,
    pub ahead: Option<usize>,
    pub scale: Option<f32>,
    pub softcap: Option<f32>,
    pub sinks: Option<Tensor<f64, 1>>,
    pub alibi: Option<Tensor<f64, 1>>,
}

impl Options {
    pub fn random(random: &mut Random, heads: usize) -> Self {
        Options {
            window: (random.below(2) == 0).then(|| 1 + random.below(8)),
            ahead: (random.below(2) == 0).then(|| random.below(4)),
            scale: (random.below(2) == 0).then(|| random.number() as f32),
            softcap: (random.below(2) == 0).then(|| 2.1 + random.number() as f32),
            sinks: (random.below(2) == 0).then(|| random.tensor([heads])),
            alibi: (random.below(2) == 0).then(|| random.tensor([heads])),
        }
    }

    pub fn on<const R: usize>(&self, mut builder: AttentionBuilder<R>) -> AttentionBuilder<R> {
        if let Some(window) = self.window {
            builder = builder.window(window);
        }
        if let Some(ahead) = self.ahead {
            builder = builder.ahead(ahead);
        }
        if let Some(scale) = self.scale {
            builder = builder.scale(scale);
        }
        if let Some(softcap) = self.softcap {
            builder = builder.softcap(softcap);
        }
        if let Some(sinks) = &self.sinks {
            builder = builder.sinks(sinks);
        }
        if let Some(alibi) = &self.alibi {
            builder = builder.alibi(alibi);
        }
        builder
    }

    /// The batched attention and its log-sums, with every sum over all keys written out and no
    /// shift of the exponents: good for scores of a few units.
    pub fn written_out(
        &self,
        sizes: &Sizes,
        q: &Tensor<f64, 4>,
        k: &Tensor<f64, 4>,
        v: &Tensor<f64, 4>,
    ) -> (Vec<f64>, Vec<f64>) {
        let (q, k, v) = (q.host().unwrap(), k.host().unwrap(), v.host().unwrap());
        let per_head = |values: &Option<Tensor<f64, 1>>, h: usize| {
            values.as_ref().map(|t| t.to_vec().unwrap()[h])
        };
        let scale = self.scale.map_or(1.0 / (sizes.d.max(1) as f64).sqrt(), f64::from);
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for b in 0..sizes.batch {
            for i in 0..sizes.q_len {
                for h in 0..sizes.heads {
                    let kv_head = h * sizes.kv_heads / sizes.heads;
                    let mut numerator = vec![0.0; sizes.d_v];
                    let mut denominator = per_head(&self.sinks, h).map_or(0.0, f64::exp);
                    for j in 0..sizes.kv_len {
                        // How far the key is after the query.
                        let distance =
                            j as i64 + sizes.q_len as i64 - i as i64 - sizes.kv_len as i64;
                        let hidden = self.window.is_some_and(|w| distance <= -(w as i64))
                            || self.ahead.is_some_and(|n| distance > n as i64);
                        if hidden {
                            continue;
                        }
                        let dot: f64 =
                            (0..sizes.d).map(|e| q[[b, i, h, e]] * k[[b, j, kv_head, e]]).sum();
                        let mut score = scale * dot;
                        if let Some(cap) = self.softcap.map(f64::from) {
                            score = (score / cap).tanh() * cap;
                        }
                        score += per_head(&self.alibi, h).unwrap_or(0.0) * distance as f64;
                        denominator += score.exp();
                        for (e, sum) in numerator.iter_mut().enumerate() {
                            *sum += score.exp() * v[[b, j, kv_head, e]];
                        }
                    }
                    let weigh = |sum: &f64| if *sum == 0.0 { 0.0 } else { sum / denominator };
                    out.extend(numerator.iter().map(weigh));
                    lse.push(denominator.ln());
                }
            }
        }
        (out, lse)
    }
}
