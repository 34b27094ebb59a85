//! Attention: the formula by hand.

mod by_hand;
#[path = "../common/tensors.rs"]
mod support;
