#define _GNU_SOURCE
#include "engine/engine.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"

enum { MAX_LOGITS_ROWS = 64 };

void quire_engine_options_init(quire_engine_options *options)
{
    *options = (quire_engine_options){.block_size = 16,
                                      .kv_cache_dtype = "auto",
                                      .max_num_batched_tokens = 512,
                                      .max_num_seqs = 128,
                                      .enable_chunked_prefill = true,
                                      .enable_prefix_caching = true,
                                      .kv_allocator = "vllm",
                                      .preemption_mode = "recompute",
                                      .prefix_cache_space_bytes = (size_t)4 << 30};
}

/* ---- options -------------------------------------------------------------------------------------------- */

static quire_status parse_policy(quire_engine_options *o, qr_sched_policy *out, quire_error *error)
{
    const char *policy = o->scheduling_policy;
    if (!policy) policy = strcmp(o->kv_allocator, "vllm") == 0 ? "fair" : "fcfs";
    if (!qr_sched_policy_parse(policy, out))
        return qr_fail_param(error, "scheduling_policy", "scheduling_policy: fair, fcfs or priority, not '%s'", policy);
    o->scheduling_policy = qr_sched_policy_name(*out);
    return QUIRE_OK;
}

static quire_status parse_allocator(quire_engine_options *o, qr_kv_allocator *out, quire_error *error)
{
    const char *name = o->kv_allocator ? o->kv_allocator : "vllm";
    if (!qr_kv_allocator_parse(name, out))
        return qr_fail_param(error, "kv_allocator",
                             "kv_allocator: vllm, vllm-v0, orca-max, orca-pow2, orca-oracle or faster-transformer, not "
                             "'%s'",
                             name);
    o->kv_allocator = qr_kv_allocator_name(*out);
    return QUIRE_OK;
}

static quire_status parse_preemption(quire_engine_options *o, qr_preemption_mode *out, quire_error *error)
{
    static const char *const names[] = {
        [QR_PREEMPT_RECOMPUTE] = "recompute", [QR_PREEMPT_SWAP] = "swap", [QR_PREEMPT_AUTO] = "auto"};
    const char *mode = o->preemption_mode ? o->preemption_mode : "recompute";
    int i = 0;
    while (i < 3 && strcmp(names[i], mode) != 0) i++;
    if (i == 3)
        return qr_fail_param(error, "preemption_mode", "preemption_mode: recompute, swap or auto, not '%s'", mode);
    *out = (qr_preemption_mode)i;
    o->preemption_mode = names[i];
    if ((*out == QR_PREEMPT_RECOMPUTE) == (o->swap_space_bytes > 0))
        return qr_fail_param(error, "swap_space", "swap_space: preemption mode %s %s", mode,
                             o->swap_space_bytes > 0 ? "has no use for it" : "needs some");
    if (o->swap_path && o->swap_space_bytes == 0)
        return qr_fail_param(error, "swap_path", "swap_path: give swap_space too");
    return QUIRE_OK;
}

static quire_status parse_kv_dtype(quire_engine *e, quire_error *error)
{
    static const char *const names[] = {
#define XX(id, name, bytes) [QR_KV_##id] = name,
        QR_KV_DTYPE_MAP(XX)
#undef XX
    };
    const char *dtype = e->options.kv_cache_dtype ? e->options.kv_cache_dtype : "auto";
    if (strcmp(dtype, "auto") == 0) dtype = e->model->compute == QR_COMPUTE_FLOAT32 ? "float32" : "float16";
    if (strcmp(dtype, "fp8") == 0) dtype = "fp8_e4m3";
    int i = 0;
    while (i < QR_NUM_KV_DTYPES && strcmp(names[i], dtype) != 0) i++;
    if (i == QR_NUM_KV_DTYPES)
        return qr_fail_param(error, "kv_cache_dtype",
                             "kv_cache_dtype: auto, float16, float32, int8, fp8, fp8_e4m3 or fp8_e5m2, not '%s'",
                             dtype);
    e->kv_config.dtype = (qr_kv_dtype)i;
    e->options.kv_cache_dtype = names[i];
    return QUIRE_OK;
}

static quire_status check_options(const quire_engine_options *o, quire_error *error)
{
    int b = o->block_size;
    if (b != 8 && b != 16 && b != 32 && b != 64 && b != 128)
        return qr_fail_param(error, "block_size", "block_size: 8, 16, 32, 64 or 128, not %d", b);
    if (o->max_num_seqs < 1 || o->max_num_seqs > 65536)
        return qr_fail_param(error, "max_num_seqs", "max_num_seqs: 1 to 65536, not %d", o->max_num_seqs);
    if (o->max_num_batched_tokens < 1 || o->max_num_batched_tokens > 1 << 20)
        return qr_fail_param(error, "max_num_batched_tokens", "max_num_batched_tokens: 1 to 1048576, not %d",
                             o->max_num_batched_tokens);
    if (o->max_model_len < 0) return qr_fail_param(error, "max_model_len", "max_model_len: 0 (the model's) or more");
    if (o->max_num_queued_reqs < 0)
        return qr_fail_param(error, "max_num_queued_reqs", "max_num_queued_reqs: 0 (no limit) or more");
    if (o->num_kv_blocks < 0) return qr_fail_param(error, "num_kv_blocks", "num_kv_blocks: 0 (automatic) or more");
    if (!(o->gpu_memory_utilization >= 0 && o->gpu_memory_utilization <= 1))
        return qr_fail_param(error, "gpu_memory_utilization",
                             "gpu_memory_utilization: 0 (the device's default) to 1, not %g",
                             o->gpu_memory_utilization);
    return QUIRE_OK;
}

static quire_status size_model_len(quire_engine *e, quire_error *error)
{
    quire_engine_options *o = &e->options;
    int64_t capacity = e->kv_config.num_blocks * o->block_size;
    int longest = e->model->info.max_position_embeddings;
    if (o->max_model_len > longest && qr_model_get_config(e->model->model)->arch->learned_positions)
        return qr_fail_param(error, "max_model_len", "max_model_len: this model has positions up to %d, not %d",
                             longest, o->max_model_len);
    if (o->max_model_len > capacity)
        return qr_fail_param(
            error, "max_model_len",
            "max_model_len: %d tokens do not fit into the KV cache of %lld (%lld blocks of %d); give it "
            "more memory or lower max_model_len",
            o->max_model_len, (long long)capacity, (long long)e->kv_config.num_blocks, o->block_size);
    if (o->max_model_len == 0) o->max_model_len = longest < capacity ? longest : (int)capacity;
    if (o->max_model_len < 2) return qr_fail_param(error, "max_model_len", "max_model_len: at least 2 tokens");
    return QUIRE_OK;
}

/* How many blocks the pool gets of the memory that is left, and with it the longest sequence.
 *   asked   what the caller asked for of both */
static quire_status size_pool(quire_engine *e, const quire_engine_options *asked, quire_error *error)
{
    quire_engine_options *o = &e->options;
    o->num_kv_blocks = asked->num_kv_blocks;
    o->max_model_len = asked->max_model_len;
    qr_backend *be = e->model->backend;
    qr_kv_config kv = qr_model_kv_config(e->model->model);
    kv.dtype = e->kv_config.dtype;
    kv.block_size = o->block_size;
    size_t block_bytes = be->ops->kv_block_bytes(be, &kv);
    if (e->draft) {
        const qr_kv_config draft_kv = qr_draft_kv_config(e->draft, &kv);
        block_bytes += be->ops->kv_block_bytes(be, &draft_kv);
    }
    const bool is_shared = e->model->comm && !be->ops->ranks_join; /* memory of a machine, not of a device */
    const uint64_t num_local = is_shared ? (uint64_t)e->model->comm->num_local : 1;
    uint64_t total, left = be->ops->cache_bytes(be, o->gpu_memory_utilization, &total) / num_local;
    const uint64_t memory = o->kv_cache_memory_bytes > 0 ? o->kv_cache_memory_bytes : left;
    kv.num_blocks = o->num_kv_blocks > 0 ? o->num_kv_blocks : (int64_t)(memory / block_bytes);
    if (kv.num_blocks > INT32_MAX) kv.num_blocks = INT32_MAX;
    if (kv.num_blocks < 1)
        return qr_fail_param(error, "kv_cache_memory_bytes",
                             "the KV cache gets %llu bytes, but one block of %d tokens takes %zu; raise "
                             "kv_cache_memory_bytes or gpu_memory_utilization",
                             (unsigned long long)memory, o->block_size, block_bytes);
    if (total && (uint64_t)kv.num_blocks > total / num_local / block_bytes)
        return qr_fail_param(error, o->num_kv_blocks > 0 ? "num_kv_blocks" : "kv_cache_memory_bytes",
                             "a KV cache of %lld blocks takes %.4g GiB, but this machine or its cgroup has %.4g GiB",
                             (long long)kv.num_blocks,
                             (double)kv.num_blocks * (double)(block_bytes * num_local) / (1 << 30),
                             (double)total / (1 << 30));
    e->kv_config = kv;
    QR_TRY(size_model_len(e, error));
    o->num_kv_blocks = kv.num_blocks;
    return QUIRE_OK;
}

/* ---- create and destroy ------------------------------------------------------------------------------------ */

static size_t kv_block_bytes(const quire_engine *e)
{
    return e->model->backend->ops->kv_block_bytes(e->model->backend, &e->kv_config);
}

static quire_status create_swap(quire_engine *e, quire_error *error)
{
    int64_t num_blocks = qr_sched_get_options(e->sched)->num_swap_blocks;
    if (num_blocks == 0) return QUIRE_OK;
    return qr_swap_init(&e->swap, e->model->backend, e->cache, kv_block_bytes(e), num_blocks, e->options.swap_path,
                        error);
}

/* What does not depend on the pool's size. */
static quire_status parse_sched_options(quire_engine *e, qr_sched_options *s, quire_error *error)
{
    quire_engine_options *o = &e->options;
    qr_sched_options_init(s);
    QR_TRY(parse_policy(o, &s->policy, error));
    QR_TRY(parse_allocator(o, &s->kv_allocator, error));
    QR_TRY(parse_preemption(o, &s->preemption_mode, error));
    s->block_size = o->block_size;
    s->max_num_seqs = o->max_num_seqs;
    s->max_num_batched_tokens = o->max_num_batched_tokens;
    s->enable_chunked_prefill = o->enable_chunked_prefill;
    s->enable_prefix_caching = o->enable_prefix_caching;
    return QUIRE_OK;
}

static quire_status create_sched(quire_engine *e, qr_sched_options *s, quire_error *error)
{
    const quire_engine_options *o = &e->options;
    s->num_swap_blocks = (int64_t)(o->swap_space_bytes / kv_block_bytes(e));
    if (s->num_swap_blocks > INT32_MAX) s->num_swap_blocks = INT32_MAX;
    if (o->swap_space_bytes > 0 && s->num_swap_blocks == 0)
        return qr_fail_param(error, "swap_space", "swap_space: %zu bytes hold no block of %zu", o->swap_space_bytes,
                             kv_block_bytes(e));
    s->num_blocks = e->kv_config.num_blocks;
    s->max_model_len = o->max_model_len; /* the budget stays what the scratch is for */
    s->store = e->prefix_store ? &e->block_store : NULL;
    return qr_sched_create(s, &e->sched, error);
}

static quire_status create_sampling(quire_engine *e, quire_error *error)
{
    size_t jobs = (size_t)e->max_jobs, rows = (size_t)e->logits_rows;
    int threads = qr_pool_num_threads(e->model->backend->pool);
    e->jobs = qr_calloc(jobs, sizeof *e->jobs);
    e->top_ids = qr_malloc(jobs * QR_MAX_LOGPROBS * sizeof *e->top_ids);
    e->top_logprobs = qr_malloc(jobs * QR_MAX_LOGPROBS * sizeof *e->top_logprobs);
    e->row_max = qr_malloc(rows * sizeof *e->row_max);
    e->row_sum_exp = qr_malloc(rows * sizeof *e->row_sum_exp);
    e->row_argmax = qr_malloc(rows * sizeof *e->row_argmax);
    e->scratch = qr_calloc((size_t)threads, sizeof *e->scratch);
    if (!e->jobs || !e->top_ids || !e->top_logprobs || !e->row_max || !e->row_sum_exp || !e->row_argmax || !e->scratch)
        return qr_fail_nomem(error, "the sampler", jobs * (sizeof *e->jobs + QR_MAX_LOGPROBS * 8));
    size_t text_bytes = qr_request_max_token_text(e->model);
    if (qr_buf_reserve(&e->text, text_bytes) != 0) return qr_fail_nomem(error, "an output's text", text_bytes);
    for (int i = 0; i < threads; i++)
        QR_TRY(qr_sampler_scratch_create(e->model->info.vocab_size, &e->scratch[i], error));
    return qr_device_sampling_init(e, error);
}

static void init_stats(quire_engine *e)
{
    quire_stats *s = &e->stats;
    qr_stats_init(s, e->options.max_model_len);
    s->num_kv_blocks = s->num_free_kv_blocks = e->kv_config.num_blocks;
    s->block_size = e->options.block_size;
    s->max_model_len = e->options.max_model_len;
    s->max_num_seqs = e->options.max_num_seqs;
    s->max_num_batched_tokens = e->options.max_num_batched_tokens;
    s->num_speculative_tokens = e->spec.num_tokens;
    s->speculative_method = qr_spec_method_name(e->spec.method);
    s->kv_cache_dtype = e->options.kv_cache_dtype;
    s->kv_allocator = e->options.kv_allocator;
    size_t block_bytes = qr_ranks_block_bytes(e->model->ranks, e->model->backend, &e->kv_config);
    if (e->draft) {
        const qr_kv_config draft_kv = qr_draft_kv_config(e->draft, &e->kv_config);
        block_bytes += e->model->backend->ops->kv_block_bytes(e->model->backend, &draft_kv);
    }
    s->kv_cache_bytes = (size_t)e->kv_config.num_blocks * block_bytes;
}

/* Other engines of the model may be computing. */
static quire_status with_lock(quire_engine *e, quire_status (*create)(quire_engine *e, quire_error *error),
                              quire_error *error)
{
    pthread_mutex_lock(&e->model->lock);
    quire_status status = create(e, error);
    pthread_mutex_unlock(&e->model->lock);
    return status;
}

static quire_status load_draft(quire_engine *e, quire_error *error)
{
    return qr_draft_load(e->model, e->spec.model, &e->draft, error);
}

static quire_status open_ranks(quire_engine *e, quire_error *error)
{
    const quire_engine_options *o = &e->options;
    if (!e->model->ranks) return QUIRE_OK;
    qr_ranks_config config = {.kv = e->kv_config,
                              .max_tokens = o->max_num_batched_tokens,
                              .max_seqs = o->max_num_seqs,
                              .max_context = o->max_model_len,
                              .logits_rows = e->logits_rows,
                              .num_swap_blocks = qr_sched_get_options(e->sched)->num_swap_blocks};
    if (o->swap_path && strlen(o->swap_path) >= sizeof config.swap_path)
        return qr_fail_param(error, "swap_path", "swap_path: longer than %zu bytes", sizeof config.swap_path - 1);
    snprintf(config.swap_path, sizeof config.swap_path, "%s", o->swap_path ? o->swap_path : "");
    QR_TRY(qr_ranks_open(e->model->ranks, &config, error));
    e->ranks_opened = true;
    return QUIRE_OK;
}

static quire_status create_workspaces(quire_engine *e, quire_error *error)
{
    const quire_engine_options *o = &e->options;
    QR_TRY(qr_model_workspace_create(e->model->model, o->max_num_batched_tokens, o->max_num_seqs, e->logits_rows,
                                     o->max_model_len, &e->ws, error));
    if (!e->draft) return QUIRE_OK;
    return qr_draft_reserve(e->draft, o->max_num_batched_tokens, o->max_num_seqs, o->max_model_len, e->logits_rows,
                            error);
}

static quire_status create_caches(quire_engine *e, quire_error *error)
{
    qr_backend *be = e->model->backend;
    const quire_engine_options *o = &e->options;
    QR_TRY(be->ops->kv_cache_create(be, &e->kv_config, &e->cache, error));
    if (!e->draft) return QUIRE_OK;
    return qr_draft_create_cache(e->draft, &e->kv_config, o->max_num_seqs, o->max_model_len, error);
}

static void publish_store(quire_engine *e)
{
    if (!e->prefix_store) return;
    qr_prefix_store_stats now;
    qr_prefix_store_get_stats(e->prefix_store, &now);
    e->stats.max_prefix_store_blocks = now.num_slots;
    e->stats.num_prefix_store_blocks = now.num_blocks;
    e->stats.prefix_store_written = now.num_written;
    e->stats.prefix_store_dropped = now.num_dropped;
    e->stats.prefix_store_broken = now.num_broken;
}

static void *engine_main(void *raw);

static quire_status create_all(quire_engine *e, quire_error *error)
{
    quire_engine_options *o = &e->options;
    qr_sched_options sched;
    QR_TRY(check_options(o, error));
    QR_TRY(qr_spec_parse(o->speculative_config, &e->spec, error));
    o->speculative_config = NULL; /* the caller's string */
    QR_TRY(parse_kv_dtype(e, error));
    QR_TRY(parse_sched_options(e, &sched, error));
    if (e->spec.model) QR_TRY(with_lock(e, load_draft, error));
    e->max_jobs = o->max_num_seqs * (1 + e->spec.num_tokens); /* also for each of n sequences that share one row */
    e->logits_rows = e->max_jobs < MAX_LOGITS_ROWS ? e->max_jobs : MAX_LOGITS_ROWS;

    const quire_engine_options asked = *o;
    QR_TRY(size_pool(e, &asked, error)); /* at most: the scratch of a step, which depends on it, comes off */
    sched.max_model_len = o->max_model_len;
    o->max_num_batched_tokens = sched.max_num_batched_tokens = qr_sched_step_budget(&sched);
    QR_TRY(with_lock(e, create_workspaces, error));
    QR_TRY(create_sampling(e, error));
    QR_TRY(size_pool(e, &asked, error));
    QR_TRY(with_lock(e, create_caches, error));
    QR_TRY(qr_engine_open_prefix_store(e, error));
    QR_TRY(create_sched(e, &sched, error));
    QR_TRY(create_swap(e, error));
    QR_TRY(with_lock(e, open_ranks, error));
    o->swap_path = o->prefix_cache_path = NULL; /* the caller's strings */
    QR_TRY(qr_batch_init(&e->batch, o->max_num_batched_tokens, o->max_num_seqs,
                         (o->max_model_len + o->block_size - 1) / o->block_size, error));
    if (o->schedule_log)
        QR_TRY(qr_schedule_log_open(o->schedule_log, e->model->info.name, qr_sched_get_options(e->sched),
                                    e->spec.num_tokens, &e->schedule_log, error));
    o->schedule_log = NULL; /* the caller's string */
    QR_TRY(qr_profile_create(o, &e->profile, error));
    init_stats(e);
    publish_store(e);
    if (pthread_create(&e->thread, NULL, engine_main, e) != 0)
        return qr_fail(error, QUIRE_NOMEM, "cannot start the engine thread");
    e->thread_started = true;
    return QUIRE_OK;
}

quire_status quire_engine_create(quire_model *model, const quire_engine_options *options, quire_engine **out,
                                 quire_error *error)
{
    if (!model || !model->model) return qr_fail_param(error, "model", "the engine needs a model with weights");
    quire_engine *e = qr_calloc(1, sizeof *e);
    if (!e) return qr_fail_nomem(error, "the engine", sizeof *e);
    if (options)
        e->options = *options;
    else
        quire_engine_options_init(&e->options);
    e->model = model;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->wake, NULL);
    pthread_cond_init(&e->finished, &attr);
    pthread_condattr_destroy(&attr);
    quire_status status = create_all(e, error);
    if (status != QUIRE_OK) {
        quire_engine_destroy(e);
        return status;
    }
    *out = e;
    return QUIRE_OK;
}

static void destroy_parts(quire_engine *e)
{
    qr_schedule_log_close(e->schedule_log);
    qr_profile_destroy(e->profile);
    qr_engine_close_prefix_store(e);
    if (e->ranks_opened) qr_ranks_close(e->model->ranks);
    qr_sched_destroy(e->sched);
    qr_swap_deinit(&e->swap);
    pthread_mutex_lock(&e->model->lock); /* other engines of the model may be computing */
    if (e->cache) e->model->backend->ops->kv_cache_destroy(e->model->backend, e->cache);
    qr_model_workspace_destroy(e->ws);
    qr_device_sampling_deinit(e);
    qr_draft_destroy(e->draft);
    pthread_mutex_unlock(&e->model->lock);
    qr_batch_deinit(&e->batch);
    for (int i = 0; e->scratch && i < qr_pool_num_threads(e->model->backend->pool); i++)
        qr_sampler_scratch_destroy(e->scratch[i]);
    qr_free(e->scratch);
    qr_free(e->jobs);
    qr_free(e->top_ids);
    qr_free(e->top_logprobs);
    qr_free(e->row_max);
    qr_free(e->row_sum_exp);
    qr_free(e->row_argmax);
    qr_free(e->text.data);
    qr_spec_config_deinit(&e->spec);
}

void quire_engine_destroy(quire_engine *e)
{
    if (!e) return;
    if (e->thread_started) {
        pthread_mutex_lock(&e->lock);
        e->stopping = e->draining = true;
        pthread_cond_signal(&e->wake);
        pthread_mutex_unlock(&e->lock);
        pthread_join(e->thread, NULL);
    }
    destroy_parts(e);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->wake);
    pthread_cond_destroy(&e->finished);
    qr_free(e);
}

/* ---- any thread ---------------------------------------------------------------------------------------------- */

/* Could it ever run? Asked at once, so that nobody waits for a refusal. */
static quire_status validate(const quire_engine *e, const quire_request *r, quire_error *error)
{
    const qr_request_params p = {.prompt_token_ids = r->prompt_ids,
                                 .num_prompt_tokens = r->num_prompt,
                                 .max_output_tokens = r->max_output_tokens,
                                 .n = r->num_seqs};
    return qr_sched_validate(e->sched, &p, error);
}

/* Requests that wait, under e->lock. New ones for which there are seats do not: a burst at an idle engine is no queue.
 */
static int count_waiting(const quire_engine *e)
{
    int num_new = e->num_inbox + e->num_taken, num_old = e->stats.num_requests_waiting - e->num_taken;
    int seats = num_old > 0 ? 0 : e->options.max_num_seqs - e->stats.num_seqs_running;
    return (num_old > 0 ? num_old : 0) + (num_new > seats ? num_new - (seats > 0 ? seats : 0) : 0);
}

quire_status quire_submit(quire_engine *e, const quire_request_options *options, quire_request **out,
                          quire_error *error)
{
    quire_request *r = NULL;
    QR_TRY(qr_request_create(e->model, options, e->options.max_model_len, &r, error));
    quire_status status = validate(e, r, error);
    if (status == QUIRE_OK) status = qr_request_index_ngrams(r, &e->spec, error);
    if (status != QUIRE_OK) {
        qr_request_unref(r);
        return status;
    }
    r->engine = e;
    r->abort_pending = &e->abort_pending;
    r->arrival_us = qr_clock_us();
    pthread_mutex_lock(&e->lock);
    int waiting = count_waiting(e);
    if (e->draining) {
        status = qr_fail(error, QUIRE_ABORTED, "the engine is shutting down");
    } else if (e->options.max_num_queued_reqs > 0 && waiting >= e->options.max_num_queued_reqs) {
        status = qr_fail(error, QUIRE_QUEUE_FULL, "%d requests are waiting already (max_num_queued_reqs)", waiting);
    } else {
        r->key = r->params.has_seed ? r->params.seed : qr_sampler_mix(e->options.seed, e->serial++);
        atomic_fetch_add(&r->num_refs, 1); /* the engine's */
        if (e->inbox_last)
            e->inbox_last->next = r;
        else
            e->inbox_first = r;
        e->inbox_last = r;
        e->num_inbox++;
        e->num_open++;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->lock);
    if (status == QUIRE_OK)
        *out = r;
    else
        qr_request_unref(r);
    return status;
}

void quire_request_abort(quire_request *r) { qr_request_ask_abort(r); }

quire_status quire_engine_drain(quire_engine *e, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    quire_status status = QUIRE_OK;
    pthread_mutex_lock(&e->lock);
    e->draining = true;
    while (e->num_open > 0 && status == QUIRE_OK) {
        if (timeout_ms < 0)
            pthread_cond_wait(&e->finished, &e->lock);
        else if (pthread_cond_timedwait(&e->finished, &e->lock, &until) != 0 && e->num_open > 0)
            status = QUIRE_TIMEOUT;
    }
    pthread_mutex_unlock(&e->lock);
    return status;
}

void quire_engine_get_stats(quire_engine *e, quire_stats *out)
{
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    out->num_requests_waiting += e->num_inbox;
    pthread_mutex_unlock(&e->lock);
}

void quire_engine_reset_prefix_cache(quire_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->reset_prefix_cache = true;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
}

/* ---- the engine thread ------------------------------------------------------------------------------------------ */

static void unlink_live(quire_engine *e, quire_request *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        e->live = r->next;
    if (r->next) r->next->prev = r->prev;
}

static void publish_counts(quire_engine *e)
{
    qr_sched_stats now;
    qr_sched_get_stats(e->sched, &now);
    quire_stats *s = &e->stats;
    s->num_requests_running = now.num_running;
    s->num_seqs_running = now.num_running_seqs;
    s->num_requests_waiting = now.num_waiting;
    e->num_taken = 0;
    s->num_free_kv_blocks = now.num_free_blocks;
    s->kv_cache_usage = 1.0 - (double)now.num_free_blocks / now.num_blocks;
    publish_store(e);
}

/* The end of a request that is out of the scheduler. */
static void close_request(quire_engine *e, quire_request *r, int num_generated, quire_finish_reason reason)
{
    pthread_mutex_lock(&e->lock);
    quire_stats *s = &e->stats;
    uint64_t *counter = reason == QUIRE_FINISH_STOP     ? &s->finished_stop
                        : reason == QUIRE_FINISH_LENGTH ? &s->finished_length
                        : reason == QUIRE_FINISH_ERROR  ? &s->finished_error
                                                        : &s->finished_abort;
    ++*counter;
    if (reason == QUIRE_FINISH_STOP || reason == QUIRE_FINISH_LENGTH) {
        qr_histogram_observe(&s->e2e_request_latency_seconds, (double)(qr_clock_us() - r->arrival_us) * 1e-6);
        qr_histogram_observe(&s->request_prompt_tokens, r->num_prompt);
        qr_histogram_observe(&s->request_generation_tokens, num_generated);
    }
    publish_counts(e); /* who saw the request finish sees its blocks free */
    if (--e->num_open == 0) pthread_cond_broadcast(&e->finished);
    pthread_mutex_unlock(&e->lock);
    qr_request_unref(r);
}

void qr_engine_retire(quire_engine *e, quire_request *r, quire_finish_reason reason)
{
    int num_generated = 0;
    for (int i = 0; i < r->num_seqs; i++) num_generated += r->sched_request->seqs[i].num_output_tokens;
    qr_schedule_log_finished(e->schedule_log, r->sched_request);
    qr_sched_remove(e->sched, r->sched_request);
    r->sched_request = NULL;
    unlink_live(e, r);
    close_request(e, r, num_generated, reason);
}

static void abort_request(quire_engine *e, quire_request *r)
{
    qr_sched_abort(e->sched, r->sched_request);
    qr_request_end_all(r, QUIRE_FINISH_ABORT, NULL);
    qr_engine_retire(e, r, QUIRE_FINISH_ABORT);
}

static void admit(quire_engine *e, quire_request *r)
{
    const qr_request_params p = {.prompt_token_ids = r->prompt_ids,
                                 .num_prompt_tokens = r->num_prompt,
                                 .max_output_tokens = r->max_output_tokens,
                                 .n = r->num_seqs,
                                 .lockstep = r->beams != NULL,
                                 .priority = r->priority,
                                 .extra_key = r->extra_key,
                                 .no_prefix_read = r->params.prompt_logprobs >= 0,
                                 .user = r};
    quire_error error;
    if (qr_sched_add(e->sched, &p, &r->sched_request, &error) != QUIRE_OK) {
        qr_request_end_all(r, QUIRE_FINISH_ERROR, error.message);
        close_request(e, r, 0, QUIRE_FINISH_ERROR);
        return;
    }
    qr_schedule_log_request(e->schedule_log, r->sched_request);
    r->prev = NULL;
    r->next = e->live;
    if (e->live) e->live->prev = r;
    e->live = r;
    if (atomic_load(&r->abort_requested)) atomic_store(&e->abort_pending, true); /* asked before it was live */
}

static void abort_marked(quire_engine *e, bool all)
{
    for (quire_request *r = e->live, *next; r; r = next) {
        next = r->next;
        if (all || atomic_load(&r->abort_requested)) abort_request(e, r);
    }
}

/* Under e->lock. */
static bool has_work(const quire_engine *e)
{
    return e->inbox_first || e->stopping || e->reset_prefix_cache || qr_sched_has_unfinished(e->sched);
}

/* A piece of the KV cache's memory, without the lock. False: there is none to prepare. */
static bool warm_cache(quire_engine *e)
{
    qr_backend *be = e->model->backend;
    if (!be->ops->kv_warm) return false;
    pthread_mutex_unlock(&e->lock);
    bool more = be->ops->kv_warm(be, e->cache);
    pthread_mutex_lock(&e->lock);
    return more;
}

/* Sleep until there is something to do; take the inbox. False: stop. */
static bool wait_for_work(quire_engine *e, quire_request **out_new)
{
    pthread_mutex_lock(&e->lock);
    publish_counts(e);
    while (!has_work(e))
        if (!warm_cache(e) && !has_work(e)) pthread_cond_wait(&e->wake, &e->lock);
    *out_new = e->inbox_first;
    e->inbox_first = e->inbox_last = NULL;
    e->stats.num_requests_waiting += e->num_inbox;
    e->num_taken = e->num_inbox;
    e->num_inbox = 0;
    bool reset = e->reset_prefix_cache, run = !e->stopping;
    e->reset_prefix_cache = false;
    pthread_mutex_unlock(&e->lock);
    if (reset) qr_sched_reset_prefix_cache(e->sched);
    return run;
}

static void *engine_main(void *raw)
{
    quire_engine *e = raw;
    for (bool run = true; run;) {
        quire_request *new_requests;
        run = wait_for_work(e, &new_requests);
        for (quire_request *r = new_requests, *next; r; r = next) {
            next = r->next;
            admit(e, r);
        }
        if (atomic_exchange(&e->abort_pending, false) || !run) abort_marked(e, !run);
        qr_profile_lap(e->profile, QUIRE_STEP_BETWEEN);
        qr_sched_step step;
        const int64_t start_us = qr_clock_us();
        qr_sched_schedule(e->sched, &step);
        if (step.num_entries > 0) {
            qr_schedule_log_step(e->schedule_log, &step, start_us);
            qr_profile_lap(e->profile, QUIRE_STEP_SCHEDULE);
            qr_engine_run_step(e, &step, start_us);
            qr_schedule_log_computed(e->schedule_log);
            qr_profile_end_step(e->profile, &e->batch.batch);
        } else {
            qr_sched_commit_step(e->sched);
        }
#ifdef QUIRE_CHECKS
        quire_error error;
        if (!qr_sched_has_unfinished(e->sched) && qr_sched_check(e->sched, &error) == QUIRE_INVALID) {
            qr_log(QR_LOG_ERROR, "the scheduler's books are wrong: %s", error.message);
            assert(!"qr_sched_check");
        }
#endif
    }
    return NULL;
}
