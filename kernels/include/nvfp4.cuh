// Rounding to NVFP4: E2M1 codes, 16 of which share a UE4M3 scale, in units of an f32.
//
// The unit of numbers is 1/2688 of the largest of them, which then is the largest code times the
// largest scale. Blocks are scaled so that their largest element becomes the largest code.
#pragma once

#include "numbers.cuh"

constexpr int BLOCK = 16, PER_BYTE = 2;
constexpr float LARGEST_CODE = 6.0f, LARGEST_UNITS = LARGEST_CODE * 448.0f;
// 2^-100: with it a quotient of numbers is no infinity.
constexpr float LEAST_UNIT = 7.888609052210118e-31f;
constexpr u32 NAN_SCALE = 0x7F;
constexpr bool HAS_UNIT = true;

__device__ inline float unit_of(float largest) {
    return fmaxf(largest * (1.0f / LARGEST_UNITS), LEAST_UNIT);
}

__device__ inline float inverse_of(float unit) { return __fdividef(1.0f, unit); }

// The codes of eight numbers, in order from the lowest bits.
__device__ inline u32 word_of(const float (&x)[8]) {
    u32 codes;
    asm("{ .reg .b8 a, b, c, d;\n"
        "cvt.rn.satfinite.e2m1x2.f32 a, %2, %1;\n"
        "cvt.rn.satfinite.e2m1x2.f32 b, %4, %3;\n"
        "cvt.rn.satfinite.e2m1x2.f32 c, %6, %5;\n"
        "cvt.rn.satfinite.e2m1x2.f32 d, %8, %7;\n"
        "mov.b32 %0, {a, b, c, d}; }"
        : "=r"(codes)
        : "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]), "f"(x[4]), "f"(x[5]), "f"(x[6]), "f"(x[7]));
    return codes;
}

// How a block is rounded.
struct BlockScale {
    u32 code;
    float inverse;  // what its elements are multiplied with to be in units of codes

    // Of a block by its largest magnitude; `per_unit` is the inverse of the unit.
    __device__ BlockScale(float largest, float per_unit)
        : code(e4m3_of(largest * (per_unit * (1.0f / LARGEST_CODE)))),
          // Where the scale is 0, codes say nothing.
          inverse(__fdividef(per_unit, f32_of_e4m3((u8)code))) {}
};
