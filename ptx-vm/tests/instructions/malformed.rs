//! Text that is not PTX, or PTX that makes no sense, ends in an error: it never panics,
//! hangs or takes memory without measure. The modules of all other tests are what is
//! damaged here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ptx_vm::{Error, LaunchConfig, Machine, Module};

use crate::harness::{Kind, Row};

/// Repeatable random numbers; every case has its own, named by its number.
struct Random(u64);

impl Random {
    fn new(case: u64) -> Random {
        let mut r = Random(case.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1);
        for _ in 0..3 {
            r.below(1);
        }
        r
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 16) as usize % n.max(1)
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

/// Cases to run: more for a soak, by `PTX_VM_CASES`.
fn cases(usual: u64) -> u64 {
    std::env::var("PTX_VM_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(usual).max(usual)
}

/// A module with most directives and kinds of statements.
const MIXED: &str = r#"
.version 9.0
.target sm_121a
.address_size 64
.file 1 "kernel.cu"
.global .align 4 .u32 counter = 5;
.const .align 4 .b8 table[16] = {1, 2, 3, 4, 5, 6, 7, 8};
.global .u64 pointer = generic(counter) + 4;
.extern .shared .align 16 .b8 dynamic[];
.func (.param .b32 back) twice (.param .b32 x)
{
  .reg .b32 %r<4>;
  ld.param.b32 %r1, [x];
  add.s32 %r2, %r1, %r1;
  st.param.b32 [back], %r2;
  ret;
}
.visible .entry k(.param .u64 p, .param .align 64 .b8 map[128])
.maxntid 128, 1, 1
{
  .reg .b32 %r<20>;
  .reg .b64 %d<10>;
  .reg .f32 %f<4>;
  .reg .pred %p<4>;
  .local .align 8 .b8 mine[64];
  .shared .align 16 .b8 ours[512];
  .loc 1 7 3
  ld.param.u64 %d1, [p];
  mov.u32 %r1, %tid.x;
  mov.u32 %r6, 0;
  mad.wide.u32 %d2, %r1, 4, %d1;
  ld.global.u32 %r2, [%d2];
  and.b32 %r3, %r2, 3;
$again:
$ways: .branchtargets $one, $two, $three, $four;
  brx.idx %r3, $ways;
$one:
  { .param .b32 a; .param .b32 b; st.param.b32 [a], %r2; call.uni (b), twice, (a); ld.param.b32 %r2, [b]; }
  bra $join;
$two:
  mov.u64 %d3, ours;
  mad.wide.u32 %d3, %r1, 4, %d3;
  st.shared.u32 [%d3], %r2;
  bar.warp.sync 0xffffffff;
  shfl.sync.bfly.b32 %r2|%p1, %r2, 1, 31, -1;
$three:
  mov.u64 %d4, mine;
  st.local.v2.u32 [mine+8], {%r2, %r1};
  ld.local.u32 %r4, [%d4+8];
  setp.lt.and.u32 %p2|%p3, %r4, 9, %p1;
  @%p2 add.u32 %r2, %r2, 1;
$four:
  atom.global.add.u32 %r5, [counter], 1;
  cvt.rn.f32.u32 %f1, %r2;
  fma.rn.f32 %f2, %f1, 0f3F800000, 1.5;
$join:
  add.u32 %r6, %r6, 1;
  setp.lt.u32 %p1, %r6, 3;
  @%p1 bra $again;
  bar.sync 0;
  st.global.u32 [%d2], %r2;
  ret;
}
"#;

fn modules() -> Vec<String> {
    let rows: Vec<Row> = [
        crate::integer::rows(),
        crate::float::rows(),
        crate::half::rows(),
        crate::convert::rows(),
        crate::compare::rows(),
        crate::memory::rows(),
        crate::warp::rows(),
    ]
    .into_iter()
    .flatten()
    .collect();
    // One in a few of each, and the mixed one as often as all of them.
    let few: Vec<String> = rows.iter().step_by(7).map(Row::module).collect();
    let n = few.len();
    few.into_iter().chain(std::iter::repeat_n(MIXED.to_string(), n)).collect()
}

/// Pieces that a token or a run of blanks makes, so that joining them gives the text back.
fn pieces(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let same = |c: char| match first {
            f if f.is_alphanumeric() || f == '%' || f == '_' || f == '$' => {
                c.is_alphanumeric() || matches!(c, '_' | '$' | '%')
            }
            f if f.is_whitespace() => c.is_whitespace(),
            _ => false,
        };
        let end = rest[first.len_utf8()..]
            .find(|c| !same(c))
            .map_or(rest.len(), |n| n + first.len_utf8());
        out.push(&rest[..end]);
        rest = &rest[end..];
    }
    out
}

const HUGE: &[&str] = &[
    "0",
    "1",
    "2147483647",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "99999999999999999999999",
    "0xffffffffffffffff",
    "-9223372036854775808",
    "268435456",
    "1048576",
    "131072",
    "0f7FC00000",
    "0d7FF0000000000000",
    "1e999",
    "0b111",
    "0777",
    "08",
    "65536",
    "255",
];

fn damage(text: &str, r: &mut Random) -> String {
    let mut bytes = text.as_bytes().to_vec();
    match r.below(5) {
        0 => {
            for _ in 0..=r.below(4) {
                let at = r.below(bytes.len());
                bytes[at] ^= 1 << r.below(8);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        }
        1 => text.chars().take(r.below(text.len())).collect(),
        _ => {
            let mut p: Vec<String> = pieces(text).into_iter().map(str::to_string).collect();
            for _ in 0..=r.below(3) {
                let (i, j) = (r.below(p.len()), r.below(p.len()));
                match r.below(7) {
                    0 => {
                        p.remove(i);
                    }
                    1 => {
                        let copy = p[i].clone();
                        p.insert(j, copy);
                    }
                    2 => p.swap(i, j),
                    3 => {
                        // Numbers become others.
                        let numbers: Vec<usize> = (0..p.len())
                            .filter(|&k| p[k].starts_with(|c: char| c.is_ascii_digit()))
                            .collect();
                        if let Some(&k) = numbers.get(r.below(numbers.len())) {
                            p[k] = r.pick(HUGE).to_string();
                        }
                    }
                    4 => {
                        p[i] = r
                            .pick(&[
                                "{", "}", "[", "]", "(", ";", ".", "|", "!", "@", "%p1", "\"",
                                "/*", "é",
                            ])
                            .into()
                    }
                    5 => p[i] = p[i].repeat(1 + r.below(40)),
                    _ => {
                        // A modifier or an opcode from elsewhere.
                        p[i] = r
                            .pick(&[
                                "v4", "v2", "b128", "b8", "f64", "pred", "shared", "local",
                                "param", "const", "add", "cvt", "mma", "ld", "cp", "mbarrier",
                                "wide", "sync",
                            ])
                            .into();
                    }
                }
                if p.is_empty() {
                    break;
                }
            }
            p.concat()
        }
    }
}

fn outcome(text: &str, checks: bool) -> Result<(), Error> {
    let module = Module::from_ptx(text)?;
    let kernel = module.kernels().next().map(str::to_string).unwrap_or_default();
    let mut m = Machine::new();
    let memory = m.upload(&[3; 8192])?;
    let sizes = module.parameters(&kernel).unwrap_or_default();
    let args: Vec<_> = sizes
        .into_iter()
        .map(|(_, bytes)| match bytes {
            8 => memory.into(),
            n => ptx_vm::Arg::bytes(&vec![1; n as usize]),
        })
        .collect();
    let config = LaunchConfig::new(2, 40)
        .dynamic_shared(256)
        .host_threads(1)
        .checks(checks)
        .profile(checks)
        .max_instructions(3000);
    m.launch(&module, &kernel, &config, &args).map(|_| ())
}

/// Runs a case; a panic or a case that takes long is shown with its text.
fn survive(case: u64, text: &str, checks: bool) -> bool {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| outcome(text, checks)));
    let slow = start.elapsed() > Duration::from_secs(20);
    match result {
        Ok(r) if !slow => {
            // Every error says something, and where.
            if let Err(e) = &r {
                assert!(e.to_string().len() > 15, "case {case}: {e}");
            }
            r.is_ok()
        }
        Ok(_) => panic!("case {case} takes {:?}:\n{text}", start.elapsed()),
        Err(_) => panic!("case {case} panics:\n{text}"),
    }
}

#[test]
fn the_module_that_is_damaged_is_whole() {
    assert_eq!(outcome(MIXED, true), Ok(()));
}

#[test]
fn damaged_modules_end_in_an_error_or_a_result() {
    let modules = modules();
    let mut survived = 0u64;
    for case in 0..cases(6000) {
        let mut r = Random::new(case);
        let text = damage(&modules[r.below(modules.len())], &mut r);
        survived += u64::from(survive(case, &text, case % 2 == 0));
    }
    // Some damage does no harm, most does.
    assert!((100..cases(6000) - 500).contains(&survived), "{survived}");
}

#[test]
fn modules_without_measure_are_refused_quickly() {
    let head = ".version 9.0\n.target sm_90a\n.address_size 64\n";
    let body = |inside: &str| format!("{head}.visible .entry k() {{ {inside} ret; }}");
    let many = |one: &str, n: usize| one.repeat(n);
    let labels: String = (0..20_000).map(|i| format!("l{i}: ")).collect();
    let list: Vec<String> = (0..20_000).map(|i| format!("l{i}")).collect();
    let tables = format!(
        ".reg .b32 %r; t: .branchtargets {}; {} {labels}",
        list.join(","),
        many("brx.idx %r, t; ", 2000)
    );
    for (name, text) in [
        ("scopes", body(&(many("{", 100_000) + &many("}", 100_000)))),
        ("brackets", body(&format!("mov.b32 {}", many("{", 100_000)))),
        ("addresses", body(&format!("ld.b32 %r, {}", many("[", 100_000)))),
        ("initialisers", format!("{head}.global .b8 x[] = {};", many("{", 100_000))),
        ("branch tables", body(&tables)),
        ("variables", head.to_string() + &many(".global .b8 x[268435456];\n", 100)),
        ("registers", body(".reg .b32 %r<4294967295>;")),
        ("dimensions", format!("{head}.global .b8 x{};", many("[65536]", 1000))),
        ("locals", body(".local .b8 x[268435456];")),
        ("parameters", format!("{head}.visible .entry k(.param .b8 x[100000]) {{ ret; }}")),
        ("files", head.to_string() + &many(".file 1 \"x\"\n", 1) + "}"),
        ("comment", format!("{head}/*{}", many("*", 1_000_000))),
        ("quotes", format!("{head}.file 1 \"{}", many("\\", 1_000_001))),
        ("digits", body(&format!("mov.b32 %r, {};", many("9", 1_000_000)))),
    ] {
        let start = Instant::now();
        match Module::from_ptx(&text) {
            Err(Error::Parse { .. } | Error::Unsupported { .. }) => {}
            other => panic!("{name}: {other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{name}: {:?}", start.elapsed());
    }
    // Many of what is legal are no trouble either.
    let straight = body(
        &(".reg .b32 %r<4>; mov.b32 %r1, 0;".to_string() + &many("add.s32 %r1, %r1, 1;\n", 50_000)),
    );
    assert!(Module::from_ptx(&straight).is_ok());
}

/// Straight-line and branching programs from instructions of the tables, on registers and
/// labels drawn at random.
fn program(rows: &[Row], r: &mut Random) -> String {
    let register = |r: &mut Random, k: Kind| match k.bits() {
        8 => format!("%b{}", r.below(4)),
        16 => format!("%h{}", r.below(4)),
        32 => format!("%r{}", r.below(6)),
        _ => format!("%d{}", r.below(6)),
    };
    let mut text = String::from(
        ".version 9.0\n.target sm_121a\n.address_size 64\n\
         .func (.param .b32 o) f (.param .b32 i)\n\
         { .reg .b32 %r<2>; ld.param.b32 %r1, [i]; add.s32 %r1, %r1, 1; st.param.b32 [o], %r1; ret; }\n\
         .visible .entry k(.param .u64 p)\n{\n.reg .b8 %b<4>; .reg .b16 %h<4>; .reg .b32 %r<6>;\n\
         .reg .b64 %d<6>; .reg .pred %p<4>; .shared .align 16 .b8 s[4096]; .local .align 8 .b8 l[64];\n\
         ld.param.u64 %d0, [p]; mov.u32 %r0, %tid.x; mov.u32 %r1, %laneid; mov.u64 %d1, s;\n\
         mad.wide.u32 %d2, %r0, 8, %d0; mad.wide.u32 %d3, %r0, 16, %d1; mov.b64 %d4, -7;\n\
         mov.b64 %d5, l; mov.b32 %r2, 5; mov.b32 %r3, 0x3f800000; mov.b32 %r4, -1; mov.b32 %r5, 0;\n\
         mov.b16 %h0, 1; mov.b16 %h1, 0x3c00; mov.b16 %h2, -1; mov.b16 %h3, 0;\n\
         setp.lt.u32 %p0, %r0, 20; setp.eq.u32 %p1, %r1, 3; setp.ne.u32 %p2, %r0, 1; setp.eq.u32 %p3, 0, 0;\n\
         cvt.u8.u32 %b0, %r0; cvt.u8.u32 %b1, %r1; cvt.u8.u32 %b2, %r2; cvt.u8.u32 %b3, %r4;\n",
    );
    let n = 5 + r.below(40);
    for i in 0..n {
        text += &format!("L{i}: ");
        let label = format!("L{}", r.below(n));
        let (a, b) = (r.below(6), r.below(6));
        let (d, p) = (r.below(6), r.below(4));
        let memory = r.pick(&["shared", "global", "local", "shared::cta"]);
        let space = if r.below(4) == 0 { String::new() } else { format!(".{memory}") };
        let statement = match r.below(26) {
            0 | 1 => format!("bra {label};"),
            2 => format!("ld{space}.u32 %r{a}, [%d{d}+{}];", 4 * r.below(9)),
            3 => format!("st{space}.v2.u32 [%d{d}], {{%r{a}, %r{b}}};"),
            4 => format!(
                "atom{}.add.u32 %r{a}, [%d{d}], %r{b};",
                r.pick(&["", ".shared", ".global"])
            ),
            5 => format!("shfl.sync.bfly.b32 %r{a}|%p{p}, %r{b}, {}, 31, %r4;", r.below(32)),
            6 => format!("vote.sync.ballot.b32 %r{a}, %p{p}, {};", r.pick(&["-1", "%r4", "0xff"])),
            7 => format!("bar.sync {};", r.below(18)),
            8 => format!("barrier.cta.sync {}, {};", r.below(4), 32 * r.below(4)),
            9 => "bar.warp.sync -1;".into(),
            10 => format!(
                "{{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r{a}; call (b), f, (a); ld.param.b32 %r{b}, [b]; }}"
            ),
            11 => format!("setp.lt.s32 %p{p}, %r{a}, %r{b};"),
            12 => r.pick(&["ret;", "exit;", "trap;"]).into(),
            13 => format!("cp.async.ca.shared.global [%d{d}], [%d2], 8;"),
            14 => r
                .pick(&["cp.async.commit_group;", "cp.async.wait_group 0;", "cp.async.wait_all;"])
                .into(),
            15 => format!("mbarrier.init.shared.b64 [%d{d}], %r{a};"),
            16 => format!("mbarrier.arrive.shared.b64 %d{a}, [%d{d}];"),
            17 => format!("mbarrier.try_wait.parity.shared.b64 %p{p}, [%d{d}], %r{a};"),
            18 => format!(
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%d{d}], [%d2], %r{a}, [%d3];"
            ),
            19 => format!("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r{a}}}, [%d{d}];"),
            20 => format!("cvta.to.shared.u64 %d{d}, %d{};", r.below(6)),
            _ => {
                let row = &rows[r.below(rows.len())];
                let sources: Vec<_> = row.ins.iter().map(|k| register(r, *k)).collect();
                format!("{} {}, {};", row.form, register(r, row.out), sources.join(", "))
            }
        };
        if !statement.starts_with('{') && r.below(4) == 0 {
            text += &format!("@{}%p{} ", r.pick(&["", "!"]), r.below(4));
        }
        text += &statement;
        text.push('\n');
    }
    text + "ret;\n}\n"
}

#[test]
fn random_programs_end_in_an_error_or_a_result() {
    let rows: Vec<Row> =
        [crate::integer::rows(), crate::float::rows(), crate::half::rows(), crate::convert::rows()]
            .into_iter()
            .flatten()
            .filter(|r| r.body.is_none() && r.target == "sm_121a")
            .collect();
    let (mut loaded, mut ran) = (0u64, 0u64);
    let n = cases(3000);
    for case in 0..n {
        let mut r = Random::new(case ^ 0x5555_0000);
        let text = program(&rows, &mut r);
        loaded += u64::from(Module::from_ptx(&text).is_ok());
        ran += u64::from(survive(case, &text, case % 2 == 0));
    }
    // The generator is worth something only while most of its programs are legal.
    assert!(loaded > n / 6 * 5 && ran > n / 60, "{loaded} of {n} load, {ran} run");
}
