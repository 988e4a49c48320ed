/* The listening socket (call.h). */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "server/call.h"

enum { BACKLOG = 1024, SEND_BUFFER_BYTES = 256 * 1024 };

static int open_socket(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address->ai_protocol);
    if (fd < 0) return -1;
    int on = 1, send_bytes = SEND_BUFFER_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    /* inherited by connections: bounds what the kernel holds for a client that does not read */
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static int port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    char port[16];
    if (getsockname(fd, (struct sockaddr *)&address, &bytes) != 0 ||
        getnameinfo((struct sockaddr *)&address, bytes, NULL, 0, port, sizeof port, NI_NUMERICSERV) != 0)
        return 0;
    int value = 0;
    sscanf(port, "%d", &value);
    return value;
}

quire_status qr_server_listen(const char *host, int port, int *out_fd, int *out_port, quire_error *error)
{
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *addresses;
    int rc = getaddrinfo(host, service, &hints, &addresses);
    if (rc != 0) {
        (void)qr_fail_param(error, "host", "cannot listen on %s: %s", host, gai_strerror(rc));
        return QUIRE_IO;
    }
    int fd = -1;
    for (struct addrinfo *a = addresses; a && fd < 0; a = a->ai_next) fd = open_socket(a);
    int saved = errno;
    freeaddrinfo(addresses);
    if (fd < 0) {
        (void)qr_fail_param(error, saved == EADDRINUSE || saved == EACCES ? "port" : "host",
                            "cannot listen on %s port %d: %s", host, port, strerror(saved));
        return QUIRE_IO;
    }
    *out_fd = fd;
    *out_port = port_of(fd);
    return QUIRE_OK;
}

void qr_server_raise_nofile(int num_connections)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)num_connections + 256;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < wanted)
        qr_log(QR_LOG_WARN, "server: %d connections wanted, but only %llu files may be open (ulimit -n)",
               num_connections, (unsigned long long)(limit.rlim_cur > before ? limit.rlim_cur : before));
}
