// O = softmax(c(scale * Q K^T) + bias) V, on tensor cores, softmax online.
//
//            keys -->  tiles of KEYS in shared memory, the next one copied meanwhile
//          +--------+--------+   A block takes ROWS rows, which are queries of all heads that
//     ROWS | warp_n |        |   share a key head, heads innermost. WARPS_M x WARPS_N warps: a
//          |   0    |   1    |   warp has rows in m16 fragments and its part of each tile's keys;
//          +--------+--------+   its largest score, sum and weighted values stay in registers.
// The WARPS_N parts are joined at the end, always in the same order; so are pieces of SPLIT keys
// that blocks of their own take, by a second kernel. Tiles begin at multiples of KEYS, so that a
// row's result depends on nothing but its sequence.
// Limited by matrix instructions where rows fill the tile, else by reading keys and values once.
#include "join.cuh"
#include "queries.cuh"
#include "values.cuh"

#if MMA == MMA_FP8

// Queries in units of a scale each, with which their largest element is the largest code; the
// scales follow.
__device__ inline void load_queries(u8* to, const Args& args, const Tile& tile, int kv_head) {
    for (int local = threadIdx.x / 32; local < ROWS; local += THREADS / 32) {
        const WarpQuery query(args, tile, local, kv_head);
        const float(&x)[query.COUNT] = query.x;
        const float largest = __uint_as_float(query.largest);
        const float scale = fmaxf(__fdiv_rn(largest, 448.0f), 1.17549435e-38f);
#pragma unroll
        for (int i = 0; i < query.COUNT; i += 4) {
            const int col = query.column(i);
            u32 codes = 0;
#pragma unroll
            for (int j = 0; j < 4; j += 2)
                codes |= e4m3_pair_of(__fdiv_rn(x[i + j], scale), __fdiv_rn(x[i + j + 1], scale))
                         << 8 * j;
            if (col < D) *(u32*)(to + local * pitch(D) + col) = codes;
        }
        if (threadIdx.x % 32 == 0) ((float*)(to + ROWS * pitch(D)))[local] = scale;
    }
}

#endif

// The scores of a warp's rows and the keys of its part of a tile, before scale and mask.
__device__ inline void multiply(float (&s)[FRAGS_M][FRAGS_S][4], u32 queries, u32 keys,
                                const u32 (&kept)[KEEP_Q ? D / STEP : 1][FRAGS_M][4]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < D / STEP; step++) {
        u32 a[FRAGS_M][4];
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++) {
            if (KEEP_Q) {
#pragma unroll
                for (int r = 0; r < 4; r++) a[i][r] = kept[KEEP_Q ? step : 0][i][r];
            } else {
                load_matrices(a[i], queries + (16 * i + lane % 16) * pitch(D) +
                                        (2 * step + lane / 16) * CHUNK);
            }
        }
#pragma unroll
        for (int j = 0; j < FRAGS_S; j += 2) {
            u32 b[4];
            load_matrices(b, keys + (8 * j + lane / 16 * 8 + lane % 8) * pitch(D) +
                                 (2 * step + lane / 8 % 2) * CHUNK);
#pragma unroll
            for (int i = 0; i < FRAGS_M; i++) {
                mma(s[i][j], a[i], b[0], b[1]);
                mma(s[i][j + 1], a[i], b[2], b[3]);
            }
        }
    }
}

extern "C" __global__ __launch_bounds__(THREADS, 1) void attention(
    const __grid_constant__ Args args) {
    extern __shared__ __align__(128) u8 shared[];
    const Tile tile = tile_of_block(args);
    const int kv_head = blockIdx.x % args.kv_heads;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp % WARPS_M * 16 * FRAGS_M, warp_key = warp / WARPS_M * WARP_KEYS;
    const KeyRuns runs = args.runs.from(tile.runs);
    const Mask mask = {args.ahead, args.window, tile.end};
    KeyLoader<D, K_LOAD, KEYS, THREADS> keys(args.k, args.k_scales, runs, kv_head, args.d,
                                             tile.end);
    KeyLoader<D_V, V_LOAD, KEYS, THREADS> values(args.v, args.v_scales, runs, kv_head, args.d_v,
                                                 tile.end);
    u8* stages = shared + Q_TILE;
    auto stage = [&](int first) { return stages + first / KEYS % STAGES * STAGE; };

    load_queries(shared, args, tile, kv_head);
    __syncthreads();
    const u32 queries = shared_address(shared) + warp_row * pitch(D);
    u32 kept[KEEP_Q ? D / STEP : 1][FRAGS_M][4];
    if (KEEP_Q) {
#pragma unroll
        for (int step = 0; step < (KEEP_Q ? D / STEP : 1); step++)
#pragma unroll
            for (int i = 0; i < FRAGS_M; i++)
                load_matrices(kept[step][i], queries + (16 * i + lane % 16) * pitch(D) +
                                                 (2 * step + lane / 16) * CHUNK);
    }
    const WarpRows rows(args, tile, warp_row);
    // Their scales, where they have some.
    const float* of_queries = (const float*)(shared + ROWS * pitch(D)) + warp_row + lane / 4;

    // All keys have one, or one each.
    constexpr bool one_factor = has_scales(K_LOAD);
    const float whole = keys.scales.whole();
    auto factors = [&](u8* of) { return (float*)(of + K_TILE + V_TILE); };
    auto load_factors = [&](u8* to, int first) {
        if (K_SCALED && !one_factor && threadIdx.x < KEYS && first < tile.end)
            factors(to)[threadIdx.x] = keys.factor(first + threadIdx.x);
    };

    State state;
    bool careful = false;
#pragma unroll 1
    while (true) {
        u32 odd = 0;
        state.clear();
        u8* to = stage(tile.begin);
        keys.begin(to, tile.begin);
        keys.complete(to, tile.begin);
        values.begin(to + K_TILE, tile.begin);
        values.complete(to + K_TILE, tile.begin);
        load_factors(to, tile.begin);
        copy_async_commit();
#pragma unroll 1
        for (int first = tile.begin; first < tile.end; first += KEYS) {
            copy_async_wait<0>();
            // The tile is there for all, and all are done with the one that is replaced next.
            __syncthreads();
            const int next = first + KEYS, own = first + warp_key;
            to = stage(next);
            keys.begin(to, next);
            if (V_LOAD == COPY) values.begin(to + K_TILE, next);
            copy_async_commit();
            const bool live = !__all_sync(~0u, rows.see_none(mask, own, WARP_KEYS));
            const bool some = rows.miss_some(mask, own, WARP_KEYS);
            // There is nothing to put for others either.
            if (!live && K_LOAD == COPY && V_LOAD == COPY) continue;
            u8* now = stage(first);
            float s[FRAGS_M][FRAGS_S][4] = {};
            if (live) {
                multiply(s, queries, shared_address(now) + warp_key * pitch(D), kept);
                auto in_units = [&](float x, int key, float unit) {
                    if (!K_SCALED) return x * unit;
                    return scaled(x, one_factor ? whole : factors(now)[warp_key + key], unit);
                };
                finish_scores(s, args, rows, mask, __any_sync(~0u, some), own, in_units, args.scale,
                              of_queries);
                weigh(s, state);
            }
            keys.complete(to, next);
            load_factors(to, next);
            if (V_LOAD != COPY) values.begin(to + K_TILE, next);
            if (live)
                add_values(state, s, shared_address(now) + K_TILE + warp_key * pitch(D_V), rows,
                           mask, careful, own, odd);
            values.complete(to + K_TILE, next);
        }
        copy_async_wait<0>();
        // The barrier also ends the use of shared memory by all.
        if (!__syncthreads_or(is_odd(odd)) || careful) break;
        careful = true;
    }

    finish(args, state, shared, warp_row);
}
