/* Which file or folder a name means, and opening it. */
#include <dirent.h>
#include <errno.h>
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

/* What a folder holds. */
typedef struct listing {
    qr_buf gguf; /* path of the first GGUF model found; later parts of a split one do not count */
    int num_ggufs;
    qr_buf safetensors; /* name: "model.safetensors", else the first found */
    int num_safetensors;
    bool has_index, has_config;
} listing;

static bool is_later_part(const char *name)
{
    qr_split_name split;
    return qr_split_name_parse(name, &split) && split.part > 1;
}

/* 0 ok, -1 no memory */
static int note_file(listing *files, const char *dir, const char *name)
{
    if (strcmp(name, "model.safetensors.index.json") == 0) files->has_index = true;
    if (strcmp(name, "config.json") == 0 || strcmp(name, "tokenizer.json") == 0 ||
        strcmp(name, "tokenizer_config.json") == 0)
        files->has_config = true;
    if (ends_with(name, ".gguf") && !is_later_part(name) && files->num_ggufs++ == 0)
        return qr_buf_printf(&files->gguf, "%s/%s", dir, name);
    if (ends_with(name, ".safetensors") && (files->num_safetensors++ == 0 || strcmp(name, "model.safetensors") == 0)) {
        files->safetensors.len = 0;
        return qr_buf_printf(&files->safetensors, "%s", name);
    }
    return 0;
}

static quire_status list_folder(const char *path, listing *out, quire_error *error)
{
    *out = (listing){0};
    DIR *dir = opendir(path);
    if (!dir) return qr_fail(error, QUIRE_IO, "%s: cannot read the folder: %s", path, strerror(errno));
    int rc = 0;
    for (const struct dirent *entry; rc == 0 && (entry = readdir(dir));) rc = note_file(out, path, entry->d_name);
    closedir(dir);
    return rc == 0 ? QUIRE_OK : qr_fail_nomem(error, "a file name", strlen(path));
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

static quire_status open_safetensors(const char *path, const listing *files, qr_checkpoint **out, quire_error *error)
{
    const char *only_file = files->safetensors.data;
    if (!files->has_index && files->num_safetensors > 1 && strcmp(only_file, "model.safetensors") != 0)
        return qr_fail(error, QUIRE_FORMAT, "%s: %d safetensors files, but no model.safetensors.index.json", path,
                       files->num_safetensors);
    qr_checkpoint *ckpt;
    QR_TRY(qr_checkpoint_create(path, &ckpt, error));
    quire_status status = qr_safetensors_read_folder(ckpt, only_file, error);
    if (status == QUIRE_OK)
        *out = ckpt;
    else
        qr_checkpoint_close(ckpt);
    return status;
}

/* Safetensors win over a GGUF beside them; a GGUF wins over a mere config.json. */
static quire_status open_listed(const char *path, const listing *files, qr_checkpoint **out, quire_error *error)
{
    bool has_weights = files->num_safetensors > 0 || files->has_index;
    if (has_weights || (files->num_ggufs == 0 && files->has_config)) return open_safetensors(path, files, out, error);
    if (files->num_ggufs == 1) return open_gguf(files->gguf.data, out, error);
    if (files->num_ggufs > 1)
        return qr_fail(error, QUIRE_INVALID, "%s: the folder holds %d GGUF models; name one, for example %s", path,
                       files->num_ggufs, files->gguf.data);
    return qr_fail(error, QUIRE_FORMAT, "%s: the folder holds no model: neither a GGUF file nor config.json", path);
}

static quire_status open_folder(const char *path, qr_checkpoint **out, quire_error *error)
{
    listing files;
    quire_status status = list_folder(path, &files, error);
    if (status == QUIRE_OK) status = open_listed(path, &files, out, error);
    qr_free(files.gguf.data);
    qr_free(files.safetensors.data);
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
