//! NVIDIA's run-time compiler: CUDA C++ to PTX or machine code, without a toolkit, a driver or a GPU.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use libloading::Library;

use super::driver::Image;
use super::lock::lock;
use crate::error::{Error, Result};

/// The environment variable that names the folder with NVRTC. Nothing else is looked at then.
pub const NVRTC_VARIABLE: &str = "FERROCERIUM_NVRTC_DIR";

/// The library, newest first: block-scaled instructions of `sm_121a` need 12.9 or later.
#[cfg(not(windows))]
const LIBRARIES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
#[cfg(windows)]
const LIBRARIES: [&str; 2] = ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];

/// How the file names of the part begin that NVRTC itself loads, by name only.
const BUILTINS: [&str; 2] = ["libnvrtc-builtins.so.", "nvrtc-builtins"];

type Program = *mut c_void;
type Texts = *const *const c_char;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
type Create =
    unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, Texts, Texts) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, Texts) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Message = unsafe extern "C" fn(c_int) -> *const c_char;

/// The loaded library.
pub(super) struct Nvrtc {
    version: (c_int, c_int),
    create: Create,
    compile: Compile,
    log_size: Size,
    log: Text,
    ptx_size: Size,
    ptx: Text,
    cubin_size: Size,
    cubin: Text,
    destroy: Destroy,
    message: Message,
    // What the functions above are in: unloaded after them.
    _library: Library,
    _builtins: Option<Library>,
}

/// A source as the compiler takes it.
pub(super) struct Translation<'a> {
    /// Its name in messages.
    pub name: &'a str,
    /// The source.
    pub text: &'a str,
    /// What `#include` finds: names and texts.
    pub headers: &'a [(&'a str, &'a str)],
    /// Options of the compiler.
    pub options: &'a [String],
}

impl Nvrtc {
    /// The library, loaded once for the process.
    ///
    /// # Errors
    /// [`Error::Device`] that says what was looked for where.
    pub(super) fn get() -> Result<Arc<Nvrtc>> {
        static LOADED: Mutex<Option<Arc<Nvrtc>>> = Mutex::new(None);
        let mut loaded = lock(&LOADED);
        if let Some(nvrtc) = &*loaded {
            return Ok(nvrtc.clone());
        }
        let nvrtc = Arc::new(Self::find(&Places::of_environment())?);
        Ok(loaded.insert(nvrtc).clone())
    }

    /// The first library that loads.
    fn find(places: &Places) -> Result<Nvrtc> {
        let mut tried = Vec::new();
        for folder in &places.folders {
            for name in LIBRARIES {
                let path = folder.join(name);
                if path.exists() {
                    match Self::open(&path, Some(folder)) {
                        Ok(nvrtc) => return Ok(nvrtc),
                        Err(reason) => tried.push(format!("{}: {reason}", path.display())),
                    }
                }
            }
            tried.push(format!("{}: not there", folder.display()));
        }
        if places.loader {
            for name in LIBRARIES {
                if let Ok(nvrtc) = Self::open(Path::new(name), None) {
                    return Ok(nvrtc);
                }
            }
            tried.push("the system's library path: not there".to_owned());
        }
        Err(Error::device(format!(
            "NVRTC, which compiles GPU kernels, can not be loaded. {} was looked for in:\n  {}\n\
             set {NVRTC_VARIABLE} to its folder, or install it, e.g. by `pip install \
             nvidia-cuda-nvrtc==13.0.*` (in this project's repository: `cargo xtask cuda`)",
            LIBRARIES.join(" or "),
            tried.join("\n  "),
        )))
    }

    fn open(path: &Path, folder: Option<&Path>) -> Result<Nvrtc, String> {
        // The builtins go first, because NVRTC looks for them by name only.
        let builtins = folder.and_then(builtins_in).map(|path| load_globally(&path)).transpose()?;
        // SAFETY: NVIDIA's library; its initialisers have no preconditions.
        let library = unsafe { Library::new(path) }.map_err(|e| e.to_string())?;
        let missing = |e: libloading::Error| e.to_string();
        // SAFETY: the types are those of nvrtc.h, unchanged since CUDA 7; the library is kept
        // beside them.
        let mut nvrtc = unsafe {
            Nvrtc {
                version: (0, 0),
                create: *library.get(b"nvrtcCreateProgram").map_err(missing)?,
                compile: *library.get(b"nvrtcCompileProgram").map_err(missing)?,
                log_size: *library.get(b"nvrtcGetProgramLogSize").map_err(missing)?,
                log: *library.get(b"nvrtcGetProgramLog").map_err(missing)?,
                ptx_size: *library.get(b"nvrtcGetPTXSize").map_err(missing)?,
                ptx: *library.get(b"nvrtcGetPTX").map_err(missing)?,
                cubin_size: *library.get(b"nvrtcGetCUBINSize").map_err(missing)?,
                cubin: *library.get(b"nvrtcGetCUBIN").map_err(missing)?,
                destroy: *library.get(b"nvrtcDestroyProgram").map_err(missing)?,
                message: *library.get(b"nvrtcGetErrorString").map_err(missing)?,
                _library: library,
                _builtins: builtins,
            }
        };
        // SAFETY: as above.
        let version: Version = unsafe { *nvrtc._library.get(b"nvrtcVersion").map_err(missing)? };
        // SAFETY: both are places for a number.
        let status = unsafe { version(&mut nvrtc.version.0, &mut nvrtc.version.1) };
        nvrtc.check(status).map(|()| nvrtc)
    }

    /// Major and minor version.
    pub(super) fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles to PTX, and for a real architecture to machine code.
    ///
    /// # Errors
    /// The compiler's log.
    pub(super) fn compile(&self, translation: &Translation<'_>) -> Result<Translated<'_>, String> {
        let text = |text: &str| CString::new(text).map_err(|_| "a NUL in the source".to_owned());
        let texts = |of: &mut dyn Iterator<Item = &str>| -> Result<Vec<CString>, String> {
            of.map(text).collect()
        };
        let pointers = |of: &[CString]| of.iter().map(|t| t.as_ptr()).collect::<Vec<_>>();
        let (source, name) = (text(translation.text)?, text(translation.name)?);
        let header_names = texts(&mut translation.headers.iter().map(|h| h.0))?;
        let header_texts = texts(&mut translation.headers.iter().map(|h| h.1))?;
        let options = texts(&mut translation.options.iter().map(String::as_str))?;
        let (header_names, header_texts) = (pointers(&header_names), pointers(&header_texts));
        let options = pointers(&options);
        let mut program = Translated { nvrtc: self, program: std::ptr::null_mut() };
        // SAFETY: all pointers are to NUL-terminated texts that live until the end of this
        // function; the counts are those of the arrays.
        let status = unsafe {
            (self.create)(
                &mut program.program,
                source.as_ptr(),
                name.as_ptr(),
                header_names.len() as c_int,
                header_texts.as_ptr(),
                header_names.as_ptr(),
            )
        };
        self.check(status)?;
        // SAFETY: the program was just created; the options live as above.
        let status =
            unsafe { (self.compile)(program.program, options.len() as c_int, options.as_ptr()) };
        if let Err(error) = self.check(status) {
            return Err(format!("{error}\n{}", program.log()?));
        }
        Ok(program)
    }

    fn check(&self, status: c_int) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: takes any number and gives a static text.
        let message = unsafe { (self.message)(status) };
        if message.is_null() {
            return Err(format!("NVRTC error {status}"));
        }
        // SAFETY: not null, and NUL-terminated by the function's contract.
        Err(unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned())
    }
}

/// A program of the compiler, destroyed when dropped.
pub(super) struct Translated<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Translated<'_> {
    /// Instructions of a virtual machine, or machine code.
    pub(super) fn image(&self, image: Image) -> Result<Vec<u8>, String> {
        match image {
            Image::Ptx => self.bytes(self.nvrtc.ptx_size, self.nvrtc.ptx).map(without_end),
            Image::Cubin => self.bytes(self.nvrtc.cubin_size, self.nvrtc.cubin),
        }
    }

    /// What the compiler had to say.
    pub(super) fn log(&self) -> Result<String, String> {
        let log = without_end(self.bytes(self.nvrtc.log_size, self.nvrtc.log)?);
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// What a pair of size and copy functions gives.
    fn bytes(&self, size: Size, copy: Text) -> Result<Vec<u8>, String> {
        let mut len = 0;
        // SAFETY: the program is live, and `len` is a place for a size.
        self.nvrtc.check(unsafe { size(self.program, &mut len) })?;
        let mut bytes = vec![0u8; len];
        // SAFETY: the buffer has the size that was asked for.
        self.nvrtc.check(unsafe { copy(self.program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

/// A text without the NUL that ends it.
fn without_end(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}

impl Drop for Translated<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: created by this library, destroyed once.
            unsafe { (self.nvrtc.destroy)(&mut self.program) };
        }
    }
}

/// Loads a library so that others find it by its name.
fn load_globally(path: &Path) -> Result<Library, String> {
    #[cfg(unix)]
    {
        use libloading::os::unix;
        // SAFETY: NVIDIA's library; its initialisers have no preconditions.
        let library =
            unsafe { unix::Library::open(Some(path), unix::RTLD_NOW | unix::RTLD_GLOBAL) };
        library.map(Library::from).map_err(|e| e.to_string())
    }
    #[cfg(not(unix))]
    {
        // SAFETY: as above.
        unsafe { Library::new(path) }.map_err(|e| e.to_string())
    }
}

/// The builtins beside a library.
fn builtins_in(folder: &Path) -> Option<PathBuf> {
    let files = folder.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_builtins = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        BUILTINS.iter().any(|start| name.starts_with(start))
    };
    files.filter(is_builtins).max()
}

/// Where the library is looked for.
#[derive(Debug)]
struct Places {
    folders: Vec<PathBuf>,
    /// Also where the system's loader looks.
    loader: bool,
}

impl Places {
    fn of_environment() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(folder) = variable(NVRTC_VARIABLE) {
            return Places { folders: vec![folder.into()], loader: false };
        }
        let mut folders = Vec::new();
        if let Some(cache) = super::cache::user_folder() {
            // Where `cargo xtask cuda` unpacks it.
            folders.push(cache.join("cuda/13.0/lib"));
        }
        for root in ["CUDA_PATH", "CUDA_HOME"] {
            folders.extend(variable(root).map(|root| PathBuf::from(root).join("lib64")));
        }
        #[cfg(unix)]
        folders.push("/usr/local/cuda/lib64".into());
        Places { folders, loader: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_compiler_is_an_error_that_says_what_was_looked_for_where() {
        let places = Places { folders: vec!["/nonexistent/cuda".into()], loader: false };
        let error = Nvrtc::find(&places).err().expect("nothing is there").to_string();
        for part in ["nvrtc", "/nonexistent/cuda", NVRTC_VARIABLE] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_no_library_is_an_error_with_the_loader_s_reason() {
        let folder = std::env::temp_dir().join(format!("ferrocerium-nvrtc-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(LIBRARIES[0]), "not a library").unwrap();
        let places = Places { folders: vec![folder.clone()], loader: false };
        let error = Nvrtc::find(&places).err().expect("it does not load").to_string();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(error.contains(&format!("{}: ", folder.join(LIBRARIES[0]).display())), "{error}");
    }
}
