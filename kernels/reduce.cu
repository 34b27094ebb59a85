// out = the elements of x over some dimensions, gathered into one by FUNCTION.
//
// Threads of a warp or a block share a result, or have eight of them each; see shares.cuh.
// Limited by memory: reads x.
#include "shares.cuh"

enum Function { SUM, MEAN, PROD, MAX, MIN, ABS_MAX };

struct Args {
    Shares shares;
    u8* out;
    Dimensions out_kept;
    int out_dtype, reserved;
};

struct Gather {
    typedef float T;

    const Args& args;

    // What is gathered of no elements.
    __device__ float none() const {
        switch (FUNCTION) {
            case PROD: return 1.0f;
            case MAX: return -INFINITY;
            case MIN: return INFINITY;
            default: return 0.0f;
        }
    }

    __device__ float of(float x, int) const { return FUNCTION == ABS_MAX ? fabsf(x) : x; }

    __device__ float join(float x, float y) const {
        switch (FUNCTION) {
            case SUM:
            case MEAN: return x + y;
            case PROD: return x * y;
            case MAX: return maximum(x, y);
            case MIN: return -maximum(-x, -y);
            // Magnitudes are in the order of their bits, NaN above all.
            default: return __uint_as_float(max(__float_as_uint(x), __float_as_uint(y)));
        }
    }

    __device__ void finish(int which, float x) const {
        if (FUNCTION == MEAN) x /= (float)args.shares.n;
        store(args.out_dtype, args.out + args.out_kept.offset(which), x);
    }
};

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void reduce_block(
    const __grid_constant__ Args args) {
    by_block(args.shares, Gather{args});
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void reduce_lanes(
    const __grid_constant__ Args args) {
    by_lanes(args.shares, Gather{args});
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void reduce_columns(
    const __grid_constant__ Args args) {
    by_columns<false>(args.shares, Gather{args});
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void reduce_columns_by_eights(
    const __grid_constant__ Args args) {
    by_columns<true>(args.shares, Gather{args});
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void reduce_parts(
    const __grid_constant__ Args args) {
    join_parts(args.shares, Gather{args});
}
