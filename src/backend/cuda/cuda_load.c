/* Loading libquire-cuda.so. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_backend.h"
#include "base/plugin.h"

#define LIBRARY_NAME "libquire-cuda.so"

quire_status qr_cuda_library_open(const char *path, const qr_cuda_api **out, quire_error *error)
{
    char problem[512];
    if (!path) path = getenv("QUIRE_CUDA_LIBRARY");
    if (!path || !path[0]) path = LIBRARY_NAME;
    void *handle = qr_plugin_open(path, false, problem, sizeof problem);
    if (!handle)
        return qr_fail(error, QUIRE_DEVICE,
                       "no CUDA: %s (`make cuda` builds " LIBRARY_NAME "; it lies beside the program)", problem);
    qr_cuda_api_fn api;
    void *symbol = dlsym(handle, QR_CUDA_SYMBOL);
    memcpy(&api, &symbol, sizeof api);
    if (!symbol || api()->version != QR_CUDA_VERSION) {
        dlclose(handle);
        return qr_fail(error, QUIRE_DEVICE, "no CUDA: %s is of another version of quire", path);
    }
    *out = api();
    return QUIRE_OK;
}
