// Rows of operands of any sizes and strides, eight elements of a thread together, and sums over a
// row by one block.
#pragma once

#include "epilogue.cuh"

#ifndef THREADS
#define THREADS 128
#endif
constexpr int WARPS = (THREADS + 31) / 32;
// Of a multiprocessor at once, which leaves a thread 128 registers.
constexpr int BLOCKS = THREADS < 512 ? 512 / THREADS : 1;
constexpr int EIGHT = 8;

// The sizes before the last one.
struct RowSizes {
    int of[5];

    // Where a row begins.
    __device__ u8* row(const Matrix& matrix, int row) const {
        u8* at = matrix.data + row % of[4] * matrix.row;
        row /= of[4];
        for (int i = 3; i >= 0; i--) {
            at += row % of[i] * matrix.batch[i];
            row /= of[i];
        }
        return at;
    }
};

// Which part of which row a block works on: rows are cut into pieces where nothing is summed.
struct Pieces {
    int of_row;

    __device__ int row() const { return blockIdx.x / of_row; }
    // The first of the eight elements of this thread.
    __device__ int begin() const { return (blockIdx.x % of_row * THREADS + threadIdx.x) * EIGHT; }
};

__device__ inline void unpack(u32 word, int dtype, float& low, float& high) {
    u16 first = (u16)word, second = (u16)(word >> 16);
    low = dtype == BF16 ? f32_of_bf16(first) : f32_of_f16(first);
    high = dtype == BF16 ? f32_of_bf16(second) : f32_of_f16(second);
}

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

// One row of an operand.
struct Row {
    u8* data;
    i64 col;
    int dtype;
    int eights;  // whether they are contiguous, and the eight from a multiple of 8 on aligned

    __device__ Row(const Matrix& matrix, const RowSizes& sizes, int row)
        : data(matrix.data ? sizes.row(matrix, row) : 0), col(matrix.col), dtype(matrix.dtype),
          eights(matrix.eights) {}

    __device__ float operator[](int at) const { return load(dtype, data + at * col); }
    __device__ void set(int at, float x) const { store(dtype, data + at * col, x); }

    // Elements `at`, a multiple of 8, to `at + 7`; zeros from `n` on.
    __device__ void read(int at, int n, float (&x)[EIGHT]) const {
        if (!eights || at + EIGHT > n) {
#pragma unroll
            for (int i = 0; i < EIGHT; i++) x[i] = at + i < n ? (*this)[at + i] : 0.0f;
            return;
        }
        const u8* from = data + (i64)at * size_of(dtype);
        if (dtype == F32) {
            float4 low = *(const float4*)from, high = *(const float4*)(from + 16);
            x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
            x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
        } else if (dtype <= F16) {
            uint4 words = *(const uint4*)from;
            unpack(words.x, dtype, x[0], x[1]);
            unpack(words.y, dtype, x[2], x[3]);
            unpack(words.z, dtype, x[4], x[5]);
            unpack(words.w, dtype, x[6], x[7]);
        } else {
            uint2 words = *(const uint2*)from;
#pragma unroll
            for (int i = 0; i < EIGHT; i++) {
                u8 code = (u8)((i < 4 ? words.x : words.y) >> i % 4 * 8);
                x[i] = dtype == E4M3 ? f32_of_e4m3(code) : f32_of_e5m2(code);
            }
        }
    }

    // Stores them; nothing from `n` on.
    __device__ void write(int at, int n, const float (&x)[EIGHT]) const {
        if (!eights || at + EIGHT > n) {
#pragma unroll
            for (int i = 0; i < EIGHT; i++)
                if (at + i < n) set(at + i, x[i]);
            return;
        }
        u8* to = data + (i64)at * size_of(dtype);
        if (dtype == F32) {
            *(float4*)to = make_float4(x[0], x[1], x[2], x[3]);
            *(float4*)(to + 16) = make_float4(x[4], x[5], x[6], x[7]);
        } else if (dtype <= F16) {
            u32 words[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                words[i] = dtype == BF16 ? bf16_of(x[2 * i]) | (u32)bf16_of(x[2 * i + 1]) << 16
                                         : f16_of(x[2 * i]) | (u32)f16_of(x[2 * i + 1]) << 16;
            *(uint4*)to = make_uint4(words[0], words[1], words[2], words[3]);
        } else {
#if __CUDA_ARCH__ >= 890
            u32 words[2] = {};
#pragma unroll
            for (int i = 0; i < EIGHT; i++)
                words[i / 4] |= (u32)(dtype == E4M3 ? e4m3_of(x[i]) : e5m2_of(x[i])) << i % 4 * 8;
            *(uint2*)to = make_uint2(words[0], words[1]);
#endif
        }
    }
};

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
    if (isnan(x) || isnan(y)) return x + y;
    if (x == y) return __uint_as_float(__float_as_uint(x) & __float_as_uint(y));
    return x > y ? x : y;
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
