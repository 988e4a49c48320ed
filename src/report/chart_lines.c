/* chart: lines and points. A series with far more points than the picture has columns keeps, for each column, its
 * first, least, greatest and last value: the drawn line is the same. */
#include <math.h>
#include <stdio.h>

#include "report/chart_internal.h"

enum { MAX_MARKERS = 48 };

/* The points of one pixel column. */
typedef struct column {
    double x, first, low, high, last;
    int count;
} column;

typedef struct pen {
    qr_xml *out;
    bool down, stairs;
    double x; /* of the last point */
} pen;

static void draw_to(pen *p, double x, double y)
{
    if (!p->down)
        qr_xml_printf(p->out, "M%.1f %.1f", x, y);
    else if (x == p->x)
        qr_xml_printf(p->out, "V%.1f", y);
    else if (p->stairs)
        qr_xml_printf(p->out, "H%.1fV%.1f", x, y);
    else
        qr_xml_printf(p->out, "L%.1f %.1f", x, y);
    p->down = true;
    p->x = x;
}

static void draw_column(pen *p, column *c)
{
    if (c->count > 0) draw_to(p, c->x, c->first);
    if (c->count > 2) {
        draw_to(p, c->x, c->low);
        draw_to(p, c->x, c->high);
    }
    if (c->count > 1) draw_to(p, c->x, c->last);
    c->count = 0;
}

static void write_path(const qr_chart_plot *plot, const qr_chart_series *series)
{
    bool reduce = series->count > 4 * (plot->right - plot->left);
    pen p = {.out = plot->out, .stairs = series->stairs};
    column c = {.count = 0};
    for (int i = 0; i < series->count; i++) {
        double x = qr_scale_pixel(&plot->x, series->x[i]), y = qr_scale_pixel(&plot->y, series->y[i]);
        if (isnan(x) || isnan(y)) {
            draw_column(&p, &c);
            p.down = false;
            continue;
        }
        if (reduce && c.count > 0 && floor(x) == floor(c.x)) {
            c.low = fmin(c.low, y);
            c.high = fmax(c.high, y);
            c.last = y;
            c.count++;
            continue;
        }
        draw_column(&p, &c);
        c = (column){x, y, y, y, y, 1};
    }
    draw_column(&p, &c);
}

static bool inside(const qr_chart_plot *plot, double x, double y)
{
    return x >= plot->left - 0.01 && x <= plot->right + 0.01 && y >= plot->top - 0.01 && y <= plot->bottom + 0.01;
}

bool qr_chart_has_markers(const qr_chart_series *series) { return series->marks_only || series->count <= MAX_MARKERS; }

static void write_markers(const qr_chart_plot *plot, const qr_chart_series *series, int style)
{
    for (int i = 0; i < series->count; i++) {
        double x = qr_scale_pixel(&plot->x, series->x[i]), y = qr_scale_pixel(&plot->y, series->y[i]);
        if (isnan(x) || isnan(y) || !inside(plot, x, y)) continue;
        char value[QR_SCALE_LABEL_BYTES];
        qr_chart_write_marker(plot->out, style, x, y);
        qr_xml_raw(plot->out, "><title>");
        qr_xml_text(plot->out, series->name);
        qr_scale_format(series->x[i], 0, value);
        qr_xml_printf(plot->out, " (%s, ", value);
        qr_scale_format(series->y[i], 0, value);
        qr_xml_printf(plot->out, "%s)</title></path>", value);
    }
}

void qr_chart_write_lines(const qr_chart_plot *plot)
{
    const qr_chart *chart = plot->chart;
    qr_xml *out = plot->out;
    qr_xml_printf(out, "<clipPath id=\"%s-c\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/></clipPath>",
                  chart->id, plot->left, plot->top - 1, plot->right - plot->left, plot->bottom - plot->top + 2);
    for (int s = 0; s < chart->num_series; s++) {
        const qr_chart_series *series = &chart->series[s];
        int style = qr_chart_style(chart, s);
        if (!series->marks_only) {
            qr_xml_printf(out,
                          "<path clip-path=\"url(#%s-c)\" class=\"qc-s%d\" fill=\"none\" stroke-width=\"1.8\" "
                          "stroke-linejoin=\"round\" stroke-dasharray=\"%s\" d=\"",
                          chart->id, style, *qr_chart_dash(style) ? qr_chart_dash(style) : "none");
            write_path(plot, series);
            qr_xml_raw(out, "\"/>");
        }
        if (qr_chart_has_markers(series)) write_markers(plot, series, style);
    }
}
