// Weights times values, added to what a warp has of its rows.
#pragma once

#include "tiles.cuh"

#if MMA == MMA_FP8

// One of two fragments of what was read.
__device__ inline uint2 fragment_of(const u32 (&b)[4], int which) {
    const u32 pick = which ? 0x7531 : 0x6420;
    return make_uint2(__byte_perm(b[0], b[1], pick), __byte_perm(b[2], b[3], pick));
}

// Makes NaN of what rows get from NaN among 32 keys' codes of 16 columns, which are freed of them.
__device__ inline void add_non_finite(State& state, u32 (&codes)[4], int frag, const WarpRows& rows,
                                      const Mask& mask, int first) {
    constexpr u32 ONES = 0x38383838u;
    u32 nan[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const u32 bytes = (noted(codes[r], 0) >> 7) * 0xFF;
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
            const uint2 of = fragment_of(nan, odd);
            float count[4] = {};
            mma(count, seen, of.x, of.y);
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (count[e] > 0.0f) state.values[i][frag + odd][e] = __uint_as_float(0x7FC00000u);
        }
    }
}

// Where a lane reads of 32 keys' values in 16 columns: of eight keys each, two columns of keys 2t and
// 2t + 1.
__device__ inline u32 place_of_values(u32 values, int step, int frag) {
    return values + (STEP * step + threadIdx.x % 32) * pitch(D_V) + frag / 2 * CHUNK;
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

// Where a lane reads of 16 keys' values in 16 columns.
__device__ inline u32 place_of_values(u32 values, int step, int frag) {
    const int lane = threadIdx.x % 32;
    return values + (STEP * step + lane % 16) * pitch(D_V) + (frag + lane / 16) * CHUNK;
}

__device__ inline uint2 fragment_of(const u32 (&b)[4], int which) {
    return make_uint2(b[2 * which], b[2 * which + 1]);
}

#endif

// Adds the weighted values of the warp's part of a tile. `odd` notes infinities and NaN: those must
// not meet the weights of rows that do not see them, so all is done again, with care.
__device__ inline void add_values(State& state, const float (&p)[FRAGS_M][FRAGS_S][4], u32 values,
                                  const WarpRows& rows, const Mask& mask, bool careful, int first,
                                  u32& odd) {
#pragma unroll
    for (int step = 0; step < WARP_KEYS / STEP; step++) {
        Weights weights[FRAGS_M];
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++) weights[i].set(p[i] + STEP / 8 * step);
#pragma unroll
        for (int j = 0; j < FRAGS_V; j += 2) {
            u32 b[4];
            load_transposed(b, place_of_values(values, step, j));
            if (careful) {
                add_non_finite(state, b, j, rows, mask, first + STEP * step);
            } else {
#pragma unroll
                for (int r = 0; r < 4; r++) odd = noted(b[r], odd);
            }
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const uint2 of = fragment_of(b, k);
#pragma unroll
                for (int i = 0; i < FRAGS_M; i++) weights[i].add(state.values[i][j + k], of.x, of.y);
            }
        }
    }
}
