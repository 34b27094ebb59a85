//! Values that find different faults.

use proptest::prelude::*;

/// How test values are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Distribution {
    /// Normal, mean 0, deviation 1.
    Normal,
    /// A normal value divided by a uniform one: now and then a hundred times larger.
    HeavyTail,
    /// All the same.
    AllEqual,
    /// 2^10 and 2^-10 in turn, of random sign.
    HugeTiny,
    /// Below f32's smallest normal number.
    Subnormal,
    /// 0 and −0.
    Zeros,
    /// Normal, with infinities, NaN or both among them: a few, or as many.
    NonFinite,
}

impl Distribution {
    /// Every one, the non-finite last.
    pub const ALL: [Distribution; 7] = [
        Distribution::Normal,
        Distribution::HeavyTail,
        Distribution::AllEqual,
        Distribution::HugeTiny,
        Distribution::Subnormal,
        Distribution::Zeros,
        Distribution::NonFinite,
    ];

    /// Those of finite values.
    pub fn finite() -> impl Strategy<Value = Distribution> {
        prop::sample::select(&Self::ALL[..Self::ALL.len() - 1])
    }

    /// All of them, a fourth not finite: those cases differ most.
    pub fn any() -> impl Strategy<Value = Distribution> {
        prop_oneof![3 => Self::finite(), 1 => Just(Distribution::NonFinite)]
    }

    /// This, or normal where it is not finite.
    pub fn or_normal(self) -> Self {
        if self == Distribution::NonFinite { Distribution::Normal } else { self }
    }

    /// `n` values, the same for the same seed. Those that are random fill an f64, so that every
    /// type rounds them.
    pub fn values(self, n: usize, seed: u64) -> Vec<f64> {
        let mut random = Random(seed);
        let constant = random.normal();
        let (strange, share) = Self::strange(&mut random);
        (0..n)
            .map(|i| match self {
                Distribution::Normal => random.normal(),
                Distribution::HeavyTail => random.normal() / random.uniform().max(0.01),
                Distribution::AllEqual => constant,
                Distribution::HugeTiny => {
                    let sign = if random.uniform() < 0.5 { -1.0 } else { 1.0 };
                    sign * if i % 2 == 0 { 1024.0 } else { 1.0 / 1024.0 }
                }
                Distribution::Subnormal => random.normal() * f64::from(f32::MIN_POSITIVE) / 8.0,
                Distribution::Zeros => 0.0f64.copysign(random.normal()),
                Distribution::NonFinite if random.uniform() < share => {
                    strange[random.below(strange.len())]
                }
                Distribution::NonFinite => random.normal(),
            })
            .collect()
    }

    /// Values that are no numbers, and how many of them to mix in.
    fn strange(random: &mut Random) -> (&'static [f64], f64) {
        const NAN: f64 = f64::NAN;
        const INFINITY: f64 = f64::INFINITY;
        let strange: &[f64] = match random.below(5) {
            0 => &[NAN],
            1 => &[INFINITY, -INFINITY],
            // What masks are made of.
            2 => &[-INFINITY],
            _ => &[NAN, INFINITY, -INFINITY],
        };
        let share = match random.below(3) {
            0 => 0.05,
            1 => 0.2,
            _ => 0.7,
        };
        (strange, share)
    }
}

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// From 0 up to 1, without 1.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `n`, which is above 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform().max(f64::MIN_POSITIVE), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}
