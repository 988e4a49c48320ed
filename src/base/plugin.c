#define _GNU_SOURCE
#include "base/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { NUM_PLACES = 3 };

/* Places to look at, as path prefixes, relative to the object that this function is in. */
static void *open_library(const char *library)
{
    static const char *const places[NUM_PLACES] = {"/", "/../lib/", NULL};
    char path[PATH_MAX] = "";
    Dl_info here;
    int dir_bytes = 0;
    if (dladdr((void *)(size_t)open_library, &here) && strchr(here.dli_fname, '/')) {
        dir_bytes = (int)(strrchr(here.dli_fname, '/') - here.dli_fname);
        snprintf(path, sizeof path, "%s", here.dli_fname);
    }
    const ssize_t bytes = dir_bytes ? 0 : readlink("/proc/self/exe", path, sizeof path - 1);
    if (bytes > 0) {
        path[bytes] = '\0';
        dir_bytes = (int)(strrchr(path, '/') - path);
    }
    const size_t room = sizeof path - (size_t)dir_bytes;
    for (int i = 0; i < NUM_PLACES; i++) {
        if (places[i]) {
            if ((size_t)snprintf(path + dir_bytes, room, "%s%s", places[i], library) >= room) continue;
            if (access(path, F_OK) != 0) continue;
        }
        void *handle = dlopen(places[i] ? path : library, RTLD_NOW | RTLD_GLOBAL);
        if (handle || places[i]) return handle; /* a file that is there but does not load has the better message */
    }
    return NULL;
}

void *qr_plugin_symbol(const char *library, const char *symbol, char *problem, size_t problem_bytes)
{
    void *handle = open_library(library);
    void *found = handle ? dlsym(handle, symbol) : NULL;
    if (!found) snprintf(problem, problem_bytes, "%s", dlerror());
    return found;
}
