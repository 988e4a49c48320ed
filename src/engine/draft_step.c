/* draft_step: the draft model's part of a step: it follows the sequences and guesses their next tokens. */
#include "base/clock.h"
#include "engine/engine.h"

static qr_spec_seq *spec_of(const qr_seq *seq)
{
    quire_request *r = seq->request->user;
    return &r->seqs[seq->idx].spec;
}

static int certain_end(const qr_sched_entry *entry)
{
    return entry->start + entry->num_new_tokens - entry->num_draft_tokens;
}

/* Blocks of a preempted sequence are gone, in swap space too: the draft begins anew. */
static void forget_preempted(const qr_sched_step *step)
{
    for (int i = 0; i < step->num_preempted; i++)
        for (int s = 0; s < step->preempted[i]->n; s++) {
            qr_spec_seq *spec = spec_of(&step->preempted[i]->seqs[s]);
            spec->num_draft_kv = spec->num_draft_blocks = 0;
        }
}

/* Skip blocks that the draft computed for another sequence of the same beginning. */
static void skip_known(const quire_engine *e, const qr_seq *seq, int end)
{
    const qr_block_pool *pool = qr_sched_pool(e->sched);
    const int block_size = qr_block_pool_block_size(pool);
    qr_spec_seq *spec = spec_of(seq);
    int num = spec->num_draft_kv;
    while (num % block_size == 0 && num + block_size <= end && num / block_size < seq->table.num_full_blocks) {
        const int32_t id = seq->table.block_ids[num / block_size];
        const uint64_t content_id = qr_block_pool_content_id(pool, id);
        if (content_id == 0 || e->draft->content_ids[id] != content_id) break;
        num += block_size;
    }
    spec->num_draft_kv = num;
}

/* What the draft lacks of the entry's certain tokens, as far as there is room; the last one's row when drafts follow.
 */
static void follow(quire_engine *e, const qr_sched_step *step, int entry_idx)
{
    qr_draft *d = e->draft;
    const qr_sched_entry *entry = &step->entries[entry_idx];
    qr_spec_seq *spec = spec_of(entry->seq);
    const bool drafts = entry->num_draft_tokens > 0;
    int end = certain_end(entry);
    skip_known(e, entry->seq, end - drafts);
    const int room = d->max_tokens - d->batch.batch.num_tokens;
    if (end - spec->num_draft_kv > room) end = spec->num_draft_kv + room;
    if (end <= spec->num_draft_kv) return;
    const int row = qr_batch_add(&d->batch, entry->seq, spec->num_draft_kv, end, qr_sched_pool(e->sched));
    spec->num_draft_kv = end;
    if (!drafts) return;
    qr_batch_add_row(&d->batch, row - 1, entry_idx, -1);
    d->jobs[d->num_jobs++] = (qr_draft_job){entry->seq, entry->num_draft_tokens, entry_idx};
}

typedef struct draw {
    quire_engine *engine;
    const float *logits;
    int first_row, draft_idx;
} draw;

static void draw_tile(void *ctx, int tile_idx, int thread_idx)
{
    const draw *c = ctx;
    quire_engine *e = c->engine;
    qr_seq *seq = e->draft->jobs[c->first_row + tile_idx].seq;
    const qr_sample_in in = qr_engine_sample_in(e, seq, c->draft_idx, c->logits, tile_idx);
    seq->output_token_ids[seq->num_output_tokens + c->draft_idx] =
        qr_sampler_sample(e->draft->be, e->scratch[thread_idx], &in);
}

/* Run the batch; row i of it is drawn as draft draft_idx of job i. */
static void run_pass(quire_engine *e, int draft_idx)
{
    qr_draft *d = e->draft;
    const int vocab = e->model->info.vocab_size, num_rows = d->batch.batch.num_samples;
    qr_batch_end(&d->batch, qr_sched_pool(e->sched));
    qr_model_forward(d->model, d->ws, &d->batch.batch, d->cache);
    for (int first = 0; first < num_rows; first += e->logits_rows) {
        const int num = num_rows - first < e->logits_rows ? num_rows - first : e->logits_rows;
        draw c = {.engine = e, .first_row = first, .draft_idx = draft_idx};
        c.logits = qr_model_logits(d->model, d->ws, first, num);
        d->be->ops->row_stats(d->be, c.logits, vocab, num, vocab, e->row_max, e->row_argmax, e->row_sum_exp);
        qr_pool_run(d->be->pool, draw_tile, &c, num);
    }
}

/* One more token for every job that has more drafts to come; the others leave. */
static void next_pass(quire_engine *e, int draft_idx)
{
    qr_draft *d = e->draft;
    int num_left = 0;
    qr_batch_begin(&d->batch);
    for (int i = 0; i < d->num_jobs; i++) {
        const qr_draft_job job = d->jobs[i];
        if (job.num_drafts <= draft_idx) continue;
        qr_spec_seq *spec = spec_of(job.seq);
        const int row =
            qr_batch_add(&d->batch, job.seq, spec->num_draft_kv, spec->num_draft_kv + 1, qr_sched_pool(e->sched));
        spec->num_draft_kv++;
        qr_batch_add_row(&d->batch, row - 1, job.entry_idx, -1);
        d->jobs[num_left++] = job;
    }
    d->num_jobs = num_left;
}

void qr_draft_propose(quire_engine *e, const qr_sched_step *step)
{
    qr_draft *d = e->draft;
    const int64_t start_us = qr_clock_us();
    int num_drafts = 0;
    forget_preempted(step);
    if (step->num_copies > 0)
        d->be->ops->kv_copy_blocks(d->be, d->cache, (const qr_copy_pair *)(const void *)step->copies, step->num_copies);
    qr_batch_begin(&d->batch);
    d->num_jobs = 0;
    for (int drafts = 1; drafts >= 0; drafts--) /* those that draft are few tokens each, and come first */
        for (int i = 0; i < step->num_entries; i++) {
            const qr_sched_entry *entry = &step->entries[i];
            if ((entry->num_draft_tokens > 0) != drafts || entry->request->lockstep) continue;
            if (!qr_spec_follows(spec_of(entry->seq), &e->spec, &e->spec_costs, step->num_entries)) continue;
            follow(e, step, i);
            num_drafts += entry->num_draft_tokens;
        }
    if (d->batch.batch.num_tokens == 0) return;
    run_pass(e, 0);
    for (int i = 1; next_pass(e, i), d->num_jobs > 0; i++) run_pass(e, i);
    if (num_drafts > 0) qr_spec_observe_proposal(&e->spec_costs, num_drafts, (double)(qr_clock_us() - start_us));
}

void qr_draft_commit(quire_engine *e, const qr_sched_step *step)
{
    const qr_block_pool *pool = qr_sched_pool(e->sched);
    for (int i = 0; i < step->num_entries; i++) {
        const qr_seq *seq = step->entries[i].seq;
        qr_spec_seq *spec = spec_of(seq);
        const int num_blocks = spec->num_draft_kv / qr_block_pool_block_size(pool);
        for (; spec->num_draft_blocks < num_blocks && spec->num_draft_blocks < seq->table.num_full_blocks;
             spec->num_draft_blocks++) {
            const int32_t id = seq->table.block_ids[spec->num_draft_blocks];
            e->draft->content_ids[id] = qr_block_pool_content_id(pool, id);
        }
        for (int s = 0; s < seq->request->n && step->entries[i].forks; s++) *spec_of(&seq->request->seqs[s]) = *spec;
    }
}
