/* --device: which backend a model is opened on, and what is said when it cannot be. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend_sets.h"
#include "base/mem.h"
#include "quire.h"

#define TINY "tests/golden/tiny/llama"

static quire_status open_on(const char *device, quire_model **out, quire_error *error)
{
    quire_model_options options;
    quire_model_options_init(&options);
    options.device = device;
    options.threads = 1;
    memset(error, 0, sizeof *error);
    return quire_model_open(TINY, &options, out, error);
}

static void assert_device(const char *device, const char *expected)
{
    quire_model *model;
    quire_model_info info;
    quire_error error;
    if (open_on(device, &model, &error) != QUIRE_OK) fail_msg("%s: %s", device, error.message);
    quire_model_get_info(model, &info);
    if (strncmp(info.device, expected, strlen(expected)) != 0) fail_msg("%s: %s", device, info.device);
    quire_model_close(model);
}

static void assert_refused(const char *device, quire_status expected, const char *part)
{
    quire_model *model;
    quire_error error;
    assert_int_equal(open_on(device, &model, &error), expected);
    if (!strstr(error.message, part)) fail_msg("%s: %s", device, error.message);
}

static void devices_by_name(void **state)
{
    (void)state;
    assert_device("cpu", "cpu (");
    assert_device("cuda", "cuda:0 (");
    assert_device("cuda:0", "cuda:0 (");
    assert_device("auto", "cuda:0 (");
    assert_device(NULL, "cuda:0 (");
    static const char *const bad[] = {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda0", "cuda:0 ", "cuda:99999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_refused(bad[i], QUIRE_INVALID, "auto, cpu, cuda");
    assert_refused("cuda:7", QUIRE_DEVICE, "cuda:7: there is 1 CUDA device, counted from 0");
}

static quire_model_options tensor_on(const char *device)
{
    quire_model_options options;
    quire_model_options_init(&options);
    options.compute_dtype = "tensor";
    options.device = device;
    return options;
}

static void tensor_cores_are_a_device_s(void **state)
{
    (void)state;
    quire_model_options options = tensor_on("cpu");
    quire_model *model;
    quire_error error = {0};
    assert_int_equal(quire_model_open(TINY, &options, &model, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "compute_dtype");
    options.device = "cuda";
    assert_int_equal(quire_model_open(TINY, &options, &model, &error), QUIRE_OK);
    quire_model_info info;
    quire_model_get_info(model, &info);
    assert_string_equal(info.compute_dtype, "tensor");
    assert_non_null(strstr(info.device, ", wgmma)"));
    quire_model_close(model);
}

/* Prompts and tokens must have the same bits: where wgmma's are others, mma.sync does both. */
static void wgmma_of_other_bits_is_not_used(void **state)
{
    (void)state;
    const quire_model_options options = tensor_on("cuda");
    quire_model *model;
    quire_model_info info;
    quire_error error = {0};
    setenv("QUIRE_SHIM_WGMMA", "rounds", 1);
    assert_int_equal(quire_model_open(TINY, &options, &model, &error), QUIRE_OK);
    unsetenv("QUIRE_SHIM_WGMMA");
    quire_model_get_info(model, &info);
    assert_non_null(strstr(info.device, "mma.sync"));
    quire_model_close(model);
}

static void cublaslt_is_for_tensor_cores_and_must_be_there(void **state)
{
    (void)state;
    quire_model_options options;
    quire_model *model;
    quire_error error = {0};
    quire_model_options_init(&options);
    options.device = "cuda";
    options.batch_invariant = false;
    assert_int_equal(quire_model_open(TINY, &options, &model, &error), QUIRE_INVALID);
    assert_string_equal(error.param, "batch_invariant");
    options.compute_dtype = "tensor";
    assert_int_equal(quire_model_open(TINY, &options, &model, &error), QUIRE_OK);
    quire_model_info info;
    quire_model_get_info(model, &info);
    assert_false(info.batch_invariant);
    quire_model_close(model);
    setenv("QUIRE_CUBLASLT_LIBRARY", "/nowhere/libcublasLt.so", 1);
    assert_int_equal(quire_model_open(TINY, &options, &model, &error), QUIRE_DEVICE);
    assert_non_null(strstr(error.message, "/nowhere/libcublasLt.so"));
    setenv("QUIRE_CUBLASLT_LIBRARY", cuda_shim_path(), 1);
}

static void without_a_device(void **state)
{
    (void)state;
    setenv("QUIRE_SHIM_DEVICES", "0", 1);
    assert_refused("cuda", QUIRE_DEVICE, "no CUDA-capable device");
    assert_device("auto", "cpu (");
    unsetenv("QUIRE_SHIM_DEVICES");
}

static void without_the_library(void **state)
{
    (void)state;
    char path[PATH_MAX];
    strcpy(path, getenv("QUIRE_CUDA_LIBRARY"));
    setenv("QUIRE_CUDA_LIBRARY", "/nowhere/libquire-cuda.so", 1);
    assert_refused("cuda", QUIRE_DEVICE, "/nowhere/libquire-cuda.so");
    assert_device("auto", "cpu (");
    setenv("QUIRE_CUDA_LIBRARY", "libm.so.6", 1); /* loads, but is another one */
    assert_refused("cuda", QUIRE_DEVICE, "another version");
    setenv("QUIRE_CUDA_LIBRARY", path, 1);
}

static quire_status engine_with(quire_model *model, size_t kv_bytes, double utilization, quire_engine **out,
                                quire_error *error)
{
    quire_engine_options options;
    quire_engine_options_init(&options);
    options.kv_cache_memory_bytes = kv_bytes;
    options.gpu_memory_utilization = utilization;
    return quire_engine_create(model, &options, out, error);
}

/* gpu_memory_utilization is of the device's whole memory, and what the program has taken already counts: the weights, a
 * step's scratch, here another engine's cache. */
static void utilization_is_of_all_memory(void **state)
{
    (void)state;
    enum { MIB = 1 << 20, DEVICE_MIB = 512, OTHER_MIB = 64 }; /* the shim's */
    quire_error error;
    quire_model *model = NULL;
    quire_engine *other, *engine;
    quire_stats stats;
    assert_int_equal(open_on("cuda", &model, &error), QUIRE_OK);
    assert_int_equal(engine_with(model, (size_t)OTHER_MIB * MIB, 0, &other, &error), QUIRE_OK);

    assert_int_equal(engine_with(model, 0, 0.25, &engine, &error), QUIRE_OK);
    quire_engine_get_stats(engine, &stats);
    assert_in_range(stats.kv_cache_bytes, (DEVICE_MIB / 4 - OTHER_MIB - 32) * MIB, (DEVICE_MIB / 4 - OTHER_MIB) * MIB);
    quire_engine_destroy(engine);

    assert_int_equal(engine_with(model, 0, 0, &engine, &error), QUIRE_OK); /* 0.92 */
    quire_engine_get_stats(engine, &stats);
    assert_in_range(stats.kv_cache_bytes, (DEVICE_MIB * 0.92 - OTHER_MIB - 32) * MIB,
                    (DEVICE_MIB * 0.92 - OTHER_MIB) * MIB);
    quire_engine_destroy(engine);

    assert_int_equal(engine_with(model, 0, 0.125, &engine, &error), QUIRE_INVALID); /* as much as the other one has */
    assert_non_null(strstr(error.message, "gpu_memory_utilization"));
    quire_engine_destroy(other);
    quire_model_close(model);
}

/* Opening a model and an engine on the device with every allocation failing in turn: an error, and nothing is lost
 * (AddressSanitizer's build sees what is). */
static void without_memory(void **state)
{
    (void)state;
    for (uint64_t n = 0;; n++) {
        quire_model *model = NULL;
        quire_engine *engine = NULL;
        quire_engine_options options;
        quire_error error;
        quire_engine_options_init(&options);
        options.num_kv_blocks = 16;
        qr_mem_fail_after(n);
        quire_status status = open_on("cuda", &model, &error);
        if (status == QUIRE_OK) status = quire_engine_create(model, &options, &engine, &error);
        qr_mem_fail_off();
        if (status == QUIRE_OK) quire_engine_destroy(engine);
        if (model) quire_model_close(model);
        if (status == QUIRE_OK) break;
        assert_int_equal(status, QUIRE_NOMEM);
    }
}

int main(void)
{
    use_cuda_shim();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_by_name),
        cmocka_unit_test(tensor_cores_are_a_device_s),
        cmocka_unit_test(wgmma_of_other_bits_is_not_used),
        cmocka_unit_test(cublaslt_is_for_tensor_cores_and_must_be_there),
        cmocka_unit_test(without_a_device),
        cmocka_unit_test(without_the_library),
        cmocka_unit_test(utilization_is_of_all_memory),
        cmocka_unit_test(without_memory),
    };
    return cmocka_run_group_tests_name("engine cuda", tests, NULL, NULL);
}
