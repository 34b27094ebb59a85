//! What share of the rate of memory, or of matrix units if those are slower, kernels are to reach by
//! count: all of it, unless they are listed here with what they do reach. Who makes one faster raises
//! its number.

use super::machine::Machine;

/// Percent on GB10 and on an H200.
const REACHED: &[(&str, [u32; 2])] = &[
    ("gemm bf16 × bf16 to bf16, 4096 × 4096 × 4096", [100, 78]),
    ("gemm f16 × f16 to bf16, 4096 × 4096 × 4096", [100, 78]),
    ("gemm fp8row × fp8row to bf16, 4096 × 4096 × 4096", [100, 79]),
    ("gemm fp8group128 × fp8block128 to bf16, 4096 × 4096 × 4096", [100, 57]),
    ("gemm mxfp8 × mxfp8 to bf16, 4096 × 4096 × 4096", [100, 43]),
    ("gemm mxfp4 × mxfp4 to bf16, 4096 × 4096 × 4096", [100, 43]),
    ("gemm nvfp4 × nvfp4 to bf16, 4096 × 4096 × 4096", [100, 79]),
    ("gemm bf16 × fp8row to bf16, 4096 × 4096 × 4096", [100, 78]),
    ("gemm bf16 × mxfp8 to bf16, 4096 × 4096 × 4096", [100, 57]),
    ("gemm bf16 × mxfp4 to bf16, 4096 × 4096 × 4096", [100, 57]),
    ("gemm bf16 × nvfp4 to bf16, 4096 × 4096 × 4096", [100, 78]),
    ("gemm mxfp8 × mxfp8 to bf16, 1 × 4096 × 4096", [100, 93]),
    ("gemm mxfp4 × mxfp4 to bf16, 1 × 4096 × 4096", [100, 95]),
    ("gemm nvfp4 × nvfp4 to bf16, 1 × 4096 × 4096", [100, 70]),
    ("gemm bf16 × mxfp4 to bf16, 1 × 4096 × 4096", [100, 86]),
    ("gemm bf16 × nvfp4 to bf16, 1 × 4096 × 4096", [100, 91]),
    ("gemm mxfp8 × mxfp8 to mxfp8, 4096 × 4096 × 4096", [100, 43]),
    ("gemm nvfp4 × nvfp4 to nvfp4, 4096 × 4096 × 4096", [100, 79]),
    ("gemm nvfp4 × nvfp4 to bf16, 32 × 1024 × 4096", [100, 47]),
    ("gemm bf16 × nvfp4 to bf16, 1 × 512 × 4096", [100, 92]),
    ("gemm nvfp4 × nvfp4 to bf16, 4096 × 4096 × 4096, 8 groups", [100, 79]),
    ("gemm bf16 × bf16 to bf16, 4096 × 4096 × 4096, 8 groups", [100, 78]),
    ("attention decode, 1 × 4096, 32/8 heads of 128, f8e4m3 cache", [100, 92]),
    ("attention decode, 1 × 4096, 32/8 heads of 128, f8e4m3 cache, in a graph", [100, 91]),
    ("attention decode, 1 × 4096, 32/8 heads of 128, nvfp4 cache, in a graph", [100, 82]),
    (
        "attention prefill, 4096 × 4096, 32/8 heads of 128, f8e4m3 cache, narrowed, in a graph",
        [87, 25],
    ),
    (
        "attention prefill, 4096 × 4096, 32/8 heads of 128, bf16 cache, rounded to nvfp4, in a graph",
        [58, 100],
    ),
    ("attention prefill, 4096 × 4096, 32/8 heads of 128, bf16 cache, weights rounded", [100, 72]),
    ("attention prefill, 4096 × 4096, 32/8 heads of 128, f8e4m3 cache, narrowed", [87, 25]),
    ("attention prefill, 4096 × 4096, 32/8 heads of 128, bf16 cache, rounded to nvfp4", [58, 100]),
    ("attention prefill, 4096 × 4096, 32/8 heads of 128, nvfp4 cache, rounded to nvfp4", [39, 100]),
    ("rms norm, 4096 × 4096 bf16", [100, 54]),
    ("quantise, 4096 × 4096 nvfp4", [100, 44]),
    ("gemm fp8group128 × fp8block128 to bf16, 4096 × 4096 × 4096, added shortly", [100, 55]),
];

/// The share that is declared for a case.
pub fn declared(case: &str, machine: &Machine) -> f64 {
    let listed = REACHED.iter().find(|(name, _)| *name == case);
    let [gb10, h200] = listed.map_or([100, 100], |(_, reached)| *reached);
    f64::from(if machine.arch == "sm_121a" { gb10 } else { h200 }) / 100.0
}

#[cfg(test)]
mod tests {
    use super::super::cases;
    use super::*;

    #[test]
    fn what_is_listed_is_a_case() {
        let cases = cases::all();
        for (name, _) in REACHED {
            assert!(cases.iter().any(|case| case.name == *name), "{name}");
        }
    }
}
