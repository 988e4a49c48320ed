#include "cli/simulate_plots.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "report/chart.h"

enum { MAX_PATH = 1024, NUM_PARTS = 5 };

/* The runs of one policy, by rate. */
typedef struct policy_runs {
    int count;
    double rates[QR_CLI_MAX_SIM_RATES], latencies[QR_CLI_MAX_SIM_RATES], batched[QR_CLI_MAX_SIM_RATES];
    double parts[QR_CLI_MAX_SIM_RATES][NUM_PARTS]; /* percent of the slots: live, reserved, internal, external, free */
} policy_runs;

struct qr_cli_sim_plots {
    char dir[MAX_PATH - 128], *title;
    policy_runs runs[QR_NUM_KV_ALLOCATORS];
};

quire_status qr_cli_sim_plots_create(const char *dir, const char *title, qr_cli_sim_plots **out, quire_error *error)
{
    qr_cli_sim_plots *plots = qr_calloc(1, sizeof *plots);
    if (plots) plots->title = qr_strdup(title);
    if (!plots || !plots->title) {
        qr_free(plots);
        return qr_fail_nomem(error, "plots", sizeof *plots);
    }
    quire_status status = QUIRE_OK;
    if (snprintf(plots->dir, sizeof plots->dir, "%s", dir) >= (int)sizeof plots->dir)
        status = qr_fail(error, QUIRE_INVALID, "%s: the folder's name is too long", dir);
    else
        status = qr_xml_make_dir(dir, error);
    if (status == QUIRE_OK)
        *out = plots;
    else
        qr_cli_sim_plots_destroy(plots);
    return status;
}

void qr_cli_sim_plots_destroy(qr_cli_sim_plots *plots)
{
    if (!plots) return;
    qr_free(plots->title);
    qr_free(plots);
}

static quire_status save(const qr_cli_sim_plots *plots, const qr_chart *chart, quire_error *error)
{
    char path[MAX_PATH];
    snprintf(path, sizeof path, "%s/%s.svg", plots->dir, chart->id);
    return qr_chart_save(chart, path, error);
}

static void format_rate(double rate, char *out, size_t bytes)
{
    if (rate == 0)
        snprintf(out, bytes, "trace");
    else
        snprintf(out, bytes, "%.4g", rate);
}

/* ---- over time -------------------------------------------------------------------------------- */

/* "kv-orca-max-2.5": also the file's name. */
static void make_id(char *out, size_t bytes, const char *what, const char *policy, const char *rate)
{
    snprintf(out, bytes, "%s-%s-%s", what, policy, rate);
    for (char *at = out; *at; at++)
        if (*at == '+') *at = '_'; /* of 1e+06 */
}

static quire_status save_timeline(const qr_cli_sim_plots *plots, const char *policy, double rate,
                                  const qr_sim_timeline *timeline, quire_error *error)
{
    double seconds[QR_SIM_MAX_POINTS], live[QR_SIM_MAX_POINTS], used[QR_SIM_MAX_POINTS];
    const int count = timeline->num_points;
    char rate_text[16], id[48], title[256];
    format_rate(rate, rate_text, sizeof rate_text);
    for (int i = 0; i < count; i++) {
        seconds[i] = (i + 0.5) * timeline->bin_seconds;
        live[i] = 100 * timeline->live[i];
        used[i] = 100 * timeline->used[i];
    }
    qr_chart chart = {.kind = QR_CHART_LINES,
                      .id = id,
                      .title = title,
                      .width = 640,
                      .x.title = "Time (s)",
                      .y = {.title = "KV slots (%)", .max = 100},
                      .num_series = 2,
                      .series = {{.name = "in use", .x = seconds, .y = used, .count = count, .style = 2},
                                 {.name = "live tokens", .x = seconds, .y = live, .count = count, .style = 1}}};
    make_id(id, sizeof id, "kv", policy, rate_text);
    snprintf(title, sizeof title, "KV memory: %s, %s, rate %s", plots->title, policy, rate_text);
    QR_TRY(save(plots, &chart, error));

    make_id(id, sizeof id, "requests", policy, rate_text);
    snprintf(title, sizeof title, "Requests: %s, %s, rate %s", plots->title, policy, rate_text);
    chart.y = (qr_chart_axis){.title = "Requests"};
    chart.series[0] =
        (qr_chart_series){.name = "waiting", .x = seconds, .y = timeline->waiting, .count = count, .style = 2};
    chart.series[1] =
        (qr_chart_series){.name = "running", .x = seconds, .y = timeline->running, .count = count, .style = 1};
    return save(plots, &chart, error);
}

quire_status qr_cli_sim_plots_add(qr_cli_sim_plots *plots, qr_kv_allocator allocator, double rate,
                                  const qr_sim_result *result, quire_error *error)
{
    policy_runs *runs = &plots->runs[allocator];
    const qr_sim_memory *m = &result->memory;
    const double parts[NUM_PARTS] = {m->live, m->reserved, m->internal, m->external, m->free};
    const int i = runs->count++;
    assert(i < QR_CLI_MAX_SIM_RATES);
    runs->rates[i] = rate;
    runs->latencies[i] = qr_sim_histogram_mean(&result->normalized_latency);
    runs->batched[i] = result->mean_batched_requests;
    for (int k = 0; k < NUM_PARTS; k++) runs->parts[i][k] = 100 * parts[k];
    return save_timeline(plots, qr_kv_allocator_name(allocator), rate, &result->timeline, error);
}

/* ---- against the rate ------------------------------------------------------------------------- */

/* A line for each policy through the rates that are numbers, ascending as they were given; none: no chart. */
static quire_status save_lines(const qr_cli_sim_plots *plots, const char *id, const char *y_title, bool latency,
                               quire_error *error)
{
    qr_chart chart = {.kind = QR_CHART_LINES,
                      .id = id,
                      .title = plots->title,
                      .x.title = "Request rate (requests/s)",
                      .y = {.title = y_title, .log = latency}};
    int most = 0;
    for (int a = 0; a < QR_NUM_KV_ALLOCATORS; a++) {
        const policy_runs *runs = &plots->runs[a];
        if (runs->count == 0) continue;
        chart.series[chart.num_series++] = (qr_chart_series){.name = qr_kv_allocator_name((qr_kv_allocator)a),
                                                             .x = runs->rates,
                                                             .y = latency ? runs->latencies : runs->batched,
                                                             .count = runs->count};
        if (runs->count > most) most = runs->count;
    }
    return most > 1 ? save(plots, &chart, error) : QUIRE_OK;
}

static quire_status save_memory(const qr_cli_sim_plots *plots, quire_error *error)
{
    enum { MAX_BARS = 24 };
    static const char *const names[NUM_PARTS] = {"live tokens", "reserved", "internal fragmentation",
                                                 "external fragmentation", "free"};
    static const int styles[NUM_PARTS] = {1, 2, 3, 4, 6};
    double parts[NUM_PARTS][MAX_BARS];
    char labels[MAX_BARS][48];
    const char *categories[MAX_BARS];
    int count = 0;
    for (int a = 0; a < QR_NUM_KV_ALLOCATORS; a++)
        for (int i = 0; i < plots->runs[a].count && count < MAX_BARS; i++, count++) {
            char rate[16];
            format_rate(plots->runs[a].rates[i], rate, sizeof rate);
            snprintf(labels[count], sizeof labels[count], "%s %s", qr_kv_allocator_name((qr_kv_allocator)a), rate);
            categories[count] = labels[count];
            for (int k = 0; k < NUM_PARTS; k++) parts[k][count] = plots->runs[a].parts[i][k];
        }
    qr_chart chart = {.kind = QR_CHART_STACKED_BARS,
                      .id = "memory",
                      .title = plots->title,
                      .x.title = "Policy and request rate (requests/s)",
                      .y = {.title = "KV slots (%)", .max = 100},
                      .width = count > 6 ? 720 : 480,
                      .categories = categories,
                      .num_categories = count,
                      .value_decimals = count > 12 ? -1 : 0,
                      .num_series = NUM_PARTS};
    for (int k = 0; k < NUM_PARTS; k++)
        chart.series[k] = (qr_chart_series){.name = names[k], .y = parts[k], .count = count, .style = styles[k]};
    return save(plots, &chart, error);
}

quire_status qr_cli_sim_plots_finish(qr_cli_sim_plots *plots, quire_error *error)
{
    QR_TRY(save_lines(plots, "latency", "Normalized latency (s/token)", true, error));
    QR_TRY(save_lines(plots, "batched", "Batched requests, mean", false, error));
    return save_memory(plots, error);
}
