/* download: one file of a hub, whole or not at all.
 *
 *   HEAD ──► checksum, size ──► FILE.part, from where an earlier try ended ──► size, SHA-256 ──► fsync, rename to FILE
 *
 * FILE.part stays behind after a failure and is continued by the next try; only a file whose SHA-256 the hub names is
 * continued, any other begins anew.  Threads: one per session; two processes do not write the same part. */
#ifndef QR_WEIGHTS_DOWNLOAD_H
#define QR_WEIGHTS_DOWNLOAD_H

#include "weights/http.h"

typedef struct qr_download {
    const char *url;
    const char *name; /* for on_progress */
    const char *path; /* FILE; its folders are made */
    bool (*on_progress)(void *user, const char *file, uint64_t done_bytes, uint64_t total_bytes); /* may be NULL */
    void *user;
} qr_download;

/* OK when FILE is there and right, fetched or found. NOT_FOUND | ABORTED | IO | NOMEM leave a FILE that was there
 * before as it was. */
QUIRE_MUST_USE quire_status qr_download_run(qr_http *http, const qr_download *download, quire_error *error);

/* What an HTTP status means: OK for a file or a redirect; sets reply->retry where trying again may help. */
QUIRE_MUST_USE quire_status qr_download_check_reply(qr_http_reply *reply, const char *url, quire_error *error);

#endif
