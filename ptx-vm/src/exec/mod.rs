//! Running: `image` binds functions to a launch, `block` schedules warps, `warp` holds
//! lanes, `step` runs one instruction; the rest are the instructions by family.

mod access;
mod atomic;
pub(crate) mod barrier;
pub(crate) mod block;
pub(crate) mod bulk;
mod compute;
pub(crate) mod flow;
pub(crate) mod image;
mod mbarrier;
pub(crate) mod memory;
pub(crate) mod mma;
mod open;
mod step;
mod warp;
mod warp_ops;
pub(crate) mod wgmma;
