/* added_tokens: the tokens that are cut out of the text before the model sees it, such as "<|im_end|>".
 *
 *   sorted by pattern   "<|im_end|>" "<|im_start|>" "</s>" ...    longest match at a place wins, leftmost place first
 *
 * Tokens with `normalized` are looked for in the normalized text (their pattern is normalized too), the others before.
 * Threads: immutable once built.  Source: `tokenizers` tokenizer/added_vocabulary.rs. */
#ifndef QR_TEXT_ADDED_TOKENS_H
#define QR_TEXT_ADDED_TOKENS_H

#include "base/mem.h"
#include "base/status.h"

#include <stdbool.h>

typedef struct qr_added_token {
    char *pattern; /* what is looked for; owned */
    size_t pattern_bytes;
    int32_t id;
    bool special, lstrip, rstrip, single_word;
} qr_added_token;

typedef struct qr_added_tokens {
    qr_added_token *tokens; /* sorted by pattern once qr_added_tokens_sort ran */
    size_t len, cap;
    bool starts[256]; /* a pattern starts with this byte */
} qr_added_tokens;

/* Takes over token.pattern, also on failure (NOMEM). An empty pattern is dropped. */
QUIRE_MUST_USE quire_status qr_added_tokens_add(qr_added_tokens *added, qr_added_token token, quire_error *error);
void qr_added_tokens_sort(qr_added_tokens *added);
void qr_added_tokens_deinit(qr_added_tokens *added); /* a zeroed one is fine */

/* Cutting one text: zero-initialise all but the first three fields, then call qr_added_tokens_next until false. */
typedef struct qr_added_cut {
    const char *text;
    size_t text_bytes;
    bool skip_special; /* special tokens are plain text */
    size_t search_from, space_end;
    size_t gap_start; /* the text before the token found last ended, and the rest begins, here */
} qr_added_cut;

/* Next token: *gap_start..*gap_end is the text before it. False: no more, and the gap is the rest of the text. */
bool qr_added_tokens_next(const qr_added_tokens *added, qr_added_cut *cut, size_t *gap_start, size_t *gap_end,
                          int32_t *id);

#endif
