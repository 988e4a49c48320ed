/* mpi: qr_comm over MPI, a library of its own (libquire-mpi.so) that base/comm.c loads.
 *
 *   broadcast, all_gather, gather ──► MPI_Ibcast, MPI_Iallgather, MPI_Igatherv ──► wait: poll, then poll and sleep
 *
 * MPI's blocking calls poll without a pause, so a rank that waits for rank 0's next command would take a whole core
 * for as long as the server is idle. Here a wait yields the core between its first polls and sleeps between later ones.
 * A lost rank is MPI's to notice: mpirun ends the others.
 * Threads: one caller at a time (MPI_THREAD_SERIALIZED).  Source: MPI 3.1, sections 5.12 and 12.4. */
#define _POSIX_C_SOURCE 200809L
#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "base/comm.h"

enum { SPIN_NS = 5000000, FIRST_SLEEP_NS = 50000, MAX_SLEEP_NS = 1000000 };

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wait_for(MPI_Request *request)
{
    const int64_t sleep_from = now_ns() + SPIN_NS;
    long sleep_ns = FIRST_SLEEP_NS;
    for (int done = 0;;) {
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (done) return;
        if (now_ns() < sleep_from) {
            sched_yield();
            continue;
        }
        nanosleep(&(struct timespec){.tv_nsec = sleep_ns}, NULL);
        if ((sleep_ns *= 2) > MAX_SLEEP_NS) sleep_ns = MAX_SLEEP_NS;
    }
}

static void broadcast(qr_comm *comm, void *data, size_t bytes)
{
    (void)comm;
    MPI_Request request;
    for (char *at = data; bytes > 0;) { /* MPI counts in int */
        const int n = bytes < INT_MAX ? (int)bytes : INT_MAX;
        MPI_Ibcast(at, n, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
        wait_for(&request);
        at += n;
        bytes -= (size_t)n;
    }
}

static void all_gather(qr_comm *comm, const void *data, size_t bytes, void *out)
{
    (void)comm;
    MPI_Request request;
    MPI_Iallgather(data, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, MPI_COMM_WORLD, &request);
    wait_for(&request);
}

static void gather(qr_comm *comm, const void *data, const size_t *bytes, void *out)
{
    MPI_Request request;
    int counts[QR_MAX_RANKS], offsets[QR_MAX_RANKS], end = 0;
    for (int r = 0; r < comm->size; r++) {
        counts[r] = (int)bytes[r];
        offsets[r] = end;
        end += counts[r];
    }
    MPI_Igatherv(data, counts[comm->rank], MPI_BYTE, out, counts, offsets, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
    wait_for(&request);
}

static void destroy(qr_comm *comm)
{
    (void)comm;
    MPI_Finalize();
}

__attribute__((visibility("default"))) qr_comm *quire_mpi_open(int size, char *problem, size_t problem_bytes);

qr_comm *quire_mpi_open(int size, char *problem, size_t problem_bytes)
{
    static qr_comm comm = {.broadcast = broadcast, .all_gather = all_gather, .gather = gather, .destroy = destroy};
    int initialized, provided;
    MPI_Initialized(&initialized);
    if (initialized) {
        snprintf(problem, problem_bytes, "MPI runs once in a process, and it is used already");
        return NULL;
    }
    MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &comm.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &comm.size);
    if (comm.size != size || provided < MPI_THREAD_SERIALIZED) {
        if (comm.size != size)
            snprintf(problem, problem_bytes,
                     "%d ranks, but there %s %d process%s; start it with: mpirun -n %d quire ...", size,
                     comm.size == 1 ? "is" : "are", comm.size, comm.size == 1 ? "" : "es", size);
        else
            snprintf(problem, problem_bytes, "this MPI library serves one thread only");
        MPI_Finalize();
        return NULL;
    }
    MPI_Comm local;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, comm.rank, MPI_INFO_NULL, &local);
    MPI_Comm_size(local, &comm.num_local);
    MPI_Comm_rank(local, &comm.local_rank);
    MPI_Comm_free(&local);
    return &comm;
}
