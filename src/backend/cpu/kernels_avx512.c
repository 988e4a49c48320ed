/* AVX-512 with VNNI: vpdpbusd multiplies unsigned weight codes by signed activations. */
#include "backend/cpu/kernels.h"

#ifdef __AVX512VNNI__
#include "backend/cpu/unroll.h"
#include "backend/cpu/vec_avx512.h"

typedef __m512i codes16;

INLINE bool centred(const qr_lowbit f)
{
    (void)f;
    return false;
}

INLINE codes16 take_codes(const qr_lowbit f, __m512i bytes)
{
    (void)f;
    return bytes;
}

INLINE __m512i add_dot(const qr_lowbit f, __m512i sum, codes16 codes, __m512i a)
{
    (void)f;
    return _mm512_dpbusd_epi32(sum, codes, a);
}

#include "backend/cpu/body_avx512.h"

static bool supported(void) { return has_avx512bw() && __builtin_cpu_supports("avx512vnni"); }

const qr_cpu_kernels *qr_cpu_kernels_avx512(void)
{
    static const qr_cpu_kernels table = KERNEL_TABLE("avx512", supported);
    return &table;
}
#else
const qr_cpu_kernels *qr_cpu_kernels_avx512(void) { return NULL; }
#endif
