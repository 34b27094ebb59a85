// Rows that blocks take piece by piece, and sums over a row by one block.
#pragma once

#include "epilogue.cuh"

#ifndef THREADS
#define THREADS 128
#endif
constexpr int WARPS = (THREADS + 31) / 32;
// Of a multiprocessor at once, which leaves a thread 128 registers.
constexpr int BLOCKS = THREADS < 512 ? 512 / THREADS : 1;

// Which part of which row a block works on: rows are cut into pieces where nothing is summed.
struct Pieces {
    int of_row;

    __device__ int row() const { return blockIdx.x / of_row; }
    // The first of the eight elements of this thread.
    __device__ int begin() const { return (blockIdx.x % of_row * THREADS + threadIdx.x) * EIGHT; }
};

// x as storing it would round it.
__device__ inline float rounded(int dtype, float x) {
    switch (dtype) {
        case F32: return x;
        case BF16: return f32_of_bf16(bf16_of(x));
        case F16: return f32_of_f16(f16_of(x));
#if __CUDA_ARCH__ >= 890
        case E4M3: return f32_of_e4m3(e4m3_of(x));
        default: return f32_of_e5m2(e5m2_of(x));
#else
        default: return x;
#endif
    }
}

// Combines a value of each thread, in an order that depends on nothing else; all get the result.
template <typename T, typename Combine>
__device__ inline T over_block(T x, Combine combine) {
    for (int lanes = 16; lanes; lanes /= 2) x = combine(x, __shfl_xor_sync(~0u, x, lanes));
    if (WARPS == 1) return x;
    __shared__ T of_warp[WARPS];
    // What an earlier call left may still be read.
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = of_warp[0];
    for (int warp = 1; warp < WARPS; warp++) x = combine(x, of_warp[warp]);
    return x;
}

__device__ inline float block_sum(float x) {
    return over_block(x, [](float a, float b) { return a + b; });
}

__device__ inline float block_min(float x) {
    return over_block(x, [](float a, float b) { return fminf(a, b); });
}

__device__ inline float block_max(float x) {
    return over_block(x, [](float a, float b) { return fmaxf(a, b); });
}

// NaN if either is; +0 is larger than -0.
__device__ inline float maximum(float x, float y) {
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(x), "f"(y));
    return x == y ? __uint_as_float(__float_as_uint(x) & __float_as_uint(y)) : larger;
}

// Moves an element of `bytes` bytes as it is.
__device__ inline void move(u8* to, const u8* from, int bytes) {
    switch (bytes) {
        case 1: *to = *from; break;
        case 2: *(u16*)to = *(const u16*)from; break;
        case 4: *(u32*)to = *(const u32*)from; break;
        default: *(unsigned long long*)to = *(const unsigned long long*)from;
    }
}

// Moves elements `at`, a multiple of 8, to `at + 7` of a row; none from `n` on.
__device__ inline void move_eight(const Row& to, const Row& from, int bytes, int at, int n) {
    if (!to.eights || !from.eights || at + EIGHT > n) {
        for (int i = at; i < min(at + EIGHT, n); i++)
            move(to.data + i * to.col, from.data + i * from.col, bytes);
        return;
    }
    const u8* source = from.data + (i64)at * bytes;
    u8* target = to.data + (i64)at * bytes;
    if (bytes == 1)
        *(uint2*)target = *(const uint2*)source;
    else
        for (int i = 0; i < EIGHT * bytes; i += 16)
            *(uint4*)(target + i) = *(const uint4*)(source + i);
}
