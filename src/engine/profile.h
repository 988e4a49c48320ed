/* profile: how long each part of a step takes, for an engine with on_step.
 *
 *   between steps │ schedule │ batch │ copies │ embedding │ norms │ QKV │ ... │ logits │ sampling │ update │ output
 *                lap        lap     lap      lap         lap    lap   lap   lap      lap        lap      lap      lap
 *
 * One clock, read where one part ends and the next begins, so the parts of a step add up to all of its time. The
 * model's parts are the backend's ops: between enter and leave the backend has a table of ops that read the clock after
 * the real one. Without on_step there is no profile, and every function does nothing.
 * Threads: engine thread only; enter and leave with the model's lock, so that nobody else's ops are timed. */
#ifndef QR_ENGINE_PROFILE_H
#define QR_ENGINE_PROFILE_H

#include "backend/backend.h"
#include "quire.h"

typedef struct qr_profile qr_profile;

/* *out NULL when the options have no on_step. */
QUIRE_MUST_USE quire_status qr_profile_create(const quire_engine_options *options, qr_profile **out,
                                              quire_error *error);
void qr_profile_destroy(qr_profile *profile); /* NULL is fine, here and below */

/* The time since the last lap was spent on `part`. */
void qr_profile_lap(qr_profile *profile, quire_step_part part);
/* Time the backend's ops, from the start of the model's part of a step to its end. */
void qr_profile_enter(qr_profile *profile, qr_backend *be);
void qr_profile_leave(qr_profile *profile, qr_backend *be);
/* The step is done: tell on_step. The next begins when it returns. */
void qr_profile_end_step(qr_profile *profile, const qr_batch *batch);

#endif
