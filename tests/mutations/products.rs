//! Faults of matrix products.

use std::sync::Mutex;

use ferrocerium::format::ScaleLayout;
use ferrocerium::op::{Dense, Gemm, GroupedGemm, Op, Operand, Scaled};
use ferrocerium::{DType, Scalar, bf16};

use crate::mutant::{Fault, Named, change_bytes, read, replace};

fn on_gemm(change: impl Fn(&mut Gemm) + Send + Sync + 'static) -> Fault {
    Fault::op(move |op| {
        if let Op::Gemm(op) = op {
            change(op);
        }
    })
}

/// Changes both factors where they are plain.
fn on_dense(change: impl Fn(&mut Dense, &mut Dense) + Send + Sync + 'static) -> Fault {
    on_gemm(move |op| {
        if let (Operand::Dense(a), Operand::Dense(b)) = (&mut op.a, &mut op.b) {
            change(a, b);
        }
    })
}

/// Changes each factor that is of blocks.
fn on_blocks(change: impl Fn(&mut Scaled) + Send + Sync + 'static) -> Fault {
    on_gemm(move |op| {
        for operand in [&mut op.a, &mut op.b] {
            if let Operand::Scaled(scaled) = operand {
                change(scaled);
            }
        }
    })
}

/// The bytes of a scale of 1, of its type.
fn unit_scale(scaled: &Scaled) -> Vec<u8> {
    match scaled.format.spec().scale {
        DType::E8M0 => vec![127],
        DType::UE4M3 => vec![0x38],
        _ => 1.0f32.to_ne_bytes().to_vec(),
    }
}

pub fn gemm() -> Vec<Named> {
    let previous = Mutex::new(0.0);
    let calls = Mutex::new(0u32);
    vec![
        (
            "b_transposed",
            on_dense(|_, b| {
                let rank = b.dims.len();
                // As if [k, n] in row-major order were [n, k].
                if b.is_contiguous() {
                    (b.strides[rank - 2], b.strides[rank - 1]) = (1, b.dims[rank - 2].max(1));
                }
            }),
        ),
        (
            "tail_of_k_one_short",
            on_dense(|a, b| {
                let (a_rank, b_rank) = (a.dims.len(), b.dims.len());
                if !a.dims[a_rank - 1].is_multiple_of(16) {
                    a.dims[a_rank - 1] -= 1;
                    b.dims[b_rank - 2] -= 1;
                }
            }),
        ),
        (
            "block_scale_missing",
            on_blocks(|scaled| {
                let one = unit_scale(scaled);
                let Some(data) = &mut scaled.data else { return };
                change_bytes(&mut data.scales, |bytes| {
                    bytes.chunks_mut(one.len()).for_each(|scale| scale.copy_from_slice(&one));
                });
            }),
        ),
        (
            "scale_of_the_block_before",
            on_blocks(|scaled| {
                let size = scaled.format.spec().scale.size();
                let Some(data) = &mut scaled.data else { return };
                change_bytes(&mut data.scales, |bytes| {
                    if bytes.len() > size {
                        bytes.rotate_right(size);
                    }
                });
            }),
        ),
        (
            "nibbles_swapped",
            on_blocks(|scaled| {
                let fp4 = scaled.format.spec().code == DType::E2M1x2;
                let Some(data) = &mut scaled.data else { return };
                if fp4 {
                    change_bytes(&mut data.codes, |bytes| {
                        bytes.iter_mut().for_each(|byte| *byte = byte.rotate_left(4));
                    });
                }
            }),
        ),
        (
            "tensor_scale_missing",
            on_blocks(|scaled| {
                if let Some(g) = scaled.data.as_mut().and_then(|data| data.tensor_scale.as_mut()) {
                    change_bytes(g, |bytes| bytes.copy_from_slice(&1.0f32.to_ne_bytes()));
                }
            }),
        ),
        (
            "tiled_scales_read_in_rows",
            on_blocks(|scaled| scaled.scale_layout = ScaleLayout::RowMajor),
        ),
        (
            "nan_scale_taken_for_a_number",
            on_blocks(|scaled| {
                let nan: &[u8] = match scaled.format.spec().scale {
                    DType::E8M0 => &[0xFF],
                    DType::UE4M3 => &[0x7F],
                    _ => &f32::NAN.to_ne_bytes(),
                };
                let one = unit_scale(scaled);
                let Some(data) = &mut scaled.data else { return };
                change_bytes(&mut data.scales, |bytes| {
                    let scales = bytes.chunks_mut(nan.len()).filter(|scale| *scale == nan);
                    scales.for_each(|scale| scale.copy_from_slice(&one));
                });
            }),
        ),
        (
            "stale_accumulator",
            Fault::values(move |_, values| {
                let mut previous = previous.lock().unwrap();
                let stale =
                    std::mem::replace(&mut *previous, values.first().copied().unwrap_or(0.0));
                if let Some(first) = values.first_mut() {
                    *first += stale;
                }
            }),
        ),
        (
            "row_stride_of_a_assumed",
            on_dense(|a, _| {
                let rank = a.dims.len();
                if a.strides[rank - 1] == 1 {
                    a.strides[rank - 2] = a.strides[rank - 2].min(a.dims[rank - 1]);
                }
            }),
        ),
        (
            "row_stride_of_d_assumed",
            on_gemm(|op| {
                if let Operand::Dense(d) = &mut op.d {
                    let rank = d.dims.len();
                    if d.strides[rank - 1] == 1 && d.strides[rank - 2] > d.dims[rank - 1] {
                        d.strides[rank - 2] = d.dims[rank - 1].max(1);
                    }
                }
            }),
        ),
        (
            "first_matrix_of_b_for_all",
            on_dense(|_, b| {
                if b.dims.len() > 2 {
                    b.strides[0] = 0;
                }
            }),
        ),
        ("bias_ignored", on_gemm(|op| op.epilogue.bias = None)),
        ("alpha_ignored", on_gemm(|op| op.alpha = 1.0)),
        ("beta_ignored", on_gemm(|op| op.beta = if op.beta == 0.0 { 0.0 } else { 1.0 })),
        ("residual_ignored", on_gemm(|op| op.epilogue.residual = None)),
        (
            "output_rounded_twice",
            Fault::values(|op, values| {
                if let Op::Gemm(op) = op
                    && op.d.dtype().is_some_and(|dtype| dtype.size() == 1)
                {
                    values.iter_mut().for_each(|x| *x = <bf16 as Scalar>::from_f64(*x).to_f64());
                }
            }),
        ),
        (
            "output_truncated",
            Fault::values(|op, values| {
                if let Op::Gemm(op) = op
                    && op.d.dtype() == Some(DType::BF16)
                {
                    let cut = |x: f64| f64::from(f32::from_bits((x as f32).to_bits() & !0xFFFF));
                    values.iter_mut().for_each(|x| *x = cut(*x));
                }
            }),
        ),
        (
            "a_rounded_to_bf16",
            on_gemm(|op| {
                replace(&mut op.a, |values| {
                    values.iter_mut().for_each(|x| *x = <bf16 as Scalar>::from_f64(*x).to_f64());
                });
            }),
        ),
        (
            "nan_swallowed",
            Fault::values(|_, values| {
                values.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = 0.0);
            }),
        ),
        (
            "results_that_vary",
            Fault::values(move |_, values| {
                let mut calls = calls.lock().unwrap();
                *calls += 1;
                let wobble = f64::from(*calls % 2) * 2f64.powi(-23);
                values.iter_mut().for_each(|x| *x *= 1.0 + wobble);
            }),
        ),
        (
            "row_that_depends_on_the_batch",
            // Within the bound: as if a tile of another shape added up in another order.
            Fault::values(|op, values| {
                let rows = op
                    .operands()
                    .last()
                    .map_or(0, |d| d.operand.dims().leading(1).iter().product());
                let wobble = f64::from(u8::from(rows > 1)) * 2f64.powi(-23);
                values.iter_mut().for_each(|x| *x *= 1.0 + wobble);
            }),
        ),
        (
            "last_element_left_out",
            Fault::bytes(|op, outputs| {
                if let Op::Gemm(Gemm { d: Operand::Dense(d), .. }) = op {
                    let size = d.dtype.size();
                    let bytes = &mut outputs[0];
                    let start = bytes.len().saturating_sub(size);
                    bytes[start..].fill(0xFF);
                }
            }),
        ),
    ]
}

fn on_groups(change: impl Fn(&mut GroupedGemm) + Send + Sync + 'static) -> Fault {
    Fault::op(move |op| {
        if let Op::GroupedGemm(op) = op {
            change(op);
        }
    })
}

pub fn grouped_gemm() -> Vec<Named> {
    vec![
        (
            "first_row_of_a_group_to_the_one_before",
            on_groups(|op| {
                let total = op.sizes().unwrap().total_m as f64;
                replace_indices(&mut op.offsets, |offsets| {
                    for i in 1..offsets.len().saturating_sub(1) {
                        offsets[i] = (offsets[i] + 1.0).min(total);
                    }
                });
            }),
        ),
        (
            "matrix_of_the_first_group",
            on_groups(|op| {
                if let Operand::Dense(b) = &mut op.b {
                    b.strides[0] = 0;
                }
            }),
        ),
        (
            "bias_of_the_first_group",
            on_groups(|op| {
                if let Some(Operand::Dense(bias)) = &mut op.epilogue.bias {
                    bias.strides[0] = 0;
                }
            }),
        ),
        ("alpha_ignored", on_groups(|op| op.alpha = 1.0)),
        (
            "gate_and_value_swapped",
            on_groups(|op| {
                let n = op.sizes().unwrap().n;
                if op.epilogue.activation.is_gated() && n > 0 {
                    replace(&mut op.b, |b| b.chunks_mut(n).for_each(|row| row.rotate_left(n / 2)));
                }
            }),
        ),
    ]
}

/// Index operands stay of their type.
pub fn replace_indices(operand: &mut Operand, change: impl FnOnce(&mut Vec<f64>)) {
    let Operand::Dense(dense) = operand else { return };
    let mut values = read(&dense.clone().into());
    change(&mut values);
    let bytes: Vec<u8> = match dense.dtype {
        DType::I64 => values.iter().flat_map(|&x| (x as i64).to_ne_bytes()).collect(),
        DType::I32 => values.iter().flat_map(|&x| (x as i32).to_ne_bytes()).collect(),
        _ => values.iter().flat_map(|&x| (x as u32).to_ne_bytes()).collect(),
    };
    let mut plain = Dense::spec(dense.dtype, &dense.dims).unwrap();
    let buffer = crate::mutant::reference().allocate(bytes.len(), "indices").unwrap();
    buffer.write().unwrap().copy_from_slice(&bytes);
    plain.data = Some(ferrocerium::memory::Region::whole(buffer));
    *dense = plain;
}
