/* sim: the scheduler in virtual time: a server without a model.
 *
 *   workload ─► arrivals that are due ─► qr_sched_add
 *      ┌─────────────────────────────────────┘
 *      ▼
 *   qr_sched_schedule ─► cost of the step: the clock moves ─► qr_sched_commit_step ─► a token for each sample
 *      ▲                                                                               │ beams fork and drop as
 * recorded └───────────────────────────────────────────────────────────────────────────────┘ finished: observed,
 * removed
 *
 * What runs is what serves: sched/ and kv/, called in the engine's order. Only the model's work is replaced by a time
 * (cost.h), and tokens by numbers. The same options give the same result on every machine.
 *
 * Memory: requests exist from their arrival to their end, and of those that wait at most QR_SIM_MAX_WAITING: later ones
 * stay in the workload until there is room. That changes nothing when they are served first come first served; with
 * QR_SCHED_FAIR nobody among those can overtake. Threads: one at a time. */
#ifndef QR_SIM_SIM_H
#define QR_SIM_SIM_H

#include "sched/scheduler.h"
#include "sim/beams.h"
#include "sim/cost.h"
#include "sim/workload.h"

/* A distribution in bounded memory: logarithmic bins 1 % wide. */
enum { QR_SIM_NUM_BINS = 2800 };
typedef struct qr_sim_histogram {
    uint64_t counts[QR_SIM_NUM_BINS];
    uint64_t count;
    double sum, max;
} qr_sim_histogram;

void qr_sim_histogram_observe(qr_sim_histogram *histogram, double value);
double qr_sim_histogram_mean(const qr_sim_histogram *histogram);                       /* exact; 0 of nothing */
double qr_sim_histogram_percentile(const qr_sim_histogram *histogram, double percent); /* within 1 % */

/* Shares of all KV slots (scheduler.h, qr_slot_counts), mean over time. They add up to 1. */
typedef struct qr_sim_memory {
    double live, reserved, internal, external, free;
} qr_sim_memory;

/* How KV memory and the batch develop: bins of equal length, of means. */
enum { QR_SIM_MAX_POINTS = 512, QR_SIM_MAX_WAITING = 16384 };
typedef struct qr_sim_timeline {
    double bin_seconds;
    int num_points;
    double live[QR_SIM_MAX_POINTS], used[QR_SIM_MAX_POINTS];       /* of all slots */
    double running[QR_SIM_MAX_POINTS], waiting[QR_SIM_MAX_POINTS]; /* requests; waiting up to QR_SIM_MAX_WAITING */
    double weight[QR_SIM_MAX_POINTS];                              /* seconds that the bin's sums cover */
} qr_sim_timeline;

typedef struct qr_sim_result {
    int64_t num_requests;
    int64_t prompt_tokens, output_tokens; /* of requests; outputs of all their sequences */
    int64_t computed_tokens, num_steps, num_preemptions, num_swapped_groups;
    double seconds; /* from the first arrival to the last token */
    /* Of requests, in seconds. Normalized: latency / output tokens of one sequence (the paper's figure 12). */
    qr_sim_histogram normalized_latency, latency, time_to_first_token, queue_time;
    qr_sim_histogram inter_token_latency; /* of the first sequence */
    /* Means over the time from the first to the last arrival: requests and sequences in a step. */
    double mean_batched_requests, mean_batched_seqs;
    qr_sim_memory memory; /* over the same time */
    double live_share;    /* of slots of blocks in use, the same */
    double saved_share;   /* of the blocks in tables, shared with others: mean over steps */
    double prefix_hit_rate;
    qr_sim_step_time time; /* seconds that the terms of the cost model took in all */
    qr_sim_timeline timeline;
} qr_sim_result;

typedef struct qr_sim_options {
    qr_sched_options sched;
    qr_sim_cost cost;
    const qr_sim_beams *beams; /* for beam searches; has rows for the workload's width */
    /* Called now and then; false ends the simulation with ABORTED. NULL: never. */
    bool (*on_progress)(void *user, double fraction, double seconds, int64_t num_finished);
    /* In place of the cost model: replayed times. Called with each step before it is committed; *now, seconds, is the
     * time of scheduling and becomes that of the next scheduling. OK | a status that ends the simulation. */
    quire_status (*on_step)(void *user, const qr_sched_step *step, double *now, quire_error *error);
    void *user;
} qr_sim_options;

/* Run the workload to its end.
 *   returns   OK | INVALID (scheduler options; a request that can never fit, with its numbers) | NOMEM | ABORTED |
 *             what on_step returned; *out is unspecified on failure */
QUIRE_MUST_USE quire_status qr_sim_run(const qr_sim_options *options, const qr_sim_workload_options *workload,
                                       qr_sim_result *out, quire_error *error);

#endif
