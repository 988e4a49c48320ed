/* cuda_shim: CUDA on the CPU, as much of it as quire's kernels use, so that the same sources are tested without a GPU.
 *
 *   QR_LAUNCH(kernel, grid, block, ...)  ─►  for each block: every thread a fiber; a thread runs until it has to wait
 *                                            for its warp or its block, then the next one does
 *
 * Stricter than a GPU: a warp-wide operation that not all 32 lanes reach, or that they reach at different places, a
 * barrier that a thread has left behind, limits of launch and shared memory: each ends the program with a message.
 * The order in which threads take turns alternates from launch to launch, cp.async copies as late as it may in two
 * launches and at once in the next two, dynamic shared memory starts as NaN: what forgets to wait or to initialise is
 * seen. A warp's lanes do not run in step.
 * Device memory is malloc's, so AddressSanitizer sees what leaves its buffer. Streams run at once, in order, but while
 * they are captured: then kernels are kept for the graph, and anything else asked of the stream ends the program.
 *
 * Threads: several may launch; each has its own fibers and shared memory.
 * Source: CUDA C++ Programming Guide; PTX ISA (mma, ldmatrix, cp.async, mbarrier, wgmma, cp.async.bulk.tensor). */
#ifndef QR_TESTS_CUDA_SHIM_CUDA_RUNTIME_H
#define QR_TESTS_CUDA_SHIM_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>

/* ---- words of the language */

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static thread_local

using std::max;
using std::min;

#define SHIM_VECTOR2(name, type)            \
    struct alignas(2 * sizeof(type)) name { \
        type x, y;                          \
    };                                      \
    static inline name make_##name(type x, type y) { return {x, y}; }
#define SHIM_VECTOR4(name, type)                                         \
    struct alignas(4 * sizeof(type) > 16 ? 16 : 4 * sizeof(type)) name { \
        type x, y, z, w;                                                 \
    };                                                                   \
    static inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
SHIM_VECTOR2(float2, float)
SHIM_VECTOR2(int2, int)
SHIM_VECTOR2(uint2, unsigned)
SHIM_VECTOR4(float4, float)
SHIM_VECTOR4(int4, int)
SHIM_VECTOR4(uint4, unsigned)
SHIM_VECTOR4(char4, signed char)
SHIM_VECTOR4(uchar4, unsigned char)
SHIM_VECTOR4(ushort4, unsigned short)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/* ---- where the running thread is */

struct shim_place {
    uint3 thread, block, block_dim, grid_dim;
    unsigned char *shared;
};
extern __thread shim_place shim_now;
#define threadIdx (shim_now.thread)
#define blockIdx (shim_now.block)
#define blockDim (shim_now.block_dim)
#define gridDim (shim_now.grid_dim)
static const int warpSize = 32;

typedef struct shim_stream *cudaStream_t;
typedef struct shim_event *cudaEvent_t;

void shim_run(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void *), void *ctx);
/* Now, or when the graph is launched that the stream is captured for. */
void shim_do(cudaStream_t stream, const std::function<void()> &work);
template <class T> struct shim_same {
    typedef T type;
};
template <class... P>
void shim_launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, void (*kernel)(P...),
                 typename shim_same<P>::type... args)
{
    auto body = [=] { kernel(args...); };
    shim_do(stream, [=]() mutable {
        shim_run(
            grid, block, shared_bytes, [](void *f) { (*(decltype(body) *)f)(); }, &body);
    });
}
#define QR_UNROLL
#define QR_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    shim_launch(grid, block, shared_bytes, stream, kernel, __VA_ARGS__)
#define QR_DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(shim_now.shared)

/* ---- waiting for each other */

void __syncthreads(void);

/* What each lane of a warp gave to an operation, and what each gets. */
enum { SHIM_SLOT = 64 };
struct shim_slots {
    alignas(16) unsigned char in[32][SHIM_SLOT], out[32][SHIM_SLOT];
};
/* Wait until all lanes of the warp are at operation `what` with their `in`; then `all` runs once, if not NULL. The
 * slots hold until the lane is at its next operation but one. */
const shim_slots *shim_warp(const char *what, unsigned mask, const void *in, size_t bytes, void (*all)(shim_slots *));
int shim_lane(void);

static inline void __syncwarp(unsigned mask = ~0u) { shim_warp("__syncwarp", mask, NULL, 0, NULL); }
static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}

template <class T> static T shim_shuffle(const char *what, unsigned mask, T value, int from)
{
    T result;
    memcpy(&result, shim_warp(what, mask, &value, sizeof value, NULL)->in[from & 31], sizeof result);
    return result;
}
template <class T> static T __shfl_sync(unsigned mask, T value, int from, int width = 32)
{
    int lane = shim_lane();
    return shim_shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) + (from & (width - 1)));
}
template <class T> static T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32)
{
    int lane = shim_lane(), from = lane ^ bits;
    return shim_shuffle("__shfl_xor_sync", mask, value, from / width > lane / width ? lane : from);
}
template <class T> static T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32)
{
    int lane = shim_lane(), from = lane + (int)by;
    return shim_shuffle("__shfl_down_sync", mask, value, from / width != lane / width ? lane : from);
}
template <class T> static T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32)
{
    int lane = shim_lane(), from = lane - (int)by;
    return shim_shuffle("__shfl_up_sync", mask, value, lane % width < (int)by ? lane : from);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    const shim_slots *s = shim_warp("__ballot_sync", mask, &predicate, sizeof predicate, NULL);
    unsigned bits = 0;
    for (int i = 0, p; i < 32; i++) {
        memcpy(&p, s->in[i], sizeof p);
        bits |= (unsigned)(p != 0) << i;
    }
    return bits;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == ~0u; }

/* One thread of a block runs at a time, and one block of a launch. */
template <class T, class U> static T atomicAdd(T *p, U v)
{
    T old = *p;
    *p = (T)(old + (T)v);
    return old;
}
template <class T, class U> static T atomicMax(T *p, U v)
{
    T old = *p;
    *p = max(old, (T)v);
    return old;
}
template <class T, class U> static T atomicExch(T *p, U v)
{
    T old = *p;
    *p = (T)v;
    return old;
}
template <class T> static T atomicCAS(T *p, T expected, T v)
{
    T old = *p;
    if (old == expected) *p = v;
    return old;
}

/* ---- arithmetic */

template <class T> static T __ldg(const T *p) { return *p; }
static inline float __int_as_float(int i)
{
    float f;
    memcpy(&f, &i, sizeof f);
    return f;
}
static inline int __float_as_int(float f)
{
    int i;
    memcpy(&i, &f, sizeof i);
    return i;
}
static inline float __uint_as_float(unsigned i) { return __int_as_float((int)i); }
static inline unsigned __float_as_uint(float f) { return (unsigned)__float_as_int(f); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline float qr_exp2(float x) { return x < -126 ? 0 : exp2f(x); }
/* Four bytes of the eight of y:x (x the lower ones), each picked by a nibble of s. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s)
{
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) r |= (unsigned)(both >> (s >> (4 * i) & 7) * 8 & 0xFF) << (8 * i);
    return r;
}
/* c + the sum of four products of signed bytes */
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++) c += (int)(signed char)(a >> (8 * i)) * (int)(signed char)(b >> (8 * i));
    return c;
}

/* ---- tensor cores and asynchronous copies: device.cuh says what they do */

void qr_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void qr_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void qr_mma_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2]);
void shim_ldmatrix(uint32_t *r, const void *row, int count, bool transposed);
static inline void qr_ldmatrix_x1(uint32_t r[1], const void *row) { shim_ldmatrix(r, row, 1, false); }
static inline void qr_ldmatrix_x2(uint32_t r[2], const void *row) { shim_ldmatrix(r, row, 2, false); }
static inline void qr_ldmatrix_x4(uint32_t r[4], const void *row) { shim_ldmatrix(r, row, 4, false); }
static inline void qr_ldmatrix_x1_trans(uint32_t r[1], const void *row) { shim_ldmatrix(r, row, 1, true); }
static inline void qr_ldmatrix_x2_trans(uint32_t r[2], const void *row) { shim_ldmatrix(r, row, 2, true); }
static inline void qr_ldmatrix_x4_trans(uint32_t r[4], const void *row) { shim_ldmatrix(r, row, 4, true); }
void qr_cp_async_16(void *shared, const void *global, bool valid);
void qr_cp_async_commit(void);
void shim_cp_async_wait(int pending);
template <int pending> static void qr_cp_async_wait(void) { shim_cp_async_wait(pending); }

/* ---- Hopper: backend/cuda/hopper.cuh says what they do. cp.async's two modes are TMA's too; the products of wgmma
 * read shared memory at once where copies come late, and as late as they may where copies come at once; their results
 * are NaN before the wait. */

struct CUtensorMap;
unsigned qr_shared_address(const void *shared);
void qr_mbarrier_init(uint64_t *barrier, unsigned arrivals);
static inline void qr_fence_mbarrier_init(void) {}
void qr_mbarrier_arrive(uint64_t *barrier);
void qr_mbarrier_arrive_expect(uint64_t *barrier, unsigned bytes);
void qr_mbarrier_wait(uint64_t *barrier, unsigned parity);
static inline void qr_fence_proxy_async(void) {}
void qr_tma_load(void *shared, const CUtensorMap *map, uint64_t *barrier, int c0, int c1, int c2, int c3);
void shim_wgmma(float *d, int columns, const uint32_t *a, uint64_t b, bool add);
template <int N> static void qr_wgmma_f16(float (&d)[N][4], const uint32_t (&a)[4], uint64_t b, bool add)
{
    shim_wgmma(&d[0][0], 8 * N, a, b, add);
}
void qr_wgmma_fence(void);
void qr_wgmma_commit(void);
void shim_wgmma_wait(int pending);
template <int pending> static void qr_wgmma_wait(void) { shim_wgmma_wait(pending); }
template <class T> static void qr_wgmma_hold(T &) {}
template <int count> static void qr_more_registers(void)
{
    static_assert(count % 8 == 0 && count <= 256, "setmaxnreg");
}
template <int count> static void qr_fewer_registers(void)
{
    static_assert(count % 8 == 0 && count >= 24, "setmaxnreg");
}

/* ---- the runtime */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    size_t totalGlobalMem, sharedMemPerBlockOptin;
};

/* QUIRE_SHIM_DEVICES: how many devices there are, 1 if not set; 0 gives cudaErrorNoDevice. */
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError(void);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t shim_malloc(void **p, size_t bytes);
template <class T> static cudaError_t cudaMalloc(T **p, size_t bytes) { return shim_malloc((void **)p, bytes); }
template <class T> static cudaError_t cudaMallocAsync(T **p, size_t bytes, cudaStream_t)
{
    return shim_malloc((void **)p, bytes);
}
template <class T> static cudaError_t cudaHostAlloc(T **p, size_t bytes, unsigned)
{
    return shim_malloc((void **)p, bytes);
}
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
struct cudaPointerAttributes {
    cudaMemoryType type;
};
static inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *)
{
    attributes->type = cudaMemoryTypeDevice; /* both kinds are malloc's */
    return cudaSuccess;
}
cudaError_t cudaFree(void *p);
static inline cudaError_t cudaFreeAsync(void *p, cudaStream_t) { return cudaFree(p); }
static inline cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
typedef struct shim_graph *cudaGraph_t, *cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
/* QUIRE_SHIM_GRAPHS=0: there is no memory for it. */
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
enum { cudaEnableDefault = 0 };
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult *result);
template <class F> static cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int) { return cudaSuccess; }

#endif
