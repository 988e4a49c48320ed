/* prefix: the engine's part of a stored prefix cache: what the store belongs to, and blocks between it and the pool. */
#include <string.h>

#include "engine/engine.h"
#include "engine/fingerprint.h"

enum { RING_BYTES = 64 << 20, LOAD_BYTES_PER_STEP = 32 << 20, SAVE_TIMEOUT_US = 10000000 };

/* The pool evicts a block: see kv/block_store.h for when. */
static void keep(void *ctx, int32_t block_id, const qr_block_content *content)
{
    quire_engine *e = ctx;
    void *bytes = qr_prefix_store_put(e->prefix_store, content);
    if (!bytes) return;
    pthread_mutex_lock(&e->model->lock);
    qr_ranks_read_block(e->model->ranks, e->model->backend, e->cache, block_id, bytes);
    pthread_mutex_unlock(&e->model->lock);
    qr_prefix_store_put_done(e->prefix_store);
}

static bool load(void *ctx, int32_t block_id, const qr_block_content *content)
{
    quire_engine *e = ctx;
    const void *bytes = qr_prefix_store_get(e->prefix_store, content);
    if (!bytes) return false;
    pthread_mutex_lock(&e->model->lock);
    qr_ranks_write_block(e->model->ranks, e->model->backend, e->cache, block_id, bytes);
    pthread_mutex_unlock(&e->model->lock);
    return true;
}

static void forget(void *ctx)
{
    quire_engine *e = ctx;
    qr_prefix_store_forget(e->prefix_store);
}

quire_status qr_engine_open_prefix_store(quire_engine *e, quire_error *error)
{
    const quire_engine_options *o = &e->options;
    if (!o->prefix_cache_path) return QUIRE_OK;
    if (!o->enable_prefix_caching)
        return qr_fail_param(error, "prefix_cache_path", "prefix_cache_path: prefix caching is off");
    const size_t block_bytes = qr_ranks_block_bytes(e->model->ranks, e->model->backend, &e->kv_config);
    qr_prefix_file_options file = {.path = o->prefix_cache_path,
                                   .max_bytes = o->prefix_cache_space_bytes,
                                   .block_size = o->block_size,
                                   .block_bytes = block_bytes};
    qr_model_fingerprint(e->model, o->kv_cache_dtype, o->block_size, file.fingerprint);
    QR_TRY(qr_prefix_store_open(&file, RING_BYTES, &e->prefix_store, error));
    const size_t max_loads = LOAD_BYTES_PER_STEP / block_bytes;
    e->block_store = (qr_block_store){.ctx = e,
                                      .max_loads_per_step = max_loads > 1 ? (int32_t)max_loads : 1,
                                      .keep = keep,
                                      .load = load,
                                      .forget = forget};
    memcpy(e->block_store.secret, qr_prefix_store_secret(e->prefix_store), sizeof e->block_store.secret);
    return QUIRE_OK;
}

void qr_engine_close_prefix_store(quire_engine *e)
{
    if (e->prefix_store && e->sched) {
        qr_prefix_store_save(e->prefix_store, SAVE_TIMEOUT_US);
        qr_sched_keep_prefixes(e->sched);
    }
    qr_prefix_store_close(e->prefix_store);
    e->prefix_store = NULL;
}
