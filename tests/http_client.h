/* http_client: the least HTTP that a test of the server needs, over raw sockets, so that it can misbehave. */
#ifndef QR_TESTS_HTTP_CLIENT_H
#define QR_TESTS_HTTP_CLIENT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"

typedef struct http_answer {
    int status;
    bool complete;   /* the whole body arrived */
    char head[4096]; /* status line and headers */
    char *body;      /* NUL-terminated, chunks joined; free() */
    size_t body_bytes;
} http_answer;

static int http_connect(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        if (fd >= 0) close(fd);
        return -1;
    }
    return fd;
}

static bool http_send(int fd, const char *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);
        if (n <= 0) return false;
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

/* "METHOD path" with a JSON body, or none when body is NULL; `headers` are whole lines with CRLF. */
static bool http_request(int fd, const char *method, const char *path, const char *headers, const char *body)
{
    qr_buf out = {0};
    int rc = qr_buf_printf(&out, "%s %s HTTP/1.1\r\nHost: x\r\n%s", method, path, headers);
    if (body) rc |= qr_buf_printf(&out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
    rc |= qr_buf_append(&out, "\r\n", 2);
    if (body) rc |= qr_buf_append(&out, body, strlen(body));
    bool ok = rc == 0 && http_send(fd, out.data, out.len);
    qr_free(out.data);
    return ok;
}

/* One byte within timeout_ms; -1: none, or the end. */
static int http_byte(int fd, char *buf, size_t *at, size_t *len, int timeout_ms)
{
    if (*at == *len) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, timeout_ms) <= 0) return -1;
        ssize_t n = recv(fd, buf, 8192, 0);
        if (n <= 0) return -1;
        *at = 0;
        *len = (size_t)n;
    }
    return (unsigned char)buf[(*at)++];
}

static const char *http_header(const http_answer *answer, const char *name)
{
    size_t bytes = strlen(name);
    for (const char *line = strstr(answer->head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, bytes) == 0 && line[2 + bytes] == ':') return line + 2 + bytes + 2;
    return NULL;
}

/* Read one answer; status 0 when none came. The body of a HEAD must not be waited for. */
static http_answer http_read(int fd, bool is_head, int timeout_ms)
{
    static char buf[8192];
    size_t at = 0, len = 0, head_bytes = 0;
    http_answer answer = {0};
    qr_buf body = {0};
    int c;
    do { /* "100 Continue" comes before the real one */
        memset(answer.head, 0, head_bytes);
        head_bytes = 0;
        while (head_bytes + 1 < sizeof answer.head && (c = http_byte(fd, buf, &at, &len, timeout_ms)) >= 0) {
            answer.head[head_bytes++] = (char)c;
            if (head_bytes >= 4 && memcmp(answer.head + head_bytes - 4, "\r\n\r\n", 4) == 0) break;
        }
    } while (sscanf(answer.head, "HTTP/1.1 %d", &answer.status) == 1 && answer.status == 100);
    const char *length = http_header(&answer, "Content-Length"), *chunked = http_header(&answer, "Transfer-Encoding");
    size_t left = length ? strtoul(length, NULL, 10) : 0;
    while (!is_head && (left || chunked)) {
        if (left == 0) {
            char line[32] = "";
            size_t n = 0;
            while (n < 31 && (c = http_byte(fd, buf, &at, &len, timeout_ms)) >= 0 && c != '\n') line[n++] = (char)c;
            if (c < 0 || n == 0) break;
            left = strtoul(line, NULL, 16);
            if (left == 0) {
                chunked = NULL;
                (void)http_byte(fd, buf, &at, &len, timeout_ms), (void)http_byte(fd, buf, &at, &len, timeout_ms);
                break;
            }
            if (left) left += 2; /* CRLF behind the chunk */
        }
        while (left && (c = http_byte(fd, buf, &at, &len, timeout_ms)) >= 0) {
            left--;
            char byte = (char)c;
            if ((!chunked || left >= 2) && qr_buf_append(&body, &byte, 1) != 0) abort();
        }
        if (left) break;
    }
    answer.complete = answer.status && left == 0 && !chunked;
    if (qr_buf_append(&body, "", 0) != 0) abort();
    answer.body = body.data;
    answer.body_bytes = body.len;
    return answer;
}

/* The whole exchange on a connection of its own. */
static http_answer http_call(int port, const char *method, const char *path, const char *headers, const char *body)
{
    http_answer answer = {0};
    int fd = http_connect(port);
    if (fd >= 0 && http_request(fd, method, path, headers, body))
        answer = http_read(fd, strcmp(method, "HEAD") == 0, 10000);
    if (!answer.body) answer.body = qr_strdup("");
    if (fd >= 0) close(fd);
    return answer;
}

#endif
