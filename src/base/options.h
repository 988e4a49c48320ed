/* options: command-line options described by tables; one parser, one help page and one man page for all of them.
 *
 *   static const qr_option table[] = {{"port", QR_OPTION_INT, offsetof(args, port), "N", "port to listen on", ...},
 * {0}}; args (a struct, already filled with the defaults)  <──  qr_options_parse()  <──  --port 80 | --port=80 | -p 80
 *                                                      ──►  qr_options_help()   ──►  "--port N   port to listen on
 * [8000]"
 *
 * The defaults shown in help are read from the struct, so they cannot differ from the defaults used.
 * Names are matched with '_' equal to '-', as vLLM does. "--" ends the options.
 * Threads: any; the functions have no state. */
#ifndef QR_BASE_OPTIONS_H
#define QR_BASE_OPTIONS_H

#include "base/mem.h"
#include "base/status.h"

typedef enum qr_option_kind {
    QR_OPTION_FLAG,   /* bool; --name sets it */
    QR_OPTION_SWITCH, /* bool; --name sets it, --no-name clears it */
    QR_OPTION_INT,    /* int; k, m (thousands) and K, M (1024s) may follow */
    QR_OPTION_INT64,  /* int64_t; the same */
    QR_OPTION_UINT64, /* uint64_t */
    QR_OPTION_DOUBLE, /* double; "inf" allowed */
    QR_OPTION_BYTES,  /* size_t; 4G, 4GiB (1024s), 4GB, 4g (thousands), 1.5G */
    QR_OPTION_STRING, /* const char *; points into argv */
    QR_OPTION_CHOICE, /* const char *; one of `choices` */
    QR_OPTION_LIST,   /* qr_option_list; may be repeated */
} qr_option_kind;

enum { QR_OPTION_MAX_LIST = 64 };
typedef struct qr_option_list {
    int count;
    const char *items[QR_OPTION_MAX_LIST]; /* point into argv */
} qr_option_list;

typedef struct qr_option {
    const char *name; /* without the dashes; NULL ends the table */
    qr_option_kind kind;
    size_t offset;            /* of the value in the caller's struct */
    const char *metavar;      /* "N", "TEXT"; NULL for flags and choices */
    const char *help;         /* one sentence, lower case, no full stop */
    const char *choices;      /* "a|b|c" for CHOICE */
    const char *default_text; /* shown in place of the struct's value; "" shows none */
    const char *alias;        /* another name, or NULL; one of two letters may follow a single dash (vLLM's -tp) */
    char short_name;          /* 'p' for -p, or 0 */
    double min, max;          /* allowed range of numbers; both 0: any */
    size_t given;             /* offset of a bool that is set when the option is given; 0: none */
} qr_option;

typedef struct qr_option_group {
    const char *title; /* "Sampling" */
    const qr_option *options;
} qr_option_group;

/* Words that are not options, in order; at most `max` of them. */
typedef struct qr_positionals {
    const char **words; /* [max], the caller's */
    int max, count;
} qr_positionals;

/* Parse argv[0..argc) (no program name in it) into the struct at `base`.
 *   groups    NULL-terminated array
 *   returns   OK | INVALID with one line in error: what is wrong and what is allowed; an unknown option is answered
 *             with the nearest known one. The struct may then be half filled. */
QUIRE_MUST_USE quire_status qr_options_parse(const qr_option_group *const *groups, void *base, int argc,
                                             char *const *argv, qr_positionals *positionals, quire_error *error);

/* Append the groups' help to `out`: lines at most `width` columns wide, titles in bold with `colour`.
 * `defaults` is a struct with the default values. 0 | -1 without memory. */
int qr_options_help(const qr_option_group *const *groups, const void *defaults, int width, bool colour, qr_buf *out);
/* The same as man page source (roff). */
int qr_options_man(const qr_option_group *const *groups, const void *defaults, qr_buf *out);

/* Append `text` wrapped to `width` columns; continuation lines begin with `indent` spaces; `column` is where the first
 * line already stands. Line breaks in the text stay. */
int qr_options_wrap(const char *text, int column, int indent, int width, qr_buf *out);

/* The entry of names[0..count) that `word` was probably meant to be, or NULL when none is near. */
const char *qr_options_nearest(const char *word, const char *const *names, int count);

/* "4G", "512MiB", "1.5GB", "1000" to a count. false: not a number, negative, or too large. */
bool qr_options_parse_bytes(const char *text, size_t *out);

#endif
