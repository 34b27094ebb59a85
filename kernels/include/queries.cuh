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
