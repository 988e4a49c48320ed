/* random_values: the same sequence in every run of a test of ops (xorshift64). */
#ifndef QR_TESTS_RANDOM_VALUES_H
#define QR_TESTS_RANDOM_VALUES_H

#include <stdint.h>

static uint64_t rng = 88172645463325252u;
static uint32_t next_random(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 32);
}
/* low .. high */
__attribute__((unused)) static int random_int(int low, int high)
{
    return low + (int)(next_random() % (uint32_t)(high - low + 1));
}
/* [-1, 1] */
__attribute__((unused)) static float random_float(void) { return (float)next_random() / 2147483648.0f - 1.0f; }

#endif
