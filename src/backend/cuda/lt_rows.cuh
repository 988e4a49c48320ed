/* lt_rows: what gemm_lt.cu has done to rows before and after a product. */
#ifndef QR_BACKEND_CUDA_LT_ROWS_CUH
#define QR_BACKEND_CUDA_LT_ROWS_CUH

#include "backend/cuda/mma_linear.h"
#include "backend/cuda/runtime.cuh"

/* Rows [first_row, first_row + num_rows) of a packed matrix, low-bit, as bfloat16 [num_rows][num_cols]; first_row a
 * multiple of 16. */
void qr_lt_unpack(qr_cuda_device *dev, const qr_mma_weight *w, int64_t first_row, int64_t num_rows, uint16_t *out);
/* y[t, n] = out[t, n] (+ bias[n]) (+ y[t, n]) */
void qr_lt_finish(qr_cuda_device *dev, const float *out, int64_t num_rows, int num_tokens, const float *bias,
                  bool accumulate, float *y, int64_t ld_y);

#endif
