/* What a device does for tensor parallelism beside NCCL: the sum over the ranks, in their order. */
#include "backend/cuda/runtime.cuh"

enum { THREADS = 256, PER_THREAD = 4 };

static __global__ void sum_parts_kernel(const float *parts, size_t stride, int num_parts, size_t count, float *out)
{
    size_t first = (size_t)blockIdx.x * THREADS * PER_THREAD + threadIdx.x;
    QR_UNROLL
    for (int j = 0; j < PER_THREAD; j++) {
        size_t i = first + (size_t)j * THREADS;
        if (i >= count) return;
        float sum = parts[i] + parts[stride + i];
        for (int p = 2; p < num_parts; p++) sum += parts[(size_t)p * stride + i];
        out[i] = sum;
    }
}

void qr_cuda_sum_parts(qr_cuda_device *dev, const float *parts, size_t stride, int num_parts, size_t count, float *out)
{
    QR_CUDA_LAUNCH(dev, sum_parts_kernel, qr_blocks_for((int64_t)count, THREADS * PER_THREAD), THREADS, 0, parts,
                   stride, num_parts, count, out);
}

void qr_cuda_copy_rows(qr_cuda_device *dev, float *dst, int64_t ld_dst, const float *src, int64_t ld_src, int64_t cols,
                       int num_rows)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    qr_cuda_check(cudaMemcpy2DAsync(dst, (size_t)ld_dst * sizeof *dst, src, (size_t)ld_src * sizeof *src,
                                    (size_t)cols * sizeof *dst, (size_t)num_rows, cudaMemcpyDefault, dev->stream),
                  "cudaMemcpy2DAsync");
}

void *qr_cuda_stream(qr_cuda_device *dev)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    return dev->stream;
}
