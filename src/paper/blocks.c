/* paper: the ablations, figures 18 and 19. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "paper/cases.h"

/* OPT-13B on its device with blocks of so many tokens. */
static qr_sim_cost cost_of(const qr_paper *paper, int block_size, bool contiguous)
{
    const qr_sim_setup *setup = qr_sim_find_setup("opt-13b", NULL, 0);
    return (qr_sim_cost){.device = *qr_paper_device(paper, setup->device),
                         .model = *qr_sim_find_model("opt-13b"),
                         .tensor_parallel_size = setup->tensor_parallel_size,
                         .block_size = block_size,
                         .contiguous = contiguous};
}

/* ---- figure 18 -------------------------------------------------------------------------------- */

enum { NUM_SIZES = 9 };
static const double sizes[NUM_SIZES] = {1, 2, 4, 8, 16, 32, 64, 128, 256};

/* Attention over the same context, paged against contiguous. */
static double attention_ratio(const qr_paper *paper, int block_size)
{
    const qr_sim_cost paged = cost_of(paper, block_size, false), whole = cost_of(paper, block_size, true);
    qr_sim_load load = {0};
    for (int i = 0; i < 32; i++) qr_sim_load_add(&load, 255, 1);
    return qr_sim_cost_terms(&paged, &load).attention / qr_sim_cost_terms(&whole, &load).attention;
}

static void report_sizes(qr_paper *paper, const qr_sim_result *results, const double rates[2])
{
    double latency[2][NUM_SIZES];
    qr_report_figure *figure = qr_report_add_figure(paper->report, "fig18", "Figure 18: block size");
    qr_report_text(figure,
                   "OPT-13B, vLLM, at nine tenths of the rate that it sustains with blocks of 16: %.2f requests/s of "
                   "ShareGPT, %.1f of Alpaca. Small blocks make the attention kernel slow, large ones waste their last "
                   "part. What a block costs the kernel is an input: it was set from the paper's figure 18a.",
                   rates[0], rates[1]);
    for (int i = 0; i < 2 * NUM_SIZES; i++)
        latency[i / NUM_SIZES][i % NUM_SIZES] = qr_sim_histogram_mean(&results[i].normalized_latency);
    const qr_chart chart = {.kind = QR_CHART_LINES,
                            .id = "fig18-latency",
                            .title = "Latency by block size, OPT-13B",
                            .x = {.title = "Block size (tokens)", .log = true, .binary = true},
                            .y = {.title = "Normalized latency (s/token)", .log = true},
                            .num_series = 2,
                            .series = {{.name = "ShareGPT", .x = sizes, .y = latency[0], .count = NUM_SIZES},
                                       {.name = "Alpaca", .x = sizes, .y = latency[1], .count = NUM_SIZES}}};
    qr_report_chart(figure, &chart);
    qr_report_row_add(figure, &(qr_report_row){.label = "attention kernel against a contiguous one, block size 16",
                                               .unit = "x",
                                               .paper = 1.20,
                                               .paper_high = 1.26,
                                               .measured = attention_ratio(paper, 16),
                                               .decimals = 2,
                                               .note = "an input of the cost model"});
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < NUM_SIZES; i++) {
            char label[64];
            snprintf(label, sizeof label, "%s, block size %.0f", t ? "Alpaca" : "ShareGPT", sizes[i]);
            qr_report_row_add(
                figure, &(qr_report_row){
                            .label = label, .unit = "s/token", .paper = NAN, .measured = latency[t][i], .decimals = 3});
        }
}

quire_status qr_paper_figure_block_size(qr_paper *paper)
{
    qr_paper_case cases[2 * NUM_SIZES];
    qr_paper_curve curves[2];
    for (int t = 0; t < 2; t++)
        cases[t] = (qr_paper_case){.system = QR_PAPER_VLLM,
                                   .model = "opt-13b",
                                   .trace = t ? &paper->alpaca : &paper->sharegpt,
                                   .request_rate = t ? 5 : 0.5,
                                   .seconds = 3600 * paper->options->hours};
    QR_TRY(qr_paper_sweep(paper, cases, 2, curves));
    const double rates[2] = {0.9 * curves[0].sustained, 0.9 * curves[1].sustained};
    for (int i = 0; i < 2 * NUM_SIZES; i++)
        cases[i] = (qr_paper_case){.system = QR_PAPER_VLLM,
                                   .model = "opt-13b",
                                   .trace = i / NUM_SIZES ? &paper->alpaca : &paper->sharegpt,
                                   .request_rate = rates[i / NUM_SIZES],
                                   .seconds = 3600 * paper->options->hours,
                                   .block_size = (int)sizes[i % NUM_SIZES]};
    qr_sim_result *results = qr_malloc(2 * NUM_SIZES * sizeof *results);
    if (!results) return qr_fail_nomem(paper->error, "results", 2 * NUM_SIZES * sizeof *results);
    const quire_status status = qr_paper_run_cases(paper, cases, 2 * NUM_SIZES, results);
    if (status == QUIRE_OK) report_sizes(paper, results, rates);
    qr_free(results);
    return status;
}

/* ---- figure 19 -------------------------------------------------------------------------------- */

enum { NUM_MICRO = 9, SWAPPED_TOKENS = 256, NUM_MODES = 2, NUM_SERVED = 5 };

static void report_preemption(qr_paper *paper, const qr_sim_result *results, double rate)
{
    double recompute[NUM_MICRO], swap_in[NUM_MICRO], swap_both[NUM_MICRO], latency[NUM_MODES][NUM_SERVED];
    qr_report_figure *figure = qr_report_add_figure(paper->report, "fig19", "Figure 19: recomputing against swapping");
    qr_report_text(
        figure,
        "OPT-13B. Left: bringing back a sequence of %d tokens. Right: ShareGPT at %.2f requests/s, what vLLM "
        "sustains, preempting by one or the other.",
        SWAPPED_TOKENS, rate);
    for (int i = 0; i < NUM_MICRO; i++) {
        const qr_sim_cost cost = cost_of(paper, (int)sizes[i], false);
        qr_sim_load load = {0};
        qr_sim_load_add(&load, 0, SWAPPED_TOKENS);
        recompute[i] = qr_sim_cost_step_us(&cost, &load) / 1000;
        swap_in[i] = SWAPPED_TOKENS / sizes[i] * qr_sim_cost_swap_us_per_block(&cost) / 1000;
        swap_both[i] = 2 * swap_in[i];
    }
    for (int i = 0; i < NUM_MODES * NUM_SERVED; i++)
        latency[i / NUM_SERVED][i % NUM_SERVED] = qr_sim_histogram_mean(&results[i].normalized_latency);
    const qr_chart micro = {.kind = QR_CHART_LINES,
                            .id = "fig19-overhead",
                            .title = "Overhead for 256 tokens",
                            .x = {.title = "Block size (tokens)", .log = true, .binary = true},
                            .y = {.title = "Time (ms)", .log = true},
                            .num_series = 3,
                            .series = {{.name = "recompute", .x = sizes, .y = recompute, .count = NUM_MICRO},
                                       {.name = "swap in, or out", .x = sizes, .y = swap_in, .count = NUM_MICRO},
                                       {.name = "swap in and out", .x = sizes, .y = swap_both, .count = NUM_MICRO}}};
    qr_report_chart(figure, &micro);
    const qr_chart served = {.kind = QR_CHART_LINES,
                             .id = "fig19-latency",
                             .title = "Served, ShareGPT",
                             .x = {.title = "Block size (tokens)", .log = true, .binary = true},
                             .y.title = "Normalized latency (s/token)",
                             .num_series = 2,
                             .series = {{.name = "recompute", .x = sizes + 3, .y = latency[0], .count = NUM_SERVED},
                                        {.name = "swap", .x = sizes + 3, .y = latency[1], .count = NUM_SERVED}}};
    qr_report_chart(figure, &served);
    for (int i = 0; i < NUM_SERVED; i++) {
        char label[64];
        const bool comparable = sizes[3 + i] >= 16 && sizes[3 + i] <= 64;
        snprintf(label, sizeof label, "latency, recompute / swap, block size %.0f", sizes[3 + i]);
        qr_report_row_add(figure, &(qr_report_row){.label = label,
                                                   .unit = "x",
                                                   .paper = NAN,
                                                   .measured = latency[0][i] / latency[1][i],
                                                   .decimals = 2,
                                                   .note = comparable ? "the paper: comparable from 16 to 64" : NULL});
    }
    for (int i = 0; i < NUM_MICRO; i++) {
        char label[64];
        snprintf(label, sizeof label, "recompute / swap in and out, block size %.0f", sizes[i]);
        qr_report_row_add(figure, &(qr_report_row){.label = label,
                                                   .unit = "x",
                                                   .paper = NAN,
                                                   .measured = recompute[i] / swap_both[i],
                                                   .decimals = 2,
                                                   .note = i == 0 ? "the paper: never above 1.2" : NULL});
    }
}

quire_status qr_paper_figure_preemption(qr_paper *paper)
{
    qr_paper_case cases[NUM_MODES * NUM_SERVED];
    qr_paper_curve curve;
    cases[0] = (qr_paper_case){.system = QR_PAPER_VLLM,
                               .model = "opt-13b",
                               .trace = &paper->sharegpt,
                               .request_rate = 0.5,
                               .seconds = 3600 * paper->options->hours};
    QR_TRY(qr_paper_sweep(paper, cases, 1, &curve));
    for (int i = NUM_MODES * NUM_SERVED - 1; i >= 0; i--) {
        cases[i] = cases[0];
        cases[i].request_rate = curve.sustained;
        cases[i].block_size = (int)sizes[3 + i % NUM_SERVED];
        cases[i].swap = i >= NUM_SERVED;
    }
    qr_sim_result *results = qr_malloc(NUM_MODES * NUM_SERVED * sizeof *results);
    if (!results) return qr_fail_nomem(paper->error, "results", NUM_MODES * NUM_SERVED * sizeof *results);
    const quire_status status = qr_paper_run_cases(paper, cases, NUM_MODES * NUM_SERVED, results);
    if (status == QUIRE_OK) report_preemption(paper, results, curve.sustained);
    qr_free(results);
    return status;
}
