// Which rows and columns of D a block computes, and how it stores them.
#pragma once

#include "epilogue.cuh"
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

    // Tiles of so many rows that a group takes.
    template <int HEIGHT>
    __device__ int tiles_of(int group) const {
        return (max(0, offset(group + 1) - offset(group)) + HEIGHT - 1) / HEIGHT;
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
    u32* amax;  // where the bits of D's largest magnitude are noted; null where nobody asks
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

// The tiles of D, HEIGHT x WIDTH each, in the order in which blocks take them: within a band of rows
// of tiles column by column. So what blocks read at a time is little, each of it is read by several
// of them, and the rows of A of a band stay in the second-level cache while columns of B pass by.
template <int HEIGHT, int WIDTH>
struct Tiles {
    static constexpr int BAND = 8;
    int rows, cols;      // of a matrix
    int of_matrix, all;  // in that, and in all of the batch

#if GROUPED
    // Of groups, at most.
    __device__ Tiles(const Args& args) : Tiles(args, args.groups.tiles) {}

    // Of groups, counted by every warp.
    __device__ static Tiles counted(const Args& args) {
        const Groups& groups = args.groups;
        int count = 0;
        for (int group = threadIdx.x % 32; group < groups.count; group += 32)
            count += groups.template tiles_of<HEIGHT>(group);
        for (int lanes = 16; lanes; lanes /= 2) count += __shfl_xor_sync(~0u, count, lanes);
        // Whatever the data say, no more than there can be.
        return Tiles(args, min(count, groups.tiles));
    }
#else
    __device__ Tiles(const Args& args) : Tiles(args, (args.m + HEIGHT - 1) / HEIGHT) {}
    __device__ static Tiles counted(const Args& args) { return Tiles(args); }
#endif

    __device__ Tiles(const Args& args, int rows)
        : rows(rows), cols((args.n + WIDTH - 1) / WIDTH), of_matrix(rows * cols), all(of_matrix) {
        for (int i = 0; i < 4 && !GROUPED; i++) all *= args.batch[i];
    }

    // Row and column of a tile of a matrix.
    __device__ int2 place(int tile) const {
        const int first = tile / (BAND * cols) * BAND, height = min(BAND, rows - first);
        tile -= first * cols;
        return make_int2(first + tile % height, tile / height);
    }
};

// What a block computes: up to HEIGHT rows of one matrix of the batch, which columns, and as which
// of those that share a tile.
template <int HEIGHT>
struct Work {
    int batch[4] = {};
    Rows rows = {};
    int tile_n = 0;
    int matrix = 0;  // of the batch
    int number = 0;

    // The work of that number: all tiles, for each of those that share them.
    template <int WIDTH>
    __device__ Work(const Args& args, const Tiles<HEIGHT, WIDTH>& tiles, int work) {
        if (work >= tiles.all * args.split.blocks) return;
        number = work / tiles.all;
        work -= number * tiles.all;
        matrix = work / tiles.of_matrix;
        const int2 place = tiles.place(work - matrix * tiles.of_matrix);
        tile_n = place.y;
#if GROUPED
        find(args.groups, place.x);
#else
        rows = {place.x * HEIGHT, args.m};
        if (matrix == 0) return;
#pragma unroll
        for (int i = 3, rest = matrix; i >= 0; i--) {
            batch[i] = rest % args.batch[i];
            rest /= args.batch[i];
        }
#endif
    }

#if GROUPED
    // Every warp looks for the group of its tile by itself, 32 groups at a time.
    __device__ void find(const Groups& groups, int tile) {
        const int lane = threadIdx.x % 32;
        for (int first = 0, before = 0; first < groups.count; first += 32) {
            const int group = first + lane;
            const int tiles = group < groups.count ? groups.template tiles_of<HEIGHT>(group) : 0;
            int sum = before + tiles;
            for (int step = 1; step < 32; step *= 2) {
                int other = __shfl_up_sync(~0u, sum, step);
                if (lane >= step) sum += other - before;
            }
            const u32 beyond = __ballot_sync(~0u, sum > tile);
            if (beyond) {
                const int owner = __ffs(beyond) - 1;
                batch[3] = first + owner;
                const int before = __shfl_sync(~0u, sum - tiles, owner);
                rows.first = groups.offset(first + owner) + (tile - before) * HEIGHT;
                rows.end = groups.offset(first + owner + 1);
                return;
            }
            before = __shfl_sync(~0u, sum, 31);
        }
    }
#endif

    // Behind the last tile; groups can fill fewer than there are blocks.
    __device__ bool is_none() const { return rows.first == rows.end; }

    // Where the sums of a part of k are left, for a row; of eights from `at` on.
    __device__ Row sums(const Args& args, int part, int row, int at) const {
        i64 matrices = (i64)part;
        for (int i = 0; i < 4; i++) matrices *= args.batch[i];
        return Row(args.split.sums + ((matrices + matrix) * args.m + row) * args.n, args.n, at);
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

    // Behind the last column of the piece of B that one is of.
    __device__ int end(int col) const { return col < width ? width : 2 * width; }

    // How many of the eight from `local` on there are; they are neighbours.
    __device__ int run(int local) const {
        int col = gated ? first + local / 16 * 8 : first + local;
        return max(0, min(8, width - col));
    }

    // How far apart columns are that are `locals`, a multiple of 16, apart in the tile.
    __device__ int below(int locals) const { return gated ? locals / 2 : locals; }

    // How many eights of columns of D that makes, and where in the tile one of them is.
    __device__ int eights() const { return WIDTH / EIGHT / (gated ? 2 : 1); }
    __device__ int local(int eight) const { return (gated ? 2 : 1) * eight * EIGHT; }

    // Eight columns of D from `at` on, of which sum(x, local row, local column, row, column of B,
    // end) gives the products.
    template <typename Sum>
    __device__ void values(float (&x)[EIGHT], const EpilogueOf& epilogue, const Sum& sum,
                           int local_row, int local, int row, int at) const {
        // The gates, then what they are multiplied with.
#pragma unroll 1
        for (int piece = 0; piece <= gated; piece++) {
            const int col = at + piece * width, end = width + piece * width;
            float t[EIGHT];
            sum(t, local_row, local + piece * EIGHT, row, col, end);
            epilogue.before(t, row, col, end);
            if (piece == 0) epilogue.activated(t);
#pragma unroll
            for (int i = 0; i < EIGHT; i++) x[i] = piece == 0 ? t[i] : x[i] * t[i];
        }
        epilogue.after(x, row, at, width);
    }
};

// Sums of products with the factors of their row and columns, where they belong to whole sums.
__device__ inline void multiply_factors(float (&x)[EIGHT], const Source& a, const Source& b, int row,
                                        int col, int end, int k) {
    // Without products there is nothing to multiply with a scale, which may be NaN.
    if (FOLD || k == 0 || !a.scales.are_there() && !b.scales.are_there()) return;
    const float of_row = MMA > MMA_FP8 ? a.scales.whole() : a.factor(row, 0);
    each(x, [&](float sum, int i) {
        if (col + i >= end) return sum;
        return scaled(sum, of_row, MMA > MMA_FP8 ? b.scales.whole() : b.factor(col + i, 0));
    });
}

// Leaves the sums of a part of k, which sum(x, local row, local column) gives eight of, for ROWS
// rows of a tile from its row `top` on; the threads share them.
template <int ROWS, int HEIGHT, int WIDTH, typename Sum>
__device__ inline void leave_sums(const Args& args, const Work<HEIGHT>& work,
                                  const Columns<WIDTH>& columns, int top, int part, int thread,
                                  int threads, const Sum& sum) {
#pragma unroll 1
    for (int i = thread; i < ROWS * (WIDTH / EIGHT); i += threads) {
        const int local_row = top + i / (WIDTH / EIGHT), local = i % (WIDTH / EIGHT) * EIGHT;
        const int row = work.rows[local_row], col = columns[local];
        if (row < 0 || col < 0) continue;
        float x[EIGHT];
        sum(x, local_row, local);
        work.sums(args, part, row, col).write(col, columns.end(col), x);
    }
}

// Leaves ROWS rows of a tile of D, from its row `top` on; see Columns::values. Eight columns a
// thread, neighbours to neighbouring threads. All threads of the block take part.
template <int ROWS, int HEIGHT, int WIDTH, typename Sum>
__device__ inline void leave(const Args& args, const Work<HEIGHT>& work,
                             const Columns<WIDTH>& columns, int top, const Sum& sum) {
    const EpilogueOf epilogue(args.epilogue, work.batch);
    const int eights = columns.eights(), width = columns.width;
    u32 largest = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * eights; i += blockDim.x) {
        const int local_row = top + i / eights, row = work.rows[local_row];
        const int eight = i % eights, at = columns.first + eight * EIGHT;
        const bool there = row >= 0 && at < width;
        float x[EIGHT] = {};
        if (there) columns.values(x, epilogue, sum, local_row, columns.local(eight), row, at);
#ifdef CODE
#pragma unroll
        for (int j = 0; j < EIGHT; j++)
            if (at + j >= width) x[j] = 0.0f;
        // They are rows of all matrices. Behind all codes there is nothing to store.
        quantize(args.to, work.matrix * args.m + row, row < 0 ? 2 * args.to.row_bytes : at, x);
#else
        if (there) epilogue.put(x, row, at, width);
        if (!args.amax) continue;
#pragma unroll
        for (int j = 0; j < EIGHT; j++)
            if (there && at + j < width) largest = max(largest, __float_as_uint(x[j]) & 0x7FFFFFFFu);
#endif
    }
#ifdef CODE
    for (int i = top; columns.first == 0 && i < top + ROWS && work.rows[i] >= 0; i++)
        clear_padding(args.to, work.matrix * args.m + work.rows[i]);
#else
    if (!args.amax) return;
    for (int lanes = 16; lanes; lanes /= 2)
        largest = max(largest, __shfl_xor_sync(~0u, largest, lanes));
    if (threadIdx.x % 32 == 0) atomicMax(args.amax, largest);
#endif
}

// Adds the sums of all parts in order, for what is behind them.
template <int HEIGHT, int WIDTH>
__device__ inline void add_all_parts(const Args& args) {
    const Work<HEIGHT> work(args, Tiles<HEIGHT, WIDTH>(args), blockIdx.x);
    if (work.is_none()) return;
    const Source a(args.a, args.a_scales, work.batch), b(args.b, args.b_scales, work.batch);
    const Columns<WIDTH> columns(args, work.tile_n);
    const int parts = (args.k + args.part - 1) / args.part;
    auto sum = [&](float (&x)[EIGHT], int, int, int row, int col, int end) {
#pragma unroll
        for (int i = 0; i < EIGHT; i++) x[i] = 0.0f;
        for (int part = 0; part < parts; part++) {
            float y[EIGHT];
            work.sums(args, part, row, col).read(col, end, y);
#pragma unroll
            for (int i = 0; i < EIGHT; i++) x[i] += y[i];
        }
        multiply_factors(x, a, b, row, col, end, args.k);
    };
    leave<HEIGHT>(args, work, columns, 0, sum);
}
