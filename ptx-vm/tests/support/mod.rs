//! What the tests share: the CUDA compiler, and small helpers around the machine.
#![allow(dead_code)]

pub mod exact;
pub mod mma;
pub mod nvrtc;
pub mod operands;
pub mod wgmma;

use ptx_vm::{DevicePtr, Machine, Module};

/// Compiles a file of `tests/kernels` for a target; `None` where NVRTC is absent.
pub fn compile(source: &str, arch: &str) -> Option<Module> {
    let ptx = nvrtc::compile(source, arch)?;
    match Module::from_ptx(&ptx) {
        Ok(m) => Some(m),
        Err(e) => {
            let path = std::env::temp_dir().join(format!("ptx-vm-{arch}.ptx"));
            let _ = std::fs::write(&path, &ptx);
            panic!("{arch}: {e}\nthe PTX is in {}", path.display());
        }
    }
}

/// f32 values as device memory.
pub fn upload_f32(m: &mut Machine, v: &[f32]) -> DevicePtr {
    let bytes: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
    m.upload(&bytes).expect("memory for test data")
}

/// u32 values as device memory.
pub fn upload_u32(m: &mut Machine, v: &[u32]) -> DevicePtr {
    let bytes: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
    m.upload(&bytes).expect("memory for test data")
}

/// u16 values as device memory.
pub fn upload_u16(m: &mut Machine, v: &[u16]) -> DevicePtr {
    let bytes: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
    m.upload(&bytes).expect("memory for test data")
}

/// u64 values as device memory.
pub fn upload_u64(m: &mut Machine, v: &[u64]) -> DevicePtr {
    let bytes: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
    m.upload(&bytes).expect("memory for test data")
}

fn bytes(m: &Machine, p: DevicePtr, n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    m.read_written(p, &mut out).expect("results were written");
    out
}

/// `n` f32 results, all written.
pub fn read_f32(m: &Machine, p: DevicePtr, n: usize) -> Vec<f32> {
    bytes(m, p, 4 * n).chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

/// `n` u32 results, all written.
pub fn read_u32(m: &Machine, p: DevicePtr, n: usize) -> Vec<u32> {
    read_f32(m, p, n).into_iter().map(f32::to_bits).collect()
}

/// `n` u16 results, all written.
pub fn read_u16(m: &Machine, p: DevicePtr, n: usize) -> Vec<u16> {
    bytes(m, p, 2 * n).chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect()
}

/// `n` u64 results, all written.
pub fn read_u64(m: &Machine, p: DevicePtr, n: usize) -> Vec<u64> {
    bytes(m, p, 8 * n)
        .chunks(8)
        .map(|c| c.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)))
        .collect()
}

/// A small generator of repeatable values.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
