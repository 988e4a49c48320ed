/* Each function turns num_blocks blocks into num_blocks * block_len floats. Blocks are read byte by byte, so any
 * alignment will do; the products and sums are formed in the order of gguf/quants.py. */
#include <assert.h>
#include <string.h>

#include "tensor/tensor.h"

static inline float f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t bits_from_f32(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* Branch-free, so that loops over it vectorize. Raising the exponent field by 224 turns 31 (infinity, NaN) into 255 and
 * keeps the rest normal; 2^-112 then brings it down to the float's bias, exactly. Zeros and subnormals: the mantissa
 * below a leading 0.5, minus 0.5. */
static inline float f16_value(uint16_t h)
{
    uint32_t mag = h & 0x7fffu, sign = (uint32_t)(h & 0x8000u) << 16;
    float normal = f32_from_bits((mag << 13) + (224u << 23)) * 0x1p-112f;
    float subnormal = f32_from_bits(mag | (126u << 23)) - 0.5f;
    uint32_t pick = 0u - (uint32_t)(mag < 0x400u); /* all ones or zeros; a ?: would become a branch */
    return f32_from_bits(sign | (bits_from_f32(subnormal) & pick) | (bits_from_f32(normal) & ~pick));
}

float qr_f16_to_f32(uint16_t h) { return f16_value(h); }

static inline uint16_t load_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t load_u32(const uint8_t *p) { return load_u16(p) | (uint32_t)load_u16(p + 2) << 16; }
static inline float load_f16(const uint8_t *p) { return f16_value(load_u16(p)); }

static void dequantize_f32(const uint8_t *src, float *dst, int64_t num_values)
{
    memcpy(dst, src, (size_t)num_values * sizeof *dst);
}

static void dequantize_f16(const uint8_t *src, float *dst, int64_t num_values)
{
    uint16_t h[16];
    for (; num_values >= 16; num_values -= 16, src += 32, dst += 16) { /* a fixed count, so that -O2 vectorizes it */
        memcpy(h, src, sizeof h);
        for (int i = 0; i < 16; i++) dst[i] = f16_value(h[i]);
    }
    for (int64_t i = 0; i < num_values; i++) dst[i] = load_f16(src + 2 * i);
}

static void dequantize_bf16(const uint8_t *src, float *dst, int64_t num_values)
{
    for (int64_t i = 0; i < num_values; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, sizeof h);
        dst[i] = f32_from_bits((uint32_t)h << 16);
    }
}

/* {d, 16 bytes}: low nibbles are values 0..15, high ones 16..31 */
static void dequantize_q4_0(const uint8_t *src, float *dst, int64_t num_blocks)
{
    for (; num_blocks > 0; num_blocks--, src += 18, dst += 32) {
        float d = load_f16(src);
        const uint8_t *qs = src + 2;
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((qs[i] & 15) - 8);
            dst[i + 16] = d * (float)((qs[i] >> 4) - 8);
        }
    }
}

/* {d, m, 16 bytes} */
static void dequantize_q4_1(const uint8_t *src, float *dst, int64_t num_blocks)
{
    for (; num_blocks > 0; num_blocks--, src += 20, dst += 32) {
        float d = load_f16(src), m = load_f16(src + 2);
        const uint8_t *qs = src + 4;
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)(qs[i] & 15) + m;
            dst[i + 16] = d * (float)(qs[i] >> 4) + m;
        }
    }
}

/* {d, 32 fifth bits, 16 bytes} */
static void dequantize_q5_0(const uint8_t *src, float *dst, int64_t num_blocks)
{
    for (; num_blocks > 0; num_blocks--, src += 22, dst += 32) {
        float d = load_f16(src);
        uint32_t qh = load_u32(src + 2);
        const uint8_t *qs = src + 6;
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((int)((qs[i] & 15) | (qh >> i & 1) << 4) - 16);
            dst[i + 16] = d * (float)((int)((qs[i] >> 4) | (qh >> (i + 16) & 1) << 4) - 16);
        }
    }
}

/* {d, m, 32 fifth bits, 16 bytes} */
static void dequantize_q5_1(const uint8_t *src, float *dst, int64_t num_blocks)
{
    for (; num_blocks > 0; num_blocks--, src += 24, dst += 32) {
        float d = load_f16(src), m = load_f16(src + 2);
        uint32_t qh = load_u32(src + 4);
        const uint8_t *qs = src + 8;
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((qs[i] & 15) | (qh >> i & 1) << 4) + m;
            dst[i + 16] = d * (float)((qs[i] >> 4) | (qh >> (i + 16) & 1) << 4) + m;
        }
    }
}

/* {d, 32 int8} */
static void dequantize_q8_0(const uint8_t *src, float *dst, int64_t num_blocks)
{
    for (; num_blocks > 0; num_blocks--, src += 34, dst += 32) {
        float d = load_f16(src);
        for (int i = 0; i < 32; i++) dst[i] = (float)(int8_t)src[2 + i] * d;
    }
}

/* {16 scales (low nibble) and mins (high), 64 bytes of 2 bits, d, dmin}; 16 groups of 16 */
static void dequantize_q2_k(const uint8_t *src, float *dst, int64_t num_blocks)
{
    for (; num_blocks > 0; num_blocks--, src += 84) {
        float d = load_f16(src + 80), dmin = load_f16(src + 82);
        for (int group = 0; group < 16; group++, dst += 16) {
            const uint8_t *qs = src + 16 + group / 8 * 32 + group % 2 * 16;
            int shift = group / 2 % 4 * 2;
            float scale = d * (float)(src[group] & 15), min = dmin * (float)(src[group] >> 4);
            for (int i = 0; i < 16; i++) dst[i] = scale * (float)(qs[i] >> shift & 3) - min;
        }
    }
}

/* {32 bytes of third bits, 64 bytes of 2 bits, 12 bytes of 6-bit scales, d}; 16 groups of 16 */
static void dequantize_q3_k(const uint8_t *src, float *dst, int64_t num_blocks)
{
    for (; num_blocks > 0; num_blocks--, src += 110) {
        const uint8_t *scales = src + 96;
        float d = load_f16(src + 108);
        for (int group = 0; group < 16; group++, dst += 16) {
            const uint8_t *qs = src + 32 + group / 8 * 32 + group % 2 * 16, *hmask = src + group % 2 * 16;
            int shift = group / 2 % 4 * 2, hbit = group / 2;
            int low = scales[group % 8] >> (group / 8 * 4) & 15, high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
            float scale = d * (float)((low | high << 4) - 32);
            for (int i = 0; i < 16; i++) /* a clear third bit means minus four */
                dst[i] = scale * (float)(((qs[i] >> shift & 3) | (hmask[i] >> hbit & 1) << 2) - 4);
        }
    }
}

/* Q4_K and Q5_K: 8 scales and 8 mins of 6 bits in 12 bytes; the last four have their upper 2 bits in the first 8. */
static void unpack_scale_min(const uint8_t *packed, int group, float *scale, float *min)
{
    if (group < 4) {
        *scale = (float)(packed[group] & 63);
        *min = (float)(packed[group + 4] & 63);
    } else {
        *scale = (float)((packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4);
        *min = (float)((packed[group + 4] >> 4) | (packed[group] >> 6) << 4);
    }
}

/* {d, dmin, 12 bytes of scales and mins, 128 bytes of 4 bits}; 8 groups of 32 */
static void dequantize_q4_k(const uint8_t *src, float *dst, int64_t num_blocks)
{
    for (; num_blocks > 0; num_blocks--, src += 144) {
        float d = load_f16(src), dmin = load_f16(src + 2);
        for (int group = 0; group < 8; group++, dst += 32) {
            const uint8_t *qs = src + 16 + group / 2 * 32;
            int shift = group % 2 * 4;
            float scale, min;
            unpack_scale_min(src + 4, group, &scale, &min);
            scale = d * scale;
            min = dmin * min;
            for (int i = 0; i < 32; i++) dst[i] = scale * (float)(qs[i] >> shift & 15) - min;
        }
    }
}

/* {d, dmin, 12 bytes of scales and mins, 32 bytes of fifth bits, 128 bytes of 4 bits}; 8 groups of 32 */
static void dequantize_q5_k(const uint8_t *src, float *dst, int64_t num_blocks)
{
    for (; num_blocks > 0; num_blocks--, src += 176) {
        float d = load_f16(src), dmin = load_f16(src + 2);
        const uint8_t *qh = src + 16;
        for (int group = 0; group < 8; group++, dst += 32) {
            const uint8_t *qs = src + 48 + group / 2 * 32;
            int shift = group % 2 * 4;
            float scale, min;
            unpack_scale_min(src + 4, group, &scale, &min);
            scale = d * scale;
            min = dmin * min;
            for (int i = 0; i < 32; i++)
                dst[i] = scale * (float)((qs[i] >> shift & 15) | (qh[i] >> group & 1) << 4) - min;
        }
    }
}

/* {128 bytes of 4 bits, 64 bytes of 2 upper bits, 16 int8 scales, d}; 16 groups of 16 */
static void dequantize_q6_k(const uint8_t *src, float *dst, int64_t num_blocks)
{
    for (; num_blocks > 0; num_blocks--, src += 210) {
        float d = load_f16(src + 208);
        for (int group = 0; group < 16; group++, dst += 16) {
            const uint8_t *ql = src + group / 8 * 64 + group % 4 * 16;
            const uint8_t *qh = src + 128 + group / 8 * 32 + group % 2 * 16;
            int low_shift = group / 4 % 2 * 4, high_shift = group / 2 % 4 * 2;
            float scale = d * (float)(int8_t)src[192 + group];
            for (int i = 0; i < 16; i++)
                dst[i] = scale * (float)(((ql[i] >> low_shift & 15) | (qh[i] >> high_shift & 3) << 4) - 32);
        }
    }
}

void qr_dequantize(qr_dtype dtype, const void *src, float *dst, int64_t num_values)
{
    static void (*const functions[QR_NUM_DTYPES])(const uint8_t *, float *, int64_t) = {
        [QR_F32] = dequantize_f32,   [QR_F16] = dequantize_f16,   [QR_BF16] = dequantize_bf16,
        [QR_Q4_0] = dequantize_q4_0, [QR_Q4_1] = dequantize_q4_1, [QR_Q5_0] = dequantize_q5_0,
        [QR_Q5_1] = dequantize_q5_1, [QR_Q8_0] = dequantize_q8_0, [QR_Q2_K] = dequantize_q2_k,
        [QR_Q3_K] = dequantize_q3_k, [QR_Q4_K] = dequantize_q4_k, [QR_Q5_K] = dequantize_q5_k,
        [QR_Q6_K] = dequantize_q6_k,
    };
    assert(dtype < QR_NUM_DTYPES && num_values % qr_dtype_block_len(dtype) == 0);
    functions[dtype](src, dst, num_values / qr_dtype_block_len(dtype));
}
