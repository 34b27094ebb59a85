//! Loads, stores, atomics and address conversions.

use super::decode::Decoder;
use super::ops::{Access, AtomOp, Known, Op, Order};
use crate::error::{Result, Space};
use crate::exec::memory::{PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::parse::ast::{Operand, Ty};

/// Modifiers that only steer caches.
const CACHE_HINTS: &[&str] = &[
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_first",
    "L2::evict_last",
    "L2::evict_normal",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];

pub(super) fn space(m: &str) -> Option<Space> {
    Some(match m {
        "global" => Space::Global,
        "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
        "local" => Space::Local,
        "const" => Space::Const,
        "param" | "param::entry" | "param::func" => Space::Param,
        _ => return None,
    })
}

impl Decoder<'_, '_> {
    pub(super) fn memory(&mut self) -> Result<()> {
        match self.raw.opcode.as_str() {
            "ld" | "ldu" => self.load_store(true),
            "st" => self.load_store(false),
            "atom" => self.atomic(true),
            "red" => self.atomic(false),
            "cvta" => self.cvta(),
            "isspacep" => {
                let Some(space) = self.mods.find(space) else {
                    return Err(self.error("a state space is missing"));
                };
                self.finish(2)?;
                let operand = self.operand(0)?;
                let (d, a) = (self.pred_dst_of(operand)?, self.src(1, Ty::U64)?);
                self.emit(Op::IsSpace { space, d, a });
                Ok(())
            }
            "prefetch" | "prefetchu" => {
                self.mods.find(space);
                while self.mods.one_of(&["L1", "L2", "tensormap"]).is_some() {}
                self.cache_hints();
                self.finish(1)?;
                // The address is formed and nothing else happens.
                self.addr(0)?;
                self.emit(Op::Nop);
                Ok(())
            }
            "createpolicy" => {
                // A cache policy is an opaque number that nothing here depends on.
                let operand = self.operand(0)?;
                let d = self.dst_of(operand, Ty::B64)?;
                let a = self.b.known(Known::Bits(0));
                self.emit(Op::Mov { d, a });
                Ok(())
            }
            _ => Err(self.error("changes of cached lines are not supported")),
        }
    }

    pub(super) fn cache_hints(&mut self) {
        while self.mods.one_of(CACHE_HINTS).is_some() {}
    }

    fn order(&mut self) -> Order {
        let strong =
            self.mods.one_of(&["volatile", "relaxed", "acquire", "release", "mmio"]).is_some();
        self.mods.take("weak");
        self.mods.one_of(&["cta", "cluster", "gpu", "sys"]);
        if strong { Order::Strong } else { Order::Weak }
    }

    fn load_store(&mut self, load: bool) -> Result<()> {
        let mut space = self.mods.find(space).unwrap_or(Space::Generic);
        let order = self.order();
        self.cache_hints();
        let hint = self.mods.take("L2::cache_hint");
        let lanes = match self.mods.one_of(&["v2", "v4", "v8"]) {
            None => 1,
            Some("v2") => 2,
            Some("v4") => 4,
            _ => 8,
        };
        let ty = self.ty()?;
        if ty == Ty::Pred || ty == Ty::B128 && lanes > 1 {
            return Err(self.error("this type is not loaded or stored here"));
        }
        // 16 bytes of one register go as two words.
        let (bytes, lanes) = if ty == Ty::B128 { (8, 2) } else { (ty.bytes(), lanes) };
        if bytes * lanes > 32 || lanes == 8 && bytes != 4 {
            return Err(self.error("the vector is wider than memory accesses are"));
        }
        if bytes * lanes == 32 {
            self.require(self.b.ctx.target.at_least(100), "sm_100 or newer")?;
        }
        self.finish(if hint { 3 } else { 2 })?;
        let (data, at) = if load { (0, 1) } else { (1, 0) };
        let addr = self.addr(at)?;
        let named = self.addr_name(at).and_then(|n| self.space_of(n));
        let mut parts = self.elements(data)?;
        let mut sign_to = 0;
        let mut regs = Vec::new();
        if let (Ty::B128, [p]) = (ty, parts) {
            regs.extend(self.wide(p)?);
            parts = &[];
        } else if parts.len() != lanes as usize {
            return Err(self.error(format!("{lanes} registers are expected")));
        }
        for p in parts {
            if load {
                let (slot, bits) = self.dst_wide(p, ty)?;
                if ty.signed() {
                    sign_to = bits;
                }
                regs.push(slot);
            } else {
                regs.push(self.src_wide(p, ty)?);
            }
        }
        // Parameters of functions and of calls live in frames; a kernel's are its own.
        if space == Space::Param {
            if named == Some(Space::Local) {
                space = Space::Local;
            } else if !load {
                return Err(self.error("a kernel's parameters cannot be written"));
            } else if addr.base.is_none() {
                let offset = u32::try_from(addr.offset).unwrap_or(u32::MAX);
                let end = u64::from(offset) + u64::from(bytes * lanes);
                if end > u64::from(self.b.function.param_bytes) {
                    return Err(self.error("the parameter is shorter than what is read"));
                }
                if !offset.is_multiple_of(bytes * lanes) {
                    return Err(self.error("the parameter's offset is not aligned to the access"));
                }
                self.emit(Op::LdParam { offset, bytes, sign_to, regs });
                return Ok(());
            }
        } else if space == Space::Generic && named == Some(Space::Local) {
            return Err(self.error("a frame variable is used as a generic address"));
        }
        let access = Box::new(Access { space, addr, bytes, sign_to, order, regs });
        self.emit(if load { Op::Ld(access) } else { Op::St(access) });
        Ok(())
    }

    fn atomic(&mut self, returns: bool) -> Result<()> {
        self.mods.one_of(&["relaxed", "acquire", "release", "acq_rel"]);
        self.mods.one_of(&["cta", "cluster", "gpu", "sys"]);
        let space = self.mods.find(space).unwrap_or(Space::Generic);
        if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
            return Err(self.error("atomics work on global and shared memory"));
        }
        let hint = self.mods.take("L2::cache_hint");
        let op = self.mods.find(|m| {
            Some(match m {
                "add" => AtomOp::Add,
                "min" => AtomOp::Min,
                "max" => AtomOp::Max,
                "inc" => AtomOp::Inc,
                "dec" => AtomOp::Dec,
                "and" => AtomOp::And,
                "or" => AtomOp::Or,
                "xor" => AtomOp::Xor,
                "exch" => AtomOp::Exch,
                "cas" => AtomOp::Cas,
                _ => return None,
            })
        });
        let Some(op) = op else { return Err(self.error("an operation is missing")) };
        self.mods.take("noftz");
        let lanes = match self.mods.one_of(&["v2", "v4", "v8"]) {
            None => 1usize,
            Some("v2") => 2,
            Some("v4") => 4,
            _ => 8,
        };
        let ty = self.ty()?;
        if ty == Ty::B128 && lanes == 1 && matches!(op, AtomOp::Exch | AtomOp::Cas) {
            return self.atomic_wide(op, space, returns, hint);
        }
        let float = matches!(ty, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F64);
        let minmax = matches!(op, AtomOp::Min | AtomOp::Max);
        let legal = match op {
            AtomOp::Add => !matches!(ty, Ty::B32 | Ty::B64 | Ty::B16),
            AtomOp::Min | AtomOp::Max => !matches!(ty, Ty::F32 | Ty::F64 | Ty::B32 | Ty::B64),
            AtomOp::Inc | AtomOp::Dec => ty == Ty::U32,
            AtomOp::And | AtomOp::Or | AtomOp::Xor | AtomOp::Exch => {
                matches!(ty, Ty::B32 | Ty::B64)
            }
            AtomOp::Cas => matches!(ty, Ty::B16 | Ty::B32 | Ty::B64),
        };
        let vector_ok = lanes == 1
            || space == Space::Global
                && float
                && lanes as u32 * ty.bytes() <= 16
                && (minmax || op == AtomOp::Add);
        if !legal || !vector_ok || ty.bits() < 16 || (minmax && float && lanes == 1) {
            return Err(self.error(format!(
                "there is no atomic `{}` on {ty:?}: add takes u32, s32, u64, f16, bf16, their \
                 pairs, f32 and f64; min and max integers; and, or, xor and exch b32 and b64; cas \
                 b16 to b128; inc and dec u32; vectors are of floats in global memory, at most 16 \
                 bytes",
                format!("{op:?}").to_lowercase()
            )));
        }
        if lanes > 1 {
            self.require(self.b.ctx.target.at_least(90), "sm_90 or newer")?;
        }
        let first = usize::from(returns);
        let sources = if op == AtomOp::Cas { 2 } else { 1 };
        self.finish(first + 1 + sources + usize::from(hint))?;
        let d = if returns { self.dst_vector(0, lanes, ty)? } else { Vec::new() };
        let addr = self.addr(first)?;
        let b = self.src_vector(first + 1, lanes, ty)?;
        let c = if sources == 2 { Some(self.src(first + 2, ty)?) } else { None };
        self.emit(Op::Atom { op, ty, space, addr, d, b, c });
        Ok(())
    }

    fn atomic_wide(&mut self, op: AtomOp, space: Space, returns: bool, hint: bool) -> Result<()> {
        self.require(self.b.ctx.target.at_least(90), "sm_90 or newer")?;
        if !returns {
            return Err(self.error("there is no such reduction"));
        }
        let swaps = op == AtomOp::Cas;
        self.finish(3 + usize::from(swaps) + usize::from(hint))?;
        let (to, b) = (self.operand(0)?, self.operand(2)?);
        let d = self.wide(to)?;
        let addr = self.addr(1)?;
        let b = self.wide(b)?;
        let c = if swaps {
            let operand = self.operand(3)?;
            Some(self.wide(operand)?)
        } else {
            None
        };
        self.emit(Op::AtomWide { space, addr, d, b, c });
        Ok(())
    }

    fn cvta(&mut self) -> Result<()> {
        let to = self.mods.take("to");
        let Some(space) = self.mods.find(space) else {
            return Err(self.error("a state space is missing"));
        };
        let ty = self.ty()?;
        if ty != Ty::U64 {
            return Err(self.error("generic addresses have 64 bits"));
        }
        self.finish(2)?;
        let d = self.dst(0, ty)?;
        let a = match self.operand(1)? {
            Operand::Int(_) => return Err(self.error("a register or a variable is expected")),
            operand => self.src_of(operand, ty)?,
        };
        let window = match space {
            // Global and constant addresses are generic addresses as they are; local ones
            // are too, since each thread's window is its own.
            Space::Global | Space::Const | Space::Local => {
                self.emit(Op::Mov { d, a });
                return Ok(());
            }
            Space::Shared => SHARED_WINDOW,
            _ => PARAM_WINDOW,
        };
        debug_assert!(WINDOW_BYTES.is_power_of_two());
        let base = self.b.known(Known::Bits(window));
        let f = if to {
            super::alu::f2!(|a, b| a.wrapping_sub(b))
        } else {
            super::alu::f2!(|a, b| a.wrapping_add(b))
        };
        self.emit(Op::Alu { f, d, s: [a, base, a, a], imm: 0, pre: None, post: None });
        Ok(())
    }
}
