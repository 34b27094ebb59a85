//! The one place where a value is rounded to a narrow float.
//!
//! A magnitude code counts representable magnitudes from zero: `exponent << man_bits | mantissa`.
//! Codes of consecutive integers are consecutive values, so a carry out of the mantissa is right
//! by itself, and rounding up from the largest finite code gives the next step of the format
//! (its infinity, its NaN, or a code past the end). Each type decides what that step means.

/// Field widths and bias of a binary float format.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// Explicit mantissa bits.
    pub man_bits: u32,
    /// Exponent bias; the smallest normal is `2^(1 - bias)`.
    pub bias: i32,
    /// Magnitude code of the largest finite value.
    pub max_code: u32,
}

pub(crate) const E2M1: Layout = Layout { man_bits: 1, bias: 1, max_code: 0x7 };
pub(crate) const E4M3: Layout = Layout { man_bits: 3, bias: 7, max_code: 0x7e };
pub(crate) const E5M2: Layout = Layout { man_bits: 2, bias: 15, max_code: 0x7b };
pub(crate) const BF16: Layout = Layout { man_bits: 7, bias: 127, max_code: 0x7f7f };
pub(crate) const F16: Layout = Layout { man_bits: 10, bias: 15, max_code: 0x7bff };

const F32_MAN_BITS: u32 = f32::MANTISSA_DIGITS - 1;
const F32_BIAS: i32 = f32::MAX_EXP - 1;
const F64_MAN_BITS: u32 = f64::MANTISSA_DIGITS - 1;
const F64_BIAS: i32 = f64::MAX_EXP - 1;

/// How the part below the last kept bit decides.
#[derive(Clone, Copy)]
enum Rounding {
    NearestEven,
    /// Up when the fraction exceeds these random bits over 2^32.
    Stochastic(u32),
}

impl Layout {
    /// Exponent of the smallest normal value.
    const fn min_exp(self) -> i32 {
        1 - self.bias
    }

    /// The value of a finite magnitude code.
    pub const fn decode(self, code: u32) -> f64 {
        let field = (code >> self.man_bits) as i32;
        let fraction = (code & ((1 << self.man_bits) - 1)) as u64;
        let (significand, exp) = if field == 0 {
            (fraction, self.min_exp())
        } else {
            (fraction | 1 << self.man_bits, field - self.bias)
        };
        significand as f64 * pow2(exp - self.man_bits as i32)
    }

    /// The magnitude code nearest to `|x|`, ties to even, not limited to finite codes.
    /// `x` is not NaN.
    pub const fn round_f64(self, x: f64) -> u32 {
        self.round(x, Rounding::NearestEven)
    }

    /// One of the two codes around `|x|`: the upper with probability equal to the position of
    /// `|x|` between them, resolved to 2^-32 of a step. `x` is not NaN.
    pub const fn round_stochastic(self, x: f64, random: u32) -> u32 {
        self.round(x, Rounding::Stochastic(random))
    }

    const fn round(self, x: f64, rounding: Rounding) -> u32 {
        let abs = x.to_bits() & (u64::MAX >> 1);
        let field = (abs >> F64_MAN_BITS) as i32;
        // f64 subnormals are far below half of any smallest subnormal here: zero will do, also for
        // the 32-bit fraction of stochastic rounding.
        if field == 0 {
            return 0;
        }
        let exp = field - F64_BIAS;
        let significand = abs & ((1 << F64_MAN_BITS) - 1) | 1 << F64_MAN_BITS;
        let below_normal = if exp < self.min_exp() { self.min_exp() - exp } else { 0 };
        let shift = F64_MAN_BITS - self.man_bits + below_normal as u32;
        let kept = if shift < 64 { significand >> shift } else { 0 };
        let exp_steps = (exp + below_normal - self.min_exp()) as u64;
        let code = (exp_steps << self.man_bits) + kept;
        (code + rounding.carry(significand, shift, code) as u64) as u32
    }

    /// As [`Layout::round_f64`] from an `f32`, without branches so that loops vectorise.
    #[inline(always)]
    pub const fn round_f32(self, x: f32) -> u32 {
        let abs = x.to_bits() & (u32::MAX >> 1);
        let shift = F32_MAN_BITS - self.man_bits;
        let rebias = ((F32_BIAS - self.bias) as u32) << F32_MAN_BITS;
        // Half a step less one, plus one if the kept part is odd: carries exactly when RNE does.
        let nearest = (1 << (shift - 1)) - 1 + ((abs >> shift) & 1);
        let normal = abs.wrapping_sub(rebias).wrapping_add(nearest) >> shift;
        // The unit in the last place of this constant is the format's smallest subnormal, so the
        // addition itself rounds, to nearest even.
        let magic = pow2(self.min_exp() - self.man_bits as i32 + F32_MAN_BITS as i32) as f32;
        let subnormal = (f32::from_bits(abs) + magic).to_bits().wrapping_sub(magic.to_bits());
        let min_normal = ((self.min_exp() + F32_BIAS) as u32) << F32_MAN_BITS;
        if abs < min_normal { subnormal } else { normal }
    }
}

impl Rounding {
    /// Whether to add one to the kept bits, `shift` bits of `significand` being dropped.
    const fn carry(self, significand: u64, shift: u32, kept: u64) -> bool {
        match self {
            Rounding::NearestEven => {
                // Beyond 54 bits the value is under half a step.
                if shift > F64_MAN_BITS + 2 {
                    return false;
                }
                let dropped = significand & ((1 << shift) - 1);
                let half = 1 << (shift - 1);
                dropped > half || dropped == half && kept & 1 == 1
            }
            Rounding::Stochastic(random) => {
                let dropped =
                    if shift < 64 { significand & ((1 << shift) - 1) } else { significand };
                // Every layout drops at least 32 of f64's bits.
                let excess = shift - 32;
                let fraction = if excess < 64 { dropped >> excess } else { 0 };
                (random as u64) < fraction
            }
        }
    }
}

/// `2^exp` for a normal `f64` exponent.
const fn pow2(exp: i32) -> f64 {
    f64::from_bits(((exp + F64_BIAS) as u64) << F64_MAN_BITS)
}

/// Values of all 256 codes of a signed 8-bit format; codes past the largest finite one are given
/// by `special`.
pub(crate) const fn table(layout: Layout, special: [f32; 4]) -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 128 {
        let value = if code <= layout.max_code {
            layout.decode(code) as f32
        } else {
            special[(code & 3) as usize]
        };
        values[code as usize] = value;
        values[code as usize | 0x80] = -value;
        code += 1;
    }
    values
}
