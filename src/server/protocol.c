#include "server/protocol.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/mem.h"

enum {
    MAX_DEPTH = 128,        /* nested arrays and objects; tool schemas need about 20 */
    MAX_VALUES = 1000000,   /* commas and brackets: bounds the memory of the tree */
    MAX_STOP = 64,          /* stop strings */
    MAX_STOP_BYTES = 1024,  /* each */
    MAX_STOP_TOKENS = 1024, /* stop_token_ids */
    MAX_LOGIT_BIAS = 4096,  /* entries */
    MAX_SALT_BYTES = 1024,  /* cache_salt */
    MAX_ID_BYTES = 128,     /* request_id */
};

/* ---- the table of scalar fields ---- */

typedef enum field_type { FIELD_BOOL, FIELD_INT, FIELD_NUMBER, FIELD_STRING, FIELD_UNSUPPORTED } field_type;

enum {
    GENERATE = QR_API_COMPLETION | QR_API_CHAT,
    PROMPTED = GENERATE | QR_API_TOKENIZE,
    TEMPLATED = QR_API_CHAT | QR_API_TOKENIZE,
    EVERY = PROMPTED | QR_API_DETOKENIZE
};

typedef struct field {
    const char *name;
    int kinds; /* the calls that know it */
    field_type type;
    size_t offset;   /* in qr_api_request */
    double min, max; /* numbers: inclusive bounds; strings: bytes */
    bool above_min;  /* min itself is not allowed */
} field;

#define AT(member) offsetof(qr_api_request, member)
#define PARAM(member) offsetof(qr_api_request, sampling.member)
#define INF HUGE_VAL

static const field fields[] = {
    {"model", EVERY, FIELD_STRING, AT(model), 0, 4096, false},
    {"request_id", GENERATE, FIELD_STRING, AT(request_id), 1, MAX_ID_BYTES, false},
    {"stream", GENERATE, FIELD_BOOL, AT(stream), 0, 0, false},
    {"echo", GENERATE, FIELD_BOOL, AT(echo), 0, 0, false},
    {"return_token_ids", GENERATE, FIELD_BOOL, AT(return_token_ids), 0, 0, false},
    {"return_tokens_as_token_ids", GENERATE, FIELD_BOOL, AT(return_tokens_as_token_ids), 0, 0, false},
    {"return_token_strs", QR_API_TOKENIZE, FIELD_BOOL, AT(return_token_strs), 0, 0, false},
    {"add_special_tokens", PROMPTED, FIELD_BOOL, AT(add_special_tokens), 0, 0, false},
    {"add_generation_prompt", TEMPLATED, FIELD_BOOL, AT(add_generation_prompt), 0, 0, false},
    {"continue_final_message", TEMPLATED, FIELD_BOOL, AT(continue_final_message), 0, 0, false},
    {"chat_template", TEMPLATED, FIELD_STRING, AT(chat_template), 1, 1 << 20, false},
    {"priority", GENERATE, FIELD_INT, AT(priority), INT_MIN, INT_MAX, false},
    {"cache_salt", GENERATE, FIELD_STRING, AT(cache_salt), 1, MAX_SALT_BYTES, false},
    {"n", GENERATE, FIELD_INT, PARAM(n), 1, INT_MAX, false},
    {"best_of", GENERATE, FIELD_INT, PARAM(best_of), 1, INT_MAX, false},
    {"use_beam_search", GENERATE, FIELD_BOOL, PARAM(use_beam_search), 0, 0, false},
    {"length_penalty", GENERATE, FIELD_NUMBER, PARAM(length_penalty), -10, 10, false},
    {"max_tokens", GENERATE, FIELD_INT, PARAM(max_tokens), 0, INT_MAX, false},
    {"max_completion_tokens", QR_API_CHAT, FIELD_INT, AT(max_completion_tokens), 1, INT_MAX, false},
    {"min_tokens", GENERATE, FIELD_INT, PARAM(min_tokens), 0, INT_MAX, false},
    {"temperature", GENERATE, FIELD_NUMBER, PARAM(temperature), 0, 1e6, false},
    {"top_p", GENERATE, FIELD_NUMBER, PARAM(top_p), 0, 1, true},
    {"top_k", GENERATE, FIELD_INT, PARAM(top_k), -1, INT_MAX, false},
    {"min_p", GENERATE, FIELD_NUMBER, PARAM(min_p), 0, 1, false},
    {"typical_p", GENERATE, FIELD_NUMBER, PARAM(typical_p), 0, 1, true},
    {"repetition_penalty", GENERATE, FIELD_NUMBER, PARAM(repetition_penalty), 0, INF, true},
    {"presence_penalty", GENERATE, FIELD_NUMBER, PARAM(presence_penalty), -2, 2, false},
    {"frequency_penalty", GENERATE, FIELD_NUMBER, PARAM(frequency_penalty), -2, 2, false},
    {"ignore_eos", GENERATE, FIELD_BOOL, PARAM(ignore_eos), 0, 0, false},
    {"include_stop_str_in_output", GENERATE, FIELD_BOOL, PARAM(include_stop_str_in_output), 0, 0, false},
    {"skip_special_tokens", GENERATE, FIELD_BOOL, PARAM(skip_special_tokens), 0, 0, false},
    {"logprobs", QR_API_COMPLETION, FIELD_INT, PARAM(logprobs), 0, INT_MAX, false},
    {"logprobs", QR_API_CHAT, FIELD_BOOL, AT(logprobs_flag), 0, 0, false},
    {"top_logprobs", QR_API_CHAT, FIELD_INT, AT(top_logprobs), 0, INT_MAX, false},
    {"prompt_logprobs", GENERATE, FIELD_INT, PARAM(prompt_logprobs), 0, INT_MAX, false},
    {"suffix", QR_API_COMPLETION, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"prompt_embeds", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"guided_json", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"guided_regex", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"guided_choice", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"guided_grammar", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"structured_outputs", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"logits_processors", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"logprob_token_ids", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"allowed_token_ids", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"bad_words", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"truncate_prompt_tokens", GENERATE, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"functions", QR_API_CHAT, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"function_call", QR_API_CHAT, FIELD_UNSUPPORTED, 0, 0, 0, false},
    {"audio", QR_API_CHAT, FIELD_UNSUPPORTED, 0, 0, 0, false},
};

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_NULL: return "null";
    default: return "a boolean";
    }
}

static quire_status bad_type(quire_error *error, const char *name, const char *wanted, const json_t *value)
{
    return qr_fail_param(error, name, "%s must be %s, not %s", name, wanted, type_name(value));
}

/* An integer, also one written as 5.0; false when it is none or outside int64. */
static bool as_integer(const json_t *value, int64_t *out)
{
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    if (!json_is_real(value)) return false;
    double real = json_real_value(value);
    if (real != floor(real) || fabs(real) > 9e15) return false;
    *out = (int64_t)real;
    return true;
}

static bool in_bounds(const field *f, double value)
{
    return value <= f->max && (f->above_min ? value > f->min : value >= f->min) && isfinite(value);
}

static quire_status out_of_bounds(const field *f, double value, quire_error *error)
{
    if (value > INT_MAX && f->type == FIELD_INT)
        return qr_fail_param(error, f->name, "%s is too large: %.16g", f->name, value);
    if (f->max >= INT_MAX)
        return qr_fail_param(error, f->name, "%s must be %s %g, got %g", f->name, f->above_min ? "above" : "at least",
                             f->min, value);
    return qr_fail_param(error, f->name, "%s must be in %s%g, %g], got %g", f->name, f->above_min ? "(" : "[", f->min,
                         f->max, value);
}

static quire_status read_string(const char *name, const json_t *value, size_t min_bytes, size_t max_bytes,
                                const char **out, quire_error *error)
{
    if (!json_is_string(value)) return bad_type(error, name, "a string", value);
    size_t bytes = json_string_length(value);
    if (bytes < min_bytes) return qr_fail_param(error, name, "%s must not be empty", name);
    if (bytes > max_bytes)
        return qr_fail_param(error, name, "%s has %zu bytes; at most %zu are allowed", name, bytes, max_bytes);
    *out = json_string_value(value);
    if (strlen(*out) != bytes) return qr_fail_param(error, name, "%s must not contain a NUL character", name);
    return QUIRE_OK;
}

/* "Off" in any spelling is fine for a feature that quire lacks. */
static bool means_off(const json_t *value)
{
    return json_is_false(value) || (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_string(value) && strcmp(json_string_value(value), "none") == 0);
}

static quire_status read_field(const field *f, const json_t *value, qr_api_request *request, quire_error *error)
{
    char *at = (char *)request + f->offset;
    int64_t integer;
    double number;
    switch (f->type) {
    case FIELD_BOOL:
        if (!json_is_boolean(value)) return bad_type(error, f->name, "a boolean", value);
        *(bool *)at = json_is_true(value);
        return QUIRE_OK;
    case FIELD_INT:
        if (!as_integer(value, &integer)) return bad_type(error, f->name, "an integer", value);
        if (!in_bounds(f, (double)integer) || integer > INT_MAX || integer < INT_MIN)
            return out_of_bounds(f, (double)integer, error);
        *(int *)at = (int)integer;
        return QUIRE_OK;
    case FIELD_NUMBER:
        if (!json_is_number(value)) return bad_type(error, f->name, "a number", value);
        number = json_number_value(value);
        if (!in_bounds(f, number)) return out_of_bounds(f, number, error);
        *(double *)at = number;
        return QUIRE_OK;
    case FIELD_STRING: return read_string(f->name, value, (size_t)f->min, (size_t)f->max, (const char **)at, error);
    case FIELD_UNSUPPORTED:
        if (means_off(value)) return QUIRE_OK;
        (void)qr_fail_param(error, f->name, "%s is not supported by this server", f->name);
        return QUIRE_UNSUPPORTED;
    }
    return QUIRE_OK;
}

/* The value of a known field, or NULL when absent or null. */
static const json_t *get(const qr_api_request *request, const char *name)
{
    const json_t *value = json_object_get(request->root, name);
    return json_is_null(value) ? NULL : value;
}

static quire_status read_fields(qr_api_request *request, quire_error *error)
{
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (!(fields[i].kinds & (int)request->kind)) continue;
        const json_t *value = get(request, fields[i].name);
        if (value) QR_TRY(read_field(&fields[i], value, request, error));
    }
    return QUIRE_OK;
}

/* ---- fields with a shape of their own ---- */

static quire_status read_seed(qr_api_request *request, quire_error *error)
{
    const json_t *value = get(request, "seed");
    if (!value) return QUIRE_OK;
    if (!as_integer(value, &request->seed)) return bad_type(error, "seed", "an integer", value);
    request->sampling.has_seed = true;
    request->sampling.seed = (uint64_t)request->seed;
    return QUIRE_OK;
}

static quire_status read_stream_options(qr_api_request *request, quire_error *error)
{
    const json_t *options = get(request, "stream_options");
    if (!options) return QUIRE_OK;
    if (!json_is_object(options)) return bad_type(error, "stream_options", "an object", options);
    if (!request->stream)
        return qr_fail_param(error, "stream_options", "stream_options can only be given with stream true");
    static const struct {
        const char *key, *name;
        size_t offset;
    } flags[] = {{"include_usage", "stream_options.include_usage", AT(include_usage)},
                 {"continuous_usage_stats", "stream_options.continuous_usage_stats", AT(continuous_usage_stats)}};
    for (size_t i = 0; i < 2; i++) {
        const json_t *value = json_object_get(options, flags[i].key);
        if (!value || json_is_null(value)) continue;
        if (!json_is_boolean(value)) return bad_type(error, flags[i].name, "a boolean", value);
        *(bool *)((char *)request + flags[i].offset) = json_is_true(value);
    }
    return QUIRE_OK;
}

/* false, true or "never", as in transformers. */
static quire_status read_early_stopping(qr_api_request *request, quire_error *error)
{
    const json_t *value = get(request, "early_stopping");
    if (!value) return QUIRE_OK;
    if (json_is_boolean(value))
        request->sampling.early_stopping = json_is_true(value) ? QUIRE_EARLY_STOPPING_TRUE : QUIRE_EARLY_STOPPING_FALSE;
    else if (json_is_string(value) && strcmp(json_string_value(value), "never") == 0)
        request->sampling.early_stopping = QUIRE_EARLY_STOPPING_NEVER;
    else
        return qr_fail_param(error, "early_stopping", "early_stopping must be true, false or \"never\"");
    return QUIRE_OK;
}

static quire_status read_stop(qr_api_request *request, quire_error *error)
{
    const json_t *stop = get(request, "stop");
    if (!stop) return QUIRE_OK;
    size_t count = json_is_array(stop) ? json_array_size(stop) : 1;
    if (!json_is_array(stop) && !json_is_string(stop))
        return bad_type(error, "stop", "a string or an array of strings", stop);
    if (count > MAX_STOP)
        return qr_fail_param(error, "stop", "stop has %zu strings; at most %d are allowed", count, (int)MAX_STOP);
    if (count == 0) return QUIRE_OK;
    const char **strings = qr_calloc(count, sizeof *strings);
    if (!strings) return qr_fail_nomem(error, "stop strings", count * sizeof *strings);
    request->sampling.stop = strings;
    request->sampling.num_stop = (int)count;
    for (size_t i = 0; i < count; i++)
        QR_TRY(read_string("stop", json_is_array(stop) ? json_array_get(stop, i) : stop, 1, MAX_STOP_BYTES, &strings[i],
                           error));
    return QUIRE_OK;
}

/* [count] token ids of a JSON array into a fresh array; every id must be in the vocabulary. */
static quire_status read_ids(const char *name, const json_t *array, int vocab_size, int32_t **out, quire_error *error)
{
    size_t count = json_array_size(array);
    int32_t *ids = qr_calloc(count, sizeof *ids);
    if (!ids) return qr_fail_nomem(error, name, count * sizeof *ids);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(array, i);
        int64_t id = -1;
        if (!as_integer(item, &id)) {
            qr_free(ids);
            return qr_fail_param(error, name, "%s[%zu] must be a token id, not %s", name, i, type_name(item));
        }
        if (id < 0 || id >= vocab_size) {
            qr_free(ids);
            return qr_fail_param(error, name, "%s[%zu]: token id %lld is outside the vocabulary [0, %d)", name, i,
                                 (long long)id, vocab_size);
        }
        ids[i] = (int32_t)id;
    }
    *out = ids;
    return QUIRE_OK;
}

static quire_status read_stop_token_ids(qr_api_request *request, int vocab_size, quire_error *error)
{
    const json_t *value = get(request, "stop_token_ids");
    if (!value) return QUIRE_OK;
    if (!json_is_array(value)) return bad_type(error, "stop_token_ids", "an array of token ids", value);
    if (json_array_size(value) > MAX_STOP_TOKENS)
        return qr_fail_param(error, "stop_token_ids", "stop_token_ids has %zu entries; at most %d are allowed",
                             json_array_size(value), (int)MAX_STOP_TOKENS);
    int32_t *ids;
    QR_TRY(read_ids("stop_token_ids", value, vocab_size, &ids, error));
    request->sampling.stop_token_ids = ids;
    request->sampling.num_stop_token_ids = (int)json_array_size(value);
    return QUIRE_OK;
}

static quire_status read_logit_bias(qr_api_request *request, int vocab_size, quire_error *error)
{
    json_t *object = json_object_get(request->root, "logit_bias");
    if (!object || json_is_null(object)) return QUIRE_OK;
    if (!json_is_object(object)) return bad_type(error, "logit_bias", "an object of token id to bias", object);
    size_t count = json_object_size(object);
    if (count > MAX_LOGIT_BIAS)
        return qr_fail_param(error, "logit_bias", "logit_bias has %zu entries; at most %d are allowed", count,
                             (int)MAX_LOGIT_BIAS);
    quire_logit_bias *biases = qr_calloc(count, sizeof *biases);
    if (!biases) return qr_fail_nomem(error, "logit_bias", count * sizeof *biases);
    request->sampling.logit_bias = biases;
    request->sampling.num_logit_bias = (int)count;
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        char *end;
        long long id = strtoll(key, &end, 10);
        if (*key < '0' || *key > '9' || *end || id >= vocab_size)
            return qr_fail_param(error, "logit_bias", "logit_bias: '%.32s' is not a token id in [0, %d)", key,
                                 vocab_size);
        if (!json_is_number(value) || fabs(json_number_value(value)) > 100)
            return qr_fail_param(error, "logit_bias", "logit_bias of token %lld must be a number in [-100, 100]", id);
        *biases++ = (quire_logit_bias){(int32_t)id, (float)json_number_value(value)};
    }
    return QUIRE_OK;
}

static quire_status read_response_format(const qr_api_request *request, quire_error *error)
{
    const json_t *format = get(request, "response_format");
    if (!format) return QUIRE_OK;
    if (!json_is_object(format)) return bad_type(error, "response_format", "an object", format);
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!type) return qr_fail_param(error, "response_format.type", "response_format.type must be a string");
    if (strcmp(type, "text") == 0) return QUIRE_OK;
    (void)qr_fail_param(error, "response_format",
                        "response_format of type '%.32s' is not supported yet; only 'text' is", type);
    return QUIRE_UNSUPPORTED;
}

/* ---- prompts ---- */

static quire_status set_prompt(qr_api_prompt *prompt, const json_t *value, int vocab_size, quire_error *error)
{
    if (json_is_string(value)) {
        prompt->text = json_string_value(value);
        prompt->text_bytes = json_string_length(value);
        return QUIRE_OK;
    }
    if (!json_is_array(value))
        return qr_fail_param(error, "prompt",
                             "prompt must be a string, an array of strings, an array of token ids, or "
                             "an array of arrays of token ids");
    if (json_array_size(value) == 0) return qr_fail_param(error, "prompt", "prompt must have at least one token");
    prompt->num_ids = json_array_size(value);
    return read_ids("prompt", value, vocab_size, &prompt->ids, error);
}

static quire_status read_prompts(qr_api_request *request, const qr_api_limits *limits, quire_error *error)
{
    const json_t *value = get(request, "prompt");
    if (!value) return qr_fail_param(error, "prompt", "prompt is missing");
    const json_t *first = json_array_get(value, 0);
    bool many = json_is_string(first) || json_is_array(first);
    size_t count = many ? json_array_size(value) : 1;
    if (request->kind == QR_API_TOKENIZE && !json_is_string(value)) return bad_type(error, "prompt", "a string", value);
    if (count > (size_t)limits->max_prompts)
        return qr_fail_param(error, "prompt", "prompt has %zu entries; at most %d are allowed", count,
                             limits->max_prompts);
    request->prompts = qr_calloc(count, sizeof *request->prompts);
    if (!request->prompts) return qr_fail_nomem(error, "prompts", count * sizeof *request->prompts);
    request->num_prompts = (int)count;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = many ? json_array_get(value, i) : value;
        if (many && json_typeof(item) != json_typeof(first))
            return qr_fail_param(error, "prompt", "prompt[%zu] is %s, but prompt[0] is %s", i, type_name(item),
                                 type_name(first));
        QR_TRY(set_prompt(&request->prompts[i], item, limits->vocab_size, error));
    }
    return QUIRE_OK;
}

static quire_status read_detokenize(qr_api_request *request, const qr_api_limits *limits, quire_error *error)
{
    const json_t *tokens = get(request, "tokens");
    if (!tokens) return qr_fail_param(error, "tokens", "tokens is missing");
    if (!json_is_array(tokens)) return bad_type(error, "tokens", "an array of token ids", tokens);
    request->prompts = qr_calloc(1, sizeof *request->prompts);
    if (!request->prompts) return qr_fail_nomem(error, "tokens", sizeof *request->prompts);
    request->num_prompts = 1;
    request->prompts[0].num_ids = json_array_size(tokens);
    return read_ids("tokens", tokens, limits->vocab_size, &request->prompts[0].ids, error);
}

/* ---- what several fields must agree on ---- */

static quire_status check_counts(qr_api_request *request, const qr_api_limits *limits, quire_error *error)
{
    quire_sampling_params *sampling = &request->sampling;
    if (sampling->n > limits->max_n)
        return qr_fail_param(error, "n", "n must be in [1, %d], got %d", limits->max_n, sampling->n);
    if (sampling->best_of > limits->max_n)
        return qr_fail_param(error, "best_of", "best_of must be in [1, %d], got %d", limits->max_n, sampling->best_of);
    if (sampling->best_of && sampling->best_of < sampling->n)
        return qr_fail_param(error, "best_of", "best_of must be at least n (%d), got %d", sampling->n,
                             sampling->best_of);
    if (request->max_completion_tokens) sampling->max_tokens = request->max_completion_tokens;
    if (sampling->max_tokens == 0) {
        if (!request->echo || request->kind != QR_API_COMPLETION)
            return qr_fail_param(error, "max_tokens", "max_tokens must be at least 1, got 0");
        request->echo_only = true;
        sampling->max_tokens = 1;
    }
    if (sampling->max_tokens > 0 && sampling->min_tokens > sampling->max_tokens)
        return qr_fail_param(error, "min_tokens", "min_tokens (%d) must not exceed max_tokens (%d)",
                             sampling->min_tokens, sampling->max_tokens);
    return QUIRE_OK;
}

static quire_status check_logprobs(qr_api_request *request, const qr_api_limits *limits, quire_error *error)
{
    quire_sampling_params *sampling = &request->sampling;
    if (request->kind == QR_API_CHAT) {
        if (request->top_logprobs > 0 && !request->logprobs_flag)
            return qr_fail_param(error, "top_logprobs", "top_logprobs needs logprobs true");
        sampling->logprobs = request->logprobs_flag ? request->top_logprobs : -1;
    }
    const char *name = request->kind == QR_API_CHAT ? "top_logprobs" : "logprobs";
    if (sampling->logprobs > limits->max_logprobs)
        return qr_fail_param(error, name, "%s must be in [0, %d], got %d", name, limits->max_logprobs,
                             sampling->logprobs);
    if (sampling->prompt_logprobs > limits->max_logprobs)
        return qr_fail_param(error, "prompt_logprobs", "prompt_logprobs must be in [0, %d], got %d",
                             limits->max_logprobs, sampling->prompt_logprobs);
    if (sampling->prompt_logprobs >= 0 && request->stream)
        return qr_fail_param(error, "prompt_logprobs", "prompt_logprobs are not available when stream is true");
    return QUIRE_OK;
}

static quire_status read_generate(qr_api_request *request, const qr_api_limits *limits, quire_error *error)
{
    QR_TRY(read_seed(request, error));
    QR_TRY(read_stream_options(request, error));
    QR_TRY(read_stop(request, error));
    QR_TRY(read_early_stopping(request, error));
    QR_TRY(read_stop_token_ids(request, limits->vocab_size, error));
    QR_TRY(read_logit_bias(request, limits->vocab_size, error));
    QR_TRY(read_response_format(request, error));
    QR_TRY(check_counts(request, limits, error));
    return check_logprobs(request, limits, error);
}

static quire_status read_request(qr_api_request *request, const qr_api_limits *limits, quire_error *error)
{
    if (!json_is_object(request->root))
        return qr_fail(error, QUIRE_INVALID, "the body must be a JSON object, not %s", type_name(request->root));
    if (get(request, "messages")) request->add_special_tokens = false; /* the template writes them */
    QR_TRY(read_fields(request, error));
    if (request->kind & GENERATE) QR_TRY(read_generate(request, limits, error));
    switch (request->kind) {
    case QR_API_COMPLETION: return read_prompts(request, limits, error);
    case QR_API_CHAT: return qr_api_parse_chat(request, error);
    case QR_API_TOKENIZE:
        return get(request, "messages") ? qr_api_parse_chat(request, error) : read_prompts(request, limits, error);
    case QR_API_DETOKENIZE: return read_detokenize(request, limits, error);
    }
    return QUIRE_OK;
}

/* ---- JSON text ---- */

/* Bound depth and size before building a tree from a stranger's bytes. */
static quire_status check_json_size(const char *body, size_t bytes, quire_error *error)
{
    int depth = 0, values = 0;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = body[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"') in_string = true;
        if (c == ']' || c == '}') depth--;
        if (c == ',' || c == '[' || c == '{') values++;
        if ((c == '[' || c == '{') && ++depth > MAX_DEPTH)
            return qr_fail(error, QUIRE_INVALID, "the JSON is nested deeper than %d levels", (int)MAX_DEPTH);
        if (values > MAX_VALUES)
            return qr_fail(error, QUIRE_INVALID, "the JSON has more than %d values", (int)MAX_VALUES);
    }
    return QUIRE_OK;
}

static void set_defaults(qr_api_request *request, qr_api_kind kind)
{
    *request = (qr_api_request){.kind = kind, .add_generation_prompt = true};
    quire_sampling_params_init(&request->sampling);
    request->sampling.max_tokens = -1;
    request->sampling.logprobs = request->sampling.prompt_logprobs = -1;
    request->add_special_tokens = true;
}

quire_status qr_api_parse(qr_api_kind kind, const char *body, size_t body_bytes, const qr_api_limits *limits,
                          qr_api_request *out, quire_error *error)
{
    set_defaults(out, kind);
    if (body_bytes == 0) return qr_fail(error, QUIRE_INVALID, "the request has no body; send a JSON object");
    QR_TRY(check_json_size(body, body_bytes, error));
    json_error_t where;
    out->root = json_loadb(body, body_bytes, JSON_ALLOW_NUL | JSON_DECODE_ANY, &where);
    if (!out->root) {
        if (json_error_code(&where) == json_error_out_of_memory) return qr_fail_nomem(error, "the JSON body", 0);
        return qr_fail(error, QUIRE_INVALID, "the body is not valid JSON: line %d, column %d: %s", where.line,
                       where.column, where.text);
    }
    quire_status status = read_request(out, limits, error);
    if (status != QUIRE_OK) qr_api_request_deinit(out);
    return status;
}

void qr_api_request_deinit(qr_api_request *request)
{
    json_decref(request->root);
    for (int i = 0; i < request->num_prompts; i++) {
        qr_free(request->prompts[i].ids);
        quire_free(request->prompts[i].owned_text);
    }
    qr_free(request->prompts);
    qr_free((void *)request->sampling.stop);
    qr_free((void *)request->sampling.stop_token_ids);
    qr_free((void *)request->sampling.logit_bias);
    qr_free(request->messages_json);
    qr_free(request->tools_json);
    qr_free(request->chat_template_kwargs_json);
    *request = (qr_api_request){0};
}

static int append(const char *text, size_t bytes, void *buf) { return qr_buf_append(buf, text, bytes); }

char *qr_api_dump(const json_t *value)
{
    qr_buf buf = {0};
    if (json_dump_callback(value, append, &buf, JSON_COMPACT | JSON_ENCODE_ANY) == 0) return buf.data;
    qr_free(buf.data);
    return NULL;
}
