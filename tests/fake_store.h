/* fake_store: a block store (kv/block_store.h) of plain arrays, for the models of kv and scheduler.
 *
 * It copies slots of the fake device at the moment it is asked, as the real one does: a block that is not whole then,
 * or is overwritten afterwards, is found out when its slots are read. It declines and forgets now and then. */
#ifndef FAKE_STORE_H
#define FAKE_STORE_H

#include <string.h>

#include "kv/block_pool.h"

enum { FAKE_STORE_ENTRIES = 160, FAKE_STORE_TOKENS = 16, FAKE_STORE_BYTES = 128 };

typedef struct fake_store {
    qr_block_store hooks;
    uint32_t (*choose)(void *source, uint32_t n); /* 0 .. n-1 */
    void *source;
    uint8_t *device; /* [num_blocks, block_bytes] */
    size_t block_bytes;
    int block_size;
    struct {
        bool used;
        qr_block_content content; /* tokens: below */
        int32_t tokens[FAKE_STORE_TOKENS];
        uint8_t bytes[FAKE_STORE_BYTES];
    } entries[FAKE_STORE_ENTRIES];
    uint64_t num_kept, num_loaded;
} fake_store;

static int fake_store_find(const fake_store *s, const qr_block_content *c)
{
    for (int i = 0; i < FAKE_STORE_ENTRIES; i++) {
        const qr_block_content *e = &s->entries[i].content;
        if (s->entries[i].used && memcmp(&e->key, &c->key, sizeof c->key) == 0 &&
            memcmp(&e->parent_key, &c->parent_key, sizeof c->parent_key) == 0 && e->extra_key == c->extra_key &&
            memcmp(s->entries[i].tokens, c->tokens, (size_t)s->block_size * sizeof *c->tokens) == 0)
            return i;
    }
    return -1;
}

static void fake_store_keep(void *ctx, int32_t block_id, const qr_block_content *c)
{
    fake_store *s = ctx;
    if (fake_store_find(s, c) >= 0 || s->choose(s->source, 16) == 0) return;
    const int i = (int)s->choose(s->source, FAKE_STORE_ENTRIES);
    s->entries[i].used = true;
    s->entries[i].content = *c;
    memcpy(s->entries[i].tokens, c->tokens, (size_t)s->block_size * sizeof *c->tokens);
    memcpy(s->entries[i].bytes, s->device + (size_t)block_id * s->block_bytes, s->block_bytes);
    s->num_kept++;
}

static bool fake_store_load(void *ctx, int32_t block_id, const qr_block_content *c)
{
    fake_store *s = ctx;
    const int i = fake_store_find(s, c);
    uint8_t *bytes = s->device + (size_t)block_id * s->block_bytes;
    memset(bytes, 0xee, s->block_bytes);
    if (i < 0) return false;
    if (s->choose(s->source, 16) == 0) return s->entries[i].used = false; /* no longer whole */
    memcpy(bytes, s->entries[i].bytes, s->block_bytes);
    s->num_loaded++;
    return true;
}

static void fake_store_forget(void *ctx)
{
    fake_store *s = ctx;
    for (int i = 0; i < FAKE_STORE_ENTRIES; i++) s->entries[i].used = false;
}

/* In place; `device` and `source` must stay where they are. */
static void fake_store_init(fake_store *s, void *device, size_t block_bytes, int block_size, int max_loads_per_step,
                            uint32_t (*choose)(void *source, uint32_t n), void *source)
{
    memset(s, 0, sizeof *s);
    s->choose = choose;
    s->source = source;
    s->device = device;
    s->block_bytes = block_bytes;
    s->block_size = block_size;
    s->hooks = (qr_block_store){.ctx = s,
                                .max_loads_per_step = max_loads_per_step,
                                .keep = fake_store_keep,
                                .load = fake_store_load,
                                .forget = fake_store_forget};
    for (size_t i = 0; i < sizeof s->hooks.secret; i++) s->hooks.secret[i] = (uint8_t)(i * 37 + 11);
}

#endif
