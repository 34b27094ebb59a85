//! Carrying out a plan.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use super::loaded::{LoadedWeights, Progress};
use super::plan::{LoadPlan, Step};
use super::target::{Held, Strategy};
use super::weight::{Source, Weight};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::io::{Entry, Weights};
#[cfg(feature = "safetensors")]
use crate::memory::Region;
#[cfg(feature = "gguf")]
use crate::memory::scratch;
use crate::memory::{Access, Buffer, SourceFile, prefer_huge_pages};
use crate::op::{Operand, Scaled, ScaledData};
use crate::tensor::AnyTensor;

/// Bytes read at a time straight into a buffer.
const READ_BYTES: usize = 8 << 20;
/// Bytes ahead that the disk is told of.
const AHEAD: u64 = 32 << 20;
/// Pieces for each thread between two reports of progress.
const PIECES_A_REPORT: usize = 2;

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
            done: 0,
            step_end: 0,
            total: self.steps.iter().map(|step| step.file_bytes).sum(),
            weights_done: 0,
            weights_total: self.steps.len(),
            progress: &mut progress,
        };
        let mut tensors = BTreeMap::new();
        for step in &self.steps {
            tensors.insert(step.name.clone(), run.step(step)?);
        }
        Ok(LoadedWeights { tensors })
    }
}

pub(super) struct Run<'a> {
    pub(super) weights: &'a Weights,
    pub(super) device: &'a Device,
    drop_behind: bool,
    done: u64,
    /// What `done` will be after this step.
    step_end: u64,
    total: u64,
    weights_done: usize,
    weights_total: usize,
    progress: &'a mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<AnyTensor> {
        let weight = Weight::find(self.weights, &step.name)?;
        self.step_end = self.done + step.file_bytes;
        self.report(step)?;
        let tensor = match (step.strategy, step.held) {
            (Strategy::Map, _) => self.map(&weight),
            (Strategy::Read, held) => self.read(step, &weight, held),
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
        if self.drop_behind && step.strategy != Strategy::Map {
            for entry in weight.entries(self.weights) {
                let start = entry.region.offset() as u64;
                entry.file.will_not_read(start..start + entry.region.len() as u64);
            }
        }
        self.done = self.step_end;
        self.weights_done += 1;
        self.report(step)?;
        Ok(tensor)
    }

    fn report(&mut self, step: &Step) -> Result<()> {
        let progress = Progress {
            name: &step.name,
            weights_done: self.weights_done,
            weights: self.weights_total,
            bytes_done: self.done,
            bytes: self.total,
        };
        match (self.progress)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                Err(Error::Cancelled { what: format!("loading {}", self.weights.path().display()) })
            }
        }
    }

    /// Runs `task` on every job with all threads, each of which reads that many bytes of the file
    /// after those of the one before, in one of `passes` over them.
    pub(super) fn jobs<T: Send>(
        &mut self,
        step: &Step,
        (file, mut at, bytes): (&SourceFile, u64, u64),
        passes: u64,
        jobs: &mut [T],
        task: impl Fn(&mut T) -> Result<()> + Sync,
    ) -> Result<()> {
        let workers = self.device.workers();
        let group = workers.threads() * PIECES_A_REPORT;
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        for jobs in jobs.chunks_mut(group) {
            let these = bytes * jobs.len() as u64;
            file.will_read(at + these..at + these + AHEAD);
            workers.chunks_mut(jobs, 1, |_, jobs| {
                for job in jobs {
                    if let Err(error) = task(job) {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.get_or_insert(error);
                    }
                }
            });
            if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(error);
            }
            at += these;
            self.done = (self.done + these / passes).min(self.step_end);
            self.report(step)?;
        }
        Ok(())
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

    /// The bytes of one tensor of the file as they are.
    fn read_whole(&mut self, step: &Step, entry: &Entry, label: &str) -> Result<Buffer> {
        let buffer = self.device.allocate(entry.region.len(), label)?;
        let mut guard = buffer.write()?;
        prefer_huge_pages(&mut guard);
        let mut jobs: Vec<(usize, &mut [u8])> =
            guard.chunks_mut(READ_BYTES).enumerate().map(|(i, b)| (i * READ_BYTES, b)).collect();
        let file = (&entry.file, entry.region.offset() as u64, READ_BYTES as u64);
        self.jobs(step, file, 1, &mut jobs, |(at, bytes)| entry.read_at(*at, bytes))?;
        drop(guard);
        Ok(buffer)
    }

    fn read(&mut self, step: &Step, weight: &Weight<'_>, held: Held) -> Result<AnyTensor> {
        match (&weight.source, held) {
            (Source::Entry(entry), Held::Elements(dtype)) => {
                let buffer = self.read_whole(step, entry, weight.name)?;
                AnyTensor::from_buffer(self.device, dtype, &entry.shape, buffer, 0)
            }
            #[cfg(feature = "safetensors")]
            (Source::Scaled(parts), Held::Blocks(format)) => {
                let codes = self.weights.find("load", &parts.codes.name)?;
                let codes = Region::whole(self.read_whole(step, codes, weight.name)?);
                let label = format!("{} scales", weight.name);
                let buffer = self.device.allocate(Weights::scales_bytes(parts), label)?;
                self.weights.read_scales(parts, &mut buffer.write()?)?;
                let scales = Region::whole(buffer);
                let tensor_scale = match format.spec().tensor_scale {
                    true => {
                        let scale = self.weights.read_tensor_scale(parts)?.to_ne_bytes();
                        let label = format!("{} tensor scale", weight.name);
                        let buffer = self.device.allocate(scale.len(), label)?;
                        buffer.write()?.copy_from_slice(&scale);
                        Some(Region::whole(buffer))
                    }
                    false => None,
                };
                let mut scaled = Scaled::spec(format, &parts.shape)?;
                scaled.data = Some(ScaledData { codes, scales, tensor_scale });
                self.any(scaled)
            }
            _ => Err(Error::dtype("load", "target", format!("{} is not {held}", weight.name))),
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
            region.buffer().write()?.copy_from_slice(&outer.to_ne_bytes());
        }
        let (mut codes, mut scales) = (data.codes.buffer().write()?, data.scales.buffer().write()?);
        prefer_huge_pages(&mut codes);
        let blocks = (step.piece / block.block_len()).max(1);
        let per_block = |bytes: usize| (bytes * block.block_len() / values_of(weight)).max(1);
        let (code_bytes, scale_bytes) = (per_block(codes.len()), per_block(scales.len()));
        let pieces =
            codes.chunks_mut(blocks * code_bytes).zip(scales.chunks_mut(blocks * scale_bytes));
        let mut jobs: Vec<_> = pieces.enumerate().collect();
        let bytes = blocks * block.block_bytes();
        let file = (&entry.file, entry.region.offset() as u64, bytes as u64);
        self.jobs(step, file, 1, &mut jobs, |(i, (codes, scales))| {
            let mut source = scratch(codes.len() / code_bytes * block.block_bytes(), 0u8)?;
            entry.read_at(*i * bytes, &mut source)?;
            repack(block, &source, codes, scales);
            Ok(())
        })?;
        drop(jobs);
        drop((codes, scales));
        self.any(scaled)
    }
}

/// Number of values, at least 1.
#[cfg(feature = "gguf")]
fn values_of(weight: &Weight<'_>) -> usize {
    weight.shape.iter().product::<usize>().max(1)
}
