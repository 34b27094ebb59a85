// The kernel that joins the pieces that rows were cut into.
#pragma once

#include "online.cuh"

// One row of one joint a block.
extern "C" __global__ __launch_bounds__(THREADS) void join(const __grid_constant__ Args args) {
    const int local = blockIdx.x % ROWS, kv_head = blockIdx.x / ROWS % args.kv_heads;
    const Joint joint = args.joints[blockIdx.x / ROWS / args.kv_heads];
    const Row row(args, joint.queries, joint.row + local, kv_head);
    if (!row.there) return;
    auto of_piece = [&](int i) { return part(args, joint.piece + i, kv_head, local); };
    float top = -INFINITY;
    for (int i = 0; i < joint.pieces; i++) top = fmaxf(top, of_piece(i)[args.d_v]);
    const float sink = sink_of(args, row.head);
    for (int col = threadIdx.x; col < args.d_v; col += THREADS) {
        Join whole(sink, top);
        float value = 0.0f;
        for (int i = 0; i < joint.pieces; i++) {
            const float* piece = of_piece(i);
            value = fmaf(piece[col], whole.add(piece[args.d_v], piece[args.d_v + 1]), value);
        }
        const int query = joint.query + row.query;
        if (col == 0) store_lse(args, query, row.head, whole);
        store_value(args, query, row.head, col, value, whole.total);
    }
}
