#define _GNU_SOURCE
#include "text/jinja_core.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { CHUNK_BYTES = 32 << 10, ALIGN = 16 };

struct qr_jchunk {
    qr_jchunk *next;
    size_t bytes;
};

void qr_jarena_init(qr_jarena *arena, size_t max_bytes)
{
    memset(arena, 0, sizeof *arena);
    arena->max_bytes = max_bytes;
}

void qr_jarena_deinit(qr_jarena *arena)
{
    while (arena->chunks) {
        qr_jchunk *next = arena->chunks->next;
        qr_free(arena->chunks);
        arena->chunks = next;
    }
}

static void fail(qr_jrun *run, quire_status status, const char *fmt, va_list args)
{
    char text[400];
    int n = vsnprintf(text, sizeof text, fmt, args);
    if (n >= (int)sizeof text) { /* cut between characters */
        size_t end = sizeof text - 4;
        while (end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80) end--;
        memcpy(text + end, "...", 4);
    }
    run->status = qr_fail(run->error, status, "chat template, line %d: %s", run->line, text);
    longjmp(run->on_raise, 1);
}

void qr_jrun_raise(qr_jrun *run, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fail(run, QUIRE_INVALID, fmt, args);
    __builtin_unreachable();
}

static _Noreturn void raise_status(qr_jrun *run, quire_status status, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fail(run, status, fmt, args);
    __builtin_unreachable();
}

void qr_jrun_limit(qr_jrun *run, const char *what) { raise_status(run, QUIRE_UNSUPPORTED, "%s", what); }

void qr_jrun_nomem(qr_jrun *run, size_t bytes) { raise_status(run, QUIRE_NOMEM, "out of memory: %zu bytes", bytes); }

void qr_jrun_raise_undefined(qr_jrun *run, qr_jval value)
{
    if (value.tag == QR_J_UNDEF_NAME) qr_jrun_raise(run, "'%.*s' is undefined", (int)value.bytes, value.text);
    if (value.tag == QR_J_UNDEF_HINT) qr_jrun_raise(run, "%.*s", (int)value.bytes, value.text);
    qr_jval obj = {.kind = (uint8_t)(value.tag - QR_J_UNDEF_ATTR)};
    qr_jrun_raise(run, "'%s object' has no attribute '%.*s'", qr_jval_type(obj), (int)value.bytes, value.text);
}

void *qr_jrun_alloc(qr_jrun *run, size_t bytes)
{
    qr_jarena *arena = run->arena;
    if (bytes > arena->max_bytes) qr_jrun_limit(run, "the template needs too much memory");
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (bytes > (size_t)(arena->end - arena->cursor)) {
        size_t chunk_bytes = bytes + sizeof(qr_jchunk) + ALIGN;
        if (chunk_bytes < CHUNK_BYTES) chunk_bytes = CHUNK_BYTES;
        if (chunk_bytes > arena->max_bytes - arena->total_bytes)
            qr_jrun_limit(run, "the template needs too much memory");
        qr_jchunk *chunk = qr_malloc(chunk_bytes);
        if (!chunk) qr_jrun_nomem(run, chunk_bytes);
        *chunk = (qr_jchunk){arena->chunks, chunk_bytes};
        arena->chunks = chunk;
        arena->total_bytes += chunk_bytes;
        arena->cursor = (char *)(((uintptr_t)(chunk + 1) + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1));
        arena->end = (char *)chunk + chunk_bytes;
    }
    void *ptr = arena->cursor;
    arena->cursor += bytes;
    return ptr;
}

void *qr_jrun_calloc(qr_jrun *run, size_t bytes) { return memset(qr_jrun_alloc(run, bytes), 0, bytes); }

void qr_jrun_charge(qr_jrun *run, uint64_t num_steps)
{
    run->num_steps += num_steps;
    if (run->num_steps > QR_J_MAX_STEPS) qr_jrun_limit(run, "the template runs for too many steps");
}

void qr_jrun_enter(qr_jrun *run)
{
    if (++run->depth > run->max_depth) qr_jrun_limit(run, "the template is nested or recurses too deeply");
}

/* ---- constructors ------------------------------------------------------------------------------------------- */

qr_jval qr_jval_none(void) { return (qr_jval){.kind = QR_J_NONE}; }
qr_jval qr_jval_bool(bool value) { return (qr_jval){.kind = QR_J_BOOL, .boolean = value}; }
qr_jval qr_jval_int(int64_t value) { return (qr_jval){.kind = QR_J_INT, .integer = value}; }
qr_jval qr_jval_float(double value) { return (qr_jval){.kind = QR_J_FLOAT, .real = value}; }

qr_jval qr_jval_str(qr_jrun *run, const char *text, size_t bytes)
{
    if (bytes > UINT32_MAX) qr_jrun_limit(run, "a string is longer than 4 GiB");
    return (qr_jval){.kind = QR_J_STR, .bytes = (uint32_t)bytes, .text = text};
}

qr_jval qr_jval_cstr(const char *text)
{
    return (qr_jval){.kind = QR_J_STR, .bytes = (uint32_t)strlen(text), .text = text};
}

qr_jval qr_jval_hint(const char *message)
{
    return (qr_jval){
        .kind = QR_J_UNDEFINED, .tag = QR_J_UNDEF_HINT, .bytes = (uint32_t)strlen(message), .text = message};
}

qr_jval qr_jval_list(qr_jkind kind, qr_jlist *list) { return (qr_jval){.kind = (uint8_t)kind, .list = list}; }
qr_jval qr_jval_dict(qr_jkind kind, qr_jdict *dict) { return (qr_jval){.kind = (uint8_t)kind, .dict = dict}; }
qr_jval qr_jval_function(const qr_jfunction *f) { return (qr_jval){.kind = QR_J_FUNCTION, .function = f}; }

const char *qr_jval_type(qr_jval value)
{
    switch ((qr_jkind)value.kind) {
    case QR_J_MISSING:
    case QR_J_UNDEFINED: return "Undefined";
    case QR_J_NONE: return "None";
    case QR_J_BOOL: return "bool";
    case QR_J_INT: return "int";
    case QR_J_FLOAT: return "float";
    case QR_J_STR: return "str";
    case QR_J_LIST: return "list";
    case QR_J_TUPLE: return "tuple";
    case QR_J_DICT: return "dict";
    case QR_J_VIEW:
        return value.tag == QR_J_VIEW_KEYS ? "dict_keys" : value.tag == QR_J_VIEW_ITEMS ? "dict_items" : "dict_values";
    case QR_J_RANGE: return "range";
    case QR_J_NAMESPACE: return "Namespace";
    case QR_J_ITER: return "generator";
    case QR_J_LOOP: return "LoopContext";
    case QR_J_MACRO: return "Macro";
    case QR_J_FUNCTION: return "function";
    case QR_J_METHOD: return "method";
    case QR_J_CYCLER: return "Cycler";
    case QR_J_JOINER: return "Joiner";
    }
    return "object";
}

/* ---- numbers and order ---------------------------------------------------------------------------------------- */

bool qr_jval_is_number(qr_jval v) { return v.kind == QR_J_BOOL || v.kind == QR_J_INT || v.kind == QR_J_FLOAT; }

double qr_jval_real(qr_jval v)
{
    if (v.kind == QR_J_FLOAT) return v.real;
    return v.kind == QR_J_BOOL ? (double)v.boolean : (double)v.integer;
}

int64_t qr_jval_to_int(qr_jrun *run, qr_jval v, const char *what)
{
    if (v.kind == QR_J_INT) return v.integer;
    if (v.kind == QR_J_BOOL) return v.boolean;
    if (v.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, v);
    qr_jrun_raise(run, "%s must be an integer, not '%s'", what, qr_jval_type(v));
}

/* int against float without rounding the int; 2 for nan */
static int compare_int_real(int64_t i, double d)
{
    if (isnan(d)) return 2;
    if (d >= 9223372036854775808.0) return -1;
    if (d < -9223372036854775808.0) return 1;
    int64_t whole = (int64_t)d;
    if (i != whole) return i < whole ? -1 : 1;
    double rest = d - (double)whole;
    return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

static int compare_numbers(qr_jval a, qr_jval b)
{
    if (a.kind == QR_J_FLOAT && b.kind == QR_J_FLOAT) {
        if (isnan(a.real) || isnan(b.real)) return 2;
        return a.real < b.real ? -1 : a.real > b.real;
    }
    if (a.kind == QR_J_FLOAT) {
        int c = compare_int_real(b.kind == QR_J_BOOL ? b.boolean : b.integer, a.real);
        return c == 2 ? 2 : -c;
    }
    int64_t ai = a.kind == QR_J_BOOL ? a.boolean : a.integer;
    if (b.kind == QR_J_FLOAT) return compare_int_real(ai, b.real);
    int64_t bi = b.kind == QR_J_BOOL ? b.boolean : b.integer;
    return ai < bi ? -1 : ai > bi;
}

static int compare_text(qr_jrun *run, qr_jval a, qr_jval b)
{
    uint32_t bytes = a.bytes < b.bytes ? a.bytes : b.bytes;
    qr_jrun_charge_bytes(run, bytes);
    int c = bytes ? memcmp(a.text, b.text, bytes) : 0;
    return c ? c : a.bytes < b.bytes ? -1 : a.bytes > b.bytes;
}

static bool equal_dicts(qr_jrun *run, const qr_jdict *a, const qr_jdict *b)
{
    if (a->num != b->num) return false;
    for (size_t i = 0; i < a->num; i++) {
        const qr_jval *other = qr_jdict_find(run, b, a->pairs[i].key);
        if (!other || !qr_jval_equal(run, a->pairs[i].value, *other)) return false;
    }
    return true;
}

static bool equal_deep(qr_jrun *run, qr_jval a, qr_jval b)
{
    if (a.kind == QR_J_DICT) return equal_dicts(run, a.dict, b.dict);
    if (a.kind == QR_J_VIEW && (a.tag != b.tag || a.tag == QR_J_VIEW_VALUES)) return a.dict == b.dict && a.tag == b.tag;
    if (a.kind == QR_J_VIEW && a.tag == QR_J_VIEW_ITEMS) return equal_dicts(run, a.dict, b.dict);
    if (a.kind == QR_J_VIEW) {
        if (a.dict->num != b.dict->num) return false;
        for (size_t i = 0; i < a.dict->num; i++)
            if (!qr_jdict_find(run, b.dict, a.dict->pairs[i].key)) return false;
        return true;
    }
    if (qr_jval_len(a) != qr_jval_len(b)) return false;
    size_t num = (size_t)qr_jval_len(a);
    for (size_t i = 0; i < num; i++)
        if (!qr_jval_equal(run, qr_jval_at(a, i), qr_jval_at(b, i))) return false;
    return true;
}

bool qr_jval_equal(qr_jrun *run, qr_jval a, qr_jval b)
{
    qr_jrun_charge(run, 1);
    if (qr_jval_is_number(a) && qr_jval_is_number(b)) return compare_numbers(a, b) == 0;
    if (a.kind != b.kind) return false;
    switch ((qr_jkind)a.kind) {
    case QR_J_STR:
        if (a.bytes != b.bytes) return false;
        return compare_text(run, a, b) == 0;
    case QR_J_NONE:
    case QR_J_MISSING:
    case QR_J_UNDEFINED: return true;
    case QR_J_LIST:
    case QR_J_TUPLE:
    case QR_J_RANGE:
    case QR_J_VIEW:
    case QR_J_DICT: {
        qr_jrun_enter(run);
        bool equal = equal_deep(run, a, b);
        qr_jrun_leave(run);
        return equal;
    }
    case QR_J_METHOD:
        return a.method->function == b.method->function && qr_jval_equal(run, a.method->self, b.method->self);
    default: return a.list == b.list; /* the same object */
    }
}

int qr_jval_compare(qr_jrun *run, qr_jval a, qr_jval b, const char *op, bool *unordered)
{
    qr_jrun_charge(run, 1);
    *unordered = false;
    if (qr_jval_is_number(a) && qr_jval_is_number(b)) {
        int c = compare_numbers(a, b);
        *unordered = c == 2;
        return c == 2 ? 0 : c;
    }
    if (a.kind == QR_J_STR && b.kind == QR_J_STR) return compare_text(run, a, b);
    if (a.kind == b.kind && (a.kind == QR_J_LIST || a.kind == QR_J_TUPLE)) {
        size_t num = a.list->num < b.list->num ? a.list->num : b.list->num;
        qr_jrun_enter(run);
        int c = 0;
        for (size_t i = 0; i < num && c == 0 && !*unordered; i++)
            if (!qr_jval_equal(run, a.list->items[i], b.list->items[i]))
                c = qr_jval_compare(run, a.list->items[i], b.list->items[i], op, unordered);
        qr_jrun_leave(run);
        return c || *unordered ? c : a.list->num < b.list->num ? -1 : a.list->num > b.list->num;
    }
    if (a.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, a);
    if (b.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, b);
    qr_jrun_raise(run, "'%s' not supported between '%s' and '%s'", op, qr_jval_type(a), qr_jval_type(b));
}

bool qr_jval_less(qr_jrun *run, qr_jval a, qr_jval b)
{
    bool unordered;
    return qr_jval_compare(run, a, b, "<", &unordered) < 0 && !unordered;
}

bool qr_jval_truth(qr_jrun *run, qr_jval v)
{
    (void)run;
    switch ((qr_jkind)v.kind) {
    case QR_J_MISSING:
    case QR_J_UNDEFINED:
    case QR_J_NONE: return false;
    case QR_J_BOOL: return v.boolean;
    case QR_J_INT: return v.integer != 0;
    case QR_J_FLOAT: return v.real != 0;
    case QR_J_STR: return v.bytes != 0;
    case QR_J_LIST:
    case QR_J_TUPLE: return v.list->num != 0;
    case QR_J_DICT:
    case QR_J_VIEW: return v.dict->num != 0;
    case QR_J_RANGE: return v.range->num != 0;
    default: return true;
    }
}

int64_t qr_jval_len(qr_jval v)
{
    switch ((qr_jkind)v.kind) {
    case QR_J_UNDEFINED: return 0;
    case QR_J_STR: {
        int64_t num = 0;
        for (uint32_t i = 0; i < v.bytes; i++) num += ((unsigned char)v.text[i] & 0xC0) != 0x80;
        return num;
    }
    case QR_J_LIST:
    case QR_J_TUPLE: return (int64_t)v.list->num;
    case QR_J_DICT:
    case QR_J_VIEW: return (int64_t)v.dict->num;
    case QR_J_RANGE: return v.range->num;
    default: return -1;
    }
}

qr_jval qr_jval_at(qr_jval seq, size_t idx)
{
    if (seq.kind == QR_J_RANGE) return qr_jval_int(seq.range->start + (int64_t)idx * seq.range->step);
    return seq.list->items[idx];
}

static bool range_contains(const qr_jrange *range, qr_jval item)
{
    if (item.kind == QR_J_FLOAT) {
        if (item.real != floor(item.real) || fabs(item.real) > 1e15) return false;
        item = qr_jval_int((int64_t)item.real);
    }
    if (item.kind != QR_J_INT && item.kind != QR_J_BOOL) return false;
    int64_t i = item.kind == QR_J_BOOL ? item.boolean : item.integer;
    __int128 off = (__int128)i - range->start;
    return off % range->step == 0 && off / range->step >= 0 && off / range->step < range->num;
}

bool qr_jval_contains(qr_jrun *run, qr_jval c, qr_jval item)
{
    switch ((qr_jkind)c.kind) {
    case QR_J_UNDEFINED: return false;
    case QR_J_STR:
        if (item.kind != QR_J_STR)
            qr_jrun_raise(run, "'in <string>' requires string as left operand, not %s", qr_jval_type(item));
        qr_jrun_charge_bytes(run, c.bytes);
        return item.bytes == 0 || memmem(c.text, c.bytes, item.text, item.bytes) != NULL;
    case QR_J_RANGE: return range_contains(c.range, item);
    case QR_J_DICT: return qr_jdict_find(run, c.dict, item) != NULL;
    default: break;
    }
    qr_jiter *iter = qr_jiter_of(run, c);
    qr_jval element;
    while (qr_jiter_next(run, iter, &element))
        if (qr_jval_equal(run, element, item)) return true;
    return false;
}

/* ---- lists, dicts, arguments -------------------------------------------------------------------------------- */

static void *grow(qr_jrun *run, const void *old, size_t num, size_t *cap, size_t size)
{
    size_t more = *cap ? *cap * 2 : 4;
    void *items = qr_jrun_alloc(run, more * size);
    if (num) memcpy(items, old, num * size);
    *cap = more;
    return items;
}

qr_jlist *qr_jlist_create(qr_jrun *run, size_t cap)
{
    qr_jlist *list = qr_jrun_alloc(run, sizeof *list);
    *list = (qr_jlist){.cap = cap};
    if (cap > QR_J_MAX_RENDER_BYTES / sizeof(qr_jval)) qr_jrun_limit(run, "a list is too long");
    if (cap) list->items = qr_jrun_alloc(run, cap * sizeof *list->items);
    return list;
}

void qr_jlist_add(qr_jrun *run, qr_jlist *list, qr_jval value)
{
    qr_jrun_charge(run, 1);
    if (list->num == list->cap) list->items = grow(run, list->items, list->num, &list->cap, sizeof *list->items);
    list->items[list->num++] = value;
}

qr_jdict *qr_jdict_create(qr_jrun *run, size_t cap)
{
    qr_jdict *dict = qr_jrun_alloc(run, sizeof *dict);
    *dict = (qr_jdict){.cap = cap};
    if (cap > QR_J_MAX_RENDER_BYTES / sizeof(qr_jpair)) qr_jrun_limit(run, "a dict is too large");
    if (cap) dict->pairs = qr_jrun_alloc(run, cap * sizeof *dict->pairs);
    return dict;
}

static void require_hashable(qr_jrun *run, qr_jval key)
{
    if (key.kind == QR_J_LIST || key.kind == QR_J_DICT || key.kind == QR_J_VIEW)
        qr_jrun_raise(run, "unhashable type: '%s'", qr_jval_type(key));
    if (key.kind != QR_J_TUPLE) return;
    qr_jrun_enter(run);
    for (size_t i = 0; i < key.list->num; i++) require_hashable(run, key.list->items[i]);
    qr_jrun_leave(run);
}

qr_jval *qr_jdict_find_text(qr_jrun *run, const qr_jdict *dict, const char *key, size_t bytes)
{
    qr_jrun_charge(run, dict->num / 16 + 1);
    for (size_t i = 0; i < dict->num; i++)
        if (qr_jval_is_text(dict->pairs[i].key, key, bytes)) return &dict->pairs[i].value;
    return NULL;
}

qr_jval *qr_jdict_find(qr_jrun *run, const qr_jdict *dict, qr_jval key)
{
    if (key.kind == QR_J_STR) return qr_jdict_find_text(run, dict, key.text, key.bytes);
    require_hashable(run, key);
    for (size_t i = 0; i < dict->num; i++)
        if (qr_jval_equal(run, dict->pairs[i].key, key)) return &dict->pairs[i].value;
    return NULL;
}

void qr_jdict_set(qr_jrun *run, qr_jdict *dict, qr_jval key, qr_jval value)
{
    qr_jval *found = qr_jdict_find(run, dict, key);
    if (found) {
        *found = value;
        return;
    }
    if (dict->num == dict->cap) dict->pairs = grow(run, dict->pairs, dict->num, &dict->cap, sizeof *dict->pairs);
    dict->pairs[dict->num++] = (qr_jpair){key, value};
}

qr_jval qr_jdict_view_at(qr_jrun *run, qr_jval view, size_t idx)
{
    const qr_jpair *pair = &view.dict->pairs[idx];
    if (view.tag == QR_J_VIEW_KEYS) return pair->key;
    if (view.tag == QR_J_VIEW_VALUES) return pair->value;
    qr_jlist *tuple = qr_jlist_create(run, 2);
    qr_jlist_add(run, tuple, pair->key);
    qr_jlist_add(run, tuple, pair->value);
    return qr_jval_list(QR_J_TUPLE, tuple);
}

/* The idx-th word of names; NULL past the end. */
static const char *nth_name(const char *names, size_t idx, size_t *bytes)
{
    for (;; idx--) {
        if (*names == '\0') return NULL;
        *bytes = strcspn(names, " ");
        if (idx == 0) return names;
        names += *bytes;
        names += strspn(names, " ");
    }
}

void qr_jargs_bind(qr_jrun *run, const qr_jargs *args, const char *what, const char *names, size_t num_required,
                   qr_jval *out)
{
    bool positional_only = names[0] == '/';
    if (positional_only) names++;
    size_t num_names = 0, bytes = 0;
    while (nth_name(names, num_names, &bytes)) out[num_names++] = (qr_jval){.kind = QR_J_MISSING};
    if (args->num_pos > num_names)
        qr_jrun_raise(run, "%s takes at most %zu arguments (%zu given)", what, num_names, args->num_pos);
    for (size_t i = 0; i < args->num_pos; i++) out[i] = args->pos[i];
    for (size_t k = 0; k < args->num_kw; k++) {
        qr_jval key = args->kw[k].key;
        size_t idx = 0;
        const char *name;
        while ((name = nth_name(names, idx, &bytes)) && !qr_jval_is_text(key, name, bytes)) idx++;
        if (!name || positional_only)
            qr_jrun_raise(run, "%s got an unexpected keyword argument '%.*s'", what, (int)key.bytes, key.text);
        if (out[idx].kind != QR_J_MISSING)
            qr_jrun_raise(run, "%s got multiple values for argument '%.*s'", what, (int)key.bytes, key.text);
        out[idx] = args->kw[k].value;
    }
    for (size_t i = 0; i < num_required; i++) {
        if (out[i].kind != QR_J_MISSING) continue;
        const char *name = nth_name(names, i, &bytes);
        qr_jrun_raise(run, "%s: missing argument '%.*s'", what, (int)bytes, name ? name : "");
    }
}
