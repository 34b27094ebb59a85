//! Branches, calls, barriers, fences.

use super::build::{Symbol, frame_layout};
use super::decode::Decoder;
use super::ops::{BarKind, BarRed, NOWHERE, Op};
use crate::error::Result;
use crate::parse::ast::{Operand, Ty};

/// The barrier that `barrier.cluster` maps to, past the 16 that kernels can name.
pub(crate) const CLUSTER_BARRIER: u64 = 16;

impl Decoder<'_, '_> {
    pub(super) fn control(&mut self) -> Result<()> {
        match self.raw.opcode.as_str() {
            "bra" => self.bra(),
            "brx" => self.brx(),
            "call" => self.call(),
            "ret" | "exit" => {
                self.mods.take("uni");
                self.finish(0)?;
                self.emit(if self.raw.opcode == "ret" { Op::Ret } else { Op::Exit });
                Ok(())
            }
            "trap" | "brkpt" => {
                self.finish(0)?;
                self.emit(Op::Trap);
                Ok(())
            }
            "bar" | "barrier" => self.barrier(),
            "nanosleep" => {
                self.mods.take("u32");
                self.finish(1)?;
                self.emit(Op::Nanosleep);
                Ok(())
            }
            "membar" | "fence" => self.fence(),
            "pmevent" => {
                self.emit(Op::Nop);
                Ok(())
            }
            "griddepcontrol" => {
                self.require(self.b.ctx.target.at_least(90), "sm_90 or newer")?;
                if self.mods.one_of(&["wait", "launch_dependents"]).is_none() {
                    return Err(self.error("`.wait` or `.launch_dependents` is missing"));
                }
                self.finish(0)?;
                self.emit(Op::Nop);
                Ok(())
            }
            _ => self.setmaxnreg(),
        }
    }

    fn label(&self, i: usize) -> Result<String> {
        match self.operand(i)? {
            Operand::Name(name, None) => Ok(name.clone()),
            _ => Err(self.error("a label is expected")),
        }
    }

    fn bra(&mut self) -> Result<()> {
        self.mods.take("uni");
        self.finish(1)?;
        let label = self.label(0)?;
        self.b.patch(0, &label, self.raw.line);
        self.emit(Op::Bra { target: 0, meet: NOWHERE });
        Ok(())
    }

    fn brx(&mut self) -> Result<()> {
        self.mods.take("uni");
        if !self.mods.take("idx") {
            return Err(self.error("`.idx` is missing"));
        }
        self.finish(2)?;
        let index = self.src(0, Ty::U32)?;
        let table = self.label(1)?;
        let Some(Symbol::Targets(labels)) = self.b.lookup(&table).map(|(_, s)| s.clone()) else {
            return Err(self.error(format!("`{table}` is no list of branch targets")));
        };
        if self.b.too_many_targets(labels.len()) {
            return Err(self.error("the function's branch tables have too many targets"));
        }
        for (i, label) in labels.iter().enumerate() {
            self.b.patch(i, label, self.raw.line);
        }
        self.emit(Op::BrxIdx { index, targets: vec![0; labels.len()], meet: NOWHERE });
        Ok(())
    }

    fn call(&mut self) -> Result<()> {
        self.mods.take("uni");
        if let Some(m) = self.mods.rest() {
            return Err(self.error(format!("modifier `.{m}` is not known here")));
        }
        let empty = Vec::new();
        let (returns, at) = match self.raw.operands.first() {
            Some(Operand::List(l)) => (l, 1),
            _ => (&empty, 0),
        };
        let Some(Operand::Name(name, None)) = self.raw.operands.get(at) else {
            return Err(self.error("a function name is expected"));
        };
        let args = match self.raw.operands.get(at + 1) {
            Some(Operand::List(l)) => l,
            None => &empty,
            _ => return Err(self.error("arguments in parentheses are expected")),
        };
        if self.raw.operands.len() > at + 2 {
            return Err(self.error("indirect calls are not supported"));
        }
        let args = self.frame_vars(args)?;
        let returns = self.frame_vars(returns)?;
        let ctx = self.b.ctx;
        if let Some(&callee) = ctx.index.get(name.as_str()) {
            let raw = ctx.raw.functions.iter().find(|f| f.name == *name && f.body.is_some());
            let Some(raw) = raw.filter(|f| !f.entry) else {
                return Err(self.error(format!("`{name}` is a kernel and cannot be called")));
            };
            if raw.params.len() != args.len() || raw.returns.len() != returns.len() {
                return Err(self.error("the call's arguments differ in number from the function's"));
            }
            let vars = raw.returns.iter().chain(&raw.params).map(|v| (v.align, v.bytes));
            let layout = frame_layout(vars);
            let (outs, ins) = layout.split_at(raw.returns.len());
            let pair = |ours: &[(u64, u64)], theirs: &[(u64, u64)]| {
                ours.iter()
                    .zip(theirs)
                    .map(|(a, b)| (a.1 == b.1).then_some((a.0 as i64, b.0 as i64, a.1 as u32)))
                    .collect::<Option<Vec<_>>>()
            };
            let (Some(args), Some(returns)) = (pair(&args, ins), pair(&returns, outs)) else {
                return Err(self.error("an argument's size differs from the function's"));
            };
            if !self.b.function.callees.contains(&callee) {
                self.b.function.callees.push(callee);
            }
            self.emit(Op::Call { callee, args, returns });
            return Ok(());
        }
        let known = match name.as_str() {
            "vprintf" => "vprintf",
            "__assertfail" => "__assertfail",
            _ => return Err(self.error(format!("function `{name}` has no body in this module"))),
        };
        let plain = |v: Vec<(u64, u64)>| v.iter().map(|v| (v.0 as i64, v.1 as u32)).collect();
        let (args, returns) = (plain(args), plain(returns));
        self.emit(Op::CallExtern { name: known, args, returns });
        Ok(())
    }

    fn frame_vars(&self, list: &[Operand]) -> Result<Vec<(u64, u64)>> {
        list.iter()
            .map(|o| match o {
                Operand::Name(name, None) => match self.b.lookup(name) {
                    Some((_, Symbol::Frame { offset, bytes })) => Ok((*offset, *bytes)),
                    _ => Err(self.error(format!("`{name}` is no parameter variable"))),
                },
                _ => Err(self.error("arguments of calls are parameter variables")),
            })
            .collect()
    }

    fn barrier(&mut self) -> Result<()> {
        let long = self.raw.opcode == "barrier";
        if self.mods.take("warp") {
            self.mods.take("sync");
            self.finish(1)?;
            let mask = self.src(0, Ty::B32)?;
            self.emit(Op::WarpSync { mask });
            return Ok(());
        }
        if self.mods.take("cluster") {
            return self.cluster_barrier();
        }
        self.mods.take("cta");
        // The short form is always aligned.
        let aligned = self.mods.take("aligned") || !long;
        let what = self.mods.one_of(&["sync", "arrive", "red"]);
        let red = self.mods.find(|m| {
            Some(match m {
                "popc" => BarRed::Popc,
                "and" => BarRed::And,
                "or" => BarRed::Or,
                _ => return None,
            })
        });
        match (what, red) {
            (Some("sync" | "arrive"), None) => {
                let n = self.raw.operands.len();
                if !(1..=2).contains(&n) || what == Some("arrive") && n != 2 {
                    return Err(self.error("a barrier number and a thread count are expected"));
                }
                self.finish(n)?;
                let id = self.src(0, Ty::U32)?;
                let count = if n == 2 { Some(self.src(1, Ty::U32)?) } else { None };
                let kind = if what == Some("sync") { BarKind::Sync } else { BarKind::Arrive };
                self.emit(Op::Bar { kind, id, count, aligned });
            }
            (Some("red"), Some(op)) => {
                let ty = self.ty()?;
                let n = self.raw.operands.len();
                if !(3..=4).contains(&n) {
                    return Err(self.error("a result, a barrier and a predicate are expected"));
                }
                self.finish(n)?;
                let result = self.operand(0)?;
                let (value, pred) = if op == BarRed::Popc && ty == Ty::U32 {
                    (Some(self.dst_of(result, Ty::U32)?), None)
                } else if op != BarRed::Popc && ty == Ty::Pred {
                    (None, Some(self.pred_dst_of(result)?))
                } else {
                    return Err(self.error("the result's type does not go with the reduction"));
                };
                let id = self.src(1, Ty::U32)?;
                let count = if n == 4 { Some(self.src(2, Ty::U32)?) } else { None };
                let last = self.operand(n - 1)?;
                let input = self.pred_of(last)?;
                let kind = BarKind::Red { op, input, value, pred };
                self.emit(Op::Bar { kind, id, count, aligned });
            }
            _ => {
                return Err(self.error(
                    "there is no such barrier: `.sync`, `.arrive` and `.red` with `.popc`, `.and` or \
                     `.or` are known",
                ));
            }
        }
        Ok(())
    }

    /// A cluster is one block here: waiting for the cluster is waiting for the block.
    fn cluster_barrier(&mut self) -> Result<()> {
        self.require(self.b.ctx.target.at_least(90), "sm_90 or newer")?;
        self.mods.one_of(&["release", "acquire", "relaxed"]);
        let aligned = self.mods.take("aligned");
        let what = self.mods.one_of(&["arrive", "wait"]);
        self.finish(0)?;
        match what {
            Some("arrive") => self.emit(Op::Fence),
            Some(_) => {
                let id = self.b.known(super::ops::Known::Bits(CLUSTER_BARRIER));
                self.emit(Op::Bar { kind: BarKind::Sync, id, count: None, aligned });
            }
            None => return Err(self.error("`.arrive` or `.wait` is missing")),
        }
        Ok(())
    }

    fn fence(&mut self) -> Result<()> {
        const KNOWN: &[&str] = &[
            "cta",
            "cluster",
            "gpu",
            "gl",
            "sys",
            "sc",
            "acq_rel",
            "acquire",
            "release",
            "proxy",
            "async",
            "alias",
            "async::generic",
            "async::shared",
            "shared::cta",
            "shared::cluster",
            "global",
            "mbarrier_init",
            "sync_restrict::shared::cta",
            "sync_restrict::shared::cluster",
            "async.global",
            "async.shared::cta",
        ];
        if self.mods.take("tensormap::generic") {
            return Err(self.error("tensor maps are not changed on the device here"));
        }
        let proxy = self.raw.mods.iter().any(|m| m == "proxy")
            && self.raw.mods.iter().any(|m| m.starts_with("async"));
        while self.mods.one_of(KNOWN).is_some() {}
        self.finish(0)?;
        self.emit(if proxy { Op::FenceProxy } else { Op::Fence });
        Ok(())
    }
}
