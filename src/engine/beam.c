#include "engine/beam.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

typedef struct qr_beam_candidate {
    float logprob;
    int beam;
    int32_t token;
} candidate;

int qr_beam_num_candidates(int width, int num_eos) { return (num_eos > 0 ? 1 + num_eos : 2) * width; }

quire_status qr_beam_create(const quire_sampling_params *params, int width, int num_eos, int max_tokens,
                            qr_beam_search **out, quire_error *error)
{
    qr_beam_search *b = qr_calloc(1, sizeof *b);
    if (!b) return qr_fail_nomem(error, "the beam search", sizeof *b);
    size_t w = (size_t)width;
    b->width = width;
    b->num_candidates = qr_beam_num_candidates(width, num_eos);
    b->max_tokens = max_tokens;
    b->length_penalty = (float)params->length_penalty;
    b->early_stopping = params->early_stopping;
    b->scores = qr_calloc(w, sizeof *b->scores);
    b->parents = qr_calloc(w, sizeof *b->parents);
    b->tokens = qr_calloc(w, sizeof *b->tokens);
    b->seq_idx = qr_calloc(w, sizeof *b->seq_idx);
    b->next_seq_idx = qr_calloc(w, sizeof *b->next_seq_idx);
    b->row = qr_calloc(w, sizeof *b->row);
    b->candidates = qr_calloc(w * (size_t)b->num_candidates, sizeof *b->candidates);
    b->finished = qr_calloc(w, sizeof *b->finished);
    bool ok =
        b->scores && b->parents && b->tokens && b->seq_idx && b->next_seq_idx && b->row && b->candidates && b->finished;
    for (size_t i = 0; i < w && ok; i++) {
        b->finished[i].score = -1e9f;
        b->finished[i].tokens = qr_malloc((size_t)max_tokens * sizeof(int32_t));
        ok = b->finished[i].tokens != NULL;
    }
    if (!ok) {
        qr_beam_destroy(b);
        return qr_fail_nomem(error, "the beam search", w * (size_t)max_tokens * sizeof(int32_t));
    }
    *out = b;
    return QUIRE_OK;
}

void qr_beam_destroy(qr_beam_search *b)
{
    if (!b) return;
    for (int i = 0; b->finished && i < b->width; i++) qr_free(b->finished[i].tokens);
    qr_free(b->scores);
    qr_free(b->parents);
    qr_free(b->tokens);
    qr_free(b->seq_idx);
    qr_free(b->next_seq_idx);
    qr_free(b->row);
    qr_free(b->candidates);
    qr_free(b->finished);
    qr_free(b);
}

/* Best first; of equals the lower beam, then the lower token. */
static int compare(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logprob != y->logprob) return x->logprob > y->logprob ? -1 : 1;
    if (x->beam != y->beam) return x->beam < y->beam ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

static void collect(qr_beam_search *b, const int32_t *const *ids, const float *const *logprobs, int num_rows)
{
    int num = 0;
    for (int beam = 0; beam < num_rows; beam++)
        for (int i = 0; i < b->num_candidates; i++)
            b->candidates[num++] = (candidate){logprobs[beam][i] + b->scores[beam], beam, ids[beam][i]};
    qsort(b->candidates, (size_t)num, sizeof *b->candidates, compare);
}

static bool all_finished(const qr_beam_search *b)
{
    for (int i = 0; i < b->width; i++)
        if (!b->finished[i].finished) return false;
    return true;
}

/* Into its place among the finished ones, if it is good enough. */
static void insert_finished(qr_beam_search *b, const candidate *c, const int32_t *output)
{
    int num_tokens = b->num_tokens + 1, last = b->width - 1;
    float score = c->logprob / powf((float)num_tokens, b->length_penalty);
    if (!(score > b->finished[last].score)) return;
    qr_beam_hypothesis h = b->finished[last];
    int at = last;
    for (; at > 0 && score > b->finished[at - 1].score; at--) b->finished[at] = b->finished[at - 1];
    h.finished = true;
    h.score = score;
    h.logprob = c->logprob;
    h.num_tokens = num_tokens;
    if (b->num_tokens > 0) memcpy(h.tokens, output, (size_t)b->num_tokens * sizeof *output);
    h.tokens[b->num_tokens] = c->token;
    b->finished[at] = h;
}

/* Could the best running beam still beat the worst finished one? */
static bool improvement_likely(const qr_beam_search *b)
{
    bool at_most = b->early_stopping == QUIRE_EARLY_STOPPING_NEVER && b->length_penalty > 0;
    float length = (float)(at_most ? b->max_tokens : b->num_tokens);
    return !all_finished(b) || b->scores[0] / powf(length, b->length_penalty) > b->finished[b->width - 1].score;
}

bool qr_beam_advance(qr_beam_search *b, const int32_t *const *ids, const float *const *logprobs,
                     const int32_t *const *outputs, int num_rows, bool (*ends)(const void *ctx, int32_t token),
                     const void *ctx)
{
    collect(b, ids, logprobs, num_rows);
    bool stop_on_full = b->early_stopping == QUIRE_EARLY_STOPPING_TRUE, full = stop_on_full && all_finished(b);
    bool last_step = b->num_tokens + 1 >= b->max_tokens;
    int num_running = 0;
    for (int i = 0; i < b->num_candidates; i++) {
        const candidate *c = &b->candidates[i];
        if (last_step || ends(ctx, c->token)) {
            if (i < b->width && !full && !b->improbable) insert_finished(b, c, outputs[c->beam]);
        } else if (num_running < b->width) {
            b->parents[num_running] = c->beam;
            b->tokens[num_running] = c->token;
            b->scores[num_running++] = c->logprob;
        }
    }
    b->num_tokens++;
    if (last_step || num_running < b->width) return true;
    b->improbable = b->improbable || !improvement_likely(b);
    return b->improbable || (stop_on_full && all_finished(b));
}
