#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/options.h"

enum { HELP_COLUMN = 30 };

/* Bytes as the largest unit that keeps them whole: "4GiB". */
static void format_bytes(size_t bytes, char *out, size_t out_bytes)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    while (unit < 4 && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, out_bytes, "%zu%s", bytes, units[unit]);
}

/* The default as shown to a reader; false: there is none worth showing. */
static bool format_default(const qr_option *o, const void *defaults, char *out, size_t out_bytes)
{
    const void *value = (const char *)defaults + o->offset;
    if (o->default_text) {
        snprintf(out, out_bytes, "%s", o->default_text);
        return *o->default_text;
    }
    switch (o->kind) {
    case QR_OPTION_INT: snprintf(out, out_bytes, "%d", *(const int *)value); return true;
    case QR_OPTION_INT64: snprintf(out, out_bytes, "%lld", (long long)*(const int64_t *)value); return true;
    case QR_OPTION_UINT64: snprintf(out, out_bytes, "%llu", (unsigned long long)*(const uint64_t *)value); return true;
    case QR_OPTION_DOUBLE: snprintf(out, out_bytes, "%g", *(const double *)value); return true;
    case QR_OPTION_BYTES: format_bytes(*(const size_t *)value, out, out_bytes); return true;
    case QR_OPTION_SWITCH: snprintf(out, out_bytes, "%s", *(const bool *)value ? "on" : "off"); return true;
    case QR_OPTION_STRING:
    case QR_OPTION_CHOICE: {
        const char *text = *(const char *const *)value;
        snprintf(out, out_bytes, "%s", text ? text : "");
        return text && *text;
    }
    case QR_OPTION_FLAG:
    case QR_OPTION_LIST: return false;
    }
    return false;
}

/* "-p, --prompt TEXT" */
static void format_names(const qr_option *o, char *out, size_t out_bytes)
{
    int n = 0;
    if (o->short_name) n = snprintf(out, out_bytes, "-%c, ", o->short_name);
    const char *value = o->kind == QR_OPTION_CHOICE ? o->choices : o->metavar;
    snprintf(out + n, out_bytes - (size_t)n, "--%s%s%s%s", o->kind == QR_OPTION_SWITCH ? "[no-]" : "", o->name,
             value ? " " : "", value ? value : "");
}

int qr_options_wrap(const char *text, int column, int indent, int width, qr_buf *out)
{
    bool line_start = true;
    while (*text) {
        if (*text == '\n') {
            if (qr_buf_printf(out, "\n%*s", text[1] == '\n' ? 0 : indent, "") != 0) return -1;
            column = indent;
            line_start = true;
            text++;
            continue;
        }
        size_t blanks = strspn(text, " ");
        size_t word = strcspn(text + blanks, " \n");
        if (!line_start && column + (int)(blanks + word) > width) {
            if (qr_buf_printf(out, "\n%*s", indent, "") != 0) return -1;
            column = indent;
            text += blanks;
            blanks = 0;
        }
        if (qr_buf_append(out, text, blanks + word) != 0) return -1;
        column += (int)(blanks + word);
        text += blanks + word;
        line_start = false;
    }
    return 0;
}

static int help_option(const qr_option *o, const void *defaults, int width, qr_buf *out)
{
    char names[160], value[96], text[1024];
    format_names(o, names, sizeof names);
    int n = snprintf(text, sizeof text, "%s", o->help);
    if (o->alias && n < (int)sizeof text) n += snprintf(text + n, sizeof text - (size_t)n, "; also --%s", o->alias);
    if (format_default(o, defaults, value, sizeof value) && n < (int)sizeof text)
        snprintf(text + n, sizeof text - (size_t)n, " [%s]", value);

    int column = (int)strlen(names) + 2;
    if (qr_buf_printf(out, "  %s", names) != 0) return -1;
    bool own_line = column > HELP_COLUMN - 2;
    if (qr_buf_printf(out, "%s%*s", own_line ? "\n" : "", own_line ? HELP_COLUMN : HELP_COLUMN - column, "") != 0)
        return -1;
    if (qr_options_wrap(text, HELP_COLUMN, HELP_COLUMN, width, out) != 0) return -1;
    return qr_buf_append(out, "\n", 1);
}

int qr_options_help(const qr_option_group *const *groups, const void *defaults, int width, bool colour, qr_buf *out)
{
    for (; *groups; groups++) {
        if (qr_buf_printf(out, "\n%s%s%s\n", colour ? "\033[1m" : "", (*groups)->title, colour ? "\033[0m" : "") != 0)
            return -1;
        for (const qr_option *o = (*groups)->options; o->name; o++)
            if (help_option(o, defaults, width, out) != 0) return -1;
    }
    return 0;
}

/* Text with roff's special characters made plain. */
static int man_text(const char *text, qr_buf *out)
{
    for (; *text; text++) {
        int failed = *text == '-'    ? qr_buf_append(out, "\\-", 2)
                     : *text == '\\' ? qr_buf_append(out, "\\e", 2)
                                     : qr_buf_append(out, text, 1);
        if (failed) return -1;
    }
    return 0;
}

int qr_options_man(const qr_option_group *const *groups, const void *defaults, qr_buf *out)
{
    char names[160], value[96];
    for (; *groups; groups++) {
        if (qr_buf_printf(out, ".PP\n\\fI%s\\fR\n", (*groups)->title) != 0) return -1;
        for (const qr_option *o = (*groups)->options; o->name; o++) {
            format_names(o, names, sizeof names);
            if (qr_buf_append(out, ".TP\n\\fB", 7) != 0 || man_text(names, out) != 0 ||
                qr_buf_append(out, "\\fR\n", 4) != 0 || man_text(o->help, out) != 0)
                return -1;
            if (o->alias && (qr_buf_append(out, "; also \\-\\-", 11) != 0 || man_text(o->alias, out) != 0)) return -1;
            if (format_default(o, defaults, value, sizeof value) &&
                (qr_buf_append(out, " [", 2) != 0 || man_text(value, out) != 0 || qr_buf_append(out, "]", 1) != 0))
                return -1;
            if (qr_buf_append(out, "\n", 1) != 0) return -1;
        }
    }
    return 0;
}
