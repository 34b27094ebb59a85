// Rounding to MXFP8: E4M3 codes, 32 of which share an E8M0 scale.
//
// A block's scale is the least power of two in whose units its largest element is 448 at most. Such
// scales reach as far as f32 does: there is no unit of more than a block, as nvfp4.cuh has one.
#pragma once

#include "numbers.cuh"

constexpr int BLOCK = 32, PER_BYTE = 1;
constexpr float LEAST_UNIT = 1.0f;
constexpr u32 NAN_SCALE = 0xFF;
constexpr bool HAS_UNIT = false;

__device__ inline float unit_of(float) { return LEAST_UNIT; }
__device__ inline float inverse_of(float) { return LEAST_UNIT; }

// The codes of four numbers, in order from the lowest bits.
__device__ inline u32 word_of(const float (&x)[4]) {
    return e4m3_pair_of(x[0], x[1]) | e4m3_pair_of(x[2], x[3]) << 16;
}

// How a block is rounded.
struct BlockScale {
    u32 code;
    float inverse;  // what its elements are multiplied with to be in units of codes

    // Of a block by its largest magnitude.
    __device__ BlockScale(float largest, float)
        // 448 is 1.75 * 2^8; what has a larger mantissa takes the next power.
        : code(max((int)(__float_as_uint(largest) + 0x1FFFFF >> 23) - 8, 0)),
          inverse(__uint_as_float(254 - code << 23)) {}
};
