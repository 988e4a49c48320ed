/* nccl: a libnccl.so.2 for the shim: the calls of backend/cuda/nccl_api.h between processes or threads of one machine.
 *
 *   send ─► box[from][to] ─► receive     a box holds one piece of a message; whoever waits gives way to others
 *
 * Ranks meet in a piece of shared memory whose name is the unique id. A stream of the shim runs at once, so a call, or
 * a group of them, is done when it returns. Stricter than NCCL: a message that the receiver expects to be of another
 * size ends the program. Threads: one caller at a time per rank. */
#define _GNU_SOURCE
#include <assert.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/cuda/nccl_api.h"

#define EXPORT __attribute__((visibility("default")))

enum { MAX_RANKS = 4, PIECE = 1 << 16, MAX_CALLS = 2 * MAX_RANKS };
enum { INVALID_ARGUMENT = 4, SYSTEM_ERROR = 2 }; /* ncclResult_t */

typedef struct box {
    atomic_bool is_full;
    size_t message_bytes; /* that the piece is of */
    unsigned char piece[PIECE];
} box;

typedef struct meeting {
    atomic_int num_joined;
    box boxes[MAX_RANKS][MAX_RANKS];
} meeting;

struct qr_nccl_comm {
    meeting *meeting;
    int rank, size;
};

typedef struct call {
    box *box;
    unsigned char *data;
    size_t bytes, done;
    bool sends;
} call;

static _Thread_local struct {
    int depth, num_calls;
    call calls[MAX_CALLS];
} group;

EXPORT const char *ncclGetErrorString(int result);
EXPORT int ncclGetUniqueId(qr_nccl_id *out);
EXPORT int ncclCommInitRank(qr_nccl_comm **out, int num_ranks, qr_nccl_id id, int rank);
EXPORT int ncclCommDestroy(qr_nccl_comm *comm);
EXPORT int ncclAllGather(const void *send, void *receive, size_t count, int type, qr_nccl_comm *comm, void *stream);
EXPORT int ncclSend(const void *data, size_t count, int type, int peer, qr_nccl_comm *comm, void *stream);
EXPORT int ncclRecv(void *data, size_t count, int type, int peer, qr_nccl_comm *comm, void *stream);
EXPORT int ncclGroupStart(void);
EXPORT int ncclGroupEnd(void);

const char *ncclGetErrorString(int result)
{
    return result == INVALID_ARGUMENT ? "invalid argument" : result == SYSTEM_ERROR ? "system error" : "no error";
}

int ncclGetUniqueId(qr_nccl_id *out)
{
    static atomic_int count;
    memset(out, 0, sizeof *out);
    snprintf(out->internal, sizeof out->internal, "/quire-nccl-%ld-%d", (long)getpid(), atomic_fetch_add(&count, 1));
    return 0;
}

int ncclCommInitRank(qr_nccl_comm **out, int num_ranks, qr_nccl_id id, int rank)
{
    if (num_ranks < 1 || num_ranks > MAX_RANKS || rank < 0 || rank >= num_ranks) return INVALID_ARGUMENT;
    const int fd = shm_open(id.internal, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(meeting)) != 0) return SYSTEM_ERROR;
    meeting *m = mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    qr_nccl_comm *comm = malloc(sizeof *comm);
    if (m == MAP_FAILED || !comm) return SYSTEM_ERROR;
    *comm = (qr_nccl_comm){m, rank, num_ranks};
    atomic_fetch_add(&m->num_joined, 1);
    while (atomic_load(&m->num_joined) < num_ranks) usleep(1000);
    if (rank == 0) shm_unlink(id.internal);
    *out = comm;
    return 0;
}

int ncclCommDestroy(qr_nccl_comm *comm)
{
    munmap(comm->meeting, sizeof *comm->meeting);
    free(comm);
    return 0;
}

/* A piece of the message, if the box lets it through. */
static bool advance(call *c)
{
    if (c->done == c->bytes || atomic_load(&c->box->is_full) == c->sends) return false;
    const size_t n = c->bytes - c->done < PIECE ? c->bytes - c->done : PIECE;
    if (c->sends) {
        c->box->message_bytes = c->bytes;
        memcpy(c->box->piece, c->data + c->done, n);
    } else {
        if (c->box->message_bytes != c->bytes) {
            fprintf(stderr, "nccl: %zu bytes are expected where %zu were sent\n", c->bytes, c->box->message_bytes);
            abort();
        }
        memcpy(c->data + c->done, c->box->piece, n);
    }
    c->done += n;
    atomic_store(&c->box->is_full, c->sends);
    return true;
}

/* Messages through the same box go one after the other. */
static bool is_next(int i)
{
    for (int j = 0; j < i; j++)
        if (group.calls[j].box == group.calls[i].box && group.calls[j].sends == group.calls[i].sends &&
            group.calls[j].done < group.calls[j].bytes)
            return false;
    return true;
}

static void run_group(void)
{
    for (int num_done = 0; num_done < group.num_calls;) {
        bool moved = false;
        num_done = 0;
        for (int i = 0; i < group.num_calls; i++) {
            if (is_next(i)) moved |= advance(&group.calls[i]);
            num_done += group.calls[i].done == group.calls[i].bytes;
        }
        if (!moved) sched_yield();
    }
    group.num_calls = 0;
}

static int add(bool sends, void *data, size_t count, int type, int peer, qr_nccl_comm *comm)
{
    if (type != QR_NCCL_FLOAT32 || peer < 0 || peer >= comm->size || group.num_calls == MAX_CALLS)
        return INVALID_ARGUMENT;
    box *box = sends ? &comm->meeting->boxes[comm->rank][peer] : &comm->meeting->boxes[peer][comm->rank];
    group.calls[group.num_calls++] = (call){box, data, count * sizeof(float), 0, sends};
    if (group.depth == 0) run_group();
    return 0;
}

int ncclSend(const void *data, size_t count, int type, int peer, qr_nccl_comm *comm, void *stream)
{
    (void)stream;
    return add(true, (void *)(uintptr_t)data, count, type, peer, comm);
}

int ncclRecv(void *data, size_t count, int type, int peer, qr_nccl_comm *comm, void *stream)
{
    (void)stream;
    return add(false, data, count, type, peer, comm);
}

int ncclGroupStart(void)
{
    group.depth++;
    return 0;
}

int ncclGroupEnd(void)
{
    assert(group.depth > 0);
    if (--group.depth == 0) run_group();
    return 0;
}

int ncclAllGather(const void *send, void *receive, size_t count, int type, qr_nccl_comm *comm, void *stream)
{
    int result = ncclGroupStart();
    for (int peer = 0; peer < comm->size && result == 0; peer++) {
        unsigned char *to = (unsigned char *)receive + (size_t)peer * count * sizeof(float);
        if (peer == comm->rank) {
            memmove(to, send, count * sizeof(float));
            continue;
        }
        result = ncclSend(send, count, type, peer, comm, stream);
        if (result == 0) result = ncclRecv(to, count, type, peer, comm, stream);
    }
    return result == 0 ? ncclGroupEnd() : result;
}
