/* paper: memory shared within a request and between requests: figures 14, 15, 16 and 17. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "paper/cases.h"

static const qr_paper_system compared[] = {QR_PAPER_ORCA_MAX, QR_PAPER_ORCA_POW2, QR_PAPER_ORCA_ORACLE, QR_PAPER_VLLM,
                                           QR_PAPER_TODAY};
enum { NUM_COMPARED = sizeof compared / sizeof *compared, ORACLE = 2, VLLM = 3, TODAY = 4, MAX_PANELS = 6 };

/* Several panels of the compared systems: a chart each, the rates sustained, and vLLM over Orca (Oracle). */
typedef struct panel {
    char id[24], title[64];
    double rate;      /* where the sweep begins */
    double in_paper;  /* vLLM over Orca (Oracle); NAN: not given */
    bool over_all;    /* the paper says it of all three Orcas */
    qr_paper_case of; /* all but system and rate */
} panel;

static void report_panel(qr_report_figure *figure, const panel *p, const qr_paper_case *cases,
                         const qr_paper_curve *curves)
{
    char label[96];
    qr_paper_curves_chart(figure, p->id, p->title, "Request rate (requests/s)", cases, curves, NUM_COMPARED);
    for (int i = 0; i < NUM_COMPARED; i++) {
        snprintf(label, sizeof label, "%s: %s", p->title, qr_paper_system_name(cases[i].system));
        qr_report_row_add(
            figure,
            &(qr_report_row){
                .label = label, .unit = "requests/s", .paper = NAN, .measured = curves[i].sustained, .decimals = 2});
    }
    for (int i = p->over_all ? 0 : ORACLE; i <= ORACLE; i++) {
        snprintf(label, sizeof label, "%s: vLLM over %s", p->title, qr_paper_system_name(cases[i].system));
        qr_report_row_add(figure, &(qr_report_row){.label = label,
                                                   .unit = "x",
                                                   .paper = p->in_paper,
                                                   .measured = curves[VLLM].sustained / curves[i].sustained,
                                                   .decimals = 2,
                                                   .lead = !isnan(p->in_paper)});
    }
}

static quire_status run_panels(qr_paper *paper, const panel *panels, int num_panels, const char *id, const char *title,
                               const char *text)
{
    qr_paper_case cases[MAX_PANELS * NUM_COMPARED];
    const int count = num_panels * NUM_COMPARED;
    for (int i = 0; i < count; i++) {
        const panel *p = &panels[i / NUM_COMPARED];
        cases[i] = p->of;
        cases[i].system = compared[i % NUM_COMPARED];
        cases[i].request_rate = p->rate;
        cases[i].seconds = 3600 * paper->options->hours;
    }
    qr_paper_curve *curves = qr_malloc((size_t)count * sizeof *curves);
    if (!curves) return qr_fail_nomem(paper->error, "curves", (size_t)count * sizeof *curves);
    const quire_status status = qr_paper_sweep(paper, cases, count, curves);
    if (status == QUIRE_OK) {
        qr_report_figure *figure = qr_report_add_figure(paper->report, id, title);
        qr_report_text(figure, "%s", text);
        for (int i = 0; i < num_panels; i++)
            report_panel(figure, &panels[i], cases + i * NUM_COMPARED, curves + i * NUM_COMPARED);
    }
    qr_free(curves);
    return status;
}

/* ---- figure 14 -------------------------------------------------------------------------------- */

quire_status qr_paper_figure_sampling(qr_paper *paper)
{
    static const int widths[] = {2, 4, 6};
    panel panels[MAX_PANELS];
    int count = 0;
    for (int beams = 0; beams <= 1; beams++)
        for (int i = 0; i < 3; i++) {
            panel *p = &panels[count++];
            *p = (panel){
                .rate = 0.25,
                .in_paper = beams && widths[i] == 6 ? 2.3 : NAN,
                .of = {.model = "opt-13b", .trace = &paper->alpaca, .num_seqs = widths[i], .beam_search = beams}};
            snprintf(p->id, sizeof p->id, "fig14-%s%d", beams ? "beams" : "parallel", widths[i]);
            snprintf(p->title, sizeof p->title, "%s %d",
                     beams ? "Beam search, width" : "Parallel sampling, n =", widths[i]);
        }
    return run_panels(
        paper, panels, count, "fig14", "Figure 14: parallel sampling and beam search",
        "OPT-13B, Alpaca. Paged systems hold a prompt once for all sequences of a request and copy a block "
        "only when one of them writes into it; regions hold everything once for each sequence. Beams "
        "branch as they did in recorded searches of a real model.");
}

/* ---- figure 15 -------------------------------------------------------------------------------- */

enum { NUM_WIDTHS = 3, NUM_SAVED = 4 * NUM_WIDTHS };

static void chart_saved(qr_report_figure *figure, const char *id, const char *title, const double *samples,
                        const double *beams, const double *samples_in_paper, const double *beams_in_paper)
{
    static const char *const widths[NUM_WIDTHS] = {"2", "4", "6"};
    const qr_chart chart = {
        .kind = QR_CHART_GROUPED_BARS,
        .id = id,
        .title = title,
        .x.title = "Samples or beams of a request",
        .y.title = "Blocks saved by sharing (%)",
        .categories = widths,
        .num_categories = NUM_WIDTHS,
        .reference_name = "paper",
        .value_decimals = 1,
        .num_series = 2,
        .series = {{.name = "parallel sampling", .y = samples, .reference = samples_in_paper, .count = NUM_WIDTHS},
                   {.name = "beam search", .y = beams, .reference = beams_in_paper, .count = NUM_WIDTHS}}};
    qr_report_chart(figure, &chart);
}

quire_status qr_paper_figure_saved(qr_paper *paper)
{
    static const double in_paper[NUM_SAVED] = {6.09,  8.53,  9.79,  16.2, NAN, 30.5,  /* samples: Alpaca, ShareGPT */
                                               37.56, 53.13, 55.16, 44.3, NAN, 66.3}; /* beams: the same */
    static const char *const names[] = {"Parallel sampling, Alpaca", "Parallel sampling, ShareGPT",
                                        "Beam search, Alpaca", "Beam search, ShareGPT"};
    qr_paper_case cases[NUM_SAVED];
    for (int i = 0; i < NUM_SAVED; i++) {
        const bool sharegpt = i / NUM_WIDTHS % 2;
        cases[i] = (qr_paper_case){.system = QR_PAPER_VLLM,
                                   .model = "opt-13b",
                                   .trace = sharegpt ? &paper->sharegpt : &paper->alpaca,
                                   .request_rate = sharegpt ? 0.2 : 2,
                                   .seconds = 3600 * paper->options->hours,
                                   .num_seqs = 2 + i % NUM_WIDTHS * 2,
                                   .beam_search = i >= NUM_SAVED / 2};
    }
    qr_sim_result *results = qr_malloc(NUM_SAVED * sizeof *results);
    if (!results) return qr_fail_nomem(paper->error, "results", NUM_SAVED * sizeof *results);
    const quire_status status = qr_paper_run_cases(paper, cases, NUM_SAVED, results);
    if (status == QUIRE_OK) {
        double saved[NUM_SAVED];
        qr_report_figure *figure =
            qr_report_add_figure(paper->report, "fig15", "Figure 15: memory saved by sharing within a request");
        qr_report_text(figure,
                       "OPT-13B, vLLM: blocks that tables share with others, divided by the blocks of all tables, mean "
                       "over steps; Alpaca at 2 requests/s, ShareGPT at 0.2.");
        for (int i = 0; i < NUM_SAVED; i++) {
            char label[64];
            snprintf(label, sizeof label, "%s, %d", names[i / NUM_WIDTHS], cases[i].num_seqs);
            saved[i] = 100 * results[i].saved_share;
            qr_report_row_add(figure, &(qr_report_row){.label = label,
                                                       .unit = "%",
                                                       .paper = in_paper[i],
                                                       .measured = saved[i],
                                                       .decimals = 1,
                                                       .lead = !isnan(in_paper[i])});
        }
        for (int t = 0; t < 2; t++) {
            const int samples = t * NUM_WIDTHS, beams = samples + NUM_SAVED / 2;
            chart_saved(figure, t ? "fig15-sharegpt" : "fig15-alpaca", t ? "ShareGPT" : "Alpaca", saved + samples,
                        saved + beams, in_paper + samples, in_paper + beams);
        }
    }
    qr_free(results);
    return status;
}

/* ---- figures 16 and 17 ------------------------------------------------------------------------ */

quire_status qr_paper_figure_prefix(qr_paper *paper)
{
    const qr_paper_case of = {.model = "llama-13b", .trace = &paper->translation, .prefix_caching = true};
    panel panels[] = {{"fig16-one", "One example, 80 tokens shared", 1, 1.67, false, of},
                      {"fig16-five", "Five examples, 341 tokens shared", 1, 3.58, false, of}};
    panels[0].of.shared_prefix = 80;
    panels[1].of.shared_prefix = 341;
    return run_panels(
        paper, panels, 2, "fig16", "Figure 16: a prefix shared by all prompts",
        "LLaMA-13B, translation prompts behind a common instruction with examples. Paged systems hold the "
        "prefix once and do not compute it again.");
}

quire_status qr_paper_figure_chat(qr_paper *paper)
{
    const panel chat = {.id = "fig17-chat",
                        .title = "Chat, OPT-13B",
                        .rate = 0.05,
                        .in_paper = 2,
                        .over_all = true,
                        .of = {.model = "opt-13b", .trace = &paper->chats}};
    return run_panels(paper, &chat, 1, "fig17", "Figure 17: chats",
                      "OPT-13B; the prompt is the chat so far, cut to its last 1,024 tokens, and at most 1,024 tokens "
                      "are generated. As in the paper nothing is kept between the turns, but by quire today, whose "
                      "prefix cache finds what is still there. With most prompts near 1,024 tokens the three Orcas "
                      "reserve nearly the same.");
}
