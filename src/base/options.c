#include "base/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 63, MAX_NAMES = 256 };

/* ---- names ------------------------------------------------------------------------------------ */

static bool same_name(const char *known, const char *given, size_t given_bytes)
{
    if (!known || strlen(known) != given_bytes) return false;
    for (size_t i = 0; i < given_bytes; i++) {
        char c = given[i] == '_' ? '-' : given[i];
        if (known[i] != c) return false;
    }
    return true;
}

/* Edits (insert, delete, replace) that turn a into b. */
static int edit_distance(const char *a, const char *b)
{
    size_t num_a = strlen(a), num_b = strlen(b);
    if (num_a > MAX_NAME || num_b > MAX_NAME) return MAX_NAME;
    int row[MAX_NAME + 1];
    for (size_t j = 0; j <= num_b; j++) row[j] = (int)j;
    for (size_t i = 1; i <= num_a; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= num_b; j++) {
            int replace = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            int shift = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = replace < shift ? replace : shift;
        }
    }
    return row[num_b];
}

const char *qr_options_nearest(const char *word, const char *const *names, int count)
{
    const char *best = NULL;
    int best_distance = (int)strlen(word) / 3 + 2;
    for (int i = 0; i < count; i++) {
        int distance = edit_distance(word, names[i]);
        bool longer = strlen(word) >= 3 && strncmp(names[i], word, strlen(word)) == 0; /* a name cut short */
        if (longer && distance > 1) distance = 1;
        if (distance < best_distance) {
            best_distance = distance;
            best = names[i];
        }
    }
    return best;
}

typedef struct match {
    const qr_option *option;
    bool negated;
} match;

static match find_long(const qr_option_group *const *groups, const char *name, size_t bytes)
{
    for (; *groups; groups++) {
        for (const qr_option *o = (*groups)->options; o->name; o++) {
            if (same_name(o->name, name, bytes) || same_name(o->alias, name, bytes)) return (match){o, false};
            if (o->kind == QR_OPTION_SWITCH && bytes > 3 && strncmp(name, "no", 2) == 0 && strchr("-_", name[2]) &&
                same_name(o->name, name + 3, bytes - 3))
                return (match){o, true};
        }
    }
    return (match){0};
}

static const qr_option *find_short(const qr_option_group *const *groups, char c)
{
    for (; *groups; groups++)
        for (const qr_option *o = (*groups)->options; o->name; o++)
            if (o->short_name == c) return o;
    return NULL;
}

static quire_status fail_unknown(const qr_option_group *const *groups, const char *name, size_t bytes,
                                 quire_error *error)
{
    char word[MAX_NAME + 1];
    snprintf(word, sizeof word, "%.*s", (int)(bytes < MAX_NAME ? bytes : MAX_NAME), name);
    bool negated = strncmp(word, "no-", 3) == 0;
    for (char *c = word; *c; c++)
        if (*c == '_') *c = '-';
    const char *names[MAX_NAMES];
    int count = 0;
    for (; *groups; groups++) {
        for (const qr_option *o = (*groups)->options; o->name; o++) {
            if (count < MAX_NAMES) names[count++] = o->name;
            if (count < MAX_NAMES && o->alias) names[count++] = o->alias;
        }
    }
    const char *near = qr_options_nearest(word, names, count);
    if (near) return qr_fail_param(error, word, "unknown option --%s; did you mean --%s?", word, near);
    near = negated ? qr_options_nearest(word + 3, names, count) : NULL;
    if (near) return qr_fail_param(error, word, "unknown option --%s; did you mean --no-%s?", word, near);
    return qr_fail_param(error, word, "unknown option --%s", word);
}

/* ---- values ----------------------------------------------------------------------------------- */

/* What a number's suffix multiplies it by; 0: not a suffix. Binary for K, Ki, KiB; decimal for k, kB, KB. */
static double suffix_factor(const char *suffix)
{
    if (!*suffix) return 1;
    const char *letters = "kmgt";
    const char *at = strchr(letters, tolower((unsigned char)*suffix));
    if (!at) return strcmp(suffix, "B") == 0 ? 1 : 0;
    bool binary = isupper((unsigned char)*suffix);
    const char *rest = suffix + 1;
    if (strcmp(rest, "i") == 0 || strcmp(rest, "iB") == 0)
        binary = true;
    else if (strcmp(rest, "B") == 0)
        binary = false;
    else if (*rest)
        return 0;
    return pow(binary ? 1024 : 1000, (double)(at - letters + 1));
}

/* A count with an optional suffix, exact below 2^63: whole numbers are not rounded through a double. */
static bool parse_count(const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long whole = strtoll(text, &end, 10);
    if (end == text || errno || isspace((unsigned char)*text)) return false;
    if (!*end) {
        *out = whole;
        return true;
    }
    double value = *end == '.' ? strtod(text, &end) : (double)whole;
    double factor = suffix_factor(end);
    if (factor == 0 || (factor == 1 && value != floor(value))) return false;
    value *= factor;
    if (fabs(value) >= 9e18) return false;
    *out = (int64_t)llround(value);
    return true;
}

bool qr_options_parse_bytes(const char *text, size_t *out)
{
    int64_t value;
    if (!parse_count(text, &value) || value < 0) return false;
    *out = (size_t)value;
    return true;
}

static bool in_range(const qr_option *o, double value)
{
    return (o->min == 0 && o->max == 0) || (value >= o->min && value <= o->max);
}

static quire_status fail_value(const qr_option *o, const char *value, quire_error *error)
{
    if (o->kind == QR_OPTION_CHOICE)
        return qr_fail_param(error, o->name, "--%s: '%s' is not one of %s", o->name, value, o->choices);
    const char *what = o->kind == QR_OPTION_DOUBLE  ? "a number"
                       : o->kind == QR_OPTION_BYTES ? "a size such as 512MiB or 4G"
                                                    : "a whole number";
    if (o->min == 0 && o->max == 0) return qr_fail_param(error, o->name, "--%s: '%s' is not %s", o->name, value, what);
    return qr_fail_param(error, o->name, "--%s: '%s' is not %s from %.16g to %.16g", o->name, value, what, o->min,
                         o->max);
}

static bool is_choice(const char *choices, const char *value)
{
    size_t bytes = strlen(value);
    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
        if (bytes && strncmp(at, value, bytes) == 0 && (at[bytes] == '|' || !at[bytes])) return true;
    return false;
}

static quire_status store_number(const qr_option *o, void *target, const char *value, quire_error *error)
{
    int64_t whole = 0;
    char *end;
    switch (o->kind) {
    case QR_OPTION_INT:
        if (!parse_count(value, &whole) || whole < INT32_MIN || whole > INT32_MAX || !in_range(o, (double)whole))
            return fail_value(o, value, error);
        *(int *)target = (int)whole;
        return QUIRE_OK;
    case QR_OPTION_INT64:
        if (!parse_count(value, &whole) || !in_range(o, (double)whole)) return fail_value(o, value, error);
        *(int64_t *)target = whole;
        return QUIRE_OK;
    case QR_OPTION_UINT64: {
        errno = 0;
        unsigned long long number = strtoull(value, &end, 10);
        if (!isdigit((unsigned char)*value) || *end || errno) return fail_value(o, value, error);
        *(uint64_t *)target = number;
        return QUIRE_OK;
    }
    case QR_OPTION_DOUBLE: {
        double number = strtod(value, &end);
        if (end == value || *end || isnan(number) || isspace((unsigned char)*value) || !in_range(o, number))
            return fail_value(o, value, error);
        *(double *)target = number;
        return QUIRE_OK;
    }
    default: return qr_options_parse_bytes(value, target) ? QUIRE_OK : fail_value(o, value, error);
    }
}

static quire_status store_value(const qr_option *o, void *base, const char *value, quire_error *error)
{
    void *target = (char *)base + o->offset;
    switch (o->kind) {
    case QR_OPTION_CHOICE:
        if (!is_choice(o->choices, value)) return fail_value(o, value, error);
        *(const char **)target = value;
        return QUIRE_OK;
    case QR_OPTION_STRING: *(const char **)target = value; return QUIRE_OK;
    case QR_OPTION_LIST: {
        qr_option_list *list = target;
        if (list->count == QR_OPTION_MAX_LIST)
            return qr_fail_param(error, o->name, "--%s: given more than %d times", o->name, QR_OPTION_MAX_LIST);
        list->items[list->count++] = value;
        return QUIRE_OK;
    }
    default: return store_number(o, target, value, error);
    }
}

/* ---- parsing ---------------------------------------------------------------------------------- */

typedef struct cursor {
    const qr_option_group *const *groups;
    void *base;
    int argc, idx;
    char *const *argv;
    quire_error *error;
} cursor;

/* Store an option; `inline_value` is what followed '=', or NULL: then the next word is the value. */
static quire_status take_option(cursor *c, match m, const char *inline_value)
{
    const qr_option *o = m.option;
    if (o->given) *(bool *)((char *)c->base + o->given) = true;
    if (o->kind == QR_OPTION_FLAG || o->kind == QR_OPTION_SWITCH) {
        if (inline_value) return qr_fail_param(c->error, o->name, "--%s takes no value", o->name);
        *(bool *)((char *)c->base + o->offset) = !m.negated;
        return QUIRE_OK;
    }
    const char *value = inline_value;
    if (!value && c->idx < c->argc) {
        const char *next = c->argv[c->idx];
        if (strncmp(next, "--", 2) != 0 || !isalpha((unsigned char)next[2])) value = c->argv[c->idx++];
    }
    if (!value)
        return qr_fail_param(c->error, o->name, "--%s needs a value: --%s %s (--%s=TEXT if it begins with --)", o->name,
                             o->name, o->metavar ? o->metavar : o->choices, o->name);
    return store_value(o, c->base, value, c->error);
}

static quire_status take_word(cursor *c, const char *word)
{
    if (word[1] == '-') {
        const char *name = word + 2;
        size_t bytes = strcspn(name, "=");
        match m = find_long(c->groups, name, bytes);
        if (!m.option) return fail_unknown(c->groups, name, bytes, c->error);
        return take_option(c, m, name[bytes] ? name + bytes + 1 : NULL);
    }
    const match m = find_long(c->groups, word + 1, strcspn(word + 1, "="));
    const size_t alias_bytes = m.option && m.option->alias ? strlen(m.option->alias) : 0;
    if (alias_bytes == 2 && strncmp(word + 1, m.option->alias, 2) == 0) /* -tp */
        return take_option(c, m, word[3] ? word + 4 : NULL);
    const qr_option *o = find_short(c->groups, word[1]);
    if (!o) return qr_fail_param(c->error, word, "unknown option %s", word);
    const char *rest = word + 2;
    return take_option(c, (match){o, false}, !*rest ? NULL : *rest == '=' ? rest + 1 : rest);
}

quire_status qr_options_parse(const qr_option_group *const *groups, void *base, int argc, char *const *argv,
                              qr_positionals *positionals, quire_error *error)
{
    cursor c = {groups, base, argc, 0, argv, error};
    bool only_words = false;
    while (c.idx < argc) {
        const char *word = argv[c.idx++];
        if (!only_words && strcmp(word, "--") == 0) {
            only_words = true;
        } else if (only_words || word[0] != '-' || !word[1]) {
            if (positionals->count == positionals->max)
                return qr_fail_param(error, "", "unexpected argument '%s'", word);
            positionals->words[positionals->count++] = word;
        } else {
            QR_TRY(take_word(&c, word));
        }
    }
    return QUIRE_OK;
}
