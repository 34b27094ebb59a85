// out = norm(x + residual) * (weight_offset + weight) + bias over rows.
//
// A block a row, eight elements a thread at a time. h = x + residual is read once and stays in
// registers, HELD times eight a thread; with HELD = 0 it comes from the cache again: for its mean,
// the mean of squares, the result.
// Limited by memory: reads x and residual, writes sum and out.
#ifdef CODE
#include "quantize.cuh"
#else
#include "rows.cuh"
#endif

struct Args {
    Matrix x, residual, weight, bias, sum, out;
    RowSizes sizes;
    int n;
    int layer;  // subtracts the mean
    float eps, weight_offset;
    int reserved;
#ifdef CODE
    Blocks to;  // instead of out
#endif
};

constexpr int STEP = THREADS * EIGHT;

// A row as it is normalised.
struct Normed {
    const Args& args;
    Row x, residual, sum, weight, bias;
    float held[HELD ? HELD : 1][EIGHT];
    float mean, factor;

    // x + residual, as stored where it is.
    __device__ void take(int at, float (&h)[EIGHT]) const {
        x.read(at, args.n, h);
        if (residual.data) {
            float r[EIGHT];
            residual.read(at, args.n, r);
#pragma unroll
            for (int i = 0; i < EIGHT; i++) h[i] += r[i];
        }
        if (!sum.data) return;
        sum.write(at, args.n, h);
#pragma unroll
        for (int i = 0; i < EIGHT; i++) h[i] = rounded(sum.dtype, h[i]);
    }

    // Calls f(at, h) for all eights of this thread.
    template <typename F>
    __device__ void each(F f) {
        if constexpr (HELD > 0) {
#pragma unroll
            for (int i = 0; i < HELD; i++) f(i * STEP + (int)threadIdx.x * EIGHT, held[i]);
        } else {
            for (int first = 0; first < args.n; first += STEP) {
                float h[EIGHT];
                const int at = first + threadIdx.x * EIGHT;
                take(at, h);
                f(at, h);
            }
        }
    }

    __device__ Normed(const Args& args, int row)
        : args(args), x(args.x, args.sizes, row), residual(args.residual, args.sizes, row),
          sum(args.sum, args.sizes, row), weight(args.weight, args.sizes, row),
          bias(args.bias, args.sizes, row), mean(0.0f) {
        const int n = args.n;
#pragma unroll
        for (int i = 0; i < HELD; i++) take(i * STEP + threadIdx.x * EIGHT, held[i]);
        if (args.layer) {
            float least = INFINITY, greatest = -INFINITY;
            // Zeros behind the end.
            each([&](int at, const float(&h)[EIGHT]) {
#pragma unroll
                for (int i = 0; i < EIGHT; i++) {
                    mean += h[i];
                    if (at + i >= n) continue;
                    least = fminf(least, h[i]);
                    greatest = fmaxf(greatest, h[i]);
                }
            });
            mean = block_sum(mean) / n;
            least = block_min(least);
            greatest = block_max(greatest);
            // A rounded mean can be beyond all values: that of equal values must be their value.
            if (mean < least) mean = least;
            if (mean > greatest) mean = greatest;
        }
        float squares = 0.0f;
        each([&](int at, const float(&h)[EIGHT]) {
#pragma unroll
            for (int i = 0; i < EIGHT; i++) {
                float d = h[i] - mean;
                if (at + i < n) squares += d * d;
            }
        });
        factor = 1.0f / sqrtf(block_sum(squares) / n + args.eps);
    }

    // Calls f(at, y) with eight elements of the result, zeros behind the end.
    template <typename F>
    __device__ void results(F f) {
        each([&](int at, const float(&h)[EIGHT]) {
            float y[EIGHT], w[EIGHT] = {}, b[EIGHT] = {};
            if (weight.data) weight.read(at, args.n, w);
            if (bias.data) bias.read(at, args.n, b);
#pragma unroll
            for (int i = 0; i < EIGHT; i++) {
                y[i] = (h[i] - mean) * factor;
                if (weight.data) y[i] *= args.weight_offset + w[i];
                if (bias.data) y[i] += b[i];
                if (at + i >= args.n) y[i] = 0.0f;
            }
            f(at, y);
        });
    }
};

#ifndef CODE
extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void norm_rows(const __grid_constant__ Args args) {
    Normed normed(args, blockIdx.x);
    // Only now: before, registers are short.
    const Row out(args.out, args.sizes, blockIdx.x);
    normed.results([&](int at, const float(&y)[EIGHT]) { out.write(at, args.n, y); });
}
#else
extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void quantize_norms(
    const __grid_constant__ Args args) {
    Normed(args, blockIdx.x).results([&](int at, const float(&y)[EIGHT]) {
        quantize(args.to, blockIdx.x, at, y);
    });
    clear_padding(args.to, blockIdx.x);
}
#endif
