//! Writing a file so that under its name there is the old one or the whole new one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::Naming;
use super::contents::{Contents, Kind, Planned};
use crate::error::{Error, Result};
use crate::format::{ScaleLayout, convert_scales};
use crate::io::partial::{Partial, beside, open};
use crate::memory::Region;
use crate::op::{Operand, Scaled, ScaledData};
use crate::tensor::AnyTensor;

/// Bytes that are written before they are forced to the disk and noted as done.
const SYNC_BYTES: usize = 16 << 20;

/// Writes a safetensors file, weight by weight in any order.
///
/// The file grows beside its final name, as `.NAME.partial`, and gets that name when it is whole
/// and on the disk: whatever happens before, there is the old file or none. What
/// [`Writer::resume`] began can be taken up again after the process was killed; the weights that
/// are done are noted in `.NAME.partial.done`, each after its bytes have reached the disk.
///
/// ```
/// use ferrocerium::io::safetensors::{Contents, Naming, Writer};
/// use ferrocerium::{AnyTensor, DType, Device, Tensor, format::{Format, Nvfp4}, io::Weights};
/// # let folder = std::env::temp_dir().join(format!("ferrocerium-writer-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let device = Device::cpu();
/// let x: AnyTensor = Tensor::full(&device, [8, 32], 0.5f32)?.quantize::<Nvfp4>()?.into();
/// let mut contents = Contents::new();
/// contents.scaled("x.weight", Format::Nvfp4, &[8, 32], Naming::ModelOpt)?;
/// let mut writer = Writer::create(folder.join("model.safetensors"), contents)?;
/// writer.write("x.weight", &x)?;
/// writer.finish()?;
/// let back = Weights::open(&device, &folder)?.scaled::<Nvfp4, 2>("x.weight")?;
/// assert_eq!(back.dequantize::<f32>()?.host()?[[7, 31]], 0.5);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Writer {
    contents: Contents,
    places: Vec<Vec<usize>>,
    data_start: u64,
    out: Partial,
    /// Notes of what is done, and its file; none when nothing is to be taken up again.
    notes: Option<(PathBuf, File)>,
    done: Vec<bool>,
    /// Weights written since the disk was last waited for, and their bytes.
    pending: (Vec<usize>, usize),
    finished: bool,
}

impl Writer {
    /// Begins a file. When it is dropped unfinished, nothing of it is left.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses; [`Error::File`] when another writer is at it.
    pub fn create(path: impl AsRef<Path>, contents: Contents) -> Result<Self> {
        Self::begin(path.as_ref(), contents, None)
    }

    /// Begins a file, or takes up what is there of it: [`is_done`](Self::is_done) says which
    /// weights are written. `key` stands for what the data depends on beside the contents (which
    /// source, which quantiser): with another key, it begins anew.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn resume(path: impl AsRef<Path>, contents: Contents, key: &str) -> Result<Self> {
        Self::begin(path.as_ref(), contents, Some(key))
    }

    fn begin(path: &Path, contents: Contents, key: Option<&str>) -> Result<Self> {
        let out = Partial::open(path)?;
        let notes_path = beside(path, ".partial.done")?;
        let (header, places) = contents.header();
        let len = (header.len() as u64).checked_add(contents.data_len() as u64);
        let len = len.ok_or_else(|| Error::file(path, "more than a file can hold"))?;
        let mut done = vec![false; contents.weights.len()];
        let notes = match key {
            None => None,
            Some(key) => {
                let key = format!("{:?}\n", key);
                let mut notes = open(&notes_path)?;
                let io = |e| Error::io(&notes_path, e);
                if out.io(is_begun(&out.file, &header, len))? {
                    read_notes(&mut notes, &key, &mut done).map_err(io)?;
                }
                if !done.contains(&true) {
                    notes.set_len(0).map_err(io)?;
                    io::Seek::rewind(&mut notes).map_err(io)?;
                    notes.write_all(key.as_bytes()).map_err(io)?;
                }
                Some((notes_path, notes))
            }
        };
        let writer = Self {
            data_start: header.len() as u64,
            contents,
            places,
            out,
            notes,
            pending: Default::default(),
            finished: false,
            done,
        };
        if !writer.done.contains(&true) {
            writer.out.io(writer.out.file.set_len(0))?;
            writer.out.write_all_at(&header, 0)?;
            writer.out.io(writer.out.file.set_len(len))?;
        }
        Ok(writer)
    }

    /// Whether that weight is written, and stays so when the process is killed now.
    pub fn is_done(&self, name: &str) -> bool {
        self.index(name).is_some_and(|i| self.done[i])
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.contents.weights.iter().position(|weight| weight.name == name)
    }

    /// Writes a weight: of the type, format and shape that the contents say, contiguous.
    ///
    /// # Errors
    /// [`Error::Value`] for a name that the contents do not have, [`Error::DType`],
    /// [`Error::Shape`] or [`Error::Layout`] when the tensor is another, [`Error::Io`].
    pub fn write(&mut self, name: &str, tensor: &AnyTensor) -> Result<()> {
        let Some(index) = self.index(name) else {
            let problem =
                format!("{name:?} is not in the contents of {}", self.out.path().display());
            return Err(Error::value("save", "name", problem));
        };
        let mut bytes = 0;
        for (part, data) in parts(&self.contents.weights[index], tensor)?.into_iter().enumerate() {
            let at = self.data_start + self.places[index][part] as u64;
            match data {
                Data::Region(region) => {
                    let guard = region.buffer().read()?;
                    self.out.write_all_at(&guard[region.range()], at)?;
                    bytes += region.len();
                }
                Data::Bytes(data) => self.out.write_all_at(&data, at)?,
            }
        }
        self.pending.0.push(index);
        self.pending.1 += bytes;
        if self.pending.1 >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Waits until everything written so far is on the disk, and notes it as done.
    ///
    /// # Errors
    /// [`Error::Io`]; what was not on the disk before has to be written again.
    pub fn sync(&mut self) -> Result<()> {
        // Whatever comes of it: a system that could not write something has forgotten it, and says
        // so once. Asked again it would call it written.
        let (indices, _) = std::mem::take(&mut self.pending);
        self.out.io(self.out.file.sync_data())?;
        if let Some((path, notes)) = &mut self.notes {
            let lines: String = indices.iter().map(|index| format!("{index}\n")).collect();
            notes.write_all(lines.as_bytes()).map_err(|e| Error::io(&path, e))?;
        }
        for index in indices {
            self.done[index] = true;
        }
        Ok(())
    }

    /// Gives the file its name, once all of it is on the disk.
    ///
    /// # Errors
    /// [`Error::Value`] when a weight of the contents was not written, [`Error::Io`].
    pub fn finish(mut self) -> Result<()> {
        self.sync()?;
        if let Some(missing) = self.done.iter().position(|done| !done) {
            let name = &self.contents.weights[missing].name;
            let problem =
                format!("{name:?} was not written; {} needs it", self.out.path().display());
            return Err(Error::value("save", "name", problem));
        }
        self.out.finish()?;
        self.finished = true;
        match &self.notes {
            Some((notes, _)) => fs::remove_file(notes).map_err(|e| Error::io(notes, e)),
            None => Ok(()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished && self.notes.is_none() {
            self.out.discard();
        }
    }
}

/// Writes tensors to a file of their own: see [`Writer`].
///
/// # Errors
/// Those of [`Contents::elements`], [`Contents::scaled`] and [`Writer`].
pub fn save<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'a str, &'a AnyTensor)>,
    naming: Naming,
) -> Result<()> {
    let tensors: Vec<_> = tensors.into_iter().collect();
    let mut contents = Contents::new();
    for (name, tensor) in &tensors {
        contents.any(name, tensor, naming)?;
    }
    let mut writer = Writer::create(path, contents)?;
    for (name, tensor) in tensors {
        writer.write(name, tensor)?;
    }
    writer.finish()
}

impl Contents {
    /// A weight as `tensor` is: elements, or a block format under the names of `naming`.
    ///
    /// # Errors
    /// Those of [`elements`](Self::elements) and [`scaled`](Self::scaled).
    pub fn any(&mut self, name: &str, tensor: &AnyTensor, naming: Naming) -> Result<()> {
        match tensor.operand() {
            Operand::Dense(dense) => self.elements(name, dense.dtype, &dense.dims),
            Operand::Scaled(scaled) => self.scaled(name, scaled.format, &scaled.dims, naming),
        }
    }
}

/// What is written of a part.
enum Data {
    Region(Region),
    Bytes(Vec<u8>),
}

/// The data of each part of a weight.
fn parts(weight: &Planned, tensor: &AnyTensor) -> Result<Vec<Data>> {
    let (op, arg) = ("save", "tensor");
    let other = |expected: String| {
        let problem = format!("{} is {tensor}; the contents say {expected}", weight.name);
        Error::dtype(op, arg, problem)
    };
    let without_data = || Error::layout(op, arg, format!("{} has no data", weight.name));
    match (&weight.kind, tensor.operand()) {
        (Kind::Elements { dtype, shape }, Operand::Dense(dense)) => {
            if dense.dtype != *dtype || dense.dims[..] != shape[..] {
                return Err(other(format!("{shape:?} {dtype}")));
            }
            if !dense.is_contiguous() {
                let problem = format!("{} is not contiguous; copy() it first", weight.name);
                return Err(Error::layout(op, arg, problem));
            }
            Ok(vec![Data::Region(dense.data.clone().ok_or_else(without_data)?)])
        }
        (Kind::Scaled { format, shape, naming }, Operand::Scaled(scaled)) => {
            if scaled.format != *format || scaled.dims[..] != shape[..] {
                return Err(other(format!("{shape:?} {format}")));
            }
            if scaled.transposed {
                let problem = format!("{} is transposed; save it as it is stored", weight.name);
                return Err(Error::layout(op, arg, problem));
            }
            let data = scaled.data.as_ref().ok_or_else(without_data)?;
            let mut parts = vec![Data::Region(data.codes.clone()), scales(scaled, data)?];
            if let Some(scale) = &data.tensor_scale {
                let guard = scale.buffer().read()?;
                let g = guard[scale.range()].first_chunk().map_or(1.0, |b| f32::from_ne_bytes(*b));
                let stored = match naming {
                    Naming::CompressedTensors => divisor(g),
                    _ => g,
                };
                parts.push(Data::Bytes(stored.to_le_bytes().to_vec()));
            }
            Ok(parts)
        }
        (Kind::Elements { dtype, shape }, _) => Err(other(format!("{shape:?} {dtype}"))),
        (Kind::Scaled { format, shape, .. }, _) => Err(other(format!("{shape:?} {format}"))),
    }
}

/// The scales as files have them: row-major.
fn scales(scaled: &Scaled, data: &ScaledData) -> Result<Data> {
    if scaled.scale_layout == ScaleLayout::RowMajor {
        return Ok(Data::Region(data.scales.clone()));
    }
    let from = scaled.layout()?;
    let row_major = Scaled { scale_layout: ScaleLayout::RowMajor, ..scaled.clone() };
    let to = row_major.layout()?;
    let mut bytes = vec![0; to.scales_bytes()];
    let guard = data.scales.buffer().read()?;
    convert_scales(&from, &to, &guard[data.scales.range()], &mut bytes)?;
    Ok(Data::Bytes(bytes))
}

/// The divisor that stands for the factor `g`: one whose inverse is `g` where there is such.
fn divisor(g: f32) -> f32 {
    let d = 1.0 / g;
    [d, d.next_down(), d.next_up()].into_iter().find(|d| 1.0 / d == g).unwrap_or(d)
}

/// Whether the file begins with that header and is as long as it says.
fn is_begun(mut file: &File, header: &[u8], len: u64) -> io::Result<bool> {
    if file.metadata()?.len() != len {
        return Ok(false);
    }
    let mut found = vec![0; header.len()];
    file.read_exact(&mut found)?;
    Ok(found == header)
}

/// Marks what the notes say is done, and leaves them at their end. A line that was cut off, or
/// means nothing, ends them.
fn read_notes(notes: &mut File, key: &str, done: &mut [bool]) -> io::Result<()> {
    let mut text = Vec::new();
    notes.read_to_end(&mut text)?;
    let Some(rest) = text.strip_prefix(key.as_bytes()) else { return Ok(()) };
    let mut good = key.len();
    for line in rest.split_inclusive(|byte| *byte == b'\n') {
        let index = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
        match index.and_then(|index| done.get_mut(index.parse::<usize>().ok()?)) {
            Some(done) => *done = true,
            None => break,
        }
        good += line.len();
    }
    notes.set_len(good as u64)?;
    io::Seek::seek(notes, io::SeekFrom::Start(good as u64)).map(|_| ())
}
