//! Carrying out a plan.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::loaded::{LoadedWeights, Progress};
use super::plan::{LoadPlan, Step};
use super::spread::spread;
use super::target::{Held, Strategy};
use super::weight::{Source, Weight};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::io::Weights;
use crate::memory::{Access, Bounce, SourceFile};
#[cfg(feature = "gguf")]
use crate::memory::{Filling, scratch};
use crate::op::{Operand, Scaled, ScaledData};
use crate::tensor::AnyTensor;

/// Bytes ahead that the disk is told of.
const AHEAD: u64 = 32 << 20;
/// Bytes that the page cache may hold as one, and lets go of only as one: those of which the first
/// belong to the weight before, which is done with by then.
const TOGETHER_IN_CACHE: u64 = 2 << 20;

impl LoadPlan {
    /// Loads every weight of the plan, telling `progress` how far it is after every few pieces;
    /// [`ControlFlow::Break`] from there ends it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] of [`check`](Self::check) before a byte is read, or when memory ran
    /// out meanwhile; [`Error::Cancelled`]; [`Error::Value`] for a NaN or infinity in what is to be
    /// quantised; [`Error::File`] and [`Error::Io`] when a file can not be read (any more). After
    /// an error everything that was loaded is freed again.
    pub fn load(
        &self,
        mut progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<LoadedWeights> {
        self.check()?;
        let available = self.loader.weights.device().memory().available();
        let cramped = self.peak().saturating_add(self.file_bytes()) > available;
        let mut run = Run {
            weights: &self.loader.weights,
            device: self.loader.weights.device(),
            drop_behind: self.loader.drop_behind.unwrap_or(cramped),
            direct: self.loader.drop_behind.unwrap_or(true),
            at: Place::default(),
            end: Place::default(),
            total: Place {
                bytes: self.steps.iter().map(|step| step.file_bytes).sum(),
                weights: self.steps.len(),
            },
            progress: &mut progress,
        };
        let mut tensors = BTreeMap::new();
        for steps in self.steps.chunk_by(|a, b| a.batch == b.batch) {
            let loaded = match steps {
                [step] if step.strategy != Strategy::Read => vec![run.step(step)?],
                _ => run.read(steps)?,
            };
            let names = steps.iter().map(|step| step.name.clone());
            tensors.extend(names.zip(loaded));
        }
        Ok(LoadedWeights { tensors })
    }
}

pub(super) struct Run<'a> {
    pub(super) weights: &'a Weights,
    pub(super) device: &'a Device,
    drop_behind: bool,
    /// Whether what the page cache does not hold is read past it.
    pub(super) direct: bool,
    at: Place,
    /// Where it will be after the steps in hand.
    end: Place,
    total: Place,
    progress: &'a mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
}

/// How far it is.
#[derive(Clone, Copy, Default)]
struct Place {
    bytes: u64,
    weights: usize,
}

impl Run<'_> {
    /// A weight that is mapped or converted.
    fn step(&mut self, step: &Step) -> Result<AnyTensor> {
        let weight = Weight::find(self.weights, &step.name)?;
        self.begin(std::slice::from_ref(step))?;
        let tensor = match (step.strategy, step.held) {
            (Strategy::Map, _) => self.map(&weight),
            #[cfg(feature = "gguf")]
            (Strategy::Repack, Held::Blocks(format)) => self.repack(step, &weight, format),
            (_, Held::Elements(dtype)) => self.convert(step, &weight, dtype),
            (_, Held::Blocks(format)) => self.quantize(step, &weight, format),
        };
        let tensor = tensor.map_err(|e| match e {
            // A value that can not be quantised: which weight it is in is not known below.
            Error::Value { problem, .. } => {
                Error::value("load", "weight", format!("{} to {}: {problem}", step.name, step.held))
            }
            other => other,
        })?;
        self.end(std::slice::from_ref(step), &[weight])?;
        Ok(tensor)
    }

    /// Before the weights of some steps.
    pub(super) fn begin(&mut self, steps: &[Step]) -> Result<()> {
        self.end = Place {
            bytes: self.at.bytes + steps.iter().map(|step| step.file_bytes).sum::<u64>(),
            weights: self.at.weights + steps.len(),
        };
        steps.first().map_or(Ok(()), |step| self.report(step))
    }

    /// Some bytes further, and perhaps with a weight done.
    pub(super) fn went_on(&mut self, step: &Step, bytes: u64, weight: bool) -> Result<()> {
        self.at.bytes = (self.at.bytes + bytes).min(self.end.bytes);
        self.at.weights = (self.at.weights + usize::from(weight)).min(self.end.weights);
        self.report(step)
    }

    /// After the weights of some steps.
    pub(super) fn end(&mut self, steps: &[Step], weights: &[Weight<'_>]) -> Result<()> {
        let read = steps.iter().zip(weights).filter(|(step, _)| step.strategy != Strategy::Map);
        for (_, weight) in read.filter(|_| self.drop_behind) {
            for entry in weight.entries(self.weights) {
                let start = entry.region.offset() as u64;
                let end = start + entry.region.len() as u64;
                entry.file.will_not_read(start.saturating_sub(TOGETHER_IN_CACHE)..end);
            }
        }
        self.at = self.end;
        steps.last().map_or(Ok(()), |step| self.report(step))
    }

    fn report(&mut self, step: &Step) -> Result<()> {
        let progress = Progress {
            name: &step.name,
            weights_done: self.at.weights,
            weights: self.total.weights,
            bytes_done: self.at.bytes,
            bytes: self.total.bytes,
        };
        match (self.progress)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                Err(Error::Cancelled { what: format!("loading {}", self.weights.path().display()) })
            }
        }
    }

    /// Runs `task` on every job with the step's threads, each of which reads that many bytes of the
    /// file after those of the one before, in one of `passes` over them. A task has two bounce
    /// buffers, for codes and for scales.
    pub(super) fn jobs<T: Send>(
        &mut self,
        step: &Step,
        (file, at, bytes): (&SourceFile, u64, u64),
        passes: u64,
        jobs: &mut [T],
        task: impl Fn(&mut [Bounce; 2], &mut T) -> Result<()> + Sync,
    ) -> Result<()> {
        let device = self.device;
        file.will_read(at..at + AHEAD);
        spread(
            step.threads,
            jobs,
            || [device.bounce(), device.bounce()],
            |bounces, i, job| {
                let ahead = at + AHEAD + bytes * i as u64;
                file.will_read(ahead..ahead + bytes);
                task(bounces, job)
            },
            |_| self.went_on(step, bytes / passes, false),
        )
    }

    pub(super) fn any(&self, operand: impl Into<Operand>) -> Result<AnyTensor> {
        let operand = operand.into();
        operand.validate("load", "weight", Access::Read)?;
        Ok(AnyTensor::from_operand(self.device, operand))
    }

    fn map(&self, weight: &Weight<'_>) -> Result<AnyTensor> {
        match &weight.source {
            Source::Entry(entry) => entry.any(self.device),
            #[cfg(feature = "safetensors")]
            Source::Scaled(parts) => {
                let mut scaled = Scaled::spec(parts.format, &parts.shape)?;
                scaled.data = Some(self.weights.scaled_in_place(weight.name, parts)?);
                self.any(scaled)
            }
        }
    }

    /// Memory for a weight in a block format.
    pub(super) fn scaled(
        &self,
        weight: &Weight<'_>,
        format: Format,
    ) -> Result<(Scaled, ScaledData)> {
        let mut scaled = Scaled::spec(format, &weight.shape)?;
        scaled.allocate(|bytes, part| {
            self.device.allocate(bytes, format!("{} {part}", weight.name))
        })?;
        match scaled.data.clone() {
            Some(data) => Ok((scaled, data)),
            None => Err(Error::layout("load", "weight", "no memory was given to it")),
        }
    }

    #[cfg(feature = "gguf")]
    fn repack(&mut self, step: &Step, weight: &Weight<'_>, format: Format) -> Result<AnyTensor> {
        use crate::io::Stored;
        use crate::io::gguf::repack;
        let entry = weight.main(self.weights)?;
        let Stored::Blocks(block) = entry.stored else { return Err(entry.unreadable("load")) };
        let (scaled, data) = self.scaled(weight, format)?;
        if let Some(region) = &data.tensor_scale {
            let outer = self.weights.outer_scale(entry)?;
            let outer = outer.map(|(scale, _)| scale.read_f32s()).transpose()?;
            let outer = outer.and_then(|scale| scale.first().copied()).unwrap_or(1.0);
            region.buffer().copy_from_host(0, &outer.to_ne_bytes())?;
        }
        let mut codes = Filling::new(data.codes.buffer())?;
        let mut scales = Filling::new(data.scales.buffer())?;
        let (codes, scales) = (codes.whole(), scales.whole());
        let blocks = (step.piece / block.block_len()).max(1);
        let per_block = |bytes: usize| (bytes * block.block_len() / values_of(weight)).max(1);
        let (code_bytes, scale_bytes) = (per_block(codes.len()), per_block(scales.len()));
        let pieces = codes.chunks(blocks * code_bytes).zip(scales.chunks(blocks * scale_bytes));
        let mut jobs: Vec<_> = pieces.enumerate().collect();
        let bytes = blocks * block.block_bytes();
        let file = (&entry.file, entry.region.offset() as u64, bytes as u64);
        self.jobs(step, file, 1, &mut jobs, |[first, second], (i, (codes, scales))| {
            let mut source = scratch(codes.len() / code_bytes * block.block_bytes(), 0u8)?;
            entry.read_at(*i * bytes, &mut source)?;
            codes.fill(first, |codes| {
                scales.fill(second, |scales| {
                    repack(block, &source, codes, scales);
                    Ok(())
                })
            })
        })?;
        self.any(scaled)
    }
}

/// Number of values, at least 1.
#[cfg(feature = "gguf")]
fn values_of(weight: &Weight<'_>) -> usize {
    weight.shape.iter().product::<usize>().max(1)
}
