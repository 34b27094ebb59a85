//! One instruction: its operands, its errors, and which file knows it.

use super::alu::mask_of;
use super::build::{Builder, Symbol};
use super::mods::Mods;
use super::ops::{Addr, Known, Op, PSlot, Pred, Slot};
use super::special;
use crate::error::{Error, Result, Space};
use crate::numeric::float::convert;
use crate::numeric::{Format, Rounding};
use crate::parse::ast::{Operand, RawInst, Ty, VarSpace};

/// An instruction being lowered.
pub(super) struct Decoder<'b, 'a> {
    pub b: &'b mut Builder<'a>,
    pub raw: &'b RawInst,
    pub mods: Mods<'b>,
    pub guard: Option<Pred>,
}

impl<'b, 'a> Decoder<'b, 'a> {
    pub fn new(b: &'b mut Builder<'a>, raw: &'b RawInst) -> Result<Self> {
        let mut this = Decoder { b, raw, mods: Mods::new(&raw.mods), guard: None };
        if let Some((name, negated)) = &raw.guard {
            let Some(slot) = this.b.pred(name) else {
                return Err(this.error(format!("guard `{name}` is not a predicate register")));
            };
            this.guard = Some(Pred { slot, negated: *negated });
        }
        Ok(this)
    }

    /// Lowers the instruction, or says what about it is not understood.
    pub fn run(&mut self) -> Result<()> {
        match self.raw.opcode.as_str() {
            "ld" | "ldu" | "st" | "atom" | "red" | "cvta" | "isspacep" | "prefetch"
            | "prefetchu" | "discard" | "applypriority" | "createpolicy" => self.memory(),
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "bar" | "barrier"
            | "nanosleep" | "membar" | "fence" | "pmevent" | "griddepcontrol" | "setmaxnreg" => {
                self.control()
            }
            "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" | "ldmatrix"
            | "stmatrix" | "movmatrix" => self.warp(),
            "mma" => self.mma(),
            "wgmma" => self.wgmma(),
            "cp" | "mbarrier" => self.async_copy(),
            _ => self.arithmetic(),
        }
    }

    /// Appends the operation under this instruction's guard.
    pub fn emit(&mut self, op: Op) {
        let r = self.raw;
        self.b.emit(op, self.guard, r.line, r.loc, r.span.clone());
    }

    /// The instruction as written.
    pub fn text(&self) -> String {
        let text = self.b.ctx.text.get(self.raw.span.clone()).unwrap_or(&self.raw.opcode);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// An error about this instruction.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        let reason = reason.into();
        Error::Unsupported { line: self.raw.line, instruction: self.text(), reason }
    }

    /// An error unless the target has what the instruction needs.
    pub fn require(&self, has: bool, needs: &str) -> Result<()> {
        if has {
            return Ok(());
        }
        Err(Error::IllegalForTarget {
            line: self.raw.line,
            instruction: self.text(),
            target: self.b.ctx.target.to_string(),
            needs: format!("it needs {needs}"),
        })
    }

    /// Checks that every modifier was understood and that there are `n` operands.
    pub fn finish(&self, n: usize) -> Result<()> {
        if let Some(m) = self.mods.rest() {
            return Err(self.error(format!("modifier `.{m}` is not known here")));
        }
        if self.raw.operands.len() != n {
            let have = self.raw.operands.len();
            return Err(self.error(format!("{have} operands are given, {n} are expected")));
        }
        Ok(())
    }

    /// Consumes a modifier that must be there.
    pub fn need(&mut self, name: &str) -> Result<()> {
        if self.mods.take(name) {
            return Ok(());
        }
        Err(self.error(format!("`.{name}` is missing")))
    }

    /// The next type among the modifiers.
    pub fn ty(&mut self) -> Result<Ty> {
        self.mods.find_last(Ty::parse).ok_or_else(|| self.error("a type is missing"))
    }

    pub fn operand(&self, i: usize) -> Result<&'b Operand> {
        self.raw.operands.get(i).ok_or_else(|| self.error(format!("operand {} is missing", i + 1)))
    }

    /// A source of exactly this type's width.
    pub fn src(&mut self, i: usize, ty: Ty) -> Result<Slot> {
        let operand = self.operand(i)?;
        self.src_of(operand, ty)
    }

    /// A source from an operand, of exactly this type's width.
    pub fn src_of(&mut self, operand: &Operand, ty: Ty) -> Result<Slot> {
        self.source(operand, ty, false)
    }

    /// A source whose register may be wider than the type.
    pub fn src_wide(&mut self, operand: &Operand, ty: Ty) -> Result<Slot> {
        self.source(operand, ty, true)
    }

    fn source(&mut self, operand: &Operand, ty: Ty, wider: bool) -> Result<Slot> {
        let bits = ty.bits();
        let value = match operand {
            Operand::Name(name, part) => {
                if part.is_none()
                    && let Some(reg) = self.b.reg(name)
                {
                    let have = reg.ty.bits();
                    if reg.ty == Ty::B128 {
                        return Err(self.error(format!("`{name}` is a 128-bit register")));
                    }
                    if have != bits && !(wider && have > bits) {
                        return Err(self.error(format!(
                            "register `{name}` has {have} bits, the instruction reads {bits}"
                        )));
                    }
                    return Ok(reg.slot);
                }
                if let Some((s, width)) = special::constant(name, part.as_deref()) {
                    if width < bits {
                        return Err(self.error(format!("`{name}` has {width} bits")));
                    }
                    return Ok(self.b.known(Known::Special(s)));
                }
                if name == "WARP_SZ" {
                    32
                } else {
                    return self.symbol(name, 0);
                }
            }
            Operand::Offset(name, offset) => return self.symbol(name, *offset),
            Operand::Int(v) => match ty {
                Ty::F32 | Ty::F64 => {
                    return Err(self.error("an integer is given for a float operand"));
                }
                _ => v & mask_of(bits),
            },
            Operand::F32(v) => match bits {
                32 => u64::from(*v),
                64 if ty.float() => f64::from(f32::from_bits(*v)).to_bits(),
                _ => return Err(self.error("a float is given for an operand of another type")),
            },
            Operand::F64(v) => match bits {
                64 => *v,
                32 if ty.float() => {
                    convert(*v, Format::F64, Format::F32, Rounding::NearestEven, false)
                }
                _ => return Err(self.error("a float is given for an operand of another type")),
            },
            _ => return Err(self.error("an operand has a form that is not expected here")),
        };
        Ok(self.b.known(Known::Bits(value)))
    }

    /// The halves of a 128-bit register.
    pub fn wide(&mut self, operand: &Operand) -> Result<[Slot; 2]> {
        if let Operand::Name(name, None) = operand
            && let Some(reg) = self.b.reg(name)
            && reg.ty == Ty::B128
        {
            return Ok([reg.slot, reg.slot + 1]);
        }
        Err(self.error("a 128-bit register is expected"))
    }

    /// The address of a variable, as the register that holds it.
    fn symbol(&mut self, name: &str, offset: i64) -> Result<Slot> {
        match self.b.lookup(name).map(|(_, s)| s.clone()) {
            Some(Symbol::Shared(v)) => {
                let name = v.name.clone();
                self.b.use_shared(v);
                Ok(self.b.known(Known::Symbol { name, offset, generic: false }))
            }
            Some(Symbol::Module { .. }) => {
                Ok(self.b.known(Known::Symbol { name: name.into(), offset, generic: false }))
            }
            Some(Symbol::KernelParam { offset: at }) => {
                let value = i64::from(at).wrapping_add(offset) as u64;
                Ok(self.b.known(Known::Bits(value)))
            }
            Some(Symbol::Frame { offset: at, .. }) => {
                let d = self.b.new_slot(name);
                self.emit(Op::FrameAddr { d, offset: (at as i64).wrapping_add(offset) });
                Ok(d)
            }
            _ => Err(self.error(format!("`{name}` is not declared"))),
        }
    }

    /// The state space that a variable name implies.
    pub fn space_of(&self, name: &str) -> Option<Space> {
        match self.b.lookup(name)?.1 {
            Symbol::Shared(_) => Some(Space::Shared),
            Symbol::Module { space: VarSpace::Const, .. } => Some(Space::Const),
            Symbol::Module { .. } => Some(Space::Global),
            Symbol::KernelParam { .. } => Some(Space::Param),
            Symbol::Frame { .. } => Some(Space::Local),
            _ => None,
        }
    }

    /// A destination of exactly this type's width; `_` is a register nobody reads.
    pub fn dst(&mut self, i: usize, ty: Ty) -> Result<Slot> {
        let operand = self.operand(i)?;
        self.dst_of(operand, ty)
    }

    pub fn dst_of(&mut self, operand: &Operand, ty: Ty) -> Result<Slot> {
        let (slot, bits) = self.dst_wide(operand, ty)?;
        if bits != ty.bits() && bits != 0 {
            return Err(self.error(format!(
                "the destination has {bits} bits, the instruction writes {}",
                ty.bits()
            )));
        }
        Ok(slot)
    }

    /// A destination that may be wider than the type, with its width (0 for `_`).
    pub fn dst_wide(&mut self, operand: &Operand, ty: Ty) -> Result<(Slot, u32)> {
        let Operand::Name(name, None) = operand else {
            return Err(self.error("the destination is not a register"));
        };
        if name == "_" {
            return Ok((self.b.sink(), 0));
        }
        match self.b.reg(name) {
            Some(reg) if reg.ty.bits() >= ty.bits() && reg.ty != Ty::B128 => {
                Ok((reg.slot, reg.ty.bits()))
            }
            Some(reg) => Err(self.error(format!(
                "register `{name}` has {} bits, the instruction writes {}",
                reg.ty.bits(),
                ty.bits()
            ))),
            None => Err(self.error(format!("`{name}` is not a register declared here"))),
        }
    }

    /// A predicate to write; `_` is one nobody reads.
    pub fn pred_dst_of(&mut self, operand: &Operand) -> Result<PSlot> {
        let Operand::Name(name, None) = operand else {
            return Err(self.error("the destination is not a predicate register"));
        };
        if name == "_" {
            return Ok(self.b.pred_sink());
        }
        self.b.pred(name).ok_or_else(|| self.error(format!("`{name}` is not a predicate register")))
    }

    /// A predicate to read, `!` allowed, and the constants 0 and 1.
    pub fn pred_of(&mut self, operand: &Operand) -> Result<Pred> {
        match operand {
            Operand::Not(inner) => {
                let p = self.pred_of(inner)?;
                Ok(Pred { slot: p.slot, negated: !p.negated })
            }
            Operand::Name(name, None) => match self.b.pred(name) {
                Some(slot) => Ok(Pred { slot, negated: false }),
                None => Err(self.error(format!("`{name}` is not a predicate register"))),
            },
            Operand::Int(v) => {
                let slot = self.b.new_pred("a constant");
                let r = self.raw;
                let op = Op::ConstPred { d: slot, value: *v & 1 == 1 };
                self.b.emit(op, None, r.line, r.loc, r.span.clone());
                Ok(Pred { slot, negated: false })
            }
            _ => Err(self.error("a predicate register is expected")),
        }
    }

    /// The elements of `{…}`, or the operand itself as the only one.
    pub fn elements(&self, i: usize) -> Result<&'b [Operand]> {
        Ok(match self.operand(i)? {
            Operand::Vector(v) => v,
            other => std::slice::from_ref(other),
        })
    }

    /// A vector of `n` sources of this type.
    pub fn src_vector(&mut self, i: usize, n: usize, ty: Ty) -> Result<Vec<Slot>> {
        let parts = self.counted(i, n)?;
        parts.iter().map(|p| self.src_of(p, ty)).collect()
    }

    /// A vector of `n` destinations of this type.
    pub fn dst_vector(&mut self, i: usize, n: usize, ty: Ty) -> Result<Vec<Slot>> {
        let parts = self.counted(i, n)?;
        parts.iter().map(|p| self.dst_of(p, ty)).collect()
    }

    fn counted(&self, i: usize, n: usize) -> Result<&'b [Operand]> {
        let parts = self.elements(i)?;
        if parts.len() != n {
            return Err(self.error(format!(
                "operand {} has {} registers, {n} are expected",
                i + 1,
                parts.len()
            )));
        }
        Ok(parts)
    }

    /// An address operand.
    pub fn addr(&mut self, i: usize) -> Result<Addr> {
        let operand = self.operand(i)?;
        self.addr_of(operand)
    }

    /// An address; frame variables are relative to the frame.
    pub fn addr_of(&mut self, operand: &Operand) -> Result<Addr> {
        let Operand::Address { base, offset, .. } = operand else {
            return Err(self.error("an address in brackets is expected"));
        };
        match base.as_ref() {
            Operand::Int(v) => {
                let offset = (*v as i64).wrapping_add(*offset);
                Ok(Addr { base: None, offset, frame: false })
            }
            Operand::Name(name, None) => {
                if let Some(reg) = self.b.reg(name) {
                    if !matches!(reg.ty.bits(), 32 | 64) {
                        return Err(self
                            .error(format!("`{name}` is no address: 32 or 64 bits are expected")));
                    }
                    return Ok(Addr { base: Some(reg.slot), offset: *offset, frame: false });
                }
                match self.b.lookup(name).map(|(_, s)| s.clone()) {
                    Some(Symbol::Frame { offset: at, .. }) => Ok(Addr {
                        base: None,
                        offset: (at as i64).wrapping_add(*offset),
                        frame: true,
                    }),
                    Some(Symbol::KernelParam { offset: at }) => Ok(Addr {
                        base: None,
                        offset: i64::from(at).wrapping_add(*offset),
                        frame: false,
                    }),
                    _ => {
                        let slot = self.symbol(name, 0)?;
                        Ok(Addr { base: Some(slot), offset: *offset, frame: false })
                    }
                }
            }
            _ => Err(self.error("an address needs a register, a variable or a number")),
        }
    }

    /// The name an address starts with, if it is a name.
    pub fn addr_name(&self, i: usize) -> Option<&'b str> {
        match self.raw.operands.get(i) {
            Some(Operand::Address { base, .. }) => match base.as_ref() {
                Operand::Name(name, None) => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    /// A rounding among the modifiers.
    pub fn explicit_rounding(&mut self) -> Option<Rounding> {
        self.mods.find(|m| {
            Some(match m {
                "rn" => Rounding::NearestEven,
                "rna" => Rounding::NearestAway,
                "rz" => Rounding::TowardZero,
                "rm" => Rounding::Down,
                "rp" => Rounding::Up,
                _ => return None,
            })
        })
    }
}
