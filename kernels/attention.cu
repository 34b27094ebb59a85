// O = softmax(c(scale * Q K^T) + bias) V, one query of one head a block.
//
//   keys that the query sees:  | 0..31 | 32..63 | 64..95 | 96..127 | 128..   warp w takes every
//                              | warp 0| warp 1 | warp 2 | warp 3  | warp 0  WARPS-th run of 32
// For its 32 keys a warp computes the scores with d spread over its lanes, lane j keeping that of
// key j; one exponential a lane; then adds up weighted values with d_v spread over its lanes.
// Largest score, sum and weighted values stay in registers and are rescaled once a run; the warps'
// are put together at the end, always in the same order.
// Limited by reading keys and values once for each query and head: made for decoding.
#include "epilogue.cuh"
#include "index.cuh"
#include "key_runs.cuh"

struct Query {
    int position, kv_len;
    int runs;  // where its sequence's runs of keys begin
    int reserved;
};

struct Args {
    Matrix q, k, v, sinks, alibi, lse, out;  // rows are heads
    const Query* queries;
    KeyRuns runs;  // of all sequences
    Lengths lengths;
    i64 ahead, window;
    int heads, group, d, d_v;
    int q_rows;  // rows of q of one outermost index
    float scale, softcap;
    int reserved;
};

constexpr int WARPS = 4, LANES = 32;
constexpr int BLOCKS = 4;  // of a multiprocessor at once
constexpr int D = 32 * D_REGS, D_V = 32 * D_V_REGS;

__device__ inline float warp_sum(float x) {
    for (int lanes = LANES / 2; lanes; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int lanes = LANES / 2; lanes; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
    return x;
}

// e^(x - largest), 0 for x = -inf even where that is the largest.
__device__ inline float weight(float x, float largest) {
    return expf(x - (largest == -INFINITY ? 0.0f : largest));
}

__device__ inline const u8* row_of(const Matrix& matrix, int outer, int inner, int head) {
    return matrix.data + outer * matrix.batch[2] + inner * matrix.batch[3] + head * matrix.row;
}

// The row of a lane's key.
__device__ inline const u8* row_of(const Matrix& matrix, Run key, int lane, int head) {
    const int outer = __shfl_sync(~0u, key.outer, lane), inner = __shfl_sync(~0u, key.inner, lane);
    return row_of(matrix, outer, inner, head);
}

extern "C" __global__ __launch_bounds__(WARPS* LANES, BLOCKS) void attention(
    const __grid_constant__ Args args) {
    __shared__ float largest_of[WARPS], sum_of[WARPS], values_of[WARPS][D_V];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int row = blockIdx.x / args.heads, head = blockIdx.x % args.heads;
    const int kv_head = head / args.group;
    const int outer = row / args.q_rows, inner = row % args.q_rows;
    Query query = args.queries[row];
    if (args.lengths.data) {
        // The query was given for as many keys as there is room for.
        const int length = args.lengths.of(outer, query.kv_len);
        query.position += length - query.kv_len;
        query.kv_len = length;
    }
    // Keys from position - window + 1 to position + ahead.
    const int end = (int)max((i64)0, min((i64)query.kv_len, query.position + 1 + args.ahead));
    const int begin = (int)max((i64)0, min((i64)end, query.position + 1 - args.window));

    float q[D_REGS];
    const u8* q_row = row_of(args.q, outer, inner, head);
    for (int r = 0; r < D_REGS; r++) {
        int col = lane + r * LANES;
        q[r] = col < args.d ? load(args.q.dtype, q_row + col * args.q.col) : 0.0f;
    }
    const float slope =
        args.alibi.data ? load(args.alibi.dtype, args.alibi.data + head * args.alibi.col) : 0.0f;

    const KeyRuns runs = args.runs.from(query.runs);
    float largest = -INFINITY, sum = 0.0f, values[D_V_REGS] = {};
    for (int first = begin + warp * LANES; first < end; first += WARPS * LANES) {
        const int keys = min(LANES, end - first);
        // This lane's key, and where it lies.
        const int key = first + min(lane, keys - 1);
        const Run at = runs[key];

        float score = -INFINITY;
        for (int j = 0; j < keys; j++) {
            const u8* k = row_of(args.k, at, j, kv_head);
            float dot = 0.0f;
#pragma unroll
            for (int r = 0; r < D_REGS; r++) {
                int col = lane + r * LANES;
                if (col < args.d) dot += q[r] * load(K_TYPE, k + col * args.k.col);
            }
            dot = warp_sum(dot);
            if (lane == j) score = dot;
        }
        if (lane < keys) {
            score *= args.scale;
            if (args.softcap > 0.0f) score = args.softcap * tanhf(score / args.softcap);
            if (args.alibi.data) score += slope * (float)(key - query.position);
        }

        const float before = largest;
        largest = fmaxf(largest, warp_max(score));
        const float kept = weight(before, largest);
        const float p = lane < keys ? weight(score, largest) : 0.0f;
        sum = sum * kept + warp_sum(p);
#pragma unroll
        for (int r = 0; r < D_V_REGS; r++) values[r] *= kept;
        for (int j = 0; j < keys; j++) {
            const u8* v = row_of(args.v, at, j, kv_head);
            const float p_j = __shfl_sync(~0u, p, j);
#pragma unroll
            for (int r = 0; r < D_V_REGS; r++) {
                int col = lane + r * LANES;
                if (col < args.d_v) values[r] += p_j * load(V_TYPE, v + col * args.v.col);
            }
        }
    }

    for (int r = 0; r < D_V_REGS; r++) values_of[warp][lane + r * LANES] = values[r];
    if (lane == 0) {
        largest_of[warp] = largest;
        sum_of[warp] = sum;
    }
    __syncthreads();
    const float sink =
        args.sinks.data ? load(args.sinks.dtype, args.sinks.data + head * args.sinks.col) : 0.0f;
    float top = args.sinks.data ? sink : -INFINITY;
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, largest_of[w]);
    float total = args.sinks.data ? weight(sink, top) : 0.0f;
    for (int w = 0; w < WARPS; w++) total += sum_of[w] * weight(largest_of[w], top);
    for (int col = threadIdx.x; col < args.d_v; col += WARPS * LANES) {
        float value = 0.0f;
        for (int w = 0; w < WARPS; w++) value += values_of[w][col] * weight(largest_of[w], top);
        u8* out = args.out.data + outer * args.out.batch[2] + inner * args.out.batch[3] +
                  head * args.out.row + col * args.out.col;
        store(args.out.dtype, out, total == 0.0f ? value : value / total);
    }
    if (args.lse.data && threadIdx.x == 0) {
        u8* lse = args.lse.data + outer * args.lse.batch[3] + inner * args.lse.row +
                  head * args.lse.col;
        store(args.lse.dtype, lse, (top == -INFINITY ? 0.0f : top) + logf(total));
    }
}
