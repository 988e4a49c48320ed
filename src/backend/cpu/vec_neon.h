/* vec (neon): 16 float lanes in four registers; meanings in vec_ref.h. */
#ifndef QR_BACKEND_CPU_VEC_NEON_H
#define QR_BACKEND_CPU_VEC_NEON_H

#include <arm_neon.h>
#include <string.h>

enum { V16_TOKENS = 6, V16_PANELS = 1 };

typedef struct v16 {
    float32x4_t v[4];
} v16;

#define EACH(expr)                             \
    return (v16)                               \
    {                                          \
        {                                      \
            expr(0), expr(1), expr(2), expr(3) \
        }                                      \
    }

static inline v16 v16_set1(float x)
{
    float32x4_t v = vdupq_n_f32(x);
    return (v16){{v, v, v, v}};
}
static inline v16 v16_load(const float *p)
{
#define LANE4(i) vld1q_f32(p + 4 * (i))
    EACH(LANE4);
#undef LANE4
}
static inline v16 v16_load_n(const float *p, int n)
{
    float padded[16] = {0};
    memcpy(padded, p, (size_t)n * sizeof(float));
    return v16_load(padded);
}
static inline void v16_store(float *p, v16 a)
{
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.v[i]);
}
static inline void v16_store_n(float *p, v16 a, int n)
{
    float padded[16];
    v16_store(padded, a);
    memcpy(p, padded, (size_t)n * sizeof(float));
}
static inline float32x4_t v4_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline v16 v16_load_f16(const uint16_t *p)
{
#define LANE4(i) v4_load_f16(p + 4 * (i))
    EACH(LANE4);
#undef LANE4
}
static inline v16 v16_load_bf16(const uint16_t *p)
{
#define LANE4(i) vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * (i)), 16))
    EACH(LANE4);
#undef LANE4
}
static inline void v16_store_f16(uint16_t *p, v16 a)
{
    for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
static inline v16 v16_load_pair(const float *lo, const float *hi)
{
    return (v16){{vld1q_f32(lo), vld1q_f32(lo + 4), vld1q_f32(hi), vld1q_f32(hi + 4)}};
}
static inline v16 v16_load_f16_pair(const uint16_t *lo, const uint16_t *hi)
{
    return (v16){{v4_load_f16(lo), v4_load_f16(lo + 4), v4_load_f16(hi), v4_load_f16(hi + 4)}};
}

typedef uint8x16_t v16_bytes;
static inline v16_bytes v16_load_bytes(const uint8_t *p) { return vld1q_u8(p); }
static inline v16_bytes v16_load_bytes_pair(const uint8_t *lo, const uint8_t *hi)
{
    return vcombine_u8(vld1_u8(lo), vld1_u8(hi));
}
static inline v16 v16_from_s8(v16_bytes b)
{
    int16x8_t lo = vmovl_s8(vreinterpret_s8_u8(vget_low_u8(b))), hi = vmovl_s8(vreinterpret_s8_u8(vget_high_u8(b)));
    return (v16){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo))),
                  vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi)))}};
}
static inline v16 v16_from_halves(uint16x8_t lo, uint16x8_t hi)
{
    float16x8_t a = vreinterpretq_f16_u16(lo), b = vreinterpretq_f16_u16(hi);
    return (v16){{vcvt_f32_f16(vget_low_f16(a)), vcvt_f32_f16(vget_high_f16(a)), vcvt_f32_f16(vget_low_f16(b)),
                  vcvt_f32_f16(vget_high_f16(b))}};
}
static inline v16 v16_from_e5m2(v16_bytes b) /* the upper byte of a float16 */
{
    return v16_from_halves(vshll_n_u8(vget_low_u8(b), 8), vshll_n_u8(vget_high_u8(b), 8));
}
static inline uint16x8_t v8_e4m3(uint8x8_t b) /* e4m3_half of vec_ref.h */
{
    uint16x8_t h = vreinterpretq_u16_s16(vshlq_n_s16(vmovl_s8(vreinterpret_s8_u8(b)), 7));
    return veorq_u16(h, vandq_u16(vaddq_u16(h, vdupq_n_u16(0x80)), vdupq_n_u16(0x4000)));
}
static inline v16 v16_from_e4m3(v16_bytes b)
{
    return v16_from_halves(v8_e4m3(vget_low_u8(b)), v8_e4m3(vget_high_u8(b)));
}

#define BINARY(name, op)                                         \
    static inline v16 name(v16 a, v16 b)                         \
    {                                                            \
        v16 r;                                                   \
        for (int i = 0; i < 4; i++) r.v[i] = op(a.v[i], b.v[i]); \
        return r;                                                \
    }
static inline float32x4_t v4_min(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline float32x4_t v4_max(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline float32x4_t v4_copysign(float32x4_t a, float32x4_t sign)
{
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, a);
}
BINARY(v16_add, vaddq_f32)
BINARY(v16_sub, vsubq_f32)
BINARY(v16_mul, vmulq_f32)
BINARY(v16_div, vdivq_f32)
BINARY(v16_min, v4_min)
BINARY(v16_max, v4_max)
BINARY(v16_copysign, v4_copysign)
#undef BINARY

static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
#define LANE4(i) vfmaq_f32(c.v[i], a.v[i], b.v[i])
    EACH(LANE4);
#undef LANE4
}
static inline v16 v16_abs(v16 a)
{
#define LANE4(i) vabsq_f32(a.v[i])
    EACH(LANE4);
#undef LANE4
}
static inline v16 v16_round(v16 a)
{
#define LANE4(i) vrndnq_f32(a.v[i])
    EACH(LANE4);
#undef LANE4
}
static inline v16 v16_select_lt(v16 x, v16 y, v16 yes, v16 no)
{
#define LANE4(i) vbslq_f32(vcltq_f32(x.v[i], y.v[i]), yes.v[i], no.v[i])
    EACH(LANE4);
#undef LANE4
}
static inline v16 v16_keep(v16 a, int first, int end, float fill)
{
    float lanes[16];
    v16_store(lanes, a);
    for (int i = 0; i < 16; i++)
        if (i < first || i >= end) lanes[i] = fill;
    return v16_load(lanes);
}
static inline v16 v16_evens_twice(v16 a)
{
#define LANE4(i) vtrn1q_f32(a.v[i], a.v[i])
    EACH(LANE4);
#undef LANE4
}
static inline v16 v16_odds_twice(v16 a)
{
#define LANE4(i) vtrn2q_f32(a.v[i], a.v[i])
    EACH(LANE4);
#undef LANE4
}
static inline v16 v16_load_interleaved(const float *a, const float *b)
{
    float32x4_t a0 = vld1q_f32(a), a1 = vld1q_f32(a + 4), b0 = vld1q_f32(b), b1 = vld1q_f32(b + 4);
    return (v16){{vzip1q_f32(a0, b0), vzip2q_f32(a0, b0), vzip1q_f32(a1, b1), vzip2q_f32(a1, b1)}};
}
static inline v16 v16_pow2(v16 n)
{
#define LANE4(i) vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23))
    EACH(LANE4);
#undef LANE4
}
static inline float v16_sum(v16 a)
{
    float32x4_t x = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    float32x2_t y = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(y, 0) + vget_lane_f32(y, 1);
}
static inline float v16_largest(v16 a)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
}
static inline bool v16_any_eq(v16 a, v16 b)
{
    uint32x4_t eq = vdupq_n_u32(0);
    for (int i = 0; i < 4; i++) eq = vorrq_u32(eq, vceqq_f32(a.v[i], b.v[i]));
    return vmaxvq_u32(eq) != 0;
}
static inline void v16_store_s8(int8_t *p, v16 a)
{
    int16x8_t lo = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.v[0])), vqmovn_s32(vcvtnq_s32_f32(a.v[1])));
    int16x8_t hi = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.v[2])), vqmovn_s32(vcvtnq_s32_f32(a.v[3])));
    vst1q_s8(p, vcombine_s8(vqmovn_s16(lo), vqmovn_s16(hi)));
}

#undef EACH
#endif
