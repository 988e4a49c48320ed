/* kv: where K and V lie, and what their stored values mean (backend.h, qr_kv_dtype). */
#ifndef QR_BACKEND_CUDA_KV_CUH
#define QR_BACKEND_CUDA_KV_CUH

#include "backend/cuda/runtime.cuh"

static __device__ __forceinline__ uint8_t *qr_kv_head_k(const qr_cuda_kv &kv, int64_t block_id, int head)
{
    return kv.data + block_id * kv.block_bytes + head * kv.head_k_bytes;
}
static __device__ __forceinline__ uint8_t *qr_kv_head_v(const qr_cuda_kv &kv, int64_t block_id, int head)
{
    return kv.data + block_id * kv.block_bytes + kv.num_kv_heads * kv.head_k_bytes + head * kv.head_v_bytes;
}

/* Value i; INT8: the code as a number, FP8_E4M3: 2^-8 of the value. */
template <int dtype> static __device__ __forceinline__ float qr_kv_value(const uint8_t *p, int64_t i)
{
    switch (dtype) {
    case QR_KV_F32: return ((const float *)p)[i];
    case QR_KV_F16: return __half2float(((const __half *)p)[i]);
    case QR_KV_INT8: return (float)(int8_t)p[i];
    case QR_KV_FP8_E5M2: return __half2float(__ushort_as_half((unsigned short)(p[i] << 8)));
    default: { /* FP8_E4M3: src/backend/cpu/vec_ref.h says why */
        uint16_t h = (uint16_t)((int8_t)p[i] * 128), carry = (uint16_t)(h + 0x80);
        return __half2float(__ushort_as_half((unsigned short)(h ^ (carry & 0x4000))));
    }
    }
}

/* What the values of one position are multiplied with; `scales` lie behind a block's values. */
template <int dtype> static __device__ __forceinline__ float qr_kv_scale(const uint8_t *scales, int position)
{
    return dtype == QR_KV_INT8 ? __half2float(((const __half *)scales)[position]) : 256.0f;
}
template <int dtype> static __device__ __forceinline__ bool qr_kv_has_scale(void)
{
    return dtype == QR_KV_INT8 || dtype == QR_KV_FP8_E4M3;
}

#endif
