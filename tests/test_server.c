/* server: every route and error over real loopback sockets, against a fake engine (server_fake.h). Request fields are
 * in test_server_protocol.c. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>

#include <fcntl.h>

#include "http_client.h"
#include "server/server.h"
#include "server_fake.h"

static qr_server *server;
static int port;

static void start(void (*adjust)(qr_server_options *options))
{
    qr_server_options options;
    quire_error error;
    qr_server_options_init(&options);
    options.model = &fake_model;
    options.engine = &fake_engine;
    options.port = 0;
    if (adjust) adjust(&options);
    fake_start();
    if (qr_server_start(&options, &server, &error) != QUIRE_OK) fail_msg("%s", error.message);
    port = qr_server_port(server);
}

static void stop(void)
{
    qr_server_stop(server);
    assert_true(fake_wait_idle(5000) >= 0);
    fake_stop();
}

static int set_up(void **state)
{
    (void)state;
    start(NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    stop();
    return 0;
}

/* Call and parse; fails unless the status is as expected. Free with json_decref. */
static json_t *call_json(const char *method, const char *path, const char *body, int status)
{
    http_answer answer = http_call(port, method, path, "", body);
    json_error_t where;
    if (answer.status != status) fail_msg("%s: %d %s", body ? body : path, answer.status, answer.body);
    json_t *root = json_loadb(answer.body, answer.body_bytes, 0, &where);
    if (!root) fail_msg("not JSON: %s: %s", where.text, answer.body);
    free(answer.body);
    return root;
}

static json_t *at(json_t *root, const char *path)
{
    char copy[128];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *part = strtok(copy, "."); part && root; part = strtok(NULL, "."))
        root = json_is_array(root) ? json_array_get(root, (size_t)atoi(part)) : json_object_get(root, part);
    return root;
}

static const char *text_at(json_t *root, const char *path)
{
    const char *text = json_string_value(at(root, path));
    return text ? text : "(none)";
}

static int int_at(json_t *root, const char *path) { return (int)json_integer_value(at(root, path)); }

/* The answer must be an OpenAI error object about `param` ("" for null). */
static void expect_error(const char *method, const char *path, const char *body, int status, const char *param,
                         const char *message)
{
    json_t *root = call_json(method, path, body, status);
    if (strcmp(*param ? text_at(root, "error.param") : "", param) != 0 ||
        !strstr(text_at(root, "error.message"), message))
        fail_msg("param '%s', message '%s'", text_at(root, "error.param"), text_at(root, "error.message"));
    assert_int_equal(int_at(root, "error.code"), status);
    assert_true(strlen(text_at(root, "error.type")) > 5);
    assert_true(*param || json_is_null(at(root, "error.param")));
    json_decref(root);
}

/* ---- small routes ---- */

static void small_routes(void **state)
{
    (void)state;
    json_t *root = call_json("GET", "/v1/models", NULL, 200);
    assert_string_equal(text_at(root, "object"), "list");
    assert_string_equal(text_at(root, "data.0.id"), "fake-model");
    assert_int_equal(int_at(root, "data.0.max_model_len"), FAKE_MAX_LEN);
    json_decref(root);
    root = call_json("GET", "/v1/models/fake-model", NULL, 200);
    assert_string_equal(text_at(root, "id"), "fake-model");
    json_decref(root);
    expect_error("GET", "/v1/models/other", NULL, 404, "model", "does not exist");
    root = call_json("GET", "/version", NULL, 200);
    assert_string_equal(text_at(root, "version"), "0.1.0-fake");
    json_decref(root);
    root = call_json("GET", "/load", NULL, 200);
    assert_int_equal(int_at(root, "server_load"), 0);
    json_decref(root);

    static const char *const empty[][2] = {{"GET", "/health"}, {"GET", "/ping"}, {"POST", "/reset_prefix_cache"}};
    for (int i = 0; i < 3; i++) {
        http_answer answer = http_call(port, empty[i][0], empty[i][1], "", i == 2 ? "" : NULL);
        assert_int_equal(answer.status, 200);
        assert_int_equal(answer.body_bytes, 0);
        free(answer.body);
    }
    assert_int_equal(fake_read(&fake_engine.num_resets), 1);
}

static void heads_preflights_and_ids(void **state)
{
    (void)state;
    http_answer answer = http_call(port, "HEAD", "/v1/models", "X-Request-Id: my-id\r\n", NULL);
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.body_bytes, 0);
    assert_memory_equal(http_header(&answer, "X-Request-Id"), "my-id\r", 6);
    assert_memory_equal(http_header(&answer, "Access-Control-Allow-Origin"), "*\r", 2);
    assert_true(atoi(http_header(&answer, "Content-Length")) > 50);
    free(answer.body);
    answer = http_call(port, "OPTIONS", "/v1/chat/completions",
                       "Origin: http://a\r\nAccess-Control-Request-Headers: content-type\r\n", NULL);
    assert_int_equal(answer.status, 200);
    assert_memory_equal(http_header(&answer, "Access-Control-Allow-Headers"), "content-type\r", 13);
    assert_non_null(http_header(&answer, "Access-Control-Allow-Methods"));
    free(answer.body);
    answer = http_call(port, "GET", "/v1/completions", "", NULL);
    assert_int_equal(answer.status, 405);
    assert_memory_equal(http_header(&answer, "Allow"), "POST", 4);
    free(answer.body);
    expect_error("GET", "/nothing/here", NULL, 404, "", "/nothing/here");
    expect_error("DELETE", "/v1/models", NULL, 405, "", "GET");
    expect_error("POST", "/v1/completions", NULL, 411, "", "Content-Length");
    expect_error("POST", "/v1/completions", "", 400, "", "no body");
    expect_error("POST", "/v1/completions", "{\"prompt\":\"a\",}", 400, "", "line 1, column");
    expect_error("POST", "/v1/completions", "{\"prompt\":\"a\",\"top_p\":7}", 400, "top_p", "(0, 1]");
    expect_error("POST", "/v1/completions", "{\"prompt\":\"a\",\"model\":\"x\"}", 404, "model", "`x` does not exist");
}

static void metrics_have_vllm_names(void **state)
{
    (void)state;
    http_answer answer = http_call(port, "GET", "/metrics", "", NULL);
    assert_int_equal(answer.status, 200);
    assert_memory_equal(http_header(&answer, "Content-Type"), "text/plain; version=0.0.4", 25);
#define LABELS "{engine=\"0\",model_name=\"fake-model\""
    static const char *const lines[] = {
        "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running" LABELS "} 0.0\n",
        "vllm:num_requests_waiting" LABELS "} 0.0\n",
        "vllm:kv_cache_usage_perc" LABELS "} 0.0\n",
        "vllm:prefix_cache_queries_total" LABELS "} 0.0\n",
        "vllm:prefix_cache_hits_total" LABELS "} 0.0\n",
        "vllm:num_preemptions_total" LABELS "} 0.0\n",
        "# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total" LABELS "} 123.0\n",
        "vllm:generation_tokens_total" LABELS "} 0.0\n",
        "vllm:request_success_total" LABELS ",finished_reason=\"stop\"} 4.0\n",
        "vllm:request_success_total" LABELS ",finished_reason=\"abort\"} 0.0\n",
        "# TYPE vllm:time_to_first_token_seconds histogram\n",
        "vllm:time_to_first_token_seconds_bucket" LABELS ",le=\"0.001\"} 3.0\n",
        "vllm:time_to_first_token_seconds_bucket" LABELS ",le=\"2.0\"} 7.0\n",
        "vllm:time_to_first_token_seconds_bucket" LABELS ",le=\"+Inf\"} 8.0\n",
        "vllm:time_to_first_token_seconds_count" LABELS "} 8.0\n",
        "vllm:time_to_first_token_seconds_sum" LABELS "} 5.5\n",
        "vllm:inter_token_latency_seconds_count",
        "vllm:e2e_request_latency_seconds_count",
        "vllm:request_queue_time_seconds_count",
        "vllm:request_prompt_tokens_count",
        "vllm:request_generation_tokens_count",
        "vllm:iteration_tokens_total_count",
        "block_size=\"16\",cache_dtype=\"float16\",num_gpu_blocks=\"1000\"} 1.0\n",
        "quire:num_free_kv_blocks" LABELS "} 1000.0\n",
        "process_resident_memory_bytes "};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        if (!strstr(answer.body, lines[i])) fail_msg("no '%s' in:\n%s", lines[i], answer.body);
    free(answer.body);
}

static void tokenize_and_detokenize(void **state)
{
    (void)state;
    json_t *root = call_json("POST", "/tokenize", "{\"prompt\":\"hi\",\"return_token_strs\":true}", 200);
    assert_int_equal(int_at(root, "count"), 3);
    assert_int_equal(int_at(root, "max_model_len"), FAKE_MAX_LEN);
    assert_int_equal(int_at(root, "tokens.0"), FAKE_BOS);
    assert_int_equal(int_at(root, "tokens.2"), 'i');
    assert_string_equal(text_at(root, "token_strs.0"), "<s>");
    json_decref(root);
    root = call_json("POST", "/tokenize", "{\"prompt\":\"\",\"add_special_tokens\":false}", 200);
    assert_int_equal(int_at(root, "count"), 0);
    assert_true(json_is_null(at(root, "token_strs")));
    json_decref(root);
    root = call_json("POST", "/tokenize", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", 200);
    assert_int_equal(int_at(root, "tokens.0"), '[');
    json_decref(root);
    root = call_json("POST", "/detokenize", "{\"tokens\":[256,104,105,195]}", 200);
    assert_string_equal(text_at(root, "prompt"), "<s>hi\xEF\xBF\xBD");
    json_decref(root);
    root = call_json("POST", "/detokenize", "{\"tokens\":[]}", 200);
    assert_string_equal(text_at(root, "prompt"), "");
    json_decref(root);
}

/* ---- whole answers ---- */

static void completion_whole(void **state)
{
    (void)state;
    json_t *root = call_json("POST", "/v1/completions",
                             "{\"model\":\"fake-model\",\"prompt\":[\"one\",\"three\"],\"n\":2,\"max_tokens\":4,"
                             "\"stop\":\"zz\",\"return_token_ids\":true}",
                             200);
    assert_string_equal(text_at(root, "object"), "text_completion");
    assert_string_equal(text_at(root, "model"), "fake-model");
    assert_string_equal(text_at(root, "system_fingerprint"), "quire-0.1.0");
    assert_memory_equal(text_at(root, "id"), "cmpl-", 5);
    assert_int_equal(strlen(text_at(root, "id")), 37);
    assert_int_equal(json_array_size(at(root, "choices")), 4);
    assert_string_equal(text_at(root, "choices.0.text"), "abcd");
    assert_string_equal(text_at(root, "choices.3.text"), "bcde");
    assert_int_equal(int_at(root, "choices.3.index"), 3);
    assert_string_equal(text_at(root, "choices.3.finish_reason"), "length");
    assert_true(json_is_null(at(root, "choices.3.stop_reason")) && json_is_null(at(root, "choices.3.logprobs")));
    assert_int_equal(int_at(root, "choices.0.prompt_token_ids.0"), FAKE_BOS);
    assert_int_equal(int_at(root, "choices.1.token_ids.1"), 'c');
    assert_int_equal(int_at(root, "usage.prompt_tokens"), 4 + 6);
    assert_int_equal(int_at(root, "usage.completion_tokens"), 16);
    assert_int_equal(int_at(root, "usage.total_tokens"), 26);
    assert_int_equal(int_at(root, "usage.prompt_tokens_details.cached_tokens"), 2 + 3);
    assert_string_equal(fake_engine.last_stop, "zz");
    json_decref(root);

    root = call_json("POST", "/v1/completions", "{\"prompt\":[104,105],\"max_tokens\":40}", 200);
    assert_string_equal(text_at(root, "choices.0.text"), "abcdefghijklmnopqrstuvwxyzabcdefghijklmn");
    json_decref(root);
    root = call_json("POST", "/v1/completions", "{\"prompt\":\"a\"}", 200);
    assert_int_equal(int_at(root, "usage.completion_tokens"), 16);
    json_decref(root);
    root = call_json("POST", "/v1/completions", "{\"prompt\":\"stop\"}", 200);
    assert_string_equal(text_at(root, "choices.0.finish_reason"), "stop");
    assert_string_equal(text_at(root, "choices.0.stop_reason"), "d");
    json_decref(root);
    expect_error("POST", "/v1/completions", "{\"prompt\":\"fail\"}", 500, "", "the fake engine fell over");
}

static void completion_logprobs_and_echo(void **state)
{
    (void)state;
    json_t *root =
        call_json("POST", "/v1/completions",
                  "{\"prompt\":\"xy\",\"max_tokens\":2,\"logprobs\":2,\"echo\":true,\"prompt_logprobs\":1}", 200);
    assert_string_equal(text_at(root, "choices.0.text"), "xyab");
    json_t *lp = at(root, "choices.0.logprobs");
    assert_int_equal(json_array_size(at(lp, "tokens")), 5);
    assert_string_equal(text_at(lp, "tokens.0"), "<s>");
    assert_string_equal(text_at(lp, "tokens.4"), "b");
    assert_true(json_is_null(at(lp, "token_logprobs.0")) && json_is_null(at(lp, "top_logprobs.0")));
    assert_true(json_real_value(at(lp, "token_logprobs.4")) == -1.5);
    assert_int_equal(int_at(lp, "text_offset.0"), 0);
    assert_int_equal(int_at(lp, "text_offset.4"), 6);
    assert_int_equal(json_object_size(at(lp, "top_logprobs.4")), 2);
    assert_true(json_real_value(json_object_get(at(lp, "top_logprobs.4"), "c")) == -2.5);
    json_t *prompt = at(root, "choices.0.prompt_logprobs");
    assert_int_equal(json_array_size(prompt), 3);
    assert_true(json_is_null(json_array_get(prompt, 0)));
    json_t *entry = json_object_get(json_array_get(prompt, 1), "120");
    assert_string_equal(text_at(entry, "decoded_token"), "x");
    assert_int_equal(int_at(entry, "rank"), 1);
    json_decref(root);

    root = call_json("POST", "/v1/completions", "{\"prompt\":[120,121],\"max_tokens\":0,\"logprobs\":0,\"echo\":true}",
                     200);
    assert_string_equal(text_at(root, "choices.0.text"), "xy");
    assert_int_equal(json_array_size(at(root, "choices.0.logprobs.tokens")), 2);
    assert_int_equal(int_at(root, "usage.completion_tokens"), 0);
    json_decref(root);
    root = call_json("POST", "/v1/completions",
                     "{\"prompt\":\"x\",\"max_tokens\":1,\"logprobs\":1,\"return_tokens_as_token_ids\":true}", 200);
    assert_string_equal(text_at(root, "choices.0.logprobs.tokens.0"), "token_id:97");
    json_decref(root);
}

static void chat_whole(void **state)
{
    (void)state;
    json_t *root =
        call_json("POST", "/v1/chat/completions",
                  "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"max_tokens\":3,\"logprobs\":true,"
                  "\"top_logprobs\":2,\"n\":2,\"chat_template_kwargs\":{\"k\":1},\"request_id\":\"r1\"}",
                  200);
    assert_string_equal(text_at(root, "object"), "chat.completion");
    assert_string_equal(text_at(root, "id"), "chatcmpl-r1");
    assert_string_equal(text_at(root, "choices.0.message.role"), "assistant");
    assert_string_equal(text_at(root, "choices.0.message.content"), "abc");
    assert_string_equal(text_at(root, "choices.1.message.content"), "bcd");
    assert_string_equal(text_at(root, "choices.0.logprobs.content.2.token"), "c");
    assert_int_equal(int_at(root, "choices.0.logprobs.content.2.bytes.0"), 'c');
    assert_string_equal(text_at(root, "choices.0.logprobs.content.2.top_logprobs.1.token"), "d");
    assert_string_equal(fake_engine.last_prompt, "[{\"role\":\"user\",\"content\":\"hello\"}]kwargs={\"k\":1}<gen>");
    json_decref(root);

    /* without max_tokens: what is left of max_model_len */
    int left = FAKE_MAX_LEN - (int)strlen("[{\"role\":\"user\",\"content\":\"hello\"}]<gen>");
    root = call_json("POST", "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}", 200);
    assert_int_equal(int_at(root, "usage.completion_tokens"), left);
    json_decref(root);
    root = call_json(
        "POST", "/v1/chat/completions",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"Well \"}],"
        "\"continue_final_message\":true,\"echo\":true,\"max_tokens\":1}",
        200);
    assert_string_equal(text_at(root, "choices.0.message.content"), "Well a");
    assert_non_null(strstr(fake_engine.last_prompt, "\"content\":\"Well"));
    assert_string_equal(strstr(fake_engine.last_prompt, "Well"), "Well");
    json_decref(root);
    expect_error("POST", "/v1/chat/completions",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}],\"chat_template\":\"bad\"}", 400,
                 "chat_template", "nonsense");
}

static void prompts_must_fit(void **state)
{
    (void)state;
    qr_buf body = {0};
    assert_int_equal(qr_buf_printf(&body, "{\"prompt\":\""), 0);
    for (int i = 0; i < FAKE_MAX_LEN; i++) assert_int_equal(qr_buf_append(&body, "a", 1), 0);
    assert_int_equal(qr_buf_printf(&body, "\"}"), 0);
    expect_error("POST", "/v1/completions", body.data, 400, "prompt", "your prompt has 4097 tokens");
    qr_free(body.data);
    expect_error("POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":4095}", 400, "max_tokens",
                 "at most 4094 can be generated");
    expect_error("POST", "/v1/chat/completions",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}],\"max_completion_tokens\":5000}", 400,
                 "max_completion_tokens", "too large: 5000");
    expect_error("POST", "/v1/completions", "{\"prompt\":\"\",\"add_special_tokens\":false}", 400, "prompt",
                 "at least one token");
    expect_error("POST", "/v1/completions", "{\"prompt\":\"full\"}", 503, "", "queue is full");
    http_answer answer = http_call(port, "POST", "/v1/completions", "", "{\"prompt\":[\"hang\",\"full\"]}");
    assert_int_equal(answer.status, 503);
    assert_non_null(http_header(&answer, "Retry-After"));
    free(answer.body);
    assert_true(fake_wait_idle(1000) >= 0); /* the first of the two prompts was aborted */
}

/* ---- streams ---- */

typedef struct stream_sum {
    char text[4][64]; /* of each choice */
    int num_events, num_finished, num_roles, num_usages, num_errors;
    bool done;
} stream_sum;

static stream_sum read_events(const char *body)
{
    stream_sum sum = {0};
    while (*body) {
        const char *end = strstr(body, "\n\n");
        if (strncmp(body, "data: ", 6) != 0 || !end || sum.done) fail_msg("bad event: %s", body);
        if (strncmp(body, "data: [DONE]", 12) == 0) {
            sum.done = true;
        } else {
            json_t *root = json_loadb(body + 6, (size_t)(end - body - 6), 0, NULL);
            if (!root) fail_msg("bad JSON: %s", body);
            size_t index = (size_t)int_at(root, "choices.0.index");
            bool chat = at(root, "choices.0.delta") != NULL;
            const char *text = chat ? text_at(root, "choices.0.delta.content") : text_at(root, "choices.0.text");
            if (at(root, "error")) {
                sum.num_errors++;
            } else if (json_array_size(at(root, "choices")) == 0) {
                sum.num_usages++;
            } else {
                strncat(sum.text[index], text, sizeof sum.text[0] - strlen(sum.text[index]) - 1);
                sum.num_roles += at(root, "choices.0.delta.role") != NULL;
                sum.num_finished += !json_is_null(at(root, "choices.0.finish_reason"));
                sum.num_events++;
            }
            json_decref(root);
        }
        body = end + 2;
    }
    return sum;
}

static stream_sum call_stream(const char *path, const char *body)
{
    http_answer answer = http_call(port, "POST", path, "", body);
    if (answer.status != 200 || !answer.complete) fail_msg("%d %s", answer.status, answer.body);
    assert_memory_equal(http_header(&answer, "Content-Type"), "text/event-stream", 17);
    stream_sum sum = read_events(answer.body);
    free(answer.body);
    return sum;
}

static void streams(void **state)
{
    (void)state;
    stream_sum s =
        call_stream("/v1/completions", "{\"prompt\":[\"x\",\"y\"],\"n\":2,\"max_tokens\":5,\"stream\":true}");
    assert_string_equal(s.text[0], "abcde");
    assert_string_equal(s.text[3], "bcdef");
    assert_true(s.done && s.num_finished == 4 && s.num_usages == 0 && s.num_events == 20);

    s = call_stream("/v1/completions",
                    "{\"prompt\":\"xy\",\"max_tokens\":2,\"stream\":true,\"echo\":true,\"logprobs\":1,"
                    "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}");
    assert_string_equal(s.text[0], "xyab");
    assert_true(s.done && s.num_usages == 1);

    s = call_stream("/v1/chat/completions",
                    "{\"messages\":[{\"role\":\"user\",\"content\":\"slow\"}],\"max_tokens\":9,\"n\":2,\"stream\":true,"
                    "\"logprobs\":true,\"return_token_ids\":true,\"stream_options\":{\"include_usage\":true}}");
    assert_string_equal(s.text[1], "bcdefghij");
    assert_true(s.done && s.num_roles == 2 && s.num_finished == 2 && s.num_usages == 1);

    s = call_stream("/v1/completions", "{\"prompt\":\"fail\",\"stream\":true}");
    assert_true(s.done && s.num_errors == 1 && s.num_events == 2);
    expect_error("POST", "/v1/completions", "{\"prompt\":\"full\",\"stream\":true}", 503, "", "queue is full");
}

static void keep_alive_and_split_packets(void **state)
{
    (void)state;
    int fd = http_connect(port);
    static const char request[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 29\r\n\r\n"
                                  "{\"prompt\":\"a\",\"max_tokens\":2}";
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i + 1 < sizeof request; i++) {
            assert_true(http_send(fd, request + i, 1));
            if (i % 16 == 0) usleep(200);
        }
        http_answer answer = http_read(fd, false, 5000);
        assert_true(answer.status == 200 && answer.complete && strstr(answer.body, "\"text\":\"ab\""));
        free(answer.body);
    }
    assert_true(http_request(fd, "POST", "/v1/completions", "Expect: 100-continue\r\n", "{\"prompt\":\"a\"}"));
    http_answer answer = http_read(fd, false, 5000);
    assert_int_equal(answer.status, 200);
    free(answer.body);
    /* chunked upload */
    static const char chunked[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                                  "d\r\n{\"prompt\":\"a\"\r\n1\r\n}\r\n0\r\n\r\n";
    assert_true(http_send(fd, chunked, sizeof chunked - 1));
    answer = http_read(fd, false, 5000);
    assert_int_equal(answer.status, 200);
    free(answer.body);
    close(fd);
}

static void bodies_of_unclear_length_are_refused(void **state)
{
    (void)state;
    static const char *const headers[] = {
        "Content-Length: 2\r\nContent-Length: 14\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: gzip\r\nContent-Length: 14\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 14\r\n",
    };
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        char request[256];
        int bytes = snprintf(request, sizeof request,
                             "POST /v1/completions HTTP/1.1\r\nHost: x\r\n%s\r\n{\"prompt\":\"a\"}", headers[i]);
        int fd = http_connect(port);
        assert_true(http_send(fd, request, (size_t)bytes));
        http_answer answer = http_read(fd, false, 5000);
        if (answer.status != 400) fail_msg("%s: %d", headers[i], answer.status);
        assert_memory_equal(http_header(&answer, "Connection"), "close", 5);
        free(answer.body);
        close(fd);
    }
}

/* ---- clients that leave, stall, or ask too much ---- */

static void wait_live(int wanted)
{
    for (int i = 0; i < 2000 && fake_read(&fake_engine.num_live) != wanted; i++) usleep(1000);
    assert_int_equal(fake_read(&fake_engine.num_live), wanted);
}

static void a_client_that_leaves_frees_its_blocks(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "{\"prompt\":[\"hang\",\"hang\"],\"n\":3,\"max_tokens\":9}",
        "{\"prompt\":[\"hang\",\"hang\"],\"n\":3,\"max_tokens\":9,\"stream\":true}",
        "{\"prompt\":[\"slow\",\"slow\"],\"n\":3,\"max_tokens\":4000,\"stream\":true}"};
    for (int i = 0; i < 6; i++) {
        int fd = http_connect(port);
        assert_true(http_request(fd, "POST", "/v1/completions", "", bodies[i % 3]));
        wait_live(6);
        if (i >= 3) { /* a reset rather than an orderly close */
            struct linger linger = {1, 0};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        }
        close(fd);
        int ms = fake_wait_idle(2000);
        if (ms < 0 || ms > 200) fail_msg("body %d: blocks free after %d ms", i, ms);
    }
}

static void clients_leaving_at_any_moment(void **state)
{
    (void)state;
    for (int i = 0; i < 150; i++) {
        int fd = http_connect(port);
        assert_true(http_request(fd, "POST", i % 2 ? "/v1/completions" : "/v1/chat/completions", "",
                                 i % 2
                                     ? "{\"prompt\":\"slow\",\"max_tokens\":50,\"stream\":true}"
                                     : "{\"messages\":[{\"role\":\"user\",\"content\":\"slow\"}],\"max_tokens\":50}"));
        usleep((useconds_t)(i * 37 % 3000));
        close(fd);
    }
    assert_true(fake_wait_idle(3000) >= 0);
    json_decref(call_json("POST", "/v1/completions", "{\"prompt\":\"x\"}", 200));
}

static int num_open_files(void)
{
    int count = 0;
    for (int fd = 0; fd < 2048; fd++) count += fcntl(fd, F_GETFD) != -1;
    return count;
}

static void no_socket_stays_behind(void **state)
{
    (void)state;
    int before = num_open_files();
    static const char *const starts[] = {
        "GET /health HTTP/1.1\r\nHost: x\r\n\r\n", "GET /health HTTP/1.1\r\nHo",
        "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}",
        "GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"};
    for (int i = 0; i < 200; i++) {
        int fd = http_connect(port);
        assert_true(http_send(fd, starts[i % 5], strlen(starts[i % 5])));
        close(fd);
    }
    for (int i = 0; i < 30 && num_open_files() > before; i++) usleep(100000);
    assert_int_equal(num_open_files(), before);
}

static void small_limits(qr_server_options *options)
{
    options->max_request_bytes = 2000;
    options->max_stream_bytes = 100000;
    options->header_timeout_ms = options->body_timeout_ms = 300;
    options->send_timeout_ms = 500;
    options->api_key = "secret";
}

static void too_large_bodies(void **state)
{
    (void)state;
    start(small_limits);
    static char big[20000];
    memset(big, 'x', sizeof big - 1);
    big[3000] = '\0';
    const char *key = "Authorization: Bearer secret\r\n";
    http_answer answer = http_call(port, "POST", "/v1/completions", key, big);
    assert_int_equal(answer.status, 413);
    assert_non_null(strstr(answer.body, "limit of 2000 bytes"));
    free(answer.body);
    big[3000] = 'x';
    answer = http_call(port, "POST", "/v1/completions", key, big); /* refused at once: the client may see a reset */
    assert_true(answer.status == 413 || answer.status == 0);
    free(answer.body);
    int fd = http_connect(port);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
                               "Expect: 100-continue\r\nContent-Length: 3000\r\n\r\n";
    assert_true(http_send(fd, head, sizeof head - 1));
    answer = http_read(fd, false, 3000);
    assert_int_equal(answer.status, 413);
    free(answer.body);
    close(fd);
    fd = http_connect(port);
    static const char chunks[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
                                 "Transfer-Encoding: chunked\r\n\r\n";
    assert_true(http_send(fd, chunks, sizeof chunks - 1));
    for (int i = 0; i < 3; i++)
        assert_true(http_send(fd, "3e8\r\n", 5) && http_send(fd, big, 1000) && http_send(fd, "\r\n", 2));
    assert_true(http_send(fd, "0\r\n\r\n", 5));
    answer = http_read(fd, false, 3000);
    assert_int_equal(answer.status, 413);
    free(answer.body);
    close(fd);
    stop();
}

static void api_keys(void **state)
{
    (void)state;
    start(small_limits);
    static const struct {
        const char *headers;
        int status;
    } cases[] = {{"", 401},
                 {"Authorization: secret\r\n", 401},
                 {"Authorization: Bearer secre\r\n", 401},
                 {"Authorization: Bearer secrets\r\n", 401},
                 {"Authorization: Bearer \r\n", 401},
                 {"Authorization: Bearer secret\r\n", 200},
                 {"authorization: bearer secret\r\n", 200}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        http_answer answer = http_call(port, "GET", "/v1/models", cases[i].headers, NULL);
        assert_int_equal(answer.status, cases[i].status);
        free(answer.body);
    }
    expect_error("POST", "/v1/completions", "{\"prompt\":\"a\"}", 401, "", "API key");
    expect_error("POST", "/tokenize", "{\"prompt\":\"a\"}", 401, "", "API key");
    http_answer answer = http_call(port, "GET", "/health", "", NULL);
    assert_int_equal(answer.status, 200);
    free(answer.body);
    stop();
}

/* Milliseconds until the server closes the connection, at most max_ms. */
static int wait_closed(int fd, int max_ms)
{
    int64_t begin = qr_clock_us();
    struct pollfd p = {fd, POLLIN, 0};
    char byte;
    while (qr_clock_us() - begin < max_ms * INT64_C(1000))
        if (poll(&p, 1, 20) > 0 && recv(fd, &byte, 1, 0) <= 0) break;
    return (int)((qr_clock_us() - begin) / 1000);
}

static void slow_senders_are_cut(void **state)
{
    (void)state;
    start(small_limits);
    int idle = http_connect(port), headers = http_connect(port), body = http_connect(port);
    assert_true(http_send(headers, "POST /v1/comp", 13));
    static const char part[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
    assert_true(http_send(body, part, sizeof part - 1));
    for (int i = 0; i < 10; i++) { /* trickling does not help */
        usleep(20000);
        (void)http_send(headers, "l", 1);
        (void)http_send(body, " ", 1);
    }
    assert_true(wait_closed(idle, 3000) < 1000);
    assert_true(wait_closed(headers, 3000) < 1000);
    assert_true(wait_closed(body, 3000) < 1000);
    close(idle), close(headers), close(body);
    stop();
}

static void a_client_that_does_not_read_is_dropped(void **state)
{
    (void)state;
    start(small_limits);
    int fd = http_connect(port), small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    assert_true(http_request(fd, "POST", "/v1/completions", "Authorization: Bearer secret\r\n",
                             "{\"prompt\":\"flood\",\"max_tokens\":4000,\"stream\":true}")); /* 16 MiB */
    wait_live(1);
    assert_true(fake_wait_idle(3000) >= 0);
    assert_true(fake_read(&fake_engine.num_aborted) > 0);
    close(fd);
    stop();
}

static void many_streams_at_once(void **state)
{
    (void)state;
    enum { MANY = 512 };
    static int fds[MANY];
    for (int i = 0; i < MANY; i++) {
        fds[i] = http_connect(port);
        if (fds[i] < 0) fail_msg("connection %d failed", i);
        assert_true(http_request(fds[i], "POST", "/v1/completions", "",
                                 "{\"prompt\":\"slow\",\"max_tokens\":20,\"stream\":true}"));
    }
    for (int i = 0; i < MANY; i++) {
        http_answer answer = http_read(fds[i], false, 20000);
        assert_true(answer.status == 200 && answer.complete);
        stream_sum sum = read_events(answer.body);
        assert_string_equal(sum.text[0], "abcdefghijklmnopqrst");
        free(answer.body);
        close(fds[i]);
    }
}

/* ---- start and stop ---- */

static void *finish_later(void *user)
{
    (void)user;
    usleep(100000);
    return NULL;
}

static void draining(void **state)
{
    (void)state;
    start(NULL);
    int fd = http_connect(port), idle = http_connect(port);
    assert_true(
        http_request(fd, "POST", "/v1/completions", "", "{\"prompt\":\"slow\",\"max_tokens\":60,\"stream\":true}"));
    assert_true(http_request(idle, "GET", "/health", "", NULL));
    http_answer answer = http_read(idle, false, 3000);
    assert_int_equal(answer.status, 200);
    free(answer.body);
    wait_live(1);
    assert_int_equal(qr_server_drain(server, 50), QUIRE_TIMEOUT);
    /* an open connection learns that it is over; a new one is not accepted */
    assert_true(http_request(idle, "POST", "/v1/completions", "", "{\"prompt\":\"a\"}"));
    answer = http_read(idle, false, 3000);
    assert_int_equal(answer.status, 503);
    assert_non_null(http_header(&answer, "Retry-After"));
    free(answer.body);
    close(idle);
    int late = http_connect(port);
    assert_true(late < 0);
    assert_int_equal(qr_server_drain(server, -1), QUIRE_OK);
    answer = http_read(fd, false, 3000);
    assert_true(answer.complete && read_events(answer.body).done);
    free(answer.body);
    close(fd);
    stop();
}

static void stopping_in_the_middle(void **state)
{
    (void)state;
    for (int round = 0; round < 5; round++) {
        start(NULL);
        int fds[6];
        for (int i = 0; i < 6; i++) {
            fds[i] = http_connect(port);
            assert_true(http_request(fds[i], "POST", "/v1/completions", "",
                                     i % 3 == 0   ? "{\"prompt\":\"hang\"}"
                                     : i % 3 == 1 ? "{\"prompt\":\"slow\",\"max_tokens\":4000,\"stream\":true}"
                                                  : "{\"prompt\":\"flood\",\"max_tokens\":4000,\"stream\":true}"));
        }
        usleep((useconds_t)round * 10000);
        stop();
        for (int i = 0; i < 6; i++) close(fds[i]);
    }
    pthread_t thread; /* the engine may outlive the server: late callbacks touch nothing that is gone */
    start(NULL);
    int fd = http_connect(port);
    assert_true(http_request(fd, "POST", "/v1/completions", "", "{\"prompt\":\"slow\",\"max_tokens\":4000}"));
    wait_live(1);
    assert_int_equal(pthread_create(&thread, NULL, finish_later, NULL), 0);
    stop();
    pthread_join(thread, NULL);
    close(fd);
}

static void bad_options_are_named(void **state)
{
    (void)state;
    qr_server_options options;
    qr_server *other;
    quire_error error;
    start(NULL);
    qr_server_options_init(&options);
    options.model = &fake_model;
    options.engine = &fake_engine;
    options.port = port;
    assert_int_equal(qr_server_start(&options, &other, &error), QUIRE_IO);
    assert_string_equal(error.param, "port");
    assert_non_null(strstr(error.message, "in use"));
    options.host = "no such host!";
    assert_int_equal(qr_server_start(&options, &other, &error), QUIRE_IO);
    assert_string_equal(error.param, "host");
    options.host = "127.0.0.1";
    options.port = 70000;
    assert_int_equal(qr_server_start(&options, &other, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "port");
    qr_server_stop(NULL);
    stop();
}

static void start_survives_failed_allocations(void **state)
{
    (void)state;
    fake_start();
    qr_server_options options;
    quire_error error;
    qr_server_options_init(&options);
    options.model = &fake_model;
    options.engine = &fake_engine;
    options.port = 0;
    quire_status status = QUIRE_NOMEM;
    for (uint64_t n = 0; status != QUIRE_OK; n++) {
        qr_mem_fail_after(n);
        status = qr_server_start(&options, &server, &error);
        qr_mem_fail_off();
        assert_true(status == QUIRE_OK || status == QUIRE_NOMEM);
        assert_true(n < 100);
    }
    stop();
}

/* One whole exchange without an allocation of the client's; the status, or 0 when the server closed at once. */
static int bare_exchange(const char *path, const char *body)
{
    static char text[65536];
    int fd = http_connect(port), status = 0;
    int n =
        snprintf(text, sizeof text, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                 path, strlen(body), body);
    assert_true(fd >= 0);
    (void)http_send(fd, text, (size_t)n);
    size_t len = 0;
    ssize_t got;
    struct pollfd p = {fd, POLLIN, 0};
    while (len + 1 < sizeof text && poll(&p, 1, 5000) > 0 && (got = recv(fd, text + len, sizeof text - len - 1, 0)) > 0)
        len += (size_t)got;
    text[len] = '\0';
    (void)sscanf(text, "HTTP/1.1 %d", &status);
    close(fd);
    return status;
}

static void calls_survive_failed_allocations(void **state)
{
    (void)state;
    static const char *const calls[][2] = {
        {"/v1/completions", "{\"prompt\":[\"a\",\"stop\"],\"n\":2,\"max_tokens\":9,\"logprobs\":2,\"echo\":true}"},
        {"/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":9,\"stream\":true,\"logprobs\":2}"},
        {"/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":9}"},
        {"/tokenize", "{\"prompt\":\"some text\",\"return_token_strs\":true}"}};
    for (int i = 0; i < 4; i++) {
        int num_fine = 0, n = 0;
        for (; num_fine < 3; n++) { /* until several in a row need no more allocations than are left to them */
            qr_mem_fail_after((uint64_t)n);
            int status = bare_exchange(calls[i][0], calls[i][1]);
            uint64_t used = qr_mem_num_allocations();
            qr_mem_fail_off();
            if (status != 0 && status != 200 && status != 500 && status != 503) fail_msg("%d: status %d", n, status);
            num_fine = status == 200 && used <= (uint64_t)n ? num_fine + 1 : 0;
            assert_true(n < 2000);
        }
        assert_true(n > 10);
        assert_true(fake_wait_idle(3000) >= 0);
        assert_int_equal(bare_exchange(calls[i][0], calls[i][1]), 200);
    }
}

static void served_names(qr_server_options *options)
{
    static const char *const names[] = {"first", "org/second"};
    options->served_model_names = names;
    options->num_served_model_names = 2;
}

static void served_model_names(void **state)
{
    (void)state;
    start(served_names);
    json_t *root = call_json("GET", "/v1/models", NULL, 200);
    assert_string_equal(text_at(root, "data.1.id"), "org/second");
    json_decref(root);
    root = call_json("GET", "/v1/models/org/second", NULL, 200);
    json_decref(root);
    root = call_json("POST", "/v1/completions", "{\"prompt\":\"a\",\"model\":\"org/second\"}", 200);
    assert_string_equal(text_at(root, "model"), "first");
    json_decref(root);
    expect_error("POST", "/v1/completions", "{\"prompt\":\"a\",\"model\":\"fake-model\"}", 404, "model", "not exist");
    stop();
}

static void file_name(qr_server_options *options) { options->model_path = "some/where/tiny.Q4_1.gguf"; }
static void folder_name(qr_server_options *options) { options->model_path = "org/Tiny-1B//"; }
static void both_names(qr_server_options *options)
{
    file_name(options);
    served_names(options);
}

static void models_are_named_after_their_files(void **state)
{
    (void)state;
    start(file_name);
    json_t *root = call_json("GET", "/v1/models", NULL, 200);
    assert_int_equal(json_array_size(at(root, "data")), 1);
    assert_string_equal(text_at(root, "data.0.id"), "tiny.Q4_1");
    assert_string_equal(text_at(root, "data.0.root"), "some/where/tiny.Q4_1.gguf");
    json_decref(root);
    static const char *const bodies[] = {
        "{\"prompt\":\"a\",\"model\":\"tiny.Q4_1\"}",
        "{\"prompt\":\"a\",\"model\":\"some/where/tiny.Q4_1.gguf\"}",
        "{\"prompt\":\"a\"}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        root = call_json("POST", "/v1/completions", bodies[i], 200);
        assert_string_equal(text_at(root, "model"), "tiny.Q4_1");
        json_decref(root);
    }
    expect_error("POST", "/v1/completions", "{\"prompt\":\"a\",\"model\":\"fake-model\"}", 404, "model", "not exist");
    stop();

    start(folder_name);
    root = call_json("GET", "/v1/models/Tiny-1B", NULL, 200);
    json_decref(root);
    stop();

    start(both_names); /* what was asked for, nothing else */
    root = call_json("GET", "/v1/models", NULL, 200);
    assert_string_equal(text_at(root, "data.0.id"), "first");
    json_decref(root);
    expect_error("GET", "/v1/models/tiny.Q4_1", NULL, 404, "model", "does not exist");
    stop();
}

int main(void)
{
#define shared(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        shared(small_routes),
        shared(heads_preflights_and_ids),
        shared(metrics_have_vllm_names),
        shared(tokenize_and_detokenize),
        shared(completion_whole),
        shared(completion_logprobs_and_echo),
        shared(chat_whole),
        shared(prompts_must_fit),
        shared(streams),
        shared(keep_alive_and_split_packets),
        shared(bodies_of_unclear_length_are_refused),
        shared(a_client_that_leaves_frees_its_blocks),
        shared(clients_leaving_at_any_moment),
        shared(no_socket_stays_behind),
        shared(many_streams_at_once),
        shared(calls_survive_failed_allocations),
        cmocka_unit_test(too_large_bodies),
        cmocka_unit_test(api_keys),
        cmocka_unit_test(slow_senders_are_cut),
        cmocka_unit_test(a_client_that_does_not_read_is_dropped),
        cmocka_unit_test(draining),
        cmocka_unit_test(stopping_in_the_middle),
        cmocka_unit_test(bad_options_are_named),
        cmocka_unit_test(start_survives_failed_allocations),
        cmocka_unit_test(served_model_names),
        cmocka_unit_test(models_are_named_after_their_files),
    };
    return cmocka_run_group_tests_name("server", tests, NULL, NULL);
}
