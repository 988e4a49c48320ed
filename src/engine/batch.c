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

static void add_row(qr_batch_builder *b, int flat_row, int entry_idx, int prompt_position)
{
    b->logits_indices[b->batch.num_samples] = flat_row;
    b->rows[b->batch.num_samples++] = (qr_logits_row){entry_idx, prompt_position};
}

void qr_batch_build(qr_batch_builder *b, const qr_sched_step *step, const qr_block_pool *pool,
                    bool (*wants_prompt_logprobs)(const qr_request *request))
{
    const int block_size = qr_block_pool_block_size(pool);
    int row = 0;
    b->batch.num_samples = 0;
    b->query_start_loc[0] = 0;
    for (int e = 0; e < step->num_entries; e++) {
        const qr_sched_entry *entry = &step->entries[e];
        const qr_seq *seq = entry->seq;
        const int32_t *ids = seq->table.block_ids;
        int end = entry->start + entry->num_new_tokens;
        bool prompt_rows =
            entry->start < entry->request->num_prompt_tokens - 1 && wants_prompt_logprobs(entry->request);
        for (int p = entry->start; p < end; p++, row++) {
            b->input_ids[row] = qr_seq_token(seq, p);
            b->positions[row] = p;
            b->slot_mapping[row] = (int64_t)ids[p / block_size] * block_size + p % block_size;
            if (prompt_rows && p + 1 < entry->request->num_prompt_tokens) add_row(b, row, e, p + 1);
        }
        for (int d = entry->num_draft_tokens; entry->samples && d >= 0; d--) add_row(b, row - 1 - d, e, -1);
        memcpy(b->block_table + (size_t)e * (size_t)b->batch.max_blocks, ids,
               (size_t)((end + block_size - 1) / block_size) * sizeof *ids);
        b->seq_lens[e] = end;
        b->query_start_loc[e + 1] = row;
    }
    b->batch.num_tokens = row;
    b->batch.num_reqs = step->num_entries;
    qr_batch_find_prefixes(&b->batch, block_size, b->prefix_order, b->prefix_blocks);
}
