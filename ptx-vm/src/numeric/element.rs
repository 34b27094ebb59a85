//! Operand types of matrix instructions.

use std::sync::OnceLock;

use half::f16;

use super::float::{Format, e8m0_exponent, to_f64};

/// An operand type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    E3m2,
    E2m3,
    /// Two to a byte.
    E2m1,
    /// One to a byte, in bits 2 to 5 (`kind::f8f6f4`).
    E2m1Byte,
    S8,
    U8,
    S4,
    U4,
}

impl Element {
    /// Bits that one element takes in a register.
    pub fn container_bits(self) -> u32 {
        match self {
            Element::Tf32 => 32,
            Element::F16 | Element::Bf16 => 16,
            Element::E2m1 | Element::S4 | Element::U4 => 4,
            _ => 8,
        }
    }

    /// Whether this is one of the 8-, 6- and 4-bit floats that come in bytes.
    pub fn narrow_float(self) -> bool {
        use Element::{E2m1Byte, E2m3, E3m2, E4m3, E5m2};
        matches!(self, E4m3 | E5m2 | E3m2 | E2m3 | E2m1Byte)
    }

    /// The exponent below which this type's values are subnormal.
    pub fn min_exponent(self) -> i32 {
        self.format().map_or(0, |f| 1 - f.bias)
    }

    fn format(self) -> Option<Format> {
        Some(match self {
            Element::F16 => Format::F16,
            Element::Bf16 => Format::BF16,
            Element::Tf32 => Format::TF32,
            Element::E4m3 => Format::E4M3,
            Element::E5m2 => Format::E5M2,
            Element::E3m2 => Format::E3M2,
            Element::E2m3 => Format::E2M3,
            Element::E2m1 | Element::E2m1Byte => Format::E2M1,
            Element::S8 | Element::U8 | Element::S4 | Element::U4 => return None,
        })
    }

    /// The elements of a register, the lowest first; every value is exact in f64.
    #[inline]
    pub fn unpack(self, word: u32, mut each: impl FnMut(usize, f64)) {
        match self {
            Element::F16 => {
                for i in 0..2 {
                    each(i, f16::from_bits((word >> (16 * i)) as u16).to_f64());
                }
            }
            Element::Bf16 => {
                each(0, f64::from(f32::from_bits(word << 16)));
                each(1, f64::from(f32::from_bits(word & 0xffff_0000)));
            }
            // The low 13 bits of the register are not looked at.
            Element::Tf32 => each(0, f64::from(f32::from_bits(word & 0xffff_e000))),
            _ => {
                let (table, bits) = (self.table(), self.container_bits());
                let field = (1u32 << bits) - 1;
                for i in 0..32 / bits {
                    each(i as usize, table[(word >> (i * bits) & field) as usize]);
                }
            }
        }
    }

    /// The values of all codes of a type of up to 8 bits.
    fn table(self) -> &'static [f64] {
        static TABLES: [OnceLock<Vec<f64>>; 13] = [const { OnceLock::new() }; 13];
        TABLES[self as usize].get_or_init(|| (0..256).map(|code| self.small_value(code)).collect())
    }

    fn small_value(self, code: u64) -> f64 {
        match (self, self.format()) {
            (Element::E2m1Byte, _) => to_f64(code >> 2 & 0xf, Format::E2M1),
            (_, Some(f)) => to_f64(code & ((1 << f.bits()) - 1), f),
            (Element::S8, _) => f64::from(code as u8 as i8),
            (Element::S4, _) => f64::from(((code as u8) << 4) as i8 >> 4),
            _ => code as f64,
        }
    }
}

/// A type of C and D.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accumulator {
    F32,
    F16,
    S32,
}

impl Accumulator {
    pub fn bits(self) -> u32 {
        if self == Accumulator::F16 { 16 } else { 32 }
    }

    /// Elements of a register.
    pub fn per_register(self) -> usize {
        32 / self.bits() as usize
    }

    /// The value of a code, exact in f64.
    pub fn value(self, code: u32) -> f64 {
        match self {
            Accumulator::F32 => f64::from(f32::from_bits(code)),
            Accumulator::F16 => f16::from_bits(code as u16).to_f64(),
            Accumulator::S32 => f64::from(code as i32),
        }
    }
}

/// A type of block scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleFormat {
    Ue8m0,
    Ue4m3,
}

impl ScaleFormat {
    /// The value of a code; NaN for the code that says so.
    pub fn value(self, code: u8) -> f64 {
        match self {
            ScaleFormat::Ue8m0 => e8m0_exponent(code).map_or(f64::NAN, |e| f64::from(e).exp2()),
            // The sign bit is not part of the format.
            ScaleFormat::Ue4m3 => to_f64(u64::from(code & 0x7f), Format::E4M3),
        }
    }

    /// The exponent below which this type's values are subnormal.
    pub fn min_exponent(self) -> i32 {
        match self {
            ScaleFormat::Ue8m0 => -127,
            ScaleFormat::Ue4m3 => -6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(e: Element, word: u32) -> Vec<f64> {
        let mut out = Vec::new();
        e.unpack(word, |_, v| out.push(v));
        out
    }

    #[test]
    fn registers_hold_the_lowest_element_in_the_lowest_bits() {
        assert_eq!(values(Element::F16, 0xc000_3c00), [1.0, -2.0]);
        assert_eq!(values(Element::Bf16, 0xc000_3f80), [1.0, -2.0]);
        assert_eq!(values(Element::Tf32, 0x3f80_1fff), [1.0]);
        assert_eq!(values(Element::S8, 0x80ff_7f01), [1.0, 127.0, -1.0, -128.0]);
        assert_eq!(values(Element::U8, 0x80ff_7f01), [1.0, 127.0, 255.0, 128.0]);
        assert_eq!(values(Element::S4, 0x8765_4321), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0]);
        assert_eq!(values(Element::E2m1, 0x8765_4321), [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0]);
        assert_eq!(values(Element::E4m3, 0x0138_7eb8), [-1.0, 448.0, 1.0, 0.001_953_125]);
    }

    #[test]
    fn padding_bits_of_narrow_codes_do_not_count() {
        assert_eq!(values(Element::E2m1Byte, 0xc31c_83ff)[..3], [-6.0, 0.0, 6.0]);
        assert_eq!(values(Element::E3m2, 0xc0c0_c0cc)[0], 1.0);
        assert_eq!(values(Element::E2m3, 0xc0c0_c0c8)[0], 1.0);
    }

    #[test]
    fn scales_know_their_edges() {
        assert_eq!(ScaleFormat::Ue8m0.value(0), 2f64.powi(-127));
        assert_eq!(ScaleFormat::Ue8m0.value(254), 2f64.powi(127));
        assert!(ScaleFormat::Ue8m0.value(255).is_nan());
        assert!(ScaleFormat::Ue4m3.value(0x7f).is_nan());
        assert_eq!(ScaleFormat::Ue4m3.value(0xfe), 448.0);
    }
}
