#include <string.h>

#include "text/jinja_syntax.h"
#include "text/jinja_text.h"

static qr_jnode *parse_body(qr_jparser *p, const char *const *ends);

static void next(qr_jparser *p)
{
    if (p->token->type != QR_JT_EOF) p->token++;
    p->run->line = p->token->line;
}

static void expect_block_end(qr_jparser *p)
{
    if (p->token->type != QR_JT_BLOCK_END) qr_jparse_unexpected(p, "'%}'");
    next(p);
}

/* The rest of a tag, then the body up to one of `ends`, which becomes the current token. */
static qr_jnode *parse_block(qr_jparser *p, const char *const *ends)
{
    qr_jparse_skip_op(p, ":");
    expect_block_end(p);
    return parse_body(p, ends);
}

/* A body with names of its own, up to `end`, which is skipped. */
static qr_jnode *parse_scope(qr_jparser *p, const char *end)
{
    bool soft = p->soft;
    p->soft = false;
    const char *ends[] = {end, NULL};
    qr_jnode *body = parse_block(p, ends);
    next(p);
    p->soft = soft;
    return body;
}

static qr_jnode *parse_if(qr_jparser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    qr_jrun_enter(p->run);
    qr_jnode *node = qr_jparse_node(p, QR_JN_IF, p->token->line);
    next(p); /* if, elif */
    bool soft = p->soft;
    p->soft = true;
    node->a = qr_jparse_tuple(p, false, NULL, false);
    node->b = parse_block(p, ends);
    if (qr_jparse_is_name(p, "elif")) {
        node->c = parse_if(p);
    } else if (qr_jparse_skip_name(p, "else")) {
        node->c = parse_block(p, last);
        next(p);
    } else {
        next(p);
    }
    p->soft = soft;
    qr_jrun_leave(p->run);
    return node;
}

static void refuse_loop_target(qr_jparser *p, const qr_jnode *target)
{
    if (target->op == QR_JN_NAME && qr_jval_is_text(target->value, "loop", 4))
        qr_jrun_raise(p->run, "Can't assign to special loop variable in for-loop target");
    if (target->op == QR_JN_TUPLE)
        for (const qr_jnode *item = target->a; item; item = item->next) refuse_loop_target(p, item);
}

static qr_jnode *parse_for(qr_jparser *p)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    qr_jnode *node = qr_jparse_node(p, QR_JN_FOR, p->token->line);
    next(p);
    node->a = qr_jparse_target(p, "in", false);
    refuse_loop_target(p, node->a);
    if (!qr_jparse_skip_name(p, "in")) qr_jparse_unexpected(p, "'in'");
    node->b = qr_jparse_tuple(p, false, "recursive", false);
    bool soft = p->soft;
    p->soft = false;
    if (qr_jparse_skip_name(p, "if")) node->e = qr_jparse_expression(p, true);
    if (qr_jparse_skip_name(p, "recursive")) node->flags |= QR_J_RECURSIVE;
    p->loop_depth++;
    node->c = parse_block(p, ends);
    p->loop_depth--;
    if (qr_jparse_skip_name(p, "else"))
        node->d = parse_scope(p, "endfor");
    else
        next(p);
    p->soft = soft;
    return node;
}

static qr_jnode *parse_set(qr_jparser *p)
{
    qr_jnode *node = qr_jparse_node(p, QR_JN_SET, p->token->line);
    next(p);
    node->a = qr_jparse_target(p, NULL, true);
    if (qr_jparse_skip_op(p, "=")) {
        node->b = qr_jparse_tuple(p, true, NULL, false);
        return node;
    }
    node->op = QR_JN_SET_BLOCK;
    node->b = qr_jparse_filters(p, NULL, false);
    node->c = parse_scope(p, "endset");
    return node;
}

static qr_jnode *parse_filter_block(qr_jparser *p)
{
    qr_jnode *node = qr_jparse_node(p, QR_JN_FILTER_BLOCK, p->token->line);
    next(p);
    node->b = qr_jparse_filters(p, NULL, true);
    node->c = parse_scope(p, "endfilter");
    return node;
}

static qr_jnode *parse_params(qr_jparser *p)
{
    qr_jnode *first = NULL, **tail = &first;
    bool with_default = false;
    qr_jparse_expect_op(p, "(");
    while (!qr_jparse_is_op(p, ")")) {
        if (first) qr_jparse_expect_op(p, ",");
        qr_jnode *param = qr_jparse_node(p, QR_JN_PARAM, p->token->line);
        param->value = qr_jparse_expect_name(p);
        for (const qr_jnode *other = first; other; other = other->next)
            if (qr_jval_is_text(other->value, param->value.text, param->value.bytes))
                qr_jrun_raise(p->run, "duplicate argument '%.*s'", (int)param->value.bytes, param->value.text);
        if (qr_jparse_skip_op(p, "=")) {
            param->a = qr_jparse_expression(p, true);
            with_default = true;
        } else if (with_default) {
            qr_jrun_raise(p->run, "non-default argument follows default argument");
        }
        *tail = param;
        tail = &param->next;
    }
    next(p);
    return first;
}

/* Body of a macro or call block: what it uses, and no way out to a loop around it. */
static void parse_macro_body(qr_jparser *p, qr_jnode *macro, const char *end)
{
    uint8_t outer_uses = p->uses;
    int outer_depth = p->loop_depth;
    p->uses = 0;
    p->loop_depth = 0;
    macro->c = parse_scope(p, end);
    macro->flags = p->uses;
    for (const qr_jnode *param = macro->a; param; param = param->next) {
        if (!qr_jval_is_text(param->value, "caller", 6) || !(macro->flags & QR_J_USES_CALLER)) continue;
        if (!param->a) qr_jrun_raise(p->run, "the special \"caller\" argument must be omitted or have a default");
        macro->flags &= (uint8_t)~QR_J_USES_CALLER;
    }
    p->uses |= outer_uses;
    p->loop_depth = outer_depth;
}

static qr_jnode *parse_macro(qr_jparser *p)
{
    qr_jnode *node = qr_jparse_node(p, QR_JN_MACRO, p->token->line);
    next(p);
    node->value = qr_jparse_expect_name(p);
    node->a = parse_params(p);
    parse_macro_body(p, node, "endmacro");
    return node;
}

static qr_jnode *parse_call_block(qr_jparser *p)
{
    qr_jnode *node = qr_jparse_node(p, QR_JN_CALL_BLOCK, p->token->line);
    next(p);
    node->d = qr_jparse_node(p, QR_JN_MACRO, node->line);
    if (qr_jparse_is_op(p, "(")) node->d->a = parse_params(p);
    node->b = qr_jparse_expression(p, true);
    if (node->b->op != QR_JN_CALL) qr_jrun_raise(p->run, "expected call");
    parse_macro_body(p, node->d, "endcall");
    return node;
}

static qr_jnode *parse_with(qr_jparser *p)
{
    qr_jnode *node = qr_jparse_node(p, QR_JN_WITH, p->token->line), **tail = &node->a;
    next(p);
    while (p->token->type != QR_JT_BLOCK_END) {
        if (node->a) qr_jparse_expect_op(p, ",");
        qr_jnode *set = qr_jparse_node(p, QR_JN_SET, p->token->line);
        set->a = qr_jparse_target(p, NULL, false);
        qr_jparse_expect_op(p, "=");
        set->b = qr_jparse_expression(p, true);
        *tail = set;
        tail = &set->next;
    }
    node->c = parse_scope(p, "endwith");
    return node;
}

/* {% generation %}: transformers' mark around an assistant's text; here only a scope. */
static qr_jnode *parse_generation(qr_jparser *p)
{
    qr_jnode *node = qr_jparse_node(p, QR_JN_WITH, p->token->line);
    next(p);
    int outer_depth = p->loop_depth;
    p->loop_depth = 0;
    node->c = parse_scope(p, "endgeneration");
    p->loop_depth = outer_depth;
    return node;
}

/* {% block %}: nothing can extend a chat template, so its text stands where it is. */
static qr_jnode *parse_named_block(qr_jparser *p)
{
    qr_jnode *node = qr_jparse_node(p, QR_JN_WITH, p->token->line);
    next(p);
    qr_jval name = qr_jparse_expect_name(p);
    if (!qr_jparse_skip_name(p, "scoped")) node->flags |= QR_J_ISOLATED;
    int outer_depth = p->loop_depth;
    p->loop_depth = 0;
    node->c = parse_scope(p, "endblock");
    p->loop_depth = outer_depth;
    if (p->token->type == QR_JT_NAME && qr_jval_is_text(p->token->value, name.text, name.bytes)) next(p);
    return node;
}

static qr_jnode *parse_print(qr_jparser *p)
{
    qr_jnode *node = qr_jparse_node(p, QR_JN_PRINT, p->token->line), **tail = &node->a;
    next(p);
    while (p->token->type != QR_JT_BLOCK_END) {
        if (node->a) qr_jparse_expect_op(p, ",");
        *tail = qr_jparse_expression(p, true);
        tail = &(*tail)->next;
    }
    return node;
}

static qr_jnode *parse_jump(qr_jparser *p)
{
    bool is_break = qr_jparse_is_name(p, "break");
    qr_jnode *node = qr_jparse_node(p, is_break ? QR_JN_BREAK : QR_JN_CONTINUE, p->token->line);
    if (p->loop_depth == 0) qr_jrun_raise(p->run, "'%s' outside loop", is_break ? "break" : "continue");
    next(p);
    return node;
}

static qr_jnode *parse_statement(qr_jparser *p)
{
    static const struct {
        const char *name;
        qr_jnode *(*parse)(qr_jparser *p);
    } statements[] = {
        {"if", parse_if},
        {"for", parse_for},
        {"set", parse_set},
        {"macro", parse_macro},
        {"call", parse_call_block},
        {"filter", parse_filter_block},
        {"with", parse_with},
        {"break", parse_jump},
        {"continue", parse_jump},
        {"generation", parse_generation},
        {"block", parse_named_block},
        {"print", parse_print},
    };
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
        if (qr_jparse_is_name(p, statements[i].name)) return statements[i].parse(p);
    qr_jval v = p->token->value;
    if (p->token->type != QR_JT_NAME) qr_jparse_unexpected(p, "a tag name");
    static const char *const loading[] = {"include", "import", "from", "extends", "autoescape"};
    for (size_t i = 0; i < sizeof loading / sizeof *loading; i++)
        if (qr_jparse_is_name(p, loading[i]))
            qr_jrun_raise(p->run, "tag '%s' is not supported in a chat template", loading[i]);
    qr_jrun_raise(p->run, "Encountered unknown tag '%.*s'.", (int)v.bytes, v.text);
}

static bool at_end_tag(const qr_jparser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (qr_jparse_is_name(p, *ends)) return true;
    return false;
}

/* Statements and text up to the tag of one of `ends` (the current token then), or, with ends NULL, of the template. */
static qr_jnode *parse_body(qr_jparser *p, const char *const *ends)
{
    qr_jnode *first = NULL, **tail = &first, *node = NULL;
    qr_jrun_enter(p->run);
    while (p->token->type != QR_JT_EOF) {
        int line = p->token->line;
        if (p->token->type == QR_JT_DATA) {
            node = qr_jparse_node(p, QR_JN_TEXT, line);
            node->value = p->token->value;
            next(p);
        } else if (p->token->type == QR_JT_VAR_BEGIN) {
            next(p);
            node = qr_jparse_node(p, QR_JN_PRINT, line);
            node->a = qr_jparse_tuple(p, true, NULL, false);
            if (p->token->type != QR_JT_VAR_END) qr_jparse_unexpected(p, "'}}'");
            next(p);
        } else {
            next(p); /* {% */
            if (at_end_tag(p, ends)) {
                qr_jrun_leave(p->run);
                return first;
            }
            node = parse_statement(p);
            expect_block_end(p);
        }
        *tail = node;
        tail = &node->next;
    }
    if (ends) qr_jrun_raise(p->run, "Unexpected end of template: '%s' is missing", ends[0]);
    qr_jrun_leave(p->run);
    return first;
}

qr_jnode *qr_jparse_run(qr_jrun *run, const char *source, size_t source_bytes)
{
    if (source_bytes > QR_J_MAX_SOURCE_BYTES) qr_jrun_limit(run, "the template is longer than 4 MiB");
    if (!qr_jtext_valid(source, source_bytes)) qr_jrun_raise(run, "the template is not valid UTF-8");
    qr_jparser p = {.run = run, .token = qr_jlex_run(run, source, source_bytes)};
    run->line = 1;
    qr_jnode *body = parse_body(&p, NULL);
    if (p.unknown) {
        run->line = p.unknown->line;
        qr_jrun_raise(run, "No %s named '%.*s'.", p.unknown->op == QR_JN_TEST ? "test" : "filter",
                      (int)p.unknown->value.bytes, p.unknown->value.text);
    }
    return body;
}
