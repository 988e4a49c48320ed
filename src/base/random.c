#include "base/random.h"

#include <math.h>

uint64_t qr_random_next(qr_random *random)
{
    uint64_t z = random->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

double qr_random_uniform(qr_random *random) { return ((double)(qr_random_next(random) >> 11) + 0.5) * 0x1p-53; }

double qr_random_normal(qr_random *random)
{
    double radius = sqrt(-2 * log(qr_random_uniform(random)));
    return radius * cos(6.283185307179586 * qr_random_uniform(random));
}

/* Marsaglia and Tsang, "A simple method for generating gamma variables", 2000. */
double qr_random_gamma(qr_random *random, double shape, double scale)
{
    double boost = 1;
    if (shape < 1) {
        boost = pow(qr_random_uniform(random), 1 / shape);
        shape += 1;
    }
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = qr_random_normal(random), v = 1 + c * x;
        if (v <= 0) continue;
        v = v * v * v;
        if (log(qr_random_uniform(random)) < 0.5 * x * x + d - d * v + d * log(v)) return d * v * scale * boost;
    }
}
