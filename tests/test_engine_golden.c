/* The model against Hugging Face: logits and greedy continuations of the tiny checkpoints (both file formats) and of
 * SmolLM2, and the default int8 mode against float32. References: tests/golden (make_goldens.py). */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "backend_sets.h"
#include "engine/model_api.h"
#include "quire.h"

static quire_model *open_model_on(const char *device, const char *path, const char *compute_dtype)
{
    quire_model_options options;
    quire_model *model = NULL;
    quire_error error = {0};
    quire_model_options_init(&options);
    options.compute_dtype = compute_dtype;
    options.device = device;
    if (quire_model_open(path, &options, &model, &error) != QUIRE_OK) fail_msg("%s: %s", path, error.message);
    return model;
}

static quire_model *open_model(const char *path, const char *compute_dtype)
{
    return open_model_on("cpu", path, compute_dtype);
}

static int32_t *ids_of(const json_t *array, size_t *num)
{
    *num = json_array_size(array);
    int32_t *ids = malloc((*num + 1) * sizeof *ids);
    for (size_t i = 0; i < *num; i++) ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return ids;
}

/* Ask for the greedy continuation, end-of-sequence suppressed. */
static quire_request *submit_greedy(quire_engine *engine, const int32_t *prompt, size_t num_prompt, int num_tokens)
{
    quire_request_options options;
    quire_request *request = NULL;
    quire_error error = {0};
    quire_request_options_init(&options);
    options.prompt_token_ids = prompt;
    options.num_prompt_tokens = num_prompt;
    options.sampling.temperature = 0;
    options.sampling.max_tokens = options.sampling.min_tokens = num_tokens;
    if (quire_submit(engine, &options, &request, &error) != QUIRE_OK) fail_msg("%s", error.message);
    return request;
}

static void check_greedy(quire_request *request, const json_t *expected)
{
    const quire_output *output;
    size_t num = 0;
    while (quire_request_next(request, -1, &output) == QUIRE_OK)
        for (int i = 0; i < output->num_tokens; i++)
            assert_int_equal(output->token_ids[i], json_integer_value(json_array_get(expected, num++)));
    assert_int_equal(num, json_array_size(expected));
    quire_request_release(request);
}

/* Beam searches as generate() returns them: sequences best first (padded after their end), scores within 1e-3. */
static void check_beams(quire_engine *engine, const int32_t *prompt, size_t num_prompt, const json_t *entries,
                        int max_tokens)
{
    size_t e;
    json_t *entry;
    json_array_foreach(entries, e, entry)
    {
        quire_request_options options;
        quire_request *request = NULL;
        quire_error error = {0};
        const quire_output *o;
        const json_t *early = json_object_get(entry, "early_stopping");
        const json_t *sequences = json_object_get(entry, "sequences"), *scores = json_object_get(entry, "scores");
        quire_request_options_init(&options);
        options.prompt_token_ids = prompt;
        options.num_prompt_tokens = num_prompt;
        quire_sampling_params *p = &options.sampling;
        p->use_beam_search = true;
        p->n = (int)json_integer_value(json_object_get(entry, "num_beams"));
        p->length_penalty = json_number_value(json_object_get(entry, "length_penalty"));
        p->early_stopping = json_is_true(early)     ? QUIRE_EARLY_STOPPING_TRUE
                            : json_is_string(early) ? QUIRE_EARLY_STOPPING_NEVER
                                                    : QUIRE_EARLY_STOPPING_FALSE;
        p->max_tokens = max_tokens;
        if (quire_submit(engine, &options, &request, &error) != QUIRE_OK) fail_msg("%s", error.message);
        int num = 0;
        while (quire_request_next(request, -1, &o) == QUIRE_OK) {
            const json_t *want = json_array_get(sequences, (size_t)num);
            assert_int_equal(o->index, num);
            for (int i = 0; i < o->num_tokens; i++)
                assert_int_equal(o->token_ids[i], json_integer_value(json_array_get(want, (size_t)i)));
            for (size_t i = (size_t)o->num_tokens; i < json_array_size(want); i++) /* padding */
                assert_int_equal(o->finish_reason, QUIRE_FINISH_STOP);
            assert_true(fabs(o->beam_score - json_number_value(json_array_get(scores, (size_t)num))) < 1e-3);
            num++;
        }
        assert_int_equal(num, p->n);
        quire_request_release(request);
    }
}

static void check_tiny(const char *device, const char *arch, const char *model_path)
{
    char path[256];
    quire_error error = {0};
    snprintf(path, sizeof path, "tests/golden/tiny/%s/golden.json", arch);
    json_t *golden = json_load_file(path, 0, NULL);
    assert_non_null(golden);
    snprintf(path, sizeof path, "tests/golden/tiny/%s/logits.f32", arch);
    FILE *reference = fopen(path, "rb");
    assert_non_null(reference);
    quire_model *model = open_model_on(device, model_path, "float32");
    quire_engine_options options;
    quire_engine *engine = NULL;
    quire_engine_options_init(&options);
    options.num_kv_blocks = 64;
    if (quire_engine_create(model, &options, &engine, &error) != QUIRE_OK) fail_msg("%s", error.message);

    double worst = 0;
    for (size_t row = 0; row < 2; row++) {
        size_t num_ids, vocab = 384;
        int32_t *ids = ids_of(json_array_get(json_object_get(golden, "input_ids"), row), &num_ids);
        float *want = malloc(num_ids * vocab * sizeof *want), *got = malloc(num_ids * vocab * sizeof *got);
        assert_int_equal(fread(want, sizeof *want, num_ids * vocab, reference), num_ids * vocab);
        if (quire_model_logits(model, ids, num_ids, got, &error) != QUIRE_OK) fail_msg("%s", error.message);
        for (size_t i = 0; i < num_ids * vocab; i++) worst = fmax(worst, fabs((double)got[i] - want[i]));
        check_greedy(submit_greedy(engine, ids, num_ids, 24), json_array_get(json_object_get(golden, "greedy"), row));
        if (row == 0 && strcmp(device, "cpu") == 0)
            check_beams(engine, ids, num_ids, json_object_get(golden, "beam"), 20);
        free(ids);
        free(want);
        free(got);
    }
    print_message("%-4s %-44s largest difference of a logit %.2e\n", device, model_path, worst);
    assert_true(worst < 1e-3);
    fclose(reference);
    quire_engine_destroy(engine);
    quire_model_close(model);
    json_decref(golden);
}

/* gguf: also out of files of that format. */
static void check_tiny_checkpoints(const char *device, bool gguf)
{
    static const char *const archs[] = {"llama", "mistral_window", "qwen2", "qwen3", "opt", "gpt2"};
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        char path[256];
        snprintf(path, sizeof path, "tests/golden/tiny/%s", archs[i]);
        check_tiny(device, archs[i], path);
        snprintf(path, sizeof path, "tests/golden/tiny_gguf/%s.gguf", archs[i]);
        if (gguf) check_tiny(device, archs[i], path);
    }
}

static void tiny_checkpoints(void **state)
{
    (void)state;
    check_tiny_checkpoints("cpu", true);
}

static void tiny_checkpoints_on_cuda(void **state)
{
    (void)state;
    check_tiny_checkpoints("cuda", false);
}

/* Largest difference of a logit to float32 on the CPU. */
static double off_from_float32(const char *path, const char *device, const char *compute_dtype, bool batch_invariant,
                               int num_ids)
{
    enum { VOCAB = 384, MAX_IDS = 300 };
    static float logits[2][MAX_IDS * VOCAB];
    int32_t ids[MAX_IDS];
    quire_error error = {0};
    double worst = 0;
    for (int i = 0; i < num_ids; i++) ids[i] = (37 * i + 11) % VOCAB;
    for (int i = 0; i < 2; i++) {
        quire_model_options options;
        quire_model *model = NULL;
        quire_model_options_init(&options);
        options.device = i == 0 ? "cpu" : device;
        options.compute_dtype = i == 0 ? "float32" : compute_dtype;
        options.batch_invariant = i == 0 || batch_invariant;
        if (quire_model_open(path, &options, &model, &error) != QUIRE_OK) fail_msg("%s: %s", path, error.message);
        if (quire_model_logits(model, ids, (size_t)num_ids, logits[i], &error) != QUIRE_OK)
            fail_msg("%s", error.message);
        quire_model_close(model);
    }
    for (int i = 0; i < num_ids * VOCAB; i++) worst = fmax(worst, fabs((double)logits[0][i] - (double)logits[1][i]));
    return worst;
}

/* Of every type of weight that the tensor-core kernels take: their rounding is far from that to int8. */
static void tensor_cores_on_cuda(void **state)
{
    (void)state;
    static const char path[] = "tests/golden/tiny_gguf/quantized.gguf";
    enum { FEW = 40, MANY = 300 /* enough for cuBLASLt */ };
    const double int8 = off_from_float32(path, "cpu", "auto", true, FEW);
    const double tensor = off_from_float32(path, "cuda", "tensor", true, FEW);
    const double lt = off_from_float32(path, "cuda", "tensor", false, MANY);
    print_message("largest difference of a logit to float32: tensor cores %.2e, cuBLASLt (bfloat16) %.2e, int8 %.2e\n",
                  tensor, lt, int8);
    assert_true(tensor < int8 / 5);
    assert_true(lt > tensor && lt < 2 * int8);
}

/* ---- SmolLM2 ------------------------------------------------------------------------------------------ */

static const char *smollm2_path(void)
{
    const char *path = getenv("QUIRE_TEST_MODEL");
    if (!path) path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    FILE *f = fopen(path, "rb");
    if (!f) {
        print_message("skipped: no model at %s ('make model' fetches it)\n", path);
        skip();
    }
    fclose(f);
    return path;
}

static double log_sum_exp(const float *x, size_t n)
{
    double max = x[0], sum = 0;
    for (size_t i = 1; i < n; i++) max = fmax(max, x[i]);
    for (size_t i = 0; i < n; i++) sum += exp(x[i] - max);
    return max + log(sum);
}

/* Prompt plus greedy continuation of a row. */
static int32_t *full_ids(const json_t *row, size_t *num, size_t *num_prompt)
{
    size_t num_greedy;
    int32_t *prompt = ids_of(json_object_get(row, "input_ids"), num_prompt);
    int32_t *greedy = ids_of(json_object_get(row, "greedy"), &num_greedy);
    prompt = realloc(prompt, (*num_prompt + num_greedy) * sizeof *prompt);
    memcpy(prompt + *num_prompt, greedy, num_greedy * sizeof *greedy);
    free(greedy);
    *num = *num_prompt + num_greedy;
    return prompt;
}

static double worst_top_logprob(const json_t *row, const float *logits, size_t num_ids, size_t vocab)
{
    double worst = 0;
    for (size_t p = 0; p < num_ids; p++) {
        const json_t *ids = json_array_get(json_object_get(row, "top_ids"), p);
        const json_t *logprobs = json_array_get(json_object_get(row, "top_logprobs"), p);
        double lse = log_sum_exp(logits + p * vocab, vocab);
        for (size_t k = 0; k < json_array_size(ids); k++) {
            size_t id = (size_t)json_integer_value(json_array_get(ids, k));
            double want = json_number_value(json_array_get(logprobs, k));
            worst = fmax(worst, fabs(logits[p * vocab + id] - lse - want));
        }
    }
    return worst;
}

static double kl_sum(const float *p_logits, const float *q_logits, size_t num_ids, size_t vocab)
{
    double sum = 0;
    for (size_t row = 0; row < num_ids; row++) {
        const float *p = p_logits + row * vocab, *q = q_logits + row * vocab;
        double p_lse = log_sum_exp(p, vocab), q_lse = log_sum_exp(q, vocab);
        for (size_t i = 0; i < vocab; i++) sum += exp(p[i] - p_lse) * ((p[i] - p_lse) - (q[i] - q_lse));
    }
    return sum;
}

static void smollm2(void **state)
{
    (void)state;
    const char *path = smollm2_path();
    json_t *golden = json_load_file("tests/golden/smollm2-135m-instruct-q4_1.json", 0, NULL);
    assert_non_null(golden);
    quire_error error = {0};
    quire_model *exact = open_model(path, "float32"), *fast = open_model(path, "auto");
    quire_engine_options options;
    quire_engine *engine = NULL;
    quire_engine_options_init(&options);
    options.num_kv_blocks = 64;
    if (quire_engine_create(exact, &options, &engine, &error) != QUIRE_OK) fail_msg("%s", error.message);
    quire_model_info info;
    quire_model_get_info(exact, &info);
    size_t vocab = (size_t)info.vocab_size, positions = 0, r;
    double worst = 0, kl = 0;
    quire_request *greedy[8]; /* run together */
    json_t *row;
    json_array_foreach(json_object_get(golden, "rows"), r, row)
    {
        size_t num, num_prompt, num_tokenized;
        int32_t *ids = full_ids(row, &num, &num_prompt), *tokenized = NULL;
        const char *prompt = json_string_value(json_object_get(row, "prompt"));
        float *p = malloc(num * vocab * sizeof *p), *q = malloc(num * vocab * sizeof *q);
        assert_int_equal(quire_tokenize(exact, prompt, strlen(prompt), true, true, &tokenized, &num_tokenized, &error),
                         QUIRE_OK);
        assert_int_equal(num_tokenized, num_prompt);
        assert_memory_equal(tokenized, ids, num_prompt * sizeof *ids);
        assert_int_equal(quire_model_logits(exact, ids, num, p, &error), QUIRE_OK);
        assert_int_equal(quire_model_logits(fast, ids, num, q, &error), QUIRE_OK);
        greedy[r] = submit_greedy(engine, ids, num_prompt, 48);
        worst = fmax(worst, worst_top_logprob(row, p, num, vocab));
        kl += kl_sum(p, q, num, vocab);
        positions += num;
        free(p);
        free(q);
        free(ids);
        quire_free(tokenized);
    }
    json_array_foreach(json_object_get(golden, "rows"), r, row) check_greedy(greedy[r], json_object_get(row, "greedy"));
    const char *beam_prompt = json_string_value(json_object_get(golden, "beam_prompt"));
    int32_t *beam_ids = NULL;
    size_t num_beam_ids;
    assert_int_equal(
        quire_tokenize(exact, beam_prompt, strlen(beam_prompt), true, true, &beam_ids, &num_beam_ids, &error),
        QUIRE_OK);
    check_beams(engine, beam_ids, num_beam_ids, json_object_get(golden, "beam"), 32);
    quire_free(beam_ids);
    kl /= (double)positions;
    print_message("SmolLM2 float32: largest difference of a top-32 logprob %.2e; int8: mean KL divergence %.5f over "
                  "%zu positions\n",
                  worst, kl, positions);
    assert_true(worst < 2e-2);
    assert_true(kl < 0.005);
    quire_engine_destroy(engine);
    quire_model_close(exact);
    quire_model_close(fast);
    json_decref(golden);
}

/* What each type of KV cache adds to float32. The bounds catch a bug; less than 0.01 is asked of int8. */
static void kv_cache_types(void **state)
{
    (void)state;
    static const char *const names[] = {
#define XX(id, name, bytes) [QR_KV_##id] = name,
        QR_KV_DTYPE_MAP(XX)
#undef XX
    };
    static const double limits[] = {
        [QR_KV_F16] = 1e-5, [QR_KV_INT8] = 0.002, [QR_KV_FP8_E4M3] = 0.012, [QR_KV_FP8_E5M2] = 0.05};
    const char *path = smollm2_path();
    json_t *golden = json_load_file("tests/golden/smollm2-135m-instruct-q4_1.json", 0, NULL);
    assert_non_null(golden);
    quire_model *model = open_model(path, "float32");
    quire_error error;
    quire_model_info info;
    quire_model_get_info(model, &info);
    size_t vocab = (size_t)info.vocab_size, positions = 0, r;
    double kl[QR_NUM_KV_DTYPES] = {0};
    json_t *row;
    json_array_foreach(json_object_get(golden, "rows"), r, row)
    {
        size_t num, num_prompt;
        int32_t *ids = full_ids(row, &num, &num_prompt);
        float *p = malloc(num * vocab * sizeof *p), *q = malloc(num * vocab * sizeof *q);
        assert_int_equal(qr_model_api_logits(model, QR_KV_F32, ids, num, p, &error), QUIRE_OK);
        for (int i = QR_KV_F16; i < QR_NUM_KV_DTYPES; i++) {
            assert_int_equal(qr_model_api_logits(model, (qr_kv_dtype)i, ids, num, q, &error), QUIRE_OK);
            kl[i] += kl_sum(p, q, num, vocab);
        }
        positions += num;
        free(p);
        free(q);
        free(ids);
    }
    for (int i = QR_KV_F16; i < QR_NUM_KV_DTYPES; i++) {
        kl[i] /= (double)positions;
        print_message("SmolLM2 float32, KV cache %-8s: mean KL divergence from float32 KV %.6f over %zu positions\n",
                      names[i], kl[i], positions);
    }
    for (int i = QR_KV_F16; i < QR_NUM_KV_DTYPES; i++) assert_true(kl[i] > 0 && kl[i] < limits[i]);
    quire_model_close(model);
    json_decref(golden);
}

int main(void)
{
    use_cuda_shim();
    const struct CMUnitTest tests[] = {cmocka_unit_test(tiny_checkpoints), cmocka_unit_test(tiny_checkpoints_on_cuda),
                                       cmocka_unit_test(tensor_cores_on_cuda), cmocka_unit_test(smollm2),
                                       cmocka_unit_test(kv_cache_types)};
    return cmocka_run_group_tests_name("engine_golden", tests, NULL, NULL);
}
