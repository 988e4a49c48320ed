/* buddy: contiguous regions of blocks, power-of-two sizes (the baselines' allocator; paging has no use for it).
 *
 *   15 blocks    |0 . . . . . . .|8 . . .|12 .|14|    at start: the largest aligned chunks that cover the pool
 *   alloc(2)     |0 . . . . . . .|8 . . .|####|14|    the smallest free chunk that is large enough
 *   alloc(1)     |0 . . . . . . .|8 . . .|####|##|
 *   alloc(3)     |0 . . . . . . .|#### ==|####|##|    3 blocks asked for, 4 taken: == is lost
 *
 * A chunk of size 2^k starts at a multiple of 2^k; its buddy is the chunk at start ^ 2^k. A freed chunk merges with its
 * buddy as long as that is free and whole, so when nothing is allocated the cover of the start is back. Because every
 * chunk is aligned, an empty pool of any size holds exactly floor(num_blocks / 2^k) regions of 2^k blocks.
 *
 * Invariants (qr_buddy_check recounts them): free chunks and regions are disjoint and cover the pool; no two free
 * chunks are buddies; num_free is the sum over the free chunks.
 * Allocation: all in create. Threads: one at a time (the engine thread).
 * Source: Knuth, The Art of Computer Programming, volume 1, section 2.5; Kwon et al., SOSP 2023, section 6.1. */
#ifndef QR_KV_BUDDY_H
#define QR_KV_BUDDY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct qr_buddy qr_buddy;

/* num_blocks >= 1.  OK | NOMEM */
QUIRE_MUST_USE quire_status qr_buddy_create(int32_t num_blocks, qr_buddy **out, quire_error *error);
void qr_buddy_destroy(qr_buddy *buddy); /* NULL is fine */

/* What a region of num_blocks >= 1 takes: the next power of two. */
int64_t qr_buddy_region_blocks(int32_t num_blocks);

/* Take a region of at least num_blocks >= 1 adjacent blocks.
 *   out_first   its first block, written only on OK
 *   returns     OK | NO_BLOCKS (unchanged): no free chunk is large enough
 *   cost        O(log of the pool's size), no allocation */
QUIRE_MUST_USE quire_status qr_buddy_alloc(qr_buddy *buddy, int32_t num_blocks, int32_t *out_first);

/* Give back a region, with the num_blocks that it was taken for. O(log of the pool's size). */
void qr_buddy_free(qr_buddy *buddy, int32_t first, int32_t num_blocks);

/* Give back all regions. O(num_blocks). */
void qr_buddy_reset(qr_buddy *buddy);

int32_t qr_buddy_num_free(const qr_buddy *buddy); /* blocks in no region */

/* Recount everything: OK | INVALID with what is wrong in error.
 *   in_region   [num_blocks] whether the block belongs to a region that the caller holds, to compare; or NULL */
QUIRE_MUST_USE quire_status qr_buddy_check(const qr_buddy *buddy, const bool *in_region, quire_error *error);

#endif
