#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "text/jinja_library.h"
#include "text/jinja_text.h"

enum { MAX_WIDTH = 1 << 20, MAX_PRECISION = 400 };

/* One conversion, of either kind of format. */
typedef struct spec {
    char fill[4]; /* UTF-8 */
    size_t fill_bytes;
    char align; /* '<' '>' '^' '=', 0: by type */
    char sign;  /* '+' ' ' '-' */
    bool alternate, zero;
    int64_t width, precision; /* precision -1: not given */
    char group;               /* ',' '_' or 0 */
    char type;                /* 0: none */
} spec;

/* sign and prefix, then digits, filled up to the width */
static void add_number(qr_jbuild *b, const spec *sp, const char *prefix, const char *digits)
{
    int64_t pad = sp->width - (int64_t)strlen(prefix) - (int64_t)strlen(digits);
    char align = sp->align ? sp->align : sp->zero ? '=' : '>';
    const char *fill = sp->fill_bytes ? sp->fill : sp->zero ? "0" : " ";
    size_t fill_bytes = sp->fill_bytes ? sp->fill_bytes : 1;
    int64_t before = align == '>' ? pad : align == '^' ? pad / 2 : 0;
    qr_jbuild_fill(b, fill, fill_bytes, before);
    qr_jbuild_cstr(b, prefix);
    if (align == '=') qr_jbuild_fill(b, fill, fill_bytes, pad);
    qr_jbuild_cstr(b, digits);
    if (align == '<' || align == '^') qr_jbuild_fill(b, fill, fill_bytes, pad - before);
}

static void add_padded(qr_jbuild *b, const spec *sp, qr_jval text, char default_align)
{
    if (sp->precision >= 0) text = qr_jtext_slice(b->run, text, 0, sp->precision, 1);
    int64_t pad = sp->width - qr_jval_len(text);
    char align = sp->align ? sp->align : default_align;
    const char *fill = sp->fill_bytes ? sp->fill : " ";
    size_t fill_bytes = sp->fill_bytes ? sp->fill_bytes : 1;
    int64_t before = align == '>' ? pad : align == '^' ? pad / 2 : 0;
    qr_jbuild_fill(b, fill, fill_bytes, before);
    qr_jbuild_val(b, text);
    qr_jbuild_fill(b, fill, fill_bytes, pad - (before > 0 ? before : 0));
}

/* Thousands separators into the whole part of digits; every 4 for bases other than 10. */
static void group_digits(char *digits, size_t cap, char separator, int every)
{
    char copy[512];
    size_t whole = strspn(digits, "0123456789abcdefABCDEF"), o = 0;
    if (every == 3) whole = strspn(digits, "0123456789");
    if (strlen(digits) * 2 >= sizeof copy) return;
    for (size_t i = 0; i < whole; i++) {
        if (i && (whole - i) % (size_t)every == 0) copy[o++] = separator;
        copy[o++] = digits[i];
    }
    strcpy(copy + o, digits + whole);
    if (strlen(copy) < cap) strcpy(digits, copy);
}

static void sign_text(const spec *sp, bool negative, const char *base, char out[8])
{
    out[0] = negative ? '-' : sp->sign == '+' || sp->sign == ' ' ? sp->sign : '\0';
    out[1] = '\0';
    strcat(out, base);
}

static void add_int(qr_jbuild *b, const spec *sp, int64_t value)
{
    char digits[160], prefix[8], reversed[72];
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    unsigned base = sp->type == 'x' || sp->type == 'X' ? 16 : sp->type == 'o' ? 8 : sp->type == 'b' ? 2 : 10;
    const char *names = sp->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    size_t num = 0, o = 0;
    do reversed[num++] = names[rest % base];
    while (rest /= base);
    for (int64_t i = (int64_t)num; i < sp->precision && o < 80; i++) digits[o++] = '0';
    while (num) digits[o++] = reversed[--num];
    digits[o] = '\0';
    if (sp->group) group_digits(digits, sizeof digits, sp->group, base == 10 ? 3 : 4);
    char base_prefix[3] = {'0', sp->type, '\0'};
    sign_text(sp, value < 0, sp->alternate && base != 10 ? base_prefix : "", prefix);
    add_number(b, sp, prefix, digits);
}

/* '{:.3}' of a float: as 'g', but never without a point */
static void general_digits(double value, int64_t precision, char *digits, size_t cap)
{
    if (precision == 0) precision = 1;
    snprintf(digits, cap, "%.*g", (int)precision, value);
    if (!strpbrk(digits, ".e") && strlen(digits) + 3 < cap) {
        if ((int64_t)strlen(digits) >= precision)
            snprintf(digits, cap, "%.*e", (int)precision - 1, value);
        else
            strcat(digits, ".0");
    }
}

static void add_float(qr_jbuild *b, const spec *sp, double value)
{
    char digits[1024], prefix[8], fmt[8] = "%.*";
    bool negative = signbit(value) && !isnan(value);
    double size = fabs(value);
    char type = sp->type == '%' ? 'f' : sp->type == 'n' ? 'g' : sp->type;
    if (isnan(value) || isinf(value)) {
        strcpy(digits, isnan(value) ? (type && strchr("EFG", type) ? "NAN" : "nan")
                                    : (type && strchr("EFG", type) ? "INF" : "inf"));
    } else if (type == 0 && sp->precision < 0) {
        qr_jtext_float(size, digits);
    } else if (type == 0) {
        general_digits(size, sp->precision, digits, sizeof digits);
    } else {
        fmt[3] = type;
        if (sp->alternate) memmove(fmt + 2, fmt + 1, strlen(fmt)), fmt[1] = '#';
        int precision = sp->precision < 0 ? 6 : (int)sp->precision;
        snprintf(digits, sizeof digits, fmt, precision, sp->type == '%' ? size * 100 : size);
    }
    if (sp->group) group_digits(digits, sizeof digits, sp->group, 3);
    if (sp->type == '%') strcat(digits, "%");
    sign_text(sp, negative, "", prefix);
    add_number(b, sp, prefix, digits);
}

static int64_t parse_number(qr_jrun *run, qr_jval f, uint32_t *pos, int64_t max)
{
    int64_t value = 0;
    while (*pos < f.bytes && f.text[*pos] >= '0' && f.text[*pos] <= '9') {
        value = value * 10 + (f.text[(*pos)++] - '0');
        if (value > max) qr_jrun_limit(run, "a width or precision in a format is too large");
    }
    return value;
}

/* ---- format % operand ------------------------------------------------------------------------------------------- */

typedef struct percent {
    qr_jrun *run;
    qr_jval format, operand;
    size_t next; /* of the operand's elements */
    uint32_t pos;
} percent;

static qr_jval next_operand(percent *pc)
{
    size_t num = pc->operand.kind == QR_J_TUPLE ? pc->operand.list->num : 1;
    if (pc->next >= num) qr_jrun_raise(pc->run, "not enough arguments for format string");
    size_t idx = pc->next++;
    return pc->operand.kind == QR_J_TUPLE ? pc->operand.list->items[idx] : pc->operand;
}

/* "(name)" at the current position: the value of that name; MISSING when there is none. */
static qr_jval named_operand(percent *pc)
{
    qr_jval f = pc->format;
    if (pc->pos >= f.bytes || f.text[pc->pos] != '(') return (qr_jval){.kind = QR_J_MISSING};
    uint32_t start = ++pc->pos;
    for (int depth = 1; depth > 0; pc->pos++) {
        if (pc->pos >= f.bytes) qr_jrun_raise(pc->run, "incomplete format key");
        depth += f.text[pc->pos] == '(';
        depth -= f.text[pc->pos] == ')';
    }
    if (pc->operand.kind != QR_J_DICT) qr_jrun_raise(pc->run, "format requires a mapping");
    const qr_jval *value = qr_jdict_find_text(pc->run, pc->operand.dict, f.text + start, pc->pos - 1 - start);
    if (!value) qr_jrun_raise(pc->run, "format key '%.*s' not found", (int)(pc->pos - 1 - start), f.text + start);
    pc->next = 1;
    return *value;
}

static spec parse_percent_spec(percent *pc)
{
    qr_jval f = pc->format;
    spec sp = {.precision = -1};
    for (; pc->pos < f.bytes && f.text[pc->pos] && strchr("-+ #0", f.text[pc->pos]); pc->pos++) {
        char c = f.text[pc->pos];
        if (c == '-') sp.align = '<';
        if (c == '+' || (c == ' ' && sp.sign != '+')) sp.sign = c;
        sp.alternate |= c == '#';
        sp.zero |= c == '0';
    }
    if (pc->pos < f.bytes && f.text[pc->pos] == '*') {
        pc->pos++;
        sp.width = qr_jval_to_int(pc->run, next_operand(pc), "a format's width");
        if (sp.width < 0) sp.align = '<';
        if (sp.width < -MAX_WIDTH || sp.width > MAX_WIDTH) qr_jrun_limit(pc->run, "a format's width is too large");
        if (sp.width < 0) sp.width = -sp.width;
    } else {
        sp.width = parse_number(pc->run, f, &pc->pos, MAX_WIDTH);
    }
    if (pc->pos < f.bytes && f.text[pc->pos] == '.') {
        pc->pos++;
        if (pc->pos < f.bytes && f.text[pc->pos] == '*') {
            pc->pos++;
            sp.precision = qr_jval_to_int(pc->run, next_operand(pc), "a format's precision");
            if (sp.precision < 0) sp.precision = 0;
        } else {
            sp.precision = parse_number(pc->run, f, &pc->pos, MAX_WIDTH);
        }
    }
    while (pc->pos < f.bytes && f.text[pc->pos] && strchr("hlL", f.text[pc->pos])) pc->pos++;
    return sp;
}

static void require_precision(qr_jrun *run, const spec *sp)
{
    if (sp->precision > MAX_PRECISION) qr_jrun_limit(run, "a format's precision is too large");
}

static void add_percent_number(percent *pc, qr_jbuild *b, spec *sp, qr_jval value)
{
    bool is_float = sp->type && strchr("eEfFgG", sp->type);
    if (value.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(pc->run, value);
    if (value.kind == QR_J_STR && is_float) qr_jrun_raise(pc->run, "must be real number, not str");
    if (!qr_jval_is_number(value))
        qr_jrun_raise(pc->run, "%%%c format: a real number is required, not %s", sp->type, qr_jval_type(value));
    if (sp->align == '<') sp->zero = false;
    require_precision(pc->run, sp);
    if (is_float) {
        add_float(b, sp, qr_jval_real(value));
        return;
    }
    if (value.kind == QR_J_FLOAT) {
        if (strchr("xXo", sp->type)) qr_jrun_raise(pc->run, "%%%c format: an integer is required, not float", sp->type);
        if (!(fabs(value.real) < 9e18)) qr_jrun_limit(pc->run, "an integer does not fit into 64 bits");
        value = qr_jval_int((int64_t)value.real);
    }
    add_int(b, sp, qr_jval_to_int(pc->run, value, "a formatted value"));
}

static qr_jval character_of(qr_jrun *run, qr_jval code)
{
    int64_t c = qr_jval_to_int(run, code, "a character's code");
    if (c < 0 || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) qr_jrun_raise(run, "a character's code is out of range");
    qr_jbuild b = {.run = run};
    qr_jbuild_char(&b, (uint32_t)c);
    return qr_jbuild_end(&b);
}

static void add_percent(percent *pc, qr_jbuild *b)
{
    qr_jval value = named_operand(pc);
    spec sp = parse_percent_spec(pc);
    if (pc->pos >= pc->format.bytes) qr_jrun_raise(pc->run, "incomplete format");
    sp.type = pc->format.text[pc->pos++];
    if (sp.type == '%') {
        qr_jbuild_cstr(b, "%");
        return;
    }
    if (!sp.type || !strchr("srdiuxXoeEfFgGca", sp.type) || (unsigned char)sp.type >= 0x80)
        qr_jrun_raise(pc->run, "unsupported format character '%c'", (unsigned char)sp.type < 0x80 ? sp.type : '?');
    if (value.kind == QR_J_MISSING) value = next_operand(pc);
    if (sp.type == 's' || sp.type == 'r' || sp.type == 'a') {
        qr_jval text = sp.type == 's' ? qr_jtext_str(pc->run, value) : qr_jtext_repr(pc->run, value);
        add_padded(b, &sp, text, '>');
    } else if (sp.type == 'c') {
        if (value.kind == QR_J_INT) value = character_of(pc->run, value);
        if (value.kind != QR_J_STR || qr_jval_len(value) != 1) qr_jrun_raise(pc->run, "%%c requires int or char");
        add_padded(b, &sp, value, '>');
    } else {
        if (sp.type == 'i' || sp.type == 'u') sp.type = 'd';
        add_percent_number(pc, b, &sp, value);
    }
}

qr_jval qr_jformat_percent(qr_jrun *run, qr_jval format, qr_jval operand)
{
    percent pc = {.run = run, .format = format, .operand = operand};
    qr_jbuild b = {.run = run};
    while (pc.pos < format.bytes) {
        const char *found = memchr(format.text + pc.pos, '%', format.bytes - pc.pos);
        uint32_t end = found ? (uint32_t)(found - format.text) : format.bytes;
        qr_jbuild_add(&b, format.text + pc.pos, end - pc.pos);
        pc.pos = end + 1;
        if (found) add_percent(&pc, &b);
    }
    bool mapping = operand.kind == QR_J_DICT || operand.kind == QR_J_LIST || operand.kind == QR_J_RANGE ||
                   operand.kind == QR_J_UNDEFINED;
    size_t num = operand.kind == QR_J_TUPLE ? operand.list->num : mapping ? 0 : 1;
    if (pc.next < num) qr_jrun_raise(run, "not all arguments converted during string formatting");
    qr_jval result = qr_jbuild_end(&b);
    result.tag = format.tag;
    return result;
}

/* ---- str.format ------------------------------------------------------------------------------------------------- */

typedef struct braces {
    qr_jrun *run;
    const qr_jargs *args;
    int64_t next; /* automatic field number; -1: fields are numbered by hand */
} braces;

static qr_jval format_fields(braces *br, qr_jval format, int depth);

static spec parse_spec(qr_jrun *run, qr_jval f)
{
    spec sp = {.precision = -1};
    uint32_t pos = 0;
    size_t first = 0;
    if (f.bytes) qr_jtext_decode(f.text, &first);
    if (f.bytes > first && f.text[first] && strchr("<>=^", f.text[first])) {
        memcpy(sp.fill, f.text, first);
        sp.fill_bytes = first;
        sp.align = f.text[first];
        pos = (uint32_t)first + 1;
    } else if (f.bytes && f.text[0] && strchr("<>=^", f.text[0])) {
        sp.align = f.text[pos++];
    }
    if (pos < f.bytes && f.text[pos] && strchr("+- ", f.text[pos])) sp.sign = f.text[pos++];
    if (pos < f.bytes && f.text[pos] == '#') pos++, sp.alternate = true;
    if (pos < f.bytes && f.text[pos] == '0') pos++, sp.zero = true;
    sp.width = parse_number(run, f, &pos, MAX_WIDTH);
    if (pos < f.bytes && (f.text[pos] == ',' || f.text[pos] == '_')) sp.group = f.text[pos++];
    if (pos < f.bytes && f.text[pos] == '.') {
        uint32_t start = ++pos;
        sp.precision = parse_number(run, f, &pos, MAX_WIDTH);
        if (pos == start) qr_jrun_raise(run, "Format specifier missing precision");
    }
    if (pos < f.bytes) sp.type = f.text[pos++];
    if (pos < f.bytes) qr_jrun_raise(run, "Invalid format specifier '%.*s'", (int)f.bytes, f.text);
    return sp;
}

static void add_formatted(braces *br, qr_jbuild *b, qr_jval value, qr_jval spec_text)
{
    if (spec_text.bytes == 0) {
        qr_jtext_add_str(b, value);
        return;
    }
    spec sp = parse_spec(br->run, spec_text);
    bool is_int = value.kind == QR_J_INT || value.kind == QR_J_BOOL;
    if (value.kind == QR_J_STR && (sp.type == 0 || sp.type == 's') && sp.align != '=' && !sp.sign && !sp.group) {
        if (sp.zero && !sp.fill_bytes) sp.fill[0] = '0', sp.fill_bytes = 1;
        add_padded(b, &sp, value, '<');
        return;
    }
    require_precision(br->run, &sp);
    if (is_int && sp.type == 'c' && !sp.sign && sp.precision < 0) {
        add_padded(b, &sp, character_of(br->run, value), '>');
        return;
    }
    if (is_int && (sp.type == 0 || strchr("dboxXn", sp.type)) && sp.precision < 0) {
        add_int(b, &sp, qr_jval_to_int(br->run, value, "a formatted value"));
        return;
    }
    if ((is_int || value.kind == QR_J_FLOAT) && (sp.type ? strchr("eEfFgGn%", sp.type) != NULL : !is_int)) {
        add_float(b, &sp, qr_jval_real(value));
        return;
    }
    qr_jrun_raise(br->run, "unsupported format string '%.*s' for an object of type '%s'", (int)spec_text.bytes,
                  spec_text.text, qr_jval_type(value));
}

/* The argument that a field names: "", "0", "name". */
static qr_jval field_argument(braces *br, qr_jval name)
{
    int64_t idx;
    if (name.bytes == 0) {
        if (br->next < 0)
            qr_jrun_raise(br->run, "cannot switch from manual field specification to automatic field numbering");
        idx = br->next++;
    } else if (name.text[0] < '0' || name.text[0] > '9' || !qr_jtext_to_int(br->run, name, 10, &idx)) {
        for (size_t i = 0; i < br->args->num_kw; i++)
            if (qr_jval_is_text(br->args->kw[i].key, name.text, name.bytes)) return br->args->kw[i].value;
        qr_jrun_raise(br->run, "format argument '%.*s' is missing", (int)name.bytes, name.text);
    } else {
        if (br->next > 0)
            qr_jrun_raise(br->run, "cannot switch from automatic field numbering to manual field specification");
        br->next = -1;
    }
    if (idx < 0 || (size_t)idx >= br->args->num_pos)
        qr_jrun_raise(br->run, "Replacement index %" PRId64 " out of range for positional args tuple", idx);
    return br->args->pos[idx];
}

static qr_jval part_of(qr_jval text, uint32_t start, uint32_t end)
{
    text.text += start;
    text.bytes = end - start;
    text.tag = QR_J_PLAIN;
    return text;
}

/* "name.attr[item]" */
static qr_jval field_value(braces *br, qr_jval field)
{
    uint32_t pos = 0, start = 0;
    while (pos < field.bytes && field.text[pos] != '.' && field.text[pos] != '[') pos++;
    qr_jval value = field_argument(br, part_of(field, 0, pos));
    while (pos < field.bytes) {
        bool is_item = field.text[pos] == '[';
        start = ++pos;
        while (pos < field.bytes &&
               (is_item ? field.text[pos] != ']' : field.text[pos] != '.' && field.text[pos] != '['))
            pos++;
        qr_jval name = part_of(field, start, pos);
        int64_t idx;
        if (!is_item)
            value = qr_jval_attr(br->run, value, name);
        else if (name.bytes && name.text[0] >= '0' && name.text[0] <= '9' && qr_jtext_to_int(br->run, name, 10, &idx))
            value = qr_jval_item(br->run, value, qr_jval_int(idx));
        else
            value = qr_jval_item(br->run, value, name);
        if (is_item && pos++ >= field.bytes) qr_jrun_raise(br->run, "expected '}' before end of string");
    }
    return value;
}

/* The field f[start..end): name, "!r", ":spec". */
static void add_field(braces *br, qr_jbuild *b, qr_jval f, int depth)
{
    uint32_t colon = 0, bang, brackets = 0;
    while (colon < f.bytes && (brackets || (f.text[colon] != ':' && f.text[colon] != '!'))) {
        if (f.text[colon] == '[') brackets = 1;
        if (f.text[colon] == ']') brackets = 0;
        colon++;
    }
    bang = colon;
    char conversion = 0;
    if (bang < f.bytes && f.text[bang] == '!') {
        conversion = bang + 1 < f.bytes ? f.text[bang + 1] : 0;
        colon = bang + 2;
        if (!conversion || !strchr("sra", conversion) || (colon < f.bytes && f.text[colon] != ':'))
            qr_jrun_raise(br->run, "bad conversion in a format string");
    }
    qr_jval value = field_value(br, part_of(f, 0, bang));
    qr_jval spec_text = colon < f.bytes ? part_of(f, colon + 1, f.bytes) : qr_jval_cstr("");
    if (spec_text.bytes) spec_text = format_fields(br, spec_text, depth + 1);
    if (conversion) value = conversion == 's' ? qr_jtext_str(br->run, value) : qr_jtext_repr(br->run, value);
    add_formatted(br, b, value, spec_text);
}

static qr_jval format_fields(braces *br, qr_jval format, int depth)
{
    if (depth > 2) qr_jrun_raise(br->run, "Max string recursion exceeded");
    qr_jbuild b = {.run = br->run};
    for (uint32_t pos = 0; pos < format.bytes;) {
        char c = format.text[pos];
        bool twice = pos + 1 < format.bytes && format.text[pos + 1] == c;
        if ((c == '{' || c == '}') && twice) {
            qr_jbuild_add(&b, &c, 1);
            pos += 2;
        } else if (c == '}') {
            qr_jrun_raise(br->run, "Single '}' encountered in format string");
        } else if (c == '{') {
            uint32_t start = ++pos;
            for (int open = 1; open > 0; pos++) {
                if (pos >= format.bytes) qr_jrun_raise(br->run, "expected '}' before end of string");
                open += format.text[pos] == '{';
                open -= format.text[pos] == '}';
            }
            add_field(br, &b, part_of(format, start, pos - 1), depth);
        } else {
            qr_jbuild_add(&b, &c, 1);
            pos++;
        }
    }
    return qr_jbuild_end(&b);
}

qr_jval qr_jformat_braces(qr_jrun *run, qr_jval format, const qr_jargs *args)
{
    braces br = {.run = run, .args = args};
    return format_fields(&br, format, 1);
}

/* ---- strftime_now ----------------------------------------------------------------------------------------------- */

qr_jval qr_jformat_time(qr_jrun *run, qr_jval format)
{
    if (format.kind != QR_J_STR) qr_jrun_raise(run, "strftime_now() needs a string, not '%s'", qr_jval_type(format));
    time_t seconds = run->now < 0 ? time(NULL) : (time_t)run->now;
    struct tm tm;
    memset(&tm, 0, sizeof tm);
    if (!(run->now < 0 ? localtime_r(&seconds, &tm) : gmtime_r(&seconds, &tm)))
        qr_jrun_raise(run, "the time is out of range");
    qr_jbuild b = {.run = run};
    for (uint32_t i = 0; i < format.bytes; i++) {
        if (format.text[i] != '%' || i + 1 == format.bytes) {
            qr_jbuild_add(&b, &format.text[i], 1);
            continue;
        }
        char directive[4] = "%", text[128];
        size_t n = 1;
        if (strchr("-_0^#", format.text[i + 1]) && format.text[i + 1] && i + 2 < format.bytes)
            directive[n++] = format.text[++i];
        directive[n] = format.text[++i];
        char c = directive[n];
        if (c == 'f')
            qr_jbuild_cstr(&b, "000000");
        else if (c == 'z' || c == 'Z')
            continue; /* Python's now() has no zone */
        else if (c && strchr("aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyY%", c)) {
            size_t bytes = strftime(text, sizeof text, directive, &tm);
            qr_jbuild_add(&b, text, bytes);
        } else
            qr_jrun_raise(run, "strftime_now: unknown directive in '%.*s'", (int)format.bytes, format.text);
    }
    return qr_jbuild_end(&b);
}
