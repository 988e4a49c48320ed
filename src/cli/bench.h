/* bench: what the three benchmarks share: the workload and the arithmetic of its results.
 *
 * Threads: one at a time. Source of field names and definitions: vLLM, vllm/benchmarks (serve, throughput, latency). */
#ifndef QR_CLI_BENCH_H
#define QR_CLI_BENCH_H

#include <jansson.h>

#include "base/random.h"
#include "cli/cli.h"

/* One prompt: ids, or text (custom). */
typedef struct qr_bench_prompt {
    int32_t *ids;
    int num_ids;
    char *text;
    int output_len;
} qr_bench_prompt;

typedef struct qr_bench_workload {
    qr_bench_prompt *prompts; /* [count] */
    int count;
} qr_bench_workload;

/* The workload that the options describe. Lengths that exceed max_total tokens together are left out of a CSV's;
 * max_total 0: no limit. On failure *out is empty. */
QUIRE_MUST_USE quire_status qr_bench_workload_init(const qr_cli_bench_args *args, int max_total, qr_bench_workload *out,
                                                   quire_error *error);
void qr_bench_workload_deinit(qr_bench_workload *workload);

/* count copies of a random prompt's shape: num_ids random ids each. */
QUIRE_MUST_USE quire_status qr_bench_random_prompts(int count, int num_ids, int output_len, uint64_t seed,
                                                    qr_bench_workload *out, quire_error *error);

/* As numpy: mean, population standard deviation, linear interpolation between closest ranks. Of nothing: 0. */
double qr_bench_mean(const double *values, size_t count);
double qr_bench_std(const double *values, size_t count);
double qr_bench_percentile(const double *sorted, size_t count, double percent);
void qr_bench_sort(double *values, size_t count);

/* Print `result` on standard output when `print`, and write it to `path` unless NULL. Takes `result`. */
int qr_bench_emit(json_t *result, bool print, const char *path);

#endif
