//! Attention: the formula by hand.

mod by_hand;
mod support;
