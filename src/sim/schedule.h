/* schedule: a real engine's schedule, read from its log (engine/schedule_log.h), run again and learnt from.
 *
 *   log ─► requests with all their tokens (a trace) ─► qr_sim_run with the recorded times ─► the same steps?
 *      └─► steps with their times ─► least squares ─► step_us, seq_us, token_us, pair_us
 *
 * Requests arrive in the replay when the step that follows them is scheduled, as they did.
 * Limits: no beam search, no speculation, nothing aborted, not by priority.
 * Threads: one at a time. */
#ifndef QR_SIM_SCHEDULE_H
#define QR_SIM_SCHEDULE_H

#include "sim/sim.h"

typedef struct qr_sim_logged_entry {
    int64_t request; /* index of the trace's row */
    int32_t seq, start, num_new_tokens;
} qr_sim_logged_entry;

typedef struct qr_sim_logged_step {
    double start, end;   /* seconds from the first step's start */
    int64_t first_entry; /* into entries */
    int num_entries;
    int64_t num_copied_blocks, num_swapped_blocks;
} qr_sim_logged_step;

typedef struct qr_sim_schedule {
    char model[QR_SIM_NAME_BYTES];
    qr_sched_options options;
    qr_sim_trace trace;     /* a row for each request, with its script */
    qr_sim_script *scripts; /* [trace.num_rows], each with tokens of its own */
    qr_sim_logged_step *steps;
    qr_sim_logged_entry *entries;
    size_t num_steps, max_steps, num_entries, max_entries, max_scripts;
} qr_sim_schedule;

/* `name` is for messages. OK | FORMAT (with the line) | UNSUPPORTED (a limit above) | NOMEM; *out is empty on failure.
 */
QUIRE_MUST_USE quire_status qr_sim_schedule_parse(const char *name, const char *text, size_t bytes,
                                                  qr_sim_schedule *out, quire_error *error);
void qr_sim_schedule_deinit(qr_sim_schedule *schedule); /* an empty one is fine */

typedef struct qr_sim_replay {
    int64_t num_steps, num_same_steps; /* compared until the first one that differs */
    char difference[256];              /* the first one; "" */
    double real_seconds;               /* of all steps, idle time between them included */
} qr_sim_replay;

/* Run the schedule again with its recorded times and compare every step: which sequences, from where, how many tokens.
 *   returns   OK, also when they differ | what qr_sim_run returns */
QUIRE_MUST_USE quire_status qr_sim_schedule_replay(const qr_sim_schedule *schedule, qr_sim_replay *out,
                                                   quire_error *error);
/* Run its requests, arriving as they did, with a cost model's times in place of the recorded ones. */
QUIRE_MUST_USE quire_status qr_sim_schedule_simulate(const qr_sim_schedule *schedule, const qr_sim_cost *cost,
                                                     qr_sim_result *out, quire_error *error);

/* Constants of `device` that explain the recorded times best, none below 0: step_us, seq_us, token_us, pair_us. */
typedef struct qr_sim_fit {
    double step_us, seq_us, token_us, pair_us;
    double mean_error;  /* mean of |fitted - recorded| / mean recorded */
    double total_error; /* (sum fitted - sum recorded) / sum recorded */
} qr_sim_fit;
/* OK | INVALID: fewer than 8 steps */
QUIRE_MUST_USE quire_status qr_sim_schedule_fit(const qr_sim_schedule *schedule, qr_sim_fit *out, quire_error *error);

#endif
