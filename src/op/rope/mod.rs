//! Rotary position embedding.

mod frequencies;
mod scaling;

pub use frequencies::RopeFrequencies;
pub use scaling::RopeScaling;

use super::check::{require_broadcast, require_dims};
use super::dims::Dims;
use super::gather::Gather;
use super::operand::{Operand, Use};
use crate::error::{Error, Result};

const OP: &str = "rope";

/// Rotates pairs of elements of each head by an angle that grows with the position:
///
/// ```text
/// φ = position · frequency[i]
/// (out[a], out[b]) = amplitude · (x[a]·cos φ − x[b]·sin φ,  x[b]·cos φ + x[a]·sin φ)
/// ```
///
/// where `a` and `b` are the elements of pair `i`, as [`RopeStyle`] has it. The pairs fill the
/// first `2 · frequencies` elements of a head; the others are passed on as they are.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `x` | `[.., seq, heads, d]` | any float or block format (blocks along d) |
/// | `positions` | `[.., seq]`, leading sizes 1 or left out where shared | u32, i32 or i64 |
/// | `out` | as `x` | any float |
///
/// Any position is valid, negative ones too. Angles, sines and cosines are computed in f64 in the
/// reference; in f32 or wider, from angles that are rounded once, elsewhere. NaN and inf stay
/// within their pair and follow IEEE arithmetic.
///
/// Source: Su et al. 2021, "RoFormer".
#[derive(Clone, Debug)]
pub struct Rope {
    /// What is rotated.
    pub x: Operand,
    /// Where each element of the sequence stands.
    pub positions: Positions,
    /// Which elements are pairs.
    pub style: RopeStyle,
    /// The angle that each pair turns by from one position to the next, and the amplitude.
    pub frequencies: RopeFrequencies,
    /// The result.
    pub out: Operand,
}

/// Which elements of a head, of which `r` are rotated, are pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// `(i, i + r/2)`: Hugging Face's Llama, Qwen, Mistral and most others (GPT-NeoX's layout).
    HalfSplit,
    /// `(2i, 2i + 1)`: the original's, Meta's Llama, GPT-J, and Llama files in GGUF.
    Interleaved,
}

impl RopeStyle {
    /// The elements of pair `i` where `rotary_dim` elements are rotated.
    pub const fn pair(self, i: usize, rotary_dim: usize) -> (usize, usize) {
        match self {
            RopeStyle::HalfSplit => (i, i + rotary_dim / 2),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        }
    }
}

/// Where each element of a sequence stands.
#[derive(Clone, Debug)]
pub enum Positions {
    /// Element `s` stands at `start + s`.
    From(usize),
    /// Positions for each element.
    Given(Operand),
}

impl Rope {
    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        let mut uses = vec![Use::read("x", &self.x)];
        if let Positions::Given(positions) = &self.positions {
            uses.push(Use::read("positions", positions));
        }
        uses.push(Use::write("out", &self.out));
        uses
    }

    pub(super) fn validate(&self) -> Result<()> {
        let dims = self.x.dims();
        let &[.., _, _, d] = &dims[..] else {
            return Err(Error::shape(
                OP,
                "x",
                format!("x is {}: sizes [.., seq, heads, d] are expected", self.x),
            ));
        };
        self.x.require_float(OP, "x")?;
        if self.x.as_scaled().is_some_and(|s| s.transposed) {
            return Err(Error::layout(
                OP,
                "x",
                format!("x is {}: its blocks must run along the last size", self.x),
            ));
        }
        self.out.require_dense_float(OP, "out")?;
        require_dims(OP, "out", &self.out, &dims)?;
        let rotated = self.frequencies.rotary_dim();
        if rotated > d {
            return Err(Error::shape(
                OP,
                "frequencies",
                format!(
                    "{rotated} elements of each head are to be rotated, but x is {}: at most {d}",
                    self.x
                ),
            ));
        }
        if let Positions::Given(positions) = &self.positions {
            positions.require_dtype(OP, "positions", &Gather::INDEX_TYPES)?;
            require_broadcast(OP, "positions", positions, &Dims::new(dims.leading(2))?)?;
        }
        Ok(())
    }
}
