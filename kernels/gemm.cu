// D = residual + f(alpha * A*B + beta * C + bias), on tensor cores.
//
//            k -->  slices of 128 bytes a row, STAGES of them in shared memory
//        +----------+      A block computes TILE_M x TILE_N of D; its WARPS_M x WARPS_N warps
//      m |  A tile  |      each a part of it, in m16n8 fragments, every step 32 bytes of k.
//        +----------+      Rows of A and columns of B lie along k in shared memory, 16-byte
//      n |  B tile  |      chunks swizzled; in global memory they lie there too and are copied
//        +----------+      asynchronously (COPY), or in any strides and are gathered (GATHER).
// Limited by shared memory: ldmatrix reads (TILE_M/WARPS_M + TILE_N/WARPS_N) * 32 bytes a step.
#include "epilogue.cuh"
#include "ptx.cuh"

#define COPY 0
#define GATHER 1

struct Args {
    Matrix a, b;  // `row` is along m and n, `col` along k
    Epilogue epilogue;
    int batch[4];
    int m, n, k, reserved;
};

constexpr int SLICE = 128;  // bytes along k
constexpr int CHUNK = 16;   // bytes that are copied, swizzled and read together
constexpr int CHUNKS = SLICE / CHUNK;
constexpr int STEP = 32;  // bytes along k of one mma
constexpr int THREADS = 32 * WARPS_M * WARPS_N;
constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int FRAGS_M = WARP_M / 16, FRAGS_N = WARP_N / 8;
constexpr int STAGE = (TILE_M + TILE_N) * SLICE;
constexpr int PITCH = TILE_N + 8;  // floats of a row of sums: eight rows are in different banks
static_assert(TILE_M * PITCH * 4 <= STAGES * STAGE, "the sums fit where the slices were");
static_assert(FRAGS_N % 2 == 0, "B's fragments are read in pairs");

// Where a chunk of a tile's row lies: eight rows of one chunk are in different banks.
__device__ inline u32 swizzled(int row, int chunk) {
    return row * SLICE + (chunk ^ (row & 7)) * CHUNK;
}

__device__ inline void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if MMA == 0
#define TYPES "m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define TYPES "m16n8k16.row.col.f32.f16.f16.f32"
#endif
    asm volatile("mma.sync.aligned." TYPES
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The columns of B that a block's tile holds: neighbours, or gates and what they are multiplied
// with, eight of each in turn, so that a tile has both of a pair.
struct Columns {
    int first, width, gated;

    __device__ Columns(const Args& args, int tile)
        : first(args.epilogue.gated ? tile * (TILE_N / 2) : tile * TILE_N),
          width(args.epilogue.gated ? args.n / 2 : args.n), gated(args.epilogue.gated) {}

    // Column of B, or -1 beyond the last.
    __device__ int operator[](int local) const {
        if (!gated) return first + local < width ? first + local : -1;
        int col = first + local / 16 * 8 + local % 8;
        if (col >= width) return -1;
        return local / 8 % 2 ? col + width : col;
    }
};

struct Rows {
    int first, end;
    __device__ int operator[](int local) const {
        return first + local < end ? first + local : -1;
    }
};

// A chunk of elements that lie anywhere.
__device__ inline uint4 gathered(const u8* row, i64 col, int first, int k) {
    u32 words[4];
    for (int i = 0; i < 4; i++) {
        words[i] = 0;
        for (int j = 0; j < 2; j++) {
            int at = first + 2 * i + j;
            if (at < k) words[i] |= (u32) * (const u16*)(row + at * col) << 16 * j;
        }
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// Brings one slice of a tile of ROWS rows to shared memory; zeros beyond the matrix.
template <int ROWS, int LOAD, typename Index>
__device__ inline void load_slice(u8* tile, const Matrix& matrix, const u8* data, Index index,
                                  int slice, int k) {
    static_assert(ROWS * CHUNKS % THREADS == 0, "every thread has as many chunks");
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / THREADS; i++) {
        int chunk = (threadIdx.x + i * THREADS) % CHUNKS;
        int local = (threadIdx.x + i * THREADS) / CHUNKS;
        int row = index[local];
        int at = slice * SLICE + chunk * CHUNK;
        u8* to = tile + swizzled(local, chunk);
        if (LOAD == COPY) {
            int valid = row < 0 ? 0 : max(0, min(CHUNK, 2 * k - at));
            const u8* from = valid ? data + row * matrix.row + at : data;
            copy_async_16(shared_address(to), from, valid);
        } else {
            uint4 value = make_uint4(0, 0, 0, 0);
            if (row >= 0) value = gathered(data + row * matrix.row, matrix.col, at / 2, k);
            *(uint4*)to = value;
        }
    }
}

extern "C" __global__ __launch_bounds__(THREADS) void gemm(const __grid_constant__ Args args) {
    extern __shared__ __align__(128) u8 shared[];
    const int tiles_m = (args.m + TILE_M - 1) / TILE_M, tiles_n = (args.n + TILE_N - 1) / TILE_N;
    // Neighbouring blocks share columns of B, which are the larger operand most often.
    const int tile_m = blockIdx.x % tiles_m, tile_n = blockIdx.x / tiles_m % tiles_n;
    int batch[4], rest = blockIdx.x / tiles_m / tiles_n;
    for (int i = 3; i >= 0; i--) {
        batch[i] = rest % args.batch[i];
        rest /= args.batch[i];
    }
    const u8 *a = args.a.of_batch(batch), *b = args.b.of_batch(batch);
    const Rows rows = {tile_m * TILE_M, args.m};
    const Columns columns(args, tile_n);
    const int slices = (2 * args.k + SLICE - 1) / SLICE;

    auto load_stage = [&](int slice) {
        if (slice < slices) {
            u8* stage = shared + slice % STAGES * STAGE;
            load_slice<TILE_M, A_LOAD>(stage, args.a, a, rows, slice, args.k);
            load_slice<TILE_N, B_LOAD>(stage + TILE_M * SLICE, args.b, b, columns, slice, args.k);
        }
        copy_async_commit();
    };

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_m = warp % WARPS_M * WARP_M, warp_n = warp / WARPS_M * WARP_N;
    float sums[FRAGS_M][FRAGS_N][4] = {};

    for (int slice = 0; slice < STAGES - 1; slice++) load_stage(slice);
    for (int slice = 0; slice < slices; slice++) {
        copy_async_wait<STAGES - 2>();
        // The slice is there for all, and all are done with the one that is replaced next.
        __syncthreads();
        load_stage(slice + STAGES - 1);
        const u32 tile_a = shared_address(shared + slice % STAGES * STAGE);
        const u32 tile_b = tile_a + TILE_M * SLICE;
#pragma unroll
        for (int step = 0; step < SLICE / STEP; step++) {
            u32 frag_a[FRAGS_M][4], frag_b[FRAGS_N / 2][4];
#pragma unroll
            for (int i = 0; i < FRAGS_M; i++) {
                // Rows 0-7, rows 8-15, and both again for the second chunk.
                int row = warp_m + 16 * i + lane % 16;
                load_matrices(frag_a[i], tile_a + swizzled(row, 2 * step + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < FRAGS_N / 2; j++) {
                // Columns 0-7 in both chunks, then columns 8-15.
                int col = warp_n + 16 * j + lane / 16 * 8 + lane % 8;
                load_matrices(frag_b[j], tile_b + swizzled(col, 2 * step + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < FRAGS_M; i++)
#pragma unroll
                for (int j = 0; j < FRAGS_N; j++)
                    mma(sums[i][j], frag_a[i], frag_b[j / 2][j % 2 * 2],
                        frag_b[j / 2][j % 2 * 2 + 1]);
        }
    }

    // Through shared memory, so that neighbouring threads store neighbouring columns.
    copy_async_wait<0>();
    __syncthreads();
    float* tile = (float*)shared;
#pragma unroll
    for (int i = 0; i < FRAGS_M; i++)
#pragma unroll
        for (int j = 0; j < FRAGS_N; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = warp_m + 16 * i + 8 * half + lane / 4;
                int col = warp_n + 8 * j + lane % 4 * 2;
                *(float2*)(tile + row * PITCH + col) =
                    make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
            }
    __syncthreads();
    const EpilogueOf epilogue(args.epilogue, batch);
    const int width = columns.gated ? TILE_N / 2 : TILE_N;
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE_M * width; i += THREADS) {
        int local = columns.gated ? i % width / 8 * 16 + i % 8 : i % width;
        int row = rows[i / width], col = columns[local];
        if (row < 0 || col < 0) continue;
        const float* sum = tile + i / width * PITCH + local;
        if (columns.gated)
            epilogue.pair(sum[0], sum[8], row, col, columns.width);
        else
            epilogue.plain(sum[0], row, col);
    }
}
