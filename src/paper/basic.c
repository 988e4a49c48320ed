/* paper: basic sampling, one output for each request: figures 2, 12 and 13. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "paper/cases.h"

enum { NUM_PAPER_SYSTEMS = QR_PAPER_TODAY }; /* those of the paper come first */

/* ---- figure 2 --------------------------------------------------------------------------------- */

quire_status qr_paper_figure_memory(qr_paper *paper)
{
    enum { FIRST = QR_PAPER_ORCA_MAX, COUNT = QR_PAPER_NUM_SYSTEMS - FIRST };
    static const double live_in_paper[COUNT] = {20.4, 26.8, 38.2, 96.3, NAN};
    qr_paper_case cases[COUNT];
    qr_sim_result *results = qr_malloc(COUNT * sizeof *results);
    if (!results) return qr_fail_nomem(paper->error, "results", COUNT * sizeof *results);
    for (int i = 0; i < COUNT; i++)
        cases[i] = (qr_paper_case){.system = (qr_paper_system)(FIRST + i),
                                   .model = "opt-13b",
                                   .trace = &paper->sharegpt,
                                   .request_rate = 2,
                                   .seconds = 3600 * paper->options->hours};
    const quire_status status = qr_paper_run_cases(paper, cases, COUNT, results);
    double parts[4][COUNT];
    const char *categories[COUNT];
    qr_report_figure *figure =
        status == QUIRE_OK ? qr_report_add_figure(paper->report, "fig2", "Figure 2: what KV memory holds") : NULL;
    qr_report_text(figure,
                   "OPT-13B on one A100-40GB, ShareGPT at 2 requests/s. Mean over time of KV slots that hold tokens "
                   "(live), that running requests will fill (reserved), that they never will (internal "
                   "fragmentation), and that are lost between regions or too small for the next request (external), "
                   "as shares of memory not idle.");
    for (int i = 0; i < COUNT && status == QUIRE_OK; i++) {
        const qr_sim_memory *m = &results[i].memory;
        const double percent = 100 / fmax(1 - m->free, 1e-9);
        categories[i] = qr_paper_system_name(cases[i].system);
        parts[0][i] = m->live * percent;
        parts[1][i] = m->reserved * percent;
        parts[2][i] = m->internal * percent;
        parts[3][i] = m->external * percent;
        qr_report_row_add(figure, &(qr_report_row){.label = categories[i],
                                                   .unit = "% live",
                                                   .paper = live_in_paper[i],
                                                   .measured = parts[0][i],
                                                   .decimals = 1,
                                                   .lead = !isnan(live_in_paper[i])});
    }
    if (status == QUIRE_OK) {
        const qr_chart chart = {
            .kind = QR_CHART_STACKED_BARS,
            .id = "fig2-memory",
            .title = "KV memory, OPT-13B, ShareGPT at 2 requests/s",
            .y = {.title = "KV slots (%)", .max = 100},
            .categories = categories,
            .num_categories = COUNT,
            .reference_name = "live tokens in the paper",
            .value_decimals = 1,
            .num_series = 4,
            .series = {{.name = "live tokens", .y = parts[0], .reference = live_in_paper, .count = COUNT},
                       {.name = "reserved", .y = parts[1], .count = COUNT},
                       {.name = "internal fragmentation", .y = parts[2], .count = COUNT},
                       {.name = "external fragmentation", .y = parts[3], .count = COUNT}}};
        qr_report_chart(figure, &chart);
    }
    qr_free(results);
    return status;
}

/* ---- figure 13 -------------------------------------------------------------------------------- */

quire_status qr_paper_figure_batched(qr_paper *paper)
{
    enum { FIRST = QR_PAPER_ORCA_MAX, COUNT = QR_PAPER_NUM_SYSTEMS - FIRST, NUM_TRACES = 2 };
    static const double in_paper[NUM_TRACES][COUNT] = {{7.00, 9.81, 13.62, 30.42, NAN},
                                                       {7.00, 43.24, 72.75, 132.44, NAN}};
    static const char *const names[NUM_TRACES] = {"ShareGPT, 2 requests/s", "Alpaca, 30 requests/s"};
    qr_paper_case cases[NUM_TRACES * COUNT];
    qr_sim_result *results = qr_malloc(NUM_TRACES * COUNT * sizeof *results);
    if (!results) return qr_fail_nomem(paper->error, "results", NUM_TRACES * COUNT * sizeof *results);
    for (int i = 0; i < NUM_TRACES * COUNT; i++) {
        const bool alpaca = i / COUNT;
        cases[i] = (qr_paper_case){.system = (qr_paper_system)(FIRST + i % COUNT),
                                   .model = "opt-13b",
                                   .trace = alpaca ? &paper->alpaca : &paper->sharegpt,
                                   .request_rate = alpaca ? 30 : 2,
                                   .seconds = 3600 * paper->options->hours};
    }
    const quire_status status = qr_paper_run_cases(paper, cases, NUM_TRACES * COUNT, results);
    qr_report_figure *figure =
        status == QUIRE_OK ? qr_report_add_figure(paper->report, "fig13", "Figure 13: requests batched at a time")
                           : NULL;
    qr_report_text(figure, "OPT-13B on one A100-40GB. Mean over time of the requests that run. Orca (Max) fits "
                           "floor(15,728 / 2,048) = 7 regions of 2,048 slots.");
    for (int t = 0; t < NUM_TRACES && status == QUIRE_OK; t++) {
        double mean[COUNT];
        const char *categories[COUNT];
        char id[32];
        for (int i = 0; i < COUNT; i++) {
            categories[i] = qr_paper_system_name(cases[i].system);
            mean[i] = results[t * COUNT + i].mean_batched_requests;
            char label[64];
            snprintf(label, sizeof label, "%s, %s", names[t], categories[i]);
            qr_report_row_add(figure, &(qr_report_row){.label = label,
                                                       .paper = in_paper[t][i],
                                                       .measured = mean[i],
                                                       .decimals = 2,
                                                       .lead = !isnan(in_paper[t][i])});
        }
        snprintf(id, sizeof id, "fig13-%s", t ? "alpaca" : "sharegpt");
        const qr_chart chart = {.kind = QR_CHART_GROUPED_BARS,
                                .id = id,
                                .title = names[t],
                                .y.title = "Batched requests, mean",
                                .categories = categories,
                                .num_categories = COUNT,
                                .reference_name = "paper",
                                .value_decimals = 1,
                                .num_series = 1,
                                .series = {{.name = "simulated", .y = mean, .reference = in_paper[t], .count = COUNT}}};
        qr_report_chart(figure, &chart);
    }
    qr_free(results);
    return status;
}

/* ---- figure 12 -------------------------------------------------------------------------------- */

typedef struct panel {
    const char *model, *id, *title;
    bool alpaca;
    double seconds; /* the paper's trace */
} panel;

static const panel panels[] = {
    {"opt-13b", "fig12a", "OPT-13B, 1 GPU, ShareGPT", false, 3600},
    {"opt-66b", "fig12b", "OPT-66B, 4 GPUs, ShareGPT", false, 3600},
    {"opt-175b", "fig12c", "OPT-175B, 8 GPUs, ShareGPT", false, 900},
    {"opt-13b", "fig12d", "OPT-13B, 1 GPU, Alpaca", true, 3600},
    {"opt-66b", "fig12e", "OPT-66B, 4 GPUs, Alpaca", true, 3600},
    {"opt-175b", "fig12f", "OPT-175B, 8 GPUs, Alpaca", true, 900},
};
enum { NUM_PANELS = sizeof panels / sizeof *panels };

static void add_ratio(qr_report_figure *figure, const panel *p, const qr_paper_curve *curves, qr_paper_system below,
                      double low, double high, const char *note)
{
    char label[96];
    snprintf(label, sizeof label, "%s: vLLM over %s", p->title, qr_paper_system_name(below));
    qr_report_row_add(figure, &(qr_report_row){.label = label,
                                               .unit = "x",
                                               .paper = low,
                                               .paper_high = high,
                                               .measured = curves[QR_PAPER_VLLM].sustained / curves[below].sustained,
                                               .decimals = 1,
                                               .lead = !isnan(low),
                                               .note = note});
}

static void report_panel(qr_report_figure *figure, const panel *p, const qr_paper_case *cases,
                         const qr_paper_curve *curves)
{
    qr_paper_curves_chart(figure, p->id, p->title, "Request rate (requests/s)", cases, curves, QR_PAPER_NUM_SYSTEMS);
    for (int i = 0; i < QR_PAPER_NUM_SYSTEMS; i++) {
        char label[96];
        snprintf(label, sizeof label, "%s: %s", p->title, qr_paper_system_name(cases[i].system));
        qr_report_row_add(
            figure,
            &(qr_report_row){
                .label = label, .unit = "requests/s", .paper = NAN, .measured = curves[i].sustained, .decimals = 2});
    }
    if (p->alpaca) {
        const bool small = strcmp(p->model, "opt-13b") == 0;
        add_ratio(figure, p, curves, QR_PAPER_ORCA_ORACLE, small ? 1.3 : NAN, 0, NULL);
    } else {
        add_ratio(figure, p, curves, QR_PAPER_ORCA_ORACLE, 1.7, 2.7, NULL);
        add_ratio(figure, p, curves, QR_PAPER_ORCA_MAX, 2.7, 8, NULL);
        add_ratio(figure, p, curves, QR_PAPER_FT, NAN, 0, "the paper: up to 22 times");
    }
}

quire_status qr_paper_figure_basic(qr_paper *paper)
{
    enum { COUNT = NUM_PANELS * QR_PAPER_NUM_SYSTEMS };
    qr_paper_case cases[COUNT];
    for (int i = 0; i < COUNT; i++) {
        const panel *p = &panels[i / QR_PAPER_NUM_SYSTEMS];
        cases[i] = (qr_paper_case){.system = (qr_paper_system)(i % QR_PAPER_NUM_SYSTEMS),
                                   .model = p->model,
                                   .trace = p->alpaca ? &paper->alpaca : &paper->sharegpt,
                                   .request_rate = p->alpaca ? 0.5 : 0.05,
                                   .seconds = p->seconds * paper->options->hours};
    }
    qr_paper_curve *curves = qr_malloc(COUNT * sizeof *curves);
    if (!curves) return qr_fail_nomem(paper->error, "curves", COUNT * sizeof *curves);
    const quire_status status = qr_paper_sweep(paper, cases, COUNT, curves);
    qr_report_figure *figure =
        status == QUIRE_OK
            ? qr_report_add_figure(paper->report, "fig12", "Figure 12: normalized latency against request rate")
            : NULL;
    qr_report_text(figure,
                   "Poisson arrivals; latency of a request divided by its output tokens, mean. The rate that a system "
                   "sustains is where its curve crosses %.1f s/token; the curves are so steep there that another "
                   "limit changes little.",
                   qr_paper_latency_limit);
    for (int i = 0; i < NUM_PANELS && status == QUIRE_OK; i++)
        report_panel(figure, &panels[i], cases + i * QR_PAPER_NUM_SYSTEMS, curves + i * QR_PAPER_NUM_SYSTEMS);
    qr_free(curves);
    return status;
}
