/* mma_unit: units of packed weights (mma_linear.h): what they are made of, and how they become fragments. */
#ifndef QR_BACKEND_CUDA_MMA_UNIT_CUH
#define QR_BACKEND_CUDA_MMA_UNIT_CUH

#include "backend/cuda/mma_index.cuh"
#include "backend/cuda/mma_linear.h"

enum { QR_UNIT_STEPS = QR_UNIT_COLS / 16 };

template <int FORMAT> struct qr_unit {
    static constexpr int bits = FORMAT <= QR_MMA_F16 ? 16 : FORMAT >= QR_MMA_Q8 ? 8 : 4;
    static constexpr bool has_min = FORMAT == QR_MMA_Q4_MIN || FORMAT == QR_MMA_Q4_SUPER;
    static constexpr int group_steps = bits == 16 ? QR_UNIT_STEPS : FORMAT == QR_MMA_Q8_SUPER ? 1 : 2;
    static constexpr int zero = bits == 8 ? 128 : FORMAT == QR_MMA_Q4 ? 8 : 0;
    static constexpr int code_bytes = QR_UNIT_ROWS * QR_UNIT_COLS * bits / 8;
    static constexpr int scale_bytes = bits == 16                  ? 0
                                       : FORMAT == QR_MMA_Q4_MIN   ? 256
                                       : FORMAT == QR_MMA_Q4_SUPER ? 192
                                       : FORMAT == QR_MMA_Q8_SUPER ? 160
                                                                   : 128;
    static constexpr int bytes = code_bytes + scale_bytes;
    static constexpr int parts = FORMAT == QR_MMA_F16 ? 2 : 1;        /* bfloat16 per weight */
    static constexpr int stages = bits == 16 ? 2 : bits == 8 ? 3 : 4; /* units that a warp has in shared memory */
};

static __device__ __forceinline__ uint32_t qr_pack_bf16(float x, float y)
{
    __nv_bfloat162 h = __floats2bfloat162_rn(x, y);
    uint32_t bits;
    memcpy(&bits, &h, sizeof bits);
    return bits;
}

static __device__ __forceinline__ float2 qr_unpack_bf16(uint32_t bits)
{
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

/* x, y as hi + lo */
static __device__ __forceinline__ void qr_split_bf16(float x, float y, uint32_t *hi, uint32_t *lo)
{
    *hi = qr_pack_bf16(x, y);
    float2 h = qr_unpack_bf16(*hi);
    *lo = qr_pack_bf16(x - h.x, y - h.y);
}

/* A of one step of 16 columns, without scales; a[1]: the lower halves of float16 weights. */
template <int FORMAT>
static __device__ __forceinline__ void qr_unit_fragment(const uint8_t *unit, int step, int lane,
                                                        uint32_t (&a)[qr_unit<FORMAT>::parts][4])
{
    typedef qr_unit<FORMAT> U;
    if constexpr (U::bits == 16) {
        uint4 w = *reinterpret_cast<const uint4 *>(unit + qr_unit_offset_16bit(step, lane));
        const uint32_t pairs[4] = {w.x, w.y, w.z, w.w};
        QR_UNROLL
        for (int i = 0; i < 4; i++) {
            a[0][i] = pairs[i];
            if (U::parts == 2) {
                float x = __half2float(__ushort_as_half((unsigned short)(pairs[i] & 0xffff)));
                float y = __half2float(__ushort_as_half((unsigned short)(pairs[i] >> 16)));
                qr_split_bf16(x, y, &a[0][i], &a[U::parts - 1][i]);
            }
        }
    } else if constexpr (U::bits == 8) {
        uint2 w = *reinterpret_cast<const uint2 *>(unit + qr_unit_offset_8bit(step, lane));
        QR_UNROLL
        for (int i = 0; i < 4; i++) { /* 32768 + code + 128 in float32 */
            uint32_t four = i < 2 ? w.x : w.y;
            float x = __uint_as_float(__byte_perm(four, 0x47000000u, i % 2 ? 0x7424 : 0x7404)) - 32896.0f;
            float y = __uint_as_float(__byte_perm(four, 0x47000000u, i % 2 ? 0x7434 : 0x7414)) - 32896.0f;
            a[0][i] = qr_pack_bf16(x, y);
        }
    } else {
        uint32_t w = *reinterpret_cast<const uint32_t *>(unit + qr_unit_offset_4bit(step, lane));
        constexpr uint32_t zero = 0x43004300u + U::zero * 0x00010001u; /* 128 + zero in bfloat16, whose unit is 1 */
        QR_UNROLL
        for (int i = 0; i < 4; i++) a[0][i] = qr_sub_bf16x2((w >> (4 * i) & 0x000F000Fu) | 0x43004300u, zero);
    }
}

/* Scale and minimum of a group and row of the unit. */
template <int FORMAT>
static __device__ __forceinline__ void qr_unit_scale(const uint8_t *unit, int group, int row, float *scale, float *min)
{
    const uint8_t *scales = unit + qr_unit<FORMAT>::code_bytes;
    const __half *d = reinterpret_cast<const __half *>(scales);
    if (FORMAT == QR_MMA_Q4_SUPER) {
        const int8_t *s = reinterpret_cast<const int8_t *>(scales + 64) + 16 * group + row;
        *scale = __half2float(d[row]) * (float)s[0];
        *min = -(__half2float(d[16 + row]) * (float)s[64]);
    } else if (FORMAT == QR_MMA_Q8_SUPER) {
        *scale = __half2float(d[row]) * (float)reinterpret_cast<const int8_t *>(scales + 32)[16 * group + row];
    } else {
        *scale = __half2float(d[16 * group + row]);
        if (FORMAT == QR_MMA_Q4_MIN) *min = __half2float(d[64 + 16 * group + row]);
    }
}

#endif
