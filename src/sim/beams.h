/* beams: how real beam searches branch, replayed for simulated ones.
 *
 *   width,parents
 *   4,0110 0003 1302 ...
 *
 * A line for each recorded search and a word for each of its steps: which of the last step's beams (0 is the best) each
 * new beam (best first) continues. A simulated search starts at a random step and follows the record from there, from
 * one search to the next, so that runs of steps stay as they were.
 * Threads: any, once made. */
#ifndef QR_SIM_BEAMS_H
#define QR_SIM_BEAMS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { QR_SIM_MAX_WIDTH = 10 };

typedef struct qr_sim_beams {
    uint8_t *parents[QR_SIM_MAX_WIDTH + 1]; /* by width: [num_rows[width], width]; NULL: none */
    size_t num_rows[QR_SIM_MAX_WIDTH + 1], max_rows[QR_SIM_MAX_WIDTH + 1];
} qr_sim_beams;

/* `name` is for messages. OK | FORMAT | NOMEM; *out is empty on failure. */
QUIRE_MUST_USE quire_status qr_sim_beams_parse(const char *name, const char *text, size_t bytes, qr_sim_beams *out,
                                               quire_error *error);
/* The record inside the program: widths 2, 4 and 6 (data/README.md). */
QUIRE_MUST_USE quire_status qr_sim_beams_recorded(qr_sim_beams *out, quire_error *error);
void qr_sim_beams_deinit(qr_sim_beams *beams); /* an empty one is fine */

#endif
