//! Every instruction that is not a matrix one, on random operands, against an independent
//! computation.

mod compare;
mod convert;
mod coverage;
mod exact;
mod float;
mod half;
mod harness;
mod integer;
mod malformed;
mod memory;
mod warp;
