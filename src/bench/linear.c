#include <stdio.h>

#include "base/mem.h"
#include "bench/internal.h"

enum { MAX_COPIES = 64, COPIES_BYTES = 96 << 20 };

typedef struct linear_job {
    qr_backend *be;
    qr_weight *weights[MAX_COPIES]; /* several copies, so that one token's worth does not stay in the cache */
    int num_copies, num_tokens, at;
    float *x, *y;
    int64_t rows, cols;
} linear_job;

static void run(void *ctx)
{
    linear_job *job = ctx;
    const qr_weight *w = job->weights[job->at++ % job->num_copies];
    job->be->ops->linear(job->be, job->x, job->cols, job->num_tokens, &w, NULL, 1, job->y, job->rows, false);
}

static quire_status pack(qr_bench *bench, linear_job *job, const qr_tensor_view *view, const char *name,
                         quire_error *error)
{
    char full[QR_BENCH_MAX_NAME + 16];
    int num_copies = (int)(COPIES_BYTES / view->bytes) + 1;
    double seconds = qr_bench_seconds(bench);
    for (; job->num_copies < num_copies && job->num_copies < MAX_COPIES; job->num_copies++)
        QR_TRY(job->be->ops->weight_create(job->be, view, QR_COMPUTE_AUTO, &job->weights[job->num_copies], error));
    seconds = (qr_bench_seconds(bench) - seconds) / job->num_copies;
    snprintf(full, sizeof full, "%s, packing", name);
    qr_bench_row(bench, full, (double)view->bytes / seconds * 1e-9, "GB/s", seconds, 0);
    return QUIRE_OK;
}

static void measure(qr_bench *bench, linear_job *job, const char *name, qr_dtype dtype, const int *num_tokens)
{
    char full[QR_BENCH_MAX_NAME + 32];
    const bool int8 = qr_dtype_block_len(dtype) > 1;
    const double bytes = (double)job->be->ops->weight_bytes(job->weights[0]);
    for (; *num_tokens && !bench->stopped; num_tokens++) {
        job->num_tokens = *num_tokens;
        double seconds = qr_bench_time(bench, run, job);
        snprintf(full, sizeof full, "%s M=%d", name, *num_tokens);
        qr_bench_row(bench, full, 2.0 * (double)job->rows * (double)job->cols * *num_tokens / seconds * 1e-9,
                     int8 ? "GOP/s" : "GFLOP/s", seconds,
                     int8 ? bench->limits.int8_gops : bench->limits.float32_gflops);
        if (*num_tokens > 1) continue;
        snprintf(full, sizeof full, "%s M=1, weights read", name);
        qr_bench_row(bench, full, bytes / seconds * 1e-9, "GB/s", seconds, bench->limits.read_gbs);
    }
}

quire_status qr_bench_linear(qr_bench *bench, const qr_bench_model *model, const char *what, qr_dtype dtype,
                             int64_t rows, int64_t cols, const int *num_tokens, quire_error *error)
{
    char name[QR_BENCH_MAX_NAME];
    snprintf(name, sizeof name, "%s: linear %s %s %lldx%lld", model->name, what, qr_dtype_name(dtype), (long long)rows,
             (long long)cols);
    if (!qr_bench_wants(bench, name)) return QUIRE_OK;
    linear_job *job = qr_calloc(1, sizeof *job);
    if (!job) return qr_fail_nomem(error, name, sizeof *job);
    int max_tokens = 1;
    for (const int *n = num_tokens; *n; n++) max_tokens = *n > max_tokens ? *n : max_tokens;
    const size_t num_x = (size_t)max_tokens * (size_t)cols, num_y = (size_t)max_tokens * (size_t)rows;
    job->be = bench->be;
    job->rows = rows;
    job->cols = cols;
    job->x = qr_bench_alloc_values(bench, num_x);
    job->y = qr_bench_alloc_values(bench, num_y);
    qr_tensor_view view = {.name = "w", .dtype = dtype, .num_dims = 2, .dims = {cols, rows, 1, 1}};
    view.bytes = (size_t)rows * qr_tensor_row_bytes(&view);
    void *data = qr_malloc(view.bytes);
    quire_status status = QUIRE_OK;
    if (!job->x || !job->y || !data) status = qr_fail_nomem(error, name, view.bytes + (num_x + num_y) * sizeof(float));
    if (status == QUIRE_OK) {
        qr_bench_fill_bytes(bench, data, view.bytes);
        view.data = data;
        status = pack(bench, job, &view, name, error);
    }
    if (status == QUIRE_OK) measure(bench, job, name, dtype, num_tokens);
    for (int i = 0; i < job->num_copies; i++) job->be->ops->weight_destroy(job->be, job->weights[i]);
    qr_bench_free_values(bench, job->x, num_x);
    qr_bench_free_values(bench, job->y, num_y);
    qr_free(data);
    qr_free(job);
    return status;
}
