//! Instructions in which the lanes of a warp work together.

use super::decode::Decoder;
use super::ops::{MatrixForm, Op, ReduxOp, ShflMode, VoteMode};
use crate::error::{Result, Space};
use crate::parse::ast::{Operand, Ty};

impl Decoder<'_, '_> {
    pub(super) fn warp(&mut self) -> Result<()> {
        match self.raw.opcode.as_str() {
            "shfl" => self.shfl(),
            "vote" => self.vote(),
            "match" => self.match_lanes(),
            "redux" => self.redux(),
            "activemask" => {
                self.mods.take("b32");
                self.finish(1)?;
                let d = self.dst(0, Ty::B32)?;
                self.emit(Op::ActiveMask { d });
                Ok(())
            }
            "elect" => {
                self.require(self.b.ctx.target.at_least(90), "sm_90 or newer")?;
                self.need_sync()?;
                self.finish(2)?;
                let Operand::Pair(d, p) = self.operand(0)? else {
                    return Err(self.error("a register and a predicate `d|p` are expected"));
                };
                let d = match d.as_ref() {
                    Operand::Name(n, None) if n == "_" => None,
                    d => Some(self.dst_of(d, Ty::B32)?),
                };
                let p = self.pred_dst_of(p)?;
                let mask = self.src(1, Ty::B32)?;
                self.emit(Op::Elect { d, p, mask });
                Ok(())
            }
            "movmatrix" => {
                self.need_sync()?;
                for part in ["aligned", "m8n8", "trans", "b16"] {
                    self.need(part)?;
                }
                self.finish(2)?;
                let (d, a) = (self.dst(0, Ty::B32)?, self.src(1, Ty::B32)?);
                self.emit(Op::MovMatrix { d, a });
                Ok(())
            }
            _ => self.matrix_memory(),
        }
    }

    pub(super) fn need_sync(&mut self) -> Result<()> {
        if self.mods.take("sync") {
            return Ok(());
        }
        Err(self.error("`.sync` is missing; targets from sm_70 on have no other form"))
    }

    fn shfl(&mut self) -> Result<()> {
        self.need_sync()?;
        let mode = match self.mods.one_of(&["up", "down", "bfly", "idx"]) {
            Some("up") => ShflMode::Up,
            Some("down") => ShflMode::Down,
            Some("bfly") => ShflMode::Bfly,
            Some(_) => ShflMode::Idx,
            None => return Err(self.error("a mode such as `.bfly` is missing")),
        };
        self.mods.take("b32");
        self.finish(5)?;
        let (d, p) = match self.operand(0)? {
            Operand::Pair(d, p) => (self.dst_of(d, Ty::B32)?, Some(self.pred_dst_of(p)?)),
            d => (self.dst_of(d, Ty::B32)?, None),
        };
        let a = self.src(1, Ty::B32)?;
        let b = self.src(2, Ty::B32)?;
        let c = self.src(3, Ty::B32)?;
        let mask = self.src(4, Ty::B32)?;
        self.emit(Op::Shfl { mode, d, p, a, b, c, mask });
        Ok(())
    }

    fn vote(&mut self) -> Result<()> {
        self.need_sync()?;
        let mode = match self.mods.one_of(&["all", "any", "uni", "ballot"]) {
            Some("all") => VoteMode::All,
            Some("any") => VoteMode::Any,
            Some("uni") => VoteMode::Uni,
            Some(_) => VoteMode::Ballot,
            None => return Err(self.error("a mode such as `.ballot` is missing")),
        };
        self.mods.take(if mode == VoteMode::Ballot { "b32" } else { "pred" });
        self.finish(3)?;
        let to = self.operand(0)?;
        let (d, pd) = if mode == VoteMode::Ballot {
            (self.dst_of(to, Ty::B32)?, self.b.pred_sink())
        } else {
            (self.b.sink(), self.pred_dst_of(to)?)
        };
        let from = self.operand(1)?;
        let a = self.pred_of(from)?;
        let mask = self.src(2, Ty::B32)?;
        self.emit(Op::Vote { mode, d, pd, a, mask });
        Ok(())
    }

    fn match_lanes(&mut self) -> Result<()> {
        self.need_sync()?;
        let all = match self.mods.one_of(&["all", "any"]) {
            Some(mode) => mode == "all",
            None => return Err(self.error("`.any` or `.all` is missing")),
        };
        let ty = self.ty()?;
        if !matches!(ty, Ty::B32 | Ty::B64) {
            return Err(self.error("the type is b32 or b64"));
        }
        self.finish(3)?;
        let (d, p) = match self.operand(0)? {
            Operand::Pair(d, p) if all => (self.dst_of(d, Ty::B32)?, Some(self.pred_dst_of(p)?)),
            d => (self.dst_of(d, Ty::B32)?, None),
        };
        let a = self.src(1, ty)?;
        let mask = self.src(2, Ty::B32)?;
        self.emit(Op::Match { all, d, p, a, mask });
        Ok(())
    }

    fn redux(&mut self) -> Result<()> {
        self.require(self.b.ctx.target.at_least(80), "sm_80 or newer")?;
        self.need_sync()?;
        let name = self.mods.one_of(&["add", "min", "max", "and", "or", "xor"]);
        let abs = self.mods.take("abs");
        let nan = self.mods.take("NaN");
        let ty = self.ty()?;
        let op = match (name, ty) {
            (Some("add"), Ty::U32 | Ty::S32) => ReduxOp::Add,
            (Some("min"), Ty::S32) => ReduxOp::MinS,
            (Some("max"), Ty::S32) => ReduxOp::MaxS,
            (Some("min"), Ty::U32) => ReduxOp::MinU,
            (Some("max"), Ty::U32) => ReduxOp::MaxU,
            (Some("and"), Ty::B32) => ReduxOp::And,
            (Some("or"), Ty::B32) => ReduxOp::Or,
            (Some("xor"), Ty::B32) => ReduxOp::Xor,
            (Some("min"), Ty::F32) => ReduxOp::MinF { abs, nan },
            (Some("max"), Ty::F32) => ReduxOp::MaxF { abs, nan },
            _ => {
                return Err(self.error(
                    "there is no such reduction: add takes u32 and s32; min and max these and f32; \
                     and, or and xor b32",
                ));
            }
        };
        if ty == Ty::F32 {
            let t = self.b.ctx.target;
            let has = t.narrow_conversions() && t.number() < 110;
            self.require(has, "sm_100a")?;
        } else if abs || nan {
            return Err(self.error("`.abs` and `.NaN` go with f32 only"));
        }
        self.finish(3)?;
        let (d, a, mask) = (self.dst(0, ty)?, self.src(1, ty)?, self.src(2, Ty::B32)?);
        self.emit(Op::Redux { op, d, a, mask });
        Ok(())
    }

    fn matrix_memory(&mut self) -> Result<()> {
        let load = self.raw.opcode == "ldmatrix";
        let target = self.b.ctx.target;
        self.need_sync()?;
        self.need("aligned")?;
        let trans = self.mods.take("trans");
        let shape = self.mods.one_of(&["m8n8", "m16n16", "m16n8", "m8n16"]);
        let count = match self.mods.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return Err(self.error("a count `.x1`, `.x2` or `.x4` is missing")),
        };
        let space = self.mods.find(super::memory::space).unwrap_or(Space::Generic);
        let ty = self.mods.one_of(&["b16", "b8"]);
        let form = match (shape, ty) {
            (Some("m8n8"), Some("b16")) => MatrixForm::M8N8B16,
            (Some("m16n16"), Some("b8")) if load && trans && count <= 2 => MatrixForm::M16N16B8,
            (Some("m16n8"), Some("b8")) if !load && trans => MatrixForm::M16N8B8,
            _ => return Err(self.error("there is no such shape, type and count together")),
        };
        if form == MatrixForm::M8N8B16 {
            let (min, needs) = if load { (75, "sm_75 or newer") } else { (90, "sm_90 or newer") };
            self.require(target.at_least(min), needs)?;
        } else {
            self.require(
                target.narrow_conversions(),
                "an architecture- or family-specific target such as sm_121a",
            )?;
        }
        self.finish(2)?;
        let regs = if form == MatrixForm::M16N16B8 { 2 * count } else { count };
        if load {
            let d = self.dst_vector(0, regs, Ty::B32)?;
            let addr = self.addr(1)?;
            self.emit(Op::LdMatrix { d, addr, space, trans, form });
        } else {
            let addr = self.addr(0)?;
            let s = self.src_vector(1, regs, Ty::B32)?;
            self.emit(Op::StMatrix { s, addr, space, trans, form });
        }
        Ok(())
    }
}
