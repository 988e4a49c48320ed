/* Block pool and block tables, case by case. test_kv_model.c covers their interplay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kv/block_table.h"

static qr_block_pool *pool_of(int64_t num_blocks, int block_size)
{
    qr_block_pool *pool;
    assert_int_equal(qr_block_pool_create(num_blocks, block_size, true, &pool, NULL), QUIRE_OK);
    return pool;
}

static void check(const qr_block_pool *pool)
{
    quire_error error;
    if (qr_block_pool_check(pool, NULL, &error) != QUIRE_OK) fail_msg("%s", error.message);
}

static void create_refuses_bad_sizes(void **state)
{
    (void)state;
    qr_block_pool *pool = NULL;
    quire_error error;
    assert_int_equal(qr_block_pool_create(0, 16, true, &pool, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "num_kv_blocks");
    assert_int_equal(qr_block_pool_create((int64_t)INT32_MAX + 1, 16, true, &pool, &error), QUIRE_INVALID);
    assert_int_equal(qr_block_pool_create(10, 0, true, &pool, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "block_size");
    assert_int_equal(qr_block_pool_create(10, QR_MAX_BLOCK_SIZE + 1, true, &pool, &error), QUIRE_INVALID);
    assert_null(pool);
}

static void create_survives_failing_allocations(void **state)
{
    (void)state;
    for (uint64_t n = 0;; n++) {
        qr_block_pool *pool = NULL;
        quire_error error;
        qr_mem_fail_after(n);
        const quire_status status = qr_block_pool_create(100, 16, true, &pool, &error);
        qr_mem_fail_off();
        if (status == QUIRE_OK) {
            assert_int_equal(n, 5);
            qr_block_pool_destroy(pool);
            return;
        }
        assert_int_equal(status, QUIRE_NOMEM);
        assert_null(pool);
    }
}

static void alloc_is_all_or_nothing(void **state)
{
    (void)state;
    qr_block_pool *pool = pool_of(5, 4);
    int32_t ids[6] = {-7, -7, -7, -7, -7, -7};
    assert_int_equal(qr_block_pool_alloc(pool, 6, ids), QUIRE_NO_BLOCKS);
    assert_int_equal(ids[0], -7);
    assert_int_equal(qr_block_pool_num_free(pool), 5);
    assert_int_equal(qr_block_pool_alloc(pool, 5, ids), QUIRE_OK);
    assert_int_equal(qr_block_pool_alloc(pool, 1, &ids[5]), QUIRE_NO_BLOCKS);
    assert_int_equal(qr_block_pool_alloc(pool, 0, NULL), QUIRE_OK);
    for (int i = 0; i < 5; i++) assert_int_equal(ids[i], i);
    check(pool);
    qr_block_pool_free(pool, ids, 5);
    assert_int_equal(qr_block_pool_num_free(pool), 5);
    check(pool);
    qr_block_pool_destroy(pool);
}

/* Three blocks of the chain 1 1 | 2 2 | 3 3. */
static void cache_chain(qr_block_pool *pool, const int32_t ids[3])
{
    const int32_t tokens[] = {1, 1, 2, 2, 3, 3};
    for (int i = 0; i < 3; i++) qr_block_pool_cache(pool, ids[i], i > 0 ? ids[i - 1] : QR_NO_BLOCK, &tokens[2 * i], 0);
}

static void free_order(void **state)
{
    (void)state;
    qr_block_pool *pool = pool_of(5, 2);
    int32_t ids[5], again[5];
    assert_int_equal(qr_block_pool_alloc(pool, 5, ids), QUIRE_OK);
    cache_chain(pool, ids);
    qr_block_pool_free(pool, ids, 5);
    /* Blocks with nothing in them first, then the sequence's tail, its head last. */
    assert_int_equal(qr_block_pool_alloc(pool, 5, again), QUIRE_OK);
    assert_int_equal(again[2], ids[2]);
    assert_int_equal(again[3], ids[1]);
    assert_int_equal(again[4], ids[0]);
    assert_int_equal(qr_block_pool_num_cached(pool), 0);
    check(pool);
    qr_block_pool_destroy(pool);
}

static void a_hit_saves_a_block_from_eviction(void **state)
{
    (void)state;
    qr_block_pool *pool = pool_of(4, 2);
    int32_t ids[3], taken[3];
    assert_int_equal(qr_block_pool_alloc(pool, 3, ids), QUIRE_OK);
    cache_chain(pool, ids);
    qr_block_pool_free(pool, ids, 3);
    const int32_t first[] = {1, 1}, second[] = {2, 2};
    const int32_t hit = qr_block_pool_lookup(pool, QR_NO_BLOCK, first, 0);
    assert_int_equal(hit, ids[0]);
    qr_block_pool_touch(pool, &hit, 1);
    assert_int_equal(qr_block_pool_num_free(pool), 3);
    assert_int_equal(qr_block_pool_alloc(pool, 3, taken), QUIRE_OK);
    assert_int_equal(qr_block_pool_lookup(pool, QR_NO_BLOCK, first, 0), hit);
    assert_int_equal(qr_block_pool_lookup(pool, hit, second, 0), QR_NO_BLOCK);
    check(pool);
    qr_block_pool_destroy(pool);
}

static void content_is_compared_not_believed(void **state)
{
    (void)state;
    qr_block_pool *pool = pool_of(8, 2);
    qr_block_pool_mask_hashes(pool, 0); /* every hash is 0 */
    int32_t ids[3], other[2];
    assert_int_equal(qr_block_pool_alloc(pool, 3, ids), QUIRE_OK);
    cache_chain(pool, ids);
    const int32_t first[] = {1, 1}, second[] = {2, 2}, third[] = {3, 3}, unknown[] = {1, 2};
    assert_int_equal(qr_block_pool_lookup(pool, QR_NO_BLOCK, first, 0), ids[0]);
    assert_int_equal(qr_block_pool_lookup(pool, QR_NO_BLOCK, unknown, 0), QR_NO_BLOCK);
    assert_int_equal(qr_block_pool_lookup(pool, QR_NO_BLOCK, first, 9), QR_NO_BLOCK);  /* other extra key */
    assert_int_equal(qr_block_pool_lookup(pool, QR_NO_BLOCK, second, 0), QR_NO_BLOCK); /* not a first block */
    assert_int_equal(qr_block_pool_lookup(pool, ids[0], second, 0), ids[1]);
    assert_int_equal(qr_block_pool_lookup(pool, ids[0], third, 0), QR_NO_BLOCK); /* other parent */

    /* The same content twice: the children of one are found below the other. */
    assert_int_equal(qr_block_pool_alloc(pool, 2, other), QUIRE_OK);
    qr_block_pool_cache(pool, other[0], QR_NO_BLOCK, first, 0);
    assert_int_equal(qr_block_pool_lookup(pool, other[0], second, 0), ids[1]);
    /* The same tokens below another parent are another content. */
    qr_block_pool_cache(pool, other[1], QR_NO_BLOCK, second, 0);
    assert_int_equal(qr_block_pool_lookup(pool, other[1], third, 0), QR_NO_BLOCK);
    check(pool);
    qr_block_pool_destroy(pool);
}

static void reset_forgets_what_nobody_holds(void **state)
{
    (void)state;
    qr_block_pool *pool = pool_of(8, 2);
    int32_t ids[3];
    assert_int_equal(qr_block_pool_alloc(pool, 3, ids), QUIRE_OK);
    cache_chain(pool, ids);
    qr_block_pool_free(pool, ids + 1, 2);
    qr_block_pool_reset_cache(pool);
    const int32_t first[] = {1, 1}, second[] = {2, 2};
    assert_int_equal(qr_block_pool_lookup(pool, QR_NO_BLOCK, first, 0), ids[0]);
    assert_int_equal(qr_block_pool_lookup(pool, ids[0], second, 0), QR_NO_BLOCK);
    assert_int_equal(qr_block_pool_num_cached(pool), 1);
    check(pool);
    qr_block_pool_destroy(pool);
}

static void without_caching_nothing_is_found(void **state)
{
    (void)state;
    qr_block_pool *pool;
    assert_int_equal(qr_block_pool_create(8, 2, false, &pool, NULL), QUIRE_OK);
    int32_t ids[3];
    assert_int_equal(qr_block_pool_alloc(pool, 3, ids), QUIRE_OK);
    cache_chain(pool, ids);
    const int32_t first[] = {1, 1};
    assert_int_equal(qr_block_pool_lookup(pool, QR_NO_BLOCK, first, 0), QR_NO_BLOCK);
    assert_int_equal(qr_block_pool_num_cached(pool), 0);
    check(pool);
    qr_block_pool_destroy(pool);
}

/* ---- tables ------------------------------------------------------------------------------------ */

static void append(qr_block_table *table, qr_block_pool *pool, int32_t num_tokens, qr_block_copy *copy, bool *copied)
{
    assert_int_equal(qr_block_table_append(table, pool, num_tokens, copy, copied), QUIRE_OK);
}

/* A pool of blocks of 4 and two empty tables for it. */
static qr_block_pool *pool_and_tables(int64_t num_blocks, qr_block_table *a, qr_block_table *b)
{
    static int32_t ids[2][5];
    qr_block_table_init(a, ids[0], 5);
    qr_block_table_init(b, ids[1], 5);
    return pool_of(num_blocks, 4);
}

static void copy_on_write_and_last_owner(void **state)
{
    (void)state;
    qr_block_pool *pool = pool_of(10, 4);
    int32_t ids[3][5];
    qr_block_table tables[3];
    for (int i = 0; i < 3; i++) qr_block_table_init(&tables[i], ids[i], 5);
    qr_block_copy copy;
    bool copied;
    append(&tables[0], pool, 6, &copy, &copied); /* blocks 0 and 1, the second half full */
    assert_false(copied);
    qr_block_table_fork(&tables[0], &tables[1], pool);
    qr_block_table_fork(&tables[0], &tables[2], pool);
    assert_int_equal(qr_block_pool_ref_cnt(pool, 1), 3);
    assert_int_equal(qr_block_pool_num_free(pool), 8);

    assert_int_equal(qr_block_table_blocks_needed(&tables[0], pool, 1), 1);
    append(&tables[0], pool, 1, &copy, &copied);
    assert_true(copied);
    assert_int_equal(copy.src_block, 1);
    assert_int_equal(copy.dst_block, ids[0][1]);
    append(&tables[1], pool, 4, &copy, &copied); /* a copy and a new block */
    assert_true(copied);
    assert_int_equal(tables[1].num_blocks, 3);
    assert_int_equal(qr_block_table_blocks_needed(&tables[2], pool, 1), 0);
    append(&tables[2], pool, 1, &copy, &copied); /* the last owner writes in place */
    assert_false(copied);
    assert_int_equal(ids[2][1], 1);
    assert_int_equal(qr_block_table_slot(&tables[2], pool, 6), 1 * 4 + 2);
    assert_int_equal(qr_block_pool_ref_cnt(pool, 0), 3);
    for (int i = 0; i < 3; i++) qr_block_table_clear(&tables[i], pool);
    assert_int_equal(qr_block_pool_num_free(pool), 10);
    check(pool);
    qr_block_pool_destroy(pool);
}

static void append_without_room_changes_nothing(void **state)
{
    (void)state;
    qr_block_table a, b;
    qr_block_pool *pool = pool_and_tables(2, &a, &b);
    qr_block_copy copy;
    bool copied;
    append(&a, pool, 6, &copy, &copied);
    qr_block_table_fork(&a, &b, pool);
    assert_int_equal(qr_block_table_append(&a, pool, 1, &copy, &copied), QUIRE_NO_BLOCKS); /* no block to copy to */
    assert_false(copied);
    assert_int_equal(a.num_tokens, 6);
    qr_block_table_clear(&b, pool);
    append(&a, pool, 2, &copy, &copied);
    assert_int_equal(qr_block_table_append(&a, pool, 1, &copy, &copied), QUIRE_NO_BLOCKS);
    assert_int_equal(a.num_tokens, 8);
    check(pool);
    qr_block_table_clear(&a, pool);
    qr_block_pool_destroy(pool);
}

static void prefix_is_found_while_its_owner_runs(void **state)
{
    (void)state;
    qr_block_table a, b;
    qr_block_pool *pool = pool_and_tables(10, &a, &b);
    const int32_t tokens[] = {5, 6, 7, 8, 9, 10, 11, 12, 13};
    const qr_token_view view = {tokens, tokens + 3, 3, 6};
    qr_block_copy copy;
    bool copied;
    append(&a, pool, 9, &copy, &copied);
    assert_int_equal(qr_block_table_adopt_prefix(&b, pool, view, 8, 0), 0); /* has slots, but is not computed */
    qr_block_table_commit(&a, pool, view, 7, 0);
    assert_int_equal(qr_block_table_adopt_prefix(&b, pool, view, 8, 0), 4);
    qr_block_table_clear(&b, pool);
    qr_block_table_commit(&a, pool, view, 9, 0);
    assert_int_equal(qr_block_pool_num_live_slots(pool), 9);
    assert_int_equal(qr_block_table_adopt_prefix(&b, pool, view, 7, 0), 4); /* whole blocks within the limit */
    qr_block_table_clear(&b, pool);
    assert_int_equal(qr_block_table_adopt_prefix(&b, pool, view, 9, 0), 8);
    assert_int_equal(b.block_ids[1], a.block_ids[1]);
    assert_int_equal(qr_block_pool_num_live_slots(pool), 9); /* shared slots count once */
    qr_block_table_clear(&a, pool);
    assert_int_equal(qr_block_pool_num_live_slots(pool), 8);
    qr_block_table_clear(&b, pool);
    check(pool);
    qr_block_pool_destroy(pool);
}

static void trim_and_rewrite(void **state)
{
    (void)state;
    qr_block_table a, b;
    qr_block_pool *pool = pool_and_tables(10, &a, &b);
    const int32_t old[] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, new[] = {1, 2, 3, 4, 5, 6, 70, 80, 90};
    const qr_token_view old_view = {old, NULL, 9, 0}, new_view = {new, NULL, 9, 0};
    qr_block_copy copy;
    bool copied;
    append(&a, pool, 9, &copy, &copied);
    qr_block_table_commit(&a, pool, old_view, 9, 0);
    qr_block_table_trim(&a, pool, 6);
    assert_int_equal(a.num_blocks, 2);
    assert_int_equal(qr_block_pool_num_live_slots(pool), 6);
    assert_int_equal(qr_block_table_adopt_prefix(&b, pool, old_view, 9, 0), 8); /* still there, and now shared */
    append(&a, pool, 3, &copy, &copied);
    assert_true(copied);
    qr_block_table_commit(&a, pool, new_view, 9, 0);
    qr_block_table_clear(&b, pool);
    assert_int_equal(qr_block_table_adopt_prefix(&b, pool, new_view, 9, 0), 8);
    qr_block_table_clear(&b, pool);
    assert_int_equal(qr_block_table_adopt_prefix(&b, pool, old_view, 9, 0), 8);
    qr_block_table_clear(&b, pool);

    qr_block_table_trim(&a, pool, 7); /* nobody else holds it: written in place, its old content is gone */
    append(&a, pool, 1, &copy, &copied);
    assert_false(copied);
    assert_int_equal(qr_block_table_adopt_prefix(&b, pool, new_view, 9, 0), 4);
    qr_block_table_clear(&b, pool);
    qr_block_table_trim(&a, pool, 0);
    assert_int_equal(qr_block_pool_num_free(pool), 10);
    check(pool);
    qr_block_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_refuses_bad_sizes),
        cmocka_unit_test(create_survives_failing_allocations),
        cmocka_unit_test(alloc_is_all_or_nothing),
        cmocka_unit_test(free_order),
        cmocka_unit_test(a_hit_saves_a_block_from_eviction),
        cmocka_unit_test(content_is_compared_not_believed),
        cmocka_unit_test(reset_forgets_what_nobody_holds),
        cmocka_unit_test(without_caching_nothing_is_found),
        cmocka_unit_test(copy_on_write_and_last_owner),
        cmocka_unit_test(append_without_room_changes_nothing),
        cmocka_unit_test(prefix_is_found_while_its_owner_runs),
        cmocka_unit_test(trim_and_rewrite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
