/* gemm_lt: y = x W^T by cuBLASLt, for many tokens.
 *
 *   x float32 ──rounded──► x16 [tokens, a multiple of 128][K] ─┐
 *   W  BF16, F16: rows as in a checkpoint ─────────────────────┼─► cublasLtMatmul ──► out [tokens][rows] float32
 *      low-bit: packed (mma_linear.h) ──unpacked──► w16 [rows][K]                      └──► y: + bias, + y
 *
 * In pieces that the scratch holds: rows of W, and tokens within them. x16 is what W is: bfloat16, or float16 for F16;
 * an unpacked weight is the bfloat16 nearest to fma(scale, code, min). Sums are float32, in an order of cuBLASLt's.
 *
 * One algorithm per (rows of a piece, K), chosen when the weight is made, for QR_LT_TOKENS tokens, whatever the tokens
 * of a step: without a split of K, and tokens in whole tiles of 128, so that a token's result should not depend on how
 * many others there are. That is how cuBLASLt works, not what it promises; and another GPU or version of it may choose
 * another algorithm.
 *
 * Threads: one stream.  Source: NVIDIA, cuBLAS documentation, cuBLASLt. */
#ifndef QR_BACKEND_CUDA_GEMM_LT_H
#define QR_BACKEND_CUDA_GEMM_LT_H

#include "backend/cuda/mma_linear.h"

enum {
    QR_LT_TOKENS = 512,              /* that an algorithm is chosen for */
    QR_LT_TILE = 128,                /* tokens come in multiples of it */
    QR_LT_W16_COUNT = 64 << 20,      /* of w16: 128 MiB */
    QR_LT_OUT_COUNT = 16 << 20,      /* of out: 64 MiB */
    QR_LT_WORKSPACE_BYTES = 32 << 20 /* cuBLASLt's own; what it recommends for Hopper */
};

/* A matrix as cuBLASLt multiplies it. */
typedef struct qr_lt_weight {
    bool is_there, is_f16;
    int64_t num_rows, num_cols;
    int64_t piece_rows;   /* of W at a time, a multiple of 128 unless all; the last may be fewer */
    int64_t piece_tokens; /* a multiple of QR_LT_TILE */
    const void *rows;     /* BF16, F16: device, back to back; NULL: unpack `packed` */
    qr_mma_weight packed;
    uint64_t algo[8]; /* cublasLtMatmulAlgo_t */
} qr_lt_weight;

/* Device memory that all matrices share; whoever is done with a step's ops may use it again. */
typedef struct qr_lt_scratch {
    void *x16;  /* [max_tokens up to a whole tile][max_cols] */
    void *w16;  /* [QR_LT_W16_COUNT] */
    float *out; /* [QR_LT_OUT_COUNT] */
    void *workspace;
} qr_lt_scratch;

typedef struct qr_lt_linear {
    const qr_lt_weight *w;
    qr_lt_scratch scratch; /* x16 filled by round_x() */
    int num_tokens;
    const float *bias; /* or NULL */
    float *y;
    int64_t ld_y;
    bool accumulate;
} qr_lt_linear;

#ifdef __cplusplus
extern "C" {
#endif
struct qr_cuda_device;

/* Load cuBLASLt (QUIRE_CUBLASLT_LIBRARY, else where the loader finds it); once per device, again is fine. False:
 * `problem` says why not. */
bool qr_lt_open(struct qr_cuda_device *dev, char *problem, size_t problem_bytes);
void qr_lt_close(struct qr_cuda_device *dev);
/* Describe a matrix: rows (BF16, F16) or a packed one. False: cuBLASLt has no algorithm without a split of K, or the
 * shape does not suit (K not a multiple of 8). */
bool qr_lt_describe(struct qr_cuda_device *dev, qr_dtype dtype, int64_t num_rows, int64_t num_cols, const void *rows,
                    const qr_mma_weight *packed, qr_lt_weight *out);
/* x [num_tokens, ld_x] to x16 [num_tokens][num_cols], num_cols even. */
void qr_lt_round_x(struct qr_cuda_device *dev, const float *x, int64_t ld_x, int num_tokens, int64_t num_cols,
                   bool is_f16, void *x16);
void qr_lt_multiply(struct qr_cuda_device *dev, const qr_lt_linear *args);
#ifdef __cplusplus
}
#endif

#endif
