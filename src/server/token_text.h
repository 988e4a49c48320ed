/* token_text: the text of single tokens, looked up once each; logprobs show thousands of them a second.
 *
 *   entries[token_id] ─► NULL, or {bytes, text} in one allocation
 *
 * Threads: one (the server's). */
#ifndef QR_SERVER_TOKEN_TEXT_H
#define QR_SERVER_TOKEN_TEXT_H

#include "quire.h"

typedef struct qr_token_text_entry {
    size_t bytes;
    char text[];
} qr_token_text_entry;

typedef struct qr_token_text {
    const quire_model *model;
    int vocab_size;
    qr_token_text_entry **entries; /* [vocab_size] */
} qr_token_text;

QUIRE_MUST_USE quire_status qr_token_text_init(qr_token_text *cache, const quire_model *model, int vocab_size,
                                               quire_error *error);
void qr_token_text_deinit(qr_token_text *cache);
/* The bytes of one token, special ones shown; may be part of a UTF-8 character. Lives until deinit. An id outside the
 * vocabulary and a failed lookup give the empty entry. */
const qr_token_text_entry *qr_token_text_get(qr_token_text *cache, int32_t token_id);

#endif
