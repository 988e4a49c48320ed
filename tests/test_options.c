/* options: parsing of every kind, what is said about mistakes, and the help page. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/options.h"

typedef struct settings {
    bool verbose, chunked, seed_given;
    int port;
    int64_t blocks;
    uint64_t seed;
    double rate;
    size_t memory;
    const char *host, *dtype;
    qr_option_list stop;
} settings;

static const qr_option basic[] = {
    {.name = "verbose",
     .kind = QR_OPTION_FLAG,
     .offset = offsetof(settings, verbose),
     .help = "say more",
     .short_name = 'v'},
    {.name = "enable-chunked-prefill",
     .kind = QR_OPTION_SWITCH,
     .offset = offsetof(settings, chunked),
     .help = "cut prompts"},
    {.name = "port",
     .kind = QR_OPTION_INT,
     .offset = offsetof(settings, port),
     .metavar = "N",
     .help = "port",
     .max = 65535},
    {.name = "host",
     .kind = QR_OPTION_STRING,
     .offset = offsetof(settings, host),
     .metavar = "NAME",
     .help = "address",
     .short_name = 'H'},
    {0},
};
static const qr_option more[] = {
    {.name = "num-kv-blocks",
     .kind = QR_OPTION_INT64,
     .offset = offsetof(settings, blocks),
     .metavar = "N",
     .help = "blocks",
     .alias = "num-gpu-blocks-override",
     .default_text = "from memory"},
    {.name = "seed",
     .kind = QR_OPTION_UINT64,
     .offset = offsetof(settings, seed),
     .metavar = "N",
     .help = "seed",
     .given = offsetof(settings, seed_given)},
    {.name = "rate",
     .kind = QR_OPTION_DOUBLE,
     .offset = offsetof(settings, rate),
     .metavar = "X",
     .help = "rate",
     .alias = "ra"},
    {.name = "memory-bytes",
     .kind = QR_OPTION_BYTES,
     .offset = offsetof(settings, memory),
     .metavar = "SIZE",
     .help = "memory"},
    {.name = "dtype",
     .kind = QR_OPTION_CHOICE,
     .offset = offsetof(settings, dtype),
     .choices = "auto|float16|float32",
     .help = "type"},
    {.name = "stop", .kind = QR_OPTION_LIST, .offset = offsetof(settings, stop), .metavar = "TEXT", .help = "stop"},
    {0},
};
static const qr_option_group group_basic = {"Basic", basic}, group_more = {"More", more};
static const qr_option_group *const groups[] = {&group_basic, &group_more, NULL};

static const settings defaults = {
    .chunked = true, .port = 8000, .rate = 0.5, .memory = 3u << 20, .host = "127.0.0.1", .dtype = "auto"};

enum { MAX_WORDS = 2 };
static settings got;
static const char *words[MAX_WORDS];
static qr_positionals positionals;
static quire_error error;

static quire_status parse(const char *line)
{
    static char copy[512];
    char *argv[32];
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    got = defaults;
    positionals = (qr_positionals){words, MAX_WORDS, 0};
    memset(&error, 0, sizeof error);
    return qr_options_parse(groups, &got, argc, argv, &positionals, &error);
}

static void every_kind_is_parsed(void **state)
{
    (void)state;
    assert_int_equal(parse("model.gguf --port=80 --host ::1 -v --no-enable-chunked-prefill --num_kv_blocks 4k "
                           "--seed 18446744073709551615 --rate inf --memory-bytes 1.5GiB --dtype float16 "
                           "--stop a --stop=--b second"),
                     QUIRE_OK);
    assert_int_equal(positionals.count, 2);
    assert_string_equal(words[0], "model.gguf");
    assert_string_equal(words[1], "second");
    assert_int_equal(got.port, 80);
    assert_string_equal(got.host, "::1");
    assert_true(got.verbose && !got.chunked && got.seed_given);
    assert_int_equal(got.blocks, 4000);
    assert_true(got.seed == UINT64_MAX);
    assert_true(got.rate > 1e300);
    assert_int_equal(got.memory, 3u << 29);
    assert_string_equal(got.dtype, "float16");
    assert_int_equal(got.stop.count, 2);
    assert_string_equal(got.stop.items[1], "--b");

    assert_int_equal(parse("--num-gpu-blocks-override 7 -H x -Hy -- --port"), QUIRE_OK);
    assert_int_equal(got.blocks, 7);
    assert_string_equal(got.host, "y");
    assert_string_equal(words[0], "--port");
    assert_int_equal(parse("-ra 2"), QUIRE_OK); /* an alias of two letters, as vLLM's -tp */
    assert_true(got.rate == 2);
    assert_int_equal(parse("-ra=3"), QUIRE_OK);
    assert_true(got.rate == 3);
    assert_int_equal(parse("-"), QUIRE_OK); /* a lone dash is a word: standard input */
    assert_int_equal(positionals.count, 1);
}

static void mistakes_are_explained(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"--prot 80", "unknown option --prot; did you mean --port?"},
        {"--num-gpu-block 80", "unknown option --num-gpu-block; did you mean --num-gpu-blocks-override?"},
        {"--no-chunked-prefill", "unknown option --no-chunked-prefill"},
        {"--no-enable-chunked-prefil", "did you mean"},
        {"--zzzzzzzz", "unknown option --zzzzzzzz"},
        {"-x", "unknown option -x"},
        {"--no-port", "unknown option --no-port"},
        {"--port", "--port needs a value"},
        {"--port --verbose", "--port needs a value"},
        {"--port 65536", "not a whole number from 0 to 65535"},
        {"--port -1", "not a whole number from 0 to 65535"},
        {"--port 8o", "--port: '8o' is not a whole number"},
        {"--port=", "--port: '' is not"},
        {"--seed -1", "--seed: '-1' is not a whole number"},
        {"--rate nan", "--rate: 'nan' is not a number"},
        {"--memory-bytes 4X", "is not a size such as"},
        {"--memory-bytes -4", "is not a size such as"},
        {"--memory-bytes 99999999999999T", "is not a size such as"},
        {"--dtype float", "--dtype: 'float' is not one of auto|float16|float32"},
        {"--dtype=", "--dtype: '' is not one of"},
        {"--verbose=1", "--verbose takes no value"},
        {"a b c", "unexpected argument 'c'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(parse(cases[i].line), QUIRE_INVALID);
        if (!strstr(error.message, cases[i].message)) fail_msg("%s: said \"%s\"", cases[i].line, error.message);
    }
}

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t bytes;
    } cases[] = {{"0", 0},           {"1000", 1000},   {"4K", 4096},       {"4k", 4000},
                 {"2MiB", 2u << 20}, {"2MB", 2000000}, {"2Mi", 2u << 20},  {"1.5G", 3u << 29},
                 {"0.5k", 500},      {"12B", 12},      {"2g", 2000000000}, {"1T", (size_t)1 << 40}};
    size_t bytes;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(qr_options_parse_bytes(cases[i].text, &bytes));
        assert_int_equal(bytes, cases[i].bytes);
    }
    static const char *const bad[] = {"", "G", "1.5", "4KK", "4 K", " 4", "4iB", "0x10", "1e3", "-1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (qr_options_parse_bytes(bad[i], &bytes)) fail_msg("'%s' was taken as %zu", bad[i], bytes);
}

static void help_shows_defaults_and_wraps(void **state)
{
    (void)state;
    qr_buf out = {0};
    assert_int_equal(qr_options_help(groups, &defaults, 60, false, &out), 0);
    assert_non_null(strstr(out.data, "\nBasic\n"));
    assert_non_null(strstr(out.data, "  --port N                    port [8000]"));
    assert_non_null(strstr(out.data, "--[no-]enable-chunked-prefill\n"));
    assert_non_null(strstr(out.data, "cut prompts [on]"));
    assert_non_null(strstr(out.data, "--num-gpu-blocks-override"));
    assert_non_null(strstr(out.data, "[from"));
    assert_non_null(strstr(out.data, "[3MiB]"));
    assert_non_null(strstr(out.data, "-v, --verbose"));
    for (const char *line = out.data; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        assert_true(strcspn(line, "\n") <= 60);
    out.len = 0;
    assert_int_equal(qr_options_man(groups, &defaults, &out), 0);
    assert_non_null(strstr(out.data, "\\fB\\-\\-port N\\fR\nport [8000]\n"));
    qr_free(out.data);

    int status = -1; /* no memory: said, not crashed */
    for (uint64_t n = 0; status != 0; n++) {
        qr_buf small = {0};
        qr_mem_fail_after(n);
        status = qr_options_help(groups, &defaults, 60, true, &small);
        qr_mem_fail_off();
        assert_true(status == 0 || n < 10);
        qr_free(small.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_parsed),
        cmocka_unit_test(mistakes_are_explained),
        cmocka_unit_test(sizes),
        cmocka_unit_test(help_shows_defaults_and_wraps),
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
