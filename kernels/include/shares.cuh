// Elements that become one, and how threads and blocks share them.
//
// Where neighbours in memory become one, threads of a warp, or a block, share a result, eight elements
// each at a time. Else neighbours become different ones: a thread has eight results, and every
// HEIGHT-th element of theirs. Long results are cut into parts that blocks of their own gather, for
// `join_parts` to join. Which elements are gathered in which order depends on how many there are of a
// result, and which of the two it is: on no other results, and no machine.
//
// A function says what is gathered: its type T, `none`, `of` an element and its place, `join`, and
// `finish`, which stores a result.
#pragma once

#include "rows.cuh"
#include "views.cuh"

// Reads that a thread has under way at once, of eight elements.
constexpr int UNDER_WAY = 4;

struct Shares {
    const u8* x;
    void* parts;  // what blocks gathered: that of a part's results side by side
    Dimensions kept, gathered;
    int count;    // results
    int n;        // elements of each
    int of_part;  // of them, a multiple of what threads that share them take at once
    int part_count;
    int eights;   // whether neighbours are contiguous, and eight from a multiple of 8 on aligned
    int lanes;    // threads that share a result, or parts of one
    int width;    // threads side by side, each with eight results
    int height;   // threads that share those

    __device__ int begin(int part) const { return part * of_part; }
    // There may be more parts than elements are cut into.
    __device__ int end(int part) const { return part < part_count ? min(begin(part) + of_part, n) : 0; }
};

// Stores what was gathered of a part of a result.
template <typename F>
__device__ inline void leave(const Shares& shares, const F& f, int part, int which, typename F::T x) {
    if (shares.part_count == 1)
        f.finish(which, x);
    else
        ((typename F::T*)shares.parts)[(i64)part * shares.count + which] = x;
}

__device__ inline void read_eight(const u8* at, float (&x)[EIGHT]) {
    Row(at, DTYPE).read(0, EIGHT, x);
}

// Elements `at` to `at + 7` of a result, wherever they are; none from `end` on.
__device__ inline void read_apart(
    const Dimensions& gathered, const u8* x, int at, int end, float (&values)[EIGHT]) {
    const u8* first = x + gathered.offset(at);
    const i64 step = gathered.step();
    if (gathered.run(at) >= EIGHT) {
#pragma unroll
        for (int i = 0; i < EIGHT; i++)
            values[i] = at + i < end ? load(DTYPE, first + i * step) : 0.0f;
        return;
    }
#pragma unroll
    for (int i = 0; i < EIGHT; i++)
        values[i] = at + i < end ? load(DTYPE, x + gathered.offset(at + i)) : 0.0f;
}

// Joins elements `at` to `at + 7`, none from `end` on.
template <typename F>
__device__ inline typename F::T join_eight(const F& f, const float (&values)[EIGHT], int at, int end) {
    typename F::T x[EIGHT];
#pragma unroll
    for (int i = 0; i < EIGHT; i++) x[i] = at + i < end ? f.of(values[i], at + i) : f.none();
#pragma unroll
    for (int apart = EIGHT / 2; apart; apart /= 2)
#pragma unroll
        for (int i = 0; i < apart; i++) x[i] = f.join(x[i], x[i + apart]);
    return x[0];
}

// What a thread gathers of a result: elements `at` to `at + 7`, and so on every `step`, below `end`.
template <typename F>
__device__ inline typename F::T share_of(
    const Shares& shares, const F& f, const u8* x, int at, int end, int step) {
    typename F::T total = f.none();
#pragma unroll 1
    for (; shares.eights && at + (UNDER_WAY - 1) * step + EIGHT <= end; at += UNDER_WAY * step) {
        const u8* from[UNDER_WAY];
        float values[UNDER_WAY][EIGHT];
#pragma unroll
        for (int i = 0; i < UNDER_WAY; i++) from[i] = x + shares.gathered.offset(at + i * step);
#pragma unroll
        for (int i = 0; i < UNDER_WAY; i++) read_eight(from[i], values[i]);
#pragma unroll
        for (int i = 0; i < UNDER_WAY; i++) {
            const int first = at + i * step;
            total = f.join(total, join_eight(f, values[i], first, first + EIGHT));
        }
    }
#pragma unroll 1
    for (; at < end; at += step) {
        float values[EIGHT];
        if (shares.eights && at + EIGHT <= end)
            read_eight(x + shares.gathered.offset(at), values);
        else
            read_apart(shares.gathered, x, at, end, values);
        total = f.join(total, join_eight(f, values, at, end));
    }
    return total;
}

// A block gathers a part of a result.
template <typename F>
__device__ inline void by_block(const Shares& shares, const F& f) {
    const int which = blockIdx.x / shares.part_count, part = blockIdx.x % shares.part_count;
    const u8* x = shares.x + shares.kept.offset(which);
    const int first = shares.begin(part) + threadIdx.x * EIGHT;
    typename F::T total = share_of(shares, f, x, first, shares.end(part), THREADS * EIGHT);
    total = over_block(total, [&](typename F::T a, typename F::T b) { return f.join(a, b); });
    if (threadIdx.x == 0) leave(shares, f, part, which, total);
}

// Neighbours in a warp gather a result.
template <typename F>
__device__ inline void by_lanes(const Shares& shares, const F& f) {
    const int thread = blockIdx.x * THREADS + threadIdx.x, lane = thread % shares.lanes;
    const int which = thread / shares.lanes, own = min(which, shares.count - 1);
    const u8* x = shares.x + shares.kept.offset(own);
    const int step = shares.lanes * EIGHT;
    typename F::T total = share_of(shares, f, x, lane * EIGHT, shares.n, step);
    for (int lanes = shares.lanes / 2; lanes; lanes /= 2)
        total = f.join(total, __shfl_xor_sync(~0u, total, lanes));
    if (lane == 0 && which < shares.count) f.finish(which, total);
}

// Element `at` of a thread's eight results.
template <bool EIGHTS>
__device__ inline void read_across(
    const Shares& shares, const u8* const (&x)[EIGHT], int at, float (&values)[EIGHT]) {
    const i64 offset = shares.gathered.offset(at);
    if (EIGHTS) return read_eight(x[0] + offset, values);
#pragma unroll
    for (int j = 0; j < EIGHT; j++) values[j] = load(DTYPE, x[j] + offset);
}

// Neighbours gather neighbouring results, or a part of them, eight a thread. A block has a strip of
// results, of as many parts as it has threads for.
template <bool EIGHTS, typename F>
__device__ inline void by_columns(const Shares& shares, const F& f) {
    const int width = shares.width, height = shares.height, strip = width * EIGHT;
    const int strips = (shares.count + strip - 1) / strip, together = THREADS / (width * height);
    const int first = blockIdx.x % strips * strip, first_part = blockIdx.x / strips * together;
    // A thread's results are side by side where they are read together, else a width apart, so that
    // neighbours read neighbours.
    const int column = threadIdx.x % width;
    const u8* x[EIGHT];
#pragma unroll
    for (int j = 0; j < EIGHT; j++) {
        const int which = first + (EIGHTS ? column * EIGHT + j : j * width + column);
        x[j] = shares.x + shares.kept.offset(min(which, shares.count - 1));
        if (EIGHTS) break;
    }
    typename F::T totals[EIGHT];
#pragma unroll
    for (int j = 0; j < EIGHT; j++) totals[j] = f.none();
    const int part = first_part + threadIdx.x / (width * height), end = shares.end(part);
    int at = shares.begin(part) + threadIdx.x / width % height;
    if (EIGHTS && first + column * EIGHT >= shares.count) at = end;
#pragma unroll 1
    for (; at + (UNDER_WAY - 1) * height < end; at += UNDER_WAY * height) {
        float values[UNDER_WAY][EIGHT];
#pragma unroll
        for (int i = 0; i < UNDER_WAY; i++)
            read_across<EIGHTS>(shares, x, at + i * height, values[i]);
#pragma unroll
        for (int i = 0; i < UNDER_WAY; i++)
#pragma unroll
            for (int j = 0; j < EIGHT; j++)
                totals[j] = f.join(totals[j], f.of(values[i][j], at + i * height));
    }
#pragma unroll 1
    for (; at < end; at += height) {
        float values[EIGHT];
        read_across<EIGHTS>(shares, x, at, values);
#pragma unroll
        for (int j = 0; j < EIGHT; j++) totals[j] = f.join(totals[j], f.of(values[j], at));
    }
    // As far apart that eight of four neighbours are in different banks.
    __shared__ typename F::T shared[EIGHT][THREADS + 4];
#pragma unroll
    for (int j = 0; j < EIGHT; j++) shared[j][threadIdx.x] = totals[j];
    __syncthreads();
    for (int i = threadIdx.x; i < strip * together; i += THREADS) {
        const int of_part = i % strip, which = first + of_part, own = first_part + i / strip;
        if (which >= shares.count || own >= shares.part_count) continue;
        const int j = EIGHTS ? of_part % EIGHT : of_part / width;
        const int thread = i / strip * height * width + (EIGHTS ? of_part / EIGHT : of_part % width);
        typename F::T total = shared[j][thread];
        for (int h = 1; h < height; h++) total = f.join(total, shared[j][thread + h * width]);
        leave(shares, f, own, which, total);
    }
}

// Joins the parts of results: neighbours have neighbouring results, of which each thread joins every
// so many parts.
template <typename F>
__device__ inline void join_parts(const Shares& shares, const F& f) {
    const int results = THREADS / shares.lanes, lane = threadIdx.x / results;
    const int which = blockIdx.x * results + threadIdx.x % results;
    const typename F::T* parts = (const typename F::T*)shares.parts + min(which, shares.count - 1);
    typename F::T total = f.none();
#pragma unroll 8
    for (int part = lane; part < shares.part_count; part += shares.lanes)
        total = f.join(total, parts[(i64)part * shares.count]);
    __shared__ typename F::T shared[THREADS];
    for (int lanes = shares.lanes / 2; lanes; lanes /= 2) {
        shared[threadIdx.x] = total;
        __syncthreads();
        if (lane < lanes) total = f.join(total, shared[threadIdx.x + lanes * results]);
        __syncthreads();
    }
    if (lane == 0 && which < shares.count) f.finish(which, total);
}
