/* tensor: element types, their block layout, and conversion to float32.
 *
 *   a quantized row of K values is K / block_len blocks of block_bytes each, back to back
 *
 * Layouts and the order of operations are GGML's (ggml-common.h, ggml-quants.c), so that dequantized values equal
 * the `gguf` Python package bit for bit.  Threads: any. */
#ifndef QR_TENSOR_TENSOR_H
#define QR_TENSOR_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* XX(name, ggml type id, block_len, block_bytes) */
#define QR_DTYPE_MAP(XX)   \
    XX(F32, 0, 1, 4)       \
    XX(F16, 1, 1, 2)       \
    XX(Q4_0, 2, 32, 18)    \
    XX(Q4_1, 3, 32, 20)    \
    XX(Q5_0, 6, 32, 22)    \
    XX(Q5_1, 7, 32, 24)    \
    XX(Q8_0, 8, 32, 34)    \
    XX(Q2_K, 10, 256, 84)  \
    XX(Q3_K, 11, 256, 110) \
    XX(Q4_K, 12, 256, 144) \
    XX(Q5_K, 13, 256, 176) \
    XX(Q6_K, 14, 256, 210) \
    XX(BF16, 30, 1, 2)

typedef enum qr_dtype {
#define XX(name, ggml_id, block_len, block_bytes) QR_##name,
    QR_DTYPE_MAP(XX)
#undef XX
        QR_NUM_DTYPES,
    /* What quantized safetensors hold besides: codes and indices, without values of their own (model/quantized.h). */
    QR_I8 = QR_NUM_DTYPES,
    QR_I32,
    QR_I64,
    QR_F8_E4M3,
    QR_NUM_STORED_DTYPES
} qr_dtype;

const char *qr_dtype_name(qr_dtype dtype); /* "Q4_1" */
int qr_dtype_block_len(qr_dtype dtype);
int qr_dtype_block_bytes(qr_dtype dtype);
/* false when ggml_id is none of QR_DTYPE_MAP */
int qr_dtype_from_ggml(uint32_t ggml_id, qr_dtype *out);

/* A tensor where it lies in a checkpoint (memory-mapped, read-only).
 * dims[0] is the fastest (contiguous) dimension, GGUF's order; a matrix [N, K] of PyTorch has dims {K, N}. */
#define QR_MAX_DIMS 4
typedef struct qr_tensor_view {
    const char *name;
    qr_dtype dtype;
    int num_dims;
    int64_t dims[QR_MAX_DIMS]; /* unused ones are 1 */
    const void *data;          /* little endian; may be unaligned */
    size_t bytes;
} qr_tensor_view;

static inline int64_t qr_tensor_cols(const qr_tensor_view *t) { return t->dims[0]; }
static inline int64_t qr_tensor_rows(const qr_tensor_view *t) { return t->dims[1] * t->dims[2] * t->dims[3]; }
size_t qr_tensor_row_bytes(const qr_tensor_view *t);

/* num_values (a multiple of the block length) of a type below QR_NUM_DTYPES from src, unaligned allowed, to dst as
 * float32. */
void qr_dequantize(qr_dtype dtype, const void *src, float *dst, int64_t num_values);

float qr_f16_to_f32(uint16_t h);
uint16_t qr_f32_to_f16(float f); /* round to nearest, ties to even; NaN stays NaN */
float qr_bf16_to_f32(uint16_t h);
uint16_t qr_f32_to_bf16(float f);

#endif
