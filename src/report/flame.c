#include "report/flame.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report/chart_internal.h"

enum { EDGE = 8, TITLE = 26, ROW = 26, LABEL_MARGIN = 5, MIN_LABEL = 14 };

static int after(const qr_flame *flame, int i)
{
    int end = i + 1;
    while (end < flame->num_frames && flame->frames[end].depth > flame->frames[i].depth) end++;
    return end;
}

/* A frame's own value, or the sum of its children. */
static double value_of(const qr_flame *flame, int i)
{
    int end = after(flame, i);
    double sum = 0;
    if (end == i + 1) return isfinite(flame->frames[i].value) ? fmax(flame->frames[i].value, 0) : 0;
    for (int child = i + 1; child < end; child = after(flame, child)) sum += value_of(flame, child);
    return sum;
}

static void write_frame(const qr_flame *flame, int i, double x, double width, double total, int style, qr_xml *out)
{
    const qr_flame_frame *f = &flame->frames[i];
    double value = value_of(flame, i), y = EDGE + TITLE + f->depth * ROW;
    char text[160];
    int len = snprintf(text, sizeof text, "%.80s %.*f %.16s, %.1f %%", f->name,
                       value<100, value, flame->unit, total> 0 ? value / total * 100 : 0);
    qr_xml_raw(out, "<g><title>");
    qr_xml_text(out, text);
    qr_xml_printf(out,
                  "</title><rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%d\" rx=\"2\" class=\"qc-f%d\" "
                  "fill-opacity=\"%.2f\"/>",
                  x + 0.5, y, fmax(width - 1, 0.2), ROW - 2, style, i % 2 ? 0.28 : 0.4);
    if (width > MIN_LABEL)
        qr_chart_write_text(out, x + LABEL_MARGIN, y + ROW / 2 + 3, QR_CHART_START, "qc-t qc-v", QR_CHART_VALUE_PX,
                            width - 2 * LABEL_MARGIN, 0, text, (size_t)len);
    qr_xml_raw(out, "</g>\n");
}

/* The frame and what it consists of, from x on. The upper levels have colours of their own. */
static void write_tree(const qr_flame *flame, int i, double x, double width, double total, int style, qr_xml *out)
{
    double value = value_of(flame, i);
    write_frame(flame, i, x, width, total, style, out);
    int end = after(flame, i);
    for (int child = i + 1; child < end; child = after(flame, child)) {
        double part = value > 0 ? width * value_of(flame, child) / value : 0;
        if (flame->frames[i].depth < 2) style = style % QR_CHART_NUM_STYLES + 1;
        write_tree(flame, child, x, part, total, style, out);
        x += part;
    }
}

static void write_description(const qr_flame *flame, double total, qr_xml *out)
{
    for (int i = 1; i < flame->num_frames; i++) {
        if (after(flame, i) > i + 1) continue;
        qr_xml_text(out, flame->frames[i].name);
        qr_xml_printf(out, " %.1f %%; ", total > 0 ? value_of(flame, i) / total * 100 : 0);
    }
}

void qr_flame_write(const qr_flame *flame, qr_xml *out)
{
    assert(flame->num_frames > 0 && flame->frames[0].depth == 0 && after(flame, 0) == flame->num_frames);
    int depth = 0;
    for (int i = 1; i < flame->num_frames; i++) {
        assert(flame->frames[i].depth <= flame->frames[i - 1].depth + 1);
        if (flame->frames[i].depth > depth) depth = flame->frames[i].depth;
    }
    assert(depth < QR_FLAME_MAX_DEPTH);
    double total = value_of(flame, 0), width = flame->width > 0 ? flame->width : 960,
           height = 2 * EDGE + TITLE + (depth + 1) * ROW;
    qr_xml_printf(out,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"qc\" width=\"%.0f\" height=\"%.0f\" "
                  "viewBox=\"0 0 %.0f %.0f\" role=\"img\"><title>",
                  width, height, width, height);
    qr_xml_text(out, flame->title);
    qr_xml_raw(out, "</title><desc>");
    write_description(flame, total, out);
    qr_xml_raw(out, "</desc>");
    qr_chart_write_base_style(out);
    qr_xml_printf(out, "<rect width=\"%.0f\" height=\"%.0f\" class=\"qc-bg\"/>\n", width, height);
    qr_chart_write_text(out, EDGE, EDGE + 12, QR_CHART_START, "qc-t qc-h", QR_CHART_TITLE_PX, width - 2 * EDGE, 0,
                        flame->title, strlen(flame->title));
    write_tree(flame, 0, EDGE, width - 2 * EDGE, total, 6, out);
    qr_xml_raw(out, "</svg>\n");
}

quire_status qr_flame_save(const qr_flame *flame, const char *path, quire_error *error)
{
    qr_xml out = {0};
    qr_xml_raw(&out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    qr_flame_write(flame, &out);
    quire_status status = qr_xml_save(&out, path, error);
    qr_xml_deinit(&out);
    return status;
}
