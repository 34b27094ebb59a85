// Queries on their way to what they are rounded to.
#pragma once

#include "online.cuh"

// A row of a tile, which a warp has together: lane l elements 4l to 4l + 3 of each 128, zeros beyond
// those that there are.
struct WarpQuery {
    static constexpr int COUNT = (D + 127) / 128 * 4;
    float x[COUNT];
    u32 largest = 0;  // the bits of their largest magnitude, which are in the order of magnitudes

    __device__ static int column(int i) { return i / 4 * 128 + threadIdx.x % 32 * 4 + i % 4; }

    __device__ WarpQuery(const Args& args, const Tile& tile, int local, int kv_head) {
        const Row row(args, tile.queries, tile.row + local, kv_head);
        const u8* from = query_of(args, tile, row);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int col = column(i);
            x[i] = row.there && col < args.d ? load(args.q.dtype, from + col * args.q.col) : 0.0f;
            largest = max(largest, __float_as_uint(fabsf(x[i])));
        }
        largest = __reduce_max_sync(~0u, largest);
    }
};

#if MMA != MMA_FP8 && !ROUND_TO

// Puts eight elements from one on, a multiple of 8, in their row. Where a lane decodes blocks of keys,
// words of four blocks are in the order in which those are multiplied: of each the first, of each the
// second, and so on.
__device__ inline void put_chunk(u8* row, int at, const uint4& chunk) {
    if (LANE_COLUMNS == 1) {
        *(uint4*)(row + at * UNIT) = chunk;
        return;
    }
    u32* to = (u32*)(row + at / 64 * 128) + at % 16 / 8 * 16 + at % 64 / 16;
    to[0] = chunk.x;
    to[4] = chunk.y;
    to[8] = chunk.z;
    to[12] = chunk.w;
}

// Queries as they are, zeros beyond those that there are.
__device__ inline void load_queries(u8* to, const Args& args, const Tile& tile, int kv_head) {
    constexpr int ROW = D / 8;
    for (int i = threadIdx.x; i < ROWS * ROW; i += THREADS) {
        const Row row(args, tile.queries, tile.row + i / ROW, kv_head);
        const int col = i % ROW * 8;
        const u8* from = query_of(args, tile, row) + col * args.q.col;
        Fetched chunk = {};
        if (row.there) {
            if (args.q_chunks && col + 8 <= args.d) {
                *(uint4*)chunk.words = *(const uint4*)from;
            } else if (col < args.d) {
                gather(chunk, from, args.q.col, 0, args.d - col);
            }
        }
        put_chunk(to + i / ROW * pitch(D), col, decoded<COPY>(chunk));
    }
}

#endif
