//! Attention: the formula by hand and written out, the layouts against each other, and what is
//! refused.

mod by_hand;
mod layouts;
mod options;
mod properties;
mod refusals;
#[path = "../common/tensors.rs"]
mod support;
