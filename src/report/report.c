#include "report/report.h"

#include <assert.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report/scale.h"

enum { MAX_FIGURES = 48, MAX_CHARTS = 96, MAX_TEXT = 4096, MAX_PATH = 1024 };

struct qr_report_figure {
    qr_report *report;
    char id[64];
    char *title;
    qr_xml text, charts, rows;
    json_t *json; /* the rows; borrowed from the report's document */
};

typedef struct chart_file {
    char id[64];
    qr_xml svg;
} chart_file;

struct qr_report {
    char *title;
    qr_xml intro, facts, lead;
    qr_report_figure *figures[MAX_FIGURES];
    int num_figures;
    chart_file *charts[MAX_CHARTS];
    int num_charts;
    json_t *json; /* [{"figure", "title", "rows": [...]}, ...] */
    bool failed;  /* an allocation failed */
};

static const char page_style[] =
    ":root{color-scheme:light dark;--ink:#1b1f24;--soft:#4d555e;--line:#d5dae0;--ground:#fff;--band:#f4f6f8;"
    "--link:#1a5fb4}"
    "@media screen and (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#b3bac2;--line:#363d45;"
    "--ground:#14171b;--band:#1c2026;--link:#6cb2ff}}"
    "*{box-sizing:border-box}"
    "body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:64rem;background:var(--ground);color:var(--ink);"
    "font:1rem/1.5 Helvetica,Arial,\"Liberation Sans\",sans-serif}"
    "h1{font-size:1.6rem;line-height:1.2;margin:0 0 1rem}h2{font-size:1.2rem;margin:2.5rem 0 .5rem}"
    "p{max-width:44rem;margin:.5rem 0}a{color:var(--link)}"
    "nav ul{columns:2 20rem;padding-left:1.2rem;margin:.5rem 0}"
    ".scroll{overflow-x:auto;margin:.75rem 0}"
    "table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .7rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}"
    "thead th{background:var(--band);border-bottom:2px solid var(--line)}tbody th{font-weight:normal}"
    "th.n,td.n{text-align:right;white-space:nowrap}td.note{color:var(--soft);min-width:12rem}td.note:empty{min-width:0;"
    "padding:0}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:.75rem;"
    "margin:.75rem 0}"
    ".charts svg{width:100%;height:auto;max-width:36rem;border:1px solid var(--line);border-radius:4px}"
    "@media(max-width:40rem){table{font-size:.78rem}th,td{padding:.25rem .3rem}td.note{min-width:6rem}}"
    "@media print{body{max-width:none;padding:0;font-size:9.5pt}tr,.charts "
    "svg{break-inside:avoid}h2{break-after:avoid}th,td{padding:.12rem .5rem}"
    "nav{display:none}.charts{grid-template-columns:1fr 1fr}a{color:inherit;text-decoration:none}"
    "@page{margin:15mm}}";

quire_status qr_report_create(const char *title, qr_report **out, quire_error *error)
{
    qr_report *report = qr_calloc(1, sizeof *report);
    if (!report) return qr_fail_nomem(error, "the report", sizeof *report);
    report->title = qr_strdup(title);
    report->json = json_array();
    report->failed = !report->title || !report->json;
    *out = report;
    return QUIRE_OK;
}

void qr_report_destroy(qr_report *report)
{
    if (!report) return;
    for (int i = 0; i < report->num_figures; i++) {
        qr_report_figure *figure = report->figures[i];
        qr_xml_deinit(&figure->text);
        qr_xml_deinit(&figure->charts);
        qr_xml_deinit(&figure->rows);
        qr_free(figure->title);
        qr_free(figure);
    }
    for (int i = 0; i < report->num_charts; i++) {
        qr_xml_deinit(&report->charts[i]->svg);
        qr_free(report->charts[i]);
    }
    qr_xml_deinit(&report->intro);
    qr_xml_deinit(&report->facts);
    qr_xml_deinit(&report->lead);
    json_decref(report->json);
    qr_free(report->title);
    qr_free(report);
}

/* A paragraph; what stands between backticks is code. */
static void write_paragraph(qr_xml *out, const char *text)
{
    qr_xml_raw(out, "<p>");
    for (bool code = false;; code = !code) {
        const size_t bytes = strcspn(text, "`");
        qr_xml_text_bytes(out, text, bytes);
        if (!text[bytes]) {
            qr_xml_raw(out, code ? "</code></p>\n" : "</p>\n");
            return;
        }
        qr_xml_raw(out, code ? "</code>" : "<code>");
        text += bytes + 1;
    }
}

void qr_report_intro(qr_report *report, const char *text) { write_paragraph(&report->intro, text); }

void qr_report_fact(qr_report *report, const char *name, const char *value)
{
    qr_xml_raw(&report->facts, "<tr><th scope=\"row\">");
    qr_xml_text(&report->facts, name);
    qr_xml_raw(&report->facts, "</th><td>");
    qr_xml_text(&report->facts, value);
    qr_xml_raw(&report->facts, "</td></tr>\n");
}

static bool is_id(const char *id)
{
    return *id && strlen(id) < 48 &&
           id[strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")] == 0;
}

qr_report_figure *qr_report_add_figure(qr_report *report, const char *id, const char *title)
{
    assert(is_id(id) && report->num_figures < MAX_FIGURES);
    qr_report_figure *figure = qr_calloc(1, sizeof *figure);
    if (!figure) {
        report->failed = true;
        return NULL;
    }
    report->figures[report->num_figures++] = figure;
    figure->report = report;
    snprintf(figure->id, sizeof figure->id, "%s", id);
    figure->title = qr_strdup(title);
    figure->json = json_array();
    json_t *entry = json_pack("{s:s,s:s,s:o}", "figure", id, "title", title, "rows", figure->json);
    if (!entry || json_array_append_new(report->json, entry) != 0) {
        figure->json = NULL;
        report->failed = true;
    }
    report->failed |= !figure->title;
    return figure;
}

void qr_report_text(qr_report_figure *figure, const char *fmt, ...)
{
    if (!figure) return;
    char text[MAX_TEXT];
    va_list list;
    va_start(list, fmt);
    int bytes = vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    assert(bytes >= 0 && bytes < (int)sizeof text);
    write_paragraph(&figure->text, text);
}

/* A value, or with `high` (0: none) a range. */
static void write_number(qr_xml *out, double value, double high, const qr_report_row *row)
{
    qr_xml_raw(out, "<td class=\"n\">");
    if (isfinite(value)) {
        qr_xml_printf(out, "%.*f", row->decimals, value);
        if (high != 0) qr_xml_printf(out, "\xE2\x80\x93%.*f", row->decimals, high);
        if (row->unit) {
            qr_xml_raw(out, strcmp(row->unit, "x") == 0 ? "" : "\xC2\xA0"); /* no line break before a unit */
            qr_xml_text(out, strcmp(row->unit, "x") == 0 ? "\xC3\x97" : row->unit);
        }
    } else {
        qr_xml_raw(out, "\xE2\x80\x93");
    }
    qr_xml_raw(out, "</td>");
}

static void write_row(qr_xml *out, const qr_report_figure *where, const qr_report_row *row)
{
    qr_xml_raw(out, "<tr>");
    if (where) {
        qr_xml_printf(out, "<td><a href=\"#%s\">", where->id);
        qr_xml_text_bytes(out, where->title, strcspn(where->title, ":"));
        qr_xml_raw(out, "</a></td>");
    }
    qr_xml_raw(out, "<th scope=\"row\">");
    qr_xml_text(out, row->label);
    qr_xml_raw(out, "</th>");
    write_number(out, row->paper, row->paper_high, row);
    write_number(out, row->measured, 0, row);
    /* to the nearest number of the paper's range */
    double nearest = row->paper;
    if (row->paper_high != 0) nearest = fmin(fmax(row->measured, row->paper), row->paper_high);
    double ratio = row->measured / nearest;
    if (isfinite(ratio))
        qr_xml_printf(out, "<td class=\"n\">%.2f</td><td class=\"note\">", ratio);
    else
        qr_xml_raw(out, "<td class=\"n\">\xE2\x80\x93</td><td class=\"note\">");
    qr_xml_text(out, row->note);
    qr_xml_raw(out, "</td></tr>\n");
}

static json_t *number_or_null(double value) { return isfinite(value) ? json_real(value) : json_null(); }

void qr_report_row_add(qr_report_figure *figure, const qr_report_row *row)
{
    if (!figure) return;
    qr_report *report = figure->report;
    write_row(&figure->rows, NULL, row);
    if (row->lead && figure->title) write_row(&report->lead, figure, row);
    json_t *json = json_pack("{s:s,s:s*,s:o,s:o,s:o,s:s*}", "label", row->label, "unit", row->unit, "paper",
                             number_or_null(row->paper), "paper_high",
                             number_or_null(row->paper_high != 0 ? row->paper_high : NAN), "measured",
                             number_or_null(row->measured), "note", row->note);
    if (!json || !figure->json || json_array_append_new(figure->json, json) != 0) report->failed = true;
}

void qr_report_chart(qr_report_figure *figure, const qr_chart *chart)
{
    if (!figure) return;
    qr_report *report = figure->report;
    assert(is_id(chart->id) && report->num_charts < MAX_CHARTS);
    for (int i = 0; i < report->num_charts; i++) assert(strcmp(report->charts[i]->id, chart->id) != 0);
    chart_file *file = qr_calloc(1, sizeof *file);
    if (!file) {
        report->failed = true;
        return;
    }
    report->charts[report->num_charts++] = file;
    snprintf(file->id, sizeof file->id, "%s", chart->id);
    qr_chart_write(chart, &file->svg);
    if (file->svg.buf.data) qr_xml_raw(&figure->charts, file->svg.buf.data);
}

/* ---- files ------------------------------------------------------------------------------------ */

static void join(qr_xml *out, const qr_xml *from)
{
    if (from->failed) out->failed = true;
    if (from->buf.data) qr_xml_raw(out, from->buf.data);
}

static void write_table(qr_xml *out, const qr_xml *rows, bool with_figure)
{
    if (!rows->buf.len) return;
    qr_xml_printf(out,
                  "<div class=\"scroll\"><table><thead><tr>%s<th scope=\"col\"></th>"
                  "<th scope=\"col\" class=\"n\">paper</th><th scope=\"col\" class=\"n\">quire</th>"
                  "<th scope=\"col\" class=\"n\">ratio</th><th scope=\"col\"></th></tr></thead><tbody>\n",
                  with_figure ? "<th scope=\"col\">figure</th>" : "");
    join(out, rows);
    qr_xml_raw(out, "</tbody></table></div>\n");
}

static void write_figure(qr_xml *out, const qr_report_figure *figure)
{
    qr_xml_printf(out, "<section id=\"%s\"><h2>", figure->id);
    qr_xml_text(out, figure->title);
    qr_xml_raw(out, "</h2>\n");
    join(out, &figure->text);
    if (figure->charts.buf.len) {
        qr_xml_raw(out, "<div class=\"charts\">\n");
        join(out, &figure->charts);
        qr_xml_raw(out, "</div>\n");
    }
    write_table(out, &figure->rows, false);
    qr_xml_raw(out, "</section>\n");
}

static void write_page(const qr_report *report, qr_xml *out)
{
    qr_xml_raw(out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
                    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><title>");
    qr_xml_text(out, report->title);
    qr_xml_raw(out, "</title><style>");
    qr_xml_raw(out, page_style);
    qr_xml_raw(out, "</style></head><body>\n<h1>");
    qr_xml_text(out, report->title);
    qr_xml_raw(out, "</h1>\n");
    join(out, &report->intro);
    if (report->lead.buf.len) qr_xml_raw(out, "<h2>In brief</h2>\n");
    write_table(out, &report->lead, true);
    if (report->facts.buf.len) qr_xml_raw(out, "<h2>What was used</h2>\n<div class=\"scroll\"><table><tbody>\n");
    join(out, &report->facts);
    if (report->facts.buf.len) qr_xml_raw(out, "</tbody></table></div>\n");
    if (report->num_figures) qr_xml_raw(out, "<nav><h2>Figures</h2><ul>\n");
    for (int i = 0; i < report->num_figures; i++) {
        qr_xml_printf(out, "<li><a href=\"#%s\">", report->figures[i]->id);
        qr_xml_text(out, report->figures[i]->title);
        qr_xml_raw(out, "</a></li>\n");
    }
    if (report->num_figures) qr_xml_raw(out, "</ul></nav>\n");
    for (int i = 0; i < report->num_figures; i++) write_figure(out, report->figures[i]);
    qr_xml_raw(out, "</body></html>\n");
}

static quire_status save(const qr_xml *text, const char *dir, const char *name, const char *suffix, quire_error *error)
{
    char path[MAX_PATH];
    if (snprintf(path, sizeof path, "%s/%s%s", dir, name, suffix) >= (int)sizeof path)
        return qr_fail(error, QUIRE_INVALID, "%s: the folder's name is too long", dir);
    return qr_xml_save(text, path, error);
}

static quire_status save_page(const qr_report *report, const char *dir, quire_error *error)
{
    qr_xml page = {0};
    write_page(report, &page);
    quire_status status = save(&page, dir, "index", ".html", error);
    qr_xml_deinit(&page);
    return status;
}

static quire_status save_json(const qr_report *report, const char *dir, quire_error *error)
{
    qr_xml text = {0};
    char *json = json_dumps(report->json, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    text.failed = !json;
    if (json) qr_xml_raw(&text, json);
    qr_xml_raw(&text, "\n");
    free(json);
    quire_status status = save(&text, dir, "figures", ".json", error);
    qr_xml_deinit(&text);
    return status;
}

quire_status qr_report_save(const qr_report *report, const char *dir, quire_error *error)
{
    if (report->failed) return qr_fail_nomem(error, "the report", 0);
    QR_TRY(qr_xml_make_dir(dir, error));
    for (int i = 0; i < report->num_charts; i++)
        QR_TRY(save(&report->charts[i]->svg, dir, report->charts[i]->id, ".svg", error));
    QR_TRY(save_json(report, dir, error));
    return save_page(report, dir, error);
}
