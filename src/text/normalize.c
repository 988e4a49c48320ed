#include "text/normalize.h"

#include <string.h>

#include "text/unicode.h"

static quire_status init_replace(qr_normalize_step *step, const json_t *json, quire_error *error)
{
    const json_t *pattern = json_object_get(json, "pattern"), *content = json_object_get(json, "content");
    const json_t *literal = json_object_get(pattern, "String"), *regex = json_object_get(pattern, "Regex");
    const json_t *source = literal ? literal : regex;
    if (!json_is_string(source) || !json_is_string(content))
        return qr_fail(error, QUIRE_FORMAT,
                       "tokenizer.json: normalizer Replace needs pattern (String or Regex) and content");
    step->kind = QR_NORMALIZE_REPLACE;
    step->content_bytes = json_string_length(content);
    step->content = qr_strndup(json_string_value(content), step->content_bytes);
    if (!step->content) return qr_fail_nomem(error, "a normalizer", step->content_bytes);
    const char *text = json_string_value(source);
    if (literal && json_string_length(source) == 1) {
        step->single = text[0];
        return QUIRE_OK;
    }
    return qr_regex_create(text, json_string_length(source), literal != NULL, &step->regex, error);
}

static quire_status add_steps(qr_normalizer *normalizer, const json_t *json, int depth, quire_error *error)
{
    static const struct {
        const char *name;
        int form;
    } forms[] = {{"NFC", QR_NFC}, {"NFD", QR_NFD}, {"NFKC", QR_NFKC}, {"NFKD", QR_NFKD}};
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: a normalizer without a type");
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(json, "normalizers"), *item;
        size_t i;
        if (!json_is_array(list) || depth > 8)
            return qr_fail(error, QUIRE_FORMAT,
                           "tokenizer.json: normalizer Sequence without a list, or nested too deeply");
        json_array_foreach((json_t *)list, i, item) QR_TRY(add_steps(normalizer, item, depth + 1, error));
        return QUIRE_OK;
    }
    if (normalizer->num_steps == QR_NORMALIZER_MAX_STEPS)
        return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: more than %d normalizers",
                       (int)QR_NORMALIZER_MAX_STEPS);
    qr_normalize_step *step = &normalizer->steps[normalizer->num_steps++];
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (strcmp(type, forms[i].name) != 0) continue;
        step->kind = QR_NORMALIZE_UNICODE;
        step->form = forms[i].form;
        return QUIRE_OK;
    }
    if (strcmp(type, "Lowercase") == 0) {
        step->kind = QR_NORMALIZE_LOWERCASE;
    } else if (strcmp(type, "Strip") == 0) {
        step->kind = QR_NORMALIZE_STRIP;
        step->left = json_is_true(json_object_get(json, "strip_left"));
        step->right = json_is_true(json_object_get(json, "strip_right"));
    } else if (strcmp(type, "Prepend") == 0) {
        const json_t *text = json_object_get(json, "prepend");
        if (!json_is_string(text))
            return qr_fail(error, QUIRE_FORMAT, "tokenizer.json: normalizer Prepend needs prepend");
        step->kind = QR_NORMALIZE_PREPEND;
        step->content_bytes = json_string_length(text);
        step->content = qr_strndup(json_string_value(text), step->content_bytes);
        if (!step->content) return qr_fail_nomem(error, "a normalizer", step->content_bytes);
    } else if (strcmp(type, "Replace") == 0) {
        return init_replace(step, json, error);
    } else {
        normalizer->num_steps--;
        return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer.json: normalizer '%.60s' is not supported", type);
    }
    return QUIRE_OK;
}

quire_status qr_normalizer_init(qr_normalizer *normalizer, const json_t *json, quire_error *error)
{
    *normalizer = (qr_normalizer){0};
    return json && !json_is_null(json) ? add_steps(normalizer, json, 0, error) : QUIRE_OK;
}

void qr_normalizer_deinit(qr_normalizer *normalizer)
{
    for (int i = 0; i < normalizer->num_steps; i++) {
        qr_free(normalizer->steps[i].content);
        qr_regex_destroy(normalizer->steps[i].regex);
    }
    *normalizer = (qr_normalizer){0};
}

static quire_status strip(const qr_normalize_step *step, const char *text, size_t text_bytes, qr_buf *out,
                          quire_error *error)
{
    size_t start = 0, end = text_bytes;
    int n;
    while (step->left && start < end && qr_unicode_is_space(qr_unicode_decode(text + start, &n))) start += (size_t)n;
    while (step->right && end > start) {
        size_t last = end - 1;
        while (last > start && ((unsigned char)text[last] & 0xC0) == 0x80) last--;
        if (!qr_unicode_is_space(qr_unicode_decode(text + last, &n))) break;
        end = last;
    }
    return qr_buf_append(out, text + start, end - start) ? qr_fail_nomem(error, "normalized text", text_bytes)
                                                         : QUIRE_OK;
}

static quire_status replace_single(const qr_normalize_step *step, const char *text, size_t text_bytes, qr_buf *out,
                                   quire_error *error)
{
    for (size_t i = 0; i < text_bytes;) {
        const char *hit = memchr(text + i, step->single, text_bytes - i);
        size_t end = hit ? (size_t)(hit - text) : text_bytes;
        if (qr_buf_append(out, text + i, end - i) || (hit && qr_buf_append(out, step->content, step->content_bytes)))
            return qr_fail_nomem(error, "normalized text", text_bytes);
        i = end + 1;
    }
    return QUIRE_OK;
}

static quire_status replace_regex(const qr_normalize_step *step, qr_regex_scratch *scratch, const char *text,
                                  size_t text_bytes, qr_buf *out, quire_error *error)
{
    qr_buf shadow = {0};
    bool same;
    QR_TRY(qr_unicode_shadow(text, text_bytes, &shadow, &same, error));
    quire_status status = QUIRE_OK;
    for (size_t i = 0, from = 0; i < text_bytes && status == QUIRE_OK;) {
        bool found = false;
        size_t start = text_bytes, end = text_bytes;
        if (from <= text_bytes)
            status = qr_regex_find(step->regex, scratch, same ? text : shadow.data, text_bytes, from, &found, &start,
                                   &end, error);
        if (status != QUIRE_OK) break;
        if (qr_buf_append(out, text + i, start - i) ||
            (found && qr_buf_append(out, step->content, step->content_bytes))) {
            status = qr_fail_nomem(error, "normalized text", text_bytes);
            break;
        }
        i = from = end;
        int n = 0;
        if (found && start == end && end < text_bytes) { /* an empty match: go on after the next character */
            (void)qr_unicode_decode(text + end, &n);
            from = end + (size_t)n;
        }
    }
    qr_free(shadow.data);
    return status;
}

static quire_status run_step(const qr_normalize_step *step, qr_regex_scratch *scratch, const char *text,
                             size_t text_bytes, qr_buf *out, quire_error *error)
{
    switch (step->kind) {
    case QR_NORMALIZE_UNICODE: return qr_unicode_normalize((qr_unicode_form)step->form, text, text_bytes, out, error);
    case QR_NORMALIZE_LOWERCASE: return qr_unicode_lowercase(text, text_bytes, out, error);
    case QR_NORMALIZE_STRIP: return strip(step, text, text_bytes, out, error);
    case QR_NORMALIZE_PREPEND:
        if (text_bytes == 0) return QUIRE_OK;
        if (qr_buf_append(out, step->content, step->content_bytes) || qr_buf_append(out, text, text_bytes))
            return qr_fail_nomem(error, "normalized text", text_bytes);
        return QUIRE_OK;
    case QR_NORMALIZE_REPLACE:
        return step->regex ? replace_regex(step, scratch, text, text_bytes, out, error)
                           : replace_single(step, text, text_bytes, out, error);
    }
    return QUIRE_OK;
}

quire_status qr_normalizer_run(const qr_normalizer *normalizer, qr_regex_scratch *scratch, const char *text,
                               size_t text_bytes, qr_buf *out, qr_buf *tmp, quire_error *error)
{
    out->len = 0;
    if (normalizer->num_steps == 0 && qr_buf_append(out, text, text_bytes))
        return qr_fail_nomem(error, "normalized text", text_bytes);
    for (int i = 0; i < normalizer->num_steps; i++) {
        if (i > 0) { /* the last step's result is the next one's text */
            qr_buf swap = *out;
            *out = *tmp;
            *tmp = swap;
            text = tmp->data ? tmp->data : "";
            text_bytes = tmp->len;
            out->len = 0;
        }
        QR_TRY(run_step(&normalizer->steps[i], scratch, text, text_bytes, out, error));
    }
    return QUIRE_OK;
}
