#include "paper/cases.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "base/mem.h"

const double qr_paper_latency_limit = 0.2;

enum {
    MAX_NUM_SEQS = 256,
    BLOCK_SIZE = 16,
    PAPER_BATCHED_TOKENS = 2560,
    TODAY_BATCHED_TOKENS = 2048,
    MAX_SINGLE_SLOTS = 4096
};

typedef struct system_row {
    const char *name;
    qr_kv_allocator allocator;
    int style;
} system_row;

static const system_row systems[QR_PAPER_NUM_SYSTEMS] = {
    [QR_PAPER_FT] = {"FasterTransformer", QR_KV_FASTER_TRANSFORMER, 5},
    [QR_PAPER_ORCA_MAX] = {"Orca (Max)", QR_KV_ORCA_MAX, 4},
    [QR_PAPER_ORCA_POW2] = {"Orca (Pow2)", QR_KV_ORCA_POW2, 3},
    [QR_PAPER_ORCA_ORACLE] = {"Orca (Oracle)", QR_KV_ORCA_ORACLE, 2},
    /* The paper's code (vLLM of May 2023, cacheflow/core/scheduler.py): running ones first, then whole prompts in the
     * same step; vllm-v0, which computes prompts apart, came later. */
    [QR_PAPER_VLLM] = {"vLLM", QR_KV_VLLM, 1},
    [QR_PAPER_TODAY] = {"quire today", QR_KV_VLLM, 7},
};

const char *qr_paper_system_name(qr_paper_system system) { return systems[system].name; }
int qr_paper_system_style(qr_paper_system system) { return systems[system].style; }

static bool has_regions(qr_paper_system system) { return system < QR_PAPER_VLLM; }

/* ---- one case --------------------------------------------------------------------------------- */

static bool keep_going(void *user, double fraction, double seconds, int64_t num_finished)
{
    (void)fraction, (void)seconds, (void)num_finished;
    return !atomic_load(&((qr_paper *)user)->stop);
}

static void sched_options(const qr_paper_case *c, const qr_sim_model *model, int64_t num_slots, qr_sched_options *out)
{
    const bool today = c->system == QR_PAPER_TODAY;
    const int32_t max_model_len = c->max_model_len ? c->max_model_len : (int32_t)model->max_model_len;
    int block_size = c->block_size ? c->block_size : BLOCK_SIZE;
    /* A region is as long as it needs to be: its blocks are single slots, unless there would be too many. */
    if (has_regions(c->system) && max_model_len <= MAX_SINGLE_SLOTS) block_size = 1;
    *out = (qr_sched_options){
        .kv_allocator = systems[c->system].allocator,
        .num_blocks = num_slots / block_size,
        .block_size = block_size,
        .max_num_seqs = MAX_NUM_SEQS,
        .max_num_batched_tokens = today ? TODAY_BATCHED_TOKENS : PAPER_BATCHED_TOKENS,
        .max_model_len = max_model_len,
        .enable_chunked_prefill = today,
        .enable_prefix_caching = today || c->prefix_caching,
        .preemption_mode = c->swap ? QR_PREEMPT_SWAP : QR_PREEMPT_RECOMPUTE,
        .num_swap_blocks = c->swap ? num_slots / block_size : 0,
    };
}

quire_status qr_paper_calibrate(qr_paper *paper)
{
    const char *json = paper->options->calibration;
    for (const qr_sim_device *row = qr_sim_devices; *row->name; row++) {
        assert(paper->num_devices < QR_PAPER_MAX_DEVICES);
        qr_sim_device *device = &paper->devices[paper->num_devices++];
        *device = *row;
        if (json) QR_TRY(qr_sim_apply_calibration("calibration", json, strlen(json), device, paper->error));
    }
    return QUIRE_OK;
}

const qr_sim_device *qr_paper_device(const qr_paper *paper, const char *name)
{
    int i = 0;
    while (i < paper->num_devices && strcmp(paper->devices[i].name, name) != 0) i++;
    assert(i < paper->num_devices);
    return &paper->devices[i];
}

static quire_status run_case(qr_paper *paper, const qr_paper_case *c, qr_sim_result *out, quire_error *error)
{
    const qr_sim_model *model = qr_sim_find_model(c->model);
    const qr_sim_setup *setup = qr_sim_find_setup(c->model, NULL, 0);
    const qr_sim_device *device = qr_paper_device(paper, setup->device);
    const int num_devices = setup->tensor_parallel_size;
    qr_sim_options options = {.beams = &paper->beams, .on_progress = keep_going, .user = paper};
    sched_options(c, model, qr_sim_kv_slots(model, device, num_devices, 0.9), &options.sched);
    options.cost = (qr_sim_cost){
        .device = *device,
        .model = *model,
        .tensor_parallel_size = num_devices,
        .block_size = options.sched.block_size,
        .contiguous = has_regions(c->system),
    };
    const qr_sim_workload_options workload = {
        .trace = c->trace,
        .request_rate = c->request_rate,
        .speed = c->speed > 0 ? c->speed : 1,
        .duration = c->seconds,
        .num_seqs = c->num_seqs ? c->num_seqs : 1,
        .beam_search = c->beam_search,
        .shared_prefix = c->shared_prefix,
        .max_model_len = options.sched.max_model_len,
        .seed = paper->options->seed,
    };
    return qr_sim_run(&options, &workload, out, error);
}

/* ---- many cases ------------------------------------------------------------------------------- */

typedef struct batch {
    qr_paper *paper;
    const qr_paper_case *cases;
    int num_cases;
    qr_sim_result *results; /* [num_cases]; or */
    qr_paper_curve *curves; /* [num_cases] */
    qr_sim_result *scratch; /* [num_threads], for curves */
    atomic_int num_done;
    pthread_mutex_t lock; /* of: */
    quire_status status;  /* the first failure */
} batch;

static void fail(batch *b, quire_status status, const quire_error *error)
{
    pthread_mutex_lock(&b->lock);
    if (b->status == QUIRE_OK) {
        b->status = status;
        if (b->paper->error) *b->paper->error = *error;
    }
    pthread_mutex_unlock(&b->lock);
    atomic_store(&b->paper->stop, true);
}

/* The calling thread is thread 0. */
static void report_progress(batch *b, int thread_idx)
{
    const qr_paper_options *options = b->paper->options;
    const int num_done = atomic_load(&b->num_done);
    if (thread_idx != 0 || !options->on_progress) return;
    const double fraction = b->paper->fraction + b->paper->figure_part * num_done / b->num_cases;
    if (options->on_progress(options->user, b->paper->figure, fraction)) return;
    quire_error error;
    fail(b, qr_fail(&error, QUIRE_ABORTED, "interrupted"), &error);
}

static void run_tile(void *ctx, int tile_idx, int thread_idx)
{
    batch *b = ctx;
    quire_error error;
    if (atomic_load(&b->paper->stop)) return;
    const quire_status status = run_case(b->paper, &b->cases[tile_idx], &b->results[tile_idx], &error);
    if (status != QUIRE_OK) fail(b, status, &error);
    atomic_fetch_add(&b->num_done, 1);
    report_progress(b, thread_idx);
}

static quire_status run_batch(batch *b, qr_pool_fn tile)
{
    pthread_mutex_init(&b->lock, NULL);
    qr_pool_run(b->paper->pool, tile, b, b->num_cases);
    pthread_mutex_destroy(&b->lock);
    return b->status;
}

quire_status qr_paper_run_cases(qr_paper *paper, const qr_paper_case *cases, int num_cases, qr_sim_result *results)
{
    batch b = {.paper = paper, .cases = cases, .num_cases = num_cases, .results = results};
    return run_batch(&b, run_tile);
}

/* ---- sweeps ----------------------------------------------------------------------------------- */

static void add_point(qr_paper_curve *curve, double rate, double latency)
{
    int i = curve->num_points++;
    for (; i > 0 && curve->rates[i - 1] > rate; i--) {
        curve->rates[i] = curve->rates[i - 1];
        curve->latencies[i] = curve->latencies[i - 1];
    }
    curve->rates[i] = rate;
    curve->latencies[i] = latency;
}

static quire_status try_rate(batch *b, const qr_paper_case *base, double rate, qr_sim_result *scratch,
                             qr_paper_curve *curve, double *out_latency, quire_error *error)
{
    qr_paper_case c = *base;
    if (base->request_rate > 0)
        c.request_rate = rate;
    else
        c.speed = rate;
    QR_TRY(run_case(b->paper, &c, scratch, error));
    *out_latency = qr_sim_histogram_mean(&scratch->normalized_latency);
    add_point(curve, rate, *out_latency);
    return QUIRE_OK;
}

static quire_status sweep(batch *b, const qr_paper_case *c, qr_sim_result *scratch, qr_paper_curve *curve,
                          quire_error *error)
{
    enum { MAX_RISES = 20, HALVINGS = 5 };
    const double growth = 1.5, limit = qr_paper_latency_limit;
    double good = 0, good_latency = 0, bad = 0, bad_latency = 0, latency;
    double rate = c->request_rate > 0 ? c->request_rate : c->speed > 0 ? c->speed : 1;
    for (int i = 0; i < MAX_RISES && bad == 0; i++, rate *= growth) {
        QR_TRY(try_rate(b, c, rate, scratch, curve, &latency, error));
        if (latency <= limit) {
            good = rate;
            good_latency = latency;
        } else {
            bad = rate;
            bad_latency = latency;
        }
    }
    for (int i = 0; i < HALVINGS && good > 0 && bad > 0; i++) {
        rate = sqrt(good * bad);
        QR_TRY(try_rate(b, c, rate, scratch, curve, &latency, error));
        if (latency <= limit) {
            good = rate;
            good_latency = latency;
        } else {
            bad = rate;
            bad_latency = latency;
        }
    }
    curve->sustained = good;
    if (good > 0 && bad > 0) curve->sustained += (bad - good) * (limit - good_latency) / (bad_latency - good_latency);
    return QUIRE_OK;
}

static void sweep_tile(void *ctx, int tile_idx, int thread_idx)
{
    batch *b = ctx;
    quire_error error;
    if (atomic_load(&b->paper->stop)) return;
    const quire_status status = sweep(b, &b->cases[tile_idx], &b->scratch[thread_idx], &b->curves[tile_idx], &error);
    if (status != QUIRE_OK) fail(b, status, &error);
    atomic_fetch_add(&b->num_done, 1);
    report_progress(b, thread_idx);
}

quire_status qr_paper_sweep(qr_paper *paper, const qr_paper_case *cases, int num_cases, qr_paper_curve *curves)
{
    const size_t bytes = (size_t)qr_pool_num_threads(paper->pool) * sizeof(qr_sim_result);
    batch b = {.paper = paper, .cases = cases, .num_cases = num_cases, .curves = curves};
    memset(curves, 0, (size_t)num_cases * sizeof *curves);
    b.scratch = qr_malloc(bytes);
    if (!b.scratch) return qr_fail_nomem(paper->error, "results", bytes);
    const quire_status status = run_batch(&b, sweep_tile);
    qr_free(b.scratch);
    return status;
}

void qr_paper_curves_chart(qr_report_figure *figure, const char *id, const char *title, const char *x_title,
                           const qr_paper_case *cases, const qr_paper_curve *curves, int num_cases)
{
    qr_chart chart = {.kind = QR_CHART_LINES,
                      .id = id,
                      .title = title,
                      .x.title = x_title,
                      .y = {.title = "Normalized latency (s/token)", .max = 1},
                      .num_series = num_cases,
                      .num_thresholds = 1,
                      .thresholds = {{qr_paper_latency_limit, NULL}}};
    for (int i = 0; i < num_cases; i++)
        chart.series[i] = (qr_chart_series){.name = qr_paper_system_name(cases[i].system),
                                            .style = qr_paper_system_style(cases[i].system),
                                            .x = curves[i].rates,
                                            .y = curves[i].latencies,
                                            .count = curves[i].num_points};
    qr_report_chart(figure, &chart);
}
