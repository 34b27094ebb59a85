// Numbers of every element type, from and to f32.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#ifndef INFINITY
#define INFINITY __int_as_float(0x7F800000)
#endif

// Element types, by the numbers that the host gives them.
enum DType { F32 = 0, BF16 = 1, F16 = 2, E4M3 = 3, E5M2 = 4 };

__device__ inline int size_of(int dtype) { return dtype == F32 ? 4 : dtype <= F16 ? 2 : 1; }

__device__ inline float f32_of_f16(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ inline float f32_of_bf16(u16 bits) { return __uint_as_float((u32)bits << 16); }

__device__ inline float f32_of_e5m2(u8 bits) { return f32_of_f16((u16)(bits << 8)); }

// The codes in bits 0 to 7 and 8 to 15 as f16 numbers, which are exact.
__device__ inline u32 f16_pair_of_e4m3(u32 codes) {
    u32 pair;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"((u16)codes));
#else
    // The exponent of f16 has a bias 8 larger, and one more value for NaN: what would be 480.
    const u32 apart = __byte_perm(codes, 0, 0x4140), sizes = apart & 0x007F007Fu;
    asm("mul.rn.f16x2 %0, %1, %2;"
        : "=r"(pair) : "r"(sizes << 7 | (apart << 8 & 0x80008000u)), "r"(0x5C005C00u));
    pair += (sizes + 0x00010001u & 0x00800080u) * 0x40;
#endif
    return pair;
}

__device__ inline float f32_of_e4m3(u8 bits) { return f32_of_f16((u16)f16_pair_of_e4m3(bits)); }

// Each of these rounds once, to nearest, ties to even.
__device__ inline u16 f16_of(float x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

__device__ inline u16 bf16_of(float x) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

#if __CUDA_ARCH__ >= 890
// What is too large becomes the largest value.
__device__ inline u8 e4m3_of(float x) {
    u16 bits;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(0.0f), "f"(x));
    return (u8)bits;
}

__device__ inline u32 e4m3_pair_of(float low, float high) {
    u16 bits;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
    return bits;
}

__device__ inline u8 e5m2_of(float x) {
    u16 bits;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(0.0f), "f"(x));
    return (u8)bits;
}
#endif

__device__ inline float load(int dtype, const u8* at) {
    switch (dtype) {
        case F32: return *(const float*)at;
        case BF16: return f32_of_bf16(*(const u16*)at);
        case F16: return f32_of_f16(*(const u16*)at);
        case E4M3: return f32_of_e4m3(*at);
        default: return f32_of_e5m2(*at);
    }
}

__device__ inline void store(int dtype, u8* at, float x) {
    switch (dtype) {
        case F32: *(float*)at = x; break;
        case BF16: *(u16*)at = bf16_of(x); break;
        case F16: *(u16*)at = f16_of(x); break;
#if __CUDA_ARCH__ >= 890
        case E4M3: *at = e4m3_of(x); break;
        case E5M2: *at = e5m2_of(x); break;
#endif
    }
}
