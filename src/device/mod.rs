//! A [`Device`]: a machine, its memory budget, its threads, and the kernels it runs with.

mod builder;
mod graph;
mod tune;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

pub use builder::{DeviceBuilder, ISA_VARIABLE};
pub use graph::Graph;

use crate::caps::{Caps, MemoryKind};
use crate::error::{Error, Result};
#[cfg(any(feature = "gguf", feature = "safetensors"))]
use crate::memory::Bounce;
use crate::memory::{Access, Buffer, Locks, MemoryReport, Pool};
use crate::op::Op;
use crate::registry::{
    Accelerator, Explanation, Kernel, KernelInfo, KernelRegistry, Launch, Request, Stream, Tier,
    Workers,
};

/// Where tensors live and operations run.
///
/// Cheap to clone; clones share memory accounting and registry. `Send + Sync`.
///
/// ```
/// use ferrocerium::Device;
/// let device = Device::cpu();
/// println!("{}: {}\n{}", device.name(), device.caps(), device.memory());
/// ```
#[derive(Clone)]
pub struct Device {
    shared: Arc<Shared>,
    request: Arc<Request>,
    /// Where its work goes; none where operations run on the calling thread.
    stream: Option<Arc<dyn Stream>>,
}

struct Shared {
    name: String,
    caps: Caps,
    pool: Pool,
    workers: Workers,
    registry: KernelRegistry,
    accelerator: Option<Arc<dyn Accelerator>>,
    launches: Mutex<BTreeMap<String, u64>>,
}

/// The buffers of an operation, and what it does with them.
fn uses(op: &Op) -> Vec<(&Buffer, Access)> {
    let mut uses = Vec::new();
    for operand in op.operands() {
        uses.extend(operand.operand.regions().map(|region| (region.buffer(), operand.access)));
    }
    uses
}

/// The buffers of an operation in the order in which they are locked.
fn uses_in_order(op: &Op) -> Result<Vec<(&Buffer, Access)>> {
    // Which operands share memory is looked for only where some do.
    Locks::in_order(op.kind().name(), uses(op))
        .map_err(|error| op.require_apart().err().unwrap_or(error))
}

impl Device {
    /// Limits and threads for a device that is yet to be made.
    ///
    /// ```
    /// # use ferrocerium::Device;
    /// let device = Device::builder().memory_limit(1 << 30).threads(2).cpu()?;
    /// assert_eq!(device.memory().budget, 1 << 30);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn builder() -> DeviceBuilder {
        DeviceBuilder::default()
    }

    /// A device from its parts, as backends make them.
    pub fn from_parts(
        name: impl Into<String>,
        caps: Caps,
        pool: Pool,
        workers: Workers,
        registry: KernelRegistry,
        request: Request,
    ) -> Self {
        let name = name.into();
        let launches = Mutex::default();
        let shared = Shared { name, caps, pool, workers, registry, accelerator: None, launches };
        Device { shared: Arc::new(shared), request: Arc::new(request), stream: None }
    }

    /// The same device, which runs its kernels in streams.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn with_accelerator(self, accelerator: Arc<dyn Accelerator>) -> Result<Self> {
        let Some(shared) = Arc::into_inner(self.shared) else {
            return Err(Error::device("the device is in use already"));
        };
        let stream = Some(accelerator.open_stream()?);
        let shared = Arc::new(Shared { accelerator: Some(accelerator), ..shared });
        Ok(Device { shared, request: self.request, stream })
    }

    /// What has its streams.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn accelerator(&self) -> Option<&Arc<dyn Accelerator>> {
        self.shared.accelerator.as_ref()
    }

    /// The name: `"cpu"`, `"reference"`, …
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What the machine is.
    pub fn caps(&self) -> &Caps {
        &self.shared.caps
    }

    /// The kernels it chooses from. Changes affect every clone of the device.
    pub fn registry(&self) -> &KernelRegistry {
        &self.shared.registry
    }

    /// Bytes used, the peak, the largest live buffers by label, and every limit to further ones
    /// with the numbers behind it, read now.
    pub fn memory(&self) -> MemoryReport {
        self.shared.pool.report()
    }

    /// How often each kernel was launched on this device, by name.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let device = Device::reference();
    /// Tensor::full(&device, [2, 3], 1.0f32)?.softmax()?;
    /// assert_eq!(device.launches()["reference.softmax"], 1);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn launches(&self) -> BTreeMap<String, u64> {
        self.shared.launches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a launch in the log.
    fn trace(&self, kernel: &KernelInfo, op: &Op) {
        tracing::trace!(kernel = kernel.name, %op, device = self.name(), "run");
    }

    /// Counts launches of a kernel, the first of them of this operation.
    fn count(&self, kernel: &KernelInfo, op: &Op, times: u64) {
        let name = kernel.name.as_str();
        let mut launches = self.shared.launches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = launches.get_mut(name) {
            *count += times;
            return;
        }
        launches.insert(name.to_owned(), times);
        drop(launches);
        tracing::debug!(kernel = name, %op, device = self.name(), "first use of a kernel");
        let asked_for = self.request.names(name) || !self.registry().has_fast_kernels();
        if kernel.tier == Tier::Fallback && !asked_for {
            tracing::warn!(
                kernel = name,
                %op,
                device = self.name(),
                "no fast kernel runs this operation; explain() says why"
            );
        }
    }

    /// What this handle asks of the choice of kernels.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// A handle to the same device whose operations are chosen as `request` says, except that a
    /// strict device stays strict, and that what the environment forces stays forced.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor, registry::Request};
    /// let device = Device::cpu();
    /// let careful = device.with_request(Request::kernel("reference.gemm"));
    /// let x = Tensor::from_host(&careful, [1, 2], &[1.0f32, 2.0])?;
    /// let y = Tensor::from_host(&careful, [2, 1], &[3.0f32, 4.0])?;
    /// assert_eq!(x.matmul(&y)?.host()?[[0, 0]], 11.0);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn with_request(&self, request: Request) -> Self {
        let strict = self.request.strict || request.strict;
        let request = Request { strict, forced: self.request.forced.clone(), ..request };
        Device { request: Arc::new(request), ..self.clone() }
    }

    /// A handle to the same device whose operations run in a stream of their own, where a device
    /// has streams: they wait for those of other handles only where they use the same memory, and
    /// can run beside them. A tensor's operations run in the stream of the handle that it has:
    /// see [`Tensor::on`](crate::Tensor::on).
    ///
    /// # Errors
    /// [`Error::Device`] when the driver refuses.
    pub fn with_new_stream(&self) -> Result<Self> {
        let stream = self.shared.accelerator.as_ref().map(|a| a.open_stream()).transpose()?;
        Ok(Device { stream, ..self.clone() })
    }

    /// Waits for all work of the device, that of other handles too. Reading a result waits for what
    /// it needs: this is for measuring, and for errors of work whose results nobody read.
    ///
    /// # Errors
    /// The first failure of device work since the last time, with the kernel's name.
    pub fn synchronize(&self) -> Result<()> {
        self.shared.accelerator.as_ref().map_or(Ok(()), |accelerator| accelerator.synchronize())
    }

    /// Whether the two handles are the same device.
    pub fn is_same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// `len` zero bytes of the memory that this device's results live in.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the budget, the system or the driver does not allow it;
    /// [`Error::Device`] where the device failed: a GPU has lost its memory when a kernel on it
    /// faults.
    pub fn allocate(&self, len: usize, label: impl Into<String>) -> Result<Buffer> {
        self.allocate_kind(self.memory_kind(), len, label)
    }

    /// `len` zero bytes of a kind of memory: [`MemoryKind::Host`] on any device, on GPUs also what
    /// [`Caps::memory_kinds`] lists.
    ///
    /// # Errors
    /// [`Error::Memory`] for a kind that the device does not allocate; those of
    /// [`Device::allocate`].
    pub fn allocate_kind(
        &self,
        kind: MemoryKind,
        len: usize,
        label: impl Into<String>,
    ) -> Result<Buffer> {
        Buffer::allocate(&self.shared.pool, kind, len, label)
    }

    /// Memory on the way to results.
    #[cfg(any(feature = "gguf", feature = "safetensors"))]
    pub(crate) fn bounce(&self) -> Bounce {
        Bounce::new(&self.shared.pool, self.memory_kind())
    }

    /// The kind of memory that results live in: what [`DeviceBuilder::memory`] asked for, or what
    /// suits the machine.
    pub fn memory_kind(&self) -> MemoryKind {
        self.caps().memory_kind
    }

    /// The threads of its CPU kernels.
    pub fn workers(&self) -> &Workers {
        &self.shared.workers
    }

    /// Every kernel that was considered for the operation, and why it does or does not run. The
    /// operation may be a specification without data.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let device = Device::reference();
    /// let x = Tensor::full(&device, [2, 3], 1.0f32)?;
    /// let explanation = device.explain(&x.gemm(&x.t()).spec::<f32>()?)?;
    /// assert_eq!(explanation.chosen().map(|k| k.name.as_str()), Some("reference.gemm"));
    /// let text = explanation.to_string();
    /// assert!(text.starts_with("gemm(a: [2, 3] f32, b: [3, 2] f32 strides [1, 3], d: "), "{text}");
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Op::validate`].
    pub fn explain(&self, op: &Op) -> Result<Explanation> {
        op.validate()?;
        Ok(self.registry().explain(op, self.caps(), &self.request))
    }

    /// Runs an operation: checks it, picks a kernel, launches it after conflicting work. On a GPU it
    /// returns when the kernel is enqueued; what goes wrong later is the error of whoever waits
    /// for what it writes.
    ///
    /// Each launch is a `tracing` event of level trace with the kernel's name and the operation,
    /// the first launch of a kernel one of level debug; the first launch of a
    /// [`Tier::Fallback`] kernel that nobody asked for is a warning.
    ///
    /// # Errors
    /// Those of [`Op::validate`]; [`Error::NoKernel`] when none fits; [`Error::Busy`] when a host
    /// guard holds an operand; and whatever the kernel reports of the data.
    pub fn run(&self, op: &Op) -> Result<()> {
        op.validate()?;
        op.require_data()?;
        self.require_reach(op)?;
        let Some(kernel) = self.registry().select(op, self.caps(), &self.request) else {
            return Err(Error::NoKernel {
                op: op.to_string(),
                device: self.name().to_owned(),
                explanation: self.registry().explain(op, self.caps(), &self.request).to_string(),
            });
        };
        self.launch(op, &kernel)
    }

    /// Launches a kernel, or notes it where this thread records.
    fn launch(&self, op: &Op, kernel: &Arc<dyn Kernel>) -> Result<()> {
        if self.capture_step(op, kernel)? {
            return Ok(());
        }
        let locks = Locks::hold(uses_in_order(op)?, None)?;
        self.count(kernel.info(), op, 1);
        self.launch_locked(op, kernel, &locks)
    }

    /// Launches a kernel that was counted, over buffers that are locked.
    fn launch_locked(&self, op: &Op, kernel: &Arc<dyn Kernel>, locks: &Locks<'_>) -> Result<()> {
        self.trace(kernel.info(), op);
        let name = &kernel.info().name;
        let launch = Launch::new(op, name, locks, self.caps(), &self.shared.workers);
        kernel.launch(&launch.on_stream(self.stream.as_ref()))
    }

    /// Whether its kernels reach the memory of a buffer.
    pub fn reaches(&self, buffer: &Buffer) -> bool {
        let reached = self.caps().memory_kinds.contains(&buffer.kind());
        reached && self.shared.pool.reaches(buffer)
    }

    /// Refuses operands in memory that the device can not reach.
    fn require_reach(&self, op: &Op) -> Result<()> {
        let Some((buffer, _)) = uses(op).into_iter().find(|(buffer, _)| !self.reaches(buffer))
        else {
            return Ok(());
        };
        Err(Error::Memory {
            label: buffer.label().to_owned(),
            problem: format!(
                "it is {} memory that {} does not reach; copy it, by `to_device` or `to_kind`",
                buffer.kind(),
                self.name()
            ),
        })
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}: {})", self.name(), self.caps())
    }
}
