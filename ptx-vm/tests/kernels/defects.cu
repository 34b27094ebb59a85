// Kernels with one mistake each, and without it when BUG is 0. The line that the report must
// name is marked with the kernel's name.

typedef unsigned long long u64;

__device__ __forceinline__ unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

extern "C" __global__ void missing_barrier(int* out, const int* in) {
    __shared__ int s[64];
    int t = threadIdx.x;
    s[t] = in[t];
#if !BUG
    __syncthreads();
#endif
    if (t >= 32) out[t] = s[63 - t];  // missing_barrier
}

extern "C" __global__ void off_by_one(float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n + BUG)
        out[i] = i;  // off_by_one
}

// Half of a tile is filled, at swizzled places; the reader swizzles by other rows' bits.
extern "C" __global__ void wrong_swizzle(int* out) {
    __shared__ int tile[8][8];
    int row = threadIdx.x / 4, col = threadIdx.x % 4;
    tile[row][col ^ (row & 4)] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = tile[row][col ^ (BUG ? (row << 1 & 4) : (row & 4))];  // wrong_swizzle
}

extern "C" __global__ void uninitialised_accumulator(int* out, const int* in) {
    __shared__ int sum;
#if !BUG
    if (threadIdx.x == 0) sum = 0;
#endif
    __syncthreads();
    atomicAdd(&sum, in[threadIdx.x]);  // uninitialised_accumulator
    __syncthreads();
    out[threadIdx.x] = sum;
}

extern "C" __global__ void double_buffer(int* out, const int* in, int steps) {
    __shared__ int stage[2][64];
    int t = threadIdx.x, sum = 0;
    stage[0][t] = in[t];
    __syncthreads();
    for (int i = 0; i < steps; i++) {
        if (i + 1 < steps) stage[(i + 1) & 1][t] = in[(i + 1) * 64 + t];  // double_buffer
        sum += stage[i & 1][63 - t];
#if BUG
        if (i == 0) __syncthreads();
#else
        __syncthreads();
#endif
    }
    out[t] = sum;
}

extern "C" __global__ void divergent_barrier(int* out) {
    __shared__ int s[64];
    s[threadIdx.x] = threadIdx.x;
#if BUG
    if (threadIdx.x < 40)
#endif
        __syncthreads();  // divergent_barrier
    out[threadIdx.x] = threadIdx.x;
}

extern "C" __global__ void misaligned_vector(float4* out, const float* in) {
    out[threadIdx.x] = *reinterpret_cast<const float4*>(in + 4 * threadIdx.x + BUG);  // misaligned_vector
}

__device__ __forceinline__ void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

extern "C" __global__ void copy_before_wait(int4* out, const int4* in) {
    __shared__ int4 s[32];
    copy16(&s[threadIdx.x], &in[threadIdx.x]);
    asm volatile("cp.async.commit_group;" ::: "memory");
#if !BUG
    asm volatile("cp.async.wait_group 0;" ::: "memory");
#endif
    out[threadIdx.x] = s[threadIdx.x];  // copy_before_wait
}

extern "C" __global__ void missing_commit(int4* out, const int4* in) {
    __shared__ int4 s[32];
    copy16(&s[threadIdx.x], &in[threadIdx.x]);
#if !BUG
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    out[threadIdx.x] = s[threadIdx.x];  // missing_commit
}

extern "C" __global__ void wrong_wait_count(int4* out, const int4* in) {
    __shared__ int4 s[2][32];
    for (int i = 0; i < 2; i++) {
        copy16(&s[i][threadIdx.x], &in[32 * i + threadIdx.x]);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    asm volatile("cp.async.wait_group %0;" ::"n"(BUG) : "memory");
    out[threadIdx.x] = s[1][threadIdx.x];  // wrong_wait_count
}

// The wait is each thread's own: what others copied needs a barrier too.
extern "C" __global__ void copy_without_barrier(int4* out, const int4* in) {
    __shared__ int4 s[64];
    copy16(&s[threadIdx.x], &in[threadIdx.x]);
    asm volatile("cp.async.wait_all;" ::: "memory");
#if !BUG
    __syncthreads();
#endif
    if (threadIdx.x >= 32) out[threadIdx.x] = s[63 - threadIdx.x];  // copy_without_barrier
}

extern "C" __global__ void use_after_free(int* out, const int* in) {
    out[threadIdx.x] = in[threadIdx.x];  // use_after_free
}

extern "C" __global__ void wrong_shared_size(int* out) {
    extern __shared__ int dynamic[];
    dynamic[threadIdx.x] = threadIdx.x;  // wrong_shared_size
    out[threadIdx.x] = dynamic[threadIdx.x];
}

extern "C" __global__ void wrong_mask(int* out) {
    int v = threadIdx.x;
    if (threadIdx.x < 16) v = __shfl_xor_sync(BUG ? 0xffffffff : 0xffff, v, 1);  // wrong_mask
    out[threadIdx.x] = v;
}

extern "C" __global__ void shuffle_from_outside(int* out) {
    int v = threadIdx.x;
    if (threadIdx.x < 16) v = __shfl_sync(0xffff, v, BUG ? 20 : 4);  // shuffle_from_outside
    out[threadIdx.x] = v;
}

extern "C" __global__ void missing_syncwarp(int* out) {
    __shared__ int s[32];
    s[threadIdx.x] = threadIdx.x;
#if !BUG
    __syncwarp();
#endif
    out[threadIdx.x] = s[threadIdx.x ^ 1];  // missing_syncwarp
}

extern "C" __global__ void two_writers(int* out) {
    __shared__ int s[64];
    s[BUG ? threadIdx.x / 2 : threadIdx.x] = threadIdx.x;  // two_writers
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x / 2];
}

// The second array lies right behind the first on a GPU.
extern "C" __global__ void past_the_array(int* out, int n) {
    __shared__ int first[32], second[32];
    first[threadIdx.x] = 1;
    second[threadIdx.x] = 2;
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < n; i++)
        sum += first[i];  // past_the_array
    out[threadIdx.x] = sum + second[threadIdx.x];
}

extern "C" __global__ void null_pointer(int* out, const int* in) {
    out[threadIdx.x] = in[threadIdx.x];  // null_pointer
}

extern "C" __global__ void host_pointer(int* out, const int* in) {
    out[threadIdx.x] = in[threadIdx.x];  // host_pointer
}

extern "C" __global__ void unwritten_global(int* out, const int* in) {
    out[threadIdx.x] = in[threadIdx.x];  // unwritten_global
}

extern "C" __global__ void unwritten_shared(int* out) {
    __shared__ int s[33];
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x + BUG];  // unwritten_shared
}

extern "C" __global__ void unwritten_local(int* out, int n) {
    int a[16];
    for (int i = 0; i < n; i++) a[i * 5 % 16] = i;
    out[threadIdx.x] = a[threadIdx.x % 16];  // unwritten_local
}

__device__ __forceinline__ void wait(unsigned bar, unsigned parity) {
#define TRY "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;"
    asm volatile("{ .reg .pred p; again: " TRY " @!p bra again; }" ::"r"(bar), "r"(parity) : "memory");  // wrong_byte_count
}

__device__ __forceinline__ void bulk_load(void* to, const void* from, unsigned bytes, unsigned bar) {
#define LOAD "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
    unsigned at = shared_address(to);
    asm volatile(LOAD ::"r"(at), "l"(from), "r"(bytes), "r"(bar) : "memory");  // misaligned_bulk
}

__device__ __forceinline__ void expect(unsigned bar, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

__device__ __forceinline__ void init(unsigned bar, unsigned count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

extern "C" __global__ void wrong_byte_count(int* out, const int* in) {
    __shared__ alignas(16) int s[32];
    __shared__ u64 object;
    unsigned bar = shared_address(&object);
    if (threadIdx.x == 0) init(bar, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        expect(bar, BUG ? 256 : 128);
        bulk_load(s, in, 128, bar);
    }
    wait(bar, 0);
    out[threadIdx.x] = s[threadIdx.x];
}

extern "C" __global__ void misaligned_bulk(int* out, const int* in) {
    __shared__ alignas(16) int s[32];
    __shared__ u64 object;
    unsigned bar = shared_address(&object);
    if (threadIdx.x == 0) {
        init(bar, 1);
        expect(bar, 128);
        bulk_load(s, in + 2 * BUG, 128, bar);
    }
    __syncthreads();
    wait(bar, 0);
    out[threadIdx.x] = s[threadIdx.x];
}

extern "C" __global__ void bulk_before_wait(int* out, const int* in) {
    __shared__ alignas(16) int s[32];
    __shared__ u64 object;
    unsigned bar = shared_address(&object);
    if (threadIdx.x == 0) {
        init(bar, 1);
        expect(bar, 128);
        bulk_load(s, in, 128, bar);
    }
    __syncthreads();
#if !BUG
    wait(bar, 0);
#endif
    out[threadIdx.x] = s[threadIdx.x];  // bulk_before_wait
}

extern "C" __global__ void overwritten_store(int* out) {
    __shared__ alignas(16) int s[32];
    s[threadIdx.x] = threadIdx.x;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 128;" ::"l"(out), "r"(shared_address(s))
                     : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#if !BUG
        asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
    }
    __syncthreads();
    s[threadIdx.x] = 7;  // overwritten_store
    if (threadIdx.x == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

extern "C" __global__ void object_without_barrier(int* out) {
    __shared__ u64 object;
    unsigned bar = shared_address(&object);
    if (threadIdx.x == 0) init(bar, 64);
#if !BUG
    __syncthreads();
#endif
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");  // object_without_barrier
    wait(bar, 0);
    out[threadIdx.x] = 1;
}

extern "C" __global__ void atomics_and_stores(int* out) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, 1);
#if BUG
    if (threadIdx.x == 40) count = 5;  // atomics_and_stores
#endif
    __syncthreads();
    out[threadIdx.x] = count;
}

extern "C" __global__ void too_much_shared(int* out) {
    extern __shared__ int dynamic[];
    dynamic[threadIdx.x] = 1;
    out[threadIdx.x] = dynamic[threadIdx.x];
}

extern "C" __global__ void __maxnreg__(128) too_many_registers(int* out) { out[threadIdx.x] = 1; }

extern "C" __global__ void wrong_arguments(int* out, short n) { out[threadIdx.x] = n; }

extern "C" __global__ void endless(volatile int* out) {
    while (out[threadIdx.x] < 1000 || BUG) out[threadIdx.x] = out[threadIdx.x] + 1;  // endless
}

__device__ __noinline__ int deeper(int n, volatile int* keep) {
    int local[200];
    for (int i = 0; i < 200; i++) local[(i * 7 + n) % 200] = keep[i & 31];
    return n == 0 ? local[3] : deeper(n - 1, keep) + local[n % 200];  // stack_overflow
}

extern "C" __global__ void stack_overflow(int* out, int n) { out[threadIdx.x] = deeper(n, out); }

extern "C" __global__ void division_by_zero(int* out, const int* in) {
    out[threadIdx.x] = 100 / in[threadIdx.x];  // division_by_zero
}

__constant__ int table[32];

extern "C" __global__ void write_to_constant(int* out) {
    int* p = BUG ? const_cast<int*>(table) : out;
    asm volatile("" : "+l"(p));
    p[threadIdx.x] = 1;  // write_to_constant
}

extern "C" __global__ void failed_assertion(int* out, int n) {
    if (threadIdx.x >= n) __trap();  // failed_assertion
    out[threadIdx.x] = 1;
}

extern "C" __global__ void barrier_counts(int* out) {
    if (threadIdx.x < 32)
        asm volatile("bar.sync 1, 64;" ::: "memory");
    else
        asm volatile("bar.sync 1, %0;" ::"n"(BUG ? 96 : 64) : "memory");  // barrier_counts
    out[threadIdx.x] = 1;
}

extern "C" __global__ void never_arrives(int* out) {
    if (threadIdx.x < 32)
        asm volatile("bar.sync 1, %0;" ::"n"(BUG ? 64 : 32) : "memory");  // never_arrives
    out[threadIdx.x] = 1;
}

extern "C" __global__ void misaligned_rows(unsigned* out) {
    __shared__ alignas(16) unsigned short s[8 * 12];
    for (int i = threadIdx.x; i < 96; i += 32) s[i] = i;
    __syncthreads();
    unsigned at = shared_address(s + threadIdx.x % 8 * (BUG ? 9 : 8)), d;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(d) : "r"(at));  // misaligned_rows
    out[threadIdx.x] = d;
}

__device__ __noinline__ int* dangling(int n) {
    int local[8];
    for (int i = 0; i < 8; i++) local[(i + n) % 8] = i;
    int* p = local;
    asm volatile("" : "+l"(p)::"memory");
    return p;
}

extern "C" __global__ void dangling_pointer(int* out, int n) {
    int* p = BUG ? dangling(n) : out;
    out[threadIdx.x] = p[n];  // dangling_pointer
}
