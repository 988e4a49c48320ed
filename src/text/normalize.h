/* normalize: the "normalizer" of a tokenizer.json: a list of steps that rewrite text.
 *
 *   {"type": "Sequence", "normalizers": [{"type": "Prepend", ...}, {"type": "Replace", ...}]}  ─►  steps[]
 *
 * Known: NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace (text or regex), Sequence; any other is UNSUPPORTED.
 * Threads: immutable once built; each thread brings its own qr_regex_scratch.
 * Source: `tokenizers` normalizers/. */
#ifndef QR_TEXT_NORMALIZE_H
#define QR_TEXT_NORMALIZE_H

#include <jansson.h>

#include "base/mem.h"
#include "text/regex.h"

enum { QR_NORMALIZER_MAX_STEPS = 16 };

typedef struct qr_normalize_step {
    enum {
        QR_NORMALIZE_UNICODE,
        QR_NORMALIZE_LOWERCASE,
        QR_NORMALIZE_STRIP,
        QR_NORMALIZE_PREPEND,
        QR_NORMALIZE_REPLACE
    } kind;
    int form;         /* UNICODE: qr_unicode_form */
    bool left, right; /* STRIP */
    char *content;    /* PREPEND, REPLACE */
    size_t content_bytes;
    char single;     /* REPLACE: the pattern when it is one ASCII character, else 0 */
    qr_regex *regex; /* REPLACE: the pattern otherwise */
} qr_normalize_step;

typedef struct qr_normalizer {
    int num_steps;
    qr_normalize_step steps[QR_NORMALIZER_MAX_STEPS];
} qr_normalizer;

/* From the JSON value (NULL or null: no steps). OK | FORMAT | UNSUPPORTED | NOMEM; deinit in any case. */
QUIRE_MUST_USE quire_status qr_normalizer_init(qr_normalizer *normalizer, const json_t *json, quire_error *error);
void qr_normalizer_deinit(qr_normalizer *normalizer); /* a zeroed one is fine */

/* Replace the content of `out` by the normalized text (valid UTF-8 in and out); `tmp` is working memory. */
QUIRE_MUST_USE quire_status qr_normalizer_run(const qr_normalizer *normalizer, qr_regex_scratch *scratch,
                                              const char *text, size_t text_bytes, qr_buf *out, qr_buf *tmp,
                                              quire_error *error);

#endif
