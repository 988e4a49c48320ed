/* chart, inside: where things stand in the picture, and what its files share.
 *
 *   chart.c (frame: title, legend, axes, ticks)  ──►  chart_lines.c, chart_bars.c (marks)
 *                        └──────── chart_style.c (colours, text) ───────┘ */
#ifndef QR_REPORT_CHART_INTERNAL_H
#define QR_REPORT_CHART_INTERNAL_H

#include "report/chart.h"
#include "report/scale.h"

enum { QR_CHART_TEXT_PX = 12, QR_CHART_VALUE_PX = 11, QR_CHART_TITLE_PX = 13, QR_CHART_MAX_ID = 48 };

typedef struct qr_chart_plot {
    const qr_chart *chart;
    qr_xml *out;
    double width, height;            /* of the picture */
    double left, top, right, bottom; /* of the box between the axes, pixels from the upper left corner */
    qr_scale x, y;                   /* x: lines only */
} qr_chart_plot;

/* ---- chart_style.c ---------------------------------------------------------------------------- */

typedef enum qr_chart_anchor { QR_CHART_START, QR_CHART_MIDDLE, QR_CHART_END } qr_chart_anchor;

/* Style of a series, 1 to QR_CHART_NUM_STYLES. */
int qr_chart_style(const qr_chart *chart, int series_idx);
/* <style>: fonts and colours. */
void qr_chart_write_base_style(qr_xml *out);
/* The same and the hatchings of the styles in use. */
void qr_chart_write_style(const qr_chart *chart, qr_xml *out);
/* stroke-dasharray of a style, "" for a full line. */
const char *qr_chart_dash(int style);
/* The path of a style's marker around (x, y), without its end: ` d="..."` and classes are written, attributes may
 * follow. */
void qr_chart_write_marker(qr_xml *out, int style, double x, double y);
/* Width of text in pixels, about; never less than it will be in Helvetica or Arial. */
double qr_chart_text_width(const char *text, size_t bytes, double font_px);
/* How many bytes of text fit in `width` pixels, whole characters. */
size_t qr_chart_text_fit(const char *text, size_t bytes, double font_px, double width);
/* Text at (x, y), shortened with an ellipsis to max_width pixels, turned by `degrees` around (x, y). */
void qr_chart_write_text(qr_xml *out, double x, double y, qr_chart_anchor anchor, const char *classes, double font_px,
                         double max_width, double degrees, const char *text, size_t bytes);

/* ---- marks ------------------------------------------------------------------------------------ */

/* Are a line's points marked? Not when there are very many. */
bool qr_chart_has_markers(const qr_chart_series *series);
void qr_chart_write_lines(const qr_chart_plot *plot);
void qr_chart_write_bars(const qr_chart_plot *plot);
/* Do values at grouped bars stand upright, for want of width? `width` is the plot's. */
bool qr_chart_bars_turn_values(const qr_chart *chart, double width);
/* Sum of a category's stack: of what is drawn, upwards. */
double qr_chart_stack_height(const qr_chart *chart, int category);

#endif
