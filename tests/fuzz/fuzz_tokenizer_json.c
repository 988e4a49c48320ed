/* Any JSON as a tokenizer.json: an error, or a tokenizer that encodes and decodes a text in bounded time. */
#include <stdint.h>
#include <string.h>

#include "text/tokenizer_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const qr_tokenizer *tok)
{
    static const char text[] =
        "Hello  w\xC3\xB6rld <s> 123\n\n'll a\xCC\x81 \xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9 \xE2\x96\x81x\xFF";
    quire_error error;
    char describe[128];
    int32_t *ids = NULL;
    size_t num = 0;
    qr_tokenizer_describe(tok, describe, sizeof describe);
    quire_status status = qr_tokenizer_encode(tok, text, sizeof text - 1, true, true, &ids, &num, &error);
    if (status != QUIRE_OK) return; /* a regex that is too costly */
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
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    quire_error error;
    qr_tokenizer *tok;
    json_t *json = json_loadb((const char *)data, size, JSON_ALLOW_NUL, NULL);
    if (!json) return 0;
    /* an object with a "tokenizer" is all the files of a folder at once */
    const json_t *tokenizer = json_object_get(json, "tokenizer");
    if (qr_tokenizer_create_json(tokenizer ? tokenizer : json, json_object_get(json, "config"),
                                 json_object_get(json, "generation"), json_object_get(json, "model_config"), NULL, &tok,
                                 &error) == QUIRE_OK)
        use(tok);
    qr_tokenizer_destroy(tok);
    json_decref(json);
    return 0;
}
