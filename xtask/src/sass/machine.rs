//! Machines that times are predicted for. What is published of them, and rates that follow.

use super::listing::Instruction;
use super::mix;

/// Parts of a multiprocessor: each issues one instruction a cycle and has a matrix unit.
pub const PARTS: u64 = 4;

/// Bytes of shared memory that a multiprocessor reads or writes in a cycle.
pub const SHARED_BYTES: u64 = 128;

/// Registers of a multiprocessor, and how many a warp takes at a time.
const REGISTERS: u32 = 65536;
const REGISTER_UNIT: u32 = 256;

/// Bytes of shared memory that the system takes for each block.
const RESERVED_SHARED: u32 = 1024;

/// A GPU.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub name: &'static str,
    /// As `Arch` and `ptxas` name it.
    pub arch: &'static str,
    /// Multiprocessors.
    pub units: u64,
    /// Cycles a second.
    pub clock: f64,
    /// Bytes a second that kernels were measured to read.
    pub bandwidth: f64,
    /// Of a multiprocessor.
    pub shared_memory: u32,
    pub threads: u32,
    pub blocks: u32,
    /// Multiply-adds of 16-bit elements that one part does in a cycle.
    half_rate: f64,
}

/// 2.14 GHz is the clock of NVIDIA's own table, 2.5 GHz are reached by some; 232 GB/s is what
/// others measured of the 273 nominal. 1024 operations of 16-bit elements a cycle and
/// multiprocessor: 105 TFLOP/s, twice for FP8, four times for FP4.
const GB10: Machine = Machine {
    name: "GB10",
    arch: "sm_121a",
    units: 48,
    clock: 2.14e9,
    bandwidth: 232e9,
    shared_memory: 100 << 10,
    threads: 1536,
    blocks: 24,
    half_rate: 128.0,
};

/// 4096 operations of 16-bit elements a cycle and multiprocessor make the 989 TFLOP/s of the data
/// sheet at 1.83 GHz. `mma.sync` reaches about 63% of that (arXiv 2501.12084).
const H200: Machine = Machine {
    name: "H200",
    arch: "sm_90a",
    units: 132,
    clock: 1.83e9,
    bandwidth: 4.3e12,
    shared_memory: 228 << 10,
    threads: 2048,
    blocks: 32,
    half_rate: 512.0,
};

pub const MACHINES: [Machine; 2] = [GB10, H200];

/// The share of the peak that `mma.sync` reaches on Hopper.
const HOPPER_WARP_SHARE: f64 = 0.63;

impl Machine {
    /// Cycles that a matrix instruction keeps the matrix unit of a part busy.
    pub fn matrix_cycles(&self, instruction: &Instruction) -> f64 {
        let rate = match (instruction.base(), self.arch) {
            ("HMMA", "sm_90a") => self.half_rate * HOPPER_WARP_SHARE,
            ("QMMA" | "QGMMA", _) => self.half_rate * 2.0,
            ("OMMA", _) => self.half_rate * 4.0,
            _ => self.half_rate,
        };
        mix::products(instruction) as f64 / rate
    }

    /// How many blocks a multiprocessor holds at once.
    pub fn resident(&self, footprint: Footprint) -> u32 {
        let warps = footprint.threads.div_ceil(32).max(1);
        let of_warp = (footprint.registers * 32).next_multiple_of(REGISTER_UNIT).max(REGISTER_UNIT);
        let of_part = REGISTERS / PARTS as u32 / of_warp;
        let by_registers = of_part * PARTS as u32 / warps;
        let by_shared = self.shared_memory / (footprint.shared_memory + RESERVED_SHARED);
        let by_threads = self.threads / (warps * 32);
        by_registers.min(by_shared).min(by_threads).min(self.blocks)
    }
}

/// What a block takes of a multiprocessor.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    pub threads: u32,
    /// Of a thread.
    pub registers: u32,
    /// Static and dynamic.
    pub shared_memory: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_limited_by_what_runs_out_first() {
        let resident = |threads, registers, shared_memory| {
            GB10.resident(Footprint { threads, registers, shared_memory })
        };
        assert_eq!(resident(256, 220, 70 << 10), 1);
        assert_eq!(resident(256, 128, 40 << 10), 2);
        assert_eq!(resident(128, 32, 0), 12);
        assert_eq!(resident(32, 16, 0), 24);
        // 168 registers: 3 warps a part.
        assert_eq!(resident(128, 168, 0), 3);
        assert_eq!(resident(512, 168, 0), 0);
    }
}
