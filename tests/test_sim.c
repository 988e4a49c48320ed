/* The simulator: cost model against numbers worked out by hand, whole runs, the result's arithmetic. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "sim/sim.h"

static qr_sim_cost opt_13b(void)
{
    return (qr_sim_cost){.device = *qr_sim_find_device("a100-40gb"),
                         .model = *qr_sim_find_model("opt-13b"),
                         .tensor_parallel_size = 1,
                         .block_size = 16};
}

static void near(double value, double expected, double tolerance)
{
    if (fabs(value - expected) > tolerance * fabs(expected)) fail_msg("%.9g, expected %.9g", value, expected);
}

/* ---- cost model -------------------------------------------------------------------------------- */

static void a_decode_step_by_hand(void **state)
{
    (void)state;
    const qr_sim_cost cost = opt_13b();
    qr_sim_load load = {0};
    qr_sim_load_add(&load, 999, 1); /* one token after 999 */
    const qr_sim_step_time t = qr_sim_cost_terms(&cost, &load);
    near(t.linear, 26e9 / (1555e9 * cost.device.weight_efficiency) * 1e6, 1e-9); /* 16.7 ms at full bandwidth */
    const double kv_bytes = 2 * 40 * 5120 * 2;                                   /* 819,200 a token */
    const double paging = 1 + cost.device.block_overhead_tokens / 16;
    near(t.attention, 1000 * kv_bytes * paging / (1555e9 * cost.device.attention_efficiency) * 1e6, 1e-9);
    near(t.overhead, cost.device.step_us + cost.device.seq_us, 1e-9);
    assert_true(t.all_reduce == 0 && t.swaps == 0 && t.copies == 0);
    near(qr_sim_cost_step_us(&cost, &load), t.overhead + t.linear + t.attention + t.activations, 1e-12);
}

static void a_prefill_step_by_hand(void **state)
{
    (void)state;
    qr_sim_cost cost = opt_13b();
    qr_sim_load load = {0};
    qr_sim_load_add(&load, 0, 2048);
    qr_sim_step_time t = qr_sim_cost_terms(&cost, &load);
    const double flops = 312e12 * cost.device.flops_efficiency;
    near(t.linear, 2 * 13e9 * 2048 / flops * 1e6, 1e-9);
    assert_int_equal(load.num_pairs, 2048 * 2049 / 2);
    near(
        t.attention,
        fmax(4.0 * 40 * 5120 * 2048 * 2049 / 2 / flops, 2048 * 819200.0 * (1 + cost.device.block_overhead_tokens / 16) /
                                                            (1555e9 * cost.device.attention_efficiency)) *
            1e6,
        1e-9);
    cost.tensor_parallel_size = 4;
    t = qr_sim_cost_terms(&cost, &load);
    near(t.linear, 2 * 13e9 * 2048 / flops * 1e6 / 4, 1e-9);
    near(t.all_reduce, 80 * (cost.device.link_us + 1.5 * 2048 * 5120 * 2 / 300e9 * 1e6), 1e-9);
    load.num_swapped_blocks = 3;
    load.num_copied_blocks = 2;
    t = qr_sim_cost_terms(&cost, &load);
    near(t.swaps, 3 * (80 * cost.device.transfer_us + 16 * 819200.0 / 4 / (32e9 * cost.device.host_efficiency) * 1e6),
         1e-9);
    near(t.copies, 2 * 2 * 16 * 819200.0 / (4 * 1555e9) * 1e6, 1e-9);
}

/* More of anything never takes less time. */
static void cost_is_monotone(void **state)
{
    (void)state;
    for (const qr_sim_model *m = qr_sim_models; *m->name; m++) {
        for (const qr_sim_device *d = qr_sim_devices; *d->name; d++) {
            const qr_sim_cost cost = {.device = *d, .model = *m, .tensor_parallel_size = 2, .block_size = 16};
            double last = 0;
            for (int seqs = 1; seqs <= 256; seqs *= 2) {
                for (int context = 0; context < 2048; context += 511) {
                    qr_sim_load load = {0};
                    for (int i = 0; i < seqs; i++) qr_sim_load_add(&load, context, 1);
                    const double us = qr_sim_cost_step_us(&cost, &load);
                    assert_true(us > 0 && (context == 0 || us >= last));
                    last = us;
                    qr_sim_load_add(&load, context, 7);
                    assert_true(qr_sim_cost_step_us(&cost, &load) >= us);
                    load.num_swapped_blocks++;
                    assert_true(qr_sim_cost_step_us(&cost, &load) > us);
                }
            }
        }
    }
}

/* Table 1 of the paper. */
static void kv_memory_of_the_paper(void **state)
{
    (void)state;
    static const struct {
        const char *model, *device;
        int tp;
        double weights_gb;
        int64_t slots;
    } rows[] = {{"opt-13b", "a100-40gb", 1, 26, 15728},
                {"opt-66b", "a100-40gb", 4, 132, 9700},
                {"opt-175b", "a100-80gb", 8, 346, 60074}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const qr_sim_model *model = qr_sim_find_model(rows[i].model);
        const qr_sim_device *device = qr_sim_find_device(rows[i].device);
        near(qr_sim_weight_bytes(model), rows[i].weights_gb * 1e9, 1e-9);
        assert_int_equal(qr_sim_kv_slots(model, device, rows[i].tp, 0.9), rows[i].slots);
    }
    assert_int_equal(15728 / 2048, 7); /* Orca (Max) */
    const qr_sim_model *llama = qr_sim_find_model("llama-3-8b");
    assert_int_equal(qr_sim_kv_slots(llama, qr_sim_find_device("h100"), 1, 0.9),
                     (int64_t)((80.0 * (1 << 30) * 0.9 - 8.03e9 * 2) / (2 * 32 * 8 * 128 * 2)));
    assert_int_equal(qr_sim_kv_slots(qr_sim_find_model("opt-175b"), qr_sim_find_device("h100"), 1, 0.9), 0);
}

static void hardware_from_json(void **state)
{
    (void)state;
    quire_error error;
    qr_sim_device device = {.name = "untouched"};
    const char *good =
        "{\"base\": \"h100\", \"name\": \"h100-96gb\", \"memory_gib\": 96, \"note\": \"text is a note\"}";
    assert_int_equal(qr_sim_parse_device("f.json", good, strlen(good), &device, &error), QUIRE_OK);
    assert_string_equal(device.name, "h100-96gb");
    assert_true(device.memory_gib == 96 && device.tflops == 989);
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "line"},
        {"[]", "must be a JSON object"},
        {"{\"base\": \"h1000\"}", "no device is named \"h1000\""},
        {"{\"base\": \"h100\", \"memory\": 1}", "unknown field \"memory\""},
        {"{\"base\": \"h100\", \"tflops\": -1}", "\"tflops\" must be a number"},
        {"{\"base\": \"h100\", \"tflops\": null}", "\"tflops\" must be a number"},
        {"{\"memory_gib\": 10}", "is missing"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(qr_sim_parse_device("f.json", bad[i].text, strlen(bad[i].text), &device, &error),
                         QUIRE_FORMAT);
        if (!strstr(error.message, bad[i].message)) fail_msg("%s: %s", bad[i].text, error.message);
        assert_string_equal(device.name, "h100-96gb");
    }
    qr_sim_model model = {0};
    const char *small = "{\"base\": \"llama-3-8b\", \"num_layers\": 16}";
    assert_int_equal(qr_sim_parse_model("m.json", small, strlen(small), &model, &error), QUIRE_OK);
    assert_true(model.num_layers == 16 && model.head_dim == 128);
    assert_string_equal(model.name, "m.json");
    const char *measured = "{\"device\": \"two cores\", \"step_us\": 12, \"pair_us\": 0}";
    assert_int_equal(qr_sim_apply_calibration("c.json", measured, strlen(measured), &device, &error), QUIRE_OK);
    assert_true(device.step_us == 12 && device.tflops == 989);
}

/* ---- runs -------------------------------------------------------------------------------------- */

typedef struct setup {
    qr_sim_trace trace;
    qr_sim_options sim;
    qr_sim_workload_options workload;
} setup;

static void setup_sharegpt(setup *s, int64_t num_requests)
{
    quire_error error;
    memset(s, 0, sizeof *s);
    if (qr_sim_trace_sharegpt(&s->trace, &error) != QUIRE_OK) fail_msg("%s", error.message);
    qr_sim_trace_filter(&s->trace, 4, 1024, 2048);
    s->sim.cost = opt_13b();
    qr_sched_options_init(&s->sim.sched);
    s->sim.sched.num_blocks = 15728 / 16;
    s->sim.sched.max_model_len = 2048;
    s->sim.sched.max_num_seqs = 256;
    s->workload = (qr_sim_workload_options){.trace = &s->trace,
                                            .request_rate = 2,
                                            .speed = 1,
                                            .num_requests = num_requests,
                                            .num_seqs = 1,
                                            .max_model_len = 2048};
}

static void run(const setup *s, qr_sim_result *out)
{
    quire_error error;
    if (qr_sim_run(&s->sim, &s->workload, out, &error) != QUIRE_OK) fail_msg("%s", error.message);
}

/* What the workload asks for, counted without a scheduler. */
static void count_workload(const qr_sim_workload_options *options, int64_t *prompt, int64_t *output)
{
    qr_sim_workload w;
    qr_sim_arrival a;
    *prompt = *output = 0;
    for (qr_sim_workload_init(&w, options); qr_sim_workload_next(&w, &a);) {
        *prompt += a.prompt_tokens;
        *output += (int64_t)a.output_tokens * options->num_seqs;
    }
}

static void check_conserved(const setup *s, const qr_sim_result *r)
{
    int64_t prompt, output;
    count_workload(&s->workload, &prompt, &output);
    assert_int_equal(r->num_requests, s->workload.num_requests);
    assert_int_equal(r->prompt_tokens, prompt);
    assert_int_equal(r->output_tokens, output);
    const qr_sim_memory *m = &r->memory;
    near(m->live + m->reserved + m->internal + m->external + m->free, 1, 1e-9);
}

static void same_seed_same_result(void **state)
{
    (void)state;
    static setup s;
    static qr_sim_result first, again;
    setup_sharegpt(&s, 2000);
    run(&s, &first);
    run(&s, &again);
    assert_memory_equal(&first, &again, sizeof first);
    check_conserved(&s, &first);
    assert_true(first.num_preemptions > 0); /* computed again and still conserved */
    assert_true(first.computed_tokens >= first.prompt_tokens + first.output_tokens - first.num_requests);
    s.workload.seed = 1;
    run(&s, &again);
    assert_true(again.seconds != first.seconds);
    qr_sim_trace_deinit(&s.trace);
}

/* Prompts that arrive together: with the short ones first the mean wait for a first token is shorter. */
static void fair_waits_less(void **state)
{
    (void)state;
    static setup s;
    static qr_sim_result fcfs, fair;
    setup_sharegpt(&s, 100);
    s.workload.request_rate = INFINITY;
    s.sim.sched.max_num_batched_tokens = 512;
    run(&s, &fcfs);
    s.sim.sched.policy = QR_SCHED_FAIR;
    run(&s, &fair);
    check_conserved(&s, &fair);
    assert_int_equal(fair.output_tokens, fcfs.output_tokens);
    assert_true(qr_sim_histogram_mean(&fair.time_to_first_token) <
                0.9 * qr_sim_histogram_mean(&fcfs.time_to_first_token));
    qr_sim_trace_deinit(&s.trace);
}

/* One request alone: its latency is the sum of its steps, worked out by hand. */
static void one_request_by_hand(void **state)
{
    (void)state;
    static setup s;
    static qr_sim_result r;
    setup_sharegpt(&s, 1);
    qr_sim_row row = {.prompt_tokens = 100, .output_tokens = 3};
    qr_sim_trace one = {.rows = &row, .num_rows = 1};
    s.workload.trace = &one;
    run(&s, &r);
    double us = 0, first = 0;
    for (int step = 0; step < 3; step++) {
        qr_sim_load load = {0};
        qr_sim_load_add(&load, step == 0 ? 0 : 99 + step, step == 0 ? 100 : 1);
        us += qr_sim_cost_step_us(&s.sim.cost, &load);
        if (step == 0) first = us;
    }
    assert_int_equal(r.num_steps, 3);
    near(qr_sim_histogram_mean(&r.latency), us * 1e-6, 1e-9);
    near(qr_sim_histogram_mean(&r.normalized_latency), us * 1e-6 / 3, 1e-9);
    near(qr_sim_histogram_mean(&r.time_to_first_token), first * 1e-6, 1e-9);
    near(qr_sim_histogram_mean(&r.inter_token_latency), (us - first) / 2 * 1e-6, 1e-9);
    near(r.seconds, us * 1e-6, 1e-9);
    qr_sim_trace_deinit(&s.trace);
}

static void swapping_conserves(void **state)
{
    (void)state;
    static setup s;
    static qr_sim_result r;
    setup_sharegpt(&s, 500);
    s.workload.request_rate = INFINITY;
    s.sim.sched.preemption_mode = QR_PREEMPT_SWAP;
    s.sim.sched.num_swap_blocks = s.sim.sched.num_blocks;
    run(&s, &r);
    check_conserved(&s, &r);
    assert_true(r.num_swapped_groups > 0 && r.time.swaps > 0);
    qr_sim_trace_deinit(&s.trace);
}

static void samples_share_their_prompt(void **state)
{
    (void)state;
    static setup s;
    static qr_sim_result r;
    setup_sharegpt(&s, 500);
    double last = 0;
    for (int n = 2; n <= 6; n += 2) {
        s.workload.num_seqs = n;
        run(&s, &r);
        check_conserved(&s, &r);
        assert_true(r.saved_share > last && r.saved_share < 0.5);
        last = r.saved_share;
    }
    qr_sim_trace_deinit(&s.trace);
}

static void beams_follow_the_record(void **state)
{
    (void)state;
    static setup s;
    static qr_sim_result r;
    quire_error error;
    qr_sim_beams beams;
    setup_sharegpt(&s, 200);
    s.workload.num_seqs = 3;
    s.workload.beam_search = true;
    s.sim.beams = &beams;
    double saved[2];
    static const char *const records[] = {"width,parents\n3,012\n", "width,parents\n3,001 011 201\n"};
    for (int i = 0; i < 2; i++) {
        if (qr_sim_beams_parse("b.json", records[i], strlen(records[i]), &beams, &error) != QUIRE_OK)
            fail_msg("%s", error.message);
        run(&s, &r);
        check_conserved(&s, &r);
        saved[i] = r.saved_share;
        qr_sim_beams_deinit(&beams);
    }
    assert_true(saved[1] > saved[0]); /* beams that fork share what is behind them */
    qr_sim_trace_deinit(&s.trace);
}

static void prefixes_are_found(void **state)
{
    (void)state;
    static setup s;
    static qr_sim_result r;
    quire_error error;
    setup_sharegpt(&s, 300);
    run(&s, &r);
    assert_true(r.prefix_hit_rate == 0); /* requests of their own share nothing */
    s.workload.shared_prefix = 320;
    run(&s, &r);
    const double mean = 320 + (double)(r.prompt_tokens - 300 * 320) / 300;
    near(r.prefix_hit_rate, 320 / mean * 299 / 300, 0.02);
    qr_sim_trace_deinit(&s.trace);

    /* Mooncake: the second prompt begins with the first one's block of 512, the third is the second's equal */
    const char *text =
        "{\"timestamp\": 0, \"input_length\": 1000, \"output_length\": 2, \"hash_ids\": [7, 8]}\n"
        "{\"timestamp\": 60000, \"input_length\": 1100, \"output_length\": 2, \"hash_ids\": [7, 9, 10]}\n"
        "{\"timestamp\": 120000, \"input_length\": 1100, \"output_length\": 2, \"hash_ids\": [7, 9, 10]}\n";
    if (qr_sim_trace_parse("m", text, strlen(text), &s.trace, &error) != QUIRE_OK) fail_msg("%s", error.message);
    s.workload.shared_prefix = 0;
    s.workload.request_rate = 0;
    s.workload.num_requests = 3;
    run(&s, &r);
    near(r.prefix_hit_rate, (512.0 + 1088) / 3200, 1e-9); /* 1,088: whole blocks of 16, and one token is computed */
    assert_true(r.seconds > 120 && r.seconds < 121);
    qr_sim_trace_deinit(&s.trace);
}

static void memory_is_bounded_and_failures_are_clean(void **state)
{
    (void)state;
    static setup s;
    static qr_sim_result r;
    quire_error error;
    setup_sharegpt(&s, 20);
    s.workload.request_rate = INFINITY;
    qr_mem_fail_after(UINT64_MAX);
    run(&s, &r);
    const uint64_t num_allocations = qr_mem_num_allocations();
    qr_mem_fail_off();
    for (uint64_t i = 0; i < num_allocations; i++) {
        qr_mem_fail_after(i);
        assert_int_equal(qr_sim_run(&s.sim, &s.workload, &r, &error), QUIRE_NOMEM);
        qr_mem_fail_off();
    }
    s.sim.sched.num_blocks = 3; /* too small for any */
    assert_int_equal(qr_sim_run(&s.sim, &s.workload, &r, &error), QUIRE_INVALID);
    assert_non_null(strstr(error.message, "can never fit"));
    qr_sim_trace_deinit(&s.trace);
}

static void histograms(void **state)
{
    (void)state;
    static qr_sim_histogram h;
    assert_true(qr_sim_histogram_mean(&h) == 0 && qr_sim_histogram_percentile(&h, 99) == 0);
    for (int i = 1; i <= 1000; i++) qr_sim_histogram_observe(&h, i * 1e-3);
    near(qr_sim_histogram_mean(&h), 0.5005, 1e-9);
    near(qr_sim_histogram_percentile(&h, 50), 0.5, 0.011);
    near(qr_sim_histogram_percentile(&h, 99), 0.99, 0.011);
    near(qr_sim_histogram_percentile(&h, 100), 1, 0.011);
    qr_sim_histogram_observe(&h, 0);
    qr_sim_histogram_observe(&h, 1e30);
    assert_true(h.max == 1e30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_decode_step_by_hand),
        cmocka_unit_test(a_prefill_step_by_hand),
        cmocka_unit_test(cost_is_monotone),
        cmocka_unit_test(kv_memory_of_the_paper),
        cmocka_unit_test(hardware_from_json),
        cmocka_unit_test(same_seed_same_result),
        cmocka_unit_test(fair_waits_less),
        cmocka_unit_test(one_request_by_hand),
        cmocka_unit_test(swapping_conserves),
        cmocka_unit_test(samples_share_their_prompt),
        cmocka_unit_test(beams_follow_the_record),
        cmocka_unit_test(prefixes_are_found),
        cmocka_unit_test(memory_is_bounded_and_failures_are_clean),
        cmocka_unit_test(histograms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
