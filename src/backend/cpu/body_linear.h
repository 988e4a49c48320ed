/* body_linear: register tiles of the float and the low-bit matrix products, over the v16 of vec_*.h.
 *
 *   tokens t, t+1, ...  x  panels p, p+1, ...:  one accumulator each, columns in ascending order
 *
 * Included once by each kernels_*.c, which defines before:
 *   enum { LOWBIT_TOKENS, LOWBIT_PANELS }   the low-bit register tile, at most 8 x 4
 *   lowbit_tile(format, w, panel_bytes, fetch, k, x, ld_x, T, P, add, acc, ld_acc)   always inlined, with constant
 * format, T, P; it calls fetch_some(fetch, P, panel_bytes) once for every group of 32 columns */
#ifndef QR_BACKEND_CPU_BODY_LINEAR_H
#define QR_BACKEND_CPU_BODY_LINEAR_H

#include "backend/cpu/kernels.h"
#include "backend/cpu/unroll.h"

/* Float panels, and with one token low-bit panels, are read as one stream, this many bytes behind its prefetches. */
enum { FETCH_AHEAD = 8192 };

INLINE v16 load_weights(qr_dtype dtype, const uint8_t *w)
{
    if (dtype == QR_F16) return v16_load_f16((const uint16_t *)w);
    if (dtype == QR_BF16) return v16_load_bf16((const uint16_t *)w);
    return v16_load((const float *)w);
}

/* P panels of a pair from w on. */
INLINE void float_tile(qr_dtype dtype, const uint8_t *w, size_t ahead, int64_t k, const float *x, int64_t ld_x,
                       const int T, const int P, bool add, float *acc, int64_t ld_acc)
{
    const size_t panel = dtype == QR_F32 ? 64 : 32; /* 16 rows of a column */
    v16 sum[V16_TOKENS][2];
    UNROLL
    for (int t = 0; t < T; t++) UNROLL
    for (int p = 0; p < P; p++) sum[t][p] = add ? v16_load(acc + t * ld_acc + p * 16) : v16_set1(0.0f);
    for (int64_t i = 0; i < k; i++, w += 2 * panel) {
        v16 b[2];
        UNROLL
        for (int p = 0; p < P; p++) b[p] = load_weights(dtype, w + (size_t)p * panel);
        prefetch(w + ahead, P * (int)panel);
        UNROLL
        for (int t = 0; t < T; t++) {
            v16 a = v16_set1(x[t * ld_x + i]);
            UNROLL
            for (int p = 0; p < P; p++) sum[t][p] = v16_fma(a, b[p], sum[t][p]);
        }
    }
    UNROLL
    for (int t = 0; t < T; t++) UNROLL
    for (int p = 0; p < P; p++) v16_store(acc + t * ld_acc + p * 16, sum[t][p]);
}

INLINE void float_panels(qr_dtype dtype, const uint8_t *w, const int P, int64_t k, const float *x, int64_t ld_x,
                         int num_tokens, bool add, float *acc, int64_t ld_acc)
{
    size_t ahead = FETCH_AHEAD; /* the first tile fetches what comes next, the others have nothing to add */
    for (int t = 0, n; t < num_tokens; t += n, ahead = 0) {
        n = num_tokens - t < V16_TOKENS ? num_tokens - t : V16_TOKENS;
#define CALL(n) float_tile(dtype, w, ahead, k, x + t * ld_x, ld_x, n, P, add, acc + t * ld_acc, ld_acc)
        FOR_COUNT(n, V16_TOKENS, CALL)
#undef CALL
    }
}

INLINE void float_run(qr_dtype dtype, const uint8_t *w, size_t panel_bytes, int num_panels, int64_t k, const float *x,
                      int64_t ld_x, int num_tokens, bool add, float *acc, int64_t ld_acc)
{
    const size_t panel = dtype == QR_F32 ? 64 : 32;
    for (int p = 0; p < num_panels; p += 2, w += 2 * panel_bytes) {
        if (num_tokens == 1) /* both: twice as many independent chains */
            float_tile(dtype, w, FETCH_AHEAD, k, x, ld_x, 1, 2, add, acc + p * 16, ld_acc);
        else
            for (int i = 0; i < 2; i += V16_PANELS)
                float_panels(dtype, w + (size_t)i * panel, V16_PANELS, k, x, ld_x, num_tokens, add, acc + (p + i) * 16,
                             ld_acc);
    }
}

static void linear_float(qr_dtype dtype, const void *w, size_t panel_bytes, int num_panels, int64_t k, const float *x,
                         int64_t ld_x, int num_tokens, bool add, float *acc, int64_t ld_acc)
{
    switch (dtype) {
    case QR_F16: float_run(QR_F16, w, panel_bytes, num_panels, k, x, ld_x, num_tokens, add, acc, ld_acc); break;
    case QR_BF16: float_run(QR_BF16, w, panel_bytes, num_panels, k, x, ld_x, num_tokens, add, acc, ld_acc); break;
    default: float_run(QR_F32, w, panel_bytes, num_panels, k, x, ld_x, num_tokens, add, acc, ld_acc); break;
    }
}

INLINE void lowbit_panels(const qr_lowbit f, const uint8_t *w, size_t panel_bytes, const int P, int64_t k,
                          const qr_act_group *x, int64_t ld_x, int num_tokens, bool add, float *acc, int64_t ld_acc)
{
    /* Each tile fetches its share of the next panels: all at once would be more than memory gives in that time. */
    const int64_t groups = k / QR_GROUP, tiles = (num_tokens + LOWBIT_TOKENS - 1) / LOWBIT_TOKENS;
    const int64_t left = k / qr_lowbit_unit_cols(f) * (int64_t)qr_lowbit_unit_bytes(f) / 64;
    const int64_t lines = (left + tiles * groups - 1) / (tiles * groups);
    fetch next = {w + (size_t)P * panel_bytes, (int)lines, (int)lines * 64};
    for (int t = 0, n; t < num_tokens; t += n) {
        n = num_tokens - t < LOWBIT_TOKENS ? num_tokens - t : LOWBIT_TOKENS;
        if (t / LOWBIT_TOKENS * lines * groups >= left) next.lines = 0;
#define CALL(n) lowbit_tile(f, w, panel_bytes, &next, k, x + t * ld_x, ld_x, n, P, add, acc + t * ld_acc, ld_acc)
        FOR_COUNT(n, LOWBIT_TOKENS, CALL)
#undef CALL
    }
}

/* Bytes of a group of 32 columns, its share of the unit's scales included. */
INLINE int lowbit_group_bytes(const qr_lowbit f)
{
    return (int)qr_lowbit_unit_bytes(f) / (qr_lowbit_unit_cols(f) / QR_GROUP);
}

/* One function per format: the compiler specialises the tile for it. */
#define XX(name, bits, zero, super, halves, has_min, code_limit)                                                      \
    static void lowbit_##name(const uint8_t *w, size_t panel_bytes, int num_panels, int64_t k, const qr_act_group *x, \
                              int64_t ld_x, int num_tokens, bool add, float *acc, int64_t ld_acc)                     \
    {                                                                                                                 \
        const qr_lowbit f = {bits, zero, super, halves, has_min, code_limit};                                         \
        int p = 0;                                                                                                    \
        if (num_tokens == 1)                                                                                          \
            for (; p < num_panels; p++, w += panel_bytes) {                                                           \
                fetch next = {w + FETCH_AHEAD, (lowbit_group_bytes(f) + 63) / 64, lowbit_group_bytes(f)};             \
                lowbit_tile(f, w, panel_bytes, &next, k, x, ld_x, 1, 1, add, acc + p * 16, ld_acc);                   \
            }                                                                                                         \
        for (; p + LOWBIT_PANELS <= num_panels; p += LOWBIT_PANELS, w += LOWBIT_PANELS * panel_bytes)                 \
            lowbit_panels(f, w, panel_bytes, LOWBIT_PANELS, k, x, ld_x, num_tokens, add, acc + p * 16, ld_acc);       \
    }
QR_LOWBIT_MAP(XX)
#undef XX

static void linear_lowbit(qr_dtype dtype, const void *w, size_t panel_bytes, int num_panels, int64_t k,
                          const qr_act_group *x, int64_t ld_x, int num_tokens, bool add, float *acc, int64_t ld_acc)
{
    switch (dtype) {
#define XX(name, ...) \
    case QR_##name: lowbit_##name(w, panel_bytes, num_panels, k, x, ld_x, num_tokens, add, acc, ld_acc); break;
        QR_LOWBIT_MAP(XX)
#undef XX
    default: break; /* weight_create packs no other type */
    }
}

#endif
