/* server_fake: an engine and a model small enough to know every answer, behind the same quire_* functions.
 *
 *   tokens      one per byte (id = byte), 256 = BOS "<s>", 257 = "<|im_end|>"
 *   output      sequence s of a request writes the letters 'a' + (i + s) % 26 for i = 0, 1, ...; a token each
 *   logprobs    of token i: -0.5 - i; candidates are the token, then its successors
 *   words in the prompt change what happens:
 *     hang   nothing comes until aborted        slow   5 ms between tokens
 *     fail   an error after two tokens          full   quire_submit says QUEUE_FULL
 *     flood  4 KiB of text a token, fast        stop   ends after 3 tokens with the stop string "d"
 *
 * Every running sequence holds one block of fake_num_blocks, so tests can watch them come back. */
#ifndef QR_TESTS_SERVER_FAKE_H
#define QR_TESTS_SERVER_FAKE_H

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "quire.h"

enum { FAKE_VOCAB = 258, FAKE_BOS = 256, FAKE_IM_END = 257, FAKE_BLOCKS = 1000, FAKE_MAX_LEN = 4096, FAKE_MAX_N = 16 };

struct quire_model {
    int unused;
};

struct quire_request {
    struct quire_request *next;
    int refs; /* the caller's, the engine's */
    bool aborted, hang, slow, fail, flood, stop;
    int num_prompt, num_done, position;
    int32_t *prompt;
    int64_t due_us;
    quire_request_options options;
};

struct quire_engine {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    pthread_t thread;
    bool stopping;
    quire_request *requests;
    int num_live, num_submitted, num_aborted, num_resets;
    char *last_prompt;                   /* text of the prompt submitted last */
    quire_sampling_params last_sampling; /* its parameters; arrays are gone */
    char last_stop[64];
};

static struct quire_model fake_model;

/* ---- text ---- */

void quire_model_get_info(const quire_model *model, quire_model_info *out)
{
    (void)model;
    *out = (quire_model_info){.name = "fake-model", .vocab_size = FAKE_VOCAB, .bos_token_id = FAKE_BOS};
}

quire_status quire_tokenize(const quire_model *model, const char *text, size_t text_bytes, bool add_special,
                            bool parse_special, int32_t **out_ids, size_t *out_num_ids, quire_error *error)
{
    (void)model, (void)parse_special;
    int32_t *ids = qr_malloc((text_bytes + 1) * sizeof *ids);
    if (!ids) return qr_fail_nomem(error, "ids", text_bytes);
    size_t n = 0;
    if (add_special) ids[n++] = FAKE_BOS;
    for (size_t i = 0; i < text_bytes; i++) {
        if (parse_special && text_bytes - i >= 10 && memcmp(text + i, "<|im_end|>", 10) == 0) {
            ids[n++] = FAKE_IM_END;
            i += 9;
        } else {
            ids[n++] = (unsigned char)text[i];
        }
    }
    *out_ids = ids;
    *out_num_ids = n;
    return QUIRE_OK;
}

quire_status quire_detokenize(const quire_model *model, const int32_t *ids, size_t num_ids, bool skip_special,
                              char **out_text, size_t *out_bytes, quire_error *error)
{
    (void)model;
    qr_buf buf = {0};
    int failed = qr_buf_reserve(&buf, num_ids);
    for (size_t i = 0; i < num_ids && !failed; i++) {
        char byte = (char)ids[i];
        if (ids[i] < 256)
            failed = qr_buf_append(&buf, &byte, 1);
        else if (!skip_special)
            failed = qr_buf_printf(&buf, "%s", ids[i] == FAKE_BOS ? "<s>" : "<|im_end|>");
    }
    if (failed) {
        qr_free(buf.data);
        return qr_fail_nomem(error, "text", num_ids);
    }
    buf.data[buf.len] = '\0';
    *out_text = buf.data;
    *out_bytes = buf.len;
    return QUIRE_OK;
}

void quire_render_options_init(quire_render_options *options)
{
    *options = (quire_render_options){.add_generation_prompt = true};
}

/* The template "bad" fails; any other prompt is the messages' own JSON and what came with it. */
quire_status quire_render_chat(const quire_model *model, const quire_render_options *options, char **out_prompt,
                               size_t *out_bytes, quire_error *error)
{
    (void)model;
    if (options->template_text && strcmp(options->template_text, "bad") == 0)
        return qr_fail(error, QUIRE_FORMAT, "chat template: line 1: nonsense");
    qr_buf buf = {0};
    int failed = qr_buf_printf(&buf, "%s", options->messages_json);
    if (!failed && options->tools_json) failed = qr_buf_printf(&buf, "tools=%s", options->tools_json);
    if (!failed && options->template_kwargs_json)
        failed = qr_buf_printf(&buf, "kwargs=%s", options->template_kwargs_json);
    if (!failed && options->template_text) failed = qr_buf_printf(&buf, "template=%s", options->template_text);
    if (!failed && options->add_generation_prompt) failed = qr_buf_printf(&buf, "<gen>");
    if (failed) {
        qr_free(buf.data);
        return qr_fail_nomem(error, "prompt", 0);
    }
    *out_prompt = buf.data;
    *out_bytes = buf.len;
    return QUIRE_OK;
}

/* ---- requests ---- */

static void fake_unref(quire_engine *engine, quire_request *request)
{
    (void)engine;
    if (--request->refs) return;
    qr_free(request->prompt);
    qr_free(request);
}

static quire_engine fake_engine = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, .stopping = true};

quire_status quire_submit(quire_engine *engine, const quire_request_options *options, quire_request **out,
                          quire_error *error)
{
    quire_request *request = qr_calloc(1, sizeof *request);
    char *text = NULL;
    size_t bytes;
    if (!request || quire_detokenize(NULL, options->prompt_token_ids, options->num_prompt_tokens, false, &text, &bytes,
                                     error) != QUIRE_OK) {
        qr_free(request);
        return qr_fail_nomem(error, "request", 0);
    }
    if (strstr(text, "full")) {
        qr_free(request);
        qr_free(text);
        return QUIRE_QUEUE_FULL;
    }
    *request = (quire_request){.refs = 2, .num_prompt = (int)options->num_prompt_tokens, .options = *options};
    request->hang = strstr(text, "hang") != NULL;
    request->slow = strstr(text, "slow") != NULL;
    request->fail = strstr(text, "fail") != NULL;
    request->flood = strstr(text, "flood") != NULL;
    request->stop = strstr(text, "stop") != NULL;
    request->prompt = qr_malloc(options->num_prompt_tokens * sizeof(int32_t));
    if (!request->prompt) {
        qr_free(request);
        qr_free(text);
        return qr_fail_nomem(error, "prompt", options->num_prompt_tokens);
    }
    memcpy(request->prompt, options->prompt_token_ids, options->num_prompt_tokens * sizeof(int32_t));
    if (request->options.sampling.max_tokens < 0) request->options.sampling.max_tokens = FAKE_MAX_LEN;
    pthread_mutex_lock(&engine->lock);
    engine->num_submitted++;
    engine->num_live += options->sampling.n;
    qr_free(engine->last_prompt);
    engine->last_prompt = text;
    engine->last_sampling = options->sampling;
    snprintf(engine->last_stop, sizeof engine->last_stop, "%s",
             options->sampling.num_stop ? options->sampling.stop[0] : "");
    request->next = engine->requests;
    engine->requests = request;
    *out = request;
    pthread_cond_signal(&engine->cond);
    pthread_mutex_unlock(&engine->lock);
    return QUIRE_OK;
}

void quire_request_abort(quire_request *request)
{
    pthread_mutex_lock(&fake_engine.lock);
    request->aborted = true;
    pthread_cond_signal(&fake_engine.cond);
    pthread_mutex_unlock(&fake_engine.lock);
}

void quire_request_release(quire_request *request)
{
    pthread_mutex_lock(&fake_engine.lock);
    fake_unref(&fake_engine, request);
    pthread_mutex_unlock(&fake_engine.lock);
}

int quire_request_num_prompt_tokens(const quire_request *request) { return request->num_prompt; }

/* ---- the engine thread ---- */

enum { FAKE_TOP = 32 };
typedef struct fake_logprobs {
    quire_token_logprobs lp;
    int32_t ids[FAKE_TOP];
    float values[FAKE_TOP];
} fake_logprobs;

static quire_token_logprobs fake_logprob(fake_logprobs *f, int32_t token_id, int position, int num_top)
{
    for (int i = 0; i < num_top; i++) {
        f->ids[i] = (token_id + i) % 256;
        f->values[i] = -0.5f - (float)position - (float)i;
    }
    f->lp = (quire_token_logprobs){token_id, 1, -0.5f - (float)position, num_top, f->ids, f->values};
    return f->lp;
}

/* One output of sequence `index`; called without the lock, as a real engine would do in its step. */
static void fake_emit(quire_request *request, int index, quire_finish_reason reason, bool last)
{
    const quire_sampling_params *sampling = &request->options.sampling;
    static char flood[4097];
    static fake_logprobs one, prompt_lps[FAKE_MAX_LEN];
    static quire_token_logprobs prompt_array[FAKE_MAX_LEN];
    if (!flood[0]) memset(flood, 'x', sizeof flood - 1);
    int32_t token = 'a' + (request->position + index) % 26;
    char text[2] = {(char)token, 0};
    bool has_token = reason != QUIRE_FINISH_ABORT && reason != QUIRE_FINISH_ERROR;
    quire_output output = {.index = index,
                           .text = !has_token       ? ""
                                   : request->flood ? flood
                                                    : text,
                           .token_ids = &token,
                           .num_tokens = has_token,
                           .num_prompt_tokens = request->num_prompt,
                           .num_cached_tokens = request->num_prompt / 2,
                           .num_output_tokens = request->position + has_token,
                           .finish_reason = reason,
                           .stop_token_id = -1,
                           .stop_string = reason == QUIRE_FINISH_STOP ? "d" : NULL,
                           .error_message = reason == QUIRE_FINISH_ERROR ? "the fake engine fell over" : NULL,
                           .request_finished = last};
    output.text_bytes = strlen(output.text);
    quire_token_logprobs lp;
    if (sampling->logprobs >= 0 && has_token) {
        lp = fake_logprob(&one, token, request->position, sampling->logprobs);
        output.logprobs = &lp;
    }
    if (sampling->prompt_logprobs >= 0 && request->position == 0) {
        for (int i = 0; i < request->num_prompt; i++) {
            prompt_array[i] = fake_logprob(&prompt_lps[i], request->prompt[i], i, i ? sampling->prompt_logprobs : 0);
            if (i == 0) prompt_array[i].logprob = NAN;
        }
        output.prompt_token_ids = request->prompt;
        output.prompt_logprobs = prompt_array;
    }
    request->options.on_output(request->options.user, &output);
}

/* One token for every sequence. Returns whether the request is over. */
static bool fake_step(quire_request *request, bool aborted)
{
    const quire_sampling_params *sampling = &request->options.sampling;
    bool over = aborted || (request->fail && request->position == 2) || (request->stop && request->position == 2) ||
                request->position + 1 >= sampling->max_tokens;
    quire_finish_reason reason = aborted                                   ? QUIRE_FINISH_ABORT
                                 : request->fail && request->position == 2 ? QUIRE_FINISH_ERROR
                                 : request->stop && request->position == 2 ? QUIRE_FINISH_STOP
                                 : over                                    ? QUIRE_FINISH_LENGTH
                                                                           : QUIRE_FINISH_NONE;
    for (int s = 0; s < sampling->n; s++) fake_emit(request, s, reason, over && s == sampling->n - 1);
    request->position++;
    return over;
}

static void *fake_run(void *user)
{
    quire_engine *engine = user;
    pthread_mutex_lock(&engine->lock);
    while (!engine->stopping || engine->requests) {
        bool worked = false;
        for (quire_request **at = &engine->requests; *at;) {
            quire_request *request = *at;
            bool aborted = request->aborted || engine->stopping;
            if (!aborted && (request->hang || qr_clock_us() < request->due_us)) {
                at = &request->next;
                continue;
            }
            worked = true;
            if (request->slow) request->due_us = qr_clock_us() + 5000;
            pthread_mutex_unlock(&engine->lock);
            bool over = fake_step(request, aborted);
            pthread_mutex_lock(&engine->lock);
            while (*at != request) at = &(*at)->next; /* submitted meanwhile: in front */
            if (!over) {
                at = &request->next;
                continue;
            }
            *at = request->next;
            engine->num_live -= request->options.sampling.n;
            engine->num_aborted += aborted;
            fake_unref(engine, request);
        }
        if (worked || engine->requests) {
            pthread_mutex_unlock(&engine->lock);
            usleep(worked ? 50 : 500);
            pthread_mutex_lock(&engine->lock);
        } else if (!engine->stopping) {
            pthread_cond_wait(&engine->cond, &engine->lock);
        }
    }
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

static void fake_start(void)
{
    fake_engine.stopping = false;
    if (pthread_create(&fake_engine.thread, NULL, fake_run, &fake_engine) != 0) abort();
}

static void fake_stop(void)
{
    pthread_mutex_lock(&fake_engine.lock);
    fake_engine.stopping = true;
    pthread_cond_signal(&fake_engine.cond);
    pthread_mutex_unlock(&fake_engine.lock);
    pthread_join(fake_engine.thread, NULL);
    qr_free(fake_engine.last_prompt);
    fake_engine.last_prompt = NULL;
}

static int fake_read(const int *field)
{
    pthread_mutex_lock(&fake_engine.lock);
    int value = *field;
    pthread_mutex_unlock(&fake_engine.lock);
    return value;
}

/* Wait until no sequence holds a block; returns the milliseconds it took, or -1 after max_ms. */
static int fake_wait_idle(int max_ms)
{
    int64_t begin = qr_clock_us();
    while (fake_read(&fake_engine.num_live)) {
        if (qr_clock_us() - begin > max_ms * INT64_C(1000)) return -1;
        usleep(1000);
    }
    return (int)((qr_clock_us() - begin) / 1000);
}

void quire_engine_get_stats(quire_engine *engine, quire_stats *out)
{
    pthread_mutex_lock(&engine->lock);
    *out = (quire_stats){.num_requests_running = engine->num_live,
                         .num_kv_blocks = FAKE_BLOCKS,
                         .num_free_kv_blocks = FAKE_BLOCKS - engine->num_live,
                         .kv_cache_usage = (double)engine->num_live / FAKE_BLOCKS,
                         .block_size = 16,
                         .max_model_len = FAKE_MAX_LEN,
                         .kv_cache_dtype = "float16",
                         .prompt_tokens = 123,
                         .finished_stop = 4};
    out->time_to_first_token_seconds =
        (quire_histogram){.num_bounds = 2, .bounds = {0.001, 2}, .counts = {3, 4, 1}, .count = 8, .sum = 5.5};
    pthread_mutex_unlock(&engine->lock);
}

void quire_engine_reset_prefix_cache(quire_engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    engine->num_resets++;
    pthread_mutex_unlock(&engine->lock);
}

const char *quire_version(void) { return "0.1.0-fake"; }

#endif
