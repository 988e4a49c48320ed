/* AVX2 with FMA and F16C: vpmaddubsw multiplies unsigned codes by signed activations into 16-bit pairs.
 *
 * It saturates at 32767, so the number of products per 16-bit lane is limited by the largest code:
 *   codes to 15: 16 products (15 * 127 * 16 = 30480), a whole group;  to 31: 8;  to 63: 4.
 *   Q8_0's codes to 255 become signed (code - 128), then |code| * (activation with the code's sign): 2. */
#include "backend/cpu/kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "backend/cpu/vec_avx2.h"
#include <math.h>
#include <string.h>

enum { LOWBIT_TOKENS = 4, LOWBIT_PANELS = 1 };

#include "backend/cpu/unroll.h"

/* 32-bit sums of 16 rows, and the 16-bit sums on their way there */
typedef struct row_sums {
    __m256i lo, hi, pairs_lo, pairs_hi;
} row_sums;

INLINE __m256i quad(const qr_act_group *x, int j) /* columns 4 j .. 4 j + 3 in every lane */
{
    int32_t four;
    memcpy(&four, x->q + 4 * j, sizeof four);
    return _mm256_set1_epi32(four);
}

/* Two sums so far: else the compiler adds in another order, and keeps all products in memory meanwhile. */
#define IN_ORDER(a, b) __asm__("" : "+x"(a), "+x"(b))

INLINE void widen(row_sums *s)
{
    const __m256i one = _mm256_set1_epi16(1);
    s->lo = _mm256_add_epi32(s->lo, _mm256_madd_epi16(s->pairs_lo, one));
    s->hi = _mm256_add_epi32(s->hi, _mm256_madd_epi16(s->pairs_hi, one));
    s->pairs_lo = s->pairs_hi = _mm256_setzero_si256();
    IN_ORDER(s->lo, s->hi);
}

INLINE __m256i products(const qr_lowbit f, __m256i codes, __m256i a)
{
    if (f.code_limit > 127) return _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(a, codes));
    return _mm256_maddubs_epi16(codes, a);
}

/* The codes of columns 4 j ..: rows 0 to 7, and (8 on) rows 8 to 15. */
INLINE __m256i load_codes(const qr_lowbit f, const uint8_t *codes, int j, int rows)
{
    const __m256i *p = (const __m256i *)(codes + 64 * (f.bits == 4 ? j % 4 : j) + 4 * rows);
    __m256i v = _mm256_loadu_si256(p);
    if (f.bits == 4) {
        if (j >= 4) v = _mm256_srli_epi16(v, 4);
        v = _mm256_and_si256(v, _mm256_set1_epi8(15));
    } else if (f.code_limit > 127) {
        v = _mm256_xor_si256(v, _mm256_set1_epi8((char)0x80));
    }
    return v;
}

INLINE void dot_part(const qr_lowbit f, const uint8_t *codes, const qr_act_group *x, int64_t ld_x, const int T,
                     const int h, row_sums *sum)
{
    const int first = f.halves ? 4 * h : 0, end = f.halves ? 4 * h + 4 : 8;
    const int quads = f.code_limit <= 15 ? 8 : f.code_limit <= 31 ? 4 : f.code_limit <= 63 ? 2 : 1;
    UNROLL
    for (int j = first; j < end; j++) {
        __m256i lo = load_codes(f, codes, j, 0), hi = load_codes(f, codes, j, 8);
        UNROLL
        for (int t = 0; t < T; t++) {
            __m256i a = quad(x + t * ld_x, j);
            sum[t].pairs_lo = _mm256_add_epi16(sum[t].pairs_lo, products(f, lo, a));
            sum[t].pairs_hi = _mm256_add_epi16(sum[t].pairs_hi, products(f, hi, a));
            IN_ORDER(sum[t].pairs_lo, sum[t].pairs_hi);
            if ((j - first) % quads == quads - 1 || j == end - 1) widen(&sum[t]);
        }
    }
}

INLINE v16 load_s8(const uint8_t *p)
{
    return (v16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p))),
                 _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8))))};
}

INLINE void lowbit_tile(const qr_lowbit f, const uint8_t *w, size_t panel_bytes, fetch *next, int64_t k,
                        const qr_act_group *x, int64_t ld_x, const int T, const int P, bool add, float *acc,
                        int64_t ld_acc)
{
    (void)P; /* one panel at a time */
    const int parts = f.halves ? 2 : 1;
    for (int t = 0; t < T && !add; t++) v16_store(acc + t * ld_acc, v16_set1(0.0f));
    for (int64_t left = k; left > 0; left -= qr_lowbit_unit_cols(f), w += qr_lowbit_unit_bytes(f)) {
        v16 d = v16_load_f16((const uint16_t *)w), dmin = d;
        if (f.has_min) dmin = v16_load_f16((const uint16_t *)w + 16);
        const uint8_t *group = w + (f.has_min ? 64 : 32);
        for (int g = 0; g < qr_lowbit_unit_cols(f) / 32; g++, x++) {
            const uint8_t *codes = group + (f.super ? 16 * parts * (f.has_min ? 2 : 1) : 0);
            fetch_some(next, 1, panel_bytes);
            UNROLL
            for (int h = 0; h < parts; h++) {
                row_sums sum[LOWBIT_TOKENS];
                UNROLL
                for (int t = 0; t < T; t++) {
                    const qr_act_group *a = x + t * ld_x;
                    int zero = f.code_limit > 127 ? f.zero - 128 : f.zero;
                    __m256i start = _mm256_set1_epi32(zero ? -zero * (f.halves ? a->half_sum[h] : a->sum) : 0);
                    sum[t] = (row_sums){start, start, _mm256_setzero_si256(), _mm256_setzero_si256()};
                }
                dot_part(f, codes, x, ld_x, T, h, sum);
                v16 ws = f.super ? v16_mul(d, load_s8(group + 16 * h)) : d, wm = dmin;
                if (f.super && f.has_min) wm = v16_mul(dmin, load_s8(group + 16 * (parts + h)));
                UNROLL
                for (int t = 0; t < T; t++) {
                    const qr_act_group *a = x + t * ld_x;
                    v16 dot = {_mm256_cvtepi32_ps(sum[t].lo), _mm256_cvtepi32_ps(sum[t].hi)};
                    /* results stay in memory: the registers are full of sums */
                    v16 out = v16_fma(dot, v16_mul(ws, v16_set1(a->d)), v16_load(acc + t * ld_acc));
                    if (f.has_min) out = v16_fma(wm, v16_set1(f.halves ? a->half_asum[h] : a->asum), out);
                    v16_store(acc + t * ld_acc, out);
                }
            }
            group = codes + qr_lowbit_code_bytes(f);
        }
    }
}

#include "backend/cpu/body_attend.h"

/* F16C is older than AVX2 and in every processor that has it; clang 14 cannot ask for it by name. */
static bool supported(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const qr_cpu_kernels *qr_cpu_kernels_avx2(void)
{
    static const qr_cpu_kernels table = KERNEL_TABLE("avx2", supported);
    return &table;
}
#else
const qr_cpu_kernels *qr_cpu_kernels_avx2(void) { return NULL; }
#endif
