/* cuda_mma_attention: the tensor-core attention kernels against double precision; the same bits for every chunking,
 * batch and block size, for garbage in slots that nobody sees; and their index arithmetic. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include <cmocka.h>
}

#include "backend/cuda/mma_attention.h"
#include "backend/cuda/mma_index.cuh"
#include "backend/cuda/wgmma_attention.h"
#include "cuda_memory.h"
#include "random_values.h"

enum { MAX_REQS = 3, MAX_CONTEXT = 1300, MAX_HEAD = 256, KV_HEADS = 2 };

/* ---- index arithmetic */

static void swizzled_chunks_neither_meet_nor_share_banks(void **state)
{
    (void)state;
    static const int sizes[] = {8, 12, 16, 32};
    for (int chunks : sizes) {
        bool taken[64 * 32] = {};
        for (int row = 0; row < 64; row++)
            for (int chunk = 0; chunk < chunks; chunk++) {
                int place = qr_swizzle(row, chunk, chunks);
                assert_in_range(place, row * chunks, row * chunks + chunks - 1);
                assert_false(taken[place]);
                taken[place] = true;
            }
        for (int row = 0; row < 64; row += 8) /* one matrix of ldmatrix: 8 rows of a chunk, 128 bytes of banks */
            for (int chunk = 0; chunk < chunks; chunk++) {
                unsigned banks = 0;
                for (int r = 0; r < 8; r++) banks |= 1u << qr_swizzle(row + r, chunk, chunks) % 8;
                assert_int_equal(banks, 0xFF);
            }
    }
}

/* One product A B of a warp through shared memory, both [16][16], as the kernels load q, K and V. */
static __global__ void fragment_product(const uint16_t *a, const uint16_t *b, float *out)
{
    QR_DYNAMIC_SHARED(uint4, shared);
    int lane = (int)threadIdx.x;
    uint16_t *sa = reinterpret_cast<uint16_t *>(shared), *sb = sa + 256;
    for (int i = lane; i < 256; i += 32) sa[i] = a[i], sb[i] = b[i];
    __syncwarp();
    uint32_t af[4], bf[4];
    qr_ldmatrix_x4(af, &shared[qr_ldmatrix_a_row(lane) * 2 + qr_ldmatrix_a_chunk(lane)]);
    qr_ldmatrix_x4_trans(bf, &shared[32 + qr_ldmatrix_a_row(lane) * 2 + qr_ldmatrix_a_chunk(lane)]);
    for (int n = 0; n < 2; n++) {
        float d[4] = {0, 0, 0, 0};
        qr_mma_f16(d, af, bf + 2 * n);
        for (int i = 0; i < 4; i++) out[qr_mma_d_row(lane, i) * 16 + 8 * n + qr_mma_d_col(lane, i)] = d[i];
    }
}

static void fragments_are_where_mma_wants_them(void **state)
{
    (void)state;
    uint16_t a[256], b[256];
    float out[256];
    for (int i = 0; i < 256; i++) {
        a[i] = qr_f32_to_f16((float)random_int(-8, 8));
        b[i] = qr_f32_to_f16((float)random_int(-8, 8));
    }
    void *device_a = to_device(a, sizeof a), *device_b = to_device(b, sizeof b),
         *device_out = to_device(out, sizeof out);
    QR_LAUNCH(fragment_product, dim3(1), dim3(32), 1024, NULL, (const uint16_t *)device_a, (const uint16_t *)device_b,
              (float *)device_out);
    assert_int_equal(cudaMemcpy(out, device_out, sizeof out, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += qr_f16_to_f32(a[16 * m + k]) * qr_f16_to_f32(b[16 * k + n]);
            assert_true(out[16 * m + n] == sum);
        }
    cudaFree(device_a), cudaFree(device_b), cudaFree(device_out);
}

static void masks_and_addresses(void **state)
{
    (void)state;
    for (int position = 0; position < 40; position++)
        for (int window = 0; window < 45; window++)
            for (int key = 0; key < 50; key++)
                assert_int_equal(qr_sees(position, key, window),
                                 key <= position && (window == 0 || key > position - window));
    const int32_t table[] = {7, 2, 1 << 20};
    assert_int_equal(qr_paged_offset(table, 21, 4, 1000), 2 * 1000);
    assert_true(qr_paged_offset(table, 32, 4, 1 << 20) == (int64_t)1 << 40);
    assert_int_equal(qr_key_offset(3, 21, 4, 2), (3 * 16 + 5) * 2);
    assert_true(qr_mma_attention_supported(128, 64, QR_KV_F16, 8) && qr_mma_attention_supported(96, 1, QR_KV_INT8, 16));
    assert_false(qr_mma_attention_supported(80, 1, QR_KV_F16, 16) ||
                 qr_mma_attention_supported(64, 65, QR_KV_F16, 16) ||
                 qr_mma_attention_supported(64, 1, QR_KV_INT8, 8) || qr_mma_attention_supported(64, 1, QR_KV_F32, 16));
}

static void plan_covers_every_row_and_segment_once(void **state)
{
    (void)state;
    for (int trial = 0; trial < 200; trial++) {
        enum { REQS = 9 };
        int32_t start[REQS + 1] = {0}, lens[REQS];
        int group = random_int(1, 20), head_size = trial % 2 ? 128 : 256;
        for (int r = 0; r < REQS; r++) {
            int tokens = random_int(0, 2) ? random_int(0, 2) : random_int(1, 400);
            start[r + 1] = start[r] + tokens;
            lens[r] = tokens + random_int(0, 3000);
        }
        int64_t max_part_floats = trial % 3 ? INT64_MAX : 2 * 130 * 16 * random_int(0, 30);
        qr_mma_plan_args args = {start, lens, REQS, 2, group, head_size, max_part_floats};
        size_t max_items = qr_mma_max_items(start[REQS], REQS, 3400);
        qr_mma_item *items = (qr_mma_item *)malloc(max_items * sizeof *items);
        qr_mma_plan plan = qr_mma_plan_batch(&args, items);
        assert_true((int64_t)plan.num_decode * 2 * plan.decode_rows * (head_size + 2) <= max_part_floats);
        int at_merge = plan.num_decode, at_prefill = at_merge + plan.num_merge, end = at_prefill + plan.num_prefill;
        assert_true((size_t)end <= max_items);
        for (int r = 0; r < REQS; r++) {
            int rows = (start[r + 1] - start[r]) * group, tile = qr_mma_prefill_rows(head_size);
            bool decode = rows > 0 && rows <= QR_MMA_ROWS;
            if (max_part_floats < INT64_MAX) { /* as many as fit */
                bool merged = false;
                for (int i = at_merge; i < at_prefill; i++) merged |= items[i].req == r;
                assert_true(decode || !merged);
                decode = merged;
            }
            if (decode) assert_true(plan.decode_rows >= rows);
            int wanted[3] = {decode ? (lens[r] + QR_MMA_SEGMENT - 1) / QR_MMA_SEGMENT : 0, decode,
                             decode ? 0 : (rows + tile - 1) / tile};
            bool seen[128] = {};
            for (int i = 0; i < end; i++) {
                if (items[i].req != r) continue;
                int kind = i < at_merge ? 0 : i < at_prefill ? 1 : 2;
                wanted[kind]--;
                if (kind == 1) { /* segments lie one behind the other from there on */
                    assert_int_equal(items[items[i].idx].req, r);
                    assert_int_equal(items[items[i].idx].idx, 0);
                } else {
                    assert_in_range(items[i].idx, 0, (decode ? (lens[r] - 1) / QR_MMA_SEGMENT : (rows - 1) / tile));
                    assert_false(seen[items[i].idx]);
                    seen[items[i].idx] = true;
                }
            }
            assert_true(wanted[0] == 0 && wanted[1] == 0 && wanted[2] == 0);
        }
        free(items);
    }
}

/* ---- attention */

struct shape {
    int group, head_size, window, num_reqs, lens[MAX_REQS], from[MAX_REQS]; /* queries from .. len */
    qr_kv_dtype dtype;
};

struct problem : shape {
    float *q[MAX_REQS];            /* [len - from][heads][head_size] */
    uint8_t *codes[2][MAX_REQS];   /* K, V: [len][KV_HEADS][head_size] */
    uint16_t *scales[2][MAX_REQS]; /* [len][KV_HEADS], INT8 */
};

typedef struct way {
    int block_size, chunk;
    bool together;
    int64_t max_part_floats;
    bool wgmma; /* prefill by it, where it can */
} way;

static size_t elem_bytes(const problem *p) { return p->dtype == QR_KV_F16 ? 2 : 1; }

static void make_problem(problem *p)
{
    for (int r = 0; r < p->num_reqs; r++) {
        size_t rows = (size_t)p->lens[r] * KV_HEADS, num = rows * (size_t)p->head_size;
        size_t queries = (size_t)((p->lens[r] - p->from[r]) * KV_HEADS * p->group * p->head_size);
        p->q[r] = (float *)malloc(queries * sizeof(float));
        for (size_t i = 0; i < queries; i++) p->q[r][i] = random_float() * 2;
        for (int kv = 0; kv < 2; kv++) {
            p->codes[kv][r] = (uint8_t *)malloc(num * elem_bytes(p));
            p->scales[kv][r] = (uint16_t *)malloc(rows * 2);
            for (size_t i = 0; i < rows; i++) p->scales[kv][r][i] = qr_f32_to_f16((random_float() + 2) / 150);
            for (size_t i = 0; i < num; i++) {
                if (p->dtype == QR_KV_F16)
                    ((uint16_t *)p->codes[kv][r])[i] = qr_f32_to_f16(random_float() * 2);
                else if (p->dtype == QR_KV_INT8)
                    p->codes[kv][r][i] = (uint8_t)random_int(-127, 127);
                else /* up to 1.9, sign, subnormals too */
                    p->codes[kv][r][i] =
                        (uint8_t)(random_int(0, p->dtype == QR_KV_FP8_E4M3 ? 0x3F : 0x3F) | random_int(0, 1) << 7);
            }
        }
    }
}

static void free_problem(problem *p)
{
    for (int r = 0; r < p->num_reqs; r++) {
        free(p->q[r]);
        for (int kv = 0; kv < 2; kv++) free(p->codes[kv][r]), free(p->scales[kv][r]);
    }
}

static double fp8_value(unsigned code, int mantissa_bits)
{
    int exponent = (int)(code & 0x7F) >> mantissa_bits, bias = mantissa_bits == 3 ? 7 : 15;
    double mantissa = (double)(code & ((1u << mantissa_bits) - 1)) / (1 << mantissa_bits);
    double x = exponent ? ldexp(1 + mantissa, exponent - bias) : ldexp(mantissa, 1 - bias);
    return code & 0x80 ? -x : x;
}

/* What a code stands for, in the precision that the kernel has. */
static double stored(const problem *p, int kv, int r, int position, int kv_head, int d)
{
    size_t row = (size_t)(position * KV_HEADS + kv_head), i = row * (size_t)p->head_size + (size_t)d;
    const uint8_t *codes = p->codes[kv][r];
    switch (p->dtype) {
    case QR_KV_F16: return (double)qr_f16_to_f32(((const uint16_t *)codes)[i]);
    case QR_KV_INT8:
        return (double)qr_f16_to_f32(qr_f32_to_f16((float)(int8_t)codes[i] * qr_f16_to_f32(p->scales[kv][r][row])));
    case QR_KV_FP8_E4M3: return fp8_value(codes[i], 3);
    default: return fp8_value(codes[i], 2);
    }
}

static void attend_reference(const problem *p, int r, int position, int head, double *out)
{
    int size = p->head_size, kv_head = head / p->group;
    static double e[MAX_CONTEXT];
    const float *q = p->q[r] + (size_t)(((position - p->from[r]) * KV_HEADS * p->group + head) * size);
    double largest = -INFINITY, sum = 0;
    for (int t = 0; t <= position; t++) {
        e[t] = 0;
        for (int d = 0; d < size; d++)
            e[t] += (double)qr_f16_to_f32(qr_f32_to_f16(q[d])) * stored(p, 0, r, t, kv_head, d) / sqrt(size);
        if (!qr_sees(position, t, p->window)) e[t] = -INFINITY;
        largest = fmax(largest, e[t]);
    }
    for (int d = 0; d < size; d++) out[d] = 0;
    for (int t = 0; t <= position; t++) {
        double weight = exp(e[t] - largest);
        sum += weight;
        for (int d = 0; weight > 0 && d < size; d++) out[d] += weight * stored(p, 1, r, t, kv_head, d);
    }
    for (int d = 0; d < size; d++) out[d] /= sum;
}

/* The cache of one way: everything that no token owns is garbage. */
typedef struct cache {
    int64_t head_bytes, block_bytes;
    int num_blocks, max_blocks;
    uint8_t *data[2]; /* device */
    int32_t table[MAX_REQS * (MAX_CONTEXT / 8 + 1)];
} cache;

static void make_cache(const problem *p, const way *w, cache *c)
{
    int bs = w->block_size, longest = 0;
    size_t row_bytes = (size_t)p->head_size * elem_bytes(p);
    c->head_bytes = (int64_t)((size_t)bs * row_bytes) + (p->dtype == QR_KV_INT8 ? 2 * bs : 0);
    c->block_bytes = c->head_bytes * KV_HEADS;
    c->num_blocks = 1;
    for (int r = 0; r < p->num_reqs; r++) {
        c->num_blocks += (p->lens[r] + bs - 1) / bs;
        if (p->lens[r] > longest) longest = p->lens[r];
    }
    c->max_blocks = (longest + bs - 1) / bs;
    int next = c->num_blocks; /* not in the sequence's order */
    for (int r = 0; r < p->num_reqs; r++)
        for (int b = 0; b < c->max_blocks; b++)
            c->table[r * c->max_blocks + b] = b * bs < p->lens[r] ? --next : -1000000;
    for (int kv = 0; kv < 2; kv++) {
        size_t bytes = (size_t)(c->block_bytes * c->num_blocks);
        uint8_t *host = (uint8_t *)malloc(bytes);
        memset(host, 0x7F, bytes); /* NaN as f16, fp8 and as a scale */
        for (int r = 0; r < p->num_reqs; r++)
            for (int t = 0; t < p->lens[r]; t++)
                for (int h = 0; h < KV_HEADS; h++) {
                    uint8_t *head =
                        host + c->table[r * c->max_blocks + t / bs] * c->block_bytes + (int64_t)h * c->head_bytes;
                    size_t row = (size_t)(t * KV_HEADS + h);
                    const uint8_t *values = p->codes[kv][r] + row * row_bytes;
                    if (kv == 1) memcpy(head + (size_t)(t % bs) * row_bytes, values, row_bytes);
                    for (int d = 0; kv == 0 && d < p->head_size; d++)
                        memcpy(head + (size_t)(d * bs + t % bs) * elem_bytes(p), values + (size_t)d * elem_bytes(p),
                               elem_bytes(p));
                    if (p->dtype == QR_KV_INT8)
                        memcpy(head + (size_t)bs * row_bytes + 2 * (t % bs), &p->scales[kv][r][row], 2);
                }
        c->data[kv] = (uint8_t *)to_device(host, bytes);
        free(host);
    }
}

/* One step of some requests, `count` new tokens each behind `done`. */
static void step(const problem *p, const way *w, cache *c, int num_reqs, const int *reqs, const int *done,
                 const int *count, float **out)
{
    int num_heads = KV_HEADS * p->group, row = num_heads * p->head_size, total = 0;
    int32_t start[MAX_REQS + 1] = {0}, lens[MAX_REQS], table[MAX_REQS * (MAX_CONTEXT / 8 + 1)];
    for (int i = 0; i < num_reqs; i++) {
        start[i + 1] = total += count[i];
        lens[i] = done[i] + count[i];
        memcpy(table + i * c->max_blocks, c->table + reqs[i] * c->max_blocks, (size_t)c->max_blocks * sizeof *table);
        for (int b = 0; p->window && (b + 1) * w->block_size <= done[i] - p->window + 1; b++)
            table[i * c->max_blocks + b] = -1000000;
    }
    float *q = (float *)malloc((size_t)(total * row) * sizeof *q);
    for (int i = 0; i < num_reqs; i++)
        memcpy(q + start[i] * row, p->q[reqs[i]] + (size_t)((done[i] - p->from[reqs[i]]) * row),
               (size_t)(count[i] * row) * sizeof *q);
    qr_mma_plan_args args = {start, lens, num_reqs, KV_HEADS, p->group, p->head_size, w->max_part_floats};
    size_t max_items = qr_mma_max_items(total, num_reqs, MAX_CONTEXT);
    qr_mma_item *items = (qr_mma_item *)malloc(max_items * sizeof *items);
    qr_mma_plan plan = qr_mma_plan_batch(&args, items);
    size_t part_floats = (size_t)plan.num_decode * KV_HEADS * (size_t)(plan.decode_rows * (p->head_size + 2));
    size_t out_bytes = (size_t)(total * row) * 4;
    float *parts = NULL;
    assert_int_equal(cudaMalloc(&parts, (part_floats + 1) * 4), cudaSuccess);
    qr_mma_attention a = {};
    a.q = (const float *)to_device(q, out_bytes), a.ld_q = row, a.out = (float *)to_device(q, out_bytes);
    a.num_heads = num_heads, a.num_kv_heads = KV_HEADS, a.head_size = p->head_size;
    a.scale = (float)(1 / sqrt(p->head_size)), a.window = p->window;
    a.k = c->data[0], a.v = c->data[1], a.block_bytes = c->block_bytes, a.head_bytes = c->head_bytes;
    a.dtype = p->dtype, a.block_size = w->block_size, a.num_blocks = c->num_blocks, a.wgmma = w->wgmma;
    a.query_start_loc = (const int32_t *)to_device(start, sizeof start);
    a.seq_lens = (const int32_t *)to_device(lens, sizeof lens);
    a.block_table = (const int32_t *)to_device(table, (size_t)(num_reqs * c->max_blocks) * 4);
    a.max_blocks = c->max_blocks;
    a.items = (const qr_mma_item *)to_device(items, max_items * sizeof *items), a.parts = parts;
    assert_int_equal(qr_mma_attention_run(&a, &plan, NULL), cudaSuccess);
    assert_int_equal(cudaMemcpy(q, a.out, out_bytes, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int i = 0; i < num_reqs; i++)
        memcpy(out[reqs[i]] + (size_t)((done[i] - p->from[reqs[i]]) * row), q + start[i] * row,
               (size_t)(count[i] * row) * sizeof *q);
    cudaFree((void *)a.q), cudaFree(a.out), cudaFree((void *)a.query_start_loc), cudaFree((void *)a.seq_lens);
    cudaFree((void *)a.block_table), cudaFree((void *)a.items), cudaFree(parts);
    free(q), free(items);
}

static void run_way(const problem *p, const way *w, float **out)
{
    static cache c;
    make_cache(p, w, &c);
    int at[MAX_REQS];
    for (int r = 0; r < p->num_reqs; r++) at[r] = p->from[r];
    for (bool any = true; any;) {
        int reqs[MAX_REQS], done[MAX_REQS], count[MAX_REQS], n = 0;
        any = false;
        for (int r = 0; r < p->num_reqs; r++) {
            int left = p->lens[r] - at[r];
            if (left == 0 || (!w->together && n > 0)) continue;
            reqs[n] = r, done[n] = at[r], count[n] = left < w->chunk ? left : w->chunk;
            at[r] += count[n++];
            any = true;
        }
        if (any) step(p, w, &c, n, reqs, done, count, out);
    }
    cudaFree(c.data[0]), cudaFree(c.data[1]);
}

static void assert_reference(const problem *p, float **out)
{
    double expected[MAX_HEAD], worst = 0;
    for (int r = 0; r < p->num_reqs; r++)
        for (int trial = 0; trial < 8; trial++) {
            int position = trial == 0   ? p->from[r]
                           : trial == 1 ? p->lens[r] - 1
                                        : random_int(p->from[r], p->lens[r] - 1);
            int head = random_int(0, KV_HEADS * p->group - 1);
            attend_reference(p, r, position, head, expected);
            const float *got = out[r] + (size_t)(((position - p->from[r]) * KV_HEADS * p->group + head) * p->head_size);
            for (int d = 0; d < p->head_size; d++) {
                double off = fabs((double)got[d] - expected[d]);
                if (!(off < 1e-3)) /* values up to 2; P is rounded to float16: 2^-11 of each */
                    fail_msg("request %d position %d head %d [%d]: %.9g, expected %.9g", r, position, head, d,
                             (double)got[d], expected[d]);
                worst = fmax(worst, off);
            }
        }
    printf("head size %3d, dtype %d, group %d: off by at most %.1e\n", p->head_size, (int)p->dtype, p->group, worst);
}

/* Contexts of one and of several segments, rows that fill an mma or not, whole prompts and their last tokens. */
static const shape shapes[] = {
    {.group = 1,
     .head_size = 64,
     .window = 100,
     .num_reqs = 1,
     .lens = {166},
     .from = {164},
     .dtype = QR_KV_F16}, /* from 65, 66 on */
    {.group = 4, .head_size = 64, .window = 0, .num_reqs = 2, .lens = {90, 41}, .from = {0, 0}, .dtype = QR_KV_F16},
    {.group = 1,
     .head_size = 128,
     .window = 0,
     .num_reqs = 3,
     .lens = {1, 1100, 530},
     .from = {0, 1080, 528},
     .dtype = QR_KV_F16},
    {.group = 5, .head_size = 64, .window = 0, .num_reqs = 2, .lens = {610, 30}, .from = {570, 0}, .dtype = QR_KV_F16},
    {.group = 2, .head_size = 128, .window = 330, .num_reqs = 1, .lens = {640}, .from = {535}, .dtype = QR_KV_F16},
    {.group = 3,
     .head_size = 64,
     .window = 600,
     .num_reqs = 2,
     .lens = {1240, 65},
     .from = {1220, 40},
     .dtype = QR_KV_INT8},
    {.group = 8,
     .head_size = 96,
     .window = 21,
     .num_reqs = 2,
     .lens = {80, 33},
     .from = {50, 0},
     .dtype = QR_KV_FP8_E4M3},
    {.group = 2,
     .head_size = 256,
     .window = 0,
     .num_reqs = 2,
     .lens = {600, 20},
     .from = {580, 0},
     .dtype = QR_KV_FP8_E5M2},
    {.group = 7,
     .head_size = 128,
     .window = 0,
     .num_reqs = 2,
     .lens = {530, 70},
     .from = {520, 60},
     .dtype = QR_KV_INT8},
};

static void attention_is_right_in_every_way(void **state)
{
    (void)state;
    cudaDeviceProp prop;
    assert_int_equal(cudaGetDeviceProperties(&prop, 0), cudaSuccess);
    bool hopper = prop.major == 9 && prop.minor == 0;
    if (hopper) assert_true(qr_wgmma_attention_check(NULL));
    for (const shape &s : shapes) {
        problem p = {};
        static_cast<shape &>(p) = s;
        make_problem(&p);
        float *first[MAX_REQS], *out[MAX_REQS];
        size_t bytes[MAX_REQS];
        for (int r = 0; r < p.num_reqs; r++) {
            bytes[r] = (size_t)((p.lens[r] - p.from[r]) * KV_HEADS * p.group * p.head_size) * sizeof(float);
            first[r] = (float *)malloc(bytes[r]);
            out[r] = (float *)malloc(bytes[r]);
        }
        const way prefill = {64, MAX_CONTEXT, true, INT64_MAX, false};
        run_way(&p, &prefill, first);
        assert_reference(&p, first);
        const way ways[] = {{p.dtype == QR_KV_F16 ? 8 : 16, 1, true, INT64_MAX, false},
                            {32, 11, false, INT64_MAX, false},
                            {128, 3, true, 20000, false},
                            {16, MAX_CONTEXT, true, INT64_MAX, true},
                            {8, MAX_CONTEXT, false, INT64_MAX, true},
                            {64, MAX_CONTEXT, true, INT64_MAX, true},
                            {32, 17, true, INT64_MAX, true},
                            {128, 29, false, 20000, true}};
        for (const way &w : ways) {
            if (w.wgmma && !(hopper && qr_wgmma_attention_supported(p.head_size, p.dtype))) continue;
            for (int r = 0; r < p.num_reqs; r++) memset(out[r], 0xFF, bytes[r]);
            run_way(&p, &w, out);
            if (w.wgmma && w.block_size == 16) assert_reference(&p, out);
            for (int r = 0; r < p.num_reqs; r++)
                for (size_t i = 0; i < bytes[r] / sizeof(float); i++)
                    if (memcmp(&out[r][i], &first[r][i], sizeof(float)) != 0)
                        fail_msg("head size %d: blocks of %d, chunks of %d%s: request %d [%zu]: %.9g, first way %.9g",
                                 p.head_size, w.block_size, w.chunk, w.wgmma ? ", wgmma" : "", r, i, (double)out[r][i],
                                 (double)first[r][i]);
        }
        for (int r = 0; r < p.num_reqs; r++) free(first[r]), free(out[r]);
        free_problem(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(swizzled_chunks_neither_meet_nor_share_banks),
        cmocka_unit_test(fragments_are_where_mma_wants_them),
        cmocka_unit_test(masks_and_addresses),
        cmocka_unit_test(plan_covers_every_row_and_segment_once),
        cmocka_unit_test(attention_is_right_in_every_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
