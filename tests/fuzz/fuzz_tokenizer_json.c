/* Any JSON as a tokenizer.json: an error, or a tokenizer that encodes and decodes a text in bounded time. */
#include <stdint.h>

#include "text/tokenizer_impl.h"
#include "tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
        (void)use_tokenizer(tok);
    qr_tokenizer_destroy(tok);
    json_decref(json);
    return 0;
}
