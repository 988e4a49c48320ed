#include "server/token_text.h"

#include <string.h>

#include "base/mem.h"
#include "base/status.h"

quire_status qr_token_text_init(qr_token_text *cache, const quire_model *model, int vocab_size, quire_error *error)
{
    *cache = (qr_token_text){.model = model, .vocab_size = vocab_size};
    cache->entries = qr_calloc((size_t)vocab_size, sizeof(qr_token_text_entry *));
    return cache->entries ? QUIRE_OK : qr_fail_nomem(error, "token texts", (size_t)vocab_size * sizeof(void *));
}

void qr_token_text_deinit(qr_token_text *cache)
{
    for (int i = 0; cache->entries && i < cache->vocab_size; i++) qr_free(cache->entries[i]);
    qr_free(cache->entries);
    *cache = (qr_token_text){0};
}

const qr_token_text_entry *qr_token_text_get(qr_token_text *cache, int32_t token_id)
{
    static const qr_token_text_entry empty = {0};
    if (token_id < 0 || token_id >= cache->vocab_size) return &empty;
    if (cache->entries[token_id]) return cache->entries[token_id];
    char *text;
    size_t bytes;
    if (quire_detokenize(cache->model, &token_id, 1, false, &text, &bytes, NULL) != QUIRE_OK) return &empty;
    qr_token_text_entry *entry = qr_malloc(sizeof *entry + bytes + 1);
    if (entry) {
        entry->bytes = bytes;
        memcpy(entry->text, text, bytes + 1);
        cache->entries[token_id] = entry;
    }
    quire_free(text);
    return entry ? entry : &empty;
}
