/* block_store: a second, larger and slower place for full blocks, that the pool fills and reads.
 *
 *   pool   cached block is taken for something else ──keep──► store      engine/prefix_store.h: a file
 *          free block ◄──load── a sequence's next block is not in the pool, but there
 *
 * What a block holds is named by a key: 128 bits over all tokens from the sequence's start to the block's end and the
 * extra key, drawn with the store's secret, so that nobody outside can choose tokens that collide. As in the pool, a
 * hit is verified: the store compares the tokens, the extra key and the parent's key.
 *
 * When a block may be read or written (the store does both at once, in the middle of schedule()):
 *   keep    is called while the block is still cached. All that earlier steps wrote is done and nothing of the step
 *           that is being scheduled has been carried out, so the block holds what it is cached for. The one exception
 *           would be a block that this step's swap_ins are to fill; such a block is held by its group until the step's
 *           end, as groups come back only in steps without preemptions.
 *   load    writes into a block that was free when it was taken. Groups are admitted only in steps without
 *           preemptions, so no block becomes free in such a step that the step's swap_outs or copies still read.
 * Threads: the pool's. Source: vLLM v1, KV connectors (a second tier behind the prefix cache). */
#ifndef QR_KV_BLOCK_STORE_H
#define QR_KV_BLOCK_STORE_H

#include <stdbool.h>
#include <stdint.h>

enum { QR_STORE_SECRET_BYTES = 192 };

typedef struct qr_content_key {
    uint64_t low, high;
} qr_content_key;

/* What a full block holds. */
typedef struct qr_block_content {
    qr_content_key key, parent_key; /* parent_key 0, 0: the first block of a sequence */
    uint64_t extra_key;
    const int32_t *tokens; /* [block_size] valid during the call */
} qr_block_content;

typedef struct qr_block_store {
    void *ctx;
    uint8_t secret[QR_STORE_SECRET_BYTES]; /* of the keys */
    int32_t max_loads_per_step; /* blocks; more in one step would keep running sequences waiting. At least 1 */
    /* Copy a cached block's bytes; may decline. */
    void (*keep)(void *ctx, int32_t block_id, const qr_block_content *content);
    /* Fill the block: true. False: not there (or no longer whole), the block's bytes are anything. */
    bool (*load)(void *ctx, int32_t block_id, const qr_block_content *content);
    void (*forget)(void *ctx); /* all of it */
} qr_block_store;

#endif
