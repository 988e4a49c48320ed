#include "text/unicode.h"

#include <string.h>
#include <utf8proc.h>

typedef struct cp_range {
    uint32_t first, last;
} cp_range;

typedef struct proxy_range {
    uint32_t first, last, proxy;
} proxy_range;

/* Characters added in Unicode 15, 15.1 and 16, each with an older one of the same general category and the same
 * number of UTF-8 bytes; and U+180E, which PCRE2 alone counts as a space. Sorted. */
static const proxy_range proxies[] = {
    {0x897, 0x897, 0x302A},      {0xCF3, 0xCF3, 0x903},       {0xECE, 0xECE, 0x302A},      {0x180E, 0x180E, 0x200B},
    {0x1B4E, 0x1B4F, 0x2016},    {0x1B7F, 0x1B7F, 0x2016},    {0x1C89, 0x1C89, 0x10C7},    {0x1C8A, 0x1C8A, 0x2D27},
    {0x2427, 0x2429, 0x2300},    {0x2FFC, 0x2FFF, 0x2300},    {0x31E4, 0x31E5, 0x2300},    {0x31EF, 0x31EF, 0x2300},
    {0xA7CB, 0xA7CC, 0xA7C9},    {0xA7CD, 0xA7CD, 0xA7CA},    {0xA7DA, 0xA7DA, 0xA7C9},    {0xA7DB, 0xA7DB, 0xA7CA},
    {0xA7DC, 0xA7DC, 0xA7C9},    {0x105C0, 0x105F3, 0x10000}, {0x10D40, 0x10D49, 0x1D7CE}, {0x10D4A, 0x10D4D, 0x10000},
    {0x10D4E, 0x10D4E, 0x16B40}, {0x10D4F, 0x10D4F, 0x10000}, {0x10D50, 0x10D65, 0x16E40}, {0x10D69, 0x10D6D, 0x11001},
    {0x10D6E, 0x10D6E, 0x10EAD}, {0x10D6F, 0x10D6F, 0x16B40}, {0x10D70, 0x10D85, 0x16E60}, {0x10D8E, 0x10D8F, 0x1D6C1},
    {0x10EC2, 0x10EC4, 0x10000}, {0x10EFC, 0x10EFF, 0x11001}, {0x1123F, 0x11240, 0x10000}, {0x11241, 0x11241, 0x11001},
    {0x11380, 0x11389, 0x10000}, {0x1138B, 0x1138B, 0x10000}, {0x1138E, 0x1138E, 0x10000}, {0x11390, 0x113B5, 0x10000},
    {0x113B7, 0x113B7, 0x10000}, {0x113B8, 0x113BA, 0x11000}, {0x113BB, 0x113C0, 0x11001}, {0x113C2, 0x113C2, 0x11000},
    {0x113C5, 0x113C5, 0x11000}, {0x113C7, 0x113CA, 0x11000}, {0x113CC, 0x113CD, 0x11000}, {0x113CE, 0x113CE, 0x11001},
    {0x113CF, 0x113CF, 0x11000}, {0x113D0, 0x113D0, 0x11001}, {0x113D1, 0x113D1, 0x10000}, {0x113D2, 0x113D2, 0x11001},
    {0x113D3, 0x113D3, 0x10000}, {0x113D4, 0x113D5, 0x10100}, {0x113D7, 0x113D8, 0x10100}, {0x113E1, 0x113E2, 0x11001},
    {0x116D0, 0x116E3, 0x1D7CE}, {0x11B00, 0x11B09, 0x10100}, {0x11BC0, 0x11BE0, 0x10000}, {0x11BE1, 0x11BE1, 0x10100},
    {0x11BF0, 0x11BF9, 0x1D7CE}, {0x11F00, 0x11F01, 0x11001}, {0x11F02, 0x11F02, 0x10000}, {0x11F03, 0x11F03, 0x11000},
    {0x11F04, 0x11F10, 0x10000}, {0x11F12, 0x11F33, 0x10000}, {0x11F34, 0x11F35, 0x11000}, {0x11F36, 0x11F3A, 0x11001},
    {0x11F3E, 0x11F3F, 0x11000}, {0x11F40, 0x11F40, 0x11001}, {0x11F41, 0x11F41, 0x11000}, {0x11F42, 0x11F42, 0x11001},
    {0x11F43, 0x11F4F, 0x10100}, {0x11F50, 0x11F59, 0x1D7CE}, {0x11F5A, 0x11F5A, 0x11001}, {0x1342F, 0x1342F, 0x10000},
    {0x13440, 0x13440, 0x11001}, {0x13441, 0x13446, 0x10000}, {0x13447, 0x13455, 0x11001}, {0x13460, 0x143FA, 0x10000},
    {0x16100, 0x1611D, 0x10000}, {0x1611E, 0x16129, 0x11001}, {0x1612A, 0x1612C, 0x11000}, {0x1612D, 0x1612F, 0x11001},
    {0x16130, 0x16139, 0x1D7CE}, {0x16D40, 0x16D42, 0x16B40}, {0x16D43, 0x16D6A, 0x10000}, {0x16D6B, 0x16D6C, 0x16B40},
    {0x16D6D, 0x16D6F, 0x10100}, {0x16D70, 0x16D79, 0x1D7CE}, {0x18CFF, 0x18CFF, 0x10000}, {0x1B132, 0x1B132, 0x10000},
    {0x1B155, 0x1B155, 0x10000}, {0x1CC00, 0x1CCEF, 0x1F300}, {0x1CCF0, 0x1CCF9, 0x1D7CE}, {0x1CD00, 0x1CEB3, 0x1F300},
    {0x1D2C0, 0x1D2D3, 0x10107}, {0x1DF25, 0x1DF2A, 0x16E60}, {0x1E030, 0x1E06D, 0x16B40}, {0x1E08F, 0x1E08F, 0x11001},
    {0x1E4D0, 0x1E4EA, 0x10000}, {0x1E4EB, 0x1E4EB, 0x16B40}, {0x1E4EC, 0x1E4EF, 0x11001}, {0x1E4F0, 0x1E4F9, 0x1D7CE},
    {0x1E5D0, 0x1E5ED, 0x10000}, {0x1E5EE, 0x1E5EF, 0x11001}, {0x1E5F0, 0x1E5F0, 0x10000}, {0x1E5F1, 0x1E5FA, 0x1D7CE},
    {0x1E5FF, 0x1E5FF, 0x10100}, {0x1F6DC, 0x1F6DC, 0x1F300}, {0x1F774, 0x1F776, 0x1F300}, {0x1F77B, 0x1F77F, 0x1F300},
    {0x1F7D9, 0x1F7D9, 0x1F300}, {0x1F8B2, 0x1F8BB, 0x1F300}, {0x1F8C0, 0x1F8C1, 0x1F300}, {0x1FA75, 0x1FA77, 0x1F300},
    {0x1FA87, 0x1FA89, 0x1F300}, {0x1FA8F, 0x1FA8F, 0x1F300}, {0x1FAAD, 0x1FAAF, 0x1F300}, {0x1FABB, 0x1FABF, 0x1F300},
    {0x1FAC6, 0x1FAC6, 0x1F300}, {0x1FACE, 0x1FACF, 0x1F300}, {0x1FADA, 0x1FADC, 0x1F300}, {0x1FADF, 0x1FADF, 0x1F300},
    {0x1FAE8, 0x1FAE9, 0x1F300}, {0x1FAF7, 0x1FAF8, 0x1F300}, {0x1FBCB, 0x1FBEF, 0x1F300}, {0x2B739, 0x2B739, 0x20000},
    {0x2EBF0, 0x2EE5D, 0x20000}, {0x31350, 0x323AF, 0x20000},
};

/* Punctuation that the table behind tokenizers' Punctuation pre-tokenizer does not know. Sorted. */
static const cp_range not_punct[] = {
    {0x61D, 0x61D},     {0x9FD, 0x9FD},     {0xA76, 0xA76},     {0xC77, 0xC77},     {0xC84, 0xC84},
    {0x1B4E, 0x1B4F},   {0x1B7D, 0x1B7E},   {0x1B7F, 0x1B7F},   {0x2E43, 0x2E4F},   {0x2E52, 0x2E5D},
    {0x10D6E, 0x10D6E}, {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59}, {0x10F86, 0x10F89}, {0x113D4, 0x113D5},
    {0x113D7, 0x113D8}, {0x1144B, 0x1144F}, {0x1145A, 0x1145B}, {0x1145D, 0x1145D}, {0x11660, 0x1166C},
    {0x116B9, 0x116B9}, {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46},
    {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11B00, 0x11B09}, {0x11BE1, 0x11BE1}, {0x11C41, 0x11C45},
    {0x11C70, 0x11C71}, {0x11EF7, 0x11EF8}, {0x11F43, 0x11F4F}, {0x11FFF, 0x11FFF}, {0x12FF1, 0x12FF2},
    {0x16D6D, 0x16D6F}, {0x16E97, 0x16E9A}, {0x16FE2, 0x16FE2}, {0x1E5FF, 0x1E5FF}, {0x1E95E, 0x1E95F},
};

/* Characters that the normalizers of `tokenizers`, which follow Unicode 9, leave alone and do not order, unlike later
 * versions; those in proxies come on top. Sorted. */
static const cp_range not_normalized[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785},
    {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1},
    {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
};

typedef struct case_range {
    uint32_t first, last, lower; /* lower case of first; for both ends the distance is the same */
} case_range;

/* Capital letters of Unicode 16 and 17, which utf8proc may not know. */
static const case_range lower_cases[] = {
    {0x1C89, 0x1C89, 0x1C8A},    {0xA7CB, 0xA7CB, 0x264},     {0xA7CC, 0xA7CC, 0xA7CD}, {0xA7CE, 0xA7CE, 0xA7CF},
    {0xA7D2, 0xA7D2, 0xA7D3},    {0xA7D4, 0xA7D4, 0xA7D5},    {0xA7DA, 0xA7DA, 0xA7DB}, {0xA7DC, 0xA7DC, 0x19B},
    {0x10D50, 0x10D65, 0x10D70}, {0x16EA0, 0x16EB8, 0x16EBB},
};

qr_utf8_kind qr_unicode_next(const char *s, size_t len, int *out_bytes)
{
    const unsigned char *u = (const unsigned char *)s;
    unsigned char b = u[0], low = 0x80, high = 0xBF;
    int need;
    *out_bytes = 1;
    if (b < 0x80) return QR_UTF8_CHAR;
    if (b >= 0xC2 && b <= 0xDF) {
        need = 1;
    } else if (b >= 0xE0 && b <= 0xEF) {
        need = 2;
        if (b == 0xE0) low = 0xA0;
        if (b == 0xED) high = 0x9F;
    } else if (b >= 0xF0 && b <= 0xF4) {
        need = 3;
        if (b == 0xF0) low = 0x90;
        if (b == 0xF4) high = 0x8F;
    } else {
        return QR_UTF8_INVALID;
    }
    for (int i = 1; i <= need; i++) {
        if ((size_t)i == len) return QR_UTF8_PARTIAL;
        if (u[i] < low || u[i] > high) return QR_UTF8_INVALID;
        low = 0x80, high = 0xBF;
        *out_bytes = i + 1;
    }
    return QR_UTF8_CHAR;
}

int qr_unicode_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

/* Length of the ASCII run at the start of text. */
static size_t ascii_run(const char *text, size_t text_bytes)
{
    size_t i = 0;
    for (; i + 8 <= text_bytes; i += 8) {
        uint64_t word;
        memcpy(&word, text + i, 8);
        if (word & 0x8080808080808080u) break;
    }
    while (i < text_bytes && (unsigned char)text[i] < 0x80) i++;
    return i;
}

bool qr_unicode_is_valid(const char *text, size_t text_bytes)
{
    size_t i = 0;
    int n;
    while ((i += ascii_run(text + i, text_bytes - i)) < text_bytes) {
        if (qr_unicode_next(text + i, text_bytes - i, &n) != QR_UTF8_CHAR) return false;
        i += (size_t)n;
    }
    return true;
}

quire_status qr_unicode_replace_invalid(const char *text, size_t text_bytes, qr_buf *out, quire_error *error)
{
    size_t i = 0, copied = 0;
    while (i < text_bytes) {
        int n;
        bool valid = qr_unicode_next(text + i, text_bytes - i, &n) == QR_UTF8_CHAR;
        i += (size_t)n;
        if (valid && i < text_bytes) continue;
        size_t end = valid ? i : i - (size_t)n;
        if (qr_buf_append(out, text + copied, end - copied) || (!valid && qr_buf_append(out, "\xEF\xBF\xBD", 3)))
            return qr_fail_nomem(error, "text with replacement characters", text_bytes);
        copied = i;
    }
    return QUIRE_OK;
}

uint32_t qr_unicode_proxy(uint32_t cp)
{
    size_t low = 0, high = sizeof proxies / sizeof *proxies;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (cp < proxies[mid].first)
            high = mid;
        else if (cp > proxies[mid].last)
            low = mid + 1;
        else
            return proxies[mid].proxy;
    }
    return cp;
}

quire_status qr_unicode_shadow(const char *text, size_t text_bytes, qr_buf *out, bool *out_same, quire_error *error)
{
    size_t start = out->len;
    *out_same = true;
    for (size_t i = 0; i < text_bytes;) {
        if ((unsigned char)text[i] < 0xE0) {
            i++;
            continue;
        }
        int n;
        uint32_t cp = qr_unicode_decode(text + i, &n), proxy = qr_unicode_proxy(cp);
        if (proxy != cp) {
            if (*out_same && qr_buf_append(out, text, text_bytes))
                return qr_fail_nomem(error, "a copy of the text", text_bytes);
            *out_same = false;
            qr_unicode_encode(proxy, out->data + start + i);
        }
        i += (size_t)n;
    }
    return QUIRE_OK;
}

static bool in_ranges(const cp_range *ranges, size_t num, uint32_t cp)
{
    size_t low = 0, high = num;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (cp > ranges[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < num && cp >= ranges[low].first;
}

static utf8proc_category_t category(uint32_t cp) { return utf8proc_category((utf8proc_int32_t)qr_unicode_proxy(cp)); }

bool qr_unicode_is_space(uint32_t cp)
{
    if (cp < 0x80) return cp == ' ' || (cp >= '\t' && cp <= '\r');
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

bool qr_unicode_is_numeric(uint32_t cp)
{
    if (cp < 0x80) return cp >= '0' && cp <= '9';
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool qr_unicode_is_punct(uint32_t cp)
{
    if (cp < 0x80)
        return (cp >= '!' && cp <= '/') || (cp >= ':' && cp <= '@') || (cp >= '[' && cp <= '`') ||
               (cp >= '{' && cp <= '~');
    if (cp == 0x166D || cp == 0x111C9) return true; /* punctuation in Unicode 8 */
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    if (c < UTF8PROC_CATEGORY_PC || c > UTF8PROC_CATEGORY_PO) return false;
    return !in_ranges(not_punct, sizeof not_punct / sizeof *not_punct, cp);
}

bool qr_unicode_is_word(uint32_t cp)
{
    if (cp < 0x80) return (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z') || cp == '_';
    if (cp == 0x200C || cp == 0x200D) return true;
    if ((cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) ||
        (cp >= 0x1F170 && cp <= 0x1F189))
        return true; /* circled and squared letters: Other_Alphabetic */
    utf8proc_category_t c = category(cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC;
}

/* True for characters that NFC leaves alone whatever their neighbours are, and that are common. */
static bool is_nfc_inert(uint32_t cp)
{
    return cp < 0x300 || (cp >= 0x3400 && cp <= 0x9FFF) || (cp >= 0x1F300 && cp <= 0x1FAFF) ||
           (cp >= 0x2010 && cp <= 0x2027) || (cp >= 0x3041 && cp <= 0x3096) || (cp >= 0x30A1 && cp <= 0x30FA);
}

static bool is_normalized(qr_unicode_form form, const char *text, size_t text_bytes)
{
    size_t i = 0;
    while ((i += ascii_run(text + i, text_bytes - i)) < text_bytes) {
        int n;
        if (form != QR_NFC || !is_nfc_inert(qr_unicode_decode(text + i, &n))) return false;
        i += (size_t)n;
    }
    return true;
}

/* Stable counting sort of marks by combining class, for runs of any length in linear time. */
static void sort_marks(utf8proc_int32_t *cps, utf8proc_int32_t *tmp, size_t num)
{
    size_t starts[257] = {0};
    for (size_t i = 0; i < num; i++) starts[utf8proc_get_property(cps[i])->combining_class % 256 + 1]++;
    for (int c = 1; c < 257; c++) starts[c] += starts[c - 1];
    memcpy(tmp, cps, num * sizeof *cps);
    for (size_t i = 0; i < num; i++) cps[starts[utf8proc_get_property(tmp[i])->combining_class % 256]++] = tmp[i];
}

/* Canonical order: every run of marks (combining class above 0) sorted. */
static void order_marks(utf8proc_int32_t *cps, utf8proc_int32_t *tmp, size_t num)
{
    for (size_t i = 0; i < num;) {
        size_t start = i;
        bool sorted = true;
        int prev = 0;
        for (; i < num; i++) {
            int ccc = utf8proc_get_property(cps[i])->combining_class;
            if (ccc == 0) break;
            if (ccc < prev) sorted = false;
            prev = ccc;
        }
        if (!sorted) sort_marks(cps + start, tmp, i - start);
        if (i == start) i++;
    }
}

/* Decompose text into *cps (grown as needed), *num code points. */
static quire_status decompose(const char *text, size_t text_bytes, utf8proc_option_t options, utf8proc_int32_t **cps,
                              size_t *num, quire_error *error)
{
    enum { LONGEST = 32 }; /* the longest decomposition is 18 code points */
    size_t cap = text_bytes + LONGEST;
    *num = 0;
    *cps = qr_malloc(cap * sizeof **cps);
    if (!*cps) return qr_fail_nomem(error, "code points", cap * sizeof **cps);
    for (size_t i = 0; i < text_bytes;) {
        int n, last_boundclass = 0;
        utf8proc_int32_t cp = (utf8proc_int32_t)qr_unicode_decode(text + i, &n);
        i += (size_t)n;
        if (cap - *num < LONGEST) {
            cap += cap / 2;
            utf8proc_int32_t *grown = qr_realloc(*cps, cap * sizeof **cps);
            if (!grown) return qr_fail_nomem(error, "code points", cap * sizeof **cps);
            *cps = grown;
        }
        utf8proc_ssize_t got =
            utf8proc_decompose_char(cp, *cps + *num, (utf8proc_ssize_t)(cap - *num), options, &last_boundclass);
        if (got < 1 || got > LONGEST) (*cps)[*num] = cp, got = 1;
        *num += (size_t)got;
    }
    return QUIRE_OK;
}

/* Text without a character of not_normalized. */
static quire_status normalize_part(qr_unicode_form form, const char *text, size_t text_bytes, qr_buf *out,
                                   quire_error *error)
{
    if (is_normalized(form, text, text_bytes))
        return qr_buf_append(out, text, text_bytes) ? qr_fail_nomem(error, "normalized text", text_bytes) : QUIRE_OK;
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (form == QR_NFKC || form == QR_NFKD) options |= UTF8PROC_COMPAT;
    utf8proc_int32_t *cps = NULL, *tmp = NULL;
    size_t num = 0;
    quire_status status = decompose(text, text_bytes, options, &cps, &num, error);
    if (status == QUIRE_OK && (!(tmp = qr_malloc(num * sizeof *tmp)) || qr_buf_reserve(out, num * 4)))
        status = qr_fail_nomem(error, "normalized text", num * 8);
    if (status == QUIRE_OK) {
        order_marks(cps, tmp, num);
        if (form == QR_NFC || form == QR_NFKC)
            num = (size_t)utf8proc_normalize_utf32(cps, (utf8proc_ssize_t)num, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        for (size_t i = 0; i < num; i++) out->len += (size_t)qr_unicode_encode((uint32_t)cps[i], out->data + out->len);
    }
    qr_free(cps);
    qr_free(tmp);
    return status;
}

/* A character that is left alone keeps what is before it from what comes after, as any other base character. */
quire_status qr_unicode_normalize(qr_unicode_form form, const char *text, size_t text_bytes, qr_buf *out,
                                  quire_error *error)
{
    size_t done = 0;
    int n;
    for (size_t i = 0; i < text_bytes; i += (size_t)n) {
        uint32_t cp = qr_unicode_decode(text + i, &n);
        if (cp < not_normalized[0].first ||
            (!in_ranges(not_normalized, sizeof not_normalized / sizeof *not_normalized, cp) &&
             qr_unicode_proxy(cp) == cp))
            continue;
        QR_TRY(normalize_part(form, text + done, i - done, out, error));
        if (qr_buf_append(out, text + i, (size_t)n)) return qr_fail_nomem(error, "normalized text", text_bytes);
        done = i + (size_t)n;
    }
    return normalize_part(form, text + done, text_bytes - done, out, error);
}

static uint32_t lower_case(uint32_t cp)
{
    if (cp < 0x80) return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    for (size_t i = 0; i < sizeof lower_cases / sizeof *lower_cases; i++)
        if (cp >= lower_cases[i].first && cp <= lower_cases[i].last)
            return lower_cases[i].lower + cp - lower_cases[i].first;
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

quire_status qr_unicode_lowercase(const char *text, size_t text_bytes, qr_buf *out, quire_error *error)
{
    for (size_t i = 0; i < text_bytes;) {
        int n;
        char bytes[8];
        uint32_t cp = qr_unicode_decode(text + i, &n);
        i += (size_t)n;
        int len = qr_unicode_encode(cp == 0x130 ? 'i' : lower_case(cp), bytes);
        if (cp == 0x130) len += qr_unicode_encode(0x307, bytes + len); /* the only one that becomes two */
        if (qr_buf_append(out, bytes, (size_t)len)) return qr_fail_nomem(error, "lowercase text", text_bytes);
    }
    return QUIRE_OK;
}
