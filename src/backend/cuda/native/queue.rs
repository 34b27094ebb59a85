//! Streams of the driver as queues: sessions, events, graphs.

use std::any::Any;
use std::ffi::c_void;
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::api::{Context, Stream, check, sys};
use super::words::{Watch, Words};
use super::{Loaded, Modules};
use crate::backend::cuda::driver::{Grid, ModuleId, Queue, Session};
use crate::backend::cuda::failure::{Failure, Problem};
use crate::backend::cuda::lock::lock;
use crate::error::Result;
use crate::memory::{Access, DeviceUse, Earlier, Fence, Work};

/// Dynamic shared memory that kernels get without being allowed more.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// `CU_LAUNCH_PARAM_END`, `…_BUFFER_POINTER`, `…_BUFFER_SIZE`: what announces the parameters of
/// `cuLaunchKernel` as one block of bytes.
const PARAMETER: [*mut c_void; 3] =
    [null_mut(), without_provenance_mut(1), without_provenance_mut(2)];

/// A stream as a queue.
pub(super) struct NativeQueue {
    number: u64,
    stream: Stream,
    modules: Modules,
    words: Arc<Words>,
    /// What the graph being recorded needs, while one is.
    recording: Mutex<Option<Kept>>,
}

/// What launches need as long as they can run.
#[derive(Default)]
struct Kept {
    /// Bytes that are copied to the GPU.
    constants: Vec<Vec<u8>>,
    watches: Vec<Arc<Watch>>,
}

impl Kept {
    /// Keeps what another one did.
    fn take(&mut self, other: &mut Kept) {
        self.constants.append(&mut other.constants);
        self.watches.append(&mut other.watches);
    }
}

impl NativeQueue {
    pub fn new(number: u64, stream: Stream, modules: Modules, words: Arc<Words>) -> Self {
        NativeQueue { number, stream, modules, words, recording: Mutex::default() }
    }

    /// Orders what follows after earlier work; the host waits only for work of other drivers.
    fn order_after(&self, earlier: &[Earlier]) -> Result<(), String> {
        self.stream.context.bind()?;
        for (work, _) in earlier.iter().filter(|(work, _)| work.stream() != self.number) {
            let any: &dyn Any = &**work;
            match any.downcast_ref::<NativeWork>() {
                Some(work) => {
                    // SAFETY: the stream and the event live; events order streams of any context.
                    let result = unsafe { sys::cuStreamWaitEvent(self.stream.raw, work.event, 0) };
                    check("cuStreamWaitEvent", result)?;
                }
                None => work.wait().map_err(|error| error.to_string())?,
            }
        }
        Ok(())
    }

    /// An event behind all work so far, which takes what that needs, and fails where a watch says
    /// so. It takes nothing where it can not be made.
    fn mark(&self, kernel: &str, kept: &mut Kept) -> Result<Fence, String> {
        let context = self.stream.context.clone();
        context.bind()?;
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        let mut event = null_mut();
        // SAFETY: a place for a handle; the context is current.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, flags) })?;
        let (stream, kernel, ended) = (self.number, kernel.to_owned(), OnceLock::new());
        let nothing = Kept::default();
        let mut work = NativeWork { context, event, stream, kernel, kept: nothing, ended };
        // SAFETY: event and stream live.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event, self.stream.raw) })?;
        work.kept.take(kept);
        Ok(Arc::new(work))
    }

    /// Waits for work of which nobody is told when it ends. Where that fails the context is lost, and
    /// nothing runs any more.
    fn wait(&self) {
        let _ = self.stream.synchronize();
    }

    /// Ends a recording: the graph, and what it needs.
    fn end(&self) -> Result<(sys::CUgraph, Kept), String> {
        let kept = lock(&self.recording).take().ok_or("the stream does not record")?;
        self.stream.context.bind()?;
        let mut graph = null_mut();
        // SAFETY: a place for a handle; the stream records.
        let result = unsafe { sys::cuStreamEndCapture(self.stream.raw, &mut graph) };
        check("cuStreamEndCapture", result).map(|()| (graph, kept))
    }
}

impl Drop for NativeQueue {
    fn drop(&mut self) {
        if let Ok((graph, _)) = self.end() {
            // SAFETY: made above, destroyed once.
            unsafe { sys::cuGraphDestroy(graph) };
        }
    }
}

impl Queue for NativeQueue {
    fn session(&self, earlier: &[Earlier]) -> Result<Box<dyn Session + '_>, String> {
        // What a graph has to come after is settled when it is replayed.
        let mut inherited = Vec::new();
        if lock(&self.recording).is_none() {
            self.order_after(earlier)?;
            inherited = inherit(earlier);
        }
        let (own, watched, kept) = (Vec::new(), Vec::new(), Kept::default());
        Ok(Box::new(NativeSession { queue: self, own, watched, inherited, kept, begun: false }))
    }

    fn record(&self) -> Result<(), String> {
        self.stream.context.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives and nothing is in it but what this queue puts there.
        let result = unsafe { sys::cuStreamBeginCapture_v2(self.stream.raw, mode) };
        check("cuStreamBeginCapture", result)?;
        *lock(&self.recording) = Some(Kept::default());
        Ok(())
    }

    fn recorded(&self) -> Result<Box<dyn Any + Send + Sync>, String> {
        let (graph, kept) = self.end()?;
        let mut executable = null_mut();
        // SAFETY: a place for a handle; the graph was just made, and is not needed afterwards.
        let result = unsafe {
            let result = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            sys::cuGraphDestroy(graph);
            result
        };
        check("cuGraphInstantiate", result)?;
        let context = self.stream.context.clone();
        Ok(Box::new(NativeGraph { context, executable, kept }))
    }

    fn replay(
        &self,
        recorded: &(dyn Any + Send + Sync),
        earlier: &[Earlier],
    ) -> Result<Fence, String> {
        let graph: Option<&NativeGraph> = recorded.downcast_ref();
        let graph = graph.ok_or("recorded by another driver")?;
        self.order_after(earlier)?;
        // SAFETY: graph and stream live; the caller keeps the graph until the work has ended.
        let result = unsafe { sys::cuGraphLaunch(graph.executable, self.stream.raw) };
        check("cuGraphLaunch", result)?;
        let watches = graph.kept.watches.iter().cloned().chain(inherit(earlier)).collect();
        // The graph itself has its constants.
        let marked = self.mark("graph", &mut Kept { watches, constants: Vec::new() });
        marked.inspect_err(|_| self.wait())
    }
}

/// Launches that are ready to be repeated.
struct NativeGraph {
    context: Arc<Context>,
    executable: sys::CUgraphExec,
    kept: Kept,
}

// SAFETY: see `Context`; replays of one graph are ordered by the buffers that it writes.
unsafe impl Send for NativeGraph {}
// SAFETY: as above.
unsafe impl Sync for NativeGraph {}

impl Drop for NativeGraph {
    fn drop(&mut self) {
        let _ = self.context.bind().map(|()| {
            // SAFETY: made once, destroyed once, when its replays have ended.
            unsafe { sys::cuGraphExecDestroy(self.executable) }
        });
    }
}

/// What is watched of work that has not succeeded yet, and that later work builds upon.
fn inherit(earlier: &[Earlier]) -> Vec<Arc<Watch>> {
    let mut watches: Vec<Arc<Watch>> = Vec::new();
    for (work, _) in earlier.iter().filter(|(_, effect)| *effect == Access::Write) {
        let any: &dyn Any = &**work;
        let work = any.downcast_ref::<NativeWork>();
        for watch in work.map(|work| &work.kept.watches).into_iter().flatten() {
            if !watches.iter().any(|other| Arc::ptr_eq(other, watch)) {
                watches.push(watch.clone());
            }
        }
    }
    watches
}

/// Launches into a queue.
struct NativeSession<'s> {
    queue: &'s NativeQueue,
    /// Memory of the session's own.
    own: Vec<u64>,
    /// Words in that memory, and what their numbers stand for.
    watched: Vec<(u64, Problem)>,
    inherited: Vec<Arc<Watch>>,
    kept: Kept,
    /// Whether something may be in the stream that was not submitted.
    begun: bool,
}

impl Session for NativeSession<'_> {
    fn bind(&mut self, used: DeviceUse<'_>, offset: usize, len: usize) -> Result<u64, String> {
        Ok(if len == 0 { 0 } else { used.buffer.address() + offset as u64 })
    }

    fn keep(&mut self, bytes: Vec<u8>, label: &str) -> Result<u64, String> {
        let address = self.scratch(bytes.len(), label)?;
        if !bytes.is_empty() {
            self.begun = true;
            // SAFETY: the work keeps them, or the graph, or this session, which waits when dropped.
            let copied = unsafe { self.queue.stream.copy_in(address, &bytes) };
            self.kept.constants.push(bytes);
            copied?;
        }
        Ok(address)
    }

    fn scratch(&mut self, bytes: usize, label: &str) -> Result<u64, String> {
        if bytes == 0 {
            return Ok(0);
        }
        let address = self.queue.stream.allocate(bytes);
        let address = address.map_err(|error| format!("`{label}`, {bytes} bytes: {error}"))?;
        self.own.push(address);
        Ok(address)
    }

    fn clear(&mut self, address: u64, bytes: usize) -> Result<(), String> {
        match bytes {
            0 => Ok(()),
            _ => self.queue.stream.clear(address, bytes),
        }
    }

    fn watch(&mut self, problem: Problem) -> Result<u64, String> {
        let address = self.scratch(size_of::<u64>(), "what is wrong")?;
        self.clear(address, size_of::<u64>())?;
        self.watched.push((address, problem));
        Ok(address)
    }

    fn launch(
        &mut self,
        module: ModuleId,
        entry: &str,
        grid: Grid,
        parameter: &[u8],
    ) -> Result<(), String> {
        let modules = self.queue.modules.read().unwrap_or_else(PoisonError::into_inner);
        let loaded: Arc<Loaded> =
            modules.get(module.0).cloned().ok_or("the module is of another GPU")?;
        drop(modules);
        let mut functions = lock(&loaded.functions);
        let function = match functions.get(entry) {
            Some(function) => *function,
            None => *functions.entry(entry.to_owned()).or_insert(loaded.module.function(entry)?),
        };
        drop(functions);
        self.queue.stream.context.bind()?;
        if grid.shared_memory > SHARED_WITHOUT_ASKING {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function's module lives as long as the queue's modules.
            let result = unsafe {
                sys::cuFuncSetAttribute(function.0, attribute, grid.shared_memory as i32)
            };
            check("cuFuncSetAttribute", result)?;
        }
        let [end, pointer, size] = PARAMETER;
        let mut len = parameter.len();
        let bytes = parameter.as_ptr().cast_mut().cast();
        let mut extra = [pointer, bytes, size, (&raw mut len).cast(), end];
        // SAFETY: the parameter's bytes are copied before this returns, and the driver compares
        // their number with the kernel's; the kernel's addresses are of buffers that the caller
        // keeps until the work is done.
        let result = unsafe {
            sys::cuLaunchKernel(
                function.0,
                grid.blocks,
                1,
                1,
                grid.threads,
                1,
                1,
                grid.shared_memory,
                self.queue.stream.raw,
                null_mut(),
                extra.as_mut_ptr(),
            )
        };
        check("cuLaunchKernel", result).map_err(|error| {
            let Grid { blocks, threads, shared_memory } = grid;
            format!(
                "`{entry}`, {blocks} blocks of {threads} threads and {shared_memory} bytes of \
                 shared memory: {error}"
            )
        })
    }

    fn submit(mut self: Box<Self>, kernel: &str) -> Result<Option<Fence>, String> {
        self.begun = true;
        for (address, problem) in self.watched.drain(..) {
            let watch = Arc::new(self.queue.words.watch(problem)?);
            self.kept.watches.push(watch.clone());
            // SAFETY: a pinned word that is kept like constants.
            unsafe { self.queue.stream.copy_word_out(address, watch.word()) }?;
        }
        if let Some(recorded) = &mut *lock(&self.queue.recording) {
            recorded.take(&mut self.kept);
            return Ok(None);
        }
        self.kept.watches.append(&mut self.inherited);
        let work = self.queue.mark(kernel, &mut self.kept)?;
        self.begun = false;
        Ok(Some(work))
    }
}

impl Drop for NativeSession<'_> {
    fn drop(&mut self) {
        // Who began it is told that it failed, and takes back what it uses: it must have ended, or be
        // recorded.
        match &mut *lock(&self.queue.recording) {
            Some(recorded) => recorded.take(&mut self.kept),
            None if self.begun => self.queue.wait(),
            None => {}
        }
        // In the order of the stream: after the launches that use it.
        self.own.drain(..).for_each(|address| self.queue.stream.free(address));
    }
}

/// Work up to an event.
struct NativeWork {
    context: Arc<Context>,
    event: sys::CUevent,
    stream: u64,
    kernel: String,
    kept: Kept,
    ended: OnceLock<Result<(), Failure>>,
}

impl NativeWork {
    /// How it ended, for what the driver says of its event.
    fn outcome(&self, result: Result<(), String>) -> Result<(), Failure> {
        result.map_err(|problem| {
            // The driver tells of a failure whoever asks next.
            let place = "in this kernel or in one before it";
            Failure::kernel(&self.kernel, format!("{problem}, {place}; the GPU's context is lost"))
        })?;
        self.kept.watches.iter().find_map(|watch| watch.failure()).map_or(Ok(()), Err)
    }
}

// SAFETY: see `Context`.
unsafe impl Send for NativeWork {}
// SAFETY: see `Context`.
unsafe impl Sync for NativeWork {}

impl Work for NativeWork {
    fn stream(&self) -> u64 {
        self.stream
    }

    fn is_done(&self) -> bool {
        if self.ended.get().is_some() {
            return true;
        }
        let result = self.context.bind().and_then(|()| {
            // SAFETY: the event lives.
            match unsafe { sys::cuEventQuery(self.event) } {
                sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
                result => check("cuEventQuery", result).map(|()| true),
            }
        });
        match result {
            Ok(false) => false,
            result => {
                self.ended.get_or_init(|| self.outcome(result.map(drop)));
                true
            }
        }
    }

    fn wait(&self) -> Result<()> {
        let ended = self.ended.get_or_init(|| {
            self.outcome(self.context.bind().and_then(|()| {
                // SAFETY: the event lives.
                check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.event) })
            }))
        });
        ended.clone().map_err(Into::into)
    }
}

impl Drop for NativeWork {
    fn drop(&mut self) {
        let _ = self.context.bind().map(|()| {
            // SAFETY: created once, destroyed once.
            unsafe { sys::cuEventDestroy_v2(self.event) }
        });
    }
}
