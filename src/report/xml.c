#include "report/xml.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/utf8.h"

void qr_xml_deinit(qr_xml *x)
{
    qr_free(x->buf.data);
    *x = (qr_xml){0};
}

static void append(qr_xml *x, const char *data, size_t bytes)
{
    if (!x->failed && qr_buf_append(&x->buf, data, bytes) != 0) x->failed = true;
}

void qr_xml_raw(qr_xml *x, const char *markup) { append(x, markup, strlen(markup)); }

void qr_xml_printf(qr_xml *x, const char *fmt, ...)
{
    char text[1024];
    va_list list;
    va_start(list, fmt);
    int bytes = vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    if (bytes < 0 || bytes >= (int)sizeof text)
        x->failed = true;
    else
        append(x, text, (size_t)bytes);
}

void qr_xml_text_bytes(qr_xml *x, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes;) {
        size_t n = qr_utf8_char_bytes(text + i, bytes - i);
        unsigned char c = (unsigned char)text[i];
        const char *replace = NULL;
        if (n == 0 || (c < 0x20 && c != '\t' && c != '\n') || c == 0x7F)
            replace = "\xEF\xBF\xBD";
        else if (n == 3 && c == 0xEF && (unsigned char)text[i + 1] == 0xBF && (unsigned char)text[i + 2] >= 0xBE)
            replace = "\xEF\xBF\xBD"; /* U+FFFE, U+FFFF */
        else if (c == '<')
            replace = "&lt;";
        else if (c == '>')
            replace = "&gt;";
        else if (c == '&')
            replace = "&amp;";
        else if (c == '"')
            replace = "&quot;";
        else if (c == '\'')
            replace = "&#39;";
        if (replace)
            qr_xml_raw(x, replace);
        else
            append(x, text + i, n);
        i += n ? n : 1;
    }
}

void qr_xml_text(qr_xml *x, const char *text)
{
    if (text) qr_xml_text_bytes(x, text, strlen(text));
}

quire_status qr_xml_make_dir(const char *dir, quire_error *error)
{
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return qr_fail(error, QUIRE_IO, "cannot make the folder %s: %s", dir, strerror(errno));
    if (access(dir, W_OK | X_OK) != 0)
        return qr_fail(error, QUIRE_IO, "cannot write to the folder %s: %s", dir, strerror(errno));
    return QUIRE_OK;
}

quire_status qr_xml_save(const qr_xml *x, const char *path, quire_error *error)
{
    if (x->failed) return qr_fail_nomem(error, "a picture or page", x->buf.len);
    bool is_stdout = strcmp(path, "-") == 0;
    FILE *file = is_stdout ? stdout : fopen(path, "wb");
    if (!file) return qr_fail(error, QUIRE_IO, "cannot create %s: %s", path, strerror(errno));
    errno = 0;
    bool ok = fwrite(x->buf.data, 1, x->buf.len, file) == x->buf.len;
    ok = fflush(file) == 0 && ok;
    int reason = errno;
    if (!is_stdout && fclose(file) != 0) {
        ok = false;
        reason = errno;
    }
    return ok ? QUIRE_OK : qr_fail(error, QUIRE_IO, "cannot write %s: %s", path, strerror(reason));
}
