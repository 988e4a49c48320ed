/* NEON with dot products (ARMv8.2): sdot multiplies 4 columns x 4 rows of signed bytes.
 * Codes are below 128, so they are signed bytes too; Q8_0's are made so by subtracting 128. */
#include "backend/cpu/kernels.h"

#ifdef __ARM_FEATURE_DOTPROD
#include "backend/cpu/vec_neon.h"
#include <math.h>
#include <string.h>
#include <sys/auxv.h>

enum { LOWBIT_TOKENS = 4, LOWBIT_PANELS = 1, HWCAP_DOT_PRODUCT = 1 << 20 };

#include "backend/cpu/unroll.h"

INLINE int8x16_t load_codes(const qr_lowbit f, const uint8_t *codes, int j, int i)
{
    uint8x16_t v = vld1q_u8(codes + 64 * (f.bits == 4 ? j % 4 : j) + 16 * i);
    if (f.bits == 4) v = j >= 4 ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15));
    if (f.code_limit > 127) v = veorq_u8(v, vdupq_n_u8(0x80));
    return vreinterpretq_s8_u8(v);
}

INLINE void dot_part(const qr_lowbit f, const uint8_t *codes, const qr_act_group *x, int64_t ld_x, const int T,
                     const int h, int32x4_t sum[][4])
{
    const int first = f.halves ? 4 * h : 0, end = f.halves ? 4 * h + 4 : 8;
    UNROLL
    for (int j = first; j < end; j++) {
        int8x16_t b[4];
        UNROLL
        for (int i = 0; i < 4; i++) b[i] = load_codes(f, codes, j, i);
        UNROLL
        for (int t = 0; t < T; t++) {
            int32_t four;
            memcpy(&four, x[t * ld_x].q + 4 * j, sizeof four);
            int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
            UNROLL
            for (int i = 0; i < 4; i++) sum[t][i] = vdotq_s32(sum[t][i], b[i], a);
        }
    }
}

INLINE v16 load_s8(const uint8_t *p)
{
    int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(p));
    int16x8_t lo = vmovl_s8(vget_low_s8(bytes)), hi = vmovl_s8(vget_high_s8(bytes));
    return (v16){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo))),
                  vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi)))}};
}

INLINE void lowbit_tile(const qr_lowbit f, const uint8_t *w, size_t panel_bytes, fetch *next, int64_t k,
                        const qr_act_group *x, int64_t ld_x, const int T, const int P, bool add, float *acc,
                        int64_t ld_acc)
{
    (void)P; /* one panel at a time */
    const int parts = f.halves ? 2 : 1;
    v16 out[LOWBIT_TOKENS];
    UNROLL
    for (int t = 0; t < T; t++) out[t] = add ? v16_load(acc + t * ld_acc) : v16_set1(0.0f);
    for (int64_t left = k; left > 0; left -= qr_lowbit_unit_cols(f), w += qr_lowbit_unit_bytes(f)) {
        v16 d = v16_load_f16((const uint16_t *)w), dmin = d;
        if (f.has_min) dmin = v16_load_f16((const uint16_t *)w + 16);
        const uint8_t *group = w + (f.has_min ? 64 : 32);
        for (int g = 0; g < qr_lowbit_unit_cols(f) / 32; g++, x++) {
            const uint8_t *codes = group + (f.super ? 16 * parts * (f.has_min ? 2 : 1) : 0);
            fetch_some(next, 1, panel_bytes);
            UNROLL
            for (int h = 0; h < parts; h++) {
                int32x4_t sum[LOWBIT_TOKENS][4];
                UNROLL
                for (int t = 0; t < T; t++) {
                    const qr_act_group *a = x + t * ld_x;
                    int zero = f.code_limit > 127 ? f.zero - 128 : f.zero;
                    int32x4_t start = vdupq_n_s32(zero ? -zero * (f.halves ? a->half_sum[h] : a->sum) : 0);
                    UNROLL
                    for (int i = 0; i < 4; i++) sum[t][i] = start;
                }
                dot_part(f, codes, x, ld_x, T, h, sum);
                v16 ws = f.super ? v16_mul(d, load_s8(group + 16 * h)) : d, wm = dmin;
                if (f.super && f.has_min) wm = v16_mul(dmin, load_s8(group + 16 * (parts + h)));
                UNROLL
                for (int t = 0; t < T; t++) {
                    const qr_act_group *a = x + t * ld_x;
                    v16 dot;
                    UNROLL
                    for (int i = 0; i < 4; i++) dot.v[i] = vcvtq_f32_s32(sum[t][i]);
                    out[t] = v16_fma(dot, v16_mul(ws, v16_set1(a->d)), out[t]);
                    if (f.has_min) out[t] = v16_fma(wm, v16_set1(f.halves ? a->half_asum[h] : a->asum), out[t]);
                }
            }
            group = codes + qr_lowbit_code_bytes(f);
        }
    }
    UNROLL
    for (int t = 0; t < T; t++) v16_store(acc + t * ld_acc, out[t]);
}

#include "backend/cpu/body_attend.h"

static bool supported(void) { return (getauxval(AT_HWCAP) & HWCAP_DOT_PRODUCT) != 0; }

const qr_cpu_kernels *qr_cpu_kernels_neon(void)
{
    static const qr_cpu_kernels table = KERNEL_TABLE("neon", supported);
    return &table;
}
#else
const qr_cpu_kernels *qr_cpu_kernels_neon(void) { return NULL; }
#endif
