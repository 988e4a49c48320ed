/* quire bench throughput, latency, sharing: the engine in this process, no HTTP. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "cli/bench.h"
#include "cli/simulate.h"

enum { RETRY_MS = 5 };

/* Counted by the engine thread's callbacks. */
typedef struct tally {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int num_finished;
    int64_t prompt_tokens, output_tokens;
    bool failed;
    char message[256];
} tally;

static void on_output(void *user, const quire_output *output)
{
    tally *t = user;
    if (output->finish_reason == QUIRE_FINISH_NONE) return;
    pthread_mutex_lock(&t->lock);
    t->num_finished += output->request_finished;
    t->prompt_tokens += output->request_finished ? output->num_prompt_tokens : 0;
    t->output_tokens += output->num_output_tokens;
    if (output->finish_reason == QUIRE_FINISH_ERROR && !t->failed) {
        t->failed = true;
        snprintf(t->message, sizeof t->message, "%s", output->error_message ? output->error_message : "engine error");
    }
    pthread_cond_signal(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

static void draw(qr_cli_progress *progress, int done, int total, int64_t tokens)
{
    char detail[96];
    double seconds = (double)(qr_clock_us() - progress->started_us) / 1e6;
    snprintf(detail, sizeof detail, "%d of %d, %.1f tokens/s", done, total,
             seconds > 0 ? (double)tokens / seconds : 0.0);
    qr_cli_progress_draw(progress, (double)done / total, detail);
}

static quire_status submit(quire_engine *engine, const qr_bench_prompt *prompt, const quire_sampling_params *sampling,
                           tally *t, quire_error *error)
{
    quire_request *request;
    quire_request_options options;
    quire_request_options_init(&options);
    options.prompt = prompt->text;
    options.prompt_bytes = prompt->text ? strlen(prompt->text) : 0;
    options.prompt_token_ids = prompt->ids;
    options.num_prompt_tokens = prompt->ids ? (size_t)prompt->num_ids : 0;
    options.sampling = *sampling;
    options.sampling.max_tokens = prompt->output_len;
    options.on_output = on_output;
    options.user = t;
    quire_status status;
    while ((status = quire_submit(engine, &options, &request, error)) == QUIRE_QUEUE_FULL)
        nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
    if (status == QUIRE_OK) quire_request_release(request);
    return status;
}

/* One answer of its full length. */
static quire_sampling_params plain_sampling(void)
{
    quire_sampling_params sampling;
    quire_sampling_params_init(&sampling);
    sampling.ignore_eos = true;
    return sampling;
}

/* Run all prompts of the workload; *out_seconds from the first submission to the last token. */
static int run_workload(quire_engine *engine, const qr_bench_workload *workload, const quire_sampling_params *sampling,
                        tally *t, qr_cli_progress *progress, double *out_seconds)
{
    quire_error error;
    quire_status status = QUIRE_OK;
    int num_submitted = 0;
    t->num_finished = 0;
    int64_t start = qr_clock_us();
    for (int i = 0; status == QUIRE_OK && i < workload->count; i++) {
        status = submit(engine, &workload->prompts[i], sampling, t, &error);
        num_submitted += status == QUIRE_OK;
    }
    pthread_mutex_lock(&t->lock);
    while (t->num_finished < num_submitted) { /* also after a failure: callbacks use t */
        pthread_cond_wait(&t->changed, &t->lock);
        if (progress) draw(progress, t->num_finished, workload->count, t->prompt_tokens + t->output_tokens);
    }
    pthread_mutex_unlock(&t->lock);
    *out_seconds = (double)(qr_clock_us() - start) / 1e6;
    if (status != QUIRE_OK) return qr_cli_fail("%s", error.message);
    return t->failed ? qr_cli_fail("%s", t->message) : QR_CLI_OK;
}

/* ---- throughput ------------------------------------------------------------------------------- */

static int report_throughput(const qr_cli_args *args, quire_engine *engine, const qr_bench_workload *workload,
                             const tally *t, double seconds)
{
    quire_stats stats;
    for (int i = 0; i < 100; i++) { /* the last step may still be tidying up */
        quire_engine_get_stats(engine, &stats);
        if (stats.num_free_kv_blocks == stats.num_kv_blocks) break;
        nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
    }
    double requests = workload->count / seconds, output_rate = (double)t->output_tokens / seconds;
    int64_t total = t->prompt_tokens + t->output_tokens;
    json_int_t leaked = (json_int_t)(stats.num_kv_blocks - stats.num_free_kv_blocks);
    json_t *result = json_pack(
        "{s:f, s:i, s:I, s:f, s:f, s:I, s:I, s:f, s:I, s:f, s:I, s:s, s:f, s:f, s:f, s:f, s:f, s:f}", "elapsed_time",
        seconds, "num_requests", workload->count, "total_num_tokens", (json_int_t)total, "requests_per_second",
        requests, "tokens_per_second", (double)total / seconds, "total_input_tokens", (json_int_t)t->prompt_tokens,
        "total_output_tokens", (json_int_t)t->output_tokens, "output_tokens_per_second", output_rate, "num_preemptions",
        (json_int_t)stats.num_preemptions, "live_slot_fraction", stats.live_slot_fraction, "kv_blocks_in_use", leaked,
        "kv_allocator", stats.kv_allocator, "mean_requests_running", stats.mean_requests_running, "kv_live_fraction",
        stats.kv_live_fraction, "kv_reserved_fraction", stats.kv_reserved_fraction, "kv_internal_fraction",
        stats.kv_internal_fraction, "kv_external_fraction", stats.kv_external_fraction, "kv_unused_fraction",
        stats.kv_unused_fraction);
    if (!result) return qr_cli_fail("out of memory");
    if (!args->json) {
        printf("Throughput: %.2f requests/s, %.2f total tokens/s, %.2f output tokens/s\n", requests,
               (double)total / seconds, output_rate);
        printf("%d requests, %lld prompt + %lld output tokens in %.2f s\n", workload->count,
               (long long)t->prompt_tokens, (long long)t->output_tokens, seconds);
        printf(
            "KV slots that hold live tokens: %.2f %% of those allocated; %llu preemptions; %lld blocks in use at the "
            "end\n",
            stats.live_slot_fraction * 100, (unsigned long long)stats.num_preemptions, (long long)leaked);
        printf(
            "%s: %.2f requests running on average; slots of the pool %.1f %% live, %.1f %% reserved, %.1f %% internal "
            "and %.1f %% external fragmentation, %.1f %% unused\n",
            stats.kv_allocator, stats.mean_requests_running, stats.kv_live_fraction * 100,
            stats.kv_reserved_fraction * 100, stats.kv_internal_fraction * 100, stats.kv_external_fraction * 100,
            stats.kv_unused_fraction * 100);
    }
    return qr_bench_emit(result, args->json, args->bench.output_json);
}

static int run_throughput(qr_cli_args *args)
{
    quire_error error;
    quire_model *model = NULL;
    quire_engine *engine = NULL;
    qr_bench_workload workload = {0};
    tally t = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    qr_cli_progress progress;
    quire_stats stats;
    double seconds;
    int exit_status = QR_CLI_FAILED;
    if (qr_cli_open_model(args, false, &model) != QR_CLI_OK) goto done;
    if (qr_cli_create_engine(args, model, &engine) != QR_CLI_OK) goto done;
    quire_engine_get_stats(engine, &stats);
    if (qr_bench_workload_init(&args->bench, stats.max_model_len, &workload, &error) != QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    qr_cli_describe(model, engine);
    qr_cli_progress_start(&progress, "running", 0);
    const quire_sampling_params sampling = plain_sampling();
    exit_status = run_workload(engine, &workload, &sampling, &t, &progress, &seconds);
    qr_cli_progress_end(&progress);
    if (exit_status == QR_CLI_OK) exit_status = report_throughput(args, engine, &workload, &t, seconds);
done:
    quire_engine_destroy(engine);
    quire_model_close(model);
    qr_bench_workload_deinit(&workload);
    return exit_status;
}

/* A calibration is learnt from a schedule log: the one asked for, or one beside it that is removed again. */
int qr_cli_run_bench_throughput(qr_cli_args *args)
{
    const char *path = args->bench.calibration, *log_path = args->engine.schedule_log;
    char own_log[4096];
    if (!path) return run_throughput(args);
    if (!log_path) {
        if ((size_t)snprintf(own_log, sizeof own_log, "%s.schedule.part", path) >= sizeof own_log)
            return qr_cli_fail("%s: the name is too long", path);
        args->engine.schedule_log = own_log;
    }
    int exit_status = run_throughput(args);
    if (exit_status == QR_CLI_OK) exit_status = qr_cli_write_calibration(args->engine.schedule_log, path);
    if (!log_path) remove(own_log);
    return exit_status;
}

/* ---- latency ---------------------------------------------------------------------------------- */

static int report_latency(const qr_cli_args *args, double *latencies, size_t count)
{
    static const int percents[] = {10, 25, 50, 75, 90, 99};
    json_t *list = json_array(), *percentiles = json_object();
    for (size_t i = 0; i < count; i++) (void)json_array_append_new(list, json_real(latencies[i]));
    double mean = qr_bench_mean(latencies, count);
    qr_bench_sort(latencies, count);
    if (!args->json) printf("Avg latency: %.4f seconds\n", mean);
    for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
        char name[8];
        double value = qr_bench_percentile(latencies, count, percents[i]);
        snprintf(name, sizeof name, "%d", percents[i]);
        (void)json_object_set_new(percentiles, name, json_real(value));
        if (!args->json) printf("%s%% percentile latency: %.4f seconds\n", name, value);
    }
    json_t *result = json_pack("{s:f, s:o, s:o}", "avg_latency", mean, "latencies", list, "percentiles", percentiles);
    if (!result) return qr_cli_fail("out of memory");
    return qr_bench_emit(result, args->json, args->bench.output_json);
}

static int measure_latency(const qr_cli_args *args, quire_engine *engine, double *latencies)
{
    const qr_cli_bench_args *bench = &args->bench;
    const quire_sampling_params sampling = plain_sampling();
    int total = bench->num_iters_warmup + bench->num_iters, exit_status = QR_CLI_OK;
    tally t = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    qr_cli_progress progress;
    qr_cli_progress_start(&progress, "measuring", 0);
    for (int i = 0; exit_status == QR_CLI_OK && i < total; i++) {
        quire_error error;
        qr_bench_workload workload;
        double seconds = 0;
        /* other prompts each time: a cached prefix would be a different measurement */
        quire_status status = qr_bench_random_prompts(bench->batch_size, bench->input_len, bench->output_len,
                                                      bench->seed + (uint64_t)i * 0x9E37u, &workload, &error);
        if (status != QUIRE_OK) return qr_cli_fail("%s", error.message);
        exit_status = run_workload(engine, &workload, &sampling, &t, NULL, &seconds);
        qr_bench_workload_deinit(&workload);
        if (i >= bench->num_iters_warmup) latencies[i - bench->num_iters_warmup] = seconds;
        draw(&progress, i + 1, total, t.prompt_tokens + t.output_tokens);
    }
    qr_cli_progress_end(&progress);
    return exit_status;
}

int qr_cli_run_bench_latency(qr_cli_args *args)
{
    quire_model *model = NULL;
    quire_engine *engine = NULL;
    const qr_cli_bench_args *bench = &args->bench;
    if (bench->batch_size < 1 || bench->input_len < 1 || bench->output_len < 1 || bench->num_iters < 1)
        return qr_cli_usage_error("bench latency",
                                  "--batch-size, --input-len, --output-len and --num-iters must be at least 1");
    double *latencies = qr_calloc((size_t)bench->num_iters, sizeof *latencies);
    int exit_status = latencies ? QR_CLI_OK : qr_cli_fail("out of memory");
    if (exit_status == QR_CLI_OK) exit_status = qr_cli_open_model(args, false, &model);
    if (exit_status == QR_CLI_OK) exit_status = qr_cli_create_engine(args, model, &engine);
    if (exit_status == QR_CLI_OK) {
        qr_cli_describe(model, engine);
        exit_status = measure_latency(args, engine, latencies);
    }
    if (exit_status == QR_CLI_OK) exit_status = report_latency(args, latencies, (size_t)bench->num_iters);
    quire_engine_destroy(engine);
    quire_model_close(model);
    qr_free(latencies);
    return exit_status;
}

/* ---- sharing ---------------------------------------------------------------------------------- */

/* One run: n sequences, or beams, for each prompt of the workload. */
static int measure_sharing(const qr_cli_args *args, quire_engine *engine, const qr_bench_workload *workload, int n,
                           bool beams, json_t *runs)
{
    tally t = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    quire_sampling_params sampling = plain_sampling();
    sampling.ignore_eos = args->bench.ignore_eos;
    sampling.n = n;
    sampling.use_beam_search = beams;
    qr_cli_progress progress;
    double seconds;
    qr_cli_progress_start(&progress, beams ? "beam search" : "sampling", 0);
    int exit_status = run_workload(engine, workload, &sampling, &t, &progress, &seconds);
    qr_cli_progress_end(&progress);
    if (exit_status != QR_CLI_OK) return exit_status;
    quire_stats stats;
    quire_engine_get_stats(engine, &stats);
    double books = stats.schedule_seconds + stats.copy_seconds + stats.update_seconds;
    if (!args->json)
        printf("%-12s %3d  %10.2f %%  %9llu  %13lld  %9.3f %%\n", beams ? "beam width" : "n", n,
               stats.saved_block_fraction * 100, (unsigned long long)stats.num_steps, (long long)t.output_tokens,
               books / stats.step_seconds * 100);
    json_t *run =
        json_pack("{s:s, s:i, s:f, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "method",
                  beams ? "beam search" : "parallel sampling", "n", n, "saved_block_fraction",
                  stats.saved_block_fraction, "num_steps", (json_int_t)stats.num_steps, "total_input_tokens",
                  (json_int_t)t.prompt_tokens, "total_output_tokens", (json_int_t)t.output_tokens, "num_preemptions",
                  (json_int_t)stats.num_preemptions, "elapsed_time", seconds, "step_seconds", stats.step_seconds,
                  "schedule_seconds", stats.schedule_seconds, "copy_seconds", stats.copy_seconds, "forward_seconds",
                  stats.forward_seconds, "update_seconds", stats.update_seconds);
    if (!run || json_array_append_new(runs, run) != 0) return qr_cli_fail("out of memory");
    return qr_cli_flush();
}

/* A run for each number of `list`, each in an engine of its own: its figures are means since the start. */
static int measure_sharing_of(qr_cli_args *args, quire_model *model, const qr_bench_workload *workload,
                              const char *list, bool beams, json_t *runs)
{
    quire_error error;
    int32_t *numbers;
    size_t count;
    if (qr_cli_parse_ids(list, &numbers, &count, &error) != QUIRE_OK)
        return qr_cli_usage_error("bench sharing", "--%s '%s': write 2,4,6", beams ? "beam-width" : "n", list);
    int exit_status = QR_CLI_OK;
    for (size_t i = 0; exit_status == QR_CLI_OK && i < count; i++) {
        quire_engine *engine = NULL;
        exit_status = qr_cli_create_engine(args, model, &engine);
        if (exit_status == QR_CLI_OK) exit_status = measure_sharing(args, engine, workload, numbers[i], beams, runs);
        quire_engine_destroy(engine);
    }
    qr_free(numbers);
    return exit_status;
}

int qr_cli_run_bench_sharing(qr_cli_args *args)
{
    quire_error error;
    quire_model *model = NULL;
    qr_bench_workload workload = {0};
    if (qr_bench_workload_init(&args->bench, args->engine.max_model_len, &workload, &error) != QUIRE_OK)
        return qr_cli_fail("%s", error.message);
    json_t *runs = json_array();
    int exit_status = runs ? qr_cli_open_model(args, false, &model) : qr_cli_fail("out of memory");
    if (exit_status == QR_CLI_OK && !args->json)
        printf("%d prompts      blocks saved      steps  output tokens  bookkeeping\n", workload.count);
    if (exit_status == QR_CLI_OK)
        exit_status = measure_sharing_of(args, model, &workload, args->bench.n_list, false, runs);
    if (exit_status == QR_CLI_OK)
        exit_status = measure_sharing_of(args, model, &workload, args->bench.beam_width_list, true, runs);
    if (exit_status == QR_CLI_OK)
        exit_status = qr_bench_emit(runs, args->json, args->bench.output_json);
    else
        json_decref(runs);
    quire_model_close(model);
    qr_bench_workload_deinit(&workload);
    return exit_status;
}
