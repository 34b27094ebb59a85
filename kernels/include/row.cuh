// Rows of operands of any sizes and strides, eight elements of a thread together.
#pragma once

#include "matrix.cuh"

constexpr int EIGHT = 8;

// Does to each in turn what is too long to be there eight times.
template <typename F>
__device__ inline void each(float (&x)[EIGHT], const F& f) {
#pragma unroll 1
    for (int i = 0; i < EIGHT; i++) {
        const float y = f(x[0], i);
#pragma unroll
        for (int j = 0; j + 1 < EIGHT; j++) x[j] = x[j + 1];
        x[EIGHT - 1] = y;
    }
}

// The sizes before the last one.
struct RowSizes {
    int of[5];

    // Where a row begins.
    __device__ u8* row(const Matrix& matrix, int row) const {
        // Those of the first matrix, mostly the only one, are found without dividing.
        if (row < of[4]) return matrix.data + row * matrix.row;
        u8* at = matrix.data + row % of[4] * matrix.row;
        row /= of[4];
        for (int i = 3; i >= 0; i--) {
            at += row % of[i] * matrix.batch[i];
            row /= of[i];
        }
        return at;
    }
};

__device__ inline void unpack(u32 word, int dtype, float& low, float& high) {
    u16 first = (u16)word, second = (u16)(word >> 16);
    low = dtype == BF16 ? f32_of_bf16(first) : f32_of_f16(first);
    high = dtype == BF16 ? f32_of_bf16(second) : f32_of_f16(second);
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

    // A row of one matrix of a batch, of which eights from `at` on are looked at, a multiple of 8
    // or not.
    __device__ Row(const Matrix& matrix, const u8* of_batch, int row, int at)
        : data((u8*)of_batch + row * matrix.row), col(matrix.col), dtype(matrix.dtype),
          eights(matrix.eights && at % EIGHT == 0) {}

    // A row of `n` numbers of many that begin at a multiple of 16 bytes, likewise.
    __device__ Row(float* data, int n, int at)
        : data((u8*)data), col(sizeof(float)), dtype(F32), eights(n % 4 == 0 && at % 4 == 0) {}

    // Contiguous elements, eights of them aligned.
    __device__ Row(const u8* data, int dtype)
        : data((u8*)data), col(size_of(dtype)), dtype(dtype), eights(1) {}

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
