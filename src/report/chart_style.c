/* chart: colours, hatchings, markers and text. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "report/chart_internal.h"

/* Colours of a style on white and on dark ground: told apart by readers who see fewer colours, and of different
 * lightness. */
static const char *const light[QR_CHART_NUM_STYLES] = {"#1a5fb4", "#c4400f", "#1f8a52", "#7a4aa8",
                                                       "#9c6a00", "#5a626b", "#0e8a99", "#b0407a"};
static const char *const dark[QR_CHART_NUM_STYLES] = {"#6cb2ff", "#ff9166", "#5fd08f", "#c6a0f2",
                                                      "#efbb4d", "#aab2bb", "#4fd3de", "#f490c0"};
static const char *const dashes[QR_CHART_NUM_STYLES] = {"",    "7 3", "2 2.5", "9 3 2 3",
                                                        "5 2", "2 5", "12 4",  "6 2 2 2 2 2"};

int qr_chart_style(const qr_chart *chart, int series_idx)
{
    int style = chart->series[series_idx].style;
    return style >= 1 && style <= QR_CHART_NUM_STYLES ? style : series_idx % QR_CHART_NUM_STYLES + 1;
}

const char *qr_chart_dash(int style) { return dashes[style - 1]; }

static void write_colours(qr_xml *out, const char *const colours[])
{
    for (int i = 0; i < QR_CHART_NUM_STYLES; i++)
        qr_xml_printf(out, ".qc-s%d{stroke:%s}.qc-f%d{fill:%s}", i + 1, colours[i], i + 1, colours[i]);
}

/* A hatching is a tile of faint colour with strokes in the full one. */
static void write_hatching(qr_xml *out, const char *id, int style)
{
    static const char *const strokes[QR_CHART_NUM_STYLES] = {NULL, "M0 0V6", "M2 2h2v2h-2z", "M0 0V6M0 0H6",
                                                             NULL, NULL,     "M0 3H6",       "M3 0V6"};
    static const int angles[QR_CHART_NUM_STYLES] = {0, 45, 0, 45, 0, 0, 0, -45};
    static const double ground[QR_CHART_NUM_STYLES] = {1, 0.3, 0.15, 0.1, 0.6, 0.12, 0.2, 0.25};
    qr_xml_printf(out,
                  "<pattern id=\"%s-p%d\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" "
                  "patternTransform=\"rotate(%d)\"><rect width=\"6\" height=\"6\" class=\"qc-bg\"/>"
                  "<rect width=\"6\" height=\"6\" class=\"qc-f%d\" opacity=\"%g\"/>",
                  id, style, angles[style - 1], style, ground[style - 1]);
    if (strokes[style - 1])
        qr_xml_printf(out, "<path d=\"%s\" class=\"qc-s%d\" fill=\"none\" stroke-width=\"1.6\"/>", strokes[style - 1],
                      style);
    qr_xml_raw(out, "</pattern>");
}

void qr_chart_write_base_style(qr_xml *out)
{
    qr_xml_raw(out, "<style>.qc{font:12px Helvetica,Arial,\"Liberation Sans\",sans-serif}"
                    ".qc-bg{fill:#fff}.qc-t{fill:#1b1f24}.qc-u{fill:#4d555e}"
                    ".qc-h{font-size:13px;font-weight:bold}.qc-v{font-size:11px}"
                    ".qc-o{stroke:#fff;stroke-width:3;stroke-linejoin:round;paint-order:stroke}"
                    ".qc-g{stroke:#dfe3e7}.qc-a{stroke:#4d555e}.qc-r{stroke:#1b1f24}.qc-w{stroke:#fff}");
    write_colours(out, light);
    qr_xml_raw(out, "@media screen and (prefers-color-scheme:dark){.qc-bg{fill:#14171b}.qc-t{fill:#e8eaed}"
                    ".qc-u{fill:#b3bac2}.qc-o{stroke:#14171b}.qc-g{stroke:#30363d}.qc-a{stroke:#9aa2ab}"
                    ".qc-r{stroke:#fff}.qc-w{stroke:#14171b}");
    write_colours(out, dark);
    qr_xml_raw(out, "}</style>");
}

void qr_chart_write_style(const qr_chart *chart, qr_xml *out)
{
    qr_chart_write_base_style(out);
    if (chart->kind == QR_CHART_LINES) return;
    bool used[QR_CHART_NUM_STYLES + 1] = {false};
    for (int s = 0; s < chart->num_series; s++) used[qr_chart_style(chart, s)] = true;
    qr_xml_raw(out, "<defs>");
    for (int style = 1; style <= QR_CHART_NUM_STYLES; style++)
        if (used[style]) write_hatching(out, chart->id, style);
    qr_xml_raw(out, "</defs>");
}

void qr_chart_write_marker(qr_xml *out, int style, double x, double y)
{
    static const char *const shapes[QR_CHART_NUM_STYLES] = {
        "m-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z", /* disc */
        "m-3.3-3.3h6.6v6.6h-6.6z",                          /* square */
        "m0-4.4l4.2 7.4h-8.4z",                             /* triangle */
        "m0-4.8l4.8 4.8l-4.8 4.8l-4.8-4.8z",                /* diamond */
        "m0 4.4l4.2-7.4h-8.4z",                             /* triangle upside down */
        "m-3.6-3.6l7.2 7.2m0-7.2l-7.2 7.2",                 /* cross */
        "m-4.4 0h8.8m-4.4-4.4v8.8",                         /* plus */
        "m-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z", /* ring */
    };
    bool open = style >= 6;
    qr_xml_printf(out, "<path d=\"M%.1f %.1f%s\" class=\"%s%d%s\" stroke-width=\"%s\"", x, y, shapes[style - 1],
                  open ? "qc-s" : "qc-f", style, open ? (style == 8 ? " qc-bg" : "\" fill=\"none") : " qc-w",
                  open ? "1.8" : "0.8");
}

/* Hundredths of an em, Helvetica, from space on. */
static const unsigned char widths[95] = {28, 28, 36, 56, 56, 89, 67, 19, 33, 33, 39, 58, 28, 33,  28, 28, 56, 56, 56,
                                         56, 56, 56, 56, 56, 56, 56, 28, 28, 58, 58, 58, 56, 102, 67, 67, 72, 72, 67,
                                         61, 78, 72, 28, 50, 67, 56, 83, 72, 78, 67, 78, 72, 67,  61, 72, 67, 94, 67,
                                         67, 61, 28, 28, 28, 47, 56, 33, 56, 56, 50, 56, 56, 28,  56, 56, 22, 22, 50,
                                         22, 83, 56, 56, 56, 56, 33, 50, 28, 56, 50, 72, 50, 50,  50, 33, 26, 33, 58};

static double char_width(const char *text, size_t bytes)
{
    unsigned char c = (unsigned char)text[0];
    if (c >= 0x20 && c < 0x7F) return widths[c - 0x20] / 100.0;
    return bytes >= 3 ? 1 : 0.72; /* ideographs are as wide as high */
}

size_t qr_chart_text_fit(const char *text, size_t bytes, double font_px, double width)
{
    size_t i = 0;
    double used = 0;
    while (i < bytes) {
        size_t n = qr_utf8_char_bytes(text + i, bytes - i);
        used += char_width(text + i, n) * font_px * 1.04;
        if (used > width) break;
        i += n ? n : 1;
    }
    return i;
}

double qr_chart_text_width(const char *text, size_t bytes, double font_px)
{
    double width = 0;
    for (size_t i = 0; i < bytes;) {
        size_t n = qr_utf8_char_bytes(text + i, bytes - i);
        width += char_width(text + i, n) * font_px * 1.04;
        i += n ? n : 1;
    }
    return width;
}

void qr_chart_write_text(qr_xml *out, double x, double y, qr_chart_anchor anchor, const char *classes, double font_px,
                         double max_width, double degrees, const char *text, size_t bytes)
{
    static const char *const anchors[] = {"", " text-anchor=\"middle\"", " text-anchor=\"end\""};
    qr_xml_printf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\"%s", x, y, classes, anchors[anchor]);
    if (degrees != 0) qr_xml_printf(out, " transform=\"rotate(%g %.1f %.1f)\"", degrees, x, y);
    qr_xml_raw(out, ">");
    size_t fits = qr_chart_text_fit(text, bytes, font_px, max_width);
    if (fits < bytes) {
        fits = qr_chart_text_fit(text, bytes, font_px, max_width - font_px);
        qr_xml_text_bytes(out, text, fits);
        qr_xml_raw(out, "\xE2\x80\xA6");
    } else {
        qr_xml_text_bytes(out, text, bytes);
    }
    qr_xml_raw(out, "</text>");
}
