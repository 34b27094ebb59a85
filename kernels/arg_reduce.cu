// out = where along a dimension of x the largest, or smallest, element is.
//
// An element and its place are one number, of which the largest is sought. Threads of a warp or a
// block share a result, or have eight of them each; see shares.cuh.
// Limited by memory: reads x.
#include "index.cuh"
#include "order.cuh"
#include "shares.cuh"

struct Args {
    Shares shares;
    u8* out;
    Dimensions out_kept;
    int out_type;
    int largest;
};

struct Search {
    typedef u64 T;

    const Args& args;

    // Below every element.
    __device__ u64 none() const { return 0; }

    __device__ u64 of(float x, int at) const {
        return ranked(ordered(x) ^ (args.largest ? 0 : ~0u), at);
    }

    __device__ u64 join(u64 a, u64 b) const { return max(a, b); }

    __device__ void finish(int which, u64 best) const {
        store_index(args.out_type, args.out + args.out_kept.offset(which), index_of(best));
    }
};

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void arg_reduce_block(
    const __grid_constant__ Args args) {
    by_block(args.shares, Search{args});
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void arg_reduce_lanes(
    const __grid_constant__ Args args) {
    by_lanes(args.shares, Search{args});
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void arg_reduce_columns(
    const __grid_constant__ Args args) {
    by_columns<false>(args.shares, Search{args});
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void arg_reduce_columns_by_eights(
    const __grid_constant__ Args args) {
    by_columns<true>(args.shares, Search{args});
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void arg_reduce_parts(
    const __grid_constant__ Args args) {
    join_parts(args.shares, Search{args});
}
