/* regex: the patterns of tokenizer files, written for Oniguruma, run by PCRE2 (UTF, UCP, JIT).
 *
 *   Oniguruma pattern ─► the same in PCRE2's words (\h \w \b \p{Han}) ─► compile ─► find, find, find
 *
 * Constructs that mean something else in the two dialects are refused, never guessed.  A pattern is untrusted: steps
 * and stack are bounded, and passing a bound is an UNSUPPORTED error.
 * Threads: a qr_regex is immutable; each thread brings its own qr_regex_scratch.
 * Source: Oniguruma doc/RE, pcre2pattern(3), pcre2jit(3). */
#ifndef QR_TEXT_REGEX_H
#define QR_TEXT_REGEX_H

#include <stdbool.h>

#include "base/status.h"

typedef struct qr_regex qr_regex;
typedef struct qr_regex_scratch qr_regex_scratch;

/* `literal`: the pattern is plain text.  Returns OK | NOMEM | FORMAT (no regex) | UNSUPPORTED */
QUIRE_MUST_USE quire_status qr_regex_create(const char *pattern, size_t pattern_bytes, bool literal, qr_regex **out,
                                            quire_error *error);
void qr_regex_destroy(qr_regex *regex); /* NULL is fine */

QUIRE_MUST_USE quire_status qr_regex_scratch_create(qr_regex_scratch **out, quire_error *error);
void qr_regex_scratch_destroy(qr_regex_scratch *scratch); /* NULL is fine */

/* First match in text (valid UTF-8, proxies for new characters: see unicode.h) that starts at or after `from`.
 *   *out_found  false: none, and start and end are not written.  Returns OK | UNSUPPORTED (a bound) | NOMEM */
QUIRE_MUST_USE quire_status qr_regex_find(const qr_regex *regex, qr_regex_scratch *scratch, const char *text,
                                          size_t text_bytes, size_t from, bool *out_found, size_t *out_start,
                                          size_t *out_end, quire_error *error);

#endif
