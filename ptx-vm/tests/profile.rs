//! The profile of kernels whose counts are known by hand.

use ptx_vm::{LaunchConfig, Machine, Module, Profile};

/// Runs statements for some threads of one block, with `%r1` the thread and `%d1` memory.
fn profile(threads: u32, body: &str) -> Profile {
    let text = format!(
        ".version 9.0\n.target sm_121a\n.address_size 64\n\
         .visible .entry k(.param .u64 p)\n{{\n\
         .reg .b32 %r<20>; .reg .b64 %d<8>; .reg .f32 %f<8>; .reg .pred %p<2>;\n\
         .shared .align 16 .b8 s[8192];\n\
         ld.param.u64 %d1, [p];\nmov.u32 %r1, %tid.x;\nmov.u64 %d2, s;\n{body}\nret;\n}}\n"
    );
    let module = Module::from_ptx(&text).expect("legal");
    let mut m = Machine::new();
    let data = m.upload(&[0; 16384]).expect("memory");
    // What these kernels leave in registers does not matter.
    let config = LaunchConfig::new(1, threads).profile(true).checks(false);
    let report = m.launch(&module, "k", &config, &[data.into()]).expect("runs");
    report.profile.expect("asked for")
}

/// Passes and requests of a shared access of every lane at `stride` bytes.
fn shared(access: &str, stride: u32) -> (u64, u64) {
    let body = format!("mad.wide.u32 %d3, %r1, {stride}, %d2;\n{access}");
    let p = profile(32, &body);
    let sum = |f: fn(&ptx_vm::LineCount) -> u64| p.lines.values().map(f).sum();
    (sum(|l| l.shared_passes), sum(|l| l.shared_requests))
}

/// Sectors of a global access of every lane at `stride` bytes.
fn sectors(access: &str, stride: u32) -> f64 {
    profile(32, &format!("mad.wide.u32 %d3, %r1, {stride}, %d1;\n{access}")).sectors_per_request()
}

#[test]
fn bank_conflicts_are_counted_in_passes() {
    let load = "ld.shared.u32 %r2, [%d3];";
    assert_eq!(shared(load, 4), (1, 1));
    assert_eq!(shared(load, 0), (1, 1), "one word for all is read once");
    assert_eq!(shared(load, 8), (2, 1));
    assert_eq!(shared(load, 12), (1, 1), "odd strides have no conflicts");
    assert_eq!(shared(load, 128), (32, 1));
    assert_eq!(shared("ld.shared.u8 %r2, [%d3];", 1), (1, 1));
    assert_eq!(shared("st.shared.u32 [%d3], %r1;", 64), (16, 1));
    // Wide accesses go by half and quarter warps.
    assert_eq!(shared("ld.shared.v2.u32 {%r2, %r3}, [%d3];", 8), (2, 2));
    assert_eq!(shared("ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%d3];", 16), (4, 4));
    assert_eq!(shared("ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%d3];", 128), (32, 4));
    assert_eq!(shared("atom.shared.add.u32 %r2, [%d3], 1;", 8), (2, 1));
    // Eight rows of 16 bytes: side by side they fill the banks, at 128 bytes they collide.
    let rows = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r2, %r3, %r4, %r5}, [%d3];";
    assert_eq!(shared(rows, 16), (4, 4));
    assert_eq!(shared(rows, 128), (32, 4));
    let rows = "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%d3], {%r1, %r1};";
    assert_eq!(shared(rows, 128), (16, 2));
}

#[test]
fn global_accesses_are_counted_in_sectors() {
    let load = "ld.global.u32 %r2, [%d3];";
    assert_eq!(sectors(load, 4), 4.0);
    assert_eq!(sectors(load, 0), 1.0);
    assert_eq!(sectors(load, 8), 8.0);
    assert_eq!(sectors(load, 128), 32.0);
    assert_eq!(sectors("ld.global.u32 %r2, [%d3+4];", 4), 5.0, "one sector more at the end");
    assert_eq!(sectors("ld.global.u8 %r2, [%d3];", 1), 1.0);
    assert_eq!(sectors("st.global.v4.u32 [%d3], {%r1, %r1, %r1, %r1};", 16), 16.0);
    assert_eq!(sectors("red.global.add.u32 [%d3], 1;", 32), 32.0);
    let copy = "cp.async.ca.shared.global [%d2], [%d3], 16;";
    assert_eq!(sectors(copy, 16), 16.0);
}

#[test]
fn instructions_are_counted_by_warp_lane_and_name() {
    // Two warps, the second of 8 lanes; the guarded addition runs for 4 lanes of the first.
    let body = "mov.u32 %r2, 0;\nagain: add.u32 %r2, %r2, 1;\nsetp.lt.u32 %p1, %r2, 3;\n\
                @%p1 bra again;\nsetp.lt.u32 %p1, %r1, 4;\n@%p1 add.u32 %r2, %r2, 1;";
    let p = profile(40, body);
    let count = |name: &str| {
        let found = p.histogram().into_iter().find(|x| x.0 == name);
        found.map_or(0, |x| x.1)
    };
    // Three times in the loop and once behind it, by two warps.
    assert_eq!(count("add.u32"), 8);
    assert_eq!((count("setp.lt.u32"), count("bra"), count("ret")), (8, 6, 2));
    // Three moves and a parameter at the start of the kernel, one more here.
    assert_eq!((count("mov.u32"), count("mov.u64"), count("ld.param.u64")), (4, 2, 2));
    assert_eq!(p.instructions(), 8 + 8 + 6 + 2 + 4 + 2 + 2);
    let guarded = p.lines.values().last().copied();
    assert!(guarded.is_some());
    let lanes: Vec<u64> = p.lines.values().map(|l| l.lanes).collect();
    assert_eq!(lanes.iter().filter(|l| **l == 4).count(), 1, "{lanes:?}");
    assert_eq!(lanes.iter().filter(|l| **l == 120).count(), 2, "three times 40: {lanes:?}");
}

#[test]
fn matrix_multiplications_are_set_against_issue_slots() {
    let mma = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, \
               {%r2, %r3, %r4, %r5}, {%r6, %r7}, {%f0, %f1, %f2, %f3};\n";
    let p = profile(64, &mma.repeat(4));
    assert_eq!(p.mma, 8);
    // Four of the eight instructions of each warp.
    assert_eq!(p.mma_per_issue(), 0.5);
}

#[test]
fn a_profile_is_printed_to_be_read() {
    let body = "mad.wide.u32 %d3, %r1, 128, %d2;\nst.shared.u32 [%d3], %r1;\n\
                mad.wide.u32 %d3, %r1, 8, %d1;\nst.global.u32 [%d3], %r1;";
    let text = profile(32, body).to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "8 warp instructions, 32.0 lanes each",
            "2  25.0 %  mad.wide.u32",
            "1  12.5 %  ld.param.u64",
            "1  12.5 %  mov.u32",
            "1  12.5 %  mov.u64",
            "1  12.5 %  ret",
            "1  12.5 %  st.global.u32",
            "1  12.5 %  st.shared.u32",
            "matrix multiplications: 0, 0.000 per issue slot",
            "shared memory: 1 requests, 32.00 passes each (1 is best)",
            "32.00 passes at PTX line 12: st.shared.u32",
            "global memory: 1 requests, 8.00 sectors each",
            "8.00 sectors at PTX line 14: st.global.u32",
        ]
    );
}
