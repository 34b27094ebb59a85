//! Ranges that NVIDIA's profilers show: each launch under the name of its kernel.

use std::ffi::{CString, c_char, c_int};
use std::marker::PhantomData;
use std::sync::OnceLock;

use libloading::Library;

/// The library, as it comes with CUDA 13 and as it came before. It hands ranges to a profiler, or
/// to nobody; where it is missing, there are none.
#[cfg(not(windows))]
const LIBRARIES: [&str; 2] = ["libnvtx3interop.so.1", "libnvToolsExt.so.1"];
#[cfg(windows)]
const LIBRARIES: [&str; 2] = ["nvtx3interop.dll", "nvToolsExt64_1.dll"];

type Push = unsafe extern "C" fn(*const c_char) -> c_int;
type Pop = unsafe extern "C" fn() -> c_int;

/// The loaded library.
struct Nvtx {
    push: Push,
    pop: Pop,
    _library: Library,
}

impl Nvtx {
    /// The first of these libraries that loads and has ranges.
    fn find(names: &[&str]) -> Option<Self> {
        names.iter().find_map(|name| {
            // SAFETY: NVIDIA's library; its initialisers have no preconditions.
            let library = unsafe { Library::new(name) }.ok()?;
            // SAFETY: the names are those of functions of these types, which end before the
            // library does.
            unsafe {
                Some(Nvtx {
                    push: *library.get(b"nvtxRangePushA").ok()?,
                    pop: *library.get(b"nvtxRangePop").ok()?,
                    _library: library,
                })
            }
        })
    }
}

/// A range of this thread, which ends when it is dropped.
pub(super) struct Range {
    pop: Pop,
    /// Ranges are a thread's: one that begins in a thread ends there.
    _of_thread: PhantomData<*const ()>,
}

impl Range {
    /// Begins a range of that name, where anything records it.
    pub fn begin(name: impl FnOnce() -> String) -> Option<Self> {
        static LOADED: OnceLock<Option<Nvtx>> = OnceLock::new();
        let nvtx = LOADED.get_or_init(|| Nvtx::find(&LIBRARIES)).as_ref()?;
        let name = CString::new(name()).ok()?;
        // SAFETY: a NUL-terminated text, which is copied.
        unsafe { (nvtx.push)(name.as_ptr()) };
        Some(Range { pop: nvtx.pop, _of_thread: PhantomData })
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: the library stays loaded; without a range that is open it does nothing.
        unsafe { (self.pop)() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_library_there_are_no_ranges() {
        assert!(Nvtx::find(&["libferrocerium-is-not-there.so.1"]).is_none());
    }
}
