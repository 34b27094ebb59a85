//! A cursor that never leaves its bytes.

use std::path::Path;

use crate::error::{Error, Result};

/// Reads little-endian values from the beginning of a file; every read is checked against what
/// the file has left.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    file_len: usize,
    at: usize,
    path: &'a Path,
    /// Bytes of the file that a read wanted and `bytes` does not have.
    wanted: Option<usize>,
}

macro_rules! read_number {
    ($($name:ident -> $t:ty),* $(,)?) => {$(
        pub(super) fn $name(&mut self, what: &str) -> Result<$t> {
            Ok(<$t>::from_le_bytes(self.array(what)?))
        }
    )*};
}

impl<'a> Reader<'a> {
    /// A reader of the file of `file_len` bytes that begins with `bytes`.
    pub(super) fn new(bytes: &'a [u8], file_len: usize, path: &'a Path) -> Self {
        Self { bytes, file_len: file_len.max(bytes.len()), at: 0, path, wanted: None }
    }

    /// How many bytes a read that failed needed of the file, when it has them and the reader was
    /// given less.
    pub(super) fn wanted(&self) -> Option<usize> {
        self.wanted
    }

    /// Offset of the next byte to be read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.file_len - self.at
    }

    /// An error at the current position.
    pub(super) fn fail(&self, problem: impl std::fmt::Display) -> Error {
        Error::file(self.path, format!("{problem} (at byte {})", self.at))
    }

    pub(super) fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        if len > self.remaining() {
            return Err(self.fail(format_args!(
                "{what} needs {len} bytes but {} are left: the file is truncated or damaged; \
                 fetch it again",
                self.remaining()
            )));
        }
        let Some(taken) = self.bytes.get(self.at..self.at + len) else {
            self.wanted = Some(self.at + len);
            return Err(self.fail(format_args!("{what} needs {len} bytes more than were read")));
        };
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    read_number! {
        u8 -> u8, i8 -> i8, u16 -> u16, i16 -> i16, u32 -> u32, i32 -> i32,
        u64 -> u64, i64 -> i64, f32 -> f32, f64 -> f64,
    }

    /// A count of things that take at least `min_bytes` each: refused when it exceeds `limit` or
    /// what the rest of the file could hold, so that nothing is reserved for it in vain.
    pub(super) fn count(&mut self, what: &str, limit: usize, min_bytes: usize) -> Result<usize> {
        let count = self.u64(what)?;
        self.check_count(count, what, limit, min_bytes)
    }

    pub(super) fn check_count(
        &self,
        count: u64,
        what: &str,
        limit: usize,
        min_bytes: usize,
    ) -> Result<usize> {
        let possible = self.remaining() / min_bytes.max(1);
        match usize::try_from(count) {
            Ok(n) if n <= limit && n <= possible => Ok(n),
            Ok(n) if n > possible && n <= limit => Err(self.fail(format_args!(
                "{what} says {count}, but the {} bytes left can hold {possible} at most: the \
                 file is truncated or damaged; fetch it again",
                self.remaining()
            ))),
            _ => Err(self.fail(format_args!("{what} says {count}; at most {limit} are read"))),
        }
    }

    /// A length-prefixed UTF-8 string of at most `limit` bytes.
    pub(super) fn string(&mut self, what: &str, limit: usize) -> Result<&'a str> {
        let len = self.count(what, limit, 1)?;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes)
            .map_err(|e| self.fail(format_args!("{what} is not UTF-8 text: {e}")))
    }
}
