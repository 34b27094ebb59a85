//! Key-value metadata: typed values under dotted names.

use std::collections::BTreeMap;
use std::fmt;

use super::reader::Reader;
use crate::error::{Error, Result};

/// Most metadata entries that are read from a file.
pub const MAX_METADATA: usize = 1 << 16;
/// Longest metadata key in bytes, as the specification has it.
pub const MAX_KEY: usize = (1 << 16) - 1;
/// Deepest nesting of arrays of arrays.
pub const MAX_ARRAY_DEPTH: usize = 4;
/// Most elements of one array: several times the largest vocabulary in use.
const MAX_ARRAY: usize = 1 << 26;
/// Longest string value in bytes.
const MAX_STRING: usize = 1 << 26;
/// Bytes of the shortest entry: an empty key, a type, a one-byte value.
const MIN_ENTRY_BYTES: usize = 8 + 4 + 1;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array value: all elements have one type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
}

macro_rules! each_array {
    ($array:expr, $v:ident => $e:expr) => {
        match $array {
            Array::U8($v) => $e,
            Array::I8($v) => $e,
            Array::U16($v) => $e,
            Array::I16($v) => $e,
            Array::U32($v) => $e,
            Array::I32($v) => $e,
            Array::U64($v) => $e,
            Array::I64($v) => $e,
            Array::F32($v) => $e,
            Array::F64($v) => $e,
            Array::Bool($v) => $e,
            Array::String($v) => $e,
            Array::Array($v) => $e,
        }
    };
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        each_array!(self, v => v.len())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, when they are integers that all fit.
    pub fn to_u64(&self) -> Option<Vec<u64>> {
        macro_rules! all {
            ($v:expr) => {
                $v.iter().map(|&x| u64::try_from(x).ok()).collect()
            };
        }
        match self {
            Array::U8(v) => all!(v),
            Array::I8(v) => all!(v),
            Array::U16(v) => all!(v),
            Array::I16(v) => all!(v),
            Array::U32(v) => all!(v),
            Array::I32(v) => all!(v),
            Array::U64(v) => Some(v.clone()),
            Array::I64(v) => all!(v),
            _ => None,
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            Array::U8(_) => "array of u8",
            Array::I8(_) => "array of i8",
            Array::U16(_) => "array of u16",
            Array::I16(_) => "array of i16",
            Array::U32(_) => "array of u32",
            Array::I32(_) => "array of i32",
            Array::U64(_) => "array of u64",
            Array::I64(_) => "array of i64",
            Array::F32(_) => "array of f32",
            Array::F64(_) => "array of f64",
            Array::Bool(_) => "array of bool",
            Array::String(_) => "array of string",
            Array::Array(_) => "array of array",
        }
    }

    fn read(r: &mut Reader<'_>, key: &str, depth: usize) -> Result<Self> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(r.fail(format_args!(
                "metadata {key:?} nests arrays deeper than {MAX_ARRAY_DEPTH}, the most that is read"
            )));
        }
        let what = format!("metadata {key:?} (array)");
        let code = r.u32(&what)?;
        let kind = Kind::of(code).ok_or_else(|| unknown_type(r, key, code))?;
        let n = r.count(&format!("the length of metadata {key:?}"), MAX_ARRAY, kind.min_bytes())?;
        macro_rules! numbers {
            ($variant:ident, $read:ident) => {{
                let mut v = Vec::with_capacity(n);
                for _ in 0..n {
                    v.push(r.$read(&what)?);
                }
                Array::$variant(v)
            }};
        }
        Ok(match kind {
            Kind::U8 => numbers!(U8, u8),
            Kind::I8 => numbers!(I8, i8),
            Kind::U16 => numbers!(U16, u16),
            Kind::I16 => numbers!(I16, i16),
            Kind::U32 => numbers!(U32, u32),
            Kind::I32 => numbers!(I32, i32),
            Kind::U64 => numbers!(U64, u64),
            Kind::I64 => numbers!(I64, i64),
            Kind::F32 => numbers!(F32, f32),
            Kind::F64 => numbers!(F64, f64),
            Kind::Bool => {
                Array::Bool((0..n).map(|_| read_bool(r, key)).collect::<Result<Vec<_>>>()?)
            }
            Kind::String => Array::String(
                (0..n)
                    .map(|_| r.string(&what, MAX_STRING).map(str::to_owned))
                    .collect::<Result<Vec<_>>>()?,
            ),
            Kind::Array => Array::Array(
                (0..n).map(|_| Array::read(r, key, depth + 1)).collect::<Result<Vec<_>>>()?,
            ),
        })
    }
}

impl Value {
    fn read(r: &mut Reader<'_>, key: &str) -> Result<Self> {
        let what = format!("metadata {key:?}");
        let code = r.u32(&what)?;
        Ok(match Kind::of(code).ok_or_else(|| unknown_type(r, key, code))? {
            Kind::U8 => Value::U8(r.u8(&what)?),
            Kind::I8 => Value::I8(r.i8(&what)?),
            Kind::U16 => Value::U16(r.u16(&what)?),
            Kind::I16 => Value::I16(r.i16(&what)?),
            Kind::U32 => Value::U32(r.u32(&what)?),
            Kind::I32 => Value::I32(r.i32(&what)?),
            Kind::U64 => Value::U64(r.u64(&what)?),
            Kind::I64 => Value::I64(r.i64(&what)?),
            Kind::F32 => Value::F32(r.f32(&what)?),
            Kind::F64 => Value::F64(r.f64(&what)?),
            Kind::Bool => Value::Bool(read_bool(r, key)?),
            Kind::String => Value::String(r.string(&what, MAX_STRING)?.to_owned()),
            Kind::Array => Value::Array(Array::read(r, key, 1)?),
        })
    }

    /// The value as an unsigned integer, from any integer type it fits.
    pub fn to_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(x) => Some(x.into()),
            Value::U16(x) => Some(x.into()),
            Value::U32(x) => Some(x.into()),
            Value::U64(x) => Some(x),
            Value::I8(x) => x.try_into().ok(),
            Value::I16(x) => x.try_into().ok(),
            Value::I32(x) => x.try_into().ok(),
            Value::I64(x) => x.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a float, from `f32` or `f64`.
    pub fn to_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(x) => Some(x.into()),
            Value::F64(x) => Some(x),
            _ => None,
        }
    }

    /// The name of the value's type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F32(_) => "f32",
            Value::F64(_) => "f64",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Array(a) => a.type_name(),
        }
    }
}

/// A file's metadata by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: BTreeMap<String, Value>,
}

impl Metadata {
    pub(super) fn read(r: &mut Reader<'_>, count: u64) -> Result<Self> {
        let count = r.check_count(count, "the metadata count", MAX_METADATA, MIN_ENTRY_BYTES)?;
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let key = r.string("a metadata key", MAX_KEY)?;
            if key.is_empty() {
                return Err(r.fail("a metadata key is empty; the file is damaged"));
            }
            let value = Value::read(r, key)?;
            if entries.insert(key.to_owned(), value).is_some() {
                return Err(r.fail(format_args!(
                    "metadata {key:?} is there twice; which one holds is not defined"
                )));
            }
        }
        Ok(Self { entries })
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Every entry, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        pick: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        pick(value).map(Some).ok_or_else(|| {
            Error::value(
                "gguf",
                "metadata",
                format!("{key:?} is {} {value}; expected {expected}", value.type_name()),
            )
        })
    }

    /// The integer under `key`, if there; an error when what is there is not a whole number ≥ 0.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a whole number, not negative", Value::to_u64)
    }

    /// The float under `key`, if there; an error when what is there is not a float.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a float", Value::to_f64)
    }

    /// The truth value under `key`, if there; an error when what is there is not one.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |v| if let Value::Bool(x) = v { Some(*x) } else { None })
    }

    /// The text under `key`, if there; an error when what is there is not text.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |v| if let Value::String(x) = v { Some(&**x) } else { None })
    }

    /// The array of texts under `key`, if there; an error when what is there is not one.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Array(Array::String(x)) => Some(&**x),
            _ => None,
        })
    }

    /// The array of integers under `key`, if there; an error when what is there is not an array
    /// of whole numbers ≥ 0.
    pub fn u64s(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.typed(key, "an array of whole numbers, none negative", |v| match v {
            Value::Array(x) => x.to_u64(),
            _ => None,
        })
    }

    /// The array of floats under `key`, if there; an error when what is there is not one.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, "an array of f32", |v| match v {
            Value::Array(Array::F32(x)) => Some(&**x),
            _ => None,
        })
    }
}

/// Longest stretch of a value's text that a message shows.
const SHOWN: usize = 40;

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(x) => write!(f, "{x}"),
            Value::I8(x) => write!(f, "{x}"),
            Value::U16(x) => write!(f, "{x}"),
            Value::I16(x) => write!(f, "{x}"),
            Value::U32(x) => write!(f, "{x}"),
            Value::I32(x) => write!(f, "{x}"),
            Value::U64(x) => write!(f, "{x}"),
            Value::I64(x) => write!(f, "{x}"),
            Value::F32(x) => write!(f, "{x}"),
            Value::F64(x) => write!(f, "{x}"),
            Value::Bool(x) => write!(f, "{x}"),
            Value::String(x) => match x.char_indices().nth(SHOWN) {
                Some((end, _)) => write!(f, "{:?}…", &x[..end]),
                None => write!(f, "{x:?}"),
            },
            Value::Array(x) => write!(f, "of {} elements", x.len()),
        }
    }
}

/// The types of values, by their codes in the file.
#[derive(Clone, Copy)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// In the order of the specification's `gguf_metadata_value_type`.
    const BY_CODE: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    fn of(code: u32) -> Option<Kind> {
        Self::BY_CODE.get(usize::try_from(code).ok()?).copied()
    }

    /// Bytes that one element takes at least.
    fn min_bytes(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::String => 8,
            Kind::Array => 12,
        }
    }
}

fn unknown_type(r: &Reader<'_>, key: &str, code: u32) -> Error {
    r.fail(format_args!("metadata {key:?} has type code {code}; known are 0 to 12"))
}

fn read_bool(r: &mut Reader<'_>, key: &str) -> Result<bool> {
    match r.u8("a bool")? {
        0 => Ok(false),
        1 => Ok(true),
        other => {
            Err(r.fail(format_args!("metadata {key:?} is a bool of value {other}, not 0 or 1")))
        }
    }
}
