/* fake_store: a block store (kv/block_store.h) of plain arrays, for the models of kv and scheduler.
 *
 * It copies slots of the fake device at the moment it is asked, as the real one does: a block that is not whole then,
 * or is overwritten afterwards, is found out when its digests are read. It declines and forgets now and then.
 * Define FAKE_STORE_CHECK(condition, text) before including this file. */
#ifndef FAKE_STORE_H
#define FAKE_STORE_H

#include <string.h>

#include "kv/block_pool.h"

enum { FAKE_STORE_ENTRIES = 48, FAKE_STORE_BLOCK = 16 };

typedef struct fake_store {
    qr_block_store hooks;
    uint32_t (*choose)(void *source, uint32_t n); /* 0 .. n-1 */
    void *source;
    uint64_t *device; /* [num_blocks, block_size] */
    int block_size;
    struct {
        bool used;
        qr_block_content content; /* tokens: below */
        int32_t tokens[FAKE_STORE_BLOCK];
        uint64_t slots[FAKE_STORE_BLOCK];
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
    const uint64_t *slots = s->device + (size_t)block_id * (size_t)s->block_size;
    const size_t bytes = (size_t)s->block_size * sizeof *slots;
    int i = fake_store_find(s, c);
    FAKE_STORE_CHECK(i < 0 || memcmp(s->entries[i].slots, slots, bytes) == 0, "the same content, but other K and V");
    if (i >= 0 || s->choose(s->source, 16) == 0) return;
    i = (int)s->choose(s->source, FAKE_STORE_ENTRIES);
    s->entries[i].used = true;
    s->entries[i].content = *c;
    memcpy(s->entries[i].tokens, c->tokens, (size_t)s->block_size * sizeof *c->tokens);
    memcpy(s->entries[i].slots, slots, bytes);
    s->num_kept++;
}

static bool fake_store_load(void *ctx, int32_t block_id, const qr_block_content *c)
{
    fake_store *s = ctx;
    const int i = fake_store_find(s, c);
    uint64_t *slots = s->device + (size_t)block_id * (size_t)s->block_size;
    memset(slots, 0xee, (size_t)s->block_size * sizeof *slots);
    if (i < 0) return false;
    if (s->choose(s->source, 16) == 0) return s->entries[i].used = false; /* no longer whole */
    memcpy(slots, s->entries[i].slots, (size_t)s->block_size * sizeof *slots);
    s->num_loaded++;
    return true;
}

static void fake_store_forget(void *ctx)
{
    fake_store *s = ctx;
    for (int i = 0; i < FAKE_STORE_ENTRIES; i++) s->entries[i].used = false;
}

/* In place; `device` and `source` must stay where they are. */
static void fake_store_init(fake_store *s, uint64_t *device, int block_size, int max_loads_per_step,
                            uint32_t (*choose)(void *source, uint32_t n), void *source)
{
    memset(s, 0, sizeof *s);
    s->choose = choose;
    s->source = source;
    s->device = device;
    s->block_size = block_size;
    s->hooks = (qr_block_store){.ctx = s,
                                .max_loads_per_step = max_loads_per_step,
                                .keep = fake_store_keep,
                                .load = fake_store_load,
                                .forget = fake_store_forget};
    for (size_t i = 0; i < sizeof s->hooks.secret; i++) s->hooks.secret[i] = (uint8_t)(i * 37 + 11);
}

#endif
