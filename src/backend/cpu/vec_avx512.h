/* vec (avx512): 16 float lanes in one register; meanings in vec_ref.h. */
#ifndef QR_BACKEND_CPU_VEC_AVX512_H
#define QR_BACKEND_CPU_VEC_AVX512_H

#include <immintrin.h>

enum { V16_TOKENS = 12, V16_PANELS = 2 };

typedef __m512 v16;

static inline __mmask16 v16_mask(int n) { return (__mmask16)((1u << n) - 1); }
static inline v16 v16_set1(float x) { return _mm512_set1_ps(x); }
static inline v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
static inline v16 v16_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(v16_mask(n), p); }
static inline void v16_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
static inline void v16_store_n(float *p, v16 a, int n) { _mm512_mask_storeu_ps(p, v16_mask(n), a); }
static inline v16 v16_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline v16 v16_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline void v16_store_f16(uint16_t *p, v16 a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline v16 v16_load_pair(const float *lo, const float *hi)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(lo)), _mm256_loadu_ps(hi), 1);
}
static inline v16 v16_load_f16_pair(const uint16_t *lo, const uint16_t *hi)
{
    return _mm512_cvtph_ps(
        _mm256_set_m128i(_mm_loadu_si128((const __m128i *)hi), _mm_loadu_si128((const __m128i *)lo)));
}
typedef __m128i v16_bytes;
static inline v16_bytes v16_load_bytes(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }
static inline v16_bytes v16_load_bytes_pair(const uint8_t *lo, const uint8_t *hi)
{
    return _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)lo), _mm_loadl_epi64((const __m128i *)hi));
}
static inline v16 v16_from_s8(v16_bytes b) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b)); }
static inline v16 v16_from_e5m2(v16_bytes b) /* the upper byte of a float16 */
{
    return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(b), 8));
}
static inline v16 v16_from_e4m3(v16_bytes b) /* e4m3_half of vec_ref.h */
{
    __m256i h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(b), 7), carry = _mm256_add_epi16(h, _mm256_set1_epi16(0x80));
    h = _mm256_ternarylogic_epi32(h, carry, _mm256_set1_epi16(0x4000), 0x78); /* h ^ (carry & 0x4000) */
    return _mm512_cvtph_ps(h);
}
static inline v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
static inline v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
static inline v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
static inline v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
static inline v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
static inline v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
static inline v16 v16_abs(v16 a) { return _mm512_abs_ps(a); }
static inline v16 v16_round(v16 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline v16 v16_copysign(v16 a, v16 sign)
{
    const v16 bit = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(bit, a), _mm512_and_ps(bit, sign));
}
static inline v16 v16_select_lt(v16 x, v16 y, v16 yes, v16 no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), no, yes);
}
static inline v16 v16_keep(v16 a, int first, int end, float fill)
{
    __mmask16 before = v16_mask(first > 0 ? first : 0);
    return _mm512_mask_blend_ps((__mmask16)(v16_mask(end) & ~before), _mm512_set1_ps(fill), a);
}
static inline v16 v16_evens_twice(v16 a) { return _mm512_moveldup_ps(a); }
static inline v16 v16_odds_twice(v16 a) { return _mm512_movehdup_ps(a); }
static inline v16 v16_load_interleaved(const float *a, const float *b)
{
    const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    return _mm512_permutexvar_ps(order, v16_load_pair(a, b));
}
static inline v16 v16_pow2(v16 n)
{
    __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
static inline float v16_sum(v16 a)
{
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
static inline float v16_largest(v16 a) { return _mm512_reduce_max_ps(a); }
static inline bool v16_any_eq(v16 a, v16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) != 0; }
static inline void v16_store_s8(int8_t *p, v16 a)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}

#endif
