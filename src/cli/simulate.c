/* quire simulate: the scheduler in virtual time (src/sim/). */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/simulate.h"
#include "cli/simulate_plots.h"
#include "sim/result.h"

enum { MAX_RATES = QR_CLI_MAX_SIM_RATES, MAX_ALLOCATORS = QR_NUM_KV_ALLOCATORS };

typedef struct simulation {
    const qr_cli_args *args;
    qr_sim_options sim;
    qr_sim_workload_options workload;
    qr_sim_trace trace;
    qr_sim_beams beams;
    double rates[MAX_RATES]; /* 0: the trace's */
    int num_rates;
    qr_kv_allocator allocators[MAX_ALLOCATORS];
    int num_allocators;
    FILE *json_file;
    qr_cli_sim_plots *plots; /* NULL: none */
    qr_cli_progress progress;
    qr_sim_result result;
} simulation;

/* ---- from options ------------------------------------------------------------------------------ */

quire_status qr_cli_parse_file(const char *path, qr_cli_parse_fn *parse, void *out, quire_error *error)
{
    qr_buf buf = {0};
    quire_status status = qr_cli_read_file(path, &buf, error);
    if (status == QUIRE_OK) status = parse(path, buf.data ? buf.data : "", buf.len, out, error);
    qr_free(buf.data);
    return status;
}

static quire_status parse_model(const char *name, const char *text, size_t bytes, void *out, quire_error *error)
{
    return qr_sim_parse_model(name, text, bytes, out, error);
}

static quire_status parse_device(const char *name, const char *text, size_t bytes, void *out, quire_error *error)
{
    return qr_sim_parse_device(name, text, bytes, out, error);
}

static quire_status parse_calibration(const char *name, const char *text, size_t bytes, void *out, quire_error *error)
{
    return qr_sim_apply_calibration(name, text, bytes, out, error);
}

static quire_status parse_trace(const char *name, const char *text, size_t bytes, void *out, quire_error *error)
{
    return qr_sim_trace_parse(name, text, bytes, out, error);
}

static quire_status parse_beams(const char *name, const char *text, size_t bytes, void *out, quire_error *error)
{
    return qr_sim_beams_parse(name, text, bytes, out, error);
}

static quire_status choose_machine(simulation *s, quire_error *error)
{
    const qr_cli_sim_args *a = &s->args->sim;
    qr_sim_cost *cost = &s->sim.cost;
    const qr_sim_model *model = qr_sim_find_model(a->model);
    if (model)
        cost->model = *model;
    else
        QR_TRY(qr_cli_parse_file(a->model, parse_model, &cost->model, error));
    const qr_sim_setup *setup = qr_sim_find_setup(cost->model.name, a->device, a->tensor_parallel_size);
    const char *device_name = a->device ? a->device : setup ? setup->device : "a100-80gb";
    const qr_sim_device *device = qr_sim_find_device(device_name);
    if (device)
        cost->device = *device;
    else
        QR_TRY(qr_cli_parse_file(device_name, parse_device, &cost->device, error));
    if (a->calibration) QR_TRY(qr_cli_parse_file(a->calibration, parse_calibration, &cost->device, error));
    cost->tensor_parallel_size = a->tensor_parallel_size ? a->tensor_parallel_size
                                 : setup                 ? setup->tensor_parallel_size
                                                         : 1;
    cost->block_size = s->args->engine.block_size;
    return QUIRE_OK;
}

static quire_status choose_policy(simulation *s, quire_error *error)
{
    const quire_engine_options *e = &s->args->engine;
    const qr_sim_cost *cost = &s->sim.cost;
    qr_sched_options *o = &s->sim.sched;
    qr_sched_options_init(o);
    o->policy = strcmp(e->scheduling_policy, "fair") == 0 ? QR_SCHED_FAIR : QR_SCHED_FCFS;
    o->block_size = e->block_size;
    o->max_num_seqs = e->max_num_seqs;
    o->max_num_batched_tokens = e->max_num_batched_tokens;
    o->max_model_len = e->max_model_len > 0 ? e->max_model_len : (int32_t)cost->model.max_model_len;
    o->enable_chunked_prefill = e->enable_chunked_prefill;
    o->enable_prefix_caching = e->enable_prefix_caching;
    o->preemption_mode = strcmp(e->preemption_mode, "swap") == 0   ? QR_PREEMPT_SWAP
                         : strcmp(e->preemption_mode, "auto") == 0 ? QR_PREEMPT_AUTO
                                                                   : QR_PREEMPT_RECOMPUTE;
    const int64_t slots =
        qr_sim_kv_slots(&cost->model, &cost->device, cost->tensor_parallel_size, e->gpu_memory_utilization);
    o->num_blocks = e->num_kv_blocks > 0 ? e->num_kv_blocks : slots / o->block_size;
    if (o->num_blocks > INT32_MAX) o->num_blocks = INT32_MAX;
    if (o->num_blocks < 1)
        return qr_fail(
            error, QUIRE_INVALID, "%s does not fit into %d x %s: %.4g GB of weights; raise --tensor-parallel-size",
            cost->model.name, cost->tensor_parallel_size, cost->device.name, qr_sim_weight_bytes(&cost->model) / 1e9);
    if (o->max_model_len > o->num_blocks * o->block_size) o->max_model_len = (int32_t)(o->num_blocks * o->block_size);
    if (o->preemption_mode != QR_PREEMPT_RECOMPUTE) {
        const double block_bytes = qr_sim_kv_bytes_per_token(&cost->model) * o->block_size;
        const double swap_bytes = s->args->swap_space_gib * (1 << 30);
        o->num_swap_blocks = swap_bytes > 0 ? (int64_t)(swap_bytes / block_bytes) : o->num_blocks;
    }
    return QUIRE_OK;
}

static quire_status load_requests(simulation *s, quire_error *error)
{
    enum { NUM_ROWS = 8192, MAX_CHAT_TOKENS = 1024 };
    const qr_cli_bench_args *b = &s->args->bench;
    qr_sim_trace sharegpt = {0};
    if (strcmp(b->dataset_name, "trace") == 0) {
        if (!b->dataset_path) return qr_fail(error, QUIRE_INVALID, "--dataset-name trace needs --dataset-path");
        return qr_cli_parse_file(b->dataset_path, parse_trace, &s->trace, error);
    }
    if (b->dataset_path) return qr_fail(error, QUIRE_INVALID, "--dataset-path is for --dataset-name trace");
    if (strcmp(b->dataset_name, "alpaca") == 0)
        return qr_sim_trace_from_shape(&qr_sim_shape_alpaca, NUM_ROWS, b->seed, &s->trace, error);
    if (strcmp(b->dataset_name, "translation") == 0)
        return qr_sim_trace_from_shape(&qr_sim_shape_translation, NUM_ROWS, b->seed, &s->trace, error);
    if (strcmp(b->dataset_name, "sharegpt-paper") == 0) return qr_sim_trace_sharegpt_paper(&s->trace, error);
    QR_TRY(qr_sim_trace_sharegpt(&sharegpt, error));
    qr_sim_trace_filter(&sharegpt, 4, 1024, 2048);
    if (strcmp(b->dataset_name, "sharegpt") == 0) {
        s->trace = sharegpt;
        return QUIRE_OK;
    }
    const quire_status status =
        qr_sim_trace_chats(&sharegpt, 3.5, MAX_CHAT_TOKENS, MAX_CHAT_TOKENS, NUM_ROWS, b->seed, &s->trace, error);
    qr_sim_trace_deinit(&sharegpt);
    return status;
}

static quire_status choose_rates(simulation *s, quire_error *error)
{
    const char *at = s->args->sim.request_rates;
    for (;;) {
        char *end = (char *)at + strcspn(at, ",");
        const size_t length = (size_t)(end - at);
        double rate = 0;
        if (length == 5 && memcmp(at, "trace", 5) == 0) {
            if (!s->trace.has_arrivals)
                return qr_fail(error, QUIRE_INVALID, "--request-rate trace: %s has no arrival times",
                               s->args->bench.dataset_path ? s->args->bench.dataset_path : s->args->bench.dataset_name);
        } else {
            char *number_end;
            rate = strtod(at, &number_end);
            if (number_end != end || !(rate > 0))
                return qr_fail(error, QUIRE_INVALID, "--request-rate: numbers above 0, inf or trace, not '%.*s'",
                               (int)length, at);
        }
        if (s->num_rates == MAX_RATES)
            return qr_fail(error, QUIRE_INVALID, "--request-rate: at most %d rates", MAX_RATES);
        s->rates[s->num_rates++] = rate;
        if (!*end) return QUIRE_OK;
        at = end + 1;
    }
}

static quire_status choose_allocators(simulation *s, quire_error *error)
{
    const char *at = s->args->sim.kv_allocators;
    if (strcmp(at, "all") == 0) {
        for (int i = 0; i < QR_NUM_KV_ALLOCATORS; i++) s->allocators[s->num_allocators++] = (qr_kv_allocator)i;
        return QUIRE_OK;
    }
    for (;; at++) {
        char name[32];
        const size_t length = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : sizeof name - 1), at);
        qr_kv_allocator allocator;
        if (!qr_kv_allocator_parse(name, &allocator) || s->num_allocators == MAX_ALLOCATORS)
            return qr_fail(error, QUIRE_INVALID, "--kv-allocator: '%s' is not the name of one, or one too many", name);
        s->allocators[s->num_allocators++] = allocator;
        at += length;
        if (!*at) return QUIRE_OK;
    }
}

static quire_status choose_workload(simulation *s, quire_error *error)
{
    const qr_cli_args *a = s->args;
    const int width = a->beam_width;
    QR_TRY(load_requests(s, error));
    QR_TRY(choose_rates(s, error));
    QR_TRY(choose_allocators(s, error));
    if (width > 1 && a->sampling.n > 1) return qr_fail(error, QUIRE_INVALID, "-n and --beam-width: one of them");
    if (a->sim.beam_record)
        QR_TRY(qr_cli_parse_file(a->sim.beam_record, parse_beams, &s->beams, error));
    else
        QR_TRY(qr_sim_beams_recorded(&s->beams, error));
    if (width > 1 && s->beams.num_rows[width] == 0)
        return qr_fail(error, QUIRE_INVALID, "--beam-width %d: the record has no such searches; see --beam-record",
                       width);
    s->workload = (qr_sim_workload_options){.trace = &s->trace,
                                            .speed = a->sim.speed,
                                            .num_requests = a->sim.num_prompts,
                                            .duration = a->sim.duration,
                                            .num_seqs = width > 1 ? width : a->sampling.n,
                                            .beam_search = width > 1,
                                            .shared_prefix = a->sim.shared_prefix,
                                            .max_model_len = s->sim.sched.max_model_len,
                                            .seed = a->bench.seed};
    s->sim.beams = &s->beams;
    return QUIRE_OK;
}

/* ---- output ------------------------------------------------------------------------------------ */

static void describe(const simulation *s)
{
    const qr_sim_cost *c = &s->sim.cost;
    const qr_sched_options *o = &s->sim.sched;
    qr_cli_note("machine   %s on %d x %s: %.4g GB of weights, %lld KV blocks of %d = %lld tokens (%.4g GB)",
                c->model.name, c->tensor_parallel_size, c->device.name, qr_sim_weight_bytes(&c->model) / 1e9,
                (long long)o->num_blocks, o->block_size, (long long)o->num_blocks * o->block_size,
                (double)o->num_blocks * o->block_size * qr_sim_kv_bytes_per_token(&c->model) / 1e9);
    qr_cli_note("workload  %s: %zu lengths, mean %.2f in, %.2f out%s", s->args->bench.dataset_name, s->trace.num_rows,
                qr_sim_trace_mean_prompt(&s->trace), qr_sim_trace_mean_output(&s->trace),
                s->workload.beam_search ? ", beam search" : "");
}

static void print_header(void)
{
    printf("%-18s %8s %10s %10s %8s %9s %9s %9s %9s %9s %6s %6s %8s\n", "", "rate", "requests/s", "tokens/s", "batched",
           "s/token", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "KV %", "live %", "preempt.");
}

static void format_rate(double rate, char *out, size_t bytes)
{
    if (rate == 0)
        snprintf(out, bytes, "trace");
    else
        snprintf(out, bytes, "%g", rate);
}

static void print_row(const simulation *s, double rate)
{
    const qr_sim_result *r = &s->result;
    const double seconds = r->seconds > 0 ? r->seconds : 1;
    char text[16];
    format_rate(rate, text, sizeof text);
    printf("%-18s %8s %10.3f %10.1f %8.2f %9.4f %9.3f %9.3f %9.4f %9.4f %6.1f %6.1f %8lld\n",
           qr_kv_allocator_name(s->sim.sched.kv_allocator), text, (double)r->num_requests / seconds,
           (double)r->output_tokens / seconds, r->mean_batched_requests, qr_sim_histogram_mean(&r->normalized_latency),
           qr_sim_histogram_percentile(&r->time_to_first_token, 50),
           qr_sim_histogram_percentile(&r->time_to_first_token, 99),
           qr_sim_histogram_percentile(&r->inter_token_latency, 50),
           qr_sim_histogram_percentile(&r->inter_token_latency, 99), 100 * (1 - r->memory.free), 100 * r->live_share,
           (long long)r->num_preemptions);
}

static int write_json(const simulation *s, double rate)
{
    const qr_sim_cost *c = &s->sim.cost;
    char text[16];
    format_rate(rate, text, sizeof text);
    json_t *object = json_pack("{s:s, s:s, s:s, s:i, s:I, s:i, s:s, s:s, s:i, s:b, s:I}", "kv_allocator",
                               qr_kv_allocator_name(s->sim.sched.kv_allocator), "model", c->model.name, "device",
                               c->device.name, "tensor_parallel_size", c->tensor_parallel_size, "num_kv_blocks",
                               (json_int_t)s->sim.sched.num_blocks, "block_size", s->sim.sched.block_size, "dataset",
                               s->args->bench.dataset_name, "request_rate", text, "n", s->workload.num_seqs,
                               "beam_search", s->workload.beam_search, "seed", (json_int_t)s->args->bench.seed);
    json_t *result = qr_sim_result_json(&s->result);
    if (result) (void)json_object_update(object, result);
    json_decref(result);
    (void)json_object_set_new(object, "timeline", qr_sim_timeline_json(&s->result.timeline));
    char *line = object && result ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!line) return qr_cli_fail("out of memory");
    if (s->args->json) puts(line);
    const bool failed = s->json_file && fprintf(s->json_file, "%s\n", line) < 0;
    free(line);
    return failed ? qr_cli_fail("%s: %s", s->args->bench.output_json, strerror(errno)) : QR_CLI_OK;
}

/* ---- runs -------------------------------------------------------------------------------------- */

static bool on_progress(void *user, double fraction, double seconds, int64_t num_finished)
{
    simulation *s = user;
    char detail[64];
    snprintf(detail, sizeof detail, "%lld requests, %.0f s", (long long)num_finished, seconds);
    qr_cli_progress_draw(&s->progress, fraction, detail);
    return !qr_cli_interrupted();
}

/* Regions are as long as they need to be: their blocks are single slots. */
static void set_allocator(simulation *s, qr_kv_allocator allocator)
{
    qr_sched_options *o = &s->sim.sched;
    const int64_t num_slots = o->num_blocks * o->block_size;
    s->sim.cost.contiguous = qr_kv_allocator_has_regions(allocator);
    o->kv_allocator = allocator;
    o->block_size = s->sim.cost.contiguous ? 1 : s->args->engine.block_size;
    o->num_blocks = num_slots / o->block_size;
}

static int run_rate(simulation *s, double rate)
{
    enum { NUM_AT_ONCE = 1000 };
    quire_error error;
    s->workload.request_rate = rate;
    s->workload.num_requests = s->args->sim.num_prompts;
    if (isinf(rate) && s->workload.num_requests == 0) s->workload.num_requests = NUM_AT_ONCE;
    qr_cli_progress_start(&s->progress, "simulating", 500000);
    const quire_status status = qr_sim_run(&s->sim, &s->workload, &s->result, &error);
    qr_cli_progress_end(&s->progress);
    if (status != QUIRE_OK) return qr_cli_fail("%s", error.message);
    if (!s->args->json) print_row(s, rate);
    if (s->plots && qr_cli_sim_plots_add(s->plots, s->sim.sched.kv_allocator, rate, &s->result, &error) != QUIRE_OK)
        return qr_cli_fail("%s", error.message);
    return s->args->json || s->json_file ? write_json(s, rate) : QR_CLI_OK;
}

static int run_rates(simulation *s)
{
    int exit_status = QR_CLI_OK;
    const char *path = s->args->bench.output_json;
    s->json_file = path ? fopen(path, "w") : NULL;
    if (path && !s->json_file) return qr_cli_fail("%s: %s", path, strerror(errno));
    describe(s);
    if (!s->args->json) print_header();
    for (int i = 0; exit_status == QR_CLI_OK && i < s->num_rates * s->num_allocators; i++) {
        set_allocator(s, s->allocators[i / s->num_rates]);
        exit_status = run_rate(s, s->rates[i % s->num_rates]);
        if (qr_cli_flush() != QR_CLI_OK) exit_status = QR_CLI_FAILED;
    }
    if (s->json_file && fclose(s->json_file) != 0 && exit_status == QR_CLI_OK)
        exit_status = qr_cli_fail("%s: %s", path, strerror(errno));
    return exit_status;
}

static quire_status open_plots(simulation *s, quire_error *error)
{
    char title[192];
    snprintf(title, sizeof title, "%s on %d x %s, %s", s->sim.cost.model.name, s->sim.cost.tensor_parallel_size,
             s->sim.cost.device.name, s->args->bench.dataset_name);
    return s->args->sim.plots ? qr_cli_sim_plots_create(s->args->sim.plots, title, &s->plots, error) : QUIRE_OK;
}

int qr_cli_run_simulate(qr_cli_args *args)
{
    quire_error error;
    simulation *s = qr_calloc(1, sizeof *s);
    if (!s) return qr_cli_fail("out of memory");
    s->args = args;
    s->sim.on_progress = on_progress;
    s->sim.user = s;
    int exit_status;
    if (args->sim.replay && choose_machine(s, &error) == QUIRE_OK) {
        exit_status = qr_cli_replay(args->sim.replay, args->sim.fit, &s->sim.cost, args->json);
    } else if (args->sim.replay || choose_machine(s, &error) != QUIRE_OK || choose_policy(s, &error) != QUIRE_OK ||
               choose_workload(s, &error) != QUIRE_OK || open_plots(s, &error) != QUIRE_OK) {
        exit_status = qr_cli_fail("%s", error.message);
    } else {
        qr_cli_interrupt_catch();
        exit_status = run_rates(s);
        qr_cli_interrupt_release();
        if (exit_status == QR_CLI_OK && s->plots && qr_cli_sim_plots_finish(s->plots, &error) != QUIRE_OK)
            exit_status = qr_cli_fail("%s", error.message);
    }
    qr_cli_sim_plots_destroy(s->plots);
    qr_sim_trace_deinit(&s->trace);
    qr_sim_beams_deinit(&s->beams);
    qr_free(s);
    return exit_status;
}
