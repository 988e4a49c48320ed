#define _GNU_SOURCE
/* Speed of the CPU backend's ops beside what this machine can do at most, measured in the same way.
 *   build/bench/kernels [threads] [text: only rows whose name contains it] [instruction set]
 * Every figure is the best of many short runs, so that other load on the machine spoils few of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/backend.h"
#include "backend/prefixes.h"
#include "base/clock.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { MAX_TOKENS = 2048, MAX_COLS = 14336 };
static double budget_seconds = 0.25;
static const char *only = "";
static qr_backend *be;
static double peak_int8, peak_float, peak_read; /* GOP/s, GFLOP/s, GB/s of all threads */

static uint64_t rng = 88172645463325252u;
static uint32_t next_random(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 32);
}

/* With one thread, the processor time it was given: other load on the machine then does not count. */
static double seconds(void)
{
    struct timespec t;
    clock_gettime(qr_pool_num_threads(be->pool) == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of the fastest run. */
static double best_time(void (*run)(void *), void *ctx)
{
    double best = 1e30, stop = qr_clock_seconds() + budget_seconds;
    run(ctx);
    for (int i = 0; i < 3 || qr_clock_seconds() < stop; i++) {
        double t = seconds();
        run(ctx);
        t = seconds() - t;
        if (t < best) best = t;
    }
    return best;
}

/* ---- peaks */

enum { PEAK_ROUNDS = 50000, READ_BYTES = 256 << 20 };
static uint8_t *read_buffer;
static volatile float sink;

#ifdef __x86_64__
#define KEEP(v) __asm__ volatile("" : "+x"(v))
__attribute__((target("avx512f,avx512vnni"))) static void peak_avx512(void *ctx, int tile, int thread)
{
    (void)tile, (void)thread;
    __m512 f[12];
    __m512i n[12];
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) f[i] = _mm512_set1_ps(0.1f), n[i] = _mm512_setzero_si512();
    __m512 m = _mm512_set1_ps(0.999f);
    __m512i a = _mm512_set1_epi8(3);
    if (*(int *)ctx == 0) {
        for (int r = 0; r < PEAK_ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < 12; i++) {
                f[i] = _mm512_fmadd_ps(f[i], m, m);
                KEEP(f[i]);
            }
    } else {
        for (int r = 0; r < PEAK_ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < 12; i++) {
                n[i] = _mm512_dpbusd_epi32(n[i], a, a);
                KEEP(n[i]);
            }
    }
    sink = _mm512_reduce_add_ps(f[0]) + (float)_mm512_reduce_add_epi32(n[0]);
}

__attribute__((target("avx2,fma"))) static void peak_avx2(void *ctx, int tile, int thread)
{
    (void)tile, (void)thread;
    __m256 f[12];
    __m256i n[12];
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) f[i] = _mm256_set1_ps(0.1f), n[i] = _mm256_setzero_si256();
    __m256 m = _mm256_set1_ps(0.999f);
    __m256i a = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    if (*(int *)ctx == 0) {
        for (int r = 0; r < PEAK_ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < 12; i++) {
                f[i] = _mm256_fmadd_ps(f[i], m, m);
                KEEP(f[i]);
            }
    } else {
        for (int r = 0; r < PEAK_ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < 12; i++) {
                KEEP(a); /* else the product leaves the loop */
                __m256i p = _mm256_maddubs_epi16(a, a);
                n[i] = _mm256_add_epi32(n[i], _mm256_madd_epi16(p, ones));
                KEEP(n[i]);
            }
    }
    sink = _mm256_cvtss_f32(f[0]) + (float)_mm256_extract_epi32(n[0], 0);
}

__attribute__((target("avx2"))) static void peak_read_tile(void *ctx, int tile, int thread)
{
    (void)ctx, (void)thread;
    const __m256i *p = (const __m256i *)(read_buffer + (size_t)tile * (1 << 20));
    __m256i x[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int i = 0; i < (1 << 20) / 32; i += 4)
        for (int j = 0; j < 4; j++) x[j] = _mm256_xor_si256(x[j], _mm256_load_si256(p + i + j));
    x[0] = _mm256_xor_si256(_mm256_xor_si256(x[0], x[1]), _mm256_xor_si256(x[2], x[3]));
    sink = (float)_mm256_extract_epi32(x[0], 0);
}

static bool avx512;
static void run_peak(void *ctx)
{
    qr_pool_run(be->pool, avx512 ? peak_avx512 : peak_avx2, ctx, 4 * qr_pool_num_threads(be->pool));
}
static void run_read(void *ctx) { qr_pool_run(be->pool, peak_read_tile, ctx, READ_BYTES >> 20); }

static void measure_peaks(void)
{
    avx512 = strstr(be->ops->name, "avx512") != NULL;
    double instructions = 12.0 * PEAK_ROUNDS * 4 * qr_pool_num_threads(be->pool);
    peak_float = instructions * (avx512 ? 32 : 16) / best_time(run_peak, &(int){0}) * 1e-9;
    peak_int8 = instructions * (avx512 ? 128 : 64) / best_time(run_peak, &(int){1}) * 1e-9;
    read_buffer = be->ops->buffer_alloc(be, READ_BYTES);
    memset(read_buffer, 1, READ_BYTES);
    peak_read = READ_BYTES / best_time(run_read, NULL) * 1e-9;
    be->ops->buffer_free(be, read_buffer, READ_BYTES);
}
#else
static void measure_peaks(void) {}
#endif

/* ---- linear */

typedef struct linear_bench {
    qr_weight **weights; /* several copies, so that one token's worth does not stay in the cache */
    int num_copies, num_tokens, at;
    const float *x;
    float *y;
    int64_t rows, cols;
} linear_bench;

static void run_linear(void *ctx)
{
    linear_bench *b = ctx;
    const qr_weight *w = b->weights[b->at++ % b->num_copies];
    be->ops->linear(be, b->x, b->cols, b->num_tokens, &w, NULL, 1, b->y, b->rows, false);
}

static void row(const char *name, double value, const char *unit, double seconds, double peak)
{
    printf("%-44s %9.1f %-7s %10.1f us", name, value, unit, seconds * 1e6);
    if (peak > 0) printf(" %5.0f %%", 100 * value / peak);
    printf("\n");
    fflush(stdout);
}

static void bench_linear(qr_dtype dtype, int64_t rows, int64_t cols, const int *tokens)
{
    char name[96];
    snprintf(name, sizeof name, "linear %s %lldx%lld", qr_dtype_name(dtype), (long long)rows, (long long)cols);
    if (!strstr(name, only)) return;
    qr_tensor_view view = {.name = "w", .dtype = dtype, .num_dims = 2, .dims = {cols, rows, 1, 1}};
    view.bytes = (size_t)rows * qr_tensor_row_bytes(&view);
    uint8_t *data = malloc(view.bytes);
    for (size_t i = 0; i < view.bytes; i++) data[i] = (uint8_t)(next_random() & 0x3B);
    view.data = data;
    linear_bench b = {.rows = rows, .cols = cols, .num_copies = (int)((96 << 20) / view.bytes) + 1};
    if (b.num_copies > 64) b.num_copies = 64;
    b.weights = calloc((size_t)b.num_copies, sizeof *b.weights);
    double pack = seconds();
    for (int i = 0; i < b.num_copies; i++)
        if (be->ops->weight_create(be, &view, QR_COMPUTE_AUTO, &b.weights[i], NULL) != QUIRE_OK) exit(1);
    pack = (seconds() - pack) / b.num_copies;
    size_t weight_bytes = be->ops->weight_bytes(b.weights[0]);
    float *x = be->ops->buffer_alloc(be, (size_t)MAX_TOKENS * (size_t)cols * sizeof *x);
    for (int64_t i = 0; i < MAX_TOKENS * cols; i++) x[i] = (float)(int)(next_random() % 255) - 127;
    b.x = x;
    b.y = be->ops->buffer_alloc(be, (size_t)MAX_TOKENS * (size_t)rows * sizeof *b.y);
    double peak = qr_dtype_block_len(dtype) > 1 ? peak_int8 : peak_float;
    for (; *tokens; tokens++) {
        b.num_tokens = *tokens;
        double t = best_time(run_linear, &b);
        snprintf(name, sizeof name, "linear %s %lldx%lld M=%d", qr_dtype_name(dtype), (long long)rows, (long long)cols,
                 *tokens);
        row(name, 2.0 * (double)rows * (double)cols * *tokens / t * 1e-9, "GOP/s", t, peak);
        if (*tokens == 1) row("    weights read", (double)weight_bytes / t * 1e-9, "GB/s", t, peak_read);
    }
    row("    packing, from", (double)view.bytes / pack * 1e-9, "GB/s", pack, 0);
    be->ops->buffer_free(be, x, (size_t)MAX_TOKENS * (size_t)cols * sizeof *x);
    be->ops->buffer_free(be, b.y, (size_t)MAX_TOKENS * (size_t)rows * sizeof *b.y);
    for (int i = 0; i < b.num_copies; i++) be->ops->weight_destroy(be, b.weights[i]);
    free(b.weights);
    free(data);
}

/* ---- attention */

enum { KV_BLOCK = 16 };

static const char *const kv_names[] = {
#define XX(id, name, bytes) [QR_KV_##id] = name,
    QR_KV_DTYPE_MAP(XX)
#undef XX
};

typedef struct attention_bench {
    qr_batch batch;
    qr_attention_args args;
    qr_kv_cache *cache;
    int32_t *table, *start, *lens;
    float *q, *out;
    size_t q_bytes, kv_bytes; /* kv_bytes: all blocks */
    char name[96];
} attention_bench;

static void run_attention(void *ctx)
{
    attention_bench *b = ctx;
    be->ops->attention(be, &b->batch, &b->args);
}

typedef struct attention_shape {
    int num_reqs, new_tokens, context, heads, kv_heads, size;
} attention_shape;

/* False when not asked for. */
static bool attention_open(attention_bench *b, attention_shape s, qr_kv_dtype dtype)
{
    snprintf(b->name, sizeof b->name, "attention %s %d x %d of %d, heads %d/%d x %d", kv_names[dtype], s.num_reqs,
             s.new_tokens, s.context, s.heads, s.kv_heads, s.size);
    if (!strstr(b->name, only)) return false;
    int blocks = (s.context + KV_BLOCK - 1) / KV_BLOCK, all = blocks * s.num_reqs, total = s.num_reqs * s.new_tokens;
    qr_kv_config config = {1, s.kv_heads, s.size, KV_BLOCK, all, dtype};
    if (be->ops->kv_cache_create(be, &config, &b->cache, NULL) != QUIRE_OK) exit(1);
    size_t block_bytes = be->ops->kv_block_bytes(be, &config);
    uint8_t *fill = malloc(block_bytes);
    for (size_t i = 0; i < block_bytes; i++) fill[i] = (uint8_t)(next_random() & 0x3B);
    for (int i = 0; i < all; i++) be->ops->kv_write_block(be, b->cache, i, fill);
    free(fill);
    b->table = malloc((size_t)all * sizeof *b->table);
    b->start = malloc((size_t)(s.num_reqs + 1) * sizeof *b->start);
    b->lens = malloc((size_t)s.num_reqs * sizeof *b->lens);
    for (int i = 0; i < all; i++) b->table[i] = i;
    for (int i = all - 1; i > 0; i--) { /* as after hours of serving */
        int j = (int)(next_random() % (uint32_t)(i + 1)), swap = b->table[i];
        b->table[i] = b->table[j];
        b->table[j] = swap;
    }
    for (int i = 0; i <= s.num_reqs; i++) b->start[i] = i * s.new_tokens;
    for (int i = 0; i < s.num_reqs; i++) b->lens[i] = s.context;
    b->q_bytes = (size_t)total * (size_t)(s.heads * s.size) * sizeof(float);
    b->kv_bytes = block_bytes * (size_t)all;
    b->q = be->ops->buffer_alloc(be, b->q_bytes);
    b->out = be->ops->buffer_alloc(be, b->q_bytes);
    for (size_t i = 0; i < b->q_bytes / 4; i++) b->q[i] = (float)(next_random() % 100) / 50 - 1;
    b->batch = (qr_batch){.num_tokens = total,
                          .num_reqs = s.num_reqs,
                          .max_blocks = blocks,
                          .query_start_loc = b->start,
                          .seq_lens = b->lens,
                          .block_table = b->table};
    b->args = (qr_attention_args){.q = b->q,
                                  .ld_q = s.heads * s.size,
                                  .out = b->out,
                                  .num_heads = s.heads,
                                  .num_kv_heads = s.kv_heads,
                                  .head_size = s.size,
                                  .scale = 0.125f,
                                  .cache = b->cache};
    return true;
}

static void attention_close(attention_bench *b)
{
    be->ops->kv_cache_destroy(be, b->cache);
    be->ops->buffer_free(be, b->q, b->q_bytes);
    be->ops->buffer_free(be, b->out, b->q_bytes);
    free(b->table), free(b->start), free(b->lens);
}

static void attention_row(const attention_bench *b, attention_shape s, double t)
{
    double seen = s.new_tokens * (s.context - (s.new_tokens - 1) / 2.0) * s.num_reqs; /* query x key pairs per head */
    row(b->name, 4.0 * seen * s.heads * s.size / t * 1e-9, "GFLOP/s", t, peak_float);
    if (s.new_tokens == 1) row("    K and V read", (double)b->kv_bytes / t * 1e-9, "GB/s", t, peak_read);
}

static void bench_attention(attention_shape s, qr_kv_dtype dtype)
{
    attention_bench b;
    if (!attention_open(&b, s, dtype)) return;
    attention_row(&b, s, best_time(run_attention, &b));
    attention_close(&b);
}

/* Every type of KV cache in turn, over and over, so that other load meets all alike: speed relative to float16. */
static void bench_kv_dtypes(attention_shape s)
{
    attention_bench b[QR_NUM_KV_DTYPES];
    bool open[QR_NUM_KV_DTYPES];
    double best[QR_NUM_KV_DTYPES], stop = qr_clock_seconds() + QR_NUM_KV_DTYPES * 2 * budget_seconds;
    for (int i = 0; i < QR_NUM_KV_DTYPES; i++) open[i] = attention_open(&b[i], s, (qr_kv_dtype)i), best[i] = 1e30;
    for (int run = 0; run < 4 || qr_clock_seconds() < stop; run++)
        for (int i = 0; i < QR_NUM_KV_DTYPES; i++) {
            double t = seconds();
            if (open[i]) run_attention(&b[i]);
            t = seconds() - t;
            if (run > 0 && t > 0 && t < best[i]) best[i] = t;
        }
    for (int i = 0; i < QR_NUM_KV_DTYPES; i++) {
        if (!open[i]) continue;
        attention_row(&b[i], s, best[i]);
        if (open[QR_KV_F16])
            printf("    tokens per second, float16 = 1              %9.2f\n", best[QR_KV_F16] / best[i]);
        attention_close(&b[i]);
    }
}

/* ---- attention of requests that begin with the same blocks */

/* CPU time of all threads, so that other load on the machine counts little. */
static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Requests whose tables agree in `shared` positions: blocks of its own for each request; the same blocks read by each
 * request; the same blocks read together. In turn. */
static void bench_shared_prefix(attention_shape s, int shared)
{
    enum { WAYS = 3, ROUNDS = 15 };
    static const char *const ways[WAYS] = {"blocks of its own", "same blocks", "same blocks, together"};
    attention_bench b;
    if (!attention_open(&b, s, QR_KV_F16)) return;
    int per_req = b.batch.max_blocks, num_blocks = per_req * s.num_reqs;
    size_t req_bytes = (size_t)s.num_reqs * sizeof(int32_t);
    int32_t *same = malloc((size_t)num_blocks * sizeof *same), *order = malloc(req_bytes), *blocks = malloc(req_bytes);
    for (int i = 0; i < num_blocks; i++) same[i] = b.table[i % per_req < shared / KV_BLOCK ? i % per_req : i];
    double best[WAYS] = {1e30, 1e30, 1e30}, find = 1e30;
    for (int i = 0; i < WAYS * ROUNDS; i++) {
        int way = i % WAYS;
        b.batch.block_table = way == 0 ? b.table : same;
        b.batch.prefix_order = way == 2 ? order : NULL;
        b.batch.prefix_blocks = way == 2 ? blocks : NULL;
        double t = cpu_seconds();
        if (way == 2) qr_batch_find_prefixes(&b.batch, KV_BLOCK, order, blocks);
        double found = cpu_seconds();
        run_attention(&b);
        double end = cpu_seconds();
        if (way == 2 && found - t < find) find = found - t;
        if (end - found < best[way]) best[way] = end - found;
    }
    printf("%s, %d shared, CPU time\n", b.name, shared);
    for (int way = 0; way < WAYS; way++)
        printf("    %-40s %9.1f x       %10.1f us\n", ways[way], best[0] / best[way], best[way] * 1e6);
    printf("    %-40s %9s         %10.1f us\n", "finding them, once for all layers", "", find * 1e6);
    attention_close(&b);
    free(same), free(order), free(blocks);
}

/* ---- small ops */

typedef struct small_bench {
    float *x, *y;
    int tokens;
    int64_t cols;
} small_bench;

static void run_norm(void *ctx)
{
    small_bench *b = ctx;
    be->ops->rms_norm(be, b->x, b->x, 1e-5f, b->tokens, b->cols, b->y);
}
static void run_gated(void *ctx)
{
    small_bench *b = ctx;
    be->ops->gated_act(be, b->x, QR_ACT_SILU, b->tokens, b->cols, b->y);
}
static void run_stats(void *ctx)
{
    small_bench *b = ctx;
    float max[256], sum[256];
    int32_t at[256];
    be->ops->row_stats(be, b->x, b->cols, b->tokens, b->cols, max, at, sum);
}

static void bench_small(const char *name, void (*run)(void *), int tokens, int64_t cols)
{
    char full[96];
    snprintf(full, sizeof full, "%s %d x %lld", name, tokens, (long long)cols);
    if (!strstr(full, only)) return;
    size_t n = (size_t)tokens * (size_t)cols * 2;
    small_bench b = {be->ops->buffer_alloc(be, n * 4), be->ops->buffer_alloc(be, n * 4), tokens, cols};
    for (size_t i = 0; i < n; i++) b.x[i] = (float)(next_random() % 100) / 50 - 1;
    double t = best_time(run, &b);
    row(full, (double)tokens * (double)cols / t * 1e-9, "Gvalue/s", t, 0);
    be->ops->buffer_free(be, b.x, n * 4);
    be->ops->buffer_free(be, b.y, n * 4);
}

int main(int argc, char **argv)
{
    quire_error error;
    if (argc > 2) only = argv[2];
    if (qr_cpu_backend_create(argc > 3 ? argv[3] : NULL, argc > 1 ? atoi(argv[1]) : 0, &be, &error) != QUIRE_OK ||
        be->ops->reserve(be, MAX_TOKENS, MAX_COLS, 16384, &error) != QUIRE_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    measure_peaks();
    printf("%s: peak %.0f int8 GOP/s, %.0f float32 GFLOP/s, %.1f GB/s read\n", be->ops->name, peak_int8, peak_float,
           peak_read);
    static const int some[] = {1, 8, 32, 512, 0}, few[] = {1, 32, 512, 0};
    static const qr_dtype all[] = {QR_Q4_1, QR_Q4_0, QR_Q8_0, QR_Q5_1, QR_Q4_K, QR_Q5_K,
                                   QR_Q6_K, QR_Q3_K, QR_Q2_K, QR_F16,  QR_BF16, QR_F32};
    bench_linear(QR_Q4_1, 960, 576, some); /* SmolLM2-135M */
    bench_linear(QR_Q4_1, 3072, 576, some);
    bench_linear(QR_Q4_1, 576, 1536, some);
    bench_linear(QR_Q4_1, 49152, 576, few);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bench_linear(all[i], 4096, 4096, some); /* Llama 3 8B */
    bench_linear(QR_Q4_1, 4096, 14336, few);
    bench_kv_dtypes((attention_shape){8, 1, 4096, 9, 3, 64});   /* SmolLM2-135M */
    bench_kv_dtypes((attention_shape){8, 1, 4096, 32, 8, 128}); /* Llama 3 8B */
    bench_attention((attention_shape){1, 1, 4096, 9, 3, 64}, QR_KV_F16);
    bench_attention((attention_shape){32, 1, 512, 9, 3, 64}, QR_KV_F16);
    bench_attention((attention_shape){1, 512, 512, 9, 3, 64}, QR_KV_F16);
    bench_attention((attention_shape){1, 512, 8192, 9, 3, 64}, QR_KV_F16);
    bench_attention((attention_shape){1, 512, 4096, 32, 8, 128}, QR_KV_F16);
    bench_kv_dtypes((attention_shape){1, 512, 512, 9, 3, 64});
    bench_shared_prefix((attention_shape){64, 1, 2112, 9, 3, 64}, 2048);
    bench_shared_prefix((attention_shape){64, 1, 2112, 32, 8, 128}, 2048);
    bench_shared_prefix((attention_shape){8, 1, 1280, 9, 3, 64}, 1024);
    bench_small("rms_norm", run_norm, 1, 576);
    bench_small("rms_norm", run_norm, 512, 576);
    bench_small("gated_act", run_gated, 1, 1536);
    bench_small("gated_act", run_gated, 512, 1536);
    bench_small("row_stats", run_stats, 1, 49152);
    bench_small("row_stats", run_stats, 32, 49152);
    be->ops->destroy(be);
    return 0;
}
