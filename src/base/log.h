/* log: one line per event on stderr, "HH:MM:SS.mmm LEVEL text"; colours only on a terminal (and not with NO_COLOR).
 * Threads: any; lines are never torn. */
#ifndef QR_BASE_LOG_H
#define QR_BASE_LOG_H

#include <stdbool.h>

typedef enum qr_log_level { QR_LOG_DEBUG, QR_LOG_INFO, QR_LOG_WARN, QR_LOG_ERROR, QR_LOG_OFF } qr_log_level;

void qr_log_set_level(qr_log_level level); /* default WARN, so that a library user sees only trouble */
bool qr_log_enabled(qr_log_level level);   /* for lines that are work to write */
void qr_log(qr_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
