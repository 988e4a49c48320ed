/* cuda_shim: float16, by tensor/'s conversions (to nearest, ties to even: as the GPU's). */
#ifndef QR_TESTS_CUDA_SHIM_CUDA_FP16_H
#define QR_TESTS_CUDA_SHIM_CUDA_FP16_H

#include "cuda_runtime.h"

extern "C" {
#include "tensor/tensor.h"
}

struct alignas(2) __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};
typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half h) { return qr_f16_to_f32(h.bits); }
static inline __half __float2half_rn(float f) { return {qr_f32_to_f16(f)}; }
static inline __half __float2half(float f) { return __float2half_rn(f); }
static inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
static inline unsigned short __half_as_ushort(__half h) { return h.bits; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
static inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }

#endif
