// Matrix instructions: D += A * B of 16 rows, 8 columns, and 32 bytes along k.
//
// MMA names the element types, A_E5M2 and B_E5M2 which FP8 types are E5M2. All of them have one
// layout in bytes: with g = lane / 4 and t = lane % 4, register i of A holds row g + i % 2 * 8,
// bytes 4t + i / 2 * 16 on; register i of B column g, bytes 4t + 16i on; D's 0 and 1 are at row g,
// columns 2t and 2t + 1, its 2 and 3 eight rows below.
#pragma once

#include "numbers.cuh"

#define MMA_BF16 0
#define MMA_F16 1
#define MMA_FP8 2
#define MMA_MXFP8 3
#define MMA_MXFP4 4
#define MMA_NVFP4 5

// The block-scaled instruction, for whose operands those of 16 bits, which MMA names, are rounded
// before they are multiplied; or 0.
#ifndef ROUND_TO
#define ROUND_TO 0
#endif

// The block-scaled instruction that multiplies; or 0.
#define SCALED_MMA (MMA > MMA_FP8 ? MMA : ROUND_TO)

#if A_E5M2
#define A_FP8 "e5m2"
#else
#define A_FP8 "e4m3"
#endif
#if B_E5M2
#define B_FP8 "e5m2"
#else
#define B_FP8 "e4m3"
#endif

// Bytes of a unit along k: an element, or two of FP4.
constexpr int UNIT = MMA == MMA_BF16 || MMA == MMA_F16 ? 2 : 1;

// Elements of a unit.
constexpr int ELEMENTS = MMA == MMA_MXFP4 || MMA == MMA_NVFP4 ? 2 : 1;

// Block scales along k that an instruction takes of each row; 0 for none.
constexpr int STEP_SCALES = SCALED_MMA == MMA_NVFP4   ? 4
                            : SCALED_MMA == MMA_MXFP4 ? 2
                            : SCALED_MMA == MMA_MXFP8 ? 1
                                                      : 0;

// Two numbers, rounded, as a pair of elements of 16 bits.
__device__ inline u32 pair_of(float low, float high) {
    u32 pair;
#if MMA == MMA_F16
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
    return pair;
}

#if MMA <= MMA_FP8
#if MMA == MMA_BF16
#define MMA_FORM "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#elif MMA == MMA_F16
#define MMA_FORM "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#else
#define MMA_FORM "mma.sync.aligned.m16n8k32.row.col.f32." A_FP8 "." B_FP8 ".f32"
#endif

__device__ inline void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(MMA_FORM " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

#if SCALED_MMA
#if SCALED_MMA == MMA_MXFP8
#define SCALED_FORM                                                               \
    "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X." \
    "f32." A_FP8 "." B_FP8 ".f32.ue8m0"
#elif SCALED_MMA == MMA_MXFP4
#define SCALED_FORM                                                              \
    "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::2X." \
    "f32.e2m1.e2m1.f32.ue8m0"
#else
#define SCALED_FORM                                                              \
    "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X." \
    "f32.e2m1.e2m1.f32.ue4m3"
#endif

// The scales of A's row g + lane % 2 * 8 and of B's column g begin at byte BYTE of their words.
template <int BYTE>
__device__ inline void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, u32 scale_a,
                           u32 scale_b) {
    asm volatile(SCALED_FORM " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3},"
                             " {%10}, {%12, %13}, {%11}, {%12, %13};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(scale_a),
                   "r"(scale_b), "n"(BYTE), "n"(0));
}

// The same of step `step` along k, by the words in which scales of steps follow each other. The step
// must be known to the compiler.
__device__ inline void mma_of_step(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, u32 scale_a,
                                   u32 scale_b, int step) {
    switch (step * STEP_SCALES % 4) {
        case 0: mma<0>(d, a, b0, b1, scale_a, scale_b); break;
#if SCALED_MMA == MMA_MXFP8
        case 1: mma<1>(d, a, b0, b1, scale_a, scale_b); break;
        case 3: mma<3>(d, a, b0, b1, scale_a, scale_b); break;
#endif
#if SCALED_MMA != MMA_NVFP4
        case 2: mma<2>(d, a, b0, b1, scale_a, scale_b); break;
#endif
    }
}
#endif
