//! The checker: which accesses are ordered, and what state every shared byte is in.

mod copies;
pub(crate) mod order;
pub(crate) mod shared;
