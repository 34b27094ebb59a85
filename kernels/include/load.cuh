// Slices of matrices on their way to shared memory.
//
// A tile is rows of SLICE bytes, in 16-byte chunks. What is copied as it is goes asynchronously;
// what must be collected or decoded goes through registers.
#pragma once

#include "matrix.cuh"
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
    DECODE_E2M1 = 4,
    DECODE_NVFP4 = 5,  // with their block scales
    // 16-bit elements that are contiguous across rows, eight of them aligned; copied, and
    // transposed when they are read:
    COPY_ACROSS = 6,
    // FP4 codes, to the E4M3 codes of the same values:
    WIDEN_E2M1 = 7,
    // To bf16 with their block scales, exactly but for values below 2^-133 or from 2^128 on:
    DECODE_MXFP8_E4M3 = 8,
    DECODE_MXFP8_E5M2 = 9,
    DECODE_MXFP4 = 10,
};

// Whether what is decoded has its block scales in it.
__device__ constexpr bool has_scales(int load) {
    return load == DECODE_NVFP4 || load >= DECODE_MXFP8_E4M3;
}

__device__ constexpr bool decodes_fp4(int load) {
    return load == DECODE_E2M1 || load == DECODE_NVFP4 || load == DECODE_MXFP4;
}

// Elements that share a scale where it is decoded with them.
__device__ constexpr int scaled_by(int load) { return load == DECODE_NVFP4 ? 16 : 32; }

// Where a chunk of a tile's row lies: eight rows of one chunk are in different banks.
__device__ inline u32 swizzled(int row, int chunk) {
    return row * SLICE + (chunk ^ (row & 7)) * CHUNK;
}

// Where eight rows' elements of one k lie in a tile of ROWS rows that is stored across them.
template <int ROWS>
__device__ inline u32 swizzled_across(int k, int eight) {
    constexpr int EIGHTS = ROWS / 8;
    return k * ROWS * 2 + (eight ^ (k & (EIGHTS % 8 ? (EIGHTS & -EIGHTS) - 1 : 7))) * CHUNK;
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

// x * y + z of pairs of elements.
__device__ inline u32 multiply_add(u32 x, u32 y, u32 z) {
    u32 sum;
#if MMA == MMA_BF16
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(y), "r"(z));
#else
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(y), "r"(z));
#endif
    return sum;
}

// FP4 codes raised by 48 (bf16) or 272 (f16): so they have one high byte, and as the low one 0x40 + four
// times the code, which is looked up. For a code whose top bit is set prmt gives 0: positive and negative
// ones are found by themselves.
struct RaisedFp4 {
    u32 positive, negative;  // the first halves of the tables

    // What is 0. Compilers that know it copy the tables for each use, which takes instructions but no
    // registers.
    __device__ RaisedFp4(u32 zero = 0)
        : positive(kept(0x46444240u + zero)), negative(kept(0x3A3C3E40u + zero)) {}

    // The codes in bits 0 to 15.
    __device__ uint2 operator()(u32 codes) const {
        const u32 low = prmt(positive, 0x58504C48u, codes) |
                        prmt(negative, 0x28303438u, codes ^ 0x8888u);
        const u32 high = MMA == MMA_BF16 ? 0x42 : 0x5C;
        return make_uint2(prmt(low, high, 0x4140), prmt(low, high, 0x4342));
    }
};

// Raised FP4 codes as they are.
__device__ inline u32 lowered_fp4(u32 raised) {
    return MMA == MMA_BF16 ? multiply_add(raised, 0x3F803F80u, 0xC240C240u)
                           : multiply_add(raised, 0x3C003C00u, 0xDC40DC40u);
}

// What scales are multiplied with for `scaled_fp4`.
constexpr u32 FP4_OFFSET = MMA == MMA_BF16 ? 0xC240C240u : 0u;

// Raised FP4 codes times a scale, which is exact; `offset` is the scale times FP4_OFFSET.
__device__ inline u32 scaled_fp4(u32 raised, u32 scale, u32 offset) {
    // F16 does not hold what the largest scales would raise by.
    return MMA == MMA_BF16 ? multiply_add(raised, scale, offset) : times(lowered_fp4(raised), scale);
}

// The FP8 codes in bits 0 to 7 and 8 to 15.
template <bool E5M2>
__device__ inline u32 decoded_fp8(u32 codes) {
    const u32 pair = E5M2 ? __byte_perm(codes, 0, 0x1404) : f16_pair_of_e4m3(codes);
    if (MMA == MMA_F16) return pair;
    return pair_of(f32_of_f16((u16)pair), f32_of_f16((u16)(pair >> 16)));
}

// The E4M3 codes of four FP4 codes.
__device__ inline u32 widened_fp4(u32 codes) {
    u32 sizes = __byte_perm(0x3C383000u, 0x4C484440u, codes & 0x7777);
    u32 signs = codes & 0x8888;
    return sizes | (signs & 0x8) << 4 | (signs & 0x80) << 8 | (signs & 0x800) << 12 |
           (signs & 0x8000) << 16;
}

// What was read of a chunk: units, or codes and their scale.
struct Fetched {
    u32 words[4];
    u8 scale;
};

// Units `first` and on of a row of `units`, zeros beyond.
__device__ inline void gather(Fetched& to, const u8* row, i64 col, int first, int units) {
#pragma unroll
    for (int i = 0; i < CHUNK / UNIT; i++) {
        int at = first + i;
        if (at >= units) break;
        u32 unit = UNIT == 2 ? *(const u16*)(row + at * col) : *(row + at * col);
        to.words[i * UNIT / 4] |= unit << i * UNIT % 4 * 8;
    }
}

// Eight one-byte codes likewise.
__device__ inline void gather_codes(Fetched& to, const Matrix& matrix, const u8* row, int first,
                                    int k) {
    if (matrix.words && first + 8 <= k) {
        to.words[0] = *(const u32*)(row + first);
        to.words[1] = *(const u32*)(row + first + 4);
        return;
    }
    // Addresses of all eight would take many registers.
    unsigned long long codes = 0;
#pragma unroll 1
    for (int i = 0; i < min(8, k - first); i++)
        codes |= (unsigned long long)*(row + (first + i) * matrix.col) << 8 * i;
    to.words[0] = (u32)codes;
    to.words[1] = (u32)(codes >> 32);
}

// One matrix of a batch, as it is loaded.
struct Source {
    const Matrix& matrix;
    const Scales& scales;
    const u8 *data, *scale_data;

    __device__ Source(const Matrix& matrix, const Scales& scales, const int (&batch)[4])
        : matrix(matrix), scales(scales), data(matrix.of_batch(batch)),
          scale_data(scales.of_batch(batch)) {}

    // A chunk's codes where they are whole words, from the first one on.
    template <int LOAD>
    __device__ static void fetch_words(Fetched& to, const u8* codes) {
        to.words[0] = *(const u32*)codes;
        if (!decodes_fp4(LOAD)) to.words[1] = *(const u32*)(codes + 4);
    }

    // A chunk from unit, or element that is decoded, `at` of a row on; zeros beyond the matrix. Where a
    // row's elements and scales begin is given, or which row.
    template <int LOAD>
    __device__ Fetched fetch(const u8* of_row, const u8* of_scales, int at, int units) const {
        Fetched to = {};
        if (at >= units) return to;
        if (LOAD == COPY || LOAD == GATHER) {
            gather(to, of_row, matrix.col, at, units);
        } else if (decodes_fp4(LOAD)) {
            // Rows are padded with zero codes to whole blocks.
            const u8* codes = of_row + at / 2;
            to.words[0] = matrix.words
                              ? *(const u32*)codes
                              : codes[0] | codes[1] << 8 | codes[2] << 16 | (u32)codes[3] << 24;
        } else if (LOAD == WIDEN_E2M1) {
            // Likewise, to blocks of 16 bytes.
            const u8* codes = of_row + at / 2;
            if (matrix.words) {
                fetch_words<LOAD>(to, codes);
            } else {
                for (int i = 0; i < 8; i++) to.words[i / 4] |= (u32)codes[i] << i % 4 * 8;
            }
        } else {
            gather_codes(to, matrix, of_row, at, units);
        }
        if (has_scales(LOAD)) to.scale = of_scales[scales.along(at / scaled_by(LOAD))];
        return to;
    }
    template <int LOAD>
    __device__ Fetched fetch(int row, int at, int units) const {
        if (row < 0) return {};
        return fetch<LOAD>(this->row(row), scale_data + scales.index(row, 0), at, units);
    }

    // Where a row begins.
    __device__ const u8* row(int row) const { return data + row * matrix.row; }

    __device__ float factor(int row, int at) const { return scales.factor(scale_data, row, at); }
};

// A chunk as it is multiplied.
template <int LOAD>
__device__ inline uint4 decoded(const Fetched& from, const RaisedFp4& raised_fp4 = RaisedFp4()) {
    if (LOAD < DECODE_E4M3)
        return make_uint4(from.words[0], from.words[1], from.words[2], from.words[3]);
    u32 pairs[4];
    if (LOAD == WIDEN_E2M1) {
#pragma unroll
        for (int i = 0; i < 4; i++) pairs[i] = widened_fp4(from.words[i / 2] >> i % 2 * 16);
    } else {
        constexpr bool FP4 = decodes_fp4(LOAD);
        const uint2 low = raised_fp4(from.words[0]), high = raised_fp4(from.words[0] >> 16);
        const u32 raised[] = {low.x, low.y, high.x, high.y};
        const float scale = !has_scales(LOAD)      ? 1.0f
                            : LOAD == DECODE_NVFP4 ? f32_of_e4m3(from.scale)
                                                   : f32_of_e8m0(from.scale);
        const u32 factor = pair_of(scale, scale);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 codes = from.words[i / 2] >> i % 2 * 16;
            pairs[i] = FP4 ? lowered_fp4(raised[i])
                           : decoded_fp8<LOAD == DECODE_E5M2 || LOAD == DECODE_MXFP8_E5M2>(codes);
            if (LOAD == DECODE_NVFP4) pairs[i] = scaled_fp4(raised[i], factor, times(factor, FP4_OFFSET));
            else if (has_scales(LOAD)) pairs[i] = times(pairs[i], factor);
        }
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// The slices of one operand's tile of ROWS rows: fetched one after the other, each put to shared
// memory later, so that memory is waited for while the one before is multiplied.
template <int ROWS, int LOAD, int THREADS, typename Index>
struct Loader {
    static constexpr int OWN = ROWS * CHUNKS / THREADS;  // chunks of a thread
    static constexpr int BELOW = THREADS / CHUNKS;       // rows from one of them to the next
    static_assert(ROWS * CHUNKS % THREADS == 0, "every thread has as many chunks");
    static_assert(BELOW % 8 == 0, "they lie below each other, swizzled likewise");
    static constexpr bool COPIES = LOAD == COPY || LOAD == COPY_ACROSS;
    static constexpr int CODES = COPIES ? 1 : OWN, SCALES = has_scales(LOAD) ? OWN : 1;
    static constexpr bool HALVES = decodes_fp4(LOAD) || LOAD == WIDEN_E2M1;  // of bytes are elements

    const Source& source;
    const Index& index;
    int units;
    // Where a thread's first row begins, bytes to the next one, and how many there are. Rows beyond the
    // matrix are one of it once more: nobody asks for those sums.
    const u8* first;
    i64 step;
    int count;
    const u8* scales[SCALES] = {};  // of its rows
    Fetched fetched[CODES];
    RaisedFp4 raised_fp4;

    __device__ Loader(const Source& source, const Index& index, int units)
        : source(source), index(index), units(units), first(kept(source.row(there(0)))),
          step(index.below(BELOW) * source.matrix.row), count(0), raised_fp4(threadIdx.z) {
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            count += index[local(i)] >= 0;
            if (!has_scales(LOAD)) continue;
            scales[i] = kept(source.scale_data + source.scales.index(there(i), 0));
        }
    }

    __device__ static int chunk() { return threadIdx.x % CHUNKS; }
    __device__ static int local(int i) { return threadIdx.x / CHUNKS + i * BELOW; }

    // A row that is there.
    __device__ int there(int i) const {
        const int row = index[local(i)];
        return row < 0 ? index[0] : row;
    }

    // Reads what can not be copied.
    __device__ void fetch(int slice) {
        if (COPIES) return;
        const u32 at = (slice * SLICE + chunk() * CHUNK) / (u32)UNIT;
        // Rows of FP4 are padded with zero codes to whole blocks.
        const bool there = (int)(HALVES ? at : at + 7) < units;
        const u8* row = first;
        const int rows = kept(count);
        if (LOAD != GATHER && source.matrix.words && there) {
            row += HALVES ? at / 2 : at;
            const i64 scale = source.scales.along(at / scaled_by(LOAD));
#pragma unroll
            for (int i = 0; i < CODES; i++) {
                source.fetch_words<LOAD>(fetched[i], row);
                if (has_scales(LOAD)) fetched[i].scale = scales[i][scale];
                if (i + 1 < rows) row += step;
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < CODES; i++) {
            fetched[i] = source.fetch<LOAD>(row, scales[has_scales(LOAD) ? i : 0], at, units);
            if (i + 1 < rows) row += step;
        }
    }

    // Copies a chunk of eight rows at one k.
    __device__ void copy_across(u8* tile, int slice, int i) const {
        constexpr int EIGHTS = ROWS / 8;
        // Found anew for each slice: registers are short.
        const u32 own = kept(threadIdx.x) + i * THREADS;
        int eight = own % EIGHTS, k = own / EIGHTS;
        int at = slice * SLICE / UNIT + k;
        int valid = at < units ? index.run(8 * eight) * UNIT : 0;
        const u8* from = source.data;
        if (valid) from += index[8 * eight] * source.matrix.row + at * source.matrix.col;
        copy_async_16(shared_address(tile + swizzled_across<ROWS>(k, eight)), from, valid);
    }

    // Copies a slice, or puts the one that was fetched last.
    __device__ void put(u8* tile, int slice) const {
        const int byte = slice * SLICE + chunk() * CHUNK;
        const bool inside = byte < units * UNIT;
        const u8* from = inside ? first + byte : source.data;
        u8* const own = tile + swizzled(local(0), chunk());
        const int rows = COPIES ? kept(count) : 0;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            u8* to = own + i * BELOW * SLICE;
            if (LOAD == COPY_ACROSS)
                copy_across(tile, slice, i);
            else if (COPIES)
                copy_async_16(shared_address(to), from, inside ? CHUNK : 0);
            else
                *(uint4*)to = decoded<LOAD>(fetched[i], raised_fp4);
            if (i + 1 < rows) from += step;
        }
    }
};

// Brings WORDS words of four block scales of each of ROWS rows to shared memory, by THREADS threads
// of which this is `thread`; zeros beyond the matrix.
template <int ROWS, int WORDS, int THREADS>
struct ScaleLoader {
    static constexpr int OWN = (ROWS * WORDS + THREADS - 1) / THREADS;  // words of a thread

    const Scales& scales;
    const u8* from[OWN];
    int step;  // bytes from a word to the next one
    int thread;

    template <typename Index>
    __device__ ScaleLoader(const Source& source, const Index& index, int thread)
        : scales(source.scales), step(source.scales.tiled ? 512 : 4), thread(thread) {
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            int row = own(i) ? index[at(i) / WORDS] : -1;
            from[i] = row < 0 ? 0 : source.scale_data + scales.index(row, 0);
        }
    }

    __device__ int at(int i) const { return thread + i * THREADS; }
    __device__ bool own(int i) const { return ROWS * WORDS % THREADS == 0 || at(i) < ROWS * WORDS; }

    // Copies the words of a row from word `first` on, all of which are there.
    __device__ void copy(u32 tile, u32 first) const {
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            if (!own(i)) continue;
            const u32 word = first + at(i) % WORDS;
            copy_async_4(tile + at(i) * 4, from[i] + (unsigned long long)word * (u32)step, 4);
        }
    }

    // The words of a row from word `first` on.
    __device__ void put(u32* tile, int first) const {
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            if (!own(i)) continue;
            int word = first + at(i) % WORDS;
            const u8* at_word = from[i] + (i64)word * step;
            if (SCALE_WORDS) {
                bool inside = from[i] && 4 * word < scales.row_scales;
                copy_async_4(shared_address(tile + at(i)), inside ? at_word : scales.data,
                             inside ? 4 : 0);
                continue;
            }
            int valid = from[i] ? max(0, min(4, scales.row_scales - 4 * word)) : 0;
            u32 bits = 0;
            for (int j = 0; j < valid; j++) bits |= (u32)at_word[j] << 8 * j;
            tile[at(i)] = bits;
        }
    }
};
