/* backend: every op of every instruction set that the processor has and of CUDA, against double precision and bit for
 * bit against the scalar reference. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend_sets.h"
#include "random_values.h"

static qr_backend *sets[NUM_SETS]; /* NULL: not here; sets[0] is the reference */

/* shared_free() it */
static float *random_floats(size_t n, float scale)
{
    float *x = shared_alloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = random_float() * scale;
    return x;
}

static int set_up(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_SETS; i++) {
        quire_error error;
        if (create_set(i, 1 + i % 3, &sets[i], &error) != QUIRE_OK) {
            printf("skipped: %s (%s)\n", set_names[i], error.message);
            sets[i] = NULL;
            continue;
        }
        assert_int_equal(sets[i]->ops->reserve(sets[i], 512, 512, 8192, 4096, &error), QUIRE_OK);
    }
    return sets[0] ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_SETS; i++)
        if (sets[i]) sets[i]->ops->destroy(sets[i]);
    return 0;
}

static void assert_same_floats(const float *a, const float *b, size_t n, const char *what, const char *set)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: %s differs from ref at %zu: %.9g, ref %.9g", what, set, i, (double)a[i], (double)b[i]);
}

/* magnitude[i]: what the error is relative to, or NULL: 1 + |b|. */
static void assert_close(const float *a, const double *b, const double *magnitude, size_t n, double tolerance,
                         const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)a[i] - b[i]) <= tolerance * (magnitude ? magnitude[i] : 1 + fabs(b[i]))))
            fail_msg("%s: %.9g at %zu, expected %.9g", what, (double)a[i], i, b[i]);
}

/* ---- linear */

/* shared_free() it.  Random bytes are valid blocks of any type; float16 fields get sane exponents. */
static void *random_matrix(qr_dtype dtype, int64_t rows, int64_t cols, qr_tensor_view *view)
{
    *view = (qr_tensor_view){.name = "random", .dtype = dtype, .num_dims = 2, .dims = {cols, rows, 1, 1}};
    view->bytes = (size_t)rows * qr_tensor_row_bytes(view);
    uint8_t *data = shared_alloc(view->bytes);
    size_t block_bytes = (size_t)qr_dtype_block_bytes(dtype);
    for (size_t i = 0; i < view->bytes; i++) data[i] = (uint8_t)next_random();
    static const struct {
        qr_dtype dtype;
        int offsets[2];
    } halves[] = {{QR_Q4_0, {0, -1}}, {QR_Q4_1, {0, 2}},   {QR_Q5_0, {0, -1}},   {QR_Q5_1, {0, 2}},
                  {QR_Q8_0, {0, -1}}, {QR_Q2_K, {80, 82}}, {QR_Q3_K, {108, -1}}, {QR_Q4_K, {0, 2}},
                  {QR_Q5_K, {0, 2}},  {QR_Q6_K, {208, -1}}};
    for (size_t b = 0; b < view->bytes / block_bytes; b++) {
        uint8_t *block = data + b * block_bytes;
        if (dtype == QR_F32) memcpy(block, &(float){random_float()}, 4);
        if (dtype == QR_F16) memcpy(block, &(uint16_t){qr_f32_to_f16(random_float())}, 2);
        if (dtype == QR_BF16) memcpy(block, &(uint16_t){qr_f32_to_bf16(random_float())}, 2);
        for (size_t h = 0; h < sizeof halves / sizeof *halves; h++)
            for (int i = 0; i < 2; i++)
                if (halves[h].dtype == dtype && halves[h].offsets[i] >= 0)
                    memcpy(block + halves[h].offsets[i], &(uint16_t){qr_f32_to_f16(random_float() * 0.02f)}, 2);
    }
    view->data = data;
    return data;
}

/* What backend.h says the activations become, as doubles. */
static void quantize_reference(const float *x, int64_t cols, double *out)
{
    for (int64_t i = 0; i < cols; i += 32) {
        float max = 0;
        for (int j = 0; j < 32; j++) max = fmaxf(max, fabsf(x[i + j]));
        float d = max / 127.0f, inverse = d > 0 ? 1.0f / d : 0;
        for (int j = 0; j < 32; j++) out[i + j] = (double)d * (double)nearbyintf(x[i + j] * inverse);
    }
}

typedef struct linear_case {
    qr_dtype dtype;
    qr_compute compute;
    int num_tokens, num_weights;
    int64_t rows[3], cols;
    bool bias, accumulate;
} linear_case;

static void linear_expected(const linear_case *c, const qr_tensor_view *views, const float *x, float *const *biases,
                            const float *y_before, double *out, double *magnitude)
{
    int64_t total = 0;
    for (int i = 0; i < c->num_weights; i++) total += c->rows[i];
    double *a = malloc((size_t)c->cols * sizeof *a);
    float *w = malloc((size_t)c->cols * sizeof *w);
    bool lowbit = qr_dtype_block_len(c->dtype) > 1 && c->compute == QR_COMPUTE_AUTO;
    for (int t = 0; t < c->num_tokens; t++) {
        for (int64_t k = 0; k < c->cols; k++) a[k] = (double)x[t * c->cols + k];
        if (lowbit) quantize_reference(x + t * c->cols, c->cols, a);
        int64_t at = t * total;
        for (int i = 0; i < c->num_weights; i++)
            for (int64_t n = 0; n < c->rows[i]; n++, at++) {
                qr_dequantize(c->dtype, (const uint8_t *)views[i].data + (size_t)n * qr_tensor_row_bytes(&views[i]), w,
                              c->cols);
                double sum = 0, absolute = 1;
                for (int64_t k = 0; k < c->cols; k++) {
                    sum += a[k] * (double)w[k];
                    absolute += fabs(a[k] * (double)w[k]);
                }
                if (c->bias) sum += (double)biases[i][n];
                if (c->accumulate) sum += (double)y_before[at];
                out[at] = sum;
                magnitude[at] = absolute;
            }
    }
    free(a);
    free(w);
}

static void run_linear_case(const linear_case *c)
{
    char what[128];
    snprintf(what, sizeof what, "linear %s%s M=%d N=%lld,%lld,%lld K=%lld", qr_dtype_name(c->dtype),
             c->compute == QR_COMPUTE_FLOAT32 ? " as float32" : "", c->num_tokens, (long long)c->rows[0],
             (long long)c->rows[1], (long long)c->rows[2], (long long)c->cols);
    qr_tensor_view views[3];
    float *biases[3] = {NULL};
    int64_t total = 0;
    for (int i = 0; i < c->num_weights; i++) {
        random_matrix(c->dtype, c->rows[i], c->cols, &views[i]);
        biases[i] = random_floats((size_t)c->rows[i], 1);
        total += c->rows[i];
    }
    size_t num_x = (size_t)c->num_tokens * (size_t)c->cols, num_y = (size_t)c->num_tokens * (size_t)total;
    float *x = random_floats(num_x, 2), *y_before = random_floats(num_y, 1);
    if (num_x > 32) memset(x, 0, 32 * sizeof *x); /* a group of zeros */
    double *expected = malloc(num_y * sizeof *expected), *magnitude = malloc(num_y * sizeof *magnitude);
    linear_expected(c, views, x, biases, y_before, expected, magnitude);
    float *y[NUM_SETS] = {NULL};
    for (int s = 0; s < NUM_SETS; s++) {
        if (!sets[s]) continue;
        qr_weight *weights[3];
        for (int i = 0; i < c->num_weights; i++)
            assert_int_equal(sets[s]->ops->weight_create(sets[s], &views[i], c->compute, &weights[i], NULL), QUIRE_OK);
        y[s] = shared_copy(y_before, num_y * sizeof *y[s]);
        sets[s]->ops->linear(sets[s], x, c->cols, c->num_tokens, (const qr_weight *const *)weights,
                             c->bias ? (const float *const *)biases : NULL, c->num_weights, y[s], total, c->accumulate);
        sets[s]->ops->wait(sets[s]);
        if (s == 0)
            assert_close(y[s], expected, magnitude, num_y, 1e-6, what);
        else
            assert_same_floats(y[s], y[0], num_y, what, set_names[s]);
        /* one token alone */
        int t = random_int(0, c->num_tokens - 1);
        float *one = shared_copy(y_before + t * total, (size_t)total * sizeof *one);
        sets[s]->ops->linear(sets[s], x + t * c->cols, c->cols, 1, (const qr_weight *const *)weights,
                             c->bias ? (const float *const *)biases : NULL, c->num_weights, one, total, c->accumulate);
        sets[s]->ops->wait(sets[s]);
        assert_same_floats(one, y[s] + t * total, (size_t)total, what, "one token alone");
        shared_free(one);
        for (int i = 0; i < c->num_weights; i++) sets[s]->ops->weight_destroy(sets[s], weights[i]);
    }
    for (int i = 0; i < c->num_weights; i++) {
        shared_free((void *)views[i].data);
        shared_free(biases[i]);
    }
    for (int s = 0; s < NUM_SETS; s++) shared_free(y[s]);
    shared_free(x);
    shared_free(y_before);
    free(expected);
    free(magnitude);
}

static void linear_of_every_type(void **state)
{
    (void)state;
    for (int dtype = 0; dtype < QR_NUM_DTYPES; dtype++)
        for (int trial = 0; trial < 8; trial++) {
            int unit = qr_dtype_block_len((qr_dtype)dtype);
            linear_case c = {.dtype = (qr_dtype)dtype,
                             .compute = trial % 4 == 3 ? QR_COMPUTE_FLOAT32 : QR_COMPUTE_AUTO,
                             .num_tokens = trial < 2 ? 1 + trial * 69 : random_int(1, 70),
                             .num_weights = trial % 3 + 1,
                             .rows = {random_int(1, 100), random_int(1, 40), random_int(1, 33)},
                             .cols = unit == 1 ? random_int(1, 300) : unit * random_int(1, unit == 32 ? 12 : 2),
                             .bias = trial & 1,
                             .accumulate = trial & 2};
            run_linear_case(&c);
        }
}

static void linear_of_wide_and_tall_shapes(void **state)
{
    (void)state;
    run_linear_case(&(linear_case){QR_Q4_1, QR_COMPUTE_AUTO, 3, 1, {17, 0, 0}, 4416, true, false});
    run_linear_case(&(linear_case){QR_Q4_K, QR_COMPUTE_AUTO, 2, 1, {50, 0, 0}, 4608, false, false});
    run_linear_case(&(linear_case){QR_F16, QR_COMPUTE_AUTO, 5, 1, {33, 0, 0}, 4099, false, true});
    run_linear_case(&(linear_case){QR_Q4_1, QR_COMPUTE_AUTO, 200, 1, {70, 0, 0}, 64, true, false});
    run_linear_case(&(linear_case){QR_F32, QR_COMPUTE_AUTO, 197, 1, {70, 0, 0}, 60, true, false});
    /* more than a block of columns: into results, and into scratch */
    run_linear_case(&(linear_case){QR_Q4_1, QR_COMPUTE_AUTO, 70, 2, {64, 48, 0}, 1120, false, false});
    run_linear_case(&(linear_case){QR_Q8_0, QR_COMPUTE_AUTO, 66, 1, {70, 0, 0}, 1120, true, true});
    run_linear_case(&(linear_case){QR_F16, QR_COMPUTE_AUTO, 65, 1, {64, 0, 0}, 1030, false, false});
}

/* A group that holds something else than numbers, or only numbers that are nearly 0. */
static void linear_of_odd_activations(void **state)
{
    (void)state;
    enum { TOKENS = 5, ROWS = 32, COLS = 576 };
    qr_tensor_view view;
    random_matrix(QR_Q4_1, ROWS, COLS, &view);
    float *x = random_floats(TOKENS * COLS, 2), y[NUM_SETS][TOKENS * ROWS];
    x[1 * COLS + 5] = NAN;
    x[2 * COLS + 17 * 32 + 31] = -INFINITY;
    for (int i = 0; i < 32; i++) x[3 * COLS + 32 + i] = 1e-39f;
    for (int s = 0; s < NUM_SETS; s++) {
        qr_weight *w;
        if (!sets[s]) continue;
        assert_int_equal(sets[s]->ops->weight_create(sets[s], &view, QR_COMPUTE_AUTO, &w, NULL), QUIRE_OK);
        sets[s]->ops->linear(sets[s], x, COLS, TOKENS, (const qr_weight *const *)&w, NULL, 1, y[s], ROWS, false);
        for (int i = 0; i < TOKENS * ROWS; i++)
            if (i / ROWS == 1 || i / ROWS == 2)
                assert_true(isnan(y[s][i]));
            else
                assert_same_floats(&y[s][i], &y[0][i], 1, "linear of odd activations", set_names[s]);
        assert_true(isfinite(y[s][3 * ROWS]));
        sets[s]->ops->weight_destroy(sets[s], w);
    }
    free((void *)view.data);
    free(x);
}

/* ---- rows */

static void norms(void **state)
{
    (void)state;
    for (int trial = 0; trial < 20; trial++) {
        int rows = random_int(1, 40), cols = random_int(1, 300);
        size_t n = (size_t)rows * (size_t)cols;
        float *x = random_floats(n, 3), *w = random_floats((size_t)cols, 1), *b = random_floats((size_t)cols, 1);
        double *rms = malloc(n * sizeof *rms), *layer = malloc(n * sizeof *layer);
        for (int t = 0; t < rows; t++) {
            const float *row = x + t * cols;
            double squares = 0, sum = 0, variance = 0;
            for (int i = 0; i < cols; i++) squares += (double)row[i] * (double)row[i], sum += (double)row[i];
            double mean = sum / cols;
            for (int i = 0; i < cols; i++) variance += ((double)row[i] - mean) * ((double)row[i] - mean);
            for (int i = 0; i < cols; i++) {
                rms[t * cols + i] = (double)row[i] / sqrt(squares / cols + 1e-5) * (double)w[i];
                layer[t * cols + i] =
                    ((double)row[i] - mean) / sqrt(variance / cols + 1e-5) * (double)w[i] + (double)b[i];
            }
        }
        float *out[NUM_SETS][2];
        for (int s = 0; s < NUM_SETS; s++) {
            if (!sets[s]) continue;
            out[s][0] = shared_alloc(n * sizeof(float));
            out[s][1] = shared_copy(x, n * sizeof(float)); /* in place */
            sets[s]->ops->rms_norm(sets[s], x, w, 1e-5f, rows, cols, out[s][0]);
            sets[s]->ops->layer_norm(sets[s], out[s][1], w, b, 1e-5f, rows, cols, out[s][1]);
            sets[s]->ops->wait(sets[s]);
            assert_same_floats(out[s][0], out[0][0], n, "rms_norm", set_names[s]);
            assert_same_floats(out[s][1], out[0][1], n, "layer_norm", set_names[s]);
        }
        assert_close(out[0][0], rms, NULL, n, 1e-5, "rms_norm");
        if (cols > 1) assert_close(out[0][1], layer, NULL, n, 1e-3, "layer_norm");
        for (int s = 0; s < NUM_SETS; s++)
            if (sets[s]) shared_free(out[s][0]), shared_free(out[s][1]);
        shared_free(x), shared_free(w), shared_free(b), free(rms), free(layer);
    }
}

static double act_reference(qr_act act, double x)
{
    switch (act) {
    case QR_ACT_SILU: return x / (1 + exp(-x));
    case QR_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case QR_ACT_GELU_ERF: return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    case QR_ACT_RELU: break;
    }
    return x > 0 ? x : 0;
}

static void activations(void **state)
{
    (void)state;
    for (int trial = 0; trial < 16; trial++) {
        qr_act act = (qr_act)(trial % 4);
        int rows = random_int(1, 20), cols = random_int(1, 200);
        size_t n = (size_t)rows * (size_t)cols;
        float *gate_up = random_floats(2 * n, trial < 8 ? 5 : 200);
        double *plain = malloc(2 * n * sizeof *plain), *gated = malloc(n * sizeof *gated);
        double *magnitude = malloc(n * sizeof *magnitude);
        for (size_t i = 0; i < 2 * n; i++) plain[i] = act_reference(act, (double)gate_up[i]);
        for (int t = 0; t < rows; t++)
            for (int i = 0; i < cols; i++) {
                double up = (double)gate_up[2 * t * cols + cols + i];
                gated[t * cols + i] = plain[2 * t * cols + i] * up;
                magnitude[t * cols + i] = fabs((double)gate_up[2 * t * cols + i] * up) + 1;
            }
        float *out[NUM_SETS][2];
        for (int s = 0; s < NUM_SETS; s++) {
            if (!sets[s]) continue;
            out[s][0] = shared_alloc(n * sizeof(float));
            out[s][1] = shared_copy(gate_up, 2 * n * sizeof(float));
            sets[s]->ops->gated_act(sets[s], gate_up, act, rows, cols, out[s][0]);
            sets[s]->ops->act(sets[s], out[s][1], act, 2 * rows, cols);
            sets[s]->ops->wait(sets[s]);
            assert_same_floats(out[s][0], out[0][0], n, "gated_act", set_names[s]);
            assert_same_floats(out[s][1], out[0][1], 2 * n, "act", set_names[s]);
        }
        assert_close(out[0][0], gated, magnitude, n, 1e-6, "gated_act");
        assert_close(out[0][1], plain, NULL, 2 * n, 2e-6, "act");
        for (int s = 0; s < NUM_SETS; s++)
            if (sets[s]) shared_free(out[s][0]), shared_free(out[s][1]);
        shared_free(gate_up), free(plain), free(gated), free(magnitude);
    }
}

static void exp_is_accurate_and_clamped(void **state)
{
    (void)state;
    enum { NUM = 100003 };
    float *x = random_floats(NUM, 86), *first = malloc(NUM * sizeof *first), *out = malloc(NUM * sizeof *out);
    x[0] = -87.5f, x[1] = -1e30f, x[2] = 0.0f, x[3] = -INFINITY, x[4] = 1000.0f, x[5] = NAN;
    for (int s = 0; s < NUM_SETS; s++) {
        if (!sets[s]) continue;
        sets[s]->ops->exp_row(sets[s], x, NUM, 0.0f, 1.0f, s == 0 ? first : out);
        if (s > 0) {
            assert_true(isnan(out[5]));
            out[5] = first[5]; /* which NaN is not promised */
            assert_same_floats(out, first, NUM, "exp_row", set_names[s]);
        }
    }
    assert_true(first[0] == 0 && first[1] == 0 && first[2] == 1 && first[3] == 0 && first[4] > 2e38f &&
                isnan(first[5]));
    for (int i = 6; i < NUM; i++) {
        double expected = exp((double)x[i]);
        if (fabs((double)first[i] - expected) > 1.5e-7 * expected)
            fail_msg("exp(%.9g) = %.9g, expected %.9g", (double)x[i], (double)first[i], expected);
    }
    shared_free(x), free(first), free(out);
}

static void statistics_of_logits(void **state)
{
    (void)state;
    for (int trial = 0; trial < 20; trial++) {
        int rows = random_int(1, 5), cols = random_int(1, 1000), ld = cols + random_int(0, 20);
        float *x = random_floats((size_t)(rows * ld), 20);
        if (cols > 40) x[17] = x[39] = x[21] = 50.0f; /* ties: the lowest index */
        for (int s = 0; s < NUM_SETS; s++) {
            if (!sets[s]) continue;
            float max[5], sum[5];
            int32_t at[5];
            sets[s]->ops->row_stats(sets[s], x, ld, rows, cols, max, at, sum);
            for (int t = 0; t < rows; t++) {
                int best = 0;
                double expected = 0;
                for (int i = 1; i < cols; i++)
                    if (x[t * ld + i] > x[t * ld + best]) best = i;
                for (int i = 0; i < cols; i++) expected += exp((double)x[t * ld + i] - (double)x[t * ld + best]);
                assert_int_equal(at[t], best);
                assert_true(max[t] == x[t * ld + best]);
                assert_close(&sum[t], &expected, NULL, 1, 1e-6, "row_stats");
            }
            static float first_sum[5];
            if (s == 0) memcpy(first_sum, sum, sizeof sum);
            assert_same_floats(sum, first_sum, (size_t)rows, "row_stats", set_names[s]);
        }
        shared_free(x);
    }
}

static void embedding_and_gathering(void **state)
{
    (void)state;
    static const qr_dtype types[] = {QR_F32, QR_F16, QR_BF16, QR_Q4_1, QR_Q8_0};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        enum { ROWS = 30, COLS = 320, TOKENS = 9 };
        qr_tensor_view view, pos_view;
        void *data = random_matrix(types[i], ROWS, COLS, &view), *pos = random_matrix(QR_F32, ROWS, COLS, &pos_view);
        int32_t *ids = shared_alloc(TOKENS * sizeof *ids), *positions = shared_alloc(TOKENS * sizeof *positions);
        int32_t order[TOKENS];
        float *out = shared_alloc(TOKENS * COLS * sizeof *out), *gathered = shared_alloc(TOKENS * COLS * sizeof *out);
        for (int t = 0; t < TOKENS; t++) {
            ids[t] = random_int(0, ROWS - 1);
            positions[t] = random_int(0, ROWS - 3);
            order[t] = TOKENS - 1 - t;
        }
        for (int s = 0; s < NUM_SETS; s++) {
            if (!sets[s]) continue;
            float row[COLS];
            sets[s]->ops->embed(sets[s], &view, ids, TOKENS, 3.0f, i % 2 ? &pos_view : NULL, positions, 2, out, COLS);
            sets[s]->ops->gather_rows(sets[s], out, order, TOKENS, COLS, gathered);
            sets[s]->ops->wait(sets[s]);
            for (int t = 0; t < TOKENS; t++) {
                qr_dequantize(types[i], (uint8_t *)data + (size_t)ids[t] * qr_tensor_row_bytes(&view), row, COLS);
                for (int c = 0; c < COLS; c++) {
                    float expected = row[c] * 3.0f;
                    if (i % 2) expected += ((float *)pos)[(positions[t] + 2) * COLS + c];
                    assert_true(out[t * COLS + c] == expected);
                    assert_true(gathered[(TOKENS - 1 - t) * COLS + c] == expected);
                }
            }
        }
        shared_free(data), shared_free(pos), shared_free(ids), shared_free(positions), shared_free(out);
        shared_free(gathered);
    }
}

static void unusable_sets_and_matrices_are_refused(void **state)
{
    (void)state;
    quire_error error;
    qr_backend *be;
    assert_int_equal(qr_cpu_backend_create("mmx", 1, &be, &error), QUIRE_UNSUPPORTED);
    assert_non_null(strstr(error.message, "mmx"));
    qr_weight *w;
    float data[64] = {0};
    qr_tensor_view cube = {"cube", QR_F32, 3, {4, 4, 4, 1}, data, sizeof data};
    assert_int_equal(sets[0]->ops->weight_create(sets[0], &cube, QR_COMPUTE_AUTO, &w, &error), QUIRE_UNSUPPORTED);
    assert_non_null(strstr(error.message, "cube"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_of_every_type),
        cmocka_unit_test(linear_of_wide_and_tall_shapes),
        cmocka_unit_test(linear_of_odd_activations),
        cmocka_unit_test(norms),
        cmocka_unit_test(activations),
        cmocka_unit_test(exp_is_accurate_and_clamped),
        cmocka_unit_test(statistics_of_logits),
        cmocka_unit_test(embedding_and_gathering),
        cmocka_unit_test(unusable_sets_and_matrices_are_refused),
    };
    return cmocka_run_group_tests_name("backend", tests, set_up, tear_down);
}
