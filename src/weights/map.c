#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights/checkpoint_impl.h"

quire_status qr_map_open(const char *path, qr_map *out, quire_error *error)
{
    /* not to wait for the writer of a pipe of that name */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return qr_fail(error, errno == ENOENT ? QUIRE_NOT_FOUND : QUIRE_IO, "%s: cannot open: %s", path,
                       strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return qr_fail(error, QUIRE_IO, "%s: not a regular file", path);
    }
    void *data = NULL;
    if (st.st_size > 0) data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int saved = errno;
    close(fd);
    if (data == MAP_FAILED)
        return qr_fail(error, saved == ENOMEM ? QUIRE_NOMEM : QUIRE_IO, "%s: cannot map %lld bytes: %s", path,
                       (long long)st.st_size, strerror(saved));
    *out = (qr_map){.data = data, .bytes = (size_t)st.st_size};
    return QUIRE_OK;
}

void qr_map_close(qr_map *map)
{
    if (map->bytes > 0 && !map->borrowed) munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (qr_map){0};
}
