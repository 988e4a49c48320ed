#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"

enum { BAR_CELLS = 24, REDRAW_US = 100000 };

static volatile sig_atomic_t interrupted;
static int interrupt_pipe[2] = {-1, -1};

bool qr_cli_is_terminal(FILE *stream) { return isatty(fileno(stream)) == 1; }

bool qr_cli_has_colour(FILE *stream)
{
    const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");
    return qr_cli_is_terminal(stream) && !(no_colour && *no_colour) && !(term && strcmp(term, "dumb") == 0);
}

int qr_cli_width(void)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col < 40 ? 40 : size.ws_col > 100 ? 100 : size.ws_col;
}

static void say_error(const char *fmt, va_list args)
{
    bool colour = qr_cli_has_colour(stderr);
    fprintf(stderr, "%squire:%s ", colour ? "\033[1;31m" : "", colour ? "\033[0m" : "");
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
}

int qr_cli_fail(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say_error(fmt, args);
    va_end(args);
    return QR_CLI_FAILED;
}

int qr_cli_usage_error(const char *command, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say_error(fmt, args);
    va_end(args);
    fprintf(stderr, "try: quire %s%s--help\n", command, *command ? " " : "");
    return QR_CLI_USAGE;
}

void qr_cli_note(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

int qr_cli_flush(void)
{
    static bool said;
    int failed = fflush(stdout), reason = errno; /* an earlier write that failed has left its errno */
    if (!failed && !ferror(stdout)) return QR_CLI_OK;
    if (!said) qr_cli_fail("cannot write to standard output: %s", reason ? strerror(reason) : "write error");
    said = true;
    return QR_CLI_FAILED;
}

void qr_cli_format_bytes(double bytes, char *out, size_t out_bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    while (unit < 4 && bytes >= 1024) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, out_bytes,
             unit == 0 || bytes >= 100 ? "%.0f %s"
             : bytes >= 10             ? "%.1f %s"
                                       : "%.2f %s",
             bytes, units[unit]);
}

/* ---- progress --------------------------------------------------------------------------------- */

void qr_cli_progress_start(qr_cli_progress *progress, const char *label, int64_t delay_us)
{
    *progress = (qr_cli_progress){.label = label, .started_us = qr_clock_us(), .delay_us = delay_us};
}

void qr_cli_progress_draw(qr_cli_progress *progress, double fraction, const char *detail)
{
    int64_t now = qr_clock_us();
    if (now - progress->started_us < progress->delay_us || (progress->drawn && now - progress->drawn_us < REDRAW_US) ||
        !qr_cli_is_terminal(stderr))
        return;
    progress->drawn = true;
    progress->drawn_us = now;
    char bar[BAR_CELLS + 1];
    int filled = (int)(fraction * BAR_CELLS);
    for (int i = 0; i < BAR_CELLS; i++) bar[i] = i < filled ? '#' : '.';
    bar[BAR_CELLS] = '\0';
    if (fraction < 0)
        fprintf(stderr, "\r\033[K%s  %s", progress->label, detail);
    else
        fprintf(stderr, "\r\033[K%s [%s] %3.0f %%  %s", progress->label, bar, fraction * 100, detail);
    fflush(stderr);
}

void qr_cli_progress_end(qr_cli_progress *progress)
{
    if (progress->drawn) fputs("\r\033[K", stderr);
    progress->drawn = false;
}

/* ---- Ctrl-C ----------------------------------------------------------------------------------- */

static void on_interrupt(int signal_number)
{
    int saved = errno;
    (void)signal_number;
    interrupted = 1;
    (void)!write(interrupt_pipe[1], "", 1);
    errno = saved;
}

static void set_handler(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

void qr_cli_interrupt_catch(void)
{
    if (interrupt_pipe[0] < 0 && pipe(interrupt_pipe) == 0)
        for (int i = 0; i < 2; i++) fcntl(interrupt_pipe[i], F_SETFL, O_NONBLOCK);
    set_handler(on_interrupt);
}

void qr_cli_interrupt_release(void) { set_handler(SIG_DFL); }

bool qr_cli_interrupted(void) { return interrupted != 0; }

void qr_cli_interrupt_clear(void)
{
    char bytes[64];
    while (read(interrupt_pipe[0], bytes, sizeof bytes) > 0) {
    }
    interrupted = 0;
}

bool qr_cli_wait_input(void)
{
    struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = interrupt_pipe[0], .events = POLLIN}};
    while (poll(fds, 2, -1) < 0 && errno == EINTR) continue;
    return fds[1].revents == 0;
}
