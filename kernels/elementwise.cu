// out = f(a) or f(a, b), element by element, sizes broadcast.
//
// A block a piece of a row of out, eight elements a thread. FUNCTION and ACTIVATION name f.
// Limited by memory: reads a and b, writes out.
#ifdef CODE
#include "quantize.cuh"
#else
#include "rows.cuh"
#endif

// Functions, by the numbers that the host gives them.
enum Function {
    NEG, ABS, EXP, LN, SQRT, RSQRT, RECIP, TANH, SIGMOID, ACTIVATE, AFFINE,
    ADD, SUB, MUL, DIV, MAX, MIN, GATE
};

struct Args {
    Matrix a, b, out;
    RowSizes sizes;
    Pieces pieces;
    int n;
    float scale, shift;
    int reserved;
#ifdef CODE
    Blocks to;  // instead of out
#endif
};

__device__ inline float evaluate(const Args& args, float x, float y) {
    switch (FUNCTION) {
        case NEG: return -x;
        case ABS: return fabsf(x);
        case EXP: return expf(x);
        case LN: return logf(x);
        case SQRT: return sqrtf(x);
        case RSQRT: return 1.0f / sqrtf(x);
        case RECIP: return 1.0f / x;
        case TANH: return tanhf(x);
        case SIGMOID: return 1.0f / (1.0f + expf(-x));
        case ACTIVATE: return activate(ACTIVATION, x);
        case AFFINE: return args.scale * x + args.shift;
        case ADD: return x + y;
        case SUB: return x - y;
        case MUL: return x * y;
        case DIV: return x / y;
        case MAX: return maximum(x, y);
        case MIN: return -maximum(-x, -y);
        default: return activate(ACTIVATION, x) * y;
    }
}

// Eight elements of a row of the result.
__device__ inline void evaluate(const Args& args, int row, int at, float (&x)[EIGHT]) {
    float y[EIGHT] = {};
    Row(args.a, args.sizes, row).read(at, args.n, x);
    if (FUNCTION >= ADD) Row(args.b, args.sizes, row).read(at, args.n, y);
#pragma unroll
    for (int i = 0; i < EIGHT; i++) x[i] = evaluate(args, x[i], y[i]);
}

#ifndef CODE
extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void elementwise(
    const __grid_constant__ Args args) {
    const int row = args.pieces.row(), at = args.pieces.begin();
    if (at >= args.n) return;
    float x[EIGHT];
    evaluate(args, row, at, x);
    Row(args.out, args.sizes, row).write(at, args.n, x);
}
#else
// Zeros behind the end of a row.
__device__ inline void values(const Args& args, int row, int at, float (&x)[EIGHT]) {
    evaluate(args, row, at, x);
#pragma unroll
    for (int i = 0; i < EIGHT; i++)
        if (at + i >= args.n) x[i] = 0.0f;
}

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void quantize_values(
    const __grid_constant__ Args args) {
    float x[EIGHT];
    values(args, args.pieces.row(), args.pieces.begin(), x);
    quantize(args.to, args.pieces.row(), args.pieces.begin(), x);
    if (blockIdx.x % args.pieces.of_row == 0) clear_padding(args.to, args.pieces.row());
}
#endif
