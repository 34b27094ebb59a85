// Elements in their order, as integers.
#pragma once

#include "numbers.cuh"

typedef unsigned long long u64;

// Numbers in their order, all NaN equal and above them, both zeros equal.
__device__ inline u32 ordered(float x) {
    // -0 + 0 is +0. Of negative numbers all bits are turned, of others the sign.
    const u32 bits = __float_as_uint(x + 0.0f);
    return isnan(x) ? ~0u : bits ^ ((u32)((int)bits >> 31) | 0x80000000u);
}

// The same with where it is: of equal ones the first is the largest.
__device__ inline u64 ranked(u32 order, int index) { return (u64)order << 32 | (u32)~index; }
__device__ inline int index_of(u64 ranked) { return (int)~(u32)ranked; }
