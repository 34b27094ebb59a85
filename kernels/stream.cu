// D = residual + f(alpha * A*B * column_scale + beta * C + bias) for up to MOST_ROWS rows of A: B is
// read once.
//
//        k -->   parts, one a warp            A block computes 16 columns of D. Each warp
//   m  [ A       |         |         ]        multiplies its part of k: 64 bytes of every column
//        ----------------------------         at a time, STAGES of them under way in 16-byte
//   16 [ B^T     |         |         ]        pieces, with the rows of A that they meet. Codes are
//                                             decoded from there to where mma wants them: each
// by one lane. B is mma's left operand, so that up to 8 rows are one fragment. The parts' sums are
// added in order, as gemm.cu adds them: a result's bits are the same. Few blocks share their parts
// with others, and leave the sums to another kernel.
// Limited by memory: a warp keeps (STAGES - 1) KiB of B under way.
#include "tile.cuh"

constexpr int COLS = 16;                  // of D, in a block
constexpr int BYTES = 64;                 // of each column, in a stage
constexpr int FRAGS = (MOST_ROWS + 7) / 8;     // of rows
#define HAS_SCALES (B_LOAD == 5 || FOLD == 32)  // that go through shared memory
constexpr bool FP4 = B_LOAD == DECODE_E2M1 || B_LOAD == DECODE_NVFP4;
constexpr int K = B_LOAD == COPY ? BYTES / 2 : FP4 ? BYTES * 2 : BYTES;  // elements of a stage
constexpr int STEPS = K / 16;
constexpr int FOLD_STEPS = FOLD / 16;
constexpr int PIECES = K * 2 / CHUNK;     // of a row of A
// Words of four block scales that a column has in a stage; E8M0 ones may have only half of it.
constexpr int WORDS = B_LOAD == DECODE_NVFP4 ? 2 : FOLD == 32 ? 1 : 0;
constexpr int SCALED = scaled_by(B_LOAD);
constexpr int B_SIZE = COLS * BYTES, A_SIZE = MOST_ROWS * K * 2;
constexpr int STAGE = B_SIZE + A_SIZE + COLS * WORDS * 4;
constexpr int PITCH = COLS + 1;
static_assert(MMA == MMA_BF16 || MMA == MMA_F16, "codes become 16-bit elements");
static_assert(MOST_ROWS * PITCH * 4 <= STAGES * STAGE, "a part's sums fit where its stages were");

// Where a chunk of a column or of a row of A lies: eight of one chunk are in different banks.
__device__ inline u32 col_chunk(int col, int chunk) {
    return col * BYTES + (chunk ^ (col / 2 & 3)) * CHUNK;
}
__device__ inline u32 row_chunk(int row, int chunk) {
    int swizzle = PIECES == 4 ? row / 2 & 3 : row & 7;
    return (row * PIECES + (chunk ^ swizzle)) * CHUNK;
}

// The columns of a tile. Beyond the last one it is the first once more: nobody asks for those sums.
struct Present {
    const Columns<COLS>& columns;
    __device__ int operator[](int local) const {
        return columns[local] < 0 ? columns[0] : columns[local];
    }
};

// What a lane brings to shared memory of each stage of its warp's part of k: chunks of columns and of
// rows below each other, and words of scales.
struct Feed {
    static constexpr int OWN_COLS = COLS * BYTES / CHUNK / 32;
    static constexpr int OWN_ROWS = (MOST_ROWS * PIECES + 31) / 32;
    static constexpr int BELOW = 32 / PIECES;  // rows from one chunk to the next
    static_assert(BYTES == 4 * CHUNK && PIECES <= 32, "a lane's chunks lie below each other");

    const Source &a, &b;
    const Rows& rows;
    int lane, end;            // of the part
    const u8* col[OWN_COLS];  // where the chunks of the next stage are
    const u8* row[OWN_ROWS];
    u32 col_place, row_place;  // and where the first ones go in a stage
#if HAS_SCALES
    ScaleLoader<COLS, WORDS, 32> scales;
#endif

    __device__ Feed(const Source& a, const Source& b, const Rows& rows, const Present& columns,
                    int first, int end, int lane)
        : a(a), b(b), rows(rows), lane(lane), end(end), col_place(col_chunk(lane / 4, lane % 4)),
          row_place(B_SIZE + row_chunk(lane / PIECES, lane % PIECES))
#if HAS_SCALES
          , scales(b, columns, lane)
#endif
    {
#pragma unroll
        for (int i = 0; i < OWN_COLS; i++)
            col[i] = b.row(columns[lane / 4 + 8 * i]) + bytes(first) + lane % 4 * CHUNK;
#pragma unroll
        for (int i = 0; i < OWN_ROWS; i++) {
            const int local = lane / PIECES + i * BELOW;
            row[i] = a.row(rows[rows[local] < 0 ? 0 : local]) + (first + lane % PIECES * 8) * 2;
        }
    }

    // Bytes of a column that so many elements take.
    __device__ static int bytes(int elements) {
        return FP4 ? (elements + 1) / 2 : B_LOAD == COPY ? elements * 2 : elements;
    }

    __device__ bool has_row(int i) const {
        return MOST_ROWS * PIECES % 32 == 0 || lane + 32 * i < MOST_ROWS * PIECES;
    }

    __device__ u32 place_of_row(u32 stage, int i) const {
        // Swizzles repeat after eight rows.
        return BELOW % 8 == 0 ? stage + row_place + i * BELOW * PIECES * CHUNK
                              : stage + B_SIZE + row_chunk(lane / PIECES + i * BELOW, lane % PIECES);
    }

    // Begins to bring the next stage, which is from element `at` on.
    __device__ void put(u32 stage, int at) {
        if (B_CHUNKS && A_LOAD == COPY && (SCALE_WORDS || !WORDS) && at + K <= end) {
            put_whole(stage, at);
        } else if (at < end) {
            put_tail(stage, at);
        }
        copy_async_commit();
#pragma unroll
        for (int i = 0; i < OWN_COLS; i++) col[i] += BYTES;
#pragma unroll
        for (int i = 0; i < OWN_ROWS; i++) row[i] += K * 2;
    }

    // A stage of which all is there, and aligned.
    __device__ void put_whole(u32 stage, int at) const {
#pragma unroll
        for (int i = 0; i < OWN_COLS; i++)
            copy_async_16(stage + col_place + i * 8 * BYTES, col[i], CHUNK);
#pragma unroll
        for (int i = 0; i < OWN_ROWS; i++)
            if (has_row(i)) copy_async_16(place_of_row(stage, i), row[i], CHUNK);
#if HAS_SCALES
        scales.copy(stage + B_SIZE + A_SIZE, (u32)at / (SCALED * 4));
#endif
    }

    // What there is of a stage, and zeros.
    __device__ void put_tail(u32 stage, int at) const {
#pragma unroll
        for (int i = 0; i < OWN_COLS; i++) {
            const u32 to = stage + col_place + i * 8 * BYTES;
            const int valid = max(0, min(CHUNK, bytes(end) - bytes(at) - lane % 4 * CHUNK));
            if (B_CHUNKS) {
                copy_async_16(to, valid ? col[i] : b.data, valid);
            } else {
                for (int j = 0; j < CHUNK; j++) shared_pointer(to)[j] = j < valid ? col[i][j] : 0;
            }
        }
#pragma unroll
        for (int i = 0; i < OWN_ROWS; i++) {
            if (!has_row(i)) continue;
            const u32 to = place_of_row(stage, i);
            const int from = at + lane % PIECES * 8;
            if (A_LOAD == COPY) {
                copy_async_16(to, from < end ? row[i] : a.data, from < end ? CHUNK : 0);
            } else {
                const int local = lane / PIECES + i * BELOW;
                const Fetched chunk = a.fetch<GATHER>(rows[local], from, end);
                *(uint4*)shared_pointer(to) = decoded<GATHER>(chunk);
            }
        }
#if HAS_SCALES
        scales.put((u32*)shared_pointer(stage + B_SIZE + A_SIZE), at / (SCALED * 4));
#endif
    }
};

// Two steps' scales of a column, and what takes raised codes down again.
struct Pair {
    u32 scales, offsets;
};

// One warp's part of k.
struct Part {
    const Source& b;
    const Columns<COLS>& columns;
    int lane, end;
    RaisedFp4 raised_fp4;

    // Columns g and g + 8 of a step as mma's left operand.
    __device__ void left(u32 (&to)[4], u32 stage, int step, const u32 (&codes)[2][4],
                         const Pair (&pairs)[2]) const {
        const int g = lane / 4, t = lane % 4;
        // Stages begin where swizzles of a column can be changed in its address.
        static_assert(STAGE % BYTES == 0, "and columns");
        if (B_LOAD == COPY) {
            load_matrices(to, stage + col_chunk(lane % 16, lane / 16) ^ 2 * step * CHUNK);
        } else if (!FP4) {
            const u32 chunk = stage + col_chunk(g, 0) + 2 * t ^ step * CHUNK;
#pragma unroll
            for (int i = 0; i < 4; i++)
                to[i] = decoded_fp8<B_LOAD == DECODE_E5M2>(
                    load_half(chunk + i % 2 * 8 * BYTES + i / 2 * 8));
        } else {
            // Byte t of a word of eight codes has those of k = 2t and 2t + 1.
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const u32 *words = codes[i] + step % 2 * 2, bytes = t | (t + 4) << 4;
                const uint2 raised = raised_fp4(prmt(words[0], words[1], bytes));
                const u32 scale = twice(pairs[i].scales, step % 2);
                const u32 offset = twice(pairs[i].offsets, step % 2);
                const bool scaled = B_LOAD == DECODE_NVFP4;
                to[i] = scaled ? scaled_fp4(raised.x, scale, offset) : lowered_fp4(raised.x);
                to[i + 2] = scaled ? scaled_fp4(raised.y, scale, offset) : lowered_fp4(raised.y);
            }
        }
    }

    // What sums of column g + 8 * i are folded with, from an element on.
    __device__ float factor(int i, int at, u32 scale_bytes) const {
        if (FOLD == 32) return f32_of_number_e8m0(scale_bytes);
        int col = columns[lane / 4 + 8 * i];
        return col < 0 ? 0.0f : b.factor(col, at);
    }

    // Multiplies a stage into the sums: rows g of D are columns of B's transpose. `nan` notes E8M0
    // scales of them that are NaN.
    __device__ void multiply(float (&sums)[FRAGS][4], u32 (&nan)[2], u32 stage, int at) const {
        float part[FRAGS][4] = {};
        u32 scale_bytes[2][WORDS ? WORDS : 1] = {};
#pragma unroll
        for (int i = 0; i < 2 && WORDS; i++) {
            load_words(scale_bytes[i], stage + B_SIZE + A_SIZE + (lane / 4 + 8 * i) * WORDS * 4);
            if (FOLD == 32) nan[i] = noted_e8m0(scale_bytes[i][0], nan[i]);
            // From the first one of the stage on.
            if (WORDS == 1) scale_bytes[i][0] >>= (u32)at / SCALED % 4 * 8;
        }
        u32 right[FRAGS][4], codes[2][4];
        Pair pairs[2] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            if (step % 2 == 0) {
#pragma unroll
                for (int i = 0; i < FRAGS; i++) {
                    // Both steps' two chunks of eight rows; of one row, eight times that.
                    const int row = MOST_ROWS == 1 ? 0 : lane % 8;
                    const u32 place = row_chunk(row, 2 * step + lane / 8) + i * 8 * PIECES * CHUNK;
                    load_matrices(right[i], stage + B_SIZE + place);
                }
#pragma unroll
                for (int i = 0; i < 2 && FP4; i++) {
                    const u32 chunk = stage + col_chunk(lane / 4, 0) ^ step / 2 * CHUNK;
                    load_words(codes[i], chunk + i * 8 * BYTES);
                    if (B_LOAD != DECODE_NVFP4) continue;
                    const u32 bytes = scale_bytes[i][step / 4] >> step % 4 * 8;
                    pairs[i].scales = decoded_fp8<false>(bytes);
                    pairs[i].offsets = times(pairs[i].scales, FP4_OFFSET);
                }
            }
            u32 columns[4];
            left(columns, stage, step, codes, pairs);
#pragma unroll
            for (int i = 0; i < FRAGS; i++)
                mma(FOLD ? part[i] : sums[i], columns, right[i][step % 2 * 2],
                    right[i][step % 2 * 2 + 1]);
            if (FOLD && (step + 1) % FOLD_STEPS == 0) {
                const int begin = (step + 1 - FOLD_STEPS) * 16, shift = begin / SCALED * 8;
                float of[2] = {};
                // Scales that were copied are 0 behind the end, as what they scale.
                if (FOLD == 32 || at + begin < end) {
                    of[0] = factor(0, at + begin, scale_bytes[0][0] >> shift);
                    of[1] = factor(1, at + begin, scale_bytes[1][0] >> shift);
                }
#pragma unroll
                for (int i = 0; i < FRAGS * 4; i++) {
                    float &x = part[i / 4][i % 4], &sum = sums[i / 4][i % 4];
                    // Of one row every other sum is of none.
                    if (MOST_ROWS > 1 || i % 2 == 0) sum = fmaf(x, of[i % 4 / 2], sum);
                    x = 0.0f;
                }
            }
        }
    }
};

constexpr int THREADS = 256;  // at most: eight parts
// Of a multiprocessor: more rows take too much shared memory for two.
constexpr int BLOCKS_AT_ONCE = MOST_ROWS == 1 ? 2 : 1;

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS_AT_ONCE) void stream(
    const __grid_constant__ Args args) {
    extern __shared__ __align__(128) u8 shared[];
    const Work<MOST_ROWS> work(args, Tiles<MOST_ROWS, COLS>(args), blockIdx.x);
#if GROUPED
    if (blockIdx.x == 0) args.groups.check();
#endif
    if (work.is_none()) return;
    const Source a(args.a, args.a_scales, work.batch), b(args.b, args.b_scales, work.batch);
    const Rows& rows = work.rows;
    const Columns<COLS> columns(args, work.tile_n);

    const int lane = kept(threadIdx.x % 32), warp = threadIdx.x / 32;
    const int parts = blockDim.x / 32, number = work.number * parts + warp;
    const int first = number * args.part, end = min(args.k, first + args.part);
    u8* own = shared + warp * STAGES * STAGE;
    const u32 stages = kept(shared_address(own)), last = stages + (STAGES - 1) * STAGE;
    Feed feed(a, b, rows, Present{columns}, first, end, lane);
    // There is one layer of threads, which compilers do not know.
    const Part part = {b, columns, lane, end, RaisedFp4(threadIdx.z)};
    float sums[FRAGS][4] = {};
    u32 nan[2] = {};
    for (int i = 0; i < STAGES - 1; i++) feed.put(stages + i * STAGE, first + i * K);
    u32 stage = stages, before = last;
    for (int at = first; at < end; at += K) {
        copy_async_wait<STAGES - 2>();
        // The stage is there for all lanes, and all are done with the one before.
        __syncwarp();
        feed.put(before, at + (STAGES - 1) * K);
        part.multiply(sums, nan, stage, at);
        before = stage;
        stage = stage == last ? stages : stage + STAGE;
    }
    copy_async_wait<0>();
    __syncwarp();
    float* own_sums = (float*)own;
#pragma unroll
    for (int i = 0; i < FRAGS * 4; i++) {
        int row = i / 4 * 8 + lane % 4 * 2 + i % 2, col = lane / 4 + i % 4 / 2 * 8;
        const bool odd = FOLD == 32 && is_nan_noted(nan[i % 4 / 2]);
        if (row < MOST_ROWS)
            own_sums[row * PITCH + col] = odd ? __uint_as_float(0x7FC00000u) : sums[i / 4][i % 4];
    }
    if (args.split.sums) {
        __syncwarp();
        auto sum = [&](float (&x)[EIGHT], int local_row, int local_col) {
#pragma unroll
            for (int i = 0; i < EIGHT; i++) x[i] = own_sums[local_row * PITCH + local_col + i];
        };
        if (first < end) leave_sums<MOST_ROWS>(args, work, columns, 0, number, lane, 32, sum);
        return;
    }
    __syncthreads();
    auto sum = [&](float (&x)[EIGHT], int local_row, int local_col, int row, int col, int end) {
#pragma unroll
        for (int i = 0; i < EIGHT; i++) x[i] = 0.0f;
        for (int part = 0; part < parts; part++) {
            const float* of = (const float*)(shared + part * STAGES * STAGE);
#pragma unroll
            for (int i = 0; i < EIGHT; i++) x[i] += of[local_row * PITCH + local_col + i];
        }
        multiply_factors(x, a, b, row, col, end, args.k);
    };
    leave<MOST_ROWS>(args, work, columns, 0, sum);
}

extern "C" __global__ __launch_bounds__(THREADS, 1) void add_parts(const __grid_constant__ Args args) {
    add_all_parts<MOST_ROWS, COLS>(args);
}
