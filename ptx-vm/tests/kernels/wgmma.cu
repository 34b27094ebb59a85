// C = A · Bᵀ with wgmma, fed by the tensor memory accelerator: a producer warp keeps three
// buffers of 64 × 128 bytes of A and of B full, a warpgroup of consumers multiplies them.
// Rows of a slice are 128 bytes in the 128-byte swizzle; one wgmma takes 32 bytes of k.
#define D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define REGISTERS                                                                                  \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"

struct WgmmaBf16 {
    __device__ static void mma(float (&d)[32], u64 a, u64 b) {
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " REGISTERS ", %32, %33, add, 1, 1, 0, 0;\n}"
                     : D8(0), D8(8), D8(16), D8(24) : "l"(a), "l"(b));
    }
};
struct WgmmaFp8 {
    __device__ static void mma(float (&d)[32], u64 a, u64 b) {
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\nwgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 " REGISTERS ", %32, %33, add, 1, 1;\n}"
                     : D8(0), D8(8), D8(16), D8(24) : "l"(a), "l"(b));
    }
};

// Start, stride between groups of 8 rows (1024 bytes), 128-byte swizzle.
__device__ inline u64 descriptor(u32 at) {
    return (u64)((at & 0x3ffff) >> 4) | 1ull << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}

template <class Op>
__device__ void gemm(float* c, const TensorMap* a, const TensorMap* b, int m, int n, int bytes, int width) {
    constexpr int stages = 3;
    extern __shared__ __align__(1024) u8 tile[]; // [stages][2][64 * 128]
    __shared__ alignas(8) u64 full[stages], empty[stages];
    const int m0 = blockIdx.y * 64, n0 = blockIdx.x * 64, slices = (bytes + 127) / 128;
    if (threadIdx.x == 0) {
        for (int i = 0; i < stages; i++) {
            barrier_init(shared_address(&full[i]), 1);
            barrier_init(shared_address(&empty[i]), 4); // one arrival a consumer warp
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x / 128 == 1) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 128) {
            for (int s = 0; s < slices; s++) {
                int i = s % stages;
                if (s >= stages) barrier_wait(shared_address(&empty[i]), s / stages - 1 & 1);
                u32 bar = shared_address(&full[i]), at = shared_address(tile + i * 2 * 8192);
                barrier_expect(bar, 2 * 8192);
                tensor_load(at, a, s * 128 / width, m0, bar);
                tensor_load(at + 8192, b, s * 128 / width, n0, bar);
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    float acc[32] = {};
    for (int s = 0; s < slices; s++) {
        int i = s % stages;
        barrier_wait(shared_address(&full[i]), s / stages & 1);
        u32 at = shared_address(tile + i * 2 * 8192);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        for (int step = 0; step < 4; step++) Op::mma(acc, descriptor(at + step * 32), descriptor(at + 8192 + step * 32));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#ifndef NO_WAIT
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
        if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&empty[i]));
    }
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int e = 0; e < 32; e++) {
        int row = m0 + warp * 16 + lane / 4 + e / 2 % 2 * 8, col = n0 + e / 4 * 8 + lane % 4 * 2 + e % 2;
        if (row < m && col < n) c[(u64)row * n + col] = acc[e];
    }
}

extern "C" __global__ void __launch_bounds__(256, 1) gemm_wgmma_bf16(float* c, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int m, int n, int bytes) {
    gemm<WgmmaBf16>(c, &a, &b, m, n, bytes, 2);
}
extern "C" __global__ void __launch_bounds__(256, 1) gemm_wgmma_fp8(float* c, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int m, int n, int bytes) {
    gemm<WgmmaFp8>(c, &a, &b, m, n, bytes, 1);
}
