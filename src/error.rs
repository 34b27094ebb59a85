//! The one error type of the crate.
//!
//! Every message says what was asked, what is wrong with it, and what would work.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was refused or failed.
///
/// `op` is the operation as the caller knows it (`"matmul"`, `"reshape"`), `arg` the argument at
/// fault; `problem` names the values found, the values expected, and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Sizes or ranks do not fit together.
    #[error("{op}: {arg}: {problem}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The argument at fault.
        arg: &'static str,
        /// What was found, what was expected, what to do.
        problem: String,
    },
    /// An element type or block format that this call does not take.
    #[error("{op}: {arg}: {problem}")]
    DType {
        /// The operation.
        op: &'static str,
        /// The argument at fault.
        arg: &'static str,
        /// What was found, what was expected, what to do.
        problem: String,
    },
    /// Strides, contiguity, alignment or scale layout that this call does not take.
    #[error("{op}: {arg}: {problem}")]
    Layout {
        /// The operation.
        op: &'static str,
        /// The argument at fault.
        arg: &'static str,
        /// What was found, what was expected, what to do.
        problem: String,
    },
    /// A value out of range: a parameter, an index, a NaN where none may be.
    #[error("{op}: {arg}: {problem}")]
    Value {
        /// The operation.
        op: &'static str,
        /// The argument at fault.
        arg: &'static str,
        /// What was found, what was expected, what to do.
        problem: String,
    },
    /// A buffer is in use in a way that conflicts with this access.
    #[error("buffer `{label}`: {problem}")]
    Busy {
        /// The buffer's label.
        label: String,
        /// Who holds it, who wanted it, what to do.
        problem: String,
    },
    /// Memory of a kind that can not be used so, or not on that device.
    #[error("buffer `{label}`: {problem}")]
    Memory {
        /// The buffer's label.
        label: String,
        /// What kind it is, what was wanted, what to do.
        problem: String,
    },
    /// The request does not fit the device's memory budget, or the system has no more memory.
    #[error(
        "out of memory: {} for `{label}` on {device}, where {} is in use: at most {} more fits, {explanation}",
        Bytes(*request), Bytes(*used), Bytes(*available)
    )]
    OutOfMemory {
        /// Label of the buffer that was asked for.
        label: String,
        /// The device whose budget binds.
        device: String,
        /// Bytes asked for.
        request: u64,
        /// Bytes in use when asked.
        used: u64,
        /// Bytes that would have fitted.
        available: u64,
        /// The limit that binds, with the numbers behind it, the largest live buffers, and what
        /// could be done.
        explanation: String,
    },
    /// No registered kernel can run the operation on this device as asked.
    #[error("no kernel for {op} on {device}:\n{explanation}")]
    NoKernel {
        /// The operation, with its operands.
        op: String,
        /// The device.
        device: String,
        /// Every candidate and why it does not run.
        explanation: String,
    },
    /// A kernel failed while running.
    #[error("kernel {kernel}: {problem}")]
    Kernel {
        /// The kernel's registered name.
        kernel: String,
        /// What went wrong.
        problem: String,
    },
    /// A device is not there or has failed, or operands live on different devices.
    #[error("{problem}")]
    Device {
        /// What was asked, what was found, what to do.
        problem: String,
    },
    /// The caller asked for it to end.
    #[error("{what} was cancelled; nothing of it is left")]
    Cancelled {
        /// What was under way.
        what: String,
    },
    /// A text is not what it should be.
    #[error("{text:?} is not a {what}: expected {expected}")]
    Parse {
        /// What was being read (`"data type"`, `"F8E4M3"`).
        what: &'static str,
        /// The text.
        text: String,
        /// What would have been accepted.
        expected: String,
    },
    /// A file's content is damaged, hostile, or of a kind not read here.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what would work.
        problem: String,
    },
    /// The operating system refused a file operation.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason. Part of this error's text, and so not its `source()`.
        reason: std::io::Error,
    },
}

impl Error {
    /// A [`Error::Shape`].
    pub fn shape(op: &'static str, arg: &'static str, problem: impl Into<String>) -> Self {
        Self::Shape { op, arg, problem: problem.into() }
    }

    /// A [`Error::DType`].
    pub fn dtype(op: &'static str, arg: &'static str, problem: impl Into<String>) -> Self {
        Self::DType { op, arg, problem: problem.into() }
    }

    /// A [`Error::Layout`].
    pub fn layout(op: &'static str, arg: &'static str, problem: impl Into<String>) -> Self {
        Self::Layout { op, arg, problem: problem.into() }
    }

    /// A [`Error::Value`].
    pub fn value(op: &'static str, arg: &'static str, problem: impl Into<String>) -> Self {
        Self::Value { op, arg, problem: problem.into() }
    }

    /// A [`Error::Kernel`].
    pub fn kernel(kernel: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Kernel { kernel: kernel.into(), problem: problem.into() }
    }

    /// A [`Error::Device`].
    pub fn device(problem: impl Into<String>) -> Self {
        Self::Device { problem: problem.into() }
    }

    /// A [`Error::File`].
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_owned(), problem: problem.into() }
    }

    /// A [`Error::Io`].
    pub fn io(path: impl AsRef<Path>, reason: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), reason }
    }
}

/// A byte count as messages print it, with a binary unit.
pub(crate) struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}
