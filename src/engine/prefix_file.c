#define _GNU_SOURCE
#include "engine/prefix_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/log.h"
#include "base/mem.h"

enum { PAGE = 4096, MAX_SLOTS = 1 << 30 };

static const char magic[8] = "quirekv";

/* The first page of the file. */
typedef struct header {
    char magic[8];
    uint32_t version, block_size;
    uint64_t block_bytes, fingerprint[2];
    uint8_t secret[QR_STORE_SECRET_BYTES];
    uint64_t checksum; /* of all that precedes */
} header;
_Static_assert(offsetof(header, checksum) == sizeof(header) - sizeof(uint64_t), "the checksum covers the header");

static uint64_t round_up(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

/* ---- places ------------------------------------------------------------------------------------- */

static off_t chunk_at(const qr_prefix_file *f, int32_t group)
{
    return (off_t)(PAGE + (uint64_t)group * f->group_bytes);
}

static off_t entry_at(const qr_prefix_file *f, int32_t slot)
{
    return chunk_at(f, slot / QR_PREFIX_GROUP_SLOTS) + (off_t)((size_t)(slot % QR_PREFIX_GROUP_SLOTS) * f->entry_bytes);
}

static off_t payload_at(const qr_prefix_file *f, int32_t slot)
{
    return chunk_at(f, slot / QR_PREFIX_GROUP_SLOTS) +
           (off_t)(f->chunk_bytes + (size_t)(slot % QR_PREFIX_GROUP_SLOTS) * f->payload_stride);
}

static uint64_t bytes_for(const qr_prefix_file *f, int32_t num_slots)
{
    return num_slots == 0 ? PAGE : (uint64_t)payload_at(f, num_slots - 1) + f->payload_stride;
}

static quire_status lay_out(const qr_prefix_file_options *o, qr_prefix_file *f, quire_error *error)
{
    f->block_size = o->block_size;
    f->block_bytes = o->block_bytes;
    f->entry_bytes = round_up(sizeof(qr_prefix_entry) + (size_t)o->block_size * sizeof(int32_t), 8);
    f->chunk_bytes = round_up(QR_PREFIX_GROUP_SLOTS * f->entry_bytes, PAGE);
    f->payload_stride = round_up(o->block_bytes, PAGE);
    f->group_bytes = f->chunk_bytes + QR_PREFIX_GROUP_SLOTS * f->payload_stride;
    if (o->max_bytes < bytes_for(f, 1))
        return qr_fail_param(error, "prefix_cache_space",
                             "prefix_cache_space: %llu bytes are too few: one KV block needs %llu",
                             (unsigned long long)o->max_bytes, (unsigned long long)bytes_for(f, 1));
    const uint64_t room = o->max_bytes - PAGE, rest = room % f->group_bytes;
    const uint64_t num_slots = room / f->group_bytes * QR_PREFIX_GROUP_SLOTS +
                               (rest > f->chunk_bytes ? (rest - f->chunk_bytes) / f->payload_stride : 0);
    f->num_slots = num_slots < MAX_SLOTS ? (int32_t)num_slots : MAX_SLOTS;
    assert(bytes_for(f, f->num_slots) <= o->max_bytes);
    return QUIRE_OK;
}

/* ---- bytes -------------------------------------------------------------------------------------- */

static bool write_all(int fd, const void *data, size_t bytes, off_t at)
{
    for (const char *from = data; bytes > 0;) {
        const ssize_t written = pwrite(fd, from, bytes, at);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        from += written;
        at += written;
        bytes -= (size_t)written;
    }
    return true;
}

/* Bytes read; fewer at the file's end or after an error. */
static size_t read_all(int fd, void *out, size_t bytes, off_t at)
{
    size_t got = 0;
    while (got < bytes) {
        const ssize_t n = pread(fd, (char *)out + got, bytes - got, at + (off_t)got);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        got += (size_t)n;
    }
    return got;
}

/* ---- open --------------------------------------------------------------------------------------- */

static quire_status fail_io(const qr_prefix_file *f, const char *what, quire_error *error)
{
    const int reason = errno;
    (void)qr_fail_param(error, "prefix_cache_path", "prefix_cache_path: cannot %s '%s': %s", what, f->path,
                        strerror(reason));
    return QUIRE_IO;
}

static quire_status open_and_lock(qr_prefix_file *f, quire_error *error)
{
    f->fd = open(f->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (f->fd < 0) return fail_io(f, "open", error);
    if (flock(f->fd, LOCK_EX | LOCK_NB) == 0) return QUIRE_OK;
    if (errno != EWOULDBLOCK) return fail_io(f, "lock", error);
    (void)qr_fail_param(error, "prefix_cache_path",
                        "prefix_cache_path: another engine has '%s' open; give each a folder of its own", f->path);
    return QUIRE_IO;
}

static void seal_header(header *h) { h->checksum = XXH3_64bits(h, offsetof(header, checksum)); }

static bool header_fits(const qr_prefix_file_options *o, const header *h)
{
    header copy = *h;
    seal_header(&copy);
    return copy.checksum == h->checksum && memcmp(h->magic, magic, sizeof magic) == 0 &&
           h->version == QR_PREFIX_FILE_VERSION && h->block_size == (uint32_t)o->block_size &&
           h->block_bytes == o->block_bytes && h->fingerprint[0] == o->fingerprint[0] &&
           h->fingerprint[1] == o->fingerprint[1];
}

/* Read the header, or begin anew. */
static quire_status take_header(const qr_prefix_file_options *o, qr_prefix_file *f, quire_error *error)
{
    header h;
    struct stat st;
    if (fstat(f->fd, &st) != 0) return fail_io(f, "look at", error);
    if (!S_ISREG(st.st_mode)) return errno = EINVAL, fail_io(f, "use what is no file at", error);
    if (read_all(f->fd, &h, sizeof h, 0) != sizeof h || !header_fits(o, &h)) {
        if (st.st_size > 0) qr_log(QR_LOG_WARN, "prefix cache: '%s' is not usable and begins anew", f->path);
        memset(&h, 0, sizeof h);
        memcpy(h.magic, magic, sizeof magic);
        h.version = QR_PREFIX_FILE_VERSION;
        h.block_size = (uint32_t)o->block_size;
        h.block_bytes = o->block_bytes;
        memcpy(h.fingerprint, o->fingerprint, sizeof h.fingerprint);
        if (getrandom(h.secret, sizeof h.secret, 0) != (ssize_t)sizeof h.secret)
            return fail_io(f, "draw a secret for", error);
        seal_header(&h);
        char page[PAGE] = {0};
        memcpy(page, &h, sizeof h);
        if (ftruncate(f->fd, 0) != 0 || !write_all(f->fd, page, sizeof page, 0)) return fail_io(f, "write", error);
    }
    memcpy(f->secret, h.secret, sizeof f->secret);
    return QUIRE_OK;
}

/* Cut the file to its limit, and see that the disk has room for the rest. */
static quire_status fit_disk(qr_prefix_file *f, quire_error *error)
{
    struct stat st;
    struct statvfs disk;
    const uint64_t limit = bytes_for(f, f->num_slots);
    if (fstat(f->fd, &st) != 0 || fstatvfs(f->fd, &disk) != 0) return fail_io(f, "look at", error);
    if ((uint64_t)st.st_size > limit && ftruncate(f->fd, (off_t)limit) != 0) return fail_io(f, "shorten", error);
    const uint64_t taken = (uint64_t)st.st_blocks * 512, room = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (taken + room >= limit) return QUIRE_OK;
    (void)qr_fail_param(error, "prefix_cache_space",
                        "prefix_cache_space: '%s' may grow by %.3f GiB, but the disk has %.3f GiB free; lower "
                        "prefix_cache_space",
                        f->path, (double)(limit - taken) / (1 << 30), (double)room / (1 << 30));
    return QUIRE_IO;
}

quire_status qr_prefix_file_open(const qr_prefix_file_options *o, qr_prefix_file *out, quire_error *error)
{
    qr_prefix_file f = {.fd = -1};
    char name[64];
    QR_TRY(lay_out(o, &f, error));
    snprintf(name, sizeof name, "/quire-%016llx.kv", (unsigned long long)(o->fingerprint[0] ^ o->fingerprint[1]));
    const size_t path_bytes = strlen(o->path) + strlen(name) + 1;
    f.path = qr_malloc(path_bytes);
    if (!f.path) return qr_fail_nomem(error, "the prefix cache", path_bytes);
    snprintf(f.path, path_bytes, "%s%s", o->path, name);
    quire_status status = open_and_lock(&f, error);
    if (status == QUIRE_OK) status = take_header(o, &f, error);
    if (status == QUIRE_OK) status = fit_disk(&f, error);
    if (status != QUIRE_OK) {
        qr_prefix_file_close(&f);
        return status;
    }
    *out = f;
    return QUIRE_OK;
}

void qr_prefix_file_close(qr_prefix_file *f)
{
    if (f->fd >= 0) close(f->fd);
    qr_free(f->path);
    *f = (qr_prefix_file){.fd = -1};
}

/* ---- entries and payloads ----------------------------------------------------------------------- */

int32_t qr_prefix_file_num_slots_written(const qr_prefix_file *f)
{
    struct stat st;
    if (fstat(f->fd, &st) != 0 || st.st_size <= PAGE) return 0;
    const uint64_t groups = round_up((uint64_t)st.st_size - PAGE, f->group_bytes) / f->group_bytes;
    const uint64_t slots = groups * QR_PREFIX_GROUP_SLOTS;
    return slots < (uint64_t)f->num_slots ? (int32_t)slots : f->num_slots;
}

void qr_prefix_file_read_chunk(const qr_prefix_file *f, int32_t group, void *out)
{
    const size_t got = read_all(f->fd, out, f->chunk_bytes, chunk_at(f, group));
    memset((char *)out + got, 0, f->chunk_bytes - got);
}

bool qr_prefix_file_write_chunk(const qr_prefix_file *f, int32_t group, const void *chunk)
{
    return write_all(f->fd, chunk, f->chunk_bytes, chunk_at(f, group));
}

static uint64_t entry_checksum(const qr_prefix_file *f, const qr_prefix_entry *e)
{
    return XXH3_64bits_withSecret(&e->tick, f->entry_bytes - offsetof(qr_prefix_entry, tick), f->secret,
                                  sizeof f->secret);
}

bool qr_prefix_file_entry_is_whole(const qr_prefix_file *f, const qr_prefix_entry *e)
{
    return e->tick != 0 && e->checksum == entry_checksum(f, e);
}

void qr_prefix_file_seal_entry(const qr_prefix_file *f, qr_prefix_entry *e) { e->checksum = entry_checksum(f, e); }

static void payload_checksum(const qr_prefix_file *f, const void *payload, uint64_t out[2])
{
    const XXH128_hash_t hash = XXH3_128bits_withSecret(payload, f->block_bytes, f->secret, sizeof f->secret);
    out[0] = hash.low64;
    out[1] = hash.high64;
}

bool qr_prefix_file_write_block(const qr_prefix_file *f, int32_t slot, qr_prefix_entry *e, const void *payload)
{
    payload_checksum(f, payload, e->payload_checksum);
    qr_prefix_file_seal_entry(f, e);
    return write_all(f->fd, payload, f->block_bytes, payload_at(f, slot)) &&
           write_all(f->fd, e, f->entry_bytes, entry_at(f, slot));
}

bool qr_prefix_file_read_block(const qr_prefix_file *f, int32_t slot, const qr_prefix_entry *e, void *out)
{
    uint64_t checksum[2];
    if (read_all(f->fd, out, f->block_bytes, payload_at(f, slot)) != f->block_bytes) return false;
    payload_checksum(f, out, checksum);
    return checksum[0] == e->payload_checksum[0] && checksum[1] == e->payload_checksum[1];
}

bool qr_prefix_file_clear(const qr_prefix_file *f) { return ftruncate(f->fd, PAGE) == 0; }
