//! Operations that are recorded once and run again as a whole.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use super::{Device, Shared};
use crate::error::{Error, Result};
use crate::memory::{Access, Buffer, Locks, Recording, Region};
use crate::op::Op;
use crate::registry::{Accelerator, Kernel, Launch, Recorded, Stream};

thread_local! {
    /// What this thread records.
    static CAPTURE: RefCell<Option<Capture>> = const { RefCell::new(None) };
}

struct Capture {
    device: Arc<Shared>,
    recording: Arc<Recording>,
    steps: Vec<Step>,
    results: Vec<OfSteps>,
}

/// Memory of a result.
struct OfSteps {
    buffer: Buffer,
    /// Handles to it that steps have.
    handles: usize,
}

impl Capture {
    fn push(&mut self, step: Step) {
        for result in &mut self.results {
            result.handles += step.handles(&result.buffer);
        }
        self.steps.push(step);
    }

    /// Memory of a result that none but steps can read any more: those so far have run when what
    /// comes next does.
    fn spare(&self, len: usize, label: &str) -> Option<Buffer> {
        let is_spare = |OfSteps { buffer, handles }: &&OfSteps| {
            buffer.handles() == handles + 1 && buffer.len() == len && buffer.label() == label
        };
        self.results.iter().find(is_spare).map(|result| result.buffer.clone())
    }
}

/// An operation and the kernel that was chosen for it.
#[derive(Clone)]
struct Step {
    op: Op,
    kernel: Arc<dyn Kernel>,
    /// Its buffers, in the order in which they are locked.
    uses: Vec<(Buffer, Access)>,
}

/// Ends the recording of this thread when dropped.
struct Capturing;

impl Capturing {
    fn start(device: &Arc<Shared>) -> Result<Self> {
        CAPTURE.with_borrow_mut(|capture| {
            if capture.is_some() {
                return Err(Error::device(
                    "capture: this thread records already; end that recording first",
                ));
            }
            let (device, recording) = (device.clone(), Recording::start());
            *capture = Some(Capture { device, recording, steps: Vec::new(), results: Vec::new() });
            Ok(Capturing)
        })
    }

    fn end(self) -> Vec<Step> {
        CAPTURE.with_borrow_mut(|capture| {
            capture.as_mut().map(|capture| std::mem::take(&mut capture.steps)).unwrap_or_default()
        })
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        // Taken out first: dropping buffers is no business of the thread's record.
        let capture = CAPTURE.with_borrow_mut(Option::take);
        if let Some(capture) = capture {
            capture.recording.end();
        }
    }
}

/// Operations that were recorded by [`Device::capture`], with the memory that they use.
///
/// On a GPU it is one launch, however many operations there are. `Send + Sync`.
pub struct Graph {
    device: Device,
    steps: Vec<Step>,
    /// The buffers of all steps, in the order in which they are locked, and which of them are those
    /// of each.
    uses: Vec<(Buffer, Access)>,
    parts: Vec<Vec<(usize, Access)>>,
    /// The first step of each kernel, and how often that is launched.
    kernels: Vec<(usize, u64)>,
    /// What a device with streams made of the steps.
    whole: Option<Arc<dyn Recorded>>,
}

impl Device {
    /// Records the operations that `f` runs on this device, on the calling thread, instead of
    /// running them: they run when the graph is replayed, as often as it is, over the same memory.
    ///
    /// Indices, positions and the lengths of batched keys are data, read anew by each replay; what
    /// decides how an operation is cut into pieces on a GPU (offsets of packed sequences, tables
    /// of blocks) is read while recording.
    ///
    /// Memory is allocated while recording, and results are zero until the first replay. That of one
    /// that is dropped before the recording ends is given to later ones of its size and type. New
    /// inputs are written into the tensors that were used (by [`Tensor::host_mut`] or
    /// [`Tensor::copy_from`]) before a replay. Kernels are chosen once.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let x = Tensor::from_host(&device, [2], &[1.0f32, 2.0])?;
    /// let (graph, y) = device.capture(|| x.mul(&x)?.add_scalar(1.0))?;
    /// graph.replay()?;
    /// assert_eq!(y.to_vec()?, [2.0, 5.0]);
    /// x.host_mut()?[[0]] = 3.0;
    /// graph.replay()?;
    /// assert_eq!(y.to_vec()?, [10.0, 5.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// On a GPU all kernels that are not there yet are compiled before the first is recorded, as
    /// many at once as there are processors.
    ///
    /// # Errors
    /// Those of `f`, where the host reading what was recorded, or writing what it uses, is an
    /// [`Error::Busy`]; [`Error::Device`] while this thread records already; on GPUs
    /// [`Error::Kernel`] for an operation whose kernel needs the host to read or write operands:
    /// its message names the kernel.
    ///
    /// [`Tensor::host_mut`]: crate::Tensor::host_mut
    /// [`Tensor::copy_from`]: crate::Tensor::copy_from
    pub fn capture<T, E: From<Error>>(
        &self,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<(Graph, T), E> {
        let (steps, value) = self.steps(f)?;
        // The recording is over, but its marks are those of this thread only.
        let whole = match &self.shared.accelerator {
            Some(_) => Some(self.record(&steps)?),
            None => None,
        };
        let uses = merged(&steps);
        let parts = steps.iter().map(|step| step.places(&uses)).collect();
        let kernels = counted(&steps);
        Ok((Graph { device: self.clone(), steps, uses, parts, kernels, whole }, value))
    }

    /// Makes ready what the operations need that `f` runs on this device, on the calling thread,
    /// and runs none of them: on a GPU their kernels are compiled, as many at once as there are
    /// processors, or taken from the cache on disk. Later uses find them there. Where nothing is
    /// compiled, `f` is not called.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let device = Device::best()?;
    /// let x = Tensor::from_host(&device, [2], &[1.0f32, 2.0])?;
    /// device.prepare(|| x.mul(&x)?.softmax())?;
    /// assert_eq!(x.mul(&x)?.to_vec()?, [1.0, 4.0]);      // starts at once
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Device::capture`]; [`Error::Kernel`] with the compiler's messages.
    pub fn prepare<T, E: From<Error>>(&self, f: impl FnOnce() -> Result<T, E>) -> Result<(), E> {
        let Some(accelerator) = &self.shared.accelerator else { return Ok(()) };
        // What `f` makes is kept: its memory is not given to others meanwhile.
        let (steps, _made) = self.steps(f)?;
        Ok(self.compile(accelerator, &steps)?)
    }

    /// What `f` runs.
    fn steps<T, E: From<Error>>(
        &self,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<(Vec<Step>, T), E> {
        let capturing = Capturing::start(&self.shared)?;
        let value = f()?;
        Ok((capturing.end(), value))
    }

    /// Has the device record the launches of these operations.
    fn record(&self, steps: &[Step]) -> Result<Arc<dyn Recorded>> {
        let Some(accelerator) = &self.shared.accelerator else {
            return Err(Error::device("capture: the device has no streams"));
        };
        self.compile(accelerator, steps)?;
        let stream = accelerator.open_stream()?;
        stream.record()?;
        let launched = self.launch_all(steps, &stream);
        // Ended also where something failed.
        let recorded = stream.recorded();
        launched.and(recorded)
    }

    /// Makes ready what these operations need.
    fn compile(&self, accelerator: &Arc<dyn Accelerator>, steps: &[Step]) -> Result<()> {
        let stream = accelerator.open_stream()?;
        stream.look();
        self.launch_all(steps, &stream)?;
        accelerator.prepare(&stream)
    }

    /// Launches operations into a stream that does not run them.
    fn launch_all(&self, steps: &[Step], stream: &Arc<dyn Stream>) -> Result<()> {
        let recording = Recording::start();
        let launched = steps.iter().try_for_each(|step| {
            let name = &step.kernel.info().name;
            let locks = step.lock(Some(&recording))?;
            let launch = Launch::new(&step.op, name, &locks, self.caps(), self.workers());
            step.kernel.launch(&launch.on_stream(Some(stream))).map_err(|error| match error {
                Error::Busy { problem, .. } => {
                    Error::kernel(name, format!("{} can not be recorded: {problem}", step.op))
                }
                other => other,
            })
        });
        recording.end();
        launched
    }

    /// Records the operation if this thread records those of this device: whether it does.
    pub(super) fn capture_step(&self, op: &Op, kernel: &Arc<dyn Kernel>) -> Result<bool> {
        let recording = CAPTURE.with_borrow(|capture| {
            let capture = capture.as_ref().filter(|c| Arc::ptr_eq(&c.device, &self.shared));
            capture.map(|capture| capture.recording.clone())
        });
        let Some(recording) = recording else { return Ok(false) };
        let uses = super::uses_in_order(op)?.into_iter();
        let uses = uses.map(|(buffer, access)| (buffer.clone(), access)).collect();
        let step = Step { op: op.clone(), kernel: kernel.clone(), uses };
        // Marks the buffers as used.
        drop(step.lock(Some(&recording))?);
        CAPTURE.with_borrow_mut(|capture| {
            if let Some(capture) = capture {
                capture.push(step);
            }
        });
        Ok(true)
    }

    /// Memory for a result that an operation is about to write, all of it.
    pub(crate) fn allocate_result(&self, len: usize, label: &str) -> Result<Buffer> {
        let own = |capture: &&mut Capture| Arc::ptr_eq(&capture.device, &self.shared);
        let spare = CAPTURE.with_borrow_mut(|capture| {
            capture.as_mut().filter(own).and_then(|capture| capture.spare(len, label))
        });
        if let Some(buffer) = spare {
            return Ok(buffer);
        }
        let buffer = self.allocate(len, label)?;
        CAPTURE.with_borrow_mut(|capture| {
            if let Some(capture) = capture.as_mut().filter(own) {
                capture.results.push(OfSteps { buffer: buffer.clone(), handles: 0 });
            }
        });
        Ok(buffer)
    }
}

impl Step {
    fn lock(&self, recording: Option<&Arc<Recording>>) -> Result<Locks<'_>> {
        Locks::hold(self.uses.iter().map(|(buffer, access)| (buffer, *access)), recording)
    }

    /// How many handles to a buffer it has.
    fn handles(&self, buffer: &Buffer) -> usize {
        let operands = self.op.operands();
        let operands = operands.iter().flat_map(|operand| operand.operand.regions());
        let used = self.uses.iter().map(|(buffer, _)| buffer);
        let all = operands.map(Region::buffer).chain(used);
        all.filter(|other| other.id() == buffer.id()).count()
    }

    /// Where its buffers are among those of all steps.
    fn places(&self, all: &[(Buffer, Access)]) -> Vec<(usize, Access)> {
        let place = |buffer: &Buffer| all.binary_search_by_key(&buffer.id(), |(b, _)| b.id()).ok();
        self.uses.iter().filter_map(|(buffer, access)| Some((place(buffer)?, *access))).collect()
    }
}

/// Every buffer once, written where any operation writes it, in the order in which they are locked.
fn merged(steps: &[Step]) -> Vec<(Buffer, Access)> {
    let mut all: Vec<_> = steps.iter().flat_map(|step| step.uses.iter().cloned()).collect();
    // Of the same buffer the first stays: a write.
    all.sort_by_key(|(buffer, access)| (buffer.id(), *access == Access::Read));
    all.dedup_by_key(|(buffer, _)| buffer.id());
    all
}

/// The first step of each kernel, and how many there are of it.
fn counted(steps: &[Step]) -> Vec<(usize, u64)> {
    let mut kernels: Vec<(usize, u64)> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let name = &step.kernel.info().name;
        match kernels.iter_mut().find(|(first, _)| steps[*first].kernel.info().name == *name) {
            Some((_, count)) => *count += 1,
            None => kernels.push((i, 1)),
        }
    }
    kernels
}

impl Graph {
    /// Runs the operations, in the order in which they were recorded, and nothing of others that uses
    /// the same memory between them. On a GPU it returns when they are enqueued, on the stream of the
    /// handle that recorded them.
    ///
    /// # Errors
    /// Those of running the operations one by one; [`Error::Busy`], before the first of them runs,
    /// when a host guard holds what any of them uses.
    pub fn replay(&self) -> Result<()> {
        let device = &self.device;
        if CAPTURE.with_borrow(Option::is_some) {
            return self.steps.iter().try_for_each(|step| device.launch(&step.op, &step.kernel));
        }
        let uses = self.uses.iter().map(|(buffer, access)| (buffer, *access));
        let mut locks = Locks::hold(uses, None)?;
        for &(first, count) in &self.kernels {
            let Step { op, kernel, .. } = &self.steps[first];
            device.count(kernel.info(), op, count);
        }
        let Some(launches) = &self.whole else {
            return self.steps.iter().zip(&self.parts).try_for_each(|(step, part)| {
                device.launch_locked(&step.op, &step.kernel, &locks.part(part))
            });
        };
        for step in &self.steps {
            device.trace(step.kernel.info(), &step.op);
        }
        let stream = device.stream.as_ref();
        let stream = stream.ok_or_else(|| Error::device("replay: the device has no streams"))?;
        let _range = tracing::trace_span!("replay", launches = self.steps.len()).entered();
        stream.replay(launches, &locks)
    }

    /// How many operations it runs.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether it runs none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernels = self.steps.iter().map(|step| step.kernel.info().name.as_str());
        write!(f, "Graph on {}: ", self.device.name())?;
        f.debug_list().entries(kernels).finish()
    }
}
