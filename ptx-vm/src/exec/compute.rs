//! Arithmetic and comparisons of a warp's registers.

use super::warp::{Step, Warp};
use crate::lower::alu::convert;
use crate::lower::ops::{AluFn, BoolOp, LaneFix, Lanes, Pred, Slot};

impl Warp {
    #[inline]
    pub(super) fn alu(
        &mut self,
        f: AluFn,
        d: Slot,
        s: &[Slot; 4],
        imm: u64,
        fix: (Option<LaneFix>, Option<LaneFix>),
        mask: u32,
    ) -> Step {
        if self.checked {
            for slot in s {
                self.need(*slot, mask)?;
            }
        }
        let mut out = [0; 32];
        let [a, b, c, e] = s.map(|s| self.value(s));
        if let Some(pre) = fix.0 {
            let (mut a, mut b, mut c) = (*a, *b, *c);
            pre(&mut a);
            pre(&mut b);
            pre(&mut c);
            apply(f, &a, &b, &c, e, imm, &mut out);
        } else {
            apply(f, a, b, c, e, imm, &mut out);
        }
        if let Some(post) = fix.1 {
            post(&mut out);
        }
        self.write(d, &out, mask);
        Ok(())
    }

    pub(super) fn compare(
        &self,
        f: fn(&Lanes, &Lanes) -> u32,
        pre: Option<fn(&mut Lanes)>,
        a: Slot,
        b: Slot,
        mask: u32,
    ) -> Step<u32> {
        let (x, y) = (self.read(a, mask)?, self.read(b, mask)?);
        Ok(match pre {
            None => f(x, y),
            Some(pre) => {
                let (mut x, mut y) = (*x, *y);
                pre(&mut x);
                pre(&mut y);
                f(&x, &y)
            }
        })
    }

    pub(super) fn combine(&self, with: Option<(BoolOp, Pred)>, m: u32, mask: u32) -> Step<u32> {
        Ok(match with {
            None => m,
            Some((op, p)) => boolean(op, m, self.pred(p, mask)?),
        })
    }
}

#[inline(always)]
fn apply(f: AluFn, a: &Lanes, b: &Lanes, c: &Lanes, e: &Lanes, imm: u64, out: &mut Lanes) {
    match f {
        AluFn::F1(f) => f(a, out),
        AluFn::F2(f) => f(a, b, out),
        AluFn::F3(f) => f(a, b, c, out),
        AluFn::F4(f) => f(a, b, c, e, out),
        AluFn::F3i(f) => f(a, b, c, imm, out),
        AluFn::Cvt(cvt) => convert::run(cvt, a, b, c, out),
    }
}

pub(super) fn boolean(op: BoolOp, a: u32, b: u32) -> u32 {
    match op {
        BoolOp::And => a & b,
        BoolOp::Or => a | b,
        BoolOp::Xor => a ^ b,
    }
}
