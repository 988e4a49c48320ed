/* Matrix products in backend.h's order of additions, without tensor cores: the CPU's bits.
 *
 *   a block: 32 rows (lanes) x 8 tokens (warps); a tile of the rows' columns goes through shared memory, each thread
 *   adds up one output, columns ascending */
#include "backend/cuda/dequant.cuh"
#include "backend/cuda/runtime.cuh"

enum { ROWS = 32, TOKENS = 8, THREADS = ROWS * TOKENS };

static __device__ __forceinline__ void store(const qr_cuda_linear &a, int t, int64_t row, float v)
{
    float *y = a.y + t * a.ld_y + row;
    if (a.bias) v += a.bias[row];
    if (a.accumulate) v += *y;
    *y = v;
}

/* ---- float types */

static __device__ __forceinline__ float load(const float *p) { return *p; }
static __device__ __forceinline__ float load(const __half *p) { return __half2float(*p); }
static __device__ __forceinline__ float load(const __nv_bfloat16 *p) { return __bfloat162float(*p); }

template <class T> static __global__ void __launch_bounds__(THREADS) float_kernel(qr_cuda_linear a)
{
    enum { COLS = 32 };
    __shared__ float w_tile[COLS][ROWS + 1], x_tile[TOKENS][COLS];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t first_row = (int64_t)blockIdx.x * ROWS, row = first_row + lane;
    int t = (int)blockIdx.y * TOKENS + warp;
    float acc = 0.0f;
    for (int64_t k = 0; k < a.num_cols; k += COLS) {
        int cols = a.num_cols - k < COLS ? (int)(a.num_cols - k) : COLS;
        for (int r = warp; r < ROWS; r += TOKENS)
            if (lane < cols && first_row + r < a.num_rows)
                w_tile[lane][r] = load((const T *)((const uint8_t *)a.w + (first_row + r) * a.row_bytes) + k + lane);
        if (lane < cols && t < a.num_tokens) x_tile[warp][lane] = a.x[t * a.ld_x + k + lane];
        __syncthreads();
        if (t < a.num_tokens && row < a.num_rows)
            for (int i = 0; i < cols; i++) acc = fmaf(x_tile[warp][i], w_tile[i][lane], acc);
        __syncthreads();
    }
    if (t < a.num_tokens && row < a.num_rows) store(a, t, row, acc);
}

/* ---- low-bit types */

static __global__ void quantize_kernel(const float *x, int64_t ld_x, int64_t count, int64_t groups, qr_cuda_act *out)
{
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= count) return;
    x += at / groups * ld_x + at % groups * 32;
    float max = 0.0f;
    for (int i = 0; i < 32; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    float d = max / 127.0f, inverse = d >= 0x1p-126f ? 1.0f / d : 0.0f; /* 1 / d would overflow for smaller ones */
    qr_cuda_act a;
    bool finite = true;
    int sums[2] = {0, 0};
    for (int k = 0; k < 8; k++) {
        unsigned four = 0;
        for (int i = 0; i < 4; i++) {
            float code = rintf(x[4 * k + i] * inverse);
            bool number = code >= -127.0f && code <= 127.0f;
            int q = number ? (int)code : 0;
            finite &= number;
            sums[k / 4] += q;
            four |= (unsigned)(q & 255) << (8 * i);
        }
        a.q[k] = (int32_t)four;
    }
    a.d = finite ? d : __int_as_float(0x7FC00000); /* not a number in, none out */
    a.asum = a.d * (float)(sums[0] + sums[1]);
    a.half_asum[0] = a.d * (float)sums[0];
    a.half_asum[1] = a.d * (float)sums[1];
    out[at] = a;
}

void qr_cuda_quantize(qr_cuda_device *dev, const float *x, int64_t ld_x, int num_tokens, int64_t cols, qr_cuda_act *out)
{
    int64_t groups = cols / 32, count = num_tokens * groups;
    QR_CUDA_LAUNCH(dev, quantize_kernel, qr_blocks_for(count, THREADS), THREADS, 0, x, ld_x, count, groups, out);
}

/* A tile is 8 groups of the 32 rows: a thread reads one group of one row. */
template <int dtype> static __global__ void __launch_bounds__(THREADS) lowbit_kernel(qr_cuda_linear a, int block_bytes)
{
    typedef qr_format<dtype> format;
    enum { GROUPS = 8, PARTS = format::halves ? 2 : 1 };
    __shared__ int32_t codes[GROUPS][8][ROWS];
    __shared__ float scales[GROUPS][PARTS][ROWS], mins[GROUPS][PARTS][ROWS];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t row = (int64_t)blockIdx.x * ROWS + lane, groups = a.num_cols / 32;
    int t = (int)blockIdx.y * TOKENS + warp;
    float acc = 0.0f;
    for (int64_t first = 0; first < groups; first += GROUPS) {
        if (first + warp < groups && row < a.num_rows) {
            qr_group g;
            qr_read_group<dtype>((const uint8_t *)a.w + row * a.row_bytes, block_bytes, first + warp, &g);
            for (int k = 0; k < 8; k++) codes[warp][k][lane] = g.codes[k];
            for (int h = 0; h < PARTS; h++) {
                scales[warp][h][lane] = g.scale[h];
                if (format::has_min) mins[warp][h][lane] = g.min[h];
            }
        }
        __syncthreads();
        int num = groups - first < GROUPS ? (int)(groups - first) : GROUPS;
        for (int i = 0; i < num && t < a.num_tokens && row < a.num_rows; i++) {
            const qr_cuda_act *x = a.act + t * groups + first + i;
            for (int h = 0; h < PARTS; h++) {
                int sum = 0;
                for (int k = h * 4; k < (format::halves ? h * 4 + 4 : 8); k++)
                    sum = __dp4a(codes[i][k][lane], x->q[k], sum);
                acc = fmaf((float)sum, scales[i][h][lane] * x->d, acc);
                if (format::has_min) acc = fmaf(mins[i][h][lane], format::halves ? x->half_asum[h] : x->asum, acc);
            }
        }
        __syncthreads();
    }
    if (t < a.num_tokens && row < a.num_rows) store(a, t, row, acc);
}

void qr_cuda_multiply(qr_cuda_device *dev, const qr_cuda_linear *args)
{
    dim3 grid(qr_blocks_for(args->num_rows, ROWS), qr_blocks_for(args->num_tokens, TOKENS));
    switch (args->dtype) {
    case QR_F32: QR_CUDA_LAUNCH(dev, float_kernel<float>, grid, THREADS, 0, *args); break;
    case QR_F16: QR_CUDA_LAUNCH(dev, float_kernel<__half>, grid, THREADS, 0, *args); break;
    case QR_BF16: QR_CUDA_LAUNCH(dev, float_kernel<__nv_bfloat16>, grid, THREADS, 0, *args); break;
#define BYTES(name, id, len, bytes) enum { block_bytes_##name = bytes };
        QR_DTYPE_MAP(BYTES)
#undef BYTES
#define XX(name)                                                                                         \
    case QR_##name:                                                                                      \
        QR_CUDA_LAUNCH(dev, lowbit_kernel<QR_##name>, grid, THREADS, 0, *args, (int)block_bytes_##name); \
        break;
        QR_LOWBIT_DTYPES(XX)
#undef XX
    default: break;
    }
}
