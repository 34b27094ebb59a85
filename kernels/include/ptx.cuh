// Instructions that CUDA C++ has no name for.
#pragma once

#include "numbers.cuh"

__device__ inline u32 shared_address(const void* at) {
    return (u32)__cvta_generic_to_shared(at);
}
__device__ inline u8* shared_pointer(u32 at) { return (u8*)__cvta_shared_to_generic(at); }

// Four of the eight bytes of low and high, by the numbers in the low four digits of a selector: from 8
// on all bits are as the topmost one of byte number - 8.
__device__ inline u32 prmt(u32 low, u32 high, u32 selector) {
    u32 bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
    return bytes;
}

// A number that is kept: compilers would rather find it anew wherever it is used.
__device__ inline u32 kept(u32 x) {
    asm volatile("mov.b32 %0, %0;" : "+r"(x));
    return x;
}

__device__ inline const u8* kept(const u8* x) {
    asm volatile("mov.b64 %0, %0;" : "+l"(x));
    return x;
}

// Half i of a pair, twice. The half must be known to the compiler, which makes no instruction of it.
__device__ inline u32 twice(u32 pair, int i) {
    u32 halves;
    asm("mov.b32 %0, {%1, %1};" : "=r"(halves) : "h"((u16)(i ? pair >> 16 : pair)));
    return halves;
}

// Copies 16 bytes to shared memory, the last 16 - valid of them as zeros.
__device__ inline void copy_async_16(u32 to, const void* from, int valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid)
                 : "memory");
}

// Copies 4 bytes likewise.
__device__ inline void copy_async_4(u32 to, const void* from, int valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid)
                 : "memory");
}

// Ends a group of copies; groups are waited for in order.
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING groups are under way.
template <int PENDING>
__device__ inline void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements, transposed; lane l gives the address of row l % 8 of
// matrix l / 8.
__device__ inline void load_transposed(u32 (&r)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

// Four 8 x 16-byte matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(u32 (&r)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

// Words of shared memory, read at this place: compilers would join plain reads with later ones,
// and need registers for all of them.
__device__ inline u16 load_half(u32 at) {
    u16 r;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(r) : "r"(at) : "memory");
    return r;
}
__device__ inline void load_words(u32 (&r)[1], u32 at) {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
}
__device__ inline void load_words(u32 (&r)[2], u32 at) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
}
__device__ inline void load_words(u32 (&r)[4], u32 at) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
