#define _GNU_SOURCE
#include "engine/prefix_store.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum { NONE = -1, MIN_PUTS = 4, MAX_PUTS = 4096, SECOND_US = 1000000, CLOSE_TIMEOUT_US = 10 * SECOND_US };
static const uint64_t max_tick = UINT64_MAX / 2; /* of a file that is believed */

/* A block on its way to the file. */
typedef struct put {
    int32_t slot;
    bool failed;            /* set by the writer */
    qr_prefix_entry *entry; /* the writer sets the checksums */
    void *bytes;            /* [block_bytes] */
} put;

struct qr_prefix_store {
    qr_prefix_file file;
    uint8_t *entries;       /* [num_slots] of entry_bytes, as in the file; of a slot on its way, without checksums */
    int32_t *older, *newer; /* [num_slots] the order of use of slots below num_used; NONE at its ends */
    int32_t *next;          /* [num_slots] in the slot's bucket */
    int32_t *buckets;       /* [bucket_mask + 1] */
    uint64_t bucket_mask;
    int32_t num_used; /* slots that have been taken; the empty ones among them (tick 0) are the oldest */
    int32_t num_blocks, oldest, newest;
    uint64_t last_tick;
    void *loaded; /* [block_bytes] */
    qr_prefix_store_stats stats;

    int64_t deadline_us; /* of saving; 0: not saving */
    int32_t saved_last;  /* slot put last while saving, or NONE */
    int32_t num_saved;

    /* The ring: reaped <= done <= head <= reaped + num_puts. The caller owns puts outside [done, head). */
    put *puts;
    uint8_t *put_bytes, *put_entries;
    uint64_t num_puts, head, reaped;
    uint64_t done; /* under lock, as are the following */
    bool stopping, abandon;
    pthread_mutex_t lock;
    pthread_cond_t wake, written;
    pthread_t writer;
    bool writer_started;
};

static qr_prefix_entry *entry_of(const qr_prefix_store *s, int32_t slot)
{
    return (qr_prefix_entry *)(void *)(s->entries + (size_t)slot * s->file.entry_bytes);
}

/* ---- order and index ---------------------------------------------------------------------------- */

/* Place a slot just before `newer` in the order; NONE: at the new end. */
static void order_insert(qr_prefix_store *s, int32_t slot, int32_t newer)
{
    const int32_t older = newer == NONE ? s->newest : s->older[newer];
    s->older[slot] = older;
    s->newer[slot] = newer;
    *(older == NONE ? &s->oldest : &s->newer[older]) = slot;
    *(newer == NONE ? &s->newest : &s->older[newer]) = slot;
}

static void order_remove(qr_prefix_store *s, int32_t slot)
{
    const int32_t older = s->older[slot], newer = s->newer[slot];
    *(older == NONE ? &s->oldest : &s->newer[older]) = newer;
    *(newer == NONE ? &s->newest : &s->older[newer]) = older;
}

static int32_t *bucket_of(const qr_prefix_store *s, qr_content_key key)
{
    return &s->buckets[key.low & s->bucket_mask];
}

static bool same_key(qr_content_key a, qr_content_key b) { return a.low == b.low && a.high == b.high; }

static bool is_of(const qr_prefix_store *s, const qr_prefix_entry *e, const qr_block_content *c)
{
    return same_key(e->key, c->key) && same_key(e->parent_key, c->parent_key) && e->extra_key == c->extra_key &&
           memcmp(e->tokens, c->tokens, (size_t)s->file.block_size * sizeof *c->tokens) == 0;
}

static int32_t find(const qr_prefix_store *s, const qr_block_content *content)
{
    int32_t slot = *bucket_of(s, content->key);
    while (slot != NONE && !is_of(s, entry_of(s, slot), content)) slot = s->next[slot];
    return slot;
}

static void index_insert(qr_prefix_store *s, int32_t slot)
{
    int32_t *bucket = bucket_of(s, entry_of(s, slot)->key);
    s->next[slot] = *bucket;
    *bucket = slot;
    s->num_blocks++;
}

/* The slot holds nothing any more; it stays where it is in the order. */
static void index_remove(qr_prefix_store *s, int32_t slot)
{
    int32_t *link = bucket_of(s, entry_of(s, slot)->key);
    while (*link != slot) link = &s->next[*link];
    *link = s->next[slot];
    entry_of(s, slot)->tick = 0;
    s->num_blocks--;
}

static void give_up(qr_prefix_store *s, int32_t slot)
{
    index_remove(s, slot);
    order_remove(s, slot);
    if (s->saved_last == slot) s->saved_last = NONE;
    order_insert(s, slot, s->oldest);
}

/* ---- the writer --------------------------------------------------------------------------------- */

static void *writer_main(void *raw)
{
    qr_prefix_store *s = raw;
    bool complained = false;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (s->done == s->head && !s->stopping) pthread_cond_wait(&s->wake, &s->lock);
        if (s->done == s->head || s->abandon) break;
        put *p = &s->puts[s->done % s->num_puts];
        pthread_mutex_unlock(&s->lock);
        p->failed = !qr_prefix_file_write_block(&s->file, p->slot, p->entry, p->bytes);
        if (p->failed && !complained)
            qr_log(QR_LOG_WARN, "prefix cache: cannot write '%s': %s; such blocks are not kept", s->file.path,
                   strerror(errno));
        complained |= p->failed;
        pthread_mutex_lock(&s->lock);
        s->done++;
        pthread_cond_signal(&s->written);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Take note of what the writer has done. */
static void reap(qr_prefix_store *s)
{
    pthread_mutex_lock(&s->lock);
    const uint64_t done = s->done;
    pthread_mutex_unlock(&s->lock);
    for (; s->reaped < done; s->reaped++) {
        const put *p = &s->puts[s->reaped % s->num_puts];
        qr_prefix_entry *entry = entry_of(s, p->slot);
        memcpy(entry->payload_checksum, p->entry->payload_checksum, sizeof entry->payload_checksum);
        s->stats.num_written += !p->failed;
        s->stats.num_dropped += p->failed;
        if (p->failed) give_up(s, p->slot);
    }
}

/* Wait until the writer has done `target` puts or the deadline passes, and say how it goes once a second. */
static void wait_for_writer(qr_prefix_store *s, uint64_t target, int64_t deadline_us)
{
    pthread_mutex_lock(&s->lock);
    int64_t now_us = qr_clock_us(), said_us = now_us;
    while (s->done < target && now_us < deadline_us) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec++;
        pthread_cond_timedwait(&s->written, &s->lock, &until);
        now_us = qr_clock_us();
        if (now_us - said_us < SECOND_US) continue;
        said_us = now_us;
        qr_log(QR_LOG_INFO, "prefix cache: %llu blocks still to write", (unsigned long long)(s->head - s->done));
    }
    pthread_mutex_unlock(&s->lock);
    reap(s);
}

/* The slot's block on its way to the file; NULL: it is there. */
static const put *on_its_way(const qr_prefix_store *s, int32_t slot)
{
    for (uint64_t i = s->reaped; i < s->head; i++)
        if (s->puts[i % s->num_puts].slot == slot) return &s->puts[i % s->num_puts];
    return NULL;
}

/* ---- put and get -------------------------------------------------------------------------------- */

/* Into the order: the newest, or while saving just behind what was put before. */
static void place(qr_prefix_store *s, int32_t slot)
{
    order_insert(s, slot, s->deadline_us ? s->saved_last : NONE);
    if (!s->deadline_us) return;
    s->saved_last = slot;
    s->num_saved++;
}

/* A slot for one more block, in no list; NONE when every one is needed. */
static int32_t take_slot(qr_prefix_store *s)
{
    if (s->deadline_us && s->num_saved >= s->file.num_slots) return NONE; /* what was saved is worth more */
    if (s->num_used < s->file.num_slots) return s->num_used++;
    const int32_t slot = s->oldest;
    if (on_its_way(s, slot)) return NONE;
    if (entry_of(s, slot)->tick != 0) index_remove(s, slot);
    order_remove(s, slot);
    return slot;
}

static bool has_room(qr_prefix_store *s)
{
    if (s->head - s->reaped < s->num_puts) return true;
    if (s->deadline_us) wait_for_writer(s, s->reaped + 1, s->deadline_us);
    return s->head - s->reaped < s->num_puts;
}

void *qr_prefix_store_put(qr_prefix_store *s, const qr_block_content *content)
{
    reap(s);
    int32_t slot = find(s, content);
    if (slot != NONE) {
        if (slot == s->saved_last) return NULL;
        order_remove(s, slot);
        place(s, slot);
        return NULL;
    }
    slot = has_room(s) ? take_slot(s) : NONE;
    if (slot == NONE) {
        s->stats.num_dropped++;
        return NULL;
    }
    qr_prefix_entry *entry = entry_of(s, slot);
    memset(entry, 0, s->file.entry_bytes);
    entry->tick = ++s->last_tick;
    entry->key = content->key;
    entry->parent_key = content->parent_key;
    entry->extra_key = content->extra_key;
    memcpy(entry->tokens, content->tokens, (size_t)s->file.block_size * sizeof *entry->tokens);
    index_insert(s, slot);
    place(s, slot);

    put *p = &s->puts[s->head % s->num_puts];
    p->slot = slot;
    p->failed = false;
    memcpy(p->entry, entry, s->file.entry_bytes);
    return p->bytes;
}

void qr_prefix_store_put_done(qr_prefix_store *s)
{
    pthread_mutex_lock(&s->lock);
    s->head++;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

const void *qr_prefix_store_get(qr_prefix_store *s, const qr_block_content *content)
{
    reap(s);
    const int32_t slot = find(s, content);
    if (slot == NONE) return NULL;
    const put *p = on_its_way(s, slot);
    if (p) return p->bytes; /* the writer only reads them */
    if (qr_prefix_file_read_block(&s->file, slot, entry_of(s, slot), s->loaded)) return s->loaded;
    if (s->stats.num_broken++ == 0)
        qr_log(QR_LOG_WARN, "prefix cache: a block in '%s' is not whole and is computed again", s->file.path);
    give_up(s, slot);
    return NULL;
}

/* ---- open --------------------------------------------------------------------------------------- */

static quire_status reserve(qr_prefix_store *s, size_t ring_bytes, quire_error *error)
{
    const qr_prefix_file *f = &s->file;
    const size_t n = (size_t)f->num_slots;
    s->num_puts = ring_bytes / f->block_bytes;
    if (s->num_puts < MIN_PUTS) s->num_puts = MIN_PUTS;
    if (s->num_puts > MAX_PUTS) s->num_puts = MAX_PUTS;
    for (s->bucket_mask = 15; s->bucket_mask < n; s->bucket_mask = s->bucket_mask * 2 + 1) continue;
    /* whole pages, which cost memory only once they are used */
    s->entries = qr_pages_alloc(n * f->entry_bytes);
    s->older = qr_pages_alloc(n * sizeof *s->older);
    s->newer = qr_pages_alloc(n * sizeof *s->newer);
    s->next = qr_pages_alloc(n * sizeof *s->next);
    s->put_bytes = qr_pages_alloc(s->num_puts * f->block_bytes);
    s->buckets = qr_malloc((s->bucket_mask + 1) * sizeof *s->buckets);
    s->put_entries = qr_malloc(s->num_puts * f->entry_bytes);
    s->puts = qr_calloc(s->num_puts, sizeof *s->puts);
    s->loaded = qr_malloc(f->block_bytes);
    if (!s->entries || !s->older || !s->newer || !s->next || !s->put_bytes || !s->buckets || !s->put_entries ||
        !s->puts || !s->loaded)
        return qr_fail_nomem(error, "the prefix cache", n * f->entry_bytes + s->num_puts * f->block_bytes);
    memset(s->buckets, 0xff, (s->bucket_mask + 1) * sizeof *s->buckets); /* NONE */
    for (uint64_t i = 0; i < s->num_puts; i++) {
        s->puts[i].bytes = s->put_bytes + i * f->block_bytes;
        s->puts[i].entry = (qr_prefix_entry *)(void *)(s->put_entries + i * f->entry_bytes);
    }
    return QUIRE_OK;
}

typedef struct ticket {
    uint64_t tick;
    int32_t slot;
} ticket;

static int by_tick(const void *a, const void *b)
{
    const ticket *x = a, *y = b;
    if (x->tick != y->tick) return x->tick < y->tick ? -1 : 1;
    return x->slot < y->slot ? -1 : x->slot > y->slot;
}

static bool is_twin(const qr_prefix_store *s, const qr_prefix_entry *entry)
{
    const qr_block_content content = {entry->key, entry->parent_key, entry->extra_key, entry->tokens};
    return find(s, &content) != NONE;
}

/* Index and order from the entries of the file: whatever is not whole is an empty slot. */
static quire_status read_entries(qr_prefix_store *s, quire_error *error)
{
    const qr_prefix_file *f = &s->file;
    s->num_used = qr_prefix_file_num_slots_written(f);
    if (s->num_used == 0) return QUIRE_OK;
    ticket *tickets = qr_malloc((size_t)s->num_used * sizeof *tickets);
    uint8_t *chunk = qr_malloc(f->chunk_bytes);
    for (int32_t slot = 0; tickets && chunk && slot < s->num_used; slot++) {
        if (slot % QR_PREFIX_GROUP_SLOTS == 0) qr_prefix_file_read_chunk(f, slot / QR_PREFIX_GROUP_SLOTS, chunk);
        qr_prefix_entry *entry = entry_of(s, slot);
        memcpy(entry, chunk + (size_t)(slot % QR_PREFIX_GROUP_SLOTS) * f->entry_bytes, f->entry_bytes);
        if (!qr_prefix_file_entry_is_whole(f, entry) || entry->tick > max_tick || is_twin(s, entry))
            entry->tick = 0;
        else
            index_insert(s, slot);
        tickets[slot] = (ticket){entry->tick, slot};
    }
    const bool read = tickets && chunk;
    if (read) {
        qsort(tickets, (size_t)s->num_used, sizeof *tickets, by_tick);
        for (int32_t i = 0; i < s->num_used; i++) order_insert(s, tickets[i].slot, NONE);
        s->last_tick = tickets[s->num_used - 1].tick;
    }
    qr_free(chunk);
    qr_free(tickets);
    return read ? QUIRE_OK : qr_fail_nomem(error, "the prefix cache's index", f->chunk_bytes);
}

static void destroy(qr_prefix_store *s)
{
    const qr_prefix_file *f = &s->file;
    const size_t n = (size_t)f->num_slots;
    qr_pages_free(s->entries, n * f->entry_bytes);
    qr_pages_free(s->older, n * sizeof *s->older);
    qr_pages_free(s->newer, n * sizeof *s->newer);
    qr_pages_free(s->next, n * sizeof *s->next);
    qr_pages_free(s->put_bytes, s->num_puts * f->block_bytes);
    qr_free(s->buckets);
    qr_free(s->put_entries);
    qr_free(s->puts);
    qr_free(s->loaded);
    qr_prefix_file_close(&s->file);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->written);
    qr_free(s);
}

static quire_status open_all(qr_prefix_store *s, const qr_prefix_file_options *o, size_t ring_bytes, quire_error *error)
{
    QR_TRY(qr_prefix_file_open(o, &s->file, error));
    QR_TRY(reserve(s, ring_bytes, error));
    QR_TRY(read_entries(s, error));
    if (pthread_create(&s->writer, NULL, writer_main, s) != 0)
        return qr_fail(error, QUIRE_NOMEM, "cannot start the prefix cache's thread");
    s->writer_started = true;
    return QUIRE_OK;
}

quire_status qr_prefix_store_open(const qr_prefix_file_options *o, size_t ring_bytes, qr_prefix_store **out,
                                  quire_error *error)
{
    qr_prefix_store *s = qr_calloc(1, sizeof *s);
    if (!s) return qr_fail_nomem(error, "the prefix cache", sizeof *s);
    s->file.fd = -1;
    s->oldest = s->newest = s->saved_last = NONE;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    pthread_cond_init(&s->written, &attr);
    pthread_condattr_destroy(&attr);
    const quire_status status = open_all(s, o, ring_bytes, error);
    if (status != QUIRE_OK) {
        destroy(s);
        return status;
    }
    *out = s;
    return QUIRE_OK;
}

const uint8_t *qr_prefix_store_secret(const qr_prefix_store *s) { return s->file.secret; }

/* ---- the end ------------------------------------------------------------------------------------ */

void qr_prefix_store_save(qr_prefix_store *s, int64_t timeout_us) { s->deadline_us = qr_clock_us() + timeout_us; }

static void stop_writer(qr_prefix_store *s)
{
    wait_for_writer(s, s->head, s->deadline_us ? s->deadline_us : qr_clock_us() + CLOSE_TIMEOUT_US);
    pthread_mutex_lock(&s->lock);
    s->stopping = s->abandon = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->writer, NULL);
    reap(s);
    if (s->reaped < s->head)
        qr_log(QR_LOG_WARN, "prefix cache: no time to write the last %llu blocks",
               (unsigned long long)(s->head - s->reaped));
    for (; s->reaped < s->head; s->reaped++) give_up(s, s->puts[s->reaped % s->num_puts].slot);
}

/* Entries with ticks in the order of use. */
static void write_order(qr_prefix_store *s)
{
    const qr_prefix_file *f = &s->file;
    uint8_t *chunk = qr_calloc(1, f->chunk_bytes);
    if (!chunk) return; /* the order of writing stays */
    uint64_t tick = 0;
    for (int32_t slot = s->oldest; slot != NONE; slot = s->newer[slot])
        if (entry_of(s, slot)->tick != 0) {
            entry_of(s, slot)->tick = ++tick;
            qr_prefix_file_seal_entry(f, entry_of(s, slot));
        }
    for (int32_t first = 0; first < s->num_used; first += QR_PREFIX_GROUP_SLOTS) {
        const int32_t rest = s->num_used - first;
        memset(chunk, 0, f->chunk_bytes);
        memcpy(chunk, entry_of(s, first),
               (size_t)(rest < QR_PREFIX_GROUP_SLOTS ? rest : QR_PREFIX_GROUP_SLOTS) * f->entry_bytes);
        if (!qr_prefix_file_write_chunk(f, first / QR_PREFIX_GROUP_SLOTS, chunk)) break;
    }
    qr_free(chunk);
}

void qr_prefix_store_close(qr_prefix_store *s)
{
    if (!s) return;
    stop_writer(s);
    write_order(s);
    destroy(s);
}

void qr_prefix_store_forget(qr_prefix_store *s)
{
    wait_for_writer(s, s->head, INT64_MAX);
    if (!qr_prefix_file_clear(&s->file))
        qr_log(QR_LOG_WARN, "prefix cache: cannot clear '%s': %s", s->file.path, strerror(errno));
    memset(s->buckets, 0xff, (s->bucket_mask + 1) * sizeof *s->buckets);
    s->num_used = s->num_blocks = 0;
    s->oldest = s->newest = s->saved_last = NONE;
}

/* ---- state -------------------------------------------------------------------------------------- */

void qr_prefix_store_get_stats(const qr_prefix_store *s, qr_prefix_store_stats *out)
{
    *out = s->stats;
    out->num_slots = s->file.num_slots;
    out->num_blocks = s->num_blocks;
}

quire_status qr_prefix_store_check(const qr_prefix_store *s, quire_error *error)
{
    int32_t num_ordered = 0, num_full = 0, num_indexed = 0, older = NONE;
    for (int32_t slot = s->oldest; slot != NONE; older = slot, slot = s->newer[slot]) {
        if (slot < 0 || slot >= s->num_used || s->older[slot] != older || ++num_ordered > s->num_used)
            return qr_fail(error, QUIRE_INVALID, "prefix store: the order is broken at slot %d", slot);
        const bool full = entry_of(s, slot)->tick != 0;
        if (!full && num_full > 0)
            return qr_fail(error, QUIRE_INVALID, "slot %d: empty, but not among the oldest", slot);
        num_full += full;
    }
    for (uint64_t bucket = 0; bucket <= s->bucket_mask; bucket++)
        for (int32_t slot = s->buckets[bucket]; slot != NONE; slot = s->next[slot])
            if (++num_indexed > s->num_blocks || entry_of(s, slot)->tick == 0 ||
                bucket_of(s, entry_of(s, slot)->key) != &s->buckets[bucket])
                return qr_fail(error, QUIRE_INVALID, "slot %d: does not belong where the index has it", slot);
    if (older != s->newest || num_ordered != s->num_used || num_full != s->num_blocks || num_indexed != s->num_blocks)
        return qr_fail(error, QUIRE_INVALID, "prefix store: %d slots, %d blocks; counted %d, %d, %d", s->num_used,
                       s->num_blocks, num_ordered, num_full, num_indexed);
    return QUIRE_OK;
}
