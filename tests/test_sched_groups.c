/* The scheduler, case by case: groups, beams, preemption, swapping, fairness. See test_sched.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sched_steps.h"

/* ---- groups ------------------------------------------------------------------------------------ */

static void a_group_forks_at_its_prompts_end(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(20);
    qr_sched *sched = sched_of(&options);
    qr_request_params params = params_of(1, 6, 10);
    params.n = 3;
    qr_request *group = add(sched, &params);
    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    expect_entry(&step, 0, group, 0, 6, true);
    assert_true(step.entries[0].forks);
    assert_int_equal(step.num_entries, 1);
    finish_step(sched, &step);
    assert_int_equal(num_free(sched), 18); /* stored once */
    for (int s = 0; s < 3; s++) {
        assert_int_equal(group->seqs[s].status, QR_RUNNING);
        assert_int_equal(group->seqs[s].output_token_ids[0], 1000 + s);
    }
    qr_sched_schedule(sched, &step);
    assert_int_equal(step.num_entries, 3);
    assert_int_equal(step.num_copies, 2); /* the last one writes in place */
    finish_step(sched, &step);
    assert_int_equal(num_free(sched), 16);

    qr_sched_finish_seq(sched, &group->seqs[1], QR_FINISHED_STOPPED);
    check(sched);
    assert_int_equal(num_free(sched), 17);
    assert_int_equal(group->status, QR_RUNNING);
    step = run_step(sched);
    assert_int_equal(step.num_entries, 2);
    qr_sched_finish_seq(sched, &group->seqs[0], QR_FINISHED_STOPPED);
    qr_sched_finish_seq(sched, &group->seqs[2], QR_FINISHED_LENGTH_CAPPED);
    assert_int_equal(group->status, QR_FINISHED_STOPPED);
    assert_int_equal(num_free(sched), 20);
    check(sched);
    qr_sched_destroy(sched);
}

/* Width 2: both beams continue the second one, then the first of those. */
static void beams_are_dropped_and_forked(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(20);
    qr_sched *sched = sched_of(&options);
    qr_request_params params = params_of(1, 6, 10);
    params.n = 2;
    params.lockstep = true;
    qr_request *group = add(sched, &params);
    run_step(sched); /* 1000 and 1001 */
    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    assert_int_equal(step.num_entries, 2);
    qr_sched_commit_step(sched);
    qr_sched_drop_seq(sched, &group->seqs[0]);
    assert_int_equal(group->seqs[0].status, QR_IDLE);
    check(sched);
    qr_sched_fork_seq(sched, &group->seqs[1], &group->seqs[0]);
    check(sched);
    assert_int_equal(group->seqs[0].output_token_ids[0], 1001);
    assert_int_equal(num_free(sched), 18); /* all shared */
    qr_sched_append_token(sched, &group->seqs[0], 7);
    qr_sched_append_token(sched, &group->seqs[1], 8);
    qr_sched_schedule(sched, &step);
    assert_int_equal(step.num_copies, 1);
    expect_entry(&step, 0, group, 7, 1, true);
    expect_entry(&step, 1, group, 7, 1, true);
    finish_step(sched, &step);

    qr_sched_schedule(sched, &step);
    qr_sched_commit_step(sched);
    qr_sched_drop_seq(sched, &group->seqs[1]); /* a beam may also end without a successor */
    qr_sched_append_token(sched, &group->seqs[0], 9);
    check(sched);
    step = run_step(sched);
    assert_int_equal(step.num_entries, 1);
    qr_sched_finish_seq(sched, &group->seqs[0], QR_FINISHED_STOPPED);
    assert_int_equal(group->status, QR_RUNNING);
    qr_sched_finish_seq(sched, &group->seqs[1], QR_FINISHED_STOPPED);
    assert_int_equal(group->status, QR_FINISHED_STOPPED);
    assert_int_equal(num_free(sched), 20);
    check(sched);
    qr_sched_destroy(sched);
}

/* After a preemption the outputs that all beams have in common are computed once, and sampling waits for the last. */
static void a_resumed_beam_group_shares_its_common_outputs(void **state)
{
    (void)state;
    qr_sched_options options = small_options(15);
    options.enable_prefix_caching = false;
    options.max_num_batched_tokens = 8;
    qr_sched *sched = sched_of(&options);
    qr_request *first = add_simple(sched, 1, 8, 40);
    qr_request_params params = params_of(100, 6, 20);
    params.n = 2;
    params.lockstep = true;
    qr_request *group = add(sched, &params);
    run_step(sched);
    run_step(sched);
    qr_sched_step step;
    for (int i = 0; i < 7; i++) { /* the beams agree for 8 tokens, then differ */
        qr_sched_schedule(sched, &step);
        qr_sched_commit_step(sched);
        qr_sched_append_token(sched, &first->seqs[0], 5);
        if (i == 0) {
            qr_sched_drop_seq(sched, &group->seqs[1]);
            qr_sched_fork_seq(sched, &group->seqs[0], &group->seqs[1]);
        }
        for (int s = 0; s < 2; s++) qr_sched_append_token(sched, &group->seqs[s], i < 6 ? 50 + i : 60 + s);
    }
    do step = run_step(sched);
    while (step.num_preempted == 0);
    assert_ptr_equal(step.preempted[0], group);
    const int32_t num_tokens = qr_seq_num_tokens(&group->seqs[0]);
    assert_int_equal(group->num_shared_tokens, 13); /* 6 of the prompt, 1000, 50 to 55 */
    assert_true(num_tokens > 15);
    qr_sched_abort(sched, first);

    qr_sched_schedule(sched, &step);
    expect_entry(&step, 0, group, 0, 8, false);
    finish_step(sched, &step);
    qr_sched_schedule(sched, &step);
    expect_entry(&step, 0, group, 8, 5, false);
    assert_true(step.entries[0].forks);
    finish_step(sched, &step);
    int num_waiting_steps = 0;
    for (qr_sched_schedule(sched, &step); !step.entries[0].samples; qr_sched_schedule(sched, &step)) {
        for (int i = 0; i < step.num_entries; i++) assert_false(step.entries[i].samples);
        finish_step(sched, &step);
        num_waiting_steps++;
    }
    assert_true(num_waiting_steps > 0);
    assert_int_equal(step.num_entries, 2);
    assert_true(step.entries[1].samples);
    finish_step(sched, &step);
    qr_sched_destroy(sched);
}

static void max_num_seqs_counts_sequences(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(40);
    qr_sched *sched = sched_of(&options);
    qr_request_params params = params_of(1, 2, 6);
    params.n = 5;
    qr_request *first = add(sched, &params), *second = add(sched, &params);
    qr_request *third = add_simple(sched, 50, 2, 6);
    run_step(sched);
    assert_int_equal(first->status, QR_RUNNING);
    assert_int_equal(second->status, QR_WAITING);
    assert_int_equal(third->status, QR_WAITING); /* no overtaking */
    qr_sched_finish_seq(sched, &first->seqs[4], QR_FINISHED_STOPPED);
    qr_sched_finish_seq(sched, &first->seqs[2], QR_FINISHED_STOPPED);
    run_step(sched);
    assert_int_equal(second->status, QR_RUNNING);
    qr_sched_stats stats;
    qr_sched_get_stats(sched, &stats);
    assert_int_equal(stats.num_running, 2);
    assert_int_equal(stats.num_running_seqs, 8);
    assert_int_equal(stats.num_waiting, 1);
    qr_sched_destroy(sched);
}

/* ---- preemption -------------------------------------------------------------------------------- */

static void the_newest_is_preempted_and_resumed(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(10);
    qr_sched *sched = sched_of(&options);
    qr_request *first = add_simple(sched, 1, 11, 20);
    qr_request *second = add_simple(sched, 100, 11, 20);
    qr_request *third = add_simple(sched, 200, 3, 10);
    int num_preemptions = 0, num_steps = 0;
    while (qr_sched_has_unfinished(sched)) {
        qr_sched_step step = run_step(sched);
        num_preemptions += step.num_preempted;
        for (int i = 0; i < step.num_preempted; i++) assert_true(step.preempted[i] != first);
        if (first->num_preemptions + second->num_preemptions == 0) num_steps++;
        assert_true(third->status != QR_RUNNING || second->status != QR_PREEMPTED); /* in order */
    }
    assert_true(num_preemptions > 0 && num_steps > 2);
    assert_int_equal(first->num_preemptions, 0);
    assert_true(second->num_preemptions > 0);
    for (int32_t i = 0; i < 20; i++) assert_int_equal(second->seqs[0].output_token_ids[i], 1000);
    assert_int_equal(third->seqs[0].num_output_tokens, 10);
    qr_sched_stats stats;
    qr_sched_get_stats(sched, &stats);
    assert_int_equal(stats.num_preemptions, num_preemptions);
    assert_int_equal(stats.num_free_blocks, 10);
    qr_sched_destroy(sched);
}

static void a_resumed_group_computes_prompt_then_outputs(void **state)
{
    (void)state;
    qr_sched_options options = small_options(13);
    options.enable_prefix_caching = false;
    qr_sched *sched = sched_of(&options);
    qr_request *first = add_simple(sched, 1, 8, 40);
    qr_request_params params = params_of(100, 6, 20);
    params.n = 2;
    qr_request *group = add(sched, &params);
    qr_sched_step step = run_step(sched);
    while (step.num_preempted == 0) step = run_step(sched);
    assert_ptr_equal(step.preempted[0], group);
    assert_int_equal(group->status, QR_PREEMPTED);
    assert_int_equal(group->seqs[0].num_computed_tokens, 0);
    const int32_t num_outputs = group->seqs[0].num_output_tokens;
    assert_true(num_outputs > 3);

    qr_sched_abort(sched, first);
    qr_sched_schedule(sched, &step);
    expect_entry(&step, 0, group, 0, 6, false); /* the prompt alone; nothing is sampled */
    assert_true(step.entries[0].forks);
    finish_step(sched, &step);
    qr_sched_schedule(sched, &step);
    expect_entry(&step, 0, group, 6, num_outputs, true);
    expect_entry(&step, 1, group, 6, num_outputs, true);
    assert_int_equal(step.num_copies, 1);
    finish_step(sched, &step);
    assert_int_equal(group->seqs[1].num_output_tokens, num_outputs + 1);
    qr_sched_destroy(sched);
}

static void a_group_whose_first_sequence_is_done_resumes(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(13);
    qr_sched *sched = sched_of(&options);
    qr_request *first = add_simple(sched, 1, 8, 40);
    qr_request_params params = params_of(100, 6, 30);
    params.n = 3;
    params.max_output_tokens = 12;
    qr_request *group = add(sched, &params);
    run_step(sched);
    qr_sched_finish_seq(sched, &group->seqs[0], QR_FINISHED_STOPPED);
    qr_sched_step step = run_step(sched);
    for (int i = 0; i < 60 && group->num_preemptions == 0; i++) step = run_step(sched);
    if (group->num_preemptions == 0) fail_msg("the pool is too large for this test");
    qr_sched_abort(sched, first);
    step = run_step(sched);
    assert_ptr_equal(step.entries[0].seq, &group->seqs[1]);
    while (qr_sched_has_unfinished(sched)) run_step(sched);
    assert_int_equal(group->seqs[0].num_output_tokens, 1);
    assert_int_equal(group->seqs[1].num_output_tokens, 12);
    assert_int_equal(group->seqs[2].num_output_tokens, 12);
    assert_int_equal(num_free(sched), 13);
    qr_sched_destroy(sched);
}

static qr_sched *swapping_sched(qr_preemption_mode mode, int64_t num_swap_blocks)
{
    qr_sched_options options = small_options(13);
    options.preemption_mode = mode;
    options.num_swap_blocks = num_swap_blocks;
    return sched_of(&options);
}

static int32_t num_free_swap_blocks(const qr_sched *sched)
{
    qr_sched_stats stats;
    qr_sched_get_stats(sched, &stats);
    return stats.num_free_swap_blocks;
}

/* A long request and a group of two beside it, until the group is preempted. Returns the step that did it. */
static qr_sched_step preempt_a_group(qr_sched *sched, qr_request **out_first, qr_request **out_group)
{
    *out_first = add_simple(sched, 1, 8, 40);
    qr_request_params params = params_of(100, 6, 20);
    params.n = 2;
    *out_group = add(sched, &params);
    qr_sched_step step;
    do {
        qr_sched_schedule(sched, &step);
        const qr_sched_step done = step;
        finish_step(sched, &done);
    } while (step.num_preempted == 0);
    assert_ptr_equal(step.preempted[0], *out_group);
    return step;
}

static void a_group_is_swapped_out_and_in(void **state)
{
    (void)state;
    qr_sched *sched = swapping_sched(QR_PREEMPT_SWAP, 20);
    qr_request *first, *group;
    qr_sched_step step = preempt_a_group(sched, &first, &group);
    const int32_t num_computed = group->seqs[0].num_computed_tokens;
    const int32_t num_blocks = (num_computed + 3) / 4;
    assert_true(num_computed > 8);
    assert_int_equal(step.num_swap_outs, 2 * num_blocks - 1); /* the full prompt block once */
    assert_int_equal(group->num_swapped_blocks, 2 * num_blocks - 1);
    qr_sched_stats stats;
    qr_sched_get_stats(sched, &stats);
    assert_int_equal(stats.num_swapped_groups, 1);
    assert_int_equal(stats.num_free_swap_blocks, 20 - step.num_swap_outs);

    step = run_step(sched);
    assert_int_equal(step.num_swap_ins + step.num_swap_outs, 0); /* no room yet */
    qr_sched_abort(sched, first);
    qr_sched_schedule(sched, &step);
    assert_int_equal(step.num_swap_ins, 2 * num_blocks - 1);
    expect_entry(&step, 0, group, num_computed, 1, true); /* nothing is computed again */
    expect_entry(&step, 1, group, num_computed, 1, true);
    assert_int_equal(group->seqs[0].table.block_ids[0], group->seqs[1].table.block_ids[0]);
    finish_step(sched, &step);
    assert_int_equal(num_free_swap_blocks(sched), 20);
    qr_sched_destroy(sched);
}

static void a_swapped_group_can_be_aborted(void **state)
{
    (void)state;
    qr_sched *sched = swapping_sched(QR_PREEMPT_SWAP, 20);
    qr_request *first, *group;
    preempt_a_group(sched, &first, &group);
    qr_sched_abort(sched, group);
    check(sched);
    assert_int_equal(num_free_swap_blocks(sched), 20);
    qr_sched_destroy(sched);
}

static void full_swap_space_means_recompute(void **state)
{
    (void)state;
    qr_sched *sched = swapping_sched(QR_PREEMPT_SWAP, 2);
    qr_request *first, *group;
    const qr_sched_step step = preempt_a_group(sched, &first, &group);
    assert_int_equal(step.num_swap_outs, 0); /* the whole group or nothing */
    assert_int_equal(group->num_swapped_blocks, 0);
    assert_int_equal(group->seqs[0].num_computed_tokens, 0);
    qr_sched_destroy(sched);
}

static void auto_takes_the_cheaper(void **state)
{
    (void)state;
    for (int dear = 0; dear < 2; dear++) {
        qr_sched *sched = swapping_sched(QR_PREEMPT_AUTO, 20);
        qr_sched_set_costs(sched, 100, dear ? 201 : 199); /* 4 tokens a block, moved twice: even at 200 */
        qr_request *first, *group;
        const qr_sched_step step = preempt_a_group(sched, &first, &group);
        assert_int_equal(step.num_swap_outs > 0, !dear);
        qr_sched_destroy(sched);
    }
}

/* Prompts of 4, 60, 20 and 40 tokens together; one of 50 when all but the 60 were begun: too late to overtake it. */
static void fair_lets_short_prompts_overtake_for_a_while(void **state)
{
    (void)state;
    qr_sched_options options = small_options(60);
    options.policy = QR_SCHED_FAIR;
    options.max_num_seqs = 1;
    qr_sched *sched = sched_of(&options);
    const int32_t lengths[] = {4, 60, 20, 40, 50};
    qr_request *requests[5], *order[5] = {NULL};
    int num_started = 0, num_added = 0;
    while (num_added == 0 || qr_sched_has_unfinished(sched)) {
        while (num_added < 4 || (num_added == 4 && num_started == 3)) {
            const qr_request_params params = params_of(100 * num_added, lengths[num_added], 1);
            requests[num_added++] = add(sched, &params);
        }
        qr_sched_step step = run_step(sched);
        if (step.num_entries > 0 && step.entries[0].start == 0) order[num_started++] = step.entries[0].request;
    }
    const int expected[] = {0, 2, 3, 1, 4};
    for (int i = 0; i < 5; i++) assert_ptr_equal(order[i], requests[expected[i]]);
    qr_sched_destroy(sched);
}

static void priority_decides_order_and_victim(void **state)
{
    (void)state;
    qr_sched_options options = small_options(10);
    options.policy = QR_SCHED_PRIORITY;
    options.max_num_seqs = 2;
    qr_sched *sched = sched_of(&options);
    qr_request_params params = params_of(1, 8, 24);
    params.priority = 5;
    qr_request *low = add(sched, &params);
    params.priority = 1;
    qr_request *high = add(sched, &params);
    params.priority = 3;
    qr_request *middle = add(sched, &params);
    run_step(sched);
    assert_int_equal(low->status, QR_WAITING);
    assert_int_equal(high->status, QR_RUNNING);
    assert_int_equal(middle->status, QR_RUNNING);
    qr_request *order[3] = {NULL};
    int num_finished = 0;
    while (qr_sched_has_unfinished(sched)) {
        run_step(sched);
        qr_request *all[] = {low, middle, high};
        for (int i = 0; i < 3; i++) {
            bool noted = false;
            for (int k = 0; k < num_finished; k++) noted |= order[k] == all[i];
            if (!noted && qr_request_status_finished(all[i]->status)) order[num_finished++] = all[i];
        }
    }
    assert_ptr_equal(order[0], high);
    assert_ptr_equal(order[1], middle);
    assert_ptr_equal(order[2], low);
    assert_int_equal(high->num_preemptions, 0);
    qr_sched_destroy(sched);
}

/* Tiny pools, many groups: every request that add accepts finishes, in a bounded number of steps. */
static void tiny_pools_never_deadlock(void **state)
{
    (void)state;
    for (int64_t num_blocks = 3; num_blocks <= 12; num_blocks++) {
        for (int policy = 0; policy < QR_NUM_SCHED_POLICIES; policy++) {
            qr_sched_options options = small_options(num_blocks);
            options.policy = (qr_sched_policy)policy;
            qr_sched *sched = sched_of(&options);
            int num_added = 0;
            for (int i = 0; i < 200; i++) {
                qr_request_params params = params_of(10 * (i % 7), 1 + i % 13, 1 + i % 17);
                params.n = 1 + i % 4;
                params.priority = i % 3;
                qr_request *request;
                num_added += qr_sched_add(sched, &params, &request, NULL) == QUIRE_OK;
            }
            assert_true(num_added > 0);
            int num_steps = 0;
            while (qr_sched_has_unfinished(sched)) {
                const qr_sched_step step = run_step(sched);
                assert_true(step.num_entries > 0);
                assert_true(++num_steps < 20000);
            }
            assert_int_equal(num_free(sched), num_blocks);
            qr_sched_destroy(sched);
        }
    }
}

/* A stream of short requests must not keep a long one from running (fcfs). */
static void nothing_starves(void **state)
{
    (void)state;
    const qr_sched_options options = small_options(14);
    qr_sched *sched = sched_of(&options);
    for (int i = 0; i < 6; i++) add_simple(sched, 10 * i, 4, 8);
    run_step(sched);
    qr_request *big = add_simple(sched, 500, 40, 16); /* all 14 blocks */
    int num_steps = 0;
    while (!qr_request_status_finished(big->status)) {
        add_simple(sched, 10 * (num_steps % 50), 4, 8);
        run_step(sched);
        assert_true(++num_steps < 100);
    }
    qr_sched_destroy(sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_forks_at_its_prompts_end),
        cmocka_unit_test(beams_are_dropped_and_forked),
        cmocka_unit_test(a_resumed_beam_group_shares_its_common_outputs),
        cmocka_unit_test(max_num_seqs_counts_sequences),
        cmocka_unit_test(the_newest_is_preempted_and_resumed),
        cmocka_unit_test(a_resumed_group_computes_prompt_then_outputs),
        cmocka_unit_test(a_group_whose_first_sequence_is_done_resumes),
        cmocka_unit_test(a_group_is_swapped_out_and_in),
        cmocka_unit_test(a_swapped_group_can_be_aborted),
        cmocka_unit_test(full_swap_space_means_recompute),
        cmocka_unit_test(auto_takes_the_cheaper),
        cmocka_unit_test(priority_decides_order_and_victim),
        cmocka_unit_test(fair_lets_short_prompts_overtake_for_a_while),
        cmocka_unit_test(tiny_pools_never_deadlock),
        cmocka_unit_test(nothing_starves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
