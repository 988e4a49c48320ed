/* speculate: the n-gram index against a plain search, the configuration's errors, how many drafts pay. That speculation
 * changes no output is in test_determinism.c. */
#define _XOPEN_SOURCE 700
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/speculate.h"
#include "quire.h"

/* ---- n-grams ---------------------------------------------------------------------------------- */

static qr_ngram *ngram_of(const int32_t *tokens, int num, int min_ngram, int max_ngram)
{
    qr_ngram *ngram;
    quire_error error;
    if (qr_ngram_create(num > 0 ? num : 1, min_ngram, max_ngram, &ngram, &error) != QUIRE_OK) fail_msg("create");
    for (int i = 0; i < num; i++) qr_ngram_push(ngram, tokens[i]);
    assert_int_equal(qr_ngram_num_tokens(ngram), num);
    return ngram;
}

static void expect_drafts(const int32_t *tokens, int num, int min_ngram, int max_ngram, const int32_t *drafts,
                          int num_drafts)
{
    int32_t got[8];
    qr_ngram *ngram = ngram_of(tokens, num, min_ngram, max_ngram);
    assert_int_equal(qr_ngram_propose(ngram, num_drafts ? num_drafts : 4, got), num_drafts);
    if (num_drafts) assert_memory_equal(got, drafts, (size_t)num_drafts * sizeof *got);
    qr_ngram_destroy(ngram);
}

static void drafts_are_what_followed_before(void **state)
{
    (void)state;
    const int32_t copy[] = {1, 2, 3, 4, 5, 6, 9, 1, 2, 3}, copied[] = {4, 5, 6, 9};
    expect_drafts(copy, 10, 3, 3, copied, 4);
    expect_drafts(copy, 10, 4, 4, NULL, 0); /* "9 1 2 3" is new */
    expect_drafts(copy, 10, 2, 8, copied, 4);
    const int32_t latest[] = {1, 2, 5, 1, 2, 6, 1, 2}, after_latest[] = {6, 1};
    expect_drafts(latest, 8, 2, 2, after_latest, 2);
    const int32_t longest[] = {8, 1, 2, 5, 9, 1, 2, 6, 8, 1, 2}, after_longest[] = {5, 9};
    expect_drafts(longest, 11, 2, 3, after_longest, 2);
    const int32_t periodic[] = {4, 7, 8, 7, 8}, goes_on[] = {7, 8, 7, 8, 7, 8};
    expect_drafts(periodic, 5, 2, 2, goes_on, 6);
    const int32_t same[] = {3, 3}, more[] = {3, 3, 3};
    expect_drafts(same, 2, 1, 4, more, 3);
    expect_drafts(same, 1, 1, 4, NULL, 0);
    expect_drafts(same, 0, 1, 4, NULL, 0);
}

/* The latest place where the most of the last tokens, min to max, stood before; its end, 0 for none. */
static int search(const int32_t *tokens, int num, int min_ngram, int max_ngram)
{
    for (int length = max_ngram; length >= min_ngram; length--)
        for (int end = num - 1; end >= length; end--)
            if (memcmp(tokens + end - length, tokens + num - length, (size_t)length * sizeof *tokens) == 0) return end;
    return 0;
}

static void the_index_finds_what_a_search_finds(void **state)
{
    (void)state;
    int32_t tokens[400], drafts[4];
    uint32_t random = 1;
    int num_found = 0;
    for (int round = 0; round < 40; round++) {
        const int min_ngram = 1 + round % 3, max_ngram = min_ngram + round % 4;
        qr_ngram *ngram = ngram_of(tokens, 0, min_ngram, max_ngram);
        qr_ngram_destroy(ngram);
        quire_error error;
        assert_int_equal(qr_ngram_create(400, min_ngram, max_ngram, &ngram, &error), QUIRE_OK);
        for (int num = 1; num <= 400; num++) {
            random = random * 1664525 + 1013904223;
            tokens[num - 1] = (int32_t)(random >> 24) % (round % 3 == 0 ? 64 : 16);
            qr_ngram_push(ngram, tokens[num - 1]);
            const int end = search(tokens, num, min_ngram, max_ngram);
            const int got = qr_ngram_propose(ngram, 4, drafts);
            assert_int_equal(got, end > 0 ? 4 : 0);
            for (int i = 0; i < got && end + i < num; i++) assert_int_equal(drafts[i], tokens[end + i]);
            num_found += got > 0;
        }
        qr_ngram_destroy(ngram);
    }
    assert_true(num_found > 1000 && num_found < 15000);
}

/* ---- configuration ----------------------------------------------------------------------------- */

static void the_configuration_is_vllms(void **state)
{
    (void)state;
    qr_spec_config c;
    quire_error error;
    assert_int_equal(qr_spec_parse(NULL, &c, &error), QUIRE_OK);
    assert_int_equal(c.method, QR_SPEC_OFF);
    assert_int_equal(c.num_tokens, 0);
    assert_int_equal(qr_spec_parse("{\"method\": \"ngram\", \"num_speculative_tokens\": 3}", &c, &error), QUIRE_OK);
    assert_int_equal(c.method, QR_SPEC_NGRAM);
    assert_int_equal(c.num_tokens, 3);
    assert_true(c.min_ngram == 5 && c.max_ngram == 5 && c.adaptive);
    assert_int_equal(qr_spec_parse("{\"method\": \"ngram\", \"num_speculative_tokens\": 32, \"prompt_lookup_max\": 4,"
                                   "\"prompt_lookup_min\": 2, \"adaptive\": false}",
                                   &c, &error),
                     QUIRE_OK);
    assert_true(c.num_tokens == 32 && c.min_ngram == 2 && c.max_ngram == 4 && !c.adaptive);
    qr_spec_config_deinit(&c);
}

static void bad_configurations_are_explained(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "not JSON"},
        {"ngram", "not JSON"},
        {"[]", "not a JSON object"},
        {"{}", "\"method\""},
        {"{\"method\": 1}", "\"method\""},
        {"{\"method\": \"eagle\", \"num_speculative_tokens\": 2}", "\"method\""},
        {"{\"method\": \"ngram\"}", "num_speculative_tokens: missing"},
        {"{\"method\": \"ngram\", \"num_speculative_tokens\": 0}", "from 1 to 32"},
        {"{\"method\": \"ngram\", \"num_speculative_tokens\": 33}", "from 1 to 32"},
        {"{\"method\": \"ngram\", \"num_speculative_tokens\": 2.5}", "whole number"},
        {"{\"method\": \"ngram\", \"num_speculative_tokens\": 2, \"num_speculative_tokens\": 3}", "not JSON"},
        {"{\"method\": \"ngram\", \"num_speculative_tokens\": 2, \"prompt_lookup_max\": 0}", "prompt_lookup_max"},
        {"{\"method\": \"ngram\", \"num_speculative_tokens\": 2, \"prompt_lookup_max\": 2, \"prompt_lookup_min\": 3}",
         "above"},
        {"{\"method\": \"ngram\", \"num_speculative_tokens\": 2, \"adaptive\": 1}", "adaptive"},
        {"{\"method\": \"ngram\", \"num_speculative_tokens\": 2, \"model\": \"x\"}", "no field \"model\""},
        {"{\"method\": \"draft_model\", \"num_speculative_tokens\": 2}", "path of a draft model"},
        {"{\"model\": 7, \"num_speculative_tokens\": 2}", "path of a draft model"},
        {"{\"model\": \"x\", \"num_speculative_tokens\": 2, \"prompt_lookup_max\": 2}", "no field"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qr_spec_config c;
        quire_error error;
        if (qr_spec_parse(bad[i][0], &c, &error) != QUIRE_INVALID) fail_msg("accepted: %s", bad[i][0]);
        if (!strstr(error.message, bad[i][1])) fail_msg("%s: %s", bad[i][0], error.message);
        assert_string_equal(error.param, "speculative_config");
        qr_spec_config_deinit(&c);
    }
}

static void write_file(const char *folder, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* The tiny model in a new folder, with a tokenizer whose token 1 is `second`. */
static void make_model(char *folder, const char *second)
{
    static const char *const links[] = {"config.json", "model.safetensors"};
    char text[256], cwd[256], target[600], link[300];
    assert_non_null(mkdtemp(folder));
    assert_non_null(getcwd(cwd, sizeof cwd));
    for (int i = 0; i < 2; i++) {
        snprintf(target, sizeof target, "%s/tests/golden/tiny/llama/%s", cwd, links[i]);
        snprintf(link, sizeof link, "%s/%s", folder, links[i]);
        assert_int_equal(symlink(target, link), 0);
    }
    snprintf(text, sizeof text,
             "{\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, "
             "\"%s\": 1}, \"merges\": []}}",
             second);
    write_file(folder, "tokenizer.json", text);
}

static void remove_model(const char *folder)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
    char path[300];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(folder), 0);
}

/* The error of an engine of `path` with the draft model. */
static void expect_refused(const char *path, const char *draft, const char *why)
{
    quire_model_options model_options;
    quire_engine_options options;
    quire_model *model;
    quire_engine *engine;
    quire_error error;
    char config[400];
    quire_model_options_init(&model_options);
    model_options.threads = 1;
    if (quire_model_open(path, &model_options, &model, &error) != QUIRE_OK) fail_msg("%s", error.message);
    quire_engine_options_init(&options);
    options.num_kv_blocks = 10;
    snprintf(config, sizeof config, "{\"model\": \"%s\", \"num_speculative_tokens\": 2}", draft);
    options.speculative_config = config;
    assert_int_equal(quire_engine_create(model, &options, &engine, &error), QUIRE_INVALID);
    if (!strstr(error.message, why)) fail_msg("%s", error.message);
    assert_string_equal(error.param, "speculative_config");
    quire_model_close(model);
}

static void draft_models_must_share_the_tokenizer(void **state)
{
    (void)state;
    static const char llama[] = "tests/golden/tiny/llama";
    char ab[] = "build/draft_ab_XXXXXX", ac[] = "build/draft_ac_XXXXXX";
    make_model(ab, "b");
    make_model(ac, "c");
    expect_refused(llama, "tests/no-such-model", "no such file");
    expect_refused(llama, "tests/golden/tiny/llama/config.json", "draft model");
    expect_refused(llama, ab, "has a tokenizer, the model has none");
    expect_refused(ab, llama, "has no tokenizer, the model has one");
    expect_refused(ab, ac, "token 1 is 'c', not 'b'");
    remove_model(ab);
    remove_model(ac);
}

/* ---- how many ---------------------------------------------------------------------------------- */

static void drafts_are_as_many_as_pay(void **state)
{
    (void)state;
    const qr_spec_config config = {.method = QR_SPEC_NGRAM, .adaptive = true};
    qr_spec_costs costs = {0};
    qr_spec_seq seq;
    qr_spec_seq_init(&seq);
    for (int i = 0; i < 200; i++) qr_spec_observe_step(&costs, 1 + i % 8, 1000 + 10 * (1 + i % 8));
    assert_true(costs.us_per_token > 9.9 && costs.us_per_token < 10.1);
    for (int i = 0; i < 100; i++) qr_spec_observe_drafts(&seq, 4, 4);
    assert_int_equal(qr_spec_num_drafts(&seq, &config, &costs, 6, 1), 6);
    assert_int_equal(qr_spec_num_drafts(&seq, &config, &costs, 6, 8), 6);
    assert_int_equal(qr_spec_num_drafts(&seq, &config, &costs, 6, 10000), 0); /* each token costs what it is worth */

    for (int i = 0; i < 200; i++) qr_spec_observe_drafts(&seq, 4, i % 2); /* half of the first ones, no second one */
    const int num = qr_spec_num_drafts(&seq, &config, &costs, 32, 8);
    assert_true(num > 0 && num < 8);
    for (int i = 0; i < 200; i++) qr_spec_observe_drafts(&seq, 4, 0);
    int sum = 0;
    for (int i = 0; i < 320; i++) sum += qr_spec_num_drafts(&seq, &config, &costs, 6, 1);
    assert_int_equal(sum, 10); /* one now and then */
    for (int i = 0; i < 30; i++) qr_spec_observe_drafts(&seq, 1, 1);
    assert_int_equal(qr_spec_num_drafts(&seq, &config, &costs, 6, 1), 6); /* it pays again */
}

static void the_draft_model_leaves_what_does_not_pay(void **state)
{
    (void)state;
    const qr_spec_config config = {.method = QR_SPEC_DRAFT_MODEL, .adaptive = true};
    qr_spec_costs costs = {0};
    qr_spec_seq seq;
    qr_spec_seq_init(&seq);
    qr_spec_seq second = seq;
    assert_true(qr_spec_follows(&seq, &config, &costs, 1)); /* nothing is known yet */
    assert_false(qr_spec_follows(&second, &config, &costs, 1));
    assert_int_equal(second.draft, QR_SPEC_UNDECIDED); /* the first finds out */
    for (int i = 0; i < 200; i++) qr_spec_observe_step(&costs, 1 + i % 8, 1000 + 10 * (1 + i % 8));
    for (int i = 0; i < 100; i++) qr_spec_observe_proposal(&costs, 4, 400);
    assert_true(qr_spec_num_drafts(&seq, &config, &costs, 4, 1) > 0);
    assert_true(qr_spec_follows(&second, &config, &costs, 1));
    for (int i = 0; i < 100; i++) qr_spec_observe_proposal(&costs, 4, 8000); /* as dear as the model itself */
    int num_asked = 0;
    while (qr_spec_follows(&seq, &config, &costs, 1) && num_asked++ < 100)
        assert_int_equal(qr_spec_num_drafts(&seq, &config, &costs, 4, 1), 0);
    assert_int_equal(num_asked, 4);
    int num_followed = 0;
    for (int i = 0; i < 640; i++) {
        qr_spec_seq_init(&seq);
        num_followed += qr_spec_follows(&seq, &config, &costs, 1);
    }
    assert_int_equal(num_followed, 10); /* to find out whether it still does not */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drafts_are_what_followed_before),
        cmocka_unit_test(the_index_finds_what_a_search_finds),
        cmocka_unit_test(the_configuration_is_vllms),
        cmocka_unit_test(bad_configurations_are_explained),
        cmocka_unit_test(draft_models_must_share_the_tokenizer),
        cmocka_unit_test(drafts_are_as_many_as_pay),
        cmocka_unit_test(the_draft_model_leaves_what_does_not_pay),
    };
    return cmocka_run_group_tests_name("speculate", tests, NULL, NULL);
}
