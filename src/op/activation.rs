//! The functions that epilogues and elementwise operations apply.

use std::fmt;

/// A function applied to each element, or to pairs of columns when gated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `x`
    #[default]
    Identity,
    /// `max(x, 0)`; NaN stays NaN.
    Relu,
    /// `x / (1 + e^-x)`
    Silu,
    /// `x · Φ(x) = x/2 · (1 + erf(x/√2))`
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`
    GeluTanh,
    /// Of columns `[g | u]`, halves of equal width: `silu(g) · u`.
    SwiGlu,
    /// Of columns `[g | u]`, halves of equal width: `gelu_tanh(g) · u`.
    GeGlu,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Activation; 7] = [
        Activation::Identity,
        Activation::Relu,
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::SwiGlu,
        Activation::GeGlu,
    ];

    /// Whether it halves the number of columns.
    pub const fn is_gated(self) -> bool {
        matches!(self, Activation::SwiGlu | Activation::GeGlu)
    }

    /// The function applied to a plain element, or to the gate half.
    pub const fn pointwise(self) -> Activation {
        match self {
            Activation::SwiGlu => Activation::Silu,
            Activation::GeGlu => Activation::GeluTanh,
            plain => plain,
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Activation::Identity => "identity",
            Activation::Relu => "relu",
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::SwiGlu => "swiglu",
            Activation::GeGlu => "geglu",
        })
    }
}
