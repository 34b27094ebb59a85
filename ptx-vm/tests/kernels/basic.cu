// Reduction, transpose, scan, softmax, histogram, and a call that is not inlined.
extern "C" __global__ void reduce(float* out, const float* in, int n) {
    __shared__ float part[32];
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += in[i];
    for (int d = 16; d; d >>= 1) sum += __shfl_down_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.f;
        for (int d = 16; d; d >>= 1) sum += __shfl_down_sync(~0u, sum, d);
        if (threadIdx.x == 0) atomicAdd(out, sum);
    }
}

extern "C" __global__ void transpose(float* out, const float* in, int rows, int cols) {
    __shared__ float tile[32][33];
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < cols && y + j < rows) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * cols + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < rows && y + j < cols) out[(y + j) * rows + x] = tile[threadIdx.x][threadIdx.y + j];
}

// Inclusive scan of one block's worth of integers.
extern "C" __global__ void scan(int* out, const int* in, int n) {
    __shared__ int sums[32];
    int i = threadIdx.x, lane = i % 32, warp = i / 32;
    int v = i < n ? in[i] : 0;
    for (int d = 1; d < 32; d *= 2) {
        int u = __shfl_up_sync(~0u, v, d);
        if (lane >= d) v += u;
    }
    if (lane == 31) sums[warp] = v;
    __syncthreads();
    if (warp == 0) {
        int s = lane < blockDim.x / 32 ? sums[lane] : 0;
        for (int d = 1; d < 32; d *= 2) {
            int u = __shfl_up_sync(~0u, s, d);
            if (lane >= d) s += u;
        }
        if (lane < blockDim.x / 32) sums[lane] = s;
    }
    __syncthreads();
    if (warp > 0) v += sums[warp - 1];
    if (i < n) out[i] = v;
}

// One row a block.
extern "C" __global__ void softmax(float* out, const float* in, int n) {
    __shared__ float red[33];
    const float* x = in + (size_t)blockIdx.x * n;
    float* y = out + (size_t)blockIdx.x * n;
    float m = -1e30f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) m = fmaxf(m, x[i]);
    for (int d = 16; d; d >>= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, d));
    if (threadIdx.x % 32 == 0) red[threadIdx.x / 32] = m;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < blockDim.x / 32; w++) m = fmaxf(m, red[w]);
        red[32] = m;
    }
    __syncthreads();
    m = red[32];
    __syncthreads();
    float s = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float e = expf(x[i] - m);
        y[i] = e;
        s += e;
    }
    for (int d = 16; d; d >>= 1) s += __shfl_xor_sync(~0u, s, d);
    if (threadIdx.x % 32 == 0) red[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < blockDim.x / 32; w++) s += red[w];
        red[32] = s;
    }
    __syncthreads();
    s = red[32];
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] /= s;
}

__device__ int counter = 5;
__constant__ int table[4] = {10, 20, 30, 40};

extern "C" __global__ void histogram(unsigned* out, const unsigned char* in, int n) {
    __shared__ unsigned bins[256];
    bins[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&bins[in[i]], 1u);
    __syncthreads();
    atomicAdd(&out[threadIdx.x], bins[threadIdx.x]);
    if (threadIdx.x == 0) atomicAdd(&counter, table[blockIdx.x & 3]);
}

// Collatz steps: every lane leaves the loop at another time, through a real call.
__device__ __noinline__ unsigned step(unsigned x) { return x & 1 ? 3 * x + 1 : x / 2; }
extern "C" __global__ void collatz(unsigned* out) {
    unsigned x = blockIdx.x * blockDim.x + threadIdx.x + 1, n = 0;
    while (x != 1) { x = step(x); n++; }
    out[blockIdx.x * blockDim.x + threadIdx.x] = n;
}

__device__ __noinline__ unsigned fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
extern "C" __global__ void fibonacci(unsigned* out) { out[threadIdx.x] = fib(threadIdx.x % 12); }

// Threads that go first wait in a loop for one that comes later.
extern "C" __global__ void spin(int* out, int* lock) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            __threadfence();
            volatile int* o = out;
            *o = *o + 1;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}

extern "C" __global__ void local_array(int* out, int n) {
    int a[16];
    for (int i = 0; i < 16; i++) a[i] = i * i + n;
    int s = 0;
    for (int i = 0; i < 16; i++) s += a[(i * 7 + threadIdx.x) % 16] * i;
    out[threadIdx.x] = s;
}

// A switch with many cases.
extern "C" __global__ void cases(int* out, const int* in) {
    int v = in[threadIdx.x], r;
    switch (v) {
        case 0: r = v * 3 + 1; break;
        case 1: r = v - 77; break;
        case 2: r = v ^ 0x55; break;
        case 3: r = v << 5; break;
        case 4: r = -v; break;
        case 5: r = v * v; break;
        case 6: r = v | 0x1000; break;
        case 7: r = v + 99; break;
        default: r = -1;
    }
    out[threadIdx.x] = r;
}
