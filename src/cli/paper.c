/* quire paper: the PagedAttention paper's evaluation, simulated (src/paper/), as a page. */
#include <string.h>

#include "cli/cli.h"
#include "paper/paper.h"

static const qr_option paper_options[] = {
    {.name = "out",
     .kind = QR_OPTION_STRING,
     .offset = offsetof(qr_cli_args, out),
     .metavar = "FOLDER",
     .help = "where index.html, one SVG for each chart, and figures.json go"},
    {.name = "hours",
     .kind = QR_OPTION_DOUBLE,
     .offset = offsetof(qr_cli_args, paper.hours),
     .metavar = "X",
     .min = 0.001,
     .max = 24,
     .help = "virtual time for which requests arrive in each run; the paper has 1"},
    {.name = "calibration",
     .kind = QR_OPTION_STRING,
     .offset = offsetof(qr_cli_args, sim.calibration),
     .metavar = "FILE",
     .default_text = "",
     .help = "constants in place of the devices', such as {\"step_us\": 12000, \"seq_us\": 30}"},
    {.name = "trace",
     .kind = QR_OPTION_LIST,
     .offset = offsetof(qr_cli_args, paper.traces),
     .metavar = "FILE",
     .help = "also compare the systems on this trace with arrival times (Azure's CSV, Mooncake's JSON Lines)"},
    {.name = "seed",
     .kind = QR_OPTION_UINT64,
     .offset = offsetof(qr_cli_args, seed),
     .metavar = "N",
     .help = "of arrivals and lengths; the same seed gives the same page"},
    {.name = "threads",
     .kind = QR_OPTION_INT,
     .offset = offsetof(qr_cli_args, model.threads),
     .metavar = "N",
     .max = 1024,
     .default_text = "one for each core",
     .help = "simulations at a time"},
    {0},
};
static const qr_option_group paper_group = {"Options", paper_options};
const qr_option_group *const qr_cli_paper_groups[] = {&paper_group, &qr_cli_general, NULL};

void qr_cli_paper_defaults(qr_cli_args *args)
{
    args->out = "paper";
    args->seed = 1;
    args->paper.hours = 1;
}

static bool on_progress(void *user, const char *figure, double fraction)
{
    qr_cli_progress_draw(user, fraction, figure);
    return !qr_cli_interrupted();
}

static quire_status load_traces(const qr_option_list *files, qr_sim_trace *traces, qr_paper_trace *named,
                                quire_error *error)
{
    for (int i = 0; i < files->count; i++) {
        qr_buf text = {0};
        const char *slash = strrchr(files->items[i], '/');
        named[i] = (qr_paper_trace){slash ? slash + 1 : files->items[i], &traces[i]};
        QR_TRY(qr_cli_read_file(files->items[i], &text, error));
        const quire_status status = qr_sim_trace_parse(files->items[i], text.data, text.len, &traces[i], error);
        qr_free(text.data);
        QR_TRY(status);
        if (!traces[i].has_arrivals) return qr_fail(error, QUIRE_INVALID, "%s has no arrival times", files->items[i]);
    }
    return QUIRE_OK;
}

static quire_status write_page(const char *dir, const qr_paper_options *options, quire_error *error)
{
    qr_report *report;
    QR_TRY(qr_xml_make_dir(dir, error)); /* before minutes of simulation */
    QR_TRY(qr_report_create("The PagedAttention paper's evaluation, by quire", &report, error));
    quire_status status = qr_paper_run(options, report, error);
    if (status == QUIRE_OK) status = qr_report_save(report, dir, error);
    qr_report_destroy(report);
    return status;
}

static quire_status run(const qr_cli_args *args, qr_paper_options *options, quire_error *error)
{
    qr_buf calibration = {0};
    if (args->sim.calibration) QR_TRY(qr_cli_read_file(args->sim.calibration, &calibration, error));
    if (args->sim.calibration) options->calibration = calibration.data ? calibration.data : "";
    const quire_status status = write_page(args->out, options, error);
    qr_free(calibration.data);
    return status;
}

int qr_cli_run_paper(qr_cli_args *args)
{
    quire_error error;
    qr_sim_trace traces[QR_PAPER_MAX_TRACES] = {0};
    qr_paper_trace named[QR_PAPER_MAX_TRACES];
    qr_cli_progress progress;
    if (args->paper.traces.count > QR_PAPER_MAX_TRACES)
        return qr_cli_usage_error("paper", "--trace: at most %d", QR_PAPER_MAX_TRACES);
    qr_paper_options options = {.hours = args->paper.hours,
                                .num_threads = args->model.threads,
                                .seed = args->seed,
                                .traces = named,
                                .num_traces = args->paper.traces.count,
                                .on_progress = on_progress,
                                .user = &progress};
    quire_status status = load_traces(&args->paper.traces, traces, named, &error);
    if (status == QUIRE_OK) {
        qr_cli_interrupt_catch();
        qr_cli_progress_start(&progress, "simulating", 0);
        status = run(args, &options, &error);
        qr_cli_progress_end(&progress);
        qr_cli_interrupt_release();
    }
    for (int i = 0; i < args->paper.traces.count; i++) qr_sim_trace_deinit(&traces[i]);
    if (status != QUIRE_OK) return qr_cli_fail("%s", error.message);
    printf("%s/index.html\n", args->out);
    return qr_cli_flush();
}
