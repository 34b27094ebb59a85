//! The weights of a model, whatever kind of file they lie in.

#[cfg(feature = "gguf")]
mod blocks;
#[cfg(feature = "safetensors")]
mod scaled;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::entry::Entry;
#[cfg(feature = "gguf")]
use super::gguf::Gguf;
#[cfg(feature = "safetensors")]
use super::safetensors::SafeTensors;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::format::BlockFormat;
use crate::memory::scratch;
use crate::num::{Element, Scalar};
use crate::tensor::{AnyTensor, ScaledTensor, Tensor};

/// The weights of a model on a device: tensors by name, over mapped files.
///
/// [`get`](Self::get), [`any`](Self::any) and [`scaled`](Self::scaled) use the file's bytes in
/// place; [`copy`](Self::copy), [`decode`](Self::decode) and [`repack`](Self::repack) make new
/// ones.
///
/// ```no_run
/// use ferrocerium::{Device, Tensor, bf16, io::Weights};
///
/// let weights = Weights::open(&Device::cpu(), "model.gguf")?;
/// let norm: Tensor<f32, 1> = weights.get("blk.0.attn_norm.weight")?;   // the file's own bytes
/// let up: Tensor<bf16, 2> = weights.decode("blk.0.ffn_up.weight")?;    // from any stored type
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Weights {
    device: Device,
    path: PathBuf,
    source: Source,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
}

#[derive(Clone, Debug)]
enum Source {
    #[cfg(feature = "gguf")]
    Gguf(Gguf),
    #[cfg(feature = "safetensors")]
    SafeTensors(SafeTensors),
}

impl Weights {
    /// Opens a GGUF file (of a model in several, the first), a safetensors file, its index, or a
    /// folder with safetensors files; a file's first bytes or its name (`*.gguf`) tell which it is.
    ///
    /// # Errors
    /// Those of [`Gguf::open`] and [`SafeTensors::open`].
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let named_gguf = path.extension().is_some_and(|extension| extension == "gguf");
        if !path.is_dir() && (begins_as_gguf(path)? || named_gguf) {
            #[cfg(feature = "gguf")]
            return Self::from_gguf(device, Gguf::open(path)?);
            #[cfg(not(feature = "gguf"))]
            return Err(Error::file(path, "a GGUF file; build with the feature `gguf`"));
        }
        #[cfg(feature = "safetensors")]
        return Self::from_safetensors(device, SafeTensors::open(path)?);
        #[cfg(not(feature = "safetensors"))]
        Err(Error::file(path, "not a GGUF file; for safetensors build with that feature"))
    }

    /// The weights of an open GGUF file, and of those that belong to it when it is the first of
    /// several.
    ///
    /// # Errors
    /// Those of [`Gguf::open`] for the others; [`Error::File`] when they do not fit together.
    #[cfg(feature = "gguf")]
    pub fn from_gguf(device: &Device, file: Gguf) -> Result<Self> {
        let mut entries = Vec::new();
        for file in super::gguf::open_all(file.clone())? {
            entries.extend(file.entries()?);
        }
        let mut names = std::collections::HashSet::new();
        if let Some(twice) = entries.iter().find(|e| !names.insert(&e.name)) {
            let problem = format!("{}: it is in another file too", twice.describe());
            return Err(Error::file(file.path(), problem));
        }
        Ok(Self::new(device, file.path().to_owned(), entries, Source::Gguf(file)))
    }

    /// The weights of an open safetensors model.
    ///
    /// # Errors
    /// None that [`SafeTensors::open`] has not excluded.
    #[cfg(feature = "safetensors")]
    pub fn from_safetensors(device: &Device, model: SafeTensors) -> Result<Self> {
        let (path, entries) = (model.path().to_owned(), model.entries()?);
        Ok(Self::new(device, path, entries, Source::SafeTensors(model)))
    }

    fn new(device: &Device, path: PathBuf, entries: Vec<Entry>, source: Source) -> Self {
        let by_name = entries.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect();
        Self { device: device.clone(), path, source, entries, by_name }
    }

    /// The device of the tensors.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GGUF file, if it is one; of several the first, which has the metadata.
    #[cfg(feature = "gguf")]
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.source {
            Source::Gguf(file) => Some(file),
            #[cfg(feature = "safetensors")]
            Source::SafeTensors(_) => None,
        }
    }

    /// The safetensors model, if it is one.
    #[cfg(feature = "safetensors")]
    pub fn safetensors(&self) -> Option<&SafeTensors> {
        match &self.source {
            Source::SafeTensors(model) => Some(model),
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => None,
        }
    }

    /// Every tensor as the files have them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The names of the tensors as the files have them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| e.name.as_str())
    }

    /// The tensor of that name, as the files have it.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|&i| &self.entries[i])
    }

    /// Whether there is a tensor or a block-scaled weight of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.entry(name).is_some() || !matches!(self.shape(name), Err(Error::Value { .. }))
    }

    /// The sizes of the tensor or block-scaled weight of that name, in values.
    ///
    /// # Errors
    /// [`Error::Value`] when there is none; [`Error::File`] when a weight's parts do not fit
    /// together.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        #[cfg(feature = "safetensors")]
        if let Some(parts) = self.parts(name)? {
            return Ok(parts.shape);
        }
        Ok(self.find("shape", name)?.shape.clone())
    }

    pub(in crate::io) fn find(&self, op: &'static str, name: &str) -> Result<&Entry> {
        /// Names that a message shows.
        const SHOWN: usize = 3;
        self.entry(name).ok_or_else(|| {
            let mut shown: Vec<_> = self.names().take(SHOWN).map(|n| format!("{n:?}")).collect();
            shown.extend((self.entries.len() > SHOWN).then(|| "…".to_owned()));
            let problem = format!(
                "{} has no tensor {name:?}; it has {} tensors: {}",
                self.path.display(),
                self.entries.len(),
                shown.join(", ")
            );
            Error::value(op, "name", problem)
        })
    }

    /// The tensor of that name, in place: no byte is copied.
    ///
    /// # Errors
    /// [`Error::Value`] when there is none, [`Error::DType`] or [`Error::Shape`] when its type or
    /// rank is another, [`Error::Layout`] when the file has it misaligned for `E` (then
    /// [`copy`](Self::copy) it).
    pub fn get<E: Element, const R: usize>(&self, name: &str) -> Result<Tensor<E, R>> {
        self.find("get", name)?.get(&self.device)
    }

    /// The tensor of that name in place, of any element type and rank.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`Error::DType`] for blocks of ggml, which [`decode`](Self::decode)
    /// takes.
    pub fn any(&self, name: &str) -> Result<AnyTensor> {
        self.find("any", name)?.any(&self.device)
    }

    /// A copy of the tensor of that name, in memory of the device, at any alignment in the file.
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`Error::OutOfMemory`].
    pub fn copy<E: Element, const R: usize>(&self, name: &str) -> Result<Tensor<E, R>> {
        self.find("copy", name)?.copy(&self.device)
    }

    /// The values of a tensor or block-scaled weight of any stored type, as a new tensor of `E`.
    ///
    /// Each value is computed in f32 (f64 for wider types) and rounded once to `E`. What is
    /// stored with scales in other tensors (block-scaled weights, NVFP4 in GGUF) is
    /// multiplied by them. The codes of such a weight as plain bytes are what
    /// [`get`](Self::get) gives.
    ///
    /// # Errors
    /// [`Error::Value`] when there is no such tensor, [`Error::Shape`] for another rank,
    /// [`Error::DType`] for a type that is not decoded, [`Error::OutOfMemory`].
    pub fn decode<E: Scalar, const R: usize>(&self, name: &str) -> Result<Tensor<E, R>> {
        let shape = self.shape(name)?;
        let shape = <[usize; R]>::try_from(&shape[..]).map_err(|_| {
            let problem = format!("{name:?} is {shape:?}, of {} dimensions, not {R}", shape.len());
            Error::shape("decode", "R", problem)
        })?;
        let out = Tensor::<E, R>::zeros_labelled(&self.device, shape, name)?;
        let buffer = out.region().buffer();
        buffer.fill(|bytes| self.decode_into::<E>(name, bytemuck::cast_slice_mut(bytes)))?;
        Ok(out)
    }

    /// As [`decode`](Self::decode), to a vector.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), but for the rank.
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>> {
        let mut values = scratch(self.shape(name)?.iter().product(), 0.0f32)?;
        self.decode_into(name, &mut values)?;
        Ok(values)
    }

    fn decode_into<E: Scalar>(&self, name: &str, out: &mut [E]) -> Result<()> {
        #[cfg(feature = "safetensors")]
        if let Some(parts) = self.parts(name)? {
            return self.dequantize(&parts, out);
        }
        let entry = self.find("decode", name)?;
        #[cfg(feature = "gguf")]
        let scales = self.outer_scales(entry)?;
        #[cfg(not(feature = "gguf"))]
        let scales = [1.0];
        entry.decode_into(&scales, out)
    }

    /// The block-scaled weight of that name, codes and block scales in place. (The four bytes of
    /// a tensor scale are copied, and so are f32 scales that are BF16, F16 or misaligned in the
    /// file.)
    ///
    /// # Errors
    /// [`Error::Value`] when there is none, [`Error::DType`] or [`Error::Shape`] when its format
    /// or rank is another, [`Error::File`] when its parts do not fit together.
    pub fn scaled<F: BlockFormat, const R: usize>(&self, name: &str) -> Result<ScaledTensor<F, R>> {
        #[cfg(feature = "safetensors")]
        if let Some(parts) = self.parts(name)? {
            return self.bind_scaled(name, &parts);
        }
        let entry = self.find("scaled", name)?;
        Err(Error::dtype(
            "scaled",
            "name",
            format!(
                "{}, not a weight in {} with codes and scales apart; use repack() for FP4 blocks \
                 of GGUF, else decode() and quantize",
                entry.describe(),
                F::FORMAT
            ),
        ))
    }
}

/// Whether the file's first bytes are GGUF's.
fn begins_as_gguf(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut magic = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(4).read_to_end(&mut magic).map_err(|e| Error::io(path, e))?;
    Ok(magic == b"GGUF")
}
