/* schedule_log: what the scheduler was given and what it chose, as JSON Lines: enough to run it again without the model
 * (quire simulate --replay) and to learn what steps cost (quire bench throughput --calibration).
 *
 *   {"schedule": 1, "model": "...", "num_blocks": 100, ...}           the options in force; first
 *   {"request": 1, "time_us": 5, "n": 1, "prompt": [1, 2], ...}       added to the scheduler; numbered by arrival
 *   {"step": 1, "start_us": 9, "entries": [[1, 0, 0, 2]], ...}        chosen: [request, sequence, position, tokens]
 *   {"computed": 1, "end_us": 700, "cpu_us": 650}                     its tokens are sampled and delivered
 *   {"finished": 1, "outputs": [[7, 8]]}                              all of a request's sequences; before "computed"
 *   {"aborted": 1}
 *
 * Times are microseconds since the log was opened; cpu_us is what the engine's own thread computed in the step. Written
 * through a fixed buffer; after a failed write nothing more is written and close says so. Threads: the engine thread
 * between open and close. */
#ifndef QR_ENGINE_SCHEDULE_LOG_H
#define QR_ENGINE_SCHEDULE_LOG_H

#include "sched/scheduler.h"

typedef struct qr_schedule_log qr_schedule_log;

/* OK | IO | NOMEM */
QUIRE_MUST_USE quire_status qr_schedule_log_open(const char *path, const char *model, const qr_sched_options *options,
                                                 int num_speculative_tokens, qr_schedule_log **out, quire_error *error);
/* NULL is fine, here and below: nothing is logged. */
void qr_schedule_log_close(qr_schedule_log *log);

void qr_schedule_log_request(qr_schedule_log *log, const qr_request *request);
void qr_schedule_log_step(qr_schedule_log *log, const qr_sched_step *step, int64_t start_us); /* of qr_clock_us */
void qr_schedule_log_computed(qr_schedule_log *log);
/* Before it is removed from the scheduler. */
void qr_schedule_log_finished(qr_schedule_log *log, const qr_request *request);

#endif
