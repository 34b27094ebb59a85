//! What the threads of a block do together, and what runs beside them: barriers, mbarriers,
//! asynchronous and bulk copies, tensor maps; special registers, calls, branches.

mod support;

use ptx_vm::{Arg, Dim, Error, LaunchConfig, Machine, Module, Swizzle, TensorMap};
use support::*;

const THREADS: u32 = 128;

/// A kernel around some statements: `%r0` is the thread, `%d0` and `%d1` the output (a word
/// each) and the input; `$d`-free, so that bodies read as PTX.
fn kernel(body: &str) -> Module {
    let text = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 o, .param .u64 i, .param .align 64 .b8 map[128])\n{{\n\
         .reg .b32 %r<24>; .reg .b64 %d<16>; .reg .pred %p<8>; .reg .b16 %h<4>;\n\
         .shared .align 1024 .b8 s[32768]; .shared .align 8 .b64 bar[2];\n\
         ld.param.u64 %d0, [o]; ld.param.u64 %d1, [i]; mov.u32 %r0, %tid.x;\n\
         mad.wide.u32 %d0, %r0, 4, %d0; mov.u64 %d2, s; mov.u64 %d3, bar;\n\
         mov.u32 %r23, 0;\n{body}\nst.global.u32 [%d0], %r23;\nret;\n}}\n"
    );
    Module::from_ptx(&text).unwrap_or_else(|e| panic!("{e}"))
}

fn run_with(
    body: &str,
    threads: u32,
    input: &[u8],
    map: impl Into<Arg>,
) -> Result<Vec<u32>, Error> {
    let mut m = Machine::new();
    let (out, data) = (m.upload(&vec![0; 4 * threads as usize])?, m.upload(input)?);
    let args = [out.into(), data.into(), map.into()];
    m.launch(&kernel(body), "k", &LaunchConfig::new(1, threads), &args)?;
    Ok(read_u32(&m, out, threads as usize))
}

fn run(body: &str, threads: u32, input: &[u8]) -> Vec<u32> {
    run_with(body, threads, input, Arg::bytes(&[0; 128])).unwrap_or_else(|e| panic!("{e}"))
}

fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut r = Random::new(seed);
    (0..n).map(|_| (r.bits() >> 32) as u8).collect()
}

#[test]
fn barriers_reduce_over_all_threads() {
    for (condition, holds) in [
        ("setp.lt.u32 %p0, %r0, 100", (|t| t < 100) as fn(u32) -> bool),
        ("setp.lt.u32 %p0, %r0, 1000", |_| true),
        ("setp.gt.u32 %p0, %r0, 1000", |_| false),
    ] {
        for (op, count) in [("bar.red", ""), ("barrier.cta.red", ""), ("bar.red", ", 128")] {
            let aligned = if op == "bar.red" { "" } else { ".aligned" };
            let body = format!(
                "{condition};\n{op}.popc{aligned}.u32 %r1, 2{count}, %p0;\n\
                 {op}.and{aligned}.pred %p1, 3{count}, %p0;\n\
                 {op}.or{aligned}.pred %p2, 4{count}, !%p0;\n\
                 selp.u32 %r2, 1000, 0, %p1; selp.u32 %r3, 2000, 0, %p2;\n\
                 add.u32 %r23, %r1, %r2; add.u32 %r23, %r23, %r3;"
            );
            let n = (0..THREADS).filter(|t| holds(*t)).count() as u32;
            let want = n + 1000 * u32::from(n == THREADS) + 2000 * u32::from(n < THREADS);
            assert_eq!(run(&body, THREADS, &[0]), vec![want; THREADS as usize], "{body}");
        }
    }
}

#[test]
fn producers_arrive_and_consumers_wait_at_numbered_barriers() {
    // Two warps fill, arrive and go on; the other two wait for them, twice.
    let body = "mad.wide.u32 %d4, %r0, 4, %d2;\nsetp.lt.u32 %p0, %r0, 64;\n@!%p0 bra consumer;\n\
                st.shared.u32 [%d4], %r0; bar.arrive 1, 128;\n\
                bar.sync 2, 128;\nadd.u32 %r1, %r0, 1000; st.shared.u32 [%d4], %r1; bar.arrive 1, 128;\n\
                bra done;\nconsumer:\nbar.sync 1, 128; ld.shared.u32 %r2, [%d4-256];\n\
                bar.arrive 2, 128;\nbar.sync 1, 128; ld.shared.u32 %r3, [%d4-256];\n\
                mad.lo.u32 %r23, %r3, 4096, %r2;\ndone:";
    let got = run(body, THREADS, &[0]);
    for (t, got) in got.into_iter().enumerate() {
        let from = t as u32 % 64;
        assert_eq!(got, if t < 64 { 0 } else { (from + 1000) * 4096 + from }, "{t}");
    }
}

#[test]
fn a_cluster_of_one_waits_for_its_block() {
    let body = "mad.wide.u32 %d4, %r0, 4, %d2; st.shared.u32 [%d4], %r0;\n\
                barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
                xor.b32 %r1, %r0, 64; mad.wide.u32 %d4, %r1, 4, %d2; ld.shared.u32 %r23, [%d4];";
    let want: Vec<u32> = (0..THREADS).map(|t| t ^ 64).collect();
    assert_eq!(run(body, THREADS, &[0]), want);
}

#[test]
fn mbarriers_count_arrivals_and_keep_their_phase() {
    // 64 arrivals, half of them two at once from one thread in two; the state names the
    // phase, and the parity form agrees.
    let body = "setp.eq.u32 %p0, %r0, 0; @%p0 mbarrier.init.shared.b64 [%d3], 96;\nbar.sync 0;\n\
                mad.wide.u32 %d4, %r0, 4, %d2; st.shared.u32 [%d4], %r0;\n\
                and.b32 %r1, %r0, 1; add.u32 %r1, %r1, 1;\n\
                mbarrier.arrive.shared.b64 %d5, [%d3], %r1;\n\
                again: mbarrier.test_wait.shared.b64 %p1, [%d3], %d5; @!%p1 bra again;\n\
                mbarrier.try_wait.parity.shared.b64 %p2, [%d3], 0;\n\
                mbarrier.try_wait.parity.shared.b64 %p3, [%d3], 1;\n\
                selp.u32 %r2, 1000, 0, %p2; selp.u32 %r3, 2000, 0, %p3;\n\
                xor.b32 %r4, %r0, 33; mad.wide.u32 %d4, %r4, 4, %d2; ld.shared.u32 %r23, [%d4];\n\
                add.u32 %r23, %r23, %r2; add.u32 %r23, %r23, %r3;";
    let want: Vec<u32> = (0..64).map(|t| (t ^ 33) + 1000).collect();
    assert_eq!(run(body, 64, &[0]), want);
    // The state tells how many arrivals were pending before.
    let body = "setp.eq.u32 %p0, %r0, 0; @%p0 mbarrier.init.shared.b64 [%d3], 40;\nbar.sync 0;\n\
                mbarrier.arrive.shared.b64 %d5, [%d3];\nmbarrier.pending_count.b64 %r23, %d5;";
    let want: Vec<u32> = (0..32).map(|t| 40 - t).collect();
    assert_eq!(run(body, 32, &[0]), want);
    // Dropped participants are not waited for in the next phase.
    let body = "setp.eq.u32 %p0, %r0, 0; @%p0 mbarrier.init.shared.b64 [%d3], 32;\nbar.sync 0;\n\
                setp.lt.u32 %p1, %r0, 16;\n\
                @%p1 mbarrier.arrive.shared.b64 %d5, [%d3];\n\
                @!%p1 mbarrier.arrive_drop.shared.b64 %d5, [%d3];\n\
                a: mbarrier.test_wait.shared.b64 %p2, [%d3], %d5; @!%p2 bra a;\n\
                bar.warp.sync -1;\n@!%p1 bra done;\nmbarrier.arrive.shared.b64 %d5, [%d3];\n\
                b: mbarrier.test_wait.shared.b64 %p2, [%d3], %d5; @!%p2 bra b;\n\
                mov.u32 %r23, 1;\ndone:";
    let want: Vec<u32> = (0..32).map(|t| u32::from(t < 16)).collect();
    assert_eq!(run(body, 32, &[0]), want);
    // An arrival that must not end the phase does not, and is reported if it does.
    let body = |n: u32| {
        format!(
            "mbarrier.init.shared.b64 [%d3], {n};\n\
             mbarrier.arrive.noComplete.shared.b64 %d5, [%d3], 1; mov.u32 %r23, 5;"
        )
    };
    assert_eq!(run(&body(2), 1, &[0]), [5]);
    assert!(run_with(&body(1), 1, &[0], Arg::bytes(&[0; 128])).is_err());
}

#[test]
fn asynchronous_copies_fill_what_the_source_lacks_with_zeros() {
    for bytes in [4u32, 8, 16] {
        for form in ["", ", %r2", ", %p1"] {
            let body = format!(
                "mad.wide.u32 %d4, %r0, 16, %d2; mad.wide.u32 %d5, %r0, 16, %d1;\n\
                 add.u32 %r1, {bytes}, 1; rem.u32 %r2, %r0, %r1; setp.gt.u32 %p1, %r0, 20;\n\
                 cp.async.ca.shared.global [%d4], [%d5], {bytes}{form};\n\
                 cp.async.commit_group; cp.async.wait_group 0;\n\
                 mov.u32 %r5, 0;\nl: cvt.u64.u32 %d6, %r5; add.u64 %d6, %d4, %d6;\n\
                 ld.shared.u8 %r6, [%d6]; mad.lo.u32 %r23, %r23, 31, %r6;\n\
                 add.u32 %r5, %r5, 1; setp.lt.u32 %p2, %r5, {bytes}; @%p2 bra l;"
            );
            let data = noise(u64::from(bytes), 512);
            for (t, got) in run(&body, 32, &data).into_iter().enumerate() {
                let given = match form {
                    "" => bytes as usize,
                    ", %r2" => t % (bytes as usize + 1),
                    _ => {
                        if t > 20 {
                            0
                        } else {
                            bytes as usize
                        }
                    }
                };
                let want = (0..bytes as usize).fold(0u32, |sum, i| {
                    let b = if i < given { data[16 * t + i] } else { 0 };
                    sum.wrapping_mul(31).wrapping_add(u32::from(b))
                });
                assert_eq!(got, want, "{bytes} bytes, `{form}`, thread {t}");
            }
        }
    }
}

#[test]
fn copies_are_waited_for_group_by_group_or_through_an_mbarrier() {
    // Three groups: after `wait_group 1` the first two are there.
    let copy = |i: u32| {
        format!(
            "cp.async.cg.shared.global.L2::128B [%d4+{0}], [%d5+{0}], 16; cp.async.commit_group;\n",
            512 * i
        )
    };
    let start = "mad.wide.u32 %d4, %r0, 16, %d2; mad.wide.u32 %d5, %r0, 16, %d1;\n";
    let groups = copy(0) + &copy(1) + &copy(2);
    let sum = "ld.shared.u32 %r1, [%d4]; ld.shared.u32 %r2, [%d4+512]; add.u32 %r23, %r1, %r2;\n";
    let data = noise(3, 1536);
    let word = |at: usize| u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
    let body = format!("{start}{groups}cp.async.wait_group 1;\n{sum}cp.async.wait_all;");
    let want: Vec<u32> = (0..32).map(|t| word(16 * t).wrapping_add(word(16 * t + 512))).collect();
    assert_eq!(run(&body, 32, &data), want);
    // The mbarrier counts one arrival more for every thread's copies.
    let body = format!(
        "setp.eq.u32 %p0, %r0, 0; @%p0 mbarrier.init.shared.b64 [%d3], 32;\nbar.sync 0;\n{start}\
         cp.async.ca.shared.global [%d4], [%d5], 16; cp.async.ca.shared.global [%d4+512], [%d5+512], 16;\n\
         cp.async.mbarrier.arrive.noinc.shared.b64 [%d3];\n\
         w: mbarrier.try_wait.parity.shared.b64 %p1, [%d3], 0; @!%p1 bra w;\n\
         xor.b32 %r4, %r0, 7; mad.wide.u32 %d4, %r4, 16, %d2;\n{sum}"
    );
    let want: Vec<u32> =
        (0..32).map(|t: usize| word(16 * (t ^ 7)).wrapping_add(word(16 * (t ^ 7) + 512))).collect();
    assert_eq!(run(&body, 32, &data), want);
}

#[test]
fn bulk_copies_go_both_ways() {
    // 512 bytes in, doubled by the threads, 512 bytes out over the input.
    let text = "setp.eq.u32 %p0, %r0, 0; @!%p0 bra ready;\n\
                mbarrier.init.shared.b64 [%d3], 1;\n\
                mbarrier.arrive.expect_tx.shared.b64 %d5, [%d3], 512;\n\
                cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%d2], [%d1], 256, [%d3];\n\
                cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%d2+256], [%d1+256], 256, [%d3];\n\
                ready: bar.sync 0;\n\
                w: mbarrier.try_wait.parity.shared.b64 %p1, [%d3], 0; @!%p1 bra w;\n\
                mad.wide.u32 %d4, %r0, 4, %d2; ld.shared.u32 %r1, [%d4]; shl.b32 %r23, %r1, 1;\n\
                st.shared.u32 [%d4], %r23; fence.proxy.async.shared::cta; bar.sync 0;\n\
                @!%p0 bra done;\n\
                cp.async.bulk.global.shared::cta.bulk_group [%d1], [%d2], 512;\n\
                cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;\ndone:";
    let data = noise(9, 512);
    let mut m = Machine::new();
    let (out, input) = (m.upload(&[0; 512]).expect("memory"), m.upload(&data).expect("memory"));
    let args = [out.into(), input.into(), Arg::bytes(&[0; 128])];
    m.launch(&kernel(text), "k", &LaunchConfig::new(1, THREADS), &args).expect("runs");
    let want: Vec<u32> = data
        .chunks(4)
        .map(|c| u32::from_le_bytes(c.try_into().expect("four")).wrapping_mul(2))
        .collect();
    assert_eq!(read_u32(&m, input, 128), want);
}

/// Where a byte of a box lies: its row, and the 16-byte piece in it moved as the swizzle's
/// table says; rows of the narrower swizzles share a line of 128 bytes.
fn swizzled(swizzle: Swizzle, row_bytes: usize, byte: usize) -> usize {
    let (row, at) = (byte / row_bytes, byte % row_bytes);
    let (piece, rest) = (at / 16, at % 16);
    let moved = match swizzle {
        Swizzle::None => piece,
        Swizzle::B32 => piece ^ (row / 4 % 2),
        Swizzle::B64 => piece ^ (row / 2 % 4),
        Swizzle::B128 => piece ^ (row % 8),
    };
    row * row_bytes + moved * 16 + rest
}

/// A tensor's box by its definition, zero outside.
fn gathered(data: &[u8], element: usize, sizes: &[usize], boxes: &[usize], at: &[i32]) -> Vec<u8> {
    let total: usize = boxes.iter().product();
    let mut out = Vec::new();
    for i in 0..total {
        let (mut rest, mut offset, mut stride, mut inside) = (i, 0usize, 1usize, true);
        for d in 0..sizes.len() {
            let c = at[d] as i64 + (rest % boxes[d]) as i64;
            rest /= boxes[d];
            inside &= c >= 0 && c < sizes[d] as i64;
            offset = offset.wrapping_add((c as usize).wrapping_mul(stride));
            stride *= sizes[d];
        }
        for b in 0..element {
            out.push(if inside { data[offset * element + b] } else { 0 });
        }
    }
    out
}

#[test]
fn tensor_copies_place_every_byte_where_the_swizzle_says() {
    let mut random = Random::new(77);
    for (swizzle, row) in
        [(Swizzle::None, 64), (Swizzle::B32, 32), (Swizzle::B64, 64), (Swizzle::B128, 128)]
    {
        for element in [1usize, 2, 4] {
            for dims in 1..=5usize {
                let inner = row / element;
                let sizes = &[inner + 16, 11, 5, 4, 3][..dims];
                let boxes = &[inner, 8, 3, 2, 2][..dims];
                // Inside, over the upper edges, and before the lower ones.
                for corner in 0..3 {
                    let at: Vec<i32> = (0..dims)
                        .map(|d| match corner {
                            0 => (random.bits() % 3) as i32,
                            1 => sizes[d] as i32 - boxes[d] as i32 + 1 + (random.bits() % 2) as i32,
                            _ => -1 - (random.bits() % 2) as i32,
                        })
                        .collect();
                    check_tensor(swizzle, row, element, sizes, boxes, &at);
                }
            }
        }
    }
}

fn check_tensor(
    swizzle: Swizzle,
    row: usize,
    element: usize,
    sizes: &[usize],
    boxes: &[usize],
    at: &[i32],
) {
    let dims = sizes.len();
    let bytes = boxes.iter().product::<usize>() * element;
    let data = noise(bytes as u64, sizes.iter().product::<usize>() * element);
    let coordinates: Vec<String> = at.iter().map(i32::to_string).collect();
    let coordinates = coordinates.join(", ");
    // In, raw bytes to the output, and out again to a second tensor behind the first.
    let body = format!(
        "setp.eq.u32 %p0, %r0, 0; @!%p0 bra ready;\nmov.u64 %d6, map; cvta.param.u64 %d6, %d6;\n\
         mbarrier.init.shared.b64 [%d3], 1; mbarrier.arrive.expect_tx.shared.b64 %d5, [%d3], {bytes};\n\
         cp.async.bulk.tensor.{dims}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
         [%d2], [%d6, {{{coordinates}}}], [%d3];\n\
         ready: bar.sync 0;\nw: mbarrier.try_wait.parity.shared.b64 %p1, [%d3], 0; @!%p1 bra w;\n\
         mov.u32 %r1, %r0; ld.param.u64 %d7, [o];\n\
         l: setp.ge.u32 %p2, %r1, {bytes}; @%p2 bra out;\n\
         cvt.u64.u32 %d8, %r1; add.u64 %d9, %d2, %d8; add.u64 %d10, %d7, %d8;\n\
         ld.shared.u8 %r2, [%d9]; st.global.u8 [%d10], %r2; add.u32 %r1, %r1, 32; bra l;\n\
         out: bar.sync 0; @!%p0 bra done;\nst.global.u32 [%d7+32764], 0;\n\
         cp.async.bulk.tensor.{dims}d.global.shared::cta.tile.bulk_group [%d6, {{{coordinates}}}], [%d2];\n\
         cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;\ndone: ret;"
    );
    let mut m = Machine::new();
    let (out, input) =
        (m.upload(&[0xee; 32768]).expect("memory"), m.upload(&data).expect("memory"));
    let as_u64: Vec<u64> = sizes.iter().map(|s| *s as u64).collect();
    let mut strides = Vec::new();
    let mut stride = element as u64;
    for s in &as_u64[..dims - 1] {
        stride *= s;
        strides.push(stride);
    }
    let boxes32: Vec<u32> = boxes.iter().map(|b| *b as u32).collect();
    let map =
        TensorMap::tiled(input.address(), element as u32, &as_u64, &strides, &boxes32, swizzle);
    let Ok(map) = map else {
        // Strides that are no multiples of 16 cannot be mapped.
        assert!(strides.iter().any(|s| s % 16 != 0), "{map:?}");
        return;
    };
    let args = [out.into(), input.into(), (&map).into()];
    let name = format!("{swizzle:?}, {element} bytes, {dims} dimensions, at {at:?}");
    m.launch(&kernel(&body), "k", &LaunchConfig::new(1, 32), &args)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let want = gathered(&data, element, sizes, boxes, at);
    let mut got = vec![0; bytes];
    m.read(out, &mut got).expect("written");
    for (i, b) in want.iter().enumerate() {
        assert_eq!(got[swizzled(swizzle, row, i)], *b, "{name}, byte {i}");
    }
    // Storing the same box changes nothing, outside the tensor included.
    let mut back = vec![0; data.len()];
    m.read(input, &mut back).expect("all there");
    assert_eq!(back, data, "{name}");
}

#[test]
fn special_registers_say_where_a_thread_is() {
    let names = [
        "%tid.x",
        "%tid.y",
        "%tid.z",
        "%ntid.x",
        "%ntid.y",
        "%ntid.z",
        "%ctaid.x",
        "%ctaid.y",
        "%ctaid.z",
        "%nctaid.x",
        "%nctaid.y",
        "%nctaid.z",
        "%laneid",
        "%warpid",
        "%nwarpid",
        "%lanemask_eq",
        "%lanemask_le",
        "%lanemask_lt",
        "%lanemask_ge",
        "%lanemask_gt",
        "%cluster_ctarank",
        "%cluster_nctarank",
        "%clusterid.y",
        "%dynamic_smem_size",
    ];
    let reads: String = names
        .iter()
        .enumerate()
        .map(|(i, n)| format!("mov.u32 %r1, {n}; st.global.u32 [%d1+{}], %r1;\n", 4 * i))
        .collect();
    let text = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.extern .shared .b8 dynamic[];\n\
         .visible .entry k(.param .u64 o)\n{{ .reg .b32 %r<8>; .reg .b64 %d<4>;\n\
         mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ctaid.y; mad.lo.u32 %r2, %r3, 3, %r2;\n\
         mov.u32 %r3, %tid.x; mov.u32 %r4, %tid.y; mov.u32 %r5, %tid.z;\n\
         mad.lo.u32 %r4, %r5, 5, %r4; mad.lo.u32 %r3, %r4, 7, %r3; mad.lo.u32 %r2, %r2, 70, %r3;\n\
         ld.param.u64 %d1, [o]; mad.wide.u32 %d1, %r2, {}, %d1;\n{reads}ret; }}",
        4 * names.len()
    );
    let module = Module::from_ptx(&text).expect("legal");
    let mut m = Machine::new();
    let count = 6 * 70 * names.len();
    let out = m.upload(&vec![0; 4 * count]).expect("memory");
    let (grid, block): (Dim, Dim) = ((3, 2).into(), (7, 5, 2).into());
    let config = LaunchConfig::new(grid, block).dynamic_shared(48);
    m.launch(&module, "k", &config, &[out.into()]).expect("runs");
    for (i, got) in read_u32(&m, out, count).chunks(names.len()).enumerate() {
        let (b, t) = (i as u32 / 70, i as u32 % 70);
        let lane = t % 32;
        let below = (1u32 << lane) - 1;
        let own = 1 << lane;
        let want = [
            t % 7,
            t / 7 % 5,
            t / 35,
            7,
            5,
            2,
            b % 3,
            b / 3,
            0,
            3,
            2,
            1,
            lane,
            t / 32,
            3,
            own,
            below | own,
            below,
            !below,
            !(below | own),
            0,
            1,
            b / 3,
            48,
        ];
        assert_eq!(got, want, "block {b}, thread {t}");
    }
}

#[test]
fn clocks_go_on() {
    let body = "mov.u32 %r1, %clock; mov.u64 %d4, %clock64; mov.u64 %d5, %globaltimer;\n\
                nanosleep.u32 100; membar.gl; fence.acq_rel.gpu; fence.sc.cta;\n\
                mov.u32 %r2, %clock; mov.u64 %d6, %clock64; mov.u64 %d7, %globaltimer;\n\
                setp.gt.u32 %p0, %r2, %r1; setp.gt.and.u64 %p1, %d6, %d4, %p0;\n\
                setp.ge.and.u64 %p2, %d7, %d5, %p1; selp.u32 %r23, 1, 0, %p2;";
    assert_eq!(run(body, 32, &[0]), [1; 32]);
}

#[test]
fn calls_pass_structures_recurse_and_return_early() {
    // Ackermann's function for small arguments, and a function with a 16-byte structure.
    let text = ".version 9.0\n.target sm_90a\n.address_size 64\n\
        .func (.param .b32 back) ack(.param .b32 m, .param .b32 n)\n\
        { .reg .b32 %r<8>; .reg .pred %p<3>; ld.param.b32 %r1, [m]; ld.param.b32 %r2, [n];\n\
          add.u32 %r3, %r2, 1; setp.eq.u32 %p1, %r1, 0; st.param.b32 [back], %r3; @%p1 ret;\n\
          sub.u32 %r4, %r1, 1; mov.u32 %r5, 1; setp.eq.u32 %p2, %r2, 0; @%p2 bra last;\n\
          sub.u32 %r6, %r2, 1;\n\
          { .param .b32 a; .param .b32 b; .param .b32 c; st.param.b32 [a], %r1; st.param.b32 [b], %r6;\n\
            call.uni (c), ack, (a, b); ld.param.b32 %r5, [c]; }\n\
          last: { .param .b32 a; .param .b32 b; .param .b32 c; st.param.b32 [a], %r4; st.param.b32 [b], %r5;\n\
            call.uni (c), ack, (a, b); ld.param.b32 %r5, [c]; }\n\
          st.param.b32 [back], %r5; ret; }\n\
        .func (.param .align 16 .b8 back[16]) swap(.param .align 16 .b8 pair[16])\n\
        { .reg .b64 %d<4>; ld.param.v2.b64 {%d1, %d2}, [pair]; st.param.b64 [back], %d2;\n\
          st.param.b64 [back+8], %d1; ret; }\n\
        .visible .entry k(.param .u64 o)\n\
        { .reg .b32 %r<8>; .reg .b64 %d<8>; mov.u32 %r0, %tid.x; ld.param.u64 %d0, [o];\n\
          mad.wide.u32 %d0, %r0, 8, %d0; and.b32 %r1, %r0, 1; shr.u32 %r2, %r0, 2; add.u32 %r1, %r1, 1;\n\
          { .param .b32 a; .param .b32 b; .param .b32 c; st.param.b32 [a], %r1; st.param.b32 [b], %r2;\n\
            call.uni (c), ack, (a, b); ld.param.b32 %r3, [c]; }\n\
          cvt.u64.u32 %d1, %r3; cvt.u64.u32 %d2, %r0;\n\
          { .param .align 16 .b8 a[16]; .param .align 16 .b8 b[16]; st.param.v2.b64 [a], {%d1, %d2};\n\
            call.uni (b), swap, (a); ld.param.b64 %d3, [b]; ld.param.b64 %d4, [b+8]; }\n\
          shl.b64 %d3, %d3, 32; or.b64 %d3, %d3, %d4; st.global.u64 [%d0], %d3; ret; }";
    fn ack(m: u64, n: u64) -> u64 {
        match (m, n) {
            (0, n) => n + 1,
            (m, 0) => ack(m - 1, 1),
            (m, n) => ack(m - 1, ack(m, n - 1)),
        }
    }
    let module = Module::from_ptx(text).unwrap_or_else(|e| panic!("{e}"));
    let mut m = Machine::new();
    let out = m.alloc(256).expect("memory");
    m.launch(&module, "k", &LaunchConfig::new(1, 32), &[out.into()])
        .unwrap_or_else(|e| panic!("{e}"));
    for (t, got) in read_u64(&m, out, 32).into_iter().enumerate() {
        let t = t as u64;
        assert_eq!(got, t << 32 | ack(1 + (t & 1), t >> 2), "{t}");
    }
}

#[test]
fn branch_tables_send_lanes_their_own_ways() {
    let body = "and.b32 %r1, %r0, 3;\nt: .branchtargets a, b, c, a;\nbrx.idx %r1, t;\n\
                a: add.u32 %r23, %r23, 1; bra meet;\nb: add.u32 %r23, %r23, 10; bra c;\n\
                c: add.u32 %r23, %r23, 100;\nmeet: vote.sync.ballot.b32 %r2, 1, -1;\n\
                setp.eq.u32 %p0, %r2, -1; @%p0 add.u32 %r23, %r23, 1000;";
    let want: Vec<u32> = (0..32).map(|t| [1001, 1110, 1100, 1001][t % 4]).collect();
    assert_eq!(run(body, 32, &[0]), want);
    let outside = body.replace("and.b32 %r1, %r0, 3", "mov.b32 %r1, %r0");
    assert!(run_with(&outside, 32, &[0], Arg::bytes(&[0; 128])).is_err());
}

#[test]
fn atomics_of_all_threads_add_up() {
    // One counter in each kind of memory, from all threads of four blocks.
    let text = ".version 9.0\n.target sm_90a\n.address_size 64\n.global .u32 total;\n\
        .visible .entry k(.param .u64 o)\n\
        { .reg .b32 %r<8>; .reg .b64 %d<4>; .reg .f32 %f<2>; .reg .pred %p; .shared .u32 mine;\n\
          ld.param.u64 %d1, [o]; mov.u32 %r0, %tid.x; setp.eq.u32 %p, %r0, 0;\n\
          @%p st.shared.u32 [mine], 0; bar.sync 0;\n\
          atom.shared.add.u32 %r1, [mine], %r0; red.global.add.u32 [total], 1;\n\
          red.global.max.u32 [%d1], %r0; cvt.rn.f32.u32 %f1, %r0; red.global.add.f32 [%d1+4], %f1;\n\
          bar.sync 0; @%p ld.shared.u32 %r2, [mine]; @%p red.global.add.u32 [%d1+8], %r2; ret; }";
    let module = Module::from_ptx(text).expect("legal");
    let mut m = Machine::new();
    let out = upload_u32(&mut m, &[0; 3]);
    m.launch(&module, "k", &LaunchConfig::new(4, 96), &[out.into()]).expect("runs");
    let sum = 4 * (0..96).sum::<u32>();
    assert_eq!(read_u32(&m, out, 3), [95, (sum as f32).to_bits(), sum]);
    let total = m.symbol(&module, "total").expect("a variable");
    assert_eq!(read_u32(&m, total, 1), [4 * 96]);
}
