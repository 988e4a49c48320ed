/* device_sample: a step's tokens and log probabilities drawn by the backend's op `sample`, where the logits are.
 *
 *   chunk of logits ─► ask: a draw for each of its jobs and prompt rows, asked of the device, not waited for
 *   end of the step ─► take: wait; tokens, ranks, the likeliest tokens to the jobs and prompts
 *
 * What describes the draws and what comes back lies in memory that both sides reach: a few bytes for a row instead of
 * its logits. A chunk with a job that the op does not have (typical_p) is sampled by the host (step.c).
 * Threads: engine thread, with the model's lock. No allocation after init. */
#ifndef QR_ENGINE_DEVICE_SAMPLE_H
#define QR_ENGINE_DEVICE_SAMPLE_H

#include "backend/backend.h"
#include "sched/scheduler.h"

/* Whom a draw is for. */
typedef struct qr_draw_target {
    int job_idx; /* -1: */
    int row_idx; /* of the batch's rows: a prompt token */
} qr_draw_target;

typedef struct qr_device_sampling {
    int num, num_asked, max; /* draws; num_asked of them are on their way. max 0: the host samples */
    int num_edits, max_edits;
    qr_draw *draws; /* [max]; this and what follows, but targets, the backend's buffers */
    qr_drawn *drawn;
    int32_t *top_ids; /* [max, QR_MAX_TOP] */
    float *top_logits;
    qr_logit_edit *edits; /* [max_edits] */
    float *scratch;       /* [QR_MAX_DRAWS, vocab_size] */
    qr_draw_target *targets;
} qr_device_sampling;

/* e->model, max_jobs and logits_rows are there. OK also where the backend does not sample. On failure: deinit. */
QUIRE_MUST_USE quire_status qr_device_sampling_init(quire_engine *e, quire_error *error);
void qr_device_sampling_deinit(quire_engine *e);

/* Does the device draw the jobs from first_job on, a chunk's? */
bool qr_device_draws(const quire_engine *e, int first_job);
/* Compute the logits of the batch's rows first_row .. first_row + num_rows - 1 and ask for their draws. */
void qr_device_ask(quire_engine *e, const qr_sched_step *step, int first_row, int num_rows, int first_job);
/* Wait for what was asked and hand it to jobs and prompts; nothing to do when nothing was. */
void qr_device_take(quire_engine *e, const qr_sched_step *step);

#endif
