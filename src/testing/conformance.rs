//! Running kernels against what is expected of them.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::strategy::{BoxedStrategy, Strategy};
use proptest::test_runner::{
    Config as RunnerConfig, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};

use super::alone::Alone;
use super::blocks::all_finite;
use super::distribution::Random;
use super::expected::{Expected, expected_of, reference};
use super::operand::POISON;
use super::ops::{BuildOp, Case, op_cases};
use super::output::{Parts, check, with_outputs};
use super::report::{Config, Failure, KernelReport, Report};
use crate::Device;
use crate::error::{Error, Result};
use crate::format::{QuantizeOptions, Quantizer};
use crate::op::{Op, OpKind, Operand};
use crate::registry::{KernelInfo, Numerics, Request};

/// What outputs hold before a second run: far from anything that a result would be.
const OTHER_POISON: u8 = 0x2B;

/// Cases drawn for each that has to run: kernels pass on those that they do not support.
const DRAWN: u32 = 24;

/// How many times as many cases an operation needs that is many in one, all of them cheap.
fn breadth(op: OpKind) -> u32 {
    match op {
        OpKind::Elementwise | OpKind::Convert => 2,
        _ => 1,
    }
}

/// Steps of making a failing case smaller.
const SHRINKING: u32 = 200;

/// Runs every kernel of the device that `filter` picks on random operations, and compares with
/// what is [`expected`](super::expected).
///
/// Outputs and the memory around them are poisoned before each run, and only the outputs may be
/// changed. A kernel that calls itself deterministic runs twice, over different poison, and must
/// give the same bits; one that calls itself batch-invariant also runs a row by itself, which must
/// have the bits that it has in the batch. Where the data make the reference refuse, so must the kernel.
pub fn conformance(
    device: &Device,
    filter: impl Fn(&KernelInfo) -> bool,
    config: &Config,
) -> Report {
    let picked = device.registry().list().into_iter().filter(|info| filter(info));
    let kernels = picked.map(|info| Suite::new(device, info).run(config)).collect();
    Report { seed: config.seed, kernels }
}

/// One kernel under test.
struct Suite {
    device: Device,
    info: KernelInfo,
    cases: Cell<u32>,
    skipped: Cell<u32>,
    worst: Cell<f64>,
}

impl Suite {
    fn new(device: &Device, info: KernelInfo) -> Self {
        let request = Request {
            numerics: Numerics::FourBitOperands,
            allow_variable_results: true,
            ..Request::kernel(&info.name)
        };
        Suite {
            device: device.with_request(request),
            info,
            cases: Cell::new(0),
            skipped: Cell::new(0),
            worst: Cell::new(0.0),
        }
    }

    fn run(self, config: &Config) -> KernelReport {
        let strategy = op_cases(self.info.op);
        let cases = config.cases.saturating_mul(breadth(self.info.op));
        let mut failure = None;
        for i in 0..cases.saturating_mul(DRAWN) {
            if self.cases.get() >= cases {
                break;
            }
            failure = self.run_one(&strategy, config.seed.wrapping_add(u64::from(i)));
            if failure.is_some() {
                break;
            }
        }
        KernelReport {
            name: self.info.name,
            cases: self.cases.get(),
            skipped: self.skipped.get(),
            worst: self.worst.get(),
            failure,
        }
    }

    /// Draws a case from a seed; makes it as small as it still fails.
    fn run_one(&self, strategy: &BoxedStrategy<Case>, seed: u64) -> Option<Failure> {
        let mut bytes = [0u8; 32];
        let mut random = Random(seed);
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.bits().to_le_bytes()));
        let config = RunnerConfig {
            failure_persistence: None,
            max_shrink_iters: SHRINKING,
            ..RunnerConfig::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let failed = |case: String, reason: String| Some(Failure { seed, case, reason });
        let tree = match strategy.new_tree(&mut runner) {
            Ok(tree) => tree,
            Err(reason) => return failed(String::new(), reason.to_string()),
        };
        match runner.run_one(tree, |case| self.check_case(&case).map_err(TestCaseError::fail)) {
            Ok(_) => None,
            Err(TestError::Fail(reason, case)) => failed(format!("{case:?}"), reason.to_string()),
            Err(TestError::Abort(reason)) => failed(String::new(), reason.to_string()),
        }
    }

    fn check_case(&self, case: &Case) -> Result<(), String> {
        let op = case.build(&self.device).map_err(|e| e.to_string())?;
        let explanation = self.device.explain(&op).map_err(|e| e.to_string())?;
        if explanation.chosen().is_none() {
            self.skipped.set(self.skipped.get() + 1);
            return Ok(());
        }
        self.cases.set(self.cases.get() + 1);
        // The same operands where the reference can read them.
        let known = match self.device.memory_kind().host_readable() {
            true => op.clone(),
            false => case.build(reference()).map_err(|e| e.to_string())?,
        };
        self.check_op(&op, &known).map_err(|problem| format!("{problem}; {op}"))
    }

    /// Checks an operation against what is expected of it, `known` being the same.
    fn check_op(&self, op: &Op, known: &Op) -> Result<(), String> {
        let mut spec = op.clone();
        let outputs = spec.outputs_mut();
        let due = match expected_of(known, self.info.numerics) {
            Ok(due) => due,
            Err(Error::Value { problem, .. }) => return self.must_refuse(op, &problem),
            Err(error) => return Err(error.to_string()),
        };
        let mut may_refuse = false;
        for (operand, due) in outputs.iter().zip(&due) {
            if let (Some(_), Expected::Values { values, errors }) = (operand.as_scaled(), due) {
                if !all_finite(values.iter().copied()) {
                    return self.must_refuse(op, "block formats hold no NaN or infinity");
                }
                let most = values.iter().zip(errors).map(|(value, error)| value.abs() + error);
                may_refuse |= !all_finite(most);
            }
        }
        let first = match self.try_launch(op, POISON)? {
            Err(Error::Value { .. }) if may_refuse => return Ok(()),
            result => result.map_err(|e| e.to_string())?,
        };
        for ((operand, parts), due) in outputs.iter().zip(&first).zip(&due) {
            let ratio = check(operand, quantize_options(op), parts, due)?;
            self.worst.set(self.worst.get().max(ratio));
        }
        if !self.info.deterministic {
            return Ok(());
        }
        let second = self.try_launch(op, OTHER_POISON)?.map_err(|e| e.to_string())?;
        if second != first {
            return Err("two runs gave different bits, or left something unwritten".to_owned());
        }
        if self.info.batch_invariant {
            self.check_alone(op, &outputs, &first)?;
        }
        Ok(())
    }

    /// Runs a part of the batch by itself, which must give the bits that it has in the whole.
    fn check_alone(
        &self,
        op: &Op,
        outputs: &[&mut Operand],
        whole: &[Parts],
    ) -> Result<(), String> {
        let Some(alone) = Alone::of(op).map_err(|e| e.to_string())? else { return Ok(()) };
        let supported = self.device.explain(&alone.op).map_err(|e| e.to_string())?;
        if supported.chosen().is_none() {
            return Ok(());
        }
        let parts = self.try_launch(&alone.op, POISON)?.map_err(|e| e.to_string())?;
        if alone.agrees(outputs, whole, &parts) {
            return Ok(());
        }
        Err(format!("a row gave other bits by itself, by {}", alone.op))
    }

    fn must_refuse(&self, op: &Op, why: &str) -> Result<(), String> {
        match self.try_launch(op, POISON)? {
            Err(Error::Value { .. }) => Ok(()),
            Err(error) => Err(format!("Error::Value is due ({why}), not: {error}")),
            Ok(_) => Err(format!("it ran, where Error::Value is due: {why}")),
        }
    }

    /// Runs into fresh, poisoned memory and gives the bytes of each output, or the kernel's refusal,
    /// at once or when its work is waited for.
    fn try_launch(&self, op: &Op, poison: u8) -> Result<Result<Vec<Parts>>, String> {
        let (op, outputs) = with_outputs(&self.device, op, poison).map_err(|e| e.to_string())?;
        match catch_unwind(AssertUnwindSafe(|| {
            self.device.run(&op).and_then(|()| self.device.synchronize())
        })) {
            Ok(Ok(())) => {
                let parts: Result<Vec<Parts>, String> = outputs.iter().map(|o| o.parts()).collect();
                parts.map(Ok)
            }
            Ok(Err(error)) => Ok(Err(error)),
            Err(_) => Err("it panicked".to_owned()),
        }
    }
}

/// How the operation quantises a block-scaled output; `None` for the format's default.
fn quantize_options(op: &Op) -> Option<QuantizeOptions> {
    let (quantizer, format, tensor_scale) = match op {
        Op::Convert(op) => (op.quantizer, &op.dst, op.tensor_scale),
        Op::Norm(op) => (op.quantizer, &op.out, None),
        Op::Elementwise(op) => (op.quantizer, &op.out, None),
        Op::Gemm(op) => (op.epilogue.quantizer, &op.d, None),
        Op::GroupedGemm(op) => (op.epilogue.quantizer, &op.d, None),
        _ => return None,
    };
    let format = format.as_scaled()?.format;
    let quantizer = quantizer.unwrap_or_else(|| Quantizer::default_for(format));
    Some(QuantizeOptions { quantizer, tensor_scale })
}
