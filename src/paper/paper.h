/* paper: the evaluation of the PagedAttention paper, in virtual time, as a report.
 *
 *   qr_paper_run ─► figure by figure: cases (system x model x trace x rate) ─► qr_sim_run, several at once
 *                                         └► report: charts, and rows beside the paper's values
 *
 *   paper.h     what can be run          cases.c   one case, many cases, and the highest rate a system sustains
 *   basic.c     figures 2, 12, 13        sharing.c figures 14 to 17
 *   blocks.c    figures 18, 19           today.c   traces and machines of today
 *
 * Every case runs with the same devices, models and calibration (sim/hardware.h); nothing is set for one figure but
 * what the paper sets for it. Cases are independent, so the result does not depend on the number of threads.
 * Threads: one call at a time; it uses threads of its own.
 * Source of all values called "paper": Kwon et al., SOSP 2023. */
#ifndef QR_PAPER_PAPER_H
#define QR_PAPER_PAPER_H

#include "report/report.h"
#include "sim/sim.h"

enum { QR_PAPER_MAX_TRACES = 8 };
typedef struct qr_paper_trace {
    const char *name; /* "Azure 2023, conversation" */
    const qr_sim_trace *trace;
} qr_paper_trace;

typedef struct qr_paper_options {
    double hours;    /* of virtual time that the long traces last; the paper: 1 */
    int num_threads; /* 0: one for each core */
    uint64_t seed;
    const char *calibration; /* JSON, constants in place of the devices' (sim/hardware.h); NULL: none */
    /* Traces of today, with arrival times; they outlive the call. */
    const qr_paper_trace *traces; /* [num_traces] */
    int num_traces;
    /* Called by the calling thread now and then: which figure, how much of all; false ends with ABORTED. */
    bool (*on_progress)(void *user, const char *figure, double fraction);
    void *user;
} qr_paper_options;

/* Add all figures to `report`, with its introduction and facts.
 *   returns   OK | NOMEM | ABORTED | FORMAT: the calibration | what a simulation returned; the report is then
 * incomplete */
QUIRE_MUST_USE quire_status qr_paper_run(const qr_paper_options *options, qr_report *report, quire_error *error);

#endif
