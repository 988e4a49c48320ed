#include "server/outbox.h"

#include <string.h>

#include "base/mem.h"

/* ---- deep copy ---- */

/* A block that is first measured (data NULL), then filled. Sizes are kept multiples of 8, so everything is aligned. */
typedef struct block {
    char *data;
    size_t bytes;
} block;

static void *put(block *b, const void *from, size_t bytes)
{
    if (!from) return NULL;
    char *to = b->data ? b->data + b->bytes : NULL;
    if (to) memcpy(to, from, bytes);
    b->bytes += (bytes + 7) & ~(size_t)7;
    return to;
}

static char *put_string(block *b, const char *text, size_t bytes)
{
    char *to = put(b, text, bytes + 1);
    return to;
}

static const quire_token_logprobs *put_logprobs(block *b, const quire_token_logprobs *from, int count)
{
    quire_token_logprobs *to = put(b, from, (size_t)count * sizeof *from);
    for (int i = 0; from && i < count; i++) {
        size_t num_top = (size_t)from[i].num_top;
        const int32_t *ids = put(b, num_top ? from[i].top_ids : NULL, num_top * sizeof *ids);
        const float *logprobs = put(b, num_top ? from[i].top_logprobs : NULL, num_top * sizeof *logprobs);
        if (!to) continue;
        to[i].top_ids = ids;
        to[i].top_logprobs = logprobs;
    }
    return to;
}

static void put_output(block *b, const quire_output *from, qr_outbox_item *item)
{
    quire_output to = *from;
    to.text = put_string(b, from->text ? from->text : "", from->text ? from->text_bytes : 0);
    to.token_ids = put(b, from->token_ids, (size_t)from->num_tokens * sizeof *from->token_ids);
    to.logprobs = put_logprobs(b, from->logprobs, from->num_tokens);
    to.prompt_token_ids =
        put(b, from->prompt_token_ids, (size_t)from->num_prompt_tokens * sizeof *from->prompt_token_ids);
    to.prompt_logprobs = put_logprobs(b, from->prompt_logprobs, from->num_prompt_tokens);
    to.stop_string = from->stop_string ? put_string(b, from->stop_string, strlen(from->stop_string)) : NULL;
    to.error_message = from->error_message ? put_string(b, from->error_message, strlen(from->error_message)) : NULL;
    if (item) item->output = to;
}

qr_outbox_item *qr_outbox_copy(int prompt_idx, const quire_output *output)
{
    block b = {0};
    put_output(&b, output, NULL);
    qr_outbox_item *item = qr_malloc(sizeof *item + b.bytes);
    if (!item) return NULL;
    *item = (qr_outbox_item){.prompt_idx = prompt_idx, .bytes = sizeof *item + b.bytes};
    b = (block){(char *)(item + 1), 0};
    put_output(&b, output, item);
    return item;
}

/* ---- the queue ---- */

void qr_outbox_init(qr_outbox *outbox, size_t max_bytes, bool eager, void (*wake)(void *user), void *user)
{
    *outbox = (qr_outbox){.max_bytes = max_bytes, .eager = eager, .wake = wake, .user = user};
    outbox->tail = &outbox->head;
    pthread_mutex_init(&outbox->lock, NULL);
}

static void drop_items(qr_outbox *outbox)
{
    while (outbox->head) {
        qr_outbox_item *item = outbox->head;
        outbox->head = item->next;
        qr_free(item);
    }
    outbox->tail = &outbox->head;
    outbox->bytes = 0;
}

void qr_outbox_deinit(qr_outbox *outbox)
{
    drop_items(outbox);
    pthread_mutex_destroy(&outbox->lock);
}

void qr_outbox_add_request(qr_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->num_unfinished++;
    pthread_mutex_unlock(&outbox->lock);
}

void qr_outbox_cancel_request(qr_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->num_unfinished--;
    pthread_mutex_unlock(&outbox->lock);
}

static void append(qr_outbox *outbox, qr_outbox_item *item)
{
    if (outbox->max_bytes && outbox->bytes > outbox->max_bytes) outbox->failure = QR_OUTBOX_OVERFLOW;
    if (!item) outbox->failure = QR_OUTBOX_NOMEM;
    if (outbox->failure != QR_OUTBOX_FINE) {
        drop_items(outbox);
        qr_free(item);
        return;
    }
    *outbox->tail = item;
    outbox->tail = &item->next;
    outbox->bytes += item->bytes;
}

void qr_outbox_push(qr_outbox *outbox, int prompt_idx, const quire_output *output)
{
    qr_outbox_item *item = qr_outbox_copy(prompt_idx, output); /* outside the lock */
    pthread_mutex_lock(&outbox->lock);
    if (output->request_finished) outbox->num_unfinished--;
    if (outbox->closed) {
        qr_free(item);
    } else {
        append(outbox, item);
        bool failed = outbox->failure != QR_OUTBOX_FINE;
        /* an overflow is told at once: the loop may be waiting for the client, not for us */
        if (failed || (outbox->waiting && (outbox->eager || outbox->num_unfinished == 0))) {
            outbox->waiting = false;
            outbox->wake(outbox->user);
        }
    }
    pthread_mutex_unlock(&outbox->lock);
}

qr_outbox_item *qr_outbox_pop(qr_outbox *outbox, bool *out_finished, qr_outbox_failure *out_failure)
{
    pthread_mutex_lock(&outbox->lock);
    qr_outbox_item *item = outbox->head;
    if (item) {
        outbox->head = item->next;
        if (!outbox->head) outbox->tail = &outbox->head;
        outbox->bytes -= item->bytes;
    }
    *out_finished = !item && outbox->num_unfinished == 0;
    *out_failure = outbox->failure;
    outbox->waiting = !item && !*out_finished;
    pthread_mutex_unlock(&outbox->lock);
    return item;
}

qr_outbox_failure qr_outbox_get_failure(qr_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    qr_outbox_failure failure = outbox->failure;
    pthread_mutex_unlock(&outbox->lock);
    return failure;
}

bool qr_outbox_is_closed(qr_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    bool closed = outbox->closed;
    pthread_mutex_unlock(&outbox->lock);
    return closed;
}

void qr_outbox_close(qr_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->closed = true;
    drop_items(outbox);
    pthread_mutex_unlock(&outbox->lock);
}
