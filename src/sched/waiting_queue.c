#include "sched/waiting_queue.h"

#include <assert.h>

#include "base/mem.h"

bool qr_request_before(const qr_request *a, const qr_request *b)
{
    return a->priority != b->priority ? a->priority < b->priority : a->arrival < b->arrival;
}

quire_status qr_waiting_queue_reserve(qr_waiting_queue *queue, int32_t num_requests, quire_error *error)
{
    if (num_requests <= queue->max_requests) return QUIRE_OK;
    const int64_t grown = queue->max_requests < 32 ? 64 : 2 * (int64_t)queue->max_requests;
    const int64_t max_requests = grown > INT32_MAX ? INT32_MAX : grown;
    const size_t bytes = (size_t)max_requests * sizeof *queue->heap;
    qr_request **heap = qr_realloc(queue->heap, bytes);
    if (!heap) return qr_fail_nomem(error, "waiting queue", bytes);
    queue->heap = heap;
    queue->max_requests = (int32_t)max_requests;
    return QUIRE_OK;
}

void qr_waiting_queue_deinit(qr_waiting_queue *queue)
{
    qr_free(queue->heap);
    *queue = (qr_waiting_queue){0};
}

qr_request *qr_waiting_queue_top(const qr_waiting_queue *queue)
{
    return queue->num_requests > 0 ? queue->heap[0] : NULL;
}

static void put(qr_waiting_queue *queue, int32_t idx, qr_request *request)
{
    queue->heap[idx] = request;
    request->queue_idx = idx;
}

static void sift_up(qr_waiting_queue *queue, int32_t idx, qr_request *request)
{
    while (idx > 0 && qr_request_before(request, queue->heap[(idx - 1) / 2])) {
        put(queue, idx, queue->heap[(idx - 1) / 2]);
        idx = (idx - 1) / 2;
    }
    put(queue, idx, request);
}

static void sift_down(qr_waiting_queue *queue, int32_t idx, qr_request *request)
{
    for (;;) {
        int64_t child = 2 * (int64_t)idx + 1;
        if (child >= queue->num_requests) break;
        if (child + 1 < queue->num_requests && qr_request_before(queue->heap[child + 1], queue->heap[child])) child++;
        if (!qr_request_before(queue->heap[child], request)) break;
        put(queue, idx, queue->heap[child]);
        idx = (int32_t)child;
    }
    put(queue, idx, request);
}

void qr_waiting_queue_push(qr_waiting_queue *queue, qr_request *request)
{
    assert(queue->num_requests < queue->max_requests && request->queue_idx == -1);
    sift_up(queue, queue->num_requests++, request);
}

void qr_waiting_queue_remove(qr_waiting_queue *queue, qr_request *request)
{
    const int32_t idx = request->queue_idx;
    assert(idx >= 0 && queue->heap[idx] == request);
    request->queue_idx = -1;
    qr_request *last = queue->heap[--queue->num_requests];
    if (last == request) return;
    if (idx > 0 && qr_request_before(last, queue->heap[(idx - 1) / 2]))
        sift_up(queue, idx, last);
    else
        sift_down(queue, idx, last);
}

quire_status qr_waiting_queue_check(const qr_waiting_queue *queue, quire_error *error)
{
    for (int32_t idx = 0; idx < queue->num_requests; idx++) {
        const qr_request *request = queue->heap[idx];
        if (request->queue_idx != idx)
            return qr_fail(error, QUIRE_INVALID, "waiting queue: place %d holds a request of place %d", idx,
                           request->queue_idx);
        if (idx > 0 && qr_request_before(request, queue->heap[(idx - 1) / 2]))
            return qr_fail(error, QUIRE_INVALID, "waiting queue: place %d is before its parent", idx);
        if (request->status != QR_WAITING && request->status != QR_PREEMPTED)
            return qr_fail(error, QUIRE_INVALID, "waiting queue: place %d has status %d", idx, request->status);
    }
    return QUIRE_OK;
}
