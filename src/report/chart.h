/* chart: a figure as SVG text: lines or bars, axes with units, legend, threshold lines, notes.
 *
 *     title ──►  Normalized latency, OPT-13B
 *     legend ─►  ─●─ vLLM   ╌■╌ Orca (Oracle)         colour, dash and marker, or colour and hatching: also clear in
 * grey │ ┈┈┈┈┈┈┈┈┈┈┈┈┈┈ limit ┈┈┈┈┈┈┈┈   ◄── threshold y.title    │        ■      ●◄──────────────────── point:
 * hovering shows its values │ ▁▁▁■▁▁▁▁▁▁●▁                         nice ticks (1, 2 or 5 times a power of ten),
 * gridlines └──┴──┴──┴──┴── x.title
 *
 * The text is self-contained (no script, no font, nothing loaded), follows the reader's light or dark scheme by itself,
 * prints in the light one, and may stand in a file or inside an HTML page: `id` keeps the names of several charts in
 * one page apart. Everything that is drawn stays inside the picture: values outside an axis are cut off, labels that
 * do not fit are shortened, and values that are not finite (or not positive on a logarithmic axis) are gaps.
 * The same chart gives the same bytes.
 * Threads: any. Source of the tick rule: Heckbert, "Nice numbers for graph labels", Graphics Gems, 1990. */
#ifndef QR_REPORT_CHART_H
#define QR_REPORT_CHART_H

#include "report/xml.h"

enum { QR_CHART_MAX_SERIES = 12, QR_CHART_NUM_STYLES = 8, QR_CHART_MAX_THRESHOLDS = 4, QR_CHART_MAX_NOTES = 8 };

typedef enum qr_chart_kind {
    QR_CHART_LINES,        /* series of (x, y) */
    QR_CHART_GROUPED_BARS, /* one bar for each series, side by side in each category */
    QR_CHART_STACKED_BARS, /* one bar for each category, the series on top of each other */
} qr_chart_kind;

typedef struct qr_chart_axis {
    const char *title; /* with the unit: "Request rate (requests/s)"; NULL: none */
    bool log, binary;  /* logarithmic; with ticks at powers of two */
    double min, max;   /* both 0: from the data, y from 0 on (but on a log axis) */
} qr_chart_axis;

typedef struct qr_chart_series {
    const char *name;        /* legend; NULL: not in the legend */
    const double *x;         /* [count], ascending for a line; NULL for bars */
    const double *y;         /* [count]; bars: one for each category */
    const double *reference; /* [count] bars: a value to compare with, a short line across the bar; NULL: none */
    int count;
    int style;       /* 1 to QR_CHART_NUM_STYLES, so that a system looks the same in every figure; 0: by position */
    bool marks_only; /* lines: points that are not connected */
    bool stairs;     /* lines: a value holds until the next */
} qr_chart_series;

typedef struct qr_chart_threshold {
    double y;
    const char *label; /* NULL: none */
} qr_chart_threshold;

typedef struct qr_chart_note {
    double x, y; /* x: of a bar chart the category's index */
    const char *text;
} qr_chart_note;

/* Zero-initialise and fill; everything pointed to stays the caller's. */
typedef struct qr_chart {
    qr_chart_kind kind;
    const char *id;          /* letters, digits, '-', '_', '.': "fig12a"; unique in a page */
    const char *title;       /* NULL: none */
    const char *description; /* what a reader who does not see it should know; NULL: made from the series */
    int width, height;       /* 0: 480 x 320, right for one column in print */
    qr_chart_axis x, y;      /* bars have no x axis but its title */
    qr_chart_series series[QR_CHART_MAX_SERIES];
    int num_series;
    const char *const *categories; /* [num_categories] bars */
    int num_categories;
    const char *reference_name; /* legend of the references: "paper" */
    int value_decimals;         /* of numbers printed at bars; negative: none printed */
    qr_chart_threshold thresholds[QR_CHART_MAX_THRESHOLDS];
    int num_thresholds;
    qr_chart_note notes[QR_CHART_MAX_NOTES];
    int num_notes;
} qr_chart;

/* Append the <svg> element. A failed allocation sticks to `out`. */
void qr_chart_write(const qr_chart *chart, qr_xml *out);
/* The same as a file. OK | NOMEM | IO */
QUIRE_MUST_USE quire_status qr_chart_save(const qr_chart *chart, const char *path, quire_error *error);

#endif
