// What attention's blocks and warps take: tiles of rows, which are queries of all heads that share
// a key head, and of keys.
#pragma once

#include "index.cuh"
#include "key_order.cuh"
#include "keys.cuh"
#include "weights.cuh"

// Rows that a block takes, of some keys.
struct Tile {
    int query, queries;  // the first row of q of the sequence, and how many there are
    int kv_len, runs;    // of the sequence; where its runs begin
    int row;             // the first of (query, head) pairs
    int begin, end;      // keys: from a multiple of KEYS
    int piece;           // where its part of the result goes; -1 where it is the whole
};

// Pieces that make the result of a tile's rows.
struct Joint {
    int query, queries;
    int row;
    int piece, pieces;
    int reserved[3];
};

struct Args {
    Matrix q, k, v, sinks, alibi, lse, out;  // rows are heads
    Scales k_scales, v_scales;
    const Tile* tiles;
    const Joint* joints;
    KeyRuns runs;  // of all sequences
    float* parts;  // of pieces: for each key head and row the values, largest score and sum
    Lengths lengths;
    int ahead, window;
    int kv_heads, group, d, d_v;
    int q_rows;  // rows of q of one outermost index
    int q_chunks;  // whether rows of q are contiguous, chunks aligned
    float scale, softcap;
};

constexpr int KEYS = TILE_KEYS;
constexpr int THREADS = 32 * WARPS_M * WARPS_N;
constexpr int ROWS = 16 * FRAGS_M * WARPS_M;
constexpr int WARP_KEYS = KEYS / WARPS_N;
constexpr int FRAGS_S = WARP_KEYS / 8, FRAGS_V = D_V / 8;
constexpr int STAGES = 2;
// Elements along k of an instruction, whose rows and columns are 32 bytes of it.
constexpr int STEP = 32 / UNIT;
// Queries that are rounded have a scale each, but for those whose blocks' scales are as far-reaching.
constexpr bool QUERY_SCALES = MMA == MMA_FP8 || ROUND_TO == MMA_NVFP4;
constexpr int Q_TILE = ROWS * (pitch(D) + (QUERY_SCALES ? 4 : 0));
constexpr int K_TILE = KEYS * pitch(D), V_TILE = KEYS * pitch(D_V);
constexpr int STAGE = K_TILE + V_TILE + (K_SCALED ? KEYS * 4 : 0);
// Queries stay in registers, where what is decoded leaves room; else they are read for each tile.
constexpr bool KEEP_Q = FRAGS_M * D * UNIT <= 256 && K_LOAD == COPY && V_LOAD == COPY;
static_assert(WARP_KEYS % STEP == 0, "weights of so many keys are a fragment");

// Which column of its values an element of a fragment is. FP8 ones are taken out of what is read
// transposed in pairs: of 16, even ones are one fragment's and odd ones the next one's. Where a lane reads
// neighbouring columns, each is of another fragment.
__device__ inline int column_of(int frag, int e) {
    const int t = threadIdx.x % 4;
    if (MMA == MMA_FP8) return frag / 2 * 16 + t * 4 + e % 2 * 2 + frag % 2;
    const int eight = frag / LANE_COLUMNS * 8 + t * 2 + e % 2;
    return eight * LANE_COLUMNS + frag % LANE_COLUMNS;
}

// Which query and head a row of a tile is.
struct Row {
    int query, head;
    bool there;

    __device__ Row(const Args& args, int queries, int row, int kv_head) {
        there = row < queries * args.group;
        row = min(row, queries * args.group - 1);
        query = row / args.group;
        head = kv_head * args.group + row % args.group;
    }
};

// A row's position among the keys.
__device__ inline int position_of(const Tile& tile, int query) {
    return query + tile.kv_len - tile.queries;
}

// The tile of a block. Where only the GPU knows how many keys there are, tiles are those of as many
// as there is room for: this one is cut to those that its rows see.
__device__ inline Tile tile_of_block(const Args& args) {
    Tile tile = args.tiles[blockIdx.x / args.kv_heads];
#if LENGTHS
    tile.kv_len = args.lengths.of(tile.query / args.q_rows, tile.kv_len);
    const Mask mask = {args.ahead, args.window, tile.kv_len};
    const int last = min(tile.row + ROWS, tile.queries * args.group) - 1;
    const int begin = mask.first(position_of(tile, tile.row / args.group));
    tile.begin = max(tile.begin, max(begin, 0) / KEYS * KEYS);
    tile.end = min(tile.end, max(mask.last(position_of(tile, last / args.group)), 0));
#endif
    return tile;
}

// What a warp has of its rows: 0 and 1 of a pair are rows g and g + 8 of a fragment.
struct State {
    float values[FRAGS_M][FRAGS_V][4];
    float largest[FRAGS_M][2], sum[FRAGS_M][2];

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                largest[i][half] = -INFINITY;
                sum[i][half] = 0.0f;
#pragma unroll
                for (int j = 0; j < FRAGS_V; j++)
                    values[i][j][2 * half] = values[i][j][2 * half + 1] = 0.0f;
            }
    }
};

// A warp's rows of the tile.
struct WarpRows {
    const Args& args;
    const Tile& tile;
    int local;  // the first that the lane has something of
    int first, last;  // positions of its outermost rows

    __device__ WarpRows(const Args& args, const Tile& tile, int row)
        : args(args), tile(tile), local(row + threadIdx.x % 32 / 4), first(position(0)),
          last(position(FRAGS_M * 2 - 1)) {}

    // Whether this thread's rows see none of some keys, and whether some of them do not see some.
    __device__ bool see_none(const Mask& mask, int key, int keys) const {
        return mask.first(first) >= key + keys || mask.last(last) <= key;
    }
    __device__ bool miss_some(const Mask& mask, int key, int keys) const {
        return mask.first(last) > key || mask.last(first) < key + keys;
    }

    __device__ Row row(int i) const {
        return Row(args, tile.queries, tile.row + local + i * 8, blockIdx.x % args.kv_heads);
    }

    // Its position and the slope of its bias; not kept, since registers are short.
    __device__ int position(int i) const { return position_of(tile, row(i).query); }

    __device__ float slope(int i) const {
        if (!args.alibi.data) return 0.0f;
        return SCORE * load(args.alibi.dtype, args.alibi.data + row(i).head * args.alibi.col);
    }
};
