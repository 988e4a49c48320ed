/* cuda_memory: device memory of the kernels' tests. After cmocka.h. */
#ifndef QR_TESTS_CUDA_MEMORY_H
#define QR_TESTS_CUDA_MEMORY_H

#include "backend/cuda/device.cuh"

/* A copy there; cudaFree() it. */
static void *to_device(const void *host, size_t bytes)
{
    void *p = NULL;
    assert_int_equal(cudaMalloc(&p, bytes), cudaSuccess);
    assert_int_equal(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    return p;
}

#endif
