// Which rows and columns of D a block computes, and how it stores them.
#pragma once

#include "index.cuh"
#include "load.cuh"
#ifdef CODE
#include "quantize.cuh"
#endif

// Row groups of A and D with a matrix of B each, in the batch's last place.
struct Groups {
    const u8* offsets;  // where each group begins, and where the last one ends
    unsigned long long* wrong;
    i64 step;           // from one offset to the next
    int dtype;          // of offsets
    int count;          // of groups
    int tiles;          // of rows, at most
    int rows;           // of all groups

    __device__ i64 load(int group) const { return load_index(dtype, offsets + group * step); }

    // A group's first row; within all rows whatever the data say.
    __device__ int offset(int group) const {
        return (int)max((i64)0, min((i64)rows, load(group)));
    }

    // Reports offsets that are not those of groups; all threads of a block take part.
    __device__ void check() const {
        for (int i = threadIdx.x; i <= count; i += blockDim.x) {
            const i64 row = load(i), before = i ? load(i - 1) : 0;
            if (row < before || i == 0 && row || i == count && row != rows) report(wrong, i);
        }
    }
};

// Parts of k that blocks of their own add up, and another kernel adds.
struct Split {
    float* sums;  // of each part, matrix, row and column of B; null where a block has all parts
    int blocks;   // that share a tile
    int reserved;
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
    Split split;
#ifdef CODE
    Blocks to;  // instead of the epilogue's D
#endif
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

// What a block computes: up to HEIGHT rows of one matrix of the batch, which columns, and as which
// of those that share a tile.
template <int HEIGHT>
struct Work {
    int batch[4];
    Rows rows;
    int tile_n;
    int matrix = 0;  // of the batch
    int number = 0;

#if GROUPED
    // Every warp looks for the group of its tile by itself, 32 groups at a time.
    __device__ Work(const Args& args, int tiles_n) : batch{}, rows{0, 0} {
        const Groups& groups = args.groups;
        const int block = own_block(args);
        if (blockIdx.x == 0) groups.check();
        const int lane = threadIdx.x % 32, tile = block % groups.tiles;
        tile_n = block / groups.tiles;
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
        const int tiles_m = (args.m + HEIGHT - 1) / HEIGHT, block = own_block(args);
        int rest = block / tiles_m;
        rows = {block % tiles_m * HEIGHT, args.m};
        tile_n = rest % tiles_n;
        matrix = rest /= tiles_n;
        for (int i = 3; i >= 0; i--) {
            batch[i] = rest % args.batch[i];
            rest /= args.batch[i];
        }
    }
#endif

    // The block's number among those for the same parts of k.
    __device__ int own_block(const Args& args) {
        const int blocks = gridDim.x / args.split.blocks;
        number = blockIdx.x / blocks;
        return blockIdx.x % blocks;
    }

    // Groups can fill fewer tiles than there are blocks.
    __device__ bool is_none() const { return rows.first == rows.end; }

    // Where the sums of a part of k are left, for a row.
    __device__ float* sums(const Args& args, int part, int row) const {
        i64 matrices = (i64)part;
        for (int i = 0; i < 4; i++) matrices *= args.batch[i];
        return args.split.sums + ((matrices + matrix) * args.m + row) * args.n;
    }
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

    // How many columns of D that makes, and where in the tile one of them is.
    __device__ int count() const { return gated ? WIDTH / 2 : WIDTH; }
    __device__ int local(int i) const { return gated ? i / 8 * 16 + i % 8 : i; }

    // An element of D, of which sum(local row, local column, row, column) gives the products.
    template <typename Sum>
    __device__ float value(const EpilogueOf& epilogue, const Sum& sum, int local_row, int local,
                           int row, int col) const {
        const float t = sum(local_row, local, row, col);
        if (!gated) return epilogue.plain(t, row, col);
        return epilogue.pair(t, sum(local_row, local + 8, row, col + width), row, col, width);
    }

    // Stores ROWS rows of D: neighbouring threads store neighbouring columns.
    template <int ROWS, typename Sum>
    __device__ void store(const EpilogueOf& epilogue, const Rows& rows, const Sum& sum) const {
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * count(); i += blockDim.x) {
            const int at = local(i % count()), local_row = i / count();
            const int row = rows[local_row], col = (*this)[at];
            if (row < 0 || col < 0) continue;
            epilogue.put(value(epilogue, sum, local_row, at, row, col), row, col);
        }
    }

#ifdef CODE
    // Quantises them, eight columns a thread. They are rows from `above` on of all matrices'.
    template <int ROWS, typename Sum>
    __device__ void quantize(const EpilogueOf& epilogue, const Blocks& to, int above,
                             const Rows& rows, const Sum& sum) const {
        const int eights = count() / EIGHT;
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * eights; i += blockDim.x) {
            const int from = i % eights * EIGHT, local_row = i / eights, row = rows[local_row];
            float x[EIGHT];
#pragma unroll
            for (int j = 0; j < EIGHT; j++) {
                const int at = local(from + j), col = (*this)[at];
                x[j] = row < 0 || col < 0 ? 0.0f
                                          : value(epilogue, sum, local_row, at, row, col);
            }
            // Behind all codes there is nothing to store.
            ::quantize(to, above + row, row < 0 ? 2 * to.row_bytes : first + from, x);
        }
        for (int i = 0; first == 0 && i < ROWS && rows[i] >= 0; i++)
            clear_padding(to, above + rows[i]);
    }
#endif
};

// A sum of products with the factors of its row and column, where they belong to whole sums.
__device__ inline float product(float sum, const Source& a, const Source& b, int row, int col,
                                int k) {
    // Without products there is nothing to multiply with a scale, which may be NaN.
    if (FOLD || k == 0) return sum;
    if (MMA > MMA_FP8) return scaled(sum, a.scales.whole(), b.scales.whole());
    return scaled(sum, a.factor(row, 0), b.factor(col, 0));
}

// Leaves a tile of D, of whose elements sum(…) gives the products.
template <int HEIGHT, int WIDTH, typename Sum>
__device__ inline void leave(const Args& args, const Work<HEIGHT>& work,
                             const Columns<WIDTH>& columns, const Sum& sum) {
    const EpilogueOf epilogue(args.epilogue, work.batch);
#ifdef CODE
    columns.template quantize<HEIGHT>(epilogue, args.to, work.matrix * args.m, work.rows, sum);
#else
    columns.template store<HEIGHT>(epilogue, work.rows, sum);
#endif
}

// Adds the sums of all parts in order, for what is behind them.
template <int HEIGHT, int WIDTH>
__device__ inline void add_all_parts(const Args& args) {
    const Work<HEIGHT> work(args, (args.n + WIDTH - 1) / WIDTH);
    if (work.is_none()) return;
    const Source a(args.a, args.a_scales, work.batch), b(args.b, args.b_scales, work.batch);
    const Columns<WIDTH> columns(args, work.tile_n);
    const int parts = (args.k + args.part - 1) / args.part;
    auto sum = [&](int, int, int row, int col) {
        float total = 0.0f;
        for (int part = 0; part < parts; part++) total += work.sums(args, part, row)[col];
        return product(total, a, b, row, col, args.k);
    };
    leave(args, work, columns, sum);
}

// sum + x * of_a * of_b, of which FACTORS says which there are: 1 for A's, 2 for B's.
__device__ inline float folded(float sum, float x, float of_a, float of_b) {
    if (FACTORS == 3) return sum + scaled(x, of_a, of_b);
    return fmaf(x, FACTORS == 1 ? of_a : of_b, sum);
}
