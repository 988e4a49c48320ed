/* tokenizer_use: what both tokenizer targets do with a tokenizer that was accepted. */
#ifndef TOKENIZER_USE_H
#define TOKENIZER_USE_H

#include "text/tokenizer.h"

/* Encode a text of everything, decode the ids one by one. False: refused to encode (a regex that is too costly). */
static bool use_tokenizer(const qr_tokenizer *tok)
{
    static const char text[] = "Hello ab  w\xC3\xB6rld <s> 123\n\n'll a\xCC\x81 "
                               "\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9 \xE2\x96\x81x\xFF";
    quire_error error;
    char describe[128];
    int32_t *ids = NULL;
    size_t num = 0, bytes;
    int num_stop;
    qr_tokenizer_describe(tok, describe, sizeof describe);
    const int32_t *stop = qr_tokenizer_stop_ids(tok, &num_stop);
    for (int i = 0; i < num_stop; i++)
        if (stop[i] < 0 || stop[i] >= qr_tokenizer_vocab_size(tok)) __builtin_trap();
    for (int32_t id = -1; id <= qr_tokenizer_vocab_size(tok); id++) (void)qr_tokenizer_token(tok, id, &bytes);
    if (qr_tokenizer_encode(tok, text, sizeof text - 1, true, true, &ids, &num, &error) != QUIRE_OK) return false;
    qr_buf out = {0};
    qr_detok detok;
    qr_detok_init(&detok, tok, true);
    for (size_t i = 0; i < num; i++) {
        if (ids[i] < 0 || ids[i] >= qr_tokenizer_vocab_size(tok)) __builtin_trap();
        if (qr_detok_push(&detok, ids[i], &out) != QUIRE_OK) __builtin_trap();
    }
    if (qr_detok_flush(&detok, &out) != QUIRE_OK) __builtin_trap();
    qr_free(out.data);
    qr_free(ids);
    return true;
}

#endif
