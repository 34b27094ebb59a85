// out = f(a) or f(a, b), element by element, sizes broadcast.
//
// A block a row of out, its threads over the columns.
// Limited by memory: reads a and b, writes out.
#include "rows.cuh"

// Functions, by the numbers that the host gives them.
enum Function {
    NEG, ABS, EXP, LN, SQRT, RSQRT, RECIP, TANH, SIGMOID, ACTIVATION, AFFINE,
    ADD, SUB, MUL, DIV, MAX, MIN, GATE
};

struct Args {
    Matrix a, b, out;
    RowSizes sizes;
    int n;
    int function, activation;
    float scale, shift;
};

// NaN if either is; +0 is larger than -0.
__device__ inline float maximum(float x, float y) {
    if (isnan(x) || isnan(y)) return x + y;
    if (x == y) return __uint_as_float(__float_as_uint(x) & __float_as_uint(y));
    return x > y ? x : y;
}

__device__ inline float evaluate(const Args& args, float x, float y) {
    switch (args.function) {
        case NEG: return -x;
        case ABS: return fabsf(x);
        case EXP: return expf(x);
        case LN: return logf(x);
        case SQRT: return sqrtf(x);
        case RSQRT: return 1.0f / sqrtf(x);
        case RECIP: return 1.0f / x;
        case TANH: return tanhf(x);
        case SIGMOID: return 1.0f / (1.0f + expf(-x));
        case ACTIVATION: return activate(args.activation, x);
        case AFFINE: return args.scale * x + args.shift;
        case ADD: return x + y;
        case SUB: return x - y;
        case MUL: return x * y;
        case DIV: return x / y;
        case MAX: return maximum(x, y);
        case MIN: return -maximum(-x, -y);
        default: return activate(args.activation, x) * y;
    }
}

extern "C" __global__ __launch_bounds__(THREADS) void elementwise(
    const __grid_constant__ Args args) {
    const Row a(args.a, args.sizes, blockIdx.x), b(args.b, args.sizes, blockIdx.x);
    const Row out(args.out, args.sizes, blockIdx.x);
    for (int col = threadIdx.x; col < args.n; col += THREADS)
        out.set(col, evaluate(args, a[col], args.b.data ? b[col] : 0.0f));
}
