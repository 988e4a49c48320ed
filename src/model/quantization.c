/* What config.json says about quantized linears (quantized.h). */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "model/quantized.h"

/* The object that is being read. */
typedef struct source {
    const qr_checkpoint *ckpt;
    const char *file, *key; /* for messages */
    const json_t *json;
    quire_error *error;
} source;

static quire_status bad(const source *s, quire_status status, const char *key, const char *what)
{
    return qr_fail(s->error, status, "%s: %s: %s%s%s: %s", qr_checkpoint_path(s->ckpt), s->file, s->key,
                   *s->key ? "." : "", key, what);
}

static quire_status unsupported(const source *s, const char *key, const char *value, const char *known)
{
    return qr_fail(s->error, QUIRE_UNSUPPORTED, "%s: %s: %s%s%s '%.60s' is not supported (%s)",
                   qr_checkpoint_path(s->ckpt), s->file, s->key, *s->key ? "." : "", key, value, known);
}

/* An integer in [min, max] under either key; absent (or null): fallback. */
static quire_status get_int(const source *s, const char *key, const char *other, int min, int max, int fallback,
                            int *out)
{
    const json_t *value = json_object_get(s->json, key);
    if (!value) value = json_object_get(s->json, other);
    *out = fallback;
    if (!value || json_is_null(value)) return QUIRE_OK;
    const json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < min || number > max) {
        char what[80];
        snprintf(what, sizeof what, "must be an integer from %d to %d", min, max);
        return bad(s, QUIRE_FORMAT, key, what);
    }
    *out = (int)number;
    return QUIRE_OK;
}

/* Whether the text under `key` is one of the names, separated by '|'; absent is fine. */
static quire_status check_name(const source *s, const char *key, const char *names, const char *known)
{
    const json_t *value = json_object_get(s->json, key);
    if (!value || json_is_null(value)) return QUIRE_OK;
    const char *name = json_string_value(value);
    if (!name) return bad(s, QUIRE_FORMAT, key, "must be a name");
    const size_t len = strlen(name);
    for (const char *at = names; len > 0; at++) {
        const size_t n = strcspn(at, "|");
        if (n == len && strncasecmp(at, name, n) == 0) return QUIRE_OK;
        at += n;
        if (!*at) break;
    }
    return unsupported(s, key, name, known);
}

static quire_status read_bits(const source *s, const char *other, const char *known, qr_quantization *out)
{
    QR_TRY(get_int(s, "bits", other, 1, 64, 0, &out->bits));
    if (out->bits == 0) return bad(s, QUIRE_FORMAT, "bits", "missing");
    if (out->bits == 4 || (out->bits == 8 && out->method == QR_QUANT_GPTQ)) return QUIRE_OK;
    char bits[16];
    snprintf(bits, sizeof bits, "%d", out->bits);
    return unsupported(s, "bits", bits, known);
}

static quire_status read_gptq(const source *s, qr_quantization *out)
{
    QR_TRY(read_bits(s, "", "4 and 8 are", out));
    QR_TRY(get_int(s, "group_size", "", -1, 1 << 22, 0, &out->group_size));
    QR_TRY(check_name(s, "checkpoint_format", "gptq|gptq_v2", "gptq and gptq_v2 are"));
    const char *format = json_string_value(json_object_get(s->json, "checkpoint_format"));
    out->zero_offset = format && strcasecmp(format, "gptq_v2") == 0 ? 0 : 1;
    if (json_is_true(json_object_get(s->json, "is_marlin_format")))
        return unsupported(s, "is_marlin_format", "true", "weights repacked for one kernel; use the original ones");
    if (json_object_size(json_object_get(s->json, "dynamic")) > 0) out->bits = out->group_size = 0; /* they vary */
    return QUIRE_OK;
}

static quire_status read_awq(const source *s, qr_quantization *out)
{
    QR_TRY(read_bits(s, "w_bit", "4 are", out));
    QR_TRY(get_int(s, "group_size", "q_group_size", -1, 1 << 22, 0, &out->group_size));
    return check_name(s, "version", "gemm", "gemm is");
}

static quire_status read_block(const source *s, const char *key, qr_quantization *out)
{
    const json_t *block = json_object_get(s->json, key);
    if (!block || json_is_null(block)) return QUIRE_OK;
    const json_int_t rows = json_integer_value(json_array_get(block, 0)),
                     cols = json_integer_value(json_array_get(block, 1));
    if (json_array_size(block) != 2 || rows < 1 || cols < 1 || rows > 1 << 20 || cols > 1 << 20)
        return bad(s, QUIRE_FORMAT, key, "must be two sizes, such as [128, 128]");
    out->block_rows = (int)rows;
    out->block_cols = (int)cols;
    return QUIRE_OK;
}

static quire_status read_fp8(const source *s, qr_quantization *out)
{
    out->bits = 8;
    QR_TRY(check_name(s, "fmt", "e4m3|float8_e4m3fn", "e4m3 is"));
    return read_block(s, "weight_block_size", out);
}

/* One of the groups of targets. The same for all: kept; else the tensors say. */
static quire_status read_weights(const source *s, bool first, qr_quantization *out)
{
    qr_quantization g = *out;
    QR_TRY(check_name(s, "type", "int|float", "int and float are"));
    QR_TRY(get_int(s, "num_bits", "", 1, 64, 0, &g.bits));
    QR_TRY(get_int(s, "group_size", "", -1, 1 << 22, 0, &g.group_size));
    QR_TRY(read_block(s, "block_structure", &g));
    const char *type = json_string_value(json_object_get(s->json, "type"));
    const bool is_float = type && strcasecmp(type, "float") == 0;
    if (g.bits != 8 && (g.bits != 4 || is_float)) {
        char bits[16];
        snprintf(bits, sizeof bits, "%d", g.bits);
        return unsupported(s, "num_bits", bits, "int of 4 and 8, and float of 8 are");
    }
    if (!first && (g.bits != out->bits || g.group_size != out->group_size)) g.bits = g.group_size = 0;
    *out = g;
    return QUIRE_OK;
}

static quire_status read_compressed(const source *s, qr_quantization *out)
{
    QR_TRY(check_name(s, "format", "pack-quantized|int-quantized|float-quantized|naive-quantized|mixed-precision",
                      "pack-quantized, int-quantized, float-quantized and naive-quantized are"));
    source sparsity = *s;
    sparsity.key = "sparsity_config";
    sparsity.json = json_object_get(s->json, sparsity.key);
    QR_TRY(check_name(&sparsity, "format", "dense", "dense is"));
    const char *name;
    json_t *group;
    bool first = true;
    json_object_foreach(json_object_get(s->json, "config_groups"), name, group)
    {
        source weights = *s;
        weights.key = "config_groups...weights";
        weights.json = json_object_get(group, "weights");
        if (json_is_object(weights.json)) {
            QR_TRY(read_weights(&weights, first, out));
            first = false;
        }
    }
    return QUIRE_OK;
}

static const struct {
    const char *name;
    qr_quant_method method;
    quire_status (*read)(const source *s, qr_quantization *out);
} methods[] = {{"gptq", QR_QUANT_GPTQ, read_gptq},
               {"awq", QR_QUANT_AWQ, read_awq},
               {"fp8", QR_QUANT_FP8, read_fp8},
               {"fbgemm_fp8", QR_QUANT_FP8, read_fp8},
               {"compressed-tensors", QR_QUANT_COMPRESSED, read_compressed},
               {"compressed_tensors", QR_QUANT_COMPRESSED, read_compressed}};

static quire_status read_method(const source *s, const char *name, qr_quantization *out)
{
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (strcasecmp(methods[i].name, name) != 0) continue;
        out->method = methods[i].method;
        return methods[i].read(s, out);
    }
    return unsupported(s, "quant_method", name, "gptq, awq, fp8, fbgemm_fp8 and compressed-tensors are");
}

quire_status qr_quantization_read(const qr_checkpoint *ckpt, qr_quantization *out, quire_error *error)
{
    *out = (qr_quantization){0};
    if (qr_checkpoint_is_gguf(ckpt)) return QUIRE_OK;
    source s = {ckpt, "config.json", "quantization_config", NULL, error};
    const json_t *config;
    QR_TRY(qr_checkpoint_json(ckpt, s.file, &config, error));
    s.json = json_object_get(config, s.key);
    if (!s.json || json_is_null(s.json)) s.json = json_object_get(config, s.key = "compression_config");
    if (!s.json || json_is_null(s.json)) {
        s = (source){ckpt, "quantize_config.json", "", NULL, error};
        QR_TRY(qr_checkpoint_json(ckpt, s.file, &s.json, error));
        if (!s.json) return QUIRE_OK;
    }
    if (!json_is_object(s.json)) return bad(&s, QUIRE_FORMAT, "", "must be an object");
    const json_t *method = json_object_get(s.json, "quant_method");
    if (!method && *s.key == '\0') return read_method(&s, "gptq", out); /* as AutoGPTQ first wrote it */
    if (!json_is_string(method)) return bad(&s, QUIRE_FORMAT, "quant_method", "must be a name");
    return read_method(&s, json_string_value(method), out);
}

void qr_quantization_describe(const qr_quantization *q, char *out, size_t bytes)
{
    static const char *const names[] = {"none", "GPTQ", "AWQ", "FP8", "compressed-tensors"};
    int n = snprintf(out, bytes, "%s", names[q->method]);
    if (q->bits > 0) n += snprintf(out + n, bytes - (size_t)n, ", %d bits", q->bits);
    if (q->group_size > 0) n += snprintf(out + n, bytes - (size_t)n, ", groups of %d", q->group_size);
    if (q->block_rows > 0) snprintf(out + n, bytes - (size_t)n, ", blocks of %d x %d", q->block_rows, q->block_cols);
}

static bool ends_with(const char *s, const char *suffix)
{
    const size_t len = strlen(s), n = strlen(suffix);
    return len >= n && strcmp(s + len - n, suffix) == 0;
}

int64_t qr_quantization_num_values(const qr_quantization *q, const qr_tensor_view *t)
{
    const int64_t stored = qr_tensor_rows(t) * qr_tensor_cols(t);
    if (q->method == QR_QUANT_NONE || ends_with(t->name, ".weight") || ends_with(t->name, ".bias")) return stored;
    if (ends_with(t->name, ".qweight") || ends_with(t->name, ".weight_packed")) return stored * (q->bits == 8 ? 4 : 8);
    return 0;
}
