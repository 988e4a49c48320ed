/* cuda_shim: device.cuh's words mean on the CPU what they mean on a GPU; with nvcc the same test runs on one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include <cmocka.h>
}

#include "cuda_memory.h"

static void from_device(void *host, void *device, size_t bytes)
{
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
    cudaFree(device);
}

/* ---- shuffles, votes, barriers */

enum { THREADS = 128, BLOCKS = 5 };

static __global__ void shuffles(int *out)
{
    int lane = threadIdx.x % 32, *to = out + (blockIdx.x * blockDim.x + threadIdx.x) * 6;
    int value = (int)(blockIdx.x * 1000 + threadIdx.x);
    to[0] = __shfl_sync(~0u, value, 3);
    to[1] = __shfl_xor_sync(~0u, value, 5);
    to[2] = __shfl_down_sync(~0u, value, 4);
    to[3] = __shfl_up_sync(~0u, value, 1);
    to[4] = (int)__ballot_sync(~0u, lane % 3 == 0);
    for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
    to[5] = value;
}

static void shuffles_of_a_warp(void **state)
{
    (void)state;
    static int out[BLOCKS * THREADS][6];
    int *device = (int *)to_device(out, sizeof out);
    QR_LAUNCH(shuffles, BLOCKS, THREADS, 0, NULL, device);
    from_device(out, device, sizeof out);
    for (int i = 0; i < BLOCKS * THREADS; i++) {
        int lane = i % 32, base = i / THREADS * 1000 + i % THREADS - lane;
        assert_int_equal(out[i][0], base + 3);
        assert_int_equal(out[i][1], base + (lane ^ 5));
        assert_int_equal(out[i][2], base + (lane < 28 ? lane + 4 : lane));
        assert_int_equal(out[i][3], base + (lane > 0 ? lane - 1 : lane));
        assert_int_equal(out[i][4], 0x49249249);
        assert_int_equal(out[i][5], 32 * base + 31 * 16);
    }
}

/* Each round every thread adds what its neighbour of another warp had in the round before. */
static __global__ void rounds(int *out, int count, int *total)
{
    __shared__ int sums[2][THREADS];
    QR_DYNAMIC_SHARED(int, extra);
    int me = threadIdx.x;
    sums[0][me] = me;
    extra[me] = 1;
    for (int i = 0; i < count; i++) {
        __syncthreads();
        sums[(i + 1) % 2][me] = sums[i % 2][me] + sums[i % 2][(me + 37) % THREADS] + extra[(me + 64) % THREADS];
    }
    out[blockIdx.x * THREADS + me] = sums[count % 2][me];
    atomicAdd(total, 1);
}

static void barriers_of_a_block(void **state)
{
    (void)state;
    int expected[2][THREADS], zero = 0, total, out[BLOCKS * THREADS] = {0};
    for (int i = 0; i < THREADS; i++) expected[0][i] = i;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < THREADS; j++)
            expected[(i + 1) % 2][j] = expected[i % 2][j] + expected[i % 2][(j + 37) % THREADS] + 1;
    for (int trial = 0; trial < 2; trial++) { /* the shim's threads take turns in either order */
        int *device = (int *)to_device(out, sizeof out), *count = (int *)to_device(&zero, sizeof zero);
        QR_LAUNCH(rounds, BLOCKS, THREADS, THREADS * sizeof(int), NULL, device, 4, count);
        from_device(out, device, sizeof out);
        from_device(&total, count, sizeof total);
        assert_int_equal(total, BLOCKS * THREADS);
        for (int i = 0; i < BLOCKS * THREADS; i++) assert_int_equal(out[i], expected[0][i % THREADS]);
    }
}

/* ---- tensor cores: A [16][K] and B [N = 8][K] from shared memory by ldmatrix, D [16][8] */

template <class T> static __device__ T *tile(T *shared, const T *global, int count)
{
    for (int i = threadIdx.x; i < count; i += 32) shared[i] = global[i];
    __syncwarp();
    return shared;
}

static __device__ void store_fragment(float *out, const float d[4])
{
    int g = threadIdx.x / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}

/* Matrices of ldmatrix x4: rows 0-7, rows 8-15, then both again 16 bytes further. */
static __global__ void multiply_16(const uint16_t *a, const uint16_t *b, const uint16_t *b_rows, float *out, bool bf16)
{
    __shared__ __align__(16) uint16_t a_tile[16 * 16], b_tile[8 * 16], b_rows_tile[16 * 8];
    int lane = threadIdx.x;
    tile(a_tile, a, 16 * 16);
    tile(b_tile, b, 8 * 16);
    tile(b_rows_tile, b_rows, 16 * 8);
    uint32_t af[4], bf[2], transposed[2];
    qr_ldmatrix_x4(af, a_tile + lane % 16 * 16 + lane / 16 * 8);
    qr_ldmatrix_x2(bf, b_tile + lane % 8 * 16 + lane / 8 % 2 * 8);
    qr_ldmatrix_x2_trans(transposed, b_rows_tile + lane % 16 * 8); /* the same from B as [K][N] */
    float d[4] = {1, 1, 1, 1};
    for (int i = 0; i < 2; i++) {
        if (bf16)
            qr_mma_bf16(d, af, i ? transposed : bf);
        else
            qr_mma_f16(d, af, i ? transposed : bf);
    }
    store_fragment(out, d);
}

static void mma_of_16_bits(void **state)
{
    (void)state;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        uint16_t a[16][16], b[8][16], rows[16][8];
        float out[16][8] = {{0}};
        int ai[16][16], bi[8][16]; /* small whole numbers: exact */
        for (int i = 0; i < 16; i++)
            for (int k = 0; k < 16; k++) {
                ai[i][k] = (i * 7 + k * 3) % 13 - 6;
                a[i][k] = bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn((float)ai[i][k]))
                               : __half_as_ushort(__float2half_rn((float)ai[i][k]));
            }
        for (int n = 0; n < 8; n++)
            for (int k = 0; k < 16; k++) {
                bi[n][k] = (n * 5 + k * 11) % 17 - 8;
                rows[k][n] = b[n][k] = bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn((float)bi[n][k]))
                                            : __half_as_ushort(__float2half_rn((float)bi[n][k]));
            }
        uint16_t *da = (uint16_t *)to_device(a, sizeof a), *db = (uint16_t *)to_device(b, sizeof b);
        uint16_t *drows = (uint16_t *)to_device(rows, sizeof rows);
        float *dout = (float *)to_device(out, sizeof out);
        QR_LAUNCH(multiply_16, 1, 32, 0, NULL, da, db, drows, dout, bf16 != 0);
        from_device(out, dout, sizeof out);
        cudaFree(da), cudaFree(db), cudaFree(drows);
        for (int i = 0; i < 16; i++)
            for (int n = 0; n < 8; n++) {
                int sum = 0;
                for (int k = 0; k < 16; k++) sum += ai[i][k] * bi[n][k];
                assert_float_equal(out[i][n], (float)(1 + 2 * sum), 0);
            }
    }
}

static __global__ void multiply_8(const int8_t *a, const int8_t *b, float *out)
{
    __shared__ __align__(16) int8_t a_tile[16 * 32], b_tile[8 * 32];
    int lane = threadIdx.x;
    tile(a_tile, a, 16 * 32);
    tile(b_tile, b, 8 * 32);
    uint32_t af[4], bf[2];
    qr_ldmatrix_x4(af, a_tile + lane % 16 * 32 + lane / 16 * 16);
    qr_ldmatrix_x1(bf, b_tile + lane % 8 * 32);
    qr_ldmatrix_x1(bf + 1, b_tile + lane % 8 * 32 + 16);
    int32_t d[4] = {-5, -5, -5, -5};
    qr_mma_s8(d, af, bf);
    float values[4] = {(float)d[0], (float)d[1], (float)d[2], (float)d[3]};
    store_fragment(out, values);
}

static void mma_of_8_bits(void **state)
{
    (void)state;
    int8_t a[16][32], b[8][32];
    float out[16][8] = {{0}};
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 32; k++) a[i][k] = (int8_t)(i * 37 + k * 91);
    for (int n = 0; n < 8; n++)
        for (int k = 0; k < 32; k++) b[n][k] = (int8_t)(n * 53 + k * 29);
    int8_t *da = (int8_t *)to_device(a, sizeof a), *db = (int8_t *)to_device(b, sizeof b);
    float *dout = (float *)to_device(out, sizeof out);
    QR_LAUNCH(multiply_8, 1, 32, 0, NULL, da, db, dout);
    from_device(out, dout, sizeof out);
    cudaFree(da), cudaFree(db);
    for (int i = 0; i < 16; i++)
        for (int n = 0; n < 8; n++) {
            int sum = -5;
            for (int k = 0; k < 32; k++) sum += a[i][k] * b[n][k];
            assert_float_equal(out[i][n], (float)sum, 0);
        }
}

/* ---- cp.async: a pipeline of two stages over rows of 16 bytes per thread */

static __global__ void pipeline(const uint4 *in, int count, int valid, uint4 *out)
{
    __shared__ uint4 stages[2][32];
    int lane = threadIdx.x;
    for (int i = 0; i < count; i++) {
        if (i == 0) {
            qr_cp_async_16(&stages[0][lane], in + lane, 0 < valid);
            qr_cp_async_commit();
        }
        if (i + 1 < count) {
            qr_cp_async_16(&stages[(i + 1) % 2][lane], in + (i + 1) * 32 + lane, i + 1 < valid);
            qr_cp_async_commit();
            qr_cp_async_wait<1>();
        } else {
            qr_cp_async_wait<0>();
        }
        __syncthreads();
        out[i * 32 + lane] = stages[i % 2][31 - lane];
        __syncthreads();
    }
}

static void asynchronous_copies(void **state)
{
    (void)state;
    enum { COUNT = 5, VALID = 4 };
    uint32_t in[COUNT][32][4], out[COUNT][32][4];
    for (uint32_t i = 0; i < COUNT * 32 * 4; i++) (&in[0][0][0])[i] = i + 1;
    memset(out, 0xAA, sizeof out);
    uint4 *din = (uint4 *)to_device(in, sizeof in), *dout = (uint4 *)to_device(out, sizeof out);
    QR_LAUNCH(pipeline, 1, 32, 0, NULL, din, COUNT, VALID, dout);
    from_device(out, dout, sizeof out);
    cudaFree(din);
    for (int i = 0; i < COUNT; i++)
        for (int lane = 0; lane < 32; lane++)
            for (int j = 0; j < 4; j++) assert_int_equal(out[i][lane][j], i < VALID ? in[i][31 - lane][j] : 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shuffles_of_a_warp), cmocka_unit_test(barriers_of_a_block), cmocka_unit_test(mma_of_16_bits),
        cmocka_unit_test(mma_of_8_bits),      cmocka_unit_test(asynchronous_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
