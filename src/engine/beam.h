/* beam: the choices of one beam search; which sequences run and where their blocks are is the scheduler's business.
 *
 *   every beam's best continuations ─► the best num_candidates of all, best first
 *       │ that end (end of sequence, max_tokens), among the first `width`  ─► finished [width], best kept
 *       └ that go on: the first `width`                                     ─► the next step's beams: parent, token
 *
 * Sequences and scores equal transformers' generate(num_beams=width): scores are float32 sums of log probabilities,
 * divided by tokens ^ length_penalty when a beam finishes.
 * Threads: one at a time.  No allocation after create.  Source: transformers, generation/utils.py, _beam_search. */
#ifndef QR_ENGINE_BEAM_H
#define QR_ENGINE_BEAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct qr_beam_hypothesis {
    bool finished; /* false: an empty place */
    float score, logprob;
    int num_tokens;
    int32_t *tokens; /* [max_tokens] */
} qr_beam_hypothesis;

typedef struct qr_beam_search {
    int width, num_candidates, max_tokens;
    float length_penalty;
    quire_early_stopping early_stopping;
    int num_tokens;  /* steps taken */
    bool improbable; /* no running beam is thought to improve the finished ones */
    float *scores;   /* [width] of the running beams, best first */
    int *parents;    /* [width] what advance chose: beam parents[i] continues with tokens[i] */
    int32_t *tokens;
    qr_beam_hypothesis *finished;         /* [width] best first */
    struct qr_beam_candidate *candidates; /* [width * num_candidates] */
    /* the caller's: which sequence of the group runs beam i, and the step's row of candidates for it */
    int *seq_idx; /* [width] */
    int *next_seq_idx;
    int *row; /* [width]; -1: not seen yet */
    int num_rows;
} qr_beam_search;

/* Continuations that each beam contributes: enough that `width` go on although some end. */
int qr_beam_num_candidates(int width, int num_eos);
/* OK | NOMEM. num_eos: ids that end a sequence. */
QUIRE_MUST_USE quire_status qr_beam_create(const quire_sampling_params *params, int width, int num_eos, int max_tokens,
                                           qr_beam_search **out, quire_error *error);
void qr_beam_destroy(qr_beam_search *beam); /* NULL is fine */

/* One step. Row i of ids and logprobs, [num_candidates] at i * stride, best first, are the continuations of the beam
 * whose tokens so far are outputs[i], [num_tokens]; num_rows is 1 in the first step, else width.
 *   ends      whether a token ends a sequence
 *   returns   true: the search is over, `finished` is the result; false: parents and tokens say how it goes on */
bool qr_beam_advance(qr_beam_search *beam, const int32_t *const *ids, const float *const *logprobs,
                     const int32_t *const *outputs, int num_rows, bool (*ends)(const void *ctx, int32_t token),
                     const void *ctx);

#endif
