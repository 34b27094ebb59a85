//! What `Debug` prints: type, device, and the elements as NumPy lays them out.

use std::fmt;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::format::Dequantizer;
use crate::num::{DType, E2M1x2, E8M0, Element, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16};
use crate::op::{Dense, Operand, Scaled};

/// Tensors of more elements are printed without the middle of their dimensions.
const SHOWN_WHOLE: usize = 1000;
/// How many indices at each end of a dimension are printed then.
const EDGE: usize = 3;
/// The most decimals of a printed number.
const DECIMALS: usize = 4;
/// Numbers from here on are printed with an exponent, as are all beside them.
const LARGE: f64 = 1e8;
/// So are numbers below this, zero apart.
const SMALL: f64 = 1e-4;
/// Columns of a line.
const WIDTH: usize = 80;

/// Prints `name`, type and device, and a summary of the elements, or why they can not be read.
pub(super) fn summary(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    device: &Device,
    operand: &Operand,
) -> fmt::Result {
    write!(f, "{name} {operand} on {}", device.name())?;
    let dims = operand.dims();
    let axes: Vec<Vec<Option<usize>>> = shown_indices(&dims);
    match read(operand, &positions(&axes)) {
        Ok(values) => {
            let mut page = Page { axes: &axes, cells: cells(&values), next: 0, text: "\n".into() };
            page.write(0);
            f.write_str(&page.text)
        }
        Err(Error::Busy { problem, .. }) => write!(f, "\n<busy: {problem}>"),
        Err(error) => write!(f, "\n<{error}>"),
    }
}

/// For each dimension the indices that are shown; `None` is the gap.
fn shown_indices(dims: &[usize]) -> Vec<Vec<Option<usize>>> {
    let total = dims.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    let shown = |&d: &usize| {
        if total <= SHOWN_WHOLE || d <= 2 * EDGE {
            // A size beside a zero can be anything, and nothing of it is shown.
            return if total == 0 { Vec::new() } else { (0..d).map(Some).collect() };
        }
        let (head, tail) = ((0..EDGE).map(Some), (d - EDGE..d).map(Some));
        head.chain([None]).chain(tail).collect()
    };
    dims.iter().map(shown).collect()
}

/// Every shown index, in row-major order.
fn positions(axes: &[Vec<Option<usize>>]) -> Vec<Vec<usize>> {
    axes.iter().fold(vec![Vec::new()], |prefixes, axis| {
        let extend = |prefix: Vec<usize>| {
            axis.iter().flatten().map(move |&i| [&prefix[..], &[i]].concat()).collect::<Vec<_>>()
        };
        prefixes.into_iter().flat_map(extend).collect()
    })
}

/// A value, ready to be laid out.
enum Value {
    Float(f64),
    Other(String),
}

fn read(operand: &Operand, positions: &[Vec<usize>]) -> Result<Vec<Value>> {
    match operand {
        Operand::Dense(dense) => read_dense(dense, positions),
        Operand::Scaled(scaled) => read_scaled(scaled, positions),
    }
}

fn read_dense(dense: &Dense, positions: &[Vec<usize>]) -> Result<Vec<Value>> {
    let Some(region) = &dense.data else { return Err(no_data()) };
    let (bytes, size) = (region.to_host()?, dense.dtype.size());
    let value = |index: &Vec<usize>| {
        let offset: usize = index.iter().zip(dense.strides.iter()).map(|(i, s)| i * s).sum();
        value_of(dense.dtype, &bytes[offset * size..][..size])
    };
    Ok(positions.iter().map(value).collect())
}

fn read_scaled(scaled: &Scaled, positions: &[Vec<usize>]) -> Result<Vec<Value>> {
    let Some(data) = &scaled.data else { return Err(no_data()) };
    let layout = scaled.layout()?;
    let (codes, scales) = (data.codes.to_host()?, data.scales.to_host()?);
    let tensor_scale = match &data.tensor_scale {
        Some(region) => bytemuck::pod_read_unaligned(&region.to_host()?),
        None => 1.0f32,
    };
    let codes = &codes[..layout.codes_len()];
    let scales = &scales[..layout.scales_bytes()];
    let values = Dequantizer::new(&layout, codes, scales, tensor_scale)?;
    let value = |index: &Vec<usize>| {
        let mut index = index.clone();
        let rank = index.len();
        if scaled.transposed && rank >= 2 {
            index.swap(rank - 2, rank - 1);
        }
        let (leading, col) = index.split_at(rank.saturating_sub(1));
        let line = leading.iter().zip(scaled.dims.iter()).fold(0, |line, (i, d)| line * d + i);
        let mut value = [0.0];
        let rows = layout.rows().max(1);
        let col = col.first().copied().unwrap_or(0);
        values.row_f64(line / rows, line % rows, col, &mut value)?;
        Ok(Value::Float(value[0]))
    };
    positions.iter().map(value).collect()
}

fn no_data() -> Error {
    Error::layout("debug", "tensor", "a specification has no data")
}

fn value_of(dtype: DType, bytes: &[u8]) -> Value {
    fn float<E: Scalar>(bytes: &[u8]) -> Value {
        Value::Float(bytemuck::pod_read_unaligned::<E>(bytes).to_f64())
    }
    fn other<E: Element>(bytes: &[u8]) -> Value {
        Value::Other(bytemuck::pod_read_unaligned::<E>(bytes).to_string())
    }
    let read = match dtype {
        DType::F64 => float::<f64>,
        DType::F32 => float::<f32>,
        DType::BF16 => float::<bf16>,
        DType::F16 => float::<f16>,
        DType::F8E4M3 => float::<F8E4M3>,
        DType::F8E5M2 => float::<F8E5M2>,
        DType::E8M0 => float::<E8M0>,
        DType::UE4M3 => float::<UE4M3>,
        DType::E2M1x2 => other::<E2M1x2>,
        DType::I64 => other::<i64>,
        DType::I32 => other::<i32>,
        DType::I16 => other::<i16>,
        DType::I8 => other::<i8>,
        DType::U64 => other::<u64>,
        DType::U32 => other::<u32>,
        DType::U16 => other::<u16>,
        DType::U8 => other::<u8>,
    };
    read(bytes)
}

/// The values as texts of equal width.
fn cells(values: &[Value]) -> Vec<String> {
    let finite = || {
        let float = |v: &Value| if let Value::Float(x) = v { Some(*x) } else { None };
        values.iter().filter_map(float).filter(|x| x.is_finite())
    };
    let extreme = |x: f64| x.abs() >= LARGE || (x != 0.0 && x.abs() < SMALL);
    let exponent = finite().any(extreme);
    let exact = |decimals: &usize| {
        finite().all(|x| format!("{x:.decimals$}", decimals = *decimals).parse() == Ok(x))
    };
    let decimals = (1..DECIMALS).find(exact).unwrap_or(DECIMALS);
    let text = |value: &Value| match value {
        Value::Float(x) if exponent && x.is_finite() => format!("{x:.DECIMALS$e}"),
        Value::Float(x) => format!("{x:.decimals$}"),
        Value::Other(text) => text.clone(),
    };
    let texts: Vec<String> = values.iter().map(text).collect();
    let width = texts.iter().map(String::len).max().unwrap_or(0);
    texts.into_iter().map(|text| format!("{text:>width$}")).collect()
}

/// Nested brackets, in the making.
struct Page<'a> {
    axes: &'a [Vec<Option<usize>>],
    cells: Vec<String>,
    next: usize,
    text: String,
}

impl Page<'_> {
    fn write(&mut self, axis: usize) {
        let Some(indices) = self.axes.get(axis) else {
            self.text += self.cells.get(self.next).map_or("", String::as_str);
            self.next += 1;
            return;
        };
        let innermost = axis + 1 == self.axes.len();
        self.text.push('[');
        for (i, index) in indices.iter().enumerate() {
            if i > 0 {
                self.separate(axis, innermost);
            }
            match index {
                Some(_) => self.write(axis + 1),
                None => self.text.push('…'),
            }
        }
        self.text.push(']');
    }

    /// A comma, and a new line between rows and where the next cell would not fit.
    fn separate(&mut self, axis: usize, innermost: bool) {
        self.text.push(',');
        let line = self.text.len() - self.text.rfind('\n').map_or(0, |at| at + 1);
        let cell = self.cells.first().map_or(0, String::len);
        let breaks = match innermost {
            true => usize::from(line + cell + 2 > WIDTH),
            false => self.axes.len() - axis - 1,
        };
        match breaks {
            0 => self.text.push(' '),
            n => {
                self.text += &"\n".repeat(n);
                self.text += &" ".repeat(axis + 1);
            }
        }
    }
}
