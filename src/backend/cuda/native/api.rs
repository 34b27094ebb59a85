//! The driver's objects: each call with its result checked, each object ended when dropped.

use std::ffi::{CStr, CString, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

pub(super) use cudarc::driver::sys;

use crate::backend::cuda::attributes::Attributes;
use crate::memory::Refusal;

/// Every function of the driver that is called here: a driver without one of them is too old.
pub(super) const FUNCTIONS: [&str; 44] = [
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetDefaultMemPool",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAllocManaged",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemPoolGetAttribute",
    "cuMemPoolSetAttribute",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// Loads and starts the driver. Nothing else here may be called before this succeeded: what is
/// missing would be a panic then.
pub(super) fn require_driver() -> Result<(), String> {
    // SAFETY: loads NVIDIA's library, whose initialisers have no preconditions.
    if !unsafe { sys::is_culib_present() } {
        let names: Vec<String> = ["cuda", "nvcuda"]
            .iter()
            .flat_map(|name| cudarc::get_lib_name_candidates(name))
            .filter(|name| !name.contains("64_") && !name.ends_with(|c: char| "0298".contains(c)))
            .collect();
        return Err(format!(
            "NVIDIA's driver can not be loaded: none of {} is in the system's library path \
             (LD_LIBRARY_PATH included); install the driver, or use Device::cpu()",
            names.join(", ")
        ));
    }
    // SAFETY: the library is there, as was just asked.
    let library = unsafe { sys::culib() };
    let missing = FUNCTIONS.into_iter().find(|name| {
        // SAFETY: the symbol is looked up, not used.
        unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_err()
    });
    if let Some(missing) = missing {
        return Err(format!(
            "NVIDIA's driver is too old: it has no {missing}; CUDA 11.4 or later is needed"
        ));
    }
    // SAFETY: may be called any number of times, from any thread.
    check("cuInit", unsafe { sys::cuInit(0) })
}

/// What a call gave, as the driver says it.
pub(super) fn check(call: &str, result: sys::CUresult) -> Result<(), String> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let (mut name, mut text) = (std::ptr::null(), std::ptr::null());
    // SAFETY: takes any number, and gives a static text or none.
    unsafe {
        sys::cuGetErrorName(result, &mut name);
        sys::cuGetErrorString(result, &mut text);
    }
    let read = |text: *const std::ffi::c_char| match text.is_null() {
        true => "unknown".to_owned(),
        // SAFETY: not null, and a NUL-terminated static text of the driver.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    };
    Err(format!("{call}: {} ({})", read(text), read(name)))
}

/// What a call gave that is to give memory.
pub(super) fn check_memory(call: &str, result: sys::CUresult) -> Result<(), Refusal> {
    check(call, result).map_err(|words| refusal(result, words))
}

/// Why there is no memory, by a call's result and the driver's words for it.
fn refusal(result: sys::CUresult, words: String) -> Refusal {
    match result {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Refusal::OutOfMemory(words),
        _ => failed(words),
    }
}

/// The refusal of a GPU that does not do what is needed for memory.
pub(super) fn failed(words: String) -> Refusal {
    Refusal::Device(with_remedy(words))
}

/// A driver's words where it should have found nothing wrong, and what to do.
pub(super) fn with_remedy(words: String) -> String {
    format!(
        "{words}; if a kernel failed, which `Device::synchronize` tells, the GPU's context is lost \
         with what is in its memory: drop all that is of this device and make it anew, or restart \
         the process"
    )
}

/// How many GPUs there are.
pub(super) fn device_count() -> Result<usize, String> {
    let mut count = 0;
    // SAFETY: a place for a number.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// The GPU of a number.
pub(super) fn device(index: usize) -> Result<sys::CUdevice, String> {
    let count = device_count()?;
    let number = c_int::try_from(index).ok().filter(|_| index < count);
    let number = number.ok_or_else(|| format!("there are {count} GPUs, counted from 0"))?;
    let mut device = 0;
    // SAFETY: a place for a handle.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, number) })?;
    Ok(device)
}

/// What the driver says of a GPU.
pub(super) fn attributes(device: sys::CUdevice) -> Result<Attributes, String> {
    use sys::CUdevice_attribute as A;
    let get = |attribute: A| -> Result<usize, String> {
        let mut value = 0;
        // SAFETY: a place for a number, and a device that the driver gave.
        let result = unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) };
        check("cuDeviceGetAttribute", result)?;
        Ok(usize::try_from(value).unwrap_or(0))
    };
    let mut name = [0; 256];
    // SAFETY: a place for that many characters.
    let result = unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device) };
    check("cuDeviceGetName", result)?;
    let mut memory = 0;
    // SAFETY: a place for a size.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut memory, device) })?;
    let name: Vec<u8> = name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    Ok(Attributes {
        name: String::from_utf8_lossy(&name).into_owned(),
        capability: (
            get(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
            get(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
        ),
        units: get(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory as u64,
        integrated: get(A::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
        pageable_access: get(A::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS)? != 0,
        host_page_tables: get(A::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES)?
            != 0,
        concurrent_managed: get(A::CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS)? != 0,
        pools: get(A::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0,
    })
}

/// A GPU's primary context.
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: the driver's objects may be used by any thread that has made the context current, which
// every use here does first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks what threads share.
unsafe impl Sync for Context {}

impl Context {
    pub fn retain(device: sys::CUdevice) -> Result<Arc<Self>, String> {
        let mut context = null_mut();
        // SAFETY: a place for a handle, and a device that the driver gave.
        let result = unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) };
        check("cuDevicePrimaryCtxRetain", result)?;
        Ok(Arc::new(Context { device, context }))
    }

    /// Makes it the thread's.
    pub fn bind(&self) -> Result<(), String> {
        // SAFETY: the context is retained as long as `self` lives.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    fn pool(&self) -> Result<sys::CUmemoryPool, String> {
        let mut pool = null_mut();
        // SAFETY: a place for a handle, and a device that the driver gave.
        let result = unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, self.device) };
        check("cuDeviceGetDefaultMemPool", result).map(|()| pool)
    }

    /// Has the pool keep what is freed.
    pub fn keep_freed_memory(&self) -> Result<(), String> {
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let mut threshold = u64::MAX;
        // SAFETY: the attribute is a 64-bit number.
        let result = unsafe {
            sys::cuMemPoolSetAttribute(self.pool()?, attribute, (&raw mut threshold).cast())
        };
        check("cuMemPoolSetAttribute", result)
    }

    /// Free and total bytes of the GPU's memory. What the pool keeps for later is free.
    pub fn free_memory(&self) -> Result<(u64, u64), String> {
        use sys::CUmemPool_attribute as A;
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: places for two sizes.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        let pool = self.pool()?;
        let get = |attribute: A| {
            let mut value = 0u64;
            // SAFETY: both attributes are 64-bit numbers.
            let result =
                unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast()) };
            check("cuMemPoolGetAttribute", result).map(|()| value)
        };
        let kept = get(A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?
            .saturating_sub(get(A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?);
        Ok((free as u64 + kept, total as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once; what was made in it is gone, because it held this.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// A stream of the driver.
pub(super) struct Stream {
    pub context: Arc<Context>,
    pub raw: sys::CUstream,
}

// SAFETY: see `Context`.
unsafe impl Send for Stream {}
// SAFETY: see `Context`.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream that waits for no other by itself.
    pub fn create(context: &Arc<Context>) -> Result<Self, String> {
        context.bind()?;
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        let mut raw = null_mut();
        // SAFETY: a place for a handle; the context is current.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut raw, flags) })?;
        Ok(Stream { context: context.clone(), raw })
    }

    pub fn synchronize(&self) -> Result<(), String> {
        self.context.bind()?;
        // SAFETY: the stream lives.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.raw) })
    }

    /// Memory in the order of the stream.
    pub fn allocate(&self, len: usize) -> Result<u64, Refusal> {
        self.context.bind().map_err(failed)?;
        let mut address = 0;
        // SAFETY: a place for an address; the stream lives.
        let result = unsafe { sys::cuMemAllocAsync(&mut address, len, self.raw) };
        check_memory("cuMemAllocAsync", result).map(|()| address)
    }

    /// Gives memory back in the order of the stream.
    pub fn free(&self, address: u64) {
        // Nothing is left to do where that fails: the context is lost then.
        let _ = self.context.bind().map(|()| {
            // SAFETY: the memory came from `allocate`, is freed once, and its users came before in
            // the stream, or have ended.
            unsafe { sys::cuMemFreeAsync(address, self.raw) }
        });
    }

    pub fn clear(&self, address: u64, len: usize) -> Result<(), String> {
        self.context.bind()?;
        // SAFETY: the range is within memory of the caller's, unused but in this stream.
        let result = unsafe { sys::cuMemsetD8Async(address, 0, len, self.raw) };
        check("cuMemsetD8Async", result)
    }

    /// Copies to the GPU in the order of the stream.
    ///
    /// # Safety
    /// The bytes must live and stay as they are until the copy has ended, and those of a recorded one
    /// as long as its graph: a GPU that reaches the host's pages reads them there when it copies.
    pub unsafe fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), String> {
        self.context.bind()?;
        let (start, len) = (from.as_ptr().cast(), from.len());
        // SAFETY: the caller's promise; the destination is the caller's.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(address, start, len, self.raw) };
        check("cuMemcpyHtoDAsync", result)
    }

    /// Copies a word from the GPU in the order of the stream.
    ///
    /// # Safety
    /// The place must be pinned memory that lives, and is left to the stream, until it is done.
    pub unsafe fn copy_word_out(&self, address: u64, to: *mut u64) -> Result<(), String> {
        self.context.bind()?;
        let (to, len) = (to.cast(), size_of::<u64>());
        // SAFETY: the caller's promise; the source is a word of the caller's.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(to, address, len, self.raw) };
        check("cuMemcpyDtoHAsync", result)
    }

    /// Copies from the GPU, and waits.
    pub fn copy_out(&self, address: u64, to: &mut [u8]) -> Result<(), String> {
        self.context.bind()?;
        let (start, len) = (to.as_mut_ptr().cast(), to.len());
        // SAFETY: both ranges are the caller's, and stay so until the stream was waited for below.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(start, address, len, self.raw) };
        let waited = self.synchronize();
        check("cuMemcpyDtoHAsync", result).and(waited)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Where that fails the context is lost, and nothing runs any more.
        let _ = self.synchronize();
        // SAFETY: created once, destroyed once.
        unsafe { sys::cuStreamDestroy_v2(self.raw) };
    }
}

/// A kernel of a loaded module.
#[derive(Clone, Copy)]
pub(super) struct Function(pub sys::CUfunction);

// SAFETY: see `Context`.
unsafe impl Send for Function {}
// SAFETY: see `Context`.
unsafe impl Sync for Function {}

/// A loaded module.
pub(super) struct Module {
    context: Arc<Context>,
    raw: sys::CUmodule,
}

// SAFETY: see `Context`.
unsafe impl Send for Module {}
// SAFETY: see `Context`.
unsafe impl Sync for Module {}

impl Module {
    /// Loads a cubin, or PTX.
    pub fn load(context: &Arc<Context>, code: &[u8]) -> Result<Self, String> {
        context.bind()?;
        let text = match code.starts_with(b"\x7fELF") {
            true => None,
            false => Some(CString::new(code).map_err(|error| error.to_string())?),
        };
        let (start, mut raw) =
            (text.as_ref().map_or(code.as_ptr(), |text| text.as_ptr().cast()), null_mut());
        // SAFETY: a cubin as the compiler made it, which says its own length, for the cache checks
        // that it is whole; or a NUL-terminated text.
        let result = unsafe { sys::cuModuleLoadData(&mut raw, start.cast()) };
        check("cuModuleLoadData", result)?;
        Ok(Module { context: context.clone(), raw })
    }

    pub fn function(&self, name: &str) -> Result<Function, String> {
        self.context.bind()?;
        let text = CString::new(name).map_err(|e| e.to_string())?;
        let mut function = null_mut();
        // SAFETY: a place for a handle, a live module, a NUL-terminated name.
        let result = unsafe { sys::cuModuleGetFunction(&mut function, self.raw, text.as_ptr()) };
        check("cuModuleGetFunction", result).map_err(|error| format!("`{name}`: {error}"))?;
        Ok(Function(function))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.context.bind().map(|()| {
            // SAFETY: loaded once, unloaded once, when no queue that launches from it is left.
            unsafe { sys::cuModuleUnload(self.raw) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_driver_calls_out_of_memory_is_that() {
        use sys::CUresult as R;
        let full = refusal(R::CUDA_ERROR_OUT_OF_MEMORY, "full".to_owned());
        assert_eq!(full, Refusal::OutOfMemory("full".to_owned()));
        for result in [R::CUDA_ERROR_ILLEGAL_ADDRESS, R::CUDA_ERROR_LAUNCH_FAILED] {
            match refusal(result, "the driver's words".to_owned()) {
                Refusal::Device(problem) => {
                    assert!(problem.starts_with("the driver's words; "), "{problem}");
                    assert!(problem.contains("restart"), "{problem}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
