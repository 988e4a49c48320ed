#include "cli/job.h"

#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- the request ------------------------------------------------------------------------------ */

#define AT(member) offsetof(quire_sampling_params, member)

static const struct {
    const char *name;
    char kind; /* 'd' double, 'i' int, 'b' bool */
    size_t offset;
} fields[] = {
    {"temperature", 'd', AT(temperature)},
    {"top_p", 'd', AT(top_p)},
    {"min_p", 'd', AT(min_p)},
    {"typical_p", 'd', AT(typical_p)},
    {"repetition_penalty", 'd', AT(repetition_penalty)},
    {"presence_penalty", 'd', AT(presence_penalty)},
    {"frequency_penalty", 'd', AT(frequency_penalty)},
    {"top_k", 'i', AT(top_k)},
    {"n", 'i', AT(n)},
    {"best_of", 'i', AT(best_of)},
    {"length_penalty", 'd', AT(length_penalty)},
    {"min_tokens", 'i', AT(min_tokens)},
    {"logprobs", 'i', AT(logprobs)},
    {"prompt_logprobs", 'i', AT(prompt_logprobs)},
    {"ignore_eos", 'b', AT(ignore_eos)},
    {"echo", 'b', AT(echo)},
    {"include_stop_str_in_output", 'b', AT(include_stop_str_in_output)},
    {"skip_special_tokens", 'b', AT(skip_special_tokens)},
};

/* Give `object` the field unless it has it; takes `value`. false: no memory. */
static bool set_missing(json_t *object, const char *name, json_t *value)
{
    if (!value) return false;
    if (json_object_get(object, name)) {
        json_decref(value);
        return true;
    }
    return json_object_set_new(object, name, value) == 0;
}

/* Options that differ from the library's defaults. */
static bool set_sampling(json_t *object, const qr_cli_args *args)
{
    quire_sampling_params defaults;
    quire_sampling_params_init(&defaults);
    bool ok = true;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const char *value = (const char *)&args->sampling + fields[i].offset;
        const char *standard = (const char *)&defaults + fields[i].offset;
        if (fields[i].kind == 'd' && *(const double *)value != *(const double *)standard)
            ok = ok && set_missing(object, fields[i].name, json_real(*(const double *)value));
        if (fields[i].kind == 'i' && *(const int *)value != *(const int *)standard)
            ok = ok && set_missing(object, fields[i].name, json_integer(*(const int *)value));
        if (fields[i].kind == 'b' && *(const bool *)value != *(const bool *)standard)
            ok = ok && set_missing(object, fields[i].name, json_boolean(*(const bool *)value));
    }
    if (args->max_tokens_given && args->sampling.max_tokens >= 0)
        ok = ok && set_missing(object, "max_tokens", json_integer(args->sampling.max_tokens));
    if (args->beam_width > 0)
        ok = ok && set_missing(object, "use_beam_search", json_true()) &&
             set_missing(object, "best_of", json_integer(args->beam_width));
    if (args->early_stopping)
        ok = ok && set_missing(object, "early_stopping",
                               strcmp(args->early_stopping, "never") == 0
                                   ? json_string("never")
                                   : json_boolean(strcmp(args->early_stopping, "true") == 0));
    return ok;
}

static json_t *ids_json(const char *text, quire_error *error)
{
    int32_t *ids;
    size_t count;
    if (qr_cli_parse_ids(text, &ids, &count, error) != QUIRE_OK) return NULL;
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) (void)json_array_append_new(array, json_integer(ids[i]));
    qr_free(ids);
    if (array && json_array_size(array) == count) return array;
    json_decref(array);
    (void)qr_fail_nomem(error, "token ids", count);
    return NULL;
}

/* The options that hold lists. */
static quire_status set_lists(json_t *object, const qr_cli_args *args, quire_error *error)
{
    if (args->stop.count) {
        json_t *stop = json_array();
        for (int i = 0; i < args->stop.count; i++)
            if (json_array_append_new(stop, json_string(args->stop.items[i])) != 0)
                return json_decref(stop), qr_fail_param(error, "stop", "--stop: not valid UTF-8");
        if (!set_missing(object, "stop", stop)) return qr_fail_nomem(error, "stop strings", 0);
    }
    if (args->stop_token_ids) {
        json_t *ids = ids_json(args->stop_token_ids, error);
        if (!ids) return QUIRE_INVALID;
        if (!set_missing(object, "stop_token_ids", ids)) return qr_fail_nomem(error, "stop tokens", 0);
    }
    if (args->logit_bias) {
        json_t *bias = json_loads(args->logit_bias, 0, NULL);
        if (!bias) return qr_fail_param(error, "logit-bias", "--logit-bias: write a JSON object, {\"ID\": BIAS, ...}");
        if (!set_missing(object, "logit_bias", bias)) return qr_fail_nomem(error, "logit biases", 0);
    }
    return QUIRE_OK;
}

/* The prompt: the line's, also under the name prompt_token_ids; without a line the command line's. */
static quire_status set_prompt(json_t *object, const qr_cli_args *args, bool has_line, quire_error *error)
{
    json_t *ids = json_object_get(object, "prompt_token_ids");
    if (ids && json_object_get(object, "prompt"))
        return qr_fail_param(error, "prompt_token_ids", "give prompt or prompt_token_ids, not both");
    if (ids && !json_is_array(ids))
        return qr_fail_param(error, "prompt_token_ids", "prompt_token_ids must be an array of token ids");
    if (ids) return json_object_set(object, "prompt", ids) == 0 ? QUIRE_OK : qr_fail_nomem(error, "the prompt", 0);
    if (has_line) return QUIRE_OK;
    json_t *prompt = NULL;
    if (args->ids && !(prompt = ids_json(args->ids, error))) return QUIRE_INVALID;
    if (!prompt) prompt = json_string(args->prompt ? args->prompt : "");
    if (!prompt) return qr_fail_param(error, "prompt", "--prompt: not valid UTF-8");
    if (!set_missing(object, "prompt", prompt)) return qr_fail_nomem(error, "the prompt", 0);
    return QUIRE_OK;
}

static quire_status complete_object(json_t *object, const qr_cli_args *args, bool has_line, quire_error *error)
{
    QR_TRY(set_prompt(object, args, has_line, error));
    QR_TRY(set_lists(object, args, error));
    if (!set_sampling(object, args)) return qr_fail_nomem(error, "a request", 0);
    if (args->seed_given && !has_line && !json_object_get(object, "seed") &&
        json_object_set_new(object, "seed", json_integer((json_int_t)args->seed)) != 0)
        return qr_fail_nomem(error, "a request", 0);
    json_object_del(object, "stream"); /* a result is always whole */
    json_object_del(object, "stream_options");
    return QUIRE_OK;
}

quire_status qr_cli_parse_request(const qr_cli_args *args, int vocab_size, const char *text, size_t text_bytes,
                                  qr_api_request *out, quire_error *error)
{
    json_error_t where;
    json_t *object = text ? json_loadb(text, text_bytes, JSON_ALLOW_NUL, &where) : json_object();
    if (!object && text)
        return qr_fail(error, QUIRE_INVALID, "not valid JSON: column %d: %s", where.column, where.text);
    if (!json_is_object(object)) {
        json_decref(object);
        return qr_fail(error, QUIRE_INVALID, "a request is a JSON object, such as {\"prompt\": \"Hello\"}");
    }
    quire_status status = complete_object(object, args, text != NULL, error);
    char *body = status == QUIRE_OK ? qr_api_dump(object) : NULL;
    json_decref(object);
    if (status != QUIRE_OK) return status;
    if (!body) return qr_fail_nomem(error, "a request", text_bytes);
    qr_api_limits limits = {.vocab_size = vocab_size, .max_n = INT_MAX, .max_prompts = 1, .max_logprobs = vocab_size};
    status = qr_api_parse(QR_API_COMPLETION, body, strlen(body), &limits, out, error);
    qr_free(body);
    if (status == QUIRE_OK) out->return_token_ids = true;
    return status;
}

/* ---- the job ---------------------------------------------------------------------------------- */

quire_status qr_cli_job_prepare(qr_cli_job *job, const quire_model *model, qr_token_text *token_text,
                                quire_error *error)
{
    qr_api_request *request = &job->request;
    qr_api_prompt *prompt = &request->prompts[0];
    if (prompt->text && !prompt->ids)
        QR_TRY(quire_tokenize(model, prompt->text, prompt->text_bytes, request->add_special_tokens, true, &prompt->ids,
                              &prompt->num_ids, error));
    if (request->echo && !prompt->text) {
        QR_TRY(quire_detokenize(model, prompt->ids, prompt->num_ids, request->sampling.skip_special_tokens,
                                &job->echo_text, &prompt->text_bytes, error));
        prompt->text = job->echo_text;
    }
    QR_TRY(qr_reply_init(&job->reply, request, token_text, "", "", 0, error));
    qr_emit_clear(&job->reply.head);
    qr_emit_printf(&job->reply.head, "{\"index\":%lld,", (long long)job->index);
    return QUIRE_OK;
}

quire_status qr_cli_job_submit(qr_cli_job *job, quire_engine *engine, quire_error *error)
{
    const qr_api_request *request = &job->request;
    quire_request_options options;
    quire_request_options_init(&options);
    options.prompt_token_ids = request->prompts[0].ids;
    options.num_prompt_tokens = request->prompts[0].num_ids;
    options.cache_salt = request->cache_salt;
    options.priority = request->priority;
    options.sampling = request->sampling;
    options.sampling.echo = false; /* the reply writes the prompt; it needs its logprobs alone */
    if (request->echo && options.sampling.prompt_logprobs < options.sampling.logprobs)
        options.sampling.prompt_logprobs = options.sampling.logprobs;
    return quire_submit(engine, &options, &job->handle, error);
}

quire_status qr_cli_job_poll(qr_cli_job *job, int timeout_ms, bool *out_done)
{
    const quire_output *output;
    *out_done = false;
    quire_status status = quire_request_next(job->handle, timeout_ms, &output);
    if (status == QUIRE_TIMEOUT) return status;
    if (status != QUIRE_OK) {
        job->failed = *out_done = true;
        (void)qr_fail(&job->error, status, "the request was aborted");
        return QUIRE_OK;
    }
    if (output->finish_reason == QUIRE_FINISH_ERROR || output->finish_reason == QUIRE_FINISH_ABORT) {
        job->failed = true;
        (void)qr_fail(&job->error, QUIRE_ABORTED, "%s",
                      output->error_message ? output->error_message : "the request was aborted");
    }
    qr_reply_add(&job->reply, 0, output, NULL);
    *out_done = output->request_finished;
    return QUIRE_OK;
}

void qr_cli_job_write(qr_cli_job *job, qr_emit *out)
{
    if (!job->failed) {
        qr_reply_finish(&job->reply, out);
    } else {
        qr_emit error = {0};
        qr_reply_error(&error, 400, job->error.message, job->error.param);
        qr_emit_printf(out, "{\"index\":%lld,", (long long)job->index);
        if (error.buf.len) qr_emit_bytes(out, error.buf.data + 1, error.buf.len - 1);
        if (error.failed) out->failed = true;
        qr_emit_deinit(&error);
    }
    qr_emit_raw(out, "\n");
}

void qr_cli_job_deinit(qr_cli_job *job)
{
    if (job->handle) {
        quire_request_abort(job->handle);
        quire_request_release(job->handle);
    }
    if (job->reply.request) qr_reply_deinit(&job->reply);
    qr_api_request_deinit(&job->request);
    quire_free(job->echo_text);
    *job = (qr_cli_job){0};
}
