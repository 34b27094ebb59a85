// NVFP4 keys and values of one head on their way to shared memory as they are: codes, and words of
// four scales behind them.
//
// A warp has WARP_KEYS keys of a tile by itself. Lane 4g + t multiplies of keys that are g of a fragment
// each fourth block, from t on; of values that are t and t + 4 of eight, block g or half of it. Chunks are
// swizzled by pairs, so that what lanes read at once is in different banks (not so keys of 64 elements).
#pragma once

#include "keys.cuh"
#include "weights.cuh"

constexpr int EIGHTS = WARP_KEYS / 8;

// IN_CHUNKS says whether codes are in aligned chunks and scales in aligned words.
template <int WIDTH>
struct CodeLoader {
    static constexpr int ROW = WIDTH / 2, PIECES = ROW / CHUNK, WORDS = WIDTH / 64;
    static constexpr int CODES = WARP_KEYS * ROW, SIZE = CODES + WARP_KEYS * WORDS * 4;
    // A lane's chunks, and its words of scales, are so many keys below each other.
    static constexpr int BELOW = 32 / PIECES, WORD_BELOW = 32 / WORDS;
    static_assert(WIDTH == 64 || WIDTH == 128, "whole words, and no more than registers hold sums of");

    // From a run to a lane's first chunk, and to its first word of scales; and where those go.
    struct Begin {
        const u8 *codes, *words;
        u32 chunk, word;
    };

    const Matrix& matrix;
    const Scales& scales;
    int head, width;
    Begin own;

    __device__ CodeLoader(const Matrix& matrix, const Scales& scales, int head, int width)
        : matrix(matrix), scales(scales), head(head), width(width) {
        if (!FEW_ROWS) return;
        own = begin();
        own = {kept(own.codes), kept(own.words), kept(own.chunk), kept(own.word)};
    }

    __device__ Begin begin() const {
        // Of more rows, registers are short: compilers are not to find it once.
        const int lane = kept(threadIdx.x % 32);
        return {matrix.data + head * matrix.row + lane % PIECES * CHUNK +
                    lane / PIECES * matrix.batch[3],
                scales.data + scales.index(head, lane % WORDS * 4) + lane / WORDS * scales.batch[3],
                place(lane / PIECES, lane % PIECES), place_of_scales(lane / WORDS, lane % WORDS)};
    }

    // Where a chunk of codes lies. Eight keys further is eight rows further.
    __device__ static u32 place(int key, int piece) {
        const int swizzle = ROW % 64 == 0 ? (key / 2 ^ key / 4) % 2 * 2 : 0;
        return key * ROW + (piece ^ swizzle) * CHUNK;
    }

    // Where a word of scales lies; behind it that of the key after the next seven.
    __device__ static u32 place_of_scales(int key, int word) {
        return CODES + ((key % 8 * WORDS + word) * EIGHTS + key / 8) * 4;
    }

    __device__ static i64 offset(const Run& run, const i64 (&batch)[4]) {
        return (i64)(u32)run.outer * batch[2] + (i64)(u32)run.inner * batch[3];
    }

    // Begins to bring neighbours, all of which are there.
    __device__ void copy(u32 to, const Run& run) const {
        const Begin begin = FEW_ROWS ? own : this->begin();
        const u8* from = begin.codes + offset(run, matrix.batch);
#pragma unroll
        for (int i = 0; i < WARP_KEYS / BELOW; i++, from += BELOW * matrix.batch[3])
            copy_async_16(to + begin.chunk + i * BELOW * ROW, from, CHUNK);
        from = begin.words + offset(run, scales.batch);
#pragma unroll
        for (int i = 0; i < WARP_KEYS / WORD_BELOW; i++, from += WORD_BELOW * scales.batch[3])
            copy_async_4(to + begin.word + i * WORD_BELOW / 8 * 4, from, 4);
    }

    // The same of keys that may be apart, zeros from some number of them on.
    __device__ void gather(u32 to, const KeyRuns& runs, int first, int count) const {
        const int lane = threadIdx.x % 32, piece = lane % PIECES, word = lane % WORDS;
        const int blocks = (width + 15) / 16;
        auto source = [&](int key) {
            const Run run = runs[first + key];
            const int batch[4] = {0, 0, run.outer, run.inner};
            return Source(matrix, scales, batch);
        };
#pragma unroll
        for (int i = 0; i < WARP_KEYS / BELOW; i++) {
            const int key = lane / PIECES + i * BELOW;
            const u8* from = key < count ? source(key).row(head) + piece * CHUNK : 0;
            if (IN_CHUNKS)
                copy_async_16(to + place(key, piece), from ? from : matrix.data, from ? CHUNK : 0);
            else
                put_bytes(to + place(key, piece), CHUNK, from ? blocks * 8 - piece * CHUNK : 0,
                          [&](int i) { return from[i]; });
        }
#pragma unroll
        for (int i = 0; i < WARP_KEYS / WORD_BELOW; i++) {
            const int key = lane / WORDS + i * WORD_BELOW;
            const u8* from = key < count ? source(key).scale_data : 0;
            if (IN_CHUNKS)
                copy_async_4(to + place_of_scales(key, word),
                             from ? from + scales.index(head, 4 * word) : scales.data, from ? 4 : 0);
            else
                put_bytes(to + place_of_scales(key, word), 4, from ? blocks - 4 * word : 0,
                          [&](int i) { return from[scales.index(head, 4 * word + i)]; });
        }
    }

    // Puts bytes, zeros from some number of them on.
    template <typename Byte>
    __device__ static void put_bytes(u32 to, int count, int valid, Byte byte) {
#pragma unroll 1
        for (int i = 0; i < count; i++) shared_pointer(to)[i] = i < valid ? byte(i) : 0;
    }
};
