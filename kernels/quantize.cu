// dst = src, quantised.
//
// A block a piece of a row, eight values a lane: a warp has whole blocks of 16, 32 or 128 values,
// whose lanes find the largest. Larger ones, and tensors with a scale of their own, are searched in
// a run before.
// Limited by memory: reads src once or twice, writes codes.
#include "quantize.cuh"

struct Args {
    Matrix src;
    Scales scales;  // of blocks
    RowSizes sizes;
    Pieces pieces;
    int n;
    int blocks;     // whether src is of blocks
    i64 of_matrix;  // bytes of the scales of each of its matrices
    Blocks to;
};

__device__ inline void read(const Args& args, int row, int at, float (&x)[EIGHT]) {
    if (args.blocks) {
        const int within = min(at, max(args.n - 1, 0) / EIGHT * EIGHT);
        block_row(args.src, args.scales, args.of_matrix, args.to.rows, row)
            .read(within, args.n, false, x);
        if (at == within) return;
#pragma unroll
        for (int i = 0; i < EIGHT; i++) x[i] = 0.0f;
    } else {
        Row(args.src, args.sizes, row).read(at, args.n, x);
    }
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void quantize_rows(
    const __grid_constant__ Args args) {
    float x[EIGHT];
    read(args, args.pieces.row(), args.pieces.begin(), x);
    quantize(args.to, args.pieces.row(), args.pieces.begin(), x);
    if (blockIdx.x % args.pieces.of_row == 0) clear_padding(args.to, args.pieces.row());
}
