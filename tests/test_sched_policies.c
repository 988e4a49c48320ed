/* Allocation and scheduling policies beside the default one: the buddy allocator against a bitmap, what each policy
 * admits and when, and what the memory is used for. test_sched_model.c runs all of them under random operations.
 *
 * Bugs planted on purpose, one at a time, that only this test finds (tests/e2e/test_planted_bugs.py has the others):
 *   a batch of faster-transformer stays open                 faster_transformer_runs_whole_batches
 *   a full step closes it                                    faster_transformer_fills_a_batch_over_steps
 *   its regions come back one by one                         faster_transformer_runs_whole_batches
 *   a group that does not fit keeps the regions it got       faster_transformer_takes_whole_groups
 *   vllm-v0 keeps no blocks back                             vllm_v0_computes_prompts_apart */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kv/buddy.h"
#include "sched_steps.h"

static uint64_t random_state = 1;
static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

/* ---- the buddy allocator ----------------------------------------------------------------------- */

enum { MAX_POOL = 200 };

typedef struct region {
    int32_t first, num_blocks;
} region;

static int32_t next_pow2(int32_t n)
{
    int32_t p = 1;
    while (p < n) p *= 2;
    return p;
}

/* By plain search: is there an aligned free run of 2^k blocks? It is what merging must keep findable. */
static bool bitmap_has_room(const bool *used, int32_t num_blocks, int32_t size)
{
    for (int32_t first = 0; first + size <= num_blocks; first += size) {
        int32_t i = 0;
        while (i < size && !used[first + i]) i++;
        if (i == size) return true;
    }
    return false;
}

static void check_buddy(const qr_buddy *buddy, const bool *used)
{
    quire_error error;
    if (qr_buddy_check(buddy, used, &error) != QUIRE_OK) fail_msg("%s", error.message);
}

static void buddy_matches_a_bitmap(void **state)
{
    (void)state;
    for (int32_t num_blocks = 1; num_blocks <= MAX_POOL; num_blocks += 1 + (int32_t)random_below(3)) {
        qr_buddy *buddy;
        assert_int_equal(qr_buddy_create(num_blocks, &buddy, NULL), QUIRE_OK);
        bool used[MAX_POOL] = {false};
        region regions[MAX_POOL];
        int num_regions = 0;
        int32_t num_used = 0;
        for (int op = 0; op < 400; op++) {
            if (random_below(5) < 3) {
                region r = {-1, 1 + (int32_t)random_below(random_below(3) ? 8 : (uint32_t)num_blocks + 3)};
                const int32_t size = next_pow2(r.num_blocks);
                assert_int_equal(qr_buddy_region_blocks(r.num_blocks), size);
                const bool room = bitmap_has_room(used, num_blocks, size);
                assert_int_equal(qr_buddy_alloc(buddy, r.num_blocks, &r.first), room ? QUIRE_OK : QUIRE_NO_BLOCKS);
                for (int32_t i = 0; room && i < size; i++) {
                    assert_true(r.first + i < num_blocks && !used[r.first + i]);
                    used[r.first + i] = true;
                }
                if (!room) continue;
                num_used += size;
                regions[num_regions++] = r;
            } else if (num_regions > 0) {
                const int i = (int)random_below((uint32_t)num_regions);
                const region r = regions[i];
                regions[i] = regions[--num_regions];
                qr_buddy_free(buddy, r.first, r.num_blocks);
                memset(&used[r.first], 0, (size_t)next_pow2(r.num_blocks));
                num_used -= next_pow2(r.num_blocks);
            }
            assert_int_equal(qr_buddy_num_free(buddy), num_blocks - num_used);
            check_buddy(buddy, used);
        }
        while (num_regions-- > 0) qr_buddy_free(buddy, regions[num_regions].first, regions[num_regions].num_blocks);
        memset(used, 0, sizeof used);
        check_buddy(buddy, used);
        for (int32_t size = 1; size <= num_blocks; size *= 2) { /* whole again: as many as the pool's size allows */
            int32_t count = 0, first;
            while (qr_buddy_alloc(buddy, size, &first) == QUIRE_OK) regions[count++] = (region){first, size};
            assert_int_equal(count, num_blocks / size);
            while (count-- > 0) qr_buddy_free(buddy, regions[count].first, size);
        }
        qr_buddy_destroy(buddy);
    }
}

/* ---- policies ---------------------------------------------------------------------------------- */

static qr_sched_options paper_options(qr_kv_allocator allocator, int block_size)
{
    qr_sched_options options;
    qr_sched_options_init(&options);
    options.kv_allocator = allocator;
    options.block_size = block_size;
    options.num_blocks = 15728 / block_size; /* OPT-13B on an A100 with 40 GB */
    options.max_model_len = 2048;
    options.max_num_seqs = 256;
    options.max_num_batched_tokens = 2560;
    return options;
}

static qr_sched_stats stats_of(const qr_sched *sched)
{
    qr_sched_stats stats;
    qr_sched_get_stats(sched, &stats);
    return stats;
}

static int64_t sum_of(qr_slot_counts c) { return c.live + c.reserved + c.internal + c.external + c.unused; }

static void names_go_both_ways(void **state)
{
    (void)state;
    for (int i = 0; i < QR_NUM_KV_ALLOCATORS; i++) {
        qr_kv_allocator allocator = QR_NUM_KV_ALLOCATORS;
        assert_true(qr_kv_allocator_parse(qr_kv_allocator_name((qr_kv_allocator)i), &allocator));
        assert_int_equal(allocator, i);
    }
    qr_kv_allocator allocator;
    assert_false(qr_kv_allocator_parse("orca", &allocator));
}

/* floor(15728 / 2048) = 7, with blocks of one slot as of 16. */
static void orca_max_batches_seven(void **state)
{
    (void)state;
    for (int block_size = 1; block_size <= 16; block_size *= 4) {
        const qr_sched_options options = paper_options(QR_KV_ORCA_MAX, block_size);
        qr_sched *sched = sched_of(&options);
        for (int i = 0; i < 20; i++) add_simple(sched, i, 8, 10);
        run_step(sched);
        qr_sched_stats stats = stats_of(sched);
        assert_int_equal(stats.num_running, 7);
        assert_int_equal(stats.slots.live, 7 * 8);
        assert_int_equal(stats.slots.reserved, 7 * 9); /* the last output needs no slot */
        assert_int_equal(stats.slots.internal, 7 * (2048 - 17));
        assert_int_equal(stats.slots.external, 15728 - 7 * 2048);
        assert_int_equal(stats.slots.unused, 0);
        for (int step = 1; step <= 20; step++) run_step(sched);
        stats = stats_of(sched);
        assert_int_equal(stats.num_running, 6); /* 7 + 7 are done; nobody waits any more */
        assert_int_equal(stats.slots.external, 0);
        assert_int_equal(stats.slots.unused, 15728 - 6 * 2048);
        qr_sched_destroy(sched);
    }
}

static void regions_fit_what_is_known(void **state)
{
    (void)state;
    static const struct {
        qr_kv_allocator allocator;
        int32_t slots;
    } cases[] = {{QR_KV_ORCA_MAX, 2048}, {QR_KV_ORCA_POW2, 10 + 32}, {QR_KV_ORCA_ORACLE, 10 + 25 - 1}};
    for (int i = 0; i < 3; i++) {
        const qr_sched_options options = paper_options(cases[i].allocator, 1);
        qr_sched *sched = sched_of(&options);
        qr_request_params params = params_of(0, 10, 100);
        params.expected_output_tokens = 25;
        qr_request *request = add(sched, &params);
        run_step(sched);
        const qr_sched_stats stats = stats_of(sched);
        assert_int_equal(request->seqs[0].table.num_region_blocks, cases[i].slots);
        assert_int_equal(stats.slots.reserved, 24);
        assert_int_equal(stats.slots.internal, cases[i].slots - 34);
        assert_int_equal(stats.slots.external, next_pow2(cases[i].slots) - cases[i].slots);
        assert_int_equal(sum_of(stats.slots), 15728);
        /* it goes on for 100: only the larger regions hold that, the others are given up once */
        while (qr_sched_has_unfinished(sched)) run_step(sched);
        assert_int_equal(request->seqs[0].num_output_tokens, 100);
        assert_int_equal(request->num_preemptions, cases[i].allocator != QR_KV_ORCA_MAX);
        assert_int_equal(stats_of(sched).num_free_blocks, 15728);
        qr_sched_destroy(sched);
    }
}

static void whole_groups_in_order(void **state)
{
    (void)state;
    const qr_sched_options options = paper_options(QR_KV_ORCA_MAX, 16);
    qr_sched *sched = sched_of(&options);
    qr_request_params params = params_of(0, 40, 12);
    params.n = 5;
    qr_request *first = add(sched, &params);
    qr_request *second = add(sched, &params); /* 5 regions, but 2 are left: waits, and whoever is behind waits too */
    qr_request *third = add_simple(sched, 0, 8, 8);
    qr_sched_step step = run_step(sched);
    assert_int_equal(step.num_entries, 1);
    expect_entry(&step, 0, first, 0, 40, true);
    assert_int_equal(second->status, QR_WAITING);
    assert_int_equal(third->status, QR_WAITING);
    /* the prompt was computed once, into the first region; the other four get copies of its three blocks */
    qr_sched_schedule(sched, &step);
    assert_int_equal(step.num_copies, 4 * 3);
    for (int i = 0; i < 12; i++) {
        assert_int_equal(step.copies[i].src_block, first->seqs[0].table.block_ids[i % 3]);
        assert_int_equal(step.copies[i].dst_block, first->seqs[1 + i / 3].table.first_block + i % 3);
    }
    finish_step(sched, &step);
    while (first->status == QR_RUNNING) run_step(sched);
    run_step(sched);
    assert_int_equal(second->status, QR_RUNNING);
    assert_int_equal(third->status, QR_RUNNING);
    while (qr_sched_has_unfinished(sched)) run_step(sched);
    assert_int_equal(stats_of(sched).num_preemptions, 0);
    assert_int_equal(stats_of(sched).prefix_hits, 0);
    qr_sched_destroy(sched);
}

/* 7 regions: a batch of 7, then of the next 7, however early most of a batch are done. */
static void faster_transformer_runs_whole_batches(void **state)
{
    (void)state;
    const qr_sched_options options = paper_options(QR_KV_FASTER_TRANSFORMER, 16);
    qr_sched *sched = sched_of(&options);
    qr_request *requests[10];
    for (int i = 0; i < 10; i++) requests[i] = add_simple(sched, 0, 16, i == 3 ? 30 : 5);
    for (int step = 1; step <= 30; step++) {
        run_step(sched);
        const qr_sched_stats stats = stats_of(sched);
        for (int i = 7; i < 10; i++) assert_int_equal(requests[i]->status, QR_WAITING);
        assert_int_equal(stats.num_running, step < 5 ? 7 : step < 30);
        /* the regions of those that are done lie idle until the batch ends */
        assert_int_equal(stats.num_free_blocks, step < 30 ? 983 - 7 * 128 : 983);
        const int64_t live = step <= 5 ? 7 * (15 + step) : 15 + step;
        const int64_t to_come = step <= 5 ? 6 * (5 - step) + 30 - step : 30 - step;
        assert_int_equal(stats.slots.live, live);
        assert_int_equal(stats.slots.reserved, to_come);
        assert_int_equal(stats.slots.internal, 7 * 2048 - live - to_come);
        assert_int_equal(stats.slots.external, 983 * 16 - 7 * 2048); /* the eighth in the queue had no room */
    }
    add_simple(sched, 0, 16, 5);
    run_step(sched);
    for (int i = 7; i < 10; i++) assert_int_equal(requests[i]->status, QR_RUNNING);
    assert_int_equal(stats_of(sched).num_running, 4);
    add_simple(sched, 0, 16, 5); /* too late for this batch, though there is room */
    run_step(sched);
    assert_int_equal(stats_of(sched).num_running, 4);
    assert_int_equal(stats_of(sched).slots.external, 0);
    while (qr_sched_has_unfinished(sched)) run_step(sched);
    assert_int_equal(stats_of(sched).num_preemptions, 0);
    qr_sched_destroy(sched);
}

/* A group that finds two regions of the five it needs takes none. */
static void faster_transformer_takes_whole_groups(void **state)
{
    (void)state;
    const qr_sched_options options = paper_options(QR_KV_FASTER_TRANSFORMER, 16);
    qr_sched *sched = sched_of(&options);
    qr_request_params params = params_of(0, 40, 12);
    params.n = 5;
    add(sched, &params);
    add(sched, &params);
    run_step(sched);
    assert_int_equal(stats_of(sched).num_running_seqs, 5);
    assert_int_equal(stats_of(sched).num_free_blocks, 983 - 5 * 128);
    while (qr_sched_has_unfinished(sched)) run_step(sched);
    qr_sched_destroy(sched);
}

/* A batch whose prompts exceed one step's tokens grows over several steps. */
static void faster_transformer_fills_a_batch_over_steps(void **state)
{
    (void)state;
    qr_sched_options options = paper_options(QR_KV_FASTER_TRANSFORMER, 16);
    options.max_model_len = 64;
    options.max_num_batched_tokens = 1; /* raised to 64 + 8 */
    options.max_num_seqs = 8;
    qr_sched *sched = sched_of(&options);
    for (int i = 0; i < 10; i++) add_simple(sched, 0, 30, 20);
    static const int running[] = {2, 4, 6, 8, 8};
    for (int step = 0; step < 5; step++) {
        run_step(sched);
        assert_int_equal(stats_of(sched).num_running, running[step]);
    }
    while (qr_sched_has_unfinished(sched)) run_step(sched);
    qr_sched_destroy(sched);
}

/* Prompts whole and in steps of their own, before anything else; a hundredth of the pool is kept back. */
static void vllm_v0_computes_prompts_apart(void **state)
{
    (void)state;
    qr_sched_options options = paper_options(QR_KV_VLLM_V0, 4);
    options.num_blocks = 400; /* 4 are kept back */
    options.max_num_batched_tokens = 64;
    options.max_model_len = 64;
    options.max_num_seqs = 64;
    options.enable_prefix_caching = false;
    qr_sched *sched = sched_of(&options);
    qr_request *first = add_simple(sched, 0, 40, 20), *second = add_simple(sched, 100, 30, 20);
    qr_sched_step step = run_step(sched);
    assert_int_equal(step.num_entries, 1); /* 40 + 30 exceed the step; half of a prompt is not an answer */
    expect_entry(&step, 0, first, 0, 40, true);
    step = run_step(sched);
    assert_int_equal(step.num_entries, 1); /* the first waits */
    expect_entry(&step, 0, second, 0, 30, true);
    step = run_step(sched);
    assert_int_equal(step.num_entries, 2);
    expect_entry(&step, 0, first, 40, 1, true);
    qr_request *third = add_simple(sched, 200, 20, 20);
    step = run_step(sched);
    assert_int_equal(step.num_entries, 1);
    expect_entry(&step, 0, third, 0, 20, true);
    while (qr_sched_has_unfinished(sched)) run_step(sched);
    /* Each takes 11 blocks now and a 12th next. With 35 in, 15 are free: 12, but not with the 4 kept back. */
    for (int i = 0; i < 36; i++) add_simple(sched, 1000 * i, 44, 20);
    for (int i = 0; i < 35; i++) run_step(sched);
    assert_int_equal(num_free(sched), 400 - 35 * 11);
    assert_int_equal(stats_of(sched).num_running, 35);
    step = run_step(sched);
    assert_int_equal(stats_of(sched).num_waiting, 1 + step.num_preempted);
    assert_int_equal(step.num_entries, 35 - step.num_preempted);
    while (qr_sched_has_unfinished(sched)) run_step(sched);
    assert_true(stats_of(sched).num_preemptions > 0);
    qr_sched_destroy(sched);
}

/* The whole group or nothing, to swap space and back; what is swapped comes before any prompt. */
static void vllm_v0_swaps_whole_groups(void **state)
{
    (void)state;
    qr_sched_options options = paper_options(QR_KV_VLLM_V0, 4);
    options.num_blocks = 24;
    options.max_model_len = 64;
    options.max_num_seqs = 16;
    options.preemption_mode = QR_PREEMPT_SWAP;
    options.num_swap_blocks = 64;
    qr_sched *sched = sched_of(&options);
    qr_request_params params = params_of(0, 20, 20);
    params.n = 3;
    add(sched, &params);
    params = params_of(100, 20, 20);
    params.n = 2;
    qr_request *second = add(sched, &params);
    while (second->num_preemptions == 0) run_step(sched);
    assert_true(second->num_swapped_blocks > 0);
    qr_request *third = add_simple(sched, 200, 4, 4); /* would fit, but the second was here first */
    while (second->status == QR_PREEMPTED) {
        assert_int_equal(third->status, QR_WAITING);
        run_step(sched);
    }
    assert_int_equal(second->seqs[0].status, QR_RUNNING);
    assert_int_equal(second->seqs[1].status, QR_RUNNING);
    while (qr_sched_has_unfinished(sched)) run_step(sched);
    qr_sched_destroy(sched);
}

static void what_cannot_fit_is_refused(void **state)
{
    (void)state;
    qr_sched_options options = paper_options(QR_KV_ORCA_MAX, 16);
    qr_sched *sched = sched_of(&options);
    qr_request_params params = params_of(0, 8, 8);
    quire_error error;
    params.n = 7;
    assert_int_equal(qr_sched_validate(sched, &params, &error), QUIRE_OK);
    params.n = 8;
    assert_int_equal(qr_sched_validate(sched, &params, &error), QUIRE_INVALID);
    assert_non_null(strstr(error.message, "7 such regions"));
    params.n = 1;
    params.expected_output_tokens = 9;
    assert_int_equal(qr_sched_validate(sched, &params, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "expected_output_tokens");
    qr_sched_destroy(sched);
    options.preemption_mode = QR_PREEMPT_SWAP;
    options.num_swap_blocks = 10;
    assert_int_equal(qr_sched_create(&options, &sched, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "preemption_mode");
    options = paper_options(QR_KV_ORCA_MAX, 16);
    options.max_chunk_tokens = 8;
    assert_int_equal(qr_sched_create(&options, &sched, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "max_chunk_tokens");
}

/* ---- figure 2 ---------------------------------------------------------------------------------- */

enum { MAX_ROWS = 10000, NUM_REQUESTS = 600 };

/* ShareGPT lengths, filtered as the paper does. */
static int read_trace(int32_t (*rows)[2])
{
    FILE *file = fopen("data/traces/sharegpt_lengths.csv", "r");
    if (!file) fail_msg("run from the top of the source tree: data/traces/sharegpt_lengths.csv not found");
    int num_rows = 0, prompt, output;
    char line[64];
    while (fgets(line, sizeof line, file) && num_rows < MAX_ROWS) {
        if (sscanf(line, "%d,%d", &prompt, &output) != 2 || prompt < 4 || output < 4 || prompt > 1024 ||
            prompt + output > 2048)
            continue;
        rows[num_rows][0] = prompt;
        rows[num_rows++][1] = output;
    }
    fclose(file);
    return num_rows;
}

/* The scheduler alone, always more requests than fit: how many run, what the memory is used for. */
static qr_sched_stats saturate(qr_kv_allocator allocator)
{
    static int32_t rows[MAX_ROWS][2], prompt[2048];
    const uint32_t num_rows = (uint32_t)read_trace(rows);
    const qr_sched_options options = paper_options(allocator, qr_kv_allocator_has_regions(allocator) ? 1 : 16);
    qr_sched *sched = sched_of(&options);
    random_state = 7;
    for (int i = 0; i < NUM_REQUESTS; i++) {
        const int32_t *row = rows[random_below(num_rows)];
        for (int32_t t = 0; t < row[0]; t++) prompt[t] = (int32_t)random_below(49152);
        const qr_request_params params = {
            .prompt_token_ids = prompt, .num_prompt_tokens = row[0], .max_output_tokens = row[1], .n = 1};
        add(sched, &params);
    }
    qr_sched_stats stats = {0};
    while (stats_of(sched).num_waiting > 0 || stats.num_steps == 0) {
        qr_sched_step step;
        qr_sched_schedule(sched, &step);
        qr_sched_commit_step(sched);
        stats = stats_of(sched);
        assert_int_equal(sum_of(stats.slots), options.num_blocks * options.block_size);
        for (int i = 0; i < step.num_entries; i++)
            if (step.entries[i].samples) take_token(sched, step.entries[i].seq, (int32_t)random_below(49152));
    }
    check(sched);
    qr_sched_destroy(sched);
    return stats;
}

static void memory_use_as_in_figure_2(void **state)
{
    (void)state;
    qr_slot_fractions f[QR_NUM_KV_ALLOCATORS];
    double running[QR_NUM_KV_ALLOCATORS];
    print_message("%-20s %8s %6s %9s %9s %9s %7s  (%% of 15,728 slots, mean over steps)\n", "", "running", "live",
                  "reserved", "internal", "external", "unused");
    for (int i = 0; i < QR_NUM_KV_ALLOCATORS; i++) {
        const qr_sched_stats stats = saturate((qr_kv_allocator)i);
        f[i] = stats.slot_fractions;
        running[i] = stats.mean_running;
        print_message("%-20s %8.2f %6.1f %9.1f %9.1f %9.1f %7.1f\n", qr_kv_allocator_name((qr_kv_allocator)i),
                      stats.mean_running, 100 * f[i].live, 100 * f[i].reserved, 100 * f[i].internal,
                      100 * f[i].external, 100 * f[i].unused);
    }
    assert_true(running[QR_KV_ORCA_MAX] == 7);
    assert_true(f[QR_KV_ORCA_ORACLE].internal == 0);
    assert_true(running[QR_KV_ORCA_MAX] < running[QR_KV_ORCA_POW2]);
    assert_true(running[QR_KV_ORCA_POW2] < running[QR_KV_ORCA_ORACLE]);
    assert_true(2 * running[QR_KV_ORCA_ORACLE] < running[QR_KV_VLLM]);
    assert_true(f[QR_KV_VLLM].live / (f[QR_KV_VLLM].live + f[QR_KV_VLLM].internal) > 0.963);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buddy_matches_a_bitmap),
        cmocka_unit_test(names_go_both_ways),
        cmocka_unit_test(orca_max_batches_seven),
        cmocka_unit_test(regions_fit_what_is_known),
        cmocka_unit_test(whole_groups_in_order),
        cmocka_unit_test(what_cannot_fit_is_refused),
        cmocka_unit_test(faster_transformer_runs_whole_batches),
        cmocka_unit_test(faster_transformer_takes_whole_groups),
        cmocka_unit_test(faster_transformer_fills_a_batch_over_steps),
        cmocka_unit_test(vllm_v0_computes_prompts_apart),
        cmocka_unit_test(vllm_v0_swaps_whole_groups),
        cmocka_unit_test(memory_use_as_in_figure_2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
