//! Random matrix operands in the formats of the GEMM kernels, and their exact products.

use super::Random;
use super::exact::{BF16, E2M1, E4M3, Value};

/// How elements are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Format {
    Bf16,
    /// E4M3.
    Fp8,
    /// E2M1 with a UE4M3 scale for every 16 along k.
    Nvfp4,
}

impl Format {
    pub fn bits(self) -> usize {
        match self {
            Format::Bf16 => 16,
            Format::Fp8 => 8,
            Format::Nvfp4 => 4,
        }
    }
}

/// One matrix by rows; scales only where the format has them.
pub struct Operand {
    pub bytes: Vec<u8>,
    pub scales: Vec<u8>,
}

/// A product: A [m, k], B [n, k].
pub struct Problem {
    pub format: Format,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand,
    pub b: Operand,
}

fn number(v: Value) -> f64 {
    match v {
        Value::Finite { negative, magnitude, exponent } => {
            let x = magnitude as f64 * f64::from(exponent).exp2();
            if negative { -x } else { x }
        }
        _ => f64::NAN,
    }
}

impl Operand {
    fn new(format: Format, rows: usize, k: usize, r: &mut Random) -> Operand {
        let codes = (0..rows * k).map(|_| {
            let noise = (r.bits() >> 11) as u32;
            match format {
                // A sign, an exponent within two of one, seven bits.
                Format::Bf16 => noise & 0x807f | (125 + noise / 0x1_0000 % 4) << 7,
                Format::Fp8 => noise & 0x87 | (4 + noise / 0x1_0000 % 6) << 3,
                Format::Nvfp4 => noise & 0xf,
            }
        });
        let codes: Vec<u32> = codes.collect();
        let bytes = match format {
            Format::Bf16 => codes.iter().flat_map(|c| (*c as u16).to_le_bytes()).collect(),
            Format::Fp8 => codes.iter().map(|c| *c as u8).collect(),
            Format::Nvfp4 => codes.chunks(2).map(|c| (c[0] | c[1] << 4) as u8).collect(),
        };
        let scales = match format {
            Format::Nvfp4 => {
                (0..rows * k / 16).map(|_| 0x28 + (r.bits() >> 17) as u8 % 32).collect()
            }
            _ => Vec::new(),
        };
        Operand { bytes, scales }
    }

    /// The value of an element, scale included.
    pub fn value(&self, format: Format, k: usize, row: usize, j: usize) -> f64 {
        let i = row * k + j;
        match format {
            Format::Bf16 => {
                let code = u16::from_le_bytes([self.bytes[2 * i], self.bytes[2 * i + 1]]);
                number(BF16.decode(u32::from(code)))
            }
            Format::Fp8 => number(E4M3.decode(u32::from(self.bytes[i]))),
            Format::Nvfp4 => {
                let code = u32::from(self.bytes[i / 2]) >> (i % 2 * 4) & 0xf;
                let scale = self.scales[row * (k / 16) + j / 16];
                number(E2M1.decode(code)) * number(E4M3.decode(u32::from(scale)))
            }
        }
    }
}

impl Problem {
    pub fn new(format: Format, m: usize, n: usize, k: usize, seed: u64) -> Problem {
        let mut r = Random::new(seed);
        let a = Operand::new(format, m, k, &mut r);
        let b = Operand::new(format, n, k, &mut r);
        Problem { format, m, n, k, a, b }
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.k * self.format.bits() / 8
    }

    /// The element of the product, and the sum of its terms' magnitudes: few bits and close
    /// exponents, exact in f64.
    pub fn exact(&self, row: usize, col: usize) -> (f64, f64) {
        let terms = (0..self.k).map(|j| {
            self.a.value(self.format, self.k, row, j) * self.b.value(self.format, self.k, col, j)
        });
        terms.fold((0.0, 0.0), |(sum, magnitude), t| (sum + t, magnitude + t.abs()))
    }
}
