// (out[a], out[b]) = amplitude * (x[a] cos - x[b] sin, x[b] cos + x[a] sin) for the pairs of a
// head; the angle is position * frequency.
//
// A warp a head, its lanes over the pairs; elements behind the pairs pass as they are. The angle
// is taken in half turns, in f64, of which whole turns fall away exactly: what is rounded to f32
// is at most half a turn.
// Limited by memory: reads x, writes out.
#define THREADS 32
#include "index.cuh"
#include "rows.cuh"

constexpr int MOST_PAIRS = 256;

struct Args {
    Matrix x, out;
    Matrix positions;  // a position for each head: its columns are not looked at
    RowSizes sizes;
    int n;
    int pairs;
    int step, apart;  // the elements of pair i are i * step and that plus `apart`
    float amplitude;
    i64 start;  // without positions: of the first of the sequence
    double half_turns[MOST_PAIRS];  // of each pair from one position to the next
};

extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void rope(const __grid_constant__ Args args) {
    const int row = blockIdx.x;
    const Row x(args.x, args.sizes, row), out(args.out, args.sizes, row);
    const int in_sequence = row / args.sizes.of[4] % args.sizes.of[3];
    const double position =
        args.positions.data
            ? (double)load_index(args.positions.dtype, args.sizes.row(args.positions, row))
            : (double)(args.start + in_sequence);
    for (int i = threadIdx.x; i < args.pairs; i += THREADS) {
        double half_turns = position * args.half_turns[i];
        half_turns -= 2.0 * rint(0.5 * half_turns);
        float sin, cos;
        sincospif((float)half_turns, &sin, &cos);
        const int first = i * args.step, second = first + args.apart;
        const float a = x[first], b = x[second];
        out.set(first, args.amplitude * (a * cos - b * sin));
        out.set(second, args.amplitude * (b * cos + a * sin));
    }
    for (int i = 2 * args.pairs + threadIdx.x; i < args.n; i += THREADS) out.set(i, x[i]);
}
