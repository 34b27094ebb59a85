//! A stream of the emulator: a thread that runs work in order.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use ptx_vm::{Arg, DevicePtr, LaunchConfig, Machine, Module};

use super::Modules;
use crate::backend::cuda::driver::{Grid, ModuleId, Queue, Session};
use crate::backend::cuda::failure::{Failure, Problem};
use crate::backend::cuda::lock::lock;
use crate::error::Result;
use crate::memory::{Access, DeviceUse, Earlier, Fence, Work};

/// How drivers align allocations, and buffers are aligned on the host.
const ALIGNMENT: u64 = 256;

/// A queue and the thread that runs it.
pub(super) struct EmulatedQueue {
    number: u64,
    modules: Modules,
    /// Host threads that run blocks.
    threads: usize,
    tasks: Option<Sender<Task>>,
    worker: Option<JoinHandle<()>>,
    /// What was recorded so far, while the queue records.
    recording: Mutex<Option<Vec<Launches>>>,
}

impl EmulatedQueue {
    pub(super) fn new(number: u64, modules: Modules, threads: usize) -> Result<Self, String> {
        let (tasks, received) = mpsc::channel::<Task>();
        let run = move || received.into_iter().for_each(Task::run);
        let worker = std::thread::Builder::new().name(format!("emulated stream {number}"));
        let worker = Some(worker.spawn(run).map_err(|e| e.to_string())?);
        let recording = Mutex::default();
        Ok(EmulatedQueue { number, modules, threads, tasks: Some(tasks), worker, recording })
    }

    fn enqueue(&self, launches: Arc<Mutex<Vec<Launches>>>, earlier: &[Earlier]) -> Fence {
        let done = Arc::new(Done { stream: self.number, ..Done::default() });
        let earlier = earlier.to_vec();
        let task = Task { launches, earlier, done: done.clone() };
        // A thread that is gone drops the task, which ends it.
        let _ = self.tasks.as_ref().map(|tasks| tasks.send(task));
        done
    }
}

impl Drop for EmulatedQueue {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Queue for EmulatedQueue {
    fn session(&self, earlier: &[Earlier]) -> Result<Box<dyn Session + '_>, String> {
        let (earlier, launches) = (earlier.to_vec(), Launches::default());
        Ok(Box::new(EmulatedSession { queue: self, earlier, launches, scratch: Vec::new() }))
    }

    fn record(&self) -> Result<(), String> {
        *lock(&self.recording) = Some(Vec::new());
        Ok(())
    }

    fn recorded(&self) -> Result<Box<dyn Any + Send + Sync>, String> {
        let recorded = lock(&self.recording).take().ok_or("the stream does not record")?;
        Ok(Box::new(Arc::new(Mutex::new(recorded))))
    }

    fn replay(
        &self,
        recorded: &(dyn Any + Send + Sync),
        earlier: &[Earlier],
    ) -> Result<Fence, String> {
        let launches: Option<&Arc<Mutex<Vec<Launches>>>> = recorded.downcast_ref();
        Ok(self.enqueue(launches.ok_or("recorded by another driver")?.clone(), earlier))
    }
}

/// Launches of one session, over a machine of their own, so that sessions know nothing of each
/// other.
#[derive(Default)]
struct Launches {
    kernel: String,
    machine: Machine,
    bound: Vec<Bound>,
    steps: Vec<Step>,
    /// Words that are zero where all is well.
    watched: Vec<(DevicePtr, Problem)>,
}

/// What a session does, in order.
enum Step {
    Clear(DevicePtr, usize),
    Launch { module: Arc<Module>, entry: String, config: LaunchConfig, arg: Arg },
}

/// Bytes of a buffer, and where the machine has its copy of them.
struct Bound {
    /// Where they are on the host.
    from: u64,
    len: usize,
    at: DevicePtr,
    access: Access,
}

impl Launches {
    /// Copies operands in, runs the kernels, copies results out.
    fn run(&mut self) -> Result<(), Failure> {
        let error = |e: ptx_vm::Error| Failure::kernel(&self.kernel, e.to_string());
        for Bound { from, len, at, .. } in &self.bound {
            // SAFETY: the buffer is alive, and nobody writes it, until the work is done: who gave
            // the address promised so (see `Session`).
            let bytes = unsafe { std::slice::from_raw_parts(*from as *const u8, *len) };
            self.machine.write(*at, bytes).map_err(error)?;
        }
        for step in &self.steps {
            match step {
                Step::Clear(at, bytes) => self.machine.write(*at, &vec![0; *bytes]),
                Step::Launch { module, entry, config, arg } => {
                    let args = std::slice::from_ref(arg);
                    self.machine.launch(module, entry, config, args).map(drop)
                }
            }
            .map_err(error)?;
        }
        for (at, problem) in &self.watched {
            let mut word = [0; size_of::<u64>()];
            self.machine.read(*at, &mut word).map_err(error)?;
            match u64::from_ne_bytes(word) {
                0 => {}
                word => return Err(problem(word)),
            }
        }
        for Bound { from, len, at, .. } in self.bound.iter().filter(|b| b.access == Access::Write) {
            // SAFETY: as above; nobody else uses the buffer, whose use by this work is to write.
            let bytes = unsafe { std::slice::from_raw_parts_mut(*from as *mut u8, *len) };
            self.machine.read(*at, bytes).map_err(error)?;
        }
        Ok(())
    }
}

/// Launches that are begun.
struct EmulatedSession<'s> {
    queue: &'s EmulatedQueue,
    earlier: Vec<Earlier>,
    launches: Launches,
    scratch: Vec<DevicePtr>,
}

impl EmulatedSession<'_> {
    /// Scratch memory that begins at an address.
    fn scratch_at(&self, address: u64) -> Result<DevicePtr, String> {
        let mut all = self.scratch.iter().copied();
        let found = all.find(|scratch| scratch.address() == address);
        found.ok_or_else(|| format!("no scratch memory begins at {address:#x}"))
    }

    /// Memory of the machine that begins `skew` bytes from where the machine aligns it to. What
    /// lies before was never written.
    fn place(&mut self, skew: u64, len: usize, label: &str) -> Result<[DevicePtr; 2], String> {
        let base = self.launches.machine.alloc_named(skew + len as u64, label);
        let base = base.map_err(|e| format!("`{label}`: {e}"))?;
        Ok([base, base.offset(skew)])
    }
}

impl Session for EmulatedSession<'_> {
    fn bind(&mut self, used: DeviceUse<'_>, offset: usize, len: usize) -> Result<u64, String> {
        if len == 0 {
            return Ok(0);
        }
        let from = used.buffer.address() + offset as u64;
        let [base, at] = self.place(from % ALIGNMENT, len, used.buffer.label())?;
        if used.access == Access::Read {
            self.launches.machine.protect(base).map_err(|e| e.to_string())?;
        }
        self.launches.bound.push(Bound { from, len, at, access: used.access });
        Ok(at.address())
    }

    fn keep(&mut self, bytes: Vec<u8>, label: &str) -> Result<u64, String> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let [base, at] = self.place(0, bytes.len(), label)?;
        self.launches.machine.write(at, &bytes).map_err(|e| e.to_string())?;
        self.launches.machine.protect(base).map_err(|e| e.to_string())?;
        Ok(at.address())
    }

    fn scratch(&mut self, len: usize, label: &str) -> Result<u64, String> {
        if len == 0 {
            return Ok(0);
        }
        let [_, at] = self.place(0, len, label)?;
        self.scratch.push(at);
        Ok(at.address())
    }

    fn clear(&mut self, address: u64, bytes: usize) -> Result<(), String> {
        let at = self.scratch_at(address)?;
        self.launches.steps.push(Step::Clear(at, bytes));
        Ok(())
    }

    fn watch(&mut self, problem: Problem) -> Result<u64, String> {
        let [_, at] = self.place(0, size_of::<u64>(), "what is wrong")?;
        self.launches.steps.push(Step::Clear(at, size_of::<u64>()));
        self.launches.watched.push((at, problem));
        Ok(at.address())
    }

    fn launch(
        &mut self,
        module: ModuleId,
        entry: &str,
        grid: Grid,
        parameter: &[u8],
    ) -> Result<(), String> {
        let modules = self.queue.modules.read().unwrap_or_else(PoisonError::into_inner);
        let module = modules.get(module.0).cloned().ok_or("the module is of another GPU")?;
        let config = LaunchConfig::new(grid.blocks, grid.threads)
            .dynamic_shared(grid.shared_memory)
            .host_threads(self.queue.threads);
        let (entry, arg) = (entry.to_owned(), Arg::bytes(parameter));
        self.launches.steps.push(Step::Launch { module, entry, config, arg });
        Ok(())
    }

    fn submit(self: Box<Self>, kernel: &str) -> Result<Option<Fence>, String> {
        let EmulatedSession { queue, earlier, mut launches, .. } = *self;
        launches.kernel = kernel.to_owned();
        if let Some(recorded) = &mut *lock(&queue.recording) {
            recorded.push(launches);
            return Ok(None);
        }
        Ok(Some(queue.enqueue(Arc::new(Mutex::new(vec![launches])), &earlier)))
    }
}

/// Work of a queue.
struct Task {
    launches: Arc<Mutex<Vec<Launches>>>,
    earlier: Vec<Earlier>,
    done: Arc<Done>,
}

impl Task {
    fn run(self) {
        for (work, effect) in &self.earlier {
            let result = work.wait();
            if let (Access::Write, Err(error)) = (effect, result) {
                return self.done.end(Err(Failure::from(error)));
            }
        }
        let result = lock(&self.launches).iter_mut().try_for_each(|launches| {
            let result = catch_unwind(AssertUnwindSafe(|| launches.run()));
            result
                .unwrap_or_else(|_| Err(Failure::kernel(&launches.kernel, "the emulator panicked")))
        });
        self.done.end(result);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.done.end(Err(Failure::kernel("emulator", "its thread is gone")));
    }
}

/// Whether work has ended, and how.
#[derive(Default)]
struct Done {
    stream: u64,
    result: Mutex<Option<Result<(), Failure>>>,
    ended: Condvar,
}

impl Done {
    /// Ends it, if it has not ended yet.
    fn end(&self, result: Result<(), Failure>) {
        lock(&self.result).get_or_insert(result);
        self.ended.notify_all();
    }
}

impl Work for Done {
    fn stream(&self) -> u64 {
        self.stream
    }

    fn is_done(&self) -> bool {
        lock(&self.result).is_some()
    }

    fn wait(&self) -> Result<()> {
        let mut result = lock(&self.result);
        loop {
            match &*result {
                Some(Ok(())) => return Ok(()),
                Some(Err(failure)) => return Err(failure.clone().into()),
                None => result = self.ended.wait(result).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
