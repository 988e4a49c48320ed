/* Packing of weights into panels of 16 rows (layouts in kernels.h; block formats as in GGML's ggml-common.h). */
#include <assert.h>
#include <string.h>

#include "backend/cpu/kernels.h"

qr_lowbit qr_lowbit_format(qr_dtype dtype)
{
    switch (dtype) {
#define XX(name, bits, zero, super, halves, has_min, code_limit) \
    case QR_##name: return (qr_lowbit){bits, zero, super, halves, has_min, code_limit};
        QR_LOWBIT_MAP(XX)
#undef XX
    default: return (qr_lowbit){0};
    }
}

static uint16_t get_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void put_u32(uint8_t *p, uint32_t v) { memcpy(p, &v, sizeof v); }

/* ---- one block of one row, as codes and scales */

typedef struct block {
    uint16_t d, dmin;          /* float16; dmin is added, so it is negated where the format subtracts it */
    int8_t scale[16], min[16]; /* superblocks: one per 32 or 16 columns */
    uint8_t code[256];
} block;

/* 6-bit scales and minimums of Q4_K and Q5_K: 8 of each in 12 bytes */
static void unpack_k4_scales(const uint8_t *s, block *b)
{
    for (int i = 0; i < 4; i++) {
        b->scale[i] = (int8_t)(s[i] & 63);
        b->min[i] = (int8_t)(s[i + 4] & 63);
        b->scale[i + 4] = (int8_t)((s[i + 8] & 15) | (s[i] >> 6) << 4);
        b->min[i + 4] = (int8_t)(s[i + 8] >> 4 | (s[i + 4] >> 6) << 4);
    }
}

/* 6-bit scales of Q3_K less 32: 16 in 12 bytes */
static void unpack_q3_scales(const uint8_t *s, block *b)
{
    for (int i = 0; i < 16; i++) {
        int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
        int high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
        b->scale[i] = (int8_t)((low | high << 4) - 32);
    }
}

static void unpack_nibbles(const uint8_t *qs, block *b)
{
    for (int i = 0; i < 16; i++) {
        b->code[i] = qs[i] & 15;
        b->code[i + 16] = qs[i] >> 4;
    }
}

static void add_fifth_bits(const uint8_t *qh, block *b)
{
    uint32_t bits = get_u32(qh);
    for (int i = 0; i < 32; i++) b->code[i] |= (uint8_t)((bits >> i & 1) << 4);
}

static void unpack_q2_k(const uint8_t *p, block *b) /* scales[16] qs[64] d dmin */
{
    b->d = get_u16(p + 80);
    b->dmin = get_u16(p + 82) ^ 0x8000;
    for (int i = 0; i < 16; i++) {
        b->scale[i] = (int8_t)(p[i] & 15);
        b->min[i] = (int8_t)(p[i] >> 4);
    }
    for (int g = 0; g < 8; g++) {
        const uint8_t *low = p + 16 + g / 4 * 32;
        for (int i = 0; i < 32; i++) b->code[32 * g + i] = low[i] >> (2 * (g % 4)) & 3;
    }
}

static void unpack_q3_k(const uint8_t *p, block *b) /* hmask[32] qs[64] scales[12] d */
{
    b->d = get_u16(p + 108);
    unpack_q3_scales(p + 96, b);
    for (int g = 0; g < 8; g++) {
        const uint8_t *low = p + 32 + g / 4 * 32;
        for (int i = 0; i < 32; i++)
            b->code[32 * g + i] = (uint8_t)((low[i] >> (2 * (g % 4)) & 3) | (p[i] >> g & 1) << 2);
    }
}

static void unpack_q4_k(const uint8_t *p, block *b) /* d dmin scales[12] qs[128] */
{
    b->d = get_u16(p);
    b->dmin = get_u16(p + 2) ^ 0x8000;
    unpack_k4_scales(p + 4, b);
    for (int g = 0; g < 8; g++) {
        const uint8_t *low = p + 16 + g / 2 * 32;
        for (int i = 0; i < 32; i++) b->code[32 * g + i] = low[i] >> (g % 2 * 4) & 15;
    }
}

static void unpack_q5_k(const uint8_t *p, block *b) /* d dmin scales[12] qh[32] qs[128] */
{
    b->d = get_u16(p);
    b->dmin = get_u16(p + 2) ^ 0x8000;
    unpack_k4_scales(p + 4, b);
    for (int g = 0; g < 8; g++) {
        const uint8_t *low = p + 48 + g / 2 * 32, *high = p + 16;
        for (int i = 0; i < 32; i++)
            b->code[32 * g + i] = (uint8_t)((low[i] >> (g % 2 * 4) & 15) | (high[i] >> g & 1) << 4);
    }
}

static void unpack_q6_k(const uint8_t *p, block *b) /* ql[128] qh[64] scales[16] d */
{
    b->d = get_u16(p + 208);
    memcpy(b->scale, p + 192, 16);
    for (int g = 0; g < 8; g++) {
        const uint8_t *low = p + g / 4 * 64 + g % 2 * 32, *high = p + 128 + g / 4 * 32;
        for (int i = 0; i < 32; i++)
            b->code[32 * g + i] = (uint8_t)((low[i] >> (g % 4 / 2 * 4) & 15) | (high[i] >> (g % 4 * 2) & 3) << 4);
    }
}

static void unpack_block(qr_dtype dtype, const uint8_t *p, block *b)
{
    switch (dtype) {
    case QR_Q4_0: /* d qs[16] */
        b->d = get_u16(p);
        unpack_nibbles(p + 2, b);
        break;
    case QR_Q4_1: /* d m qs[16] */
        b->d = get_u16(p);
        b->dmin = get_u16(p + 2);
        unpack_nibbles(p + 4, b);
        break;
    case QR_Q5_0: /* d qh[4] qs[16] */
        b->d = get_u16(p);
        unpack_nibbles(p + 6, b);
        add_fifth_bits(p + 2, b);
        break;
    case QR_Q5_1: /* d m qh[4] qs[16] */
        b->d = get_u16(p);
        b->dmin = get_u16(p + 2);
        unpack_nibbles(p + 8, b);
        add_fifth_bits(p + 4, b);
        break;
    case QR_Q8_0: /* d qs[32] */
        b->d = get_u16(p);
        for (int i = 0; i < 32; i++) b->code[i] = p[2 + i] ^ 0x80;
        break;
    case QR_Q2_K: unpack_q2_k(p, b); break;
    case QR_Q3_K: unpack_q3_k(p, b); break;
    case QR_Q4_K: unpack_q4_k(p, b); break;
    case QR_Q5_K: unpack_q5_k(p, b); break;
    case QR_Q6_K: unpack_q6_k(p, b); break;
    default: assert(!"not a low-bit type");
    }
}

/* ---- into a panel */

/* Row r's 32 codes of one group. */
static void put_codes(qr_lowbit f, uint8_t *codes, int r, const uint8_t *code)
{
    for (int j = 0; j < 8; j++) {
        uint32_t four = get_u32(code + 4 * j);
        if (f.bits == 8)
            put_u32(codes + 64 * j + 4 * r, four);
        else if (j < 4)
            put_u32(codes + 64 * j + 4 * r, four | get_u32(code + 16 + 4 * j) << 4);
    }
}

static void put_block(qr_lowbit f, uint8_t *unit, int r, const block *b)
{
    int parts = f.halves ? 2 : 1;
    memcpy(unit + 2 * r, &b->d, 2);
    if (f.has_min) memcpy(unit + 32 + 2 * r, &b->dmin, 2);
    uint8_t *group = unit + (f.has_min ? 64 : 32);
    for (int g = 0; g < qr_lowbit_unit_cols(f) / 32; g++) {
        for (int h = 0; f.super && h < parts; h++) {
            group[16 * h + r] = (uint8_t)b->scale[g * parts + h];
            if (f.has_min) group[16 * (parts + h) + r] = (uint8_t)b->min[g * parts + h];
        }
        group += f.super ? 16 * parts * (f.has_min ? 2 : 1) : 0;
        put_codes(f, group, r, b->code + 32 * g);
        group += qr_lowbit_code_bytes(f);
    }
}

static void pack_lowbit(const qr_weight *w, const qr_tensor_view *view, int64_t row, int r, uint8_t *panel)
{
    qr_lowbit f = qr_lowbit_format(w->dtype);
    const uint8_t *src = (const uint8_t *)view->data + (size_t)row * qr_tensor_row_bytes(view);
    for (int64_t k = 0; k < w->num_cols; k += qr_lowbit_unit_cols(f)) {
        block b;
        unpack_block(w->dtype, src, &b);
        put_block(f, panel, r, &b);
        src += qr_dtype_block_bytes(w->dtype);
        panel += qr_lowbit_unit_bytes(f);
    }
}

/* float32 from any type */
static void pack_f32(const qr_weight *w, const qr_tensor_view *view, int64_t row, int r, float *panel)
{
    enum { CHUNK = 256 }; /* a multiple of every block length */
    const uint8_t *src = (const uint8_t *)view->data + (size_t)row * qr_tensor_row_bytes(view);
    for (int64_t k = 0; k < w->num_cols; k += CHUNK) {
        float values[CHUNK];
        int64_t n = w->num_cols - k < CHUNK ? w->num_cols - k : CHUNK;
        qr_dequantize(view->dtype, src, values, n);
        src += n / qr_dtype_block_len(view->dtype) * qr_dtype_block_bytes(view->dtype);
        for (int64_t i = 0; i < n; i++) panel[(k + i) * 2 * QR_PANEL + r] = values[i];
    }
}

/* 16-bit values, unchanged */
static void pack_16bit(const qr_weight *w, const qr_tensor_view *view, int64_t row, int r, uint16_t *panel)
{
    const uint8_t *src = (const uint8_t *)view->data + (size_t)row * qr_tensor_row_bytes(view);
    for (int64_t k = 0; k < w->num_cols; k++) panel[k * 2 * QR_PANEL + r] = get_u16(src + 2 * k);
}

void qr_pack_panel(const qr_weight *w, const qr_tensor_view *view, int64_t panel_idx)
{
    uint8_t *panel = w->panels + (size_t)panel_idx * w->panel_bytes;
    if (!qr_lowbit_format(w->dtype).bits && panel_idx % 2) /* the second of a pair begins within the first's column 0 */
        panel += QR_PANEL * qr_dtype_block_bytes(w->dtype) - (int64_t)w->panel_bytes;
    for (int r = 0; r < QR_PANEL; r++) {
        int64_t row = panel_idx * QR_PANEL + r;
        if (row >= w->num_rows) break; /* pages come zeroed */
        if (w->dtype == QR_F32)
            pack_f32(w, view, row, r, (float *)panel);
        else if (w->dtype == QR_F16 || w->dtype == QR_BF16)
            pack_16bit(w, view, row, r, (uint16_t *)panel);
        else
            pack_lowbit(w, view, row, r, panel);
    }
}
