#define _GNU_SOURCE
#include "engine/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

/* Memory in an unnamed file of the folder. */
static quire_status map_file(const char *path, size_t bytes, uint8_t **out, quire_error *error)
{
    int fd = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) return qr_fail(error, QUIRE_IO, "swap_path: cannot make a file in '%s': %s", path, strerror(errno));
    int full = posix_fallocate(fd, 0, (off_t)bytes);
    void *ptr = full ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int reason = full ? full : errno;
    close(fd);
    if (ptr == MAP_FAILED)
        return qr_fail(error, QUIRE_IO, "swap_path: no room for %zu bytes in '%s': %s", bytes, path, strerror(reason));
    *out = ptr;
    return QUIRE_OK;
}

quire_status qr_swap_init(qr_swap *swap, qr_backend *be, qr_kv_cache *cache, size_t block_bytes, int64_t num_blocks,
                          const char *path, quire_error *error)
{
    qr_swap s = {.be = be, .cache = cache, .block_bytes = block_bytes, .us_per_block = (double)block_bytes / 4000.0};
    if (qr_mul_overflow((size_t)num_blocks, block_bytes, &s.bytes)) return qr_fail_nomem(error, "swap space", SIZE_MAX);
    if (path) {
        QR_TRY(map_file(path, s.bytes, &s.slots, error));
    } else if (!(s.slots = qr_pages_alloc(s.bytes))) {
        return qr_fail_nomem(error, "swap space", s.bytes);
    }
    *swap = s;
    return QUIRE_OK;
}

void qr_swap_deinit(qr_swap *swap)
{
    qr_pages_free(swap->slots, swap->bytes); /* munmap serves both kinds */
    memset(swap, 0, sizeof *swap);
}

typedef struct move {
    qr_swap *swap;
    const qr_block_copy *pairs;
    bool out;
} move;

static void move_block(void *ctx, int tile_idx, int thread_idx)
{
    (void)thread_idx;
    const move *m = ctx;
    qr_swap *s = m->swap;
    qr_block_copy pair = m->pairs[tile_idx];
    if (m->out)
        s->be->ops->kv_read_block(s->be, s->cache, pair.src_block, s->slots + (size_t)pair.dst_block * s->block_bytes);
    else
        s->be->ops->kv_write_block(s->be, s->cache, pair.dst_block, s->slots + (size_t)pair.src_block * s->block_bytes);
}

static void move_all(qr_swap *swap, const qr_block_copy *pairs, int num_pairs, bool out)
{
    if (num_pairs == 0) return;
    move m = {swap, pairs, out};
    int64_t start_us = qr_clock_us();
    qr_pool_run(swap->be->pool, move_block, &m, num_pairs);
    double measured = (double)(qr_clock_us() - start_us) / num_pairs;
    swap->us_per_block += (measured - swap->us_per_block) / 8;
}

void qr_swap_out(qr_swap *swap, const qr_block_copy *pairs, int num_pairs) { move_all(swap, pairs, num_pairs, true); }

void qr_swap_in(qr_swap *swap, const qr_block_copy *pairs, int num_pairs) { move_all(swap, pairs, num_pairs, false); }
