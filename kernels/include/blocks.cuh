// Rows of block formats, decoded.
#pragma once

#include "rows.cuh"
#include "scales.cuh"

// Codes of two elements a byte, beside the element types.
constexpr int E2M1 = 5;

__device__ inline float f32_of_e2m1(u32 code) {
    // Exponent and mantissa in their places are worth 2^-126 of the code.
    return __uint_as_float((code & 8) << 28 | (code & 7) << 22) * 8.507059173023462e37f;
}

// x rounded to f32, to odd: then a rounding to a narrower type gives what it would of x.
__device__ inline float to_odd(double x) {
    float rounded = __double2float_rz(x);
    return (double)rounded == x ? rounded : __uint_as_float(__float_as_uint(rounded) | 1);
}

// a * b likewise.
__device__ inline float product_to_odd(float a, float b) {
    float product = a * b, size = fabsf(product);
    // Elsewhere what is lost in rounding is no f32.
    if (a != 0.0f && !(size >= 1e-30f && size <= 3e38f)) return to_odd((double)a * b);
    float lost = fmaf(a, b, -product);
    if (a == 0.0f || lost == 0.0f) return product;
    u32 bits = __float_as_uint(product);
    // Rounded away from zero: back.
    if ((lost > 0.0f) != (product > 0.0f)) bits--;
    return __uint_as_float(bits | 1);
}

// One row of a matrix of codes, which is row `row` of its scales.
struct BlockRow {
    const u8* codes;
    const Scales& scales;
    const u8* of_batch;
    int row;
    int dtype;

    __device__ float code(int at) const {
        switch (dtype) {
            case E2M1: return f32_of_e2m1(codes[at / 2] >> at % 2 * 4 & 15);
            case E4M3: return f32_of_e4m3(codes[at]);
            default: return f32_of_e5m2(codes[at]);
        }
    }

    // Elements `at`, a multiple of 8, to `at + 7`, rounded to f32; with `odd`, to odd. Zeros from
    // `n` on. No block ends between them.
    __device__ void read(int at, int n, bool odd, float (&x)[EIGHT]) const {
        const i64 index = scales.index(row >> scales.row_shift, at >> scales.col_shift);
        // All but the last product are exact, but where they overflow.
        float exact = 1.0f, factor = 1.0f;
        if (scales.factors == FACTORS_F32)
            factor = ((const float*)of_batch)[index];
        else
            exact = scales.tensor ? f32_of_e4m3(of_batch[index]) : f32_of_e8m0(of_batch[index]);
        if (scales.tensor) factor = *scales.tensor;
#pragma unroll
        for (int i = 0; i < EIGHT; i++) {
            if (at + i >= n) {
                x[i] = 0.0f;
                continue;
            }
            float product = code(at + i) * exact;
            x[i] = odd ? product_to_odd(product, factor) : product * factor;
        }
    }
};

// Row `row` of all rows of all matrices, which lie one behind the other; so do their scales,
// `matrix` bytes each.
__device__ inline BlockRow block_row(const Matrix& codes, const Scales& scales, i64 matrix,
                                     int rows, i64 row) {
    return {codes.data + row * codes.row, scales, scales.data + row / rows * matrix,
            (int)(row % rows), codes.dtype};
}
