// Tiles of keys and values of one head on their way to shared memory, and which of them a query
// sees.
//
// A tile has KEYS rows of elements that are multiplied, each 16 bytes longer than what it holds:
// eight rows of one chunk are in different banks, whatever the head size.
#pragma once

#include "key_runs.cuh"
#include "load.cuh"

// Keys from position - window + 1 to position + ahead, and below `end`.
struct Mask {
    int ahead, window, end;

    __device__ int first(int position) const { return position + 1 - window; }
    __device__ int last(int position) const { return min(end, position + 1 + ahead); }
    __device__ bool sees(int position, int key) const {
        return key >= first(position) && key < last(position);
    }
};

// Bytes from one row of a tile to the next.
__device__ constexpr int pitch(int width) { return width * UNIT + CHUNK; }

// Loads the tiles of keys, or of values, of one head: WIDTH elements a row, zeros beyond
// those that there are.
template <int WIDTH, int LOAD, int KEYS, int THREADS>
struct KeyLoader {
    static constexpr int IN_CHUNK = CHUNK / UNIT;  // elements
    static constexpr int ROW = WIDTH / IN_CHUNK;  // chunks
    // Threads take as many whole rows at a time as they can, so that a thread's chunks are of one column.
    static constexpr int BELOW = THREADS / ROW, OWN = (KEYS + BELOW - 1) / BELOW;
    static constexpr int PITCH = pitch(WIDTH);
    // Of what is decoded, codes of a byte, and elements that share a scale.
    static constexpr int IN_BYTE = decodes_fp4(LOAD) ? 2 : 1, SCALED = scaled_by(LOAD);
    // Chunks that registers hold: all of a tile, if they can, while another is multiplied.
    static constexpr int HELD = OWN <= (WIDTH <= 128 ? 8 : 4) ? OWN : 4;

    const Matrix& matrix;
    const Scales& scales;
    const KeyRuns& runs;
    int head, width, end;
    Fetched fetched[LOAD == COPY ? 1 : HELD];

    __device__ KeyLoader(const Matrix& matrix, const Scales& scales, const KeyRuns& runs, int head,
                         int width, int end)
        : matrix(matrix), scales(scales), runs(runs), head(head), width(width), end(end) {}

    // Calls with COUNT of this thread's chunks, from one on: number, row and place in the row.
    template <int COUNT, typename Each>
    __device__ static void chunks(int from, Each each) {
        if (THREADS % ROW && threadIdx.x >= BELOW * ROW) return;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int row = threadIdx.x / ROW + (from + i) * BELOW;
            if (KEYS % (COUNT * BELOW) == 0 || row < KEYS) each(i, row, threadIdx.x % ROW);
        }
    }

    __device__ Source source(int key) const {
        Run run = runs[key];
        const int batch[4] = {0, 0, run.outer, run.inner};
        return Source(matrix, scales, batch);
    }

    // Whether a tile is all there, of one run: so its rows are equally far apart.
    __device__ bool is_regular(int first) const {
        return width == WIDTH && first + KEYS <= end && runs.hold(first, KEYS);
    }

    // A thread's first row.
    __device__ static int top(int from) { return threadIdx.x / ROW + from * BELOW; }

    __device__ void fetch_regular(int first, int from) {
        const Source source = this->source(first);
        const int at = threadIdx.x % ROW * IN_CHUNK;
        const u8* codes = source.row(head) + top(from) * matrix.batch[3] + at / IN_BYTE;
        const u8* scale = source.scale_data + scales.index(head, at / SCALED) +
                          top(from) * scales.batch[3];
        chunks<HELD>(from, [&](int i, int, int) {
            fetched[i].words[0] = *(const u32*)codes;
            if (IN_BYTE == 1) fetched[i].words[1] = *(const u32*)(codes + 4);
            if (has_scales(LOAD)) fetched[i].scale = *scale;
            codes += BELOW * matrix.batch[3];
            scale += BELOW * scales.batch[3];
        });
    }

    __device__ void fetch(int first, int from) {
        if (LOAD >= DECODE_E4M3 && HELD == OWN && matrix.words && is_regular(first)) {
            fetch_regular(first, from);
            return;
        }
        chunks<HELD>(from, [&](int i, int row, int chunk) {
            int key = first + row;
            fetched[i] = {};
            if (key < end)
                fetched[i] = source(key).template fetch<LOAD>(head, chunk * IN_CHUNK, width);
        });
    }

    __device__ void store(u8* tile, int from) const {
        chunks<HELD>(from, [&](int i, int row, int chunk) {
            *(uint4*)(tile + row * PITCH + chunk * CHUNK) = decoded<LOAD>(fetched[i]);
        });
    }

    __device__ void copy_regular(u8* tile, int first) const {
        const u8* from = source(first).row(head) + top(0) * matrix.batch[3];
        from += threadIdx.x % ROW * CHUNK;
        chunks<OWN>(0, [&](int, int row, int chunk) {
            copy_async_16(shared_address(tile + row * PITCH + chunk * CHUNK), from, CHUNK);
            from += BELOW * matrix.batch[3];
        });
    }

    __device__ void copy(u8* tile, int first) const {
        if (is_regular(first)) {
            copy_regular(tile, first);
            return;
        }
        chunks<OWN>(0, [&](int i, int row, int chunk) {
            int key = first + row;
            const u8* from = matrix.data;
            int valid = key < end ? max(0, min(CHUNK, width * UNIT - chunk * CHUNK)) : 0;
            if (valid) {
                Run run = runs[key];
                from += run.outer * matrix.batch[2] + run.inner * matrix.batch[3] +
                        head * matrix.row + chunk * CHUNK;
            }
            copy_async_16(shared_address(tile + row * PITCH + chunk * CHUNK), from, valid);
        });
    }

    // Begins to bring the tile that begins with this key: copies it, or reads what registers hold.
    __device__ void begin(u8* tile, int first) {
        if (first >= end) return;
        if (LOAD == COPY) {
            copy(tile, first);
        } else if (HELD == OWN) {
            fetch(first, 0);
        }
    }

    // Puts what is not copied.
    __device__ void complete(u8* tile, int first) {
        if constexpr (LOAD != COPY && HELD == OWN) {
            if (first < end) store(tile, 0);
        } else if constexpr (LOAD != COPY) {
            if (first >= end) return;
#pragma unroll 1
            for (int from = 0; from < OWN; from += HELD) {
                fetch(first, from);
                store(tile, from);
            }
        }
    }

    // What the scores of a key are multiplied with.
    __device__ float factor(int key) const {
        if (key >= end) return 0.0f;
        return has_scales(LOAD) ? scales.whole() : source(key).factor(head, 0);
    }
};
