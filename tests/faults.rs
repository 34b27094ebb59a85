//! Faults: memory that is refused, files that can not be read, threads that come and go. What
//! fails leaves nothing behind, and the same call works afterwards.
#![cfg(all(feature = "safetensors", feature = "gguf", feature = "cpu"))]

#[path = "common/folder.rs"]
#[allow(dead_code)]
mod folder;
#[path = "common/gguf_file.rs"]
mod gguf_file;
#[path = "common/ops.rs"]
mod ops;
#[path = "common/safetensors_file.rs"]
mod safetensors_file;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferrocerium::format::{Format, Mxfp4, Nvfp4, Quantizer, ScaleLayout};
use ferrocerium::io::safetensors::{Naming, save};
use ferrocerium::io::{Loader, Target, Weights};
use ferrocerium::memory::SourceFile;
use ferrocerium::op::{RopeFrequencies, RopeScaling, RopeStyle};
use ferrocerium::{AnyTensor, DType, Device, Error, Result, Tensor, bf16};
use folder::Folder;
use gguf_file::GgufFile;
use ops::numbers;
use safetensors_file::{Tensor as Part, file};

/// Allocations from this size on can be made to fail. Below it are names, lists and messages, for
/// which Rust itself ends the process.
const LARGE: usize = 32 << 10;

/// An allocator that refuses one large allocation when it is told to.
struct Failing;

/// Large allocations to go until one is refused; negative when none will be.
static COUNTDOWN: AtomicI64 = AtomicI64::new(-1);
static REFUSED: AtomicBool = AtomicBool::new(false);

fn refuses(size: usize) -> bool {
    if size < LARGE || COUNTDOWN.load(Ordering::SeqCst) < 0 {
        return false;
    }
    let refused = COUNTDOWN.fetch_sub(1, Ordering::SeqCst) == 0;
    REFUSED.fetch_or(refused, Ordering::SeqCst);
    refused
}

// SAFETY: everything is the system allocator's, or null, which an allocator may always return.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        if refuses(layout.size()) { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's layout.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's pointer, which came from the system allocator.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// The allocator is one for all tests, so they take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `call` with its first large allocation refused, then its second, and so on until it has
/// no more; every failure must be an error value and leave the device's memory as it was. Each time
/// it runs on a new thread, for threads keep working memory.
#[track_caller]
fn fails_cleanly<T>(what: &str, device: &Device, call: impl Fn() -> Result<T> + Sync) {
    let used = device.memory().used;
    let call = || {
        std::thread::scope(|scope| {
            let outcome = scope.spawn(|| call().map(drop)).join();
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    };
    for n in 0.. {
        assert!(n < 1000, "{what}: it never succeeds");
        REFUSED.store(false, Ordering::SeqCst);
        COUNTDOWN.store(n, Ordering::SeqCst);
        let result = call();
        COUNTDOWN.store(-1, Ordering::SeqCst);
        let refused = REFUSED.load(Ordering::SeqCst);
        match result {
            Ok(_) => assert!(!refused, "{what}: allocation {n} failed and nobody noticed"),
            Err(Error::OutOfMemory { .. } | Error::Device { .. }) if refused => {}
            Err(error) => panic!("{what}: allocation {n}, refused: {refused}: {error}"),
        }
        assert_eq!(device.memory().used, used, "{what}: allocation {n} left memory behind");
        assert!(call().is_ok(), "{what}: broken after allocation {n} failed");
        if !refused {
            assert!(n > 0, "{what} allocates nothing large: nothing was tested");
            return;
        }
    }
}

fn device() -> Device {
    Device::builder().threads(2).cpu().unwrap()
}

#[test]
fn tensors_fail_cleanly_at_every_allocation() {
    let _turn = alone();
    let device = device();
    let values = numbers(128 * 256, 1);
    let x = Tensor::from_host(&device, [128, 256], &values).unwrap();
    let any = AnyTensor::from(x.clone());
    let scaled = x.quantize::<Nvfp4>().unwrap();
    fails_cleanly("zeros", &device, || Tensor::<f32, 2>::zeros(&device, [128, 256]));
    fails_cleanly("from_host", &device, || Tensor::from_host(&device, [128, 256], &values));
    fails_cleanly("full", &device, || Tensor::full(&device, [128, 256], 1.0f32));
    fails_cleanly("scale layout", &device, || {
        // Scales alone are small: a larger tensor of zeros.
        let wide = ferrocerium::ScaledTensor::<Nvfp4, 2>::zeros(&device, [1024, 1024])?;
        wide.with_scale_layout(ScaleLayout::Tiled128x4)
    });
    fails_cleanly("from_buffer", &device, || {
        let buffer = device.allocate(1 << 20, "buffer")?;
        AnyTensor::from_buffer(&device, DType::F32, &[512, 512], buffer, 0)
    });
    drop((any, scaled));
}

#[test]
fn kernels_fail_cleanly_where_their_working_memory_is_refused() {
    let _turn = alone();
    let device = device();
    let x = ops::tensor::<f32, 4>(&device, [1, 256, 4, 128], 1);
    let frequencies = RopeFrequencies::new(1e4, 128, &RopeScaling::None).unwrap();
    fails_cleanly("rope", &device, || x.rope(&frequencies, RopeStyle::HalfSplit, 0));
    fails_cleanly("attention", &device, || x.attention(&x, &x).causal().run::<f32>());
    // Helpers keep the working memory of the calls before, and may compute all of a small one.
    let single = Device::builder().threads(1).cpu().unwrap();
    let x = ops::tensor::<f32, 4>(&single, [1, 256, 4, 128], 1);
    let one = x.slice(1, 255..256).unwrap();
    fails_cleanly("attention of one", &single, || one.attention(&x, &x).causal().run::<f32>());
    let matrix = ops::tensor::<f32, 2>(&device, [128, 1024], 2);
    let codes = matrix.quantize::<Nvfp4>().unwrap();
    fails_cleanly("dequantize", &device, || codes.dequantize::<f32>());

    // Lines, and rows of them, that each take a large allocation.
    let wide = ops::tensor::<bf16, 2>(&device, [4, 16384], 3);
    let narrow = wide.quantize::<Nvfp4>().unwrap();
    let weight = Tensor::full(&device, [16384], bf16::ONE).unwrap();
    fails_cleanly("rms norm", &device, || wide.rms_norm(&weight, 1e-5));
    fails_cleanly("softmax", &device, || wide.softmax());
    fails_cleanly("silu", &device, || wide.silu());
    fails_cleanly("quantize lines", &device, || wide.quantize::<Nvfp4>());
    fails_cleanly("largest of lines", &device, || wide.top_k(5000));
    fails_cleanly("product", &device, || wide.gemm(&wide.t()).run::<f32>());
    fails_cleanly("product with codes", &device, || wide.gemm(&narrow.t()).run::<f32>());
    fails_cleanly("product of one row", &device, || {
        wide.slice(0, 0..1)?.gemm(&narrow.t()).run::<f32>()
    });
    // Many short lines: what is listed a line is large then.
    let tall = ops::tensor::<bf16, 2>(&device, [20000, 16], 4);
    let strided = tall.t();
    fails_cleanly("sum of short lines", &device, || tall.sum::<1>(&[1]));
    fails_cleanly("index of the largest", &device, || tall.argmax::<u32, 1>(1));
    fails_cleanly("cast of a view", &device, || strided.cast::<f32>());
    fails_cleanly("product of short rows", &device, || {
        tall.gemm(&tall.slice(0, 0..8)?.t()).run::<f32>()
    });
}

/// A model with every way of storing and loading in it.
fn model(folder: &Folder) -> std::path::PathBuf {
    let wide = bytes_of(&numbers(256 * 1024, 2));
    let codes: Vec<u8> = (0..512 * 256).map(|i| (i % 0x70) as u8).collect();
    let scales = vec![0x38; 512 * 32];
    let f32s: Vec<u8> = numbers(16384, 3).iter().flat_map(|x| x.abs().to_ne_bytes()).collect();
    let parts: [Part<'_>; 6] = [
        ("a.weight", "BF16", &[256, 1024], &wide),
        ("n.weight", "U8", &[512, 256], &codes),
        ("n.weight_scale", "F8_E4M3", &[512, 32], &scales),
        ("n.weight_scale_2", "F32", &[], &1f32.to_le_bytes()),
        ("r.weight", "F8_E4M3", &[16384, 8], &codes),
        ("r.weight_scale", "F32", &[16384, 1], &f32s),
    ];
    folder.write("model.safetensors", file(&parts))
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
}

#[test]
fn loading_fails_cleanly_at_every_allocation() {
    let _turn = alone();
    let device = device();
    let folder = Folder::new("faults-load");
    let path = model(&folder);
    let q8: Vec<u8> = (0..4096).flat_map(|i| [&[0, 0x30][..], &[i as u8; 32]].concat()).collect();
    let fp4 = vec![0x21; 17 * 4096];
    let gguf =
        GgufFile::default().tensor("q", &[256, 512], 8, &q8).tensor("m", &[256, 512], 39, &fp4);
    let gguf = folder.write("model.gguf", gguf.bytes());
    let targets = [
        Target::Keep,
        Target::Elements(DType::F16),
        Target::Blocks(Format::Nvfp4, Quantizer::Amax),
        Target::Blocks(Format::Mxfp4, Quantizer::Ocp),
        Target::Blocks(Format::Fp8TensorE4M3, Quantizer::Amax),
    ];
    for path in [&path, &gguf] {
        for target in targets {
            fails_cleanly(&format!("load {target:?}"), &device, || {
                let plan = Loader::open(&device, path)?.in_place(false).plan(|_| target)?;
                plan.load(|_| ControlFlow::Continue(()))
            });
        }
    }
    let weights = Weights::open(&device, &path).unwrap();
    fails_cleanly("decode", &device, || weights.decode::<f32, 2>("a.weight"));
    fails_cleanly("decode scaled", &device, || weights.decode::<bf16, 2>("n.weight"));
    fails_cleanly("copy", &device, || weights.copy::<bf16, 2>("a.weight"));
    fails_cleanly("to_f32", &device, || weights.to_f32("a.weight"));
    let weights = Weights::open(&device, &gguf).unwrap();
    fails_cleanly("repack", &device, || weights.repack::<Mxfp4, 2>("m"));
}

#[test]
fn a_file_that_can_not_be_read_is_an_error_of_the_system() {
    let _turn = alone();
    // The process's own memory: regular by name, and nothing is mapped at its beginning.
    if let Ok(source) = SourceFile::open("/proc/self/mem") {
        let error = source.read_at(0, &mut [0; 8]).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains("/proc/self/mem"), "{error}");
    }
    let folder = Folder::new("faults-kinds");
    for path in [folder.path(), std::path::Path::new("/dev/zero")] {
        let error = SourceFile::open(path).unwrap_err();
        assert!(matches!(error, Error::File { .. } | Error::Io { .. }), "{error}");
    }
    let path = folder.write("short", [1, 2, 3]);
    let source = SourceFile::open(&path).unwrap();
    assert!(matches!(source.read_at(2, &mut [0; 2]), Err(Error::File { .. })));
    assert!(source.read_at(u64::MAX - 1, &mut [0; 2]).is_err());
    source.will_read(0..u64::MAX);
    source.will_not_read(3..3);
}

#[test]
fn buffers_may_be_dropped_while_kernels_of_many_threads_use_them() {
    let _turn = alone();
    let device = device();
    let a = ops::tensor::<f32, 2>(&device, [96, 256], 1);
    let b = ops::tensor::<f32, 2>(&device, [256, 64], 2);
    let expected = a.matmul(&b).unwrap().to_vec().unwrap();
    let used = device.memory().used;
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..40 {
                    let (mine, too) = (a.copy().unwrap(), b.copy().unwrap());
                    let running = [(mine.clone(), too.clone()), (mine, too)].map(|(a, b)| {
                        // The thread's are the last handles: its operation outlives no other.
                        std::thread::spawn(move || {
                            let view = a.slice(0, 0..96).unwrap();
                            drop(a);
                            view.matmul(&b)
                        })
                    });
                    for product in running {
                        let product = product.join().unwrap().unwrap();
                        assert_eq!(product.to_vec().unwrap(), expected);
                    }
                }
            });
        }
    });
    assert_eq!(device.memory().used, used, "something was left");
}

#[cfg(unix)]
#[test]
fn a_device_that_is_full_is_an_error_of_the_system() {
    let _turn = alone();
    let x: AnyTensor = Tensor::full(&device(), [64], 1.0f32).unwrap().into();
    // /dev/full takes no byte; nor can its folder be written to by most.
    let error = save("/proc/m.safetensors", [("x", &x)], Naming::ModelOpt).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn threads_share_a_device_while_buffers_drop_and_loads_are_cancelled() {
    let _turn = alone();
    let device = Device::builder().threads(2).memory_limit(64 << 20).cpu().unwrap();
    let folder = Folder::new("faults-threads");
    let path = model(&folder);
    let a = ops::tensor::<f32, 2>(&device, [64, 128], 1);
    let b = ops::tensor::<f32, 2>(&device, [128, 32], 2);
    let expected = a.matmul(&b).unwrap().to_vec().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (device, path, a, b, expected) = (&device, &path, &a, &b, &expected);
            scope.spawn(move || {
                for round in 0..30 {
                    let product = a.matmul(b).unwrap();
                    let view = product.clone();
                    drop(product);
                    assert_eq!(&view.to_vec().unwrap(), expected);
                    // More than is left when all threads do it: some are refused.
                    let held = Tensor::<u8, 1>::zeros(device, [12 << 20]);
                    assert!(matches!(held, Ok(_) | Err(Error::OutOfMemory { .. })));
                    drop(held);
                    let target = Target::Blocks(Format::Nvfp4, Quantizer::Amax);
                    let loader = Loader::open(device, path).unwrap().in_place(false);
                    let mut reports = 0;
                    let loaded = loader.plan(|_| target).unwrap().load(|_| {
                        reports += 1;
                        let stop = reports > (thread + round) % 12;
                        if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    });
                    let fine = matches!(
                        loaded,
                        Ok(_) | Err(Error::Cancelled { .. } | Error::OutOfMemory { .. })
                    );
                    assert!(fine, "{loaded:?}");
                }
            });
        }
    });
    let held = a.region().len() + b.region().len();
    assert_eq!(device.memory().used, held as u64);
    assert!(device.memory().peak <= 64 << 20);
}
