/* Several devices as one: sums and logits over the ranks, moved by NCCL, added here.
 *
 *   few values    every rank's x ─ all-gather ─► [size][count] ─ sum_parts ─► x
 *   many values   slice s of every rank's x ─► rank s: [size][slice] ─ sum_parts ─► its slice of x ─► every rank
 *
 * NCCL's own all-reduce adds an element in an order that depends on where in the message it lies, so on how many
 * tokens a step has. Here NCCL only moves bytes and the ranks' order holds, so both ways give the same bits; the second
 * moves 2 (size - 1) / size of x per rank, as a ring does, the first waits for one exchange instead of two. */
#include <assert.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/nccl_api.h"
#include "base/mem.h"
#include "base/plugin.h"

#define NCCL_LIBRARY "libnccl.so.2"

enum {
    GATHERED_FLOATS = 1 << 21, /* all ranks' values up to here: the first way */
    SUM_FLOATS = 1 << 22,      /* values that are summed at a time */
    SLICE_ALIGN = 32           /* floats: whole lines of memory */
};

struct qr_cuda_ranks {
    const qr_cuda_api *api;
    qr_cuda_device *dev;
    qr_nccl nccl;
    qr_nccl_comm *comm;
    int rank, size;
    float *parts; /* on the device: other ranks' values */
    size_t parts_floats;
};

quire_status qr_nccl_open(qr_nccl *out, quire_error *error)
{
    const struct {
        const char *name;
        void *function;
    } functions[] = {
        {"ncclGetErrorString", &out->get_error_string},
        {"ncclGetUniqueId", &out->get_unique_id},
        {"ncclCommInitRank", &out->comm_init_rank},
        {"ncclCommDestroy", &out->comm_destroy},
        {"ncclAllGather", &out->all_gather},
        {"ncclSend", &out->send},
        {"ncclRecv", &out->receive},
        {"ncclGroupStart", &out->group_start},
        {"ncclGroupEnd", &out->group_end},
    };
    char problem[256];
    void *library = qr_plugin_open(NCCL_LIBRARY, false, problem, sizeof problem);
    if (!library)
        return qr_fail(error, QUIRE_UNSUPPORTED,
                       "CUDA devices as ranks need NCCL 2.7 or later: %s (Debian, from NVIDIA's packages: apt-get "
                       "install libnccl2; LD_LIBRARY_PATH says where it is)",
                       problem);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *symbol = dlsym(library, functions[i].name);
        if (!symbol)
            return qr_fail(error, QUIRE_UNSUPPORTED, "%s has no %s: NCCL 2.7 or later is needed", NCCL_LIBRARY,
                           functions[i].name);
        memcpy(functions[i].function, &symbol, sizeof symbol);
    }
    return QUIRE_OK;
}

/* Rank 0's id, or why there is none, to all. */
typedef struct invitation {
    int result;
    qr_nccl_id id;
} invitation;

static quire_status join(qr_cuda_ranks *r, qr_comm *comm, quire_error *error)
{
    invitation all = {0};
    if (r->rank == 0) all.result = r->nccl.get_unique_id(&all.id);
    comm->broadcast(comm, &all, sizeof all);
    (void)r->api->stream(r->dev); /* NCCL takes this thread's device */
    if (all.result == 0) all.result = r->nccl.comm_init_rank(&r->comm, r->size, all.id, r->rank);
    if (all.result == 0) return QUIRE_OK;
    r->comm = NULL;
    return qr_fail(error, QUIRE_DEVICE, "NCCL cannot join %d ranks: %s (NCCL_DEBUG=WARN says more)", r->size,
                   r->nccl.get_error_string(all.result));
}

quire_status qr_cuda_ranks_create(const qr_cuda_api *api, qr_cuda_device *dev, qr_comm *comm, int64_t max_cols,
                                  qr_cuda_ranks **out, quire_error *error)
{
    qr_cuda_ranks *r = qr_calloc(1, sizeof *r);
    quire_status status = QUIRE_OK;
    if (r) {
        *r = (qr_cuda_ranks){.api = api, .dev = dev, .rank = comm->rank, .size = comm->size};
        r->parts_floats = SUM_FLOATS + (size_t)comm->size * SLICE_ALIGN;
        if (r->parts_floats < (size_t)max_cols) r->parts_floats = (size_t)max_cols;
        r->parts = api->alloc(dev, r->parts_floats * sizeof *r->parts);
    }
    if (!r || !r->parts) status = qr_fail_nomem(error, "other ranks' values on the device", SUM_FLOATS * sizeof(float));
    if (status == QUIRE_OK) status = qr_nccl_open(&r->nccl, error);
    status = qr_comm_agree(comm, status, error); /* nobody waits in join() for one that will not come */
    if (status == QUIRE_OK) status = qr_comm_agree(comm, join(r, comm, error), error);
    if (status == QUIRE_OK)
        *out = r;
    else
        qr_cuda_ranks_destroy(r);
    return status;
}

static void check(const qr_cuda_ranks *r, int result)
{
    if (result == 0) return;
    fprintf(stderr, "quire: NCCL: rank %d: %s\n", r->rank, r->nccl.get_error_string(result));
    abort();
}

void qr_cuda_ranks_destroy(qr_cuda_ranks *r)
{
    if (!r) return;
    if (r->comm) {
        r->api->wait(r->dev);
        check(r, r->nccl.comm_destroy(r->comm));
    }
    r->api->free(r->dev, r->parts);
    qr_free(r);
}

/* Nothing is sent to the rank itself. */
static void send(qr_cuda_ranks *r, const float *data, size_t count, int peer, void *stream)
{
    if (count > 0) check(r, r->nccl.send(data, count, QR_NCCL_FLOAT32, peer, r->comm, stream));
}

static void receive(qr_cuda_ranks *r, float *data, size_t count, int peer, void *stream)
{
    if (count > 0) check(r, r->nccl.receive(data, count, QR_NCCL_FLOAT32, peer, r->comm, stream));
}

static void sum_gathered(qr_cuda_ranks *r, float *x, size_t count, void *stream)
{
    check(r, r->nccl.all_gather(x, r->parts, count, QR_NCCL_FLOAT32, r->comm, stream));
    r->api->sum_parts(r->dev, r->parts, count, r->size, count, x);
}

/* Values of slice `rank` when each has `slice`, fewer at the end. */
static size_t slice_count(size_t count, size_t slice, int rank)
{
    const size_t first = (size_t)rank * slice;
    return first >= count ? 0 : count - first < slice ? count - first : slice;
}

static void sum_slices(qr_cuda_ranks *r, float *x, size_t count, void *stream)
{
    const size_t each = (count + (size_t)r->size - 1) / (size_t)r->size;
    const size_t slice = (each + SLICE_ALIGN - 1) / SLICE_ALIGN * SLICE_ALIGN;
    float *own = x + (size_t)r->rank * slice;
    const size_t num_own = slice_count(count, slice, r->rank);
    assert((size_t)r->size * slice <= r->parts_floats);
    check(r, r->nccl.group_start());
    for (int peer = 0; peer < r->size; peer++) {
        if (peer == r->rank) continue;
        send(r, x + (size_t)peer * slice, slice_count(count, slice, peer), peer, stream);
        receive(r, r->parts + (size_t)peer * slice, num_own, peer, stream);
    }
    check(r, r->nccl.group_end());
    if (num_own > 0) {
        r->api->copy(r->dev, r->parts + (size_t)r->rank * slice, own, num_own * sizeof *own);
        r->api->sum_parts(r->dev, r->parts, slice, r->size, num_own, own);
    }
    check(r, r->nccl.group_start());
    for (int peer = 0; peer < r->size; peer++) {
        if (peer == r->rank) continue;
        send(r, own, num_own, peer, stream);
        receive(r, x + (size_t)peer * slice, slice_count(count, slice, peer), peer, stream);
    }
    check(r, r->nccl.group_end());
}

void qr_cuda_ranks_sum(qr_cuda_ranks *r, float *x, size_t count)
{
    void *stream = r->api->stream(r->dev);
    if (count * (size_t)r->size <= GATHERED_FLOATS) {
        sum_gathered(r, x, count, stream);
        return;
    }
    for (size_t at = 0; at < count; at += SUM_FLOATS)
        sum_slices(r, x + at, count - at < SUM_FLOATS ? count - at : SUM_FLOATS, stream);
}

/* Of num_rows rows; the others' columns fit in parts. */
static void gather_rows(qr_cuda_ranks *r, float *x, int num_rows, int64_t ld, const int64_t *cols, void *stream)
{
    float *from = r->parts;
    check(r, r->nccl.group_start());
    if (r->rank > 0) send(r, x, (size_t)(num_rows * cols[r->rank]), 0, stream);
    for (int peer = 1; r->rank == 0 && peer < r->size; from += num_rows * cols[peer++])
        receive(r, from, (size_t)(num_rows * cols[peer]), peer, stream);
    check(r, r->nccl.group_end());
    if (r->rank > 0) return;
    float *to = x + cols[0];
    from = r->parts;
    for (int peer = 1; peer < r->size; peer++) {
        r->api->copy_rows(r->dev, to, ld, from, cols[peer], cols[peer], num_rows);
        from += num_rows * cols[peer];
        to += cols[peer];
    }
}

void qr_cuda_ranks_gather(qr_cuda_ranks *r, float *x, int num_rows, int64_t ld, const int64_t *cols)
{
    void *stream = r->api->stream(r->dev);
    int64_t others = 0;
    for (int peer = 1; peer < r->size; peer++) others += cols[peer];
    assert(others > 0 && (size_t)others <= r->parts_floats);
    const int64_t fit = (int64_t)r->parts_floats / others;
    for (int at = 0, n; at < num_rows; at += n) {
        n = num_rows - at < fit ? num_rows - at : (int)fit;
        gather_rows(r, x + at * ld, n, ld, cols, stream);
    }
}
