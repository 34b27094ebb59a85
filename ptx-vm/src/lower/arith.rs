//! Arithmetic, comparisons, moves and conversions.

use super::alu::convert::{Cvt, Fix, Scalar};
use super::alu::{compare, f3, float, half, int, packed};
use super::decode::Decoder;
use super::ops::{AluFn, BoolOp, CompareFn, LaneFix, Op, Pred, Slot};
use super::special;
use crate::error::Result;
use crate::numeric::native::{f, flush};
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

    fn need_b32(&mut self) -> Result<()> {
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

    /// The comparison, that of the high halves for packed types, and what flushes operands.
    fn comparison(&mut self, ty: Ty) -> Result<Comparison> {
        let ftz = self.mods.take("ftz");
        let Some(op) = self.mods.one_of(&[
            "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu",
            "gtu", "geu", "num", "nan",
        ]) else {
            return Err(self.error("a comparison such as `.lt` is missing"));
        };
        let halves = matches!(ty, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2);
        if !plain(ty) && !halves {
            return Err(self.error(format!("{ty:?} is not compared")));
        }
        let bits = matches!(ty, Ty::B16 | Ty::B32 | Ty::B64);
        let unsigned_only = matches!(op, "lo" | "ls" | "hi" | "hs");
        if bits && !matches!(op, "eq" | "ne") || unsigned_only && ty.signed() {
            return Err(self.error(format!("`.{op}` does not go with {ty:?}")));
        }
        let f = match ty {
            Ty::F32 => compare::f32(op),
            Ty::F64 => compare::f64(op),
            Ty::F16 | Ty::F16x2 => compare::f16(op, false),
            Ty::Bf16 | Ty::Bf16x2 => compare::bf16(op, false),
            _ => compare::int(op, ty.signed(), ty.bits()),
        };
        let high = match ty {
            Ty::F16x2 => compare::f16(op, true),
            Ty::Bf16x2 => compare::bf16(op, true),
            _ => None,
        };
        let pre = match ty {
            Ty::F32 if ftz => Some(float::FLUSH),
            Ty::F16 | Ty::F16x2 if ftz => Some(half::FLUSH_F16),
            _ if ftz => return Err(self.error("`.ftz` does not go with this type")),
            _ => None,
        };
        let f = f.ok_or_else(|| self.error(format!("`.{op}` does not go with {ty:?}")))?;
        Ok(Comparison { f, high, pre })
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
        let Comparison { f, high, pre } = self.comparison(ty)?;
        let combine = self.bool_op();
        self.finish(if combine.is_some() { 4 } else { 3 })?;
        let (d, second) = match self.operand(0)? {
            Operand::Pair(p, q) => (self.pred_dst_of(p)?, Some(self.pred_dst_of(q)?)),
            p => (self.pred_dst_of(p)?, None),
        };
        if high.is_some() && second.is_none() {
            return Err(self.error("two predicates `p|q` are expected"));
        }
        let (a, b) = (self.src(1, ty)?, self.src(2, ty)?);
        let combine = self.combined(combine)?;
        self.emit(Op::Setp { f, high, pre, d, second, a, b, combine });
        Ok(())
    }

    fn combined(&mut self, op: Option<BoolOp>) -> Result<Option<(BoolOp, Pred)>> {
        let Some(op) = op else { return Ok(None) };
        let operand = self.operand(3)?;
        Ok(Some((op, self.pred_of(operand)?)))
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
            Ty::F16 | Ty::F16x2 => 0x3c00,
            Ty::Bf16 | Ty::Bf16x2 => 0x3f80,
            _ => return Err(self.error("`set` to this type is not supported")),
        };
        let Comparison { f, high, pre } = self.comparison(ty)?;
        let pair = |ty| matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        let short = matches!(to, Ty::U16 | Ty::S16) && !matches!(ty, Ty::F16 | Ty::Bf16);
        let from_pair = pair(ty) && !pair(to) && !matches!(to, Ty::U32 | Ty::S32);
        if pair(to) && to != ty || short || from_pair {
            return Err(self.error("`set` from this type to the other is not supported"));
        }
        let combine = self.bool_op();
        self.finish(if combine.is_some() { 4 } else { 3 })?;
        let d = self.dst(0, to)?;
        let (a, b) = (self.src(1, ty)?, self.src(2, ty)?);
        let combine = self.combined(combine)?;
        // Of a pair, each half is a result of its own.
        let one = if high.is_some() { one & 0xffff } else { one };
        self.emit(Op::Set { f, high, pre, d, a, b, one, combine });
        Ok(())
    }

    fn testp(&mut self) -> Result<()> {
        let ty = self.ty()?;
        let kinds = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
        let f = self.mods.one_of(&kinds).and_then(|op| compare::test(op, ty == Ty::F64));
        let (Some(f), Ty::F32 | Ty::F64) = (f, ty) else {
            return Err(self.error(format!("a test of f32 or f64 is one of {}", kinds.join(", "))));
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
        if !plain(ty) {
            return Err(self.error("values of this type are not chosen"));
        }
        self.finish(4)?;
        let (d, a, b) = (self.dst(0, ty)?, self.src(1, ty)?, self.src(2, ty)?);
        let operand = self.operand(3)?;
        let p = self.pred_of(operand)?;
        self.emit(Op::Selp { d, a, b, p });
        Ok(())
    }

    /// The third source's sign chooses; NaN chooses the second.
    fn slct(&mut self) -> Result<()> {
        let by = self.ty()?;
        let ftz = self.mods.take("ftz");
        let f = match by {
            Ty::S32 if !ftz => f3!(|a, b, c| if c >> 31 & 1 == 0 { a } else { b }),
            Ty::F32 if ftz => f3!(|a, b, c| if f(flush(c)) >= 0.0 { a } else { b }),
            Ty::F32 => f3!(|a, b, c| if f(c) >= 0.0 { a } else { b }),
            _ => return Err(self.error("the choice is made by an s32 or an f32")),
        };
        let ty = self.ty()?;
        if !plain(ty) {
            return Err(self.error("values of this type are not chosen"));
        }
        self.finish(4)?;
        let (d, a, b) = (self.dst(0, ty)?, self.src(1, ty)?, self.src(2, ty)?);
        let c = self.src(3, by)?;
        self.alu(f, d, &[a, b, c], 0);
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

/// The types that moves and choices have: 16 to 64 bits, numbers or not.
fn plain(ty: Ty) -> bool {
    matches!(ty, Ty::B16 | Ty::B32 | Ty::B64 | Ty::F32 | Ty::F64)
        || matches!(ty, Ty::U16 | Ty::U32 | Ty::U64 | Ty::S16 | Ty::S32 | Ty::S64)
}

/// How two operands are compared.
struct Comparison {
    f: CompareFn,
    /// For pairs: the comparison of the high halves.
    high: Option<CompareFn>,
    pre: Option<LaneFix>,
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
                Ty::Pred | Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 | Ty::B128 => return None,
                Ty::U16x2 | Ty::S16x2 | Ty::F32x2 => return None,
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
