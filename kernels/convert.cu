// dst = src, in the type and layout of dst: copies, casts, and blocks decoded.
//
// A block a piece of a row, eight elements a thread; or, where elements that are neighbours in src
// are not in dst, a tile that is read along the one and written along the other, turned in shared
// memory.
// Limited by memory: reads src, writes dst.
#include "blocks.cuh"

constexpr int TILE = 32;                      // elements of a tile each way
constexpr int TILE_ROWS = THREADS / TILE;     // rows of it that are moved at once

struct Args {
    Matrix src, dst;
    Scales scales;  // of blocks
    RowSizes sizes;
    Pieces pieces;
    int n;
    int bytes;       // of an element that is moved as it is; else 0
    int rows;        // of each matrix of blocks
    i64 of_matrix;   // bytes of the scales of each
};

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void convert(const __grid_constant__ Args args) {
    const int row = args.pieces.row(), at = args.pieces.begin();
    if (at >= args.n) return;
    const Row src(args.src, args.sizes, row), dst(args.dst, args.sizes, row);
    if (args.bytes) return move_eight(dst, src, args.bytes, at, args.n);
    float x[EIGHT];
    src.read(at, args.n, x);
    dst.write(at, args.n, x);
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void dequantize(
    const __grid_constant__ Args args) {
    const int row = args.pieces.row(), at = args.pieces.begin();
    if (at >= args.n) return;
    const Row dst(args.dst, args.sizes, row);
    const BlockRow src = block_row(args.src, args.scales, args.of_matrix, args.rows, row);
    float x[EIGHT];
    src.read(at, args.n, dst.dtype != F32, x);
    dst.write(at, args.n, x);
}

// Rows of a matrix of src, which are columns of memory: sizes.of[4] of them, `pieces` tiles along
// rows.
extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void turn(const __grid_constant__ Args args) {
    // A column more, so that those of a column are in different banks.
    __shared__ unsigned long long tile[TILE][TILE + 1];
    const int rows = args.sizes.of[4], down = (rows + TILE - 1) / TILE;
    const int across = args.pieces.of_row, which = blockIdx.x % (down * across);
    const int row0 = which / across * TILE, col0 = which % across * TILE;
    const int matrix = blockIdx.x / (down * across) * rows;
    const u8* src = args.sizes.row(args.src, matrix);
    u8* dst = args.sizes.row(args.dst, matrix);
    const int fast = threadIdx.x % TILE, slow = threadIdx.x / TILE;

    for (int i = slow; i < TILE; i += TILE_ROWS) {
        const int row = row0 + fast, col = col0 + i;
        if (row >= rows || col >= args.n) continue;
        const u8* from = src + row * args.src.row + col * args.src.col;
        if (args.bytes)
            move((u8*)&tile[i][fast], from, args.bytes);
        else
            *(float*)&tile[i][fast] = load(args.src.dtype, from);
    }
    __syncthreads();
    for (int i = slow; i < TILE; i += TILE_ROWS) {
        const int row = row0 + i, col = col0 + fast;
        if (row >= rows || col >= args.n) continue;
        u8* to = dst + row * args.dst.row + col * args.dst.col;
        if (args.bytes)
            move(to, (const u8*)&tile[fast][i], args.bytes);
        else
            store(args.dst.dtype, to, *(const float*)&tile[fast][i]);
    }
}
