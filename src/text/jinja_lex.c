#include <stdio.h>
#include <string.h>

#include "text/jinja_syntax.h"
#include "text/jinja_text.h"

typedef struct lexer {
    qr_jrun *run;
    const char *src; /* newlines are all \n */
    size_t len, pos;
    int line;
    qr_jtoken *tokens;
    size_t num, cap;
    char *brackets; /* open brackets of the current tag */
    size_t num_brackets, cap_brackets;
} lexer;

static void add_token(lexer *lx, qr_jtoken_type type, int line, qr_jval value)
{
    if (lx->num == lx->cap) {
        size_t cap = lx->cap ? lx->cap * 2 : 64;
        qr_jtoken *tokens = qr_jrun_alloc(lx->run, cap * sizeof *tokens);
        if (lx->num) memcpy(tokens, lx->tokens, lx->num * sizeof *tokens);
        lx->tokens = tokens;
        lx->cap = cap;
    }
    lx->tokens[lx->num++] = (qr_jtoken){type, line, value};
}

static void add_text_token(lexer *lx, qr_jtoken_type type, const char *text, size_t bytes)
{
    add_token(lx, type, lx->line, qr_jval_str(lx->run, text, bytes));
}

static void advance_to(lexer *lx, size_t pos)
{
    for (; lx->pos < pos; lx->pos++) lx->line += lx->src[lx->pos] == '\n';
    lx->run->line = lx->line;
}

static bool at(const lexer *lx, size_t pos, const char *text)
{
    size_t n = strlen(text);
    return n <= lx->len - pos && memcmp(lx->src + pos, text, n) == 0;
}

static size_t skip_spaces(const lexer *lx, size_t pos)
{
    while (pos < lx->len) {
        size_t next = pos;
        if (!qr_jtext_is_space(qr_jtext_decode(lx->src, &next))) break;
        pos = next;
    }
    return pos;
}

/* text[start..end) without white space at its end */
static size_t rstrip(const lexer *lx, size_t start, size_t end)
{
    while (end > start) {
        size_t last = end - 1;
        while (last > start && ((unsigned char)lx->src[last] & 0xC0) == 0x80) last--;
        size_t next = last;
        if (!qr_jtext_is_space(qr_jtext_decode(lx->src, &next))) break;
        end = last;
    }
    return end;
}

/* End of the text [lx->pos, tag) before a block or comment tag with the given sign, after whitespace control. */
static size_t text_end(const lexer *lx, size_t tag, char sign)
{
    if (sign == '-') return rstrip(lx, lx->pos, tag);
    if (sign == '+') return tag;
    size_t line_start = tag;
    while (line_start > lx->pos && lx->src[line_start - 1] != '\n') line_start--;
    bool starts_line = line_start > lx->pos || line_start == 0 || lx->src[line_start - 1] == '\n';
    return starts_line && rstrip(lx, line_start, tag) == line_start ? line_start : tag;
}

static char sign_at(const lexer *lx, size_t pos)
{
    return pos < lx->len && (lx->src[pos] == '-' || lx->src[pos] == '+') ? lx->src[pos] : 0;
}

/* End of a block's or comment's closing tag at pos ("-%}", "+%}", "%}" and what they swallow), or 0. */
static size_t closing_tag(const lexer *lx, size_t pos, const char *tag)
{
    if (lx->src[pos] == '-' && at(lx, pos + 1, tag)) return skip_spaces(lx, pos + 3);
    if (lx->src[pos] == '+' && at(lx, pos + 1, tag)) return pos + 3;
    if (!at(lx, pos, tag)) return 0;
    return pos + 2 < lx->len && lx->src[pos + 2] == '\n' ? pos + 3 : pos + 2;
}

/* "{%- raw -%}" at pos: the end of it, or 0. */
static size_t raw_tag(const lexer *lx, size_t pos)
{
    pos += 2 + (sign_at(lx, pos + 2) != 0);
    pos = skip_spaces(lx, pos);
    if (!at(lx, pos, "raw")) return 0;
    pos = skip_spaces(lx, pos + 3);
    if (pos < lx->len && lx->src[pos] == '-' && at(lx, pos + 1, "%}")) return skip_spaces(lx, pos + 3);
    return at(lx, pos, "%}") ? pos + 2 : 0;
}

static void lex_raw(lexer *lx, size_t start)
{
    advance_to(lx, start);
    for (size_t tag = start; tag + 1 < lx->len; tag++) {
        if (!at(lx, tag, "{%")) continue;
        char sign = sign_at(lx, tag + 2);
        size_t pos = skip_spaces(lx, tag + 2 + (sign != 0));
        if (!at(lx, pos, "endraw")) continue;
        pos = skip_spaces(lx, pos + 6);
        size_t end = pos < lx->len ? closing_tag(lx, pos, "%}") : 0;
        if (!end) continue;
        add_text_token(lx, QR_JT_DATA, lx->src + lx->pos, text_end(lx, tag, sign) - lx->pos);
        advance_to(lx, end);
        return;
    }
    if (start < lx->len) qr_jrun_raise(lx->run, "Missing end of raw directive");
}

static void lex_comment(lexer *lx, size_t start)
{
    advance_to(lx, start);
    for (size_t pos = start; pos < lx->len; pos++) {
        size_t end = closing_tag(lx, pos, "#}");
        if (!end) continue;
        advance_to(lx, end);
        return;
    }
    if (start < lx->len) qr_jrun_raise(lx->run, "Missing end of comment tag");
}

/* ---- inside {{ }} and {% %} ----------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static size_t unescape_hex(lexer *lx, qr_jbuild *b, const char *s, size_t len, size_t pos, int num_digits)
{
    uint32_t c = 0;
    for (int i = 0; i < num_digits; i++) {
        int digit = pos < len ? hex_digit(s[pos++]) : -1;
        if (digit < 0) qr_jrun_raise(lx->run, "truncated \\x, \\u or \\U escape in a string");
        c = c * 16 + (uint32_t)digit;
    }
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) qr_jrun_raise(lx->run, "illegal Unicode character in a string");
    qr_jbuild_char(b, c);
    return pos;
}

/* The escape after the backslash at s[pos - 1]; returns the position after it. */
static size_t unescape(lexer *lx, qr_jbuild *b, const char *s, size_t len, size_t pos)
{
    static const char letters[] = "abfnrtv\\'\"", values[] = "\a\b\f\n\r\t\v\\'\"";
    char c = s[pos++];
    const char *letter = memchr(letters, c, sizeof letters - 1);
    if (letter) {
        qr_jbuild_add(b, &values[letter - letters], 1);
    } else if (c >= '0' && c <= '7') {
        uint32_t value = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && pos < len && s[pos] >= '0' && s[pos] <= '7'; i++)
            value = value * 8 + (uint32_t)(s[pos++] - '0');
        qr_jbuild_char(b, value);
    } else if (c == 'x' || c == 'u' || c == 'U') {
        pos = unescape_hex(lx, b, s, len, pos, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c == 'N') {
        qr_jrun_raise(lx->run, "\\N escapes are not supported");
    } else if ((unsigned char)c >= 0x80) { /* Python sees the escaped form of the character after the backslash */
        char text[16];
        size_t next = pos - 1;
        uint32_t cp = qr_jtext_decode(s, &next);
        snprintf(text, sizeof text, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)cp);
        qr_jbuild_cstr(b, text);
        pos = next;
    } else if (c != '\n') {
        qr_jbuild_add(b, "\\", 1);
        qr_jbuild_add(b, &c, 1);
    }
    return pos;
}

static void lex_string(lexer *lx)
{
    char quote = lx->src[lx->pos];
    size_t start = lx->pos + 1, end = start;
    bool escaped = false;
    while (end < lx->len && lx->src[end] != quote) {
        escaped |= lx->src[end] == '\\';
        end += lx->src[end] == '\\' ? 2 : 1;
    }
    if (end >= lx->len) qr_jrun_raise(lx->run, "unexpected char '%c': the string does not end", quote);
    qr_jval value = qr_jval_str(lx->run, lx->src + start, end - start);
    if (escaped) {
        qr_jbuild b = {.run = lx->run};
        const char *s = value.text;
        for (size_t pos = 0; pos < value.bytes;) {
            if (s[pos] == '\\')
                pos = unescape(lx, &b, s, value.bytes, pos + 1);
            else
                qr_jbuild_add(&b, &s[pos++], 1);
        }
        value = qr_jbuild_end(&b);
    }
    add_token(lx, QR_JT_STRING, lx->line, value);
    advance_to(lx, end + 1);
}

/* Past digits with single underscores between them; pos when there are none. */
static size_t digits_end(const lexer *lx, size_t pos, int base)
{
    size_t end = pos;
    for (;;) {
        int digit = end < lx->len ? hex_digit(lx->src[end]) : -1;
        if (digit >= 0 && digit < base)
            end++;
        else if (end > pos && end + 1 < lx->len && lx->src[end] == '_' && hex_digit(lx->src[end + 1]) >= 0 &&
                 hex_digit(lx->src[end + 1]) < base)
            end++;
        else
            return end;
    }
}

/* End of a float literal at pos, or 0. */
static size_t float_end(const lexer *lx, size_t pos)
{
    if (pos > 0 && lx->src[pos - 1] == '.') return 0;
    size_t end = digits_end(lx, pos, 10);
    bool is_float = false;
    if (end < lx->len && lx->src[end] == '.' && digits_end(lx, end + 1, 10) > end + 1) {
        end = digits_end(lx, end + 1, 10);
        is_float = true;
    }
    if (end < lx->len && (lx->src[end] == 'e' || lx->src[end] == 'E')) {
        size_t exp = end + 1 + (sign_at(lx, end + 1) != 0);
        if (digits_end(lx, exp, 10) > exp) return digits_end(lx, exp, 10);
    }
    return is_float ? end : 0;
}

static size_t int_end(const lexer *lx, size_t pos)
{
    if (lx->src[pos] != '0') return digits_end(lx, pos, 10);
    char kind = pos + 1 < lx->len ? (char)(lx->src[pos + 1] | 0x20) : 0;
    int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 1; /* base 1: zeros only */
    if (base == 1) return digits_end(lx, pos, 1);
    size_t first = pos + 2 + (pos + 2 < lx->len && lx->src[pos + 2] == '_');
    size_t end = digits_end(lx, first, base);
    return end > first ? end : pos + 1;
}

static void lex_number(lexer *lx)
{
    size_t end = float_end(lx, lx->pos);
    bool is_float = end != 0;
    if (!is_float) end = int_end(lx, lx->pos);
    qr_jval text = qr_jval_str(lx->run, lx->src + lx->pos, end - lx->pos), value;
    if (is_float) {
        double real = 0;
        if (!qr_jtext_to_float(lx->run, text, &real)) qr_jrun_raise(lx->run, "malformed number");
        value = qr_jval_float(real);
    } else {
        int64_t integer = 0;
        if (!qr_jtext_to_int(lx->run, text, 0, &integer)) qr_jrun_raise(lx->run, "malformed number");
        value = qr_jval_int(integer);
    }
    add_token(lx, QR_JT_NUMBER, lx->line, value);
    advance_to(lx, end);
}

static void lex_operator(lexer *lx)
{
    static const char *const ops[] = {"**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                      "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    size_t i = 0;
    while (i < sizeof ops / sizeof *ops && !at(lx, lx->pos, ops[i])) i++;
    if (i == sizeof ops / sizeof *ops) {
        size_t end = lx->pos;
        qr_jtext_decode(lx->src, &end);
        qr_jrun_raise(lx->run, "unexpected char '%.*s'", (int)(end - lx->pos), lx->src + lx->pos);
    }
    char c = ops[i][0];
    if (ops[i][1] == '\0' && strchr("([{", c)) {
        if (lx->num_brackets == lx->cap_brackets) {
            size_t cap = lx->cap_brackets ? lx->cap_brackets * 2 : 64;
            char *brackets = qr_jrun_alloc(lx->run, cap);
            if (lx->num_brackets) memcpy(brackets, lx->brackets, lx->num_brackets);
            lx->brackets = brackets;
            lx->cap_brackets = cap;
        }
        lx->brackets[lx->num_brackets++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c)) {
        if (lx->num_brackets == 0) qr_jrun_raise(lx->run, "unexpected '%c'", c);
        char expected = lx->brackets[--lx->num_brackets];
        if (expected != c) qr_jrun_raise(lx->run, "unexpected '%c', expected '%c'", c, expected);
    }
    add_text_token(lx, QR_JT_OP, ops[i], strlen(ops[i]));
    advance_to(lx, lx->pos + strlen(ops[i]));
}

static void lex_name(lexer *lx)
{
    size_t end = lx->pos;
    while (end < lx->len) {
        size_t next = end;
        if (!qr_jtext_is_word(qr_jtext_decode(lx->src, &next))) break;
        end = next;
    }
    qr_jval name = qr_jval_str(lx->run, lx->src + lx->pos, end - lx->pos);
    if (!qr_jtext_is(name, QR_J_IDENTIFIER)) qr_jrun_raise(lx->run, "Invalid character in identifier");
    add_token(lx, QR_JT_NAME, lx->line, name);
    advance_to(lx, end);
}

/* End of the tag at the current position, or 0. */
static size_t tag_end(const lexer *lx, bool is_block)
{
    if (lx->num_brackets > 0) return 0;
    if (is_block) return closing_tag(lx, lx->pos, "%}");
    if (lx->src[lx->pos] == '-' && at(lx, lx->pos + 1, "}}")) return skip_spaces(lx, lx->pos + 3);
    return at(lx, lx->pos, "}}") ? lx->pos + 2 : 0;
}

static void lex_tag(lexer *lx, bool is_block)
{
    lx->num_brackets = 0;
    while (lx->pos < lx->len) {
        size_t end = tag_end(lx, is_block);
        if (end) {
            add_text_token(lx, is_block ? QR_JT_BLOCK_END : QR_JT_VAR_END, lx->src + lx->pos, 2);
            advance_to(lx, end);
            return;
        }
        unsigned char c = (unsigned char)lx->src[lx->pos];
        size_t next = lx->pos;
        uint32_t cp = qr_jtext_decode(lx->src, &next);
        if (qr_jtext_is_space(cp))
            advance_to(lx, next);
        else if (c >= '0' && c <= '9')
            lex_number(lx);
        else if (qr_jtext_is_word(cp))
            lex_name(lx);
        else if (c == '\'' || c == '"')
            lex_string(lx);
        else
            lex_operator(lx);
    }
    /* an unfinished tag: the parser meets EOF and says so */
}

static void lex_root(lexer *lx)
{
    while (lx->pos < lx->len) {
        size_t tag = lx->pos;
        while (tag < lx->len && !at(lx, tag, "{{") && !at(lx, tag, "{%") && !at(lx, tag, "{#")) tag++;
        if (tag == lx->len) {
            add_text_token(lx, QR_JT_DATA, lx->src + lx->pos, lx->len - lx->pos);
            return;
        }
        bool is_variable = lx->src[tag + 1] == '{';
        char sign = sign_at(lx, tag + 2);
        size_t end = is_variable && sign != '-' ? tag : text_end(lx, tag, sign);
        if (end > lx->pos) add_text_token(lx, QR_JT_DATA, lx->src + lx->pos, end - lx->pos);
        size_t raw = lx->src[tag + 1] == '%' ? raw_tag(lx, tag) : 0;
        size_t inside = tag + 2 + (sign != 0);
        advance_to(lx, tag);
        if (raw) {
            lex_raw(lx, raw);
        } else if (lx->src[tag + 1] == '#') {
            lex_comment(lx, inside);
        } else {
            add_text_token(lx, is_variable ? QR_JT_VAR_BEGIN : QR_JT_BLOCK_BEGIN, lx->src + tag, 2);
            advance_to(lx, inside);
            lex_tag(lx, !is_variable);
        }
    }
}

/* A copy with \r\n and \r as \n, and without one newline at the end. */
static void normalize(lexer *lx, const char *source, size_t source_bytes)
{
    char *copy = qr_jrun_alloc(lx->run, source_bytes + 1);
    size_t len = 0;
    for (size_t i = 0; i < source_bytes; i++) {
        if (source[i] == '\r' && i + 1 < source_bytes && source[i + 1] == '\n') continue;
        copy[len++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (len > 0 && copy[len - 1] == '\n') len--;
    copy[len] = '\0';
    lx->src = copy;
    lx->len = len;
}

qr_jtoken *qr_jlex_run(qr_jrun *run, const char *source, size_t source_bytes)
{
    lexer lx = {.run = run, .line = 1};
    run->line = 1;
    normalize(&lx, source, source_bytes);
    lex_root(&lx);
    add_text_token(&lx, QR_JT_EOF, "end of template", 15);
    return lx.tokens;
}
