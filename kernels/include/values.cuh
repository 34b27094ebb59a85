// Weights times values, added to what a warp has of its rows.
#pragma once

#include "tiles.cuh"

#if MMA == MMA_FP8

// Makes NaN of what rows get from NaN among 32 keys' codes of 16 columns, which are freed of them.
__device__ inline void add_nan(State& state, u32 (&codes)[4], int frag, const WarpRows& rows,
                               const Mask& mask, int first) {
    constexpr u32 ONES = 0x38383838u;
    u32 nan[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const u32 bytes = (noted_nan(codes[r], 0) >> 7) * 0xFF;
        nan[r] = bytes & ONES;
        codes[r] &= ~bytes;
    }
#pragma unroll
    for (int i = 0; i < FRAGS_M; i++) {
        u32 seen[4];
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int position = rows.position(2 * i + r % 2);
            seen[r] = 0;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int key = first + r / 2 * 16 + k / 2 * 8 + threadIdx.x % 4 * 2 + k % 2;
                if (mask.sees(position, key)) seen[r] |= (ONES & 0xFF) << 8 * k;
            }
        }
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            const u32 pick = odd ? 0x7531 : 0x6420;
            float count[4] = {};
            mma(count, seen, __byte_perm(nan[0], nan[1], pick), __byte_perm(nan[2], nan[3], pick));
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (count[e] > 0.0f) state.values[i][frag + odd][e] = __uint_as_float(0x7FC00000u);
        }
    }
}

// Adds the weighted values of the warp's part of a tile. `odd` gets bits where there is NaN, which
// must not meet the weights of rows that do not see it: then all is done again, with care.
__device__ inline void add_values(State& state, const float (&p)[FRAGS_M][FRAGS_S][4], u32 values,
                                  const WarpRows& rows, const Mask& mask, bool careful, int first,
                                  u32& odd) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < WARP_KEYS / STEP; step++) {
        Weights weights[FRAGS_M];
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++) weights[i].set(p[i] + 4 * step);
#pragma unroll
        for (int j = 0; j < FRAGS_V; j += 2) {
            // Of eight keys each, two columns of keys 2t and 2t + 1.
            u32 b[4];
            load_transposed(b, values + (STEP * step + lane) * pitch(D_V) + j / 2 * CHUNK);
            if (careful) {
                add_nan(state, b, j, rows, mask, first + STEP * step);
            } else {
#pragma unroll
                for (int r = 0; r < 4; r++) odd = noted_nan(b[r], odd);
            }
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const u32 pick = k ? 0x7531 : 0x6420;
                const u32 b0 = __byte_perm(b[0], b[1], pick), b1 = __byte_perm(b[2], b[3], pick);
#pragma unroll
                for (int i = 0; i < FRAGS_M; i++) weights[i].add(state.values[i][j + k], b0, b1);
            }
        }
    }
}

#else

// Adds infinities and NaN among 16 keys' values, which `b` is freed of, where rows see them.
__device__ inline void add_non_finite(State& state, u32 (&b)[4], int frag, const WarpRows& rows,
                                      const Mask& mask, int first) {
    u32 above[4], below[4];
    split_non_finite(b, above, below);
#pragma unroll
    for (int i = 0; i < FRAGS_M; i++) {
        u32 seen[4];
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int position = rows.position(2 * i + r % 2);
            const int key = first + r / 2 * 8 + threadIdx.x % 4 * 2;
            seen[r] = pair_of(mask.sees(position, key), mask.sees(position, key + 1));
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float up[4] = {}, down[4] = {};
            mma(up, seen, above[2 * half], above[2 * half + 1]);
            mma(down, seen, below[2 * half], below[2 * half + 1]);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float& x = state.values[i][frag + half][e];
                if (up[e] > 0.0f) x += INFINITY;
                if (down[e] > 0.0f) x -= INFINITY;
            }
        }
    }
}

// Adds the weighted values of the warp's part of a tile. `odd` becomes NaN where there are
// infinities or NaN: those must not meet the weights of rows that do not see them, so all is
// done again, with care.
__device__ inline void add_values(State& state, const float (&p)[FRAGS_M][FRAGS_S][4], u32 values,
                                  const WarpRows& rows, const Mask& mask, bool careful, int first,
                                  u32& odd) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < WARP_KEYS / 16; step++) {
        Weights weights[FRAGS_M];
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++) weights[i].set(p[i] + 2 * step);
#pragma unroll
        for (int j = 0; j < FRAGS_V; j += 2) {
            u32 b[4];
            load_transposed(b, values + (16 * step + lane % 16) * pitch(D_V) +
                                   (j + lane / 16) * CHUNK);
            if (careful) {
                add_non_finite(state, b, j, rows, mask, first + 16 * step);
            } else {
#pragma unroll
                for (int r = 0; r < 4; r++) odd = times_zero(b[r], odd);
            }
#pragma unroll
            for (int i = 0; i < FRAGS_M; i++) {
                weights[i].add(state.values[i][j], b[0], b[1]);
                weights[i].add(state.values[i][j + 1], b[2], b[3]);
            }
        }
    }
}

#endif
