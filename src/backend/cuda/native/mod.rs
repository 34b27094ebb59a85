//! NVIDIA GPUs by their driver, which is loaded at run time.

mod api;
mod memory;
mod queue;
mod words;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use api::{Context, Module, Stream};
use memory::NativeMemory;
use queue::NativeQueue;
use words::Words;

use super::attributes::Attributes;
use super::driver::{Driver, Image, ModuleId, Queue};
use super::gpu::Gpu;
use crate::caps::{Caps, MemoryKind};
use crate::device::{Device, DeviceBuilder};
use crate::error::{Error, Result};
use crate::memory::{RawMemory, Refusal};

impl Device {
    /// The NVIDIA GPU of that number.
    ///
    /// Results live in the host's memory where the GPU shares it (GB10), else in the GPU's own
    /// ([`DeviceBuilder::memory`]). Operations return when they are enqueued; reading a result
    /// waits for it.
    ///
    /// # Errors
    /// [`Error::Device`] where the driver or NVRTC is not there, which says what was looked for
    /// where; for a GPU that is not there, or that no kernels are for; and what else the driver
    /// reports, in its words.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    ///
    /// match Device::cuda(0) {
    ///     Ok(gpu) => println!("{:?}", Tensor::full(&gpu, [2, 2], 1.0f32)?),
    ///     Err(error) => println!("{error}"),      // what is missing, and where it was looked for
    /// }
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn cuda(index: usize) -> Result<Device> {
        Self::builder().cuda(index)
    }

    /// How many NVIDIA GPUs there are: none without a driver.
    pub fn cuda_count() -> usize {
        api::require_driver().and_then(|()| api::device_count()).unwrap_or(0)
    }
}

impl DeviceBuilder {
    /// The NVIDIA GPU of that number, with these limits. See [`Device::cuda`].
    ///
    /// # Errors
    /// Those of [`Device::cuda`]; [`Error::Value`] for a kind of memory that results can not live
    /// in.
    pub fn cuda(self, index: usize) -> Result<Device> {
        let asked = |error: String| Error::device(format!("cuda:{index}: {error}"));
        api::require_driver().map_err(asked)?;
        let native = Native::open(index).map_err(asked)?;
        let (arch, attributes) = (native.attributes.arch()?, native.attributes.clone());
        let gpu = Arc::new(Gpu::new(arch, Arc::new(native))?);
        let caps = Caps::gpu(arch, attributes.units, &attributes.memory_kinds());
        super::device(self, &format!("cuda:{index}"), caps, &gpu)
    }
}

impl Attributes {
    /// Those of the NVIDIA GPU of that number.
    ///
    /// # Errors
    /// [`Error::Device`] where there is no driver or no such GPU.
    pub fn of_cuda(index: usize) -> Result<Attributes> {
        let asked = |error: String| Error::device(format!("cuda:{index}: {error}"));
        api::require_driver().map_err(asked)?;
        api::device(index).and_then(api::attributes).map_err(asked)
    }
}

/// A GPU's driver, with its loaded modules.
struct Native {
    attributes: Attributes,
    context: Arc<Context>,
    /// In which memory is given, cleared and copied.
    memory: Arc<Stream>,
    words: Arc<Words>,
    modules: Modules,
}

/// The loaded modules, by number.
type Modules = Arc<RwLock<Vec<Arc<Loaded>>>>;

/// A module, and its kernels that were asked for.
struct Loaded {
    module: Module,
    functions: Mutex<HashMap<String, api::Function>>,
}

impl Native {
    fn open(index: usize) -> Result<Self, String> {
        let device = api::device(index)?;
        let attributes = api::attributes(device)?;
        if !attributes.pools {
            return Err(format!(
                "{} has no stream-ordered memory with this driver; a newer one may give it",
                attributes.name
            ));
        }
        let context = Context::retain(device)?;
        if !attributes.integrated {
            // What is freed there is of no use to others, and giving it back takes time.
            context.keep_freed_memory()?;
        }
        let memory = Arc::new(Stream::create(&context)?);
        let words = Words::new(&context);
        Ok(Native { attributes, context, memory, words, modules: Modules::default() })
    }
}

impl Driver for Native {
    fn image(&self) -> Image {
        Image::Cubin
    }

    fn load(&self, code: &[u8]) -> Result<ModuleId, String> {
        let module = Module::load(&self.context, code)?;
        let mut modules = self.modules.write().unwrap_or_else(PoisonError::into_inner);
        modules.push(Arc::new(Loaded { module, functions: Mutex::default() }));
        Ok(ModuleId(modules.len() - 1))
    }

    fn allocate(&self, kind: MemoryKind, len: usize) -> Result<Box<dyn RawMemory>, Refusal> {
        Ok(Box::new(NativeMemory::new(&self.memory, kind, len)?))
    }

    fn gives_resident(&self) -> bool {
        true
    }

    fn own_memory(&self) -> Result<Option<(u64, u64)>, String> {
        let shared = self.attributes.integrated;
        (!shared).then(|| self.context.free_memory().map_err(api::with_remedy)).transpose()
    }

    fn queue(&self, number: u64) -> Result<Box<dyn Queue>, String> {
        let stream = Stream::create(&self.context)?;
        Ok(Box::new(NativeQueue::new(number, stream, self.modules.clone(), self.words.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether there is a driver here: then the tests say nothing.
    fn driver() -> bool {
        api::require_driver().is_ok()
    }

    #[test]
    fn without_a_driver_the_error_says_what_was_looked_for_where() {
        if driver() {
            return;
        }
        assert_eq!(Device::cuda_count(), 0);
        let attributes = Attributes::of_cuda(0).map(drop);
        for result in [Device::cuda(0).map(drop), attributes] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Device { .. }), "{error:?}");
            for part in ["cuda:0", "libcuda.so.1", "library path", "driver"] {
                assert!(error.to_string().contains(part), "no {part:?} in {error}");
            }
        }
    }

    #[test]
    fn every_function_that_is_called_is_asked_for_first() {
        let mut called: Vec<&str> = Vec::new();
        let texts = [
            include_str!("api.rs"),
            include_str!("memory.rs"),
            include_str!("queue.rs"),
            include_str!("words.rs"),
        ];
        for text in texts {
            for (at, _) in text.match_indices("sys::cu") {
                let name = &text[at + "sys::".len()..];
                let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
                called.push(&name[..end.unwrap_or(name.len())]);
            }
        }
        called.retain(|name| *name != "culib");
        called.sort_unstable();
        called.dedup();
        assert_eq!(called, api::FUNCTIONS, "the list of what a driver must have");
    }
}
