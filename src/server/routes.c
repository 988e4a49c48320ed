#include "server/routes.h"

#include <string.h>

bool qr_routes_serves_model(const qr_server *server, const char *name)
{
    const qr_server_options *options = &server->options;
    for (int i = 0; i < options->num_served_model_names; i++)
        if (strcmp(name, options->served_model_names[i]) == 0) return true;
    if (options->num_served_model_names) return false;
    return strcmp(name, server->model_name) == 0 || (options->model_path && strcmp(name, options->model_path) == 0);
}

static void emit_model(const qr_server *server, const char *name, qr_emit *out)
{
    qr_emit_raw(out, "{\"id\":");
    qr_emit_string(out, name, strlen(name));
    qr_emit_printf(
        out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"quire\",\"root\":", (long long)server->created);
    const char *root = server->options.model_path ? server->options.model_path : server->model_name;
    qr_emit_string(out, root, strlen(root));
    qr_emit_printf(out, ",\"parent\":null,\"max_model_len\":%d,\"permission\":[]}", server->max_model_len);
}

static void answer_models(qr_call *call, const char *path)
{
    (void)path;
    const qr_server *server = call->server;
    qr_emit_raw(&call->answer, "{\"object\":\"list\",\"data\":[");
    int count = server->options.num_served_model_names;
    for (int i = 0; i < count || i == 0; i++) {
        if (i) qr_emit_raw(&call->answer, ",");
        emit_model(server, count ? server->options.served_model_names[i] : server->model_name, &call->answer);
    }
    qr_emit_raw(&call->answer, "]}");
    call->http_status = 200;
}

static void answer_model(qr_call *call, const char *path)
{
    const char *name = path + strlen(call->route->path);
    if (qr_routes_serves_model(call->server, name)) {
        emit_model(call->server, name, &call->answer);
        call->http_status = 200;
        return;
    }
    quire_error error;
    (void)qr_fail(&error, QUIRE_NOT_FOUND, "The model `%.256s` does not exist.", name);
    qr_call_fail(call, 404, error.message, "model");
}

static void answer_health(qr_call *call, const char *path)
{
    (void)path;
    if (call->server->draining)
        qr_call_fail(call, 503, "the server is shutting down", NULL);
    else
        call->http_status = 200;
}

static void answer_version(qr_call *call, const char *path)
{
    (void)path;
    qr_emit_printf(&call->answer, "{\"version\":\"%s\"}", quire_version());
    call->http_status = 200;
}

static void answer_load(qr_call *call, const char *path)
{
    (void)path;
    quire_stats stats;
    quire_engine_get_stats(call->server->options.engine, &stats);
    qr_emit_printf(&call->answer, "{\"server_load\":%d}", stats.num_requests_running + stats.num_requests_waiting);
    call->http_status = 200;
}

static void answer_reset_prefix_cache(qr_call *call, const char *path)
{
    (void)path;
    quire_engine_reset_prefix_cache(call->server->options.engine);
    call->http_status = 200;
}

static const qr_route routes[] = {
    {"/v1/chat/completions", "POST", true, QR_API_CHAT, NULL},
    {"/v1/completions", "POST", true, QR_API_COMPLETION, NULL},
    {"/v1/models", "GET", true, 0, answer_models},
    {"/v1/models/", "GET", true, 0, answer_model},
    {"/tokenize", "POST", true, QR_API_TOKENIZE, NULL},
    {"/detokenize", "POST", true, QR_API_DETOKENIZE, NULL},
    {"/health", "GET", false, 0, answer_health},
    {"/ping", "GET", false, 0, answer_health},
    {"/version", "GET", false, 0, answer_version},
    {"/load", "GET", false, 0, answer_load},
    {"/metrics", "GET", false, 0, qr_metrics_answer},
    {"/reset_prefix_cache", "POST", true, 0, answer_reset_prefix_cache},
};

static bool path_matches(const qr_route *route, const char *path)
{
    size_t bytes = strlen(route->path);
    if (route->path[bytes - 1] != '/') return strcmp(route->path, path) == 0;
    return strncmp(route->path, path, bytes) == 0 && path[bytes] != '\0';
}

const qr_route *qr_routes_find(const char *path, const char *method, const char **out_allow)
{
    *out_allow = NULL;
    if (strcmp(method, "HEAD") == 0) method = "GET";
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (!path_matches(&routes[i], path)) continue;
        if (strcmp(routes[i].method, method) == 0) return &routes[i];
        *out_allow = strcmp(routes[i].method, "GET") == 0 ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
    }
    return NULL;
}
