//! Attention on tensor cores: many queries, few queries, and which of the kernels runs.

use ferrocerium::caps::Arch;
use ferrocerium::format::{Format, Quantizer};
use ferrocerium::op::{Attention, Dense, KvLayout, Mask, Op, Operand};
use ferrocerium::registry::{Numerics, Request};
use ferrocerium::testing::bounds::{Verdict, compare};
use ferrocerium::testing::{Expected, expected};
use ferrocerium::{AnyTensor, DType, Device, F8E4M3, Tensor, bf16, f16};

use super::emulated;

const DECODE: &str = "cuda.attention.decode";
const PREFILL: &str = "cuda.attention.prefill";
const ROUNDED: &str = "cuda.attention.prefill.rounded";
const FP8: &str = "cuda.attention.prefill.fp8";
const MXFP8: &str = "cuda.attention.prefill.mxfp8";
const NVFP4: &str = "cuda.attention.prefill.nvfp4";

/// Numbers around 0, different for each `salt`.
fn wave(at: &[usize], salt: usize) -> f32 {
    let mixed = at.iter().fold(salt + 1, |mixed, &i| (mixed * 31 + i * 17 + i * i * 7) % 1009);
    mixed as f32 / 504.5 - 1.0
}

fn bf16s(device: &Device, shape: [usize; 4], salt: usize) -> Tensor<bf16, 4> {
    Tensor::from_fn(device, shape, |at| bf16::from_f32(wave(&at, salt))).unwrap()
}

/// `[batch, len, heads, d]` of a block format.
fn blocks(device: &Device, shape: [usize; 4], salt: usize, format: Format) -> AnyTensor {
    let x = Tensor::from_fn(device, shape, |at| wave(&at, salt)).unwrap();
    AnyTensor::from(x).quantize(format, Quantizer::default_for(format)).unwrap()
}

fn vector(device: &Device, values: &[f32]) -> Operand {
    Tensor::from_host(device, [values.len()], values).unwrap().operand()
}

/// An attention without an output.
fn attention(q: impl Into<Operand>, k: impl Into<Operand>, v: impl Into<Operand>) -> Attention {
    Attention::new(q, k, v, Dense::spec(DType::F32, &[]).unwrap())
}

/// The result by the kernel of that name.
fn run(device: &Device, kernel: &str, op: &Attention) -> Vec<f32> {
    let sizes = op.sizes().unwrap();
    let shape = [op.q.dims()[0], op.q.dims()[1], sizes.heads, sizes.d_v];
    let out = Tensor::<f32, 4>::zeros(device, shape).unwrap();
    let numerics = Numerics::FourBitOperands;
    let request = Request { numerics, ..Request::kernel(kernel) };
    let op = Attention { out: out.operand(), ..op.clone() };
    device.with_request(request).run(&Op::Attention(op)).unwrap();
    out.to_vec().unwrap()
}

/// Checks the result by the kernel of that name against the reference.
fn check(device: &Device, kernel: &str, op: &Attention) {
    let found = run(device, kernel, op);
    let sizes = op.sizes().unwrap();
    let shape = [op.q.dims()[0], op.q.dims()[1], sizes.heads, sizes.d_v];
    let out = Dense::spec(DType::F32, &shape).unwrap().into();
    let due = expected(&Op::Attention(Attention { out, ..op.clone() })).unwrap();
    let Expected::Values { values, errors } = &due[0] else { panic!("values are due") };
    for (i, &found) in found.iter().enumerate() {
        // Rounded weights, of values that are up to 1; small ones of FP8 to a multiple of 2^-17.
        let rounded = match kernel {
            ROUNDED => 2f64.powi(-8),
            FP8 => 2f64.powi(-4) + sizes.kv_rows as f64 * 2f64.powi(-18),
            _ => 0.0,
        };
        let error = errors[i] + rounded;
        let verdict = compare(DType::F32, found.into(), values[i], error);
        assert!(verdict != Verdict::Wrong, "{kernel}: {i} is {found}, not {}", values[i]);
    }
}

#[test]
fn keys_in_pages_and_pieces_give_what_the_formula_says() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    // Three pieces of 256 keys for one sequence, a part of one for another, none for the third.
    let (heads, kv_heads, d, block) = (8, 2, 128, 16);
    let table: Vec<i32> = (0..3 * 40).map(|i| i * 37 % 64).collect();
    let q = bf16s(&device, [3, 1, heads, d], 1);
    let [k, v] = [2, 3].map(|salt| bf16s(&device, [64, block, kv_heads, d], salt));
    let table = Tensor::from_host(&device, [3, 40], &table).unwrap().operand();
    let lens = Tensor::from_host(&device, [3], &[601, 33, 0]).unwrap().operand();
    let mut op = attention(q.operand(), k.operand(), v.operand());
    op.kv = KvLayout::Paged { block_table: table, kv_lens: lens };
    op.mask = Mask::CAUSAL;
    check(&device, DECODE, &op);
    op.scale = Some(1.0);
    op.mask.window = Some(300);
    op.softcap = Some(3.0);
    op.sinks = Some(vector(&device, &[0.5, -2.0, 0.0, 9.0, 1.0, 1.5, 2.0, -0.5]));
    op.alibi = Some(vector(&device, &[0.01, 0.02, 0.0, 0.5, 0.25, 0.125, 0.1, 1.0]));
    check(&device, DECODE, &op);
}

#[test]
fn tiles_at_the_edges_of_masks_give_what_the_formula_says() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let (q_len, kv_len, d) = (75, 131, 64);
    let q = bf16s(&device, [1, q_len, 4, d], 1);
    let [k, v] = [2, 3].map(|salt| bf16s(&device, [1, kv_len, 2, d], salt));
    let mut op = attention(q.operand(), k.operand(), v.operand());
    op.scale = Some(1.0);
    for mask in [
        Mask::CAUSAL,
        Mask { window: Some(33), ahead: Some(0) },
        Mask { window: Some(1), ahead: Some(0) },
        Mask { window: Some(32), ahead: Some(31) },
        Mask { window: None, ahead: Some(usize::MAX) },
    ] {
        op.mask = mask;
        for kernel in [DECODE, PREFILL, ROUNDED] {
            check(&device, kernel, &op);
        }
    }
}

#[test]
fn fp8_queries_keys_and_weights_meet_those_that_they_belong_to() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    for (q_len, kv_len, d, d_v) in [(75, 131, 64, 80), (5, 40, 20, 128)] {
        // Each query is exact in E4M3 with a scale of 2^-8.
        let q = Tensor::from_fn(&device, [1, q_len, 4, d], |[b, i, h, c]| {
            let x = F8E4M3::from_f32(448.0 * wave(&[b, i, h, c], 1)).to_f32() / 256.0;
            bf16::from_f32(if c == 0 { 1.75 } else { x })
        });
        let fp8 = |d: usize, salt: usize, nan: usize| {
            let x = Tensor::from_fn(&device, [1, kv_len, 2, d], |at| {
                if at[1] == nan && at[3] % 3 == 1 { f32::NAN } else { wave(&at, salt) }
            });
            AnyTensor::from(x.unwrap()).cast(DType::F8E4M3).unwrap()
        };
        for nan in [usize::MAX, 33] {
            let (k, v) = (fp8(d, 2, usize::MAX), fp8(d_v, 3, nan));
            let q = q.as_ref().unwrap().operand();
            let mut op = attention(q, k.operand().clone(), v.operand().clone());
            op.scale = Some(0.5);
            for mask in [Mask::CAUSAL, Mask { window: Some(33), ahead: Some(1) }] {
                op.mask = mask;
                check(&device, FP8, &op);
            }
        }
    }
}

/// An integer that E2M1 holds: 6 at each 16th place along an axis. E4M3 holds 64 times as much.
fn code(at: [usize; 4], axis: usize, salt: usize) -> bf16 {
    let codes = [0.0, 1.0, -2.0, 3.0, 4.0, -1.0, 2.0, -6.0];
    let random = (wave(&at, salt) * 504.5 + 504.5).round() as usize;
    bf16::from_f32(if at[axis].is_multiple_of(16) { 6.0 } else { codes[random % 8] })
}

#[test]
fn queries_keys_and_values_in_blocks_meet_those_that_they_belong_to() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let sizes = [(75, 150, 64, 80), (5, 70, 128, 128), (20, 64, 40, 192), (3, 40, 96, 96)];
    for ((q_len, kv_len, d, d_v), kernel) in
        sizes.into_iter().flat_map(|s| [(s, MXFP8), (s, NVFP4)])
    {
        let request = Request { numerics: Numerics::FourBitOperands, ..Request::kernel(kernel) };
        let k = move |at| code(at, 3, 2);
        // A query is one of the keys that it sees, which gets all of its weight; or 0, and all do.
        let same = move |[b, i, h, c]: [usize; 4]| {
            let key = i + kv_len - q_len - i * 7 % 30;
            if i % 3 == 2 { bf16::ZERO } else { k([b, key, h / 2, c]) }
        };
        let q = Tensor::from_fn(&device, [1, q_len, 4, d], same).unwrap();
        let k = Tensor::from_fn(&device, [1, kv_len, 2, d], k).unwrap();
        let v = Tensor::from_fn(&device, [1, kv_len, 2, d_v], |at| code(at, 1, 3)).unwrap();
        for mask in [Mask::CAUSAL, Mask { window: Some(33), ahead: Some(1) }] {
            let lse = Tensor::<f32, 3>::zeros(&device, [1, q_len, 4]).unwrap();
            let out = Tensor::<f32, 4>::zeros(&device, [1, q_len, 4, d_v]).unwrap();
            let mut op = Attention::new(q.operand(), k.operand(), v.operand(), out.operand());
            (op.mask, op.scale, op.lse) = (mask, Some(4.0), Some(lse.operand()));
            let op = Op::Attention(op);
            device.with_request(request.clone()).run(&op).unwrap();
            let found = [lse.to_vec().unwrap(), out.to_vec().unwrap()];
            // Nothing is rounded but units, and weights below 2^-18, of values up to 6.
            let small = (6 * kv_len) as f64 * 2f64.powi(-18);
            for (due, found) in expected(&op).unwrap().iter().zip(found) {
                let Expected::Values { values, errors } = due else { panic!("values are due") };
                for ((value, error), found) in values.iter().zip(errors).zip(found) {
                    let error = error + small + 1e-6 * value.abs();
                    let verdict = compare(DType::F32, found.into(), *value, error);
                    let wrong = verdict == Verdict::Wrong;
                    assert!(!wrong, "{kernel}: {found}, not {value}, for d = {d}");
                }
            }
        }
    }
}

#[test]
fn values_that_block_formats_do_not_hold_reach_those_that_see_them() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let (len, d) = (70, 64);
    let q = bf16s(&device, [1, len, 1, d], 1);
    let k = bf16s(&device, [1, len, 1, d], 2);
    let strange = [(40, 3, bf16::NAN), (50, 3, bf16::INFINITY), (60, 5, bf16::NEG_INFINITY)];
    let v = Tensor::from_fn(&device, [1, len, 1, d], |[b, j, h, col]| {
        let found = strange.iter().find(|&&(key, c, _)| [key, c] == [j, col]);
        found.map_or_else(|| bf16::from_f32(wave(&[b, j, h, col], 3)), |&(_, _, x)| x)
    });
    let v = v.unwrap();
    let mut op = attention(q.operand(), k.operand(), v.operand());
    op.mask = Mask::CAUSAL;
    for kernel in [MXFP8, NVFP4] {
        for (i, found) in run(&device, kernel, &op).into_iter().enumerate() {
            match (i / d, i % d) {
                (40.., 3) => assert!(found.is_nan(), "{kernel}: {i} is {found}"),
                (60.., 5) => assert_eq!(found, f32::NEG_INFINITY, "{kernel}: {i}"),
                _ => assert!(found.is_finite(), "{kernel}: {i} is {found}"),
            }
        }
    }
}

#[test]
fn every_head_size_is_right() {
    let Some(device) = emulated(Arch::SM90A) else { return };
    for (d, d_v) in [(80, 80), (96, 96), (130, 72), (256, 256)] {
        let q = bf16s(&device, [1, 3, 2, d], 1);
        let (k, v) = (bf16s(&device, [1, 70, 1, d], 2), bf16s(&device, [1, 70, 1, d_v], 3));
        let op = attention(q.operand(), k.operand(), v.operand());
        for kernel in [DECODE, PREFILL] {
            check(&device, kernel, &op);
        }
    }
}

#[test]
fn quantised_keys_and_values_enter_with_the_values_that_they_stand_for() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let shape = [1, 100, 2, 128];
    let q = bf16s(&device, [1, 2, 4, 128], 1);
    for (k, v) in [
        (Format::Nvfp4, Format::Nvfp4),
        (Format::Mxfp8E4M3, Format::Mxfp4),
        (Format::Fp8Row, Format::Mxfp8E5M2),
    ] {
        let (k, v) = (blocks(&device, shape, 2, k), blocks(&device, shape, 3, v));
        let op = attention(q.operand(), k.operand().clone(), v.operand().clone());
        for kernel in [DECODE, PREFILL] {
            check(&device, kernel, &op);
        }
    }
    let [k, v] = [2, 3].map(|salt| AnyTensor::from(bf16s(&device, shape, salt)));
    let (k, v) = (k.cast(DType::F8E4M3).unwrap(), v.cast(DType::F8E5M2).unwrap());
    check(&device, DECODE, &attention(q.operand(), k.operand().clone(), v.operand().clone()));
}

#[test]
fn codes_of_every_head_size_meet_the_queries_and_weights_that_they_belong_to() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    // Rows in a half of a fragment and in all of it, pieces of keys and parts of tiles, heads that are
    // whole words of scales or not.
    for (q_len, group, kv_len, d, d_v) in
        [(1, 4, 300, 128, 128), (3, 4, 131, 64, 192), (2, 4, 40, 80, 112), (5, 1, 70, 192, 64)]
    {
        let q = bf16s(&device, [1, q_len, 2 * group, d], 1);
        let k = blocks(&device, [1, kv_len, 2, d], 2, Format::Nvfp4);
        let v = blocks(&device, [1, kv_len, 2, d_v], 3, Format::Nvfp4);
        let mut op = attention(q.operand(), k.operand().clone(), v.operand().clone());
        op.scale = Some(0.5);
        for mask in [Mask::CAUSAL, Mask { window: Some(33), ahead: Some(0) }] {
            op.mask = mask;
            check(&device, DECODE, &op);
        }
    }
}

#[test]
fn codes_in_pages_meet_the_queries_that_see_them() {
    let Some(device) = emulated(Arch::SM90A) else { return };
    // Pages that a warp's keys are in, that they are spread over, and that are no power of two.
    for (block, d) in [(32, 128), (16, 64), (12, 96)] {
        let table: Vec<i32> = (0..2 * 30).map(|i| i * 37 % 64).collect();
        let q = Tensor::from_fn(&device, [2, 1, 8, d], |at| f16::from_f32(wave(&at, 1))).unwrap();
        let [k, v] = [2, 3].map(|salt| blocks(&device, [64, block, 2, d], salt, Format::Nvfp4));
        let table = Tensor::from_host(&device, [2, 30], &table).unwrap().operand();
        let lens = Tensor::from_host(&device, [2], &[291, 33]).unwrap().operand();
        let mut op = attention(q.operand(), k.operand().clone(), v.operand().clone());
        op.kv = KvLayout::Paged { block_table: table, kv_lens: lens };
        op.mask = Mask::CAUSAL;
        op.softcap = Some(3.0);
        op.alibi = Some(vector(&device, &[0.01, 0.02, 0.0, 0.5, 0.25, 0.125, 0.1, 1.0]));
        check(&device, DECODE, &op);
    }
}

#[test]
fn scales_of_values_that_are_nan_reach_those_that_see_them() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    // Of the last key, which only the last query sees, of one that a window leaves out, and of others.
    let strange = [(130, 0, 3), (64, 1, 2), (99, 0, 1), (127, 1, 0)];
    for (group, d_v) in [(2, 128), (5, 64), (2, 80)] {
        let q = bf16s(&device, [1, 3, 2 * group, 64], 1);
        let k = blocks(&device, [1, 131, 2, 64], 2, Format::Nvfp4);
        let v = blocks(&device, [1, 131, 2, d_v], 3, Format::Nvfp4);
        let Operand::Scaled(scaled) = v.operand() else { panic!("blocks") };
        let (layout, data) = (scaled.layout().unwrap(), scaled.data.as_ref().unwrap());
        for (key, head, block) in strange {
            data.scales.buffer().write().unwrap()[layout.scale_index(key, head, block)] = 0x7F;
        }
        for mask in [Mask::CAUSAL, Mask { window: Some(40), ahead: Some(0) }] {
            let mut op = attention(q.operand(), k.operand().clone(), v.operand().clone());
            op.mask = mask;
            check(&device, DECODE, &op);
            let nan = run(&device, DECODE, &op).iter().filter(|x| x.is_nan()).count();
            assert!((1..3 * 2 * group * d_v / 2).contains(&nan), "{nan} are NaN");
        }
    }
}

#[test]
fn sixteen_bit_floats_of_either_kind_are_as_exact() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    // Weights far below what f16 holds, of values near its largest.
    let f16s = |shape: [usize; 4], salt, factor: f32| {
        Tensor::from_fn(&device, shape, |at| f16::from_f32(factor * wave(&at, salt))).unwrap()
    };
    let q = f16s([1, 20, 2, 64], 1, 3.0);
    let (k, v) = (f16s([1, 50, 1, 64], 2, 3.0), f16s([1, 50, 1, 64], 3, 60000.0));
    for kernel in [DECODE, PREFILL] {
        check(&device, kernel, &attention(q.operand(), k.operand(), v.operand()));
    }
}

#[test]
fn what_a_query_does_not_see_has_no_influence_whatever_it_holds() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let (len, d) = (70, 64);
    let q = bf16s(&device, [1, len, 1, d], 1);
    let k = bf16s(&device, [1, len, 1, d], 2);
    let strange = [(40, 3, bf16::NAN), (50, 3, bf16::INFINITY), (60, 5, bf16::NEG_INFINITY)];
    let plain = |[b, j, h, col]: [usize; 4]| bf16::from_f32(wave(&[b, j, h, col], 3));
    let v = Tensor::from_fn(&device, [1, len, 1, d], plain).unwrap();
    let spoilt = Tensor::from_fn(&device, [1, len, 1, d], |at| {
        let found = strange.iter().find(|&&(key, col, _)| [key, col] == [at[1], at[3]]);
        found.map_or_else(|| plain(at), |&(_, _, x)| x)
    });
    let spoilt = spoilt.unwrap();
    for kernel in [DECODE, PREFILL, ROUNDED] {
        let of = |v: &Tensor<bf16, 4>| {
            let mut op = attention(q.operand(), k.operand(), v.operand());
            op.mask = Mask::CAUSAL;
            run(&device, kernel, &op)
        };
        let (clean, found) = (of(&v), of(&spoilt));
        for (i, (&clean, &found)) in clean.iter().zip(&found).enumerate() {
            match (i / d, i % d) {
                (40.., 3) => assert!(found.is_nan(), "{kernel}: {i} is {found}"),
                (60.., 5) => assert_eq!(found, f32::NEG_INFINITY, "{kernel}: {i}"),
                _ => assert_eq!(found.to_bits(), clean.to_bits(), "{kernel}: {i}"),
            }
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_the_others() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let (heads, d) = (2, 64);
    let f = |salt| move |at: [usize; 3]| bf16::from_f32(wave(&at, salt));
    let q = Tensor::from_fn(&device, [30, heads, d], f(1)).unwrap();
    let [k, v] = [2, 3].map(|salt| Tensor::from_fn(&device, [400, 1, d], f(salt)).unwrap());
    let ends = |at: &[i32]| Tensor::from_host(&device, [at.len()], at).unwrap();
    for kernel in [DECODE, PREFILL] {
        type Rows = Tensor<bf16, 3>;
        let of = |q: &Rows, cu_q: &[i32], k: &Rows, v: &Rows, cu_k: &[i32]| {
            let (cu_q, cu_k) = (ends(cu_q), ends(cu_k));
            let call = q.attention(k, v).causal().varlen(&cu_q, &cu_k);
            let out: Tensor<f32, 3> = call.request(Request::kernel(kernel)).run().unwrap();
            out.to_vec().unwrap()
        };
        let together = of(&q, &[0, 3, 3, 25, 30], &k, &v, &[0, 300, 317, 350, 400]);
        let row = heads * d;
        for (queries, keys) in [(0..3, 0..300), (3..25, 317..350), (25..30, 350..400)] {
            let own = |x: &Tensor<bf16, 3>| x.slice(0, keys.clone()).unwrap();
            let (own_k, own_v) = (own(&k), own(&v));
            let own_q = q.slice(0, queries.clone()).unwrap();
            let (cu_q, cu_k) = ([0, queries.len() as i32], [0, keys.len() as i32]);
            let alone = of(&own_q, &cu_q, &own_k, &own_v, &cu_k);
            assert_eq!(alone, together[queries.start * row..queries.end * row], "{kernel}");
        }
    }
}

#[test]
fn many_queries_few_queries_and_those_who_accept_rounded_weights_get_a_kernel_each() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let chosen = |device: &Device, q_len, batch| {
        let q = Tensor::<bf16, 4>::zeros(device, [batch, q_len, 8, 128]).unwrap();
        let kv = Tensor::<bf16, 4>::zeros(device, [batch, 300, 2, 128]).unwrap();
        let op = q.attention(&kv, &kv).causal().spec::<bf16>().unwrap();
        let explanation = device.explain(&op).unwrap();
        (explanation.chosen().unwrap().name.clone(), explanation.to_string())
    };
    for batch in [1, 16] {
        assert_eq!(chosen(&device, 1, batch).0, DECODE);
        let (name, text) = chosen(&device, 300, batch);
        assert_eq!(name, PREFILL);
        assert!(text.contains("rounded intermediates"), "{text}");
    }
    let numerics = Numerics::RoundedIntermediates;
    let rounding = device.with_request(Request { numerics, ..Request::default() });
    assert_eq!(chosen(&rounding, 300, 1).0, ROUNDED);
    assert_eq!(chosen(&rounding, 1, 1).0, DECODE);
    // FP8 keys and values, where queries may be as well.
    let q = Tensor::<bf16, 4>::zeros(&device, [1, 300, 8, 128]).unwrap();
    let kv = Tensor::<F8E4M3, 4>::zeros(&device, [1, 300, 2, 128]).unwrap();
    let op = q.attention(&kv, &kv).causal().spec::<bf16>().unwrap();
    let name = |device: &Device| device.explain(&op).unwrap().chosen().unwrap().name.clone();
    assert_eq!(name(&device), PREFILL);
    let numerics = Numerics::NarrowedOperands;
    assert_eq!(name(&device.with_request(Request { numerics, ..Request::default() })), FP8);
    // That is faster than to round them on. Not so BF16; fewer bits are more instructions there.
    for numerics in [Numerics::EightBitOperands, Numerics::FourBitOperands] {
        let rounding = device.with_request(Request { numerics, ..Request::default() });
        assert_eq!(name(&rounding), FP8);
        assert_eq!(chosen(&rounding, 300, 1).0, MXFP8);
        assert_eq!(chosen(&rounding, 1, 1).0, DECODE);
    }
}
