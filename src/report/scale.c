#include "report/scale.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double LARGEST = 1e300; /* so that differences of two values stay finite */

static double clamp(double value, double low, double high) { return value < low ? low : value > high ? high : value; }

/* The least of 1, 2, 5 times a power of ten that is not below `value` (positive). */
static double nice_above(double value)
{
    double power = pow(10, floor(log10(value)));
    for (int i = 0; i < 3; i++) {
        static const double steps[] = {1, 2, 5};
        if (steps[i] * power >= value * (1 - 1e-9)) return steps[i] * power;
    }
    return 10 * power;
}

static void fit_linear(qr_scale *scale, bool widen, int max_ticks)
{
    double low = scale->min, high = scale->max;
    /* A range too narrow for a double's digits is no range. */
    if (high - low <= fmax(fabs(low), fabs(high)) * 1e-9) {
        low = fmin(low, 0);
        high = fmax(high, 0);
    }
    if (high - low < 1e-290) high = low + 1;
    double step = nice_above((high - low) / (max_ticks - (widen ? 2 : 1)));
    double first = floor(low / step + 1e-9), last = ceil(high / step - 1e-9);
    if (widen) {
        low = first * step;
        high = last * step;
    }
    scale->min = low;
    scale->max = high;
    for (double i = first; i <= last && scale->num_ticks < max_ticks; i++) {
        double tick = i * step;
        if (tick < low - step * 1e-9 || tick > high + step * 1e-9) continue;
        scale->ticks[scale->num_ticks++] = clamp(tick, low, high);
    }
}

/* Powers of ten and, with `all`, 2 and 5 times them; every `stride`-th power. Counts when `scale` has no room. */
static int log_ticks(qr_scale *scale, bool all, int stride)
{
    int count = 0;
    int first = (int)floor(log10(scale->min) + 1e-9), last = (int)ceil(log10(scale->max) - 1e-9);
    for (int power = first; power <= last; power++) {
        if (((power % stride) + stride) % stride != 0) continue;
        for (int i = 0; i < (all ? 3 : 1); i++) {
            static const double steps[] = {1, 2, 5};
            double tick = steps[i] * pow(10, power);
            if (tick < scale->min * (1 - 1e-9) || tick > scale->max * (1 + 1e-9)) continue;
            if (count < QR_SCALE_MAX_TICKS) scale->ticks[count] = clamp(tick, scale->min, scale->max);
            count++;
        }
    }
    return count;
}

static void fit_binary(qr_scale *scale, bool widen, int max_ticks)
{
    int first = (int)floor(log2(scale->min) + 1e-9), last = (int)ceil(log2(scale->max) - 1e-9);
    if (last == first) last++;
    int stride = (last - first) / max_ticks + 1;
    if (widen || scale->min == scale->max) {
        scale->min = exp2(first);
        scale->max = exp2(last);
    }
    for (int power = first; power <= last; power += stride) {
        double tick = exp2(power);
        if (tick < scale->min * (1 - 1e-9) || tick > scale->max * (1 + 1e-9)) continue;
        scale->ticks[scale->num_ticks++] = clamp(tick, scale->min, scale->max);
    }
}

static void fit_log(qr_scale *scale, bool widen, int max_ticks)
{
    if (scale->max / scale->min < 1 + 1e-6) {
        scale->min /= 2;
        scale->max *= 2;
    }
    if (widen) {
        scale->max = nice_above(scale->max);
        double below = nice_above(scale->min);
        if (below > scale->min * (1 + 1e-9)) {
            double power = pow(10, floor(log10(scale->min)));
            below = scale->min >= 5 * power ? 5 * power : scale->min >= 2 * power ? 2 * power : power;
        }
        scale->min = below;
    }
    int count = log_ticks(scale, true, 1);
    for (int stride = 1; count > max_ticks; stride++) count = log_ticks(scale, false, stride);
    scale->num_ticks = count;
    if (count >= 2) return;
    /* Less than a decade: ticks of a linear axis at their places on this one. */
    scale->num_ticks = 0;
    fit_linear(scale, false, max_ticks);
}

void qr_scale_fit(qr_scale *scale, double min, double max, bool log, bool binary, bool widen, int max_ticks)
{
    *scale = (qr_scale){.log = log, .binary = log && binary};
    max_ticks = max_ticks < 3 ? 3 : max_ticks > QR_SCALE_MAX_TICKS ? QR_SCALE_MAX_TICKS : max_ticks;
    if (!(min <= max)) {
        min = log ? 1 : 0;
        max = log ? 10 : 1;
    }
    scale->min = clamp(min, log ? 1 / LARGEST : -LARGEST, LARGEST);
    scale->max = clamp(max, log ? 1 / LARGEST : -LARGEST, LARGEST);
    if (scale->binary)
        fit_binary(scale, widen, max_ticks);
    else if (log)
        fit_log(scale, widen, max_ticks);
    else
        fit_linear(scale, widen, max_ticks);
}

double qr_scale_pixel(const qr_scale *scale, double value)
{
    if (!isfinite(value) || (scale->log && value <= 0)) return NAN;
    double part = scale->log ? (log10(value) - log10(scale->min)) / (log10(scale->max) - log10(scale->min))
                             : (clamp(value, -LARGEST, LARGEST) - scale->min) / (scale->max - scale->min);
    return scale->from + (scale->to - scale->from) * clamp(part, -10, 10);
}

void qr_scale_format(double value, double step, char out[QR_SCALE_LABEL_BYTES])
{
    double size = fabs(value);
    if (size == 0 || size < step * 1e-6) { /* also -0 */
        value = size = 0;
        if (step < 1e-4) step = 0;
    }
    if (size != 0 && (size >= 1e7 || size < 1e-4)) {
        snprintf(out, QR_SCALE_LABEL_BYTES, "%.3g", value);
        return;
    }
    char digits[QR_SCALE_LABEL_BYTES];
    if (step > 0) {
        int decimals = (int)clamp(ceil(-log10(step) - 1e-9), 0, 9);
        snprintf(digits, sizeof digits, "%.*f", decimals, value);
    } else if (size >= 1000) {
        snprintf(digits, sizeof digits, "%.0f", value);
    } else {
        snprintf(digits, sizeof digits, "%.4g", value);
    }
    /* a comma after each three digits of the whole part */
    size_t whole = strcspn(digits, "."), sign = digits[0] == '-', n = 0;
    for (size_t i = 0; digits[i] && n + 2 < QR_SCALE_LABEL_BYTES; i++) {
        if (i > sign && i < whole && (whole - i) % 3 == 0) out[n++] = ',';
        out[n++] = digits[i];
    }
    out[n] = 0;
}

void qr_scale_tick_label(const qr_scale *scale, int idx, char out[QR_SCALE_LABEL_BYTES])
{
    double step = 0;
    if (!scale->log && scale->num_ticks > 1) step = scale->ticks[1] - scale->ticks[0];
    qr_scale_format(scale->ticks[idx], step, out);
}
