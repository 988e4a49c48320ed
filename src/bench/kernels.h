/* kernels: speed of the CPU backend's ops beside what this machine can do at most, measured in the same way.
 *
 *   limits: loops of nothing but fused multiply-adds, int8 dot products, reads     on all threads
 *   ops:    at the shapes of SmolLM2-135M, Llama 3 8B and Qwen3-0.6B, random weights
 *
 * Every figure is the best of many short runs, so that other load on the machine spoils few of them; with one thread
 * the clock is processor time, and other load does not count at all.
 * Threads: one caller at a time. */
#ifndef QR_BENCH_KERNELS_H
#define QR_BENCH_KERNELS_H

#include "base/status.h"

/* Of all threads together. Arithmetic is 0 where it is not measured: by the scalar kernels
 * on a processor without AVX2 or NEON's dot product. */
typedef struct qr_kernel_limits {
    const char *device; /* "cpu (avx512, 2 threads)" */
    double int8_gops, float32_gflops, read_gbs;
} qr_kernel_limits;

typedef struct qr_kernel_row {
    const char *name; /* "Llama 3 8B: linear qkv Q4_1 6144x4096 M=32" */
    double value;
    const char *unit;       /* "GOP/s" (int8), "GFLOP/s", "GB/s", or "x" (times the first of a comparison) */
    double seconds;         /* of one run */
    double percent_of_peak; /* of the limit with that unit; NaN: none applies */
} qr_kernel_row;

typedef struct qr_kernel_options {
    int threads;        /* 0: the physical cores this process may use */
    const char *isa;    /* NULL: the best the processor has; "ref", "avx2", "avx512bw", "avx512", "neon" */
    const char *filter; /* only rows whose name contains it; NULL: all */
    /* Called from within, first the limits, then a row at a time; return false to stop. */
    bool (*on_limits)(void *user, const qr_kernel_limits *limits);
    bool (*on_row)(void *user, const qr_kernel_row *row);
    void *user;
} qr_kernel_options;

/* OK | ABORTED (a callback said so) | UNSUPPORTED (the processor lacks the instruction set) | NOMEM */
QUIRE_MUST_USE quire_status qr_kernels_measure(const qr_kernel_options *options, quire_error *error);

#endif
