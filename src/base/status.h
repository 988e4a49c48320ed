/* status: filling a caller's quire_error, and checking a status on the way up.
 *
 *   return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s': offset %llu is past the file's end", path, name, off);
 *   QR_TRY(qr_gguf_open(path, &file, error));       returns the status unless it is QUIRE_OK
 *
 * Threads: any. */
#ifndef QR_BASE_STATUS_H
#define QR_BASE_STATUS_H

#include "quire.h"

#define QR_PRINTF(fmt_idx, arg_idx) __attribute__((format(printf, fmt_idx, arg_idx)))

/* Write the message (error may be NULL) and return status. Overlong messages end in "...". */
quire_status qr_fail(quire_error *error, quire_status status, const char *fmt, ...) QR_PRINTF(3, 4);
/* The same for a bad option or request field: also sets error->param. */
quire_status qr_fail_param(quire_error *error, const char *param, const char *fmt, ...) QR_PRINTF(3, 4);
/* QUIRE_NOMEM with a message that says what the memory was for. */
quire_status qr_fail_nomem(quire_error *error, const char *what, size_t bytes);

#define QR_TRY(call)                                           \
    do {                                                       \
        quire_status qr_try_status_ = (call);                  \
        if (qr_try_status_ != QUIRE_OK) return qr_try_status_; \
    } while (0)

#endif
