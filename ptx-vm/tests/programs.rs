//! Whole programs, compiled by NVRTC for several targets, against the host.

mod support;

use ptx_vm::{LaunchConfig, Machine};
use support::*;

const BASIC: &str = include_str!("kernels/basic.cu");
const TARGETS: [&str; 3] = ["compute_80", "compute_90a", "compute_121a"];

#[test]
fn a_reduction_adds_all_elements() {
    for arch in TARGETS {
        let Some(module) = compile(BASIC, arch) else { return };
        let mut r = Random::new(1);
        let x: Vec<f32> = (0..5000).map(|_| (r.unit() * 64.0).round()).collect();
        let mut m = Machine::new();
        let (out, input) = (upload_f32(&mut m, &[0.0]), upload_f32(&mut m, &x));
        let args = [out.into(), input.into(), 5000i32.into()];
        m.launch(&module, "reduce", &LaunchConfig::new(4, 256), &args).expect("runs clean");
        // Small integers: every order of additions is exact.
        assert_eq!(read_f32(&m, out, 1)[0], x.iter().sum::<f32>(), "{arch}");
    }
}

#[test]
fn a_transpose_moves_every_element() {
    for arch in TARGETS {
        let Some(module) = compile(BASIC, arch) else { return };
        let (rows, cols) = (70, 45);
        let x: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
        let mut m = Machine::new();
        let input = upload_f32(&mut m, &x);
        let out = m.alloc(4 * x.len() as u64).expect("memory");
        let config = LaunchConfig::new((2, 3), (32, 8));
        let args = [out.into(), input.into(), (rows as i32).into(), (cols as i32).into()];
        m.launch(&module, "transpose", &config, &args).expect("runs clean");
        let got = read_f32(&m, out, x.len());
        for r in 0..rows {
            for c in 0..cols {
                assert_eq!(got[c * rows + r], x[r * cols + c], "{arch} {r} {c}");
            }
        }
    }
}

#[test]
fn a_scan_gives_prefix_sums() {
    for arch in TARGETS {
        let Some(module) = compile(BASIC, arch) else { return };
        let x: Vec<u32> = (0..500).map(|i| (i * 37 % 101) as u32).collect();
        let mut m = Machine::new();
        let (input, out) = (upload_u32(&mut m, &x), m.alloc(2000).expect("memory"));
        let args = [out.into(), input.into(), 500i32.into()];
        m.launch(&module, "scan", &LaunchConfig::new(1, 512), &args).expect("runs clean");
        let mut sum = 0;
        for (i, got) in read_u32(&m, out, 500).into_iter().enumerate() {
            sum += x[i];
            assert_eq!(got, sum, "{arch} {i}");
        }
    }
}

#[test]
fn a_softmax_agrees_with_the_host() {
    for arch in TARGETS {
        let Some(module) = compile(BASIC, arch) else { return };
        let (rows, n) = (3, 300);
        let mut r = Random::new(2);
        let x: Vec<f32> = (0..rows * n).map(|_| r.unit() * 8.0).collect();
        let mut m = Machine::new();
        let input = upload_f32(&mut m, &x);
        let out = m.alloc(4 * x.len() as u64).expect("memory");
        let args = [out.into(), input.into(), (n as i32).into()];
        m.launch(&module, "softmax", &LaunchConfig::new(rows as u32, 128), &args)
            .expect("runs clean");
        let got = read_f32(&m, out, x.len());
        for row in 0..rows {
            let x = &x[row * n..][..n];
            let max = x.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f64> = x.iter().map(|v| f64::from(v - max).exp()).collect();
            let s: f64 = e.iter().sum();
            for i in 0..n {
                let want = e[i] / s;
                let err = (f64::from(got[row * n + i]) - want).abs();
                // expf is within 2 ulp, the sum of 300 terms within 300, the division 1.
                assert!(err <= want * 310.0 * f64::from(f32::EPSILON), "{arch} {row} {i}");
            }
        }
    }
}

#[test]
fn a_histogram_counts_with_atomics_and_module_variables() {
    for arch in TARGETS {
        let Some(module) = compile(BASIC, arch) else { return };
        let x: Vec<u8> = (0..10_000).map(|i| (i * i % 251) as u8).collect();
        let mut m = Machine::new();
        let input = m.upload(&x).expect("memory");
        let out = upload_u32(&mut m, &[0; 256]);
        let args = [out.into(), input.into(), 10_000i32.into()];
        m.launch(&module, "histogram", &LaunchConfig::new(4, 256), &args).expect("runs clean");
        let mut want = vec![0u32; 256];
        x.iter().for_each(|b| want[usize::from(*b)] += 1);
        assert_eq!(read_u32(&m, out, 256), want, "{arch}");
        let counter = m.symbol(&module, "counter").expect("a variable");
        assert_eq!(read_u32(&m, counter, 1), [105], "{arch}");
    }
}

#[test]
fn lanes_leave_loops_and_return_from_calls_at_their_own_time() {
    for arch in TARGETS {
        let Some(module) = compile(BASIC, arch) else { return };
        let mut m = Machine::new();
        let out = m.alloc(4 * 96).expect("memory");
        m.launch(&module, "collatz", &LaunchConfig::new(2, 48), &[out.into()]).expect("clean");
        for (i, got) in read_u32(&m, out, 96).into_iter().enumerate() {
            let (mut x, mut n) = (i as u32 + 1, 0);
            while x != 1 {
                x = if x % 2 == 1 { 3 * x + 1 } else { x / 2 };
                n += 1;
            }
            assert_eq!(got, n, "{arch} {i}");
        }
        m.launch(&module, "fibonacci", &LaunchConfig::new(1, 32), &[out.into()]).expect("clean");
        let fib = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
        for (i, got) in read_u32(&m, out, 32).into_iter().enumerate() {
            assert_eq!(got, fib[i % 12], "{arch} {i}");
        }
    }
}

#[test]
fn a_spin_lock_inside_a_warp_makes_progress() {
    for arch in TARGETS {
        let Some(module) = compile(BASIC, arch) else { return };
        let mut m = Machine::new();
        let (out, lock) = (upload_u32(&mut m, &[0]), upload_u32(&mut m, &[0]));
        m.launch(&module, "spin", &LaunchConfig::new(2, 64), &[out.into(), lock.into()])
            .expect("runs clean");
        assert_eq!(read_u32(&m, out, 1), [128], "{arch}");
    }
}

#[test]
fn local_arrays_and_jump_tables_work() {
    for arch in TARGETS {
        let Some(module) = compile(BASIC, arch) else { return };
        let mut m = Machine::new();
        let out = m.alloc(4 * 64).expect("memory");
        m.launch(&module, "local_array", &LaunchConfig::new(1, 64), &[out.into(), 3i32.into()])
            .expect("runs clean");
        for (t, got) in read_u32(&m, out, 64).into_iter().enumerate() {
            let want: u32 = (0..16u32)
                .map(|i| {
                    let j = (i * 7 + t as u32) % 16;
                    (j * j + 3) * i
                })
                .sum();
            assert_eq!(got, want, "{arch} {t}");
        }
        let v: Vec<u32> = (0..64).map(|i| i % 11).collect();
        let input = upload_u32(&mut m, &v);
        m.launch(&module, "cases", &LaunchConfig::new(1, 64), &[out.into(), input.into()])
            .expect("runs clean");
        for (t, got) in read_u32(&m, out, 64).into_iter().enumerate() {
            let v = v[t] as i32;
            let want = match v {
                0 => v * 3 + 1,
                1 => v - 77,
                2 => v ^ 0x55,
                3 => v << 5,
                4 => -v,
                5 => v * v,
                6 => v | 0x1000,
                7 => v + 99,
                _ => -1,
            };
            assert_eq!(got as i32, want, "{arch} {t}");
        }
    }
}
