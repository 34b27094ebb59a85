//! Shuffles, votes, matches, reductions and moves of small matrices.

use super::access::Place;
use super::block::Env;
use super::mma::c_place;
use super::warp::{Raise, Step, Warp};
use crate::error::{FaultKind, Space};
use crate::lower::ops::{Addr, Inst, MatrixForm, Op, ReduxOp, ShflMode, Slot, VoteMode};
use crate::numeric::native::{f, fb};

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 == 1)
}

impl Warp {
    /// The lanes that an instruction says take part.
    pub(super) fn sync_mask(&self, op: &Op, mask: u32) -> Step<u32> {
        let slot = match op {
            Op::WarpSync { mask }
            | Op::Shfl { mask, .. }
            | Op::Vote { mask, .. }
            | Op::Match { mask, .. }
            | Op::Redux { mask, .. }
            | Op::Elect { mask, .. } => *mask,
            // The aligned ones need the whole warp.
            _ => return Ok(u32::MAX),
        };
        // Lanes that run together but name different masks are separate operations: each
        // lane must at least be in its own mask.
        let values = self.read(slot, mask)?;
        let first = values[mask.trailing_zeros() as usize & 31] as u32;
        for l in lanes(mask) {
            if values[l] as u32 >> l & 1 == 0 {
                let message = format!("lane {l} is not in its own mask {:#010x}", values[l]);
                return Err(Raise::at(l)(FaultKind::InvalidOperand(message)));
            }
            if values[l] as u32 != first {
                let kind = FaultKind::InvalidOperand(format!(
                    "lanes that run together name the masks {first:#010x} and {:#010x}",
                    values[l]
                ));
                return Err(Raise::at(l)(kind));
            }
        }
        Ok(first)
    }

    /// Runs an instruction of a warp for all lanes that take part.
    /// `at` is the function and the place of the instruction in it.
    pub(super) fn together(
        &mut self,
        env: &mut Env<'_>,
        inst: &Inst,
        at: (usize, u32),
        mask: u32,
    ) -> Step {
        match &inst.op {
            Op::WarpSync { .. } => {
                env.clocks.sync_lanes(self.id, mask, self.live);
                Ok(())
            }
            Op::Shfl { mode, d, p, a, b, c, .. } => self.shfl(*mode, (*d, *p), *a, (*b, *c), mask),
            Op::Vote { mode, d, pd, a, .. } => {
                let v = self.pred(*a, mask)? & mask;
                let all = match mode {
                    VoteMode::All => v == mask,
                    VoteMode::Any => v != 0,
                    VoteMode::Uni => v == mask || v == 0,
                    VoteMode::Ballot => {
                        self.write(*d, &[u64::from(v); 32], mask);
                        return Ok(());
                    }
                };
                self.write_pred(*pd, if all { u32::MAX } else { 0 }, mask);
                Ok(())
            }
            Op::Match { all, d, p, a, .. } => {
                let v = *self.read(*a, mask)?;
                let same =
                    |l: usize| lanes(mask).filter(|&m| v[m] == v[l]).fold(0u32, |s, m| s | 1 << m);
                let mut out = [0u64; 32];
                let mut every = 0;
                for l in lanes(mask) {
                    let s = same(l);
                    every |= u32::from(s == mask) << l;
                    out[l] = if *all && s != mask { 0 } else { u64::from(s) };
                }
                self.write(*d, &out, mask);
                if let Some(p) = p {
                    self.write_pred(*p, every, mask);
                }
                Ok(())
            }
            Op::Redux { op, d, a, .. } => {
                let v = *self.read(*a, mask)?;
                let first = v[mask.trailing_zeros() as usize & 31];
                // A single lane's value goes through `abs` as well.
                let first = match op {
                    ReduxOp::MinF { .. } | ReduxOp::MaxF { .. } => redux(*op, first, first),
                    _ => first,
                };
                let r = lanes(mask).skip(1).fold(first, |x, l| redux(*op, x, v[l]));
                self.write(*d, &[r; 32], mask);
                Ok(())
            }
            Op::Elect { d, p, .. } => {
                let leader = mask.trailing_zeros();
                if let Some(d) = d {
                    self.write(*d, &[u64::from(leader); 32], mask);
                }
                self.write_pred(*p, 1 << leader, mask);
                Ok(())
            }
            Op::LdMatrix { d, addr, space, trans, form } => {
                self.ldmatrix(env, d, *addr, *space, *trans, *form, mask)
            }
            Op::StMatrix { s, addr, space, trans, form } => {
                self.stmatrix(env, s, *addr, *space, *trans, *form, mask)
            }
            Op::MovMatrix { d, a } => {
                let v = *self.read(*a, mask)?;
                let element =
                    |row: usize, col: usize| v[row * 4 + col / 2] >> (16 * (col % 2)) & 0xffff;
                let mut out = [0u64; 32];
                for (l, o) in out.iter_mut().enumerate() {
                    let (row, col) = (l / 4, l % 4 * 2);
                    *o = element(col, row) | element(col + 1, row) << 16;
                }
                self.write(*d, &out, mask);
                Ok(())
            }
            Op::Mma(m) => {
                if let Some(p) = &mut env.profile {
                    p.mma += 1;
                }
                self.mma(m, env.image.mma, env.image.target, mask)
            }
            Op::Wgmma(w) => {
                if let Some(p) = &mut env.profile {
                    p.mma += 1;
                }
                self.wgmma(env, w, at, mask)
            }
            Op::WgmmaFence => self.wgmma_fence(env, at),
            Op::WgmmaCommit => self.wgmma_commit(env, at),
            Op::WgmmaWait { pending } => self.wgmma_wait(env, at, *pending),
            Op::SetMaxNreg { increase, count } => {
                if self.set_registers(env, at, *increase, *count)? {
                    return Ok(());
                }
                let message = "the registers asked for are not there".to_string();
                Err(FaultKind::BarrierMisuse(message).into())
            }
            _ => Ok(()),
        }
    }

    fn shfl(
        &mut self,
        mode: ShflMode,
        (d, p): (Slot, Option<u32>),
        a: Slot,
        (b, c): (Slot, Slot),
        mask: u32,
    ) -> Step {
        let v = *self.read(a, mask)?;
        let (bs, cs) = (*self.read(b, mask)?, *self.read(c, mask)?);
        let mut out = [0u64; 32];
        let mut valid = 0u32;
        for l in lanes(mask) {
            let lane = l as i64;
            let offset = (bs[l] & 31) as i64;
            let clamp = (cs[l] & 31) as i64;
            let segment = (cs[l] >> 8 & 31) as i64;
            let max = lane & segment | clamp & !segment;
            let min = lane & segment;
            let (from, ok) = match mode {
                ShflMode::Up => (lane - offset, lane - offset >= max),
                ShflMode::Down => (lane + offset, lane + offset <= max),
                ShflMode::Bfly => (lane ^ offset, lane ^ offset <= max),
                ShflMode::Idx => {
                    let from = min | offset & !segment;
                    (from, from <= max)
                }
            };
            let from = if ok { from as usize & 31 } else { l };
            if mask >> from & 1 == 0 {
                let kind = FaultKind::InvalidOperand(format!(
                    "lane {l} reads lane {from}, which does not take part"
                ));
                return Err(Raise::at(l)(kind));
            }
            out[l] = v[from];
            valid |= u32::from(ok) << l;
        }
        self.write(d, &out, mask);
        if let Some(p) = p {
            self.write_pred(p, valid, mask);
        }
        Ok(())
    }

    /// The bytes of one matrix row, 16 of them.
    fn row(
        &self,
        env: &mut Env<'_>,
        addresses: &[u64; 32],
        space: Space,
        lane: usize,
    ) -> Step<[u8; 16]> {
        let place = Place::of(space, addresses[lane]);
        let read = |env: &mut Env<'_>| {
            place.aligned(16, "matrix read")?;
            if !matches!(place, Place::Shared(_)) {
                let message = "the address does not point to shared memory".to_string();
                return Err(FaultKind::InvalidOperand(message));
            }
            let mut row = [0; 16];
            for half in 0..2 {
                let v = self.get(env, place.plus(8 * half), 8, lane, true)?;
                row[8 * half as usize..][..8].copy_from_slice(&v.to_le_bytes());
            }
            Ok(row)
        };
        read(env).map_err(Raise::at(lane))
    }

    #[allow(clippy::too_many_arguments)]
    fn ldmatrix(
        &mut self,
        env: &mut Env<'_>,
        d: &[Slot],
        addr: Addr,
        space: Space,
        trans: bool,
        form: MatrixForm,
        mask: u32,
    ) -> Step {
        // Only the lanes that give a row need an address.
        let rows_per = if form == MatrixForm::M16N16B8 { 16 } else { 8 };
        let matrices = if form == MatrixForm::M16N16B8 { d.len() / 2 } else { d.len() };
        let givers = ((1u64 << (rows_per * matrices)) - 1) as u32;
        let addresses = self.addresses(addr, mask & givers, 0)?;
        if let Some(p) = &mut env.profile {
            for m in 0..matrices * rows_per / 8 {
                p.shared(env.line, addresses[m * 8..m * 8 + 8].iter().copied(), 16);
            }
        }
        for m in 0..matrices {
            let mut rows = [[0u8; 16]; 16];
            for (r, row) in rows.iter_mut().enumerate().take(rows_per) {
                *row = self.row(env, &addresses, space, m * rows_per + r)?;
            }
            if form == MatrixForm::M16N16B8 {
                // Always transposed. Two 16 × 8 halves: lane l holds of each four bytes.
                for half in 0..2 {
                    let mut out = [0u64; 32];
                    for (l, o) in out.iter_mut().enumerate() {
                        let (row, col) = (l / 4 + 8 * half, l % 4 * 4);
                        for i in 0..4 {
                            *o |= u64::from(rows[col + i][row]) << (8 * i);
                        }
                    }
                    self.write(d[2 * m + half], &out, mask);
                }
                continue;
            }
            let element = |r: usize, c: usize| {
                u64::from(u16::from_le_bytes([rows[r][2 * c], rows[r][2 * c + 1]]))
            };
            let mut out = [0u64; 32];
            for (l, o) in out.iter_mut().enumerate() {
                let (row, col) = (l / 4, l % 4 * 2);
                *o = if trans {
                    element(col, row) | element(col + 1, row) << 16
                } else {
                    element(row, col) | element(row, col + 1) << 16
                };
            }
            self.write(d[m], &out, mask);
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn stmatrix(
        &mut self,
        env: &mut Env<'_>,
        s: &[Slot],
        addr: Addr,
        space: Space,
        trans: bool,
        form: MatrixForm,
        mask: u32,
    ) -> Step {
        let givers = ((1u64 << (8 * s.len())) - 1) as u32;
        let addresses = self.addresses(addr, mask & givers, 0)?;
        if let Some(p) = &mut env.profile {
            for rows in addresses.chunks(8).take(s.len()) {
                p.shared(env.line, rows.iter().copied(), 16);
            }
        }
        env.progress += 1;
        for (m, &slot) in s.iter().enumerate() {
            let v = *self.read(slot, mask)?;
            let mut out = [[0u8; 16]; 8];
            for (l, x) in v.iter().enumerate() {
                let bytes = (*x as u32).to_le_bytes();
                if form == MatrixForm::M16N8B8 {
                    // Elements lie as in an accumulator of `mma`; columns become rows.
                    for (i, b) in bytes.iter().enumerate() {
                        let (row, col) = c_place(l, i);
                        out[col][row] = *b;
                    }
                    continue;
                }
                for i in 0..2 {
                    let (r, c) = (l / 4, l % 4 * 2 + i);
                    let (r, c) = if trans { (c, r) } else { (r, c) };
                    out[r][2 * c..2 * c + 2].copy_from_slice(&bytes[2 * i..2 * i + 2]);
                }
            }
            for (r, row) in out.iter().enumerate() {
                let lane = m * 8 + r;
                let place = Place::of(space, addresses[lane]);
                place.aligned(16, "matrix write").map_err(Raise::at(lane))?;
                if !matches!(place, Place::Shared(_)) {
                    let message = "the address does not point to shared memory".to_string();
                    return Err(Raise::at(lane)(FaultKind::InvalidOperand(message)));
                }
                for half in 0..2 {
                    let mut word = [0; 8];
                    word.copy_from_slice(&row[8 * half..8 * half + 8]);
                    let at = place.plus(8 * half as u64);
                    self.set(env, at, 8, u64::from_le_bytes(word), lane, true)
                        .map_err(Raise::at(lane))?;
                }
            }
        }
        Ok(())
    }
}

fn redux(op: ReduxOp, x: u64, y: u64) -> u64 {
    let signed = |v: u64| v as u32 as i32;
    let float = |abs: bool, v: u64| if abs { f(v).abs() } else { f(v) };
    let pick = |nan: bool, a: f32, b: f32, less: bool| {
        if nan && (a.is_nan() || b.is_nan()) {
            return fb(f32::NAN);
        }
        fb(if less { a.min(b) } else { a.max(b) })
    };
    match op {
        ReduxOp::Add => x.wrapping_add(y) & 0xffff_ffff,
        ReduxOp::And => x & y,
        ReduxOp::Or => x | y,
        ReduxOp::Xor => x ^ y,
        ReduxOp::MinU => x.min(y),
        ReduxOp::MaxU => x.max(y),
        ReduxOp::MinS => {
            if signed(x) < signed(y) {
                x
            } else {
                y
            }
        }
        ReduxOp::MaxS => {
            if signed(x) > signed(y) {
                x
            } else {
                y
            }
        }
        ReduxOp::MinF { abs, nan } => pick(nan, float(abs, x), float(abs, y), true),
        ReduxOp::MaxF { abs, nan } => pick(nan, float(abs, x), float(abs, y), false),
    }
}
