//! What was measured to be fastest.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::op::{Op, Operand};

/// Which kernel was the fastest for operations like some, on a machine like this.
///
/// Operations are alike, and fall in one bucket, when they have the same operands of the same
/// types and order of elements, and sizes that are the same when rounded up to powers of two. A
/// kernel that was fastest goes before declared costs, never before what the caller forces, and
/// only where it may be chosen at all.
///
/// Filled by `Device::tune`, kept in the registry
/// ([`KernelRegistry::tuning`](super::KernelRegistry::tuning)), and on disk as text: a line for
/// each bucket, a tab before the kernel's name.
///
/// ```
/// use ferrocerium::{Device, Tensor, op::Gemm, registry::Tuning};
/// let device = Device::cpu();
/// let x = Tensor::full(&device, [64, 64], 1.0f32)?;
/// let y = Tensor::<f32, 2>::zeros(&device, [64, 64])?;
/// device.tune(&Gemm::new(x.operand(), x.operand(), y.operand()).into())?;
///
/// let path = std::env::temp_dir().join(format!("tuning-{}", std::process::id()));
/// device.registry().tuning().save(&path)?;
/// let other = Device::cpu();
/// other.registry().set_tuning(Tuning::load(&path)?);
/// assert_eq!(other.registry().tuning(), device.registry().tuning());
/// # std::fs::remove_file(path).ok();
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    fastest: BTreeMap<String, String>,
}

impl Tuning {
    /// Nothing measured.
    pub fn new() -> Self {
        Self::default()
    }

    /// What operations have in common with this one, on such a machine.
    fn bucket(op: &Op, caps: &Caps) -> String {
        let mut text = format!("{caps}: {}(", op.kind().name());
        for (i, used) in op.operands().into_iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let sizes: Vec<_> =
                used.operand.dims().iter().map(|d| format!("≤{}", power_of_two(*d))).collect();
            text += &format!("{comma}{}: [{}] ", used.name, sizes.join(", "));
            text += &match used.operand {
                Operand::Dense(dense) if dense.is_contiguous() => dense.dtype.to_string(),
                Operand::Dense(dense) => format!("{} strided", dense.dtype),
                Operand::Scaled(scaled) if scaled.transposed => {
                    format!("{} transposed", scaled.format)
                }
                Operand::Scaled(scaled) => scaled.format.to_string(),
            };
        }
        text + ")"
    }

    /// The kernel that was fastest for operations like this one.
    pub fn fastest(&self, op: &Op, caps: &Caps) -> Option<&str> {
        // Most often there is nothing, and every operation asks.
        if self.fastest.is_empty() {
            return None;
        }
        self.fastest.get(&Self::bucket(op, caps)).map(String::as_str)
    }

    /// Notes the kernel that was fastest for operations like this one.
    pub fn set_fastest(&mut self, op: &Op, caps: &Caps, kernel: impl Into<String>) {
        self.fastest.insert(Self::bucket(op, caps), kernel.into());
    }

    /// How many buckets there are.
    pub fn len(&self) -> usize {
        self.fastest.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.fastest.is_empty()
    }

    /// Reads a file that [`Tuning::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] when it can not be read, [`Error::File`] when it holds something else.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        text.parse().map_err(|e: Error| Error::file(path, e.to_string()))
    }

    /// Writes it to a file, which appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] when that is not possible.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let written =
            fs::write(&temporary, self.to_string()).and_then(|()| fs::rename(&temporary, path));
        written.map_err(|e| {
            let _ = fs::remove_file(&temporary);
            Error::io(path, e)
        })
    }
}

/// The next power of two; 0 for 0, the size itself where there is none.
fn power_of_two(size: usize) -> usize {
    if size == 0 { 0 } else { size.checked_next_power_of_two().unwrap_or(size) }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fastest.iter().try_for_each(|(bucket, kernel)| writeln!(f, "{bucket}\t{kernel}"))
    }
}

impl FromStr for Tuning {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let entry = |line: &str| match line.split_once('\t') {
            Some((bucket, kernel)) if !(bucket.is_empty() || kernel.is_empty()) => {
                Ok((bucket.to_owned(), kernel.to_owned()))
            }
            _ => Err(Error::Parse {
                what: "line of a tuning file",
                text: line.chars().take(80).collect(),
                expected: "a bucket, a tab and a kernel's name".to_owned(),
            }),
        };
        Ok(Tuning { fastest: text.lines().map(entry).collect::<Result<_>>()? })
    }
}
