/* mma_attention's kernels and launches (mma_attention.h, mma_tile.cuh). */
#include <assert.h>

#include "backend/cuda/mma_tile.cuh"
#include "backend/cuda/wgmma_attention.h"

template <int HD> static constexpr int prefill_warps = 4;
template <int HD> static constexpr int prefill_row_tiles = HD <= 128 ? 2 : 1;

template <int HD> static constexpr size_t shared_bytes(int rows)
{
    return (size_t)rows * HD * 2 + 2 * qr_tile_bytes<HD> + QR_SCALE_BYTES;
}

/* A decode item's part of one row: o [HD], m, l. */
static __device__ __forceinline__ float *part_row(const qr_mma_attention &a, int decode_rows, int item, int kv_head,
                                                  int row)
{
    return a.parts + (((int64_t)item * a.num_kv_heads + kv_head) * decode_rows + row) * (a.head_size + 2);
}

/* ---- decode */

template <int HD> __global__ void __launch_bounds__(32) decode_kernel(const qr_mma_attention a, int decode_rows)
{
    QR_DYNAMIC_SHARED(unsigned char, shared);
    qr_mma_item item = a.items[blockIdx.x];
    qr_mma_work w = qr_request_work(a, item.req);
    bool alone = w.begin / QR_MMA_SEGMENT == (w.end - 1) / QR_MMA_SEGMENT;
    w.begin = max(w.begin, item.idx * QR_MMA_SEGMENT);
    w.end = min(w.end, (item.idx + 1) * QR_MMA_SEGMENT);
    if (w.begin >= w.end) return; /* the window has left this segment behind */
    int lane = (int)threadIdx.x;
    qr_attend<HD, 1, 1>(a, w, shared, [&](const qr_mma_state<HD, 1> &state) {
        for (int half = 0; half < 2; half++) {
            int row = qr_mma_d_row(lane, 2 * half);
            if (row >= w.num_rows) continue;
            float m = state.m[0][half], l = state.l[0][half], factor = alone ? qr_out_factor(a.dtype, l) : 1;
            float *to = alone ? qr_out_row(a, w, row) : part_row(a, decode_rows, (int)blockIdx.x, w.kv_head, row);
            QR_UNROLL
            for (int n = 0; n < HD / 8; n++)
                *reinterpret_cast<float2 *>(to + 8 * n + qr_mma_d_col(lane, 0)) =
                    make_float2(state.o[0][n][2 * half] * factor, state.o[0][n][2 * half + 1] * factor);
            if (!alone && lane % 4 == 0) *reinterpret_cast<float2 *>(to + HD) = make_float2(m, l);
        }
    });
}

/* One warp per row: its segments in order. */
template <int HD> __global__ void __launch_bounds__(32) merge_kernel(const qr_mma_attention a, int num_decode, int rows)
{
    qr_mma_item item = a.items[num_decode + blockIdx.x];
    qr_mma_work w = qr_request_work(a, item.req);
    int row = (int)blockIdx.z, lane = (int)threadIdx.x;
    int segment = w.begin / QR_MMA_SEGMENT, last = (w.end - 1) / QR_MMA_SEGMENT;
    if (row >= w.num_rows || segment == last) return;
    const float *part = part_row(a, rows, item.idx + segment, w.kv_head, row);
    float o[HD / 32], m = part[HD], l = part[HD + 1];
    QR_UNROLL
    for (int i = 0; i < HD / 32; i++) o[i] = part[lane + 32 * i];
    while (segment++ < last) {
        float factor, later_factor;
        part = part_row(a, rows, item.idx + segment, w.kv_head, row);
        qr_merge_factors(&m, &l, part[HD], part[HD + 1], &factor, &later_factor);
        QR_UNROLL
        for (int i = 0; i < HD / 32; i++) o[i] = fmaf(o[i], factor, part[lane + 32 * i] * later_factor);
    }
    float *to = qr_out_row(a, w, row), factor = qr_out_factor(a.dtype, l);
    QR_UNROLL
    for (int i = 0; i < HD / 32; i++) to[lane + 32 * i] = o[i] * factor;
}

/* ---- prefill */

template <int HD>
__global__ void __launch_bounds__(32 * prefill_warps<HD>) prefill_kernel(const qr_mma_attention a, int first_item)
{
    constexpr int RT = prefill_row_tiles<HD>, ROWS = 16 * RT * prefill_warps<HD>;
    QR_DYNAMIC_SHARED(unsigned char, shared);
    qr_mma_item item = a.items[first_item + blockIdx.x];
    qr_mma_work w = qr_prefill_work(a, item, ROWS);
    int lane = (int)threadIdx.x & 31, warp_row = w.first_row + (int)threadIdx.x / 32 * 16 * RT;
    int num_folds = (w.end - 1) / QR_MMA_SEGMENT - w.begin / QR_MMA_SEGMENT + 1, folds = 0;
    float m[RT][2], l[RT][2];
    qr_attend<HD, RT, prefill_warps<HD>>(a, w, shared, [&](const qr_mma_state<HD, RT> &state) {
        bool first = folds == 0, last = ++folds == num_folds;
        qr_merge_segment(a, w, warp_row, state, m, l, first, last, lane, [&](int row, int) {
            float2 *out = qr_out_place(a, w, row, lane); /* segments wait there */
            return qr_mma_place{out, out, 4, 4};
        });
    });
}

/* ---- host */

template <int HD> static int run(const qr_mma_attention &a, const qr_mma_plan &plan, cudaStream_t stream)
{
    constexpr int prefill_rows = 16 * prefill_row_tiles<HD> * prefill_warps<HD>;
    constexpr size_t decode_shared = shared_bytes<HD>(QR_MMA_ROWS), prefill_shared = shared_bytes<HD>(prefill_rows);
    assert(prefill_rows == qr_mma_prefill_rows(HD));
    cudaError_t error;
    if ((error = cudaFuncSetAttribute(decode_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)decode_shared)) != cudaSuccess ||
        (error = cudaFuncSetAttribute(prefill_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)prefill_shared)) != cudaSuccess)
        return (int)error;
    unsigned heads = (unsigned)a.num_kv_heads;
    if (plan.num_decode > 0) {
        int num_decode = plan.num_decode, rows = plan.decode_rows;
        dim3 grid((unsigned)plan.num_decode, heads), merge_grid((unsigned)plan.num_merge, heads, (unsigned)rows);
        QR_LAUNCH(decode_kernel<HD>, grid, dim3(32), decode_shared, stream, a, rows);
        QR_LAUNCH(merge_kernel<HD>, merge_grid, dim3(32), 0, stream, a, num_decode, rows);
    }
    if (plan.num_prefill > 0) {
        int first_item = plan.num_decode + plan.num_merge;
        if (a.wgmma && qr_wgmma_attention_supported(a.head_size, a.dtype))
            return qr_wgmma_attention_run(&a, first_item, plan.num_prefill, stream);
        QR_LAUNCH(prefill_kernel<HD>, dim3((unsigned)plan.num_prefill, heads), dim3(32 * prefill_warps<HD>),
                  prefill_shared, stream, a, first_item);
    }
    return (int)cudaGetLastError();
}

int qr_mma_attention_run(const qr_mma_attention *args, const qr_mma_plan *plan, void *stream)
{
    cudaStream_t s = static_cast<cudaStream_t>(stream);
    switch (args->head_size) {
    case 64: return run<64>(*args, *plan, s);
    case 96: return run<96>(*args, *plan, s);
    case 128: return run<128>(*args, *plan, s);
    default: return run<256>(*args, *plan, s);
    }
}
