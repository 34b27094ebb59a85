//! From logits to the next token.

use anyhow::{Result, bail, ensure};
use ferrocerium::Tensor;

/// How to choose: temperature first, then the `top_k` likeliest, then the smallest set of
/// likeliest tokens whose probabilities sum to `top_p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the largest.
    pub temperature: f32,
    /// How many of the likeliest tokens to choose from; 0 for all.
    pub top_k: usize,
    /// Probability that the tokens to choose from have together, in (0, 1].
    pub top_p: f32,
    /// Where the random numbers start: the same seed, the same choices.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.7, top_k: 40, top_p: 0.95, seed: 0 }
    }
}

/// The likeliest logits, largest first, and their tokens.
pub type Likeliest = (Tensor<f32, 2>, Tensor<u32, 2>);

/// Chooses tokens, one after another.
#[derive(Clone, Debug)]
pub struct Sampler {
    how: Sampling,
    random: SplitMix64,
}

impl Sampler {
    pub fn new(how: Sampling) -> Result<Self> {
        ensure!(
            how.temperature.is_finite() && how.temperature >= 0.0,
            "temperature {} is not a number ≥ 0",
            how.temperature
        );
        ensure!(
            how.top_p > 0.0 && how.top_p <= 1.0,
            "top-p {} is not above 0 and at most 1",
            how.top_p
        );
        Ok(Self { how, random: SplitMix64(how.seed) })
    }

    /// The likeliest of logits `[1, vocabulary]` and their tokens, where no others matter.
    pub fn likeliest(&self, logits: &Tensor<f32, 2>) -> Result<Option<Likeliest>> {
        let few = if self.how.temperature == 0.0 { 1 } else { self.how.top_k };
        let matter = (1..logits.shape()[1]).contains(&few);
        Ok(matter.then(|| logits.top_k(few)).transpose()?)
    }

    /// Chooses a token by logits `[1, vocabulary]`. Where few of them matter, no others are taken
    /// from the device.
    pub fn next(&mut self, logits: &Tensor<f32, 2>) -> Result<u32> {
        match self.likeliest(logits)? {
            Some(likeliest) => self.next_of(&likeliest),
            None => self.sample(&logits.to_vec()?),
        }
    }

    /// Chooses among the likeliest tokens.
    pub fn next_of(&mut self, (likeliest, tokens): &Likeliest) -> Result<u32> {
        let (likeliest, tokens) = (likeliest.to_vec()?, tokens.to_vec()?);
        require_number(tokens[0], likeliest[0])?;
        // They are in the order in which all would be sorted.
        Ok(tokens[self.sample(&likeliest)? as usize])
    }

    /// Chooses a token by the logits, one for each token of the vocabulary.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let best = greedy(logits)?;
        if self.how.temperature == 0.0 {
            return Ok(best);
        }
        let top = logits[best as usize];
        let temperature = f64::from(self.how.temperature);
        let weight =
            |i: u32| ((f64::from(logits[i as usize]) - f64::from(top)) / temperature).exp();
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        // Equal logits go by token, so that the choice does not depend on the sort.
        let likelier =
            |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if (1..order.len()).contains(&self.how.top_k) {
            order.select_nth_unstable_by(self.how.top_k - 1, likelier);
            order.truncate(self.how.top_k);
        }
        order.sort_unstable_by(likelier);
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        let mut kept = 0.0;
        let enough = f64::from(self.how.top_p) * total;
        let count = order.iter().take_while(|&&i| {
            let go_on = kept < enough;
            kept += if go_on { weight(i) } else { 0.0 };
            go_on
        });
        order.truncate(count.count().max(1));
        let mut at = self.random.unit() * kept;
        for &i in &order {
            at -= weight(i);
            if at < 0.0 {
                return Ok(i);
            }
        }
        // Rounding can leave a remainder after the last one.
        Ok(order.last().copied().unwrap_or(best))
    }
}

/// The token with the largest logit, the first of equals.
pub fn greedy(logits: &[f32]) -> Result<u32> {
    let Some(first) = logits.first() else { bail!("no logits to choose a token from") };
    let (mut best, mut top) = (0, *first);
    for (i, &x) in logits.iter().enumerate() {
        require_number(i as u32, x)?;
        if x > top {
            (best, top) = (i, x);
        }
    }
    if top == f32::NEG_INFINITY {
        bail!("every logit is -inf; there is no token to choose");
    }
    Ok(best as u32)
}

/// Refuses a logit that no sum of numbers gives.
fn require_number(token: u32, logit: f32) -> Result<()> {
    ensure!(
        !logit.is_nan() && logit != f32::INFINITY,
        "the logit of token {token} is {logit}; the model's weights or activations overflow"
    );
    Ok(())
}

/// Steele, Lea and Flood's SplitMix64: 64 bits of state, every seed as good as another.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1): the upper 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
