#include "text/tokenizer.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "text/tokenizer_impl.h"
#include "text/unicode.h"

/* ---- building ---- */

static quire_status load(qr_tokenizer *tok, const qr_checkpoint *ckpt, quire_error *error)
{
    const json_t *tokenizer = NULL, *config = NULL, *generation = NULL, *model = NULL;
    const char *chat_template = NULL;
    size_t bytes;
    if (qr_checkpoint_is_gguf(ckpt)) return qr_tokenizer_load_gguf(tok, ckpt, error);
    QR_TRY(qr_checkpoint_json(ckpt, "tokenizer.json", &tokenizer, error));
    if (!tokenizer)
        return qr_fail(error, QUIRE_UNSUPPORTED, "%s: no tokenizer.json (other tokenizer files are not read)",
                       qr_checkpoint_path(ckpt));
    QR_TRY(qr_checkpoint_json(ckpt, "tokenizer_config.json", &config, error));
    QR_TRY(qr_checkpoint_json(ckpt, "generation_config.json", &generation, error));
    QR_TRY(qr_checkpoint_json(ckpt, "config.json", &model, error));
    QR_TRY(qr_checkpoint_text(ckpt, "chat_template.jinja", &chat_template, &bytes, error));
    return qr_tokenizer_load_json(tok, tokenizer, config, generation, model, chat_template, error);
}

static quire_status create(quire_status status, qr_tokenizer *tok, qr_tokenizer **out, quire_error *error)
{
    if (status == QUIRE_OK) status = qr_tokenizer_finish(tok, error);
    if (status != QUIRE_OK) {
        qr_tokenizer_destroy(tok);
        return status;
    }
    *out = tok;
    return QUIRE_OK;
}

quire_status qr_tokenizer_create(const qr_checkpoint *ckpt, qr_tokenizer **out, quire_error *error)
{
    *out = NULL;
    qr_tokenizer *tok = qr_calloc(1, sizeof *tok);
    if (!tok) return qr_fail_nomem(error, "the tokenizer", sizeof *tok);
    return create(load(tok, ckpt, error), tok, out, error);
}

quire_status qr_tokenizer_create_json(const json_t *tokenizer, const json_t *config, const json_t *generation,
                                      const json_t *model, const char *chat_template, qr_tokenizer **out,
                                      quire_error *error)
{
    *out = NULL;
    qr_tokenizer *tok = qr_calloc(1, sizeof *tok);
    if (!tok) return qr_fail_nomem(error, "the tokenizer", sizeof *tok);
    return create(qr_tokenizer_load_json(tok, tokenizer, config, generation, model, chat_template, error), tok, out,
                  error);
}

void qr_tokenizer_destroy(qr_tokenizer *tok)
{
    if (!tok) return;
    qr_vocab_deinit(&tok->vocab);
    qr_normalizer_deinit(&tok->normalizer);
    qr_pretokenizer_deinit(&tok->pre);
    qr_added_tokens_deinit(&tok->raw);
    qr_added_tokens_deinit(&tok->normalized);
    qr_free(tok->bos_text);
    qr_free(tok->eos_text);
    qr_free(tok->chat_template);
    qr_free(tok);
}

quire_status qr_tokenizer_add_token(qr_tokenizer *tok, const qr_added_spec *spec, quire_error *error)
{
    int flags = QR_TOKEN_ADDED | (spec->special ? QR_TOKEN_SPECIAL : 0) | (spec->normalized ? QR_TOKEN_NORMALIZED : 0);
    QR_TRY(qr_vocab_set(&tok->vocab, (uint64_t)spec->id, spec->text, spec->text_bytes, flags, error));
    qr_added_token token = {.id = (int32_t)spec->id, .special = spec->special, .lstrip = spec->lstrip};
    token.rstrip = spec->rstrip, token.single_word = spec->single_word;
    qr_buf pattern = {0}, tmp = {0};
    quire_status status = QUIRE_OK;
    if (spec->normalized) {
        qr_regex_scratch *scratch = NULL;
        status = qr_regex_scratch_create(&scratch, error);
        if (status == QUIRE_OK)
            status = qr_normalizer_run(&tok->normalizer, scratch, spec->text, spec->text_bytes, &pattern, &tmp, error);
        qr_regex_scratch_destroy(scratch);
        qr_free(tmp.data);
    } else if (qr_buf_append(&pattern, spec->text, spec->text_bytes)) {
        status = qr_fail_nomem(error, "added tokens", spec->text_bytes);
    }
    if (status != QUIRE_OK) {
        qr_free(pattern.data);
        return status;
    }
    token.pattern = pattern.data;
    token.pattern_bytes = pattern.len;
    return qr_added_tokens_add(spec->normalized ? &tok->normalized : &tok->raw, token, error);
}

void qr_tokenizer_add_stop_id(qr_tokenizer *tok, int64_t id)
{
    if (id < 0 || id >= tok->vocab.num_tokens || tok->num_stop_ids == QR_TOKENIZER_MAX_STOP_IDS) return;
    for (int i = 0; i < tok->num_stop_ids; i++)
        if (tok->stop_ids[i] == id) return;
    tok->stop_ids[tok->num_stop_ids++] = (int32_t)id;
}

/* True when the vocabulary knows ▁ and no merge joins something else with a ▁ on its right: text can then be cut
 * before each ▁ without changing any id. */
static bool words_start_at(const qr_tokenizer *tok, const char *meta)
{
    const qr_vocab *vocab = &tok->vocab;
    size_t n = strlen(meta), left_bytes, right_bytes;
    if (tok->bpe.raw_bytes || tok->bpe.ignore_merges || qr_vocab_find(vocab, meta, n) < 0) return false;
    for (uint32_t i = 0; i <= vocab->merges_mask; i++) {
        if (vocab->merges[i].left == UINT32_MAX) continue;
        const char *left = qr_vocab_text(vocab, (int32_t)vocab->merges[i].left, &left_bytes);
        const char *right = qr_vocab_text(vocab, (int32_t)vocab->merges[i].right, &right_bytes);
        bool right_starts = right_bytes >= n && memcmp(right, meta, n) == 0;
        bool left_ends = left_bytes >= n && memcmp(left + left_bytes - n, meta, n) == 0;
        if (right_starts && !left_ends) return false;
    }
    return true;
}

static quire_status set_text(const qr_tokenizer *tok, int32_t id, char **text, quire_error *error)
{
    size_t bytes = 0;
    const char *s = qr_vocab_text(&tok->vocab, id, &bytes);
    if (*text) return QUIRE_OK;
    *text = qr_strndup(s ? s : "", bytes);
    return *text ? QUIRE_OK : qr_fail_nomem(error, "the tokenizer", bytes);
}

quire_status qr_tokenizer_finish(qr_tokenizer *tok, quire_error *error)
{
    static const char meta[] = "\xE2\x96\x81";
    tok->bpe.raw_bytes = tok->pre.raw_bytes;
    qr_bpe_init(&tok->bpe, &tok->vocab);
    if (words_start_at(tok, meta)) qr_pretokenizer_add_word_starts(&tok->pre, meta);
    qr_added_tokens_sort(&tok->raw);
    qr_added_tokens_sort(&tok->normalized);
    if (tok->bos_id >= tok->vocab.num_tokens) tok->bos_id = -1;
    if (tok->eos_id >= tok->vocab.num_tokens) tok->eos_id = -1;
    qr_tokenizer_add_stop_id(tok, tok->eos_id);
    QR_TRY(set_text(tok, tok->bos_id, &tok->bos_text, error));
    return set_text(tok, tok->eos_id, &tok->eos_text, error);
}

/* ---- encoding ---- */

/* A word that was encoded before in this call, and where its ids are. */
typedef struct cached_word {
    uint64_t hash;
    size_t key; /* offset in encoder.keys */
    uint32_t key_bytes, num_ids;
    size_t first_id;
} cached_word;

enum { CACHE_MAX_WORD_BYTES = 48, CACHE_MAX_SLOTS = 1 << 14 };

typedef struct encoder {
    const qr_tokenizer *tok;
    bool parse_special;
    qr_ids ids;
    qr_pretokenize_scratch pre;
    qr_bpe_scratch bpe;
    qr_buf normalized, tmp, keys;
    cached_word *cache;
    size_t cache_mask;
} encoder;

static quire_status encode_word(void *ctx, const char *word, size_t word_bytes, quire_error *error)
{
    encoder *e = ctx;
    const qr_tokenizer *tok = e->tok;
    if (!e->cache || word_bytes > CACHE_MAX_WORD_BYTES)
        return qr_bpe_encode(&tok->bpe, &tok->vocab, &e->bpe, word, word_bytes, &e->ids, error);
    uint64_t hash = XXH3_64bits(word, word_bytes);
    cached_word *slot = &e->cache[hash & e->cache_mask];
    if (slot->key_bytes == word_bytes && slot->hash == hash &&
        memcmp(e->keys.data + slot->key, word, word_bytes) == 0) {
        for (uint32_t i = 0; i < slot->num_ids; i++)
            if (qr_ids_push(&e->ids, e->ids.data[slot->first_id + i])) return qr_fail_nomem(error, "token ids", 1);
        return QUIRE_OK;
    }
    size_t first = e->ids.len, key = e->keys.len;
    QR_TRY(qr_bpe_encode(&tok->bpe, &tok->vocab, &e->bpe, word, word_bytes, &e->ids, error));
    if (qr_buf_append(&e->keys, word, word_bytes)) return qr_fail_nomem(error, "words", word_bytes);
    *slot = (cached_word){hash, key, (uint32_t)word_bytes, (uint32_t)(e->ids.len - first), first};
    return QUIRE_OK;
}

/* A part of the input between tokens that were cut out of it as it is. */
static quire_status encode_part(encoder *e, const char *text, size_t text_bytes, bool at_start, quire_error *error)
{
    const qr_tokenizer *tok = e->tok;
    if (tok->normalizer.num_steps > 0) {
        QR_TRY(qr_normalizer_run(&tok->normalizer, e->pre.regex, text, text_bytes, &e->normalized, &e->tmp, error));
        text = e->normalized.data ? e->normalized.data : "";
        text_bytes = e->normalized.len;
    }
    qr_added_cut cut = {.text = text, .text_bytes = text_bytes, .skip_special = !e->parse_special};
    for (bool more = true; more;) {
        size_t start, end;
        int32_t id;
        more = qr_added_tokens_next(&tok->normalized, &cut, &start, &end, &id);
        if (start < end)
            QR_TRY(qr_pretokenizer_run(&tok->pre, &e->pre, text + start, end - start, at_start && start == 0,
                                       encode_word, e, error));
        if (more && qr_ids_push(&e->ids, id)) return qr_fail_nomem(error, "token ids", 1);
    }
    return QUIRE_OK;
}

static quire_status encode_text(encoder *e, const char *text, size_t text_bytes, quire_error *error)
{
    qr_added_cut cut = {.text = text, .text_bytes = text_bytes, .skip_special = !e->parse_special};
    for (bool more = true; more;) {
        size_t start, end;
        int32_t id;
        more = qr_added_tokens_next(&e->tok->raw, &cut, &start, &end, &id);
        if (start < end) QR_TRY(encode_part(e, text + start, end - start, start == 0, error));
        if (more && qr_ids_push(&e->ids, id)) return qr_fail_nomem(error, "token ids", 1);
    }
    return QUIRE_OK;
}

/* Working memory in proportion to the text: short texts need no cache of words. */
static quire_status encoder_init(encoder *e, size_t text_bytes, quire_error *error)
{
    size_t slots = 64;
    while (slots < text_bytes / 8 && slots < CACHE_MAX_SLOTS) slots *= 2;
    if (text_bytes >= 256 && !(e->cache = qr_calloc(slots, sizeof *e->cache)))
        return qr_fail_nomem(error, "words", slots * sizeof *e->cache);
    e->cache_mask = slots - 1;
    return qr_regex_scratch_create(&e->pre.regex, error);
}

static void encoder_deinit(encoder *e)
{
    qr_regex_scratch_destroy(e->pre.regex);
    qr_pretokenize_scratch_deinit(&e->pre);
    qr_bpe_scratch_deinit(&e->bpe);
    qr_free(e->normalized.data);
    qr_free(e->tmp.data);
    qr_free(e->keys.data);
    qr_free(e->cache);
    qr_free(e->ids.data);
}

static quire_status encode(encoder *e, const char *text, size_t text_bytes, bool add_special, quire_error *error)
{
    const qr_tokenizer *tok = e->tok;
    QR_TRY(encoder_init(e, text_bytes, error));
    for (int i = 0; i < tok->num_before && add_special; i++)
        if (qr_ids_push(&e->ids, tok->before[i])) return qr_fail_nomem(error, "token ids", 1);
    if (text_bytes > 0) QR_TRY(encode_text(e, text, text_bytes, error));
    for (int i = 0; i < tok->num_after && add_special; i++)
        if (qr_ids_push(&e->ids, tok->after[i])) return qr_fail_nomem(error, "token ids", 1);
    return QUIRE_OK;
}

quire_status qr_tokenizer_encode(const qr_tokenizer *tok, const char *text, size_t text_bytes, bool add_special,
                                 bool parse_special, int32_t **out_ids, size_t *out_num_ids, quire_error *error)
{
    enum { MAX_TEXT_BYTES = 64 << 20 };
    *out_ids = NULL;
    *out_num_ids = 0;
    if (text_bytes > MAX_TEXT_BYTES)
        return qr_fail(error, QUIRE_UNSUPPORTED, "text of %zu bytes: at most %d can be tokenized at once", text_bytes,
                       (int)MAX_TEXT_BYTES);
    encoder e = {.tok = tok, .parse_special = parse_special};
    qr_buf repaired = {0};
    quire_status status = QUIRE_OK;
    if (!qr_unicode_is_valid(text, text_bytes)) {
        status = qr_unicode_replace_invalid(text, text_bytes, &repaired, error);
        text = repaired.data;
        text_bytes = repaired.len;
    }
    if (status == QUIRE_OK) status = encode(&e, text, text_bytes, add_special, error);
    if (status == QUIRE_OK && !e.ids.data && !(e.ids.data = qr_malloc(sizeof *e.ids.data)))
        status = qr_fail_nomem(error, "token ids", 1);
    if (status == QUIRE_OK) {
        *out_ids = e.ids.data;
        *out_num_ids = e.ids.len;
        e.ids.data = NULL;
    }
    qr_free(repaired.data);
    encoder_deinit(&e);
    return status;
}

/* ---- looking things up ---- */

int qr_tokenizer_vocab_size(const qr_tokenizer *tok) { return tok->vocab.num_tokens; }

const char *qr_tokenizer_token(const qr_tokenizer *tok, int32_t id, size_t *out_bytes)
{
    return qr_vocab_text(&tok->vocab, id, out_bytes);
}

bool qr_tokenizer_is_special(const qr_tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->vocab.num_tokens && (tok->vocab.tokens[id].flags & QR_TOKEN_SPECIAL);
}

int32_t qr_tokenizer_bos_id(const qr_tokenizer *tok) { return tok->bos_id; }
int32_t qr_tokenizer_eos_id(const qr_tokenizer *tok) { return tok->eos_id; }

const int32_t *qr_tokenizer_stop_ids(const qr_tokenizer *tok, int *out_num)
{
    *out_num = tok->num_stop_ids;
    return tok->stop_ids;
}

const char *qr_tokenizer_bos_text(const qr_tokenizer *tok) { return tok->bos_text; }
const char *qr_tokenizer_eos_text(const qr_tokenizer *tok) { return tok->eos_text; }
const char *qr_tokenizer_chat_template(const qr_tokenizer *tok) { return tok->chat_template; }

void qr_tokenizer_describe(const qr_tokenizer *tok, char *out, size_t out_bytes)
{
    const char *kind = tok->pre.byte_level      ? "byte-level BPE"
                       : tok->bpe.byte_fallback ? "BPE with byte fallback"
                                                : "BPE";
    snprintf(out, out_bytes, "%s, pre-tokenizer %s, %d tokens, %d merges", kind, tok->name, tok->vocab.num_tokens,
             tok->vocab.num_merges);
}
