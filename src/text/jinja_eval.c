#include <string.h>

#include "text/jinja_interp.h"
#include "text/jinja_text.h"

/* ---- scopes ----------------------------------------------------------------------------------------------------- */

qr_jscope *qr_jscope_create(qr_jrun *run, qr_jscope *parent)
{
    qr_jscope *scope = qr_jrun_calloc(run, sizeof *scope);
    scope->parent = parent;
    return scope;
}

void qr_jscope_set(qr_jrun *run, qr_jscope *scope, qr_jval name, qr_jval value)
{
    qr_jdict_set(run, &scope->vars, name, value);
}

qr_jval qr_jscope_get(qr_jrun *run, const qr_jscope *scope, qr_jval name)
{
    for (; scope; scope = scope->parent) {
        const qr_jval *value = qr_jdict_find_text(run, &scope->vars, name.text, name.bytes);
        if (value) return *value;
    }
    const qr_jfunction *function = qr_jglobal_find(name.text, name.bytes);
    if (function) return qr_jval_function(function);
    name.kind = QR_J_UNDEFINED;
    name.tag = QR_J_UNDEF_NAME;
    return name;
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static void add_dynamic_args(qr_jrun *run, const qr_jcall *call, qr_jscope *scope, qr_jlist *pos, qr_jdict *kw)
{
    if (call->dyn_pos) {
        qr_jiter *iter = qr_jiter_of(run, qr_jeval_expr(run, call->dyn_pos, scope));
        qr_jval item;
        while (qr_jiter_next(run, iter, &item)) qr_jlist_add(run, pos, item);
    }
    if (!call->dyn_kw) return;
    qr_jval more = qr_jeval_expr(run, call->dyn_kw, scope);
    if (more.kind != QR_J_DICT) qr_jrun_raise(run, "argument after ** must be a mapping, not %s", qr_jval_type(more));
    for (size_t i = 0; i < more.dict->num; i++) {
        qr_jpair pair = more.dict->pairs[i];
        if (pair.key.kind != QR_J_STR) qr_jrun_raise(run, "keywords must be strings");
        if (qr_jdict_find(run, kw, pair.key))
            qr_jrun_raise(run, "got multiple values for keyword argument '%.*s'", (int)pair.key.bytes, pair.key.text);
        qr_jdict_set(run, kw, pair.key, pair.value);
    }
}

static qr_jargs eval_args(qr_jrun *run, const qr_jcall *call, qr_jscope *scope, const qr_jpair *extra)
{
    if (call->num_pos + call->num_kw == 0 && !call->dyn_pos && !call->dyn_kw && !extra) return (qr_jargs){0};
    qr_jlist *pos = qr_jlist_create(run, call->num_pos);
    qr_jdict *kw = qr_jdict_create(run, call->num_kw + (extra != NULL));
    for (const qr_jnode *node = call->pos; node; node = node->next)
        qr_jlist_add(run, pos, qr_jeval_expr(run, node, scope));
    for (const qr_jnode *node = call->kw; node; node = node->next)
        qr_jdict_set(run, kw, node->value, qr_jeval_expr(run, node->a, scope));
    add_dynamic_args(run, call, scope, pos, kw);
    if (extra) qr_jdict_set(run, kw, extra->key, extra->value);
    return (qr_jargs){pos->items, pos->num, kw->pairs, kw->num};
}

qr_jval qr_jval_call(qr_jrun *run, qr_jval callee, const qr_jargs *args)
{
    switch ((qr_jkind)callee.kind) {
    case QR_J_FUNCTION: return callee.function->fn(run, (qr_jval){.kind = QR_J_MISSING}, args);
    case QR_J_METHOD: return callee.method->function->fn(run, callee.method->self, args);
    case QR_J_MACRO: return qr_jmacro_call(run, callee.macro, args);
    case QR_J_LOOP: return qr_jloop_call(run, callee.loop, args);
    case QR_J_JOINER:
        qr_jargs_bind(run, args, "joiner", "", 0, NULL);
        return callee.cycle->pos++ ? callee.cycle->items : qr_jval_cstr("");
    case QR_J_UNDEFINED: qr_jrun_raise_undefined(run, callee);
    default: qr_jrun_raise(run, "'%s' object is not callable", qr_jval_type(callee));
    }
}

qr_jval qr_jeval_call(qr_jrun *run, const qr_jnode *node, qr_jscope *scope, const qr_jpair *extra)
{
    qr_jval callee = qr_jeval_expr(run, node->a, scope);
    qr_jargs args = eval_args(run, node->args, scope, extra);
    run->line = node->line;
    return qr_jval_call(run, callee, &args);
}

qr_jval qr_jeval_filters(qr_jrun *run, const qr_jnode *node, qr_jscope *scope, qr_jval input)
{
    if (!node) return input;
    qr_jrun_enter(run);
    input = qr_jeval_filters(run, node->a, scope, input);
    qr_jrun_leave(run);
    run->line = node->line;
    if (!node->function) qr_jrun_raise(run, "No filter named '%.*s'.", (int)node->value.bytes, node->value.text);
    qr_jargs args = eval_args(run, node->args, scope, NULL);
    return node->function->fn(run, input, &args);
}

static qr_jval eval_filter(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jval input = qr_jeval_expr(run, node->a, scope);
    run->line = node->line;
    if (!node->function) qr_jrun_raise(run, "No filter named '%.*s'.", (int)node->value.bytes, node->value.text);
    qr_jargs args = eval_args(run, node->args, scope, NULL);
    return node->function->fn(run, input, &args);
}

static qr_jval eval_test(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jval input = qr_jeval_expr(run, node->a, scope);
    run->line = node->line;
    if (!node->function) qr_jrun_raise(run, "No test named '%.*s'.", (int)node->value.bytes, node->value.text);
    qr_jargs args = eval_args(run, node->args, scope, NULL);
    return node->function->fn(run, input, &args);
}

/* ---- literals, subscripts, operators -------------------------------------------------------------------------- */

static qr_jval eval_items(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jlist *list = qr_jlist_create(run, 0);
    for (const qr_jnode *item = node->a; item; item = item->next)
        qr_jlist_add(run, list, qr_jeval_expr(run, item, scope));
    return qr_jval_list(node->op == QR_JN_LIST ? QR_J_LIST : QR_J_TUPLE, list);
}

static qr_jval eval_dict(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jdict *dict = qr_jdict_create(run, 0);
    for (const qr_jnode *pair = node->a; pair; pair = pair->next) {
        qr_jval key = qr_jeval_expr(run, pair->a, scope);
        qr_jdict_set(run, dict, key, qr_jeval_expr(run, pair->b, scope));
    }
    return qr_jval_dict(QR_J_DICT, dict);
}

static qr_jval eval_item(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jval obj = qr_jeval_expr(run, node->a, scope);
    if (node->b->op != QR_JN_SLICE) {
        qr_jval index = qr_jeval_expr(run, node->b, scope);
        run->line = node->line;
        return qr_jval_item(run, obj, index);
    }
    const qr_jnode *parts[3] = {node->b->a, node->b->b, node->b->c};
    qr_jval bounds[3];
    for (int i = 0; i < 3; i++) bounds[i] = parts[i] ? qr_jeval_expr(run, parts[i], scope) : qr_jval_none();
    run->line = node->line;
    return qr_jval_slice(run, obj, bounds[0], bounds[1], bounds[2]);
}

static qr_jval eval_concat(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jbuild b = {.run = run};
    for (const qr_jnode *item = node->a; item; item = item->next) qr_jtext_add_str(&b, qr_jeval_expr(run, item, scope));
    return qr_jbuild_end(&b);
}

static bool compare_once(qr_jrun *run, qr_jval a, const char *op, qr_jval b)
{
    if (op[0] == 'i') return qr_jval_contains(run, b, a);
    if (op[0] == 'n') return !qr_jval_contains(run, b, a);
    if (op[0] == '=') return qr_jval_equal(run, a, b);
    if (op[0] == '!') return !qr_jval_equal(run, a, b);
    bool unordered;
    int c = qr_jval_compare(run, a, b, op, &unordered);
    if (unordered) return false;
    if (op[0] == '<') return op[1] ? c <= 0 : c < 0;
    return op[1] ? c >= 0 : c > 0;
}

static qr_jval eval_compare(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jval left = qr_jeval_expr(run, node->a, scope);
    for (const qr_jnode *operand = node->b; operand; operand = operand->next) {
        qr_jval right = qr_jeval_expr(run, operand->a, scope);
        run->line = operand->line;
        if (!compare_once(run, left, operand->value.text, right)) return qr_jval_bool(false);
        left = right;
    }
    return qr_jval_bool(true);
}

static qr_jval eval_arith(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    static const char *const ops[] = {"+", "-", "*", "/", "//", "%", "**"};
    qr_jval a = qr_jeval_expr(run, node->a, scope);
    qr_jval b = qr_jeval_expr(run, node->b, scope);
    run->line = node->line;
    return qr_jval_arith(run, ops[node->op - QR_JN_ADD], a, b);
}

static qr_jval eval_unary(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jval a = qr_jeval_expr(run, node->a, scope);
    if (node->op == QR_JN_NOT) return qr_jval_bool(!qr_jval_truth(run, a));
    if (node->op == QR_JN_NEG) return qr_jval_negate(run, a);
    if (a.kind == QR_J_BOOL) return qr_jval_int(a.boolean);
    if (a.kind == QR_J_UNDEFINED) qr_jrun_raise_undefined(run, a);
    if (!qr_jval_is_number(a)) qr_jrun_raise(run, "bad operand type for unary +: '%s'", qr_jval_type(a));
    return a;
}

static qr_jval eval_cond(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    if (qr_jval_truth(run, qr_jeval_expr(run, node->a, scope))) return qr_jeval_expr(run, node->b, scope);
    if (node->c) return qr_jeval_expr(run, node->c, scope);
    return qr_jval_hint("the inline if-expression evaluated to false and no else section was defined.");
}

static qr_jval eval_node(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jval a;
    switch ((qr_jop)node->op) {
    case QR_JN_CONST: return node->value;
    case QR_JN_NAME: return qr_jscope_get(run, scope, node->value);
    case QR_JN_LIST:
    case QR_JN_TUPLE: return eval_items(run, node, scope);
    case QR_JN_DICT: return eval_dict(run, node, scope);
    case QR_JN_ATTR:
        a = qr_jeval_expr(run, node->a, scope);
        run->line = node->line;
        return qr_jval_attr(run, a, node->value);
    case QR_JN_ITEM: return eval_item(run, node, scope);
    case QR_JN_CALL: return qr_jeval_call(run, node, scope, NULL);
    case QR_JN_FILTER: return eval_filter(run, node, scope);
    case QR_JN_TEST: return eval_test(run, node, scope);
    case QR_JN_NOT:
    case QR_JN_NEG:
    case QR_JN_POS: return eval_unary(run, node, scope);
    case QR_JN_AND:
        a = qr_jeval_expr(run, node->a, scope);
        return qr_jval_truth(run, a) ? qr_jeval_expr(run, node->b, scope) : a;
    case QR_JN_OR:
        a = qr_jeval_expr(run, node->a, scope);
        return qr_jval_truth(run, a) ? a : qr_jeval_expr(run, node->b, scope);
    case QR_JN_CONCAT: return eval_concat(run, node, scope);
    case QR_JN_COMPARE: return eval_compare(run, node, scope);
    case QR_JN_COND: return eval_cond(run, node, scope);
    default: return eval_arith(run, node, scope);
    }
}

qr_jval qr_jeval_expr(qr_jrun *run, const qr_jnode *node, qr_jscope *scope)
{
    qr_jrun_charge(run, 1);
    qr_jrun_enter(run);
    qr_jval value = eval_node(run, node, scope);
    qr_jrun_leave(run);
    return value;
}
