/* cuda_backend: what the C files of the CUDA backend share. */
#ifndef QR_BACKEND_CUDA_CUDA_BACKEND_H
#define QR_BACKEND_CUDA_CUDA_BACKEND_H

#include "backend/cuda/cuda.h"

/* The table of the library at `path`, or of the one that is found (cuda.h). It stays loaded. */
quire_status qr_cuda_library_open(const char *path, const qr_cuda_api **out, quire_error *error);

#endif
