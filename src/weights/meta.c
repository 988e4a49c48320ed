/* Reading GGUF metadata values; every range was checked when the file was opened. */
#include <string.h>

#include "weights/checkpoint_impl.h"

int qr_checkpoint_num_meta(const qr_checkpoint *ckpt) { return ckpt->num_meta; }

const qr_meta *qr_checkpoint_meta_at(const qr_checkpoint *ckpt, int idx)
{
    return idx >= 0 && idx < ckpt->num_meta ? &ckpt->meta[idx] : NULL;
}

const qr_meta *qr_checkpoint_meta(const qr_checkpoint *ckpt, const char *key)
{
    int idx = qr_name_map_find(&ckpt->meta_index, key);
    return idx >= 0 ? &ckpt->meta[idx] : NULL;
}

const char *qr_meta_key(const qr_meta *meta) { return meta->key; }

qr_meta_type qr_meta_value_type(const qr_meta *meta) { return meta->type; }

#define LOAD(ctype, dst)                   \
    do {                                   \
        ctype value_;                      \
        memcpy(&value_, p, sizeof value_); \
        *(dst) = value_;                   \
    } while (0)

/* Element idx of values of an integer type or bools. */
static bool load_i64(qr_meta_type type, const uint8_t *p, uint64_t idx, int64_t *out)
{
    uint64_t big;
    switch (type) {
    case QR_META_U8:
        p += idx;
        LOAD(uint8_t, out);
        return true;
    case QR_META_I8:
        p += idx;
        LOAD(int8_t, out);
        return true;
    case QR_META_BOOL: *out = p[idx] != 0; return true;
    case QR_META_U16:
        p += idx * 2;
        LOAD(uint16_t, out);
        return true;
    case QR_META_I16:
        p += idx * 2;
        LOAD(int16_t, out);
        return true;
    case QR_META_U32:
        p += idx * 4;
        LOAD(uint32_t, out);
        return true;
    case QR_META_I32:
        p += idx * 4;
        LOAD(int32_t, out);
        return true;
    case QR_META_I64:
        p += idx * 8;
        LOAD(int64_t, out);
        return true;
    case QR_META_U64:
        p += idx * 8;
        LOAD(uint64_t, &big);
        if (big > INT64_MAX) return false;
        *out = (int64_t)big;
        return true;
    default: return false;
    }
}

static bool load_f64(qr_meta_type type, const uint8_t *p, uint64_t idx, double *out)
{
    int64_t integer;
    switch (type) {
    case QR_META_F32:
        p += idx * 4;
        LOAD(float, out);
        return true;
    case QR_META_F64:
        p += idx * 8;
        LOAD(double, out);
        return true;
    case QR_META_BOOL: return false;
    default:
        if (!load_i64(type, p, idx, &integer)) return false;
        *out = (double)integer;
        return true;
    }
}

/* A string with its length in front. */
static qr_string_view load_string(const uint8_t *p)
{
    uint64_t len;
    LOAD(uint64_t, &len);
    return (qr_string_view){(const char *)p + sizeof len, (size_t)len};
}

bool qr_meta_i64(const qr_meta *meta, int64_t *out)
{
    return meta->type != QR_META_BOOL && load_i64(meta->type, meta->data, 0, out);
}

bool qr_meta_f64(const qr_meta *meta, double *out) { return load_f64(meta->type, meta->data, 0, out); }

bool qr_meta_bool(const qr_meta *meta, bool *out)
{
    if (meta->type != QR_META_BOOL) return false;
    *out = meta->data[0] != 0;
    return true;
}

bool qr_meta_str(const qr_meta *meta, qr_string_view *out)
{
    if (meta->type != QR_META_STRING) return false;
    *out = load_string(meta->data);
    return true;
}

bool qr_meta_array(const qr_meta *meta, qr_meta_type *elem_type, uint64_t *count)
{
    if (meta->type != QR_META_ARRAY) return false;
    *elem_type = meta->elem_type;
    *count = meta->count;
    return true;
}

static bool has_element(const qr_meta *meta, uint64_t idx) { return meta->type == QR_META_ARRAY && idx < meta->count; }

bool qr_meta_array_str(const qr_meta *meta, uint64_t idx, qr_string_view *out)
{
    if (!has_element(meta, idx) || meta->elem_type != QR_META_STRING) return false;
    *out = load_string(meta->data + meta->offsets[idx]);
    return true;
}

bool qr_meta_array_i64(const qr_meta *meta, uint64_t idx, int64_t *out)
{
    return has_element(meta, idx) && load_i64(meta->elem_type, meta->data, idx, out);
}

bool qr_meta_array_f64(const qr_meta *meta, uint64_t idx, double *out)
{
    return has_element(meta, idx) && load_f64(meta->elem_type, meta->data, idx, out);
}
