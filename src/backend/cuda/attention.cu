/* Paged attention in backend.h's order of additions, without tensor cores: the CPU's bits.
 *
 *   a block: one token and head; tiles of 128 positions: a thread per position (scores), then a thread per dimension
 *   (values); merged within segments of 512, segments in order
 *
 * Where the batch has few rows and leaves room in `parts`, each segment is a block of its own and a second kernel
 * merges them in the same order: what a row gets does not depend on which way was taken. */
#include "backend/cuda/kv.cuh"

enum {
    TILE = 128,
    SEGMENT = 512,
    THREADS = TILE,
    MAX_HEAD_SIZE = 512,
    DIMS = MAX_HEAD_SIZE / THREADS,
    ENOUGH_ROWS = 1024 /* blocks: about 8 for each multiprocessor of a large device */
};

/* A part of a softmax: every thread has m and l, and the output's dimensions threadIdx.x + 128 i. */
struct part {
    float m, l, o[DIMS];
};

static __device__ __forceinline__ part empty(void) { return {__int_as_float((int)0xFF800000), 0.0f, {0.0f}}; }

static __device__ __forceinline__ void merge(part *into, const part &later)
{
    if (later.l == 0.0f) return;
    if (into->l == 0.0f) {
        *into = later;
        return;
    }
    float m = later.m > into->m ? later.m : into->m, a = qr_exp(into->m - m), b = qr_exp(later.m - m);
    into->m = m;
    into->l = fmaf(into->l, a, later.l * b);
#pragma unroll
    for (int i = 0; i < DIMS; i++) into->o[i] = fmaf(into->o[i], a, later.o[i] * b);
}

/* What the block's row sees: positions [first, stop) of request req. */
struct row {
    int req, first, stop;
};

static __device__ row find_row(const qr_cuda_attention &a, int token)
{
    int low = 0, high = a.num_reqs;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (a.query_start_loc[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    int stop = a.seq_lens[low] - a.query_start_loc[low + 1] + token + 1;
    return {low, a.window > 0 && stop > a.window ? stop - a.window : 0, stop};
}

struct scratch {
    float q[MAX_HEAD_SIZE], weight[TILE], value_weight[TILE], max[THREADS / 32], sum;
};

static __device__ float block_max(scratch *s, float v)
{
    for (int apart = 16; apart > 0; apart /= 2) {
        float other = __shfl_xor_sync(~0u, v, apart);
        v = other > v ? other : v;
    }
    if (threadIdx.x % 32 == 0) s->max[threadIdx.x / 32] = v;
    __syncthreads();
    v = s->max[0];
    for (int i = 1; i < THREADS / 32; i++) v = s->max[i] > v ? s->max[i] : v;
    return v;
}

/* The tile at position `at`, of which the row sees [first, end). */
template <int dtype>
static __device__ part attend_tile(const qr_cuda_attention &a, scratch *s, const int32_t *table, int kv_head, int at,
                                   int first, int end)
{
    const qr_cuda_kv &kv = a.kv;
    int me = threadIdx.x, bs = kv.block_size, size = kv.head_size;
    bool seen = me >= first && me < end;
    int in_block = (at + me) % bs;
    int64_t block = seen ? table[(at + me) / bs] : 0;
    part p = empty();
    float score = p.m;
    if (seen) {
        const uint8_t *k = qr_kv_head_k(kv, block, kv_head);
        float sum = 0.0f;
        for (int d = 0; d < size; d++) sum = fmaf(s->q[d], qr_kv_value<dtype>(k, d * bs + in_block), sum);
        float scale = a.scale;
        if (qr_kv_has_scale<dtype>()) scale = qr_kv_scale<dtype>(k + size * bs, in_block) * scale;
        score = sum * scale;
    }
    p.m = block_max(s, score);
    float weight = seen ? qr_exp(score - p.m) : 0.0f;
    s->weight[me] = weight;
    if (seen && qr_kv_has_scale<dtype>())
        weight *= qr_kv_scale<dtype>(qr_kv_head_v(kv, block, kv_head) + kv.padded * bs, in_block);
    s->value_weight[me] = weight;
    __syncthreads();
    if (me < 32) { /* 16 lanes, twice */
        float sum = 0.0f;
        for (int i = me % 16; i < TILE; i += 16) sum = s->weight[i] + sum;
        sum = qr_tree_16(sum);
        if (me == 0) s->sum = sum;
    }
    for (int t = first; t < end; t++) {
        const uint8_t *v = qr_kv_head_v(kv, table[(at + t) / bs], kv_head);
#pragma unroll
        for (int i = 0; i < DIMS; i++)
            if (me + THREADS * i < size)
                p.o[i] = fmaf(s->value_weight[t], qr_kv_value<dtype>(v, (at + t) % bs * kv.padded + me + THREADS * i),
                              p.o[i]);
    }
    __syncthreads();
    p.l = s->sum;
    return p;
}

static __device__ int64_t part_size(const qr_cuda_attention &a) { return 2 + a.kv.head_size; }

static __device__ float *part_at(const qr_cuda_attention &a, int token, int head, int segment)
{
    return a.parts + (((int64_t)token * a.num_heads + head) * a.max_segments + segment) * part_size(a);
}

static __device__ void write_out(const qr_cuda_attention &a, int token, int head, const part &p)
{
    float *out = a.out + ((int64_t)token * a.num_heads + head) * a.kv.head_size, inverse = 1.0f / p.l;
#pragma unroll
    for (int i = 0; i < DIMS; i++)
        if ((int)threadIdx.x + THREADS * i < a.kv.head_size) out[threadIdx.x + THREADS * i] = p.o[i] * inverse;
}

template <int dtype> static __global__ void __launch_bounds__(THREADS) attend_kernel(qr_cuda_attention a, bool split)
{
    __shared__ scratch s;
    int token = (int)blockIdx.x, head = (int)blockIdx.y, kv_head = head / (a.num_heads / a.kv.num_kv_heads);
    row r = find_row(a, token);
    int segment = r.first / SEGMENT, end_segment = (r.stop + SEGMENT - 1) / SEGMENT;
    if (split) {
        if ((int)blockIdx.z < segment || (int)blockIdx.z >= end_segment) return; /* the whole block */
        segment = (int)blockIdx.z;
        end_segment = segment + 1;
    }
    const int32_t *table = a.block_table + (int64_t)r.req * a.max_blocks;
    for (int i = threadIdx.x; i < a.kv.head_size; i += THREADS)
        s.q[i] = a.q[token * a.ld_q + (int64_t)head * a.kv.head_size + i];
    __syncthreads();
    part all = empty();
    for (; segment < end_segment; segment++) {
        part merged = empty();
        for (int at = segment * SEGMENT; at < (segment + 1) * SEGMENT && at < r.stop; at += TILE) {
            int first = r.first > at ? r.first - at : 0, end = r.stop - at < TILE ? r.stop - at : TILE;
            if (first < end) merge(&merged, attend_tile<dtype>(a, &s, table, kv_head, at, first, end));
        }
        merge(&all, merged);
    }
    if (!split) {
        write_out(a, token, head, all);
        return;
    }
    float *to = part_at(a, token, head, (int)blockIdx.z);
    if (threadIdx.x == 0) to[0] = all.m, to[1] = all.l;
#pragma unroll
    for (int i = 0; i < DIMS; i++)
        if ((int)threadIdx.x + THREADS * i < a.kv.head_size) to[2 + threadIdx.x + THREADS * i] = all.o[i];
}

static __global__ void __launch_bounds__(THREADS) merge_kernel(qr_cuda_attention a)
{
    int token = (int)blockIdx.x, head = (int)blockIdx.y;
    row r = find_row(a, token);
    part all = empty();
    for (int segment = r.first / SEGMENT; segment < (r.stop + SEGMENT - 1) / SEGMENT; segment++) {
        const float *from = part_at(a, token, head, segment);
        part p = empty();
        p.m = from[0];
        p.l = from[1];
#pragma unroll
        for (int i = 0; i < DIMS; i++)
            if ((int)threadIdx.x + THREADS * i < a.kv.head_size) p.o[i] = from[2 + threadIdx.x + THREADS * i];
        merge(&all, p);
    }
    write_out(a, token, head, all);
}

void qr_cuda_attend(qr_cuda_device *dev, const qr_cuda_attention *args)
{
    size_t part_bytes = (size_t)args->num_tokens * args->num_heads * args->max_segments *
                        (2 + (size_t)args->kv.head_size) * sizeof(float);
    bool split = args->max_segments > 1 && (int64_t)args->num_tokens * args->num_heads <= ENOUGH_ROWS &&
                 part_bytes <= QR_CUDA_PARTS_BYTES;
    dim3 grid((unsigned)args->num_tokens, (unsigned)args->num_heads, split ? (unsigned)args->max_segments : 1);
    switch (args->kv.dtype) {
#define XX(id, name, bytes) \
    case QR_KV_##id: QR_CUDA_LAUNCH(dev, attend_kernel<QR_KV_##id>, grid, THREADS, 0, *args, split); break;
        QR_KV_DTYPE_MAP(XX)
#undef XX
    default: break;
    }
    if (split) QR_CUDA_LAUNCH(dev, merge_kernel, dim3(grid.x, grid.y), THREADS, 0, *args);
}
