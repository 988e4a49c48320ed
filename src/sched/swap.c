/* swap: a preempted group moves to swap space as it is, and comes back.
 *
 *   seqs[0] table   | 7 | 2 | 9 |        swap_outs 7 -> 0, 2 -> 1, 9 -> 2, 4 -> 3       seqs[0]  | 0 | 1 | 2 |
 *   seqs[1] table   | 7 | 2 | 4 |        each block once, however many tables hold it   seqs[1]  | 0 | 1 | 3 |
 *
 * In swap space a block has one reference for each table of the group that holds it; groups share nothing there. */
#include <assert.h>

#include "sched/scheduler_internal.h"

void qr_sched_set_costs(qr_sched *sched, double compute_us_per_token, double swap_us_per_block)
{
    sched->compute_us_per_token = compute_us_per_token;
    sched->swap_us_per_block = swap_us_per_block;
}

static int32_t *swap_table(const qr_request *request, const qr_seq *seq)
{
    return request->swap_block_ids + (size_t)seq->idx * (size_t)request->max_swap_blocks;
}

static int32_t num_table_blocks(const qr_sched *sched, const qr_seq *seq)
{
    return (seq->num_computed_tokens + sched->options.block_size - 1) / sched->options.block_size;
}

static bool swap_pays(const qr_sched *sched)
{
    if (sched->options.preemption_mode != QR_PREEMPT_AUTO) return true;
    return 2 * sched->swap_us_per_block < sched->options.block_size * sched->compute_us_per_token;
}

/* Distinct blocks that the group holds. */
static int32_t count_blocks(qr_sched *sched, const qr_request *request)
{
    int32_t count = 0;
    for (int i = 0; i < request->n; i++) {
        const qr_block_table *table = &request->seqs[i].table;
        for (int32_t b = 0; b < table->num_blocks; b++) {
            count += sched->moved_to[table->block_ids[b]] == QR_NO_BLOCK;
            sched->moved_to[table->block_ids[b]] = 0;
        }
    }
    for (int i = 0; i < request->n; i++) {
        const qr_block_table *table = &request->seqs[i].table;
        for (int32_t b = 0; b < table->num_blocks; b++) sched->moved_to[table->block_ids[b]] = QR_NO_BLOCK;
    }
    return count;
}

/* The block of `pool` that takes the content of `from`: a new one, noted in `moves`, or the one that has it already,
 * with one more reference. */
static int32_t move_block(qr_sched *sched, qr_block_pool *pool, int32_t from, qr_block_copy *moves, int *num_moves)
{
    int32_t *to = &sched->moved_to[from];
    if (*to != QR_NO_BLOCK) {
        qr_block_pool_touch(pool, to, 1);
        return *to;
    }
    const quire_status status = qr_block_pool_alloc(pool, 1, to);
    assert(status == QUIRE_OK);
    (void)status;
    moves[(*num_moves)++] = (qr_block_copy){.src_block = from, .dst_block = *to};
    return *to;
}

static void forget_moves(qr_sched *sched, const qr_block_copy *moves, int first, int num_moves)
{
    for (int i = first; i < num_moves; i++) sched->moved_to[moves[i].src_block] = QR_NO_BLOCK;
}

bool qr_sched_swap_out(qr_sched *sched, qr_request *request)
{
    if (!sched->swap_pool || !swap_pays(sched)) return false;
    const int32_t num_blocks = count_blocks(sched, request);
    if (num_blocks == 0 || num_blocks > qr_block_pool_num_free(sched->swap_pool)) return false;
    const int first = sched->num_swap_outs;
    for (int i = 0; i < request->n; i++) {
        const qr_seq *seq = &request->seqs[i];
        if (!qr_seq_is_live(seq)) continue;
        assert(seq->table.num_blocks == num_table_blocks(sched, seq));
        for (int32_t b = 0; b < seq->table.num_blocks; b++)
            swap_table(request, seq)[b] =
                move_block(sched, sched->swap_pool, seq->table.block_ids[b], sched->swap_outs, &sched->num_swap_outs);
    }
    forget_moves(sched, sched->swap_outs, first, sched->num_swap_outs);
    request->num_swapped_blocks = num_blocks;
    sched->num_swapped_groups++;
    return true;
}

void qr_sched_swap_in(qr_sched *sched, qr_request *request)
{
    const int first = sched->num_swap_ins;
    for (int i = 0; i < request->n; i++) {
        qr_seq *seq = &request->seqs[i];
        if (!qr_seq_is_live(seq)) continue;
        qr_block_table *table = &seq->table;
        table->num_blocks = num_table_blocks(sched, seq);
        table->num_tokens = seq->num_computed_tokens;
        for (int32_t b = 0; b < table->num_blocks; b++)
            table->block_ids[b] =
                move_block(sched, sched->pool, swap_table(request, seq)[b], sched->swap_ins, &sched->num_swap_ins);
        qr_block_table_commit(table, sched->pool, qr_seq_tokens(seq), seq->num_computed_tokens, request->extra_key);
    }
    forget_moves(sched, sched->swap_ins, first, sched->num_swap_ins);
    qr_sched_free_swapped(sched, request);
}

void qr_sched_free_swapped(qr_sched *sched, qr_request *request)
{
    if (request->num_swapped_blocks == 0) return;
    for (int i = 0; i < request->n; i++) {
        const qr_seq *seq = &request->seqs[i];
        if (qr_seq_is_live(seq))
            qr_block_pool_free(sched->swap_pool, swap_table(request, seq), num_table_blocks(sched, seq));
    }
    request->num_swapped_blocks = 0;
}
