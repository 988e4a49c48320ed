/* emit: JSON text written by hand into a growing buffer, without a tree.
 *
 *   qr_emit e = {0};
 *   qr_emit_raw(&e, "{\"text\":"); qr_emit_string(&e, text, bytes); qr_emit_raw(&e, "}");
 *   if (e.failed) ...            one check at the end: a failed allocation sticks
 *
 * What it writes is always valid UTF-8: invalid bytes become U+FFFD.
 * Threads: one at a time per buffer. */
#ifndef QR_SERVER_EMIT_H
#define QR_SERVER_EMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/utf8.h"

typedef struct qr_emit {
    qr_buf buf;
    bool failed; /* an allocation failed; the text is incomplete */
} qr_emit;

void qr_emit_deinit(qr_emit *e);
void qr_emit_clear(qr_emit *e); /* forget the text, keep the memory */
void qr_emit_raw(qr_emit *e, const char *text);
void qr_emit_bytes(qr_emit *e, const void *data, size_t bytes);
/* Append the text that `from` holds. */
void qr_emit_join(qr_emit *e, const qr_emit *from);
/* The inside of a JSON string: escaped, no quotes. */
void qr_emit_escaped(qr_emit *e, const char *text, size_t bytes);
/* A JSON string with its quotes; NULL text gives null. */
void qr_emit_string(qr_emit *e, const char *text, size_t bytes);
void qr_emit_int(qr_emit *e, int64_t value);
/* A log probability with the digits that a float32 needs; NaN gives null, values below -9999 give -9999.0. */
void qr_emit_logprob(qr_emit *e, float value);
void qr_emit_printf(qr_emit *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Give the text to the caller (freed with qr_free) and forget it; NULL when anything failed. */
char *qr_emit_take(qr_emit *e, size_t *out_bytes);

#endif
