/* result: the outcome of a simulation as JSON. Threads: any. */
#ifndef QR_SIM_RESULT_H
#define QR_SIM_RESULT_H

#include <jansson.h>

#include "sim/sim.h"

/* An object with everything but the timeline: counts, seconds, means and percentiles, shares; NULL: no memory. The
 * caller owns it. */
json_t *qr_sim_result_json(const qr_sim_result *result);
/* {"bin_seconds", "live": [...], "used", "running", "waiting"}; NULL: no memory. */
json_t *qr_sim_timeline_json(const qr_sim_timeline *timeline);

#endif
