// The scales of block formats.
#pragma once

#include "numbers.cuh"

// By branches, for the two are rare.
__device__ inline float f32_of_e8m0(u8 bits) {
    if (bits == 0) return __uint_as_float(0x00400000u);
    if (bits == 0xFF) return __uint_as_float(0x7FC00000u);
    return __uint_as_float((u32)bits << 23);
}

// The same of a scale that is not NaN, in bits 0 to 7.
__device__ inline float f32_of_number_e8m0(u32 bits) {
    return fmaxf(__uint_as_float(bits << 23 & 0x7F800000u), __uint_as_float(0x00400000u));
}

// sum, and other bits that `is_nan_noted` knows once one of four scales was NaN.
__device__ inline u32 noted_e8m0(u32 scales, u32 sum) {
    return sum | ((scales & 0x7F7F7F7Fu) + 0x01010101u & scales);
}

__device__ inline bool is_nan_noted(u32 sum) { return (sum & 0x80808080u) != 0; }

// What multiplies sums of products, by the numbers that the host gives them.
enum Factors { FACTORS_NONE = 0, FACTORS_F32 = 1, FACTORS_E8M0 = 2 };

// The scales of a matrix of each batch index. Null where there are none.
struct Scales {
    const u8* data;
    const float* tensor;  // the scale of the whole tensor
    i64 batch[4];         // bytes
    int rows, cols;            // rows and elements along k that share a scale
    int row_shift, col_shift;  // their logarithms
    int row_scales;       // scales along k
    int tiled;            // 128 x 4 at a time, as block-scaled instructions want them; else rows
    int words;            // whether four scales along k are an aligned word
    int factors;          // FACTORS_…: what multiplies sums, or parts of them

    __device__ const u8* of_batch(const int (&index)[4]) const {
        const u8* at = data;
        for (int i = 0; i < 4; i++) at += index[i] * batch[i];
        return at;
    }

    // Where a scale lies, in scales.
    __device__ i64 index(int row, int col) const {
        if (!tiled) return (i64)row * row_scales + col;
        const i64 tile = (i64)(row / 128) * ((row_scales + 3) / 4);
        return tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + along(col);
    }

    // How far behind a row's first scale another one is.
    __device__ i64 along(u32 col) const { return tiled ? (i64)(col / 4) * 512 + col % 4 : (i64)col; }

    // How many bytes behind a matrix's factors those of a row begin.
    __device__ i64 row_factors(int row) const {
        return index(row >> row_shift, 0) * (factors == FACTORS_F32 ? 4 : 1);
    }

    __device__ bool are_there() const { return data || tensor; }

    // What whole sums are multiplied with, where instructions apply the block scales.
    __device__ float whole() const { return tensor ? *tensor : 1.0f; }

    // What a sum of products of a row, around element `at` along k, is multiplied with.
    __device__ float factor(const u8* of_batch, int row, int at) const {
        if (tensor) return *tensor;
        if (factors == FACTORS_NONE) return 1.0f;
        i64 i = index(row >> row_shift, at >> col_shift);
        return factors == FACTORS_F32 ? ((const float*)of_batch)[i] : f32_of_e8m0(of_batch[i]);
    }
};

// Whether a product of two factors did neither overflow nor underflow.
__device__ inline bool is_moderate(float product) {
    const float size = fabsf(product);
    return size >= 1.17549435e-38f && size <= 3.4e38f;
}

// x * s * t, rounded as if s * t neither overflowed nor underflowed. Where it underflows, the smaller one
// is raised before they meet, and x taken down afterwards; where it overflows, the larger one goes first.
__device__ inline float scaled(float x, float s, float t) {
    const float product = s * t;
    const bool there = is_moderate(product), vanishes = fabsf(product) < 1.0f;
    const bool larger = fabsf(s) > fabsf(t);
    const float large = larger ? s : t, little = larger ? t : s;
    // Not branched on: the factors of many x are found once.
    const float first = there ? product : vanishes ? little * 0x1p126f * large : large;
    const float second = there ? 1.0f : vanishes ? 0x1p-126f : little;
    return x * first * second;
}
