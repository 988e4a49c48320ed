/* scheduler: which sequences compute how many tokens in the next step, and where their K and V go.
 *
 *   qr_sched_add ──► waiting (heap by priority, arrival) ──► running (same order) ──► finished ──► qr_sched_remove
 *                          ▲                                    │
 *                          └───────── preempted (last first) ◄──┘
 *
 * One step, always in this order:
 *   qr_sched_schedule(&step)    entries (sequence, first position, how many tokens), block copies, preempted requests
 *     the engine swaps blocks out, in, copies blocks (in this order), computes the entries' tokens, samples where
 * `samples` says so qr_sched_commit_step()      those tokens are computed now; full blocks become findable; groups fork
 *   qr_sched_append_token() for every sampled sequence, qr_sched_finish_seq() for those that are done;
 *     with draft tokens (qr_sched_want_drafts) several times, as long as the tokens are as drafted
 *     beam search first rearranges its sequences with qr_sched_rearrange_beams()
 * add, abort, remove, reset: any time except between schedule and commit_step.
 *
 * There is no prefill or decode phase: a sequence has tokens without K and V, and a step computes some of them.
 * The budget of max_num_batched_tokens goes to running sequences in order (one token is kept back for each that
 * follows, so every running sequence advances in every step, but for lockstep groups after a preemption), then to
 * waiting requests in order; the first one that does not fit ends the step. When a running sequence gets no block, the
 * last running group is preempted, if need be its own, and nothing is admitted in that step. Its blocks are freed
 * and computed again later, or moved to swap space and back, the whole group or nothing. A group is admitted only
 * if all tokens that it has now fit beside what the running groups still need for theirs and 32 more for each running
 * sequence (of those, no more than an eighth of the pool): without that room to grow, admitted groups are soon
 * preempted again.
 *
 * With a store behind the pool (kv/block_store.h) a group that fits takes what the store has of its beginning; where
 * that is more than a step may load while others run, it waits for the next step and finds the first part in the pool.
 *
 * Properties: if anything is unfinished, a step has at least one entry. The first group in order is never preempted,
 * so it finishes: nothing starves under fcfs and fair, nothing deadlocks.
 * A request that finds room alone is never refused; one that could never fit is refused by add.
 *
 * That is the policy `vllm`. The others (policy.h) are the paper's baselines and its own scheduler, for comparison.
 *
 * Allocation: create and add only. schedule() costs O(running + what is admitted * log waiting).
 * Threads: one at a time (the engine thread).
 * Source: Kwon et al., SOSP 2023, section 4.5 (all-or-nothing groups, recompute); Agrawal et al., OSDI 2024 (chunked
 * prefill); vLLM v1, core/sched/scheduler.py (running first, one budget). */
#ifndef QR_SCHED_SCHEDULER_H
#define QR_SCHED_SCHEDULER_H

#include "sched/request.h"

typedef struct qr_sched qr_sched;

/* XX(name, text): the order of requests. fair: by (tokens that steps had computed on arrival + prompt tokens, arrival),
 * about the order in which prompts would end if all were computed side by side. A short prompt overtakes a long one,
 * but only while fewer tokens were computed since the long one came than it is longer: nothing starves.
 * Source: finish tags of fair queueing, Demers, Keshav and Shenker, SIGCOMM 1989. */
#define QR_SCHED_POLICY_MAP(XX)                           \
    XX(FCFS, "fcfs")         /* by arrival */             \
    XX(PRIORITY, "priority") /* by (priority, arrival) */ \
    XX(FAIR, "fair")

typedef enum qr_sched_policy {
#define XX(name, text) QR_SCHED_##name,
    QR_SCHED_POLICY_MAP(XX)
#undef XX
        QR_NUM_SCHED_POLICIES
} qr_sched_policy;

/* "fcfs", ...; static storage. */
const char *qr_sched_policy_name(qr_sched_policy policy);
/* The opposite; false: there is none of this name. */
bool qr_sched_policy_parse(const char *name, qr_sched_policy *out);

typedef enum qr_preemption_mode {
    QR_PREEMPT_RECOMPUTE,
    QR_PREEMPT_SWAP, /* recompute when the swap space is full */
    QR_PREEMPT_AUTO  /* whichever is cheaper by qr_sched_set_costs */
} qr_preemption_mode;

/* XX(name, text): how KV memory is given out and steps are filled; policy.h says how each works. */
#define QR_KV_ALLOCATOR_MAP(XX)    \
    XX(VLLM, "vllm")               \
    XX(VLLM_V0, "vllm-v0")         \
    XX(ORCA_MAX, "orca-max")       \
    XX(ORCA_POW2, "orca-pow2")     \
    XX(ORCA_ORACLE, "orca-oracle") \
    XX(FASTER_TRANSFORMER, "faster-transformer")

typedef enum qr_kv_allocator {
#define XX(name, text) QR_KV_##name,
    QR_KV_ALLOCATOR_MAP(XX)
#undef XX
        QR_NUM_KV_ALLOCATORS
} qr_kv_allocator;

/* "vllm", "orca-max", ...; static storage. */
const char *qr_kv_allocator_name(qr_kv_allocator allocator);
/* The opposite; false: there is none of this name. */
bool qr_kv_allocator_parse(const char *name, qr_kv_allocator *out);
/* Sequences have contiguous regions; false: blocks anywhere. */
bool qr_kv_allocator_has_regions(qr_kv_allocator allocator);

typedef struct qr_sched_options {
    qr_kv_allocator kv_allocator;
    int64_t num_blocks;
    int64_t num_swap_blocks; /* blocks of swap space; > 0 for SWAP and AUTO, else unused */
    int block_size;
    int max_num_seqs;               /* sequences of admitted groups at most */
    int32_t max_num_batched_tokens; /* budget of a step; raised to max_num_seqs, without chunked prefill also to
                                     * max_model_len, with regions to the sum of both */
    int32_t max_model_len;          /* prompt + output tokens of a sequence at most */
    int32_t max_chunk_tokens;       /* tokens of one sequence in one step at most; 0: no limit; needs chunked prefill */
    bool enable_chunked_prefill;    /* false: a prompt is computed in one step (a resumed group's outputs may be cut);
                                     * off under all policies but vllm */
    bool enable_prefix_caching;     /* off under policies with regions, which share nothing */
    qr_sched_policy policy;
    qr_preemption_mode preemption_mode;
    const qr_block_store *store; /* NULL: none; needs prefix caching and must outlive the scheduler */
} qr_sched_options;

/* block_size 16, max_num_seqs 128, max_num_batched_tokens 2048, chunked prefill and prefix caching on, fcfs,
 * recompute; num_blocks and max_model_len are 0 and must be set. */
void qr_sched_options_init(qr_sched_options *options);

/* The budget of a step that these options make: max_num_batched_tokens, raised as said above. */
int32_t qr_sched_step_budget(const qr_sched_options *options);

/* Create the pool and reserve all that steps need: O(num_blocks * block_size + max_num_seqs * max_model_len).
 *   returns   OK | INVALID (error->param names the option) | NOMEM */
QUIRE_MUST_USE quire_status qr_sched_create(const qr_sched_options *options, qr_sched **out, quire_error *error);
/* Frees all requests too. NULL is fine. */
void qr_sched_destroy(qr_sched *sched);

/* The options in force, raised budget included. */
const qr_sched_options *qr_sched_get_options(const qr_sched *sched);
/* For slots (qr_block_table_slot) and block counts. */
const qr_block_pool *qr_sched_pool(const qr_sched *sched);

/* ---- requests ---------------------------------------------------------------------------------- */

typedef struct qr_request_params {
    const int32_t *prompt_token_ids; /* [num_prompt_tokens], copied */
    int32_t num_prompt_tokens;       /* >= 1 */
    int32_t max_output_tokens;       /* >= 1, per sequence; prompt + output <= max_model_len */
    /* The true output length where it is known beforehand, else 0: max_output_tokens. orca-pow2 and orca-oracle size
     * regions for it and the count of slots that will never be used rests on it; a sequence that outlives its region
     * is preempted with its group and comes back with max_output_tokens instead. */
    int32_t expected_output_tokens;
    int n;               /* sequences, 1 .. max_num_seqs */
    int64_t priority;    /* lower is sooner; read under priority alone */
    uint64_t extra_key;  /* part of the prefix cache's key; 0: none */
    bool lockstep;       /* beams: its running sequences sample in the same step, all or none */
    bool no_prefix_read; /* compute the whole prompt (prompt logprobs); its blocks are cached all the same */
    void *user;
} qr_request_params;

/* What add checks, before a request is queued: OK | INVALID. Reads only the options: any thread, any time. */
QUIRE_MUST_USE quire_status qr_sched_validate(const qr_sched *sched, const qr_request_params *params,
                                              quire_error *error);

/* Queue a request.
 *   returns   OK | INVALID (a bad parameter; or the group could never fit into the pool: the message has the numbers)
 *             | NOMEM; the scheduler is unchanged on failure
 *   owns      the scheduler, until qr_sched_remove */
QUIRE_MUST_USE quire_status qr_sched_add(qr_sched *sched, const qr_request_params *params, qr_request **out,
                                         quire_error *error);

/* Free a finished request. Its sequences must not be in the current step. */
void qr_sched_remove(qr_sched *sched, qr_request *request);

/* Finish all unfinished sequences as FINISHED_ABORTED and free their blocks. No effect on a finished request. */
void qr_sched_abort(qr_sched *sched, qr_request *request);

/* ---- a step ------------------------------------------------------------------------------------ */

typedef struct qr_sched_entry {
    qr_request *request;
    qr_seq *seq;
    int32_t start;            /* position of the first token to compute; seq->num_computed_tokens until commit */
    int32_t num_new_tokens;   /* >= 1; K and V go to qr_block_table_slot(&seq->table, pool, start + i) */
    int32_t num_draft_tokens; /* the last of them are drafts; > 0 only if `samples` and not `forks` */
    bool samples; /* the last one before the drafts is the sequence's last token: logits from there on are sampled */
    /* The last of them ends what a group of more than one sequence shares: commit_step forks the others from seq.
     * If also `samples` (the group is new), one token is drawn from that row for each of request->seqs[0..n)
     * and appended to each after commit_step. If not (resumed), nothing is sampled. */
    bool forks;
} qr_sched_entry;

typedef struct qr_sched_step {
    const qr_sched_entry
        *entries; /* [num_entries] at most one per sequence; all arrays valid until the next schedule */
    int num_entries;
    int32_t num_tokens;             /* sum of num_new_tokens */
    const qr_block_copy *swap_outs; /* [num_swap_outs] src_block in the pool, dst_block in swap space; first of all */
    int num_swap_outs;
    const qr_block_copy *swap_ins; /* [num_swap_ins] src_block in swap space, dst_block in the pool; before copies */
    int num_swap_ins;
    const qr_block_copy *copies; /* [num_copies] carry out in this order, before anything of the step is written */
    int num_copies;
    /* [num_preempted] for logging; none of them has an entry (but one that outlived its region may have when nothing
     * else runs) */
    qr_request *const *preempted;
    int num_preempted;
} qr_sched_step;

/* Choose the next step. Nothing to do: num_entries 0. No allocation, cannot fail. */
void qr_sched_schedule(qr_sched *sched, qr_sched_step *out);

/* Measured costs, for QR_PREEMPT_AUTO: of computing one token, and of moving one block one way. Any time. */
void qr_sched_set_costs(qr_sched *sched, double compute_us_per_token, double swap_us_per_block);

/* All of the scheduled tokens have been computed. Draft tokens stay unknown to the prefix cache until confirmed. */
void qr_sched_commit_step(qr_sched *sched);

/* A token was sampled for a RUNNING sequence whose tokens are all computed; fewer than max_output_tokens so far. Every
 * sampled sequence gets a token or is finished (or both, in this order) before the next schedule.
 *   returns   true: it is the sequence's next draft token, so it is computed already, and unless the sequence is
 *             finished one more token must be appended, sampled from the draft's row; false: remaining drafts, if any,
 *             are dropped and their slots given back */
bool qr_sched_append_token(qr_sched *sched, qr_seq *seq, int32_t token);

/* Speculation: ask for slots in the next step that samples `seq` (RUNNING, its group forked and not lockstep, at least
 * one output), for num tokens guessed to follow its last one. Before the step is computed the caller writes them to
 * output_token_ids[num_output_tokens ..]. The wish holds until a token is appended or the group preempted. The step
 * fulfils it last of all and maybe in part, from what is left of the budget and from free blocks that no running group
 * is promised; never in a step with preemptions. returns   the wish, lowered to what max_output_tokens leaves (one
 * token is sampled behind the drafts) */
int qr_sched_want_drafts(qr_sched *sched, qr_seq *seq, int num);

/* A RUNNING or IDLE sequence is done (status FINISHED_*): its blocks are freed, the last first. The request is finished
 * with its last sequence: its status is then that of seqs[0], it is no longer scheduled and waits for qr_sched_remove.
 */
void qr_sched_finish_seq(qr_sched *sched, qr_seq *seq, qr_request_status status);

/* Beam search, after commit_step and before the tokens of the step are appended: a sequence that no beam continues is
 * dropped, then one that several beams continue is forked into idle ones. A dropped sequence frees its blocks, forgets
 * its outputs and is QR_IDLE; the group keeps its place. Before the next schedule at least one sequence of the group
 * must be RUNNING. */
void qr_sched_drop_seq(qr_sched *sched, qr_seq *seq); /* RUNNING to IDLE */
/* `child`, IDLE and of the same group, becomes a RUNNING copy of `parent`, RUNNING with all tokens computed: outputs,
 * and a reference on each block. O(blocks + outputs), no K or V moved. With regions the next step copies the blocks
 * instead; a child can then be forked into only once between two steps. */
void qr_sched_fork_seq(qr_sched *sched, const qr_seq *parent, qr_seq *child);
/* Both for a whole group of n beams, none of which is finished: beam i goes on from what was beam parents[i]. The first
 * child of a beam takes its sequence over, every further one gets a fork in the place of one that nobody continues.
 *   parents       [n] 0 .. n - 1
 *   seq_idx       [n] which sequence ran each beam
 *   next_seq_idx  [n] out: which one runs it now; another array */
void qr_sched_rearrange_beams(qr_sched *sched, qr_request *request, const int *parents, const int *seq_idx,
                              int *next_seq_idx);

/* ---- state ------------------------------------------------------------------------------------- */

/* Every slot of the pool is one of these. */
typedef struct qr_slot_counts {
    int64_t live;     /* holds K and V of a token of a running sequence; shared ones count once */
    int64_t reserved; /* of a region, and will be used: up to prompt + expected outputs; 0 without regions */
    int64_t internal; /* of a region, and never will be, by the expected outputs; without regions: the unused slots of
                       * blocks in use */
    int64_t external; /* what rounding to the buddy allocator's sizes costs; and the free slots, if the next request
                       * in the queue found no free chunk large enough; 0 without regions */
    int64_t unused;   /* free, and not lacking to anybody */
} qr_slot_counts;

/* The same as fractions of the pool. */
typedef struct qr_slot_fractions {
    double live, reserved, internal, external, unused;
} qr_slot_fractions;

typedef struct qr_sched_stats {
    int num_running, num_running_seqs;   /* admitted requests and their unfinished sequences */
    int num_waiting;                     /* requests, preempted ones included */
    int32_t num_blocks, num_free_blocks; /* free: in no table; with regions: in no region */
    int32_t num_swap_blocks, num_free_swap_blocks;
    int64_t num_live_slots;           /* computed tokens in blocks in use, shared blocks once */
    double live_slot_fraction;        /* live slots / slots of blocks not free at commit, mean over steps; 0 before */
    qr_slot_counts slots;             /* after the last step */
    qr_slot_fractions slot_fractions; /* mean over steps, each counted after it is computed; 0 before */
    double mean_running;              /* admitted requests, mean over steps */
    double saved_block_fraction;      /* blocks saved by sharing / blocks of all tables, at commit, mean over steps */
    uint64_t num_swapped_groups;      /* preemptions that moved the group to swap space */
    uint64_t num_steps, num_preemptions;  /* steps with at least one entry */
    uint64_t prefix_queries, prefix_hits; /* tokens, counted when a request is first admitted */
    uint64_t store_queries, store_hits;   /* the same of the store, asked for what the pool does not have */
} qr_sched_stats;

void qr_sched_get_stats(const qr_sched *sched, qr_sched_stats *out);
bool qr_sched_has_unfinished(const qr_sched *sched);
/* Forget cached prefixes that no sequence holds, those in the store too. */
void qr_sched_reset_prefix_cache(qr_sched *sched);
/* Give the store the cached prefixes that no sequence holds, before the scheduler is destroyed. */
void qr_sched_keep_prefixes(const qr_sched *sched);

/* Recount everything (pool, tables, queues, rows, counters): OK | INVALID with what is wrong | NOMEM. For tests and
 * idle time; not between schedule and commit_step. */
QUIRE_MUST_USE quire_status qr_sched_check(const qr_sched *sched, quire_error *error);

#endif
