/* attention: rotation, KV cache and paged attention of every instruction set, against double precision, and the
 * same bits for every block size, chunking, batch, thread count, for requests whose tables begin alike, and for garbage
 * in unused slots. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/prefixes.h"
#include "backend_sets.h"
#include "random_values.h"

enum { MAX_REQS = 4, MAX_POSITION = 2048, NUM_LAYERS = 2 };

/* What is computed. */
typedef struct problem {
    int num_heads, num_kv_heads, head_size, rotary_dim, window;
    qr_rope_style style;
    qr_kv_dtype dtype;
    bool head_norms;
    int num_reqs, lens[MAX_REQS];
    float *qkv[MAX_REQS]; /* [len, row] before rotation */
    float *cos, *sin, *q_norm, *k_norm;
} problem;

/* How: must not change a bit. */
typedef struct way {
    int set, threads, block_size, chunk; /* chunk: at most this many tokens of a request per step */
    bool together;                       /* all requests in one batch */
} way;

static int row_floats(const problem *p) { return (p->num_heads + 2 * p->num_kv_heads) * p->head_size; }
static int out_floats(const problem *p) { return p->num_heads * p->head_size; }

static problem random_problem(int trial)
{
    static const int sizes[] = {64, 128, 80, 20, 96, 7};
    static const qr_kv_dtype dtypes[] = {QR_KV_F16,      QR_KV_INT8, QR_KV_F32,     QR_KV_FP8_E4M3,
                                         QR_KV_FP8_E5M2, QR_KV_INT8, QR_KV_FP8_E4M3};
    problem p = {.num_kv_heads = random_int(1, 3), .head_size = sizes[trial % 6], .dtype = dtypes[trial % 7]};
    p.num_heads = p.num_kv_heads * random_int(1, trial < 2 ? 2 : 4);
    p.rotary_dim = trial % 3 ? p.head_size / 2 * 2 : p.head_size / 4 * 2;
    p.style = (qr_rope_style)(trial % 3);
    p.window = trial % 4 == 3 ? random_int(1, 300) : 0;
    p.head_norms = trial % 5 == 4;
    p.num_reqs = trial < 2 ? 1 : random_int(1, MAX_REQS);
    for (int r = 0; r < p.num_reqs; r++) {
        p.lens[r] = trial < 2 ? 530 + 400 * trial : random_int(1, 160);
        size_t n = (size_t)p.lens[r] * (size_t)row_floats(&p);
        p.qkv[r] = malloc(n * sizeof(float));
        for (size_t i = 0; i < n; i++) p.qkv[r][i] = random_float() * 2;
    }
    int half = p.rotary_dim / 2;
    p.cos = shared_alloc((size_t)(MAX_POSITION * half + 1) * sizeof(float));
    p.sin = shared_alloc((size_t)(MAX_POSITION * half + 1) * sizeof(float));
    for (int t = 0; t < MAX_POSITION; t++)
        for (int i = 0; i < half; i++) {
            p.cos[t * half + i] = cosf((float)t * powf(10000, -(float)i / (float)half));
            p.sin[t * half + i] = sinf((float)t * powf(10000, -(float)i / (float)half));
        }
    p.q_norm = shared_alloc((size_t)p.head_size * sizeof(float));
    p.k_norm = shared_alloc((size_t)p.head_size * sizeof(float));
    for (int i = 0; i < p.head_size; i++) p.q_norm[i] = random_float(), p.k_norm[i] = random_float();
    return p;
}

static void free_problem(problem *p)
{
    for (int r = 0; r < p->num_reqs; r++) free(p->qkv[r]);
    shared_free(p->cos), shared_free(p->sin), shared_free(p->q_norm), shared_free(p->k_norm);
}

/* ---- reference in double precision */

static void rotate_reference(const problem *p, const float *x, const float *norm, int position, double *out)
{
    double scale = 1, squares = 0;
    for (int i = 0; i < p->head_size; i++) squares += (double)x[i] * (double)x[i];
    if (norm) scale = 1 / sqrt(squares / p->head_size + 1e-6);
    for (int i = 0; i < p->head_size; i++) out[i] = (double)x[i] * scale * (norm ? (double)norm[i] : 1);
    int half = p->rotary_dim / 2;
    for (int i = 0; p->style != QR_ROPE_NONE && i < half; i++) {
        int a = p->style == QR_ROPE_HALVES ? i : 2 * i, b = p->style == QR_ROPE_HALVES ? i + half : 2 * i + 1;
        double c = (double)p->cos[position * half + i], s = (double)p->sin[position * half + i];
        double x0 = out[a], x1 = out[b];
        out[a] = x0 * c - x1 * s;
        out[b] = x0 * s + x1 * c;
    }
}

/* The nearest value that an fp8 number can have; what is halfway goes to an even mantissa. */
static double nearest_fp8(double x, int mantissa_bits, double largest)
{
    int exponent;
    (void)frexp(x, &exponent);
    int lowest = mantissa_bits == 3 ? -6 : -14; /* exponent of the smallest normal number */
    if (exponent - 1 < lowest) exponent = lowest + 1;
    double unit = ldexp(1, exponent - 1 - mantissa_bits), y = rint(x / unit) * unit;
    return y > largest ? largest : y < -largest ? -largest : y;
}

/* A row of K or V as it is stored. */
static void store_reference(const problem *p, double *x)
{
    double max = 0;
    for (int i = 0; i < p->head_size; i++) max = fmax(max, fabs(x[i]));
    double d = (double)qr_f16_to_f32(qr_f32_to_f16((float)(max / 127 * (1 + 1.0 / 4096)))); /* about rounded up */
    for (int i = 0; i < p->head_size; i++) switch (p->dtype) {
        case QR_KV_F16: x[i] = (double)qr_f16_to_f32(qr_f32_to_f16((float)x[i])); break;
        case QR_KV_INT8: x[i] = rint(x[i] / d) * d; break;
        case QR_KV_FP8_E4M3: x[i] = nearest_fp8(x[i], 3, 448); break;
        case QR_KV_FP8_E5M2: x[i] = nearest_fp8(x[i], 2, 57344); break;
        default: break;
        }
}

/* Output of one head for the last `len` positions of request r, at position `at`. */
static void attend_reference(const problem *p, int r, int at, int head, double *out)
{
    int size = p->head_size, kv_head = head / (p->num_heads / p->num_kv_heads), row = row_floats(p);
    double q[512], k[512], v[512], scores[MAX_POSITION], max = -INFINITY, sum = 0;
    rotate_reference(p, p->qkv[r] + at * row + head * size, p->head_norms ? p->q_norm : NULL, at, q);
    int first = p->window && at - p->window + 1 > 0 ? at - p->window + 1 : 0;
    for (int t = first; t <= at; t++) {
        rotate_reference(p, p->qkv[r] + t * row + (p->num_heads + kv_head) * size, p->head_norms ? p->k_norm : NULL, t,
                         k);
        store_reference(p, k);
        scores[t] = 0;
        for (int i = 0; i < size; i++) scores[t] += q[i] * k[i] / sqrt(size);
        if (scores[t] > max) max = scores[t];
    }
    for (int i = 0; i < size; i++) out[i] = 0;
    for (int t = first; t <= at; t++) {
        const float *values = p->qkv[r] + t * row + (p->num_heads + p->num_kv_heads + kv_head) * size;
        for (int i = 0; i < size; i++) v[i] = (double)values[i];
        store_reference(p, v);
        double e = exp(scores[t] - max);
        sum += e;
        for (int i = 0; i < size; i++) out[i] += e * v[i];
    }
    for (int i = 0; i < size; i++) out[i] /= sum;
}

/* ---- the backend's answer, in one of many ways */

typedef struct run {
    const problem *p;
    const way *w;
    qr_backend *be;
    qr_kv_cache *cache;
    int max_blocks;
    int32_t tables[MAX_REQS][MAX_POSITION / 8];
    float **out;
} run;

static void fill_with_nan(const run *r, int64_t num_blocks, const qr_kv_config *config)
{
    size_t bytes = r->be->ops->kv_block_bytes(r->be, config);
    void *garbage = malloc(bytes);
    memset(garbage, 0xFF, bytes);
    for (int64_t b = 0; b < num_blocks; b++) r->be->ops->kv_write_block(r->be, r->cache, (int32_t)b, garbage);
    free(garbage);
}

/* Tokens [first[i], first[i] + count[i]) of request reqs[i]. */
static void step(const run *r, int num_reqs, const int *reqs, const int *first, const int *count)
{
    const problem *p = r->p;
    int32_t positions[MAX_REQS * MAX_POSITION], start[MAX_REQS + 1] = {0}, lens[MAX_REQS];
    int64_t slots[MAX_REQS * MAX_POSITION];
    int32_t *table = malloc((size_t)(num_reqs * r->max_blocks) * sizeof *table);
    int total = 0, row = row_floats(p), bs = r->w->block_size;
    for (int i = 0; i < num_reqs; i++) total += count[i];
    float *qkv = shared_alloc((size_t)total * (size_t)row * sizeof *qkv);
    float *out = shared_alloc((size_t)total * (size_t)out_floats(p) * sizeof *out);
    total = 0;
    for (int i = 0; i < num_reqs; i++) {
        memcpy(qkv + total * row, p->qkv[reqs[i]] + first[i] * row, (size_t)(count[i] * row) * sizeof *qkv);
        memcpy(table + i * r->max_blocks, r->tables[reqs[i]], (size_t)r->max_blocks * sizeof *table);
        for (int t = first[i]; t < first[i] + count[i]; t++, total++) {
            positions[total] = t;
            slots[total] = (int64_t)r->tables[reqs[i]][t / bs] * bs + t % bs;
        }
        /* blocks that the window has left behind may have been given away */
        for (int b = 0; p->window && (b + 1) * bs <= first[i] - p->window + 1; b++) table[i * r->max_blocks + b] = -1;
        start[i + 1] = total;
        lens[i] = first[i] + count[i];
    }
    qr_batch batch = {.num_tokens = total,
                      .num_reqs = num_reqs,
                      .max_blocks = r->max_blocks,
                      .positions = positions,
                      .slot_mapping = slots,
                      .query_start_loc = start,
                      .seq_lens = lens,
                      .block_table = table};
    enum { LAYER = NUM_LAYERS - 1 };
    qr_rope_kv_args rope = {.qkv = qkv,
                            .ld = row,
                            .num_heads = p->num_heads,
                            .num_kv_heads = p->num_kv_heads,
                            .head_size = p->head_size,
                            .style = p->style,
                            .rotary_dim = p->rotary_dim,
                            .cos = p->cos,
                            .sin = p->sin,
                            .q_norm = p->head_norms ? p->q_norm : NULL,
                            .k_norm = p->head_norms ? p->k_norm : NULL,
                            .norm_eps = 1e-6f,
                            .cache = r->cache,
                            .layer = LAYER};
    const qr_batch *begun = r->be->ops->batch_begin(r->be, &batch, r->cache);
    r->be->ops->rope_kv_write(r->be, begun, &rope);
    qr_attention_args attention = {.q = qkv,
                                   .ld_q = row,
                                   .out = out,
                                   .num_heads = p->num_heads,
                                   .num_kv_heads = p->num_kv_heads,
                                   .head_size = p->head_size,
                                   .scale = (float)(1 / sqrt(p->head_size)),
                                   .window = p->window,
                                   .cache = r->cache,
                                   .layer = LAYER};
    r->be->ops->attention(r->be, begun, &attention);
    r->be->ops->wait(r->be);
    for (int i = 0, at = 0; i < num_reqs; at += count[i], i++)
        memcpy(r->out[reqs[i]] + first[i] * out_floats(p), out + at * out_floats(p),
               (size_t)(count[i] * out_floats(p)) * sizeof *out);
    free(table), shared_free(qkv), shared_free(out);
}

/* False when the processor lacks the set. */
static bool run_way(const problem *p, const way *w, float **out)
{
    run r = {.p = p, .w = w, .out = out};
    if (create_set(w->set, w->threads, &r.be, NULL) != QUIRE_OK) return false;
    assert_int_equal(r.be->ops->reserve(r.be, MAX_REQS * MAX_POSITION, MAX_REQS, 2048, MAX_POSITION, NULL), QUIRE_OK);
    int num_blocks = 0, longest = 0;
    for (int i = 0; i < p->num_reqs; i++) {
        num_blocks += (p->lens[i] + w->block_size - 1) / w->block_size;
        if (p->lens[i] > longest) longest = p->lens[i];
    }
    r.max_blocks = (longest + w->block_size - 1) / w->block_size;
    qr_kv_config config = {NUM_LAYERS, p->num_kv_heads, p->head_size, w->block_size, num_blocks, p->dtype};
    assert_int_equal(r.be->ops->kv_cache_create(r.be, &config, &r.cache, NULL), QUIRE_OK);
    fill_with_nan(&r, num_blocks, &config);
    int next = num_blocks; /* blocks in an order that is not the sequence's */
    for (int i = 0; i < p->num_reqs; i++)
        for (int b = 0; b < (p->lens[i] + w->block_size - 1) / w->block_size; b++) r.tables[i][b] = --next;
    int done[MAX_REQS] = {0};
    for (bool any = true; any;) {
        int reqs[MAX_REQS], first[MAX_REQS], count[MAX_REQS], n = 0;
        any = false;
        for (int i = 0; i < p->num_reqs; i++) {
            int left = p->lens[i] - done[i];
            if (left == 0 || (!w->together && n > 0)) continue;
            reqs[n] = i;
            first[n] = done[i];
            count[n] = left < w->chunk ? left : w->chunk;
            done[i] += count[n++];
            any = true;
        }
        if (any) step(&r, n, reqs, first, count);
    }
    r.be->ops->kv_cache_destroy(r.be, r.cache);
    r.be->ops->destroy(r.be);
    return true;
}

/* The fastest set here: long contexts take long in software fma. */
static int best_set(void)
{
    for (int set = CUDA_SET - 1; set > 0; set--) {
        qr_backend *be;
        if (qr_cpu_backend_create(set_names[set], 1, &be, NULL) != QUIRE_OK) continue;
        be->ops->destroy(be);
        return set;
    }
    return 0;
}

static void assert_reference(const problem *p, float **out)
{
    /* what the wrong rounding of a few values may do, for what is halfway in float32 and not in double */
    static const double tolerance[QR_NUM_KV_DTYPES] = {[QR_KV_F32] = 1e-5, 2e-3, 2e-2, 2e-2, 2e-2};
    double expected[512];
    for (int r = 0; r < p->num_reqs; r++)
        for (int trial = 0; trial < 12; trial++) {
            int at = trial == 0 ? 0 : trial == 1 ? p->lens[r] - 1 : random_int(0, p->lens[r] - 1);
            int head = random_int(0, p->num_heads - 1);
            attend_reference(p, r, at, head, expected);
            const float *got = out[r] + at * out_floats(p) + head * p->head_size;
            for (int i = 0; i < p->head_size; i++)
                if (!(fabs((double)got[i] - expected[i]) < tolerance[p->dtype]))
                    fail_msg("request %d position %d head %d [%d]: %.9g, expected %.9g", r, at, head, i, (double)got[i],
                             expected[i]);
        }
}

static void attention_is_right_in_every_way(void **state)
{
    (void)state;
    for (int trial = 0; trial < 14; trial++) {
        problem p = random_problem(trial);
        float *first[MAX_REQS], *out[MAX_REQS];
        for (int r = 0; r < p.num_reqs; r++) {
            size_t bytes = (size_t)p.lens[r] * (size_t)out_floats(&p) * sizeof(float);
            first[r] = malloc(bytes);
            out[r] = malloc(bytes);
        }
        assert_true(run_way(&p, &(way){trial < 2 ? best_set() : 0, 1, 16, MAX_POSITION, false}, first));
        assert_reference(&p, first);
        for (int variant = 0; variant < 10; variant++) {
            way w = {.set = variant % NUM_SETS,
                     .threads = random_int(1, 3),
                     .block_size = 8 << random_int(0, 4),
                     .chunk = variant < 5 ? 7 : random_int(1, 200),
                     .together = next_random() % 2};
            if (trial < 2 && w.set == 0) continue; /* long contexts in software fma: slow */
            if (trial < 2 && w.set == CUDA_SET) {  /* once, all rows in a step: contexts are not split */
                if (variant != CUDA_SET) continue;
                w.chunk = MAX_POSITION;
            }
            if (!run_way(&p, &w, out)) continue;
            for (int r = 0; r < p.num_reqs; r++)
                for (int i = 0; i < p.lens[r] * out_floats(&p); i++)
                    if (memcmp(&out[r][i], &first[r][i], sizeof(float)) != 0)
                        fail_msg("trial %d: %s, %d threads, blocks of %d, chunks of %d: request %d position %d: "
                                 "%.9g, first way %.9g",
                                 trial, set_names[w.set], w.threads, w.block_size, w.chunk, r, i / out_floats(&p),
                                 (double)out[r][i], (double)first[r][i]);
        }
        for (int r = 0; r < p.num_reqs; r++) free(first[r]), free(out[r]);
        free_problem(&p);
    }
}

/* ---- requests whose block tables begin alike */

enum { MAX_ALIKE = 70, MAX_CONTEXT = 1500, MAX_ROW_BLOCKS = MAX_CONTEXT / 8 + 2, MAX_ALIKE_TOKENS = 1024 };

/* Requests of one step over a cache full of random K and V; block 0 is garbage that nobody may use. */
typedef struct alike {
    int num_heads, num_kv_heads, head_size, window, block_size, num_blocks, num_reqs, num_tokens;
    qr_kv_dtype dtype;
    int32_t start[MAX_ALIKE + 1], lens[MAX_ALIKE], table[MAX_ALIKE * MAX_ROW_BLOCKS];
    int32_t order[MAX_ALIKE], blocks[MAX_ALIKE];
    float *q;
} alike;

static int len_in_blocks(const alike *a, int req) { return (a->lens[req] + a->block_size - 1) / a->block_size; }

/* The first blocks of an earlier request, or none, then its own. */
static void grow_table(alike *a, int req, int shared)
{
    int from = req ? random_int(0, req - 1) : 0, num = len_in_blocks(a, req);
    if (req == 0) shared = 0;
    if (shared > len_in_blocks(a, from)) shared = len_in_blocks(a, from);
    for (int b = 0; b < num; b++)
        a->table[req * MAX_ROW_BLOCKS + b] = b < shared ? a->table[from * MAX_ROW_BLOCKS + b] : a->num_blocks++;
}

static alike random_alike(int trial)
{
    static const int sizes[] = {64, 20, 80};
    alike a = {.num_kv_heads = random_int(1, 3),
               .head_size = sizes[trial % 3],
               .window = trial % 4 == 3 ? random_int(1, 700) : 0,
               .block_size = 8 << trial % 5,
               .num_blocks = 1,
               .num_reqs = trial % 6 == 0 ? random_int(1, MAX_ALIKE) : random_int(1, 24),
               .dtype = (qr_kv_dtype)((trial + trial / 5) % QR_NUM_KV_DTYPES)};
    a.num_heads = a.num_kv_heads * random_int(1, 4);
    int longest = trial % 4 ? random_int(130, 500) : MAX_CONTEXT, common = random_int(0, longest);
    if (trial % 2) common = random_int(1, longest / 128) * 128 - a.block_size; /* a block short of a tile */
    for (int i = 0; i < a.num_reqs; i++) {
        /* most share the same beginning, some more than that, some nothing */
        int kind = random_int(0, 9), shared = kind < 6 ? common : kind < 8 ? random_int(0, longest) : 0;
        a.lens[i] = kind == 5 ? random_int(1, longest) : random_int(common > 1 ? common : 1, longest);
        int tokens = random_int(0, 5) ? 1 : random_int(1, 24);
        if (tokens > a.lens[i]) tokens = a.lens[i];
        if (a.num_tokens + tokens > MAX_ALIKE_TOKENS) tokens = 1;
        a.start[i + 1] = a.num_tokens += tokens;
        grow_table(&a, i, shared / a.block_size);
    }
    for (int i = 0; i < a.num_reqs; i++) /* what the window has left behind, and what was never used */
        for (int b = 0; b < MAX_ROW_BLOCKS; b++) {
            int first = a.lens[i] - (a.start[i + 1] - a.start[i]) + 1 - a.window;
            bool gone = a.window && (b + 1) * a.block_size <= first;
            if (gone || b >= len_in_blocks(&a, i)) a.table[i * MAX_ROW_BLOCKS + b] = random_int(0, 1) - 1;
        }
    size_t num = (size_t)(a.num_tokens * a.num_heads * a.head_size);
    a.q = shared_alloc(num * sizeof *a.q);
    for (size_t i = 0; i < num; i++) a.q[i] = random_float() * 2;
    return a;
}

static qr_batch batch_of(const alike *a)
{
    return (qr_batch){.num_tokens = a->num_tokens,
                      .num_reqs = a->num_reqs,
                      .max_blocks = MAX_ROW_BLOCKS,
                      .query_start_loc = a->start,
                      .seq_lens = a->lens,
                      .block_table = a->table};
}

static qr_kv_cache *fill_cache(qr_backend *be, const alike *a)
{
    qr_kv_config config = {1, a->num_kv_heads, a->head_size, a->block_size, a->num_blocks, a->dtype};
    qr_kv_cache *cache;
    assert_int_equal(be->ops->kv_cache_create(be, &config, &cache, NULL), QUIRE_OK);
    size_t bytes = be->ops->kv_block_bytes(be, &config), elem = a->dtype == QR_KV_F32 ? 4 : 2;
    uint8_t *block = malloc(bytes);
    uint64_t x = 1; /* the same in every cache */
    for (int b = 0; b < a->num_blocks; b++) {
        for (size_t i = 0; i < bytes / elem; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            float value = (float)(int32_t)(x >> 32) / 2147483648.0f;
            uint16_t half = qr_f32_to_f16(value);
            if (a->dtype > QR_KV_INT8) half &= 0xBFBF; /* two codes, none of them NaN */
            memcpy(block + i * elem, elem == 2 ? (void *)&half : (void *)&value, elem);
        }
        if (b == 0) memset(block, 0xFF, bytes);
        be->ops->kv_write_block(be, cache, b, block);
    }
    free(block);
    return cache;
}

static bool attend_alike(const alike *a, int set, int threads, bool together, float *out)
{
    qr_backend *be;
    if (create_set(set, threads, &be, NULL) != QUIRE_OK) return false;
    assert_int_equal(be->ops->reserve(be, MAX_ALIKE_TOKENS + MAX_ALIKE * 24, MAX_ALIKE, 2048, MAX_CONTEXT + 128, NULL),
                     QUIRE_OK);
    qr_kv_cache *cache = fill_cache(be, a);
    int cols = a->num_heads * a->head_size;
    qr_attention_args args = {.q = a->q,
                              .ld_q = cols,
                              .out = out,
                              .num_heads = a->num_heads,
                              .num_kv_heads = a->num_kv_heads,
                              .head_size = a->head_size,
                              .scale = 0.3f,
                              .window = a->window,
                              .cache = cache};
    qr_batch batch = batch_of(a);
    if (together) {
        batch.prefix_order = a->order;
        batch.prefix_blocks = a->blocks;
        be->ops->attention(be, be->ops->batch_begin(be, &batch, cache), &args);
    }
    for (int i = 0; !together && i < a->num_reqs; i++) {
        qr_batch one = {.num_tokens = a->start[i + 1] - a->start[i],
                        .num_reqs = 1,
                        .max_blocks = MAX_ROW_BLOCKS,
                        .query_start_loc = (int32_t[]){0, a->start[i + 1] - a->start[i]},
                        .seq_lens = a->lens + i,
                        .block_table = a->table + i * MAX_ROW_BLOCKS};
        args.q = a->q + a->start[i] * cols;
        args.out = out + a->start[i] * cols;
        be->ops->attention(be, be->ops->batch_begin(be, &one, cache), &args);
    }
    be->ops->wait(be);
    be->ops->kv_cache_destroy(be, cache);
    be->ops->destroy(be);
    return true;
}

static int common_blocks(const alike *a, int x, int y)
{
    int b = 0;
    while (b < len_in_blocks(a, x) && b < len_in_blocks(a, y) &&
           a->table[x * MAX_ROW_BLOCKS + b] == a->table[y * MAX_ROW_BLOCKS + b])
        b++;
    return b;
}

/* Any two requests have as much in common as the least of the neighbours from one to the other. */
static void assert_prefixes(const alike *a)
{
    bool seen[MAX_ALIKE] = {false};
    for (int i = 0; i < a->num_reqs; i++) {
        assert_in_range(a->order[i], 0, a->num_reqs - 1);
        assert_false(seen[a->order[i]]);
        seen[a->order[i]] = true;
        for (int j = i + 1, least = INT32_MAX; j < a->num_reqs; j++) {
            if (a->blocks[j] < least) least = a->blocks[j];
            assert_int_equal(least, common_blocks(a, a->order[i], a->order[j]));
        }
    }
    assert_int_equal(a->blocks[0], 0);
}

static void shared_prefixes_change_no_bit(void **state)
{
    (void)state;
    static alike a;
    for (int trial = 0; trial < 60; trial++) {
        a = random_alike(trial);
        qr_batch batch = batch_of(&a);
        qr_batch_find_prefixes(&batch, a.block_size, 0, a.order, a.blocks);
        assert_prefixes(&a);
        const int random_req = random_int(0, a.num_reqs - 1),
                  random_block = random_int(0, len_in_blocks(&a, random_req) - 1);
        int32_t *changed = &a.table[random_req * MAX_ROW_BLOCKS + random_block], id = *changed;
        *changed = random_int(0, 3); /* what was found may still be right, or not */
        qr_batch_find_prefixes(&batch, a.block_size, a.num_reqs, a.order, a.blocks);
        assert_prefixes(&a);
        *changed = id;
        qr_batch_find_prefixes(&batch, a.block_size, a.num_reqs, a.order, a.blocks);
        assert_prefixes(&a);
        int num = a.num_tokens * a.num_heads * a.head_size;
        float *expected = shared_alloc((size_t)num * sizeof(float)), *out = shared_alloc((size_t)num * sizeof(float));
        assert_true(attend_alike(&a, best_set(), 1, false, expected));
        int64_t work = 0;
        for (int i = 0; i < a.num_reqs; i++)
            work += (int64_t)(a.start[i + 1] - a.start[i]) * a.lens[i] * a.num_heads * a.head_size;
        for (int set = 0; set < NUM_SETS; set++) {
            if (work > (set == CUDA_SET ? 600000 : set == 0 ? 3000000 : INT64_MAX)) continue; /* slow */
            int threads = set % 2 ? 1 : random_int(1, 4);
            memset(out, 0, (size_t)num * sizeof(float));
            if (!attend_alike(&a, set, threads, true, out)) continue;
            for (int i = 0; i < num; i++)
                if (memcmp(&out[i], &expected[i], sizeof(float)) != 0)
                    fail_msg("trial %d, %s, %d threads, blocks of %d: token %d: %.9g together, %.9g alone", trial,
                             set_names[set], threads, a.block_size, i / (a.num_heads * a.head_size), (double)out[i],
                             (double)expected[i]);
        }
        shared_free(expected), shared_free(out), shared_free(a.q);
    }
}

static void copy_and_move_blocks(int set, qr_kv_config config)
{
    qr_backend *be;
    qr_kv_cache *cache;
    if (create_set(set, 1, &be, NULL) != QUIRE_OK) return;
    size_t bytes = be->ops->kv_block_bytes(be, &config);
    assert_int_equal(be->ops->kv_cache_create(be, &config, &cache, NULL), QUIRE_OK);
    uint8_t *a = malloc(bytes), *b = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) a[i] = (uint8_t)next_random();
    be->ops->kv_write_block(be, cache, 1, a);
    be->ops->kv_copy_blocks(be, cache, (qr_copy_pair[]){{1, 4}, {4, 0}, {2, 1}}, 3);
    be->ops->kv_read_block(be, cache, 0, b);
    assert_memory_equal(a, b, bytes);
    be->ops->kv_write_block(be, cache, 3, a);
    a[bytes - 1] ^= 1; /* it may be reused at once */
    be->ops->kv_read_block(be, cache, 3, b);
    a[bytes - 1] ^= 1;
    assert_memory_equal(a, b, bytes);
    memset(a, 0, bytes);
    be->ops->kv_read_block(be, cache, 1, b);
    assert_memory_equal(a, b, bytes);
    be->ops->kv_cache_destroy(be, cache);
    be->ops->destroy(be);
    free(a), free(b);
}

static void blocks_are_copied_and_moved(void **state)
{
    (void)state;
    for (int set = 0; set < NUM_SETS; set++) {
        copy_and_move_blocks(set, (qr_kv_config){3, 2, 20, 16, 5, QR_KV_INT8});
        copy_and_move_blocks(set, (qr_kv_config){12, 8, 128, 128, 5, QR_KV_F32}); /* 12 MiB: CUDA copies it in pieces */
    }
}

static void warming_ends_and_changes_nothing(void **state)
{
    (void)state;
    qr_backend *be;
    qr_kv_cache *cache;
    assert_int_equal(qr_cpu_backend_create(NULL, 1, &be, NULL), QUIRE_OK);
    qr_kv_config config = {3, 2, 64, 16, 600, QR_KV_F16}; /* a layer: 4.7 MiB, three pieces */
    size_t bytes = be->ops->kv_block_bytes(be, &config);
    assert_int_equal(be->ops->kv_cache_create(be, &config, &cache, NULL), QUIRE_OK);
    uint8_t *a = malloc(bytes), *b = malloc(bytes);
    for (int32_t block = 0; block < 600; block += 599) {
        for (size_t i = 0; i < bytes; i++) a[i] = (uint8_t)next_random();
        be->ops->kv_write_block(be, cache, block, a);
    }
    int num_pieces = 0;
    while (be->ops->kv_warm(be, cache)) num_pieces++;
    assert_int_equal(num_pieces, 9);
    be->ops->kv_read_block(be, cache, 599, b);
    assert_memory_equal(a, b, bytes);
    be->ops->kv_cache_destroy(be, cache);
    be->ops->destroy(be);
    free(a), free(b);
}

static void refuse_bad_caches(int set)
{
    qr_backend *be;
    qr_kv_cache *cache;
    quire_error error;
    if (create_set(set, 1, &be, NULL) != QUIRE_OK) return;
    qr_kv_config config = {1, 1, 64, 12, 4, QR_KV_F16};
    assert_int_equal(be->ops->kv_cache_create(be, &config, &cache, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "block_size");
    config.block_size = 16, config.head_size = 1000;
    assert_int_equal(be->ops->kv_cache_create(be, &config, &cache, &error), QUIRE_UNSUPPORTED);
    config.head_size = 64, config.num_blocks = INT64_MAX / 2;
    assert_int_equal(be->ops->kv_cache_create(be, &config, &cache, &error), QUIRE_NOMEM);
    be->ops->destroy(be);
}

static void bad_caches_are_refused(void **state)
{
    (void)state;
    for (int set = 0; set < NUM_SETS; set++) refuse_bad_caches(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_right_in_every_way), cmocka_unit_test(shared_prefixes_change_no_bit),
        cmocka_unit_test(blocks_are_copied_and_moved),     cmocka_unit_test(warming_ends_and_changes_nothing),
        cmocka_unit_test(bad_caches_are_refused),
    };
    return cmocka_run_group_tests_name("backend attention", tests, NULL, NULL);
}
