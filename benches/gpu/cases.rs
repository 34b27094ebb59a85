//! What is measured.

use std::time::Instant;

use ferrocerium::caps::Isa;
use ferrocerium::format::{BlockFormat, Fp8PerRow, Mxfp4, Mxfp8, Nvfp4};
use ferrocerium::registry::{Numerics, Request};
use ferrocerium::tensor::MatOperand;
use ferrocerium::{Device, F8E4M3, Result, ScaledTensor, Tensor, bf16};
use serde_json::{Value, json};

/// Bytes of operands that launches take turns at: more than twice of what caches hold.
const ROTATED: f64 = 192e6;

/// The most copies of operands.
const MOST_COPIES: usize = 32;

/// What weights, keys and values are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bf16,
    Fp8,
    Mx8,
    Mx4,
    Nv4,
}
use Kind::{Bf16, Fp8, Mx4, Mx8, Nv4};

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Bf16 => "bf16",
            Fp8 => "fp8",
            Mx8 => "mxfp8",
            Mx4 => "mxfp4",
            Nv4 => "nvfp4",
        }
    }

    /// With block scales.
    fn bits(self) -> f64 {
        match self {
            Bf16 => 16.0,
            Fp8 => 8.0,
            Mx8 => 8.25,
            Mx4 => 4.25,
            Nv4 => 4.5,
        }
    }
}

/// An operation of certain sizes.
#[derive(Clone, Copy, Debug)]
pub enum Case {
    /// `[m, k]` of a kind times `[k, n]` of a kind, stored `[n, k]`, to bf16.
    Gemm { m: usize, n: usize, k: usize, a: Kind, b: Kind },
    /// The last queries of each sequence, heads of 128 elements, bf16 queries; what the kernel may
    /// round them to.
    Attention {
        batch: usize,
        queries: usize,
        keys: usize,
        heads: usize,
        kv_heads: usize,
        kv: Kind,
        numerics: Numerics,
    },
    /// RMSNorm of rows of bf16.
    Norm { rows: usize, n: usize },
}

const D: usize = 128;

const fn gemm(m: usize, n: usize, k: usize, a: Kind, b: Kind) -> Case {
    Case::Gemm { m, n, k, a, b }
}

const fn attention(batch: usize, queries: usize, keys: usize, kv: Kind) -> Case {
    let numerics = Numerics::AsGiven;
    Case::Attention { batch, queries, keys, heads: 32, kv_heads: 8, kv, numerics }
}

/// A prompt of a sequence.
const fn prefill(len: usize, kv: Kind, numerics: Numerics) -> Case {
    Case::Attention { batch: 1, queries: len, keys: len, heads: 32, kv_heads: 8, kv, numerics }
}

/// All of them; small ones for the emulator.
pub fn cases(emulated: bool) -> Vec<Case> {
    if emulated {
        return vec![
            gemm(64, 64, 128, Bf16, Bf16),
            gemm(1, 64, 256, Bf16, Nv4),
            gemm(64, 64, 128, Fp8, Fp8),
            attention(1, 1, 64, Bf16),
            attention(1, 1, 64, Nv4),
            Case::Norm { rows: 2, n: 256 },
        ];
    }
    let mut all = vec![
        gemm(8192, 8192, 8192, Bf16, Bf16),
        gemm(4096, 4096, 4096, Bf16, Bf16),
        gemm(512, 8192, 8192, Bf16, Bf16),
        gemm(8192, 8192, 8192, Fp8, Fp8),
        gemm(8192, 8192, 8192, Mx8, Mx8),
        gemm(8192, 8192, 8192, Nv4, Nv4),
        gemm(8192, 8192, 8192, Bf16, Nv4),
    ];
    for b in [Bf16, Fp8, Mx4, Nv4] {
        all.push(gemm(1, 8192, 8192, Bf16, b));
        all.push(gemm(1, 28672, 8192, Bf16, b));
    }
    all.extend([4, 16].map(|m| gemm(m, 8192, 8192, Bf16, Nv4)));
    for kv in [Bf16, Fp8, Nv4] {
        all.push(attention(1, 1, 32768, kv));
        all.push(attention(32, 1, 8192, kv));
    }
    all.extend([
        prefill(4096, Bf16, Numerics::AsGiven),
        prefill(16384, Bf16, Numerics::AsGiven),
        prefill(4096, Fp8, Numerics::AsGiven),
        prefill(4096, Fp8, Numerics::NarrowedOperands),
        prefill(4096, Bf16, Numerics::EightBitOperands),
        prefill(4096, Bf16, Numerics::FourBitOperands),
    ]);
    all.push(Case::Norm { rows: 8192, n: 8192 });
    all
}

type Launch = Box<dyn Fn() -> Result<()>>;

impl Case {
    pub fn name(&self) -> String {
        match *self {
            Case::Gemm { m, n, k, a, b } => {
                format!("gemm {m} × {n} × {k}, {} × {}", a.name(), b.name())
            }
            Case::Attention { batch, queries, keys, heads, kv_heads, kv, numerics } => {
                let rounded = match numerics {
                    Numerics::AsGiven => String::new(),
                    numerics => format!(", {numerics}"),
                };
                let (sizes, kv) = (format!("{batch} × {queries} × {keys}"), kv.name());
                format!("attention {sizes}, {heads}/{kv_heads}, {kv}{rounded}")
            }
            Case::Norm { rows, n } => format!("rms_norm {rows} × {n}, bf16"),
        }
    }

    /// Multiplications and additions of products.
    pub fn flops(&self) -> f64 {
        match *self {
            Case::Gemm { m, n, k, .. } => 2.0 * m as f64 * n as f64 * k as f64,
            Case::Attention { batch, queries, keys, heads, .. } => {
                // Causal: pairs of a query and a key that it sees.
                let pairs = queries * keys - queries * (queries - 1) / 2;
                4.0 * (batch * heads * D) as f64 * pairs as f64
            }
            Case::Norm { .. } => 0.0,
        }
    }

    /// Bytes that must be read and written once.
    pub fn bytes(&self) -> f64 {
        match *self {
            Case::Gemm { m, n, k, a, b } => {
                let of = |rows: usize, kind: Kind| (rows * k) as f64 * kind.bits() / 8.0;
                of(m, a) + of(n, b) + 2.0 * (m * n) as f64
            }
            Case::Attention { batch, queries, keys, heads, kv_heads, kv, .. } => {
                let cache = (2 * batch * keys * kv_heads * D) as f64 * kv.bits() / 8.0;
                cache + 4.0 * (batch * queries * heads * D) as f64
            }
            Case::Norm { rows, n } => 4.0 * (rows * n) as f64,
        }
    }

    /// Bits of the elements whose products bound it: of the wider operand.
    pub fn multiplied_bits(&self) -> u32 {
        match *self {
            Case::Gemm { a: Fp8 | Mx8, b: Fp8 | Mx8, .. } => 8,
            Case::Gemm { a: Mx4 | Nv4, b: Mx4 | Nv4, .. } => 4,
            Case::Attention {
                numerics: Numerics::NarrowedOperands | Numerics::EightBitOperands,
                ..
            } => 8,
            Case::Attention { numerics: Numerics::FourBitOperands, .. } => 4,
            _ => 16,
        }
    }

    /// How many operands launches take turns at.
    pub fn copies(&self) -> usize {
        ((ROTATED / self.bytes()).ceil() as usize).clamp(2, MOST_COPIES)
    }

    /// Sizes, and whether elements are FP8, where cuBLASLt has the product.
    pub fn plain_product(&self) -> Option<([usize; 3], bool)> {
        match *self {
            Case::Gemm { m, n, k, a: Bf16, b: Bf16 } => Some(([m, n, k], false)),
            Case::Gemm { m, n, k, a: Fp8, b: Fp8 } => Some(([m, n, k], true)),
            _ => None,
        }
    }

    /// What `torch.py` is asked, where PyTorch has it.
    pub fn for_torch(&self) -> Option<Value> {
        let copies = self.copies();
        match *self {
            Case::Gemm { m, n, k, a: Bf16, b: Bf16 } => {
                Some(json!({"op": "gemm", "m": m, "n": n, "k": k, "copies": copies}))
            }
            Case::Attention {
                batch,
                queries,
                keys,
                heads,
                kv_heads,
                kv: Bf16,
                numerics: Numerics::AsGiven,
            } => Some(json!({
                "op": "attention", "batch": batch, "queries": queries, "keys": keys,
                "heads": heads, "kv_heads": kv_heads, "d": D, "copies": copies,
            })),
            _ => None,
        }
    }

    /// Seconds of one launch, the median of some replays, and the names of the kernels that ran.
    pub fn seconds(&self, device: &Device, replays: usize) -> Result<(f64, String)> {
        let copies = if replays > 1 { self.copies() } else { 1 };
        let launches = (0..copies).map(|_| self.launch(device));
        let launches = launches.collect::<Result<Vec<Launch>>>()?;
        let before = device.launches();
        let (graph, ()) = device.capture(|| launches.iter().try_for_each(|launch| launch()))?;
        let mut times = Vec::new();
        for run in 0..replays + 1 {
            let start = Instant::now();
            graph.replay()?;
            device.synchronize()?;
            // The first one warms up, unless it is all that there is time for.
            if run > 0 || replays == 1 {
                times.push(start.elapsed().as_secs_f64() / copies as f64);
            }
            if replays == 1 {
                break;
            }
        }
        times.sort_by(f64::total_cmp);
        let after = device.launches();
        let ran = after.iter().filter(|(name, count)| before.get(*name) != Some(count));
        let names: Vec<&str> = ran.map(|(name, _)| name.as_str()).collect();
        Ok((times[times.len() / 2], names.join(" ")))
    }

    /// One launch over operands of its own.
    fn launch(&self, device: &Device) -> Result<Launch> {
        match *self {
            Case::Gemm { m, n, k, a, b } => {
                let out = Tensor::<bf16, 2>::zeros(device, [m, n])?;
                let (x, w) = (values(device, [m, k])?, values(device, [n, k])?);
                match (a, b) {
                    (Bf16, Bf16) => product(x, w.t(), out),
                    (Bf16, Fp8) => product(x, quantized::<Fp8PerRow>(&w)?, out),
                    (Bf16, Mx8) => product(x, quantized::<Mxfp8>(&w)?, out),
                    (Bf16, Mx4) => product(x, quantized::<Mxfp4>(&w)?, out),
                    (Bf16, Nv4) => product(x, quantized::<Nvfp4>(&w)?, out),
                    (Fp8, _) => both::<Fp8PerRow>(&x, &w, out),
                    (Mx8, _) => both::<Mxfp8>(&x, &w, out),
                    (Mx4, _) => both::<Mxfp4>(&x, &w, out),
                    (Nv4, _) => both::<Nvfp4>(&x, &w, out),
                }
            }
            Case::Attention { batch, queries, keys, heads, kv_heads, kv, numerics } => {
                let mut request = Request { numerics, ..device.request().clone() };
                // Who accepts four bits gets what is faster.
                if numerics == Numerics::FourBitOperands && device.caps().has(Isa::MmaBlockScaled) {
                    request.kernel = Some("cuda.attention.prefill.nvfp4".to_owned());
                }
                let device = &device.with_request(request);
                let q = values(device, [batch, queries, heads, D])?;
                let shape = [batch, keys, kv_heads, D];
                let (k, v) = (values(device, shape)?, values(device, shape)?);
                match kv {
                    Fp8 => mixed(q, k.cast::<F8E4M3>()?, v.cast::<F8E4M3>()?),
                    Nv4 => mixed(q, k.quantize::<Nvfp4>()?, v.quantize::<Nvfp4>()?),
                    Mx4 => mixed(q, k.quantize::<Mxfp4>()?, v.quantize::<Mxfp4>()?),
                    Mx8 => mixed(q, k.quantize::<Mxfp8>()?, v.quantize::<Mxfp8>()?),
                    Bf16 => mixed(q, k, v),
                }
            }
            Case::Norm { rows, n } => {
                let x = values(device, [rows, n])?;
                let weight = Tensor::full(device, [n], bf16::ONE)?;
                Ok(Box::new(move || x.rms_norm(&weight, 1e-5).map(drop)))
            }
        }
    }
}

/// `out = x · w`
fn product(
    x: Tensor<bf16, 2>,
    w: impl MatOperand<2> + 'static,
    out: Tensor<bf16, 2>,
) -> Result<Launch> {
    Ok(Box::new(move || x.gemm(&w).run_into(&out)))
}

/// Weights in blocks, as the right operand.
fn quantized<F: BlockFormat>(w: &Tensor<bf16, 2>) -> Result<ScaledTensor<F, 2>> {
    Ok(w.quantize::<F>()?.t())
}

/// Both in blocks.
fn both<F: BlockFormat>(
    x: &Tensor<bf16, 2>,
    w: &Tensor<bf16, 2>,
    out: Tensor<bf16, 2>,
) -> Result<Launch> {
    let (x, w) = (x.quantize::<F>()?, quantized::<F>(w)?);
    Ok(Box::new(move || x.gemm(&w).run_into(&out)))
}

fn mixed(
    q: Tensor<bf16, 4>,
    k: impl MatOperand<4> + 'static,
    v: impl MatOperand<4> + 'static,
) -> Result<Launch> {
    let out = Tensor::<bf16, 4>::zeros(q.device(), q.shape())?;
    Ok(Box::new(move || q.attention(&k, &v).causal().run_into(&out)))
}

/// Values between −1 and 1, a pattern of a million of them repeated: what a kernel's time does not
/// depend on.
fn values<const R: usize>(device: &Device, shape: [usize; R]) -> Result<Tensor<bf16, R>> {
    const PATTERN: usize = (1 << 20) - 3;
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bf16::from_f32((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    let len: usize = shape.iter().product();
    let pattern: Vec<bf16> = (0..PATTERN.min(len)).map(|_| next()).collect();
    let data: Vec<bf16> = pattern.iter().cycle().take(len).copied().collect();
    Tensor::from_host(device, shape, &data)
}
