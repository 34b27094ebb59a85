//! `wgmma`, and `setmaxnreg`, which goes with it.

use super::decode::Decoder;
use super::mma::accumulator;
use super::ops::Op;
use crate::error::Result;
use crate::exec::wgmma::{ASource, WgmmaOp};
use crate::numeric::element::{Accumulator, Element};
use crate::parse::ast::{Operand, Ty};

impl Decoder<'_, '_> {
    pub(super) fn wgmma(&mut self) -> Result<()> {
        self.require(self.b.ctx.target.hopper_specific(), "exactly sm_90a")?;
        let what = self.mods.one_of(&["fence", "commit_group", "wait_group", "mma_async"]);
        self.need_sync()?;
        self.need("aligned")?;
        match what {
            Some("fence") => {
                self.finish(0)?;
                self.emit(Op::WgmmaFence);
            }
            Some("commit_group") => {
                self.finish(0)?;
                self.emit(Op::WgmmaCommit);
            }
            Some("wait_group") => {
                self.finish(1)?;
                let pending = self.group_count()?;
                self.emit(Op::WgmmaWait { pending });
            }
            Some(_) => return self.mma_async(),
            None => return Err(self.error("an operation is missing")),
        }
        Ok(())
    }

    fn mma_async(&mut self) -> Result<()> {
        if self.mods.take("sp") {
            return Err(self.error("sparse matrices are not supported"));
        }
        let Some((n, k)) = self.mods.find(shape) else {
            return Err(self.error("a shape `.m64n…k…` is missing"));
        };
        let (d, a, b) =
            (self.mods.find(accumulator), self.mods.find(element), self.mods.find(element));
        let (Some(d), Some(a), Some(b)) = (d, a, b) else {
            return Err(self.error("three types are expected: of D, A and B"));
        };
        let saturate = self.mods.take("satfinite");
        let legal = match (a, b) {
            (Element::F16, Element::F16) => k == 16 && d != Accumulator::S32,
            (Element::Bf16, Element::Bf16) => k == 16 && d == Accumulator::F32,
            (Element::Tf32, Element::Tf32) => k == 8 && d == Accumulator::F32,
            (Element::E4m3 | Element::E5m2, Element::E4m3 | Element::E5m2) => {
                k == 32 && d != Accumulator::S32
            }
            (Element::S8, Element::S8 | Element::U8) | (Element::U8, Element::S8 | Element::U8) => {
                k == 32 && d == Accumulator::S32 && (n <= 32 || n % 16 == 0)
            }
            _ => false,
        };
        if !legal || saturate && d != Accumulator::S32 {
            return Err(self.error("shape and types do not go together"));
        }
        let in_registers = matches!(self.operand(1)?, Operand::Vector(_));
        let wide = a.container_bits() == 16;
        let numbers = match (d, wide, in_registers) {
            (Accumulator::S32, _, _) => 0,
            (_, false, _) => 2,
            (_, true, true) => 3,
            (_, true, false) => 4,
        };
        self.finish(4 + numbers)?;
        let negate = |this: &Self, i: usize| match this.operand(i)? {
            Operand::Int(1) => Ok(false),
            Operand::Int(v) if *v == u64::MAX => Ok(true),
            _ => Err(this.error("a factor of A or B is 1 or -1")),
        };
        let flag = |this: &Self, i: usize| match this.operand(i)? {
            Operand::Int(v @ 0..=1) => Ok(*v == 1),
            _ => Err(this.error("a transposition is 0 or 1")),
        };
        let negate =
            if numbers > 0 { (negate(self, 4)?, negate(self, 5)?) } else { (false, false) };
        let (a_trans, b_trans) = match numbers {
            4 => (flag(self, 6)?, flag(self, 7)?),
            3 => (false, flag(self, 6)?),
            _ => (false, false),
        };
        let a_source = if in_registers {
            ASource::Registers(self.src_vector(1, 4, Ty::B32)?)
        } else {
            ASource::Shared { descriptor: self.src(1, Ty::B64)?, trans: a_trans }
        };
        let b_descriptor = self.src(2, Ty::B64)?;
        let scale_d = self.operand(3)?;
        let scale_d = self.pred_of(scale_d)?;
        let (registers, ty) = match d {
            Accumulator::F32 => (n / 2, Ty::F32),
            Accumulator::F16 => (n / 4, Ty::B32),
            Accumulator::S32 => (n / 2, Ty::S32),
        };
        let d_regs = self.dst_vector(0, registers as usize, ty)?;
        self.emit(Op::Wgmma(Box::new(WgmmaOp {
            n: n as usize,
            k: k as usize,
            a,
            b,
            d,
            saturate,
            d_regs,
            a_source,
            b_descriptor,
            b_trans,
            scale_d,
            negate,
        })));
        Ok(())
    }

    pub(super) fn setmaxnreg(&mut self) -> Result<()> {
        let target = self.b.ctx.target;
        let specific = target.hopper_specific() || target.narrow_conversions();
        self.require(specific, "an architecture-specific target such as sm_90a")?;
        let Some(what) = self.mods.one_of(&["inc", "dec"]) else {
            return Err(self.error("`.inc` or `.dec` is missing"));
        };
        for part in ["sync", "aligned", "u32"] {
            self.need(part)?;
        }
        self.finish(1)?;
        match *self.operand(0)? {
            Operand::Int(count @ 24..=256) if count % 8 == 0 => {
                self.emit(Op::SetMaxNreg { increase: what == "inc", count: count as u32 });
                Ok(())
            }
            _ => Err(self.error("the register count is a multiple of 8 from 24 to 256")),
        }
    }
}

/// `n` and `k` of a shape's name.
fn shape(m: &str) -> Option<(u32, u32)> {
    let (n, k) = m.strip_prefix("m64n")?.split_once('k')?;
    let (n, k) = (n.parse().ok()?, k.parse().ok()?);
    (n % 8 == 0 && (8..=256).contains(&n) && [8, 16, 32].contains(&k)).then_some((n, k))
}

fn element(m: &str) -> Option<Element> {
    Some(match m {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "e4m3" => Element::E4m3,
        "e5m2" => Element::E5m2,
        "s8" => Element::S8,
        "u8" => Element::U8,
        _ => return None,
    })
}
