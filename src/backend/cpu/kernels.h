/* kernels: what one instruction set does for the CPU backend, as a table of functions, and the packed layouts.
 *
 *   matrix [N, K]  ──►  panels of 16 rows:  panel 0 | panel 1 | ...      an even number; rows past N are zero
 *   pair of float panels   [K][2][16] float32, float16 or bfloat16: one stream
 *   low-bit panel       units of 32 columns (float16 scales) or 256 (superblocks), back to back:
 *     32:   scale f16[16] | min f16[16]? | codes
 *     256:  d f16[16] | dmin f16[16]? | 8 x ( scale s8[1|2][16] | min s8[1|2][16]? | codes )
 *     codes of 32 columns: 4-bit: 4 vectors of 16 rows x 4 columns, low nibbles columns 4j.., high ones 16 + 4j..
 *                          8-bit: 8 vectors of 16 rows x 4 columns
 *   scale s8[2]: one per 16 columns.  Effective scale d * s8 and minimum dmin * s8 are exact in float32.
 *
 * The kernels are written once over 16-lane vectors (vec_*.h, body_*.h) and compiled per instruction set; only the
 * integer dot products are written per set. Every output's order of operations is fixed (backend.h): equal bits.
 * Threads: pure functions. */
#ifndef QR_BACKEND_CPU_KERNELS_H
#define QR_BACKEND_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/backend.h"

enum {
    QR_PANEL = 16,           /* rows of a panel = lanes of a vector */
    QR_GROUP = 32,           /* columns that share an activation scale */
    QR_ATTEND_TILE = 128,    /* context positions of one softmax tile */
    QR_ATTEND_SEGMENT = 512, /* positions merged before they meet the running result */
    QR_ATTEND_ROWS = 32,     /* (token, head) rows that share a load of K and V */
    QR_MAX_HEAD_SIZE = 512,
    QR_MIN_BLOCK_SIZE = 8,
    QR_MAX_BLOCK_SIZE = 128
};

/* 32 activations as int8, their scale and sums: one cache line. */
typedef struct qr_act_group {
    int8_t q[QR_GROUP];
    float d;
    int32_t sum;         /* of q */
    float asum;          /* d * sum */
    int32_t half_sum[2]; /* of q[0..15], q[16..31] */
    float half_asum[2];
    int32_t unused;
} qr_act_group;

/* How the codes and scales of a low-bit format are packed; w = scale * (code - zero) + min. */
typedef struct qr_lowbit {
    int bits;       /* 4 or 8 per code, unsigned */
    int zero;       /* subtracted from every code, exactly, in the integer sum */
    bool super;     /* units of 256 with s8 scales; else units of 32 with float16 scales */
    bool halves;    /* a scale per 16 columns; else per 32 */
    bool has_min;   /* a minimum beside every scale */
    int code_limit; /* largest code */
} qr_lowbit;

#define QR_LOWBIT_MAP(XX) /* dtype, bits, zero, super, halves, has_min, code_limit */ \
    XX(Q4_0, 4, 8, false, false, false, 15)                                           \
    XX(Q4_1, 4, 0, false, false, true, 15)                                            \
    XX(Q5_0, 8, 16, false, false, false, 31)                                          \
    XX(Q5_1, 8, 0, false, false, true, 31)                                            \
    XX(Q8_0, 8, 128, false, false, false, 255)                                        \
    XX(Q2_K, 4, 0, true, true, true, 3)                                               \
    XX(Q3_K, 4, 4, true, true, false, 7)                                              \
    XX(Q4_K, 4, 0, true, false, true, 15)                                             \
    XX(Q5_K, 8, 0, true, false, true, 31)                                             \
    XX(Q6_K, 8, 32, true, true, false, 63)

static inline int qr_lowbit_unit_cols(qr_lowbit f) { return f.super ? 256 : 32; }
static inline size_t qr_lowbit_code_bytes(qr_lowbit f) { return f.bits == 4 ? 256 : 512; }
static inline size_t qr_lowbit_unit_bytes(qr_lowbit f)
{
    size_t head = 32 * (1 + (size_t)f.has_min);
    size_t scales = f.super ? 16 * (1 + (size_t)f.halves) * (1 + (size_t)f.has_min) : 0;
    return head + (f.super ? 8 : 1) * (scales + qr_lowbit_code_bytes(f));
}

/* A packed matrix. */
struct qr_weight {
    qr_dtype dtype;                         /* F32, F16, BF16 or a low-bit type, as packed */
    int64_t num_rows, num_cols, num_panels; /* num_panels is even */
    size_t panel_bytes, bytes;
    uint8_t *panels;
};

/* One K and V tile of up to 128 positions for up to QR_ATTEND_ROWS query rows.
 * Behind K, and behind V, of an INT8 block lie its scales: float16 [block_size]. */
typedef struct qr_attend_tile {
    const void *k[QR_ATTEND_TILE / QR_MIN_BLOCK_SIZE]; /* per block [head_size][block_size] */
    const void *v[QR_ATTEND_TILE / QR_MIN_BLOCK_SIZE]; /* per block [block_size][padded head_size] */
    const void *next_k[QR_ATTEND_TILE / QR_MIN_BLOCK_SIZE], *next_v[QR_ATTEND_TILE / QR_MIN_BLOCK_SIZE]; /* to fetch */
    qr_kv_dtype dtype;
    int block_size, head_size, padded; /* padded: head_size rounded up to 16 */
    float scale;
    int num_rows;
    const float *const *q;                          /* [num_rows] of [head_size] */
    int first[QR_ATTEND_ROWS], end[QR_ATTEND_ROWS]; /* visible positions of the tile per row: [first, end) */
    /* results; max -inf and sum 0 for rows that see nothing */
    float *scores; /* [num_rows][QR_ATTEND_TILE] scratch */
    float *max;    /* [num_rows] largest score */
    float *sum;    /* [num_rows] of exp(score - max) */
    float *out;    /* [num_rows][padded] sum of exp(score - max) * v */
} qr_attend_tile;

/* A part of a softmax: per row the largest score, the sum of exp(score - m), and that sum over the values. */
typedef struct qr_attend_part {
    float *m, *l; /* [QR_ATTEND_ROWS] */
    float *o;     /* [rows][padded] */
} qr_attend_part;

typedef struct qr_cpu_kernels {
    const char *name;
    bool (*supported)(void);

    /* acc[t][16 p + r] = (acc[t][16 p + r] if `add`, else 0) + the products of columns [0, k) of num_panels panels,
     * panel_bytes each, from `w` on. k is whole units; num_panels is even. */
    void (*linear_float)(qr_dtype dtype, const void *w, size_t panel_bytes, int num_panels, int64_t k, const float *x,
                         int64_t ld_x, int num_tokens, bool add, float *acc, int64_t ld_acc);
    void (*linear_lowbit)(qr_dtype dtype, const void *w, size_t panel_bytes, int num_panels, int64_t k,
                          const qr_act_group *x, int64_t ld_x, int num_tokens, bool add, float *acc, int64_t ld_acc);
    void (*quantize_row)(const float *x, int64_t cols, qr_act_group *out); /* cols: multiple of 32 */
    /* y[t][i] = acc[t][i] (+ bias[i]) (+ y[t][i]) */
    void (*store_rows)(const float *acc, int64_t ld_acc, const float *bias, bool accumulate, int num_tokens,
                       int64_t cols, float *y, int64_t ld_y);

    void (*rms_norm_row)(const float *x, const float *w, float eps, int64_t cols, float *out);
    void (*layer_norm_row)(const float *x, const float *w, const float *b, float eps, int64_t cols, float *out);
    void (*act_row)(const float *x, const float *up, qr_act act, int64_t cols, float *out); /* up may be NULL */
    void (*rope_head)(float *x, qr_rope_style style, int rotary_dim, const float *cos, const float *sin);
    /* K or V of one token and head as stored; returns INT8's scale (float16), else 0 */
    uint16_t (*kv_row)(qr_kv_dtype dtype, const float *x, int head_size, void *out);
    void (*scale_row)(float *x, int64_t cols, float scale);
    void (*add_row)(float *x, const float *y, int64_t cols);
    void (*attend)(qr_attend_tile *tile);
    /* rows of (m, l, o) of later positions into the result so far, both scaled to the larger maximum; rows with
     * l = 0 are empty: skipped, or taken as they are */
    void (*merge)(qr_attend_part *into, const qr_attend_part *later, int num_rows, int padded);
    void (*fetch_block)(const void *p, int bytes); /* into the caches */
    void (*row_stats)(const float *x, int64_t cols, float *out_max, int32_t *out_argmax, float *out_sum_exp);
    void (*exp_row)(const float *x, int64_t cols, float sub, float scale, float *out);
} qr_cpu_kernels;

/* NULL on another architecture. */
const qr_cpu_kernels *qr_cpu_kernels_ref(void);
const qr_cpu_kernels *qr_cpu_kernels_avx2(void);
const qr_cpu_kernels *qr_cpu_kernels_avx512bw(void);
const qr_cpu_kernels *qr_cpu_kernels_avx512(void);
const qr_cpu_kernels *qr_cpu_kernels_neon(void);

/* `isa` NULL or "": the best one. UNSUPPORTED names what is missing. */
QUIRE_MUST_USE quire_status qr_cpu_kernels_select(const char *isa, const qr_cpu_kernels **out, quire_error *error);

/* Packing (pack.c). Panels [first, first + count) of the view into w->panels. */
qr_lowbit qr_lowbit_format(qr_dtype dtype); /* bits 0 when the type is not low-bit */
void qr_pack_panel(const qr_weight *w, const qr_tensor_view *view, int64_t panel_idx);

#endif
