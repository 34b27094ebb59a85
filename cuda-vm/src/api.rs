//! The driver's functions, by their C names.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::without_provenance_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::code::{Code, Result};
use crate::gpu::Gpu;
use crate::work::Step;

/// The GPU, once the driver was started.
static GPU: Mutex<Option<Gpu>> = Mutex::new(None);

thread_local! {
    /// The thread's context.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The primary context, and the pool: there is one of each.
const CONTEXT: usize = 0x10;
const POOL: usize = 0x20;

/// Any handle or pointer of C's.
type Handle = *mut c_void;

fn gpu() -> MutexGuard<'static, Option<Gpu>> {
    GPU.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does it on a driver that was started.
fn started(f: impl FnOnce(&mut Gpu) -> Result<()>) -> c_int {
    match gpu().as_mut() {
        Some(gpu) => f(gpu).err().unwrap_or(Code::SUCCESS).0,
        None => Code::NOT_INITIALIZED.0,
    }
}

/// Does it in the thread's context.
fn current(f: impl FnOnce(&mut Gpu) -> Result<()>) -> c_int {
    started(|gpu| {
        if CURRENT.get() != CONTEXT {
            return gpu.refuse(Code::INVALID_CONTEXT, "a thread without a context");
        }
        gpu.check()?;
        f(gpu)
    })
}

/// Enqueues it, and lets the GPU go on or not.
fn enqueue(f: impl FnOnce(&mut Gpu) -> Result<()>) -> c_int {
    current(|gpu| {
        f(gpu)?;
        gpu.go_on()
    })
}

/// Leaves a result where the caller wants it.
fn give<T>(to: *mut T, value: T) -> Result<()> {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: C's callers give a place for what the function leaves.
    unsafe { to.write(value) };
    Ok(())
}

fn handle(number: usize) -> Handle {
    without_provenance_mut(number)
}

/// Functions of C.
macro_rules! functions {
    ($($name:ident($($parameter:ident: $type:ty),*) $body:expr;)*) => {$(
        #[allow(non_snake_case)]
        #[unsafe(no_mangle)]
        extern "C" fn $name($($parameter: $type),*) -> c_int {
            $body
        }
    )*};
}

functions! {
    cuInit(_flags: c_uint) {
        gpu().get_or_insert_with(Gpu::new);
        Code::SUCCESS.0
    };

    cuGetErrorName(code: c_int, name: *mut *const c_char) {
        text(name, Code(code).texts().map(|texts| texts.0))
    };
    cuGetErrorString(code: c_int, string: *mut *const c_char) {
        text(string, Code(code).texts().map(|texts| texts.1))
    };

    cuDeviceGetCount(count: *mut c_int) started(|_| give(count, 1));
    cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        started(|_| if ordinal == 0 { give(device, 0) } else { Err(Code::INVALID_DEVICE) })
    };
    cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) {
        started(|_| {
            for (i, &c) in c"cuda-vm".to_bytes_with_nul().iter().enumerate().take(len.max(0) as usize) {
                // SAFETY: C's caller gives a place for so many characters.
                unsafe { name.add(i).write(c as c_char) };
            }
            Ok(())
        })
    };
    cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) {
        started(|gpu| give(bytes, gpu.memory as usize))
    };
    cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) {
        started(|gpu| give(value, match attribute {
            16 => 4,                              // multiprocessors
            75 => gpu.capability.0,
            76 => gpu.capability.1,
            89 | 115 => 1,                        // concurrent managed access, memory pools
            _ => 0,
        }))
    };
    cuDeviceGetDefaultMemPool(pool: *mut Handle, _device: c_int) {
        started(|_| give(pool, handle(POOL)))
    };
    cuMemPoolSetAttribute(pool: Handle, _attribute: c_int, _value: Handle) {
        started(|_| if pool.addr() == POOL { Ok(()) } else { Err(Code::INVALID_HANDLE) })
    };
    cuMemPoolGetAttribute(_pool: Handle, _attribute: c_int, value: *mut u64) {
        started(|gpu| give(value, gpu.used))
    };
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        current(|gpu| {
            give(free, (gpu.memory - gpu.used) as usize)?;
            give(total, gpu.memory as usize)
        })
    };

    cuDevicePrimaryCtxRetain(context: *mut Handle, _device: c_int) {
        started(|_| give(context, handle(CONTEXT)))
    };
    cuDevicePrimaryCtxRelease_v2(_device: c_int) started(|_| Ok(()));
    cuCtxSetCurrent(context: Handle) {
        CURRENT.set(context.addr());
        Code::SUCCESS.0
    };

    cuStreamCreate(stream: *mut Handle, _flags: c_uint) {
        current(|gpu| {
            let number = gpu.handle();
            gpu.streams.add(number);
            give(stream, handle(number))
        })
    };
    cuStreamDestroy_v2(stream: Handle) {
        current(|gpu| {
            gpu.need_stream(stream.addr())?;
            gpu.run_until(|gpu| gpu.streams.is_empty(stream.addr()))?;
            gpu.streams.remove(stream.addr());
            Ok(())
        })
    };
    cuStreamSynchronize(stream: Handle) {
        current(|gpu| {
            gpu.need_no_capture(stream.addr())?;
            gpu.run_until(|gpu| gpu.streams.is_empty(stream.addr()))
        })
    };
    cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) {
        enqueue(|gpu| gpu.wait_event(stream.addr(), event.addr()))
    };
    cuStreamBeginCapture_v2(stream: Handle, _mode: c_int) {
        current(|gpu| {
            gpu.need_no_capture(stream.addr())?;
            gpu.streams.begin_capture(stream.addr());
            Ok(())
        })
    };
    cuStreamEndCapture(stream: Handle, graph: *mut Handle) {
        current(|gpu| {
            let steps = gpu.streams.end_capture(stream.addr()).ok_or(Code::INVALID_VALUE)?;
            let number = gpu.add_graph(steps);
            give(graph, handle(number))
        })
    };

    cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, _flags: u64) {
        current(|gpu| {
            let steps = gpu.graph(graph.addr())?.to_vec();
            let number = gpu.add_graph(steps);
            give(executable, handle(number))
        })
    };
    cuGraphDestroy(graph: Handle) current(|gpu| gpu.destroy_graph(graph.addr()));
    cuGraphExecDestroy(graph: Handle) current(|gpu| gpu.destroy_graph(graph.addr()));
    cuGraphLaunch(graph: Handle, stream: Handle) {
        enqueue(|gpu| gpu.launch_graph(graph.addr(), stream.addr()))
    };

    cuEventCreate(event: *mut Handle, _flags: c_uint) {
        current(|gpu| {
            let number = gpu.create_event();
            give(event, handle(number))
        })
    };
    cuEventDestroy_v2(event: Handle) current(|gpu| gpu.destroy_event(event.addr()));
    cuEventRecord(event: Handle, stream: Handle) {
        enqueue(|gpu| gpu.record(event.addr(), stream.addr()))
    };
    cuEventQuery(event: Handle) {
        current(|gpu| {
            // Who asks again and again is to hear that it is done some time.
            gpu.step()?;
            if gpu.is_recorded(event.addr())? { Ok(()) } else { Err(Code::NOT_READY) }
        })
    };
    cuEventSynchronize(event: Handle) {
        current(|gpu| {
            gpu.is_recorded(event.addr())?;
            gpu.run_until(|gpu| gpu.is_recorded(event.addr()) != Ok(false))
        })
    };

    cuMemAllocAsync(address: *mut u64, len: usize, stream: Handle) {
        enqueue(|gpu| {
            let given = gpu.allocate(len as u64, stream.addr())?;
            give(address, given)
        })
    };
    cuMemFreeAsync(address: u64, stream: Handle) {
        enqueue(|gpu| gpu.free(address, stream.addr()))
    };
    cuMemAllocManaged(address: *mut u64, len: usize, _flags: c_uint) {
        current(|gpu| {
            let given = gpu.allocate_host(len as u64)?;
            give(address, given)
        })
    };
    cuMemFree_v2(address: u64) current(|gpu| gpu.free_host(address));
    cuMemHostAlloc(start: *mut Handle, len: usize, _flags: c_uint) {
        current(|gpu| {
            let given = gpu.allocate_host(len as u64)?;
            give(start, std::ptr::with_exposed_provenance_mut(given as usize))
        })
    };
    cuMemFreeHost(start: Handle) current(|gpu| gpu.free_host(start.addr() as u64));
    cuMemsetD8Async(address: u64, byte: u8, len: usize, stream: Handle) {
        enqueue(|gpu| {
            gpu.need_stream(stream.addr())?;
            gpu.streams.push(stream.addr(), Step::Fill { address, byte, len });
            Ok(())
        })
    };
    cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, len: usize, stream: Handle) {
        enqueue(|gpu| {
            gpu.need_stream(stream.addr())?;
            // SAFETY: C's caller gives so many bytes.
            let now = || unsafe { std::slice::from_raw_parts(from, len) };
            // Those of a graph may be others each time.
            let before = (!gpu.streams.is_capturing(stream.addr())).then(|| now().into());
            let from = from.expose_provenance() as u64;
            gpu.streams.push(stream.addr(), Step::CopyIn { to, from, len, before });
            Ok(())
        })
    };
    cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, len: usize, stream: Handle) {
        enqueue(|gpu| {
            gpu.need_stream(stream.addr())?;
            let to = to.expose_provenance() as u64;
            gpu.streams.push(stream.addr(), Step::CopyOut { to, from, len });
            Ok(())
        })
    };

    cuModuleLoadData(module: *mut Handle, image: *const c_char) {
        current(|gpu| {
            // SAFETY: C's caller gives machine code, which begins so, or text that ends in NUL.
            let text = unsafe { CStr::from_ptr(image) }.to_bytes();
            if text.starts_with(b"\x7fELF") {
                return Err(Code::NO_BINARY_FOR_GPU);
            }
            let text = std::str::from_utf8(text).map_err(|_| Code::INVALID_PTX)?;
            let number = gpu.load(text)?;
            give(module, handle(number))
        })
    };
    cuModuleUnload(module: Handle) current(|gpu| gpu.unload(module.addr()));
    cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) {
        current(|gpu| {
            // SAFETY: C's caller gives a text that ends in NUL.
            let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
            let number = gpu.function(module.addr(), &name)?;
            give(function, handle(number))
        })
    };
    cuFuncSetAttribute(function: Handle, attribute: c_int, value: c_int) {
        current(|gpu| match attribute {
            8 => gpu.allow_shared(function.addr(), value.max(0) as u32),
            _ => Err(Code::INVALID_VALUE),
        })
    };
    cuLaunchKernel(
        function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared: c_uint, stream: Handle, parameters: *mut Handle, extra: *mut Handle
    ) {
        enqueue(|gpu| {
            if !parameters.is_null() {
                return gpu.refuse(Code::INVALID_VALUE, "parameters are taken as one block of bytes");
            }
            let parameter = parameter_block(extra).ok_or(Code::INVALID_VALUE)?;
            let sizes = [[grid_x, grid_y, grid_z], [block_x, block_y, block_z]];
            gpu.launch(function.addr(), sizes, shared, parameter, stream.addr())
        })
    };
}

fn text(to: *mut *const c_char, text: Option<&'static CStr>) -> c_int {
    let found = text.map_or(std::ptr::null(), CStr::as_ptr);
    let given = give(to, found).and(text.map(drop).ok_or(Code::INVALID_VALUE));
    given.err().unwrap_or(Code::SUCCESS).0
}

/// `CU_LAUNCH_PARAM_BUFFER_POINTER`, the bytes, `…_BUFFER_SIZE`, their number, `CU_LAUNCH_PARAM_END`.
fn parameter_block(extra: *mut Handle) -> Option<Vec<u8>> {
    if extra.is_null() {
        return None;
    }
    // SAFETY: C's caller gives a list of that form, of which no entry is read beyond its end.
    unsafe {
        let is = |i: usize, number: usize| (*extra.add(i)).addr() == number;
        if !(is(0, 1) && is(2, 2) && is(4, 0)) {
            return None;
        }
        let (bytes, len) = ((*extra.add(1)).cast::<u8>(), *(*extra.add(3)).cast::<usize>());
        Some(std::slice::from_raw_parts(bytes, len).to_vec())
    }
}
