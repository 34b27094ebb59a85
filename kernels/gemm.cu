// D = residual + f(alpha * A*B + beta * C + bias), on tensor cores.
//
//            k -->  slices of 128 bytes a row, STAGES of them in shared memory
//        +----------+      A block computes TILE_M x TILE_N of D; its WARPS_M x WARPS_N warps
//      m |  A tile  |      each a part of it, in m16n8 fragments, every step 32 bytes of k.
//        +----------+      Rows of A and columns of B lie along k in shared memory, 16-byte
//      n |  B tile  |      chunks swizzled; in global memory they lie there too and are copied
//        +----------+      asynchronously, or in any strides, or as codes: see load.cuh.
// Few tiles are shared by blocks, each with a part of k.
// Where GROUPED, a tile's rows are of one group, which has a matrix B of its own.
// Block scales go with their slices; others multiply sums, of FOLD elements along k or whole ones.
// Limited by shared memory: ldmatrix reads (TILE_M/WARPS_M + TILE_N/WARPS_N) * 32 bytes a step.
#include "tile.cuh"

constexpr int STEP = 32;  // bytes along k of one mma
constexpr int STEPS = SLICE / STEP;
constexpr int FOLD_STEPS = FOLD * UNIT / STEP;
constexpr int TILE_THREADS = 32 * WARPS_M * WARPS_N;
constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int FRAGS_M = WARP_M / 16, FRAGS_N = WARP_N / 8;
constexpr int TILES = (TILE_M + TILE_N) * SLICE;
// A multiple of a row, so that chunks can be told by bits of their addresses.
constexpr int STAGE =
    (TILES + (TILE_M + TILE_N) * STEPS * STEP_SCALES + SLICE - 1) / SLICE * SLICE;
constexpr int PITCH = TILE_N + 8;  // floats of a row of sums: eight rows are in different banks
static_assert(FRAGS_N % 2 == 0, "B's fragments are read in pairs");
static_assert(TILE_M * PITCH * 4 <= STAGES * STAGE, "the sums fit where the slices were");

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

    __device__ void load(Fragments& to, u32 stage, int step) const {
#pragma unroll
        for (int i = 0; i < FRAGS_M; i++) {
            if (A_LOAD == COPY_ACROSS) {
                int k = 16 * step + lane / 16 * 8 + lane % 8;
                int eight = warp_m / 8 + 2 * i + lane / 8 % 2;
                load_transposed(to.a[i], stage + swizzled_across<TILE_M>(k, eight));
            } else {
                // A step on is two chunks, and two chunks of all rows swap with two others.
                load_matrices(to.a[i], (stage + a ^ STEP * step) + 16 * i * SLICE);
            }
        }
#pragma unroll
        for (int j = 0; j < FRAGS_N / 2; j++) {
            if (B_LOAD == COPY_ACROSS) {
                int k = 16 * step + lane / 8 % 2 * 8 + lane % 8;
                int eight = warp_n / 8 + 2 * j + lane / 16;
                load_transposed(to.b[j],
                                stage + TILE_M * SLICE + swizzled_across<TILE_N>(k, eight));
            } else {
                load_matrices(to.b[j], (stage + b ^ STEP * step) + 16 * j * SLICE);
            }
        }
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

// Multiplies a slice into the sums: every warp its part of the tile. `fold` gets the steps done
// after every FOLD_STEPS.
template <typename Fold>
__device__ inline void multiply(Sums& sums, const u8* stage, const Place& place, const Fold& fold) {
    const u32 at = shared_address(stage);
#if MMA > MMA_FP8
    StepScales scales;
#endif
    // A step's fragments are read while those of the step before are multiplied, where there are
    // registers for that: scales and folded sums take them.
    constexpr int BUFFERS = FOLD || STEP_SCALES ? 1 : 2;
    Fragments fragments[BUFFERS];
    place.load(fragments[0], at, 0);
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const auto& [a, b] = fragments[step % BUFFERS];
#if MMA > MMA_FP8
        if (step % scales.STEPS_OF_WORDS == 0) scales.load(at, place, step);
#endif
        if (BUFFERS == 1 && step > 0) place.load(fragments[0], at, step);
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
                // A step's scales begin at a byte of a word.
                u32 of_a = scales.a[i][step * STEP_SCALES / 4 % scales.WORDS];
                u32 of_b = scales.b[j][step * STEP_SCALES / 4 % scales.WORDS];
                switch (step * STEP_SCALES % 4) {
                    case 0: mma<0>(d, a[i], b0, b1, of_a, of_b); break;
#if MMA == MMA_MXFP8
                    case 1: mma<1>(d, a[i], b0, b1, of_a, of_b); break;
                    case 3: mma<3>(d, a[i], b0, b1, of_a, of_b); break;
#endif
#if MMA != MMA_NVFP4
                    case 2: mma<2>(d, a[i], b0, b1, of_a, of_b); break;
#endif
                }
#endif
            }
        if (FOLD && (step + 1) % FOLD_STEPS == 0) fold(step + 1 - FOLD_STEPS);
    }
}

extern "C" __global__ __launch_bounds__(TILE_THREADS, 1) void gemm(const __grid_constant__ Args args) {
    extern __shared__ __align__(128) u8 shared[];
    const Work<TILE_M> work(args, (args.n + TILE_N - 1) / TILE_N);
    if (work.is_none()) return;
    const Source a(args.a, args.a_scales, work.batch), b(args.b, args.b_scales, work.batch);
    const Rows& rows = work.rows;
    const Columns<TILE_N> columns(args, work.tile_n);
    const int units = (args.k + ELEMENTS - 1) / ELEMENTS;
    const int slices = (units * UNIT + SLICE - 1) / SLICE;
    const int part_slices = args.part / (SLICE / UNIT * ELEMENTS);
    // All parts of k, or one.
    const int begin = work.number * part_slices;
    const int end = args.split.sums ? min(slices, begin + part_slices) : slices;

    Loader<TILE_M, A_LOAD, TILE_THREADS, Rows> load_a(a, rows, units);
    Loader<TILE_N, B_LOAD, TILE_THREADS, Columns<TILE_N>> load_b(b, columns, units);
#if MMA > MMA_FP8
    ScaleLoader<TILE_M, STEP_SCALES, TILE_THREADS> load_a_scales(a, rows, threadIdx.x);
    ScaleLoader<TILE_N, STEP_SCALES, TILE_THREADS> load_b_scales(b, columns, threadIdx.x);
#endif
    auto fetch = [&](int slice) {
        if (slice < end) {
            load_a.fetch(slice);
            load_b.fetch(slice);
        }
    };
    auto put = [&](int slice) {
        if (slice < end) {
            u8* stage = shared + slice % STAGES * STAGE;
            load_a.put(stage, slice);
            load_b.put(stage + TILE_M * SLICE, slice);
#if MMA > MMA_FP8
            u32* scales = (u32*)(stage + TILES);
            load_a_scales.put(scales, slice * STEP_SCALES);
            load_b_scales.put(scales + TILE_M * STEP_SCALES, slice * STEP_SCALES);
#endif
        }
        copy_async_commit();
    };

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Place place(lane, warp % WARPS_M * WARP_M, warp / WARPS_M * WARP_N);
    // Of all parts before, of this one, and of what is folded into it next.
    Sums sums = {}, part = {}, next = {};

    for (int slice = begin; slice < begin + STAGES - 1; slice++) {
        fetch(slice);
        put(slice);
    }
    fetch(begin + STAGES - 1);
    int left = part_slices;
    for (int slice = begin; slice < end; slice++) {
        copy_async_wait<STAGES - 2>();
        // The slice is there for all, and all are done with the one that is replaced next.
        __syncthreads();
        put(slice + STAGES - 1);
        fetch(slice + STAGES);
        multiply(FOLD ? next : part, shared + slice % STAGES * STAGE, place, [&](int step) {
            const int at = (slice * SLICE + step * STEP) / UNIT;
            float of_col[FRAGS_N * 2];
#pragma unroll
            for (int j = 0; j < FRAGS_N * 2; j++) {
                int col = columns[place.warp_n + j / 2 * 8 + lane % 4 * 2 + j % 2];
                of_col[j] = col < 0 || at >= units ? 0.0f : b.factor(col, at);
            }
#pragma unroll
            for (int i = 0; i < FRAGS_M * 2; i++) {
                int row = rows[place.warp_m + i * 8 + lane / 4];
                float of_row = row < 0 || at >= units ? 0.0f : a.factor(row, at);
#pragma unroll
                for (int j = 0; j < FRAGS_N * 2; j++) {
                    float& x = next.of[i / 2][j / 2][i % 2 * 2 + j % 2];
                    float& sum = part.of[i / 2][j / 2][i % 2 * 2 + j % 2];
                    sum = folded(sum, x, of_row, of_col[j]);
                    x = 0.0f;
                }
            }
        });
        if (--left == 0) {
            sums.add(part);
            part = {};
            left = part_slices;
        }
    }
    sums.add(part);

    // Through shared memory, so that neighbouring threads store neighbouring columns.
    copy_async_wait<0>();
    __syncthreads();
    float* tile = (float*)shared;
#pragma unroll
    for (int i = 0; i < FRAGS_M * 2; i++)
#pragma unroll
        for (int j = 0; j < FRAGS_N; j++) {
            int row = place.warp_m + 8 * i + lane / 4, col = place.warp_n + 8 * j + lane % 4 * 2;
            const float* pair = sums.of[i / 2][j] + i % 2 * 2;
            *(float2*)(tile + row * PITCH + col) = make_float2(pair[0], pair[1]);
        }
    __syncthreads();
    if (args.split.sums) {
        for (int i = threadIdx.x; i < TILE_M * TILE_N; i += TILE_THREADS) {
            int row = rows[i / TILE_N], col = columns[i % TILE_N];
            if (row < 0 || col < 0) continue;
            work.sums(args, work.number, row)[col] = tile[i / TILE_N * PITCH + i % TILE_N];
        }
        return;
    }
    auto sum = [&](int local_row, int local_col, int row, int col) {
        return product(tile[local_row * PITCH + local_col], a, b, row, col, args.k);
    };
    leave(args, work, columns, sum);
}

extern "C" __global__ __launch_bounds__(TILE_THREADS, 1) void add_parts(const __grid_constant__ Args args) {
    add_all_parts<TILE_M, TILE_N>(args);
}
