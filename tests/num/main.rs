//! Number formats: every code, every boundary, every conversion.

mod bulk;
mod golden;
mod rounding;
mod stochastic;
mod traits;

use ferrocerium::num::{E2M1, E8M0, F8E4M3, F8E5M2, Scalar, UE4M3};

/// A one-byte format seen from outside, for tests that hold of all of them.
struct Narrow {
    name: &'static str,
    from_f32: fn(f32) -> u8,
    from_f64: fn(f64) -> u8,
    to_f32: fn(u8) -> f32,
    to_f64: fn(u8) -> f64,
    parse: fn(&str) -> Option<u8>,
    print: fn(u8) -> String,
    /// Codes of positive finite values, zero included: 0 to this.
    max_code: u8,
    /// The bit that holds the sign, or 0.
    sign: u8,
    /// Where the value after the largest would be.
    next: f64,
}

macro_rules! narrow {
    ($t:ident, $name:literal, max_code: $max:expr, sign: $sign:expr, next: $next:expr) => {
        Narrow {
            name: $name,
            from_f32: |x| <$t>::from_f32(x).to_bits(),
            from_f64: |x| <$t>::from_f64(x).to_bits(),
            to_f32: |code| $t::from_bits(code).to_f32(),
            to_f64: |code| $t::from_bits(code).to_f64(),
            parse: |text| text.parse::<$t>().ok().map($t::to_bits),
            print: |code| $t::from_bits(code).to_string(),
            max_code: $max,
            sign: $sign,
            next: $next,
        }
    };
}

/// Every format of at most eight bits.
const NARROW: [Narrow; 5] = [
    narrow!(F8E4M3, "e4m3", max_code: 0x7e, sign: 0x80, next: 480.0),
    narrow!(F8E5M2, "e5m2", max_code: 0x7b, sign: 0x80, next: 65536.0),
    narrow!(E2M1, "e2m1", max_code: 7, sign: 8, next: 8.0),
    narrow!(UE4M3, "ue4m3", max_code: 0x7e, sign: 0, next: 480.0),
    narrow!(E8M0, "e8m0", max_code: 0xfe, sign: 0, next: 3.402823669209385e38),
];

/// splitmix64, seeded afresh in every run; the seed is printed and so shown when a test fails.
struct Random(u64);

impl Random {
    fn fresh() -> Self {
        use std::hash::{BuildHasher, RandomState};
        let seed = RandomState::new().hash_one(0);
        println!("seed {seed:#x}");
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
