// D = residual + f(alpha * A*B + beta * C + bias), on tensor cores.
//
//            k -->  slices of 128 bytes a row, STAGES of them in shared memory
//        +----------+      A block computes TILE_M x TILE_N of D; its WARPS_M x WARPS_N warps
//      m |  A tile  |      each a part of it, in m16n8 fragments, every step 32 bytes of k.
//        +----------+      Rows of A and columns of B lie along k in shared memory, 16-byte
//      n |  B tile  |      chunks swizzled; in global memory they lie there too and are copied
//        +----------+      asynchronously, or in any strides, or as codes: see load.cuh.
// Block scales go with their slices; f32 scales multiply sums, of slices where K_SCALED.
// Limited by shared memory: ldmatrix reads (TILE_M/WARPS_M + TILE_N/WARPS_N) * 32 bytes a step.
#include "load.cuh"
#include "mma.cuh"

struct Args {
    Matrix a, b;  // `row` is along m and n, `col` along k
    Scales a_scales, b_scales;
    Epilogue epilogue;
    int batch[4];
    int m, n;
    int units;  // along k
    int reserved;
};

constexpr int STEP = 32;  // bytes along k of one mma
constexpr int STEPS = SLICE / STEP;
constexpr int THREADS = 32 * WARPS_M * WARPS_N;
constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int FRAGS_M = WARP_M / 16, FRAGS_N = WARP_N / 8;
constexpr int STAGE = (TILE_M + TILE_N) * (SLICE + STEPS * STEP_SCALES);
constexpr int PITCH = TILE_N + 8;  // floats of a row of sums: eight rows are in different banks
static_assert(FRAGS_N % 2 == 0, "B's fragments are read in pairs");
static_assert(TILE_M * PITCH * 4 <= STAGES * STAGE, "the sums fit where the slices were");

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

    // How many of the eight from `local` on there are; they are neighbours.
    __device__ int run(int local) const {
        int col = gated ? first + local / 16 * 8 : first + local;
        return max(0, min(8, width - col));
    }
};

struct Rows {
    int first, end;
    __device__ int operator[](int local) const {
        return first + local < end ? first + local : -1;
    }
    __device__ int run(int local) const { return max(0, min(8, end - first - local)); }
};

struct Sums {
    float of[FRAGS_M][FRAGS_N][4];
};

// Multiplies one slice into the sums: every warp its part of the tile.
__device__ inline void multiply(Sums& sums, const u8* stage, int warp_m, int warp_n) {
    const int lane = threadIdx.x % 32;
    const u32 tile_a = shared_address(stage), tile_b = tile_a + TILE_M * SLICE;
#if MMA > MMA_FP8
    const u32* scales_a = (const u32*)(stage + (TILE_M + TILE_N) * SLICE);
    const u32* scales_b = scales_a + TILE_M * STEP_SCALES;
#endif
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        u32 a[FRAGS_M][4], b[FRAGS_N / 2][4];
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++) {
            // Rows 0-7, rows 8-15, and both again for the second chunk.
            int row = warp_m + 16 * i;
            if (A_LOAD == COPY_ACROSS) {
                int k = 16 * step + lane / 16 * 8 + lane % 8, eight = row / 8 + lane / 8 % 2;
                load_transposed(a[i], tile_a + swizzled_across<TILE_M>(k, eight));
            } else {
                load_matrices(a[i], tile_a + swizzled(row + lane % 16, 2 * step + lane / 16));
            }
        }
#pragma unroll
        for (int j = 0; j < FRAGS_N / 2; j++) {
            // Columns 0-7 in both chunks, then columns 8-15.
            int col = warp_n + 16 * j + lane / 16 * 8;
            if (B_LOAD == COPY_ACROSS) {
                int k = 16 * step + lane / 8 % 2 * 8 + lane % 8;
                load_transposed(b[j], tile_b + swizzled_across<TILE_N>(k, col / 8));
            } else {
                load_matrices(b[j], tile_b + swizzled(col + lane % 8, 2 * step + lane / 8 % 2));
            }
        }
#if MMA <= MMA_FP8
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++)
#pragma unroll
            for (int j = 0; j < FRAGS_N; j++)
                mma(sums.of[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
#else
        // A row's scales of a slice are STEP_SCALES words; a step's begin at a byte of one.
        u32 scale_a[FRAGS_M], scale_b[FRAGS_N];
        const int word = step * STEP_SCALES / 4;
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++)
            scale_a[i] = scales_a[(warp_m + 16 * i + lane % 2 * 8 + lane / 4) * STEP_SCALES + word];
#pragma unroll
        for (int j = 0; j < FRAGS_N; j++)
            scale_b[j] = scales_b[(warp_n + 8 * j + lane / 4) * STEP_SCALES + word];
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++)
#pragma unroll
            for (int j = 0; j < FRAGS_N; j++) {
                float(&d)[4] = sums.of[i][j];
                u32 b0 = b[j / 2][j % 2 * 2], b1 = b[j / 2][j % 2 * 2 + 1];
                switch (step * STEP_SCALES % 4) {
                    case 0: mma<0>(d, a[i], b0, b1, scale_a[i], scale_b[j]); break;
#if MMA == MMA_MXFP8
                    case 1: mma<1>(d, a[i], b0, b1, scale_a[i], scale_b[j]); break;
                    case 3: mma<3>(d, a[i], b0, b1, scale_a[i], scale_b[j]); break;
#endif
#if MMA != MMA_NVFP4
                    case 2: mma<2>(d, a[i], b0, b1, scale_a[i], scale_b[j]); break;
#endif
                }
            }
#endif
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
    const Source a(args.a, args.a_scales, batch), b(args.b, args.b_scales, batch);
    const Rows rows = {tile_m * TILE_M, args.m};
    const Columns columns(args, tile_n);
    const int slices = (args.units * UNIT + SLICE - 1) / SLICE;

    Loader<TILE_M, A_LOAD, THREADS, Rows> load_a(a, rows, args.units);
    Loader<TILE_N, B_LOAD, THREADS, Columns> load_b(b, columns, args.units);
    auto fetch = [&](int slice) {
        if (slice < slices) {
            load_a.fetch(slice);
            load_b.fetch(slice);
        }
    };
    auto put = [&](int slice) {
        if (slice < slices) {
            u8* stage = shared + slice % STAGES * STAGE;
            load_a.put(stage, slice);
            load_b.put(stage + TILE_M * SLICE, slice);
            if (STEP_SCALES > 0) {
                u32* scales = (u32*)(stage + (TILE_M + TILE_N) * SLICE);
                load_scales<TILE_M, STEP_SCALES, THREADS>(scales, a, rows, slice);
                scales += TILE_M * STEP_SCALES;
                load_scales<TILE_N, STEP_SCALES, THREADS>(scales, b, columns, slice);
            }
        }
        copy_async_commit();
    };

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_m = warp % WARPS_M * WARP_M, warp_n = warp / WARPS_M * WARP_N;
    Sums sums = {};

    for (int slice = 0; slice < STAGES - 1; slice++) {
        fetch(slice);
        put(slice);
    }
    fetch(STAGES - 1);
    for (int slice = 0; slice < slices; slice++) {
        copy_async_wait<STAGES - 2>();
        // The slice is there for all, and all are done with the one that is replaced next.
        __syncthreads();
        put(slice + STAGES - 1);
        fetch(slice + STAGES);
        const u8* stage = shared + slice % STAGES * STAGE;
#if K_SCALED
        Sums part = {};
        multiply(part, stage, warp_m, warp_n);
        const int at = slice * SLICE / UNIT;
        float factor[FRAGS_N][2];
#pragma unroll
        for (int j = 0; j < FRAGS_N * 2; j++) {
            int col = columns[warp_n + j / 2 * 8 + lane % 4 * 2 + j % 2];
            factor[j / 2][j % 2] = col < 0 ? 0.0f : b.factor(col, at);
        }
#pragma unroll
        for (int i = 0; i < FRAGS_M * 2; i++) {
            int row = rows[warp_m + i * 8 + lane / 4];
            float of_row = row < 0 ? 0.0f : a.factor(row, at);
#pragma unroll
            for (int j = 0; j < FRAGS_N * 2; j++)
                sums.of[i / 2][j / 2][i % 2 * 2 + j % 2] +=
                    scaled(part.of[i / 2][j / 2][i % 2 * 2 + j % 2], of_row, factor[j / 2][j % 2]);
        }
#else
        multiply(sums, stage, warp_m, warp_n);
#endif
    }

    // Through shared memory, so that neighbouring threads store neighbouring columns.
    copy_async_wait<0>();
    __syncthreads();
    float* tile = (float*)shared;
#pragma unroll
    for (int i = 0; i < FRAGS_M * 2; i++)
#pragma unroll
        for (int j = 0; j < FRAGS_N; j++) {
            int row = warp_m + 8 * i + lane / 4, col = warp_n + 8 * j + lane % 4 * 2;
            const float* pair = sums.of[i / 2][j] + i % 2 * 2;
            *(float2*)(tile + row * PITCH + col) = make_float2(pair[0], pair[1]);
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
        auto product = [&](float sum, int col) {
            // Without products there is nothing to multiply with a scale, which may be NaN.
            if (K_SCALED || slices == 0) return sum;
            return scaled(sum, a.factor(row, 0), b.factor(col, 0));
        };
        if (columns.gated) {
            float value = product(sum[8], col + columns.width);
            epilogue.pair(product(sum[0], col), value, row, col, columns.width);
        } else {
            epilogue.plain(product(sum[0], col), row, col);
        }
    }
}
