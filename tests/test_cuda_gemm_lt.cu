/* cuda_gemm_lt: products by cuBLASLt (over the shim: by loops) against double precision, in pieces of rows and tokens;
 * the same bits for a token whatever its number of companions; no algorithm, no library. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include <cmocka.h>

#include "backend_sets.h"
}

#include "cuda_memory.h"
#include "random_values.h"

extern "C" const qr_cuda_api *quire_cuda_api(void);

enum { MAX_TOKENS = 300 };

static const qr_cuda_api *api;
static qr_cuda_device *dev;
static qr_lt_scratch scratch;

static void use_the_shim(void)
{
#ifndef __CUDACC__
    setenv("QUIRE_CUBLASLT_LIBRARY", cuda_shim_path(), 1);
#endif
}

static int set_up(void **state)
{
    (void)state;
    char problem[256] = "";
    qr_cuda_info info;
    use_the_shim();
    api = quire_cuda_api();
    if (api->open(0, &dev, &info) != 0) return -1;
    if (!api->lt_open(dev, problem, sizeof problem)) print_message("%s\n", problem);
    scratch.x16 = api->alloc(dev, 512 * 1024 * sizeof(uint16_t));
    scratch.w16 = api->alloc(dev, 512 * 1024 * sizeof(uint16_t)); /* of small matrices */
    scratch.out = (float *)api->alloc(dev, 512 * 1024 * sizeof(float));
    scratch.workspace = api->alloc(dev, QR_LT_WORKSPACE_BYTES);
    return scratch.workspace && problem[0] == '\0' ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    void *const memory[] = {scratch.x16, scratch.w16, scratch.out, scratch.workspace};
    for (void *p : memory) api->free(dev, p);
    api->close(dev);
    return 0;
}

/* Rows as in a checkpoint: any codes, scales of a common size. */
static uint8_t *random_rows(qr_dtype dtype, int64_t rows, int64_t cols, size_t *row_bytes)
{
    const size_t block_bytes = (size_t)qr_dtype_block_bytes(dtype);
    *row_bytes = (size_t)(cols / qr_dtype_block_len(dtype)) * block_bytes;
    uint8_t *data = (uint8_t *)malloc((size_t)rows * *row_bytes);
    for (uint8_t *p = data; p < data + (size_t)rows * *row_bytes; p += block_bytes) {
        for (size_t i = 0; i < block_bytes; i++) p[i] = (uint8_t)next_random();
        const uint16_t d = qr_f32_to_f16(random_float() / 16), m = qr_f32_to_f16(random_float() / 8);
        const uint16_t one = dtype == QR_BF16 ? qr_f32_to_bf16(random_float()) : qr_f32_to_f16(random_float());
        if (dtype == QR_F16 || dtype == QR_BF16)
            memcpy(p, &one, 2);
        else
            memcpy(p + (dtype == QR_Q6_K ? 208 : 0), &d, 2);
        if (dtype == QR_Q4_1 || dtype == QR_Q4_K) memcpy(p + 2, &m, 2);
    }
    return data;
}

/* A matrix on the device, and its values as they are multiplied: within bfloat16's rounding of a low-bit one. */
struct matrix {
    qr_dtype dtype;
    int64_t rows, cols;
    float *values;
    void *data, *panels;
    qr_lt_weight w;
};

static float rounded(float x, bool is_f16)
{
    return is_f16 ? qr_f16_to_f32(qr_f32_to_f16(x)) : qr_bf16_to_f32(qr_f32_to_bf16(x));
}

static matrix make_matrix(qr_dtype dtype, int64_t rows, int64_t cols)
{
    matrix m = {dtype, rows, cols, NULL, NULL, NULL, {}};
    size_t row_bytes;
    uint8_t *host = random_rows(dtype, rows, cols, &row_bytes);
    m.values = (float *)malloc((size_t)(rows * cols) * sizeof(float));
    for (int64_t n = 0; n < rows; n++) qr_dequantize(dtype, host + (size_t)n * row_bytes, m.values + n * cols, cols);
    for (int64_t i = 0; i < rows * cols; i++) m.values[i] = rounded(m.values[i], dtype == QR_F16);
    m.data = to_device(host, (size_t)rows * row_bytes);
    free(host);
    qr_mma_weight packed = {};
    const bool low_bit = qr_dtype_block_len(dtype) > 1;
    if (low_bit) {
        assert_true(qr_mma_weight_describe(dtype, rows, cols, &packed));
        m.panels = packed.data = (uint8_t *)api->alloc(dev, packed.bytes);
        api->mma_pack(dev, &packed, m.data, row_bytes);
    }
    api->lt_describe(dev, dtype, rows, cols, low_bit ? NULL : m.data, low_bit ? &packed : NULL, &m.w);
    return m;
}

static void free_matrix(matrix *m)
{
    free(m->values);
    cudaFree(m->data);
    api->free(dev, m->panels);
}

/* y of tokens [first, first + count); y held `start` before. */
static void multiply(const matrix *m, const float *x, int64_t ld_x, int first, int count, const float *bias,
                     const float *start, int64_t ld_y, float *out)
{
    const size_t bytes = (size_t)(MAX_TOKENS * ld_y) * sizeof(float);
    float *y = (float *)to_device(start, bytes);
    qr_lt_linear args = {};
    args.w = &m->w, args.scratch = scratch, args.num_tokens = count, args.bias = bias, args.accumulate = true;
    args.y = y + first * ld_y, args.ld_y = ld_y;
    api->lt_round_x(dev, x + first * ld_x, ld_x, count, m->cols, m->w.is_f16, scratch.x16);
    api->lt_multiply(dev, &args);
    api->read(dev, out, y, bytes);
    cudaFree(y);
    for (int64_t i = 0; i < MAX_TOKENS * ld_y; i++) /* nothing else has changed */
        if (i / ld_y < first || i / ld_y >= first + count || i % ld_y >= m->rows)
            assert_memory_equal(&out[i], &start[i], sizeof(float));
}

static void assert_reference(const matrix *m, const float *x, int64_t ld_x, const float *bias, const float *start,
                             const float *y, int64_t ld_y)
{
    const double tolerance = qr_dtype_block_len(m->dtype) > 1 ? 1e-4 : 1e-6; /* scale * code + min: another rounding */
    for (int t = 0; t < MAX_TOKENS; t += 13)
        for (int64_t n = 0; n < m->rows; n += 3) {
            double sum = 0, size = 1;
            for (int64_t k = 0; k < m->cols; k++) {
                const double part = (double)rounded(x[t * ld_x + k], m->w.is_f16) * (double)m->values[n * m->cols + k];
                sum += part;
                size += fabs(part);
            }
            sum += (double)bias[n] + (double)start[t * ld_y + n];
            if (!(fabs((double)y[t * ld_y + n] - sum) <= tolerance * size))
                fail_msg("%s [%d, %d]: token %d row %d: %.9g, expected %.9g", qr_dtype_name(m->dtype), (int)m->rows,
                         (int)m->cols, t, (int)n, (double)y[t * ld_y + n], sum);
        }
}

static void check_product(qr_dtype dtype, int64_t rows, int64_t cols, int64_t piece_rows, int64_t piece_tokens)
{
    matrix m = make_matrix(dtype, rows, cols);
    assert_true(m.w.is_there);
    assert_true((m.w.rows != NULL) == (qr_dtype_block_len(dtype) == 1) && m.w.piece_rows == rows);
    m.w.piece_rows = piece_rows;
    m.w.piece_tokens = piece_tokens;
    const int64_t ld_x = cols + 4, ld_y = rows + 5;
    const size_t num_y = (size_t)(MAX_TOKENS * ld_y);
    float *x = (float *)malloc((size_t)(MAX_TOKENS * ld_x) * sizeof(float)),
          *bias = (float *)malloc(rows * sizeof(float));
    float *start = (float *)malloc(num_y * sizeof(float)), *all = (float *)malloc(num_y * sizeof(float));
    float *some = (float *)malloc(num_y * sizeof(float));
    for (int64_t i = 0; i < MAX_TOKENS * ld_x; i++) x[i] = random_float() * 2;
    for (int64_t i = 0; i < rows; i++) bias[i] = random_float();
    for (size_t i = 0; i < num_y; i++) start[i] = random_float();
    float *device_x = (float *)to_device(x, (size_t)(MAX_TOKENS * ld_x) * sizeof(float));
    float *device_bias = (float *)to_device(bias, (size_t)rows * sizeof(float));
    multiply(&m, device_x, ld_x, 0, MAX_TOKENS, device_bias, start, ld_y, all);
    assert_reference(&m, x, ld_x, bias, start, all, ld_y);
    const int counts[] = {1, 128, 131};
    for (int count : counts) {
        const int first = random_int(0, MAX_TOKENS - count);
        multiply(&m, device_x, ld_x, first, count, device_bias, start, ld_y, some);
        for (int64_t t = first; t < first + count; t++)
            assert_memory_equal(some + t * ld_y, all + t * ld_y, (size_t)rows * sizeof(float));
    }
    cudaFree(device_x), cudaFree(device_bias);
    free(x), free(bias), free(start), free(all), free(some);
    free_matrix(&m);
}

static void products_of_every_type_in_pieces(void **state)
{
    (void)state;
    check_product(QR_BF16, 72, 40, 72, 512);
    check_product(QR_BF16, 136, 72, 128, 128);
    check_product(QR_F16, 264, 24, 128, 256);
    check_product(QR_Q4_0, 48, 288, 48, 512);
    check_product(QR_Q4_1, 136, 256, 128, 128);
    check_product(QR_Q4_K, 32, 512, 32, 256);
    check_product(QR_Q5_0, 24, 288, 24, 512);
    check_product(QR_Q8_0, 152, 416, 128, 512);
    check_product(QR_Q6_K, 16, 512, 16, 128);
}

static void large_matrices_are_cut(void **state)
{
    (void)state;
    qr_lt_weight w;
    static const uint8_t somewhere[1] = {0};
    assert_true(api->lt_describe(dev, QR_BF16, 28672, 8192, somewhere, NULL, &w));
    assert_int_equal(w.piece_rows, 8192);
    assert_int_equal(w.piece_tokens, 2048);
    assert_true(api->lt_describe(dev, QR_BF16, 262144, 64, somewhere, NULL, &w));
    assert_int_equal(w.piece_rows, 131072);
    assert_int_equal(w.piece_tokens, 128);
    assert_false(api->lt_describe(dev, QR_BF16, 64, 68, somewhere, NULL, &w));
    assert_false(api->lt_describe(dev, QR_BF16, 65, 64, somewhere, NULL, &w));
}

#ifndef __CUDACC__

static void without_an_algorithm(void **state)
{
    (void)state;
    static const char *const found[] = {"0", "1"}; /* the first splits K */
    for (const char *count : found) {
        setenv("QUIRE_SHIM_LT_ALGOS", count, 1);
        matrix m = make_matrix(QR_Q4_0, 64, 64);
        assert_false(m.w.is_there);
        free_matrix(&m);
    }
    unsetenv("QUIRE_SHIM_LT_ALGOS");
}

static void without_the_library(void **state)
{
    (void)state;
    static const char *const paths[] = {"/nowhere/libcublasLt.so.13", "libm.so.6"};
    static const char *const problems[] = {"/nowhere/libcublasLt.so.13", "cublasLtCreate"};
    qr_cuda_device *other;
    qr_cuda_info info;
    char problem[256];
    assert_int_equal(api->open(0, &other, &info), 0);
    for (int i = 0; i < 2; i++) {
        setenv("QUIRE_CUBLASLT_LIBRARY", paths[i], 1);
        assert_false(api->lt_open(other, problem, sizeof problem));
        assert_non_null(strstr(problem, problems[i]));
    }
    use_the_shim();
    assert_true(api->lt_open(other, problem, sizeof problem));
    api->close(other);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_every_type_in_pieces),
        cmocka_unit_test(large_matrices_are_cut),
#ifndef __CUDACC__
        cmocka_unit_test(without_an_algorithm),
        cmocka_unit_test(without_the_library),
#endif
    };
    return cmocka_run_group_tests_name("cuda gemm_lt", tests, set_up, tear_down);
}
