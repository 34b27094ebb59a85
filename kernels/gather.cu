// out[.., i.., ..] = table[.., indices[i..], ..]
//
// A block a piece of a row of out, eight elements a thread. Table and indices are looked at in
// out's sizes, with strides of 0 along those that are not theirs; an index moves by `step` bytes
// along the table. An index astray is reported, and what it picks left out.
// Limited by memory: reads what is picked, writes out.
#include "blocks.cuh"
#include "index.cuh"

struct Args {
    Matrix table, indices, out;
    Scales scales;  // of a table of blocks, whose rows are picked
    RowSizes sizes;
    Pieces pieces;
    int n;
    int size;    // what an index is below
    int bytes;   // of an element that is moved as it is; else 0
    int in_row;  // whether the indices run along rows of out
    i64 step;
    i64 after, picks;  // elements of out behind those of an index, and how many indices there are
    unsigned long long* wrong;
};

// The index for an element of a row of out, -1 if it is astray.
__device__ inline i64 picked(const Args& args, const Row& indices, int row, int at) {
    i64 index = load_index(indices.dtype, indices.data + at * indices.col);
    if (index >= 0 && index < args.size) return index;
    report(args.wrong, ((i64)row * args.n + at) / args.after % args.picks);
    return -1;
}

// Each element by an index of its own.
__device__ inline void gather_elements(const Args& args, const Row& indices, const Row& table,
                                       const Row& out, int row, int at) {
    for (int i = at; i < min(at + EIGHT, args.n); i++) {
        i64 index = picked(args, indices, row, i);
        if (index < 0) continue;
        const u8* from = table.data + index * args.step + i * table.col;
        if (args.bytes)
            move(out.data + i * out.col, from, args.bytes);
        else
            out.set(i, load(table.dtype, from));
    }
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void gather(const __grid_constant__ Args args) {
    const int row = args.pieces.row(), at = args.pieces.begin();
    if (at >= args.n) return;
    const Row indices(args.indices, args.sizes, row), out(args.out, args.sizes, row);
    Row table(args.table, args.sizes, row);
    if (args.in_row) return gather_elements(args, indices, table, out, row, at);
    i64 index = picked(args, indices, row, 0);
    if (index < 0) return;
    table.data += index * args.step;
    if (args.bytes) return move_eight(out, table, args.bytes, at, args.n);
    float x[EIGHT];
    table.read(at, args.n, x);
    out.write(at, args.n, x);
}

// Of a matrix of blocks.
extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void gather_blocks(
    const __grid_constant__ Args args) {
    const int row = args.pieces.row(), at = args.pieces.begin();
    if (at >= args.n) return;
    const Row indices(args.indices, args.sizes, row), out(args.out, args.sizes, row);
    i64 index = picked(args, indices, row, 0);
    if (index < 0) return;
    const BlockRow from = block_row(args.table, args.scales, 0, args.size, index);
    float x[EIGHT];
    from.read(at, args.n, out.dtype != F32, x);
    out.write(at, args.n, x);
}
