//! What is probed: one instruction a kernel, with random operands.

use ptx_vm::{Arithmetic, Error, LaunchConfig, Machine, Module};

use super::driver::Arg;
use super::support::{Random, mma, wgmma};

/// One kernel, called `k`, with its arguments; one of them comes back.
pub struct Case {
    pub class: &'static str,
    pub name: String,
    pub ptx: String,
    pub args: Vec<Arg>,
    pub threads: u32,
    pub out: usize,
    /// Bytes of one value of the output, for the difference in units of the last place.
    pub unit: usize,
}

impl Case {
    /// The output of the emulator.
    pub fn emulate(&self, arithmetic: Arithmetic) -> Result<Vec<u8>, Error> {
        let module = Module::from_ptx(&self.ptx)?;
        let mut machine = Machine::new();
        machine.set_arithmetic(arithmetic);
        let mut out = None;
        let mut args = Vec::new();
        for (i, arg) in self.args.iter().enumerate() {
            args.push(match arg {
                Arg::Buffer(data) => {
                    let p = machine.upload(data)?;
                    if i == self.out {
                        out = Some((p, data.len()));
                    }
                    p.into()
                }
                Arg::U64(v) => (*v).into(),
                Arg::U32(v) => (*v).into(),
            });
        }
        machine.launch(&module, "k", &LaunchConfig::new(1, self.threads), &args)?;
        let Some((p, bytes)) = out else { return Ok(Vec::new()) };
        let mut result = vec![0; bytes];
        machine.read(p, &mut result)?;
        Ok(result)
    }
}

/// A driver that knows sm_121a knows this version of PTX.
const VERSION: &str = "8.8";

/// Sets the version and target of a kernel's text.
fn targeted(ptx: &str, target: &str) -> String {
    let body = ptx.split_once(".address_size").map_or(ptx, |x| x.1);
    format!(".version {VERSION}\n.target {target}\n.address_size{body}")
}

fn words(v: &[u32]) -> Arg {
    Arg::Buffer(v.iter().flat_map(|w| w.to_le_bytes()).collect())
}

/// All cases for a target; `rounds` seeds each.
pub fn all(target: &str, rounds: u64) -> Vec<Case> {
    let mut out = Vec::new();
    for seed in 0..rounds {
        out.extend(lanes(target, seed));
        out.extend(matrices(target, seed));
        out.extend(warpgroups(target, seed));
    }
    out
}

fn matrices(target: &str, seed: u64) -> Vec<Case> {
    let mut seen = Vec::new();
    let mut out = Vec::new();
    let draws = [mma::Draw::Plain, mma::Draw::Extreme, mma::Draw::Small, mma::Draw::Bits];
    for f in mma::forms() {
        // The same form is listed for several targets.
        if seen.contains(&f.text) {
            continue;
        }
        seen.push(f.text.clone());
        let mut case = |class, how| {
            let x = mma::inputs(&f, seed * 7919 + seen.len() as u64, how);
            let d = vec![0u32; 32 * f.registers()[3]];
            out.push(Case {
                class,
                name: f.text.clone(),
                ptx: targeted(&f.kernel(x.selectors), target),
                args: [&x.a, &x.b, &x.c, &x.s, &d].map(|v| words(v)).into(),
                threads: 32,
                out: 4,
                unit: if f.d == "f16" { 2 } else { 4 },
            });
        };
        let how = draws[seed as usize % 4];
        if f.scaling.is_some() {
            case("mma, block-scaled", how);
            case("mma, NaN scales", mma::Draw::NanScales);
        } else {
            case("mma", how);
        }
    }
    out
}

fn warpgroups(target: &str, seed: u64) -> Vec<Case> {
    let case = |index: usize| {
        let c = wgmma::draw(seed * 104_729 + index as u64 + 1, index);
        let x = wgmma::data(&c);
        let ptx = wgmma::kernel(target, c.registers(), c.d, &wgmma::around(&c.text()));
        let a = c.a.as_ref().map_or(0, wgmma::Placed::descriptor);
        Case {
            class: "wgmma",
            name: c.text().split_whitespace().next().unwrap_or_default().to_string(),
            ptx: targeted(&ptx, target),
            args: vec![
                Arg::Buffer(x.image),
                words(&x.a),
                words(&x.d),
                Arg::U64(a),
                Arg::U64(c.b.descriptor()),
                Arg::U32(c.accumulate.into()),
            ],
            threads: 128,
            out: 2,
            unit: if c.d == "f16" { 2 } else { 4 },
        }
    };
    (0..wgmma::TYPES.len()).map(case).collect()
}

/// Instructions of single lanes: three sources of 32 bits, a result of 32, 16 or 8.
#[rustfmt::skip]
const LANES: &[(&str, &[&str])] = &[
    ("float, rounded", &[
        "add.rn.f32 %d, %a, %b", "add.rz.f32 %d, %a, %b", "add.rm.f32 %d, %a, %b",
        "add.rp.f32 %d, %a, %b", "add.ftz.f32 %d, %a, %b", "mul.rn.f32 %d, %a, %b",
        "mul.rz.f32 %d, %a, %b", "fma.rn.f32 %d, %a, %b, %c", "fma.rz.f32 %d, %a, %b, %c",
        "fma.rm.f32 %d, %a, %b, %c", "fma.rp.f32 %d, %a, %b, %c", "fma.rn.ftz.f32 %d, %a, %b, %c",
        "fma.rn.sat.f32 %d, %a, %b, %c", "div.rn.f32 %d, %a, %b", "rcp.rn.f32 %d, %a",
        "sqrt.rn.f32 %d, %a", "min.f32 %d, %a, %b", "max.NaN.f32 %d, %a, %b",
    ]),
    ("float, approximate", &[
        "ex2.approx.f32 %d, %a", "ex2.approx.ftz.f32 %d, %a", "lg2.approx.f32 %d, %a",
        "rcp.approx.f32 %d, %a", "rsqrt.approx.f32 %d, %a", "sqrt.approx.f32 %d, %a",
        "tanh.approx.f32 %d, %a", "sin.approx.f32 %d, %a", "cos.approx.f32 %d, %a",
        "div.full.f32 %d, %a, %b", "div.approx.f32 %d, %a, %b",
    ]),
    ("packed halves", &[
        "add.f16x2 %d, %a, %b", "mul.f16x2 %d, %a, %b", "fma.rn.f16x2 %d, %a, %b, %c",
        "fma.rn.relu.f16x2 %d, %a, %b, %c", "add.bf16x2 %d, %a, %b", "fma.rn.bf16x2 %d, %a, %b, %c",
        "min.f16x2 %d, %a, %b", "max.NaN.bf16x2 %d, %a, %b",
    ]),
    ("conversions", &[
        "cvt.rn.f16x2.f32 %d, %a, %b", "cvt.rz.bf16x2.f32 %d, %a, %b", "cvt.rn.relu.bf16x2.f32 %d, %a, %b",
        "cvt.rna.tf32.f32 %d, %a", "cvt.rni.s32.f32 %d, %a", "cvt.rzi.u32.f32 %d, %a",
        "cvt.rn.f32.s32 %d, %a", "cvt.rz.f32.u32 %d, %a",
        "cvt.rn.satfinite.e4m3x2.f32 %h, %a, %b", "cvt.rn.satfinite.e5m2x2.f32 %h, %a, %b",
        "cvt.rp.satfinite.ue8m0x2.f32 %h, %a, %b", "cvt.rn.satfinite.e2m1x2.f32 %y, %a, %b",
        "cvt.rn.f16x2.e4m3x2 %d, %k", "cvt.rn.f16x2.e5m2x2 %d, %k", "cvt.rn.f16x2.e2m1x2 %d, %x",
    ]),
    ("integers", &[
        "mad.lo.s32 %d, %a, %b, %c", "mul.hi.s32 %d, %a, %b", "mul.hi.u32 %d, %a, %b",
        "add.sat.s32 %d, %a, %b", "lop3.b32 %d, %a, %b, %c, 0x96", "prmt.b32 %d, %a, %b, %c",
        "shf.l.wrap.b32 %d, %a, %b, %c", "shf.r.clamp.b32 %d, %a, %b, %c", "bfe.s32 %d, %a, %b, %c",
        "bfi.b32 %d, %a, %b, %c, 9", "popc.b32 %d, %a", "clz.b32 %d, %a", "brev.b32 %d, %a",
        "bfind.u32 %d, %a", "dp4a.s32.s32 %d, %a, %b, %c", "sad.u32 %d, %a, %b, %c",
    ]),
    ("warp", &[
        "shfl.sync.bfly.b32 %d, %a, 5, 0x1f, -1", "shfl.sync.up.b32 %d, %a, 3, 0, -1",
        "shfl.sync.idx.b32 %d, %a, %b, 0x181f, -1", "redux.sync.add.u32 %d, %a, -1",
        "redux.sync.max.s32 %d, %a, -1", "match.any.sync.b32 %d, %n, -1",
        "movmatrix.sync.aligned.m8n8.trans.b16 %d, %a",
    ]),
];

fn lanes(target: &str, seed: u64) -> Vec<Case> {
    let mut out = Vec::new();
    for (class, texts) in LANES {
        for (i, text) in texts.iter().enumerate() {
            let mut r = Random::new(seed * 31 + i as u64 + 1);
            let mut data: Vec<u32> = (0..128 * 3)
                .map(|_| match r.bits() % 4 {
                    // Any bits, small numbers, and values near one.
                    0 => r.bits() as u32,
                    1 => r.bits() as u32 % 64,
                    _ => (r.unit() * 8.0).to_bits(),
                })
                .collect();
            data.extend([0; 128]);
            // %n repeats values between lanes; %k and %x are 16 and 8 bits of a source.
            let ptx = format!(
                ".address_size 64\n.visible .entry k(.param .u64 p0)\n{{\n\
                 .reg .b32 %d, %a, %b, %c, %n, %t;\n.reg .b16 %h, %k;\n.reg .b8 %y, %x;\n\
                 .reg .b64 %p;\n.reg .pred %q;\nmov.u32 %t, %tid.x;\nld.param.u64 %p, [p0];\n\
                 mad.wide.u32 %p, %t, 4, %p;\nld.global.b32 %a, [%p];\n\
                 ld.global.b32 %b, [%p+512];\nld.global.b32 %c, [%p+1024];\nand.b32 %n, %a, 3;\n\
                 cvt.u16.u32 %k, %b;\nmov.b32 {{%x, %y, _, _}}, %b;\nmov.b32 %d, 0;\n\
                 {text};\n{}st.global.b32 [%p+1536], %d;\nret;\n}}\n",
                if text.contains("%h") {
                    "cvt.u32.u16 %d, %h;\n"
                } else if text.contains("%y") {
                    "cvt.u32.u8 %d, %y;\n"
                } else {
                    ""
                }
            );
            out.push(Case {
                class,
                name: (*text).to_string(),
                ptx: targeted(&ptx, target),
                args: vec![words(&data)],
                threads: 128,
                out: 0,
                unit: if text.contains("x2 %d") { 2 } else { 4 },
            });
        }
    }
    out
}
