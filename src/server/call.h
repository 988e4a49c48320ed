/* call: one API call, from its body to its answer; and what server, connections and calls share.
 *
 *   RECEIVING ──► WORKING ──► ANSWER                     status and body are ready
 *   (body)        (a worker   └► RUNNING ──► SENDING     requests are in the engine; outputs arrive in the outbox
 *                  owns it)
 *
 *   references: the HTTP side, the worker (handed to the ready list), one for each request in the engine. The call
 *   outlives its connection until the last of them lets go; `mhd` is NULL from then on.
 *
 * Threads: loop thread, except: qr_call_work on a worker, on_output on the engine's, qr_call_unref anywhere. */
#ifndef QR_SERVER_CALL_H
#define QR_SERVER_CALL_H

#include <stdatomic.h>

#include "server/outbox.h"
#include "server/reply.h"
#include "server/server.h"

struct MHD_Connection;
struct MHD_Daemon;

typedef struct qr_call qr_call;
typedef struct qr_conn qr_conn;
typedef struct qr_route qr_route;

/* A connection: what the loop watches beside libmicrohttpd. */
typedef enum qr_conn_phase { QR_CONN_HEADERS, QR_CONN_BODY, QR_CONN_BUSY } qr_conn_phase;

struct qr_conn {
    qr_conn *prev, *next;
    int fd;
    bool hung_up; /* the peer closed or reset */
    qr_conn_phase phase;
    int64_t since_us; /* start of the phase */
    qr_call *call;    /* the one in progress, or NULL */
};

struct qr_server {
    qr_server_options options;
    const char *model_name; /* the one shown */
    char *path_name;        /* model_name when it comes from options.model_path, else NULL */
    qr_api_limits limits;
    int max_model_len;
    int64_t created;
    qr_token_text token_text; /* loop thread only */

    struct MHD_Daemon *daemon;
    int port, listen_fd, epoll_fd, event_fd; /* listen_fd belongs to the daemon */
    pthread_t loop_thread;
    bool quiesced; /* draining: no longer listening */
    qr_conn *conns;
    size_t body_bytes;     /* of all bodies being received or waiting for a worker */
    _Atomic int num_calls; /* in progress; written by the loop thread */
    atomic_bool draining, stopping;

    pthread_mutex_t drain_lock;
    pthread_cond_t drained; /* num_calls reached 0 while draining */

    pthread_mutex_t ready_lock;
    qr_call *ready_head; /* calls to look at, newest first; each holds a reference */

    pthread_mutex_t work_lock;
    pthread_cond_t work_cond;
    qr_call *work_head, **work_tail;
    pthread_t *workers;
    int num_workers;
    bool work_stopping;
};

typedef enum qr_call_state {
    QR_CALL_RECEIVING,
    QR_CALL_WORKING,
    QR_CALL_ANSWER,
    QR_CALL_RUNNING,
    QR_CALL_SENDING
} qr_call_state;

typedef struct qr_job {
    qr_call *call;
    int prompt_idx;
    quire_request *request; /* NULL: not submitted */
} qr_job;

struct qr_call {
    atomic_int refs;
    qr_server *server;
    qr_conn *conn;
    struct MHD_Connection *mhd; /* NULL: the HTTP side is gone */
    const qr_route *route;
    qr_call_state state;
    bool suspended;
    int64_t started_us;
    char header_id[129]; /* X-Request-Id, or empty */
    qr_buf body;
    bool unclear_length;   /* the connection is closed after the answer */
    size_t counted_bytes;  /* of body, in server->body_bytes */
    qr_call *next_work;    /* under work_lock */
    atomic_bool work_done; /* the worker is through with it */

    int http_status;   /* of the answer; 0: the call runs in the engine */
    qr_emit answer;    /* the whole body of the answer */
    const char *allow; /* Allow header of a 405 */
    bool retry_later;  /* Retry-After */
    bool plain_text;   /* /metrics */

    qr_api_request request;
    qr_reply reply;
    qr_job *jobs;
    int num_jobs;
    qr_outbox outbox;

    qr_emit sse; /* formatted, sse_sent bytes of it handed out */
    size_t sse_sent;
    bool ended; /* the last event is in sse */
    int64_t last_read_us;

    qr_call *next_ready; /* under ready_lock */
    bool is_ready;
    qr_call *next_handled; /* loop thread */
};

/* ---- call.c */

qr_call *qr_call_create(qr_server *server, const qr_route *route); /* one reference; NULL on no memory */
void qr_call_ref(qr_call *call);
void qr_call_unref(qr_call *call);
/* Make the answer an error object. */
void qr_call_fail(qr_call *call, int http_status, const char *message, const char *param);
/* The same from a failed status: 400 for bad requests, 503 for a full queue, 500 else. */
void qr_call_fail_status(qr_call *call, quire_status status, const quire_error *error);
/* Abort and release every request of the call; later outputs are dropped. */
void qr_call_abandon(qr_call *call);
/* Take what the outbox holds of a call that is not streamed: true when the answer is ready. */
bool qr_call_collect(qr_call *call);
/* Next bytes of the stream. Returns the number, 0 when there are none now, -1 at the end, -2 on failure. */
long qr_call_read_stream(qr_call *call, char *out, size_t max_bytes);

/* ---- prepare.c: on a worker */

/* Parse the body, then answer it, or render, tokenize and submit. */
void qr_call_work(qr_call *call);

/* ---- server.c */

/* Have the loop look at the call soon. Any thread, while the server lives. */
void qr_server_ready(qr_call *call);
/* Hand the call, and a reference to it, to a worker. */
void qr_server_work(qr_call *call);
void qr_conn_cut(qr_conn *conn); /* shut the socket down; libmicrohttpd then closes it */

/* ---- http.c */

struct MHD_Daemon *qr_http_start(qr_server *server);
/* The loop found the call on the ready list. Drops the list's reference. */
void qr_http_call_ready(qr_call *call);
/* The peer hung up or the server stops: let the call end. */
void qr_http_call_cancel(qr_call *call);
/* Cut connections that take too long. */
void qr_http_check_deadlines(qr_server *server, int64_t now_us);

/* ---- listen.c */

QUIRE_MUST_USE quire_status qr_server_listen(const char *host, int port, int *out_fd, int *out_port,
                                             quire_error *error);
/* Let the process have enough descriptors for so many connections, where it may. */
void qr_server_raise_nofile(int num_connections);

#endif
