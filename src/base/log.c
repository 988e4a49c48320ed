#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static atomic_int min_level = QR_LOG_WARN;

void qr_log_set_level(qr_log_level level) { atomic_store(&min_level, (int)level); }

bool qr_log_enabled(qr_log_level level)
{
    return level < QR_LOG_OFF && (int)level >= atomic_load_explicit(&min_level, memory_order_relaxed);
}

void qr_log(qr_log_level level, const char *fmt, ...)
{
    static const char *const names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    static const char *const colours[] = {"\033[2m", "\033[32m", "\033[33m", "\033[31m"};
    if (!qr_log_enabled(level)) return;

    char line[2048];
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    int colour = isatty(STDERR_FILENO) && !getenv("NO_COLOR");
    int n = snprintf(line, sizeof line, "%02d:%02d:%02d.%03ld %s%-5s%s ", tm.tm_hour, tm.tm_min, tm.tm_sec,
                     now.tv_nsec / 1000000, colour ? colours[level] : "", names[level], colour ? "\033[0m" : "");
    va_list args;
    va_start(args, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, args);
    va_end(args);
    n += m < (int)sizeof line - n - 1 ? m : (int)sizeof line - n - 2;
    line[n++] = '\n';
    (void)!write(STDERR_FILENO, line, (size_t)n);
}
