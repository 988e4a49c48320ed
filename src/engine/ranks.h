/* ranks: one engine over the processes of a tensor-parallel group.
 *
 *   rank 0    HTTP, scheduler, sampler ... ── qr_ranks_step() ──┐ command, block moves, batch
 *                                              forward, logits  │     ▲ two sums per layer, logits
 *   rank 1..  qr_ranks_serve(): wait for a command ◄────────────┘     ▼
 *                                              the same block moves, forward, logits on its own KV heads
 *
 * Block ids are the same on all ranks: a block is its part on every one of them, and so is a slot of the swap space. A
 * block on its way to or from a file is all parts in the order of the ranks.
 *
 * A function without a group (ranks NULL) does the one rank's work.
 * Allocation: in create and open. Threads: holder of the model's lock. */
#ifndef QR_ENGINE_RANKS_H
#define QR_ENGINE_RANKS_H

#include "base/comm.h"
#include "kv/block_table.h"
#include "model/model.h"

typedef struct qr_ranks qr_ranks;

enum { QR_MAX_SWAP_PATH = 4096 };

/* What an engine needs of every rank. */
typedef struct qr_ranks_config {
    qr_kv_config kv; /* num_kv_heads is each rank's own */
    int max_tokens, max_seqs, max_context, logits_rows;
    int64_t num_swap_blocks;          /* 0: no swap space */
    char swap_path[QR_MAX_SWAP_PATH]; /* "": memory */
} qr_ranks_config;

/* What comes before a step's tokens, in this order. */
typedef struct qr_block_moves {
    const qr_block_copy *swap_outs, *swap_ins, *copies;
    int num_swap_outs, num_swap_ins, num_copies;
} qr_block_moves;

QUIRE_MUST_USE quire_status qr_ranks_create(qr_comm *comm, qr_backend *be, qr_model *model, qr_ranks **out,
                                            quire_error *error);
/* Rank 0: the others' qr_ranks_serve() returns. */
void qr_ranks_end(qr_ranks *ranks);
void qr_ranks_destroy(qr_ranks *ranks); /* the comm stays; NULL is fine */

/* Ranks 1 and above: do what rank 0 says until it ends. */
void qr_ranks_serve(qr_ranks *ranks);

/* ---- rank 0 */

/* KV cache, workspace and swap space on the other ranks; one engine at a time.
 *   returns  OK, or the first failure of a rank, nothing kept */
QUIRE_MUST_USE quire_status qr_ranks_open(qr_ranks *ranks, const qr_ranks_config *config, quire_error *error);
void qr_ranks_close(qr_ranks *ranks); /* not opened: does nothing */

/* The others begin this step: rank 0 must make the moves, qr_model_forward() and qr_model_logits(), in pieces of
 * logits_rows of the batch's logits_indices, too. */
void qr_ranks_step(qr_ranks *ranks, const qr_block_moves *moves, const qr_batch *batch);

/* Bytes of a block on all ranks together. */
size_t qr_ranks_block_bytes(const qr_ranks *ranks, qr_backend *be, const qr_kv_config *config);
/* One block on all ranks, so many bytes, out of or into the pool. */
void qr_ranks_read_block(qr_ranks *ranks, qr_backend *be, qr_kv_cache *cache, int32_t block_id, void *dst);
void qr_ranks_write_block(qr_ranks *ranks, qr_backend *be, qr_kv_cache *cache, int32_t block_id, const void *src);

#endif
