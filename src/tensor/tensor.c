#include "tensor/tensor.h"

#include <string.h>

static const struct {
    const char *name;
    uint32_t ggml_id;
    int block_len, block_bytes;
} dtypes[QR_NUM_STORED_DTYPES] = {
#define XX(name, ggml_id, block_len, block_bytes) {#name, ggml_id, block_len, block_bytes},
    QR_DTYPE_MAP(XX)
#undef XX
        {"I8", 0, 1, 1},
    {"I32", 0, 1, 4},
    {"I64", 0, 1, 8},
    {"F8_E4M3", 0, 1, 1},
};

const char *qr_dtype_name(qr_dtype dtype) { return dtypes[dtype].name; }
int qr_dtype_block_len(qr_dtype dtype) { return dtypes[dtype].block_len; }
int qr_dtype_block_bytes(qr_dtype dtype) { return dtypes[dtype].block_bytes; }

int qr_dtype_from_ggml(uint32_t ggml_id, qr_dtype *out)
{
    for (int i = 0; i < QR_NUM_DTYPES; i++) {
        if (dtypes[i].ggml_id != ggml_id) continue;
        *out = (qr_dtype)i;
        return 1;
    }
    return 0;
}

size_t qr_tensor_row_bytes(const qr_tensor_view *t)
{
    return (size_t)(t->dims[0] / dtypes[t->dtype].block_len) * (size_t)dtypes[t->dtype].block_bytes;
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t qr_f32_to_f16(float f)
{
    uint32_t bits = bits_of(f), sign = bits >> 16 & 0x8000u, mag = bits & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (mag >> 13 & 0x3ffu)); /* a quiet NaN */
    if (mag >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);                       /* 65520 and above: infinity */
    if (mag < 0x38800000u) /* subnormal: adding 0.5 makes the adder round to units of 2^-24, the half's own unit */
        return (uint16_t)(sign | (bits_of(from_bits(mag) + 0.5f) - bits_of(0.5f)));
    mag += 0xfffu + (mag >> 13 & 1); /* to nearest, ties to even */
    return (uint16_t)(sign | (mag - (112u << 23)) >> 13);
}

float qr_bf16_to_f32(uint16_t h) { return from_bits((uint32_t)h << 16); }

uint16_t qr_f32_to_bf16(float f)
{
    uint32_t bits = bits_of(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u); /* a quiet NaN */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
