/* The scheduler, case by case. test_sched_model.c covers their interplay, test_sched_sharegpt.c memory and cost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "sched/scheduler.h"

/* ---- helpers ----------------------------------------------------------------------------------- */

static qr_sched_options small_options(int64_t num_blocks)
{
    qr_sched_options options;
    qr_sched_options_init(&options);
    options.num_blocks = num_blocks;
    options.block_size = 4;
    options.max_num_seqs = 8;
    options.max_num_batched_tokens = 32;
    options.max_model_len = 64;
    return options;
}

static qr_sched *sched_of(const qr_sched_options *options)
{
    qr_sched *sched;
    quire_error error;
    if (qr_sched_create(options, &sched, &error) != QUIRE_OK) fail_msg("%s", error.message);
    return sched;
}

/* A prompt of num_prompt tokens first, first + 1, ... */
static qr_request_params params_of(int32_t first, int32_t num_prompt, int32_t max_output)
{
    static int32_t prompt[64];
    for (int32_t i = 0; i < num_prompt; i++) prompt[i] = first + i;
    return (qr_request_params){
        .prompt_token_ids = prompt, .num_prompt_tokens = num_prompt, .max_output_tokens = max_output, .n = 1};
}

static qr_request *add(qr_sched *sched, const qr_request_params *params)
{
    qr_request *request;
    quire_error error;
    if (qr_sched_add(sched, params, &request, &error) != QUIRE_OK) fail_msg("%s", error.message);
    return request;
}

static qr_request *add_simple(qr_sched *sched, int32_t first, int32_t num_prompt, int32_t max_output)
{
    const qr_request_params params = params_of(first, num_prompt, max_output);
    return add(sched, &params);
}

static void check(const qr_sched *sched)
{
    quire_error error;
    if (qr_sched_check(sched, &error) != QUIRE_OK) fail_msg("%s", error.message);
}

static void take_token(qr_sched *sched, qr_seq *seq, int32_t token)
{
    qr_sched_append_token(sched, seq, token);
    if (seq->num_output_tokens == seq->request->max_output_tokens)
        qr_sched_finish_seq(sched, seq, QR_FINISHED_LENGTH_CAPPED);
}

/* The engine's part of a step; sequence i of a request samples token 1000 + i. */
static void finish_step(qr_sched *sched, const qr_sched_step *step)
{
    qr_sched_commit_step(sched);
    for (int i = 0; i < step->num_entries; i++) {
        const qr_sched_entry *entry = &step->entries[i];
        if (!entry->samples) continue;
        if (!entry->forks) take_token(sched, entry->seq, 1000 + entry->seq->idx);
        for (int s = 0; s < entry->request->n && entry->forks; s++)
            take_token(sched, &entry->request->seqs[s], 1000 + s);
    }
    check(sched);
}

static qr_sched_step run_step(qr_sched *sched)
{
    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    finish_step(sched, &step);
    return step;
}

static void expect_entry(const qr_sched_step *step, int idx, const qr_request *request, int32_t start, int32_t num_new,
                         bool samples)
{
    assert_true(idx < step->num_entries);
    const qr_sched_entry *entry = &step->entries[idx];
    assert_ptr_equal(entry->request, request);
    assert_int_equal(entry->start, start);
    assert_int_equal(entry->num_new_tokens, num_new);
    assert_int_equal(entry->samples, samples);
}

static int32_t num_free(const qr_sched *sched) { return qr_block_pool_num_free(qr_sched_pool(sched)); }

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
    const qr_sched_options options = small_options(100);
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
        for (int policy = 0; policy < 2; policy++) {
            qr_sched_options options = small_options(num_blocks);
            options.policy = policy ? QR_SCHED_PRIORITY : QR_SCHED_FCFS;
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
        cmocka_unit_test(budget_is_raised),
        cmocka_unit_test(create_and_add_survive_failing_allocations),
        cmocka_unit_test(add_refuses_what_can_never_run),
        cmocka_unit_test(a_request_runs_to_its_end),
        cmocka_unit_test(long_prompts_are_cut_into_chunks),
        cmocka_unit_test(a_long_prompt_leaves_a_token_for_everyone),
        cmocka_unit_test(without_chunking_prompts_are_whole),
        cmocka_unit_test(a_group_forks_at_its_prompts_end),
        cmocka_unit_test(beams_are_dropped_and_forked),
        cmocka_unit_test(a_resumed_beam_group_shares_its_common_outputs),
        cmocka_unit_test(max_num_seqs_counts_sequences),
        cmocka_unit_test(the_newest_is_preempted_and_resumed),
        cmocka_unit_test(a_resumed_group_computes_prompt_then_outputs),
        cmocka_unit_test(a_group_whose_first_sequence_is_done_resumes),
        cmocka_unit_test(priority_decides_order_and_victim),
        cmocka_unit_test(tiny_pools_never_deadlock),
        cmocka_unit_test(nothing_starves),
        cmocka_unit_test(a_prefix_is_shared_while_its_owner_runs),
        cmocka_unit_test(outputs_are_found_by_the_next_turn),
        cmocka_unit_test(abort_in_every_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
