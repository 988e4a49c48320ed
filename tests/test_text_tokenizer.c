/* Tokenizers: ids and texts of tests/golden/tokenizers/ (made by the `tokenizers` package), whatever the cuts of the
 * detokenizer, refused files, hostile texts in linear time, failing allocations. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/tokenizer_impl.h"
#include "text/unicode.h"

#define GOLDEN "tests/golden/tokenizers/"

static json_t *load_json(const char *path)
{
    json_error_t error;
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!json) fail_msg("%s: %s", path, error.text);
    return json;
}

static qr_tokenizer *open_tokenizer(const char *path)
{
    quire_error error = {0};
    qr_checkpoint *ckpt;
    qr_tokenizer *tok = NULL;
    if (qr_checkpoint_open(path, &ckpt, &error) != QUIRE_OK || qr_tokenizer_create(ckpt, &tok, &error) != QUIRE_OK)
        fail_msg("%s: %s", path, error.message);
    qr_checkpoint_close(ckpt); /* the tokenizer keeps nothing of it */
    return tok;
}

/* The bytes of a text: {"text": ...} or {"hex": ...}. */
static qr_buf text_of(const json_t *item)
{
    qr_buf text = {0};
    const json_t *plain = json_object_get(item, "text");
    if (plain) {
        assert_int_equal(qr_buf_append(&text, json_string_value(plain), json_string_length(plain)), 0);
        return text;
    }
    for (const char *hex = json_string_value(json_object_get(item, "hex")); *hex; hex += 2) {
        unsigned byte;
        assert_int_equal(sscanf(hex, "%2x", &byte), 1);
        assert_int_equal(qr_buf_append(&text, &(char){(char)byte}, 1), 0);
    }
    return text;
}

static void check_ids(const qr_tokenizer *tok, const char *name, qr_buf text, bool special, const json_t *expected)
{
    quire_error error = {0};
    int32_t *ids;
    size_t num;
    if (qr_tokenizer_encode(tok, text.data ? text.data : "", text.len, special, special, &ids, &num, &error) !=
        QUIRE_OK)
        fail_msg("%s: %s", name, error.message);
    for (size_t i = 0; i < num || i < json_array_size(expected); i++)
        if (i >= num || i >= json_array_size(expected) || ids[i] != json_integer_value(json_array_get(expected, i)))
            fail_msg("%s: '%s': id %zu of %zu is %d, not %lld", name, text.data, i, num, i < num ? ids[i] : -1,
                     json_integer_value(json_array_get(expected, i)));
    qr_free(ids);
}

/* Decoded one id at a time; every increment is whole characters. */
static void check_text(const qr_tokenizer *tok, const char *name, const json_t *ids, bool skip_special,
                       const json_t *expected)
{
    qr_buf out = {0};
    qr_detok detok;
    qr_detok_init(&detok, tok, skip_special);
    for (size_t i = 0; i <= json_array_size(ids); i++) {
        size_t before = out.len;
        if (i < json_array_size(ids))
            assert_int_equal(qr_detok_push(&detok, (int32_t)json_integer_value(json_array_get(ids, i)), &out),
                             QUIRE_OK);
        else
            assert_int_equal(qr_detok_flush(&detok, &out), QUIRE_OK);
        assert_true(out.len == before || qr_unicode_is_valid(out.data + before, out.len - before));
    }
    if (out.len != json_string_length(expected) ||
        memcmp(out.data ? out.data : "", json_string_value(expected), out.len))
        fail_msg("%s: decoded '%s', not '%s'", name, out.data, json_string_value(expected));
    qr_free(out.data);
}

static void check_golden(const char *name, const char *model, const char *golden_path)
{
    json_t *texts = load_json(GOLDEN "texts.json"), *golden = load_json(golden_path), *expected;
    qr_tokenizer *tok = open_tokenizer(model);
    size_t i;
    assert_int_equal(json_array_size(texts), json_array_size(golden));
    json_array_foreach(golden, i, expected)
    {
        qr_buf text = text_of(json_array_get(texts, i));
        check_ids(tok, name, text, true, json_array_get(expected, 0));
        check_ids(tok, name, text, false, json_array_get(expected, 1));
        check_text(tok, name, json_array_get(expected, 0), false, json_array_get(expected, 2));
        check_text(tok, name, json_array_get(expected, 0), true, json_array_get(expected, 3));
        qr_free(text.data);
    }
    qr_tokenizer_destroy(tok);
    json_decref(texts);
    json_decref(golden);
}

static void families_equal_the_reference(void **state)
{
    (void)state;
    DIR *dir = opendir(GOLDEN);
    int num_families = 0, num_gguf = 0;
    assert_non_null(dir);
    for (const struct dirent *entry; (entry = readdir(dir));) {
        char path[512], golden[600];
        if (entry->d_name[0] == '.' || strchr(entry->d_name, '.')) continue;
        snprintf(path, sizeof path, GOLDEN "%s", entry->d_name);
        snprintf(golden, sizeof golden, "%s/golden.json", path);
        check_golden(entry->d_name, path, golden);
        num_families++;
        strcat(path, ".gguf");
        FILE *f = fopen(path, "rb");
        if (!f) continue;
        fclose(f);
        check_golden(path, path, golden);
        num_gguf++;
    }
    closedir(dir);
    assert_in_range(num_families, 20, 100);
    assert_in_range(num_gguf, 14, 100);
}

static const char *model_path(void)
{
    const char *path = getenv("QUIRE_TEST_MODEL");
    if (!path) path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    FILE *f = fopen(path, "rb");
    if (!f) {
        print_message("no model at %s: make model\n", path);
        skip();
    }
    fclose(f);
    return path;
}

static void smollm2_equals_the_reference(void **state)
{
    (void)state;
    char text[200];
    int num;
    size_t bytes;
    const char *path = model_path();
    check_golden("smollm2", path, GOLDEN "smollm2.golden.json");
    qr_tokenizer *tok = open_tokenizer(path);
    qr_tokenizer_describe(tok, text, sizeof text);
    assert_string_equal(text, "byte-level BPE, pre-tokenizer smollm, 49152 tokens, 48900 merges");
    assert_int_equal(qr_tokenizer_vocab_size(tok), 49152);
    assert_int_equal(qr_tokenizer_bos_id(tok), 1);
    assert_int_equal(qr_tokenizer_eos_id(tok), 2);
    assert_string_equal(qr_tokenizer_bos_text(tok), "<|im_start|>");
    assert_string_equal(qr_tokenizer_eos_text(tok), "<|im_end|>");
    assert_int_equal(qr_tokenizer_stop_ids(tok, &num)[0], 2);
    assert_int_equal(num, 1);
    assert_non_null(strstr(qr_tokenizer_chat_template(tok), "<|im_start|>"));
    assert_true(qr_tokenizer_is_special(tok, 2));
    assert_false(qr_tokenizer_is_special(tok, 20000));
    assert_false(qr_tokenizer_is_special(tok, -1));
    assert_null(qr_tokenizer_token(tok, 49152, &bytes));
    assert_memory_equal(qr_tokenizer_token(tok, 2, &bytes), "<|im_end|>", 10);
    assert_int_equal(bytes, 10);
    qr_tokenizer_destroy(tok);
}

/* ---- tokenizers made here ---- */

#define A_MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

static quire_status create(const char *json, const char *config, const char *generation, qr_tokenizer **tok,
                           quire_error *error)
{
    json_t *tokenizer = json_loads(json, 0, NULL);
    json_t *cfg = config ? json_loads(config, 0, NULL) : NULL,
           *gen = generation ? json_loads(generation, 0, NULL) : NULL;
    assert_non_null(tokenizer);
    quire_status status = qr_tokenizer_create_json(tokenizer, cfg, gen, NULL, NULL, tok, error);
    json_decref(tokenizer);
    json_decref(cfg);
    json_decref(gen);
    return status;
}

static void files_that_cannot_be_used_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        quire_status status;
        const char *says;
    } cases[] = {
        {"{}", QUIRE_FORMAT, "no model"},
        {"[1]", QUIRE_FORMAT, "no model"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0.0]]}}", QUIRE_UNSUPPORTED, "'Unigram'"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", QUIRE_UNSUPPORTED, "'WordPiece'"},
        {"{\"model\":{\"vocab\":[]}}", QUIRE_UNSUPPORTED, "no BPE"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", QUIRE_FORMAT, "0 tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000000},\"merges\":[]}}", QUIRE_FORMAT,
         "4000000001 tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1,\"b\":0},\"merges\":[]}}", QUIRE_FORMAT,
         "'a' has no valid id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", QUIRE_FORMAT, "given twice"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", QUIRE_FORMAT, "merge 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}}", QUIRE_FORMAT, "merge 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", QUIRE_FORMAT, "merge 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
         QUIRE_UNSUPPORTED, "end_of_word_suffix"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", QUIRE_UNSUPPORTED,
         "dropout"},
        {"{" A_MODEL ",\"normalizer\":{\"type\":\"Precompiled\"}}", QUIRE_UNSUPPORTED, "'Precompiled'"},
        {"{" A_MODEL ",\"normalizer\":{\"type\":\"Replace\"}}", QUIRE_FORMAT, "Replace"},
        {"{" A_MODEL ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", QUIRE_UNSUPPORTED, "'UnicodeScripts'"},
        {"{" A_MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"}}}", QUIRE_FORMAT, "'('"},
        {"{" A_MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"}}}", QUIRE_UNSUPPORTED,
         "intersection"},
        {"{" A_MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a{1,3}+\"}}}", QUIRE_UNSUPPORTED,
         "interval"},
        {"{" A_MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?m:a.)\"}}}", QUIRE_UNSUPPORTED,
         "flag"},
        {"{" A_MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Odd\"}}",
         QUIRE_FORMAT, "'Odd'"},
        {"{" A_MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}}", QUIRE_UNSUPPORTED,
         "template"},
        {"{" A_MODEL
         ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}}",
         QUIRE_FORMAT, "not defined"},
        {"{" A_MODEL ",\"decoder\":{\"type\":\"CTC\"}}", QUIRE_UNSUPPORTED, "'CTC'"},
        {"{" A_MODEL ",\"added_tokens\":[{\"content\":\"x\"}]}", QUIRE_FORMAT, "added token 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        quire_error error = {0};
        qr_tokenizer *tok;
        assert_int_equal(create(cases[i].json, NULL, NULL, &tok, &error), cases[i].status);
        assert_null(tok);
        if (!strstr(error.message, cases[i].says)) fail_msg("'%s' does not say %s", error.message, cases[i].says);
    }
}

#define ADDED(id, text) "{\"id\":" #id ",\"content\":\"" text "\",\"special\":true}"

static void other_files_name_the_special_tokens(void **state)
{
    (void)state;
    static const char json[] = "{" A_MODEL ",\"added_tokens\":[" ADDED(5, "<s>") "," ADDED(6, "</s>") "," ADDED(
        7,
        "<turn>") "],"
                  "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
                  "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[5]}}}}";
    static const char *const configs[] = {
        "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},\"chat_template\":\"T\",\"add_bos_token\":false}",
        "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":false,"
        "\"add_eos_token\":true,\"chat_template\":[{\"name\":\"x\",\"template\":\"no\"},{\"name\":\"default\","
        "\"template\":\"T\"}]}"};
    static const int32_t expected[2][2] = {{5, 2}, {2, 6}};
    for (int i = 0; i < 2; i++) {
        quire_error error = {0};
        qr_tokenizer *tok;
        int32_t *ids;
        size_t num;
        int num_stop;
        assert_int_equal(create(json, configs[i], "{\"eos_token_id\":[7,6,99]}", &tok, &error), QUIRE_OK);
        assert_int_equal(qr_tokenizer_encode(tok, "ab", 2, true, true, &ids, &num, &error), QUIRE_OK);
        assert_int_equal(num, 2);
        assert_memory_equal(ids, expected[i], sizeof expected[i]);
        qr_free(ids);
        assert_int_equal(qr_tokenizer_bos_id(tok), 5);
        assert_int_equal(qr_tokenizer_eos_id(tok), 6);
        const int32_t *stop = qr_tokenizer_stop_ids(tok, &num_stop);
        assert_int_equal(num_stop, 2);
        assert_int_equal(stop[0], 6);
        assert_int_equal(stop[1], 7);
        assert_string_equal(qr_tokenizer_chat_template(tok), "T");
        assert_int_equal(qr_tokenizer_vocab_size(tok), 8);
        assert_null(qr_tokenizer_token(tok, 4, &num));
        qr_tokenizer_destroy(tok);
    }
}

static void unknown_pre_tokenizers_are_named(void **state)
{
    (void)state;
    /* smollm.gguf with the name changed in place */
    FILE *f = fopen(GOLDEN "smollm.gguf", "rb");
    assert_non_null(f);
    static char data[1 << 16];
    size_t bytes = fread(data, 1, sizeof data, f);
    fclose(f);
    char *name = NULL, path[] = "/tmp/quire-test-XXXXXX.gguf";
    for (size_t i = 0; i + 22 < bytes && !name; i++)
        if (memcmp(data + i, "tokenizer.ggml.pre", 18) == 0) name = data + i + 18 + 4 + 8;
    assert_memory_equal(name, "smollm", 6);
    memcpy(name, "martin", 6);
    int fd = mkstemps(path, 5);
    f = fdopen(fd, "wb");
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
    quire_error error = {0};
    qr_checkpoint *ckpt;
    qr_tokenizer *tok;
    assert_int_equal(qr_checkpoint_open(path, &ckpt, &error), QUIRE_OK);
    assert_int_equal(qr_tokenizer_create(ckpt, &tok, &error), QUIRE_UNSUPPORTED);
    assert_non_null(strstr(error.message, "'martin'"));
    qr_checkpoint_close(ckpt);
    remove(path);
}

/* ---- bounds ---- */

static double encode_seconds(const qr_tokenizer *tok, const char *unit, const char *last, size_t bytes)
{
    size_t n = strlen(unit), num;
    char *text = malloc(bytes + 8);
    int32_t *ids;
    quire_error error = {0};
    for (size_t i = 0; i < bytes; i++) text[i] = unit[i % n];
    bytes -= bytes % n;
    strcpy(text + bytes, last);
    clock_t start = clock();
    if (qr_tokenizer_encode(tok, text, bytes + strlen(last), true, true, &ids, &num, &error) != QUIRE_OK)
        fail_msg("%s", error.message);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    qr_free(ids);
    free(text);
    return seconds;
}

static void hostile_texts_take_linear_time(void **state)
{
    (void)state;
    static const char *const families[] = {"llama3", "deepseek_llm", "falcon", "gpt_oss",
                                           "llama2", "mistral",      "odd",    "mpt"};
    static const char *const units[] = {"a",
                                        " ",
                                        "\n",
                                        " \n",
                                        "\t ",
                                        "1",
                                        "<",
                                        "<|im_",
                                        "Aa",
                                        "'",
                                        "\xE4\xB8\xAD",
                                        "\xFF",
                                        "\xCC\x81\xCC\xA3",
                                        "\xF0\x9F\x91\xA8\xE2\x80\x8D",
                                        "\xE3\x80\x80",
                                        "qwertyuiopasdfghjklzxcv"};
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        char path[200];
        snprintf(path, sizeof path, GOLDEN "%s", families[f]);
        qr_tokenizer *tok = open_tokenizer(path);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++)
            for (int x = 0; x < 2; x++) {
                double seconds = encode_seconds(tok, units[u], x ? "x" : "", 1 << 18);
                if (seconds > 2) fail_msg("%s: 256 KiB of '%s' took %.1f s", families[f], units[u], seconds);
            }
        qr_tokenizer_destroy(tok);
    }
}

static void costly_regexes_are_an_error(void **state)
{
    (void)state;
    quire_error error = {0};
    qr_tokenizer *tok;
    int32_t *ids;
    size_t num;
    char text[64];
    memset(text, 'a', sizeof text);
    assert_int_equal(create("{" A_MODEL
                            ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a|aa)+[bc]\"}}}",
                            NULL, NULL, &tok, &error),
                     QUIRE_OK);
    assert_int_equal(qr_tokenizer_encode(tok, text, sizeof text, true, true, &ids, &num, &error), QUIRE_UNSUPPORTED);
    assert_null(ids);
    assert_non_null(strstr(error.message, "too costly"));
    qr_tokenizer_destroy(tok);
}

static void failing_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    static const char *const families[] = {"odd", "llama3", "metaspace"};
    static const char text[] =
        "Hello  <mask> wordtok Norm \xC3\xA9\xCC\x81\xCC\xA3\xFF <|eot_id|> \xF0\x9F\x91\xA8 1234";
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        char path[200];
        snprintf(path, sizeof path, GOLDEN "%s/tokenizer.json", families[f]);
        json_t *json = load_json(path);
        bool done = false;
        for (uint64_t n = 0; !done; n++) {
            quire_error error = {0};
            qr_tokenizer *tok = NULL;
            int32_t *ids = NULL;
            size_t num;
            qr_mem_fail_after(n);
            quire_status status = qr_tokenizer_create_json(json, NULL, NULL, NULL, "template", &tok, &error);
            if (status == QUIRE_OK)
                status = qr_tokenizer_encode(tok, text, sizeof text - 1, true, true, &ids, &num, &error);
            qr_mem_fail_off();
            done = status == QUIRE_OK;
            if (!done) assert_int_equal(status, QUIRE_NOMEM);
            qr_free(ids);
            qr_tokenizer_destroy(tok);
            assert_in_range(n, 0, 10000);
        }
        json_decref(json);
    }
}

static void invalid_utf8_becomes_replacement_characters(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {{"a", "a"},
                 {"\x80", "\uFFFD"},
                 {"\xC3", "\uFFFD"},
                 {"a\xC3"
                  "b",
                  "a\uFFFDb"},
                 {"\xE2\x82", "\uFFFD"},
                 {"\xE2\x82(", "\uFFFD("},
                 {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
                 {"\xF0\x9F\x98"
                  "a",
                  "\uFFFDa"},
                 {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
                 {"\xC0\xAF", "\uFFFD\uFFFD"},
                 {"\xF0\x9F\x98\x80", "\U0001F600"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qr_buf out = {0};
        assert_int_equal(qr_unicode_replace_invalid(cases[i].bytes, strlen(cases[i].bytes), &out, NULL), QUIRE_OK);
        assert_string_equal(out.data, cases[i].text);
        assert_int_equal(qr_unicode_is_valid(cases[i].bytes, strlen(cases[i].bytes)),
                         strcmp(cases[i].bytes, cases[i].text) == 0);
        qr_free(out.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_equal_the_reference),
        cmocka_unit_test(smollm2_equals_the_reference),
        cmocka_unit_test(files_that_cannot_be_used_are_refused),
        cmocka_unit_test(other_files_name_the_special_tokens),
        cmocka_unit_test(unknown_pre_tokenizers_are_named),
        cmocka_unit_test(hostile_texts_take_linear_time),
        cmocka_unit_test(costly_regexes_are_an_error),
        cmocka_unit_test(failing_allocations_leave_nothing_behind),
        cmocka_unit_test(invalid_utf8_becomes_replacement_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
