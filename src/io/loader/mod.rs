//! Loading a whole model: planned first, within the budget, never twice in memory.
//!
//! A [`LoadPlan`] lists what becomes of every weight before a byte of any is read: mapped in
//! place, read straight into the final buffer, or converted on the way, a piece at a time by all
//! threads. Beyond the weights themselves a load needs only the pieces in hand, a few megabytes a
//! thread; the plan says how many. Memory that the host can not touch is filled through bounce
//! buffers of the same bounds, pinned where the device has such memory.

mod convert;
mod decoder;
mod loaded;
mod plan;
mod read;
mod run;
mod spread;
mod target;
mod weight;

use std::path::Path;

pub use loaded::{LoadedWeights, Progress};
pub use plan::{LoadPlan, Step};

pub use target::{Held, Strategy, Target};
pub use weight::Weight;

use super::Weights;
use crate::device::Device;
use crate::error::Result;

/// A model file, or the files of one, about to be loaded.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use ferrocerium::{Device, Tensor, format::{Format, Nvfp4, Quantizer}};
/// use ferrocerium::io::{Loader, Target};
///
/// let device = Device::cpu();
/// let plan = Loader::open(&device, "folder/with/model")?.plan(|weight| match weight.is_linear() {
///     true => Target::Blocks(Format::Nvfp4, Quantizer::Amax),
///     false => Target::Keep,
/// })?;
/// println!("{plan}");                  // every weight, and the peak of memory at each
/// let model = plan.load(|progress| {
///     eprint!("\r{progress}");
///     ControlFlow::Continue(())        // or Break(()), to cancel
/// })?;
/// let up = model.scaled::<Nvfp4, 2>("model.layers.0.mlp.up_proj.weight")?;
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    weights: Weights,
    in_place: bool,
    drop_behind: Option<bool>,
}

impl Loader {
    /// Opens what [`Weights::open`] does: only headers are read.
    ///
    /// # Errors
    /// Those of [`Weights::open`].
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::of(Weights::open(device, path)?))
    }

    /// A loader of weights that are open already.
    pub fn of(weights: Weights) -> Self {
        Self { weights, in_place: true, drop_behind: None }
    }

    /// Whether weights that need no conversion stay in the mapped file where the device can read
    /// it there. Otherwise everything is read into memory: slower to start, but the file may be
    /// changed or cut off afterwards, and is never a danger while it is read (see
    /// [`SourceFile`](crate::memory::SourceFile)). The default is `true`.
    pub fn in_place(mut self, yes: bool) -> Self {
        self.in_place = yes;
        self
    }

    /// Whether the page cache is to be without what is read: weights that are read as they are and
    /// that it does not hold are read past it, as fast as the disk is, and it is told to let go of
    /// what went through it. `false` leaves all in it, for who loads the files again soon.
    /// Without a word here reads go past it, and it lets go of the rest when the weights in memory
    /// and the files do not fit beside each other.
    pub fn drop_behind(mut self, yes: bool) -> Self {
        self.drop_behind = Some(yes);
        self
    }

    /// The weights in the files.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) when the parts of one do not fit together.
    pub fn weights(&self) -> Result<Vec<Weight<'_>>> {
        weight::all(&self.weights)
    }

    /// What loading would do when each weight becomes what `target` says.
    ///
    /// Whether it fits in memory is not asked here: [`LoadPlan::check`] says, and
    /// [`LoadPlan::load`] refuses to begin otherwise.
    ///
    /// # Errors
    /// [`Error::DType`](crate::Error::DType) or [`Error::Value`](crate::Error::Value) for a
    /// target that a weight can not become; [`Error::File`](crate::Error::File) as
    /// [`weights`](Self::weights).
    pub fn plan(&self, target: impl Fn(&Weight<'_>) -> Target) -> Result<LoadPlan> {
        LoadPlan::new(self, &target)
    }
}
