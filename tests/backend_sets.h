/* backend_sets: the backends that tests of ops compare: the CPU's instruction sets, and CUDA.
 *
 * CUDA: the library that QUIRE_CUDA_LIBRARY names, or libquire-cuda-shim.so of this build, which runs the kernels on
 * the CPU (tests/cuda_shim). What ops read and write is of shared_alloc(); wait() before looking at it.
 * Set 0 is the scalar reference. */
#ifndef QR_TESTS_BACKEND_SETS_H
#define QR_TESTS_BACKEND_SETS_H

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cuda/cuda.h"

enum { CUDA_SET = 5, NUM_SETS };
static const char *const set_names[NUM_SETS]
    __attribute__((unused)) = {"ref", "avx2", "avx512bw", "avx512", "neon", "cuda"};

/* This build's folder is above the test's. */
static const char *cuda_shim_path(void)
{
    static char path[PATH_MAX + 64];
    ssize_t len = readlink("/proc/self/exe", path, PATH_MAX - 1);
    path[len > 0 ? len : 0] = '\0';
    for (int up = 0; up < 2 && strrchr(path, '/'); up++) *strrchr(path, '/') = '\0';
    return strcat(path, "/libquire-cuda-shim.so");
}

/* The shim's devices are so many, and libnccl.so.2 is the shim's from now on: a library that is loaded is found by its
 * name. False: QUIRE_CUDA_LIBRARY is of real devices. */
__attribute__((unused)) static bool use_shim_ranks(const char *num_devices)
{
    char path[PATH_MAX + 128];
    if (strcmp(getenv("QUIRE_CUDA_LIBRARY"), cuda_shim_path()) != 0) {
        printf("skipped: ranks are tested on the shim's devices\n");
        return false;
    }
    const int folder = (int)(strrchr(cuda_shim_path(), '/') - cuda_shim_path());
    snprintf(path, sizeof path, "%.*s/shim/libnccl.so.2", folder, cuda_shim_path());
    setenv("QUIRE_SHIM_DEVICES", num_devices, 1);
    if (dlopen(path, RTLD_NOW)) return true;
    fprintf(stderr, "%s\n", dlerror());
    abort();
}

/* For what is opened by name: the shim where the environment names no library. */
__attribute__((unused)) static void use_cuda_shim(void)
{
    if (getenv("QUIRE_CUDA_LIBRARY")) return;
    setenv("QUIRE_CUDA_LIBRARY", cuda_shim_path(), 1);
    setenv("QUIRE_CUBLASLT_LIBRARY", cuda_shim_path(), 1);
}

/* UNSUPPORTED or DEVICE: this machine or this build has no such set. */
__attribute__((unused)) static quire_status create_set(int set, int threads, qr_backend **out, quire_error *error)
{
    if (set != CUDA_SET) return qr_cpu_backend_create(set_names[set], threads, out, error);
    return qr_cuda_backend_create(getenv("QUIRE_CUDA_LIBRARY") ? NULL : cuda_shim_path(), 0, threads, false, out,
                                  error);
}

/* What ops of all sets can read and write: page-locked memory of the CUDA set, where there is one, else the host's. */
static qr_backend *shared_owner(void)
{
    static qr_backend *owner;
    static bool asked;
    if (!asked && create_set(CUDA_SET, 1, &owner, NULL) != QUIRE_OK) owner = NULL;
    asked = true;
    return owner;
}

__attribute__((unused)) static void *shared_alloc(size_t bytes)
{
    qr_backend *owner = shared_owner();
    void *p = owner ? owner->ops->buffer_alloc(owner, bytes, true) : malloc(bytes);
    if (!p) abort();
    return p;
}

__attribute__((unused)) static void shared_free(void *p)
{
    qr_backend *owner = shared_owner();
    if (owner)
        owner->ops->buffer_free(owner, p, 0);
    else
        free(p);
}

__attribute__((unused)) static void *shared_copy(const void *from, size_t bytes)
{
    return memcpy(shared_alloc(bytes), from, bytes);
}

#endif
