/* dequant: a group of 32 columns of a low-bit row: whole numbers, scales and minimums (formats: tensor/dequant.c).
 *
 *   value i = scale[i / 16 if halves] * code[i] + min[...]          code: signed, the format's zero subtracted */
#ifndef QR_BACKEND_CUDA_DEQUANT_CUH
#define QR_BACKEND_CUDA_DEQUANT_CUH

#include "backend/cuda/math.cuh"

template <int dtype> struct qr_format {
    static constexpr bool super = dtype >= QR_Q2_K && dtype <= QR_Q6_K; /* blocks of 256, else of 32 */
    static constexpr bool halves = dtype == QR_Q2_K || dtype == QR_Q3_K || dtype == QR_Q6_K;
    static constexpr bool has_min =
        dtype == QR_Q4_1 || dtype == QR_Q5_1 || dtype == QR_Q2_K || dtype == QR_Q4_K || dtype == QR_Q5_K;
};

struct qr_group {
    int32_t codes[8]; /* four each, the first lowest */
    float scale[2], min[2];
};

static __device__ __forceinline__ float qr_load_f16(const uint8_t *p)
{
    return __half2float(__ushort_as_half((unsigned short)(p[0] | p[1] << 8)));
}

/* 6-bit scale and minimum j of Q4_K and Q5_K */
static __device__ __forceinline__ void qr_scale_min_k4(const uint8_t *s, int j, int *scale, int *min)
{
    *scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    *min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
}

/* 6-bit scale i of Q3_K */
static __device__ __forceinline__ int qr_scale_k3(const uint8_t *s, int i)
{
    int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4, high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
    return (low | high << 4) - 32;
}

/* Code i of group j of a block of 256, or of a block of 32. */
template <int dtype> static __device__ __forceinline__ int qr_code(const uint8_t *p, int j, int i)
{
    switch (dtype) {
    case QR_Q4_0: return (i < 16 ? p[2 + i] & 15 : p[2 + i - 16] >> 4) - 8;
    case QR_Q4_1: return i < 16 ? p[4 + i] & 15 : p[4 + i - 16] >> 4;
    case QR_Q5_0: return ((i < 16 ? p[6 + i] & 15 : p[6 + i - 16] >> 4) | (p[2 + i / 8] >> (i % 8) & 1) << 4) - 16;
    case QR_Q5_1: return (i < 16 ? p[8 + i] & 15 : p[8 + i - 16] >> 4) | (p[4 + i / 8] >> (i % 8) & 1) << 4;
    case QR_Q8_0: return (int8_t)p[2 + i];
    case QR_Q2_K: return p[16 + j / 4 * 32 + i] >> (2 * (j % 4)) & 3;
    case QR_Q3_K: return ((p[32 + j / 4 * 32 + i] >> (2 * (j % 4)) & 3) | (p[i] >> j & 1) << 2) - 4;
    case QR_Q4_K: return p[16 + j / 2 * 32 + i] >> (j % 2 * 4) & 15;
    case QR_Q5_K: return (p[48 + j / 2 * 32 + i] >> (j % 2 * 4) & 15) | (p[16 + i] >> j & 1) << 4;
    default: /* Q6_K */
        return ((p[j / 4 * 64 + j % 2 * 32 + i] >> (j % 4 / 2 * 4) & 15) | (p[128 + j / 4 * 32 + i] >> (j % 4 * 2) & 3)
                                                                               << 4) -
               32;
    }
}

template <int dtype> static __device__ __forceinline__ void qr_scales(const uint8_t *p, int j, qr_group *out)
{
    int scale, min;
    switch (dtype) {
    case QR_Q4_1:
    case QR_Q5_1: out->min[0] = qr_load_f16(p + 2); /* fall through */
    case QR_Q4_0:
    case QR_Q5_0:
    case QR_Q8_0: out->scale[0] = qr_load_f16(p); break;
    case QR_Q2_K:
        for (int h = 0; h < 2; h++) {
            out->scale[h] = qr_load_f16(p + 80) * (float)(p[2 * j + h] & 15);
            out->min[h] = -(qr_load_f16(p + 82) * (float)(p[2 * j + h] >> 4));
        }
        break;
    case QR_Q3_K:
        for (int h = 0; h < 2; h++) out->scale[h] = qr_load_f16(p + 108) * (float)qr_scale_k3(p + 96, 2 * j + h);
        break;
    case QR_Q4_K:
    case QR_Q5_K:
        qr_scale_min_k4(p + 4, j, &scale, &min);
        out->scale[0] = qr_load_f16(p) * (float)scale;
        out->min[0] = -(qr_load_f16(p + 2) * (float)min);
        break;
    default: /* Q6_K */
        for (int h = 0; h < 2; h++) out->scale[h] = qr_load_f16(p + 208) * (float)(int8_t)p[192 + 2 * j + h];
        break;
    }
}

/* Group g of a row whose blocks are block_bytes. */
template <int dtype>
static __device__ __forceinline__ void qr_read_group(const uint8_t *row, int block_bytes, int64_t g, qr_group *out)
{
    const uint8_t *p = row + (qr_format<dtype>::super ? g / 8 : g) * block_bytes;
    int j = (int)(g % 8);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        unsigned four = 0;
        for (int i = 0; i < 4; i++) four |= (unsigned)(qr_code<dtype>(p, j, 4 * k + i) & 255) << (8 * i);
        out->codes[k] = (int32_t)four;
    }
    qr_scales<dtype>(p, j, out);
}

/* Call f<dtype>(...) for a low-bit dtype of run time. */
#define QR_LOWBIT_DTYPES(XX) XX(Q4_0) XX(Q4_1) XX(Q5_0) XX(Q5_1) XX(Q8_0) XX(Q2_K) XX(Q3_K) XX(Q4_K) XX(Q5_K) XX(Q6_K)

#endif
