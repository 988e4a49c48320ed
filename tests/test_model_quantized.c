/* quantized: logits of small checkpoints in every published layout against a reference
 * (tests/golden/make_tiny_codes.py), what each type costs, parts for several ranks, and files that contradict
 * themselves. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/model.h"
#include "quire.h"
#include "weights_files.h"

static const struct variant {
    const char *name;
    qr_dtype dtype; /* what the kernels get */
} variants[] = {{"gptq4_sym", QR_Q4_0},
                {"gptq4_asym", QR_Q4_1},
                {"gptq4_v2", QR_Q4_1},
                {"gptq4_desc_act", QR_Q8_0},
                {"gptq8_sym", QR_Q8_0},
                {"gptq8_asym", QR_F16},
                {"awq", QR_Q4_1},
                {"fp8_tensor", QR_Q8_0},
                {"fp8_block", QR_Q8_0},
                {"fbgemm_fp8", QR_Q8_0},
                {"float_quantized", QR_Q8_0},
                {"int_quantized", QR_Q8_0},
                {"pack4_sym", QR_Q4_0},
                {"pack4_asym", QR_Q4_1},
                {"pack8_sym", QR_Q8_0}};
enum { NUM_VARIANTS = sizeof variants / sizeof *variants, NUM_IDS = 24, VOCAB = 96, HIDDEN = 128 };

static const char *folder_of(const char *variant)
{
    static char path[256];
    snprintf(path, sizeof path, "tests/golden/tiny_codes/%s", variant);
    return path;
}

/* ---- logits -------------------------------------------------------------------------------------- */

static void logits_of(const char *variant, const char *compute_dtype, float *out)
{
    quire_model_options options;
    quire_model *model = NULL;
    quire_error error = {0};
    int32_t ids[NUM_IDS];
    for (int i = 0; i < NUM_IDS; i++) ids[i] = (37 * i + 11) % VOCAB;
    quire_model_options_init(&options);
    options.device = "cpu";
    options.compute_dtype = compute_dtype;
    if (quire_model_open(folder_of(variant), &options, &model, &error) != QUIRE_OK ||
        quire_model_logits(model, ids, NUM_IDS, out, &error) != QUIRE_OK)
        fail_msg("%s", error.message);
    quire_model_info info;
    quire_model_get_info(model, &info);
    assert_string_equal(info.compute_dtype, strcmp(compute_dtype, "float32") == 0 ? "float32" : "int8");
    quire_model_close(model);
}

static void logits_follow_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_VARIANTS; i++) {
        static float want[NUM_IDS * VOCAB], exact[NUM_IDS * VOCAB], fast[NUM_IDS * VOCAB];
        char path[320];
        snprintf(path, sizeof path, "%s/logits.f32", folder_of(variants[i].name));
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        assert_int_equal(fread(want, sizeof *want, NUM_IDS * VOCAB, f), NUM_IDS * VOCAB);
        fclose(f);
        logits_of(variants[i].name, "float32", exact);
        logits_of(variants[i].name, "auto", fast);
        double off = 0, fast_off = 0, squares = 0;
        for (int k = 0; k < NUM_IDS * VOCAB; k++) {
            off = fmax(off, fabs((double)exact[k] - want[k]));
            fast_off = fmax(fast_off, fabs((double)fast[k] - want[k]));
            squares += (double)want[k] * want[k];
        }
        print_message("%-16s logits of rms %.2f; largest difference: float32 %.1e, auto %.1e\n", variants[i].name,
                      sqrt(squares / (NUM_IDS * VOCAB)), off, fast_off);
        assert_true(off < 1e-5);
        assert_true(fast_off < 0.25 && fast_off > 0);
    }
}

/* ---- types --------------------------------------------------------------------------------------- */

typedef struct folder {
    qr_checkpoint *ckpt;
    qr_quantization q;
    qr_pool *pool;
} folder;

static folder open_folder(const char *path)
{
    folder f;
    quire_error error = {0};
    if (qr_checkpoint_open(path, &f.ckpt, &error) != QUIRE_OK ||
        qr_quantization_read(f.ckpt, &f.q, &error) != QUIRE_OK || qr_pool_create(1, &f.pool, &error) != QUIRE_OK)
        fail_msg("%s", error.message);
    return f;
}

static void close_folder(folder *f)
{
    qr_checkpoint_close(f->ckpt);
    qr_pool_destroy(f->pool);
}

static const qr_tensor_view *codes_of(const folder *f, const char *linear)
{
    static const char *const suffixes[] = {"qweight", "weight_packed", "weight"};
    for (int i = 0; i < 3; i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.0.%s.%s", linear, suffixes[i]);
        const qr_tensor_view *view = qr_checkpoint_find(f->ckpt, name);
        if (view) return view;
    }
    fail_msg("no tensor of %s", linear);
    return NULL;
}

static qr_tensor_view read_linear(const folder *f, const char *linear, int64_t rows, const qr_cut *cut, bool exact)
{
    qr_tensor_view out;
    quire_error error = {0};
    if (qr_quantized_read(f->ckpt, &f->q, codes_of(f, linear), rows, HIDDEN, cut, exact, f->pool, &out, &error) !=
        QUIRE_OK)
        fail_msg("%s", error.message);
    return out;
}

/* Half a unit in the last place of the float16 nearest to x */
static double half_ulp(double x)
{
    int exponent;
    frexp(x, &exponent);
    return ldexp(0.5, (exponent < -13 ? -13 : exponent) - 11);
}

/* One block as the kernels have it: within what quantized.h says of its exact values. */
static void check_block(qr_dtype dtype, const float *exact, const float *got, bool fp8, bool act_order)
{
    double max = 0, min_step = INFINITY;
    for (int i = 0; i < 32; i++) max = fmax(max, fabs((double)exact[i]));
    for (int i = 0; i < 32; i++)
        for (int k = 0; k < i; k++)
            if (exact[i] != exact[k]) min_step = fmin(min_step, fabs((double)exact[i] - exact[k]));
    const double scales = max * 0x1p-11; /* their rounding to float16 */
    for (int i = 0; i < 32; i++) {
        double limit = dtype == QR_F16 ? half_ulp(exact[i]) : scales;
        if (dtype == QR_Q4_1) limit += min_step / 256;
        if (fp8 && fabs((double)exact[i]) < max / 8) limit += max / 128;
        if (act_order) limit += max / 254;
        assert_true(fabs((double)got[i] - exact[i]) <= limit);
    }
}

static void types_cost_what_the_header_says(void **state)
{
    (void)state;
    for (int v = 0; v < NUM_VARIANTS; v++) {
        folder f = open_folder(folder_of(variants[v].name));
        const qr_cut cut = {{{0, HIDDEN}}, {0, HIDDEN}};
        qr_tensor_view exact = read_linear(&f, "mlp.down_proj", HIDDEN, &cut, true);
        qr_tensor_view fast = read_linear(&f, "mlp.down_proj", HIDDEN, &cut, false);
        const bool fp8 = codes_of(&f, "mlp.down_proj")->dtype == QR_F8_E4M3;
        const bool act_order = strstr(variants[v].name, "desc_act") != NULL;
        assert_int_equal(exact.dtype, QR_F32);
        assert_int_equal(fast.dtype, variants[v].dtype);
        double squares = 0, off = 0;
        for (int64_t n = 0; n < HIDDEN; n++) {
            float values[HIDDEN];
            const float *want = (const float *)exact.data + n * HIDDEN;
            qr_dequantize(fast.dtype, (const uint8_t *)fast.data + (size_t)n * qr_tensor_row_bytes(&fast), values,
                          HIDDEN);
            for (int k = 0; k < HIDDEN; k += 32) check_block(fast.dtype, want + k, values + k, fp8, act_order);
            for (int k = 0; k < HIDDEN; k++) {
                squares += (double)want[k] * want[k];
                off += ((double)values[k] - want[k]) * ((double)values[k] - want[k]);
            }
        }
        print_message("%-16s %-5s rms of the difference %.5f%% of the weights'\n", variants[v].name,
                      qr_dtype_name(fast.dtype), 100 * sqrt(off / squares));
        /* float16 scales: Q4_0, and GPTQ's 8 bits, are the checkpoint's weights */
        if (strcmp(variants[v].name, "gptq4_sym") == 0 || strcmp(variants[v].name, "gptq8_sym") == 0)
            assert_true(off == 0);
        qr_free((void *)exact.data);
        qr_free((void *)fast.data);
        close_folder(&f);
    }
}

/* Of several ranks, also where a cut goes through blocks. */
static void parts_are_those_of_the_whole(void **state)
{
    (void)state;
    for (int v = 0; v < NUM_VARIANTS; v++) {
        folder f = open_folder(folder_of(variants[v].name));
        const qr_cut all = {{{0, HIDDEN}}, {0, HIDDEN}}, some = {{{3, 20}, {40, 1}, {90, 38}}, {32, 64}},
                     between = {{{0, 7}}, {8, 40}};
        for (int exact = 0; exact < 2; exact++) {
            qr_tensor_view whole = read_linear(&f, "self_attn.q_proj", HIDDEN, &all, exact);
            qr_tensor_view part = read_linear(&f, "self_attn.q_proj", HIDDEN, &some, exact);
            assert_int_equal(part.dtype, whole.dtype);
            assert_int_equal(qr_tensor_rows(&part), 59);
            assert_int_equal(qr_tensor_cols(&part), 64);
            for (int i = 0; i < 59; i++) {
                float want[HIDDEN], got[64];
                const int64_t n = i < 20 ? 3 + i : i == 20 ? 40 : 90 + i - 21;
                qr_dequantize(whole.dtype, (const uint8_t *)whole.data + (size_t)n * qr_tensor_row_bytes(&whole), want,
                              HIDDEN);
                qr_dequantize(part.dtype, (const uint8_t *)part.data + (size_t)i * qr_tensor_row_bytes(&part), got, 64);
                assert_memory_equal(got, want + 32, sizeof got);
            }
            qr_free((void *)part.data);
            /* blocks cannot be cut: values instead */
            part = read_linear(&f, "self_attn.q_proj", HIDDEN, &between, exact);
            assert_int_equal(part.dtype, exact ? QR_F32 : QR_F16);
            qr_free((void *)part.data);
            qr_free((void *)whole.data);
        }
        close_folder(&f);
    }
}

/* ---- broken checkpoints -------------------------------------------------------------------------- */

typedef struct file {
    char *data;
    size_t bytes;
} file;

static file load(const char *variant, const char *name)
{
    char path[320];
    file out;
    snprintf(path, sizeof path, "%s/%s", folder_of(variant), name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    out.bytes = (size_t)ftell(f);
    rewind(f);
    out.data = calloc(1, out.bytes + 1);
    assert_int_equal(fread(out.data, 1, out.bytes, f), out.bytes);
    fclose(f);
    return out;
}

/* The first `from` becomes `to`, of the same length (spaces are fine in JSON). */
static void replace(file *f, const char *from, const char *to)
{
    char *at = memmem(f->data, f->bytes, from, strlen(from));
    if (strlen(from) != strlen(to)) fail_msg("%s, %s", from, to);
    if (!at) fail_msg("'%s' is not there", from);
    memcpy(at, to, strlen(to));
}

/* A variant's files, to be changed. */
typedef struct variant_copy {
    file config, model;
} variant_copy;

static variant_copy copy_variant(const char *variant)
{
    return (variant_copy){load(variant, "config.json"), load(variant, "model.safetensors")};
}

/* Write the changed copy to dir, open it and free it. */
static quire_status try_open(const temp_dir *dir, variant_copy *copy, quire_error *error)
{
    temp_write(dir, "config.json", copy->config.data, copy->config.bytes);
    temp_write(dir, "model.safetensors", copy->model.data, copy->model.bytes);
    free(copy->config.data);
    free(copy->model.data);
    quire_model_options options;
    quire_model *model = NULL;
    quire_model_options_init(&options);
    options.device = "cpu";
    quire_status status = quire_model_open(dir->path, &options, &model, error);
    quire_model_close(model);
    return status;
}

/* Text for text in one of the files: opening fails so. */
static void contradictions_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *variant, *file, *from, *to;
        quire_status status;
        const char *text;
    } cases[] = {
        {"gptq4_sym", "config.json", "\"gptq\"", "\"hqq\" ", QUIRE_UNSUPPORTED, "quant_method 'hqq' is not supported"},
        {"gptq4_sym", "config.json", "\"gptq\"", "     4", QUIRE_FORMAT, "quant_method: must be a name"},
        {"gptq4_sym", "config.json", "\"bits\": 4", "\"bits\": 3", QUIRE_UNSUPPORTED, "bits '3' is not supported"},
        {"gptq4_sym", "config.json", "\"bits\": 4", "\"bits\": 8", QUIRE_FORMAT, "in codes of 8 bits"},
        {"gptq4_sym", "config.json", "\"bits\"", "\"pits\"", QUIRE_FORMAT, "bits: missing"},
        {"gptq4_sym", "config.json", "\"group_size\": 128", "\"group_size\":  -2", QUIRE_FORMAT, "group_size: must be"},
        {"gptq4_asym", "config.json", "\"group_size\": 32", "\"group_size\": 64", QUIRE_FORMAT,
         "scales' has scales for 4 groups of 128 columns, which does not fit group_size 64"},
        {"gptq4_asym", "config.json", "\"gptq\",\n  \"bits", "\"awq\" ,\n  \"bits", QUIRE_FORMAT, "codes of 4 bits"},
        {"gptq4_v2", "config.json", "\"gptq_v2\"", "\"marlin\" ", QUIRE_UNSUPPORTED, "checkpoint_format 'marlin'"},
        {"gptq4_sym", "config.json", "quantization_config", "Quantization_config", QUIRE_FORMAT,
         "no quantization_config"},
        {"gptq4_sym", "model.safetensors", "q_proj.scales", "q_proj.scalez", QUIRE_FORMAT,
         "q_proj.scales' is missing: without it"},
        {"gptq4_sym", "model.safetensors", "q_proj.qzeros", "q_proj.qzerox", QUIRE_FORMAT, "q_proj.qzeros' is missing"},
        {"gptq4_sym", "model.safetensors", "q_proj.qweight", "q_proj.qweighd", QUIRE_FORMAT,
         "q_proj.weight' is missing"},
        {"gptq4_sym", "model.safetensors", "[1,96]", "[96,1]", QUIRE_FORMAT,
         "lm_head.scales' has scales for 96 groups"},
        {"gptq4_sym", "model.safetensors", "[1,12]", "[12,1]", QUIRE_FORMAT,
         "lm_head.qzeros' is I32 12 x 1, expected I32 1 x 12"},
        {"gptq4_sym", "model.safetensors", "[16,128]", "[128,16]", QUIRE_FORMAT, "q_proj.qweight' is 128 x 16"},
        {"awq", "config.json", "\"gemm\"", "\"gemv\"", QUIRE_UNSUPPORTED, "version 'gemv' is not supported (gemm is)"},
        {"awq", "config.json", "\"bits\": 4", "\"bits\": 8", QUIRE_UNSUPPORTED, "bits '8' is not supported (4 are)"},
        {"awq", "model.safetensors", "[2,16]", "[16,2]", QUIRE_FORMAT, "qzeros' is I32 16 x 2, expected I32 2 x 16"},
        {"fp8_tensor", "model.safetensors", "weight_scale", "weight_skale", QUIRE_FORMAT, "weight_scale' is missing"},
        {"fp8_tensor", "config.json", "\"fp8\"", "\"awq\"", QUIRE_FORMAT, "bits: missing"},
        {"fp8_block", "config.json", "\"e4m3\"", "\"e5m2\"", QUIRE_UNSUPPORTED, "fmt 'e5m2' is not supported"},
        {"fp8_block", "config.json", "   64,", "  128,", QUIRE_FORMAT,
         "weight_scale_inv' is F32 2 x 2, expected F32 128 x 2"},
        {"fp8_block", "config.json", "   64,", "   -1,", QUIRE_FORMAT, "must be two sizes"},
        {"int_quantized", "config.json", "int-quantized", "nvfp4-pack-qu", QUIRE_UNSUPPORTED, "format 'nvfp4-pack-qu'"},
        {"int_quantized", "config.json", "\"num_bits\": 8", "\"num_bits\": 2", QUIRE_UNSUPPORTED, "num_bits '2'"},
        {"int_quantized", "config.json", "\"type\": \"int\"", "\"type\": \"hex\"", QUIRE_UNSUPPORTED, "type 'hex'"},
        {"int_quantized", "model.safetensors", "[128,1]", "[1,128]", QUIRE_FORMAT, "weight_scale' is BF16 1 x 128"},
        {"pack4_asym", "model.safetensors", "[128,4]", "[4,128]", QUIRE_FORMAT, "weight_scale' is BF16 4 x 128"},
        {"pack4_asym", "model.safetensors", "[16,4]", "[4,16]", QUIRE_FORMAT, "zero_point' is I32 4 x 16"},
        {"pack4_asym", "model.safetensors", "[128,16]", "[16,128]", QUIRE_FORMAT, "weight_packed' is 16 x 128"},
        {"pack4_sym", "model.safetensors", "embed_tokens.weight\":{\"dtype\":\"F16\"",
         "embed_tokens.weight\":{\"dtype\":\"I32\"", QUIRE_FORMAT, "needs 49152 bytes"},
    };
    temp_dir dir = temp_dir_create();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        variant_copy copy = copy_variant(cases[i].variant);
        replace(cases[i].file[0] == 'c' ? &copy.config : &copy.model, cases[i].from, cases[i].to);
        quire_error error = {0};
        const quire_status status = try_open(&dir, &copy, &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].text))
            fail_msg("%s, %s for %s: status %d, message \"%s\"; expected %d, \"%s\"", cases[i].variant, cases[i].to,
                     cases[i].from, status, error.message, cases[i].status, cases[i].text);
    }
    temp_dir_remove(&dir);
}

/* Scales that are no numbers, and groups that do not exist. */
static void bad_values_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *variant, *tensor;
        uint32_t value;
        const char *text;
    } cases[] = {{"gptq4_desc_act", "model.layers.0.self_attn.q_proj.g_idx", 4, "column 0 is of group 4, but there"},
                 {"gptq4_desc_act", "model.layers.0.self_attn.q_proj.g_idx", UINT32_MAX, "is of group -1"},
                 {"gptq4_sym", "model.layers.0.self_attn.q_proj.scales", 0x7C00, "the scale inf of output 0"},
                 {"fp8_block", "model.layers.0.self_attn.q_proj.weight_scale_inv", 0x7FC00000, "the scale nan"},
                 {"fp8_tensor", "model.layers.0.self_attn.q_proj.weight_scale", 0x7F000000, "is not within"},
                 {"pack4_sym", "model.layers.0.self_attn.q_proj.weight_shape", 64, "says 64 x 128, expected 128 x"}};
    temp_dir dir = temp_dir_create();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        variant_copy copy = copy_variant(cases[i].variant);
        qr_checkpoint *ckpt = NULL;
        assert_int_equal(qr_checkpoint_open(folder_of(cases[i].variant), &ckpt, NULL), QUIRE_OK);
        const qr_tensor_view *t = qr_checkpoint_find(ckpt, cases[i].tensor);
        char *at = memmem(copy.model.data, copy.model.bytes, t->data, t->bytes);
        memcpy(at, &cases[i].value, t->dtype == QR_F16 ? 2 : 4);
        qr_checkpoint_close(ckpt);
        quire_error error = {0};
        assert_int_equal(try_open(&dir, &copy, &error), QUIRE_FORMAT);
        if (!strstr(error.message, cases[i].text)) fail_msg("\"%s\"; expected \"%s\"", error.message, cases[i].text);
    }
    temp_dir_remove(&dir);
}

/* AutoGPTQ's first files have their settings in a file of their own. */
static void settings_may_lie_beside_the_config(void **state)
{
    (void)state;
    static const char settings[] = "{\"bits\": 4, \"group_size\": 128, \"desc_act\": false, \"sym\": true}";
    temp_dir dir = temp_dir_create();
    variant_copy copy = copy_variant("gptq4_sym");
    replace(&copy.config, "quantization_config", "quantization_Config");
    temp_write(&dir, "quantize_config.json", settings, strlen(settings));
    quire_error error = {0};
    if (try_open(&dir, &copy, &error) != QUIRE_OK) fail_msg("%s", error.message);
    temp_dir_remove(&dir);
}

static void failed_allocations_are_reported(void **state)
{
    (void)state;
    folder f = open_folder(folder_of("awq"));
    const qr_cut cut = {{{0, HIDDEN}}, {0, HIDDEN}};
    qr_tensor_view out;
    quire_error error = {0};
    qr_mem_fail_after(0);
    const quire_status status = qr_quantized_read(f.ckpt, &f.q, codes_of(&f, "self_attn.q_proj"), HIDDEN, HIDDEN, &cut,
                                                  false, f.pool, &out, &error);
    qr_mem_fail_off();
    assert_int_equal(status, QUIRE_NOMEM);
    close_folder(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_follow_the_reference),
        cmocka_unit_test(types_cost_what_the_header_says),
        cmocka_unit_test(parts_are_those_of_the_whole),
        cmocka_unit_test(contradictions_are_named),
        cmocka_unit_test(bad_values_are_named),
        cmocka_unit_test(settings_may_lie_beside_the_config),
        cmocka_unit_test(failed_allocations_are_reported),
    };
    return cmocka_run_group_tests_name("model_quantized", tests, NULL, NULL);
}
