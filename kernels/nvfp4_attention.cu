// As flash_attention.cu, with queries, keys, weights and values rounded to NVFP4 (nvfp4.cuh).
//
//   keys, values --copied--> tiles of 16-bit elements --rounded by all--> tiles of codes and scales
//                                   ^ next ones meanwhile                   --> mma, a warp 16 rows
// Queries and keys have blocks along the head; the unit is a query's own and a tile's. Weights and
// values have blocks of 16 consecutive keys: values are transposed on the way. Their unit is that of
// the largest value so far, 1/2688 that of weights, which are 1 at most.
// A lane's scores of 64 keys are what it multiplies next: `key_of` puts keys in such an order that
// two lanes have a block of weights. What is not finite in values is left out and added after.
// Limited by issuing what rounds and weighs.
#include "nvfp4.cuh"
#include "online.cuh"
#include "weights.cuh"

static_assert(KEYS == 64 && FRAGS_M == 1 && WARPS_N == 1, "weights are one fragment");

constexpr int STEPS = D / 64;
// Bytes from a row of codes to the next: of a query or key, of the values of a column.
constexpr int CODES = D / 2 + CHUNK, V_CODES = KEYS / 2 + CHUNK;
// In shared memory: codes, then scales.
constexpr int QUERIES = ROWS * (CODES + STEPS * 4 + 4);
constexpr int K_CODES_TILE = KEYS * CODES, V_CODES_TILE = D_V * V_CODES;
constexpr int ROUNDED = K_CODES_TILE + KEYS * STEPS * 4 + V_CODES_TILE + D_V * 4;
constexpr u32 SIZES = 0x7FFF7FFFu, INF_BITS = MMA == MMA_BF16 ? 0x7F80 : 0x7C00;

__device__ inline u32 max_of_pairs(u32 a, u32 b) {
    u32 most;
    asm("max.u16x2 %0, %1, %2;" : "=r"(most) : "r"(a), "r"(b));
    return most;
}

__device__ inline bool is_finite(u32 sizes) {
    return (sizes & 0xFFFF) < INF_BITS && sizes >> 16 < INF_BITS;
}

// A pair without what is infinite or NaN.
__device__ inline u32 finite_part(u32 pair) {
    if ((pair & 0x7FFF) >= INF_BITS) pair &= 0xFFFF0000u;
    if ((pair >> 16 & 0x7FFF) >= INF_BITS) pair &= 0xFFFFu;
    return pair;
}

// A warp a row: its codes, its blocks' scales, its unit.
__device__ inline void load_queries(u8* to, const Args& args, const Tile& tile, int kv_head) {
    constexpr int OWN = (D + 127) / 128 * 4;
    const int lane = threadIdx.x % 32;
    u8* scales = to + ROWS * CODES;
    float* units = (float*)(scales + ROWS * STEPS * 4);
    for (int local = threadIdx.x / 32; local < ROWS; local += THREADS / 32) {
        const Row row(args, tile.queries, tile.row + local, kv_head);
        const u8* from = query_of(args, tile, row);
        float x[OWN];
        u32 largest = 0;  // bits, which are in the order of magnitudes
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int col = i / 4 * 128 + lane * 4 + i % 4;
            x[i] = row.there && col < args.d ? load(args.q.dtype, from + col * args.q.col) : 0.0f;
            largest = max(largest, __float_as_uint(fabsf(x[i])));
        }
        largest = __reduce_max_sync(~0u, largest);
        const float unit = unit_of(__uint_as_float(largest));
#pragma unroll
        for (int i = 0; i < OWN; i += 4) {
            u32 top = 0;
#pragma unroll
            for (int j = i; j < i + 4; j++) top = max(top, __float_as_uint(fabsf(x[j])));
            // Four lanes have a block.
            top = max(top, __shfl_xor_sync(~0u, top, 1));
            top = max(top, __shfl_xor_sync(~0u, top, 2));
            const BlockScale scale(__uint_as_float(top), __fdividef(1.0f, unit));
            const float f = scale.inverse;
            const u32 codes = e2m1_of({x[i] * f, x[i + 1] * f, x[i + 2] * f, x[i + 3] * f});
            const int col = i / 4 * 128 + lane * 4;
            if (col >= D) continue;
            *(u16*)(to + local * CODES + col / 2) = (u16)codes;
            if (lane % 4 == 0)
                scales[local * STEPS * 4 + col / BLOCK] =
                    (u8)(top < 0x7F800000u ? scale.code : NAN_SCALE);
        }
        if (lane == 0) units[local] = unit;
    }
}

// The largest finite magnitude of what this thread looks at of a tile, as its bits.
template <int WIDTH>
__device__ inline u32 largest_of(const u8* tile) {
    constexpr int ROW = WIDTH * UNIT / CHUNK;
    u32 most = 0;
    for (int i = threadIdx.x; i < KEYS * ROW; i += THREADS) {
        const uint4 chunk = *(const uint4*)(tile + i / ROW * pitch(WIDTH) + i % ROW * CHUNK);
        const u32 pairs[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
        u32 top = most;
#pragma unroll
        for (int j = 0; j < 4; j++) top = max_of_pairs(top, pairs[j] & SIZES);
        if (!is_finite(top)) {
            top = most;
#pragma unroll
            for (int j = 0; j < 4; j++) top = max_of_pairs(top, finite_part(pairs[j]) & SIZES);
        }
        most = top;
    }
    return max(most & 0xFFFF, most >> 16);
}

// Those of keys and of values in a tile; all threads take part.
__device__ inline float2 largest_of_tile(const u8* staged, u32* of_warps) {
    const u32 k = __reduce_max_sync(~0u, largest_of<D>(staged));
    const u32 v = __reduce_max_sync(~0u, largest_of<D_V>(staged + K_TILE));
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = k | v << 16;
    __syncthreads();
    u32 most = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) most = max_of_pairs(most, of_warps[i]);
    return make_float2(low_of(most), high_of(most));
}

// Where a key is in its tile of codes: what `key_of` takes it from.
__device__ inline int place_of(int key) {
    return key / 32 * 32 + key % 16 / 4 * 8 + key % 32 / 16 * 4 + key % 4;
}

__device__ inline void round_keys(u8* codes, const u8* staged, float per_unit) {
    constexpr int BLOCKS = D / BLOCK;
    for (int i = threadIdx.x; i < KEYS * BLOCKS; i += THREADS) {
        const int key = i / BLOCKS, block = i % BLOCKS, place = place_of(key);
        const uint4* from = (const uint4*)(staged + key * pitch(D)) + 2 * block;
        const uint4 low = from[0], high = from[1];
        const u32 pairs[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        u32 top = 0;
#pragma unroll
        for (int j = 0; j < 8; j++) top = max_of_pairs(top, pairs[j] & SIZES);
        const BlockScale scale(fmaxf(low_of(top), high_of(top)), per_unit);
        u32 words[2];
#pragma unroll
        for (int w = 0; w < 2; w++) {
            float x[8];
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const u32 pair = pairs[4 * w + j / 2];
                x[j] = (j % 2 ? high_of(pair) : low_of(pair)) * scale.inverse;
            }
            words[w] = e2m1_of(x);
        }
        *(uint2*)(codes + place * CODES + block * 8) = make_uint2(words[0], words[1]);
        codes[K_CODES_TILE + place * BLOCKS + block] =
            (u8)(is_finite(top) ? scale.code : NAN_SCALE);
    }
}

// Whether there is what is not finite; it becomes 0.
__device__ inline bool round_values(u8* codes, const u8* staged, float per_unit) {
    bool odd = false;
    for (int i = threadIdx.x; i < KEYS / BLOCK * D_V / 2; i += THREADS) {
        const int block = i / (D_V / 2), cols = i % (D_V / 2) * 2;
        const u8* from = staged + BLOCK * block * pitch(D_V) + cols * UNIT;
        u32 pairs[BLOCK], top = 0;
#pragma unroll
        for (int j = 0; j < BLOCK; j++) {
            pairs[j] = *(const u32*)(from + j * pitch(D_V));
            top = max_of_pairs(top, pairs[j] & SIZES);
        }
        if (!is_finite(top)) {
            odd = true;
            top = 0;
#pragma unroll
            for (int j = 0; j < BLOCK; j++) {
                pairs[j] = finite_part(pairs[j]);
                top = max_of_pairs(top, pairs[j] & SIZES);
            }
        }
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const BlockScale scale(c ? high_of(top) : low_of(top), per_unit);
            u32 words[2];
#pragma unroll
            for (int w = 0; w < 2; w++) {
                float x[8];
                // In the order in which a lane has weights.
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    const u32 pair = pairs[j / 2 * 4 + w * 2 + j % 2];
                    x[j] = (c ? high_of(pair) : low_of(pair)) * scale.inverse;
                }
                words[w] = e2m1_of(x);
            }
            *(uint2*)(codes + (cols + c) * V_CODES + block * 8) = make_uint2(words[0], words[1]);
            codes[V_CODES_TILE + (cols + c) * (KEYS / BLOCK) + block] = (u8)scale.code;
        }
    }
    return odd;
}

// Sixteen rows of codes as they are multiplied, and their scales.
struct Rounded {
    u32 a[4], scales;
};

// Eight rows' codes and scales, two times, of rows of `step` bytes.
struct Columns {
    u32 b[4], scales[2];

    __device__ Columns(u32 codes, int bytes, int row, int at, const u32* of, int words) {
        const int lane = threadIdx.x % 32;
        load_matrices(b, codes + (row + lane / 16 * 8 + lane % 8) * bytes +
                             (2 * at + lane / 8 % 2) * CHUNK);
        scales[0] = of[(row + lane / 4) * words + at];
        scales[1] = of[(row + 8 + lane / 4) * words + at];
    }

    __device__ void multiply(float (&low)[4], float (&high)[4], const Rounded& rows) const {
        mma<0>(low, rows.a, b[0], b[1], rows.scales, scales[0]);
        mma<0>(high, rows.a, b[2], b[3], rows.scales, scales[1]);
    }
};

// Weights of 64 keys. A lane has eight of a block, its neighbour the others.
__device__ inline Rounded rounded_weights(const float (&p)[FRAGS_S][4]) {
    Rounded to;
    u32 scales[2] = {};
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float x[8], top = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                x[i] = p[half * 4 + i / 2][row * 2 + i % 2];
                top = fmaxf(top, x[i]);
            }
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            const BlockScale scale(top, WEIGHT_UNIT);
#pragma unroll
            for (int i = 0; i < 8; i++) x[i] *= scale.inverse;
            to.a[half * 2 + row] = e2m1_of(x);
            scales[row] |= scale.code << half * 16;
        }
    // Even lanes give the scales of row g, odd ones those of g + 8; lanes 0 and 1 of four have the
    // first block of each half.
    const u32 own = threadIdx.x % 2 ? scales[1] : scales[0];
    const u32 other = __shfl_xor_sync(~0u, own, 2);
    to.scales = threadIdx.x & 2 ? other | own << 8 : own | other << 8;
    return to;
}

// Adds infinities and NaN of a tile's values where rows see them.
__device__ inline void add_non_finite(State& state, const u8* values, const WarpRows& rows,
                                      const Mask& mask, int first) {
    const int positions[2] = {rows.position(0), rows.position(1)};
#pragma unroll 1
    for (int key = 0; key < KEYS; key++)
#pragma unroll
        for (int j = 0; j < FRAGS_V; j++) {
            const u32 pair = *(const u32*)(values + key * pitch(D_V) + column_of(j, 0) * UNIT);
            if (is_finite(pair & SIZES)) continue;
            const u32 left = pair ^ finite_part(pair);
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (mask.sees(positions[e / 2], first + key))
                    state.values[0][j][e] += e % 2 ? high_of(left) : low_of(left);
        }
}

__device__ inline void multiply_values(State& state, float factor) {
#pragma unroll
    for (int j = 0; j < FRAGS_V; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) state.values[0][j][e] *= factor;
}

extern "C" __global__ __launch_bounds__(THREADS, 1) void attention(
    const __grid_constant__ Args args) {
    extern __shared__ __align__(128) u8 shared[];
    const Tile tile = tile_of_block(args);
    const int kv_head = blockIdx.x % args.kv_heads, lane = threadIdx.x % 32;
    const int warp_row = threadIdx.x / 32 * 16;
    const KeyRuns runs = {args.runs + tile.runs, args.run, args.run_shift};
    const Mask mask = {args.ahead, args.window, tile.end};
    KeyLoader<D, K_LOAD, KEYS, THREADS> keys(args.k, args.k_scales, runs, kv_head, args.d,
                                             tile.end);
    KeyLoader<D_V, V_LOAD, KEYS, THREADS> values(args.v, args.v_scales, runs, kv_head, args.d_v,
                                                 tile.end);
    u8 *codes = shared + QUERIES, *v_codes = codes + K_CODES_TILE + KEYS * STEPS * 4;
    u8* staged = codes + ROUNDED;
    float* factors = (float*)(staged + K_TILE + V_TILE);
    u32* of_warps = (u32*)(factors + (K_SCALED ? KEYS : 0));

    load_queries(shared, args, tile, kv_head);
    __syncthreads();
    const u32* query_scales = (const u32*)(shared + ROWS * CODES);
    Rounded queries[STEPS];
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        load_matrices(queries[step].a, shared_address(shared) + (warp_row + lane % 16) * CODES +
                                           (2 * step + lane / 16) * CHUNK);
        queries[step].scales = query_scales[(warp_row + lane / 4 + lane % 2 * 8) * STEPS + step];
    }
    const float* units = (const float*)(query_scales + ROWS * STEPS) + warp_row + lane / 4;
    const WarpRows rows(args, tile, warp_row);

    // What is copied arrives while others work; what goes through registers does not wait in them.
    auto begin = [&](int first) {
        if (K_LOAD == COPY) keys.begin(staged, first);
        if (V_LOAD == COPY) values.begin(staged + K_TILE, first);
        copy_async_commit();
    };
    auto complete = [&](int first) {
        if (K_LOAD != COPY) {
            keys.begin(staged, first);
            keys.complete(staged, first);
        }
        if (V_LOAD != COPY) {
            values.begin(staged + K_TILE, first);
            values.complete(staged + K_TILE, first);
        }
        copy_async_wait<0>();
    };

    State state;
    for (int half = 0; half < 2; half++) {
        state.largest[0][half] = -INFINITY;
        state.sum[0][half] = 0.0f;
    }
#pragma unroll
    for (int j = 0; j < FRAGS_V; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) state.values[0][j][e] = 0.0f;
    float unit = LEAST_UNIT;
    bool odd = false;
    begin(tile.begin);
#pragma unroll 1
    for (int first = tile.begin; first < tile.end; first += KEYS) {
        complete(first);
        // The tile is there for all, and all are done with the codes of the one before.
        __syncthreads();
        if (K_SCALED && threadIdx.x < KEYS)
            factors[threadIdx.x] = keys.factor(first + threadIdx.x);
        const float2 largest = largest_of_tile(staged, of_warps);
        const float k_unit = unit_of(largest.x), before = unit;
        unit = fmaxf(unit, unit_of(largest.y));
        round_keys(codes, staged, __fdividef(1.0f, k_unit));
        odd |= round_values(v_codes, staged + K_TILE, __fdividef(1.0f, unit));
        __syncthreads();
        begin(first + KEYS);
        if (unit != before) multiply_values(state, __fdividef(before, unit));
        const bool none = mask.first(rows.first) >= first + KEYS || mask.last(rows.last) <= first;
        const bool some = mask.first(rows.last) > first || mask.last(rows.first) < first + KEYS;
        if (__all_sync(~0u, none)) continue;
        float s[FRAGS_M][FRAGS_S][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int j = 0; j < FRAGS_S; j += 2) {
                const Columns columns(shared_address(codes), CODES, 8 * j, step,
                                      (const u32*)(codes + K_CODES_TILE), STEPS);
                columns.multiply(s[0][j], s[0][j + 1], queries[step]);
            }
        finish_scores(s, args, rows, mask, __any_sync(~0u, some), first, factors,
                      args.scale * k_unit, units);
        weigh(s, state);
        const Rounded weights = rounded_weights(s[0]);
#pragma unroll
        for (int j = 0; j < FRAGS_V; j += 2) {
            const Columns columns(shared_address(v_codes), V_CODES, 8 * j, 0,
                                  (const u32*)(v_codes + V_CODES_TILE), 1);
            columns.multiply(state.values[0][j], state.values[0][j + 1], weights);
        }
    }
    multiply_values(state, unit);
    copy_async_wait<0>();
    // The barrier also ends the use of shared memory by all.
    if (__syncthreads_or(odd)) {
#pragma unroll 1
        for (int first = tile.begin; first < tile.end; first += KEYS) {
            values.begin(staged, first);
            values.complete(staged, first);
            copy_async_commit();
            copy_async_wait<0>();
            __syncthreads();
            add_non_finite(state, staged, rows, mask, first);
            __syncthreads();
        }
    }
    finish(args, state, shared, warp_row);
}
