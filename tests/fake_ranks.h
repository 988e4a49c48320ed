/* fake_ranks: a tensor-parallel group in one process: a thread for each rank above 0, and barriers.
 *
 *   quire_model *model = NULL;
 *   fake_ranks_open(2, path, &options, &model, &error)    quire_model_close(model) ends the threads too
 *
 * What the other ranks' quire_model_open() returned is in fake_ranks_status[] when rank 0's has failed, or its model is
 * closed. */
#ifndef QR_TESTS_FAKE_RANKS_H
#define QR_TESTS_FAKE_RANKS_H

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model_api.h"

enum { FAKE_MAX_RANKS = 4 };

typedef struct fake_group fake_group;

typedef struct fake_comm {
    qr_comm base;
    fake_group *group;
} fake_comm;

struct fake_group {
    pthread_barrier_t barrier;
    fake_comm comms[FAKE_MAX_RANKS];
    const void *data[FAKE_MAX_RANKS]; /* what each rank gives to the call under way */
    pthread_t threads[FAKE_MAX_RANKS];
    const char *path;
    quire_model_options options;
};

static quire_status fake_ranks_status[FAKE_MAX_RANKS];
static quire_error fake_ranks_error[FAKE_MAX_RANKS];

static fake_group *fake_begin(qr_comm *comm, const void *data)
{
    fake_group *g = ((fake_comm *)comm)->group;
    g->data[comm->rank] = data;
    pthread_barrier_wait(&g->barrier);
    return g;
}

static void fake_broadcast(qr_comm *comm, void *data, size_t bytes)
{
    fake_group *g = fake_begin(comm, data);
    if (comm->rank > 0) memcpy(data, g->data[0], bytes);
    pthread_barrier_wait(&g->barrier);
}

static void fake_all_gather(qr_comm *comm, const void *data, size_t bytes, void *out)
{
    fake_group *g = fake_begin(comm, data);
    for (int r = 0; r < comm->size; r++) memcpy((char *)out + (size_t)r * bytes, g->data[r], bytes);
    pthread_barrier_wait(&g->barrier);
}

static void fake_gather(qr_comm *comm, const void *data, const size_t *bytes, void *out)
{
    fake_group *g = fake_begin(comm, data);
    char *at = out;
    for (int r = 0; comm->rank == 0 && r < comm->size; at += bytes[r++]) memcpy(at, g->data[r], bytes[r]);
    pthread_barrier_wait(&g->barrier);
}

/* Rank 0's waits for the others' threads. */
static void fake_destroy(qr_comm *comm)
{
    fake_group *g = ((fake_comm *)comm)->group;
    if (comm->rank > 0) return;
    for (int r = 1; r < comm->size; r++) pthread_join(g->threads[r], NULL);
    pthread_barrier_destroy(&g->barrier);
    free(g);
}

/* The group's comms, without threads yet. */
static fake_group *fake_group_create(int size)
{
    fake_group *g = calloc(1, sizeof *g);
    assert(g && size <= FAKE_MAX_RANKS);
    pthread_barrier_init(&g->barrier, NULL, (unsigned)size);
    for (int r = 0; r < size; r++)
        g->comms[r] = (fake_comm){{.rank = r,
                                   .size = size,
                                   .num_local = size,
                                   .local_rank = r,
                                   .broadcast = fake_broadcast,
                                   .all_gather = fake_all_gather,
                                   .gather = fake_gather,
                                   .destroy = fake_destroy},
                                  g};
    return g;
}

static void *fake_rank_main(void *raw)
{
    fake_comm *comm = raw;
    quire_model *none = NULL;
    const int r = comm->base.rank;
    fake_ranks_status[r] =
        qr_model_api_open(comm->group->path, &comm->group->options, &comm->base, &none, &fake_ranks_error[r]);
    assert(!none);
    return NULL;
}

static quire_status fake_ranks_open(int size, const char *path, const quire_model_options *options, quire_model **out,
                                    quire_error *error)
{
    fake_group *g = fake_group_create(size);
    g->path = path;
    g->options = *options;
    for (int r = 1; r < size; r++)
        if (pthread_create(&g->threads[r], NULL, fake_rank_main, &g->comms[r]) != 0) abort();
    return qr_model_api_open(path, options, &g->comms[0].base, out, error);
}

#endif
