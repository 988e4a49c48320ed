#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"

static bool wants_prompt_logprobs(const qr_request *request)
{
    return qr_engine_request_of(request)->params.prompt_logprobs >= 0;
}

/* ---- logits to tokens --------------------------------------------------------------------------------- */

typedef struct chunk {
    quire_engine *engine;
    const qr_sched_step *step;
    const float *logits;
    int first_row, num_rows; /* of the batch's rows */
    int first_job;
} chunk;

static void sample_prompt_row(const chunk *c, int row, qr_sampler_scratch *scratch)
{
    quire_engine *e = c->engine;
    const qr_logits_row *r = &e->batch.rows[c->first_row + row];
    quire_request *request = qr_engine_request_of(c->step->entries[r->entry_idx].request);
    const float *logits = c->logits + (size_t)row * (size_t)e->model->info.vocab_size;
    const qr_row_stats stats = {e->row_max[row], e->row_sum_exp[row], e->row_argmax[row]};
    quire_token_logprobs *out = &request->prompt_logprobs.tokens[r->prompt_position];
    int num_top = request->params.prompt_logprobs;
    size_t at = (size_t)r->prompt_position * (size_t)num_top;
    qr_sampler_logprob(logits, &stats, e->model->info.vocab_size, out->token_id, &out->logprob, &out->rank);
    out->num_top = num_top;
    out->top_ids = request->prompt_logprobs.top_ids + at;
    out->top_logprobs = request->prompt_logprobs.top_logprobs + at;
    if (num_top > 0)
        qr_sampler_top_logprobs(scratch, logits, &stats, num_top, request->prompt_logprobs.top_ids + at,
                                request->prompt_logprobs.top_logprobs + at);
}

qr_sample_in qr_engine_sample_in(const quire_engine *e, const qr_seq *seq, int draft_idx, const float *logits, int row)
{
    const quire_request *request = qr_engine_request_of(seq->request);
    qr_sample_in in = {.logits = logits ? logits + (size_t)row * (size_t)e->model->info.vocab_size : NULL,
                       .stats = {e->row_max[row], e->row_sum_exp[row], e->row_argmax[row]},
                       .params = &request->params,
                       .prompt = request->prompt_ids,
                       .num_prompt = request->num_prompt,
                       .output = seq->output_token_ids,
                       .num_output = seq->num_output_tokens + draft_idx, /* the drafts stand behind the outputs */
                       .key = request->key,
                       .seq_index = seq->idx};
    if (!request->params.ignore_eos) {
        in.eos_ids = request->model->eos_ids;
        in.num_eos_ids = request->model->num_eos_ids;
    }
    return in;
}

static void sample_job(const chunk *c, qr_sample_job *job, qr_sampler_scratch *scratch)
{
    quire_engine *e = c->engine;
    const quire_request *request = qr_sample_job_set_request(job);
    const quire_sampling_params *p = &request->params;
    const qr_sample_in in = qr_engine_sample_in(e, job->seq, job->draft_idx, c->logits, job->row);
    if (request->beams) {
        size_t at = (size_t)(job - e->jobs) * QR_MAX_LOGPROBS;
        qr_sampler_beam_candidates(scratch, &in, request->beams->num_candidates, e->top_ids + at, e->top_logprobs + at);
        return;
    }
    job->token = qr_sampler_sample(e->model->backend, scratch, &in);
    if (p->logprobs < 0) return;
    size_t at = (size_t)(job - e->jobs) * QR_MAX_LOGPROBS;
    quire_token_logprobs *out = &job->logprobs;
    *out = (quire_token_logprobs){.token_id = job->token,
                                  .num_top = p->logprobs,
                                  .top_ids = e->top_ids + at,
                                  .top_logprobs = e->top_logprobs + at};
    qr_sampler_logprob(in.logits, &in.stats, e->model->info.vocab_size, job->token, &out->logprob, &out->rank);
    if (p->logprobs > 0)
        qr_sampler_top_logprobs(scratch, in.logits, &in.stats, p->logprobs, e->top_ids + at, e->top_logprobs + at);
}

/* Tiles: first the chunk's prompt rows (tiles of other rows do nothing), then its jobs. */
static void sample_tile(void *ctx, int tile_idx, int thread_idx)
{
    const chunk *c = ctx;
    qr_sampler_scratch *scratch = c->engine->scratch[thread_idx];
    if (tile_idx >= c->num_rows)
        sample_job(c, &c->engine->jobs[c->first_job + tile_idx - c->num_rows], scratch);
    else if (c->engine->batch.rows[c->first_row + tile_idx].prompt_position >= 0)
        sample_prompt_row(c, tile_idx, scratch);
}

/* The jobs of one row: one, or one for each sequence of a new group (a beam search starts from one). */
static void add_jobs(quire_engine *e, const qr_sched_entry *entry, int row)
{
    if (!entry->forks || qr_engine_request_of(entry->request)->beams) {
        const qr_sample_job *last = e->num_jobs > 0 ? &e->jobs[e->num_jobs - 1] : NULL;
        int draft_idx = last && last->seq == entry->seq ? last->draft_idx + 1 : 0;
        e->jobs[e->num_jobs++] = (qr_sample_job){.seq = entry->seq, .row = row, .draft_idx = draft_idx};
        return;
    }
    for (int i = 0; i < entry->request->n; i++)
        e->jobs[e->num_jobs++] = (qr_sample_job){.seq = &entry->request->seqs[i], .row = row};
}

static void sample_rows(quire_engine *e, const qr_sched_step *step)
{
    qr_backend *be = e->model->backend;
    const int vocab = e->model->info.vocab_size;
    e->num_jobs = 0;
    for (int first = 0; first < e->batch.batch.num_samples; first += e->logits_rows) {
        int num = e->batch.batch.num_samples - first;
        if (num > e->logits_rows) num = e->logits_rows;
        chunk c = {.engine = e, .step = step, .first_row = first, .num_rows = num, .first_job = e->num_jobs};
        for (int i = 0; i < num; i++) {
            const qr_logits_row *row = &e->batch.rows[first + i];
            if (row->prompt_position < 0) add_jobs(e, &step->entries[row->entry_idx], i);
        }
        if (qr_device_draws(e, c.first_job)) {
            qr_device_ask(e, step, first, num, c.first_job);
            continue;
        }
        c.logits = qr_model_logits(e->model->model, e->ws, first, num);
        be->ops->row_stats(be, c.logits, vocab, num, vocab, e->row_max, e->row_argmax, e->row_sum_exp);
        qr_pool_run(be->pool, sample_tile, &c, num + e->num_jobs - c.first_job);
    }
    qr_device_take(e, step);
}

/* What the jobs' outputs are made of. */
static void prefetch_outputs(const quire_engine *e)
{
    const qr_tokenizer *tokenizer = e->model->tokenizer;
    for (int i = 0; i < e->num_jobs; i++) {
        const qr_sample_job *job = &e->jobs[i];
        qr_request_prefetch(job->request, job->out);
        __builtin_prefetch(job->seq->output_token_ids + job->seq->num_output_tokens);
        if (tokenizer) qr_detok_prefetch(tokenizer, job->token);
    }
}

/* ---- tokens to outputs ---------------------------------------------------------------------------------- */

/* A new token of a sequence; under e->lock. */
static void observe_token(quire_stats *s, quire_request *r, qr_output_seq *seq, int64_t now_us)
{
    s->generation_tokens++;
    if (r->first_token_us == 0) {
        r->first_token_us = now_us;
        qr_histogram_observe(&s->time_to_first_token_seconds, (double)(now_us - r->arrival_us) * 1e-6);
    }
    if (seq->last_token_us != 0)
        qr_histogram_observe(&s->inter_token_latency_seconds, (double)(now_us - seq->last_token_us) * 1e-6);
    seq->last_token_us = now_us;
}

/* Counters and latencies of all the step's tokens, before anyone is told of them; what depends on drafts apart. */
static void observe_tokens(quire_engine *e, int64_t now_us)
{
    pthread_mutex_lock(&e->lock);
    for (int i = 0; i < e->num_jobs; i++) {
        quire_request *r = e->jobs[i].request;
        if (e->jobs[i].draft_idx > 0) {
            e->stats.spec_decode_num_drafts += e->jobs[i].draft_idx == 1;
            e->stats.spec_decode_num_draft_tokens++;
            continue;
        }
        const bool starts_beams = r->beams && r->beams->num_tokens == 0; /* from one row */
        for (int s = 0; s < r->num_seqs && starts_beams; s++) observe_token(&e->stats, r, &r->seqs[s], now_us);
        if (!starts_beams && r->params.max_tokens > 0) observe_token(&e->stats, r, e->jobs[i].out, now_us);
    }
    pthread_mutex_unlock(&e->lock);
}

/* The token that follows an accepted draft. */
static void observe_accepted(quire_engine *e, const qr_sample_job *job, int64_t now_us)
{
    pthread_mutex_lock(&e->lock);
    observe_token(&e->stats, job->request, job->out, now_us);
    e->stats.spec_decode_num_accepted_tokens++;
    e->stats.spec_decode_num_accepted_tokens_per_pos[job->draft_idx - 1]++;
    pthread_mutex_unlock(&e->lock);
}

static qr_request_status sched_status(quire_finish_reason reason)
{
    switch (reason) {
    case QUIRE_FINISH_STOP: return QR_FINISHED_STOPPED;
    case QUIRE_FINISH_LENGTH: return QR_FINISHED_LENGTH_CAPPED;
    default: return QR_FINISHED_ABORTED;
    }
}

/* Append, deliver, finish; the request is retired with its last sequence.
 *   out_finished   the sequence is, and may be gone
 *   returns        whether the token is the sequence's next draft */
static bool take_token(quire_engine *e, const qr_sample_job *job, bool *out_finished)
{
    qr_seq *seq = job->seq;
    quire_request *r = job->request;
    quire_finish_reason reason = QUIRE_FINISH_LENGTH;
    bool drafted = false;
    if (r->params.max_tokens > 0) {
        const qr_new_token token = {job->token, r->params.logprobs >= 0 ? &job->logprobs : NULL};
        drafted = qr_sched_append_token(e->sched, seq, job->token);
        reason = qr_request_add_token(r, job->out, token, seq->num_output_tokens, &e->text);
    } else {
        qr_request_end_seq(r, job->out, 0, reason); /* only the prompt was asked for */
    }
    *out_finished = reason != QUIRE_FINISH_NONE;
    if (!*out_finished) return drafted;
    bool last = r->num_finished == r->num_seqs;
    qr_sched_finish_seq(e->sched, seq, sched_status(reason));
    if (!last) return drafted;
    if (r->chosen_among) qr_request_deliver_best(r);
    qr_engine_retire(e, r, reason);
    return drafted;
}

static int num_running_seqs(const quire_engine *e)
{
    qr_sched_stats now;
    qr_sched_get_stats(e->sched, &now);
    return now.num_running_seqs;
}

/* Guess what follows the sequence's tokens, from themselves. Returns how many drafts stand behind the outputs. */
static int guess_from_ngrams(quire_engine *e, qr_seq *seq, qr_spec_seq *spec)
{
    int32_t drafts[QUIRE_MAX_SPECULATIVE_TOKENS];
    for (int32_t t = qr_ngram_num_tokens(spec->ngram); t < qr_seq_num_tokens(seq); t++)
        qr_ngram_push(spec->ngram, qr_seq_token(seq, t));
    int num = qr_ngram_propose(spec->ngram, e->spec.num_tokens, drafts);
    const int most = seq->request->max_output_tokens - seq->num_output_tokens;
    if (num > most) num = most;
    memcpy(seq->output_token_ids + seq->num_output_tokens, drafts, (size_t)num * sizeof *drafts);
    return num;
}

/* How many drafts a draft model may make: all, or none while it has not caught up. */
static int drafts_to_come(const quire_engine *e, const qr_seq *seq, qr_spec_seq *spec)
{
    if (spec->num_draft_kv > seq->num_computed_tokens) spec->num_draft_kv = seq->num_computed_tokens;
    const bool ready = spec->draft == QR_SPEC_FOLLOWED && spec->num_draft_kv >= seq->num_computed_tokens - 1;
    return ready ? e->spec.num_tokens : 0;
}

/* Ask for drafts in the sequence's next step, as many as pay. */
static void want_drafts(quire_engine *e, qr_seq *seq, qr_spec_seq *spec)
{
    int num = 0;
    if (e->spec.method == QR_SPEC_NGRAM) num = guess_from_ngrams(e, seq, spec);
    if (e->spec.method == QR_SPEC_DRAFT_MODEL) num = drafts_to_come(e, seq, spec);
    if (num > 0) num = qr_spec_num_drafts(spec, &e->spec, &e->spec_costs, num, num_running_seqs(e));
    if (num > 0) qr_sched_want_drafts(e->sched, seq, num);
}

/* The tokens of one sequence, from its job on: one, and one more for each draft that turns out right.
 *   returns  the job after the sequence's last */
static int take_tokens(quire_engine *e, int job_idx, int64_t now_us)
{
    qr_seq *seq = e->jobs[job_idx].seq;
    int end = job_idx + 1, next = job_idx;
    while (end < e->num_jobs && e->jobs[end].draft_idx > 0) end++;
    for (bool go_on = true, finished = false; go_on; next++) {
        if (next > job_idx) observe_accepted(e, &e->jobs[next], now_us);
        go_on = take_token(e, &e->jobs[next], &finished) && !finished;
        if (finished) return end;
    }
    qr_spec_observe_drafts(&e->jobs[job_idx].out->spec, end - job_idx - 1, next - job_idx - 1);
    want_drafts(e, seq, &e->jobs[job_idx].out->spec);
    return end;
}

/* When the parts of a step ended, and when it began; how long the draft model took before it was scheduled_us. */
typedef struct step_times {
    int64_t start_us, scheduled_us, copied_us, computed_us, draft_us;
} step_times;

/* Before the step's outputs: who sees the last one finds the step counted. */
static void observe_step(quire_engine *e, const qr_sched_step *step, const step_times *t)
{
    qr_sched_stats now;
    qr_sched_get_stats(e->sched, &now);
    pthread_mutex_lock(&e->lock);
    quire_stats *s = &e->stats;
    s->num_steps++;
    s->schedule_seconds += (double)(t->scheduled_us - t->start_us - t->draft_us) * 1e-6;
    s->copy_seconds += (double)(t->copied_us - t->scheduled_us) * 1e-6;
    s->forward_seconds += (double)(t->computed_us - t->copied_us + t->draft_us) * 1e-6;
    s->num_preemptions = now.num_preemptions;
    s->num_swapped_groups = now.num_swapped_groups;
    s->live_slot_fraction = now.live_slot_fraction;
    s->kv_live_fraction = now.slot_fractions.live;
    s->kv_reserved_fraction = now.slot_fractions.reserved;
    s->kv_internal_fraction = now.slot_fractions.internal;
    s->kv_external_fraction = now.slot_fractions.external;
    s->kv_unused_fraction = now.slot_fractions.unused;
    s->mean_requests_running = now.mean_running;
    s->saved_block_fraction = now.saved_block_fraction;
    s->prefix_cache_queries = now.prefix_queries;
    s->prefix_cache_hits = now.prefix_hits;
    s->external_prefix_cache_queries = now.store_queries;
    s->external_prefix_cache_hits = now.store_hits;
    qr_histogram_observe(&s->iteration_tokens, step->num_tokens);
    pthread_mutex_unlock(&e->lock);
}

static void observe_end(quire_engine *e, const step_times *t)
{
    int64_t end_us = qr_clock_us();
    pthread_mutex_lock(&e->lock);
    e->stats.step_seconds += (double)(end_us - t->start_us) * 1e-6;
    e->stats.update_seconds += (double)(end_us - t->computed_us) * 1e-6;
    pthread_mutex_unlock(&e->lock);
}

/* Requests that are scheduled for the first time: queue time, prompt tokens. */
static void observe_admitted(quire_engine *e, const qr_sched_step *step, int64_t now_us)
{
    for (int i = 0; i < step->num_entries; i++) {
        const qr_sched_entry *entry = &step->entries[i];
        if (entry->start >= entry->request->num_prompt_tokens) continue; /* it has been for long */
        quire_request *r = qr_engine_request_of(entry->request);
        if (r->first_scheduled_us) continue;
        r->first_scheduled_us = now_us;
        pthread_mutex_lock(&e->lock);
        e->stats.prompt_tokens += (uint64_t)r->num_prompt;
        qr_histogram_observe(&e->stats.request_queue_time_seconds, (double)(now_us - r->arrival_us) * 1e-6);
        pthread_mutex_unlock(&e->lock);
    }
}

/* What preemption mode auto weighs. */
static void measure_costs(quire_engine *e, double us_per_token)
{
    if (!e->swap.slots) return;
    if (e->compute_us_per_token == 0) e->compute_us_per_token = us_per_token;
    e->compute_us_per_token += (us_per_token - e->compute_us_per_token) / 8;
    qr_sched_set_costs(e->sched, e->compute_us_per_token, e->swap.us_per_block);
}

/* No entry computes part of a prompt: each has one certain token. */
static bool only_decodes(const qr_sched_step *step)
{
    int num_certain = 0;
    for (int i = 0; i < step->num_entries; i++)
        num_certain += step->entries[i].num_new_tokens - step->entries[i].num_draft_tokens;
    return num_certain == step->num_entries;
}

void qr_engine_run_step(quire_engine *e, const qr_sched_step *step, int64_t start_us)
{
    _Static_assert(sizeof(qr_copy_pair) == sizeof(qr_block_copy), "the scheduler's copies are the backend's");
    qr_backend *be = e->model->backend;
    step_times times = {.start_us = start_us};
    observe_admitted(e, step, start_us);

    pthread_mutex_lock(&e->model->lock);
    times.draft_us = qr_clock_us();
    if (e->draft) qr_draft_propose(e, step);
    times.draft_us = qr_clock_us() - times.draft_us;
    qr_profile_lap(e->profile, QUIRE_STEP_DRAFT);
    qr_batch_build(&e->batch, step, qr_sched_pool(e->sched), wants_prompt_logprobs);
    qr_profile_lap(e->profile, QUIRE_STEP_BATCH);
    times.scheduled_us = qr_clock_us();
    const qr_block_moves moves = {.swap_outs = step->swap_outs,
                                  .swap_ins = step->swap_ins,
                                  .copies = step->copies,
                                  .num_swap_outs = step->num_swap_outs,
                                  .num_swap_ins = step->num_swap_ins,
                                  .num_copies = step->num_copies};
    qr_ranks_step(e->model->ranks, &moves, &e->batch.batch);
    qr_swap_out(&e->swap, step->swap_outs, step->num_swap_outs);
    qr_swap_in(&e->swap, step->swap_ins, step->num_swap_ins);
    if (step->num_copies > 0)
        be->ops->kv_copy_blocks(be, e->cache, (const qr_copy_pair *)(const void *)step->copies, step->num_copies);
    times.copied_us = qr_clock_us();
    qr_profile_lap(e->profile, QUIRE_STEP_COPIES);
    qr_profile_enter(e->profile, be);
    qr_model_forward(e->model->model, e->ws, &e->batch.batch, e->cache);
    sample_rows(e, step);
    qr_profile_leave(e->profile, be);
    pthread_mutex_unlock(&e->model->lock);
    times.computed_us = qr_clock_us();
    double forward_us = (double)(times.computed_us - times.copied_us);

    qr_sched_commit_step(e->sched);
    if (e->draft) qr_draft_commit(e, step);
    prefetch_outputs(e);
    observe_step(e, step, &times);
    observe_tokens(e, times.computed_us);
    if (only_decodes(step)) qr_spec_observe_step(&e->spec_costs, step->num_tokens, forward_us);
    qr_profile_lap(e->profile, QUIRE_STEP_UPDATE);
    for (int i = 0; i < e->num_jobs;) {
        if (e->jobs[i].request->beams)
            qr_engine_take_beam(e, i++);
        else
            i = take_tokens(e, i, times.computed_us);
    }
    measure_costs(e, forward_us / step->num_tokens);
    observe_end(e, &times);
}
