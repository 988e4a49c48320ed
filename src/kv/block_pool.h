/* block_pool: the fixed set of KV blocks: reference counts, LRU free list, index of full blocks by content.
 *
 *   blocks      [0] [1] [2] ... [num_blocks-1]   each: ref_cnt, links, and if cached: hash, content id, tokens
 *   free list   oldest ─► ... ─► newest          blocks with ref_cnt 0; alloc takes the oldest
 *   index       hash ─► block ─► block           cached blocks (full, all slots computed), free or in use
 *
 * A block becomes findable (cached) when its last slot is computed and stays so until it is taken for something else,
 * also after its last holder let go. Blocks that hold nothing worth finding are freed to the old end, cached ones to
 * the new end, the last of the given ids first: a sequence's tail is evicted before its head.
 *
 * The key of a block is XXH3-128 over its parent's key, the extra key and its tokens. A hit is not believed but
 * verified: the tokens, the extra key and the parent must be equal. The parent is compared by content id, a number
 * that two blocks share only if all tokens from the sequence's start to their end are the same and that is never
 * reused, so a collision is a miss, never wrong text.
 *
 * With a store (block_store.h) a cached block that is taken for something else is kept there, and load() brings it
 * back.
 *
 * Invariants (qr_block_pool_check recounts them): a block is on the free list exactly if its ref_cnt is 0; it is in
 * the index exactly if it is cached; num_free, num_refs and num_live_slots are the sums over the blocks.
 * Allocation: all in create. Threads: one at a time (the engine thread).
 * Source: Kwon et al., SOSP 2023, section 4; vLLM v1, core/block_pool.py (free queue order, caching of free blocks). */
#ifndef QR_KV_BLOCK_POOL_H
#define QR_KV_BLOCK_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/block_store.h"

enum { QR_NO_BLOCK = -1, QR_MAX_BLOCK_SIZE = 1024 };

typedef struct qr_block_pool qr_block_pool;

/* num_blocks 1 .. 2^31 - 1; block_size (tokens per block) 1 .. QR_MAX_BLOCK_SIZE.
 * enable_caching false: nothing is ever cached or found.
 *   returns   OK | INVALID | NOMEM */
QUIRE_MUST_USE quire_status qr_block_pool_create(int64_t num_blocks, int block_size, bool enable_caching,
                                                 qr_block_pool **out, quire_error *error);
void qr_block_pool_destroy(qr_block_pool *pool); /* NULL is fine */
/* Keep evicted blocks in the store, which must outlive the pool. Before anything is cached; needs caching. */
void qr_block_pool_set_store(qr_block_pool *pool, const qr_block_store *store);

int qr_block_pool_block_size(const qr_block_pool *pool);
bool qr_block_pool_caching(const qr_block_pool *pool);
int32_t qr_block_pool_num_blocks(const qr_block_pool *pool);
int32_t qr_block_pool_num_free(const qr_block_pool *pool);   /* cached blocks that nobody holds included */
int64_t qr_block_pool_num_refs(const qr_block_pool *pool);   /* sum of ref_cnt over the blocks */
int32_t qr_block_pool_num_cached(const qr_block_pool *pool); /* findable blocks, free or in use */
int32_t qr_block_pool_ref_cnt(const qr_block_pool *pool, int32_t block_id);
bool qr_block_pool_is_cached(const qr_block_pool *pool, int32_t block_id);
/* Of a cached block: a number that two blocks share only if all tokens up to their end are the same; else 0. */
uint64_t qr_block_pool_content_id(const qr_block_pool *pool, int32_t block_id);
int qr_block_pool_num_live(const qr_block_pool *pool, int32_t block_id); /* as set_live said; 0 after alloc */
/* Sum of num_live (see set_live) over the blocks in use. */
int64_t qr_block_pool_num_live_slots(const qr_block_pool *pool);

/* Take num_blocks free blocks, oldest first; cached ones are evicted (no longer findable).
 *   out_ids   [num_blocks], written only on OK
 *   returns   OK | NO_BLOCKS (pool unchanged)
 *   owns      the caller holds one reference per id until qr_block_pool_free
 *   cost      O(num_blocks), no allocation */
QUIRE_MUST_USE quire_status qr_block_pool_alloc(qr_block_pool *pool, int32_t num_blocks, int32_t *out_ids);

/* Take the num_blocks adjacent blocks from `first` on, which are free: part of a contiguous region (kv/buddy.h). Ids
 * and reference as with alloc. */
void qr_block_pool_take(qr_block_pool *pool, int32_t first, int32_t num_blocks, int32_t *out_ids);

/* Give back one reference per id, the last id first. Cached blocks stay findable. O(num_blocks). */
void qr_block_pool_free(qr_block_pool *pool, const int32_t *ids, int32_t num_blocks);

/* Take one more reference per id: blocks in use (a fork), or found by lookup (then they leave the free list). */
void qr_block_pool_touch(qr_block_pool *pool, const int32_t *ids, int32_t num_blocks);

/* A block's references and live slots will be read soon: fetch them into the cache. */
void qr_block_pool_prefetch(const qr_block_pool *pool, int32_t block_id);

/* Say how many leading slots of a block in use hold computed tokens, 0 .. block_size. Kept for num_live_slots. */
void qr_block_pool_set_live(qr_block_pool *pool, int32_t block_id, int num_live);

/* Make a full block in use findable. No effect when caching is off or the block is cached already.
 *   parent_id   the block before it in the sequence, which must be cached; QR_NO_BLOCK for the first
 *   tokens      [block_size] the tokens whose K and V the block holds; copied
 *   extra_key   whatever else changes K and V (adapter, cache salt); the same for all blocks of a sequence */
void qr_block_pool_cache(qr_block_pool *pool, int32_t block_id, int32_t parent_id, const int32_t *tokens,
                         uint64_t extra_key);
/* The opposite, before a slot of a cached block is written again. No effect on a block that is not cached. */
void qr_block_pool_uncache(qr_block_pool *pool, int32_t block_id);

/* Find a cached block by content: block_id, or QR_NO_BLOCK. Takes no reference: touch before the next alloc.
 *   parent_id   as found for the block before it, QR_NO_BLOCK for the first */
int32_t qr_block_pool_lookup(const qr_block_pool *pool, int32_t parent_id, const int32_t *tokens, uint64_t extra_key);

/* Bring a block back from the store, into the oldest free block: its id, cached and with one reference, or QR_NO_BLOCK
 * when it is not there or no block is free.
 *   parent_id   as for lookup, which found nothing */
int32_t qr_block_pool_load(qr_block_pool *pool, int32_t parent_id, const int32_t *tokens, uint64_t extra_key);
/* Give the store all cached blocks that nobody holds, the newest first (the end of the pool's life). */
void qr_block_pool_keep_all(const qr_block_pool *pool);

/* Forget the cached blocks that nobody holds, and all that is in the store. */
void qr_block_pool_reset_cache(qr_block_pool *pool);

/* For tests: keep only the mask's bits of every key in the index, so that different contents collide. Before anything
 * is cached. */
void qr_block_pool_mask_hashes(qr_block_pool *pool, uint64_t mask);

/* Recount everything: links, lists, index, counters.
 *   ref_cnts   [num_blocks] the references that the caller's tables hold, to compare; or NULL
 *   returns    OK | INVALID with what is wrong in error */
QUIRE_MUST_USE quire_status qr_block_pool_check(const qr_block_pool *pool, const int32_t *ref_cnts, quire_error *error);

#endif
