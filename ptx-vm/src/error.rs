//! What can go wrong, with the place in the kernel where it did.

use std::fmt;

/// The result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that this crate refuses or reports.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PTX.
    #[error("PTX line {line}: {message}")]
    Parse {
        /// Line in the PTX text, from 1.
        line: u32,
        /// What was found and what was expected.
        message: String,
    },
    /// The text is PTX that this machine does not execute.
    #[error("PTX line {line}: `{instruction}` is not supported: {reason}")]
    Unsupported {
        /// Line in the PTX text, from 1.
        line: u32,
        /// The instruction as written.
        instruction: String,
        /// Which part of it, and what would work.
        reason: String,
    },
    /// An instruction that the declared target does not have.
    #[error("PTX line {line}: `{instruction}` is not legal on {target}: {needs}")]
    IllegalForTarget {
        /// Line in the PTX text, from 1.
        line: u32,
        /// The instruction as written.
        instruction: String,
        /// The target that the module declares.
        target: String,
        /// What the instruction needs.
        needs: String,
    },
    /// A launch or a memory call that cannot be carried out as asked.
    #[error("{0}")]
    Launch(String),
    /// A kernel did something wrong while it ran.
    #[error(transparent)]
    Fault(Box<Fault>),
}

/// A defect seen while a kernel ran: where, who, what.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The kernel that was launched.
    pub kernel: String,
    /// The function the instruction is in (the kernel itself, or one that it calls).
    pub function: String,
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// File and line of the CUDA source, if the PTX carries line information.
    pub source: Option<(String, u32)>,
    /// Where that line was inlined, if it comes from an inlined function.
    pub inlined_at: Option<(String, u32)>,
    /// File and line of the other access of a race, of the copy that is not waited for, or of
    /// the division by zero.
    pub other_source: Option<(String, u32)>,
    /// The instruction as written.
    pub instruction: String,
    /// The block index.
    pub block: [u32; 3],
    /// The thread index in its block; the first of several.
    pub thread: Option<[u32; 3]>,
    /// What happened.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [bx, by, bz] = self.block;
        write!(f, "kernel `{}`, ", self.kernel)?;
        if self.function != self.kernel {
            write!(f, "in `{}`, ", self.function)?;
        }
        write!(f, "PTX line {}", self.line)?;
        if let Some((file, line)) = &self.source {
            write!(f, " ({file}:{line}")?;
            if let Some((file, line)) = &self.inlined_at {
                write!(f, ", inlined at {file}:{line}")?;
            }
            write!(f, ")")?;
        }
        write!(f, ", block ({bx}, {by}, {bz})")?;
        if let Some([x, y, z]) = self.thread {
            write!(f, ", thread ({x}, {y}, {z})")?;
        }
        write!(f, ": `{}`: {}", self.instruction, self.kind)?;
        match &self.other_source {
            Some((file, line)) => write!(f, " (that is {file}:{line})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// The state space of a memory access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Space {
    /// Memory of the device.
    Global,
    /// Memory of one block.
    Shared,
    /// Memory of one thread.
    Local,
    /// Module constants.
    Const,
    /// Arguments of a kernel or a function.
    Param,
    /// An address that points into no window.
    Generic,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Global => "global",
            Space::Shared => "shared",
            Space::Local => "local",
            Space::Const => "constant",
            Space::Param => "parameter",
            Space::Generic => "generic",
        })
    }
}

/// The defects that the machine tells apart.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access that no allocation holds.
    #[error(
        "{access} of {size} bytes at {space} address {address:#x} is outside every allocation{near}"
    )]
    OutOfBounds {
        /// `read`, `write`, …
        access: &'static str,
        /// The space it went to.
        space: Space,
        /// The address.
        address: u64,
        /// Bytes asked for.
        size: u32,
        /// The nearest allocation and how far it is, or nothing.
        near: String,
    },
    /// An address that is not a multiple of the access size.
    #[error(
        "{access} of {size} bytes at {space} address {address:#x} must be aligned to {align} bytes"
    )]
    Misaligned {
        /// `read`, `write`, …
        access: &'static str,
        /// The space it went to.
        space: Space,
        /// The address.
        address: u64,
        /// Bytes asked for.
        size: u32,
        /// The alignment needed.
        align: u32,
    },
    /// A write to memory that cannot be written.
    #[error("write to read-only {space} address {address:#x}")]
    ReadOnly {
        /// The space it went to.
        space: Space,
        /// The address.
        address: u64,
    },
    /// Bytes were read that nobody wrote.
    #[error(
        "read of {size} bytes at {space} address {address:#x}: byte {offset} was never written"
    )]
    UninitialisedMemory {
        /// The space.
        space: Space,
        /// The address.
        address: u64,
        /// Bytes asked for.
        size: u32,
        /// First byte without a value.
        offset: u32,
    },
    /// A register was read before anything was written to it.
    #[error("register `{register}` is read before it was written")]
    UninitialisedRegister {
        /// The register's name.
        register: String,
    },
    /// What an integer division or remainder by zero gave was stored, addressed or branched
    /// with. PTX leaves that value open; a division whose result nobody uses does no harm.
    #[error(
        "`{register}` holds no defined value: it comes from a division by zero at PTX line {divided_line}"
    )]
    DivisionByZero {
        /// The register that was read.
        register: String,
        /// PTX line of the division.
        divided_line: u32,
    },
    /// Two threads touched the same shared bytes with nothing that orders them.
    #[error(
        "{access} of shared address {address:#x} races with the {other_access} by thread {other_thread} at PTX line {other_line}: no barrier orders them"
    )]
    Race {
        /// `read` or `write`.
        access: &'static str,
        /// The address.
        address: u64,
        /// `read` or `write`.
        other_access: &'static str,
        /// Linear index in the block of the other thread.
        other_thread: u32,
        /// Line of the other access.
        other_line: u32,
    },
    /// Shared bytes that an asynchronous copy is still filling.
    #[error(
        "{access} of shared address {address:#x} while the asynchronous copy issued at PTX line {issued_line} by thread {issuer} has not been waited for"
    )]
    PendingCopy {
        /// `read` or `write`.
        access: &'static str,
        /// The address.
        address: u64,
        /// Line of the copy.
        issued_line: u32,
        /// Linear index in the block of the thread that issued the copy.
        issuer: u32,
    },
    /// An operand of an asynchronous matrix multiplication that is still running.
    #[error(
        "{access} of {what} while the matrix multiplication issued at PTX line {issued_line} has not been waited for"
    )]
    PendingMma {
        /// `read` or `write`.
        access: &'static str,
        /// The register or shared address.
        what: String,
        /// Line of the multiplication.
        issued_line: u32,
    },
    /// An asynchronous instruction reads what an ordinary store wrote.
    #[error(
        "asynchronous read of shared address {address:#x}, which thread {writer} wrote at PTX line {written_line}: no `fence.proxy.async` lies between"
    )]
    ProxyFence {
        /// The address.
        address: u64,
        /// Linear index in the block of the thread that wrote.
        writer: u32,
        /// Line of the write.
        written_line: u32,
    },
    /// Some lanes of a warp reached a barrier that needs all of them.
    #[error("{what} reached by lanes {active:#010x} of the warp, needs lanes {expected:#010x}")]
    DivergentBarrier {
        /// Which barrier or warp operation.
        what: &'static str,
        /// Lanes that are there.
        active: u32,
        /// Lanes that should be.
        expected: u32,
    },
    /// A barrier was used against its rules.
    #[error("barrier misuse: {0}")]
    BarrierMisuse(String),
    /// Nothing can run any more.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// An operand value that the instruction does not allow.
    #[error("{0}")]
    InvalidOperand(String),
    /// More instructions than the launch allows.
    #[error(
        "the block ran {0} warp instructions without finishing; raise `LaunchConfig::max_instructions` if that is right"
    )]
    Budget(u64),
    /// `trap` or a failed device-side assertion.
    #[error("the kernel trapped{0}")]
    Trap(String),
    /// Calls nested too deep.
    #[error("calls are nested deeper than {0}: is the recursion ever left?")]
    CallDepth(u32),
    /// A call whose frame does not fit in a thread's local memory.
    #[error(
        "stack overflow: the frames of this call chain need {needed} bytes of the {limit} that a thread has; is the recursion ever left?"
    )]
    StackOverflow {
        /// Bytes that all frames need.
        needed: u64,
        /// Bytes that there are.
        limit: u64,
    },
}
