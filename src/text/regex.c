#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/mem.h"
#include "text/unicode.h"

enum {
    MAX_PATTERN_BYTES = 64 << 10,
    MATCH_LIMIT = 20000000, /* backtracking steps of one match; 1 MiB of spaces needs about one million */
    JIT_STACK_BYTES = 4 << 20
};

struct qr_regex {
    pcre2_code *code;
    bool jit;
    bool trailing_spaces; /* the pattern is \s+$: searched by hand, because backtracking makes it quadratic */
};

struct qr_regex_scratch {
    pcre2_general_context *general;
    pcre2_match_context *context;
    pcre2_match_data *data;
    pcre2_jit_stack *stack; /* made when a match first needs more than the machine stack */
};

/* Oniguruma's \w in PCRE2's words, for use inside [ ]. */
#define WORD                                                                          \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}\\x{24B6}-" \
    "\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"

static void *context_alloc(PCRE2_SIZE bytes, void *user)
{
    (void)user;
    return qr_malloc(bytes);
}

static void context_free(void *ptr, void *user)
{
    (void)user;
    qr_free(ptr);
}

static quire_status refuse(quire_error *error, const char *pattern, size_t pattern_bytes, const char *what)
{
    return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer regex '%.*s': %s",
                   (int)(pattern_bytes < 200 ? pattern_bytes : 200), pattern, what);
}

/* What Oniguruma's escape `\c` is in PCRE2; NULL: the same; "" : refused. */
static const char *translate_escape(char c, bool in_class)
{
    switch (c) {
    case 'h': return in_class ? "0-9a-fA-F" : "[0-9a-fA-F]";
    case 'w': return in_class ? WORD : "[" WORD "]";
    case 'W': return in_class ? "" : "[^" WORD "]";
    case 'b': return in_class ? NULL : "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))";
    case 'H':
    case 'B':
    case 'G':
    case 'K':
    case 'X':
    case 'y':
    case 'Y':
    case 'O':
    case 'Q':
    case 'E':
    case 'g':
    case 'k':
    case 'u':
    case 'C':
    case 'M':
    case 'c': return "";
    default: return NULL;
    }
}

/* True for a group that sets flags m or s, which mean other things in the two dialects: (?m: (?im) ... */
static bool sets_line_flags(const char *group, size_t left)
{
    if (left < 3 || memcmp(group, "(?", 2) != 0) return false;
    for (size_t i = 2; i < left && (group[i] == '-' || (group[i] >= 'a' && group[i] <= 'z')); i++)
        if (group[i] == 'm' || group[i] == 's') return true;
    return false;
}

static quire_status translate(const char *pattern, size_t pattern_bytes, qr_buf *out, quire_error *error)
{
    bool in_class = false;
    size_t class_start = 0;
    for (size_t i = 0; i < pattern_bytes; i++) {
        const char *rest = pattern + i;
        size_t left = pattern_bytes - i, take = 1;
        const char *with = NULL;
        if (*rest == '\\' && left > 1) {
            take = 2;
            with = translate_escape(rest[1], in_class);
            if (with && !*with) return refuse(error, pattern, pattern_bytes, "an escape that quire does not translate");
            const char *close = strchr("pPx", rest[1]) && left > 2 && rest[2] == '{' ? memchr(rest, '}', left) : NULL;
            if (close) take = (size_t)(close - rest) + 1; /* \p{L}, \x{41}: the brace is no interval */
            if (take == 7 && memcmp(rest, "\\p{Han}", 7) == 0) with = "\\p{sc:Han}";
        } else if (in_class) {
            bool first = i == class_start + 1 || (i == class_start + 2 && pattern[i - 1] == '^');
            if (*rest == '[' && left > 1 && rest[1] == ':') {
                return refuse(error, pattern, pattern_bytes, "a POSIX class");
            } else if (*rest == '[') {
                return refuse(error, pattern, pattern_bytes, "a class within a class");
            } else if (left > 1 && memcmp(rest, "&&", 2) == 0) {
                return refuse(error, pattern, pattern_bytes, "an intersection of classes");
            } else if (*rest == ']' && !first) {
                in_class = false;
            }
        } else if (*rest == '[') {
            in_class = true, class_start = i;
        } else if (sets_line_flags(rest, left)) {
            return refuse(error, pattern, pattern_bytes, "a flag for lines");
        } else if (*rest == '}' && left > 1 && rest[1] == '+') {
            return refuse(error, pattern, pattern_bytes, "a + after an interval, which repeats it in one dialect only");
        }
        if (with ? qr_buf_append(out, with, strlen(with)) : qr_buf_append(out, rest, take))
            return qr_fail_nomem(error, "a regex", pattern_bytes);
        i += take - 1;
    }
    return QUIRE_OK;
}

static quire_status compile(qr_regex *regex, const char *pattern, size_t pattern_bytes, bool literal,
                            quire_error *error)
{
    pcre2_general_context *general = pcre2_general_context_create(context_alloc, context_free, NULL);
    pcre2_compile_context *context = pcre2_compile_context_create(general);
    if (!context) {
        pcre2_general_context_free(general);
        return qr_fail_nomem(error, "a regex", pattern_bytes);
    }
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    int code = 0;
    PCRE2_SIZE offset = 0;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF); /* $ means what it means in Oniguruma: before any \n, or the end */
    pcre2_set_parens_nest_limit(context, 50);
    regex->code = pcre2_compile((PCRE2_SPTR)pattern, pattern_bytes, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    if (!regex->code) {
        char why[120] = "";
        if (code == PCRE2_ERROR_NOMEMORY || code == 121) return qr_fail_nomem(error, "a regex", pattern_bytes);
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return qr_fail(error, QUIRE_FORMAT, "tokenizer regex '%.*s': %s (at byte %zu)",
                       (int)(pattern_bytes < 200 ? pattern_bytes : 200), pattern, why, offset);
    }
    regex->jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    return QUIRE_OK;
}

quire_status qr_regex_create(const char *pattern, size_t pattern_bytes, bool literal, qr_regex **out,
                             quire_error *error)
{
    *out = NULL;
    if (pattern_bytes > MAX_PATTERN_BYTES)
        return qr_fail(error, QUIRE_UNSUPPORTED, "tokenizer regex of %zu bytes: longer than %d", pattern_bytes,
                       (int)MAX_PATTERN_BYTES);
    qr_regex *regex = qr_calloc(1, sizeof *regex);
    if (!regex) return qr_fail_nomem(error, "a regex", sizeof *regex);
    quire_status status = QUIRE_OK;
    if (!literal && pattern_bytes == 4 && memcmp(pattern, "\\s+$", 4) == 0) {
        regex->trailing_spaces = true;
    } else if (literal) {
        status = compile(regex, pattern, pattern_bytes, true, error);
    } else {
        qr_buf translated = {0};
        status = translate(pattern, pattern_bytes, &translated, error);
        if (status == QUIRE_OK)
            status = compile(regex, translated.data ? translated.data : "", translated.len, false, error);
        qr_free(translated.data);
    }
    if (status != QUIRE_OK) {
        qr_regex_destroy(regex);
        return status;
    }
    *out = regex;
    return QUIRE_OK;
}

void qr_regex_destroy(qr_regex *regex)
{
    if (!regex) return;
    pcre2_code_free(regex->code);
    qr_free(regex);
}

quire_status qr_regex_scratch_create(qr_regex_scratch **out, quire_error *error)
{
    *out = NULL;
    qr_regex_scratch *scratch = qr_calloc(1, sizeof *scratch);
    if (!scratch) return qr_fail_nomem(error, "regex memory", sizeof *scratch);
    scratch->general = pcre2_general_context_create(context_alloc, context_free, NULL);
    scratch->context = scratch->general ? pcre2_match_context_create(scratch->general) : NULL;
    scratch->data = scratch->context ? pcre2_match_data_create(1, scratch->general) : NULL;
    if (!scratch->data) {
        qr_regex_scratch_destroy(scratch);
        return qr_fail_nomem(error, "regex memory", 1 << 10);
    }
    pcre2_set_match_limit(scratch->context, MATCH_LIMIT);
    *out = scratch;
    return QUIRE_OK;
}

void qr_regex_scratch_destroy(qr_regex_scratch *scratch)
{
    if (!scratch) return;
    pcre2_jit_stack_free(scratch->stack);
    pcre2_match_data_free(scratch->data);
    pcre2_match_context_free(scratch->context);
    pcre2_general_context_free(scratch->general);
    qr_free(scratch);
}

/* Bytes of the white space character at s, 0 when it is none. */
static int space_bytes(const char *s)
{
    unsigned char c = (unsigned char)*s;
    int n;
    if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
    if (c != 0xC2 && (c < 0xE1 || c > 0xE3)) return 0;
    return qr_unicode_is_space(qr_unicode_decode(s, &n)) ? n : 0;
}

/* \s+$: the longest part of a run of white space that ends the text or a line. */
static bool find_trailing_spaces(const char *text, size_t text_bytes, size_t from, size_t *out_start, size_t *out_end)
{
    for (size_t i = from; i < text_bytes;) {
        size_t start = i, line_end = i;
        int n;
        while (i < text_bytes && (n = space_bytes(text + i)) > 0) {
            if (text[i] == '\n') line_end = i;
            i += (size_t)n;
        }
        size_t end = i == text_bytes ? i : line_end;
        if (end > start) {
            *out_start = start, *out_end = end;
            return true;
        }
        while (i < text_bytes && space_bytes(text + i) == 0) i++;
    }
    return false;
}

quire_status qr_regex_find(const qr_regex *regex, qr_regex_scratch *scratch, const char *text, size_t text_bytes,
                           size_t from, bool *out_found, size_t *out_start, size_t *out_end, quire_error *error)
{
    if (regex->trailing_spaces) {
        *out_found = find_trailing_spaces(text, text_bytes, from, out_start, out_end);
        return QUIRE_OK;
    }
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int rc;
    if (regex->jit) {
        rc = pcre2_jit_match(regex->code, subject, text_bytes, from, 0, scratch->data, scratch->context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !scratch->stack) {
            scratch->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_BYTES, scratch->general);
            if (!scratch->stack) return qr_fail_nomem(error, "a regex stack", JIT_STACK_BYTES);
            pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
            rc = pcre2_jit_match(regex->code, subject, text_bytes, from, 0, scratch->data, scratch->context);
        }
    } else {
        rc = pcre2_match(regex->code, subject, text_bytes, from, PCRE2_NO_UTF_CHECK, scratch->data, scratch->context);
    }
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        char why[120] = "";
        if (rc == PCRE2_ERROR_NOMEMORY) return qr_fail_nomem(error, "a regex match", text_bytes);
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return qr_fail(error, QUIRE_UNSUPPORTED, "the tokenizer's regex is too costly for this text: %s", why);
    }
    *out_found = rc >= 0;
    if (rc >= 0) {
        const PCRE2_SIZE *ovector = pcre2_get_ovector_pointer(scratch->data);
        *out_start = ovector[0], *out_end = ovector[1];
        if (*out_start > *out_end) *out_start = *out_end; /* \K is refused, but a lookahead may still do this */
    }
    return QUIRE_OK;
}
