//! Why which kernel runs.

use std::fmt;

use super::kernel::{Cost, KernelInfo};

/// Every kernel that was considered for an operation, and what became of it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The operation with its operands.
    pub op: String,
    /// The machine.
    pub caps: String,
    /// All kernels registered for the operation, in order of registration.
    pub candidates: Vec<Candidate>,
}

/// One kernel in an [`Explanation`].
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The kernel.
    pub info: KernelInfo,
    /// What became of it.
    pub verdict: Verdict,
    /// Which of its variants would run, where it has several.
    pub variant: Option<String>,
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// It runs; why it was preferred.
    Chosen(String),
    /// It could run, at this cost, but another one is preferred.
    Eligible(Cost),
    /// It does not run; why not.
    Rejected(String),
}

impl Explanation {
    /// The kernel that runs, if any.
    pub fn chosen(&self) -> Option<&KernelInfo> {
        let mut all = self.candidates.iter();
        all.find(|c| matches!(c.verdict, Verdict::Chosen(_))).map(|c| &c.info)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}", self.op, self.caps)?;
        if self.candidates.is_empty() {
            return write!(f, "  no kernel is registered for this operation");
        }
        let width = self.candidates.iter().map(|c| c.info.name.len()).max().unwrap_or(0);
        for (i, Candidate { info, verdict, variant }) in self.candidates.iter().enumerate() {
            let (mark, text) = match verdict {
                Verdict::Chosen(why) => ("→", format!("runs: {why}")),
                Verdict::Eligible(cost) => (" ", format!("could run, estimated {cost}")),
                Verdict::Rejected(why) => (" ", format!("no: {why}")),
            };
            let end = if i + 1 < self.candidates.len() { "\n" } else { "" };
            let variant = variant.as_ref().map_or(String::new(), |variant| format!(" ({variant})"));
            write!(f, "{mark} {:width$}  {text}{variant}{end}", info.name)?;
        }
        Ok(())
    }
}
