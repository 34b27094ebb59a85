// Attention's weights, as f32 and as what matrix instructions take.
//
// SPLIT_WEIGHTS: whether they meet values as sums of terms that keep them as exact as f32 is, or
// rounded to the type of values, which FP8 and FP4 ones are always. With the latter, scores are in
// units of ln 2: powers of two are one instruction.
#pragma once

#include "mma.cuh"
#include "ptx.cuh"

// Whether rows are eight at most. The other half of a fragment has their weights' second terms then, so
// that sums of values are those of both halves.
#ifndef FEW_ROWS
#define FEW_ROWS 0
#endif
constexpr int HALVES = FEW_ROWS ? 1 : 2;  // of a fragment that have rows

// What scores are multiplied with: log2(e), or nothing.
constexpr float SCORE = SPLIT_WEIGHTS ? 1.0f : 1.44269504f;

// e^(x - largest), 0 for x = -inf even where that is the largest.
__device__ inline float weight(float x, float largest) {
    x -= largest == -INFINITY ? 0.0f : largest;
    if (SPLIT_WEIGHTS) return expf(x);
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

// ln(e^top * total), of weights to `top`.
__device__ inline float log_sum(float top, float total) {
    return (top == -INFINITY ? 0.0f : top / SCORE) + logf(total);
}

#if MMA == MMA_FP8

__device__ inline bool is_odd(u32 sum) { return sum != 0; }

// sum, and other bits once one of four codes was NaN.
__device__ inline u32 noted(u32 codes, u32 sum) {
    return sum | ((codes & 0x7F7F7F7Fu) + 0x01010101u & 0x80808080u);
}

#else

__device__ inline float low_of(u32 pair) {
    return MMA == MMA_BF16 ? __uint_as_float(pair << 16) : f32_of_f16((u16)pair);
}

__device__ inline float high_of(u32 pair) {
    return MMA == MMA_BF16 ? __uint_as_float(pair & 0xFFFF0000u) : f32_of_f16((u16)(pair >> 16));
}

// sum + 0 * pair: NaN for ever once an element was infinite or NaN.
__device__ inline u32 noted(u32 pair, u32 sum) {
#if MMA == MMA_BF16
    asm("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(sum) : "r"(pair), "r"(0));
#else
    asm("fma.rn.f16x2 %0, %1, %2, %0;" : "+r"(sum) : "r"(pair), "r"(0));
#endif
    return sum;
}

__device__ inline bool is_odd(u32 sum) { return (sum & 0x7FFF7FFFu) != 0; }

// Takes infinities and NaN out of pairs: ones where they are +inf or NaN, -inf or NaN.
__device__ inline void split_non_finite(u32 (&pairs)[4], u32 (&above)[4], u32 (&below)[4]) {
    constexpr u32 ONE = MMA == MMA_BF16 ? 0x3F80 : 0x3C00, INF = MMA == MMA_BF16 ? 0x7F80 : 0x7C00;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        above[r] = below[r] = 0;
#pragma unroll
        for (int shift = 0; shift < 32; shift += 16) {
            u32 bits = pairs[r] >> shift & 0xFFFF, size = bits & 0x7FFF;
            if (size < INF) continue;
            if (size > INF || bits == size) above[r] |= ONE << shift;
            if (size > INF || bits != size) below[r] |= ONE << shift;
            pairs[r] &= ~(0xFFFFu << shift);
        }
    }
}

#endif

// The weights of 16 rows and STEP keys as they are multiplied with values.
#if ROUND_TO

// The largest code times the largest scale of NVFP4: a weight is 1 at most.
constexpr float WEIGHT_UNIT = ROUND_TO == MMA_NVFP4 ? 6.0f * 448.0f : 1.0f;

#elif MMA == MMA_FP8

// What weights are multiplied with before they are rounded, so that small ones keep their places.
constexpr float WEIGHT_UNIT = 256.0f;

// A lane's k = 4t to 4t + 3 are keys 2t and 2t + 1 of eight, and of the eight after them.
struct Weights {
    u32 a[4];

    // Of eight keys four times.
    __device__ void set(const float (*p)[4]) {
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const float *x = p[r / 2 * 2] + r % 2 * 2, *next = p[r / 2 * 2 + 1] + r % 2 * 2;
            a[r] = e4m3_pair_of(x[0] * WEIGHT_UNIT, x[1] * WEIGHT_UNIT) |
                   e4m3_pair_of(next[0] * WEIGHT_UNIT, next[1] * WEIGHT_UNIT) << 16;
        }
    }

    __device__ void add(float (&sum)[4], u32 b0, u32 b1) const { mma(sum, a, b0, b1); }
};

#elif !SPLIT_WEIGHTS

constexpr float WEIGHT_UNIT = 1.0f;

struct Weights {
    u32 a[4];

    // Of eight keys twice.
    __device__ void set(const float (*keys)[4]) {
        const float(&p)[4] = keys[0], (&next)[4] = keys[1];
        a[0] = pair_of(p[0], p[1]);
        a[1] = pair_of(p[2], p[3]);
        a[2] = pair_of(next[0], next[1]);
        a[3] = pair_of(next[2], next[3]);
    }

    __device__ void add(float (&sum)[4], u32 b0, u32 b1) const { mma(sum, a, b0, b1); }
};

#elif MMA == MMA_BF16

constexpr float WEIGHT_UNIT = 1.0f;

// Three terms: each leaves at most 2^-8 of what it rounds.
struct Weights {
    static constexpr int TERMS = FEW_ROWS ? 4 : 3, FRAGMENTS = FEW_ROWS ? 2 : 3;
    u32 a[FRAGMENTS][4];

    __device__ void set(const float (*keys)[4]) {
        const float(&p)[4] = keys[0], (&next)[4] = keys[1];
#pragma unroll
        for (int r = 0; r < 4; r += 2 / HALVES) {
            float low = (r < 2 ? p : next)[r % 2 * 2], high = (r < 2 ? p : next)[r % 2 * 2 + 1];
#pragma unroll
            for (int term = 0; term < TERMS; term++) {
                u32 pair = pair_of(low, high);
                a[FEW_ROWS ? term / 2 : term][FEW_ROWS ? r + term % 2 : r] = pair;
                low -= low_of(pair);
                high -= high_of(pair);
            }
        }
    }

    // The smallest terms first.
    __device__ void add(float (&sum)[4], u32 b0, u32 b1) const {
#pragma unroll
        for (int i = FRAGMENTS - 1; i >= 0; i--) mma(sum, a[i], b0, b1);
    }
};

#else

constexpr float WEIGHT_UNIT = 1.0f;

// Two terms of TF32, which f16 is exact in; f16 itself lacks the range. Each leaves at most 2^-11
// of what it rounds. Keys go in another order, so that lanes have what they multiply: key 2t is
// k = t of an instruction, 2t + 1 is k = t + 4.
struct Weights {
    u32 high[2][4], low[2][4];

    __device__ void set(const float (*keys)[4]) {
        const float(&p)[4] = keys[0], (&next)[4] = keys[1];
#pragma unroll
        for (int eight = 0; eight < 2; eight++)
#pragma unroll
            for (int r = 0; r < 4; r += 2 / HALVES) {
                float x = (eight ? next : p)[r / 2 + r % 2 * 2];
                high[eight][r] = tf32_of(x);
                (FEW_ROWS ? high[eight][r + 1] : low[eight][r]) =
                    tf32_of(x - __uint_as_float(high[eight][r]));
            }
    }

    __device__ static u32 tf32_of(float x) {
        u32 bits;
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
        return bits;
    }

    __device__ void add(float (&sum)[4], u32 b0, u32 b1) const {
#pragma unroll
        for (int eight = 0; eight < 2; eight++) {
            const u32 b = eight ? b1 : b0;
            const u32 even = __float_as_uint(low_of(b)), odd = __float_as_uint(high_of(b));
            if (!FEW_ROWS) mma_tf32(sum, low[eight], even, odd);
            mma_tf32(sum, high[eight], even, odd);
        }
    }

    __device__ static void mma_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
            " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

#endif
