/* report: figures beside the values they are compared with: one HTML page, its charts as SVG files, its numbers as
 * JSON.
 *
 *   qr_report_create ─► add_figure ─► text, row, chart ... ─► add_figure ─► ... ─► qr_report_save(dir)
 *
 *     ┌ title, introduction, what was used (facts) ────────────────┐      dir/index.html     the page, charts inside
 *     │ in brief: the rows marked as headlines                     │      dir/<chart>.svg    each chart
 *     │ Figure 2: title                                            │      dir/figures.json   the rows of all figures
 *     │   text     what was done                                   │
 *     │   charts   side by side where the page is wide             │
 *     │   table    label, paper, measured, ratio, note             │
 *     └────────────────────────────────────────────────────────────┘
 *
 * Everything is rendered when it is added, so the caller's data may go at once. A failed allocation sticks and is
 * returned by qr_report_save(). The page needs no script and loads nothing; it follows the reader's light or dark
 * scheme, a phone's width, and prints. The same calls give the same bytes.
 * Threads: one at a time per report. */
#ifndef QR_REPORT_REPORT_H
#define QR_REPORT_REPORT_H

#include "report/chart.h"

typedef struct qr_report qr_report;
typedef struct qr_report_figure qr_report_figure; /* belongs to its report */

/* One line of a figure's table. Text is copied. */
typedef struct qr_report_row {
    const char *label;      /* "Orca (Max), ShareGPT" */
    const char *unit;       /* "%", "x", "requests"; stands behind each number; NULL: none */
    double paper, measured; /* NAN: not given, shown as a dash */
    double paper_high;      /* the paper gives a range, from `paper` to this; 0: it does not */
    int decimals;           /* of the numbers */
    bool lead;              /* also in the page's table "in brief" */
    const char *note;       /* why they differ, or what is special; NULL: none */
} qr_report_row;

QUIRE_MUST_USE quire_status qr_report_create(const char *title, qr_report **out, quire_error *error);
void qr_report_destroy(qr_report *report); /* NULL is fine */

/* A paragraph of the introduction, in which `this` is code; and one line "name: value" of what was used: machine,
 * calibration, traces. */
void qr_report_intro(qr_report *report, const char *text);
void qr_report_fact(qr_report *report, const char *name, const char *value);

/* A new figure. `id` names it in links and files (letters, digits, '-'); `title`: "Figure 2: use of memory".
 * NULL without memory; the functions below take that NULL and do nothing. */
qr_report_figure *qr_report_add_figure(qr_report *report, const char *id, const char *title);
void qr_report_text(qr_report_figure *figure, const char *fmt, ...) QR_PRINTF(2, 3); /* the same, at most 4,095 bytes */
void qr_report_row_add(qr_report_figure *figure, const qr_report_row *row);
/* Draw a chart into the figure; chart->id is also its file's name and must be unique in the report. */
void qr_report_chart(qr_report_figure *figure, const qr_chart *chart);

/* Write the files into `dir`, which is made when missing; files there of the same names are replaced.
 * OK | NOMEM (also when any call before failed) | INVALID: an overlong name | IO: some files may have been written. */
QUIRE_MUST_USE quire_status qr_report_save(const qr_report *report, const char *dir, quire_error *error);

#endif
