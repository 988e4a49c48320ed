/* The scheduler's draft tokens, case by case: what they may take, how they are confirmed and dropped. Their interplay
 * with everything else is in test_sched_model.c. */
#include "sched_steps.h"

/* Ask for drafts first, first + 1, ... behind the sequence's last token. */
static int want(qr_sched *sched, qr_seq *seq, int num, int32_t first)
{
    num = qr_sched_want_drafts(sched, seq, num);
    for (int i = 0; i < num; i++) seq->output_token_ids[seq->num_output_tokens + i] = first + i;
    return num;
}

static void confirmed_drafts_are_computed_and_the_rest_is_dropped(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(10);
    qr_sched *sched = sched_of(&options);
    qr_request *request = add_simple(sched, 0, 3, 20);
    qr_seq *seq = &request->seqs[0];
    run_step(sched);
    const int32_t num_free_before = num_free(sched);
    assert_int_equal(want(sched, seq, 6, 50), 6);

    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    expect_entry(&step, 0, request, 3, 7, true);
    assert_int_equal(step.entries[0].num_draft_tokens, 6);
    assert_int_equal(step.num_tokens, 7);
    assert_int_equal(num_free(sched), num_free_before - 2);
    qr_sched_commit_step(sched);
    assert_int_equal(qr_block_pool_num_cached(qr_sched_pool(sched)), 1); /* tokens 0 to 3, no draft */
    for (int32_t i = 0; i < 4; i++) assert_true(qr_sched_append_token(sched, seq, 50 + i));
    assert_int_equal(qr_block_pool_num_cached(qr_sched_pool(sched)), 2); /* the confirmed ones too */
    assert_false(qr_sched_append_token(sched, seq, 7));
    check(sched);
    assert_int_equal(seq->num_output_tokens, 6);
    assert_int_equal(seq->num_computed_tokens, 8);
    assert_int_equal(seq->output_token_ids[4], 53);
    assert_int_equal(seq->output_token_ids[5], 7);
    assert_int_equal(num_free(sched), num_free_before - 1); /* 8 tokens in 2 blocks; the third is free again */

    qr_sched_schedule(sched, &step); /* the wish is gone with the token */
    expect_entry(&step, 0, request, 8, 1, true);
    assert_int_equal(step.entries[0].num_draft_tokens, 0);
    finish_step(sched, &step);
    qr_sched_destroy(sched);
}

static void all_drafts_may_be_right(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(10);
    qr_sched *sched = sched_of(&options);
    qr_seq *seq = &add_simple(sched, 0, 3, 5)->seqs[0];
    run_step(sched);
    assert_int_equal(want(sched, seq, 6, 50), 3); /* 1 output so far, 1 is sampled behind the drafts */
    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    qr_sched_commit_step(sched);
    for (int32_t i = 0; i < 3; i++) assert_true(qr_sched_append_token(sched, seq, 50 + i));
    assert_false(qr_sched_append_token(sched, seq, 9));
    qr_sched_finish_seq(sched, seq, QR_FINISHED_LENGTH_CAPPED);
    check(sched);
    assert_int_equal(num_free(sched), 10);
    qr_sched_destroy(sched);
}

static void a_sequence_may_end_among_its_drafts(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(10);
    qr_sched *sched = sched_of(&options);
    qr_seq *seq = &add_simple(sched, 0, 3, 20)->seqs[0];
    run_step(sched);
    want(sched, seq, 6, 50);
    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    qr_sched_commit_step(sched);
    assert_true(qr_sched_append_token(sched, seq, 50));
    qr_sched_finish_seq(sched, seq, QR_FINISHED_STOPPED);
    check(sched);
    assert_int_equal(num_free(sched), 10);
    qr_sched_destroy(sched);
}

static void drafts_take_what_is_left_of_the_budget(void **state)
{
    (void)state;
    qr_sched_options options = small_options(40);
    options.max_num_batched_tokens = 16;
    qr_sched *sched = sched_of(&options);
    qr_request *first = add_simple(sched, 0, 4, 20), *second = add_simple(sched, 10, 4, 20);
    run_step(sched);
    want(sched, &first->seqs[0], 5, 50);
    want(sched, &second->seqs[0], 5, 50);
    qr_request *waiting = add_simple(sched, 20, 11, 20);
    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    expect_entry(&step, 0, first, 4, 4, true); /* 16 = 1 + 1 + 11 + 3 drafts */
    expect_entry(&step, 1, second, 4, 1, true);
    expect_entry(&step, 2, waiting, 0, 11, true);
    assert_int_equal(step.num_tokens, 16);
    finish_step(sched, &step);
    qr_sched_destroy(sched);
}

static void drafts_take_only_blocks_that_nobody_is_promised(void **state)
{
    (void)state;
    qr_sched_options options = small_options(7);
    options.max_chunk_tokens = 8;
    options.enable_prefix_caching = false;
    qr_sched *sched = sched_of(&options);
    qr_request *first = add_simple(sched, 0, 2, 20);
    run_step(sched);
    qr_request *second = add_simple(sched, 10, 19, 5); /* needs 5 blocks, in chunks of 8 tokens */
    qr_sched_step step = run_step(sched);
    expect_entry(&step, 1, second, 0, 8, false);
    want(sched, &first->seqs[0], 9, 50);
    qr_sched_schedule(sched, &step);
    expect_entry(&step, 0, first, 3, 5, true); /* 2 blocks are free, one of them is promised: 4 drafts, not 7 */
    expect_entry(&step, 1, second, 8, 8, false);
    assert_int_equal(num_free(sched), 1);
    finish_step(sched, &step);
    want(sched, &first->seqs[0], 9, 50);
    step = run_step(sched);
    expect_entry(&step, 1, second, 16, 3, true);
    assert_int_equal(step.num_preempted, 0);
    qr_sched_destroy(sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(confirmed_drafts_are_computed_and_the_rest_is_dropped),
        cmocka_unit_test(all_drafts_may_be_right),
        cmocka_unit_test(a_sequence_may_end_among_its_drafts),
        cmocka_unit_test(drafts_take_what_is_left_of_the_budget),
        cmocka_unit_test(drafts_take_only_blocks_that_nobody_is_promised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
