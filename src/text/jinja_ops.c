#include <math.h>
#include <string.h>

#include "text/jinja_library.h"
#include "text/jinja_text.h"

/* ---- arithmetic ------------------------------------------------------------------------------------------------- */

static _Noreturn void raise_overflow(qr_jrun *run) { qr_jrun_limit(run, "an integer does not fit into 64 bits"); }

static int64_t int_of(qr_jval v) { return v.kind == QR_J_BOOL ? v.boolean : v.integer; }

static int64_t int_pow(qr_jrun *run, int64_t base, int64_t exp)
{
    int64_t result = 1;
    while (exp > 0) {
        if ((exp & 1) && __builtin_mul_overflow(result, base, &result)) raise_overflow(run);
        exp >>= 1;
        if (exp && __builtin_mul_overflow(base, base, &base)) raise_overflow(run);
    }
    return result;
}

static qr_jval arith_ints(qr_jrun *run, const char *op, int64_t a, int64_t b)
{
    int64_t r = 0;
    bool overflow = false;
    bool floor_div = op[0] == '/' && op[1] == '/';
    if (op[0] == '/' || op[0] == '%') {
        if (b == 0) qr_jrun_raise(run, "division by zero");
        if (!floor_div && op[0] == '/') return qr_jval_float((double)a / (double)b);
        if (b == -1) { /* INT64_MIN / -1 traps */
            overflow = floor_div && __builtin_sub_overflow((int64_t)0, a, &r);
        } else {
            int64_t quotient = a / b, rest = a % b;
            bool adjust = rest != 0 && (rest < 0) != (b < 0);
            r = floor_div ? quotient - adjust : rest + (adjust ? b : 0);
        }
    } else if (op[0] == '*' && op[1] == '*') {
        if (b < 0 && a == 0) qr_jrun_raise(run, "0.0 cannot be raised to a negative power");
        if (b < 0) return qr_jval_float(pow((double)a, (double)b));
        r = int_pow(run, a, b);
    } else if (op[0] == '+') {
        overflow = __builtin_add_overflow(a, b, &r);
    } else if (op[0] == '-') {
        overflow = __builtin_sub_overflow(a, b, &r);
    } else {
        overflow = __builtin_mul_overflow(a, b, &r);
    }
    if (overflow) raise_overflow(run);
    return qr_jval_int(r);
}

static double float_mod(double a, double b)
{
    double r = fmod(a, b);
    if (r == 0) return copysign(0, b);
    return (r < 0) != (b < 0) ? r + b : r;
}

static qr_jval arith_floats(qr_jrun *run, const char *op, double a, double b)
{
    if ((op[0] == '/' || op[0] == '%') && b == 0) qr_jrun_raise(run, "float division by zero");
    if (op[0] == '%') return qr_jval_float(float_mod(a, b));
    if (op[0] == '/' && op[1] == '/') {
        double quotient = (a - float_mod(a, b)) / b, whole = floor(quotient);
        if (quotient == 0) return qr_jval_float(copysign(0, a / b));
        return qr_jval_float(quotient - whole > 0.5 ? whole + 1 : whole);
    }
    if (op[0] == '/') return qr_jval_float(a / b);
    if (op[0] == '+') return qr_jval_float(a + b);
    if (op[0] == '-') return qr_jval_float(a - b);
    if (op[1] != '*') return qr_jval_float(a * b);
    if (a == 0 && b < 0) qr_jrun_raise(run, "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b)) qr_jrun_raise(run, "complex numbers are not supported");
    double result = pow(a, b);
    if (isinf(result) && isfinite(a) && isfinite(b)) qr_jrun_raise(run, "(34, 'Numerical result out of range')");
    return qr_jval_float(result);
}

static qr_jval concat_text(qr_jrun *run, qr_jval a, qr_jval b)
{
    bool safe = a.tag == QR_J_SAFE || b.tag == QR_J_SAFE; /* markup escapes what it is joined with */
    if (safe) {
        a = qr_jtext_escape(run, a);
        b = qr_jtext_escape(run, b);
    }
    size_t bytes = (size_t)a.bytes + b.bytes;
    qr_jrun_charge_bytes(run, bytes);
    char *text = qr_jrun_alloc(run, bytes);
    if (a.bytes) memcpy(text, a.text, a.bytes);
    if (b.bytes) memcpy(text + a.bytes, b.text, b.bytes);
    qr_jval result = qr_jval_str(run, text, bytes);
    result.tag = safe ? QR_J_SAFE : QR_J_PLAIN;
    return result;
}

static qr_jval concat_lists(qr_jrun *run, qr_jval a, qr_jval b)
{
    qr_jlist *list = qr_jlist_create(run, a.list->num + b.list->num);
    for (size_t i = 0; i < a.list->num; i++) qr_jlist_add(run, list, a.list->items[i]);
    for (size_t i = 0; i < b.list->num; i++) qr_jlist_add(run, list, b.list->items[i]);
    return qr_jval_list((qr_jkind)a.kind, list);
}

static qr_jval repeat(qr_jrun *run, qr_jval seq, int64_t count)
{
    if (seq.kind == QR_J_STR) {
        qr_jbuild b = {.run = run};
        qr_jbuild_fill(&b, seq.text, seq.bytes, count);
        qr_jval text = qr_jbuild_end(&b);
        text.tag = seq.tag;
        return text;
    }
    qr_jlist *list = qr_jlist_create(run, 0);
    for (int64_t n = 0; n < count && seq.list->num > 0; n++)
        for (size_t i = 0; i < seq.list->num; i++) qr_jlist_add(run, list, seq.list->items[i]);
    return qr_jval_list((qr_jkind)seq.kind, list);
}

static bool is_int(qr_jval v) { return v.kind == QR_J_INT || v.kind == QR_J_BOOL; }
static bool repeats(qr_jval v) { return v.kind == QR_J_STR || v.kind == QR_J_LIST || v.kind == QR_J_TUPLE; }

qr_jval qr_jval_arith(qr_jrun *run, const char *op, qr_jval a, qr_jval b)
{
    if (is_int(a) && is_int(b)) return arith_ints(run, op, int_of(a), int_of(b));
    if (qr_jval_is_number(a) && qr_jval_is_number(b)) return arith_floats(run, op, qr_jval_real(a), qr_jval_real(b));
    if (op[0] == '%' && a.kind == QR_J_STR) return qr_jformat_percent(run, a, b);
    if (a.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, a);
    if (b.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, b);
    if (op[0] == '+' && a.kind == b.kind) {
        if (a.kind == QR_J_STR) return concat_text(run, a, b);
        if (a.kind == QR_J_LIST || a.kind == QR_J_TUPLE) return concat_lists(run, a, b);
    }
    if (op[0] == '*' && op[1] != '*') {
        if (repeats(a) && is_int(b)) return repeat(run, a, int_of(b));
        if (is_int(a) && repeats(b)) return repeat(run, b, int_of(a));
    }
    qr_jrun_raise(run, "unsupported operand type(s) for %s: '%s' and '%s'", op, qr_jval_type(a), qr_jval_type(b));
}

qr_jval qr_jval_negate(qr_jrun *run, qr_jval a)
{
    if (a.kind == QR_J_FLOAT) return qr_jval_float(-a.real);
    if (is_int(a)) return arith_ints(run, "-", 0, int_of(a));
    if (a.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, a);
    qr_jrun_raise(run, "bad operand type for unary -: '%s'", qr_jval_type(a));
}

/* ---- attributes and elements ------------------------------------------------------------------------------------ */

static qr_jval no_attribute(qr_jval obj, qr_jval name)
{
    return (qr_jval){
        .kind = QR_J_UNDEFINED, .tag = (uint8_t)(QR_J_UNDEF_ATTR + obj.kind), .bytes = name.bytes, .text = name.text};
}

/* The attribute of the type itself, as Python's getattr() sees it. */
static qr_jval own_attribute(qr_jrun *run, qr_jval obj, qr_jval name)
{
    qr_jval found = {.kind = QR_J_MISSING};
    if (obj.kind == QR_J_LOOP) found = qr_jloop_attr(run, obj.loop, name.text, name.bytes);
    if (obj.kind == QR_J_CYCLER) found = qr_jcycler_attr(run, obj, name.text, name.bytes);
    if (obj.kind == QR_J_MACRO) found = qr_jmacro_attr(run, obj.macro, name.text, name.bytes);
    if (obj.kind == QR_J_NAMESPACE) {
        const qr_jval *value = qr_jdict_find_text(run, obj.dict, name.text, name.bytes);
        if (value) found = *value;
    }
    if (obj.kind == QR_J_TUPLE && obj.tag == QR_J_TUPLE_GROUP) {
        if (qr_jval_is_text(name, "grouper", 7)) found = obj.list->items[0];
        if (qr_jval_is_text(name, "list", 4)) found = obj.list->items[1];
    }
    return found.kind == QR_J_MISSING ? qr_jmethod_find(run, obj, name.text, name.bytes) : found;
}

static bool is_dunder(qr_jval name)
{
    return name.bytes > 4 && memcmp(name.text, "__", 2) == 0 && memcmp(name.text + name.bytes - 2, "__", 2) == 0;
}

qr_jval qr_jval_attr(qr_jrun *run, qr_jval obj, qr_jval name)
{
    if (obj.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, obj);
    qr_jval found = own_attribute(run, obj, name);
    if (found.kind != QR_J_MISSING) return found;
    if (obj.kind == QR_J_DICT) {
        const qr_jval *value = qr_jdict_find_text(run, obj.dict, name.text, name.bytes);
        if (value) return *value;
    }
    if (is_dunder(name)) return qr_jval_hint("access to Python's internal attributes is unsafe.");
    return no_attribute(obj, name);
}

/* obj[index] as Python's __getitem__; MISSING where it raises LookupError or TypeError. */
static qr_jval subscript(qr_jrun *run, qr_jval obj, qr_jval index)
{
    qr_jval missing = {.kind = QR_J_MISSING};
    if (obj.kind == QR_J_DICT) {
        if (index.kind == QR_J_LIST || index.kind == QR_J_DICT || index.kind == QR_J_VIEW) return missing;
        const qr_jval *value = qr_jdict_find(run, obj.dict, index);
        return value ? *value : missing;
    }
    if ((!qr_jval_is_seq(obj) && obj.kind != QR_J_STR) || !is_int(index)) return missing;
    int64_t idx = int_of(index), len = qr_jval_len(obj);
    if (obj.kind == QR_J_STR) qr_jrun_charge_bytes(run, obj.bytes);
    if (idx < 0) idx += len;
    if (idx < 0 || idx >= len) return missing;
    return obj.kind == QR_J_STR ? qr_jtext_slice(run, obj, idx, 1, 1) : qr_jval_at(obj, (size_t)idx);
}

qr_jval qr_jval_item(qr_jrun *run, qr_jval obj, qr_jval index)
{
    if (obj.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, obj);
    qr_jval found = subscript(run, obj, index);
    if (found.kind == QR_J_MISSING && index.kind == QR_J_STR) found = own_attribute(run, obj, index);
    if (found.kind != QR_J_MISSING) return found;
    return no_attribute(obj, qr_jtext_repr(run, index));
}

/* One bound of a slice of len elements, as Python's slice.indices(). */
static int64_t slice_bound(qr_jrun *run, qr_jval bound, int64_t len, bool backwards, bool is_start)
{
    int64_t low = backwards ? -1 : 0, high = backwards ? len - 1 : len;
    if (bound.kind == QR_J_NONE) return is_start == backwards ? high : low;
    int64_t idx = qr_jval_to_int(run, bound, "a slice index");
    if (idx < 0) idx = idx < -len ? low : idx + len;
    if (idx < low) return low;
    return idx > high ? high : idx;
}

qr_jval qr_jval_slice(qr_jrun *run, qr_jval obj, qr_jval start, qr_jval stop, qr_jval step_val)
{
    if (obj.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, obj);
    if (!qr_jval_is_seq(obj) && obj.kind != QR_J_STR)
        qr_jrun_raise(run, "'%s' object cannot be sliced", qr_jval_type(obj));
    int64_t step = step_val.kind == QR_J_NONE ? 1 : qr_jval_to_int(run, step_val, "a slice step");
    if (step == 0) qr_jrun_raise(run, "slice step cannot be zero");
    if (step < -INT32_MAX) step = -INT32_MAX; /* longer than any sequence */
    if (step > INT32_MAX) step = INT32_MAX;
    int64_t len = qr_jval_len(obj);
    int64_t from = slice_bound(run, start, len, step < 0, true), to = slice_bound(run, stop, len, step < 0, false);
    int64_t span = step > 0 ? to - from : from - to, stride = step > 0 ? step : -step;
    int64_t num = span > 0 ? (span + stride - 1) / stride : 0;
    if (obj.kind == QR_J_STR) return qr_jtext_slice(run, obj, from, num, step);
    if (obj.kind == QR_J_RANGE) {
        qr_jrange *range = qr_jrun_alloc(run, sizeof *range);
        int64_t base = obj.range->start, unit = obj.range->step;
        if (__builtin_mul_overflow(unit, step, &range->step)) raise_overflow(run);
        *range = (qr_jrange){base + from * unit, base + to * unit, range->step, num};
        return (qr_jval){.kind = QR_J_RANGE, .range = range};
    }
    qr_jlist *list = qr_jlist_create(run, (size_t)num);
    for (int64_t i = 0; i < num; i++) qr_jlist_add(run, list, qr_jval_at(obj, (size_t)(from + i * step)));
    return qr_jval_list(obj.kind == QR_J_LIST ? QR_J_LIST : QR_J_TUPLE, list);
}

/* ---- sorting ---------------------------------------------------------------------------------------------------- */

typedef struct sort_item {
    qr_jval item, key;
} sort_item;

static void sort_run(qr_jrun *run, sort_item *items, sort_item *scratch, size_t num, bool reverse)
{
    if (num < 2) return;
    size_t half = num / 2, a = 0, b = half, n = 0;
    sort_run(run, items, scratch, half, reverse);
    sort_run(run, items + half, scratch, num - half, reverse);
    while (a < half && b < num) {
        bool take_b =
            reverse ? qr_jval_less(run, items[a].key, items[b].key) : qr_jval_less(run, items[b].key, items[a].key);
        scratch[n++] = items[take_b ? b++ : a++];
    }
    while (a < half) scratch[n++] = items[a++];
    while (b < num) scratch[n++] = items[b++];
    memcpy(items, scratch, num * sizeof *items);
}

void qr_jval_sort(qr_jrun *run, qr_jval *items, qr_jval *keys, size_t num, bool reverse)
{
    sort_item *both = qr_jrun_alloc(run, 2 * num * sizeof *both);
    for (size_t i = 0; i < num; i++) both[i] = (sort_item){items[i], keys[i]};
    sort_run(run, both, both + num, num, reverse);
    for (size_t i = 0; i < num; i++) {
        items[i] = both[i].item;
        keys[i] = both[i].key;
    }
}
