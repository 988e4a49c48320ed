/* clock: monotonic time. Threads: any. */
#ifndef QR_BASE_CLOCK_H
#define QR_BASE_CLOCK_H

#include <stdint.h>

int64_t qr_clock_us(void);     /* microseconds since some fixed moment */
double qr_clock_seconds(void); /* the same in seconds */

#endif
