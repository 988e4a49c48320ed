/* cuda_wgmma: hopper.cuh's words one by one, with mma_index.cuh's descriptors: where TMA puts a page, and products of
 * small whole numbers with it. With nvcc the same test runs on a GPU of capability 9.0. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include <cmocka.h>
}

#include "backend/cuda/hopper.cuh"
#include "backend/cuda/mma_attention.h"
#include "backend/cuda/mma_index.cuh"
#include "cuda_memory.h"
#include "random_values.h"
#include "tensor/tensor.h"

enum { BLOCKS = 9, HEADS = 2, HEAD = 1, ROWS = 64, KEYS = QR_MMA_KEYS, MAX_HEAD = 128 };
static const int block_sizes[] = {8, 16, 32, 64, 128};

/* ---- index arithmetic */

static void descriptors_as_the_isa_has_them(void **state)
{
    (void)state;
    assert_true(qr_wgmma_at(qr_wgmma_shape(8192, 1024, 128), 0x1C400) == 0x4000004002001C40u);
    assert_true(qr_wgmma_at(qr_wgmma_shape(16, 256, 32), 0x3FFF0) == 0xC000001000013FFFu);
    assert_true(qr_wgmma_at(qr_wgmma_shape(4096, 512, 64), 0x400) == 0x8000002001000040u);
    assert_true(qr_wgmma_at(qr_wgmma_shape(128, 2048, 16), 1024) == 0x0000008000080040u);
    for (int block_size : block_sizes) {
        int piece = qr_piece_keys(block_size);
        assert_true(piece <= block_size && KEYS % piece == 0);
        for (int head_size = 64; head_size <= 128; head_size += 64) {
            uint64_t k = qr_wgmma_key_shape(head_size, piece);
            unsigned leading = (unsigned)(k >> 16 & 0x3FFF) << 4, stride = (unsigned)(k >> 32 & 0x3FFF) << 4;
            assert_int_equal(piece == 8 ? stride : leading, head_size * piece * 2);
            assert_int_equal(piece == 8 ? leading : stride, 8 * piece * 2);
        }
    }
}

/* ---- on the device */

static bool is_hopper(void)
{
    cudaDeviceProp prop;
    return cudaGetDeviceProperties(&prop, 0) == cudaSuccess && prop.major == 9 && prop.minor == 0;
}

#ifdef QR_HOPPER

/* The tile's K, then V, as TMA leaves them, and the barrier of both. */
static __device__ void load_tile(const CUtensorMap *k_map, const CUtensorMap *v_map, const int *pages, int piece,
                                 int first_slot, int head_size, unsigned char *tile, uint64_t *barrier)
{
    if (threadIdx.x == 0) {
        qr_mbarrier_init(barrier, 1);
        qr_fence_mbarrier_init();
        qr_mbarrier_arrive_expect(barrier, (unsigned)(2 * KEYS * head_size * 2));
        for (int i = 0; i < KEYS / piece; i++) {
            qr_tma_load(tile + i * piece * head_size * 2, k_map, barrier, first_slot, 0, HEAD, pages[i]);
            for (int panel = 0; panel < head_size / 64; panel++)
                qr_tma_load(tile + KEYS * head_size * 2 + panel * KEYS * 128 + i * piece * 128, v_map, barrier,
                            64 * panel, first_slot, HEAD, pages[i]);
        }
    }
    __syncthreads();
    qr_mbarrier_wait(barrier, 0);
}

/* A [64][16 steps] as the warp group's registers. */
static __device__ void load_a(const uint16_t *a, int columns, int step, uint32_t (&out)[4])
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    QR_UNROLL
    for (int i = 0; i < 4; i++) {
        const uint16_t *pair = a + (16 * warp + qr_mma_a_row(lane, i)) * columns + 16 * step + qr_mma_a_col(lane, i, 0);
        out[i] = (uint32_t)pair[1] << 16 | pair[0];
    }
}

template <int N> static __device__ void store_d(const float (&d)[N][4], float *out)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    QR_UNROLL
    for (int n = 0; n < N; n++) QR_UNROLL
    for (int i = 0; i < 4; i++)
        out[(16 * warp + qr_mma_d_row(lane, i)) * 8 * N + 8 * n + qr_mma_d_col(lane, i)] = d[n][i];
}

#endif

/* s = q K, o = 3 + p V, and the tile as it lies in shared memory. */
template <int HD>
__global__ void __launch_bounds__(128)
    products(const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map, const int *pages,
             int piece, int first_slot, const uint16_t *q, const uint16_t *p, float *s, float *o, unsigned char *raw)
{
#ifdef QR_HOPPER
    QR_DYNAMIC_SHARED(unsigned char, shared);
    unsigned char *tile = shared + (1024 - qr_shared_address(shared) % 1024) % 1024;
    uint64_t *barrier = reinterpret_cast<uint64_t *>(tile + 2 * KEYS * HD * 2);
    load_tile(&k_map, &v_map, pages, piece, first_slot, HD, tile, barrier);
    for (int i = (int)threadIdx.x; i < 2 * KEYS * HD * 2; i += 128) raw[i] = tile[i];

    unsigned k = qr_shared_address(tile), v = k + KEYS * HD * 2, k_step = qr_wgmma_key_step(piece);
    uint64_t k_shape = qr_wgmma_key_shape(HD, piece);
    uint32_t qa[HD / 16][4], pa[KEYS / 16][4];
    float sd[KEYS / 8][4], od[HD / 8][4];
    QR_UNROLL
    for (int step = 0; step < HD / 16; step++) load_a(q, HD, step, qa[step]);
    QR_UNROLL
    for (int step = 0; step < KEYS / 16; step++) load_a(p, KEYS, step, pa[step]);
    QR_UNROLL
    for (int i = 0; i < HD / 2; i++) od[i / 4][i % 4] = 3;
    qr_wgmma_hold(qa);
    qr_wgmma_hold(sd);
    qr_wgmma_fence();
    QR_UNROLL
    for (int step = 0; step < HD / 16; step++)
        qr_wgmma_f16(sd, qa[step], qr_wgmma_at(k_shape, k + (unsigned)step * k_step), step > 0);
    qr_wgmma_commit();
    qr_wgmma_hold(pa);
    qr_wgmma_hold(od);
    qr_wgmma_fence();
    QR_UNROLL
    for (int step = 0; step < KEYS / 16; step++)
        qr_wgmma_f16(od, pa[step], qr_wgmma_at(qr_wgmma_value_shape(), v + (unsigned)step * qr_wgmma_value_step()),
                     true);
    qr_wgmma_commit();
    qr_wgmma_wait<1>();
    qr_wgmma_hold(sd);
    store_d(sd, s);
    qr_wgmma_wait<0>();
    qr_wgmma_hold(od);
    store_d(od, o);
#endif
}

static uint16_t small(void) { return qr_f32_to_f16((float)random_int(-8, 8)); }

/* Element of the raw tile: K [dim][key], V [key][dim]; rows of chunks that a swizzle over `row` bytes moves. */
static uint16_t raw_element(const unsigned char *raw, int base, int r, int c, int row)
{
    int at = base + r * row, chunk = c / 8 ^ (at / 128 % (row / 16));
    uint16_t bits;
    memcpy(&bits, raw + at + chunk * 16 + c % 8 * 2, 2);
    return bits;
}

template <int HD> static void multiply_pages(int block_size)
{
    static uint16_t cache[2][BLOCKS * HEADS * 128 * MAX_HEAD]; /* K, V */
    static uint16_t q[ROWS * MAX_HEAD], p[ROWS * KEYS];
    static float s[ROWS * KEYS], o[ROWS * MAX_HEAD];
    static unsigned char raw[2 * KEYS * MAX_HEAD * 2];
    const int head = HD * block_size, piece = qr_piece_keys(block_size), first_slot = block_size > KEYS ? KEYS : 0;
    const size_t cache_bytes = (size_t)(BLOCKS * HEADS * head) * 2;
    int pages[KEYS / 8];
    for (int i = 0; i < BLOCKS * HEADS * head; i++) cache[0][i] = small(), cache[1][i] = small();
    for (int i = 0; i < ROWS * HD; i++) q[i] = small();
    for (int i = 0; i < ROWS * KEYS; i++) p[i] = small();
    for (int i = 0; i < KEYS / piece; i++) pages[i] = (i * 5 + 2) % BLOCKS;

    void *k = to_device(cache[0], cache_bytes), *v = to_device(cache[1], cache_bytes);
    void *dq = to_device(q, sizeof q), *dp = to_device(p, sizeof p), *dpages = to_device(pages, sizeof pages);
    void *ds = to_device(s, sizeof s), *d_o = to_device(o, sizeof o), *draw = to_device(raw, sizeof raw);
    CUtensorMap k_map, v_map;
    const qr_tma_tensor kt = {k, HD, block_size, HEADS, BLOCKS, 2 * head, 2 * HEADS * head};
    const qr_tma_tensor vt = {v, block_size, HD, HEADS, BLOCKS, 2 * head, 2 * HEADS * head};
    assert_true(qr_tma_describe(&kt, HD, piece, &k_map) && qr_tma_describe(&vt, piece, 64, &v_map));
    size_t shared_bytes = 1024 + 2 * KEYS * HD * 2 + sizeof(uint64_t);
    assert_int_equal(cudaFuncSetAttribute(products<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes),
                     cudaSuccess);
    QR_LAUNCH(products<HD>, dim3(1), dim3(128), shared_bytes, NULL, k_map, v_map, (const int *)dpages, piece,
              first_slot, (const uint16_t *)dq, (const uint16_t *)dp, (float *)ds, (float *)d_o, (unsigned char *)draw);
    assert_int_equal(cudaMemcpy(s, ds, sizeof s, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_int_equal(cudaMemcpy(o, d_o, sizeof o, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_int_equal(cudaMemcpy(raw, draw, sizeof raw, cudaMemcpyDeviceToHost), cudaSuccess);
    cudaFree(k), cudaFree(v), cudaFree(dq), cudaFree(dp), cudaFree(dpages), cudaFree(ds), cudaFree(d_o), cudaFree(draw);

    static uint16_t keys[MAX_HEAD][KEYS], values[KEYS][MAX_HEAD];
    for (int key = 0; key < KEYS; key++)
        for (int dim = 0; dim < HD; dim++) {
            int page = key / piece, slot = first_slot + key % piece, at = (pages[page] * HEADS + HEAD) * head;
            keys[dim][key] = cache[0][at + dim * block_size + slot];
            values[key][dim] = cache[1][at + slot * HD + dim];
            assert_int_equal(raw_element(raw, page * piece * HD * 2, dim, key % piece, 2 * piece), keys[dim][key]);
            assert_int_equal(raw_element(raw, (HD + dim / 64 * 64) * KEYS * 2, key, dim % 64, 128), values[key][dim]);
        }
    for (int row = 0; row < ROWS; row++) {
        for (int key = 0; key < KEYS; key++) {
            float sum = 0;
            for (int dim = 0; dim < HD; dim++) sum += qr_f16_to_f32(q[row * HD + dim]) * qr_f16_to_f32(keys[dim][key]);
            assert_float_equal(s[row * KEYS + key], sum, 0);
        }
        for (int dim = 0; dim < HD; dim++) {
            float sum = 3;
            for (int key = 0; key < KEYS; key++)
                sum += qr_f16_to_f32(p[row * KEYS + key]) * qr_f16_to_f32(values[key][dim]);
            assert_float_equal(o[row * HD + dim], sum, 0);
        }
    }
}

static void pages_by_tma_times_registers(void **state)
{
    (void)state;
    if (!is_hopper()) skip();
    for (int trial = 0; trial < 2; trial++) /* the shim's copies and products come late and early */
        for (int block_size : block_sizes) {
            multiply_pages<64>(block_size);
            multiply_pages<128>(block_size);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptors_as_the_isa_has_them),
        cmocka_unit_test(pages_by_tma_times_registers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
