//! A stand-in for NVIDIA's driver on machines without a GPU: `libcuda`'s functions over [`ptx_vm`].
//!
//! A process that finds this library as `libcuda.so` sees one GPU with memory of its own. Kernels are
//! loaded as PTX; machine code is refused as no binary for this GPU (209). Of the driver's functions
//! there are those that `ferrocerium` calls.
//!
//! ```text
//! api: the functions ──► gpu: objects by handle ──► work: streams, each a list of what is to be done
//! ```
//!
//! It is stricter than a driver, and never in a hurry. What is enqueued runs later, in any order that
//! streams and events allow, drawn at random (`CUDA_VM_SEED`): a copy reads the host's bytes when it
//! runs, memory is there from where its stream allocates it to where it frees it. A call on a thread
//! without a context, a handle that is not alive, bytes that changed before they were copied, memory
//! that is used too late, and whatever the emulator finds in a kernel, is an error of that call, or
//! the loss of the context, with a line on standard error that says what was wrong.
//!
//! | variable | |
//! |---|---|
//! | `CUDA_VM_CAPABILITY` | the GPU's compute capability, such as `12.1`; 9.0 if it is not set |
//! | `CUDA_VM_MEMORY` | bytes of its memory; 8 GiB if it is not set |
//! | `CUDA_VM_FAULT` | the launch, counted from 0, that does not run and loses the context |
//! | `CUDA_VM_SEED` | what the order is drawn from; another one each time if it is not set |
#![warn(missing_docs)]

mod api;
mod code;
mod gpu;
mod work;
