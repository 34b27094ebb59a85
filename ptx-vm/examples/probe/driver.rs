//! The CUDA driver, loaded at run time: just enough to run one kernel on one block.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

use libloading::Library;

type Status = c_int;
type Handle = *mut c_void;
type DevicePtr = u64;

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];
/// `CU_JIT_ERROR_LOG_BUFFER` and `_SIZE_BYTES`.
const ERROR_LOG: [c_uint; 2] = [5, 6];

/// An argument of a kernel.
pub enum Arg {
    Buffer(Vec<u8>),
    U64(u64),
    U32(u32),
}

macro_rules! functions {
    ($($field:ident: $name:literal ($($arg:ty),*);)*) => {
        struct Functions { $($field: unsafe extern "C" fn($($arg),*) -> Status,)* }

        impl Functions {
            fn load(library: &Library) -> Result<Functions, String> {
                // SAFETY: the types are those of cuda.h for the functions of these names.
                unsafe {
                    Ok(Functions { $($field: *library
                        .get(concat!($name, "\0").as_bytes())
                        .map_err(|e| e.to_string())?,)* })
                }
            }
        }
    };
}

functions! {
    init: "cuInit" (c_uint);
    version: "cuDriverGetVersion" (*mut c_int);
    device: "cuDeviceGet" (*mut c_int, c_int);
    name: "cuDeviceGetName" (*mut c_char, c_int, c_int);
    attribute: "cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
    retain: "cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
    set_current: "cuCtxSetCurrent" (Handle);
    synchronize: "cuCtxSynchronize" ();
    load: "cuModuleLoadDataEx" (*mut Handle, *const c_void, c_uint, *mut c_uint, *mut *mut c_void);
    unload: "cuModuleUnload" (Handle);
    function: "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    alloc: "cuMemAlloc_v2" (*mut DevicePtr, usize);
    free: "cuMemFree_v2" (DevicePtr);
    to_device: "cuMemcpyHtoD_v2" (DevicePtr, *const c_void, usize);
    to_host: "cuMemcpyDtoH_v2" (*mut c_void, DevicePtr, usize);
    launch: "cuLaunchKernel" (
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle,
        *mut *mut c_void, *mut *mut c_void
    );
    error_name: "cuGetErrorName" (Status, *mut *const c_char);
}

/// The first GPU.
pub struct Gpu {
    f: Functions,
    pub name: String,
    pub driver: i32,
    /// `sm_121a` and the like: with everything that this very architecture has.
    pub target: String,
    _library: Library,
}

impl Gpu {
    /// Opens the first GPU, or says why there is none.
    pub fn open() -> Result<Gpu, String> {
        let library = ["libcuda.so.1", "nvcuda.dll"].iter().find_map(|name| {
            // SAFETY: the driver's initialisers have no preconditions.
            unsafe { Library::new(name) }.ok()
        });
        let library = library.ok_or("the CUDA driver (libcuda.so.1) is not there")?;
        let f = Functions::load(&library)?;
        let (mut device, mut driver, mut context) = (0, 0, std::ptr::null_mut());
        let mut name = [0u8; 256];
        let mut capability = [0; 2];
        // SAFETY: every pointer is to a live place of the type that cuda.h asks for, and the
        // calls come in the order that it prescribes.
        unsafe {
            f.check("cuInit", (f.init)(0))?;
            f.check("cuDriverGetVersion", (f.version)(&mut driver))?;
            f.check("cuDeviceGet", (f.device)(&mut device, 0))?;
            f.check("cuDeviceGetName", (f.name)(name.as_mut_ptr().cast(), 255, device))?;
            for (value, which) in capability.iter_mut().zip(CAPABILITY) {
                f.check("cuDeviceGetAttribute", (f.attribute)(value, which, device))?;
            }
            f.check("cuDevicePrimaryCtxRetain", (f.retain)(&mut context, device))?;
            f.check("cuCtxSetCurrent", (f.set_current)(context))?;
        }
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        let number = capability[0] * 10 + capability[1];
        let suffix = if number >= 90 { "a" } else { "" };
        Ok(Gpu {
            name: name.to_string_lossy().into_owned(),
            driver,
            target: format!("sm_{number}{suffix}"),
            f,
            _library: library,
        })
    }

    /// Runs the kernel `k` of a module on one block; gives back the contents of a buffer.
    pub fn run(
        &self,
        ptx: &str,
        args: &[Arg],
        threads: u32,
        out: usize,
    ) -> Result<Vec<u8>, String> {
        let f = &self.f;
        let text = CString::new(ptx).map_err(|e| e.to_string())?;
        let mut log = vec![0u8; 4096];
        let mut keys = ERROR_LOG;
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let (mut module, mut kernel) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the text ends in NUL, the log and its size outlive the call.
        let loaded = unsafe {
            (f.load)(&mut module, text.as_ptr().cast(), 2, keys.as_mut_ptr(), values.as_mut_ptr())
        };
        f.check("cuModuleLoadDataEx", loaded).map_err(|e| {
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
            format!("{e}: {}", log.to_string_lossy().trim())
        })?;
        let mut pointers: Vec<DevicePtr> = Vec::new();
        let result = (|| {
            // SAFETY: the module was loaded above.
            f.check("cuModuleGetFunction", unsafe {
                (f.function)(&mut kernel, module, c"k".as_ptr())
            })?;
            let mut words = Vec::new();
            for arg in args {
                words.push(match arg {
                    Arg::Buffer(data) => {
                        let mut p = 0;
                        // SAFETY: `p` is a place for the address; the copy reads `data`.
                        unsafe {
                            f.check("cuMemAlloc", (f.alloc)(&mut p, data.len().max(1)))?;
                            pointers.push(p);
                            let from = data.as_ptr().cast();
                            f.check("cuMemcpyHtoD", (f.to_device)(p, from, data.len()))?;
                        }
                        p
                    }
                    Arg::U64(v) => *v,
                    Arg::U32(v) => u64::from(*v),
                });
            }
            // Little-endian: the first bytes of a word are its 32-bit value.
            let mut places: Vec<*mut c_void> =
                words.iter_mut().map(|w| std::ptr::from_mut(w).cast()).collect();
            let Some(Arg::Buffer(data)) = args.get(out) else {
                return Err("the output is no buffer".into());
            };
            let mut result = vec![0u8; data.len()];
            // SAFETY: there is a place for each of the kernel's parameters, at least as
            // large; the copy back fills `result`, whose size is the allocation's.
            unsafe {
                let (none, extra) = (std::ptr::null_mut(), std::ptr::null_mut());
                let args = places.as_mut_ptr();
                let launched = (f.launch)(kernel, 1, 1, 1, threads, 1, 1, 0, none, args, extra);
                f.check("cuLaunchKernel", launched)?;
                f.check("cuCtxSynchronize", (f.synchronize)())?;
                let to = result.as_mut_ptr().cast();
                f.check("cuMemcpyDtoH", (f.to_host)(to, words[out], result.len()))?;
            }
            Ok(result)
        })();
        // SAFETY: each was allocated above and is given back once; so is the module.
        unsafe {
            for p in pointers {
                (f.free)(p);
            }
            (f.unload)(module);
        }
        result
    }
}

impl Functions {
    fn check(&self, call: &str, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: `name` is a place for a pointer to a text that lives as long as the driver.
        let name = unsafe {
            match (self.error_name)(status, &mut name) {
                0 if !name.is_null() => CStr::from_ptr(name).to_string_lossy().into_owned(),
                _ => format!("error {status}"),
            }
        };
        Err(format!("{call}: {name}"))
    }
}
