/* simulate: what the commands that simulate share. Threads: the main thread only. */
#ifndef QR_CLI_SIMULATE_H
#define QR_CLI_SIMULATE_H

#include "cli/cli.h"
#include "sim/sim.h"

/* One of sim/'s parsers: text to *out. */
typedef quire_status qr_cli_parse_fn(const char *name, const char *text, size_t bytes, void *out, quire_error *error);
QUIRE_MUST_USE quire_status qr_cli_parse_file(const char *path, qr_cli_parse_fn *parse, void *out, quire_error *error);

/* Run a schedule log again: the same steps?, and how long with this cost model? With fit_path also learn from it, as
 * below. An exit status. */
int qr_cli_replay(const char *path, const char *fit_path, const qr_sim_cost *cost, bool json);
/* Learn what steps cost from a schedule log and write it as a calibration. An exit status. */
int qr_cli_write_calibration(const char *log_path, const char *path);

#endif
