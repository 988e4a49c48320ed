/* draft: a second, smaller model that guesses what the target will draw.
 *
 *   block tables of the target ──► KV cache of the target   [num_blocks]
 *                              └─► KV cache of the draft    [num_blocks]   the same ids, its own bytes
 *
 * Both models' K and V of a token lie in blocks of the same number, so prefix hits, forks and copies hold for both. The
 * draft follows the sequences that speculate, a step at a time: qr_spec_seq.num_draft_kv of their tokens have K and V
 * in its cache. Blocks that it has computed are known by content id, so a found prefix is not computed again; after a
 * preemption it begins anew. What it lacks or has wrong costs acceptance, never correctness.
 *
 * It draws with the request's own parameters, key and positions, as the target will: where both distributions are
 * alike, the same random number mostly gives the same token. Threads: engine thread, with the model's lock where the
 * backend computes. A step allocates nothing. Source: Leviathan et al., ICML 2023; vLLM (a draft model shares block
 * tables with the target). */
#ifndef QR_ENGINE_DRAFT_H
#define QR_ENGINE_DRAFT_H

#include "engine/batch.h"
#include "engine/model_api.h"

/* A sequence whose next tokens are being guessed. */
typedef struct qr_draft_job {
    qr_seq *seq;
    int num_drafts, entry_idx;
} qr_draft_job;

typedef struct qr_draft {
    qr_backend *be; /* the target's */
    qr_checkpoint *ckpt;
    qr_model *model;
    qr_kv_cache *cache;
    qr_model_workspace *ws;
    qr_batch_builder batch;
    qr_draft_job *jobs; /* [max_num_seqs] */
    int num_jobs, max_tokens;
    uint64_t *content_ids; /* [num_blocks] of what the draft's cache holds in the block; 0: nothing known */
} qr_draft;

/* Load the model at `path` onto the target's backend (lock held).
 *   returns  OK | NOMEM | INVALID (param speculative_config): it cannot be opened, or its vocabulary is another */
QUIRE_MUST_USE quire_status qr_draft_load(const quire_model *target, const char *path, qr_draft **out,
                                          quire_error *error);
void qr_draft_destroy(qr_draft *draft); /* NULL is fine */

/* The target's KV layout (dtype, block_size, num_blocks) with this model's shape. */
qr_kv_config qr_draft_kv_config(const qr_draft *draft, const qr_kv_config *target);

/* The scratch of a step. The backend is not computing. */
QUIRE_MUST_USE quire_status qr_draft_reserve(qr_draft *draft, int max_tokens, int max_seqs, int max_model_len,
                                             int max_logits_rows, quire_error *error);
/* After that the cache, and what depends on its size. */
QUIRE_MUST_USE quire_status qr_draft_create_cache(qr_draft *draft, const qr_kv_config *target, int max_seqs,
                                                  int max_model_len, quire_error *error);

#endif
