/* The HTTP side of a call (call.h): libmicrohttpd's callbacks, all on the loop thread. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <microhttpd.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/routes.h"

enum { STREAM_BLOCK_BYTES = 16 * 1024, MAX_BODIES_IN_MEMORY = 8, MAX_SWALLOWED_BODIES = 4, LINGER_MS = 500 };

/* ---- connections ---- */

static void add_conn(qr_server *server, struct MHD_Connection *mhd, void **socket_context)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    qr_conn *conn = qr_calloc(1, sizeof *conn);
    *socket_context = conn;
    if (!conn) return; /* its calls are refused with 503 */
    conn->fd = info->connect_fd;
    conn->since_us = qr_clock_us();
    conn->next = server->conns;
    if (conn->next) conn->next->prev = conn;
    server->conns = conn;
    /* a suspended connection is not polled by libmicrohttpd: watch for its end here */
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = conn};
    if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, conn->fd, &event) != 0)
        qr_log(QR_LOG_WARN, "server: epoll_ctl: %s", strerror(errno));
}

static void remove_conn(qr_server *server, qr_conn *conn)
{
    epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
    if (conn->prev)
        conn->prev->next = conn->next;
    else
        server->conns = conn->next;
    if (conn->next) conn->next->prev = conn->prev;
    qr_free(conn);
}

static void notify_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                              enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        add_conn(cls, mhd, socket_context);
    else if (*socket_context)
        remove_conn(cls, *socket_context);
}

void qr_conn_cut(qr_conn *conn) { shutdown(conn->fd, SHUT_RDWR); }

static void enter_phase(qr_conn *conn, qr_conn_phase phase)
{
    conn->phase = phase;
    conn->since_us = qr_clock_us();
}

static bool is_late(int64_t since_us, int64_t now_us, int timeout_ms)
{
    return now_us - since_us > (int64_t)timeout_ms * 1000;
}

void qr_http_check_deadlines(qr_server *server, int64_t now_us)
{
    const qr_server_options *options = &server->options;
    for (qr_conn *conn = server->conns; conn; conn = conn->next) {
        const qr_call *call = conn->call;
        /* a peer's close that arrives with its last bytes is one edge: libmicrohttpd may miss it behind them */
        bool left = conn->hung_up && conn->phase != QR_CONN_BUSY && is_late(conn->since_us, now_us, LINGER_MS);
        bool sending = call && call->state == QR_CALL_SENDING && !call->suspended && call->request.stream;
        if (left || (conn->phase == QR_CONN_HEADERS && is_late(conn->since_us, now_us, options->header_timeout_ms)) ||
            (conn->phase == QR_CONN_BODY && is_late(conn->since_us, now_us, options->body_timeout_ms)) ||
            (sending && is_late(call->last_read_us, now_us, options->send_timeout_ms)))
            qr_conn_cut(conn);
    }
}

/* ---- suspending ---- */

static void suspend(qr_call *call)
{
    call->suspended = true;
    MHD_suspend_connection(call->mhd);
}

static void resume(qr_call *call)
{
    if (!call->suspended) return;
    call->suspended = false;
    MHD_resume_connection(call->mhd);
}

static void uncount_body(qr_call *call)
{
    call->server->body_bytes -= call->counted_bytes;
    call->counted_bytes = 0;
}

void qr_http_call_ready(qr_call *call)
{
    bool working = call->state == QR_CALL_WORKING, done = atomic_load(&call->work_done);
    if (!call->mhd) {
        if (working && done) qr_call_abandon(call); /* the client left while a worker was busy with it */
    } else if (!working || done) {
        if (working) {
            uncount_body(call);
            call->state = call->http_status ? QR_CALL_ANSWER : QR_CALL_RUNNING;
        }
        /* a stream whose client does not read is not suspended: only the socket's end wakes it */
        if (call->state == QR_CALL_SENDING && qr_outbox_get_failure(&call->outbox) != QR_OUTBOX_FINE) {
            qr_call_abandon(call);
            qr_conn_cut(call->conn);
        }
        resume(call);
    }
    qr_call_unref(call);
}

void qr_http_call_cancel(qr_call *call)
{
    call->conn->hung_up = true;
    resume(call);
}

/* ---- answering ---- */

static void add_common_headers(const qr_call *call, struct MHD_Response *response)
{
    MHD_add_response_header(response, "Access-Control-Allow-Origin", "*");
    if (call->header_id[0]) MHD_add_response_header(response, "X-Request-Id", call->header_id);
    if (call->retry_later) MHD_add_response_header(response, "Retry-After", "1");
    if (call->allow) MHD_add_response_header(response, "Allow", call->allow);
    if (call->http_status == 401) MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (call->server->draining || call->unclear_length) MHD_add_response_header(response, "Connection", "close");
}

static void add_preflight_headers(struct MHD_Connection *mhd, struct MHD_Response *response)
{
    const char *wanted = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Access-Control-Request-Headers");
    MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
    MHD_add_response_header(response, "Access-Control-Allow-Headers", wanted ? wanted : "*");
    MHD_add_response_header(response, "Access-Control-Max-Age", "600");
}

static enum MHD_Result send_answer(qr_call *call)
{
    size_t bytes;
    char *text = qr_emit_take(&call->answer, &bytes);
    if (!text) return MHD_NO;
    struct MHD_Response *response = MHD_create_response_from_buffer_with_free_callback(bytes, text, qr_free);
    if (!response) {
        qr_free(text);
        return MHD_NO;
    }
    const char *type = call->plain_text ? "text/plain; version=0.0.4; charset=utf-8" : "application/json";
    if (bytes) MHD_add_response_header(response, "Content-Type", type);
    add_common_headers(call, response);
    if (!call->route && call->http_status == 200) add_preflight_headers(call->mhd, response);
    enum MHD_Result result = MHD_queue_response(call->mhd, (unsigned)call->http_status, response);
    MHD_destroy_response(response);
    call->state = QR_CALL_SENDING;
    return result;
}

static ssize_t read_stream(void *cls, uint64_t pos, char *out, size_t max_bytes)
{
    (void)pos;
    qr_call *call = cls;
    if (call->conn->hung_up) return MHD_CONTENT_READER_END_WITH_ERROR;
    long bytes = qr_call_read_stream(call, out, max_bytes);
    if (bytes == -1) return MHD_CONTENT_READER_END_OF_STREAM;
    if (bytes == -2) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (bytes == 0) suspend(call);
    return bytes;
}

static enum MHD_Result send_stream(qr_call *call)
{
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read_stream, call, NULL);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "Content-Type", "text/event-stream; charset=utf-8");
    MHD_add_response_header(response, "Cache-Control", "no-cache");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    call->http_status = 200;
    add_common_headers(call, response);
    enum MHD_Result result = MHD_queue_response(call->mhd, 200, response);
    MHD_destroy_response(response);
    call->state = QR_CALL_SENDING;
    return result;
}

/* ---- receiving ---- */

/* Equal, in a time that depends on the lengths only. */
static bool same_secret(const char *given, const char *secret)
{
    size_t given_bytes = strlen(given), secret_bytes = strlen(secret);
    volatile unsigned char difference = given_bytes != secret_bytes;
    for (size_t i = 0; i < given_bytes; i++)
        difference |= (unsigned char)given[i] ^ (unsigned char)secret[secret_bytes ? i % secret_bytes : 0];
    return !difference;
}

static bool has_key(qr_call *call)
{
    const char *key = call->server->options.api_key;
    if (!key || !call->route->needs_key) return true;
    const char *given = MHD_lookup_connection_value(call->mhd, MHD_HEADER_KIND, "Authorization");
    return given && strncasecmp(given, "Bearer ", 7) == 0 && same_secret(given + 7, key);
}

static const char *header(const qr_call *call, const char *name)
{
    return MHD_lookup_connection_value(call->mhd, MHD_HEADER_KIND, name);
}

/* Keep a client's own id when it is short and printable. */
static void copy_request_id(qr_call *call)
{
    const char *id = header(call, "X-Request-Id");
    size_t bytes = id ? strlen(id) : 0;
    if (bytes == 0 || bytes >= sizeof call->header_id) return;
    for (size_t i = 0; i < bytes; i++)
        if (id[i] < 0x20 || id[i] > 0x7E) return;
    memcpy(call->header_id, id, bytes + 1);
}

/* A body whose end proxies and we might see in different places: two lengths that differ, or a coding of which only
 * "chunked" is understood. The connection is closed, for what follows cannot be told from the body. */
static enum MHD_Result find_other_length(void *cls, enum MHD_ValueKind kind, const char *key, const char *value)
{
    (void)kind;
    const char **first = cls;
    if (strcasecmp(key, "Content-Length") != 0 || !value) return MHD_YES;
    if (!first[0]) first[0] = value;
    if (strcmp(first[0], value) != 0) first[1] = value;
    return MHD_YES;
}

static bool has_clear_length(const qr_call *call)
{
    const char *lengths[2] = {NULL, NULL}, *coding = header(call, "Transfer-Encoding");
    MHD_get_connection_values(call->mhd, MHD_HEADER_KIND, find_other_length, lengths);
    return !lengths[1] && (!coding || (!lengths[0] && strcasecmp(coding, "chunked") == 0));
}

/* Decide what the headers alone decide; leaves http_status 0 when the body matters. */
static void check_headers(qr_call *call, const char *url, const char *method)
{
    const char *allow;
    quire_error error;
    call->route = qr_routes_find(url, method, &allow);
    if (!has_clear_length(call)) {
        qr_call_fail(call, 400, "send one Content-Length, or Transfer-Encoding: chunked", NULL);
        call->unclear_length = true;
    } else if (strcmp(method, "OPTIONS") == 0) {
        call->http_status = 200;
    } else if (!call->route && allow) {
        (void)qr_fail(&error, QUIRE_INVALID, "%.16s is not allowed here; use %s", method, allow);
        qr_call_fail(call, 405, error.message, NULL);
        call->allow = allow;
    } else if (!call->route) {
        (void)qr_fail(&error, QUIRE_NOT_FOUND, "there is no %.16s %.256s", method, url);
        qr_call_fail(call, 404, error.message, NULL);
    } else if (!has_key(call)) {
        qr_call_fail(call, 401, "missing or wrong API key; send 'Authorization: Bearer KEY'", NULL);
    } else if (!call->route->answer && call->server->draining) {
        qr_call_fail(call, 503, "the server is shutting down", NULL);
    } else if (!call->route->answer && !header(call, "Content-Length") && !header(call, "Transfer-Encoding")) {
        qr_call_fail(call, 411, "the request has no Content-Length", NULL);
    }
}

static void fail_too_large(qr_call *call)
{
    quire_error error;
    (void)qr_fail(&error, QUIRE_INVALID, "the body is larger than this server's limit of %zu bytes",
                  call->server->options.max_request_bytes);
    qr_call_fail(call, 413, error.message, NULL);
}

static enum MHD_Result begin_call(qr_server *server, struct MHD_Connection *mhd, const char *url, const char *method,
                                  void **con_cls)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    qr_conn *conn = info ? info->socket_context : NULL;
    qr_call *call = conn ? qr_call_create(server, NULL) : NULL;
    if (!call) return MHD_NO;
    *con_cls = conn->call = call;
    call->conn = conn;
    call->mhd = mhd;
    atomic_fetch_add(&server->num_calls, 1);
    enter_phase(conn, QR_CONN_BODY);
    copy_request_id(call);
    check_headers(call, url, method);

    /* a body that is too large is swallowed, so that the client gets to read the answer, unless it is absurd or the
     * client asks first */
    const char *length = header(call, "Content-Length");
    unsigned long long bytes = length ? strtoull(length, NULL, 10) : 0, limit = server->options.max_request_bytes;
    if (bytes > limit && call->http_status == 0) fail_too_large(call);
    bool refuse_now = call->unclear_length || bytes > limit * MAX_SWALLOWED_BODIES ||
                      (call->http_status >= 400 && header(call, "Expect"));
    return call->http_status && refuse_now ? send_answer(call) : MHD_YES;
}

static void receive(qr_call *call, const char *data, size_t bytes)
{
    qr_server *server = call->server;
    if (call->http_status) return; /* already decided: swallow */
    if (call->body.len + bytes > server->options.max_request_bytes) {
        fail_too_large(call);
    } else if (server->body_bytes + bytes > MAX_BODIES_IN_MEMORY * server->options.max_request_bytes ||
               qr_buf_append(&call->body, data, bytes) != 0) {
        qr_call_fail(call, 503, "too many large requests at once; try again later", NULL);
    } else {
        server->body_bytes += bytes;
        call->counted_bytes += bytes;
    }
}

/* The body is complete. */
static enum MHD_Result dispatch(qr_call *call, const char *url)
{
    enter_phase(call->conn, QR_CONN_BUSY);
    if (!call->http_status && call->route->answer) call->route->answer(call, url);
    if (call->http_status) return send_answer(call);
    if (call->conn->hung_up || call->server->stopping) return MHD_NO;
    call->state = QR_CALL_WORKING;
    suspend(call);
    qr_call_ref(call);
    qr_server_work(call);
    return MHD_YES;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
                              const char *version, const char *upload_data, size_t *upload_bytes, void **con_cls)
{
    (void)version;
    qr_call *call = *con_cls;
    if (!call) return begin_call(cls, mhd, url, method, con_cls);
    if (call->state == QR_CALL_RECEIVING) {
        if (*upload_bytes == 0) return dispatch(call, url);
        receive(call, upload_data, *upload_bytes);
        *upload_bytes = 0;
        return MHD_YES;
    }
    if (call->conn->hung_up) return MHD_NO;
    if (call->state == QR_CALL_ANSWER) return send_answer(call);
    if (call->state == QR_CALL_RUNNING) {
        if (call->request.stream) return send_stream(call);
        if (qr_call_collect(call)) return send_answer(call);
    }
    suspend(call);
    return MHD_YES;
}

static void completed(void *cls, struct MHD_Connection *mhd, void **con_cls, enum MHD_RequestTerminationCode code)
{
    (void)mhd;
    qr_server *server = cls;
    qr_call *call = *con_cls;
    if (!call) return;
    *con_cls = NULL;
    qr_log(QR_LOG_INFO, "server: %s %d, %.1f ms%s", call->route ? call->route->path : "-", call->http_status,
           (double)(qr_clock_us() - call->started_us) / 1000,
           code == MHD_REQUEST_TERMINATED_COMPLETED_OK ? "" : ", cut off");
    call->mhd = NULL;
    call->conn->call = NULL;
    enter_phase(call->conn, QR_CONN_HEADERS);
    uncount_body(call);
    if (call->state == QR_CALL_WORKING)
        qr_outbox_close(&call->outbox); /* the jobs are the worker's; qr_http_call_ready abandons them */
    else
        qr_call_abandon(call);
    qr_call_unref(call);
    pthread_mutex_lock(&server->drain_lock);
    if (atomic_fetch_sub(&server->num_calls, 1) == 1) pthread_cond_broadcast(&server->drained);
    pthread_mutex_unlock(&server->drain_lock);
}

static void log_message(void *cls, const char *fmt, va_list args)
{
    (void)cls;
    char line[512];
    int n = vsnprintf(line, sizeof line, fmt, args);
    while (n > 0 && n < (int)sizeof line && (line[n - 1] == '\n' || line[n - 1] == ' ')) line[--n] = '\0';
    qr_log(QR_LOG_DEBUG, "server: libmicrohttpd: %s", line);
}

struct MHD_Daemon *qr_http_start(qr_server *server)
{
    const qr_server_options *options = &server->options;
    int longest_ms = options->header_timeout_ms;
    if (longest_ms < options->body_timeout_ms) longest_ms = options->body_timeout_ms;
    if (longest_ms < options->send_timeout_ms) longest_ms = options->send_timeout_ms;
    return MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, handle, server,
                            MHD_OPTION_EXTERNAL_LOGGER, log_message, NULL, MHD_OPTION_LISTEN_SOCKET, server->listen_fd,
                            MHD_OPTION_CONNECTION_LIMIT, (unsigned)options->max_connections,
                            MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(longest_ms / 1000 + 1),
                            MHD_OPTION_NOTIFY_COMPLETED, completed, server, MHD_OPTION_NOTIFY_CONNECTION,
                            notify_connection, server, MHD_OPTION_END);
}
