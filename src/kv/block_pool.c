#include "kv/block_pool.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"

/* What every step reads and writes of a block, apart from the rest so that many lie in a cache line. */
typedef struct block_use {
    int32_t ref_cnt;
    int16_t num_live;
    bool cached;
} block_use;

typedef struct block {
    int32_t free_prev, free_next;   /* valid while ref_cnt is 0 */
    int32_t index_prev, index_next; /* valid while cached; index_prev QR_NO_BLOCK: first of its bucket */
    qr_content_key key, parent_key; /* valid while cached, as are the following */
    uint64_t content_id;            /* > 0 */
    uint64_t parent_content_id;     /* 0: first block of a sequence */
    uint64_t extra_key;
} block;

struct qr_block_pool {
    block_use *uses; /* [num_blocks] */
    block *blocks;   /* [num_blocks] */
    int32_t *tokens; /* [num_blocks, block_size] of cached blocks; NULL when caching is off */
    int32_t *index;  /* [index_mask + 1] first block of each bucket, or QR_NO_BLOCK */
    uint64_t index_mask, key_mask;
    const qr_block_store *store; /* NULL: none */
    uint64_t last_content_id;
    int32_t num_blocks, num_free, num_cached;
    int32_t oldest, newest; /* ends of the free list, QR_NO_BLOCK when it is empty */
    int64_t num_live_slots, num_refs;
    int block_size;
    bool caching;
};

/* ---- free list --------------------------------------------------------------------------------- */

static void free_list_remove(qr_block_pool *pool, int32_t id)
{
    block *b = &pool->blocks[id];
    if (b->free_prev == QR_NO_BLOCK)
        pool->oldest = b->free_next;
    else
        pool->blocks[b->free_prev].free_next = b->free_next;
    if (b->free_next == QR_NO_BLOCK)
        pool->newest = b->free_prev;
    else
        pool->blocks[b->free_next].free_prev = b->free_prev;
    pool->num_free--;
}

/* A cached block goes to the new end, any other to the old end. */
static void free_list_add(qr_block_pool *pool, int32_t id)
{
    block *b = &pool->blocks[id];
    const bool at_new_end = pool->uses[id].cached;
    b->free_prev = at_new_end ? pool->newest : QR_NO_BLOCK;
    b->free_next = at_new_end ? QR_NO_BLOCK : pool->oldest;
    if (b->free_prev == QR_NO_BLOCK)
        pool->oldest = id;
    else
        pool->blocks[b->free_prev].free_next = id;
    if (b->free_next == QR_NO_BLOCK)
        pool->newest = id;
    else
        pool->blocks[b->free_next].free_prev = id;
    pool->num_free++;
}

/* ---- life -------------------------------------------------------------------------------------- */

static uint64_t index_buckets(int64_t num_blocks)
{
    uint64_t buckets = 16;
    while (buckets < (uint64_t)num_blocks) buckets *= 2;
    return buckets;
}

static quire_status reserve(qr_block_pool *pool, quire_error *error)
{
    const size_t n = (size_t)pool->num_blocks;
    pool->blocks = qr_calloc(n, sizeof *pool->blocks);
    pool->uses = qr_calloc(n, sizeof *pool->uses);
    if (!pool->blocks || !pool->uses)
        return qr_fail_nomem(error, "KV block descriptors", n * (sizeof *pool->blocks + sizeof *pool->uses));
    if (!pool->caching) return QUIRE_OK;
    const size_t token_bytes = n * (size_t)pool->block_size * sizeof *pool->tokens;
    pool->tokens = qr_malloc(token_bytes);
    if (!pool->tokens) return qr_fail_nomem(error, "tokens of cached KV blocks", token_bytes);
    const size_t index_bytes = (size_t)(pool->index_mask + 1) * sizeof *pool->index;
    pool->index = qr_malloc(index_bytes);
    if (!pool->index) return qr_fail_nomem(error, "index of cached KV blocks", index_bytes);
    memset(pool->index, 0xff, index_bytes); /* QR_NO_BLOCK */
    return QUIRE_OK;
}

quire_status qr_block_pool_create(int64_t num_blocks, int block_size, bool enable_caching, qr_block_pool **out,
                                  quire_error *error)
{
    if (num_blocks < 1 || num_blocks > INT32_MAX)
        return qr_fail_param(error, "num_kv_blocks", "the KV cache must have 1 to %d blocks, not %lld", INT32_MAX,
                             (long long)num_blocks);
    if (block_size < 1 || block_size > QR_MAX_BLOCK_SIZE)
        return qr_fail_param(error, "block_size", "a KV block must hold 1 to %d tokens, not %d", QR_MAX_BLOCK_SIZE,
                             block_size);
    qr_block_pool *pool = qr_calloc(1, sizeof *pool);
    if (!pool) return qr_fail_nomem(error, "KV block pool", sizeof *pool);
    pool->num_blocks = (int32_t)num_blocks;
    pool->block_size = block_size;
    pool->caching = enable_caching;
    pool->index_mask = index_buckets(num_blocks) - 1;
    pool->key_mask = UINT64_MAX;
    pool->oldest = pool->newest = QR_NO_BLOCK;
    const quire_status status = reserve(pool, error);
    if (status != QUIRE_OK) {
        qr_block_pool_destroy(pool);
        return status;
    }
    for (int32_t id = pool->num_blocks - 1; id >= 0; id--) free_list_add(pool, id); /* block 0 is taken first */
    *out = pool;
    return QUIRE_OK;
}

void qr_block_pool_set_store(qr_block_pool *pool, const qr_block_store *store)
{
    assert(pool->num_cached == 0 && pool->caching && store->max_loads_per_step >= 1);
    pool->store = store;
}

void qr_block_pool_destroy(qr_block_pool *pool)
{
    if (!pool) return;
    qr_free(pool->index);
    qr_free(pool->tokens);
    qr_free(pool->blocks);
    qr_free(pool->uses);
    qr_free(pool);
}

int qr_block_pool_block_size(const qr_block_pool *pool) { return pool->block_size; }
bool qr_block_pool_caching(const qr_block_pool *pool) { return pool->caching; }
int32_t qr_block_pool_num_blocks(const qr_block_pool *pool) { return pool->num_blocks; }
int32_t qr_block_pool_num_free(const qr_block_pool *pool) { return pool->num_free; }
int64_t qr_block_pool_num_refs(const qr_block_pool *pool) { return pool->num_refs; }
int32_t qr_block_pool_num_cached(const qr_block_pool *pool) { return pool->num_cached; }
int64_t qr_block_pool_num_live_slots(const qr_block_pool *pool) { return pool->num_live_slots; }

static block *block_at(const qr_block_pool *pool, int32_t id)
{
    assert(id >= 0 && id < pool->num_blocks);
    return &pool->blocks[id];
}

static block_use *use_of(const qr_block_pool *pool, int32_t id)
{
    assert(id >= 0 && id < pool->num_blocks);
    return &pool->uses[id];
}

int32_t qr_block_pool_ref_cnt(const qr_block_pool *pool, int32_t block_id) { return use_of(pool, block_id)->ref_cnt; }
bool qr_block_pool_is_cached(const qr_block_pool *pool, int32_t block_id) { return use_of(pool, block_id)->cached; }
int qr_block_pool_num_live(const qr_block_pool *pool, int32_t block_id) { return use_of(pool, block_id)->num_live; }

uint64_t qr_block_pool_content_id(const qr_block_pool *pool, int32_t block_id)
{
    return use_of(pool, block_id)->cached ? block_at(pool, block_id)->content_id : 0;
}

/* ---- references -------------------------------------------------------------------------------- */

static int32_t *block_tokens(const qr_block_pool *pool, int32_t id)
{
    return pool->tokens + (size_t)id * (size_t)pool->block_size;
}

static void keep(const qr_block_pool *pool, int32_t id)
{
    const block *b = &pool->blocks[id];
    if (!pool->store || !pool->uses[id].cached) return;
    const qr_block_content content = {b->key, b->parent_key, b->extra_key, block_tokens(pool, id)};
    pool->store->keep(pool->store->ctx, id, &content);
}

static void take(qr_block_pool *pool, int32_t id)
{
    free_list_remove(pool, id);
    keep(pool, id);
    qr_block_pool_uncache(pool, id);
    pool->uses[id].ref_cnt = 1;
    pool->uses[id].num_live = 0;
    pool->num_refs++;
}

quire_status qr_block_pool_alloc(qr_block_pool *pool, int32_t num_blocks, int32_t *out_ids)
{
    assert(num_blocks >= 0);
    if (num_blocks > pool->num_free) return QUIRE_NO_BLOCKS;
    for (int32_t i = 0; i < num_blocks; i++) {
        out_ids[i] = pool->oldest;
        take(pool, pool->oldest);
    }
    return QUIRE_OK;
}

void qr_block_pool_take(qr_block_pool *pool, int32_t first, int32_t num_blocks, int32_t *out_ids)
{
    for (int32_t i = 0; i < num_blocks; i++) {
        assert(use_of(pool, first + i)->ref_cnt == 0);
        out_ids[i] = first + i;
        take(pool, first + i);
    }
}

void qr_block_pool_free(qr_block_pool *pool, const int32_t *ids, int32_t num_blocks)
{
    pool->num_refs -= num_blocks;
    for (int32_t i = num_blocks - 1; i >= 0; i--) {
        block_use *use = use_of(pool, ids[i]);
        assert(use->ref_cnt > 0);
        if (--use->ref_cnt > 0) continue;
        pool->num_live_slots -= use->num_live;
        free_list_add(pool, ids[i]);
    }
}

void qr_block_pool_touch(qr_block_pool *pool, const int32_t *ids, int32_t num_blocks)
{
    pool->num_refs += num_blocks;
    for (int32_t i = 0; i < num_blocks; i++) {
        block_use *use = use_of(pool, ids[i]);
        if (use->ref_cnt++ > 0) continue;
        assert(use->cached);
        free_list_remove(pool, ids[i]);
        pool->num_live_slots += use->num_live;
    }
}

void qr_block_pool_prefetch(const qr_block_pool *pool, int32_t block_id) { __builtin_prefetch(use_of(pool, block_id)); }

void qr_block_pool_set_live(qr_block_pool *pool, int32_t block_id, int num_live)
{
    block_use *use = use_of(pool, block_id);
    assert(use->ref_cnt > 0 && num_live >= 0 && num_live <= pool->block_size);
    pool->num_live_slots += num_live - use->num_live;
    use->num_live = (int16_t)num_live;
}

/* ---- content ----------------------------------------------------------------------------------- */

static size_t block_token_bytes(const qr_block_pool *pool) { return (size_t)pool->block_size * sizeof(int32_t); }

static qr_content_key key_of(const qr_block_pool *pool, qr_content_key parent_key, const int32_t *tokens,
                             uint64_t extra_key)
{
    uint64_t chain[3 + QR_MAX_BLOCK_SIZE / 2] = {parent_key.low, parent_key.high, extra_key};
    const size_t bytes = 3 * sizeof *chain + block_token_bytes(pool);
    memcpy(chain + 3, tokens, block_token_bytes(pool));
    const XXH128_hash_t hash =
        pool->store ? XXH3_128bits_withSecret(chain, bytes, pool->store->secret, sizeof pool->store->secret)
                    : XXH3_128bits(chain, bytes);
    return (qr_content_key){hash.low64, hash.high64};
}

static int32_t *bucket_of(const qr_block_pool *pool, qr_content_key key)
{
    return &pool->index[key.low & pool->key_mask & pool->index_mask];
}

/* A cached block of this content, the one cached last; QR_NO_BLOCK when there is none. */
static int32_t find(const qr_block_pool *pool, qr_content_key key, uint64_t parent_content_id, const int32_t *tokens,
                    uint64_t extra_key)
{
    int32_t id = *bucket_of(pool, key);
    for (; id != QR_NO_BLOCK; id = pool->blocks[id].index_next) {
        const block *b = &pool->blocks[id];
        if (((b->key.low ^ key.low) & pool->key_mask) == 0 && b->parent_content_id == parent_content_id &&
            b->extra_key == extra_key && memcmp(block_tokens(pool, id), tokens, block_token_bytes(pool)) == 0)
            break;
    }
    return id;
}

static void parent_of(const qr_block_pool *pool, int32_t parent_id, qr_content_key *out_key, uint64_t *out_content_id)
{
    *out_key = (qr_content_key){0, 0};
    *out_content_id = 0;
    if (parent_id == QR_NO_BLOCK) return;
    const block *parent = block_at(pool, parent_id);
    assert(use_of(pool, parent_id)->cached);
    *out_key = parent->key;
    *out_content_id = parent->content_id;
}

void qr_block_pool_cache(qr_block_pool *pool, int32_t block_id, int32_t parent_id, const int32_t *tokens,
                         uint64_t extra_key)
{
    block_use *use = use_of(pool, block_id);
    assert(use->ref_cnt > 0);
    if (!pool->caching || use->cached) return;

    block *b = block_at(pool, block_id);
    uint64_t parent_content_id;
    parent_of(pool, parent_id, &b->parent_key, &parent_content_id);
    b->key = key_of(pool, b->parent_key, tokens, extra_key);
    const int32_t twin = find(pool, b->key, parent_content_id, tokens, extra_key);

    b->content_id = twin == QR_NO_BLOCK ? ++pool->last_content_id : pool->blocks[twin].content_id;
    b->parent_content_id = parent_content_id;
    b->extra_key = extra_key;
    memcpy(block_tokens(pool, block_id), tokens, block_token_bytes(pool));

    int32_t *bucket = bucket_of(pool, b->key);
    b->index_prev = QR_NO_BLOCK;
    b->index_next = *bucket;
    if (*bucket != QR_NO_BLOCK) pool->blocks[*bucket].index_prev = block_id;
    *bucket = block_id;
    use->cached = true;
    pool->num_cached++;
}

void qr_block_pool_uncache(qr_block_pool *pool, int32_t block_id)
{
    block_use *use = use_of(pool, block_id);
    if (!use->cached) return;
    const block *b = block_at(pool, block_id);
    if (b->index_prev == QR_NO_BLOCK)
        *bucket_of(pool, b->key) = b->index_next;
    else
        pool->blocks[b->index_prev].index_next = b->index_next;
    if (b->index_next != QR_NO_BLOCK) pool->blocks[b->index_next].index_prev = b->index_prev;
    use->cached = false;
    pool->num_cached--;
}

int32_t qr_block_pool_lookup(const qr_block_pool *pool, int32_t parent_id, const int32_t *tokens, uint64_t extra_key)
{
    if (!pool->caching) return QR_NO_BLOCK;
    qr_content_key parent_key;
    uint64_t parent_content_id;
    parent_of(pool, parent_id, &parent_key, &parent_content_id);
    return find(pool, key_of(pool, parent_key, tokens, extra_key), parent_content_id, tokens, extra_key);
}

int32_t qr_block_pool_load(qr_block_pool *pool, int32_t parent_id, const int32_t *tokens, uint64_t extra_key)
{
    int32_t id;
    if (!pool->store || qr_block_pool_alloc(pool, 1, &id) != QUIRE_OK) return QR_NO_BLOCK;
    qr_block_content content = {.extra_key = extra_key, .tokens = tokens};
    uint64_t parent_content_id;
    parent_of(pool, parent_id, &content.parent_key, &parent_content_id);
    content.key = key_of(pool, content.parent_key, tokens, extra_key);
    if (!pool->store->load(pool->store->ctx, id, &content)) {
        qr_block_pool_free(pool, &id, 1);
        return QR_NO_BLOCK;
    }
    qr_block_pool_cache(pool, id, parent_id, tokens, extra_key);
    qr_block_pool_set_live(pool, id, pool->block_size);
    return id;
}

void qr_block_pool_keep_all(const qr_block_pool *pool)
{
    for (int32_t id = pool->newest; id != QR_NO_BLOCK; id = pool->blocks[id].free_prev) keep(pool, id);
}

void qr_block_pool_reset_cache(qr_block_pool *pool)
{
    for (int32_t id = 0; id < pool->num_blocks; id++)
        if (pool->uses[id].ref_cnt == 0) qr_block_pool_uncache(pool, id);
    if (pool->store) pool->store->forget(pool->store->ctx);
}

void qr_block_pool_mask_hashes(qr_block_pool *pool, uint64_t mask)
{
    assert(pool->num_cached == 0);
    pool->key_mask = mask;
}

/* ---- check ------------------------------------------------------------------------------------- */

static quire_status check_free_list(const qr_block_pool *pool, quire_error *error)
{
    int32_t count = 0, prev = QR_NO_BLOCK;
    bool seen_cached = false;
    for (int32_t id = pool->oldest; id != QR_NO_BLOCK; prev = id, id = pool->blocks[id].free_next) {
        const block_use *use = use_of(pool, id);
        if (++count > pool->num_blocks) return qr_fail(error, QUIRE_INVALID, "block pool: the free list is a circle");
        if (pool->blocks[id].free_prev != prev)
            return qr_fail(error, QUIRE_INVALID, "block %d: wrong back link in the free list", id);
        if (use->ref_cnt != 0)
            return qr_fail(error, QUIRE_INVALID, "block %d: free with %d references", id, use->ref_cnt);
        if (seen_cached && !use->cached)
            return qr_fail(error, QUIRE_INVALID, "block %d: free and empty, but behind cached ones", id);
        seen_cached = use->cached;
    }
    if (prev != pool->newest) return qr_fail(error, QUIRE_INVALID, "block pool: the free list ends at %d", prev);
    if (count != pool->num_free)
        return qr_fail(error, QUIRE_INVALID, "block pool: %d blocks in the free list, num_free is %d", count,
                       pool->num_free);
    return QUIRE_OK;
}

static quire_status check_index(const qr_block_pool *pool, quire_error *error)
{
    int32_t count = 0;
    for (uint64_t bucket = 0; pool->caching && bucket <= pool->index_mask; bucket++) {
        int32_t prev = QR_NO_BLOCK;
        for (int32_t id = pool->index[bucket]; id != QR_NO_BLOCK; prev = id, id = pool->blocks[id].index_next) {
            const block *b = block_at(pool, id);
            if (++count > pool->num_blocks) return qr_fail(error, QUIRE_INVALID, "block pool: the index is a circle");
            if (!use_of(pool, id)->cached || bucket_of(pool, b->key) != &pool->index[bucket] || b->index_prev != prev)
                return qr_fail(error, QUIRE_INVALID, "block %d: does not belong where the index has it", id);
            if (b->content_id < 1 || b->content_id > pool->last_content_id || b->parent_content_id >= b->content_id)
                return qr_fail(error, QUIRE_INVALID, "block %d: content id out of order", id);
        }
    }
    if (count != pool->num_cached)
        return qr_fail(error, QUIRE_INVALID, "block pool: %d blocks in the index, num_cached is %d", count,
                       pool->num_cached);
    return QUIRE_OK;
}

quire_status qr_block_pool_check(const qr_block_pool *pool, const int32_t *ref_cnts, quire_error *error)
{
    int32_t num_free = 0, num_cached = 0;
    int64_t num_live = 0, num_refs = 0;
    for (int32_t id = 0; id < pool->num_blocks; id++) {
        const block_use *use = use_of(pool, id);
        if (ref_cnts && use->ref_cnt != ref_cnts[id])
            return qr_fail(error, QUIRE_INVALID, "block %d: ref_cnt is %d, %d tables hold it", id, use->ref_cnt,
                           ref_cnts[id]);
        if (use->ref_cnt < 0 || use->num_live < 0 || use->num_live > pool->block_size)
            return qr_fail(error, QUIRE_INVALID, "block %d: ref_cnt %d, num_live %d", id, use->ref_cnt, use->num_live);
        num_free += use->ref_cnt == 0;
        num_cached += use->cached;
        num_refs += use->ref_cnt;
        if (use->ref_cnt > 0) num_live += use->num_live;
    }
    if (num_refs != pool->num_refs)
        return qr_fail(error, QUIRE_INVALID, "block pool: %lld references, counted %lld", (long long)pool->num_refs,
                       (long long)num_refs);
    if (num_free != pool->num_free || num_cached != pool->num_cached || num_live != pool->num_live_slots)
        return qr_fail(error, QUIRE_INVALID, "block pool: %d free, %d cached, %lld live; counted %d, %d, %lld",
                       pool->num_free, pool->num_cached, (long long)pool->num_live_slots, num_free, num_cached,
                       (long long)num_live);
    QR_TRY(check_free_list(pool, error));
    return check_index(pool, error);
}
