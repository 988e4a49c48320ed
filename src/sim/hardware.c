#include "sim/hardware.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Rates: NVIDIA's data sheets (dense 16-bit Tensor Core FLOPs; NVLink per direction; PCIe 4 and 5 x16 per direction).
 * Efficiencies: a skinny matrix product reaches about 80 % of the bandwidth and a large one 60 % of the FLOPs; paged
 * attention about 60 % of the bandwidth. Block overhead: figure 18a of the PagedAttention paper, 20 to 26 % at 16
 * tokens in a block. Overheads of the GPUs: of the paper's engine (in Python), from two of its measurements and
 * Little's law; docs/paper.md has the arithmetic. Those of the CPU: bench/simulator.py with
 * SmolLM2-135M-Instruct.Q4_1, one thread on an AMD EPYC (Zen 5); its rates are not used. */
#define GPU_CONSTANTS                                                                                                \
    .link_us = 15, .transfer_us = 4, .weight_efficiency = 0.8, .flops_efficiency = 0.6, .attention_efficiency = 0.6, \
    .host_efficiency = 0.8, .block_overhead_tokens = 3.7, .step_us = 3500, .seq_us = 250
const qr_sim_device qr_sim_devices[] = {
    {.name = "a100-40gb",
     .memory_gib = 40,
     .memory_bandwidth_gbs = 1555,
     .tflops = 312,
     .link_bandwidth_gbs = 300,
     .host_bandwidth_gbs = 32,
     GPU_CONSTANTS},
    {.name = "a100-80gb",
     .memory_gib = 80,
     .memory_bandwidth_gbs = 2039,
     .tflops = 312,
     .link_bandwidth_gbs = 300,
     .host_bandwidth_gbs = 32,
     GPU_CONSTANTS},
    {.name = "h100",
     .memory_gib = 80,
     .memory_bandwidth_gbs = 3350,
     .tflops = 989,
     .link_bandwidth_gbs = 450,
     .host_bandwidth_gbs = 64,
     GPU_CONSTANTS},
    {.name = "h200",
     .memory_gib = 141,
     .memory_bandwidth_gbs = 4800,
     .tflops = 989,
     .link_bandwidth_gbs = 450,
     .host_bandwidth_gbs = 64,
     GPU_CONSTANTS},
    {.name = "cpu",
     .memory_gib = 8,
     .memory_bandwidth_gbs = INFINITY,
     .tflops = INFINITY,
     .link_bandwidth_gbs = INFINITY,
     .host_bandwidth_gbs = 10,
     .weight_efficiency = 1,
     .flops_efficiency = 1,
     .attention_efficiency = 1,
     .host_efficiency = 1,
     .step_us = 2500,
     .seq_us = 340,
     .token_us = 420,
     .pair_us = 0.39},
    {.name = ""},
};

/* Shapes: Zhang et al., 2022 (OPT); Touvron et al., 2023 (LLaMA); Llama 3 and SmolLM2 model cards. The paper counts
 * 346 GB of weights for OPT-175B, so 173 billion parameters. */
#define FLOAT16 .bytes_per_parameter = 2, .bytes_per_kv = 2
const qr_sim_model qr_sim_models[] = {
    {.name = "opt-13b",
     .num_layers = 40,
     .hidden_size = 5120,
     .num_heads = 40,
     .num_kv_heads = 40,
     .head_dim = 128,
     .parameters_billion = 13,
     .max_model_len = 2048,
     FLOAT16},
    {.name = "opt-66b",
     .num_layers = 64,
     .hidden_size = 9216,
     .num_heads = 72,
     .num_kv_heads = 72,
     .head_dim = 128,
     .parameters_billion = 66,
     .max_model_len = 2048,
     FLOAT16},
    {.name = "opt-175b",
     .num_layers = 96,
     .hidden_size = 12288,
     .num_heads = 96,
     .num_kv_heads = 96,
     .head_dim = 128,
     .parameters_billion = 173,
     .max_model_len = 2048,
     FLOAT16},
    {.name = "llama-13b",
     .num_layers = 40,
     .hidden_size = 5120,
     .num_heads = 40,
     .num_kv_heads = 40,
     .head_dim = 128,
     .parameters_billion = 13,
     .max_model_len = 2048,
     FLOAT16},
    {.name = "llama-3-8b",
     .num_layers = 32,
     .hidden_size = 4096,
     .num_heads = 32,
     .num_kv_heads = 8,
     .head_dim = 128,
     .parameters_billion = 8.03,
     .max_model_len = 131072,
     FLOAT16},
    {.name = "llama-3-70b",
     .num_layers = 80,
     .hidden_size = 8192,
     .num_heads = 64,
     .num_kv_heads = 8,
     .head_dim = 128,
     .parameters_billion = 70.6,
     .max_model_len = 131072,
     FLOAT16},
    {.name = "smollm2-135m",
     .num_layers = 30,
     .hidden_size = 576,
     .num_heads = 9,
     .num_kv_heads = 3,
     .head_dim = 64,
     .parameters_billion = 0.135,
     .bytes_per_parameter = 0.7,
     .bytes_per_kv = 2,
     .max_model_len = 8192},
    {.name = ""},
};

/* Table 1 of the paper: max. # KV slots 15.7K (12 GiB exactly: 15,728), 9.7K, 60.1K (264 GiB: 60,074). LLaMA-13B has
 * OPT-13B's shape and machine. The others are common choices. */
const qr_sim_setup qr_sim_setups[] = {
    {"opt-13b", "a100-40gb", 1, 15728},  {"opt-66b", "a100-40gb", 4, 9700},
    {"opt-175b", "a100-80gb", 8, 60074}, {"llama-13b", "a100-40gb", 1, 15728},
    {"llama-3-8b", "h100", 1, 0},        {"llama-3-70b", "h100", 4, 0},
    {"smollm2-135m", "cpu", 1, 0},       {0},
};

const qr_sim_device *qr_sim_find_device(const char *name)
{
    for (const qr_sim_device *d = qr_sim_devices; *d->name; d++)
        if (strcmp(d->name, name) == 0) return d;
    return NULL;
}

const qr_sim_model *qr_sim_find_model(const char *name)
{
    for (const qr_sim_model *m = qr_sim_models; *m->name; m++)
        if (strcmp(m->name, name) == 0) return m;
    return NULL;
}

const qr_sim_setup *qr_sim_find_setup(const char *model, const char *device, int tensor_parallel_size)
{
    for (const qr_sim_setup *s = qr_sim_setups; s->model; s++) {
        const bool fits = (!device || strcmp(s->device, device) == 0) &&
                          (tensor_parallel_size == 0 || s->tensor_parallel_size == tensor_parallel_size);
        if (strcmp(s->model, model) == 0 && fits) return s;
    }
    return NULL;
}

/* ---- JSON -------------------------------------------------------------------------------------- */

typedef struct field {
    const char *name;
    size_t offset;
    double min; /* and at most 1e15 */
} field;

#define DEVICE(name, min)                         \
    {                                             \
#name, offsetof(qr_sim_device, name), min \
    }
static const field device_fields[] = {
    DEVICE(memory_gib, 1e-3),
    DEVICE(memory_bandwidth_gbs, 1e-3),
    DEVICE(tflops, 1e-6),
    DEVICE(link_bandwidth_gbs, 1e-3),
    DEVICE(link_us, 0),
    DEVICE(host_bandwidth_gbs, 1e-3),
    DEVICE(transfer_us, 0),
    DEVICE(weight_efficiency, 1e-3),
    DEVICE(flops_efficiency, 1e-3),
    DEVICE(attention_efficiency, 1e-3),
    DEVICE(host_efficiency, 1e-3),
    DEVICE(block_overhead_tokens, 0),
    DEVICE(step_us, 0),
    DEVICE(seq_us, 0),
    DEVICE(token_us, 0),
    DEVICE(pair_us, 0),
    {0},
};

#define MODEL(name, min)                         \
    {                                            \
#name, offsetof(qr_sim_model, name), min \
    }
static const field model_fields[] = {
    MODEL(num_layers, 1),
    MODEL(hidden_size, 1),
    MODEL(num_heads, 1),
    MODEL(num_kv_heads, 1),
    MODEL(head_dim, 1),
    MODEL(parameters_billion, 1e-6),
    MODEL(bytes_per_parameter, 1e-2),
    MODEL(bytes_per_kv, 1e-2),
    MODEL(max_model_len, 2),
    {0},
};

static quire_status set_field(const char *file, const char *key, const json_t *value, const field *fields, void *base,
                              quire_error *error)
{
    const field *f = fields;
    while (f->name && strcmp(f->name, key) != 0) f++;
    if (!f->name) return qr_fail(error, QUIRE_FORMAT, "%s: unknown field \"%s\"", file, key);
    const double number = json_is_number(value) ? json_number_value(value) : NAN;
    if (!(number >= f->min && number <= 1e15))
        return qr_fail(error, QUIRE_FORMAT, "%s: \"%s\" must be a number of at least %g", file, key, f->min);
    memcpy((char *)base + f->offset, &number, sizeof number);
    return QUIRE_OK;
}

/* Members into the struct; "name" and "base" are the caller's business, other text is a note. */
static quire_status set_fields(const char *file, json_t *object, const field *fields, void *base, quire_error *error)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (!json_is_string(value)) QR_TRY(set_field(file, key, value, fields, base, error));
    }
    return QUIRE_OK;
}

static quire_status load_object(const char *file, const char *json, size_t bytes, json_t **out, quire_error *error)
{
    json_error_t at;
    *out = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &at);
    if (json_is_object(*out)) return QUIRE_OK;
    const bool is_json = *out != NULL;
    json_decref(*out);
    if (is_json) return qr_fail(error, QUIRE_FORMAT, "%s: must be a JSON object", file);
    return qr_fail(error, QUIRE_FORMAT, "%s: line %d: %s", file, at.line, at.text);
}

static void set_name(const char *file, const json_t *object, char *name)
{
    const char *given = json_string_value(json_object_get(object, "name"));
    if (!given || !*given) given = file;
    snprintf(name, QR_SIM_NAME_BYTES, "%s", given);
}

static quire_status require_all(const char *file, const field *fields, const void *base, quire_error *error)
{
    for (const field *f = fields; f->name; f++) {
        double value;
        memcpy(&value, (const char *)base + f->offset, sizeof value);
        if (!(value >= f->min)) return qr_fail(error, QUIRE_FORMAT, "%s: \"%s\" is missing", file, f->name);
    }
    return QUIRE_OK;
}

static quire_status parse_device(const char *file, json_t *object, qr_sim_device *device, quire_error *error)
{
    const char *base = json_string_value(json_object_get(object, "base"));
    const qr_sim_device *row = base ? qr_sim_find_device(base) : NULL;
    if (base && !row) return qr_fail(error, QUIRE_FORMAT, "%s: \"base\": no device is named \"%s\"", file, base);
    if (row) *device = *row;
    set_name(file, object, device->name);
    QR_TRY(set_fields(file, object, device_fields, device, error));
    return require_all(file, device_fields, device, error);
}

quire_status qr_sim_parse_device(const char *file, const char *json, size_t bytes, qr_sim_device *out,
                                 quire_error *error)
{
    json_t *object;
    QR_TRY(load_object(file, json, bytes, &object, error));
    qr_sim_device device = {0};
    const quire_status status = parse_device(file, object, &device, error);
    json_decref(object);
    if (status == QUIRE_OK) *out = device;
    return status;
}

static quire_status parse_model(const char *file, json_t *object, qr_sim_model *model, quire_error *error)
{
    const char *base = json_string_value(json_object_get(object, "base"));
    const qr_sim_model *row = base ? qr_sim_find_model(base) : NULL;
    if (base && !row) return qr_fail(error, QUIRE_FORMAT, "%s: \"base\": no model is named \"%s\"", file, base);
    if (row) *model = *row;
    set_name(file, object, model->name);
    QR_TRY(set_fields(file, object, model_fields, model, error));
    QR_TRY(require_all(file, model_fields, model, error));
    if (model->max_model_len > 1 << 30)
        return qr_fail(error, QUIRE_FORMAT, "%s: \"max_model_len\" must be at most %d", file, 1 << 30);
    return QUIRE_OK;
}

quire_status qr_sim_parse_model(const char *file, const char *json, size_t bytes, qr_sim_model *out, quire_error *error)
{
    json_t *object;
    QR_TRY(load_object(file, json, bytes, &object, error));
    qr_sim_model model = {0};
    const quire_status status = parse_model(file, object, &model, error);
    json_decref(object);
    if (status == QUIRE_OK) *out = model;
    return status;
}

quire_status qr_sim_apply_calibration(const char *file, const char *json, size_t bytes, qr_sim_device *device,
                                      quire_error *error)
{
    json_t *object;
    QR_TRY(load_object(file, json, bytes, &object, error));
    qr_sim_device calibrated = *device;
    const quire_status status = set_fields(file, object, device_fields, &calibrated, error);
    json_decref(object);
    if (status == QUIRE_OK) *device = calibrated;
    return status;
}

/* ---- memory ------------------------------------------------------------------------------------ */

double qr_sim_kv_bytes_per_token(const qr_sim_model *m)
{
    return 2 * m->num_layers * m->num_kv_heads * m->head_dim * m->bytes_per_kv;
}

double qr_sim_weight_bytes(const qr_sim_model *m) { return m->parameters_billion * 1e9 * m->bytes_per_parameter; }

int64_t qr_sim_kv_slots(const qr_sim_model *model, const qr_sim_device *device, int tensor_parallel_size,
                        double gpu_memory_utilization)
{
    const qr_sim_setup *setup = qr_sim_find_setup(model->name, device->name, tensor_parallel_size);
    if (setup && setup->num_kv_slots > 0) return setup->num_kv_slots;
    const double memory = device->memory_gib * (1 << 30) * tensor_parallel_size * gpu_memory_utilization;
    const double slots = (memory - qr_sim_weight_bytes(model)) / qr_sim_kv_bytes_per_token(model);
    return slots >= 1 ? (int64_t)fmin(slots, 1e15) : 0;
}
