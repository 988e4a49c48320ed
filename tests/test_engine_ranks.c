/* ranks: a model cut over two and three ranks gives what one rank gives.
 *
 *   cut and shard: pieces of matrices of every type, the parts together are the whole
 *   comm: sums in the order of the ranks; one rank's failure is everybody's
 *   tiny checkpoints of both formats: logits within 1e-4 of one rank's and 1e-3 of Hugging Face's, the same bits in
 * each run; what the engine does with ranks is in test_determinism */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/mem.h"
#include "fake_ranks.h"

/* ---- cut, shard --------------------------------------------------------------------------------- */

static void cuts_of_every_type(void **state)
{
    (void)state;
    enum { ROWS = 24, COLS = 1024 };
    for (int dtype = 0; dtype < QR_NUM_DTYPES; dtype++) {
        const qr_tensor_view view = {.name = "m", .dtype = (qr_dtype)dtype, .num_dims = 2, .dims = {COLS, ROWS, 1, 1}};
        const size_t row_bytes = qr_tensor_row_bytes(&view);
        uint8_t *bytes = malloc(ROWS * row_bytes);
        for (size_t i = 0; i < ROWS * row_bytes; i++) bytes[i] = (uint8_t)(i * 2654435761u >> 13);
        qr_tensor_view whole = view, part;
        whole.data = bytes;
        whole.bytes = ROWS * row_bytes;
        quire_error error;
        const qr_cut cut = {{{2, 3}, {9, 1}, {20, 4}}, {256, 512}};
        static const int rows[] = {2, 3, 4, 9, 20, 21, 22, 23};
        assert_int_equal(qr_cut_copy(&whole, &cut, false, &part, &error), QUIRE_OK);
        assert_int_equal(qr_tensor_rows(&part), 8);
        assert_int_equal(qr_tensor_cols(&part), 512);
        for (int i = 0; i < 8; i++) {
            float want[COLS], got[512];
            qr_dequantize(whole.dtype, bytes + (size_t)rows[i] * row_bytes, want, COLS);
            qr_dequantize(part.dtype, (const uint8_t *)part.data + (size_t)i * qr_tensor_row_bytes(&part), got, 512);
            assert_memory_equal(got, want + 256, sizeof got);
        }
        qr_free((void *)part.data);

        const qr_cut between = {{{0, ROWS}}, {16, 512}};
        const bool blocks = qr_dtype_block_len(whole.dtype) > 1;
        assert_int_equal(qr_cut_copy(&whole, &between, false, &part, &error), blocks ? QUIRE_UNSUPPORTED : QUIRE_OK);
        if (blocks) assert_non_null(strstr(error.message, "'m'"));
        if (!blocks) qr_free((void *)part.data);
        free(bytes);
    }
}

static void cut_of_a_transposed_matrix(void **state)
{
    (void)state;
    float data[4][6]; /* [K, N] */
    for (int k = 0; k < 4; k++)
        for (int n = 0; n < 6; n++) data[k][n] = (float)(10 * k + n);
    const qr_tensor_view view = {.name = "m", .dtype = QR_F32, .num_dims = 2, .dims = {6, 4, 1, 1}, .data = data};
    const qr_cut cut = {{{1, 2}, {5, 1}}, {2, 2}};
    const float want[3][2] = {{21, 31}, {22, 32}, {25, 35}};
    qr_tensor_view part;
    assert_int_equal(qr_cut_copy(&view, &cut, true, &part, NULL), QUIRE_OK);
    assert_int_equal(qr_tensor_rows(&part), 3);
    assert_memory_equal(part.data, want, sizeof want);
    qr_free((void *)part.data);
    qr_mem_fail_after(1);
    assert_int_equal(qr_cut_copy(&view, &cut, true, &part, NULL), QUIRE_NOMEM);
    qr_mem_fail_off();
}

static void append_range(qr_range *all, qr_range next)
{
    assert_int_equal(next.first, all->first + all->count);
    assert_true(next.count > 0);
    all->count += next.count;
}

static void shards_are_the_whole(void **state)
{
    (void)state;
    static const struct {
        int num_heads, num_kv_heads, mlp, vocab;
    } models[] = {{9, 3, 1536, 49152}, {4, 4, 256, 384}, {32, 8, 14336, 128256}, {14, 14, 4864, 151936}, {6, 3, 7, 5}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const qr_model_config c = {.num_heads = models[i].num_heads,
                                   .num_kv_heads = models[i].num_kv_heads,
                                   .intermediate_size = models[i].mlp,
                                   .vocab_size = models[i].vocab};
        for (int size = 1; size <= c.num_kv_heads && size <= 5; size++) {
            qr_shard all = {0}, s, first;
            for (int r = 0; r < size; r++) {
                assert_int_equal(qr_shard_plan(&c, r, size, &s, NULL), QUIRE_OK);
                if (r == 0) first = s;
                assert_true(s.kv_heads.count <= first.kv_heads.count); /* rank 0 needs the most memory */
                assert_int_equal(s.heads.count * c.num_kv_heads, s.kv_heads.count * c.num_heads);
                assert_int_equal(s.heads.first * c.num_kv_heads, s.kv_heads.first * c.num_heads);
                append_range(&all.heads, s.heads);
                append_range(&all.kv_heads, s.kv_heads);
                append_range(&all.mlp, s.mlp);
                append_range(&all.vocab, s.vocab);
            }
            assert_int_equal(all.heads.count, c.num_heads);
            assert_int_equal(all.kv_heads.count, c.num_kv_heads);
            assert_int_equal(all.mlp.count, c.intermediate_size);
            assert_int_equal(all.vocab.count, c.vocab_size);
        }
        qr_shard s;
        quire_error error;
        assert_int_equal(qr_shard_plan(&c, 0, c.num_kv_heads + 1, &s, &error), QUIRE_UNSUPPORTED);
        assert_non_null(strstr(error.message, "KV head"));
    }
}

/* ---- comm --------------------------------------------------------------------------------------- */

enum { SUM_LENGTH = QR_REDUCE_PIECE + 1000, SUM_RANKS = 3 };

static float addends[SUM_RANKS][SUM_LENGTH], sums[SUM_RANKS][SUM_LENGTH];
static quire_status agreed[SUM_RANKS];
static quire_error agreed_error[SUM_RANKS];

static void *sum_and_agree(void *raw)
{
    qr_comm *comm = raw;
    const int r = comm->rank;
    float *scratch = malloc(sizeof *scratch * SUM_RANKS * QR_REDUCE_PIECE);
    memcpy(sums[r], addends[r], sizeof sums[r]);
    qr_comm_all_reduce_sum(comm, sums[r], SUM_LENGTH, scratch);
    free(scratch);
    agreed[r] = qr_comm_agree(comm, QUIRE_OK, &agreed_error[r]);
    if (agreed[r] != QUIRE_OK) return NULL;
    quire_status mine = r == 0 ? QUIRE_OK : qr_fail(&agreed_error[r], QUIRE_NOMEM, "no memory %d", r);
    agreed[r] = qr_comm_agree(comm, mine, &agreed_error[r]);
    return NULL;
}

static void sums_in_the_order_of_the_ranks(void **state)
{
    (void)state;
    fake_group *g = fake_group_create(SUM_RANKS);
    for (int r = 0; r < SUM_RANKS; r++)
        for (int i = 0; i < SUM_LENGTH; i++) /* large ones that cancel: another order is another sum */
            addends[r][i] = r == 0 ? 1e8f : r == 1 ? -1e8f : (float)(i % 1000) * 0.37f;
    for (int r = 1; r < SUM_RANKS; r++) pthread_create(&g->threads[r], NULL, sum_and_agree, &g->comms[r].base);
    sum_and_agree(&g->comms[0].base);
    g->comms[0].base.destroy(&g->comms[0].base);
    int num_order_matters = 0;
    for (int i = 0; i < SUM_LENGTH; i++) {
        const float want = (addends[0][i] + addends[1][i]) + addends[2][i];
        num_order_matters += want != addends[0][i] + (addends[1][i] + addends[2][i]);
        for (int r = 0; r < SUM_RANKS; r++) assert_true(sums[r][i] == want);
    }
    assert_true(num_order_matters > 100);
    for (int r = 0; r < SUM_RANKS; r++) {
        assert_int_equal(agreed[r], QUIRE_NOMEM);
        assert_string_equal(agreed_error[r].message, r == 1 ? "no memory 1" : "rank 1: no memory 1");
    }
}

/* ---- models --------------------------------------------------------------------------------------- */

enum { VOCAB = 384, MAX_IDS = 64 };

static quire_model *open_ranks(int size, const char *path, const char *compute_dtype)
{
    quire_model_options options;
    quire_model *model = NULL;
    quire_error error = {0};
    quire_model_options_init(&options);
    options.compute_dtype = compute_dtype;
    options.threads = 1;
    const quire_status status = size == 1 ? quire_model_open(path, &options, &model, &error)
                                          : fake_ranks_open(size, path, &options, &model, &error);
    if (status != QUIRE_OK) fail_msg("%s on %d ranks: %s", path, size, error.message);
    return model;
}

static void compute(int size, const char *path, const char *compute_dtype, const int32_t *ids, size_t num_ids,
                    size_t num_parameters, float *out)
{
    quire_error error;
    quire_model_info info;
    quire_model *model = open_ranks(size, path, compute_dtype);
    quire_model_get_info(model, &info);
    assert_int_equal(info.tensor_parallel_size, size);
    if (num_parameters) assert_int_equal(info.num_parameters, num_parameters);
    if (quire_model_logits(model, ids, num_ids, out, &error) != QUIRE_OK) fail_msg("%s: %s", path, error.message);
    quire_model_close(model);
    for (int r = 1; r < size; r++) assert_int_equal(fake_ranks_status[r], QUIRE_RANK_ENDED);
}

static double largest_difference(const float *a, const float *b, size_t count)
{
    double worst = 0;
    for (size_t i = 0; i < count; i++) worst = fmax(worst, fabs((double)a[i] - b[i]));
    return worst;
}

static void check_tiny(const char *arch, const char *path, int size)
{
    static float one[MAX_IDS * VOCAB], many[MAX_IDS * VOCAB], again[MAX_IDS * VOCAB], reference[MAX_IDS * VOCAB];
    char name[256];
    int32_t ids[MAX_IDS];
    snprintf(name, sizeof name, "tests/golden/tiny/%s/golden.json", arch);
    json_t *golden = json_load_file(name, 0, NULL);
    const json_t *array = json_array_get(json_object_get(golden, "input_ids"), 0);
    const size_t num_ids = json_array_size(array), count = num_ids * VOCAB;
    assert_in_range(num_ids, 1, MAX_IDS);
    for (size_t i = 0; i < num_ids; i++) ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    json_decref(golden);
    snprintf(name, sizeof name, "tests/golden/tiny/%s/logits.f32", arch);
    FILE *file = fopen(name, "rb");
    assert_non_null(file);
    assert_int_equal(fread(reference, sizeof *reference, count, file), count);
    fclose(file);

    quire_model_info info;
    quire_model *model = open_ranks(1, path, "float32");
    quire_model_get_info(model, &info);
    quire_model_close(model);
    compute(1, path, "float32", ids, num_ids, (size_t)info.num_parameters, one);
    compute(size, path, "float32", ids, num_ids, (size_t)info.num_parameters, many);
    compute(size, path, "float32", ids, num_ids, (size_t)info.num_parameters, again);
    const double from_one = largest_difference(one, many, count), from_hf = largest_difference(reference, many, count);
    print_message("%-44s %d ranks: largest difference of a logit %.2e, to Hugging Face %.2e\n", path, size, from_one,
                  from_hf);
    assert_true(from_one > 0 && from_one < 1e-4); /* 0: nothing was cut */
    assert_true(from_hf < 1e-3);
    assert_memory_equal(many, again, count * sizeof *many);
}

static void tiny_models_on_two_ranks(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "mistral_window", "qwen2", "qwen3", "opt", "gpt2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        snprintf(path, sizeof path, "tests/golden/tiny/%s", names[i]);
        check_tiny(names[i], path, 2);
        snprintf(path, sizeof path, "tests/golden/tiny_gguf/%s.gguf", names[i]);
        check_tiny(names[i], path, 2);
    }
}

/* Of every layout: two KV heads of 32, an MLP of 128. */
static void quantized_safetensors_on_two_ranks(void **state)
{
    (void)state;
    static const char *const names[] = {"gptq4_sym", "gptq4_asym",      "gptq4_desc_act", "gptq8_asym", "awq",
                                        "fp8_block", "float_quantized", "int_quantized",  "pack4_asym"};
    enum { NUM_IDS = 24, SMALL_VOCAB = 96 };
    static float one[NUM_IDS * SMALL_VOCAB], many[NUM_IDS * SMALL_VOCAB];
    int32_t ids[NUM_IDS];
    for (int i = 0; i < NUM_IDS; i++) ids[i] = (37 * i + 11) % SMALL_VOCAB;
    for (size_t i = 0; i < 2 * sizeof names / sizeof *names; i++) {
        char path[256];
        const bool exact = i % 2 == 0;
        snprintf(path, sizeof path, "tests/golden/tiny_codes/%s", names[i / 2]);
        for (int size = 1; size <= 2; size++)
            compute(size, path, exact ? "float32" : "auto", ids, NUM_IDS, 0, size == 1 ? one : many);
        const double off = largest_difference(one, many, NUM_IDS * SMALL_VOCAB);
        print_message("%-44s 2 ranks, %s: largest difference of a logit %.2e\n", path, exact ? "float32" : "auto", off);
        assert_true(off > 0 && off < (exact ? 1e-5 : 0.05)); /* an activation's int8 can turn */
    }
}

/* Four heads over three ranks: 2 + 1 + 1. */
static void tiny_models_on_three_ranks(void **state)
{
    (void)state;
    check_tiny("opt", "tests/golden/tiny/opt", 3);
    check_tiny("opt", "tests/golden/tiny_gguf/opt.gguf", 3);
    check_tiny("gpt2", "tests/golden/tiny/gpt2", 3);
    check_tiny("gpt2", "tests/golden/tiny_gguf/gpt2.gguf", 3);
}

/* Quantized, 9 heads and 3 KV heads: 2 + 1. int8 activations are not continuous in x, so the first layers' last bits
 * grow: near in float32, and as near as int8 is to float32 in int8. */
static void default_model(void **state)
{
    (void)state;
    const char *path = getenv("QUIRE_TEST_MODEL");
    if (!path) path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) != 0) {
        printf("skipped: no model at %s\n", path);
        skip();
    }
    static const int32_t ids[] = {504, 3575, 282, 4649, 314};
    enum { NUM = sizeof ids / sizeof *ids };
    quire_model_info info;
    quire_model *model = open_ranks(1, path, "float32");
    quire_model_get_info(model, &info);
    quire_model_close(model);
    const size_t count = (size_t)NUM * (size_t)info.vocab_size;
    float *one = malloc(count * sizeof *one), *two = malloc(count * sizeof *two);
    compute(1, path, "float32", ids, NUM, 0, one);
    compute(2, path, "float32", ids, NUM, 0, two);
    const double exact = largest_difference(one, two, count);
    compute(2, path, "auto", ids, NUM, 0, two);
    const double low_bit = largest_difference(one, two, count);
    compute(1, path, "auto", ids, NUM, 0, two);
    const double low_bit_alone = largest_difference(one, two, count);
    print_message("%s, 2 ranks: float32 %.2e, int8 %.2e (1 rank: %.2e)\n", path, exact, low_bit, low_bit_alone);
    assert_true(exact > 0 && exact < 1e-3);
    assert_true(low_bit < 2 * low_bit_alone);
    free(one);
    free(two);
}

/* ---- failures ------------------------------------------------------------------------------------- */

static void failures_reach_every_rank(void **state)
{
    (void)state;
    quire_model_options options;
    quire_model *model = NULL;
    quire_error error;
    quire_model_options_init(&options);
    options.threads = 1;
    assert_int_equal(fake_ranks_open(2, "/nowhere", &options, &model, &error), QUIRE_NOT_FOUND);
    assert_int_equal(fake_ranks_status[1], QUIRE_NOT_FOUND);
    assert_int_equal(fake_ranks_open(3, "tests/golden/tiny/llama", &options, &model, &error), QUIRE_UNSUPPORTED);
    assert_non_null(strstr(error.message, "2 KV heads"));
    assert_int_equal(fake_ranks_status[1], QUIRE_UNSUPPORTED);
    assert_null(model);

    options.tensor_parallel_size = 0;
    assert_int_equal(quire_model_open("tests/golden/tiny/llama", &options, &model, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "tensor_parallel_size");
}

/* One engine at a time, and one after the other; what a rank cannot have is the engine's error. */
static void engines_in_turn(void **state)
{
    (void)state;
    quire_engine_options options;
    quire_engine *engine, *second;
    quire_error error;
    float logits[VOCAB];
    quire_model *model = open_ranks(2, "tests/golden/tiny/llama", "auto");
    quire_engine_options_init(&options);
    options.num_kv_blocks = 32;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(quire_engine_create(model, &options, &engine, &error), QUIRE_OK);
        assert_int_equal(quire_engine_create(model, &options, &second, &error), QUIRE_INVALID);
        assert_non_null(strstr(error.message, "one engine at a time"));
        assert_int_equal(quire_model_logits(model, (const int32_t[]){5}, 1, logits, &error), QUIRE_INVALID);
        quire_engine_destroy(engine);
        assert_int_equal(quire_model_logits(model, (const int32_t[]){5}, 1, logits, &error), QUIRE_OK);
    }
    char long_path[QR_MAX_SWAP_PATH + 1];
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    options.preemption_mode = "swap";
    options.swap_space_bytes = 1 << 20;
    options.swap_path = "/nowhere";
    assert_int_equal(quire_engine_create(model, &options, &engine, &error), QUIRE_IO);
    options.swap_path = long_path;
    assert_true(quire_engine_create(model, &options, &engine, &error) < 0);
    options.swap_path = NULL;
    assert_int_equal(quire_engine_create(model, &options, &engine, &error), QUIRE_OK);
    quire_engine_destroy(engine);
    quire_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_of_every_type),         cmocka_unit_test(cut_of_a_transposed_matrix),
        cmocka_unit_test(shards_are_the_whole),       cmocka_unit_test(sums_in_the_order_of_the_ranks),
        cmocka_unit_test(tiny_models_on_two_ranks),   cmocka_unit_test(quantized_safetensors_on_two_ranks),
        cmocka_unit_test(tiny_models_on_three_ranks), cmocka_unit_test(default_model),
        cmocka_unit_test(failures_reach_every_rank),  cmocka_unit_test(engines_in_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
