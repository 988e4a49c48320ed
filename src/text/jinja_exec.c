#include <string.h>

#include "text/jinja_interp.h"
#include "text/jinja_text.h"

/* ---- output ----------------------------------------------------------------------------------------------------- */

void qr_jexec_write(qr_jrun *run, const char *text, size_t bytes)
{
    qr_jrun_charge_bytes(run, bytes);
    if (bytes > QR_J_MAX_OUTPUT_BYTES - (run->out->len - run->out_start))
        qr_jrun_limit(run, "the template's output is longer than 64 MiB");
    if (qr_buf_append(run->out, text, bytes) != 0) qr_jrun_nomem(run, bytes);
}

qr_jval qr_jexec_capture(qr_jrun *run, size_t mark)
{
    size_t bytes = run->out->len - mark;
    char *text = qr_jrun_alloc(run, bytes);
    qr_jrun_charge_bytes(run, bytes);
    if (bytes) memcpy(text, run->out->data + mark, bytes);
    run->out->len = mark;
    return qr_jval_str(run, text, bytes);
}

static void exec_print(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    for (const qr_jnode *item = node->a; item; item = item->next) {
        qr_jval text = qr_jtext_str(run, qr_jeval_expr(run, item, scope));
        qr_jexec_write(run, text.text, text.bytes);
    }
}

/* ---- assignment ------------------------------------------------------------------------------------------------- */

static void unpack(qr_jrun *run, const qr_jnode *target, qr_jscope *scope, qr_jval value)
{
    qr_jiter *iter = qr_jiter_of(run, value);
    qr_jval item;
    size_t num = 0;
    qr_jlist *items = qr_jlist_create(run, 0);
    for (const qr_jnode *t = target->a; t; t = t->next) num++;
    while (items->num <= num && qr_jiter_next(run, iter, &item)) qr_jlist_add(run, items, item);
    if (items->num > num) qr_jrun_raise(run, "too many values to unpack (expected %zu)", num);
    if (items->num < num) qr_jrun_raise(run, "not enough values to unpack (expected %zu, got %zu)", num, items->num);
    size_t i = 0;
    for (const qr_jnode *t = target->a; t; t = t->next) qr_jexec_assign(run, t, scope, items->items[i++]);
}

void qr_jexec_assign(qr_jrun *run, const qr_jnode *target, qr_jscope *scope, qr_jval value)
{
    if (target->op == QR_JN_NAME) {
        qr_jscope_set(run, scope, target->value, value);
    } else if (target->op == QR_JN_NSREF) {
        qr_jval ns = qr_jscope_get(run, scope, target->value);
        if (ns.kind != QR_J_NAMESPACE) qr_jrun_raise(run, "cannot assign attribute on non-namespace object");
        qr_jdict_set(run, ns.dict, target->a->value, value);
    } else {
        qr_jrun_enter(run);
        unpack(run, target, scope, value);
        qr_jrun_leave(run);
    }
}

/* ---- macros ----------------------------------------------------------------------------------------------------- */

static qr_jval make_macro(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jmacro *macro = qr_jrun_alloc(run, sizeof *macro);
    *macro = (qr_jmacro){node, scope};
    return (qr_jval){.kind = QR_J_MACRO, .macro = macro};
}

static qr_jval keyword(qr_jrun *run, const qr_jargs *args, qr_jval name, bool *used)
{
    (void)run;
    for (size_t i = 0; i < args->num_kw; i++) {
        if (!qr_jval_is_text(args->kw[i].key, name.text, name.bytes)) continue;
        used[i] = true;
        return args->kw[i].value;
    }
    return (qr_jval){.kind = QR_J_MISSING};
}

/* What is left over: `kwargs`, `varargs` and `caller` where the body uses them, else an error. */
static void bind_rest(qr_jrun *run, const qr_jmacro *macro, const qr_jargs *args, size_t num_params, bool *used,
                      qr_jscope *scope)
{
    int name_bytes = (int)macro->node->value.bytes;
    const char *name = macro->node->value.text;
    if (macro->node->flags & QR_J_USES_CALLER) {
        qr_jval caller = keyword(run, args, qr_jval_cstr("caller"), used);
        if (caller.kind == QR_J_MISSING || caller.kind == QR_J_NONE) caller = qr_jval_hint("No caller defined");
        qr_jscope_set(run, scope, qr_jval_cstr("caller"), caller);
    }
    qr_jdict *rest = qr_jdict_create(run, 0);
    for (size_t i = 0; i < args->num_kw; i++) {
        if (used[i]) continue;
        if (!(macro->node->flags & QR_J_USES_KWARGS))
            qr_jrun_raise(run, "macro '%.*s' takes no keyword argument '%.*s'", name_bytes, name,
                          (int)args->kw[i].key.bytes, args->kw[i].key.text);
        qr_jdict_set(run, rest, args->kw[i].key, args->kw[i].value);
    }
    if (macro->node->flags & QR_J_USES_KWARGS)
        qr_jscope_set(run, scope, qr_jval_cstr("kwargs"), qr_jval_dict(QR_J_DICT, rest));
    if (macro->node->flags & QR_J_USES_VARARGS) {
        qr_jlist *more = qr_jlist_create(run, 0);
        for (size_t i = num_params; i < args->num_pos; i++) qr_jlist_add(run, more, args->pos[i]);
        qr_jscope_set(run, scope, qr_jval_cstr("varargs"), qr_jval_list(QR_J_TUPLE, more));
    } else if (args->num_pos > num_params) {
        qr_jrun_raise(run, "macro '%.*s' takes not more than %zu argument(s)", name_bytes, name, num_params);
    }
}

qr_jval qr_jmacro_call(qr_jrun *run, const qr_jmacro *macro, const qr_jargs *args)
{
    qr_jrun_enter(run);
    qr_jscope *scope = qr_jscope_create(run, macro->scope);
    bool *used = qr_jrun_calloc(run, args->num_kw + 1);
    size_t num_params = 0;
    for (const qr_jnode *param = macro->node->a; param; param = param->next) num_params++;
    qr_jval *values = qr_jrun_alloc(run, (num_params + 1) * sizeof *values);
    size_t i = 0;
    for (const qr_jnode *param = macro->node->a; param; param = param->next, i++)
        values[i] = i < args->num_pos ? args->pos[i] : keyword(run, args, param->value, used);
    bind_rest(run, macro, args, num_params, used, scope);
    i = 0;
    for (const qr_jnode *param = macro->node->a; param; param = param->next, i++) {
        qr_jval value = values[i];
        if (value.kind == QR_J_MISSING && param->a) value = qr_jeval_expr(run, param->a, scope);
        if (value.kind == QR_J_MISSING) value = qr_jval_hint("a parameter was not provided");
        qr_jscope_set(run, scope, param->value, value);
    }
    size_t mark = run->out->len;
    qr_jexec_body(run, macro->node->c, scope);
    qr_jrun_leave(run);
    return qr_jexec_capture(run, mark);
}

qr_jval qr_jmacro_attr(qr_jrun *run, const qr_jmacro *macro, const char *name, size_t bytes)
{
    qr_jval text = qr_jval_str(run, name, bytes);
    uint8_t flags = macro->node->flags;
    if (qr_jval_is_text(text, "name", 4))
        return macro->node->value.kind == QR_J_STR ? macro->node->value : qr_jval_none();
    if (qr_jval_is_text(text, "catch_kwargs", 12)) return qr_jval_bool(flags & QR_J_USES_KWARGS);
    if (qr_jval_is_text(text, "catch_varargs", 13)) return qr_jval_bool(flags & QR_J_USES_VARARGS);
    if (qr_jval_is_text(text, "caller", 6)) return qr_jval_bool(flags & QR_J_USES_CALLER);
    if (!qr_jval_is_text(text, "arguments", 9)) return (qr_jval){.kind = QR_J_MISSING};
    qr_jlist *list = qr_jlist_create(run, 0);
    for (const qr_jnode *param = macro->node->a; param; param = param->next) qr_jlist_add(run, list, param->value);
    return qr_jval_list(QR_J_TUPLE, list);
}

static void exec_call_block(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jpair caller = {qr_jval_cstr("caller"), make_macro(run, node->d, scope)};
    qr_jval text = qr_jtext_str(run, qr_jeval_call(run, node->b, scope, &caller));
    qr_jexec_write(run, text.text, text.bytes);
}

/* ---- statements ------------------------------------------------------------------------------------------------- */

/* {% set x %}...{% endset %} and {% filter f %}...{% endfilter %} */
static qr_jflow exec_captured(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    size_t mark = run->out->len;
    qr_jscope *inner = qr_jscope_create(run, scope);
    qr_jflow flow = qr_jexec_body(run, node->c, inner);
    qr_jval text = qr_jexec_capture(run, mark);
    if (flow != QR_J_NEXT) return flow;
    text = qr_jeval_filters(run, node->b, inner, text);
    if (node->op == QR_JN_SET_BLOCK) {
        qr_jexec_assign(run, node->a, scope, text);
    } else {
        text = qr_jtext_str(run, text);
        qr_jexec_write(run, text.text, text.bytes);
    }
    return flow;
}

static qr_jflow exec_with(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jscope *inner = qr_jscope_create(run, node->flags & QR_J_ISOLATED ? run->globals : scope);
    for (const qr_jnode *set = node->a; set; set = set->next)
        qr_jexec_assign(run, set->a, inner, qr_jeval_expr(run, set->b, scope));
    return qr_jexec_body(run, node->c, inner);
}

static qr_jflow exec_statement(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    switch ((qr_jop)node->op) {
    case QR_JN_TEXT: qr_jexec_write(run, node->value.text, node->value.bytes); break;
    case QR_JN_PRINT: exec_print(run, node, scope); break;
    case QR_JN_IF:
        for (;;) {
            if (qr_jval_truth(run, qr_jeval_expr(run, node->a, scope))) return qr_jexec_body(run, node->b, scope);
            const qr_jnode *rest = node->c; /* an elif is the only node of its else */
            if (!rest || rest->op != QR_JN_IF || rest->next) return qr_jexec_body(run, rest, scope);
            node = rest;
            qr_jrun_charge(run, 1);
        }
    case QR_JN_FOR: return qr_jloop_exec(run, node, scope, qr_jeval_expr(run, node->b, scope), 0);
    case QR_JN_SET: qr_jexec_assign(run, node->a, scope, qr_jeval_expr(run, node->b, scope)); break;
    case QR_JN_SET_BLOCK:
    case QR_JN_FILTER_BLOCK: return exec_captured(run, node, scope);
    case QR_JN_MACRO: qr_jscope_set(run, scope, node->value, make_macro(run, node, scope)); break;
    case QR_JN_CALL_BLOCK: exec_call_block(run, node, scope); break;
    case QR_JN_WITH: return exec_with(run, node, scope);
    case QR_JN_BREAK: return QR_J_BREAK;
    default: return QR_J_CONTINUE;
    }
    return QR_J_NEXT;
}

qr_jflow qr_jexec_body(qr_jrun *run, const qr_jnode *body, qr_jscope *scope)
{
    qr_jflow flow = QR_J_NEXT;
    qr_jrun_enter(run);
    for (; body && flow == QR_J_NEXT; body = body->next) {
        qr_jrun_charge(run, 1);
        run->line = body->line;
        flow = exec_statement(run, body, scope);
    }
    qr_jrun_leave(run);
    return flow;
}
