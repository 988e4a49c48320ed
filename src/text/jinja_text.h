/* jinja_text: strings as Python sees them: code points, Unicode case and classes, str(), repr(), JSON, formats.
 *
 *   qr_jbuild: a growing string in the arena; qr_jbuild_end() makes the value.
 *
 * Threads: as the run.  Source: Python's language reference (str, printf-style and str.format formatting), json. */
#ifndef QR_TEXT_JINJA_TEXT_H
#define QR_TEXT_JINJA_TEXT_H

#include "text/jinja_core.h"

typedef struct qr_jbuild {
    qr_jrun *run;
    char *data;
    size_t len, cap;
} qr_jbuild;

void qr_jbuild_add(qr_jbuild *b, const char *text, size_t bytes);
void qr_jbuild_cstr(qr_jbuild *b, const char *text);
void qr_jbuild_val(qr_jbuild *b, qr_jval str); /* a string value as it is */
void qr_jbuild_char(qr_jbuild *b, uint32_t c);
void qr_jbuild_fill(qr_jbuild *b, const char *text, size_t bytes, int64_t count); /* count <= 0: nothing */
qr_jval qr_jbuild_end(qr_jbuild *b);

/* ---- code points (the text is valid UTF-8) */
uint32_t qr_jtext_decode(const char *text, size_t *pos); /* the character at *pos; moves past it */
size_t qr_jtext_encode(uint32_t c, char out[4]);
/* Bytes before the idx-th character; `bytes` when there are fewer. */
size_t qr_jtext_offset(const char *text, size_t bytes, int64_t idx);
qr_jval qr_jtext_slice(qr_jrun *run, qr_jval str, int64_t start, int64_t num, int64_t step); /* in characters */
bool qr_jtext_valid(const char *text, size_t bytes); /* UTF-8 without surrogates */

bool qr_jtext_is_space(uint32_t c); /* str.isspace() */
bool qr_jtext_is_word(uint32_t c);  /* \w */
bool qr_jtext_is_printable(uint32_t c);
typedef enum qr_jcase { QR_J_UPPER, QR_J_LOWER, QR_J_TITLE, QR_J_CAPITALIZE, QR_J_SWAP, QR_J_FOLD } qr_jcase;
qr_jval qr_jtext_case(qr_jrun *run, qr_jval str, qr_jcase to);
typedef enum qr_jclass {
    QR_J_ALNUM,
    QR_J_ALPHA,
    QR_J_ASCII,
    QR_J_DECIMAL,
    QR_J_DIGIT,
    QR_J_IDENTIFIER,
    QR_J_IS_LOWER,
    QR_J_NUMERIC,
    QR_J_PRINTABLE,
    QR_J_SPACE,
    QR_J_IS_TITLE,
    QR_J_IS_UPPER
} qr_jclass;
bool qr_jtext_is(qr_jval str, qr_jclass cls); /* str.isalnum(), ... */

/* ---- values as text */
qr_jval qr_jtext_str(qr_jrun *run, qr_jval value);  /* str(value) */
qr_jval qr_jtext_repr(qr_jrun *run, qr_jval value); /* repr(value) */
void qr_jtext_add_str(qr_jbuild *b, qr_jval value);
void qr_jtext_add_repr(qr_jbuild *b, qr_jval value);
qr_jval qr_jtext_escape(qr_jrun *run, qr_jval value); /* markupsafe.escape: SAFE */
void qr_jtext_float(double value, char out[40]);      /* repr of a float */
/* "12", "0x1f", "1_000" in `base` (0: by prefix) as int() reads it: false when it is none; raises past 64 bits. */
bool qr_jtext_to_int(qr_jrun *run, qr_jval str, int base, int64_t *out);
bool qr_jtext_to_float(qr_jrun *run, qr_jval str, double *out);

typedef struct qr_jjson_options {
    bool ensure_ascii, sort_keys, pretty;
    qr_jval indent;            /* a string, used when pretty */
    qr_jval item_sep, key_sep; /* strings */
} qr_jjson_options;
qr_jval qr_jtext_json(qr_jrun *run, qr_jval value, const qr_jjson_options *options); /* json.dumps */

/* ---- formats (jinja_format.c) */
qr_jval qr_jformat_percent(qr_jrun *run, qr_jval format, qr_jval operand);     /* format % operand */
qr_jval qr_jformat_braces(qr_jrun *run, qr_jval format, const qr_jargs *args); /* format.format(*args) */
qr_jval qr_jformat_time(qr_jrun *run, qr_jval format);                         /* strftime_now(format) */

#endif
