//! Faults of elementwise functions, reductions, gathers and conversions.

use ferrocerium::format::Quantizer;
use ferrocerium::op::{Activation, Convert, Function, Op, Operand, Reduction};
use ferrocerium::{DType, Scalar, bf16};

use crate::mutant::{Fault, Named, replace};
use crate::products::replace_indices;

fn on_function(change: impl Fn(Function) -> Function + Send + Sync + 'static) -> Fault {
    Fault::op(move |op| {
        if let Op::Elementwise(op) = op {
            op.function = change(op.function);
        }
    })
}

/// Changes the results of one function.
fn results_of(of: fn(Function) -> bool, change: fn(f64) -> f64) -> Fault {
    Fault::values(move |op, values| {
        if matches!(op, Op::Elementwise(op) if of(op.function)) {
            values.iter_mut().for_each(|x| *x = change(*x));
        }
    })
}

pub fn elementwise() -> Vec<Named> {
    vec![
        (
            "gelu_by_tanh",
            on_function(|f| match f {
                Function::Activation(Activation::Gelu) => {
                    Function::Activation(Activation::GeluTanh)
                }
                other => other,
            }),
        ),
        (
            "operands_swapped",
            Fault::op(|op| {
                if let Op::Elementwise(op) = op
                    && let Some(b) = &mut op.b
                {
                    std::mem::swap(&mut op.a, b);
                }
            }),
        ),
        (
            "relu_swallows_nan",
            results_of(
                |f| f == Function::Activation(Activation::Relu),
                |x| if x.is_nan() { 0.0 } else { x },
            ),
        ),
        (
            "exponential_of_low_precision",
            results_of(|f| f == Function::Exp, |x| x * (1.0 + 2f64.powi(-20))),
        ),
        (
            "quotient_by_reciprocal_of_low_precision",
            results_of(|f| f == Function::Div, |x| x * (1.0 + 2f64.powi(-21))),
        ),
        (
            "maximum_ignores_nan",
            results_of(|f| f == Function::Max, |x| if x.is_nan() { 0.0 } else { x }),
        ),
        ("zero_loses_its_sign", results_of(|f| f == Function::Neg, |x| x + 0.0)),
        (
            "b_not_repeated",
            // The first element of a shared dimension, and then those after it.
            Fault::op(|op| {
                if let Op::Elementwise(op) = op
                    && let Some(b) = &mut op.b
                {
                    replace(b, |b| b.iter_mut().skip(1).for_each(|x| *x += 1.0));
                }
            }),
        ),
        (
            "f64_through_f32",
            Fault::values(|op, values| {
                if matches!(op, Op::Elementwise(op) if op.out.dtype() == Some(DType::F64)) {
                    values.iter_mut().for_each(|x| *x = f64::from(*x as f32));
                }
            }),
        ),
        (
            "quantised_by_another_rule",
            Fault::op(|op| {
                if let Op::Elementwise(op) = op
                    && op.out.as_scaled().is_some()
                {
                    op.quantizer = Some(Quantizer::Amax);
                }
            }),
        ),
    ]
}

fn on_reduction(of: Reduction, change: fn(f64) -> f64) -> Fault {
    Fault::values(move |op, values| {
        if matches!(op, Op::Reduce(op) if op.function == of) {
            values.iter_mut().for_each(|x| *x = change(*x));
        }
    })
}

pub fn reduce() -> Vec<Named> {
    vec![
        ("maximum_begins_at_0", on_reduction(Reduction::Max, |x| x.max(0.0))),
        (
            "minimum_swallows_nan",
            on_reduction(Reduction::Min, |x| if x.is_nan() { 0.0 } else { x }),
        ),
        (
            "abs_max_of_none_is_nan",
            on_reduction(Reduction::AbsMax, |x| if x == 0.0 { f64::NAN } else { x }),
        ),
        ("sum_in_bf16", on_reduction(Reduction::Sum, |x| <bf16 as Scalar>::from_f64(x).to_f64())),
        (
            "mean_of_one_more",
            Fault::values(|op, values| {
                let Op::Reduce(op) = op else { return };
                let n = op.axes.iter().map(|&axis| op.x.dims()[axis]).product::<usize>() as f64;
                if op.function == Reduction::Mean {
                    values.iter_mut().for_each(|x| *x *= n / (n + 1.0));
                }
            }),
        ),
        (
            "last_element_left_out",
            Fault::op(|op| {
                if let Op::Reduce(op) = op
                    && let Operand::Dense(x) = &mut op.x
                    && let [axis, ..] = op.axes[..]
                    && x.dims[axis] > 1
                {
                    x.dims[axis] -= 1;
                }
            }),
        ),
    ]
}

pub fn scatter() -> Vec<Named> {
    let indices = |change: fn(f64, f64) -> f64| {
        Fault::op(move |op| {
            if let Op::Scatter(op) = op {
                let size = op.out.dims()[op.axis] as f64;
                replace_indices(&mut op.indices, |all| {
                    all.iter_mut().for_each(|i| *i = change(*i, size));
                });
            }
        })
    };
    vec![
        ("place_after", indices(|i, size| if i < size { (i + 1.0) % size } else { i })),
        ("stray_index_clamped", indices(|i, size| i.min(size - 1.0))),
    ]
}

pub fn gather() -> Vec<Named> {
    let indices = |change: fn(f64, f64) -> f64| {
        Fault::op(move |op| {
            if let Op::Gather(op) = op {
                let size = op.table.dims()[op.axis] as f64;
                replace_indices(&mut op.indices, |all| {
                    all.iter_mut().for_each(|i| *i = change(*i, size));
                });
            }
        })
    };
    vec![
        ("row_after", indices(|i, size| if i < size { (i + 1.0) % size } else { i })),
        ("stray_index_clamped", indices(|i, size| i.min(size - 1.0))),
        (
            "strides_of_the_table_ignored",
            Fault::op(|op| {
                if let Op::Gather(op) = op
                    && let Operand::Dense(table) = &mut op.table
                    && !table.is_contiguous()
                {
                    let packed = table.dims.row_major_strides().unwrap();
                    for (stride, packed) in table.strides.iter_mut().zip(packed.iter()) {
                        *stride = (*stride).min(*packed);
                    }
                }
            }),
        ),
    ]
}

fn on_codes(change: fn(&mut [Vec<u8>])) -> Fault {
    Fault::bytes(move |op, parts| {
        if matches!(op, Op::Convert(op) if op.dst.as_scaled().is_some()) {
            change(parts);
        }
    })
}

fn on_casts(change: fn(DType, f64) -> f64) -> Fault {
    Fault::values(move |op, values| {
        if let Op::Convert(Convert { dst, .. }) = op
            && let Some(dtype) = dst.dtype()
        {
            values.iter_mut().for_each(|x| *x = change(dtype, *x));
        }
    })
}

pub fn convert() -> Vec<Named> {
    vec![
        (
            "rounded_twice",
            on_casts(
                |dtype, x| {
                    if dtype.size() == 1 { <bf16 as Scalar>::from_f64(x).to_f64() } else { x }
                },
            ),
        ),
        (
            "truncated",
            on_casts(|dtype, x| match dtype {
                DType::BF16 => f64::from(f32::from_bits((x as f32).to_bits() & !0xFFFF)),
                _ => x,
            }),
        ),
        (
            "fp8_overflows_to_nan",
            on_casts(
                |dtype, x| {
                    if dtype == DType::F8E4M3 && x.abs() > 464.0 { f64::NAN } else { x }
                },
            ),
        ),
        ("zero_loses_its_sign", on_casts(|_, x| x + 0.0)),
        (
            "subnormals_flushed",
            on_casts(|_, x| if x.abs() < f64::from(f32::MIN_POSITIVE) { 0.0 * x } else { x }),
        ),
        (
            "nibbles_swapped",
            on_codes(|parts| {
                if let Some(byte) = parts[0].first_mut() {
                    *byte = byte.rotate_left(4);
                }
            }),
        ),
        (
            "scale_one_code_up",
            on_codes(|parts| {
                if let Some(byte) = parts[1].last_mut() {
                    *byte ^= 1;
                }
            }),
        ),
        (
            "padding_not_zero",
            on_codes(|parts| {
                if let Some(byte) = parts[0].last_mut() {
                    *byte |= 0x10;
                }
            }),
        ),
        (
            "tensor_scale_left_out",
            on_codes(|parts| {
                if let Some(g) = parts.get_mut(2) {
                    g.copy_from_slice(&1.0f32.to_ne_bytes());
                }
            }),
        ),
        (
            "quantised_by_another_rule",
            Fault::op(|op| {
                if let Op::Convert(op) = op
                    && op.dst.as_scaled().is_some()
                {
                    op.quantizer = Some(Quantizer::Amax);
                }
            }),
        ),
        (
            "nan_quantised_as_0",
            Fault::op(|op| {
                if let Op::Convert(op) = op
                    && op.dst.as_scaled().is_some()
                {
                    replace(&mut op.src, |values| {
                        values.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = 0.0);
                    });
                }
            }),
        ),
    ]
}
