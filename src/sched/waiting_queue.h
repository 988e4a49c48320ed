/* waiting_queue: requests that wait, the next one on top: an intrusive binary heap by (priority, arrival).
 *
 *   heap[0] ──┬── heap[1] ── heap[3], heap[4]        request->queue_idx is its place, so that any one can be removed
 *             └── heap[2] ── ...
 *
 * A preempted request keeps its arrival, so it returns ahead of all that came after it.
 * Allocation: reserve only. Threads: one at a time. */
#ifndef QR_SCHED_WAITING_QUEUE_H
#define QR_SCHED_WAITING_QUEUE_H

#include "sched/request.h"

typedef struct qr_waiting_queue {
    qr_request **heap; /* [max_requests] */
    int32_t num_requests, max_requests;
} qr_waiting_queue;

/* The order of the queue and of the running requests: a before b. */
bool qr_request_before(const qr_request *a, const qr_request *b);

/* Room for num_requests in all. OK | NOMEM (unchanged). Amortised O(1) for a number that grows by one. */
QUIRE_MUST_USE quire_status qr_waiting_queue_reserve(qr_waiting_queue *queue, int32_t num_requests, quire_error *error);
void qr_waiting_queue_deinit(qr_waiting_queue *queue);

qr_request *qr_waiting_queue_top(const qr_waiting_queue *queue);            /* NULL when empty */
void qr_waiting_queue_push(qr_waiting_queue *queue, qr_request *request);   /* O(log n); room was reserved */
void qr_waiting_queue_remove(qr_waiting_queue *queue, qr_request *request); /* O(log n) */

/* Recount: OK | INVALID. */
QUIRE_MUST_USE quire_status qr_waiting_queue_check(const qr_waiting_queue *queue, quire_error *error);

#endif
