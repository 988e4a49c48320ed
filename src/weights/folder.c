/* JSON and text files of a checkpoint folder, read on first use. */
#include <string.h>

#include "weights/checkpoint_impl.h"

enum { MAX_TEXT_BYTES = 1 << 30 };

quire_status qr_json_parse(const char *text, size_t bytes, size_t flags, const char *path, json_t **out,
                           quire_error *error)
{
    json_error_t detail = {0}; /* jansson leaves it empty on some failures to get memory */
    json_t *json = json_loadb(text, bytes, flags, &detail);
    if (!json && (detail.text[0] == '\0' || json_error_code(&detail) == json_error_out_of_memory))
        return qr_fail_nomem(error, "parsed JSON", bytes);
    if (!json)
        return qr_fail(error, QUIRE_FORMAT, "%s: line %d, column %d: %s", path, detail.line, detail.column,
                       qr_quote(detail.text, strlen(detail.text)).text);
    *out = json;
    return QUIRE_OK;
}

static quire_status parse_file(const char *path, const qr_map *map, bool as_json, qr_file *file, quire_error *error)
{
    if (map->bytes > MAX_TEXT_BYTES) return qr_fail(error, QUIRE_UNSUPPORTED, "%s: larger than 1 GiB", path);
    const char *text = map->bytes > 0 ? (const char *)map->data : "";
    if (as_json) return qr_json_parse(text, map->bytes, JSON_ALLOW_NUL, path, &file->json, error);
    if (qr_buf_append(&file->text, text, map->bytes) != 0) return qr_fail_nomem(error, path, map->bytes);
    return QUIRE_OK;
}

static quire_status load_file(qr_checkpoint *ckpt, const char *name, bool as_json, qr_file *file, quire_error *error)
{
    qr_buf path = {0};
    file->name = qr_strdup(name);
    if (!file->name || qr_buf_printf(&path, "%s/%s", ckpt->path, name) != 0)
        return qr_fail_nomem(error, "a file name", strlen(name));
    qr_map map;
    quire_status status = qr_map_open(path.data, &map, error);
    if (status == QUIRE_OK) {
        status = parse_file(path.data, &map, as_json, file, error);
        qr_map_close(&map);
    }
    qr_free(path.data);
    return status;
}

static void free_file(qr_file *file)
{
    qr_free(file->name);
    qr_free(file->text.data);
    json_decref(file->json);
}

void qr_folder_deinit(qr_checkpoint *ckpt)
{
    for (int i = 0; i < ckpt->num_files; i++) free_file(&ckpt->files[i]);
    qr_free(ckpt->files);
}

/* Under the lock. *out NULL: the file does not exist. */
static quire_status find_file(qr_checkpoint *ckpt, const char *name, bool as_json, const qr_file **out,
                              quire_error *error)
{
    *out = NULL;
    for (int i = 0; i < ckpt->num_files; i++) {
        const qr_file *file = &ckpt->files[i];
        if ((file->json != NULL) != as_json || strcmp(file->name, name) != 0) continue;
        *out = file;
        return QUIRE_OK;
    }
    size_t bytes = ((size_t)ckpt->num_files + 1) * sizeof *ckpt->files;
    qr_file *files = qr_realloc(ckpt->files, bytes);
    if (!files) return qr_fail_nomem(error, "the list of files", bytes);
    ckpt->files = files;

    qr_file *file = &files[ckpt->num_files];
    *file = (qr_file){0};
    quire_status status = load_file(ckpt, name, as_json, file, error);
    if (status == QUIRE_OK) {
        ckpt->num_files++;
        *out = file;
    } else {
        free_file(file);
    }
    return status == QUIRE_NOT_FOUND ? QUIRE_OK : status;
}

/* The cache is the one part of an open checkpoint that changes, behind its lock. */
static quire_status cached_file(const qr_checkpoint *ckpt, const char *name, bool as_json, qr_file *out,
                                quire_error *error)
{
    *out = (qr_file){0};
    if (ckpt->is_gguf) return QUIRE_OK;
    qr_checkpoint *mutable = (qr_checkpoint *)(uintptr_t)ckpt;
    const qr_file *file;
    pthread_mutex_lock(&mutable->lock);
    quire_status status = find_file(mutable, name, as_json, &file, error);
    if (file) *out = *file;
    pthread_mutex_unlock(&mutable->lock);
    return status;
}

quire_status qr_checkpoint_json(const qr_checkpoint *ckpt, const char *name, const json_t **out, quire_error *error)
{
    qr_file file;
    QR_TRY(cached_file(ckpt, name, true, &file, error));
    *out = file.json;
    return QUIRE_OK;
}

quire_status qr_checkpoint_text(const qr_checkpoint *ckpt, const char *name, const char **out, size_t *out_bytes,
                                quire_error *error)
{
    qr_file file;
    QR_TRY(cached_file(ckpt, name, false, &file, error));
    *out = file.text.data;
    *out_bytes = file.text.len;
    return QUIRE_OK;
}
