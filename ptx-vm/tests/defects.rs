//! Kernels with one mistake each: every one is reported with its kind, line, block and
//! thread, and the same kernel without the mistake runs clean.

mod support;

use ptx_vm::{Arg, DevicePtr, Error, FaultKind, LaunchConfig, Machine, Module};
use support::*;

const SOURCE: &str = include_str!("kernels/defects.cu");
const ARCH: &str = "compute_121a";

/// What a defect must be reported as.
enum Report {
    /// The kind of fault, by name, and the thread; the line is marked in the source.
    Fault(&'static str, u32),
    /// Words of the refusal to launch.
    Refusal(&'static str),
}
use Report::{Fault, Refusal};

struct Defect {
    kernel: &'static str,
    threads: u32,
    /// Arguments with and without the mistake, where it is in them.
    args: fn(&mut Machine, bool) -> Vec<Arg>,
    report: Report,
}

fn out(m: &mut Machine) -> DevicePtr {
    m.upload(&[0; 4096]).expect("memory")
}

/// `count` words that say where they are.
fn words(m: &mut Machine, count: u32) -> DevicePtr {
    upload_u32(m, &(0..count).collect::<Vec<_>>())
}

fn only_out(m: &mut Machine, _: bool) -> Vec<Arg> {
    vec![out(m).into()]
}

fn out_and_in(m: &mut Machine, _: bool) -> Vec<Arg> {
    vec![out(m).into(), words(m, 1024).into()]
}

fn out_and<const BUGGY: i32, const FIXED: i32>(m: &mut Machine, bug: bool) -> Vec<Arg> {
    vec![out(m).into(), (if bug { BUGGY } else { FIXED }).into()]
}

const fn defect(
    kernel: &'static str,
    threads: u32,
    args: fn(&mut Machine, bool) -> Vec<Arg>,
    report: Report,
) -> Defect {
    Defect { kernel, threads, args, report }
}

const DEFECTS: &[Defect] = &[
    // Shared memory between threads.
    defect("missing_barrier", 64, out_and_in, Fault("Race", 32)),
    defect("missing_syncwarp", 32, only_out, Fault("Race", 0)),
    defect("two_writers", 64, only_out, Fault("Race", 1)),
    defect(
        "double_buffer",
        64,
        |m, _| vec![out(m).into(), words(m, 256).into(), 4i32.into()],
        Fault("Race", 32),
    ),
    defect("atomics_and_stores", 64, only_out, Fault("Race", 40)),
    defect("object_without_barrier", 64, only_out, Fault("Race", 1)),
    // Bounds and alignment.
    defect(
        "off_by_one",
        64,
        |m, _| {
            let exact = m.alloc_named(400, "the output").expect("memory");
            vec![exact.into(), 100i32.into()]
        },
        Fault("OutOfBounds", 36),
    ),
    defect("wrong_shared_size", 64, only_out, Fault("OutOfBounds", 32)),
    defect("past_the_array", 32, out_and::<33, 32>, Fault("OutOfBounds", 0)),
    defect(
        "use_after_free",
        32,
        |m, bug| {
            let (out, data) = (out(m), words(m, 32));
            if bug {
                m.free(data).expect("in use");
            }
            vec![out.into(), data.into()]
        },
        Fault("OutOfBounds", 0),
    ),
    defect(
        "null_pointer",
        32,
        |m, bug| vec![out(m).into(), if bug { 0u64.into() } else { words(m, 32).into() }],
        Fault("OutOfBounds", 0),
    ),
    defect(
        "host_pointer",
        32,
        |m, bug| {
            static HOST: [u32; 32] = [0; 32];
            let host = HOST.as_ptr() as u64;
            vec![out(m).into(), if bug { host.into() } else { words(m, 32).into() }]
        },
        Fault("OutOfBounds", 0),
    ),
    defect(
        "dangling_pointer",
        32,
        |m, _| vec![out(m).into(), 3i32.into()],
        Fault("OutOfBounds", 0),
    ),
    defect("misaligned_vector", 32, out_and_in, Fault("Misaligned", 0)),
    defect("misaligned_rows", 32, only_out, Fault("Misaligned", 1)),
    defect("misaligned_bulk", 32, out_and_in, Fault("Misaligned", 0)),
    defect("write_to_constant", 32, only_out, Fault("ReadOnly", 0)),
    // What nobody wrote.
    defect("wrong_swizzle", 32, only_out, Fault("UninitialisedMemory", 8)),
    defect("uninitialised_accumulator", 32, out_and_in, Fault("UninitialisedMemory", 0)),
    defect(
        "unwritten_global",
        32,
        |m, bug| {
            let data = if bug { m.alloc(128).expect("memory") } else { words(m, 32) };
            vec![out(m).into(), data.into()]
        },
        Fault("UninitialisedMemory", 0),
    ),
    defect("unwritten_shared", 32, only_out, Fault("UninitialisedMemory", 31)),
    defect("unwritten_local", 32, out_and::<15, 16>, Fault("UninitialisedMemory", 11)),
    // Asynchronous copies.
    defect("copy_before_wait", 32, out_and_in, Fault("PendingCopy", 0)),
    defect("missing_commit", 32, out_and_in, Fault("PendingCopy", 0)),
    defect("wrong_wait_count", 32, out_and_in, Fault("PendingCopy", 0)),
    defect("copy_without_barrier", 64, out_and_in, Fault("Race", 32)),
    defect("bulk_before_wait", 32, out_and_in, Fault("PendingCopy", 0)),
    defect("overwritten_store", 32, only_out, Fault("PendingCopy", 0)),
    defect("wrong_byte_count", 32, out_and_in, Fault("Deadlock", 0)),
    // Barriers and warps.
    defect("divergent_barrier", 64, only_out, Fault("DivergentBarrier", 32)),
    defect("wrong_mask", 32, only_out, Fault("DivergentBarrier", 0)),
    defect("shuffle_from_outside", 32, only_out, Fault("InvalidOperand", 0)),
    defect("barrier_counts", 64, only_out, Fault("BarrierMisuse", 32)),
    defect("never_arrives", 64, only_out, Fault("Deadlock", 0)),
    // Control and arithmetic.
    defect("endless", 32, only_out, Fault("Budget", 0)),
    defect("stack_overflow", 32, out_and::<1000, 3>, Fault("StackOverflow", 0)),
    defect(
        "division_by_zero",
        32,
        |m, bug| {
            let divisors: Vec<u32> = (0..32).map(|i| u32::from(!bug || i != 7)).collect();
            vec![out(m).into(), upload_u32(m, &divisors).into()]
        },
        Fault("DivisionByZero", 7),
    ),
    defect("failed_assertion", 32, out_and::<20, 32>, Fault("Trap", 20)),
    // Launches that the device would refuse.
    defect("too_much_shared", 32, only_out, Refusal("204800 bytes of shared memory")),
    defect("too_many_registers", 1024, only_out, Refusal("1024 threads of 128 registers")),
    defect(
        "wrong_arguments",
        32,
        |m, bug| vec![out(m).into(), if bug { 5i32.into() } else { 5i16.into() }],
        Refusal("has 2 bytes, 4 are given"),
    ),
];

fn name(kind: &FaultKind) -> String {
    format!("{kind:?}").split([' ', '(', '{']).next().unwrap_or_default().to_string()
}

fn config(d: &Defect, bug: bool) -> LaunchConfig {
    let bytes = match d.kernel {
        "wrong_shared_size" => 4 * if bug { 32 } else { 64 },
        "too_much_shared" => {
            if bug {
                200 << 10
            } else {
                1024
            }
        }
        _ => 0,
    };
    let threads = if d.kernel == "too_many_registers" && !bug { 512 } else { d.threads };
    let grid = if d.kernel == "off_by_one" { 2 } else { 1 };
    let most = if d.kernel == "endless" { 200_000 } else { 10_000_000 };
    LaunchConfig::new(grid, threads).dynamic_shared(bytes).max_instructions(most)
}

fn launch(module: &Module, d: &Defect, bug: bool) -> Result<(), Error> {
    let mut m = Machine::new();
    let args = (d.args)(&mut m, bug);
    m.launch(module, d.kernel, &config(d, bug), &args).map(|_| ())
}

/// The source as it is compiled, and the line marked for a kernel.
fn text(bug: bool) -> String {
    format!("#define BUG {}\n{SOURCE}", u8::from(bug))
}

fn marked(kernel: &str) -> u32 {
    let mark = format!("// {kernel}");
    let line = text(true).lines().position(|l| l.ends_with(&mark));
    line.unwrap_or_else(|| panic!("no line is marked for {kernel}")) as u32 + 1
}

/// The reported line of the source.
fn at(f: &ptx_vm::Fault) -> u32 {
    f.source.as_ref().filter(|s| s.0.ends_with("kernel.cu")).map_or(0, |s| s.1)
}

#[test]
fn every_planted_defect_is_reported_where_it_is() {
    let Some(module) = compile(&text(true), ARCH) else { return };
    let mut wrong = Vec::new();
    for d in DEFECTS {
        let outcome = launch(&module, d, true);
        let got = match &outcome {
            Ok(()) => "nothing is reported".to_string(),
            Err(e) => e.to_string(),
        };
        println!("{:24} {got}", d.kernel);
        let right = match (&outcome, &d.report) {
            (Err(Error::Fault(f)), Fault(kind, thread)) => {
                let block = [u32::from(d.kernel == "off_by_one"), 0, 0];
                name(&f.kind) == *kind
                    && f.kernel == d.kernel
                    && at(f) == marked(d.kernel)
                    && f.block == block
                    && f.thread == Some([*thread, 0, 0])
            }
            (Err(Error::Launch(m)), Refusal(words)) => m.contains(words) && m.contains(d.kernel),
            _ => false,
        };
        if !right {
            let want = match d.report {
                Fault(kind, thread) => {
                    format!("{kind} at kernel.cu:{}, thread {thread}", marked(d.kernel))
                }
                Refusal(words) => words.to_string(),
            };
            wrong.push(format!("{}: {got}\n    wanted {want}", d.kernel));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), DEFECTS.len(), wrong.join("\n"));
}

#[test]
fn a_report_shows_both_ends_of_a_race_and_where_code_was_inlined() {
    let Some(module) = compile(&text(true), ARCH) else { return };
    let fault = |kernel: &str| {
        let d = DEFECTS.iter().find(|d| d.kernel == kernel).expect("in the table");
        match launch(&module, d, true) {
            Err(Error::Fault(f)) => f,
            other => panic!("{other:?}"),
        }
    };
    let race = fault("missing_barrier");
    let stored = text(true).lines().position(|l| l.contains("s[t] = in[t];")).expect("there");
    assert_eq!(race.other_source.expect("line information").1, stored as u32 + 1);
    let bulk = fault("misaligned_bulk");
    let called = text(true).lines().position(|l| l.contains("bulk_load(s, in + 2")).expect("there");
    assert_eq!(bulk.inlined_at.as_ref().expect("inlined").1, called as u32 + 1);
    assert!(bulk.to_string().contains(&format!("inlined at {}", bulk.inlined_at.expect("so").0)));
}

#[test]
fn the_same_kernels_without_their_defects_run_clean() {
    let Some(module) = compile(&text(false), ARCH) else { return };
    let wrong: Vec<String> = DEFECTS
        .iter()
        .filter_map(|d| launch(&module, d, false).err().map(|e| format!("{}: {e}", d.kernel)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A kernel written by hand: what a compiler would not let through.
fn by_hand(target: &str, body: &str) -> Result<Module, Error> {
    Module::from_ptx(&format!(
        ".version 9.0\n.target {target}\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .b32 %r<20>;\n.reg .b64 %d<4>;\n.reg .f32 %f<8>;\nld.param.u64 %d1, [p];\n{body}\nret;\n}}\n"
    ))
}

#[test]
fn an_accumulator_that_was_never_set_is_named() {
    let sum =
        |start: &str| format!("{start}\nadd.f32 %f1, %f1, 0f3F800000;\nst.global.f32 [%d1], %f1;");
    let run = |body: &str| {
        let module = by_hand("sm_90a", body)?;
        let mut m = Machine::new();
        let out = out(&mut m);
        m.launch(&module, "k", &LaunchConfig::new(1, 32), &[out.into()])
    };
    let Err(Error::Fault(f)) = run(&sum("")) else { panic!("nothing is reported") };
    assert_eq!(f.kind, FaultKind::UninitialisedRegister { register: "%f1".into() });
    assert_eq!((f.line, f.thread), (11, Some([0, 0, 0])));
    assert!(run(&sum("mov.f32 %f1, 0f00000000;")).is_ok());
}

#[test]
fn block_scaling_is_refused_on_a_target_without_it() {
    let registers: String = (0..20).map(|i| format!("mov.b32 %r{i}, 0;\n")).collect();
    let floats: String = (0..8).map(|i| format!("mov.f32 %f{i}, 0f00000000;\n")).collect();
    let mma = "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X\
               .f32.e2m1.e2m1.f32.ue4m3 {%f0, %f1, %f2, %f3}, {%r0, %r1, %r2, %r3}, {%r4, %r5}, \
               {%f4, %f5, %f6, %f7}, %r6, {0, 0}, %r7, {0, 0};";
    let body = format!("{registers}{floats}{mma}");
    match by_hand("sm_121", &body) {
        Err(Error::IllegalForTarget { line, target, needs, .. }) => {
            assert_eq!((line, target.as_str()), (38, "sm_121"));
            assert!(needs.contains("sm_121a"), "{needs}");
        }
        other => panic!("{other:?}"),
    }
    assert!(by_hand("sm_121a", &body).is_ok(), "{:?}", by_hand("sm_121a", &body));
}

/// Divides 100 by thread − 7 into `%r3` with what follows from it: `%r4` and `%p1`.
const DIVIDES: &str = "mov.u32 %r1, %tid.x;\nsub.s32 %r2, %r1, 7;\ndiv.s32 %r3, 100, %r2;\n\
    mad.lo.s32 %r4, %r3, 3, %r1;\nsetp.gt.s32 %p1, %r4, 5;\nsetp.ne.s32 %p0, %r2, 0;";

fn divides(body: &str) -> Result<Vec<u32>, Error> {
    let module = by_hand("sm_90a", &format!(".reg .pred %p<4>;\n{DIVIDES}\n{body}"))?;
    let mut m = Machine::new();
    let out = out(&mut m);
    m.launch(&module, "k", &LaunchConfig::new(1, 32), &[out.into()])?;
    Ok(read_u32(&m, out, 32))
}

const STORES: &str = "mad.wide.u32 %d2, %r1, 4, %d1;\nst.global.u32 [%d2], %r5;";

#[test]
fn a_division_by_zero_that_nobody_uses_runs_clean() {
    let quotient = |t: i32| if t == 7 { None } else { Some(100 / (t - 7) * 3 + t) };
    let want = |f: &dyn Fn(Option<i32>) -> i32| -> Vec<u32> {
        (0..32).map(|t| f(quotient(t)) as u32).collect()
    };
    // Moved out of a guarded branch, into a choice, into a condition.
    let branch = format!("mov.u32 %r5, 0;\n@!%p0 bra L;\nmov.u32 %r5, %r4;\nL:\n{STORES}");
    let choice = format!("selp.b32 %r5, %r4, 0, %p0;\n{STORES}");
    let both = format!("and.pred %p2, %p0, %p1;\nselp.b32 %r5, 1, 0, %p2;\n{STORES}");
    let combined = format!("setp.gt.and.s32 %p2, %r4, 5, %p0;\nselp.b32 %r5, 1, 0, %p2;\n{STORES}");
    let either =
        format!("not.pred %p3, %p0;\nor.pred %p2, %p1, %p3;\nselp.b32 %r5, 1, 0, %p2;\n{STORES}");
    let over = format!("mov.u32 %r5, %r4;\n@%p0 bra L;\nmov.u32 %r5, 0;\nL:\n{STORES}");
    let holds = |q: Option<i32>| i32::from(q.is_some_and(|q| q > 5));
    let value = |q: Option<i32>| q.unwrap_or(0);
    let or = |q: Option<i32>| i32::from(q.is_none_or(|q| q > 5));
    for (body, want) in [
        (branch, want(&value)),
        (choice, want(&value)),
        (over, want(&value)),
        (both, want(&holds)),
        (combined, want(&holds)),
        (either, want(&or)),
    ] {
        assert_eq!(divides(&body).unwrap_or_else(|e| panic!("{body}: {e}")), want, "{body}");
    }
}

#[test]
fn every_use_of_what_a_division_by_zero_gave_is_reported_with_the_division() {
    let stored = |how: &str| format!("{how}\n{STORES}");
    let uses = [
        (stored("mov.u32 %r5, %r4;"), "%r5"),
        (stored("add.s32 %r5, %r4, %r4;"), "%r5"),
        (stored("rem.u32 %r5, 7, %r4;"), "%r5"),
        (stored("selp.b32 %r5, %r4, 0, %p1;"), "%r5"),
        (stored("selp.b32 %r5, 1, 0, %p1;"), "%r5"),
        (stored("set.gt.u32.s32 %r5, %r4, 5;"), "%r5"),
        (stored("add.cc.u32 %r6, %r4, 1;\naddc.u32 %r5, %r1, 0;"), "%r5"),
        (stored("mov.b64 %d3, {%r4, %r1};\nmov.b64 {%r5, %r6}, %d3;"), "%r5"),
        (stored("or.pred %p2, %p1, %p0;\nselp.b32 %r5, 1, 0, %p2;"), "%r5"),
        ("mad.wide.u32 %d2, %r4, 0, %d1;\nst.global.u32 [%d2], %r1;".into(), "%d2"),
        ("@%p1 bra L;\nst.global.u32 [%d1], %r1;\nL:".into(), "%p1"),
        ("shfl.sync.idx.b32 %r5, %r4, 7, 31, -1;".into(), "%r4"),
        ("atom.global.add.u32 %r5, [%d1], %r4;".into(), "%r4"),
        ("vote.sync.any.pred %p2, %p1, -1;".into(), "%p1"),
    ];
    for (body, register) in uses {
        let Err(Error::Fault(f)) = divides(&body) else { panic!("{body}: nothing is reported") };
        let kind = FaultKind::DivisionByZero { register: register.into(), divided_line: 13 };
        assert_eq!((f.kind, f.thread), (kind, Some([7, 0, 0])), "{body}");
    }
}
