/* body_rows: normalisation, activations, rotation, exp and quantization of rows, over the v16 of vec_*.h.
 * Included once by each kernels_*.c.  Orders of operations: backend.h. */
#ifndef QR_BACKEND_CPU_BODY_ROWS_H
#define QR_BACKEND_CPU_BODY_ROWS_H

#include <float.h>
#include <math.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/unroll.h"

/* e^x within about 1 ulp: 0 below -87, e^88.37 above it, NaN for NaN.
 * Cody-Waite reduction by ln 2 in two parts, then Cephes' polynomial of degree 7 on [-ln2/2, ln2/2]. */
static inline v16 v16_exp(v16 x)
{
    v16 clamped = v16_max(v16_set1(-87.0f), v16_min(v16_set1(88.37f), x));
    v16 n = v16_round(v16_mul(clamped, v16_set1(1.44269504f)));
    v16 r = v16_fma(n, v16_set1(-0.693359375f), clamped);
    r = v16_fma(n, v16_set1(2.12194440e-4f), r);
    v16 p = v16_set1(1.9875691500e-4f);
    p = v16_fma(p, r, v16_set1(1.3981999507e-3f));
    p = v16_fma(p, r, v16_set1(8.3334519073e-3f));
    p = v16_fma(p, r, v16_set1(4.1665795894e-2f));
    p = v16_fma(p, r, v16_set1(1.6666665459e-1f));
    p = v16_fma(p, r, v16_set1(5.0000001201e-1f));
    p = v16_fma(v16_mul(p, r), r, r);
    p = v16_add(p, v16_set1(1.0f));
    v16 y = v16_mul(p, v16_pow2(n));
    return v16_select_lt(x, v16_set1(-87.0f), v16_set1(0.0f), y);
}

static inline v16 act_silu(v16 x)
{
    v16 e = v16_exp(v16_sub(v16_set1(0.0f), x));
    return v16_div(x, v16_add(v16_set1(1.0f), e));
}

/* 0.5 x (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3) */
static inline v16 act_gelu_tanh(v16 x)
{
    v16 u = v16_mul(v16_mul(x, v16_set1(-1.5957691216f)), v16_fma(v16_mul(x, x), v16_set1(0.044715f), v16_set1(1.0f)));
    return v16_div(x, v16_add(v16_set1(1.0f), v16_exp(u)));
}

/* 0.5 x (1 + erf(x / sqrt 2)); erf within 1.5e-7: Abramowitz and Stegun 7.1.26 */
static inline v16 act_gelu_erf(v16 x)
{
    v16 z = v16_mul(v16_abs(x), v16_set1(0.70710678f));
    v16 t = v16_div(v16_set1(1.0f), v16_fma(z, v16_set1(0.3275911f), v16_set1(1.0f)));
    v16 p = v16_set1(1.061405429f);
    p = v16_fma(p, t, v16_set1(-1.453152027f));
    p = v16_fma(p, t, v16_set1(1.421413741f));
    p = v16_fma(p, t, v16_set1(-0.284496736f));
    p = v16_fma(p, t, v16_set1(0.254829592f));
    v16 tail = v16_mul(v16_mul(p, t), v16_exp(v16_mul(v16_sub(v16_set1(0.0f), z), z)));
    v16 erf = v16_copysign(v16_sub(v16_set1(1.0f), tail), x);
    return v16_mul(v16_mul(v16_set1(0.5f), x), v16_add(v16_set1(1.0f), erf));
}

static inline v16 act_apply(qr_act act, v16 x)
{
    switch (act) {
    case QR_ACT_SILU: return act_silu(x);
    case QR_ACT_GELU_TANH: return act_gelu_tanh(x);
    case QR_ACT_GELU_ERF: return act_gelu_erf(x);
    case QR_ACT_RELU: break;
    }
    return v16_max(x, v16_set1(0.0f));
}

static void act_row(const float *x, const float *up, qr_act act, int64_t cols, float *out)
{
    int64_t i = 0;
    for (; i + 16 <= cols; i += 16) {
        v16 y = act_apply(act, v16_load(x + i));
        v16_store(out + i, up ? v16_mul(y, v16_load(up + i)) : y);
    }
    if (i < cols) {
        int n = (int)(cols - i);
        v16 y = act_apply(act, v16_load_n(x + i, n));
        v16_store_n(out + i, up ? v16_mul(y, v16_load_n(up + i, n)) : y, n);
    }
}

static void rms_norm_row(const float *x, const float *w, float eps, int64_t cols, float *out)
{
    v16 sum = v16_set1(0.0f);
    int64_t i = 0;
    for (; i + 16 <= cols; i += 16) {
        v16 v = v16_load(x + i);
        sum = v16_fma(v, v, sum);
    }
    int rest = (int)(cols - i);
    if (rest > 0) {
        v16 v = v16_load_n(x + i, rest);
        sum = v16_fma(v, v, sum);
    }
    float inverse = 1.0f / sqrtf(v16_sum(sum) / (float)cols + eps);
    v16 r = v16_set1(inverse);
    for (i = 0; i + 16 <= cols; i += 16) v16_store(out + i, v16_mul(v16_mul(v16_load(x + i), r), v16_load(w + i)));
    if (rest > 0) v16_store_n(out + i, v16_mul(v16_mul(v16_load_n(x + i, rest), r), v16_load_n(w + i, rest)), rest);
}

static void layer_norm_row(const float *x, const float *w, const float *b, float eps, int64_t cols, float *out)
{
    int64_t whole = cols / 16 * 16;
    int rest = (int)(cols - whole);
    v16 sum = v16_set1(0.0f);
    for (int64_t i = 0; i < whole; i += 16) sum = v16_add(v16_load(x + i), sum);
    if (rest > 0) sum = v16_add(v16_load_n(x + whole, rest), sum);
    v16 mean = v16_set1(v16_sum(sum) / (float)cols);
    v16 squares = v16_set1(0.0f);
    for (int64_t i = 0; i < whole; i += 16) {
        v16 v = v16_sub(v16_load(x + i), mean);
        squares = v16_fma(v, v, squares);
    }
    if (rest > 0) {
        v16 v = v16_keep(v16_sub(v16_load_n(x + whole, rest), mean), 0, rest, 0.0f);
        squares = v16_fma(v, v, squares);
    }
    v16 r = v16_set1(1.0f / sqrtf(v16_sum(squares) / (float)cols + eps));
    for (int64_t i = 0; i < cols; i += 16) {
        int n = cols - i < 16 ? (int)(cols - i) : 16;
        v16 v = v16_mul(v16_sub(n == 16 ? v16_load(x + i) : v16_load_n(x + i, n), mean), r);
        v16 weight = n == 16 ? v16_load(w + i) : v16_load_n(w + i, n);
        v16 bias = !b ? v16_set1(0.0f) : n == 16 ? v16_load(b + i) : v16_load_n(b + i, n);
        v = v16_fma(v, weight, bias);
        if (n == 16)
            v16_store(out + i, v);
        else
            v16_store_n(out + i, v, n);
    }
}

/* Pairs from i on: (x0, x1) -> (x0 cos - x1 sin, x0 sin + x1 cos), each one product and one fma. */
static void rope_pairs(float *x, int i, int half, int step, int apart, const float *cos, const float *sin)
{
    for (; i < half; i++) {
        float *x0 = x + i * step, *x1 = x0 + apart, a = *x0, b = *x1;
        *x0 = fmaf(a, cos[i], -(b * sin[i]));
        *x1 = fmaf(a, sin[i], b * cos[i]);
    }
}

static void rope_head(float *x, qr_rope_style style, int rotary_dim, const float *cos, const float *sin)
{
    const v16 minus = v16_set1(-1.0f);
    int half = rotary_dim / 2, i = 0;
    if (style == QR_ROPE_ADJACENT) {
        const v16 signs = v16_load_interleaved((const float[8]){-1, -1, -1, -1, -1, -1, -1, -1},
                                               (const float[8]){1, 1, 1, 1, 1, 1, 1, 1});
        for (; i + 8 <= half; i += 8) {
            v16 v = v16_load(x + 2 * i), product;
            product = v16_mul(v16_odds_twice(v), v16_mul(v16_load_interleaved(sin + i, cos + i), signs));
            v16_store(x + 2 * i, v16_fma(v16_evens_twice(v), v16_load_interleaved(cos + i, sin + i), product));
        }
        rope_pairs(x, i, half, 2, 1, cos, sin);
        return;
    }
    for (; i + 16 <= half; i += 16) {
        v16 a = v16_load(x + i), b = v16_load(x + i + half), c = v16_load(cos + i), s = v16_load(sin + i);
        v16_store(x + i, v16_fma(a, c, v16_mul(b, v16_mul(s, minus))));
        v16_store(x + i + half, v16_fma(a, s, v16_mul(b, c)));
    }
    rope_pairs(x, i, half, 1, half, cos, sin);
}

static void f16_row(const float *x, int size, uint16_t *out)
{
    int i = 0;
    for (; i + 16 <= size; i += 16) v16_store_f16(out + i, v16_load(x + i));
    if (i < size) {
        uint16_t lanes[16];
        v16_store_f16(lanes, v16_load_n(x + i, size - i));
        memcpy(out + i, lanes, (size_t)(size - i) * sizeof *out);
    }
}

static uint16_t int8_row(const float *x, int size, int8_t *out)
{
    v16 max = v16_set1(0.0f), sum = v16_set1(0.0f);
    for (int i = 0; i < size; i += 16)
        max = v16_max(v16_abs(size - i < 16 ? v16_load_n(x + i, size - i) : v16_load(x + i)), max);
    float exact = v16_largest(max) / 127.0f;
    uint16_t d = qr_f32_to_f16(exact);
    if (qr_f16_to_f32(d) < exact) d++; /* the next one up: no code is beyond 127 */
    v16 inverse = v16_set1(d ? 1.0f / qr_f16_to_f32(d) : 0.0f);
    for (int i = 0; i < size; i += 16) {
        int n = size - i < 16 ? size - i : 16;
        v16 code = v16_round(v16_mul(n < 16 ? v16_load_n(x + i, n) : v16_load(x + i), inverse));
        sum = v16_add(code, sum);
        int8_t lanes[16];
        v16_store_s8(n < 16 ? lanes : out + i, code);
        if (n < 16) memcpy(out + i, lanes, (size_t)n);
    }
    float s = v16_sum(sum); /* NaN when any code is; d is infinite when a value is, or is too large */
    return s == s && d < 0x7C00 ? d : 0x7E00;
}

/* The fp8 code with that many bits of mantissa, on whole numbers: the same everywhere. */
INLINE uint8_t fp8_code(float x, const int mantissa)
{
    const int bias = mantissa == 3 ? 7 : 15, shift = 23 - mantissa;
    const uint32_t lowest = (uint32_t)(128 - bias) << 23;               /* the smallest normal one */
    const uint32_t unit = (uint32_t)(127 + 24 - bias - mantissa) << 23; /* 2^23 times the smallest of all */
    const uint32_t largest = mantissa == 3 ? 0x7E : 0x7B;
    uint32_t bits, sum_bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t sign = bits >> 24 & 0x80, magnitude = bits & 0x7FFFFFFF;
    float absolute, unit_value;
    memcpy(&absolute, &magnitude, sizeof absolute);
    memcpy(&unit_value, &unit, sizeof unit_value);
    float sum = absolute + unit_value; /* rounds to multiples of the smallest */
    memcpy(&sum_bits, &sum, sizeof sum_bits);
    uint32_t rounded = magnitude + (1u << (shift - 1)) - 1 + (magnitude >> shift & 1); /* to even */
    uint32_t code = magnitude < lowest ? sum_bits - unit : (rounded >> shift) - ((uint32_t)(127 - bias) << mantissa);
    code = code < largest ? code : largest;
    return (uint8_t)(magnitude > 0x7F800000 ? 0x7F : code | sign);
}

INLINE void fp8_row(const float *x, int size, const int mantissa, uint8_t *out)
{
    int i = 0;
    for (; i + 16 <= size; i += 16) /* a constant count is what the compiler needs to use vectors */
        for (int lane = 0; lane < 16; lane++) out[i + lane] = fp8_code(x[i + lane], mantissa);
    for (; i < size; i++) out[i] = fp8_code(x[i], mantissa);
}

static uint16_t kv_row(qr_kv_dtype dtype, const float *x, int head_size, void *out)
{
    switch (dtype) {
    case QR_KV_INT8: return int8_row(x, head_size, out);
    case QR_KV_FP8_E4M3: fp8_row(x, head_size, 3, out); break;
    case QR_KV_FP8_E5M2: fp8_row(x, head_size, 2, out); break;
    case QR_KV_F16: f16_row(x, head_size, out); break;
    default: memcpy(out, x, (size_t)head_size * sizeof *x); break;
    }
    return 0;
}

static void scale_row(float *x, int64_t cols, float scale)
{
    int64_t i = 0;
    for (; i + 16 <= cols; i += 16) v16_store(x + i, v16_mul(v16_load(x + i), v16_set1(scale)));
    for (; i < cols; i++) x[i] *= scale;
}

static void add_row(float *x, const float *y, int64_t cols)
{
    int64_t i = 0;
    for (; i + 16 <= cols; i += 16) v16_store(x + i, v16_add(v16_load(x + i), v16_load(y + i)));
    for (; i < cols; i++) x[i] += y[i];
}

#ifndef HAS_STORE_GROUP /* avx512 has its own */
/* a, b: the group's activations / d, not yet whole numbers */
INLINE void store_group(qr_act_group *out, v16 a, v16 b, float d)
{
    a = v16_round(a);
    b = v16_round(b);
    v16_store_s8(out->q, a);
    v16_store_s8(out->q + 16, b);
    float lo_sum = v16_sum(a), hi_sum = v16_sum(b); /* small whole numbers: exact in any order */
    bool finite = lo_sum - hi_sum == lo_sum - hi_sum;
    if (!finite) d = NAN; /* not a number in, none out */
    int32_t lo = finite ? (int32_t)lo_sum : 0, hi = finite ? (int32_t)hi_sum : 0;
    out->d = d;
    out->sum = lo + hi;
    out->asum = d * (float)out->sum;
    out->half_sum[0] = lo;
    out->half_sum[1] = hi;
    out->half_asum[0] = d * (float)lo;
    out->half_asum[1] = d * (float)hi;
    out->unused = 0;
}
#endif

/* 16 groups at a time, so that one division serves them all. */
static void quantize_row(const float *x, int64_t cols, qr_act_group *out)
{
    for (int64_t i = 0; i < cols; i += 16 * QR_GROUP, x += 16 * QR_GROUP) {
        const int num_groups = cols - i < 16 * QR_GROUP ? (int)((cols - i) / QR_GROUP) : 16;
        float scale[16] = {0}, inverse[16];
        for (int g = 0; g < num_groups; g++)
            scale[g] =
                v16_largest(v16_max(v16_abs(v16_load(x + QR_GROUP * g)), v16_abs(v16_load(x + QR_GROUP * g + 16))));
        const v16 d = v16_div(v16_load(scale), v16_set1(127.0f));
        v16_store(scale, d);
        /* 1 / d would overflow for smaller ones */
        v16_store(inverse, v16_select_lt(d, v16_set1(FLT_MIN), v16_set1(0.0f), v16_div(v16_set1(1.0f), d)));
        for (int g = 0; g < num_groups; g++) {
            const v16 by = v16_set1(inverse[g]);
            store_group(out++, v16_mul(v16_load(x + QR_GROUP * g), by), v16_mul(v16_load(x + QR_GROUP * g + 16), by),
                        scale[g]);
        }
    }
}

static void store_rows(const float *acc, int64_t ld_acc, const float *bias, bool accumulate, int num_tokens,
                       int64_t cols, float *y, int64_t ld_y)
{
    for (int t = 0; t < num_tokens; t++, acc += ld_acc, y += ld_y) {
        for (int64_t i = 0; i < cols; i += 16) {
            int n = cols - i < 16 ? (int)(cols - i) : 16;
            v16 v = v16_load(acc + i); /* acc rows are whole panels */
            if (n == 16) {
                if (bias) v = v16_add(v, v16_load(bias + i));
                if (accumulate) v = v16_add(v, v16_load(y + i));
                v16_store(y + i, v);
            } else {
                if (bias) v = v16_add(v, v16_load_n(bias + i, n));
                if (accumulate) v = v16_add(v, v16_load_n(y + i, n));
                v16_store_n(y + i, v, n);
            }
        }
    }
}

static void row_stats(const float *x, int64_t cols, float *out_max, int32_t *out_argmax, float *out_sum_exp)
{
    const v16 lowest = v16_set1(-INFINITY);
    int64_t whole = cols / 16 * 16;
    int rest = (int)(cols - whole);
    v16 m = lowest;
    for (int64_t i = 0; i < whole; i += 16) m = v16_max(v16_load(x + i), m);
    v16 tail = rest > 0 ? v16_keep(v16_load_n(x + whole, rest), 0, rest, -INFINITY) : lowest;
    float max = v16_largest(v16_max(tail, m));
    v16 maxes = v16_set1(max);
    int64_t at = 0;
    while (at < whole && !v16_any_eq(v16_load(x + at), maxes)) at += 16;
    while (at < cols && x[at] != max) at++;
    v16 sum = v16_set1(0.0f);
    for (int64_t i = 0; i < whole; i += 16) sum = v16_add(v16_exp(v16_sub(v16_load(x + i), maxes)), sum);
    if (rest > 0) sum = v16_add(v16_keep(v16_exp(v16_sub(tail, maxes)), 0, rest, 0.0f), sum);
    *out_max = max;
    *out_argmax = at < cols ? (int32_t)at : 0; /* all NaN */
    *out_sum_exp = v16_sum(sum);
}

static void exp_row(const float *x, int64_t cols, float sub, float scale, float *out)
{
    v16 subs = v16_set1(sub), scales = v16_set1(scale);
    int64_t i = 0;
    for (; i + 16 <= cols; i += 16) v16_store(out + i, v16_exp(v16_mul(v16_sub(v16_load(x + i), subs), scales)));
    if (i < cols) {
        int n = (int)(cols - i);
        v16_store_n(out + i, v16_exp(v16_mul(v16_sub(v16_load_n(x + i, n), subs), scales)), n);
    }
}

#endif
