/* jinja_library: what templates can call: filters, tests, global functions, methods and attributes of values.
 *
 * Threads: as the run; the tables are constant.  Source: jinja2's list of builtin filters, tests and globals. */
#ifndef QR_TEXT_JINJA_LIBRARY_H
#define QR_TEXT_JINJA_LIBRARY_H

#include "text/jinja_core.h"

const qr_jfunction *qr_jfilter_find(const char *name, size_t bytes); /* NULL: unknown */
const qr_jfunction *qr_jtest_find(const char *name, size_t bytes);   /* NULL: unknown */
const qr_jfunction *qr_jglobal_find(const char *name, size_t bytes); /* NULL: unknown */
/* The filters over sequences (jinja_filter_seq.c); qr_jfilter_find looks here too. */
const qr_jfunction *qr_jfilter_seq_find(const char *name, size_t bytes);
/* The method or attribute `name` that Python's type itself has; MISSING when it has none. */
qr_jval qr_jmethod_find(qr_jrun *run, qr_jval obj, const char *name, size_t bytes);

/* obj.name and obj[index] as the sandboxed environment resolves them; an undefined value when there is none. */
qr_jval qr_jval_attr(qr_jrun *run, qr_jval obj, qr_jval name);
qr_jval qr_jval_item(qr_jrun *run, qr_jval obj, qr_jval index);
/* obj[start:stop:step]; none for what is left out. */
qr_jval qr_jval_slice(qr_jrun *run, qr_jval obj, qr_jval start, qr_jval stop, qr_jval step);
/* Call any value; raises when it is not callable. (jinja_eval.c) */
qr_jval qr_jval_call(qr_jrun *run, qr_jval callee, const qr_jargs *args);
qr_jval qr_jloop_attr(qr_jrun *run, struct qr_jloop *loop, const char *name, size_t bytes); /* MISSING: none */
qr_jval qr_jcycler_attr(qr_jrun *run, qr_jval cycler, const char *name, size_t bytes);
qr_jval qr_jmacro_attr(qr_jrun *run, const struct qr_jmacro *macro, const char *name, size_t bytes);

/* Arithmetic as Python does it; op is one of + - * / // % ** . (jinja_ops.c) */
qr_jval qr_jval_arith(qr_jrun *run, const char *op, qr_jval a, qr_jval b);
qr_jval qr_jval_negate(qr_jrun *run, qr_jval a);
/* list.sort(): stable; `keys` are the items' keys. Reorders both. */
void qr_jval_sort(qr_jrun *run, qr_jval *items, qr_jval *keys, size_t num, bool reverse);

#endif
