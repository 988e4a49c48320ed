/* check: qr_sched_check(), the recount of everything that the scheduler keeps. */
#include "base/mem.h"
#include "sched/scheduler_internal.h"

typedef struct recount {
    int32_t *ref_cnts;      /* [num_blocks] */
    int32_t *swap_ref_cnts; /* [num_swap_blocks] */
    uint64_t *last_seen;    /* [num_blocks] arrival of the group counted last */
    bool *rows_used;        /* [max_num_seqs] */
    bool *in_region;        /* [num_blocks] */
    int64_t num_region_slots, num_final_slots;
    int num_rows, num_running; /* found on the way */
    int32_t num_waiting, num_requests;
} recount;

static quire_status check_table(const qr_sched *sched, const qr_seq *seq, recount *count, quire_error *error)
{
    const qr_block_table *table = &seq->table;
    const int block_size = sched->options.block_size;
    const int32_t num_tokens = seq->num_computed_tokens;
    if (table->num_tokens != num_tokens || table->num_blocks != (num_tokens + block_size - 1) / block_size ||
        table->num_full_blocks != num_tokens / block_size)
        return qr_fail(error, QUIRE_INVALID, "sequence %d: %d tokens computed, its table has %d in %d blocks (%d full)",
                       seq->idx, num_tokens, table->num_tokens, table->num_blocks, table->num_full_blocks);
    for (int32_t idx = 0; idx < table->num_blocks; idx++) {
        const int32_t id = table->block_ids[idx];
        if (id < 0 || id >= qr_block_pool_num_blocks(sched->pool))
            return qr_fail(error, QUIRE_INVALID, "sequence %d: block id %d", seq->idx, id);
        if (sched->buddy && id != table->first_block + idx)
            return qr_fail(error, QUIRE_INVALID, "sequence %d: block %d lies outside its place in the region", seq->idx,
                           id);
        const int32_t here = num_tokens - idx * block_size;
        if (qr_block_pool_num_live(sched->pool, id) < (here < block_size ? here : block_size))
            return qr_fail(error, QUIRE_INVALID, "block %d: fewer live slots than its sequence has", id);
        if (idx < table->num_full_blocks && sched->options.enable_prefix_caching &&
            !qr_block_pool_is_cached(sched->pool, id))
            return qr_fail(error, QUIRE_INVALID, "block %d: full and computed, but cannot be found", id);
        count->ref_cnts[id]++;
    }
    return QUIRE_OK;
}

static quire_status check_region(const qr_sched *sched, const qr_seq *seq, recount *count, quire_error *error)
{
    const qr_block_table *table = &seq->table;
    const qr_request *request = seq->request;
    const int32_t wanted =
        sched->buddy ? qr_sched_region_blocks(sched, request->num_prompt_tokens, request->expected_output_tokens) : 0;
    if (table->num_region_blocks != wanted || table->num_blocks > (sched->buddy ? wanted : table->max_blocks))
        return qr_fail(error, QUIRE_INVALID, "sequence %d: %d blocks in a region of %d, which should have %d", seq->idx,
                       table->num_blocks, table->num_region_blocks, wanted);
    if (!sched->buddy) return QUIRE_OK;
    const int32_t num_taken = (int32_t)qr_buddy_region_blocks(wanted);
    for (int32_t id = table->first_block; id < table->first_block + num_taken; id++) {
        if (id < 0 || id >= qr_block_pool_num_blocks(sched->pool) || count->in_region[id])
            return qr_fail(error, QUIRE_INVALID, "sequence %d: block %d is in two regions, or in none", seq->idx, id);
        count->in_region[id] = true;
    }
    count->num_region_slots += (int64_t)wanted * sched->options.block_size;
    count->num_final_slots += qr_request_final_slots(request);
    return QUIRE_OK;
}

static quire_status check_regions(const qr_sched *sched, const recount *count, quire_error *error)
{
    if (!sched->buddy) return QUIRE_OK;
    const bool holds = sched->policy->holds_regions && sched->num_running > 0; /* finished sequences' too */
    const int64_t num_held = sched->num_region_slots - count->num_region_slots;
    if (num_held < 0 || (num_held > 0 && !holds) || count->num_final_slots != sched->num_final_slots)
        return qr_fail(error, QUIRE_INVALID, "regions: %lld slots, %lld of them to be used; noted %lld, %lld",
                       (long long)count->num_region_slots, (long long)count->num_final_slots,
                       (long long)sched->num_region_slots, (long long)sched->num_final_slots);
    return qr_buddy_check(sched->buddy, num_held > 0 ? NULL : count->in_region, error);
}

static quire_status check_seq(const qr_sched *sched, const qr_seq *seq, recount *count, quire_error *error)
{
    const qr_request *request = seq->request;
    const bool running = request->status == QR_RUNNING && !qr_request_status_finished(seq->status);
    const bool computes = running && seq->status != QR_IDLE && (request->forked || seq == qr_request_lead(request));
    if ((seq->row >= 0) != running || (seq->status == QR_RUNNING) != computes)
        return qr_fail(error, QUIRE_INVALID, "sequence %d: row %d, status %d in a request of status %d", seq->idx,
                       seq->row, seq->status, request->status);
    const bool swapped = request->num_swapped_blocks > 0 && qr_seq_is_live(seq);
    if (!computes && (seq->table.num_blocks > 0 || (seq->num_computed_tokens > 0 && !swapped)))
        return qr_fail(error, QUIRE_INVALID, "sequence %d: holds blocks with status %d", seq->idx, seq->status);
    const int32_t num_outputs = seq->num_output_tokens + seq->num_draft_tokens;
    if (num_outputs > request->max_output_tokens ||
        (num_outputs == request->max_output_tokens && seq->num_draft_tokens))
        return qr_fail(error, QUIRE_INVALID, "sequence %d: %d outputs and %d drafts are too many", seq->idx,
                       seq->num_output_tokens, seq->num_draft_tokens);
    const int block_size = sched->options.block_size;
    for (int32_t b = 0; swapped && b < (seq->num_computed_tokens + block_size - 1) / block_size; b++)
        count->swap_ref_cnts[request->swap_block_ids[seq->idx * request->max_swap_blocks + b]]++;
    if (!running && seq->table.num_region_blocks > 0)
        return qr_fail(error, QUIRE_INVALID, "sequence %d: has a region with status %d", seq->idx, seq->status);
    if (!running) return QUIRE_OK;
    QR_TRY(check_region(sched, seq, count, error));
    if (seq->row >= sched->options.max_num_seqs || count->rows_used[seq->row])
        return qr_fail(error, QUIRE_INVALID, "sequence %d: row %d is not its own", seq->idx, seq->row);
    count->rows_used[seq->row] = true;
    count->num_rows++;
    return check_table(sched, seq, count, error);
}

static quire_status check_request(const qr_sched *sched, const qr_request *request, recount *count, quire_error *error)
{
    const bool waits = request->status == QR_WAITING || request->status == QR_PREEMPTED;
    if (request->num_swapped_blocks > 0 && request->status != QR_PREEMPTED)
        return qr_fail(error, QUIRE_INVALID, "request %llu: in swap space with status %d",
                       (unsigned long long)request->arrival, request->status);
    if ((request->queue_idx >= 0) != waits)
        return qr_fail(error, QUIRE_INVALID, "request %llu: status %d, place %d in the queue",
                       (unsigned long long)request->arrival, request->status, request->queue_idx);
    count->num_requests++;
    count->num_waiting += waits;
    count->num_running += request->status == QR_RUNNING;
    int num_unfinished = 0, num_idle = 0;
    int32_t num_blocks = 0;
    for (int i = 0; i < request->n; i++) {
        const qr_seq *seq = &request->seqs[i];
        num_unfinished += !qr_request_status_finished(seq->status);
        num_idle += seq->status == QR_IDLE;
        QR_TRY(check_seq(sched, seq, count, error));
        for (int32_t idx = 0; idx < seq->table.num_blocks; idx++) {
            const int32_t id = seq->table.block_ids[idx];
            num_blocks += count->last_seen[id] != request->arrival;
            count->last_seen[id] = request->arrival;
        }
    }
    if (num_unfinished != request->num_unfinished || num_idle != request->num_idle ||
        (num_unfinished == 0) != qr_request_status_finished(request->status))
        return qr_fail(error, QUIRE_INVALID, "request %llu: %d of %d sequences unfinished, status %d",
                       (unsigned long long)request->arrival, num_unfinished, request->n, request->status);
    if (num_blocks > request->max_blocks)
        return qr_fail(error, QUIRE_INVALID, "request %llu: holds %d blocks, more than the %d foreseen",
                       (unsigned long long)request->arrival, num_blocks, request->max_blocks);
    return QUIRE_OK;
}

static quire_status check_running(const qr_sched *sched, quire_error *error)
{
    int num_seqs = 0;
    for (int i = 0; i < sched->num_running; i++) {
        const qr_request *request = sched->running[i];
        num_seqs += request->num_unfinished;
        if (request->status != QR_RUNNING || (i > 0 && !qr_request_before(sched->running[i - 1], request)))
            return qr_fail(error, QUIRE_INVALID, "running requests: place %d is wrong", i);
    }
    if (num_seqs != sched->num_running_seqs || num_seqs > sched->options.max_num_seqs)
        return qr_fail(error, QUIRE_INVALID, "running requests: %d sequences counted, %d noted", num_seqs,
                       sched->num_running_seqs);
    return QUIRE_OK;
}

static quire_status check_all(const qr_sched *sched, recount *count, quire_error *error)
{
    for (const qr_request *request = sched->requests; request; request = request->next)
        QR_TRY(check_request(sched, request, count, error));
    if (count->num_requests != sched->num_requests || count->num_waiting != sched->waiting.num_requests ||
        count->num_running != sched->num_running)
        return qr_fail(error, QUIRE_INVALID, "scheduler: %d requests (%d waiting, %d running), noted %d (%d, %d)",
                       count->num_requests, count->num_waiting, count->num_running, sched->num_requests,
                       sched->waiting.num_requests, sched->num_running);
    if (count->num_rows + sched->num_free_rows != sched->options.max_num_seqs)
        return qr_fail(error, QUIRE_INVALID, "scheduler: %d rows used, %d free of %d", count->num_rows,
                       sched->num_free_rows, sched->options.max_num_seqs);
    for (int i = 0; i < sched->num_free_rows; i++) {
        if (count->rows_used[sched->free_rows[i]])
            return qr_fail(error, QUIRE_INVALID, "scheduler: row %d is free twice or in use", sched->free_rows[i]);
        count->rows_used[sched->free_rows[i]] = true;
    }
    QR_TRY(check_running(sched, error));
    QR_TRY(qr_waiting_queue_check(&sched->waiting, error));
    QR_TRY(check_regions(sched, count, error));
    if (sched->swap_pool) QR_TRY(qr_block_pool_check(sched->swap_pool, count->swap_ref_cnts, error));
    return qr_block_pool_check(sched->pool, count->ref_cnts, error);
}

quire_status qr_sched_check(const qr_sched *sched, quire_error *error)
{
    if (sched->in_step) return qr_fail(error, QUIRE_INVALID, "scheduler: checked in the middle of a step");
    const size_t num_blocks = (size_t)qr_block_pool_num_blocks(sched->pool);
    const size_t num_swap_blocks = sched->swap_pool ? (size_t)qr_block_pool_num_blocks(sched->swap_pool) : 0;
    recount count = {.swap_ref_cnts = qr_calloc(num_swap_blocks, sizeof *count.swap_ref_cnts),
                     .ref_cnts = qr_calloc(num_blocks, sizeof *count.ref_cnts),
                     .in_region = qr_calloc(num_blocks, sizeof *count.in_region),
                     .last_seen = qr_calloc(num_blocks, sizeof *count.last_seen),
                     .rows_used = qr_calloc((size_t)sched->options.max_num_seqs, sizeof *count.rows_used)};
    const bool reserved =
        count.swap_ref_cnts && count.ref_cnts && count.in_region && count.last_seen && count.rows_used;
    const quire_status status =
        reserved ? check_all(sched, &count, error) : qr_fail_nomem(error, "recount of the scheduler", num_blocks * 12);
    qr_free(count.rows_used);
    qr_free(count.last_seen);
    qr_free(count.in_region);
    qr_free(count.ref_cnts);
    qr_free(count.swap_ref_cnts);
    return status;
}
