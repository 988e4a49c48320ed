#include "paper/paper.h"

#include <stdio.h>

#include "paper/cases.h"

enum { NUM_CHATS = 20000, NUM_SHAPED = 20000, MAX_CHAT_TOKENS = 1024 };

typedef struct figure {
    const char *name;
    quire_status (*run)(qr_paper *paper);
    double part; /* of all the work, about */
} figure;

static const figure figures[] = {
    {"figure 2", qr_paper_figure_memory, 0.02},      {"figure 12", qr_paper_figure_basic, 0.35},
    {"figure 13", qr_paper_figure_batched, 0.05},    {"figure 14", qr_paper_figure_sampling, 0.2},
    {"figure 15", qr_paper_figure_saved, 0.03},      {"figure 16", qr_paper_figure_prefix, 0.1},
    {"figure 17", qr_paper_figure_chat, 0.05},       {"figure 18", qr_paper_figure_block_size, 0.05},
    {"figure 19", qr_paper_figure_preemption, 0.05}, {"traces of today", qr_paper_figure_today, 0.1},
};
enum { NUM_FIGURES = sizeof figures / sizeof *figures };

static void fact(qr_report *report, const char *name, const qr_sim_trace *trace)
{
    char text[160];
    snprintf(text, sizeof text, "%zu requests, mean prompt %.1f tokens, mean output %.1f", trace->num_rows,
             qr_sim_trace_mean_prompt(trace), qr_sim_trace_mean_output(trace));
    qr_report_fact(report, name, text);
}

static void introduce(const qr_paper *paper)
{
    const qr_paper_options *options = paper->options;
    const qr_sim_device *a100 = qr_paper_device(paper, "a100-40gb");
    qr_report *report = paper->report;
    char text[512];
    qr_report_intro(report, "The evaluation of Efficient Memory Management for Large Language Model Serving with "
                            "PagedAttention (Kwon et al., SOSP 2023), run by `quire paper`. The scheduler and the "
                            "block manager are those that serve; the model is replaced by a cost model in virtual "
                            "time. FasterTransformer and the three Orcas are policies of the same scheduler, as the "
                            "paper describes them; vLLM is the paper's own scheduler, and \"quire today\" what "
                            "`quire serve` does by default (chunked prompts, prefix cache).");
    qr_report_intro(report, "The columns \"paper\" are what the paper says in text or prints at its bars; where it "
                            "only draws a curve there is a dash. One set of constants for all figures. docs/paper.md "
                            "has the method, every assumption, and why numbers differ.");
    snprintf(text, sizeof text,
             "%s virtual time of the traces: %g h (the paper: 1 h; OPT-175B a quarter of it); seed %llu",
             "quire " QUIRE_VERSION ",", options->hours, (unsigned long long)options->seed);
    qr_report_fact(report, "Program", text);
    snprintf(text, sizeof text,
             "%.0f GB/s memory, %.0f TFLOP/s, of which %.0f %% and %.0f %% are reached, attention %.0f %%; %.1f ms a "
             "step and %.2f ms a sequence in it",
             a100->memory_bandwidth_gbs, a100->tflops, 100 * a100->weight_efficiency, 100 * a100->flops_efficiency,
             100 * a100->attention_efficiency, a100->step_us / 1000, a100->seq_us / 1000);
    qr_report_fact(report, "A100-40GB", text);
    qr_report_fact(report, "KV slots",
                   "OPT-13B and LLaMA-13B 15,728; OPT-66B 9,700; OPT-175B 60,074 (the paper's table 1)");
    fact(report, "ShareGPT (scaled to the paper's means)", &paper->sharegpt);
    fact(report, "Alpaca (a fitted shape)", &paper->alpaca);
    fact(report, "Translation (a fitted shape)", &paper->translation);
    fact(report, "Chats (made of ShareGPT)", &paper->chats);
    for (int i = 0; i < options->num_traces; i++) fact(report, options->traces[i].name, options->traces[i].trace);
}

static quire_status make_traces(qr_paper *paper)
{
    quire_error *error = paper->error;
    const uint64_t seed = paper->options->seed;
    QR_TRY(qr_sim_beams_recorded(&paper->beams, error));
    QR_TRY(qr_sim_trace_sharegpt_paper(&paper->sharegpt, error));
    QR_TRY(qr_sim_trace_from_shape(&qr_sim_shape_alpaca, NUM_SHAPED, seed, &paper->alpaca, error));
    QR_TRY(qr_sim_trace_from_shape(&qr_sim_shape_translation, NUM_SHAPED, seed, &paper->translation, error));
    return qr_sim_trace_chats(&paper->sharegpt, 3.5, MAX_CHAT_TOKENS, MAX_CHAT_TOKENS, NUM_CHATS, seed, &paper->chats,
                              error);
}

static quire_status run_figures(qr_paper *paper)
{
    QR_TRY(qr_paper_calibrate(paper));
    QR_TRY(make_traces(paper));
    introduce(paper);
    for (int i = 0; i < NUM_FIGURES; i++) {
        const qr_paper_options *options = paper->options;
        paper->figure = figures[i].name;
        paper->figure_part = figures[i].part;
        if (options->on_progress && !options->on_progress(options->user, paper->figure, paper->fraction))
            return qr_fail(paper->error, QUIRE_ABORTED, "interrupted");
        QR_TRY(figures[i].run(paper));
        paper->fraction += figures[i].part;
    }
    return QUIRE_OK;
}

quire_status qr_paper_run(const qr_paper_options *options, qr_report *report, quire_error *error)
{
    qr_paper paper = {.options = options, .report = report, .error = error};
    QR_TRY(qr_pool_create(options->num_threads, &paper.pool, error));
    const quire_status status = run_figures(&paper);
    qr_pool_destroy(paper.pool);
    qr_sim_beams_deinit(&paper.beams);
    qr_sim_trace_deinit(&paper.sharegpt);
    qr_sim_trace_deinit(&paper.alpaca);
    qr_sim_trace_deinit(&paper.translation);
    qr_sim_trace_deinit(&paper.chats);
    return status;
}
