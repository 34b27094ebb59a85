//! The compact form that the machine runs: names are gone, every operand is a slot.

use std::ops::Range;

use super::special::{Clock, Special};
use crate::error::Space;
use crate::exec::mma::MmaOp;
use crate::exec::wgmma::WgmmaOp;
use crate::parse::ast::{Loc, Ty};

/// A value of every lane.
pub(crate) type Lanes = [u64; 32];
/// Index of a value register, relative to its function.
pub(crate) type Slot = u32;
/// Index of a predicate register, relative to its function.
pub(crate) type PSlot = u32;

/// Where lanes that take different ways meet again.
pub(crate) const AT_RETURN: u32 = u32::MAX - 1;
/// No meeting point: the ways never join.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// A function on whole lanes; pure, so that inactive lanes may hold anything.
#[derive(Clone, Copy)]
pub(crate) enum AluFn {
    F1(fn(&Lanes, &mut Lanes)),
    F2(fn(&Lanes, &Lanes, &mut Lanes)),
    F3(fn(&Lanes, &Lanes, &Lanes, &mut Lanes)),
    F4(fn(&Lanes, &Lanes, &Lanes, &Lanes, &mut Lanes)),
    /// With a number from the instruction (`lop3`'s table, `prmt`'s mode).
    F3i(fn(&Lanes, &Lanes, &Lanes, u64, &mut Lanes)),
    Cvt(crate::lower::alu::convert::Cvt),
}

/// Changes lanes in place: flushing and clamping around an [`AluFn`].
pub(crate) type LaneFix = fn(&mut Lanes);
/// A comparison of whole lanes.
pub(crate) type CompareFn = fn(&Lanes, &Lanes) -> u32;

/// A predicate operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pred {
    pub slot: PSlot,
    pub negated: bool,
}

/// A boolean operation on predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoolOp {
    And,
    Or,
    Xor,
}

/// An address: a register or a symbol, plus an offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addr {
    pub base: Option<Slot>,
    pub offset: i64,
    /// Relative to the frame of the running function.
    pub frame: bool,
}

/// How strongly an access is ordered; only what the checker needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Weak,
    /// `volatile`, `relaxed`, `mmio`: never part of a race.
    Strong,
}

/// A memory access.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub space: Space,
    pub addr: Addr,
    /// Bytes of one element.
    pub bytes: u32,
    /// Sign-extend loads to this register width.
    pub sign_to: u32,
    pub order: Order,
    pub regs: Vec<Slot>,
}

/// What an atomic does with memory and operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

/// The kinds of `shfl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// The kinds of `vote`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

/// The kinds of `redux`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReduxOp {
    Add,
    MinS,
    MaxS,
    MinU,
    MaxU,
    And,
    Or,
    Xor,
    MinF { abs: bool, nan: bool },
    MaxF { abs: bool, nan: bool },
}

/// The reductions of `barrier.red`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarRed {
    Popc,
    And,
    Or,
}

/// What a block barrier does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BarKind {
    Sync,
    Arrive,
    Red { op: BarRed, input: Pred, value: Option<Slot>, pred: Option<PSlot> },
}

/// `mbarrier` operations on an object in shared memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MbarOp {
    Init {
        count: Slot,
    },
    Invalidate,
    Arrive {
        state: Option<Slot>,
        count: Option<Slot>,
        drop: bool,
        expect_tx: Option<Slot>,
        /// It is a mistake if this ends the phase.
        no_complete: bool,
    },
    ExpectTx {
        bytes: Slot,
    },
    CompleteTx {
        bytes: Slot,
    },
    Test {
        done: PSlot,
        state: Slot,
        parity: bool,
        may_wait: bool,
    },
    PendingCount {
        d: Slot,
        state: Slot,
    },
    /// `cp.async.mbarrier.arrive`.
    CopyArrive {
        noinc: bool,
    },
}

/// A value that is known before the first instruction of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    Bits(u64),
    /// Address of a module or shared variable; generic if asked for.
    Symbol {
        name: String,
        offset: i64,
        generic: bool,
    },
    Special(Special),
}

/// One operation.
#[derive(Clone)]
pub(crate) enum Op {
    Alu {
        f: AluFn,
        d: Slot,
        s: [Slot; 4],
        imm: u64,
        pre: Option<LaneFix>,
        post: Option<LaneFix>,
    },
    /// Integer division or remainder, whose result is open for a zero divisor.
    Divide {
        f: fn(&Lanes, &Lanes, &mut Lanes),
        d: Slot,
        a: Slot,
        b: Slot,
    },
    /// Copies also the fact of being unwritten.
    Mov {
        d: Slot,
        a: Slot,
    },
    MovPred {
        d: PSlot,
        a: Pred,
    },
    NotPred {
        d: PSlot,
        a: Pred,
    },
    LogicPred {
        op: BoolOp,
        d: PSlot,
        a: Pred,
        b: Pred,
    },
    ConstPred {
        d: PSlot,
        value: bool,
    },
    Selp {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Pred,
    },
    /// The second predicate is of the opposite comparison, for pairs of the high halves.
    Setp {
        f: CompareFn,
        high: Option<CompareFn>,
        pre: Option<LaneFix>,
        d: PSlot,
        second: Option<PSlot>,
        a: Slot,
        b: Slot,
        combine: Option<(BoolOp, Pred)>,
    },
    /// `set`: a whole register of ones, or 1.0; for pairs in each half.
    Set {
        f: CompareFn,
        high: Option<CompareFn>,
        pre: Option<LaneFix>,
        d: Slot,
        a: Slot,
        b: Slot,
        one: u64,
        combine: Option<(BoolOp, Pred)>,
    },
    /// `testp`.
    Test {
        f: fn(&Lanes) -> u32,
        d: PSlot,
        a: Slot,
    },
    /// `isspacep`.
    IsSpace {
        space: Space,
        d: PSlot,
        a: Slot,
    },
    /// Addition and multiplication with the carry flag.
    Carry {
        f: fn(u64, u64, u64, bool) -> (u64, bool),
        d: Slot,
        s: [Slot; 3],
        reads: bool,
        writes: bool,
    },
    Pack {
        d: Slot,
        parts: Vec<Slot>,
        bits: u32,
    },
    Unpack {
        parts: Vec<Option<Slot>>,
        a: Slot,
        bits: u32,
    },
    FrameAddr {
        d: Slot,
        offset: i64,
    },
    ReadClock {
        d: Slot,
        clock: Clock,
    },
    Ld(Box<Access>),
    St(Box<Access>),
    LdParam {
        offset: u32,
        bytes: u32,
        sign_to: u32,
        regs: Vec<Slot>,
    },
    Atom {
        op: AtomOp,
        ty: Ty,
        space: Space,
        addr: Addr,
        d: Vec<Slot>,
        b: Vec<Slot>,
        c: Option<Slot>,
    },
    /// Exchange of 16 bytes, or with `c` compare and swap.
    AtomWide {
        space: Space,
        addr: Addr,
        d: [Slot; 2],
        b: [Slot; 2],
        c: Option<[Slot; 2]>,
    },
    Bra {
        target: u32,
        meet: u32,
    },
    BrxIdx {
        index: Slot,
        targets: Vec<u32>,
        meet: u32,
    },
    Call {
        callee: u32,
        args: Vec<(i64, i64, u32)>,
        returns: Vec<(i64, i64, u32)>,
    },
    CallExtern {
        name: &'static str,
        args: Vec<(i64, u32)>,
        returns: Vec<(i64, u32)>,
    },
    Ret,
    Exit,
    Trap,
    Bar {
        kind: BarKind,
        id: Slot,
        count: Option<Slot>,
        aligned: bool,
    },
    WarpSync {
        mask: Slot,
    },
    Shfl {
        mode: ShflMode,
        d: Slot,
        p: Option<PSlot>,
        a: Slot,
        b: Slot,
        c: Slot,
        mask: Slot,
    },
    Vote {
        mode: VoteMode,
        d: Slot,
        pd: PSlot,
        a: Pred,
        mask: Slot,
    },
    Match {
        all: bool,
        d: Slot,
        p: Option<PSlot>,
        a: Slot,
        mask: Slot,
    },
    Redux {
        op: ReduxOp,
        d: Slot,
        a: Slot,
        mask: Slot,
    },
    ActiveMask {
        d: Slot,
    },
    Elect {
        d: Option<Slot>,
        p: PSlot,
        mask: Slot,
    },
    /// Orders memory; nothing to do on a machine that runs in order.
    Fence,
    Nanosleep,
    Nop,
    CpAsync {
        dst: Addr,
        src: Addr,
        src_space: Space,
        bytes: u32,
        src_bytes: Option<Slot>,
        ignore: Option<Pred>,
    },
    CpAsyncCommit,
    /// Waits until at most so many groups are pending; `None`: all copies.
    CpAsyncWait {
        pending: Option<u32>,
    },
    LdMatrix {
        d: Vec<Slot>,
        addr: Addr,
        space: Space,
        trans: bool,
        form: MatrixForm,
    },
    StMatrix {
        s: Vec<Slot>,
        addr: Addr,
        space: Space,
        trans: bool,
        form: MatrixForm,
    },
    MovMatrix {
        d: Slot,
        a: Slot,
    },
    Mma(Box<MmaOp>),
    Wgmma(Box<WgmmaOp>),
    WgmmaFence,
    WgmmaCommit,
    /// Waits until at most so many groups are pending.
    WgmmaWait {
        pending: u32,
    },
    /// Registers of each thread from here on.
    SetMaxNreg {
        increase: bool,
        count: u32,
    },
    /// `fence.proxy.async`: orders shared memory writes before asynchronous reads of them.
    FenceProxy,
    Mbarrier {
        op: MbarOp,
        addr: Addr,
        space: Space,
    },
    Bulk(Box<crate::exec::bulk::BulkOp>),
}

/// Shape of the matrices of `ldmatrix` and `stmatrix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MatrixForm {
    M8N8B16,
    M16N8B8,
    M16N16B8,
}

/// One instruction.
pub(crate) struct Inst {
    pub guard: Option<Pred>,
    pub op: Op,
    pub line: u32,
    pub loc: Option<Loc>,
    pub span: Range<usize>,
    /// Meeting point of lanes that a guard sends different ways, for guarded `ret`.
    pub meet: u32,
}
