/* workload: the requests of a simulation, one after the other, made when they are due.
 *
 *   trace rows ─► in order with their own times, or drawn at random ─► arrivals: the trace's, Poisson, or all at once
 *                                                                   └► prompts: token ids that are equal exactly where
 *                                                                      the trace (hash ids) or a shared prefix says so
 *
 * Lengths and arrival times come from two streams of random numbers, so that a rate sweep sends the same requests, only
 * closer together. The same options give the same requests.
 * Threads: one at a time. */
#ifndef QR_SIM_WORKLOAD_H
#define QR_SIM_WORKLOAD_H

#include "base/random.h"
#include "sim/trace.h"

typedef struct qr_sim_workload_options {
    const qr_sim_trace *trace; /* outlives the workload; has rows */
    /* requests a second, Poisson; INFINITY: all at once; 0: the trace's own arrivals in its order, which it must have,
     * sped up by `speed` */
    double request_rate, speed;
    int64_t num_requests; /* 0: until `duration` seconds; with trace arrivals also at most its rows */
    double duration;
    int num_seqs;          /* samples (or beams) of each request */
    bool beam_search;      /* num_seqs beams */
    int32_t shared_prefix; /* tokens that all prompts begin with, in front of their own */
    int32_t max_model_len; /* longer requests are cut: the prompt's beginning first, then the output; 0: none */
    uint64_t seed;
} qr_sim_workload_options;

typedef struct qr_sim_workload {
    qr_sim_workload_options options;
    qr_random arrivals, lengths;
    double now;
    int64_t serial;
} qr_sim_workload;

typedef struct qr_sim_arrival {
    int64_t serial; /* 0, 1, 2, ... */
    double time;    /* seconds */
    int32_t prompt_tokens, output_tokens;
    const qr_sim_row *row;
} qr_sim_arrival;

void qr_sim_workload_init(qr_sim_workload *workload, const qr_sim_workload_options *options);
/* The next request; false: there is none. */
bool qr_sim_workload_next(qr_sim_workload *workload, qr_sim_arrival *out);
/* The token ids of its prompt, [prompt_tokens]. */
void qr_sim_workload_prompt(const qr_sim_workload *workload, const qr_sim_arrival *arrival, int32_t *out);
/* Requests that are to come in all; an estimate when only the duration is known. */
double qr_sim_workload_size(const qr_sim_workload *workload);

#endif
