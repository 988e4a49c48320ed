/* paper: the same systems with a model and machine of today, on traces with arrival times. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "paper/cases.h"

static void report_trace(qr_report_figure *figure, int idx, const char *name, const qr_paper_case *cases,
                         const qr_paper_curve *curves)
{
    char label[128], id[24];
    snprintf(id, sizeof id, "today-%d", idx + 1);
    qr_paper_curves_chart(figure, id, name, "Speed-up of the trace", cases, curves, QR_PAPER_NUM_SYSTEMS);
    for (int i = 0; i < QR_PAPER_NUM_SYSTEMS; i++) {
        snprintf(label, sizeof label, "%s: %s", name, qr_paper_system_name(cases[i].system));
        qr_report_row_add(figure, &(qr_report_row){.label = label,
                                                   .unit = "times the trace's rate",
                                                   .paper = NAN,
                                                   .measured = curves[i].sustained,
                                                   .decimals = 2});
    }
    snprintf(label, sizeof label, "%s: quire today over Orca (Oracle)", name);
    qr_report_row_add(
        figure, &(qr_report_row){.label = label,
                                 .unit = "x",
                                 .paper = NAN,
                                 .measured = curves[QR_PAPER_TODAY].sustained / curves[QR_PAPER_ORCA_ORACLE].sustained,
                                 .decimals = 1,
                                 .lead = true});
}

/* What a service would set as the maximum length: the longest request, rounded up to a power of two. */
static int32_t longest(const qr_sim_trace *trace)
{
    int32_t most = 1, length = 1;
    for (size_t i = 0; i < trace->num_rows; i++) {
        const int32_t tokens = trace->rows[i].prompt_tokens + trace->rows[i].output_tokens;
        if (tokens > most) most = tokens;
    }
    while (length < most && length < QR_SIM_MAX_LENGTH) length *= 2;
    return length;
}

quire_status qr_paper_figure_today(qr_paper *paper)
{
    const qr_paper_options *options = paper->options;
    const int count = options->num_traces * QR_PAPER_NUM_SYSTEMS;
    qr_paper_case cases[QR_PAPER_MAX_TRACES * QR_PAPER_NUM_SYSTEMS];
    if (count == 0) return QUIRE_OK;
    for (int i = 0; i < count; i++) {
        const qr_sim_trace *trace = options->traces[i / QR_PAPER_NUM_SYSTEMS].trace;
        cases[i] = (qr_paper_case){.system = (qr_paper_system)(i % QR_PAPER_NUM_SYSTEMS),
                                   .model = "llama-3-8b",
                                   .trace = trace,
                                   .speed = 0.02,
                                   .seconds = 3600 * options->hours,
                                   .max_model_len = longest(trace)};
    }
    qr_paper_curve *curves = qr_malloc((size_t)count * sizeof *curves);
    if (!curves) return qr_fail_nomem(paper->error, "curves", (size_t)count * sizeof *curves);
    const quire_status status = qr_paper_sweep(paper, cases, count, curves);
    if (status == QUIRE_OK) {
        qr_report_figure *figure =
            qr_report_add_figure(paper->report, "today", "Today: production traces, Llama 3 8B on an H100");
        qr_report_text(
            figure, "The traces' own arrival times, sped up or slowed down until a system cannot follow; 0: not even "
                    "at a fiftieth of the speed. With grouped-query attention a token's KV is six times smaller "
                    "than OPT-13B's and memory is seldom what is short: then all that batch alike serve alike, and "
                    "what counts is that long prompts are cut and beginnings are not computed twice (Mooncake). "
                    "The cost of paging in attention is still that of the paper's kernel.");
        for (int i = 0; i < options->num_traces; i++)
            report_trace(figure, i, options->traces[i].name, cases + i * QR_PAPER_NUM_SYSTEMS,
                         curves + i * QR_PAPER_NUM_SYSTEMS);
    }
    qr_free(curves);
    return status;
}
