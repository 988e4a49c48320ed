/* cuda_shim: bfloat16, by tensor/'s conversions (to nearest, ties to even: as the GPU's). */
#ifndef QR_TESTS_CUDA_SHIM_CUDA_BF16_H
#define QR_TESTS_CUDA_SHIM_CUDA_BF16_H

#include "cuda_fp16.h"

struct alignas(2) __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 h) { return qr_bf16_to_f32(h.bits); }
static inline __nv_bfloat16 __float2bfloat16_rn(float f) { return {qr_f32_to_bf16(f)}; }
static inline __nv_bfloat16 __float2bfloat16(float f) { return __float2bfloat16_rn(f); }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.bits; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
static inline float2 __bfloat1622float2(__nv_bfloat162 h) { return {__bfloat162float(h.x), __bfloat162float(h.y)}; }
static inline uint32_t qr_sub_bf16x2(uint32_t a, uint32_t b)
{
    uint32_t d = 0;
    for (int i = 0; i < 32; i += 16)
        d |= (uint32_t)qr_f32_to_bf16(qr_bf16_to_f32((uint16_t)(a >> i)) - qr_bf16_to_f32((uint16_t)(b >> i))) << i;
    return d;
}

#endif
