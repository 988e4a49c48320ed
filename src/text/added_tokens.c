#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

quire_status qr_added_tokens_add(qr_added_tokens *added, qr_added_token token, quire_error *error)
{
    if (token.pattern_bytes == 0) {
        qr_free(token.pattern);
        return QUIRE_OK;
    }
    if (added->len == added->cap) {
        size_t cap = added->cap ? added->cap * 2 : 32;
        qr_added_token *tokens = qr_realloc(added->tokens, cap * sizeof *tokens);
        if (!tokens) {
            qr_free(token.pattern);
            return qr_fail_nomem(error, "added tokens", cap * sizeof *tokens);
        }
        added->tokens = tokens;
        added->cap = cap;
    }
    added->tokens[added->len++] = token;
    added->starts[(unsigned char)token.pattern[0]] = true;
    return QUIRE_OK;
}

static int compare(const void *a, const void *b)
{
    const qr_added_token *x = a, *y = b;
    size_t n = x->pattern_bytes < y->pattern_bytes ? x->pattern_bytes : y->pattern_bytes;
    int order = memcmp(x->pattern, y->pattern, n);
    if (order != 0) return order;
    if (x->pattern_bytes != y->pattern_bytes) return x->pattern_bytes < y->pattern_bytes ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

void qr_added_tokens_sort(qr_added_tokens *added)
{
    if (added->len > 1) qsort(added->tokens, added->len, sizeof *added->tokens, compare);
}

void qr_added_tokens_deinit(qr_added_tokens *added)
{
    for (size_t i = 0; i < added->len; i++) qr_free(added->tokens[i].pattern);
    qr_free(added->tokens);
    *added = (qr_added_tokens){0};
}

/* First index in [low, high) whose byte at `depth` is >= byte (> byte with `after`); all share the bytes before. */
static size_t bound(const qr_added_tokens *added, size_t low, size_t high, size_t depth, int byte, bool after)
{
    while (low < high) {
        size_t mid = (low + high) / 2;
        const qr_added_token *t = &added->tokens[mid];
        int b = t->pattern_bytes > depth ? (unsigned char)t->pattern[depth] : -1;
        if (b < byte || (after && b == byte))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The longest token that text starts with, NULL: none. The sorted tokens with the right first bytes are a range that
 * shrinks byte by byte. */
static const qr_added_token *longest(const qr_added_tokens *added, const char *text, size_t text_bytes)
{
    const qr_added_token *best = NULL;
    size_t low = 0, high = added->len;
    for (size_t depth = 0; depth < text_bytes && low < high; depth++) {
        int byte = (unsigned char)text[depth];
        low = bound(added, low, high, depth, byte, false);
        high = bound(added, low, high, depth, byte, true);
        if (low < high && added->tokens[low].pattern_bytes == depth + 1) best = &added->tokens[low];
    }
    return best;
}

static uint32_t char_before(const char *text, size_t end, size_t *start)
{
    int n;
    *start = end - 1;
    while (*start > 0 && ((unsigned char)text[*start] & 0xC0) == 0x80) --*start;
    return qr_unicode_decode(text + *start, &n);
}

static bool is_single_word(const char *text, size_t text_bytes, size_t start, size_t end)
{
    size_t at;
    int n;
    return (start == 0 || !qr_unicode_is_word(char_before(text, start, &at))) &&
           (end == text_bytes || !qr_unicode_is_word(qr_unicode_decode(text + end, &n)));
}

/* End of the white space that begins at `at`; remembered, so that a long run is walked once. */
static size_t skip_spaces(qr_added_cut *cut, size_t at)
{
    int n;
    if (at < cut->space_end) return cut->space_end;
    while (at < cut->text_bytes && qr_unicode_is_space(qr_unicode_decode(cut->text + at, &n))) at += (size_t)n;
    cut->space_end = at;
    return at;
}

bool qr_added_tokens_next(const qr_added_tokens *added, qr_added_cut *cut, size_t *gap_start, size_t *gap_end,
                          int32_t *id)
{
    size_t at = cut->search_from;
    *gap_start = cut->gap_start;
    while (added->len > 0 && at < cut->text_bytes) {
        const qr_added_token *token = NULL;
        if (added->starts[(unsigned char)cut->text[at]]) token = longest(added, cut->text + at, cut->text_bytes - at);
        if (!token) {
            at++;
            continue;
        }
        size_t start = at, end = at + token->pattern_bytes, before;
        at = end;
        if ((cut->skip_special && token->special) ||
            (token->single_word && !is_single_word(cut->text, cut->text_bytes, start, end)))
            continue;
        if (token->lstrip)
            while (start > cut->gap_start && qr_unicode_is_space(char_before(cut->text, start, &before)))
                start = before;
        if (token->rstrip) end = skip_spaces(cut, end);
        *gap_end = start;
        *id = token->id;
        cut->search_from = at;
        cut->gap_start = end;
        return true;
    }
    *gap_end = cut->text_bytes;
    cut->search_from = cut->gap_start = cut->text_bytes;
    return false;
}
