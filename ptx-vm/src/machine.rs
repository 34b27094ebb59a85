//! A device with memory, and kernels that run to their end.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Result};
use crate::exec::block::Block;
use crate::exec::image::Image;
use crate::exec::memory::DeviceMemory;
use crate::launch::{Arg, DevicePtr, LaunchConfig, Report, check_config, pack};
use crate::module::Module;
use crate::numeric::product::Arithmetic;
use crate::parse::ast::{Init, VarSpace};

/// A device: memory, and kernels to run on it.
pub struct Machine {
    memory: DeviceMemory,
    symbols: HashMap<u64, HashMap<String, u64>>,
    arithmetic: Arithmetic,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine::new()
    }
}

impl Machine {
    /// An empty device.
    pub fn new() -> Machine {
        Machine {
            memory: DeviceMemory::new(),
            symbols: HashMap::new(),
            arithmetic: Arithmetic::default(),
        }
    }

    /// Sets the rounding of matrix instructions.
    pub fn set_arithmetic(&mut self, arithmetic: Arithmetic) {
        self.arithmetic = arithmetic;
    }

    /// Memory that counts as never written.
    ///
    /// # Errors
    /// A size of 0 or over 2^40, or more than the host has.
    pub fn alloc(&mut self, bytes: u64) -> Result<DevicePtr> {
        self.alloc_named(bytes, "an allocation")
    }

    /// Memory with a name that reports show.
    ///
    /// # Errors
    /// A size of 0 or over 2^40, or more than the host has.
    pub fn alloc_named(&mut self, bytes: u64, name: &str) -> Result<DevicePtr> {
        if bytes == 0 || bytes > 1 << 40 {
            return Err(Error::Launch(format!("an allocation of {bytes} bytes is not possible")));
        }
        self.allocate(bytes, 1, name).map(DevicePtr)
    }

    fn allocate(&mut self, bytes: u64, align: u64, name: &str) -> Result<u64> {
        let refused =
            || Error::Launch(format!("the host has no memory for {bytes} bytes of {name}"));
        self.memory.allocate(bytes, align, name).ok_or_else(refused)
    }

    /// Memory at an address of the caller's choice, which counts as never written: for a stand-in of
    /// a driver, where the host and the device share addresses.
    ///
    /// # Errors
    /// As [`Self::alloc`], and an address that other memory in use or one of the windows of shared
    /// memory, local memory and parameters needs.
    pub fn map(&mut self, address: u64, bytes: u64, name: &str) -> Result<DevicePtr> {
        if bytes == 0 || bytes > 1 << 40 || !self.memory.is_free(address, bytes) {
            return Err(Error::Launch(format!("{bytes} bytes at {address:#x} are not free")));
        }
        let refused =
            || Error::Launch(format!("the host has no memory for {bytes} bytes of {name}"));
        self.memory.map(address, bytes, name).map(DevicePtr).ok_or_else(refused)
    }

    /// Memory with these contents.
    ///
    /// # Errors
    /// As [`Self::alloc`].
    pub fn upload(&mut self, data: &[u8]) -> Result<DevicePtr> {
        let p = self.alloc(data.len() as u64)?;
        self.write(p, data)?;
        Ok(p)
    }

    /// Gives memory back; kernels that still use it are reported.
    ///
    /// # Errors
    /// An address that is not the start of an allocation in use.
    pub fn free(&mut self, p: DevicePtr) -> Result<()> {
        if self.memory.free(p.0) {
            return Ok(());
        }
        Err(Error::Launch(format!("{:#x} is not the start of an allocation in use", p.0)))
    }

    /// Forbids kernels to write an allocation; the host still may.
    ///
    /// # Errors
    /// An address that is not the start of an allocation in use.
    pub fn protect(&mut self, p: DevicePtr) -> Result<()> {
        if self.memory.protect(p.0) {
            return Ok(());
        }
        Err(Error::Launch(format!("{:#x} is not the start of an allocation in use", p.0)))
    }

    /// Copies bytes to the device.
    ///
    /// # Errors
    /// A range outside an allocation.
    pub fn write(&self, p: DevicePtr, data: &[u8]) -> Result<()> {
        self.memory.host_write(p.0, data).map_err(|e| Error::Launch(e.to_string()))
    }

    /// Copies bytes from the device. Bytes that nobody wrote are zero.
    ///
    /// # Errors
    /// A range outside an allocation.
    pub fn read(&self, p: DevicePtr, out: &mut [u8]) -> Result<()> {
        self.memory.host_read(p.0, out).map_err(|e| Error::Launch(e.to_string()))
    }

    /// Copies bytes from the device, all of which must have been written.
    ///
    /// # Errors
    /// A range outside an allocation, or one with bytes that nobody wrote.
    pub fn read_written(&self, p: DevicePtr, out: &mut [u8]) -> Result<()> {
        let bytes = u32::try_from(out.len())
            .map_err(|_| Error::Launch("over 4 GiB are read in one call".into()))?;
        match self.memory.fully_written(p.0, bytes) {
            Ok(true) => self.read(p, out),
            Ok(false) => {
                Err(Error::Launch(format!("the {bytes} bytes at {:#x} were not all written", p.0)))
            }
            Err(e) => Err(Error::Launch(e.to_string())),
        }
    }

    /// The address of a module's variable, which gets its memory and initial value now if no
    /// launch gave it before.
    ///
    /// # Errors
    /// A name that is no variable of the module, or no memory for its variables.
    pub fn symbol(&mut self, module: &Module, name: &str) -> Result<DevicePtr> {
        self.load(module)?;
        let found = self.symbols.get(&module.id).and_then(|s| s.get(name));
        found
            .map(|a| DevicePtr(*a))
            .ok_or_else(|| Error::Launch(format!("the module has no variable `{name}`")))
    }

    /// Gives a module's variables memory.
    fn load(&mut self, module: &Module) -> Result<()> {
        if self.symbols.contains_key(&module.id) {
            return Ok(());
        }
        let mut symbols = HashMap::new();
        let own = |v: &&crate::parse::ast::Variable| {
            matches!(v.space, VarSpace::Global | VarSpace::Const) && v.bytes > 0
        };
        for v in module.raw.variables.iter().filter(own) {
            let at = self.allocate(v.bytes, u64::from(v.align), &v.name)?;
            symbols.insert(v.name.clone(), at);
        }
        for v in module.raw.variables.iter().filter(own) {
            let base = symbols.get(&v.name).copied().unwrap_or(0);
            let element = v.ty.bytes() as usize;
            let mut data = Vec::new();
            for init in &v.init {
                let value = match init {
                    Init::Bits(b) => *b,
                    Init::Address { symbol, offset, .. } => match symbols.get(symbol) {
                        Some(a) => a.wrapping_add_signed(*offset),
                        None => {
                            return Err(Error::Parse {
                                line: v.line,
                                message: format!(
                                    "the initial value of `{}` names `{symbol}`, which has no address",
                                    v.name
                                ),
                            });
                        }
                    },
                };
                data.extend_from_slice(value.to_le_bytes().get(..element).unwrap_or(&[]));
            }
            // Module variables without a value start as zero.
            data.resize(v.bytes as usize, 0);
            self.memory.host_write(base, &data).map_err(|e| Error::Launch(e.to_string()))?;
            if v.space == VarSpace::Const {
                self.memory.protect(base);
            }
        }
        self.symbols.insert(module.id, symbols);
        Ok(())
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// [`Error::Launch`] for a launch that the target would refuse, [`Error::Fault`] for
    /// what the kernel does wrong. After a fault, memory holds what was written until then.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        config: &LaunchConfig,
        args: &[Arg],
    ) -> Result<Report> {
        let entry = module.functions.iter().position(|f| f.entry && f.name == kernel);
        let Some(entry) = entry else {
            let names: Vec<_> = module.kernels().collect();
            return Err(Error::Launch(format!(
                "the module has no kernel `{kernel}`; it has {}",
                names.join(", ")
            )));
        };
        let f = &module.functions[entry];
        check_config(f, config, module.target)?;
        let params = pack(f, args)?;
        self.load(module)?;
        let empty = HashMap::new();
        let symbols = self.symbols.get(&module.id).unwrap_or(&empty);
        let image = Image::new(
            &module.functions,
            entry,
            symbols,
            params,
            &self.memory,
            config.clone(),
            module.target,
            &module.files,
            &module.text,
            self.arithmetic,
        )?;
        run_grid(&image)
    }
}

fn run_grid(image: &Image<'_>) -> Result<Report> {
    let grid = image.config.grid;
    let blocks: u64 = grid.iter().map(|g| u64::from(*g)).product();
    let wanted = match image.config.host_threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    let threads = wanted.min(usize::try_from(blocks).unwrap_or(usize::MAX)).max(1);
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    // The fault of the lowest block, so that reports do not depend on timing more than
    // they must.
    let result: Mutex<(Report, Option<(u64, Error)>)> = Mutex::new((Report::default(), None));
    let work = || {
        while !stop.load(Relaxed) {
            let i = next.fetch_add(1, Relaxed);
            if i >= blocks {
                break;
            }
            let (x, y) = (u64::from(grid[0]), u64::from(grid[1]));
            let at = [(i % x) as u32, (i / x % y) as u32, (i / x / y) as u32];
            let outcome = Block::new(image, at).run();
            let mut guard = result.lock().unwrap_or_else(|e| e.into_inner());
            match outcome {
                Ok(env) => {
                    let report = &mut guard.0;
                    report.warp_instructions += env.executed;
                    report.lane_instructions += env.lanes;
                    report.output += &String::from_utf8_lossy(&env.output);
                    if let Some(p) = &env.profile {
                        report.profile.get_or_insert_default().add(p);
                    }
                }
                Err(e) => {
                    stop.store(true, Relaxed);
                    if guard.1.as_ref().is_none_or(|(b, _)| i < *b) {
                        guard.1 = Some((i, e));
                    }
                }
            }
        }
    };
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(work);
            }
        });
    }
    let (mut report, fault) = result.into_inner().unwrap_or_else(|e| e.into_inner());
    if let Some(p) = &mut report.profile {
        p.name(image.text);
    }
    match fault {
        Some((_, e)) => Err(e),
        None => Ok(report),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_where_it_is_asked_for_unless_something_else_is_there() {
        let mut machine = Machine::new();
        let own = machine.alloc(64).unwrap();
        for (address, bytes) in [
            (own.address() + 60, 8), // the end of other memory
            (own.address() - 4, 8),  // and its beginning
            ((1 << 40) - 4, 8),      // the window of shared memory
            (u64::MAX - 3, 8),
            (1 << 20, 0),
        ] {
            assert!(machine.map(address, bytes, "x").is_err(), "{bytes} bytes at {address:#x}");
        }
        let at = machine.map(0x5555_0000_1230, 8, "x").unwrap();
        assert_eq!(at.address(), 0x5555_0000_1230);
        machine.write(at.offset(4), &[7; 4]).unwrap();
        assert!(machine.map(at.address(), 4, "y").is_err(), "in use");
        machine.free(at).unwrap();
        // What was there is forgotten.
        let again = machine.map(at.address() - 8, 32, "y").unwrap();
        assert!(machine.read_written(again, &mut [0; 32]).is_err());
        // What the machine places goes where there is room.
        let next = own.address() + 64 + 4096;
        machine.map(next, 1 << 13, "x").unwrap();
        let placed = machine.alloc(64).unwrap();
        assert!(placed.address() >= next + (1 << 13));
        assert_eq!(machine.read(own, &mut [0; 64]), Ok(()));
    }
}
