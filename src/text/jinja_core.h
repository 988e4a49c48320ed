/* jinja_core: what the template parser and interpreter share: arena, values, raising an error.
 *
 *   qr_jrun ── arena ─► chunk ─► chunk ...        all memory of one parse or one render, freed at once
 *        └──── on_raise                           qr_jrun_raise() jumps there: no error paths in between
 *
 * A parse or render runs under one setjmp. Everything it makes lies in the arena or in the output buffer, so the jump
 * leaks nothing. Values are immutable (as the immutable sandbox wants it) except namespaces and iterators.
 *
 * Invariants: every string is valid UTF-8, not NUL-terminated; steps, bytes and nesting depth only grow to their
 * limits below.  Threads: a run belongs to one thread.  Source: the language of jinja2 3.1 (documentation, and its
 * behaviour as observed by tests/golden/make_templates.py). */
#ifndef QR_TEXT_JINJA_CORE_H
#define QR_TEXT_JINJA_CORE_H

#include <setjmp.h>
#include <stdbool.h>

#include "base/mem.h"
#include "base/status.h"

#define QR_J_MAX_SOURCE_BYTES (4u << 20)   /* of one template */
#define QR_J_MAX_TREE_BYTES (128u << 20)   /* tokens and tree of one template */
#define QR_J_MAX_RENDER_BYTES (256u << 20) /* values made by one render */
#define QR_J_MAX_OUTPUT_BYTES (64u << 20)  /* text made by one render */
#define QR_J_MAX_STEPS 20000000u           /* of one render; a step is a node visited or QR_J_BYTES_PER_STEP copied */
#define QR_J_BYTES_PER_STEP 32u
#define QR_J_MAX_DEPTH 600       /* nested expressions, calls, iterators and values of a render */
#define QR_J_MAX_PARSE_DEPTH 150 /* nested expressions and blocks of a source */
#define QR_J_MAX_RANGE 100000    /* elements of range(), as in jinja2's sandbox */

typedef enum qr_jkind {
    QR_J_MISSING, /* an argument that was not given; never visible to a template */
    QR_J_UNDEFINED,
    QR_J_NONE,
    QR_J_BOOL,
    QR_J_INT,
    QR_J_FLOAT,
    QR_J_STR,
    QR_J_LIST,
    QR_J_TUPLE,
    QR_J_DICT,
    QR_J_VIEW, /* dict.keys(), .values(), .items() */
    QR_J_RANGE,
    QR_J_NAMESPACE,
    QR_J_ITER, /* what Python calls a generator: read once */
    QR_J_LOOP,
    QR_J_MACRO,
    QR_J_FUNCTION,
    QR_J_METHOD,
    QR_J_CYCLER,
    QR_J_JOINER,
} qr_jkind;

/* qr_jval.tag, by kind */
enum { QR_J_PLAIN, QR_J_SAFE };                             /* STR: markup that escape leaves alone */
enum { QR_J_VIEW_KEYS, QR_J_VIEW_VALUES, QR_J_VIEW_ITEMS }; /* VIEW */
enum { QR_J_TUPLE_PLAIN, QR_J_TUPLE_GROUP };                /* TUPLE: of groupby, has .grouper and .list */
enum {
    QR_J_UNDEF_NAME,
    QR_J_UNDEF_HINT,
    QR_J_UNDEF_ATTR = 8
}; /* UNDEFINED: text is a name, a message, or an
     attribute of a value of kind tag - UNDEF_ATTR */

typedef struct qr_jval {
    uint8_t kind; /* qr_jkind */
    uint8_t tag;
    uint32_t bytes; /* of text */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const char *text;      /* STR, UNDEFINED */
        struct qr_jlist *list; /* LIST, TUPLE, CYCLER */
        struct qr_jdict *dict; /* DICT, VIEW, NAMESPACE */
        struct qr_jrange *range;
        struct qr_jiter *iter;
        struct qr_jloop *loop;
        struct qr_jmacro *macro;
        const struct qr_jfunction *function;
        struct qr_jmethod *method;
        struct qr_jcycle *cycle; /* CYCLER, JOINER */
    };
} qr_jval;

typedef struct qr_jlist {
    size_t num, cap;
    qr_jval *items;
} qr_jlist;

typedef struct qr_jpair {
    qr_jval key, value;
} qr_jpair;

typedef struct qr_jdict { /* in order of insertion */
    size_t num, cap;
    qr_jpair *pairs;
} qr_jdict;

typedef struct qr_jrange {
    int64_t start, stop, step, num;
} qr_jrange;

typedef struct qr_jcycle {
    qr_jval items; /* CYCLER: a tuple; JOINER: the separator */
    size_t pos;
} qr_jcycle;

/* Arguments of a call. */
typedef struct qr_jargs {
    const qr_jval *pos;
    size_t num_pos;
    const qr_jpair *kw; /* keys are strings */
    size_t num_kw;
} qr_jargs;

typedef struct qr_jrun qr_jrun;
/* Filters, tests, methods and global functions. `self` is the filtered or tested value, or the method's object. */
typedef qr_jval qr_jfn(qr_jrun *run, qr_jval self, const qr_jargs *args);

typedef struct qr_jfunction {
    const char *name;
    qr_jfn *fn;
} qr_jfunction;

typedef struct qr_jmethod {
    qr_jval self;
    const qr_jfunction *function;
} qr_jmethod;

typedef struct qr_jchunk qr_jchunk;
typedef struct qr_jarena {
    qr_jchunk *chunks; /* newest first */
    char *cursor, *end;
    size_t total_bytes, max_bytes;
} qr_jarena;

void qr_jarena_init(qr_jarena *arena, size_t max_bytes);
void qr_jarena_deinit(qr_jarena *arena);

struct qr_jrun {
    qr_jarena *arena;
    jmp_buf on_raise;
    quire_error *error;
    quire_status status; /* valid after the jump */
    int line;            /* of the template, 1-based: for messages */
    int depth, max_depth;
    uint64_t num_steps;
    /* rendering only */
    qr_buf *out;
    size_t out_start;
    int64_t now;
    struct qr_jscope *globals; /* the outermost scope: the caller's variables */
};

/* ---- errors: all of these jump to run->on_raise ------------------------------------------------------------- */
_Noreturn void qr_jrun_raise(qr_jrun *run, const char *fmt, ...) QR_PRINTF(2, 3); /* INVALID "line N: ..." */
_Noreturn void qr_jrun_limit(qr_jrun *run, const char *what);                     /* UNSUPPORTED */
_Noreturn void qr_jrun_nomem(qr_jrun *run, size_t bytes);
/* Use of an undefined value: says which. */
_Noreturn void qr_jrun_raise_undefined(qr_jrun *run, qr_jval value);
void *qr_jrun_alloc(qr_jrun *run, size_t bytes); /* never NULL; aligned to 16; not zeroed */
void *qr_jrun_calloc(qr_jrun *run, size_t bytes);
void qr_jrun_charge(qr_jrun *run, uint64_t num_steps);
static inline void qr_jrun_charge_bytes(qr_jrun *run, size_t bytes)
{
    qr_jrun_charge(run, bytes / QR_J_BYTES_PER_STEP + 1);
}
void qr_jrun_enter(qr_jrun *run); /* one level deeper: pairs with leave, checks the limit */
static inline void qr_jrun_leave(qr_jrun *run) { run->depth--; }

/* ---- values --------------------------------------------------------------------------------------------------- */
qr_jval qr_jval_none(void);
qr_jval qr_jval_bool(bool value);
qr_jval qr_jval_int(int64_t value);
qr_jval qr_jval_float(double value);
qr_jval qr_jval_str(qr_jrun *run, const char *text, size_t bytes); /* refers to text; raises above 4 GiB */
qr_jval qr_jval_cstr(const char *text);                            /* static text */
qr_jval qr_jval_hint(const char *message);                         /* an undefined value with a static message */
qr_jval qr_jval_list(qr_jkind kind, qr_jlist *list);               /* LIST or TUPLE */
qr_jval qr_jval_dict(qr_jkind kind, qr_jdict *dict);               /* DICT or NAMESPACE */
qr_jval qr_jval_function(const qr_jfunction *function);

const char *qr_jval_type(qr_jval value); /* Python's name of the type: "str", "list", ... */
bool qr_jval_truth(qr_jrun *run, qr_jval value);
bool qr_jval_equal(qr_jrun *run, qr_jval a, qr_jval b);
/* a < b as sort() sees it; raises for values without an order. */
bool qr_jval_less(qr_jrun *run, qr_jval a, qr_jval b);
/* <0, 0, >0; raises for values without an order; *unordered is set for nan. */
int qr_jval_compare(qr_jrun *run, qr_jval a, qr_jval b, const char *op, bool *unordered);
bool qr_jval_contains(qr_jrun *run, qr_jval container, qr_jval item);
/* len(); -1 where Python has none. */
int64_t qr_jval_len(qr_jval value);
bool qr_jval_is_number(qr_jval value); /* bool, int, float */
double qr_jval_real(qr_jval number);
/* The integer of an int or bool; raises otherwise, naming `what`. */
int64_t qr_jval_to_int(qr_jrun *run, qr_jval value, const char *what);
/* Element of a list, tuple or range, 0 <= idx < len. */
qr_jval qr_jval_at(qr_jval seq, size_t idx);
static inline bool qr_jval_is_seq(qr_jval v)
{
    return v.kind == QR_J_LIST || v.kind == QR_J_TUPLE || v.kind == QR_J_RANGE;
}
static inline bool qr_jval_is_text(qr_jval v, const char *text, size_t bytes)
{
    return v.kind == QR_J_STR && v.bytes == bytes && (bytes == 0 || __builtin_memcmp(v.text, text, bytes) == 0);
}

qr_jlist *qr_jlist_create(qr_jrun *run, size_t cap);
void qr_jlist_add(qr_jrun *run, qr_jlist *list, qr_jval value);
qr_jdict *qr_jdict_create(qr_jrun *run, size_t cap);
/* Sets or replaces; raises for unhashable keys. */
void qr_jdict_set(qr_jrun *run, qr_jdict *dict, qr_jval key, qr_jval value);
qr_jval *qr_jdict_find(qr_jrun *run, const qr_jdict *dict, qr_jval key); /* NULL: none */
qr_jval *qr_jdict_find_text(qr_jrun *run, const qr_jdict *dict, const char *key, size_t bytes);
/* The element of a view: key, value or (key, value). */
qr_jval qr_jdict_view_at(qr_jrun *run, qr_jval view, size_t idx);

/* Bind a call's arguments to names, as Python does.
 *   what   "filter 'indent'", for messages
 *   names  "width first blank"; a leading '/' makes all positional-only
 *   out    [number of names], MISSING where not given; the first num_required must be given */
void qr_jargs_bind(qr_jrun *run, const qr_jargs *args, const char *what, const char *names, size_t num_required,
                   qr_jval *out);

/* ---- iteration (jinja_iter.c) ----------------------------------------------------------------------------------- */
typedef struct qr_jiter qr_jiter;
qr_jiter *qr_jiter_of(qr_jrun *run, qr_jval value); /* raises for what Python cannot iterate */
bool qr_jiter_next(qr_jrun *run, qr_jiter *iter, qr_jval *out);
/* A generator over `source` that calls `step` for each element: step returns false to leave the element out. */
typedef bool qr_jiter_step(qr_jrun *run, void *ctx, qr_jval item, qr_jval *out);
qr_jval qr_jiter_lazy(qr_jrun *run, qr_jval source, bool only_if_true, qr_jiter_step *step, void *ctx);
qr_jval qr_jiter_reversed(qr_jrun *run, qr_jval seq);    /* a sequence, dict or view */
qr_jlist *qr_jiter_collect(qr_jrun *run, qr_jval value); /* list(value) */

#endif
