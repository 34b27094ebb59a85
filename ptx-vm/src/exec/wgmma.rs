//! `wgmma`: asynchronous matrix multiplications of four warps.
//!
//! A multiplication is carried out when it is issued, each warp its own 16 of the 64 rows.
//! Until the warp has waited for it, its accumulators count as unwritten and its operands
//! must not change. D's element `i` of a lane is at row `g + 8·(i / 2 mod 2)`, column
//! `8·(i / 4) + 2t + i mod 2`; A in registers lies as in `mma.sync`.

use std::collections::{HashMap, VecDeque};

use super::block::Env;
use super::mma::format;
use super::warp::{Raise, Step, Warp};
use crate::check::shared::CHUNK;
use crate::error::FaultKind;
use crate::lower::ops::{Lanes, Pred, Slot};
use crate::numeric::element::{Accumulator, Element};
use crate::numeric::product::{Arithmetic, HardwareModel, Product};

/// Warps of a warpgroup.
const WARPS: usize = 4;

/// Where A comes from.
#[derive(Debug, Clone)]
pub(crate) enum ASource {
    Registers(Vec<Slot>),
    Shared { descriptor: Slot, trans: bool },
}

/// A multiplication of a 64 × k by a k × n matrix.
#[derive(Debug, Clone)]
pub(crate) struct WgmmaOp {
    pub n: usize,
    pub k: usize,
    pub a: Element,
    pub b: Element,
    pub d: Accumulator,
    pub saturate: bool,
    pub d_regs: Vec<Slot>,
    pub a_source: ASource,
    pub b_descriptor: Slot,
    pub b_trans: bool,
    /// Whether D is added to.
    pub scale_d: Pred,
    /// Whether A and B are taken negative.
    pub negate: (bool, bool),
}

/// What a warp knows of its multiplications in progress.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    fenced: bool,
    open: Vec<Flight>,
    groups: VecDeque<Vec<Flight>>,
    /// Accumulators: how many multiplications hold them, and the line of the last.
    registers: HashMap<usize, (u32, u32)>,
}

impl InFlight {
    /// The line of the multiplication that holds a register.
    pub fn line_of(&self, register: usize) -> Option<u32> {
        self.registers.get(&register).map(|r| r.1)
    }

    /// Whether a multiplication holds a register.
    pub fn holds(&self, register: usize) -> bool {
        self.line_of(register).is_some()
    }
}

/// One multiplication in progress.
#[derive(Debug)]
struct Flight {
    line: u32,
    d: Vec<usize>,
    /// Registers that an accumulator was copied to.
    copies: Vec<usize>,
    a: Vec<(usize, Box<Lanes>)>,
    chunks: Vec<u64>,
}

/// What the warps of a warpgroup executed together, as far as not all have.
#[derive(Debug, Default)]
pub(crate) struct GroupLog {
    entries: VecDeque<Entry>,
    first: u64,
    at: [u64; WARPS],
}

/// An instruction of a whole warpgroup.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Entry {
    pub function: usize,
    pub pc: u32,
    /// What must be the same in all warps.
    operands: (u64, u64),
}

impl GroupLog {
    /// An instruction that some warp of the group never reached, and one that did.
    pub fn left_over(&self) -> Option<(Entry, usize)> {
        let entry = *self.entries.front()?;
        (0..WARPS).find(|w| self.at[*w] > self.first).map(|w| (entry, w))
    }
}

/// A matrix in shared memory (PTX ISA, "Matrix Descriptor Format").
#[derive(Debug, Clone, Copy)]
struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    base_offset: u64,
    /// Chunks that a swizzle pattern is wide: 1 (none), 2, 4 or 8.
    width: u64,
}

impl Descriptor {
    fn new(bits: u64) -> Result<Descriptor, FaultKind> {
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        let width = [1, 8, 4, 2][(bits >> 62) as usize];
        let base_offset = bits >> 49 & 7;
        if width == 1 && base_offset != 0 {
            let message = "a matrix descriptor without swizzle has a base offset".to_string();
            return Err(FaultKind::InvalidOperand(message));
        }
        Ok(Descriptor {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset,
            width,
        })
    }

    /// The address of a chunk: of row `line`, chunk `i` along k when k is contiguous; when
    /// it is not, of position `line` along k, chunk `i` along the rows.
    fn address(&self, line: u64, i: u64, k_major: bool) -> u64 {
        let (in_eight, eight) = (line % 8 * CHUNK * self.width, line / 8);
        let offset = match (k_major, self.width) {
            (true, 1) => in_eight + eight * self.stride + i * self.leading,
            (true, _) => in_eight + eight * self.stride + i * CHUNK,
            (false, 1) => in_eight + eight * self.leading + i * self.stride,
            (false, w) => in_eight + eight * self.stride + i % w * CHUNK + i / w * self.leading,
        };
        let linear = self.start + offset;
        let row = (linear >> 7).wrapping_sub(self.base_offset);
        linear ^ (row & (self.width - 1)) << 4
    }
}

impl Warp {
    /// Notes that this warp runs an instruction that its whole warpgroup must run.
    fn with_group(&self, env: &mut Env<'_>, at: (usize, u32), operands: (u64, u64)) -> Step {
        let misuse = |m: String| Raise::from(FaultKind::BarrierMisuse(m));
        let threads: u32 = env.image.config.block.iter().product();
        let group = self.id / WARPS;
        if (group as u32 + 1) * WARPS as u32 * 32 > threads {
            return Err(misuse(format!(
                "this needs a warpgroup of 4 warps, and the block of {threads} threads ends within it"
            )));
        }
        let entry = Entry { function: at.0, pc: at.1, operands };
        let (log, me) = (&mut env.groups[group], self.id % WARPS);
        let index = (log.at[me] - log.first) as usize;
        log.at[me] += 1;
        match log.entries.get(index) {
            None => log.entries.push_back(entry),
            Some(e) if (e.function, e.pc) != at => {
                let line = env.image.functions[e.function].insts[e.pc as usize].line;
                return Err(misuse(format!(
                    "another warp of the warpgroup runs the one at PTX line {line} instead"
                )));
            }
            Some(e) if e.operands != operands => {
                return Err(misuse(
                    "the matrix descriptors differ between the warps of the warpgroup".into(),
                ));
            }
            Some(_) => {}
        }
        while log.at.iter().all(|a| *a > log.first) {
            log.entries.pop_front();
            log.first += 1;
        }
        Ok(())
    }

    pub(super) fn wgmma_fence(&mut self, env: &mut Env<'_>, at: (usize, u32)) -> Step {
        self.with_group(env, at, (0, 0))?;
        self.in_flight.fenced = true;
        Ok(())
    }

    pub(super) fn wgmma_commit(&mut self, env: &mut Env<'_>, at: (usize, u32)) -> Step {
        self.with_group(env, at, (0, 0))?;
        let group = std::mem::take(&mut self.in_flight.open);
        self.in_flight.groups.push_back(group);
        Ok(())
    }

    pub(super) fn wgmma_wait(&mut self, env: &mut Env<'_>, at: (usize, u32), pending: u32) -> Step {
        self.with_group(env, at, (0, 0))?;
        while self.in_flight.groups.len() > pending as usize {
            for flight in self.in_flight.groups.pop_front().into_iter().flatten() {
                self.land(env, flight)?;
            }
        }
        Ok(())
    }

    /// A multiplication is over: nothing may have touched its operands.
    fn land(&mut self, env: &mut Env<'_>, flight: Flight) -> Step {
        let touched = |access, register: usize| FaultKind::PendingMma {
            access,
            what: format!("r#{}", register.wrapping_sub(self.value_base)),
            issued_line: flight.line,
        };
        for (register, before) in &flight.a {
            if self.values[*register] != **before {
                return Err(touched("write", *register).into());
            }
        }
        for register in &flight.d {
            if self.written[*register] != 0 {
                return Err(touched("write", *register).into());
            }
        }
        for register in flight.d.iter().chain(&flight.copies) {
            if let Some(held) = self.in_flight.registers.get_mut(register) {
                held.0 -= 1;
                if held.0 == 0 {
                    self.in_flight.registers.remove(register);
                    self.written[*register] = u32::MAX;
                }
            }
        }
        for chunk in flight.chunks {
            env.shared.end_use(chunk, self.id, flight.line, &env.clocks);
        }
        Ok(())
    }

    /// An accumulator in progress was copied: the copy is in progress too.
    #[cold]
    pub(super) fn copy_in_flight(&mut self, from: Slot, to: Slot) {
        let (from, to) = (self.value_base + from as usize, self.value_base + to as usize);
        let Some(&(_, line)) = self.in_flight.registers.get(&from) else { return };
        let flights = self.in_flight.groups.iter_mut().flatten().chain(&mut self.in_flight.open);
        let holder = flights.filter(|f| f.d.contains(&from) || f.copies.contains(&from)).last();
        if let Some(f) = holder {
            f.copies.push(to);
            let held = self.in_flight.registers.entry(to).or_insert((0, line));
            *held = (held.0 + 1, line);
        }
    }

    pub(super) fn wgmma(
        &mut self,
        env: &mut Env<'_>,
        op: &WgmmaOp,
        at: (usize, u32),
        mask: u32,
    ) -> Step {
        let (n, k) = (op.n, op.k);
        let b_bits = self.uniform(op.b_descriptor, mask, "B's matrix descriptor")?;
        let a_bits = match &op.a_source {
            ASource::Registers(_) => 0,
            ASource::Shared { descriptor, .. } => {
                self.uniform(*descriptor, mask, "A's matrix descriptor")?
            }
        };
        self.with_group(env, at, (a_bits, b_bits))?;
        if self.checked && !self.in_flight.fenced {
            let message = "the first `wgmma.mma_async` comes without a `wgmma.fence` before it";
            return Err(FaultKind::BarrierMisuse(message.into()).into());
        }
        let accumulate = self.pred(op.scale_d, mask)? & mask;
        if accumulate != 0 && accumulate != mask {
            let message = "scale-d differs between lanes".to_string();
            return Err(FaultKind::InvalidOperand(message).into());
        }
        let mut chunks = Vec::new();
        let mut a = match &op.a_source {
            ASource::Registers(regs) => self.a_fragment(16, op.a, k, regs)?,
            ASource::Shared { trans, .. } => {
                let rows = (self.id % WARPS * 16, 16);
                self.operand(env, a_bits, op.a, rows, k, *trans, &mut chunks)?
            }
        };
        let mut b = self.operand(env, b_bits, op.b, (0, n), k, op.b_trans, &mut chunks)?;
        for (negative, values) in [(op.negate.0, &mut a), (op.negate.1, &mut b)] {
            if negative {
                values.iter_mut().for_each(|v| *v = -*v);
            }
        }
        let mut c = vec![0.0; 16 * n];
        if accumulate != 0 {
            self.accumulators(op, &mut c)?;
        }
        let product = Product { k, a: &a, b: &b, scales: None };
        let d = match (op.d, env.image.mma) {
            (Accumulator::S32, _) => product.integer(&c, op.saturate),
            (d, Arithmetic::Hardware) => {
                let model = HardwareModel::wgmma(op.a, k);
                product.hardware(&c, (op.a, op.b), model, format(d))
            }
            (d, _) => product.exact(&c, format(d)),
        };
        let per = op.d.per_register();
        for (r, &slot) in op.d_regs.iter().enumerate() {
            let mut out = [0u64; 32];
            for (lane, o) in out.iter_mut().enumerate() {
                for i in 0..per {
                    let (row, col) = d_place(lane, r * per + i);
                    *o |= u64::from(d[row * n + col]) << (i as u32 * op.d.bits());
                }
            }
            self.write(slot, &out, mask);
        }
        if self.checked {
            self.take_off(op, env.line, chunks);
        }
        Ok(())
    }

    /// From now on, until waited for, the operands are not to be touched.
    fn take_off(&mut self, op: &WgmmaOp, line: u32, chunks: Vec<u64>) {
        let index = |slot: &Slot| self.value_base + *slot as usize;
        let d: Vec<usize> = op.d_regs.iter().map(index).collect();
        let a = match &op.a_source {
            ASource::Registers(regs) => {
                regs.iter().map(|s| (index(s), Box::new(self.values[index(s)]))).collect()
            }
            ASource::Shared { .. } => Vec::new(),
        };
        for register in &d {
            self.written[*register] = 0;
            let held = self.in_flight.registers.entry(*register).or_insert((0, line));
            *held = (held.0 + 1, line);
        }
        self.in_flight.open.push(Flight { line, d, copies: Vec::new(), a, chunks });
    }

    /// D's values before; those of a multiplication in progress are at hand for the next one.
    fn accumulators(&self, op: &WgmmaOp, c: &mut [f64]) -> Step {
        let (per, field) = (op.d.per_register(), u32::MAX >> (32 - op.d.bits()));
        for (r, &slot) in op.d_regs.iter().enumerate() {
            if self.in_flight.line_of(self.value_base + slot as usize).is_none() {
                self.need(slot, u32::MAX)?;
            }
            for (lane, word) in self.value(slot).iter().enumerate() {
                for i in 0..per {
                    let (row, col) = d_place(lane, r * per + i);
                    let code = *word as u32 >> (i as u32 * op.d.bits()) & field;
                    c[row * op.n + col] = op.d.value(code);
                }
            }
        }
        Ok(())
    }

    /// Rows of A or columns of B from shared memory, `(first, count)` of them.
    #[allow(clippy::too_many_arguments)]
    fn operand(
        &self,
        env: &mut Env<'_>,
        descriptor: u64,
        element: Element,
        (first, count): (usize, usize),
        k: usize,
        trans: bool,
        chunks: &mut Vec<u64>,
    ) -> Step<Vec<f64>> {
        let descriptor = Descriptor::new(descriptor)?;
        let per_chunk = 8 * CHUNK as usize / element.container_bits() as usize;
        // Lines of memory, and chunks of each.
        let (lines, across) = if trans {
            (0..k, first / per_chunk..(first + count) / per_chunk)
        } else {
            (first..first + count, 0..k / per_chunk)
        };
        let mut out = vec![0.0; count * k];
        for line in lines {
            for i in across.clone() {
                let address = descriptor.address(line as u64, i as u64, !trans);
                let data = env.shared.begin_use(address, self.id, env.line, &env.clocks)?;
                chunks.push(address);
                for (w, word) in data.chunks(4).enumerate() {
                    let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                    let before = i * per_chunk + w * per_chunk / 4;
                    element.unpack(word, |e, v| {
                        let at = if trans {
                            (before + e - first) * k + line
                        } else {
                            (line - first) * k + before + e
                        };
                        out[at] = v;
                    });
                }
            }
        }
        Ok(out)
    }

    /// `setmaxnreg`; `false` while the registers are not there.
    pub(super) fn set_registers(
        &mut self,
        env: &mut Env<'_>,
        at: (usize, u32),
        increase: bool,
        count: u32,
    ) -> Step<bool> {
        let have = env.registers[self.id];
        let limit = env.image.functions[env.image.entry].tuning.max_nreg.is_some();
        if limit && (increase && count < have || !increase && count > have) {
            let way = if increase { "raised" } else { "lowered" };
            let message = format!("the register count of {have} is {way} to {count}");
            return Err(FaultKind::InvalidOperand(message).into());
        }
        let others: u32 = env.registers.iter().sum::<u32>() - have;
        if increase && others + count > env.register_pool {
            return Ok(false);
        }
        self.with_group(env, at, (0, 0))?;
        env.registers[self.id] = count;
        env.progress += 1;
        Ok(true)
    }
}

/// Row (of the warp's 16) and column of element `i` of D in a lane.
fn d_place(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2 % 2), i / 4 * 8 + lane % 4 * 2 + i % 2)
}
