/* comm: the processes that compute one model together, and what they say to each other.
 *
 *   rank 0   all of the engine ─┐
 *   rank 1   its share ─────────┼── qr_comm (this table of functions) ──► src/mpi/ (MPI) | threads of a test
 *   rank 2   its share ─────────┘
 *
 * Every rank makes the same calls in the same order; each returns when this rank's part is done. A rank that is gone
 * ends them all (MPI's way), so no call fails.
 *
 * Same bits: all_reduce_sum adds in the order of the ranks, whatever carries the bytes, so that the sum of an element
 * depends on its addends alone and is the same on every rank.
 *
 * Allocation: none in a call. Threads: one caller at a time per rank.  Source: MPI 3.1, chapter 5 (collectives). */
#ifndef QR_BASE_COMM_H
#define QR_BASE_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct qr_comm qr_comm;

struct qr_comm {
    int rank, size;
    int num_local, local_rank; /* ranks on this machine, this one included, and its place among them */
    /* Rank 0's bytes to all. The ranks that listen sleep when it takes long. */
    void (*broadcast)(qr_comm *comm, void *data, size_t bytes);
    /* out[r] = rank r's data, on every rank.   out [size][bytes] */
    void (*all_gather)(qr_comm *comm, const void *data, size_t bytes, void *out);
    /* Everybody's data one after the other on rank 0, bytes[r] of rank r; out is used there only. */
    void (*gather)(qr_comm *comm, const void *data, const size_t *bytes, void *out);
    void (*destroy)(qr_comm *comm); /* when all ranks do; NULL is no comm */
};

/* Join the ranks that this process was started with (mpirun -n SIZE); once per process.
 *   UNSUPPORTED  no MPI library: says what to install
 *   INVALID      started with another number of processes */
QUIRE_MUST_USE quire_status qr_comm_open(int size, qr_comm **out, quire_error *error);

/* UNSUPPORTED as above, without joining. */
QUIRE_MUST_USE quire_status qr_comm_available(int size, quire_error *error);

enum {
    QR_MAX_RANKS = QUIRE_MAX_TENSOR_PARALLEL_SIZE,
    QR_REDUCE_PIECE = 1 << 16 /* floats that are added at a time */
};

/* x[i] = ((x of rank 0 + x of rank 1) + x of rank 2) + ...   scratch [size * QR_REDUCE_PIECE] */
void qr_comm_all_reduce_sum(qr_comm *comm, float *x, size_t count, float *scratch);

/* OK when all ranks are; else the failure of the first that is not, on every rank. error: not NULL. */
QUIRE_MUST_USE quire_status qr_comm_agree(qr_comm *comm, quire_status mine, quire_error *error);

/* What libquire-mpi.so exports, under the name quire_mpi_open: NULL with a text when the processes are not `size`. */
typedef qr_comm *(*qr_comm_open_fn)(int size, char *problem, size_t problem_bytes);

#endif
