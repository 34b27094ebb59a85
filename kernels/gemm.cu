// D = residual + f(alpha * A*B * column_scale + beta * C + bias), on tensor cores.
//
//            k -->  slices of 128 bytes a row, STAGES of them in shared memory
//        +----------+      A block computes TILE_M x TILE_N of D; its WARPS_M x WARPS_N warps
//      m |  A tile  |      each a part of it, in m16n8 fragments, every step 32 bytes of k.
//        +----------+      Rows of A and columns of B lie along k in shared memory, 16-byte
//      n |  B tile  |      chunks swizzled; in global memory they lie there too and are copied
//        +----------+      asynchronously, or in any strides, or as codes: see load.cuh.
// Blocks are as many as the machine holds, and take tiles in turn; the first slices of the next one
// are under way while one is left. Where SPLITS, blocks can share a tile, each with a part of k.
// Where GROUPED, a tile's rows are of one group, which has a matrix B of its own.
// Block scales go with their slices; others multiply sums, of FOLD elements along k or whole ones.
// Limited by shared memory: ldmatrix reads (TILE_M/WARPS_M + TILE_N/WARPS_N) * 32 bytes a step.
#include "fold.cuh"
#include "tile.cuh"

constexpr int STEP = 32;  // bytes along k of one mma
constexpr int STEPS = SLICE / STEP;
constexpr int FOLD_STEPS = FOLD * UNIT / STEP;
constexpr int TILE_THREADS = 32 * WARPS_M * WARPS_N;
constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int FRAGS_M = WARP_M / 16, FRAGS_N = WARP_N / 8;
constexpr int TILES = (TILE_M + TILE_N) * SLICE;
constexpr int SCALES = (TILE_M + TILE_N) * STEPS * STEP_SCALES;
constexpr int A_FACTORS = factor_bytes(1, TILE_M), B_FACTORS = factor_bytes(2, TILE_N);
// A multiple of a row, so that chunks can be told by bits of their addresses.
constexpr int STAGE = (TILES + SCALES + A_FACTORS + B_FACTORS + SLICE - 1) / SLICE * SLICE;
// Rows of sums that are left together: in a stage, while the others are filled for the next tile.
constexpr int LEFT = TILE_M * TILE_N * 4 <= STAGE ? TILE_M : TILE_M / 2;
// Whether multiplying FP8 is unpacking it to F16 here.
constexpr bool UNPACKS = MMA == MMA_FP8 && (__CUDA_ARCH__ == 900 || __CUDA_ARCH__ == 1000);
// Whether single bytes are collected while sums are folded.
constexpr bool COLLECTS = FOLD && UNIT == 1 && (A_LOAD == GATHER || B_LOAD == GATHER);
// Whether there are registers for what can not be copied, while it is waited for.
constexpr bool AHEAD = STEP_SCALES < 2 && !UNPACKS && !COLLECTS;
static_assert(FRAGS_N % 2 == 0, "B's fragments are read in pairs");
static_assert(LEFT * TILE_N * 4 <= STAGE && LEFT % WARP_M == 0, "sums of whole warps fit");

// Where a sum lies: four rows of eight are in different banks.
__device__ inline int sum_at(int row, int col) { return row * TILE_N + (col ^ row % 4 * EIGHT); }

struct Sums {
    float of[FRAGS_M][FRAGS_N][4];

    __device__ void add(const Sums& other) {
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++)
#pragma unroll
            for (int j = 0; j < FRAGS_N; j++)
#pragma unroll
                for (int l = 0; l < 4; l++) of[i][j][l] += other.of[i][j][l];
    }
};

// What a warp multiplies in one step.
struct Fragments {
    u32 a[FRAGS_M][4], b[FRAGS_N / 2][4];
};

// Where a warp's fragments lie in a stage.
struct Place {
    int lane, warp_m, warp_n;
    u32 a, b;

    __device__ Place(int lane, int warp_m, int warp_n)
        : lane(lane), warp_m(warp_m), warp_n(warp_n),
          // Rows 0-7, rows 8-15, and both again for the second chunk.
          a(swizzled(warp_m + lane % 16, lane / 16)),
          // Columns 0-7 in both chunks, then columns 8-15.
          b(TILE_M * SLICE + swizzled(warp_n + lane / 16 * 8 + lane % 8, lane / 8 % 2)) {}

    __device__ void load_a(u32 (&to)[4], u32 stage, int step, int i) const {
        if (A_LOAD == COPY_ACROSS) {
            int k = 16 * step + lane / 16 * 8 + lane % 8;
            int eight = warp_m / 8 + 2 * i + lane / 8 % 2;
            load_transposed(to, stage + swizzled_across<TILE_M>(k, eight));
        } else {
            // A step on is two chunks, and two chunks of all rows swap with two others.
            load_matrices(to, (stage + a ^ STEP * step) + 16 * i * SLICE);
        }
    }

    __device__ void load_b(u32 (&to)[4], u32 stage, int step, int j) const {
        if (B_LOAD == COPY_ACROSS) {
            int k = 16 * step + lane / 8 % 2 * 8 + lane % 8;
            int eight = warp_n / 8 + 2 * j + lane / 16;
            load_transposed(to, stage + TILE_M * SLICE + swizzled_across<TILE_N>(k, eight));
        } else {
            load_matrices(to, (stage + b ^ STEP * step) + 16 * j * SLICE);
        }
    }

    __device__ void load(Fragments& to, u32 stage, int step) const {
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++) load_a(to.a[i], stage, step, i);
#pragma unroll
        for (int j = 0; j < FRAGS_N / 2; j++) load_b(to.b[j], stage, step, j);
    }
};

#if MMA > MMA_FP8
// Block scales of rows, as many words as are in registers at a time: all four of an NVFP4 slice
// would leave too few for the sums.
struct StepScales {
    static constexpr int ROW = 4 * STEP_SCALES;
    static constexpr int WORDS = STEP_SCALES < 2 ? 1 : 2;
    static constexpr int STEPS_OF_WORDS = 4 * WORDS / STEP_SCALES;
    u32 a[FRAGS_M][WORDS], b[FRAGS_N][WORDS];

    // Those of the steps from `step` on.
    __device__ void load(u32 stage, const Place& place, int step) {
        u32 at = stage + TILES + step * STEP_SCALES;
        u32 rows = at + (place.warp_m + place.lane % 2 * 8 + place.lane / 4) * ROW;
        u32 cols = at + (TILE_M + place.warp_n + place.lane / 4) * ROW;
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++) load_words(a[i], rows + 16 * i * ROW);
#pragma unroll
        for (int j = 0; j < FRAGS_N; j++) load_words(b[j], cols + 8 * j * ROW);
    }
};
#endif

// Multiplies a slice into the sums: every warp its part of the tile.
#if FOLD
// Does it with each sum of 16 columns: by 16 rows, 8 columns, and the fragment's elements.
template <typename F>
__device__ inline void for_each(const F& f) {
#pragma unroll
    for (int i = 0; i < FRAGS_M; i++)
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int l = 0; l < 4; l++) f(i, k, l);
}

// Sums of FOLD elements are those of 16 columns at a time, so that few are kept beside the sums that they
// are folded into.
__device__ inline void multiply(Sums& sums, const u8* stage, const Place& place) {
    // Steps whose fragments of A are kept; unpacked they would take too many registers.
    constexpr int HELD = UNPACKS ? 1 : FOLD_STEPS;
    const u32 at = shared_address(stage);
    const float* a_factors = (const float*)(stage + TILES) + place.warp_m + place.lane / 4;
    const float* b_factors =
        (const float*)(stage + TILES + A_FACTORS) + place.warp_n + place.lane % 4 * 2;
    // Of several at once assemblers order so much before that registers are spilled.
#pragma unroll 1
    for (int fold = 0; fold < FOLDS; fold++) {
        u32 a[HELD][FRAGS_M][4];
        float of_rows[FRAGS_M * 2] = {}, of_cols[4] = {};
#pragma unroll
        for (int i = 0; i < FRAGS_M * HELD && HELD > 1; i++)
            place.load_a(a[i % HELD][i / HELD], at, fold * FOLD_STEPS + i % HELD, i / HELD);
#pragma unroll
        for (int i = 0; i < FRAGS_M * 2 && FACTORS & 1; i++)
            of_rows[i] = a_factors[fold * TILE_M + 8 * i];
#pragma unroll
        for (int j = 0; j < FRAGS_N / 2; j++) {
            float next[FRAGS_M][2][4] = {};
#pragma unroll(UNPACKS ? 1 : FOLD_STEPS)
            for (int step = 0; step < FOLD_STEPS; step++) {
                u32 b[4];
                place.load_b(b, at, fold * FOLD_STEPS + step, j);
#pragma unroll
                for (int i = 0; i < FRAGS_M && HELD == 1; i++)
                    place.load_a(a[0][i], at, fold * FOLD_STEPS + step, i);
#pragma unroll
                for (int i = 0; i < FRAGS_M * 2; i++)
                    mma(next[i / 2][i % 2], a[step % HELD][i / 2], b[i % 2 * 2], b[i % 2 * 2 + 1]);
            }
#pragma unroll
            for (int i = 0; i < 2 && FACTORS & 2; i++) {
                const float2 pair = *(const float2*)(b_factors + fold * TILE_N + 16 * j + 8 * i);
                of_cols[2 * i] = pair.x, of_cols[2 * i + 1] = pair.y;
            }
            float factors[FRAGS_M][2][4];
            for_each([&](int i, int k, int l) {
                const float of_row = of_rows[2 * i + l / 2], of_col = of_cols[2 * k + l % 2];
                factors[i][k][l] = FACTORS == 3 ? of_row * of_col : FACTORS == 1 ? of_row : of_col;
            });
            if (FACTORS == 3 && !are_moderate(of_rows, of_cols)) {
                for_each([&](int i, int k, int l) {
                    const float of_row = of_rows[2 * i + l / 2], of_col = of_cols[2 * k + l % 2];
                    factors[i][k][l] = factor_with_care(next[i][k][l], of_row, of_col);
                });
            }
            for_each([&](int i, int k, int l) {
                float& sum = sums.of[i][2 * j + k][l];
                sum = fmaf(next[i][k][l], factors[i][k][l], sum);
            });
        }
    }
}
#else
__device__ inline void multiply(Sums& sums, const u8* stage, const Place& place) {
    const u32 at = shared_address(stage);
#if MMA > MMA_FP8
    StepScales scales;
#endif
    // A step's fragments are read while those of the step before are multiplied, where there are
    // registers for that: scales and unpacked FP8 take them.
    constexpr int BUFFERS = STEP_SCALES || UNPACKS ? 1 : 2;
    Fragments fragments[BUFFERS];
    if (BUFFERS == 2) place.load(fragments[0], at, 0);
    // Of several steps at once, what is unpacked would be too much for registers.
#pragma unroll(UNPACKS ? 1 : STEPS)
    for (int step = 0; step < STEPS; step++) {
        const auto& [a, b] = fragments[step % BUFFERS];
#if MMA > MMA_FP8
        if (step % scales.STEPS_OF_WORDS == 0) scales.load(at, place, step);
#endif
        if (BUFFERS == 1) place.load(fragments[0], at, step);
        if (BUFFERS == 2 && step + 1 < STEPS) place.load(fragments[(step + 1) % 2], at, step + 1);
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++)
#pragma unroll
            for (int j = 0; j < FRAGS_N; j++) {
                float(&d)[4] = sums.of[i][j];
                u32 b0 = b[j / 2][j % 2 * 2], b1 = b[j / 2][j % 2 * 2 + 1];
#if MMA <= MMA_FP8
                mma(d, a[i], b0, b1);
#else
                u32 of_a = scales.a[i][step * STEP_SCALES / 4 % scales.WORDS];
                u32 of_b = scales.b[j][step * STEP_SCALES / 4 % scales.WORDS];
                mma_of_step(d, a[i], b0, b1, of_a, of_b, step);
#endif
            }
    }
}
#endif

// Leaves a tile by way of a stage, so that a thread has eight neighbours.
__device__ inline void leave_tile(const Args& args, const Work<TILE_M>& work, const Sums& sums,
                                  const Place& place, float* stage) {
    const Source a(args.a, args.a_scales, work.batch), b(args.b, args.b_scales, work.batch);
    const Columns<TILE_N> columns(args, work.tile_n);
    const int lane = place.lane;
#pragma unroll 1
    for (int top = 0; top < TILE_M; top += LEFT) {
        // Others may still read the rows before.
        if (top > 0) __syncthreads();
        if (place.warp_m / LEFT * LEFT == top) {
#pragma unroll
            for (int i = 0; i < FRAGS_M * 2; i++)
#pragma unroll
                for (int j = 0; j < FRAGS_N; j++) {
                    const int row = place.warp_m - top + 8 * i + lane / 4;
                    const int col = place.warp_n + 8 * j + lane % 4 * 2;
                    const float* pair = sums.of[i / 2][j] + i % 2 * 2;
                    *(float2*)(stage + sum_at(row, col)) = make_float2(pair[0], pair[1]);
                }
        }
        __syncthreads();
        auto take = [&](float (&x)[EIGHT], int local_row, int local_col) {
            const float4* at = (const float4*)(stage + sum_at(local_row - top, local_col));
            const float4 low = at[0], high = at[1];
            x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
            x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
        };
        if (SPLITS && args.split.sums) {
            leave_sums<LEFT>(args, work, columns, top, work.number, threadIdx.x, TILE_THREADS, take);
            continue;
        }
        leave<LEFT>(args, work, columns, top,
                    [&](float (&x)[EIGHT], int local_row, int local_col, int row, int col, int end) {
                        take(x, local_row, local_col);
                        multiply_factors(x, a, b, row, col, end, args.k);
                    });
    }
}

extern "C" __global__ __launch_bounds__(TILE_THREADS, RESIDENT) void gemm(
    const __grid_constant__ Args args) {
    extern __shared__ __align__(128) u8 shared[];
#if GROUPED
    if (blockIdx.x == 0) args.groups.check();
#endif
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Place place(lane, warp % WARPS_M * WARP_M, warp / WARPS_M * WARP_N);
    const int units = (args.k + ELEMENTS - 1) / ELEMENTS;
    const int slices = (units * UNIT + SLICE - 1) / SLICE;
    // Found anew for each part, as the tiles are for each of them: registers are short.
    auto part_slices = [&] { return args.part / (SLICE / UNIT * ELEMENTS); };
    Sums sums;  // of all parts before

    for (int number = blockIdx.x;; number += gridDim.x) {
        const auto tiles = Tiles<TILE_M, TILE_N>::counted(args);
        const Work<TILE_M> work(args, tiles, number);
        const Source a(args.a, args.a_scales, work.batch), b(args.b, args.b_scales, work.batch);
        const Rows& rows = work.rows;
        const Columns<TILE_N> columns(args, work.tile_n);
        // All parts of k, or one.
        const bool split = SPLITS && args.split.sums;
        const int begin = split ? work.number * part_slices() : 0;
        const int end = split ? min(slices, begin + part_slices()) : slices;

        Loader<TILE_M, A_LOAD, TILE_THREADS, Rows> load_a(a, rows, units);
        Loader<TILE_N, B_LOAD, TILE_THREADS, Columns<TILE_N>> load_b(b, columns, units);
#if MMA > MMA_FP8
        ScaleLoader<TILE_M, STEP_SCALES, TILE_THREADS> load_a_scales(a, rows, threadIdx.x);
        ScaleLoader<TILE_N, STEP_SCALES, TILE_THREADS> load_b_scales(b, columns, threadIdx.x);
#endif
#if FOLD
        FactorLoader<TILE_M, TILE_THREADS> load_a_factors(a, rows, units, threadIdx.x);
        FactorLoader<TILE_N, TILE_THREADS> load_b_factors(
            b, columns, units, (threadIdx.x + TILE_M) % TILE_THREADS);
#endif
        auto fetch_now = [&](int slice) {
            if (slice < end) {
                load_a.fetch(slice);
                load_b.fetch(slice);
            }
        };
        auto fetch = [&](int slice) {
            if (AHEAD) fetch_now(slice);
#if FOLD
            if (slice < end && FACTORS & 1) load_a_factors.fetch(slice);
            if (slice < end && FACTORS & 2) load_b_factors.fetch(slice);
#endif
        };
        auto put = [&](int slice) {
            if (!AHEAD) fetch_now(slice);
            if (slice < end) {
                u8* stage = shared + slice % STAGES * STAGE;
                load_a.put(stage, slice);
                load_b.put(stage + TILE_M * SLICE, slice);
#if MMA > MMA_FP8
                u32* scales = (u32*)(stage + TILES);
                load_a_scales.put(scales, slice * STEP_SCALES);
                load_b_scales.put(scales + TILE_M * STEP_SCALES, slice * STEP_SCALES);
#elif FOLD
                if (FACTORS & 1) load_a_factors.put((float*)(stage + TILES));
                if (FACTORS & 2) load_b_factors.put((float*)(stage + TILES + A_FACTORS));
#endif
            }
            copy_async_commit();
        };
        // The first slices are under way while the tile before is left by the one stage that they
        // do not fill.
        for (int slice = begin; slice < begin + STAGES - 1 && !work.is_none(); slice++) {
            fetch(slice);
            put(slice);
        }
        if (number != blockIdx.x) {
            const Work<TILE_M> before(args, tiles, number - gridDim.x);
            float* stage = (float*)(shared + (begin + STAGES - 1) % STAGES * STAGE);
            leave_tile(args, before, sums, place, stage);
        }
        if (work.is_none()) return;
        fetch(begin + STAGES - 1);

        sums = {};
        Sums part = {};
        int left = part_slices();
        for (int slice = begin; slice < end; slice++) {
            copy_async_wait<STAGES - 2>();
            // The slice is there for all, and all are done with the one that is replaced next.
            __syncthreads();
            put(slice + STAGES - 1);
            fetch(slice + STAGES);
            multiply(part, shared + slice % STAGES * STAGE, place);
            if (--left == 0) {
                sums.add(part);
                part = {};
                left = part_slices();
            }
        }
        sums.add(part);
        // All are done with all slices.
        __syncthreads();
    }
}

#if SPLITS
extern "C" __global__ __launch_bounds__(TILE_THREADS, 1) void add_parts(const __grid_constant__ Args args) {
    add_all_parts<TILE_M, TILE_N>(args);
}
#endif
