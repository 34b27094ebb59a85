// Slices of matrices on their way to shared memory.
//
// A tile is rows of SLICE bytes, in 16-byte chunks. What is copied as it is goes asynchronously;
// what must be collected or decoded goes through registers.
#pragma once

#include "epilogue.cuh"
#include "mma.cuh"
#include "ptx.cuh"
#include "scales.cuh"

constexpr int SLICE = 128;  // bytes along k
constexpr int CHUNK = 16;   // bytes that are copied, swizzled and read together
constexpr int CHUNKS = SLICE / CHUNK;

// How a matrix is loaded, by the numbers that the host gives them.
enum Load {
    COPY = 0,    // rows are contiguous, chunks aligned
    GATHER = 1,  // units lie anywhere
    // To 16-bit elements, exactly:
    DECODE_E4M3 = 2,
    DECODE_E5M2 = 3,
    DECODE_MXFP8_E4M3 = 4,
    DECODE_MXFP8_E5M2 = 5,
    DECODE_MXFP4 = 6,
    DECODE_NVFP4 = 7,
};

// Where a chunk of a tile's row lies: eight rows of one chunk are in different banks.
__device__ inline u32 swizzled(int row, int chunk) {
    return row * SLICE + (chunk ^ (row & 7)) * CHUNK;
}

// Two numbers as the elements that are multiplied; exact for all that is decoded, but for MXFP8
// values below 2^-133.
__device__ inline u32 packed(float low, float high) {
    return MMA == MMA_BF16 ? bf16_of(low) | (u32)bf16_of(high) << 16
                           : f16_of(low) | (u32)f16_of(high) << 16;
}

// Products of pairs of elements, exact here.
__device__ inline u32 times(u32 x, u32 y) {
    u32 product;
#if MMA == MMA_BF16
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(x), "r"(y), "r"(0x80008000u));
#else
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(x), "r"(y));
#endif
    return product;
}

// Eight FP4 codes times their scale: exponent and mantissa moved to their place, which is worth
// 2^-126 (bf16) or 2^-14 (f16) of the code, then two exact products.
__device__ inline uint4 decoded_fp4(u32 codes, float scale) {
    constexpr int SHIFT = MMA == MMA_BF16 ? 6 : 9;
    const u32 bias = MMA == MMA_BF16 ? 0x7E807E80u : 0x74007400u, factor = packed(scale, scale);
    u32 pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 low = codes >> 8 * i & 0xF, high = codes >> (8 * i + 4) & 0xF;
        u32 signs = (low & 8) << 12 | (high & 8) << 28;
        u32 bits = ((low & 7) | (high & 7) << 16) << SHIFT;
        pairs[i] = times(times(bits | signs, bias), factor);
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// Units `first` and on of a row of `units`, zeros beyond.
__device__ inline uint4 gathered(const u8* row, i64 col, int first, int units) {
    u32 words[4] = {};
#pragma unroll
    for (int i = 0; i < CHUNK / UNIT; i++) {
        int at = first + i;
        if (at >= units) break;
        u32 unit = UNIT == 2 ? *(const u16*)(row + at * col) : *(row + at * col);
        words[i * UNIT / 4] |= unit << i * UNIT % 4 * 8;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// Eight FP8 codes times their scale.
template <int LOAD>
__device__ inline uint4 decoded_fp8(const u8* row, i64 col, int first, int k, float scale) {
    u32 pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float x[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int at = first + 2 * i + j;
            u8 code = at < k ? *(row + at * col) : 0;
            bool e5m2 = LOAD == DECODE_E5M2 || LOAD == DECODE_MXFP8_E5M2;
            x[j] = scale * (e5m2 ? f32_of_e5m2(code) : f32_of_e4m3(code));
        }
        pairs[i] = packed(x[0], x[1]);
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// One matrix of a batch, as it is loaded.
struct Source {
    const Matrix& matrix;
    const Scales& scales;
    const u8 *data, *scale_data;

    __device__ Source(const Matrix& matrix, const Scales& scales, const int (&batch)[4])
        : matrix(matrix), scales(scales), data(matrix.of_batch(batch)),
          scale_data(scales.of_batch(batch)) {}

    // A chunk of elements that are decoded, from element `at` of a row on.
    template <int LOAD>
    __device__ uint4 decoded(int row, int at, int k) const {
        const u8* codes = data + row * matrix.row;
        if (at >= k) return make_uint4(0, 0, 0, 0);
        if (LOAD == DECODE_E4M3 || LOAD == DECODE_E5M2)
            return decoded_fp8<LOAD>(codes, matrix.col, at, k, 1.0f);
        u8 code = scale_data[scales.index(row, at / (LOAD == DECODE_NVFP4 ? 16 : 32))];
        float scale = LOAD == DECODE_NVFP4 ? f32_of_e4m3(code) : f32_of_e8m0(code);
        if (LOAD == DECODE_MXFP8_E4M3 || LOAD == DECODE_MXFP8_E5M2)
            return decoded_fp8<LOAD>(codes, 1, at, k, scale);
        // Rows are padded with zero codes to whole blocks.
        codes += at / 2;
        u32 word = matrix.words ? *(const u32*)codes
                                : codes[0] | codes[1] << 8 | codes[2] << 16 | (u32)codes[3] << 24;
        return decoded_fp4(word, scale);
    }

    __device__ float factor(int row, int at) const { return scales.factor(scale_data, row, at); }
};

// Brings one slice of a tile of ROWS rows to shared memory; zeros beyond the matrix.
template <int ROWS, int LOAD, int THREADS, typename Index>
__device__ inline void load_slice(u8* tile, const Source& source, Index index, int slice,
                                  int units) {
    static_assert(ROWS * CHUNKS % THREADS == 0, "every thread has as many chunks");
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / THREADS; i++) {
        int chunk = (threadIdx.x + i * THREADS) % CHUNKS;
        int local = (threadIdx.x + i * THREADS) / CHUNKS;
        int row = index[local];
        int at = slice * SLICE + chunk * CHUNK;
        u8* to = tile + swizzled(local, chunk);
        if (LOAD == COPY) {
            int valid = row < 0 ? 0 : max(0, min(CHUNK, units * UNIT - at));
            const u8* from = valid ? source.data + row * source.matrix.row + at : source.data;
            copy_async_16(shared_address(to), from, valid);
            continue;
        }
        uint4 value = make_uint4(0, 0, 0, 0);
        if (row >= 0) {
            if (LOAD == GATHER)
                value = gathered(source.data + row * source.matrix.row, source.matrix.col,
                                 at / UNIT, units);
            else
                value = source.decoded<LOAD>(row, at / UNIT, units);
        }
        *(uint4*)to = value;
    }
}

// Brings the block scales of a slice to shared memory: WORDS words a row; zeros beyond.
template <int ROWS, int WORDS, int THREADS, typename Index>
__device__ inline void load_scales(u32* tile, const Source& source, Index index, int slice) {
    const Scales& scales = source.scales;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * WORDS; i += THREADS) {
        int row = index[i / WORDS], col = (slice * WORDS + i % WORDS) * 4;
        int valid = row < 0 ? 0 : max(0, min(4, scales.row_scales - col));
        const u8* from = valid ? source.scale_data + scales.index(row, col) : source.scale_data;
        if (scales.words) {
            copy_async_4(shared_address(tile + i), from, valid);
            continue;
        }
        u32 word = 0;
        for (int j = 0; j < valid; j++) {
            // Tiled scales are words: along k in rows they lie one behind the other.
            word |= (u32)from[j] << 8 * j;
        }
        tile[i] = word;
    }
}
