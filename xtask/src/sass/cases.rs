//! Operations that stand for the kernels: each with the sizes that people run.

use anyhow::Result;
use ferrocerium::Device;
use ferrocerium::format::Format;
use ferrocerium::memory::Region;
use ferrocerium::num::DType;
use ferrocerium::op::{
    ArgReduce, Attention, Convert, Dense, Elementwise, Function, Gemm, GroupedGemm, KvLayout, Mask,
    Norm, NormKind, Op, Operand, Reduce, Reduction, Scaled, ScaledData, Softmax,
};
use ferrocerium::registry::Numerics;

/// What an operand is made of.
#[derive(Clone, Copy)]
enum Kind {
    Plain(DType),
    Blocks(Format),
}
use Kind::{Blocks, Plain};

const BF16: Kind = Plain(DType::BF16);

impl Kind {
    /// An operand of zeros.
    fn zeros(self, device: &Device, dims: &[usize]) -> Result<Operand> {
        let region =
            |bytes: usize| -> Result<Region> { Ok(Region::whole(device.allocate(bytes, "case")?)) };
        match self {
            Plain(dtype) => {
                let mut dense = Dense::spec(dtype, dims)?;
                dense.data = Some(region(dense.dims.numel()? * dtype.size())?);
                Ok(dense.into())
            }
            Blocks(format) => {
                let mut scaled = Scaled::spec(format, dims)?;
                let layout = scaled.layout()?;
                let tensor_scale = layout.tensor_scale_len() * size_of::<f32>();
                scaled.data = Some(ScaledData {
                    codes: region(layout.codes_len())?,
                    scales: region(layout.scales_bytes())?,
                    tensor_scale: (tensor_scale > 0).then(|| region(tensor_scale)).transpose()?,
                });
                Ok(Operand::Scaled(scaled))
            }
        }
    }

    fn name(self) -> String {
        match self {
            Plain(dtype) => dtype.to_string(),
            Blocks(format) => format.to_string(),
        }
    }
}

type Make = dyn Fn(&Device) -> Result<Op> + Send + Sync;

/// An operation of certain sizes.
pub struct Case {
    pub name: String,
    /// Multiply-adds; 0 for operations that are not products.
    pub products: f64,
    /// Whether it is part of a graph, where kernels read what is data.
    pub captured: bool,
    /// The freest class of kernels that it accepts.
    pub numerics: Numerics,
    /// The kernel, where it is not the one that is chosen.
    pub kernel: Option<&'static str>,
    /// What its operands are made of, for a matrix product.
    multiplied: Option<[Kind; 2]>,
    make: Box<Make>,
}

impl Case {
    /// Whether an architecture does it as it is meant: to round to blocks takes instructions that
    /// multiply those, and only others than theirs have sums that are too short.
    pub fn is_of(&self, arch: &str) -> bool {
        match self.numerics {
            Numerics::ReducedAccumulation => arch != "sm_121a",
            numerics => numerics < Numerics::EightBitOperands || arch == "sm_121a",
        }
    }

    /// Multiply-adds of the operation by a kernel: attention that keeps the precision of f32 has
    /// weights in three terms, and a stream eight rows, of which one is wanted.
    pub fn products_by(&self, kernel: &str) -> f64 {
        match kernel {
            "cuda.attention.prefill" | "cuda.attention.decode" => self.products * (1.0 + 3.0) / 2.0,
            "cuda.gemm.stream" => self.products * 8.0,
            _ => self.products,
        }
    }

    /// How the name of the instruction must begin that an architecture multiplies with.
    pub fn instruction(&self, arch: &str) -> Option<&'static str> {
        use Format::*;
        let fp8 = |kind| {
            matches!(kind, Blocks(Fp8Row | Fp8Group128 | Fp8Block128) | Plain(DType::F8E4M3))
        };
        Some(match self.multiplied? {
            // sm_90a has no FP4, and sums of FP8 products that are too short.
            _ if arch != "sm_121a" => "HMMA.16816.F32",
            [Blocks(Nvfp4), Blocks(Nvfp4)] => "OMMA.SF.16864.F32.E2M1.E2M1.UE4M3.4X",
            [Blocks(Mxfp4), Blocks(Mxfp4)] => "OMMA.SF.16864.F32.E2M1.E2M1.E8",
            [Blocks(Mxfp8E4M3), Blocks(Mxfp8E4M3)] => "QMMA.SF.16832.F32.E4M3.E4M3.E8",
            pair if pair.into_iter().all(fp8) => "QMMA.16832.F32.E4M3.E4M3",
            _ => "HMMA.16816.F32",
        })
    }

    /// The operation, on memory of the device.
    pub fn op(&self, device: &Device) -> Result<Op> {
        (self.make)(device)
    }
}

/// Bytes of an operation's operands, each once.
pub fn bytes(op: &Op) -> f64 {
    op.operands().iter().flat_map(|u| u.operand.regions()).map(|r| r.len() as f64).sum()
}

pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for [m, n, k] in [[4096, 4096, 4096], [1, 4096, 4096]] {
        for [a, b] in gemm_kinds() {
            cases.push(gemm([a, b], BF16, [m, n, k]));
        }
    }
    cases.extend([
        shortly_added(gemm([Blocks(Format::Fp8Row); 2], BF16, [4096; 3])),
        shortly_added(gemm(
            [Format::Fp8Group128, Format::Fp8Block128].map(Blocks),
            BF16,
            [4096; 3],
        )),
    ]);
    let [mxfp8, nvfp4] = [Format::Mxfp8E4M3, Format::Nvfp4].map(Blocks);
    cases.extend([
        // Results quantised in their tiles, and after them.
        gemm([mxfp8; 2], mxfp8, [4096; 3]),
        gemm([nvfp4; 2], nvfp4, [4096; 3]),
        // So few tiles that they share k.
        gemm([nvfp4; 2], BF16, [32, 1024, 4096]),
        gemm([BF16, nvfp4], BF16, [1, 512, 4096]),
        grouped([nvfp4; 2], [4096; 3]),
        grouped([BF16; 2], [4096; 3]),
    ]);
    cases.extend([
        attention("prefill", [4096, 4096], BF16),
        attention("decode", [1, 4096], BF16),
        attention("decode", [1, 4096], Plain(DType::F8E4M3)),
    ]);
    cases.extend(
        [
            attention("prefill", [4096, 4096], BF16),
            attention("decode", [1, 4096], BF16),
            attention("decode", [1, 4096], Plain(DType::F8E4M3)),
            attention("decode", [1, 4096], Blocks(Format::Nvfp4)),
            narrowed(attention("prefill", [4096, 4096], Plain(DType::F8E4M3))),
            rounded(attention("prefill", [4096, 4096], BF16), Format::Mxfp8E4M3),
            rounded(attention("prefill", [4096, 4096], BF16), Format::Nvfp4),
        ]
        .map(of_a_graph),
    );
    cases.extend([
        weights_rounded(attention("prefill", [4096, 4096], BF16)),
        narrowed(attention("prefill", [4096, 4096], Plain(DType::F8E4M3))),
        rounded(attention("prefill", [4096, 4096], BF16), Format::Mxfp8E4M3),
        rounded(attention("prefill", [4096, 4096], BF16), Format::Nvfp4),
        rounded(attention("prefill", [4096, 4096], Blocks(Format::Nvfp4)), Format::Nvfp4),
    ]);
    cases.extend(rows());
    cases.extend(reductions());
    cases
}

fn gemm_kinds() -> [[Kind; 2]; 11] {
    use Format::*;
    [
        [BF16, BF16],
        [Plain(DType::F16); 2],
        [Blocks(Fp8Row); 2],
        [Blocks(Fp8Group128), Blocks(Fp8Block128)],
        [Blocks(Mxfp8E4M3); 2],
        [Blocks(Mxfp4); 2],
        [Blocks(Nvfp4); 2],
        [BF16, Blocks(Fp8Row)],
        [BF16, Blocks(Mxfp8E4M3)],
        [BF16, Blocks(Mxfp4)],
        [BF16, Blocks(Nvfp4)],
    ]
}

fn gemm([a, b]: [Kind; 2], d: Kind, [m, n, k]: [usize; 3]) -> Case {
    Case {
        name: format!("gemm {} × {} to {}, {m} × {n} × {k}", a.name(), b.name(), d.name()),
        products: (m * n * k) as f64,
        captured: false,
        numerics: Numerics::AsGiven,
        kernel: None,
        multiplied: Some([a, b]),
        make: Box::new(move |device| {
            let x = a.zeros(device, &[m, k])?;
            let w = transposed(b.zeros(device, &[n, k])?);
            Ok(Op::Gemm(Gemm::new(x, w, d.zeros(device, &[m, n])?)))
        }),
    }
}

fn transposed(operand: Operand) -> Operand {
    match operand {
        Operand::Scaled(scaled) => Operand::Scaled(scaled.transposed()),
        Operand::Dense(mut dense) => {
            let last = dense.dims.len() - 1;
            dense.dims.swap(last - 1, last);
            dense.strides.swap(last - 1, last);
            Operand::Dense(dense)
        }
    }
}

/// Rows of eight groups, each with a matrix of its own.
fn grouped([a, b]: [Kind; 2], [m, n, k]: [usize; 3]) -> Case {
    const GROUPS: usize = 8;
    let of_one = gemm([a, b], BF16, [m, n, k]);
    Case {
        name: format!("{}, {GROUPS} groups", of_one.name),
        make: Box::new(move |device| {
            let w = transposed(b.zeros(device, &[GROUPS, n, k])?);
            let offsets = Plain(DType::I32).zeros(device, &[GROUPS + 1])?;
            let (x, d) = (a.zeros(device, &[m, k])?, BF16.zeros(device, &[m, n])?);
            Ok(Op::GroupedGemm(GroupedGemm::new(x, w, offsets, d)))
        }),
        ..of_one
    }
}

/// 32 query heads over 8 of keys and values, 128 elements each, causal.
fn attention(what: &str, [queries, keys]: [usize; 2], cache: Kind) -> Case {
    let (heads, kv_heads, d) = (32, 8, 128);
    let seen = queries * keys - queries * (queries - 1) / 2;
    Case {
        name: format!(
            "attention {what}, {queries} × {keys}, {heads}/{kv_heads} heads of {d}, {} cache",
            cache.name()
        ),
        products: (2 * heads * d * seen) as f64,
        captured: false,
        numerics: Numerics::AsGiven,
        kernel: None,
        multiplied: None,
        make: Box::new(move |device| {
            let q = BF16.zeros(device, &[1, queries, heads, d])?;
            let [k, v] = [(); 2].map(|()| cache.zeros(device, &[1, keys, kv_heads, d]));
            let out = BF16.zeros(device, &[1, queries, heads, d])?;
            let mask = Mask::CAUSAL;
            Ok(Op::Attention(Attention { mask, ..Attention::new(q, k?, v?, out) }))
        }),
    }
}

/// The same by FP8 instructions whose sums may be shorter than f32.
fn shortly_added(case: Case) -> Case {
    Case {
        name: format!("{}, added shortly", case.name),
        numerics: Numerics::ReducedAccumulation,
        kernel: Some("cuda.gemm.fp8"),
        ..case
    }
}

/// The same, weights rounded to 16 bits.
fn weights_rounded(case: Case) -> Case {
    Case {
        name: format!("{}, weights rounded", case.name),
        numerics: Numerics::RoundedIntermediates,
        multiplied: Some([BF16; 2]),
        ..case
    }
}

/// The same of FP8 elements, to which all others are rounded.
fn narrowed(case: Case) -> Case {
    Case {
        name: format!("{}, narrowed", case.name),
        numerics: Numerics::NarrowedOperands,
        multiplied: Some([Plain(DType::F8E4M3); 2]),
        ..case
    }
}

/// The same, all operands rounded to a block format.
fn rounded(case: Case, format: Format) -> Case {
    Case {
        name: format!("{}, rounded to {format}", case.name),
        numerics: Numerics::FourBitOperands,
        kernel: Some(match format {
            Format::Nvfp4 => "cuda.attention.prefill.nvfp4",
            _ => "cuda.attention.prefill.mxfp8",
        }),
        multiplied: Some([Blocks(format); 2]),
        ..case
    }
}

/// The same in a graph: the GPU alone knows how many keys there are.
fn of_a_graph(case: Case) -> Case {
    let make = case.make;
    Case {
        name: format!("{}, in a graph", case.name),
        captured: true,
        make: Box::new(move |device| {
            let mut op = make(device)?;
            if let Op::Attention(op) = &mut op {
                op.kv = KvLayout::Batched { kv_lens: Some(Plain(DType::I32).zeros(device, &[1])?) };
            }
            Ok(op)
        }),
        ..case
    }
}

/// Operations on rows of 4096 elements.
fn rows() -> Vec<Case> {
    const DIMS: [usize; 2] = [4096, 4096];
    type OfRows = fn(&Device, Operand, Operand) -> Result<Op>;
    let case = |name: &str, make: OfRows, to: Kind| Case {
        name: format!("{name}, {} × {} {}", DIMS[0], DIMS[1], to.name()),
        products: 0.0,
        captured: false,
        numerics: Numerics::AsGiven,
        kernel: None,
        multiplied: None,
        make: Box::new(move |device| {
            make(device, BF16.zeros(device, &DIMS)?, to.zeros(device, &DIMS)?)
        }),
    };
    let norm: OfRows = |device, x, out| {
        let mut norm = Norm::new(NormKind::Rms, x, out, 1e-5);
        norm.weight = Some(BF16.zeros(device, &DIMS[1..])?);
        Ok(Op::Norm(norm))
    };
    vec![
        case("rms norm", norm, BF16),
        case("softmax", |_, x, out| Ok(Op::Softmax(Softmax::new(x, out))), BF16),
        case(
            "add",
            |device, a, out| {
                let b = Some(BF16.zeros(device, &DIMS)?);
                let function = Function::Add;
                Ok(Op::Elementwise(Elementwise { function, a, b, out, quantizer: None }))
            },
            BF16,
        ),
        case("cast", |_, x, out| Ok(Op::Convert(Convert::new(x, out))), Plain(DType::F32)),
        case("quantise", |_, x, out| Ok(Op::Convert(Convert::new(x, out))), Blocks(Format::Nvfp4)),
    ]
}

/// One result, sums of columns and of rows, and searches.
fn reductions() -> Vec<Case> {
    let case = |name: String, make: Box<Make>| Case {
        name,
        products: 0.0,
        captured: false,
        numerics: Numerics::AsGiven,
        kernel: None,
        multiplied: None,
        make,
    };
    let [f32, fp8] = [DType::F32, DType::F8E4M3].map(Plain);
    let (all, rows, columns): (&[usize], &[usize], &[usize]) = (&[0, 1], &[1], &[0]);
    let reduced = [
        (Reduction::Sum, BF16, all, [8192, 8192]),
        (Reduction::Sum, f32, all, [8192, 8192]),
        (Reduction::Sum, BF16, columns, [65536, 4096]),
        (Reduction::Sum, BF16, columns, [65536, 64]),
        (Reduction::Sum, BF16, columns, [65536, 100]),
        (Reduction::Sum, BF16, rows, [4096, 4096]),
        (Reduction::AbsMax, BF16, all, [8192, 8192]),
        (Reduction::AbsMax, fp8, rows, [4096, 4096]),
        (Reduction::Max, BF16, columns, [4096, 4096]),
    ];
    let reduced = reduced.map(|(function, x, axes, [m, n])| {
        let name = format!("reduce {function}, {m} × {n} {} over {axes:?}", x.name());
        let make = move |device: &Device| {
            let kept = [0, 1].map(|axis| if axes.contains(&axis) { 1 } else { [m, n][axis] });
            let (x, out) = (x.zeros(device, &[m, n])?, f32.zeros(device, &kept)?);
            Ok(Reduce::new(function, x, axes, out).into())
        };
        case(name, Box::new(make))
    });
    let searched = [([256, 151_936], 1), ([65536, 256], 0)].map(|(dims, axis)| {
        let name = format!("arg_reduce, {} × {} {} over {axis}", dims[0], dims[1], BF16.name());
        let make = move |device: &Device| {
            let out = Plain(DType::U32).zeros(device, &[dims[1 - axis]])?;
            Ok(ArgReduce::max(BF16.zeros(device, &dims)?, axis, out).into())
        };
        case(name, Box::new(make))
    });
    reduced.into_iter().chain(searched).collect()
}
