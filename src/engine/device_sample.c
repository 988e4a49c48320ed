#include "engine/device_sample.h"

#include <math.h>
#include <string.h>

#include "engine/engine.h"

/* ---- memory */

enum { NUM_BUFFERS = 6 };

static void sizes_of(const quire_engine *e, size_t bytes[NUM_BUFFERS])
{
    const qr_device_sampling *d = &e->device_sampling;
    const size_t max = (size_t)d->max, vocab = (size_t)e->model->info.vocab_size;
    bytes[0] = max * sizeof *d->draws;
    bytes[1] = max * sizeof *d->drawn;
    bytes[2] = max * QR_MAX_TOP * sizeof *d->top_ids;
    bytes[3] = max * QR_MAX_TOP * sizeof *d->top_logits;
    bytes[4] = (size_t)d->max_edits * sizeof *d->edits;
    bytes[5] = QR_MAX_DRAWS * vocab * sizeof *d->scratch;
}

quire_status qr_device_sampling_init(quire_engine *e, quire_error *error)
{
    qr_device_sampling *d = &e->device_sampling;
    qr_backend *be = e->model->backend;
    size_t bytes[NUM_BUFFERS];
    if (!qr_model_samples_on_device(e->model->model)) return QUIRE_OK;
    d->max = e->max_jobs + e->logits_rows;
    d->max_edits = 2 * e->model->info.vocab_size + 4096; /* penalties of all tokens, and a step of many requests */
    sizes_of(e, bytes);
    d->draws = be->ops->buffer_alloc(be, bytes[0], true);
    d->drawn = be->ops->buffer_alloc(be, bytes[1], true);
    d->top_ids = be->ops->buffer_alloc(be, bytes[2], true);
    d->top_logits = be->ops->buffer_alloc(be, bytes[3], true);
    d->edits = be->ops->buffer_alloc(be, bytes[4], true);
    d->scratch = be->ops->buffer_alloc(be, bytes[5], false);
    d->targets = qr_calloc((size_t)d->max, sizeof *d->targets);
    if (!d->draws || !d->drawn || !d->top_ids || !d->top_logits || !d->edits || !d->scratch || !d->targets)
        return qr_fail_nomem(error, "sampling on the device", bytes[5]);
    return QUIRE_OK;
}

void qr_device_sampling_deinit(quire_engine *e)
{
    qr_device_sampling *d = &e->device_sampling;
    qr_backend *be = e->model->backend;
    void *const buffers[NUM_BUFFERS] = {d->draws, d->drawn, d->top_ids, d->top_logits, d->edits, d->scratch};
    size_t bytes[NUM_BUFFERS];
    sizes_of(e, bytes);
    for (int i = 0; i < NUM_BUFFERS; i++)
        if (buffers[i]) be->ops->buffer_free(be, buffers[i], bytes[i]);
    qr_free(d->targets);
    memset(d, 0, sizeof *d);
}

/* ---- asking */

static qr_sample_in input_of(const quire_engine *e, const qr_sample_job *job)
{
    return qr_engine_sample_in(e, job->seq, job->draft_idx, NULL, job->row);
}

bool qr_device_draws(const quire_engine *e, int first_job)
{
    for (int i = first_job; i < e->num_jobs && e->device_sampling.max > 0; i++) {
        const qr_sample_in in = input_of(e, &e->jobs[i]);
        const int num_edits = qr_sampler_max_edits(e->scratch[0], &in);
        if (num_edits < 0 || num_edits > e->device_sampling.max_edits) return false;
    }
    return e->device_sampling.max > 0;
}

/* Draws that have been described but not asked for. */
static void launch(quire_engine *e, const float *logits)
{
    qr_device_sampling *d = &e->device_sampling;
    while (d->num_asked < d->num) {
        const int first = d->num_asked, num = d->num - first < QR_MAX_DRAWS ? d->num - first : QR_MAX_DRAWS;
        const qr_sample_args args = {.logits = logits,
                                     .vocab_size = e->model->info.vocab_size,
                                     .draws = d->draws + first,
                                     .num_draws = num,
                                     .edits = d->edits,
                                     .scratch = d->scratch,
                                     .out = d->drawn + first,
                                     .top_ids = d->top_ids + (size_t)first * QR_MAX_TOP,
                                     .top_logits = d->top_logits + (size_t)first * QR_MAX_TOP};
        e->model->backend->ops->sample(e->model->backend, &args);
        d->num_asked += num;
    }
}

/* A draw to describe, with room for that many edits: what fills the room is taken first. */
static qr_draw *next_draw(quire_engine *e, const qr_sched_step *step, const float *logits, qr_draw_target target,
                          int num_edits)
{
    qr_device_sampling *d = &e->device_sampling;
    if (d->num == d->max || d->num_edits + num_edits > d->max_edits) {
        launch(e, logits);
        qr_device_take(e, step);
    }
    d->targets[d->num] = target;
    return &d->draws[d->num++];
}

static void describe_prompt_row(quire_engine *e, const qr_sched_step *step, const float *logits, int row_idx, int row)
{
    const qr_logits_row *r = &e->batch.rows[row_idx];
    const quire_request *request = qr_engine_request_of(step->entries[r->entry_idx].request);
    qr_draw *draw = next_draw(e, step, logits, (qr_draw_target){-1, row_idx}, 0);
    *draw = (qr_draw){.row = row,
                      .given_token = request->prompt_logprobs.tokens[r->prompt_position].token_id,
                      .num_top = request->params.prompt_logprobs,
                      .wants_stats = true};
}

static void describe_job(quire_engine *e, const qr_sched_step *step, const float *logits, int job_idx)
{
    qr_device_sampling *d = &e->device_sampling;
    const qr_sample_job *job = &e->jobs[job_idx];
    const quire_request *request = qr_engine_request_of(job->seq->request);
    const qr_sample_in in = input_of(e, job);
    qr_draw *draw = next_draw(e, step, logits, (qr_draw_target){job_idx, -1}, qr_sampler_max_edits(e->scratch[0], &in));
    const int num_edits = qr_sampler_describe(e->scratch[0], &in, draw, d->edits + d->num_edits);
    draw->row = job->row;
    draw->first_edit = d->num_edits;
    d->num_edits += num_edits;
    if (request->beams) {
        draw->given_token = 0; /* beams choose themselves */
        draw->num_top = request->beams->num_candidates;
        draw->edited_top = draw->wants_stats = true;
    } else if (request->params.logprobs >= 0) {
        draw->num_top = request->params.logprobs;
        draw->wants_stats = true;
    }
}

void qr_device_ask(quire_engine *e, const qr_sched_step *step, int first_row, int num_rows, int first_job)
{
    const float *logits = qr_model_device_logits(e->model->model, e->ws, first_row, num_rows);
    for (int i = 0; i < num_rows; i++)
        if (e->batch.rows[first_row + i].prompt_position >= 0) describe_prompt_row(e, step, logits, first_row + i, i);
    for (int i = first_job; i < e->num_jobs; i++) describe_job(e, step, logits, i);
    launch(e, logits);
}

/* ---- taking */

/* The log probabilities of draw i's likeliest tokens, as qr_sampler_top_logprobs() has them. */
static void take_top(const qr_device_sampling *d, int i, int32_t *out_ids, float *out_logprobs)
{
    const qr_drawn *drawn = &d->drawn[i];
    const size_t at = (size_t)i * QR_MAX_TOP;
    const float log_sum = logf(drawn->sum_exp);
    for (int t = 0; t < d->draws[i].num_top; t++) {
        out_ids[t] = d->top_ids[at + (size_t)t];
        out_logprobs[t] = d->top_logits[at + (size_t)t] - drawn->max - log_sum;
    }
}

static void take_token(const qr_device_sampling *d, int i, int32_t *top_ids, float *top_logprobs,
                       quire_token_logprobs *out)
{
    const qr_drawn *drawn = &d->drawn[i];
    *out = (quire_token_logprobs){.token_id = drawn->token,
                                  .logprob = drawn->logit - drawn->max - logf(drawn->sum_exp),
                                  .rank = drawn->rank,
                                  .num_top = d->draws[i].num_top,
                                  .top_ids = top_ids,
                                  .top_logprobs = top_logprobs};
    take_top(d, i, top_ids, top_logprobs);
}

static void take_prompt_row(quire_engine *e, const qr_sched_step *step, int i)
{
    const qr_device_sampling *d = &e->device_sampling;
    const qr_logits_row *r = &e->batch.rows[d->targets[i].row_idx];
    qr_prompt_logprobs *p = &qr_engine_request_of(step->entries[r->entry_idx].request)->prompt_logprobs;
    const size_t at = (size_t)r->prompt_position * (size_t)d->draws[i].num_top;
    take_token(d, i, p->top_ids + at, p->top_logprobs + at, &p->tokens[r->prompt_position]);
}

static void take_job(quire_engine *e, int i)
{
    const qr_device_sampling *d = &e->device_sampling;
    qr_sample_job *job = &e->jobs[d->targets[i].job_idx];
    const quire_request *request = qr_sample_job_set_request(job);
    const size_t at = (size_t)d->targets[i].job_idx * QR_MAX_LOGPROBS;
    job->token = d->drawn[i].token;
    if (request->beams)
        take_top(d, i, e->top_ids + at, e->top_logprobs + at);
    else if (request->params.logprobs >= 0)
        take_token(d, i, e->top_ids + at, e->top_logprobs + at, &job->logprobs);
}

void qr_device_take(quire_engine *e, const qr_sched_step *step)
{
    qr_device_sampling *d = &e->device_sampling;
    if (d->num_asked == 0) return;
    e->model->backend->ops->wait(e->model->backend);
    for (int i = 0; i < d->num_asked; i++) {
        if (d->targets[i].job_idx < 0)
            take_prompt_row(e, step, i);
        else
            take_job(e, i);
    }
    d->num = d->num_asked = d->num_edits = 0;
}
