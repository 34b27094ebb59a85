// Factors of sums of FOLD elements along k: what scales that instructions know nothing of become.
//
// A slice's factors lie in shared memory behind its elements: those of A's rows, then those of B's
// columns, of each FOLD elements in turn. FACTORS says which there are: 1 for A's, 2 for B's.
#pragma once

#include "load.cuh"

constexpr int FOLDS = FOLD ? SLICE / UNIT / FOLD : 0;  // in a slice

// Bytes of a slice's factors, for an operand of so many rows.
__device__ constexpr int factor_bytes(int operand, int rows) {
    return FACTORS & operand ? rows * FOLDS * 4 : 0;
}

// Brings the factors of ROWS rows to shared memory, by THREADS threads of which this is `thread`:
// read long before they are put there. Behind k they are 0, of rows beyond the matrix those of the
// tile's first one.
template <int ROWS, int THREADS>
struct FactorLoader {
    static constexpr int OWN = (ROWS * FOLDS + THREADS - 1) / THREADS;  // factors of a thread

    const Scales& scales;
    int thread, units;
    const u8* from[OWN];  // where those of a row begin
    float fetched[OWN];

    template <typename Index>
    __device__ FactorLoader(const Source& source, const Index& index, int units, int thread)
        : scales(source.scales), thread(thread), units(units) {
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int row = index[at(i) % ROWS];
            from[i] = source.scale_data + scales.row_factors(row < 0 ? index[0] : row);
        }
    }

    // Found anew each time: what follows from it would stay in registers throughout the tiles.
    __device__ int at(int i) const { return kept(thread) + i * THREADS; }
    __device__ bool own(int i) const { return ROWS * FOLDS % THREADS == 0 || at(i) < ROWS * FOLDS; }

    __device__ void fetch(int slice) {
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int first = slice * FOLDS * FOLD + at(i) / ROWS * FOLD;
            if (own(i)) fetched[i] = first < units ? scales.factor(from[i], 0, first) : 0.0f;
        }
    }

    __device__ void put(float* to) const {
#pragma unroll
        for (int i = 0; i < OWN; i++)
            if (own(i)) to[at(i)] = fetched[i];
    }
};

// Whether products of any two of these and of those can be rounded to f32 by themselves.
template <int M, int N>
__device__ inline bool are_moderate(const float (&of_rows)[M], const float (&of_cols)[N]) {
    float least = fabsf(of_rows[0]), most = least;
#pragma unroll
    for (int i = 1; i < M; i++) {
        least = fminf(least, fabsf(of_rows[i]));
        most = fmaxf(most, fabsf(of_rows[i]));
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
        least = fminf(least, fabsf(of_cols[j]));
        most = fmaxf(most, fabsf(of_cols[j]));
    }
    return least >= 0x1p-63f && most <= 0x1p63f;
}

// What x, a sum, is multiplied with: the product of two factors. Where that is not moderate, x becomes
// what it would be, and is multiplied with 1.
__device__ inline float factor_with_care(float& x, float of_row, float of_col) {
    const float product = of_row * of_col;
    x = is_moderate(product) ? x : scaled(x, of_row, of_col);
    return is_moderate(product) ? product : 1.0f;
}
