/* sampler: from one row of logits to one token, and the log probabilities that the request asked for.
 *
 *   logits ─► logprobs (raw, as vLLM's default)
 *      └────► logit_bias, min_tokens ─► penalties ─► greedy: argmax
 *                                                └─► temperature ─► min_p ─► top_k ─► top_p ─► typical_p ─► draw
 *
 * backend.h's op `sample` says what each of them does, to the bit: a device that has it draws the same tokens from
 * what qr_sampler_describe() says of a request. Only typical_p is always drawn here.
 *
 * The token is a pure function of (logits, params, tokens so far, key, sequence index, output position): random
 * numbers come from Philox4x32-10 keyed by the request and counted by position, so a token can be drawn again, at
 * another time or beside other requests, with the same result.  Ties: the lower token id first.
 * Threads: rows are independent; each thread brings its own scratch.  No allocation.
 * Source: order of operations as vLLM v1 sampler.py; Salmon et al., SC 2011 (Philox); Meister et al. 2022 (typical). */
#ifndef QR_ENGINE_SAMPLER_H
#define QR_ENGINE_SAMPLER_H

#include "backend/backend.h"

enum { QR_MAX_LOGPROBS = QR_MAX_TOP };

typedef struct qr_sampler_scratch qr_sampler_scratch;
QUIRE_MUST_USE quire_status qr_sampler_scratch_create(int vocab_size, qr_sampler_scratch **out, quire_error *error);
void qr_sampler_scratch_destroy(qr_sampler_scratch *scratch); /* NULL is fine */

/* Statistics of a row, from qr_backend_ops.row_stats. */
typedef struct qr_row_stats {
    float max, sum_exp;
    int32_t argmax;
} qr_row_stats;

typedef struct qr_sample_in {
    const float *logits; /* [vocab_size], not changed */
    qr_row_stats stats;
    const quire_sampling_params *params;
    const int32_t *prompt, *output; /* tokens so far; ids outside the vocabulary are skipped */
    int num_prompt, num_output;
    const int32_t *eos_ids; /* with params->stop_token_ids: may not be drawn before min_tokens */
    int num_eos_ids;
    uint64_t key;  /* of the request */
    int seq_index; /* which of n */
} qr_sample_in;

int32_t qr_sampler_sample(qr_backend *be, qr_sampler_scratch *scratch, const qr_sample_in *in);

/* Can a device draw it? If so, how many edits describe() needs at most; else -1. */
int qr_sampler_max_edits(const qr_sampler_scratch *scratch, const qr_sample_in *in);
/* The same for the op `sample`: *out but for its row, first_edit and what is asked beside the token; the edits from
 * edits[0] on. `in` needs neither logits nor their stats. Returns the number of edits. */
int qr_sampler_describe(qr_sampler_scratch *scratch, const qr_sample_in *in, qr_draw *out, qr_logit_edit *edits);

/* Natural log probability of `token` in a row, and its rank (1 = likeliest). */
void qr_sampler_logprob(const float *logits, const qr_row_stats *stats, int vocab_size, int32_t token,
                        float *out_logprob, int *out_rank);
/* The num_top (<= QR_MAX_LOGPROBS and vocab_size) likeliest tokens, best first. */
void qr_sampler_top_logprobs(qr_sampler_scratch *scratch, const float *logits, const qr_row_stats *stats, int num_top,
                             int32_t *out_ids, float *out_logprobs);

/* The same for a beam: tokens that may not be drawn (min_tokens) are out, probabilities stay the raw ones. */
void qr_sampler_beam_candidates(qr_sampler_scratch *scratch, const qr_sample_in *in, int num_top, int32_t *out_ids,
                                float *out_logprobs);

/* 64 random bits. */
uint64_t qr_sampler_random(uint64_t key, uint32_t seq_index, uint32_t position);
/* A well-mixed key from two words, for requests without a seed. */
uint64_t qr_sampler_mix(uint64_t a, uint64_t b);

#endif
