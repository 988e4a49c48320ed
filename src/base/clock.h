/* clock: monotonic time. Threads: any. */
#ifndef QR_BASE_CLOCK_H
#define QR_BASE_CLOCK_H

#include <stdint.h>

int64_t qr_clock_us(void);        /* microseconds since some fixed moment */
int64_t qr_clock_ns(void);        /* the same in nanoseconds */
double qr_clock_seconds(void);    /* the same in seconds */
int64_t qr_clock_thread_ns(void); /* processor time that the calling thread was given: other load does not count */

#endif
