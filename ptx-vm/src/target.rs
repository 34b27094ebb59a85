//! What the declared target has.

use std::fmt;

use crate::error::{Error, Result};

/// A `.target`: the number, and whether it is architecture- or family-specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    number: u32,
    suffix: Suffix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Suffix {
    None,
    /// `f`: what the family has.
    Family,
    /// `a`: what exactly this architecture has.
    Specific,
}

impl Target {
    /// GB10.
    pub const SM_121A: Target = Target { number: 121, suffix: Suffix::Specific };
    /// RTX 50 and RTX PRO Blackwell.
    pub const SM_120A: Target = Target { number: 120, suffix: Suffix::Specific };
    /// Hopper.
    pub const SM_90A: Target = Target { number: 90, suffix: Suffix::Specific };

    /// Reads `sm_90a`, `sm_121`, `sm_120f`, ….
    ///
    /// # Errors
    /// A name that is no target, or one older than `sm_70`: its warps have no independent
    /// threads, which this machine assumes.
    pub fn parse(name: &str) -> Result<Target> {
        let bad = || Error::Launch(format!("`{name}` is not a target, e.g. `sm_90a` or `sm_121a`"));
        let rest = name.strip_prefix("sm_").ok_or_else(bad)?;
        let (digits, suffix) = if let Some(d) = rest.strip_suffix('a') {
            (d, Suffix::Specific)
        } else if let Some(d) = rest.strip_suffix('f') {
            (d, Suffix::Family)
        } else {
            (rest, Suffix::None)
        };
        let number: u32 = digits.parse().map_err(|_| bad())?;
        if !(70..1000).contains(&number) {
            return Err(Error::Launch(format!(
                "target `{name}` is not executed: sm_70 and newer are"
            )));
        }
        Ok(Target { number, suffix })
    }

    /// The number, 121 for `sm_121a`.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Shared memory that one block may use, in bytes.
    pub fn shared_limit(self) -> u64 {
        // Opt-in maxima of the CUDA programming guide, table of compute capabilities.
        let kib = match self.number {
            70..=74 => 96,
            75..=79 => 64,
            80 | 87 => 163,
            81..=89 => 99,
            90..=119 => 227,
            _ => 99,
        };
        kib << 10
    }

    /// Shared memory that a block may use without opting in.
    pub const STATIC_SHARED_LIMIT: u64 = 48 << 10;

    /// 32-bit registers of one multiprocessor.
    pub const REGISTERS: u32 = 65_536;

    pub(crate) fn at_least(self, number: u32) -> bool {
        self.number >= number
    }

    /// Whether this is `sm_90a`.
    pub(crate) fn hopper_specific(self) -> bool {
        self.number == 90 && self.suffix == Suffix::Specific
    }

    /// Whether the block-scaled and narrow `mma.sync` forms of the sm_12x family are there.
    pub(crate) fn blackwell_consumer(self) -> bool {
        (120..130).contains(&self.number) && self.suffix != Suffix::None
    }

    /// Whether narrow float conversions beyond E4M3 and E5M2 are there (FP4, FP6, UE8M0).
    pub(crate) fn narrow_conversions(self) -> bool {
        self.number >= 100 && self.suffix != Suffix::None
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.suffix {
            Suffix::None => "",
            Suffix::Family => "f",
            Suffix::Specific => "a",
        };
        write!(f, "sm_{}{suffix}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["sm_80", "sm_90a", "sm_120f", "sm_121a", "sm_121"] {
            assert_eq!(Target::parse(name).map(|t| t.to_string()), Ok(name.to_string()));
        }
        for name in ["", "sm_", "sm_x", "compute_90", "sm_35", "sm_99999999999"] {
            assert!(Target::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn block_scaling_needs_a_specific_target() {
        let has = |n: &str| Target::parse(n).is_ok_and(Target::blackwell_consumer);
        assert!(has("sm_121a") && has("sm_120a") && has("sm_120f"));
        assert!(!has("sm_121") && !has("sm_120") && !has("sm_90a") && !has("sm_100a"));
    }
}
