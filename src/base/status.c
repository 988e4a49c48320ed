#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void format_message(quire_error *error, const char *fmt, va_list args)
{
    int n = vsnprintf(error->message, sizeof error->message, fmt, args);
    if (n >= (int)sizeof error->message) memcpy(error->message + sizeof error->message - 4, "...", 4);
}

quire_status qr_fail(quire_error *error, quire_status status, const char *fmt, ...)
{
    if (error) {
        va_list args;
        va_start(args, fmt);
        format_message(error, fmt, args);
        va_end(args);
        error->param[0] = '\0';
    }
    return status;
}

quire_status qr_fail_param(quire_error *error, const char *param, const char *fmt, ...)
{
    if (error) {
        va_list args;
        va_start(args, fmt);
        format_message(error, fmt, args);
        va_end(args);
        snprintf(error->param, sizeof error->param, "%s", param);
    }
    return QUIRE_INVALID;
}

quire_status qr_fail_nomem(quire_error *error, const char *what, size_t bytes)
{
    return qr_fail(error, QUIRE_NOMEM, "out of memory: %zu bytes for %s", bytes, what);
}

const char *quire_status_text(quire_status status)
{
    switch (status) {
#define XX(name, value, text) \
    case QUIRE_##name: return text;
        QUIRE_STATUS_MAP(XX)
#undef XX
    }
    return "unknown status";
}

const char *quire_finish_reason_text(quire_finish_reason reason)
{
    switch (reason) {
#define XX(name, value, text) \
    case QUIRE_FINISH_##name: return text;
        QUIRE_FINISH_MAP(XX)
#undef XX
    }
    return "";
}
