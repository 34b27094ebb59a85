//! Misuse of operations: every operand of each, given a wrong rank, size, type, format, layout or
//! overlap, is refused with the right error, in words that name the argument and show what was
//! found and what was expected.

#[path = "common/ops.rs"]
mod ops;

use std::collections::BTreeMap;

use ferrocerium::format::{Format, Quantizer};
use ferrocerium::memory::{Access, Buffer, Pool, Region};
use ferrocerium::op::*;
use ferrocerium::{DType, Device, Error};

use ops::{says, scaled_spec, spec};

/// An operation built from its operands, which are good until one is replaced.
struct Case {
    op: &'static str,
    operands: Vec<(&'static str, Operand)>,
    build: fn(&[Operand]) -> Op,
    /// Operands whose size may be anything that the others then follow from.
    free: &'static [(&'static str, usize)],
}

fn cases() -> Vec<Case> {
    let f = |dims: &[usize]| spec(DType::F32, dims);
    let i = |dims: &[usize]| spec(DType::I32, dims);
    vec![
        Case {
            op: "matmul",
            operands: vec![
                ("a", f(&[4, 64])),
                ("b", f(&[64, 32])),
                ("bias", f(&[32])),
                ("residual", f(&[4, 32])),
                ("d", f(&[4, 32])),
            ],
            build: |o| {
                let mut op = Gemm::new(o[0].clone(), o[1].clone(), o[4].clone());
                op.epilogue.bias = Some(o[2].clone());
                op.epilogue.residual = Some(o[3].clone());
                op.into()
            },
            free: &[],
        },
        Case {
            op: "grouped_gemm",
            operands: vec![
                ("a", f(&[6, 64])),
                ("b", f(&[3, 64, 32])),
                ("offsets", i(&[4])),
                ("bias", f(&[3, 32])),
                ("residual", f(&[6, 32])),
                ("d", f(&[6, 32])),
            ],
            build: |o| {
                let mut op =
                    GroupedGemm::new(o[0].clone(), o[1].clone(), o[2].clone(), o[5].clone());
                op.epilogue.bias = Some(o[3].clone());
                op.epilogue.residual = Some(o[4].clone());
                op.into()
            },
            free: &[],
        },
        Case {
            op: "norm",
            operands: vec![
                ("x", f(&[4, 64])),
                ("residual", f(&[4, 64])),
                ("weight", f(&[64])),
                ("bias", f(&[64])),
                ("sum", f(&[4, 64])),
                ("out", f(&[4, 64])),
            ],
            build: |o| {
                let mut op = Norm::new(NormKind::Layer, o[0].clone(), o[5].clone(), 1e-5);
                op.residual = Some(o[1].clone());
                op.weight = Some(o[2].clone());
                op.bias = Some(o[3].clone());
                op.sum = Some(o[4].clone());
                op.into()
            },
            free: &[],
        },
        Case {
            op: "softmax",
            operands: vec![("x", f(&[4, 64])), ("out", f(&[4, 64]))],
            build: |o| Softmax::new(o[0].clone(), o[1].clone()).into(),
            free: &[],
        },
        Case {
            op: "elementwise",
            operands: vec![("a", f(&[4, 64])), ("b", f(&[4, 64])), ("out", f(&[4, 64]))],
            build: |o| {
                Elementwise::binary(Function::Add, o[0].clone(), o[1].clone(), o[2].clone()).into()
            },
            free: &[],
        },
        Case {
            op: "gather",
            operands: vec![("table", f(&[10, 64])), ("indices", i(&[4])), ("out", f(&[4, 64]))],
            build: |o| Gather::new(o[0].clone(), o[1].clone(), o[2].clone()).into(),
            // A table may have any number of rows.
            free: &[("table", 0)],
        },
        Case {
            op: "scatter",
            operands: vec![("src", f(&[4, 64])), ("indices", i(&[4])), ("out", f(&[10, 64]))],
            build: |o| {
                let (src, indices, out) = (o[0].clone(), o[1].clone(), o[2].clone());
                Scatter { src, indices, axis: 0, out }.into()
            },
            // There may be any number of places.
            free: &[("out", 0)],
        },
        Case {
            op: "reduce",
            operands: vec![("x", f(&[4, 64])), ("out", f(&[4]))],
            build: |o| Reduce::new(Reduction::Sum, o[0].clone(), [1], o[1].clone()).into(),
            free: &[("x", 1)],
        },
        Case {
            op: "arg_reduce",
            operands: vec![("x", f(&[4, 64])), ("out", i(&[4]))],
            build: |o| ArgReduce::max(o[0].clone(), 1, o[1].clone()).into(),
            free: &[("x", 1)],
        },
        Case {
            op: "top_k",
            operands: vec![("x", f(&[4, 64])), ("values", f(&[4, 5])), ("indices", i(&[4, 5]))],
            build: |o| TopK::new(o[0].clone(), o[1].clone(), o[2].clone()).into(),
            free: &[("x", 1)],
        },
        Case {
            op: "rope",
            operands: vec![("x", f(&[5, 2, 64])), ("positions", i(&[5])), ("out", f(&[5, 2, 64]))],
            build: |o| {
                Rope {
                    x: o[0].clone(),
                    positions: Positions::Given(o[1].clone()),
                    style: RopeStyle::HalfSplit,
                    frequencies: RopeFrequencies::new(10000.0, 64, &RopeScaling::None).unwrap(),
                    out: o[2].clone(),
                }
                .into()
            },
            free: &[],
        },
        Case {
            op: "attention",
            operands: vec![
                ("q", f(&[2, 3, 4, 64])),
                ("k", f(&[2, 7, 2, 64])),
                ("v", f(&[2, 7, 2, 32])),
                ("sinks", f(&[4])),
                ("kv_lens", i(&[2])),
                ("lse", f(&[2, 3, 4])),
                ("out", f(&[2, 3, 4, 32])),
            ],
            build: |o| {
                let mut op = Attention::new(o[0].clone(), o[1].clone(), o[2].clone(), o[6].clone());
                op.sinks = Some(o[3].clone());
                op.kv = KvLayout::Batched { kv_lens: Some(o[4].clone()) };
                op.lse = Some(o[5].clone());
                op.into()
            },
            free: &[],
        },
        Case {
            op: "convert",
            operands: vec![("src", f(&[4, 64])), ("dst", spec(DType::BF16, &[4, 64]))],
            build: |o| Convert::new(o[0].clone(), o[1].clone()).into(),
            free: &[],
        },
    ]
}

impl Case {
    fn with(&self, index: usize, operand: Operand) -> Op {
        let mut operands: Vec<Operand> = self.operands.iter().map(|o| o.1.clone()).collect();
        operands[index] = operand;
        (self.build)(&operands)
    }

    fn writes(&self, index: usize) -> bool {
        let good: Vec<Operand> = self.operands.iter().map(|o| o.1.clone()).collect();
        let op = (self.build)(&good);
        let arg = self.operands[index].0;
        let uses = op.operands();
        uses.iter().any(|u| u.name == arg && u.access == Access::Write)
    }
}

/// What kind of error a refusal is.
fn variant(error: &Error) -> &'static str {
    match error {
        Error::Shape { .. } => "shape",
        Error::DType { .. } => "dtype",
        Error::Layout { .. } => "layout",
        Error::Value { .. } => "value",
        _ => "another",
    }
}

/// A refusal that is to be: of one of these variants, naming the argument in question (or one that
/// it does not fit to), with each of `parts` in its words.
#[derive(Default)]
struct Refusals {
    count: usize,
    per_op: BTreeMap<&'static str, usize>,
    faults: Vec<String>,
}

impl Refusals {
    fn expect(&mut self, case: &Case, index: usize, op: Op, variants: &[&str], parts: &[String]) {
        self.count += 1;
        *self.per_op.entry(case.op).or_default() += 1;
        let name = case.operands[index].0;
        let Err(error) = op.validate() else {
            self.faults.push(format!("{}, {name}: accepted: {parts:?}", case.op));
            return;
        };
        let text = error.to_string();
        let names_arg = case.operands.iter().any(|(arg, _)| text.contains(arg));
        let complete = parts.iter().all(|part| text.contains(part));
        if !variants.contains(&variant(&error)) || !names_arg || !complete {
            let kind = variant(&error);
            self.faults.push(format!("{}, {name}: {kind}: {text:?}: no {parts:?}", case.op));
        }
    }

    fn verdict(self) -> usize {
        assert!(
            self.faults.is_empty(),
            "{} faults:\n{}",
            self.faults.len(),
            self.faults.join("\n")
        );
        self.count
    }
}

fn dtype_of(operand: &Operand) -> DType {
    operand.dtype().unwrap_or(DType::F32)
}

fn sizes(case: &Case) -> Refusals {
    let mut refusals = Refusals::default();
    for (index, (name, good)) in case.operands.iter().enumerate() {
        let (dims, dtype) = (good.dims().to_vec(), dtype_of(good));
        for axis in 0..dims.len() {
            if case.free.contains(&(name, axis)) {
                continue;
            }
            // Not 1, which may broadcast, nor a multiple, which heads may share.
            for size in [dims[axis] + 1, dims[axis] + 7] {
                let mut wrong = dims.clone();
                wrong[axis] = size;
                let operand = spec(dtype, &wrong);
                // There is one more offset than groups.
                let groups = (case.op, *name, axis) == ("grouped_gemm", "b", 0);
                let parts = [size, dims[axis]].map(|n| (n + usize::from(groups)).to_string());
                refusals.expect(case, index, case.with(index, operand), &["shape"], &parts);
            }
        }
        let mut longer = vec![1; 1];
        longer.extend(&dims);
        let ranks = [longer, dims.get(1..).unwrap_or(&[]).to_vec()];
        for wrong in ranks.into_iter().filter(|wrong| {
            // One more or one less leading size is another valid operation for these.
            let any_rank = matches!(
                (case.op, *name),
                ("gather", "indices") | ("elementwise", "a" | "b") | ("rope", "positions")
            );
            !any_rank && *wrong != dims
        }) {
            // A product of batches has the sizes of one more matrix.
            if case.op == "matmul" && matches!(*name, "a" | "b") && wrong.len() > dims.len() {
                continue;
            }
            let operand = spec(dtype, &wrong);
            let op = case.with(index, operand);
            refusals.expect(case, index, op, &["shape", "layout"], &[]);
        }
    }
    refusals
}

fn types(case: &Case) -> Refusals {
    let mut refusals = Refusals::default();
    for (index, (name, good)) in case.operands.iter().enumerate() {
        let dims = good.dims().to_vec();
        let is_index = good.dtype().is_some_and(DType::is_int);
        let wrong: &[DType] = match is_index {
            true => &[DType::F32, DType::BF16, DType::U8, DType::F8E4M3, DType::E8M0],
            false => &[DType::I32, DType::U8, DType::I64, DType::E8M0, DType::E2M1x2],
        };
        for &dtype in wrong {
            // Conversions between plain types, and copies of any type, are what these are for.
            if case.op == "convert" && dtype.is_int() {
                continue;
            }
            let op = case.with(index, spec(dtype, &dims));
            let parts = vec![format!("{name} is "), dtype.to_string()];
            refusals.expect(case, index, op, &["dtype"], &parts);
        }
    }
    refusals
}

fn formats(case: &Case) -> Refusals {
    let mut refusals = Refusals::default();
    for (index, (name, good)) in case.operands.iter().enumerate() {
        let dims = good.dims().to_vec();
        let takes_blocks = matches!(
            (case.op, *name),
            ("matmul" | "grouped_gemm", "a" | "b" | "d")
                | ("norm", "x" | "out")
                | ("softmax" | "reduce" | "arg_reduce" | "top_k" | "rope", "x")
                | ("elementwise" | "convert", _)
                | ("gather", "table" | "out")
                | ("attention", "q" | "k" | "v")
        );
        if takes_blocks {
            continue;
        }
        for format in Format::ALL {
            let op = case.with(index, scaled_spec(format, &dims).into());
            let parts = vec![format!("{name} is "), format.to_string()];
            refusals.expect(case, index, op, &["dtype"], &parts);
        }
    }
    refusals
}

/// Strides by which an output writes an element twice, and regions that are too small.
fn layouts(case: &Case) -> Refusals {
    let mut refusals = Refusals::default();
    let pool = Pool::new("test", 1 << 20);
    for (index, (_, good)) in case.operands.iter().enumerate() {
        let Operand::Dense(dense) = good else { continue };
        if case.writes(index) && dense.dims.iter().any(|&d| d > 1) {
            for stride in [0, 1] {
                let mut wrong = dense.clone();
                let last = wrong.strides.len() - 1;
                wrong.strides.iter_mut().for_each(|s| *s = stride);
                if stride == 1 && last == 0 {
                    continue;
                }
                let parts = vec!["writes some element twice".to_owned(), "strides".to_owned()];
                refusals.expect(case, index, case.with(index, wrong.into()), &["layout"], &parts);
            }
        }
        let bytes: usize = dense.dims.iter().product::<usize>() * dense.dtype.size();
        for short in [0, bytes - 1] {
            let buffer = Buffer::host(&pool, short, "short").unwrap();
            let mut wrong = dense.clone();
            wrong.data = Some(Region::whole(buffer));
            let parts = vec![bytes.to_string(), short.to_string()];
            refusals.expect(case, index, case.with(index, wrong.into()), &["layout"], &parts);
        }
    }
    refusals
}

#[test]
fn what_is_right_is_accepted() {
    for case in cases() {
        let good: Vec<Operand> = case.operands.iter().map(|o| o.1.clone()).collect();
        (case.build)(&good).validate().unwrap_or_else(|e| panic!("{}: {e}", case.op));
    }
}

#[test]
fn every_wrong_operand_of_every_operation_is_refused_in_words_that_help() {
    let mut all = Refusals::default();
    for kind in [sizes, types, formats, layouts] {
        for case in &cases() {
            let found = kind(case);
            all.count += found.count;
            all.faults.extend(found.faults);
            for (op, count) in found.per_op {
                *all.per_op.entry(op).or_default() += count;
            }
        }
    }
    println!("{:?}", all.per_op);
    assert!(all.per_op.values().all(|&count| count >= 10), "{:?}", all.per_op);
    let count = all.verdict();
    assert_eq!(cases().len(), OpKind::ALL.len(), "an operation is missing here");
    println!("{count} misuses refused");
    assert!(count >= 300, "{count}");
}

/// Gives every operand a buffer of its own, named like it.
fn with_data(case: &Case, allocate: impl Fn(&str, usize) -> Buffer) -> Vec<Operand> {
    let give = |(name, good): &(&'static str, Operand)| {
        let Operand::Dense(dense) = good else { panic!("{name} is block-scaled") };
        let bytes = dense.dims.iter().product::<usize>() * dense.dtype.size();
        let mut dense = dense.clone();
        dense.data = Some(Region::whole(allocate(name, bytes)));
        Operand::from(dense)
    };
    case.operands.iter().map(give).collect()
}

#[test]
fn an_output_in_the_memory_of_another_operand_is_refused_and_both_are_named() {
    let device = Device::reference();
    let mut count = 0;
    for case in cases() {
        // Each as large as the largest: regions of any operand fit into the buffer of any other.
        let apart = with_data(&case, |name, _| device.allocate(1 << 15, name).unwrap());
        let op = |operands: &[Operand]| (case.build)(operands);
        for (out, other) in (0..apart.len()).flat_map(|i| (0..apart.len()).map(move |j| (i, j))) {
            if out == other || !case.writes(out) {
                continue;
            }
            let mut shared = apart.clone();
            let buffer = apart[other].regions().next().unwrap().buffer().clone();
            let Operand::Dense(dense) = &mut shared[out] else { continue };
            dense.data = Some(Region::whole(buffer));
            let op = op(&shared);
            let error = device.run(&op).unwrap_err();
            assert_eq!(variant(&error), "layout", "{error}");
            let names = [case.operands[out].0, case.operands[other].0];
            let dims = [out, other].map(|i| format!("{:?}", case.operands[i].1.dims()));
            says(&error.to_string(), &[op.kind().name(), names[0], names[1], &dims[0], &dims[1]]);
            count += 1;
        }
    }
    println!("{count} overlaps refused");
    assert!(count >= 40, "{count}");
}

#[cfg(feature = "emulator")]
#[test]
fn an_operand_in_memory_that_the_device_does_not_reach_is_refused_by_name() {
    use ferrocerium::caps::{Arch, MemoryKind};
    let Ok(gpu) = Device::builder().emulated_discrete(Arch::SM90A) else {
        // Its compiler is not here.
        assert!(std::env::var_os("CI").is_none());
        return;
    };
    let mut devices = vec![Device::reference()];
    #[cfg(feature = "cpu")]
    devices.push(Device::cpu());
    for (device, case) in devices.iter().flat_map(|d| cases().into_iter().map(move |c| (d, c))) {
        for &(name, _) in &case.operands {
            let operands = with_data(&case, |label, bytes| match label == name {
                true => gpu.allocate_kind(MemoryKind::Device, bytes, label).unwrap(),
                false => device.allocate(bytes, label).unwrap(),
            });
            let error = device.run(&(case.build)(&operands)).unwrap_err();
            assert!(matches!(error, Error::Memory { .. }), "{error}");
            let parts = [name, "device memory", device.name(), "to_device"];
            says(&error.to_string(), &parts);
        }
    }
}

#[test]
fn quantizers_are_refused_for_formats_they_do_not_make() {
    for format in Format::ALL {
        for quantizer in Quantizer::ALL {
            let mut op = Convert::new(spec(DType::F32, &[4, 64]), scaled_spec(format, &[4, 64]));
            op.quantizer = Some(quantizer);
            let result = Op::from(op).validate();
            assert_eq!(result.is_ok(), quantizer.supports(format), "{format} {quantizer}");
            if let Err(error) = result {
                assert_eq!(variant(&error), "value");
                says(&error.to_string(), &[quantizer.name(), format.name(), "quantizer"]);
            }
        }
    }
}
