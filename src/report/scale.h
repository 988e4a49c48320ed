/* scale: values of an axis to pixels, and the ticks that a reader wants.
 *
 *   value  min ──────┬──────┬────── max        linear: ticks at 1, 2 or 5 times a power of ten
 *   pixel  from      tick   tick     to        log: powers of ten, with 2 and 5 where there is room,
 *                                               or powers of two
 *
 * Invariants: min < max, both finite, positive on a log scale; ticks ascend within [min, max].
 * Threads: any. */
#ifndef QR_REPORT_SCALE_H
#define QR_REPORT_SCALE_H

#include <stdbool.h>
#include <stddef.h>

enum { QR_SCALE_MAX_TICKS = 24, QR_SCALE_LABEL_BYTES = 40 };

typedef struct qr_scale {
    bool log, binary;
    double min, max;
    double from, to; /* pixels of min and max; the caller's */
    double ticks[QR_SCALE_MAX_TICKS];
    int num_ticks;
} qr_scale;

/* Choose range and ticks for data in [min, max] (min > max: no data; any finite or infinite values).
 *   binary  of a log scale: ticks at powers of two
 *   widen   round the range up and down to whole ticks; else it is the data's
 *   max_ticks   at most so many, 2 to QR_SCALE_MAX_TICKS */
void qr_scale_fit(qr_scale *scale, double min, double max, bool log, bool binary, bool widen, int max_ticks);
/* The pixel of a value; beyond the range it goes on, up to 1e4 pixels. NaN for what the scale cannot show. */
double qr_scale_pixel(const qr_scale *scale, double value);
/* "12,000", "0.25", "5e-07": the decimals that tell ticks `step` apart (0: as many as the value needs). */
void qr_scale_format(double value, double step, char out[QR_SCALE_LABEL_BYTES]);
/* The label of ticks[idx]. */
void qr_scale_tick_label(const qr_scale *scale, int idx, char out[QR_SCALE_LABEL_BYTES]);

#endif
