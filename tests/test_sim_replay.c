/* A real engine's schedule, run again in virtual time: every step must be the one recorded. And the log's parser. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "cli/simulate.h"
#include "sim/schedule.h"

enum { NUM_REQUESTS = 40, MAX_PROMPT = 200 };

static uint64_t random_state;
static int random_below(int n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int)((random_state >> 33) % (uint64_t)n);
}

static quire_model *open_model(void)
{
    const char *path = getenv("QUIRE_TEST_MODEL");
    if (!path) path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) != 0) return NULL;
    quire_model *model;
    quire_model_options options;
    quire_error error;
    quire_model_options_init(&options);
    options.threads = 2;
    if (quire_model_open(path, &options, &model, &error) != QUIRE_OK) fail_msg("%s", error.message);
    return model;
}

/* Prompts of all lengths, a third of them beginning alike; some end by themselves, some are two samples of one. */
static void submit_one(quire_engine *engine, int i)
{
    static int32_t prompt[MAX_PROMPT];
    quire_request_options options;
    quire_request *request;
    quire_error error;
    const int num_tokens = 1 + random_below(i % 4 == 0 ? MAX_PROMPT : 60);
    for (int t = 0; t < num_tokens; t++) prompt[t] = i % 3 == 0 && t < 48 ? 100 + t : 100 + random_below(5000);
    quire_request_options_init(&options);
    options.prompt_token_ids = prompt;
    options.num_prompt_tokens = (size_t)num_tokens;
    options.sampling.max_tokens = 4 + random_below(12);
    options.sampling.n = i % 7 == 3 ? 2 : 1;
    options.sampling.ignore_eos = i % 2 == 0;
    options.sampling.detokenize = false;
    options.sampling.prompt_logprobs = i % 11 == 5 ? 0 : -1;
    options.cache_salt = i % 5 == 4 ? "salt" : NULL;
    if (quire_submit(engine, &options, &request, &error) != QUIRE_OK) fail_msg("%s", error.message);
    quire_request_release(request);
}

/* Run requests, some of them while others are under way, and log the schedule. */
static void record(quire_model *model, const char *path, const char *preemption_mode)
{
    quire_engine *engine;
    quire_engine_options options;
    quire_error error;
    quire_engine_options_init(&options);
    options.num_kv_blocks = 30;
    options.max_model_len = 256;
    options.max_num_seqs = 12;
    options.max_num_batched_tokens = 64;
    options.preemption_mode = preemption_mode;
    options.swap_space_bytes = strcmp(preemption_mode, "swap") == 0 ? 1 << 22 : 0;
    options.schedule_log = path;
    if (quire_engine_create(model, &options, &engine, &error) != QUIRE_OK) fail_msg("%s", error.message);
    random_state = 1;
    for (int i = 0; i < NUM_REQUESTS; i++) {
        submit_one(engine, i);
        if (i % 10 == 9) nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    assert_int_equal(quire_engine_drain(engine, -1), QUIRE_OK);
    quire_engine_destroy(engine);
}

static quire_status parse(const char *name, const char *text, size_t bytes, void *out, quire_error *error)
{
    return qr_sim_schedule_parse(name, text, bytes, out, error);
}

static void check_log(const char *path)
{
    qr_sim_schedule schedule;
    qr_sim_replay replay;
    quire_error error;
    if (qr_cli_parse_file(path, parse, &schedule, &error) != QUIRE_OK) fail_msg("%s", error.message);
    assert_int_equal(schedule.trace.num_rows, NUM_REQUESTS);
    if (qr_sim_schedule_replay(&schedule, &replay, &error) != QUIRE_OK) fail_msg("%s", error.message);
    print_message("%lld of %lld steps of %d requests are the recorded ones\n", (long long)replay.num_same_steps,
                  (long long)replay.num_steps, NUM_REQUESTS);
    assert_string_equal(replay.difference, "");
    assert_int_equal(replay.num_same_steps, replay.num_steps);

    /* one block less, and it is another schedule: the comparison sees it */
    schedule.options.num_blocks--;
    if (qr_sim_schedule_replay(&schedule, &replay, &error) != QUIRE_OK) fail_msg("%s", error.message);
    assert_true(replay.num_same_steps < replay.num_steps);
    assert_non_null(strstr(replay.difference, "step"));
    schedule.options.num_blocks++;

    /* its own fit gives its own total time, near enough */
    static qr_sim_result result;
    qr_sim_fit fit;
    assert_int_equal(qr_sim_schedule_fit(&schedule, &fit, &error), QUIRE_OK);
    assert_true(fit.step_us >= 0 && fit.seq_us >= 0 && fit.token_us >= 0 && fit.pair_us >= 0);
    assert_true(fabs(fit.total_error) < 0.2); /* exactly 0 if no term had to be left out */
    qr_sim_cost cost = {
        .device = *qr_sim_find_device("cpu"), .model = *qr_sim_find_model("smollm2-135m"), .tensor_parallel_size = 1};
    cost.device.step_us = fit.step_us;
    cost.device.seq_us = fit.seq_us;
    cost.device.token_us = fit.token_us;
    cost.device.pair_us = fit.pair_us;
    assert_int_equal(qr_sim_schedule_simulate(&schedule, &cost, &result, &error), QUIRE_OK);
    assert_int_equal(result.num_requests, NUM_REQUESTS);
    print_message("%.3f s really, %.3f s simulated\n", replay.real_seconds, result.seconds);
    qr_sim_schedule_deinit(&schedule);
}

static void a_real_schedule_again(void **state)
{
    (void)state;
    quire_model *model = open_model();
    if (!model) skip();
    static const char *const modes[] = {"recompute", "swap"};
    for (int i = 0; i < 2; i++) {
        char path[] = "/tmp/quire-schedule-XXXXXX";
        const int fd = mkstemp(path);
        assert_true(fd >= 0);
        close(fd);
        record(model, path, modes[i]);
        check_log(path);
        unlink(path);
    }
    quire_model_close(model);
}

/* ---- the parser -------------------------------------------------------------------------------- */

#define OPTIONS                                                                                                     \
    "{\"schedule\": 1, \"kv_allocator\": \"vllm\", \"num_blocks\": 9, \"num_swap_blocks\": 0, \"block_size\": 16, " \
    "\"max_num_seqs\": 2, \"max_num_batched_tokens\": 64, \"max_model_len\": 99, \"max_chunk_tokens\": 0, "         \
    "\"policy\": \"fcfs\", \"num_speculative_tokens\": 0}\n"
#define REQUEST                                                                                        \
    "{\"request\": 1, \"n\": 1, \"max_output_tokens\": 2, \"expected_output_tokens\": 2, \"prompt\": " \
    "[5, 6]}\n"
#define STEP(id, start, entries)                \
    "{\"step\": " #id ", \"start_us\": " #start \
    ", \"copied_blocks\": 0, \"swapped_blocks\": 0, \"entries\": [" entries "]}\n"
#define COMPUTED(id, end) "{\"computed\": " #id ", \"end_us\": " #end "}\n"
#define FINISHED "{\"finished\": 1, \"outputs\": [[7, 8]]}\n"

static void a_log_by_hand(void **state)
{
    (void)state;
    const char *text =
        OPTIONS REQUEST STEP(1, 10, "[1,0,0,2]") COMPUTED(1, 20) STEP(2, 25, "[1,0,2,1]") FINISHED COMPUTED(2, 40);
    qr_sim_schedule s;
    qr_sim_replay replay;
    qr_sim_fit fit;
    quire_error error;
    if (qr_sim_schedule_parse("log", text, strlen(text), &s, &error) != QUIRE_OK) fail_msg("%s", error.message);
    assert_int_equal(s.num_steps, 2);
    assert_int_equal(s.scripts[0].outputs[0][1], 8);
    if (qr_sim_schedule_replay(&s, &replay, &error) != QUIRE_OK) fail_msg("%s", error.message);
    assert_string_equal(replay.difference, "");
    assert_true(fabs(replay.real_seconds - 30e-6) < 1e-12);
    assert_int_equal(qr_sim_schedule_fit(&s, &fit, &error), QUIRE_INVALID); /* too few steps */
    qr_sim_schedule_deinit(&s);
}

static void bad_logs_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
        quire_status status;
    } bad[] = {
        {"", "no steps", QUIRE_FORMAT},
        {"x", "line 1: not a JSON object", QUIRE_FORMAT},
        {REQUEST, "line 1: a schedule log's first line", QUIRE_FORMAT},
        {"{\"schedule\": 1}\n", "line 1: a schedule log's first line", QUIRE_FORMAT},
        {OPTIONS OPTIONS, "line 2: a second log", QUIRE_FORMAT},
        {OPTIONS "{}\n", "line 2: neither", QUIRE_FORMAT},
        {OPTIONS REQUEST REQUEST, "line 3: requests must be numbered", QUIRE_FORMAT},
        {OPTIONS "{\"request\": 1, \"n\": 3}\n", "line 2: \"n\"", QUIRE_FORMAT},
        {OPTIONS STEP(1, 1, "[1,0,0,2]"), "an entry names a request", QUIRE_FORMAT},
        {OPTIONS REQUEST STEP(1, 1, "[1,0,0]"), "an entry is", QUIRE_FORMAT},
        {OPTIONS REQUEST STEP(1, 1, ""), "\"entries\" are expected", QUIRE_FORMAT},
        {OPTIONS REQUEST STEP(2, 1, "[1,0,0,2]"), "steps must be numbered", QUIRE_FORMAT},
        {OPTIONS REQUEST STEP(1, 1, "[1,0,0,2]"), "has no \"computed\" line", QUIRE_FORMAT},
        {OPTIONS REQUEST STEP(1, 5, "[1,0,0,2]") COMPUTED(1, 4), "ends before it starts", QUIRE_FORMAT},
        {OPTIONS REQUEST STEP(1, 5, "[1,0,0,2]") COMPUTED(1, 9) STEP(2, 8, "[1,0,2,1]"), "before the end of the last",
         QUIRE_FORMAT},
        {OPTIONS REQUEST STEP(1, 5, "[1,0,0,2]") COMPUTED(1, 9), "request 1 has no \"finished\" line", QUIRE_FORMAT},
        {OPTIONS REQUEST FINISHED FINISHED, "finished already", QUIRE_FORMAT},
        {OPTIONS REQUEST "{\"finished\": 1, \"outputs\": [[1, 2, 3]]}\n", "more outputs", QUIRE_FORMAT},
        {OPTIONS REQUEST "{\"finished\": 1, \"outputs\": [[1, -2]]}\n", "token ids", QUIRE_FORMAT},
        {OPTIONS REQUEST "{\"aborted\": 1}\n", "an aborted request", QUIRE_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qr_sim_schedule s;
        quire_error error;
        assert_int_equal(qr_sim_schedule_parse("log", bad[i].text, strlen(bad[i].text), &s, &error), bad[i].status);
        if (!strstr(error.message, bad[i].message)) fail_msg("%zu: %s", i, error.message);
        assert_null(s.steps);
    }
}

/* Steps whose times are a known sum of terms give the terms back. */
static void fitting_recovers_the_terms(void **state)
{
    (void)state;
    enum { NUM_STEPS = 60 };
    static qr_sim_logged_step steps[NUM_STEPS];
    static qr_sim_logged_entry entries[NUM_STEPS * 4];
    const qr_sim_schedule s = {.steps = steps, .entries = entries, .num_steps = NUM_STEPS};
    qr_sim_fit fit;
    quire_error error;
    random_state = 3;
    for (int i = 0, at = 0; i < NUM_STEPS; i++) {
        qr_sim_load load = {0};
        steps[i] = (qr_sim_logged_step){.start = i, .first_entry = at, .num_entries = 1 + i % 4};
        for (int k = 0; k < steps[i].num_entries; k++) {
            entries[at] = (qr_sim_logged_entry){0, 0, random_below(900), 1 + random_below(k == 0 ? 100 : 1)};
            qr_sim_load_add(&load, entries[at].start, entries[at].num_new_tokens);
            at++;
        }
        const double us = 700 + 30.0 * load.num_seqs + 5.0 * (double)load.num_tokens + 0.01 * (double)load.num_pairs;
        steps[i].end = steps[i].start + us * 1e-6;
    }
    assert_int_equal(qr_sim_schedule_fit(&s, &fit, &error), QUIRE_OK);
    assert_true(fabs(fit.step_us - 700) < 0.1 && fabs(fit.seq_us - 30) < 0.01);
    assert_true(fabs(fit.token_us - 5) < 0.001 && fabs(fit.pair_us - 0.01) < 1e-5);
    assert_true(fit.mean_error < 1e-6 && fabs(fit.total_error) < 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_real_schedule_again), cmocka_unit_test(a_log_by_hand),
                                       cmocka_unit_test(bad_logs_are_named),
                                       cmocka_unit_test(fitting_recovers_the_terms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
