/* flame: where time went, as SVG text: a row for each level, a box as wide as its share, what it consists of below it.
 *
 *   │                     step  5.2 ms                      │
 *   │ bookkeeping │              model             │ output │      hovering shows name, value and share
 *                 │ attention │     MLP     │ logits │
 *
 * As self-contained, well-formed and repeatable as a chart (chart.h). Labels that do not fit are shortened or left out.
 * Threads: any. Source: Gregg, "The Flame Graph", 2016, upside down (an icicle). */
#ifndef QR_REPORT_FLAME_H
#define QR_REPORT_FLAME_H

#include "report/xml.h"

enum { QR_FLAME_MAX_DEPTH = 8 };

typedef struct qr_flame_frame {
    const char *name;
    double value; /* of a frame with children: ignored, it is their sum. Not finite or negative: 0 */
    int depth;    /* 0 for the first frame; a frame's children follow it, one deeper */
} qr_flame_frame;

typedef struct qr_flame {
    const char *title;
    const char *unit;             /* "us" */
    const qr_flame_frame *frames; /* [num_frames] */
    int num_frames;
    int width; /* pixels; 0: 960 */
} qr_flame;

/* Append the <svg> element. A failed allocation sticks to `out`. */
void qr_flame_write(const qr_flame *flame, qr_xml *out);
/* The same as a file. OK | NOMEM | IO */
QUIRE_MUST_USE quire_status qr_flame_save(const qr_flame *flame, const char *path, quire_error *error);

#endif
