/* engine: the loop that turns submitted requests into tokens.
 *
 *   quire_submit (any thread) ─► inbox ─► engine thread, one step at a time:
 *                                  1 schedule     which sequences, how many tokens          (sched/)
 *                                  2 batch        flat arrays, block copies                 (batch.c)
 *                                  3 forward      hidden states, logits rows in chunks      (model/)
 *                                  4 sample       in parallel over the rows                 (step.c, sampler.c)
 *                                  5 update       append, finish, deliver outputs           (step.c, request.c)
 *
 * The inbox and the counters that other threads read are guarded by `lock`; all else belongs to the engine thread.
 * A step allocates nothing. Threads: as said per field. */
#ifndef QR_ENGINE_ENGINE_H
#define QR_ENGINE_ENGINE_H

#include "engine/batch.h"
#include "engine/device_sample.h"
#include "engine/draft.h"
#include "engine/prefix_store.h"
#include "engine/profile.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/schedule_log.h"
#include "engine/stats.h"
#include "engine/swap.h"

/* One token to draw: a logits row and the sequence that it is for. */
typedef struct qr_sample_job {
    qr_seq *seq;
    quire_request *request; /* once drawn, as all that follows; seq's, and what becomes of its tokens */
    qr_output_seq *out;
    int row;       /* of the current chunk of logits */
    int draft_idx; /* it follows so many of the sequence's draft tokens, and counts only if they are right */
    int32_t token;
    quire_token_logprobs logprobs; /* arrays in the engine's top_ids, top_logprobs */
} qr_sample_job;

/* The engine's request behind the scheduler's. */
static inline quire_request *qr_engine_request_of(const qr_request *request) { return request->user; }

/* By who draws the job's token, which reads the request in any case: what follows finds it without another miss. */
static inline quire_request *qr_sample_job_set_request(qr_sample_job *job)
{
    job->request = qr_engine_request_of(job->seq->request);
    job->out = &job->request->seqs[job->seq->idx];
    return job->request;
}

struct quire_engine {
    quire_model *model;
    quire_engine_options options; /* strings are static */
    qr_sched *sched;
    qr_kv_cache *cache;
    qr_kv_config kv_config;
    qr_swap swap;
    qr_prefix_store *prefix_store; /* NULL: none */
    qr_block_store block_store;    /* between pool and prefix_store */
    qr_schedule_log *schedule_log; /* NULL: none */
    qr_profile *profile;           /* NULL: none */
    double compute_us_per_token;   /* measured */
    qr_spec_config spec;
    qr_draft *draft; /* NULL without */
    qr_spec_costs spec_costs;
    qr_model_workspace *ws;
    bool ranks_opened; /* other ranks have what this engine needs of them */
    qr_batch_builder batch;
    int logits_rows; /* rows of logits computed at a time */

    qr_sampler_scratch **scratch; /* [threads] */
    qr_sample_job *jobs;          /* [max_jobs] of the step; a sequence's drafts side by side */
    int num_jobs, max_jobs;
    int32_t *top_ids; /* [max_jobs, QR_MAX_LOGPROBS] */
    float *top_logprobs;
    float *row_max, *row_sum_exp; /* [logits_rows] */
    qr_buf text;                  /* for one output's */
    int32_t *row_argmax;

    qr_device_sampling device_sampling;

    quire_request *live; /* added to the scheduler, not removed (engine thread) */
    atomic_bool abort_pending;

    pthread_t thread;
    bool thread_started;
    pthread_mutex_t lock;
    pthread_cond_t wake;     /* for the engine thread */
    pthread_cond_t finished; /* for drain: num_open fell to 0 */
    quire_request *inbox_first, *inbox_last;
    int num_inbox;
    int num_taken;   /* out of the inbox since the counts in `stats` were made */
    int num_open;    /* submitted and not finished */
    uint64_t serial; /* of requests, keys those without a seed */
    bool draining, stopping, reset_prefix_cache;
    quire_stats stats;
};

/* One step's model part: block copies, forward, logits, sampling; then commit, append and deliver. step.c
 *   start_us   when scheduling it began */
void qr_engine_run_step(quire_engine *engine, const qr_sched_step *step, int64_t start_us);
/* Open the store that the options ask for, if any; e->cache is there and e->sched not yet. prefix.c */
QUIRE_MUST_USE quire_status qr_engine_open_prefix_store(quire_engine *engine, quire_error *error);
/* Save what the pool has cached and close; the engine thread has ended, no request holds blocks. prefix.c */
void qr_engine_close_prefix_store(quire_engine *engine);
/* What draft draft_idx of a sequence (0: its next token) is drawn from: a row of logits, whose statistics are in
 * row_max and so on at `row`; logits NULL: on a device, where neither is needed. step.c */
qr_sample_in qr_engine_sample_in(const quire_engine *engine, const qr_seq *seq, int draft_idx, const float *logits,
                                 int row);
/* The draft model's part of a step: keep up with the entries' sequences and write their draft tokens, with the model's
 * lock; after commit_step, note what it has computed. draft_step.c */
void qr_draft_propose(quire_engine *engine, const qr_sched_step *step);
void qr_draft_commit(quire_engine *engine, const qr_sched_step *step);
/* The step's job of one beam; with the last beam's the search advances. beam_step.c */
void qr_engine_take_beam(quire_engine *engine, int job_idx);
/* A request has no unfinished sequence left: out of the scheduler, statistics, last reference. engine.c */
void qr_engine_retire(quire_engine *engine, quire_request *request, quire_finish_reason reason);

#endif
