// Values to codes and scales of a block format, eight values a lane, to the bit as
// src/format/{codec,scale}.rs have them, where the arithmetic is explained.
//
// CODE names the codes' type, SCALE that of the scales, RULE how scales are chosen. BLOCK is how
// many values of a row share a scale; 0 where they are too many for a warp, or of several rows: then
// their largest magnitude is found in a run before.
#pragma once

#include "blocks.cuh"
#include "index.cuh"

enum ScaleType { SCALE_E8M0, SCALE_UE4M3, SCALE_F32 };
enum Rule { RULE_AMAX, RULE_OCP, RULE_OCP_CEIL, RULE_FOUR_OVER_SIX, RULE_MSE };

constexpr int LANES = BLOCK ? BLOCK / EIGHT : 1;  // that share a scale
constexpr bool IS_E5M2 = CODE == E5M2;
constexpr float CODE_MAX = CODE == E2M1 ? 6.0f : IS_E5M2 ? 57344.0f : 448.0f;
constexpr float TOP_STEP = IS_E5M2 ? 8192.0f : 32.0f;  // between the largest FP8 codes
constexpr int CODE_EXPONENT = CODE == E2M1 ? 2 : IS_E5M2 ? 15 : 8;
constexpr float LEAST_SCALE = 1.17549435e-38f;

struct Blocks {
    u8* codes;
    Scales scales;  // which are written
    float* tensor;  // likewise
    u32* amax;      // bits of the largest magnitude: of the tensor for UE4M3, else of each block
    unsigned long long* wrong;
    i64 of_matrix;  // bytes of the scales of a matrix
    int n, rows;    // of a matrix
    int row_bytes;
    int scale_rows;
    int words;      // whether the codes of eight values are aligned
    int max_code;   // of UE4M3
    float fixed;    // a tensor scale that was given, or 0
    int looks;      // only for the largest magnitudes, before it is quantised

    // Mostly there is only one, which is found without dividing.
    __device__ int matrix_of(int row) const { return row < rows ? 0 : row / rows; }
};

struct Scale {
    float value;
    u8 byte;
};

__device__ inline int block_of(const Blocks& to, int row, int at) {
    return (row / to.rows * to.scale_rows + row % to.rows / to.scales.rows) * to.scales.row_scales +
           at / to.scales.cols;
}

// The bits of the largest magnitude; reports what no block format holds.
__device__ inline u32 largest(const Blocks& to, int row, int at, const float (&x)[EIGHT]) {
    u32 bits = 0;
#pragma unroll
    for (int i = EIGHT - 1; i >= 0; i--) {
        u32 magnitude = __float_as_uint(x[i]) & 0x7FFFFFFFu;
        if (magnitude >= 0x7F800000u) report(to.wrong, (i64)row * to.n + at + i);
        bits = max(bits, magnitude);
    }
    return bits;
}

// Notes the largest magnitude of what shares a scale, for when it is quantised after.
__device__ inline void note(const Blocks& to, int row, int at, const float (&x)[EIGHT]) {
    u32 bits = largest(to, row, at, x);
    // 128 values: no block is shorter that needs this.
    for (int lanes = 8; lanes; lanes /= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, lanes));
    if (threadIdx.x % 16 == 0 && at < to.n)
        atomicMax(to.amax + (SCALE == SCALE_UE4M3 ? 0 : block_of(to, row, at)), bits);
}

__device__ inline float f32_scale(float amax, float max) {
    return amax == 0.0f ? 1.0f : fmaxf(__fdiv_rn(amax, max), LEAST_SCALE);
}

template <bool FP8_E5M2>
__device__ inline u8 fp8_of(float x) {
#if __CUDA_ARCH__ >= 890
    return FP8_E5M2 ? e5m2_of(x) : e4m3_of(x);
#else
    return 0;
#endif
}

// The FP8 code nearest to x / (a * b), of magnitude `limit` at most: by an estimate of the quotient
// within some units of its last place, where that is far enough from where codes change.
template <bool FP8_E5M2>
__device__ inline u8 nearest(float x, float estimate, float a, float b, float limit) {
    constexpr int DROPPED = FP8_E5M2 ? 21 : 20;
    constexpr float NORMAL = FP8_E5M2 ? 6.103515625e-5f : 0.015625f;
    if (x == 0.0f) return fp8_of<FP8_E5M2>(x);
    int from_tie = (__float_as_uint(estimate) & ((1u << DROPPED) - 1)) - (1u << (DROPPED - 1));
    if (fabsf(estimate) >= NORMAL && abs(from_tie) > 8) return fp8_of<FP8_E5M2>(estimate);
    double quotient = (double)x / ((double)a * b);
    return fp8_of<FP8_E5M2>(to_odd(fmin(fmax(quotient, (double)-limit), (double)limit)));
}

// The least f32 that is past the midpoint ms * g; 0 has none.
__device__ inline float past(float ms, float g, bool tie_up) {
    if (ms == 0.0f) return INFINITY;
    float rounded = ms * g;
    bool reached;
    if (rounded >= 1e-30f && rounded <= 3e38f) {
        float lost = fmaf(ms, g, -rounded);
        reached = lost < 0.0f || tie_up && lost == 0.0f;
    } else {
        double exact = (double)ms * g;
        rounded = (float)exact;
        reached = rounded > exact || tie_up && rounded == exact;
    }
    return reached ? rounded : __uint_as_float(__float_as_uint(rounded) + 1);
}

// Values to codes, in units of scale * g.
struct Encoder {
    float scale, g;
    float inverse;        // of the scale; NaN where it says nothing
    float limit;
    float thresholds[7];

    __device__ Encoder(float scale, float g) : scale(scale), g(g), limit(CODE_MAX) {
        if (CODE == E2M1) {
            const float midpoints[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
#pragma unroll
            for (int i = 0; i < 7; i++) thresholds[i] = past(midpoints[i] * scale, g, i % 2 == 1);
            return;
        }
        inverse = 1.0f / scale;
        if (SCALE == SCALE_E8M0 || scale >= LEAST_SCALE && scale <= 1e30f) return;
        inverse = __uint_as_float(0x7FC00000u);
        // The largest code whose value is an f32.
        for (int code = IS_E5M2 ? 0x7B : 0x7E; code > 0; code--) {
            limit = IS_E5M2 ? f32_of_e5m2((u8)code) : f32_of_e4m3((u8)code);
            if ((double)limit * scale <= 3.4028234663852886e38) return;
        }
        limit = 0.0f;
    }

    __device__ u8 code(float x) const {
        if (CODE != E2M1)
            return SCALE == SCALE_E8M0 ? fp8_of<IS_E5M2>(x * inverse)
                                       : nearest<IS_E5M2>(x, x * inverse, scale, 1.0f, limit);
        u32 code = __float_as_uint(x) >> 31 << 3;
#pragma unroll
        for (int i = 0; i < 7; i++) code += fabsf(x) >= thresholds[i];
        return (u8)code;
    }

    // sum + (x - what its code stands for)²
    __device__ double add_error(double sum, float x) const {
        u8 of = code(x);
        float value = CODE == E2M1 ? f32_of_e2m1(of) : IS_E5M2 ? f32_of_e5m2(of) : f32_of_e4m3(of);
        // The product is exact.
        double d = CODE == E2M1 ? (double)x - (double)(value * scale) * g
                                : (double)x - (double)value * scale;
        return __dadd_rn(sum, __dmul_rn(d, d));
    }
};

// The scales that a rule looks at: the first one, and how many there are.
struct Candidates {
    float amax, g;
    int exponent;   // OCP's
    u8 base, least; // UE4M3 codes
    int count;

    __device__ u8 mapped_to(const Blocks& to, float target) const {
        // Where target * g may be far from exact, the estimate is not used.
        bool usable = g >= 1e-36f && g <= 1e36f;
        float estimate = usable ? amax / (target * g) : __uint_as_float(0x7FC00000u);
        u8 code = nearest<false>(amax, estimate, target, g, 448.0f);
        return min((int)code, to.max_code);
    }

    __device__ Candidates(const Blocks& to, float amax, float g) : amax(amax), g(g), count(1) {
        if (SCALE == SCALE_UE4M3) {
            base = mapped_to(to, 6.0f);
            if (RULE == RULE_FOUR_OVER_SIX) least = mapped_to(to, 4.0f), count = 2;
            if (RULE == RULE_MSE)
                least = mapped_to(to, 8.0f), count = 2 + mapped_to(to, 3.0f) - least;
        }
        if (SCALE == SCALE_E8M0) {
            bool subnormal = amax < LEAST_SCALE;
            u32 bits = __float_as_uint(subnormal ? amax * 16777216.0f : amax);
            u32 mantissa = bits & 0x7FFFFFu;
            exponent = (int)(bits >> 23) - 127 - (subnormal ? 24 : 0) - CODE_EXPONENT;
            if (RULE == RULE_AMAX) exponent += mantissa > (CODE == E2M1 ? 0x400000u : 0x600000u);
            if (RULE == RULE_OCP_CEIL) exponent += mantissa > 0;
            if (amax == 0.0f)
                exponent = -127;
            else if (RULE == RULE_MSE)
                count = 3;
        }
        if (SCALE == SCALE_F32 && RULE == RULE_MSE && amax > 0.0f) count = IS_E5M2 ? 4 : 7;
    }

    __device__ Scale operator[](int i) const {
        if (SCALE == SCALE_UE4M3) {
            u8 code = i == 0 ? base : (u8)(least + i - 1);
            return {f32_of_e4m3(code), code};
        }
        if (SCALE == SCALE_E8M0) {
            int at = exponent + (i == 0 ? 0 : i == 1 ? -1 : 1);
            u8 byte = (u8)(min(max(at, -127), 127 - CODE_EXPONENT) + 127);
            return {f32_of_e8m0(byte), byte};
        }
        return {f32_scale(amax, CODE_MAX - i * TOP_STEP), 0};
    }
};

// The candidate of least squared error, the first of equals. Each lane takes some of them, and
// adds the errors of all values of the block in their order.
__device__ inline Scale searched(const Candidates& candidates, float g, const float (&x)[EIGHT]) {
    const int lane = threadIdx.x % 32, own = lane % LANES, first_lane = lane - own;
    double least = INFINITY;
    int best = 0;
    for (int first = 0; __any_sync(~0u, first < candidates.count); first += LANES) {
        const int which = first + own < candidates.count ? first + own : 0;
        const Encoder encoder(candidates[which].value, g);
        double error = 0.0;
        for (int from = 0; from < LANES; from++) {
#pragma unroll
            for (int i = 0; i < EIGHT; i++)
                error = encoder.add_error(error, __shfl_sync(~0u, x[i], first_lane + from));
        }
        if (error < least) least = error, best = which;
    }
    for (int lanes = LANES / 2; lanes; lanes /= 2) {
        double error = __shfl_xor_sync(~0u, least, lanes);
        int which = __shfl_xor_sync(~0u, best, lanes);
        if (error < least || error == least && which < best) least = error, best = which;
    }
    return candidates[best];
}

__device__ inline Scale choose(const Blocks& to, float amax, float g, const float (&x)[EIGHT]) {
    if (SCALE == SCALE_F32 && to.fixed > 0.0f) return {to.fixed, 0};
    const Candidates candidates(to, amax, g);
    if (RULE == RULE_FOUR_OVER_SIX || RULE == RULE_MSE) return searched(candidates, g, x);
    return candidates[0];
}

__device__ inline void store_codes(const Blocks& to, int row, int at, const Encoder& encoder,
                                   const float (&x)[EIGHT]) {
    constexpr int PER_BYTE = CODE == E2M1 ? 2 : 1, BYTES = EIGHT / PER_BYTE;
    u32 words[2] = {};
#pragma unroll
    for (int i = 0; i < EIGHT; i++)
        words[i / (4 * PER_BYTE)] |= (u32)encoder.code(x[i]) << i * 8 / PER_BYTE % 32;
    const int byte = at / PER_BYTE;
    u8* codes = to.codes + (i64)row * to.row_bytes + byte;
    if (to.words && byte + BYTES <= to.row_bytes) {
        if (BYTES == 4)
            *(u32*)codes = words[0];
        else
            *(uint2*)codes = make_uint2(words[0], words[1]);
        return;
    }
#pragma unroll
    for (int i = 0; i < BYTES; i++)
        if (byte + i < to.row_bytes) codes[i] = (u8)(words[i / 4] >> i % 4 * 8);
}

// Quantises values `at`, a multiple of 8, to `at + 7` of row `row` of all rows, or looks at them;
// zeros behind the row's end. All lanes of a warp take part, for neighbours.
__device__ inline void quantize(const Blocks& to, int row, int at, const float (&x)[EIGHT]) {
    if (to.looks) return note(to, row, at, x);
    u32 bits = largest(to, row, at, x);
    for (int lanes = LANES / 2; lanes; lanes /= 2)
        bits = max(bits, __shfl_xor_sync(~0u, bits, lanes));
    if (!BLOCK && to.fixed == 0.0f && at < to.n) bits = to.amax[block_of(to, row, at)];
    float g = 1.0f;
    if (SCALE == SCALE_UE4M3)
        g = to.fixed > 0.0f ? to.fixed : f32_scale(__uint_as_float(*to.amax), 6.0f * 448.0f);
    const Scale scale = choose(to, __uint_as_float(bits), g, x);
    const Encoder encoder(scale.value, g);
    store_codes(to, row, at, encoder, x);
    if (row == 0 && at == 0 && to.tensor) *to.tensor = g;
    // Blocks within a warp are of one row.
    const int cols = BLOCK ? BLOCK : to.scales.cols, rows = BLOCK ? 1 : to.scales.rows;
    const int matrix = to.matrix_of(row), in_matrix = row - matrix * to.rows;
    if (at % cols != 0 || at >= to.n || in_matrix % rows != 0) return;
    u8* scales = (u8*)to.scales.data + matrix * to.of_matrix;
    i64 index = to.scales.index(in_matrix / rows, at / cols);
    if (SCALE == SCALE_F32)
        ((float*)scales)[index] = scale.value;
    else
        scales[index] = scale.byte;
}

// Makes the scales zeros that fill the tiles of a row up, behind a matrix's last row all rows'.
// All threads of a block take part.
__device__ inline void clear_padding(const Blocks& to, int row) {
    if (!to.scales.tiled || to.looks) return;
    const int matrix = to.matrix_of(row), in_matrix = row - matrix * to.rows;
    const int cols = (to.scales.row_scales + 3) / 4 * 4;
    const int end = in_matrix == to.rows - 1 ? (to.rows + 127) / 128 * 128 : in_matrix + 1;
    u8* scales = (u8*)to.scales.data + matrix * to.of_matrix;
    for (int i = threadIdx.x; i < (end - in_matrix) * cols; i += blockDim.x) {
        int down = i / cols, col = i % cols;
        if (down > 0 || col >= to.scales.row_scales)
            scales[to.scales.index(in_matrix + down, col)] = 0;
    }
}
