// values, indices = the k largest elements of rows of x, and where they are, largest first.
//
// A block a row. Elements with their places are 64-bit numbers, all different. The k-th largest is
// found digit by digit: of those that begin with the digits found, how many have each digit next;
// most often the order of the elements, the upper half, settles it. What is not below it is sorted.
// Limited by memory: reads x some five times, mostly from the cache.
#include "index.cuh"
#include "order.cuh"
#include "rows.cuh"

constexpr int DIGITS = 256;

struct Args {
    Matrix x, values, indices;
    RowSizes sizes;
    int n, k;
    int width;  // k as a power of two
};

// How many of all threads' x are in the threads before, and this one.
__device__ inline int sum_to_here(int x, int* of_warp) {
    for (int lanes = 1; lanes < 32; lanes *= 2) {
        int other = __shfl_up_sync(~0u, x, lanes);
        if (threadIdx.x % 32 >= lanes) x += other;
    }
    if (threadIdx.x % 32 == 31) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    for (int warp = 0; warp < threadIdx.x / 32; warp++) x += of_warp[warp];
    return x;
}

// A number that exactly k of the row are not below.
__device__ inline u64 threshold(const Row& x, int n, int k) {
    static_assert(THREADS == DIGITS, "a thread a digit");
    __shared__ int counts[DIGITS];
    __shared__ int of_warp[WARPS];
    __shared__ int digit, wanted, found;
    u64 prefix = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        counts[threadIdx.x] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += THREADS) {
            u64 number = ranked(ordered(x[i]), i);
            if (shift == 56 || number >> (shift + 8) == prefix)
                atomicAdd(&counts[number >> shift & 255], 1);
        }
        __syncthreads();
        // From the largest digit down.
        int own = counts[DIGITS - 1 - threadIdx.x];
        int reached = sum_to_here(own, of_warp);
        if (reached >= k && reached - own < k) {
            digit = DIGITS - 1 - threadIdx.x;
            wanted = k - (reached - own);
            found = own;
        }
        __syncthreads();
        prefix = prefix << 8 | digit;
        k = wanted;
        const bool all = found == k;
        __syncthreads();
        if (all) return prefix << shift;
    }
    return prefix;
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void top_k(const __grid_constant__ Args args) {
    extern __shared__ u64 picked[];
    __shared__ int count;
    const Row x(args.x, args.sizes, blockIdx.x), values(args.values, args.sizes, blockIdx.x);
    const Row indices(args.indices, args.sizes, blockIdx.x);
    for (int i = threadIdx.x; i < args.width; i += THREADS) picked[i] = 0;
    if (threadIdx.x == 0) count = 0;
    const u64 least = threshold(x, args.n, args.k);
    for (int i = threadIdx.x; i < args.n; i += THREADS) {
        u64 number = ranked(ordered(x[i]), i);
        if (number >= least) picked[atomicAdd(&count, 1)] = number;
    }
    __syncthreads();
    // Batcher's bitonic sort, largest first.
    for (int length = 2; length <= args.width; length *= 2) {
        for (int apart = length / 2; apart > 0; apart /= 2) {
            for (int i = threadIdx.x; i < args.width; i += THREADS) {
                int other = i ^ apart;
                if (other < i) continue;
                u64 a = picked[i], b = picked[other];
                bool falling = (i & length) == 0;
                if (falling ? a < b : a > b) picked[i] = b, picked[other] = a;
            }
            __syncthreads();
        }
    }
    for (int i = threadIdx.x; i < args.k; i += THREADS) {
        int index = index_of(picked[i]);
        values.set(i, x[index]);
        store_index(indices.dtype, indices.data + i * indices.col, index);
    }
}
