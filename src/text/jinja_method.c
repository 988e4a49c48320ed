#define _GNU_SOURCE
#include <string.h>

#include "text/jinja_library.h"
#include "text/jinja_text.h"

#define NUM(array) (sizeof(array) / sizeof *(array))

/* ---- arguments -------------------------------------------------------------------------------------------------- */

static void require_text(qr_jrun *run, qr_jval value, const char *what)
{
    if (value.kind == QR_J_STR) return;
    if (value.kind == QR_J_UNDEFINED) qr_jrun_raise(run, "%s must be str, not Undefined", what);
    qr_jrun_raise(run, "%s must be str, not %s", what, qr_jval_type(value));
}

static int64_t int_or(qr_jrun *run, qr_jval value, int64_t otherwise, const char *what)
{
    return value.kind == QR_J_MISSING ? otherwise : qr_jval_to_int(run, value, what);
}

static qr_jval part(qr_jval str, size_t start, size_t end)
{
    str.text += start;
    str.bytes = (uint32_t)(end - start);
    return str;
}

/* Bytes [*start, *end) of str selected by optional character bounds, as in s.find(x, start, end). */
static bool text_bounds(qr_jrun *run, qr_jval str, const qr_jval *bounds, size_t *start, size_t *end)
{
    *start = 0;
    *end = str.bytes;
    int64_t len = qr_jval_len(str), at[2] = {0, len};
    for (int i = 0; i < 2; i++) {
        if (bounds[i].kind == QR_J_MISSING || bounds[i].kind == QR_J_NONE) continue;
        at[i] = qr_jval_to_int(run, bounds[i], "an index");
        if (at[i] < 0) at[i] += len;
        if (at[i] < 0) at[i] = 0;
    }
    if (at[0] > len || at[0] > at[1]) return false;
    *start = qr_jtext_offset(str.text, str.bytes, at[0]);
    if (at[1] < len) *end = qr_jtext_offset(str.text, str.bytes, at[1]);
    return true;
}

/* ---- searching -------------------------------------------------------------------------------------------------- */

static const char *find_in(const char *text, size_t bytes, qr_jval needle, bool last)
{
    if (needle.bytes == 0) return last ? text + bytes : text;
    if (!last) return memmem(text, bytes, needle.text, needle.bytes);
    for (size_t pos = bytes; pos >= needle.bytes; pos--)
        if (memcmp(text + pos - needle.bytes, needle.text, needle.bytes) == 0) return text + pos - needle.bytes;
    return NULL;
}

static qr_jval find_text(qr_jrun *run, qr_jval self, const qr_jargs *args, const char *what, bool last, bool must)
{
    qr_jval a[3];
    size_t start, end;
    qr_jargs_bind(run, args, what, "/sub start end", 1, a);
    require_text(run, a[0], what);
    qr_jrun_charge_bytes(run, self.bytes + (last ? (uint64_t)self.bytes * a[0].bytes / 16 : 0));
    const char *found = NULL;
    if (text_bounds(run, self, a + 1, &start, &end)) found = find_in(self.text + start, end - start, a[0], last);
    if (found) return qr_jval_int(qr_jval_len(part(self, 0, (size_t)(found - self.text))));
    if (must) qr_jrun_raise(run, "substring not found");
    return qr_jval_int(-1);
}

static qr_jval str_find(qr_jrun *r, qr_jval s, const qr_jargs *a) { return find_text(r, s, a, "find()", false, false); }
static qr_jval str_rfind(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return find_text(r, s, a, "rfind()", true, false);
}
static qr_jval str_index(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return find_text(r, s, a, "index()", false, true);
}
static qr_jval str_rindex(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return find_text(r, s, a, "rindex()", true, true);
}

static qr_jval str_count(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jval a[3];
    size_t start, end;
    qr_jargs_bind(run, args, "count()", "/sub start end", 1, a);
    require_text(run, a[0], "count()");
    qr_jrun_charge_bytes(run, self.bytes);
    if (!text_bounds(run, self, a + 1, &start, &end)) return qr_jval_int(0);
    if (a[0].bytes == 0) return qr_jval_int(qr_jval_len(part(self, start, end)) + 1);
    int64_t num = 0;
    const char *found;
    while ((found = find_in(self.text + start, end - start, a[0], false))) {
        num++;
        start = (size_t)(found - self.text) + a[0].bytes;
    }
    return qr_jval_int(num);
}

static bool has_affix(qr_jval text, qr_jval affix, bool at_end)
{
    if (affix.bytes > text.bytes) return false;
    const char *from = at_end ? text.text + text.bytes - affix.bytes : text.text;
    return affix.bytes == 0 || memcmp(from, affix.text, affix.bytes) == 0;
}

static qr_jval affix_test(qr_jrun *run, qr_jval self, const qr_jargs *args, const char *what, bool at_end)
{
    qr_jval a[3];
    size_t start, end;
    qr_jargs_bind(run, args, what, "/prefix start end", 1, a);
    if (a[0].kind != QR_J_STR && a[0].kind != QR_J_TUPLE)
        qr_jrun_raise(run, "%s first arg must be str or a tuple of str, not %s", what, qr_jval_type(a[0]));
    size_t num = a[0].kind == QR_J_TUPLE ? a[0].list->num : 1;
    bool inside = text_bounds(run, self, a + 1, &start, &end), found = false;
    for (size_t i = 0; i < num; i++) {
        qr_jval affix = a[0].kind == QR_J_TUPLE ? a[0].list->items[i] : a[0];
        require_text(run, affix, what);
        found |= inside && has_affix(part(self, start, end), affix, at_end);
    }
    return qr_jval_bool(found);
}

static qr_jval str_startswith(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return affix_test(r, s, a, "startswith()", false);
}
static qr_jval str_endswith(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return affix_test(r, s, a, "endswith()", true);
}

static qr_jval remove_affix(qr_jrun *run, qr_jval self, const qr_jargs *args, const char *what, bool at_end)
{
    qr_jval a;
    qr_jargs_bind(run, args, what, "/affix", 1, &a);
    require_text(run, a, what);
    if (!has_affix(self, a, at_end)) return self;
    return at_end ? part(self, 0, self.bytes - a.bytes) : part(self, a.bytes, self.bytes);
}

static qr_jval str_removeprefix(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return remove_affix(r, s, a, "removeprefix()", false);
}
static qr_jval str_removesuffix(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return remove_affix(r, s, a, "removesuffix()", true);
}

/* ---- stripping -------------------------------------------------------------------------------------------------- */

static bool is_stripped(qr_jval chars, const char *text, size_t start, size_t end)
{
    size_t pos = start;
    if (chars.kind != QR_J_STR) return qr_jtext_is_space(qr_jtext_decode(text, &pos));
    for (size_t c = 0; c < chars.bytes;) {
        size_t first = c;
        qr_jtext_decode(chars.text, &c);
        if (c - first == end - start && memcmp(chars.text + first, text + start, end - start) == 0) return true;
    }
    return false;
}

static size_t char_before(const char *text, size_t pos)
{
    do pos--;
    while (((unsigned char)text[pos] & 0xC0) == 0x80);
    return pos;
}

static qr_jval strip(qr_jrun *run, qr_jval self, qr_jval chars, bool left, bool right)
{
    size_t start = 0, end = self.bytes;
    qr_jrun_charge_bytes(run, (size_t)self.bytes * (chars.kind == QR_J_STR ? 1 + (uint64_t)chars.bytes : 1));
    while (left && start < end) {
        size_t next = start;
        qr_jtext_decode(self.text, &next);
        if (!is_stripped(chars, self.text, start, next)) break;
        start = next;
    }
    while (right && end > start) {
        size_t last = char_before(self.text, end);
        if (!is_stripped(chars, self.text, last, end)) break;
        end = last;
    }
    return part(self, start, end);
}

static qr_jval strip_args(qr_jrun *run, qr_jval self, const qr_jargs *args, const char *what, bool left, bool right)
{
    qr_jval chars;
    qr_jargs_bind(run, args, what, "/chars", 0, &chars);
    if (chars.kind != QR_J_MISSING && chars.kind != QR_J_NONE) require_text(run, chars, what);
    return strip(run, self, chars, left, right);
}

static qr_jval str_strip(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return strip_args(r, s, a, "strip()", true, true);
}
static qr_jval str_lstrip(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return strip_args(r, s, a, "lstrip()", true, false);
}
static qr_jval str_rstrip(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return strip_args(r, s, a, "rstrip()", false, true);
}

/* ---- splitting -------------------------------------------------------------------------------------------------- */

/* The next word of [*pos, end) split at white space; false when there is none. */
static bool next_word(qr_jval s, size_t *pos, size_t *start, size_t *end)
{
    bool in_word = false;
    while (*pos < s.bytes) {
        size_t here = *pos;
        bool space = qr_jtext_is_space(qr_jtext_decode(s.text, pos));
        if (!in_word && !space) *start = here;
        if (in_word && space) {
            *end = here;
            return true;
        }
        in_word |= !space;
    }
    *end = s.bytes;
    return in_word;
}

static void split_words(qr_jrun *run, qr_jval s, int64_t max, qr_jlist *list)
{
    size_t pos = 0, start = 0, end = 0;
    while ((int64_t)list->num != max && next_word(s, &pos, &start, &end)) qr_jlist_add(run, list, part(s, start, end));
    if ((int64_t)list->num != max) return;
    qr_jval rest = strip(run, part(s, pos, s.bytes), qr_jval_none(), true, false);
    if (rest.bytes) qr_jlist_add(run, list, rest);
}

static void reverse_items(qr_jlist *list)
{
    for (size_t i = 0; i < list->num / 2; i++) {
        qr_jval swapped = list->items[i];
        list->items[i] = list->items[list->num - 1 - i];
        list->items[list->num - 1 - i] = swapped;
    }
}

static void rsplit_words(qr_jrun *run, qr_jval s, int64_t max, qr_jlist *list)
{
    for (;;) {
        s = strip(run, s, qr_jval_none(), false, true);
        if (s.bytes == 0) break;
        if ((int64_t)list->num == max) {
            qr_jlist_add(run, list, s);
            break;
        }
        size_t start = s.bytes;
        while (start > 0) {
            size_t prev = char_before(s.text, start), pos = prev;
            if (qr_jtext_is_space(qr_jtext_decode(s.text, &pos))) break;
            start = prev;
        }
        qr_jlist_add(run, list, part(s, start, s.bytes));
        s = part(s, 0, start);
    }
    reverse_items(list);
}

static void split_at(qr_jrun *run, qr_jval s, qr_jval sep, int64_t max, bool from_end, qr_jlist *list)
{
    const char *found;
    while ((int64_t)list->num != max && (found = find_in(s.text, s.bytes, sep, from_end))) {
        size_t at = (size_t)(found - s.text);
        qr_jlist_add(run, list, from_end ? part(s, at + sep.bytes, s.bytes) : part(s, 0, at));
        s = from_end ? part(s, 0, at) : part(s, at + sep.bytes, s.bytes);
    }
    qr_jlist_add(run, list, s);
    if (from_end) reverse_items(list);
}

static qr_jval split(qr_jrun *run, qr_jval self, const qr_jargs *args, const char *what, bool from_end)
{
    qr_jval a[2];
    qr_jargs_bind(run, args, what, "sep maxsplit", 0, a);
    int64_t max = int_or(run, a[1], -1, "maxsplit");
    qr_jlist *list = qr_jlist_create(run, 0);
    self.tag = QR_J_PLAIN;
    qr_jrun_charge_bytes(run, self.bytes);
    if (a[0].kind == QR_J_MISSING || a[0].kind == QR_J_NONE) {
        if (from_end)
            rsplit_words(run, self, max, list);
        else
            split_words(run, self, max, list);
        return qr_jval_list(QR_J_LIST, list);
    }
    require_text(run, a[0], what);
    if (a[0].bytes == 0) qr_jrun_raise(run, "empty separator");
    if (from_end) qr_jrun_charge_bytes(run, (uint64_t)self.bytes * a[0].bytes / 16);
    split_at(run, self, a[0], max, from_end, list);
    return qr_jval_list(QR_J_LIST, list);
}

static qr_jval str_split(qr_jrun *r, qr_jval s, const qr_jargs *a) { return split(r, s, a, "split()", false); }
static qr_jval str_rsplit(qr_jrun *r, qr_jval s, const qr_jargs *a) { return split(r, s, a, "rsplit()", true); }

static qr_jval partition(qr_jrun *run, qr_jval self, const qr_jargs *args, const char *what, bool last)
{
    qr_jval sep;
    qr_jargs_bind(run, args, what, "/sep", 1, &sep);
    require_text(run, sep, what);
    if (sep.bytes == 0) qr_jrun_raise(run, "empty separator");
    qr_jrun_charge_bytes(run, self.bytes + (last ? (uint64_t)self.bytes * sep.bytes / 16 : 0));
    const char *found = find_in(self.text, self.bytes, sep, last);
    size_t at = found ? (size_t)(found - self.text) : last ? 0 : self.bytes;
    qr_jlist *list = qr_jlist_create(run, 3);
    qr_jlist_add(run, list, part(self, 0, at));
    qr_jlist_add(run, list, found ? sep : qr_jval_cstr(""));
    qr_jlist_add(run, list, part(self, found ? at + sep.bytes : at, self.bytes));
    return qr_jval_list(QR_J_TUPLE, list);
}

static qr_jval str_partition(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return partition(r, s, a, "partition()", false);
}
static qr_jval str_rpartition(qr_jrun *r, qr_jval s, const qr_jargs *a)
{
    return partition(r, s, a, "rpartition()", true);
}

static bool is_line_break(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

static qr_jval str_splitlines(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jval keep;
    qr_jargs_bind(run, args, "splitlines()", "keepends", 0, &keep);
    bool keeps = qr_jval_truth(run, keep);
    qr_jlist *list = qr_jlist_create(run, 0);
    size_t start = 0;
    qr_jrun_charge_bytes(run, self.bytes);
    for (size_t pos = 0; pos < self.bytes;) {
        size_t end = pos;
        uint32_t c = qr_jtext_decode(self.text, &pos);
        if (!is_line_break(c)) continue;
        if (c == '\r' && pos < self.bytes && self.text[pos] == '\n') pos++;
        qr_jlist_add(run, list, part(self, start, keeps ? pos : end));
        start = pos;
    }
    if (start < self.bytes) qr_jlist_add(run, list, part(self, start, self.bytes));
    return qr_jval_list(QR_J_LIST, list);
}

/* ---- building --------------------------------------------------------------------------------------------------- */

static qr_jval str_replace(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jval a[3];
    qr_jargs_bind(run, args, "replace()", "old new count", 2, a);
    require_text(run, a[0], "replace() argument 1");
    require_text(run, a[1], "replace() argument 2");
    int64_t count = int_or(run, a[2], -1, "count");
    if (count < 0) count = INT64_MAX;
    qr_jbuild b = {.run = run};
    qr_jval rest = self;
    qr_jrun_charge_bytes(run, self.bytes);
    for (; count > 0; count--) {
        if (a[0].bytes == 0) { /* between all characters */
            qr_jbuild_val(&b, a[1]);
            if (rest.bytes == 0) break;
            size_t next = 0;
            qr_jtext_decode(rest.text, &next);
            qr_jbuild_add(&b, rest.text, next);
            rest = part(rest, next, rest.bytes);
            continue;
        }
        const char *found = find_in(rest.text, rest.bytes, a[0], false);
        if (!found) break;
        size_t at = (size_t)(found - rest.text);
        qr_jbuild_add(&b, rest.text, at);
        qr_jbuild_val(&b, a[1]);
        rest = part(rest, at + a[0].bytes, rest.bytes);
    }
    qr_jbuild_val(&b, rest);
    return qr_jbuild_end(&b);
}

static qr_jval str_join(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jval items, item;
    qr_jargs_bind(run, args, "join()", "/iterable", 1, &items);
    qr_jiter *iter = qr_jiter_of(run, items);
    qr_jbuild b = {.run = run};
    for (bool first = true; qr_jiter_next(run, iter, &item); first = false) {
        require_text(run, item, "join(): each item");
        if (!first) qr_jbuild_val(&b, self);
        qr_jbuild_val(&b, item);
    }
    return qr_jbuild_end(&b);
}

static qr_jval str_format(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    return qr_jformat_braces(run, self, args);
}

/* ljust ('<'), rjust ('>'), center ('^') */
static qr_jval justify(qr_jrun *run, qr_jval self, const qr_jargs *args, const char *what, char align)
{
    qr_jval a[2];
    qr_jargs_bind(run, args, what, "width fillchar", 1, a);
    int64_t width = qr_jval_to_int(run, a[0], "width"), pad = width - qr_jval_len(self);
    qr_jval fill = a[1].kind == QR_J_MISSING ? qr_jval_cstr(" ") : a[1];
    require_text(run, fill, what);
    if (qr_jval_len(fill) != 1) qr_jrun_raise(run, "The fill character must be exactly one character long");
    if (pad <= 0) return self;
    int64_t before = align == '>' ? pad : align == '^' ? pad / 2 + (pad & width & 1) : 0;
    qr_jbuild b = {.run = run};
    qr_jbuild_fill(&b, fill.text, fill.bytes, before);
    qr_jbuild_val(&b, self);
    qr_jbuild_fill(&b, fill.text, fill.bytes, pad - before);
    return qr_jbuild_end(&b);
}

static qr_jval str_ljust(qr_jrun *r, qr_jval s, const qr_jargs *a) { return justify(r, s, a, "ljust()", '<'); }
static qr_jval str_rjust(qr_jrun *r, qr_jval s, const qr_jargs *a) { return justify(r, s, a, "rjust()", '>'); }
static qr_jval str_center(qr_jrun *r, qr_jval s, const qr_jargs *a) { return justify(r, s, a, "center()", '^'); }

static qr_jval str_zfill(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jval a;
    qr_jargs_bind(run, args, "zfill()", "/width", 1, &a);
    int64_t pad = qr_jval_to_int(run, a, "width") - qr_jval_len(self);
    bool sign = self.bytes && (self.text[0] == '-' || self.text[0] == '+');
    qr_jbuild b = {.run = run};
    if (sign) qr_jbuild_add(&b, self.text, 1);
    qr_jbuild_fill(&b, "0", 1, pad);
    qr_jbuild_add(&b, self.text + sign, self.bytes - sign);
    return qr_jbuild_end(&b);
}

static qr_jval str_expandtabs(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jval a;
    qr_jargs_bind(run, args, "expandtabs()", "tabsize", 0, &a);
    int64_t size = int_or(run, a, 8, "tabsize"), column = 0;
    qr_jbuild b = {.run = run};
    for (size_t pos = 0; pos < self.bytes;) {
        size_t start = pos;
        uint32_t c = qr_jtext_decode(self.text, &pos);
        if (c == '\t') {
            int64_t fill = size > 0 ? size - column % size : 0;
            qr_jbuild_fill(&b, " ", 1, fill);
            column += fill;
        } else {
            qr_jbuild_add(&b, self.text + start, pos - start);
            column = c == '\n' || c == '\r' ? 0 : column + 1;
        }
    }
    return qr_jbuild_end(&b);
}

/* ---- case and classes ------------------------------------------------------------------------------------------- */

#define CASE_METHOD(method, to)                                                   \
    static qr_jval str_##method(qr_jrun *run, qr_jval self, const qr_jargs *args) \
    {                                                                             \
        qr_jargs_bind(run, args, #method "()", "", 0, NULL);                      \
        return qr_jtext_case(run, self, to);                                      \
    }
CASE_METHOD(upper, QR_J_UPPER)
CASE_METHOD(lower, QR_J_LOWER)
CASE_METHOD(title, QR_J_TITLE)
CASE_METHOD(capitalize, QR_J_CAPITALIZE)
CASE_METHOD(swapcase, QR_J_SWAP)
CASE_METHOD(casefold, QR_J_FOLD)

#define CLASS_METHOD(method, cls)                                                 \
    static qr_jval str_##method(qr_jrun *run, qr_jval self, const qr_jargs *args) \
    {                                                                             \
        qr_jargs_bind(run, args, #method "()", "", 0, NULL);                      \
        qr_jrun_charge_bytes(run, self.bytes);                                    \
        return qr_jval_bool(qr_jtext_is(self, cls));                              \
    }
CLASS_METHOD(isalnum, QR_J_ALNUM)
CLASS_METHOD(isalpha, QR_J_ALPHA)
CLASS_METHOD(isascii, QR_J_ASCII)
CLASS_METHOD(isdecimal, QR_J_DECIMAL)
CLASS_METHOD(isdigit, QR_J_DIGIT)
CLASS_METHOD(isidentifier, QR_J_IDENTIFIER)
CLASS_METHOD(islower, QR_J_IS_LOWER)
CLASS_METHOD(isnumeric, QR_J_NUMERIC)
CLASS_METHOD(isprintable, QR_J_PRINTABLE)
CLASS_METHOD(isspace, QR_J_SPACE)
CLASS_METHOD(istitle, QR_J_IS_TITLE)
CLASS_METHOD(isupper, QR_J_IS_UPPER)

/* ---- dict and list ---------------------------------------------------------------------------------------------- */

#define VIEW_METHOD(method, which)                                                 \
    static qr_jval dict_##method(qr_jrun *run, qr_jval self, const qr_jargs *args) \
    {                                                                              \
        qr_jargs_bind(run, args, #method "()", "", 0, NULL);                       \
        self.kind = QR_J_VIEW;                                                     \
        self.tag = which;                                                          \
        return self;                                                               \
    }
VIEW_METHOD(keys, QR_J_VIEW_KEYS)
VIEW_METHOD(values, QR_J_VIEW_VALUES)
VIEW_METHOD(items, QR_J_VIEW_ITEMS)

static qr_jval dict_get(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jval a[2];
    qr_jargs_bind(run, args, "get()", "/key default", 1, a);
    const qr_jval *found = qr_jdict_find(run, self.dict, a[0]);
    if (found) return *found;
    return a[1].kind == QR_J_MISSING ? qr_jval_none() : a[1];
}

/* copy() of a dict or list: values are immutable, so itself */
static qr_jval same(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jargs_bind(run, args, "copy()", "", 0, NULL);
    return self;
}

static qr_jval seq_count(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jval item;
    qr_jargs_bind(run, args, "count()", "/value", 1, &item);
    int64_t num = 0, len = qr_jval_len(self);
    for (int64_t i = 0; i < len; i++) num += qr_jval_equal(run, qr_jval_at(self, (size_t)i), item);
    return qr_jval_int(num);
}

static qr_jval seq_index(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jval a[3];
    qr_jargs_bind(run, args, "index()", "/value start stop", 1, a);
    int64_t len = qr_jval_len(self), start = int_or(run, a[1], 0, "start"), stop = int_or(run, a[2], len, "stop");
    if (start < 0) start = start + len < 0 ? 0 : start + len;
    if (stop < 0) stop += len;
    for (int64_t i = start; i < stop && i < len; i++)
        if (qr_jval_equal(run, qr_jval_at(self, (size_t)i), a[0])) return qr_jval_int(i);
    qr_jrun_raise(run, "value is not in %s", qr_jval_type(self));
}

static qr_jval float_is_integer(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jargs_bind(run, args, "is_integer()", "", 0, NULL);
    return qr_jval_bool(self.kind != QR_J_FLOAT ||
                        (self.real - self.real == 0 && __builtin_floor(self.real) == self.real));
}

static qr_jval unsupported(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    (void)args;
    qr_jrun_raise(run, "this method of '%s' is not supported", qr_jval_type(self));
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

#define METHOD(prefix, name)   \
    {                          \
#name, prefix##_##name \
    }
static const qr_jfunction str_methods[] = {
    METHOD(str, capitalize),     METHOD(str, casefold),      METHOD(str, center),        METHOD(str, count),
    METHOD(str, endswith),       METHOD(str, expandtabs),    METHOD(str, find),          METHOD(str, format),
    METHOD(str, index),          METHOD(str, isalnum),       METHOD(str, isalpha),       METHOD(str, isascii),
    METHOD(str, isdecimal),      METHOD(str, isdigit),       METHOD(str, isidentifier),  METHOD(str, islower),
    METHOD(str, isnumeric),      METHOD(str, isprintable),   METHOD(str, isspace),       METHOD(str, istitle),
    METHOD(str, isupper),        METHOD(str, join),          METHOD(str, ljust),         METHOD(str, lower),
    METHOD(str, lstrip),         METHOD(str, partition),     METHOD(str, removeprefix),  METHOD(str, removesuffix),
    METHOD(str, replace),        METHOD(str, rfind),         METHOD(str, rindex),        METHOD(str, rjust),
    METHOD(str, rpartition),     METHOD(str, rsplit),        METHOD(str, rstrip),        METHOD(str, split),
    METHOD(str, splitlines),     METHOD(str, startswith),    METHOD(str, strip),         METHOD(str, swapcase),
    METHOD(str, title),          METHOD(str, upper),         METHOD(str, zfill),         {"encode", unsupported},
    {"format_map", unsupported}, {"maketrans", unsupported}, {"translate", unsupported},
};
static const qr_jfunction dict_methods[] = {METHOD(dict, get),    METHOD(dict, items), METHOD(dict, keys),
                                            METHOD(dict, values), {"copy", same},      {"fromkeys", unsupported}};
static const qr_jfunction list_methods[] = {METHOD(seq, count), METHOD(seq, index), {"copy", same}};
static const qr_jfunction float_methods[] = {{"is_integer", float_is_integer}};

/* What would change a value: known to the sandbox, and refused. */
static const char *const list_changes[] = {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"};
static const char *const dict_changes[] = {"clear", "pop", "popitem", "setdefault", "update"};

static qr_jval find_method(qr_jrun *run, qr_jval obj, const qr_jfunction *table, size_t num, const char *name,
                           size_t bytes)
{
    for (size_t i = 0; i < num; i++) {
        if (strlen(table[i].name) != bytes || memcmp(table[i].name, name, bytes) != 0) continue;
        qr_jmethod *method = qr_jrun_alloc(run, sizeof *method);
        *method = (qr_jmethod){obj, &table[i]};
        return (qr_jval){.kind = QR_J_METHOD, .method = method};
    }
    return (qr_jval){.kind = QR_J_MISSING};
}

static qr_jval find_change(const char *const *names, size_t num, const char *name, size_t bytes)
{
    for (size_t i = 0; i < num; i++)
        if (strlen(names[i]) == bytes && memcmp(names[i], name, bytes) == 0)
            return qr_jval_hint("methods that change a list or dict are not allowed in a template");
    return (qr_jval){.kind = QR_J_MISSING};
}

qr_jval qr_jmethod_find(qr_jrun *run, qr_jval obj, const char *name, size_t bytes)
{
    qr_jval found = {.kind = QR_J_MISSING};
    switch ((qr_jkind)obj.kind) {
    case QR_J_STR: return find_method(run, obj, str_methods, NUM(str_methods), name, bytes);
    case QR_J_DICT:
        found = find_method(run, obj, dict_methods, NUM(dict_methods), name, bytes);
        return found.kind != QR_J_MISSING ? found : find_change(dict_changes, NUM(dict_changes), name, bytes);
    case QR_J_LIST:
        found = find_method(run, obj, list_methods, NUM(list_methods), name, bytes);
        return found.kind != QR_J_MISSING ? found : find_change(list_changes, NUM(list_changes), name, bytes);
    case QR_J_TUPLE:
    case QR_J_RANGE: return find_method(run, obj, list_methods, NUM(list_methods) - 1, name, bytes);
    case QR_J_FLOAT: return find_method(run, obj, float_methods, NUM(float_methods), name, bytes);
    default: return found;
    }
}
