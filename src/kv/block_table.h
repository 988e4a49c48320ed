/* block_table: where one sequence's K and V lie: logical block i ─► physical block block_ids[i].
 *
 *   tokens       |0 . . . 15|16 . . . 31|32 . . 37 .|       num_tokens = 38 slots in use
 *   block_ids    |    7     |    2      |    9      |       num_blocks = 3 = ceil(38 / 16)
 *                 full        full       partly filled      num_full_blocks = 2
 *
 * fork copies the ids and takes a reference on each block: no K or V moves. Blocks are written by their only holder:
 * append() into a partly filled block that others hold too replaces it by a new block in this table alone and emits a
 * copy (src ─► dst) that must be carried out before anything of the step is written; the last holder writes in place.
 *
 * A table with a region (a contiguous allocation, kv/buddy.h) takes block i from the region's place i, and shares none:
 *
 *   region       first_block = 40, num_region_blocks = 6       block_ids | 40 | 41 | 42 |   43, 44, 45 are reserved
 *
 * Invariants: num_blocks == ceil(num_tokens / block_size); the table holds one reference on each of its blocks; with
 * caching on, the leading num_full_blocks of a table are cached, the others are not (after a trim, the next may be).
 * The ids array is the caller's and is never reallocated. Allocation: none. Threads: one at a time, as the pool.
 * Source: Kwon et al., SOSP 2023, sections 4.3 and 4.4; vLLM v0 block manager (fork), v1 kv_cache_manager. */
#ifndef QR_KV_BLOCK_TABLE_H
#define QR_KV_BLOCK_TABLE_H

#include "kv/block_pool.h"

typedef struct qr_block_table {
    int32_t *block_ids; /* [max_blocks] */
    int32_t num_blocks, max_blocks;
    int32_t num_tokens;                     /* tokens that have a slot */
    int32_t num_full_blocks;                /* leading blocks whose slots have all been committed */
    int32_t first_block, num_region_blocks; /* the region; 0 blocks: none, any free block will do */
} qr_block_table;

/* One block to copy, all layers. The layout of backend.h's qr_copy_pair. */
typedef struct qr_block_copy {
    int32_t src_block, dst_block;
} qr_block_copy;

/* A sequence's tokens in two pieces (prompt, output), read as one. */
typedef struct qr_token_view {
    const int32_t *head, *tail;
    int32_t num_head, num_tail;
} qr_token_view;

/* An empty table over the caller's array. */
void qr_block_table_init(qr_block_table *table, int32_t *block_ids, int32_t max_blocks);

/* The empty table takes its blocks from this region, all of which are free; 0 blocks: from anywhere again. */
void qr_block_table_set_region(qr_block_table *table, int32_t first_block, int32_t num_blocks);

/* The physical slot of the token at `position` < num_tokens: block_id * block_size + offset. */
int64_t qr_block_table_slot(const qr_block_table *table, const qr_block_pool *pool, int32_t position);

/* Free blocks that append(num_tokens) would take, a copy-on-write included; INT32_MAX when the region is too small. */
int32_t qr_block_table_blocks_needed(const qr_block_table *table, const qr_block_pool *pool, int32_t num_tokens);

/* Make slots for num_tokens >= 1 more tokens, which must fit into max_blocks.
 *   copy      written when *out_copied is true: to be carried out before the new slots are written
 *   returns   OK | NO_BLOCKS, also when the table's region is too small (table and pool unchanged, *out_copied false)
 */
QUIRE_MUST_USE quire_status qr_block_table_append(qr_block_table *table, qr_block_pool *pool, int32_t num_tokens,
                                                  qr_block_copy *copy, bool *out_copied);

/* Take back the last append before anything of it was computed: the table has its first num_tokens tokens again.
 *   copy   what that append emitted, not to be carried out now; NULL if it emitted none */
void qr_block_table_undo_append(qr_block_table *table, qr_block_pool *pool, int32_t num_tokens,
                                const qr_block_copy *copy);

/* The slots up to num_computed <= num_tokens now hold K and V of `tokens`: count them as live and make full blocks
 * findable. `tokens` covers at least num_computed tokens. */
void qr_block_table_commit(qr_block_table *table, qr_block_pool *pool, qr_token_view tokens, int32_t num_computed,
                           uint64_t extra_key);

/* dst, which must be empty, becomes a copy of src. O(blocks). */
void qr_block_table_fork(const qr_block_table *src, qr_block_table *dst, qr_block_pool *pool);

/* The same for tables with regions: dst gets blocks of its own for all tokens of src, which have been computed.
 *   copies    [src->num_blocks] to be carried out before src or dst is written */
void qr_block_table_copy(const qr_block_table *src, qr_block_table *dst, qr_block_pool *pool, qr_block_copy *copies);

/* Drop the tokens after the first num_tokens <= table->num_tokens (rejected drafts), freeing blocks left empty. A
 * partly dropped block stays findable until it is written again. */
void qr_block_table_trim(qr_block_table *table, qr_block_pool *pool, int32_t num_tokens);

/* Free all blocks, the last first; the table is empty then, and has its region still. */
void qr_block_table_clear(qr_block_table *table, qr_block_pool *pool);

/* Fill the empty table with the longest cached prefix of tokens[0 .. max_tokens) in whole blocks, taking references.
 *   returns   tokens found: a multiple of block_size, <= max_tokens */
int32_t qr_block_table_adopt_prefix(qr_block_table *table, qr_block_pool *pool, qr_token_view tokens,
                                    int32_t max_tokens, uint64_t extra_key);
/* Go on where adopt_prefix ended, with at most max_loads blocks out of the pool's store; every block takes a free one.
 *   returns   blocks loaded */
int32_t qr_block_table_load_prefix(qr_block_table *table, qr_block_pool *pool, qr_token_view tokens, int32_t max_tokens,
                                   uint64_t extra_key, int32_t max_loads);

#endif
