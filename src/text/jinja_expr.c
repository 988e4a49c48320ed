#include <string.h>

#include "text/jinja_library.h"
#include "text/jinja_syntax.h"

static qr_jnode *parse_unary(qr_jparser *p, bool with_filter);
static qr_jnode *parse_primary(qr_jparser *p, bool with_namespace);

qr_jnode *qr_jparse_node(qr_jparser *p, qr_jop op, int line)
{
    qr_jnode *node = qr_jrun_calloc(p->run, sizeof *node);
    node->op = (uint8_t)op;
    node->line = line;
    return node;
}

static qr_jnode *binary(qr_jparser *p, qr_jop op, int line, qr_jnode *a, qr_jnode *b)
{
    qr_jnode *node = qr_jparse_node(p, op, line);
    node->a = a;
    node->b = b;
    return node;
}

bool qr_jparse_is_op(const qr_jparser *p, const char *op)
{
    return p->token->type == QR_JT_OP && qr_jval_is_text(p->token->value, op, strlen(op));
}

bool qr_jparse_is_name(const qr_jparser *p, const char *name)
{
    return p->token->type == QR_JT_NAME && qr_jval_is_text(p->token->value, name, strlen(name));
}

static void next(qr_jparser *p)
{
    if (p->token->type != QR_JT_EOF) p->token++;
    p->run->line = p->token->line;
}

bool qr_jparse_skip_op(qr_jparser *p, const char *op)
{
    if (!qr_jparse_is_op(p, op)) return false;
    next(p);
    return true;
}

bool qr_jparse_skip_name(qr_jparser *p, const char *name)
{
    if (!qr_jparse_is_name(p, name)) return false;
    next(p);
    return true;
}

void qr_jparse_unexpected(qr_jparser *p, const char *expected)
{
    qr_jval v = p->token->value;
    p->run->line = p->token->line;
    if (p->token->type == QR_JT_NUMBER) qr_jrun_raise(p->run, "expected %s, got a number", expected);
    qr_jrun_raise(p->run, "expected %s, got '%.*s'", expected, (int)v.bytes, v.text);
}

void qr_jparse_expect_op(qr_jparser *p, const char *op)
{
    char expected[8] = {'\'', 0};
    strcat(strcat(expected, op), "'");
    if (!qr_jparse_skip_op(p, op)) qr_jparse_unexpected(p, expected);
}

qr_jval qr_jparse_expect_name(qr_jparser *p)
{
    if (p->token->type != QR_JT_NAME) qr_jparse_unexpected(p, "a name");
    qr_jval name = p->token->value;
    next(p);
    return name;
}

static void enter(qr_jparser *p) { qr_jrun_enter(p->run); }
static void leave(qr_jparser *p) { qr_jrun_leave(p->run); }

/* ---- literals ------------------------------------------------------------------------------------------------- */

/* Items up to the closing bracket, chained. */
static qr_jnode *parse_items(qr_jparser *p, const char *close, bool pairs)
{
    qr_jnode *first = NULL, **tail = &first;
    while (!qr_jparse_is_op(p, close)) {
        if (first) {
            qr_jparse_expect_op(p, ",");
            if (qr_jparse_is_op(p, close)) break;
        }
        qr_jnode *item = qr_jparse_expression(p, true);
        if (pairs) {
            qr_jparse_expect_op(p, ":");
            item = binary(p, QR_JN_PAIR, item->line, item, qr_jparse_expression(p, true));
        }
        *tail = item;
        tail = &item->next;
    }
    qr_jparse_expect_op(p, close);
    return first;
}

static qr_jnode *parse_string(qr_jparser *p)
{
    qr_jnode *node = qr_jparse_node(p, QR_JN_CONST, p->token->line);
    node->value = p->token->value;
    next(p);
    while (p->token->type == QR_JT_STRING) { /* adjacent literals are one */
        qr_jval more = p->token->value;
        size_t bytes = (size_t)node->value.bytes + more.bytes;
        char *text = qr_jrun_alloc(p->run, bytes);
        memcpy(text, node->value.text, node->value.bytes);
        if (more.bytes) memcpy(text + node->value.bytes, more.text, more.bytes);
        node->value = qr_jval_str(p->run, text, bytes);
        next(p);
    }
    return node;
}

static qr_jnode *parse_name(qr_jparser *p, bool with_namespace)
{
    static const struct {
        const char *name;
        qr_jkind kind;
        bool value;
    } constants[] = {{"true", QR_J_BOOL, true},   {"True", QR_J_BOOL, true},  {"false", QR_J_BOOL, false},
                     {"False", QR_J_BOOL, false}, {"none", QR_J_NONE, false}, {"None", QR_J_NONE, false}};
    int line = p->token->line;
    qr_jval name = qr_jparse_expect_name(p);
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (!qr_jval_is_text(name, constants[i].name, strlen(constants[i].name))) continue;
        qr_jnode *node = qr_jparse_node(p, QR_JN_CONST, line);
        node->value = (qr_jval){.kind = (uint8_t)constants[i].kind, .boolean = constants[i].value};
        return node;
    }
    if (with_namespace && qr_jparse_skip_op(p, ".")) {
        qr_jnode *node = qr_jparse_node(p, QR_JN_NSREF, line);
        node->value = name;
        node->a = qr_jparse_node(p, QR_JN_CONST, line);
        node->a->value = qr_jparse_expect_name(p);
        return node;
    }
    if (qr_jval_is_text(name, "caller", 6)) p->uses |= QR_J_USES_CALLER;
    if (qr_jval_is_text(name, "kwargs", 6)) p->uses |= QR_J_USES_KWARGS;
    if (qr_jval_is_text(name, "varargs", 7)) p->uses |= QR_J_USES_VARARGS;
    qr_jnode *node = qr_jparse_node(p, QR_JN_NAME, line);
    node->value = name;
    return node;
}

static qr_jnode *parse_primary(qr_jparser *p, bool with_namespace)
{
    int line = p->token->line;
    qr_jnode *node;
    switch (p->token->type) {
    case QR_JT_NAME: return parse_name(p, with_namespace);
    case QR_JT_STRING: return parse_string(p);
    case QR_JT_NUMBER:
        node = qr_jparse_node(p, QR_JN_CONST, line);
        node->value = p->token->value;
        next(p);
        return node;
    default: break;
    }
    if (qr_jparse_skip_op(p, "(")) {
        node = qr_jparse_tuple(p, true, NULL, true);
        qr_jparse_expect_op(p, ")");
        return node;
    }
    bool is_list = qr_jparse_is_op(p, "[");
    if (!is_list && !qr_jparse_is_op(p, "{")) qr_jparse_unexpected(p, "an expression");
    next(p);
    node = qr_jparse_node(p, is_list ? QR_JN_LIST : QR_JN_DICT, line);
    node->a = parse_items(p, is_list ? "]" : "}", !is_list);
    return node;
}

/* ---- subscripts, calls, filters, tests ---------------------------------------------------------------------- */

static bool ends_slice_part(const qr_jparser *p)
{
    return qr_jparse_is_op(p, "]") || qr_jparse_is_op(p, ",") || qr_jparse_is_op(p, ":");
}

static qr_jnode *parse_index(qr_jparser *p)
{
    int line = p->token->line;
    qr_jnode *start = qr_jparse_is_op(p, ":") ? NULL : qr_jparse_expression(p, true);
    if (!qr_jparse_skip_op(p, ":")) return start;
    qr_jnode *slice = binary(p, QR_JN_SLICE, line, start, NULL);
    if (!ends_slice_part(p)) slice->b = qr_jparse_expression(p, true);
    if (qr_jparse_skip_op(p, ":") && !ends_slice_part(p)) slice->c = qr_jparse_expression(p, true);
    return slice;
}

static qr_jnode *parse_subscript(qr_jparser *p, qr_jnode *object)
{
    int line = p->token->line;
    if (qr_jparse_skip_op(p, ".")) {
        qr_jnode *node = qr_jparse_node(p, QR_JN_ATTR, line);
        node->a = object;
        node->value = p->token->value;
        if (p->token->type == QR_JT_NUMBER && node->value.kind == QR_J_INT) {
            node->op = QR_JN_ITEM;
            node->b = qr_jparse_node(p, QR_JN_CONST, line);
            node->b->value = node->value;
        } else if (p->token->type != QR_JT_NAME) {
            qr_jparse_unexpected(p, "a name or number");
        }
        next(p);
        return node;
    }
    qr_jparse_expect_op(p, "[");
    qr_jnode *first = NULL, **tail = &first;
    while (!qr_jparse_is_op(p, "]")) {
        if (first) qr_jparse_expect_op(p, ",");
        *tail = parse_index(p);
        tail = &(*tail)->next;
    }
    next(p);
    if (!first || first->next) {
        qr_jnode *tuple = qr_jparse_node(p, QR_JN_TUPLE, line);
        tuple->a = first;
        for (; first; first = first->next)
            if (first->op == QR_JN_SLICE) qr_jrun_raise(p->run, "a slice cannot be part of a tuple");
        first = tuple;
    }
    return binary(p, QR_JN_ITEM, line, object, first);
}

static qr_jcall *parse_call_args(qr_jparser *p)
{
    qr_jcall *call = qr_jrun_calloc(p->run, sizeof *call);
    qr_jnode **pos_tail = &call->pos, **kw_tail = &call->kw;
    qr_jparse_expect_op(p, "(");
    for (bool first = true; !qr_jparse_is_op(p, ")"); first = false) {
        if (!first) {
            qr_jparse_expect_op(p, ",");
            if (qr_jparse_is_op(p, ")")) break;
        }
        bool in_order = true;
        if (qr_jparse_skip_op(p, "*")) {
            in_order = !call->dyn_pos && !call->dyn_kw;
            call->dyn_pos = qr_jparse_expression(p, true);
        } else if (qr_jparse_skip_op(p, "**")) {
            in_order = !call->dyn_kw;
            call->dyn_kw = qr_jparse_expression(p, true);
        } else if (p->token->type == QR_JT_NAME && p->token[1].type == QR_JT_OP &&
                   qr_jval_is_text(p->token[1].value, "=", 1)) {
            in_order = !call->dyn_kw;
            qr_jnode *kw = qr_jparse_node(p, QR_JN_KEYWORD, p->token->line);
            kw->value = p->token->value;
            for (qr_jnode *k = call->kw; k; k = k->next)
                if (qr_jval_is_text(k->value, kw->value.text, kw->value.bytes)) in_order = false;
            next(p);
            next(p);
            kw->a = qr_jparse_expression(p, true);
            *kw_tail = kw;
            kw_tail = &kw->next;
            call->num_kw++;
        } else {
            in_order = !call->dyn_pos && !call->dyn_kw && !call->kw;
            *pos_tail = qr_jparse_expression(p, true);
            pos_tail = &(*pos_tail)->next;
            call->num_pos++;
        }
        if (!in_order) qr_jrun_raise(p->run, "invalid syntax for function call expression");
    }
    next(p);
    return call;
}

static qr_jnode *parse_call(qr_jparser *p, qr_jnode *callee)
{
    qr_jnode *node = binary(p, QR_JN_CALL, p->token->line, callee, NULL);
    node->args = parse_call_args(p);
    return node;
}

static qr_jnode *parse_postfix(qr_jparser *p, qr_jnode *node)
{
    for (;;) {
        if (qr_jparse_is_op(p, ".") || qr_jparse_is_op(p, "["))
            node = parse_subscript(p, node);
        else if (qr_jparse_is_op(p, "("))
            node = parse_call(p, node);
        else
            return node;
    }
}

/* The name of a filter or test, which may have dots. */
static qr_jval parse_dotted_name(qr_jparser *p)
{
    qr_jval name = qr_jparse_expect_name(p);
    while (qr_jparse_skip_op(p, ".")) {
        qr_jval part = qr_jparse_expect_name(p);
        char *text = qr_jrun_alloc(p->run, (size_t)name.bytes + 1 + part.bytes);
        memcpy(text, name.text, name.bytes);
        text[name.bytes] = '.';
        memcpy(text + name.bytes + 1, part.text, part.bytes);
        name = qr_jval_str(p->run, text, (size_t)name.bytes + 1 + part.bytes);
    }
    return name;
}

static void note_unknown(qr_jparser *p, const qr_jnode *node)
{
    if (!node->function && !p->soft && !p->unknown) p->unknown = node;
}

qr_jnode *qr_jparse_filters(qr_jparser *p, qr_jnode *node, bool start_inline)
{
    while (start_inline || qr_jparse_skip_op(p, "|")) {
        start_inline = false;
        qr_jnode *filter = binary(p, QR_JN_FILTER, p->token->line, node, NULL);
        filter->value = parse_dotted_name(p);
        filter->function = qr_jfilter_find(filter->value.text, filter->value.bytes);
        note_unknown(p, filter);
        filter->args = qr_jparse_is_op(p, "(") ? parse_call_args(p) : qr_jrun_calloc(p->run, sizeof *filter->args);
        node = filter;
    }
    return node;
}

static bool starts_test_argument(const qr_jparser *p)
{
    if (p->token->type == QR_JT_NAME)
        return !qr_jparse_is_name(p, "else") && !qr_jparse_is_name(p, "or") && !qr_jparse_is_name(p, "and");
    return p->token->type == QR_JT_STRING || p->token->type == QR_JT_NUMBER || qr_jparse_is_op(p, "[") ||
           qr_jparse_is_op(p, "{");
}

static qr_jnode *parse_test(qr_jparser *p, qr_jnode *input)
{
    int line = p->token->line;
    next(p); /* is */
    bool negated = qr_jparse_skip_name(p, "not");
    qr_jnode *node = binary(p, QR_JN_TEST, line, input, NULL);
    node->value = parse_dotted_name(p);
    node->function = qr_jtest_find(node->value.text, node->value.bytes);
    note_unknown(p, node);
    if (qr_jparse_is_op(p, "(")) {
        node->args = parse_call_args(p);
    } else {
        node->args = qr_jrun_calloc(p->run, sizeof *node->args);
        if (starts_test_argument(p)) {
            if (qr_jparse_is_name(p, "is")) qr_jrun_raise(p->run, "You cannot chain multiple tests with is");
            node->args->pos = parse_postfix(p, parse_primary(p, false));
            node->args->num_pos = 1;
        }
    }
    return negated ? binary(p, QR_JN_NOT, line, node, NULL) : node;
}

/* ---- operators, loosest last -------------------------------------------------------------------------------- */

static qr_jnode *parse_unary(qr_jparser *p, bool with_filter)
{
    enter(p);
    int line = p->token->line;
    qr_jnode *node;
    if (qr_jparse_skip_op(p, "-"))
        node = binary(p, QR_JN_NEG, line, parse_unary(p, false), NULL);
    else if (qr_jparse_skip_op(p, "+"))
        node = binary(p, QR_JN_POS, line, parse_unary(p, false), NULL);
    else
        node = parse_primary(p, false);
    node = parse_postfix(p, node);
    for (bool more = with_filter; more;) {
        if (qr_jparse_is_op(p, "|"))
            node = qr_jparse_filters(p, node, false);
        else if (qr_jparse_is_name(p, "is"))
            node = parse_test(p, node);
        else if (qr_jparse_is_op(p, "("))
            node = parse_call(p, node);
        else
            more = false;
    }
    leave(p);
    return node;
}

static qr_jnode *parse_pow(qr_jparser *p)
{
    int line = p->token->line;
    qr_jnode *left = parse_unary(p, true);
    while (qr_jparse_skip_op(p, "**")) left = binary(p, QR_JN_POW, line, left, parse_unary(p, true));
    return left;
}

static qr_jnode *parse_product(qr_jparser *p)
{
    int line = p->token->line;
    qr_jnode *left = parse_pow(p);
    for (;;) {
        qr_jop op;
        if (qr_jparse_skip_op(p, "*"))
            op = QR_JN_MUL;
        else if (qr_jparse_skip_op(p, "/"))
            op = QR_JN_DIV;
        else if (qr_jparse_skip_op(p, "//"))
            op = QR_JN_FLOORDIV;
        else if (qr_jparse_skip_op(p, "%"))
            op = QR_JN_MOD;
        else
            return left;
        left = binary(p, op, line, left, parse_pow(p));
    }
}

static qr_jnode *parse_concat(qr_jparser *p)
{
    int line = p->token->line;
    qr_jnode *first = parse_product(p);
    if (!qr_jparse_is_op(p, "~")) return first;
    qr_jnode *node = binary(p, QR_JN_CONCAT, line, first, NULL), **tail = &first->next;
    while (qr_jparse_skip_op(p, "~")) {
        *tail = parse_product(p);
        tail = &(*tail)->next;
    }
    return node;
}

static qr_jnode *parse_sum(qr_jparser *p)
{
    int line = p->token->line;
    qr_jnode *left = parse_concat(p);
    for (;;) {
        if (qr_jparse_skip_op(p, "+"))
            left = binary(p, QR_JN_ADD, line, left, parse_concat(p));
        else if (qr_jparse_skip_op(p, "-"))
            left = binary(p, QR_JN_SUB, line, left, parse_concat(p));
        else
            return left;
    }
}

/* The comparison operator at the current token, which is skipped; NULL when there is none. */
static const char *skip_comparison(qr_jparser *p)
{
    static const char *const ops[] = {"==", "!=", "<", "<=", ">", ">="};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (qr_jparse_skip_op(p, ops[i])) return ops[i];
    if (qr_jparse_skip_name(p, "in")) return "in";
    if (!qr_jparse_is_name(p, "not") || p->token[1].type != QR_JT_NAME || !qr_jval_is_text(p->token[1].value, "in", 2))
        return NULL;
    next(p);
    next(p);
    return "not in";
}

static qr_jnode *parse_compare(qr_jparser *p)
{
    int line = p->token->line;
    qr_jnode *first = parse_sum(p), *operands = NULL, **tail = &operands;
    const char *op;
    while ((op = skip_comparison(p))) {
        qr_jnode *operand = qr_jparse_node(p, QR_JN_OPERAND, p->token->line);
        operand->value = qr_jval_cstr(op);
        operand->a = parse_sum(p);
        *tail = operand;
        tail = &operand->next;
    }
    return operands ? binary(p, QR_JN_COMPARE, line, first, operands) : first;
}

static qr_jnode *parse_not(qr_jparser *p)
{
    int line = p->token->line;
    if (!qr_jparse_skip_name(p, "not")) return parse_compare(p);
    enter(p);
    qr_jnode *node = binary(p, QR_JN_NOT, line, parse_not(p), NULL);
    leave(p);
    return node;
}

static qr_jnode *parse_and(qr_jparser *p)
{
    int line = p->token->line;
    qr_jnode *left = parse_not(p);
    while (qr_jparse_skip_name(p, "and")) left = binary(p, QR_JN_AND, line, left, parse_not(p));
    return left;
}

static qr_jnode *parse_or(qr_jparser *p)
{
    int line = p->token->line;
    qr_jnode *left = parse_and(p);
    while (qr_jparse_skip_name(p, "or")) left = binary(p, QR_JN_OR, line, left, parse_and(p));
    return left;
}

qr_jnode *qr_jparse_expression(qr_jparser *p, bool with_cond)
{
    enter(p);
    int line = p->token->line;
    const qr_jnode *unknown = p->unknown;
    qr_jnode *node = parse_or(p);
    while (with_cond && qr_jparse_skip_name(p, "if")) {
        node = binary(p, QR_JN_COND, line, NULL, node);
        node->a = parse_or(p);
        if (qr_jparse_skip_name(p, "else")) node->c = qr_jparse_expression(p, true);
        p->unknown = unknown; /* one that is not reached does not matter */
    }
    leave(p);
    return node;
}

static bool ends_tuple(const qr_jparser *p, const char *end_name)
{
    return p->token->type == QR_JT_VAR_END || p->token->type == QR_JT_BLOCK_END || qr_jparse_is_op(p, ")") ||
           (end_name && qr_jparse_is_name(p, end_name));
}

/* Targets are made of names and literals only, expressions of anything. */
static qr_jnode *parse_tuple_of(qr_jparser *p, bool is_target, bool flag, const char *end_name, bool parenthesised)
{
    int line = p->token->line;
    qr_jnode *first = NULL, **tail = &first;
    bool is_tuple = false;
    for (;;) {
        if (first) qr_jparse_expect_op(p, ",");
        if (ends_tuple(p, end_name)) break;
        *tail = is_target ? parse_primary(p, flag) : qr_jparse_expression(p, flag);
        tail = &(*tail)->next;
        if (!qr_jparse_is_op(p, ",")) break;
        is_tuple = true;
    }
    if (!is_tuple && first) return first;
    if (!is_tuple && !parenthesised) qr_jparse_unexpected(p, "an expression");
    return binary(p, QR_JN_TUPLE, line, first, NULL);
}

qr_jnode *qr_jparse_tuple(qr_jparser *p, bool with_cond, const char *end_name, bool parenthesised)
{
    return parse_tuple_of(p, false, with_cond, end_name, parenthesised);
}

static void require_assignable(qr_jparser *p, const qr_jnode *target)
{
    enter(p);
    bool is_tuple = target->op == QR_JN_TUPLE;
    if (!is_tuple && target->op != QR_JN_NAME && target->op != QR_JN_NSREF)
        qr_jrun_raise(p->run, "can't assign to this expression");
    if (is_tuple)
        for (const qr_jnode *item = target->a; item; item = item->next) require_assignable(p, item);
    leave(p);
}

qr_jnode *qr_jparse_target(qr_jparser *p, const char *end_name, bool with_namespace)
{
    uint8_t uses = p->uses;
    qr_jnode *target = parse_tuple_of(p, true, with_namespace, end_name, false);
    require_assignable(p, target);
    p->uses = uses; /* setting a name does not use it */
    return target;
}
