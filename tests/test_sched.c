/* The scheduler, case by case: creating, adding, chunks, the prefix cache, aborting. test_sched_groups.c has groups and
 * preemption, test_sched_model.c their interplay, test_sched_sharegpt.c memory and cost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "sched_steps.h"

/* ---- creating and adding ----------------------------------------------------------------------- */

static void create_refuses_bad_options(void **state)
{
    (void)state;
    static const struct {
        const char *param;
        int64_t num_blocks;
        int block_size, max_num_seqs, max_num_batched_tokens, max_model_len, max_chunk_tokens;
        bool chunked;
    } cases[] = {
        {"num_kv_blocks", 0, 4, 8, 32, 64, 0, true},      {"block_size", 10, 0, 8, 32, 64, 0, true},
        {"max_num_seqs", 10, 4, 0, 32, 64, 0, true},      {"max_num_batched_tokens", 10, 4, 8, 0, 64, 0, true},
        {"max_model_len", 10, 4, 8, 32, 1, 0, true},      {"max_chunk_tokens", 10, 4, 8, 32, 64, -1, true},
        {"max_chunk_tokens", 10, 4, 8, 32, 64, 7, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qr_sched_options options = small_options(cases[i].num_blocks);
        options.block_size = cases[i].block_size;
        options.max_num_seqs = cases[i].max_num_seqs;
        options.max_num_batched_tokens = cases[i].max_num_batched_tokens;
        options.max_model_len = cases[i].max_model_len;
        options.max_chunk_tokens = cases[i].max_chunk_tokens;
        options.enable_chunked_prefill = cases[i].chunked;
        qr_sched *sched = NULL;
        quire_error error;
        assert_int_equal(qr_sched_create(&options, &sched, &error), QUIRE_INVALID);
        assert_string_equal(error.param, cases[i].param);
        assert_null(sched);
    }
}

static void swapping_needs_swap_space(void **state)
{
    (void)state;
    qr_sched_options options = small_options(10);
    options.preemption_mode = QR_PREEMPT_SWAP;
    qr_sched *sched = NULL;
    quire_error error;
    assert_int_equal(qr_sched_create(&options, &sched, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "swap_space");
    options.num_swap_blocks = (int64_t)INT32_MAX + 1;
    assert_int_equal(qr_sched_create(&options, &sched, &error), QUIRE_INVALID);
    assert_null(sched);
}

static void budget_is_raised(void **state)
{
    (void)state;
    qr_sched_options options = small_options(10);
    options.max_num_batched_tokens = 3;
    qr_sched *sched = sched_of(&options);
    assert_int_equal(qr_sched_get_options(sched)->max_num_batched_tokens, 8); /* one for each sequence */
    qr_sched_destroy(sched);
    options.enable_chunked_prefill = false;
    sched = sched_of(&options);
    assert_int_equal(qr_sched_get_options(sched)->max_num_batched_tokens, 64); /* any prompt in one step */
    qr_sched_destroy(sched);
}

static void create_and_add_survive_failing_allocations(void **state)
{
    (void)state;
    qr_sched_options options = small_options(100);
    options.preemption_mode = QR_PREEMPT_SWAP;
    options.num_swap_blocks = 50;
    uint64_t num_create = 0;
    for (quire_status status = QUIRE_NOMEM; status != QUIRE_OK; num_create++) {
        qr_sched *sched = NULL;
        quire_error error;
        qr_mem_fail_after(num_create);
        status = qr_sched_create(&options, &sched, &error);
        qr_mem_fail_off();
        assert_true(status == QUIRE_OK || (status == QUIRE_NOMEM && !sched));
        qr_sched_destroy(sched);
    }
    assert_true(num_create > 5);

    qr_sched *sched = sched_of(&options);
    const qr_request_params params = params_of(1, 10, 5);
    for (int round = 0; round < 200; round++) {
        for (uint64_t n = 0;; n++) {
            qr_request *request = NULL;
            quire_error error;
            qr_mem_fail_after(n);
            const quire_status status = qr_sched_add(sched, &params, &request, &error);
            qr_mem_fail_off();
            check(sched);
            if (status == QUIRE_OK) break;
            assert_int_equal(status, QUIRE_NOMEM);
            assert_null(request);
        }
    }
    qr_sched_stats stats;
    qr_sched_get_stats(sched, &stats);
    assert_int_equal(stats.num_waiting, 200);
    qr_mem_fail_after(0);
    assert_int_equal(qr_sched_check(sched, NULL), QUIRE_NOMEM);
    qr_mem_fail_off();
    qr_sched_destroy(sched);
}

static void add_refuses_what_can_never_run(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(10);
    qr_sched *sched = sched_of(&options);
    qr_request *request = NULL;
    quire_error error;

    qr_request_params params = params_of(1, 30, 11); /* 40 slots: 10 blocks */
    assert_int_equal(qr_sched_add(sched, &params, &request, &error), QUIRE_OK);
    params.max_output_tokens = 12; /* 41 slots */
    assert_int_equal(qr_sched_add(sched, &params, &request, &error), QUIRE_INVALID);
    assert_non_null(strstr(error.message, "it needs 11 KV blocks (42 tokens x 1), the pool has 10 of 4 tokens each"));

    params = params_of(1, 10, 9); /* 2 full prompt blocks shared, 18 slots: 3 own blocks each */
    params.n = 2;
    assert_int_equal(qr_sched_add(sched, &params, &request, &error), QUIRE_OK);
    params.n = 3;
    assert_int_equal(qr_sched_add(sched, &params, &request, &error), QUIRE_INVALID);
    assert_non_null(strstr(error.message, "it needs 11 KV blocks (19 tokens x 3)"));
    params.max_output_tokens = 1; /* nothing is ever written behind the prompt */
    assert_int_equal(qr_sched_add(sched, &params, &request, &error), QUIRE_OK);

    params = params_of(1, 60, 5);
    assert_int_equal(qr_sched_add(sched, &params, &request, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "max_tokens");
    params = params_of(1, 0, 5);
    assert_int_equal(qr_sched_add(sched, &params, &request, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "prompt");
    params = params_of(1, 5, 0);
    assert_int_equal(qr_sched_add(sched, &params, &request, &error), QUIRE_INVALID);
    params = params_of(1, 5, 5);
    params.n = 9;
    assert_int_equal(qr_sched_add(sched, &params, &request, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "n");
    params.n = 0;
    assert_int_equal(qr_sched_add(sched, &params, &request, &error), QUIRE_INVALID);
    check(sched);
    qr_sched_destroy(sched);
}

/* ---- one request ------------------------------------------------------------------------------- */

static void a_request_runs_to_its_end(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(10);
    qr_sched *sched = sched_of(&options);
    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    assert_int_equal(step.num_entries, 0); /* nothing to do */
    qr_sched_commit_step(sched);

    qr_request *request = add_simple(sched, 1, 5, 3);
    assert_int_equal(request->status, QR_WAITING);
    step = run_step(sched);
    expect_entry(&step, 0, request, 0, 5, true);
    assert_int_equal(request->status, QR_RUNNING);
    assert_int_equal(num_free(sched), 8);
    step = run_step(sched);
    expect_entry(&step, 0, request, 5, 1, true);
    step = run_step(sched);
    expect_entry(&step, 0, request, 6, 1, true);
    assert_int_equal(request->status, QR_FINISHED_LENGTH_CAPPED);
    assert_int_equal(request->seqs[0].num_output_tokens, 3);
    assert_int_equal(qr_seq_token(&request->seqs[0], 4), 5);
    assert_int_equal(qr_seq_token(&request->seqs[0], 5), 1000);
    assert_int_equal(num_free(sched), 10);
    assert_false(qr_sched_has_unfinished(sched));
    qr_sched_remove(sched, request);
    check(sched);
    qr_sched_destroy(sched);
}

static void long_prompts_are_cut_into_chunks(void **state)
{
    (void)state;
    qr_sched_options options = small_options(20);
    options.max_chunk_tokens = 7;
    qr_sched *sched = sched_of(&options);
    qr_request *request = add_simple(sched, 1, 20, 3);
    qr_sched_step step = run_step(sched);
    expect_entry(&step, 0, request, 0, 7, false);
    step = run_step(sched);
    expect_entry(&step, 0, request, 7, 7, false);
    step = run_step(sched);
    expect_entry(&step, 0, request, 14, 6, true);
    qr_sched_destroy(sched);

    /* Without a cap the budget cuts, and what runs already goes first. */
    options.max_chunk_tokens = 0;
    sched = sched_of(&options);
    qr_request *first = add_simple(sched, 1, 4, 9);
    step = run_step(sched);
    qr_request *second = add_simple(sched, 100, 40, 3);
    step = run_step(sched);
    expect_entry(&step, 0, first, 4, 1, true);
    expect_entry(&step, 1, second, 0, 31, false);
    step = run_step(sched);
    expect_entry(&step, 1, second, 31, 9, true);
    qr_sched_destroy(sched);
}

static void a_long_prompt_leaves_a_token_for_everyone(void **state)
{
    (void)state;
    qr_sched_options options = small_options(60);
    options.policy = QR_SCHED_PRIORITY;
    qr_sched *sched = sched_of(&options);
    qr_request *late = add_simple(sched, 1, 4, 20);
    run_step(sched);
    qr_request_params params = params_of(100, 50, 5);
    params.priority = -1;
    qr_request *urgent = add(sched, &params);
    qr_sched_step step = run_step(sched);
    expect_entry(&step, 0, late, 4, 1, true);
    expect_entry(&step, 1, urgent, 0, 31, false);
    qr_request_params more = params_of(200, 2, 20);
    more.n = 3;
    qr_request *group = add(sched, &more);
    step = run_step(sched); /* urgent is first in order now and could use 19 of 32: everyone fits */
    expect_entry(&step, 0, urgent, 31, 19, true);
    expect_entry(&step, 1, late, 5, 1, true);
    expect_entry(&step, 2, group, 0, 2, true);
    qr_request_params again = params_of(300, 50, 5);
    again.priority = -2;
    qr_request *most_urgent = add(sched, &again);
    step = run_step(sched);
    assert_int_equal(step.num_entries, 6);
    step = run_step(sched);
    expect_entry(&step, 0, most_urgent, 27, 23, true);
    assert_int_equal(step.num_entries, 6);
    qr_sched_destroy(sched);
}

static void without_chunking_prompts_are_whole(void **state)
{
    (void)state;
    qr_sched_options options = small_options(60);
    options.enable_chunked_prefill = false;
    qr_sched *sched = sched_of(&options);
    qr_request *first = add_simple(sched, 1, 40, 9);
    qr_request *second = add_simple(sched, 100, 30, 9);
    qr_request *third = add_simple(sched, 200, 2, 9);
    qr_sched_step step = run_step(sched);
    expect_entry(&step, 0, first, 0, 40, true); /* 24 left: the second does not fit, the third must not overtake it */
    assert_int_equal(step.num_entries, 1);
    step = run_step(sched);
    expect_entry(&step, 0, first, 40, 1, true);
    expect_entry(&step, 1, second, 0, 30, true);
    expect_entry(&step, 2, third, 0, 2, true);
    qr_sched_destroy(sched);
}

/* ---- prefix cache ------------------------------------------------------------------------------ */

static void a_prefix_is_shared_while_its_owner_runs(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(30);
    qr_sched *sched = sched_of(&options);
    qr_request *owner = add_simple(sched, 1, 18, 20);
    run_step(sched);
    qr_request *same = add_simple(sched, 1, 18, 20);
    qr_request *longer = add_simple(sched, 1, 25, 20);
    qr_request *exact = add_simple(sched, 1, 16, 20);
    qr_request_params params = params_of(1, 18, 20);
    params.extra_key = 7;
    qr_request *salted = add(sched, &params);
    params.extra_key = 0;
    params.no_prefix_read = true;
    qr_request *unread = add(sched, &params);
    const int32_t free_before = num_free(sched);
    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    expect_entry(&step, 0, owner, 18, 1, true);
    expect_entry(&step, 1, same, 16, 2, true);
    expect_entry(&step, 2, longer, 16, 9, true);
    expect_entry(&step, 3, exact, 12, 4, true); /* at least one token is computed: the last block again */
    expect_entry(&step, 4, salted, 0, 16, false);
    assert_int_equal(unread->status, QR_WAITING); /* no budget left */
    assert_int_equal(free_before - num_free(sched), 1 + 3 + 1 + 4);
    finish_step(sched, &step);
    assert_int_equal(owner->num_cached_tokens, 0);
    assert_int_equal(same->num_cached_tokens, 16);
    assert_int_equal(exact->num_cached_tokens, 12);
    step = run_step(sched);
    expect_entry(&step, 5, unread, 0, 18, true);
    qr_sched_stats stats;
    qr_sched_get_stats(sched, &stats);
    assert_int_equal(stats.prefix_queries, 18 + 18 + 25 + 16 + 18);
    assert_int_equal(stats.prefix_hits, 16 + 16 + 12);
    qr_sched_destroy(sched);
}

static void outputs_are_found_by_the_next_turn(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(30);
    qr_sched *sched = sched_of(&options);
    qr_request *turn = add_simple(sched, 1, 6, 8);
    while (qr_sched_has_unfinished(sched)) run_step(sched);
    int32_t next[20];
    for (int32_t i = 0; i < 14; i++) next[i] = qr_seq_token(&turn->seqs[0], i);
    for (int32_t i = 14; i < 20; i++) next[i] = 7;
    qr_request_params params = params_of(1, 6, 8);
    params.prompt_token_ids = next;
    params.num_prompt_tokens = 20;
    qr_request *second = add(sched, &params);
    run_step(sched);
    assert_int_equal(second->num_cached_tokens, 12); /* 13 of 14 were computed: three full blocks */
    qr_sched_abort(sched, second);
    qr_sched_reset_prefix_cache(sched);
    qr_request *third = add(sched, &params);
    run_step(sched);
    assert_int_equal(third->num_cached_tokens, 0);
    qr_sched_destroy(sched);
}

/* ---- abort ------------------------------------------------------------------------------------- */

static void abort_in_every_state(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(10);
    qr_sched *sched = sched_of(&options);
    qr_request_params params = params_of(1, 30, 8);
    params.n = 1;
    qr_request *waiting = add(sched, &params);
    qr_sched_abort(sched, waiting);
    assert_int_equal(waiting->status, QR_FINISHED_ABORTED);
    assert_false(qr_sched_has_unfinished(sched));
    qr_sched_abort(sched, waiting); /* again: no effect */
    qr_sched_remove(sched, waiting);

    params = params_of(1, 10, 8);
    params.n = 2;
    qr_request *half = add(sched, &params);
    run_step(sched);
    qr_sched_finish_seq(sched, &half->seqs[0], QR_FINISHED_STOPPED);
    qr_sched_abort(sched, half);
    assert_int_equal(half->seqs[0].status, QR_FINISHED_STOPPED);
    assert_int_equal(half->seqs[1].status, QR_FINISHED_ABORTED);
    assert_int_equal(num_free(sched), 10);
    check(sched);

    qr_request *first = add_simple(sched, 100, 11, 20), *second = add_simple(sched, 200, 11, 20);
    while (second->status != QR_PREEMPTED) run_step(sched);
    qr_sched_abort(sched, second);
    check(sched);
    qr_sched_abort(sched, first);
    check(sched);
    assert_int_equal(num_free(sched), 10);

    qr_request *many[50];
    for (int i = 0; i < 50; i++) many[i] = add_simple(sched, i, 4, 4);
    for (int i = 0; i < 50; i++) { /* out of the middle of the queue */
        qr_sched_abort(sched, many[i * 17 % 50]);
        check(sched);
    }
    assert_false(qr_sched_has_unfinished(sched));
    qr_sched_destroy(sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_refuses_bad_options),
        cmocka_unit_test(swapping_needs_swap_space),
        cmocka_unit_test(budget_is_raised),
        cmocka_unit_test(create_and_add_survive_failing_allocations),
        cmocka_unit_test(add_refuses_what_can_never_run),
        cmocka_unit_test(a_request_runs_to_its_end),
        cmocka_unit_test(long_prompts_are_cut_into_chunks),
        cmocka_unit_test(a_long_prompt_leaves_a_token_for_everyone),
        cmocka_unit_test(without_chunking_prompts_are_whole),
        cmocka_unit_test(a_prefix_is_shared_while_its_owner_runs),
        cmocka_unit_test(outputs_are_found_by_the_next_turn),
        cmocka_unit_test(abort_in_every_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
