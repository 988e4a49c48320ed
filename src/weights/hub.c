/* quire_pull: which files of a hub's repository make a model, and fetching them.
 *
 *   GET {endpoint}/api/models/{repo}/revision/{revision}     siblings: the files; sha: the commit they belong to
 *   GET {endpoint}/{repo}/resolve/{sha}/{file}
 *
 * Source: huggingface_hub, hf_api.py and file_download.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/checkpoint_impl.h"
#include "weights/download.h"

enum { MAX_LISTING_BYTES = 64 << 20, MAX_NAME_BYTES = 1024 };

static const char DEFAULT_ENDPOINT[] = "https://huggingface.co";

/* One pull while it runs. */
typedef struct pull {
    const quire_pull_options *options;
    const char *endpoint;
    size_t endpoint_bytes; /* without trailing slashes */
    qr_http *http;
    json_t *listing;
    const char *revision; /* the commit where the hub names it */
    const char **files;   /* [num_files] chosen, in the order of fetching; owned by listing */
    size_t num_files;
    bool is_folder; /* the model is the folder, not files[0] */
    qr_buf folder;  /* where they go */
} pull;

void quire_pull_options_init(quire_pull_options *options) { *options = (quire_pull_options){0}; }

/* ---- names */

static bool ends_with(const char *s, const char *suffix)
{
    size_t len = strlen(s), suffix_len = strlen(suffix);
    return len >= suffix_len && strcmp(s + len - suffix_len, suffix) == 0;
}

/* A relative path of plain components: what may become a path below a folder of ours. */
static bool is_safe_path(const char *path)
{
    if (!*path || strlen(path) > MAX_NAME_BYTES) return false;
    for (const char *p = path; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f || *p == '\\') return false;
    for (const char *p = path;; p++) {
        size_t len = strcspn(p, "/");
        if (len == 0 || (len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.')) return false;
        p += len;
        if (!*p) return true;
    }
}

/* "owner/name" or "name", of the hub's characters */
static bool is_repo_name(const char *repo)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./";
    const char *slash = strchr(repo, '/');
    return is_safe_path(repo) && repo[strspn(repo, allowed)] == '\0' && (!slash || !strchr(slash + 1, '/'));
}

/* Percent-encode; 0 ok, -1 no memory. Slashes stay when keep_slashes. */
static int append_encoded(qr_buf *url, const char *s, bool keep_slashes)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~";
    for (; *s; s++) {
        bool as_is = strchr(plain, *s) || (keep_slashes && *s == '/');
        int rc = as_is ? qr_buf_append(url, s, 1) : qr_buf_printf(url, "%%%02X", (unsigned char)*s);
        if (rc != 0) return -1;
    }
    return 0;
}

/* ---- the listing */

static quire_status fetch_listing(pull *p, const char *revision, quire_error *error)
{
    qr_buf url = {0}, body = {0};
    qr_http_reply reply;
    quire_status status;
    if (qr_buf_printf(&url, "%.*s/api/models/%s/revision/", (int)p->endpoint_bytes, p->endpoint, p->options->repo) !=
            0 ||
        append_encoded(&url, revision, false) != 0)
        status = qr_fail_nomem(error, "a URL", url.len);
    else
        status = qr_http_get_memory(p->http, url.data, MAX_LISTING_BYTES, &body, &reply, error);
    if (status == QUIRE_OK) status = qr_download_check_reply(&reply, url.data, error);
    if (status == QUIRE_OK)
        status = qr_json_parse(body.data ? body.data : "", body.len, 0, url.data, &p->listing, error);
    qr_free(url.data);
    qr_free(body.data);
    QR_TRY(status);

    const char *sha = json_string_value(json_object_get(p->listing, "sha"));
    p->revision = sha && *sha ? sha : revision;
    if (!json_is_array(json_object_get(p->listing, "siblings")))
        return qr_fail(error, QUIRE_FORMAT, "%s: the hub's answer lists no files", p->options->repo);
    return QUIRE_OK;
}

static size_t num_siblings(const pull *p) { return json_array_size(json_object_get(p->listing, "siblings")); }

/* NULL when the entry has no name */
static const char *sibling(const pull *p, size_t idx)
{
    const json_t *entry = json_array_get(json_object_get(p->listing, "siblings"), idx);
    return json_string_value(json_object_get(entry, "rfilename"));
}

static const char *find_sibling(const pull *p, const char *name, size_t name_bytes)
{
    for (size_t i = 0; i < num_siblings(p); i++) {
        const char *s = sibling(p, i);
        if (s && strlen(s) == name_bytes && memcmp(s, name, name_bytes) == 0) return s;
    }
    return NULL;
}

/* ---- choosing */

/* A GGUF that is a model by itself: the first part of a split one, no projector of another model. */
static bool is_gguf_model(const char *name)
{
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
    qr_split_name split;
    return ends_with(name, ".gguf") && strncmp(base, "mmproj", 6) != 0 &&
           (!qr_split_name_parse(name, &split) || split.part == 1);
}

/* What a safetensors checkpoint consists of; files in folders are other formats' or other precisions'. */
static bool is_checkpoint_file(const char *name, bool has_standard_weights)
{
    if (strchr(name, '/')) return false;
    if (ends_with(name, ".safetensors")) return !has_standard_weights || strncmp(name, "model", 5) == 0;
    return ends_with(name, ".json") || ends_with(name, ".jinja") || strcmp(name, "merges.txt") == 0;
}

/* The GGUF files of the repository, for messages. */
static quire_status fail_listing_ggufs(const pull *p, quire_status status, const char *problem, quire_error *error)
{
    qr_buf names = {0};
    for (size_t i = 0; i < num_siblings(p) && names.len < 300; i++) {
        const char *name = sibling(p, i);
        if (name && is_gguf_model(name)) (void)qr_buf_printf(&names, " %s", qr_quote(name, strlen(name)).text);
    }
    status = qr_fail(error, status, "%s: %s; GGUF files there:%s", p->options->repo, problem,
                     names.len ? names.data : " none");
    qr_free(names.data);
    return status;
}

static quire_status choose_file(pull *p, const char *wanted, quire_error *error)
{
    qr_split_name split;
    if (!qr_split_name_parse(wanted, &split)) split = (qr_split_name){.part = 1, .num_parts = 1};
    for (int part = 1; part <= split.num_parts; part++) {
        char *name = split.num_parts == 1 ? qr_strdup(wanted) : qr_split_name_part(wanted, &split, part);
        if (!name) return qr_fail_nomem(error, "a file name", strlen(wanted));
        const char *found = find_sibling(p, name, strlen(name));
        qr_free(name);
        if (!found) return fail_listing_ggufs(p, QUIRE_NOT_FOUND, "no such file in the repository", error);
        if (p->num_files == num_siblings(p)) return qr_fail(error, QUIRE_FORMAT, "%s: too many parts", wanted);
        p->files[p->num_files++] = found;
    }
    return QUIRE_OK;
}

static quire_status choose_checkpoint(pull *p, quire_error *error)
{
    bool has_standard_weights = false;
    size_t num_weights = 0;
    for (size_t i = 0; i < num_siblings(p); i++) {
        const char *name = sibling(p, i);
        if (!name || strchr(name, '/') || !ends_with(name, ".safetensors")) continue;
        num_weights++;
        has_standard_weights |= strncmp(name, "model", 5) == 0;
    }
    if (num_weights == 0)
        return fail_listing_ggufs(p, QUIRE_INVALID, "neither one GGUF file nor a safetensors checkpoint; name a file",
                                  error);
    p->is_folder = true;
    for (size_t i = 0; i < num_siblings(p); i++) {
        const char *name = sibling(p, i);
        if (name && is_checkpoint_file(name, has_standard_weights)) p->files[p->num_files++] = name;
    }
    return QUIRE_OK;
}

static quire_status choose_files(pull *p, quire_error *error)
{
    p->files = qr_calloc(num_siblings(p), sizeof *p->files);
    if (!p->files) return qr_fail_nomem(error, "a list of files", num_siblings(p) * sizeof *p->files);
    if (p->options->file) return choose_file(p, p->options->file, error);
    const char *gguf = NULL;
    int num_ggufs = 0;
    for (size_t i = 0; i < num_siblings(p); i++) {
        const char *name = sibling(p, i);
        if (!name || !is_gguf_model(name)) continue;
        gguf = name;
        num_ggufs++;
    }
    return num_ggufs == 1 ? choose_file(p, gguf, error) : choose_checkpoint(p, error);
}

/* ---- fetching */

static quire_status fetch_file(pull *p, const char *name, quire_error *error)
{
    if (!is_safe_path(name))
        return qr_fail(error, QUIRE_FORMAT, "%s: refused: the hub names a file '%s'", p->options->repo,
                       qr_quote(name, strlen(name)).text);
    qr_buf url = {0}, path = {0};
    quire_status status;
    if (qr_buf_printf(&url, "%.*s/%s/resolve/", (int)p->endpoint_bytes, p->endpoint, p->options->repo) != 0 ||
        append_encoded(&url, p->revision, false) != 0 || qr_buf_append(&url, "/", 1) != 0 ||
        append_encoded(&url, name, true) != 0 || qr_buf_printf(&path, "%s/%s", p->folder.data, name) != 0) {
        status = qr_fail_nomem(error, "a URL", url.len);
    } else {
        qr_download download = {.url = url.data,
                                .name = name,
                                .path = path.data,
                                .on_progress = p->options->on_progress,
                                .user = p->options->user};
        status = qr_download_run(p->http, &download, error);
    }
    qr_free(url.data);
    qr_free(path.data);
    return status;
}

static quire_status set_folder(pull *p, quire_error *error)
{
    int rc;
    if (p->options->dest_dir) {
        rc = qr_buf_printf(&p->folder, "%s%s", p->options->dest_dir[0] == '/' ? "" : "./", p->options->dest_dir);
    } else {
        char *models = quire_model_dir();
        rc = models ? qr_buf_printf(&p->folder, "%s/%s", models, p->options->repo) : -1;
        quire_free(models);
    }
    return rc == 0 ? QUIRE_OK : qr_fail_nomem(error, "a file name", 0);
}

static quire_status check_options(pull *p, const char *token, quire_error *error)
{
    const quire_pull_options *o = p->options;
    if (!o->repo || !is_repo_name(o->repo))
        return qr_fail_param(error, "repo", "repo: expected OWNER/NAME, got '%s'",
                             o->repo ? qr_quote(o->repo, strlen(o->repo)).text : "");
    if (o->file && !is_safe_path(o->file))
        return qr_fail_param(error, "file", "file: not the name of a file in a repository: '%s'",
                             qr_quote(o->file, strlen(o->file)).text);
    if (o->dest_dir && !*o->dest_dir) return qr_fail_param(error, "dest_dir", "dest_dir: empty");
    for (const char *t = token ? token : ""; *t; t++)
        if (*t <= 0x20 || *t > 0x7e) return qr_fail_param(error, "token", "token: holds a character that no token has");
    p->endpoint_bytes = strlen(p->endpoint);
    while (p->endpoint_bytes > 0 && p->endpoint[p->endpoint_bytes - 1] == '/') p->endpoint_bytes--;
    if (strncmp(p->endpoint, "https://", 8) != 0 && strncmp(p->endpoint, "http://", 7) != 0)
        return qr_fail_param(error, "endpoint", "endpoint: expected an http or https URL, got '%s'",
                             qr_quote(p->endpoint, strlen(p->endpoint)).text);
    return QUIRE_OK;
}

static quire_status run(pull *p, char **out_path, quire_error *error)
{
    const quire_pull_options *o = p->options;
    const char *token = o->token ? o->token : getenv("HF_TOKEN"), *revision = o->revision ? o->revision : "main";
    QR_TRY(check_options(p, token, error));
    QR_TRY(qr_http_create(token, &p->http, error));
    QR_TRY(fetch_listing(p, revision, error));
    QR_TRY(choose_files(p, error));
    QR_TRY(set_folder(p, error));
    for (size_t i = 0; i < p->num_files; i++) QR_TRY(fetch_file(p, p->files[i], error));

    qr_buf path = {0};
    if (qr_buf_printf(&path, p->is_folder ? "%s" : "%s/%s", p->folder.data, p->files[0]) != 0)
        return qr_fail_nomem(error, "a file name", p->folder.len);
    *out_path = path.data;
    return QUIRE_OK;
}

quire_status quire_pull(const quire_pull_options *options, char **out_path, quire_error *error)
{
    const char *env = getenv("HF_ENDPOINT");
    pull p = {.options = options,
              .endpoint = options->endpoint ? options->endpoint
                          : env && *env     ? env
                                            : DEFAULT_ENDPOINT};
    quire_status status = run(&p, out_path, error);
    qr_http_destroy(p.http);
    json_decref(p.listing);
    qr_free(p.files);
    qr_free(p.folder.data);
    return status;
}
