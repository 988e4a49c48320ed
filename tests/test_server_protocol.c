/* server: request bodies field by field, JSON text, the outbox. The HTTP side is test_server.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>

#include "base/mem.h"
#include "server/emit.h"
#include "server/outbox.h"
#include "server/protocol.h"

static const qr_api_limits limits = {.vocab_size = 1000, .max_n = 8, .max_prompts = 4, .max_logprobs = 20};

static quire_status parse(qr_api_kind kind, const char *body, qr_api_request *out, quire_error *error)
{
    *error = (quire_error){0};
    return qr_api_parse(kind, body, strlen(body), &limits, out, error);
}

typedef struct bad_case {
    qr_api_kind kind;
    const char *body, *param, *message; /* a part of the message */
} bad_case;

#define C QR_API_COMPLETION
#define M QR_API_CHAT
#define T QR_API_TOKENIZE
#define D QR_API_DETOKENIZE
#define MSG "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static const bad_case bad_cases[] = {
    {C, "", "", "no body"},
    {C, "{\"prompt\": \"a\",\n  }", "", "line 2, column"},
    {C, "[1]", "", "must be a JSON object, not an array"},
    {C, "{\"prompt\":\"\\ud800\"}", "", "not valid JSON"},
    {C, "{\"prompt\":\"\xff\"}", "", "not valid JSON"},
    {C, "{}", "prompt", "missing"},
    {C, "{\"prompt\":null}", "prompt", "missing"},
    {C, "{\"prompt\":5}", "prompt", "must be a string"},
    {C, "{\"prompt\":[]}", "prompt", "at least one"},
    {C, "{\"prompt\":[[]]}", "prompt", "at least one"},
    {C, "{\"prompt\":[1,\"a\"]}", "prompt", "prompt[1]"},
    {C, "{\"prompt\":[\"a\",1]}", "prompt", "prompt[1] is an integer"},
    {C, "{\"prompt\":[1,1000]}", "prompt", "outside the vocabulary"},
    {C, "{\"prompt\":[-1]}", "prompt", "outside the vocabulary"},
    {C, "{\"prompt\":[[1],\"a\"]}", "prompt", "prompt[1]"},
    {C, "{\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", "prompt", "at most 4"},
    {C, "{\"prompt\":\"a\",\"model\":5}", "model", "string"},
    {C, "{\"prompt\":\"a\",\"temperature\":\"hot\"}", "temperature", "must be a number, not a string"},
    {C, "{\"prompt\":\"a\",\"temperature\":-1}", "temperature", "[0"},
    {C, "{\"prompt\":\"a\",\"temperature\":true}", "temperature", "boolean"},
    {C, "{\"prompt\":\"a\",\"top_p\":0}", "top_p", "(0, 1], got 0"},
    {C, "{\"prompt\":\"a\",\"top_p\":1.5}", "top_p", "(0, 1]"},
    {C, "{\"prompt\":\"a\",\"top_k\":-2}", "top_k", "at least -1"},
    {C, "{\"prompt\":\"a\",\"top_k\":1.5}", "top_k", "integer"},
    {C, "{\"prompt\":\"a\",\"min_p\":2}", "min_p", "[0, 1]"},
    {C, "{\"prompt\":\"a\",\"typical_p\":0}", "typical_p", "(0, 1]"},
    {C, "{\"prompt\":\"a\",\"repetition_penalty\":0}", "repetition_penalty", "above 0"},
    {C, "{\"prompt\":\"a\",\"presence_penalty\":3}", "presence_penalty", "[-2, 2]"},
    {C, "{\"prompt\":\"a\",\"frequency_penalty\":-3}", "frequency_penalty", "[-2, 2]"},
    {C, "{\"prompt\":\"a\",\"n\":0}", "n", "at least 1"},
    {C, "{\"prompt\":\"a\",\"n\":9}", "n", "[1, 8]"},
    {C, "{\"prompt\":\"a\",\"best_of\":100000}", "best_of", "must be in"},
    {C, "{\"prompt\":\"a\",\"n\":2,\"best_of\":1}", "best_of", "at least n"},
    {C, "{\"prompt\":\"a\",\"max_tokens\":0}", "max_tokens", "at least 1"},
    {C, "{\"prompt\":\"a\",\"max_tokens\":-5}", "max_tokens", "at least 0"},
    {C, "{\"prompt\":\"a\",\"max_tokens\":5000000000}", "max_tokens", "too large"},
    {C, "{\"prompt\":\"a\",\"min_tokens\":20,\"max_tokens\":10}", "min_tokens", "exceed"},
    {C, "{\"prompt\":\"a\",\"logprobs\":true}", "logprobs", "integer"},
    {C, "{\"prompt\":\"a\",\"logprobs\":21}", "logprobs", "[0, 20]"},
    {C, "{\"prompt\":\"a\",\"prompt_logprobs\":30}", "prompt_logprobs", "[0, 20]"},
    {C, "{\"prompt\":\"a\",\"prompt_logprobs\":1,\"stream\":true}", "prompt_logprobs", "stream"},
    {C, "{\"prompt\":\"a\",\"stream\":1}", "stream", "boolean"},
    {C, "{\"prompt\":\"a\",\"stream_options\":{}}", "stream_options", "stream true"},
    {C, "{\"prompt\":\"a\",\"stream\":true,\"stream_options\":5}", "stream_options", "object"},
    {C, "{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":1}}", "stream_options.include_usage",
     "boolean"},
    {C, "{\"prompt\":\"a\",\"stop\":5}", "stop", "string"},
    {C, "{\"prompt\":\"a\",\"stop\":[\"x\",5]}", "stop", "string"},
    {C, "{\"prompt\":\"a\",\"stop\":\"\"}", "stop", "empty"},
    {C, "{\"prompt\":\"a\",\"stop\":\"a\\u0000b\"}", "stop", "NUL"},
    {C, "{\"prompt\":\"a\",\"stop_token_ids\":[1000]}", "stop_token_ids", "vocabulary"},
    {C, "{\"prompt\":\"a\",\"stop_token_ids\":\"x\"}", "stop_token_ids", "array"},
    {C, "{\"prompt\":\"a\",\"seed\":\"x\"}", "seed", "integer"},
    {C, "{\"prompt\":\"a\",\"logit_bias\":[1]}", "logit_bias", "object"},
    {C, "{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", "logit_bias", "not a token id"},
    {C, "{\"prompt\":\"a\",\"logit_bias\":{\"1000\":1}}", "logit_bias", "not a token id"},
    {C, "{\"prompt\":\"a\",\"logit_bias\":{\"5\":101}}", "logit_bias", "[-100, 100]"},
    {C, "{\"prompt\":\"a\",\"logit_bias\":{\"5\":\"x\"}}", "logit_bias", "[-100, 100]"},
    {C, "{\"prompt\":\"a\",\"suffix\":\"x\"}", "suffix", "not supported"},
    {C, "{\"prompt\":\"a\",\"use_beam_search\":1}", "use_beam_search", "boolean"},
    {C, "{\"prompt\":\"a\",\"early_stopping\":\"soon\"}", "early_stopping", "never"},
    {C, "{\"prompt\":\"a\",\"length_penalty\":11}", "length_penalty", "must be"},
    {C, "{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"}}", "response_format", "not supported yet"},
    {C, "{\"prompt\":\"a\",\"response_format\":{}}", "response_format.type", "string"},
    {C, "{\"prompt\":\"a\",\"guided_regex\":\"a+\"}", "guided_regex", "not supported"},
    {C, "{\"prompt\":\"a\",\"priority\":\"x\"}", "priority", "integer"},
    {C, "{\"prompt\":\"a\",\"cache_salt\":\"\"}", "cache_salt", "empty"},
    {M, "{}", "messages", "missing"},
    {M, "{\"messages\":[]}", "messages", "at least one"},
    {M, "{\"messages\":5}", "messages", "array"},
    {M, "{\"messages\":[5]}", "messages[0]", "object"},
    {M, "{\"messages\":[{\"content\":\"x\"}]}", "messages[0].role", "string"},
    {M, "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "missing"},
    {M, "{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "messages[0].content", "string or an array"},
    {M, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
     "messages[0].content", "'image_url' are not supported"},
    {M, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "messages[0].content", "text"},
    {M, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":\"{\"}}]}]}",
     "messages[0].tool_calls", "not valid JSON"},
    {M, "{" MSG ",\"tools\":5}", "tools", "array"},
    {M, "{" MSG ",\"tools\":[{}]}", "tools", "tools[0].function.name"},
    {M, "{" MSG ",\"tool_choice\":\"auto\"}", "tool_choice", "needs tools"},
    {M, "{" MSG ",\"tool_choice\":\"required\"}", "tool_choice", "not supported"},
    {M, "{" MSG ",\"tool_choice\":{\"type\":\"function\"}}", "tool_choice", "not supported"},
    {M, "{" MSG ",\"tool_choice\":5}", "tool_choice", "string or an object"},
    {M, "{" MSG ",\"logprobs\":5}", "logprobs", "boolean"},
    {M, "{" MSG ",\"top_logprobs\":5}", "top_logprobs", "needs logprobs"},
    {M, "{" MSG ",\"logprobs\":true,\"top_logprobs\":25}", "top_logprobs", "[0, 20]"},
    {M, "{" MSG ",\"max_completion_tokens\":0}", "max_completion_tokens", "at least 1"},
    {M, "{" MSG ",\"max_tokens\":0,\"echo\":true}", "max_tokens", "at least 1"},
    {M, "{" MSG ",\"chat_template_kwargs\":5}", "chat_template_kwargs", "object"},
    {M, "{" MSG ",\"continue_final_message\":true,\"add_generation_prompt\":true}", "continue_final_message", "both"},
    {M, "{" MSG ",\"functions\":[{}]}", "functions", "not supported"},
    {T, "{\"prompt\":[1]}", "prompt", "string"},
    {T, "{\"prompt\":\"x\",\"return_token_strs\":3}", "return_token_strs", "boolean"},
    {D, "{}", "tokens", "missing"},
    {D, "{\"tokens\":\"x\"}", "tokens", "array"},
    {D, "{\"tokens\":[\"x\"]}", "tokens", "token id"},
    {D, "{\"tokens\":[5000]}", "tokens", "vocabulary"},
};

static void bad_fields_are_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_cases / sizeof bad_cases[0]; i++) {
        const bad_case *bad = &bad_cases[i];
        qr_api_request request;
        quire_error error;
        quire_status status = parse(bad->kind, bad->body, &request, &error);
        if ((status != QUIRE_INVALID && status != QUIRE_UNSUPPORTED) || strcmp(error.param, bad->param) != 0 ||
            !strstr(error.message, bad->message))
            fail_msg("%s\n  gave %d, param '%s', message '%s'", bad->body, status, error.param, error.message);
    }
}

static void defaults_and_nulls(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "{\"prompt\":\"hi\"}", "{\"prompt\":\"hi\",\"no_such_field\":{\"x\":[1]},\"user\":\"u\"}",
        ("{\"prompt\":\"hi\",\"temperature\":null,\"n\":null,\"stop\":null,\"logprobs\":null,\"seed\":null,"
         "\"stream\":null,\"stream_options\":null,\"logit_bias\":null,\"suffix\":null,\"response_format\":null,"
         "\"best_of\":null,\"max_tokens\":null,\"stop_token_ids\":null,\"cache_salt\":null,\"model\":null}"),
        ("{\"prompt\":\"hi\",\"use_beam_search\":false,\"suffix\":\"\",\"bad_words\":[],\"best_of\":1,"
         "\"response_format\":{\"type\":\"text\"},\"stop\":[],\"stop_token_ids\":[],\"logit_bias\":{}}")};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        qr_api_request r;
        quire_error error;
        assert_int_equal(parse(C, bodies[i], &r, &error), QUIRE_OK);
        assert_int_equal(r.num_prompts, 1);
        assert_string_equal(r.prompts[0].text, "hi");
        assert_true(r.sampling.temperature == 1 && r.sampling.n == 1 && r.sampling.max_tokens == -1);
        assert_true(r.sampling.logprobs == -1 && !r.sampling.has_seed && !r.stream && r.add_special_tokens);
        assert_int_equal(r.sampling.num_stop, 0);
        qr_api_request_deinit(&r);
    }
}

static void every_field_arrives(void **state)
{
    (void)state;
    qr_api_request r;
    quire_error error;
    assert_int_equal(
        parse(C,
              "{\"model\":\"m\",\"prompt\":[[1,2],[3]],\"stream\":true,\"stream_options\":{\"include_usage\":true,"
              "\"continuous_usage_stats\":true},\"echo\":true,\"max_tokens\":7,\"min_tokens\":2,\"n\":3,"
              "\"temperature\":0.5,\"top_p\":0.25,\"top_k\":4,\"min_p\":0.125,\"typical_p\":0.75,"
              "\"repetition_penalty\":1.5,\"presence_penalty\":-1,\"frequency_penalty\":2,\"seed\":-1,"
              "\"ignore_eos\":true,\"logprobs\":5,\"include_stop_str_in_output\":true,\"skip_special_tokens\":false,"
              "\"stop\":[\"x\",\"yy\"],\"stop_token_ids\":[5,6],\"logit_bias\":{\"7\":-3.5},\"priority\":-2,"
              "\"cache_salt\":\"s\",\"return_token_ids\":true,\"return_tokens_as_token_ids\":true,"
              "\"add_special_tokens\":false,\"request_id\":\"rid\",\"top_k\":4.0}",
              &r, &error),
        QUIRE_OK);
    const quire_sampling_params *s = &r.sampling;
    assert_string_equal(r.model, "m");
    assert_string_equal(r.request_id, "rid");
    assert_string_equal(r.cache_salt, "s");
    assert_true(r.stream && r.include_usage && r.continuous_usage_stats && r.echo && r.return_token_ids);
    assert_true(r.return_tokens_as_token_ids && !r.add_special_tokens && r.priority == -2);
    assert_true(r.num_prompts == 2 && r.prompts[0].num_ids == 2 && r.prompts[1].ids[0] == 3);
    assert_true(s->max_tokens == 7 && s->min_tokens == 2 && s->n == 3 && s->top_k == 4 && s->logprobs == 5);
    assert_true(s->temperature == 0.5 && s->top_p == 0.25 && s->min_p == 0.125 && s->typical_p == 0.75);
    assert_true(s->repetition_penalty == 1.5 && s->presence_penalty == -1 && s->frequency_penalty == 2);
    assert_true(s->has_seed && s->seed == UINT64_MAX && s->ignore_eos && s->include_stop_str_in_output);
    assert_true(!s->skip_special_tokens && s->num_stop == 2 && strcmp(s->stop[1], "yy") == 0);
    assert_true(s->num_stop_token_ids == 2 && s->stop_token_ids[1] == 6);
    assert_true(s->num_logit_bias == 1 && s->logit_bias[0].token_id == 7 && s->logit_bias[0].bias == -3.5f);
    qr_api_request_deinit(&r);
}

static void chats_are_normalised(void **state)
{
    (void)state;
    qr_api_request r;
    quire_error error;
    assert_int_equal(
        parse(
            M,
            "{\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},\"b\"]},"
            "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"type\":\"function\",\"function\":{\"name\":"
            "\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}]},{\"role\":\"tool\",\"content\":\"42\",\"tool_call_id\":\"i\"}],"
            "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"auto\","
            "\"chat_template_kwargs\":{\"k\":true},\"max_tokens\":5,\"max_completion_tokens\":9,\"logprobs\":true,"
            "\"top_logprobs\":2}",
            &r, &error),
        QUIRE_OK);
    assert_non_null(strstr(r.messages_json, "\"content\":\"a\\nb\""));
    assert_non_null(strstr(r.messages_json, "\"arguments\":{\"x\":1}"));
    assert_string_equal(r.chat_template_kwargs_json, "{\"k\":true}");
    assert_non_null(strstr(r.tools_json, "\"name\":\"f\""));
    assert_true(r.sampling.max_tokens == 9 && r.sampling.logprobs == 2 && r.add_generation_prompt);
    assert_false(r.add_special_tokens);
    qr_api_request_deinit(&r);
}

static void json_is_bounded(void **state)
{
    (void)state;
    qr_api_request r;
    quire_error error;
    qr_buf deep = {0};
    for (int i = 0; i < 200; i++) assert_int_equal(qr_buf_append(&deep, "[", 1), 0);
    assert_int_equal(qr_api_parse(C, deep.data, deep.len, &limits, &r, &error), QUIRE_INVALID);
    assert_non_null(strstr(error.message, "deeper than 128"));
    deep.len = 0;
    for (int i = 0; i < 1000002; i++) assert_int_equal(qr_buf_append(&deep, "0,", 2), 0);
    assert_int_equal(qr_api_parse(C, deep.data, deep.len, &limits, &r, &error), QUIRE_INVALID);
    assert_non_null(strstr(error.message, "more than 1000000 values"));
    qr_free(deep.data);
}

static void parsing_survives_failed_allocations(void **state)
{
    (void)state;
    const char *body =
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}],\"stop\":[\"x\"],"
        "\"stop_token_ids\":[5],\"logit_bias\":{\"7\":1},\"tools\":[{\"function\":{\"name\":\"f\"}}],"
        "\"chat_template_kwargs\":{}}";
    json_set_alloc_funcs(qr_malloc, qr_free);
    qr_api_request r;
    quire_error error;
    quire_status status = QUIRE_NOMEM;
    int n = 0;
    for (; status != QUIRE_OK; n++) {
        qr_mem_fail_after((uint64_t)n);
        status = parse(M, body, &r, &error);
        qr_mem_fail_off();
        assert_true(n < 1000);
    }
    assert_true(n > 20);
    qr_api_request_deinit(&r);
    json_set_alloc_funcs(malloc, free);
}

static void emitted_text_is_valid_json(void **state)
{
    (void)state;
    static const struct {
        const char *text, *json;
    } cases[] = {{"a\"b\\c\n\r\t\b\f\x01\x7f", "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\\u007f\""},
                 {"h\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80", "\"h\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80\""},
                 {"\xC3", "\"\xEF\xBF\xBD\""},
                 {"a\x80"
                  "b",
                  "\"a\xEF\xBF\xBD"
                  "b\""},
                 {"\xC0\xAF", "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},
                 {"\xED\xA0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
                 {"\xF4\x90\x80\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qr_emit e = {0};
        qr_emit_string(&e, cases[i].text, strlen(cases[i].text));
        assert_string_equal(e.buf.data, cases[i].json);
        qr_emit_deinit(&e);
    }
    qr_emit e = {0};
    qr_emit_int(&e, INT64_MIN);
    qr_emit_raw(&e, " ");
    qr_emit_int(&e, 0);
    qr_emit_raw(&e, " ");
    qr_emit_logprob(&e, -0.1f);
    qr_emit_raw(&e, " ");
    qr_emit_logprob(&e, -INFINITY);
    qr_emit_raw(&e, " ");
    qr_emit_logprob(&e, NAN);
    qr_emit_raw(&e, " ");
    qr_emit_logprob(&e, -2);
    assert_string_equal(e.buf.data, "-9223372036854775808 0 -0.100000001 -9999.0 null -2.0");
    assert_int_equal(qr_utf8_num_chars("h\xC3\xA9\xFF", 4), 3);
    qr_mem_fail_after(0);
    for (int i = 0; i < 100; i++) qr_emit_raw(&e, "x");
    qr_mem_fail_off();
    assert_true(e.failed);
    size_t bytes;
    assert_null(qr_emit_take(&e, &bytes));
}

static void count_wake(void *user) { ++*(int *)user; }

static void outbox_copies_everything(void **state)
{
    (void)state;
    int wakes = 0;
    bool finished;
    qr_outbox_failure failure;
    qr_outbox box;
    qr_outbox_init(&box, 1 << 20, true, count_wake, &wakes);
    qr_outbox_add_request(&box);

    int32_t ids[2] = {7, 8}, tops[2] = {9, 10};
    float values[2] = {-1, -2};
    char text[] = "ab", stop[] = "stop";
    quire_token_logprobs lps[2] = {{7, 1, -1, 2, tops, values}, {8, 3, -2, 0, NULL, NULL}};
    quire_output output = {.text = text,
                           .text_bytes = 2,
                           .token_ids = ids,
                           .num_tokens = 2,
                           .logprobs = lps,
                           .prompt_token_ids = ids,
                           .num_prompt_tokens = 2,
                           .prompt_logprobs = lps,
                           .stop_string = stop,
                           .error_message = text,
                           .request_finished = true};
    assert_null(qr_outbox_pop(&box, &finished, &failure));
    assert_false(finished);
    qr_outbox_push(&box, 5, &output);
    assert_int_equal(wakes, 1);
    memset(ids, 0, sizeof ids), memset(tops, 0, sizeof tops), memset(values, 0, sizeof values);
    memset(lps, 0, sizeof lps), memset(text, '!', 2), memset(stop, '!', 4);

    qr_outbox_item *item = qr_outbox_pop(&box, &finished, &failure);
    const quire_output *o = &item->output;
    assert_int_equal(item->prompt_idx, 5);
    assert_string_equal(o->text, "ab");
    assert_string_equal(o->stop_string, "stop");
    assert_string_equal(o->error_message, "ab");
    assert_true(o->token_ids[1] == 8 && o->prompt_token_ids[0] == 7 && o->logprobs[1].rank == 3);
    assert_true(o->logprobs[0].top_ids[1] == 10 && o->prompt_logprobs[0].top_logprobs[1] == -2);
    assert_null(o->logprobs[1].top_ids);
    qr_free(item);
    assert_null(qr_outbox_pop(&box, &finished, &failure));
    assert_true(finished);
    assert_int_equal(box.bytes, 0);
    qr_outbox_deinit(&box);
}

static void outbox_is_bounded_and_closes(void **state)
{
    (void)state;
    int wakes = 0;
    bool finished;
    qr_outbox_failure failure;
    qr_outbox box;
    quire_output output = {.text = "x", .text_bytes = 1};
    qr_outbox_init(&box, 1000, true, count_wake, &wakes);
    qr_outbox_add_request(&box);
    for (int i = 0; i < 100; i++) qr_outbox_push(&box, 0, &output);
    assert_true(wakes > 0); /* an overflow is told though nobody waited */
    assert_null(qr_outbox_pop(&box, &finished, &failure));
    assert_int_equal(failure, QR_OUTBOX_OVERFLOW);
    assert_int_equal(box.bytes, 0);
    qr_outbox_deinit(&box);

    wakes = 0;
    qr_outbox_init(&box, 0, false, count_wake, &wakes);
    qr_outbox_add_request(&box);
    assert_null(qr_outbox_pop(&box, &finished, &failure));
    qr_outbox_push(&box, 0, &output);
    assert_int_equal(wakes, 0); /* not streamed: only the end counts */
    output.request_finished = true;
    qr_outbox_push(&box, 0, &output);
    assert_int_equal(wakes, 1);
    qr_outbox_close(&box);
    qr_outbox_push(&box, 0, &output);
    assert_int_equal(wakes, 1);
    assert_null(box.head);
    assert_true(qr_outbox_is_closed(&box));
    qr_outbox_deinit(&box);

    qr_outbox_init(&box, 0, true, count_wake, &wakes);
    qr_mem_fail_after(0);
    qr_outbox_push(&box, 0, &output);
    qr_mem_fail_off();
    assert_int_equal(qr_outbox_get_failure(&box), QR_OUTBOX_NOMEM);
    qr_outbox_deinit(&box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_fields_are_named),
        cmocka_unit_test(defaults_and_nulls),
        cmocka_unit_test(every_field_arrives),
        cmocka_unit_test(chats_are_normalised),
        cmocka_unit_test(json_is_bounded),
        cmocka_unit_test(parsing_survives_failed_allocations),
        cmocka_unit_test(emitted_text_is_valid_json),
        cmocka_unit_test(outbox_copies_everything),
        cmocka_unit_test(outbox_is_bounded_and_closes),
    };
    return cmocka_run_group_tests_name("server_protocol", tests, NULL, NULL);
}
