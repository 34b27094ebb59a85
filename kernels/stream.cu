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
constexpr bool FP4 = B_LOAD == DECODE_E2M1 || B_LOAD == DECODE_NVFP4;
constexpr int K = B_LOAD == COPY ? BYTES / 2 : FP4 ? BYTES * 2 : BYTES;  // elements of a stage
constexpr int STEPS = K / 16;
constexpr int FOLD_STEPS = FOLD / 16;
constexpr int PIECES = K * 2 / CHUNK;     // of a row of A
// Words of four block scales that a column has in a stage; E8M0 ones may have only half of it.
constexpr int WORDS = B_LOAD == DECODE_NVFP4 ? 2 : FOLD == 32 ? 1 : 0;
constexpr int SCALED = B_LOAD == DECODE_NVFP4 ? 16 : 32;  // elements that share one
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

// One warp's part of k.
struct Part {
    const Source &a, &b;
    const Rows& rows;
    const Columns<COLS>& columns;
    u8* shared;        // its stages
    const u8* zeros;   // a chunk of them
    int first, end;    // elements along k
    int lane;
#if B_LOAD == 5 || FOLD == 32
    ScaleLoader<COLS, WORDS, 32> scales;
#endif

    __device__ u8* stage(int number) const { return shared + number % STAGES * STAGE; }

    // Begins to bring a stage's operands to shared memory.
    __device__ void put(int number) const {
        const int at = first + number * K;
        if (at < end) {
            u8* to = stage(number);
            const int bytes = FP4 ? (end + 1) / 2 : B_LOAD == COPY ? end * 2 : end;
#pragma unroll
            for (int i = 0; i < COLS * 4 / 32; i++) {
                int local = lane / 4 + 8 * i, chunk = lane % 4, col = columns[local];
                int byte = (FP4 ? at / 2 : B_LOAD == COPY ? at * 2 : at) + chunk * CHUNK;
                int valid = col < 0 ? 0 : max(0, min(CHUNK, bytes - byte));
                const u8* from = valid ? b.data + col * b.matrix.row + byte : b.data;
                u8* place = to + col_chunk(local, chunk);
                if (B_CHUNKS) {
                    copy_async_16(shared_address(place), from, valid);
                } else {
                    for (int j = 0; j < CHUNK; j++) place[j] = j < valid ? from[j] : 0;
                }
            }
            to += B_SIZE;
            for (int i = lane; i < MOST_ROWS * PIECES; i += 32) {
                int local = i / PIECES, piece = i % PIECES;
                u8* place = to + row_chunk(local, piece);
                if (A_LOAD == COPY) {
                    a.copy(place, a.row(rows[local]), (at + piece * 8) * 2, end);
                } else {
                    Fetched chunk = a.fetch<GATHER>(rows[local], at + piece * 8, end);
                    *(uint4*)place = decoded<GATHER>(chunk);
                }
            }
#if B_LOAD == 5 || FOLD == 32
            scales.put((u32*)(to + A_SIZE), at / SCALED / 4);
#endif
        }
        copy_async_commit();
    }

    // Columns g and g + 8 of a step as mma's left operand.
    __device__ void left(u32 (&to)[4], const u8* stage, int step, const uint4 (&codes)[2],
                         const uint2 (&scale_bytes)[2]) const {
        const int g = lane / 4, t = lane % 4;
        if (B_LOAD == COPY) {
            load_matrices(to, shared_address(stage) + col_chunk(lane % 16, 2 * step + lane / 16));
        } else if (!FP4) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const u8* pair = stage + col_chunk(g + i % 2 * 8, step) + i / 2 * 8 + 2 * t;
                to[i] = decoded_fp8<B_LOAD == DECODE_E5M2>(*(const u16*)pair);
            }
        } else {
            // Byte t of a word of eight codes has those of k = 2t and 2t + 1.
            u32 factor = 0;
            if (B_LOAD == DECODE_NVFP4) {
                u32 low = step < 4 ? scale_bytes[0].x : scale_bytes[0].y;
                u32 high = step < 4 ? scale_bytes[1].x : scale_bytes[1].y;
                const int byte = step % 4;
                factor = decoded_fp8<false>(__byte_perm(low, high, byte | (byte + 4) << 4));
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                u32 low = (&codes[0].x)[step % 2 * 2 + i], high = (&codes[1].x)[step % 2 * 2 + i];
                // Of column g in bits 0 to 7, of column g + 8 in bits 16 to 23.
                u32 bytes = __byte_perm(low, high, t | (t + 4) << 8);
                u32 even = decoded_fp4(bytes), odd = decoded_fp4(bytes >> 4);
                if (B_LOAD == DECODE_NVFP4) even = times(even, factor), odd = times(odd, factor);
                to[2 * i] = __byte_perm(even, odd, 0x5410);
                to[2 * i + 1] = __byte_perm(even, odd, 0x7632);
            }
        }
    }

    // What sums of column g + 8 * i are folded with, from an element on.
    __device__ float factor(int i, int at, u32 scale_bytes) const {
        if (FOLD == 32) return f32_of_e8m0(scale_bytes);
        int col = columns[lane / 4 + 8 * i];
        return col < 0 ? 0.0f : b.factor(col, at);
    }

    // Multiplies a stage into the sums: rows g of D are columns of B's transpose.
    __device__ void multiply(float (&sums)[FRAGS][4], int number) const {
        const int at = first + number * K;
        const u8* stage = this->stage(number);
        const u32 stage_a = shared_address(stage + B_SIZE);
        float part[FRAGS][4] = {};
        uint4 codes[2];
        uint2 scale_bytes[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const u8* from = stage + B_SIZE + A_SIZE + (lane / 4 + 8 * i) * WORDS * 4;
            if (WORDS == 2) scale_bytes[i] = *(const uint2*)from;
            // From the first one of the stage on.
            if (WORDS == 1) scale_bytes[i].x = *(const u32*)from >> at / SCALED % 4 * 8;
        }
        u32 right[FRAGS][4];
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            if (step % 2 == 0) {
#pragma unroll
                for (int i = 0; i < FRAGS; i++) {
                    // Both steps' two chunks of eight rows.
                    int row = 8 * i + lane % 8;
                    u32 from = stage_a + row_chunk(row, 2 * step + lane / 8);
                    load_matrices(right[i], row < MOST_ROWS ? from : shared_address(zeros));
                }
                if (FP4) {
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        codes[i] = *(const uint4*)(stage + col_chunk(lane / 4 + 8 * i, step / 2));
                }
            }
            u32 columns[4];
            left(columns, stage, step, codes, scale_bytes);
#pragma unroll
            for (int i = 0; i < FRAGS; i++)
                mma(FOLD ? part[i] : sums[i], columns, right[i][step % 2 * 2],
                    right[i][step % 2 * 2 + 1]);
            if (FOLD && (step + 1) % FOLD_STEPS == 0) {
                const int begin = (step + 1 - FOLD_STEPS) * 16, shift = begin / SCALED * 8;
                float of[2] = {};
                if (at + begin < end) {
                    of[0] = factor(0, at + begin, scale_bytes[0].x >> shift);
                    of[1] = factor(1, at + begin, scale_bytes[1].x >> shift);
                }
#pragma unroll
                for (int i = 0; i < FRAGS * 4; i++) {
                    float& x = part[i / 4][i % 4];
                    sums[i / 4][i % 4] = folded(sums[i / 4][i % 4], x, 1.0f, of[i % 4 / 2]);
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

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (threadIdx.x < CHUNK) shared[threadIdx.x] = 0;
    __syncthreads();
    u8* own = shared + 128 + warp * STAGES * STAGE;
    const int parts = blockDim.x / 32, number = work.number * parts + warp;
    const int first = number * args.part, end = min(args.k, first + args.part);
    const Part part = {a, b, rows, columns, own, shared, first, end, lane,
#if B_LOAD == 5 || FOLD == 32
                       ScaleLoader<COLS, WORDS, 32>(b, columns, lane),
#endif
    };
    float sums[FRAGS][4] = {};
    for (int number = 0; number < STAGES - 1; number++) part.put(number);
    for (int number = 0; first + number * K < end; number++) {
        copy_async_wait<STAGES - 2>();
        // The stage is there for all lanes, and all are done with the one replaced next.
        __syncwarp();
        part.put(number + STAGES - 1);
        part.multiply(sums, number);
    }
    copy_async_wait<0>();
    __syncwarp();
    float* own_sums = (float*)own;
#pragma unroll
    for (int i = 0; i < FRAGS * 4; i++) {
        int row = i / 4 * 8 + lane % 4 * 2 + i % 2, col = lane / 4 + i % 4 / 2 * 8;
        if (row < MOST_ROWS) own_sums[row * PITCH + col] = sums[i / 4][i % 4];
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
            const float* of = (const float*)(shared + 128 + part * STAGES * STAGE);
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
