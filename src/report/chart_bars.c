/* chart: bars, side by side or stacked, with their values and the values they are compared with. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report/chart_internal.h"

static const double MAX_BAR = 56, GROUP_PART = 0.8; /* pixels; part of a category's width */

static double value_of(const qr_chart *chart, int s, int category)
{
    const qr_chart_series *series = &chart->series[s];
    double value = category < series->count ? series->y[category] : NAN;
    return isfinite(value) ? value : NAN;
}

static double bar_width(const qr_chart *chart, double plot_width)
{
    double group = plot_width / (chart->num_categories > 0 ? chart->num_categories : 1) * GROUP_PART;
    int bars = chart->kind == QR_CHART_GROUPED_BARS && chart->num_series > 1 ? chart->num_series : 1;
    return fmin(group / bars, MAX_BAR);
}

static double value_width(const qr_chart *chart, double value, char text[32])
{
    snprintf(text, 32, "%.*f", chart->value_decimals < 6 ? chart->value_decimals : 6, value);
    return qr_chart_text_width(text, strlen(text), QR_CHART_VALUE_PX);
}

bool qr_chart_bars_turn_values(const qr_chart *chart, double width)
{
    char text[32];
    double room = bar_width(chart, width) + 1;
    for (int s = 0; s < chart->num_series; s++)
        for (int c = 0; c < chart->num_categories; c++) {
            double value = value_of(chart, s, c);
            if (!isnan(value) && value_width(chart, value, text) > room) return true;
        }
    return false;
}

double qr_chart_stack_height(const qr_chart *chart, int category)
{
    double sum = 0;
    for (int s = 0; s < chart->num_series; s++) sum += fmax(value_of(chart, s, category), 0); /* fmax drops NaN */
    return sum;
}

static void write_bar(const qr_chart_plot *plot, int s, int category, double x, double width, double from, double to)
{
    const qr_chart *chart = plot->chart;
    int style = qr_chart_style(chart, s);
    char value[QR_SCALE_LABEL_BYTES];
    double top = fmax(fmin(from, to), plot->top), bottom = fmin(fmax(from, to), plot->bottom);
    qr_xml_printf(plot->out,
                  "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"url(#%s-p%d)\" class=\"qc-s%d\">"
                  "<title>",
                  x, top, width, fmax(bottom - top, 0), chart->id, style, style);
    if (chart->categories) qr_xml_text(plot->out, chart->categories[category]);
    qr_xml_raw(plot->out, ", ");
    qr_xml_text(plot->out, chart->series[s].name);
    qr_scale_format(value_of(chart, s, category), 0, value);
    qr_xml_printf(plot->out, ": %s</title></rect>", value);
}

/* The line across a bar for the value it is compared with; `base` is where the bar begins. */
static void write_reference(const qr_chart_plot *plot, int s, int category, double x, double width, double base)
{
    const qr_chart_series *series = &plot->chart->series[s];
    double value = series->reference && category < series->count ? series->reference[category] : NAN;
    double y = qr_scale_pixel(&plot->y, base + value);
    if (isnan(y) || y < plot->top - 0.01 || y > plot->bottom + 0.01) return;
    char text[QR_SCALE_LABEL_BYTES];
    qr_scale_format(value, 0, text);
    qr_xml_printf(plot->out, "<path d=\"M%.1f %.1fH%.1f\" class=\"qc-w\" stroke-width=\"5\"/>", x - 3, y,
                  x + width + 3);
    qr_xml_printf(plot->out, "<path d=\"M%.1f %.1fH%.1f\" class=\"qc-r\" stroke-width=\"2.2\"><title>", x - 3, y,
                  x + width + 3);
    qr_xml_text(plot->out, plot->chart->reference_name);
    qr_xml_printf(plot->out, ": %s</title></path>", text);
}

static void write_grouped(const qr_chart_plot *plot, int category, double center)
{
    const qr_chart *chart = plot->chart;
    double plot_width = plot->right - plot->left, step = bar_width(chart, plot_width), width = fmax(step - 3, 1);
    bool turn = qr_chart_bars_turn_values(chart, plot_width);
    double base = qr_scale_pixel(&plot->y, plot->y.log ? plot->y.min : fmax(plot->y.min, fmin(0, plot->y.max)));
    for (int s = 0; s < chart->num_series; s++) {
        double value = value_of(chart, s, category), x = center + step * (s - chart->num_series / 2.0) + 1.5;
        double y = qr_scale_pixel(&plot->y, value), label_y = fmax(y, plot->top);
        if (!isnan(y)) write_bar(plot, s, category, x, width, base, y);
        write_reference(plot, s, category, x, width, 0);
        if (isnan(y) || chart->value_decimals < 0) continue;
        const qr_chart_series *series = &chart->series[s];
        double reference = series->reference ? qr_scale_pixel(&plot->y, series->reference[category]) : NAN;
        /* above the bar, and above the line that would run through the number */
        double room = turn ? 30 : 14;
        if (reference > label_y - room && reference < label_y + 1) label_y = reference - 1;
        char text[32];
        value_width(chart, value, text);
        if (!turn)
            qr_chart_write_text(plot->out, x + width / 2, label_y - 4, QR_CHART_MIDDLE, "qc-t qc-v qc-o",
                                QR_CHART_VALUE_PX, 200, 0, text, strlen(text));
        else if (step >= QR_CHART_VALUE_PX)
            qr_chart_write_text(plot->out, x + width / 2 + 4, label_y - 4, QR_CHART_START, "qc-t qc-v qc-o",
                                QR_CHART_VALUE_PX, 200, -90, text, strlen(text));
    }
}

/* Does the line of some series' reference run through a number that stands at `y`? */
static bool crossed_out(const qr_chart_plot *plot, int category, double y)
{
    double base = 0;
    for (int s = 0; s < plot->chart->num_series; s++) {
        const qr_chart_series *series = &plot->chart->series[s];
        if (series->reference && category < series->count &&
            fabs(qr_scale_pixel(&plot->y, base + series->reference[category]) - y) < QR_CHART_VALUE_PX / 2.0 + 2)
            return true;
        base += fmax(value_of(plot->chart, s, category), 0);
    }
    return false;
}

static void write_stack(const qr_chart_plot *plot, int category, double center)
{
    const qr_chart *chart = plot->chart;
    double width = bar_width(chart, plot->right - plot->left), x = center - width / 2, sum = 0;
    for (int s = 0; s < chart->num_series; s++) {
        double value = value_of(chart, s, category), base = sum;
        if (!(value > 0)) continue;
        sum += value;
        double from = qr_scale_pixel(&plot->y, fmax(base, plot->y.min)), to = qr_scale_pixel(&plot->y, sum);
        write_bar(plot, s, category, x, width, from, to);
        char text[32];
        double text_width = chart->value_decimals < 0 ? INFINITY : value_width(chart, value, text);
        if (from - to >= QR_CHART_VALUE_PX + 3 && text_width < width - 4 &&
            !crossed_out(plot, category, (from + to) / 2))
            qr_chart_write_text(plot->out, center, (from + to) / 2 + 4, QR_CHART_MIDDLE, "qc-t qc-v qc-o",
                                QR_CHART_VALUE_PX, 200, 0, text, strlen(text));
    }
    sum = 0;
    for (int s = 0; s < chart->num_series; s++) {
        write_reference(plot, s, category, x, width, sum);
        sum += fmax(value_of(chart, s, category), 0);
    }
}

void qr_chart_write_bars(const qr_chart_plot *plot)
{
    const qr_chart *chart = plot->chart;
    double pitch = (plot->right - plot->left) / (chart->num_categories > 0 ? chart->num_categories : 1);
    for (int c = 0; c < chart->num_categories; c++) {
        double center = plot->left + (c + 0.5) * pitch;
        if (chart->kind == QR_CHART_GROUPED_BARS)
            write_grouped(plot, c, center);
        else
            write_stack(plot, c, center);
    }
}
