//! Comparisons, and choices by them.

use super::alu::{compare, f3, float, half};
use super::arith::plain;
use super::decode::Decoder;
use super::ops::{BoolOp, CompareFn, LaneFix, Op, Pred};
use crate::error::Result;
use crate::numeric::native::{f, flush};
use crate::parse::ast::{Operand, Ty};

/// How two operands are compared.
struct Comparison {
    f: CompareFn,
    /// For pairs: the comparison of the high halves.
    high: Option<CompareFn>,
    pre: Option<LaneFix>,
}

impl Decoder<'_, '_> {
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

    pub(super) fn setp(&mut self) -> Result<()> {
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

    pub(super) fn set(&mut self) -> Result<()> {
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

    pub(super) fn testp(&mut self) -> Result<()> {
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

    pub(super) fn selp(&mut self) -> Result<()> {
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
    pub(super) fn slct(&mut self) -> Result<()> {
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

    pub(super) fn pred_logic(&mut self) -> Result<()> {
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
}
