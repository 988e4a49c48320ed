#define _GNU_SOURCE
#include "text/pretokenize.h"

#include <string.h>

#include "text/bpe.h"
#include "text/unicode.h"

#define GPT2_REGEX "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* ---- reading ---- */

static quire_status add_stage(qr_pretokenizer *pre, int kind, qr_pretokenize_stage **out, quire_error *error)
{
    if (pre->num_stages == QR_PRETOKENIZER_MAX_STAGES)
        return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: more than %d pre-tokenizer stages",
                       (int)QR_PRETOKENIZER_MAX_STAGES);
    qr_pretokenize_stage *stage = &pre->stages[pre->num_stages++];
    *stage = (qr_pretokenize_stage){.kind = kind, .behavior = QR_SPLIT_ISOLATED};
    *out = stage;
    return QUIRE_OK;
}

static quire_status read_behavior(const json_t *json, qr_split_behavior fallback, qr_split_behavior *out,
                                  quire_error *error)
{
    static const char *const names[] = {"Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext"};
    const char *name = json_string_value(json_object_get(json, "behavior"));
    *out = fallback;
    if (!name) return QUIRE_OK;
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (qr_split_behavior)i;
        return QUIRE_OK;
    }
    return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: unknown split behavior '%.60s'", name);
}

static quire_status read_char(const json_t *json, const char *key, qr_pretokenize_stage *stage, quire_error *error)
{
    const json_t *value = json_object_get(json, key);
    int n;
    if (!json_is_string(value) || json_string_length(value) == 0 ||
        (qr_unicode_decode(json_string_value(value), &n), (size_t)n != json_string_length(value)))
        return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: pre-tokenizer's %s must be one character", key);
    memcpy(stage->replacement, json_string_value(value), (size_t)n);
    stage->replacement_bytes = n;
    return QUIRE_OK;
}

static quire_status add_split(qr_pretokenizer *pre, const json_t *json, quire_error *error)
{
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *literal = json_object_get(pattern, "String"), *regex = json_object_get(pattern, "Regex");
    const json_t *source = literal ? literal : regex;
    qr_pretokenize_stage *stage = NULL;
    if (!json_is_string(source))
        return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: pre-tokenizer Split needs a pattern (String or Regex)");
    QR_TRY(add_stage(pre, QR_STAGE_REGEX, &stage, error));
    QR_TRY(read_behavior(json, QR_SPLIT_ISOLATED, &stage->behavior, error));
    stage->invert = json_is_true(json_object_get(json, "invert"));
    return qr_regex_create(json_string_value(source), json_string_length(source), literal != NULL, &stage->regex,
                           error);
}

static quire_status add_byte_level(qr_pretokenizer *pre, const json_t *json, quire_error *error)
{
    qr_pretokenize_stage *stage = NULL;
    const json_t *prefix = json_object_get(json, "add_prefix_space"), *regex = json_object_get(json, "use_regex");
    if (pre->byte_level) return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: two ByteLevel pre-tokenizers");
    if (!json_is_false(prefix)) QR_TRY(add_stage(pre, QR_STAGE_PREFIX_SPACE, &stage, error));
    if (!json_is_false(regex)) {
        QR_TRY(add_stage(pre, QR_STAGE_REGEX, &stage, error));
        QR_TRY(qr_regex_create(GPT2_REGEX, strlen(GPT2_REGEX), false, &stage->regex, error));
    }
    pre->byte_level = true;
    return add_stage(pre, QR_STAGE_BYTE_LEVEL, &stage, error);
}

static quire_status add_metaspace(qr_pretokenizer *pre, const json_t *json, quire_error *error)
{
    qr_pretokenize_stage *stage = NULL;
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    QR_TRY(add_stage(pre, QR_STAGE_METASPACE, &stage, error));
    QR_TRY(read_char(json, "replacement", stage, error));
    if (json_is_false(json_object_get(json, "add_prefix_space")) || (scheme && strcmp(scheme, "never") == 0))
        stage->prepend = QR_PREPEND_NEVER;
    else if (scheme && strcmp(scheme, "first") == 0)
        stage->prepend = QR_PREPEND_FIRST;
    else if (!scheme || strcmp(scheme, "always") == 0)
        stage->prepend = QR_PREPEND_ALWAYS;
    else
        return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: unknown prepend_scheme '%.60s'", scheme);
    if (json_is_false(json_object_get(json, "split"))) return QUIRE_OK;
    const qr_pretokenize_stage *meta = stage;
    QR_TRY(add_stage(pre, QR_STAGE_CHAR, &stage, error));
    memcpy(stage->replacement, meta->replacement, sizeof stage->replacement);
    stage->replacement_bytes = meta->replacement_bytes;
    stage->behavior = QR_SPLIT_MERGED_WITH_NEXT;
    return QUIRE_OK;
}

static quire_status add_stages(qr_pretokenizer *pre, const json_t *json, int depth, quire_error *error)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    qr_pretokenize_stage *stage = NULL;
    if (!type) return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: a pre-tokenizer without a type");
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(json, "pretokenizers"), *item;
        size_t i;
        if (!json_is_array(list) || depth > 8)
            return qr_fail(error, QUIRE_FORMAT,
                           "tokenizer.json: pre-tokenizer Sequence without a list, or nested too deeply");
        json_array_foreach((json_t *)list, i, item) QR_TRY(add_stages(pre, item, depth + 1, error));
        return QUIRE_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) return add_byte_level(pre, json, error);
    if (strcmp(type, "Split") == 0) return add_split(pre, json, error);
    if (strcmp(type, "Metaspace") == 0) return add_metaspace(pre, json, error);
    if (strcmp(type, "Digits") == 0) {
        QR_TRY(add_stage(pre, QR_STAGE_NUMERIC, &stage, error));
        if (!json_is_true(json_object_get(json, "individual_digits"))) stage->behavior = QR_SPLIT_CONTIGUOUS;
        return QUIRE_OK;
    }
    if (strcmp(type, "Punctuation") == 0) {
        QR_TRY(add_stage(pre, QR_STAGE_PUNCT, &stage, error));
        return read_behavior(json, QR_SPLIT_ISOLATED, &stage->behavior, error);
    }
    if (strcmp(type, "WhitespaceSplit") == 0) {
        QR_TRY(add_stage(pre, QR_STAGE_SPACE, &stage, error));
        stage->behavior = QR_SPLIT_REMOVED;
        return QUIRE_OK;
    }
    if (strcmp(type, "Whitespace") == 0) {
        QR_TRY(add_stage(pre, QR_STAGE_REGEX, &stage, error));
        stage->behavior = QR_SPLIT_REMOVED;
        stage->invert = true;
        return qr_regex_create("\\w+|[^\\w\\s]+", 13, false, &stage->regex, error);
    }
    if (strcmp(type, "CharDelimiterSplit") == 0) {
        QR_TRY(add_stage(pre, QR_STAGE_CHAR, &stage, error));
        stage->behavior = QR_SPLIT_REMOVED;
        return read_char(json, "delimiter", stage, error);
    }
    return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: pre-tokenizer '%.60s' is not supported", type);
}

quire_status qr_pretokenizer_init(qr_pretokenizer *pre, const json_t *json, quire_error *error)
{
    *pre = (qr_pretokenizer){0};
    if (!json || json_is_null(json)) return QUIRE_OK;
    QR_TRY(add_stages(pre, json, 0, error));
    if (pre->num_stages > 0 && pre->stages[pre->num_stages - 1].kind == QR_STAGE_BYTE_LEVEL) {
        pre->num_stages--;
        pre->raw_bytes = true;
    }
    return QUIRE_OK;
}

void qr_pretokenizer_deinit(qr_pretokenizer *pre)
{
    for (int i = 0; i < pre->num_stages; i++) qr_regex_destroy(pre->stages[i].regex);
    *pre = (qr_pretokenizer){0};
}

void qr_pretokenizer_add_word_starts(qr_pretokenizer *pre, const char *replacement)
{
    if (pre->num_stages == QR_PRETOKENIZER_MAX_STAGES) return;
    qr_pretokenize_stage *stage = &pre->stages[pre->num_stages++];
    *stage = (qr_pretokenize_stage){.kind = QR_STAGE_WORD_STARTS, .behavior = QR_SPLIT_ISOLATED};
    stage->replacement_bytes = (int)strlen(replacement);
    memcpy(stage->replacement, replacement, (size_t)stage->replacement_bytes);
}

void qr_pretokenize_scratch_deinit(qr_pretokenize_scratch *scratch)
{
    for (int i = 0; i <= QR_PRETOKENIZER_MAX_STAGES; i++) {
        qr_free(scratch->stages[i].text.data);
        qr_free(scratch->stages[i].shadow.data);
    }
    *scratch = (qr_pretokenize_scratch){0};
}

/* ---- running ---- */

typedef struct piece {
    const char *text;
    const char *shadow; /* text with proxies for new characters, what regexes see; often text itself */
    size_t bytes;
    bool at_start;
} piece;

typedef struct run {
    const qr_pretokenizer *pre;
    qr_pretokenize_scratch *scratch;
    qr_word_fn fn;
    void *ctx;
    quire_error *error;
} run;

/* The pieces that a stage's matches make, one by one: spans [start, end) wait in `open` until the next does not join.
 */
typedef struct splitter {
    run *r;
    int next_stage;
    const piece *whole;
    qr_split_behavior behavior;
    bool invert, has_open, open_match;
    size_t open_start, open_end;
} splitter;

static quire_status run_stage(run *r, int idx, const piece *p);

/* Where does the next match start? The finders write [*start, *end) and return false when there is none. */
typedef bool (*char_test)(uint32_t cp);

static bool find_char_class(char_test test, const piece *p, size_t from, size_t *start, size_t *end)
{
    for (size_t i = from; i < p->bytes;) {
        int n;
        bool hit = test(qr_unicode_decode(p->text + i, &n));
        if (hit) {
            *start = i, *end = i + (size_t)n;
            return true;
        }
        i += (size_t)n;
    }
    return false;
}

static bool find_replacement(const qr_pretokenize_stage *stage, const piece *p, size_t from, size_t *start, size_t *end)
{
    if (from >= p->bytes) return false;
    const char *hit = memmem(p->text + from, p->bytes - from, stage->replacement, (size_t)stage->replacement_bytes);
    if (!hit) return false;
    *start = (size_t)(hit - p->text), *end = *start + (size_t)stage->replacement_bytes;
    return true;
}

/* As the regex [^▁]+ or so would: each match runs from a ▁ to before the next one that follows something else. */
static bool find_word_start(const qr_pretokenize_stage *stage, const piece *p, size_t from, size_t *start, size_t *end)
{
    size_t n = (size_t)stage->replacement_bytes, s, e, i = from;
    if (from >= p->bytes) return false;
    while (i + n <= p->bytes && memcmp(p->text + i, stage->replacement, n) == 0) i += n;
    *start = from;
    *end = find_replacement(stage, p, i, &s, &e) ? s : p->bytes;
    return true;
}

static quire_status find(run *r, const qr_pretokenize_stage *stage, const piece *p, size_t from, bool *found,
                         size_t *start, size_t *end)
{
    switch ((int)stage->kind) {
    case QR_STAGE_REGEX:
        return qr_regex_find(stage->regex, r->scratch->regex, p->shadow, p->bytes, from, found, start, end, r->error);
    case QR_STAGE_NUMERIC: *found = find_char_class(qr_unicode_is_numeric, p, from, start, end); break;
    case QR_STAGE_PUNCT: *found = find_char_class(qr_unicode_is_punct, p, from, start, end); break;
    case QR_STAGE_SPACE: *found = find_char_class(qr_unicode_is_space, p, from, start, end); break;
    case QR_STAGE_CHAR: *found = find_replacement(stage, p, from, start, end); break;
    default: *found = find_word_start(stage, p, from, start, end); break;
    }
    return QUIRE_OK;
}

static quire_status close_open(splitter *s)
{
    if (!s->has_open || s->open_start == s->open_end || (s->behavior == QR_SPLIT_REMOVED && s->open_match))
        return QUIRE_OK;
    piece part = {s->whole->text + s->open_start, s->whole->shadow + s->open_start, s->open_end - s->open_start,
                  s->whole->at_start && s->open_start == 0};
    return run_stage(s->r, s->next_stage, &part);
}

static quire_status add_span(splitter *s, size_t start, size_t end, bool match)
{
    bool joins = false;
    match = match != s->invert;
    switch (s->behavior) {
    case QR_SPLIT_REMOVED:
    case QR_SPLIT_ISOLATED: break;
    case QR_SPLIT_CONTIGUOUS: joins = match == s->open_match; break;
    case QR_SPLIT_MERGED_WITH_PREVIOUS: joins = match && !s->open_match; break;
    case QR_SPLIT_MERGED_WITH_NEXT: joins = !match && s->open_match; break;
    }
    if (!joins || !s->has_open) {
        QR_TRY(close_open(s));
        s->open_start = start;
        s->has_open = true;
    }
    s->open_end = end;
    s->open_match = match;
    return QUIRE_OK;
}

/* Matches and the text between them, in order, as rust-onig's find_iter gives them: an empty match right after the
 * last match does not count. */
static quire_status split(run *r, int idx, const piece *p)
{
    const qr_pretokenize_stage *stage = &r->pre->stages[idx];
    splitter s = {.r = r, .next_stage = idx + 1, .whole = p, .behavior = stage->behavior, .invert = stage->invert};
    size_t done = 0, from = 0;
    bool matched = false;
    while (from <= p->bytes) {
        bool found = false;
        size_t start = 0, end = 0;
        QR_TRY(find(r, stage, p, from, &found, &start, &end));
        if (!found) break;
        if (start == end && matched && end == done) {
            int n = 1;
            if (from < p->bytes) (void)qr_unicode_decode(p->text + from, &n);
            from += (size_t)n;
            continue;
        }
        if (start > done) QR_TRY(add_span(&s, done, start, false));
        QR_TRY(add_span(&s, start, end, true));
        done = from = end;
        matched = true;
    }
    if (done < p->bytes) QR_TRY(add_span(&s, done, p->bytes, false));
    return close_open(&s);
}

static int append_byte_level(qr_buf *out, const piece *p)
{
    if (qr_buf_reserve(out, p->bytes * 2 + 4)) return -1;
    for (size_t i = 0; i < p->bytes; i++)
        out->len += (size_t)qr_unicode_encode(qr_bpe_byte_char((unsigned char)p->text[i]), out->data + out->len);
    return 0;
}

static int append_metaspace(qr_buf *out, const qr_pretokenize_stage *stage, const piece *p)
{
    size_t n = (size_t)stage->replacement_bytes;
    bool has = p->text[0] == ' ' || (p->bytes >= n && memcmp(p->text, stage->replacement, n) == 0);
    bool put = stage->prepend == QR_PREPEND_ALWAYS || (stage->prepend == QR_PREPEND_FIRST && p->at_start);
    if (put && !has && qr_buf_append(out, stage->replacement, n)) return -1;
    for (size_t i = 0; i < p->bytes;) {
        const char *hit = memchr(p->text + i, ' ', p->bytes - i);
        size_t end = hit ? (size_t)(hit - p->text) : p->bytes;
        if (qr_buf_append(out, p->text + i, end - i) || (hit && qr_buf_append(out, stage->replacement, n))) return -1;
        i = end + 1;
    }
    return 0;
}

/* A stage that rewrites the piece, in the stage's own buffer: one piece at a time is inside a stage. */
static quire_status rewrite(run *r, int idx, const piece *p)
{
    const qr_pretokenize_stage *stage = &r->pre->stages[idx];
    if (stage->kind == QR_STAGE_PREFIX_SPACE && p->text[0] == ' ') return run_stage(r, idx + 1, p);
    qr_buf *out = &r->scratch->stages[idx].text, *shadow = &r->scratch->stages[idx].shadow;
    bool same;
    int failed;
    out->len = shadow->len = 0;
    if (stage->kind == QR_STAGE_BYTE_LEVEL)
        failed = append_byte_level(out, p);
    else if (stage->kind == QR_STAGE_METASPACE)
        failed = append_metaspace(out, stage, p);
    else
        failed = qr_buf_append(out, " ", 1) || qr_buf_append(out, p->text, p->bytes);
    if (failed) return qr_fail_nomem(r->error, "words", p->bytes * 3);
    QR_TRY(qr_unicode_shadow(out->data, out->len, shadow, &same, r->error));
    piece next = {out->data, same ? out->data : shadow->data, out->len, p->at_start};
    return run_stage(r, idx + 1, &next);
}

static quire_status run_stage(run *r, int idx, const piece *p)
{
    if (idx == r->pre->num_stages) return r->fn(r->ctx, p->text, p->bytes, r->error);
    return r->pre->stages[idx].kind < QR_STAGE_PREFIX_SPACE ? split(r, idx, p) : rewrite(r, idx, p);
}

quire_status qr_pretokenizer_run(const qr_pretokenizer *pre, qr_pretokenize_scratch *scratch, const char *text,
                                 size_t text_bytes, bool at_start, qr_word_fn fn, void *ctx, quire_error *error)
{
    run r = {pre, scratch, fn, ctx, error};
    qr_buf *shadow = &scratch->stages[QR_PRETOKENIZER_MAX_STAGES].shadow;
    bool same = true;
    shadow->len = 0;
    if (text_bytes == 0) return QUIRE_OK;
    if (pre->num_stages > 0) QR_TRY(qr_unicode_shadow(text, text_bytes, shadow, &same, error));
    piece whole = {text, same ? text : shadow->data, text_bytes, at_start};
    return run_stage(&r, 0, &whole);
}
