/* observe: what a simulation keeps of its steps, in bounded memory. */
#ifndef QR_SIM_OBSERVE_H
#define QR_SIM_OBSERVE_H

#include "sim/sim.h"

/* `count` equal values at once. */
void qr_sim_histogram_observe_many(qr_sim_histogram *histogram, double value, uint64_t count);

/* What holds from one scheduling to the next. */
typedef struct qr_sim_sample {
    double begin, end;       /* seconds */
    double live, used;       /* shares of all slots */
    double running, waiting; /* requests */
} qr_sim_sample;

void qr_sim_timeline_observe(qr_sim_timeline *timeline, const qr_sim_sample *sample);
/* Sums become means. */
void qr_sim_timeline_finish(qr_sim_timeline *timeline);

#endif
