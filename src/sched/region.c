/* region: contiguous memory for the sequences of admitted groups, under policies that reserve it. */
#include <assert.h>

#include "sched/scheduler_internal.h"

int32_t qr_sched_region_blocks(const qr_sched *sched, int32_t num_prompt, int32_t num_output)
{
    const int32_t block_size = sched->options.block_size;
    const int32_t slots = sched->policy->region_slots(&sched->options, num_prompt, num_output);
    return slots / block_size + (slots % block_size != 0);
}

int32_t qr_request_final_slots(const qr_request *request)
{
    return request->num_prompt_tokens + request->expected_output_tokens - 1;
}

static void give_back(qr_sched *sched, qr_seq *seq)
{
    const int32_t num_blocks = seq->table.num_region_blocks;
    qr_buddy_free(sched->buddy, seq->table.first_block, num_blocks);
    sched->num_region_slots -= (int64_t)num_blocks * sched->options.block_size;
}

/* The sequence is without a region. */
static void forget_region(qr_sched *sched, qr_seq *seq)
{
    qr_block_table_set_region(&seq->table, QR_NO_BLOCK, 0);
    sched->num_final_slots -= qr_request_final_slots(seq->request);
}

bool qr_sched_take_regions(qr_sched *sched, const qr_request *request)
{
    const int32_t num_blocks =
        qr_sched_region_blocks(sched, request->num_prompt_tokens, request->expected_output_tokens);
    for (int i = 0; i < request->n; i++) {
        qr_seq *seq = &request->seqs[i];
        if (qr_request_status_finished(seq->status)) continue;
        int32_t first;
        sched->lacks_region = qr_buddy_alloc(sched->buddy, num_blocks, &first) != QUIRE_OK;
        if (sched->lacks_region) {
            while (i-- > 0) {
                if (request->seqs[i].table.num_region_blocks == 0) continue;
                give_back(sched, &request->seqs[i]);
                forget_region(sched, &request->seqs[i]);
            }
            return false;
        }
        qr_block_table_set_region(&seq->table, first, num_blocks);
        sched->num_region_slots += (int64_t)num_blocks * sched->options.block_size;
        sched->num_final_slots += qr_request_final_slots(request);
    }
    return true;
}

void qr_sched_release_region(qr_sched *sched, qr_seq *seq)
{
    if (seq->table.num_region_blocks == 0) return;
    if (!sched->policy->holds_regions) {
        give_back(sched, seq);
    } else if (sched->num_running == 0) {
        qr_buddy_reset(sched->buddy);
        sched->num_region_slots = 0;
    }
    forget_region(sched, seq);
}

void qr_sched_fork_table(qr_sched *sched, const qr_seq *parent, qr_seq *child)
{
    if (!sched->buddy) {
        qr_block_table_fork(&parent->table, &child->table, sched->pool);
        return;
    }
    assert(sched->num_fork_copies + parent->table.num_blocks <= 2 * qr_block_pool_num_blocks(sched->pool));
    qr_block_table_copy(&parent->table, &child->table, sched->pool, &sched->fork_copies[sched->num_fork_copies]);
    sched->num_fork_copies += parent->table.num_blocks;
}
