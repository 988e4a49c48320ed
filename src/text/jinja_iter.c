#include <string.h>

#include "text/jinja_core.h"
#include "text/jinja_text.h"

/* Over a value's elements (source NULL), or over another iterator's, changed by `step`. */
struct qr_jiter {
    qr_jval over;
    size_t pos; /* index; in a string, bytes */
    bool reversed;
    bool only_if_true; /* a false `over` has no elements, whatever it is */
    qr_jiter *source;
    qr_jiter_step *step;
    void *ctx;
};

static bool is_iterable(qr_jval v)
{
    return qr_jval_is_seq(v) || v.kind == QR_J_STR || v.kind == QR_J_DICT || v.kind == QR_J_VIEW ||
           v.kind == QR_J_UNDEFINED || v.kind == QR_J_ITER;
}

qr_jiter *qr_jiter_of(qr_jrun *run, qr_jval value)
{
    if (value.kind == QR_J_ITER) return value.iter;
    if (!is_iterable(value)) qr_jrun_raise(run, "'%s' object is not iterable", qr_jval_type(value));
    qr_jiter *iter = qr_jrun_calloc(run, sizeof *iter);
    iter->over = value;
    return iter;
}

static bool next_element(qr_jrun *run, qr_jiter *iter, qr_jval *out)
{
    qr_jval over = iter->over;
    if (over.kind == QR_J_UNDEFINED) return false;
    if (over.kind == QR_J_STR) {
        if (iter->pos >= over.bytes) return false;
        size_t start = iter->pos;
        qr_jtext_decode(over.text, &iter->pos);
        *out = qr_jval_str(run, over.text + start, iter->pos - start);
        return true;
    }
    size_t num = (size_t)qr_jval_len(over);
    if (iter->pos >= num) return false;
    size_t idx = iter->reversed ? num - 1 - iter->pos : iter->pos;
    iter->pos++;
    if (over.kind == QR_J_DICT)
        *out = over.dict->pairs[idx].key;
    else
        *out = over.kind == QR_J_VIEW ? qr_jdict_view_at(run, over, idx) : qr_jval_at(over, idx);
    return true;
}

bool qr_jiter_next(qr_jrun *run, qr_jiter *iter, qr_jval *out)
{
    qr_jrun_charge(run, 1);
    if (!iter->step) return next_element(run, iter, out);
    qr_jrun_enter(run);
    if (!iter->source) {
        bool empty = iter->only_if_true && !qr_jval_truth(run, iter->over);
        iter->source = qr_jiter_of(run, empty ? qr_jval_hint("") : iter->over);
    }
    bool found = false;
    qr_jval item;
    while (!found && qr_jiter_next(run, iter->source, &item)) found = iter->step(run, iter->ctx, item, out);
    qr_jrun_leave(run);
    return found;
}

qr_jval qr_jiter_lazy(qr_jrun *run, qr_jval source, bool only_if_true, qr_jiter_step *step, void *ctx)
{
    qr_jiter *iter = qr_jrun_calloc(run, sizeof *iter);
    *iter = (qr_jiter){.over = source, .only_if_true = only_if_true, .step = step, .ctx = ctx};
    return (qr_jval){.kind = QR_J_ITER, .iter = iter};
}

qr_jval qr_jiter_reversed(qr_jrun *run, qr_jval seq)
{
    qr_jiter *iter = qr_jiter_of(run, seq);
    iter->reversed = true;
    return (qr_jval){.kind = QR_J_ITER, .iter = iter};
}

qr_jlist *qr_jiter_collect(qr_jrun *run, qr_jval value)
{
    qr_jiter *iter = qr_jiter_of(run, value);
    int64_t len = value.kind == QR_J_STR ? 0 : qr_jval_len(value);
    qr_jlist *list = qr_jlist_create(run, len > 0 ? (size_t)len : 0);
    qr_jval item;
    while (qr_jiter_next(run, iter, &item)) qr_jlist_add(run, list, item);
    return list;
}
