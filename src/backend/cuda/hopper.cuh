/* hopper: the words that sm_90a adds to device.cuh: barriers in shared memory that copies arrive at (mbarrier), copies
 * of boxes of tensors (TMA), products of a warp group of four warps with shared memory (wgmma). PTX here, or the
 * shim's.
 *
 *   mbarrier   counts arrivals and bytes; a phase ends when none of either is missing, the next begins at once.
 *              Phases are 0, 1, 0, 1, ...; wait(parity) returns when the last phase that ended was `parity` (a new
 *              barrier counts as behind a phase 1)
 *   TMA        one thread asks; the bytes arrive at a barrier that expects them
 *   wgmma      d += a b: d and a in registers as mma's (warp w of the group has rows 16 w ..), b in shared memory,
 * where a descriptor says (mma_index.cuh). All runs behind the asking threads: fence     registers that were touched
 * may be given to the products that follow commit    the products since the last commit are a group wait<n>   until at
 * most n groups are not done. Before that d must not be read and a not be written proxies    TMA and wgmma do not see
 * what threads wrote to shared memory before qr_fence_proxy_async()
 *
 * A library for other devices too must not compile these there: QR_HOPPER says where.
 * Source: PTX ISA: mbarrier, cp.async.bulk.tensor, wgmma.mma_async, setmaxnreg. */
#ifndef QR_BACKEND_CUDA_HOPPER_CUH
#define QR_BACKEND_CUDA_HOPPER_CUH

#include <cuda.h>

#include "backend/cuda/device.cuh"

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define QR_HOPPER 1
#endif

#ifdef __CUDACC__

static __device__ __forceinline__ void qr_mbarrier_init(uint64_t *barrier, unsigned arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(qr_shared_address(barrier)), "r"(arrivals) : "memory");
}
/* After the init()s: TMA sees them. */
static __device__ __forceinline__ void qr_fence_mbarrier_init(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
static __device__ __forceinline__ void qr_mbarrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(qr_shared_address(barrier)) : "memory");
}
/* Arrive, and the phase waits for so many bytes more. */
static __device__ __forceinline__ void qr_mbarrier_arrive_expect(uint64_t *barrier, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(qr_shared_address(barrier)), "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void qr_mbarrier_wait(uint64_t *barrier, unsigned parity)
{
    unsigned done;
    do {
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                     : "=r"(done)
                     : "r"(qr_shared_address(barrier)), "r"(parity)
                     : "memory");
    } while (!done);
}
static __device__ __forceinline__ void qr_fence_proxy_async(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* The box at these coordinates (the fastest first) to shared memory, 128-byte aligned; arrives at the barrier. */
static __device__ __forceinline__ void qr_tma_load(void *shared, const CUtensorMap *map, uint64_t *barrier, int c0,
                                                   int c1, int c2, int c3)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%3, %4, %5, %6}], [%2];" ::"r"(qr_shared_address(shared)),
                 "l"(map), "r"(qr_shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
                 : "memory");
}

#define QR_D4(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define QR_D8(d, n)                                                                                                    \
    QR_D4(d, n), QR_D4(d, n + 1), QR_D4(d, n + 2), QR_D4(d, n + 3), QR_D4(d, n + 4), QR_D4(d, n + 5), QR_D4(d, n + 6), \
        QR_D4(d, n + 7)

/* d [64][64] = a b, or d += a b */
static __device__ __forceinline__ void qr_wgmma_f16(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0;"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31},"
                 " {%32, %33, %34, %35}, %36, p, 1, 1, 1;}"
                 : QR_D8(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}
/* d [64][128] = a b, or d += a b */
static __device__ __forceinline__ void qr_wgmma_f16(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, bool add)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0;"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63},"
                 " {%64, %65, %66, %67}, %68, p, 1, 1, 1;}"
                 : QR_D8(d, 0), QR_D8(d, 8)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}

#undef QR_D8
#undef QR_D4

static __device__ __forceinline__ void qr_wgmma_fence(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void qr_wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int pending> static __device__ __forceinline__ void qr_wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
/* What the compiler must not move over a wait: it takes d for ready and a for free when a product has been asked for.
 */
template <int N> static __device__ __forceinline__ void qr_wgmma_hold(float (&d)[N][4])
{
    QR_UNROLL
    for (int i = 0; i < 4 * N; i++) asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}
template <int N> static __device__ __forceinline__ void qr_wgmma_hold(uint32_t (&a)[N][4])
{
    QR_UNROLL
    for (int i = 0; i < 4 * N; i++) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
}

/* Registers per thread of the whole warp group from here on; a multiple of 8. */
template <int count> static __device__ __forceinline__ void qr_more_registers(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count> static __device__ __forceinline__ void qr_fewer_registers(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

#endif /* __CUDACC__ */

/* ---- host */

/* float16 [blocks][heads][rows][cols], 16-byte aligned as the steps are. */
typedef struct qr_tma_tensor {
    const void *data;
    int rows, cols, heads;
    int64_t blocks, head_bytes, block_bytes;
} qr_tma_tensor;

/* For copies of boxes [box_rows][box_cols] of one head, whose rows of 16, 32, 64 or 128 bytes are swizzled over their
 * own length (16: not). Coordinates: col, row, head, block. False: the driver has no such maps. */
static inline bool qr_tma_describe(const qr_tma_tensor *t, int box_rows, int box_cols, CUtensorMap *map)
{
    void *encode = NULL;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        return false;
    const cuuint64_t dims[] = {(cuuint64_t)t->cols, (cuuint64_t)t->rows, (cuuint64_t)t->heads, (cuuint64_t)t->blocks};
    const cuuint64_t strides[] = {(cuuint64_t)t->cols * 2, (cuuint64_t)t->head_bytes, (cuuint64_t)t->block_bytes};
    const cuuint32_t box[] = {(cuuint32_t)box_cols, (cuuint32_t)box_rows, 1, 1}, steps[] = {1, 1, 1, 1};
    const CUtensorMapSwizzle swizzle = box_cols == 8    ? CU_TENSOR_MAP_SWIZZLE_NONE
                                       : box_cols == 16 ? CU_TENSOR_MAP_SWIZZLE_32B
                                       : box_cols == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                        : CU_TENSOR_MAP_SWIZZLE_128B;
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode)(
               map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4, const_cast<void *>(t->data), dims, strides, box, steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#endif
