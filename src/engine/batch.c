#include "engine/batch.h"

#include <string.h>

#include "backend/prefixes.h"
#include "base/mem.h"

quire_status qr_batch_init(qr_batch_builder *b, int max_tokens, int max_seqs, int max_blocks, quire_error *error)
{
    size_t tokens = (size_t)max_tokens, seqs = (size_t)max_seqs, table = seqs * (size_t)max_blocks;
    memset(b, 0, sizeof *b);
    b->max_tokens = max_tokens;
    b->max_seqs = max_seqs;
    b->input_ids = qr_malloc(tokens * sizeof *b->input_ids);
    b->positions = qr_malloc(tokens * sizeof *b->positions);
    b->slot_mapping = qr_malloc(tokens * sizeof *b->slot_mapping);
    b->logits_indices = qr_malloc(tokens * sizeof *b->logits_indices);
    b->rows = qr_malloc(tokens * sizeof *b->rows);
    b->query_start_loc = qr_malloc((seqs + 1) * sizeof *b->query_start_loc);
    b->seq_lens = qr_malloc(seqs * sizeof *b->seq_lens);
    b->block_table = qr_malloc(table * sizeof *b->block_table);
    b->prefix_order = qr_malloc(seqs * sizeof *b->prefix_order);
    b->prefix_blocks = qr_malloc(seqs * sizeof *b->prefix_blocks);
    if (!b->input_ids || !b->positions || !b->slot_mapping || !b->logits_indices || !b->rows || !b->query_start_loc ||
        !b->seq_lens || !b->block_table || !b->prefix_order || !b->prefix_blocks) {
        qr_batch_deinit(b);
        return qr_fail_nomem(error, "the batch", tokens * 28 + seqs * 16 + table * 4);
    }
    b->batch = (qr_batch){.max_blocks = max_blocks,
                          .input_ids = b->input_ids,
                          .positions = b->positions,
                          .slot_mapping = b->slot_mapping,
                          .query_start_loc = b->query_start_loc,
                          .seq_lens = b->seq_lens,
                          .block_table = b->block_table,
                          .logits_indices = b->logits_indices,
                          .prefix_order = b->prefix_order,
                          .prefix_blocks = b->prefix_blocks};
    return QUIRE_OK;
}

void qr_batch_deinit(qr_batch_builder *b)
{
    qr_free(b->input_ids);
    qr_free(b->positions);
    qr_free(b->slot_mapping);
    qr_free(b->logits_indices);
    qr_free(b->rows);
    qr_free(b->query_start_loc);
    qr_free(b->seq_lens);
    qr_free(b->block_table);
    qr_free(b->prefix_order);
    qr_free(b->prefix_blocks);
    memset(b, 0, sizeof *b);
}

void qr_batch_begin(qr_batch_builder *b) { b->batch.num_tokens = b->batch.num_reqs = b->batch.num_samples = 0; }

int qr_batch_add(qr_batch_builder *b, const qr_seq *seq, int start, int end, const qr_block_pool *pool)
{
    const int block_size = qr_block_pool_block_size(pool), req = b->batch.num_reqs++;
    const int32_t *ids = seq->table.block_ids;
    int row = b->query_start_loc[req] = b->batch.num_tokens;
    for (int p = start; p < end; p++, row++) {
        b->input_ids[row] = qr_seq_token(seq, p);
        b->positions[row] = p;
        b->slot_mapping[row] = (int64_t)ids[p / block_size] * block_size + p % block_size;
    }
    memcpy(b->block_table + (size_t)req * (size_t)b->batch.max_blocks, ids,
           (size_t)((end + block_size - 1) / block_size) * sizeof *ids);
    b->seq_lens[req] = end;
    b->query_start_loc[req + 1] = row;
    return b->batch.num_tokens = row;
}

void qr_batch_add_row(qr_batch_builder *b, int flat_row, int entry_idx, int prompt_position)
{
    b->logits_indices[b->batch.num_samples] = flat_row;
    b->rows[b->batch.num_samples++] = (qr_logits_row){entry_idx, prompt_position};
}

void qr_batch_end(qr_batch_builder *b, const qr_block_pool *pool)
{
    qr_batch_find_prefixes(&b->batch, qr_block_pool_block_size(pool), b->num_sorted, b->prefix_order, b->prefix_blocks);
    b->num_sorted = b->batch.num_reqs;
}

void qr_batch_build(qr_batch_builder *b, const qr_sched_step *step, const qr_block_pool *pool,
                    bool (*wants_prompt_logprobs)(const qr_request *request))
{
    qr_batch_begin(b);
    for (int e = 0; e < step->num_entries; e++) {
        const qr_sched_entry *entry = &step->entries[e];
        const int num_prompt = entry->request->num_prompt_tokens, start = entry->start,
                  end = start + entry->num_new_tokens;
        const int row = qr_batch_add(b, entry->seq, start, end, pool);
        const bool prompt_rows = start < num_prompt - 1 && wants_prompt_logprobs(entry->request);
        for (int p = start; prompt_rows && p < end && p + 1 < num_prompt; p++)
            qr_batch_add_row(b, row - end + p, e, p + 1);
        for (int d = entry->num_draft_tokens; entry->samples && d >= 0; d--) qr_batch_add_row(b, row - 1 - d, e, -1);
    }
    qr_batch_end(b, pool);
}
