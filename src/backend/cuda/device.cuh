/* device: what every kernel of the CUDA backend is written in: CUDA C++, and small functions around the instructions
 * that CUDA C++ has no word for (tensor cores, ldmatrix, cp.async).
 *
 *   nvcc            <cuda_runtime.h> is the toolkit's; the functions here are PTX
 *   g++, clang++    <cuda_runtime.h> is tests/cuda_shim's, which runs the same sources on the CPU: threads of a block
 * as fibers, blocks one after the other; the functions here come from there
 *
 * Rules that keep both true: kernels are launched by QR_LAUNCH, dynamic shared memory is QR_DYNAMIC_SHARED, blocks are
 * whole warps, every warp-wide operation is executed by all 32 lanes, no thread leaves before the block's last barrier.
 * The compilers may not fuse: fma is written as fmaf (nvcc -fmad=false, g++ -ffp-contract=off).
 *
 * Fragments of mma (PTX ISA, "Matrix Fragments"), lane = 4 g + t:
 *   16 bit, m16n8k16   a[0] row g, columns 2t, 2t+1   a[1] row g + 8   a[2] row g, columns + 8   a[3] both
 *                      b[0] rows 2t, 2t+1 of column g   b[1] rows + 8
 *   8 bit, m16n8k32    a[0] row g, columns 4t .. 4t+3   a[1] row g + 8   a[2] row g, columns + 16   a[3] both
 *                      b[0] rows 4t .. 4t+3 of column g   b[1] rows + 16
 *   both               d[0], d[1] row g, columns 2t, 2t+1   d[2], d[3] row g + 8 */
#ifndef QR_BACKEND_CUDA_DEVICE_CUH
#define QR_BACKEND_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __CUDACC__

#define QR_UNROLL _Pragma("unroll") /* before a loop whose arrays are to lie in registers */

#define QR_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)

/* The block's dynamic shared memory (QR_LAUNCH's shared_bytes), 16-byte aligned, uninitialised. */
#define QR_DYNAMIC_SHARED(type, name)                                      \
    extern __shared__ __align__(16) unsigned char qr_dynamic_shared_mem[]; \
    type *name = reinterpret_cast<type *>(qr_dynamic_shared_mem)

static __device__ __forceinline__ unsigned qr_shared_address(const void *shared)
{
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

/* d += a b, float16 in, float32 out */
static __device__ __forceinline__ void qr_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* d += a b, bfloat16 in, float32 out */
static __device__ __forceinline__ void qr_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* d += a b, int8 in, int32 out: exact */
static __device__ __forceinline__ void qr_mma_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* ldmatrix: N matrices of 8 rows of 16 bytes from shared memory; lane 8 i + r gives the address of row r of matrix i
 * (addresses of lanes past 8 N are not used). r[i]: the lane's two values of matrix i: row lane / 4, columns
 * 2 (lane % 4) and the next; transposed: column lane / 4, rows 2 (lane % 4) and the next. */
static __device__ __forceinline__ void qr_ldmatrix_x1(uint32_t r[1], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(qr_shared_address(row))
                 : "memory");
}
static __device__ __forceinline__ void qr_ldmatrix_x2(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(qr_shared_address(row))
                 : "memory");
}
static __device__ __forceinline__ void qr_ldmatrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(qr_shared_address(row))
                 : "memory");
}
static __device__ __forceinline__ void qr_ldmatrix_x1_trans(uint32_t r[1], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(qr_shared_address(row))
                 : "memory");
}
static __device__ __forceinline__ void qr_ldmatrix_x2_trans(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(qr_shared_address(row))
                 : "memory");
}
static __device__ __forceinline__ void qr_ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(qr_shared_address(row))
                 : "memory");
}

/* a - b of two bfloat16 each, rounded to nearest */
static __device__ __forceinline__ uint32_t qr_sub_bf16x2(uint32_t a, uint32_t b)
{
    uint32_t d; /* b * -1 + a */
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(b), "r"(0xBF80BF80u), "r"(a));
    return d;
}

/* 2^x to about two units in the last place; results below 2^-126 are 0. 2^0 is 1. */
static __device__ __forceinline__ float qr_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 16 bytes from global to shared memory, both 16-byte aligned, in the background; zeros when not valid (global must be
 * an address all the same). There for this thread after qr_cp_async_wait(), for the others after a barrier too. */
static __device__ __forceinline__ void qr_cp_async_16(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(qr_shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
/* What was asked for since the last commit is a group. */
static __device__ __forceinline__ void qr_cp_async_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most `pending` of the newest groups are not there yet. */
template <int pending> static __device__ __forceinline__ void qr_cp_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#endif /* __CUDACC__ */

#endif
