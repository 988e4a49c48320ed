/* New tokens: normalise heads, rotate, write K and V to the cache. A warp per token and head. */
#include "backend/cuda/kv.cuh"

struct rope_job {
    float *qkv;
    int64_t ld;
    int num_heads, head_size, half;
    qr_rope_style style;
    const float *cos, *sin, *q_norm, *k_norm;
    float eps;
    qr_cuda_kv kv;
    const int32_t *positions;
    const int64_t *slot_mapping;
};

enum { MAX_HEAD_SIZE = 512 };

static __device__ void rotate(float *x, const rope_job &a, const float *cos, const float *sin)
{
    for (int i = threadIdx.x; i < a.half; i += 32) {
        int first = a.style == QR_ROPE_ADJACENT ? 2 * i : i,
            second = a.style == QR_ROPE_ADJACENT ? first + 1 : i + a.half;
        float x0 = x[first], x1 = x[second];
        x[first] = fmaf(x0, cos[i], -(x1 * sin[i]));
        x[second] = fmaf(x0, sin[i], x1 * cos[i]);
    }
}

/* The fp8 code with that many bits of mantissa: src/backend/cpu/body_rows.h explains it. */
template <int mantissa> static __device__ uint8_t fp8_code(float x)
{
    const int bias = mantissa == 3 ? 7 : 15, shift = 23 - mantissa;
    const uint32_t lowest = (uint32_t)(128 - bias) << 23, unit = (uint32_t)(127 + 24 - bias - mantissa) << 23;
    const uint32_t largest = mantissa == 3 ? 0x7E : 0x7B;
    uint32_t bits = __float_as_uint(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7FFFFFFF;
    uint32_t sum = __float_as_uint(__uint_as_float(magnitude) + __uint_as_float(unit));
    uint32_t rounded = magnitude + (1u << (shift - 1)) - 1 + (magnitude >> shift & 1);
    uint32_t code = magnitude < lowest ? sum - unit : (rounded >> shift) - ((uint32_t)(127 - bias) << mantissa);
    code = code < largest ? code : largest;
    return (uint8_t)(magnitude > 0x7F800000 ? 0x7F : code | sign);
}

/* INT8's scale of a row: a float16; *inverse: what its values are multiplied with. */
static __device__ unsigned short int8_scale(const float *x, int size, float *inverse)
{
    float max = 0.0f, bad = 0.0f;
    for (int i = threadIdx.x; i < size; i += 32) {
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
        bad = x[i] - x[i] == 0.0f ? bad : 1.0f;
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        float other = __shfl_xor_sync(~0u, max, apart);
        max = other > max ? other : max;
        bad += __shfl_xor_sync(~0u, bad, apart);
    }
    float exact = max / 127.0f;
    unsigned short d = __half_as_ushort(__float2half_rn(exact));
    if (__half2float(__ushort_as_half(d)) < exact) d++; /* the next one up: no code is beyond 127 */
    *inverse = d ? 1.0f / __half2float(__ushort_as_half(d)) : 0.0f;
    return bad == 0.0f && d < 0x7C00 ? d : 0x7E00;
}

/* Value i of the row at `to` (in values). */
static __device__ void put(qr_kv_dtype dtype, uint8_t *base, int64_t to, float x, float inverse)
{
    switch (dtype) {
    case QR_KV_F32: ((float *)base)[to] = x; break;
    case QR_KV_F16: ((__half *)base)[to] = __float2half_rn(x); break;
    case QR_KV_INT8: {
        float code = rintf(x * inverse);
        base[to] = (uint8_t)(int8_t)(code >= -127.0f && code <= 127.0f ? code : 0.0f);
        break;
    }
    case QR_KV_FP8_E4M3: base[to] = fp8_code<3>(x); break;
    default: base[to] = fp8_code<2>(x); break;
    }
}

static __global__ void rope_kv_kernel(rope_job a)
{
    __shared__ float x[MAX_HEAD_SIZE];
    int64_t t = blockIdx.x, slot = a.slot_mapping[t];
    int head = (int)blockIdx.y, kv_heads = a.kv.num_kv_heads, size = a.head_size, bs = a.kv.block_size;
    float *row = a.qkv + t * a.ld + (int64_t)head * size;
    for (int i = threadIdx.x; i < size; i += 32) x[i] = row[i];
    __syncwarp();
    if (head < a.num_heads + kv_heads) {
        const float *norm = head < a.num_heads ? a.q_norm : a.k_norm;
        if (norm) {
            float r = qr_rms_inverse(x, size, a.eps);
            __syncwarp();
            for (int i = threadIdx.x; i < size; i += 32) x[i] = x[i] * r * norm[i];
            __syncwarp();
        }
        if (a.style != QR_ROPE_NONE)
            rotate(x, a, a.cos + a.positions[t] * (int64_t)a.half, a.sin + a.positions[t] * (int64_t)a.half);
        __syncwarp();
        for (int i = threadIdx.x; i < size; i += 32) row[i] = x[i];
    }
    if (head < a.num_heads || slot < 0) return; /* slot -1: a row that only fills up a batch */
    bool is_k = head < a.num_heads + kv_heads;
    int kv_head = is_k ? head - a.num_heads : head - a.num_heads - kv_heads, at = (int)(slot % bs);
    uint8_t *base = is_k ? qr_kv_head_k(a.kv, slot / bs, kv_head) : qr_kv_head_v(a.kv, slot / bs, kv_head);
    float inverse = 0.0f;
    if (a.kv.dtype == QR_KV_INT8) {
        unsigned short d = int8_scale(x, size, &inverse);
        if (threadIdx.x == 0) ((unsigned short *)(base + (is_k ? size : a.kv.padded) * bs))[at] = d;
    }
    for (int i = threadIdx.x; i < size; i += 32)
        put(a.kv.dtype, base, is_k ? (int64_t)i * bs + at : (int64_t)at * a.kv.padded + i, x[i], inverse);
    for (int i = size + threadIdx.x; i < a.kv.padded && !is_k; i += 32)
        put(a.kv.dtype, base, (int64_t)at * a.kv.padded + i, 0.0f, 0.0f);
}

void qr_cuda_rope_kv_write(qr_cuda_device *dev, const qr_rope_kv_args *args, const qr_cuda_kv *kv, int num_tokens,
                           const int32_t *positions, const int64_t *slot_mapping)
{
    rope_job job = {args->qkv,      args->ld,  args->num_heads, args->head_size, args->rotary_dim / 2,
                    args->style,    args->cos, args->sin,       args->q_norm,    args->k_norm,
                    args->norm_eps, *kv,       positions,       slot_mapping};
    dim3 grid((unsigned)num_tokens, (unsigned)(args->num_heads + 2 * args->num_kv_heads));
    QR_CUDA_LAUNCH(dev, rope_kv_kernel, grid, 32, 0, job);
}
