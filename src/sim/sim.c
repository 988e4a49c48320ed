#include "sim/sim.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "sim/observe.h"

/* A request of the simulation, from arrival to end; the scheduler's `user`. */
typedef struct sim_request {
    struct sim_request *prev, *next; /* all of them */
    qr_sim_arrival arrival;
    double first_scheduled, first_token, last_token; /* < 0: not yet */
    int num_sampled;                                 /* beams of the current step */
    int32_t next_token;                              /* beams: every token is another */
    size_t beam_row;                                 /* of the recorded searches */
    int seq_idx[QR_SIM_MAX_WIDTH];                   /* which sequence runs beam i */
} sim_request;

typedef struct sim {
    const qr_sim_options *options;
    qr_sim_workload workload;
    qr_sim_result *result;
    qr_sched *sched;
    sim_request *requests;
    qr_random beam_starts;
    double now; /* seconds */
    double previous_step_end;
    bool has_next; /* `next` is drawn and not yet added */
    qr_sim_arrival next;
    double first_arrival;
    int32_t *prompt; /* [max_prompt] */
    int32_t max_prompt;
    uint64_t num_steady; /* tokens of this step whose sequence also got one in the step before */
    double window_seconds;
    qr_sim_sample sample;
} sim;

/* ---- arrivals ---------------------------------------------------------------------------------- */

static quire_status reserve_prompt(sim *s, int32_t num_tokens, quire_error *error)
{
    if (num_tokens <= s->max_prompt) return QUIRE_OK;
    int32_t *bigger = qr_realloc(s->prompt, 2 * (size_t)num_tokens * sizeof *bigger);
    if (!bigger) return qr_fail_nomem(error, "a prompt", 2 * (size_t)num_tokens * sizeof *bigger);
    s->prompt = bigger;
    s->max_prompt = 2 * num_tokens;
    return QUIRE_OK;
}

static quire_status add_request(sim *s, quire_error *error)
{
    const qr_sim_script *script = s->next.row->script;
    sim_request *r = qr_malloc(sizeof *r);
    if (!r) return qr_fail_nomem(error, "a request", sizeof *r);
    *r = (sim_request){.arrival = s->next, .first_scheduled = -1, .first_token = -1, .last_token = -1};
    quire_status status = reserve_prompt(s, s->next.prompt_tokens, error);
    if (status == QUIRE_OK) {
        if (!script) qr_sim_workload_prompt(&s->workload, &s->next, s->prompt);
        const qr_request_params params = {
            .prompt_token_ids = script ? script->prompt : s->prompt,
            .num_prompt_tokens = s->next.prompt_tokens,
            .max_output_tokens = script ? script->max_output_tokens : s->next.output_tokens,
            .expected_output_tokens = s->next.output_tokens,
            .n = script ? script->num_seqs : s->workload.options.num_seqs,
            .extra_key = script ? script->extra_key : 0,
            .no_prefix_read = script && script->no_prefix_read,
            .lockstep = s->workload.options.beam_search,
            .user = r,
        };
        qr_request *request;
        status = qr_sched_add(s->sched, &params, &request, error);
    }
    if (status != QUIRE_OK) {
        qr_free(r);
        return status;
    }
    r->next = s->requests;
    if (r->next) r->next->prev = r;
    s->requests = r;
    return QUIRE_OK;
}

static void free_request(sim *s, sim_request *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        s->requests = r->next;
    if (r->next) r->next->prev = r->prev;
    qr_free(r);
}

/* All that are due, as long as not too many wait. */
static quire_status add_due(sim *s, quire_error *error)
{
    qr_sched_stats stats;
    qr_sched_get_stats(s->sched, &stats);
    for (int waiting = stats.num_waiting; s->has_next && s->next.time <= s->now && waiting < QR_SIM_MAX_WAITING;
         waiting++) {
        QR_TRY(add_request(s, error));
        s->has_next = qr_sim_workload_next(&s->workload, &s->next);
    }
    return QUIRE_OK;
}

/* ---- tokens ------------------------------------------------------------------------------------ */

static sim_request *request_of(const qr_request *request) { return request->user; }

static void observe_token(sim *s, sim_request *r)
{
    if (r->first_token < 0) {
        r->first_token = s->now;
        qr_sim_histogram_observe(&s->result->time_to_first_token, s->now - r->arrival.time);
    } else if (r->last_token == s->previous_step_end) {
        s->num_steady++;
    } else {
        qr_sim_histogram_observe(&s->result->inter_token_latency, s->now - r->last_token);
    }
    r->last_token = s->now;
}

static void retire(sim *s, qr_request *request)
{
    sim_request *r = request_of(request);
    qr_sim_result *result = s->result;
    const double latency = s->now - r->arrival.time;
    int64_t output_tokens = 0;
    for (int i = 0; i < request->n; i++) output_tokens += request->seqs[i].num_output_tokens;
    result->num_requests++;
    result->prompt_tokens += request->num_prompt_tokens;
    result->output_tokens += output_tokens;
    qr_sim_histogram_observe(&result->latency, latency);
    qr_sim_histogram_observe(&result->normalized_latency, latency * request->n / (double)output_tokens);
    qr_sched_remove(s->sched, request);
    free_request(s, r);
}

/* Token `position` of a sequence: those of different requests and of different sequences of one differ. */
static int32_t made_token(const sim_request *r, const qr_seq *seq)
{
    return (int32_t)(((uint64_t)r->arrival.serial * 64 + (uint64_t)seq->idx + 1) & INT32_MAX);
}

static void take_token(sim *s, qr_seq *seq)
{
    sim_request *r = request_of(seq->request);
    const qr_sim_script *script = r->arrival.row->script;
    const int32_t at = seq->num_output_tokens;
    const int32_t target = script ? script->num_outputs[seq->idx] : seq->request->max_output_tokens;
    qr_sched_append_token(s->sched, seq, script ? script->outputs[seq->idx][at] : made_token(r, seq));
    if (seq->idx == 0) observe_token(s, r);
    if (seq->num_output_tokens < target) return;
    qr_request *request = seq->request;
    qr_sched_finish_seq(s->sched, seq, QR_FINISHED_LENGTH_CAPPED);
    if (qr_request_status_finished(request->status)) retire(s, request);
}

/* ---- beams ------------------------------------------------------------------------------------- */

static void rearrange(sim *s, qr_request *request, const uint8_t *recorded)
{
    sim_request *r = request_of(request);
    int parents[QR_SIM_MAX_WIDTH], next[QR_SIM_MAX_WIDTH];
    for (int i = 0; i < request->n; i++) parents[i] = recorded[i];
    qr_sched_rearrange_beams(s->sched, request, parents, r->seq_idx, next);
    memcpy(r->seq_idx, next, (size_t)request->n * sizeof *next);
}

/* All beams of the request have been computed. */
static void advance_beams(sim *s, qr_request *request, bool first)
{
    sim_request *r = request_of(request);
    const qr_sim_beams *beams = s->options->beams;
    const int width = request->n;
    r->num_sampled = 0;
    if (first) {
        r->beam_row = (size_t)(qr_random_next(&s->beam_starts) % beams->num_rows[width]);
        for (int i = 0; i < width; i++) r->seq_idx[i] = i;
    } else {
        rearrange(s, request, beams->parents[width] + r->beam_row * (size_t)width);
        r->beam_row = (r->beam_row + 1) % beams->num_rows[width];
    }
    for (int i = 0; i < width; i++) qr_sched_append_token(s->sched, &request->seqs[i], r->next_token++);
    observe_token(s, r);
    if (request->seqs[0].num_output_tokens < request->max_output_tokens) return;
    for (int i = 0; i < width; i++) qr_sched_finish_seq(s->sched, &request->seqs[i], QR_FINISHED_LENGTH_CAPPED);
    retire(s, request);
}

/* ---- a step ------------------------------------------------------------------------------------ */

static void take_entry(sim *s, const qr_sched_entry *entry)
{
    qr_request *request = entry->request;
    if (!entry->samples) return;
    if (request->lockstep) {
        sim_request *r = request_of(request);
        const bool first = r->first_token < 0;
        if (++r->num_sampled == (first ? 1 : request->n)) advance_beams(s, request, first);
    } else if (entry->forks) {
        const int n = request->n;
        qr_seq *seqs = request->seqs;
        for (int i = 0; i < n; i++) take_token(s, &seqs[i]); /* the last one may free the request */
    } else {
        take_token(s, entry->seq);
    }
}

static quire_status time_step(sim *s, const qr_sched_step *step, quire_error *error)
{
    qr_sim_load load = {.num_copied_blocks = step->num_copies,
                        .num_swapped_blocks = step->num_swap_outs + step->num_swap_ins};
    for (int i = 0; i < step->num_entries; i++) {
        const qr_sched_entry *entry = &step->entries[i];
        sim_request *r = request_of(entry->request);
        qr_sim_load_add(&load, entry->start, entry->num_new_tokens);
        if (r->first_scheduled >= 0) continue;
        r->first_scheduled = s->now;
        qr_sim_histogram_observe(&s->result->queue_time, s->now - r->arrival.time);
    }
    if (s->options->on_step) return s->options->on_step(s->options->user, step, &s->now, error);
    const qr_sim_step_time t = qr_sim_cost_terms(&s->options->cost, &load);
    qr_sim_step_time *sum = &s->result->time;
    sum->overhead += t.overhead * 1e-6;
    sum->linear += t.linear * 1e-6;
    sum->attention += t.attention * 1e-6;
    sum->activations += t.activations * 1e-6;
    sum->all_reduce += t.all_reduce * 1e-6;
    sum->copies += t.copies * 1e-6;
    sum->swaps += t.swaps * 1e-6;
    s->now += (t.overhead + t.linear + t.attention + t.activations + t.all_reduce + t.copies + t.swaps) * 1e-6;
    return QUIRE_OK;
}

/* Requests are still arriving, so the means count. */
static bool in_window(const sim *s, double begin)
{
    const qr_sim_workload_options *o = &s->workload.options;
    if (isinf(o->request_rate)) return true;
    return o->duration > 0 && o->num_requests == 0 ? begin <= o->duration : s->has_next;
}

/* The state after commit holds from `begin` to now. */
static void observe_state(sim *s, double begin, const qr_sched_step *step)
{
    qr_sched_stats stats;
    qr_sched_get_stats(s->sched, &stats);
    const double seconds = s->now - begin;
    const double num_slots = (double)stats.num_blocks * s->options->sched.block_size;
    const double live = (double)stats.slots.live / num_slots, unused = (double)stats.slots.unused / num_slots;
    qr_sim_timeline_observe(&s->result->timeline,
                            &(qr_sim_sample){begin, s->now, live, 1 - unused, stats.num_running, stats.num_waiting});
    if (!in_window(s, begin)) return;
    s->window_seconds += seconds;
    s->result->mean_batched_requests += seconds * stats.num_running;
    s->result->mean_batched_seqs += seconds * step->num_entries;
    qr_sim_memory *m = &s->result->memory;
    m->live += seconds * live;
    m->reserved += seconds * (double)stats.slots.reserved / num_slots;
    m->internal += seconds * (double)stats.slots.internal / num_slots;
    m->external += seconds * (double)stats.slots.external / num_slots;
    m->free += seconds * unused;
}

static quire_status run_step(sim *s, quire_error *error)
{
    qr_sched_step step;
    const double begin = s->now;
    qr_sched_schedule(s->sched, &step);
    if (step.num_entries == 0)
        return qr_fail(error, QUIRE_INVALID, "requests wait and none is scheduled: the policy is wrong");
    QR_TRY(time_step(s, &step, error));
    qr_sched_commit_step(s->sched);
    observe_state(s, begin, &step);
    s->result->num_steps++;
    s->result->computed_tokens += step.num_tokens;
    s->num_steady = 0;
    for (int i = 0; i < step.num_entries; i++) take_entry(s, &step.entries[i]);
    if (s->num_steady > 0)
        qr_sim_histogram_observe_many(&s->result->inter_token_latency, s->now - s->previous_step_end, s->num_steady);
    s->previous_step_end = s->now;
    return QUIRE_OK;
}

static quire_status report_progress(sim *s, quire_error *error)
{
    enum { STEPS_BETWEEN = 4096 };
    const qr_sim_options *o = s->options;
    if (!o->on_progress || s->result->num_steps % STEPS_BETWEEN != 0) return QUIRE_OK;
    const double fraction = (double)s->result->num_requests / qr_sim_workload_size(&s->workload);
    if (o->on_progress(o->user, fraction < 1 ? fraction : 1, s->now, s->result->num_requests)) return QUIRE_OK;
    return qr_fail(error, QUIRE_ABORTED, "interrupted");
}

/* ---- the run ----------------------------------------------------------------------------------- */

static void finish_result(sim *s)
{
    qr_sim_result *r = s->result;
    qr_sched_stats stats;
    qr_sched_get_stats(s->sched, &stats);
    const double scale = s->window_seconds > 0 ? 1 / s->window_seconds : 0;
    r->seconds = s->now - s->first_arrival;
    r->mean_batched_requests *= scale;
    r->mean_batched_seqs *= scale;
    r->memory.live *= scale;
    r->memory.reserved *= scale;
    r->memory.internal *= scale;
    r->memory.external *= scale;
    r->memory.free *= scale;
    r->live_share = r->memory.free < 1 ? r->memory.live / (1 - r->memory.free) : 0;
    r->saved_share = stats.saved_block_fraction;
    r->num_preemptions = (int64_t)stats.num_preemptions;
    r->num_swapped_groups = (int64_t)stats.num_swapped_groups;
    r->prefix_hit_rate = stats.prefix_queries ? (double)stats.prefix_hits / (double)stats.prefix_queries : 0;
    qr_sim_timeline_finish(&r->timeline);
}

static quire_status run_all(sim *s, quire_error *error)
{
    s->has_next = qr_sim_workload_next(&s->workload, &s->next);
    s->first_arrival = s->now = s->has_next ? s->next.time : 0;
    while (s->has_next || qr_sched_has_unfinished(s->sched)) {
        if (!qr_sched_has_unfinished(s->sched) && s->next.time > s->now) s->now = s->next.time;
        QR_TRY(add_due(s, error));
        QR_TRY(run_step(s, error));
        QR_TRY(report_progress(s, error));
    }
    finish_result(s);
    return QUIRE_OK;
}

/* Computing one token, for preemption mode auto: of a prompt of some length. */
static double compute_us_per_token(const qr_sim_cost *cost)
{
    enum { PROMPT_TOKENS = 512 };
    qr_sim_load load = {0};
    qr_sim_load_add(&load, 0, PROMPT_TOKENS);
    return qr_sim_cost_step_us(cost, &load) / PROMPT_TOKENS;
}

quire_status qr_sim_run(const qr_sim_options *options, const qr_sim_workload_options *workload, qr_sim_result *out,
                        quire_error *error)
{
    assert(!workload->beam_search || (options->beams && workload->num_seqs <= QR_SIM_MAX_WIDTH &&
                                      options->beams->num_rows[workload->num_seqs] > 0));
    sim s = {.options = options, .result = out, .previous_step_end = -1, .beam_starts = {workload->seed + 1}};
    memset(out, 0, sizeof *out);
    qr_sim_workload_init(&s.workload, workload);
    QR_TRY(qr_sched_create(&options->sched, &s.sched, error));
    qr_sched_set_costs(s.sched, compute_us_per_token(&options->cost), qr_sim_cost_swap_us_per_block(&options->cost));
    const quire_status status = run_all(&s, error);
    while (s.requests) free_request(&s, s.requests);
    qr_sched_destroy(s.sched);
    qr_free(s.prompt);
    return status;
}
