#define _GNU_SOURCE
#include "cli/http.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* ---- where ------------------------------------------------------------------------------------ */

quire_status qr_http_resolve(const char *url, qr_http_target *out, quire_error *error)
{
    memset(out, 0, sizeof *out);
    if (strncmp(url, "https://", 8) == 0)
        return qr_fail(error, QUIRE_INVALID, "%s: https is not supported here; use http://", url);
    const char *at = strncmp(url, "http://", 7) == 0 ? url + 7 : url;
    bool bracket = *at == '[';
    at += bracket;
    size_t host_bytes = strcspn(at, bracket ? "]" : ":/");
    const char *rest = at + host_bytes + (bracket && at[host_bytes] == ']');
    const char *port = *rest == ':' ? rest + 1 : "80";
    size_t port_bytes = strspn(port, "0123456789");
    const char *path = *rest == ':' ? port + port_bytes : rest;
    size_t path_bytes = strlen(path);
    while (path_bytes > 0 && path[path_bytes - 1] == '/') path_bytes--;
    if (host_bytes == 0 || host_bytes >= sizeof out->host || port_bytes == 0 || port_bytes >= sizeof out->port ||
        (path_bytes > 0 && *path != '/') || path_bytes >= sizeof out->base_path)
        return qr_fail(error, QUIRE_INVALID, "%s: not an address such as http://127.0.0.1:8000", url);
    memcpy(out->host, at, host_bytes);
    memcpy(out->port, port, port_bytes);
    memcpy(out->base_path, path, path_bytes);

    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int failed = getaddrinfo(out->host, out->port, &hints, &found);
    if (failed) return qr_fail(error, QUIRE_NOT_FOUND, "%s: %s", out->host, gai_strerror(failed));
    memcpy(&out->address, found->ai_addr, found->ai_addrlen);
    out->address_bytes = found->ai_addrlen;
    freeaddrinfo(found);
    return QUIRE_OK;
}

int qr_http_connect(const qr_http_target *target)
{
    int fd = socket(target->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) return -1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (const struct sockaddr *)&target->address, target->address_bytes) == 0 || errno == EINPROGRESS)
        return fd;
    int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

int qr_http_write_request(const qr_http_target *target, const char *path, const char *api_key, const char *body,
                          size_t body_bytes, qr_buf *out)
{
    bool bracket = strchr(target->host, ':') != NULL;
    if (qr_buf_printf(out, "%s %s%s HTTP/1.1\r\nHost: %s%s%s:%s\r\nConnection: close\r\nAccept: */*\r\n",
                      body ? "POST" : "GET", target->base_path, path, bracket ? "[" : "", target->host,
                      bracket ? "]" : "", target->port) != 0)
        return -1;
    if (api_key && qr_buf_printf(out, "Authorization: Bearer %s\r\n", api_key) != 0) return -1;
    if (body && qr_buf_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body_bytes) != 0)
        return -1;
    if (qr_buf_append(out, "\r\n", 2) != 0) return -1;
    return body ? qr_buf_append(out, body, body_bytes) : 0;
}

/* ---- answers ---------------------------------------------------------------------------------- */

void qr_http_parser_init(qr_http_parser *parser, void (*on_body)(void *user, const char *data, size_t bytes),
                         void *user)
{
    parser->state = QR_HTTP_STATUS;
    parser->status = 0;
    parser->remaining = 0;
    parser->chunked = parser->has_length = false;
    parser->line_bytes = 0;
    parser->on_body = on_body;
    parser->user = user;
}

/* Headers are over: what kind of body follows? */
static void begin_body(qr_http_parser *parser)
{
    if (parser->status / 100 == 1) { /* an interim answer; the real one follows */
        parser->state = QR_HTTP_STATUS;
        parser->chunked = parser->has_length = false;
    } else if (parser->chunked) {
        parser->state = QR_HTTP_CHUNK_SIZE;
    } else if (parser->has_length) {
        parser->state = parser->remaining ? QR_HTTP_LENGTH : QR_HTTP_DONE;
    } else {
        parser->state = parser->status == 204 ? QR_HTTP_DONE : QR_HTTP_UNTIL_END;
    }
}

static quire_status take_header(qr_http_parser *parser, const char *line)
{
    const char *colon = strchr(line, ':');
    if (!colon) return QUIRE_FORMAT;
    const char *value = colon + 1 + strspn(colon + 1, " \t");
    size_t name_bytes = (size_t)(colon - line);
    if (name_bytes == 14 && strncasecmp(line, "content-length", 14) == 0) {
        char *end;
        errno = 0;
        parser->remaining = strtoull(value, &end, 10);
        if (*value < '0' || *value > '9' || errno || end[strspn(end, " \t")]) return QUIRE_FORMAT;
        parser->has_length = true;
    } else if (name_bytes == 17 && strncasecmp(line, "transfer-encoding", 17) == 0) {
        parser->chunked = strcasestr(value, "chunked") != NULL;
    }
    return QUIRE_OK;
}

/* One whole line of the answer's frame, without its end. */
static quire_status take_line(qr_http_parser *parser, const char *line)
{
    char *end;
    switch (parser->state) {
    case QR_HTTP_STATUS:
        if (strncmp(line, "HTTP/1.", 7) != 0 || strlen(line) < 12) return QUIRE_FORMAT;
        parser->status = atoi(line + 9);
        parser->state = QR_HTTP_HEADERS;
        return parser->status >= 100 && parser->status <= 999 ? QUIRE_OK : QUIRE_FORMAT;
    case QR_HTTP_HEADERS:
        if (*line) return take_header(parser, line);
        begin_body(parser);
        return QUIRE_OK;
    case QR_HTTP_CHUNK_SIZE:
        errno = 0;
        parser->remaining = strtoull(line, &end, 16);
        if (end == line || errno || strchr("-+ ", *line) || (*end && !strchr("; \t", *end))) return QUIRE_FORMAT;
        parser->state = parser->remaining ? QR_HTTP_CHUNK_DATA : QR_HTTP_TRAILERS;
        return QUIRE_OK;
    case QR_HTTP_CHUNK_END: parser->state = QR_HTTP_CHUNK_SIZE; return *line ? QUIRE_FORMAT : QUIRE_OK;
    default: /* trailers */
        if (!*line) parser->state = QR_HTTP_DONE;
        return QUIRE_OK;
    }
}

quire_status qr_http_feed(qr_http_parser *parser, const char *data, size_t bytes)
{
    while (bytes > 0 && parser->state != QR_HTTP_DONE) {
        bool in_body = parser->state == QR_HTTP_LENGTH || parser->state == QR_HTTP_CHUNK_DATA;
        if (in_body || parser->state == QR_HTTP_UNTIL_END) {
            size_t n = in_body && parser->remaining < bytes ? (size_t)parser->remaining : bytes;
            if (parser->on_body) parser->on_body(parser->user, data, n);
            data += n;
            bytes -= n;
            if (!in_body || (parser->remaining -= n) > 0) continue;
            parser->state = parser->state == QR_HTTP_LENGTH ? QR_HTTP_DONE : QR_HTTP_CHUNK_END;
            continue;
        }
        char c = *data++;
        bytes--;
        if (c != '\n') {
            if (parser->line_bytes + 1 >= sizeof parser->line || c == '\0') return QUIRE_FORMAT;
            parser->line[parser->line_bytes++] = c;
            continue;
        }
        if (parser->line_bytes > 0 && parser->line[parser->line_bytes - 1] == '\r') parser->line_bytes--;
        parser->line[parser->line_bytes] = '\0';
        parser->line_bytes = 0;
        QR_TRY(take_line(parser, parser->line));
    }
    return QUIRE_OK;
}

quire_status qr_http_end(qr_http_parser *parser)
{
    if (parser->state == QR_HTTP_UNTIL_END) parser->state = QR_HTTP_DONE;
    return parser->state == QR_HTTP_DONE ? QUIRE_OK : QUIRE_FORMAT;
}

void qr_sse_feed(qr_sse_parser *parser, const char *data, size_t bytes)
{
    while (bytes > 0) {
        const char *end = memchr(data, '\n', bytes);
        size_t n = end ? (size_t)(end - data) : bytes;
        if (qr_buf_append(&parser->line, data, n) != 0) parser->failed = true;
        data += n + (end != NULL);
        bytes -= n + (end != NULL);
        if (!end) return;
        qr_buf *line = &parser->line;
        if (line->len > 0 && line->data[line->len - 1] == '\r') line->data[--line->len] = '\0';
        if (line->len >= 5 && memcmp(line->data, "data:", 5) == 0) {
            size_t skip = 5 + (line->data[5] == ' ');
            parser->on_data(parser->user, line->data + skip, line->len - skip);
        }
        line->len = 0;
    }
}

void qr_sse_deinit(qr_sse_parser *parser)
{
    qr_free(parser->line.data);
    parser->line = (qr_buf){0};
}
