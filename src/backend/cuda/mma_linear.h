/* mma_linear: y = x W^T on tensor cores for few tokens, with W of 16, 8 or 4 bits as it is read once from memory.
 *
 *   W [N, K]  ──►  panels of 16 rows (past N zero, whole tiles of 128) ──►  units of 128 columns (past K zero)
 *   unit      codes, in the order in which lanes load them as A of mma m16n8k16; then scales by column group and row
 *     BF16, F16   [step 8][lane 32][reg 4][2]             values
 *     Q8          [step / 2][lane][step % 2][reg 4][2]    code + 128        | d f16[4][16]
 *     Q8_SUPER    the same                                                  | d f16[16], s s8[8][16]      groups of 16
 *     Q4          [step / 4][lane][step % 4] words,       code + 8          | d f16[4][16]
 *     Q4_MIN      reg i in bits 4 i (first column) and    code              | d f16[4][16], m f16[4][16]
 *     Q4_SUPER    16 + 4 i (second)                       code              | d, dmin f16[16], s, m s8[4][16]
 *   w = scale * code (+ min):  scale d or d s, min m or -(dmin m): exact in float32.
 *   Q4_0 is Q4, Q4_1 Q4_MIN, Q4_K Q4_SUPER, Q8_0 and Q5_0 are Q8, Q6_K is Q8_SUPER. GPTQ and AWQ with groups of 128:
 *   Q4_SUPER with d = dmin = the group's scale, s = 1, m = its zero point.
 *
 * x is split into two bfloat16, hi + lo (within 2^-17 of x, with float32's range), codes are exact in bfloat16, a
 * float16 weight is split likewise, exactly.
 *
 * Order, per output: K in splits that depend on (N, K) alone; within a split units ascending. Within an
 * mma step of 16 columns: W's hi (or all there is), then its lo, each with x's hi, then lo. Low-bit: per group a sum
 * over the steps from 0; acc = fma(sum, scale, acc), then acc = fma(min, xsum, acc), xsum the sum of the group's x as a
 * tree (1, 2 columns apart, then 4, 8, 16). 16 bit: acc through the mma itself. Splits are added ascending, then the
 * bias, then y. So a token's result does not depend on the other tokens or their number.
 *
 * Threads: one stream.  Source: fragments as in the PTX ISA; packing by lane as in Marlin (Frantar et al., 2024);
 * splits in a fixed order ours. */
#ifndef QR_BACKEND_CUDA_MMA_LINEAR_H
#define QR_BACKEND_CUDA_MMA_LINEAR_H

#ifdef __cplusplus
extern "C" {
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor/tensor.h"

enum {
    QR_UNIT_ROWS = 16,
    QR_UNIT_COLS = 128,
    QR_LINEAR_ROWS = 128,       /* of W per block: 8 warps of a panel each */
    QR_LINEAR_MAX_TOKENS = 128, /* per launch; more tokens are more launches */
    QR_LINEAR_MAX_BLOCKS = 256, /* of 128 rows x a split of K, where K is split */
    QR_LINEAR_PART_FLOATS = QR_LINEAR_MAX_TOKENS * QR_LINEAR_ROWS * QR_LINEAR_MAX_BLOCKS, /* 16 MiB */
    QR_LINEAR_COUNTERS = QR_LINEAR_MAX_TOKENS / 8 * QR_LINEAR_MAX_BLOCKS
};

typedef enum qr_mma_format {
    QR_MMA_BF16,
    QR_MMA_F16,
    QR_MMA_Q4,
    QR_MMA_Q4_MIN,
    QR_MMA_Q4_SUPER,
    QR_MMA_Q8,
    QR_MMA_Q8_SUPER
} qr_mma_format;

/* A packed matrix. */
typedef struct qr_mma_weight {
    qr_dtype dtype;
    qr_mma_format format;
    int64_t num_rows, num_cols, num_panels; /* panels: a multiple of 8 */
    int num_units;                          /* per panel */
    int num_splits, split_units;            /* of K; units per split */
    size_t unit_bytes, bytes;
    uint8_t *data; /* device, 16-byte aligned: the caller's, of `bytes` */
} qr_mma_weight;

/* Everything but data. False when the kernels do not take the type or the shape (K not a multiple of 8). */
bool qr_mma_weight_describe(qr_dtype dtype, int64_t num_rows, int64_t num_cols, qr_mma_weight *out);
/* Pack rows as in a checkpoint (device memory, num_rows of row_bytes) into w->data. Returns as qr_mma_linear_run(). */
int qr_mma_weight_pack(const qr_mma_weight *w, const void *rows, size_t row_bytes, void *stream);

/* y[t, n] = sum_k x[t, k] w[n, k] (+ bias[n]) (+ y[t, n]); all in device memory */
typedef struct qr_mma_linear {
    const qr_mma_weight *w; /* host */
    const float *x;
    int64_t ld_x;
    int num_tokens;
    const float *bias; /* or NULL */
    float *y;
    int64_t ld_y;
    bool accumulate;
    float *parts;      /* [QR_LINEAR_PART_FLOATS]: what the splits of K came to */
    int32_t *counters; /* [QR_LINEAR_COUNTERS] splits that are done, per tile; zero before and after */
} qr_mma_linear;

/* stream is a cudaStream_t. Returns 0 or the cudaError_t of a launch. */
int qr_mma_linear_run(const qr_mma_linear *args, void *stream);

#ifdef __cplusplus
}
#endif

#endif
