/* The CPU backend: its table of functions, memory, weights and the row-wise ops. */
#include "backend/cpu/cpu_backend.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { ROW_GRAIN = 1 << 14, SPLIT_ITEMS = 4 }; /* values per chunk; row blocks per thread whose context may be split */

/* ---- parallel ranges */

typedef struct range_job {
    qr_range_fn fn;
    void *ctx;
    int64_t count, chunk;
} range_job;

static void run_chunk(void *ctx, int tile_idx, int thread_idx)
{
    const range_job *job = ctx;
    int64_t first = tile_idx * job->chunk, end = first + job->chunk;
    job->fn(job->ctx, first, end < job->count ? end : job->count, thread_idx);
}

void qr_cpu_parallel(qr_cpu_backend *cpu, int64_t count, int64_t grain, qr_range_fn fn, void *ctx)
{
    int64_t chunk = (count + cpu->num_threads * 4 - 1) / (cpu->num_threads * 4);
    if (chunk < grain) chunk = grain;
    range_job job = {fn, ctx, count, chunk};
    qr_pool_run(cpu->base.pool, run_chunk, &job, (int)((count + chunk - 1) / chunk));
}

/* Rows of `cols` values each. */
static void parallel_rows(qr_cpu_backend *cpu, int64_t rows, int64_t cols, qr_range_fn fn, void *ctx)
{
    qr_cpu_parallel(cpu, rows, ROW_GRAIN / (cols + 1) + 1, fn, ctx);
}

/* ---- memory */

static uint64_t cache_bytes(qr_backend *be, double utilization, uint64_t *total)
{
    (void)be;
    *total = qr_memory_total_bytes();
    return (uint64_t)((double)qr_memory_available_bytes() * (utilization > 0 ? utilization : 0.5));
}

static void *buffer_alloc(qr_backend *be, size_t bytes, bool host_reads)
{
    (void)be, (void)host_reads;
    return qr_pages_alloc(bytes);
}

static void buffer_free(qr_backend *be, void *ptr, size_t bytes)
{
    (void)be;
    qr_pages_free(ptr, bytes);
}

static float *vector_create(qr_backend *be, const float *values, int64_t count)
{
    (void)be;
    float *vector = qr_malloc((size_t)count * sizeof *vector);
    if (vector) memcpy(vector, values, (size_t)count * sizeof *vector);
    return vector;
}

static void vector_destroy(qr_backend *be, float *vector)
{
    (void)be;
    qr_free(vector);
}

static void wait_for_ops(qr_backend *be) { (void)be; }

static void release_scratch(qr_cpu_backend *cpu)
{
    qr_pages_free(cpu->act, cpu->act_bytes);
    qr_pages_free(cpu->parts, cpu->parts_bytes);
    qr_free(cpu->groups);
    cpu->act = NULL;
    cpu->parts = NULL;
    cpu->groups = NULL;
    cpu->max_tokens = cpu->max_context = 0;
    cpu->max_cols = 0;
}

static quire_status reserve(qr_backend *be, int max_tokens, int max_reqs, int64_t max_cols, int max_context,
                            quire_error *error)
{
    (void)max_reqs;
    qr_cpu_backend *cpu = qr_cpu(be);
    assert(max_tokens > 0 && max_cols > 0 && max_context > 0);
    if (max_tokens < cpu->max_tokens) max_tokens = cpu->max_tokens; /* whoever reserved before keeps what it needs */
    if (max_cols < cpu->max_cols) max_cols = cpu->max_cols;
    if (max_context < cpu->max_context) max_context = cpu->max_context;
    if (max_tokens == cpu->max_tokens && max_cols == cpu->max_cols && max_context == cpu->max_context) return QUIRE_OK;
    release_scratch(cpu);
    size_t groups = ((size_t)max_cols + QR_GROUP - 1) / QR_GROUP;
    size_t segments = ((size_t)max_context + QR_ATTEND_SEGMENT - 1) / QR_ATTEND_SEGMENT;
    cpu->act_bytes = (size_t)max_tokens * groups * sizeof(qr_act_group);
    cpu->parts_bytes = (size_t)cpu->num_threads * SPLIT_ITEMS * segments * QR_ATTEND_ROWS *
                       ((size_t)QR_MAX_HEAD_SIZE / 4 + 2) * sizeof(float);
    cpu->act = qr_pages_alloc(cpu->act_bytes);
    cpu->parts = qr_pages_alloc(cpu->parts_bytes);
    cpu->groups = qr_calloc((size_t)max_tokens + 1, sizeof *cpu->groups);
    if (!cpu->act || !cpu->parts || !cpu->groups) {
        release_scratch(cpu);
        return qr_fail_nomem(error, "scratch of the CPU backend", cpu->act_bytes + cpu->parts_bytes);
    }
    cpu->max_tokens = max_tokens;
    cpu->max_cols = max_cols;
    cpu->max_context = max_context;
    return QUIRE_OK;
}

/* ---- weights */

typedef struct pack_job {
    const qr_weight *w;
    const qr_tensor_view *view;
} pack_job;

static void pack_panels(void *ctx, int64_t first, int64_t end, int thread_idx)
{
    (void)thread_idx;
    const pack_job *job = ctx;
    for (int64_t p = first; p < end; p++) qr_pack_panel(job->w, job->view, p);
}

static quire_status weight_create(qr_backend *be, const qr_tensor_view *view, qr_compute compute, qr_weight **out,
                                  quire_error *error)
{
    qr_cpu_backend *cpu = qr_cpu(be);
    int64_t cols = qr_tensor_cols(view), rows = qr_tensor_rows(view);
    if (view->num_dims != 2 || cols < 1 || rows < 1 || cols % qr_dtype_block_len(view->dtype) != 0)
        return qr_fail(error, QUIRE_UNSUPPORTED, "tensor '%s' (%s): not a matrix [%lld, %lld] that can be multiplied",
                       view->name, qr_dtype_name(view->dtype), (long long)rows, (long long)cols);
    qr_weight *w = qr_calloc(1, sizeof *w);
    if (!w) return qr_fail_nomem(error, "a weight matrix", sizeof *w);
    w->num_rows = rows;
    w->num_cols = cols;
    w->num_panels = (rows + 2 * QR_PANEL - 1) / (2 * QR_PANEL) * 2;
    qr_lowbit f = qr_lowbit_format(view->dtype);
    w->dtype = f.bits && compute == QR_COMPUTE_FLOAT32 ? QR_F32 : view->dtype;
    if (f.bits && compute == QR_COMPUTE_AUTO)
        w->panel_bytes = (size_t)(cols / qr_lowbit_unit_cols(f)) * qr_lowbit_unit_bytes(f);
    else
        w->panel_bytes = (size_t)cols * QR_PANEL * (w->dtype == QR_F32 ? 4 : 2);
    if (qr_mul_overflow((size_t)w->num_panels, w->panel_bytes, &w->bytes)) w->bytes = SIZE_MAX;
    w->panels = w->bytes == SIZE_MAX ? NULL : qr_pages_alloc(w->bytes);
    if (!w->panels) {
        size_t bytes = w->bytes;
        qr_free(w);
        return qr_fail_nomem(error, "a weight matrix", bytes);
    }
    pack_job job = {w, view};
    qr_cpu_parallel(cpu, w->num_panels, 1, pack_panels, &job);
    *out = w;
    return QUIRE_OK;
}

static void weight_destroy(qr_backend *be, qr_weight *w)
{
    (void)be;
    if (!w) return;
    qr_pages_free(w->panels, w->bytes);
    qr_free(w);
}

static size_t weight_bytes(const qr_weight *w) { return w->bytes; }

static quire_status table_create(qr_backend *be, const qr_tensor_view *view, qr_tensor_view *out, quire_error *error)
{
    (void)be, (void)error;
    *out = *view;
    return QUIRE_OK;
}

static void table_destroy(qr_backend *be, qr_tensor_view *table) { (void)be, (void)table; }

static const qr_batch *batch_begin(qr_backend *be, const qr_batch *batch, const qr_kv_cache *cache)
{
    (void)be, (void)cache;
    return batch;
}

/* ---- row-wise ops */

typedef struct row_job {
    const qr_cpu_kernels *kernels;
    const float *x, *w, *b;
    float eps;
    int64_t cols, ld;
    float *out, *out_max, *out_sum;
    int32_t *out_argmax;
    qr_act act;
    const int32_t *rows;
} row_job;

static void rms_norm_rows(void *ctx, int64_t first, int64_t end, int thread_idx)
{
    (void)thread_idx;
    const row_job *j = ctx;
    for (int64_t t = first; t < end; t++)
        j->kernels->rms_norm_row(j->x + t * j->cols, j->w, j->eps, j->cols, j->out + t * j->cols);
}

static void rms_norm(qr_backend *be, const float *x, const float *w, float eps, int num_tokens, int64_t cols,
                     float *out)
{
    row_job job = {.kernels = qr_cpu(be)->kernels, .x = x, .w = w, .eps = eps, .cols = cols, .out = out};
    parallel_rows(qr_cpu(be), num_tokens, cols, rms_norm_rows, &job);
}

static void layer_norm_rows(void *ctx, int64_t first, int64_t end, int thread_idx)
{
    (void)thread_idx;
    const row_job *j = ctx;
    for (int64_t t = first; t < end; t++)
        j->kernels->layer_norm_row(j->x + t * j->cols, j->w, j->b, j->eps, j->cols, j->out + t * j->cols);
}

static void layer_norm(qr_backend *be, const float *x, const float *w, const float *b, float eps, int num_tokens,
                       int64_t cols, float *out)
{
    row_job job = {.kernels = qr_cpu(be)->kernels, .x = x, .w = w, .b = b, .eps = eps, .cols = cols, .out = out};
    parallel_rows(qr_cpu(be), num_tokens, cols, layer_norm_rows, &job);
}

static void gated_rows(void *ctx, int64_t first, int64_t end, int thread_idx)
{
    (void)thread_idx;
    const row_job *j = ctx;
    for (int64_t t = first; t < end; t++) {
        const float *gate = j->x + 2 * t * j->cols;
        j->kernels->act_row(gate, gate + j->cols, j->act, j->cols, j->out + t * j->cols);
    }
}

static void gated_act(qr_backend *be, const float *gate_up, qr_act act, int num_tokens, int64_t cols, float *out)
{
    row_job job = {.kernels = qr_cpu(be)->kernels, .x = gate_up, .act = act, .cols = cols, .out = out};
    parallel_rows(qr_cpu(be), num_tokens, 4 * cols, gated_rows, &job);
}

static void act_rows(void *ctx, int64_t first, int64_t end, int thread_idx)
{
    (void)thread_idx;
    const row_job *j = ctx;
    j->kernels->act_row(j->out + first * j->cols, NULL, j->act, (end - first) * j->cols, j->out + first * j->cols);
}

static void act(qr_backend *be, float *x, qr_act act, int num_tokens, int64_t cols)
{
    row_job job = {.kernels = qr_cpu(be)->kernels, .act = act, .cols = cols, .out = x};
    parallel_rows(qr_cpu(be), num_tokens, 4 * cols, act_rows, &job);
}

static void gather(void *ctx, int64_t first, int64_t end, int thread_idx)
{
    (void)thread_idx;
    const row_job *j = ctx;
    for (int64_t i = first; i < end; i++)
        memcpy(j->out + i * j->cols, j->x + j->rows[i] * j->cols, (size_t)j->cols * sizeof *j->x);
}

static void gather_rows(qr_backend *be, const float *x, const int32_t *rows, int num_rows, int64_t cols, float *out)
{
    row_job job = {.x = x, .rows = rows, .cols = cols, .out = out};
    parallel_rows(qr_cpu(be), num_rows, cols, gather, &job);
}

static void stats_rows(void *ctx, int64_t first, int64_t end, int thread_idx)
{
    (void)thread_idx;
    const row_job *j = ctx;
    for (int64_t i = first; i < end; i++)
        j->kernels->row_stats(j->x + i * j->ld, j->cols, &j->out_max[i], &j->out_argmax[i], &j->out_sum[i]);
}

static void row_stats(qr_backend *be, const float *x, int64_t ld, int num_rows, int64_t cols, float *out_max,
                      int32_t *out_argmax, float *out_sum_exp)
{
    row_job job = {.kernels = qr_cpu(be)->kernels,
                   .x = x,
                   .ld = ld,
                   .cols = cols,
                   .out_max = out_max,
                   .out_argmax = out_argmax,
                   .out_sum = out_sum_exp};
    qr_cpu_parallel(qr_cpu(be), num_rows, 1, stats_rows, &job);
}

static void exp_row(qr_backend *be, const float *x, int64_t cols, float sub, float scale, float *out)
{
    qr_cpu(be)->kernels->exp_row(x, cols, sub, scale, out);
}

/* ---- embed */

typedef struct embed_job {
    const qr_cpu_kernels *kernels;
    const qr_tensor_view *view, *pos_view;
    const int32_t *ids, *positions;
    float scale;
    int pos_offset;
    float *out;
    int64_t cols;
} embed_job;

static const uint8_t *view_row(const qr_tensor_view *view, int64_t row)
{
    assert(row >= 0 && row < qr_tensor_rows(view));
    return (const uint8_t *)view->data + (size_t)row * qr_tensor_row_bytes(view);
}

static void add_position(const embed_job *j, int64_t position, float *out)
{
    enum { CHUNK = 256 }; /* a multiple of every block length */
    const qr_tensor_view *view = j->pos_view;
    const uint8_t *src = view_row(view, position);
    for (int64_t i = 0; i < j->cols; i += CHUNK) {
        float values[CHUNK];
        int64_t n = j->cols - i < CHUNK ? j->cols - i : CHUNK;
        qr_dequantize(view->dtype, src, values, n);
        src += n / qr_dtype_block_len(view->dtype) * qr_dtype_block_bytes(view->dtype);
        j->kernels->add_row(out + i, values, n);
    }
}

static void embed_rows(void *ctx, int64_t first, int64_t end, int thread_idx)
{
    (void)thread_idx;
    const embed_job *j = ctx;
    for (int64_t t = first; t < end; t++) {
        float *out = j->out + t * j->cols;
        qr_dequantize(j->view->dtype, view_row(j->view, j->ids[t]), out, j->cols);
        if (j->scale != 1.0f) j->kernels->scale_row(out, j->cols, j->scale);
        if (j->pos_view) add_position(j, (int64_t)j->positions[t] + j->pos_offset, out);
    }
}

static void embed(qr_backend *be, const qr_tensor_view *view, const int32_t *ids, int num_tokens, float scale,
                  const qr_tensor_view *pos_view, const int32_t *positions, int pos_offset, float *out, int64_t cols)
{
    embed_job job = {qr_cpu(be)->kernels, view, pos_view, ids, positions, scale, pos_offset, out, cols};
    parallel_rows(qr_cpu(be), num_tokens, cols, embed_rows, &job);
}

/* ---- the table */

static void destroy(qr_backend *be)
{
    if (!be) return;
    qr_cpu_backend *cpu = qr_cpu(be);
    release_scratch(cpu);
    qr_pages_free(cpu->threads, (size_t)cpu->num_threads * sizeof *cpu->threads);
    qr_pool_destroy(be->pool);
    qr_free(cpu);
}

static const qr_backend_ops cpu_ops = {.destroy = destroy,
                                       .cache_bytes = cache_bytes,
                                       .buffer_alloc = buffer_alloc,
                                       .buffer_free = buffer_free,
                                       .vector_create = vector_create,
                                       .vector_destroy = vector_destroy,
                                       .reserve = reserve,
                                       .wait = wait_for_ops,
                                       .weight_create = weight_create,
                                       .weight_destroy = weight_destroy,
                                       .weight_bytes = weight_bytes,
                                       .table_create = table_create,
                                       .table_destroy = table_destroy,
                                       .batch_begin = batch_begin,
                                       .kv_cache_create = qr_cpu_kv_cache_create,
                                       .kv_cache_destroy = qr_cpu_kv_cache_destroy,
                                       .kv_block_bytes = qr_cpu_kv_block_bytes,
                                       .kv_copy_blocks = qr_cpu_kv_copy_blocks,
                                       .kv_read_block = qr_cpu_kv_read_block,
                                       .kv_write_block = qr_cpu_kv_write_block,
                                       .kv_warm = qr_cpu_kv_warm,
                                       .embed = embed,
                                       .rms_norm = rms_norm,
                                       .layer_norm = layer_norm,
                                       .linear = qr_cpu_linear,
                                       .gated_act = gated_act,
                                       .act = act,
                                       .rope_kv_write = qr_cpu_rope_kv_write,
                                       .attention = qr_cpu_attention,
                                       .gather_rows = gather_rows,
                                       .row_stats = row_stats,
                                       .exp_row = exp_row};

quire_status qr_cpu_backend_create(const char *isa, int threads, qr_backend **out, quire_error *error)
{
    const qr_cpu_kernels *kernels;
    QR_TRY(qr_cpu_kernels_select(isa, &kernels, error));
    qr_cpu_backend *cpu = qr_calloc(1, sizeof *cpu);
    if (!cpu) return qr_fail_nomem(error, "the CPU backend", sizeof *cpu);
    quire_status status = qr_pool_create(threads, &cpu->base.pool, error);
    if (status != QUIRE_OK) {
        qr_free(cpu);
        return status;
    }
    cpu->kernels = kernels;
    cpu->num_threads = qr_pool_num_threads(cpu->base.pool);
    cpu->threads = qr_pages_alloc((size_t)cpu->num_threads * sizeof *cpu->threads);
    if (!cpu->threads) {
        destroy(&cpu->base);
        return qr_fail_nomem(error, "the CPU backend's scratch", sizeof *cpu->threads);
    }
    snprintf(cpu->name, sizeof cpu->name, "cpu (%s, %d threads)", kernels->name, cpu->num_threads);
    cpu->ops = cpu_ops;
    cpu->ops.name = cpu->name;
    cpu->base.ops = &cpu->ops;
    *out = &cpu->base;
    return QUIRE_OK;
}
