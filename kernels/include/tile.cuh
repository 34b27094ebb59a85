// Which rows and columns of D a block computes, and how it stores them.
#pragma once

#include "load.cuh"

// Row groups of A and D with a matrix of B each, in the batch's last place.
struct Groups {
    const u8* offsets;  // where each group begins, and where the last one ends
    i64 step;           // from one to the next
    int size;           // bytes of one
    int count;          // of groups
    int tiles;          // of rows, at most
    int rows;           // of all groups

    // A group's first row; within all rows whatever the data say.
    __device__ int offset(int group) const {
        const u8* at = offsets + group * step;
        i64 row = size == 8 ? *(const i64*)at : *(const int*)at;
        return (int)max(0ll, min((i64)rows, row));
    }
};

// The parameters of a matrix product.
struct Args {
    Matrix a, b;  // `row` is along m and n, `col` along k
    Scales a_scales, b_scales;
    Epilogue epilogue;
    int batch[4];
    int m, n, k;
    int part;  // elements along k that are added up by themselves: the parts are added in order
    Groups groups;
};

struct Rows {
    int first, end;
    __device__ int operator[](int local) const {
        return first + local < end ? first + local : -1;
    }
    // How many of the eight from `local` on there are.
    __device__ int run(int local) const { return max(0, min(8, end - first - local)); }
    // How far below each other rows are that are `locals` apart in the tile.
    __device__ int below(int locals) const { return locals; }
};

// What a block computes: up to HEIGHT rows of one matrix of the batch, and which columns.
template <int HEIGHT>
struct Work {
    int batch[4];
    Rows rows;
    int tile_n;

#if GROUPED
    // Every warp looks for the group of its tile by itself, 32 groups at a time.
    __device__ Work(const Args& args, int tiles_n) : batch{}, rows{0, 0} {
        const Groups& groups = args.groups;
        const int lane = threadIdx.x % 32, tile = blockIdx.x % groups.tiles;
        tile_n = blockIdx.x / groups.tiles;
        for (int first = 0, before = 0; first < groups.count; first += 32) {
            int begin = 0, end = 0;
            if (first + lane < groups.count) {
                begin = groups.offset(first + lane);
                end = groups.offset(first + lane + 1);
            }
            const int tiles = (max(0, end - begin) + HEIGHT - 1) / HEIGHT;
            int sum = before + tiles;
            for (int step = 1; step < 32; step *= 2) {
                int other = __shfl_up_sync(~0u, sum, step);
                if (lane >= step) sum += other - before;
            }
            const u32 beyond = __ballot_sync(~0u, sum > tile);
            if (beyond) {
                const int owner = __ffs(beyond) - 1;
                batch[3] = first + owner;
                rows.first = __shfl_sync(~0u, begin + (tile - (sum - tiles)) * HEIGHT, owner);
                rows.end = __shfl_sync(~0u, end, owner);
                return;
            }
            before = __shfl_sync(~0u, sum, 31);
        }
    }
#else
    // Neighbouring blocks share columns of B, which are the larger operand most often.
    __device__ Work(const Args& args, int tiles_n) {
        const int tiles_m = (args.m + HEIGHT - 1) / HEIGHT;
        int rest = blockIdx.x / tiles_m;
        rows = {(int)blockIdx.x % tiles_m * HEIGHT, args.m};
        tile_n = rest % tiles_n;
        rest /= tiles_n;
        for (int i = 3; i >= 0; i--) {
            batch[i] = rest % args.batch[i];
            rest /= args.batch[i];
        }
    }
#endif

    // Groups can fill fewer tiles than there are blocks.
    __device__ bool is_none() const { return rows.first == rows.end; }
};

// The columns of B that a tile of WIDTH holds: neighbours, or gates and what they are multiplied
// with, eight of each in turn, so that a tile has both of a pair.
template <int WIDTH>
struct Columns {
    int first, width, gated;

    __device__ Columns(const Args& args, int tile)
        : first(args.epilogue.gated ? tile * (WIDTH / 2) : tile * WIDTH),
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

    // How far apart columns are that are `locals`, a multiple of 16, apart in the tile.
    __device__ int below(int locals) const { return gated ? locals / 2 : locals; }

    // Stores ROWS rows of D, of which sum(local row, local column) gives the products: neighbouring
    // threads store neighbouring columns.
    template <int ROWS, typename Sum>
    __device__ void store(const EpilogueOf& epilogue, const Rows& rows, const Sum& sum) const {
        const int count = gated ? WIDTH / 2 : WIDTH;
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * count; i += blockDim.x) {
            int local = gated ? i % count / 8 * 16 + i % 8 : i % count, local_row = i / count;
            int row = rows[local_row], col = (*this)[local];
            if (row < 0 || col < 0) continue;
            if (gated) {
                float value = sum(local_row, local + 8, row, col + width);
                epilogue.pair(sum(local_row, local, row, col), value, row, col, width);
            } else {
                epilogue.plain(sum(local_row, local, row, col), row, col);
            }
        }
    }
};

// A sum of products with the factors of its row and column, where they belong to whole sums.
__device__ inline float product(float sum, const Source& a, const Source& b, int row, int col,
                                int k) {
    // Without products there is nothing to multiply with a scale, which may be NaN.
    if (FOLD || k == 0) return sum;
    if (MMA > MMA_FP8) return scaled(sum, a.scales.whole(), b.scales.whole());
    return scaled(sum, a.factor(row, 0), b.factor(col, 0));
}

// sum + x * of_a * of_b, of which FACTORS says which there are: 1 for A's, 2 for B's.
__device__ inline float folded(float sum, float x, float of_a, float of_b) {
    if (FACTORS == 3) return sum + scaled(x, of_a, of_b);
    return fmaf(x, FACTORS == 1 ? of_a : of_b, sum);
}
