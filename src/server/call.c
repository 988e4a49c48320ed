#include "server/call.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"

static void wake_loop(void *user) { qr_server_ready(user); }

qr_call *qr_call_create(qr_server *server, const qr_route *route)
{
    qr_call *call = qr_calloc(1, sizeof *call);
    if (!call) return NULL;
    atomic_init(&call->refs, 1);
    call->server = server;
    call->route = route;
    call->started_us = call->last_read_us = qr_clock_us();
    qr_outbox_init(&call->outbox, 0, false, wake_loop, call);
    return call;
}

void qr_call_ref(qr_call *call) { atomic_fetch_add(&call->refs, 1); }

void qr_call_unref(qr_call *call)
{
    if (atomic_fetch_sub(&call->refs, 1) != 1) return;
    if (call->reply.request) qr_reply_deinit(&call->reply);
    qr_api_request_deinit(&call->request);
    qr_outbox_deinit(&call->outbox);
    qr_emit_deinit(&call->answer);
    qr_emit_deinit(&call->sse);
    qr_free(call->body.data);
    qr_free(call->jobs);
    qr_free(call);
}

void qr_call_fail(qr_call *call, int http_status, const char *message, const char *param)
{
    call->http_status = http_status;
    call->retry_later = http_status == 503;
    qr_emit_clear(&call->answer);
    qr_reply_error(&call->answer, http_status, message, param);
}

void qr_call_fail_status(qr_call *call, quire_status status, const quire_error *error)
{
    int http_status = 500;
    if (status == QUIRE_INVALID || status == QUIRE_UNSUPPORTED || status == QUIRE_FORMAT) http_status = 400;
    if (status == QUIRE_QUEUE_FULL || status == QUIRE_ABORTED || status == QUIRE_NOMEM) http_status = 503;
    const char *message = error->message[0] ? error->message : quire_status_text(status);
    if (status == QUIRE_QUEUE_FULL) message = "the request queue is full; try again later";
    if (http_status == 500) qr_log(QR_LOG_ERROR, "server: %s", message);
    qr_call_fail(call, http_status, message, error->param);
}

void qr_call_abandon(qr_call *call)
{
    qr_outbox_close(&call->outbox);
    for (int i = 0; i < call->num_jobs; i++) {
        if (!call->jobs[i].request) continue;
        quire_request_abort(call->jobs[i].request);
        quire_request_release(call->jobs[i].request);
        call->jobs[i].request = NULL;
    }
}

static const char *failure_text(qr_outbox_failure failure)
{
    return failure == QR_OUTBOX_NOMEM ? "out of memory" : "the client reads too slowly";
}

static const char *output_error(const quire_output *output)
{
    return output->error_message ? output->error_message : "the engine failed";
}

bool qr_call_collect(qr_call *call)
{
    bool finished;
    qr_outbox_failure failure;
    qr_outbox_item *item;
    while ((item = qr_outbox_pop(&call->outbox, &finished, &failure))) {
        if (item->output.finish_reason == QUIRE_FINISH_ERROR) {
            qr_call_fail(call, 500, output_error(&item->output), NULL);
            qr_free(item);
            qr_call_abandon(call);
            return true;
        }
        qr_reply_add(&call->reply, item->prompt_idx, &item->output, NULL);
        qr_free(item);
    }
    if (failure != QR_OUTBOX_FINE) {
        qr_call_fail(call, 500, failure_text(failure), NULL);
        qr_call_abandon(call);
        return true;
    }
    if (!finished) return false;
    call->http_status = 200;
    qr_reply_finish(&call->reply, &call->answer);
    if (call->answer.failed) qr_call_fail(call, 500, "out of memory for the answer", NULL);
    return true;
}

/* Errors in the middle of a stream: an event behind those already formatted, then the end. */
static void end_with_error(qr_call *call, const char *message)
{
    qr_emit_raw(&call->sse, "data: ");
    qr_reply_error(&call->sse, 500, message, NULL);
    qr_emit_raw(&call->sse, "\n\ndata: [DONE]\n\n");
    call->ended = true;
    qr_call_abandon(call);
}

/* Format waiting outputs until about max_bytes are there. */
static void fill_stream(qr_call *call, size_t max_bytes)
{
    qr_emit_clear(&call->sse);
    call->sse_sent = 0;
    while (!call->ended && call->sse.buf.len < max_bytes) {
        bool finished;
        qr_outbox_failure failure;
        qr_outbox_item *item = qr_outbox_pop(&call->outbox, &finished, &failure);
        if (!item) {
            if (failure != QR_OUTBOX_FINE) {
                end_with_error(call, failure_text(failure));
            } else if (finished) {
                qr_reply_finish(&call->reply, &call->sse);
                call->ended = true;
            }
            break;
        }
        if (item->output.finish_reason == QUIRE_FINISH_ERROR)
            end_with_error(call, output_error(&item->output));
        else
            qr_reply_add(&call->reply, item->prompt_idx, &item->output, &call->sse);
        qr_free(item);
    }
}

long qr_call_read_stream(qr_call *call, char *out, size_t max_bytes)
{
    call->last_read_us = qr_clock_us();
    size_t left = call->sse.buf.len - call->sse_sent;
    if (left == 0) {
        if (call->ended) return -1;
        fill_stream(call, max_bytes);
        if (call->sse.failed) return -2;
        left = call->sse.buf.len;
    }
    if (left > max_bytes) left = max_bytes;
    if (left == 0) return 0;
    memcpy(out, call->sse.buf.data + call->sse_sent, left);
    call->sse_sent += left;
    return (long)left;
}
