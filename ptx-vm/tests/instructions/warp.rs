//! What the lanes of a warp do together.

use crate::exact;
use crate::harness::*;

const ALL: u32 = u32::MAX;
/// Half of the lanes, behind a guard.
const EVEN: u32 = 0x5555_5555;

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 == 1)
}

/// The statement for all lanes, or for the even ones with 77 in the others.
fn under(mask: u32, statement: &str) -> String {
    if mask == ALL {
        return statement.to_string();
    }
    format!(
        "mov.u64 $d, 77; and.b32 %word7, %tid, 1; setp.eq.u32 %p7, %word7, 0; \
         @!%p7 bra done; {statement} done:"
    )
}

fn shuffles() -> Vec<Row> {
    let mut rows = Vec::new();
    for mode in ["up", "down", "bfly", "idx"] {
        for width in [1usize, 2, 4, 8, 16, 32] {
            let c = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
            let form = format!("shfl.sync.{mode}.b32");
            // As CUDA's intrinsics say it: within segments of `width` lanes.
            let shuffle = warp_row(form.clone(), B64, &[B32, Kind::Amount], move |lane, x| {
                let (start, b) = (lane / width * width, x[lane][1] as usize % 32);
                let source = match mode {
                    "up" => lane.checked_sub(b).filter(|s| *s >= start),
                    "down" => Some(lane + b).filter(|s| *s < start + width),
                    "bfly" => Some(lane ^ b).filter(|s| *s < start + width),
                    _ => Some(start + b % width),
                };
                x[source.unwrap_or(lane)][0] | u64::from(source.is_some()) << 32
            });
            rows.push(shuffle.body(format!(
                "{form} %word0|%p0, $s0, $s1, {c}, -1; selp.u32 %word1, 1, 0, %p0; \
                 mov.b64 $d, {{%word0, %word1}};"
            )));
        }
    }
    rows
}

fn votes() -> Vec<Row> {
    let mut rows = Vec::new();
    // Mostly true, mostly false, mixed.
    for condition in
        ["setp.ne.u32 %p0, $s0, 0", "setp.eq.u32 %p0, $s0, 0", "setp.lt.s32 %p0, $s0, 0"]
    {
        let holds = move |x: u64| match &condition[5..7] {
            "ne" => x != 0,
            "eq" => x == 0,
            _ => x >> 31 == 1,
        };
        for mask in [ALL, EVEN] {
            for mode in ["all", "any", "uni", "ballot"] {
                let kind = if mode == "ballot" { "b32" } else { "pred" };
                let form = format!("vote.sync.{mode}.{kind}");
                let vote = warp_row(form.clone(), B64, &[B32], move |lane, x| {
                    if mask >> lane & 1 == 0 {
                        return 77;
                    }
                    let set = lanes(mask).filter(|&l| holds(x[l][0])).fold(0u64, |s, l| s | 1 << l);
                    match mode {
                        "ballot" => set,
                        "all" => u64::from(set == u64::from(mask)),
                        "any" => u64::from(set != 0),
                        _ => u64::from(set == 0 || set == u64::from(mask)),
                    }
                });
                let text = if mode == "ballot" {
                    format!("{condition}; {form} %word0, %p0, {mask}; cvt.u64.u32 $d, %word0;")
                } else {
                    format!("{condition}; {form} %p1, %p0, {mask}; selp.u64 $d, 1, 0, %p1;")
                };
                rows.push(vote.body(under(mask, &text)));
            }
        }
    }
    rows
}

fn matches() -> Vec<Row> {
    let mut rows = Vec::new();
    for b in [32u32, 64] {
        for mask in [ALL, EVEN] {
            for few in [false, true] {
                let k = Kind::Int(b);
                // Few distinct values, or one in most runs.
                let keep = if few { 1u64 } else { 0x8000_0003 };
                let narrow = format!("and.b{b} %x, $s0, {keep};");
                let same = move |lane: usize, x: &[Vec<u64>]| {
                    let v = |l: usize| x[l][0] & keep;
                    lanes(mask).filter(|&l| v(l) == v(lane)).fold(0u64, |s, l| s | 1 << l)
                };
                let any = format!("match.any.sync.b{b}");
                rows.push(
                    warp_row(any.clone(), B64, &[k], move |lane, x| {
                        if mask >> lane & 1 == 0 { 77 } else { same(lane, x) }
                    })
                    .body(format!(
                        ".reg .b{b} %x; {}",
                        under(
                            mask,
                            &format!("{narrow} {any} %word0, %x, {mask}; cvt.u64.u32 $d, %word0;")
                        )
                    )),
                );
                let all = format!("match.all.sync.b{b}");
                rows.push(
                    warp_row(all.clone(), B64, &[k], move |lane, x| {
                        if mask >> lane & 1 == 0 {
                            return 77;
                        }
                        let every = same(lane, x) == u64::from(mask);
                        if every { u64::from(mask) | 1 << 32 } else { 0 }
                    })
                    .body(format!(
                        ".reg .b{b} %x; {}",
                        under(
                            mask,
                            &format!(
                                "{narrow} {all} %word0|%p0, %x, {mask}; \
                                 selp.u32 %word1, 1, 0, %p0; mov.b64 $d, {{%word0, %word1}};"
                            )
                        )
                    )),
                );
            }
        }
    }
    rows
}

fn reductions() -> Vec<Row> {
    let mut rows = Vec::new();
    for mask in [ALL, EVEN] {
        type Op = fn(u64, u64) -> u64;
        let ops: [(&str, Op); 9] = [
            ("add.u32", |a, b| (a + b) & 0xffff_ffff),
            ("add.s32", |a, b| (a + b) & 0xffff_ffff),
            ("min.u32", |a, b| a.min(b)),
            ("max.u32", |a, b| a.max(b)),
            ("min.s32", |a, b| if signed(a, 32) < signed(b, 32) { a } else { b }),
            ("max.s32", |a, b| if signed(a, 32) > signed(b, 32) { a } else { b }),
            ("and.b32", |a, b| a & b),
            ("or.b32", |a, b| a | b),
            ("xor.b32", |a, b| a ^ b),
        ];
        for (op, f) in ops {
            let form = format!("redux.sync.{op}");
            let reduced = warp_row(form.clone(), B64, &[B32], move |lane, x| {
                if mask >> lane & 1 == 0 {
                    return 77;
                }
                lanes(mask).map(|l| x[l][0]).reduce(f).expect("lanes")
            });
            rows.push(reduced.body(under(
                mask,
                &format!("{form} %word0, $s0, {mask}; cvt.u64.u32 $d, %word0;"),
            )));
        }
    }
    for (op, max) in [("min", false), ("max", true)] {
        for (abs, a) in [(false, ""), (true, ".abs")] {
            for (nan, n) in [(false, ""), (true, ".NaN")] {
                let form = format!("redux.sync.{op}{a}{n}.f32");
                let reduced = warp_row(form.clone(), B32, &[F32], move |_, x| {
                    let f = exact::F32;
                    let start = x[0][0];
                    (0..32).fold(
                        crate::float::extreme(f, start, start, max, nan, abs, false),
                        |m, l| crate::float::extreme(f, m, x[l][0], max, nan, abs, false),
                    )
                });
                rows.push(reduced.target("sm_100a").body(format!("{form} $d, $s0, -1;")));
            }
        }
    }
    rows
}

fn others() -> Vec<Row> {
    let mut rows = Vec::new();
    for mask in [ALL, EVEN] {
        rows.push(
            warp_row("activemask.b32", B64, &[B32], move |lane, _| {
                if mask >> lane & 1 == 0 { 77u64 } else { u64::from(mask) }
            })
            .body(under(mask, "activemask.b32 %word0; cvt.u64.u32 $d, %word0;")),
        );
        // One lane is elected, and all learn which; that it is the first is our choice.
        rows.push(
            warp_row("elect.sync", B64, &[B32], move |lane, _| {
                let leader = u64::from(mask.trailing_zeros());
                match () {
                    _ if mask >> lane & 1 == 0 => 77,
                    _ => leader | u64::from(lane as u64 == leader) << 32,
                }
            })
            .body(under(
                mask,
                &format!(
                    "elect.sync %word0|%p0, {mask}; selp.u32 %word1, 1, 0, %p0; \
                     mov.b64 $d, {{%word0, %word1}};"
                ),
            )),
        );
        // Behind it, lanes see what others stored.
        rows.push(
            warp_row("bar.warp.sync", B64, &[B32], move |lane, x| {
                if mask >> lane & 1 == 0 { 77 } else { x[lane ^ 2][0] }
            })
            .body(format!(
                ".shared .b32 s[32]; .reg .b64 %at, %other; {}",
                under(
                    mask,
                    &format!(
                        "mov.u64 %at, s; mad.wide.u32 %at, %tid, 4, %at; xor.b64 %other, %at, 8; \
                         st.shared.b32 [%at], $s0; bar.warp.sync {mask}; \
                         ld.shared.b32 %word0, [%other]; cvt.u64.u32 $d, %word0;"
                    )
                )
            )),
        );
    }
    rows
}

pub fn rows() -> Vec<Row> {
    let mut rows = shuffles();
    rows.extend(votes());
    rows.extend(matches());
    rows.extend(reductions());
    rows.extend(others());
    rows
}

#[test]
fn shuffles_stay_in_their_segments() {
    check_all(&shuffles());
}

#[test]
fn votes_and_matches_count_the_lanes_that_take_part() {
    check_all(&votes());
    check_all(&matches());
}

#[test]
fn reductions_give_every_lane_the_whole() {
    check_all(&reductions());
}

#[test]
fn lanes_elect_one_and_synchronise() {
    check_all(&others());
}
