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
const char *qr_spec_method_name(qr_spec_method method); /* "ngram"; "" for off */
void qr_spec_config_deinit(qr_spec_config *config);

/* Time of a step of n tokens as a line fixed + per_token * n, fitted to the steps so far, the latest most. */
typedef struct qr_spec_costs {
    double num, tokens, us, tokens_var, cov; /* running means */
    double us_per_token;                     /* the line's slope; 0 before steps of different size have been seen */
    double draft_us_per_token;               /* a draft model's time; 0 with ngram */
    int num_refused;                         /* sequences in a row that the draft model does not follow */
    unsigned num_asked;                      /* while draft_us_per_token is unknown */
} qr_spec_costs;

/* A step without prompts: each sequence had one token and its drafts. */
void qr_spec_observe_step(qr_spec_costs *costs, int num_tokens, double us);
/* What a draft model took for num_drafts of all sequences. */
void qr_spec_observe_proposal(qr_spec_costs *costs, int num_drafts, double us);

/* What is known of one sequence. */
typedef struct qr_spec_seq {
    double acceptance; /* p */
    int num_passed;    /* how often in a row it did not pay */
    qr_ngram *ngram;   /* its tokens, with method ngram */

    enum { QR_SPEC_UNDECIDED, QR_SPEC_FOLLOWED, QR_SPEC_LEFT } draft; /* by the draft model */
    int num_draft_kv;     /* leading tokens whose K and V are in the draft's cache */
    int num_draft_blocks; /* leading blocks that are noted as such */
} qr_spec_seq;

void qr_spec_seq_init(qr_spec_seq *seq);
/* How many drafts are worth it, 0 .. max_drafts, among num_seqs sequences that sample one token each. When it has not
 * been worth it for long, ngram tries one; a draft model leaves the sequence. */
int qr_spec_num_drafts(qr_spec_seq *seq, const qr_spec_config *config, const qr_spec_costs *costs, int max_drafts,
                       int num_seqs);
/* Does the draft model keep up with the sequence? Decided once, by what new sequences cost and gain; a few are followed
 * in any case, to find out. Before the draft model's costs are known one finds out for all: the others are undecided.
 */
bool qr_spec_follows(qr_spec_seq *seq, const qr_spec_config *config, qr_spec_costs *costs, int num_seqs);
void qr_spec_observe_drafts(qr_spec_seq *seq, int num_drafts, int num_accepted);

#endif
