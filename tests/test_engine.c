/* engine: requests through the public API on a tiny model: n sequences, logprobs, aborts, full queue, drain, failed
 * allocations; and the same bytes whatever runs beside. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "quire.h"

enum { VOCAB = 384, MAX_OUT = 320, MAX_N = 4 };

/* Everything that a request gave, comparable as bytes. */
typedef struct result {
    int32_t tokens[MAX_N][MAX_OUT];
    float logprobs[MAX_N][MAX_OUT];
    int num[MAX_N];
    quire_finish_reason reason[MAX_N];
    double cumulative[MAX_N];
} result;

static quire_model *open_tiny(int threads)
{
    quire_model_options options;
    quire_model *model = NULL;
    quire_error error = {0};
    quire_model_options_init(&options);
    options.compute_dtype = "float32";
    options.threads = threads;
    if (quire_model_open("tests/golden/tiny/llama", &options, &model, &error) != QUIRE_OK)
        fail_msg("%s", error.message);
    return model;
}

static quire_engine *start(quire_model *model, const quire_engine_options *options)
{
    quire_engine *engine = NULL;
    quire_error error = {0};
    if (quire_engine_create(model, options, &engine, &error) != QUIRE_OK) fail_msg("%s", error.message);
    return engine;
}

static quire_engine_options small_options(void)
{
    quire_engine_options options;
    quire_engine_options_init(&options);
    options.num_kv_blocks = 256;
    return options;
}

/* The i-th of a family of unlike requests. */
static void make_request(int i, int32_t *prompt, quire_request_options *options)
{
    quire_request_options_init(options);
    options->num_prompt_tokens = (size_t)(1 + (i * 37) % 60);
    for (size_t k = 0; k < options->num_prompt_tokens; k++)
        prompt[k] = (int32_t)(3 + (k < 20 ? k * 7 : k * (size_t)(i + 11)) % 380); /* the first 20 are common */
    options->prompt_token_ids = prompt;
    quire_sampling_params *p = &options->sampling;
    p->max_tokens = i % 6 == 4 ? 5 + i % 30 : 5 + (i * 61) % 300;
    p->min_tokens = p->max_tokens;
    p->temperature = i % 3 == 0 ? 0 : 0.9;
    p->top_p = i % 4 == 1 ? 0.9 : 1;
    p->top_k = i % 5 == 2 ? 20 : 0;
    p->repetition_penalty = i % 7 == 3 ? 1.2 : 1;
    p->has_seed = true;
    p->seed = (uint64_t)i;
    p->n = i % 6 == 4 ? 3 : 1;
    p->logprobs = i % 2 ? 3 : 0;
    if (i % 12 != 10) return;
    p->use_beam_search = true;
    p->best_of = 3;
    p->repetition_penalty = 1;
    p->logprobs = -1;
}

static void collect(quire_request *request, result *out)
{
    const quire_output *o;
    bool finished = false;
    memset(out, 0, sizeof *out);
    while (quire_request_next(request, -1, &o) == QUIRE_OK) {
        assert_false(finished);
        for (int i = 0; i < o->num_tokens; i++) {
            int at = out->num[o->index]++;
            out->tokens[o->index][at] = o->token_ids[i];
            if (o->logprobs) out->logprobs[o->index][at] = o->logprobs[i].logprob;
        }
        assert_int_equal(o->num_output_tokens, out->num[o->index]);
        if (o->finish_reason != QUIRE_FINISH_NONE) {
            assert_int_equal(out->reason[o->index], QUIRE_FINISH_NONE);
            out->reason[o->index] = o->finish_reason;
            out->cumulative[o->index] = o->cumulative_logprob;
        }
        finished = o->request_finished;
    }
    assert_true(finished);
    quire_request_release(request);
}

static quire_request *submit(quire_engine *engine, int i)
{
    int32_t prompt[128];
    quire_request_options options;
    quire_request *request = NULL;
    quire_error error = {0};
    make_request(i, prompt, &options);
    if (quire_submit(engine, &options, &request, &error) != QUIRE_OK) fail_msg("%s", error.message);
    return request;
}

enum { NUM_REQUESTS = 64 };

/* All of the family, `rounds` times over: one by one, or all at once. */
static void run_all(quire_model *model, quire_engine_options options, bool together, int rounds, result *out,
                    quire_stats *stats)
{
    quire_engine *engine = start(model, &options);
    static quire_request *requests[4 * NUM_REQUESTS];
    static result again;
    for (int i = 0; i < rounds * NUM_REQUESTS; i++) {
        requests[i] = submit(engine, i % NUM_REQUESTS);
        if (!together) collect(requests[i], &out[i]);
    }
    for (int i = 0; together && i < rounds * NUM_REQUESTS; i++) {
        collect(requests[i], i < NUM_REQUESTS ? &out[i] : &again);
        if (i >= NUM_REQUESTS) assert_memory_equal(&again, &out[i % NUM_REQUESTS], sizeof again);
    }
    assert_int_equal(quire_engine_drain(engine, 10000), QUIRE_OK);
    quire_engine_get_stats(engine, stats);
    quire_engine_destroy(engine);
}

static void same_bytes_whatever_runs_beside(void **state)
{
    (void)state;
    static result alone[NUM_REQUESTS], other[NUM_REQUESTS];
    quire_model *model = open_tiny(1);
    quire_stats stats;
    quire_engine_options base = small_options();
    base.enable_prefix_caching = false;
    run_all(model, base, false, 1, alone, &stats);
    static const char *const allocators[] = {"vllm-v0",   "vllm-v0",     "orca-max",
                                             "orca-pow2", "orca-oracle", "faster-transformer"};
    for (int variant = 0; variant < 19; variant++) {
        quire_engine_options o = base;
        quire_model *used = model;
        if (variant == 1) o.num_kv_blocks = 24, o.max_model_len = 384; /* preemptions */
        if (variant == 2) o.max_num_batched_tokens = 7, o.max_num_seqs = 7;
        if (variant == 3) o.block_size = 8, o.num_kv_blocks = 512;
        if (variant == 4) o.block_size = 128, o.num_kv_blocks = 64;
        if (variant == 5) o.enable_prefix_caching = true;
        if (variant == 6) o.enable_prefix_caching = true, o.num_kv_blocks = 24, o.max_model_len = 384;
        if (variant == 7) used = open_tiny(2);
        if (variant == 8) o.enable_chunked_prefill = false;
        if (variant == 9) o.max_num_seqs = 3;
        if (variant >= 13) o.kv_allocator = allocators[variant - 13], o.max_model_len = 384;
        if (variant == 13) o.num_kv_blocks = 24, o.enable_prefix_caching = true; /* 14: the same, swapped */
        if (variant == 15 || variant == 18) o.num_kv_blocks = 135;               /* 4 regions of 32 */
        bool swap = (variant >= 10 && variant <= 12) || variant == 14;
        if (swap) {
            o.num_kv_blocks = 24, o.max_model_len = 384, o.swap_space_bytes = 1 << 20;
            o.preemption_mode = variant == 12 ? "auto" : "swap";
            if (variant == 11) o.swap_path = ".";
            o.enable_prefix_caching = variant == 11;
        }
        run_all(used, o, true, variant == 1 || variant == 6 ? 4 : 1, other, &stats);
        if (variant == 1 || variant == 6) {
            print_message("variant %d: %llu preemptions\n", variant, (unsigned long long)stats.num_preemptions);
            assert_true(stats.num_preemptions >= 200);
        }
        if (swap && variant != 12) assert_true(stats.num_swapped_groups > 20);
        for (int i = 0; i < NUM_REQUESTS; i++)
            if (memcmp(&alone[i], &other[i], sizeof alone[i]) != 0)
                fail_msg("variant %d: request %d differs", variant, i);
        assert_int_equal(stats.num_free_kv_blocks, stats.num_kv_blocks);
        double sum = stats.kv_live_fraction + stats.kv_reserved_fraction + stats.kv_internal_fraction +
                     stats.kv_external_fraction + stats.kv_unused_fraction;
        assert_true(fabs(sum - 1) < 1e-9 && stats.kv_live_fraction > 0 && stats.mean_requests_running > 1);
        if (variant >= 15) {
            assert_int_equal(stats.num_preemptions, 0);
            assert_true(stats.kv_reserved_fraction > 0 && stats.prefix_cache_hits == 0);
        }
        if (used != model) quire_model_close(used);
    }
    quire_model_close(model);
}

static void prompt_logprobs_and_echo_are_the_logits(void **state)
{
    (void)state;
    quire_model *model = open_tiny(1);
    quire_engine_options engine_options = small_options();
    engine_options.max_num_batched_tokens = 9;
    engine_options.max_num_seqs = 4;
    quire_engine *engine = start(model, &engine_options);
    int32_t prompt[60];
    static float logits[60 * VOCAB];
    quire_request_options options;
    quire_request *request = NULL;
    quire_error error = {0};
    const quire_output *o;
    make_request(5, prompt, &options);
    options.num_prompt_tokens = 60;
    for (int i = 0; i < 60; i++) prompt[i] = 3 + i * 5;
    assert_int_equal(quire_model_logits(model, prompt, 60, logits, &error), QUIRE_OK);
    for (int round = 0; round < 2; round++) { /* the second time the prompt is in the prefix cache */
        options.sampling.prompt_logprobs = 4;
        options.sampling.max_tokens = options.sampling.min_tokens = round;
        assert_int_equal(quire_submit(engine, &options, &request, &error), QUIRE_OK);
        assert_int_equal(quire_request_next(request, -1, &o), QUIRE_OK);
        assert_int_equal(o->num_tokens, round);
        assert_int_equal(o->finish_reason, QUIRE_FINISH_LENGTH);
        assert_true(isnan(o->prompt_logprobs[0].logprob));
        for (int p = 1; p < 60; p++) {
            const float *row = logits + (p - 1) * VOCAB;
            double sum = 0;
            for (int i = 0; i < VOCAB; i++) sum += exp(row[i]);
            assert_true(fabs(o->prompt_logprobs[p].logprob - (row[prompt[p]] - log(sum))) < 1e-4);
            assert_int_equal(o->prompt_logprobs[p].num_top, 4);
            assert_true(o->prompt_logprobs[p].top_logprobs[0] >= o->prompt_logprobs[p].top_logprobs[3]);
        }
        quire_request_release(request);
    }
    quire_engine_destroy(engine);
    quire_model_close(model);
}

static void bad_requests_are_named(void **state)
{
    (void)state;
    quire_model *model = open_tiny(1);
    quire_engine_options engine_options = small_options();
    engine_options.num_kv_blocks = 8;
    engine_options.max_model_len = 128;
    quire_engine *engine = start(model, &engine_options);
    static const char *const names[] = {"temperature", "top_p",  "min_p", "n",          "max_tokens",
                                        "logprobs",    "prompt", "stop",  "min_tokens", "n"};
    static int32_t prompt[500];
    for (int c = 0; c < 10; c++) {
        quire_request_options o;
        quire_request *request = NULL;
        quire_error error = {0};
        const char *stop = "x";
        make_request(2, prompt, &o);
        if (c == 0) o.sampling.temperature = NAN;
        if (c == 1) o.sampling.top_p = 0;
        if (c == 2) o.sampling.min_p = 1.5;
        if (c == 3) o.sampling.n = 0;
        if (c == 4) o.sampling.max_tokens = o.sampling.min_tokens = 0;
        if (c == 5) o.sampling.logprobs = 1000;
        if (c == 6) o.num_prompt_tokens = 128;
        if (c == 7) o.sampling.stop = &stop, o.sampling.num_stop = 1;
        if (c == 8) o.sampling.min_tokens = 1000;
        if (c == 9) o.sampling.n = 200;
        assert_int_equal(quire_submit(engine, &o, &request, &error), QUIRE_INVALID);
        if (strcmp(error.param, names[c]) != 0) fail_msg("case %d: param %s: %s", c, error.param, error.message);
    }
    quire_engine_options swap = engine_options;
    swap.preemption_mode = "swap";
    quire_engine *none = NULL;
    quire_error swap_error = {0};
    assert_int_equal(quire_engine_create(model, &swap, &none, &swap_error), QUIRE_INVALID);
    swap.swap_space_bytes = 1 << 20;
    swap.swap_path = "tests/no-such-folder";
    assert_int_equal(quire_engine_create(model, &swap, &none, &swap_error), QUIRE_IO);
    assert_non_null(strstr(swap_error.message, "no-such-folder"));
    quire_request_options o; /* fits the model, never the pool */
    quire_request *request = NULL;
    quire_error error = {0};
    make_request(2, prompt, &o);
    o.sampling.n = 4, o.sampling.min_tokens = 0, o.sampling.max_tokens = 60, o.num_prompt_tokens = 60;
    assert_int_equal(quire_submit(engine, &o, &request, &error), QUIRE_INVALID);
    assert_non_null(strstr(error.message, "never fit"));
    quire_engine_destroy(engine);
    quire_model_close(model);
}

static void kv_cache_types_are_named(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"auto", "float32"},     /* computes in float32 */ {"float16", "float16"},
                                           {"float32", "float32"},  {"int8", "int8"},
                                           {"fp8", "fp8_e4m3"},     {"fp8_e4m3", "fp8_e4m3"},
                                           {"fp8_e5m2", "fp8_e5m2"}};
    quire_model *model = open_tiny(1);
    quire_engine_options options = small_options();
    quire_stats stats;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        options.kv_cache_dtype = names[i][0];
        quire_engine *engine = start(model, &options);
        quire_engine_get_stats(engine, &stats);
        assert_string_equal(stats.kv_cache_dtype, names[i][1]);
        quire_engine_destroy(engine);
    }
    quire_engine *none = NULL;
    quire_error error = {0};
    options.kv_cache_dtype = "int4";
    assert_int_equal(quire_engine_create(model, &options, &none, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "kv_cache_dtype");
    assert_non_null(strstr(error.message, "int8, fp8, fp8_e4m3 or fp8_e5m2, not 'int4'"));
    quire_model_close(model);
}

typedef struct counter {
    pthread_mutex_t lock;
    int outputs, finished;
    quire_request *to_abort;
} counter;

static void count_output(void *user, const quire_output *o)
{
    counter *c = user;
    pthread_mutex_lock(&c->lock);
    c->outputs++;
    c->finished += o->request_finished;
    if (c->outputs == 5 && c->to_abort) quire_request_abort(c->to_abort); /* from the callback itself */
    pthread_mutex_unlock(&c->lock);
}

static void a_burst_at_an_idle_engine_is_no_queue(void **state)
{
    (void)state;
    quire_model *model = open_tiny(1);
    quire_engine_options engine_options = small_options();
    engine_options.max_num_seqs = 4;
    engine_options.max_num_queued_reqs = 1;
    quire_engine *engine = start(model, &engine_options);
    int32_t prompt[128];
    for (int round = 0; round < 10; round++) {
        quire_request *requests[4];
        quire_request_options o;
        for (int i = 0; i < 4; i++) {
            quire_error error = {0};
            make_request(i, prompt, &o);
            o.sampling.n = 1;
            if (quire_submit(engine, &o, &requests[i], &error) != QUIRE_OK) fail_msg("%d: %s", i, error.message);
        }
        for (int i = 0; i < 4; i++) {
            const quire_output *output = NULL;
            do assert_int_equal(quire_request_next(requests[i], 30000, &output), QUIRE_OK);
            while (!output->request_finished);
            quire_request_release(requests[i]);
        }
    }
    quire_engine_destroy(engine);
    quire_model_close(model);
}

static void aborts_queue_limits_and_drain(void **state)
{
    (void)state;
    quire_model *model = open_tiny(2);
    quire_engine_options engine_options = small_options();
    engine_options.max_num_seqs = 4;
    engine_options.max_num_queued_reqs = 10;
    quire_engine *engine = start(model, &engine_options);
    counter c = {.lock = PTHREAD_MUTEX_INITIALIZER};
    int accepted = 0, full = 0;
    int32_t prompt[128];
    for (int i = 0; i < 200; i++) {
        quire_request_options o;
        quire_request *request = NULL;
        quire_error error = {0};
        make_request(i, prompt, &o);
        o.on_output = count_output;
        o.user = &c;
        quire_status status = quire_submit(engine, &o, &request, &error);
        if (status == QUIRE_QUEUE_FULL) {
            full++;
            continue;
        }
        assert_int_equal(status, QUIRE_OK);
        accepted++;
        if (i % 3 == 0) quire_request_abort(request);
        if (i == 1)
            c.to_abort = request;
        else
            quire_request_release(request);
    }
    assert_int_equal(quire_engine_drain(engine, 30000), QUIRE_OK);
    quire_stats stats;
    quire_engine_get_stats(engine, &stats);
    assert_true(full > 0);
    assert_int_equal(c.finished, accepted);
    assert_int_equal(stats.finished_abort + stats.finished_length + stats.finished_stop, accepted);
    assert_int_equal(stats.num_free_kv_blocks, stats.num_kv_blocks);
    assert_int_equal(stats.num_requests_running + stats.num_requests_waiting, 0);
    quire_request *late = NULL;
    quire_request_options o;
    make_request(1, prompt, &o);
    assert_int_equal(quire_submit(engine, &o, &late, NULL), QUIRE_ABORTED);
    if (c.to_abort) quire_request_release(c.to_abort);
    quire_engine_destroy(engine);
    quire_model_close(model);
}

static void destroy_ends_running_requests(void **state)
{
    (void)state;
    quire_model *model = open_tiny(1);
    quire_engine_options engine_options = small_options();
    quire_engine *engine = start(model, &engine_options);
    quire_request *requests[20];
    const quire_output *o, *last = NULL;
    for (int i = 0; i < 20; i++) requests[i] = submit(engine, i);
    quire_engine_destroy(engine);
    for (int i = 0; i < 20; i++) {
        bool finished = false;
        while (quire_request_next(requests[i], -1, &o) == QUIRE_OK) {
            finished = o->request_finished;
            last = o;
        }
        assert_true(finished);
        assert_non_null(last);
        quire_request_release(requests[i]);
    }
    quire_model_close(model);
}

static void logits_of_one_prompt_leave_the_engine_its_memory(void **state)
{
    (void)state;
    static result out;
    quire_model *model = open_tiny(1);
    quire_engine_options options = small_options();
    quire_engine *engine = start(model, &options);
    int32_t prompt[200];
    float logits[VOCAB];
    quire_request_options request_options;
    quire_request *request = NULL;
    quire_error error;
    make_request(0, prompt, &request_options);
    for (int i = 0; i < 200; i++) prompt[i] = 3 + i;
    request_options.num_prompt_tokens = 200;
    assert_int_equal(quire_model_logits(model, prompt, 1, logits, &error), QUIRE_OK);
    assert_int_equal(quire_submit(engine, &request_options, &request, &error), QUIRE_OK);
    collect(request, &out);
    assert_int_equal(out.reason[0], QUIRE_FINISH_LENGTH);
    quire_engine_destroy(engine);
    quire_model_close(model);
}

static void failed_allocations_change_nothing(void **state)
{
    (void)state;
    quire_error error;
    quire_model *model = NULL;
    quire_model_options options;
    quire_model_options_init(&options);
    options.compute_dtype = "float32";
    options.threads = 1;
    for (uint64_t n = 0; !model; n++) {
        qr_mem_fail_after(n);
        quire_status status = quire_model_open("tests/golden/tiny/llama", &options, &model, &error);
        qr_mem_fail_off();
        if (status != QUIRE_OK) assert_int_equal(status, QUIRE_NOMEM);
        assert_true(n < 100000);
    }
    quire_engine_options engine_options = small_options();
    quire_engine *engine = NULL;
    static const char *const configs[] = {"{\"model\": \"tests/golden/tiny/llama\", \"num_speculative_tokens\": 3}",
                                          "{\"method\": \"ngram\", \"num_speculative_tokens\": 3}"};
    for (int i = 0; i < 2; i++) {
        quire_engine_destroy(engine);
        engine = NULL;
        engine_options.speculative_config = configs[i];
        for (uint64_t n = 0; !engine; n++) {
            qr_mem_fail_after(n);
            quire_status status = quire_engine_create(model, &engine_options, &engine, &error);
            qr_mem_fail_off();
            if (status != QUIRE_OK) assert_int_equal(status, QUIRE_NOMEM);
            assert_true(n < 10000);
        }
    }
    quire_request *request = NULL;
    int32_t prompt[128];
    quire_request_options o;
    make_request(4, prompt, &o);
    o.sampling.prompt_logprobs = 2;
    for (uint64_t n = 0; !request; n++) {
        qr_mem_fail_after(n);
        quire_status status = quire_submit(engine, &o, &request, &error);
        if (status == QUIRE_OK) break; /* still failing while the engine works on it: its outputs cannot be kept */
        qr_mem_fail_off();
        assert_int_equal(status, QUIRE_NOMEM);
    }
    assert_int_equal(quire_engine_drain(engine, 10000), QUIRE_OK);
    qr_mem_fail_off();
    quire_request_release(request);
    quire_stats stats;
    quire_engine_get_stats(engine, &stats);
    assert_int_equal(stats.num_free_kv_blocks, stats.num_kv_blocks);
    quire_engine_destroy(engine);
    quire_model_close(model);
}

/* ---- steps, measured ---------------------------------------------------------------------------------------- */

typedef struct step_sums {
    int num_steps, num_tokens;
    double seconds[QUIRE_NUM_STEP_PARTS];
} step_sums;

static void add_step(void *user, const quire_step_profile *step)
{
    step_sums *sums = user;
    assert_true(step->num_seqs > 0 && step->num_tokens >= step->num_seqs);
    assert_true(step->num_context_tokens >= step->num_tokens && step->bookkeeping_cpu_seconds > 0);
    sums->num_steps++;
    sums->num_tokens += step->num_tokens;
    for (int i = 0; i < QUIRE_NUM_STEP_PARTS; i++) sums->seconds[i] += step->seconds[i];
}

/* Measuring changes no result, and the backend is as it was afterwards. */
static void a_measured_step_is_the_same(void **state)
{
    static result plain, measured, after;
    quire_model *model = open_tiny(2);
    quire_engine_options options = small_options();
    step_sums sums = {0};
    quire_stats stats;
    quire_engine *engine = start(model, &options);
    collect(submit(engine, 1), &plain);
    quire_engine_destroy(engine);
    options.on_step = add_step;
    options.user = &sums;
    engine = start(model, &options);
    collect(submit(engine, 1), &measured);
    assert_int_equal(quire_engine_drain(engine, -1), QUIRE_OK);
    quire_engine_get_stats(engine, &stats);
    quire_engine_destroy(engine);
    assert_memory_equal(&plain, &measured, sizeof plain);
    assert_int_equal(sums.num_steps, plain.num[0]); /* the prompt's step gives the first token */
    assert_int_equal(sums.num_steps, stats.num_steps);
    for (int i = QUIRE_STEP_EMBEDDING; i < QUIRE_NUM_STEP_PARTS; i++) assert_true(sums.seconds[i] > 0);
    assert_true(sums.seconds[QUIRE_STEP_ATTENTION] < stats.forward_seconds);
    const step_sums before = sums;
    options.on_step = NULL;
    engine = start(model, &options);
    collect(submit(engine, 1), &after);
    quire_engine_destroy(engine);
    assert_memory_equal(&plain, &after, sizeof plain);
    assert_memory_equal(&before, &sums, sizeof sums);
    quire_model_close(model);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes_whatever_runs_beside),
        cmocka_unit_test(prompt_logprobs_and_echo_are_the_logits),
        cmocka_unit_test(a_measured_step_is_the_same),
        cmocka_unit_test(bad_requests_are_named),
        cmocka_unit_test(kv_cache_types_are_named),
        cmocka_unit_test(a_burst_at_an_idle_engine_is_no_queue),
        cmocka_unit_test(aborts_queue_limits_and_drain),
        cmocka_unit_test(destroy_ends_running_requests),
        cmocka_unit_test(logits_of_one_prompt_leave_the_engine_its_memory),
        cmocka_unit_test(failed_allocations_change_nothing),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
