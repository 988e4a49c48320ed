#include <string.h>

#include "text/jinja_interp.h"
#include "text/jinja_text.h"

/* ---- running ---------------------------------------------------------------------------------------------------- */

typedef struct filter_ctx {
    const qr_jnode *node;
    qr_jscope *scope;
} filter_ctx;

/* {% for x in xs if condition %} */
static bool filter_step(qr_jrun *run, void *raw, qr_jval item, qr_jval *out)
{
    const filter_ctx *ctx = raw;
    qr_jscope *scope = qr_jscope_create(run, ctx->scope);
    qr_jexec_assign(run, ctx->node->a, scope, item);
    *out = item;
    return qr_jval_truth(run, qr_jeval_expr(run, ctx->node->e, scope));
}

static bool advance(qr_jrun *run, qr_jloop *loop)
{
    qr_jval item = loop->after;
    loop->after.kind = QR_J_MISSING;
    if (item.kind == QR_J_MISSING && !qr_jiter_next(run, loop->iter, &item)) return false;
    loop->index0++;
    loop->before = loop->current;
    loop->current = item;
    return true;
}

qr_jflow qr_jloop_exec(qr_jrun *run, const qr_jnode *node, qr_jscope *scope, qr_jval over, int depth0)
{
    if (node->e) {
        filter_ctx *ctx = qr_jrun_alloc(run, sizeof *ctx);
        *ctx = (filter_ctx){node, scope};
        over = qr_jiter_lazy(run, over, false, filter_step, ctx);
    }
    qr_jloop *loop = qr_jrun_calloc(run, sizeof *loop);
    *loop = (qr_jloop){.node = node, .scope = scope, .over = over, .index0 = -1, .length = -1, .depth0 = depth0};
    loop->iter = qr_jiter_of(run, over);
    bool completed = false;
    while (advance(run, loop)) {
        qr_jscope *inner = qr_jscope_create(run, scope);
        qr_jscope_set(run, inner, qr_jval_cstr("loop"), (qr_jval){.kind = QR_J_LOOP, .loop = loop});
        qr_jexec_assign(run, node->a, inner, loop->current);
        qr_jflow flow = qr_jexec_body(run, node->c, inner);
        if (flow == QR_J_BREAK) break;
        completed |= flow == QR_J_NEXT; /* as jinja2 does, an iteration cut short does not count for else */
    }
    if (!completed && node->d) return qr_jexec_body(run, node->d, qr_jscope_create(run, scope));
    return QR_J_NEXT;
}

qr_jval qr_jloop_call(qr_jrun *run, qr_jloop *loop, const qr_jargs *args)
{
    qr_jval over;
    qr_jargs_bind(run, args, "loop()", "iterable", 1, &over);
    if (!(loop->node->flags & QR_J_RECURSIVE))
        qr_jrun_raise(run, "The loop must have the 'recursive' marker to be called recursively.");
    qr_jrun_enter(run);
    size_t mark = run->out->len;
    qr_jloop_exec(run, loop->node, loop->scope, over, loop->depth0 + 1);
    qr_jrun_leave(run);
    return qr_jexec_capture(run, mark);
}

/* ---- loop.index, loop.last, ... ------------------------------------------------------------------------------- */

static bool peek(qr_jrun *run, qr_jloop *loop)
{
    if (loop->after.kind == QR_J_MISSING && !qr_jiter_next(run, loop->iter, &loop->after))
        loop->after.kind = QR_J_MISSING;
    return loop->after.kind != QR_J_MISSING;
}

static int64_t loop_length(qr_jrun *run, qr_jloop *loop)
{
    if (loop->length >= 0) return loop->length;
    loop->length = qr_jval_len(loop->over);
    if (loop->length < 0) { /* a generator: read what is left */
        qr_jlist *rest = qr_jlist_create(run, 0);
        qr_jval item;
        while (qr_jiter_next(run, loop->iter, &item)) qr_jlist_add(run, rest, item);
        loop->iter = qr_jiter_of(run, qr_jval_list(QR_J_LIST, rest));
        loop->length = (int64_t)rest->num + loop->index0 + 1 + (loop->after.kind != QR_J_MISSING);
    }
    return loop->length;
}

static qr_jval loop_cycle(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    if (args->num_pos == 0) qr_jrun_raise(run, "no items for cycling given");
    return args->pos[(size_t)self.loop->index0 % args->num_pos];
}

static qr_jval loop_changed(qr_jrun *run, qr_jval self, const qr_jargs *args)
{
    qr_jlist *list = qr_jlist_create(run, args->num_pos);
    for (size_t i = 0; i < args->num_pos; i++) qr_jlist_add(run, list, args->pos[i]);
    qr_jval value = qr_jval_list(QR_J_TUPLE, list);
    if (self.loop->last_changed.kind == QR_J_TUPLE && qr_jval_equal(run, self.loop->last_changed, value))
        return qr_jval_bool(false);
    self.loop->last_changed = value;
    return qr_jval_bool(true);
}

static qr_jval loop_method(qr_jrun *run, qr_jloop *loop, const qr_jfunction *function)
{
    qr_jmethod *method = qr_jrun_alloc(run, sizeof *method);
    *method = (qr_jmethod){{.kind = QR_J_LOOP, .loop = loop}, function};
    return (qr_jval){.kind = QR_J_METHOD, .method = method};
}

qr_jval qr_jloop_attr(qr_jrun *run, qr_jloop *loop, const char *name, size_t bytes)
{
    static const qr_jfunction cycle = {"cycle", loop_cycle}, changed = {"changed", loop_changed};
    qr_jval n = qr_jval_str(run, name, bytes);
    if (qr_jval_is_text(n, "index", 5)) return qr_jval_int(loop->index0 + 1);
    if (qr_jval_is_text(n, "index0", 6)) return qr_jval_int(loop->index0);
    if (qr_jval_is_text(n, "first", 5)) return qr_jval_bool(loop->index0 == 0);
    if (qr_jval_is_text(n, "last", 4)) return qr_jval_bool(!peek(run, loop));
    if (qr_jval_is_text(n, "length", 6)) return qr_jval_int(loop_length(run, loop));
    if (qr_jval_is_text(n, "revindex", 8)) return qr_jval_int(loop_length(run, loop) - loop->index0);
    if (qr_jval_is_text(n, "revindex0", 9)) return qr_jval_int(loop_length(run, loop) - loop->index0 - 1);
    if (qr_jval_is_text(n, "depth", 5)) return qr_jval_int(loop->depth0 + 1);
    if (qr_jval_is_text(n, "depth0", 6)) return qr_jval_int(loop->depth0);
    if (qr_jval_is_text(n, "previtem", 8))
        return loop->index0 == 0 ? qr_jval_hint("there is no previous item") : loop->before;
    if (qr_jval_is_text(n, "nextitem", 8)) return peek(run, loop) ? loop->after : qr_jval_hint("there is no next item");
    if (qr_jval_is_text(n, "cycle", 5)) return loop_method(run, loop, &cycle);
    if (qr_jval_is_text(n, "changed", 7)) return loop_method(run, loop, &changed);
    return (qr_jval){.kind = QR_J_MISSING};
}
