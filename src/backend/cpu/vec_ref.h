/* vec (ref): 16 float lanes as plain C: the definition that the other vec_*.h reproduce.
 *
 *   v16_min(a, b) = a < b ? a : b, v16_max(a, b) = a > b ? a : b   (so b when either is NaN, as on x86)
 *   v16_load_n    n < 16 lanes, the others zero; v16_store_n leaves memory past n alone
 *   v16_sum       binary tree: lanes 8 apart, 4, 2, 1
 *   v16_pow2      2^n for integral n in [-126, 127]
 *   v16_bytes     16 bytes on their way to lanes: loaded from one place or 8 from each of two, then
 *     v16_from_s8 signed numbers; v16_from_e5m2, v16_from_e4m3 fp8 codes, the latter times 2^-8
 *
 * V16_REGS: how many v16 the register file holds beside operands (the size of register tiles). */
#ifndef QR_BACKEND_CPU_VEC_REF_H
#define QR_BACKEND_CPU_VEC_REF_H

#include <math.h>
#include <string.h>

#include "tensor/tensor.h"

enum { V16_TOKENS = 4, V16_PANELS = 1 };

typedef struct v16 {
    float v[16];
} v16;

#define EACH(expr)                                   \
    do {                                             \
        v16 r_;                                      \
        for (int i = 0; i < 16; i++) r_.v[i] = expr; \
        return r_;                                   \
    } while (0)

static inline v16 v16_set1(float x) { EACH(x); }
static inline v16 v16_load(const float *p) { EACH(p[i]); }
static inline v16 v16_load_n(const float *p, int n) { EACH(i < n ? p[i] : 0.0f); }
static inline void v16_store(float *p, v16 a) { memcpy(p, a.v, sizeof a.v); }
static inline void v16_store_n(float *p, v16 a, int n) { memcpy(p, a.v, (size_t)n * sizeof(float)); }
static inline v16 v16_load_f16(const uint16_t *p) { EACH(qr_f16_to_f32(p[i])); }
static inline v16 v16_load_bf16(const uint16_t *p) { EACH(qr_bf16_to_f32(p[i])); }
static inline void v16_store_f16(uint16_t *p, v16 a)
{
    for (int i = 0; i < 16; i++) p[i] = qr_f32_to_f16(a.v[i]);
}
static inline v16 v16_load_pair(const float *lo, const float *hi) { EACH(i < 8 ? lo[i] : hi[i - 8]); }
static inline v16 v16_load_f16_pair(const uint16_t *lo, const uint16_t *hi)
{
    EACH(qr_f16_to_f32(i < 8 ? lo[i] : hi[i - 8]));
}
typedef struct v16_bytes {
    uint8_t v[16];
} v16_bytes;
static inline v16_bytes v16_load_bytes_pair(const uint8_t *lo, const uint8_t *hi)
{
    v16_bytes b;
    memcpy(b.v, lo, 8);
    memcpy(b.v + 8, hi, 8);
    return b;
}
static inline v16_bytes v16_load_bytes(const uint8_t *p) { return v16_load_bytes_pair(p, p + 8); }
static inline v16 v16_from_s8(v16_bytes b) { EACH((float)(int8_t)b.v[i]); }
static inline v16 v16_from_e5m2(v16_bytes b) { EACH(qr_f16_to_f32((uint16_t)(b.v[i] << 8))); }
/* The float16 that is 2^-8 of an e4m3 code: sign, 0, the code's other 7 bits, 7 zeros. Shifted with its sign extended
 * it has the sign in the place of the 0 too, and adding 1 to the 7 bits flips that bit again when they are all ones:
 * so `h ^ (carry & that bit)` has 0 there, and 1 for NaN, which makes it a NaN. */
static inline uint16_t e4m3_half(uint8_t code)
{
    uint16_t h = (uint16_t)((int8_t)code * 128), carry = (uint16_t)(h + 0x80);
    return h ^ (carry & 0x4000);
}
static inline v16 v16_from_e4m3(v16_bytes b) { EACH(qr_f16_to_f32(e4m3_half(b.v[i]))); }
static inline v16 v16_add(v16 a, v16 b) { EACH(a.v[i] + b.v[i]); }
static inline v16 v16_sub(v16 a, v16 b) { EACH(a.v[i] - b.v[i]); }
static inline v16 v16_mul(v16 a, v16 b) { EACH(a.v[i] * b.v[i]); }
static inline v16 v16_div(v16 a, v16 b) { EACH(a.v[i] / b.v[i]); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { EACH(fmaf(a.v[i], b.v[i], c.v[i])); }
static inline v16 v16_min(v16 a, v16 b) { EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
static inline v16 v16_max(v16 a, v16 b) { EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline v16 v16_abs(v16 a) { EACH(fabsf(a.v[i])); }
static inline v16 v16_round(v16 a) { EACH(rintf(a.v[i])); }
static inline v16 v16_copysign(v16 a, v16 sign) { EACH(copysignf(a.v[i], sign.v[i])); }
static inline v16 v16_select_lt(v16 x, v16 y, v16 yes, v16 no) { EACH(x.v[i] < y.v[i] ? yes.v[i] : no.v[i]); }
/* lanes [first, end) of a, `fill` elsewhere; first <= 15 (may be negative), 0 <= end <= 16 */
static inline v16 v16_keep(v16 a, int first, int end, float fill) { EACH(i >= first && i < end ? a.v[i] : fill); }
/* lanes 0 0 2 2 ... and 1 1 3 3 ...; a[0] b[0] a[1] b[1] ... of 8 each */
static inline v16 v16_evens_twice(v16 a) { EACH(a.v[i / 2 * 2]); }
static inline v16 v16_odds_twice(v16 a) { EACH(a.v[i / 2 * 2 + 1]); }
static inline v16 v16_load_interleaved(const float *a, const float *b) { EACH(i % 2 ? b[i / 2] : a[i / 2]); }
static inline v16 v16_pow2(v16 n)
{
    v16 r;
    for (int i = 0; i < 16; i++) {
        float x = n.v[i] >= -126.0f && n.v[i] <= 127.0f ? n.v[i] : 0.0f; /* NaN: any value will do */
        uint32_t bits = (uint32_t)((int)x + 127) << 23;
        memcpy(&r.v[i], &bits, sizeof bits);
    }
    return r;
}
static inline float v16_sum(v16 a)
{
    for (int apart = 8; apart > 0; apart /= 2)
        for (int i = 0; i < apart; i++) a.v[i] += a.v[i + apart];
    return a.v[0];
}
static inline float v16_largest(v16 a)
{
    float m = a.v[0];
    for (int i = 1; i < 16; i++) m = a.v[i] > m ? a.v[i] : m;
    return m;
}
static inline bool v16_any_eq(v16 a, v16 b)
{
    for (int i = 0; i < 16; i++)
        if (a.v[i] == b.v[i]) return true;
    return false;
}
/* integral lanes in [-127, 127] to bytes; anything else (NaN) becomes some byte */
static inline void v16_store_s8(int8_t *p, v16 a)
{
    for (int i = 0; i < 16; i++) p[i] = (int8_t)(a.v[i] >= -127.0f && a.v[i] <= 127.0f ? a.v[i] : 0.0f);
}

#undef EACH
#endif
