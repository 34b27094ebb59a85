// Flash attention of one head, 64 wide, in bf16: out = softmax(Q Kᵀ · scale) V, causal if
// asked for. A block of 4 warps takes 64 queries, a warp 16; keys go by in tiles of 32. Scores
// stay in registers and become the A operand of the second product as they are.
extern "C" __global__ void attention(float* out, const u16* q, const u16* k, const u16* v, int queries, int keys, float scale, int causal) {
    __shared__ alignas(128) u8 tile[2][32 * 128];
    __shared__ alignas(128) u8 rows[64 * 128];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, q0 = blockIdx.x * 64;
    auto place = [](int row, int chunk) { return row * 128 + (chunk ^ (row & 7)) * 16; };

    for (int i = threadIdx.x; i < 512; i += 128) {
        int row = i / 8;
        bool in = q0 + row < queries;
        copy16(shared_address(&rows[place(row, i % 8)]), q + (in ? (u64)(q0 + row) * 64 + i % 8 * 8 : 0), in);
    }
    commit();
    wait<0>();
    __syncthreads();
    u32 fq[4][4];
    for (int d = 0; d < 4; d++) ldmatrix4(fq[d], shared_address(&rows[place(warp * 16 + lane % 16, d * 2 + lane / 16)]));

    float acc[8][4] = {}, top[2] = {-1e30f, -1e30f}, sum[2] = {};
    const int first = q0 + warp * 16 + lane / 4;
    for (int k0 = 0; k0 < keys; k0 += 32) {
        for (int i = threadIdx.x; i < 256; i += 128) {
            int row = i / 8;
            bool in = k0 + row < keys;
            u64 at = in ? (u64)(k0 + row) * 64 + i % 8 * 8 : 0;
            copy16(shared_address(&tile[0][place(row, i % 8)]), k + at, in);
            copy16(shared_address(&tile[1][place(row, i % 8)]), v + at, in);
        }
        commit();
        wait<0>();
        __syncthreads();
        float s[4][4] = {};
        for (int d = 0; d < 4; d++)
            for (int j = 0; j < 2; j++) {
                u32 fk[4];
                ldmatrix4(fk, shared_address(&tile[0][place(j * 16 + lane / 16 * 8 + lane % 8, d * 2 + lane / 8 % 2)]));
                Bf16::mma(s[j * 2], fq[d], fk, 0, 0);
                Bf16::mma(s[j * 2 + 1], fq[d], fk + 2, 0, 0);
            }
        // The largest of each row so far, over the four lanes that share it.
        float old[2] = {top[0], top[1]};
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int key = k0 + j * 8 + lane % 4 * 2 + e % 2, row = first + e / 2 * 8;
                bool seen = key < keys && (!causal || key <= row);
                s[j][e] = seen ? s[j][e] * scale * 1.44269504f : -1e30f;
                top[e / 2] = fmaxf(top[e / 2], s[j][e]);
            }
        for (int r = 0; r < 2; r++) {
            top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
            top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 2));
            float shrink = exp2f(old[r] - top[r]);
            sum[r] *= shrink;
            for (int d = 0; d < 8; d++) {
                acc[d][r * 2] *= shrink;
                acc[d][r * 2 + 1] *= shrink;
            }
        }
        u32 p[4][2];
        for (int j = 0; j < 4; j++)
            for (int r = 0; r < 2; r++) {
                float x = exp2f(s[j][r * 2] - top[r]), y = exp2f(s[j][r * 2 + 1] - top[r]);
                sum[r] += x + y;
                asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(p[j][r]) : "f"(y), "f"(x));
            }
        for (int j = 0; j < 2; j++) {
            u32 fp[4] = {p[j * 2][0], p[j * 2][1], p[j * 2 + 1][0], p[j * 2 + 1][1]};
            for (int d = 0; d < 4; d++) {
                u32 fv[4];
                ldmatrix4_trans(fv, shared_address(&tile[1][place(j * 16 + lane % 16, d * 2 + lane / 16)]));
                Bf16::mma(acc[d * 2], fp, fv, 0, 0);
                Bf16::mma(acc[d * 2 + 1], fp, fv + 2, 0, 0);
            }
        }
        __syncthreads();
    }
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        if (first + r * 8 < queries)
            for (int d = 0; d < 8; d++)
                for (int e = 0; e < 2; e++) out[(u64)(first + r * 8) * 64 + d * 8 + lane % 4 * 2 + e] = acc[d][r * 2 + e] / sum[r];
    }
}
