/* Which file or folder a name means, and opening it. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "weights/checkpoint_impl.h"

static bool is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

static bool ends_with(const char *s, const char *suffix)
{
    size_t len = strlen(s), suffix_len = strlen(suffix);
    return len >= suffix_len && strcmp(s + len - suffix_len, suffix) == 0;
}

/* What a folder holds: *gguf is the one GGUF model in it (the first part of a split one), heap-allocated. */
typedef struct listing {
    char *gguf;
    int num_ggufs;
    bool has_checkpoint; /* config.json, a tokenizer or safetensors */
} listing;

/* "-00002-of-00003.gguf" and later parts */
static bool is_later_part(const char *name)
{
    size_t len = strlen(name);
    int part, num_parts;
    return len > 20 && sscanf(name + len - 20, "-%5d-of-%5d.gguf", &part, &num_parts) == 2 && part > 1;
}

static quire_status list_folder(const char *path, listing *out, quire_error *error)
{
    *out = (listing){0};
    DIR *dir = opendir(path);
    if (!dir) return qr_fail(error, QUIRE_IO, "%s: cannot read the folder", path);
    for (const struct dirent *entry; (entry = readdir(dir));) {
        const char *name = entry->d_name;
        if (ends_with(name, ".safetensors") || strcmp(name, "config.json") == 0 ||
            strcmp(name, "tokenizer.json") == 0 || strcmp(name, "tokenizer_config.json") == 0)
            out->has_checkpoint = true;
        if (!ends_with(name, ".gguf") || is_later_part(name)) continue;
        out->num_ggufs++;
        if (out->gguf) continue;
        qr_buf full = {0};
        if (qr_buf_printf(&full, "%s/%s", path, name) != 0) {
            closedir(dir);
            return qr_fail_nomem(error, "a file name", strlen(path) + strlen(name));
        }
        out->gguf = full.data;
    }
    closedir(dir);
    return QUIRE_OK;
}

static quire_status open_gguf(const char *path, qr_checkpoint **out, quire_error *error)
{
    qr_checkpoint *ckpt;
    QR_TRY(qr_checkpoint_create(path, &ckpt, error));
    quire_status status = qr_gguf_read_file(ckpt, path, error);
    if (status == QUIRE_OK)
        *out = ckpt;
    else
        qr_checkpoint_close(ckpt);
    return status;
}

static quire_status open_folder(const char *path, qr_checkpoint **out, quire_error *error)
{
    listing files;
    quire_status status = list_folder(path, &files, error);
    if (status != QUIRE_OK)
        ;
    else if (files.has_checkpoint)
        status = qr_fail(error, QUIRE_UNSUPPORTED, "%s: safetensors", path);
    else if (files.num_ggufs == 1)
        status = open_gguf(files.gguf, out, error);
    else if (files.num_ggufs > 1)
        status = qr_fail(error, QUIRE_INVALID, "%s: the folder holds %d GGUF files; name one, for example %s", path,
                         files.num_ggufs, files.gguf);
    else
        status =
            qr_fail(error, QUIRE_FORMAT, "%s: the folder holds no model: neither a GGUF file nor config.json", path);
    qr_free(files.gguf);
    return status;
}

static quire_status open_path(const char *path, qr_checkpoint **out, quire_error *error)
{
    if (is_dir(path)) return open_folder(path, out, error);
    if (ends_with(path, ".safetensors") || ends_with(path, ".json"))
        return qr_fail(error, QUIRE_INVALID, "%s: give the folder that holds this file", path);
    return open_gguf(path, out, error);
}

/* A pulled model: "owner/name", or "owner/name:file" for one file of it. */
static quire_status open_pulled(const char *name, qr_checkpoint **out, quire_error *error)
{
    char *dir = quire_model_dir();
    qr_buf path = {0};
    if (!dir || qr_buf_printf(&path, "%s/%s", dir, name) != 0) {
        qr_free(dir);
        return qr_fail_nomem(error, "a file name", strlen(name));
    }
    char *colon = strchr(path.data + strlen(dir), ':');
    if (colon && !exists(path.data)) *colon = '/';
    quire_status status =
        exists(path.data)
            ? open_path(path.data, out, error)
            : qr_fail(error, QUIRE_NOT_FOUND,
                      "%s: no such file or folder, and no pulled model of that name in %s (see `quire pull`)", name,
                      dir);
    qr_free(dir);
    qr_free(path.data);
    return status;
}

quire_status qr_checkpoint_open(const char *path, qr_checkpoint **out, quire_error *error)
{
    if (exists(path) || path[0] == '/' || path[0] == '\0') return open_path(path, out, error);
    return open_pulled(path, out, error);
}
