// out = where along a dimension of x the largest, or smallest, element is.
//
// A block an element of out, its threads over the dimension.
// Limited by memory: reads x.
#include "index.cuh"
#include "order.cuh"
#include "rows.cuh"
#include "views.cuh"

struct Args {
    const u8* x;
    u8* out;
    Dimensions x_kept, out_kept;
    i64 step;  // along the dimension
    int dtype, out_type;
    int n;
    int largest;
};

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void arg_reduce(
    const __grid_constant__ Args args) {
    const u8* x = args.x + args.x_kept.offset(blockIdx.x);
    u64 best = 0;
    for (int i = threadIdx.x; i < args.n; i += THREADS) {
        u32 order = ordered(load(args.dtype, x + i * args.step));
        best = max(best, ranked(args.largest ? order : ~order, i));
    }
    best = over_block(best, [](u64 a, u64 b) { return max(a, b); });
    if (threadIdx.x == 0)
        store_index(args.out_type, args.out + args.out_kept.offset(blockIdx.x), index_of(best));
}
