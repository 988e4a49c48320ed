/* server: the OpenAI-compatible HTTP API of one engine.
 *
 *   sockets ── libmicrohttpd (epoll) ──► loop thread: HTTP, SSE, JSON out; never blocks, never waits for the engine
 *                                          │ bodies                    ▲ ready list + eventfd
 *                                          ▼                           │
 *                                        worker threads: JSON in, chat template, tokenizer, quire_submit
 *                                                                      │
 *                                        engine thread: on_output copies into the call's outbox, wakes the loop
 *
 * All HTTP state belongs to the loop thread; a waiting connection is suspended and costs nothing. A peer that goes away
 * is noticed by epoll (EPOLLRDHUP), its requests are aborted at once.
 * Threads: the functions here may be called from any thread, _stop only once. */
#ifndef QR_SERVER_SERVER_H
#define QR_SERVER_SERVER_H

#include "quire.h"

typedef struct qr_server qr_server;

typedef struct qr_server_options {
    quire_model *model; /* both must outlive the server */
    quire_engine *engine;
    const char *host;                      /* default "127.0.0.1" */
    int port;                              /* default 8000; 0: any free one, see qr_server_port() */
    const char *api_key;                   /* NULL: none wanted */
    const char *const *served_model_names; /* the first is the one shown */
    int num_served_model_names;            /* 0: named after model_path */
    const char *model_path; /* what the model was opened as: its file name without ".gguf" is the name then, the whole
                               path is accepted too; NULL: the name in the model's file */
    const char *chat_template; /* Jinja source in place of the model's, or NULL */
    size_t max_request_bytes;  /* of one body; default 16 MiB */
    size_t max_stream_bytes;   /* output waiting for one slow client; default 4 MiB, then it is dropped */
    int max_connections;       /* default 1024 */
    int max_n;                 /* sequences per prompt; default 128 */
    int max_prompts;           /* prompts per call; default 256 */
    int max_logprobs;          /* candidates per token; default 20 */
    int num_workers;           /* threads that parse, render and tokenize; default 2 */
    int header_timeout_ms;     /* a connection must deliver its next request's headers within; default 30000 */
    int body_timeout_ms;       /* and the body within; default 60000 */
    int send_timeout_ms;       /* a client must read something within; default 60000 */
} qr_server_options;

void qr_server_options_init(qr_server_options *options);

/* Listen and serve. Strings in `options` must live until qr_server_stop(). Raises RLIMIT_NOFILE to fit.
 *   returns OK | INVALID (a bad option) | IO (the address cannot be used) | NOMEM */
QUIRE_MUST_USE quire_status qr_server_start(const qr_server_options *options, qr_server **out, quire_error *error);
/* The port it listens on. */
int qr_server_port(const qr_server *server);
/* Stop accepting, refuse new calls with 503, return when those that run have been answered (OK) or after timeout_ms
 * (TIMEOUT; < 0: no limit). The server still answers; qr_server_stop() follows. */
QUIRE_MUST_USE quire_status qr_server_drain(qr_server *server, int timeout_ms);
/* Cut every connection, abort what still runs, free. The engine may go on. NULL is fine. */
void qr_server_stop(qr_server *server);

#endif
