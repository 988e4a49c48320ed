/* beam_step: a step of a beam search: its choices carried out on the sequences of the group. */
#include <stdio.h>

#include "base/log.h"
#include "engine/engine.h"

static bool ends_sequence(const void *ctx, int32_t token)
{
    const quire_request *r = ctx;
    return qr_request_is_stop_token(r, token) || qr_request_is_eos(r, token);
}

static bool advance(quire_engine *e, quire_request *r)
{
    qr_beam_search *b = r->beams;
    const int32_t *ids[QR_MAX_LOGPROBS], *outputs[QR_MAX_LOGPROBS];
    const float *logprobs[QR_MAX_LOGPROBS];
    for (int beam = 0; beam < b->num_rows; beam++) {
        size_t at = (size_t)b->row[beam] * QR_MAX_LOGPROBS;
        ids[beam] = e->top_ids + at;
        logprobs[beam] = e->top_logprobs + at;
        outputs[beam] = r->sched_request->seqs[b->seq_idx[beam]].output_token_ids;
    }
    return qr_beam_advance(b, ids, logprobs, outputs, b->num_rows, ends_sequence, r);
}

static void rearrange(quire_engine *e, quire_request *r)
{
    qr_beam_search *b = r->beams;
    qr_sched_rearrange_beams(e->sched, r->sched_request, b->parents, b->seq_idx, b->next_seq_idx);
    int *swap = b->seq_idx;
    b->seq_idx = b->next_seq_idx;
    b->next_seq_idx = swap;
}

/* Which beams go on, for statistics: tools/beam-statistics.py reads it. */
static void log_parents(const quire_request *r)
{
    char text[8 * QR_MAX_LOGPROBS];
    int len = 0;
    for (int i = 0; i < r->beams->width; i++)
        len += snprintf(text + len, sizeof text - (size_t)len, " %d", r->beams->parents[i]);
    qr_log(QR_LOG_DEBUG, "beam search %llu: parents%s", (unsigned long long)r->sched_request->arrival, text);
}

static void finish(quire_engine *e, quire_request *r)
{
    qr_request_deliver_beams(r);
    for (int i = 0; i < r->num_seqs; i++)
        qr_sched_finish_seq(e->sched, &r->sched_request->seqs[i], QR_FINISHED_STOPPED);
    bool stopped = r->beams->finished[0].num_tokens < r->max_output_tokens;
    qr_engine_retire(e, r, stopped ? QUIRE_FINISH_STOP : QUIRE_FINISH_LENGTH);
}

void qr_engine_take_beam(quire_engine *e, int job_idx)
{
    quire_request *r = e->jobs[job_idx].seq->request->user;
    qr_beam_search *b = r->beams;
    bool first = b->num_tokens == 0;
    int beam = 0;
    while (!first && b->seq_idx[beam] != e->jobs[job_idx].seq->idx) beam++;
    b->row[beam] = job_idx;
    if (++b->num_rows < (first ? 1 : b->width)) return;
    bool over = advance(e, r);
    b->num_rows = 0;
    if (over) {
        finish(e, r);
        return;
    }
    /* after the first step every sequence of the group is a fork of the prompt: beam i runs on sequence i */
    for (int i = 0; first && i < b->width; i++) b->seq_idx[i] = i;
    if (!first) rearrange(e, r);
    if (!first && qr_log_enabled(QR_LOG_DEBUG)) log_parents(r);
    for (int i = 0; i < b->width; i++)
        qr_sched_append_token(e->sched, &r->sched_request->seqs[b->seq_idx[i]], b->tokens[i]);
}
