/* mma_work: what all attention kernels on tensor cores share, so that a row has the same bits in each: which rows and
 * keys a block has, online softmax over a tile, segments.
 *
 * A warp has rows in tiles of 16 (RT of them); its registers are o [16 RT][HD] and s [16 RT][64] as results of mma, and
 * per lane the maximum and its part of the sum of rows lane / 4 and lane / 4 + 8. wgmma leaves its results in the same
 * places. */
#ifndef QR_BACKEND_CUDA_MMA_WORK_CUH
#define QR_BACKEND_CUDA_MMA_WORK_CUH

#include "backend/cuda/mma_attention.h"
#include "backend/cuda/mma_index.cuh"

enum { QR_KEY_COLS = QR_MMA_KEYS / 8 };

/* What the threads of a block work on together. */
typedef struct qr_mma_work {
    int kv_head;
    int num_rows; /* of the request: tokens * group */
    int group;
    int first_row, end_row; /* the block's */
    int first_token;        /* flat, of the request */
    int first_position;     /* of the request's first new token */
    int begin, end;         /* keys that some row of the block sees, within what the block does */
    const int32_t *table;
    int block_shift;
    const uint8_t *k, *v; /* the head's, in block 0 */
} qr_mma_work;

template <int HD, int RT> struct qr_mma_state {
    float o[RT][HD / 8][4], m[RT][2], l[RT][2];
};

static __device__ __forceinline__ uint32_t qr_pack_f16(float x, float y)
{
    __half2 h = __floats2half2_rn(x, y);
    uint32_t bits;
    memcpy(&bits, &h, sizeof bits);
    return bits;
}

/* ---- rows and keys */

/* All rows of a request and one KV head. */
static __device__ __forceinline__ qr_mma_work qr_request_work(const qr_mma_attention &a, int req)
{
    qr_mma_work w;
    w.kv_head = (int)blockIdx.y;
    w.group = a.num_heads / a.num_kv_heads;
    w.first_token = a.query_start_loc[req];
    int tokens = a.query_start_loc[req + 1] - w.first_token;
    w.num_rows = tokens * w.group;
    w.first_row = 0;
    w.end_row = w.num_rows;
    w.first_position = a.seq_lens[req] - tokens;
    w.begin = qr_first_key(w.first_position, a.window);
    w.end = a.seq_lens[req];
    w.table = a.block_table + (int64_t)req * a.max_blocks;
    w.block_shift = __ffs(a.block_size) - 1;
    w.k = a.k + w.kv_head * a.head_bytes;
    w.v = a.v + w.kv_head * a.head_bytes;
    return w;
}

/* A prefill item: some rows of a request. */
static __device__ __forceinline__ qr_mma_work qr_prefill_work(const qr_mma_attention &a, qr_mma_item item, int rows)
{
    qr_mma_work w = qr_request_work(a, item.req);
    w.first_row = item.idx * rows;
    w.end_row = min(w.num_rows, w.first_row + rows);
    w.begin = qr_first_key(w.first_position + w.first_row / w.group, a.window);
    w.end = w.first_position + (w.end_row - 1) / w.group + 1;
    return w;
}

/* Positions of the first and the last of the rows [row, row + count) that are there; false if none is. */
static __device__ __forceinline__ bool qr_row_range(const qr_mma_work &w, int row, int count, int *first, int *last)
{
    if (row >= w.end_row) return false;
    *first = w.first_position + row / w.group;
    *last = w.first_position + (min(row + count, w.end_row) - 1) / w.group;
    return true;
}

/* Of the lane's rows in a warp's that begin at `row`; -1 for rows that are not there. */
template <int RT>
static __device__ __forceinline__ void qr_row_positions(const qr_mma_work &w, int row, int (&position)[RT][2], int lane)
{
    QR_UNROLL
    for (int rt = 0; rt < RT; rt++) QR_UNROLL
    for (int half = 0; half < 2; half++) {
        int r = row + 16 * rt + qr_mma_d_row(lane, 2 * half);
        position[rt][half] = r < w.end_row ? w.first_position + r / w.group : -1;
    }
}

/* A row's query, and where its result goes, at dimension 0. */
static __device__ __forceinline__ const float *qr_query_row(const qr_mma_attention &a, const qr_mma_work &w, int row)
{
    int head = w.kv_head * w.group + row % w.group;
    return a.q + (int64_t)(w.first_token + row / w.group) * a.ld_q + head * a.head_size;
}
static __device__ __forceinline__ float *qr_out_row(const qr_mma_attention &a, const qr_mma_work &w, int row)
{
    int head = w.kv_head * w.group + row % w.group;
    return a.out + ((int64_t)(w.first_token + row / w.group) * a.num_heads + head) * a.head_size;
}

/* ---- a tile: online softmax */

/* What scores are multiplied with: exp is exp2. */
static __device__ __forceinline__ float qr_score_scale(const qr_mma_attention &a)
{
    return a.scale * 1.44269504f * (a.dtype == QR_KV_FP8_E4M3 ? 256.0f : 1.0f);
}

template <int HD, int RT> static __device__ __forceinline__ void qr_clear_state(qr_mma_state<HD, RT> &state)
{
    QR_UNROLL
    for (int rt = 0; rt < RT; rt++) {
        state.m[rt][0] = state.m[rt][1] = -INFINITY;
        state.l[rt][0] = state.l[rt][1] = 0;
        QR_UNROLL
        for (int n = 0; n < HD / 8; n++) QR_UNROLL
        for (int i = 0; i < 4; i++) state.o[rt][n][i] = 0;
    }
}

/* Scores to probabilities, relative to the largest score so far; m and l follow it, o is to by qr_shrink_output().
 * position: of the lane's rows, -1 for rows that are not there; all_seen: no row of the warp needs a mask. */
template <int RT>
static __device__ __forceinline__ void qr_softmax(float (&m)[RT][2], float (&l)[RT][2], float (&shrink)[RT][2],
                                                  float (&s)[RT][QR_KEY_COLS][4], float scale, int window, int start,
                                                  const int (&position)[RT][2], bool all_seen, int lane)
{
    QR_UNROLL
    for (int rt = 0; rt < RT; rt++) QR_UNROLL
    for (int half = 0; half < 2; half++) {
        float largest = m[rt][half];
        QR_UNROLL
        for (int n = 0; n < QR_KEY_COLS; n++) QR_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; i++) {
            float x = s[rt][n][i] * scale;
            if (!all_seen && !qr_sees(position[rt][half], start + 8 * n + qr_mma_d_col(lane, i), window)) x = -INFINITY;
            s[rt][n][i] = x;
            largest = fmaxf(largest, x);
        }
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        float base = largest == -INFINITY ? 0 : largest, sum = 0;
        shrink[rt][half] = qr_exp2(m[rt][half] - base);
        QR_UNROLL
        for (int n = 0; n < QR_KEY_COLS; n++) QR_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; i++) {
            s[rt][n][i] = qr_exp2(s[rt][n][i] - base);
            sum += s[rt][n][i];
        }
        m[rt][half] = largest;
        l[rt][half] = fmaf(l[rt][half], shrink[rt][half], sum);
    }
}

template <int HD, int RT>
static __device__ __forceinline__ void qr_shrink_output(qr_mma_state<HD, RT> &state, const float (&shrink)[RT][2])
{
    QR_UNROLL
    for (int rt = 0; rt < RT; rt++) QR_UNROLL
    for (int n = 0; n < HD / 8; n++) QR_UNROLL
    for (int i = 0; i < 4; i++) state.o[rt][n][i] *= shrink[rt][i / 2];
}

/* Probabilities of keys 16 step .. as A: s as mma leaves it is what mma takes. */
static __device__ __forceinline__ void qr_pack_probabilities(const float (&s)[QR_KEY_COLS][4], int step,
                                                             uint32_t (&p)[4])
{
    QR_UNROLL
    for (int i = 0; i < 4; i++) p[i] = qr_pack_f16(s[2 * step + i / 2][i % 2 * 2], s[2 * step + i / 2][i % 2 * 2 + 1]);
}

/* ---- segments */

/* At a segment's end: l of whole rows. */
template <int RT> static __device__ __forceinline__ void qr_complete_sums(float (&l)[RT][2])
{
    QR_UNROLL
    for (int rt = 0; rt < RT; rt++) QR_UNROLL
    for (int half = 0; half < 2; half++) {
        l[rt][half] += __shfl_xor_sync(0xffffffffu, l[rt][half], 1);
        l[rt][half] += __shfl_xor_sync(0xffffffffu, l[rt][half], 2);
    }
}

/* The factors of backend.h's merge of (m, l) with a later part; l and m become the result's. Parts that saw nothing
 * (m = -inf) leave the other as it is. */
static __device__ __forceinline__ void qr_merge_factors(float *m, float *l, float later_m, float later_l, float *factor,
                                                        float *later_factor)
{
    float largest = fmaxf(*m, later_m), base = largest == -INFINITY ? 0 : largest;
    *factor = qr_exp2(*m - base);
    *later_factor = qr_exp2(later_m - base);
    *l = fmaf(*l, *factor, later_l * *later_factor);
    *m = largest;
}

/* What V's codes were not multiplied with, over the sum of the probabilities. */
static __device__ __forceinline__ float qr_out_factor(qr_kv_dtype dtype, float l)
{
    return (dtype == QR_KV_FP8_E4M3 ? 256.0f : 1.0f) / l;
}

/* Where a lane has its float2's of a row of o, one for every 8 dimensions: the sum so far, and what takes its place. */
typedef struct qr_mma_place {
    const float2 *from;
    float2 *to;
    int from_step, to_step; /* from one to the next */
} qr_mma_place;

/* The lane's place in a row of a.out. */
static __device__ __forceinline__ float2 *qr_out_place(const qr_mma_attention &a, const qr_mma_work &w, int row,
                                                       int lane)
{
    return reinterpret_cast<float2 *>(qr_out_row(a, w, row) + qr_mma_d_col(lane, 0));
}

/* A segment of a warp's rows, which begin at `row`: merged into those before, the last one divided by its sum. m, l:
 * theirs, then the result's. place(row, half) of a row that is there, the lane's first (0) or second (1) of 16. */
template <int HD, int RT, class Place>
static __device__ __forceinline__ void qr_merge_segment(const qr_mma_attention &a, const qr_mma_work &w, int row,
                                                        const qr_mma_state<HD, RT> &state, float (&m)[RT][2],
                                                        float (&l)[RT][2], bool first, bool last, int lane, Place place)
{
    QR_UNROLL
    for (int rt = 0; rt < RT; rt++) QR_UNROLL
    for (int half = 0; half < 2; half++) {
        float factor = 0, later_factor = 1;
        if (first)
            m[rt][half] = state.m[rt][half], l[rt][half] = state.l[rt][half];
        else
            qr_merge_factors(&m[rt][half], &l[rt][half], state.m[rt][half], state.l[rt][half], &factor, &later_factor);
        int r = row + 16 * rt + qr_mma_d_row(lane, 2 * half);
        if (r >= w.end_row) continue;
        qr_mma_place p = place(r, half);
        float scale = last ? qr_out_factor(a.dtype, l[rt][half]) : 1;
        QR_UNROLL
        for (int n = 0; n < HD / 8; n++) {
            float2 o = make_float2(state.o[rt][n][2 * half], state.o[rt][n][2 * half + 1]);
            if (!first) {
                float2 sum = p.from[n * p.from_step];
                o = make_float2(fmaf(sum.x, factor, o.x * later_factor), fmaf(sum.y, factor, o.y * later_factor));
            }
            p.to[n * p.to_step] = make_float2(o.x * scale, o.y * scale);
        }
    }
}

#endif
