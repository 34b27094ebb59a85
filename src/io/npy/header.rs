//! What a file says before its data.

use std::ops::Range;
use std::path::Path;

use super::literal::Literal;
use crate::error::{Error, Result};
use crate::memory::SourceFile;
use crate::memory::scratch;
use crate::num::DType;

/// Longest header in bytes: the longest of version 1. (NumPy itself reads 10 000 characters
/// unless it is told to trust the file.)
pub const MAX_HEADER: usize = 0xFFFF;
/// Most dimensions, as in NumPy.
pub const MAX_SIZES: usize = 64;

pub(super) const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Bytes before the header of version 1; later ones have two bytes more of length.
pub(super) const PREFIX: usize = 10;

/// Everything a `.npy` file says before its data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Version of the format: 1 to 3.
    pub version: u8,
    /// The type as the file names it (`<f4`).
    pub descr: String,
    /// The element type; none for bytes without a meaning.
    pub dtype: Option<DType>,
    /// Bytes of an element.
    pub size: usize,
    /// Whether elements have their most significant byte first.
    pub big_endian: bool,
    /// Whether the first index varies fastest.
    pub fortran_order: bool,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The bytes of the data, from the beginning of the file. Others may follow, as where several
    /// arrays were written to one file.
    pub data: Range<usize>,
}

impl Header {
    /// Reads the header of the file `file`, of which `path` is named in errors.
    ///
    /// # Errors
    /// [`Error::File`] when the bytes are not a `.npy` file of version 1 to 3, are cut short,
    /// exceed [`MAX_HEADER`] or [`MAX_SIZES`], hold no dictionary of the three keys, an element
    /// type that is not read, or sizes whose product overflows or leaves the file.
    pub fn parse(file: &[u8], path: &Path) -> Result<Self> {
        let fail = |problem| Error::file(path, problem);
        let Prefix { version, header } = prefix(file, path)?;
        let text = file.get(header.clone()).ok_or_else(|| fail(truncated(&header, file.len())))?;
        parse(version, text, header.end, file.len()).map_err(fail)
    }

    /// As [`parse`](Self::parse), reading the header and nothing else.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and [`Error::Io`].
    pub fn read(file: &SourceFile) -> Result<Self> {
        let fail = |problem| Error::file(file.path(), problem);
        let Ok(len) = usize::try_from(file.len()) else {
            return Err(fail("larger than can be addressed here".to_owned()));
        };
        let mut start = [0; PREFIX + 2];
        let start = &mut start[..len.min(PREFIX + 2)];
        file.read_at(0, start)?;
        let Prefix { version, header } = prefix(start, file.path())?;
        if header.end > len {
            return Err(fail(truncated(&header, len)));
        }
        let mut text = scratch(header.len(), 0)?;
        file.read_at(header.start as u64, &mut text)?;
        parse(version, &text, header.end, len).map_err(fail)
    }
}

struct Prefix {
    version: u8,
    header: Range<usize>,
}

/// What comes before the header, of which it tells the place.
fn prefix(file: &[u8], path: &Path) -> Result<Prefix> {
    let fail = |problem: String| Error::file(path, problem);
    if !file.starts_with(MAGIC) {
        let found = &file[..file.len().min(MAGIC.len())];
        return Err(fail(format!("begins with {found:02x?}, not {MAGIC:02x?}: not a .npy file")));
    }
    let (version, start) = match file.get(MAGIC.len()..MAGIC.len() + 2) {
        Some([1, 0]) => (1, PREFIX),
        Some([version @ 2..=3, 0]) => (*version, PREFIX + 2),
        Some([major, minor]) => {
            return Err(fail(format!("version {major}.{minor}; 1.0, 2.0 and 3.0 are read")));
        }
        _ => return Err(fail(truncated(&(0..PREFIX), file.len()))),
    };
    let Some(length) = file.get(MAGIC.len() + 2..start) else {
        return Err(fail(truncated(&(0..start), file.len())));
    };
    let length = length.iter().rfold(0, |n, byte| n << 8 | usize::from(*byte));
    if length > MAX_HEADER {
        return Err(fail(format!(
            "the header length is {length}, at most {MAX_HEADER} is read: not a .npy file?"
        )));
    }
    Ok(Prefix { version, header: start..start + length })
}

fn truncated(wanted: &Range<usize>, len: usize) -> String {
    format!("the header needs bytes up to {} of {len}: the file is truncated", wanted.end)
}

fn parse(version: u8, text: &[u8], start: usize, file_len: usize) -> Result<Header, String> {
    let mut text = Literal::new(text);
    let (mut descr, mut order, mut shape) = (None, None, None);
    text.expect(b'{')?;
    while !text.takes(b'}') {
        let key = text.string()?;
        text.expect(b':')?;
        let twice = match key {
            "descr" if text.takes(b'[') || text.takes(b'(') => {
                return Err("an array of records; save each field by itself".to_owned());
            }
            "descr" => descr.replace(text.string()?).is_some(),
            "fortran_order" => order.replace(text.boolean()?).is_some(),
            "shape" => shape.replace(text.sizes()?).is_some(),
            _ => return Err(format!("the header has the key {key:?}; {KEYS} are expected")),
        };
        if twice {
            return Err(format!("the header has the key {key:?} twice"));
        }
        if !text.takes(b',') {
            text.expect(b'}')?;
            break;
        }
    }
    text.end()?;
    let (Some(descr), Some(fortran_order), Some(shape)) = (descr, order, shape) else {
        return Err(format!("the header lacks one of its keys; {KEYS} are expected"));
    };
    let Element { dtype, size, big_endian } = element(descr)?;
    // A size of zero would hide that the others can not be multiplied.
    let bytes = shape.iter().try_fold(size, |n, &d| n.checked_mul(d.max(1)));
    let bytes = bytes.filter(|&n| isize::try_from(n).is_ok());
    let bytes = bytes.ok_or_else(|| format!("the shape {shape:?} can not be addressed"))?;
    let bytes = if shape.contains(&0) { 0 } else { bytes };
    let left = file_len.saturating_sub(start);
    if bytes > left {
        return Err(format!(
            "{shape:?} of {descr:?} takes {bytes} bytes, but {left} follow the header: the file is \
             truncated"
        ));
    }
    let data = start..start + bytes;
    Ok(Header {
        version,
        descr: descr.to_owned(),
        dtype,
        size,
        big_endian,
        fortran_order,
        shape,
        data,
    })
}

const KEYS: &str = "'descr', 'fortran_order' and 'shape'";

struct Element {
    dtype: Option<DType>,
    size: usize,
    big_endian: bool,
}

/// What a `descr` stands for.
fn element(descr: &str) -> Result<Element, String> {
    let unread = |why: &str| Err(format!("elements of type {descr:?} are not read: {why}"));
    let (order, rest) = match descr.split_at_checked(1) {
        Some((order @ ("<" | ">" | "|" | "="), rest)) => (order, rest),
        _ => ("|", descr),
    };
    let (kind, size) = rest.split_at_checked(1).unwrap_or((rest, ""));
    match kind {
        "O" => return unread("objects are Python pickles, which can run any code"),
        "c" => return unread("complex numbers; save real and imaginary parts by themselves"),
        "S" | "a" | "U" => return unread("texts are no numbers"),
        "M" | "m" => return unread("convert times with .view('int64') and save those"),
        "b" | "i" | "u" | "f" | "V" => {}
        _ => return unread("no type of NumPy"),
    }
    // NumPy's own `parse` takes no signs or spaces either.
    let digits = size.bytes().all(|byte| byte.is_ascii_digit());
    let Some(size) = size.parse().ok().filter(|&n: &usize| digits && n > 0) else {
        return unread("no size in bytes follows the kind");
    };
    let dtype = match (kind, size) {
        ("b", 1) | ("u", 1) => DType::U8,
        ("i", 1) => DType::I8,
        ("u", 2) => DType::U16,
        ("i", 2) => DType::I16,
        ("u", 4) => DType::U32,
        ("i", 4) => DType::I32,
        ("u", 8) => DType::U64,
        ("i", 8) => DType::I64,
        ("f", 2) => DType::F16,
        ("f", 4) => DType::F32,
        ("f", 8) => DType::F64,
        // FP8 of either kind.
        ("V", _) | ("f", 1) => return Ok(Element { dtype: None, size, big_endian: false }),
        _ => return unread("numbers of that size have no element type here"),
    };
    // "=" is the order of the machine that wrote the file, of which nothing is known; NumPy writes
    // none.
    if order == "=" && size > 1 {
        return unread("expected '<' or '>' for the order of bytes");
    }
    Ok(Element { dtype: Some(dtype), size, big_endian: order == ">" && size > 1 })
}
