/* ngram: guesses what follows a sequence's last tokens from what followed them before, in prompt or output.
 *
 *   tokens   ... a b c x y z ... a b c          the last 3 tokens stood here before: drafts x y z ...
 *                     ▲                ▲
 *   heads    hash(b c) ─► end of the latest earlier "b c" ─► links: the one before it ─► ...
 *
 * The index is by the last min_ngram tokens; of a bounded number of earlier places, latest first, the one where most
 * tokens (up to max_ngram) agree is taken. A draft may run over the end into itself, so periodic text goes on.
 * Cost: push O(1), propose O(MAX_CANDIDATES * max_ngram), however long the context. Allocation: create only.
 * Threads: one at a time.  Source: vLLM v1 ngram_proposer.py (what is looked up); hash chains as in zlib's deflate. */
#ifndef QR_ENGINE_NGRAM_H
#define QR_ENGINE_NGRAM_H

#include <stdint.h>

#include "base/status.h"

typedef struct qr_ngram qr_ngram;

/* For sequences of up to max_tokens; 1 <= min_ngram <= max_ngram.  OK | NOMEM */
QUIRE_MUST_USE quire_status qr_ngram_create(int32_t max_tokens, int min_ngram, int max_ngram, qr_ngram **out,
                                            quire_error *error);
void qr_ngram_destroy(qr_ngram *ngram); /* NULL is fine */

int32_t qr_ngram_num_tokens(const qr_ngram *ngram);
/* The sequence's next token. */
void qr_ngram_push(qr_ngram *ngram, int32_t token);
/* Guess up to max_drafts tokens that follow: their number, 0 when the last tokens are new. */
int qr_ngram_propose(const qr_ngram *ngram, int max_drafts, int32_t *out);

#endif
