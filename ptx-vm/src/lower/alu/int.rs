//! Integer and bit operations.

use super::{f1, f2, f3, mask, mask_of, sx};
use crate::lower::ops::AluFn;
use crate::parse::ast::Ty;

/// Whether an instruction has this type: some work on bits, most on numbers, `shr` on both.
pub(crate) fn takes(opcode: &str, ty: Ty) -> bool {
    let bits = matches!(ty, Ty::B16 | Ty::B32 | Ty::B64);
    let numbers = matches!(ty, Ty::U16 | Ty::U32 | Ty::U64 | Ty::S16 | Ty::S32 | Ty::S64);
    match opcode {
        "shr" => bits || numbers,
        "and" | "or" | "xor" | "not" | "cnot" | "shl" => bits,
        "popc" | "clz" | "brev" | "bfi" | "fns" | "bmsk" | "shf" => bits && ty != Ty::B16,
        "bfe" | "bfind" => numbers && ty.bits() != 16,
        _ => numbers,
    }
}

/// The lane function of an integer instruction; `name` includes `lo`, `hi`, `wide`.
/// Division by zero gives all ones and the remainder the dividend: PTX leaves both open.
pub(crate) fn find(name: &str, signed: bool, bits: u32) -> Option<AluFn> {
    match bits {
        16 => table::<16, 32>(name, signed),
        32 => table::<32, 64>(name, signed),
        64 if name.ends_with("wide") => None,
        64 => table::<64, 64>(name, signed),
        _ => None,
    }
}

fn table<const B: u32, const W: u32>(name: &str, signed: bool) -> Option<AluFn> {
    Some(match (name, signed) {
        ("add", _) => f2!(|a, b| a.wrapping_add(b) & mask::<B>()),
        ("sub", _) => f2!(|a, b| a.wrapping_sub(b) & mask::<B>()),
        ("add.sat", true) if B == 32 => {
            f2!(|a, b| u64::from((a as i32).saturating_add(b as i32) as u32))
        }
        ("sub.sat", true) if B == 32 => {
            f2!(|a, b| u64::from((a as i32).saturating_sub(b as i32) as u32))
        }
        ("mul.lo", _) => f2!(|a, b| a.wrapping_mul(b) & mask::<B>()),
        ("mul.hi", false) => {
            f2!(|a, b| ((u128::from(a) * u128::from(b)) >> B) as u64 & mask::<B>())
        }
        ("mul.hi", true) => {
            f2!(|a, b| ((i128::from(sx::<B>(a)) * i128::from(sx::<B>(b))) >> B) as u64
                & mask::<B>())
        }
        ("mul.wide", false) => f2!(|a, b| a.wrapping_mul(b) & mask::<W>()),
        ("mul.wide", true) => {
            f2!(|a, b| sx::<B>(a).wrapping_mul(sx::<B>(b)) as u64 & mask::<W>())
        }
        ("mad.lo", _) => f3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c) & mask::<B>()),
        ("mad.hi", false) => f3!(|a, b, c| (((u128::from(a) * u128::from(b)) >> B) as u64)
            .wrapping_add(c)
            & mask::<B>()),
        ("mad.hi", true) => {
            f3!(|a, b, c| (((i128::from(sx::<B>(a)) * i128::from(sx::<B>(b))) >> B) as u64)
                .wrapping_add(c)
                & mask::<B>())
        }
        ("mad.hi.sat", true) if B == 32 => f3!(|a, b, c| {
            let high = (sx::<32>(a) * sx::<32>(b)) >> 32;
            clamp32(high + sx::<32>(c))
        }),
        ("mad.wide", false) => f3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c) & mask::<W>()),
        ("mad.wide", true) => {
            f3!(|a, b, c| (sx::<B>(a).wrapping_mul(sx::<B>(b)) as u64).wrapping_add(c)
                & mask::<W>())
        }
        ("mul24.lo", false) if B == 32 => {
            f2!(|a, b| product24(a, b) & mask::<32>())
        }
        ("mul24.lo", true) if B == 32 => {
            f2!(|a, b| signed_product24(a, b) as u64 & mask::<32>())
        }
        ("mad24.lo", false) if B == 32 => {
            f3!(|a, b, c| product24(a, b).wrapping_add(c) & mask::<32>())
        }
        ("mad24.lo", true) if B == 32 => {
            f3!(|a, b, c| (signed_product24(a, b) as u64).wrapping_add(c) & mask::<32>())
        }
        // The upper 32 of the product's 48 bits.
        ("mul24.hi", false) if B == 32 => f2!(|a, b| product24(a, b) >> 16),
        ("mul24.hi", true) if B == 32 => {
            f2!(|a, b| (signed_product24(a, b) >> 16) as u64 & mask::<32>())
        }
        ("mad24.hi", false) if B == 32 => {
            f3!(|a, b, c| (product24(a, b) >> 16).wrapping_add(c) & mask::<32>())
        }
        ("mad24.hi", true) if B == 32 => {
            f3!(|a, b, c| ((signed_product24(a, b) >> 16) as u64).wrapping_add(c) & mask::<32>())
        }
        ("mad24.hi.sat", true) if B == 32 => {
            f3!(|a, b, c| clamp32((signed_product24(a, b) >> 16) + sx::<32>(c)))
        }
        ("div", false) => f2!(|a, b| a.checked_div(b).unwrap_or(u64::MAX) & mask::<B>()),
        ("div", true) => f2!(|a, b| {
            let (a, b) = (sx::<B>(a), sx::<B>(b));
            (if b == 0 { -1 } else { a.wrapping_div(b) }) as u64 & mask::<B>()
        }),
        ("rem", false) => f2!(|a, b| a.checked_rem(b).unwrap_or(a) & mask::<B>()),
        ("rem", true) => f2!(|a, b| {
            let (a, b) = (sx::<B>(a), sx::<B>(b));
            (if b == 0 { a } else { a.wrapping_rem(b) }) as u64 & mask::<B>()
        }),
        ("min", false) => f2!(|a, b| a.min(b)),
        ("max", false) => f2!(|a, b| a.max(b)),
        ("min", true) => f2!(|a, b| sx::<B>(a).min(sx::<B>(b)) as u64 & mask::<B>()),
        ("max", true) => f2!(|a, b| sx::<B>(a).max(sx::<B>(b)) as u64 & mask::<B>()),
        ("min.relu", true) if B == 32 => {
            f2!(|a, b| sx::<B>(a).min(sx::<B>(b)).max(0) as u64 & mask::<B>())
        }
        ("max.relu", true) if B == 32 => {
            f2!(|a, b| sx::<B>(a).max(sx::<B>(b)).max(0) as u64 & mask::<B>())
        }
        ("sad", false) => f3!(|a, b, c| c.wrapping_add(a.abs_diff(b)) & mask::<B>()),
        ("sad", true) => {
            f3!(|a, b, c| c.wrapping_add(sx::<B>(a).abs_diff(sx::<B>(b))) & mask::<B>())
        }
        ("abs", true) => f1!(|a| sx::<B>(a).unsigned_abs() & mask::<B>()),
        ("neg", true) => f1!(|a| a.wrapping_neg() & mask::<B>()),
        ("and", _) => f2!(|a, b| a & b),
        ("or", _) => f2!(|a, b| a | b),
        ("xor", _) => f2!(|a, b| a ^ b),
        ("not", _) => f1!(|a| !a & mask::<B>()),
        ("cnot", _) => f1!(|a| u64::from(a == 0)),
        // The shift amount is a 32-bit operand; amounts past the width clamp.
        ("shl", _) => f2!(|a, b| a.checked_shl(b as u32).unwrap_or(0) & mask::<B>()),
        ("shr", false) => f2!(|a, b| a.checked_shr(b as u32).unwrap_or(0)),
        ("shr", true) => f2!(|a, b| (sx::<B>(a) >> (b as u32).min(B - 1)) as u64 & mask::<B>()),
        ("popc", _) => f1!(|a| u64::from(a.count_ones())),
        ("clz", _) => f1!(|a| u64::from(a.leading_zeros() - (64 - B))),
        ("brev", _) => f1!(|a| a.reverse_bits() >> (64 - B)),
        ("bfind", false) => f1!(|a| bfind::<B>(a, false)),
        ("bfind", true) => f1!(|a| bfind::<B>(sign_folded::<B>(a), false)),
        ("bfind.shiftamt", false) => f1!(|a| bfind::<B>(a, true)),
        ("bfind.shiftamt", true) => f1!(|a| bfind::<B>(sign_folded::<B>(a), true)),
        ("bfe", false) => f3!(|a, b, c| bfe::<B>(a, b, c, false)),
        ("bfe", true) => f3!(|a, b, c| bfe::<B>(a, b, c, true)),
        ("bfi", _) => AluFn::F4(|x, y, z, w, o| {
            for ((((o, &a), &b), &c), &d) in o.iter_mut().zip(x).zip(y).zip(z).zip(w) {
                *o = bfi::<B>(a, b, c, d);
            }
        }),
        ("bmsk.clamp", _) if B == 32 => f2!(|a, b| {
            let (from, len) = (a as u32, b as u32);
            mask_of(len.min(32)).checked_shl(from).unwrap_or(0) & mask::<32>()
        }),
        ("bmsk.wrap", _) if B == 32 => {
            f2!(|a, b| mask_of(b as u32 & 31) << (a & 31) & mask::<32>())
        }
        ("szext.clamp", _) if B == 32 && signed => f2!(|a, b| szext(a, b.min(32) as u32, true)),
        ("szext.clamp", _) if B == 32 => f2!(|a, b| szext(a, b.min(32) as u32, false)),
        ("szext.wrap", _) if B == 32 && signed => f2!(|a, b| szext(a, b as u32 & 31, true)),
        ("szext.wrap", _) if B == 32 => f2!(|a, b| szext(a, b as u32 & 31, false)),
        ("fns", _) if B == 32 => f3!(|a, b, c| fns(a as u32, b as u32, c as u32 as i32)),
        ("shf.l.wrap", _) if B == 32 => {
            f3!(|a, b, c| ((b << 32 | a) << (c & 31) >> 32) & mask::<32>())
        }
        ("shf.l.clamp", _) if B == 32 => {
            f3!(|a, b, c| ((b << 32 | a) << (c & mask::<32>()).min(32) >> 32) & mask::<32>())
        }
        ("shf.r.wrap", _) if B == 32 => f3!(|a, b, c| (b << 32 | a) >> (c & 31) & mask::<32>()),
        ("shf.r.clamp", _) if B == 32 => {
            f3!(|a, b, c| (b << 32 | a) >> (c & mask::<32>()).min(32) & mask::<32>())
        }
        ("lop3", _) if B == 32 => AluFn::F3i(|x, y, z, table, o| {
            for (((o, &a), &b), &c) in o.iter_mut().zip(x).zip(y).zip(z) {
                *o = lop3(a, b, c, table) & mask::<32>();
            }
        }),
        _ => return None,
    })
}

fn clamp32(x: i64) -> u64 {
    x.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u64 & mask::<32>()
}

fn product24(a: u64, b: u64) -> u64 {
    (a & 0xff_ffff) * (b & 0xff_ffff)
}

fn signed_product24(a: u64, b: u64) -> i64 {
    sx::<24>(a) * sx::<24>(b)
}

/// The low `n` bits, extended to 32.
fn szext(a: u64, n: u32, signed: bool) -> u64 {
    let kept = a & mask_of(n);
    let negative = signed && n > 0 && kept >> (n - 1) & 1 == 1;
    if negative { (kept | !mask_of(n)) & mask::<32>() } else { kept }
}

/// A negative number's bits inverted, so that the highest set bit is the highest that
/// differs from the sign.
fn sign_folded<const B: u32>(a: u64) -> u64 {
    let s = sx::<B>(a);
    (if s < 0 { !s } else { s }) as u64
}

fn bfind<const B: u32>(a: u64, shift: bool) -> u64 {
    if a == 0 {
        return mask::<32>();
    }
    let msb = 63 - a.leading_zeros();
    u64::from(if shift { B - 1 - msb } else { msb })
}

fn bfe<const B: u32>(a: u64, pos: u64, len: u64, signed: bool) -> u64 {
    let (pos, len) = ((pos & 0xff) as u32, (len & 0xff) as u32);
    if len == 0 {
        return 0;
    }
    // Bits past the top repeat the sign bit of the field, as PTX's `bfe` is written.
    let top = (pos + len - 1).min(B - 1);
    let sign = signed && a >> top & 1 == 1;
    let field = a.checked_shr(pos).unwrap_or(0);
    let have = (B.saturating_sub(pos)).min(len);
    let value = field & mask_of(have);
    (if sign { value | !mask_of(have) } else { value }) & mask::<B>()
}

fn bfi<const B: u32>(a: u64, b: u64, pos: u64, len: u64) -> u64 {
    let (pos, len) = ((pos & 0xff) as u32, (len & 0xff) as u32);
    let field = mask_of(len.min(64)).checked_shl(pos).unwrap_or(0);
    let field = if len == 0 { 0 } else { field };
    let value = a.checked_shl(pos).unwrap_or(0) & field;
    (b & !field | value) & mask::<B>()
}

fn fns(mask: u32, base: u32, offset: i32) -> u64 {
    let none = u64::from(u32::MAX);
    if base > 31 {
        return none;
    }
    let hit = |i: u32| mask >> i & 1 == 1;
    if offset == 0 {
        return if hit(base) { u64::from(base) } else { none };
    }
    let mut left = offset.unsigned_abs();
    let mut at = base as i32;
    while (0..32).contains(&at) {
        if hit(at as u32) {
            left -= 1;
            if left == 0 {
                return at as u64;
            }
        }
        at += offset.signum();
    }
    none
}

#[inline(always)]
fn lop3(a: u64, b: u64, c: u64, table: u64) -> u64 {
    let mut r = 0;
    let pick = |v: u64, on: u64| if on != 0 { v } else { !v };
    for row in 0..8 {
        if table >> row & 1 == 1 {
            r |= pick(a, row & 4) & pick(b, row & 2) & pick(c, row & 1);
        }
    }
    r
}

/// `prmt.b32` with its modes.
pub(crate) fn prmt(mode: &str) -> Option<AluFn> {
    fn bytes(a: u64, b: u64) -> [u8; 8] {
        (b << 32 | a & mask::<32>()).to_le_bytes()
    }
    fn select(a: u64, b: u64, at: [usize; 4]) -> u64 {
        let v = bytes(a, b);
        u64::from(u32::from_le_bytes(at.map(|i| v[i & 7])))
    }
    Some(match mode {
        "" => f3!(|a, b, c| {
            let v = bytes(a, b);
            let byte = |i: u32| {
                let s = (c >> (4 * i) & 15) as usize;
                let x = v[s & 7];
                // The fourth selector bit spreads the byte's sign.
                if s & 8 == 0 { x } else { ((x as i8) >> 7) as u8 }
            };
            u64::from(u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]))
        }),
        "f4e" => f3!(|a, b, c| {
            let s = (c & 3) as usize;
            select(a, b, [s, s + 1, s + 2, s + 3])
        }),
        "b4e" => f3!(|a, b, c| {
            let s = (c & 3) as usize;
            select(a, b, [s, s + 7, s + 6, s + 5])
        }),
        "rc8" => f3!(|a, b, c| {
            let s = (c & 3) as usize;
            select(a, b, [s, s, s, s])
        }),
        "ecl" => f3!(|a, b, c| {
            let s = (c & 3) as usize;
            select(a, b, [s, s.max(1), s.max(2), 3])
        }),
        "ecr" => f3!(|a, b, c| {
            let s = (c & 3) as usize;
            select(a, b, [0, s.min(1), s.min(2), s])
        }),
        "rc16" => f3!(|a, b, c| {
            let s = (c & 1) as usize * 2;
            select(a, b, [s, s + 1, s, s + 1])
        }),
        _ => return None,
    })
}

/// `dp4a` and `dp2a`: `half` is `None` for `dp4a`, else whether `.hi`.
pub(crate) fn dot(half: Option<bool>, a_signed: bool, b_signed: bool) -> AluFn {
    fn byte(x: u64, i: u32, signed: bool) -> i64 {
        let v = x >> (8 * i) & 0xff;
        if signed { sx::<8>(v) } else { v as i64 }
    }
    fn word(x: u64, i: u32, signed: bool) -> i64 {
        let v = x >> (16 * i) & 0xffff;
        if signed { sx::<16>(v) } else { v as i64 }
    }
    fn dp4(a: u64, b: u64, c: u64, s: bool, t: bool) -> u64 {
        let sum: i64 = (0..4).map(|i| byte(a, i, s) * byte(b, i, t)).sum();
        c.wrapping_add(sum as u64) & mask::<32>()
    }
    fn dp2(a: u64, b: u64, c: u64, s: bool, t: bool, from: u32) -> u64 {
        let sum: i64 = (0..2).map(|i| word(a, i, s) * byte(b, i + from, t)).sum();
        c.wrapping_add(sum as u64) & mask::<32>()
    }
    match (half, a_signed, b_signed) {
        (None, false, false) => f3!(|a, b, c| dp4(a, b, c, false, false)),
        (None, false, true) => f3!(|a, b, c| dp4(a, b, c, false, true)),
        (None, true, false) => f3!(|a, b, c| dp4(a, b, c, true, false)),
        (None, true, true) => f3!(|a, b, c| dp4(a, b, c, true, true)),
        (Some(false), false, false) => f3!(|a, b, c| dp2(a, b, c, false, false, 0)),
        (Some(false), false, true) => f3!(|a, b, c| dp2(a, b, c, false, true, 0)),
        (Some(false), true, false) => f3!(|a, b, c| dp2(a, b, c, true, false, 0)),
        (Some(false), true, true) => f3!(|a, b, c| dp2(a, b, c, true, true, 0)),
        (Some(true), false, false) => f3!(|a, b, c| dp2(a, b, c, false, false, 2)),
        (Some(true), false, true) => f3!(|a, b, c| dp2(a, b, c, false, true, 2)),
        (Some(true), true, false) => f3!(|a, b, c| dp2(a, b, c, true, false, 2)),
        (Some(true), true, true) => f3!(|a, b, c| dp2(a, b, c, true, true, 2)),
    }
}

/// A function of carry arithmetic: three sources and the flag to a result and the flag.
pub(crate) type CarryFn = fn(u64, u64, u64, bool) -> (u64, bool);

/// Carry arithmetic: `add`, `sub`, `mad.lo`, `mad.hi` with the flag read as 0 by the plain
/// forms. The flag of a subtraction is the borrow.
pub(crate) fn carry(name: &str, signed: bool, bits: u32) -> Option<CarryFn> {
    Some(match (name, signed, bits) {
        ("add", _, 32) => |a, b, _, c| {
            let s = a + b + u64::from(c);
            (s & mask::<32>(), s >> 32 != 0)
        },
        ("add", _, 64) => |a, b, _, c| {
            let s = u128::from(a) + u128::from(b) + u128::from(c);
            (s as u64, s >> 64 != 0)
        },
        ("sub", _, 32) => |a, b, _, c| {
            let s = a.wrapping_sub(b).wrapping_sub(u64::from(c));
            (s & mask::<32>(), s >> 32 != 0)
        },
        ("sub", _, 64) => |a, b, _, c| {
            let s = u128::from(a).wrapping_sub(u128::from(b)).wrapping_sub(u128::from(c));
            (s as u64, s >> 64 != 0)
        },
        ("mad.lo", _, 32) => |a, b, x, c| {
            let s = (a.wrapping_mul(b) & mask::<32>()) + x + u64::from(c);
            (s & mask::<32>(), s >> 32 != 0)
        },
        ("mad.hi", false, 32) => |a, b, x, c| {
            let s = ((a * b) >> 32) + x + u64::from(c);
            (s & mask::<32>(), s >> 32 != 0)
        },
        ("mad.hi", true, 32) => |a, b, x, c| {
            let p = ((sx::<32>(a) * sx::<32>(b)) >> 32) as u64 & mask::<32>();
            let s = p + x + u64::from(c);
            (s & mask::<32>(), s >> 32 != 0)
        },
        ("mad.lo", _, 64) => |a, b, x, c| {
            let s = u128::from(a.wrapping_mul(b)) + u128::from(x) + u128::from(c);
            (s as u64, s >> 64 != 0)
        },
        ("mad.hi", false, 64) => |a, b, x, c| {
            let p = (u128::from(a) * u128::from(b)) >> 64;
            let s = p + u128::from(x) + u128::from(c);
            (s as u64, s >> 64 != 0)
        },
        ("mad.hi", true, 64) => |a, b, x, c| {
            let p = (i128::from(a as i64) * i128::from(b as i64)) >> 64;
            let s = u128::from(p as u64) + u128::from(x) + u128::from(c);
            (s as u64, s >> 64 != 0)
        },
        _ => return None,
    })
}
