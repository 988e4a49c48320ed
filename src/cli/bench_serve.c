/* quire bench serve: many streaming clients against a running server, in one thread.
 *
 *   arrival times ─► connect ─► send ─► read: HTTP ─► SSE ─► JSON ─► record's times ─► metrics
 *                        (epoll over all connections) */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/bench.h"
#include "cli/http.h"

enum { READ_BYTES = 65536, MAX_EVENTS = 64, MAX_PERCENTILES = 16, FETCH_TIMEOUT_MS = 10000 };

/* What one request showed. Times in seconds. */
typedef struct record {
    int input_tokens, output_tokens, num_chunks;
    double started, first, last, ended;
    qr_buf gaps; /* double[]: inter-token latencies */
    bool done, success;
    char error[160];
} record;

typedef struct connection {
    int fd;
    qr_buf out;
    size_t sent;
    qr_http_parser http;
    qr_sse_parser sse;
    qr_buf error_body; /* what came with a status that is not 200 */
    record *record;
} connection;

typedef struct bench {
    const qr_cli_args *args;
    qr_http_target target;
    const char *model;
    qr_bench_workload workload;
    record *records;  /* [workload.count] */
    double *arrivals; /* seconds after the start */
    int epoll_fd, next, num_active, max_active, num_done;
    double start;
} bench;

/* ---- one connection --------------------------------------------------------------------------- */

static void on_event(void *user, const char *data, size_t bytes)
{
    record *r = ((connection *)user)->record;
    if (bytes == 6 && memcmp(data, "[DONE]", 6) == 0) {
        r->done = true;
        return;
    }
    json_t *event = json_loadb(data, bytes, 0, NULL);
    json_t *usage = json_object_get(event, "usage"), *failure = json_object_get(event, "error");
    if (json_is_object(failure)) {
        const char *message = json_string_value(json_object_get(failure, "message"));
        snprintf(r->error, sizeof r->error, "%s", message ? message : "error event");
    }
    if (json_array_size(json_object_get(event, "choices")) > 0) {
        double now = qr_clock_seconds(), gap = now - r->last;
        if (r->num_chunks++ == 0)
            r->first = now;
        else
            (void)!qr_buf_append(&r->gaps, &gap, sizeof gap);
        r->last = now;
    }
    if (json_is_object(usage)) {
        r->input_tokens = (int)json_integer_value(json_object_get(usage, "prompt_tokens"));
        r->output_tokens = (int)json_integer_value(json_object_get(usage, "completion_tokens"));
    }
    json_decref(event);
}

static void on_body(void *user, const char *data, size_t bytes)
{
    connection *c = user;
    if (c->http.status == 200)
        qr_sse_feed(&c->sse, data, bytes);
    else if (c->error_body.len < READ_BYTES)
        (void)!qr_buf_append(&c->error_body, data, bytes);
}

static void fail_record(record *r, const char *what, const char *detail)
{
    if (!r->error[0]) snprintf(r->error, sizeof r->error, "%s%s%s", what, *detail ? ": " : "", detail);
}

/* The connection is over, well or badly. */
static void finish(bench *b, connection *c)
{
    record *r = c->record;
    r->ended = qr_clock_seconds();
    if (c->http.status && c->http.status != 200) {
        char status[64];
        snprintf(status, sizeof status, "HTTP status %d", c->http.status);
        fail_record(r, status, c->error_body.data ? c->error_body.data : "");
    } else if (!r->done) {
        fail_record(r, "the stream ended early", "");
    }
    r->success = !r->error[0] && r->num_chunks > 0;
    if (r->output_tokens == 0) r->output_tokens = r->num_chunks; /* a server without usage in streams */
    close(c->fd);
    qr_sse_deinit(&c->sse);
    qr_free(c->error_body.data);
    qr_free(c->out.data);
    qr_free(c);
    b->num_active--;
    b->num_done++;
}

static char *request_body(const bench *b, const qr_bench_prompt *prompt)
{
    json_t *body =
        json_pack("{s:s, s:i, s:f, s:b, s:{s:b}}", "model", b->model, "max_tokens", prompt->output_len, "temperature",
                  b->args->bench.temperature, "stream", 1, "stream_options", "include_usage", 1);
    json_t *value = prompt->text ? json_string(prompt->text) : json_array();
    for (int i = 0; !prompt->text && i < prompt->num_ids; i++)
        (void)json_array_append_new(value, json_integer(prompt->ids[i]));
    if (body) json_object_set_new(body, "prompt", value);
    if (body && b->args->bench.ignore_eos) json_object_set_new(body, "ignore_eos", json_true());
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    return text;
}

/* false: no memory. A failed connection is recorded and counts as done. */
static bool start_request(bench *b, int idx)
{
    const qr_bench_prompt *prompt = &b->workload.prompts[idx];
    record *r = &b->records[idx];
    connection *c = qr_calloc(1, sizeof *c);
    char *body = request_body(b, prompt);
    bool ok = c && body &&
              qr_http_write_request(&b->target, b->args->bench.endpoint, b->args->server.api_key, body, strlen(body),
                                    &c->out) == 0;
    free(body);
    if (!ok) {
        if (c) qr_free(c->out.data);
        qr_free(c);
        return false;
    }
    c->record = r;
    c->sse.on_data = on_event;
    c->sse.user = c;
    qr_http_parser_init(&c->http, on_body, c);
    r->input_tokens = prompt->num_ids;
    r->started = r->last = qr_clock_seconds();
    c->fd = qr_http_connect(&b->target);
    b->num_active++;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    if (c->fd < 0 || epoll_ctl(b->epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0) {
        fail_record(r, "connect", strerror(errno));
        finish(b, c);
    }
    return true;
}

/* Write what fits; when all is sent, wait for input only. false: the connection failed. */
static bool send_some(bench *b, connection *c)
{
    while (c->sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
        if (n < 0) {
            fail_record(c->record, "send", strerror(errno));
            return false;
        }
        c->sent += (size_t)n;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    return epoll_ctl(b->epoll_fd, EPOLL_CTL_MOD, c->fd, &event) == 0;
}

/* false: the connection is over. */
static bool receive_some(connection *c)
{
    static char data[READ_BYTES];
    for (;;) {
        ssize_t n = recv(c->fd, data, sizeof data, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
        if (n < 0) {
            fail_record(c->record, "receive", strerror(errno));
            return false;
        }
        quire_status status = n > 0 ? qr_http_feed(&c->http, data, (size_t)n) : qr_http_end(&c->http);
        if (status != QUIRE_OK) fail_record(c->record, n > 0 ? "not HTTP" : "the connection closed early", "");
        if (status != QUIRE_OK || n == 0 || c->http.state == QR_HTTP_DONE) return false;
    }
}

/* ---- all of them ------------------------------------------------------------------------------ */

static void plan_arrivals(bench *b)
{
    const qr_cli_bench_args *args = &b->args->bench;
    qr_random random = {args->seed ^ 0xA5A5A5A5u};
    double at = 0;
    for (int i = 0; i < b->workload.count; i++) {
        b->arrivals[i] = at;
        if (isfinite(args->request_rate))
            at += qr_random_gamma(&random, args->burstiness, 1 / (args->request_rate * args->burstiness));
    }
}

/* Start what is due; returns the milliseconds until the next arrival, -1 when none waits for time alone. */
static int start_due(bench *b, bool *out_failed)
{
    int limit = b->args->bench.max_concurrency;
    while (b->next < b->workload.count && (limit == 0 || b->num_active < limit)) {
        double wait = b->start + b->arrivals[b->next] - qr_clock_seconds();
        if (wait > 0) return (int)ceil(wait * 1000);
        if (!start_request(b, b->next++)) {
            *out_failed = true;
            return 0;
        }
        if (b->num_active > b->max_active) b->max_active = b->num_active;
    }
    return -1;
}

static void draw(const bench *b, qr_cli_progress *progress)
{
    char detail[64];
    snprintf(detail, sizeof detail, "%d of %d, %d under way", b->num_done, b->workload.count, b->num_active);
    qr_cli_progress_draw(progress, (double)b->num_done / b->workload.count, detail);
}

static int run_all(bench *b)
{
    qr_cli_progress progress;
    struct epoll_event events[MAX_EVENTS];
    bool failed = false;
    qr_cli_progress_start(&progress, "requests", 0);
    b->start = qr_clock_seconds();
    while (b->num_done < b->workload.count && !failed) {
        int wait_ms = start_due(b, &failed);
        int n = b->num_active || wait_ms > 0 ? epoll_wait(b->epoll_fd, events, MAX_EVENTS, wait_ms) : 0;
        for (int i = 0; i < n; i++) {
            connection *c = events[i].data.ptr;
            bool alive = true;
            if ((events[i].events & EPOLLOUT) && c->sent < c->out.len) alive = send_some(b, c);
            if (alive && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) alive = receive_some(c);
            if (!alive) finish(b, c);
        }
        draw(b, &progress);
    }
    qr_cli_progress_end(&progress);
    return failed ? qr_cli_fail("out of memory") : QR_CLI_OK;
}

/* ---- results ---------------------------------------------------------------------------------- */

typedef struct metric {
    const char *name, *title, *label;
    double *values; /* milliseconds */
    size_t count;
} metric;

static int parse_percentiles(const char *text, double *out)
{
    int count = 0;
    for (const char *at = text; *at && count < MAX_PERCENTILES;) {
        char *end;
        out[count] = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !(out[count] >= 0 && out[count] <= 100)) return -1;
        count++;
        at = end + (*end == ',');
    }
    return count;
}

static void report_metric(json_t *result, metric *m, const double *percents, int num_percents, bool print)
{
    char key[64];
    struct {
        const char *prefix, *title;
        double value;
    } rows[] = {{"mean", "Mean", qr_bench_mean(m->values, m->count)},
                {"median", "Median", 0},
                {"std", NULL, qr_bench_std(m->values, m->count)}};
    qr_bench_sort(m->values, m->count);
    rows[1].value = qr_bench_percentile(m->values, m->count, 50);
    if (print) {
        int pad = 50 - (int)strlen(m->title);
        printf("%.*s%s%.*s\n", pad / 2, "-------------------------", m->title, pad - pad / 2,
               "-------------------------");
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(key, sizeof key, "%s_%s_ms", rows[i].prefix, m->name);
        json_object_set_new(result, key, json_real(rows[i].value));
        if (!print || !rows[i].title) continue;
        snprintf(key, sizeof key, "%s %s (ms):", rows[i].title, m->label);
        printf("%-40s%10.2f\n", key, rows[i].value);
    }
    for (int i = 0; i < num_percents; i++) {
        double value = qr_bench_percentile(m->values, m->count, percents[i]);
        snprintf(key, sizeof key, "p%g_%s_ms", percents[i], m->name);
        json_object_set_new(result, key, json_real(value));
        snprintf(key, sizeof key, "P%g %s (ms):", percents[i], m->label);
        if (print) printf("%-40s%10.2f\n", key, value);
    }
}

/* Every request's times, gathered by metric. false: no memory. */
static bool gather(const bench *b, metric *ttft, metric *tpot, metric *itl, metric *e2el, metric *normalized)
{
    size_t count = (size_t)b->workload.count, num_gaps = 0;
    for (size_t i = 0; i < count; i++) num_gaps += b->records[i].gaps.len / sizeof(double);
    ttft->values = qr_calloc(count, sizeof(double));
    tpot->values = qr_calloc(count, sizeof(double));
    e2el->values = qr_calloc(count, sizeof(double));
    normalized->values = qr_calloc(count, sizeof(double));
    itl->values = qr_calloc(num_gaps, sizeof(double));
    if (!ttft->values || !tpot->values || !e2el->values || !itl->values || !normalized->values) return false;
    for (size_t i = 0; i < count; i++) {
        const record *r = &b->records[i];
        if (!r->success) continue;
        const double *gaps = (const double *)(const void *)r->gaps.data;
        ttft->values[ttft->count++] = (r->first - r->started) * 1000;
        e2el->values[e2el->count++] = (r->last - r->started) * 1000;
        if (r->output_tokens > 0)
            normalized->values[normalized->count++] = (r->last - r->started) * 1000 / r->output_tokens;
        if (r->output_tokens > 1) tpot->values[tpot->count++] = (r->last - r->first) * 1000 / (r->output_tokens - 1);
        for (size_t g = 0; g < r->gaps.len / sizeof(double); g++) itl->values[itl->count++] = gaps[g] * 1000;
    }
    return true;
}

static void add_details(json_t *result, const bench *b)
{
    json_t *inputs = json_array(), *outputs = json_array(), *ttfts = json_array(), *itls = json_array(),
           *errors = json_array();
    for (int i = 0; i < b->workload.count; i++) {
        const record *r = &b->records[i];
        const double *gaps = (const double *)(const void *)r->gaps.data;
        json_t *list = json_array();
        for (size_t g = 0; g < r->gaps.len / sizeof(double); g++) json_array_append_new(list, json_real(gaps[g]));
        json_array_append_new(inputs, json_integer(r->input_tokens));
        json_array_append_new(outputs, json_integer(r->success ? r->output_tokens : 0));
        json_array_append_new(ttfts, json_real(r->num_chunks ? r->first - r->started : 0));
        json_array_append_new(errors, json_string(r->error));
        json_array_append_new(itls, list);
    }
    json_object_set_new(result, "input_lens", inputs);
    json_object_set_new(result, "output_lens", outputs);
    json_object_set_new(result, "ttfts", ttfts);
    json_object_set_new(result, "itls", itls);
    json_object_set_new(result, "errors", errors);
}

/* Counts and rates, into the JSON and the table. */
static json_t *summarize(const bench *b, const char *date, double duration, bool print)
{
    const qr_cli_bench_args *args = &b->args->bench;
    json_int_t completed = 0, input = 0, output = 0;
    for (int i = 0; i < b->workload.count; i++) {
        if (!b->records[i].success) continue;
        completed++;
        input += b->records[i].input_tokens;
        output += b->records[i].output_tokens;
    }
    json_t *rate = isfinite(args->request_rate) ? json_real(args->request_rate) : json_string("inf");
    json_t *limit = args->max_concurrency ? json_integer(args->max_concurrency) : json_null();
    json_t *result = json_pack(
        "{s:s, s:s, s:s, s:i, s:o, s:f, s:o, s:f, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:i}", "date", date,
        "endpoint_type", "openai", "model_id", b->model, "num_prompts", b->workload.count, "request_rate", rate,
        "burstiness", args->burstiness, "max_concurrency", limit, "duration", duration, "completed", completed,
        "failed", (json_int_t)b->workload.count - completed, "total_input_tokens", input, "total_output_tokens", output,
        "request_throughput", (double)completed / duration, "output_throughput", (double)output / duration,
        "total_token_throughput", (double)(input + output) / duration, "max_concurrent_requests", b->max_active);
    if (!result || !print) return result;
    printf("============ Serving Benchmark Result ============\n");
    printf("%-40s%10lld\n%-40s%10lld\n", "Successful requests:", (long long)completed,
           "Failed requests:", (long long)(b->workload.count - completed));
    if (args->max_concurrency) printf("%-40s%10d\n", "Maximum request concurrency:", args->max_concurrency);
    if (isfinite(args->request_rate)) printf("%-40s%10.2f\n", "Request rate configured (RPS):", args->request_rate);
    printf("%-40s%10.2f\n", "Benchmark duration (s):", duration);
    printf("%-40s%10lld\n%-40s%10lld\n", "Total input tokens:", (long long)input,
           "Total generated tokens:", (long long)output);
    printf("%-40s%10.2f\n", "Request throughput (req/s):", (double)completed / duration);
    printf("%-40s%10.2f\n", "Output token throughput (tok/s):", (double)output / duration);
    printf("%-40s%10d\n", "Peak concurrent requests:", b->max_active);
    printf("%-40s%10.2f\n", "Total token throughput (tok/s):", (double)(input + output) / duration);
    return result;
}

static void result_path(const bench *b, const char *stamp, char *out, size_t out_bytes)
{
    const qr_cli_bench_args *args = &b->args->bench;
    char name[256];
    if (args->result_filename) {
        snprintf(out, out_bytes, "%s/%s", args->result_dir, args->result_filename);
        return;
    }
    snprintf(name, sizeof name, "quire-%gqps-%s-%s.json", args->request_rate, b->model, stamp);
    for (char *c = name; *c; c++)
        if (*c == '/') *c = '_';
    snprintf(out, out_bytes, "%s/%s", args->result_dir, name);
}

static int report(const bench *b, double duration)
{
    const qr_cli_args *args = b->args;
    metric metrics[] = {{"ttft", "Time to First Token", "TTFT", NULL, 0},
                        {"tpot", "Time per Output Token (excl. 1st token)", "TPOT", NULL, 0},
                        {"itl", "Inter-token Latency", "ITL", NULL, 0},
                        {"e2el", "End-to-end Latency", "E2EL", NULL, 0},
                        {"normalized", "Normalized Latency (E2EL per output token)", "Normalized", NULL, 0}};
    double percents[MAX_PERCENTILES];
    int num_percents = parse_percentiles(args->bench.metric_percentiles, percents), exit_status;
    char stamp[32], path[1024];
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &tm);
    json_t *result = NULL;
    bool ok = gather(b, &metrics[0], &metrics[1], &metrics[2], &metrics[3], &metrics[4]) &&
              (result = summarize(b, stamp, duration, !args->json));
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        if (ok) report_metric(result, &metrics[i], percents, num_percents, !args->json);
        qr_free(metrics[i].values);
    }
    if (ok && !args->json) puts("==================================================");
    if (ok && args->bench.save_detailed) add_details(result, b);
    result_path(b, stamp, path, sizeof path);
    bool save = args->bench.save_result || args->bench.save_detailed;
    exit_status = ok ? qr_bench_emit(result, args->json, save ? path : NULL) : qr_cli_fail("out of memory");
    int num_failed = 0;
    const char *first_error = "";
    for (int i = 0; i < b->workload.count; i++) {
        if (!b->records[i].success && num_failed++ == 0) first_error = b->records[i].error;
    }
    if (num_failed)
        return qr_cli_fail("%d of %d requests failed; the first: %s", num_failed, b->workload.count, first_error);
    return exit_status;
}

/* ---- getting ready ---------------------------------------------------------------------------- */

typedef struct fetched {
    qr_http_parser http;
    qr_buf body;
} fetched;

static void on_fetched(void *user, const char *data, size_t bytes)
{
    fetched *f = user;
    if (f->body.len < 1 << 20) (void)!qr_buf_append(&f->body, data, bytes);
}

/* GET a path and wait for the answer. */
static quire_status fetch(const bench *b, const char *path, fetched *out, quire_error *error)
{
    qr_buf request = {0};
    record r = {0};
    connection c = {.fd = qr_http_connect(&b->target), .record = &r};
    qr_http_parser_init(&out->http, on_fetched, out);
    bool ok = c.fd >= 0 && qr_http_write_request(&b->target, path, b->args->server.api_key, NULL, 0, &request) == 0;
    struct epoll_event event = {.events = EPOLLOUT};
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC), reason = ok ? 0 : errno;
    if (ok && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c.fd, &event) != 0) reason = errno;
    while (ok && !reason && out->http.state != QR_HTTP_DONE) {
        char data[4096];
        if (epoll_wait(epoll_fd, &event, 1, FETCH_TIMEOUT_MS) < 1) {
            reason = ETIMEDOUT;
        } else if (c.sent < request.len) {
            ssize_t n = send(c.fd, request.data + c.sent, request.len - c.sent, MSG_NOSIGNAL);
            if (n < 0) reason = errno;
            if (n > 0) c.sent += (size_t)n;
            event.events = c.sent < request.len ? EPOLLOUT : EPOLLIN;
            (void)!epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c.fd, &event);
        } else {
            ssize_t n = recv(c.fd, data, sizeof data, 0);
            if (n < 0) reason = errno;
            if (n > 0 && qr_http_feed(&out->http, data, (size_t)n) != QUIRE_OK) reason = EPROTO;
            if (n == 0 && qr_http_end(&out->http) != QUIRE_OK) reason = EPROTO;
        }
    }
    if (c.fd >= 0) close(c.fd);
    close(epoll_fd);
    qr_free(request.data);
    if (!reason) return QUIRE_OK;
    return qr_fail(error, QUIRE_IO, "no server at http://%s:%s (%s): start one with `quire serve MODEL`",
                   b->target.host, b->target.port, strerror(reason));
}

/* Ask the server for its model; *out_models owns the strings. */
static quire_status ask_model(bench *b, json_t **out_models, int *out_max_len, quire_error *error)
{
    fetched answer = {0};
    quire_status status = fetch(b, "/v1/models", &answer, error);
    if (status == QUIRE_OK && answer.http.status != 200)
        status = qr_fail(error, QUIRE_IO, "/v1/models: HTTP status %d: %.200s", answer.http.status,
                         answer.body.data ? answer.body.data : "");
    if (status == QUIRE_OK)
        *out_models = json_loadb(answer.body.data ? answer.body.data : "", answer.body.len, 0, NULL);
    qr_free(answer.body.data);
    if (status != QUIRE_OK) return status;
    const json_t *first = json_array_get(json_object_get(*out_models, "data"), 0);
    *out_max_len = (int)json_integer_value(json_object_get(first, "max_model_len"));
    b->model = b->args->bench.model ? b->args->bench.model : json_string_value(json_object_get(first, "id"));
    return b->model ? QUIRE_OK : qr_fail(error, QUIRE_FORMAT, "/v1/models names no model: give one with --model");
}

/* As many sockets as the system lets us have. */
static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

static quire_status prepare(bench *b, json_t **out_models, quire_error *error)
{
    const qr_cli_args *args = b->args;
    char url[400];
    int max_len = 0;
    bool bracket = strchr(args->server.host, ':') != NULL;
    snprintf(url, sizeof url, "http://%s%s%s:%d", bracket ? "[" : "", args->server.host, bracket ? "]" : "",
             args->server.port);
    QR_TRY(qr_http_resolve(args->bench.base_url ? args->bench.base_url : url, &b->target, error));
    QR_TRY(ask_model(b, out_models, &max_len, error));
    QR_TRY(qr_bench_workload_init(&args->bench, max_len, &b->workload, error));
    b->records = qr_calloc((size_t)b->workload.count, sizeof *b->records);
    b->arrivals = qr_calloc((size_t)b->workload.count, sizeof *b->arrivals);
    if (!b->records || !b->arrivals) return qr_fail_nomem(error, "results", (size_t)b->workload.count);
    b->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return b->epoll_fd >= 0 ? QUIRE_OK : qr_fail(error, QUIRE_IO, "epoll: %s", strerror(errno));
}

int qr_cli_run_bench_serve(qr_cli_args *args)
{
    quire_error error;
    json_t *models = NULL;
    double percents[MAX_PERCENTILES];
    bench b = {.args = args, .epoll_fd = -1};
    if (parse_percentiles(args->bench.metric_percentiles, percents) < 0)
        return qr_cli_usage_error("bench serve", "--metric-percentiles: '%s' is not a list of numbers from 0 to 100",
                                  args->bench.metric_percentiles);
    raise_file_limit();
    int exit_status = QR_CLI_OK;
    if (prepare(&b, &models, &error) != QUIRE_OK) exit_status = qr_cli_fail("%s", error.message);
    if (exit_status == QR_CLI_OK) {
        plan_arrivals(&b);
        exit_status = run_all(&b);
    }
    if (exit_status == QR_CLI_OK) exit_status = report(&b, qr_clock_seconds() - b.start);
    for (int i = 0; b.records && i < b.workload.count; i++) qr_free(b.records[i].gaps.data);
    if (b.epoll_fd >= 0) close(b.epoll_fd);
    qr_free(b.records);
    qr_free(b.arrivals);
    qr_bench_workload_deinit(&b.workload);
    json_decref(models);
    return exit_status;
}
