#include "server/emit.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void qr_emit_deinit(qr_emit *e)
{
    qr_free(e->buf.data);
    *e = (qr_emit){0};
}

void qr_emit_clear(qr_emit *e)
{
    e->buf.len = 0;
    e->failed = false;
}

void qr_emit_bytes(qr_emit *e, const void *data, size_t bytes)
{
    if (qr_buf_append(&e->buf, data, bytes) != 0) e->failed = true;
}

void qr_emit_raw(qr_emit *e, const char *text) { qr_emit_bytes(e, text, strlen(text)); }

void qr_emit_join(qr_emit *e, const qr_emit *from)
{
    if (from->failed) e->failed = true;
    if (from->buf.len) qr_emit_bytes(e, from->buf.data, from->buf.len);
}

static void escape_one(qr_emit *e, unsigned char c)
{
    static const char *const shorts[128] = {['"'] = "\\\"", ['\\'] = "\\\\", ['\n'] = "\\n", ['\r'] = "\\r",
                                            ['\t'] = "\\t", ['\b'] = "\\b",  ['\f'] = "\\f"};
    if (shorts[c])
        qr_emit_raw(e, shorts[c]);
    else
        qr_emit_printf(e, "\\u%04x", c);
}

void qr_emit_escaped(qr_emit *e, const char *text, size_t bytes)
{
    size_t begin = 0, i = 0;
    while (i < bytes) {
        unsigned char c = (unsigned char)text[i];
        size_t n = qr_utf8_char_bytes(text + i, bytes - i);
        if (n && c >= 0x20 && c != '"' && c != '\\' && c != 0x7F) {
            i += n;
            continue;
        }
        if (i > begin) qr_emit_bytes(e, text + begin, i - begin);
        if (n)
            escape_one(e, c);
        else
            qr_emit_raw(e, "\xEF\xBF\xBD");
        begin = ++i;
    }
    if (i > begin) qr_emit_bytes(e, text + begin, i - begin);
}

void qr_emit_string(qr_emit *e, const char *text, size_t bytes)
{
    if (!text) {
        qr_emit_raw(e, "null");
        return;
    }
    qr_emit_raw(e, "\"");
    qr_emit_escaped(e, text, bytes);
    qr_emit_raw(e, "\"");
}

void qr_emit_int(qr_emit *e, int64_t value)
{
    char digits[24];
    char *p = digits + sizeof digits;
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do *--p = (char)('0' + magnitude % 10);
    while (magnitude /= 10);
    if (value < 0) *--p = '-';
    qr_emit_bytes(e, p, (size_t)(digits + sizeof digits - p));
}

void qr_emit_logprob(qr_emit *e, float value)
{
    if (isnan(value))
        qr_emit_raw(e, "null");
    else if (value < -9999.0f)
        qr_emit_raw(e, "-9999.0");
    else if (value == floorf(value) && fabsf(value) < 1e6f)
        qr_emit_printf(e, "%.1f", (double)value);
    else
        qr_emit_printf(e, "%.9g", (double)value);
}

void qr_emit_printf(qr_emit *e, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0 || n >= (int)sizeof text)
        e->failed = true;
    else
        qr_emit_bytes(e, text, (size_t)n);
}

char *qr_emit_take(qr_emit *e, size_t *out_bytes)
{
    char *text = NULL;
    *out_bytes = 0;
    if (!e->failed && qr_buf_reserve(&e->buf, 0) == 0) {
        text = e->buf.data;
        *out_bytes = e->buf.len;
        e->buf = (qr_buf){0};
    }
    qr_emit_deinit(e);
    return text;
}
