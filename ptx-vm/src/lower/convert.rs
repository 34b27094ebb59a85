//! Conversions.

use super::alu::convert::{Cvt, Fix, Scalar};
use super::decode::Decoder;
use super::ops::AluFn;
use crate::error::Result;
use crate::numeric::{Format, Rounding};
use crate::parse::ast::Ty;

/// A type of `cvt`, packed ones included.
#[derive(Debug, Clone, Copy, PartialEq)]
enum CvtEnd {
    Scalar(Ty),
    /// Two values, with the distance between them in bits.
    Pair(Format, u32),
    Tf32,
    Scales,
}

impl CvtEnd {
    fn parse(name: &str) -> Option<CvtEnd> {
        Some(match name {
            "f16x2" => CvtEnd::Pair(Format::F16, 16),
            "bf16x2" => CvtEnd::Pair(Format::BF16, 16),
            "e4m3x2" => CvtEnd::Pair(Format::E4M3, 8),
            "e5m2x2" => CvtEnd::Pair(Format::E5M2, 8),
            "e2m3x2" => CvtEnd::Pair(Format::E2M3, 8),
            "e3m2x2" => CvtEnd::Pair(Format::E3M2, 8),
            "e2m1x2" => CvtEnd::Pair(Format::E2M1, 4),
            "ue8m0x2" => CvtEnd::Scales,
            "tf32" => CvtEnd::Tf32,
            name => match Ty::parse(name)? {
                Ty::Pred | Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 | Ty::B128 => return None,
                Ty::U16x2 | Ty::S16x2 | Ty::F32x2 => return None,
                ty => CvtEnd::Scalar(ty),
            },
        })
    }
}

impl Decoder<'_, '_> {
    pub(super) fn cvt(&mut self) -> Result<()> {
        if self.mods.take("pack") {
            return self.cvt_pack();
        }
        let end = |m: &str| CvtEnd::parse(m);
        let (Some(to), Some(from)) = (self.mods.find(end), self.mods.find(end)) else {
            return Err(self.error("two types are expected"));
        };
        match (to, from) {
            (CvtEnd::Scalar(to), CvtEnd::Scalar(from)) => self.cvt_scalar(to, from),
            _ => self.cvt_pair(to, from),
        }
    }

    fn cvt_pack(&mut self) -> Result<()> {
        let sat = self.mods.take("sat");
        let to = self.mods.find(Ty::parse);
        let from = self.mods.find(Ty::parse);
        let third = self.mods.take("b32");
        let (Some(to), Some(Ty::S32), true) = (to, from, sat) else {
            return Err(self.error("only `cvt.pack.sat.*.s32` is known"));
        };
        let narrow = matches!(to, Ty::U8 | Ty::S8 | Ty::U16 | Ty::S16);
        if !narrow || (to.bits() == 8) != third {
            return Err(self.error("the narrow type does not fit this form"));
        }
        self.finish(if third { 4 } else { 3 })?;
        let d = self.dst(0, Ty::B32)?;
        let mut s = vec![self.src(1, Ty::S32)?, self.src(2, Ty::S32)?];
        if third {
            s.push(self.src(3, Ty::B32)?);
        }
        let cvt = Cvt::Pack { to: (to.bits(), to.signed()), shifted: third };
        self.alu(AluFn::Cvt(cvt), d, &s, 0);
        Ok(())
    }

    fn cvt_scalar(&mut self, to: Ty, from: Ty) -> Result<()> {
        let flush = self.mods.take("ftz");
        let satfinite = self.mods.take("satfinite");
        let sat = self.mods.take("sat");
        let relu = self.mods.take("relu");
        let integral = self.mods.find(|m| {
            Some(match m {
                "rni" => Rounding::NearestEven,
                "rzi" => Rounding::TowardZero,
                "rmi" => Rounding::Down,
                "rpi" => Rounding::Up,
                _ => return None,
            })
        });
        let rounding = self.explicit_rounding();
        // A second source makes a pair of halves: `cvt.rn.bf16x2.f32 d, a, b` has its own path.
        self.finish(2)?;
        let to_operand = self.operand(0)?;
        let (d, register) = self.dst_wide(to_operand, to)?;
        let register = if register == 0 { to.bits() } else { register };
        let from_operand = self.operand(1)?;
        let a = self.src_wide(from_operand, from)?;
        let fix = Fix { unit: sat, relu, flush };
        let single = from == Ty::F32 || to == Ty::F32;
        let narrows_f32 = from == Ty::F32 && matches!(to, Ty::F16 | Ty::Bf16);
        let clips = narrows_f32
            && matches!(rounding, Some(Rounding::NearestEven | Rounding::TowardZero))
            && !flush
            && !sat;
        if rounding == Some(Rounding::NearestAway) || integral.is_some() && rounding.is_some() {
            return Err(self.error("this rounding does not go with these types"));
        }
        if flush && !single {
            return Err(self.error("`.ftz` needs an f32"));
        }
        if (relu || satfinite) && !clips {
            return Err(self.error("`.relu` and `.satfinite` go with f32 to f16 or bf16"));
        }
        let cvt = match (scalar(from), scalar(to)) {
            (Scalar::Int { bits, signed }, Scalar::Int { bits: tb, signed: ts }) => {
                if integral.or(rounding).is_some() {
                    return Err(self.error("integers are not rounded"));
                }
                Cvt::IntInt { from: (bits, signed), to: (tb, ts), register, saturate: sat }
            }
            (Scalar::Int { bits, signed }, Scalar::Float(to)) => {
                let Some(mode) = rounding.filter(|_| !flush) else {
                    return Err(self.error("a rounding such as `.rn` is missing"));
                };
                Cvt::IntFloat { from: (bits, signed), to, mode, fix }
            }
            (Scalar::Float(from), Scalar::Int { bits, signed }) => {
                let Some(mode) = integral.filter(|_| !(flush && from != Format::F32)) else {
                    return Err(self.error("a rounding such as `.rzi` is missing"));
                };
                Cvt::FloatInt { from, to: (bits, signed), register, mode, flush }
            }
            (Scalar::Float(f), Scalar::Float(t)) => {
                let narrows =
                    t.mantissa_bits < f.mantissa_bits || t.exponent_bits < f.exponent_bits;
                if narrows && rounding.is_none() {
                    return Err(self.error("a rounding such as `.rn` is missing"));
                }
                if !narrows && rounding.is_some() {
                    return Err(self.error("a conversion that loses nothing is not rounded"));
                }
                if integral.is_some() && f != t {
                    return Err(self.error("`.rni` and its like keep the type"));
                }
                let mode = integral.or(rounding).unwrap_or(Rounding::NearestEven);
                Cvt::FloatFloat {
                    from: f,
                    to: t,
                    mode,
                    integral: integral.is_some(),
                    saturate: satfinite,
                    fix,
                }
            }
        };
        self.alu(AluFn::Cvt(cvt), d, &[a], 0);
        Ok(())
    }

    fn cvt_pair(&mut self, to: CvtEnd, from: CvtEnd) -> Result<()> {
        let satfinite = self.mods.take("satfinite");
        let relu = self.mods.take("relu");
        let mode = self.explicit_rounding();
        let need_mode = || self.error("a rounding such as `.rn` is missing");
        let target = self.b.ctx.target;
        for end in [to, from] {
            match end {
                CvtEnd::Pair(Format::E4M3 | Format::E5M2, _) => {
                    self.require(target.at_least(89), "sm_89 or newer")?;
                }
                CvtEnd::Pair(Format::E2M1 | Format::E2M3 | Format::E3M2, _) | CvtEnd::Scales => {
                    self.require(
                        target.narrow_conversions(),
                        "an architecture- or family-specific target such as sm_121a",
                    )?;
                }
                _ => {}
            }
        }
        use Rounding::{NearestAway, NearestEven, TowardZero};
        let allowed: &[Rounding] = match to {
            CvtEnd::Tf32 if relu => &[NearestEven, TowardZero],
            CvtEnd::Tf32 => &[NearestAway, NearestEven, TowardZero],
            CvtEnd::Scales => &[TowardZero, Rounding::Up],
            CvtEnd::Pair(Format::F16 | Format::BF16, _) if from == CvtEnd::Scalar(Ty::F32) => {
                &[NearestEven, TowardZero]
            }
            _ => &[NearestEven],
        };
        if mode.is_some_and(|m| !allowed.contains(&m)) {
            return Err(self.error("this rounding does not go with these types"));
        }
        let widens = matches!(from, CvtEnd::Pair(f, _) if f.bits() <= 8) || from == CvtEnd::Scales;
        if widens && satfinite || relu && (to == CvtEnd::Scales || from == CvtEnd::Scales) {
            return Err(self.error("`.satfinite` or `.relu` does not go with these types"));
        }
        let mode = mode.ok_or_else(need_mode);
        match (to, from) {
            (CvtEnd::Tf32, CvtEnd::Scalar(Ty::F32)) => {
                if mode != Ok(NearestAway) {
                    self.require(target.at_least(90), "sm_90 or newer")?;
                }
                self.finish(2)?;
                let mode = mode?;
                let fix = Fix { relu, ..Fix::default() };
                let (d, a) = (self.dst(0, Ty::B32)?, self.src(1, Ty::F32)?);
                let cvt = Cvt::FloatFloat {
                    from: Format::F32,
                    to: Format::TF32,
                    mode,
                    integral: false,
                    saturate: satfinite,
                    fix,
                };
                self.alu(AluFn::Cvt(cvt), d, &[a], 0);
            }
            (CvtEnd::Pair(to, step), CvtEnd::Scalar(Ty::F32)) => {
                self.finish(3)?;
                let mode = mode?;
                let narrow = to.bits() <= 8;
                if narrow && !satfinite {
                    return Err(self.error("`.satfinite` is missing"));
                }
                let d = self.dst(0, pair_ty(to))?;
                let s = [self.src(1, Ty::F32)?, self.src(2, Ty::F32)?];
                let from = Format::F32;
                let cvt = Cvt::Join { from, to, step, mode, saturate: satfinite, relu };
                self.alu(AluFn::Cvt(cvt), d, &s, 0);
            }
            (CvtEnd::Pair(to, step), CvtEnd::Pair(from @ Format::F16, _)) if to.bits() <= 8 => {
                self.finish(2)?;
                let mode = mode?;
                if !satfinite {
                    return Err(self.error("`.satfinite` is missing"));
                }
                let (d, a) = (self.dst(0, pair_ty(to))?, self.src(1, Ty::B32)?);
                let cvt = Cvt::Narrow { from, to, step, mode, saturate: satfinite, relu };
                self.alu(AluFn::Cvt(cvt), d, &[a], 0);
            }
            (CvtEnd::Pair(Format::F16, _), CvtEnd::Pair(from, step)) if from.bits() <= 8 => {
                mode?;
                self.finish(2)?;
                let (d, a) = (self.dst(0, Ty::B32)?, self.src(1, pair_ty(from))?);
                let cvt = Cvt::Widen { from, to: Format::F16, step, relu };
                self.alu(AluFn::Cvt(cvt), d, &[a], 0);
            }
            (CvtEnd::Scales, CvtEnd::Scalar(Ty::F32)) => {
                self.finish(3)?;
                let up = mode? == Rounding::Up;
                let d = self.dst(0, Ty::B16)?;
                let s = [self.src(1, Ty::F32)?, self.src(2, Ty::F32)?];
                self.alu(AluFn::Cvt(Cvt::JoinScale { up, saturate: satfinite }), d, &s, 0);
            }
            (CvtEnd::Scales, CvtEnd::Pair(Format::BF16, _)) => {
                self.finish(2)?;
                let up = mode? == Rounding::Up;
                let (d, a) = (self.dst(0, Ty::B16)?, self.src(1, Ty::B32)?);
                self.alu(AluFn::Cvt(Cvt::NarrowScale { up, saturate: satfinite }), d, &[a], 0);
            }
            (CvtEnd::Pair(Format::BF16, _), CvtEnd::Scales) => {
                mode?;
                self.finish(2)?;
                let (d, a) = (self.dst(0, Ty::B32)?, self.src(1, Ty::B16)?);
                self.alu(AluFn::Cvt(Cvt::WidenScale), d, &[a], 0);
            }
            _ => return Err(self.error("there is no such conversion")),
        }
        Ok(())
    }
}

fn pair_ty(f: Format) -> Ty {
    match f.bits() {
        16 => Ty::B32,
        4 => Ty::B8,
        _ => Ty::B16,
    }
}

fn scalar(ty: Ty) -> Scalar {
    match ty {
        Ty::F16 => Scalar::Float(Format::F16),
        Ty::Bf16 => Scalar::Float(Format::BF16),
        Ty::F32 => Scalar::Float(Format::F32),
        Ty::F64 => Scalar::Float(Format::F64),
        ty => Scalar::Int { bits: ty.bits(), signed: ty.signed() },
    }
}
