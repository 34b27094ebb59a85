// out = norm(x + residual) * (weight_offset + weight) + bias over rows.
//
// A block a row, its threads over the columns, three times over the row at most: h and its mean,
// the mean of squares, the result. What is read again comes from the cache.
// Limited by memory: reads x and residual, writes sum and out.
#include "rows.cuh"

struct Args {
    Matrix x, residual, weight, bias, sum, out;
    RowSizes sizes;
    int n;
    int layer;  // subtracts the mean
    float eps, weight_offset;
    int reserved;
};

extern "C" __global__ __launch_bounds__(THREADS) void norm_rows(const __grid_constant__ Args args) {
    const int n = args.n;
    const Row x(args.x, args.sizes, blockIdx.x), residual(args.residual, args.sizes, blockIdx.x);
    const Row sum(args.sum, args.sizes, blockIdx.x), out(args.out, args.sizes, blockIdx.x);
    // What is normalised: as stored, where it is.
    auto h = [&](int col) {
        if (sum.data) return sum[col];
        return residual.data ? x[col] + residual[col] : x[col];
    };
    if (sum.data)
        for (int col = threadIdx.x; col < n; col += THREADS)
            sum.set(col, residual.data ? x[col] + residual[col] : x[col]);

    float mean = 0.0f;
    if (args.layer) {
        for (int col = threadIdx.x; col < n; col += THREADS) mean += h(col);
        mean = block_sum(mean) / n;
    }
    float squares = 0.0f;
    for (int col = threadIdx.x; col < n; col += THREADS) {
        float d = h(col) - mean;
        squares += d * d;
    }
    const float factor = 1.0f / sqrtf(block_sum(squares) / n + args.eps);
    for (int col = threadIdx.x; col < n; col += THREADS) {
        float y = (h(col) - mean) * factor;
        if (args.weight.data)
            y *= args.weight_offset +
                 load(args.weight.dtype, args.weight.data + col * args.weight.col);
        if (args.bias.data) y += load(args.bias.dtype, args.bias.data + col * args.bias.col);
        out.set(col, y);
    }
}
