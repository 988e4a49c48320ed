#include "weights/http.h"

#define CURL_DISABLE_DEPRECATION /* CURLOPT_PROTOCOLS: its successor is unknown to libcurl before 7.85 */
#include <curl/curl.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The functions of libcurl that are used, without their prefix: lib.easy_init is curl_easy_init. */
#define CURL_FUNCTIONS(XX) \
    XX(global_init)        \
    XX(easy_init)          \
    XX(easy_cleanup)       \
    XX(easy_reset)         \
    XX(easy_setopt)        \
    XX(easy_perform)       \
    XX(easy_getinfo)       \
    XX(easy_strerror)      \
    XX(slist_append)       \
    XX(slist_free_all)     \
    XX(url)                \
    XX(url_set)            \
    XX(url_get)            \
    XX(url_cleanup)        \
    XX(free)

static struct {
    const char *problem; /* NULL: loaded */
#define XX(name) __typeof__(curl_##name) *name;
    CURL_FUNCTIONS(XX)
#undef XX
} lib;
static pthread_once_t lib_once = PTHREAD_ONCE_INIT;

static void load_lib(void)
{
    void *handle = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!handle) handle = dlopen("libcurl-gnutls.so.4", RTLD_NOW | RTLD_LOCAL);
    lib.problem = handle ? NULL : "libcurl.so.4 is not installed (Debian: apt-get install libcurl4)";
    if (!handle) return;
    void *symbol;
#define XX(name)                               \
    symbol = dlsym(handle, "curl_" #name);     \
    memcpy(&lib.name, &symbol, sizeof symbol); \
    if (!symbol) lib.problem = "the installed libcurl is too old: it lacks curl_" #name;
    CURL_FUNCTIONS(XX)
#undef XX
    if (!lib.problem && lib.global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) lib.problem = "libcurl does not start";
}

enum { MAX_REDIRECTS = 10 };

struct qr_http {
    CURL *curl;
    struct curl_slist *headers; /* the token's, or NULL */
    char detail[CURL_ERROR_SIZE];
};

quire_status qr_http_create(const char *token, qr_http **out, quire_error *error)
{
    pthread_once(&lib_once, load_lib);
    if (lib.problem) return qr_fail(error, QUIRE_UNSUPPORTED, "downloads need libcurl: %s", lib.problem);
    qr_http *http = qr_calloc(1, sizeof *http);
    if (!http) return qr_fail_nomem(error, "a connection", sizeof *http);
    http->curl = lib.easy_init();
    qr_buf line = {0};
    bool ok = http->curl != NULL;
    if (ok && token && *token) {
        ok = qr_buf_printf(&line, "Authorization: Bearer %s", token) == 0 &&
             (http->headers = lib.slist_append(NULL, line.data)) != NULL;
    }
    qr_free(line.data);
    if (!ok) {
        qr_http_destroy(http);
        return qr_fail_nomem(error, "a connection", sizeof *http);
    }
    *out = http;
    return QUIRE_OK;
}

void qr_http_destroy(qr_http *http)
{
    if (!http) return;
    if (http->curl) lib.easy_cleanup(http->curl);
    lib.slist_free_all(http->headers);
    qr_free(http);
}

static bool is_https(const char *url) { return strncasecmp(url, "https:", 6) == 0; }

/* What HEAD and GET share. libcurl itself keeps the Authorization header from other hosts. */
static void set_common(qr_http *http, const char *url)
{
    CURL *curl = http->curl;
    lib.easy_reset(curl);
    http->detail[0] = '\0';
    lib.easy_setopt(curl, CURLOPT_URL, url);
    lib.easy_setopt(curl, CURLOPT_ERRORBUFFER, http->detail);
    lib.easy_setopt(curl, CURLOPT_USERAGENT, "quire/" QUIRE_VERSION);
    lib.easy_setopt(curl, CURLOPT_HTTPHEADER, http->headers);
    lib.easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    lib.easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 30L);
    lib.easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    lib.easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, 60L);
    lib.easy_setopt(curl, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
    lib.easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS,
                    is_https(url) ? (long)CURLPROTO_HTTPS : (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
}

static quire_status perform(qr_http *http, const char *url, qr_http_reply *reply, quire_error *error)
{
    CURLcode code = lib.easy_perform(http->curl);
    lib.easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &reply->status);
    switch (code) {
    case CURLE_OK: return QUIRE_OK;
    case CURLE_ABORTED_BY_CALLBACK:
    case CURLE_WRITE_ERROR: return qr_fail(error, QUIRE_ABORTED, "%s: the download was stopped", url);
    case CURLE_RANGE_ERROR: reply->cannot_resume = reply->retry = true; break;
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM: reply->retry = true; break;
    default: break;
    }
    return qr_fail(error, QUIRE_IO, "%s: %s", url, http->detail[0] ? http->detail : lib.easy_strerror(code));
}

/* ---- HEAD */

typedef struct head_state {
    qr_http_reply *reply;
    bool has_linked_etag;
    int64_t linked_size_bytes;
} head_state;

/* The value when the line is that header, trimmed; else NULL. */
static const char *header_value(const char *line, size_t bytes, const char *name, size_t *value_bytes)
{
    size_t name_bytes = strlen(name);
    if (bytes <= name_bytes || strncasecmp(line, name, name_bytes) != 0 || line[name_bytes] != ':') return NULL;
    const char *value = line + name_bytes + 1, *end = line + bytes;
    while (value < end && (*value == ' ' || *value == '\t')) value++;
    while (end > value && strchr(" \t\r\n", end[-1])) end--;
    *value_bytes = (size_t)(end - value);
    return value;
}

static void copy_etag(const char *value, size_t bytes, char *out, size_t out_bytes)
{
    if (bytes >= 2 && memcmp(value, "W/", 2) == 0) value += 2, bytes -= 2;
    if (bytes >= 2 && value[0] == '"' && value[bytes - 1] == '"') value++, bytes -= 2;
    if (bytes >= out_bytes) bytes = 0; /* none that could be a checksum */
    memcpy(out, value, bytes);
    out[bytes] = '\0';
}

static size_t on_header(char *line, size_t size, size_t count, void *raw)
{
    head_state *head = raw;
    size_t bytes = size * count, value_bytes;
    const char *value;
    if ((value = header_value(line, bytes, "X-Linked-ETag", &value_bytes))) {
        copy_etag(value, value_bytes, head->reply->etag, sizeof head->reply->etag);
        head->has_linked_etag = true;
    } else if (!head->has_linked_etag && (value = header_value(line, bytes, "ETag", &value_bytes))) {
        copy_etag(value, value_bytes, head->reply->etag, sizeof head->reply->etag);
    } else if ((value = header_value(line, bytes, "X-Linked-Size", &value_bytes))) {
        char digits[24] = {0};
        memcpy(digits, value, value_bytes < sizeof digits ? value_bytes : 0);
        head->linked_size_bytes = strtoll(digits, NULL, 10);
    }
    return bytes;
}

/* Scheme, host and port of two URLs are the same. */
static bool same_origin(const char *a, const char *b)
{
    static const CURLUPart parts[] = {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT};
    CURLU *x = lib.url(), *y = lib.url();
    bool same =
        x && y && lib.url_set(x, CURLUPART_URL, a, 0) == CURLUE_OK && lib.url_set(y, CURLUPART_URL, b, 0) == CURLUE_OK;
    for (size_t i = 0; same && i < sizeof parts / sizeof *parts; i++) {
        char *p = NULL, *q = NULL;
        same = lib.url_get(x, parts[i], &p, CURLU_DEFAULT_PORT) == CURLUE_OK &&
               lib.url_get(y, parts[i], &q, CURLU_DEFAULT_PORT) == CURLUE_OK && strcasecmp(p, q) == 0;
        lib.free(p);
        lib.free(q);
    }
    lib.url_cleanup(x);
    lib.url_cleanup(y);
    return same;
}

/* One HEAD without following; *next is the redirect's target when it lies on the same host, else NULL. */
static quire_status head_once(qr_http *http, const char *url, qr_http_reply *reply, char **next, quire_error *error)
{
    *reply = (qr_http_reply){.size_bytes = -1};
    head_state head = {.reply = reply, .linked_size_bytes = -1};
    set_common(http, url);
    lib.easy_setopt(http->curl, CURLOPT_NOBODY, 1L);
    lib.easy_setopt(http->curl, CURLOPT_HEADERFUNCTION, on_header);
    lib.easy_setopt(http->curl, CURLOPT_HEADERDATA, &head);
    QR_TRY(perform(http, url, reply, error));

    curl_off_t length = -1;
    char *target = NULL;
    lib.easy_getinfo(http->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    lib.easy_getinfo(http->curl, CURLINFO_REDIRECT_URL, &target);
    reply->size_bytes = head.linked_size_bytes >= 0 ? head.linked_size_bytes : target ? -1 : (int64_t)length;
    if (target && !head.has_linked_etag && same_origin(url, target)) {
        *next = qr_strdup(target);
        if (!*next) return qr_fail_nomem(error, "a redirect", strlen(target));
    }
    return QUIRE_OK;
}

quire_status qr_http_head(qr_http *http, const char *url, qr_http_reply *reply, quire_error *error)
{
    char *current = NULL;
    quire_status status = QUIRE_OK;
    for (int i = 0; i <= MAX_REDIRECTS; i++) {
        char *next = NULL;
        status = head_once(http, current ? current : url, reply, &next, error);
        qr_free(current);
        current = next;
        if (status != QUIRE_OK || !next) break;
    }
    if (status == QUIRE_OK && current) status = qr_fail(error, QUIRE_IO, "%s: too many redirects", url);
    qr_free(current);
    return status;
}

/* ---- GET */

typedef struct get_state {
    qr_http *http;
    const qr_http_sink *sink;
} get_state;

static size_t on_body(char *data, size_t size, size_t count, void *raw)
{
    const get_state *get = raw;
    long status = 0;
    lib.easy_getinfo(get->http->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200 && status != 206) return size * count;
    return get->sink->write(get->sink->user, data, size * count) ? size * count : 0;
}

static int on_progress(void *raw, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up_now)
{
    const get_state *get = raw;
    (void)total, (void)now, (void)up_total, (void)up_now;
    return get->sink->progress && !get->sink->progress(get->sink->user);
}

quire_status qr_http_get(qr_http *http, const char *url, const qr_http_sink *sink, qr_http_reply *reply,
                         quire_error *error)
{
    *reply = (qr_http_reply){.size_bytes = -1};
    get_state get = {http, sink};
    CURL *curl = http->curl;
    set_common(http, url);
    lib.easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    lib.easy_setopt(curl, CURLOPT_MAXREDIRS, (long)MAX_REDIRECTS);
    lib.easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    lib.easy_setopt(curl, CURLOPT_WRITEDATA, &get);
    lib.easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    lib.easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    lib.easy_setopt(curl, CURLOPT_XFERINFODATA, &get);
    if (sink->offset_bytes > 0) lib.easy_setopt(curl, CURLOPT_RESUME_FROM_LARGE, (curl_off_t)sink->offset_bytes);
    return perform(http, url, reply, error);
}

typedef struct memory_sink {
    qr_buf *body;
    size_t max_bytes;
} memory_sink;

static bool write_memory(void *raw, const void *data, size_t bytes)
{
    const memory_sink *m = raw;
    return bytes <= m->max_bytes - m->body->len && qr_buf_append(m->body, data, bytes) == 0;
}

quire_status qr_http_get_memory(qr_http *http, const char *url, size_t max_bytes, qr_buf *body, qr_http_reply *reply,
                                quire_error *error)
{
    memory_sink memory = {body, max_bytes};
    qr_http_sink sink = {.write = write_memory, .user = &memory};
    quire_status status = qr_http_get(http, url, &sink, reply, error);
    if (status == QUIRE_ABORTED)
        return qr_fail(error, QUIRE_NOMEM, "%s: the reply is larger than %zu bytes, or memory is short", url,
                       max_bytes);
    return status;
}
