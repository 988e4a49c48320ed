/* The CUDA backend: backend.h over the table of libquire-cuda.so.
 *
 *   weights, tables  rows as the checkpoint has them, in the device's memory; dequantized in the kernels
 *                    (QR_COMPUTE_TENSOR: packed for mma_linear.h, where it takes them)
 *   KV cache         [num_blocks][num_layers] of what the CPU has: a block is one piece, its bytes are the CPU's
 *   batch            its arrays packed into page-locked memory, uploaded once per step in one copy
 *   logits           stay on the device, where tokens are drawn; what few requests want drawn by the host is copied
 *
 * The host's ops for the sampler are done by a CPU backend that also lends its threads. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda_backend.h"
#include "base/mem.h"

enum {
    MIN_BLOCK_SIZE = 8,
    MAX_BLOCK_SIZE = 128,
    MAX_HEAD_SIZE = 512,
    SEGMENT = 512,
    STAGE_ALIGN = 16,
    LT_MIN_TOKENS = 257 /* low-bit weights go through cuBLASLt from here on: docs/cuda.md says why */
};

struct qr_weight {
    qr_dtype dtype;
    int64_t num_rows, num_cols;
    size_t row_bytes, bytes;
    void *data;        /* rows, or NULL when packed: */
    qr_mma_weight mma; /* .data NULL when not */
    qr_lt_weight lt;   /* of `data` or `mma`; .is_there false when it does not go through cuBLASLt */
};

struct qr_kv_cache {
    qr_kv_config config;
    qr_cuda_kv kv; /* of layer 0 */
    size_t layer_bytes;
};

/* The forward pass of batches of one token per request, filled up to num_tokens of them, with contexts of up to
 * num_segments. Its first time is for the library's modules to be loaded, its second one is recorded. */
enum { MAX_PASSES = 256 };
typedef struct pass {
    const void *owner;
    const qr_kv_cache *cache;
    int num_tokens, num_segments;
    bool was_run, lost;   /* lost: there was no memory for the graph */
    int plan_group;       /* for plan_attention(), or 0 */
    qr_cuda_graph *graph; /* NULL: not recorded yet */
} pass;

typedef struct cuda_backend {
    qr_backend base;
    qr_backend_ops ops; /* with this backend's name */
    char name[384];
    const qr_cuda_api *api;
    qr_cuda_device *dev;
    qr_backend *host;
    size_t free_at_open;  /* memory of the device, before weights */
    bool tensor_cores;    /* for attention */
    bool wgmma;           /* for prompts */
    bool has_lt;          /* weights may go through cuBLASLt */
    qr_cuda_ranks *ranks; /* NULL: one device */

    /* reserve() */
    int max_tokens, max_reqs, max_context;
    int64_t max_cols;
    qr_cuda_act *act;  /* [max_tokens][ceil(max_cols / 32)] */
    float *parts;      /* QR_CUDA_PARTS_BYTES */
    int32_t *counters; /* [QR_LINEAR_COUNTERS] */
    qr_mma_item *staged_items, *stage_items;
    qr_lt_scratch lt;        /* when has_lt */
    uint8_t *staged, *stage; /* the batch: on the device; page-locked */
    size_t stage_bytes;

    qr_batch batch;                        /* of this step, its arrays in `staged` */
    const int32_t *host_start, *host_lens; /* its query_start_loc and seq_lens in `stage` */
    int max_seq_len;
    pass passes[MAX_PASSES], *pass; /* pass: the one that runs, or NULL */
    int num_passes;
    bool capturing;

    qr_mma_plan plan; /* of this step, its items in `staged_items` */
    int plan_group;   /* that it is for; 0: not made yet */
} cuda_backend;

static cuda_backend *cuda(qr_backend *be) { return (cuda_backend *)be; }

/* ---- memory */

static uint64_t cache_bytes(qr_backend *be, double utilization, uint64_t *total)
{
    cuda_backend *c = cuda(be);
    size_t free_bytes = 0, total_bytes = 0;
    if (c->api->memory(c->dev, &free_bytes, &total_bytes) != 0) free_bytes = total_bytes = 0;
    *total = total_bytes;
    const double taken = c->free_at_open > free_bytes ? (double)(c->free_at_open - free_bytes) : 0;
    const double left = (double)total_bytes * (utilization > 0 ? utilization : 0.92) - taken;
    return left <= 0 ? 0 : left < (double)free_bytes ? (uint64_t)left : free_bytes;
}

static void *buffer_alloc(qr_backend *be, size_t bytes, bool host_reads)
{
    cuda_backend *c = cuda(be);
    return host_reads ? c->api->alloc_host(c->dev, bytes) : c->api->alloc(c->dev, bytes);
}

/* Whatever is freed may be in a graph. */
static void free_memory(cuda_backend *c, void *ptr)
{
    for (int i = 0; i < c->num_passes; i++) c->api->graph_free(c->dev, c->passes[i].graph);
    c->num_passes = 0;
    c->api->free(c->dev, ptr);
}

static void buffer_free(qr_backend *be, void *ptr, size_t bytes)
{
    (void)bytes;
    free_memory(cuda(be), ptr);
}

static float *vector_create(qr_backend *be, const float *values, int64_t count)
{
    cuda_backend *c = cuda(be);
    size_t bytes = (size_t)count * sizeof *values;
    float *vector = c->api->alloc(c->dev, bytes);
    if (vector) c->api->write(c->dev, vector, values, bytes);
    return vector;
}

static void vector_destroy(qr_backend *be, float *vector) { free_memory(cuda(be), vector); }

static void wait_for_ops(qr_backend *be) { cuda(be)->api->wait(cuda(be)->dev); }

static void read_buffer(qr_backend *be, void *host, const void *buffer, size_t bytes)
{
    cuda(be)->api->read(cuda(be)->dev, host, buffer, bytes);
}

static void release_scratch(cuda_backend *c)
{
    free_memory(c, c->act);
    c->api->free(c->dev, c->parts);
    c->api->free(c->dev, c->counters);
    c->api->free(c->dev, c->staged_items);
    c->api->free(c->dev, c->stage_items);
    c->api->free(c->dev, c->staged);
    c->api->free(c->dev, c->stage);
    c->api->free(c->dev, c->lt.x16);
    c->api->free(c->dev, c->lt.w16);
    c->api->free(c->dev, c->lt.out);
    c->api->free(c->dev, c->lt.workspace);
    c->lt = (qr_lt_scratch){0};
    c->act = NULL;
    c->parts = NULL;
    c->counters = NULL;
    c->staged_items = c->stage_items = NULL;
    c->staged = c->stage = NULL;
    c->max_tokens = c->max_reqs = c->max_context = 0;
    c->max_cols = 0;
}

static size_t aligned(size_t bytes) { return (bytes + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN; }

/* Bytes of a batch's arrays, one after the other. */
static size_t batch_bytes(int64_t num_tokens, int64_t num_reqs, int64_t num_blocks)
{
    return 3 * aligned((size_t)num_tokens * 4) + aligned((size_t)num_tokens * 8) + aligned((size_t)(num_reqs + 1) * 4) +
           aligned((size_t)num_reqs * 4) + aligned((size_t)(num_reqs * num_blocks) * 4);
}

/* False: no memory. */
static bool reserve_lt(cuda_backend *c, int max_tokens, int64_t max_cols)
{
    if (!c->has_lt) return true;
    const size_t tokens = ((size_t)max_tokens + QR_LT_TILE - 1) / QR_LT_TILE * QR_LT_TILE;
    c->lt.x16 = c->api->alloc(c->dev, tokens * (size_t)max_cols * sizeof(uint16_t));
    c->lt.w16 = c->api->alloc(c->dev, QR_LT_W16_COUNT * sizeof(uint16_t));
    c->lt.out = c->api->alloc(c->dev, QR_LT_OUT_COUNT * sizeof(float));
    c->lt.workspace = c->api->alloc(c->dev, QR_LT_WORKSPACE_BYTES);
    return c->lt.x16 && c->lt.w16 && c->lt.out && c->lt.workspace;
}

static quire_status reserve(qr_backend *be, int max_tokens, int max_reqs, int64_t max_cols, int max_context,
                            quire_error *error)
{
    cuda_backend *c = cuda(be);
    assert(max_tokens > 0 && max_reqs > 0 && max_cols > 0 && max_context > 0);
    if (max_tokens < c->max_tokens) max_tokens = c->max_tokens; /* whoever reserved before keeps what it needs */
    if (max_reqs < c->max_reqs) max_reqs = c->max_reqs;
    if (max_cols < c->max_cols) max_cols = c->max_cols;
    if (max_context < c->max_context) max_context = c->max_context;
    if (max_tokens == c->max_tokens && max_reqs == c->max_reqs && max_cols == c->max_cols &&
        max_context == c->max_context && (!c->has_lt || c->lt.x16))
        return QUIRE_OK;
    c->api->wait(c->dev);
    release_scratch(c);
    size_t act_bytes = (size_t)max_tokens * (((size_t)max_cols + 31) / 32) * sizeof *c->act;
    c->stage_bytes = batch_bytes(max_tokens, max_reqs, (max_context + MIN_BLOCK_SIZE - 1) / MIN_BLOCK_SIZE);
    c->act = c->api->alloc(c->dev, act_bytes);
    c->parts = c->api->alloc(c->dev, QR_CUDA_PARTS_BYTES);
    c->counters = c->api->alloc(c->dev, QR_LINEAR_COUNTERS * sizeof *c->counters);
    const size_t items_bytes = qr_mma_max_items(max_tokens, max_reqs, max_context) * sizeof *c->staged_items;
    c->staged_items = c->api->alloc(c->dev, items_bytes);
    c->stage_items = c->api->alloc_host(c->dev, items_bytes);
    c->staged = c->api->alloc(c->dev, c->stage_bytes);
    c->stage = c->api->alloc_host(c->dev, c->stage_bytes);
    if (!c->act || !c->parts || !c->counters || !c->staged_items || !c->stage_items || !c->staged || !c->stage ||
        !reserve_lt(c, max_tokens, max_cols)) {
        release_scratch(c);
        return qr_fail_nomem(error, "scratch of the CUDA backend", act_bytes + 2 * c->stage_bytes);
    }
    c->max_tokens = max_tokens;
    c->max_reqs = max_reqs;
    c->max_cols = max_cols;
    c->max_context = max_context;
    return QUIRE_OK;
}

/* ---- weights and tables */

/* Dequantized rows to the device, a piece at a time. */
static quire_status upload_float32(cuda_backend *c, const qr_tensor_view *view, void *dst, quire_error *error)
{
    size_t row_bytes = qr_tensor_row_bytes(view);
    int64_t cols = qr_tensor_cols(view), rows = qr_tensor_rows(view);
    int64_t step = (1 << 20) / cols + 1;
    float *values = qr_malloc((size_t)(step * cols) * sizeof *values);
    if (!values) return qr_fail_nomem(error, view->name, (size_t)(step * cols) * sizeof *values);
    for (int64_t row = 0; row < rows; row += step) {
        int64_t count = (rows - row < step ? rows - row : step) * cols;
        qr_dequantize(view->dtype, (const uint8_t *)view->data + (size_t)row * row_bytes, values, count);
        c->api->write(c->dev, (float *)dst + row * cols, values, (size_t)count * sizeof *values);
    }
    qr_free(values);
    return QUIRE_OK;
}

/* Rows on the device to the layout of mma_linear.h, which takes their place. */
static quire_status pack_rows(cuda_backend *c, qr_weight *w, quire_error *error)
{
    w->mma.data = c->api->alloc(c->dev, w->mma.bytes);
    if (!w->mma.data) return qr_fail_nomem(error, "a weight matrix on the device", w->mma.bytes);
    c->api->mma_pack(c->dev, &w->mma, w->data, w->row_bytes);
    c->api->wait(c->dev);
    c->api->free(c->dev, w->data);
    w->data = NULL;
    w->bytes = w->mma.bytes;
    return QUIRE_OK;
}

/* Rows on the device as tensor cores multiply them, where mma_linear.h or gemm_lt.h take them. */
static quire_status prepare_rows(cuda_backend *c, qr_weight *w, bool lt, quire_error *error)
{
    char problem[256];
    if (lt && !c->api->lt_open(c->dev, problem, sizeof problem))
        return qr_fail(error, QUIRE_DEVICE, "no cuBLASLt: %s (with --batch-invariant none is needed)", problem);
    c->has_lt |= lt;
    if (lt && (w->dtype == QR_BF16 || w->dtype == QR_F16) &&
        c->api->lt_describe(c->dev, w->dtype, w->num_rows, w->num_cols, w->data, NULL, &w->lt))
        return QUIRE_OK;
    if (!qr_mma_weight_describe(w->dtype, w->num_rows, w->num_cols, &w->mma)) return QUIRE_OK;
    QR_TRY(pack_rows(c, w, error));
    if (lt && qr_dtype_block_len(w->dtype) > 1)
        c->api->lt_describe(c->dev, w->dtype, w->num_rows, w->num_cols, NULL, &w->mma, &w->lt);
    return QUIRE_OK;
}

static quire_status weight_create(qr_backend *be, const qr_tensor_view *view, qr_compute compute, qr_weight **out,
                                  quire_error *error)
{
    cuda_backend *c = cuda(be);
    int64_t cols = qr_tensor_cols(view), rows = qr_tensor_rows(view);
    if (view->num_dims != 2 || cols < 1 || rows < 1 || cols % qr_dtype_block_len(view->dtype) != 0)
        return qr_fail(error, QUIRE_UNSUPPORTED, "tensor '%s' (%s): not a matrix [%lld, %lld] that can be multiplied",
                       view->name, qr_dtype_name(view->dtype), (long long)rows, (long long)cols);
    qr_weight *w = qr_calloc(1, sizeof *w);
    if (!w) return qr_fail_nomem(error, "a weight matrix", sizeof *w);
    bool expand = compute == QR_COMPUTE_FLOAT32 && qr_dtype_block_len(view->dtype) > 1;
    w->dtype = expand ? QR_F32 : view->dtype;
    w->num_rows = rows;
    w->num_cols = cols;
    w->row_bytes = expand ? (size_t)cols * sizeof(float) : qr_tensor_row_bytes(view);
    if (qr_mul_overflow((size_t)rows, w->row_bytes, &w->bytes)) w->bytes = SIZE_MAX;
    w->data = c->api->alloc(c->dev, w->bytes);
    quire_status status = w->data ? QUIRE_OK : qr_fail_nomem(error, "a weight matrix on the device", w->bytes);
    if (status == QUIRE_OK && expand)
        status = upload_float32(c, view, w->data, error);
    else if (status == QUIRE_OK)
        c->api->write(c->dev, w->data, view->data, w->bytes);
    if (status == QUIRE_OK && compute >= QR_COMPUTE_TENSOR)
        status = prepare_rows(c, w, compute == QR_COMPUTE_TENSOR_LT, error);
    if (status != QUIRE_OK) {
        c->api->free(c->dev, w->data);
        qr_free(w);
        return status;
    }
    *out = w;
    return QUIRE_OK;
}

static void weight_destroy(qr_backend *be, qr_weight *w)
{
    if (!w) return;
    free_memory(cuda(be), w->data);
    cuda(be)->api->free(cuda(be)->dev, w->mma.data);
    qr_free(w);
}

static size_t weight_bytes(const qr_weight *w) { return w->bytes; }

static quire_status table_create(qr_backend *be, const qr_tensor_view *view, qr_tensor_view *out, quire_error *error)
{
    cuda_backend *c = cuda(be);
    size_t bytes = (size_t)qr_tensor_rows(view) * qr_tensor_row_bytes(view);
    void *data = c->api->alloc(c->dev, bytes);
    if (!data) return qr_fail_nomem(error, view->name, bytes);
    c->api->write(c->dev, data, view->data, bytes);
    *out = *view;
    out->data = data;
    return QUIRE_OK;
}

static void table_destroy(qr_backend *be, qr_tensor_view *table)
{
    free_memory(cuda(be), (void *)(uintptr_t)table->data);
    table->data = NULL;
}

/* ---- KV cache */

static void describe(const qr_kv_config *config, qr_kv_cache *cache)
{
    static const size_t elem_bytes[] = {
#define XX(id, name, bytes) [QR_KV_##id] = bytes,
        QR_KV_DTYPE_MAP(XX)
#undef XX
    };
    size_t block_size = (size_t)config->block_size;
    size_t scale_bytes = config->dtype == QR_KV_INT8 ? block_size * sizeof(uint16_t) : 0;
    qr_cuda_kv *kv = &cache->kv;
    *cache = (qr_kv_cache){.config = *config};
    kv->dtype = config->dtype;
    kv->num_kv_heads = config->num_kv_heads;
    kv->head_size = config->head_size;
    kv->padded = (config->head_size + 15) / 16 * 16;
    kv->block_size = config->block_size;
    kv->head_k_bytes = (size_t)config->head_size * block_size * elem_bytes[config->dtype] + scale_bytes;
    kv->head_v_bytes = (size_t)kv->padded * block_size * elem_bytes[config->dtype] + scale_bytes;
    cache->layer_bytes = (size_t)config->num_kv_heads * (kv->head_k_bytes + kv->head_v_bytes);
    kv->block_bytes = (size_t)config->num_layers * cache->layer_bytes;
}

static size_t kv_block_bytes(qr_backend *be, const qr_kv_config *config)
{
    (void)be;
    qr_kv_cache cache;
    describe(config, &cache);
    return cache.kv.block_bytes;
}

static quire_status kv_cache_create(qr_backend *be, const qr_kv_config *config, qr_kv_cache **out, quire_error *error)
{
    cuda_backend *c = cuda(be);
    int bs = config->block_size;
    if (bs < MIN_BLOCK_SIZE || bs > MAX_BLOCK_SIZE || (bs & (bs - 1)) != 0)
        return qr_fail_param(error, "block_size", "block_size must be 8, 16, 32, 64 or 128, got %d", bs);
    if (config->head_size < 1 || config->head_size > MAX_HEAD_SIZE)
        return qr_fail(error, QUIRE_UNSUPPORTED, "head size %d: the CUDA backend supports 1 to %d", config->head_size,
                       MAX_HEAD_SIZE);
    if (config->num_layers < 1 || config->num_kv_heads < 1 || config->num_blocks < 1)
        return qr_fail(error, QUIRE_INVALID, "KV cache of %d layers, %d heads, %lld blocks", config->num_layers,
                       config->num_kv_heads, (long long)config->num_blocks);
    qr_kv_cache *cache = qr_calloc(1, sizeof *cache);
    if (!cache) return qr_fail_nomem(error, "the KV cache", sizeof *cache);
    describe(config, cache);
    size_t bytes;
    if (qr_mul_overflow(cache->kv.block_bytes, (size_t)config->num_blocks, &bytes)) bytes = SIZE_MAX;
    cache->kv.data = c->api->alloc(c->dev, bytes);
    if (!cache->kv.data) {
        qr_free(cache);
        return qr_fail_nomem(error, "the KV cache on the device", bytes);
    }
    *out = cache;
    return QUIRE_OK;
}

static void kv_cache_destroy(qr_backend *be, qr_kv_cache *cache)
{
    if (!cache) return;
    free_memory(cuda(be), cache->kv.data);
    qr_free(cache);
}

static uint8_t *block_at(const qr_kv_cache *cache, int32_t block_id)
{
    return cache->kv.data + (size_t)block_id * cache->kv.block_bytes;
}

static void kv_copy_blocks(qr_backend *be, qr_kv_cache *cache, const qr_copy_pair *pairs, int num_pairs)
{
    cuda_backend *c = cuda(be);
    for (int i = 0; i < num_pairs; i++)
        if (pairs[i].src_block != pairs[i].dst_block)
            c->api->copy(c->dev, block_at(cache, pairs[i].dst_block), block_at(cache, pairs[i].src_block),
                         cache->kv.block_bytes);
}

static void kv_read_block(qr_backend *be, const qr_kv_cache *cache, int32_t block_id, void *dst)
{
    cuda(be)->api->read(cuda(be)->dev, dst, block_at(cache, block_id), cache->kv.block_bytes);
}

static void kv_write_block(qr_backend *be, qr_kv_cache *cache, int32_t block_id, const void *src)
{
    cuda(be)->api->write(cuda(be)->dev, block_at(cache, block_id), src, cache->kv.block_bytes);
}

/* The cache as kernels of one layer see it. */
static qr_cuda_kv layer_kv(const qr_kv_cache *cache, int layer)
{
    qr_cuda_kv kv = cache->kv;
    kv.data += (size_t)layer * cache->layer_bytes;
    return kv;
}

/* ---- the batch */

/* num values from src to the end of the staging memory, with room for num_filled; where they will be on the device.
 * src NULL: nothing is there, NULL. */
static const void *stage_array(cuda_backend *c, size_t *used, const void *src, size_t num, size_t num_filled,
                               size_t value_bytes, void **out_host)
{
    const void *at = c->staged + *used;
    if (out_host) *out_host = c->stage + *used;
    if (!src) return NULL;
    memcpy(c->stage + *used, src, num * value_bytes);
    *used += aligned(num_filled * value_bytes);
    return at;
}

/* The rows of the block table as far as they are used, side by side. */
static const int32_t *stage_table(cuda_backend *c, size_t *used, const qr_batch *batch, int num_blocks)
{
    const int32_t *at = (const int32_t *)(const void *)(c->staged + *used);
    int32_t *to = (int32_t *)(void *)(c->stage + *used);
    const int num = num_blocks < batch->max_blocks ? num_blocks : batch->max_blocks;
    for (int i = 0; i < batch->num_reqs; i++)
        memcpy(to + (int64_t)i * num_blocks, batch->block_table + (int64_t)i * batch->max_blocks,
               (size_t)num * sizeof *to);
    *used += aligned((size_t)c->batch.num_reqs * (size_t)num_blocks * sizeof *to);
    return at;
}

/* The batch's arrays to the device, with block tables of num_blocks; with num_filled > 0 in places for so many requests
 * of one token, those behind the batch's own with a context of one token, anybody's, and no slot to write to. */
static void stage_batch(cuda_backend *c, const qr_batch *batch, int num_blocks, int num_filled)
{
    size_t used = 0;
    c->api->stage_wait(c->dev); /* the step before may not have read its arrays yet */
    c->batch = *batch;
    c->batch.max_blocks = num_blocks;
    if (num_filled > 0) c->batch.num_tokens = c->batch.num_reqs = num_filled;
    const size_t tokens = (size_t)c->batch.num_tokens, reqs = (size_t)c->batch.num_reqs;
    assert(batch_bytes(c->batch.num_tokens, c->batch.num_reqs, num_blocks) <= c->stage_bytes);
    if (num_filled > 0) memset(c->stage, 0, batch_bytes(num_filled, num_filled, num_blocks));
    int32_t *host_start, *host_lens;
    int64_t *slots;
    c->batch.input_ids = stage_array(c, &used, batch->input_ids, (size_t)batch->num_tokens, tokens, 4, NULL);
    c->batch.positions = stage_array(c, &used, batch->positions, (size_t)batch->num_tokens, tokens, 4, NULL);
    c->batch.slot_mapping =
        stage_array(c, &used, batch->slot_mapping, (size_t)batch->num_tokens, tokens, 8, (void **)&slots);
    c->batch.query_start_loc =
        stage_array(c, &used, batch->query_start_loc, (size_t)batch->num_reqs + 1, reqs + 1, 4, (void **)&host_start);
    c->batch.seq_lens = stage_array(c, &used, batch->seq_lens, (size_t)batch->num_reqs, reqs, 4, (void **)&host_lens);
    for (int i = batch->num_reqs; i < num_filled; i++) {
        slots[i] = -1;
        host_start[i + 1] = i + 1;
        host_lens[i] = 1;
    }
    c->host_start = host_start;
    c->host_lens = host_lens;
    if (batch->block_table) c->batch.block_table = stage_table(c, &used, batch, num_blocks);
    c->batch.logits_indices =
        stage_array(c, &used, batch->logits_indices, (size_t)batch->num_samples, (size_t)batch->num_samples, 4, NULL);
    c->batch.prefix_order = c->batch.prefix_blocks = NULL;
    if (used) c->api->stage(c->dev, c->staged, c->stage, used);
    c->plan_group = 0;
}

static int blocks_for(int num_tokens, const qr_kv_cache *cache)
{
    return (num_tokens + cache->config.block_size - 1) / cache->config.block_size;
}

static const qr_batch *batch_begin(qr_backend *be, const qr_batch *batch, const qr_kv_cache *cache)
{
    cuda_backend *c = cuda(be);
    assert(batch->num_tokens <= c->max_tokens && batch->num_reqs <= c->max_reqs);
    c->pass = NULL;
    c->max_seq_len = qr_batch_max_seq_len(batch);
    stage_batch(c, batch, blocks_for(c->max_seq_len, cache), 0);
    return &c->batch;
}

/* ---- ops */

static void embed(qr_backend *be, const qr_tensor_view *view, const int32_t *ids, int num_tokens, float scale,
                  const qr_tensor_view *pos_view, const int32_t *positions, int pos_offset, float *out, int64_t cols)
{
    if (num_tokens <= 0) return;
    qr_cuda_embed args = {.dtype = view->dtype,
                          .table = view->data,
                          .row_bytes = qr_tensor_row_bytes(view),
                          .ids = ids,
                          .positions = positions,
                          .num_tokens = num_tokens,
                          .pos_offset = pos_offset,
                          .scale = scale,
                          .out = out,
                          .cols = cols};
    if (pos_view) {
        args.pos_dtype = pos_view->dtype;
        args.pos_table = pos_view->data;
        args.pos_row_bytes = qr_tensor_row_bytes(pos_view);
    }
    cuda(be)->api->embed(cuda(be)->dev, &args);
}

static void rms_norm(qr_backend *be, const float *x, const float *w, float eps, int num_tokens, int64_t cols,
                     float *out)
{
    if (num_tokens > 0) cuda(be)->api->rms_norm(cuda(be)->dev, x, w, eps, num_tokens, cols, out);
}

static void layer_norm(qr_backend *be, const float *x, const float *w, const float *b, float eps, int num_tokens,
                       int64_t cols, float *out)
{
    if (num_tokens > 0) cuda(be)->api->layer_norm(cuda(be)->dev, x, w, b, eps, num_tokens, cols, out);
}

/* One matrix, by tensor cores or in the CPU's order; by_lt: c->lt.x16 is there. */
static void multiply(cuda_backend *c, const qr_weight *w, bool by_lt, const float *x, int64_t ld_x, int num_tokens,
                     const float *bias, float *y, int64_t ld_y, bool accumulate)
{
    const qr_mma_linear mma = {.w = &w->mma,
                               .x = x,
                               .ld_x = ld_x,
                               .num_tokens = num_tokens,
                               .bias = bias,
                               .y = y,
                               .ld_y = ld_y,
                               .accumulate = accumulate,
                               .parts = c->parts,
                               .counters = c->counters};
    const qr_cuda_linear plain = {.dtype = w->dtype,
                                  .w = w->data,
                                  .row_bytes = w->row_bytes,
                                  .num_rows = w->num_rows,
                                  .num_cols = w->num_cols,
                                  .x = x,
                                  .ld_x = ld_x,
                                  .act = c->act,
                                  .num_tokens = num_tokens,
                                  .bias = bias,
                                  .y = y,
                                  .ld_y = ld_y,
                                  .accumulate = accumulate};
    const qr_lt_linear lt = {.w = &w->lt,
                             .scratch = c->lt,
                             .num_tokens = num_tokens,
                             .bias = bias,
                             .y = y,
                             .ld_y = ld_y,
                             .accumulate = accumulate};
    if (by_lt)
        c->api->lt_multiply(c->dev, &lt);
    else if (w->mma.data)
        c->api->mma_linear(c->dev, &mma);
    else
        c->api->linear(c->dev, &plain);
}

static void linear(qr_backend *be, const float *x, int64_t ld_x, int num_tokens, const qr_weight *const *weights,
                   const float *const *biases, int num_weights, float *y, int64_t ld_y, bool accumulate)
{
    cuda_backend *c = cuda(be);
    if (num_tokens <= 0) return;
    assert(num_tokens <= c->max_tokens && weights[0]->num_cols <= c->max_cols);
    bool quantized = false;
    int rounded = -1; /* whether c->lt.x16 is float16; -1: not there */
    for (int i = 0; i < num_weights; i++)
        quantized |= !weights[i]->mma.data && qr_dtype_block_len(weights[i]->dtype) > 1;
    if (quantized) c->api->quantize(c->dev, x, ld_x, num_tokens, weights[0]->num_cols, c->act);
    for (int i = 0; i < num_weights; i++) {
        assert(weights[i]->num_cols == weights[0]->num_cols);
        const qr_lt_weight *lt = &weights[i]->lt;
        const bool by_lt = lt->is_there && (lt->rows || num_tokens >= LT_MIN_TOKENS);
        if (by_lt && rounded != lt->is_f16)
            c->api->lt_round_x(c->dev, x, ld_x, num_tokens, lt->num_cols, lt->is_f16, c->lt.x16);
        if (by_lt) rounded = lt->is_f16;
        multiply(c, weights[i], by_lt, x, ld_x, num_tokens, biases ? biases[i] : NULL, y, ld_y, accumulate);
        y += weights[i]->num_rows;
    }
}

static void gated_act(qr_backend *be, const float *gate_up, qr_act act, int num_tokens, int64_t cols, float *out)
{
    if (num_tokens > 0) cuda(be)->api->gated_act(cuda(be)->dev, gate_up, act, num_tokens, cols, out);
}

static void act(qr_backend *be, float *x, qr_act act, int num_tokens, int64_t cols)
{
    if (num_tokens > 0) cuda(be)->api->act(cuda(be)->dev, x, act, num_tokens * cols);
}

static void rope_kv_write(qr_backend *be, const qr_batch *batch, const qr_rope_kv_args *args)
{
    cuda_backend *c = cuda(be);
    if (batch->num_tokens <= 0) return;
    const qr_cuda_kv kv = layer_kv(args->cache, args->layer);
    c->api->rope_kv_write(c->dev, args, &kv, batch->num_tokens, batch->positions, batch->slot_mapping);
}

/* The step's pieces of work for mma_attention.h, once per step: they are the same for all layers. */
static void plan_attention(cuda_backend *c, const qr_cuda_kv *kv, int group)
{
    if (c->plan_group == group) return;
    const qr_mma_plan_args args = {.query_start_loc = c->host_start,
                                   .seq_lens = c->host_lens,
                                   .num_reqs = c->batch.num_reqs,
                                   .num_kv_heads = kv->num_kv_heads,
                                   .group = group,
                                   .head_size = kv->head_size,
                                   .max_part_floats = QR_CUDA_PARTS_BYTES / sizeof(float)};
    assert(!c->capturing);
    c->api->stage_wait(c->dev);
    if (!c->pass || !qr_mma_plan_padded(&args, c->pass->num_segments, &c->plan, c->stage_items)) {
        if (c->pass) c->pass->lost = true; /* pieces that depend on the lengths: not for a graph */
        c->plan = qr_mma_plan_batch(&args, c->stage_items);
    }
    c->plan_group = group;
    const size_t count = (size_t)(c->plan.num_decode + c->plan.num_merge + c->plan.num_prefill);
    c->api->stage(c->dev, c->staged_items, c->stage_items, count * sizeof *c->stage_items);
}

static void attend_on_tensor_cores(cuda_backend *c, const qr_cuda_kv *kv, const qr_attention_args *args)
{
    const qr_batch *batch = &c->batch;
    plan_attention(c, kv, args->num_heads / args->num_kv_heads);
    assert(kv->head_k_bytes == kv->head_v_bytes);
    const qr_mma_attention job = {.q = args->q,
                                  .ld_q = args->ld_q,
                                  .out = args->out,
                                  .num_heads = args->num_heads,
                                  .num_kv_heads = args->num_kv_heads,
                                  .head_size = args->head_size,
                                  .scale = args->scale,
                                  .window = args->window,
                                  .k = kv->data,
                                  .v = kv->data + (size_t)kv->num_kv_heads * kv->head_k_bytes,
                                  .block_bytes = (int64_t)kv->block_bytes,
                                  .head_bytes = (int64_t)kv->head_k_bytes,
                                  .dtype = kv->dtype,
                                  .block_size = kv->block_size,
                                  .num_blocks = args->cache->config.num_blocks,
                                  .wgmma = c->wgmma,
                                  .query_start_loc = batch->query_start_loc,
                                  .seq_lens = batch->seq_lens,
                                  .block_table = batch->block_table,
                                  .max_blocks = batch->max_blocks,
                                  .items = c->staged_items,
                                  .parts = c->parts};
    c->api->mma_attention(c->dev, &job, &c->plan);
}

static void attention(qr_backend *be, const qr_batch *batch, const qr_attention_args *args)
{
    cuda_backend *c = cuda(be);
    if (batch->num_tokens <= 0) return;
    assert(batch == &c->batch && args->head_size <= MAX_HEAD_SIZE);
    const qr_cuda_kv kv = layer_kv(args->cache, args->layer);
    if (c->tensor_cores &&
        qr_mma_attention_supported(kv.head_size, args->num_heads / args->num_kv_heads, kv.dtype, kv.block_size)) {
        attend_on_tensor_cores(c, &kv, args);
        return;
    }
    const qr_cuda_attention job = {.kv = kv,
                                   .q = args->q,
                                   .ld_q = args->ld_q,
                                   .out = args->out,
                                   .num_heads = args->num_heads,
                                   .num_tokens = batch->num_tokens,
                                   .num_reqs = batch->num_reqs,
                                   .max_blocks = batch->max_blocks,
                                   .window = args->window,
                                   .scale = args->scale,
                                   .query_start_loc = batch->query_start_loc,
                                   .seq_lens = batch->seq_lens,
                                   .block_table = batch->block_table,
                                   .max_segments = (c->max_seq_len + SEGMENT - 1) / SEGMENT,
                                   .parts = c->parts};
    c->api->attention(c->dev, &job);
}

static void gather_rows(qr_backend *be, const float *x, const int32_t *rows, int num_rows, int64_t cols, float *out)
{
    if (num_rows > 0) cuda(be)->api->gather_rows(cuda(be)->dev, x, rows, num_rows, cols, out);
}

static void sample(qr_backend *be, const qr_sample_args *args)
{
    assert(args->num_draws <= QR_MAX_DRAWS && args->vocab_size <= QR_MAX_VOCAB);
    if (args->num_draws > 0) cuda(be)->api->sample(cuda(be)->dev, args);
}

static void row_stats(qr_backend *be, const float *x, int64_t ld, int num_rows, int64_t cols, float *out_max,
                      int32_t *out_argmax, float *out_sum_exp)
{
    qr_backend *host = cuda(be)->host;
    host->ops->row_stats(host, x, ld, num_rows, cols, out_max, out_argmax, out_sum_exp);
}

static void exp_row(qr_backend *be, const float *x, int64_t cols, float sub, float scale, float *out)
{
    qr_backend *host = cuda(be)->host;
    host->ops->exp_row(host, x, cols, sub, scale, out);
}

/* ---- several devices as one */

static quire_status ranks_join(qr_backend *be, qr_comm *comm, int64_t max_cols, quire_error *error)
{
    cuda_backend *c = cuda(be);
    assert(!c->ranks);
    return qr_cuda_ranks_create(c->api, c->dev, comm, max_cols, &c->ranks, error);
}

static void ranks_sum(qr_backend *be, float *x, size_t count)
{
    if (count > 0) qr_cuda_ranks_sum(cuda(be)->ranks, x, count);
}

static void ranks_gather(qr_backend *be, float *x, int num_rows, int64_t ld, const int64_t *cols)
{
    if (num_rows > 0) qr_cuda_ranks_gather(cuda(be)->ranks, x, num_rows, ld, cols);
}

/* ---- passes: graphs of the steps that only decode */

/* Sizes that batches are filled up to: 1, 2, 4, multiples of 8 up to 256, then of 32. */
static int filled_size(int num)
{
    const int step = num <= 256 ? 8 : 32;
    return num <= 2 ? num : num <= 4 ? 4 : (num + step - 1) / step * step;
}

static bool only_decodes(const qr_batch *batch)
{
    for (int i = 0; i < batch->num_reqs; i++)
        if (batch->query_start_loc[i + 1] - batch->query_start_loc[i] != 1) return false;
    return batch->num_reqs > 0 && batch->num_tokens == batch->num_reqs;
}

/* The pass for a batch, found or begun; NULL: this batch is not one for a graph. */
static pass *find_pass(cuda_backend *c, const qr_batch *batch, const qr_kv_cache *cache, const void *owner,
                       int max_tokens)
{
    if (!only_decodes(batch)) return NULL;
    const int longest = qr_batch_max_seq_len(batch), most_segments = (c->max_context + SEGMENT - 1) / SEGMENT;
    int num_tokens = filled_size(batch->num_tokens), num_segments = 1;
    while (num_segments * SEGMENT < longest) num_segments *= 2;
    if (num_segments > most_segments) num_segments = most_segments;
    if (num_tokens > max_tokens) num_tokens = max_tokens;
    if (num_tokens > c->max_reqs) num_tokens = c->max_reqs;
    for (int i = 0; i < c->num_passes; i++) {
        pass *p = &c->passes[i];
        if (p->owner == owner && p->cache == cache && p->num_tokens == num_tokens && p->num_segments == num_segments)
            return p->lost ? NULL : p;
    }
    if (c->num_passes == MAX_PASSES) return NULL;
    pass *p = &c->passes[c->num_passes++];
    *p = (pass){.owner = owner, .cache = cache, .num_tokens = num_tokens, .num_segments = num_segments};
    return p;
}

static const qr_batch *pass_begin(qr_backend *be, const qr_batch *batch, qr_kv_cache *cache, const void *owner,
                                  int max_tokens, bool *done)
{
    cuda_backend *c = cuda(be);
    pass *p = find_pass(c, batch, cache, owner, max_tokens);
    *done = false;
    if (!p) return batch_begin(be, batch, cache);
    const int most = p->num_segments * SEGMENT < c->max_context ? p->num_segments * SEGMENT : c->max_context;
    c->pass = p;
    c->max_seq_len = most; /* what launches depend on is the pass's, not the batch's */
    stage_batch(c, batch, blocks_for(most, cache), p->num_tokens);
    if (p->plan_group) plan_attention(c, &cache->kv, p->plan_group);
    if (p->graph) {
        c->api->graph_launch(c->dev, p->graph);
        *done = true;
    } else if (p->was_run) {
        c->capturing = true;
        c->api->capture_begin(c->dev);
    }
    return &c->batch;
}

static bool pass_end(qr_backend *be)
{
    cuda_backend *c = cuda(be);
    pass *p = c->pass;
    if (!p) return true;
    p->was_run = true;
    p->plan_group = c->plan_group;
    if (!c->capturing) return true;
    c->capturing = false;
    p->lost = c->api->capture_end(c->dev, &p->graph) != 0;
    if (p->graph) c->api->graph_launch(c->dev, p->graph);
    return !p->lost;
}

/* ---- the table */

static void destroy(qr_backend *be)
{
    if (!be) return;
    cuda_backend *c = cuda(be);
    if (c->dev) {
        qr_cuda_ranks_destroy(c->ranks);
        release_scratch(c);
        c->api->close(c->dev);
    }
    if (c->host) c->host->ops->destroy(c->host);
    qr_free(c);
}

static const qr_backend_ops cuda_ops = {.destroy = destroy,
                                        .cache_bytes = cache_bytes,
                                        .buffer_alloc = buffer_alloc,
                                        .buffer_free = buffer_free,
                                        .vector_create = vector_create,
                                        .vector_destroy = vector_destroy,
                                        .reserve = reserve,
                                        .wait = wait_for_ops,
                                        .read = read_buffer,
                                        .weight_create = weight_create,
                                        .weight_destroy = weight_destroy,
                                        .weight_bytes = weight_bytes,
                                        .table_create = table_create,
                                        .table_destroy = table_destroy,
                                        .kv_cache_create = kv_cache_create,
                                        .kv_cache_destroy = kv_cache_destroy,
                                        .kv_block_bytes = kv_block_bytes,
                                        .kv_copy_blocks = kv_copy_blocks,
                                        .kv_read_block = kv_read_block,
                                        .kv_write_block = kv_write_block,
                                        .batch_begin = batch_begin,
                                        .pass_begin = pass_begin,
                                        .pass_end = pass_end,
                                        .embed = embed,
                                        .rms_norm = rms_norm,
                                        .layer_norm = layer_norm,
                                        .linear = linear,
                                        .gated_act = gated_act,
                                        .act = act,
                                        .rope_kv_write = rope_kv_write,
                                        .attention = attention,
                                        .gather_rows = gather_rows,
                                        .sample = sample,
                                        .row_stats = row_stats,
                                        .exp_row = exp_row,
                                        .ranks_join = ranks_join,
                                        .ranks_sum = ranks_sum,
                                        .ranks_gather = ranks_gather};

static quire_status open_device(cuda_backend *c, int index, int threads, quire_error *error)
{
    int count = 0, code = c->api->num_devices(&count);
    if (code != 0 || count == 0)
        return qr_fail(error, QUIRE_DEVICE, "no CUDA device: %s (nvidia-smi shows what the driver sees)",
                       code != 0 ? c->api->error_text(code) : "the driver counts none");
    if (index < 0 || index >= count)
        return qr_fail(error, QUIRE_DEVICE, "cuda:%d: there %s %d CUDA device%s, counted from 0", index,
                       count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
    qr_cuda_info info;
    code = c->api->open(index, &c->dev, &info);
    size_t total_bytes;
    if (code == 0) code = c->api->memory(c->dev, &c->free_at_open, &total_bytes);
    if (code != 0) return qr_fail(error, QUIRE_DEVICE, "cuda:%d: %s", index, c->api->error_text(code));
    QR_TRY(qr_cpu_backend_create(NULL, threads, &c->host, error));
    c->base.pool = c->host->pool;
    const bool hopper = c->tensor_cores && info.compute_major == 9 && info.compute_minor == 0;
    c->wgmma = hopper && c->api->wgmma_check(c->dev);
    snprintf(c->name, sizeof c->name, "cuda:%d (%s, %d.%d, %d SMs%s)", index, info.name, info.compute_major,
             info.compute_minor, info.num_multiprocessors,
             !hopper    ? ""
             : c->wgmma ? ", wgmma"
                        : ", mma.sync: wgmma rounds otherwise or does not run");
    return QUIRE_OK;
}

quire_status qr_cuda_backend_create(const char *library, int index, int threads, bool tensor_cores, qr_backend **out,
                                    quire_error *error)
{
    const qr_cuda_api *api;
    QR_TRY(qr_cuda_library_open(library, &api, error));
    cuda_backend *c = qr_calloc(1, sizeof *c);
    if (!c) return qr_fail_nomem(error, "the CUDA backend", sizeof *c);
    c->api = api;
    c->tensor_cores = tensor_cores;
    quire_status status = open_device(c, index, threads, error);
    if (status != QUIRE_OK) {
        destroy(&c->base);
        return status;
    }
    c->ops = cuda_ops;
    c->ops.name = c->name;
    c->base.ops = &c->ops;
    *out = &c->base;
    return QUIRE_OK;
}
