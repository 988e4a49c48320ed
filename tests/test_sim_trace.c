/* Traces: what is read, what is refused and how, what is made. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "sim/beams.h"
#include "sim/trace.h"

static void parse(const char *text, qr_sim_trace *out)
{
    quire_error error;
    if (qr_sim_trace_parse("t", text, strlen(text), out, &error) != QUIRE_OK) fail_msg("%s", error.message);
}

static void three_formats(void **state)
{
    (void)state;
    qr_sim_trace t;
    parse("prompt_tokens,output_tokens\r\n12,34\r\n\r\n5,0\r\n7,8", &t);
    assert_int_equal(t.num_rows, 2); /* a row without output is no request */
    assert_false(t.has_arrivals);
    assert_int_equal(t.rows[1].prompt_tokens, 7);
    qr_sim_trace_deinit(&t);

    parse("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-02-28 23:59:59.5000000,374,44\n"
          "2024-02-29 00:00:00.2500000,1,2\n2024-03-01 00:00:00,3,4\n",
          &t);
    assert_true(t.has_arrivals && t.rows[0].arrival == 0);
    assert_true(fabs(t.rows[1].arrival - 0.75) < 1e-3 && fabs(t.rows[2].arrival - 86400.5) < 1e-3);
    assert_int_equal(t.rows[0].prompt_tokens, 374);
    qr_sim_trace_deinit(&t);

    parse("{\"timestamp\": 500, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [3, 4]}\n"
          "{\"timestamp\": 1500, \"input_length\": 10, \"output_length\": 6}\n",
          &t);
    assert_int_equal(t.rows[0].num_hashes, 2);
    assert_int_equal(t.hash_ids[t.rows[0].first_hash + 1], 4);
    assert_true(t.rows[1].num_hashes == 0 && t.rows[1].arrival == 1);
    qr_sim_trace_deinit(&t);
}

static void bad_input_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "no requests"},
        {"a,b\n1,2\n", "line 1: not a trace"},
        {"prompt_tokens,output_tokens\n", "no requests"},
        {"prompt_tokens,output_tokens\n1,2\n3\n", "line 3: two lengths"},
        {"prompt_tokens,output_tokens\n1,2,3\n", "line 2: two lengths"},
        {"prompt_tokens,output_tokens\n-1,2\n", "line 2: two lengths"},
        {"prompt_tokens,output_tokens\n99999999999999999999,2\n", "line 2: two lengths"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,1,2\n", "line 2: a time such as"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-16 00:00:00,1,2\n", "line 2: a time such as"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 00:00:01,1,2\n2023-11-16 00:00:00,1,2\n",
         "line 3: the time is before"},
        {"{\"timestamp\": 0}\n", "line 1: \"timestamp\", \"input_length\""},
        {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1e9}\n", "line 1: \"timestamp\""},
        {"{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 1, \"hash_ids\": [-1]}\n", "line 1: \"hash_ids\""},
        {"{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 1, \"hash_ids\": 5}\n", "line 1: \"hash_ids\""},
        {"{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 1}\n{\n", "line 2: not a JSON object"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qr_sim_trace t;
        quire_error error;
        assert_int_equal(qr_sim_trace_parse("t", bad[i].text, strlen(bad[i].text), &t, &error), QUIRE_FORMAT);
        if (!strstr(error.message, bad[i].message)) fail_msg("'%s': %s", bad[i].text, error.message);
        assert_null(t.rows);
    }
}

static void beam_records(void **state)
{
    (void)state;
    qr_sim_beams b;
    quire_error error;
    const char *good = "width,parents\r\n2,01 11\r\n\n10,0123456789";
    assert_int_equal(qr_sim_beams_parse("b", good, strlen(good), &b, &error), QUIRE_OK);
    assert_int_equal(b.num_rows[2], 2);
    assert_int_equal(b.parents[2][3], 1);
    assert_int_equal(b.parents[10][9], 9);
    qr_sim_beams_deinit(&b);
    static const struct {
        const char *text, *message;
    } bad[] = {{"", "no searches"},
               {"width,parents\n", "no searches"},
               {"2,01\n", "line 1: width,parents"},
               {"width,parents\n1,0\n", "line 2: a beam width"},
               {"width,parents\n2,01\n11,0\n", "line 3: a beam width"},
               {"width,parents\n2 01\n", "line 2: a beam width"},
               {"width,parents\n2,01 0\n", "line 2: words of 2 digits below 2"},
               {"width,parents\n2,01 02\n", "line 2: words of 2 digits below 2"},
               {"width,parents\n2,01 0-\n", "line 2: words of 2 digits below 2"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(qr_sim_beams_parse("b", bad[i].text, strlen(bad[i].text), &b, &error), QUIRE_FORMAT);
        if (!strstr(error.message, bad[i].message)) fail_msg("'%s': %s", bad[i].text, error.message);
    }
    assert_int_equal(qr_sim_beams_recorded(&b, &error), QUIRE_OK);
    assert_true(b.num_rows[2] > 1000 && b.num_rows[4] > 1000 && b.num_rows[6] > 1000);
    qr_sim_beams_deinit(&b);
}

static void made_traces(void **state)
{
    (void)state;
    qr_sim_trace t, scaled, chats;
    quire_error error;
    assert_int_equal(qr_sim_trace_sharegpt(&t, &error), QUIRE_OK);
    qr_sim_trace_filter(&t, 4, 1024, 2048);
    print_message("ShareGPT: %zu rows, mean %.2f in, %.2f out\n", t.num_rows, qr_sim_trace_mean_prompt(&t),
                  qr_sim_trace_mean_output(&t));
    for (size_t i = 0; i < t.num_rows; i++)
        assert_true(t.rows[i].prompt_tokens >= 4 && t.rows[i].prompt_tokens <= 1024 && t.rows[i].output_tokens >= 4 &&
                    t.rows[i].prompt_tokens + t.rows[i].output_tokens <= 2048);
    assert_int_equal(qr_sim_trace_sharegpt_paper(&scaled, &error), QUIRE_OK);
    print_message("scaled to the paper's means: %zu rows, mean %.2f in, %.2f out\n", scaled.num_rows,
                  qr_sim_trace_mean_prompt(&scaled), qr_sim_trace_mean_output(&scaled));
    assert_true(fabs(qr_sim_trace_mean_prompt(&scaled) / 161.31 - 1) < 5e-3);
    assert_true(fabs(qr_sim_trace_mean_output(&scaled) / 337.99 - 1) < 5e-3);
    qr_sim_trace_deinit(&scaled);
    assert_int_equal(qr_sim_trace_chats(&t, 3.5, 1024, 1024, 4000, 1, &chats, &error), QUIRE_OK);
    size_t num_long = 0;
    for (size_t i = 0; i < chats.num_rows; i++) {
        assert_true(chats.rows[i].prompt_tokens <= 1024 && chats.rows[i].output_tokens <= 1024);
        num_long += chats.rows[i].prompt_tokens == 1024;
    }
    assert_true(num_long > chats.num_rows / 2);
    qr_sim_trace_deinit(&chats);
    qr_sim_trace_deinit(&t);
    assert_int_equal(qr_sim_trace_from_shape(&qr_sim_shape_alpaca, 8192, 0, &t, &error), QUIRE_OK);
    assert_true(fabs(qr_sim_trace_mean_prompt(&t) / 19.31 - 1) < 1e-3);
    assert_true(fabs(qr_sim_trace_mean_output(&t) / 58.45 - 1) < 1e-3);
    qr_sim_trace_deinit(&t);
}

static void failed_allocations_are_clean(void **state)
{
    (void)state;
    const char *text = "prompt_tokens,output_tokens\n1,2\n";
    qr_sim_trace t;
    quire_error error;
    qr_mem_fail_after(0);
    assert_int_equal(qr_sim_trace_parse("t", text, strlen(text), &t, &error), QUIRE_NOMEM);
    qr_mem_fail_off();
    assert_null(t.rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(three_formats), cmocka_unit_test(bad_input_is_named),
                                       cmocka_unit_test(beam_records), cmocka_unit_test(made_traces),
                                       cmocka_unit_test(failed_allocations_are_clean)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
