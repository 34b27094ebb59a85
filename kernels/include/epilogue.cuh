// residual + f(alpha * t * column_scale + beta * c + bias), and its store: what stands behind a matrix
// product.
#pragma once

#include "row.cuh"

// Activations, by the numbers that the host gives them.
enum Activation { IDENTITY = 0, RELU = 1, SILU = 2, GELU = 3, GELU_TANH = 4 };

__device__ inline float activate(int f, float x) {
    switch (f) {
        case RELU: return x < 0.0f ? 0.0f : x;  // NaN stays
        case SILU: return x / (1.0f + expf(-x));
        case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
        case GELU_TANH:
            return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
        default: return x;
    }
}

struct Epilogue {
    Matrix column_scale, c, bias, residual, d;
    float alpha, beta;
    int activation;
    int gated;  // D's column j is f(t[j]) * t[j + columns of D]
};

// The operands of one matrix of the batch.
struct EpilogueOf {
    const Epilogue& e;
    const u8 *column_scale, *c, *bias, *residual;
    u8* d;

    __device__ EpilogueOf(const Epilogue& e, const int (&batch)[4])
        : e(e), column_scale(e.column_scale.of_batch(batch)), c(e.c.of_batch(batch)),
          bias(e.bias.of_batch(batch)), residual(e.residual.of_batch(batch)), d(e.d.of_batch(batch)) {}

    // t to what the activation is applied to, of eight columns of B from `col` to `end`.
    __device__ void before(float (&t)[EIGHT], int row, int col, int end) const {
        float x[EIGHT];
        if (e.column_scale.data) {
            const Row scale(e.column_scale, column_scale, 0, col);
            each(t, [&](float y, int i) { return col + i < end ? y * scale[col + i] : y; });
        }
#pragma unroll
        for (int i = 0; i < EIGHT; i++) t[i] *= e.alpha;
        if (e.c.data) {
            Row(e.c, c, row, col).read(col, end, x);
#pragma unroll
            for (int i = 0; i < EIGHT; i++) t[i] += e.beta * x[i];
        }
        if (e.bias.data) {
            Row(e.bias, bias, 0, col).read(col, end, x);
#pragma unroll
            for (int i = 0; i < EIGHT; i++) t[i] += x[i];
        }
    }

    __device__ void activated(float (&x)[EIGHT]) const {
        if (e.activation != IDENTITY) each(x, [&](float y, int) { return activate(e.activation, y); });
    }

    // What the activation gave to the result, in columns of D.
    __device__ void after(float (&x)[EIGHT], int row, int col, int end) const {
        if (!e.residual.data) return;
        float y[EIGHT];
        Row(e.residual, residual, row, col).read(col, end, y);
#pragma unroll
        for (int i = 0; i < EIGHT; i++) x[i] += y[i];
    }

    __device__ void put(const float (&x)[EIGHT], int row, int col, int end) const {
        Row(e.d, d, row, col).write(col, end, x);
    }
};
