//! What the machine can do at most.

use std::fmt;
use std::time::Instant;

use ferrocerium::backend::cuda::Attributes;
use ferrocerium::{Device, Tensor};
use serde_json::{Value, json};

/// Bytes that are copied: more than any cache holds.
const COPIED: usize = 1 << 30;

/// Operations a second that the vendor states for dense products of 16-bit elements with sums in
/// f32, by what a GPU's name contains; those of 8 bits are twice as many. GB10's follows from its
/// clock (2.4 GHz, 48 multiprocessors of 1024 multiply-adds).
const PRODUCTS: [(&str, f64); 5] =
    [("H200", 989e12), ("H100 PCIe", 756e12), ("H100", 989e12), ("A100", 312e12), ("GB10", 118e12)];

pub struct Limits {
    /// Bytes a second that a copy reads and writes together.
    copy: Option<f64>,
    /// Operations a second of 16-bit elements.
    products: Option<f64>,
}

impl Limits {
    pub fn of(device: &Device, emulated: bool, skipped: &mut Vec<String>) -> Self {
        if emulated {
            return Limits { copy: None, products: None };
        }
        let copy = copy_bandwidth(device);
        let copy = copy.map_err(|e| skipped.push(format!("copy bandwidth: {e}"))).ok();
        let index = device.name().rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let name = Attributes::of_cuda(index).map(|a| a.name).unwrap_or_default();
        let products = PRODUCTS.into_iter().find(|(part, _)| name.contains(part)).map(|(_, n)| n);
        if products.is_none() {
            skipped.push(format!("shares of what multiplies at most: none is known for `{name}`"));
        }
        Limits { copy, products }
    }

    /// The least seconds for so many operations on elements of that many bits, and bytes.
    pub fn floor(&self, flops: f64, bytes: f64, bits: u32) -> Option<f64> {
        let by_memory = bytes / self.copy?;
        let by_products = match (self.products, bits) {
            _ if flops == 0.0 => 0.0,
            (Some(products), bits) => flops / (products * 16.0 / f64::from(bits)),
            (None, _) => return None,
        };
        Some(by_memory.max(by_products))
    }

    pub fn json(&self) -> Value {
        json!({"copy_bytes_per_s": self.copy, "bf16_flops": self.products})
    }
}

/// By a graph of copies, as the cases are measured.
fn copy_bandwidth(device: &Device) -> ferrocerium::Result<f64> {
    let n = COPIED / size_of::<f32>();
    let from = Tensor::<f32, 1>::zeros(device, [n])?;
    let to = Tensor::<f32, 1>::zeros(device, [n])?;
    let (graph, ()) = device.capture(|| to.copy_from(&from))?;
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let start = Instant::now();
        graph.replay()?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * COPIED as f64 / best)
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.copy {
            Some(copy) => write!(f, "copies {:.0} GB/s, read and written together", copy / 1e9)?,
            None => f.write_str("copies: not measured")?,
        }
        match self.products {
            Some(products) => write!(f, "; multiplies {:.0} TFLOP/s of bf16", products / 1e12),
            None => f.write_str("; what it multiplies at most is not known"),
        }
    }
}
