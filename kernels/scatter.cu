// out[.., indices[i], ..] = src[.., i, ..]
//
// A block a piece of a row of src, eight elements a thread, moved as they are. out is looked at in
// src's sizes, with a stride of 0 along the indices' dimension, along which an index moves by `step`
// bytes. Of slices with the same index the last one is moved. An index astray is reported, and its
// slice left out.
// Limited by memory: reads src, writes as much.
#include "index.cuh"
#include "rows.cuh"

struct Args {
    Matrix src, out;
    Matrix indices;  // its columns
    RowSizes sizes;
    Pieces pieces;
    int n;
    int size;     // what an index is below
    int slices;   // how many indices there are
    int rows;     // of src for each index, 0 where indices run along rows
    int bytes;    // of an element
    i64 step;
    unsigned long long* wrong;
};

__device__ inline i64 index_at(const Args& args, int slice) {
    return load_index(args.indices.dtype, args.indices.data + slice * args.indices.col);
}

// The index of a slice, -1 if it is astray.
__device__ inline i64 place_of(const Args& args, int slice) {
    i64 index = index_at(args, slice);
    if (index >= 0 && index < args.size) return index;
    report(args.wrong, slice);
    return -1;
}

// Whether a slice from `begin` on, every `step`-th one, has that index.
__device__ inline bool is_among(const Args& args, i64 index, int begin, int step) {
    for (int i = begin; i < args.slices; i += step)
        if (index_at(args, i) == index) return true;
    return false;
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void scatter(
    const __grid_constant__ Args args) {
    const int row = args.pieces.row(), at = args.pieces.begin();
    const Row src(args.src, args.sizes, row);
    Row out(args.out, args.sizes, row);
    if (args.rows == 0) {
        for (int i = at; i < min(at + EIGHT, args.n); i++) {
            i64 index = place_of(args, i);
            if (index < 0 || is_among(args, index, i + 1, 1)) continue;
            move(out.data + index * args.step, src.data + i * src.col, args.bytes);
        }
        return;
    }
    const int slice = row / args.rows % args.slices;
    i64 index = place_of(args, slice);
    bool later = is_among(args, index, slice + 1 + threadIdx.x, THREADS);
    if (__syncthreads_or(later) || index < 0 || at >= args.n) return;
    out.data += index * args.step;
    move_eight(out, src, args.bytes, at, args.n);
}
