/* speculate: speculative decoding: which tokens are guessed, how many, and whether guessing pays.
 *
 *   last tokens ─► proposer (ngram.c or draft.c) ─► up to num_tokens drafts ─► computed in one step with the last token
 *                                                                                  │ sampled row by row (step.c)
 *        acceptance of the sequence, costs of steps  ◄── drafts that were right ◄──┘
 *                    └─► how many drafts next time
 *
 * A draft is right exactly if the sampler draws it, from the same logits, key and position as without speculation: the
 * output cannot depend on it, only the number of steps.
 *
 * How many: draft i of a sequence is of use with probability p^i, p the sequence's acceptance. It costs
 * r = (time of one more token in a step) / (time of a step per token it yields), and is worth it while p^i > r. As r is
 * near 1 in a step of many tokens, this turns speculation down when drafts are poor and when the batch is full.
 * Threads: engine thread, but for qr_spec_parse.
 * Source: Leviathan et al., ICML 2023 (expected gain); vLLM's names for the configuration. */
#ifndef QR_ENGINE_SPECULATE_H
#define QR_ENGINE_SPECULATE_H

#include <stdbool.h>

#include "engine/ngram.h"

typedef enum qr_spec_method { QR_SPEC_OFF, QR_SPEC_NGRAM, QR_SPEC_DRAFT_MODEL } qr_spec_method;

typedef struct qr_spec_config {
    qr_spec_method method;
    int num_tokens; /* drafts of a sequence in one step at most, <= QUIRE_MAX_SPECULATIVE_TOKENS */
    int min_ngram, max_ngram;
    bool adaptive; /* as many drafts as pay, else num_tokens whenever there are so many */
    char *model;   /* path; the config's own */
} qr_spec_config;

/* vLLM's JSON: {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 2} or
 * {"model": PATH, "num_speculative_tokens": 4}; both may have "adaptive": false. NULL: off.
 *   returns  OK | INVALID (error->param "speculative_config") | NOMEM; deinit in any case */
QUIRE_MUST_USE quire_status qr_spec_parse(const char *json, qr_spec_config *out, quire_error *error);
void qr_spec_config_deinit(qr_spec_config *config);

/* Time of a step of n tokens as a line fixed + per_token * n, fitted to the steps so far, the latest most. */
typedef struct qr_spec_costs {
    double num, tokens, us, tokens_var, cov; /* running means */
    double us_per_token;                     /* the line's slope; 0 before steps of different size have been seen */
    double draft_us_per_token;               /* a draft model's time; 0 with ngram */
} qr_spec_costs;

/* A step in which every sequence sampled. */
void qr_spec_observe_step(qr_spec_costs *costs, int num_tokens, double us);

/* What is known of one sequence. */
typedef struct qr_spec_seq {
    double acceptance; /* p */
    int num_passed;    /* how often in a row it did not pay */
    qr_ngram *ngram;   /* its tokens, with method ngram */
} qr_spec_seq;

void qr_spec_seq_init(qr_spec_seq *seq);
/* How many drafts are worth it, 0 .. max_drafts, beside num_seqs sequences that sample one token each. */
int qr_spec_num_drafts(qr_spec_seq *seq, const qr_spec_costs *costs, int max_drafts, int num_seqs);
void qr_spec_observe_drafts(qr_spec_seq *seq, int num_drafts, int num_accepted);

#endif
