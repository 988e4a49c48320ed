/* The KV cache: K transposed within a block (keys across lanes), V by rows; rotation and writing of new tokens.
 *
 *   block of a layer   K of head 0 | K of head 1 | ... | V of head 0 | V of head 1 | ...
 *   K of a head        [head_size][block_size]     | INT8: scales f16[block_size]
 *   V of a head        [block_size][padded]        | INT8: scales f16[block_size] */
#include <assert.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"
#include "base/mem.h"

enum {
    ROPE_GRAIN = 16,            /* tokens */
    WARM_PIECE_BYTES = 2 << 20, /* a huge page */
    WARM_AHEAD_BYTES = 1 << 30,
    PAGE_BYTES = 4096
};

static void describe(const qr_kv_config *config, qr_kv_cache *c)
{
    static const size_t elem_bytes[] = {
#define XX(id, name, bytes) [QR_KV_##id] = bytes,
        QR_KV_DTYPE_MAP(XX)
#undef XX
    };
    assert(config->dtype < QR_NUM_KV_DTYPES);
    size_t block_size = (size_t)config->block_size;
    size_t scale_bytes = config->dtype == QR_KV_INT8 ? block_size * sizeof(uint16_t) : 0;
    c->config = *config;
    c->padded = (config->head_size + 15) / 16 * 16;
    c->elem_bytes = elem_bytes[config->dtype];
    c->head_k_bytes = (size_t)config->head_size * block_size * c->elem_bytes + scale_bytes;
    c->head_v_bytes = (size_t)c->padded * block_size * c->elem_bytes + scale_bytes;
    c->layer_block_bytes = (size_t)config->num_kv_heads * (c->head_k_bytes + c->head_v_bytes);
}

size_t qr_cpu_kv_block_bytes(qr_backend *be, const qr_kv_config *config)
{
    (void)be;
    qr_kv_cache c;
    describe(config, &c);
    return (size_t)config->num_layers * c.layer_block_bytes;
}

quire_status qr_cpu_kv_cache_create(qr_backend *be, const qr_kv_config *config, qr_kv_cache **out, quire_error *error)
{
    (void)be;
    int bs = config->block_size;
    if (bs < QR_MIN_BLOCK_SIZE || bs > QR_MAX_BLOCK_SIZE || (bs & (bs - 1)) != 0)
        return qr_fail_param(error, "block_size", "block_size must be 8, 16, 32, 64 or 128, got %d", bs);
    if (config->head_size < 1 || config->head_size > QR_MAX_HEAD_SIZE)
        return qr_fail(error, QUIRE_UNSUPPORTED, "head size %d: the CPU backend supports 1 to %d", config->head_size,
                       QR_MAX_HEAD_SIZE);
    if (config->num_layers < 1 || config->num_kv_heads < 1 || config->num_blocks < 1)
        return qr_fail(error, QUIRE_INVALID, "KV cache of %d layers, %d heads, %lld blocks", config->num_layers,
                       config->num_kv_heads, (long long)config->num_blocks);
    qr_kv_cache *c = qr_calloc(1, sizeof *c);
    if (!c) return qr_fail_nomem(error, "the KV cache", sizeof *c);
    describe(config, c);
    if (qr_mul_overflow((size_t)config->num_layers * c->layer_block_bytes, (size_t)config->num_blocks, &c->bytes))
        c->bytes = SIZE_MAX;
    c->data = c->bytes == SIZE_MAX ? NULL : qr_pages_alloc(c->bytes);
    if (!c->data) {
        size_t bytes = c->bytes;
        qr_free(c);
        return qr_fail_nomem(error, "the KV cache", bytes);
    }
    *out = c;
    return QUIRE_OK;
}

void qr_cpu_kv_cache_destroy(qr_backend *be, qr_kv_cache *cache)
{
    (void)be;
    if (!cache) return;
    qr_pages_free(cache->data, cache->bytes);
    qr_free(cache);
}

typedef struct copy_job {
    const qr_kv_cache *cache;
    const qr_copy_pair *pairs;
    int num_pairs;
} copy_job;

static void copy_layer(void *ctx, int layer, int thread_idx)
{
    (void)thread_idx;
    const copy_job *job = ctx;
    for (int i = 0; i < job->num_pairs; i++)
        if (job->pairs[i].src_block != job->pairs[i].dst_block)
            memcpy(qr_kv_block(job->cache, layer, job->pairs[i].dst_block),
                   qr_kv_block(job->cache, layer, job->pairs[i].src_block), job->cache->layer_block_bytes);
}

void qr_cpu_kv_copy_blocks(qr_backend *be, qr_kv_cache *cache, const qr_copy_pair *pairs, int num_pairs)
{
    copy_job job = {cache, pairs, num_pairs};
    qr_pool_run(be->pool, copy_layer, &job, cache->config.num_layers);
}

void qr_cpu_kv_read_block(qr_backend *be, const qr_kv_cache *cache, int32_t block_id, void *dst)
{
    (void)be;
    for (int layer = 0; layer < cache->config.num_layers; layer++)
        memcpy((uint8_t *)dst + (size_t)layer * cache->layer_block_bytes, qr_kv_block(cache, layer, block_id),
               cache->layer_block_bytes);
}

void qr_cpu_kv_write_block(qr_backend *be, qr_kv_cache *cache, int32_t block_id, const void *src)
{
    (void)be;
    for (int layer = 0; layer < cache->config.num_layers; layer++)
        memcpy(qr_kv_block(cache, layer, block_id), (const uint8_t *)src + (size_t)layer * cache->layer_block_bytes,
               cache->layer_block_bytes);
}

/* The first touch of memory can take longer than all that is done with it later. A block's parts lie one layer's blocks
 * apart, so pieces of all layers are touched in turn. */
bool qr_cpu_kv_warm(qr_backend *be, qr_kv_cache *cache)
{
    (void)be;
    size_t num_layers = (size_t)cache->config.num_layers, layer_bytes = cache->bytes / num_layers;
    size_t wanted = (size_t)cache->end_block * cache->layer_block_bytes + WARM_AHEAD_BYTES / num_layers;
    if (cache->warm_at >= layer_bytes || cache->warm_at >= wanted) return false;
    size_t end = cache->warm_at + WARM_PIECE_BYTES;
    volatile uint8_t *layer = cache->data + cache->warm_layer * layer_bytes;
    for (size_t at = cache->warm_at; at < end && at < layer_bytes; at += PAGE_BYTES) layer[at] = layer[at];
    if (++cache->warm_layer == num_layers) {
        cache->warm_layer = 0;
        cache->warm_at = end;
    }
    return true;
}

/* ---- new tokens */

typedef struct rope_job {
    const qr_cpu_kernels *kernels;
    const qr_batch *batch;
    const qr_rope_kv_args *args;
} rope_job;

static void write_k(const rope_job *job, int64_t slot, int head, const float *k)
{
    const qr_kv_cache *c = job->args->cache;
    int bs = c->config.block_size, size = c->config.head_size, at = (int)(slot % bs);
    uint8_t *base = qr_kv_k(c, job->args->layer, slot / bs, head);
    _Alignas(4) uint8_t row[QR_MAX_HEAD_SIZE * sizeof(float)];
    uint16_t scale = job->kernels->kv_row(c->config.dtype, k, size, row);
    switch (c->elem_bytes) {
    case 1:
        for (int d = 0; d < size; d++) base[d * bs + at] = row[d];
        break;
    case 2:
        for (int d = 0; d < size; d++) ((uint16_t *)base)[d * bs + at] = ((uint16_t *)row)[d];
        break;
    default:
        for (int d = 0; d < size; d++) ((uint32_t *)base)[d * bs + at] = ((uint32_t *)row)[d];
        break;
    }
    if (c->config.dtype == QR_KV_INT8) ((uint16_t *)(base + size * bs))[at] = scale;
}

static void write_v(const rope_job *job, int64_t slot, int head, const float *v)
{
    const qr_kv_cache *c = job->args->cache;
    int bs = c->config.block_size, size = c->config.head_size, at = (int)(slot % bs);
    uint8_t *base = qr_kv_v(c, job->args->layer, slot / bs, head);
    uint8_t *row = base + (size_t)at * (size_t)c->padded * c->elem_bytes;
    uint16_t scale = job->kernels->kv_row(c->config.dtype, v, size, row);
    memset(row + (size_t)size * c->elem_bytes, 0, (size_t)(c->padded - size) * c->elem_bytes);
    if (c->config.dtype == QR_KV_INT8) ((uint16_t *)(base + c->padded * bs))[at] = scale;
}

static void rope_tokens(void *ctx, int64_t first, int64_t end, int thread_idx)
{
    (void)thread_idx;
    const rope_job *job = ctx;
    const qr_rope_kv_args *a = job->args;
    int size = a->head_size, half = a->rotary_dim / 2;
    for (int64_t t = first; t < end; t++) {
        float *row = a->qkv + t * a->ld;
        int64_t position = job->batch->positions[t], slot = job->batch->slot_mapping[t];
        for (int h = 0; h < a->num_heads + a->num_kv_heads; h++) {
            float *x = row + (int64_t)h * size;
            const float *norm = h < a->num_heads ? a->q_norm : a->k_norm;
            if (norm) job->kernels->rms_norm_row(x, norm, a->norm_eps, size, x);
            if (a->style != QR_ROPE_NONE)
                job->kernels->rope_head(x, a->style, a->rotary_dim, a->cos + position * half, a->sin + position * half);
        }
        for (int h = 0; h < a->num_kv_heads; h++) {
            write_k(job, slot, h, row + (int64_t)(a->num_heads + h) * size);
            write_v(job, slot, h, row + (int64_t)(a->num_heads + a->num_kv_heads + h) * size);
        }
    }
}

void qr_cpu_rope_kv_write(qr_backend *be, const qr_batch *batch, const qr_rope_kv_args *args)
{
    qr_cpu_backend *cpu = qr_cpu(be);
    rope_job job = {cpu->kernels, batch, args};
    qr_kv_cache *c = args->cache;
    for (int t = 0; args->layer == 0 && t < batch->num_tokens; t++) {
        int64_t block = batch->slot_mapping[t] / c->config.block_size;
        if (block >= c->end_block) c->end_block = block + 1;
    }
    qr_cpu_parallel(cpu, batch->num_tokens, ROPE_GRAIN, rope_tokens, &job);
}
