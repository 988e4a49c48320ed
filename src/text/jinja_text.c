#include "text/jinja_text.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

/* ---- building --------------------------------------------------------------------------------------------------- */

void qr_jbuild_add(qr_jbuild *b, const char *text, size_t bytes)
{
    qr_jrun_charge_bytes(b->run, bytes);
    if (bytes > b->cap - b->len) {
        size_t cap = b->cap ? b->cap * 2 : 64;
        while (cap - b->len < bytes) {
            if (cap > QR_J_MAX_RENDER_BYTES) qr_jrun_limit(b->run, "a string is too long");
            cap *= 2;
        }
        char *data = qr_jrun_alloc(b->run, cap);
        if (b->len) memcpy(data, b->data, b->len);
        b->data = data;
        b->cap = cap;
    }
    if (bytes) memcpy(b->data + b->len, text, bytes);
    b->len += bytes;
}

void qr_jbuild_cstr(qr_jbuild *b, const char *text) { qr_jbuild_add(b, text, strlen(text)); }
void qr_jbuild_val(qr_jbuild *b, qr_jval str) { qr_jbuild_add(b, str.text, str.bytes); }

void qr_jbuild_char(qr_jbuild *b, uint32_t c)
{
    char utf8[4];
    qr_jbuild_add(b, utf8, qr_jtext_encode(c, utf8));
}

void qr_jbuild_fill(qr_jbuild *b, const char *text, size_t bytes, int64_t count)
{
    if (bytes == 0) return;
    for (int64_t i = 0; i < count; i++) qr_jbuild_add(b, text, bytes);
}

qr_jval qr_jbuild_end(qr_jbuild *b) { return qr_jval_str(b->run, b->data ? b->data : "", b->len); }

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------ */

uint32_t qr_jtext_decode(const char *text, size_t *pos)
{
    const unsigned char *s = (const unsigned char *)text + *pos;
    if (s[0] < 0x80) {
        *pos += 1;
        return s[0];
    }
    if (s[0] < 0xE0) {
        *pos += 2;
        return (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3F);
    }
    if (s[0] < 0xF0) {
        *pos += 3;
        return (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
    }
    *pos += 4;
    return (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3F) << 12 | (uint32_t)(s[2] & 0x3F) << 6 | (s[3] & 0x3F);
}

size_t qr_jtext_encode(uint32_t c, char out[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

bool qr_jtext_valid(const char *text, size_t bytes)
{
    for (size_t pos = 0; pos < bytes;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)text + pos, (utf8proc_ssize_t)(bytes - pos), &c);
        if (n <= 0) return false;
        pos += (size_t)n;
    }
    return true;
}

size_t qr_jtext_offset(const char *text, size_t bytes, int64_t idx)
{
    size_t pos = 0;
    for (; idx > 0 && pos < bytes; idx--) {
        pos++;
        while (pos < bytes && ((unsigned char)text[pos] & 0xC0) == 0x80) pos++;
    }
    return pos;
}

qr_jval qr_jtext_slice(qr_jrun *run, qr_jval str, int64_t start, int64_t num, int64_t step)
{
    if (num <= 0) return qr_jval_cstr("");
    qr_jrun_charge_bytes(run, str.bytes);
    if (step == 1) {
        size_t begin = qr_jtext_offset(str.text, str.bytes, start);
        return qr_jval_str(run, str.text + begin, qr_jtext_offset(str.text + begin, str.bytes - begin, num));
    }
    qr_jbuild b = {.run = run};
    size_t pos = qr_jtext_offset(str.text, str.bytes, start);
    for (;;) {
        size_t end = pos;
        uint32_t c = qr_jtext_decode(str.text, &end);
        qr_jbuild_char(&b, c);
        if (--num == 0) return qr_jbuild_end(&b);
        if (step > 0) {
            pos += qr_jtext_offset(str.text + pos, str.bytes - pos, step);
        } else {
            for (int64_t i = step; i < 0; i++) do
                    pos--;
                while (((unsigned char)str.text[pos] & 0xC0) == 0x80);
        }
    }
}

/* ---- classes ---------------------------------------------------------------------------------------------------- */

static utf8proc_category_t category(uint32_t c) { return utf8proc_category((utf8proc_int32_t)c); }

bool qr_jtext_is_space(uint32_t c)
{
    if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

static bool is_letter(utf8proc_category_t cat)
{
    return cat == UTF8PROC_CATEGORY_LU || cat == UTF8PROC_CATEGORY_LL || cat == UTF8PROC_CATEGORY_LT ||
           cat == UTF8PROC_CATEGORY_LM || cat == UTF8PROC_CATEGORY_LO;
}

static bool is_numeric(uint32_t c)
{
    utf8proc_category_t cat = category(c);
    return cat == UTF8PROC_CATEGORY_ND || cat == UTF8PROC_CATEGORY_NL || cat == UTF8PROC_CATEGORY_NO;
}

/* Decimal digits, superscripts, subscripts, circled and parenthesised digits. */
static bool is_digit(uint32_t c)
{
    static const uint32_t ranges[][2] = {{0xB2, 0xB3},     {0xB9, 0xB9},     {0x2070, 0x2070}, {0x2074, 0x2079},
                                         {0x2080, 0x2089}, {0x2460, 0x2468}, {0x2474, 0x247C}, {0x2488, 0x2490},
                                         {0x24EA, 0x24EA}, {0x24F5, 0x24FD}, {0x24FF, 0x24FF}, {0x2776, 0x277E},
                                         {0x2780, 0x2788}, {0x278A, 0x2792}};
    if (category(c) == UTF8PROC_CATEGORY_ND) return true;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1]) return true;
    return false;
}

bool qr_jtext_is_word(uint32_t c)
{
    if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
    utf8proc_category_t cat = category(c);
    return is_letter(cat) || is_numeric(c);
}

bool qr_jtext_is_printable(uint32_t c)
{
    if (c < 0x80) return c >= 0x20 && c != 0x7F;
    switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    default: return true;
    }
}

static bool is_upper(uint32_t c) { return utf8proc_isupper((utf8proc_int32_t)c); }
static bool is_lower(uint32_t c) { return utf8proc_islower((utf8proc_int32_t)c); }
static bool is_cased(uint32_t c) { return is_upper(c) || is_lower(c) || category(c) == UTF8PROC_CATEGORY_LT; }

static bool char_is(uint32_t c, qr_jclass cls)
{
    switch (cls) {
    case QR_J_ALNUM: return is_letter(category(c)) || is_numeric(c);
    case QR_J_ALPHA: return is_letter(category(c));
    case QR_J_ASCII: return c < 0x80;
    case QR_J_DECIMAL: return category(c) == UTF8PROC_CATEGORY_ND;
    case QR_J_DIGIT: return is_digit(c);
    case QR_J_NUMERIC: return is_numeric(c);
    case QR_J_PRINTABLE: return c == ' ' || qr_jtext_is_printable(c);
    case QR_J_SPACE: return qr_jtext_is_space(c);
    case QR_J_IDENTIFIER: return qr_jtext_is_word(c);
    default: return false;
    }
}

/* istitle, isupper, islower: about the cased characters only */
static bool case_is(qr_jval str, qr_jclass cls)
{
    bool any = false, in_word = false;
    for (size_t pos = 0; pos < str.bytes;) {
        uint32_t c = qr_jtext_decode(str.text, &pos);
        bool upper = is_upper(c) || category(c) == UTF8PROC_CATEGORY_LT;
        if (!is_cased(c)) {
            in_word = false;
            continue;
        }
        if (cls == QR_J_IS_UPPER && !is_upper(c)) return false;
        if (cls == QR_J_IS_LOWER && !is_lower(c)) return false;
        if (cls == QR_J_IS_TITLE && upper == in_word) return false;
        any = in_word = true;
    }
    return any;
}

bool qr_jtext_is(qr_jval str, qr_jclass cls)
{
    if (cls == QR_J_IS_LOWER || cls == QR_J_IS_UPPER || cls == QR_J_IS_TITLE) return case_is(str, cls);
    if (str.bytes == 0) return cls == QR_J_ASCII || cls == QR_J_PRINTABLE;
    if (cls == QR_J_IDENTIFIER && char_is((unsigned char)str.text[0], QR_J_DECIMAL)) return false;
    for (size_t pos = 0; pos < str.bytes;)
        if (!char_is(qr_jtext_decode(str.text, &pos), cls)) return false;
    return true;
}

/* ---- case ------------------------------------------------------------------------------------------------------- */

/* Characters whose upper or title case is several characters (Unicode's SpecialCasing.txt). */
static const struct special_case {
    uint32_t c;
    const char *upper, *title; /* title NULL: as upper */
} special_cases[] = {
    {0x00DF, "SS", "Ss"},
    {0x0149, "\u02bcN", NULL},
    {0x01F0, "J\u030c", NULL},
    {0x0390, "\u0399\u0308\u0301", NULL},
    {0x03B0, "\u03a5\u0308\u0301", NULL},
    {0x0587, "\u0535\u0552", "\u0535\u0582"},
    {0x1E96, "H\u0331", NULL},
    {0x1E97, "T\u0308", NULL},
    {0x1E98, "W\u030a", NULL},
    {0x1E99, "Y\u030a", NULL},
    {0x1E9A, "A\u02be", NULL},
    {0x1F50, "\u03a5\u0313", NULL},
    {0x1F52, "\u03a5\u0313\u0300", NULL},
    {0x1F54, "\u03a5\u0313\u0301", NULL},
    {0x1F56, "\u03a5\u0313\u0342", NULL},
    {0x1F80, "\u1f08\u0399", "\u1f88"},
    {0x1F81, "\u1f09\u0399", "\u1f89"},
    {0x1F82, "\u1f0a\u0399", "\u1f8a"},
    {0x1F83, "\u1f0b\u0399", "\u1f8b"},
    {0x1F84, "\u1f0c\u0399", "\u1f8c"},
    {0x1F85, "\u1f0d\u0399", "\u1f8d"},
    {0x1F86, "\u1f0e\u0399", "\u1f8e"},
    {0x1F87, "\u1f0f\u0399", "\u1f8f"},
    {0x1F88, "\u1f08\u0399", "\u1f88"},
    {0x1F89, "\u1f09\u0399", "\u1f89"},
    {0x1F8A, "\u1f0a\u0399", "\u1f8a"},
    {0x1F8B, "\u1f0b\u0399", "\u1f8b"},
    {0x1F8C, "\u1f0c\u0399", "\u1f8c"},
    {0x1F8D, "\u1f0d\u0399", "\u1f8d"},
    {0x1F8E, "\u1f0e\u0399", "\u1f8e"},
    {0x1F8F, "\u1f0f\u0399", "\u1f8f"},
    {0x1F90, "\u1f28\u0399", "\u1f98"},
    {0x1F91, "\u1f29\u0399", "\u1f99"},
    {0x1F92, "\u1f2a\u0399", "\u1f9a"},
    {0x1F93, "\u1f2b\u0399", "\u1f9b"},
    {0x1F94, "\u1f2c\u0399", "\u1f9c"},
    {0x1F95, "\u1f2d\u0399", "\u1f9d"},
    {0x1F96, "\u1f2e\u0399", "\u1f9e"},
    {0x1F97, "\u1f2f\u0399", "\u1f9f"},
    {0x1F98, "\u1f28\u0399", "\u1f98"},
    {0x1F99, "\u1f29\u0399", "\u1f99"},
    {0x1F9A, "\u1f2a\u0399", "\u1f9a"},
    {0x1F9B, "\u1f2b\u0399", "\u1f9b"},
    {0x1F9C, "\u1f2c\u0399", "\u1f9c"},
    {0x1F9D, "\u1f2d\u0399", "\u1f9d"},
    {0x1F9E, "\u1f2e\u0399", "\u1f9e"},
    {0x1F9F, "\u1f2f\u0399", "\u1f9f"},
    {0x1FA0, "\u1f68\u0399", "\u1fa8"},
    {0x1FA1, "\u1f69\u0399", "\u1fa9"},
    {0x1FA2, "\u1f6a\u0399", "\u1faa"},
    {0x1FA3, "\u1f6b\u0399", "\u1fab"},
    {0x1FA4, "\u1f6c\u0399", "\u1fac"},
    {0x1FA5, "\u1f6d\u0399", "\u1fad"},
    {0x1FA6, "\u1f6e\u0399", "\u1fae"},
    {0x1FA7, "\u1f6f\u0399", "\u1faf"},
    {0x1FA8, "\u1f68\u0399", "\u1fa8"},
    {0x1FA9, "\u1f69\u0399", "\u1fa9"},
    {0x1FAA, "\u1f6a\u0399", "\u1faa"},
    {0x1FAB, "\u1f6b\u0399", "\u1fab"},
    {0x1FAC, "\u1f6c\u0399", "\u1fac"},
    {0x1FAD, "\u1f6d\u0399", "\u1fad"},
    {0x1FAE, "\u1f6e\u0399", "\u1fae"},
    {0x1FAF, "\u1f6f\u0399", "\u1faf"},
    {0x1FB2, "\u1fba\u0399", "\u1fba\u0345"},
    {0x1FB3, "\u0391\u0399", "\u1fbc"},
    {0x1FB4, "\u0386\u0399", "\u0386\u0345"},
    {0x1FB6, "\u0391\u0342", NULL},
    {0x1FB7, "\u0391\u0342\u0399", "\u0391\u0342\u0345"},
    {0x1FBC, "\u0391\u0399", "\u1fbc"},
    {0x1FC2, "\u1fca\u0399", "\u1fca\u0345"},
    {0x1FC3, "\u0397\u0399", "\u1fcc"},
    {0x1FC4, "\u0389\u0399", "\u0389\u0345"},
    {0x1FC6, "\u0397\u0342", NULL},
    {0x1FC7, "\u0397\u0342\u0399", "\u0397\u0342\u0345"},
    {0x1FCC, "\u0397\u0399", "\u1fcc"},
    {0x1FD2, "\u0399\u0308\u0300", NULL},
    {0x1FD3, "\u0399\u0308\u0301", NULL},
    {0x1FD6, "\u0399\u0342", NULL},
    {0x1FD7, "\u0399\u0308\u0342", NULL},
    {0x1FE2, "\u03a5\u0308\u0300", NULL},
    {0x1FE3, "\u03a5\u0308\u0301", NULL},
    {0x1FE4, "\u03a1\u0313", NULL},
    {0x1FE6, "\u03a5\u0342", NULL},
    {0x1FE7, "\u03a5\u0308\u0342", NULL},
    {0x1FF2, "\u1ffa\u0399", "\u1ffa\u0345"},
    {0x1FF3, "\u03a9\u0399", "\u1ffc"},
    {0x1FF4, "\u038f\u0399", "\u038f\u0345"},
    {0x1FF6, "\u03a9\u0342", NULL},
    {0x1FF7, "\u03a9\u0342\u0399", "\u03a9\u0342\u0345"},
    {0x1FFC, "\u03a9\u0399", "\u1ffc"},
    {0xFB00, "FF", "Ff"},
    {0xFB01, "FI", "Fi"},
    {0xFB02, "FL", "Fl"},
    {0xFB03, "FFI", "Ffi"},
    {0xFB04, "FFL", "Ffl"},
    {0xFB05, "ST", "St"},
    {0xFB06, "ST", "St"},
    {0xFB13, "\u0544\u0546", "\u0544\u0576"},
    {0xFB14, "\u0544\u0535", "\u0544\u0565"},
    {0xFB15, "\u0544\u053b", "\u0544\u056b"},
    {0xFB16, "\u054e\u0546", "\u054e\u0576"},
    {0xFB17, "\u0544\u053d", "\u0544\u056d"},
};

static void add_cased(qr_jbuild *b, uint32_t c, bool title)
{
    if (c < 0x80) {
        qr_jbuild_char(b, c >= 'a' && c <= 'z' ? c - 32 : c);
        return;
    }
    for (size_t i = 0; i < sizeof special_cases / sizeof *special_cases; i++) {
        if (special_cases[i].c != c) continue;
        qr_jbuild_cstr(b, title && special_cases[i].title ? special_cases[i].title : special_cases[i].upper);
        return;
    }
    utf8proc_int32_t cp = (utf8proc_int32_t)c;
    qr_jbuild_char(b, (uint32_t)(title ? utf8proc_totitle(cp) : utf8proc_toupper(cp)));
}

static bool is_case_ignorable(uint32_t c)
{
    utf8proc_category_t cat = category(c);
    return cat == UTF8PROC_CATEGORY_MN || cat == UTF8PROC_CATEGORY_ME || cat == UTF8PROC_CATEGORY_CF ||
           cat == UTF8PROC_CATEGORY_LM || cat == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' ||
           c == 0xB7 || c == 0x2019;
}

/* A capital sigma in str.text[start..end) that ends a word: a letter before it, none after. */
static bool is_final_sigma(qr_jval str, size_t start, size_t end)
{
    bool before = false;
    while (start > 0) {
        do start--;
        while (((unsigned char)str.text[start] & 0xC0) == 0x80);
        size_t pos = start;
        uint32_t c = qr_jtext_decode(str.text, &pos);
        if (is_case_ignorable(c)) continue;
        before = is_cased(c);
        break;
    }
    while (before && end < str.bytes) {
        uint32_t c = qr_jtext_decode(str.text, &end);
        if (!is_case_ignorable(c)) return !is_cased(c);
    }
    return before;
}

static void add_lower(qr_jbuild *b, qr_jval str, size_t start, size_t end, uint32_t c)
{
    if (c < 0x80)
        qr_jbuild_char(b, c >= 'A' && c <= 'Z' ? c + 32 : c);
    else if (c == 0x130)
        qr_jbuild_cstr(b, "i\u0307");
    else if (c == 0x3A3 && is_final_sigma(str, start, end))
        qr_jbuild_char(b, 0x3C2);
    else
        qr_jbuild_char(b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
}

qr_jval qr_jtext_case(qr_jrun *run, qr_jval str, qr_jcase to)
{
    qr_jbuild b = {.run = run};
    bool in_word = false;
    for (size_t pos = 0; pos < str.bytes;) {
        size_t start = pos;
        uint32_t c = qr_jtext_decode(str.text, &pos);
        bool upper = to == QR_J_UPPER || (to == QR_J_SWAP && is_lower(c));
        bool title = (to == QR_J_TITLE && !in_word) || (to == QR_J_CAPITALIZE && start == 0);
        if (to == QR_J_SWAP && !is_cased(c))
            qr_jbuild_char(&b, c);
        else if (to == QR_J_FOLD && c == 0xDF)
            qr_jbuild_cstr(&b, "ss");
        else if (to == QR_J_FOLD && c == 0x3C2)
            qr_jbuild_char(&b, 0x3C3);
        else if (upper || title)
            add_cased(&b, c, title);
        else
            add_lower(&b, str, start, pos, c);
        in_word = is_cased(c);
    }
    return qr_jbuild_end(&b);
}
