#define _POSIX_C_SOURCE 200809L
#include "base/clock.h"

#include <time.h>

static int64_t read_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t qr_clock_ns(void) { return read_ns(CLOCK_MONOTONIC); }

int64_t qr_clock_us(void) { return qr_clock_ns() / 1000; }

double qr_clock_seconds(void) { return (double)qr_clock_us() * 1e-6; }

int64_t qr_clock_thread_ns(void) { return read_ns(CLOCK_THREAD_CPUTIME_ID); }
