//! A [`Device`]: a machine, its memory budget, its threads, and the kernels it runs with.

mod builder;
mod tune;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

pub use builder::{DeviceBuilder, ISA_VARIABLE};

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::{Buffer, Locks, MemoryReport, Pool};
use crate::op::Op;
use crate::registry::{Explanation, KernelInfo, KernelRegistry, Launch, Request, Tier, Workers};

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
}

struct Shared {
    name: String,
    caps: Caps,
    pool: Pool,
    workers: Workers,
    registry: KernelRegistry,
    launches: Mutex<BTreeMap<String, u64>>,
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
        let shared = Shared { name, caps, pool, workers, registry, launches: Mutex::default() };
        Device { shared: Arc::new(shared), request: Arc::new(request) }
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

    /// Records a choice, in the log and in [`Device::launches`].
    fn record(&self, kernel: &KernelInfo, op: &Op) {
        let name = kernel.name.as_str();
        tracing::trace!(kernel = name, %op, device = self.name(), "run");
        let mut launches = self.shared.launches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = launches.get_mut(name) {
            *count += 1;
            return;
        }
        launches.insert(name.to_owned(), 1);
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
        Device { shared: self.shared.clone(), request: Arc::new(request) }
    }

    /// Whether the two handles are the same device.
    pub fn is_same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// `len` zero bytes of the memory that this device's results live in.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the budget or the system does not allow it.
    pub fn allocate(&self, len: usize, label: impl Into<String>) -> Result<Buffer> {
        Buffer::host(&self.shared.pool, len, label)
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

    /// Runs an operation: checks it, picks a kernel, waits for conflicting work, launches.
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
        let Some(kernel) = self.registry().select(op, self.caps(), &self.request) else {
            return Err(Error::NoKernel {
                op: op.to_string(),
                device: self.name().to_owned(),
                explanation: self.registry().explain(op, self.caps(), &self.request).to_string(),
            });
        };
        let uses = op.operands();
        let buffers = uses.iter().flat_map(|u| u.operand.regions().map(|r| (r.buffer(), u.access)));
        let mut locks = Locks::acquire(op.kind().name(), buffers)?;
        let name = &kernel.info().name;
        let launch = Launch::new(op, name, &mut locks, self.caps(), &self.shared.workers);
        self.record(kernel.info(), op);
        kernel.launch(&launch)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}: {})", self.name(), self.caps())
    }
}
