//! Weights that are read as they are, straight into their buffers.

use super::plan::Step;
use super::run::Run;
use super::spread::spread;
use super::target::Held;
use super::weight::{Source, Weight};
use crate::error::{Error, Result};
use crate::io::Entry;
#[cfg(feature = "safetensors")]
use crate::io::Weights;
#[cfg(feature = "safetensors")]
use crate::memory::Region;
use crate::memory::{Bounce, Buffer, Filling, Piece, SourceFile};
#[cfg(feature = "safetensors")]
use crate::op::{Scaled, ScaledData};
use crate::tensor::AnyTensor;

/// Bytes of a request to the disk.
const READ_BYTES: usize = 4 << 20;
/// Requests at a time, each of a thread that mostly waits: what disks want to be fast.
const READERS: usize = 8;
/// Bytes of weights that are read together.
pub(super) const TOGETHER: u64 = 1 << 30;

/// The most memory that `bytes` which are read together take on their way.
pub(super) fn bounce_bytes(bytes: u64) -> u64 {
    let (readers, most) = (READERS as u64, (READERS * READ_BYTES) as u64);
    bytes.min(most) + readers * Bounce::size_for(0) as u64
}

/// Bytes of a file that are a buffer's as they are.
struct Whole<'a> {
    entry: &'a Entry,
    buffer: Buffer,
    /// Which weight of those read together they are of.
    weight: usize,
}

/// A part of a [`Whole`].
struct Part<'a> {
    file: &'a SourceFile,
    offset: u64,
    /// Past the page cache, which does not hold it.
    direct: bool,
    piece: Piece<'a>,
}

impl Run<'_> {
    /// Reads weights together: the disk is then never short of requests.
    pub(super) fn read(&mut self, steps: &[Step]) -> Result<Vec<AnyTensor>> {
        let weights = self.weights;
        let found = steps.iter().map(|step| Weight::find(weights, &step.name));
        let found = found.collect::<Result<Vec<_>>>()?;
        self.begin(steps)?;
        let mut wholes = Vec::new();
        let mut tensors = Vec::new();
        for (i, (step, weight)) in steps.iter().zip(&found).enumerate() {
            tensors.push(self.place(weight, step.held, i, &mut wholes)?);
        }
        self.fill(steps, &wholes)?;
        self.end(steps, &found)?;
        Ok(tensors)
    }

    fn fill(&mut self, steps: &[Step], wholes: &[Whole<'_>]) -> Result<()> {
        let fillings = wholes.iter().map(|whole| Filling::new(&whole.buffer));
        let mut fillings = fillings.collect::<Result<Vec<_>>>()?;
        let mut parts = Vec::new();
        // The weight and the bytes of each part, and how many parts a weight is waiting for.
        let mut sizes = Vec::new();
        let mut waiting = vec![0usize; steps.len()];
        for (whole, filling) in wholes.iter().zip(&mut fillings) {
            let (file, mut offset) = (&whole.entry.file, whole.entry.region.offset() as u64);
            for piece in filling.whole().chunks(READ_BYTES) {
                let len = piece.len() as u64;
                sizes.push((whole.weight, len));
                waiting[whole.weight] += 1;
                let direct = self.direct && piece.is_read_directly(file, offset);
                parts.push(Part { file, offset, direct, piece });
                offset += len;
            }
        }
        let device = self.device;
        spread(
            READERS,
            &mut parts,
            || device.bounce(),
            |bounce, _, part| part.piece.read(part.file, part.offset, part.direct, bounce),
            |i| {
                let (weight, len) = sizes[i];
                waiting[weight] -= 1;
                self.went_on(&steps[weight], len, waiting[weight] == 0)
            },
        )
    }

    /// The tensor that a weight will be, and what is to be read for it. What is small or not
    /// stored as it is held is read at once.
    fn place<'w>(
        &self,
        weight: &Weight<'w>,
        held: Held,
        at: usize,
        wholes: &mut Vec<Whole<'w>>,
    ) -> Result<AnyTensor>
    where
        Self: 'w,
    {
        match (&weight.source, held) {
            (Source::Entry(entry), Held::Elements(dtype)) => {
                let buffer = self.device.allocate(entry.region.len(), weight.name)?;
                wholes.push(Whole { entry, buffer: buffer.clone(), weight: at });
                AnyTensor::from_buffer(self.device, dtype, &entry.shape, buffer, 0)
            }
            #[cfg(feature = "safetensors")]
            (Source::Scaled(parts), Held::Blocks(format)) => {
                let entry = self.weights.find("load", &parts.codes.name)?;
                let codes = self.device.allocate(entry.region.len(), weight.name)?;
                wholes.push(Whole { entry, buffer: codes.clone(), weight: at });
                let label = format!("{} scales", weight.name);
                let scales = self.device.allocate(Weights::scales_bytes(parts), label)?;
                match self.weights.scales_as_held(parts)? {
                    Some(entry) => wholes.push(Whole { entry, buffer: scales.clone(), weight: at }),
                    None => scales.fill(|bytes| self.weights.read_scales(parts, bytes))?,
                }
                let tensor_scale = match format.spec().tensor_scale {
                    true => {
                        let scale = self.weights.read_tensor_scale(parts)?.to_ne_bytes();
                        let label = format!("{} tensor scale", weight.name);
                        let buffer = self.device.allocate(scale.len(), label)?;
                        buffer.copy_from_host(0, &scale)?;
                        Some(Region::whole(buffer))
                    }
                    false => None,
                };
                let (codes, scales) = (Region::whole(codes), Region::whole(scales));
                let mut scaled = Scaled::spec(format, &parts.shape)?;
                scaled.data = Some(ScaledData { codes, scales, tensor_scale });
                self.any(scaled)
            }
            _ => Err(Error::dtype("load", "target", format!("{} is not {held}", weight.name))),
        }
    }
}
