#include "backend/cuda/lt_rows.cuh"

#include "backend/cuda/gemm_lt.h"
#include "backend/cuda/mma_unit.cuh"

enum { THREADS = 256, WORDS = QR_UNIT_COLS / 2, PADDED = WORDS + 4 }; /* words of two values per row of a unit */

/* ---- W: a block per unit of 16 x 128 values; thread = step and lane of its fragments, then a chunk of 8 values */

#define LOW_BIT_FORMATS(XX) XX(QR_MMA_Q4) XX(QR_MMA_Q4_MIN) XX(QR_MMA_Q4_SUPER) XX(QR_MMA_Q8) XX(QR_MMA_Q8_SUPER)

template <int FORMAT>
static __global__ void __launch_bounds__(THREADS)
    unpack_kernel(const uint8_t *panels, int num_units, int64_t num_rows, int64_t num_cols, uint16_t *out)
{
    typedef qr_unit<FORMAT> U;
    __shared__ __align__(16) uint32_t values[QR_UNIT_ROWS][PADDED];
    const int step = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const uint8_t *unit = panels + ((int64_t)blockIdx.x * num_units + blockIdx.y) * U::bytes;
    uint32_t a[U::parts][4];
    qr_unit_fragment<FORMAT>(unit, step, lane, a);
    QR_UNROLL
    for (int i = 0; i < 4; i++) {
        const int row = qr_mma_a_row(lane, i), col = 16 * step + qr_mma_a_col(lane, i, 0);
        const float2 codes = qr_unpack_bf16(a[0][i]);
        float scale, min = 0;
        qr_unit_scale<FORMAT>(unit, step / U::group_steps, row, &scale, &min);
        values[row][col / 2] = qr_pack_bf16(fmaf(scale, codes.x, min), fmaf(scale, codes.y, min));
    }
    __syncthreads();
    const int64_t row = (int64_t)blockIdx.x * QR_UNIT_ROWS + threadIdx.x / 16;
    const int64_t col = (int64_t)blockIdx.y * QR_UNIT_COLS + threadIdx.x % 16 * 8;
    if (row < num_rows && col < num_cols)
        *reinterpret_cast<uint4 *>(out + row * num_cols + col) =
            *reinterpret_cast<const uint4 *>(&values[threadIdx.x / 16][threadIdx.x % 16 * 4]);
}

void qr_lt_unpack(qr_cuda_device *dev, const qr_mma_weight *w, int64_t first_row, int64_t num_rows, uint16_t *out)
{
    const uint8_t *panels = w->data + first_row / QR_UNIT_ROWS * w->num_units * (int64_t)w->unit_bytes;
    const dim3 grid(qr_blocks_for(num_rows, QR_UNIT_ROWS), (unsigned)w->num_units);
    switch (w->format) {
#define XX(format)                                                                                                \
    case format:                                                                                                  \
        QR_CUDA_LAUNCH(dev, unpack_kernel<format>, grid, THREADS, 0, panels, w->num_units, num_rows, w->num_cols, \
                       out);                                                                                      \
        break;
        LOW_BIT_FORMATS(XX)
#undef XX
    default: break;
    }
}

/* ---- x and y */

/* Two values per thread. */
static __global__ void __launch_bounds__(THREADS)
    round_kernel(const float *x, int64_t ld_x, int64_t pairs, int64_t count, bool is_f16, uint32_t *out)
{
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= count) return;
    const float *from = x + at / pairs * ld_x + at % pairs * 2;
    const __half2 half = __floats2half2_rn(from[0], from[1]);
    uint32_t bits = qr_pack_bf16(from[0], from[1]);
    if (is_f16) memcpy(&bits, &half, sizeof bits);
    out[at] = bits;
}

void qr_lt_round_x(qr_cuda_device *dev, const float *x, int64_t ld_x, int num_tokens, int64_t num_cols, bool is_f16,
                   void *x16)
{
    const int64_t pairs = num_cols / 2, count = num_tokens * pairs;
    QR_CUDA_LAUNCH(dev, round_kernel, qr_blocks_for(count, THREADS), THREADS, 0, x, ld_x, pairs, count, is_f16,
                   (uint32_t *)x16);
}

static __global__ void __launch_bounds__(THREADS)
    finish_kernel(const float *out, int64_t num_rows, int64_t count, const float *bias, bool accumulate, float *y,
                  int64_t ld_y)
{
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= count) return;
    const int64_t n = at % num_rows;
    float *to = y + at / num_rows * ld_y + n, v = out[at];
    if (bias) v += bias[n];
    if (accumulate) v += *to;
    *to = v;
}

void qr_lt_finish(qr_cuda_device *dev, const float *out, int64_t num_rows, int num_tokens, const float *bias,
                  bool accumulate, float *y, int64_t ld_y)
{
    const int64_t count = num_rows * num_tokens;
    QR_CUDA_LAUNCH(dev, finish_kernel, qr_blocks_for(count, THREADS), THREADS, 0, out, num_rows, count, bias,
                   accumulate, y, ld_y);
}
