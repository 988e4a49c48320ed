/* jinja_interp: runs a tree.
 *
 *   scope ─► parent ─► ... ─► globals      a name is looked up outwards; set writes to the innermost
 *
 * Loops, macros, call blocks and block assignments open a scope, `if` does not. A macro keeps the scope it was made in.
 * Text goes to run->out; capturing cuts the text written since a mark off again.
 *
 * Threads: as the run.  Source: jinja2 3.1's scoping rules. */
#ifndef QR_TEXT_JINJA_INTERP_H
#define QR_TEXT_JINJA_INTERP_H

#include "text/jinja_library.h"
#include "text/jinja_syntax.h"

typedef struct qr_jscope qr_jscope;
struct qr_jscope {
    qr_jscope *parent;
    qr_jdict vars;
};

typedef struct qr_jmacro {
    const qr_jnode *node;
    qr_jscope *scope;
} qr_jmacro;

typedef struct qr_jloop {
    const qr_jnode *node;
    qr_jscope *scope; /* around the loop */
    qr_jval over;     /* what is iterated */
    qr_jiter *iter;
    qr_jval after; /* read ahead; MISSING: nothing */
    qr_jval current, before, last_changed;
    int64_t index0, length; /* length -1: not known yet */
    int depth0;
} qr_jloop;

typedef enum qr_jflow { QR_J_NEXT, QR_J_BREAK, QR_J_CONTINUE } qr_jflow;

qr_jscope *qr_jscope_create(qr_jrun *run, qr_jscope *parent);
void qr_jscope_set(qr_jrun *run, qr_jscope *scope, qr_jval name, qr_jval value);
qr_jval qr_jscope_get(qr_jrun *run, const qr_jscope *scope, qr_jval name); /* undefined when unknown */

qr_jval qr_jeval_expr(qr_jrun *run, const qr_jnode *node, qr_jscope *scope);
/* A call node, with `extra` (or NULL) as one more keyword argument. */
qr_jval qr_jeval_call(qr_jrun *run, const qr_jnode *node, qr_jscope *scope, const qr_jpair *extra);
/* A chain of filters whose innermost input is `input`. */
qr_jval qr_jeval_filters(qr_jrun *run, const qr_jnode *node, qr_jscope *scope, qr_jval input);

qr_jflow qr_jexec_body(qr_jrun *run, const qr_jnode *body, qr_jscope *scope);
void qr_jexec_assign(qr_jrun *run, const qr_jnode *target, qr_jscope *scope, qr_jval value);
/* Appends to the output. */
void qr_jexec_write(qr_jrun *run, const char *text, size_t bytes);
/* The text written since `mark` (run->out->len then), taken off the output. */
qr_jval qr_jexec_capture(qr_jrun *run, size_t mark);

/* (jinja_loop.c) */
qr_jflow qr_jloop_exec(qr_jrun *run, const qr_jnode *node, qr_jscope *scope, qr_jval over, int depth0);
qr_jval qr_jloop_call(qr_jrun *run, qr_jloop *loop, const qr_jargs *args); /* loop(iterable) */
qr_jval qr_jmacro_call(qr_jrun *run, const qr_jmacro *macro, const qr_jargs *args);

#endif
