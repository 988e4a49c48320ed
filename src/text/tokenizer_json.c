#include <string.h>

#include "text/tokenizer_impl.h"
#include "text/unicode.h"

/* ---- vocabulary and merges ---- */

/* An id of the file, or -1. */
static int64_t id_of(const json_t *json)
{
    return json_is_integer(json) && json_integer_value(json) >= 0 ? json_integer_value(json) : -1;
}

/* One more than the largest id of the model's vocabulary and the added tokens. */
static uint64_t count_ids(const json_t *vocab, const json_t *added)
{
    const char *key;
    const json_t *value;
    size_t i;
    int64_t largest = -1;
    json_object_foreach((json_t *)vocab, key, value) if (id_of(value) > largest) largest = id_of(value);
    json_array_foreach((json_t *)added, i, value) if (id_of(json_object_get(value, "id")) > largest) largest =
        id_of(json_object_get(value, "id"));
    return (uint64_t)(largest + 1);
}

static quire_status add_merge(qr_tokenizer *tok, const json_t *item, size_t rank, quire_error *error)
{
    const char *left, *right;
    size_t left_bytes, right_bytes;
    bool known;
    if (json_is_string(item)) {
        size_t bytes = json_string_length(item);
        left = json_string_value(item);
        const char *space = memchr(left, ' ', bytes);
        if (!space || memchr(space + 1, ' ', bytes - (size_t)(space + 1 - left)))
            return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: merge %zu is not two tokens with a space between",
                           rank);
        left_bytes = (size_t)(space - left);
        right = space + 1;
        right_bytes = bytes - left_bytes - 1;
    } else {
        const json_t *a = json_array_get(item, 0), *b = json_array_get(item, 1);
        if (!json_is_string(a) || !json_is_string(b) || json_array_size(item) != 2)
            return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: merge %zu is neither a string nor a pair of strings",
                           rank);
        left = json_string_value(a), left_bytes = json_string_length(a);
        right = json_string_value(b), right_bytes = json_string_length(b);
    }
    QR_TRY(qr_vocab_add_merge(&tok->vocab, left, left_bytes, right, right_bytes, (uint32_t)rank, &known, error));
    if (!known)
        return qr_fail(error, QUIRE_FORMAT,
                       "tokenizer.json: merge %zu ('%.40s' and '%.40s') names a token that the vocabulary lacks", rank,
                       left, right);
    return QUIRE_OK;
}

static quire_status check_model(const json_t *model, quire_error *error)
{
    static const char *const unsupported[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type && strcmp(type, "BPE") != 0)
        return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: model type '%.60s' is not supported (BPE is)", type);
    if (!json_is_object(json_object_get(model, "vocab")) || !json_is_array(json_object_get(model, "merges")))
        return qr_fail(error, type ? QUIRE_FORMAT : QUIRE_UNSUPPORTED,
                       "tokenizer.json: the model is no BPE with a vocab object and a list of merges");
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(model, unsupported[i]);
        if (json_is_string(value) && json_string_length(value) > 0)
            return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: a model with %s is not supported",
                           unsupported[i]);
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (json_is_number(dropout) && json_number_value(dropout) != 0)
        return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: a model with dropout is not supported");
    return QUIRE_OK;
}

static quire_status load_model(qr_tokenizer *tok, const json_t *model, const json_t *added, quire_error *error)
{
    QR_TRY(check_model(model, error));
    const json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges"), *value;
    const char *key;
    size_t i;
    QR_TRY(qr_vocab_init(&tok->vocab, count_ids(vocab, added), json_array_size(merges), error));
    json_object_foreach((json_t *)vocab, key, value)
    {
        if (id_of(value) < 0) return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: token '%.60s' has no valid id", key);
        QR_TRY(qr_vocab_set(&tok->vocab, (uint64_t)id_of(value), key, strlen(key), QR_TOKEN_MODEL, error));
    }
    json_array_foreach((json_t *)merges, i, value) QR_TRY(add_merge(tok, value, i, error));
    const json_t *unk = json_object_get(model, "unk_token");
    tok->bpe.byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    tok->bpe.fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    tok->bpe.ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    tok->bpe.unk_id = -1;
    if (json_is_string(unk))
        tok->bpe.unk_id = qr_vocab_find(&tok->vocab, json_string_value(unk), json_string_length(unk));
    return QUIRE_OK;
}

static quire_status load_added(qr_tokenizer *tok, const json_t *added, quire_error *error)
{
    const json_t *item;
    size_t i;
    json_array_foreach((json_t *)added, i, item)
    {
        const json_t *content = json_object_get(item, "content");
        qr_added_spec spec = {.id = id_of(json_object_get(item, "id"))};
        if (spec.id < 0 || !json_is_string(content))
            return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: added token %zu has no id or no content", i);
        spec.text = json_string_value(content);
        spec.text_bytes = json_string_length(content);
        spec.special = json_is_true(json_object_get(item, "special"));
        spec.lstrip = json_is_true(json_object_get(item, "lstrip"));
        spec.rstrip = json_is_true(json_object_get(item, "rstrip"));
        spec.single_word = json_is_true(json_object_get(item, "single_word"));
        spec.normalized = json_is_true(json_object_get(item, "normalized"));
        QR_TRY(qr_tokenizer_add_token(tok, &spec, error));
    }
    return QUIRE_OK;
}

/* ---- decoder ---- */

static quire_status decoder_error(quire_error *error, const char *what)
{
    return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: decoder '%.60s' is not supported here", what);
}

/* A short JSON string into a fixed field. */
static bool copy_short(const json_t *json, char *out, size_t out_size, int *out_bytes)
{
    if (!json_is_string(json) || json_string_length(json) == 0 || json_string_length(json) >= out_size) return false;
    memcpy(out, json_string_value(json), json_string_length(json));
    *out_bytes = (int)json_string_length(json);
    return true;
}

static quire_status add_decoder(qr_decoder *d, const json_t *json, bool *fused, int depth, quire_error *error)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: a decoder without a type");
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(json, "decoders"), *item;
        size_t i;
        if (!json_is_array(list) || depth > 8)
            return qr_fail(error, QUIRE_FORMAT,
                           "tokenizer.json: decoder Sequence without a list, or nested too deeply");
        json_array_foreach((json_t *)list, i, item) QR_TRY(add_decoder(d, item, fused, depth + 1, error));
        return QUIRE_OK;
    }
    if (strcmp(type, "Fuse") == 0) {
        *fused = true;
    } else if (strcmp(type, "ByteLevel") == 0) {
        if (d->from_bytes > 0 || d->byte_fallback || *fused) return decoder_error(error, "ByteLevel after others");
        d->byte_level = *fused = true;
    } else if (strcmp(type, "ByteFallback") == 0) {
        if (*fused) return decoder_error(error, "ByteFallback after Fuse");
        d->byte_fallback = true;
    } else if (strcmp(type, "Replace") == 0) {
        const json_t *content = json_object_get(json, "content");
        bool empty = json_is_string(content) && json_string_length(content) == 0;
        if (*fused || d->from_bytes > 0) return decoder_error(error, "Replace after Fuse or another Replace");
        if (!copy_short(json_object_get(json_object_get(json, "pattern"), "String"), d->from, sizeof d->from,
                        &d->from_bytes) ||
            (!empty && !copy_short(content, d->to, sizeof d->to, &d->to_bytes)))
            return decoder_error(error, "Replace with a regex or a long text");
    } else if (strcmp(type, "Metaspace") == 0) {
        const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
        if (*fused || d->from_bytes > 0) return decoder_error(error, "Metaspace after Fuse or Replace");
        if (!copy_short(json_object_get(json, "replacement"), d->from, sizeof d->from, &d->from_bytes))
            return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: decoder Metaspace needs a replacement");
        d->to[0] = ' ', d->to_bytes = 1;
        d->metaspace =
            !(scheme && strcmp(scheme, "never") == 0) && !json_is_false(json_object_get(json, "add_prefix_space"));
    } else if (strcmp(type, "Strip") == 0) {
        json_int_t start = json_integer_value(json_object_get(json, "start"));
        if (!*fused || json_integer_value(json_object_get(json, "stop")) != 0 || start < 0 || start > 255)
            return decoder_error(error, "Strip of each token or at the end");
        if (start > 0 && (d->num_strip > 0 ||
                          !copy_short(json_object_get(json, "content"), d->strip, sizeof d->strip, &d->strip_bytes)))
            return decoder_error(error, "Strip without a character, or twice");
        d->num_strip = (int)start;
    } else {
        return decoder_error(error, type);
    }
    return QUIRE_OK;
}

quire_status qr_tokenizer_set_decoder(qr_tokenizer *tok, const json_t *json, quire_error *error)
{
    bool fused = false;
    tok->decoder = (qr_decoder){0};
    if (json && !json_is_null(json)) return add_decoder(&tok->decoder, json, &fused, 0, error);
    tok->decoder.separate = true;
    return QUIRE_OK;
}

/* ---- post-processor: which ids go before and after the text's own ---- */

static quire_status put_around(qr_tokenizer *tok, const int32_t *before, int num_before, const int32_t *after,
                               int num_after, quire_error *error)
{
    if (tok->num_before + num_before > QR_TOKENIZER_MAX_AROUND || tok->num_after + num_after > QR_TOKENIZER_MAX_AROUND)
        return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: more than %d special tokens before or after the text",
                       (int)QR_TOKENIZER_MAX_AROUND);
    memmove(tok->before + num_before, tok->before, (size_t)tok->num_before * sizeof *before);
    memcpy(tok->before, before, (size_t)num_before * sizeof *before);
    memcpy(tok->after + tok->num_after, after, (size_t)num_after * sizeof *after);
    tok->num_before += num_before;
    tok->num_after += num_after;
    return QUIRE_OK;
}

static quire_status add_template(qr_tokenizer *tok, const json_t *json, quire_error *error)
{
    int32_t around[2][QR_TOKENIZER_MAX_AROUND];
    int num[2] = {0, 0}, side = 0;
    const json_t *pieces = json_object_get(json, "single"), *specials = json_object_get(json, "special_tokens"), *piece,
                 *id;
    size_t i, k;
    json_array_foreach((json_t *)pieces, i, piece)
    {
        const json_t *special = json_object_get(piece, "SpecialToken");
        if (json_object_get(piece, "Sequence")) {
            if (side++ > 0)
                return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: a template that repeats the text");
            continue;
        }
        const char *name = json_string_value(json_object_get(special, "id"));
        const json_t *ids = name ? json_object_get(json_object_get(specials, name), "ids") : NULL;
        if (!json_is_array(ids))
            return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: the template's special token %zu is not defined", i);
        json_array_foreach((json_t *)ids, k, id)
        {
            if (id_of(id) < 0 || id_of(id) >= tok->vocab.num_tokens || num[side] == QR_TOKENIZER_MAX_AROUND)
                return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: the template's special token '%.60s' has a bad id",
                               name);
            around[side][num[side]++] = (int32_t)id_of(id);
        }
    }
    if (side == 0) return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: a template without the text");
    return put_around(tok, around[0], num[0], around[1], num[1], error);
}

static quire_status add_post_processor(qr_tokenizer *tok, const json_t *json, int depth, quire_error *error)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: a post-processor without a type");
    if (strcmp(type, "ByteLevel") == 0) return QUIRE_OK; /* changes offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return add_template(tok, json, error);
    if (strcmp(type, "Sequence") == 0 && depth < 8) {
        const json_t *item;
        size_t i;
        json_array_foreach(json_object_get(json, "processors"), i, item)
            QR_TRY(add_post_processor(tok, item, depth + 1, error));
        return QUIRE_OK;
    }
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) {
        int64_t cls = id_of(json_array_get(json_object_get(json, "cls"), 1)),
                sep = id_of(json_array_get(json_object_get(json, "sep"), 1));
        if (cls < 0 || sep < 0 || cls >= tok->vocab.num_tokens || sep >= tok->vocab.num_tokens)
            return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: post-processor %s has bad ids", type);
        return put_around(tok, &(int32_t){(int32_t)cls}, 1, &(int32_t){(int32_t)sep}, 1, error);
    }
    return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: post-processor '%.60s' is not supported", type);
}

/* ---- what the other files say: bos, eos, stop tokens, chat template ---- */

/* The id of "bos_token" and its kind in tokenizer_config.json: a string, or an object with content. */
static int32_t named_token(const qr_tokenizer *tok, const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    return json_is_string(value) ? qr_vocab_find_any(&tok->vocab, json_string_value(value), json_string_length(value))
                                 : -1;
}

/* An id, or the first of a list of ids; -1: none. With stop, all of them end generation. */
static int32_t listed_token(qr_tokenizer *tok, const json_t *value, bool stop)
{
    const json_t *first = json_is_array(value) ? json_array_get(value, 0) : value, *id;
    size_t i;
    int64_t result = id_of(first);
    if (stop && json_is_array(value))
        json_array_foreach((json_t *)value, i, id) qr_tokenizer_add_stop_id(tok, id_of(id));
    if (stop) qr_tokenizer_add_stop_id(tok, result);
    return result < tok->vocab.num_tokens ? (int32_t)result : -1;
}

/* transformers rebuilds the post-processor of these classes from add_bos_token and add_eos_token. */
static void apply_add_bos_eos(qr_tokenizer *tok, const json_t *config)
{
    static const char *const classes[] = {"Llama", "CodeLlama", "Gemma", "Cohere"};
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    const json_t *bos = json_object_get(config, "add_bos_token"), *eos = json_object_get(config, "add_eos_token");
    bool applies = false;
    for (size_t i = 0; name && i < sizeof classes / sizeof *classes; i++)
        if (strncmp(name, classes[i], strlen(classes[i])) == 0) applies = true;
    if (!applies) return;
    if (json_is_boolean(bos)) {
        tok->num_before = json_is_true(bos) && tok->bos_id >= 0;
        tok->before[0] = tok->bos_id;
    }
    if (json_is_boolean(eos)) {
        tok->num_after = json_is_true(eos) && tok->eos_id >= 0;
        tok->after[0] = tok->eos_id;
    }
}

static quire_status load_chat_template(qr_tokenizer *tok, const json_t *config, const char *chat_template,
                                       quire_error *error)
{
    const json_t *value = json_object_get(config, "chat_template"), *item;
    const char *text = chat_template ? chat_template : json_string_value(value);
    size_t i;
    if (!text && json_is_array(value)) { /* [{"name": "default", "template": "..."}, ...] */
        json_array_foreach((json_t *)value, i, item)
        {
            const char *name = json_string_value(json_object_get(item, "name"));
            if (name && strcmp(name, "default") == 0) text = json_string_value(json_object_get(item, "template"));
        }
    }
    if (!text) return QUIRE_OK;
    tok->chat_template = qr_strdup(text);
    return tok->chat_template ? QUIRE_OK : qr_fail_nomem(error, "the chat template", strlen(text));
}

static void load_ends(qr_tokenizer *tok, const json_t *config, const json_t *generation, const json_t *model)
{
    const json_t *files[] = {generation, model};
    tok->bos_id = named_token(tok, config, "bos_token");
    tok->eos_id = named_token(tok, config, "eos_token");
    qr_tokenizer_add_stop_id(tok, tok->eos_id);
    for (int i = 0; i < 2; i++) {
        int32_t bos = listed_token(tok, json_object_get(files[i], "bos_token_id"), false);
        int32_t eos = listed_token(tok, json_object_get(files[i], "eos_token_id"), true);
        if (tok->bos_id < 0 && !config) tok->bos_id = bos;
        if (tok->eos_id < 0) tok->eos_id = eos;
    }
}

quire_status qr_tokenizer_load_json(qr_tokenizer *tok, const json_t *tokenizer, const json_t *config,
                                    const json_t *generation, const json_t *model, const char *chat_template,
                                    quire_error *error)
{
    const json_t *added = json_object_get(tokenizer, "added_tokens"),
                 *post = json_object_get(tokenizer, "post_processor");
    if (!json_is_object(json_object_get(tokenizer, "model")))
        return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: no model");
    memcpy(tok->name, "of tokenizer.json", sizeof "of tokenizer.json");
    QR_TRY(qr_normalizer_init(&tok->normalizer, json_object_get(tokenizer, "normalizer"), error));
    QR_TRY(qr_pretokenizer_init(&tok->pre, json_object_get(tokenizer, "pre_tokenizer"), error));
    QR_TRY(load_model(tok, json_object_get(tokenizer, "model"), added, error));
    QR_TRY(load_added(tok, added, error));
    QR_TRY(qr_tokenizer_set_decoder(tok, json_object_get(tokenizer, "decoder"), error));
    if (post && !json_is_null(post)) QR_TRY(add_post_processor(tok, post, 0, error));
    load_ends(tok, config, generation, model);
    apply_add_bos_eos(tok, config);
    return load_chat_template(tok, config, chat_template, error);
}
