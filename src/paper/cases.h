/* cases: simulations of the paper's systems, run side by side.
 *
 *   case = system + model (on the paper's devices) + trace + rate + what each request asks for
 *   sweep: raise the rate until the mean normalized latency passes a limit, then close in on it
 *
 *     latency │              ╭ bad          rates tried: r, 1.5 r, 2.25 r, ... until bad,
 *       limit ┼┈┈┈┈┈┈┈┈┈┈┈┈┈┈│              then halfway between the last good and the first bad, a few times
 *             │ ●──●──●──●─●╯               sustained rate: where the line between those two crosses the limit
 *             └────────────── rate
 *
 * Threads: one call at a time for each qr_paper. */
#ifndef QR_PAPER_CASES_H
#define QR_PAPER_CASES_H

#include <stdatomic.h>

#include "base/pool.h"
#include "paper/paper.h"

/* In the order of figures: the best last but today's, which is no system of the paper. */
typedef enum qr_paper_system {
    QR_PAPER_FT,
    QR_PAPER_ORCA_MAX,
    QR_PAPER_ORCA_POW2,
    QR_PAPER_ORCA_ORACLE,
    QR_PAPER_VLLM,  /* as in the paper */
    QR_PAPER_TODAY, /* quire's default */
    QR_PAPER_NUM_SYSTEMS
} qr_paper_system;

const char *qr_paper_system_name(qr_paper_system system);
int qr_paper_system_style(qr_paper_system system); /* of its series in charts */

typedef struct qr_paper_case {
    qr_paper_system system;
    const char *model;         /* row of qr_sim_models, on its first setup's devices */
    const qr_sim_trace *trace; /* outlives the run */
    double request_rate;       /* requests a second, Poisson; 0: the trace's own arrivals, sped up by `speed` */
    double speed;              /* 0: 1 */
    double seconds;            /* that requests arrive */
    int num_seqs;              /* samples or beams; 0: 1 */
    bool beam_search;
    int32_t shared_prefix; /* tokens */
    bool prefix_caching;   /* also where the system would not; today's always does */
    int block_size;        /* 0: 16 */
    bool swap;             /* preempt by swapping, into memory without end */
    int32_t max_model_len; /* 0: the model's */
} qr_paper_case;

enum { QR_PAPER_MAX_DEVICES = 16 };
typedef struct qr_paper {
    const qr_paper_options *options;
    qr_report *report;
    quire_error *error;
    qr_pool *pool;
    qr_sim_device devices[QR_PAPER_MAX_DEVICES];
    int num_devices;
    qr_sim_beams beams;
    qr_sim_trace sharegpt, alpaca, translation, chats; /* as the paper filters them */
    const char *figure;                                /* for progress */
    double fraction, figure_part; /* of all work that is done before this figure, and that it takes */
    atomic_bool stop;             /* interrupted, or a case failed */
} qr_paper;

/* Fill paper->devices: the table's, with the options' calibration. OK | FORMAT | NOMEM */
QUIRE_MUST_USE quire_status qr_paper_calibrate(qr_paper *paper);
const qr_sim_device *qr_paper_device(const qr_paper *paper, const char *name);

/* Run all; results [num_cases]. */
QUIRE_MUST_USE quire_status qr_paper_run_cases(qr_paper *paper, const qr_paper_case *cases, int num_cases,
                                               qr_sim_result *results);

enum { QR_PAPER_MAX_POINTS = 32 };
typedef struct qr_paper_curve {
    int num_points;
    double rates[QR_PAPER_MAX_POINTS];     /* ascending; requests a second, or speed-ups of the trace */
    double latencies[QR_PAPER_MAX_POINTS]; /* mean normalized latency, seconds a token */
    double sustained;                      /* rate; 0: not even the lowest one */
} qr_paper_curve;

/* Sweep the rate (or, of cases with rate 0, the speed) of each case; curves [num_cases]. The case's own rate or speed
 * is where the sweep begins. */
extern const double qr_paper_latency_limit; /* seconds a token */
QUIRE_MUST_USE quire_status qr_paper_sweep(qr_paper *paper, const qr_paper_case *cases, int num_cases,
                                           qr_paper_curve *curves);

/* A chart of curves, one series for each of `cases`. */
void qr_paper_curves_chart(qr_report_figure *figure, const char *id, const char *title, const char *x_title,
                           const qr_paper_case *cases, const qr_paper_curve *curves, int num_cases);

/* ---- the figures: each adds itself to the report ---------------------------------------------- */

quire_status qr_paper_figure_memory(qr_paper *paper);     /* 2 */
quire_status qr_paper_figure_basic(qr_paper *paper);      /* 12 */
quire_status qr_paper_figure_batched(qr_paper *paper);    /* 13 */
quire_status qr_paper_figure_sampling(qr_paper *paper);   /* 14 */
quire_status qr_paper_figure_saved(qr_paper *paper);      /* 15 */
quire_status qr_paper_figure_prefix(qr_paper *paper);     /* 16 */
quire_status qr_paper_figure_chat(qr_paper *paper);       /* 17 */
quire_status qr_paper_figure_block_size(qr_paper *paper); /* 18 */
quire_status qr_paper_figure_preemption(qr_paper *paper); /* 19 */
quire_status qr_paper_figure_today(qr_paper *paper);

#endif
