//! What loading will do, and what memory it will take.

use std::fmt;
use std::path::PathBuf;

use super::Loader;
use super::decoder::unit_of;
use super::read::{TOGETHER, bounce_bytes};
use super::target::{Held, Resolved, Strategy, Target, resolve};
use super::weight::{self, Weight};
use crate::caps::MemoryKind;
use crate::error::{Bytes, Error, Result};
use crate::format::{Format, Quantizer, WHOLE};
use crate::memory::Bounce;
use crate::num::DType;

/// Values that a thread converts at a time, at least: 4 MiB of f32.
const PIECE_VALUES: usize = 1 << 20;
/// The most memory for the pieces of all threads: with more threads than that is enough for, some
/// do not take part.
const PIECES_BYTES: u64 = 240 << 20;

/// What becomes of one weight.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Sizes in values, outermost first.
    pub shape: Vec<usize>,
    /// How the file stores it.
    pub stored: String,
    /// The file.
    pub file: PathBuf,
    /// Bytes of the file that it takes.
    pub file_bytes: u64,
    /// What it becomes.
    pub held: Held,
    /// How the scales are chosen where it is quantised.
    pub quantizer: Option<Quantizer>,
    /// How it gets there.
    pub strategy: Strategy,
    /// The kind of memory it will be in.
    pub kind: MemoryKind,
    /// Bytes of memory that it will hold: none where it stays in the mapped file.
    pub bytes: u64,
    /// Bytes of memory needed only during this step, and those that are carried out with it.
    pub scratch: u64,
    /// Bytes of memory in all when this step, or those that are carried out with it, are at their
    /// height, beyond what was in use before.
    pub peak: u64,
    /// Values that one thread converts at a time.
    pub(super) piece: usize,
    /// Threads that convert.
    pub(super) threads: usize,
    /// Steps of the same number are carried out together.
    pub(super) batch: usize,
}

/// What loading a model will do, weight by weight in the order of the files. Printed, it is a
/// table.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    pub(super) loader: Loader,
    pub(super) steps: Vec<Step>,
}

impl LoadPlan {
    pub(super) fn new(loader: &Loader, target: &dyn Fn(&Weight<'_>) -> Target) -> Result<Self> {
        let device = loader.weights.device();
        let can_map = device.caps().memory_kinds.contains(&MemoryKind::Mapped);
        let mut steps = Vec::new();
        let mut held = 0u64;
        for weight in weight::all(&loader.weights)? {
            let target = target(&weight);
            let Some(found) = resolve(&weight, target, loader.in_place && can_map)? else {
                continue;
            };
            let step = step(loader, &weight, found, held)?;
            held = held.saturating_add(step.bytes);
            steps.push(step);
        }
        batch(&mut steps);
        Ok(Self { loader: loader.clone(), steps })
    }

    /// Every step, in the order in which they run.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Bytes of memory that the loaded weights will hold.
    pub fn bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.bytes).sum()
    }

    /// Bytes of memory at the height of loading, beyond what is in use before.
    pub fn peak(&self) -> u64 {
        self.steps.iter().map(|step| step.peak).max().unwrap_or(0)
    }

    /// Bytes that will be read from the files; what stays mapped is not counted.
    pub fn file_bytes(&self) -> u64 {
        let read = self.steps.iter().filter(|step| step.strategy != Strategy::Map);
        read.map(|step| step.file_bytes).sum()
    }

    /// Whether loading fits in what the device's memory has left now.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], which says what limits it, what holds memory, and in which formats
    /// the model would fit.
    pub fn check(&self) -> Result<()> {
        let device = self.loader.weights.device();
        let (memory, peak) = (device.memory(), self.peak());
        if peak <= memory.available() {
            return Ok(());
        }
        let limit = memory.limits.first().map(|l| l.source.to_string()).unwrap_or_default();
        let holders: Vec<_> = memory.largest.iter().map(|buffer| buffer.to_string()).collect();
        let holders = match holders.is_empty() {
            true => String::new(),
            false => format!("; largest: {}", holders.join(", ")),
        };
        Err(Error::OutOfMemory {
            label: self.loader.weights.path().display().to_string(),
            device: device.name().to_owned(),
            request: peak,
            used: memory.used,
            available: memory.available(),
            explanation: format!("{limit}{holders}; {}", self.what_fits(memory.available())),
        })
    }

    /// Which formats of the linear layers would bring the peak under `available`.
    fn what_fits(&self, available: u64) -> String {
        let elements = |dtype: DType| (dtype.to_string(), Target::Elements(dtype));
        let blocks = |f: Format| (f.to_string(), Target::Blocks(f, Quantizer::default_for(f)));
        let candidates = [
            elements(DType::BF16),
            blocks(Format::Mxfp8E4M3),
            blocks(Format::Fp8Row),
            blocks(Format::Nvfp4),
            blocks(Format::Mxfp4),
        ];
        let as_now = |weight: &Weight<'_>| {
            let step = self.steps.iter().find(|step| step.name == weight.name());
            match step.map(|step| (step.held, step.quantizer)) {
                None => Target::Skip,
                Some((Held::Blocks(format), quantizer)) => {
                    let quantizer = quantizer.unwrap_or(Quantizer::default_for(format));
                    Target::Blocks(format, quantizer)
                }
                Some((Held::Elements(DType::E2M1x2), _)) => Target::Keep,
                Some((Held::Elements(dtype), _)) => Target::Elements(dtype),
            }
        };
        let peak = |target: Target, in_place: bool| {
            let loader = self.loader.clone().in_place(in_place);
            let plan = loader.plan(|weight| match (as_now(weight), weight.is_linear()) {
                (Target::Skip, _) => Target::Skip,
                (_, true) => target,
                (other, false) => other,
            });
            plan.ok().map(|plan| plan.peak())
        };
        let in_place = self.loader.in_place;
        let mut sizes: Vec<(String, u64)> = Vec::new();
        for (name, target) in candidates {
            sizes.extend(peak(target, in_place).map(|peak| (name, peak)));
        }
        if !in_place {
            sizes.extend(peak(Target::Keep, true).map(|p| ("mapped in place".to_owned(), p)));
        }
        let text = |(name, peak): &(String, u64)| format!("{name} ({})", Bytes(*peak));
        let fits: Vec<_> = sizes.iter().filter(|(_, peak)| *peak <= available).map(text).collect();
        match (fits.is_empty(), sizes.iter().min_by_key(|(_, peak)| *peak)) {
            (false, _) => format!("with its linear layers in these it fits: {}", fits.join(", ")),
            (true, Some(least)) => format!("it fits in no format; least takes {}", text(least)),
            (true, None) => "free some memory".to_owned(),
        }
    }
}

fn step(loader: &Loader, weight: &Weight<'_>, found: Resolved, before: u64) -> Result<Step> {
    let Resolved { held, strategy, quantizer } = found;
    let entries = weight.entries(&loader.weights);
    let file_bytes: u64 = entries.iter().map(|entry| entry.region.len() as u64).sum();
    let main = weight.main(&loader.weights)?;
    let values = weight.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let values = values.ok_or_else(|| {
        Error::shape("load", "shape", format!("{:?} can not be addressed", weight.shape))
    })?;
    let full = held.bytes(&weight.shape)?;
    let device = loader.weights.device();
    let kind = match strategy {
        Strategy::Map => MemoryKind::Mapped,
        _ => device.memory_kind(),
    };
    let stored_scales = file_bytes - main.region.len() as u64;
    // Read, widened, and perhaps on the way to a device.
    let widened = if weight.has_f32_scales() { 5 * stored_scales } else { 0 };
    let (piece, threads, bytes, scratch) = match strategy {
        // At most scales that are widened or copied.
        Strategy::Map if weight.is_scaled() => (0, 0, full - main.region.len() as u64, 0),
        Strategy::Map => (0, 0, 0, 0),
        Strategy::Read => (0, 0, full, bounce_bytes(file_bytes).saturating_add(widened)),
        Strategy::Convert | Strategy::Repack => {
            let piece = piece(weight, held, quantizer, values)?;
            // Without the stretch of rounding, which a piece of all values does not have.
            let share = main.region.len() as u128 * piece as u128 / values.max(1) as u128;
            let decoded = (piece * size_of::<f32>()) as u64;
            let bounced = match kind.host_writable() {
                true => 0,
                false => (full as u128 * piece as u128 / values.max(1) as u128)
                    .saturating_add(2 * Bounce::size_for(0) as u128),
            };
            let each = u64::try_from(share + bounced).unwrap_or(u64::MAX).saturating_add(decoded);
            let at_once = device.workers().threads().min(values.div_ceil(piece.max(1)));
            let room = usize::try_from(PIECES_BYTES / each.max(1)).unwrap_or(usize::MAX);
            let threads = at_once.min(room).max(1);
            let scales = stored_scales.saturating_add(widened);
            (piece, threads, full, each.saturating_mul(threads as u64).saturating_add(scales))
        }
    };
    Ok(Step {
        name: weight.name.to_owned(),
        shape: weight.shape.clone(),
        stored: weight.stored(),
        file: main.file.path().to_owned(),
        file_bytes,
        held,
        quantizer,
        strategy,
        kind,
        bytes,
        scratch,
        peak: before.saturating_add(bytes).saturating_add(scratch),
        piece,
        threads,
        batch: 0,
    })
}

/// Decides which weights are read together, and what that takes.
fn batch(steps: &mut [Step]) {
    let (mut number, mut together) = (0, 0u64);
    for i in 0..steps.len() {
        let follows = i > 0 && steps[i - 1].strategy == Strategy::Read;
        together = together.saturating_add(steps[i].bytes);
        if !(follows && steps[i].strategy == Strategy::Read && together <= TOGETHER) {
            (number, together) = (number + 1, steps[i].bytes);
        }
        steps[i].batch = number;
    }
    for steps in steps.chunk_by_mut(|a, b| a.batch == b.batch) {
        let [.., last] = steps else { continue };
        let held = last.peak - last.scratch;
        let sum = steps.iter().map(|step| step.scratch).fold(0, u64::saturating_add);
        let most = steps.iter().map(|step| step.scratch).max().unwrap_or(0);
        let scratch = match steps.len() {
            1 => most,
            _ => sum.min(bounce_bytes(u64::MAX)).max(most),
        };
        for step in steps {
            (step.scratch, step.peak) = (scratch, held.saturating_add(scratch));
        }
    }
}

/// How many values are converted at a time: whole units of the source, whole bands of the target.
fn piece(
    weight: &Weight<'_>,
    held: Held,
    quantizer: Option<Quantizer>,
    values: usize,
) -> Result<usize> {
    let k = weight.shape.last().copied().unwrap_or(1).max(1);
    let step = match held {
        Held::Elements(_) => unit_of(weight),
        Held::Blocks(format) => {
            let layout = super::target::layout(format, &weight.shape)?;
            let matrix = layout.rows().saturating_mul(k);
            match (format.spec().block_rows, quantizer) {
                // One scale for the matrix: known from its amax, or by a search over all of it.
                (WHOLE, Some(Quantizer::Mse)) => matrix,
                (WHOLE, _) => k,
                (rows, _) => rows.min(layout.rows().max(1)).saturating_mul(k),
            }
        }
    };
    let step = step.max(unit_of(weight)).max(1);
    Ok((PIECE_VALUES / step).max(1).saturating_mul(step).min(values.max(1)))
}

impl fmt::Display for LoadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} weights, {} to read, {} in memory, {} at the height of loading",
            self.loader.weights.path().display(),
            self.steps.len(),
            Bytes(self.file_bytes()),
            Bytes(self.bytes()),
            Bytes(self.peak())
        )?;
        let several = self.steps.windows(2).any(|pair| pair[0].file != pair[1].file);
        for step in &self.steps {
            write!(f, "  {step}")?;
            if let Some(name) = step.file.file_name().filter(|_| several) {
                write!(f, ", from {}", name.display())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8}{} {:?} {}", self.strategy, self.name, self.shape, self.stored)?;
        write!(f, " -> {} in {} memory", self.held, self.kind)?;
        if let Some(quantizer) = self.quantizer {
            write!(f, " by {quantizer}")?;
        }
        write!(f, ", {}, peak {}", Bytes(self.bytes), Bytes(self.peak))
    }
}
