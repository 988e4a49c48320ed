#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_library.h"
#include "text/jinja_text.h"

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

void qr_jtext_float(double value, char out[40])
{
    if (isnan(value) || isinf(value)) {
        strcpy(out, isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
        return;
    }
    char sci[40];
    int precision = 0; /* the fewest digits that read back as the same number */
    do snprintf(sci, sizeof sci, "%.*e", precision, value);
    while (strtod(sci, NULL) != value && ++precision < 17);
    int exp = atoi(strchr(sci, 'e') + 1);
    char digits[20];
    int num = 0;
    for (const char *s = sci; *s != 'e'; s++)
        if (*s >= '0' && *s <= '9') digits[num++] = *s;
    digits[num] = '\0';
    char *o = out;
    if (sci[0] == '-') *o++ = '-';
    if (exp < -4 || exp >= 16) {
        sprintf(o, num > 1 ? "%c.%se%c%02d" : "%c%se%c%02d", digits[0], digits + 1, exp < 0 ? '-' : '+', abs(exp));
    } else if (exp < 0) {
        sprintf(o, "0.%.*s%s", -exp - 1, "0000", digits);
    } else if (num <= exp + 1) {
        sprintf(o, "%s%.*s.0", digits, exp + 1 - num, "0000000000000000");
    } else {
        sprintf(o, "%.*s.%s", exp + 1, digits, digits + exp + 1);
    }
}

static qr_jval strip_number(qr_jval str)
{
    size_t start = 0, end = str.bytes;
    for (size_t pos = 0; pos < end; start = pos)
        if (!qr_jtext_is_space(qr_jtext_decode(str.text, &pos))) break;
    while (end > start) {
        size_t last = end - 1;
        while (last > start && ((unsigned char)str.text[last] & 0xC0) == 0x80) last--;
        size_t pos = last;
        if (!qr_jtext_is_space(qr_jtext_decode(str.text, &pos))) break;
        end = last;
    }
    str.text += start;
    str.bytes = (uint32_t)(end - start);
    return str;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'z') return c - 'a' + 10;
    if (c >= 'A' && c <= 'Z') return c - 'A' + 10;
    return 99;
}

bool qr_jtext_to_int(qr_jrun *run, qr_jval str, int base, int64_t *out)
{
    str = strip_number(str);
    const char *s = str.text, *end = s + str.bytes;
    bool negative = s < end && *s == '-';
    if (s < end && (*s == '-' || *s == '+')) s++;
    if (end - s > 2 && s[0] == '0') {
        int kind = s[1] | 0x20, prefix = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
        if (prefix && (base == 0 || base == prefix)) {
            base = prefix;
            s += 2;
            if (*s == '_') s++;
        }
    }
    bool zeros_only = base == 0 && s < end && *s == '0';
    if (base == 0) base = 10;
    uint64_t value = 0;
    bool overflow = false;
    if (s == end) return false;
    for (bool after_digit = false; s < end; s++) {
        if (*s == '_' && after_digit && s + 1 < end) {
            after_digit = false;
            continue;
        }
        int digit = digit_of(*s);
        if (digit >= base || (zeros_only && digit != 0)) return false;
        after_digit = true;
        overflow |= __builtin_mul_overflow(value, (uint64_t)base, &value);
        overflow |= __builtin_add_overflow(value, (uint64_t)digit, &value);
    }
    if (overflow || value > (uint64_t)INT64_MAX + (negative ? 1 : 0))
        qr_jrun_limit(run, "an integer does not fit into 64 bits");
    *out = negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

/* [+-]digits[.digits][e[+-]digits], without underscores */
static bool is_decimal(const char *s)
{
    if (*s == '-' || *s == '+') s++;
    size_t whole = strspn(s, "0123456789"), fraction = 0;
    s += whole;
    if (*s == '.') {
        fraction = strspn(++s, "0123456789");
        s += fraction;
    }
    if (whole + fraction == 0) return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '-' || *s == '+') s++;
        size_t digits = strspn(s, "0123456789");
        if (digits == 0) return false;
        s += digits;
    }
    return *s == '\0';
}

bool qr_jtext_to_float(qr_jrun *run, qr_jval str, double *out)
{
    str = strip_number(str);
    char *text = qr_jrun_alloc(run, (size_t)str.bytes + 1), *o = text;
    qr_jrun_charge_bytes(run, str.bytes);
    for (uint32_t i = 0; i < str.bytes; i++) {
        char c = str.text[i];
        if (c == '\0') return false;
        bool between = i > 0 && i + 1 < str.bytes && digit_of(str.text[i - 1]) < 10 && digit_of(str.text[i + 1]) < 10;
        if (c == '_' && between) continue;
        *o++ = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    *o = '\0';
    const char *word = text + (*text == '-' || *text == '+');
    double sign = *text == '-' ? -1 : 1;
    if (!strcmp(word, "inf") || !strcmp(word, "infinity"))
        *out = sign * INFINITY;
    else if (!strcmp(word, "nan"))
        *out = NAN;
    else if (is_decimal(text))
        *out = strtod(text, NULL);
    else
        return false;
    return true;
}

/* ---- str() and repr() ------------------------------------------------------------------------------------------- */

static void add_repr_text(qr_jbuild *b, qr_jval str)
{
    bool single = memchr(str.text, '\'', str.bytes), twice = memchr(str.text, '"', str.bytes);
    char quote = single && !twice ? '"' : '\'', escaped[16];
    qr_jbuild_add(b, &quote, 1);
    for (size_t pos = 0; pos < str.bytes;) {
        size_t start = pos;
        uint32_t c = qr_jtext_decode(str.text, &pos);
        if (c == (unsigned char)quote || c == '\\')
            snprintf(escaped, sizeof escaped, "\\%c", (int)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(escaped, sizeof escaped, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c == ' ' || qr_jtext_is_printable(c)) {
            qr_jbuild_add(b, str.text + start, pos - start);
            continue;
        } else
            snprintf(escaped, sizeof escaped, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
        qr_jbuild_cstr(b, escaped);
    }
    qr_jbuild_add(b, &quote, 1);
}

static void add_repr_items(qr_jbuild *b, qr_jval value, const char *open, const char *close)
{
    qr_jbuild_cstr(b, open);
    for (size_t i = 0; i < value.list->num; i++) {
        if (i) qr_jbuild_cstr(b, ", ");
        qr_jtext_add_repr(b, value.list->items[i]);
    }
    if (value.kind == QR_J_TUPLE && value.list->num == 1) qr_jbuild_cstr(b, ",");
    qr_jbuild_cstr(b, close);
}

static void add_repr_pairs(qr_jbuild *b, const qr_jdict *dict)
{
    qr_jbuild_cstr(b, "{");
    for (size_t i = 0; i < dict->num; i++) {
        if (i) qr_jbuild_cstr(b, ", ");
        qr_jtext_add_repr(b, dict->pairs[i].key);
        qr_jbuild_cstr(b, ": ");
        qr_jtext_add_repr(b, dict->pairs[i].value);
    }
    qr_jbuild_cstr(b, "}");
}

static void add_repr_view(qr_jbuild *b, qr_jval view)
{
    qr_jbuild_cstr(b, qr_jval_type(view));
    qr_jbuild_cstr(b, "([");
    for (size_t i = 0; i < view.dict->num; i++) {
        if (i) qr_jbuild_cstr(b, ", ");
        qr_jtext_add_repr(b, qr_jdict_view_at(b->run, view, i));
    }
    qr_jbuild_cstr(b, "])");
}

static void add_repr_range(qr_jbuild *b, const qr_jrange *range)
{
    char text[80];
    int n = snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64, range->start, range->stop);
    if (range->step != 1)
        snprintf(text + n, sizeof text - (size_t)n, ", %" PRId64 ")", range->step);
    else
        strcpy(text + n, ")");
    qr_jbuild_cstr(b, text);
}

static void add_repr_deep(qr_jbuild *b, qr_jval value)
{
    switch ((qr_jkind)value.kind) {
    case QR_J_LIST: add_repr_items(b, value, "[", "]"); break;
    case QR_J_TUPLE: add_repr_items(b, value, "(", ")"); break;
    case QR_J_DICT: add_repr_pairs(b, value.dict); break;
    case QR_J_VIEW: add_repr_view(b, value); break;
    case QR_J_NAMESPACE:
        qr_jbuild_cstr(b, "<Namespace ");
        add_repr_pairs(b, value.dict);
        qr_jbuild_cstr(b, ">");
        break;
    case QR_J_MACRO: {
        qr_jval name = qr_jmacro_attr(b->run, value.macro, "name", 4);
        qr_jbuild_cstr(b, "<Macro ");
        if (name.kind == QR_J_STR)
            add_repr_text(b, name);
        else
            qr_jbuild_cstr(b, "None");
        qr_jbuild_cstr(b, ">");
        break;
    }
    default: /* objects without a text of their own; Python adds an address */
        qr_jbuild_cstr(b, "<");
        qr_jbuild_cstr(b, qr_jval_type(value));
        qr_jbuild_cstr(b, " object>");
    }
}

void qr_jtext_add_repr(qr_jbuild *b, qr_jval value)
{
    char text[40];
    qr_jrun_charge(b->run, 1);
    switch ((qr_jkind)value.kind) {
    case QR_J_MISSING:
    case QR_J_UNDEFINED: qr_jbuild_cstr(b, "Undefined"); return;
    case QR_J_NONE: qr_jbuild_cstr(b, "None"); return;
    case QR_J_BOOL: qr_jbuild_cstr(b, value.boolean ? "True" : "False"); return;
    case QR_J_INT:
        snprintf(text, sizeof text, "%" PRId64, value.integer);
        qr_jbuild_cstr(b, text);
        return;
    case QR_J_FLOAT:
        qr_jtext_float(value.real, text);
        qr_jbuild_cstr(b, text);
        return;
    case QR_J_STR:
        if (value.tag == QR_J_SAFE) qr_jbuild_cstr(b, "Markup(");
        add_repr_text(b, value);
        if (value.tag == QR_J_SAFE) qr_jbuild_cstr(b, ")");
        return;
    case QR_J_RANGE: add_repr_range(b, value.range); return;
    default: break;
    }
    qr_jrun_enter(b->run);
    add_repr_deep(b, value);
    qr_jrun_leave(b->run);
}

void qr_jtext_add_str(qr_jbuild *b, qr_jval value)
{
    if (value.kind == QR_J_STR)
        qr_jbuild_val(b, value);
    else if (value.kind != QR_J_UNDEFINED)
        qr_jtext_add_repr(b, value);
}

qr_jval qr_jtext_str(qr_jrun *run, qr_jval value)
{
    if (value.kind == QR_J_STR) {
        value.tag = QR_J_PLAIN;
        return value;
    }
    qr_jbuild b = {.run = run};
    qr_jtext_add_str(&b, value);
    return qr_jbuild_end(&b);
}

qr_jval qr_jtext_repr(qr_jrun *run, qr_jval value)
{
    qr_jbuild b = {.run = run};
    qr_jtext_add_repr(&b, value);
    return qr_jbuild_end(&b);
}

qr_jval qr_jtext_escape(qr_jrun *run, qr_jval value)
{
    if (value.kind == QR_J_STR && value.tag == QR_J_SAFE) return value;
    value = qr_jtext_str(run, value);
    qr_jbuild b = {.run = run};
    for (uint32_t i = 0; i < value.bytes; i++) {
        char c = value.text[i];
        const char *entity = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '"'  ? "&#34;"
                             : c == '\'' ? "&#39;"
                                         : NULL;
        if (entity)
            qr_jbuild_cstr(&b, entity);
        else
            qr_jbuild_add(&b, &c, 1);
    }
    value = qr_jbuild_end(&b);
    value.tag = QR_J_SAFE;
    return value;
}

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

typedef struct json_out {
    qr_jbuild b;
    const qr_jjson_options *options;
    int level;
} json_out;

static void add_json(json_out *j, qr_jval value);

static void add_json_text(json_out *j, qr_jval str)
{
    qr_jbuild_cstr(&j->b, "\"");
    size_t plain = 0; /* start of the characters not yet written */
    for (size_t pos = 0; pos < str.bytes;) {
        size_t start = pos;
        uint32_t c = qr_jtext_decode(str.text, &pos);
        if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x7F || !j->options->ensure_ascii)) continue;
        if (c == 0x7F) continue;
        qr_jbuild_add(&j->b, str.text + plain, start - plain);
        plain = pos;
        static const char letters[] = "\"\\\n\r\t\f\b", names[] = "\"\\nrtfb";
        const char *letter = c < 0x80 && c ? strchr(letters, (int)c) : NULL;
        char text[16];
        if (letter)
            snprintf(text, sizeof text, "\\%c", names[letter - letters]);
        else if (c < 0x10000)
            snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
        else
            snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xD7C0 + (c >> 10)),
                     (unsigned)(0xDC00 + (c & 0x3FF)));
        qr_jbuild_cstr(&j->b, text);
    }
    qr_jbuild_add(&j->b, str.text + plain, str.bytes - plain);
    qr_jbuild_cstr(&j->b, "\"");
}

static void add_json_newline(json_out *j)
{
    if (!j->options->pretty) return;
    qr_jbuild_cstr(&j->b, "\n");
    for (int i = 0; i < j->level; i++) qr_jbuild_val(&j->b, j->options->indent);
}

static void add_json_list(json_out *j, const qr_jlist *list)
{
    qr_jbuild_cstr(&j->b, "[");
    j->level++;
    for (size_t i = 0; i < list->num; i++) {
        if (i) qr_jbuild_val(&j->b, j->options->item_sep);
        add_json_newline(j);
        add_json(j, list->items[i]);
    }
    j->level--;
    if (list->num) add_json_newline(j);
    qr_jbuild_cstr(&j->b, "]");
}

static void add_json_scalar(json_out *j, qr_jval value)
{
    char text[40];
    if (value.kind == QR_J_NONE)
        qr_jbuild_cstr(&j->b, "null");
    else if (value.kind == QR_J_BOOL)
        qr_jbuild_cstr(&j->b, value.boolean ? "true" : "false");
    else if (value.kind == QR_J_FLOAT && isnan(value.real))
        qr_jbuild_cstr(&j->b, "NaN");
    else if (value.kind == QR_J_FLOAT && isinf(value.real))
        qr_jbuild_cstr(&j->b, value.real > 0 ? "Infinity" : "-Infinity");
    else if (value.kind == QR_J_FLOAT) {
        qr_jtext_float(value.real, text);
        qr_jbuild_cstr(&j->b, text);
    } else if (value.kind == QR_J_INT) {
        snprintf(text, sizeof text, "%" PRId64, value.integer);
        qr_jbuild_cstr(&j->b, text);
    } else
        qr_jrun_raise(j->b.run, "Object of type %s is not JSON serializable", qr_jval_type(value));
}

static void add_json_key(json_out *j, qr_jval key)
{
    if (key.kind == QR_J_STR) {
        add_json_text(j, key);
        return;
    }
    if (key.kind != QR_J_NONE && !qr_jval_is_number(key))
        qr_jrun_raise(j->b.run, "keys must be str, int, float, bool or None, not %s", qr_jval_type(key));
    qr_jbuild_cstr(&j->b, "\"");
    add_json_scalar(j, key);
    qr_jbuild_cstr(&j->b, "\"");
}

static void sort_by_key(qr_jrun *run, qr_jpair *pairs, size_t num);

static void add_json_dict(json_out *j, const qr_jdict *dict)
{
    const qr_jpair *pairs = dict->pairs;
    if (j->options->sort_keys && dict->num > 1) {
        qr_jpair *sorted = qr_jrun_alloc(j->b.run, dict->num * sizeof *sorted);
        memcpy(sorted, dict->pairs, dict->num * sizeof *sorted);
        sort_by_key(j->b.run, sorted, dict->num);
        pairs = sorted;
    }
    qr_jbuild_cstr(&j->b, "{");
    j->level++;
    for (size_t i = 0; i < dict->num; i++) {
        if (i) qr_jbuild_val(&j->b, j->options->item_sep);
        add_json_newline(j);
        add_json_key(j, pairs[i].key);
        qr_jbuild_val(&j->b, j->options->key_sep);
        add_json(j, pairs[i].value);
    }
    j->level--;
    if (dict->num) add_json_newline(j);
    qr_jbuild_cstr(&j->b, "}");
}

static void add_json(json_out *j, qr_jval value)
{
    qr_jrun_enter(j->b.run);
    qr_jrun_charge(j->b.run, 1);
    if (value.kind == QR_J_STR)
        add_json_text(j, value);
    else if (value.kind == QR_J_LIST || value.kind == QR_J_TUPLE)
        add_json_list(j, value.list);
    else if (value.kind == QR_J_DICT)
        add_json_dict(j, value.dict);
    else
        add_json_scalar(j, value);
    qr_jrun_leave(j->b.run);
}

/* Merge sort; keys of a dict are unequal. */
static void sort_by_key(qr_jrun *run, qr_jpair *pairs, size_t num)
{
    if (num < 2) return;
    size_t half = num / 2, a = 0, b = half, n = 0;
    sort_by_key(run, pairs, half);
    sort_by_key(run, pairs + half, num - half);
    qr_jpair *merged = qr_jrun_alloc(run, num * sizeof *merged);
    while (a < half && b < num) merged[n++] = qr_jval_less(run, pairs[b].key, pairs[a].key) ? pairs[b++] : pairs[a++];
    while (a < half) merged[n++] = pairs[a++];
    while (b < num) merged[n++] = pairs[b++];
    memcpy(pairs, merged, num * sizeof *pairs);
}

qr_jval qr_jtext_json(qr_jrun *run, qr_jval value, const qr_jjson_options *options)
{
    json_out j = {.b = {.run = run}, .options = options};
    add_json(&j, value);
    return qr_jbuild_end(&j.b);
}
