//! NVRTC, loaded at run time: CUDA C++ to PTX without a toolkit or a GPU.
//!
//! The library is looked for in `$FERROCERIUM_NVRTC_DIR`, then where `cargo xtask cuda` puts
//! it. Without it, tests that need it say so and pass; with `CI=true` they fail.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

type Program = *mut c_void;
type CreateFn = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type CompileFn = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type SizeFn = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type TextFn = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type DestroyFn = unsafe extern "C" fn(*mut Program) -> c_int;

/// The folder with `libnvrtc.so.13`.
fn folder() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|h| h.join(".cache")));
    let candidates = [
        std::env::var_os("FERROCERIUM_NVRTC_DIR").map(PathBuf::from),
        cache.map(|c| c.join("ferrocerium/cuda/13.0/lib")),
    ];
    candidates.into_iter().flatten().find(|d| d.join("libnvrtc.so.13").exists())
}

struct Nvrtc {
    create: CreateFn,
    compile: CompileFn,
    log_size: SizeFn,
    log: TextFn,
    ptx_size: SizeFn,
    ptx: TextFn,
    destroy: DestroyFn,
    include: PathBuf,
    _builtins: Library,
    _library: Library,
}

fn load() -> Option<Nvrtc> {
    let dir = folder()?;
    // SAFETY: these are NVIDIA's libraries; their initialisers have no preconditions. The
    // builtins go first and globally, because NVRTC looks for them by name only.
    let (builtins, library) = unsafe {
        (
            Library::open(Some(dir.join("libnvrtc-builtins.so.13.0")), RTLD_NOW | RTLD_GLOBAL)
                .ok()?,
            Library::open(Some(dir.join("libnvrtc.so.13")), RTLD_NOW).ok()?,
        )
    };
    // SAFETY: the types are those of nvrtc.h 13.0; the library is kept beside them.
    unsafe {
        Some(Nvrtc {
            create: *library.get(b"nvrtcCreateProgram").ok()?,
            compile: *library.get(b"nvrtcCompileProgram").ok()?,
            log_size: *library.get(b"nvrtcGetProgramLogSize").ok()?,
            log: *library.get(b"nvrtcGetProgramLog").ok()?,
            ptx_size: *library.get(b"nvrtcGetPTXSize").ok()?,
            ptx: *library.get(b"nvrtcGetPTX").ok()?,
            destroy: *library.get(b"nvrtcDestroyProgram").ok()?,
            include: dir.parent()?.join("include"),
            _builtins: builtins,
            _library: library,
        })
    }
}

/// The text that a pair of size and copy functions gives.
fn text(program: Program, size: SizeFn, copy: TextFn) -> String {
    let mut n = 0usize;
    // SAFETY: `program` is live and `n` is a place for the size.
    unsafe { size(program, &mut n) };
    let mut buffer = vec![0u8; n.max(1)];
    // SAFETY: the buffer has the size that was asked for.
    unsafe { copy(program, buffer.as_mut_ptr().cast()) };
    while buffer.last() == Some(&0) {
        buffer.pop();
    }
    String::from_utf8_lossy(&buffer).into_owned()
}

impl Nvrtc {
    fn compile(&self, source: &str, arch: &str) -> Result<String, String> {
        let source = CString::new(source).map_err(|e| e.to_string())?;
        let options = [
            format!("--gpu-architecture={arch}"),
            "--std=c++17".into(),
            "-lineinfo".into(),
            format!("-I{}", self.include.display()),
        ];
        let options: Vec<CString> =
            options.into_iter().map(|o| CString::new(o).expect("no NUL")).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: all pointers are to live, NUL-terminated texts, and there are no headers.
        let made = unsafe {
            (self.create)(
                &mut program,
                source.as_ptr(),
                c"kernel.cu".as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        if made != 0 {
            return Err(format!("nvrtcCreateProgram: error {made}"));
        }
        // SAFETY: the program is live, the options are too.
        let status = unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        let result = if status == 0 {
            Ok(text(program, self.ptx_size, self.ptx))
        } else {
            Err(text(program, self.log_size, self.log))
        };
        // SAFETY: the program is live and not used afterwards.
        unsafe { (self.destroy)(&mut program) };
        result
    }
}

/// PTX of a source for `compute_…`; `None` where NVRTC is absent. Compiled once per
/// process.
pub fn compile(source: &str, arch: &str) -> Option<String> {
    static LIBRARY: OnceLock<Option<Nvrtc>> = OnceLock::new();
    static DONE: Mutex<Option<HashMap<(String, String), String>>> = Mutex::new(None);
    let Some(nvrtc) = LIBRARY.get_or_init(load) else {
        if std::env::var("CI").is_ok_and(|v| v == "true") {
            panic!("NVRTC is not there: run `cargo xtask cuda`");
        }
        eprintln!("skipped: NVRTC is not there; `cargo xtask cuda` fetches it");
        return None;
    };
    let mut done = DONE.lock().unwrap_or_else(|e| e.into_inner());
    let cache = done.get_or_insert_with(HashMap::new);
    let key = (source.to_string(), arch.to_string());
    if let Some(ptx) = cache.get(&key) {
        return Some(ptx.clone());
    }
    match nvrtc.compile(source, arch) {
        Ok(ptx) => {
            cache.insert(key, ptx.clone());
            Some(ptx)
        }
        Err(log) => panic!("NVRTC does not compile this for {arch}:\n{log}"),
    }
}
