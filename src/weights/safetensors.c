/* safetensors: one file, or the shards that model.safetensors.index.json names.
 *
 *   header_bytes (u64) │ header: JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} │ data
 *
 * The tensors of a file fill its data section without gaps or overlaps. Shapes are reversed, so that dims[0] is the
 * contiguous dimension as in GGUF.  Source: huggingface/safetensors, README.md. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "weights/checkpoint_impl.h"

enum { MAX_HEADER_BYTES = 100 * 1000 * 1000 };

typedef struct range {
    uint64_t begin, end;
    const char *name;
} range;

/* One file while it is read. */
typedef struct st_file {
    const char *path; /* for messages */
    const uint8_t *section;
    uint64_t section_bytes;
    range *ranges; /* [num_ranges] where each tensor's data lies */
    size_t num_ranges;
} st_file;

static bool dtype_of(const char *name, qr_dtype *out)
{
    static const qr_dtype known[] = {QR_F32, QR_F16, QR_BF16, QR_I8, QR_I32, QR_I64, QR_F8_E4M3};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, qr_dtype_name(known[i])) != 0) continue;
        *out = known[i];
        return true;
    }
    return false;
}

/* Masks and tables that older transformers versions saved; they are no weights and may be of any type. */
static bool is_known_buffer(const char *name)
{
    static const char *const suffixes[] = {"attn.bias",    "attn.masked_bias",      "attention.bias",
                                           "position_ids", "attention.masked_bias", "rotary_emb.inv_freq"};
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t suffix_len = strlen(suffixes[i]);
        if (len >= suffix_len && strcmp(name + len - suffix_len, suffixes[i]) == 0) return true;
    }
    return false;
}

static bool non_negative(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* Shape [N, K] becomes dims {K, N, 1, 1}. */
static bool read_shape(const json_t *shape, qr_tensor_view *view)
{
    size_t num_dims = json_array_size(shape);
    if (!json_is_array(shape) || num_dims > QR_MAX_DIMS) return false;
    *view = (qr_tensor_view){.num_dims = (int)num_dims, .dims = {1, 1, 1, 1}};
    for (size_t i = 0; i < num_dims; i++) {
        uint64_t dim;
        if (!non_negative(json_array_get(shape, num_dims - 1 - i), &dim)) return false;
        view->dims[i] = (int64_t)dim;
    }
    return true;
}

static quire_status read_tensor(st_file *file, const char *name, const json_t *entry, qr_checkpoint *ckpt,
                                quire_error *error)
{
    qr_quoted shown = qr_quote(name, strlen(name));
    const char *dtype_name = json_string_value(json_object_get(entry, "dtype"));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    qr_tensor_view view;
    range r = {.name = name};
    if (!dtype_name || json_array_size(offsets) != 2 || !non_negative(json_array_get(offsets, 0), &r.begin) ||
        !non_negative(json_array_get(offsets, 1), &r.end))
        return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s': its header entry needs dtype, shape and data_offsets",
                       file->path, shown.text);
    if (r.begin > r.end || r.end > file->section_bytes)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: tensor '%s': data_offsets %" PRIu64 " to %" PRIu64
                       " are not inside the data section of %" PRIu64
                       " bytes: the file is truncated or damaged; fetch it again",
                       file->path, shown.text, r.begin, r.end, file->section_bytes);
    file->ranges[file->num_ranges++] = r;
    qr_dtype dtype;
    const bool known = dtype_of(dtype_name, &dtype);
    if ((!known || dtype >= QR_NUM_DTYPES) && is_known_buffer(name)) return QUIRE_OK;
    if (!known)
        return qr_fail(error, QUIRE_UNSUPPORTED,
                       "%s: tensor '%s' has type %s, which is not supported; F32, F16 and BF16 are, and I8, I32 and "
                       "F8_E4M3 of quantized linears",
                       file->path, shown.text, qr_quote(dtype_name, strlen(dtype_name)).text);
    if (!read_shape(json_object_get(entry, "shape"), &view))
        return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s': its shape is not a list of at most %d sizes", file->path,
                       shown.text, QR_MAX_DIMS);
    view.dtype = dtype;
    QR_TRY(qr_checkpoint_add_tensor(ckpt, file->path, name, strlen(name), &view, file->section, file->section_bytes,
                                    r.begin, error));
    uint64_t bytes = ckpt->tensors[ckpt->num_tensors - 1].bytes;
    if (bytes != r.end - r.begin)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: tensor '%s': its shape needs %" PRIu64 " bytes, but data_offsets span %" PRIu64, file->path,
                       shown.text, bytes, r.end - r.begin);
    return QUIRE_OK;
}

static int compare_ranges(const void *a, const void *b)
{
    const range *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static quire_status check_ranges(st_file *file, quire_error *error)
{
    qsort(file->ranges, file->num_ranges, sizeof *file->ranges, compare_ranges);
    uint64_t end = 0;
    for (size_t i = 0; i < file->num_ranges; i++) {
        const range *r = &file->ranges[i];
        if (r->begin != end)
            return qr_fail(error, QUIRE_FORMAT,
                           "%s: tensor '%s' begins at %" PRIu64 ", but the data before it ends at %" PRIu64, file->path,
                           qr_quote(r->name, strlen(r->name)).text, r->begin, end);
        end = r->end;
    }
    if (end != file->section_bytes)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: the tensors end at byte %" PRIu64 " of the data section, which has %" PRIu64, file->path,
                       end, file->section_bytes);
    return QUIRE_OK;
}

static quire_status read_header(st_file *file, json_t *header, qr_checkpoint *ckpt, quire_error *error)
{
    if (!json_is_object(header)) return qr_fail(error, QUIRE_FORMAT, "%s: the header is not a JSON object", file->path);
    size_t num = json_object_size(header);
    QR_TRY(qr_checkpoint_reserve_tensors(ckpt, num, error));
    file->ranges = qr_malloc(num * sizeof *file->ranges);
    if (!file->ranges) return qr_fail_nomem(error, "the tensor list", num * sizeof *file->ranges);
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") != 0) QR_TRY(read_tensor(file, name, entry, ckpt, error));
    }
    return check_ranges(file, error);
}

static quire_status read_file(qr_checkpoint *ckpt, const qr_map *map, const char *path, quire_error *error)
{
    uint64_t header_bytes = 0;
    if (map->bytes >= sizeof header_bytes) memcpy(&header_bytes, map->data, sizeof header_bytes);
    if (header_bytes == 0 || header_bytes > MAX_HEADER_BYTES || header_bytes > map->bytes - sizeof header_bytes)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: a header of %" PRIu64 " bytes in a file of %zu: not a safetensors file, or it is truncated",
                       path, header_bytes, map->bytes);
    json_t *header;
    QR_TRY(qr_json_parse((const char *)map->data + sizeof header_bytes, (size_t)header_bytes, JSON_REJECT_DUPLICATES,
                         path, &header, error));
    st_file file = {.path = path,
                    .section = map->data + sizeof header_bytes + header_bytes,
                    .section_bytes = map->bytes - sizeof header_bytes - header_bytes};
    quire_status status = read_header(&file, header, ckpt, error);
    qr_free(file.ranges);
    json_decref(header);
    return status;
}

quire_status qr_safetensors_read_memory(qr_checkpoint *ckpt, const uint8_t *data, size_t bytes, quire_error *error)
{
    qr_map map = {.data = data, .bytes = bytes, .borrowed = true};
    QR_TRY(qr_checkpoint_add_map(ckpt, &map, error));
    return read_file(ckpt, &map, ckpt->path, error);
}

/* Read `name` in the checkpoint's folder. */
static quire_status read_shard(qr_checkpoint *ckpt, const char *name, quire_error *error)
{
    qr_buf path = {0};
    if (qr_buf_printf(&path, "%s/%s", ckpt->path, name) != 0) return qr_fail_nomem(error, "a file name", strlen(name));
    qr_map map;
    quire_status status = qr_map_open(path.data, &map, error);
    if (status == QUIRE_OK) {
        status = qr_checkpoint_add_map(ckpt, &map, error);
        if (status == QUIRE_OK)
            status = read_file(ckpt, &map, path.data, error);
        else
            qr_map_close(&map);
    }
    qr_free(path.data);
    return status;
}

/* ---- sharded checkpoints */

static const char INDEX_FILE[] = "model.safetensors.index.json";

/* Every tensor of the index must have come out of the shards. */
static quire_status check_index(const qr_checkpoint *ckpt, json_t *weight_map, quire_error *error)
{
    const char *name;
    json_t *shard;
    json_object_foreach(weight_map, name, shard)
    {
        if (!qr_checkpoint_find(ckpt, name) && !is_known_buffer(name))
            return qr_fail(error, QUIRE_FORMAT, "%s/%s: tensor '%s' is not in any shard", ckpt->path, INDEX_FILE,
                           qr_quote(name, strlen(name)).text);
    }
    return QUIRE_OK;
}

static quire_status read_shards(qr_checkpoint *ckpt, json_t *weight_map, qr_name_map *seen, quire_error *error)
{
    const char *name;
    json_t *value;
    json_object_foreach(weight_map, name, value)
    {
        const char *shard = json_string_value(value);
        if (!shard || !*shard || shard[0] == '.' || strchr(shard, '/'))
            return qr_fail(error, QUIRE_FORMAT, "%s/%s: tensor '%s': its file must be the name of a file in the folder",
                           ckpt->path, INDEX_FILE, qr_quote(name, strlen(name)).text);
        if (qr_name_map_reserve(seen, 1) != 0) return qr_fail_nomem(error, "the list of shards", 0);
        if (!qr_name_map_add(seen, shard, 0)) continue;
        if (seen->num_used > QR_MAX_FILES)
            return qr_fail(error, QUIRE_UNSUPPORTED, "%s: more than %d shards", ckpt->path, (int)QR_MAX_FILES);
        QR_TRY(read_shard(ckpt, shard, error));
    }
    return check_index(ckpt, weight_map, error);
}

quire_status qr_safetensors_read_folder(qr_checkpoint *ckpt, const char *only_file, quire_error *error)
{
    const json_t *index;
    QR_TRY(qr_checkpoint_json(ckpt, INDEX_FILE, &index, error));
    if (!index) return only_file ? read_shard(ckpt, only_file, error) : QUIRE_OK;
    json_t *weight_map = json_object_get(index, "weight_map");
    if (!json_is_object(weight_map))
        return qr_fail(error, QUIRE_FORMAT, "%s/%s: no \"weight_map\" object", ckpt->path, INDEX_FILE);
    qr_name_map seen = {0};
    quire_status status = read_shards(ckpt, weight_map, &seen, error);
    qr_name_map_deinit(&seen);
    return status;
}
