/* Finding and loading libquire-cuda.so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cuda/cuda_backend.h"

#define LIBRARY_NAME "libquire-cuda.so"

enum { PATH_BYTES = 4096 };

/* `relative` to the program's folder; "" when that is unknown or too long. */
static void beside_program(const char *relative, char out[PATH_BYTES])
{
    char program[PATH_BYTES];
    ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    out[0] = '\0';
    if (len <= 0) return;
    program[len] = '\0';
    char *slash = strrchr(program, '/');
    if (!slash) return;
    size_t folder = (size_t)(slash + 1 - program);
    if (folder + strlen(relative) >= PATH_BYTES) return;
    memcpy(out, program, folder);
    strcpy(out + folder, relative);
}

static void *load(const char *path, const char **problem)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) *problem = dlerror();
    return handle;
}

/* One that is there but does not load ends the search: its reason is the one to tell. */
static void *find(const char **problem)
{
    static const char *const places[] = {LIBRARY_NAME, "../lib/" LIBRARY_NAME};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char path[PATH_BYTES];
        beside_program(places[i], path);
        if (path[0] && access(path, F_OK) == 0) return load(path, problem);
    }
    return load(LIBRARY_NAME, problem);
}

quire_status qr_cuda_library_open(const char *path, const qr_cuda_api **out, quire_error *error)
{
    const char *problem = "";
    if (!path) path = getenv("QUIRE_CUDA_LIBRARY");
    void *handle = path && path[0] ? load(path, &problem) : find(&problem);
    if (!handle)
        return qr_fail(error, QUIRE_DEVICE,
                       "no CUDA: %s (`make cuda` builds " LIBRARY_NAME "; it lies beside the program)", problem);
    qr_cuda_api_fn api;
    void *symbol = dlsym(handle, QR_CUDA_SYMBOL);
    memcpy(&api, &symbol, sizeof api);
    if (!symbol || api()->version != QR_CUDA_VERSION) {
        dlclose(handle);
        return qr_fail(error, QUIRE_DEVICE, "no CUDA: %s is of another version of quire", path ? path : LIBRARY_NAME);
    }
    *out = api();
    return QUIRE_OK;
}
