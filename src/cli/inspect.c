/* quire inspect: the JSON of quire_inspect_json() as tables. It does not depend on the document's keys: an object is a
 * list of names and values, an array of objects a table, and what is long is cut and counted. */
#include <jansson.h>
#include <string.h>

#include "cli/cli.h"

enum { MAX_COLUMNS = 12, MAX_CELL = 160, MAX_ROWS = 1000, NAME_WIDTH = 34, MAX_DEPTH = 4 };

static bool has_bytes_name(const char *name)
{
    size_t length = strlen(name);
    return length >= 5 && strcmp(name + length - 5, "bytes") == 0;
}

/* {"count": 1000, "first": [...]}, the beginning of a long array */
static const json_t *cut_array(const json_t *object)
{
    const json_t *first = json_object_get(object, "first");
    return json_is_array(first) && json_is_integer(json_object_get(object, "count")) ? first : NULL;
}

/* A value in one cell: text without control characters, arrays as "[a, b, ...] (1000)". */
static void format_cell(const json_t *value, char *out, size_t out_bytes)
{
    switch (json_typeof(value)) {
    case JSON_STRING: {
        const char *text = json_string_value(value);
        size_t n = 0;
        for (; *text && n + 5 < out_bytes; text++) {
            if (*text == '\n' || *text == '\t') {
                out[n++] = '\\';
                out[n++] = *text == '\n' ? 'n' : 't';
            } else {
                out[n++] = (unsigned char)*text < 0x20 || *text == 0x7F ? '?' : *text;
            }
        }
        while (*text && n > 0 && ((unsigned char)out[n - 1] & 0xC0) == 0x80) n--; /* no half character at the cut */
        if (*text && n > 0 && (unsigned char)out[n - 1] >= 0xC0) n--;
        snprintf(out + n, out_bytes - n, "%s", *text ? "..." : "");
        return;
    }
    case JSON_INTEGER: snprintf(out, out_bytes, "%lld", (long long)json_integer_value(value)); return;
    case JSON_REAL: snprintf(out, out_bytes, "%.6g", json_real_value(value)); return;
    case JSON_TRUE: snprintf(out, out_bytes, "yes"); return;
    case JSON_FALSE: snprintf(out, out_bytes, "no"); return;
    case JSON_NULL: snprintf(out, out_bytes, "-"); return;
    case JSON_OBJECT: snprintf(out, out_bytes, "{%zu entries}", json_object_size(value)); return;
    case JSON_ARRAY: break;
    }
    size_t count = json_array_size(value), n = 0;
    n += (size_t)snprintf(out, out_bytes, "[");
    for (size_t i = 0; i < count; i++) {
        char cell[40];
        format_cell(json_array_get(value, i), cell, sizeof cell);
        if (n + strlen(cell) + 24 > out_bytes || i == 8) {
            snprintf(out + n, out_bytes - n, "%s...] (%zu)", i ? ", " : "", count);
            return;
        }
        n += (size_t)snprintf(out + n, out_bytes - n, "%s%s", i ? ", " : "", cell);
    }
    snprintf(out + n, out_bytes - n, "]");
}

static void print_title(const char *title)
{
    bool colour = qr_cli_has_colour(stdout);
    printf("\n%s%s%s\n", colour ? "\033[1m" : "", title, colour ? "\033[0m" : "");
}

/* An array of objects: one column for each key of the first. */
static void print_table(const char *title, const json_t *rows)
{
    const char *keys[MAX_COLUMNS], *key;
    int widths[MAX_COLUMNS], num_columns = 0;
    char cell[MAX_CELL];
    json_t *value;
    json_object_foreach(json_array_get(rows, 0), key, value)
    {
        if (num_columns == MAX_COLUMNS) break;
        widths[num_columns] = (int)strlen(key);
        keys[num_columns++] = key;
    }
    for (size_t i = 0; i < json_array_size(rows); i++) {
        for (int c = 0; c < num_columns; c++) {
            value = json_object_get(json_array_get(rows, i), keys[c]);
            if (value) format_cell(value, cell, sizeof cell);
            if (value && (int)strlen(cell) > widths[c]) widths[c] = (int)strlen(cell);
        }
    }
    char heading[320];
    snprintf(heading, sizeof heading, "%s (%zu)", title, json_array_size(rows));
    print_title(heading);
    for (int c = 0; c < num_columns; c++) printf("  %-*s", c == num_columns - 1 ? 0 : widths[c], keys[c]);
    putchar('\n');
    for (size_t i = 0; i < json_array_size(rows); i++) {
        if (i == MAX_ROWS) {
            printf("  ... %zu more (all with --json)\n", json_array_size(rows) - i);
            break;
        }
        for (int c = 0; c < num_columns; c++) {
            value = json_object_get(json_array_get(rows, i), keys[c]);
            snprintf(cell, sizeof cell, "-");
            if (value) format_cell(value, cell, sizeof cell);
            bool number = value && json_is_number(value) && c < num_columns - 1;
            printf(number ? "  %*s" : "  %-*s", c == num_columns - 1 ? 0 : widths[c], cell);
        }
        putchar('\n');
    }
}

static bool is_table(const json_t *value) { return json_is_array(value) && json_is_object(json_array_get(value, 0)); }

/* A value beside its name: sizes also in larger units, cut arrays with their full length. */
static void print_value(const char *name, const json_t *value)
{
    char cell[MAX_CELL], size[32];
    const json_t *first = cut_array(value);
    format_cell(first ? first : value, cell, sizeof cell);
    printf("  %-*s %s", NAME_WIDTH, name, cell);
    if (first) printf(" of %lld", (long long)json_integer_value(json_object_get(value, "count")));
    if (json_is_integer(value) && has_bytes_name(name) && json_integer_value(value) >= 1024) {
        qr_cli_format_bytes((double)json_integer_value(value), size, sizeof size);
        printf(" (%s)", size);
    }
    putchar('\n');
}

/* An object that gets a part of its own. */
static bool is_part(const json_t *value, int depth)
{
    return json_is_object(value) && json_object_size(value) && !cut_array(value) && depth < MAX_DEPTH;
}

/* Names and values first, then nested objects and tables under titles of their own. */
static void print_object(const char *title, const json_t *object, int depth)
{
    const char *key;
    json_t *value;
    char name[256];
    if (*title) print_title(title);
    json_object_foreach((json_t *)object, key, value)
    {
        if (!is_table(value) && !is_part(value, depth)) print_value(key, value);
    }
    json_object_foreach((json_t *)object, key, value)
    {
        snprintf(name, sizeof name, "%s%s%s", title, *title ? " / " : "", key);
        if (is_table(value))
            print_table(name, value);
        else if (is_part(value, depth))
            print_object(name, value, depth + 1);
    }
}

int qr_cli_run_inspect(qr_cli_args *args)
{
    quire_error error;
    char *text = NULL;
    if (quire_inspect_json(args->words[0], &text, &error) != QUIRE_OK) return qr_cli_fail("%s", error.message);
    if (args->json) {
        puts(text);
    } else {
        json_error_t where;
        json_t *document = json_loads(text, JSON_ALLOW_NUL, &where);
        if (!document) {
            quire_free(text);
            return qr_cli_fail("cannot read the description of %s: %s", args->words[0], where.text);
        }
        printf("%s\n", args->words[0]);
        print_object("", document, 0);
        json_decref(document);
    }
    quire_free(text);
    return qr_cli_flush();
}
