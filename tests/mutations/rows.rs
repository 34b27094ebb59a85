//! Faults of attention, norms, softmax, rotations and searches.

use ferrocerium::op::{
    Attention, KvLayout, Norm, NormKind, Op, Positions, Rope, RopeFrequencies, RopeStyle, Softmax,
    TopK,
};

use crate::mutant::{Fault, Named, dense, read, reference};

fn on_attention(change: impl Fn(&mut Attention) + Send + Sync + 'static) -> Fault {
    Fault::op(move |op| {
        if let Op::Attention(op) = op {
            change(op);
        }
    })
}

pub fn attention() -> Vec<Named> {
    vec![
        (
            "mask_off_by_one",
            on_attention(|op| op.mask.ahead = op.mask.ahead.map(|ahead| ahead + 1)),
        ),
        (
            "window_off_by_one",
            on_attention(|op| op.mask.window = op.mask.window.map(|window| window + 1)),
        ),
        (
            "heads_share_keys_by_remainder",
            on_attention(|op| {
                let sizes = op.sizes().unwrap();
                for operand in [&mut op.k, &mut op.v] {
                    let mut dims = operand.dims();
                    let rank = dims.len();
                    let (heads, width) = (dims[rank - 2], dims[rank - 1]);
                    let values = read(operand);
                    dims[rank - 2] = sizes.heads;
                    let mut spread = Vec::new();
                    for row in values.chunks((heads * width).max(1)) {
                        for head in 0..sizes.heads {
                            spread.extend_from_slice(&row[head % heads * width..][..width]);
                        }
                    }
                    *operand = dense(&dims, &spread);
                }
            }),
        ),
        ("sink_ignored", on_attention(|op| op.sinks = None)),
        ("softcap_ignored", on_attention(|op| op.softcap = None)),
        ("bias_ignored", on_attention(|op| op.alibi = None)),
        ("scale_ignored", on_attention(|op| op.scale = None)),
        (
            "lengths_ignored",
            on_attention(|op| {
                if let KvLayout::Batched { kv_lens } = &mut op.kv {
                    *kv_lens = None;
                }
            }),
        ),
        (
            "a_block_of_keys_left_out",
            // Every eighth key's weight is lost: as if its tile were not added.
            Fault::values(|op, values| {
                let Op::Attention(op) = op else { return };
                let mut less = op.clone();
                let width = op.v.dims().last().copied().unwrap_or(0);
                let mut v = read(&op.v);
                let row = width * op.v.dims()[op.v.dims().len() - 2];
                if row > 0 {
                    v.chunks_mut(row).skip(7).step_by(8).for_each(|row| row.fill(0.0));
                }
                less.v = dense(&op.v.dims(), &v);
                less.lse = None;
                let out = dense(&op.out.dims(), values);
                less.out = out.clone();
                reference().run(&less.into()).unwrap();
                *values = read(&out);
            }),
        ),
    ]
}

fn on_norm(change: impl Fn(&mut Norm) + Send + Sync + 'static) -> Fault {
    Fault::op(move |op| {
        if let Op::Norm(op) = op {
            change(op);
        }
    })
}

pub fn norm() -> Vec<Named> {
    vec![
        ("without_eps", on_norm(|op| op.eps = 0.0)),
        ("mean_not_subtracted", on_norm(|op| op.kind = NormKind::Rms)),
        ("weight_offset_ignored", on_norm(|op| op.weight_offset = 0.0)),
        ("bias_ignored", on_norm(|op| op.bias = None)),
        ("residual_ignored", on_norm(|op| op.residual = None)),
        (
            "sum_not_rounded",
            // The norm of x + residual, not of what was stored.
            Fault::values(|op, values| {
                let Op::Norm(op) = op else { return };
                let out = dense(&op.out.dims(), values);
                let direct = Norm { sum: None, out: out.clone(), ..op.clone() };
                reference().run(&direct.into()).unwrap();
                *values = read(&out);
            }),
        ),
        (
            "variance_of_a_sample",
            Fault::values(|op, values| {
                let Op::Norm(op) = op else { return };
                let n = op.x.dims().last().copied().unwrap_or(0) as f64;
                let plain = op.weight.is_none() && op.bias.is_none();
                if plain && n > 1.0 {
                    values.iter_mut().for_each(|x| *x *= ((n - 1.0) / n).sqrt());
                }
            }),
        ),
        (
            "nan_swallowed",
            Fault::values(|_, values| {
                values.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = 0.0);
            }),
        ),
    ]
}

fn on_rope(change: impl Fn(&mut Rope) + Send + Sync + 'static) -> Fault {
    Fault::op(move |op| {
        if let Op::Rope(op) = op {
            change(op);
        }
    })
}

pub fn rope() -> Vec<Named> {
    let frequencies = |change: fn(f64) -> f64| {
        on_rope(move |op| {
            let changed: Vec<f64> = op.frequencies.per_pair().iter().map(|&f| change(f)).collect();
            let amplitude = op.frequencies.amplitude();
            op.frequencies = RopeFrequencies::from_parts(changed, amplitude).unwrap();
        })
    };
    vec![
        (
            "pairs_interleaved_where_they_are_halves",
            on_rope(|op| op.style = RopeStyle::Interleaved),
        ),
        (
            "positions_one_on",
            on_rope(|op| {
                if let Positions::From(start) = &mut op.positions {
                    *start += 1;
                }
            }),
        ),
        ("turned_the_other_way", frequencies(|f| -f)),
        // An angle that is rounded twice, and once more by a factor.
        ("frequencies_rounded", frequencies(|f| f64::from(f as f32) * (1.0 + 2f64.powi(-20)))),
        (
            "amplitude_ignored",
            on_rope(|op| {
                let per_pair = op.frequencies.per_pair().to_vec();
                op.frequencies = RopeFrequencies::from_parts(per_pair, 1.0).unwrap();
            }),
        ),
        (
            "first_positions_for_all_sequences",
            on_rope(|op| {
                if let Positions::Given(operand) = &mut op.positions
                    && let ferrocerium::op::Operand::Dense(dense) = operand
                    && dense.dims.len() > 1
                {
                    dense.strides[0] = 0;
                }
            }),
        ),
    ]
}

/// The rows of the logits of a softmax, and of its result.
fn softmax_rows(op: &Op, values: &mut [f64], change: impl Fn(&Softmax, &[f32], &mut [f64])) {
    let Op::Softmax(op) = op else { return };
    let n = op.x.dims().last().copied().unwrap_or(0).max(1);
    let logits: Vec<f32> = read(&op.x).iter().map(|&x| x as f32 * op.scale).collect();
    for (z, row) in logits.chunks(n).zip(values.chunks_mut(n)) {
        change(op, z, row);
    }
}

pub fn softmax() -> Vec<Named> {
    vec![
        (
            "maximum_not_subtracted",
            Fault::values(|op, values| {
                softmax_rows(op, values, |op, z, row| {
                    let sum: f32 = z.iter().map(|z| z.exp()).sum();
                    for (x, z) in row.iter_mut().zip(z) {
                        *x = f64::from(if op.log { z - sum.ln() } else { z.exp() / sum });
                    }
                });
            }),
        ),
        (
            "last_block_not_masked",
            // Padding to a multiple of 8 takes part with logits of 0.
            Fault::values(|op, values| {
                softmax_rows(op, values, |op, z, row| {
                    let max = z.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                    let sum: f64 = z.iter().map(|z| f64::from(z - max).exp()).sum();
                    let padding = (z.len().next_multiple_of(8) - z.len()) as f64;
                    let more = 1.0 + padding * f64::from(-max).exp() / sum;
                    for x in row {
                        *x = if op.log { *x - more.ln() } else { *x / more };
                    }
                });
            }),
        ),
        (
            "row_without_a_distribution_is_nan",
            Fault::values(|op, values| {
                softmax_rows(op, values, |_, z, row| {
                    if z.iter().all(|&z| z == f32::NEG_INFINITY) {
                        row.fill(f64::NAN);
                    }
                });
            }),
        ),
        (
            "scale_ignored",
            Fault::op(|op| {
                if let Op::Softmax(op) = op {
                    op.scale = 1.0;
                }
            }),
        ),
        (
            "exponential_of_low_precision",
            // 2^-20, of a table and a short polynomial.
            Fault::values(|op, values| {
                if matches!(op, Op::Softmax(op) if !op.log) {
                    values.iter_mut().step_by(3).for_each(|x| *x *= 1.0 + 2f64.powi(-19));
                }
            }),
        ),
    ]
}

/// Which element of a row comes first: as `top_k` and `arg_reduce` have it, but for `ties`.
fn before(x: f64, y: f64) -> bool {
    x > y || x.is_nan() && !y.is_nan()
}

pub fn top_k() -> Vec<Named> {
    let again = |order: fn(&[f64], &mut Vec<usize>)| {
        Fault::values(move |op, indices| {
            let Op::TopK(TopK { x, values, .. }) = op else { return };
            let (n, k) = (x.dims()[x.dims().len() - 1], values.dims()[values.dims().len() - 1]);
            let x = read(x);
            if n == 0 || k == 0 {
                return;
            }
            for (row, indices) in x.chunks(n).zip(indices.chunks_mut(k)) {
                let mut all: Vec<usize> = (0..n).collect();
                order(row, &mut all);
                indices.iter_mut().zip(all).for_each(|(index, i)| *index = i as f64);
            }
        })
    };
    vec![
        (
            "ties_reversed",
            again(|row, all| {
                all.reverse();
                all.sort_by(|&i, &j| before(row[j], row[i]).cmp(&before(row[i], row[j])));
            }),
        ),
        (
            "nan_last",
            again(|row, all| {
                let key = |i: usize| if row[i].is_nan() { f64::NEG_INFINITY } else { row[i] };
                all.sort_by(|&i, &j| key(j).total_cmp(&key(i)));
            }),
        ),
    ]
}

pub fn arg_reduce() -> Vec<Named> {
    let over = |better: fn(f64, f64) -> bool| {
        Fault::values(move |op, indices| {
            let Op::ArgReduce(op) = op else { return };
            let dims = op.x.dims();
            let (n, inner) = (dims[op.axis], dims[op.axis + 1..].iter().product::<usize>());
            let x = read(&op.x);
            for (position, index) in indices.iter_mut().enumerate() {
                let at = |i: usize| x[(position / inner * n + i) * inner + position % inner];
                let sign = if op.largest { 1.0 } else { -1.0 };
                let pick = |best, i| if better(sign * at(i), sign * at(best)) { i } else { best };
                *index = (1..n).fold(0, pick) as f64;
            }
        })
    };
    vec![
        ("last_of_equals", over(|x, best| x >= best)),
        ("nan_passed_over", over(|x, best| x > best || best.is_nan())),
        (
            "smallest_for_largest",
            Fault::op(|op| {
                if let Op::ArgReduce(op) = op {
                    op.largest = !op.largest;
                }
            }),
        ),
    ]
}
