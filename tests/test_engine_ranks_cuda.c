/* ranks on CUDA devices, run by the shim with a NCCL of its own (tests/cuda_shim/nccl.c): the sums and logits of the
 * backend, and tiny models on two and three devices give the bytes of as many ranks on the CPU. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend_sets.h"
#include "fake_ranks.h"

/* ---- the backend ---------------------------------------------------------------------------------- */

enum { RANKS = 3, MANY = (1 << 22) + 1001, ROWS = 3, WIDE = 3000000 };

/* Values whose sum depends on the order. */
static float addend(int rank, size_t i) { return rank == 0 ? 1e8f : rank == 1 ? -1e8f : (float)(i % 1000) * 0.37f; }

typedef struct device_rank {
    qr_comm *comm;
    size_t num_wrong;
} device_rank;

static void sum_is_right(device_rank *d, qr_backend *be, float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) x[i] = addend(d->comm->rank, i);
    be->ops->ranks_sum(be, x, count);
    for (size_t i = 0; i < count; i++) d->num_wrong += x[i] != (addend(0, i) + addend(1, i)) + addend(2, i);
}

/* Rank r has cols[r] columns; one of them may have more than a piece's worth. */
static void rows_are_gathered(device_rank *d, qr_backend *be, float *x, const int64_t *cols)
{
    const int64_t ld = d->comm->rank == 0 ? cols[0] + cols[1] + cols[2] : cols[d->comm->rank];
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t j = 0; j < cols[d->comm->rank]; j++)
            x[i * ld + j] = (float)(d->comm->rank * 1000 + i * 100 + j % 100);
    be->ops->ranks_gather(be, x, ROWS, ld, cols);
    for (int64_t i = 0; d->comm->rank == 0 && i < ROWS; i++)
        for (int64_t r = 0, j = 0; r < RANKS; j += cols[r++])
            for (int64_t k = 0; k < cols[r]; k++)
                d->num_wrong += x[i * ld + j + k] != (float)(r * 1000 + i * 100 + k % 100);
}

static void *use_device(void *raw)
{
    device_rank *d = raw;
    quire_error error;
    qr_backend *be;
    if (qr_cuda_backend_create(NULL, d->comm->local_rank, 1, false, &be, &error) != QUIRE_OK) abort();
    if (be->ops->ranks_join(be, d->comm, WIDE, &error) != QUIRE_OK) abort();
    const size_t bytes = (size_t)ROWS * (WIDE + 8) * sizeof(float);
    float *x = be->ops->buffer_alloc(be, bytes, false);
    static const size_t counts[] = {1, 2, 31, 5000, (1 << 21) / RANKS, (1 << 21) / RANKS + 1, MANY};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) sum_is_right(d, be, x, counts[i]);
    rows_are_gathered(d, be, x, (const int64_t[RANKS]){3, 2, 1});
    rows_are_gathered(d, be, x, (const int64_t[RANKS]){4, WIDE, 2}); /* a row at a time */
    be->ops->buffer_free(be, x, bytes);
    be->ops->destroy(be);
    return NULL;
}

static void sums_and_rows_of_three_devices(void **state)
{
    (void)state;
    fake_group *g = fake_group_create(RANKS);
    device_rank ranks[RANKS];
    for (int r = 0; r < RANKS; r++) ranks[r] = (device_rank){.comm = &g->comms[r].base};
    for (int r = 1; r < RANKS; r++) pthread_create(&g->threads[r], NULL, use_device, &ranks[r]);
    use_device(&ranks[0]);
    g->comms[0].base.destroy(&g->comms[0].base);
    for (int r = 0; r < RANKS; r++) assert_int_equal(ranks[r].num_wrong, 0);
}

static quire_status joined[RANKS];
static quire_error joined_error[RANKS];

static void *join_without_memory(void *raw)
{
    qr_comm *comm = raw;
    qr_backend *be;
    const int r = comm->rank;
    if (qr_cuda_backend_create(NULL, r, 1, false, &be, &joined_error[r]) != QUIRE_OK) abort();
    joined[r] = be->ops->ranks_join(be, comm, r == 1 ? (int64_t)1 << 58 : 1, &joined_error[r]);
    be->ops->destroy(be);
    return NULL;
}

/* What one rank lacks is everybody's failure, and nobody waits for it in NCCL. */
static void memory_of_one_device(void **state)
{
    (void)state;
    fake_group *g = fake_group_create(RANKS);
    for (int r = 1; r < RANKS; r++) pthread_create(&g->threads[r], NULL, join_without_memory, &g->comms[r].base);
    join_without_memory(&g->comms[0].base);
    g->comms[0].base.destroy(&g->comms[0].base);
    for (int r = 0; r < RANKS; r++) assert_int_equal(joined[r], QUIRE_NOMEM);
    assert_non_null(strstr(joined_error[0].message, "rank 1: "));
}

/* ---- models --------------------------------------------------------------------------------------- */

enum { VOCAB = 384, NUM_IDS = 24 };

static quire_status open_ranks(int size, const char *path, const char *device, const char *compute, quire_model **out,
                               quire_error *error)
{
    quire_model_options options;
    quire_model_options_init(&options);
    options.threads = 1;
    options.device = device;
    options.compute_dtype = compute;
    *out = NULL;
    return fake_ranks_open(size, path, &options, out, error);
}

static void logits_on(int size, const char *path, const char *device, const char *compute, float *out)
{
    quire_model *model;
    quire_model_info info;
    quire_error error = {0};
    int32_t ids[NUM_IDS];
    for (int i = 0; i < NUM_IDS; i++) ids[i] = 7 * i % 300 + 3;
    if (open_ranks(size, path, device, compute, &model, &error) != QUIRE_OK) fail_msg("%s: %s", path, error.message);
    quire_model_get_info(model, &info);
    assert_int_equal(strncmp(info.device, "cuda:0", 6) == 0, strcmp(device, "cpu") != 0);
    assert_int_equal(info.tensor_parallel_size, size);
    if (quire_model_logits(model, ids, NUM_IDS, out, &error) != QUIRE_OK) fail_msg("%s: %s", path, error.message);
    quire_model_close(model);
    for (int r = 1; r < size; r++) assert_int_equal(fake_ranks_status[r], QUIRE_RANK_ENDED);
}

static void devices_give_the_bytes_of_the_cpu(void **state)
{
    (void)state;
    static const struct {
        const char *path, *device, *compute;
        int size;
    } cases[] = {{"tests/golden/tiny/llama", "cuda", "float32", 2},
                 {"tests/golden/tiny/qwen2", "auto", "auto", 2},
                 {"tests/golden/tiny_gguf/gpt2.gguf", "cuda", "float32", 3}}; /* four heads: 2 + 1 + 1 */
    static float cpu[NUM_IDS * VOCAB], cuda[NUM_IDS * VOCAB];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        logits_on(cases[i].size, cases[i].path, "cpu", cases[i].compute, cpu);
        logits_on(cases[i].size, cases[i].path, cases[i].device, cases[i].compute, cuda);
        assert_memory_equal(cpu, cuda, sizeof cpu);
    }
}

/* ---- failures -------------------------------------------------------------------------------------- */

static void assert_refused(int size, const char *device, quire_status expected, const char *part)
{
    quire_model *model;
    quire_error error;
    assert_int_equal(open_ranks(size, "tests/golden/tiny/gpt2", device, "auto", &model, &error), expected);
    if (!strstr(error.message, part)) fail_msg("%s on %d: %s", device, size, error.message);
    for (int r = 1; r < size; r++) assert_int_equal(fake_ranks_status[r], expected);
}

static void what_is_refused(void **state)
{
    (void)state;
    assert_refused(2, "cuda:0", QUIRE_INVALID, "2 ranks take one each");
    assert_refused(4, "cuda", QUIRE_DEVICE, "rank 3: cuda:3: there are 3 CUDA devices");
    quire_model *model;
    quire_model_info info;
    quire_error error;
    assert_int_equal(open_ranks(4, "tests/golden/tiny/gpt2", "auto", "auto", &model, &error), QUIRE_OK);
    quire_model_get_info(model, &info);
    assert_int_equal(strncmp(info.device, "cpu (", 5), 0); /* all on the CPU, where one has no device */
    quire_model_close(model);
}

int main(void)
{
    use_cuda_shim();
    if (!use_shim_ranks("3")) return 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_and_rows_of_three_devices),
        cmocka_unit_test(devices_give_the_bytes_of_the_cpu),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(memory_of_one_device),
    };
    return cmocka_run_group_tests_name("engine ranks cuda", tests, NULL, NULL);
}
