// In which order keys are multiplied: so that a lane's scores are the weights that it multiplies next,
// without others' help.
//
// Of 16-bit elements, and of FP8 ones, the values' side brings its keys in the order of the weights.
// Where they are rounded to blocks of consecutive keys, few lanes must have a block's weights.
#pragma once

#include "mma.cuh"

// Columns of values that a lane reads next to each other; where they are several, its keys are t and t + 4.
#ifndef LANE_COLUMNS
#define LANE_COLUMNS 1
#endif

// Which of a tile's keys a column of a fragment of scores is. Of NVFP4, two lanes have a block.
__device__ inline int key_of(int frag, int col) {
    if (ROUND_TO == MMA_NVFP4) return frag / 4 * 32 + col / 4 * 16 + frag % 4 * 4 + col % 4;
    return 8 * frag + (LANE_COLUMNS > 1 ? col / 2 + col % 2 * 4 : col);
}

// Where a key's codes are in their tile, so that it is such a column.
__device__ inline int place_of(int key) {
    return ROUND_TO == MMA_NVFP4
               ? key / 32 * 32 + key % 16 / 4 * 8 + key % 32 / 16 * 4 + key % 4
               : key;
}

// A thread rounds the values of 16 keys in two columns. Lanes l and l ^ 16 share a block of 32 keys:
// each has four of each eight, so that all read from different banks.
constexpr int OWN_KEYS = 16;

// Which of its block's keys is the i-th of sharer `part`.
__device__ inline int own_key(int part, int i) {
    return ROUND_TO == MMA_NVFP4 ? i : i / 4 * 8 + part * 4 + i % 4;
}

// Which of them is the i-th of its codes, in the order in which lanes have weights. Eight codes are
// neighbours; of 32 keys, those of sharers take turns.
__device__ inline int own_code(int i) {
    return ROUND_TO == MMA_NVFP4 ? i % 8 / 2 * 4 + i / 8 * 2 + i % 2
                                 : i / 8 * 8 + i / 2 % 2 * 4 + i % 8 / 4 * 2 + i % 2;
}
