/* Row-wise ops: embed, norms, activations, gather. A warp per row where a row is added up, else a thread per value. */
#include "backend/cuda/dequant.cuh"
#include "backend/cuda/runtime.cuh"

enum { THREADS = 128, ROWS = THREADS / 32 };

/* ---- embed */

/* Value i of a row of any type, as qr_dequantize() has it. */
static __device__ float value_at(qr_dtype dtype, const uint8_t *row, int64_t i)
{
    switch (dtype) {
    case QR_F32: return ((const float *)row)[i];
    case QR_F16: return qr_load_f16(row + 2 * i);
    case QR_BF16: return __uint_as_float((unsigned)(row[2 * i] | row[2 * i + 1] << 8) << 16);
#define XX(name)                                                                                        \
    case QR_##name: {                                                                                   \
        const uint8_t *p = row + (qr_format<QR_##name>::super ? i / 256 : i / 32) * block_bytes_##name; \
        int j = (int)(i / 32 % 8), h = qr_format<QR_##name>::halves ? (int)(i / 16 % 2) : 0;            \
        qr_group g;                                                                                     \
        qr_scales<QR_##name>(p, j, &g);                                                                 \
        float v = g.scale[h] * (float)qr_code<QR_##name>(p, j, (int)(i % 32));                          \
        return qr_format<QR_##name>::has_min ? v + g.min[h] : v;                                        \
    }
#define BYTES(name, id, len, bytes) enum { block_bytes_##name = bytes };
        QR_DTYPE_MAP(BYTES)
#undef BYTES
        QR_LOWBIT_DTYPES(XX)
#undef XX
    default: return 0.0f;
    }
}

static __global__ void embed_kernel(qr_cuda_embed a)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.num_tokens * a.cols) return;
    int64_t t = i / a.cols, col = i % a.cols;
    float v = value_at(a.dtype, (const uint8_t *)a.table + a.ids[t] * a.row_bytes, col);
    if (a.scale != 1.0f) v *= a.scale;
    if (a.pos_table)
        v += value_at(a.pos_dtype,
                      (const uint8_t *)a.pos_table + (a.positions[t] + (int64_t)a.pos_offset) * a.pos_row_bytes, col);
    a.out[i] = v;
}

void qr_cuda_embed_rows(qr_cuda_device *dev, const qr_cuda_embed *args)
{
    QR_CUDA_LAUNCH(dev, embed_kernel, qr_blocks_for(args->num_tokens * args->cols, THREADS), THREADS, 0, *args);
}

/* ---- norms */

static __global__ void rms_norm_kernel(const float *x, const float *w, float eps, int num_tokens, int64_t cols,
                                       float *out)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / 32;
    if (row >= num_tokens) return; /* a whole warp */
    x += row * cols;
    out += row * cols;
    float r = qr_rms_inverse(x, cols, eps);
    for (int64_t i = threadIdx.x % 32; i < cols; i += 32) out[i] = x[i] * r * w[i];
}

void qr_cuda_rms_norm(qr_cuda_device *dev, const float *x, const float *w, float eps, int num_tokens, int64_t cols,
                      float *out)
{
    QR_CUDA_LAUNCH(dev, rms_norm_kernel, qr_blocks_for(num_tokens, ROWS), THREADS, 0, x, w, eps, num_tokens, cols, out);
}

static __global__ void layer_norm_kernel(const float *x, const float *w, const float *b, float eps, int num_tokens,
                                         int64_t cols, float *out)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / 32;
    if (row >= num_tokens) return;
    x += row * cols;
    out += row * cols;
    float sum = 0.0f, squares = 0.0f;
    for (int64_t i = threadIdx.x % 16; i < cols; i += 16) sum += x[i];
    float mean = qr_tree_16(sum) / (float)cols;
    for (int64_t i = threadIdx.x % 16; i < cols; i += 16) squares = fmaf(x[i] - mean, x[i] - mean, squares);
    float r = 1.0f / sqrtf(qr_tree_16(squares) / (float)cols + eps);
    for (int64_t i = threadIdx.x % 32; i < cols; i += 32) out[i] = fmaf((x[i] - mean) * r, w[i], b ? b[i] : 0.0f);
}

void qr_cuda_layer_norm(qr_cuda_device *dev, const float *x, const float *w, const float *b, float eps, int num_tokens,
                        int64_t cols, float *out)
{
    QR_CUDA_LAUNCH(dev, layer_norm_kernel, qr_blocks_for(num_tokens, ROWS), THREADS, 0, x, w, b, eps, num_tokens, cols,
                   out);
}

/* ---- activations, gather */

static __global__ void gated_act_kernel(const float *gate_up, qr_act act, int64_t count, int64_t cols, float *out)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const float *gate = gate_up + i / cols * 2 * cols + i % cols;
    out[i] = qr_apply_act(act, gate[0]) * gate[cols];
}

void qr_cuda_gated_act(qr_cuda_device *dev, const float *gate_up, qr_act act, int num_tokens, int64_t cols, float *out)
{
    QR_CUDA_LAUNCH(dev, gated_act_kernel, qr_blocks_for(num_tokens * cols, THREADS), THREADS, 0, gate_up, act,
                   num_tokens * cols, cols, out);
}

static __global__ void act_kernel(float *x, qr_act act, int64_t count)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) x[i] = qr_apply_act(act, x[i]);
}

void qr_cuda_act_rows(qr_cuda_device *dev, float *x, qr_act act, int64_t count)
{
    QR_CUDA_LAUNCH(dev, act_kernel, qr_blocks_for(count, THREADS), THREADS, 0, x, act, count);
}

static __global__ void gather_kernel(const float *x, const int32_t *rows, int64_t count, int64_t cols, float *out)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) out[i] = x[rows[i / cols] * cols + i % cols];
}

void qr_cuda_gather_rows(qr_cuda_device *dev, const float *x, const int32_t *rows, int num_rows, int64_t cols,
                         float *out)
{
    QR_CUDA_LAUNCH(dev, gather_kernel, qr_blocks_for(num_rows * cols, THREADS), THREADS, 0, x, rows, num_rows * cols,
                   cols, out);
}
