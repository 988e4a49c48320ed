/* cuda_backend: what the C files of the CUDA backend share. */
#ifndef QR_BACKEND_CUDA_CUDA_BACKEND_H
#define QR_BACKEND_CUDA_CUDA_BACKEND_H

#include "backend/cuda/cuda.h"
#include "base/comm.h"

/* The table of the library at `path`, or of the one that is found (cuda.h). It stays loaded. */
quire_status qr_cuda_library_open(const char *path, const qr_cuda_api **out, quire_error *error);

/* cuda_ranks.c: this device as one of several, a rank of `comm` each; the functions of backend.h's ranks_join(),
 * ranks_sum() and ranks_gather(). x is device memory; rank 0's x of a gather may be alloc_host()'s. */
typedef struct qr_cuda_ranks qr_cuda_ranks;

quire_status qr_cuda_ranks_create(const qr_cuda_api *api, qr_cuda_device *dev, qr_comm *comm, int64_t max_cols,
                                  qr_cuda_ranks **out, quire_error *error);
void qr_cuda_ranks_destroy(qr_cuda_ranks *ranks); /* by all ranks; NULL is fine */
void qr_cuda_ranks_sum(qr_cuda_ranks *ranks, float *x, size_t count);
void qr_cuda_ranks_gather(qr_cuda_ranks *ranks, float *x, int num_rows, int64_t ld, const int64_t *cols);

#endif
