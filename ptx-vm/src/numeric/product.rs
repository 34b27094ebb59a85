//! Products of small matrices, as matrix instructions compute them.
//!
//! Operands are exact f64 values, so every product of two elements is too. [`Product::exact`]
//! rounds the exact sum once. [`Product::hardware`] follows what was measured on tensor
//! cores: see [`HardwareModel`].

use super::element::{Element, ScaleFormat};
use super::float::{Format, Rounding, convert, to_f64};
use super::native::add_odd;
use super::sum::{Num, Sum};
use crate::target::Target;

/// How sums of products in matrix instructions are rounded.
///
/// Products are exact in both models. Integer matrices are exact in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Arithmetic {
    /// `D = round(C + Σ a·b)`: one rounding of the exact sum, to nearest even.
    #[default]
    Exact,
    /// As tensor cores were measured to do it, bit for bit as far as it is published: the
    /// accumulator and a group of products are cut (towards zero) to a grid that lies 24,
    /// 25, 13 or 35 bits below the largest exponent, the cut terms are added exactly, the
    /// total is cut to f32 (or rounded to nearest for f16), and the next group follows.
    /// Groups and bits depend on the target and the types; `FIDELITY.md` has the table.
    Hardware,
}

/// The parameters of [`Arithmetic::Hardware`].
///
/// Taken from published models that their authors validated bit for bit on hardware (Xie et
/// al. 2025, arXiv 2511.10909; Khattak and Mikaitis 2025, arXiv 2512.07004) after the first
/// measurements (Fasi et al. 2021, DOI 10.7717/peerj-cs.330; Li et al. 2024, arXiv
/// 2403.00232); not measured here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HardwareModel {
    /// Products added to the accumulator at once.
    group: usize,
    /// Bits kept below the largest exponent.
    fraction_bits: i32,
    /// Mantissa bits of an f32 result that are kept.
    output_bits: u32,
}

impl HardwareModel {
    /// `mma.sync`.
    pub fn mma(target: Target, a: Element, k: usize) -> HardwareModel {
        let ampere = (80..=89).contains(&target.number());
        // 128 bits of A at once on Ampere and Ada, everything at once elsewhere.
        let group = if ampere { (128 / a.container_bits()) as usize } else { k };
        let (fraction_bits, output_bits) = match target.number() {
            89 if a.container_bits() == 8 => (13, 13),
            ..=74 => (23, 23),
            75..=89 => (24, 23),
            _ if a == Element::E2m1 => (35, 23),
            _ => (25, 23),
        };
        HardwareModel { group, fraction_bits, output_bits }
    }

    /// `wgmma`: Hopper adds FP8 products with 13 bits only.
    pub fn wgmma(a: Element, k: usize) -> HardwareModel {
        let bits = if a.container_bits() == 8 { (13, 13) } else { (25, 23) };
        HardwareModel { group: k, fraction_bits: bits.0, output_bits: bits.1 }
    }
}

/// Products of FP4 blocks are added exactly in groups of this many before they are scaled.
const FP4_GROUP: usize = 16;

/// Block scales: some for each row of A and column of B.
pub(crate) struct Scales<'a> {
    pub per_line: usize,
    pub format: ScaleFormat,
    pub a: &'a [f64],
    pub b: &'a [f64],
}

/// A matrix product.
pub(crate) struct Product<'a> {
    pub k: usize,
    /// Rows of A, one after the other.
    pub a: &'a [f64],
    /// Columns of B, one after the other.
    pub b: &'a [f64],
    pub scales: Option<Scales<'a>>,
}

impl Product<'_> {
    /// `A·B + C` rounded once; C and the result by rows.
    pub fn exact(&self, c: &[f64], out: Format) -> Vec<u32> {
        let a = self.scaled(self.a, self.scales.as_ref().map(|s| s.a));
        let b = self.scaled(self.b, self.scales.as_ref().map(|s| s.b));
        let (k, n) = (self.k, b.len() / self.k);
        let dots = dots(&a, &b, k);
        let rows: Vec<Range> = a.chunks(k).map(Range::of).collect();
        let cols: Vec<Range> = b.chunks(k).map(Range::of).collect();
        let mut sum = Sum::default();
        let element = |(i, &dot): (usize, &f64)| {
            let (row, col) = (i / n, i % n);
            if rows[row].exact_with(cols[col], k) && c[i].is_finite() {
                let total = add_odd(dot, c[i]);
                return match out {
                    _ if total == 0.0 => 0,
                    Format::F32 => (total as f32).to_bits(),
                    _ => narrow(total, out, Rounding::NearestEven),
                };
            }
            sum.clear();
            sum.add(Num::from_f64(c[i]));
            for (x, y) in a[row * k..][..k].iter().zip(&b[col * k..][..k]) {
                sum.add(Num::from_f64(*x).times(Num::from_f64(*y)));
            }
            sum.exact(out) as u32
        };
        dots.iter().enumerate().map(element).collect()
    }

    /// `A·B + C` in 32-bit integers, wrapping or clamped.
    pub fn integer(&self, c: &[f64], saturate: bool) -> Vec<u32> {
        let total = dots(self.a, self.b, self.k);
        let round = |(dot, c): (&f64, &f64)| {
            // Both are integers below 2^32: exact.
            let v = (dot + c) as i64;
            if saturate {
                v.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32 as u32
            } else {
                v as u32
            }
        };
        total.iter().zip(c).map(round).collect()
    }

    /// `A·B + C` as tensor cores do it.
    pub fn hardware(
        &self,
        c: &[f64],
        types: (Element, Element),
        model: HardwareModel,
        out: Format,
    ) -> Vec<u32> {
        let k = self.k;
        let ea: Vec<i32> = self.a.iter().map(|x| exponent(*x, types.0.min_exponent())).collect();
        let eb: Vec<i32> = self.b.iter().map(|x| exponent(*x, types.1.min_exponent())).collect();
        let n = self.b.len() / k;
        let mut terms = Vec::with_capacity(k + 1);
        let element = |(i, &c): (usize, &f64)| {
            let (row, col) = (i / n, i % n);
            let (x, y) = (&self.a[row * k..][..k], &self.b[col * k..][..k]);
            let mut code = narrow(c, out, Rounding::NearestEven);
            for start in (0..k).step_by(model.group) {
                let acc = to_f64(u64::from(code), out);
                terms.clear();
                terms.push((acc, exponent(acc, 1 - out.bias)));
                let end = k.min(start + model.group);
                match &self.scales {
                    None => {
                        for j in start..end {
                            terms.push((x[j] * y[j], ea[row * k + j] + eb[col * k + j]));
                        }
                    }
                    Some(s) if s.per_line == 1 => {
                        let scale = s.a[row] * s.b[col];
                        let e = s.exponent(s.a[row]) + s.exponent(s.b[col]);
                        for j in start..end {
                            terms
                                .push((x[j] * y[j] * scale, ea[row * k + j] + eb[col * k + j] + e));
                        }
                    }
                    Some(s) => {
                        for j in (start..end).step_by(FP4_GROUP) {
                            let block = j * s.per_line / k;
                            let (sa, sb) =
                                (s.a[row * s.per_line + block], s.b[col * s.per_line + block]);
                            let pairs = x[j..].iter().zip(&y[j..]).take(FP4_GROUP);
                            let dot: f64 = pairs.map(|(p, q)| p * q).sum();
                            terms.push((dot * sa * sb, s.exponent(sa) + s.exponent(sb)));
                        }
                    }
                }
                code = fused(&terms, model, out);
            }
            code
        };
        c.iter().enumerate().map(element).collect()
    }

    /// The lines with their scales multiplied in: still exact.
    fn scaled<'s>(&self, lines: &'s [f64], scales: Option<&[f64]>) -> std::borrow::Cow<'s, [f64]> {
        let (Some(values), Some(s)) = (scales, &self.scales) else { return lines.into() };
        let block = self.k / s.per_line;
        lines.chunks(block).zip(values).flat_map(|(x, v)| x.iter().map(move |x| x * v)).collect()
    }
}

impl Scales<'_> {
    fn exponent(&self, scale: f64) -> i32 {
        exponent(scale, self.format.min_exponent())
    }
}

/// Plain f64 products of rows of A and columns of B.
fn dots(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let n = b.len() / k;
    let mut by_row = vec![0.0; b.len()];
    for (col, line) in b.chunks(k).enumerate() {
        for (i, v) in line.iter().enumerate() {
            by_row[i * n + col] = *v;
        }
    }
    let mut out = vec![0.0; a.len() / k * n];
    for (acc, row) in out.chunks_mut(n).zip(a.chunks(k)) {
        for (x, line) in row.iter().zip(by_row.chunks(n)) {
            for (o, y) in acc.iter_mut().zip(line) {
                *o += x * y;
            }
        }
    }
    out
}

/// Where the set bits of a line's elements lie.
#[derive(Debug, Clone, Copy)]
struct Range {
    low: i32,
    high: i32,
    finite: bool,
}

impl Range {
    fn of(line: &[f64]) -> Range {
        let mut r = Range { low: 1 << 20, high: -(1 << 20), finite: true };
        for x in line {
            let bits = x.to_bits();
            let biased = (bits >> 52 & 0x7ff) as i32;
            r.finite &= biased != 0x7ff;
            if bits << 1 != 0 {
                let mantissa = bits & ((1 << 52) - 1) | 1 << 52;
                r.low = r.low.min(biased - 1075 + mantissa.trailing_zeros() as i32);
                r.high = r.high.max(biased - 1022);
            }
        }
        r
    }

    /// Whether every partial sum of the lines' products fits in an f64's 53 bits, so that
    /// plain f64 arithmetic is exact in any order.
    fn exact_with(self, other: Range, k: usize) -> bool {
        let carries = (usize::BITS - k.leading_zeros()) as i32;
        self.finite
            && other.finite
            && self.high + other.high + carries - (self.low + other.low) <= 53
    }
}

/// The exponent of a value whose format has subnormals below `min`. Zero counts as the
/// smallest normal f32.
fn exponent(x: f64, min: i32) -> i32 {
    if x == 0.0 {
        return -126;
    }
    min.max((x.to_bits() >> 52 & 0x7ff) as i32 - 1023)
}

fn power(e: i32) -> f64 {
    f64::from_bits(((e + 1023).clamp(1, 2046) as u64) << 52)
}

/// One step of a tensor core: align, cut, add, cut.
fn fused(terms: &[(f64, i32)], model: HardwareModel, out: Format) -> u32 {
    let plain: f64 = terms.iter().map(|t| t.0).sum();
    if !plain.is_finite() {
        return narrow(plain, out, Rounding::NearestEven);
    }
    let top = terms.iter().map(|t| t.1).max().unwrap_or(0);
    let grid = power(model.fraction_bits - top);
    // Integers below 2^48, at most 65 of them: exact.
    let total: f64 = terms.iter().map(|t| (t.0 * grid).trunc()).sum();
    let total = total * power(top - model.fraction_bits);
    // Past the largest f32 the result is infinite, unlike in plain rounding towards zero.
    let code = if out == Format::F16 || total.abs() >= power(128) {
        narrow(total, out, Rounding::NearestEven)
    } else {
        narrow(total, out, Rounding::TowardZero) & (u32::MAX << (23 - model.output_bits))
    };
    // A result that is cut to nothing has no sign.
    if code << (32 - out.bits()) << 1 == 0 { 0 } else { code }
}

fn narrow(x: f64, out: Format, mode: Rounding) -> u32 {
    convert(x.to_bits(), Format::F64, out, mode, false) as u32
}
