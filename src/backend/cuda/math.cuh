/* math: the functions of backend.h that give the CPU's bits (src/backend/cpu/body_rows.h has them 16 lanes wide).
 * A warp that adds up a row has each of the 16 lanes of backend.h's orders twice. */
#ifndef QR_BACKEND_CUDA_MATH_CUH
#define QR_BACKEND_CUDA_MATH_CUH

#include "backend/cuda/device.cuh"

extern "C" {
#include "backend/cuda/cuda.h"
}

/* e^x within about 1 ulp: 0 below -87, e^88.37 above it, NaN for NaN. */
static __device__ __forceinline__ float qr_exp(float x)
{
    float low = 88.37f < x ? 88.37f : x, clamped = -87.0f > low ? -87.0f : low;
    float n = rintf(clamped * 1.44269504f);
    float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, clamped));
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p * r, r, r) + 1.0f;
    float whole = n >= -126.0f && n <= 127.0f ? n : 0.0f; /* NaN: any value will do */
    return x < -87.0f ? 0.0f : p * __int_as_float(((int)whole + 127) << 23);
}

static __device__ __forceinline__ float qr_gelu_erf(float x)
{
    float z = fabsf(x) * 0.70710678f, t = 1.0f / fmaf(z, 0.3275911f, 1.0f);
    float p = 1.061405429f;
    p = fmaf(p, t, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f);
    float tail = p * t * qr_exp((0.0f - z) * z);
    return 0.5f * x * (1.0f + copysignf(1.0f - tail, x));
}

static __device__ __forceinline__ float qr_apply_act(qr_act act, float x)
{
    switch (act) {
    case QR_ACT_SILU: return x / (1.0f + qr_exp(0.0f - x));
    case QR_ACT_GELU_TANH: return x / (1.0f + qr_exp(x * -1.5957691216f * fmaf(x * x, 0.044715f, 1.0f)));
    case QR_ACT_GELU_ERF: return qr_gelu_erf(x);
    case QR_ACT_RELU: break;
    }
    return x > 0.0f ? x : 0.0f;
}

/* The binary tree over 16 lanes (8 apart, 4, 2, 1); every lane has the sum. */
static __device__ __forceinline__ float qr_tree_16(float v)
{
    for (int apart = 8; apart > 0; apart /= 2) v += __shfl_xor_sync(~0u, v, apart);
    return v;
}

/* 1 / sqrt(mean of squares + eps) of a row, by a warp */
static __device__ __forceinline__ float qr_rms_inverse(const float *x, int64_t cols, float eps)
{
    float sum = 0.0f;
    for (int64_t i = threadIdx.x % 16; i < cols; i += 16) sum = fmaf(x[i], x[i], sum);
    return 1.0f / sqrtf(qr_tree_16(sum) / (float)cols + eps);
}

#endif
