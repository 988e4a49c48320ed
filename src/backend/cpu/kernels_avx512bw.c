/* AVX-512 without VNNI (BW, VL, DQ): vpmaddubsw multiplies unsigned codes by signed activations into 16-bit sums of
 * two, which it saturates: codes to 63 stay far below. Q8_0's to 255 become code - 128; its sign goes to the
 * activation. */
#include "backend/cpu/kernels.h"

#ifdef __AVX512BW__
#include "backend/cpu/unroll.h"
#include "backend/cpu/vec_avx512.h"

typedef struct codes16 {
    __m512i size;
    __mmask64 negative;
} codes16;

INLINE bool centred(const qr_lowbit f) { return f.code_limit > 127; }

INLINE codes16 take_codes(const qr_lowbit f, __m512i bytes)
{
    if (!centred(f)) return (codes16){bytes, 0};
    bytes = _mm512_xor_si512(bytes, _mm512_set1_epi8((char)0x80));
    return (codes16){_mm512_abs_epi8(bytes), _mm512_movepi8_mask(bytes)};
}

INLINE __m512i add_dot(const qr_lowbit f, __m512i sum, codes16 codes, __m512i a)
{
    if (centred(f)) a = _mm512_mask_sub_epi8(a, codes.negative, _mm512_setzero_si512(), a);
    __m512i pairs = _mm512_maddubs_epi16(codes.size, a);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

#include "backend/cpu/body_avx512.h"

const qr_cpu_kernels *qr_cpu_kernels_avx512bw(void)
{
    static const qr_cpu_kernels table = KERNEL_TABLE("avx512bw", has_avx512bw);
    return &table;
}
#else
const qr_cpu_kernels *qr_cpu_kernels_avx512bw(void) { return NULL; }
#endif
