//! Which kernel runs, and that every choice can be seen, forced, forbidden and replaced.

#[path = "common/ops.rs"]
mod ops;

use std::sync::{Arc, Mutex};

use ferrocerium::caps::{Caps, Isa};
use ferrocerium::memory::Pool;
use ferrocerium::op::{Op, OpKind, Softmax};
use ferrocerium::registry::{
    Cost, Kernel, KernelInfo, KernelRegistry, Launch, Numerics, Request, Tuning, Unsupported,
    Verdict, Workers,
};
use ferrocerium::{DType, Device, Error, Result, Tensor};
use ops::{error, says, spec};
use proptest::prelude::*;

/// A softmax that writes a number of its own wherever it runs, so that tests see who ran.
#[derive(Clone, Debug)]
struct Fake {
    info: KernelInfo,
    seconds: f64,
    /// The number that it writes; `None` to panic instead.
    writes: Option<f32>,
    needs: Option<Isa>,
}

fn fake(name: &str, seconds: f64) -> Fake {
    let info = KernelInfo::new(name, OpKind::Softmax, "for tests");
    Fake { info, seconds, writes: Some(seconds as f32), needs: None }
}

impl Kernel for Fake {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, _: &Op, caps: &Caps) -> Result<(), Unsupported> {
        match self.needs {
            Some(isa) if !caps.has(isa) => Err(Unsupported::because(format!("needs {isa:?}"))),
            _ => Ok(()),
        }
    }

    fn cost(&self, _: &Op, _: &Caps) -> Cost {
        Cost { seconds: self.seconds }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let Op::Softmax(op) = launch.op else { panic!("not a softmax") };
        let number = self.writes.expect("this kernel panics");
        launch.write_dense::<f32>(&op.out)?.fill(number);
        Ok(())
    }
}

fn registry(kernels: &[Fake]) -> KernelRegistry {
    KernelRegistry::from_kernels(kernels.iter().map(|k| Arc::new(k.clone()) as Arc<dyn Kernel>))
}

/// A device with these kernels only.
fn device(kernels: &[Fake], request: Request) -> Device {
    let (pool, workers) = (Pool::new("fakes", 1 << 20), Workers::sequential());
    Device::from_parts("fakes", Caps::cpu(1), pool, workers, registry(kernels), request)
}

fn softmax() -> Op {
    let (x, out) = (spec(DType::F32, &[2, 3]), spec(DType::F32, &[2, 3]));
    Op::Softmax(Softmax { x, out, scale: 1.0, log: false })
}

fn chosen(registry: &KernelRegistry, request: &Request) -> Option<String> {
    let kernel = registry.select(&softmax(), &Caps::cpu(1), request);
    kernel.map(|k| k.info().name.clone())
}

/// The number that the kernel wrote which ran.
fn run(device: &Device) -> Result<f32> {
    let x = Tensor::<f32, 2>::zeros(device, [2, 3])?;
    Ok(x.softmax()?.host()?[[0, 0]])
}

fn forced_by_variable(names: &[&str]) -> Request {
    Request { forced: names.iter().map(|n| n.to_string()).collect(), ..Request::default() }
}

#[test]
fn what_was_fastest_when_tuned_goes_before_costs_and_after_force() {
    let kernels = [fake("t.cheap", 1.0), fake("t.tuned", 3.0), fake("t.other", 2.0)];
    let device = device(&kernels, Request::default());
    let (op, caps) = (softmax(), Caps::cpu(1));
    let mut tuning = Tuning::new();
    tuning.set_fastest(&op, &caps, "t.tuned");
    device.registry().set_tuning(tuning);
    assert_eq!(run(&device).unwrap(), 3.0);
    let explanation = device.explain(&op).unwrap();
    let verdict = explanation.candidates.into_iter().find(|c| c.info.name == "t.tuned").unwrap();
    assert_eq!(verdict.verdict, Verdict::Chosen("fastest when tuned".to_owned()));

    let forced = device.with_request(Request::kernel("t.other"));
    assert_eq!(run(&forced).unwrap(), 2.0);
    let by_variable = forced_by_variable(&["t.other"]);
    assert_eq!(chosen(device.registry(), &by_variable).as_deref(), Some("t.other"));
    // One that may not be chosen is not, however fast it was.
    device.registry().disable("t.tuned").unwrap();
    assert_eq!(run(&device).unwrap(), 1.0);
}

#[test]
fn tuning_holds_for_sizes_alike_types_and_the_machine() {
    let mut tuning = Tuning::new();
    let op = |dtype, rows| {
        let (x, out) = (spec(dtype, &[rows, 3]), spec(dtype, &[rows, 3]));
        Op::Softmax(Softmax { x, out, scale: 1.0, log: false })
    };
    tuning.set_fastest(&op(DType::F32, 5), &Caps::cpu(1), "t.k");
    assert_eq!(tuning.fastest(&op(DType::F32, 8), &Caps::cpu(1)), Some("t.k"));
    assert_eq!(tuning.fastest(&op(DType::F32, 9), &Caps::cpu(1)), None);
    assert_eq!(tuning.fastest(&op(DType::F32, 4), &Caps::cpu(1)), None);
    assert_eq!(tuning.fastest(&op(DType::BF16, 5), &Caps::cpu(1)), None);
    assert_eq!(tuning.fastest(&op(DType::F32, 5), &Caps::cpu(2)), None);
    assert_eq!(tuning.to_string().parse::<Tuning>().unwrap(), tuning);
    for damaged in ["no tab", "\tkernel", "bucket\t", "a\tb\nc"] {
        assert!(matches!(damaged.parse::<Tuning>(), Err(Error::Parse { .. })), "{damaged:?}");
    }
}

#[test]
fn tuning_runs_every_kernel_that_may_be_chosen_and_keeps_the_fastest() {
    let mut fallback = fake("t.fallback", 0.5);
    fallback.info = fallback.info.fallback();
    let mut narrowing = fake("t.narrowing", 0.1);
    narrowing.info.numerics = Numerics::NarrowedOperands;
    let kernels = [fallback, fake("t.a", 1.0), fake("t.b", 2.0), narrowing];
    let device = device(&kernels, Request::default());
    let x = Tensor::<f32, 2>::zeros(&device, [2, 3]).unwrap();
    let out = Tensor::<f32, 2>::zeros(&device, [2, 3]).unwrap();
    let op = Op::Softmax(Softmax { x: x.operand(), out: out.operand(), scale: 1.0, log: false });
    let times = device.tune(&op).unwrap();
    let mut names: Vec<_> = times.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(device.registry().tuning().fastest(&op, device.caps()), Some(names[0]));
    assert!(times.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    names.sort_unstable();
    assert_eq!(names, ["t.a", "t.b"]);
    assert!(matches!(device.tune(&softmax()), Err(Error::Layout { .. })));
}

#[test]
fn the_cheapest_runs_and_of_equals_the_first_registered() {
    let kernels = [fake("t.slow", 3.0), fake("t.first", 1.0), fake("t.second", 1.0)];
    assert_eq!(chosen(&registry(&kernels), &Request::default()).as_deref(), Some("t.first"));
    assert_eq!(run(&device(&kernels, Request::default())).unwrap(), 1.0);
}

#[test]
fn the_caller_goes_before_the_variable_and_the_variable_before_the_cost() {
    let registry = registry(&[fake("t.a", 1.0), fake("t.b", 2.0), fake("t.c", 3.0)]);
    let variable = forced_by_variable(&["t.b"]);
    assert_eq!(chosen(&registry, &variable).as_deref(), Some("t.b"));
    let caller = Request { kernel: Some("t.c".to_owned()), ..variable };
    assert_eq!(chosen(&registry, &caller).as_deref(), Some("t.c"));
}

#[test]
fn a_kernel_that_does_not_support_the_operation_never_runs_not_even_by_force() {
    let picky = Fake { needs: Some(Isa::Avx512), ..fake("t.picky", 1.0) };
    let kernels = [picky, fake("t.plain", 2.0)];
    let registry = registry(&kernels);
    assert_eq!(chosen(&registry, &Request::default()).as_deref(), Some("t.plain"));
    assert_eq!(chosen(&registry, &Request::kernel("t.picky")), None);
    assert_eq!(chosen(&registry, &forced_by_variable(&["t.picky"])), None);
    let failure = run(&device(&kernels, Request::kernel("t.picky"))).unwrap_err();
    assert!(matches!(failure, Error::NoKernel { .. }), "{failure}");
    says(&failure.to_string(), &["softmax(", "fakes", "t.picky", "needs Avx512", "t.plain"]);
}

#[test]
fn a_forced_name_that_does_not_fit_says_so() {
    let device = device(&[fake("t.a", 1.0)], Request::default());
    let by = |request| error(run(&device.with_request(request)));
    says(&by(Request::kernel("t.b")), &["`t.b`", "by the caller", "no such kernel"]);
    let cpu = Device::reference().with_request(Request::kernel("reference.gemm"));
    says(&error(run(&cpu)), &["`reference.gemm`", "a kernel of another operation"]);
}

#[test]
fn names_in_the_variable_that_no_kernel_has_are_slips_only_within_the_same_backend() {
    let registry = registry(&[fake("t.a", 1.0), fake("t.b", 2.0)]);
    assert_eq!(chosen(&registry, &forced_by_variable(&["t.bb"])), None);
    assert_eq!(chosen(&registry, &forced_by_variable(&["u.a", "t.b"])).as_deref(), Some("t.b"));
    assert_eq!(chosen(&registry, &forced_by_variable(&["u.a"])).as_deref(), Some("t.a"));
}

#[test]
fn a_disabled_kernel_does_not_run_until_it_is_enabled() {
    let device = device(&[fake("t.a", 1.0), fake("t.b", 2.0)], Request::default());
    let clone = device.clone();
    clone.registry().disable("t.a").unwrap();
    assert_eq!(run(&device).unwrap(), 2.0, "clones share the registry");
    let forced = error(run(&device.with_request(Request::kernel("t.a"))));
    says(&forced, &["t.a", "disabled"]);
    device.registry().replace(fake("t.a", 0.5)).unwrap();
    assert_eq!(run(&device).unwrap(), 2.0, "what replaces it is disabled too");
    device.registry().enable("t.a").unwrap();
    assert_eq!(run(&device).unwrap(), 0.5);
}

#[test]
fn a_replaced_kernel_keeps_its_place() {
    let registry = registry(&[fake("t.a", 1.0), fake("t.b", 1.0)]);
    registry.replace(fake("t.a", 1.0)).unwrap();
    assert_eq!(chosen(&registry, &Request::default()).as_deref(), Some("t.a"));
    let names: Vec<_> = registry.list().into_iter().map(|k| k.name).collect();
    assert_eq!(names, ["t.a", "t.b"]);
}

#[test]
fn names_that_are_taken_or_unknown_are_refused_with_what_would_work() {
    let registry = registry(&[fake("t.a", 1.0)]);
    says(&error(registry.register(fake("t.a", 2.0))), &["`t.a`", "there already", "replace it"]);
    for refused in
        [registry.replace(fake("t.b", 1.0)), registry.disable("t.b"), registry.enable("t.b")]
    {
        says(&error(refused), &["no kernel `t.b`", "there are t.a"]);
    }
    let other = KernelInfo::new("t.a", OpKind::Gemm, "another operation");
    let refused = registry.replace(Fake { info: other, ..fake("t.a", 1.0) });
    says(&error(refused), &["`t.a`", "another operation than gemm"]);
    assert_eq!(registry.list().len(), 1);
}

#[test]
fn the_numerics_and_variability_of_a_kernel_must_be_accepted() {
    let mut narrow = fake("t.narrow", 1.0);
    narrow.info.numerics = Numerics::NarrowedOperands;
    let mut racy = fake("t.racy", 2.0);
    racy.info.deterministic = false;
    let mut batchy = fake("t.batchy", 3.0);
    batchy.info.batch_invariant = false;
    let registry = registry(&[narrow, racy, batchy, fake("t.exact", 9.0)]);
    let pick = |request: Request| chosen(&registry, &request).unwrap();
    let strictest = Request::default();
    assert_eq!(pick(strictest.clone()), "t.exact");
    let numerics = Numerics::NarrowedOperands;
    assert_eq!(pick(Request { numerics, ..strictest.clone() }), "t.narrow");
    assert_eq!(pick(Request { allow_variable_results: true, ..strictest }), "t.racy");
    // By force neither.
    assert_eq!(chosen(&registry, &Request::kernel("t.narrow")), None);
    assert_eq!(chosen(&registry, &Request::kernel("t.racy")), None);
}

#[test]
fn strict_mode_refuses_fallbacks() {
    let mut fallback = fake("t.fallback", 1.0);
    fallback.info = fallback.info.fallback();
    let alone = device(&[fallback.clone()], Request::default());
    assert_eq!(run(&alone).unwrap(), 1.0);
    let strict = Request { strict: true, ..Request::default() };
    says(&error(run(&alone.with_request(strict.clone()))), &["t.fallback", "strict"]);
    let device = device(&[fallback, fake("t.fast", 2.0)], strict);
    assert_eq!(run(&device).unwrap(), 2.0);
    // A handle to a strict device is strict, whatever else it asks for.
    assert!(run(&device.with_request(Request::kernel("t.fallback"))).is_err());
    let built = Device::builder().strict(true).reference();
    assert!(matches!(run(&built), Err(Error::NoKernel { .. })));
}

#[test]
fn an_explanation_shows_every_candidate_and_its_fate() {
    let picky = Fake { needs: Some(Isa::Neon), ..fake("t.picky", 1e-6) };
    let registry = registry(&[picky, fake("t.fast", 2e-6), fake("t.slow", 1e-3)]);
    let explained = registry.explain(&softmax(), &Caps::cpu(2), &Request::default());
    assert_eq!(explained.chosen().unwrap().name, "t.fast");
    let verdicts: Vec<_> = explained.candidates.iter().map(|c| c.verdict.clone()).collect();
    assert_eq!(verdicts[0], Verdict::Rejected("needs Neon".to_owned()));
    assert_eq!(verdicts[2], Verdict::Eligible(Cost { seconds: 1e-3 }));
    assert_eq!(
        explained.to_string(),
        "softmax(x: [2, 3] f32, out: [2, 3] f32) on cpu × 2\n  \
         t.picky  no: needs Neon\n\
         → t.fast   runs: least estimated time, 2.00µs\n  \
         t.slow   could run, estimated 1.00ms"
    );
    let forced = registry.explain(&softmax(), &Caps::cpu(2), &Request::kernel("t.slow"));
    says(&forced.to_string(), &["→ t.slow   runs: forced by the caller", "`t.slow` is forced"]);
    let none = KernelRegistry::new().explain(&softmax(), &Caps::cpu(2), &Request::default());
    says(&none.to_string(), &["no kernel is registered"]);
    assert!(none.chosen().is_none());
}

#[test]
fn a_kernel_that_panics_gives_its_buffers_back() {
    let device = device(&[Fake { writes: None, ..fake("t.panics", 1.0) }], Request::default());
    let x = Tensor::<f32, 2>::zeros(&device, [2, 3]).unwrap();
    let out = Tensor::<f32, 2>::zeros(&device, [2, 3]).unwrap();
    let op = Op::Softmax(Softmax { x: x.operand(), out: out.operand(), scale: 1.0, log: false });
    let call = std::panic::AssertUnwindSafe(|| device.run(&op));
    assert!(std::panic::catch_unwind(call).is_err());
    out.host_mut().unwrap()[[0, 0]] = 1.0;
    x.host_mut().unwrap();
    device.registry().register(fake("t.calm", 0.5)).unwrap();
    assert_eq!(run(&device).unwrap(), 0.5);
}

#[test]
fn kernels_may_come_and_go_while_others_run() {
    let device = device(&[fake("t.a", 1.0)], Request::default());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..200).for_each(|_| assert!(run(&device).unwrap() <= 1.0)));
        }
        scope.spawn(|| {
            for i in 0..50 {
                device.registry().register(fake(&format!("t.{i}"), 0.5)).unwrap();
                device.registry().disable(&format!("t.{i}")).unwrap();
            }
        });
    });
    assert_eq!(device.launches().values().sum::<u64>(), 600);
}

/// A kernel, as the properties below draw it.
fn kernels() -> impl Strategy<Value = Vec<Fake>> {
    let one = (0u8..4, any::<bool>(), any::<bool>(), any::<bool>());
    prop::collection::vec(one, 0..8).prop_map(|drawn| {
        let make = |(i, (seconds, needs, fallback, racy)): (usize, (u8, bool, bool, bool))| {
            let mut kernel = fake(&format!("t.{i}"), f64::from(seconds));
            kernel.needs = needs.then_some(Isa::Avx512);
            kernel.info.deterministic = !racy;
            if fallback {
                kernel.info = kernel.info.fallback();
            }
            kernel
        };
        drawn.into_iter().enumerate().map(make).collect()
    })
}

proptest! {
    #[test]
    fn the_choice_is_the_first_of_the_cheapest_that_may_run(
        kernels in kernels(), strict: bool, variable: bool, avx512: bool,
        disabled in prop::collection::vec(any::<bool>(), 8),
        forced in prop::option::of(0usize..8),
    ) {
        let registry = registry(&kernels);
        for (kernel, disabled) in kernels.iter().zip(&disabled) {
            if *disabled {
                registry.disable(&kernel.info.name).unwrap();
            }
        }
        let request = Request {
            strict,
            allow_variable_results: variable,
            kernel: forced.map(|i| format!("t.{i}")),
            ..Request::default()
        };
        let mut caps = Caps::cpu(1);
        caps.isa.extend(avx512.then_some(Isa::Avx512));
        let may_run = |i: usize| {
            let Fake { info, needs, .. } = &kernels[i];
            !disabled[i]
                && (needs.is_none() || avx512)
                && !(strict && info.tier == ferrocerium::registry::Tier::Fallback)
                && (variable || info.deterministic)
                && forced.is_none_or(|forced| forced == i)
        };
        let all = (0..kernels.len()).filter(|&i| may_run(i));
        // `min_by` gives the first of equals.
        let expected = all.min_by(|&a, &b| kernels[a].seconds.total_cmp(&kernels[b].seconds));
        let expected = expected.map(|i| format!("t.{i}"));
        let name = |kernel: &KernelInfo| kernel.name.clone();
        for _ in 0..2 {
            let found = registry.select(&softmax(), &caps, &request);
            prop_assert_eq!(found.map(|k| name(k.info())), expected.clone());
            let explained = registry.explain(&softmax(), &caps, &request);
            prop_assert_eq!(explained.chosen().map(name), expected.clone());
            prop_assert_eq!(explained.candidates.len(), kernels.len());
        }
    }
}

/// Keeps the events of this crate: level, kernel, text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(tracing::Level, String, String)>>>);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "kernel" => self.kernel = format!("{value:?}").trim_matches('"').to_owned(),
            name => self.text += &format!("{name}={value:?} "),
        }
    }
}

#[derive(Default)]
struct Fields {
    kernel: String,
    text: String,
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("ferrocerium")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let entry = (*event.metadata().level(), fields.kernel, fields.text);
        self.0.lock().unwrap().push(entry);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// The kernels that events of a level name, in order, while `f` runs.
fn logged(level: tracing::Level, f: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), f);
    let events = log.0.lock().unwrap();
    events.iter().filter(|(l, ..)| *l == level).map(|(_, kernel, _)| kernel.clone()).collect()
}

#[test]
fn every_launch_is_an_event() {
    let device = device(&[fake("t.a", 1.0), fake("t.b", 2.0)], Request::default());
    let kernels = logged(tracing::Level::TRACE, || {
        run(&device).unwrap();
        run(&device.with_request(Request::kernel("t.b"))).unwrap();
        run(&device).unwrap();
    });
    assert_eq!(kernels, ["t.a", "t.b", "t.a"]);
    let counts: Vec<_> = device.launches().into_iter().collect();
    assert_eq!(counts, [("t.a".to_owned(), 2), ("t.b".to_owned(), 1)]);
}

#[test]
fn a_fallback_that_nobody_asked_for_is_one_warning() {
    let mut slow = fake("t.slow", 1.0);
    slow.info = slow.info.fallback();
    let fast = Fake { needs: Some(Isa::Neon), ..fake("t.fast", 1.0) };
    let warnings = |device: &Device| {
        let thrice = || (0..3).for_each(|_| assert!(run(device).is_ok()));
        logged(tracing::Level::WARN, thrice)
    };
    assert_eq!(warnings(&device(&[slow.clone(), fast.clone()], Request::default())), ["t.slow"]);
    let none: [&str; 0] = [];
    let asked = device(&[slow.clone(), fast], Request::kernel("t.slow"));
    assert_eq!(warnings(&asked), none);
    // A device of nothing but fallbacks is the reference: that is what it is for.
    assert_eq!(warnings(&device(&[slow], Request::default())), none);
    assert_eq!(warnings(&Device::reference()), none);
}
