#define _GNU_SOURCE
#include "weights/download.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "weights/checkpoint_impl.h"
#include "weights/sha256.h"

enum { MAX_TRIES = 5, BIG_STEP_BYTES = 1 << 20 };

/* One download while it runs. */
typedef struct job {
    qr_http *http;
    const qr_download *download;
    char *part_path;
    int fd; /* of the part, -1 before it is open */
    qr_http_reply reply;
    char sha256[QR_SHA256_HEX_BYTES]; /* "" when the hub names none */
    int64_t size_bytes;               /* -1: unknown */
    uint64_t offset_bytes;            /* end of the part */
    int write_errno;
} job;

quire_status qr_download_check_reply(qr_http_reply *reply, const char *url, quire_error *error)
{
    long status = reply->status;
    if (status >= 200 && status < 400) return QUIRE_OK;
    reply->retry = status == 408 || status == 429 || status >= 500;
    if (status == 404) return qr_fail(error, QUIRE_NOT_FOUND, "%s: not found on the hub (HTTP 404)", url);
    if (status == 401 || status == 403)
        return qr_fail(error, QUIRE_NOT_FOUND,
                       "%s: no such model, or no access to it (HTTP %ld); for a private or gated one set HF_TOKEN", url,
                       status);
    return qr_fail(error, QUIRE_IO, "%s: the hub answered with HTTP status %ld", url, status);
}

/* ---- progress */

static bool report(const job *j, uint64_t done_bytes)
{
    const qr_download *d = j->download;
    uint64_t total_bytes = j->size_bytes > 0 ? (uint64_t)j->size_bytes : 0;
    return !d->on_progress || d->on_progress(d->user, d->name, done_bytes, total_bytes);
}

static bool on_progress(void *raw)
{
    const job *j = raw;
    return report(j, j->offset_bytes);
}

/* ---- trying again */

/* Wait 1, 2, 4, ... seconds; false when the caller wants to stop. */
static bool wait_before_retry(const job *j, int num_failed)
{
    for (int i = 0; i < 10 << (num_failed - 1); i++) {
        if (!report(j, j->offset_bytes)) return false;
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return true;
}

/* Run one step until it succeeds, fails for good, or fails MAX_TRIES times in a row without getting anywhere. */
static quire_status with_retries(job *j, quire_status (*step)(job *, quire_error *), quire_error *error)
{
    for (int num_failed = 0;;) {
        uint64_t before = j->offset_bytes;
        quire_status status = step(j, error);
        if (status == QUIRE_OK || !j->reply.retry) return status;
        num_failed = j->offset_bytes > before + BIG_STEP_BYTES ? 1 : num_failed + 1;
        if (num_failed == MAX_TRIES) return status;
        if (!wait_before_retry(j, num_failed))
            return qr_fail(error, QUIRE_ABORTED, "%s: the download was stopped", j->download->url);
    }
}

/* ---- what the hub says about the file */

static bool is_sha256(const char *s) { return strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64; }

static quire_status ask(job *j, quire_error *error)
{
    QR_TRY(qr_http_head(j->http, j->download->url, &j->reply, error));
    bool head_unknown = j->reply.status == 405 || j->reply.status == 501;
    if (!head_unknown) QR_TRY(qr_download_check_reply(&j->reply, j->download->url, error));
    snprintf(j->sha256, sizeof j->sha256, "%s", is_sha256(j->reply.etag) ? j->reply.etag : "");
    j->size_bytes = head_unknown ? -1 : j->reply.size_bytes;
    return QUIRE_OK;
}

/* Whether the file at path has the size and checksum that the hub names. */
static bool is_right(const job *j, const char *path)
{
    qr_map map;
    quire_error ignored;
    if (qr_map_open(path, &map, &ignored) != QUIRE_OK) return false;
    bool same = j->size_bytes < 0 || map.bytes == (uint64_t)j->size_bytes;
    if (same) {
        char hex[QR_SHA256_HEX_BYTES];
        qr_sha256_hex(map.data, map.bytes, hex);
        same = strcmp(hex, j->sha256) == 0;
    }
    qr_map_close(&map);
    return same;
}

/* ---- the part */

static quire_status make_folders(const char *path, quire_error *error)
{
    char *copy = qr_strdup(path);
    if (!copy) return qr_fail_nomem(error, "a file name", strlen(path));
    quire_status status = QUIRE_OK;
    for (char *slash = strchr(copy + 1, '/'); slash && status == QUIRE_OK; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            status = qr_fail(error, QUIRE_IO, "%s: cannot make the folder: %s", copy, strerror(errno));
        *slash = '/';
    }
    qr_free(copy);
    return status;
}

static quire_status open_part(job *j, quire_error *error)
{
    j->fd = open(j->part_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (j->fd < 0) return qr_fail(error, QUIRE_IO, "%s: cannot write: %s", j->part_path, strerror(errno));
    if (flock(j->fd, LOCK_EX | LOCK_NB) == 0) return QUIRE_OK;
    close(j->fd);
    j->fd = -1; /* it is not ours to remove */
    return qr_fail(error, QUIRE_IO, "%s: another download of this file is running", j->part_path);
}

static quire_status set_part_size(job *j, uint64_t bytes, quire_error *error)
{
    if (ftruncate(j->fd, (off_t)bytes) != 0)
        return qr_fail(error, QUIRE_IO, "%s: cannot write: %s", j->part_path, strerror(errno));
    j->offset_bytes = bytes;
    return QUIRE_OK;
}

/* Where to go on: the part's end when its contents can be checked later, else the beginning. */
static quire_status find_offset(job *j, quire_error *error)
{
    struct stat st;
    if (fstat(j->fd, &st) != 0) return qr_fail(error, QUIRE_IO, "%s: %s", j->part_path, strerror(errno));
    bool keep = j->sha256[0] && (j->size_bytes < 0 || st.st_size <= j->size_bytes);
    return set_part_size(j, keep ? (uint64_t)st.st_size : 0, error);
}

static quire_status check_disk(const job *j, quire_error *error)
{
    struct statvfs fs;
    if (j->size_bytes < 0 || fstatvfs(j->fd, &fs) != 0) return QUIRE_OK; /* writing will tell */
    uint64_t needed = (uint64_t)j->size_bytes - j->offset_bytes, available = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (needed <= available) return QUIRE_OK;
    return qr_fail(error, QUIRE_IO, "%s: the disk is full: %" PRIu64 " MiB needed, %" PRIu64 " MiB free",
                   j->download->path, needed >> 20, available >> 20);
}

static bool write_part(void *raw, const void *data, size_t bytes)
{
    job *j = raw;
    const char *p = data;
    while (bytes > 0) {
        ssize_t n = pwrite(j->fd, p, bytes, (off_t)j->offset_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            j->write_errno = n < 0 ? errno : ENOSPC;
            return false;
        }
        p += n, bytes -= (size_t)n, j->offset_bytes += (uint64_t)n;
    }
    return true;
}

static quire_status get_from_offset(job *j, quire_error *error)
{
    qr_http_sink sink = {.offset_bytes = j->offset_bytes, .write = write_part, .progress = on_progress, .user = j};
    quire_status status = qr_http_get(j->http, j->download->url, &sink, &j->reply, error);
    if (j->write_errno)
        return qr_fail(error, QUIRE_IO, "%s: cannot write: %s (what came so far is kept; run this again to go on)",
                       j->part_path, strerror(j->write_errno));
    return status;
}

static quire_status get_rest(job *j, quire_error *error)
{
    quire_status status = get_from_offset(j, error);
    /* HTTP 416: the part is no beginning of the file */
    if (j->reply.cannot_resume || (status == QUIRE_OK && j->reply.status == 416)) {
        QR_TRY(set_part_size(j, 0, error));
        status = get_from_offset(j, error);
    }
    QR_TRY(status);
    return qr_download_check_reply(&j->reply, j->download->url, error);
}

/* Get what is missing and check the whole. */
static quire_status fetch(job *j, quire_error *error)
{
    j->reply = (qr_http_reply){0};
    QR_TRY(find_offset(j, error));
    QR_TRY(check_disk(j, error));
    uint64_t start = j->offset_bytes;
    if (start == 0 || j->size_bytes < 0 || start < (uint64_t)j->size_bytes) QR_TRY(get_rest(j, error));
    if (j->size_bytes >= 0 && j->offset_bytes != (uint64_t)j->size_bytes) {
        j->reply.retry = true;
        return qr_fail(error, QUIRE_IO, "%s: %" PRIu64 " bytes came instead of %" PRId64, j->download->url,
                       j->offset_bytes, j->size_bytes);
    }
    if (!j->sha256[0] || is_right(j, j->part_path)) return QUIRE_OK;
    QR_TRY(set_part_size(j, 0, error));
    j->reply.retry = start > 0; /* the earlier part may have been of another version */
    return qr_fail(error, QUIRE_IO, "%s: the SHA-256 of what came is not the one the hub names; it was thrown away",
                   j->download->url);
}

/* The part becomes the file, and stays it through a power cut. */
static quire_status publish(const job *j, quire_error *error)
{
    const char *path = j->download->path;
    if (fsync(j->fd) != 0 || rename(j->part_path, path) != 0)
        return qr_fail(error, QUIRE_IO, "%s: cannot write: %s", path, strerror(errno));
    char *folder = qr_strndup(path, (size_t)(strrchr(path, '/') - path) + 1);
    if (!folder) return qr_fail_nomem(error, "a file name", strlen(path));
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    qr_free(folder);
    if (fd < 0 || fsync(fd) != 0) {
        int saved = errno;
        if (fd >= 0) close(fd);
        return qr_fail(error, QUIRE_IO, "%s: cannot sync its folder: %s", path, strerror(saved));
    }
    close(fd);
    return QUIRE_OK;
}

static quire_status run(job *j, quire_error *error)
{
    QR_TRY(with_retries(j, ask, error));
    if (j->sha256[0] && is_right(j, j->download->path)) {
        (void)report(j, j->size_bytes > 0 ? (uint64_t)j->size_bytes : 0);
        return QUIRE_OK;
    }
    QR_TRY(make_folders(j->part_path, error));
    QR_TRY(open_part(j, error));
    QR_TRY(with_retries(j, fetch, error));
    (void)report(j, j->offset_bytes);
    return publish(j, error);
}

quire_status qr_download_run(qr_http *http, const qr_download *download, quire_error *error)
{
    qr_buf part = {0};
    if (qr_buf_printf(&part, "%s.part", download->path) != 0)
        return qr_fail_nomem(error, "a file name", strlen(download->path));
    job j = {.http = http, .download = download, .part_path = part.data, .fd = -1, .size_bytes = -1};
    quire_status status = run(&j, error);
    if (j.fd >= 0) {
        if (status != QUIRE_OK && j.offset_bytes == 0) unlink(j.part_path);
        close(j.fd);
    }
    qr_free(part.data);
    return status;
}
