/* simulate_plots: what `quire simulate --plots` draws.
 *
 *   run after run ─► add ─► kv-<policy>-<rate>.svg        KV memory and requests over time, at once
 *                     └► kept ─► finish ─► latency.svg    normalized latency against request rate, a line each policy
 *                                          batched.svg    requests that run, the same way
 *                                          memory.svg     what KV slots hold, a bar each run
 *
 * Threads: one at a time. */
#ifndef QR_CLI_SIMULATE_PLOTS_H
#define QR_CLI_SIMULATE_PLOTS_H

#include "base/status.h"
#include "sim/sim.h"

enum { QR_CLI_MAX_SIM_RATES = 64 };

typedef struct qr_cli_sim_plots qr_cli_sim_plots;

/* For charts in the folder `dir`, which is made when missing; `title` names machine and workload. OK | NOMEM | IO */
QUIRE_MUST_USE quire_status qr_cli_sim_plots_create(const char *dir, const char *title, qr_cli_sim_plots **out,
                                                    quire_error *error);
void qr_cli_sim_plots_destroy(qr_cli_sim_plots *plots); /* NULL is fine */

/* A run: rate 0 is the trace's own, INFINITY all at once. Runs of a policy come one after the other, at most
 * QR_CLI_MAX_SIM_RATES. OK | NOMEM | IO */
QUIRE_MUST_USE quire_status qr_cli_sim_plots_add(qr_cli_sim_plots *plots, qr_kv_allocator allocator, double rate,
                                                 const qr_sim_result *result, quire_error *error);
QUIRE_MUST_USE quire_status qr_cli_sim_plots_finish(qr_cli_sim_plots *plots, quire_error *error);

#endif
