//! A model in one or several safetensors files, mapped.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::scaled::{logical_name, recognise};
use super::{INDEX_NAME, SINGLE_NAME, ScaledParts, TensorInfo, read_header, shard_names};
use crate::error::{Error, Result};
use crate::io::entry::{Entry, Stored};
use crate::memory::{Buffer, Region, SourceFile, scratch};

/// Longest index file in bytes.
const MAX_INDEX: u64 = 1 << 28;

/// An open safetensors model: the checked headers over the mapped files.
///
/// ```no_run
/// use ferrocerium::io::SafeTensors;
///
/// let model = SafeTensors::open("folder/with/model")?;
/// for t in model.tensors() {
///     println!("{} {:?} {}", t.name, t.shape, t.dtype_name);
/// }
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SafeTensors {
    path: PathBuf,
    files: Vec<(SourceFile, Buffer)>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl SafeTensors {
    /// Opens a `.safetensors` file, the files that an index (`….index.json`) names, or those of a
    /// folder (by its `model.safetensors.index.json`, else its `model.safetensors`): reads their
    /// headers and maps them. The files must not change while they are open.
    ///
    /// # Errors
    /// [`Error::Io`] when a file can not be mapped; [`Error::File`] as [`parse_header`](super::parse_header) and
    /// [`shard_names`] say, for a folder without a model, and when index and files contradict.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let index = path.join(INDEX_NAME);
        if path.is_dir() && index.is_file() {
            Self::open_index(path, &index)
        } else if path.is_dir() {
            let single = path.join(SINGLE_NAME);
            if !single.is_file() {
                return Err(Error::file(
                    path,
                    format!(
                        "a folder with neither {SINGLE_NAME} nor {INDEX_NAME}; pass a GGUF file by its own path"
                    ),
                ));
            }
            Self::open_files(path, vec![single])
        } else if path.extension().is_some_and(|e| e == "json") {
            Self::open_index(path, path)
        } else {
            Self::open_files(path, vec![path.to_owned()])
        }
    }

    fn open_index(path: &Path, index: &Path) -> Result<Self> {
        let file = SourceFile::open(index)?;
        let len = file.len();
        if len > MAX_INDEX {
            return Err(Error::file(
                index,
                format!("an index of {len} bytes; at most {MAX_INDEX} are read"),
            ));
        }
        let mut text = scratch(usize::try_from(len).unwrap_or(usize::MAX), 0u8)?;
        file.read_at(0, &mut text)?;
        let map = shard_names(&text, index)?;
        let names: BTreeSet<&String> = map.values().collect();
        let files =
            names.into_iter().map(|name| shard_path(index, name)).collect::<Result<Vec<_>>>()?;
        let model = Self::open_files(path, files)?;
        for (name, file) in &map {
            let found = model.tensor(name).and_then(|t| model.files.get(t.file));
            if found.is_none_or(|(found, _)| found.path().file_name() != Some(file.as_ref())) {
                return Err(Error::file(
                    index,
                    format!("says that tensor {name:?} is in {file}, which has no such tensor"),
                ));
            }
        }
        Ok(model)
    }

    fn open_files(path: &Path, paths: Vec<PathBuf>) -> Result<Self> {
        let mut files = Vec::new();
        let mut tensors: Vec<TensorInfo> = Vec::new();
        let mut by_name = HashMap::new();
        for file in paths {
            let file = SourceFile::open(file)?;
            let found = read_header(&file, files.len())?;
            for t in found {
                if by_name.insert(t.name.clone(), tensors.len()).is_some() {
                    return Err(Error::file(
                        file.path(),
                        format!("tensor {:?} is also in another file of the model", t.name),
                    ));
                }
                tensors.push(t);
            }
            let buffer = file.map()?;
            files.push((file, buffer));
        }
        Ok(Self { path: path.to_owned(), files, tensors, by_name })
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor, by file and then in the order of the data.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The mapped files, which [`TensorInfo::file`] counts.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &Buffer)> {
        self.files.iter().map(|(file, buffer)| (file.path(), buffer))
    }

    /// The block-scaled weight of that name (`"….weight"`, or the name before `_blocks`), if
    /// there is one: see [`ScaledParts`].
    ///
    /// # Errors
    /// [`Error::File`] when parts are missing or do not fit together.
    pub fn scaled_parts(&self, name: &str) -> Result<Option<ScaledParts<'_>>> {
        recognise(name, |n| self.tensor(n)).map_err(|problem| Error::file(&self.path, problem))
    }

    /// The names of all block-scaled weights.
    pub fn scaled_names(&self) -> impl Iterator<Item = &str> {
        // Names that differ may lead to the same weight (`X_packed` and a stray `X`).
        let mut seen = std::collections::HashSet::new();
        self.tensors
            .iter()
            .map(|t| logical_name(&t.name))
            .filter(|name| !matches!(recognise(name, |n| self.tensor(n)), Ok(None)))
            .filter(move |name| seen.insert(*name))
    }

    pub(in crate::io) fn entries(&self) -> Result<Vec<Entry>> {
        self.tensors.iter().map(|t| self.entry(t)).collect()
    }

    pub(in crate::io) fn entry(&self, t: &TensorInfo) -> Result<Entry> {
        let (file, buffer) = &self.files[t.file];
        Ok(Entry {
            name: t.name.clone(),
            stored: t.dtype.map_or(Stored::Other(t.dtype_name), Stored::Elements),
            shape: t.shape.clone(),
            region: Region::new(buffer.clone(), t.bytes.start, t.bytes.len())?,
            file: file.clone(),
        })
    }
}

/// Where the shard of that plain name is. A link may stand for it only when it leads to the
/// folder of the index or, as in the hub's cache, to where a link for the index itself leads.
fn shard_path(index: &Path, name: &str) -> Result<PathBuf> {
    let resolve = |path: &Path| path.canonicalize().map_err(|e| Error::io(path, e));
    let folder = match index.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let path = folder.join(name);
    let (found, beside) = (resolve(&path)?, resolve(index)?);
    if found.parent() == Some(&resolve(folder)?) || found.parent() == beside.parent() {
        return Ok(path);
    }
    Err(Error::file(
        index,
        format!(
            "names the file {name:?}, a link to {}, outside the folder of the index; copy the \
             file to where the link is",
            found.display()
        ),
    ))
}
