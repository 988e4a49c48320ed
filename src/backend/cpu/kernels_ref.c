/* The scalar reference: plain C for any processor. */
#include "backend/cpu/kernels.h"
#include "backend/cpu/vec_ref.h"

#include "backend/cpu/unroll.h"
#include <string.h>

enum { LOWBIT_TOKENS = 1, LOWBIT_PANELS = 1 };

/* Code of row r, column c (0..31) of a group. */
static inline int code_at(qr_lowbit f, const uint8_t *codes, int r, int c)
{
    if (f.bits == 8) return codes[c / 4 * 64 + r * 4 + c % 4];
    int byte = codes[c % 16 / 4 * 64 + r * 4 + c % 4];
    return c < 16 ? byte & 15 : byte >> 4;
}

/* One row times one token's group: part h of f.halves + 1. */
static inline int32_t group_dot(qr_lowbit f, const uint8_t *codes, int r, const qr_act_group *x, int h)
{
    int len = f.halves ? 16 : 32;
    int32_t sum = 0;
    for (int c = h * len; c < (h + 1) * len; c++) sum += (code_at(f, codes, r, c) - f.zero) * x->q[c];
    return sum;
}

static inline void lowbit_tile(qr_lowbit f, const uint8_t *w, size_t panel_bytes, fetch *next, int64_t k,
                               const qr_act_group *x, int64_t ld_x, int num_tokens, int num_panels, bool add,
                               float *acc, int64_t ld_acc)
{
    (void)panel_bytes, (void)next, (void)ld_x, (void)num_tokens, (void)num_panels,
        (void)ld_acc; /* tiles of one by one */
    int parts = f.halves ? 2 : 1;
    if (!add) memset(acc, 0, 16 * sizeof *acc);
    for (int64_t unit = 0; unit < k / qr_lowbit_unit_cols(f); unit++, w += qr_lowbit_unit_bytes(f)) {
        const uint16_t *d = (const uint16_t *)w, *dmin = d + 16;
        const uint8_t *group = w + (f.has_min ? 64 : 32);
        for (int g = 0; g < qr_lowbit_unit_cols(f) / 32; g++, x++) {
            const int8_t *scales = (const int8_t *)group, *mins = scales + 16 * parts;
            const uint8_t *codes = group + (f.super ? 16 * parts * (f.has_min ? 2 : 1) : 0);
            for (int h = 0; h < parts; h++) {
                float asum = f.halves ? x->half_asum[h] : x->asum;
                for (int r = 0; r < 16; r++) {
                    float ws = qr_f16_to_f32(d[r]), wm = f.has_min ? qr_f16_to_f32(dmin[r]) : 0.0f;
                    if (f.super) {
                        ws *= (float)scales[16 * h + r];
                        if (f.has_min) wm *= (float)mins[16 * h + r];
                    }
                    acc[r] = fmaf((float)group_dot(f, codes, r, x, h), ws * x->d, acc[r]);
                    if (f.has_min) acc[r] = fmaf(wm, asum, acc[r]);
                }
            }
            group = codes + qr_lowbit_code_bytes(f);
        }
    }
}

#include "backend/cpu/body_attend.h"

static bool supported(void) { return true; }

const qr_cpu_kernels *qr_cpu_kernels_ref(void)
{
    static const qr_cpu_kernels table = KERNEL_TABLE("ref", supported);
    return &table;
}
