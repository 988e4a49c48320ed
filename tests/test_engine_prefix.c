/* A stored prefix cache through the public API: what finds the prefixes of an earlier engine, and what must not. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "quire.h"

enum { PROMPT = 100, OUT = 30, N = 4 };

static char folder[] = "/tmp/quire-engine-prefix-XXXXXX";

typedef struct answer {
    int32_t tokens[N][OUT];
    int num[N], num_cached;
    double score[N];
} answer;

static quire_model *open_model(const char *path, const char *compute_dtype)
{
    quire_model_options options;
    quire_model *model = NULL;
    quire_error error = {0};
    quire_model_options_init(&options);
    options.compute_dtype = compute_dtype;
    options.threads = 1;
    if (quire_model_open(path, &options, &model, &error) != QUIRE_OK) fail_msg("%s", error.message);
    return model;
}

static quire_engine_options stored_options(void)
{
    quire_engine_options options;
    quire_engine_options_init(&options);
    options.num_kv_blocks = 64;
    options.prefix_cache_path = folder;
    options.prefix_cache_space_bytes = 8 << 20;
    return options;
}

static quire_engine *start(quire_model *model, const quire_engine_options *options)
{
    quire_engine *engine = NULL;
    quire_error error = {0};
    if (quire_engine_create(model, options, &engine, &error) != QUIRE_OK) fail_msg("%s", error.message);
    return engine;
}

static quire_request_options request_options(void)
{
    static int32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++) prompt[i] = 3 + i * 7 % 300;
    quire_request_options o;
    quire_request_options_init(&o);
    o.prompt_token_ids = prompt;
    o.num_prompt_tokens = PROMPT;
    o.sampling.max_tokens = OUT;
    o.sampling.ignore_eos = true;
    o.sampling.has_seed = true;
    o.sampling.detokenize = false;
    return o;
}

static answer ask(quire_engine *engine, const quire_request_options *options)
{
    answer a = {0};
    quire_request *request = NULL;
    quire_error error = {0};
    const quire_output *o;
    if (quire_submit(engine, options, &request, &error) != QUIRE_OK) fail_msg("%s", error.message);
    while (quire_request_next(request, -1, &o) == QUIRE_OK) {
        assert_true(o->finish_reason != QUIRE_FINISH_ERROR);
        for (int i = 0; i < o->num_tokens; i++) a.tokens[o->index][a.num[o->index]++] = o->token_ids[i];
        a.num_cached = o->num_cached_tokens;
        if (options->sampling.use_beam_search) a.score[o->index] = o->beam_score;
    }
    quire_request_release(request);
    return a;
}

/* An engine for one request. */
static answer ask_once(quire_model *model, const quire_engine_options *options, const quire_request_options *request)
{
    quire_engine *engine = start(model, options);
    const answer a = ask(engine, request);
    quire_engine_destroy(engine);
    return a;
}

static void same_answer(const answer *a, const answer *b)
{
    assert_memory_equal(a->tokens, b->tokens, sizeof a->tokens);
    assert_memory_equal(a->num, b->num, sizeof a->num);
    assert_memory_equal(a->score, b->score, sizeof a->score);
}

static void clear_folder(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -f %s/*", folder);
    assert_int_equal(system(command), 0);
}

/* The prompt's whole blocks but for the last token: 96 of 100 tokens with blocks of 16. */
static void found_by_the_next_engine(void **state)
{
    (void)state;
    clear_folder();
    quire_model *model = open_model("tests/golden/tiny/llama", "auto");
    const quire_engine_options options = stored_options();
    quire_request_options request = request_options();
    const answer first = ask_once(model, &options, &request);
    assert_int_equal(first.num_cached, 0);
    quire_engine *engine = start(model, &options);
    quire_stats stats;
    quire_engine_get_stats(engine, &stats);
    assert_int_equal(stats.num_prefix_store_blocks, (PROMPT + OUT - 1) / 16);
    assert_true(stats.max_prefix_store_blocks >= stats.num_prefix_store_blocks);
    const answer second = ask(engine, &request);
    same_answer(&first, &second);
    assert_int_equal(second.num_cached, 96);
    assert_int_equal(quire_engine_drain(engine, -1), QUIRE_OK);
    quire_engine_get_stats(engine, &stats);
    assert_int_equal(stats.external_prefix_cache_queries, PROMPT);
    assert_int_equal(stats.external_prefix_cache_hits, 96);
    assert_int_equal(stats.prefix_cache_hits, 0);
    quire_engine_destroy(engine);

    request.cache_salt = "another's"; /* their prefixes are not ours */
    const answer salted = ask_once(model, &options, &request);
    same_answer(&first, &salted);
    assert_int_equal(salted.num_cached, 0);
    request.cache_salt = NULL;
    request.sampling.prompt_logprobs = 0; /* needs the whole prompt's logits */
    const answer computed = ask_once(model, &options, &request);
    same_answer(&first, &computed);
    assert_int_equal(computed.num_cached, 0);
    quire_model_close(model);
}

/* n sequences, best_of and beams, with swapping and without, from the same stored prefix. */
static void groups_start_from_it(void **state)
{
    (void)state;
    clear_folder();
    quire_model *model = open_model("tests/golden/tiny/llama", "auto");
    for (int kind = 0; kind < 3; kind++) {
        quire_request_options request = request_options();
        request.sampling.n = kind == 1 ? 2 : N;
        request.sampling.best_of = kind == 1 ? N : 0;
        request.sampling.use_beam_search = kind == 2;
        request.sampling.temperature = 1;
        quire_engine_options plain = stored_options(), few = stored_options();
        plain.prefix_cache_path = NULL;
        plain.enable_prefix_caching = false;
        few.num_kv_blocks = 24;
        few.max_model_len = 200;
        if (kind == 1) few.preemption_mode = "swap", few.swap_space_bytes = 1 << 20;
        const answer expected = ask_once(model, &plain, &request);
        for (int round = 0; round < 2; round++) {
            const answer got = ask_once(model, &few, &request);
            same_answer(&expected, &got);
            assert_int_equal(got.num_cached, kind + round > 0 ? 96 : 0);
        }
    }
    quire_model_close(model);
}

static void expect_nothing_found(quire_model *model, const quire_engine_options *options)
{
    const quire_request_options request = request_options();
    assert_int_equal(ask_once(model, options, &request).num_cached, 0);
    assert_true(ask_once(model, options, &request).num_cached > 0); /* in a file of its own */
}

/* A copy of the tiny model with one bit of its last weight changed. */
static void copy_model(const char *to)
{
    char command[256], path[128];
    snprintf(command, sizeof command,
             "mkdir %s && cp tests/golden/tiny/llama/*.json tests/golden/tiny/llama/*.safetensors %s", to, to);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", to);
    struct stat st;
    char byte;
    const int fd = open(path, O_RDWR);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(pread(fd, &byte, 1, st.st_size - 4), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, st.st_size - 4), 1);
    close(fd);
}

static void not_found_by_another(void **state)
{
    (void)state;
    clear_folder();
    quire_model *model = open_model("tests/golden/tiny/llama", "auto");
    quire_engine_options options = stored_options();
    expect_nothing_found(model, &options);
    options.block_size = 32;
    expect_nothing_found(model, &options);
    options.block_size = 16;
    options.kv_cache_dtype = "float32";
    expect_nothing_found(model, &options);
    options.kv_cache_dtype = "int8";
    expect_nothing_found(model, &options);
    options = stored_options(); /* and none of them has touched the first one's file */
    const quire_request_options request = request_options();
    assert_int_equal(ask_once(model, &options, &request).num_cached, 96);
    quire_model_close(model);
    options.kv_cache_dtype = "float16";
    model = open_model("tests/golden/tiny/llama", "float32");
    expect_nothing_found(model, &options);
    quire_model_close(model);
    char copy[] = "/tmp/quire-engine-prefix-copy-XXXXXX", command[64];
    assert_non_null(mkdtemp(copy));
    assert_int_equal(rmdir(copy), 0);
    copy_model(copy);
    model = open_model(copy, "auto");
    expect_nothing_found(model, &options);
    quire_model_close(model);
    snprintf(command, sizeof command, "rm -r %s", copy);
    assert_int_equal(system(command), 0);
}

static void one_engine_at_a_time_and_errors(void **state)
{
    (void)state;
    clear_folder();
    quire_model *model = open_model("tests/golden/tiny/llama", "auto");
    quire_engine_options options = stored_options();
    quire_engine *engine = start(model, &options), *other = NULL;
    quire_error error;
    assert_int_equal(quire_engine_create(model, &options, &other, &error), QUIRE_IO);
    assert_non_null(strstr(error.message, "another engine"));
    assert_string_equal(error.param, "prefix_cache_path");
    quire_engine_destroy(engine);
    options.enable_prefix_caching = false;
    assert_int_equal(quire_engine_create(model, &options, &other, &error), QUIRE_INVALID);
    options = stored_options();
    options.prefix_cache_space_bytes = 100;
    assert_int_equal(quire_engine_create(model, &options, &other, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "prefix_cache_space");
    options = stored_options();
    options.prefix_cache_path = "tests/no-such-folder";
    assert_int_equal(quire_engine_create(model, &options, &other, &error), QUIRE_IO);
    options = stored_options();
    options.scheduling_policy = "none"; /* fails after the file was opened: it is closed again */
    assert_int_equal(quire_engine_create(model, &options, &other, &error), QUIRE_INVALID);
    options = stored_options();
    quire_engine_destroy(start(model, &options));
    quire_model_close(model);
}

static void a_reset_forgets_the_file_too(void **state)
{
    (void)state;
    clear_folder();
    quire_model *model = open_model("tests/golden/tiny/llama", "auto");
    const quire_engine_options options = stored_options();
    const quire_request_options request = request_options();
    ask_once(model, &options, &request);
    quire_engine *engine = start(model, &options);
    quire_engine_reset_prefix_cache(engine);
    assert_int_equal(ask(engine, &request).num_cached, 0);
    assert_int_equal(ask(engine, &request).num_cached, 96);
    quire_engine_reset_prefix_cache(engine);
    quire_engine_destroy(engine);
    quire_model_close(model);
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    clear_folder();
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_by_the_next_engine),     cmocka_unit_test(groups_start_from_it),
        cmocka_unit_test(not_found_by_another),         cmocka_unit_test(one_engine_at_a_time_and_errors),
        cmocka_unit_test(a_reset_forgets_the_file_too),
    };
    return cmocka_run_group_tests_name("engine_prefix", tests, set_up, tear_down);
}
