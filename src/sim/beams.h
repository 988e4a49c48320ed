/* beams: how real beam searches branch, replayed for simulated ones.
 *
 *   {"2": [[0, 1], [0, 0], ...], "4": [...], "6": [...]}
 *
 * By beam width, one row for each step of recorded searches: which of the last step's beams (best first) each new beam
 * (best first) continues. A simulated search starts at a random row and follows the rows from there, so that runs of
 * steps stay as they were. Rows are stored as bytes, width each.
 * Threads: any, once made. */
#ifndef QR_SIM_BEAMS_H
#define QR_SIM_BEAMS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { QR_SIM_MAX_WIDTH = 16 };

typedef struct qr_sim_beams {
    uint8_t *parents[QR_SIM_MAX_WIDTH + 1]; /* by width: [num_rows[width], width]; NULL: none */
    size_t num_rows[QR_SIM_MAX_WIDTH + 1];
} qr_sim_beams;

/* `name` is for messages. OK | FORMAT | NOMEM; *out is empty on failure. */
QUIRE_MUST_USE quire_status qr_sim_beams_parse(const char *name, const char *json, size_t bytes, qr_sim_beams *out,
                                               quire_error *error);
void qr_sim_beams_deinit(qr_sim_beams *beams); /* an empty one is fine */

#endif
