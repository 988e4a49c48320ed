#include "sched/scheduler.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "sched/scheduler_internal.h"

static int32_t max_i32(int32_t a, int32_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* ---- policies ----------------------------------------------------------------------------------- */

static const qr_policy *const policies[] = {
    [QR_KV_VLLM] = &qr_policy_vllm,
    [QR_KV_VLLM_V0] = &qr_policy_vllm_v0,
    [QR_KV_ORCA_MAX] = &qr_policy_orca_max,
    [QR_KV_ORCA_POW2] = &qr_policy_orca_pow2,
    [QR_KV_ORCA_ORACLE] = &qr_policy_orca_oracle,
    [QR_KV_FASTER_TRANSFORMER] = &qr_policy_faster_transformer,
};

static const char *const allocator_names[] = {
#define XX(name, text) text,
    QR_KV_ALLOCATOR_MAP(XX)
#undef XX
};

static const char *const policy_names[] = {
#define XX(name, text) text,
    QR_SCHED_POLICY_MAP(XX)
#undef XX
};

/* Its index; -1: there is none of this name. */
static int find_name(const char *const *names, int num_names, const char *name)
{
    for (int i = 0; i < num_names; i++)
        if (strcmp(name, names[i]) == 0) return i;
    return -1;
}

const char *qr_kv_allocator_name(qr_kv_allocator allocator) { return allocator_names[allocator]; }

bool qr_kv_allocator_has_regions(qr_kv_allocator allocator) { return policies[allocator]->region_slots != NULL; }

bool qr_kv_allocator_parse(const char *name, qr_kv_allocator *out)
{
    int idx = find_name(allocator_names, QR_NUM_KV_ALLOCATORS, name);
    if (idx >= 0) *out = (qr_kv_allocator)idx;
    return idx >= 0;
}

const char *qr_sched_policy_name(qr_sched_policy policy) { return policy_names[policy]; }

bool qr_sched_policy_parse(const char *name, qr_sched_policy *out)
{
    int idx = find_name(policy_names, QR_NUM_SCHED_POLICIES, name);
    if (idx >= 0) *out = (qr_sched_policy)idx;
    return idx >= 0;
}

/* ---- life -------------------------------------------------------------------------------------- */

void qr_sched_options_init(qr_sched_options *options)
{
    *options = (qr_sched_options){.block_size = 16,
                                  .max_num_seqs = 128,
                                  .max_num_batched_tokens = 2048,
                                  .enable_chunked_prefill = true,
                                  .enable_prefix_caching = true,
                                  .policy = QR_SCHED_FCFS};
}

static quire_status check_options(const qr_sched_options *o, quire_error *error)
{
    if (o->max_num_seqs < 1 || o->max_num_seqs > 1 << 20)
        return qr_fail_param(error, "max_num_seqs", "max_num_seqs must be 1 to %d, not %d", 1 << 20, o->max_num_seqs);
    if (o->max_num_batched_tokens < 1)
        return qr_fail_param(error, "max_num_batched_tokens", "max_num_batched_tokens must be positive, not %d",
                             o->max_num_batched_tokens);
    if (o->max_model_len < 2 || o->max_model_len > 1 << 30)
        return qr_fail_param(error, "max_model_len", "max_model_len must be 2 to %d, not %d", 1 << 30,
                             o->max_model_len);
    if (o->max_chunk_tokens < 0)
        return qr_fail_param(error, "max_chunk_tokens", "max_chunk_tokens must be 0 (no limit) or positive, not %d",
                             o->max_chunk_tokens);
    if (o->max_chunk_tokens > 0 && (!o->enable_chunked_prefill || policies[o->kv_allocator]->whole_prompts))
        return qr_fail_param(error, "max_chunk_tokens", "max_chunk_tokens needs chunked prefill, which is off");
    if (o->store && (!o->enable_prefix_caching || qr_kv_allocator_has_regions(o->kv_allocator)))
        return qr_fail_param(error, "prefix_cache_path", "a stored prefix cache needs prefix caching, which is off");
    const bool swaps = o->preemption_mode != QR_PREEMPT_RECOMPUTE;
    if (swaps && qr_kv_allocator_has_regions(o->kv_allocator))
        return qr_fail_param(error, "preemption_mode", "%s never preempts: there is nothing to swap",
                             qr_kv_allocator_name(o->kv_allocator));
    if (swaps && (o->num_swap_blocks < 1 || o->num_swap_blocks > INT32_MAX))
        return qr_fail_param(error, "swap_space", "preemption by swapping needs 1 to %d blocks of swap space, not %lld",
                             INT32_MAX, (long long)o->num_swap_blocks);
    return QUIRE_OK;
}

static quire_status reserve_array(void *out, size_t count, size_t size, const char *what, quire_error *error)
{
    void *array = qr_calloc(count, size);
    if (!array) return qr_fail_nomem(error, what, count * size);
    memcpy(out, &array, sizeof array);
    return QUIRE_OK;
}

static quire_status reserve_swap(qr_sched *sched, quire_error *error)
{
    const qr_sched_options *o = &sched->options;
    const size_t n = (size_t)o->num_swap_blocks;
    const size_t num_moved = (size_t)(o->num_blocks > o->num_swap_blocks ? o->num_blocks : o->num_swap_blocks);
    QR_TRY(qr_block_pool_create(o->num_swap_blocks, o->block_size, false, &sched->swap_pool, error));
    QR_TRY(reserve_array(&sched->swap_outs, n, sizeof *sched->swap_outs, "swap lists", error));
    QR_TRY(reserve_array(&sched->swap_ins, n, sizeof *sched->swap_ins, "swap lists", error));
    QR_TRY(reserve_array(&sched->moved_to, num_moved, sizeof *sched->moved_to, "swap map", error));
    for (size_t i = 0; i < num_moved; i++) sched->moved_to[i] = QR_NO_BLOCK;
    return QUIRE_OK;
}

static quire_status reserve_regions(qr_sched *sched, quire_error *error)
{
    const size_t num_copies = 2 * (size_t)sched->options.num_blocks;
    QR_TRY(qr_buddy_create((int32_t)sched->options.num_blocks, &sched->buddy, error));
    return reserve_array(&sched->fork_copies, num_copies, sizeof *sched->fork_copies, "copies of forks", error);
}

static quire_status reserve(qr_sched *sched, quire_error *error)
{
    const qr_sched_options *o = &sched->options;
    const size_t n = (size_t)o->max_num_seqs;
    QR_TRY(qr_block_pool_create(o->num_blocks, o->block_size, o->enable_prefix_caching, &sched->pool, error));
    if (o->store) qr_block_pool_set_store(sched->pool, o->store);
    sched->max_blocks_per_seq = (int32_t)ceil_div(o->max_model_len, o->block_size);
    QR_TRY(reserve_array(&sched->row_blocks, n * (size_t)sched->max_blocks_per_seq, sizeof *sched->row_blocks,
                         "block tables", error));
    QR_TRY(reserve_array(&sched->free_rows, n, sizeof *sched->free_rows, "block table rows", error));
    QR_TRY(reserve_array(&sched->running, n, sizeof(qr_request *), "running requests", error));
    QR_TRY(reserve_array(&sched->entries, n, sizeof *sched->entries, "step entries", error));
    const size_t num_copies = sched->policy->region_slots ? 2 * (size_t)o->num_blocks : n;
    QR_TRY(reserve_array(&sched->copies, num_copies, sizeof *sched->copies, "block copies", error));
    QR_TRY(reserve_array(&sched->preempted, n, sizeof(qr_request *), "preempted requests", error));
    for (int row = o->max_num_seqs - 1; row >= 0; row--) sched->free_rows[sched->num_free_rows++] = row;
    if (sched->policy->region_slots) QR_TRY(reserve_regions(sched, error));
    return o->preemption_mode == QR_PREEMPT_RECOMPUTE ? QUIRE_OK : reserve_swap(sched, error);
}

int32_t qr_sched_step_budget(const qr_sched_options *o)
{
    const qr_policy *policy = policies[o->kv_allocator];
    int32_t budget = max_i32(o->max_num_batched_tokens, o->max_num_seqs);
    if (!o->enable_chunked_prefill || policy->whole_prompts) budget = max_i32(budget, o->max_model_len);
    return policy->region_slots ? max_i32(budget, o->max_model_len + o->max_num_seqs) : budget;
}

quire_status qr_sched_create(const qr_sched_options *options, qr_sched **out, quire_error *error)
{
    QR_TRY(check_options(options, error));
    qr_sched *sched = qr_calloc(1, sizeof *sched);
    if (!sched) return qr_fail_nomem(error, "scheduler", sizeof *sched);
    sched->options = *options;
    sched->policy = policies[options->kv_allocator];
    qr_sched_options *o = &sched->options;
    if (sched->policy->whole_prompts) o->enable_chunked_prefill = false;
    if (sched->policy->region_slots) o->enable_prefix_caching = false;
    o->max_num_batched_tokens = qr_sched_step_budget(options);
    const quire_status status = reserve(sched, error);
    if (status != QUIRE_OK) {
        qr_sched_destroy(sched);
        return status;
    }
    *out = sched;
    return QUIRE_OK;
}

void qr_sched_destroy(qr_sched *sched)
{
    if (!sched) return;
    while (sched->requests) {
        qr_request *request = sched->requests;
        sched->requests = request->next;
        qr_free(request);
    }
    qr_waiting_queue_deinit(&sched->waiting);
    qr_free(sched->fork_copies);
    qr_buddy_destroy(sched->buddy);
    qr_free(sched->moved_to);
    qr_free(sched->swap_ins);
    qr_free(sched->swap_outs);
    qr_block_pool_destroy(sched->swap_pool);
    qr_free(sched->preempted);
    qr_free(sched->copies);
    qr_free(sched->entries);
    qr_free(sched->running);
    qr_free(sched->free_rows);
    qr_free(sched->row_blocks);
    qr_block_pool_destroy(sched->pool);
    qr_free(sched);
}

const qr_sched_options *qr_sched_get_options(const qr_sched *sched) { return &sched->options; }
const qr_block_pool *qr_sched_pool(const qr_sched *sched) { return sched->pool; }

/* ---- requests: add, remove, abort -------------------------------------------------------------- */

/* As qr_request_blocks_wanted, at the end of the group's life. The token sampled last never gets a slot. */
static int64_t max_group_blocks(const qr_request_params *p, int block_size)
{
    const int64_t prompt_blocks = ceil_div(p->num_prompt_tokens, block_size);
    const int64_t shared_blocks = p->num_prompt_tokens / block_size;
    const int64_t max_slots = (int64_t)p->num_prompt_tokens + p->max_output_tokens - 1;
    if (p->max_output_tokens == 1) return prompt_blocks;
    return shared_blocks + p->n * (ceil_div(max_slots, block_size) - shared_blocks);
}

/* Could the group be admitted to an empty pool? */
static quire_status validate_regions(const qr_sched *sched, const qr_request_params *p, quire_error *error)
{
    const int32_t num_blocks = qr_sched_region_blocks(sched, p->num_prompt_tokens, p->max_output_tokens);
    const int64_t taken = qr_buddy_region_blocks(num_blocks);
    if (p->n <= sched->options.num_blocks / taken) return QUIRE_OK;
    return qr_fail_param(error, "max_tokens",
                         "the request can never fit: %s needs %d adjacent KV blocks for each of %d sequences, and "
                         "%lld blocks have room for %lld such regions; give the KV cache more memory",
                         qr_kv_allocator_name(sched->options.kv_allocator), num_blocks, p->n,
                         (long long)sched->options.num_blocks, (long long)(sched->options.num_blocks / taken));
}

quire_status qr_sched_validate(const qr_sched *sched, const qr_request_params *p, quire_error *error)
{
    const qr_sched_options *o = &sched->options;
    if (p->num_prompt_tokens < 1) return qr_fail_param(error, "prompt", "the prompt must have at least one token");
    if (p->max_output_tokens < 1) return qr_fail_param(error, "max_tokens", "max_tokens must be at least 1");
    if (p->n < 1 || p->n > o->max_num_seqs)
        return qr_fail_param(error, "n", "n must be 1 to %d (max_num_seqs), not %d", o->max_num_seqs, p->n);
    const int64_t max_tokens = (int64_t)p->num_prompt_tokens + p->max_output_tokens;
    if (max_tokens > o->max_model_len)
        return qr_fail_param(error, "max_tokens",
                             "prompt (%d tokens) and max_tokens (%d) exceed the model length of %d tokens",
                             p->num_prompt_tokens, p->max_output_tokens, o->max_model_len);
    if (p->expected_output_tokens < 0 || p->expected_output_tokens > p->max_output_tokens)
        return qr_fail_param(error, "expected_output_tokens", "expected_output_tokens must be 0 to max_tokens, not %d",
                             p->expected_output_tokens);
    if (sched->policy->region_slots) return validate_regions(sched, p, error);
    const int64_t need = max_group_blocks(p, o->block_size);
    if (need > o->num_blocks)
        return qr_fail_param(error, "max_tokens",
                             "the request can never fit: it needs %lld KV blocks (%lld tokens x %d), the pool has %lld"
                             " of %d tokens each; lower max_tokens or n, or give the KV cache more memory",
                             (long long)need, (long long)max_tokens, p->n, (long long)o->num_blocks, o->block_size);
    return QUIRE_OK;
}

/* One allocation: the request, its sequences, the prompt, tables for swap space (0 blocks: none), the outputs.
 * Untouched output pages cost no memory until they are written. */
static quire_status request_create(const qr_request_params *p, int32_t max_swap_blocks, qr_request **out,
                                   quire_error *error)
{
    const size_t seqs_at = sizeof(qr_request);
    const size_t prompt_at = seqs_at + (size_t)p->n * sizeof(qr_seq);
    const size_t swap_at = prompt_at + (size_t)p->num_prompt_tokens * sizeof(int32_t);
    const size_t outputs_at = swap_at + (size_t)p->n * (size_t)max_swap_blocks * sizeof(int32_t);
    size_t output_bytes, bytes;
    if (qr_mul_overflow((size_t)p->n, (size_t)p->max_output_tokens * sizeof(int32_t), &output_bytes) ||
        __builtin_add_overflow(outputs_at, output_bytes, &bytes))
        return qr_fail_nomem(error, "request", SIZE_MAX);
    char *slab = qr_aligned_alloc(QR_CACHE_LINE, bytes);
    if (!slab) return qr_fail_nomem(error, "request", bytes);
    memset(slab, 0, prompt_at);

    qr_request *request = (qr_request *)slab;
    request->status = QR_WAITING;
    request->n = request->num_unfinished = p->n;
    request->num_prompt_tokens = p->num_prompt_tokens;
    request->max_output_tokens = p->max_output_tokens;
    request->expected_output_tokens = p->expected_output_tokens > 0 ? p->expected_output_tokens : p->max_output_tokens;
    request->prompt_token_ids = (int32_t *)(slab + prompt_at);
    memcpy(request->prompt_token_ids, p->prompt_token_ids, swap_at - prompt_at);
    request->swap_block_ids = (int32_t *)(slab + swap_at);
    request->max_swap_blocks = max_swap_blocks;
    request->seqs = (qr_seq *)(slab + seqs_at);
    for (int i = 0; i < p->n; i++)
        request->seqs[i] =
            (qr_seq){.request = request,
                     .idx = i,
                     .output_token_ids = (int32_t *)(slab + outputs_at) + (size_t)i * (size_t)p->max_output_tokens,
                     .row = -1};
    request->extra_key = p->extra_key;
    request->num_shared_tokens = p->num_prompt_tokens;
    request->no_prefix_read = p->no_prefix_read;
    request->lockstep = p->lockstep;
    request->num_cached_tokens = -1;
    request->queue_idx = -1;
    request->user = p->user;
    *out = request;
    return QUIRE_OK;
}

/* What a request is ordered by before its arrival. */
static int64_t rank(const qr_sched *sched, const qr_request_params *params)
{
    switch (sched->options.policy) {
    case QR_SCHED_PRIORITY: return params->priority;
    case QR_SCHED_FAIR: return sched->num_computed + params->num_prompt_tokens;
    default: return 0;
    }
}

quire_status qr_sched_add(qr_sched *sched, const qr_request_params *params, qr_request **out, quire_error *error)
{
    assert(!sched->in_step);
    QR_TRY(qr_sched_validate(sched, params, error));
    if (sched->num_requests == INT32_MAX) return qr_fail_nomem(error, "one more request", 0);
    QR_TRY(qr_waiting_queue_reserve(&sched->waiting, sched->num_requests + 1, error));
    qr_request *request = NULL;
    const int32_t max_slots = params->num_prompt_tokens + params->max_output_tokens - 1;
    const int64_t max_swap_blocks = sched->swap_pool ? ceil_div(max_slots, sched->options.block_size) : 0;
    QR_TRY(request_create(params, (int32_t)max_swap_blocks, &request, error));
    request->priority = rank(sched, params);
    request->arrival = ++sched->last_arrival;
    request->max_blocks =
        sched->buddy ? params->n * qr_sched_region_blocks(sched, params->num_prompt_tokens, params->max_output_tokens)
                     : (int32_t)max_group_blocks(params, sched->options.block_size);

    request->next = sched->requests;
    if (request->next) request->next->prev = request;
    sched->requests = request;
    sched->num_requests++;
    qr_waiting_queue_push(&sched->waiting, request);
    *out = request;
    return QUIRE_OK;
}

void qr_sched_remove(qr_sched *sched, qr_request *request)
{
    assert(!sched->in_step && qr_request_status_finished(request->status));
    if (request->prev)
        request->prev->next = request->next;
    else
        sched->requests = request->next;
    if (request->next) request->next->prev = request->prev;
    sched->num_requests--;
    qr_free(request);
}

void qr_sched_abort(qr_sched *sched, qr_request *request)
{
    assert(!sched->in_step);
    if (qr_request_status_finished(request->status)) return;
    if (request->status == QR_RUNNING)
        qr_sched_remove_running(sched, request);
    else
        qr_waiting_queue_remove(&sched->waiting, request);
    qr_sched_free_swapped(sched, request);
    for (int i = request->n - 1; i >= 0; i--) {
        qr_seq *seq = &request->seqs[i];
        if (qr_request_status_finished(seq->status)) continue;
        qr_sched_release_seq(sched, seq);
        seq->status = QR_FINISHED_ABORTED;
    }
    request->num_unfinished = request->num_idle = 0;
    request->status = QR_FINISHED_ABORTED;
}

/* ---- rows and the running order ---------------------------------------------------------------- */

qr_seq *qr_request_lead(const qr_request *request)
{
    int i = 0;
    while (!qr_seq_is_live(&request->seqs[i])) i++;
    return &request->seqs[i];
}

int32_t qr_request_blocks_wanted(const qr_request *request, int block_size)
{
    const int32_t num_prompt = request->num_prompt_tokens;
    if (request->max_output_tokens == 1) return (int32_t)ceil_div(num_prompt, block_size);
    const int32_t shared_blocks = request->num_shared_tokens / block_size;
    const int32_t max_slots = num_prompt + request->max_output_tokens - 1;
    int32_t blocks = shared_blocks;
    for (int i = 0; i < request->n; i++) {
        const qr_seq *seq = &request->seqs[i];
        if (!qr_seq_is_live(seq)) continue;
        const int32_t slots = qr_seq_num_tokens(seq) < max_slots ? qr_seq_num_tokens(seq) + 1 : max_slots;
        blocks += (int32_t)ceil_div(slots, block_size) - shared_blocks;
    }
    return blocks;
}

void qr_sched_take_rows(qr_sched *sched, qr_request *request)
{
    assert(sched->num_free_rows >= request->num_unfinished);
    for (int i = 0; i < request->n; i++) {
        qr_seq *seq = &request->seqs[i];
        if (qr_request_status_finished(seq->status)) continue;
        seq->row = sched->free_rows[--sched->num_free_rows];
        qr_block_table_init(&seq->table, sched->row_blocks + (size_t)seq->row * (size_t)sched->max_blocks_per_seq,
                            sched->max_blocks_per_seq);
    }
}

void qr_sched_release_seq(qr_sched *sched, qr_seq *seq)
{
    qr_block_table_clear(&seq->table, sched->pool);
    qr_sched_release_region(sched, seq);
    seq->num_computed_tokens = 0;
    if (seq->row >= 0) sched->free_rows[sched->num_free_rows++] = seq->row;
    seq->row = -1;
}

void qr_sched_insert_running(qr_sched *sched, qr_request *request)
{
    int at = sched->num_running++;
    for (; at > 0 && qr_request_before(request, sched->running[at - 1]); at--)
        sched->running[at] = sched->running[at - 1];
    sched->running[at] = request;
    sched->num_running_seqs += request->num_unfinished;
}

void qr_sched_remove_running(qr_sched *sched, qr_request *request)
{
    int at = sched->num_running - 1;
    while (sched->running[at] != request) at--;
    memmove(&sched->running[at], &sched->running[at + 1],
            (size_t)(sched->num_running - at - 1) * sizeof *sched->running);
    sched->num_running--;
    sched->num_running_seqs -= request->num_unfinished;
}

/* ---- results ----------------------------------------------------------------------------------- */

bool qr_sched_append_token(qr_sched *sched, qr_seq *seq, int32_t token)
{
    assert(!sched->in_step && seq->status == QR_RUNNING);
    assert(seq->num_computed_tokens == qr_seq_num_tokens(seq));
    assert(seq->num_output_tokens < seq->request->max_output_tokens);
    int32_t *next = &seq->output_token_ids[seq->num_output_tokens++];
    if (seq->num_draft_tokens > 0 && *next == token) {
        seq->num_draft_tokens--;
        qr_block_table_commit(&seq->table, sched->pool, qr_seq_tokens(seq), ++seq->num_computed_tokens,
                              seq->request->extra_key);
        return true;
    }
    *next = token;
    seq->num_draft_tokens = 0;
    if (seq->table.num_tokens > seq->num_computed_tokens)
        qr_block_table_trim(&seq->table, sched->pool, seq->num_computed_tokens);
    return false;
}

int qr_sched_want_drafts(qr_sched *sched, qr_seq *seq, int num)
{
    const qr_request *request = seq->request;
    assert(!sched->in_step && seq->status == QR_RUNNING && request->forked && !request->lockstep && num >= 0);
    (void)sched;
    const int32_t most = request->max_output_tokens - seq->num_output_tokens - 1;
    return seq->num_draft_tokens = num < most ? num : most;
}

void qr_sched_finish_seq(qr_sched *sched, qr_seq *seq, qr_request_status status)
{
    assert(!sched->in_step && (seq->status == QR_RUNNING || seq->status == QR_IDLE));
    qr_request *request = seq->request;
    assert(request->status == QR_RUNNING && request->forked && qr_request_status_finished(status));
    request->num_idle -= seq->status == QR_IDLE;
    if (request->num_unfinished == 1)
        qr_sched_remove_running(sched, request);
    else
        sched->num_running_seqs--;
    qr_sched_release_seq(sched, seq);
    seq->status = status;
    if (--request->num_unfinished == 0) request->status = request->seqs[0].status;
}

void qr_sched_drop_seq(qr_sched *sched, qr_seq *seq)
{
    assert(!sched->in_step && seq->status == QR_RUNNING && seq->request->forked);
    qr_block_table_clear(&seq->table, sched->pool);
    seq->num_computed_tokens = seq->num_output_tokens = 0;
    seq->status = QR_IDLE;
    seq->request->num_idle++;
}

void qr_sched_fork_seq(qr_sched *sched, const qr_seq *parent, qr_seq *child)
{
    assert(!sched->in_step && parent->request == child->request);
    assert(parent->status == QR_RUNNING && child->status == QR_IDLE);
    assert(parent->num_computed_tokens == qr_seq_num_tokens(parent));
    qr_sched_fork_table(sched, parent, child);
    memcpy(child->output_token_ids, parent->output_token_ids,
           (size_t)parent->num_output_tokens * sizeof *child->output_token_ids);
    child->num_output_tokens = parent->num_output_tokens;
    child->num_computed_tokens = parent->num_computed_tokens;
    child->status = QR_RUNNING;
    child->request->num_idle--;
}

/* The first beam that goes on from the same parent as beam i. */
static int first_child(const int *parents, int i)
{
    int first = 0;
    while (parents[first] != parents[i]) first++;
    return first;
}

static bool is_continued(const int *parents, int n, int beam)
{
    for (int i = 0; i < n; i++)
        if (parents[i] == beam) return true;
    return false;
}

void qr_sched_rearrange_beams(qr_sched *sched, qr_request *request, const int *parents, const int *seq_idx,
                              int *next_seq_idx)
{
    qr_seq *seqs = request->seqs;
    for (int beam = 0; beam < request->n; beam++)
        if (!is_continued(parents, request->n, beam)) qr_sched_drop_seq(sched, &seqs[seq_idx[beam]]);
    int idle = 0;
    for (int i = 0; i < request->n; i++) {
        next_seq_idx[i] = seq_idx[parents[i]];
        if (first_child(parents, i) == i) continue;
        while (seqs[idle].status != QR_IDLE) idle++;
        qr_sched_fork_seq(sched, &seqs[next_seq_idx[i]], &seqs[idle]);
        next_seq_idx[i] = idle;
    }
}

/* ---- state ------------------------------------------------------------------------------------- */

void qr_sched_get_stats(const qr_sched *sched, qr_sched_stats *out)
{
    const double num_steps = sched->num_steps > 0 ? (double)sched->num_steps : 1;
    const double slot_steps = num_steps * qr_block_pool_num_blocks(sched->pool) * sched->options.block_size;
    *out = (qr_sched_stats){
        .num_running = sched->num_running,
        .num_running_seqs = sched->num_running_seqs,
        .num_waiting = sched->waiting.num_requests,
        .num_blocks = qr_block_pool_num_blocks(sched->pool),
        .num_free_blocks = qr_sched_num_free_blocks(sched),
        .num_swap_blocks = sched->swap_pool ? qr_block_pool_num_blocks(sched->swap_pool) : 0,
        .num_free_swap_blocks = sched->swap_pool ? qr_block_pool_num_free(sched->swap_pool) : 0,
        .num_live_slots = qr_block_pool_num_live_slots(sched->pool),
        .slots = sched->slots,
        .slot_fractions = {.live = (double)sched->slots_sum.live / slot_steps,
                           .reserved = (double)sched->slots_sum.reserved / slot_steps,
                           .internal = (double)sched->slots_sum.internal / slot_steps,
                           .external = (double)sched->slots_sum.external / slot_steps,
                           .unused = (double)sched->slots_sum.unused / slot_steps},
        .mean_running = (double)sched->running_sum / num_steps,
        .live_slot_fraction = sched->live_fraction_sum / num_steps,
        .saved_block_fraction = sched->saved_fraction_sum / num_steps,
        .num_steps = sched->num_steps,
        .num_preemptions = sched->num_preemptions,
        .num_swapped_groups = sched->num_swapped_groups,
        .prefix_queries = sched->prefix_queries,
        .prefix_hits = sched->prefix_hits,
        .store_queries = sched->store_queries,
        .store_hits = sched->store_hits,
    };
}

bool qr_sched_has_unfinished(const qr_sched *sched)
{
    return sched->num_running > 0 || sched->waiting.num_requests > 0;
}

void qr_sched_reset_prefix_cache(qr_sched *sched)
{
    assert(!sched->in_step);
    qr_block_pool_reset_cache(sched->pool);
}

void qr_sched_keep_prefixes(const qr_sched *sched)
{
    if (sched->options.store) qr_block_pool_keep_all(sched->pool);
}
