#include <math.h>
#include <stdio.h>

#include "backend/prefixes.h"
#include "base/clock.h"
#include "base/mem.h"
#include "bench/internal.h"

enum { KV_BLOCK = 16 };

static const char *const dtype_names[] = {
#define XX(id, name, bytes) [QR_KV_##id] = name,
    QR_KV_DTYPE_MAP(XX)
#undef XX
};

/* Requests of one shape, over a KV cache of their own. */
typedef struct attention_job {
    qr_backend *be;
    qr_batch batch;
    qr_attention_args args;
    qr_kv_cache *cache;
    int32_t *table, *start, *lens;
    float *q, *out;
    size_t num_q, kv_bytes; /* kv_bytes: all blocks */
    char name[QR_BENCH_MAX_NAME];
} attention_job;

typedef struct attention_shape {
    int num_reqs, new_tokens, context;
} attention_shape;

static void run(void *ctx)
{
    attention_job *job = ctx;
    job->be->ops->attention(job->be, &job->batch, &job->args);
}

static void close_job(qr_bench *bench, attention_job *job)
{
    if (job->cache) job->be->ops->kv_cache_destroy(job->be, job->cache);
    qr_bench_free_values(bench, job->q, job->num_q);
    qr_bench_free_values(bench, job->out, job->num_q);
    qr_free(job->table);
    qr_free(job->start);
    qr_free(job->lens);
}

/* Block tables in disorder, as after hours of serving. */
static void fill_tables(attention_job *job, attention_shape s, int num_blocks)
{
    uint32_t random = 1;
    for (int i = 0; i < num_blocks; i++) job->table[i] = i;
    for (int i = num_blocks - 1; i > 0; i--) {
        random = random * 1664525 + 1013904223;
        int j = (int)((random >> 4) % (uint32_t)(i + 1)), swap = job->table[i];
        job->table[i] = job->table[j];
        job->table[j] = swap;
    }
    for (int i = 0; i <= s.num_reqs; i++) job->start[i] = i * s.new_tokens;
    for (int i = 0; i < s.num_reqs; i++) job->lens[i] = s.context;
}

static quire_status create_cache(qr_bench *bench, attention_job *job, const qr_bench_model *m, qr_kv_dtype dtype,
                                 int num_blocks, quire_error *error)
{
    const qr_kv_config config = {1, m->num_kv_heads, m->head_size, KV_BLOCK, num_blocks, dtype};
    size_t block_bytes = job->be->ops->kv_block_bytes(job->be, &config);
    void *block = qr_malloc(block_bytes);
    if (!block) return qr_fail_nomem(error, job->name, block_bytes);
    quire_status status = job->be->ops->kv_cache_create(job->be, &config, &job->cache, error);
    qr_bench_fill_bytes(bench, block, block_bytes);
    for (int i = 0; status == QUIRE_OK && i < num_blocks; i++)
        job->be->ops->kv_write_block(job->be, job->cache, i, block);
    qr_free(block);
    job->kv_bytes = block_bytes * (size_t)num_blocks;
    return status;
}

/* job->name is there; on failure close_job() too. */
static quire_status open_job(qr_bench *bench, attention_job *job, const qr_bench_model *m, attention_shape s,
                             qr_kv_dtype dtype, quire_error *error)
{
    int max_blocks = (s.context + KV_BLOCK - 1) / KV_BLOCK, num_blocks = max_blocks * s.num_reqs;
    job->be = bench->be;
    job->num_q = (size_t)s.num_reqs * (size_t)s.new_tokens * (size_t)(m->num_heads * m->head_size);
    job->table = qr_malloc((size_t)num_blocks * sizeof *job->table);
    job->start = qr_malloc((size_t)(s.num_reqs + 1) * sizeof *job->start);
    job->lens = qr_malloc((size_t)s.num_reqs * sizeof *job->lens);
    job->q = qr_bench_alloc_values(bench, job->num_q);
    job->out = qr_bench_alloc_values(bench, job->num_q);
    if (!job->table || !job->start || !job->lens || !job->q || !job->out)
        return qr_fail_nomem(error, job->name, 2 * job->num_q * sizeof(float));
    fill_tables(job, s, num_blocks);
    QR_TRY(create_cache(bench, job, m, dtype, num_blocks, error));
    job->batch = (qr_batch){.num_tokens = s.num_reqs * s.new_tokens,
                            .num_reqs = s.num_reqs,
                            .max_blocks = max_blocks,
                            .query_start_loc = job->start,
                            .seq_lens = job->lens,
                            .block_table = job->table};
    job->args = (qr_attention_args){.q = job->q,
                                    .ld_q = m->num_heads * m->head_size,
                                    .out = job->out,
                                    .num_heads = m->num_heads,
                                    .num_kv_heads = m->num_kv_heads,
                                    .head_size = m->head_size,
                                    .scale = 0.125f,
                                    .cache = job->cache};
    return QUIRE_OK;
}

static void set_name(attention_job *job, const qr_bench_model *m, attention_shape s, qr_kv_dtype dtype)
{
    snprintf(job->name, sizeof job->name, "%s: attention %s %d x %d of %d", m->name, dtype_names[dtype], s.num_reqs,
             s.new_tokens, s.context);
}

static void write_rows(qr_bench *bench, const attention_job *job, const qr_bench_model *m, attention_shape s,
                       double seconds, double float16_seconds)
{
    char name[QR_BENCH_MAX_NAME + 40];
    double pairs = s.new_tokens * (s.context - (s.new_tokens - 1) / 2.0) * s.num_reqs; /* query x key, per head */
    qr_bench_row(bench, job->name, 4.0 * pairs * m->num_heads * m->head_size / seconds * 1e-9, "GFLOP/s", seconds,
                 bench->limits.float32_gflops);
    snprintf(name, sizeof name, "%s, K and V read", job->name);
    if (s.new_tokens == 1)
        qr_bench_row(bench, name, (double)job->kv_bytes / seconds * 1e-9, "GB/s", seconds, bench->limits.read_gbs);
    snprintf(name, sizeof name, "%s, speed beside float16", job->name);
    if (float16_seconds > 0) qr_bench_row(bench, name, float16_seconds / seconds, "x", seconds, 0);
}

/* The types in turn, over and over, so that other load meets all alike. */
static void time_in_turn(qr_bench *bench, attention_job *jobs, double *best)
{
    double stop = qr_clock_seconds() + QR_NUM_KV_DTYPES * 0.5;
    for (int round = 0; round < 4 || qr_clock_seconds() < stop; round++)
        for (int i = 0; i < QR_NUM_KV_DTYPES; i++) {
            if (!jobs[i].cache) continue;
            double start = qr_bench_seconds(bench);
            run(&jobs[i]);
            if (round > 0) best[i] = fmin(best[i], qr_bench_seconds(bench) - start);
        }
}

static quire_status measure_dtypes(qr_bench *bench, const qr_bench_model *m, attention_shape s, quire_error *error)
{
    attention_job jobs[QR_NUM_KV_DTYPES] = {0};
    double best[QR_NUM_KV_DTYPES];
    bool any = false;
    quire_status status = QUIRE_OK;
    for (int i = 0; i < QR_NUM_KV_DTYPES && status == QUIRE_OK; i++) {
        best[i] = 1e30;
        set_name(&jobs[i], m, s, (qr_kv_dtype)i);
        if (!qr_bench_wants(bench, jobs[i].name)) continue;
        any = true;
        status = open_job(bench, &jobs[i], m, s, (qr_kv_dtype)i, error);
    }
    if (status == QUIRE_OK && any) time_in_turn(bench, jobs, best);
    for (int i = 0; i < QR_NUM_KV_DTYPES; i++) {
        bool compared = jobs[QR_KV_F16].cache && i != QR_KV_F16;
        if (status == QUIRE_OK && jobs[i].cache)
            write_rows(bench, &jobs[i], m, s, best[i], compared ? best[QR_KV_F16] : 0);
    }
    for (int i = 0; i < QR_NUM_KV_DTYPES; i++) close_job(bench, &jobs[i]);
    return status;
}

quire_status qr_bench_attention(qr_bench *bench, const qr_bench_model *m, int num_reqs, int new_tokens, int context,
                                bool all_dtypes, quire_error *error)
{
    const attention_shape s = {num_reqs, new_tokens, context};
    attention_job job = {0};
    if (all_dtypes) return measure_dtypes(bench, m, s, error);
    set_name(&job, m, s, QR_KV_F16);
    if (!qr_bench_wants(bench, job.name)) return QUIRE_OK;
    quire_status status = open_job(bench, &job, m, s, QR_KV_F16, error);
    if (status == QUIRE_OK) write_rows(bench, &job, m, s, qr_bench_time(bench, run, &job), 0);
    close_job(bench, &job);
    return status;
}

/* ---- requests that begin with the same blocks ----------------------------------------------------------------- */

enum { NUM_WAYS = 3, NUM_ROUNDS = 15 };

/* same [blocks of all requests], order and blocks [num_reqs]: scratch. */
static void time_ways(qr_bench *bench, attention_job *job, int num_shared, int32_t *same, int32_t *order,
                      int32_t *blocks, double best[NUM_WAYS], double *find)
{
    int per_req = job->batch.max_blocks, num_blocks = per_req * job->batch.num_reqs;
    for (int i = 0; i < num_blocks; i++) same[i] = job->table[i % per_req < num_shared ? i % per_req : i];
    for (int i = 0; i < NUM_WAYS * NUM_ROUNDS; i++) {
        int way = i % NUM_WAYS;
        job->batch.block_table = way == 0 ? job->table : same;
        job->batch.prefix_order = way == 2 ? order : NULL;
        job->batch.prefix_blocks = way == 2 ? blocks : NULL;
        double start = qr_bench_seconds(bench);
        if (way == 2) qr_batch_find_prefixes(&job->batch, KV_BLOCK, 0, order, blocks);
        double found = qr_bench_seconds(bench);
        run(job);
        double end = qr_bench_seconds(bench);
        if (way == 2) *find = fmin(*find, found - start);
        best[way] = fmin(best[way], end - found);
    }
}

static quire_status measure_shared(qr_bench *bench, attention_job *job, int num_shared, quire_error *error)
{
    static const char *const ways[NUM_WAYS] = {"blocks of its own", "same blocks", "same blocks, together"};
    double best[NUM_WAYS] = {1e30, 1e30, 1e30}, find = 1e30;
    char name[QR_BENCH_MAX_NAME + 40];
    size_t num_reqs = (size_t)job->batch.num_reqs, table = num_reqs * (size_t)job->batch.max_blocks;
    int32_t *scratch = qr_malloc((table + 2 * num_reqs) * sizeof *scratch);
    if (!scratch) return qr_fail_nomem(error, job->name, (table + 2 * num_reqs) * sizeof *scratch);
    time_ways(bench, job, num_shared, scratch, scratch + table, scratch + table + num_reqs, best, &find);
    for (int way = 0; way < NUM_WAYS; way++) {
        snprintf(name, sizeof name, "%s: %s", job->name, ways[way]);
        qr_bench_row(bench, name, best[0] / best[way], "x", best[way], 0);
    }
    snprintf(name, sizeof name, "%s: finding them, once for all layers", job->name);
    qr_bench_row(bench, name, best[0] / find, "x", find, 0);
    qr_free(scratch);
    return QUIRE_OK;
}

quire_status qr_bench_shared_prefix(qr_bench *bench, const qr_bench_model *m, int num_reqs, int context, int shared,
                                    quire_error *error)
{
    const attention_shape s = {num_reqs, 1, context};
    attention_job job = {0};
    snprintf(job.name, sizeof job.name, "%s: attention float16 %d x 1 of %d, %d shared", m->name, num_reqs, context,
             shared);
    if (!qr_bench_wants(bench, job.name)) return QUIRE_OK;
    quire_status status = open_job(bench, &job, m, s, QR_KV_F16, error);
    if (status == QUIRE_OK) status = measure_shared(bench, &job, shared / KV_BLOCK, error);
    close_job(bench, &job);
    return status;
}
