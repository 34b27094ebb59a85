// Operands of plain elements.
#pragma once

#include "numbers.cuh"

// A matrix of each batch index; strides in bytes. Null where it is left out.
struct Matrix {
    u8* data;
    i64 batch[4];
    i64 row, col;
    int dtype;
    int words;   // of codes: whether four bytes along a row are an aligned word
    int eights;  // of elements: whether those along a row are contiguous, eight of them aligned
    int reserved;

    __device__ u8* of_batch(const int (&index)[4]) const {
        u8* at = data;
        for (int i = 0; i < 4; i++) at += index[i] * batch[i];
        return at;
    }
};
