//! Functions: names to slots, scopes, variables, labels.

use std::collections::HashMap;

use super::cfg::meeting_points;
use super::decode::Decoder;
use super::function::{FrameVar, Function, Param, SharedVar};
use super::ops::{AT_RETURN, Inst, Known, NOWHERE, Op, PSlot, Slot};
use crate::error::{Error, Result};
use crate::parse::ast::{Loc, RawFunction, RawInst, RawModule, Stmt, Ty, VarSpace, Variable};
use crate::target::Target;

/// Frames larger than a thread's local memory are refused.
const MAX_FRAME_BYTES: u64 = crate::exec::flow::MAX_STACK;
/// The largest parameter block of a kernel.
const MAX_PARAM_BYTES: u64 = 32_764;
/// Branch targets of a function's tables, in all.
const MAX_TARGETS: usize = 1 << 20;
/// Bytes of an unused gap after each frame variable, so that overruns are seen.
const FRAME_GAP: u64 = 16;

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Symbol {
    Reg {
        ty: Ty,
    },
    /// `%r<10>`: the numbers below the count.
    Range {
        ty: Ty,
        count: u32,
    },
    Frame {
        offset: u64,
        bytes: u64,
    },
    KernelParam {
        offset: u32,
    },
    Shared(SharedVar),
    Module {
        space: VarSpace,
    },
    Targets(Vec<String>),
}

#[derive(Default)]
struct Scope {
    id: u32,
    names: HashMap<String, Symbol>,
}

/// What is known of a register operand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reg {
    pub slot: Slot,
    pub ty: Ty,
}

/// What lowering knows about the module around a function.
pub(super) struct ModuleCtx<'a> {
    pub raw: &'a RawModule,
    pub target: Target,
    pub index: HashMap<&'a str, u32>,
    pub text: &'a str,
}

/// A function under construction.
pub(super) struct Builder<'a> {
    pub ctx: &'a ModuleCtx<'a>,
    pub function: Function,
    scopes: Vec<Scope>,
    next_scope: u32,
    slots: HashMap<(u32, String), Slot>,
    preds: HashMap<(u32, String), PSlot>,
    known: HashMap<String, Slot>,
    labels: HashMap<(u32, String), u32>,
    /// Instruction, which target of it, scopes to look in, label, line.
    patches: Vec<(usize, usize, Vec<u32>, String, u32)>,
    pub returns: Vec<(u64, u64)>,
    sink: Option<Slot>,
    pred_sink: Option<PSlot>,
}

/// Lowers every function with a body.
pub(crate) fn lower_module(raw: &RawModule, text: &str) -> Result<(Target, Vec<Function>)> {
    let target = Target::parse(&raw.target)?;
    let defined: Vec<&RawFunction> = raw.functions.iter().filter(|f| f.body.is_some()).collect();
    let mut index = HashMap::new();
    for (i, f) in defined.iter().enumerate() {
        if index.insert(f.name.as_str(), i as u32).is_some() {
            return Err(Error::Parse {
                line: f.line,
                message: format!("function `{}` is defined twice", f.name),
            });
        }
    }
    let ctx = ModuleCtx { raw, target, index, text };
    let functions = defined.iter().map(|f| lower_function(&ctx, f)).collect::<Result<_>>()?;
    Ok((target, functions))
}

fn align_up(x: u64, align: u64) -> u64 {
    x.div_ceil(align) * align
}

fn lower_function<'a>(ctx: &'a ModuleCtx<'a>, raw: &RawFunction) -> Result<Function> {
    let mut module_scope = Scope::default();
    for v in &ctx.raw.variables {
        let symbol = if v.space == VarSpace::Shared {
            Symbol::Shared(shared_var(v, v.name.clone()))
        } else {
            Symbol::Module { space: v.space }
        };
        module_scope.names.insert(v.name.clone(), symbol);
    }
    let mut b = Builder {
        ctx,
        function: Function {
            name: raw.name.clone(),
            entry: raw.entry,
            insts: Vec::new(),
            slots: 0,
            preds: 0,
            slot_names: Vec::new(),
            pred_names: Vec::new(),
            known: Vec::new(),
            params: Vec::new(),
            param_bytes: 0,
            frame: Vec::new(),
            frame_bytes: 0,
            frame_align: 8,
            shared: Vec::new(),
            callees: Vec::new(),
            tuning: raw.tuning,
        },
        scopes: vec![module_scope, Scope { id: 1, ..Scope::default() }],
        next_scope: 2,
        slots: HashMap::new(),
        preds: HashMap::new(),
        known: HashMap::new(),
        labels: HashMap::new(),
        patches: Vec::new(),
        returns: Vec::new(),
        sink: None,
        pred_sink: None,
    };
    if raw.entry {
        let mut at = 0u64;
        for p in &raw.params {
            at = align_up(at, u64::from(p.align));
            let (offset, bytes) = (at as u32, p.bytes as u32);
            at += p.bytes;
            if at > MAX_PARAM_BYTES {
                let message =
                    format!("parameters of `{}` exceed {MAX_PARAM_BYTES} bytes", raw.name);
                return Err(Error::Parse { line: p.line, message });
            }
            b.function.params.push(Param { name: p.name.clone(), offset, bytes });
            b.declare(p.name.clone(), Symbol::KernelParam { offset }, p.line)?;
        }
        b.function.param_bytes = at as u32;
    } else {
        // Returns first, then parameters: `frame_args` relies on the order.
        for p in raw.returns.iter().chain(&raw.params) {
            let at = b.frame_var(p)?;
            if b.returns.len() < raw.returns.len() {
                b.returns.push(at);
            }
        }
    }
    for stmt in raw.body.iter().flatten() {
        b.statement(stmt)?;
    }
    // Running off the end is a return.
    b.emit(Op::Ret, None, raw.line, None, 0..0);
    b.finish()
}

fn shared_var(v: &Variable, name: String) -> SharedVar {
    SharedVar {
        name,
        align: v.align,
        bytes: v.bytes,
        dynamic: v.unsized_ || v.external && v.bytes == 0,
    }
}

/// Offsets of a callee's returns and parameters in its frame, as `lower_function` lays
/// them out.
pub(super) fn frame_layout(vars: impl Iterator<Item = (u32, u64)>) -> Vec<(u64, u64)> {
    let mut at = 0;
    vars.map(|(align, bytes)| {
        let offset = align_up(at, u64::from(align).max(8));
        at = offset + bytes + FRAME_GAP;
        (offset, bytes)
    })
    .collect()
}

impl<'a> Builder<'a> {
    fn statement(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Open => {
                self.scopes.push(Scope { id: self.next_scope, ..Scope::default() });
                self.next_scope += 1;
            }
            Stmt::Close => {
                self.scopes.pop();
            }
            Stmt::Label(name, line) => {
                let key = (self.scope_id(), name.clone());
                let at = self.function.insts.len() as u32;
                if self.labels.insert(key, at).is_some() {
                    return Err(Error::Parse {
                        line: *line,
                        message: format!("label `{name}` is defined twice"),
                    });
                }
            }
            Stmt::Targets(name, labels) => {
                self.declare(name.clone(), Symbol::Targets(labels.clone()), 0)?;
            }
            Stmt::Reg(r) => {
                let symbol = match r.count {
                    None => Symbol::Reg { ty: r.ty },
                    Some(count) => Symbol::Range { ty: r.ty, count },
                };
                // Ranges live under a name that no operand can have.
                let key = if r.count.is_some() { format!("{}<>", r.name) } else { r.name.clone() };
                self.declare(key, symbol, r.line)?;
            }
            Stmt::Var(v) => self.variable(v)?,
            Stmt::Inst(raw) => self.instruction(raw)?,
        }
        Ok(())
    }

    fn instruction(&mut self, raw: &RawInst) -> Result<()> {
        let first = self.function.insts.len();
        Decoder::new(self, raw)?.run()?;
        // Zero instructions would let a label slide to the next one's guard.
        if self.function.insts.len() == first {
            self.emit(Op::Nop, None, raw.line, raw.loc, raw.span.clone());
        }
        Ok(())
    }

    fn variable(&mut self, v: &Variable) -> Result<()> {
        match v.space {
            VarSpace::Local | VarSpace::Param => {
                self.frame_var(v)?;
                Ok(())
            }
            VarSpace::Shared => {
                let unique = format!("{}::{}#{}", self.function.name, v.name, self.scope_id());
                self.declare(v.name.clone(), Symbol::Shared(shared_var(v, unique)), v.line)
            }
            VarSpace::Global | VarSpace::Const => Err(Error::Parse {
                line: v.line,
                message: format!("variable `{}` must be declared outside functions", v.name),
            }),
        }
    }

    fn frame_var(&mut self, v: &Variable) -> Result<(u64, u64)> {
        let offset = align_up(self.function.frame_bytes, u64::from(v.align).max(8));
        let end = offset.saturating_add(v.bytes).saturating_add(FRAME_GAP);
        if end > MAX_FRAME_BYTES {
            return Err(Error::Parse {
                line: v.line,
                message: format!(
                    "variables of `{}` exceed {MAX_FRAME_BYTES} bytes",
                    self.function.name
                ),
            });
        }
        self.function.frame_bytes = end;
        self.function.frame_align = self.function.frame_align.max(u64::from(v.align));
        self.function.frame.push(FrameVar { offset, bytes: v.bytes });
        self.declare(v.name.clone(), Symbol::Frame { offset, bytes: v.bytes }, v.line)?;
        Ok((offset, v.bytes))
    }

    fn declare(&mut self, name: String, symbol: Symbol, line: u32) -> Result<()> {
        let Some(scope) = self.scopes.last_mut() else {
            return Err(Error::Parse { line, message: "scopes are not balanced".into() });
        };
        if scope.names.insert(name.clone(), symbol).is_some() {
            let message = format!("`{}` is declared twice", name.trim_end_matches("<>"));
            return Err(Error::Parse { line, message });
        }
        Ok(())
    }

    fn scope_id(&self) -> u32 {
        self.scopes.last().map_or(0, |s| s.id)
    }

    /// Finds a name, innermost scope first, with the scope it was found in.
    pub fn lookup(&self, name: &str) -> Option<(u32, &Symbol)> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = &name[stem.len()..];
        for scope in self.scopes.iter().rev() {
            if let Some(symbol) = scope.names.get(name) {
                return Some((scope.id, symbol));
            }
            // `%r10` may come from `%r<…>`, and also from `%r1<…>`.
            for cut in (0..digits.len()).filter(|_| digits.len() <= 7) {
                let (prefix, number) = name.split_at(stem.len() + cut);
                let plain = number == "0" || !number.starts_with('0');
                if let (true, Ok(n)) = (plain, number.parse::<u32>())
                    && let Some(s @ Symbol::Range { count, .. }) =
                        scope.names.get(&format!("{prefix}<>"))
                    && n < *count
                {
                    return Some((scope.id, s));
                }
            }
        }
        None
    }

    /// The value register with this name.
    pub fn reg(&mut self, name: &str) -> Option<Reg> {
        let (scope, symbol) = self.lookup(name)?;
        let ty = match symbol {
            Symbol::Reg { ty } | Symbol::Range { ty, .. } if *ty != Ty::Pred => *ty,
            _ => return None,
        };
        let key = (scope, name.to_string());
        if let Some(&slot) = self.slots.get(&key) {
            return Some(Reg { slot, ty });
        }
        let slot = self.new_slot(name);
        if ty == Ty::B128 {
            // The upper half.
            self.new_slot(name);
        }
        self.slots.insert(key, slot);
        Some(Reg { slot, ty })
    }

    /// The predicate register with this name.
    pub fn pred(&mut self, name: &str) -> Option<PSlot> {
        let (scope, symbol) = self.lookup(name)?;
        match symbol {
            Symbol::Reg { ty: Ty::Pred } | Symbol::Range { ty: Ty::Pred, .. } => {}
            _ => return None,
        }
        let key = (scope, name.to_string());
        if let Some(&slot) = self.preds.get(&key) {
            return Some(slot);
        }
        let slot = self.new_pred(name);
        self.preds.insert(key, slot);
        Some(slot)
    }

    /// A fresh register.
    pub fn new_slot(&mut self, name: &str) -> Slot {
        let slot = self.function.slots;
        self.function.slots += 1;
        self.function.slot_names.push(name.to_string());
        slot
    }

    /// A fresh predicate.
    pub fn new_pred(&mut self, name: &str) -> PSlot {
        let slot = self.function.preds;
        self.function.preds += 1;
        self.function.pred_names.push(name.to_string());
        slot
    }

    /// A register nobody reads.
    pub fn sink(&mut self) -> Slot {
        match self.sink {
            Some(s) => s,
            None => {
                let s = self.new_slot("_");
                self.sink = Some(s);
                s
            }
        }
    }

    /// A predicate nobody reads.
    pub fn pred_sink(&mut self) -> PSlot {
        match self.pred_sink {
            Some(s) => s,
            None => {
                let s = self.new_pred("_");
                self.pred_sink = Some(s);
                s
            }
        }
    }

    /// The register that holds a known value; one for each distinct value.
    pub fn known(&mut self, value: Known) -> Slot {
        let key = format!("{value:?}");
        if let Some(&slot) = self.known.get(&key) {
            return slot;
        }
        let slot = self.new_slot("a constant");
        self.function.known.push((slot, value));
        self.known.insert(key, slot);
        slot
    }

    /// Notes that a shared variable is used.
    pub fn use_shared(&mut self, v: SharedVar) {
        if !self.function.shared.contains(&v) {
            self.function.shared.push(v);
        }
    }

    /// Appends an instruction.
    pub fn emit(
        &mut self,
        op: Op,
        guard: Option<super::ops::Pred>,
        line: u32,
        loc: Option<Loc>,
        span: std::ops::Range<usize>,
    ) {
        self.function.insts.push(Inst { guard, op, line, loc, span, meet: NOWHERE });
    }

    /// Whether so many more branch targets are too many.
    pub fn too_many_targets(&self, more: usize) -> bool {
        self.patches.len().saturating_add(more) > MAX_TARGETS
    }

    /// Notes a label to resolve once all labels are known.
    pub fn patch(&mut self, which: usize, label: &str, line: u32) {
        let scopes = self.scopes.iter().rev().map(|s| s.id).collect();
        let at = self.function.insts.len();
        self.patches.push((at, which, scopes, label.to_string(), line));
    }

    fn finish(mut self) -> Result<Function> {
        for (at, which, scopes, label, line) in std::mem::take(&mut self.patches) {
            let found = scopes.iter().find_map(|s| self.labels.get(&(*s, label.clone())));
            let Some(&to) = found else {
                return Err(Error::Parse {
                    line,
                    message: format!("label `{label}` is not defined"),
                });
            };
            match &mut self.function.insts[at].op {
                Op::Bra { target, .. } => *target = to,
                Op::BrxIdx { targets, .. } => targets[which] = to,
                _ => {}
            }
        }
        let meets = meeting_points(&self.function.insts);
        let entry = self.function.entry;
        for (inst, at) in self.function.insts.iter_mut().zip(meets) {
            // Lanes of a kernel that meet only at its end never need to wait for others.
            let at = if entry && at == AT_RETURN { NOWHERE } else { at };
            inst.meet = at;
            match &mut inst.op {
                Op::Bra { meet, .. } | Op::BrxIdx { meet, .. } => *meet = at,
                _ => {}
            }
        }
        Ok(self.function)
    }
}
