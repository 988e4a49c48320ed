/* body_avx512: products of low-bit weights with 512-bit registers, 4 columns x 16 rows at once.
 *
 * Included by kernels_avx512.c and kernels_avx512bw.c, which define before:
 *   codes16              4 columns x 16 rows of codes as add_dot() takes them
 *   centred(format)      whether these are codes - zero instead of codes
 *   take_codes(format, bytes)
 *   add_dot(format, sum, codes, activations)   sums per row, exact */
#ifndef QR_BACKEND_CPU_BODY_AVX512_H
#define QR_BACKEND_CPU_BODY_AVX512_H

#include "backend/cpu/kernels.h"
#include "backend/cpu/unroll.h"
#include "backend/cpu/vec_avx512.h"
#include <math.h>
#include <string.h>

enum { LOWBIT_TOKENS = 6, LOWBIT_PANELS = 2 };

/* -zero * sum of the activations that part h multiplies: what the dot product starts from */
INLINE __m512i start_sum(const qr_lowbit f, const qr_act_group *x, int h)
{
    if (f.zero == 0 || centred(f)) return _mm512_setzero_si512();
    return _mm512_set1_epi32(-f.zero * (f.halves ? x->half_sum[h] : x->sum));
}

INLINE __m512i quad(const qr_act_group *x, int j) /* columns 4 j .. 4 j + 3 in every lane */
{
    int32_t four;
    memcpy(&four, x->q + 4 * j, sizeof four);
    return _mm512_set1_epi32(four);
}

/* sum[t][p] += codes . activations of part h */
INLINE void dot_part(const qr_lowbit f, const uint8_t *codes, size_t panel_bytes, const qr_act_group *x, int64_t ld_x,
                     const int T, const int P, const int h, __m512i sum[][LOWBIT_PANELS])
{
    const __m512i low = _mm512_set1_epi8(15);
    const int first = f.halves ? 4 * h : 0, end = f.halves ? 4 * h + 4 : 8;
    if (f.bits == 4) {
        UNROLL
        for (int j = 0; j < 4; j++) {
            codes16 lo[LOWBIT_PANELS], hi[LOWBIT_PANELS];
            UNROLL
            for (int p = 0; p < P; p++) {
                __m512i both = _mm512_loadu_si512(codes + (size_t)p * panel_bytes + 64 * j);
                lo[p] = take_codes(f, _mm512_and_si512(both, low));
                hi[p] = take_codes(f, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
            }
            UNROLL
            for (int t = 0; t < T && first == 0; t++) {
                __m512i a = quad(x + t * ld_x, j);
                UNROLL
                for (int p = 0; p < P; p++) sum[t][p] = add_dot(f, sum[t][p], lo[p], a);
            }
            UNROLL
            for (int t = 0; t < T && end == 8; t++) {
                __m512i a = quad(x + t * ld_x, j + 4);
                UNROLL
                for (int p = 0; p < P; p++) sum[t][p] = add_dot(f, sum[t][p], hi[p], a);
            }
        }
        return;
    }
    UNROLL
    for (int j = first; j < end; j++) {
        codes16 b[LOWBIT_PANELS];
        UNROLL
        for (int p = 0; p < P; p++) b[p] = take_codes(f, _mm512_loadu_si512(codes + (size_t)p * panel_bytes + 64 * j));
        UNROLL
        for (int t = 0; t < T; t++) {
            __m512i a = quad(x + t * ld_x, j);
            UNROLL
            for (int p = 0; p < P; p++) sum[t][p] = add_dot(f, sum[t][p], b[p], a);
        }
    }
}

INLINE v16 load_s8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

INLINE void lowbit_tile(const qr_lowbit f, const uint8_t *w, size_t panel_bytes, fetch *next, int64_t k,
                        const qr_act_group *x, int64_t ld_x, const int T, const int P, bool add, float *acc,
                        int64_t ld_acc)
{
    const int parts = f.halves ? 2 : 1;
    v16 out[LOWBIT_TOKENS][LOWBIT_PANELS];
    UNROLL
    for (int t = 0; t < T; t++) UNROLL
    for (int p = 0; p < P; p++) out[t][p] = add ? v16_load(acc + t * ld_acc + 16 * p) : v16_set1(0.0f);
    for (int64_t left = k; left > 0; left -= qr_lowbit_unit_cols(f), w += qr_lowbit_unit_bytes(f)) {
        v16 d[LOWBIT_PANELS], dmin[LOWBIT_PANELS];
        UNROLL
        for (int p = 0; p < P; p++) {
            d[p] = v16_load_f16((const uint16_t *)(w + (size_t)p * panel_bytes));
            if (f.has_min) dmin[p] = v16_load_f16((const uint16_t *)(w + (size_t)p * panel_bytes) + 16);
        }
        const uint8_t *group = w + (f.has_min ? 64 : 32);
        for (int g = 0; g < qr_lowbit_unit_cols(f) / 32; g++, x++) {
            const uint8_t *codes = group + (f.super ? 16 * parts * (f.has_min ? 2 : 1) : 0);
            fetch_some(next, P, panel_bytes);
            UNROLL
            for (int h = 0; h < parts; h++) {
                __m512i sum[LOWBIT_TOKENS][LOWBIT_PANELS];
                UNROLL
                for (int t = 0; t < T; t++) {
                    __m512i start = start_sum(f, x + t * ld_x, h);
                    UNROLL
                    for (int p = 0; p < P; p++) sum[t][p] = start;
                }
                dot_part(f, codes, panel_bytes, x, ld_x, T, P, h, sum);
                v16 ws[LOWBIT_PANELS], wm[LOWBIT_PANELS];
                UNROLL
                for (int p = 0; p < P; p++) {
                    const uint8_t *s = group + (size_t)p * panel_bytes + 16 * h;
                    ws[p] = f.super ? v16_mul(d[p], load_s8(s)) : d[p];
                    if (f.has_min) wm[p] = f.super ? v16_mul(dmin[p], load_s8(s + 16 * parts)) : dmin[p];
                }
                UNROLL
                for (int t = 0; t < T; t++) {
                    const qr_act_group *a = x + t * ld_x;
                    v16 ad = v16_set1(a->d), asum = v16_set1(f.halves ? a->half_asum[h] : a->asum);
                    UNROLL
                    for (int p = 0; p < P; p++) {
                        out[t][p] = v16_fma(_mm512_cvtepi32_ps(sum[t][p]), v16_mul(ws[p], ad), out[t][p]);
                        if (f.has_min) out[t][p] = v16_fma(wm[p], asum, out[t][p]);
                    }
                }
            }
            group = codes + qr_lowbit_code_bytes(f);
        }
    }
    UNROLL
    for (int t = 0; t < T; t++) UNROLL
    for (int p = 0; p < P; p++) v16_store(acc + t * ld_acc + 16 * p, out[t][p]);
}

/* store_group() of body_rows.h: sums from the bytes, and all that follows them in one store */
#define HAS_STORE_GROUP
INLINE void store_group(qr_act_group *out, v16 a, v16 b, float d)
{
    const __m128i lo = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)), hi = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(b));
    const __m256i q = _mm256_set_m128i(hi, lo), bias = _mm256_set1_epi8((char)0x80);
    __m256i sums = _mm256_sad_epu8(_mm256_xor_si256(q, bias), _mm256_setzero_si256()); /* of 8 bytes + 128 each */
    sums = _mm256_add_epi64(sums, _mm256_unpackhi_epi64(sums, sums));                  /* lanes 0: lo, 4: hi, 1: 0 */
    __m256i tail = _mm256_permutexvar_epi32(_mm256_setr_epi32(1, 0, 0, 0, 4, 0, 4, 1), sums);
    tail = _mm256_add_epi32(tail, _mm256_permutexvar_epi32(_mm256_setr_epi32(1, 4, 4, 1, 1, 1, 1, 1), sums));
    tail = _mm256_sub_epi32(tail, _mm256_setr_epi32(0, 4096, 4096, 2048, 2048, 2048, 2048, 0));
    if (_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q)) { /* not a number in, none out */
        d = NAN;
        tail = _mm256_setzero_si256();
    }
    const __m256 ds = _mm256_set1_ps(d), floats = _mm256_mul_ps(_mm256_cvtepi32_ps(tail), ds);
    const __m256 line = _mm256_blend_ps(_mm256_castsi256_ps(tail), floats, 0x64); /* asum, half_asum */
    _mm256_storeu_si256((__m256i *)(void *)out->q, q);
    _mm256_storeu_ps(&out->d, _mm256_blend_ps(line, ds, 1));
}

#include "backend/cpu/body_attend.h"

/* What both sets need. */
static bool has_avx512bw(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma");
}

#endif
