/* chart: the frame. */
#include "report/chart.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report/chart_internal.h"

static const double EDGE = 10, GAP = 6, LINE = 15; /* pixels: to the picture's edge, between things, of text */
static const double TURN = 35;                     /* degrees of category labels that do not fit upright */
static const double MIN_PLOT = 90;                 /* pixels of height; a picture with a long legend grows */

enum { MAX_LABEL_LINES = 3, SWATCH = 28 };

/* ---- the data's range ------------------------------------------------------------------------- */

static void extend(double value, bool log, double *min, double *max)
{
    if (!isfinite(value) || (log && value <= 0)) return;
    *min = fmin(*min, value);
    *max = fmax(*max, value);
}

static void range_of_x(const qr_chart *chart, double *min, double *max)
{
    for (int s = 0; s < chart->num_series; s++)
        for (int i = 0; i < chart->series[s].count; i++) extend(chart->series[s].x[i], chart->x.log, min, max);
}

static void range_of_y(const qr_chart *chart, double *min, double *max)
{
    bool log = chart->y.log;
    for (int s = 0; s < chart->num_series; s++) {
        const qr_chart_series *series = &chart->series[s];
        for (int i = 0; i < series->count; i++) {
            if (chart->kind != QR_CHART_STACKED_BARS) extend(series->y[i], log, min, max);
            if (series->reference) extend(series->reference[i], log, min, max);
        }
    }
    if (chart->kind == QR_CHART_STACKED_BARS)
        for (int c = 0; c < chart->num_categories; c++) extend(qr_chart_stack_height(chart, c), log, min, max);
    for (int i = 0; i < chart->num_thresholds; i++) extend(chart->thresholds[i].y, log, min, max);
}

static void fit_axes(qr_chart_plot *plot)
{
    const qr_chart *chart = plot->chart;
    double min = INFINITY, max = -INFINITY, height = plot->height - plot->top - 50, width = plot->width - 70;
    bool given = chart->y.min != 0 || chart->y.max != 0;
    range_of_y(chart, &min, &max);
    if (chart->kind == QR_CHART_GROUPED_BARS && chart->value_decimals >= 0 && max > 0 && !chart->y.log) /* headroom */
        max += max * (qr_chart_bars_turn_values(chart, width) ? 34 : 12) / height;
    if (!chart->y.log && min <= max && min > 0) min = 0;
    if (given) {
        min = chart->y.min;
        max = chart->y.max;
    }
    qr_scale_fit(&plot->y, min, max, chart->y.log, chart->y.binary, !given, (int)(height / 34) + 1);
    if (chart->kind != QR_CHART_LINES) return;
    min = INFINITY;
    max = -INFINITY;
    range_of_x(chart, &min, &max);
    if (!chart->x.log && min > 0 && min < max * 0.3) min = 0;
    if (chart->x.min != 0 || chart->x.max != 0) {
        min = chart->x.min;
        max = chart->x.max;
    }
    qr_scale_fit(&plot->x, min, max, chart->x.log, chart->x.binary, false, (int)(width / 50));
}

/* ---- text around the plot --------------------------------------------------------------------- */

/* Cut text at spaces into lines of at most `width` pixels; what is left after max_lines stays in the last.
 * Returns the number of lines; *out_whole is false when a word was wider than a line, or lines were short. */
static int wrap(const char *text, double font_px, double width, int max_lines, const char *lines[], size_t bytes[],
                bool *out_whole)
{
    int count = 0;
    *out_whole = true;
    while (*text == ' ') text++;
    while (*text && count < max_lines) {
        size_t rest = strlen(text), fits = qr_chart_text_fit(text, rest, font_px, width);
        if (fits < rest) {
            size_t cut = fits;
            while (cut > 0 && text[cut] != ' ') cut--;
            if (cut == 0) {
                *out_whole = false;
                cut = strcspn(text, " ");
            }
            fits = cut;
        }
        if (count == max_lines - 1 && fits < rest) {
            *out_whole = false;
            fits = rest;
        }
        lines[count] = text;
        bytes[count++] = fits;
        text += fits;
        while (*text == ' ') text++;
    }
    return count;
}

static double write_title(const qr_chart_plot *plot, bool draw)
{
    const char *lines[3];
    size_t bytes[3];
    bool whole;
    double width = plot->width - 2 * EDGE, y = EDGE;
    if (!plot->chart->title) return y;
    /* bold is a tenth wider */
    int count = wrap(plot->chart->title, QR_CHART_TITLE_PX * 1.1, width, 3, lines, bytes, &whole);
    for (int i = 0; i < count; i++, y += LINE + 1)
        if (draw)
            qr_chart_write_text(plot->out, EDGE, y + 11, QR_CHART_START, "qc-t qc-h", QR_CHART_TITLE_PX * 1.1, width, 0,
                                lines[i], bytes[i]);
    return y + 4;
}

static void write_swatch(const qr_chart_plot *plot, int s, double x, double y)
{
    const qr_chart *chart = plot->chart;
    qr_xml *out = plot->out;
    int style = qr_chart_style(chart, s);
    if (chart->kind != QR_CHART_LINES) {
        qr_xml_printf(out,
                      "<rect x=\"%.1f\" y=\"%.1f\" width=\"22\" height=\"11\" fill=\"url(#%s-p%d)\" class=\"qc-s%d\"/>",
                      x, y - 9.5, chart->id, style, style);
        return;
    }
    if (!chart->series[s].marks_only)
        qr_xml_printf(out, "<path d=\"M%.1f %.1fh24\" class=\"qc-s%d\" stroke-width=\"1.8\" stroke-dasharray=\"%s\"/>",
                      x - 1, y - 4, style, *qr_chart_dash(style) ? qr_chart_dash(style) : "none");
    if (!qr_chart_has_markers(&chart->series[s])) return;
    qr_chart_write_marker(out, style, x + 11, y - 4);
    qr_xml_raw(out, "/>");
}

static bool has_reference(const qr_chart *chart)
{
    for (int s = 0; s < chart->num_series; s++)
        if (chart->series[s].reference) return chart->reference_name != NULL;
    return false;
}

/* Entries flow from left to right into as many rows as they need. Returns where the plot may begin. */
static double write_legend(const qr_chart_plot *plot, double y, bool draw)
{
    const qr_chart *chart = plot->chart;
    double x = EDGE, limit = plot->width - EDGE;
    int count = chart->num_series + (has_reference(chart) ? 1 : 0);
    bool any = false;
    for (int s = 0; s < count; s++) {
        const char *name = s < chart->num_series ? chart->series[s].name : chart->reference_name;
        if (!name) continue;
        double room = limit - EDGE - SWATCH, text_width = qr_chart_text_width(name, strlen(name), QR_CHART_TEXT_PX);
        double width = SWATCH + fmin(text_width, room);
        if (x > EDGE && x + width > limit) {
            x = EDGE;
            y += LINE + 2;
        }
        any = true;
        if (draw) {
            if (s < chart->num_series)
                write_swatch(plot, s, x, y + 11);
            else
                qr_xml_printf(plot->out, "<path d=\"M%.1f %.1fh22\" class=\"qc-r\" stroke-width=\"2.2\"/>", x, y + 7);
            qr_chart_write_text(plot->out, x + SWATCH, y + 11, QR_CHART_START, "qc-t", QR_CHART_TEXT_PX, room, 0, name,
                                strlen(name));
        }
        x += width + 14;
    }
    return any ? y + LINE + 8 : y + 2;
}

/* ---- axes ------------------------------------------------------------------------------------- */

static double tick_labels_width(const qr_scale *scale)
{
    double width = 0;
    for (int i = 0; i < scale->num_ticks; i++) {
        char label[QR_SCALE_LABEL_BYTES];
        qr_scale_tick_label(scale, i, label);
        width = fmax(width, qr_chart_text_width(label, strlen(label), QR_CHART_TEXT_PX));
    }
    return width;
}

static void write_y_axis(const qr_chart_plot *plot)
{
    qr_xml *out = plot->out;
    for (int i = 0; i < plot->y.num_ticks; i++) {
        char label[QR_SCALE_LABEL_BYTES];
        double y = qr_scale_pixel(&plot->y, plot->y.ticks[i]);
        qr_scale_tick_label(&plot->y, i, label);
        qr_xml_printf(out, "<path d=\"M%.1f %.1fH%.1f\" class=\"qc-g\"/>", plot->left, y, plot->right);
        qr_chart_write_text(out, plot->left - GAP, y + 4, QR_CHART_END, "qc-u", QR_CHART_TEXT_PX, 200, 0, label,
                            strlen(label));
    }
    const char *title = plot->chart->y.title;
    double middle = (plot->top + plot->bottom) / 2, room = plot->height - 2 * EDGE;
    if (!title) return;
    /* a long title is centred on the picture when it is higher than the plot */
    double width = fmin(qr_chart_text_width(title, strlen(title), QR_CHART_TEXT_PX), room);
    middle = fmin(fmax(middle, EDGE + width / 2), plot->height - EDGE - width / 2);
    qr_chart_write_text(out, EDGE + 8, middle, QR_CHART_MIDDLE, "qc-t", QR_CHART_TEXT_PX, room, -90, title,
                        strlen(title));
}

static void write_x_ticks(const qr_chart_plot *plot)
{
    qr_xml *out = plot->out;
    double free_from = 0;
    for (int i = 0; i < plot->x.num_ticks; i++) {
        char label[QR_SCALE_LABEL_BYTES];
        double x = qr_scale_pixel(&plot->x, plot->x.ticks[i]);
        qr_scale_tick_label(&plot->x, i, label);
        double width = qr_chart_text_width(label, strlen(label), QR_CHART_TEXT_PX);
        qr_xml_printf(out, "<path d=\"M%.1f %.1fV%.1f\" class=\"qc-g\"/>", x, plot->top, plot->bottom);
        if (x - width / 2 < free_from || x + width / 2 > plot->width - 1) continue;
        free_from = x + width / 2 + 8;
        qr_chart_write_text(out, x, plot->bottom + LINE + 1, QR_CHART_MIDDLE, "qc-u", QR_CHART_TEXT_PX, 200, 0, label,
                            strlen(label));
    }
}

static double category_pitch(const qr_chart_plot *plot)
{
    return (plot->right - plot->left) / (plot->chart->num_categories > 0 ? plot->chart->num_categories : 1);
}

/* The most lines that a category's label takes; 0: some label does not fit, all are turned. */
static int category_lines(const qr_chart_plot *plot)
{
    int most = 1;
    for (int c = 0; c < plot->chart->num_categories; c++) {
        const char *lines[MAX_LABEL_LINES];
        size_t bytes[MAX_LABEL_LINES];
        bool whole;
        int count = wrap(plot->chart->categories[c], QR_CHART_TEXT_PX, category_pitch(plot) - 4, MAX_LABEL_LINES, lines,
                         bytes, &whole);
        if (!whole) return 0;
        if (count > most) most = count;
    }
    return most;
}

static double turned_width(const qr_chart_plot *plot, int category)
{
    const char *label = plot->chart->categories[category];
    double reach = plot->left + (category + 0.5) * category_pitch(plot) - 2; /* to the picture's edge */
    double limit = fmin(reach / cos(TURN * 3.14159265 / 180), plot->height * 0.4);
    return fmin(qr_chart_text_width(label, strlen(label), QR_CHART_TEXT_PX), limit);
}

static double categories_height(const qr_chart_plot *plot)
{
    int lines = category_lines(plot);
    double height = 0;
    if (lines > 0) return lines * LINE;
    for (int c = 0; c < plot->chart->num_categories; c++) height = fmax(height, turned_width(plot, c));
    return height * sin(TURN * 3.14159265 / 180) + LINE;
}

static void write_categories(const qr_chart_plot *plot)
{
    bool upright = category_lines(plot) > 0;
    for (int c = 0; c < plot->chart->num_categories; c++) {
        const char *lines[MAX_LABEL_LINES], *label = plot->chart->categories[c];
        size_t bytes[MAX_LABEL_LINES];
        bool whole;
        double x = plot->left + (c + 0.5) * category_pitch(plot), y = plot->bottom + LINE + 1;
        if (!upright) {
            qr_chart_write_text(plot->out, x + 4, y - 3, QR_CHART_END, "qc-u", QR_CHART_TEXT_PX,
                                turned_width(plot, c) + 0.1, -TURN, label, strlen(label));
            continue;
        }
        int count = wrap(label, QR_CHART_TEXT_PX, category_pitch(plot) - 4, MAX_LABEL_LINES, lines, bytes, &whole);
        for (int i = 0; i < count; i++)
            qr_chart_write_text(plot->out, x, y + i * LINE, QR_CHART_MIDDLE, "qc-u", QR_CHART_TEXT_PX, plot->width, 0,
                                lines[i], bytes[i]);
    }
}

static void write_axes(const qr_chart_plot *plot)
{
    write_y_axis(plot);
    if (plot->chart->kind == QR_CHART_LINES)
        write_x_ticks(plot);
    else
        write_categories(plot);
    const char *title = plot->chart->x.title;
    if (title)
        qr_chart_write_text(plot->out, (plot->left + plot->right) / 2, plot->height - EDGE, QR_CHART_MIDDLE, "qc-t",
                            QR_CHART_TEXT_PX, plot->right - plot->left + 40, 0, title, strlen(title));
}

/* ---- thresholds and notes --------------------------------------------------------------------- */

static void write_thresholds(const qr_chart_plot *plot)
{
    for (int i = 0; i < plot->chart->num_thresholds; i++) {
        const qr_chart_threshold *threshold = &plot->chart->thresholds[i];
        double y = qr_scale_pixel(&plot->y, threshold->y);
        if (isnan(y) || y < plot->top - 0.01 || y > plot->bottom + 0.01) continue;
        qr_xml_printf(plot->out, "<path d=\"M%.1f %.1fH%.1f\" class=\"qc-r\" stroke-dasharray=\"1.5 2.5\"/>",
                      plot->left, y, plot->right);
        if (!threshold->label) continue;
        qr_chart_write_text(plot->out, plot->left + 4, y - 4 < plot->top + 10 ? y + 13 : y - 4, QR_CHART_START,
                            "qc-t qc-v qc-o", QR_CHART_VALUE_PX, plot->right - plot->left - 8, 0, threshold->label,
                            strlen(threshold->label));
    }
}

/* A note stands beside its point, on the side with more room, and gives way to earlier ones. */
static void write_notes(const qr_chart_plot *plot)
{
    struct {
        double left, right, y;
    } taken[QR_CHART_MAX_NOTES];
    int num_taken = 0;
    for (int i = 0; i < plot->chart->num_notes; i++) {
        const qr_chart_note *note = &plot->chart->notes[i];
        double x = plot->chart->kind == QR_CHART_LINES ? qr_scale_pixel(&plot->x, note->x)
                                                       : plot->left + (note->x + 0.5) * category_pitch(plot);
        double at = qr_scale_pixel(&plot->y, note->y);
        if (!note->text || isnan(x) || isnan(at) || x < plot->left || x > plot->right) continue;
        at = fmin(fmax(at, plot->top), plot->bottom);
        bool end = x > (plot->left + plot->right) / 2;
        double room = end ? x - plot->left - 10 : plot->right - x - 10, y = fmax(at - 9, plot->top + 10);
        double width = fmin(qr_chart_text_width(note->text, strlen(note->text), QR_CHART_VALUE_PX), room);
        double left = end ? x - 8 - width : x + 8;
        for (int k = 0; k < num_taken; k++) {
            if (left > taken[k].right || left + width < taken[k].left || fabs(y - taken[k].y) >= 14) continue;
            y = taken[k].y + 14;
            k = -1; /* look again at all, from below */
        }
        taken[num_taken].left = left;
        taken[num_taken].right = left + width;
        taken[num_taken++].y = y;
        qr_xml_printf(plot->out, "<path d=\"M%.1f %.1fL%.1f %.1f\" class=\"qc-a\"/>", x, at, end ? x - 6 : x + 6,
                      y - 3);
        qr_chart_write_text(plot->out, end ? x - 8 : x + 8, y, end ? QR_CHART_END : QR_CHART_START, "qc-t qc-v qc-o",
                            QR_CHART_VALUE_PX, room, 0, note->text, strlen(note->text));
    }
}

/* ---- the whole -------------------------------------------------------------------------------- */

static bool has_data(const qr_chart_plot *plot)
{
    const qr_chart *chart = plot->chart;
    for (int s = 0; s < chart->num_series; s++)
        for (int i = 0; i < chart->series[s].count; i++)
            if (!isnan(qr_scale_pixel(&plot->y, chart->series[s].y[i])) &&
                (chart->kind != QR_CHART_LINES || !isnan(qr_scale_pixel(&plot->x, chart->series[s].x[i]))))
                return true;
    return false;
}

static void write_description(const qr_chart *chart, qr_xml *out)
{
    if (chart->description) {
        qr_xml_text(out, chart->description);
        return;
    }
    qr_xml_raw(out, chart->kind == QR_CHART_LINES ? "Lines" : "Bars");
    if (chart->y.title) qr_xml_raw(out, " of ");
    qr_xml_text(out, chart->y.title);
    if (chart->x.title) qr_xml_raw(out, " against ");
    qr_xml_text(out, chart->x.title);
    for (int s = 0; s < chart->num_series; s++) {
        double min = INFINITY, max = -INFINITY;
        char low[QR_SCALE_LABEL_BYTES], high[QR_SCALE_LABEL_BYTES];
        for (int i = 0; i < chart->series[s].count; i++) extend(chart->series[s].y[i], false, &min, &max);
        if (min > max || !chart->series[s].name) continue;
        qr_scale_format(min, 0, low);
        qr_scale_format(max, 0, high);
        qr_xml_raw(out, "; ");
        qr_xml_text(out, chart->series[s].name);
        qr_xml_printf(out, " from %s to %s", low, high);
    }
}

static void lay_out(qr_chart_plot *plot)
{
    const qr_chart *chart = plot->chart;
    plot->width = chart->width > 0 ? chart->width : 480;
    plot->height = chart->height > 0 ? chart->height : 320;
    plot->top = write_legend(plot, write_title(plot, false), false);
    plot->height = fmax(plot->height, plot->top + MIN_PLOT + 60);
    fit_axes(plot);
    plot->left = EDGE + (chart->y.title ? LINE + 2 : 0) + tick_labels_width(&plot->y) + GAP;
    plot->right = plot->width - EDGE - 6;
    double below = chart->kind == QR_CHART_LINES ? LINE : chart->categories ? categories_height(plot) : 0;
    plot->bottom = plot->height - EDGE - below - (chart->x.title ? LINE + 7 : 0);
    if (plot->bottom - plot->top < MIN_PLOT) {
        plot->height += MIN_PLOT - (plot->bottom - plot->top);
        plot->bottom = plot->top + MIN_PLOT;
    }
    plot->x.from = plot->left;
    plot->x.to = plot->right;
    plot->y.from = plot->bottom;
    plot->y.to = plot->top;
}

void qr_chart_write(const qr_chart *chart, qr_xml *out)
{
    assert(chart->num_series >= 0 && chart->num_series <= QR_CHART_MAX_SERIES);
    assert(chart->num_thresholds <= QR_CHART_MAX_THRESHOLDS && chart->num_notes <= QR_CHART_MAX_NOTES);
    assert(chart->id && *chart->id && strlen(chart->id) <= QR_CHART_MAX_ID);
    assert(chart->id[strspn(chart->id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")] == 0);
    qr_chart_plot plot = {.chart = chart, .out = out};
    lay_out(&plot);
    qr_xml_printf(out,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"qc\" width=\"%.0f\" height=\"%.0f\" "
                  "viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-labelledby=\"%s-t %s-d\"><title id=\"%s-t\">",
                  plot.width, plot.height, plot.width, plot.height, chart->id, chart->id, chart->id);
    qr_xml_text(out, chart->title ? chart->title : chart->y.title);
    qr_xml_printf(out, "</title><desc id=\"%s-d\">", chart->id);
    write_description(chart, out);
    qr_xml_raw(out, "</desc>");
    qr_chart_write_style(chart, out);
    qr_xml_printf(out, "<rect width=\"%.0f\" height=\"%.0f\" class=\"qc-bg\"/>\n", plot.width, plot.height);
    write_legend(&plot, write_title(&plot, true), true);
    write_axes(&plot);
    if (chart->kind == QR_CHART_LINES)
        qr_chart_write_lines(&plot);
    else
        qr_chart_write_bars(&plot);
    qr_xml_printf(out, "\n<path d=\"M%.1f %.1fV%.1fH%.1f\" fill=\"none\" class=\"qc-a\"/>", plot.left, plot.top,
                  plot.bottom, plot.right);
    write_thresholds(&plot);
    write_notes(&plot);
    if (!has_data(&plot))
        qr_chart_write_text(out, (plot.left + plot.right) / 2, (plot.top + plot.bottom) / 2, QR_CHART_MIDDLE, "qc-u",
                            QR_CHART_TEXT_PX, 200, 0, "no data", 7);
    qr_xml_raw(out, "</svg>\n");
}

quire_status qr_chart_save(const qr_chart *chart, const char *path, quire_error *error)
{
    qr_xml out = {0};
    qr_xml_raw(&out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    qr_chart_write(chart, &out);
    quire_status status = qr_xml_save(&out, path, error);
    qr_xml_deinit(&out);
    return status;
}
