//! One row an instruction: its text, its operands, and what it must give. A row becomes a
//! small module, which runs on a few hundred random operands.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use ptx_vm::{Error, LaunchConfig, Machine, Module};

use crate::exact::{self, Fmt};

/// How an operand's bits are drawn and which register holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Integers and bits of this width.
    Int(u32),
    /// A float in a register of its width.
    Float(Fmt),
    /// Two halves.
    Pair(Fmt),
    /// Small numbers in 32 bits: shift amounts, field positions.
    Amount,
}

pub const B8: Kind = Kind::Int(8);
pub const B16: Kind = Kind::Int(16);
pub const B32: Kind = Kind::Int(32);
pub const B64: Kind = Kind::Int(64);
pub const F32: Kind = Kind::Float(exact::F32);
pub const F64: Kind = Kind::Float(exact::F64);
pub const F16X2: Kind = Kind::Pair(exact::F16);
pub const BF16X2: Kind = Kind::Pair(exact::BF16);

pub fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Sign-extends.
pub fn signed(x: u64, bits: u32) -> i128 {
    let x = i128::from(x & mask(bits));
    if x >> (bits - 1) & 1 == 1 { x - (1 << bits) } else { x }
}

impl Kind {
    pub fn bits(self) -> u32 {
        match self {
            Kind::Int(b) => b,
            Kind::Float(f) => f.bits(),
            Kind::Pair(f) => 2 * f.bits(),
            Kind::Amount => 32,
        }
    }

    /// Random bits shaped so that edges come up often.
    pub fn shape(self, pick: u8, x: u64) -> u64 {
        let bits = self.bits();
        match self {
            Kind::Amount => match pick % 4 {
                0 => x & 0xffff_ffff,
                1 => x % 300,
                _ => x % 70,
            },
            Kind::Int(_) => {
                let small = x % 9;
                mask(bits)
                    & match pick % 8 {
                        0 => small.wrapping_sub(4),
                        1 => (1u64 << (x % u64::from(bits))).wrapping_add(small).wrapping_sub(4),
                        2 => (1u64 << (bits - 1)).wrapping_add(small).wrapping_sub(4),
                        3 => x >> (x % 64),
                        _ => x,
                    }
            }
            Kind::Pair(f) => {
                let half = Kind::Float(f);
                half.shape(pick & 15, x) | half.shape(pick >> 4, x >> 32) << f.bits()
            }
            Kind::Float(f) => {
                let sign = if x >> 63 == 1 { f.sign() } else { 0 };
                let low = x & ((1 << f.mantissa) - 1);
                // Few mantissa bits make ties and cancellation.
                let coarse = low & !0 << (f.mantissa - f.mantissa / 3);
                let near = (f.bias as u64 + (x >> 56) % 7).wrapping_sub(3);
                sign | match pick % 12 {
                    0 => [0, 1, (1 << f.mantissa) - 1, 1 << f.mantissa][x as usize % 4],
                    1 => [f.one(), f.max(), f.infinity(), f.nan()][x as usize % 4],
                    2 => low,
                    3 => f.nan() & (f.infinity() | x),
                    4 | 5 => near << f.mantissa | low,
                    6..=8 => near << f.mantissa | coarse,
                    _ => x & (f.sign() - 1),
                }
            }
        }
    }
}

/// What a result must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    Bits(u64),
    /// Any NaN of the format.
    Nan(Fmt),
    /// A number of the format in this range.
    Between(Fmt, f64, f64),
    /// Each half on its own.
    Halves(Box<Want>, Box<Want>),
    /// Left open by the ISA.
    Open,
}

impl From<u64> for Want {
    fn from(x: u64) -> Want {
        Want::Bits(x)
    }
}

/// The value of a finite or infinite code as f64.
pub fn value(code: u64, f: Fmt) -> f64 {
    f64::from_bits(exact::convert(code, f, exact::F64, exact::Mode::Rn, false))
}

impl Want {
    pub fn holds(&self, got: u64) -> bool {
        match self {
            Want::Bits(x) => got == *x,
            Want::Nan(f) => got & (f.sign() - 1) > f.infinity(),
            Want::Between(f, low, high) => (*low..=*high).contains(&value(got, *f)),
            Want::Halves(low, high) => low.holds(got & 0xffff) && high.holds(got >> 16),
            Want::Open => true,
        }
    }
}

/// One instruction.
pub struct Row {
    pub form: String,
    pub out: Kind,
    pub ins: Vec<Kind>,
    pub target: &'static str,
    /// Statements with `$d` and `$a` to `$d`'s sources; the plain form otherwise.
    pub body: Option<String>,
    pub want: Oracle,
}

type EachThread = Box<dyn Fn(&[u64]) -> Want>;
type WholeWarp = Box<dyn Fn(&[Vec<u64>]) -> Vec<Want>>;

/// What gives the expected results.
pub enum Oracle {
    /// Of one thread's operands.
    Each(EachThread),
    /// Of the operands of all 32 lanes, for what they do together.
    Warp(WholeWarp),
}

pub fn row<W: Into<Want>>(
    form: impl Into<String>,
    out: Kind,
    ins: &[Kind],
    want: impl Fn(&[u64]) -> W + 'static,
) -> Row {
    let want = Oracle::Each(Box::new(move |x: &[u64]| want(x).into()));
    Row { form: form.into(), out, ins: ins.to_vec(), target: "sm_121a", body: None, want }
}

/// A row whose 32 lanes work together.
pub fn warp_row<W: Into<Want>>(
    form: impl Into<String>,
    out: Kind,
    ins: &[Kind],
    want: impl Fn(usize, &[Vec<u64>]) -> W + 'static,
) -> Row {
    let all = move |x: &[Vec<u64>]| (0..32).map(|lane| want(lane, x).into()).collect();
    Row { want: Oracle::Warp(Box::new(all)), ..row(form, out, ins, |_| 0u64) }
}

impl Row {
    pub fn body(mut self, body: impl Into<String>) -> Row {
        self.body = Some(body.into());
        self
    }

    pub fn target(mut self, target: &'static str) -> Row {
        self.target = target;
        self
    }

    fn statements(&self) -> String {
        let plain = || {
            let sources: Vec<_> = (0..self.ins.len()).map(|i| format!("$s{i}")).collect();
            format!("{} $d, {};", self.form, sources.join(", "))
        };
        let mut text = self.body.clone().unwrap_or_else(plain);
        for i in 0..self.ins.len() {
            text = text.replace(&format!("$s{i}"), &format!("%s{i}"));
        }
        text.replace("$d", "%d")
    }

    /// The module: every operand and the result in eight bytes of their own.
    pub fn module(&self) -> String {
        let mut load = String::new();
        for (i, k) in self.ins.iter().enumerate() {
            let b = k.bits();
            load += &format!(".reg .b{b} %s{i};\n  ld.global.b{b} %s{i}, [%in+{}];\n  ", 8 * i);
        }
        let b = self.out.bits();
        let stride = 8 * self.ins.len();
        format!(
            ".version 9.0\n.target {}\n.address_size 64\n\
             .visible .entry k(.param .u64 pin, .param .u64 pout)\n{{\n  \
             .reg .b64 %in, %out, %wide<4>;\n  .reg .b32 %tid, %word<8>;\n  \
             .reg .b16 %half<8>;\n  .reg .pred %p<8>;\n  .reg .b{b} %d;\n  \
             ld.param.u64 %in, [pin];\n  ld.param.u64 %out, [pout];\n  \
             mov.u32 %tid, %tid.x;\n  \
             mad.wide.u32 %in, %tid, {stride}, %in;\n  mad.wide.u32 %out, %tid, 8, %out;\n  \
             {load}\n  {}\n  st.global.b{b} [%out], %d;\n  ret;\n}}\n",
            self.target,
            self.statements()
        )
    }

    fn run(&self, module: &Module, operands: &[Vec<u64>]) -> Result<Vec<u64>, Error> {
        let mut m = Machine::new();
        let bytes: Vec<u8> = operands.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
        let input = m.upload(&bytes)?;
        let out = m.upload(&vec![0; 8 * operands.len()])?;
        // The checker refuses to store what division by zero gives, which is a result here.
        let divides = self.form.starts_with("div.") || self.form.starts_with("rem.");
        let config = LaunchConfig::new(1, operands.len() as u32).host_threads(1).checks(!divides);
        m.launch(module, "k", &config, &[input.into(), out.into()])?;
        let mut got = vec![0; 8 * operands.len()];
        m.read(out, &mut got)?;
        Ok(got.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("eight"))).collect())
    }

    /// Runs the row on random operands.
    fn check(&self, cases: u32) -> Result<(), String> {
        let module = Module::from_ptx(&self.module()).map_err(|e| format!("{}: {e}", self.form))?;
        let n = self.ins.len();
        let threads = if matches!(self.want, Oracle::Warp(_)) { 32..=32 } else { 1..=256 };
        let operands = vec(vec((any::<u8>(), any::<u64>()), n), threads);
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let outcome = TestRunner::new(config).run(&operands, |drawn| {
            let tuples: Vec<Vec<u64>> = drawn
                .iter()
                .map(|t| t.iter().zip(&self.ins).map(|(&(p, x), k)| k.shape(p, x)).collect())
                .collect();
            let got = match self.run(&module, &tuples) {
                Ok(got) => got,
                Err(e) => return Err(TestCaseError::fail(format!("{}: {e}", self.form))),
            };
            let wanted: Vec<Want> = match &self.want {
                Oracle::Each(want) => tuples.iter().map(|t| want(t)).collect(),
                Oracle::Warp(want) => want(&tuples),
            };
            for ((t, &got), want) in tuples.iter().zip(&got).zip(&wanted) {
                prop_assert!(
                    want.holds(got),
                    "{} of {t:#x?} gives {got:#x}, must be {want:x?}",
                    self.form
                );
            }
            Ok(())
        });
        outcome.map_err(|e| e.to_string())
    }
}

/// Checks every row, and shows all that fail.
pub fn check_all(rows: &[Row]) {
    assert!(!rows.is_empty());
    // Thousands of rows of one kind need less each.
    let cases = (2000 / rows.len() as u32).clamp(1, 8);
    let failed: Vec<String> = rows.iter().filter_map(|r| r.check(cases).err()).collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), rows.len(), failed.join("\n"));
}
