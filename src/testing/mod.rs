//! What every kernel is checked with, for kernels of your own too (feature `testing`).
//!
//! [`conformance`] runs the kernels of a device on random operations and compares each output
//! element with the reference, under an error bound that follows from the arithmetic
//! ([`bounds`]), never from a guessed tolerance.
//!
//! | operations | compared by |
//! |---|---|
//! | `gemm` | `γ_k·(|A|·|B|)`, carried through the epilogue, and the rounding of D |
//! | `attention` | the error of scores through softmax, `γ_n`, and the rounding of the result |
//! | `gather`, `convert` | equality |
//!
//! Kernels of other operations are reported as not covered.
//!
//! ```
//! use ferrocerium::{Device, testing::{Config, conformance}};
//! let report = conformance(&Device::cpu(), |kernel| kernel.name == "cpu.gather", &Config::quick());
//! assert!(report.passed(), "{report}");
//! ```

pub mod bounds;
mod cases;
mod conformance;
mod distribution;

pub use cases::{AttentionCase, ConvertCase, GatherCase, GemmCase, Kind};
pub use cases::{attention_cases, convert_cases, gather_cases, gemm_cases, sizes};
pub use conformance::{Config, Failure, KernelReport, Report, conformance};
pub use distribution::Distribution;
