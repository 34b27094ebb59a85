// C = A · Bᵀ: A [m, k] and B [n, k] by rows, C [m, n] in f32. A block of 4 warps computes
// 64 × 64 of C, each warp 32 × 32. K goes by in slices of 64 bytes: two buffers filled by
// cp.async, their 16-byte chunks swizzled so that ldmatrix meets no bank twice.
template <class Op>
__device__ void gemm(float* c, const u8* a, const u8* b, const u8* sa, const u8* sb, int m, int n, int bytes) {
    __shared__ alignas(128) u8 tile[2][2][64 * 64];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int m0 = blockIdx.y * 64, n0 = blockIdx.x * 64;
    const int wm = warp / 2 * 32, wn = warp % 2 * 32;
    const int scales = bytes / 8; // of a row: one for 16 FP4 codes

    auto place = [](int row, int chunk) { return row * 64 + (chunk ^ (row / 2 & 3)) * 16; };
    auto fetch = [&](int buffer, int k) {
        for (int i = threadIdx.x; i < 256; i += 128) {
            int row = i / 4, chunk = i % 4, at = k + chunk * 16;
            bool in_k = at < bytes;
            copy16(shared_address(&tile[buffer][0][place(row, chunk)]),
                   in_k && m0 + row < m ? a + (u64)(m0 + row) * bytes + at : a, in_k && m0 + row < m);
            copy16(shared_address(&tile[buffer][1][place(row, chunk)]),
                   in_k && n0 + row < n ? b + (u64)(n0 + row) * bytes + at : b, in_k && n0 + row < n);
        }
        commit();
    };

    float acc[2][4][4] = {};
    const int slices = (bytes + 63) / 64;
    fetch(0, 0);
    for (int s = 0; s < slices; s++) {
        if (s + 1 < slices) {
            fetch((s + 1) % 2, (s + 1) * 64);
            wait<1>();
        } else {
            wait<0>();
        }
        __syncthreads();
        for (int step = 0; step < 2; step++) {
            u32 fa[2][4], fb[2][4];
            for (int i = 0; i < 2; i++)
                ldmatrix4(fa[i], shared_address(&tile[s % 2][0][place(wm + i * 16 + lane % 16, step * 2 + lane / 16)]));
            for (int j = 0; j < 2; j++)
                ldmatrix4(fb[j], shared_address(&tile[s % 2][1][place(wn + j * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2)]));
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) {
                    u32 xa = 0, xb = 0;
                    if constexpr (Op::scaled) {
                        // Four scales of 16 codes each are the four bytes of a register.
                        int k = min(s * 8 + step * 4, scales - 4);
                        int row = min(m0 + wm + i * 16 + lane / 4 + lane % 2 * 8, m - 1);
                        int col = min(n0 + wn + j * 8 + lane / 4, n - 1);
                        xa = *(const u32*)(sa + (u64)row * scales + k);
                        xb = *(const u32*)(sb + (u64)col * scales + k);
                    }
                    Op::mma(acc[i][j], fa[i], &fb[j / 2][j % 2 * 2], xa, xb);
                }
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int row = m0 + wm + i * 16 + lane / 4 + e / 2 * 8, col = n0 + wn + j * 8 + lane % 4 * 2 + e % 2;
                if (row < m && col < n) c[(u64)row * n + col] = acc[i][j][e];
            }
}

extern "C" __global__ void gemm_bf16(float* c, const u8* a, const u8* b, int m, int n, int bytes) {
    gemm<Bf16>(c, a, b, nullptr, nullptr, m, n, bytes);
}
#if __CUDA_ARCH__ >= 890
extern "C" __global__ void gemm_fp8(float* c, const u8* a, const u8* b, int m, int n, int bytes) {
    gemm<Fp8>(c, a, b, nullptr, nullptr, m, n, bytes);
}
#endif
#if defined(__CUDA_ARCH_FAMILY_SPECIFIC__) && __CUDA_ARCH_FAMILY_SPECIFIC__ >= 1200
extern "C" __global__ void gemm_nvfp4(float* c, const u8* a, const u8* b, const u8* sa, const u8* sb, int m, int n, int bytes) {
    gemm<Nvfp4>(c, a, b, sa, sb, m, n, bytes);
}
#endif

#if __CUDA_ARCH__ >= 900
// The same with the tensor memory accelerator: slices of 128 bytes arrive in the 128-byte
// swizzle, an mbarrier a buffer says when. One thread starts the copies; tails of m, n and k
// are zeros that the tensor map makes.
extern "C" __global__ void gemm_tma(float* c, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int m, int n, int bytes) {
    __shared__ alignas(1024) u8 tile[2][2][64 * 128];
    __shared__ alignas(8) u64 full[2];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int m0 = blockIdx.y * 64, n0 = blockIdx.x * 64;
    const int wm = warp / 2 * 32, wn = warp % 2 * 32;
    const int slices = (bytes + 127) / 128;

    auto place = [](int row, int chunk) { return row * 128 + (chunk ^ (row & 7)) * 16; };
    auto fetch = [&](int s) {
        u32 bar = shared_address(&full[s % 2]);
        barrier_expect(bar, 2 * 64 * 128);
        tensor_load(shared_address(tile[s % 2][0]), &a, s * 64, m0, bar);
        tensor_load(shared_address(tile[s % 2][1]), &b, s * 64, n0, bar);
    };
    if (threadIdx.x == 0) {
        barrier_init(shared_address(&full[0]), 1);
        barrier_init(shared_address(&full[1]), 1);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x == 0) fetch(0);

    float acc[2][4][4] = {};
    for (int s = 0; s < slices; s++) {
        if (threadIdx.x == 0 && s + 1 < slices) fetch(s + 1);
        barrier_wait(shared_address(&full[s % 2]), s / 2 & 1);
        for (int step = 0; step < 4; step++) {
            u32 fa[2][4], fb[2][4];
            for (int i = 0; i < 2; i++)
                ldmatrix4(fa[i], shared_address(&tile[s % 2][0][place(wm + i * 16 + lane % 16, step * 2 + lane / 16)]));
            for (int j = 0; j < 2; j++)
                ldmatrix4(fb[j], shared_address(&tile[s % 2][1][place(wn + j * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2)]));
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) Bf16::mma(acc[i][j], fa[i], &fb[j / 2][j % 2 * 2], 0, 0);
        }
        __syncthreads(); // the buffer may be filled again
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int row = m0 + wm + i * 16 + lane / 4 + e / 2 * 8, col = n0 + wn + j * 8 + lane % 4 * 2 + e % 2;
                if (row < m && col < n) c[(u64)row * n + col] = acc[i][j][e];
            }
}
#endif
