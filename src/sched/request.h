/* request: a group of n sequences that share one prompt (parallel sampling, beams), and the state of each.
 *
 *                       prompt_token_ids [num_prompt_tokens]          computed once, by the leading sequence
 *   qr_request ──┬── seqs[0]  output_token_ids[0 .. num_output_tokens)      leads while the prompt is computed
 *                ├── seqs[1]  output_token_ids ...                          forked from it at the end of what they
 * share └── seqs[n-1]
 *
 *   WAITING ──► RUNNING ──► FINISHED_*        a group is admitted, preempted and resumed as a whole;
 *                 │   ▲                       its sequences finish one by one
 *                 ▼   │
 *              PREEMPTED                      blocks freed; resumed by computing prompt and outputs again, or moved to
 *                                             swap space as they are (num_swapped_blocks > 0) and back
 *
 * The leading sequence is the first one that is neither finished nor idle. It computes the tokens that all of them
 * share (num_shared_tokens: the prompt of a new group; after a preemption also the outputs that are the same), then the
 * others are forked from it, and each computes the rest of its own.
 *
 * A sequence's tokens are the prompt followed by its outputs; K and V of the first num_computed_tokens are in the
 * cache. The token sampled last is not computed until the next step: num_computed_tokens < num_tokens between steps.
 * Behind the outputs may stand draft tokens: guesses at what follows, which a step computes with the last token.
 *
 * Fields are read by everyone, written by sched only, except `user` and the draft tokens. Pointers to requests and
 * sequences are stable from qr_sched_add to qr_sched_remove. Threads: one at a time (the engine thread). */
#ifndef QR_SCHED_REQUEST_H
#define QR_SCHED_REQUEST_H

#include <stddef.h>

#include "base/mem.h"
#include "kv/block_table.h"

typedef enum qr_request_status {
    QR_WAITING,   /* of a sequence: also one that is still to be forked */
    QR_RUNNING,   /* holds blocks */
    QR_PREEMPTED, /* holds none, waits to go on */
    QR_IDLE,      /* of a sequence: dropped, holds none, may be forked into; never of a request */
    QR_FINISHED_STOPPED,
    QR_FINISHED_LENGTH_CAPPED,
    QR_FINISHED_ABORTED
} qr_request_status;

static inline bool qr_request_status_finished(qr_request_status status) { return status >= QR_FINISHED_STOPPED; }

typedef struct qr_request qr_request;

typedef struct qr_seq {
    /* a cache line: what every step reads */
    _Alignas(QR_CACHE_LINE) qr_request *request;
    int32_t *output_token_ids; /* [max_output_tokens] outputs, then num_draft_tokens drafts */
    qr_block_table table;      /* empty unless RUNNING; with regions, one from admission to finish or preemption */
    int32_t num_output_tokens;
    int32_t num_computed_tokens;
    int32_t num_draft_tokens; /* wanted; after schedule() those in the step; then those not yet confirmed */
    qr_request_status status;

    int idx; /* which of n */
    int row; /* 0 .. max_num_seqs - 1, unique among sequences of admitted groups; -1 when none */
} qr_seq;

struct qr_request {
    /* a cache line: what every step reads */
    _Alignas(QR_CACHE_LINE) qr_request_status status;
    int n;
    int num_unfinished; /* sequences, idle ones included */
    int num_idle;       /* sequences */
    int32_t num_prompt_tokens;
    int32_t max_output_tokens; /* per sequence */
    int32_t num_shared_tokens; /* what the leading sequence computes for all before the fork */
    bool forked;               /* RUNNING and no fork ahead: every unfinished sequence runs on its own */
    bool lockstep;
    bool no_prefix_read;
    int32_t *prompt_token_ids; /* [num_prompt_tokens], a copy */
    qr_seq *seqs;              /* [n] */
    uint64_t extra_key;
    void *user; /* the engine's */

    int64_t priority;               /* lower is sooner; by the policy */
    uint64_t arrival;               /* 1, 2, 3, ... */
    int32_t expected_output_tokens; /* 1 .. max_output_tokens; what regions are sized for */
    int32_t num_cached_tokens;      /* prompt tokens found in the prefix cache when first admitted; -1 before */
    int32_t num_loaded_tokens;      /* brought back from the pool's store */
    int32_t num_preemptions;        /* how often */
    int32_t num_swapped_blocks;     /* distinct ones in swap space; 0 when the group is not there */
    int32_t *swap_block_ids;        /* [n, max_swap_blocks] the tables of a swapped group */
    int32_t max_swap_blocks;
    int32_t max_blocks;      /* the most blocks that the group can ever hold */
    int32_t blocks_to_admit; /* free blocks that it lacked when it was last tried; 0: not tried */
    int32_t queue_idx;       /* place in the waiting queue; -1 when not in it */
    qr_request *prev, *next; /* all unremoved requests of the scheduler */
};

_Static_assert(offsetof(qr_seq, idx) == QR_CACHE_LINE && offsetof(qr_request, priority) == QR_CACHE_LINE, "hot parts");

static inline int32_t qr_seq_num_tokens(const qr_seq *seq)
{
    return seq->request->num_prompt_tokens + seq->num_output_tokens;
}

/* The token at `position` < qr_seq_num_tokens(). */
static inline int32_t qr_seq_token(const qr_seq *seq, int32_t position)
{
    const int32_t num_prompt = seq->request->num_prompt_tokens;
    return position < num_prompt ? seq->request->prompt_token_ids[position]
                                 : seq->output_token_ids[position - num_prompt];
}

static inline qr_token_view qr_seq_tokens(const qr_seq *seq)
{
    return (qr_token_view){seq->request->prompt_token_ids, seq->output_token_ids, seq->request->num_prompt_tokens,
                           seq->num_output_tokens};
}

#endif
