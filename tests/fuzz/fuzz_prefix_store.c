/* Any bytes as a stored prefix cache: as a whole file, or as edits of a good one, some with the checksums made to fit.
 * It opens, its books are right, it can be used and opened again; unless a checksum was forged, what it has is right.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/log.h"
#include "engine/prefix_store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BLOCK_SIZE = 8, BLOCK_BYTES = 64, NUM = 6, SLOTS = 8, HEADER_BYTES = 232, SECRET_AT = 40, PAGE = 4096 };
enum { ENTRY_BYTES = sizeof(qr_prefix_entry) + BLOCK_SIZE * sizeof(int32_t) };
enum { CHUNK_BYTES = (QR_PREFIX_GROUP_SLOTS * ENTRY_BYTES + PAGE - 1) / PAGE * PAGE };
enum { MAX_FILE = PAGE + CHUNK_BYTES + SLOTS * PAGE };

static char folder[] = "/tmp/quire-fuzz-XXXXXX", path[64];
static uint8_t good[MAX_FILE], file[MAX_FILE];
static size_t good_bytes;

static qr_block_content content_of(int i, int32_t *tokens)
{
    for (int k = 0; k < BLOCK_SIZE; k++) tokens[k] = i * 100 + k;
    return (qr_block_content){.key = {(uint64_t)i, 7}, .extra_key = (uint64_t)i, .tokens = tokens};
}

static void must(bool condition)
{
    if (!condition) abort();
}

static qr_prefix_store *open_store(void)
{
    const qr_prefix_file_options o = {.path = folder,
                                      .max_bytes = MAX_FILE,
                                      .fingerprint = {1, 2},
                                      .block_size = BLOCK_SIZE,
                                      .block_bytes = BLOCK_BYTES};
    qr_prefix_store *s = NULL;
    must(qr_prefix_store_open(&o, 0, &s, NULL) == QUIRE_OK);
    must(qr_prefix_store_check(s, NULL) == QUIRE_OK);
    return s;
}

static void put(qr_prefix_store *s, int i)
{
    int32_t tokens[BLOCK_SIZE];
    const qr_block_content content = content_of(i, tokens);
    void *bytes = qr_prefix_store_put(s, &content);
    if (!bytes) return;
    memset(bytes, i, BLOCK_BYTES);
    qr_prefix_store_put_done(s);
}

static void get(qr_prefix_store *s, int i, bool forged)
{
    int32_t tokens[BLOCK_SIZE];
    const qr_block_content content = content_of(i, tokens);
    const uint8_t *bytes = qr_prefix_store_get(s, &content);
    for (int k = 0; bytes && !forged && k < BLOCK_BYTES; k++) must(bytes[k] == i);
}

static void remove_folder(void)
{
    unlink(path);
    rmdir(folder);
}

static void make_good_file(void)
{
    qr_log_set_level(QR_LOG_OFF);
    must(mkdtemp(folder) != NULL);
    atexit(remove_folder);
    snprintf(path, sizeof path, "%s/quire-%016x.kv", folder, 1 ^ 2);
    qr_prefix_store *s = open_store();
    qr_prefix_store_save(s, 1000000000);
    for (int i = 0; i < NUM; i++) put(s, i);
    qr_prefix_store_close(s);
    const int fd = open(path, O_RDONLY);
    good_bytes = (size_t)read(fd, good, sizeof good);
    close(fd);
    must(good_bytes > PAGE + CHUNK_BYTES);
}

/* Make a checksum fit: the header's, or slot i's. */
static void forge(uint32_t which)
{
    if (which % (SLOTS + 1) == SLOTS) {
        const uint64_t checksum = XXH3_64bits(file, HEADER_BYTES);
        memcpy(file + HEADER_BYTES, &checksum, sizeof checksum);
        return;
    }
    qr_prefix_file f = {.entry_bytes = ENTRY_BYTES};
    memcpy(f.secret, file + SECRET_AT, sizeof f.secret);
    qr_prefix_file_seal_entry(&f, (qr_prefix_entry *)(void *)(file + PAGE + which % (SLOTS + 1) * ENTRY_BYTES));
}

/* Edits: what, a place of three bytes, a value. Returns the file's size. */
static size_t edit(const uint8_t *data, size_t size, bool *forged)
{
    size_t bytes = good_bytes;
    memcpy(file, good, sizeof file);
    for (; size >= 5; data += 5, size -= 5) {
        const uint32_t at = data[1] | (uint32_t)data[2] << 8 | (uint32_t)data[3] << 16;
        switch (data[0] % 5) {
        case 0: file[at % good_bytes] ^= data[4]; break;
        case 1: file[PAGE + at % (SLOTS * ENTRY_BYTES)] = data[4]; break;
        case 2: bytes = at % good_bytes; break;
        case 3: forge(at), *forged = true; break;
        case 4: /* one entry over another */
            memcpy(file + PAGE + at % SLOTS * ENTRY_BYTES, file + PAGE + data[4] % SLOTS * ENTRY_BYTES, ENTRY_BYTES);
        }
    }
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (good_bytes == 0) make_good_file();
    bool forged = false;
    size_t bytes;
    if (size > 0 && data[0] == 255) {
        bytes = size - 1 < MAX_FILE ? size - 1 : MAX_FILE;
        memcpy(file, data + 1, bytes);
    } else {
        bytes = edit(data, size, &forged);
    }
    const int fd = open(path, O_WRONLY | O_TRUNC);
    must(write(fd, file, bytes) == (ssize_t)bytes);
    close(fd);
    for (int round = 0; round < 2; round++) {
        qr_prefix_store *s = open_store();
        for (int i = 0; i < NUM; i++) get(s, i, forged);
        for (int i = NUM - 2; i < NUM + 4; i++) put(s, i);
        for (int i = 0; i < NUM + 4; i++) get(s, i, forged);
        must(qr_prefix_store_check(s, NULL) == QUIRE_OK);
        qr_prefix_store_close(s);
    }
    return 0;
}
