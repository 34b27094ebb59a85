// residual + f(alpha * t + beta * c + bias), and its store: what stands behind a matrix product.
#pragma once

#include "numbers.cuh"

// A matrix of each batch index; strides in bytes. Null where it is left out.
struct Matrix {
    u8* data;
    i64 batch[4];
    i64 row, col;
    int dtype;
    int words;   // of codes: whether four bytes along a row are an aligned word
    int eights;  // of elements: whether those along a row are contiguous, eight of them aligned
    int reserved;

    __device__ u8* of_batch(const int (&index)[4]) const {
        u8* at = data;
        for (int i = 0; i < 4; i++) at += index[i] * batch[i];
        return at;
    }
};

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
    Matrix c, bias, residual, d;
    float alpha, beta;
    int activation;
    int gated;  // D's column j is f(t[j]) * t[j + columns of D]
};

// The operands of one matrix of the batch.
struct EpilogueOf {
    const Epilogue& e;
    const u8 *c, *bias, *residual;
    u8* d;

    __device__ EpilogueOf(const Epilogue& e, const int (&batch)[4])
        : e(e), c(e.c.of_batch(batch)), bias(e.bias.of_batch(batch)),
          residual(e.residual.of_batch(batch)), d(e.d.of_batch(batch)) {}

    // What the activation is applied to, at a row and a column of B.
    __device__ float before(float t, int row, int col) const {
        t *= e.alpha;
        if (e.c.data) t += e.beta * load(e.c.dtype, c + row * e.c.row + col * e.c.col);
        if (e.bias.data) t += load(e.bias.dtype, bias + col * e.bias.col);
        return t;
    }

    // The result from what the activation gave, at a row and a column of D.
    __device__ float after(float x, int row, int col) const {
        if (!e.residual.data) return x;
        return x + load(e.residual.dtype, residual + row * e.residual.row + col * e.residual.col);
    }

    __device__ float plain(float t, int row, int col) const {
        return after(activate(e.activation, before(t, row, col)), row, col);
    }

    // From the gate and from what stands `up` columns behind it.
    __device__ float pair(float gate, float value, int row, int col, int up) const {
        float f = activate(e.activation, before(gate, row, col));
        return after(f * before(value, row, col + up), row, col);
    }

    __device__ void put(float x, int row, int col) const {
        store(e.d.dtype, d + row * e.d.row + col * e.d.col, x);
    }
};
