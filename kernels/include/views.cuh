// Elements of operands by their row-major position in some of the dimensions.
#pragma once

#include "numbers.cuh"

// Dimensions, outermost first, and what each moves by, in bytes.
struct Dimensions {
    int count;
    int size[6];
    int reserved;
    i64 stride[6];

    __device__ i64 offset(int position) const {
        i64 offset = 0;
#pragma unroll 1
        for (int i = count - 1; i > 0; i--) {
            offset += position % size[i] * stride[i];
            position /= size[i];
        }
        return offset + position * stride[0];
    }

    // From an element to the next one along the innermost dimension, in which there are so many from
    // a position on.
    __device__ i64 step() const { return stride[count > 1 ? count - 1 : 0]; }
    __device__ int run(int position) const {
        return count > 1 ? size[count - 1] - position % size[count - 1] : size[0] - position;
    }
};
