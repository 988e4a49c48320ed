#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_library.h"
#include "text/jinja_text.h"

static bool given(qr_jval v) { return v.kind != QR_J_MISSING; }
static qr_jval text_or(qr_jval v, const char *otherwise) { return given(v) ? v : qr_jval_cstr(otherwise); }

/* value.name(args...) */
static qr_jval call_method(qr_jrun *run, qr_jval value, const char *name, const qr_jval *pos, size_t num_pos)
{
    qr_jval found = qr_jmethod_find(run, value, name, strlen(name));
    qr_jargs args = {.pos = pos, .num_pos = num_pos};
    return found.method->function->fn(run, value, &args);
}

static void no_args(qr_jrun *run, const qr_jargs *args, const char *what)
{
    qr_jargs_bind(run, args, what, "", 0, NULL);
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

#define CASE_FILTER(name, to)                                                   \
    static qr_jval do_##name(qr_jrun *run, qr_jval value, const qr_jargs *args) \
    {                                                                           \
        no_args(run, args, #name);                                              \
        return qr_jtext_case(run, qr_jtext_str(run, value), to);                \
    }
CASE_FILTER(upper, QR_J_UPPER)
CASE_FILTER(lower, QR_J_LOWER)
CASE_FILTER(capitalize, QR_J_CAPITALIZE)

/* Words begin after white space and after -({[< . */
static qr_jval do_title(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "title");
    qr_jval s = qr_jtext_str(run, value);
    qr_jbuild b = {.run = run};
    for (uint32_t start = 0, pos = 0; pos < s.bytes; start = pos) {
        bool separator = false;
        for (size_t next = pos; pos < s.bytes; pos = (uint32_t)next) {
            uint32_t c = qr_jtext_decode(s.text, &next);
            bool is_separator = qr_jtext_is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
            if (pos == start) separator = is_separator;
            if (is_separator != separator) break;
        }
        qr_jval part = qr_jval_str(run, s.text + start, pos - start);
        size_t first = 0;
        qr_jtext_decode(part.text, &first);
        qr_jbuild_val(&b, qr_jtext_case(run, qr_jval_str(run, part.text, first), QR_J_UPPER));
        part = qr_jval_str(run, part.text + first, part.bytes - first);
        qr_jbuild_val(&b, qr_jtext_case(run, part, QR_J_LOWER));
    }
    return qr_jbuild_end(&b);
}

static qr_jval do_trim(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval chars;
    qr_jargs_bind(run, args, "trim", "chars", 0, &chars);
    return call_method(run, qr_jtext_str(run, value), "strip", &chars, given(chars));
}

static qr_jval do_string(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "string");
    return value.kind == QR_J_STR ? value : qr_jtext_str(run, value);
}

static qr_jval do_escape(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "escape");
    return qr_jtext_escape(run, value);
}

static qr_jval do_forceescape(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "forceescape");
    return qr_jtext_escape(run, qr_jtext_str(run, value));
}

static qr_jval do_safe(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "safe");
    value = qr_jtext_str(run, value);
    value.tag = QR_J_SAFE;
    return value;
}

static qr_jval do_replace(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[3];
    qr_jargs_bind(run, args, "replace", "old new count", 2, a);
    a[0] = qr_jtext_str(run, a[0]);
    a[1] = qr_jtext_str(run, a[1]);
    bool all = !given(a[2]) || a[2].kind == QR_J_NONE;
    return call_method(run, qr_jtext_str(run, value), "replace", a, all ? 2 : 3);
}

static qr_jval do_format(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    if (args->num_pos && args->num_kw)
        qr_jrun_raise(run, "can't handle positional and keyword arguments at the same time");
    qr_jlist *list = qr_jlist_create(run, args->num_pos);
    for (size_t i = 0; i < args->num_pos; i++) qr_jlist_add(run, list, args->pos[i]);
    qr_jdict *dict = qr_jdict_create(run, args->num_kw);
    for (size_t i = 0; i < args->num_kw; i++) qr_jdict_set(run, dict, args->kw[i].key, args->kw[i].value);
    qr_jval operand = args->num_kw ? qr_jval_dict(QR_J_DICT, dict) : qr_jval_list(QR_J_TUPLE, list);
    qr_jval format = value.kind == QR_J_STR ? value : qr_jtext_str(run, value);
    return qr_jformat_percent(run, format, operand);
}

static qr_jval do_center(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval width;
    qr_jargs_bind(run, args, "center", "width", 0, &width);
    if (!given(width)) width = qr_jval_int(80);
    return call_method(run, qr_jtext_str(run, value), "center", &width, 1);
}

static qr_jval do_indent(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[3];
    qr_jargs_bind(run, args, "indent", "width first blank", 0, a);
    if (value.kind != QR_J_STR) qr_jrun_raise(run, "indent needs a string, not '%s'", qr_jval_type(value));
    qr_jval indention = given(a[0]) ? a[0] : qr_jval_int(4);
    if (indention.kind != QR_J_STR) indention = qr_jval_arith(run, "*", qr_jval_cstr(" "), indention);
    bool first = qr_jval_truth(run, a[1]), blank = qr_jval_truth(run, a[2]);
    qr_jval text = qr_jval_arith(run, "+", value, qr_jval_cstr("\n"));
    qr_jval lines = call_method(run, text, "splitlines", NULL, 0);
    qr_jbuild b = {.run = run};
    if (first) qr_jbuild_val(&b, indention);
    for (size_t i = 0; i < lines.list->num; i++) {
        qr_jval line = lines.list->items[i];
        if (i) qr_jbuild_cstr(&b, "\n");
        if (i && (blank || line.bytes)) qr_jbuild_val(&b, indention);
        qr_jbuild_val(&b, line);
    }
    return qr_jbuild_end(&b);
}

static qr_jval do_truncate(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[4];
    qr_jargs_bind(run, args, "truncate", "length killwords end leeway", 0, a);
    int64_t length = given(a[0]) ? qr_jval_to_int(run, a[0], "length") : 255;
    int64_t leeway = given(a[3]) && a[3].kind != QR_J_NONE ? qr_jval_to_int(run, a[3], "leeway") : 5;
    qr_jval end = text_or(a[2], "...");
    int64_t end_len = qr_jval_len(end), len = qr_jval_len(value);
    if (end.kind != QR_J_STR || end_len > length || leeway < 0)
        qr_jrun_raise(run, "truncate: expected length >= the length of its end, and leeway >= 0");
    if (len < 0) qr_jrun_raise(run, "object of type '%s' has no len()", qr_jval_type(value));
    if (len - leeway <= length) return value;
    qr_jval cut = qr_jval_slice(run, value, qr_jval_none(), qr_jval_int(length - end_len), qr_jval_none());
    if (!qr_jval_truth(run, a[1])) {
        if (cut.kind != QR_J_STR) qr_jrun_raise(run, "truncate needs a string, not '%s'", qr_jval_type(value));
        qr_jval by[2] = {qr_jval_cstr(" "), qr_jval_int(1)};
        cut = call_method(run, cut, "rsplit", by, 2).list->items[0];
    }
    return qr_jval_arith(run, "+", cut, end);
}

static qr_jval do_wordcount(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "wordcount");
    qr_jval s = qr_jtext_str(run, value);
    int64_t num = 0;
    bool in_word = false;
    qr_jrun_charge_bytes(run, s.bytes);
    for (size_t pos = 0; pos < s.bytes;) {
        bool word = qr_jtext_is_word(qr_jtext_decode(s.text, &pos));
        num += word && !in_word;
        in_word = word;
    }
    return qr_jval_int(num);
}

static qr_jval do_xmlattr(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval autospace;
    qr_jargs_bind(run, args, "xmlattr", "autospace", 0, &autospace);
    if (value.kind != QR_J_DICT) qr_jrun_raise(run, "xmlattr needs a dict, not '%s'", qr_jval_type(value));
    bool space = !given(autospace) || qr_jval_truth(run, autospace);
    qr_jbuild b = {.run = run};
    for (size_t i = 0; i < value.dict->num; i++) {
        qr_jval key = value.dict->pairs[i].key, item = value.dict->pairs[i].value;
        if (item.kind == QR_J_NONE || item.kind == QR_J_UNDEFINED) continue;
        if (key.kind != QR_J_STR) qr_jrun_raise(run, "an attribute's name must be a string");
        for (uint32_t c = 0; c < key.bytes; c++)
            if (!key.text[c] || strchr(" \t\n\r\f\v/>=", key.text[c]))
                qr_jrun_raise(run, "Invalid character in attribute name: '%.*s'", (int)key.bytes, key.text);
        if (b.len || space) qr_jbuild_cstr(&b, " ");
        qr_jbuild_val(&b, qr_jtext_escape(run, key));
        qr_jbuild_cstr(&b, "=\"");
        qr_jbuild_val(&b, qr_jtext_escape(run, item));
        qr_jbuild_cstr(&b, "\"");
    }
    return qr_jbuild_end(&b);
}

static void add_quoted(qr_jbuild *b, qr_jval value, const char *also_plain, bool plus)
{
    qr_jval s = qr_jtext_str(b->run, value);
    for (uint32_t i = 0; i < s.bytes; i++) {
        unsigned char c = (unsigned char)s.text[i];
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                     (c && strchr("_.-~", c)) || (c && strchr(also_plain, c));
        static const char hex[] = "0123456789ABCDEF";
        char escaped[3] = {'%', hex[c >> 4], hex[c & 15]};
        if (plain)
            qr_jbuild_add(b, &s.text[i], 1);
        else if (plus && c == ' ')
            qr_jbuild_cstr(b, "+");
        else
            qr_jbuild_add(b, escaped, 3);
    }
}

static qr_jval do_urlencode(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "urlencode");
    qr_jbuild b = {.run = run};
    bool pairs = value.kind == QR_J_DICT || value.kind == QR_J_VIEW || qr_jval_is_seq(value) ||
                 value.kind == QR_J_ITER || value.kind == QR_J_UNDEFINED;
    if (!pairs) {
        add_quoted(&b, value, "/", false);
        return qr_jbuild_end(&b);
    }
    if (value.kind == QR_J_DICT) {
        value.kind = QR_J_VIEW;
        value.tag = QR_J_VIEW_ITEMS;
    }
    qr_jiter *iter = qr_jiter_of(run, value);
    qr_jval item;
    for (bool first = true; qr_jiter_next(run, iter, &item); first = false) {
        if (!qr_jval_is_seq(item) || qr_jval_len(item) != 2) qr_jrun_raise(run, "urlencode needs pairs");
        if (!first) qr_jbuild_cstr(&b, "&");
        add_quoted(&b, qr_jval_at(item, 0), "", true);
        qr_jbuild_cstr(&b, "=");
        add_quoted(&b, qr_jval_at(item, 1), "", true);
    }
    return qr_jbuild_end(&b);
}

static qr_jval do_striptags(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "striptags");
    qr_jval s = qr_jtext_str(run, value);
    qr_jbuild b = {.run = run};
    for (uint32_t pos = 0; pos < s.bytes; pos++) {
        bool comment = s.bytes - pos >= 4 && memcmp(s.text + pos, "<!--", 4) == 0;
        const char *end = NULL;
        if (comment) end = memmem(s.text + pos, s.bytes - pos, "-->", 3);
        if (!comment && s.text[pos] == '<') end = memchr(s.text + pos, '>', s.bytes - pos);
        if (end)
            pos = (uint32_t)(end - s.text) + (comment ? 2 : 0);
        else
            qr_jbuild_add(&b, s.text + pos, 1);
    }
    qr_jval words = call_method(run, qr_jbuild_end(&b), "split", NULL, 0);
    return call_method(run, qr_jval_cstr(" "), "join", &words, 1);
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

static int64_t truncate_real(qr_jrun *run, double value)
{
    if (!(fabs(value) < 9.2e18)) qr_jrun_limit(run, "an integer does not fit into 64 bits");
    return (int64_t)value;
}

static qr_jval do_int(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[2];
    qr_jargs_bind(run, args, "int", "default base", 0, a);
    qr_jval otherwise = given(a[0]) ? a[0] : qr_jval_int(0);
    int64_t base = given(a[1]) ? qr_jval_to_int(run, a[1], "base") : 10, integer;
    double real;
    if (value.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, value);
    if (value.kind == QR_J_BOOL) return qr_jval_int(value.boolean);
    if (value.kind == QR_J_INT) return value;
    if (value.kind == QR_J_FLOAT) {
        if (isinf(value.real)) qr_jrun_raise(run, "cannot convert float infinity to integer");
        return isnan(value.real) ? otherwise : qr_jval_int(truncate_real(run, value.real));
    }
    if (value.kind != QR_J_STR) return otherwise;
    bool valid_base = base == 0 || (base >= 2 && base <= 36);
    if (valid_base && qr_jtext_to_int(run, value, (int)base, &integer)) return qr_jval_int(integer);
    if (!qr_jtext_to_float(run, value, &real) || isnan(real) || isinf(real)) return otherwise;
    return qr_jval_int(truncate_real(run, real));
}

static qr_jval do_float(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval otherwise;
    double real;
    qr_jargs_bind(run, args, "float", "default", 0, &otherwise);
    if (value.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, value);
    if (qr_jval_is_number(value)) return qr_jval_float(qr_jval_real(value));
    if (value.kind == QR_J_STR && qr_jtext_to_float(run, value, &real)) return qr_jval_float(real);
    return given(otherwise) ? otherwise : qr_jval_float(0);
}

static qr_jval do_abs(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "abs");
    if (!qr_jval_is_number(value)) qr_jrun_raise(run, "bad operand type for abs(): '%s'", qr_jval_type(value));
    if (value.kind == QR_J_FLOAT) return qr_jval_float(fabs(value.real));
    if (value.kind == QR_J_BOOL) return qr_jval_int(value.boolean);
    return value.integer < 0 ? qr_jval_negate(run, value) : value;
}

/* round(value, digits): half to even on the exact decimal value */
static double round_real(double value, int64_t digits)
{
    char text[400];
    if (!isfinite(value) || digits > 322) return value;
    if (digits >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)digits, value);
        return digits > 40 ? value : strtod(text, NULL);
    }
    if (digits < -308) return copysign(0, value);
    double unit = pow(10, (double)-digits);
    return nearbyint(value / unit) * unit;
}

static qr_jval round_int(qr_jrun *run, int64_t value, int64_t digits)
{
    if (digits >= 0) return qr_jval_int(value);
    if (digits < -19) return qr_jval_int(0);
    __int128 unit = 1, rest, whole;
    for (int64_t i = digits; i < 0; i++) unit *= 10;
    rest = value % unit;
    if (rest < 0) rest += unit;
    whole = value - rest;
    if (2 * rest > unit || (2 * rest == unit && (whole / unit) % 2 != 0)) whole += unit;
    if (whole > INT64_MAX || whole < INT64_MIN) qr_jrun_limit(run, "an integer does not fit into 64 bits");
    return qr_jval_int((int64_t)whole);
}

static qr_jval do_round(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[2];
    qr_jargs_bind(run, args, "round", "precision method", 0, a);
    qr_jval method = text_or(a[1], "common");
    bool ceils = qr_jval_is_text(method, "ceil", 4), floors = qr_jval_is_text(method, "floor", 5);
    if (!ceils && !floors && !qr_jval_is_text(method, "common", 6))
        qr_jrun_raise(run, "method must be common, ceil or floor");
    if (value.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, value);
    if (!qr_jval_is_number(value)) qr_jrun_raise(run, "type %s doesn't define __round__ method", qr_jval_type(value));
    if (!ceils && !floors && given(a[0]) && a[0].kind == QR_J_NONE) { /* round(x, None): an integer */
        if (value.kind != QR_J_FLOAT) return qr_jval_int(qr_jval_to_int(run, value, "value"));
        return qr_jval_int(truncate_real(run, round_real(value.real, 0)));
    }
    int64_t digits = given(a[0]) ? qr_jval_to_int(run, a[0], "precision") : 0;
    if (ceils || floors) {
        if (digits < -300 || digits > 300) qr_jrun_raise(run, "round: precision is out of range");
        qr_jval unit = qr_jval_arith(run, "**", qr_jval_int(10), qr_jval_int(digits));
        double scaled = qr_jval_real(qr_jval_arith(run, "*", value, unit));
        if (!isfinite(scaled)) qr_jrun_raise(run, "cannot convert float infinity or NaN to integer");
        double whole = (ceils ? ceil(scaled) : floor(scaled)) + 0.0; /* an integer in Python: no -0 */
        return qr_jval_float(whole / qr_jval_real(unit));
    }
    if (value.kind == QR_J_FLOAT) return qr_jval_float(round_real(value.real, digits));
    return round_int(run, qr_jval_to_int(run, value, "value"), digits);
}

static qr_jval do_filesizeformat(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    static const char *const prefixes[2][8] = {{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"},
                                               {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};
    qr_jval binary;
    qr_jargs_bind(run, args, "filesizeformat", "binary", 0, &binary);
    double bytes;
    if (qr_jval_is_number(value))
        bytes = qr_jval_real(value);
    else if (value.kind != QR_J_STR || !qr_jtext_to_float(run, value, &bytes))
        qr_jrun_raise(run, "filesizeformat needs a number");
    bool is_binary = qr_jval_truth(run, binary);
    double base = is_binary ? 1024 : 1000;
    qr_jbuild b = {.run = run};
    char text[400];
    if (bytes == 1)
        strcpy(text, "1 Byte");
    else if (bytes < base)
        snprintf(text, sizeof text, "%lld Bytes", (long long)truncate_real(run, bytes));
    else {
        int i = 0;
        double unit = base * base;
        for (; i < 7 && bytes >= unit; i++) unit *= base;
        snprintf(text, sizeof text, "%.1f %s", base * bytes / unit, prefixes[is_binary][i]);
    }
    qr_jbuild_cstr(&b, text);
    return qr_jbuild_end(&b);
}

/* ---- any value -------------------------------------------------------------------------------------------------- */

static qr_jval do_default(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[2];
    qr_jargs_bind(run, args, "default", "default_value boolean", 0, a);
    bool use = value.kind == QR_J_UNDEFINED || (qr_jval_truth(run, a[1]) && !qr_jval_truth(run, value));
    return use ? text_or(a[0], "") : value;
}

static qr_jval do_attr(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval name;
    qr_jargs_bind(run, args, "attr", "name", 1, &name);
    if (name.kind != QR_J_STR) qr_jrun_raise(run, "attribute name must be string, not '%s'", qr_jval_type(name));
    if (value.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, value);
    qr_jval found = value;
    if (value.kind == QR_J_DICT) { /* attributes only, no keys */
        found = qr_jmethod_find(run, value, name.text, name.bytes);
        if (found.kind == QR_J_MISSING) return qr_jval_hint("a dict has no such attribute");
        return found;
    }
    return qr_jval_attr(run, value, name);
}

/* The indent of json.dumps: none, a number of spaces, or text. */
static void json_indent(qr_jrun *run, qr_jval indent, qr_jjson_options *options)
{
    if (!given(indent) || indent.kind == QR_J_NONE) return;
    options->pretty = true;
    options->indent = indent;
    if (indent.kind != QR_J_STR) options->indent = qr_jval_arith(run, "*", qr_jval_cstr(" "), indent);
    if (options->indent.kind != QR_J_STR) qr_jrun_raise(run, "tojson: bad indent");
}

static qr_jval do_tojson(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[4];
    qr_jargs_bind(run, args, "tojson", "ensure_ascii indent separators sort_keys", 0, a);
    qr_jjson_options options = {.ensure_ascii = qr_jval_truth(run, a[0]), .sort_keys = qr_jval_truth(run, a[3])};
    json_indent(run, a[1], &options);
    options.item_sep = qr_jval_cstr(options.pretty ? "," : ", ");
    options.key_sep = qr_jval_cstr(": ");
    if (given(a[2]) && a[2].kind != QR_J_NONE) {
        if (!qr_jval_is_seq(a[2]) || qr_jval_len(a[2]) != 2) qr_jrun_raise(run, "tojson: separators must be a pair");
        options.item_sep = qr_jval_at(a[2], 0);
        options.key_sep = qr_jval_at(a[2], 1);
        if (options.item_sep.kind != QR_J_STR || options.key_sep.kind != QR_J_STR)
            qr_jrun_raise(run, "tojson: separators must be strings");
    }
    return qr_jtext_json(run, value, &options);
}

static const qr_jfunction filters[] = {
    {"abs", do_abs},
    {"attr", do_attr},
    {"capitalize", do_capitalize},
    {"center", do_center},
    {"d", do_default},
    {"default", do_default},
    {"e", do_escape},
    {"escape", do_escape},
    {"filesizeformat", do_filesizeformat},
    {"float", do_float},
    {"forceescape", do_forceescape},
    {"format", do_format},
    {"indent", do_indent},
    {"int", do_int},
    {"lower", do_lower},
    {"replace", do_replace},
    {"round", do_round},
    {"safe", do_safe},
    {"string", do_string},
    {"striptags", do_striptags},
    {"title", do_title},
    {"tojson", do_tojson},
    {"trim", do_trim},
    {"truncate", do_truncate},
    {"upper", do_upper},
    {"urlencode", do_urlencode},
    {"wordcount", do_wordcount},
    {"xmlattr", do_xmlattr},
};

const qr_jfunction *qr_jfilter_find(const char *name, size_t bytes)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (strlen(filters[i].name) == bytes && memcmp(filters[i].name, name, bytes) == 0) return &filters[i];
    return qr_jfilter_seq_find(name, bytes);
}
