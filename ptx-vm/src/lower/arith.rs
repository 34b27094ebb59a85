//! Arithmetic, comparisons, moves and conversions.

use super::alu::convert::{Cvt, Fix, Scalar};
use super::alu::{compare, float, half, int, packed};
use super::decode::Decoder;
use super::ops::{AluFn, BoolOp, CompareFn, LaneFix, Op, Pred, Slot};
use super::special;
use crate::error::Result;
use crate::numeric::{Format, Rounding};
use crate::parse::ast::{Operand, Ty};

impl Decoder<'_, '_> {
    pub(super) fn arithmetic(&mut self) -> Result<()> {
        match self.raw.opcode.as_str() {
            "mov" => self.mov(),
            "setp" => self.setp(),
            "set" => self.set(),
            "testp" => self.testp(),
            "selp" => self.selp(),
            "slct" => Err(self.error("`slct` is not supported; compilers emit `selp`")),
            "cvt" => self.cvt(),
            "and" | "or" | "xor" | "not" if self.raw.mods == ["pred"] => self.pred_logic(),
            "prmt" => self.prmt(),
            "lop3" => self.lop3(),
            "dp4a" | "dp2a" => self.dot(),
            "addc" | "subc" | "madc" => self.carry(),
            "add" | "sub" | "mad" if self.raw.mods.iter().any(|m| m == "cc") => self.carry(),
            _ => self.plain(),
        }
    }

    fn alu(&mut self, f: AluFn, d: Slot, sources: &[Slot], imm: u64) {
        self.fixed_alu(f, d, sources, imm, None, None);
    }

    fn fixed_alu(
        &mut self,
        f: AluFn,
        d: Slot,
        sources: &[Slot],
        imm: u64,
        pre: Option<LaneFix>,
        post: Option<LaneFix>,
    ) {
        let mut s = [sources.first().copied().unwrap_or(0); 4];
        s[..sources.len()].copy_from_slice(sources);
        self.emit(Op::Alu { f, d, s, imm, pre, post });
    }

    /// Instructions that are a lane function of one type.
    fn plain(&mut self) -> Result<()> {
        let ty = self.ty()?;
        match ty {
            Ty::F32 => self.plain_f32(),
            Ty::F64 => self.plain_f64(),
            Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 => self.plain_half(ty),
            Ty::U16x2 | Ty::S16x2 => {
                self.require(self.b.ctx.target.at_least(90), "sm_90 or newer")?;
                let f = packed::int16x2(&self.raw.opcode, ty.signed());
                self.finish_plain(f, ty, ty, None, None)
            }
            Ty::F32x2 => {
                self.require(self.b.ctx.target.at_least(100), "sm_100 or newer")?;
                if self.explicit_rounding().is_some_and(|r| r != Rounding::NearestEven) {
                    return Err(self.error("only `.rn` is supported on f32x2"));
                }
                self.finish_plain(packed::f32x2(&self.raw.opcode), ty, ty, None, None)
            }
            _ => self.plain_int(ty),
        }
    }

    fn finish_plain(
        &mut self,
        f: Option<AluFn>,
        ty: Ty,
        to: Ty,
        pre: Option<LaneFix>,
        post: Option<LaneFix>,
    ) -> Result<()> {
        let Some(f) = f else {
            return Err(self.error(format!("there is no such operation on {ty:?}")));
        };
        let n = match f {
            AluFn::F1(_) => 1,
            AluFn::F2(_) => 2,
            AluFn::F4(_) => 4,
            _ => 3,
        };
        self.finish(n + 1)?;
        let d = self.dst(0, to)?;
        let mut sources = Vec::new();
        for i in 1..=n {
            // The addend of a widening multiply has the width of the result; shift amounts
            // and field positions have 32 bits whatever the type.
            let wanted = match self.raw.opcode.as_str() {
                "shl" | "shr" if i == 2 => Ty::U32,
                "bfe" if i > 1 => Ty::U32,
                "bfi" if i > 2 => Ty::U32,
                "mad" if i == 3 => to,
                _ => ty,
            };
            sources.push(self.src(i, wanted)?);
        }
        self.fixed_alu(f, d, &sources, 0, pre, post);
        Ok(())
    }

    fn plain_int(&mut self, ty: Ty) -> Result<()> {
        let mut name = self.raw.opcode.clone();
        let mut to = ty;
        for part in ["l", "r", "lo", "hi", "wide", "sat", "relu", "shiftamt", "clamp", "wrap"] {
            if self.mods.take(part) {
                name.push('.');
                name.push_str(part);
            }
        }
        if name.ends_with(".wide") {
            to = match ty {
                Ty::U16 => Ty::U32,
                Ty::S16 => Ty::S32,
                Ty::U32 => Ty::U64,
                Ty::S32 => Ty::S64,
                _ => return Err(self.error("`.wide` needs 16- or 32-bit operands")),
            };
        }
        if matches!(self.raw.opcode.as_str(), "popc" | "clz" | "bfind") {
            to = Ty::U32;
        }
        let f = int::find(&name, ty.signed(), ty.bits());
        self.finish_plain(f, ty, to, None, None)
    }

    fn plain_f32(&mut self) -> Result<()> {
        let ftz = self.mods.take("ftz");
        let sat = self.mods.take("sat");
        let mut name = self.raw.opcode.clone();
        if name == "mad" {
            name = "fma".into();
        }
        for part in ["approx", "full", "NaN", "xorsign", "abs"] {
            if self.mods.take(part) {
                name.push('.');
                name.push_str(part);
            }
        }
        let rounding = self.explicit_rounding();
        if matches!(name.as_str(), "min" | "max") && self.raw.operands.len() == 4 {
            self.require(self.b.ctx.target.at_least(100), "sm_100 or newer")?;
            name.push('3');
        }
        let rounded =
            matches!(name.as_str(), "add" | "sub" | "mul" | "fma" | "div" | "rcp" | "sqrt");
        let f = if rounded {
            let needs = matches!(name.as_str(), "fma" | "div" | "rcp" | "sqrt");
            if needs && rounding.is_none() {
                return Err(self.error("a rounding such as `.rn` is missing"));
            }
            if rounding == Some(Rounding::NearestAway) {
                return Err(self.error("`.rna` is not a rounding of arithmetic"));
            }
            float::rounded_f32(&name, rounding.unwrap_or(Rounding::NearestEven))
        } else if rounding.is_some() {
            None
        } else {
            float::plain_f32(&name)
        };
        let pre = ftz.then_some(float::FLUSH);
        let post = match (ftz, sat) {
            (true, true) => Some(float::FLUSH_SATURATE),
            (true, false) => Some(float::FLUSH),
            (false, true) => Some(float::SATURATE),
            (false, false) => None,
        };
        self.finish_plain(f, Ty::F32, Ty::F32, pre, post)
    }

    fn plain_f64(&mut self) -> Result<()> {
        let mut name = self.raw.opcode.clone();
        if name == "mad" {
            name = "fma".into();
        }
        for part in ["approx", "ftz"] {
            if self.mods.take(part) {
                name.push('.');
                name.push_str(part);
            }
        }
        if self.explicit_rounding().is_some_and(|r| r != Rounding::NearestEven) {
            return Err(self.error("f64 arithmetic rounds with `.rn` only here"));
        }
        self.finish_plain(float::f64(&name), Ty::F64, Ty::F64, None, None)
    }

    fn plain_half(&mut self, ty: Ty) -> Result<()> {
        let bf = matches!(ty, Ty::Bf16 | Ty::Bf16x2);
        let pair = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        let ftz = self.mods.take("ftz");
        let sat = self.mods.take("sat");
        let relu = self.mods.take("relu");
        let mut name = self.raw.opcode.clone();
        for part in ["approx", "NaN"] {
            if self.mods.take(part) {
                name.push('.');
                name.push_str(part);
            }
        }
        if self.explicit_rounding().is_some_and(|r| r != Rounding::NearestEven) {
            return Err(self.error("half-precision arithmetic rounds with `.rn` only"));
        }
        if bf
            && !matches!(
                name.as_str(),
                "fma" | "min" | "max" | "min.NaN" | "max.NaN" | "neg" | "abs"
            )
        {
            self.require(self.b.ctx.target.at_least(90), "sm_90 or newer")?;
        }
        let f = if bf { half::bf16(&name, pair) } else { half::f16(&name, pair) };
        let f16_mix = relu && (sat || ftz);
        if bf && sat || !bf && f16_mix {
            return Err(self.error("this combination of modifiers is not supported"));
        }
        // bf16's exponent range is f32's: `.ftz` there flushes the f32 way, which `ex2` has.
        let pre = (ftz && !bf).then_some(half::FLUSH_F16);
        let post = if relu {
            Some(half::relu(bf))
        } else if sat {
            Some(half::SATURATE_F16)
        } else if ftz && !bf {
            Some(half::FLUSH_F16)
        } else {
            None
        };
        self.finish_plain(f, ty, ty, pre, post)
    }

    fn prmt(&mut self) -> Result<()> {
        self.mods.take("b32");
        let mode = self.mods.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]).unwrap_or("");
        self.finish_plain(int::prmt(mode), Ty::B32, Ty::B32, None, None)
    }

    fn lop3(&mut self) -> Result<()> {
        self.mods.take("b32");
        self.finish(5)?;
        let Operand::Int(table @ 0..=255) = *self.operand(4)? else {
            return Err(self.error("the table of `lop3` is a number from 0 to 255"));
        };
        let d = self.dst(0, Ty::B32)?;
        let s = [self.src(1, Ty::B32)?, self.src(2, Ty::B32)?, self.src(3, Ty::B32)?];
        let Some(f) = int::find("lop3", false, 32) else { return Ok(()) };
        self.alu(f, d, &s, table);
        Ok(())
    }

    fn dot(&mut self) -> Result<()> {
        let half = (self.raw.opcode == "dp2a").then(|| self.mods.take("hi"));
        if half == Some(false) && !self.mods.take("lo") {
            return Err(self.error("`dp2a` needs `.lo` or `.hi`"));
        }
        let (Some(a), Some(b)) = (self.mods.find(Ty::parse), self.mods.find(Ty::parse)) else {
            return Err(self.error("two types are expected"));
        };
        if a.bits() != 32 || b.bits() != 32 || a.float() || b.float() {
            return Err(self.error("the types are u32 or s32"));
        }
        let f = int::dot(half, a.signed(), b.signed());
        self.finish_plain(Some(f), Ty::B32, Ty::B32, None, None)
    }

    fn carry(&mut self) -> Result<()> {
        let op = self.raw.opcode.as_str();
        let ty = self.ty()?;
        let writes = self.mods.take("cc");
        let (mut name, reads) = match op {
            "addc" | "subc" | "madc" => (op[..3].to_string(), true),
            _ => (op.to_string(), false),
        };
        for part in ["lo", "hi"] {
            if self.mods.take(part) {
                name.push('.');
                name.push_str(part);
            }
        }
        let Some(f) = int::carry(&name, ty.signed(), ty.bits()) else {
            return Err(self.error("there is no such carry arithmetic"));
        };
        let n = if name.starts_with("mad") { 3 } else { 2 };
        self.finish(n + 1)?;
        let d = self.dst(0, ty)?;
        let mut s = [self.src(1, ty)?; 3];
        for (i, slot) in s.iter_mut().enumerate().take(n) {
            *slot = self.src(i + 1, ty)?;
        }
        self.emit(Op::Carry { f, d, s, reads, writes });
        Ok(())
    }

    fn mov(&mut self) -> Result<()> {
        let ty = self.ty()?;
        self.finish(2)?;
        let (to, from) = (self.operand(0)?, self.operand(1)?);
        if ty == Ty::Pred {
            let d = self.pred_dst_of(to)?;
            if let Operand::Int(v) = from {
                self.emit(Op::ConstPred { d, value: *v != 0 });
            } else {
                let a = self.pred_of(from)?;
                self.emit(Op::MovPred { d, a });
            }
            return Ok(());
        }
        match (to, from) {
            (Operand::Vector(parts), _) => {
                let n = parts.len() as u32;
                if n != 2 && n != 4 {
                    return Err(self.error("a register is taken apart in 2 or 4 parts"));
                }
                let part = self.part_ty(ty, n)?;
                let a = self.src_of(from, ty)?;
                let mut slots = Vec::new();
                for p in parts {
                    slots.push(match p {
                        Operand::Name(name, None) if name == "_" => None,
                        p => Some(self.dst_of(p, part)?),
                    });
                }
                self.emit(Op::Unpack { parts: slots, a, bits: part.bits() });
            }
            (_, Operand::Vector(parts)) => {
                let n = parts.len() as u32;
                if n != 2 && n != 4 {
                    return Err(self.error("a register is put together from 2 or 4 parts"));
                }
                let part = self.part_ty(ty, n)?;
                let d = self.dst_of(to, ty)?;
                let parts =
                    parts.iter().map(|p| self.src_of(p, part)).collect::<Result<Vec<_>>>()?;
                self.emit(Op::Pack { d, parts, bits: part.bits() });
            }
            (_, Operand::Name(name, None)) if special::clock(name).is_some() => {
                let d = self.dst_of(to, ty)?;
                if let Some(clock) = special::clock(name) {
                    self.emit(Op::ReadClock { d, clock });
                }
            }
            _ => {
                if ty == Ty::B128 {
                    return Err(self.error("128-bit registers are not supported"));
                }
                let d = self.dst_of(to, ty)?;
                let a = self.src_of(from, ty)?;
                self.emit(Op::Mov { d, a });
            }
        }
        Ok(())
    }

    fn part_ty(&self, ty: Ty, n: u32) -> Result<Ty> {
        match ty.bits() / n {
            8 => Ok(Ty::B8),
            16 => Ok(Ty::B16),
            32 if ty.bits() == 64 => Ok(Ty::B32),
            _ => Err(self.error(format!("{n} parts of {} bits are not supported", ty.bits() / n))),
        }
    }

    fn comparison(&mut self, ty: Ty) -> Result<(CompareFn, Option<LaneFix>)> {
        let ftz = self.mods.take("ftz");
        let Some(op) = self.mods.one_of(&[
            "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu",
            "gtu", "geu", "num", "nan",
        ]) else {
            return Err(self.error("a comparison such as `.lt` is missing"));
        };
        let f = match ty {
            Ty::F32 => compare::f32(op),
            Ty::F64 => compare::f64(op),
            Ty::F16 => compare::f16(op, false),
            Ty::Bf16 => compare::bf16(op, false),
            _ => compare::int(op, ty.signed(), ty.bits()),
        };
        let pre = match ty {
            Ty::F32 if ftz => Some(float::FLUSH),
            Ty::F16 if ftz => Some(half::FLUSH_F16),
            _ if ftz => return Err(self.error("`.ftz` does not go with this type")),
            _ => None,
        };
        f.map(|f| (f, pre)).ok_or_else(|| self.error(format!("`.{op}` does not go with {ty:?}")))
    }

    fn bool_op(&mut self) -> Option<BoolOp> {
        self.mods.find(|m| {
            Some(match m {
                "and" => BoolOp::And,
                "or" => BoolOp::Or,
                "xor" => BoolOp::Xor,
                _ => return None,
            })
        })
    }

    fn setp(&mut self) -> Result<()> {
        let ty = self.ty()?;
        if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
            return self.setp_pair(ty);
        }
        let (f, pre) = self.comparison(ty)?;
        let combine = self.bool_op();
        self.finish(if combine.is_some() { 4 } else { 3 })?;
        let (d, not_d) = match self.operand(0)? {
            Operand::Pair(p, q) => (self.pred_dst_of(p)?, Some(self.pred_dst_of(q)?)),
            p => (self.pred_dst_of(p)?, None),
        };
        let (a, b) = (self.src(1, ty)?, self.src(2, ty)?);
        let combine = self.combined(combine)?;
        self.emit(Op::Setp { f, pre, d, not_d, a, b, combine });
        Ok(())
    }

    fn combined(&mut self, op: Option<BoolOp>) -> Result<Option<(BoolOp, Pred)>> {
        let Some(op) = op else { return Ok(None) };
        let operand = self.operand(3)?;
        Ok(Some((op, self.pred_of(operand)?)))
    }

    fn setp_pair(&mut self, ty: Ty) -> Result<()> {
        let Some(op) = self.mods.one_of(&[
            "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num",
            "nan",
        ]) else {
            return Err(self.error("a comparison such as `.lt` is missing"));
        };
        let get = if ty == Ty::F16x2 { compare::f16 } else { compare::bf16 };
        let (Some(low), Some(high)) = (get(op, false), get(op, true)) else {
            return Err(self.error("there is no such comparison"));
        };
        self.finish(3)?;
        let Operand::Pair(p, q) = self.operand(0)? else {
            return Err(self.error("two predicates `p|q` are expected"));
        };
        let (d, e) = (self.pred_dst_of(p)?, self.pred_dst_of(q)?);
        let (a, b) = (self.src(1, ty)?, self.src(2, ty)?);
        self.emit(Op::SetpPair { low, high, d, e, a, b });
        Ok(())
    }

    fn set(&mut self) -> Result<()> {
        let Some(to) = self.mods.find(Ty::parse) else {
            return Err(self.error("a destination type is missing"));
        };
        let ty = self.ty()?;
        let one = match to {
            Ty::U32 | Ty::S32 => 0xffff_ffff,
            Ty::F32 => u64::from(1f32.to_bits()),
            Ty::U16 | Ty::S16 => 0xffff,
            Ty::F16 => 0x3c00,
            Ty::Bf16 => 0x3f80,
            _ => return Err(self.error("`set` to this type is not supported")),
        };
        let (f, pre) = self.comparison(ty)?;
        let combine = self.bool_op();
        self.finish(if combine.is_some() { 4 } else { 3 })?;
        let d = self.dst(0, to)?;
        let (a, b) = (self.src(1, ty)?, self.src(2, ty)?);
        let combine = self.combined(combine)?;
        self.emit(Op::Set { f, pre, d, a, b, one, combine });
        Ok(())
    }

    fn testp(&mut self) -> Result<()> {
        let ty = self.ty()?;
        let kinds = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
        let f = self.mods.one_of(&kinds).and_then(|op| compare::test(op, ty == Ty::F64));
        let (Some(f), Ty::F32 | Ty::F64) = (f, ty) else {
            return Err(self.error("there is no such test"));
        };
        self.finish(2)?;
        let operand = self.operand(0)?;
        let d = self.pred_dst_of(operand)?;
        let a = self.src(1, ty)?;
        self.emit(Op::Test { f, d, a });
        Ok(())
    }

    fn selp(&mut self) -> Result<()> {
        let ty = self.ty()?;
        self.finish(4)?;
        let (d, a, b) = (self.dst(0, ty)?, self.src(1, ty)?, self.src(2, ty)?);
        let operand = self.operand(3)?;
        let p = self.pred_of(operand)?;
        self.emit(Op::Selp { d, a, b, p });
        Ok(())
    }

    fn pred_logic(&mut self) -> Result<()> {
        self.mods.take("pred");
        let first = self.operand(0)?;
        let d = self.pred_dst_of(first)?;
        let second = self.operand(1)?;
        let a = self.pred_of(second)?;
        let op = match self.raw.opcode.as_str() {
            "not" => {
                self.finish(2)?;
                self.emit(Op::NotPred { d, a });
                return Ok(());
            }
            "and" => BoolOp::And,
            "or" => BoolOp::Or,
            _ => BoolOp::Xor,
        };
        self.finish(3)?;
        let third = self.operand(2)?;
        let b = self.pred_of(third)?;
        self.emit(Op::LogicPred { op, d, a, b });
        Ok(())
    }

    fn cvt(&mut self) -> Result<()> {
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
        if to.bits() > 16 || to.float() || (to.bits() == 8) != third {
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
        let cvt = match (scalar(from), scalar(to)) {
            (Scalar::Int { bits, signed }, Scalar::Int { bits: tb, signed: ts }) => {
                if integral.or(rounding).is_some() || flush || relu || satfinite {
                    return Err(self.error("integers are not rounded"));
                }
                Cvt::IntInt { from: (bits, signed), to: (tb, ts), register, saturate: sat }
            }
            (Scalar::Int { bits, signed }, Scalar::Float(to)) => {
                let Some(mode) = rounding else {
                    return Err(self.error("a rounding such as `.rn` is missing"));
                };
                Cvt::IntFloat { from: (bits, signed), to, mode, fix }
            }
            (Scalar::Float(from), Scalar::Int { bits, signed }) => {
                let Some(mode) = integral else {
                    return Err(self.error("a rounding such as `.rzi` is missing"));
                };
                Cvt::FloatInt { from, to: (bits, signed), register, mode, flush }
            }
            (Scalar::Float(f), Scalar::Float(t)) => {
                let narrows =
                    t.mantissa_bits < f.mantissa_bits || t == Format::BF16 && f == Format::F16;
                if narrows && rounding.is_none() {
                    return Err(self.error("a rounding such as `.rn` is missing"));
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
        match (to, from) {
            (CvtEnd::Tf32, CvtEnd::Scalar(Ty::F32)) => {
                self.finish(2)?;
                let mode = mode.ok_or_else(need_mode)?;
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
                let mode = mode.ok_or_else(need_mode)?;
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
            (CvtEnd::Pair(to, step), CvtEnd::Pair(from, 16)) if to.bits() <= 8 => {
                self.finish(2)?;
                let mode = mode.ok_or_else(need_mode)?;
                if !satfinite {
                    return Err(self.error("`.satfinite` is missing"));
                }
                let (d, a) = (self.dst(0, pair_ty(to))?, self.src(1, Ty::B32)?);
                let cvt = Cvt::Narrow { from, to, step, mode, saturate: satfinite, relu };
                self.alu(AluFn::Cvt(cvt), d, &[a], 0);
            }
            (CvtEnd::Pair(Format::F16, _), CvtEnd::Pair(from, step)) if from.bits() <= 8 => {
                self.finish(2)?;
                let (d, a) = (self.dst(0, Ty::B32)?, self.src(1, pair_ty(from))?);
                let cvt = Cvt::Widen { from, to: Format::F16, step, relu };
                self.alu(AluFn::Cvt(cvt), d, &[a], 0);
            }
            (CvtEnd::Scales, CvtEnd::Scalar(Ty::F32)) => {
                self.finish(3)?;
                let up = match mode {
                    Some(Rounding::Up) => true,
                    Some(Rounding::TowardZero) => false,
                    _ => return Err(self.error("scales are rounded with `.rz` or `.rp`")),
                };
                let d = self.dst(0, Ty::B16)?;
                let s = [self.src(1, Ty::F32)?, self.src(2, Ty::F32)?];
                self.alu(AluFn::Cvt(Cvt::JoinScale { up, saturate: satfinite }), d, &s, 0);
            }
            (CvtEnd::Pair(Format::BF16, _), CvtEnd::Scales) => {
                self.finish(2)?;
                let (d, a) = (self.dst(0, Ty::B32)?, self.src(1, Ty::B16)?);
                self.alu(AluFn::Cvt(Cvt::WidenScale), d, &[a], 0);
            }
            _ => return Err(self.error("there is no such conversion")),
        }
        Ok(())
    }
}

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
                Ty::Pred | Ty::B128 | Ty::U16x2 | Ty::S16x2 | Ty::F32x2 => return None,
                ty => CvtEnd::Scalar(ty),
            },
        })
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
