// Rows of operands of any sizes and strides, and sums over a row by one block.
#pragma once

#include "epilogue.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32;

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

// One row of an operand.
struct Row {
    u8* data;
    i64 col;
    int dtype;

    __device__ Row(const Matrix& matrix, const RowSizes& sizes, int row)
        : data(matrix.data ? sizes.row(matrix, row) : 0), col(matrix.col), dtype(matrix.dtype) {}

    __device__ float operator[](int at) const { return load(dtype, data + at * col); }
    __device__ void set(int at, float x) const { store(dtype, data + at * col, x); }
};

// Combines a value of each thread, in an order that depends on nothing else; all get the result.
template <typename Combine>
__device__ inline float over_block(float x, Combine combine) {
    __shared__ float of_warp[WARPS];
    for (int lanes = 16; lanes; lanes /= 2) x = combine(x, __shfl_xor_sync(~0u, x, lanes));
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

__device__ inline float block_max(float x) {
    return over_block(x, [](float a, float b) { return fmaxf(a, b); });
}
