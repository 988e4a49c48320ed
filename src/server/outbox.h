/* outbox: outputs of one call's requests on their way from the engine thread to the server's loop.
 *
 *   engine thread ── push (copies) ──► items ── pop ──► loop thread
 *                      │ wake() once, when the loop found it empty before
 *
 * Invariants: bytes == sum of the items' bytes; after close() there are no items and wake() is never called again.
 * Threads: push on engine threads, the rest on the loop thread; init and deinit alone. */
#ifndef QR_SERVER_OUTBOX_H
#define QR_SERVER_OUTBOX_H

#include <pthread.h>

#include "quire.h"

typedef struct qr_outbox_item {
    struct qr_outbox_item *next;
    int prompt_idx;
    size_t bytes;
    quire_output output; /* what it points to lies behind this struct */
} qr_outbox_item;

typedef enum qr_outbox_failure { QR_OUTBOX_FINE, QR_OUTBOX_OVERFLOW, QR_OUTBOX_NOMEM } qr_outbox_failure;

typedef struct qr_outbox {
    pthread_mutex_t lock;
    qr_outbox_item *head, **tail;
    size_t bytes, max_bytes; /* more than max_bytes waiting: OVERFLOW; 0: no limit */
    int num_unfinished;      /* requests whose last output has not come */
    bool eager;              /* wake for every output; else only when all requests are finished */
    bool waiting;            /* the loop found nothing and wants to be woken */
    bool closed;
    qr_outbox_failure failure;
    void (*wake)(void *user); /* called with the lock held */
    void *user;
} qr_outbox;

/* `waiting` begins false. */
void qr_outbox_init(qr_outbox *outbox, size_t max_bytes, bool eager, void (*wake)(void *user), void *user);
void qr_outbox_deinit(qr_outbox *outbox);
/* One more request will push. */
void qr_outbox_add_request(qr_outbox *outbox);
/* A request that was announced was not accepted. */
void qr_outbox_cancel_request(qr_outbox *outbox);
void qr_outbox_push(qr_outbox *outbox, int prompt_idx, const quire_output *output);
/* The oldest item (the caller frees it with qr_free), or NULL: then *out_finished says whether none will come any more,
 * and otherwise the loop is woken by the next. A failure also gives NULL. */
qr_outbox_item *qr_outbox_pop(qr_outbox *outbox, bool *out_finished, qr_outbox_failure *out_failure);
qr_outbox_failure qr_outbox_get_failure(qr_outbox *outbox);
bool qr_outbox_is_closed(qr_outbox *outbox);
/* Nobody reads any more: drop everything, now and later. */
void qr_outbox_close(qr_outbox *outbox);
/* A deep copy in one allocation, freed with qr_free; NULL on no memory. */
qr_outbox_item *qr_outbox_copy(int prompt_idx, const quire_output *output);

#endif
