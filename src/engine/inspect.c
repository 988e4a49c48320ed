/* quire_inspect_json: what a model file holds, and what serving it would take, without packing its weights. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/mem.h"
#include "model/config.h"
#include "text/tokenizer.h"

enum { MAX_ARRAY_SHOWN = 8, MAX_STRING_SHOWN = 4096 };

static json_t *text_json(const char *data, size_t len)
{
    bool cut = len > MAX_STRING_SHOWN;
    while (cut && len > MAX_STRING_SHOWN) len = MAX_STRING_SHOWN;
    while (cut && len > 0 && ((unsigned char)data[len] & 0xC0) == 0x80) len--;
    json_t *text = json_stringn(data, len); /* NULL when it is not UTF-8 */
    return text ? text : json_string("(not UTF-8)");
}

static json_t *element_json(const qr_meta *meta, qr_meta_type type, uint64_t idx)
{
    qr_string_view s;
    int64_t i;
    double f;
    if (type == QR_META_STRING) return qr_meta_array_str(meta, idx, &s) ? text_json(s.data, s.len) : json_null();
    if (qr_meta_array_i64(meta, idx, &i)) return type == QR_META_BOOL ? json_boolean(i) : json_integer(i);
    return qr_meta_array_f64(meta, idx, &f) ? json_real(f) : json_null();
}

static json_t *meta_json(const qr_meta *meta)
{
    qr_string_view s;
    qr_meta_type elem;
    uint64_t count;
    int64_t i;
    double f;
    bool b;
    switch (qr_meta_value_type(meta)) {
    case QR_META_STRING: return qr_meta_str(meta, &s) ? text_json(s.data, s.len) : json_null();
    case QR_META_BOOL: return qr_meta_bool(meta, &b) ? json_boolean(b) : json_null();
    case QR_META_F32:
    case QR_META_F64: return qr_meta_f64(meta, &f) ? json_real(f) : json_null();
    case QR_META_ARRAY: {
        if (!qr_meta_array(meta, &elem, &count)) return json_null();
        json_t *first = json_array();
        for (uint64_t k = 0; k < count && k < MAX_ARRAY_SHOWN; k++)
            json_array_append_new(first, element_json(meta, elem, k));
        return json_pack("{s:I, s:o}", "count", (json_int_t)count, "first", first);
    }
    default: return qr_meta_i64(meta, &i) ? json_integer(i) : json_null();
    }
}

static json_t *metadata_json(const qr_checkpoint *ckpt)
{
    const json_t *config = NULL;
    json_t *object = json_object();
    if (!qr_checkpoint_is_gguf(ckpt) && qr_checkpoint_json(ckpt, "config.json", &config, NULL) == QUIRE_OK && config) {
        json_decref(object);
        return json_deep_copy(config);
    }
    for (int i = 0; i < qr_checkpoint_num_meta(ckpt); i++) {
        const qr_meta *meta = qr_checkpoint_meta_at(ckpt, i);
        json_object_set_new(object, qr_meta_key(meta), meta_json(meta));
    }
    return object;
}

static json_t *tensors_json(const qr_checkpoint *ckpt, json_int_t *parameters, json_int_t *bytes)
{
    json_t *list = json_array();
    qr_quantization q;
    if (qr_quantization_read(ckpt, &q, NULL) != QUIRE_OK) q = (qr_quantization){0}; /* plan_json() says why */
    for (int i = 0; i < qr_checkpoint_num_tensors(ckpt); i++) {
        const qr_tensor_view *t = qr_checkpoint_tensor(ckpt, i);
        json_t *shape = json_array(); /* rows first, as PyTorch prints it */
        for (int d = t->num_dims - 1; d >= 0; d--) json_array_append_new(shape, json_integer(t->dims[d]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "dtype", qr_dtype_name(t->dtype),
                                              "shape", shape, "bytes", (json_int_t)t->bytes));
        *parameters += (json_int_t)qr_quantization_num_values(&q, t);
        *bytes += (json_int_t)t->bytes;
    }
    return list;
}

/* Of all layers, in a cache of that type: "kv_bytes_per_token_int8". */
static void add_kv_bytes(json_t *plan, const qr_model_config *c, const char *dtype, int value_bytes, int scale_bytes)
{
    char key[64];
    snprintf(key, sizeof key, "kv_bytes_per_token_%s", dtype);
    json_int_t heads = (json_int_t)c->num_layers * 2 * c->num_kv_heads;
    json_object_set_new(plan, key, json_integer(heads * ((json_int_t)c->head_size * value_bytes + scale_bytes)));
}

/* KV bytes per token and what that means, or why the architecture cannot be served. */
static json_t *plan_json(const qr_checkpoint *ckpt, json_int_t tensor_bytes)
{
    qr_model_config *c = qr_malloc(sizeof *c);
    quire_error error;
    if (!c) return NULL;
    json_t *plan;
    if (qr_model_config_read(ckpt, c, &error) != QUIRE_OK) {
        plan = json_pack("{s:b, s:s}", "supported", 0, "reason", error.message);
    } else {
        json_int_t per_token = /* float16 */
            (json_int_t)c->num_layers * 2 * c->num_kv_heads * c->head_size * 2;
        char text[80];
        plan = json_pack("{s:b, s:I}", "supported", 1, "weights_bytes", tensor_bytes);
        qr_quantization_describe(&c->quantization, text, sizeof text);
        if (c->quantization.method != QR_QUANT_NONE) json_object_set_new(plan, "quantization", json_string(text));
#define XX(id, name, bytes) add_kv_bytes(plan, c, name, bytes, QR_KV_##id == QR_KV_INT8 ? 2 : 0);
        QR_KV_DTYPE_MAP(XX)
#undef XX
        json_object_set_new(plan, "max_position_embeddings", json_integer(c->max_position_embeddings));
        json_object_set_new(plan, "kv_bytes_per_full_sequence", json_integer(per_token * c->max_position_embeddings));
        json_object_set_new(plan, "tokens_per_gib", json_integer(((json_int_t)1 << 30) / per_token));
    }
    qr_free(c);
    return plan;
}

static json_t *tokenizer_json(const qr_checkpoint *ckpt)
{
    qr_tokenizer *tok = NULL;
    quire_error error;
    char text[256];
    if (qr_tokenizer_create(ckpt, &tok, &error) != QUIRE_OK)
        return json_pack("{s:b, s:s}", "supported", 0, "reason", error.message);
    qr_tokenizer_describe(tok, text, sizeof text);
    json_t *out = json_pack("{s:b, s:s, s:i, s:i, s:i, s:b}", "supported", 1, "description", text, "vocab_size",
                            qr_tokenizer_vocab_size(tok), "bos_token_id", (int)qr_tokenizer_bos_id(tok), "eos_token_id",
                            (int)qr_tokenizer_eos_id(tok), "chat_template", qr_tokenizer_chat_template(tok) != NULL);
    qr_tokenizer_destroy(tok);
    return out;
}

quire_status quire_inspect_json(const char *path, char **out_json, quire_error *error)
{
    qr_checkpoint *ckpt = NULL;
    json_int_t parameters = 0, bytes = 0;
    QR_TRY(qr_checkpoint_open(path, &ckpt, error));
    json_t *tensors = tensors_json(ckpt, &parameters, &bytes);
    json_t *doc = json_pack("{s:s, s:s, s:I, s:I, s:o*, s:o*, s:o*, s:o*}", "path", qr_checkpoint_path(ckpt), "format",
                            qr_checkpoint_is_gguf(ckpt) ? "gguf" : "safetensors", "parameters", parameters,
                            "tensor_bytes", bytes, "metadata", metadata_json(ckpt), "tokenizer", tokenizer_json(ckpt),
                            "memory", plan_json(ckpt, bytes), "tensors", tensors);
    char *text = doc ? json_dumps(doc, JSON_INDENT(2)) : NULL;
    json_decref(doc);
    qr_checkpoint_close(ckpt);
    *out_json = text ? qr_strdup(text) : NULL;
    free(text);
    return *out_json ? QUIRE_OK : qr_fail_nomem(error, "the description", 0);
}
