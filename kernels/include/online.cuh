// Scores to weights, softmax online, and sums of weighted values to results.
#pragma once

#include "tiles.cuh"

// Where a query of a head begins.
__device__ inline const u8* query_of(const Args& args, const Tile& tile, const Row& row) {
    const int at = tile.query + row.query;
    return args.q.data + at / args.q_rows * args.q.batch[2] +
           at % args.q_rows * args.q.batch[3] + row.head * args.q.row;
}

// Calls with each of one row's scores and its key, counted from the warp's first.
template <typename F>
__device__ inline void each_score(float (&s)[FRAGS_S][4], int row, F f) {
#pragma unroll
    for (int j = 0; j < FRAGS_S * 2; j++)
        f(s[j / 2][row * 2 + j % 2], key_of(j / 2, threadIdx.x % 4 * 2 + j % 2));
}

// Scale, bound, bias and mask; `first` is the warp's first key, `in_units` multiplies a score of a key,
// which is counted from that, with its scale and a unit.
template <typename InUnits>
__device__ inline void finish_scores(float (&s)[FRAGS_M][FRAGS_S][4], const Args& args,
                                     const WarpRows& rows, const Mask& mask, bool masked, int first,
                                     InUnits in_units, float scale, const float* of_queries) {
#pragma unroll
    for (int i = 0; i < FRAGS_M * 2; i += 2 / HALVES) {
        // Scores are in units of 1 / SCORE.
        float unit = SOFTCAP ? scale : scale * SCORE;
        if (QUERY_SCALES) unit *= of_queries[8 * i];
        float(&of)[FRAGS_S][4] = s[i / 2];
        each_score(of, i % 2, [&](float& x, int key) {
            x = in_units(x, key, unit);
#if SOFTCAP
            x = args.softcap * SCORE * tanhf(x / args.softcap);
#endif
        });
        if (!masked && !args.alibi.data) continue;
        const int position = rows.position(i);
        if (args.alibi.data) {
            const float slope = rows.slope(i);
            each_score(of, i % 2, [&](float& x, int key) {
                x += slope * (float)(first + key - position);
            });
        }
        if (masked) {
            const int begin = mask.first(position) - first, end = mask.last(position) - first;
            each_score(of, i % 2, [&](float& x, int key) {
                if (key < begin || key >= end) x = -INFINITY;
            });
        }
    }
}

// Turns scores into weights, by the largest score so far.
__device__ inline void weigh(float (&s)[FRAGS_M][FRAGS_S][4], State& state) {
#pragma unroll
    for (int i = 0; i < FRAGS_M; i++)
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const float before = state.largest[i][half];
            float top = before;
#pragma unroll
            for (int j = 0; j < FRAGS_S; j++)
                top = fmaxf(top, fmaxf(s[i][j][2 * half], s[i][j][2 * half + 1]));
            // Four lanes share a row.
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            state.largest[i][half] = top;
            const float kept = weight(before, top);
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < FRAGS_S; j++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    s[i][j][e] = weight(s[i][j][e], top);
                    sum += s[i][j][e];
                }
            // Those of the other lanes are added at the end.
            state.sum[i][half] = state.sum[i][half] * kept + sum;
#pragma unroll
            for (int j = 0; j < FRAGS_V; j++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 4 / HALVES; e++) state.values[i][j][e] *= kept;
        }
}

// Adds what values got of weights' second terms, where the other half of fragments has it.
__device__ inline void add_terms(State& state) {
#pragma unroll
    for (int i = 0; i < FRAGS_M && FEW_ROWS; i++)
#pragma unroll
        for (int j = 0; j < FRAGS_V; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) state.values[i][j][e] += state.values[i][j][e + 2];
}

// Joins pieces of a row in order: scores above, and the sink.
struct Join {
    float top, total;

    // The sink, or -inf, and the largest of the pieces' largest scores.
    __device__ Join(float sink, float largest) : top(fmaxf(sink, largest)) {
        total = weight(sink, top);
    }

    // What the values of a piece are multiplied with.
    __device__ float add(float largest, float sum) {
        float kept = weight(largest, top);
        total = fmaf(sum, kept, total);
        return kept;
    }
};

__device__ inline float sink_of(const Args& args, int head) {
    return args.sinks.data
               ? SCORE * load(args.sinks.dtype, args.sinks.data + head * args.sinks.col)
               : -INFINITY;
}

__device__ inline void store_lse(const Args& args, int query, int head, const Join& row) {
    if (!args.lse.data) return;
    u8* to = args.lse.data + query / args.q_rows * args.lse.batch[3] +
             query % args.q_rows * args.lse.row + head * args.lse.col;
    store(args.lse.dtype, to, log_sum(row.top, row.total));
}

__device__ inline void store_value(const Args& args, int query, int head, int col, float value,
                                   float total) {
    u8* to = args.out.data + query / args.q_rows * args.out.batch[2] +
             query % args.q_rows * args.out.batch[3] + head * args.out.row + col * args.out.col;
    value = total == 0.0f ? value : value / total;
    if (args.v_scales.tensor) value = scaled(value, *args.v_scales.tensor, 1.0f);
    store(args.out.dtype, to, value);
}

// Where a piece's row of a key head lies: d_v values, the largest score, the sum.
__device__ inline float* part(const Args& args, int piece, int kv_head, int row) {
    i64 at = ((i64)piece * args.kv_heads + kv_head) * ROWS + row;
    return args.parts + at * (args.d_v + 2);
}

// Joins what the warps have, and stores it.
__device__ inline void finish(const Args& args, const State& state, u8* shared, int warp_row) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Read again: registers are short before.
    const Tile tile = args.tiles[blockIdx.x / args.kv_heads];
    const int kv_head = blockIdx.x % args.kv_heads;
    // Through shared memory: parts of warps are joined, and neighbouring threads store neighbours.
    constexpr int PITCH = D_V + 4;
    float* parts = (float*)shared;
    float* largest = parts + WARPS_N * ROWS * PITCH;
    float* sums = largest + WARPS_N * ROWS;
    const int at = warp / WARPS_M * ROWS + warp_row + lane / 4;
#pragma unroll
    for (int i = 0; i < FRAGS_M * 2; i++) {
        const int row = at + 8 * i;
        float sum = state.sum[i / 2][i % 2];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (lane % 4 == 0) {
            largest[row] = state.largest[i / 2][i % 2];
            sums[row] = sum;
        }
#pragma unroll
        for (int j = 0; j < FRAGS_V * 2; j++)
            parts[row * PITCH + column_of(j / 2, j)] =
                state.values[i / 2][j / 2][i % 2 * 2 + j % 2] / WEIGHT_UNIT;
    }
    __syncthreads();
    if (threadIdx.x < ROWS) {
        float top = -INFINITY;
        for (int w = 0; w < WARPS_N; w++) top = fmaxf(top, largest[w * ROWS + threadIdx.x]);
        Join row(-INFINITY, top);
        for (int w = 0; w < WARPS_N; w++) {
            const int i = w * ROWS + threadIdx.x;
            largest[i] = row.add(largest[i], sums[i]);
        }
        const Row of(args, tile.queries, tile.row + threadIdx.x, kv_head);
        sums[threadIdx.x] = row.total;
        if (tile.piece < 0) {
            Join whole(sink_of(args, of.head), row.top);
            const float factor = whole.add(row.top, row.total);
            if (of.there) store_lse(args, tile.query + of.query, of.head, whole);
            sums[threadIdx.x] = whole.total;
            sums[ROWS * WARPS_N + threadIdx.x] = factor;
        } else if (of.there) {
            float* to = part(args, tile.piece, kv_head, threadIdx.x) + args.d_v;
            to[0] = row.top;
            to[1] = row.total;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * D_V; i += THREADS) {
        const int local = i / D_V, col = i % D_V;
        const Row row(args, tile.queries, tile.row + local, kv_head);
        if (!row.there || col >= args.d_v) continue;
        float value = 0.0f;
        for (int w = 0; w < WARPS_N; w++) {
            const int at = w * ROWS + local;
            value = fmaf(parts[at * PITCH + col], largest[at], value);
        }
        if (tile.piece < 0) {
            value *= sums[ROWS * WARPS_N + local];
            store_value(args, tile.query + row.query, row.head, col, value, sums[local]);
        } else {
            part(args, tile.piece, kv_head, local)[col] = value;
        }
    }
}
