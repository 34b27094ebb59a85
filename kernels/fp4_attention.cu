// As flash_attention.cu with few queries, of NVFP4 keys and values: codes stay codes in shared memory.
//
//   keys, values --copied, a warp its own, STAGES tiles at once--> codes, scales
//       --decoded by the lane that multiplies them: 16 codes of a key, or 16 columns of a value--> mma
//
// Which element is which k of mma, and which column, follows from that: queries are read in the same
// order, and results are stored in it (column_of). Values of two keys become pairs as codes, by nibbles.
// Limited by issuing what decodes, and by memory.

// Columns of values that a lane has next to each other.
#define LANE_COLUMNS (D_V / 8)
#include "join.cuh"
#include "key_codes.cuh"
#include "queries.cuh"
#include "values.cuh"

static_assert(FRAGS_M == 1 && WARPS_M == 1 && SPLIT_WEIGHTS, "a warp has all rows of decoding");
constexpr int SPANS = D / 64;              // of four blocks of a key
constexpr int OWN_WORDS = LANE_COLUMNS / 8;     // of codes
typedef CodeLoader<D> Keys;
typedef CodeLoader<D_V> Values;
constexpr int OWN_STAGE = Keys::SIZE + Values::SIZE;

// Two scales, and what takes codes that they scale down again.
struct Pair {
    u32 scales, offsets;

    __device__ explicit Pair(u32 scales) : scales(scales), offsets(times(scales, FP4_OFFSET)) {}

    __device__ u32 scaled(u32 raised) const { return scaled_fp4(raised, scales, offsets); }
};

// The scores of a warp's keys.
__device__ inline void multiply_keys(float (&s)[FRAGS_S][4], u32 keys, u32 queries,
                                     const RaisedFp4& raised_fp4) {
    const int lane = threadIdx.x % 32, key = key_of(0, lane / 4), t = lane % 4;
#pragma unroll (FEW_ROWS ? SPANS : 1)
    for (int span = 0; span < SPANS; span++) {
        u32 rows[4][4];
#pragma unroll
        for (int step = 0; step < 4; step++)
            load_matrices(rows[step], queries + lane % 16 * pitch(D) + span * 128 +
                                          (2 * step + lane / 16) * CHUNK);
        u32 scales[EIGHTS];
        load_words(scales, keys + Keys::place_of_scales(key, span));
        const u32 own_codes = keys + Keys::place(key, 2 * span + t / 2) + t % 2 * 8;
#pragma unroll
        for (int j = 0; j < FRAGS_S; j += 2) {
            const Pair pair(decoded_fp8<false>(prmt(scales[j], scales[j + 1], t | (t + 4) << 4)));
#pragma unroll
            for (int k = 0; k < 2; k++) {
                u32 codes[2];
                load_words(codes, own_codes + 8 * (j + k) * Keys::ROW);
                const u32 scale = twice(pair.scales, k), offset = twice(pair.offsets, k);
#pragma unroll
                for (int step = 0; step < 4; step++) {
                    const uint2 raised = raised_fp4(codes[step / 2] >> step % 2 * 16);
                    mma(s[j + k], rows[step], scaled_fp4(raised.x, scale, offset),
                        scaled_fp4(raised.y, scale, offset));
                }
            }
        }
    }
}

// Scales, 448 instead of NaN.
__device__ inline u32 without_nan(u32 scales) {
    u32 least;
#if MMA == MMA_BF16
    asm("min.bf16x2 %0, %1, %2;" : "=r"(least) : "r"(scales), "r"(0x43E043E0u));
#else
    asm("min.f16x2 %0, %1, %2;" : "=r"(least) : "r"(scales), "r"(0x5F005F00u));
#endif
    return least;
}

// Which of a value's blocks a lane has; where it has eight columns, half of it.
__device__ inline int block_of(int g) { return OWN_WORDS == 2 ? g : g / 2; }

// The codes of eight columns of two keys, as pairs: those of even columns, and of odd ones.
__device__ inline uint2 paired(u32 first, u32 second) {
    constexpr u32 LOW = 0x0F0F0F0Fu;
    return make_uint2(first & LOW | second << 4 & ~LOW, first >> 4 & LOW | second & ~LOW);
}

// Adds weighted values of a warp's keys. NaN, which only scales are, is left out, and noted in `odd`: it
// must not meet the weights of rows that do not see it.
__device__ inline void add_values(State& state, const float (&p)[FRAGS_S][4], u32 values, u32& odd,
                                  const RaisedFp4& raised_fp4) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, block = block_of(g);
#pragma unroll
    for (int step = 0; step < FRAGS_S / 2; step++) {
        Weights weights;
        weights.set(p + 2 * step);
        // Of keys t and t + 4 of 16.
        u32 scales[2][2], codes[2][2][OWN_WORDS];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int key = t + 4 * i;
            load_words(scales[i], values + Values::place_of_scales(key, block / 4) + step * 8);
#pragma unroll
            for (int eight = 0; eight < 2; eight++)
                load_words(codes[eight][i], values + Values::place(key, block / 2) +
                                                g % (4 / OWN_WORDS) * OWN_WORDS * 4 +
                                                (2 * step + eight) * 8 * Values::ROW);
        }
        auto pair = [&](int eight) {
            const u32 bytes = block % 4 | (block % 4 + 4) << 4;
            const u32 both = decoded_fp8<false>(prmt(scales[0][eight], scales[1][eight], bytes));
            odd = noted(both, odd);
            return Pair(without_nan(both));
        };
        const Pair pairs[2] = {pair(0), pair(1)};
#pragma unroll
        for (int word = 0; word < OWN_WORDS; word++) {
            uint2 nibbles[2];
#pragma unroll
            for (int i = 0; i < 2; i++) nibbles[i] = paired(codes[i][0][word], codes[i][1][word]);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                // Four columns of both eights of keys.
                u32 b[4][2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint2 even = raised_fp4(nibbles[i].x >> half * 16);
                    const uint2 uneven = raised_fp4(nibbles[i].y >> half * 16);
                    b[0][i] = pairs[i].scaled(even.x);
                    b[1][i] = pairs[i].scaled(uneven.x);
                    b[2][i] = pairs[i].scaled(even.y);
                    b[3][i] = pairs[i].scaled(uneven.y);
                }
#pragma unroll
                for (int c = 0; c < 4; c++)
                    weights.add(state.values[0][word * 8 + half * 4 + c], b[c][0], b[c][1]);
            }
        }
    }
}

// Makes NaN of what rows get of a warp's keys whose scales are NaN.
__device__ inline void add_nan(State& state, u32 values, const WarpRows& rows, const Mask& mask,
                               int first) {
    const int positions[2] = {rows.position(0), rows.position(1)};
#pragma unroll 1
    for (int key = 0; key < WARP_KEYS; key++)
#pragma unroll
        for (int e = 0; e < HALVES * 2; e++) {
            const int block = block_of(threadIdx.x % 4 * 2 + e % 2);
            const u32 scales = values + Values::place_of_scales(key, block / 4);
            const u8 scale = *shared_pointer(scales + block % 4);
            if ((scale & 0x7F) != 0x7F || !mask.sees(positions[e / 2], first + key)) continue;
#pragma unroll
            for (int j = 0; j < FRAGS_V; j++) state.values[0][j][e] = __uint_as_float(0x7FC00000u);
        }
}

extern "C" __global__ __launch_bounds__(THREADS, 2) void attention(
    const __grid_constant__ Args args) {
    extern __shared__ __align__(128) u8 shared[];
    const Tile tile = tile_of_block(args);
    const int kv_head = blockIdx.x % args.kv_heads, warp = threadIdx.x / 32;
    const KeyRuns runs = args.runs.from(tile.runs);
    const Mask mask = {args.ahead, args.window, tile.end};
    const Keys keys(args.k, args.k_scales, kv_head, args.d);
    const Values values(args.v, args.v_scales, kv_head, args.d_v);

    load_queries(shared, args, tile, kv_head);
    const u32 queries = shared_address(shared);
    const u32 stages = queries + Q_TILE + warp * STAGES * OWN_STAGE;
    auto stage = [&](int first) { return stages + first / KEYS % STAGES * OWN_STAGE; };
    auto begin = [&](int tile_key) {
        const int first = tile_key + warp * WARP_KEYS, count = tile.end - first;
        const u32 to = stage(tile_key);
        if (IN_CHUNKS && count >= WARP_KEYS && runs.hold(first, WARP_KEYS)) {
            const Run run = runs[first];
            keys.copy(to, run);
            values.copy(to + Keys::SIZE, run);
        } else if (count > 0) {
            keys.gather(to, runs, first, count);
            values.gather(to + Keys::SIZE, runs, first, count);
        }
        copy_async_commit();
    };
    __syncthreads();
    const WarpRows rows(args, tile, 0);
    // There is one layer of threads, which compilers do not know.
    const RaisedFp4 raised_fp4(threadIdx.z);
    const float whole = keys.scales.whole();

    State state;
    state.clear();
    u32 odd = 0;
#pragma unroll 1
    for (int i = 0; i < STAGES; i++) begin(tile.begin + i * KEYS);
#pragma unroll 1
    for (int first = tile.begin; first < tile.end; first += KEYS) {
        copy_async_wait<STAGES - 1>();
        // The stage is there for all lanes.
        __syncwarp();
        const int own = first + warp * WARP_KEYS;
        if (!__all_sync(~0u, rows.see_none(mask, own, WARP_KEYS))) {
            const bool some = rows.miss_some(mask, own, WARP_KEYS);
            float s[FRAGS_M][FRAGS_S][4] = {};
            multiply_keys(s[0], stage(first), queries, raised_fp4);
            finish_scores(s, args, rows, mask, __any_sync(~0u, some), own,
                          [&](float x, int, float unit) { return scaled(x, whole, unit); }, args.scale, nullptr);
            weigh(s, state);
            add_values(state, s[0], stage(first) + Keys::SIZE, odd, raised_fp4);
        }
        // All lanes are done with it.
        __syncwarp();
        begin(first + STAGES * KEYS);
    }
    copy_async_wait<0>();
    // The barrier also ends the use of shared memory by all.
    if (__syncthreads_or(is_odd(odd))) {
#pragma unroll 1
        for (int first = tile.begin; first < tile.end; first += KEYS) {
            const int own = first + warp * WARP_KEYS;
            if (own >= tile.end) break;
            values.gather(stage(first), runs, own, tile.end - own);
            copy_async_commit();
            copy_async_wait<0>();
            __syncwarp();
            add_nan(state, stage(first), rows, mask, own);
            __syncwarp();
        }
        __syncthreads();
    }
    add_terms(state);
    finish(args, state, shared, 0);
}
