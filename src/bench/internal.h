/* internal: what the kernel benchmarks share.
 *
 *   kernels.c  the list of shapes, timing, rows     limits.c  the machine's limits
 *   linear.c   matrix products      attention.c      row_ops.c  the rest */
#ifndef QR_BENCH_INTERNAL_H
#define QR_BENCH_INTERNAL_H

#include "backend/backend.h"
#include "bench/kernels.h"

enum { QR_BENCH_MAX_TOKENS = 512, QR_BENCH_MAX_NAME = 128 };

typedef struct qr_bench {
    const qr_kernel_options *options;
    qr_backend *be;
    qr_kernel_limits limits;
    uint64_t random;
    bool stopped;
} qr_bench;

/* A model's sizes. */
typedef struct qr_bench_model {
    const char *name;
    int hidden_size, intermediate_size, vocab_size, num_heads, num_kv_heads, head_size;
} qr_bench_model;

/* ---- kernels.c */

/* Should it be measured? */
bool qr_bench_wants(const qr_bench *bench, const char *name);
/* Wall time; with one thread the processor time of the process. */
double qr_bench_seconds(const qr_bench *bench);
/* Seconds of the fastest run. */
double qr_bench_time(qr_bench *bench, void (*run)(void *ctx), void *ctx);
/* limit 0: none applies. */
void qr_bench_row(qr_bench *bench, const char *name, double value, const char *unit, double seconds, double limit);
/* Bytes that are small numbers in every format. */
void qr_bench_fill_bytes(qr_bench *bench, void *data, size_t bytes);
/* A buffer of the backend's with values in [-1, 1); NULL on failure. */
float *qr_bench_alloc_values(qr_bench *bench, size_t count);
void qr_bench_free_values(qr_bench *bench, float *values, size_t count);

/* ---- the measurements: OK, or NOMEM */

QUIRE_MUST_USE quire_status qr_bench_limits(qr_bench *bench, quire_error *error);
/* A matrix [rows, cols] times num_tokens[] (ends with 0). */
QUIRE_MUST_USE quire_status qr_bench_linear(qr_bench *bench, const qr_bench_model *model, const char *what,
                                            qr_dtype dtype, int64_t rows, int64_t cols, const int *num_tokens,
                                            quire_error *error);
/* num_reqs requests with new_tokens each at the end of a context; from all types of KV cache in turn or float16's. */
QUIRE_MUST_USE quire_status qr_bench_attention(qr_bench *bench, const qr_bench_model *model, int num_reqs,
                                               int new_tokens, int context, bool all_dtypes, quire_error *error);
/* Requests that begin with the same `shared` tokens: blocks of its own for each, the same blocks read by each, the same
 * blocks read together, in turn. */
QUIRE_MUST_USE quire_status qr_bench_shared_prefix(qr_bench *bench, const qr_bench_model *model, int num_reqs,
                                                   int context, int shared, quire_error *error);
/* Norms, activation, RoPE with KV write of num_tokens; statistics of num_tokens rows of logits, at most 64. */
QUIRE_MUST_USE quire_status qr_bench_row_ops(qr_bench *bench, const qr_bench_model *model, int num_tokens,
                                             quire_error *error);

#endif
