// Integers that are data.
#pragma once

#include "numbers.cuh"

// Index types, by the numbers that the host gives them.
enum Index { INDEX_U32 = 0, INDEX_I32 = 1, INDEX_I64 = 2 };

__device__ inline i64 load_index(int type, const u8* at) {
    switch (type) {
        case INDEX_U32: return *(const u32*)at;
        case INDEX_I32: return *(const int*)at;
        default: return *(const i64*)at;
    }
}

__device__ inline void store_index(int type, u8* at, i64 index) {
    if (type == INDEX_I64)
        *(i64*)at = index;
    else
        *(int*)at = (int)index;
}

// Keeps the least position of what is wrong, counted down from above so that memory of zeros says
// that nothing is.
__device__ inline void report(unsigned long long* wrong, i64 position) {
    atomicMax(wrong, ~(unsigned long long)position);
}

// Lengths of sequences that the GPU alone knows.
struct Lengths {
    const u8* data;  // none where the host knows them
    unsigned long long* wrong;
    i64 step;
    int dtype, reserved;

    // That of a sequence with room for so many; what is out of range is reported.
    __device__ int of(int sequence, int room) const {
        const i64 length = load_index(dtype, data + sequence * step);
        if (length < 0 || length > room) report(wrong, sequence);
        return (int)max((i64)0, min(length, (i64)room));
    }
};
