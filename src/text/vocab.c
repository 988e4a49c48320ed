#include "text/vocab.h"

#include <string.h>
#include <xxhash.h>

#include "text/unicode.h"

static uint32_t hash(const char *text, size_t text_bytes) { return (uint32_t)XXH3_64bits(text, text_bytes); }

/* A power of two at least twice n, so that tables stay half empty. */
static uint32_t table_size(uint64_t n)
{
    uint32_t size = 16;
    while (size < n * 2) size *= 2;
    return size;
}

quire_status qr_vocab_init(qr_vocab *vocab, uint64_t num_tokens, uint64_t num_merges, quire_error *error)
{
    *vocab = (qr_vocab){0};
    if (num_tokens == 0 || num_tokens > QR_VOCAB_MAX_TOKENS)
        return qr_fail(error, QUIRE_FORMAT, "tokenizer: %llu tokens, must be 1 to %d", (unsigned long long)num_tokens,
                       (int)QR_VOCAB_MAX_TOKENS);
    uint32_t text_slots = table_size(num_tokens);
    vocab->num_tokens = (int)num_tokens;
    vocab->tokens = qr_calloc(num_tokens, sizeof *vocab->tokens);
    vocab->by_text = qr_malloc(text_slots * sizeof *vocab->by_text);
    if (!vocab->tokens || !vocab->by_text) return qr_fail_nomem(error, "the vocabulary", (size_t)num_tokens * 20);
    memset(vocab->by_text, 0xFF, text_slots * sizeof *vocab->by_text);
    vocab->by_text_mask = text_slots - 1;
    return qr_vocab_reserve_merges(vocab, num_merges, error);
}

quire_status qr_vocab_reserve_merges(qr_vocab *vocab, uint64_t num_merges, quire_error *error)
{
    if (num_merges > QR_VOCAB_MAX_MERGES)
        return qr_fail(error, QUIRE_FORMAT, "tokenizer: %llu merges, must be at most %d",
                       (unsigned long long)num_merges, (int)QR_VOCAB_MAX_MERGES);
    uint32_t slots = table_size(num_merges);
    qr_merge *merges = qr_malloc(slots * sizeof *merges);
    uint32_t *by_rank = qr_calloc(num_merges, sizeof *by_rank);
    if (!merges || !by_rank) {
        qr_free(merges);
        qr_free(by_rank);
        return qr_fail_nomem(error, "merge rules", slots * sizeof *merges);
    }
    memset(merges, 0xFF, slots * sizeof *merges);
    qr_free(vocab->merges);
    qr_free(vocab->merged_by_rank);
    vocab->merges = merges;
    vocab->merged_by_rank = by_rank;
    vocab->max_merges = (uint32_t)num_merges;
    vocab->merges_mask = slots - 1;
    vocab->num_merges = 0;
    return QUIRE_OK;
}

void qr_vocab_deinit(qr_vocab *vocab)
{
    qr_free(vocab->tokens);
    qr_free(vocab->texts.data);
    qr_free(vocab->by_text);
    qr_free(vocab->merges);
    qr_free(vocab->merged_by_rank);
    *vocab = (qr_vocab){0};
}

static bool has_text(const qr_vocab *vocab, int32_t id, const char *text, size_t text_bytes)
{
    const qr_vocab_token *token = &vocab->tokens[id];
    return token->length == text_bytes && memcmp(vocab->texts.data + token->offset, text, text_bytes) == 0;
}

/* The slot that holds this text, or the empty one where it belongs. */
static uint32_t find_slot(const qr_vocab *vocab, const char *text, size_t text_bytes)
{
    uint32_t i = hash(text, text_bytes) & vocab->by_text_mask;
    while (vocab->by_text[i] >= 0 && !has_text(vocab, vocab->by_text[i], text, text_bytes))
        i = (i + 1) & vocab->by_text_mask;
    return i;
}

quire_status qr_vocab_set(qr_vocab *vocab, uint64_t id, const char *text, size_t text_bytes, int flags,
                          quire_error *error)
{
    if (!qr_unicode_is_valid(text, text_bytes)) {
        qr_buf repaired = {0};
        quire_status status = qr_unicode_replace_invalid(text, text_bytes, &repaired, error);
        if (status == QUIRE_OK) status = qr_vocab_set(vocab, id, repaired.data, repaired.len, flags, error);
        qr_free(repaired.data);
        return status;
    }
    if (id >= (uint64_t)vocab->num_tokens)
        return qr_fail(error, QUIRE_INVALID, "tokenizer: token id %llu is outside 0..%d", (unsigned long long)id,
                       vocab->num_tokens - 1);
    qr_vocab_token *token = &vocab->tokens[id];
    bool same = (token->flags & QR_TOKEN_PRESENT) && has_text(vocab, (int32_t)id, text, text_bytes);
    if (!same) {
        if (text_bytes > QR_VOCAB_MAX_BYTES || vocab->texts.len > QR_VOCAB_MAX_BYTES)
            return qr_fail(error, QUIRE_FORMAT, "tokenizer: more than %d bytes of token texts",
                           (int)QR_VOCAB_MAX_BYTES);
        if ((token->flags & QR_TOKEN_PRESENT) && (flags & QR_TOKEN_MODEL))
            return qr_fail(error, QUIRE_FORMAT, "tokenizer: token id %llu is given twice, with different texts",
                           (unsigned long long)id);
        uint32_t offset = (uint32_t)vocab->texts.len;
        if (qr_buf_append(&vocab->texts, text, text_bytes)) return qr_fail_nomem(error, "token texts", text_bytes);
        token->offset = offset;
        token->length = (uint32_t)text_bytes;
    }
    token->flags |= (uint8_t)(flags | QR_TOKEN_PRESENT);
    if (flags & QR_TOKEN_MODEL) {
        uint32_t slot = find_slot(vocab, text, text_bytes);
        if (vocab->by_text[slot] < 0) vocab->by_text[slot] = (int32_t)id;
        if (text_bytes > vocab->longest_bytes) vocab->longest_bytes = (uint32_t)text_bytes;
    }
    return QUIRE_OK;
}

int32_t qr_vocab_find(const qr_vocab *vocab, const char *text, size_t text_bytes)
{
    if (text_bytes > vocab->longest_bytes) return -1;
    return vocab->by_text[find_slot(vocab, text, text_bytes)];
}

int32_t qr_vocab_find_any(const qr_vocab *vocab, const char *text, size_t text_bytes)
{
    int32_t id = qr_vocab_find(vocab, text, text_bytes);
    for (int32_t i = 0; id < 0 && i < vocab->num_tokens; i++)
        if ((vocab->tokens[i].flags & QR_TOKEN_PRESENT) && has_text(vocab, i, text, text_bytes)) id = i;
    return id;
}

const char *qr_vocab_text(const qr_vocab *vocab, int32_t id, size_t *out_bytes)
{
    if (id < 0 || id >= vocab->num_tokens || !(vocab->tokens[id].flags & QR_TOKEN_PRESENT)) return NULL;
    *out_bytes = vocab->tokens[id].length;
    return vocab->texts.data + vocab->tokens[id].offset;
}

void qr_vocab_put_merge(qr_vocab *vocab, uint32_t left, uint32_t right, uint32_t rank, uint32_t merged)
{
    uint64_t key = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    uint32_t i = (uint32_t)(key >> 32) & vocab->merges_mask;
    while (vocab->merges[i].left != UINT32_MAX && (vocab->merges[i].left != left || vocab->merges[i].right != right))
        i = (i + 1) & vocab->merges_mask;
    if (vocab->merges[i].left == UINT32_MAX) vocab->num_merges++;
    vocab->merges[i] = (qr_merge){left, right, rank, merged};
    vocab->merged_by_rank[rank] = merged;
}

quire_status qr_vocab_add_merge(qr_vocab *vocab, const char *left, size_t left_bytes, const char *right,
                                size_t right_bytes, uint32_t rank, bool *out_known, quire_error *error)
{
    char small[256], *joined = small;
    size_t bytes = left_bytes + right_bytes;
    int32_t left_id = qr_vocab_find(vocab, left, left_bytes), right_id = qr_vocab_find(vocab, right, right_bytes);
    *out_known = false;
    if (left_id < 0 || right_id < 0) return QUIRE_OK;
    if (bytes > sizeof small && !(joined = qr_malloc(bytes))) return qr_fail_nomem(error, "a merge rule", bytes);
    memcpy(joined, left, left_bytes);
    memcpy(joined + left_bytes, right, right_bytes);
    int32_t merged = qr_vocab_find(vocab, joined, bytes);
    if (joined != small) qr_free(joined);
    if (merged < 0) return QUIRE_OK;
    *out_known = true;
    qr_vocab_put_merge(vocab, (uint32_t)left_id, (uint32_t)right_id, rank, (uint32_t)merged);
    return QUIRE_OK;
}
