/* scheduler_internal: the scheduler's state, shared by scheduler.c (requests, life), step.c (a step), policy_*.c (which
 * requests a step gets), region.c (contiguous memory), swap.c (groups to swap space and back), memory.c (how memory is
 * used) and check.c. */
#ifndef QR_SCHED_SCHEDULER_INTERNAL_H
#define QR_SCHED_SCHEDULER_INTERNAL_H

#include "kv/buddy.h"
#include "sched/policy.h"
#include "sched/scheduler.h"
#include "sched/waiting_queue.h"

struct qr_sched {
    qr_sched_options options;
    const qr_policy *policy;
    qr_block_pool *pool;

    qr_request *requests; /* all that are not removed, linked by prev and next */
    int32_t num_requests;
    uint64_t last_arrival;
    int64_t num_computed;     /* tokens of all steps so far: the clock of fair */
    qr_waiting_queue waiting; /* room for num_requests */

    qr_request **running; /* [max_num_seqs] in order; admitted and not finished */
    int num_running, num_running_seqs;

    int32_t *row_blocks;        /* [max_num_seqs, max_blocks_per_seq] the block ids of row r's table */
    int32_t max_blocks_per_seq; /* ceil(max_model_len / block_size) */
    int *free_rows;             /* [max_num_seqs] a stack */
    int num_free_rows;

    bool in_step;            /* between schedule and commit_step */
    qr_sched_entry *entries; /* [max_num_seqs] as are the next two */
    qr_block_copy *copies;
    qr_request **preempted;
    int num_entries, num_copies, num_preempted;
    int32_t num_tokens;
    int32_t num_loads; /* blocks out of the store in this step */

    qr_block_pool *swap_pool;            /* blocks of swap space, never cached; NULL without */
    qr_block_copy *swap_outs, *swap_ins; /* [num_swap_blocks] of the current step */
    int num_swap_outs, num_swap_ins;
    int32_t *moved_to; /* [max(num_blocks, num_swap_blocks)] all QR_NO_BLOCK between calls */
    double compute_us_per_token, swap_us_per_block;

    qr_buddy *buddy;            /* regions; NULL without */
    qr_block_copy *fork_copies; /* [2 * num_blocks] for the next step, in order */
    int num_fork_copies;
    int64_t num_region_slots; /* of all regions as asked for; the buddy allocator may have given more */
    int64_t num_final_slots;  /* of all regions: those that their sequences will use before they end */
    bool lacks_region;        /* the next request in the queue found no chunk large enough */
    bool batch_is_open;       /* faster-transformer: the batch may still grow */

    qr_slot_counts slots;     /* after the last step */
    qr_slot_counts slots_sum; /* over num_steps, as is the next */
    int64_t running_sum;
    uint64_t num_swapped_groups, num_steps, num_preemptions, prefix_queries, prefix_hits;
    uint64_t store_queries, store_hits;
    double live_fraction_sum, saved_fraction_sum; /* over num_steps */
};

/* The first sequence that is neither finished nor idle. */
qr_seq *qr_request_lead(const qr_request *request);
/* Distinct blocks that the group holds when each sequence, idle and finished ones apart, has a slot for one token more
 * than it has now (as far as it will ever need one); that is enough to compute all it has and to go on. */
int32_t qr_request_blocks_wanted(const qr_request *request, int block_size);

/* Give every unfinished sequence of the group (idle ones too) a row and an empty table; there are enough rows. */
void qr_sched_take_rows(qr_sched *sched, qr_request *request);
/* The sequence holds blocks or is to be forked or resumed. */
static inline bool qr_seq_is_live(const qr_seq *seq)
{
    return seq->status != QR_IDLE && !qr_request_status_finished(seq->status);
}
/* Free the sequence's blocks and its row. */
void qr_sched_release_seq(qr_sched *sched, qr_seq *seq);
/* Copy the group's tables to swap space; its num_computed_tokens are to stay. The caller frees the tables' blocks.
 *   returns   false: swap space is off, dearer than computing, or too full; nothing has changed */
bool qr_sched_swap_out(qr_sched *sched, qr_request *request);
/* Fill the group's empty tables from swap space; there are num_swapped_blocks free blocks. */
void qr_sched_swap_in(qr_sched *sched, qr_request *request);
/* Give up the group's blocks in swap space, if any. */
void qr_sched_free_swapped(qr_sched *sched, qr_request *request);
/* Every unfinished sequence of the group, which has rows, gets a region, or none does.
 *   returns   false: there is no room for all of them */
bool qr_sched_take_regions(qr_sched *sched, const qr_request *request);
/* The sequence's table is empty and its group, if that has ended, no longer running: give its region back, if it has
 * one. */
void qr_sched_release_region(qr_sched *sched, qr_seq *seq);
/* Blocks of a region for so many output tokens. */
int32_t qr_sched_region_blocks(const qr_sched *sched, int32_t num_prompt, int32_t num_output);
/* Slots that a sequence of the request uses in its life, as far as is known. */
int32_t qr_request_final_slots(const qr_request *request);
/* child's empty table becomes parent's, all of whose tokens are computed: shared blocks, or with regions a copy. */
void qr_sched_fork_table(qr_sched *sched, const qr_seq *parent, qr_seq *child);

/* A step is over: count what its memory is used for. */
void qr_sched_observe_memory(qr_sched *sched);
/* Blocks in no table, or with regions in no region. */
int32_t qr_sched_num_free_blocks(const qr_sched *sched);

/* What policies fill a step with (step.c): all running groups, at the expense of the last ones if blocks run out; */
void qr_sched_run_all(qr_sched *sched);
/* and the group at the top of the waiting queue.
 *   promised   free blocks that it must leave
 *   returns    false: it does not fit now; nothing has changed */
bool qr_sched_admit(qr_sched *sched, qr_request *request, int64_t promised);
/* The waiting group to admit next; NULL: none waits, or there are too few seats. */
qr_request *qr_sched_next_waiting(const qr_sched *sched);

/* Into and out of the running requests; keeps num_running_seqs. */
void qr_sched_insert_running(qr_sched *sched, qr_request *request);
void qr_sched_remove_running(qr_sched *sched, qr_request *request);

#endif
