//! Running kernels against the reference.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::strategy::Strategy;
use proptest::test_runner::{
    Config as RunnerConfig, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};

use super::bounds::{TINY_F32, U_F32, Verdict, compare, gamma};
use super::cases::{attention_cases, convert_cases, gather_cases, gemm_cases};
use super::distribution::Random;
use crate::error::Result;
use crate::memory::Region;
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::{Activation, Attention, Dense, Gemm, Op, OpKind, Operand};
use crate::registry::{KernelInfo, Numerics, Request};
use crate::{AnyTensor, Device};

/// How much is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Cases that each kernel has to run.
    pub cases: u32,
    /// Where the random cases start.
    pub seed: u64,
}

impl Default for Config {
    /// 256 cases a kernel, from `FERROCERIUM_SEED`, or else from a seed that is new each time.
    fn default() -> Self {
        let given = std::env::var("FERROCERIUM_SEED").ok().and_then(|text| text.parse().ok());
        let fresh = || {
            let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            time.map_or(0, |t| t.as_nanos() as u64)
        };
        Config { cases: 256, seed: given.unwrap_or_else(fresh) }
    }
}

impl Config {
    /// 32 cases a kernel.
    pub fn quick() -> Self {
        Config { cases: 32, ..Config::default() }
    }
}

/// What became of each kernel.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed that repeats the run.
    pub seed: u64,
    /// A row a kernel.
    pub kernels: Vec<KernelReport>,
}

/// What became of a kernel.
#[derive(Clone, Debug)]
pub struct KernelReport {
    /// The kernel's name.
    pub name: String,
    /// Cases that it ran.
    pub cases: u32,
    /// Cases that it said it does not support.
    pub skipped: u32,
    /// The largest error, as a share of what was allowed.
    pub worst: f64,
    /// Its operation is not generated here.
    pub not_covered: bool,
    /// The smallest case found that it gets wrong.
    pub failure: Option<Failure>,
}

/// A case that a kernel gets wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The case, made as small as it still fails.
    pub case: String,
    /// What is wrong.
    pub reason: String,
}

impl Report {
    /// Whether every kernel whose operation is generated here ran some case, and all correctly.
    pub fn passed(&self) -> bool {
        self.kernels.iter().all(|k| k.failure.is_none() && (k.not_covered || k.cases > 0))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} (FERROCERIUM_SEED repeats it)", self.seed)?;
        for k in &self.kernels {
            write!(f, "{:<24} ", k.name)?;
            match &k.failure {
                _ if k.not_covered => writeln!(f, "not covered")?,
                None => writeln!(
                    f,
                    "{:>6} cases, {:>6} skipped, worst error {:.3} of the bound",
                    k.cases, k.skipped, k.worst
                )?,
                Some(Failure { case, reason }) => {
                    writeln!(f, "FAILED: {reason}\n    {case}")?;
                }
            }
        }
        Ok(())
    }
}

/// Runs every kernel of the device that `filter` picks on random operations, and compares with
/// the reference. Outputs are poisoned before each run; a kernel that calls itself deterministic
/// runs twice and must give the same bits.
pub fn conformance(
    device: &Device,
    filter: impl Fn(&KernelInfo) -> bool,
    config: &Config,
) -> Report {
    let picked = device.registry().list().into_iter().filter(|info| filter(info));
    let kernels = picked.map(|info| Suite::new(device, info, config).run()).collect();
    Report { seed: config.seed, kernels }
}

/// One kernel under test.
struct Suite<'a> {
    device: Device,
    reference: Device,
    info: KernelInfo,
    config: &'a Config,
    cases: Cell<u32>,
    skipped: Cell<u32>,
    worst: Cell<f64>,
}

impl<'a> Suite<'a> {
    fn new(device: &Device, info: KernelInfo, config: &'a Config) -> Self {
        let request = Request {
            numerics: Numerics::NarrowedOperands,
            allow_variable_results: true,
            ..Request::kernel(&info.name)
        };
        Suite {
            device: device.with_request(request),
            reference: Device::reference(),
            info,
            config,
            cases: Cell::new(0),
            skipped: Cell::new(0),
            worst: Cell::new(0.0),
        }
    }

    fn run(self) -> KernelReport {
        let reference = &self.reference;
        let failure = match self.info.op {
            OpKind::Gemm => self.check(gemm_cases(), |case| {
                let op = case.build(reference)?;
                let expected = gemm_expected(reference, &op)?;
                Ok((op.into(), expected))
            }),
            OpKind::Attention => self.check(attention_cases(), |case| {
                let op = case.build(reference)?;
                let expected = attention_expected(reference, &op)?;
                Ok((op.into(), expected))
            }),
            OpKind::Gather => self.check(gather_cases(), |case| {
                let op: Op = case.build(reference)?.into();
                let expected = exactly(reference, &op)?;
                Ok((op, expected))
            }),
            OpKind::Convert => self.check(convert_cases(), |case| {
                let op: Op = case.build(reference)?.into();
                let expected = exactly(reference, &op)?;
                Ok((op, expected))
            }),
            _ => return self.report(true, None),
        };
        self.report(false, failure)
    }

    fn report(self, not_covered: bool, failure: Option<Failure>) -> KernelReport {
        KernelReport {
            name: self.info.name,
            cases: self.cases.get(),
            skipped: self.skipped.get(),
            worst: self.worst.get(),
            not_covered,
            failure,
        }
    }

    /// Draws cases until enough ran, and makes a failing one as small as it still fails.
    fn check<C: fmt::Debug>(
        &self,
        strategy: impl Strategy<Value = C>,
        prepare: impl Fn(&C) -> Result<(Op, Expected)>,
    ) -> Option<Failure> {
        let mut seed = [0u8; 32];
        let mut random = Random(self.config.seed);
        seed.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.bits().to_le_bytes()));
        let runner_config = RunnerConfig {
            // Cases that a kernel does not support pass at once and do not count.
            cases: self.config.cases.saturating_mul(8),
            failure_persistence: None,
            ..RunnerConfig::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(runner_config, rng);
        let result = runner.run(&strategy, |case| {
            if self.cases.get() >= self.config.cases {
                return Ok(());
            }
            let error = |e: crate::Error| TestCaseError::fail(e.to_string());
            let (op, expected) = prepare(&case).map_err(error)?;
            self.check_op(&op, &expected).map_err(TestCaseError::fail)
        });
        match result {
            Ok(()) => None,
            Err(TestError::Fail(reason, case)) => {
                let (case, reason) = (format!("{case:?}"), reason.to_string());
                Some(Failure { case, reason })
            }
            Err(TestError::Abort(reason)) => {
                Some(Failure { case: String::new(), reason: reason.to_string() })
            }
        }
    }

    fn check_op(&self, op: &Op, expected: &Expected) -> Result<(), String> {
        let explanation = self.device.explain(op).map_err(|e| e.to_string())?;
        if explanation.chosen().is_none() {
            self.skipped.set(self.skipped.get() + 1);
            return Ok(());
        }
        self.cases.set(self.cases.get() + 1);
        let first = self.launch(op)?;
        if self.info.deterministic {
            let second = self.launch(op)?;
            let same = first.iter().zip(&second).all(|(a, b)| a.to_bits() == b.to_bits());
            if !same {
                return Err("two runs gave different bits".to_owned());
            }
        }
        for (i, &found) in first.iter().enumerate() {
            let (exact, error) = (expected.values[i], expected.errors[i]);
            match compare(expected.dtype, found, exact, error) {
                Verdict::Within(ratio) => self.worst.set(self.worst.get().max(ratio)),
                Verdict::Wrong => {
                    return Err(format!("element {i} is {found}, not {exact} ± {error:e}: {op}"));
                }
            }
        }
        Ok(())
    }

    /// Runs into fresh, poisoned memory and gives the output's values.
    fn launch(&self, op: &Op) -> Result<Vec<f64>, String> {
        let run = || -> Result<Vec<f64>> {
            let (op, output) = with_output(&self.device, op, None)?;
            self.device.run(&op)?;
            to_f64(&self.reference, &output)
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(_) => Err("it panicked".to_owned()),
        }
    }
}

/// What an output must be.
struct Expected {
    dtype: DType,
    values: Vec<f64>,
    /// What the value may be off by before it is rounded to `dtype`.
    errors: Vec<f64>,
}

/// The operation with poisoned memory for its output, of `dtype` or its own type.
fn with_output(device: &Device, op: &Op, dtype: Option<DType>) -> Result<(Op, Operand)> {
    let mut op = op.clone();
    let slot = match &mut op {
        Op::Gemm(op) => &mut op.d,
        Op::Attention(op) => &mut op.out,
        Op::Gather(op) => &mut op.out,
        Op::Convert(op) => &mut op.dst,
        _ => return Ok((op.clone(), Dense::spec(DType::F32, &[])?.into())),
    };
    let dtype = dtype.or(slot.dtype()).unwrap_or(DType::F32);
    let mut dense = Dense::spec(dtype, &slot.dims())?;
    let buffer = device.allocate(dense.dims.numel()? * dtype.size(), "output under test")?;
    // A pattern that is NaN or far off in every float type.
    buffer.write()?.fill(0xFF);
    dense.data = Some(Region::whole(buffer));
    *slot = dense.into();
    let output = slot.clone();
    Ok((op, output))
}

/// The values of a dense, contiguous operand.
fn to_f64(reference: &Device, operand: &Operand) -> Result<Vec<f64>> {
    fn values<E: Scalar>(bytes: &[u8]) -> Vec<f64> {
        let read = |chunk: &[u8]| bytemuck::pod_read_unaligned::<E>(chunk).to_f64();
        bytes.chunks_exact(size_of::<E>()).map(read).collect()
    }
    let dense = match operand {
        Operand::Dense(dense) if dense.is_contiguous() => dense.clone(),
        other => {
            let cast = AnyTensor::from_operand(reference, other.clone()).cast(DType::F64)?;
            return to_f64(reference, cast.operand());
        }
    };
    let Some(region) = &dense.data else { return Ok(Vec::new()) };
    let guard = region.buffer().read()?;
    let len = dense.dims.numel()? * dense.dtype.size();
    let bytes = &guard[region.offset()..region.offset() + len];
    Ok(match dense.dtype {
        DType::F64 => values::<f64>(bytes),
        DType::F32 => values::<f32>(bytes),
        DType::BF16 => values::<bf16>(bytes),
        DType::F16 => values::<f16>(bytes),
        DType::F8E4M3 => values::<F8E4M3>(bytes),
        DType::F8E5M2 => values::<F8E5M2>(bytes),
        _ => Vec::new(),
    })
}

/// The reference's own output, to be met exactly.
fn exactly(reference: &Device, op: &Op) -> Result<Expected> {
    let (op, output) = with_output(reference, op, None)?;
    reference.run(&op)?;
    let values = to_f64(reference, &output)?;
    let dtype = output.dtype().unwrap_or(DType::F32);
    Ok(Expected { dtype, errors: vec![0.0; values.len()], values })
}

/// The reference's result in f64.
fn in_f64(reference: &Device, op: impl Into<Op>) -> Result<Vec<f64>> {
    let (op, output) = with_output(reference, &op.into(), Some(DType::F64))?;
    reference.run(&op)?;
    to_f64(reference, &output)
}

/// An operand's magnitudes as an f64 operand.
fn magnitudes(reference: &Device, operand: &Operand) -> Result<Operand> {
    let values: Vec<f64> = to_f64(reference, operand)?.into_iter().map(f64::abs).collect();
    let mut dense = Dense::spec(DType::F64, &operand.dims())?;
    let buffer = reference.allocate(values.len() * size_of::<f64>(), "magnitudes")?;
    buffer.write()?.copy_from_slice(bytemuck::cast_slice(&values));
    dense.data = Some(Region::whole(buffer));
    Ok(dense.into())
}

/// `γ·(|alpha|·|A|·|B| + |beta|·|C| + |bias|)` carried through activation, gate and residual.
fn gemm_expected(reference: &Device, op: &Gemm) -> Result<Expected> {
    let dtype = op.d.dtype().unwrap_or(DType::F32);
    let values = in_f64(reference, op.clone())?;
    // What stands before the activation, and its magnitudes.
    let mut plain = op.clone();
    plain.epilogue.activation = Activation::Identity;
    plain.epilogue.residual = None;
    let dims = Gemm::output_dims(&op.a, &op.b, Activation::Identity)?;
    plain.d = Dense::spec(DType::F64, &dims)?.into();
    let before = in_f64(reference, plain.clone())?;
    let mut sizes = plain.clone();
    sizes.a = magnitudes(reference, &op.a)?;
    sizes.b = magnitudes(reference, &op.b)?;
    (sizes.alpha, sizes.beta) = (op.alpha.abs(), op.beta.abs());
    sizes.c = op.c.as_ref().map(|c| magnitudes(reference, c)).transpose()?;
    let bias = op.epilogue.bias.as_ref().map(|b| magnitudes(reference, b)).transpose()?;
    sizes.epilogue.bias = bias;
    let total = in_f64(reference, sizes)?;

    // Decoding a block format rounds twice at most (one for each operand), each product and sum
    // once, and alpha, beta · c, + and bias once each.
    let k = op.sizes()?.k;
    let roundings = k + 8;
    let tiny = roundings as f64 * TINY_F32 * (1.0 + f64::from(op.alpha.abs()));
    let error = |i: usize| gamma(roundings) * total[i] + tiny;
    let f = op.epilogue.activation;
    let smooth = |i: usize| activation_error(f.pointwise(), before[i], error(i));
    let width = dims.last().copied().unwrap_or(0);
    let mut errors: Vec<f64> = if f.is_gated() && width > 0 {
        let half = width / 2;
        let pair = |p: usize| (p / half * width + p % half, p / half * width + half + p % half);
        let gated = |p: usize| {
            let (g, u) = pair(p);
            // A gate that may round to 0 makes of an infinity what it likes.
            if before[u].is_infinite() && gate_value(f, before[g]).abs() <= smooth(g) {
                return f64::NAN;
            }
            let gate = 1.2 * before[g].abs();
            let product = gate * error(u) + before[u].abs() * smooth(g) + smooth(g) * error(u);
            product + U_F32 * (gate + smooth(g)) * (before[u].abs() + error(u)) + TINY_F32
        };
        (0..values.len()).map(gated).collect()
    } else {
        (0..values.len()).map(smooth).collect()
    };
    if op.epilogue.residual.is_some() {
        for (error, value) in errors.iter_mut().zip(&values) {
            *error += U_F32 * (value.abs() + *error) + TINY_F32;
        }
    }
    Ok(Expected { dtype, values, errors })
}

/// The gate of a gated activation.
fn gate_value(f: Activation, x: f64) -> f64 {
    match f.pointwise() {
        Activation::Silu => x / (1.0 + (-x).exp()),
        _ => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

/// What an error before a pointwise activation becomes: times its steepest slope, and the
/// roundings of the function itself, each relative to the argument.
fn activation_error(f: Activation, x: f64, error: f64) -> f64 {
    /// Silu 1.0998, gelu 1.129, both slopes rounded up.
    const STEEPEST: f64 = 1.13;
    /// The longest of the functions: argument, polynomial, tanh or erf, sum, products.
    const ROUNDINGS: usize = 16;
    match f {
        Activation::Identity | Activation::Relu => error,
        _ => STEEPEST * error + gamma(ROUNDINGS) * (x.abs() + error) + TINY_F32,
    }
}

/// Errors of the scores through the softmax, and of the weighted sum of values.
fn attention_expected(reference: &Device, op: &Attention) -> Result<Expected> {
    let dtype = op.out.dtype().unwrap_or(DType::F32);
    let values = in_f64(reference, op.clone())?;
    let mut weighted = op.clone();
    weighted.v = magnitudes(reference, &op.v)?;
    let weighted = in_f64(reference, weighted)?;

    let largest = |operand: &Operand| -> Result<f64> {
        Ok(to_f64(reference, operand)?.into_iter().fold(0.0, |m, x| x.abs().max(m)))
    };
    let (d, keys) = (op.q.dims().last().copied().unwrap_or(0), op.k.dims()[1]);
    let dots = op.score_scale() * d as f64 * largest(&op.q)? * largest(&op.k)?;
    // A distance of at most all keys and queries, times the steepest slope.
    let distance = (op.k.dims()[1] + op.q.dims()[1]) as f64;
    let bias = op.alibi.as_ref().map(largest).transpose()?.unwrap_or(0.0) * distance;
    let cap = op.softcap.map_or(0.0, f64::from);
    // Products, sums, scale; quotient, tanh and product of the softcap; the bias; decoding.
    let score = gamma(d + 8) * (dots + bias) + gamma(8) * (cap.min(dots) + bias);
    let score = score + gamma(2) * (dots + bias) + (d + 8) as f64 * TINY_F32;
    // A score that is off by e changes weights by a factor within e^(±2e); exponentials, their
    // sum, quotients and the sum of values round at most 2·keys + 8 times.
    let relative = (2.0 * score).exp_m1() + gamma(2 * keys + 8) * (2.0 * score).exp();
    let tiny = (keys + 8) as f64 * TINY_F32;
    // A weight can also underflow where its exact value does not.
    let underflow = keys as f64 * f64::from(f32::MIN_POSITIVE) * largest(&op.v)?;
    let errors = weighted.iter().map(|w| relative * w + tiny + underflow).collect();
    Ok(Expected { dtype, values, errors })
}
