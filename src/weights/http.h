/* http: GET and HEAD over libcurl, which is loaded when first needed: linking it would cost every start of the program
 * seven milliseconds for its thirty libraries.
 *
 * A reply of any status is OK here; the caller judges reply.status. The token goes to the first host only: redirects
 * to another host, port or to plain HTTP never see it.
 * Threads: one per session. */
#ifndef QR_WEIGHTS_HTTP_H
#define QR_WEIGHTS_HTTP_H

#include "base/mem.h"
#include "base/status.h"

typedef struct qr_http qr_http;

typedef struct qr_http_reply {
    long status;
    char etag[128];     /* X-Linked-ETag, else ETag, without quotes; "" when neither came */
    int64_t size_bytes; /* X-Linked-Size, else Content-Length; -1: unknown */
    bool retry;         /* after a failure: trying again may help */
    bool cannot_resume; /* after a failure: the server does not send from the middle of the file */
} qr_http_reply;

/* Where a file's body goes; bytes of error replies are dropped. */
typedef struct qr_http_sink {
    uint64_t offset_bytes; /* ask for the file from here on */
    /* Returns false to stop. */
    bool (*write)(void *user, const void *data, size_t bytes);
    /* Called several times a second; returns false to stop. May be NULL. */
    bool (*progress)(void *user);
    void *user;
} qr_http_sink;

/* token: NULL for none. UNSUPPORTED when libcurl cannot be loaded. */
QUIRE_MUST_USE quire_status qr_http_create(const char *token, qr_http **out, quire_error *error);
void qr_http_destroy(qr_http *http); /* NULL is fine */

/* Follows redirects on the same host; a redirect elsewhere is the reply, for it carries what is to be known. */
QUIRE_MUST_USE quire_status qr_http_head(qr_http *http, const char *url, qr_http_reply *reply, quire_error *error);
/* OK | ABORTED (write or progress returned false) | IO. */
QUIRE_MUST_USE quire_status qr_http_get(qr_http *http, const char *url, const qr_http_sink *sink, qr_http_reply *reply,
                                        quire_error *error);
/* A small document into memory, at most max_bytes. */
QUIRE_MUST_USE quire_status qr_http_get_memory(qr_http *http, const char *url, size_t max_bytes, qr_buf *body,
                                               qr_http_reply *reply, quire_error *error);

#endif
