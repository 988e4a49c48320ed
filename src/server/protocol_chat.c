/* The chat part of protocol.h: messages, tools and template arguments, normalised for chat templates. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/mem.h"
#include "server/protocol.h"

/* Text parts joined by newlines, as vLLM hands them to templates that expect a string; other kinds of part are refused.
 * Returns a new string value. */
static quire_status join_parts(const json_t *parts, const char *param, json_t **out, quire_error *error)
{
    qr_buf text = {0};
    quire_status status = QUIRE_OK;
    size_t num_parts = json_array_size(parts);
    for (size_t i = 0; i < num_parts && status == QUIRE_OK; i++) {
        const json_t *part = json_array_get(parts, i), *value = part;
        if (json_is_object(part)) {
            const char *type = json_string_value(json_object_get(part, "type"));
            value = json_object_get(part, type && strcmp(type, "refusal") == 0 ? "refusal" : "text");
            if (type && strcmp(type, "text") != 0 && strcmp(type, "refusal") != 0) {
                (void)qr_fail_param(error, param, "%s[%zu]: parts of type '%.32s' are not supported; only text is",
                                    param, i, type);
                status = QUIRE_UNSUPPORTED;
                break;
            }
        }
        if (!json_is_string(value))
            status = qr_fail_param(error, param, "%s[%zu] must be {\"type\": \"text\", \"text\": STRING}", param, i);
        else if ((i && qr_buf_append(&text, "\n", 1) != 0) ||
                 qr_buf_append(&text, json_string_value(value), json_string_length(value)) != 0)
            status = qr_fail_nomem(error, param, json_string_length(value));
    }
    if (status == QUIRE_OK) {
        *out = json_stringn(text.data ? text.data : "", text.len);
        if (!*out) status = qr_fail_nomem(error, param, text.len);
    }
    qr_free(text.data);
    return status;
}

/* Templates want tool-call arguments as an object, clients send them as JSON text. */
static quire_status parse_arguments(json_t *message, size_t idx, quire_error *error)
{
    json_t *calls = json_object_get(message, "tool_calls");
    if (!calls || json_is_null(calls)) return QUIRE_OK;
    char param[64];
    snprintf(param, sizeof param, "messages[%zu].tool_calls", idx);
    if (!json_is_array(calls)) return qr_fail_param(error, param, "%s must be an array", param);
    size_t num_calls = json_array_size(calls);
    for (size_t i = 0; i < num_calls; i++) {
        json_t *function = json_object_get(json_array_get(calls, i), "function");
        if (!json_is_object(function))
            return qr_fail_param(error, param, "%s[%zu].function must be an object", param, i);
        json_t *arguments = json_object_get(function, "arguments");
        if (!json_is_string(arguments)) continue;
        size_t bytes = json_string_length(arguments);
        json_t *parsed = bytes ? json_loadb(json_string_value(arguments), bytes, JSON_DECODE_ANY, NULL) : json_object();
        if (!parsed) return qr_fail_param(error, param, "%s[%zu].function.arguments is not valid JSON", param, i);
        if (json_object_set_new(function, "arguments", parsed) != 0) return qr_fail_nomem(error, param, bytes);
    }
    return QUIRE_OK;
}

static quire_status normalise_message(json_t *message, size_t idx, quire_error *error)
{
    char param[64];
    snprintf(param, sizeof param, "messages[%zu]", idx);
    if (!json_is_object(message)) return qr_fail_param(error, param, "%s must be an object", param);
    snprintf(param, sizeof param, "messages[%zu].role", idx);
    if (!json_is_string(json_object_get(message, "role")))
        return qr_fail_param(error, param, "%s must be a string", param);

    snprintf(param, sizeof param, "messages[%zu].content", idx);
    json_t *content = json_object_get(message, "content");
    bool may_lack = json_is_array(json_object_get(message, "tool_calls")) ||
                    strcmp(json_string_value(json_object_get(message, "role")), "assistant") == 0;
    if (json_is_array(content)) {
        json_t *text = NULL;
        QR_TRY(join_parts(content, param, &text, error));
        if (json_object_set_new(message, "content", text) != 0) return qr_fail_nomem(error, param, 0);
    } else if (!content || json_is_null(content)) {
        if (!may_lack) return qr_fail_param(error, param, "%s is missing", param);
    } else if (!json_is_string(content)) {
        return qr_fail_param(error, param, "%s must be a string or an array of text parts", param);
    }
    return parse_arguments(message, idx, error);
}

static quire_status read_messages(qr_api_request *request, quire_error *error)
{
    json_t *messages = json_object_get(request->root, "messages");
    if (!messages || json_is_null(messages)) return qr_fail_param(error, "messages", "messages is missing");
    if (!json_is_array(messages)) return qr_fail_param(error, "messages", "messages must be an array");
    size_t count = json_array_size(messages);
    if (count == 0) return qr_fail_param(error, "messages", "messages must have at least one message");
    for (size_t i = 0; i < count; i++) QR_TRY(normalise_message(json_array_get(messages, i), i, error));

    const json_t *last = json_array_get(messages, count - 1);
    const json_t *content = json_object_get(last, "content");
    request->final_message = json_string_value(content);
    if (request->final_message && strlen(request->final_message) != json_string_length(content))
        request->final_message = NULL;
    request->final_is_assistant = strcmp(json_string_value(json_object_get(last, "role")), "assistant") == 0;
    request->messages_json = qr_api_dump(messages);
    return request->messages_json ? QUIRE_OK : qr_fail_nomem(error, "messages", 0);
}

/* tools go to the template; the model's answer goes out as plain content. */
static quire_status read_tools(qr_api_request *request, quire_error *error)
{
    const json_t *tools = json_object_get(request->root, "tools");
    const json_t *choice = json_object_get(request->root, "tool_choice");
    bool given = json_is_array(tools) && json_array_size(tools) > 0;
    if (tools && !json_is_null(tools) && !json_is_array(tools))
        return qr_fail_param(error, "tools", "tools must be an array");
    for (size_t i = 0; given && i < json_array_size(tools); i++) {
        const json_t *function = json_object_get(json_array_get(tools, i), "function");
        if (!json_is_string(json_object_get(function, "name")))
            return qr_fail_param(error, "tools", "tools[%zu].function.name must be a string", i);
    }
    if (choice && !json_is_null(choice)) {
        const char *name = json_string_value(choice);
        if (!name && !json_is_object(choice))
            return qr_fail_param(error, "tool_choice", "tool_choice must be a string or an object");
        if (!name || (strcmp(name, "none") != 0 && strcmp(name, "auto") != 0)) {
            (void)qr_fail_param(error, "tool_choice", "tool_choice must be 'none' or 'auto'; others are not supported");
            return QUIRE_UNSUPPORTED;
        }
        if (!given && strcmp(name, "auto") == 0)
            return qr_fail_param(error, "tool_choice", "tool_choice 'auto' needs tools");
    }
    if (!given) return QUIRE_OK;
    request->tools_json = qr_api_dump(tools);
    return request->tools_json ? QUIRE_OK : qr_fail_nomem(error, "tools", 0);
}

static quire_status read_template_arguments(qr_api_request *request, quire_error *error)
{
    const json_t *kwargs = json_object_get(request->root, "chat_template_kwargs");
    if (kwargs && !json_is_null(kwargs)) {
        if (!json_is_object(kwargs))
            return qr_fail_param(error, "chat_template_kwargs", "chat_template_kwargs must be an object");
        request->chat_template_kwargs_json = qr_api_dump(kwargs);
        if (!request->chat_template_kwargs_json) return qr_fail_nomem(error, "chat_template_kwargs", 0);
    }
    if (!request->continue_final_message) return QUIRE_OK;
    if (json_is_true(json_object_get(request->root, "add_generation_prompt")))
        return qr_fail_param(error, "continue_final_message",
                             "continue_final_message and add_generation_prompt cannot both be true");
    if (!request->final_message)
        return qr_fail_param(error, "continue_final_message",
                             "continue_final_message needs a last message with text content");
    request->add_generation_prompt = false;
    return QUIRE_OK;
}

quire_status qr_api_parse_chat(qr_api_request *request, quire_error *error)
{
    QR_TRY(read_messages(request, error));
    QR_TRY(read_tools(request, error));
    QR_TRY(read_template_arguments(request, error));
    request->prompts = qr_calloc(1, sizeof *request->prompts);
    if (!request->prompts) return qr_fail_nomem(error, "prompt", sizeof *request->prompts);
    request->num_prompts = 1;
    return QUIRE_OK;
}
