/* jinja_syntax: from source to tree.
 *
 *   source ─► qr_jlex_run ─► tokens ─► qr_jparse_run ─► nodes        all in the run's arena
 *
 * A node's operands are a..e; lists (bodies, items, parameters) are chained by `next`. What each field holds is
 * written beside the op. Trees are immutable after parsing.
 *
 * Threads: as the run.  Source: jinja2 3.1's grammar and its whitespace rules under trim_blocks and lstrip_blocks. */
#ifndef QR_TEXT_JINJA_SYNTAX_H
#define QR_TEXT_JINJA_SYNTAX_H

#include "text/jinja_core.h"

typedef enum qr_jtoken_type {
    QR_JT_EOF,
    QR_JT_DATA,
    QR_JT_VAR_BEGIN,
    QR_JT_VAR_END,
    QR_JT_BLOCK_BEGIN,
    QR_JT_BLOCK_END,
    QR_JT_NAME,
    QR_JT_STRING,
    QR_JT_NUMBER, /* value: INT or FLOAT */
    QR_JT_OP,     /* text: the operator */
} qr_jtoken_type;

typedef struct qr_jtoken {
    qr_jtoken_type type;
    int line;
    qr_jval value; /* NUMBER, else a string: text, name, literal's value, operator */
} qr_jtoken;

/* Tokens of a template, the last one EOF. Raises on syntax errors. */
qr_jtoken *qr_jlex_run(qr_jrun *run, const char *source, size_t source_bytes);

typedef enum qr_jop {
    /* expressions */
    QR_JN_CONST,   /* value */
    QR_JN_NAME,    /* value: name */
    QR_JN_LIST,    /* a: items */
    QR_JN_TUPLE,   /* a: items */
    QR_JN_DICT,    /* a: PAIRs */
    QR_JN_PAIR,    /* a: key, b: value */
    QR_JN_ATTR,    /* a: object, value: name */
    QR_JN_ITEM,    /* a: object, b: index or SLICE */
    QR_JN_SLICE,   /* a, b, c: start, stop, step or NULL */
    QR_JN_CALL,    /* a: callee, args */
    QR_JN_FILTER,  /* a: input, NULL: the block's text; value: name; function NULL: unknown; args */
    QR_JN_TEST,    /* a: input; value: name; function NULL: unknown; args */
    QR_JN_KEYWORD, /* value: name, a: expression */
    QR_JN_NOT,     /* a */
    QR_JN_NEG,     /* a */
    QR_JN_POS,     /* a */
    QR_JN_ADD,     /* a, b, and so for the next six */
    QR_JN_SUB,
    QR_JN_MUL,
    QR_JN_DIV,
    QR_JN_FLOORDIV,
    QR_JN_MOD,
    QR_JN_POW,
    QR_JN_AND,     /* a, b */
    QR_JN_OR,      /* a, b */
    QR_JN_CONCAT,  /* a: items */
    QR_JN_COMPARE, /* a: first, b: OPERANDs */
    QR_JN_OPERAND, /* value: "==", "<", ..., "in", "not in"; a: expression */
    QR_JN_COND,    /* a: condition, b: then, c: else or NULL */
    QR_JN_NSREF,   /* value: namespace's name, a: CONST attribute; assignment targets only */
    /* statements */
    QR_JN_TEXT,         /* value */
    QR_JN_PRINT,        /* a: expressions */
    QR_JN_IF,           /* a: condition, b: body, c: else body */
    QR_JN_FOR,          /* a: target, b: iterable, c: body, d: else body, e: condition; flags: RECURSIVE */
    QR_JN_SET,          /* a: target, b: value */
    QR_JN_SET_BLOCK,    /* a: target, b: FILTER or NULL, c: body */
    QR_JN_FILTER_BLOCK, /* b: FILTER, c: body */
    QR_JN_MACRO,        /* value: name, a: PARAMs, c: body; flags: USES_* */
    QR_JN_PARAM,        /* value: name, a: default or NULL */
    QR_JN_CALL_BLOCK,   /* b: CALL, d: its body as a nameless MACRO */
    QR_JN_WITH,         /* a: SETs, c: body; flags: ISOLATED: of {% block %}, sees the outermost scope only */
    QR_JN_BREAK,
    QR_JN_CONTINUE,
} qr_jop;

enum { QR_J_RECURSIVE = 1, QR_J_USES_CALLER = 2, QR_J_USES_KWARGS = 4, QR_J_USES_VARARGS = 8, QR_J_ISOLATED = 16 };

typedef struct qr_jnode qr_jnode;
typedef struct qr_jcall {
    qr_jnode *pos, *kw; /* expressions; KEYWORDs */
    size_t num_pos, num_kw;
    qr_jnode *dyn_pos, *dyn_kw; /* *expression, **expression, or NULL */
} qr_jcall;

struct qr_jnode {
    uint8_t op, flags;
    int line;
    qr_jnode *next;
    qr_jnode *a, *b, *c, *d, *e;
    qr_jval value;
    const qr_jfunction *function;
    qr_jcall *args;
};

/* The body of the template; NULL when it is empty. Raises on syntax errors. */
qr_jnode *qr_jparse_run(qr_jrun *run, const char *source, size_t source_bytes);

/* The parser's state, shared by statements (jinja_parse.c) and expressions (jinja_expr.c). */
typedef struct qr_jparser {
    qr_jrun *run;
    const qr_jtoken *token;  /* the current one */
    bool soft;               /* directly inside an if: unknown filters and tests fail only when reached */
    const qr_jnode *unknown; /* the first unknown filter or test elsewhere, or NULL */
    int loop_depth;          /* loops around, within the current macro */
    uint8_t uses;            /* QR_J_USES_* seen since the innermost macro began */
} qr_jparser;

qr_jnode *qr_jparse_node(qr_jparser *p, qr_jop op, int line);
qr_jnode *qr_jparse_expression(qr_jparser *p, bool with_cond);
/* An expression, or a tuple without parentheses; `end_name` (or NULL) is a name that ends it. */
qr_jnode *qr_jparse_tuple(qr_jparser *p, bool with_cond, const char *end_name, bool parenthesised);
qr_jnode *qr_jparse_target(qr_jparser *p, const char *end_name, bool with_namespace);
qr_jnode *qr_jparse_filters(qr_jparser *p, qr_jnode *node, bool start_inline);
bool qr_jparse_is_op(const qr_jparser *p, const char *op);
bool qr_jparse_is_name(const qr_jparser *p, const char *name);
bool qr_jparse_skip_op(qr_jparser *p, const char *op);
bool qr_jparse_skip_name(qr_jparser *p, const char *name);
void qr_jparse_expect_op(qr_jparser *p, const char *op);
qr_jval qr_jparse_expect_name(qr_jparser *p);
_Noreturn void qr_jparse_unexpected(qr_jparser *p, const char *expected);

#endif
