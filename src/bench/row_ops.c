#include <stdio.h>

#include "base/mem.h"
#include "bench/internal.h"

enum { MAX_LOGITS_ROWS = 64, KV_BLOCK = 16 };

typedef struct row_job {
    qr_backend *be;
    float *x, *y; /* [num_values] each */
    int num_tokens;
    int64_t cols;
    qr_batch batch;
    qr_rope_kv_args rope;
} row_job;

static void run_norm(void *ctx)
{
    row_job *job = ctx;
    job->be->ops->rms_norm(job->be, job->x, job->x, 1e-5f, job->num_tokens, job->cols, job->y);
}

static void run_gated(void *ctx)
{
    row_job *job = ctx;
    job->be->ops->gated_act(job->be, job->x, QR_ACT_SILU, job->num_tokens, job->cols, job->y);
}

static void run_rope(void *ctx)
{
    row_job *job = ctx;
    job->be->ops->rope_kv_write(job->be, &job->batch, &job->rope);
}

static void run_stats(void *ctx)
{
    row_job *job = ctx;
    float max[MAX_LOGITS_ROWS], sum[MAX_LOGITS_ROWS];
    int32_t at[MAX_LOGITS_ROWS];
    job->be->ops->row_stats(job->be, job->x, job->cols, job->num_tokens, job->cols, max, at, sum);
}

/* values: float32 values that one token reads and writes. */
static void measure(qr_bench *bench, const qr_bench_model *model, const char *what, void (*run)(void *), row_job *job,
                    int num_tokens, int64_t cols, double values)
{
    char name[QR_BENCH_MAX_NAME];
    snprintf(name, sizeof name, "%s: %s %d x %lld", model->name, what, num_tokens, (long long)cols);
    if (!qr_bench_wants(bench, name)) return;
    job->num_tokens = num_tokens;
    job->cols = cols;
    double seconds = qr_bench_time(bench, run, job);
    qr_bench_row(bench, name, 4 * values * num_tokens / seconds * 1e-9, "GB/s", seconds, bench->limits.read_gbs);
}

/* Token t of one request, at position t and in slot t. */
static quire_status set_up_rope(const qr_bench_model *m, row_job *job, int num_tokens, int32_t *positions,
                                int64_t *slots, quire_error *error)
{
    const qr_kv_config config = {
        1, m->num_kv_heads, m->head_size, KV_BLOCK, (num_tokens + KV_BLOCK - 1) / KV_BLOCK, QR_KV_F16};
    for (int t = 0; t < num_tokens; t++) positions[t] = t, slots[t] = t;
    job->batch = (qr_batch){.num_tokens = num_tokens, .num_reqs = 1, .positions = positions, .slot_mapping = slots};
    job->rope = (qr_rope_kv_args){.qkv = job->x,
                                  .ld = (int64_t)(m->num_heads + 2 * m->num_kv_heads) * m->head_size,
                                  .num_heads = m->num_heads,
                                  .num_kv_heads = m->num_kv_heads,
                                  .head_size = m->head_size,
                                  .style = QR_ROPE_HALVES,
                                  .rotary_dim = m->head_size,
                                  .cos = job->y,
                                  .sin = job->y};
    return job->be->ops->kv_cache_create(job->be, &config, &job->rope.cache, error);
}

quire_status qr_bench_row_ops(qr_bench *bench, const qr_bench_model *m, int num_tokens, quire_error *error)
{
    const int rows = num_tokens < MAX_LOGITS_ROWS ? num_tokens : MAX_LOGITS_ROWS;
    const int64_t q = (int64_t)m->num_heads * m->head_size, kv = (int64_t)m->num_kv_heads * m->head_size;
    size_t num_values = (size_t)num_tokens * 2 * (size_t)m->intermediate_size;
    if (num_values < (size_t)rows * (size_t)m->vocab_size) num_values = (size_t)rows * (size_t)m->vocab_size;
    row_job job = {.be = bench->be};
    int32_t positions[QR_BENCH_MAX_TOKENS];
    int64_t slots[QR_BENCH_MAX_TOKENS];
    if (bench->stopped) return QUIRE_OK;
    job.x = qr_bench_alloc_values(bench, num_values);
    job.y = qr_bench_alloc_values(bench, num_values);
    quire_status status = QUIRE_OK;
    if (!job.x || !job.y) status = qr_fail_nomem(error, "activations", 2 * num_values * sizeof(float));
    if (status == QUIRE_OK) status = set_up_rope(m, &job, num_tokens, positions, slots, error);
    if (status == QUIRE_OK) {
        measure(bench, m, "rms_norm", run_norm, &job, num_tokens, m->hidden_size, 2.0 * m->hidden_size);
        measure(bench, m, "gated_act", run_gated, &job, num_tokens, m->intermediate_size, 3.0 * m->intermediate_size);
        measure(bench, m, "row_stats", run_stats, &job, rows, m->vocab_size, m->vocab_size);
        /* last: it turns x, again and again; Q and K are changed in place, K and V written as float16 */
        measure(bench, m, "rope_kv_write", run_rope, &job, num_tokens, q + 2 * kv, (double)(2 * q + 4 * kv));
    }
    if (job.rope.cache) bench->be->ops->kv_cache_destroy(bench->be, job.rope.cache);
    qr_bench_free_values(bench, job.x, num_values);
    qr_bench_free_values(bench, job.y, num_values);
    return status;
}
