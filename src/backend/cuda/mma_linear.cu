/* mma_linear's kernel and launch (mma_linear.h, mma_unit.cuh).
 *
 *   a block: 128 rows of W (a panel per warp) x 8 NT tokens x one split of K
 *   shared   x hi, lo [2][8 NT][128] bf16, swizzled | xsum [2][4][8 NT] | units [8 warps][stages]
 *
 * A warp streams its own panel with cp.async, `stages` units ahead of nobody else; x of the next unit is read while
 * this one is multiplied. The last block of a tile to finish adds up the splits. */
#include "backend/cuda/mma_unit.cuh"

enum {
    WARPS = QR_LINEAR_ROWS / QR_UNIT_ROWS,
    THREADS = 32 * WARPS,
    CHUNKS = QR_UNIT_COLS / 8,
    GROUPS = QR_UNIT_COLS / 32
};

/* qr_mma_linear and its weight as the kernel takes them: tokens of one launch. */
typedef struct work {
    const uint8_t *panels;
    int64_t num_rows, num_cols;
    int num_units, num_splits, split_units;
    const float *x;
    int64_t ld_x;
    int num_tokens;
    const float *bias;
    float *y;
    int64_t ld_y;
    bool accumulate;
    float *parts;
    int32_t *counters;
} work;

template <int NT> struct x_tile {
    uint4 hi[8 * NT * CHUNKS], lo[8 * NT * CHUNKS];
    float sum[GROUPS][8 * NT];
};

template <int FORMAT, int NT> static constexpr size_t shared_bytes(void)
{
    return 2 * sizeof(x_tile<NT>) + (size_t)WARPS * qr_unit<FORMAT>::stages * qr_unit<FORMAT>::bytes;
}

/* ---- x */

/* Four columns of NT tokens per thread; zeros past the matrix. */
template <int NT>
static __device__ __forceinline__ void read_x(const work &w, int first_token, int unit, float4 (&x)[NT])
{
    int64_t col = (int64_t)unit * QR_UNIT_COLS + threadIdx.x % 32 * 4;
    bool aligned = w.ld_x % 4 == 0 && reinterpret_cast<uintptr_t>(w.x) % 16 == 0;
    QR_UNROLL
    for (int i = 0; i < NT; i++) {
        int token = first_token + 8 * i + (int)threadIdx.x / 32;
        x[i] = make_float4(0, 0, 0, 0);
        if (token >= w.num_tokens || col >= w.num_cols) continue;
        const float *from = w.x + token * w.ld_x + col;
        x[i] = aligned ? *reinterpret_cast<const float4 *>(from) : make_float4(from[0], from[1], from[2], from[3]);
    }
}

template <int NT> static __device__ __forceinline__ void store_x(const float4 (&x)[NT], x_tile<NT> *tile)
{
    int lane = (int)threadIdx.x % 32;
    QR_UNROLL
    for (int i = 0; i < NT; i++) {
        int token = 8 * i + (int)threadIdx.x / 32, place = 2 * qr_swizzle(token, lane / 2, CHUNKS) + lane % 2;
        uint2 hi, lo;
        qr_split_bf16(x[i].x, x[i].y, &hi.x, &lo.x);
        qr_split_bf16(x[i].z, x[i].w, &hi.y, &lo.y);
        reinterpret_cast<uint2 *>(tile->hi)[place] = hi;
        reinterpret_cast<uint2 *>(tile->lo)[place] = lo;
        float sum = (x[i].x + x[i].y) + (x[i].z + x[i].w);
        for (int apart = 1; apart < 8; apart *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
        if (lane % 8 == 0) tile->sum[lane / 8][token] = sum;
    }
}

/* ---- W */

template <int FORMAT>
static __device__ __forceinline__ void fetch_unit(const uint8_t *panel, int unit, uint8_t *to, int lane)
{
    constexpr int bytes = qr_unit<FORMAT>::bytes;
    const uint8_t *from = panel + (int64_t)unit * bytes;
    for (int i = lane * 16; i < bytes; i += 512) qr_cp_async_16(to + i, from + i, true);
}

/* acc += scale * sum + min * xsum; the sum begins anew. */
template <int FORMAT>
static __device__ __forceinline__ void add_group(float (&acc)[4], float (&sum)[4], const float (&scale)[2],
                                                 const float (&min)[2], const float *xsum, int lane)
{
    QR_UNROLL
    for (int i = 0; i < 4; i++) {
        acc[i] = fmaf(sum[i], scale[i / 2], acc[i]);
        if (qr_unit<FORMAT>::has_min) acc[i] = fmaf(min[i / 2], xsum[qr_mma_d_col(lane, i)], acc[i]);
        sum[i] = 0;
    }
}

/* acc += one unit times x; the steps of a group share a scale. */
template <int FORMAT, int NT>
static __device__ __forceinline__ void multiply_unit(const uint8_t *unit, const x_tile<NT> *x, float (&acc)[NT][4],
                                                     int lane)
{
    typedef qr_unit<FORMAT> U;
    QR_UNROLL
    for (int pair = 0; pair < QR_UNIT_STEPS / 2; pair++) {
        uint32_t a[2][U::parts][4];
        float scale[2][2], min[2] = {0, 0}; /* of step and row, of row */
        QR_UNROLL
        for (int s = 0; s < 2; s++) qr_unit_fragment<FORMAT>(unit, 2 * pair + s, lane, a[s]);
        if (U::bits < 16) QR_UNROLL
        for (int s = 0; s < 2 / U::group_steps; s++) QR_UNROLL
        for (int half = 0; half < 2; half++)
            qr_unit_scale<FORMAT>(unit, (2 * pair + s) / U::group_steps, qr_mma_d_row(lane, 2 * half), &scale[s][half],
                                  &min[half]);
        QR_UNROLL
        for (int n = 0; n < NT; n++) {
            uint32_t hi[4], lo[4];
            int place = qr_swizzle(8 * n + (lane & 7), 4 * pair + lane / 8, CHUNKS);
            qr_ldmatrix_x4(hi, &x->hi[place]);
            qr_ldmatrix_x4(lo, &x->lo[place]);
            float sum[4] = {0, 0, 0, 0};
            QR_UNROLL
            for (int s = 0; s < 2; s++) {
                float *to = U::bits == 16 ? acc[n] : sum;
                QR_UNROLL
                for (int part = 0; part < U::parts; part++) {
                    qr_mma_bf16(to, a[s][part], hi + 2 * s);
                    qr_mma_bf16(to, a[s][part], lo + 2 * s);
                }
                if constexpr (U::bits < 16)
                    if ((s + 1) % U::group_steps == 0)
                        add_group<FORMAT>(acc[n], sum, scale[s / U::group_steps], min, &x->sum[pair][8 * n], lane);
            }
        }
    }
}

/* ---- results */

template <int NT>
static __device__ __forceinline__ void write_y(const work &w, int first_token, int64_t first_row,
                                               const float (&acc)[NT][4], int lane)
{
    QR_UNROLL
    for (int n = 0; n < NT; n++) QR_UNROLL
    for (int i = 0; i < 4; i++) {
        int64_t row = first_row + qr_mma_d_row(lane, i), token = first_token + 8 * n + qr_mma_d_col(lane, i);
        if (row >= w.num_rows || token >= w.num_tokens) continue;
        float *y = w.y + token * w.ld_y + row, v = acc[n][i];
        if (w.bias) v += w.bias[row];
        if (w.accumulate) v += *y;
        *y = v;
    }
}

/* Leave this split's part; true in the block that came last, with the sum of all parts. */
template <int NT>
static __device__ __forceinline__ bool add_splits(const work &w, float (&acc)[NT][4], int warp, int lane)
{
    __shared__ int num_done;
    int tile = (int)(blockIdx.x * gridDim.y + blockIdx.y);
    float4 *parts = reinterpret_cast<float4 *>(w.parts) + (int64_t)tile * w.num_splits * (WARPS * NT * 32);
    float4 *mine = parts + (int64_t)blockIdx.z * (WARPS * NT * 32) + warp * NT * 32 + lane;
    QR_UNROLL
    for (int n = 0; n < NT; n++) mine[32 * n] = make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) num_done = atomicAdd(&w.counters[tile], 1) + 1;
    __syncthreads();
    if (num_done < w.num_splits) return false;
    __threadfence();
    if (threadIdx.x == 0) w.counters[tile] = 0;
    QR_UNROLL
    for (int n = 0; n < NT; n++) {
        const float4 *from = parts + warp * NT * 32 + 32 * n + lane;
        float4 sum = from[0];
        for (int s = 1; s < w.num_splits; s++) {
            float4 part = from[(int64_t)s * (WARPS * NT * 32)];
            sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
        }
        acc[n][0] = sum.x, acc[n][1] = sum.y, acc[n][2] = sum.z, acc[n][3] = sum.w;
    }
    return true;
}

template <int FORMAT, int NT> static __global__ void __launch_bounds__(THREADS) linear_kernel(const work w)
{
    constexpr int stages = qr_unit<FORMAT>::stages, bytes = qr_unit<FORMAT>::bytes;
    QR_DYNAMIC_SHARED(unsigned char, shared);
    x_tile<NT> *x_tiles = reinterpret_cast<x_tile<NT> *>(shared);
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, first_token = (int)blockIdx.x * 8 * NT;
    uint8_t *units = shared + 2 * sizeof(x_tile<NT>) + (size_t)warp * stages * bytes;
    int64_t panel_idx = (int64_t)blockIdx.y * WARPS + warp;
    const uint8_t *panel = w.panels + panel_idx * w.num_units * bytes;
    int begin = (int)blockIdx.z * w.split_units, end = min(begin + w.split_units, w.num_units);

    float4 x[NT];
    float acc[NT][4] = {};
    for (int i = 0; i < stages - 1; i++) {
        if (begin + i < end) fetch_unit<FORMAT>(panel, begin + i, units + i * bytes, lane);
        qr_cp_async_commit();
    }
    read_x<NT>(w, first_token, begin, x);
    store_x<NT>(x, &x_tiles[0]);
    for (int unit = begin; unit < end; unit++) {
        int at = unit - begin, ahead = at + stages - 1;
        qr_cp_async_wait<stages - 2>();
        __syncthreads();
        if (begin + ahead < end) fetch_unit<FORMAT>(panel, begin + ahead, units + ahead % stages * bytes, lane);
        qr_cp_async_commit();
        if (unit + 1 < end) read_x<NT>(w, first_token, unit + 1, x);
        multiply_unit<FORMAT, NT>(units + at % stages * bytes, &x_tiles[at % 2], acc, lane);
        if (unit + 1 < end) store_x<NT>(x, &x_tiles[(at + 1) % 2]);
    }
    qr_cp_async_wait<0>();
    if (w.num_splits > 1 && !add_splits<NT>(w, acc, warp, lane)) return;
    write_y<NT>(w, first_token, panel_idx * QR_UNIT_ROWS, acc, lane);
}

/* ---- host */

template <int FORMAT, int NT> static cudaError_t launch(const work &w, cudaStream_t stream)
{
    constexpr size_t shared = shared_bytes<FORMAT, NT>();
    cudaError_t error =
        cudaFuncSetAttribute(linear_kernel<FORMAT, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != cudaSuccess) return error;
    dim3 grid((unsigned)((w.num_tokens + 8 * NT - 1) / (8 * NT)),
              (unsigned)((w.num_rows + QR_LINEAR_ROWS - 1) / QR_LINEAR_ROWS), (unsigned)w.num_splits);
    QR_LAUNCH((linear_kernel<FORMAT, NT>), grid, dim3(THREADS), shared, stream, w);
    return cudaGetLastError();
}

template <int FORMAT> static cudaError_t launch_tokens(const work &w, cudaStream_t stream)
{
    if (w.num_tokens <= 8) return launch<FORMAT, 1>(w, stream);
    if (w.num_tokens <= 16) return launch<FORMAT, 2>(w, stream);
    return launch<FORMAT, 4>(w, stream); /* tiles of the same rows side by side: W comes from the L2 cache */
}

int qr_mma_linear_run(const qr_mma_linear *args, void *stream)
{
    const qr_mma_weight *m = args->w;
    cudaStream_t on = static_cast<cudaStream_t>(stream);
    cudaError_t error = cudaSuccess;
    for (int first = 0; first < args->num_tokens && error == cudaSuccess; first += QR_LINEAR_MAX_TOKENS) {
        int num_tokens = min(args->num_tokens - first, (int)QR_LINEAR_MAX_TOKENS);
        work w = {m->data,
                  m->num_rows,
                  m->num_cols,
                  m->num_units,
                  m->num_splits,
                  m->split_units,
                  args->x + first * args->ld_x,
                  args->ld_x,
                  num_tokens,
                  args->bias,
                  args->y + first * args->ld_y,
                  args->ld_y,
                  args->accumulate,
                  args->parts,
                  args->counters};
        switch (m->format) {
        case QR_MMA_BF16: error = launch_tokens<QR_MMA_BF16>(w, on); break;
        case QR_MMA_F16: error = launch_tokens<QR_MMA_F16>(w, on); break;
        case QR_MMA_Q4: error = launch_tokens<QR_MMA_Q4>(w, on); break;
        case QR_MMA_Q4_MIN: error = launch_tokens<QR_MMA_Q4_MIN>(w, on); break;
        case QR_MMA_Q4_SUPER: error = launch_tokens<QR_MMA_Q4_SUPER>(w, on); break;
        case QR_MMA_Q8: error = launch_tokens<QR_MMA_Q8>(w, on); break;
        case QR_MMA_Q8_SUPER: error = launch_tokens<QR_MMA_Q8_SUPER>(w, on); break;
        }
    }
    return (int)error;
}
