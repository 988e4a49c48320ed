#include <string.h>

#include "bench/internal.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { ROUNDS = 50000, CHAINS = 12, READ_BYTES = 256 << 20, READ_TILE = 1 << 20 };

typedef struct limits_job {
    qr_pool *pool;
    qr_pool_fn compute;
    bool int8;           /* dot products, else fused multiply-adds */
    const uint8_t *data; /* [READ_BYTES] */
    int num_streams;
} limits_job;

static volatile float sink; /* so that nothing measured is left out */

/* ---- CHAINS independent chains of one instruction; a compiler that sees no change must not leave them out ------- */

#if defined(__x86_64__)
#define KEEP(v) __asm__ volatile("" : "+x"(v))
__attribute__((target("avx512f,avx512bw,avx512vnni"))) static void compute_avx512(void *ctx, int tile, int thread)
{
    (void)tile, (void)thread;
    __m512 f[CHAINS];
    __m512i n[CHAINS];
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) f[i] = _mm512_set1_ps(0.1f), n[i] = _mm512_setzero_si512();
    __m512 m = _mm512_set1_ps(0.999f);
    __m512i a = _mm512_set1_epi8(3), ones = _mm512_set1_epi16(1);
    if (!((const limits_job *)ctx)->int8) {
        for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) {
                f[i] = _mm512_fmadd_ps(f[i], m, m);
                KEEP(f[i]);
            }
    } else if (__builtin_cpu_supports("avx512vnni")) {
        for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) {
                n[i] = _mm512_dpbusd_epi32(n[i], a, a);
                KEEP(n[i]);
            }
    } else {
        for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) {
                KEEP(a); /* else the product leaves the loop */
                n[i] = _mm512_add_epi32(n[i], _mm512_madd_epi16(_mm512_maddubs_epi16(a, a), ones));
                KEEP(n[i]);
            }
    }
    sink = _mm512_reduce_add_ps(f[0]) + (float)_mm512_reduce_add_epi32(n[0]);
}

__attribute__((target("avx2,fma"))) static void compute_avx2(void *ctx, int tile, int thread)
{
    (void)tile, (void)thread;
    __m256 f[CHAINS];
    __m256i n[CHAINS];
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) f[i] = _mm256_set1_ps(0.1f), n[i] = _mm256_setzero_si256();
    __m256 m = _mm256_set1_ps(0.999f);
    __m256i a = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    if (!((const limits_job *)ctx)->int8) {
        for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) {
                f[i] = _mm256_fmadd_ps(f[i], m, m);
                KEEP(f[i]);
            }
    } else {
        for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) {
                KEEP(a); /* else the product leaves the loop */
                __m256i p = _mm256_maddubs_epi16(a, a);
                n[i] = _mm256_add_epi32(n[i], _mm256_madd_epi16(p, ones));
                KEEP(n[i]);
            }
    }
    sink = _mm256_cvtss_f32(f[0]) + (float)_mm256_extract_epi32(n[0], 0);
}

static qr_pool_fn compute_fn(const char *backend_name, int *out_floats)
{
    if (strstr(backend_name, "avx512")) return *out_floats = 16, compute_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return *out_floats = 8, compute_avx2;
    return NULL;
}
#elif defined(__aarch64__)
#define KEEP(v) __asm__ volatile("" : "+w"(v))
__attribute__((target("arch=armv8.2-a+dotprod"))) static void compute_neon(void *ctx, int tile, int thread)
{
    (void)tile, (void)thread;
    float32x4_t f[CHAINS], m = vdupq_n_f32(0.999f);
    int32x4_t n[CHAINS];
    int8x16_t a = vdupq_n_s8(3);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) f[i] = vdupq_n_f32(0.1f), n[i] = vdupq_n_s32(0);
    if (!((const limits_job *)ctx)->int8) {
        for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) {
                f[i] = vfmaq_f32(m, f[i], m);
                KEEP(f[i]);
            }
    } else {
        for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) {
                n[i] = vdotq_s32(n[i], a, a);
                KEEP(n[i]);
            }
    }
    sink = vaddvq_f32(f[0]) + (float)vaddvq_s32(n[0]);
}

static qr_pool_fn compute_fn(const char *backend_name, int *out_floats)
{
    return strstr(backend_name, "neon") ? (*out_floats = 4, compute_neon) : NULL;
}
#else
static qr_pool_fn compute_fn(const char *backend_name, int *out_floats)
{
    (void)backend_name, (void)out_floats;
    return NULL;
}
#endif

/* ---- reading ------------------------------------------------------------------------------------------------- */

typedef uint64_t block __attribute__((vector_size(16)));

/* A tile as one stream from its start, or as two, from its start and its middle. */
static void read_tile(void *ctx, int tile, int thread)
{
    const limits_job *job = ctx;
    const block *p = (const block *)(const void *)(job->data + (size_t)tile * READ_TILE);
    const int stream = READ_TILE / (int)sizeof *p / job->num_streams;
    block x[8] = {{0}};
    for (int i = 0; i < stream; i += 8)
        for (int s = 0; s < job->num_streams; s++)
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) x[j] ^= p[s * stream + i + j];
    x[0] ^= x[1] ^ x[2] ^ x[3] ^ x[4] ^ x[5] ^ x[6] ^ x[7];
    sink = (float)x[0][0];
    (void)thread;
}

/* ---- all ----------------------------------------------------------------------------------------------------- */

static void run_compute(void *ctx)
{
    limits_job *job = ctx;
    qr_pool_run(job->pool, job->compute, job, 4 * qr_pool_num_threads(job->pool));
}

static void run_read(void *ctx)
{
    limits_job *job = ctx;
    qr_pool_run(job->pool, read_tile, job, READ_BYTES / READ_TILE);
}

/* With the widest registers that the backend uses. */
quire_status qr_bench_limits(qr_bench *bench, quire_error *error)
{
    qr_backend *be = bench->be;
    int floats = 0;
    limits_job job = {.pool = be->pool, .compute = compute_fn(be->ops->name, &floats)};
    const double lanes = (double)CHAINS * ROUNDS * 4 * qr_pool_num_threads(be->pool) * floats;
    if (job.compute) {
        bench->limits.float32_gflops = 2 * lanes / qr_bench_time(bench, run_compute, &job) * 1e-9;
        job.int8 = true;
        bench->limits.int8_gops = 8 * lanes / qr_bench_time(bench, run_compute, &job) * 1e-9;
    }
    uint8_t *data = be->ops->buffer_alloc(be, READ_BYTES, true);
    if (!data) return qr_fail_nomem(error, "what is read", READ_BYTES);
    memset(data, 1, READ_BYTES);
    job.data = data;
    for (job.num_streams = 1; job.num_streams <= 2; job.num_streams++) { /* which is faster depends on the processor */
        double gbs = READ_BYTES / qr_bench_time(bench, run_read, &job) * 1e-9;
        if (gbs > bench->limits.read_gbs) bench->limits.read_gbs = gbs;
    }
    be->ops->buffer_free(be, data, READ_BYTES);
    return QUIRE_OK;
}
