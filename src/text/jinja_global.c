#include <string.h>

#include "text/jinja_library.h"
#include "text/jinja_text.h"

static qr_jval global_range(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    (void)self;
    qr_jval a[3];
    qr_jargs_bind(run, args, "range()", "/start stop step", 1, a);
    bool one = a[1].kind == QR_J_MISSING;
    int64_t start = one ? 0 : qr_jval_to_int(run, a[0], "range(): start");
    int64_t stop = qr_jval_to_int(run, one ? a[0] : a[1], "range(): stop");
    int64_t step = a[2].kind == QR_J_MISSING ? 1 : qr_jval_to_int(run, a[2], "range(): step");
    if (step == 0) qr_jrun_raise(run, "range() arg 3 must not be zero");
    __int128 span = step > 0 ? (__int128)stop - start : (__int128)start - stop;
    __int128 stride = step > 0 ? step : -(__int128)step, num = span > 0 ? (span + stride - 1) / stride : 0;
    if (num > QR_J_MAX_RANGE) qr_jrun_raise(run, "Range too big. The sandbox blocks ranges larger than 100000.");
    qr_jrange *range = qr_jrun_alloc(run, sizeof *range);
    *range = (qr_jrange){start, stop, step, (int64_t)num};
    return (qr_jval){.kind = QR_J_RANGE, .range = range};
}

/* dict(mapping or pairs, key=value, ...) */
static qr_jdict *make_dict(qr_jrun *run, const qr_jargs *args, const char *what)
{
    qr_jdict *dict = qr_jdict_create(run, args->num_kw);
    if (args->num_pos > 1) qr_jrun_raise(run, "%s expected at most 1 argument, got %zu", what, args->num_pos);
    if (args->num_pos && args->pos[0].kind == QR_J_DICT) {
        const qr_jdict *from = args->pos[0].dict;
        for (size_t i = 0; i < from->num; i++) qr_jdict_set(run, dict, from->pairs[i].key, from->pairs[i].value);
    } else if (args->num_pos) {
        qr_jiter *iter = qr_jiter_of(run, args->pos[0]);
        qr_jval item;
        while (qr_jiter_next(run, iter, &item)) {
            qr_jlist *pair = qr_jiter_collect(run, item);
            if (pair->num != 2) qr_jrun_raise(run, "%s: an element has length %zu; 2 is required", what, pair->num);
            qr_jdict_set(run, dict, pair->items[0], pair->items[1]);
        }
    }
    for (size_t i = 0; i < args->num_kw; i++) qr_jdict_set(run, dict, args->kw[i].key, args->kw[i].value);
    return dict;
}

static qr_jval global_dict(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    (void)self;
    return qr_jval_dict(QR_J_DICT, make_dict(run, args, "dict()"));
}

static qr_jval global_namespace(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    (void)self;
    return qr_jval_dict(QR_J_NAMESPACE, make_dict(run, args, "namespace()"));
}

static qr_jval global_raise_exception(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    (void)self;
    qr_jval message;
    qr_jargs_bind(run, args, "raise_exception()", "message", 1, &message);
    message = qr_jtext_str(run, message);
    qr_jrun_raise(run, "%.*s", (int)message.bytes, message.text);
}

static qr_jval global_strftime_now(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    (void)self;
    qr_jval format;
    qr_jargs_bind(run, args, "strftime_now()", "format", 1, &format);
    return qr_jformat_time(run, format);
}

static qr_jval global_cycler(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    (void)self;
    if (args->num_pos == 0 || args->num_kw) qr_jrun_raise(run, "at least one item has to be provided");
    qr_jlist *list = qr_jlist_create(run, args->num_pos);
    for (size_t i = 0; i < args->num_pos; i++) qr_jlist_add(run, list, args->pos[i]);
    qr_jcycle *cycle = qr_jrun_alloc(run, sizeof *cycle);
    *cycle = (qr_jcycle){qr_jval_list(QR_J_TUPLE, list), 0};
    return (qr_jval){.kind = QR_J_CYCLER, .cycle = cycle};
}

static qr_jval cycler_next(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jargs_bind(run, args, "next()", "", 0, NULL);
    qr_jcycle *cycle = self.cycle;
    qr_jval item = cycle->items.list->items[cycle->pos];
    cycle->pos = (cycle->pos + 1) % cycle->items.list->num;
    return item;
}

static qr_jval cycler_reset(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jargs_bind(run, args, "reset()", "", 0, NULL);
    self.cycle->pos = 0;
    return qr_jval_none();
}

qr_jval qr_jcycler_attr(qr_jrun *run, qr_jval cycler, const char *name, size_t bytes)
{
    static const qr_jfunction methods[] = {{"next", cycler_next}, {"reset", cycler_reset}};
    qr_jval text = qr_jval_str(run, name, bytes);
    if (qr_jval_is_text(text, "current", 7)) return cycler.cycle->items.list->items[cycler.cycle->pos];
    for (size_t i = 0; i < 2; i++) {
        if (!qr_jval_is_text(text, methods[i].name, strlen(methods[i].name))) continue;
        qr_jmethod *method = qr_jrun_alloc(run, sizeof *method);
        *method = (qr_jmethod){cycler, &methods[i]};
        return (qr_jval){.kind = QR_J_METHOD, .method = method};
    }
    return (qr_jval){.kind = QR_J_MISSING};
}

static qr_jval global_joiner(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    (void)self;
    qr_jval separator;
    qr_jargs_bind(run, args, "joiner()", "sep", 0, &separator);
    qr_jcycle *cycle = qr_jrun_alloc(run, sizeof *cycle);
    *cycle = (qr_jcycle){separator.kind == QR_J_MISSING ? qr_jval_cstr(", ") : separator, 0};
    return (qr_jval){.kind = QR_J_JOINER, .cycle = cycle};
}

const qr_jfunction *qr_jglobal_find(const char *name, size_t bytes)
{
    static const qr_jfunction globals[] = {
        {"range", global_range},         {"dict", global_dict},
        {"namespace", global_namespace}, {"raise_exception", global_raise_exception},
        {"cycler", global_cycler},       {"strftime_now", global_strftime_now},
        {"joiner", global_joiner},
    };
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (strlen(globals[i].name) == bytes && memcmp(globals[i].name, name, bytes) == 0) return &globals[i];
    return NULL;
}
