#include "base/comm.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/plugin.h"

static quire_status load(int size, qr_comm_open_fn *out, quire_error *error)
{
    char problem[256];
    void *library = qr_plugin_open("libquire-mpi.so", true, problem, sizeof problem);
    void *symbol = library ? dlsym(library, "quire_mpi_open") : NULL;
    if (library && !symbol) snprintf(problem, sizeof problem, "%s", dlerror());
    if (!symbol)
        return qr_fail(
            error, QUIRE_UNSUPPORTED,
            "tensor_parallel_size %d needs MPI: %s (Debian: apt-get install openmpi-bin libopenmpi-dev, then "
            "build quire again)",
            size, problem);
    memcpy(out, &symbol, sizeof symbol);
    return QUIRE_OK;
}

quire_status qr_comm_available(int size, quire_error *error)
{
    qr_comm_open_fn open_ranks;
    return load(size, &open_ranks, error);
}

quire_status qr_comm_open(int size, qr_comm **out, quire_error *error)
{
    char problem[256];
    qr_comm_open_fn open_ranks;
    QR_TRY(load(size, &open_ranks, error));
    *out = open_ranks(size, problem, sizeof problem);
    return *out ? QUIRE_OK : qr_fail_param(error, "tensor_parallel_size", "tensor_parallel_size: %s", problem);
}

void qr_comm_all_reduce_sum(qr_comm *comm, float *x, size_t count, float *scratch)
{
    for (size_t at = 0; at < count; at += QR_REDUCE_PIECE) {
        const size_t n = count - at < QR_REDUCE_PIECE ? count - at : QR_REDUCE_PIECE;
        float *sum = x + at;
        comm->all_gather(comm, sum, n * sizeof *x, scratch);
        for (size_t i = 0; i < n; i++) sum[i] = scratch[i] + scratch[n + i];
        for (int r = 2; r < comm->size; r++)
            for (size_t i = 0; i < n; i++) sum[i] += scratch[(size_t)r * n + i];
    }
}

quire_status qr_comm_agree(qr_comm *comm, quire_status mine, quire_error *error)
{
    struct outcome {
        int status;
        quire_error error;
    } own = {.status = mine}, all[QR_MAX_RANKS];
    if (mine != QUIRE_OK) own.error = *error;
    comm->all_gather(comm, &own, sizeof own, all);
    for (int r = 0; r < comm->size; r++) {
        if (all[r].status == QUIRE_OK) continue;
        *error = all[r].error;
        if (r != comm->rank) qr_fail(error, (quire_status)all[r].status, "rank %d: %.400s", r, all[r].error.message);
        return (quire_status)all[r].status;
    }
    return QUIRE_OK;
}
