// out = softmax(scale * x), or its logarithm, over rows.
//
// A block a row, its threads over the columns, three times over the row: the largest, the sum of
// exponentials, the result. What is read again comes from the cache.
// Limited by memory: reads x, writes out.
#include "rows.cuh"

struct Args {
    Matrix x, out;
    RowSizes sizes;
    int n;
    int log;
    float scale;
};

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void softmax_rows(const __grid_constant__ Args args) {
    const Row x(args.x, args.sizes, blockIdx.x), out(args.out, args.sizes, blockIdx.x);
    float largest = -INFINITY;
    for (int col = threadIdx.x; col < args.n; col += THREADS)
        largest = fmaxf(largest, args.scale * x[col]);
    largest = block_max(largest);
    // Without anything above -inf nothing is subtracted.
    const float shift = largest == -INFINITY ? 0.0f : largest;
    float sum = 0.0f;
    for (int col = threadIdx.x; col < args.n; col += THREADS)
        sum += expf(args.scale * x[col] - shift);
    sum = block_sum(sum);
    const float log_sum = logf(sum);
    for (int col = threadIdx.x; col < args.n; col += THREADS) {
        float z = args.scale * x[col] - shift;
        if (args.log)
            out.set(col, sum == 0.0f ? -INFINITY : z - log_sum);
        else
            out.set(col, sum == 0.0f ? 0.0f : expf(z) / sum);
    }
}
