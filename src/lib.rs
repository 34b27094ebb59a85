//! Typed FP4 / FP8 / BF16 tensors over buffers that CPU and GPU share, an open kernel registry,
//! and a CPU reference that every kernel is checked against.
//!
//! ```
//! use ferrocerium::{Device, Tensor, bf16, format::Nvfp4};
//!
//! let device = Device::best()?;
//! let x = Tensor::from_fn(&device, [4, 64], |[i, j]| bf16::from_f32((i + j) as f32 * 0.1))?;
//! let w = Tensor::from_fn(&device, [32, 64], |[i, j]| (i as f32 - j as f32).sin())?;
//! let w4 = w.quantize::<Nvfp4>()?;                       // ScaledTensor<Nvfp4, 2>
//! let y: Tensor<bf16, 2> = x.matmul(&w4.t())?;           // bf16 · FP4: the types say so
//! println!("{y:?}");
//! # Ok::<(), ferrocerium::Error>(())
//! ```
//!
//! Three promises:
//!
//! 1. **The type says the precision.** Element type or block format, and rank, are type
//!    parameters. Nothing casts, quantises, copies between memories or changes the accumulator
//!    unless a call says so.
//! 2. **One memory, honestly.** A buffer has a kind, and the kind says who may touch it. Host access
//!    is an ordinary borrow that first waits for the work that conflicts with it, and only for that.
//! 3. **Every kernel is accountable.** It has a name, states what it supports, is checked against
//!    the reference by the same public property suite, and can be listed, explained, forced,
//!    disabled and replaced at run time.
//!
//! # A tour
//!
//! ## Tensors
//!
//! A [`Tensor<E, R>`](Tensor) has `R` dimensions of elements `E`, and lives on a [`Device`]. Clones
//! and views ([`slice`](Tensor::slice), [`permute`](Tensor::permute), [`t`](Tensor::t),
//! [`broadcast_to`](Tensor::broadcast_to), …) share its bytes; [`host`](Tensor::host) borrows them.
//!
//! ```
//! # use ferrocerium::{Device, Tensor};
//! let device = Device::cpu();
//! let x = Tensor::from_host(&device, [2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
//! let column = x.slice(1, 2..3)?;                        // a view: no byte is copied
//! assert_eq!(column.to_vec()?, [3.0, 6.0]);
//! x.host_mut()?[[0, 2]] = 9.0;                           // views see it
//! assert_eq!(column.host()?[[0, 0]], 9.0);
//! let means: Tensor<f32, 2> = x.mean(&[1])?;             // rank 2: the dimension stays, of size 1
//! assert_eq!(x.sub(&means)?.to_vec()?, [-3.0, -2.0, 5.0, -1.0, 0.0, 1.0]);
//! # Ok::<(), ferrocerium::Error>(())
//! ```
//!
//! Types: [`num`] has the elements and their exact conversions; [`AnyTensor`] is for types known at
//! run time only.
//!
//! ## Block-scaled formats
//!
//! A [`ScaledTensor<F, R>`](ScaledTensor) holds narrow codes and the scales that give them range:
//! NVFP4, MXFP4, MXFP8, FP8 by tensor, row or block. [`format`](mod@format) has the table of them,
//! and the quantisers.
//!
//! ```
//! # use ferrocerium::{Device, Tensor};
//! use ferrocerium::format::{Mxfp8, Nvfp4, Quantizer};
//! # let device = Device::cpu();
//! let w = Tensor::from_fn(&device, [8, 64], |[i, j]| ((i * 64 + j) as f32).sin())?;
//! let amax = w.quantize::<Nvfp4>()?;
//! let better = w.quantize_with::<Nvfp4>(Quantizer::FourOverSix)?;
//! let error = |q: &ferrocerium::ScaledTensor<Nvfp4, 2>| -> ferrocerium::Result<f32> {
//!     let off = q.dequantize::<f32>()?.sub(&w)?;
//!     let sum: Tensor<f32, 0> = off.mul(&off)?.sum(&[0, 1])?;
//!     sum.item()
//! };
//! assert!(error(&better)? <= error(&amax)?);
//! assert_eq!(w.quantize::<Mxfp8>()?.bytes(), 8 * (64 + 64 / 32));
//! // NaN and infinities are refused, not swallowed.
//! assert!(Tensor::full(&device, [1, 16], f32::NAN)?.quantize::<Nvfp4>().is_err());
//! # Ok::<(), ferrocerium::Error>(())
//! ```
//!
//! ## Models
//!
//! Matrix products fuse what follows them; attention takes the caches that servers keep.
//!
//! ```
//! # use ferrocerium::{Device, Tensor, bf16};
//! use ferrocerium::op::{Activation, RopeFrequencies, RopeScaling, RopeStyle};
//! # let device = Device::cpu();
//! # let (n, heads, kv_heads, d) = (3, 4, 2, 8);
//! # let wave = |[i, j]: [usize; 2]| ((i * 7 + j) as f32).sin();
//! # let x = Tensor::from_fn(&device, [n, 32], wave)?;
//! # let weight = Tensor::full(&device, [32], 1.0f32)?;
//! # let wq = Tensor::from_fn(&device, [heads * d, 32], wave)?;
//! # let wkv = Tensor::from_fn(&device, [kv_heads * d, 32], wave)?;
//! # let gate_up = Tensor::from_fn(&device, [2 * 48, 32], wave)?;
//! let h = x.rms_norm(&weight, 1e-5)?;
//! let q = h.matmul(&wq.t())?.reshape([1, n, heads, d])?;
//! let k = h.matmul(&wkv.t())?.reshape([1, n, kv_heads, d])?;
//! let v = h.matmul(&wkv.t())?.reshape([1, n, kv_heads, d])?;
//! let frequencies = RopeFrequencies::new(10_000.0, d, &RopeScaling::None)?;
//! let (q, k) = (q.rope(&frequencies, RopeStyle::HalfSplit, 0)?,
//!               k.rope(&frequencies, RopeStyle::HalfSplit, 0)?);
//! let mixed: Tensor<f32, 4> = q.attention(&k, &v).causal().run()?;
//! let y: Tensor<bf16, 2> = h.gemm(&gate_up.t()).activation(Activation::SwiGlu).run()?;
//! assert_eq!((mixed.shape(), y.shape()), ([1, n, heads, d], [n, 48]));
//! # Ok::<(), ferrocerium::Error>(())
//! ```
//!
//! Weights come from GGUF and safetensors files, mapped and used in place: see [`io`].
//! `examples/chat` is a whole program.
//!
//! ## Which kernel runs
//!
//! ```
//! # use ferrocerium::{Device, Tensor};
//! use ferrocerium::registry::Request;
//! # let device = Device::cpu();
//! # let x = Tensor::full(&device, [4, 64], 1.0f32)?;
//! # let w = Tensor::full(&device, [64, 8], 1.0f32)?;
//! let spec = x.gemm(&w).spec::<f32>()?;
//! println!("{}", device.explain(&spec)?);                // every candidate, and why (not)
//! // By force, for one call; FERROCERIUM_KERNEL=reference.gemm does it for a whole program.
//! let y: Tensor<f32, 2> = x.gemm(&w).request(Request::kernel("reference.gemm")).run()?;
//! assert_eq!(y.host()?[[3, 7]], 64.0);
//! # Ok::<(), ferrocerium::Error>(())
//! ```
//!
//! [`backend`] lists the kernels; [`registry`] is where your own go, and
//! `examples/custom_kernel.rs` shows one from start to finish, `examples/custom_gpu_kernel.rs` one in
//! CUDA C++.
//!
//! ## Memory
//!
//! Allocation can fail, and a failure names what holds the memory.
//!
//! ```
//! # use ferrocerium::{Device, Tensor};
//! let device = Device::builder().memory_limit(1 << 20).cpu()?;
//! let cache: Tensor<f32, 2> = Tensor::zeros_labelled(&device, [512, 256], "cache")?;
//! let refused = Tensor::<f32, 2>::zeros(&device, [512, 512]).unwrap_err().to_string();
//! assert!(refused.contains("`cache` 512.0 KiB"), "{refused}");
//! # Ok::<(), ferrocerium::Error>(())
//! ```
//!
//! # Operations
//!
//! Methods build [`op`]s, plain data that a device checks and runs. The reference runs all of them
//! on every type; formulas, sizes and the semantics of NaN stand with each.
//!
//! | operation | of a [`Tensor`] |
//! |---|---|
//! | [`Gemm`](op::Gemm): `residual + f(α·A·B ∘ column_scale + β·C + bias)` | [`matmul`](Tensor::matmul), [`gemm`](Tensor::gemm) |
//! | [`GroupedGemm`](op::GroupedGemm): a product for each expert | [`grouped_gemm`](Tensor::grouped_gemm) |
//! | [`Attention`](op::Attention): `softmax(Q·Kᵀ)·V`, masked, paged, packed | [`attention`](Tensor::attention) |
//! | [`Convert`](op::Convert): casts, copies, (de)quantisation | [`cast`](Tensor::cast), [`copy`](Tensor::copy), [`quantize`](Tensor::quantize), [`dequantize`](ScaledTensor::dequantize) |
//! | [`Norm`](op::Norm): RMS and layer norm | [`rms_norm`](Tensor::rms_norm), [`layer_norm`](Tensor::layer_norm), [`norm`](Tensor::norm) |
//! | [`Rope`](op::Rope): rotary positions | [`rope`](Tensor::rope), [`rope_at`](Tensor::rope_at) |
//! | [`Softmax`](op::Softmax) | [`softmax`](Tensor::softmax), [`log_softmax`](Tensor::log_softmax) |
//! | [`Elementwise`](op::Elementwise): arithmetic, activations | [`add`](Tensor::add), [`mul`](Tensor::mul), [`silu`](Tensor::silu), [`map`](Tensor::map), … |
//! | [`Reduce`](op::Reduce) | [`sum`](Tensor::sum), [`mean`](Tensor::mean), [`max`](Tensor::max), … |
//! | [`ArgReduce`](op::ArgReduce) | [`argmax`](Tensor::argmax), [`argmin`](Tensor::argmin) |
//! | [`TopK`](op::TopK) | [`top_k`](Tensor::top_k) |
//! | [`Gather`](op::Gather): rows by index | [`gather`](Tensor::gather), [`embed`](Tensor::embed) |
//! | [`Scatter`](op::Scatter): rows to where indices say | [`scatter_from`](Tensor::scatter_from) |
//!
//! # Threads
//!
//! Devices, tensors and registries are `Send + Sync`. Operations on several threads wait for each
//! other only where they write what another uses. Each kernel's results are the same bits from run
//! to run and whatever the number of threads.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `cpu` | yes | the fast CPU kernels; without it the reference backend runs everything |
//! | `safetensors`, `gguf` | yes | model files |
//! | `npy` | yes | NumPy's `.npy` files |
//! | `ndarray` | no | conversions from and to `ndarray` arrays |
//! | `cuda` | no | NVIDIA GPUs: `Device::cuda`; driver and compiler are loaded at run time |
//! | `emulator` | no | GPUs emulated on the CPU: `Device::emulated` |
//! | `testing` | no | strategies, oracles, error bounds, and the conformance suite for kernels |
//!
//! The default build is Rust only: no C compiler, no CUDA toolkit, no network.
#![warn(missing_docs)]

pub mod backend;
pub mod caps;
pub mod device;
pub mod error;
pub mod format;
#[cfg(any(feature = "gguf", feature = "npy", feature = "safetensors"))]
pub mod io;
pub mod memory;
pub mod num;
pub mod op;
pub mod registry;
pub mod tensor;
#[cfg(feature = "testing")]
pub mod testing;

pub use device::Device;
pub use error::{Error, Result};
pub use num::{
    DType, E2M1, E2M1x2, E8M0, Element, F8E4M3, F8E5M2, Float, Scalar, UE4M3, bf16, f16,
};
pub use tensor::{AnyTensor, MatMul, ScaledTensor, Tensor};

/// The README's code, as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
