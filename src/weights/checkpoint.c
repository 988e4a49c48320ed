#include "weights/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "weights/checkpoint_impl.h"

qr_quoted qr_quote(const char *bytes, size_t num_bytes)
{
    enum { MAX_SHOWN = 100 };
    qr_quoted out;
    size_t n = num_bytes < MAX_SHOWN ? num_bytes : MAX_SHOWN;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        out.text[i] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    memcpy(out.text + n, num_bytes > MAX_SHOWN ? "..." : "", num_bytes > MAX_SHOWN ? 4 : 1);
    return out;
}

quire_status qr_checkpoint_create(const char *path, qr_checkpoint **out, quire_error *error)
{
    qr_checkpoint *ckpt = qr_calloc(1, sizeof *ckpt);
    char *copy = qr_strdup(path);
    if (!ckpt || !copy) {
        qr_free(ckpt);
        qr_free(copy);
        return qr_fail_nomem(error, "a checkpoint", sizeof *ckpt);
    }
    ckpt->path = copy;
    pthread_mutex_init(&ckpt->lock, NULL);
    *out = ckpt;
    return QUIRE_OK;
}

void qr_checkpoint_close(qr_checkpoint *ckpt)
{
    if (!ckpt) return;
    for (int i = 0; i < ckpt->num_tensors; i++) qr_free((void *)(uintptr_t)ckpt->tensors[i].name);
    for (int i = 0; i < ckpt->num_meta; i++) {
        qr_free(ckpt->meta[i].key);
        qr_free(ckpt->meta[i].offsets);
    }
    qr_folder_deinit(ckpt);
    for (int i = 0; i < ckpt->num_maps; i++) qr_map_close(&ckpt->maps[i]);
    qr_name_map_deinit(&ckpt->tensor_index);
    qr_name_map_deinit(&ckpt->meta_index);
    pthread_mutex_destroy(&ckpt->lock);
    qr_free(ckpt->tensors);
    qr_free(ckpt->meta);
    qr_free(ckpt->maps);
    qr_free(ckpt->path);
    qr_free(ckpt);
}

/* ---- building */

quire_status qr_checkpoint_add_map(qr_checkpoint *ckpt, const qr_map *map, quire_error *error)
{
    size_t bytes = ((size_t)ckpt->num_maps + 1) * sizeof *ckpt->maps;
    qr_map *maps = qr_realloc(ckpt->maps, bytes);
    if (!maps) return qr_fail_nomem(error, "the list of files", bytes);
    ckpt->maps = maps;
    maps[ckpt->num_maps++] = *map;
    return QUIRE_OK;
}

quire_status qr_checkpoint_reserve_tensors(qr_checkpoint *ckpt, uint64_t num, quire_error *error)
{
    uint64_t total = (uint64_t)ckpt->num_tensors + num;
    if (num > QR_MAX_TENSORS || total > QR_MAX_TENSORS)
        return qr_fail(error, QUIRE_UNSUPPORTED, "%s: more than %d tensors", ckpt->path, (int)QR_MAX_TENSORS);
    size_t bytes = (size_t)total * sizeof *ckpt->tensors;
    qr_tensor_view *tensors = qr_realloc(ckpt->tensors, bytes);
    if (!tensors) return qr_fail_nomem(error, "the list of tensors", bytes);
    ckpt->tensors = tensors;
    if (qr_name_map_reserve(&ckpt->tensor_index, (size_t)num) != 0)
        return qr_fail_nomem(error, "the index of tensors", bytes);
    return QUIRE_OK;
}

/* Bytes of a tensor from its shape; 0 when a dimension is below 1, the product overflows or blocks do not fit. */
static uint64_t shape_bytes(const qr_tensor_view *t)
{
    int64_t num_values = 1;
    for (int i = 0; i < QR_MAX_DIMS; i++)
        if (t->dims[i] < 1 || __builtin_mul_overflow(num_values, t->dims[i], &num_values)) return 0;
    if (t->dims[0] % qr_dtype_block_len(t->dtype) != 0) return 0;
    int64_t bytes;
    if (__builtin_mul_overflow(num_values / qr_dtype_block_len(t->dtype), qr_dtype_block_bytes(t->dtype), &bytes))
        return 0;
    return (uint64_t)bytes;
}

quire_status qr_checkpoint_add_tensor(qr_checkpoint *ckpt, const char *file, const char *name, size_t name_bytes,
                                      const qr_tensor_view *t, const uint8_t *section, uint64_t section_bytes,
                                      uint64_t offset, quire_error *error)
{
    qr_quoted shown = qr_quote(name, name_bytes);
    if (name_bytes == 0 || name_bytes > QR_MAX_NAME_BYTES || memchr(name, 0, name_bytes))
        return qr_fail(error, QUIRE_FORMAT, "%s: tensor %d ('%s'): its name is empty, overlong or holds a NUL", file,
                       ckpt->num_tensors, shown.text);
    uint64_t bytes = shape_bytes(t);
    if (bytes == 0)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: tensor '%s': no %s tensor can have the dimensions %" PRId64 " x %" PRId64 " x %" PRId64
                       " x %" PRId64 " (blocks of %d values)",
                       file, shown.text, qr_dtype_name(t->dtype), t->dims[0], t->dims[1], t->dims[2], t->dims[3],
                       qr_dtype_block_len(t->dtype));
    if (offset > section_bytes || bytes > section_bytes - offset)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: tensor '%s' (%s): %" PRIu64 " bytes at offset %" PRIu64
                       " of the data section, which has %" PRIu64 ": the file is truncated or damaged; fetch it again",
                       file, shown.text, qr_dtype_name(t->dtype), bytes, offset, section_bytes);
    char *copy = qr_strndup(name, name_bytes);
    if (!copy) return qr_fail_nomem(error, "a tensor name", name_bytes + 1);
    if (!qr_name_map_add(&ckpt->tensor_index, copy, ckpt->num_tensors)) {
        qr_free(copy);
        return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s' occurs twice", file, shown.text);
    }
    qr_tensor_view *view = &ckpt->tensors[ckpt->num_tensors++];
    *view = *t;
    view->name = copy;
    view->data = section + offset;
    view->bytes = (size_t)bytes;
    return QUIRE_OK;
}

/* ---- reading */

bool qr_checkpoint_is_gguf(const qr_checkpoint *ckpt) { return ckpt->is_gguf; }
const char *qr_checkpoint_path(const qr_checkpoint *ckpt) { return ckpt->path; }
int qr_checkpoint_num_tensors(const qr_checkpoint *ckpt) { return ckpt->num_tensors; }

const qr_tensor_view *qr_checkpoint_tensor(const qr_checkpoint *ckpt, int idx)
{
    return idx >= 0 && idx < ckpt->num_tensors ? &ckpt->tensors[idx] : NULL;
}

const qr_tensor_view *qr_checkpoint_find(const qr_checkpoint *ckpt, const char *name)
{
    int idx = qr_name_map_find(&ckpt->tensor_index, name);
    return idx >= 0 ? &ckpt->tensors[idx] : NULL;
}
