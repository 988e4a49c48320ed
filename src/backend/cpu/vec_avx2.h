/* vec (avx2): 16 float lanes in two registers; meanings in vec_ref.h. */
#ifndef QR_BACKEND_CPU_VEC_AVX2_H
#define QR_BACKEND_CPU_VEC_AVX2_H

#include <immintrin.h>

enum { V16_TOKENS = 6, V16_PANELS = 1 };

typedef struct v16 {
    __m256 a, b;
} v16;

#define BOTH(expr_a, expr_b) \
    return (v16) { expr_a, expr_b }

/* all ones in lanes < n, for n below 0 and above 8 too */
static inline __m256i v8_mask(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline v16 v16_set1(float x) { BOTH(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
static inline v16 v16_load(const float *p) { BOTH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
static inline v16 v16_load_n(const float *p, int n)
{
    BOTH(_mm256_maskload_ps(p, v8_mask(n)), _mm256_maskload_ps(p + 8, v8_mask(n - 8)));
}
static inline void v16_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.a);
    _mm256_storeu_ps(p + 8, a.b);
}
static inline void v16_store_n(float *p, v16 a, int n)
{
    _mm256_maskstore_ps(p, v8_mask(n), a.a);
    _mm256_maskstore_ps(p + 8, v8_mask(n - 8), a.b);
}
static inline __m256 v8_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline __m256 v8_load_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
static inline v16 v16_load_f16(const uint16_t *p) { BOTH(v8_load_f16(p), v8_load_f16(p + 8)); }
static inline v16 v16_load_bf16(const uint16_t *p) { BOTH(v8_load_bf16(p), v8_load_bf16(p + 8)); }
static inline void v16_store_f16(uint16_t *p, v16 a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline v16 v16_load_pair(const float *lo, const float *hi) { BOTH(_mm256_loadu_ps(lo), _mm256_loadu_ps(hi)); }
static inline v16 v16_load_f16_pair(const uint16_t *lo, const uint16_t *hi) { BOTH(v8_load_f16(lo), v8_load_f16(hi)); }
typedef __m128i v16_bytes;
static inline v16_bytes v16_load_bytes(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }
static inline v16_bytes v16_load_bytes_pair(const uint8_t *lo, const uint8_t *hi)
{
    return _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)lo), _mm_loadl_epi64((const __m128i *)hi));
}
static inline v16 v16_from_s8(v16_bytes b)
{
    BOTH(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(b, 8))));
}
static inline v16 v16_from_e5m2(v16_bytes b) /* the upper byte of a float16 */
{
    const __m128i zero = _mm_setzero_si128();
    BOTH(_mm256_cvtph_ps(_mm_unpacklo_epi8(zero, b)), _mm256_cvtph_ps(_mm_unpackhi_epi8(zero, b)));
}
static inline v16 v16_from_e4m3(v16_bytes b) /* e4m3_half of vec_ref.h */
{
    __m256i h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(b), 7), carry = _mm256_add_epi16(h, _mm256_set1_epi16(0x80));
    h = _mm256_xor_si256(h, _mm256_and_si256(carry, _mm256_set1_epi16(0x4000)));
    BOTH(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)));
}
static inline v16 v16_add(v16 x, v16 y) { BOTH(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
static inline v16 v16_sub(v16 x, v16 y) { BOTH(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
static inline v16 v16_mul(v16 x, v16 y) { BOTH(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
static inline v16 v16_div(v16 x, v16 y) { BOTH(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
static inline v16 v16_fma(v16 x, v16 y, v16 z) { BOTH(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)); }
static inline v16 v16_min(v16 x, v16 y) { BOTH(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
static inline v16 v16_max(v16 x, v16 y) { BOTH(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
static inline v16 v16_abs(v16 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    BOTH(_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b));
}
static inline v16 v16_round(v16 x)
{
    BOTH(_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
         _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline v16 v16_copysign(v16 x, v16 sign)
{
    const __m256 bit = _mm256_set1_ps(-0.0f);
    BOTH(_mm256_or_ps(_mm256_andnot_ps(bit, x.a), _mm256_and_ps(bit, sign.a)),
         _mm256_or_ps(_mm256_andnot_ps(bit, x.b), _mm256_and_ps(bit, sign.b)));
}
static inline v16 v16_select_lt(v16 x, v16 y, v16 yes, v16 no)
{
    BOTH(_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
         _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)));
}
static inline __m256 v8_keep(__m256 a, int first, int end, float fill)
{
    __m256i keep = _mm256_andnot_si256(v8_mask(first), v8_mask(end));
    return _mm256_blendv_ps(_mm256_set1_ps(fill), a, _mm256_castsi256_ps(keep));
}
static inline v16 v16_keep(v16 x, int first, int end, float fill)
{
    BOTH(v8_keep(x.a, first, end, fill), v8_keep(x.b, first - 8, end - 8, fill));
}
static inline v16 v16_evens_twice(v16 x) { BOTH(_mm256_moveldup_ps(x.a), _mm256_moveldup_ps(x.b)); }
static inline v16 v16_odds_twice(v16 x) { BOTH(_mm256_movehdup_ps(x.a), _mm256_movehdup_ps(x.b)); }
static inline v16 v16_load_interleaved(const float *a, const float *b)
{
    __m256 x = _mm256_loadu_ps(a), y = _mm256_loadu_ps(b), lo = _mm256_unpacklo_ps(x, y), hi = _mm256_unpackhi_ps(x, y);
    BOTH(_mm256_permute2f128_ps(lo, hi, 0x20), _mm256_permute2f128_ps(lo, hi, 0x31));
}
static inline __m256 v8_pow2(__m256 n)
{
    __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
static inline v16 v16_pow2(v16 n) { BOTH(v8_pow2(n.a), v8_pow2(n.b)); }
static inline float v16_sum(v16 a)
{
    __m256 y = _mm256_add_ps(a.a, a.b);
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
static inline float v16_largest(v16 a)
{
    __m256 y = _mm256_max_ps(a.a, a.b);
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
static inline bool v16_any_eq(v16 x, v16 y)
{
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ))) !=
           0;
}
static inline void v16_store_s8(int8_t *p, v16 x)
{
    /* packs interleaves the 128-bit halves: the permutation puts the lanes back in order */
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    words = _mm256_permute4x64_epi64(words, 0xD8);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

#undef BOTH
#endif
