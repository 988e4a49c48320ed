#define _GNU_SOURCE
#include "engine/request.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "base/clock.h"
#include "engine/sampler.h"

struct qr_queued_output {
    qr_queued_output *next;
    quire_output output; /* pointers into the bytes that follow, or into the request */
};

/* ---- checking and copying ------------------------------------------------------------------------------ */

static quire_status check_range(const char *name, double value, double min, double max, bool open_min,
                                quire_error *error)
{
    if (value >= min && value <= max && !(open_min && value == min)) return QUIRE_OK;
    return qr_fail_param(error, name, "%s must be in %c%g, %g], got %g", name, open_min ? '(' : '[', min, max, value);
}

static quire_status check_text_params(const quire_sampling_params *p, const quire_model *model, quire_error *error)
{
    if (p->num_stop > 0 && (!p->detokenize || !model->tokenizer))
        return qr_fail_param(error, "stop", "stop strings need text output: this request has token ids only");
    for (int i = 0; i < p->num_stop; i++)
        if (!p->stop[i] || !p->stop[i][0]) return qr_fail_param(error, "stop", "stop strings must not be empty");
    for (int i = 0; i < p->num_stop_token_ids; i++)
        if (p->stop_token_ids[i] < 0 || p->stop_token_ids[i] >= model->info.vocab_size)
            return qr_fail_param(error, "stop_token_ids", "stop_token_ids: %d is outside the vocabulary (0 to %d)",
                                 p->stop_token_ids[i], model->info.vocab_size - 1);
    for (int i = 0; i < p->num_logit_bias; i++) {
        int32_t id = p->logit_bias[i].token_id;
        if (id < 0 || id >= model->info.vocab_size)
            return qr_fail_param(error, "logit_bias", "logit_bias: token id %d is outside the vocabulary (0 to %d)", id,
                                 model->info.vocab_size - 1);
        QR_TRY(check_range("logit_bias", p->logit_bias[i].bias, -100, 100, false, error));
    }
    return QUIRE_OK;
}

/* Sequences that are chosen among: best_of, beams. */
static quire_status check_choice(const quire_sampling_params *p, const quire_model *model, quire_error *error)
{
    if (p->best_of != 0 && p->best_of < p->n)
        return qr_fail_param(error, "best_of", "best_of (%d) must be at least n (%d)", p->best_of, p->n);
    if (!p->use_beam_search && p->best_of <= p->n) return QUIRE_OK;
    if (p->logprobs >= 0)
        return qr_fail_param(error, "logprobs", "logprobs cannot be combined with %s",
                             p->use_beam_search ? "beam search" : "best_of above n");
    if (!p->use_beam_search) return QUIRE_OK;
    int width = p->best_of ? p->best_of : p->n, num_eos = model->num_eos_ids + p->num_stop_token_ids;
    if (qr_beam_num_candidates(width, num_eos) > QR_MAX_LOGPROBS ||
        qr_beam_num_candidates(width, num_eos) > model->info.vocab_size)
        return qr_fail_param(error, "best_of", "a beam search of %d beams is too wide: %d candidates a step at most",
                             width, QR_MAX_LOGPROBS);
    if (p->num_stop > 0) return qr_fail_param(error, "stop", "stop strings cannot be combined with beam search");
    if (p->num_logit_bias > 0)
        return qr_fail_param(error, "logit_bias", "logit_bias cannot be combined with beam search");
    if (p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0)
        return qr_fail_param(error, "repetition_penalty", "penalties cannot be combined with beam search");
    if (!(p->length_penalty >= -10 && p->length_penalty <= 10))
        return qr_fail_param(error, "length_penalty", "length_penalty must be in [-10, 10], got %g", p->length_penalty);
    if (p->max_tokens == 0) return qr_fail_param(error, "max_tokens", "a beam search needs max_tokens of at least 1");
    return QUIRE_OK;
}

static quire_status check_params(const quire_sampling_params *p, const quire_model *model, quire_error *error)
{
    if (p->n < 1) return qr_fail_param(error, "n", "n must be at least 1, got %d", p->n);
    if (p->max_tokens == 0 && !p->echo && p->prompt_logprobs < 0)
        return qr_fail_param(error, "max_tokens", "max_tokens must be at least 1, got 0");
    if (p->min_tokens < 0)
        return qr_fail_param(error, "min_tokens", "min_tokens must be 0 or more, got %d", p->min_tokens);
    if (p->max_tokens >= 0 && p->min_tokens > p->max_tokens)
        return qr_fail_param(error, "min_tokens", "min_tokens (%d) must be at most max_tokens (%d)", p->min_tokens,
                             p->max_tokens);
    QR_TRY(check_range("temperature", p->temperature, 0, 100, false, error));
    QR_TRY(check_range("top_p", p->top_p, 0, 1, true, error));
    QR_TRY(check_range("min_p", p->min_p, 0, 1, false, error));
    QR_TRY(check_range("typical_p", p->typical_p, 0, 1, true, error));
    QR_TRY(check_range("repetition_penalty", p->repetition_penalty, 0, 100, true, error));
    QR_TRY(check_range("presence_penalty", p->presence_penalty, -2, 2, false, error));
    QR_TRY(check_range("frequency_penalty", p->frequency_penalty, -2, 2, false, error));
    int most = model->info.vocab_size < QR_MAX_LOGPROBS ? model->info.vocab_size : QR_MAX_LOGPROBS;
    QR_TRY(check_range("logprobs", p->logprobs, -1, most, false, error));
    QR_TRY(check_range("prompt_logprobs", p->prompt_logprobs, -1, most, false, error));
    QR_TRY(check_choice(p, model, error));
    return check_text_params(p, model, error);
}

/* Copy the parameter arrays into one allocation. */
static quire_status copy_params(quire_request *r, const quire_sampling_params *p, quire_error *error)
{
    size_t bytes = (size_t)p->num_stop * sizeof(char *) + (size_t)p->num_stop_token_ids * sizeof(int32_t) +
                   (size_t)p->num_logit_bias * sizeof(quire_logit_bias);
    for (int i = 0; i < p->num_stop; i++) bytes += strlen(p->stop[i]) + 1;
    char *at = r->param_copies = qr_malloc(bytes);
    if (!at) return qr_fail_nomem(error, "the sampling parameters", bytes);
    r->params = *p;
    char **stop = (char **)(void *)at;
    at += (size_t)p->num_stop * sizeof(char *);
    quire_logit_bias *bias = (quire_logit_bias *)(void *)at;
    at += (size_t)p->num_logit_bias * sizeof *bias;
    int32_t *ids = (int32_t *)(void *)at;
    at += (size_t)p->num_stop_token_ids * sizeof *ids;
    if (p->num_logit_bias) memcpy(bias, p->logit_bias, (size_t)p->num_logit_bias * sizeof *bias);
    if (p->num_stop_token_ids) memcpy(ids, p->stop_token_ids, (size_t)p->num_stop_token_ids * sizeof *ids);
    for (int i = 0; i < p->num_stop; i++) {
        size_t len = strlen(p->stop[i]) + 1;
        stop[i] = memcpy(at, p->stop[i], len);
        at += len;
    }
    r->params.stop = (const char *const *)stop;
    r->params.logit_bias = bias;
    r->params.stop_token_ids = ids;
    return QUIRE_OK;
}

static quire_status copy_prompt(quire_request *r, const quire_request_options *o, quire_error *error)
{
    size_t num = o->num_prompt_tokens;
    if (o->prompt_token_ids) {
        if (num > INT32_MAX) return qr_fail_param(error, "prompt", "the prompt has too many tokens: %zu", num);
        for (size_t i = 0; i < num; i++)
            if (o->prompt_token_ids[i] < 0 || o->prompt_token_ids[i] >= r->model->info.vocab_size)
                return qr_fail_param(error, "prompt", "prompt: token id %d is outside the vocabulary (0 to %d)",
                                     o->prompt_token_ids[i], r->model->info.vocab_size - 1);
        r->prompt_ids = qr_malloc(num * sizeof *r->prompt_ids);
        if (!r->prompt_ids) return qr_fail_nomem(error, "the prompt", num * sizeof *r->prompt_ids);
        memcpy(r->prompt_ids, o->prompt_token_ids, num * sizeof *r->prompt_ids);
    } else {
        if (!o->prompt) return qr_fail_param(error, "prompt", "prompt: missing");
        QR_TRY(quire_tokenize(r->model, o->prompt, o->prompt_bytes, o->add_special, o->parse_special, &r->prompt_ids,
                              &num, error));
        if (num > INT32_MAX) return qr_fail_param(error, "prompt", "the prompt has too many tokens: %zu", num);
    }
    r->num_prompt = (int)num;
    if (num == 0) return qr_fail_param(error, "prompt", "prompt: empty; at least one token is needed");
    if (!o->sampling.echo || !o->sampling.detokenize || !r->model->tokenizer) return QUIRE_OK;
    if (!o->prompt_token_ids) {
        r->prompt_text = qr_strndup(o->prompt, o->prompt_bytes);
        r->prompt_text_bytes = o->prompt_bytes;
        return r->prompt_text ? QUIRE_OK : qr_fail_nomem(error, "the prompt", o->prompt_bytes);
    }
    return quire_detokenize(r->model, r->prompt_ids, num, false, &r->prompt_text, &r->prompt_text_bytes, error);
}

static quire_status check_length(quire_request *r, int max_model_len, quire_error *error)
{
    if (r->num_prompt >= max_model_len)
        return qr_fail_param(error, "prompt",
                             "the prompt has %d tokens, and max_model_len is %d: at most %d fit, so that at least one "
                             "token can be generated",
                             r->num_prompt, max_model_len, max_model_len - 1);
    int room = max_model_len - r->num_prompt;
    if (r->params.max_tokens < 0 || r->params.max_tokens > room) r->params.max_tokens = room;
    r->max_output_tokens = r->params.max_tokens > 0 ? r->params.max_tokens : 1;
    return QUIRE_OK;
}

size_t qr_request_max_token_text(const quire_model *model) { return 4 * model->max_token_bytes + 64; }

/* Between two tokens a sequence may have text that has not been handed out. */
static bool holds_text(const quire_request *r) { return r->params.num_stop > 0 || r->params.echo; }

/* Everything that adding tokens will need. */
static quire_status reserve_outputs(quire_request *r, quire_error *error)
{
    size_t n = (size_t)r->num_seqs, longest = 0, num_prompt = (size_t)r->num_prompt;
    for (int i = 0; i < r->params.num_stop; i++)
        if (strlen(r->params.stop[i]) > longest) longest = strlen(r->params.stop[i]);
    size_t text = longest + r->prompt_text_bytes + qr_request_max_token_text(r->model);
    r->seqs = qr_aligned_calloc(QR_CACHE_LINE, n * sizeof *r->seqs);
    if (!r->seqs) return qr_fail_nomem(error, "the outputs", n * sizeof *r->seqs);
    for (size_t i = 0; i < n; i++) {
        qr_output_seq *seq = &r->seqs[i];
        qr_spec_seq_init(&seq->spec);
        if (r->model->tokenizer) qr_detok_init(&seq->detok, r->model->tokenizer, r->params.skip_special_tokens);
        if (!holds_text(r)) continue;
        if (qr_buf_reserve(&seq->text, text) != 0) return qr_fail_nomem(error, "the outputs", text);
        seq->text.data[0] = '\0';
    }
    if (r->params.use_beam_search) {
        int num_eos = r->params.ignore_eos ? 0 : r->model->num_eos_ids;
        QR_TRY(qr_beam_create(&r->params, r->num_seqs, num_eos + r->params.num_stop_token_ids, r->max_output_tokens,
                              &r->beams, error));
    }
    if (r->params.prompt_logprobs < 0) return QUIRE_OK;
    qr_prompt_logprobs *lp = &r->prompt_logprobs;
    size_t tops = num_prompt * (size_t)r->params.prompt_logprobs;
    lp->tokens = qr_calloc(num_prompt, sizeof *lp->tokens);
    lp->top_ids = qr_malloc(tops * sizeof *lp->top_ids);
    lp->top_logprobs = qr_malloc(tops * sizeof *lp->top_logprobs);
    if (!lp->tokens || !lp->top_ids || !lp->top_logprobs)
        return qr_fail_nomem(error, "prompt_logprobs", num_prompt * sizeof *lp->tokens + tops * 8);
    for (size_t i = 0; i < num_prompt; i++)
        lp->tokens[i] = (quire_token_logprobs){.token_id = r->prompt_ids[i], .logprob = NAN};
    return QUIRE_OK;
}

static quire_status request_fill(quire_request *r, const quire_request_options *o, int max_model_len,
                                 quire_error *error)
{
    QR_TRY(check_params(&o->sampling, r->model, error));
    QR_TRY(copy_params(r, &o->sampling, error));
    QR_TRY(copy_prompt(r, o, error));
    QR_TRY(check_length(r, max_model_len, error));
    r->num_seqs = r->params.best_of > 0 ? r->params.best_of : r->params.n;
    r->chosen_among = r->params.use_beam_search || r->num_seqs > r->params.n;
    if (r->chosen_among) r->params.logprobs = 0; /* to choose by */
    QR_TRY(reserve_outputs(r, error));
    if (o->cache_salt) r->extra_key = XXH3_64bits(o->cache_salt, strlen(o->cache_salt)) | 1;
    r->priority = o->priority;
    r->on_output = o->on_output;
    r->user = o->user;
    return QUIRE_OK;
}

quire_status qr_request_create(const quire_model *model, const quire_request_options *options, int max_model_len,
                               quire_request **out, quire_error *error)
{
    quire_request *r = qr_aligned_calloc(QR_CACHE_LINE, sizeof *r);
    if (!r) return qr_fail_nomem(error, "the request", sizeof *r);
    atomic_init(&r->num_refs, 1);
    atomic_init(&r->abort_requested, false);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->arrived, &attr);
    pthread_condattr_destroy(&attr);
    r->model = model;
    quire_status status = request_fill(r, options, max_model_len, error);
    if (status != QUIRE_OK) {
        qr_request_unref(r);
        return status;
    }
    *out = r;
    return QUIRE_OK;
}

quire_status qr_request_index_ngrams(quire_request *r, const qr_spec_config *config, quire_error *error)
{
    for (int i = 0; i < r->num_seqs && config->method == QR_SPEC_NGRAM && !r->beams; i++) {
        qr_ngram **ngram = &r->seqs[i].spec.ngram;
        QR_TRY(
            qr_ngram_create(r->num_prompt + r->max_output_tokens, config->min_ngram, config->max_ngram, ngram, error));
        for (int t = 0; t < r->num_prompt; t++) qr_ngram_push(*ngram, r->prompt_ids[t]);
    }
    return QUIRE_OK;
}

void qr_request_unref(quire_request *r)
{
    if (atomic_fetch_sub(&r->num_refs, 1) != 1) return;
    for (qr_queued_output *o = r->first, *next; o; o = next) {
        next = o->next;
        qr_free(o);
    }
    qr_free(r->current);
    for (int i = 0; r->seqs && i < r->num_seqs; i++) {
        qr_ngram_destroy(r->seqs[i].spec.ngram);
        qr_free(r->seqs[i].text.data);
    }
    qr_free(r->seqs);
    qr_beam_destroy(r->beams);
    qr_free(r->prompt_logprobs.tokens);
    qr_free(r->prompt_logprobs.top_ids);
    qr_free(r->prompt_logprobs.top_logprobs);
    qr_free(r->param_copies);
    qr_free(r->prompt_ids);
    qr_free(r->prompt_text);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->arrived);
    qr_free(r);
}

/* ---- delivery ------------------------------------------------------------------------------------------- */

/* A copy that owns its text, token and logprobs; what belongs to the request is pointed to. */
static qr_queued_output *copy_output(const quire_output *o)
{
    int num_top = o->logprobs ? o->logprobs[0].num_top : 0; /* logprobs come with single tokens only */
    size_t token_bytes = (size_t)o->num_tokens * sizeof(int32_t);
    size_t tops = (size_t)num_top * (sizeof(int32_t) + sizeof(float));
    qr_queued_output *q = qr_malloc(sizeof *q + sizeof(quire_token_logprobs) + tops + token_bytes + o->text_bytes + 1);
    if (!q) return NULL;
    q->next = NULL;
    q->output = *o;
    quire_token_logprobs *logprobs = (quire_token_logprobs *)(void *)(q + 1);
    int32_t *top_ids = (int32_t *)(void *)(logprobs + 1);
    float *top_logprobs = (float *)(void *)(top_ids + num_top);
    int32_t *tokens = (int32_t *)(void *)(top_logprobs + num_top);
    char *text = (char *)(tokens + o->num_tokens);
    if (o->logprobs) {
        *logprobs = o->logprobs[0];
        if (num_top > 0) {
            memcpy(top_ids, logprobs->top_ids, (size_t)num_top * sizeof *top_ids);
            memcpy(top_logprobs, logprobs->top_logprobs, (size_t)num_top * sizeof *top_logprobs);
        }
        logprobs->top_ids = top_ids;
        logprobs->top_logprobs = top_logprobs;
        q->output.logprobs = logprobs;
    }
    if (o->num_tokens > 0) memcpy(tokens, o->token_ids, token_bytes);
    q->output.token_ids = tokens;
    memcpy(text, o->text, o->text_bytes);
    text[o->text_bytes] = '\0';
    q->output.text = text;
    return q;
}

void qr_request_deliver(quire_request *r, const quire_output *o)
{
    if (r->on_output) {
        r->on_output(r->user, o);
        return;
    }
    qr_queued_output *q = copy_output(o);
    pthread_mutex_lock(&r->lock);
    if (q) {
        if (r->last)
            r->last->next = q;
        else
            r->first = q;
        r->last = q;
    }
    if (o->request_finished) r->complete = true;
    if (!q) qr_request_ask_abort(r); /* no memory to hold its output: it cannot go on */
    pthread_cond_signal(&r->arrived);
    pthread_mutex_unlock(&r->lock);
}

quire_status quire_request_next(quire_request *r, int timeout_ms, const quire_output **out)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (timeout_ms > 0) {
        until.tv_sec += timeout_ms / 1000;
        until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    }
    quire_status status = QUIRE_OK;
    pthread_mutex_lock(&r->lock);
    while (!r->first && !r->complete && status == QUIRE_OK) {
        if (timeout_ms < 0)
            pthread_cond_wait(&r->arrived, &r->lock);
        else if (timeout_ms == 0 || pthread_cond_timedwait(&r->arrived, &r->lock, &until) != 0)
            status = QUIRE_TIMEOUT;
    }
    if (r->first) {
        status = QUIRE_OK;
        qr_free(r->current);
        r->current = r->first;
        r->first = r->first->next;
        if (!r->first) r->last = NULL;
        *out = &r->current->output;
    } else if (status == QUIRE_OK) {
        status = QUIRE_ABORTED;
    }
    pthread_mutex_unlock(&r->lock);
    return status;
}

int quire_request_num_prompt_tokens(const quire_request *r) { return r->num_prompt; }

void qr_request_ask_abort(quire_request *r)
{
    atomic_store(&r->abort_requested, true);
    if (r->abort_pending) atomic_store(r->abort_pending, true);
}

void quire_request_release(quire_request *r)
{
    if (r) qr_request_unref(r);
}

/* ---- making outputs ------------------------------------------------------------------------------------ */

bool qr_request_is_eos(const quire_request *r, int32_t token_id)
{
    for (int i = 0; i < r->model->num_eos_ids && !r->params.ignore_eos; i++)
        if (r->model->eos_ids[i] == token_id) return true;
    return false;
}

bool qr_request_is_stop_token(const quire_request *r, int32_t token_id)
{
    for (int i = 0; i < r->params.num_stop_token_ids; i++)
        if (r->params.stop_token_ids[i] == token_id) return true;
    return false;
}

/* The stop string that begins first in text[from..); *pos is where. */
static const char *find_stop(const quire_sampling_params *p, const char *text, size_t from, size_t *pos)
{
    const char *found = NULL;
    for (int i = 0; i < p->num_stop; i++) {
        const char *at = strstr(text + from, p->stop[i]);
        if (at && (!found || (size_t)(at - text) < *pos)) {
            *pos = (size_t)(at - text);
            found = p->stop[i];
        }
    }
    return found;
}

/* Bytes at the end of text that may be the beginning of a stop string. */
static size_t held_back(const quire_sampling_params *p, const char *text, size_t len, size_t from)
{
    size_t most = 0;
    for (int i = 0; i < p->num_stop; i++) {
        size_t stop_len = strlen(p->stop[i]), n = stop_len - 1;
        if (n > len - from) n = len - from;
        for (; n > most; n--)
            if (memcmp(text + len - n, p->stop[i], n) == 0) most = n;
    }
    return most;
}

static quire_finish_reason stop_reason(quire_request *r, int32_t token, int num_output, quire_output *o)
{
    if (num_output >= r->params.min_tokens) {
        if (qr_request_is_stop_token(r, token)) {
            o->stop_token_id = token;
            return QUIRE_FINISH_STOP;
        }
        if (qr_request_is_eos(r, token)) return QUIRE_FINISH_STOP;
    }
    return num_output >= r->params.max_tokens ? QUIRE_FINISH_LENGTH : QUIRE_FINISH_NONE;
}

/* Decide how much of the pending text goes out; may find a stop string. */
static size_t take_text(const quire_request *r, const qr_output_seq *seq, const qr_buf *text, int num_output,
                        quire_output *o)
{
    const quire_sampling_params *p = &r->params;
    bool stopped_by_token = o->finish_reason == QUIRE_FINISH_STOP;
    size_t pos = 0;
    if (p->num_stop > 0 && num_output >= p->min_tokens && !stopped_by_token) {
        const char *stop = find_stop(p, text->data, seq->stop_scan_from, &pos);
        if (stop) {
            o->finish_reason = QUIRE_FINISH_STOP;
            o->stop_string = stop;
            return pos + (p->include_stop_str_in_output ? strlen(stop) : 0);
        }
    }
    if (o->finish_reason != QUIRE_FINISH_NONE) return text->len;
    return text->len - held_back(p, text->data, text->len, seq->stop_scan_from);
}

void qr_request_fill_output(quire_request *r, qr_output_seq *seq, int num_output, quire_output *o)
{
    bool first = !seq->started;
    if (first && r->sched_request && r->sched_request->num_cached_tokens > 0)
        seq->num_cached_tokens = r->sched_request->num_cached_tokens;
    seq->started = true;
    o->index = (int)(seq - r->seqs);
    o->num_prompt_tokens = r->num_prompt;
    if (first && (r->params.echo || r->params.prompt_logprobs >= 0)) o->prompt_token_ids = r->prompt_ids;
    if (o->prompt_token_ids) o->prompt_logprobs = r->prompt_logprobs.tokens;
    o->num_cached_tokens = seq->num_cached_tokens;
    o->num_output_tokens = num_output;
    o->cumulative_logprob = r->params.logprobs >= 0 ? seq->cumulative_logprob : NAN;
    o->beam_score = NAN;
}

/* Hand out `bytes` of the pending text, with the prompt's before it where echo wants it. */
static void send(quire_request *r, qr_output_seq *seq, qr_buf *pending, size_t bytes, quire_output *o)
{
    char *text = pending->data, saved = text[bytes];
    text[bytes] = '\0';
    o->text = text;
    o->text_bytes = bytes;
    if (o->finish_reason != QUIRE_FINISH_NONE) {
        seq->finished = true;
        r->num_finished++;
        o->request_finished = r->num_finished == r->num_seqs;
    }
    if (r->chosen_among) {
        seq->text_bytes += bytes;
        seq->reason = o->finish_reason;
        seq->stop_string = o->stop_string;
        seq->stop_token_id = o->stop_token_id;
    } else {
        qr_request_deliver(r, o);
    }
    text[bytes] = saved;
    pending->len -= bytes;
    memmove(text, text + bytes, pending->len);
    text[pending->len] = '\0';
    seq->stop_scan_from -= seq->stop_scan_from < bytes ? seq->stop_scan_from : bytes;
}

/* With echo the prompt's text stands before the first token's; stop strings in it do not count. */
static void begin_text(quire_request *r, qr_output_seq *seq)
{
    if (seq->started || !r->prompt_text) return;
    (void)!qr_buf_append(&seq->text, r->prompt_text, r->prompt_text_bytes); /* reserved */
    seq->stop_scan_from = seq->text.len;
}

quire_finish_reason qr_request_add_token(quire_request *r, qr_output_seq *seq, qr_new_token token, int num_output,
                                         qr_buf *text)
{
    quire_output o = {.token_ids = &token.token_id, .num_tokens = 1, .logprobs = token.logprobs, .stop_token_id = -1};
    begin_text(r, seq);
    if (token.logprobs) seq->cumulative_logprob += token.logprobs->logprob;
    o.finish_reason = stop_reason(r, token.token_id, num_output, &o);
    bool hide = o.finish_reason == QUIRE_FINISH_STOP && !r->params.include_stop_str_in_output;
    bool decode = r->params.detokenize && r->model->tokenizer;
    if (holds_text(r))
        text = &seq->text;
    else
        text->len = 0;
    quire_status status = QUIRE_OK;
    if (decode && !hide) status = qr_detok_push(&seq->detok, token.token_id, text);
    if (decode && o.finish_reason != QUIRE_FINISH_NONE && status == QUIRE_OK)
        status = qr_detok_flush(&seq->detok, text);
    size_t bytes = status == QUIRE_OK ? take_text(r, seq, text, num_output, &o) : 0;
    if (status != QUIRE_OK) {
        o.finish_reason = QUIRE_FINISH_ERROR;
        o.error_message = "out of memory for the output's text";
    }
    if (num_output < r->params.min_tokens) seq->stop_scan_from = bytes = text->len;
    qr_request_fill_output(r, seq, num_output, &o);
    send(r, seq, text, bytes, &o);
    return o.finish_reason;
}

void qr_request_end_seq(quire_request *r, qr_output_seq *seq, int num_output, quire_finish_reason reason)
{
    quire_output o = {.finish_reason = reason, .stop_token_id = -1};
    char nothing = '\0';
    qr_buf none = {.data = &nothing}, *text = holds_text(r) ? &seq->text : &none;
    begin_text(r, seq);
    qr_request_fill_output(r, seq, num_output, &o);
    send(r, seq, text, text->len, &o);
}

void qr_request_end_all(quire_request *r, quire_finish_reason reason, const char *error_message)
{
    /* of sequences that are chosen among none has been delivered, and there is no choice now: n empty ones */
    int num = r->chosen_among ? r->params.n : r->num_seqs, left = r->chosen_among ? num : num - r->num_finished;
    for (int i = 0; i < num; i++) {
        qr_output_seq *seq = &r->seqs[i];
        if (seq->finished && !r->chosen_among) continue;
        quire_output o = {
            .text = seq->text.data, .finish_reason = reason, .stop_token_id = -1, .error_message = error_message};
        if (!holds_text(r))
            o.text = "";
        else if (r->chosen_among)
            seq->text.data[seq->text.len = 0] = '\0';
        else
            begin_text(r, seq);
        qr_request_fill_output(r, seq, r->sched_request ? r->sched_request->seqs[i].num_output_tokens : 0, &o);
        o.text_bytes = seq->text.len;
        o.request_finished = --left == 0;
        seq->finished = true;
        qr_request_deliver(r, &o);
    }
    r->num_finished = r->num_seqs;
}
