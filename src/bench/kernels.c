#define _POSIX_C_SOURCE 200809L
#include "bench/kernels.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "bench/internal.h"

enum { MAX_COLS = 14336, MAX_CONTEXT = 8192 };
static const double budget_seconds = 0.25; /* for a row */

static const qr_bench_model models[] = {
    {"SmolLM2-135M", 576, 1536, 49152, 9, 3, 64},
    {"Llama 3 8B", 4096, 14336, 128256, 32, 8, 128},
    {"Qwen3-0.6B", 1024, 3072, 151936, 16, 8, 128},
};
enum { SMOLLM2, LLAMA3, NUM_MODELS = sizeof models / sizeof *models };

bool qr_bench_wants(const qr_bench *bench, const char *name)
{
    return !bench->stopped && (!bench->options->filter || strstr(name, bench->options->filter));
}

double qr_bench_seconds(const qr_bench *bench)
{
    struct timespec t;
    clock_gettime(qr_pool_num_threads(bench->be->pool) == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double qr_bench_time(qr_bench *bench, void (*run)(void *), void *ctx)
{
    double best = 1e30, stop = qr_clock_seconds() + budget_seconds;
    run(ctx);
    for (int i = 0; i < 3 || qr_clock_seconds() < stop; i++) {
        double start = qr_bench_seconds(bench);
        run(ctx);
        best = fmin(best, qr_bench_seconds(bench) - start);
    }
    return best;
}

void qr_bench_row(qr_bench *bench, const char *name, double value, const char *unit, double seconds, double limit)
{
    const qr_kernel_row row = {name, value, unit, seconds, limit > 0 ? value / limit * 100 : NAN};
    if (!bench->stopped) bench->stopped = !bench->options->on_row(bench->options->user, &row);
}

static uint64_t next_random(qr_bench *bench)
{
    bench->random ^= bench->random << 13;
    bench->random ^= bench->random >> 7;
    bench->random ^= bench->random << 17;
    return bench->random;
}

void qr_bench_fill_bytes(qr_bench *bench, void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t value = next_random(bench) & 0x3B3B3B3B3B3B3B3B;
        memcpy((char *)data + i, &value, bytes - i < 8 ? bytes - i : 8);
    }
}

float *qr_bench_alloc_values(qr_bench *bench, size_t count)
{
    float *values = bench->be->ops->buffer_alloc(bench->be, count * sizeof *values, true);
    for (size_t i = 0; values && i < count; i++) values[i] = (float)(next_random(bench) >> 40) * 0x1p-23f - 1;
    return values;
}

void qr_bench_free_values(qr_bench *bench, float *values, size_t count)
{
    if (values) bench->be->ops->buffer_free(bench->be, values, count * sizeof *values);
}

/* ---- what is measured --------------------------------------------------------------------------------------- */

static quire_status measure_model(qr_bench *bench, const qr_bench_model *m, quire_error *error)
{
    static const int some[] = {1, 8, 32, 512, 0}, few[] = {1, 32, 0};
    const int64_t hidden = m->hidden_size, q = (int64_t)m->num_heads * m->head_size,
                  kv = (int64_t)m->num_kv_heads * m->head_size;
    QR_TRY(qr_bench_linear(bench, m, "qkv", QR_Q4_1, q + 2 * kv, hidden, some, error));
    QR_TRY(qr_bench_linear(bench, m, "output", QR_Q4_1, hidden, q, some, error));
    QR_TRY(qr_bench_linear(bench, m, "gate, up", QR_Q4_1, 2 * (int64_t)m->intermediate_size, hidden, some, error));
    QR_TRY(qr_bench_linear(bench, m, "down", QR_Q4_1, hidden, m->intermediate_size, some, error));
    QR_TRY(qr_bench_linear(bench, m, "logits", QR_Q4_1, m->vocab_size, hidden, few, error));
    QR_TRY(qr_bench_attention(bench, m, 8, 1, 4096, true, error));
    QR_TRY(qr_bench_attention(bench, m, 1, 1, 4096, false, error));
    QR_TRY(qr_bench_attention(bench, m, 32, 1, 512, false, error));
    QR_TRY(qr_bench_attention(bench, m, 1, 512, 512, true, error));
    QR_TRY(qr_bench_attention(bench, m, 1, 512, 8192, false, error));
    QR_TRY(qr_bench_row_ops(bench, m, 1, error));
    return qr_bench_row_ops(bench, m, 512, error);
}

static quire_status measure_all(qr_bench *bench, quire_error *error)
{
    static const qr_dtype dtypes[] = {QR_Q4_0, QR_Q8_0, QR_Q5_0, QR_Q5_1, QR_Q4_K, QR_Q5_K,
                                      QR_Q6_K, QR_Q3_K, QR_Q2_K, QR_F16,  QR_BF16, QR_F32};
    static const int some[] = {1, 8, 32, 512, 0};
    QR_TRY(qr_bench_limits(bench, error));
    bench->limits.device = bench->be->ops->name;
    bench->stopped = !bench->options->on_limits(bench->options->user, &bench->limits);
    for (int i = 0; i < NUM_MODELS; i++) QR_TRY(measure_model(bench, &models[i], error));
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        QR_TRY(qr_bench_linear(bench, &models[LLAMA3], "output", dtypes[i], 4096, 4096, some, error));
    QR_TRY(qr_bench_shared_prefix(bench, &models[SMOLLM2], 64, 2112, 2048, error));
    QR_TRY(qr_bench_shared_prefix(bench, &models[SMOLLM2], 8, 1280, 1024, error));
    return qr_bench_shared_prefix(bench, &models[LLAMA3], 64, 2112, 2048, error);
}

quire_status qr_kernels_measure(const qr_kernel_options *options, quire_error *error)
{
    qr_bench bench = {.options = options, .random = 88172645463325252u};
    QR_TRY(qr_cpu_backend_create(options->isa, options->threads, &bench.be, error));
    quire_status status =
        bench.be->ops->reserve(bench.be, QR_BENCH_MAX_TOKENS, QR_BENCH_MAX_TOKENS, MAX_COLS, MAX_CONTEXT, error);
    if (status == QUIRE_OK) status = measure_all(&bench, error);
    bench.be->ops->destroy(bench.be);
    if (status == QUIRE_OK && bench.stopped) return qr_fail(error, QUIRE_ABORTED, "stopped");
    return status;
}
