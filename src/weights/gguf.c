/* gguf: the GGUF container, versions 2 and 3, little endian.
 *
 *   "GGUF" version num_tensors num_meta │ meta: key type value │ infos: name dims type offset │ pad │ data
 *
 * Source: ggml's docs/gguf.md. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "weights/checkpoint_impl.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF data is used where it lies, little endian");

enum { DEFAULT_ALIGNMENT = 32, MIN_META_BYTES = 14, MIN_INFO_BYTES = 25, NUM_META_TYPES = QR_META_F64 + 1 };

/* A bounds-checked cursor over one mapped file. */
typedef struct reader {
    const uint8_t *data;
    size_t bytes, pos;
    const char *path; /* for messages */
} reader;

static quire_status read_bytes(reader *r, uint64_t num_bytes, const char *what, const uint8_t **out, quire_error *error)
{
    if (num_bytes > r->bytes - r->pos)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: %s at byte %zu needs %" PRIu64 " bytes, but the file ends at byte %zu: it is truncated or "
                       "damaged; fetch it again",
                       r->path, what, r->pos, num_bytes, r->bytes);
    *out = r->data + r->pos;
    r->pos += (size_t)num_bytes;
    return QUIRE_OK;
}

static quire_status read_u32(reader *r, const char *what, uint32_t *out, quire_error *error)
{
    const uint8_t *p = NULL;
    QR_TRY(read_bytes(r, sizeof *out, what, &p, error));
    memcpy(out, p, sizeof *out);
    return QUIRE_OK;
}

static quire_status read_u64(reader *r, const char *what, uint64_t *out, quire_error *error)
{
    const uint8_t *p = NULL;
    QR_TRY(read_bytes(r, sizeof *out, what, &p, error));
    memcpy(out, p, sizeof *out);
    return QUIRE_OK;
}

static quire_status read_string(reader *r, const char *what, qr_string_view *out, quire_error *error)
{
    uint64_t len = 0;
    const uint8_t *p = NULL;
    QR_TRY(read_u64(r, what, &len, error));
    QR_TRY(read_bytes(r, len, what, &p, error));
    *out = (qr_string_view){(const char *)p, (size_t)len};
    return QUIRE_OK;
}

/* Bytes of one value; 0 for strings and arrays, whose size varies, and for ids that are no type. */
static size_t scalar_bytes(uint32_t type)
{
    static const uint8_t sizes[NUM_META_TYPES] = {
        [QR_META_U8] = 1,  [QR_META_I8] = 1,  [QR_META_U16] = 2, [QR_META_I16] = 2,
        [QR_META_U32] = 4, [QR_META_I32] = 4, [QR_META_F32] = 4, [QR_META_BOOL] = 1,
        [QR_META_U64] = 8, [QR_META_I64] = 8, [QR_META_F64] = 8,
    };
    return type < NUM_META_TYPES ? sizes[type] : 0;
}

static quire_status read_string_array(reader *r, const char *what, qr_meta *meta, quire_error *error)
{
    if (meta->count > (r->bytes - r->pos) / sizeof(uint64_t))
        return qr_fail(error, QUIRE_FORMAT, "%s: %s: an array of %" PRIu64 " strings cannot fit into the file", r->path,
                       what, meta->count);
    size_t start = r->pos, bytes = (size_t)meta->count * sizeof *meta->offsets;
    meta->offsets = qr_malloc(bytes);
    if (!meta->offsets) return qr_fail_nomem(error, what, bytes);
    for (uint64_t i = 0; i < meta->count; i++) {
        qr_string_view ignored;
        meta->offsets[i] = r->pos - start;
        QR_TRY(read_string(r, what, &ignored, error));
    }
    return QUIRE_OK;
}

static quire_status read_array(reader *r, const char *what, qr_meta *meta, quire_error *error)
{
    uint32_t elem_type = 0;
    QR_TRY(read_u32(r, what, &elem_type, error));
    QR_TRY(read_u64(r, what, &meta->count, error));
    meta->data = r->data + r->pos;
    size_t elem_bytes = scalar_bytes(elem_type);
    if (elem_type == QR_META_ARRAY)
        return qr_fail(error, QUIRE_UNSUPPORTED, "%s: %s: arrays of arrays are not supported", r->path, what);
    if (elem_bytes == 0 && elem_type != QR_META_STRING)
        return qr_fail(error, QUIRE_FORMAT, "%s: %s: unknown element type %" PRIu32, r->path, what, elem_type);
    meta->elem_type = (qr_meta_type)elem_type;
    if (elem_type == QR_META_STRING) return read_string_array(r, what, meta, error);
    if (meta->count > (r->bytes - r->pos) / elem_bytes)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: %s: an array of %" PRIu64 " values of %zu bytes cannot fit into the file", r->path, what,
                       meta->count, elem_bytes);
    r->pos += (size_t)meta->count * elem_bytes;
    return QUIRE_OK;
}

/* One key-value pair; meta is zeroed and belongs to the checkpoint already, so what it holds is freed on failure. */
static quire_status read_meta(reader *r, qr_meta *meta, quire_error *error)
{
    qr_string_view key;
    QR_TRY(read_string(r, "a metadata key", &key, error));
    if (key.len == 0 || key.len > QR_MAX_NAME_BYTES || memchr(key.data, 0, key.len))
        return qr_fail(error, QUIRE_FORMAT, "%s: the metadata key before byte %zu is empty, overlong or holds a NUL",
                       r->path, r->pos);
    meta->key = qr_strndup(key.data, key.len);
    if (!meta->key) return qr_fail_nomem(error, "a metadata key", key.len + 1);

    char what[160];
    snprintf(what, sizeof what, "metadata '%s'", qr_quote(key.data, key.len).text);
    uint32_t type = 0;
    QR_TRY(read_u32(r, what, &type, error));
    if (type >= NUM_META_TYPES)
        return qr_fail(error, QUIRE_FORMAT, "%s: %s: unknown value type %" PRIu32, r->path, what, type);
    meta->type = (qr_meta_type)type;
    if (type == QR_META_ARRAY) return read_array(r, what, meta, error);
    meta->count = 1;
    meta->data = r->data + r->pos;
    qr_string_view ignored;
    if (type == QR_META_STRING) return read_string(r, what, &ignored, error);
    const uint8_t *p = NULL;
    return read_bytes(r, scalar_bytes(type), what, &p, error);
}

static quire_status read_all_meta(reader *r, uint64_t num_meta, qr_checkpoint *owner, quire_error *error)
{
    if (num_meta > QR_MAX_META || num_meta > (r->bytes - r->pos) / MIN_META_BYTES)
        return qr_fail(error, QUIRE_FORMAT, "%s: the header claims %" PRIu64 " metadata entries; the file is damaged",
                       r->path, num_meta);
    owner->meta = qr_calloc((size_t)num_meta, sizeof *owner->meta);
    if (!owner->meta || qr_name_map_reserve(&owner->meta_index, (size_t)num_meta) != 0)
        return qr_fail_nomem(error, "metadata", (size_t)num_meta * sizeof *owner->meta);
    for (uint64_t i = 0; i < num_meta; i++) {
        qr_meta *meta = &owner->meta[owner->num_meta++];
        QR_TRY(read_meta(r, meta, error));
        if (!qr_name_map_add(&owner->meta_index, meta->key, owner->num_meta - 1))
            return qr_fail(error, QUIRE_FORMAT, "%s: metadata key '%s' occurs twice", r->path,
                           qr_quote(meta->key, strlen(meta->key)).text);
    }
    return QUIRE_OK;
}

/* Names of GGML types that files may hold and quire does not read, for the message. */
static const char *foreign_type_name(uint32_t ggml_id)
{
    static const char *const names[] = {
        [9] = "Q8_1",   [15] = "Q8_K",   [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS",
        [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S",   [22] = "IQ2_S",  [23] = "IQ4_XS",
        [24] = "I8",    [25] = "I16",    [26] = "I32",     [27] = "I64",    [28] = "F64",
        [29] = "IQ1_M", [34] = "TQ1_0",  [35] = "TQ2_0",   [39] = "MXFP4",
    };
    return ggml_id < sizeof names / sizeof *names && names[ggml_id] ? names[ggml_id] : "unknown";
}

typedef struct tensor_info {
    qr_string_view name;
    qr_tensor_view view; /* dtype, num_dims, dims */
    uint64_t offset;
} tensor_info;

static quire_status read_info(reader *r, tensor_info *out, quire_error *error)
{
    size_t start = r->pos;
    uint32_t num_dims = 0, type = 0;
    QR_TRY(read_string(r, "a tensor name", &out->name, error));
    qr_quoted name = qr_quote(out->name.data, out->name.len);
    QR_TRY(read_u32(r, "a tensor's number of dimensions", &num_dims, error));
    if (num_dims > QR_MAX_DIMS)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: tensor '%s' (described at byte %zu) has %" PRIu32 " dimensions, at most %d are supported",
                       r->path, name.text, start, num_dims, QR_MAX_DIMS);
    out->view = (qr_tensor_view){.num_dims = (int)num_dims, .dims = {1, 1, 1, 1}};
    for (uint32_t i = 0; i < num_dims; i++) {
        uint64_t dim = 0;
        QR_TRY(read_u64(r, "a tensor's dimensions", &dim, error));
        out->view.dims[i] = dim <= INT64_MAX ? (int64_t)dim : -1; /* -1 is refused with the rest of the shape */
    }
    QR_TRY(read_u32(r, "a tensor's type", &type, error));
    QR_TRY(read_u64(r, "a tensor's offset", &out->offset, error));
    if (!qr_dtype_from_ggml(type, &out->view.dtype))
        return qr_fail(error, QUIRE_UNSUPPORTED,
                       "%s: tensor '%s' (described at byte %zu) has type %s (%" PRIu32
                       "), which is not supported; use F32, F16, BF16, Q4_0 to Q8_0 or Q2_K to Q6_K",
                       r->path, name.text, start, foreign_type_name(type), type);
    return QUIRE_OK;
}

static quire_status read_alignment(const reader *r, const qr_checkpoint *owner, uint64_t *out, quire_error *error)
{
    const qr_meta *meta = qr_checkpoint_meta(owner, "general.alignment");
    int64_t value = DEFAULT_ALIGNMENT;
    if (meta && (!qr_meta_i64(meta, &value) || value < 1 || value > 1 << 30 || (value & (value - 1)) != 0))
        return qr_fail(error, QUIRE_FORMAT, "%s: metadata 'general.alignment' is not a power of two", r->path);
    *out = (uint64_t)value;
    return QUIRE_OK;
}

/* The tensor descriptions, which go twice over the file: the data section begins where they end. */
static quire_status read_tensors(reader *r, uint64_t num_tensors, uint64_t alignment, qr_checkpoint *ckpt,
                                 quire_error *error)
{
    if (num_tensors > (r->bytes - r->pos) / MIN_INFO_BYTES)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: the header claims %" PRIu64 " tensors; the file is truncated or damaged", r->path,
                       num_tensors);
    QR_TRY(qr_checkpoint_reserve_tensors(ckpt, num_tensors, error));
    reader second = *r;
    tensor_info info;
    for (uint64_t i = 0; i < num_tensors; i++) QR_TRY(read_info(r, &info, error));

    uint64_t section = (r->pos + alignment - 1) & ~(alignment - 1);
    if (section > r->bytes) section = r->bytes;
    for (uint64_t i = 0; i < num_tensors; i++) {
        QR_TRY(read_info(&second, &info, error));
        if (info.offset % alignment != 0)
            return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s': offset %" PRIu64 " is not a multiple of %" PRIu64,
                           r->path, qr_quote(info.name.data, info.name.len).text, info.offset, alignment);
        QR_TRY(qr_checkpoint_add_tensor(ckpt, r->path, info.name.data, info.name.len, &info.view, r->data + section,
                                        r->bytes - section, info.offset, error));
    }
    return QUIRE_OK;
}

static quire_status read_header(reader *r, uint64_t *num_tensors, uint64_t *num_meta, quire_error *error)
{
    const uint8_t *magic;
    uint32_t version = 0;
    if (r->bytes < 4 || memcmp(r->data, "GGUF", 4) != 0)
        return qr_fail(error, QUIRE_FORMAT, "%s: not a GGUF file: it does not begin with \"GGUF\"", r->path);
    QR_TRY(read_bytes(r, 4, "the header", &magic, error));
    QR_TRY(read_u32(r, "the header", &version, error));
    if (version == 2u << 24 || version == 3u << 24)
        return qr_fail(error, QUIRE_UNSUPPORTED, "%s: a big-endian GGUF file, which is not supported", r->path);
    if (version != 2 && version != 3)
        return qr_fail(error, QUIRE_UNSUPPORTED, "%s: GGUF version %" PRIu32 ", but only 2 and 3 are supported",
                       r->path, version);
    QR_TRY(read_u64(r, "the header", num_tensors, error));
    return read_u64(r, "the header", num_meta, error);
}

/* One file: metadata goes to `owner`, tensors to `ckpt`. */
static quire_status read_part(const qr_map *map, const char *path, qr_checkpoint *owner, qr_checkpoint *ckpt,
                              quire_error *error)
{
    reader r = {.data = map->data, .bytes = map->bytes, .path = path};
    uint64_t num_tensors = 0, num_meta = 0, alignment = DEFAULT_ALIGNMENT;
    QR_TRY(read_header(&r, &num_tensors, &num_meta, error));
    QR_TRY(read_all_meta(&r, num_meta, owner, error));
    QR_TRY(read_alignment(&r, owner, &alignment, error));
    return read_tensors(&r, num_tensors, alignment, ckpt, error);
}

/* ---- split files: NAME-00001-of-00003.gguf, all metadata in the first */

static int64_t meta_int_or(const qr_checkpoint *ckpt, const char *key, int64_t fallback)
{
    const qr_meta *meta = qr_checkpoint_meta(ckpt, key);
    int64_t value;
    return meta && qr_meta_i64(meta, &value) ? value : fallback;
}

static quire_status read_other_part(qr_checkpoint *ckpt, const char *path, int64_t part_idx, int64_t num_parts,
                                    quire_error *error)
{
    qr_map map;
    QR_TRY(qr_map_open(path, &map, error));
    quire_status status = qr_checkpoint_add_map(ckpt, &map, error);
    if (status != QUIRE_OK) {
        qr_map_close(&map);
        return status;
    }
    qr_checkpoint *owner;
    QR_TRY(qr_checkpoint_create(path, &owner, error));
    status = read_part(&map, path, owner, ckpt, error);
    if (status == QUIRE_OK &&
        (meta_int_or(owner, "split.no", -1) != part_idx || meta_int_or(owner, "split.count", -1) != num_parts))
        status = qr_fail(error, QUIRE_FORMAT, "%s: its metadata does not say that it is part %" PRId64 " of %" PRId64,
                         path, part_idx + 1, num_parts);
    qr_checkpoint_close(owner);
    return status;
}

static quire_status read_other_parts(qr_checkpoint *ckpt, const char *path, int64_t num_parts, quire_error *error)
{
    qr_split_name split;
    bool is_named = qr_split_name_parse(path, &split);
    if (!is_named || split.part != 1 || split.num_parts != num_parts || meta_int_or(ckpt, "split.no", 0) != 0)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: one of %" PRId64 " parts; open the first, whose name ends in \"-00001-of-%05d.gguf\"", path,
                       num_parts, (int)num_parts);
    for (int part = 2; part <= split.num_parts; part++) {
        char *name = qr_split_name_part(path, &split, part);
        if (!name) return qr_fail_nomem(error, "a file name", strlen(path));
        quire_status status = read_other_part(ckpt, name, part - 1, num_parts, error);
        qr_free(name);
        QR_TRY(status);
    }
    int64_t expected = meta_int_or(ckpt, "split.tensors.count", ckpt->num_tensors);
    if (expected != ckpt->num_tensors)
        return qr_fail(error, QUIRE_FORMAT, "%s: the parts hold %d tensors instead of %" PRId64, path,
                       ckpt->num_tensors, expected);
    return QUIRE_OK;
}

quire_status qr_gguf_read_file(qr_checkpoint *ckpt, const char *path, quire_error *error)
{
    ckpt->is_gguf = true;
    qr_map map;
    QR_TRY(qr_map_open(path, &map, error));
    quire_status status = qr_checkpoint_add_map(ckpt, &map, error);
    if (status != QUIRE_OK) {
        qr_map_close(&map);
        return status;
    }
    QR_TRY(read_part(&map, path, ckpt, ckpt, error));
    int64_t num_parts = meta_int_or(ckpt, "split.count", 1);
    if (num_parts < 0 || num_parts > QR_MAX_FILES)
        return qr_fail(error, QUIRE_FORMAT, "%s: metadata 'split.count' is %" PRId64, path, num_parts);
    return num_parts > 1 ? read_other_parts(ckpt, path, num_parts, error) : QUIRE_OK;
}

quire_status qr_gguf_read_memory(qr_checkpoint *ckpt, const uint8_t *data, size_t bytes, quire_error *error)
{
    ckpt->is_gguf = true;
    qr_map map = {.data = data, .bytes = bytes, .borrowed = true};
    QR_TRY(qr_checkpoint_add_map(ckpt, &map, error));
    return read_part(&map, ckpt->path, ckpt, ckpt, error);
}
