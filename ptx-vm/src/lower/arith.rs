//! Arithmetic and moves.

use super::alu::{float, half, int, packed};
use super::decode::Decoder;
use super::ops::{AluFn, LaneFix, Op, Slot};
use super::special;
use crate::error::Result;
use crate::numeric::Rounding;
use crate::parse::ast::{Operand, Ty};

impl Decoder<'_, '_> {
    pub(super) fn arithmetic(&mut self) -> Result<()> {
        match self.raw.opcode.as_str() {
            "mov" => self.mov(),
            "setp" => self.setp(),
            "set" => self.set(),
            "testp" => self.testp(),
            "selp" => self.selp(),
            "slct" => self.slct(),
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

    pub(super) fn alu(&mut self, f: AluFn, d: Slot, sources: &[Slot], imm: u64) {
        self.fixed_alu(f, d, sources, imm, None, None);
    }

    pub(super) fn fixed_alu(
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
                let relu = if self.mods.take("relu") { ".relu" } else { "" };
                let f = packed::int16x2(&format!("{}{relu}", self.raw.opcode), ty.signed());
                self.finish_plain(f, ty, ty, None, None)
            }
            Ty::F32x2 => {
                self.require(self.b.ctx.target.at_least(100), "sm_100 or newer")?;
                self.only_nearest(&["add", "sub", "mul", "fma"])?;
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
        if !int::takes(&self.raw.opcode, ty) {
            return Err(self.error(format!("there is no such operation on {ty:?}")));
        }
        let f = int::find(&name, ty.signed(), ty.bits());
        if let ("div" | "rem", Some(AluFn::F2(f))) = (name.as_str(), f) {
            self.finish(3)?;
            let (d, a, b) = (self.dst(0, ty)?, self.src(1, ty)?, self.src(2, ty)?);
            self.emit(Op::Divide { f, d, a, b });
            return Ok(());
        }
        self.finish_plain(f, ty, to, None, None)
    }

    fn plain_f32(&mut self) -> Result<()> {
        let ftz = self.mods.take("ftz");
        let mut name = self.raw.opcode.clone();
        if name == "mad" {
            name = "fma".into();
        }
        let clamps = matches!(name.as_str(), "add" | "sub" | "mul" | "fma");
        let sat = clamps && self.mods.take("sat");
        if ftz && matches!(name.as_str(), "copysign" | "tanh") {
            return Err(self.error("`.ftz` does not go with this operation"));
        }
        for part in ["approx", "full", "NaN", "xorsign", "abs"] {
            if self.mods.take(part) {
                name.push('.');
                name.push_str(part);
            }
        }
        let rounding = self.explicit_rounding();
        if matches!(self.raw.opcode.as_str(), "min" | "max") && self.raw.operands.len() == 4 {
            self.require(self.b.ctx.target.at_least(100), "sm_100 or newer")?;
            name = format!("{name}.3");
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

    /// Takes `.rn`, which `fma` must have and these operations alone may.
    fn only_nearest(&mut self, may: &[&str]) -> Result<()> {
        let name = self.raw.opcode.as_str();
        match self.explicit_rounding() {
            None if name == "fma" => Err(self.error("the rounding `.rn` is missing")),
            None => Ok(()),
            Some(Rounding::NearestEven) if may.contains(&name) => Ok(()),
            Some(_) => Err(self.error("this operation has no rounding but `.rn`, if any")),
        }
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
        let rounding = self.explicit_rounding();
        let f = match name.as_str() {
            "fma" | "div" | "rcp" | "sqrt" if rounding.is_none() => {
                return Err(self.error("a rounding such as `.rn` is missing"));
            }
            _ if rounding == Some(Rounding::NearestAway) => {
                return Err(self.error("`.rna` is not a rounding of arithmetic"));
            }
            "add" | "sub" | "mul" | "fma" | "div" | "rcp" | "sqrt" => {
                float::rounded_f64(&name, rounding.unwrap_or(Rounding::NearestEven))
            }
            _ if rounding.is_some() => None,
            _ => float::plain_f64(&name),
        };
        self.finish_plain(f, Ty::F64, Ty::F64, None, None)
    }

    fn plain_half(&mut self, ty: Ty) -> Result<()> {
        let bf = matches!(ty, Ty::Bf16 | Ty::Bf16x2);
        let pair = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        let mut name = self.raw.opcode.clone();
        let rounds = ["add", "sub", "mul", "fma"];
        let ftz = self.mods.take("ftz");
        let sat = rounds.contains(&name.as_str()) && !bf && self.mods.take("sat");
        let relu = name == "fma" && self.mods.take("relu");
        for part in ["approx", "NaN", "xorsign", "abs"] {
            if self.mods.take(part) {
                name.push('.');
                name.push_str(part);
            }
        }
        self.only_nearest(&rounds)?;
        if bf
            && !matches!(
                name.as_str(),
                "fma" | "min" | "max" | "min.NaN" | "max.NaN" | "neg" | "abs"
            )
        {
            self.require(self.b.ctx.target.at_least(90), "sm_90 or newer")?;
        }
        let f = if bf { half::bf16(&name, pair) } else { half::f16(&name, pair) };
        if relu && sat {
            return Err(self.error("`.sat` and `.relu` do not go together"));
        }
        if bf && ftz != (name == "ex2.approx") {
            return Err(self.error("of bf16 operations, `ex2` alone has `.ftz`, and needs it"));
        }
        if ftz && !bf && name.ends_with(".approx") {
            return Err(self.error("f16 approximations have no `.ftz`"));
        }
        let flush = if bf { half::FLUSH_BF16 } else { half::FLUSH_F16 };
        let pre = ftz.then_some(flush);
        let post = match (ftz, relu, sat) {
            (_, true, _) if bf => Some(half::RELU_BF16),
            (false, true, _) => Some(half::RELU_F16),
            (true, true, _) => Some(half::FLUSH_RELU_F16),
            (false, _, true) => Some(half::SATURATE_F16),
            (true, _, true) => Some(half::FLUSH_SATURATE_F16),
            _ => pre,
        };
        self.finish_plain(f, ty, ty, pre, post)
    }

    pub(super) fn need_b32(&mut self) -> Result<()> {
        if self.mods.take("b32") { Ok(()) } else { Err(self.error("the type is b32")) }
    }

    fn prmt(&mut self) -> Result<()> {
        self.need_b32()?;
        let mode = self.mods.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]).unwrap_or("");
        self.finish_plain(int::prmt(mode), Ty::B32, Ty::B32, None, None)
    }

    fn lop3(&mut self) -> Result<()> {
        self.need_b32()?;
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
        if ![a, b].iter().all(|t| matches!(t, Ty::U32 | Ty::S32)) {
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
        let integer = matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64);
        let f = int::carry(&name, ty.signed(), ty.bits()).filter(|_| integer);
        let Some(f) = f else {
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
        if !plain(ty) && !matches!(ty, Ty::Pred | Ty::B128) {
            return Err(self.error(format!("there is no such move of {ty:?}")));
        }
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
        if ty == Ty::B128 {
            return self.mov_wide(to, from);
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
                let d = self.dst_of(to, ty)?;
                let a = self.src_of(from, ty)?;
                self.emit(Op::Mov { d, a });
            }
        }
        Ok(())
    }

    /// A 128-bit register is two slots: moves go by halves.
    fn mov_wide(&mut self, to: &Operand, from: &Operand) -> Result<()> {
        let (d, a) = match (to, from) {
            (Operand::Vector(parts), _) if parts.len() == 2 => {
                let a = self.wide(from)?;
                let d = [self.dst_of(&parts[0], Ty::B64)?, self.dst_of(&parts[1], Ty::B64)?];
                (d, a)
            }
            (_, Operand::Vector(parts)) if parts.len() == 2 => {
                let a = [self.src_of(&parts[0], Ty::B64)?, self.src_of(&parts[1], Ty::B64)?];
                (self.wide(to)?, a)
            }
            _ => (self.wide(to)?, self.wide(from)?),
        };
        for (d, a) in d.into_iter().zip(a) {
            self.emit(Op::Mov { d, a });
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
}

/// The types that moves and choices have: 16 to 64 bits, numbers or not.
pub(super) fn plain(ty: Ty) -> bool {
    matches!(ty, Ty::B16 | Ty::B32 | Ty::B64 | Ty::F32 | Ty::F64)
        || matches!(ty, Ty::U16 | Ty::U32 | Ty::U64 | Ty::S16 | Ty::S32 | Ty::S64)
}
