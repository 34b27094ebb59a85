//! `cp.async`, bulk copies and `mbarrier`.

use super::decode::Decoder;
use super::ops::{Access, MbarOp, Op, Order};
use crate::error::{Result, Space};
use crate::exec::bulk::{BulkKind, BulkOp};
use crate::parse::ast::{Operand, Ty};

impl Decoder<'_, '_> {
    pub(super) fn async_copy(&mut self) -> Result<()> {
        if self.raw.opcode == "mbarrier" {
            return self.mbarrier();
        }
        if !self.mods.take("async") {
            return Err(self.error("only `cp.async` is known"));
        }
        self.require(self.b.ctx.target.at_least(80), "sm_80 or newer")?;
        if self.mods.take("bulk") {
            return self.bulk();
        }
        if self.mods.take("commit_group") {
            self.finish(0)?;
            self.emit(Op::CpAsyncCommit);
            return Ok(());
        }
        if self.mods.take("wait_all") {
            self.finish(0)?;
            self.emit(Op::CpAsyncWait { pending: None });
            return Ok(());
        }
        if self.mods.take("wait_group") {
            self.finish(1)?;
            let pending = Some(self.group_count()?);
            self.emit(Op::CpAsyncWait { pending });
            return Ok(());
        }
        if self.mods.take("mbarrier") {
            self.mods.take("arrive");
            let noinc = self.mods.take("noinc");
            self.mods.take("b64");
            let space = self.mods.find(super::memory::space).unwrap_or(Space::Generic);
            self.finish(1)?;
            let addr = self.addr(0)?;
            self.emit(Op::Mbarrier { op: MbarOp::CopyArrive { noinc }, addr, space });
            return Ok(());
        }
        self.cp_async()
    }

    pub(super) fn group_count(&self) -> Result<u32> {
        match self.operand(0)? {
            Operand::Int(n) if *n < 1 << 16 => Ok(*n as u32),
            _ => Err(self.error("a small number of groups is expected")),
        }
    }

    fn cp_async(&mut self) -> Result<()> {
        let level = self.mods.one_of(&["ca", "cg"]);
        let to = self.mods.find(super::memory::space);
        let from = self.mods.find(super::memory::space);
        let hint = self.mods.take("L2::cache_hint");
        self.cache_hints();
        let (Some(level), Some(Space::Shared), Some(src_space @ Space::Global)) = (level, to, from)
        else {
            return Err(self.error("`cp.async` copies from global to shared memory"));
        };
        let n = self.raw.operands.len();
        let fixed = 3 + usize::from(hint);
        if n != fixed && n != fixed + 1 {
            return Err(self.error("addresses and a size are expected"));
        }
        self.finish(n)?;
        let bytes = match *self.operand(2)? {
            Operand::Int(16) => 16,
            Operand::Int(b @ (4 | 8)) if level == "ca" => b as u32,
            _ => return Err(self.error("the size is 4, 8 or 16 (only 16 with `.cg`)")),
        };
        let (mut src_bytes, mut ignore) = (None, None);
        if n == fixed + 1 {
            let operand = self.operand(3)?;
            match operand {
                Operand::Name(name, None) if self.b.pred(name).is_some() => {
                    ignore = Some(self.pred_of(operand)?);
                }
                Operand::Not(_) => ignore = Some(self.pred_of(operand)?),
                _ => src_bytes = Some(self.src_of(operand, Ty::U32)?),
            }
        }
        let (dst, src) = (self.addr(0)?, self.addr(1)?);
        self.emit(Op::CpAsync { dst, src, src_space, bytes, src_bytes, ignore });
        Ok(())
    }

    fn mbarrier(&mut self) -> Result<()> {
        self.require(self.b.ctx.target.at_least(80), "sm_80 or newer")?;
        let what = self.mods.one_of(&[
            "init",
            "inval",
            "arrive",
            "arrive_drop",
            "expect_tx",
            "complete_tx",
            "test_wait",
            "try_wait",
            "pending_count",
        ]);
        // `arrive.expect_tx`: the second word is consumed by name as well.
        let expect = what != Some("expect_tx") && self.mods.take("expect_tx");
        let Some(what) = what else { return Err(self.error("an operation is missing")) };
        let (what, expect) = match (what, self.mods.one_of(&["arrive", "arrive_drop"])) {
            ("expect_tx", Some(arrive)) => (arrive, true),
            _ => (what, expect),
        };
        let parity = self.mods.take("parity");
        self.mods.one_of(&["acquire", "release", "relaxed"]);
        self.mods.one_of(&["cta", "cluster"]);
        let cluster = self.raw.mods.iter().any(|m| m == "shared::cluster");
        let space = self.mods.find(super::memory::space).unwrap_or(Space::Generic);
        if !self.mods.take("b64") {
            return Err(self.error("`.b64` is missing"));
        }
        let no_complete = self.mods.take("noComplete");
        if no_complete && !matches!(what, "arrive" | "arrive_drop") {
            return Err(self.error("`.noComplete` goes with arrivals only"));
        }
        let n = self.raw.operands.len();
        self.finish(n)?;
        let count_is = |want: &[usize]| {
            if want.contains(&n) {
                Ok(())
            } else {
                Err(self.error("the number of operands does not fit"))
            }
        };
        let (op, at) = match what {
            "init" => {
                count_is(&[2])?;
                (MbarOp::Init { count: self.src(1, Ty::U32)? }, 0)
            }
            "inval" => {
                count_is(&[1])?;
                (MbarOp::Invalidate, 0)
            }
            "expect_tx" | "complete_tx" => {
                count_is(&[2])?;
                let bytes = self.src(1, Ty::U32)?;
                let expect = what == "expect_tx";
                (if expect { MbarOp::ExpectTx { bytes } } else { MbarOp::CompleteTx { bytes } }, 0)
            }
            "arrive" | "arrive_drop" => {
                // The state is left out in the form for addresses of the cluster.
                let first = self.operand(0)?;
                let has_state = !matches!(first, Operand::Address { .. });
                if !has_state && !cluster {
                    return Err(self.error("a destination for the state is missing"));
                }
                let at = usize::from(has_state);
                count_is(&[at + 1, at + 2])?;
                let state = match first {
                    Operand::Name(name, None) if name == "_" => None,
                    o if has_state => Some(self.dst_of(o, Ty::B64)?),
                    _ => None,
                };
                let extra = if n == at + 2 { Some(self.src(at + 1, Ty::U32)?) } else { None };
                if expect && extra.is_none() {
                    return Err(self.error("the number of bytes is missing"));
                }
                let (count, expect_tx) = if expect { (None, extra) } else { (extra, None) };
                let drop = what == "arrive_drop";
                (MbarOp::Arrive { state, count, drop, expect_tx, no_complete }, at)
            }
            "test_wait" | "try_wait" => {
                count_is(if what == "test_wait" { &[3] } else { &[3, 4] })?;
                let operand = self.operand(0)?;
                let done = self.pred_dst_of(operand)?;
                let state = self.src(2, if parity { Ty::U32 } else { Ty::B64 })?;
                let may_wait = what == "try_wait";
                (MbarOp::Test { done, state, parity, may_wait }, 1)
            }
            _ => {
                count_is(&[2])?;
                let d = self.dst(0, Ty::U32)?;
                let state = self.src(1, Ty::B64)?;
                let addr = super::ops::Addr { base: None, offset: 0, frame: false };
                self.emit(Op::Mbarrier { op: MbarOp::PendingCount { d, state }, addr, space });
                return Ok(());
            }
        };
        let addr = self.addr(at)?;
        self.emit(Op::Mbarrier { op, addr, space });
        Ok(())
    }

    fn bulk(&mut self) -> Result<()> {
        self.require(self.b.ctx.target.at_least(90), "sm_90 or newer")?;
        if self.mods.take("commit_group") {
            self.finish(0)?;
            self.emit(Op::Bulk(Box::new(BulkOp { kind: BulkKind::Commit })));
            return Ok(());
        }
        if self.mods.take("wait_group") {
            self.mods.take("read");
            self.finish(1)?;
            let kind = BulkKind::Wait { pending: self.group_count()? };
            self.emit(Op::Bulk(Box::new(BulkOp { kind })));
            return Ok(());
        }
        if self.mods.take("prefetch") {
            self.emit(Op::Nop);
            return Ok(());
        }
        if self.mods.take("tensor") {
            return self.bulk_tensor();
        }
        let to = self.mods.find(super::memory::space);
        let from = self.mods.find(super::memory::space);
        let hint = self.mods.take("L2::cache_hint");
        let by_mbarrier = self.mods.take("mbarrier::complete_tx::bytes");
        let by_group = self.mods.take("bulk_group");
        let kind = match (to, from, by_mbarrier, by_group) {
            (Some(Space::Shared), Some(Space::Global), true, false) => {
                self.finish(4 + usize::from(hint))?;
                BulkKind::Load {
                    dst: self.addr(0)?,
                    src: self.addr(1)?,
                    bytes: self.src(2, Ty::U32)?,
                    mbar: self.addr(3)?,
                }
            }
            (Some(Space::Global), Some(Space::Shared), false, true) => {
                self.finish(3 + usize::from(hint))?;
                BulkKind::Store {
                    dst: self.addr(0)?,
                    src: self.addr(1)?,
                    bytes: self.src(2, Ty::U32)?,
                }
            }
            _ => return Err(self.error("this direction of a bulk copy is not supported")),
        };
        self.emit(Op::Bulk(Box::new(BulkOp { kind })));
        Ok(())
    }

    fn bulk_tensor(&mut self) -> Result<()> {
        let dims = match self.mods.one_of(&["1d", "2d", "3d", "4d", "5d"]) {
            Some(d) => usize::from(d.as_bytes()[0] - b'0'),
            None => return Err(self.error("the number of dimensions is missing")),
        };
        let to = self.mods.find(super::memory::space);
        let from = self.mods.find(super::memory::space);
        let hint = self.mods.take("L2::cache_hint");
        let by_mbarrier = self.mods.take("mbarrier::complete_tx::bytes");
        let by_group = self.mods.take("bulk_group");
        self.mods.take("tile");
        let kind = match (to, from, by_mbarrier, by_group) {
            (Some(Space::Shared), Some(Space::Global), true, false) => {
                self.finish(3 + usize::from(hint))?;
                let (map, coordinates) = self.tensor(1, dims)?;
                BulkKind::TensorLoad { dst: self.addr(0)?, map, coordinates, mbar: self.addr(2)? }
            }
            (Some(Space::Global), Some(Space::Shared), false, true) => {
                self.finish(2 + usize::from(hint))?;
                let (map, coordinates) = self.tensor(0, dims)?;
                BulkKind::TensorStore { src: self.addr(1)?, map, coordinates }
            }
            _ => return Err(self.error("this form of a tensor copy is not supported")),
        };
        self.emit(Op::Bulk(Box::new(BulkOp { kind })));
        Ok(())
    }

    /// `[map, {c0, c1, …}]`; the map's address is generic.
    fn tensor(&mut self, i: usize, dims: usize) -> Result<(Box<Access>, Vec<u32>)> {
        let operand = self.operand(i)?;
        let Operand::Address { more, .. } = operand else {
            return Err(self.error("a tensor map and its coordinates are expected"));
        };
        let [Operand::Vector(list)] = more.as_slice() else {
            return Err(self.error("coordinates in braces are expected"));
        };
        if list.len() != dims {
            return Err(self.error(format!("{dims} coordinates are expected")));
        }
        let coordinates = list.iter().map(|c| self.src_of(c, Ty::S32)).collect::<Result<_>>()?;
        let addr = self.addr_of(operand)?;
        let map = Access {
            space: Space::Generic,
            addr,
            bytes: 8,
            sign_to: 0,
            order: Order::Strong,
            regs: Vec::new(),
        };
        Ok((Box::new(map), coordinates))
    }
}
