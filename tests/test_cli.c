/* cli: what lies below the commands: the HTTP client's parsers, workloads, request lines. */
#define _POSIX_C_SOURCE 200809L
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/batch.h"
#include "cli/bench.h"
#include "cli/http.h"
#include "cli/job.h"

/* ---- HTTP ------------------------------------------------------------------------------------- */

static qr_buf body, events;

static void on_body(void *user, const char *data, size_t bytes)
{
    (void)user;
    assert_int_equal(qr_buf_append(&body, data, bytes), 0);
}

static void on_data(void *user, const char *data, size_t bytes)
{
    (void)user;
    assert_int_equal(strlen(data), bytes);
    assert_int_equal(qr_buf_printf(&events, "<%s>", data), 0);
}

/* Feed the answer in pieces of `step` bytes; the end of the connection follows. */
static quire_status feed(const char *answer, size_t step, qr_http_parser *parser)
{
    body.len = 0;
    qr_http_parser_init(parser, on_body, NULL);
    for (size_t at = 0, bytes = strlen(answer); at < bytes; at += step)
        QR_TRY(qr_http_feed(parser, answer + at, bytes - at < step ? bytes - at : step));
    return qr_http_end(parser);
}

static void answers_are_read_in_any_pieces(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        int status;
        const char *body;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"},
        {"HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello and more", 200, "hello"},
        {"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, ""},
        {"HTTP/1.0 200 OK\nX: y\n\nto the end", 200, "to the end"},
        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, ""},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: v\r\n\r\n",
         200, "abc0123456789"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < 40; step++) {
            qr_http_parser parser;
            assert_int_equal(feed(cases[i].answer, step, &parser), QUIRE_OK);
            assert_int_equal(parser.status, cases[i].status);
            assert_int_equal(body.len, strlen(cases[i].body));
            if (body.len) assert_memory_equal(body.data, cases[i].body, body.len);
        }
    }
}

static void bad_answers_are_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "",
        "HTTP/2 200\r\n\r\n",
        "hello\r\n\r\n",
        "HTTP/1.1 20\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qr_http_parser parser;
        if (feed(cases[i], 7, &parser) != QUIRE_FORMAT) fail_msg("taken: %s", cases[i]);
    }
    static char endless[2 * QR_HTTP_MAX_LINE];
    qr_http_parser parser;
    memset(endless, 'x', sizeof endless - 1);
    assert_int_equal(feed(endless, 100, &parser), QUIRE_FORMAT);
}

static void events_are_read_in_any_pieces(void **state)
{
    (void)state;
    static const char stream[] =
        ": comment\n\ndata: {\"a\":1}\n\nevent: x\r\ndata:two\r\n\r\ndata: [DONE]\n\ndata: cut";
    for (size_t step = 1; step < sizeof stream; step++) {
        qr_sse_parser parser = {.on_data = on_data};
        events.len = 0;
        for (size_t at = 0; at < sizeof stream - 1; at += step)
            qr_sse_feed(&parser, stream + at, sizeof stream - 1 - at < step ? sizeof stream - 1 - at : step);
        assert_string_equal(events.data, "<{\"a\":1}><two><[DONE]>");
        qr_sse_deinit(&parser);
    }
}

static void addresses(void **state)
{
    (void)state;
    qr_http_target target;
    quire_error error;
    assert_int_equal(qr_http_resolve("http://127.0.0.1:8000/api/", &target, &error), QUIRE_OK);
    assert_string_equal(target.host, "127.0.0.1");
    assert_string_equal(target.port, "8000");
    assert_string_equal(target.base_path, "/api");
    assert_int_equal(qr_http_resolve("[::1]:81", &target, &error), QUIRE_OK);
    assert_string_equal(target.host, "::1");
    qr_buf request = {0};
    assert_int_equal(qr_http_write_request(&target, "/v1/models", "key", NULL, 0, &request), 0);
    assert_non_null(strstr(request.data, "GET /v1/models HTTP/1.1\r\nHost: [::1]:81\r\n"));
    assert_non_null(strstr(request.data, "Authorization: Bearer key\r\n"));
    qr_free(request.data);
    static const char *const bad[] = {"https://x",  "http://",       "http://:80",
                                      "127.0.0.1:", "127.0.0.1:80x", "127.0.0.1:999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (qr_http_resolve(bad[i], &target, &error) != QUIRE_INVALID) fail_msg("taken: %s", bad[i]);
}

/* ---- workloads -------------------------------------------------------------------------------- */

static void statistics_are_numpys(void **state)
{
    (void)state;
    double values[] = {4, 1, 3, 2};
    assert_true(qr_bench_mean(values, 4) == 2.5);
    assert_true(qr_bench_std(values, 4) > 1.1180339 && qr_bench_std(values, 4) < 1.1180340);
    qr_bench_sort(values, 4);
    assert_true(qr_bench_percentile(values, 4, 0) == 1 && qr_bench_percentile(values, 4, 100) == 4);
    assert_true(qr_bench_percentile(values, 4, 50) == 2.5);
    assert_true(qr_bench_percentile(values, 4, 90) > 3.6999 && qr_bench_percentile(values, 4, 90) < 3.7001);
    assert_true(qr_bench_percentile(values, 1, 99) == 1 && qr_bench_percentile(values, 0, 99) == 0);

    static const double shapes[] = {0.25, 1, 4};
    for (int s = 0; s < 3; s++) { /* mean shape * scale, variance shape * scale^2 */
        enum { COUNT = 50000 };
        static double draws[COUNT];
        qr_random random = {7};
        for (int i = 0; i < COUNT; i++) draws[i] = qr_random_gamma(&random, shapes[s], 1 / shapes[s]);
        double mean = qr_bench_mean(draws, COUNT), std = qr_bench_std(draws, COUNT);
        assert_true(mean > 0.96 && mean < 1.04);
        assert_true(std * std * shapes[s] > 0.93 && std * std * shapes[s] < 1.07);
    }
}

static char path[] = "/tmp/quire-test-cli-XXXXXX";

static void write_file(const char *text)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fwrite(text, 1, strlen(text), file) == strlen(text));
    assert_int_equal(fclose(file), 0);
}

static void workloads(void **state)
{
    (void)state;
    quire_error error;
    qr_bench_workload w, again;
    qr_cli_bench_args args = {.num_prompts = 50,
                              .dataset_name = "random",
                              .random_input_len = 20,
                              .random_output_len = 10,
                              .random_range_ratio = 0.5,
                              .seed = 3};
    assert_int_equal(qr_bench_workload_init(&args, 0, &w, &error), QUIRE_OK);
    assert_int_equal(qr_bench_workload_init(&args, 0, &again, &error), QUIRE_OK);
    assert_int_equal(w.count, 50);
    for (int i = 0; i < w.count; i++) {
        assert_in_range(w.prompts[i].num_ids, 10, 30);
        assert_in_range(w.prompts[i].output_len, 5, 15);
        assert_int_equal(w.prompts[i].num_ids, again.prompts[i].num_ids);
        assert_memory_equal(w.prompts[i].ids, again.prompts[i].ids, (size_t)w.prompts[i].num_ids * 4);
    }
    qr_bench_workload_deinit(&w);
    qr_bench_workload_deinit(&again);

    args.random_prefix_len = 33;
    assert_int_equal(qr_bench_workload_init(&args, 0, &w, &error), QUIRE_OK);
    for (int i = 1; i < w.count; i++) {
        assert_in_range(w.prompts[i].num_ids, 33 + 10, 33 + 30);
        assert_memory_equal(w.prompts[i].ids, w.prompts[0].ids, 33 * 4);
        assert_memory_not_equal(w.prompts[i].ids + 33, w.prompts[0].ids + 33, 10 * 4);
    }
    qr_bench_workload_deinit(&w);

    args.dataset_name = "sharegpt-lengths";
    assert_int_equal(qr_bench_workload_init(&args, 0, &w, &error), QUIRE_INVALID);
    args.dataset_path = path;
    write_file("prompt_tokens,output_tokens\n10,5\n1000,5\r\n7,7\n");
    assert_int_equal(qr_bench_workload_init(&args, 100, &w, &error), QUIRE_OK);
    for (int i = 0; i < w.count; i++) assert_true(w.prompts[i].num_ids == 10 || w.prompts[i].num_ids == 7);
    qr_bench_workload_deinit(&w);
    write_file("a,b\n10,5\nx,5\n");
    assert_int_equal(qr_bench_workload_init(&args, 0, &w, &error), QUIRE_FORMAT);
    assert_non_null(strstr(error.message, "line 3"));
    write_file("");
    assert_int_equal(qr_bench_workload_init(&args, 0, &w, &error), QUIRE_FORMAT);

    args.dataset_name = "custom";
    write_file("{\"prompt\": \"a\", \"output_tokens\": 3}\n\n{\"prompt\": \"b\"}\n");
    assert_int_equal(qr_bench_workload_init(&args, 0, &w, &error), QUIRE_OK);
    assert_int_equal(w.count, 2);
    assert_string_equal(w.prompts[1].text, "b");
    assert_int_equal(w.prompts[0].output_len, 3);
    assert_int_equal(w.prompts[1].output_len, 10);
    qr_bench_workload_deinit(&w);
    write_file("{\"prompt\": 7}\n");
    assert_int_equal(qr_bench_workload_init(&args, 0, &w, &error), QUIRE_FORMAT);
}

/* ---- lines and requests ----------------------------------------------------------------------- */

static void lines_are_bounded(void **state)
{
    (void)state;
    write_file("one\n\ntoo long a line\nlast");
    FILE *file = fopen(path, "rb");
    qr_buf line = {0};
    bool too_long;
    assert_int_equal(qr_cli_read_line(file, 8, &line, &too_long), 1);
    assert_string_equal(line.data, "one");
    assert_int_equal(qr_cli_read_line(file, 8, &line, &too_long), 1);
    assert_string_equal(line.data, "");
    assert_int_equal(qr_cli_read_line(file, 8, &line, &too_long), 1);
    assert_true(too_long);
    assert_string_equal(line.data, "too long");
    assert_int_equal(qr_cli_read_line(file, 8, &line, &too_long), 1);
    assert_false(too_long);
    assert_string_equal(line.data, "last");
    assert_int_equal(qr_cli_read_line(file, 8, &line, &too_long), 0);
    fclose(file);
    qr_free(line.data);
}

static void id_lists(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int count; /* -1: refused */
    } cases[] = {{"1,2,3", 3},       {" [ 1, 2 ,3 ]\n", 3}, {"", 0},    {"[]", 0},     {"7", 1},
                 {"1,,2", -1},       {"1 2", -1},           {"[1", -1}, {"1]", -1},    {"-1", -1},
                 {"4294967296", -1}, {"[1] 2", -1},         {"x", -1},  {"[1,2],", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t *ids = NULL;
        size_t count = 0;
        quire_status status = qr_cli_parse_ids(cases[i].text, &ids, &count, NULL);
        if (status != (cases[i].count < 0 ? QUIRE_INVALID : QUIRE_OK)) fail_msg("'%s': %d", cases[i].text, status);
        if (status == QUIRE_OK) assert_int_equal(count, cases[i].count);
        if (status == QUIRE_OK) qr_free(ids);
    }
}

static void requests_take_fields_then_options(void **state)
{
    (void)state;
    quire_error error;
    qr_api_request request;
    qr_cli_args args = {0};
    quire_sampling_params_init(&args.sampling);
    args.sampling.temperature = 0.25;
    args.sampling.logprobs = 2;
    args.stop = (qr_option_list){1, {"END"}};
    args.stop_token_ids = "5,6";
    args.logit_bias = "{\"7\": -1.5}";
    args.seed = 9;
    args.seed_given = true;

    static const char line[] =
        "{\"prompt_token_ids\": [1, 2], \"temperature\": 0.75, \"stream\": true, \"unknown\": 1}";
    assert_int_equal(qr_cli_parse_request(&args, 100, line, sizeof line - 1, &request, &error), QUIRE_OK);
    assert_int_equal(request.prompts[0].num_ids, 2);
    assert_true(request.sampling.temperature == 0.75);
    assert_int_equal(request.sampling.logprobs, 2);
    assert_int_equal(request.sampling.max_tokens, -1);
    assert_string_equal(request.sampling.stop[0], "END");
    assert_int_equal(request.sampling.stop_token_ids[1], 6);
    assert_int_equal(request.sampling.logit_bias[0].token_id, 7);
    assert_false(request.stream);
    assert_false(request.sampling.has_seed); /* --seed is the engine's, for a batch */
    qr_api_request_deinit(&request);

    args.prompt = "Hello";
    args.max_tokens_given = true;
    assert_int_equal(qr_cli_parse_request(&args, 100, NULL, 0, &request, &error), QUIRE_OK);
    assert_string_equal(request.prompts[0].text, "Hello");
    assert_true(request.sampling.has_seed && request.sampling.seed == 9);
    assert_int_equal(request.sampling.max_tokens, 16);
    qr_api_request_deinit(&request);

    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "{\"prompt\": 1}",
                                      "{\"prompt\": [\"a\", \"b\"]}",
                                      "{\"prompt\": \"a\", \"prompt_token_ids\": [1]}",
                                      "{\"prompt_token_ids\": \"a\"}",
                                      "{\"prompt_token_ids\": [100]}",
                                      "{\"prompt\": \"a\", \"temperature\": -1}",
                                      "{\"temperature\": 1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (qr_cli_parse_request(&args, 100, bad[i], strlen(bad[i]), &request, &error) == QUIRE_OK)
            fail_msg("taken: %s", bad[i]);
    args.logit_bias = "7:1";
    assert_int_equal(qr_cli_parse_request(&args, 100, "{\"prompt\":\"a\"}", 14, &request, &error), QUIRE_INVALID);
    args.logit_bias = NULL;
    args.prompt = "\xff";
    assert_int_equal(qr_cli_parse_request(&args, 100, NULL, 0, &request, &error), QUIRE_INVALID);
}

static int setup(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int teardown(void **state)
{
    (void)state;
    qr_free(body.data);
    qr_free(events.data);
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_read_in_any_pieces),
        cmocka_unit_test(bad_answers_are_refused),
        cmocka_unit_test(events_are_read_in_any_pieces),
        cmocka_unit_test(addresses),
        cmocka_unit_test(statistics_are_numpys),
        cmocka_unit_test(workloads),
        cmocka_unit_test(lines_are_bounded),
        cmocka_unit_test(id_lists),
        cmocka_unit_test(requests_take_fields_then_options),
    };
    return cmocka_run_group_tests_name("cli", tests, setup, teardown);
}
