/* http: the client side of HTTP/1.1, as much as a benchmark needs: one request per connection, plain text, answers
 * with a length, chunked, or until the end of the connection; server-sent events.
 *
 *   socket bytes ─► qr_http_feed ─► status, body bytes ─► on_body
 *                                                  └────► qr_sse_feed ─► on_data, once per "data: ..." line
 *
 * Parsers are incremental: any split of the bytes gives the same calls. A malformed answer is FORMAT, never a crash.
 * Threads: one at a time per object. */
#ifndef QR_CLI_HTTP_H
#define QR_CLI_HTTP_H

#include <sys/socket.h>

#include "base/mem.h"
#include "base/status.h"

/* ---- where ------------------------------------------------------------------------------------ */

typedef struct qr_http_target {
    char host[256], port[8];
    char base_path[256]; /* "" or "/v1": goes before every path */
    struct sockaddr_storage address;
    socklen_t address_bytes;
} qr_http_target;

/* "http://host:port/path" or "host:port"; looks the address up. OK | INVALID (https too) | NOT_FOUND. */
QUIRE_MUST_USE quire_status qr_http_resolve(const char *url, qr_http_target *out, quire_error *error);
/* A socket that connects in the background, or -1 with errno. */
int qr_http_connect(const qr_http_target *target);
/* Append a request. body NULL: GET; api_key NULL: none. 0 | -1 without memory. */
int qr_http_write_request(const qr_http_target *target, const char *path, const char *api_key, const char *body,
                          size_t body_bytes, qr_buf *out);

/* ---- answers ---------------------------------------------------------------------------------- */

typedef enum qr_http_state {
    QR_HTTP_STATUS,     /* status line */
    QR_HTTP_HEADERS,    /* header lines */
    QR_HTTP_LENGTH,     /* body of known length */
    QR_HTTP_UNTIL_END,  /* body to the end of the connection */
    QR_HTTP_CHUNK_SIZE, /* a chunk's first line */
    QR_HTTP_CHUNK_DATA,
    QR_HTTP_CHUNK_END, /* the empty line behind it */
    QR_HTTP_TRAILERS,
    QR_HTTP_DONE,
} qr_http_state;

enum { QR_HTTP_MAX_LINE = 8192 };

typedef struct qr_http_parser {
    qr_http_state state;
    int status;
    uint64_t remaining; /* bytes of body or chunk still to come */
    bool chunked, has_length;
    char line[QR_HTTP_MAX_LINE];
    size_t line_bytes;
    void (*on_body)(void *user, const char *data, size_t bytes);
    void *user;
} qr_http_parser;

void qr_http_parser_init(qr_http_parser *parser, void (*on_body)(void *user, const char *data, size_t bytes),
                         void *user);
/* OK | FORMAT. Bytes after the answer's end are ignored; parser->state is DONE there. */
QUIRE_MUST_USE quire_status qr_http_feed(qr_http_parser *parser, const char *data, size_t bytes);
/* The connection has ended: OK when the answer is whole (state is DONE then), else FORMAT. */
QUIRE_MUST_USE quire_status qr_http_end(qr_http_parser *parser);

typedef struct qr_sse_parser {
    qr_buf line;
    bool failed;                                                 /* out of memory; lines are lost */
    void (*on_data)(void *user, const char *data, size_t bytes); /* NUL-terminated */
    void *user;
} qr_sse_parser;

void qr_sse_feed(qr_sse_parser *parser, const char *data, size_t bytes);
void qr_sse_deinit(qr_sse_parser *parser);

#endif
