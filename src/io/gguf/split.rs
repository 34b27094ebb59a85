//! Models in several GGUF files, as `llama-gguf-split` writes them.

use std::path::{Path, PathBuf};

use super::{Gguf, Metadata};
use crate::error::{Error, Result};

/// Most files of one model: the names have five digits.
pub const MAX_SPLITS: u64 = 99_999;

/// The number of this file, from 0, and how many there are: by the metadata `split.no` and
/// `split.count`. `None` for a model in one file.
pub(super) fn split_of(metadata: &Metadata, path: &Path) -> Result<Option<(u64, u64)>> {
    let number = |key: &str| metadata.u64(key).map_err(|e| Error::file(path, e.to_string()));
    let (Some(no), Some(count)) = (number("split.no")?, number("split.count")?) else {
        return Ok(None);
    };
    match count {
        0 | 1 => Ok(None),
        2..=MAX_SPLITS if no < count => Ok(Some((no, count))),
        _ => Err(Error::file(
            path,
            format!("says that it is file {no} of {count}; expected up to {MAX_SPLITS} files"),
        )),
    }
}

/// The files of a model of `count`, of which `path` is the first: `name-00001-of-00003.gguf`, ….
pub(super) fn split_paths(path: &Path, count: u64) -> Result<Vec<PathBuf>> {
    let suffix = |i: u64| format!("-{:05}-of-{count:05}.gguf", i + 1);
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(base) = name.and_then(|name| name.strip_suffix(&suffix(0))) else {
        return Err(Error::file(
            path,
            format!(
                "the first of {count} files of a model; expected a name that ends in {:?}",
                suffix(0)
            ),
        ));
    };
    Ok((0..count).map(|i| path.with_file_name(format!("{base}{}", suffix(i)))).collect())
}

/// All files of the model that `first` is, or is the first of.
///
/// # Errors
/// [`Error::File`] when it is another than the first, when the files do not say that they belong
/// together, or have fewer tensors than the first says.
pub(in crate::io) fn open_all(first: Gguf) -> Result<Vec<Gguf>> {
    let Some((no, count)) = split_of(first.metadata(), first.path())? else {
        return Ok(vec![first]);
    };
    if no != 0 {
        return Err(Error::file(
            first.path(),
            format!("file {} of {count} of a model; open the first", no + 1),
        ));
    }
    let paths = split_paths(first.path(), count)?;
    let stated = first.metadata().u64("split.tensors.count");
    let stated = stated.map_err(|e| Error::file(first.path(), e.to_string()))?;
    let mut files = vec![first];
    for (i, path) in (0..).zip(&paths).skip(1) {
        let file = Gguf::open(path)?;
        let found = split_of(file.metadata(), path)?;
        if found != Some((i, count)) {
            return Err(Error::file(
                path,
                format!("does not say that it is file {} of {count} of the model", i + 1),
            ));
        }
        files.push(file);
    }
    let tensors: usize = files.iter().map(|file| file.header().tensors().len()).sum();
    if stated.is_some_and(|stated| stated != tensors as u64) {
        return Err(Error::file(
            &paths[0],
            format!(
                "says that its {count} files have {} tensors; they have {tensors}",
                stated.unwrap_or(0)
            ),
        ));
    }
    Ok(files)
}
