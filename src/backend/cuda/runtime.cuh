/* runtime: what the .cu files share of the device. */
#ifndef QR_BACKEND_CUDA_RUNTIME_CUH
#define QR_BACKEND_CUDA_RUNTIME_CUH

#include "backend/cuda/math.cuh"

/* upload.cu */
struct qr_cuda_upload {
    bool is_there; /* made when it is first needed */
    cudaStream_t stream;
    cudaEvent_t before, copied[2];
    void *buffers[2]; /* page-locked */
};

struct qr_cuda_device {
    int index;
    cudaStream_t stream;
    cudaEvent_t staged; /* after the last stage() */
    struct qr_lt *lt;   /* gemm_lt.cu; NULL: not opened */
    qr_cuda_upload upload;
};

/* After a launch: the device cannot go on when there is an error. */
void qr_cuda_check(cudaError_t error, const char *what);
#define QR_CUDA_LAUNCH(dev, kernel, grid, block, shared, ...)               \
    do {                                                                    \
        qr_cuda_check(cudaSetDevice((dev)->index), "cudaSetDevice");        \
        QR_LAUNCH(kernel, grid, block, shared, (dev)->stream, __VA_ARGS__); \
        qr_cuda_check(cudaGetLastError(), #kernel);                         \
    } while (0)

/* Copy to the device, in the order of its ops; host may be reused on return, though the copy may be still under way.
 * False: too little to be worth it, or no memory for the buffers; nothing was copied. */
bool qr_cuda_upload_run(qr_cuda_device *dev, void *dst, const void *host, size_t bytes);
/* Give its memory back; what is under way is finished first. */
void qr_cuda_upload_end(qr_cuda_device *dev);

static inline unsigned qr_blocks_for(int64_t count, int per_block)
{
    return (unsigned)((count + per_block - 1) / per_block);
}

#endif
