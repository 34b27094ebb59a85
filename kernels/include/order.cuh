// Elements in their order, as integers.
#pragma once

#include "numbers.cuh"

typedef unsigned long long u64;

// Numbers in their order, all NaN equal and above them, both zeros equal.
__device__ inline u32 ordered(float x) {
    if (isnan(x)) return ~0u;
    u32 bits = __float_as_uint(x == 0.0f ? 0.0f : x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The same with where it is: of equal ones the first is the largest.
__device__ inline u64 ranked(u32 order, int index) { return (u64)order << 32 | (u32)~index; }
__device__ inline int index_of(u64 ranked) { return (int)~(u32)ranked; }
