// out = the elements of x over some dimensions, gathered into one by FUNCTION.
//
// Where neighbours in memory become one, a block gathers each: its threads over the elements, then
// a tree over the threads. Else neighbours become different ones, and a thread gathers each.
// Limited by memory: reads x.
#include "rows.cuh"
#include "views.cuh"

enum Function { SUM, MEAN, PROD, MAX, MIN, ABS_MAX };

struct Args {
    const u8* x;
    u8* out;
    Dimensions x_kept, x_gathered, out_kept;
    int dtype, out_dtype;
    int count;  // results
    int n;      // elements of each
};

// What is gathered of no elements.
__device__ inline float none() {
    switch (FUNCTION) {
        case PROD: return 1.0f;
        case MAX: return -INFINITY;
        case MIN: return INFINITY;
        default: return 0.0f;
    }
}

__device__ inline float combine(float x, float y) {
    switch (FUNCTION) {
        case SUM:
        case MEAN: return x + y;
        case PROD: return x * y;
        case MIN: return -maximum(-x, -y);
        default: return maximum(x, y);
    }
}

__device__ inline float take(const Args& args, const u8* at) {
    float x = load(args.dtype, at);
    return FUNCTION == ABS_MAX ? fabsf(x) : x;
}

__device__ inline void finish(const Args& args, int which, float x) {
    if (FUNCTION == MEAN) x /= (float)args.n;
    store(args.out_dtype, args.out + args.out_kept.offset(which), x);
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void reduce_block(
    const __grid_constant__ Args args) {
    const u8* x = args.x + args.x_kept.offset(blockIdx.x);
    float total = none();
    for (int i = threadIdx.x; i < args.n; i += THREADS)
        total = combine(total, take(args, x + args.x_gathered.offset(i)));
    total = over_block(total, combine);
    if (threadIdx.x == 0) finish(args, blockIdx.x, total);
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void reduce_thread(
    const __grid_constant__ Args args) {
    const int which = blockIdx.x * THREADS + threadIdx.x;
    if (which >= args.count) return;
    const u8* x = args.x + args.x_kept.offset(which);
    float total = none();
    for (int i = 0; i < args.n; i++)
        total = combine(total, take(args, x + args.x_gathered.offset(i)));
    finish(args, which, total);
}
