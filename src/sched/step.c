/* step: schedule() and commit_step(); the policy vllm, whose order and properties are in scheduler.h, and what the
 * other policies have in common with it. */
#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "sched/scheduler_internal.h"

static int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

static int num_live(const qr_request *request) { return request->num_unfinished - request->num_idle; }

/* Sequences of the group that compute something in a step. */
static int num_active(const qr_request *request) { return request->forked ? num_live(request) : 1; }

/* A lockstep group samples when every sequence has one token left to compute. */
static bool may_sample(const qr_request *request)
{
    for (int i = 0; i < request->n && request->lockstep; i++) {
        const qr_seq *seq = &request->seqs[i];
        if (seq->status == QR_RUNNING && seq->num_computed_tokens < qr_seq_num_tokens(seq) - 1) return false;
    }
    return true;
}

/* How far the sequence computes before the group's next fork or sample. */
static int32_t target_tokens(const qr_seq *seq, bool samples)
{
    return seq->request->forked ? qr_seq_num_tokens(seq) - !samples : seq->request->num_shared_tokens;
}

static int32_t cap_chunk(const qr_sched *sched, int32_t num_tokens)
{
    const int32_t cap = sched->options.max_chunk_tokens;
    return cap > 0 ? min_i32(num_tokens, cap) : num_tokens;
}

/* The step computes the next num_new tokens, which have slots. */
static void push_entry(qr_sched *sched, qr_seq *seq, int32_t num_new)
{
    const int32_t start = seq->num_computed_tokens, end = start + num_new;
    sched->entries[sched->num_entries++] = (qr_sched_entry){
        .request = seq->request,
        .seq = seq,
        .start = start,
        .num_new_tokens = num_new,
        .samples = end == qr_seq_num_tokens(seq),
        .forks = !seq->request->forked && end == seq->request->num_shared_tokens,
    };
    sched->num_tokens += num_new;
}

static bool append_slots(qr_sched *sched, qr_seq *seq, int32_t num_new)
{
    qr_block_copy copy;
    bool copied;
    if (qr_block_table_append(&seq->table, sched->pool, num_new, &copy, &copied) != QUIRE_OK) return false;
    if (copied) sched->copies[sched->num_copies++] = copy;
    return true;
}

/* The first tokens that all live sequences have in common, the last token of none of them included. */
static int32_t shared_tokens(const qr_request *request)
{
    const qr_seq *lead = qr_request_lead(request);
    int32_t num_shared = qr_seq_num_tokens(lead) - 1;
    for (int i = lead->idx + 1; i < request->n; i++) {
        const qr_seq *seq = &request->seqs[i];
        if (!qr_seq_is_live(seq)) continue;
        num_shared = min_i32(num_shared, qr_seq_num_tokens(seq) - 1);
        int32_t same = request->num_prompt_tokens;
        while (same < num_shared && qr_seq_token(seq, same) == qr_seq_token(lead, same)) same++;
        num_shared = min_i32(num_shared, same);
    }
    return num_shared;
}

/* Take a group's entries out of the step again; they are the last ones. */
static void withdraw_entries(qr_sched *sched, int first_entry, int first_copy)
{
    int next_copy = first_copy;
    for (int i = first_entry; i < sched->num_entries; i++) {
        const qr_sched_entry *entry = &sched->entries[i];
        qr_block_table *table = &entry->seq->table;
        const int32_t first_block = table->block_ids[entry->start / sched->options.block_size];
        const bool copied = next_copy < sched->num_copies && sched->copies[next_copy].dst_block == first_block;
        qr_block_table_undo_append(table, sched->pool, entry->start, copied ? &sched->copies[next_copy++] : NULL);
        sched->num_tokens -= entry->num_new_tokens;
    }
    sched->num_entries = first_entry;
    sched->num_copies = first_copy;
}

/* A running group without entries gives back all its blocks and waits. */
static void preempt(qr_sched *sched, qr_request *request)
{
    qr_sched_remove_running(sched, request);
    const bool swapped = qr_sched_swap_out(sched, request);
    for (int i = request->n - 1; i >= 0; i--) {
        qr_seq *seq = &request->seqs[i];
        if (qr_request_status_finished(seq->status)) continue;
        const int32_t num_computed = seq->num_computed_tokens;
        qr_sched_release_seq(sched, seq);
        if (swapped) seq->num_computed_tokens = num_computed;
        seq->num_draft_tokens = 0;
        if (seq->status != QR_IDLE) seq->status = QR_PREEMPTED;
    }
    if (!swapped) {
        if (request->forked) request->num_shared_tokens = shared_tokens(request);
        request->forked = false;
    }
    request->status = QR_PREEMPTED;
    request->num_preemptions++;
    qr_waiting_queue_push(&sched->waiting, request);
    sched->preempted[sched->num_preempted++] = request;
    sched->num_preemptions++;
}

/* ---- running groups ---------------------------------------------------------------------------- */

/* Every active sequence of the group gets tokens, at the expense of later groups if need be.
 *   num_active_after   sequences that follow, one token of the budget is kept for each; fewer after preemptions
 *   returns            false: the group was the last itself (or outlived its region) and was preempted; it has no
 *                      entries */
static bool schedule_running(qr_sched *sched, qr_request *request, int *num_active_after)
{
    const int first_entry = sched->num_entries, first_copy = sched->num_copies;
    const bool samples = may_sample(request);
    int num_active_here = num_active(request);
    assert(num_active_here >= 1);
    for (int i = 0; i < request->n && num_active_here > 0; i++) {
        qr_seq *seq = &request->seqs[i];
        if (seq->status != QR_RUNNING) continue;
        num_active_here--;
        const int32_t budget = sched->options.max_num_batched_tokens - sched->num_tokens;
        const int32_t missing = target_tokens(seq, samples) - seq->num_computed_tokens;
        if (missing == 0 && !samples) continue;
        const int32_t num_new = cap_chunk(sched, min_i32(missing, budget - num_active_here - *num_active_after));
        assert(num_new >= 1);
        while (!append_slots(sched, seq, num_new)) {
            /* a sequence that outlives its region needs a larger one: taking others' does not help it */
            qr_request *victim = sched->buddy ? request : sched->running[sched->num_running - 1];
            if (victim == request)
                withdraw_entries(sched, first_entry, first_copy);
            else
                *num_active_after -= num_active(victim);
            preempt(sched, victim);
            if (sched->buddy) request->expected_output_tokens = request->max_output_tokens;
            if (victim == request) return false;
        }
        push_entry(sched, seq, num_new);
    }
    return true;
}

void qr_sched_run_all(qr_sched *sched)
{
    int num_active_after = 0;
    for (int i = 0; i < sched->num_running; i++) num_active_after += num_active(sched->running[i]);
    for (int i = 0; i < sched->num_running; i++) {
        qr_request *request = sched->running[i];
        num_active_after -= num_active(request);
        if (!schedule_running(sched, request, &num_active_after)) i--; /* the next one has moved here, if any */
    }
}

/* ---- waiting groups ---------------------------------------------------------------------------- */

/* Free blocks that a running group still needs for the tokens that it has. */
static int64_t blocks_promised(const qr_sched *sched, const qr_request *request)
{
    if (!request->forked)
        return qr_request_blocks_wanted(request, sched->options.block_size) -
               qr_request_lead(request)->table.num_blocks;
    int64_t blocks = 0;
    for (int i = 0; i < request->n; i++) {
        const qr_seq *seq = &request->seqs[i];
        if (seq->status == QR_RUNNING)
            blocks +=
                qr_block_table_blocks_needed(&seq->table, sched->pool, qr_seq_num_tokens(seq) - seq->table.num_tokens);
    }
    return blocks;
}

/* Free blocks that admission leaves to the running sequences to grow into. Measured on ShareGPT lengths, 1000 blocks
 * for a demand of 2700: without it 58 % more tokens were computed than needed (recomputed after preemptions), with
 * 32 tokens for each sequence 5 %, at the price of 5 % more steps. */
static int64_t headroom_blocks(const qr_sched *sched)
{
    enum { HEADROOM_TOKENS = 32, POOL_SHARE = 8 };
    const int64_t tokens = (int64_t)HEADROOM_TOKENS * sched->num_running_seqs;
    const int64_t blocks = (tokens + sched->options.block_size - 1) / sched->options.block_size;
    const int64_t most = sched->options.num_blocks / POOL_SHARE;
    return blocks < most ? blocks : most;
}

/* Bring a swapped group back and schedule it like any running one.
 *   returns   false: it does not fit now; nothing has changed */
static bool admit_swapped(qr_sched *sched, qr_request *request, int64_t promised)
{
    const int32_t budget = sched->options.max_num_batched_tokens - sched->num_tokens;
    const int32_t wanted = qr_request_blocks_wanted(request, sched->options.block_size);
    if (budget < num_active(request) || wanted + promised > qr_block_pool_num_free(sched->pool)) return false;
    qr_waiting_queue_remove(&sched->waiting, request);
    qr_sched_take_rows(sched, request);
    qr_sched_swap_in(sched, request);
    const qr_seq *lead = qr_request_lead(request);
    for (int i = 0; i < request->n; i++) {
        qr_seq *seq = &request->seqs[i];
        if (qr_seq_is_live(seq) && (request->forked || seq == lead)) seq->status = QR_RUNNING;
    }
    request->status = QR_RUNNING;
    qr_sched_insert_running(sched, request);
    int num_active_after = 0;
    const bool scheduled = schedule_running(sched, request, &num_active_after);
    assert(scheduled && sched->num_preempted == 0);
    (void)scheduled;
    return true;
}

/* Take what the store has of the group's beginning behind what its table has already. The group is known to fit, with
 * or without that.
 *   returns   false: more than one step may load while others run; what is loaded will be found in the pool */
static bool load_prefix(qr_sched *sched, qr_request *request, qr_seq *lead, int32_t max_tokens)
{
    if (!sched->options.store || request->no_prefix_read) return true;
    const int32_t max_loads =
        sched->num_entries == 0 ? INT32_MAX : sched->options.store->max_loads_per_step - sched->num_loads;
    const int32_t num_loads = qr_block_table_load_prefix(&lead->table, sched->pool, qr_seq_tokens(lead), max_tokens,
                                                         request->extra_key, max_loads);
    sched->num_loads += num_loads;
    request->num_loaded_tokens += num_loads * sched->options.block_size;
    return num_loads < max_loads;
}

static void count_prefix(qr_sched *sched, qr_request *request, int32_t num_cached)
{
    if (request->num_cached_tokens >= 0) return;
    request->num_cached_tokens = num_cached;
    if (request->no_prefix_read) return;
    const int32_t num_loaded = min_i32(request->num_loaded_tokens, num_cached);
    sched->prefix_queries += (uint64_t)request->num_prompt_tokens;
    sched->prefix_hits += (uint64_t)(num_cached - num_loaded);
    if (!sched->options.store) return;
    sched->store_queries += (uint64_t)(request->num_prompt_tokens - (num_cached - num_loaded));
    sched->store_hits += (uint64_t)num_loaded;
}

/* Its leading sequence computes what the budget allows. */
bool qr_sched_admit(qr_sched *sched, qr_request *request, int64_t promised)
{
    if (request->num_swapped_blocks > 0) return admit_swapped(sched, request, promised);
    qr_block_pool *pool = sched->pool;
    qr_seq *lead = qr_request_lead(request);
    const bool alone = num_live(request) == 1;
    const int32_t target = alone ? qr_seq_num_tokens(lead) : request->num_shared_tokens;
    const int32_t budget = sched->options.max_num_batched_tokens - sched->num_tokens;
    const int32_t num_free = qr_block_pool_num_free(pool);
    if (num_free < request->blocks_to_admit + promised) return false; /* as last time: spare the lookup */

    qr_sched_take_rows(sched, request);
    if (!request->no_prefix_read)
        qr_block_table_adopt_prefix(&lead->table, pool, qr_seq_tokens(lead), target - 1, request->extra_key);
    const int32_t wanted = qr_request_blocks_wanted(request, sched->options.block_size) - lead->table.num_blocks;
    bool fits = sched->buddy || wanted + promised <= qr_block_pool_num_free(pool);
    if (!fits) request->blocks_to_admit = wanted + (num_free - qr_block_pool_num_free(pool));
    fits = fits && load_prefix(sched, request, lead, target - 1);
    const int32_t num_cached = lead->table.num_tokens, missing = target - num_cached;
    fits = fits && (sched->options.enable_chunked_prefill || missing <= budget);
    if (!fits || (sched->buddy && !qr_sched_take_regions(sched, request))) {
        for (int i = request->n - 1; i >= 0; i--)
            if (!qr_request_status_finished(request->seqs[i].status)) qr_sched_release_seq(sched, &request->seqs[i]);
        return false;
    }

    qr_waiting_queue_remove(&sched->waiting, request);
    request->blocks_to_admit = 0;
    request->status = lead->status = QR_RUNNING;
    request->forked = alone;
    lead->num_computed_tokens = num_cached;
    count_prefix(sched, request, num_cached);
    const int32_t num_new = cap_chunk(sched, min_i32(missing, budget));
    const bool appended = append_slots(sched, lead, num_new);
    assert(appended);
    (void)appended;
    push_entry(sched, lead, num_new);
    qr_sched_insert_running(sched, request);
    return true;
}

qr_request *qr_sched_next_waiting(const qr_sched *sched)
{
    qr_request *request = qr_waiting_queue_top(&sched->waiting);
    const bool seated = request && sched->num_running_seqs + request->num_unfinished <= sched->options.max_num_seqs;
    return seated ? request : NULL;
}

/* Free blocks that running groups still need. */
static int64_t all_blocks_promised(const qr_sched *sched)
{
    int64_t promised = 0;
    for (int i = 0; i < sched->num_running; i++) promised += blocks_promised(sched, sched->running[i]);
    return promised;
}

static void admit_waiting(qr_sched *sched)
{
    qr_request *request = qr_sched_next_waiting(sched);
    int64_t promised = request ? all_blocks_promised(sched) : 0;
    for (; request && sched->num_tokens < sched->options.max_num_batched_tokens;
         request = qr_sched_next_waiting(sched)) {
        if (!qr_sched_admit(sched, request, promised + headroom_blocks(sched))) break;
        promised += blocks_promised(sched, request);
    }
}

/* ---- drafts ------------------------------------------------------------------------------------ */

/* How many of the wanted drafts the step has budget and blocks for, once all others are served. */
static int32_t drafts_granted(const qr_sched *sched, const qr_sched_entry *entry, int64_t num_spare_blocks)
{
    const qr_seq *seq = entry->seq;
    int32_t num = min_i32(seq->num_draft_tokens, sched->options.max_num_batched_tokens - sched->num_tokens);
    num = cap_chunk(sched, entry->num_new_tokens + num) - entry->num_new_tokens;
    while (num > 0 && qr_block_table_blocks_needed(&seq->table, sched->pool, num) > num_spare_blocks) num--;
    return num;
}

static void add_drafts(qr_sched *sched)
{
    int64_t promised = -1; /* not counted yet */
    for (int i = 0; i < sched->num_entries; i++) {
        qr_sched_entry *entry = &sched->entries[i];
        if (!entry->samples || entry->seq->num_draft_tokens == 0) continue;
        if (promised < 0) promised = sched->buddy ? 0 : all_blocks_promised(sched);
        const int64_t num_spare = qr_block_pool_num_free(sched->pool) - promised;
        const int32_t num = sched->num_preempted > 0 ? 0 : drafts_granted(sched, entry, num_spare);
        entry->num_draft_tokens = entry->seq->num_draft_tokens = num;
        if (num == 0) continue;
        const int num_copies = sched->num_copies;
        const bool appended = append_slots(sched, entry->seq, num);
        assert(appended && sched->num_copies == num_copies); /* the block is its own since the entry got its slots */
        (void)appended, (void)num_copies;
        entry->num_new_tokens += num;
        sched->num_tokens += num;
    }
}

static void schedule_vllm(qr_sched *sched)
{
    qr_sched_run_all(sched);
    if (sched->num_preempted == 0) admit_waiting(sched);
}

const qr_policy qr_policy_vllm = {.schedule = schedule_vllm};

/* ---- the step ---------------------------------------------------------------------------------- */

void qr_sched_schedule(qr_sched *sched, qr_sched_step *out)
{
    assert(!sched->in_step);
    sched->num_entries = sched->num_preempted = 0;
    sched->num_swap_outs = sched->num_swap_ins = 0;
    sched->num_tokens = sched->num_loads = 0;
    sched->num_copies = sched->num_fork_copies;
    if (sched->num_fork_copies > 0)
        memcpy(sched->copies, sched->fork_copies, (size_t)sched->num_fork_copies * sizeof *sched->copies);
    sched->num_fork_copies = 0;
    sched->policy->schedule(sched);
    add_drafts(sched);
    sched->in_step = true;
    *out = (qr_sched_step){
        .entries = sched->entries,
        .num_entries = sched->num_entries,
        .num_tokens = sched->num_tokens,
        .swap_outs = sched->swap_outs,
        .num_swap_outs = sched->num_swap_outs,
        .swap_ins = sched->swap_ins,
        .num_swap_ins = sched->num_swap_ins,
        .copies = sched->copies,
        .num_copies = sched->num_copies,
        .preempted = sched->preempted,
        .num_preempted = sched->num_preempted,
    };
}

/* What the group shares is computed: every other live sequence starts from the leading one's blocks. */
static void fork_group(qr_sched *sched, qr_request *request, const qr_seq *lead)
{
    for (int i = 0; i < request->n; i++) {
        qr_seq *seq = &request->seqs[i];
        if (seq == lead || !qr_seq_is_live(seq)) continue;
        qr_sched_fork_table(sched, lead, seq);
        seq->num_computed_tokens = lead->num_computed_tokens;
        seq->status = QR_RUNNING;
    }
    request->forked = true;
}

/* What a commit reads of each entry, one loop for each pointer on the way. */
static void prefetch_entries(const qr_sched *sched)
{
    const qr_sched_entry *first = sched->entries, *end = first + sched->num_entries;
    for (const qr_sched_entry *e = first; e < end; e++) {
        __builtin_prefetch(e->seq);
        __builtin_prefetch(e->request);
    }
    for (const qr_sched_entry *e = first; e < end; e++)
        __builtin_prefetch(&e->seq->table.block_ids[e->start / sched->options.block_size]);
    for (const qr_sched_entry *e = first; e < end; e++)
        qr_block_pool_prefetch(sched->pool, e->seq->table.block_ids[e->start / sched->options.block_size]);
}

void qr_sched_commit_step(qr_sched *sched)
{
    assert(sched->in_step);
    sched->in_step = false;
    sched->num_computed += sched->num_tokens;
    if (sched->num_entries == 0) return;
    prefetch_entries(sched);
    for (int i = 0; i < sched->num_entries; i++) {
        const qr_sched_entry *entry = &sched->entries[i];
        qr_seq *seq = entry->seq;
        seq->num_computed_tokens += entry->num_new_tokens - entry->num_draft_tokens;
        qr_block_table_commit(&seq->table, sched->pool, qr_seq_tokens(seq), seq->num_computed_tokens,
                              entry->request->extra_key);
        if (entry->forks) fork_group(sched, entry->request, seq);
    }
    qr_sched_observe_memory(sched);
}
