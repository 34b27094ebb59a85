//! Integer and bit operations, in 128-bit arithmetic.

use crate::harness::*;

const WIDTHS: [u32; 3] = [16, 32, 64];

/// Both readings of a width: the type's letter, and how a value is read.
fn kinds() -> impl Iterator<Item = (u32, char, fn(u64, u32) -> i128)> {
    let unsigned: fn(u64, u32) -> i128 = |x, b| i128::from(x & mask(b));
    WIDTHS.into_iter().flat_map(move |b| [(b, 'u', unsigned), (b, 's', signed as _)])
}

fn product(a: u64, b: u64, bits: u32, read: fn(u64, u32) -> i128) -> (u64, u64) {
    // Low and high half of the product; 64-bit unsigned ones need all 128 bits.
    let (a, b) = (read(a, bits), read(b, bits));
    let p = (a as u128).wrapping_mul(b as u128);
    (p as u64 & mask(bits), (p >> bits) as u64 & mask(bits))
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (b, l, read) in kinds() {
        let k = Kind::Int(b);
        let t = format!("{l}{b}");
        let m = move |x: i128| x as u64 & mask(b);
        let r = move |x: u64| read(x, b);
        let mut two = |op: &str, f: Box<dyn Fn(i128, i128) -> i128>| {
            rows.push(row(format!("{op}.{t}"), k, &[k, k], move |x| m(f(r(x[0]), r(x[1])))));
        };
        two("add", Box::new(|a, b| a + b));
        two("sub", Box::new(|a, b| a - b));
        two("min", Box::new(|a, b| a.min(b)));
        two("max", Box::new(|a, b| a.max(b)));
        // Division by zero gives what the hardware's sequence is known to: all ones, and
        // the dividend as the remainder. PTX leaves it open.
        two("div", Box::new(|a, b| if b == 0 { -1 } else { a / b }));
        two("rem", Box::new(|a, b| if b == 0 { a } else { a % b }));
        two("mul.lo", Box::new(|a, b| a.wrapping_mul(b)));
        rows.push(row(format!("mul.hi.{t}"), k, &[k, k], move |x| product(x[0], x[1], b, read).1));
        rows.push(row(format!("mad.lo.{t}"), k, &[k, k, k], move |x| {
            product(x[0], x[1], b, read).0.wrapping_add(x[2]) & mask(b)
        }));
        rows.push(row(format!("mad.hi.{t}"), k, &[k, k, k], move |x| {
            product(x[0], x[1], b, read).1.wrapping_add(x[2]) & mask(b)
        }));
        rows.push(row(format!("sad.{t}"), k, &[k, k, k], move |x| {
            m((r(x[0]) - r(x[1])).abs() + r(x[2]))
        }));
        if b < 64 {
            let w = Kind::Int(2 * b);
            rows.push(row(format!("mul.wide.{t}"), w, &[k, k], move |x| {
                (r(x[0]) * r(x[1])) as u64 & mask(2 * b)
            }));
            rows.push(row(format!("mad.wide.{t}"), w, &[k, k, w], move |x| {
                ((r(x[0]) * r(x[1])) as u64).wrapping_add(x[2]) & mask(2 * b)
            }));
        }
        // Shift amounts are 32-bit and clamp.
        rows.push(row(format!("shr.{t}"), k, &[k, Kind::Amount], move |x| {
            m(r(x[0]) >> x[1].min(64))
        }));
        if l == 's' {
            rows.push(row(format!("abs.{t}"), k, &[k], move |x| m(r(x[0]).abs())));
            rows.push(row(format!("neg.{t}"), k, &[k], move |x| m(-r(x[0]))));
        }
        if b >= 32 {
            // Bit by bit, as the ISA writes it.
            rows.push(row(format!("bfe.{t}"), k, &[k, Kind::Amount, Kind::Amount], move |x| {
                let (pos, len, msb) = (x[1] & 0xff, x[2] & 0xff, u64::from(b - 1));
                let bit = |i: u64| x[0] >> i & 1;
                let sign = if l == 'u' || len == 0 { 0 } else { bit((pos + len - 1).min(msb)) };
                (0..=msb).fold(0, |d, i| {
                    d | if i < len && pos + i <= msb { bit(pos + i) } else { sign } << i
                })
            }));
            for shift in [false, true] {
                let name = if shift { "bfind.shiftamt" } else { "bfind" };
                rows.push(row(format!("{name}.{t}"), B32, &[k], move |x| {
                    let inverted = l == 's' && x[0] >> (b - 1) & 1 == 1;
                    let a = if inverted { !x[0] & mask(b) } else { x[0] };
                    match (0..b).rev().find(|i| a >> i & 1 == 1) {
                        None => 0xffff_ffff,
                        Some(i) => u64::from(if shift { b - 1 - i } else { i }),
                    }
                }));
            }
        }
    }
    for b in WIDTHS {
        let k = Kind::Int(b);
        let t = format!("b{b}");
        rows.push(row(format!("and.{t}"), k, &[k, k], |x| x[0] & x[1]));
        rows.push(row(format!("or.{t}"), k, &[k, k], |x| x[0] | x[1]));
        rows.push(row(format!("xor.{t}"), k, &[k, k], |x| x[0] ^ x[1]));
        rows.push(row(format!("not.{t}"), k, &[k], move |x| !x[0] & mask(b)));
        rows.push(row(format!("cnot.{t}"), k, &[k], |x| u64::from(x[0] == 0)));
        rows.push(row(format!("shl.{t}"), k, &[k, Kind::Amount], move |x| {
            if x[1] > 63 { 0 } else { x[0] << x[1] & mask(b) }
        }));
        rows.push(row(format!("shr.{t}"), k, &[k, Kind::Amount], move |x| {
            if x[1] > 63 { 0 } else { x[0] >> x[1] }
        }));
        rows.push(row(format!("mov.{t}"), k, &[k], |x| x[0]));
        if b > 16 {
            let ones = |x: u64| (0..64).map(|i| x >> i & 1).sum::<u64>();
            rows.push(row(format!("popc.{t}"), B32, &[k], move |x| ones(x[0])));
            rows.push(row(format!("clz.{t}"), B32, &[k], move |x| {
                (0..b).rev().take_while(|i| x[0] >> i & 1 == 0).count() as u64
            }));
            rows.push(row(format!("brev.{t}"), k, &[k], move |x| {
                (0..b).fold(0, |d, i| d | (x[0] >> i & 1) << (b - 1 - i))
            }));
            let ins = [k, k, Kind::Amount, Kind::Amount];
            rows.push(row(format!("bfi.{t}"), k, &ins, move |x| {
                let (pos, len) = (x[2] & 0xff, x[3] & 0xff);
                (0..len)
                    .take_while(|i| pos + i < u64::from(b))
                    .fold(x[1], |d, i| d & !(1 << (pos + i)) | (x[0] >> i & 1) << (pos + i))
            }));
        }
    }
    let clamp = |x: i128| x.clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as u32;
    let s = |x: u64| signed(x, 32);
    rows.push(row("add.sat.s32", B32, &[B32, B32], move |x| u64::from(clamp(s(x[0]) + s(x[1])))));
    rows.push(row("sub.sat.s32", B32, &[B32, B32], move |x| u64::from(clamp(s(x[0]) - s(x[1])))));
    rows.push(row("mad.hi.sat.s32", B32, &[B32, B32, B32], move |x| {
        u64::from(clamp(((s(x[0]) * s(x[1])) >> 32) + s(x[2])))
    }));
    rows.push(row("min.relu.s32", B32, &[B32, B32], move |x| s(x[0]).min(s(x[1])).max(0) as u64));
    rows.push(row("max.relu.s32", B32, &[B32, B32], move |x| s(x[0]).max(s(x[1])).max(0) as u64));
    for (l, read) in [('u', false), ('s', true)] {
        let low = move |x: u64| {
            if read { signed(x, 24) } else { i128::from(x & 0xff_ffff) }
        };
        let (full, word) = (move |x: &[u64]| low(x[0]) * low(x[1]), |v: i128| v as u64 & mask(32));
        rows.push(row(format!("mul24.lo.{l}32"), B32, &[B32, B32], move |x| word(full(x))));
        rows.push(row(format!("mul24.hi.{l}32"), B32, &[B32, B32], move |x| word(full(x) >> 16)));
        rows.push(row(format!("mad24.lo.{l}32"), B32, &[B32, B32, B32], move |x| {
            word(full(x) + i128::from(x[2]))
        }));
        rows.push(row(format!("mad24.hi.{l}32"), B32, &[B32, B32, B32], move |x| {
            word((full(x) >> 16) + i128::from(x[2]))
        }));
        for wrap in [false, true] {
            let mode = if wrap { "wrap" } else { "clamp" };
            let ins = [B32, Kind::Amount];
            rows.push(row(format!("szext.{mode}.{l}32"), B32, &ins, move |x| {
                let n = if wrap { x[1] % 32 } else { x[1].min(32) } as u32;
                let kept = x[0] & mask(n);
                match n {
                    0 => 0,
                    n if read => signed(kept, n) as u64 & mask(32),
                    _ => kept,
                }
            }));
        }
    }
    rows.push(row("mad24.hi.sat.s32", B32, &[B32, B32, B32], move |x| {
        u64::from(clamp(((signed(x[0], 24) * signed(x[1], 24)) >> 16) + s(x[2])))
    }));
    rows.push(row("bmsk.clamp.b32", B32, &[Kind::Amount, Kind::Amount], |x| {
        (0..32).filter(|i| *i >= x[0] && *i < x[0] + x[1]).fold(0, |d, i| d | 1 << i)
    }));
    rows.push(row("bmsk.wrap.b32", B32, &[Kind::Amount, Kind::Amount], |x| {
        let (from, n) = (x[0] & 31, x[1] & 31);
        (0..32).filter(|i| *i >= from && *i < from + n).fold(0, |d, i| d | 1 << i)
    }));
    rows.push(
        row("fns.b32", B32, &[B32, Kind::Amount, B8], |x| {
            let offset = signed(x[2], 8);
            if x[1] > 31 {
                return 0xffff_ffff;
            }
            let set = |i: &i128| x[0] >> *i & 1 == 1;
            let base = x[1] as i128;
            let found = match offset {
                0 => Some(base).filter(set),
                1.. => (base..32).filter(set).nth(offset as usize - 1),
                _ => (0..=base).rev().filter(set).nth(-offset as usize - 1),
            };
            found.map_or(0xffff_ffff, |i| i as u64)
        })
        .body("cvt.s32.s8 %word0, $s2; fns.b32 $d, $s0, $s1, %word0;"),
    );
    for (left, wrap) in [(true, true), (true, false), (false, true), (false, false)] {
        let form = format!(
            "shf.{}.{}.b32",
            if left { "l" } else { "r" },
            if wrap { "wrap" } else { "clamp" }
        );
        rows.push(row(form, B32, &[B32, B32, Kind::Amount], move |x| {
            let n = if wrap { x[2] % 32 } else { x[2].min(32) };
            let v = u128::from(x[1]) << 32 | u128::from(x[0]);
            (if left { v << n >> 32 } else { v >> n }) as u64 & mask(32)
        }));
    }
    for a in ['u', 's'] {
        for b in ['u', 's'] {
            let part = |x: u64, i: u32, bits: u32, l: char| {
                let v = x >> (i * bits) & mask(bits);
                if l == 's' { signed(v, bits) } else { i128::from(v) }
            };
            rows.push(row(format!("dp4a.{a}32.{b}32"), B32, &[B32, B32, B32], move |x| {
                let sum: i128 = (0..4).map(|i| part(x[0], i, 8, a) * part(x[1], i, 8, b)).sum();
                (sum + i128::from(x[2])) as u64 & mask(32)
            }));
            for (mode, first) in [("lo", 0), ("hi", 2)] {
                let ins = [B32, B32, B32];
                rows.push(row(format!("dp2a.{mode}.{a}32.{b}32"), B32, &ins, move |x| {
                    let sum: i128 =
                        (0..2).map(|i| part(x[0], i, 16, a) * part(x[1], i + first, 8, b)).sum();
                    (sum + i128::from(x[2])) as u64 & mask(32)
                }));
            }
        }
    }
    // Pairs of 16-bit integers.
    for (l, read) in [('u', (|x, _| x as i128) as fn(u64, u32) -> i128), ('s', signed as _)] {
        let pair = move |x: &[u64], f: fn(i128, i128) -> i128| {
            let half = |i: u32| {
                let v = |x: u64| read(x >> (16 * i) & 0xffff, 16);
                (f(v(x[0]), v(x[1])) as u64 & 0xffff) << (16 * i)
            };
            half(0) | half(1)
        };
        let ins = [B32, B32];
        rows.push(row(format!("add.{l}16x2"), B32, &ins, move |x| pair(x, |a, b| a + b)));
        rows.push(row(format!("min.{l}16x2"), B32, &ins, move |x| pair(x, i128::min)));
        rows.push(row(format!("max.{l}16x2"), B32, &ins, move |x| pair(x, i128::max)));
        if l == 's' {
            let min: fn(i128, i128) -> i128 = |a, b| a.min(b).max(0);
            rows.push(row("min.relu.s16x2", B32, &ins, move |x| pair(x, min)));
            rows.push(row("max.relu.s16x2", B32, &ins, move |x| pair(x, |a, b| a.max(b).max(0))));
        }
    }
    rows.extend(carry());
    rows.extend(permute());
    rows
}

/// The carry flag passes between two instructions: each row is a pair of them, and gives
/// the second's result.
fn carry() -> Vec<Row> {
    let mut rows = Vec::new();
    for b in [32u32, 64] {
        let k = Kind::Int(b);
        let tmp = if b == 32 { "%word0" } else { "%wide0" };
        for l in ['u', 's'] {
            let t = format!("{l}{b}");
            let sum =
                move |a: u64, c: u64, flag: u64| u128::from(a) + u128::from(c) + u128::from(flag);
            let over = move |s: u128| (s >> b != 0) as u64;
            let m = move |s: u128| s as u64 & mask(b);
            let borrow =
                move |a: u64, c: u64, flag: u64| u128::from(a) < u128::from(c) + u128::from(flag);
            let less =
                move |a: u64, c: u64, flag: u64| a.wrapping_sub(c).wrapping_sub(flag) & mask(b);
            let ins = [k, k, k, k];
            let body = |first: &str, second: &str| {
                format!("{first}.{t} {tmp}, $s0, $s1; {second}.{t} $d, $s2, $s3;")
            };
            rows.push(
                row(format!("addc.{t}"), k, &ins, move |x| {
                    m(sum(x[2], x[3], over(sum(x[0], x[1], 0))))
                })
                .body(body("add.cc", "addc")),
            );
            rows.push(
                row(format!("add.cc.{t}"), k, &ins, move |x| {
                    m(sum(x[2], x[3], over(sum(x[0], x[1], 0))))
                })
                .body(body("add.cc", "addc.cc")),
            );
            // A third instruction sees what the second left.
            rows.push(
                row(format!("addc.cc.{t}"), k, &ins, move |x| {
                    over(sum(x[2], x[3], over(sum(x[0], x[1], 0))))
                })
                .body(body("add.cc", "addc.cc") + &format!(" addc.{t} $d, 0, 0;")),
            );
            rows.push(
                row(format!("subc.{t}"), k, &ins, move |x| {
                    less(x[2], x[3], u64::from(borrow(x[0], x[1], 0)))
                })
                .body(body("sub.cc", "subc")),
            );
            rows.push(
                row(format!("sub.cc.{t}"), k, &ins, move |x| {
                    less(x[2], x[3], u64::from(borrow(x[0], x[1], 0)))
                })
                .body(body("sub.cc", "subc.cc")),
            );
            rows.push(
                row(format!("subc.cc.{t}"), k, &ins, move |x| {
                    let flag = u64::from(borrow(x[0], x[1], 0));
                    u64::from(borrow(x[2], x[3], flag)).wrapping_neg() & mask(b)
                })
                .body(body("sub.cc", "subc.cc") + &format!(" subc.{t} $d, 0, 0;")),
            );
            for (part, high) in [("lo", false), ("hi", true)] {
                let read: fn(u64, u32) -> i128 =
                    if l == 's' { signed } else { |x, b| i128::from(x & mask(b)) };
                let of = move |x: &[u64]| {
                    let (low, top) = product(x[0], x[1], b, read);
                    if high { top } else { low }
                };
                rows.push(
                    row(format!("mad.{part}.cc.{t}"), k, &[k, k, k], move |x| {
                        over(sum(of(x), x[2], 0))
                    })
                    .body(format!("mad.{part}.cc.{t} {tmp}, $s0, $s1, $s2; addc.{t} $d, 0, 0;")),
                );
                let start = format!("add.cc.{t} {tmp}, $s3, $s3;");
                let flag = move |x: &[u64]| over(sum(x[3], x[3], 0));
                rows.push(
                    row(format!("madc.{part}.{t}"), k, &ins, move |x| m(sum(of(x), x[2], flag(x))))
                        .body(format!("{start} madc.{part}.{t} $d, $s0, $s1, $s2;")),
                );
                rows.push(
                    row(format!("madc.{part}.cc.{t}"), k, &ins, move |x| {
                        over(sum(of(x), x[2], flag(x)))
                    })
                    .body(format!(
                        "{start} madc.{part}.cc.{t} $d, $s0, $s1, $s2; addc.{t} $d, 0, 0;"
                    )),
                );
            }
        }
    }
    rows
}

/// `prmt` with its modes, from the ISA's table of byte numbers (most significant first).
fn permute() -> Vec<Row> {
    const TABLES: [(&str, [[usize; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    let bytes = |x: &[u64]| (x[1] << 32 | x[0]).to_le_bytes();
    let ins = [B32, B32, B32];
    let mut rows = vec![row("prmt.b32", B32, &ins, move |x| {
        (0..4).fold(0, |d, i| {
            let s = x[2] >> (4 * i) & 15;
            let byte = bytes(x)[s as usize & 7];
            let byte = if s < 8 {
                byte
            } else if byte > 127 {
                0xff
            } else {
                0
            };
            d | u64::from(byte) << (8 * i)
        })
    })];
    for (mode, table) in TABLES {
        rows.push(row(format!("prmt.b32.{mode}"), B32, &ins, move |x| {
            let picked = table[x[2] as usize & 3].map(|i| bytes(x)[i]);
            u64::from(u32::from_be_bytes(picked))
        }));
    }
    rows
}

#[test]
fn integer_instructions_agree_with_wide_arithmetic() {
    check_all(&rows());
}

/// `lop3` with a table.
pub fn lop3_row(table: u64) -> Row {
    row("lop3.b32", B32, &[B32, B32, B32], move |x| {
        (0..32).fold(0, |d, i| {
            let bit = |k: usize| x[k] >> i & 1;
            d | (table >> (bit(0) << 2 | bit(1) << 1 | bit(2)) & 1) << i
        })
    })
    .body(format!("lop3.b32 $d, $s0, $s1, $s2, {table};"))
}

#[test]
fn lop3_computes_each_of_its_256_functions() {
    check_all(&(0..256).map(lop3_row).collect::<Vec<_>>());
}
