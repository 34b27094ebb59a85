//! Arithmetic as functions on whole lanes, found by name, type and modifiers.

pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod int;
pub(crate) mod packed;

/// A lane function of one source.
macro_rules! f1 {
    (|$a:ident| $e:expr) => {
        $crate::lower::ops::AluFn::F1(|x, o| {
            for (o, &$a) in o.iter_mut().zip(x) {
                *o = $e;
            }
        })
    };
}

/// A lane function of two sources.
macro_rules! f2 {
    (|$a:ident, $b:ident| $e:expr) => {
        $crate::lower::ops::AluFn::F2(|x, y, o| {
            for ((o, &$a), &$b) in o.iter_mut().zip(x).zip(y) {
                *o = $e;
            }
        })
    };
}

/// A lane function of three sources.
macro_rules! f3 {
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        $crate::lower::ops::AluFn::F3(|x, y, z, o| {
            for (((o, &$a), &$b), &$c) in o.iter_mut().zip(x).zip(y).zip(z) {
                *o = $e;
            }
        })
    };
}

pub(crate) use {f1, f2, f3};

/// The low `B` bits.
#[inline(always)]
pub(crate) const fn mask<const B: u32>() -> u64 {
    if B >= 64 { u64::MAX } else { (1 << B) - 1 }
}

/// The low `bits` bits.
#[inline(always)]
pub(crate) const fn mask_of(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Sign-extends the low `B` bits.
#[inline(always)]
pub(crate) const fn sx<const B: u32>(x: u64) -> i64 {
    ((x << (64 - B)) as i64) >> (64 - B)
}

/// Sign-extends the low `bits` bits.
#[inline(always)]
pub(crate) const fn sign_extend(x: u64, bits: u32) -> i64 {
    ((x << (64 - bits)) as i64) >> (64 - bits)
}
