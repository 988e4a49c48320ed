/* batch: one scheduled step as the flat arrays of backend.h, and the list of rows whose logits are needed.
 *
 *   entries of the step  ─► input_ids, positions, slot_mapping, query_start_loc, seq_lens, block_table
 *                        ├► prefix_order, prefix_blocks: who begins with the same blocks
 *                        └► rows: (flat row, entry, what for): sampling, or the log probability of a prompt token
 *
 * An entry with draft tokens has rows to sample for its last token and for each draft, in order.
 *
 * All arrays are reserved at create for the largest step. Threads: engine thread. */
#ifndef QR_ENGINE_BATCH_H
#define QR_ENGINE_BATCH_H

#include "backend/backend.h"
#include "sched/scheduler.h"

/* A row of the batch whose logits are needed. */
typedef struct qr_logits_row {
    int entry_idx;
    int prompt_position; /* >= 0: log probability of the prompt's token at this position; -1: sample */
} qr_logits_row;

typedef struct qr_batch_builder {
    qr_batch batch;
    int32_t *input_ids, *positions, *query_start_loc, *seq_lens, *block_table, *logits_indices;
    int32_t *prefix_order, *prefix_blocks;
    int num_sorted; /* requests of the batch before, which prefix_order and prefix_blocks are of */
    int64_t *slot_mapping;
    qr_logits_row *rows; /* [num_samples] beside batch.logits_indices */
    int max_tokens, max_seqs;
} qr_batch_builder;

QUIRE_MUST_USE quire_status qr_batch_init(qr_batch_builder *b, int max_tokens, int max_seqs, int max_blocks,
                                          quire_error *error);
void qr_batch_deinit(qr_batch_builder *b);

/* Piece by piece: begin, then sequences and rows, then end. add: positions start .. end - 1 of the sequence, drafts
 * behind its outputs included; returns the flat row after the last. */
void qr_batch_begin(qr_batch_builder *b);
int qr_batch_add(qr_batch_builder *b, const qr_seq *seq, int start, int end, const qr_block_pool *pool);
void qr_batch_add_row(qr_batch_builder *b, int flat_row, int entry_idx, int prompt_position);
void qr_batch_end(qr_batch_builder *b, const qr_block_pool *pool);

/* Fill b->batch and b->rows from a step. wants_prompt_logprobs(request) says whether prompt rows are needed. */
void qr_batch_build(qr_batch_builder *b, const qr_sched_step *step, const qr_block_pool *pool,
                    bool (*wants_prompt_logprobs)(const qr_request *request));

#endif
