/* cuda_mma_linear: packed weights against double precision over the values they stand for; the same bits for a token
 * whatever its number of companions. */
#include <math.h>
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

#include "backend/cuda/mma_index.cuh"
#include "backend/cuda/mma_linear.h"
#include "cuda_memory.h"
#include "random_values.h"

enum { MAX_TOKENS = 140 };

/* ---- index arithmetic */

static void every_element_of_a_has_one_lane(void **state)
{
    (void)state;
    bool taken[16][16] = {};
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            for (int e = 0; e < 2; e++) {
                bool *place = &taken[qr_mma_a_row(lane, i)][qr_mma_a_col(lane, i, e)];
                assert_false(*place);
                *place = true;
            }
}

static void codes_of_a_unit_do_not_meet(void **state)
{
    (void)state;
    static bool taken[3][4096];
    for (int step = 0; step < 8; step++)
        for (int lane = 0; lane < 32; lane++) {
            const int offsets[3] = {qr_unit_offset_16bit(step, lane), qr_unit_offset_8bit(step, lane),
                                    qr_unit_offset_4bit(step, lane)};
            for (int k = 0; k < 3; k++)
                for (int i = 0, bytes = 16 >> k; i < bytes; i++) {
                    assert_int_equal(offsets[k] % bytes, 0);
                    assert_in_range(offsets[k] + i, 0, (4096 >> k) - 1);
                    assert_false(taken[k][offsets[k] + i]);
                    taken[k][offsets[k] + i] = true;
                }
        }
}

static void splits_cover_k_whatever_the_tokens(void **state)
{
    (void)state;
    for (int trial = 0; trial < 3000; trial++) {
        int64_t rows = 1 + next_random() % 40000, cols = 8 * (1 + next_random() % 4000);
        qr_mma_weight w;
        assert_true(qr_mma_weight_describe(QR_Q8_0, rows, cols, &w));
        assert_true((int64_t)w.num_units * QR_UNIT_COLS >= cols && w.num_panels * QR_UNIT_ROWS >= rows);
        assert_true((w.num_splits - 1) * w.split_units < w.num_units && w.num_splits * w.split_units >= w.num_units);
        /* so the parts and the counters suffice */
        assert_true(w.num_splits == 1 || w.num_panels / 8 * w.num_splits <= QR_LINEAR_MAX_BLOCKS);
    }
    qr_mma_weight w;
    assert_false(qr_mma_weight_describe(QR_Q3_K, 256, 256, &w));
    assert_false(qr_mma_weight_describe(QR_F16, 256, 36, &w));
}

/* ---- products */

/* Rows as in a checkpoint: any codes, scales of a common size. */
static uint8_t *random_rows(qr_dtype dtype, int64_t rows, int64_t cols, size_t *row_bytes)
{
    int block_bytes = qr_dtype_block_bytes(dtype);
    *row_bytes = (size_t)(cols / qr_dtype_block_len(dtype)) * (size_t)block_bytes;
    uint8_t *data = (uint8_t *)malloc((size_t)rows * *row_bytes);
    for (size_t at = 0; at < (size_t)rows * *row_bytes; at += (size_t)block_bytes) {
        uint8_t *p = data + at;
        for (int i = 0; i < block_bytes; i++) p[i] = (uint8_t)next_random();
        uint16_t d = qr_f32_to_f16(random_float() / 16), m = qr_f32_to_f16(random_float() / 8);
        uint16_t half = qr_f32_to_f16(random_float()), bfloat = qr_f32_to_bf16(random_float());
        switch (dtype) {
        case QR_F16: memcpy(p, &half, 2); break;
        case QR_BF16: memcpy(p, &bfloat, 2); break;
        case QR_Q6_K: memcpy(p + 208, &d, 2); break;
        default:
            memcpy(p, &d, 2);
            if (dtype == QR_Q4_1 || dtype == QR_Q4_K) memcpy(p + 2, &m, 2);
        }
    }
    return data;
}

typedef struct matrix {
    qr_dtype dtype;
    int64_t rows, cols;
    bool bias, accumulate;
} matrix;

typedef struct buffers {
    qr_mma_weight w;
    float *x, *y, *bias, *parts; /* device */
    int32_t *counters;
    int64_t ld_x, ld_y;
} buffers;

/* y of `count` tokens from `first` on; y held `start` before. */
static void multiply(const matrix *m, const buffers *b, int first, int count, const float *start, float *out)
{
    size_t y_bytes = (size_t)(MAX_TOKENS * b->ld_y) * sizeof(float);
    assert_int_equal(cudaMemcpy(b->y, start, y_bytes, cudaMemcpyHostToDevice), cudaSuccess);
    qr_mma_linear args = {};
    args.w = &b->w, args.x = b->x + first * b->ld_x, args.ld_x = b->ld_x, args.num_tokens = count;
    args.bias = m->bias ? b->bias : NULL, args.y = b->y + first * b->ld_y, args.ld_y = b->ld_y;
    args.accumulate = m->accumulate, args.parts = b->parts, args.counters = b->counters;
    assert_int_equal(qr_mma_linear_run(&args, NULL), cudaSuccess);
    assert_int_equal(cudaMemcpy(out, b->y, y_bytes, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int64_t t = 0; t < MAX_TOKENS; t++) /* nothing else has changed */
        for (int64_t n = 0; n < b->ld_y; n++)
            if (t < first || t >= first + count || n >= m->rows)
                assert_memory_equal(&out[t * b->ld_y + n], &start[t * b->ld_y + n], sizeof(float));
}

/* Of what a weight is made of: with a minimum, scale * code may be nearly its negative. */
static double weight_size(const matrix *m, const float *w, int64_t k)
{
    double size = fabs((double)w[k]);
    if (m->dtype != QR_Q4_1 && m->dtype != QR_Q4_K) return size;
    for (int64_t i = k / 32 * 32; i < k / 32 * 32 + 32; i++) size = fmax(size, fabs((double)w[i]));
    return 2 * size;
}

static void assert_reference(const matrix *m, const buffers *b, const uint8_t *rows, size_t row_bytes, const float *x,
                             const float *bias, const float *start, const float *y)
{
    float *w = (float *)malloc((size_t)m->cols * sizeof *w);
    double worst = 0;
    for (int64_t n = 0; n<m->rows; n += m->rows> 40 ? 3 : 1) {
        qr_dequantize(m->dtype, rows + (size_t)n * row_bytes, w, m->cols);
        for (int t = 0; t < MAX_TOKENS; t += 7) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < m->cols; k++) {
                sum += (double)x[t * b->ld_x + k] * (double)w[k];
                size += fabs((double)x[t * b->ld_x + k] * weight_size(m, w, k));
            }
            if (m->bias) sum += (double)bias[n];
            if (m->accumulate) sum += (double)start[t * b->ld_y + n];
            double off = fabs((double)y[t * b->ld_y + n] - sum) / (size + 1);
            if (!(off < 9e-6)) /* hi + lo is x within 2^-17, 7.6e-6 of each product; float32 sums */
                fail_msg("type %s, row %d, token %d: %.9g, expected %.9g", qr_dtype_name(m->dtype), (int)n, t,
                         (double)y[t * b->ld_y + n], sum);
            worst = fmax(worst, off);
        }
    }
    printf("%-5s [%d, %d], %d splits: off by at most %.1e of the products' sizes\n", qr_dtype_name(m->dtype),
           (int)m->rows, (int)m->cols, b->w.num_splits, worst);
    free(w);
}

static const matrix matrices[] = {
    {QR_BF16, 150, 1048, true, false}, {QR_F16, 20, 136, false, true},    {QR_Q4_0, 129, 1056, false, true},
    {QR_Q4_1, 128, 96, true, true},    {QR_Q4_K, 33, 1280, false, false}, {QR_Q8_0, 16, 1184, true, false},
    {QR_Q5_0, 7, 64, false, false},    {QR_Q6_K, 40, 1024, true, true},
};

static void products_are_right_for_any_number_of_tokens(void **state)
{
    (void)state;
    for (const matrix &m : matrices) {
        buffers b = {};
        assert_true(qr_mma_weight_describe(m.dtype, m.rows, m.cols, &b.w));
        b.ld_x = m.cols + (m.bias ? 4 : 3), b.ld_y = m.rows + 3;
        size_t row_bytes, num_x = (size_t)(MAX_TOKENS * b.ld_x), num_y = (size_t)(MAX_TOKENS * b.ld_y);
        uint8_t *rows = random_rows(m.dtype, m.rows, m.cols, &row_bytes);
        float *x = (float *)malloc(num_x * 4), *start = (float *)malloc(num_y * 4), *bias = (float *)malloc(num_y * 4);
        float *first = (float *)malloc(num_y * 4), *y = (float *)malloc(num_y * 4);
        for (size_t i = 0; i < num_x; i++) { /* some far from the rest; nothing behind a row is used */
            x[i] = random_float() * (i % 97 ? 1 : 3000);
            if ((int64_t)i % b.ld_x >= m.cols) x[i] = NAN;
        }
        for (size_t i = 0; i < num_y; i++) start[i] = random_float(), bias[i] = random_float();

        void *device_rows = to_device(rows, (size_t)m.rows * row_bytes);
        assert_int_equal(cudaMalloc(&b.w.data, b.w.bytes), cudaSuccess);
        assert_int_equal(cudaMalloc(&b.parts, QR_LINEAR_PART_FLOATS * sizeof(float)), cudaSuccess);
        assert_int_equal(cudaMalloc(&b.counters, QR_LINEAR_COUNTERS * 4), cudaSuccess);
        assert_int_equal(cudaMemsetAsync(b.counters, 0, QR_LINEAR_COUNTERS * 4, NULL), cudaSuccess);
        assert_int_equal(cudaMalloc(&b.y, num_y * 4), cudaSuccess);
        b.x = (float *)to_device(x, num_x * 4), b.bias = (float *)to_device(bias, num_y * 4);
        assert_int_equal(qr_mma_weight_pack(&b.w, device_rows, row_bytes, NULL), cudaSuccess);

        multiply(&m, &b, 0, MAX_TOKENS, start, first);
        assert_reference(&m, &b, rows, row_bytes, x, bias, start, first);
        const int counts[] = {1, 5, 8, 11, 33};
        for (int count : counts) {
            int from = (int)(next_random() % (unsigned)(MAX_TOKENS - count));
            multiply(&m, &b, from, count, start, y);
            for (int t = from; t < from + count; t++)
                for (int64_t n = 0; n < m.rows; n++)
                    if (memcmp(&y[t * b.ld_y + n], &first[t * b.ld_y + n], sizeof(float)) != 0)
                        fail_msg("type %s, %d tokens: row %d: %.9g, among %d %.9g", qr_dtype_name(m.dtype), count,
                                 (int)n, (double)y[t * b.ld_y + n], MAX_TOKENS, (double)first[t * b.ld_y + n]);
        }
        cudaFree(device_rows), cudaFree(b.w.data), cudaFree(b.parts), cudaFree(b.counters);
        cudaFree(b.x), cudaFree(b.y), cudaFree(b.bias);
        free(rows), free(x), free(start), free(bias), free(first), free(y);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_element_of_a_has_one_lane),
        cmocka_unit_test(codes_of_a_unit_do_not_meet),
        cmocka_unit_test(splits_cover_k_whatever_the_tokens),
        cmocka_unit_test(products_are_right_for_any_number_of_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
