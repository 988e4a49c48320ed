/* base: statuses, memory with fault injection, buffers, the worker pool. */
#define _GNU_SOURCE
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/pool.h"
#include "base/status.h"

static void status_text_and_overlong_message(void **state)
{
    (void)state;
    quire_error error;
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    assert_int_equal(qr_fail(&error, QUIRE_FORMAT, "%s", big), QUIRE_FORMAT);
    assert_string_equal(error.message + strlen(error.message) - 3, "...");
    assert_int_equal(qr_fail_param(&error, "top_p", "top_p must be in (0, 1]"), QUIRE_INVALID);
    assert_string_equal(error.param, "top_p");
    assert_int_equal(qr_fail(NULL, QUIRE_IO, "no error wanted"), QUIRE_IO);
    assert_string_equal(quire_status_text(QUIRE_QUEUE_FULL), "request queue is full");
}

static void allocations_fail_on_demand(void **state)
{
    (void)state;
    qr_mem_fail_after(1);
    void *first = qr_malloc(8);
    void *second = qr_malloc(8);
    qr_mem_fail_off();
    assert_non_null(first);
    assert_null(second);
    qr_free(first);

    qr_buf buf = {0};
    assert_int_equal(qr_buf_append(&buf, "ab", 2), 0);
    assert_int_equal(qr_buf_printf(&buf, "%d", 42), 0);
    assert_string_equal(buf.data, "ab42");
    qr_mem_fail_after(0);
    assert_int_equal(qr_buf_reserve(&buf, 1000), -1);
    qr_mem_fail_off();
    assert_string_equal(buf.data, "ab42");
    assert_int_equal(qr_buf_reserve(&buf, SIZE_MAX - 2), -1);
    qr_free(buf.data);
}

enum { NUM_TILES = 1000 };
typedef struct tile_ctx {
    atomic_int hits[NUM_TILES];
    int num_threads;
    atomic_int bad;
} tile_ctx;

static void hit(void *raw, int tile_idx, int thread_idx)
{
    tile_ctx *ctx = raw;
    atomic_fetch_add(&ctx->hits[tile_idx], 1);
    if (thread_idx < 0 || thread_idx >= ctx->num_threads) atomic_store(&ctx->bad, 1);
}

static void pool_runs_each_tile_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 5; threads++) {
        qr_pool *pool;
        assert_int_equal(qr_pool_create(threads, &pool, NULL), QUIRE_OK);
        static tile_ctx ctx;
        memset(&ctx, 0, sizeof ctx);
        ctx.num_threads = threads;
        for (int round = 0; round < 200; round++) qr_pool_run(pool, hit, &ctx, round % NUM_TILES + 1);
        for (int i = 0; i < 200; i++) assert_int_equal(atomic_load(&ctx.hits[i]), 200 - i);
        assert_int_equal(atomic_load(&ctx.bad), 0);
        qr_pool_destroy(pool);
    }
}

static void pool_create_survives_failed_allocations(void **state)
{
    (void)state;
    for (uint64_t n = 0; n < 4; n++) {
        qr_pool *pool = NULL;
        quire_error error;
        qr_mem_fail_after(n);
        quire_status status = qr_pool_create(3, &pool, &error);
        qr_mem_fail_off();
        assert_int_equal(status, n < 4 ? QUIRE_NOMEM : QUIRE_OK);
    }
    assert_true(qr_cpu_count() >= 1);
    assert_true(qr_memory_available_bytes() > 0);
    assert_true(qr_memory_total_bytes() >= qr_memory_available_bytes());
}

static void put(const char *root, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void threads_stay_within_affinity_and_quota(void **state)
{
    (void)state;
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &before)) cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(qr_cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);

    char root[] = "/tmp/quire-cgroup-XXXXXX", self[256], dir[256];
    assert_non_null(mkdtemp(root));
    snprintf(self, sizeof self, "%s/self", root);
    snprintf(dir, sizeof dir, "%s/a.slice", root);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(qr_cgroup_cpu_limit(self, root), 512); /* no such file */
    put(root, "self", "3:cpu:/elsewhere\n0::/a.slice\n");
    assert_int_equal(qr_cgroup_cpu_limit(self, root), 512);
    put(root, "a.slice/cpu.max", "max 100000\n");
    assert_int_equal(qr_cgroup_cpu_limit(self, root), 512);
    put(root, "cpu.max", "300000 100000\n"); /* of the group above, as a container sees its own */
    assert_int_equal(qr_cgroup_cpu_limit(self, root), 3);
    put(root, "a.slice/cpu.max", "150000 100000\n");
    assert_int_equal(qr_cgroup_cpu_limit(self, root), 2);
    put(root, "self", "0::/\n");
    assert_int_equal(qr_cgroup_cpu_limit(self, root), 3);
    put(root, "cpu.max", "1000 100000\n");
    assert_int_equal(qr_cgroup_cpu_limit(self, root), 1);

    static const char *const files[] = {"self", "cpu.max", "a.slice/cpu.max"};
    for (int i = 0; i < 3; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", root, files[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(rmdir(root), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_text_and_overlong_message),
        cmocka_unit_test(allocations_fail_on_demand),
        cmocka_unit_test(pool_runs_each_tile_once),
        cmocka_unit_test(pool_create_survives_failed_allocations),
        cmocka_unit_test(threads_stay_within_affinity_and_quota),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
