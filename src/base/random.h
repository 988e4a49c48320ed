/* random: a small generator with a state of one word, for workloads and tests; not for sampling tokens.
 *
 *   qr_random random = {seed};     the same seed gives the same numbers on every machine
 *
 * Threads: one at a time per state. Source: splitmix64 (Steele, Lea and Flood, OOPSLA 2014). */
#ifndef QR_BASE_RANDOM_H
#define QR_BASE_RANDOM_H

#include <stdint.h>

typedef struct qr_random {
    uint64_t state;
} qr_random;

uint64_t qr_random_next(qr_random *random);
double qr_random_uniform(qr_random *random); /* (0, 1) */
double qr_random_normal(qr_random *random);  /* mean 0, variance 1 */
/* Gamma distribution with mean shape * scale. */
double qr_random_gamma(qr_random *random, double shape, double scale);

#endif
