/* unicode: UTF-8 and character classes exactly as Hugging Face `tokenizers` sees them.
 *
 *   bytes ─► qr_unicode_replace_invalid ─► valid UTF-8 ─► qr_unicode_normalize ─► NFC, NFD, NFKC, NFKD
 *
 * Classes follow Unicode 16 whatever version PCRE2 and utf8proc were built with: qr_unicode_proxy() maps each
 * character added since Unicode 14 to an old one of the same class and UTF-8 length, and regexes run on a copy of
 * the text in which those stand in (qr_unicode_shadow).
 * Threads: any; no state.  Source: Unicode 16, tables 3-7 (well-formed UTF-8) and UAX #15; classes compared with
 * `tokenizers` code point by code point. */
#ifndef QR_TEXT_UNICODE_H
#define QR_TEXT_UNICODE_H

#include <stdbool.h>

#include "base/mem.h"
#include "base/status.h"

typedef enum qr_utf8_kind {
    QR_UTF8_CHAR,    /* a well-formed character */
    QR_UTF8_INVALID, /* bytes that can start no character: one U+FFFD */
    QR_UTF8_PARTIAL  /* the text ends inside a character that is well-formed so far */
} qr_utf8_kind;

/* What starts at s (len >= 1); *out_bytes is the length of the character or of the maximal invalid part. */
qr_utf8_kind qr_unicode_next(const char *s, size_t len, int *out_bytes);
/* The character at s, which must be valid UTF-8; *out_bytes is its length. */
static inline uint32_t qr_unicode_decode(const char *s, int *out_bytes)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *out_bytes = 1;
        return u[0];
    }
    if (u[0] < 0xE0) {
        *out_bytes = 2;
        return (uint32_t)(u[0] & 0x1F) << 6 | (u[1] & 0x3F);
    }
    if (u[0] < 0xF0) {
        *out_bytes = 3;
        return (uint32_t)(u[0] & 0x0F) << 12 | (uint32_t)(u[1] & 0x3F) << 6 | (u[2] & 0x3F);
    }
    *out_bytes = 4;
    return (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3F) << 12 | (uint32_t)(u[2] & 0x3F) << 6 | (u[3] & 0x3F);
}
int qr_unicode_encode(uint32_t cp, char out[4]); /* bytes written, 1..4 */

bool qr_unicode_is_valid(const char *text, size_t text_bytes);
/* Append text with every invalid part replaced by U+FFFD, as bytes.decode("utf-8", "replace"). OK | NOMEM */
QUIRE_MUST_USE quire_status qr_unicode_replace_invalid(const char *text, size_t text_bytes, qr_buf *out,
                                                       quire_error *error);

bool qr_unicode_is_space(uint32_t cp);   /* White_Space */
bool qr_unicode_is_numeric(uint32_t cp); /* Nd, Nl, No */
bool qr_unicode_is_punct(uint32_t cp);   /* P as `tokenizers` has it (Unicode 8), and ASCII punctuation */
bool qr_unicode_is_word(uint32_t cp);    /* \w of Rust's regex: Alphabetic, M, Nd, Pc, Join_Control */

uint32_t qr_unicode_proxy(uint32_t cp); /* itself for all but new characters */
/* Append text with proxies to `out`, same length; *out_same true (and nothing appended) when there are none. */
QUIRE_MUST_USE quire_status qr_unicode_shadow(const char *text, size_t text_bytes, qr_buf *out, bool *out_same,
                                              quire_error *error);

typedef enum qr_unicode_form { QR_NFC, QR_NFD, QR_NFKC, QR_NFKD } qr_unicode_form;
/* Append the normalized text (valid UTF-8 in) to `out`; linear time. OK | NOMEM */
QUIRE_MUST_USE quire_status qr_unicode_normalize(qr_unicode_form form, const char *text, size_t text_bytes, qr_buf *out,
                                                 quire_error *error);
QUIRE_MUST_USE quire_status qr_unicode_lowercase(const char *text, size_t text_bytes, qr_buf *out, quire_error *error);

#endif
