#define _GNU_SOURCE
#include "base/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file that is there but does not load ends the search: its reason is the one to tell. */
static void *open_library(const char *library, int mode)
{
    static const char *const places[] = {"", "/../lib"}; /* of the folder of the object that this function is in */
    char own[PATH_MAX], path[PATH_MAX];
    Dl_info here;
    const bool named = dladdr((void *)(size_t)open_library, &here) && strchr(here.dli_fname, '/');
    if (strchr(library, '/') || !realpath(named ? here.dli_fname : "/proc/self/exe", own)) return dlopen(library, mode);
    *strrchr(own, '/') = '\0';
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if ((size_t)snprintf(path, sizeof path, "%s%s/%s", own, places[i], library) >= sizeof path) continue;
        if (access(path, F_OK) == 0) return dlopen(path, mode);
    }
    return dlopen(library, mode);
}

void *qr_plugin_open(const char *library, bool global, char *problem, size_t problem_bytes)
{
    void *handle = open_library(library, RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL));
    if (!handle) snprintf(problem, problem_bytes, "%s", dlerror());
    return handle;
}
