//! NVIDIA's library of matrix products, loaded at run time.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};
use cudarc::driver::sys::{CUdeviceptr, CUevent_flags};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cudaDataType_t::{CUDA_R_8F_E4M3, CUDA_R_16BF, CUDA_R_32F};

/// Runs that a median is taken of, after a warm-up.
const RUNS: usize = 9;

/// Bytes that a product may use for itself, as NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

pub struct CublasLt {
    stream: Arc<CudaStream>,
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// The address of memory that only one stream uses, which orders all uses.
fn address(memory: &CudaSlice<u8>, stream: &CudaStream) -> CUdeviceptr {
    memory.device_ptr(stream).0
}

impl CublasLt {
    /// The library on the first GPU, if it is there.
    pub fn open() -> Result<Self, String> {
        // SAFETY: loads NVIDIA's library, whose initialisers have no preconditions.
        if !unsafe { sys::is_culib_present() } {
            return Err("libcublasLt.so is not in the system's library path".to_owned());
        }
        let stream = CudaContext::new(0).and_then(|context| context.new_stream()).map_err(text)?;
        let workspace = stream.alloc_zeros(WORKSPACE).map_err(text)?;
        let handle = result::create_handle().map_err(text)?;
        Ok(CublasLt { stream, handle, workspace })
    }

    /// Seconds of `[m, k] · [n, k]ᵀ` to bf16, of bf16 or, where `fp8`, E4M3 elements, over so many
    /// operands in turn.
    pub fn seconds(&self, [m, n, k]: [usize; 3], fp8: bool, copies: usize) -> Result<f64, String> {
        let (size, element) = if fp8 { (1, CUDA_R_8F_E4M3) } else { (2, CUDA_R_16BF) };
        let memory = |bytes: usize| -> Result<CudaSlice<u8>, String> {
            self.stream.alloc_zeros(bytes).map_err(text)
        };
        let operand = |_| Ok([memory(m * k * size)?, memory(n * k * size)?, memory(m * n * 2)?]);
        let mut operands = (0..copies).map(operand).collect::<Result<Vec<_>, String>>()?;
        let product = Product::new(self.handle, [m, n, k], element)?;
        let mut times = Vec::new();
        for _ in 0..RUNS + 1 {
            let event = || {
                let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
                self.stream.record_event(timed).map_err(text)
            };
            let start = event()?;
            for [x, w, d] in &mut operands {
                let d = d.device_ptr_mut(&self.stream).0;
                let [x, w] = [address(x, &self.stream), address(w, &self.stream)];
                product.run(self, [x, w, d])?;
            }
            let ms = start.elapsed_ms(&event()?).map_err(text)?;
            times.push(f64::from(ms) / 1e3 / copies as f64);
        }
        // The first run warms up.
        times.remove(0);
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}

/// A product that the library has chosen an algorithm for. Its descriptors live as long as the
/// process.
struct Product {
    description: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Product {
    /// The library's matrices are stored by columns: dᵀ `[n, m]` = w `[n, k]` · xᵀ `[k, m]`.
    fn new(
        handle: sys::cublasLtHandle_t,
        [m, n, k]: [usize; 3],
        element: sys::cudaDataType_t,
    ) -> Result<Self, String> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let description = result::create_matmul_desc(compute, CUDA_R_32F).map_err(text)?;
        let transposed = 1i32;
        let value: *const c_void = (&raw const transposed).cast();
        // SAFETY: a live description, and a value of the attribute's type.
        let set = unsafe {
            let attribute = Attribute::CUBLASLT_MATMUL_DESC_TRANSA;
            result::set_matmul_desc_attribute(description, attribute, value, size_of::<i32>())
        };
        set.map_err(text)?;
        let layout = |element, rows: usize, cols: usize| {
            result::create_matrix_layout(element, rows as u64, cols as u64, rows as i64)
        };
        let w = layout(element, k, n).map_err(text)?;
        let x = layout(element, k, m).map_err(text)?;
        let d = layout(CUDA_R_16BF, n, m).map_err(text)?;
        let preference = result::create_matmul_pref().map_err(text)?;
        let bytes: *const c_void = (&raw const WORKSPACE_BYTES).cast();
        // SAFETY: a live preference, and a value of the attribute's type.
        let set = unsafe {
            use sys::cublasLtMatmulPreferenceAttributes_t as Of;
            let attribute = Of::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, attribute, bytes, size_of::<usize>())
        };
        set.map_err(text)?;
        // SAFETY: all of them live.
        let found = unsafe {
            result::get_matmul_algo_heuristic(handle, description, w, x, d, d, preference)
        };
        let algorithm = found.map_err(text)?.algo;
        Ok(Product { description, layouts: [w, x, d], algorithm })
    }

    fn run(&self, library: &CublasLt, [x, w, d]: [CUdeviceptr; 3]) -> Result<(), String> {
        let (alpha, beta) = (1.0f32, 0.0f32);
        let [of_w, of_x, of_d] = self.layouts;
        let workspace = address(&library.workspace, &library.stream);
        // SAFETY: sizes and leading dimensions are those of the memory, which lives until the
        // caller has waited for the stream.
        let result = unsafe {
            result::matmul(
                library.handle,
                self.description,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                w as *const c_void,
                of_w,
                x as *const c_void,
                of_x,
                d as *const c_void,
                of_d,
                d as *mut c_void,
                of_d,
                &raw const self.algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                library.stream.cu_stream().cast(),
            )
        };
        result.map_err(text)
    }
}

/// [`WORKSPACE`], where its address can be taken.
static WORKSPACE_BYTES: usize = WORKSPACE;
