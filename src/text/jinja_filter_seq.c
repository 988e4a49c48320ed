#include <string.h>

#include "text/jinja_library.h"
#include "text/jinja_text.h"

static bool given(qr_jval v) { return v.kind != QR_J_MISSING; }
static bool wanted(qr_jval v) { return v.kind != QR_J_MISSING && v.kind != QR_J_NONE; }
static void no_args(qr_jrun *run, const qr_jargs *args, const char *what)
{
    qr_jargs_bind(run, args, what, "", 0, NULL);
}

static qr_jval lowered(qr_jrun *run, qr_jval v) { return v.kind == QR_J_STR ? qr_jtext_case(run, v, QR_J_LOWER) : v; }

/* ---- attribute paths: "function.name", "args.0", 0 ----------------------------------------------------------------
 */

static qr_jval follow_path(qr_jrun *run, qr_jval item, qr_jval path, qr_jval otherwise)
{
    if (!wanted(path)) return item;
    if (path.kind != QR_J_STR) {
        item = qr_jval_item(run, item, path);
        return item.kind == QR_J_UNDEFINED && wanted(otherwise) ? otherwise : item;
    }
    for (uint32_t start = 0; start <= path.bytes;) {
        const char *dot = memchr(path.text + start, '.', path.bytes - start);
        uint32_t end = dot ? (uint32_t)(dot - path.text) : path.bytes;
        qr_jval part = qr_jval_str(run, path.text + start, end - start);
        int64_t idx = 0;
        if (qr_jtext_is(part, QR_J_DIGIT) && qr_jtext_to_int(run, part, 10, &idx)) part = qr_jval_int(idx);
        item = qr_jval_item(run, item, part);
        if (item.kind == QR_J_UNDEFINED && wanted(otherwise)) item = otherwise;
        start = end + 1;
    }
    return item;
}

static qr_jval key_of(qr_jrun *run, qr_jval item, qr_jval path, qr_jval otherwise, bool case_sensitive)
{
    qr_jval key = follow_path(run, item, path, otherwise);
    return case_sensitive ? key : lowered(run, key);
}

/* ---- order ------------------------------------------------------------------------------------------------------ */

/* The key of sort(attribute="a,b"): a list of values. */
static qr_jval sort_key(qr_jrun *run, qr_jval item, qr_jval paths, bool case_sensitive)
{
    qr_jlist *key = qr_jlist_create(run, 1);
    qr_jval none = qr_jval_none();
    if (paths.kind != QR_J_STR) {
        qr_jlist_add(run, key, key_of(run, item, paths, none, case_sensitive));
        return qr_jval_list(QR_J_LIST, key);
    }
    for (uint32_t start = 0; start <= paths.bytes;) {
        const char *comma = memchr(paths.text + start, ',', paths.bytes - start);
        uint32_t end = comma ? (uint32_t)(comma - paths.text) : paths.bytes;
        qr_jval path = qr_jval_str(run, paths.text + start, end - start);
        qr_jlist_add(run, key, key_of(run, item, path, none, case_sensitive));
        start = end + 1;
    }
    return qr_jval_list(QR_J_LIST, key);
}

static qr_jval do_sort(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[3];
    qr_jargs_bind(run, args, "sort", "reverse case_sensitive attribute", 0, a);
    qr_jlist *list = qr_jiter_collect(run, value);
    qr_jlist *keys = qr_jlist_create(run, list->num);
    bool case_sensitive = qr_jval_truth(run, a[1]);
    for (size_t i = 0; i < list->num; i++) qr_jlist_add(run, keys, sort_key(run, list->items[i], a[2], case_sensitive));
    qr_jval_sort(run, list->items, keys->items, list->num, qr_jval_truth(run, a[0]));
    return qr_jval_list(QR_J_LIST, list);
}

static qr_jval do_dictsort(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[3];
    qr_jargs_bind(run, args, "dictsort", "case_sensitive by reverse", 0, a);
    bool by_value = qr_jval_is_text(a[1], "value", 5);
    if (given(a[1]) && !by_value && !qr_jval_is_text(a[1], "key", 3))
        qr_jrun_raise(run, "You can only sort by either \"key\" or \"value\"");
    if (value.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, value);
    if (value.kind != QR_J_DICT) qr_jrun_raise(run, "'%s' object has no attribute 'items'", qr_jval_type(value));
    qr_jval view = {.kind = QR_J_VIEW, .tag = QR_J_VIEW_ITEMS, .dict = value.dict};
    qr_jlist *list = qr_jiter_collect(run, view), *keys = qr_jlist_create(run, list->num);
    for (size_t i = 0; i < list->num; i++) {
        qr_jval key = list->items[i].list->items[by_value];
        qr_jlist_add(run, keys, qr_jval_truth(run, a[0]) ? key : lowered(run, key));
    }
    qr_jval_sort(run, list->items, keys->items, list->num, qr_jval_truth(run, a[2]));
    return qr_jval_list(QR_J_LIST, list);
}

static qr_jval min_or_max(qr_jrun *run, qr_jval value, const qr_jargs *args, bool max)
{
    qr_jval a[2], item, best, best_key;
    qr_jargs_bind(run, args, max ? "max" : "min", "case_sensitive attribute", 0, a);
    bool case_sensitive = qr_jval_truth(run, a[0]);
    qr_jiter *iter = qr_jiter_of(run, value);
    if (!qr_jiter_next(run, iter, &best)) return qr_jval_hint("No aggregated item, sequence was empty.");
    best_key = key_of(run, best, a[1], qr_jval_none(), case_sensitive);
    while (qr_jiter_next(run, iter, &item)) {
        qr_jval key = key_of(run, item, a[1], qr_jval_none(), case_sensitive);
        bool better = max ? qr_jval_less(run, best_key, key) : qr_jval_less(run, key, best_key);
        if (!better) continue;
        best = item;
        best_key = key;
    }
    return best;
}

static qr_jval do_min(qr_jrun *run, qr_jval value, const qr_jargs *args) { return min_or_max(run, value, args, false); }
static qr_jval do_max(qr_jrun *run, qr_jval value, const qr_jargs *args) { return min_or_max(run, value, args, true); }

static qr_jval do_groupby(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[3];
    qr_jargs_bind(run, args, "groupby", "attribute default case_sensitive", 1, a);
    bool case_sensitive = qr_jval_truth(run, a[2]);
    qr_jlist *list = qr_jiter_collect(run, value), *keys = qr_jlist_create(run, list->num);
    for (size_t i = 0; i < list->num; i++)
        qr_jlist_add(run, keys, key_of(run, list->items[i], a[0], a[1], case_sensitive));
    qr_jval_sort(run, list->items, keys->items, list->num, false);
    qr_jlist *groups = qr_jlist_create(run, 0), *members = NULL;
    for (size_t i = 0; i < list->num; i++) {
        if (i == 0 || !qr_jval_equal(run, keys->items[i], keys->items[i - 1])) {
            members = qr_jlist_create(run, 0);
            qr_jlist *group = qr_jlist_create(run, 2);
            qr_jlist_add(run, group, follow_path(run, list->items[i], a[0], a[1]));
            qr_jlist_add(run, group, qr_jval_list(QR_J_LIST, members));
            qr_jval tuple = qr_jval_list(QR_J_TUPLE, group);
            tuple.tag = QR_J_TUPLE_GROUP;
            qr_jlist_add(run, groups, tuple);
        }
        qr_jlist_add(run, members, list->items[i]);
    }
    return qr_jval_list(QR_J_LIST, groups);
}

/* ---- generators ------------------------------------------------------------------------------------------------- */

typedef struct unique_ctx {
    bool case_sensitive;
    qr_jval path;
    qr_jdict *seen;
} unique_ctx;

static bool unique_step(qr_jrun *run, void *raw, qr_jval item, qr_jval *out)
{
    unique_ctx *ctx = raw;
    qr_jval key = key_of(run, item, ctx->path, qr_jval_none(), ctx->case_sensitive);
    if (qr_jdict_find(run, ctx->seen, key)) return false;
    qr_jdict_set(run, ctx->seen, key, qr_jval_none());
    *out = item;
    return true;
}

static qr_jval do_unique(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[2];
    qr_jargs_bind(run, args, "unique", "case_sensitive attribute", 0, a);
    unique_ctx *ctx = qr_jrun_calloc(run, sizeof *ctx);
    *ctx = (unique_ctx){qr_jval_truth(run, a[0]), a[1], qr_jdict_create(run, 0)};
    return qr_jiter_lazy(run, value, false, unique_step, ctx);
}

/* Arguments kept for a generator's steps. */
typedef struct call_ctx {
    qr_jval name, path, otherwise;
    qr_jargs args;
    bool keep;    /* keep what passes, or what does not */
    bool by_path; /* map(attribute=...) */
} call_ctx;

static qr_jargs copy_args(qr_jrun *run, const qr_jargs *args, size_t skip)
{
    qr_jargs copy = {.num_pos = args->num_pos > skip ? args->num_pos - skip : 0, .num_kw = args->num_kw};
    qr_jval *pos = qr_jrun_alloc(run, copy.num_pos * sizeof *pos);
    qr_jpair *kw = qr_jrun_alloc(run, copy.num_kw * sizeof *kw);
    if (copy.num_pos) memcpy(pos, args->pos + skip, copy.num_pos * sizeof *pos);
    if (copy.num_kw) memcpy(kw, args->kw, copy.num_kw * sizeof *kw);
    copy.pos = pos;
    copy.kw = kw;
    return copy;
}

static bool map_step(qr_jrun *run, void *raw, qr_jval item, qr_jval *out)
{
    call_ctx *ctx = raw;
    if (ctx->by_path) {
        *out = follow_path(run, item, ctx->path, ctx->otherwise);
        return true;
    }
    if (!given(ctx->name)) qr_jrun_raise(run, "map requires a filter argument");
    const qr_jfunction *filter = NULL;
    if (ctx->name.kind == QR_J_STR) filter = qr_jfilter_find(ctx->name.text, ctx->name.bytes);
    if (!filter) {
        qr_jval name = qr_jtext_repr(run, ctx->name);
        qr_jrun_raise(run, "No filter named %.*s.", (int)name.bytes, name.text);
    }
    *out = filter->fn(run, item, &ctx->args);
    return true;
}

static qr_jval do_map(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    call_ctx *ctx = qr_jrun_calloc(run, sizeof *ctx);
    for (size_t i = 0; i < args->num_kw && args->num_pos == 0; i++)
        ctx->by_path |= qr_jval_is_text(args->kw[i].key, "attribute", 9);
    if (ctx->by_path) {
        qr_jval a[2];
        qr_jargs_bind(run, args, "map", "attribute default", 1, a);
        ctx->path = a[0];
        ctx->otherwise = a[1];
    } else {
        if (args->num_pos) ctx->name = args->pos[0];
        ctx->args = copy_args(run, args, 1);
    }
    return qr_jiter_lazy(run, value, true, map_step, ctx);
}

static bool select_step(qr_jrun *run, void *raw, qr_jval item, qr_jval *out)
{
    call_ctx *ctx = raw;
    qr_jval tested = item;
    if (ctx->by_path) {
        if (!given(ctx->path)) qr_jrun_raise(run, "Missing parameter for attribute name");
        tested = follow_path(run, item, ctx->path, qr_jval_none());
    }
    bool passes;
    if (!given(ctx->name)) {
        passes = qr_jval_truth(run, tested);
    } else {
        const qr_jfunction *test = NULL;
        if (ctx->name.kind == QR_J_STR) test = qr_jtest_find(ctx->name.text, ctx->name.bytes);
        if (!test) {
            qr_jval name = qr_jtext_repr(run, ctx->name);
            qr_jrun_raise(run, "No test named %.*s.", (int)name.bytes, name.text);
        }
        passes = qr_jval_truth(run, test->fn(run, tested, &ctx->args));
    }
    *out = item;
    return passes == ctx->keep;
}

static qr_jval select_items(qr_jrun *run, qr_jval value, const qr_jargs *args, bool keep, bool by_path)
{
    call_ctx *ctx = qr_jrun_calloc(run, sizeof *ctx);
    ctx->keep = keep;
    ctx->by_path = by_path;
    if (by_path && args->num_pos > 0) ctx->path = args->pos[0];
    if (args->num_pos > by_path) ctx->name = args->pos[by_path];
    ctx->args = copy_args(run, args, 1 + (size_t)by_path);
    return qr_jiter_lazy(run, value, true, select_step, ctx);
}

static qr_jval do_select(qr_jrun *r, qr_jval v, const qr_jargs *a) { return select_items(r, v, a, true, false); }
static qr_jval do_reject(qr_jrun *r, qr_jval v, const qr_jargs *a) { return select_items(r, v, a, false, false); }
static qr_jval do_selectattr(qr_jrun *r, qr_jval v, const qr_jargs *a) { return select_items(r, v, a, true, true); }
static qr_jval do_rejectattr(qr_jrun *r, qr_jval v, const qr_jargs *a) { return select_items(r, v, a, false, true); }

static qr_jval as_generator(qr_jrun *run, qr_jlist *list)
{
    return (qr_jval){.kind = QR_J_ITER, .iter = qr_jiter_of(run, qr_jval_list(QR_J_LIST, list))};
}

static qr_jval do_batch(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[2], item;
    qr_jargs_bind(run, args, "batch", "linecount fill_with", 1, a);
    int64_t count = qr_jval_to_int(run, a[0], "linecount");
    qr_jlist *batches = qr_jlist_create(run, 0), *batch = qr_jlist_create(run, 0);
    qr_jiter *iter = qr_jiter_of(run, value);
    while (qr_jiter_next(run, iter, &item)) {
        if ((int64_t)batch->num == count) {
            qr_jlist_add(run, batches, qr_jval_list(QR_J_LIST, batch));
            batch = qr_jlist_create(run, 0);
        }
        qr_jlist_add(run, batch, item);
    }
    if (batch->num) {
        while (wanted(a[1]) && (int64_t)batch->num < count) qr_jlist_add(run, batch, a[1]);
        qr_jlist_add(run, batches, qr_jval_list(QR_J_LIST, batch));
    }
    return as_generator(run, batches);
}

static qr_jval do_slice(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[2];
    qr_jargs_bind(run, args, "slice", "slices fill_with", 1, a);
    int64_t num = qr_jval_to_int(run, a[0], "slices");
    if (num == 0) qr_jrun_raise(run, "integer division or modulo by zero");
    qr_jlist *list = qr_jiter_collect(run, value), *slices = qr_jlist_create(run, 0);
    size_t each = num > 0 ? list->num / (size_t)num : 0, extra = num > 0 ? list->num % (size_t)num : 0, pos = 0;
    for (int64_t n = 0; n < num; n++) {
        qr_jlist *slice = qr_jlist_create(run, 0);
        size_t end = pos + each + ((size_t)n < extra);
        while (pos < end) qr_jlist_add(run, slice, list->items[pos++]);
        if (wanted(a[1]) && (size_t)n >= extra) qr_jlist_add(run, slice, a[1]);
        qr_jlist_add(run, slices, qr_jval_list(QR_J_LIST, slice));
    }
    return as_generator(run, slices);
}

static qr_jval do_items(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "items");
    if (value.kind != QR_J_DICT && value.kind != QR_J_UNDEFINED)
        qr_jrun_raise(run, "Can only get item pairs from a mapping.");
    if (value.kind == QR_J_DICT) {
        value.kind = QR_J_VIEW;
        value.tag = QR_J_VIEW_ITEMS;
    }
    return (qr_jval){.kind = QR_J_ITER, .iter = qr_jiter_of(run, value)};
}

static bool is_reversible(qr_jval v)
{
    return qr_jval_is_seq(v) || v.kind == QR_J_DICT || v.kind == QR_J_VIEW || v.kind == QR_J_UNDEFINED;
}

static qr_jval do_reverse(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "reverse");
    if (value.kind == QR_J_STR) return qr_jval_slice(run, value, qr_jval_none(), qr_jval_none(), qr_jval_int(-1));
    if (is_reversible(value)) return qr_jiter_reversed(run, value);
    qr_jlist *list = qr_jiter_collect(run, value), *reversed = qr_jlist_create(run, list->num);
    for (size_t i = list->num; i > 0; i--) qr_jlist_add(run, reversed, list->items[i - 1]);
    return qr_jval_list(QR_J_LIST, reversed);
}

/* ---- one value of many ------------------------------------------------------------------------------------------ */

static qr_jval do_first(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval item;
    no_args(run, args, "first");
    if (qr_jiter_next(run, qr_jiter_of(run, value), &item)) return item;
    return qr_jval_hint("No first item, sequence was empty.");
}

static qr_jval do_last(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval item;
    no_args(run, args, "last");
    if (value.kind == QR_J_STR) {
        item = qr_jval_item(run, value, qr_jval_int(-1));
        return value.bytes ? item : qr_jval_hint("No last item, sequence was empty.");
    }
    if (!is_reversible(value)) qr_jrun_raise(run, "'%s' object is not reversible", qr_jval_type(value));
    if (qr_jiter_next(run, qr_jiter_reversed(run, value).iter, &item)) return item;
    return qr_jval_hint("No last item, sequence was empty.");
}

static qr_jval do_length(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "length");
    if (value.kind == QR_J_LOOP) return qr_jloop_attr(run, value.loop, "length", 6);
    if (value.kind == QR_J_STR) qr_jrun_charge_bytes(run, value.bytes);
    int64_t len = qr_jval_len(value);
    if (len < 0) qr_jrun_raise(run, "object of type '%s' has no len()", qr_jval_type(value));
    return qr_jval_int(len);
}

static qr_jval do_list(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    no_args(run, args, "list");
    return qr_jval_list(QR_J_LIST, qr_jiter_collect(run, value));
}

static qr_jval do_join(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[2], item;
    qr_jargs_bind(run, args, "join", "d attribute", 0, a);
    qr_jval separator = given(a[0]) ? qr_jtext_str(run, a[0]) : qr_jval_cstr("");
    qr_jiter *iter = qr_jiter_of(run, value);
    qr_jbuild b = {.run = run};
    for (bool first = true; qr_jiter_next(run, iter, &item); first = false) {
        if (!first) qr_jbuild_val(&b, separator);
        qr_jtext_add_str(&b, follow_path(run, item, a[1], qr_jval_none()));
    }
    return qr_jbuild_end(&b);
}

static qr_jval do_sum(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval a[2], item;
    qr_jargs_bind(run, args, "sum", "attribute start", 0, a);
    qr_jval total = given(a[1]) ? a[1] : qr_jval_int(0);
    if (total.kind == QR_J_STR) qr_jrun_raise(run, "sum() can't sum strings [use ''.join(seq) instead]");
    qr_jiter *iter = qr_jiter_of(run, value);
    while (qr_jiter_next(run, iter, &item))
        total = qr_jval_arith(run, "+", total, follow_path(run, item, a[0], qr_jval_none()));
    return total;
}

static const qr_jfunction filters[] = {
    {"batch", do_batch},     {"count", do_length},    {"dictsort", do_dictsort},
    {"first", do_first},     {"groupby", do_groupby}, {"items", do_items},
    {"join", do_join},       {"last", do_last},       {"length", do_length},
    {"list", do_list},       {"map", do_map},         {"max", do_max},
    {"min", do_min},         {"reject", do_reject},   {"rejectattr", do_rejectattr},
    {"reverse", do_reverse}, {"select", do_select},   {"selectattr", do_selectattr},
    {"slice", do_slice},     {"sort", do_sort},       {"sum", do_sum},
    {"unique", do_unique},
};

const qr_jfunction *qr_jfilter_seq_find(const char *name, size_t bytes)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (strlen(filters[i].name) == bytes && memcmp(filters[i].name, name, bytes) == 0) return &filters[i];
    return NULL;
}
