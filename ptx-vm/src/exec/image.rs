//! A kernel with everything it calls, bound to one launch.

use std::collections::HashMap;

use super::memory::{DeviceMemory, PARAM_WINDOW, SHARED_WINDOW};
use crate::check::shared::{Region, SHARED_BASE};
use crate::error::{Error, Result};
use crate::launch::LaunchConfig;
use crate::lower::function::{Function, SharedVar};
use crate::lower::ops::{Known, Lanes};
use crate::lower::special::{LaneMask, Special};
use crate::target::Target;

/// Bytes kept free behind every shared variable, a whole turn of the banks.
const SHARED_GAP: u64 = 128;

/// What every block of a launch shares.
pub(crate) struct Image<'a> {
    pub functions: &'a [Function],
    pub entry: usize,
    /// First registers of each function; functions that are not called have none.
    pub value_base: Vec<usize>,
    pub pred_base: Vec<usize>,
    pub values: usize,
    pub preds: usize,
    /// Register and value, the same for all threads.
    pub constants: Vec<(usize, u64)>,
    /// Register and what is different for every thread or block.
    pub specials: Vec<(usize, Special)>,
    pub regions: Vec<Region>,
    pub params: Vec<u8>,
    pub memory: &'a DeviceMemory,
    pub config: LaunchConfig,
    pub target: Target,
    pub files: &'a HashMap<u32, String>,
    pub text: &'a str,
    pub shared_bytes: u64,
    pub mma: crate::numeric::product::Arithmetic,
}

/// A variable's name as in the source: without its function, and the last part of a mangled
/// `_ZZ6kernelvE4name`.
fn plain_name(unique: &str) -> &str {
    let name = unique.rsplit("::").next().unwrap_or(unique);
    let name = name.split('#').next().unwrap_or(name);
    let part = name.strip_prefix("_ZZ").and_then(|n| n.rsplit_once('E')).map(|n| n.1);
    let Some(part) = part else { return name };
    let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let length = part[..digits].parse().ok();
    length.and_then(|n: usize| part.get(digits..digits.checked_add(n)?)).unwrap_or(name)
}

impl<'a> Image<'a> {
    /// Binds a kernel.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        functions: &'a [Function],
        entry: usize,
        symbols: &HashMap<String, u64>,
        params: Vec<u8>,
        memory: &'a DeviceMemory,
        config: LaunchConfig,
        target: Target,
        files: &'a HashMap<u32, String>,
        text: &'a str,
        mma: crate::numeric::product::Arithmetic,
    ) -> Result<Image<'a>> {
        let mut reached = vec![entry];
        let mut at = 0;
        while let Some(&f) = reached.get(at) {
            for &c in &functions[f].callees {
                if !reached.contains(&(c as usize)) {
                    reached.push(c as usize);
                }
            }
            at += 1;
        }
        let mut image = Image {
            functions,
            entry,
            value_base: vec![0; functions.len()],
            pred_base: vec![0; functions.len()],
            values: 0,
            preds: 0,
            constants: Vec::new(),
            specials: Vec::new(),
            regions: Vec::new(),
            params,
            memory,
            config,
            target,
            files,
            text,
            shared_bytes: 0,
            mma,
        };
        let mut shared: Vec<&SharedVar> = Vec::new();
        for &f in &reached {
            for v in &functions[f].shared {
                if !shared.contains(&v) {
                    shared.push(v);
                }
            }
        }
        let places = image.place_shared(&shared)?;
        for &f in &reached {
            let function = &functions[f];
            image.value_base[f] = image.values;
            image.pred_base[f] = image.preds;
            for (slot, known) in &function.known {
                let slot = image.values + *slot as usize;
                match known {
                    Known::Bits(v) => image.constants.push((slot, *v)),
                    Known::Special(s) => image.specials.push((slot, *s)),
                    Known::Symbol { name, offset, generic } => {
                        let base = match (places.get(name.as_str()), symbols.get(name)) {
                            (Some(p), _) => p + if *generic { SHARED_WINDOW } else { 0 },
                            (None, Some(p)) => *p,
                            (None, None) => {
                                return Err(Error::Launch(format!(
                                    "kernel `{}` uses `{name}`, which has no memory",
                                    functions[entry].name
                                )));
                            }
                        };
                        image.constants.push((slot, base.wrapping_add_signed(*offset)));
                    }
                }
            }
            image.values += function.slots as usize;
            image.preds += function.preds as usize;
        }
        Ok(image)
    }

    fn place_shared<'v>(&mut self, vars: &[&'v SharedVar]) -> Result<HashMap<&'v str, u64>> {
        let dynamic_bytes = u64::from(self.config.dynamic_shared);
        let mut places = HashMap::new();
        let mut at = SHARED_BASE;
        let mut used = 0u64;
        for v in vars.iter().filter(|v| !v.dynamic) {
            at = at.div_ceil(u64::from(v.align)) * u64::from(v.align);
            used = used.div_ceil(u64::from(v.align)) * u64::from(v.align) + v.bytes;
            places.insert(v.name.as_str(), at);
            let name = plain_name(&v.name).to_string();
            self.regions.push(Region { name, start: at, end: at + v.bytes });
            at += v.bytes + SHARED_GAP;
        }
        // All `extern __shared__` arrays are one and the same memory.
        let align = vars.iter().filter(|v| v.dynamic).map(|v| v.align).max().unwrap_or(16);
        // Kernels align dynamic memory to a swizzle's 1024 bytes by hand; giving it that
        // makes the bytes they need the same as on the device.
        let align = u64::from(align).max(1024);
        let start = at.div_ceil(align) * align;
        for v in vars.iter().filter(|v| v.dynamic) {
            places.insert(v.name.as_str(), start);
        }
        if dynamic_bytes > 0 {
            let name = "dynamic shared memory".to_string();
            self.regions.push(Region { name, start, end: start + dynamic_bytes });
        }
        self.shared_bytes = used + dynamic_bytes;
        let kernel = &self.functions[self.entry].name;
        if used > Target::STATIC_SHARED_LIMIT {
            return Err(Error::Launch(format!(
                "kernel `{kernel}` declares {used} bytes of static shared memory, at most {} are possible; use dynamic shared memory",
                Target::STATIC_SHARED_LIMIT
            )));
        }
        if self.shared_bytes > self.target.shared_limit() {
            return Err(Error::Launch(format!(
                "kernel `{kernel}` needs {} bytes of shared memory a block, {} has {}",
                self.shared_bytes,
                self.target,
                self.target.shared_limit()
            )));
        }
        Ok(places)
    }

    /// The value of a special register for the lanes of a warp.
    pub fn special(&self, s: Special, block: [u32; 3], warp: usize) -> Lanes {
        let dims = self.config.block;
        let grid = self.config.grid;
        let mut out = [0u64; 32];
        for (lane, o) in out.iter_mut().enumerate() {
            let linear = (warp * 32 + lane) as u32;
            let mask = match s {
                Special::LaneMask(m) => {
                    let below = (1u64 << lane) - 1;
                    let own = 1u64 << lane;
                    match m {
                        LaneMask::Eq => own,
                        LaneMask::Le => below | own,
                        LaneMask::Lt => below,
                        LaneMask::Ge => !below & 0xffff_ffff,
                        LaneMask::Gt => !(below | own) & 0xffff_ffff,
                    }
                }
                _ => 0,
            };
            *o = match s {
                Special::Tid(0) => u64::from(linear % dims[0]),
                Special::Tid(1) => u64::from(linear / dims[0] % dims[1]),
                Special::Tid(_) => u64::from(linear / dims[0] / dims[1]),
                Special::Ntid(i) => u64::from(dims[usize::from(i) % 3]),
                Special::Ctaid(i) => u64::from(block[usize::from(i) % 3]),
                Special::Nctaid(i) => u64::from(grid[usize::from(i) % 3]),
                Special::ClusterId(i) => u64::from(block[usize::from(i) % 3]),
                Special::NClusterId(i) => u64::from(grid[usize::from(i) % 3]),
                Special::ClusterCtaId(_) | Special::ClusterCtaRank => 0,
                Special::ClusterNCtaId(_) | Special::ClusterNCtaRank => 1,
                Special::LaneId => lane as u64,
                Special::WarpId => warp as u64,
                Special::NWarpId => u64::from(dims.iter().product::<u32>().div_ceil(32)),
                Special::SmId | Special::GridId | Special::Zero => 0,
                Special::NSmId => 1,
                Special::LaneMask(_) => mask,
                Special::DynamicShared => u64::from(self.config.dynamic_shared),
                Special::TotalShared => self.shared_bytes,
            };
        }
        out
    }

    /// Bytes of the parameters, generic or not.
    pub fn param(&self, address: u64, bytes: u32) -> Option<u64> {
        let at = address.checked_sub(PARAM_WINDOW).unwrap_or(address);
        let at = usize::try_from(at).ok()?;
        let slice = self.params.get(at..at.checked_add(bytes as usize)?)?;
        let mut word = [0; 8];
        word.get_mut(..bytes as usize)?.copy_from_slice(slice);
        Some(u64::from_le_bytes(word))
    }
}
