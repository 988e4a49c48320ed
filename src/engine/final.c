/* final: the outputs of sequences that are chosen among, whole and best first. */
#include <math.h>

#include "engine/request.h"

/* What one of the n outputs is made of. */
typedef struct choice {
    const int32_t *tokens;
    int num_tokens;
    int num_shown;         /* tokens whose text shows: without a stop token at the end */
    size_t max_text_bytes; /* cut there: a stop string */
    double logprob, score;
    quire_finish_reason reason;
    const char *stop_string;
    int32_t stop_token_id;
} choice;

static quire_status decode(const quire_request *r, const choice *c, qr_buf *text)
{
    if (qr_buf_reserve(text, r->prompt_text_bytes + 1) != 0) return QUIRE_NOMEM;
    text->data[0] = '\0';
    if (!r->params.detokenize || !r->model->tokenizer) return QUIRE_OK;
    if (r->prompt_text && qr_buf_append(text, r->prompt_text, r->prompt_text_bytes) != 0) return QUIRE_NOMEM;
    qr_detok detok;
    qr_detok_init(&detok, r->model->tokenizer, r->params.skip_special_tokens);
    for (int i = 0; i < c->num_shown; i++) QR_TRY(qr_detok_push(&detok, c->tokens[i], text));
    QR_TRY(qr_detok_flush(&detok, text));
    if (text->len > c->max_text_bytes) text->data[text->len = c->max_text_bytes] = '\0';
    return QUIRE_OK;
}

static void deliver(quire_request *r, int index, const choice *c)
{
    qr_buf text = {0};
    quire_output o = {.token_ids = c->tokens,
                      .num_tokens = c->num_tokens,
                      .finish_reason = c->reason,
                      .stop_string = c->stop_string,
                      .stop_token_id = c->stop_token_id};
    r->seqs[index].started = false;
    qr_request_fill_output(r, &r->seqs[index], c->num_tokens, &o);
    o.cumulative_logprob = c->logprob;
    o.beam_score = c->score;
    if (decode(r, c, &text) != QUIRE_OK) {
        o.finish_reason = QUIRE_FINISH_ERROR;
        o.error_message = "out of memory for the output's text";
    }
    o.text = text.data ? text.data : "";
    o.text_bytes = text.data ? text.len : 0;
    o.request_finished = index == r->params.n - 1;
    qr_request_deliver(r, &o);
    qr_free(text.data);
}

static double mean_logprob(const quire_request *r, int i)
{
    int num = r->sched_request->seqs[i].num_output_tokens;
    return num > 0 ? r->seqs[i].cumulative_logprob / num : 0;
}

/* The best sequence not delivered yet; of equals the first. A delivered one has lost its reason. */
static int best_left(const quire_request *r)
{
    int best = -1;
    for (int i = 0; i < r->num_seqs; i++)
        if (r->seqs[i].reason != QUIRE_FINISH_NONE && (best < 0 || mean_logprob(r, i) > mean_logprob(r, best)))
            best = i;
    return best;
}

void qr_request_deliver_best(quire_request *r)
{
    for (int index = 0; index < r->params.n; index++) {
        int i = best_left(r);
        qr_output_seq *seq = &r->seqs[i];
        const qr_seq *s = &r->sched_request->seqs[i];
        const choice c = {.tokens = s->output_token_ids,
                          .num_tokens = s->num_output_tokens,
                          .num_shown = s->num_output_tokens,
                          .max_text_bytes = seq->text_bytes,
                          .logprob = seq->cumulative_logprob,
                          .score = NAN,
                          .reason = seq->reason,
                          .stop_string = seq->stop_string,
                          .stop_token_id = seq->stop_token_id};
        seq->reason = QUIRE_FINISH_NONE; /* delivered */
        deliver(r, index, &c);
    }
}

void qr_request_deliver_beams(quire_request *r)
{
    for (int index = 0; index < r->params.n; index++) {
        const qr_beam_hypothesis *h = &r->beams->finished[index];
        int32_t last = h->tokens[h->num_tokens - 1];
        bool stop_token = qr_request_is_stop_token(r, last), stopped = stop_token || qr_request_is_eos(r, last);
        const choice c = {.tokens = h->tokens,
                          .num_tokens = h->num_tokens,
                          .num_shown = h->num_tokens - (stopped && !r->params.include_stop_str_in_output),
                          .max_text_bytes = SIZE_MAX,
                          .logprob = h->logprob,
                          .score = h->score,
                          .reason = stopped ? QUIRE_FINISH_STOP : QUIRE_FINISH_LENGTH,
                          .stop_token_id = stop_token ? last : -1};
        deliver(r, index, &c);
    }
}
