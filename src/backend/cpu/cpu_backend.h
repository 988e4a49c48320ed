/* cpu_backend: what the files of the CPU backend share.
 *
 *   cpu_backend.c  the table, memory, weights, row ops      linear.c  matrix products
 *   cpu_kv.c       the KV cache                             attention.c
 *
 * Scratch is allocated by reserve() and belongs to the running op; per-thread parts are thread_stride apart. */
#ifndef QR_BACKEND_CPU_CPU_BACKEND_H
#define QR_BACKEND_CPU_CPU_BACKEND_H

#include "backend/cpu/kernels.h"

enum {
    QR_TOKEN_BLOCK = 96, /* tokens of one linear tile: a multiple of every register tile */
    QR_STRIP_PANELS = 2, /* panels that one kernel call multiplies; with fewer tokens more */
    QR_RUN_PANELS = 32   /* panels whose accumulators a thread holds */
};

typedef struct qr_thread_scratch {
    _Alignas(64) float acc[QR_TOKEN_BLOCK * QR_RUN_PANELS * QR_PANEL]; /* linear */
    float scores[QR_ATTEND_ROWS * QR_ATTEND_TILE];
    float out[3][QR_ATTEND_ROWS * QR_MAX_HEAD_SIZE]; /* tile, segment, all */
    float m[3][QR_ATTEND_ROWS], l[3][QR_ATTEND_ROWS];
} qr_thread_scratch;

/* Requests first_req .. of the batch's prefix order, up to the next group's, and their first work item. */
typedef struct qr_attend_group {
    int32_t first_req, first_item;
} qr_attend_group;

typedef struct qr_cpu_backend {
    qr_backend base;
    qr_backend_ops ops; /* with this backend's name */
    char name[48];
    const qr_cpu_kernels *kernels;
    int num_threads;
    qr_thread_scratch *threads; /* [num_threads] */

    /* reserve() */
    int max_tokens, max_context;
    int64_t max_cols;
    qr_act_group *act; /* [max_tokens][ceil(max_cols / 32)] */
    size_t act_bytes;
    qr_attend_group *groups; /* [max_tokens + 1] attention: requests that are worked on together */
    float *parts;            /* partial results of a context that is split over threads */
    size_t parts_bytes;
} qr_cpu_backend;

struct qr_kv_cache {
    qr_kv_config config;
    int padded; /* head_size rounded up to whole vectors */
    size_t elem_bytes;
    size_t head_k_bytes, head_v_bytes; /* of one block, INT8's scales included */
    size_t layer_block_bytes;          /* K of all heads, then V of all heads */
    size_t bytes;
    uint8_t *data;              /* [num_layers][num_blocks][layer_block_bytes] */
    int64_t end_block;          /* behind the highest block written */
    size_t warm_at, warm_layer; /* every layer's first warm_at bytes are there, and a piece more of those before it */
};

static inline qr_cpu_backend *qr_cpu(qr_backend *be) { return (qr_cpu_backend *)be; }

static inline uint8_t *qr_kv_block(const qr_kv_cache *c, int layer, int64_t block_id)
{
    return c->data + ((size_t)layer * (size_t)c->config.num_blocks + (size_t)block_id) * c->layer_block_bytes;
}
static inline uint8_t *qr_kv_k(const qr_kv_cache *c, int layer, int64_t block_id, int kv_head)
{
    return qr_kv_block(c, layer, block_id) + (size_t)kv_head * c->head_k_bytes;
}
static inline uint8_t *qr_kv_v(const qr_kv_cache *c, int layer, int64_t block_id, int kv_head)
{
    return qr_kv_block(c, layer, block_id) + (size_t)c->config.num_kv_heads * c->head_k_bytes +
           (size_t)kv_head * c->head_v_bytes;
}

/* Run fn over [0, count) in chunks of at least `grain`, on all threads when there is more than one chunk. */
typedef void (*qr_range_fn)(void *ctx, int64_t first, int64_t end, int thread_idx);
void qr_cpu_parallel(qr_cpu_backend *cpu, int64_t count, int64_t grain, qr_range_fn fn, void *ctx);

/* the ops of backend.h that have their own file */
void qr_cpu_linear(qr_backend *be, const float *x, int64_t ld_x, int num_tokens, const qr_weight *const *weights,
                   const float *const *biases, int num_weights, float *y, int64_t ld_y, bool accumulate);
void qr_cpu_attention(qr_backend *be, const qr_batch *batch, const qr_attention_args *args);
void qr_cpu_rope_kv_write(qr_backend *be, const qr_batch *batch, const qr_rope_kv_args *args);
quire_status qr_cpu_kv_cache_create(qr_backend *be, const qr_kv_config *config, qr_kv_cache **out, quire_error *error);
void qr_cpu_kv_cache_destroy(qr_backend *be, qr_kv_cache *cache);
size_t qr_cpu_kv_block_bytes(qr_backend *be, const qr_kv_config *config);
void qr_cpu_kv_copy_blocks(qr_backend *be, qr_kv_cache *cache, const qr_copy_pair *pairs, int num_pairs);
void qr_cpu_kv_read_block(qr_backend *be, const qr_kv_cache *cache, int32_t block_id, void *dst);
void qr_cpu_kv_write_block(qr_backend *be, qr_kv_cache *cache, int32_t block_id, const void *src);
bool qr_cpu_kv_warm(qr_backend *be, qr_kv_cache *cache);

#endif
