//! What went wrong with work, to be told to everybody who asks.

use std::sync::Arc;

use crate::error::Error;

/// An error that can be told again.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Kernel { kernel: String, problem: String },
    Value { op: &'static str, arg: &'static str, problem: String },
}

/// What a number stands for that kernels left in a word that was watched.
pub(super) type Problem = Arc<dyn Fn(u64) -> Failure + Send + Sync>;

impl Failure {
    pub fn kernel(kernel: &str, problem: impl Into<String>) -> Self {
        Failure::Kernel { kernel: kernel.to_owned(), problem: problem.into() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Kernel { kernel, problem } => Error::Kernel { kernel, problem },
            Failure::Value { op, arg, problem } => Error::Value { op, arg, problem },
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Kernel { kernel, problem } => Failure::Kernel { kernel, problem },
            Error::Value { op, arg, problem } => Failure::Value { op, arg, problem },
            other => Failure::kernel("device", other.to_string()),
        }
    }
}
