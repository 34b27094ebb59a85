// out[.., indices[i], ..] = src[.., i, ..]
//
// A block a piece of a row of src, eight elements a thread, moved as they are. out is looked at in
// src's sizes, with a stride of 0 along the indices' dimension, along which an index moves by `step`
// bytes. Of slices with the same index the last one is moved: where slices are few, who moves one looks
// at those behind it, else a table of indices and their last slices is filled before. An index astray is
// reported, and its slice left out.
// Limited by memory: reads src, writes as much.
#include "index.cuh"
#include "rows.cuh"

// An index and the last slice that has it, both plus 1; zeros where there is none.
struct Entry {
    u32 index, slice;
};

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
    Entry* table;  // none where slices are few
    int table_bits, reserved;
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

// Where in the table an index may be, for the first time; then at the next places in turn. There are
// at least twice as many as slices, so that one is soon found or free.
__device__ inline u32 first_entry(const Args& args, i64 index) {
    // Fibonacci hashing: Knuth, The Art of Computer Programming, 6.4.
    return (u32)index * 2654435769u >> (32 - args.table_bits);
}

__device__ inline u32 next_entry(const Args& args, u32 at) {
    return (at + 1) & (~0u >> (32 - args.table_bits));
}

// Whether a slice behind this one has its index: of those from `begin` on every `step`-th one, or of
// all where there is a table.
__device__ inline bool is_replaced(const Args& args, i64 index, int slice, int begin, int step) {
    if (index < 0) return false;
    if (args.table) {
        u32 at = first_entry(args, index);
        while (args.table[at].index != index + 1) at = next_entry(args, at);
        return args.table[at].slice != slice + 1;
    }
    for (int i = begin; i < args.slices; i += step)
        if (index_at(args, i) == index) return true;
    return false;
}

// Fills the table, a thread a slice.
extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void scatter_table(
    const __grid_constant__ Args args) {
    const int slice = blockIdx.x * THREADS + threadIdx.x;
    if (slice >= args.slices) return;
    const i64 index = place_of(args, slice);
    if (index < 0) return;
    const u32 key = (u32)index + 1;
    for (u32 at = first_entry(args, index);; at = next_entry(args, at)) {
        const u32 found = atomicCAS(&args.table[at].index, 0u, key);
        if (found != 0 && found != key) continue;
        atomicMax(&args.table[at].slice, slice + 1u);
        return;
    }
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void scatter(
    const __grid_constant__ Args args) {
    const int row = args.pieces.row(), at = args.pieces.begin();
    const Row src(args.src, args.sizes, row);
    Row out(args.out, args.sizes, row);
    if (args.rows == 0) {
        for (int i = at; i < min(at + EIGHT, args.n); i++) {
            i64 index = place_of(args, i);
            if (index < 0 || is_replaced(args, index, i, i + 1, 1)) continue;
            move(out.data + index * args.step, src.data + i * src.col, args.bytes);
        }
        return;
    }
    const int slice = row / args.rows % args.slices;
    i64 index = place_of(args, slice);
    bool replaced = is_replaced(args, index, slice, slice + 1 + threadIdx.x, THREADS);
    if (__syncthreads_or(replaced) || index < 0 || at >= args.n) return;
    out.data += index * args.step;
    move_eight(out, src, args.bytes, at, args.n);
}
