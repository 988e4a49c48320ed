/* What a worker does with a call's body (call.h): JSON in, chat template, tokenizer, quire_submit. */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/log.h"
#include "server/call.h"
#include "server/routes.h"

static void random_id(char *out, size_t bytes)
{
    unsigned char raw[16];
    if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw) memset(raw, 0, sizeof raw);
    size_t n = 0;
    for (; n < sizeof raw && 2 * n + 2 < bytes; n++) {
        out[2 * n] = "0123456789abcdef"[raw[n] >> 4];
        out[2 * n + 1] = "0123456789abcdef"[raw[n] & 15];
    }
    out[2 * n] = '\0';
}

/* ---- text to ids ---- */

/* Cut a rendered chat right behind the last message's text, so that the model goes on with it (as transformers does).
 */
static quire_status cut_after_final_message(const qr_api_request *request, qr_api_prompt *prompt, quire_error *error)
{
    const char *begin = request->final_message, *found = NULL;
    while (isspace((unsigned char)*begin)) begin++;
    size_t bytes = strlen(begin);
    while (bytes && isspace((unsigned char)begin[bytes - 1])) bytes--;
    for (size_t end = prompt->text_bytes; end >= bytes && !found; end--)
        if (memcmp(prompt->text + end - bytes, begin, bytes) == 0) found = prompt->text + end;
    if (!found)
        return qr_fail_param(error, "continue_final_message",
                             "the chat template does not show the last message as it is, so it cannot be continued");
    prompt->text_bytes = (size_t)(found - prompt->text);
    return QUIRE_OK;
}

static quire_status render(const qr_server *server, qr_api_request *request, quire_error *error)
{
    quire_render_options options;
    quire_render_options_init(&options);
    options.messages_json = request->messages_json;
    options.tools_json = request->tools_json;
    options.template_text = request->chat_template ? request->chat_template : server->options.chat_template;
    options.template_kwargs_json = request->chat_template_kwargs_json;
    options.add_generation_prompt = request->add_generation_prompt;
    qr_api_prompt *prompt = &request->prompts[0];
    quire_status status =
        quire_render_chat(server->options.model, &options, &prompt->owned_text, &prompt->text_bytes, error);
    if (status != QUIRE_OK && !error->param[0]) /* a broken template, or one that refuses these messages */
        snprintf(error->param, sizeof error->param, "%s", request->chat_template ? "chat_template" : "messages");
    QR_TRY(status);
    prompt->text = prompt->owned_text;
    return request->continue_final_message ? cut_after_final_message(request, prompt, error) : QUIRE_OK;
}

static const char *prompt_param(const qr_api_request *request)
{
    return request->messages_json ? "messages" : "prompt";
}

static quire_status tokenize(const qr_server *server, qr_api_request *request, quire_error *error)
{
    const quire_model *model = server->options.model;
    if (request->messages_json) QR_TRY(render(server, request, error));
    for (int i = 0; i < request->num_prompts; i++) {
        qr_api_prompt *prompt = &request->prompts[i];
        if (!prompt->ids)
            QR_TRY(quire_tokenize(model, prompt->text, prompt->text_bytes, request->add_special_tokens, true,
                                  &prompt->ids, &prompt->num_ids, error));
        if (prompt->num_ids == 0 && request->kind != QR_API_TOKENIZE)
            return qr_fail_param(error, prompt_param(request), "the prompt must have at least one token");
        if (request->echo && !prompt->text) {
            QR_TRY(quire_detokenize(model, prompt->ids, prompt->num_ids, false, &prompt->owned_text,
                                    &prompt->text_bytes, error));
            prompt->text = prompt->owned_text;
        }
    }
    return QUIRE_OK;
}

/* ---- generation ---- */

/* Prompt and output must fit max_model_len. *out_max_tokens: what was asked for, or the default. */
static quire_status fit_tokens(const qr_server *server, const qr_api_request *request, size_t num_ids,
                               int *out_max_tokens, quire_error *error)
{
    size_t max_len = (size_t)server->max_model_len;
    if (num_ids >= max_len)
        return qr_fail_param(error, prompt_param(request),
                             "This model's maximum context length is %zu tokens. However, your prompt has %zu tokens, "
                             "which leaves no room for output. Please shorten the prompt.",
                             max_len, num_ids);
    size_t left = max_len - num_ids;
    int asked = request->sampling.max_tokens;
    if (asked < 0) {
        size_t preset = request->kind == QR_API_CHAT ? left : 16; /* OpenAI's default for completions */
        *out_max_tokens = (int)(preset < left ? preset : left);
        return QUIRE_OK;
    }
    *out_max_tokens = asked;
    if ((size_t)asked <= left) return QUIRE_OK;
    const char *param = request->max_completion_tokens ? "max_completion_tokens" : "max_tokens";
    return qr_fail_param(error, param,
                         "%s is too large: %d. This model's maximum context length is %zu tokens and your prompt has "
                         "%zu tokens, so at most %zu can be generated.",
                         param, asked, max_len, num_ids, left);
}

static void on_output(void *user, const quire_output *output)
{
    qr_job *job = user;
    qr_call *call = job->call;
    bool last = output->request_finished;
    qr_outbox_push(&call->outbox, job->prompt_idx, output);
    if (last) qr_call_unref(call);
}

static quire_status submit_prompt(qr_call *call, int prompt_idx, quire_error *error)
{
    const qr_api_request *request = &call->request;
    const qr_api_prompt *prompt = &request->prompts[prompt_idx];
    qr_job *job = &call->jobs[prompt_idx];
    *job = (qr_job){.call = call, .prompt_idx = prompt_idx};

    quire_request_options options;
    quire_request_options_init(&options);
    options.prompt_token_ids = prompt->ids;
    options.num_prompt_tokens = prompt->num_ids;
    options.cache_salt = request->cache_salt;
    options.priority = request->priority;
    options.sampling = request->sampling;
    QR_TRY(fit_tokens(call->server, request, prompt->num_ids, &options.sampling.max_tokens, error));
    /* echo is written by reply.c, which needs the prompt's log probabilities when those of the output are wanted */
    if (request->echo && request->kind == QR_API_COMPLETION &&
        options.sampling.prompt_logprobs < options.sampling.logprobs)
        options.sampling.prompt_logprobs = options.sampling.logprobs;
    options.on_output = on_output;
    options.user = job;

    qr_call_ref(call);
    qr_outbox_add_request(&call->outbox);
    quire_status status = quire_submit(call->server->options.engine, &options, &job->request, error);
    if (status != QUIRE_OK) {
        qr_outbox_cancel_request(&call->outbox);
        qr_call_unref(call);
    }
    return status;
}

static quire_status generate(qr_call *call, quire_error *error)
{
    qr_api_request *request = &call->request;
    qr_server *server = call->server;
    int max_choices = server->options.max_n * server->options.max_prompts;
    if ((int64_t)request->sampling.n * request->num_prompts > (max_choices < 1024 ? max_choices : 1024))
        return qr_fail_param(error, "n", "n times the number of prompts is %lld; at most 1024 are allowed",
                             (long long)request->sampling.n * request->num_prompts);
    QR_TRY(tokenize(server, request, error));
    char id[33];
    random_id(id, sizeof id);
    const char *shown_id = call->header_id[0] ? call->header_id : request->request_id ? request->request_id : id;
    QR_TRY(qr_reply_init(&call->reply, request, &server->token_text, server->model_name, shown_id, time(NULL), error));
    call->jobs = qr_calloc((size_t)request->num_prompts, sizeof *call->jobs);
    if (!call->jobs) return qr_fail_nomem(error, "requests", (size_t)request->num_prompts * sizeof *call->jobs);
    call->num_jobs = request->num_prompts;
    call->outbox.eager = request->stream;
    call->outbox.max_bytes = request->stream ? server->options.max_stream_bytes : 0;
    for (int i = 0; i < request->num_prompts; i++) {
        quire_status status = submit_prompt(call, i, error);
        if (status == QUIRE_OK) continue;
        qr_call_abandon(call);
        return status;
    }
    return QUIRE_OK;
}

/* ---- tokenize and detokenize ---- */

static quire_status answer_tokenize(qr_call *call, quire_error *error)
{
    qr_api_request *request = &call->request;
    qr_emit *out = &call->answer;
    QR_TRY(tokenize(call->server, request, error));
    const qr_api_prompt *prompt = &request->prompts[0];
    qr_emit_printf(out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", prompt->num_ids,
                   call->server->max_model_len);
    for (size_t i = 0; i < prompt->num_ids; i++) {
        if (i) qr_emit_raw(out, ",");
        qr_emit_int(out, prompt->ids[i]);
    }
    qr_emit_raw(out, "],\"token_strs\":");
    if (!request->return_token_strs) qr_emit_raw(out, "null}");
    for (size_t i = 0; request->return_token_strs && i < prompt->num_ids; i++) {
        char *text;
        size_t bytes;
        QR_TRY(quire_detokenize(call->server->options.model, &prompt->ids[i], 1, false, &text, &bytes, error));
        qr_emit_raw(out, i ? "," : "[");
        qr_emit_string(out, text, bytes);
        quire_free(text);
    }
    if (request->return_token_strs) qr_emit_raw(out, prompt->num_ids ? "]}" : "[]}");
    call->http_status = 200;
    return QUIRE_OK;
}

static quire_status answer_detokenize(qr_call *call, quire_error *error)
{
    const qr_api_prompt *prompt = &call->request.prompts[0];
    char *text;
    size_t bytes;
    QR_TRY(quire_detokenize(call->server->options.model, prompt->ids, prompt->num_ids, false, &text, &bytes, error));
    qr_emit_raw(&call->answer, "{\"prompt\":");
    qr_emit_string(&call->answer, text, bytes);
    qr_emit_raw(&call->answer, "}");
    quire_free(text);
    call->http_status = 200;
    return QUIRE_OK;
}

/* ---- entry ---- */

static quire_status check_model(qr_call *call)
{
    const char *model = call->request.model;
    if (!model || !*model || qr_routes_serves_model(call->server, model)) return QUIRE_OK;
    quire_error error;
    (void)qr_fail(&error, QUIRE_NOT_FOUND, "The model `%.256s` does not exist.", model);
    qr_call_fail(call, 404, error.message, "model");
    return QUIRE_NOT_FOUND;
}

void qr_call_work(qr_call *call)
{
    quire_error error = {0};
    quire_status status =
        qr_api_parse(call->route->kind, call->body.data, call->body.len, &call->server->limits, &call->request, &error);
    qr_free(call->body.data);
    call->body = (qr_buf){0};
    if (status == QUIRE_OK && check_model(call) != QUIRE_OK) return;
    if (status == QUIRE_OK) {
        switch (call->route->kind) {
        case QR_API_TOKENIZE: status = answer_tokenize(call, &error); break;
        case QR_API_DETOKENIZE: status = answer_detokenize(call, &error); break;
        default: status = generate(call, &error); break;
        }
    }
    if (status != QUIRE_OK)
        qr_call_fail_status(call, status, &error);
    else if (call->http_status && call->answer.failed)
        qr_call_fail(call, 503, "out of memory for the answer", NULL);
}
