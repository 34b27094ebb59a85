// As flash_attention.cu, with queries, keys, weights and values rounded to NVFP4 (nvfp4.cuh) or MXFP8
// (mxfp8.cuh), which ROUND_TO says.
//
//   keys, values --copied--> tiles of 16-bit elements --rounded by all--> tiles of codes and scales
//                                   ^ next ones meanwhile                   --> mma, a warp 16 rows
// Queries and keys have blocks along the head, weights and values blocks of consecutive keys: values
// are transposed on the way. NVFP4 has units: a query's own and a tile's, of values that of the
// largest so far, 1/2688 that of weights, which are 1 at most.
// A lane's scores of 64 keys are what it multiplies next (key_order.cuh). What is not finite in values
// is left out and added after.
// Limited by issuing what rounds and weighs.
#include "queries.cuh"
#if ROUND_TO == MMA_NVFP4
#include "nvfp4.cuh"
#else
#include "mxfp8.cuh"
#endif

static_assert(KEYS == 64 && FRAGS_M == 1 && WARPS_N == 1, "weights are one fragment of all keys");

// Elements of an instruction along k, and of a word of codes.
constexpr int IN_STEP = 32 * PER_BYTE, IN_WORD = 4 * PER_BYTE;
constexpr int STEPS = D / IN_STEP, KEY_STEPS = KEYS / IN_STEP;
// Bytes from a row of codes to the next: of a query or key, of the values of a column.
constexpr int CODES = D / PER_BYTE + CHUNK, V_CODES = KEYS / PER_BYTE + CHUNK;

// Words of the scales of a row.
__device__ constexpr int words_of(int steps) { return (steps * STEP_SCALES + 3) / 4; }

constexpr int SCALES = words_of(STEPS), V_SCALES = words_of(KEY_STEPS);
// In shared memory: codes, then scales, then units.
constexpr int QUERIES = ROWS * (CODES + SCALES * 4 + (HAS_UNIT ? 4 : 0));
constexpr int K_CODES_TILE = KEYS * CODES, V_CODES_TILE = D_V * V_CODES;
constexpr int K_ROUNDED = K_CODES_TILE + KEYS * SCALES * 4;
constexpr int ROUNDED = K_ROUNDED + V_CODES_TILE + D_V * V_SCALES * 4;
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

// Puts the scale of a block of a row of BLOCKS; zeros where their last word is not full.
template <int BLOCKS>
__device__ inline void store_scale(u8* row, int block, u32 code) {
    row[block] = (u8)code;
    if (block == BLOCKS - 1)
        for (int rest = BLOCKS; rest % 4; rest++) row[rest] = 0;
}

// Codes of elements that a function gives by their places.
template <int WORDS, typename Element>
__device__ inline void round_to(u32 (&words)[WORDS], float inverse, Element element) {
#pragma unroll
    for (int w = 0; w < WORDS; w++) {
        float x[IN_WORD];
#pragma unroll
        for (int i = 0; i < IN_WORD; i++) x[i] = element(w * IN_WORD + i) * inverse;
        words[w] = word_of(x);
    }
}

// A warp a row.
__device__ inline void load_queries(u8* to, const Args& args, const Tile& tile, int kv_head) {
    u8* scales = to + ROWS * CODES;
    float* units = (float*)(scales + ROWS * SCALES * 4);
    for (int local = threadIdx.x / 32; local < ROWS; local += THREADS / 32) {
        const WarpQuery query(args, tile, local, kv_head);
        const float unit = unit_of(__uint_as_float(query.largest));
#pragma unroll
        for (int i = 0; i < query.COUNT; i += 4) {
            u32 top = 0;
#pragma unroll
            for (int j = i; j < i + 4; j++) top = max(top, __float_as_uint(fabsf(query.x[j])));
            for (int lanes = 1; lanes < BLOCK / 4; lanes *= 2)
                top = max(top, __shfl_xor_sync(~0u, top, lanes));
            const BlockScale scale(__uint_as_float(top), inverse_of(unit));
            u32 codes[1];
            round_to(codes, scale.inverse, [&](int j) { return j < 4 ? query.x[i + j] : 0.0f; });
            const int col = query.column(i);
            if (col >= D) continue;
            u8* at = to + local * CODES + col / PER_BYTE;
            if (PER_BYTE == 2)
                *(u16*)at = (u16)codes[0];
            else
                *(u32*)at = codes[0];
            if (col % BLOCK == 0)
                store_scale<D / BLOCK>(scales + local * SCALES * 4, col / BLOCK,
                                       top < 0x7F800000u ? scale.code : NAN_SCALE);
        }
        if (HAS_UNIT && threadIdx.x % 32 == 0) units[local] = unit;
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

__device__ inline void round_keys(u8* codes, const u8* staged, float per_unit) {
    constexpr int BLOCKS = D / BLOCK, CHUNKS = BLOCK / 8;
    for (int i = threadIdx.x; i < KEYS * BLOCKS; i += THREADS) {
        const int key = i / BLOCKS, block = i % BLOCKS, place = place_of(key);
        const uint4* from = (const uint4*)(staged + key * pitch(D)) + CHUNKS * block;
        u32 pairs[BLOCK / 2], top = 0;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            const uint4 chunk = from[c];
            pairs[4 * c] = chunk.x;
            pairs[4 * c + 1] = chunk.y;
            pairs[4 * c + 2] = chunk.z;
            pairs[4 * c + 3] = chunk.w;
        }
#pragma unroll
        for (int j = 0; j < BLOCK / 2; j++) top = max_of_pairs(top, pairs[j] & SIZES);
        const BlockScale scale(fmaxf(low_of(top), high_of(top)), per_unit);
        u32 words[BLOCK / IN_WORD];
        round_to(words, scale.inverse,
                 [&](int j) { return j % 2 ? high_of(pairs[j / 2]) : low_of(pairs[j / 2]); });
        uint2* to = (uint2*)(codes + place * CODES + block * (BLOCK / PER_BYTE));
#pragma unroll
        for (int w = 0; w < BLOCK / IN_WORD; w += 2) to[w / 2] = make_uint2(words[w], words[w + 1]);
        store_scale<BLOCKS>(codes + K_CODES_TILE + place * SCALES * 4, block,
                            is_finite(top) ? scale.code : NAN_SCALE);
    }
}

// Whether there is what is not finite; it becomes 0.
__device__ inline bool round_values(u8* codes, const u8* staged, float per_unit) {
    constexpr int SHARERS = BLOCK / OWN_KEYS, PAIRS = D_V / 2;
    static_assert(KEYS / OWN_KEYS * PAIRS % 32 == 0, "whole warps");
    bool odd = false;
    for (int i = threadIdx.x; i < KEYS / OWN_KEYS * PAIRS; i += THREADS) {
        const int part = SHARERS == 2 ? i / 16 % 2 : 0, shared = SHARERS == 2 ? i / 32 * 16 + i % 16 : i;
        const int block = shared / PAIRS, cols = shared % PAIRS * 2;
        const u8* from = staged + BLOCK * block * pitch(D_V) + cols * UNIT;
        u32 pairs[OWN_KEYS], top = 0;
#pragma unroll
        for (int j = 0; j < OWN_KEYS; j++) {
            pairs[j] = *(const u32*)(from + own_key(part, j) * pitch(D_V));
            top = max_of_pairs(top, pairs[j] & SIZES);
        }
        if (!is_finite(top)) {
            odd = true;
            top = 0;
#pragma unroll
            for (int j = 0; j < OWN_KEYS; j++) {
                pairs[j] = finite_part(pairs[j]);
                top = max_of_pairs(top, pairs[j] & SIZES);
            }
        }
        if (SHARERS == 2) top = max_of_pairs(top, __shfl_xor_sync(~0u, top, 16));
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const BlockScale scale(c ? high_of(top) : low_of(top), per_unit);
            u32 words[OWN_KEYS / IN_WORD];
            round_to(words, scale.inverse, [&](int j) {
                const u32 pair = pairs[own_code(j)];
                return c ? high_of(pair) : low_of(pair);
            });
            u8* to = codes + (cols + c) * V_CODES + block * (BLOCK / PER_BYTE) + part * 8;
#pragma unroll
            for (int w = 0; w < OWN_KEYS / IN_WORD; w += 2)
                *(uint2*)(to + w * 8) = make_uint2(words[w], words[w + 1]);
            if (part == 0)
                store_scale<KEYS / BLOCK>(codes + V_CODES_TILE + (cols + c) * V_SCALES * 4, block,
                                          scale.code);
        }
    }
    return odd;
}

// Sixteen rows of codes as they are multiplied, and their scales.
template <int COUNT>
struct Rounded {
    u32 a[COUNT][4], scales[words_of(COUNT)];
};

// Adds products with eight rows of a tile of codes, and with the eight after them. Rows are of so many
// bytes; their scales begin at `of`.
template <int COUNT>
__device__ inline void multiply(float (&low)[4], float (&high)[4], const Rounded<COUNT>& rows,
                                u32 codes, int bytes, const u32* of, int row) {
    constexpr int WORDS = words_of(COUNT);
    const int lane = threadIdx.x % 32;
    u32 scales[2][WORDS];
#pragma unroll
    for (int w = 0; w < WORDS; w++) {
        scales[0][w] = of[(row + lane / 4) * WORDS + w];
        scales[1][w] = of[(row + 8 + lane / 4) * WORDS + w];
    }
#pragma unroll
    for (int step = 0; step < COUNT; step++) {
        u32 b[4];
        load_matrices(b, codes + (row + lane / 16 * 8 + lane % 8) * bytes +
                             (2 * step + lane / 8 % 2) * CHUNK);
        const int w = step * STEP_SCALES / 4;
        mma_of_step(low, rows.a[step], b[0], b[1], rows.scales[w], scales[0][w], step);
        mma_of_step(high, rows.a[step], b[2], b[3], rows.scales[w], scales[1][w], step);
    }
}

#if ROUND_TO == MMA_NVFP4

// A lane has eight weights of a block, its neighbour the others.
__device__ inline Rounded<1> rounded_weights(const float (&p)[FRAGS_S][4]) {
    Rounded<1> to;
    u32 scales[2] = {};
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int row = 0; row < 2; row++) {
            auto x = [&](int i) { return p[half * 4 + i / 2][row * 2 + i % 2]; };
            float top = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) top = fmaxf(top, x(i));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            const BlockScale scale(top, WEIGHT_UNIT);
            u32 words[1];
            round_to(words, scale.inverse, x);
            to.a[0][half * 2 + row] = words[0];
            scales[row] |= scale.code << half * 16;
        }
    // Even lanes give the scales of row g, odd ones those of g + 8; lanes 0 and 1 of four have the
    // first block of each half.
    const u32 own = threadIdx.x % 2 ? scales[1] : scales[0];
    const u32 other = __shfl_xor_sync(~0u, own, 2);
    to.scales[0] = threadIdx.x & 2 ? other | own << 8 : own | other << 8;
    return to;
}

#else

// Four lanes have the weights of a block, eight each.
__device__ inline Rounded<KEY_STEPS> rounded_weights(const float (&p)[FRAGS_S][4]) {
    Rounded<KEY_STEPS> to;
    to.scales[0] = 0;
#pragma unroll
    for (int step = 0; step < KEY_STEPS; step++) {
        float most[2] = {};
#pragma unroll
        for (int i = 0; i < 16; i++)
            most[i / 2 % 2] = fmaxf(most[i / 2 % 2], p[step * 4 + i / 4][i % 4]);
        // Both rows' as 16 bits: what is cut off is less than what codes are rounded by.
        u32 top = __byte_perm(__float_as_uint(most[0]), __float_as_uint(most[1]), 0x7632);
        top = max_of_pairs(top, __shfl_xor_sync(~0u, top, 1));
        top = max_of_pairs(top, __shfl_xor_sync(~0u, top, 2));
        // Even lanes give the scales of row g, odd ones those of g + 8.
        const BlockScale scales[2] = {{__uint_as_float(top << 16), WEIGHT_UNIT},
                                      {__uint_as_float(top & 0xFFFF0000u), WEIGHT_UNIT}};
        to.scales[0] |= (threadIdx.x % 2 ? scales[1] : scales[0]).code << step * 8;
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int row = r % 2;
            u32 words[1];
            round_to(words, scales[row].inverse, [&](int i) {
                return p[step * 4 + r / 2 * 2 + i / 2][row * 2 + i % 2];
            });
            to.a[step][r] = words[0];
        }
    }
    return to;
}

#endif

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
    const KeyRuns runs = args.runs.from(tile.runs);
    const Mask mask = {args.ahead, args.window, tile.end};
    KeyLoader<D, K_LOAD, KEYS, THREADS> keys(args.k, args.k_scales, runs, kv_head, args.d,
                                             tile.end);
    KeyLoader<D_V, V_LOAD, KEYS, THREADS> values(args.v, args.v_scales, runs, kv_head, args.d_v,
                                                 tile.end);
    u8 *codes = shared + QUERIES, *v_codes = codes + K_ROUNDED;
    u8* staged = codes + ROUNDED;
    float* factors = (float*)(staged + K_TILE + V_TILE);
    u32* of_warps = (u32*)(factors + (K_SCALED ? KEYS : 0));

    load_queries(shared, args, tile, kv_head);
    __syncthreads();
    const u32* query_scales = (const u32*)(shared + ROWS * CODES);
    Rounded<STEPS> queries;
#pragma unroll
    for (int step = 0; step < STEPS; step++)
        load_matrices(queries.a[step], shared_address(shared) + (warp_row + lane % 16) * CODES +
                                           (2 * step + lane / 16) * CHUNK);
#pragma unroll
    for (int w = 0; w < SCALES; w++)
        queries.scales[w] = query_scales[(warp_row + lane / 4 + lane % 2 * 8) * SCALES + w];
    const float* units = (const float*)(query_scales + ROWS * SCALES) + warp_row + lane / 4;
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

    // All keys have one, or one each.
    constexpr bool one_factor = has_scales(K_LOAD);
    const float whole = keys.scales.whole();
    State state;
    state.clear();
    float unit = LEAST_UNIT;
    bool odd = false;
    begin(tile.begin);
#pragma unroll 1
    for (int first = tile.begin; first < tile.end; first += KEYS) {
        complete(first);
        // The tile is there for all, and all are done with the codes of the one before.
        __syncthreads();
        if (K_SCALED && !one_factor && threadIdx.x < KEYS)
            factors[threadIdx.x] = keys.factor(first + threadIdx.x);
        float k_unit = LEAST_UNIT;
        const float before = unit;
        if (HAS_UNIT) {
            const float2 largest = largest_of_tile(staged, of_warps);
            k_unit = unit_of(largest.x);
            unit = fmaxf(unit, unit_of(largest.y));
        }
        round_keys(codes, staged, inverse_of(k_unit));
        odd |= round_values(v_codes, staged + K_TILE, inverse_of(unit));
        __syncthreads();
        begin(first + KEYS);
        if (unit != before) multiply_values(state, __fdividef(before, unit));
        if (__all_sync(~0u, rows.see_none(mask, first, KEYS))) continue;
        const bool some = rows.miss_some(mask, first, KEYS);
        float s[FRAGS_M][FRAGS_S][4] = {};
#pragma unroll
        for (int j = 0; j < FRAGS_S; j += 2)
            multiply(s[0][j], s[0][j + 1], queries, shared_address(codes), CODES,
                     (const u32*)(codes + K_CODES_TILE), 8 * j);
        auto in_units = [&](float x, int key, float unit) {
            if (!K_SCALED) return x * unit;
            return scaled(x, one_factor ? whole : factors[key], unit);
        };
        finish_scores(s, args, rows, mask, __any_sync(~0u, some), first, in_units,
                      args.scale * k_unit, units);
        weigh(s, state);
        const Rounded<KEY_STEPS> weights = rounded_weights(s[0]);
#pragma unroll
        for (int j = 0; j < FRAGS_V; j += 2)
            multiply(state.values[0][j], state.values[0][j + 1], weights, shared_address(v_codes),
                     V_CODES, (const u32*)(v_codes + V_CODES_TILE), 8 * j);
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
