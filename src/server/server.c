#define _GNU_SOURCE
#include "server/server.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>
#include <microhttpd.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/call.h"

enum { TICK_MS = 100, STOP_ROUNDS = 100 };

/* ---- the ready list: calls that the loop shall look at ---- */

static void wake_loop(qr_server *server)
{
    uint64_t one = 1;
    if (write(server->event_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        qr_log(QR_LOG_ERROR, "server: eventfd: %s", strerror(errno));
}

void qr_server_ready(qr_call *call)
{
    qr_server *server = call->server;
    pthread_mutex_lock(&server->ready_lock);
    bool was_empty = !server->ready_head, is_new = !call->is_ready;
    if (is_new) {
        qr_call_ref(call);
        call->is_ready = true;
        call->next_ready = server->ready_head;
        server->ready_head = call;
    }
    pthread_mutex_unlock(&server->ready_lock);
    if (is_new && was_empty) wake_loop(server); /* one write for a whole step's outputs */
}

static void run_ready(qr_server *server)
{
    pthread_mutex_lock(&server->ready_lock);
    qr_call *newest = server->ready_head, *call = NULL;
    server->ready_head = NULL;
    while (newest) { /* oldest first */
        qr_call *next = newest->next_ready;
        newest->next_ready = call;
        newest->is_ready = false;
        call = newest;
        newest = next;
    }
    /* next_ready may be written again as soon as the lock is gone, so walk a private chain through `chain` */
    qr_call *chain = call;
    for (qr_call *c = chain; c; c = c->next_ready) c->next_handled = c->next_ready;
    pthread_mutex_unlock(&server->ready_lock);
    while (chain) {
        qr_call *next = chain->next_handled;
        qr_http_call_ready(chain);
        chain = next;
    }
}

/* ---- workers ---- */

void qr_server_work(qr_call *call)
{
    qr_server *server = call->server;
    pthread_mutex_lock(&server->work_lock);
    call->next_work = NULL;
    *server->work_tail = call;
    server->work_tail = &call->next_work;
    pthread_cond_signal(&server->work_cond);
    pthread_mutex_unlock(&server->work_lock);
}

static qr_call *take_work(qr_server *server)
{
    pthread_mutex_lock(&server->work_lock);
    while (!server->work_head && !server->work_stopping) pthread_cond_wait(&server->work_cond, &server->work_lock);
    qr_call *call = server->work_head;
    if (call) {
        server->work_head = call->next_work;
        if (!server->work_head) server->work_tail = &server->work_head;
    }
    pthread_mutex_unlock(&server->work_lock);
    return call;
}

static void *run_worker(void *user)
{
    qr_server *server = user;
    qr_call *call;
    while ((call = take_work(server))) {
        if (!qr_outbox_is_closed(&call->outbox)) qr_call_work(call); /* else the client has left */
        atomic_store(&call->work_done, true);
        qr_server_ready(call);
        qr_call_unref(call);
    }
    return NULL;
}

static void stop_workers(qr_server *server)
{
    pthread_mutex_lock(&server->work_lock);
    server->work_stopping = true;
    pthread_cond_broadcast(&server->work_cond);
    pthread_mutex_unlock(&server->work_lock);
    for (int i = 0; i < server->num_workers; i++) pthread_join(server->workers[i], NULL);
    qr_free(server->workers);
}

/* ---- the loop ---- */

static void take_events(qr_server *server, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        void *source = events[i].data.ptr;
        uint64_t ignored;
        if (source == &server->event_fd) {
            (void)!read(server->event_fd, &ignored, sizeof ignored);
        } else if (source != &server->daemon) {
            qr_conn *conn = source;
            conn->hung_up = true;
            if (conn->call) qr_http_call_cancel(conn->call);
        }
    }
}

static void stop_listening(qr_server *server)
{
    server->quiesced = true;
    MHD_socket fd = MHD_quiesce_daemon(server->daemon);
    if (fd != MHD_INVALID_SOCKET) close(fd);
}

/* End every call, so that no connection is suspended when the daemon stops. */
static void end_calls(qr_server *server)
{
    for (int round = 0; round < STOP_ROUNDS && server->num_calls; round++) {
        for (qr_conn *conn = server->conns; conn; conn = conn->next) {
            if (!conn->call) continue;
            qr_http_call_cancel(conn->call);
            if (round) qr_conn_cut(conn);
        }
        MHD_run(server->daemon);
        if (server->num_calls) usleep(1000);
    }
}

static void *run_loop(void *user)
{
    qr_server *server = user;
    struct epoll_event events[64];
    int64_t next_tick_us = 0;
    while (!server->stopping) {
        MHD_UNSIGNED_LONG_LONG wait_ms = TICK_MS, daemon_ms;
        if (MHD_get_timeout(server->daemon, &daemon_ms) == MHD_YES && daemon_ms < wait_ms) wait_ms = daemon_ms;
        int count = epoll_wait(server->epoll_fd, events, sizeof events / sizeof events[0], (int)wait_ms);
        take_events(server, events, count);
        run_ready(server);
        MHD_run(server->daemon);
        int64_t now_us = qr_clock_us();
        if (now_us >= next_tick_us) {
            qr_http_check_deadlines(server, now_us);
            next_tick_us = now_us + TICK_MS * 1000;
        }
        if (server->draining && !server->quiesced) stop_listening(server);
    }
    end_calls(server);
    MHD_stop_daemon(server->daemon);
    return NULL;
}

/* ---- life ---- */

void qr_server_options_init(qr_server_options *options)
{
    *options = (qr_server_options){.host = "127.0.0.1",
                                   .port = 8000,
                                   .max_request_bytes = 16 << 20,
                                   .max_stream_bytes = 4 << 20,
                                   .max_connections = 1024,
                                   .max_n = 128,
                                   .max_prompts = 256,
                                   .max_logprobs = 20,
                                   .num_workers = 2,
                                   .header_timeout_ms = 30000,
                                   .body_timeout_ms = 60000,
                                   .send_timeout_ms = 60000};
}

static quire_status check_options(const qr_server_options *options, quire_error *error)
{
    const struct {
        const char *name;
        int64_t value, min, max;
    } ranges[] = {
        {"port", options->port, 0, 65535},
        {"max_request_bytes", (int64_t)options->max_request_bytes, 1, INT64_C(1) << 32},
        {"max_stream_bytes", (int64_t)options->max_stream_bytes, 1, INT64_C(1) << 32},
        {"max_connections", options->max_connections, 1, 1 << 20},
        {"max_n", options->max_n, 1, 1 << 14},
        {"max_prompts", options->max_prompts, 1, 1 << 16},
        {"max_logprobs", options->max_logprobs, 0, 1 << 10},
        {"num_workers", options->num_workers, 1, 64},
        {"header_timeout_ms", options->header_timeout_ms, 1, 1 << 30},
        {"body_timeout_ms", options->body_timeout_ms, 1, 1 << 30},
        {"send_timeout_ms", options->send_timeout_ms, 1, 1 << 30},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max)
            return qr_fail_param(error, ranges[i].name, "%s must be in [%lld, %lld], got %lld", ranges[i].name,
                                 (long long)ranges[i].min, (long long)ranges[i].max, (long long)ranges[i].value);
    return QUIRE_OK;
}

static void destroy(qr_server *server)
{
    if (server->event_fd >= 0) close(server->event_fd);
    if (server->epoll_fd >= 0) close(server->epoll_fd);
    qr_token_text_deinit(&server->token_text);
    qr_free(server->path_name);
    pthread_mutex_destroy(&server->drain_lock);
    pthread_cond_destroy(&server->drained);
    pthread_mutex_destroy(&server->ready_lock);
    pthread_mutex_destroy(&server->work_lock);
    pthread_cond_destroy(&server->work_cond);
    qr_free(server);
}

/* "models/SmolLM2.Q4_1.gguf" and "checkpoints/SmolLM2.Q4_1/" are both served as "SmolLM2.Q4_1". */
static quire_status name_after_path(const char *path, char **out, quire_error *error)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin && path[begin - 1] != '/') begin--;
    static const char suffix[] = ".gguf";
    size_t suffix_bytes = sizeof suffix - 1;
    if (end - begin > suffix_bytes && strncasecmp(path + end - suffix_bytes, suffix, suffix_bytes) == 0)
        end -= suffix_bytes;
    if (begin == end) begin = 0; /* "/" */
    *out = qr_strndup(path + begin, end - begin);
    return *out ? QUIRE_OK : qr_fail_nomem(error, "the model's name", end - begin);
}

static quire_status set_up(qr_server *server, quire_error *error)
{
    const qr_server_options *options = &server->options;
    quire_model_info info;
    quire_stats stats;
    quire_model_get_info(options->model, &info);
    quire_engine_get_stats(options->engine, &stats);
    server->model_name = options->num_served_model_names ? options->served_model_names[0] : info.name;
    if (!options->num_served_model_names && options->model_path) {
        QR_TRY(name_after_path(options->model_path, &server->path_name, error));
        server->model_name = server->path_name;
    }
    server->max_model_len = stats.max_model_len;
    server->created = time(NULL);
    server->limits = (qr_api_limits){info.vocab_size, options->max_n, options->max_prompts, options->max_logprobs};
    QR_TRY(qr_token_text_init(&server->token_text, options->model, info.vocab_size, error));

    server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    server->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &server->event_fd};
    if (server->epoll_fd < 0 || server->event_fd < 0 ||
        epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, server->event_fd, &event) != 0)
        return qr_fail(error, QUIRE_IO, "cannot watch sockets: %s", strerror(errno));
    json_object_seed(0); /* once, before workers could race to do it */
    qr_server_raise_nofile(options->max_connections);
    return qr_server_listen(options->host, options->port, &server->listen_fd, &server->port, error);
}

static quire_status start_daemon(qr_server *server, quire_error *error)
{
    server->daemon = qr_http_start(server);
    if (!server->daemon) {
        close(server->listen_fd);
        return qr_fail(error, QUIRE_IO, "libmicrohttpd does not start");
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &server->daemon};
    if (!info || epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, info->epoll_fd, &event) != 0)
        return qr_fail(error, QUIRE_IO, "cannot watch libmicrohttpd: %s", strerror(errno));
    return QUIRE_OK;
}

/* Threads leave signals to the program. */
static int start_thread(pthread_t *thread, void *(*run)(void *), qr_server *server)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(thread, NULL, run, server);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static quire_status start_threads(qr_server *server, quire_error *error)
{
    server->workers = qr_calloc((size_t)server->options.num_workers, sizeof *server->workers);
    if (!server->workers) return qr_fail_nomem(error, "worker threads", sizeof *server->workers);
    int rc = 0;
    while (rc == 0 && server->num_workers < server->options.num_workers) {
        rc = start_thread(&server->workers[server->num_workers], run_worker, server);
        if (rc == 0) server->num_workers++;
    }
    if (rc == 0) rc = start_thread(&server->loop_thread, run_loop, server);
    if (rc == 0) return QUIRE_OK;
    stop_workers(server);
    return qr_fail(error, QUIRE_NOMEM, "cannot start a thread: %s", strerror(rc));
}

quire_status qr_server_start(const qr_server_options *options, qr_server **out, quire_error *error)
{
    QR_TRY(check_options(options, error));
    qr_server *server = qr_calloc(1, sizeof *server);
    if (!server) return qr_fail_nomem(error, "the server", sizeof *server);
    server->options = *options;
    server->epoll_fd = server->event_fd = server->listen_fd = -1;
    server->work_tail = &server->work_head;
    pthread_mutex_init(&server->drain_lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&server->drained, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&server->ready_lock, NULL);
    pthread_mutex_init(&server->work_lock, NULL);
    pthread_cond_init(&server->work_cond, NULL);

    quire_status status = set_up(server, error);
    if (status == QUIRE_OK) status = start_daemon(server, error);
    if (status == QUIRE_OK) status = start_threads(server, error);
    if (status != QUIRE_OK) {
        if (server->daemon) MHD_stop_daemon(server->daemon);
        destroy(server);
        return status;
    }
    *out = server;
    return QUIRE_OK;
}

int qr_server_port(const qr_server *server) { return server->port; }

quire_status qr_server_drain(qr_server *server, int timeout_ms)
{
    server->draining = true;
    wake_loop(server);
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    int rc = 0;
    pthread_mutex_lock(&server->drain_lock);
    while (server->num_calls && rc == 0)
        rc = timeout_ms < 0 ? pthread_cond_wait(&server->drained, &server->drain_lock)
                            : pthread_cond_timedwait(&server->drained, &server->drain_lock, &end);
    pthread_mutex_unlock(&server->drain_lock);
    return rc == 0 ? QUIRE_OK : QUIRE_TIMEOUT;
}

void qr_server_stop(qr_server *server)
{
    if (!server) return;
    server->stopping = true;
    wake_loop(server);
    pthread_join(server->loop_thread, NULL);
    stop_workers(server);
    run_ready(server); /* calls whose clients are gone: abort their requests */
    destroy(server);
}
