/* base: statuses, memory with fault injection, buffers, the worker pool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_text_and_overlong_message),
        cmocka_unit_test(allocations_fail_on_demand),
        cmocka_unit_test(pool_runs_each_tile_once),
        cmocka_unit_test(pool_create_survives_failed_allocations),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
