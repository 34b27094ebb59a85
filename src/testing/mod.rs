//! What every kernel is checked with, for kernels of your own too (feature `testing`).
//!
//! [`conformance`] runs the kernels of a device on random operations and compares each output
//! with what is [`expected`]: the reference's exact values, under an error bound that follows from
//! the arithmetic ([`bounds`]), never from a guessed tolerance.
//!
//! | operations | compared by |
//! |---|---|
//! | gemm, grouped gemm | `γ_k·(\|A\|·\|B\|)`, carried through the epilogue |
//! | attention, softmax | the error of each score through the softmax, and of the sums |
//! | norm | the error of the mean of squares through `1/√` |
//! | rope, elementwise | roundings of the formula, elementary functions to 2 ulp |
//! | reduce | `γ_n·Σ\|x\|`; extremes exactly |
//! | gather, scatter, convert, arg-reduce, top-k | equality |
//!
//! Outputs are then rounded once to their type; block-scaled ones are quantised from values in
//! f32, by rules that leave one right result for exact values, and for computed ones what values
//! within their bounds would give.
//!
//! Cases cover every element type and block format, both scale layouts, layouts in memory
//! ([`Layout`]), batches that are shared, sizes around tiles, vectors and blocks ([`sizes`]), and
//! values that find different faults ([`Distribution`]).
//!
//! # A kernel of your own
//! Register it with a device, run it by name, and print the report.
//!
//! ```
//! use ferrocerium::{Device, testing::{Config, conformance}};
//! let device = Device::cpu();
//! // device.registry().register(MyKernel::new())?;
//! let report = conformance(&device, |kernel| kernel.name == "cpu.gather", &Config::quick());
//! println!("{report}");
//! assert!(report.passed(), "{report}");
//! ```
//!
//! ```text
//! seed 1763978400 (FERROCERIUM_SEED repeats it)
//! cpu.gather                   32 cases,     61 skipped, worst error 0.000 of the bound
//! ```
//!
//! A row says how many cases ran, how many the kernel's `supports` turned down, and how much of
//! the allowed error the worst element used: far below 1 is usual for sums, whose bound is that of
//! the worst case. A kernel that gets a case wrong has the smallest such case printed instead, with
//! what is wrong and the seed that repeats it: `FERROCERIUM_SEED=… cargo test`, or
//! `Config { seed, cases: 1 }`.
//!
//! For tests of another shape, [`op_cases`] and the strategies of its parts make operations, and
//! [`expected`] says what they must give.

mod alone;
mod blocks;
pub mod bounds;
mod conformance;
mod distribution;
mod expected;
mod functions;
mod operand;
mod ops;
mod output;
mod report;

pub use conformance::conformance;
pub use distribution::Distribution;
pub use expected::{Expected, expected};
pub use operand::{FLOATS, INDICES, Kind, Layout, Source, floats, shapes, sizes};
pub use ops::arg_reduce::{ArgReduceCase, arg_reduce_cases};
pub use ops::attention::{AttentionCase, KvCase, attention_cases};
pub use ops::convert::{ConvertCase, convert_cases};
pub use ops::elementwise::{ElementwiseCase, elementwise_cases};
pub use ops::gather::{GatherCase, gather_cases};
pub use ops::gemm::{GemmCase, gemm_cases};
pub use ops::grouped_gemm::{GroupedGemmCase, grouped_gemm_cases};
pub use ops::norm::{NormCase, norm_cases};
pub use ops::reduce::{ReduceCase, reduce_cases};
pub use ops::rope::{RopeCase, rope_cases};
pub use ops::scatter::{ScatterCase, scatter_cases};
pub use ops::softmax::{SoftmaxCase, softmax_cases};
pub use ops::top_k::{TopKCase, top_k_cases};
pub use ops::{BuildOp, Case, Target, op_cases};
pub use report::{Config, Failure, KernelReport, Report};
