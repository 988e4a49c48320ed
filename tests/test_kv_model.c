/* Block pool and block tables under random operations, against a naive reference.
 *
 * The reference is the contract written down with plain arrays and linear searches: the free list is an array of ids,
 * the prefix cache a scan over all blocks that compares contents. It predicts every block id, reference count, cached
 * block and live count; after each operation all of them are compared, and qr_block_pool_check recounts the rest.
 * Independently of both, a fake device holds a token and a digest of all tokens up to it in each slot, is written
 * through the tables and must read back exactly the tables' tokens; what any findable block holds, in use or free, must
 * be the tokens that it is found by. Hashes are cut to a few bits in most runs, so that different
 * contents collide all the time. In half of the runs a store is behind the pool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake_store.h"
#include "kv/block_table.h"
#include "long_run.h"

enum { MAX_BLOCKS = 40, MAX_BLOCK_SIZE = 8, NUM_TABLES = 7, MAX_TOKENS = 64, VOCAB = 3 };
enum { NUM_SEEDS = 2500, OPERATIONS_PER_SEED = 400 };

static long_run seeds;

typedef struct ref_block {
    int ref_cnt, num_live;
    bool cached;
    uint64_t content, parent_content, key, cached_at;
    int32_t tokens[MAX_BLOCK_SIZE];
} ref_block;

typedef struct ref_table {
    int32_t ids[MAX_TOKENS];
    int32_t tokens[MAX_TOKENS];
    int32_t num_tokens, num_full;
    uint64_t key;
} ref_table;

typedef struct slot {
    int32_t token;
    uint64_t digest; /* of all tokens up to this one */
} slot;

typedef struct world {
    uint64_t random;
    unsigned seed;
    int block_size, num_blocks;
    bool caching;
    qr_block_pool *pool;
    qr_block_table tables[NUM_TABLES];
    int32_t ids[NUM_TABLES][MAX_TOKENS];

    ref_block blocks[MAX_BLOCKS];
    int32_t free_ids[MAX_BLOCKS]; /* oldest first */
    int num_free;
    uint64_t last_content, now;
    ref_table refs[NUM_TABLES];
    slot device[MAX_BLOCKS][MAX_BLOCK_SIZE];
    bool has_store;
    fake_store store;
    uint64_t num_copies, num_found, num_evicted, num_full_pool, num_in_place;
} world;

static uint32_t choose(world *w, uint32_t n)
{
    w->random += 0x9e3779b97f4a7c15u;
    uint64_t x = w->random;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((x ^ (x >> 31)) % n);
}

static uint32_t choose_of(void *w, uint32_t n) { return choose(w, n); }

static int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }

/* ---- the naive reference ----------------------------------------------------------------------- */

static int32_t ref_take(world *w)
{
    const int32_t id = w->free_ids[0];
    memmove(w->free_ids, w->free_ids + 1, (size_t)--w->num_free * sizeof *w->free_ids);
    w->num_evicted += w->blocks[id].cached;
    w->blocks[id] = (ref_block){.ref_cnt = 1};
    return id;
}

static void ref_drop(world *w, int32_t id)
{
    if (--w->blocks[id].ref_cnt > 0) return;
    if (w->blocks[id].cached) {
        w->free_ids[w->num_free++] = id;
        return;
    }
    memmove(w->free_ids + 1, w->free_ids, (size_t)w->num_free++ * sizeof *w->free_ids);
    w->free_ids[0] = id;
}

static void ref_hold(world *w, int32_t id)
{
    if (w->blocks[id].ref_cnt++ > 0) return;
    int at = 0;
    while (w->free_ids[at] != id) at++;
    memmove(w->free_ids + at, w->free_ids + at + 1, (size_t)(--w->num_free - at) * sizeof *w->free_ids);
}

/* The block of this content that was cached last, or -1. */
static int32_t ref_find(const world *w, uint64_t parent_content, const int32_t *tokens, uint64_t key)
{
    int32_t found = -1;
    for (int32_t id = 0; id < w->num_blocks; id++) {
        const ref_block *b = &w->blocks[id];
        if (b->cached && b->parent_content == parent_content && b->key == key &&
            memcmp(b->tokens, tokens, (size_t)w->block_size * sizeof *tokens) == 0 &&
            (found < 0 || b->cached_at > w->blocks[found].cached_at))
            found = id;
    }
    return found;
}

/* Append to the reference; false: no room, nothing has changed. */
static bool ref_append(world *w, ref_table *t, const int32_t *tokens, int32_t num, bool *copied, qr_block_copy *copy)
{
    const int32_t held = ceil_div(t->num_tokens, w->block_size);
    const int32_t then = ceil_div(t->num_tokens + num, w->block_size);
    const bool partly = t->num_tokens % w->block_size != 0;
    *copied = partly && w->blocks[t->ids[held - 1]].ref_cnt > 1;
    if (then - held + *copied > w->num_free) return false;
    if (*copied) {
        copy->src_block = t->ids[held - 1];
        copy->dst_block = ref_take(w);
        ref_drop(w, t->ids[held - 1]);
        t->ids[held - 1] = copy->dst_block;
    } else if (partly) {
        w->num_in_place += w->blocks[t->ids[held - 1]].cached;
        w->blocks[t->ids[held - 1]].cached = false;
    }
    for (int32_t i = held; i < then; i++) t->ids[i] = ref_take(w);
    memcpy(t->tokens + t->num_tokens, tokens, (size_t)num * sizeof *tokens);
    t->num_tokens += num;
    return true;
}

static void ref_commit(world *w, ref_table *t)
{
    for (int32_t i = t->num_full; i < ceil_div(t->num_tokens, w->block_size); i++) {
        ref_block *b = &w->blocks[t->ids[i]];
        const int32_t here = t->num_tokens - i * w->block_size;
        b->num_live = here < w->block_size ? here : w->block_size;
        if (here < w->block_size) break;
        t->num_full = i + 1;
        if (!w->caching || b->cached) continue;
        const uint64_t parent_content = i > 0 ? w->blocks[t->ids[i - 1]].content : 0;
        const int32_t twin = ref_find(w, parent_content, t->tokens + i * w->block_size, t->key);
        b->content = twin >= 0 ? w->blocks[twin].content : ++w->last_content;
        b->parent_content = parent_content;
        b->key = t->key;
        memcpy(b->tokens, t->tokens + i * w->block_size, (size_t)w->block_size * sizeof *b->tokens);
        b->cached = true;
        b->cached_at = ++w->now;
    }
}

static void ref_trim(world *w, ref_table *t, int32_t num_tokens)
{
    const int32_t blocks = ceil_div(num_tokens, w->block_size);
    for (int32_t i = ceil_div(t->num_tokens, w->block_size) - 1; i >= blocks; i--) ref_drop(w, t->ids[i]);
    t->num_tokens = num_tokens;
    if (t->num_full > num_tokens / w->block_size) t->num_full = num_tokens / w->block_size;
    ref_block *last = num_tokens % w->block_size ? &w->blocks[t->ids[blocks - 1]] : NULL;
    if (last && last->ref_cnt == 1) last->num_live = num_tokens % w->block_size;
}

/* ---- the device -------------------------------------------------------------------------------- */

static uint64_t digest_at(const ref_table *t, int32_t position)
{
    uint64_t digest = t->key + 1;
    for (int32_t i = 0; i <= position; i++) digest = (digest + (uint64_t)t->tokens[i] + 1) * 0x9e3779b97f4a7c15u;
    return digest;
}

static slot *device_slot(world *w, int table, int32_t position)
{
    const int64_t idx = qr_block_table_slot(&w->tables[table], w->pool, position);
    return &w->device[idx / w->block_size][idx % w->block_size];
}

/* ---- operations on both ------------------------------------------------------------------------ */

static void op_append(world *w, int i, const int32_t *tokens, int32_t num)
{
    ref_table *t = &w->refs[i];
    bool expect_copied = false, copied = true;
    qr_block_copy expect = {0}, copy = {0};
    const int32_t needed = qr_block_table_blocks_needed(&w->tables[i], w->pool, num);
    const bool fits = needed <= qr_block_pool_num_free(w->pool);
    const bool ok = ref_append(w, t, tokens, num, &expect_copied, &expect);
    assert_int_equal(fits, ok);
    const quire_status status = qr_block_table_append(&w->tables[i], w->pool, num, &copy, &copied);
    assert_int_equal(status, ok ? QUIRE_OK : QUIRE_NO_BLOCKS);
    assert_int_equal(copied, ok && expect_copied);
    w->num_full_pool += !ok;
    if (!ok) return;
    if (copied) {
        assert_memory_equal(&copy, &expect, sizeof copy);
        memcpy(w->device[copy.dst_block], w->device[copy.src_block], sizeof w->device[0]);
        w->num_copies++;
    }
    for (int32_t p = t->num_tokens - num; p < t->num_tokens; p++)
        *device_slot(w, i, p) = (slot){.token = t->tokens[p], .digest = digest_at(t, p)};
    const int32_t num_head = (int32_t)choose(w, (uint32_t)t->num_tokens + 1);
    const qr_token_view view = {t->tokens, t->tokens + num_head, num_head, t->num_tokens - num_head};
    qr_block_table_commit(&w->tables[i], w->pool, view, t->num_tokens, t->key);
    ref_commit(w, t);
}

static void op_append_random(world *w, int i)
{
    const int32_t room = MAX_TOKENS - w->refs[i].num_tokens;
    if (room == 0) return;
    int32_t tokens[MAX_TOKENS];
    const int32_t num = 1 + (int32_t)choose(w, (uint32_t)(choose(w, 3) ? (room < 3 ? room : 3) : room));
    for (int32_t k = 0; k < num; k++) tokens[k] = (int32_t)choose(w, VOCAB);
    op_append(w, i, tokens, num);
}

/* Go on in the store. How many blocks it has is its own affair, what they hold is compared. */
static void op_load(world *w, int i, qr_token_view view, const int32_t *tokens, int32_t max_tokens)
{
    ref_table *t = &w->refs[i];
    const int32_t max_loads = (int32_t)choose(w, 5), num_free = w->num_free;
    const int32_t num = qr_block_table_load_prefix(&w->tables[i], w->pool, view, max_tokens, t->key, max_loads);
    assert_true(num <= max_loads && num <= num_free && (num == 0 || w->has_store));
    for (int32_t k = 0; k < num; k++) {
        t->ids[t->num_full] = ref_take(w);
        t->num_tokens += w->block_size;
        memcpy(t->tokens, tokens, (size_t)t->num_tokens * sizeof *tokens);
        ref_commit(w, t);
    }
    const bool missed = num < max_loads && t->num_tokens + w->block_size <= max_tokens;
    if (missed && w->has_store && w->num_free > 0) ref_drop(w, ref_take(w)); /* a block was tried in vain */
}

/* A new sequence that starts like another one, or like one long ago: whatever is cached must be found. */
static void op_start(world *w, int i)
{
    ref_table *t = &w->refs[i];
    if (t->num_tokens > 0) return;
    const ref_table *like = &w->refs[choose(w, NUM_TABLES)];
    int32_t tokens[MAX_TOKENS];
    const int32_t num = 1 + (int32_t)choose(w, MAX_TOKENS);
    const int32_t same = choose(w, 2) ? num : (int32_t)choose(w, (uint32_t)num + 1);
    const int32_t text = (int32_t)choose(w, 8); /* below 5: one that comes again and again */
    for (int32_t k = 0; k < num; k++)
        tokens[k] = k < same && text < 5               ? (k + text) * (k + 2 * text + 1) / 5 % VOCAB
                    : k < same && k < like->num_tokens ? like->tokens[k]
                                                       : (int32_t)choose(w, VOCAB);
    t->key = choose(w, 3) ? like->key : choose(w, 2);
    t->num_full = 0;

    int32_t parent = -1;
    while (w->caching && (t->num_full + 1) * w->block_size <= num - 1) {
        const int32_t id =
            ref_find(w, parent < 0 ? 0 : w->blocks[parent].content, tokens + t->num_full * w->block_size, t->key);
        if (id < 0) break;
        ref_hold(w, id);
        w->blocks[id].num_live = w->block_size;
        t->ids[t->num_full++] = parent = id;
    }
    t->num_tokens = t->num_full * w->block_size;
    memcpy(t->tokens, tokens, (size_t)t->num_tokens * sizeof *tokens);

    const qr_token_view view = {tokens, tokens + num / 2, num / 2, num - num / 2};
    const int32_t found = qr_block_table_adopt_prefix(&w->tables[i], w->pool, view, num - 1, t->key);
    assert_int_equal(found, t->num_tokens);
    w->num_found += (uint64_t)found;
    op_load(w, i, view, tokens, num - 1);
    op_append(w, i, tokens + t->num_tokens, num - t->num_tokens);
}

static void op_fork(world *w, int i)
{
    const int to = (int)choose(w, NUM_TABLES);
    if (to == i || w->refs[to].num_tokens > 0) return;
    w->refs[to] = w->refs[i];
    for (int32_t k = 0; k < ceil_div(w->refs[i].num_tokens, w->block_size); k++) ref_hold(w, w->refs[i].ids[k]);
    qr_block_table_fork(&w->tables[i], &w->tables[to], w->pool);
}

static void op_trim(world *w, int i)
{
    const int32_t num_tokens = (int32_t)choose(w, (uint32_t)w->refs[i].num_tokens + 1);
    ref_trim(w, &w->refs[i], num_tokens);
    qr_block_table_trim(&w->tables[i], w->pool, num_tokens);
}

static void op_clear(world *w, int i)
{
    ref_trim(w, &w->refs[i], 0);
    qr_block_table_clear(&w->tables[i], w->pool);
}

static void op_reset(world *w)
{
    for (int32_t id = 0; id < w->num_blocks; id++)
        if (w->blocks[id].ref_cnt == 0) w->blocks[id].cached = false;
    qr_block_pool_reset_cache(w->pool);
}

/* ---- comparison -------------------------------------------------------------------------------- */

static void compare(world *w)
{
    int32_t ref_cnts[MAX_BLOCKS] = {0};
    for (int i = 0; i < NUM_TABLES; i++) {
        const ref_table *t = &w->refs[i];
        const qr_block_table *table = &w->tables[i];
        assert_int_equal(table->num_tokens, t->num_tokens);
        assert_int_equal(table->num_full_blocks, t->num_full);
        assert_int_equal(table->num_blocks, ceil_div(t->num_tokens, w->block_size));
        assert_memory_equal(table->block_ids, t->ids, (size_t)table->num_blocks * sizeof *t->ids);
        for (int32_t k = 0; k < table->num_blocks; k++) ref_cnts[table->block_ids[k]]++;
        uint64_t digest = t->key + 1;
        for (int32_t p = 0; p < t->num_tokens; p++) {
            digest = (digest + (uint64_t)t->tokens[p] + 1) * 0x9e3779b97f4a7c15u;
            assert_int_equal(device_slot(w, i, p)->token, t->tokens[p]);
            assert_true(device_slot(w, i, p)->digest == digest);
        }
    }
    int64_t num_live = 0;
    int num_cached = 0;
    for (int32_t id = 0; id < w->num_blocks; id++) {
        const ref_block *b = &w->blocks[id];
        assert_int_equal(qr_block_pool_ref_cnt(w->pool, id), b->ref_cnt);
        assert_int_equal(qr_block_pool_is_cached(w->pool, id), b->cached);
        if (b->ref_cnt > 0) num_live += b->num_live;
        num_cached += b->cached;
        for (int k = 0; k < w->block_size && b->cached; k++) assert_int_equal(w->device[id][k].token, b->tokens[k]);
    }
    assert_int_equal(qr_block_pool_num_live_slots(w->pool), num_live);
    assert_int_equal(qr_block_pool_num_cached(w->pool), num_cached);
    assert_int_equal(qr_block_pool_num_free(w->pool), w->num_free);
    quire_error error;
    if (qr_block_pool_check(w->pool, ref_cnts, &error) != QUIRE_OK) fail_msg("%s", error.message);
}

static void run(world *w, unsigned seed)
{
    static const uint64_t masks[] = {0, 1, 7, UINT64_MAX};
    static const int block_sizes[] = {1, 2, 3, 4, 8};
    memset(w, 0, sizeof *w);
    w->random = w->seed = seed;
    w->block_size = block_sizes[choose(w, 5)];
    w->num_blocks = 1 + (int)choose(w, MAX_BLOCKS);
    w->caching = choose(w, 6) > 0;
    assert_int_equal(qr_block_pool_create(w->num_blocks, w->block_size, w->caching, &w->pool, NULL), QUIRE_OK);
    qr_block_pool_mask_hashes(w->pool, masks[choose(w, 4)]);
    w->has_store = w->caching && choose(w, 2);
    fake_store_init(&w->store, w->device, sizeof w->device[0], w->block_size, 1, choose_of, w);
    if (w->has_store) qr_block_pool_set_store(w->pool, &w->store.hooks);
    for (int i = 0; i < NUM_TABLES; i++) qr_block_table_init(&w->tables[i], w->ids[i], MAX_TOKENS);
    for (int32_t id = 0; id < w->num_blocks; id++) w->free_ids[w->num_free++] = id;

    for (int k = 0; k < OPERATIONS_PER_SEED; k++) {
        const int i = (int)choose(w, NUM_TABLES);
        const uint32_t op = choose(w, 32);
        if (op < 12)
            op_append_random(w, i);
        else if (op < 19)
            op_start(w, i);
        else if (op < 24)
            op_fork(w, i);
        else if (op < 27)
            op_trim(w, i);
        else if (op < 31 || choose(w, 8) > 0)
            op_clear(w, i);
        else
            op_reset(w);
        compare(w);
    }
    for (int i = 0; i < NUM_TABLES; i++) op_clear(w, i);
    compare(w);
    assert_int_equal(qr_block_pool_num_free(w->pool), w->num_blocks);
    qr_block_pool_destroy(w->pool);
}

static void random_operations_match_the_reference(void **state)
{
    (void)state;
    static world w;
    uint64_t num_kept = 0, num_loaded = 0;
    uint64_t num_copies = 0, num_found = 0, num_evicted = 0, num_full_pool = 0, num_in_place = 0;
    for (unsigned seed; long_run_next(&seeds, &seed);) {
        run(&w, seed);
        num_copies += w.num_copies;
        num_found += w.num_found;
        num_evicted += w.num_evicted;
        num_full_pool += w.num_full_pool;
        num_in_place += w.num_in_place;
        num_kept += w.store.num_kept;
        num_loaded += w.store.num_loaded;
    }
    print_message("seeds %u to %u, %llu operations: %llu copies on write, %llu tokens found in the cache, %llu cached "
                  "blocks evicted, "
                  "%llu times no block, %llu cached blocks overwritten in place\n",
                  seeds.first_seed, seeds.first_seed + seeds.done - 1,
                  (unsigned long long)seeds.done * OPERATIONS_PER_SEED, (unsigned long long)num_copies,
                  (unsigned long long)num_found, (unsigned long long)num_evicted, (unsigned long long)num_full_pool,
                  (unsigned long long)num_in_place);
    print_message("%llu blocks kept in the store, %llu loaded\n", (unsigned long long)num_kept,
                  (unsigned long long)num_loaded);
    assert_true(num_kept > 1000 && num_loaded > 1000);
    assert_true(num_copies > 1000 && num_found > 1000 && num_evicted > 1000 && num_in_place > 100);
}

int main(int argc, char **argv)
{
    seeds = long_run_start(argc, argv, NUM_SEEDS);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_operations_match_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
