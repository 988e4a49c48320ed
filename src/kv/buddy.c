#include "kv/buddy.h"

#include <assert.h>

#include "base/mem.h"

enum { MAX_ORDERS = 31, NOT_FREE = -1, NONE = -1 };

typedef struct chunk {
    int32_t prev, next; /* in the free list of its order, while it is free */
    int32_t order;      /* of the free chunk that starts at this block; NOT_FREE: none does */
} chunk;

struct qr_buddy {
    chunk *chunks; /* [num_blocks] by first block */
    int32_t num_blocks, num_free;
    int32_t first_free[MAX_ORDERS]; /* by order; NONE: there is none */
};

static int order_of(int32_t num_blocks)
{
    assert(num_blocks >= 1);
    return num_blocks == 1 ? 0 : 32 - __builtin_clz((uint32_t)num_blocks - 1);
}

static int32_t blocks_of(int order) { return (int32_t)1 << order; }

static void list_add(qr_buddy *buddy, int32_t first, int order)
{
    const int32_t next = buddy->first_free[order];
    buddy->chunks[first] = (chunk){.prev = NONE, .next = next, .order = order};
    if (next != NONE) buddy->chunks[next].prev = first;
    buddy->first_free[order] = first;
}

static void list_remove(qr_buddy *buddy, int32_t first)
{
    chunk *c = &buddy->chunks[first];
    if (c->prev == NONE)
        buddy->first_free[c->order] = c->next;
    else
        buddy->chunks[c->prev].next = c->next;
    if (c->next != NONE) buddy->chunks[c->next].prev = c->prev;
    c->order = NOT_FREE;
}

void qr_buddy_reset(qr_buddy *buddy)
{
    for (int32_t i = 0; i < buddy->num_blocks; i++) buddy->chunks[i].order = NOT_FREE;
    for (int order = 0; order < MAX_ORDERS; order++) buddy->first_free[order] = NONE;
    buddy->num_free = buddy->num_blocks;
    int32_t first = 0;
    for (int order = MAX_ORDERS - 1; order >= 0; order--) {
        if (!(buddy->num_blocks >> order & 1)) continue;
        list_add(buddy, first, order);
        first += blocks_of(order);
    }
}

quire_status qr_buddy_create(int32_t num_blocks, qr_buddy **out, quire_error *error)
{
    assert(num_blocks >= 1);
    const size_t bytes = (size_t)num_blocks * sizeof(chunk);
    qr_buddy *buddy = qr_calloc(1, sizeof *buddy);
    if (buddy) buddy->chunks = qr_malloc(bytes);
    if (!buddy || !buddy->chunks) {
        qr_free(buddy);
        return qr_fail_nomem(error, "buddy allocator", bytes);
    }
    buddy->num_blocks = num_blocks;
    qr_buddy_reset(buddy);
    *out = buddy;
    return QUIRE_OK;
}

void qr_buddy_destroy(qr_buddy *buddy)
{
    if (!buddy) return;
    qr_free(buddy->chunks);
    qr_free(buddy);
}

int64_t qr_buddy_region_blocks(int32_t num_blocks) { return (int64_t)1 << order_of(num_blocks); }

int32_t qr_buddy_num_free(const qr_buddy *buddy) { return buddy->num_free; }

quire_status qr_buddy_alloc(qr_buddy *buddy, int32_t num_blocks, int32_t *out_first)
{
    const int wanted = order_of(num_blocks);
    int order = wanted;
    while (order < MAX_ORDERS && buddy->first_free[order] == NONE) order++;
    if (order >= MAX_ORDERS) return QUIRE_NO_BLOCKS;
    const int32_t first = buddy->first_free[order];
    list_remove(buddy, first);
    while (order > wanted) {
        order--;
        list_add(buddy, first + blocks_of(order), order);
    }
    buddy->num_free -= blocks_of(wanted);
    *out_first = first;
    return QUIRE_OK;
}

void qr_buddy_free(qr_buddy *buddy, int32_t first, int32_t num_blocks)
{
    int order = order_of(num_blocks);
    assert(first >= 0 && first % blocks_of(order) == 0 && first + blocks_of(order) <= buddy->num_blocks);
    assert(buddy->chunks[first].order == NOT_FREE);
    buddy->num_free += blocks_of(order);
    for (;; order++) { /* the cover's chunks have no whole buddy, so this ends there */
        const int32_t other = first ^ blocks_of(order);
        if (other >= buddy->num_blocks || buddy->chunks[other].order != order) break;
        list_remove(buddy, other);
        if (other < first) first = other;
    }
    list_add(buddy, first, order);
}

static quire_status check_chunk(const qr_buddy *buddy, int32_t first, int order, const bool *in_region,
                                quire_error *error)
{
    const chunk *c = &buddy->chunks[first];
    if (c->order != order || first % blocks_of(order) != 0 || first + blocks_of(order) > buddy->num_blocks)
        return qr_fail(error, QUIRE_INVALID, "buddy: the free chunk at %d has order %d in the list of %d", first,
                       c->order, order);
    const int32_t other = first ^ blocks_of(order);
    if (other < buddy->num_blocks && buddy->chunks[other].order == order)
        return qr_fail(error, QUIRE_INVALID, "buddy: the chunks at %d and %d are free, but not merged", first, other);
    for (int32_t i = 0; i < blocks_of(order); i++)
        if ((i > 0 && buddy->chunks[first + i].order != NOT_FREE) || (in_region && in_region[first + i]))
            return qr_fail(error, QUIRE_INVALID, "buddy: block %d is in the free chunk at %d and elsewhere", first + i,
                           first);
    return QUIRE_OK;
}

quire_status qr_buddy_check(const qr_buddy *buddy, const bool *in_region, quire_error *error)
{
    int32_t num_free = 0, num_chunks = 0, num_listed = 0, num_held = 0;
    for (int order = 0; order < MAX_ORDERS; order++) {
        int32_t prev = NONE;
        for (int32_t first = buddy->first_free[order]; first != NONE; first = buddy->chunks[first].next) {
            if (++num_listed > buddy->num_blocks || buddy->chunks[first].prev != prev)
                return qr_fail(error, QUIRE_INVALID, "buddy: the free list of order %d is broken at %d", order, first);
            QR_TRY(check_chunk(buddy, first, order, in_region, error));
            num_free += blocks_of(order);
            prev = first;
        }
    }
    for (int32_t i = 0; i < buddy->num_blocks; i++) {
        num_chunks += buddy->chunks[i].order != NOT_FREE;
        num_held += in_region && in_region[i];
    }
    if (num_free != buddy->num_free || num_chunks != num_listed ||
        (in_region && num_held + num_free != buddy->num_blocks))
        return qr_fail(error, QUIRE_INVALID, "buddy: %d blocks free, noted %d; %d chunks, %d listed; %d of %d held",
                       num_free, buddy->num_free, num_chunks, num_listed, num_held, buddy->num_blocks);
    return QUIRE_OK;
}
