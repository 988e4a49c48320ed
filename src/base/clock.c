#include "base/clock.h"

#include <time.h>

int64_t qr_clock_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

double qr_clock_seconds(void) { return (double)qr_clock_us() * 1e-6; }
