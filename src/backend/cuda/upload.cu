/* From the host's pageable memory, a mapped file mostly, to the device: through two page-locked buffers and a stream of
 * their own.
 *
 *   host   | piece 0 | piece 1 | piece 2 | ...          memcpy into buffer 0, 1, 0, ... (this reads the file)
 *   device           | piece 0 | piece 1 | ...          copied by the device meanwhile
 *
 * The copies wait for what the compute stream was asked for before, and it waits for them: events, not the host. */
#include "backend/cuda/runtime.cuh"

enum { PIECE_BYTES = 8 << 20, LEAST_BYTES = 1 << 20 /* below that a plain copy is as good */ };

/* False: no memory for the buffers. */
static bool prepare(qr_cuda_device *dev)
{
    qr_cuda_upload *u = &dev->upload;
    if (u->is_there) return true;
    bool ok = cudaStreamCreateWithFlags(&u->stream, cudaStreamNonBlocking) == cudaSuccess &&
              cudaEventCreateWithFlags(&u->before, cudaEventDisableTiming) == cudaSuccess;
    for (int i = 0; i < 2 && ok; i++)
        ok = cudaHostAlloc(&u->buffers[i], PIECE_BYTES, cudaHostAllocDefault) == cudaSuccess &&
             cudaEventCreateWithFlags(&u->copied[i], cudaEventDisableTiming) == cudaSuccess;
    if (!ok) {
        cudaGetLastError(); /* no memory is an answer, not a fault */
        qr_cuda_upload_end(dev);
    }
    return u->is_there = ok;
}

void qr_cuda_upload_end(qr_cuda_device *dev)
{
    qr_cuda_upload *u = &dev->upload;
    if (u->stream) cudaStreamSynchronize(u->stream);
    for (int i = 0; i < 2; i++) {
        if (u->copied[i]) cudaEventDestroy(u->copied[i]);
        if (u->buffers[i]) cudaFreeHost(u->buffers[i]);
    }
    if (u->before) cudaEventDestroy(u->before);
    if (u->stream) cudaStreamDestroy(u->stream);
    *u = qr_cuda_upload();
}

bool qr_cuda_upload_run(qr_cuda_device *dev, void *dst, const void *host, size_t bytes)
{
    qr_cuda_upload *u = &dev->upload;
    if (bytes < LEAST_BYTES || !prepare(dev)) return false;
    qr_cuda_check(cudaEventRecord(u->before, dev->stream), "cudaEventRecord");
    qr_cuda_check(cudaStreamWaitEvent(u->stream, u->before, 0), "cudaStreamWaitEvent");
    for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
        const int i = (int)(at / PIECE_BYTES % 2);
        const size_t count = min(bytes - at, (size_t)PIECE_BYTES);
        qr_cuda_check(cudaEventSynchronize(u->copied[i]), "cudaEventSynchronize");
        memcpy(u->buffers[i], (const char *)host + at, count);
        qr_cuda_check(cudaMemcpyAsync((char *)dst + at, u->buffers[i], count, cudaMemcpyHostToDevice, u->stream),
                      "cudaMemcpyAsync");
        qr_cuda_check(cudaEventRecord(u->copied[i], u->stream), "cudaEventRecord");
        if (at + count == bytes)
            qr_cuda_check(cudaStreamWaitEvent(dev->stream, u->copied[i], 0), "cudaStreamWaitEvent");
    }
    return true;
}
