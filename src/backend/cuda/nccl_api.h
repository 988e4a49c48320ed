/* nccl_api: the few functions of NCCL that quire calls, out of the libnccl.so.2 that is found at run time, so that
 * neither building nor running on one device needs it.
 *
 * Types and values are those of <nccl.h>, stable since NCCL 2.7, the first with send and receive. Buffers are device
 * memory; what is asked for happens later, in the order of the stream.
 * Threads: as backend.h.  Source: NVIDIA, NCCL User Guide, API. */
#ifndef QR_BACKEND_CUDA_NCCL_API_H
#define QR_BACKEND_CUDA_NCCL_API_H

#include <stddef.h>

#include "base/status.h"

typedef struct qr_nccl_comm qr_nccl_comm; /* ncclComm */
typedef struct qr_nccl_id {
    char internal[128];
} qr_nccl_id; /* ncclUniqueId */

enum { QR_NCCL_FLOAT32 = 7 }; /* ncclDataType_t */

/* Results are 0 or an error for get_error_string(). */
typedef struct qr_nccl {
    const char *(*get_error_string)(int result);
    int (*get_unique_id)(qr_nccl_id *out);
    int (*comm_init_rank)(qr_nccl_comm **out, int num_ranks, qr_nccl_id id, int rank); /* on this thread's device */
    int (*comm_destroy)(qr_nccl_comm *comm);
    int (*all_gather)(const void *send, void *receive, size_t send_count, int type, qr_nccl_comm *comm, void *stream);
    int (*send)(const void *data, size_t count, int type, int peer, qr_nccl_comm *comm, void *stream);
    int (*receive)(void *data, size_t count, int type, int peer, qr_nccl_comm *comm, void *stream);
    int (*group_start)(void); /* what is called up to group_end() happens together */
    int (*group_end)(void);
} qr_nccl;

/* Load it; it stays loaded.   UNSUPPORTED: there is none, or one too old */
QUIRE_MUST_USE quire_status qr_nccl_open(qr_nccl *out, quire_error *error);

#endif
