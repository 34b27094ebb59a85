//! The GPU: objects by their handles, memory, and what runs.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ptx_vm::{Arg, DevicePtr, LaunchConfig, Machine, Module};

use crate::code::{Code, Result};
use crate::work::{Launch, Step, Streams};

/// Dynamic shared memory that a function has without being allowed more.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// What memory of the host is full of when it is given.
const FRESH: u8 = 0xA5;

/// How it is aligned.
const PAGE: usize = 4096;

/// The GPU and its context.
pub struct Gpu {
    pub capability: (i32, i32),
    /// Bytes of memory: all, and those that are given.
    pub memory: u64,
    pub used: u64,
    machine: Machine,
    /// Its own memory, as streams see it now.
    own: BTreeMap<u64, Block>,
    /// What is given, as the program sees it: streams may not have come there.
    given: HashMap<u64, u64>,
    /// Memory of the host that kernels reach.
    host: BTreeMap<u64, HostBlock>,
    modules: HashMap<usize, Arc<Module>>,
    functions: HashMap<usize, Function>,
    events: HashMap<usize, Option<Arc<AtomicBool>>>,
    graphs: HashMap<usize, Vec<Step>>,
    pub streams: Streams,
    handles: usize,
    /// Launches until one faults, if one does.
    until_fault: Option<u64>,
    /// What every call gives, once the context is lost.
    lost: Option<Code>,
}

struct Block {
    at: DevicePtr,
    len: u64,
}

struct HostBlock {
    block: Block,
    /// What the machine's copy is.
    seen: Vec<u8>,
}

struct Function {
    module: Arc<Module>,
    name: String,
    most_shared: u32,
}

impl Gpu {
    pub fn new() -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse().ok();
        let capability = std::env::var("CUDA_VM_CAPABILITY").ok();
        let capability = capability.as_deref().and_then(|text| text.split_once('.'));
        let capability = capability.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = number("CUDA_VM_SEED").unwrap_or(clock.map_or(0, |time| time.as_nanos() as u64));
        eprintln!("cuda-vm: CUDA_VM_SEED={seed}");
        Gpu {
            capability: capability.unwrap_or((9, 0)),
            memory: number("CUDA_VM_MEMORY").unwrap_or(8 << 30),
            used: 0,
            machine: Machine::new(),
            own: BTreeMap::new(),
            given: HashMap::new(),
            host: BTreeMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            events: HashMap::new(),
            graphs: HashMap::new(),
            streams: Streams::new(seed),
            handles: 0x1000,
            until_fault: number("CUDA_VM_FAULT"),
            lost: None,
        }
    }

    pub fn handle(&mut self) -> usize {
        self.handles += 1;
        self.handles
    }

    /// Fails once the context is lost.
    pub fn check(&self) -> Result<()> {
        self.lost.map_or(Ok(()), Err)
    }

    /// Says what is wrong with a call.
    pub fn refuse<T>(&self, code: Code, what: impl AsRef<str>) -> Result<T> {
        eprintln!("cuda-vm: {}", what.as_ref());
        Err(code)
    }

    // Memory

    /// Memory in the order of a stream.
    pub fn allocate(&mut self, len: u64, stream: usize) -> Result<u64> {
        self.need_stream(stream)?;
        if self.used.saturating_add(len) > self.memory {
            return Err(Code::OUT_OF_MEMORY);
        }
        // An address that nothing else has had, free until the stream comes there.
        let at = self.machine.alloc(len).map_err(|_| Code::OUT_OF_MEMORY)?;
        let address = at.address();
        self.machine.free(at).map_err(|_| Code::OUT_OF_MEMORY)?;
        self.streams.push(stream, Step::Allocate { address, len });
        self.given.insert(address, len);
        self.used += len;
        Ok(address)
    }

    /// Gives such memory back in the order of a stream.
    pub fn free(&mut self, address: u64, stream: usize) -> Result<()> {
        self.need_stream(stream)?;
        let Some(len) = self.given.remove(&address) else {
            return self.refuse(Code::INVALID_VALUE, format!("{address:#x} is freed, not given"));
        };
        self.used -= len;
        self.streams.push(stream, Step::Free { address });
        Ok(())
    }

    /// Memory of the host that kernels reach at the same address.
    pub fn allocate_host(&mut self, len: u64) -> Result<u64> {
        let layout = host_layout(len)?;
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(layout) };
        let address = start.expose_provenance() as u64;
        if start.is_null() {
            return Err(Code::OUT_OF_MEMORY);
        }
        let Ok(at) = self.machine.map(address, len, "host memory") else {
            // SAFETY: just allocated with this layout.
            unsafe { dealloc(start, layout) };
            return self.refuse(Code::OUT_OF_MEMORY, format!("{address:#x} is not free"));
        };
        // Nobody may count on what is there.
        // SAFETY: just allocated, that long.
        unsafe { start.write_bytes(FRESH, len as usize) };
        let seen = vec![FRESH; len as usize];
        self.machine.write(at, &seen).map_err(|_| Code::OUT_OF_MEMORY)?;
        self.host.insert(address, HostBlock { block: Block { at, len }, seen });
        Ok(address)
    }

    pub fn free_host(&mut self, address: u64) -> Result<()> {
        let Some(HostBlock { block, .. }) = self.host.remove(&address) else {
            return self.refuse(Code::INVALID_VALUE, format!("{address:#x} is freed, not given"));
        };
        // SAFETY: allocated with this layout, and removed above, so freed once.
        unsafe { dealloc(pointer(address), host_layout(block.len)?) };
        self.machine.free(block.at).map_err(|_| Code::INVALID_VALUE)
    }

    /// Where so many bytes of its own memory are in the machine.
    fn find(&self, address: u64, len: u64) -> Option<DevicePtr> {
        let (&base, block) = self.own.range(..=address).next_back()?;
        (address.checked_add(len)? <= base + block.len).then(|| block.at.offset(address - base))
    }

    // Modules

    pub fn load(&mut self, text: &str) -> Result<usize> {
        let module = match Module::from_ptx(text) {
            Ok(module) => Arc::new(module),
            Err(error) => return self.refuse(Code::INVALID_PTX, error.to_string()),
        };
        let handle = self.handle();
        self.modules.insert(handle, module);
        Ok(handle)
    }

    pub fn unload(&mut self, module: usize) -> Result<()> {
        let Some(module) = self.modules.remove(&module) else {
            return self.refuse(Code::INVALID_HANDLE, "a module that is not loaded is unloaded");
        };
        self.functions.retain(|_, function| !Arc::ptr_eq(&function.module, &module));
        Ok(())
    }

    pub fn function(&mut self, module: usize, name: &str) -> Result<usize> {
        let Some(module) = self.modules.get(&module).cloned() else {
            return self.refuse(Code::INVALID_HANDLE, "a function of a module that is not loaded");
        };
        if !module.kernels().any(|kernel| kernel == name) {
            return Err(Code::NOT_FOUND);
        }
        let (handle, most_shared) = (self.handle(), SHARED_WITHOUT_ASKING);
        self.functions.insert(handle, Function { module, name: name.to_owned(), most_shared });
        Ok(handle)
    }

    pub fn allow_shared(&mut self, function: usize, bytes: u32) -> Result<()> {
        let function = self.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
        function.most_shared = bytes;
        Ok(())
    }

    pub fn launch(
        &mut self,
        function: usize,
        [blocks, threads]: [[u32; 3]; 2],
        shared_memory: u32,
        parameter: Vec<u8>,
        stream: usize,
    ) -> Result<()> {
        self.need_stream(stream)?;
        let Some(function) = self.functions.get(&function) else {
            return self.refuse(Code::INVALID_HANDLE, "a function of a module that is not loaded");
        };
        if shared_memory > function.most_shared {
            let (name, most) = (&function.name, function.most_shared);
            let what =
                format!("`{name}` is allowed {most} bytes of shared memory, not {shared_memory}");
            return self.refuse(Code::INVALID_VALUE, what);
        }
        let (module, kernel) = (function.module.clone(), function.name.clone());
        let launch = Launch { module, kernel, blocks, threads, shared_memory, parameter };
        self.streams.push(stream, Step::Launch(Arc::new(launch)));
        Ok(())
    }

    // Streams, events, graphs

    pub fn need_stream(&self, stream: usize) -> Result<()> {
        match self.streams.has(stream) {
            true => Ok(()),
            false => self.refuse(Code::INVALID_HANDLE, "a stream that does not live"),
        }
    }

    /// What may not be done while a stream records.
    pub fn need_no_capture(&self, stream: usize) -> Result<()> {
        self.need_stream(stream)?;
        match self.streams.is_capturing(stream) {
            true => self.refuse(Code::CAPTURE_UNSUPPORTED, "a stream that records is waited for"),
            false => Ok(()),
        }
    }

    pub fn create_event(&mut self) -> usize {
        let handle = self.handle();
        self.events.insert(handle, None);
        handle
    }

    pub fn destroy_event(&mut self, event: usize) -> Result<()> {
        self.events.remove(&event).map(drop).ok_or(Code::INVALID_HANDLE)
    }

    pub fn record(&mut self, event: usize, stream: usize) -> Result<()> {
        self.need_no_capture(stream)?;
        let slot = self.events.get_mut(&event).ok_or(Code::INVALID_HANDLE)?;
        let recorded = Arc::new(AtomicBool::new(false));
        *slot = Some(recorded.clone());
        self.streams.push(stream, Step::Record(recorded));
        Ok(())
    }

    pub fn wait_event(&mut self, stream: usize, event: usize) -> Result<()> {
        self.need_stream(stream)?;
        let recorded = self.events.get(&event).ok_or(Code::INVALID_HANDLE)?.clone();
        if self.streams.is_capturing(stream) {
            return self.refuse(Code::CAPTURE_ISOLATION, "a recording waits for what is not of it");
        }
        if let Some(recorded) = recorded {
            self.streams.push(stream, Step::Wait(recorded));
        }
        Ok(())
    }

    pub fn is_recorded(&self, event: usize) -> Result<bool> {
        let event = self.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        Ok(event.as_ref().is_none_or(|recorded| recorded.load(Ordering::Acquire)))
    }

    pub fn add_graph(&mut self, steps: Vec<Step>) -> usize {
        let handle = self.handle();
        self.graphs.insert(handle, steps);
        handle
    }

    pub fn graph(&self, graph: usize) -> Result<&[Step]> {
        self.graphs.get(&graph).map(Vec::as_slice).ok_or(Code::INVALID_HANDLE)
    }

    pub fn destroy_graph(&mut self, graph: usize) -> Result<()> {
        self.graphs.remove(&graph).map(drop).ok_or(Code::INVALID_HANDLE)
    }

    pub fn launch_graph(&mut self, graph: usize, stream: usize) -> Result<()> {
        self.need_no_capture(stream)?;
        for step in self.graph(graph)?.to_vec() {
            self.streams.push(stream, step);
        }
        Ok(())
    }

    // What runs

    /// Some of what could run by now does.
    pub fn go_on(&mut self) -> Result<()> {
        let steps = [0, 0, 0, 1, 4][self.streams.draw(5)];
        for _ in 0..steps {
            self.step()?;
        }
        self.check()
    }

    /// Runs whatever is drawn until something is so.
    pub fn run_until(&mut self, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        while !is_so(self) {
            if !self.step()? {
                return self.refuse(Code::LAUNCH_FAILED, "streams wait for each other for ever");
            }
        }
        self.check()
    }

    /// Runs one step; whether there was one.
    pub fn step(&mut self) -> Result<bool> {
        self.check()?;
        let Some(step) = self.streams.next() else { return Ok(false) };
        if let Err((code, what)) = self.perform(&step) {
            self.lost = Some(code);
            return self.refuse(code, what);
        }
        Ok(true)
    }

    fn perform(&mut self, step: &Step) -> std::result::Result<(), (Code, String)> {
        let beyond = |what: &str, address: u64, len: usize| {
            (
                Code::ILLEGAL_ADDRESS,
                format!("{what} of {len} bytes at {address:#x}, which are not there"),
            )
        };
        let failed = |error: ptx_vm::Error| (Code::LAUNCH_FAILED, error.to_string());
        match step {
            Step::Record(recorded) => recorded.store(true, Ordering::Release),
            Step::Wait(_) => {}
            &Step::Allocate { address, len } => {
                let at = self.machine.map(address, len, "device memory").map_err(failed)?;
                self.own.insert(address, Block { at, len });
            }
            Step::Free { address } => {
                let block =
                    self.own.remove(address).ok_or_else(|| beyond("a free", *address, 1))?;
                self.machine.free(block.at).map_err(failed)?;
            }
            &Step::Fill { address, byte, len } => match self.host_pointer(address, len) {
                // SAFETY: memory of the host that was given, as much of it.
                Some(to) => unsafe { to.write_bytes(byte, len) },
                None => {
                    let at = self.find(address, len as u64);
                    let at = at.ok_or_else(|| beyond("a fill", address, len))?;
                    self.machine.write(at, &vec![byte; len]).map_err(failed)?;
                }
            },
            Step::CopyIn { to, from, len, before } => {
                // SAFETY: the program promised the driver that the bytes live until they are copied.
                let bytes = unsafe { std::slice::from_raw_parts(pointer(*from), *len) };
                if before.as_ref().is_some_and(|before| **before != *bytes) {
                    let what = format!("{len} bytes at {from:#x} changed before they were copied");
                    return Err((Code::LAUNCH_FAILED, what));
                }
                match self.host_pointer(*to, *len) {
                    // SAFETY: memory of the host that was given, as much of it.
                    Some(to) => unsafe { to.copy_from(bytes.as_ptr(), *len) },
                    None => {
                        let at = self.find(*to, *len as u64);
                        let at = at.ok_or_else(|| beyond("a copy", *to, *len))?;
                        self.machine.write(at, bytes).map_err(failed)?;
                    }
                }
            }
            Step::CopyOut { to, from, len } => {
                let mut bytes = vec![0; *len];
                match self.host_pointer(*from, *len) {
                    // SAFETY: memory of the host that was given, as much of it.
                    Some(from) => unsafe { from.copy_to(bytes.as_mut_ptr(), *len) },
                    None => {
                        let at = self.find(*from, *len as u64);
                        let at = at.ok_or_else(|| beyond("a copy", *from, *len))?;
                        self.machine.read_written(at, &mut bytes).map_err(failed)?;
                    }
                }
                // SAFETY: the program left the bytes to the driver until they are copied.
                unsafe { pointer(*to).copy_from(bytes.as_ptr(), *len) };
            }
            Step::Launch(_) if self.until_fault == Some(0) => {
                let what = "the launch that CUDA_VM_FAULT says";
                return Err((Code::ILLEGAL_ADDRESS, what.to_owned()));
            }
            Step::Launch(launch) => {
                self.until_fault = self.until_fault.map(|launches| launches - 1);
                self.see_host().map_err(failed)?;
                let config = LaunchConfig::new(
                    (launch.blocks[0], launch.blocks[1], launch.blocks[2]),
                    (launch.threads[0], launch.threads[1], launch.threads[2]),
                )
                .dynamic_shared(launch.shared_memory);
                let args = [Arg::bytes(&launch.parameter)];
                let ran = self.machine.launch(&launch.module, &launch.kernel, &config, &args);
                ran.map_err(failed)?;
                self.show_host().map_err(failed)?;
            }
        }
        Ok(())
    }
}

// Memory of the host is the program's. The machine has a copy, which is brought up to date before a
// kernel runs; what the kernel wrote is written back.
impl Gpu {
    fn see_host(&mut self) -> std::result::Result<(), ptx_vm::Error> {
        for (&address, HostBlock { block, seen }) in &mut self.host {
            // SAFETY: memory of the host that was given, and lives until it is freed.
            let bytes = unsafe { std::slice::from_raw_parts(pointer(address), seen.len()) };
            if bytes != seen.as_slice() {
                seen.copy_from_slice(bytes);
                self.machine.write(block.at, seen)?;
            }
        }
        Ok(())
    }

    fn show_host(&mut self) -> std::result::Result<(), ptx_vm::Error> {
        for (&address, HostBlock { block, seen }) in &mut self.host {
            let mut now = vec![0; seen.len()];
            self.machine.read(block.at, &mut now)?;
            for (i, (now, seen)) in now.iter().zip(seen).enumerate().filter(|(_, (a, b))| a != b) {
                *seen = *now;
                // SAFETY: within memory of the host that was given; a byte that the kernel wrote.
                unsafe { pointer(address).add(i).write(*now) };
            }
        }
        Ok(())
    }

    /// Where so many bytes are on the host, if kernels reach them there.
    fn host_pointer(&self, address: u64, len: usize) -> Option<*mut u8> {
        let (&base, of) = self.host.range(..=address).next_back()?;
        (address.checked_add(len as u64)? <= base + of.block.len).then(|| pointer(address))
    }
}

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

fn host_layout(len: u64) -> Result<Layout> {
    let layout = Layout::from_size_align((len as usize).max(1), PAGE);
    layout.map_err(|_| Code::INVALID_VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOUBLE: &str = ".version 8.0\n.target sm_80\n.address_size 64\n\
        .visible .entry double(.param .u64 p)\n{ .reg .b64 %d<4>; .reg .b32 %r<3>;\n\
        ld.param.u64 %d1, [p]; ld.global.u32 %r1, [%d1]; add.s32 %r1, %r1, %r1;\n\
        st.global.u32 [%d1], %r1; ret; }";

    /// A GPU that draws from a number, and two of its streams.
    fn gpu(seed: u64) -> (Gpu, [usize; 2]) {
        let mut gpu = Gpu { streams: Streams::new(seed), ..Gpu::new() };
        let streams = [gpu.handle(), gpu.handle()];
        streams.iter().for_each(|&stream| gpu.streams.add(stream));
        (gpu, streams)
    }

    fn finish(gpu: &mut Gpu) -> Result<()> {
        while gpu.step()? {}
        Ok(())
    }

    fn copy_in(gpu: &mut Gpu, to: u64, from: &[u8], stream: usize) {
        let (start, len) = (from.as_ptr().expose_provenance() as u64, from.len());
        let before = Some(from.into());
        gpu.streams.push(stream, Step::CopyIn { to, from: start, len, before });
    }

    fn double(gpu: &mut Gpu, address: u64, stream: usize) {
        let module = gpu.load(DOUBLE).unwrap();
        let function = gpu.function(module, "double").unwrap();
        let parameter = address.to_ne_bytes().to_vec();
        gpu.launch(function, [[1; 3]; 2], 0, parameter, stream).unwrap();
    }

    #[test]
    fn streams_do_what_they_are_told_in_order_and_wait_for_events() {
        for seed in 0..20 {
            let (mut gpu, [a, b]) = gpu(seed);
            let (address, ready) = (gpu.allocate(4, a).unwrap(), gpu.create_event());
            let (three, mut out) = (3u32.to_ne_bytes(), [0u8; 4]);
            copy_in(&mut gpu, address, &three, a);
            double(&mut gpu, address, a);
            gpu.record(ready, a).unwrap();
            assert_eq!(gpu.is_recorded(ready), Ok(false), "nothing runs by itself");
            gpu.wait_event(b, ready).unwrap();
            double(&mut gpu, address, b);
            let to = out.as_mut_ptr().expose_provenance() as u64;
            gpu.streams.push(b, Step::CopyOut { to, from: address, len: 4 });
            gpu.free(address, b).unwrap();
            finish(&mut gpu).unwrap();
            assert_eq!(gpu.is_recorded(ready), Ok(true));
            assert_eq!((u32::from_ne_bytes(out), gpu.used), (12, 0));
        }
    }

    #[test]
    fn without_an_event_another_stream_comes_too_early_in_some_order() {
        let too_early = |seed| {
            let (mut gpu, [a, b]) = gpu(seed);
            let address = gpu.allocate(4, a).unwrap();
            gpu.streams.push(b, Step::Fill { address, byte: 0, len: 4 });
            finish(&mut gpu) == Err(Code::ILLEGAL_ADDRESS)
        };
        let found = (0..64).filter(|&seed| too_early(seed)).count();
        assert!((1..64).contains(&found), "{found} of 64");
    }

    #[test]
    fn bytes_that_change_before_they_are_copied_lose_the_context() {
        let (mut gpu, [a, _]) = gpu(0);
        let (address, mut bytes) = (gpu.allocate(4, a).unwrap(), vec![1u8; 4]);
        copy_in(&mut gpu, address, &bytes, a);
        bytes[2] = 7;
        assert_eq!(finish(&mut gpu), Err(Code::LAUNCH_FAILED));
        assert_eq!(gpu.check(), Err(Code::LAUNCH_FAILED), "for ever");
        drop(bytes);
    }

    #[test]
    fn the_launch_that_is_to_fault_does() {
        let (mut gpu, [a, _]) = gpu(0);
        gpu.until_fault = Some(1);
        let address = gpu.allocate_host(4).unwrap();
        double(&mut gpu, address, a);
        finish(&mut gpu).unwrap();
        double(&mut gpu, address, a);
        assert_eq!(finish(&mut gpu), Err(Code::ILLEGAL_ADDRESS));
        assert_eq!(gpu.check(), Err(Code::ILLEGAL_ADDRESS), "for ever");
    }

    #[test]
    fn kernels_and_the_host_share_memory_of_the_host() {
        let (mut gpu, [a, _]) = gpu(0);
        let address = gpu.allocate_host(8).unwrap();
        let words = pointer(address).cast::<u32>();
        // SAFETY: two words of memory that was given, which nothing else uses now.
        unsafe { (words.write(21), words.add(1).write(5)) };
        double(&mut gpu, address, a);
        finish(&mut gpu).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { (words.read(), words.add(1).read()) }, (42, 5));
        gpu.free_host(address).unwrap();
        double(&mut gpu, address, a);
        assert_eq!(finish(&mut gpu), Err(Code::LAUNCH_FAILED), "it is there no more");
    }

    #[test]
    fn a_recording_runs_when_it_is_launched_with_memory_of_its_own() {
        let (mut gpu, [a, b]) = gpu(0);
        let out = gpu.allocate_host(4).unwrap();
        gpu.streams.begin_capture(a);
        let address = gpu.allocate(4, a).unwrap();
        // What a graph copies may be another thing each time.
        let mut word = 1u32;
        let from = (&raw mut word).expose_provenance() as u64;
        gpu.streams.push(a, Step::CopyIn { to: address, from, len: 4, before: None });
        double(&mut gpu, address, a);
        gpu.streams.push(a, Step::CopyOut { to: out, from: address, len: 4 });
        gpu.free(address, a).unwrap();
        assert_eq!(gpu.need_no_capture(a), Err(Code::CAPTURE_UNSUPPORTED));
        let steps = gpu.streams.end_capture(a).unwrap();
        let graph = gpu.add_graph(steps);
        assert!(!gpu.step().unwrap(), "only recorded");
        for value in [5u32, 9] {
            // SAFETY: `word` lives, and no step runs now.
            unsafe { (&raw mut word).write(value) };
            gpu.launch_graph(graph, b).unwrap();
            finish(&mut gpu).unwrap();
            // SAFETY: a word of memory that was given, and that no step writes now.
            assert_eq!(unsafe { pointer(out).cast::<u32>().read() }, 2 * value);
        }
    }

    #[test]
    fn misuse_is_the_error_of_the_call() {
        let (mut gpu, [a, _]) = gpu(0);
        assert_eq!(gpu.need_stream(1), Err(Code::INVALID_HANDLE));
        assert_eq!(gpu.free(64, a), Err(Code::INVALID_VALUE));
        assert_eq!(gpu.allocate(u64::MAX, a), Err(Code::OUT_OF_MEMORY));
        assert_eq!(gpu.destroy_event(1), Err(Code::INVALID_HANDLE));
        let module = gpu.load(DOUBLE).unwrap();
        assert_eq!(gpu.function(module, "triple"), Err(Code::NOT_FOUND));
        let function = gpu.function(module, "double").unwrap();
        let sizes = [[1; 3]; 2];
        let more = SHARED_WITHOUT_ASKING + 1;
        assert_eq!(gpu.launch(function, sizes, more, vec![0; 8], a), Err(Code::INVALID_VALUE));
        gpu.unload(module).unwrap();
        assert_eq!(gpu.launch(function, sizes, 0, vec![0; 8], a), Err(Code::INVALID_HANDLE));
        assert_eq!(gpu.load("no PTX"), Err(Code::INVALID_PTX));
    }
}
