/* sched_model: the scheduler against a naive reference of plain arrays, driven by any source of choices.
 *
 *   choices (random numbers, or a fuzzer's bytes) ──► add, abort, remove, reset, steps ──► qr_sched
 *                                                          │                                 │ copies, entries
 *                                                          ▼                                 ▼
 *                                        reference: tokens of every sequence ◄── compare ── fake device: block contents
 *
 * The device holds one number per slot: a digest of all tokens up to and including that position, as K and V are
 * functions of all that precedes them. A step carries out the copies, writes the new tokens' digests through the
 * block tables and then reads, as attention does, every position of every scheduled sequence: each must be the digest
 * that the reference computes from its plain arrays. After every operation the same holds for all sequences that have
 * blocks, in the pool or in swap space. Draft tokens are guessed and turn out right or wrong at random.
 * Define MODEL_FAIL(format, ...) before including this file. */
#ifndef SCHED_MODEL_H
#define SCHED_MODEL_H

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "fake_store.h"
#include "sched/scheduler.h"

enum { MODEL_MAX_LEN = 96, MODEL_MAX_N = 5, MODEL_MAX_REQUESTS = 24, MODEL_MAX_SLOTS = 4096, MODEL_VOCAB = 50 };

#define MODEL_CHECK(condition, ...)                   \
    do {                                              \
        if (!(condition)) MODEL_FAIL("" __VA_ARGS__); \
    } while (0)

typedef struct ref_seq {
    int32_t tokens[MODEL_MAX_LEN];
    uint64_t digests[MODEL_MAX_LEN]; /* [i] of tokens[0..i] */
    int32_t num_tokens, num_computed;
    int32_t num_wanted, num_drafts; /* behind the tokens: asked for; in the step and not yet confirmed */
    bool finished, idle;
    bool forked_into; /* since the last step */
} ref_seq;

typedef struct ref_request {
    qr_request *request; /* NULL: this place is free */
    int n;
    int32_t num_prompt, max_output, num_shared; /* shared: computed by the lead for all */
    int64_t priority;
    uint64_t key, order; /* order: of arrival */
    bool no_prefix_read, lockstep, running, forked, finished;
    bool admitted; /* in this step */
    bool swapped;  /* preempted, but nothing is to be computed again */
    bool sampled;  /* in this step, for lockstep */
    ref_seq seqs[MODEL_MAX_N];
} ref_request;

typedef struct model {
    uint32_t (*choose)(void *source, uint32_t n); /* 0 .. n-1 */
    void *source;
    qr_sched *sched;
    const qr_block_pool *pool;
    qr_sched_options options;
    ref_request requests[MODEL_MAX_REQUESTS];
    uint64_t device[MODEL_MAX_SLOTS]; /* digest in each slot */
    uint64_t swap_space[MODEL_MAX_SLOTS];
    uint32_t writer[MODEL_MAX_SLOTS]; /* step that wrote the slot last */
    uint32_t step;
    bool prompts_only; /* vllm-v0: so is this step */
    bool drafts;
    uint32_t output_vocab; /* small: the sequences of a group stay the same for long */
    uint64_t num_added;
    int64_t num_computed;        /* tokens of this scheduler's steps */
    uint64_t preemptions_before; /* of the schedulers before this one */
    uint64_t num_refused, num_aborts, num_forks, num_copies, num_preemptions, num_hits, num_finished, num_resets;
    uint64_t num_beam_forks, num_swapped, num_swap_blocks, num_drafts, num_accepted, num_restarts;
    fake_store store;
} model;

static uint32_t choose(model *m, uint32_t n) { return m->choose(m->source, n); }

static uint64_t model_mix(uint64_t digest, uint64_t value)
{
    uint64_t x = digest * 0x9e3779b97f4a7c15u + value + 1;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Position i, behind the tokens: a draft, until it is overwritten. */
static void ref_set(const ref_request *ref, ref_seq *seq, int32_t i, int32_t token)
{
    seq->tokens[i] = token;
    seq->digests[i] = model_mix(i > 0 ? seq->digests[i - 1] : model_mix(ref->key, 12345), (uint64_t)token);
}

static void ref_append(const ref_request *ref, ref_seq *seq, int32_t token)
{
    ref_set(ref, seq, seq->num_tokens++, token);
}
static bool model_has_regions(const model *m) { return qr_kv_allocator_has_regions(m->options.kv_allocator); }

/* ---- set-up ------------------------------------------------------------------------------------ */

static void model_start(model *m)
{
    quire_error error;
    if (qr_sched_create(&m->options, &m->sched, &error) != QUIRE_OK) MODEL_FAIL("create: %s", error.message);
    m->pool = qr_sched_pool(m->sched);
    m->options = *qr_sched_get_options(m->sched);
    m->preemptions_before = m->num_preemptions;
    m->num_computed = 0;
}

static void model_init(model *m, uint32_t (*source_choose)(void *, uint32_t), void *source)
{
    memset(m, 0, sizeof *m);
    m->choose = source_choose;
    m->source = source;
    static const int block_sizes[] = {1, 2, 3, 4, 8, 16};
    qr_sched_options *o = &m->options;
    qr_sched_options_init(o);
    o->block_size = block_sizes[choose(m, 6)];
    const uint32_t full_len = (uint32_t)(MODEL_MAX_LEN / o->block_size);
    o->num_blocks = 1 + choose(m, choose(m, 2) ? 4 * full_len : full_len);
    o->max_num_seqs = 1 + (int)choose(m, 12);
    o->max_num_batched_tokens = 1 + (int32_t)choose(m, choose(m, 2) ? 200 : 20);
    o->max_model_len = MODEL_MAX_LEN;
    o->enable_chunked_prefill = choose(m, 4) > 0;
    o->max_chunk_tokens = o->enable_chunked_prefill && choose(m, 3) == 0 ? 1 + (int32_t)choose(m, 10) : 0;
    o->enable_prefix_caching = choose(m, 5) > 0;
    o->policy = (qr_sched_policy)choose(m, QR_NUM_SCHED_POLICIES);
    o->preemption_mode = (qr_preemption_mode)choose(m, 3);
    o->num_swap_blocks = 1 + choose(m, 2 * (uint32_t)o->num_blocks);
    o->kv_allocator = choose(m, 2) ? QR_KV_VLLM : (qr_kv_allocator)choose(m, QR_NUM_KV_ALLOCATORS);
    if (o->kv_allocator != QR_KV_VLLM) o->max_chunk_tokens = 0;
    if (model_has_regions(m)) {
        o->preemption_mode = QR_PREEMPT_RECOMPUTE;
        o->enable_prefix_caching = false;
    }
    m->output_vocab = choose(m, 3) == 0 ? 1 : choose(m, 2) ? 2 : MODEL_VOCAB;
    m->drafts = choose(m, 2);
    const uint32_t swap_us = choose(m, 20);
    if (o->enable_prefix_caching && choose(m, 2)) {
        fake_store_init(&m->store, m->device, (size_t)o->block_size * sizeof *m->device, o->block_size,
                        1 + (int)choose(m, 6), m->choose, m->source);
        o->store = &m->store.hooks;
    }
    model_start(m);
    qr_sched_set_costs(m->sched, 1.0, swap_us);
}

/* ---- operations between steps ------------------------------------------------------------------ */

/* Prompts are prefixes of a few base texts with a few own tokens behind, so that they share a lot. */
static void make_prompt(model *m, ref_request *ref)
{
    const uint32_t base = choose(m, 3);
    const int32_t shared = (int32_t)choose(m, (uint32_t)ref->num_prompt + 1);
    for (int32_t i = 0; i < ref->num_prompt; i++) {
        const int32_t token = i < shared ? (int32_t)(model_mix(base, (uint64_t)i) % MODEL_VOCAB)
                                         : (int32_t)choose(m, choose(m, 2) ? 2 : MODEL_VOCAB);
        for (int s = 0; s < (i == 0 ? ref->n : 0); s++) ref->seqs[s].num_tokens = 0;
        for (int s = 0; s < ref->n; s++) ref_append(ref, &ref->seqs[s], token);
    }
}

/* Mostly smaller than the pool, so that add does not refuse it. */
static void fit_group(model *m, ref_request *ref)
{
    const int32_t num_slots = (int32_t)m->options.num_blocks * m->options.block_size;
    if (choose(m, 8) == 0) return;
    while (ref->max_output > 1 && ref->num_prompt + ref->max_output > num_slots) ref->max_output /= 2;
    while (ref->n > 1 && (ref->num_prompt + ref->n * ref->max_output > num_slots || ref->n > m->options.max_num_seqs))
        ref->n--;
}

static bool model_add(model *m)
{
    ref_request *ref = NULL;
    for (int i = 0; i < MODEL_MAX_REQUESTS && !ref; i++)
        if (!m->requests[i].request) ref = &m->requests[i];
    if (!ref) return false;
    memset(ref, 0, sizeof *ref);
    ref->n = choose(m, 2) ? 1 : 1 + (int)choose(m, MODEL_MAX_N);
    ref->num_prompt = 1 + (int32_t)choose(m, choose(m, 4) ? 30 : MODEL_MAX_LEN - 1);
    ref->max_output = 1 + (int32_t)choose(m, (uint32_t)(MODEL_MAX_LEN - ref->num_prompt));
    fit_group(m, ref);
    const int64_t given = (int64_t)choose(m, 3);
    ref->priority = m->options.policy == QR_SCHED_PRIORITY ? given
                    : m->options.policy == QR_SCHED_FAIR   ? m->num_computed + ref->num_prompt
                                                           : 0;
    ref->key = choose(m, 4) == 0;
    ref->no_prefix_read = choose(m, 8) == 0;
    ref->lockstep = choose(m, ref->n > 1 ? 2 : 6) == 0;
    ref->num_shared = ref->num_prompt;
    make_prompt(m, ref);
    const qr_request_params params = {.prompt_token_ids = ref->seqs[0].tokens,
                                      .num_prompt_tokens = ref->num_prompt,
                                      .max_output_tokens = ref->max_output,
                                      .n = ref->n,
                                      .expected_output_tokens = (int32_t)choose(m, (uint32_t)ref->max_output + 1),
                                      .priority = given,
                                      .extra_key = ref->key,
                                      .no_prefix_read = ref->no_prefix_read,
                                      .lockstep = ref->lockstep,
                                      .user = ref};
    quire_error error;
    const bool starve = choose(m, 16) == 0;
    if (starve) qr_mem_fail_after(0);
    const quire_status status = qr_sched_add(m->sched, &params, &ref->request, &error);
    if (starve) qr_mem_fail_off();
    if (status != QUIRE_OK) {
        MODEL_CHECK(status == QUIRE_INVALID || (status == QUIRE_NOMEM && starve), "add: status %d", status);
        ref->request = NULL;
        m->num_refused++;
        return true;
    }
    ref->order = ++m->num_added;
    return true;
}

static ref_request *any_request(model *m)
{
    const uint32_t first = choose(m, MODEL_MAX_REQUESTS);
    for (uint32_t i = 0; i < MODEL_MAX_REQUESTS; i++) {
        ref_request *ref = &m->requests[(first + i) % MODEL_MAX_REQUESTS];
        if (ref->request) return ref;
    }
    return NULL;
}

static void model_abort(model *m)
{
    ref_request *ref = any_request(m);
    if (!ref) return;
    qr_sched_abort(m->sched, ref->request);
    MODEL_CHECK(qr_request_status_finished(ref->request->status), "aborted, but not finished");
    if (!ref->finished) {
        MODEL_CHECK(ref->request->status == QR_FINISHED_ABORTED, "aborted with status %d", ref->request->status);
        m->num_aborts++;
    }
    ref->finished = true;
    ref->running = false;
}

static void model_remove_finished(model *m)
{
    for (int i = 0; i < MODEL_MAX_REQUESTS; i++) {
        ref_request *ref = &m->requests[i];
        if (!ref->request || !ref->finished) continue;
        for (int s = 0; s < ref->n; s++) {
            const qr_seq *seq = &ref->request->seqs[s];
            MODEL_CHECK(seq->num_output_tokens == ref->seqs[s].num_tokens - ref->num_prompt, "outputs lost");
            for (int32_t t = 0; t < ref->seqs[s].num_tokens; t++)
                MODEL_CHECK(qr_seq_token(seq, t) == ref->seqs[s].tokens[t], "token %d changed", t);
        }
        qr_sched_remove(m->sched, ref->request);
        ref->request = NULL;
    }
}

static bool ref_is_live(const ref_seq *seq) { return !seq->finished && !seq->idle; }

/* What the blocks of every sequence hold, scheduled or not, in the pool or in swap space: the tokens it has computed.
 */
static void model_contents(const model *m)
{
    if (model_has_regions(m)) return; /* a fork's copies are carried out in the next step only */
    for (int k = 0; k < MODEL_MAX_REQUESTS; k++) {
        const ref_request *ref = &m->requests[k];
        for (int s = 0; s < ref->n && ref->request && !ref->finished; s++) {
            const ref_seq *seq = &ref->seqs[s];
            const qr_seq *real = &ref->request->seqs[s];
            const int32_t *swap_table = ref->request->swap_block_ids + s * ref->request->max_swap_blocks;
            const bool runs = real->status == QR_RUNNING, holds = runs || (ref->swapped && ref_is_live(seq));
            MODEL_CHECK(!holds || real->num_computed_tokens == seq->num_computed, "%d tokens are computed, not %d",
                        real->num_computed_tokens, seq->num_computed);
            for (int32_t p = 0; p < seq->num_computed && holds; p++) {
                const int32_t block_size = m->options.block_size;
                const uint64_t digest = runs ? m->device[qr_block_table_slot(&real->table, m->pool, p)]
                                             : m->swap_space[swap_table[p / block_size] * block_size + p % block_size];
                MODEL_CHECK(digest == seq->digests[p], "step %u: position %d holds wrong K and V", m->step, p);
            }
        }
    }
}

static void model_check(model *m)
{
    model_contents(m);
    quire_error error;
    if (qr_sched_check(m->sched, &error) != QUIRE_OK) MODEL_FAIL("step %u: %s", m->step, error.message);
    int unfinished = 0;
    for (int i = 0; i < MODEL_MAX_REQUESTS; i++) unfinished += m->requests[i].request && !m->requests[i].finished;
    MODEL_CHECK(qr_sched_has_unfinished(m->sched) == (unfinished > 0), "%d requests are unfinished", unfinished);
}

/* ---- a step: what schedule() may say ----------------------------------------------------------- */

static bool ref_before(const ref_request *a, const ref_request *b)
{
    return a->priority != b->priority ? a->priority < b->priority : a->order < b->order;
}

static int ref_lead(const ref_request *ref)
{
    int s = 0;
    while (!ref_is_live(&ref->seqs[s])) s++;
    return s;
}

static int ref_live(const ref_request *ref)
{
    int count = 0;
    for (int s = 0; s < ref->n; s++) count += ref_is_live(&ref->seqs[s]);
    return count;
}

/* The longest common beginning of all live sequences, short of the last token of each. */
static int32_t ref_shared(const ref_request *ref)
{
    const ref_seq *lead = &ref->seqs[ref_lead(ref)];
    for (int32_t length = 0;; length++)
        for (int s = 0; s < ref->n; s++) {
            const ref_seq *seq = &ref->seqs[s];
            if (ref_is_live(seq) && (length == seq->num_tokens - 1 || seq->tokens[length] != lead->tokens[length]))
                return length;
        }
}

static int ref_unfinished(const ref_request *ref)
{
    int count = 0;
    for (int s = 0; s < ref->n; s++) count += !ref->seqs[s].finished;
    return count;
}

static void model_preempted(model *m, const qr_sched_step *step)
{
    for (int i = 0; i < step->num_preempted; i++) {
        ref_request *victim = step->preempted[i]->user;
        MODEL_CHECK(victim->running && !victim->finished, "preempted a request that does not run");
        for (int k = 0; k < MODEL_MAX_REQUESTS; k++) {
            const ref_request *other = &m->requests[k];
            MODEL_CHECK(!other->request || !other->running || !ref_before(victim, other) || model_has_regions(m),
                        "preempted a request although a later one runs");
        }
        m->num_preemptions++;
        victim->running = false;
        victim->swapped = victim->request->num_swapped_blocks > 0;
        m->num_swapped += victim->swapped;
        if (victim->swapped) continue;
        if (victim->forked) victim->num_shared = ref_shared(victim);
        victim->forked = false;
        for (int s = 0; s < victim->n; s++) victim->seqs[s].num_computed = 0;
    }
    int num_running = 0;
    for (int k = 0; k < MODEL_MAX_REQUESTS; k++) num_running += m->requests[k].request && m->requests[k].running;
    MODEL_CHECK(step->num_preempted == 0 || num_running > 0 || model_has_regions(m), "preempted everything");
}

/* A request's first entry since it was added or preempted. */
static void model_admitted(model *m, const qr_sched_step *step, ref_request *ref, const qr_sched_entry *entry)
{
    MODEL_CHECK(step->num_preempted == 0 || model_has_regions(m), "admitted in a step with preemptions");
    for (int k = 0; k < MODEL_MAX_REQUESTS; k++) {
        const ref_request *other = &m->requests[k];
        const bool waits = other->request && other != ref && !other->running && !other->finished;
        MODEL_CHECK(!waits || ref_before(ref, other), "admitted out of turn");
    }
    ref->running = ref->admitted = true;
    m->prompts_only |= m->options.kv_allocator == QR_KV_VLLM_V0 && !ref->swapped;
    if (ref->swapped) {
        ref->swapped = false;
        return;
    }
    ref_seq *lead = &ref->seqs[ref_lead(ref)];
    ref->forked = ref_live(ref) == 1;
    const int32_t target = ref->forked ? lead->num_tokens : ref->num_shared;
    MODEL_CHECK(entry->start % m->options.block_size == 0 && entry->start < target, "%d tokens found", entry->start);
    MODEL_CHECK(entry->start == 0 || (m->options.enable_prefix_caching && !ref->no_prefix_read), "cache is off");
    const int32_t num_certain = entry->num_new_tokens - entry->num_draft_tokens;
    MODEL_CHECK(m->options.enable_chunked_prefill || num_certain == target - entry->start, "prompt cut");
    m->num_hits += (uint64_t)entry->start;
    lead->num_computed = entry->start;
}

static void check_entry(model *m, const qr_sched_step *step, const qr_sched_entry *entry)
{
    ref_request *ref = entry->request->user;
    ref_seq *seq = &ref->seqs[entry->seq->idx];
    MODEL_CHECK(entry->seq->request == entry->request && ref->request == entry->request, "entry of a stranger");
    MODEL_CHECK(!ref->finished && ref_is_live(seq), "entry of a finished sequence");
    if (!ref->running) model_admitted(m, step, ref, entry);
    const int32_t num_drafts = entry->num_draft_tokens, end = entry->start + entry->num_new_tokens - num_drafts;
    MODEL_CHECK(ref->forked || entry->seq->idx == ref_lead(ref), "another than the lead computes what is shared");
    MODEL_CHECK(end > entry->start && entry->start == seq->num_computed, "starts at %d", entry->start);
    MODEL_CHECK(end <= (ref->forked ? seq->num_tokens : ref->num_shared), "computes too much");
    MODEL_CHECK(m->options.max_chunk_tokens == 0 || entry->num_new_tokens <= m->options.max_chunk_tokens, "chunk");
    MODEL_CHECK(entry->samples == (end == seq->num_tokens), "samples is %d", entry->samples);
    MODEL_CHECK(num_drafts >= 0 && num_drafts <= seq->num_wanted, "%d drafts", num_drafts);
    MODEL_CHECK(!entry->samples || num_drafts == entry->seq->num_draft_tokens, "%d drafts in the entry", num_drafts);
    MODEL_CHECK(num_drafts == 0 || (entry->samples && step->num_preempted == 0), "drafts without need");
    MODEL_CHECK(end - ref->num_prompt + num_drafts < ref->max_output, "%d drafts are beyond the end", num_drafts);
    MODEL_CHECK(entry->forks == (!ref->forked && end == ref->num_shared), "forks is %d", entry->forks);
}

static void check_step(model *m, const qr_sched_step *step)
{
    const bool unfinished = qr_sched_has_unfinished(m->sched);
    MODEL_CHECK(!unfinished || step->num_entries > 0, "deadlock: nothing is scheduled");
    bool seen[MODEL_MAX_REQUESTS][MODEL_MAX_N] = {{false}};
    m->prompts_only = false;
    for (int k = 0; k < MODEL_MAX_REQUESTS; k++) m->requests[k].admitted = false;
    int32_t num_tokens = 0;
    for (int i = 0; i < step->num_entries; i++) {
        const qr_sched_entry *entry = &step->entries[i];
        check_entry(m, step, entry);
        bool *mark = &seen[(ref_request *)entry->request->user - m->requests][entry->seq->idx];
        MODEL_CHECK(!*mark, "two entries of one sequence");
        *mark = true;
        num_tokens += entry->num_new_tokens;
    }
    MODEL_CHECK(num_tokens == step->num_tokens && num_tokens <= m->options.max_num_batched_tokens, "budget");
    int num_seqs = 0;
    for (int k = 0; k < MODEL_MAX_REQUESTS; k++) {
        const ref_request *ref = &m->requests[k];
        if (!ref->request || !ref->running) continue;
        num_seqs += ref_unfinished(ref);
        if (m->prompts_only && !ref->admitted) {
            for (int s = 0; s < ref->n; s++) MODEL_CHECK(!seen[k][s], "a step of prompts has others too");
            continue;
        }
        bool behind = false; /* a lockstep group waits for its last sequence */
        for (int s = 0; s < ref->n && ref->lockstep; s++)
            behind |= ref_is_live(&ref->seqs[s]) && ref->seqs[s].num_computed < ref->seqs[s].num_tokens - 1;
        for (int s = 0; s < ref->n; s++) {
            const ref_seq *seq = &ref->seqs[s];
            const bool waits = behind && ref->forked && seq->num_computed == seq->num_tokens - 1;
            MODEL_CHECK(seen[k][s] == (ref_is_live(seq) && !waits && (ref->forked || s == ref_lead(ref))),
                        "a running sequence was left out");
        }
    }
    MODEL_CHECK(num_seqs <= m->options.max_num_seqs, "%d sequences run", num_seqs);
}

/* ---- a step: the fake device and the engine's part --------------------------------------------- */

/* A copy is for a scheduled sequence that writes into a partly filled block. */
static bool copy_has_entry(const model *m, const qr_sched_step *step, qr_block_copy copy)
{
    const int32_t block_size = m->options.block_size;
    for (int i = 0; i < step->num_entries; i++) {
        const qr_sched_entry *entry = &step->entries[i];
        if (entry->start % block_size != 0 && entry->seq->table.block_ids[entry->start / block_size] == copy.dst_block)
            return true;
    }
    return false;
}

static void device_move(model *m, uint64_t *to, const uint64_t *from, const qr_block_copy *moves, int num_moves)
{
    const size_t block_size = (size_t)m->options.block_size;
    for (int i = 0; i < num_moves; i++)
        memcpy(&to[(size_t)moves[i].dst_block * block_size], &from[(size_t)moves[i].src_block * block_size],
               block_size * sizeof *to);
}

static void device_copy(model *m, const qr_sched_step *step)
{
    MODEL_CHECK(step->num_swap_outs == 0 || step->num_swap_ins == 0, "swaps out and in");
    device_move(m, m->swap_space, m->device, step->swap_outs, step->num_swap_outs);
    device_move(m, m->device, m->swap_space, step->swap_ins, step->num_swap_ins);
    m->num_swap_blocks += (uint64_t)(step->num_swap_outs + step->num_swap_ins);
    for (int i = 0; i < step->num_copies && !model_has_regions(m); i++)
        MODEL_CHECK(copy_has_entry(m, step, step->copies[i]), "copy %d is for nobody", i);
    device_move(m, m->device, m->device, step->copies, step->num_copies);
    m->num_copies += (uint64_t)step->num_copies;
}

static void device_forward(model *m, const qr_sched_step *step)
{
    for (int i = 0; i < step->num_entries; i++) {
        const qr_sched_entry *entry = &step->entries[i];
        const ref_seq *ref = &((ref_request *)entry->request->user)->seqs[entry->seq->idx];
        for (int32_t p = entry->start; p < entry->start + entry->num_new_tokens; p++) {
            const int64_t slot = qr_block_table_slot(&entry->seq->table, m->pool, p);
            MODEL_CHECK(m->writer[slot] != m->step, "slot %d is written twice", (int)slot);
            m->writer[slot] = m->step;
            m->device[slot] = ref->digests[p];
        }
    }
    for (int i = 0; i < step->num_entries; i++) {
        const qr_sched_entry *entry = &step->entries[i];
        const ref_seq *ref = &((ref_request *)entry->request->user)->seqs[entry->seq->idx];
        for (int32_t p = 0; p < entry->start + entry->num_new_tokens; p++) {
            const int64_t slot = qr_block_table_slot(&entry->seq->table, m->pool, p);
            MODEL_CHECK(m->device[slot] == ref->digests[p], "step %u: position %d of %d reads wrong K and V", m->step,
                        p, entry->start + entry->num_new_tokens);
        }
    }
}

static void model_finish_seq(model *m, ref_request *ref, int idx, qr_request_status status)
{
    ref->seqs[idx].finished = true;
    ref->seqs[idx].idle = false;
    if (ref_unfinished(ref) == 0) {
        ref->finished = true;
        ref->running = false;
        m->num_finished++;
    }
    qr_sched_finish_seq(m->sched, &ref->request->seqs[idx], status);
    MODEL_CHECK(qr_request_status_finished(ref->request->status) == ref->finished, "finished too early or late");
}

static void model_sample(model *m, ref_request *ref, int idx)
{
    ref_seq *seq = &ref->seqs[idx];
    const int32_t token = (int32_t)choose(m, m->output_vocab);
    const bool drafted = seq->num_drafts > 0 && seq->tokens[seq->num_tokens] == token;
    seq->num_drafts = drafted ? seq->num_drafts - 1 : 0;
    seq->num_computed += drafted;
    seq->num_wanted = 0;
    ref_append(ref, seq, token);
    m->num_accepted += drafted;
    const bool taken = qr_sched_append_token(m->sched, &ref->request->seqs[idx], token);
    MODEL_CHECK(taken == drafted, "a draft was %s", taken ? "accepted" : "refused");
    const bool at_end = seq->num_tokens - ref->num_prompt == ref->max_output;
    if (at_end || choose(m, ref->lockstep ? 64 : 24) == 0)
        model_finish_seq(m, ref, idx, at_end ? QR_FINISHED_LENGTH_CAPPED : QR_FINISHED_STOPPED);
    else if (drafted)
        model_sample(m, ref, idx);
}

/* Guess what follows the running sequences. */
static void model_want_drafts(model *m)
{
    for (int k = 0; k < MODEL_MAX_REQUESTS; k++) {
        ref_request *ref = &m->requests[k];
        for (int s = 0; s < ref->n && ref->request && ref->running && ref->forked && !ref->lockstep; s++) {
            ref_seq *seq = &ref->seqs[s];
            qr_seq *real = &ref->request->seqs[s];
            if (!ref_is_live(seq) || seq->num_tokens == ref->num_prompt || choose(m, 2)) continue;
            seq->num_wanted = qr_sched_want_drafts(m->sched, real, (int)choose(m, 6));
            for (int32_t i = 0; i < seq->num_wanted; i++) {
                const int32_t token = (int32_t)choose(m, m->output_vocab);
                ref_set(ref, seq, seq->num_tokens + i, token);
                real->output_token_ids[real->num_output_tokens + i] = token;
            }
        }
    }
}

/* Beam search: sequences are dropped and others forked into their places. */
static void model_rearrange(model *m, ref_request *ref)
{
    for (uint32_t i = choose(m, 6); i > 0; i--) {
        ref_seq *a = &ref->seqs[choose(m, (uint32_t)ref->n)], *b = &ref->seqs[choose(m, (uint32_t)ref->n)];
        if (ref_is_live(a) && ref_live(ref) > 1 && choose(m, 2)) {
            qr_sched_drop_seq(m->sched, &ref->request->seqs[a - ref->seqs]);
            a->num_tokens = ref->num_prompt;
            a->num_computed = 0;
            a->idle = true;
        } else if (ref_is_live(a) && b->idle && !(b->forked_into && model_has_regions(m))) {
            qr_sched_fork_seq(m->sched, &ref->request->seqs[a - ref->seqs], &ref->request->seqs[b - ref->seqs]);
            *b = *a;
            b->forked_into = true;
            m->num_beam_forks++;
        }
    }
}

/* All sequences of a lockstep group have sampled. */
static void model_sample_beams(model *m, ref_request *ref)
{
    for (int s = 0; s < ref->n; s++) ref->seqs[s].forked_into = false;
    model_rearrange(m, ref);
    for (int s = 0; s < ref->n; s++)
        if (ref_is_live(&ref->seqs[s])) model_sample(m, ref, s);
    if (ref_live(ref) > 0) return;
    for (int s = 0; s < ref->n; s++)
        if (ref->seqs[s].idle) model_finish_seq(m, ref, s, QR_FINISHED_STOPPED);
}

static void model_results(model *m, const qr_sched_step *step)
{
    for (int i = 0; i < step->num_entries; i++) {
        const qr_sched_entry *entry = &step->entries[i];
        ref_request *ref = entry->request->user;
        ref_seq *seq = &ref->seqs[entry->seq->idx];
        seq->num_computed += entry->num_new_tokens - entry->num_draft_tokens;
        seq->num_drafts = entry->num_draft_tokens;
        m->num_drafts += (uint64_t)entry->num_draft_tokens;
        for (int s = 0; s < ref->n && entry->forks; s++)
            if (ref_is_live(&ref->seqs[s])) ref->seqs[s].num_computed = ref->num_shared;
        if (entry->forks) {
            ref->forked = true;
            m->num_forks++;
        }
        if (!entry->samples) continue;
        if (ref->lockstep)
            ref->sampled = true;
        else if (!entry->forks)
            model_sample(m, ref, entry->seq->idx);
        for (int s = 0; s < ref->n && entry->forks && !ref->lockstep; s++) model_sample(m, ref, s);
    }
    for (int i = 0; i < MODEL_MAX_REQUESTS; i++) {
        ref_request *ref = &m->requests[i];
        if (!ref->request || !ref->sampled) continue;
        ref->sampled = false;
        for (int s = 0; s < ref->n; s++)
            MODEL_CHECK(!ref_is_live(&ref->seqs[s]) || ref->seqs[s].num_computed == ref->seqs[s].num_tokens,
                        "a lockstep group samples, but not sequence %d", s);
        model_sample_beams(m, ref);
    }
}

/* Every slot is counted, once. */
static void model_slots(model *m)
{
    qr_sched_stats stats;
    qr_sched_get_stats(m->sched, &stats);
    const qr_slot_counts *c = &stats.slots;
    MODEL_CHECK(c->live >= 0 && c->reserved >= 0 && c->internal >= 0 && c->external >= 0 && c->unused >= 0,
                "slots: %d live, %d reserved, %d internal, %d external, %d unused", (int)c->live, (int)c->reserved,
                (int)c->internal, (int)c->external, (int)c->unused);
    MODEL_CHECK(stats.num_steps == 0 || c->live + c->reserved + c->internal + c->external + c->unused ==
                                            m->options.num_blocks * m->options.block_size,
                "slots do not add up");
}

static void model_step(model *m)
{
    qr_sched_step step;
    const uint64_t num_loaded = m->store.num_loaded;
    m->step++;
    if (m->drafts) model_want_drafts(m);
    qr_mem_fail_after(0); /* a step allocates nothing */
    qr_sched_schedule(m->sched, &step);
    const uint64_t in_schedule = qr_mem_num_allocations(), num_loads = m->store.num_loaded - num_loaded;
    model_preempted(m, &step);
    check_step(m, &step);
    for (int i = 0; i < step.num_entries; i++)
        MODEL_CHECK(((ref_request *)step.entries[i].request->user)->admitted ||
                        num_loads <= (uint64_t)m->store.hooks.max_loads_per_step,
                    "a running sequence waits for %d loads", (int)num_loads);
    device_copy(m, &step);
    device_forward(m, &step);
    qr_sched_commit_step(m->sched);
    for (int i = 0; i < step.num_entries; i++) m->num_computed += step.entries[i].num_new_tokens;
    model_results(m, &step);
    model_slots(m);
    MODEL_CHECK(in_schedule == 0 && qr_mem_num_allocations() == 0, "a step allocated memory");
    qr_mem_fail_off();
}

/* A new scheduler and a new device behind the same store: stopped in order, or killed. */
static void model_restart(model *m)
{
    for (int i = 0; i < MODEL_MAX_REQUESTS; i++) {
        ref_request *ref = &m->requests[i];
        if (!ref->request || ref->finished) continue;
        qr_sched_abort(m->sched, ref->request);
        ref->finished = true;
        ref->running = false;
    }
    model_remove_finished(m);
    if (choose(m, 2)) qr_sched_keep_prefixes(m->sched);
    qr_sched_destroy(m->sched);
    memset(m->device, 0xdd, sizeof m->device);
    model_start(m);
    m->num_restarts++;
}

/* One random operation and a full check. */
static void model_operation(model *m)
{
    const uint32_t op = choose(m, 65);
    if (op < 20)
        model_add(m);
    else if (op < 22)
        model_abort(m);
    else if (op == 22) {
        qr_sched_reset_prefix_cache(m->sched);
        m->num_resets++;
    } else if (op < 32)
        model_remove_finished(m);
    else if (op == 64 && choose(m, 4) == 0)
        model_restart(m);
    else
        model_step(m);
    model_check(m);
}

/* Run until all is finished, then nothing may be left. */
static void model_finish(model *m)
{
    for (uint32_t i = 0; qr_sched_has_unfinished(m->sched); i++) {
        MODEL_CHECK(i < 200000, "does not come to an end");
        model_step(m);
        model_check(m);
    }
    model_remove_finished(m);
    model_check(m);
    qr_sched_stats stats;
    qr_sched_get_stats(m->sched, &stats);
    MODEL_CHECK(stats.num_free_blocks == stats.num_blocks && stats.num_live_slots == 0, "%d blocks leaked",
                stats.num_blocks - stats.num_free_blocks);
    MODEL_CHECK(stats.num_free_swap_blocks == stats.num_swap_blocks, "swap space leaked");
    MODEL_CHECK(stats.num_running == 0 && stats.num_waiting == 0 && stats.num_running_seqs == 0, "requests leaked");
    MODEL_CHECK(stats.num_preemptions == m->num_preemptions - m->preemptions_before, "preemptions miscounted");
    qr_sched_destroy(m->sched);
}

#endif
