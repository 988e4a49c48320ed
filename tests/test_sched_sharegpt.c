/* Memory: how much of the KV blocks in use holds live tokens, on lengths from ShareGPT (the paper's figure 2: 96.3 %),
 * and what a step of the scheduler costs. Tokens are made up; no model runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "sched/scheduler.h"

enum { NUM_REQUESTS = 1000, MAX_ROWS = 10000, MAX_PROMPT = 1024, MAX_LEN = 2048 };

typedef struct row {
    int32_t num_prompt, num_output;
} row;

static uint64_t random_state = 1;
static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

/* The trace, filtered as the paper does. */
static int read_trace(row *rows)
{
    FILE *file = fopen("data/traces/sharegpt_lengths.csv", "r");
    if (!file) fail_msg("run from the top of the source tree: data/traces/sharegpt_lengths.csv not found");
    int num_rows = 0, prompt, output;
    char line[64];
    while (fgets(line, sizeof line, file) && num_rows < MAX_ROWS)
        if (sscanf(line, "%d,%d", &prompt, &output) == 2 && prompt >= 4 && output >= 4 && prompt <= MAX_PROMPT &&
            prompt + output <= MAX_LEN)
            rows[num_rows++] = (row){prompt, output};
    fclose(file);
    return num_rows;
}

static void submit(qr_sched *sched, row lengths, int n, bool same_prompt)
{
    static int32_t prompt[MAX_LEN];
    for (int32_t i = 0; i < lengths.num_prompt; i++) prompt[i] = same_prompt ? i : (int32_t)random_below(49152);
    const qr_request_params params = {.prompt_token_ids = prompt,
                                      .num_prompt_tokens = lengths.num_prompt,
                                      .max_output_tokens = lengths.num_output,
                                      .n = n};
    qr_request *request;
    quire_error error;
    if (qr_sched_add(sched, &params, &request, &error) != QUIRE_OK) fail_msg("%s", error.message);
}

static void take_token(qr_sched *sched, qr_seq *seq)
{
    qr_request *request = seq->request;
    qr_sched_append_token(sched, seq, (int32_t)random_below(49152));
    if (seq->num_output_tokens < request->max_output_tokens) return;
    qr_sched_finish_seq(sched, seq, QR_FINISHED_LENGTH_CAPPED);
}

/* One step of an engine whose model gives random tokens. Returns the time spent in the scheduler. */
static double run_step(qr_sched *sched, int *out_num_entries)
{
    const double start = qr_clock_seconds();
    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    qr_sched_commit_step(sched);
    for (int i = 0; i < step.num_entries; i++) {
        const qr_sched_entry *entry = &step.entries[i];
        qr_request *request = entry->request;
        if (!entry->samples) continue;
        if (!entry->forks) take_token(sched, entry->seq);
        for (int s = 0; s < request->n && entry->forks; s++) take_token(sched, &request->seqs[s]);
        if (qr_request_status_finished(request->status)) qr_sched_remove(sched, request);
    }
    *out_num_entries = step.num_entries;
    return qr_clock_seconds() - start;
}

static void live_share_of_slots_in_use(void **state)
{
    (void)state;
    static row rows[MAX_ROWS];
    const int num_rows = read_trace(rows);
    assert_true(num_rows > 5000);
    static const int64_t pools[] = {1000, 4000, 16000}; /* blocks: short of demand, about enough, ample */
    for (int p = 0; p < 3; p++) {
        qr_sched_options options;
        qr_sched_options_init(&options);
        options.num_blocks = pools[p];
        options.max_model_len = MAX_LEN;
        qr_sched *sched;
        quire_error error;
        if (qr_sched_create(&options, &sched, &error) != QUIRE_OK) fail_msg("%s", error.message);
        random_state = 1;
        int64_t prompt_tokens = 0, output_tokens = 0;
        for (int i = 0; i < NUM_REQUESTS; i++) {
            const row lengths = rows[random_below((uint32_t)num_rows)];
            prompt_tokens += lengths.num_prompt;
            output_tokens += lengths.num_output;
            submit(sched, lengths, 1, false);
        }
        int num_entries;
        while (qr_sched_has_unfinished(sched)) run_step(sched, &num_entries);
        qr_sched_stats stats;
        qr_sched_get_stats(sched, &stats);
        print_message(
            "%lld blocks of 16: %d requests (mean %.1f in, %.1f out), %llu steps, %llu preemptions, live share "
            "of slots in use %.2f %%\n",
            (long long)pools[p], NUM_REQUESTS, (double)prompt_tokens / NUM_REQUESTS,
            (double)output_tokens / NUM_REQUESTS, (unsigned long long)stats.num_steps,
            (unsigned long long)stats.num_preemptions, 100 * stats.live_slot_fraction);
        assert_true(stats.live_slot_fraction >= 0.963);
        assert_int_equal(stats.num_free_blocks, stats.num_blocks); /* 0 leaked */
        assert_int_equal(stats.num_live_slots, 0);
        assert_int_equal(qr_sched_check(sched, NULL), QUIRE_OK);
        qr_sched_destroy(sched);
    }
}

/* Sharing within a request: the prompt's blocks are stored once for n sequences. The paper saves 16.2 to 30.5 % of the
 * blocks on ShareGPT (section 6.3; prompts twice as long). */
static void parallel_sampling_saves_blocks(void **state)
{
    (void)state;
    static row rows[MAX_ROWS];
    const int num_rows = read_trace(rows);
    double saved[4] = {0};
    for (int n = 2; n <= 6; n += 2) {
        qr_sched_options options;
        qr_sched_options_init(&options);
        options.num_blocks = 16000;
        options.max_model_len = MAX_LEN;
        qr_sched *sched;
        quire_error error;
        if (qr_sched_create(&options, &sched, &error) != QUIRE_OK) fail_msg("%s", error.message);
        random_state = 1;
        for (int i = 0; i < NUM_REQUESTS / 4; i++) submit(sched, rows[random_below((uint32_t)num_rows)], n, false);
        int num_entries;
        while (qr_sched_has_unfinished(sched)) run_step(sched, &num_entries);
        qr_sched_stats stats;
        qr_sched_get_stats(sched, &stats);
        saved[n / 2] = stats.saved_block_fraction;
        print_message("n = %d: %.1f %% of the blocks saved by sharing, live share of slots in use %.1f %%\n", n,
                      100 * saved[n / 2], 100 * stats.live_slot_fraction);
        assert_int_equal(stats.num_free_blocks, stats.num_blocks);
        qr_sched_destroy(sched);
    }
    assert_true(saved[1] > 0.05 && saved[2] > saved[1] && saved[3] > saved[2] && saved[3] < 0.5);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Steps with 256 running sequences and a long queue: all of them advance; the time is printed, not judged. */
static void a_step_advances_all(void **state)
{
    (void)state;
    enum { NUM_STEPS = 1000, NUM_QUEUED = 100000 };
    qr_sched_options options;
    qr_sched_options_init(&options);
    options.num_blocks = 40000;
    options.max_model_len = 4096;
    options.max_num_seqs = 256;
    qr_sched *sched;
    quire_error error;
    if (qr_sched_create(&options, &sched, &error) != QUIRE_OK) fail_msg("%s", error.message);
    for (int i = 0; i < 256; i++) submit(sched, (row){100 + i, 3000}, 1, false);
    for (int i = 0; i < NUM_QUEUED; i++) submit(sched, (row){20, 30}, 1, true);
    int num_entries = 0;
    while (num_entries < 256) run_step(sched, &num_entries);
    static double seconds[NUM_STEPS];
    for (int i = 0; i < NUM_STEPS; i++) {
        seconds[i] = run_step(sched, &num_entries);
        assert_int_equal(num_entries, 256);
    }
    qsort(seconds, NUM_STEPS, sizeof *seconds, compare_doubles);
    print_message("schedule + commit + append, 256 sequences, %d queued: median %.1f us, 99th percentile %.1f us\n",
                  NUM_QUEUED, 1e6 * seconds[NUM_STEPS / 2], 1e6 * seconds[NUM_STEPS * 99 / 100]);
    qr_sched_destroy(sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(live_share_of_slots_in_use),
                                       cmocka_unit_test(parallel_sampling_saves_blocks),
                                       cmocka_unit_test(a_step_advances_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
