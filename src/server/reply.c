#include "server/reply.h"

#include <string.h>

/* ---- life ---- */

quire_status qr_reply_init(qr_reply *reply, const qr_api_request *request, qr_token_text *token_text,
                           const char *model_name, const char *id, int64_t created, quire_error *error)
{
    int num_prompts = request->num_prompts;
    *reply = (qr_reply){.request = request, .token_text = token_text};
    reply->num_choices = num_prompts * request->sampling.n;
    reply->choices = qr_calloc((size_t)reply->num_choices, sizeof *reply->choices);
    reply->prompt_logprobs = qr_calloc((size_t)num_prompts, sizeof *reply->prompt_logprobs);
    reply->num_cached_tokens = qr_calloc((size_t)num_prompts, sizeof *reply->num_cached_tokens);

    bool chat = request->kind == QR_API_CHAT;
    qr_emit *head = &reply->head;
    qr_emit_raw(head, chat ? "{\"id\":\"chatcmpl-" : "{\"id\":\"cmpl-");
    qr_emit_escaped(head, id, strlen(id));
    qr_emit_raw(head, "\",\"object\":\"");
    qr_emit_raw(head, !chat ? "text_completion" : request->stream ? "chat.completion.chunk" : "chat.completion");
    qr_emit_raw(head, "\",\"created\":");
    qr_emit_int(head, created);
    qr_emit_raw(head, ",\"model\":");
    qr_emit_string(head, model_name, strlen(model_name));
    qr_emit_raw(head, ",\"system_fingerprint\":\"quire-" QUIRE_VERSION "\",");
    if (!head->failed && reply->choices && reply->prompt_logprobs && reply->num_cached_tokens) return QUIRE_OK;
    size_t bytes = (size_t)reply->num_choices * sizeof *reply->choices;
    qr_reply_deinit(reply);
    return qr_fail_nomem(error, "a reply", bytes);
}

static void choice_deinit(qr_choice *choice)
{
    qr_emit_deinit(&choice->text);
    qr_emit_deinit(&choice->token_ids);
    qr_emit_deinit(&choice->tokens);
    qr_emit_deinit(&choice->token_logprobs);
    qr_emit_deinit(&choice->top_logprobs);
    qr_emit_deinit(&choice->text_offset);
    qr_free(choice->stop_string);
}

void qr_reply_deinit(qr_reply *reply)
{
    for (int i = 0; reply->choices && i < reply->num_choices; i++) choice_deinit(&reply->choices[i]);
    for (int i = 0; reply->prompt_logprobs && i < reply->request->num_prompts; i++)
        qr_emit_deinit(&reply->prompt_logprobs[i]);
    qr_free(reply->choices);
    qr_free(reply->prompt_logprobs);
    qr_free(reply->num_cached_tokens);
    qr_emit_deinit(&reply->head);
    *reply = (qr_reply){0};
}

/* ---- tokens and log probabilities ---- */

static void comma(qr_emit *e)
{
    if (e->buf.len) qr_emit_raw(e, ",");
}

static void emit_token(qr_reply *reply, qr_emit *e, int32_t token_id)
{
    if (reply->request->return_tokens_as_token_ids) {
        qr_emit_printf(e, "\"token_id:%d\"", token_id);
        return;
    }
    const qr_token_text_entry *entry = qr_token_text_get(reply->token_text, token_id);
    qr_emit_string(e, entry->text, entry->bytes);
}

/* {"token":..., "logprob":..., "bytes":[...]   without the closing brace */
static void emit_chat_token(qr_reply *reply, qr_emit *e, int32_t token_id, float logprob)
{
    const qr_token_text_entry *entry = qr_token_text_get(reply->token_text, token_id);
    qr_emit_raw(e, "{\"token\":");
    emit_token(reply, e, token_id);
    qr_emit_raw(e, ",\"logprob\":");
    qr_emit_logprob(e, logprob);
    qr_emit_raw(e, ",\"bytes\":[");
    for (size_t i = 0; i < entry->bytes; i++) {
        if (i) qr_emit_raw(e, ",");
        qr_emit_int(e, (unsigned char)entry->text[i]);
    }
    qr_emit_raw(e, "]");
}

static void add_chat_logprob(qr_reply *reply, qr_choice *choice, const quire_token_logprobs *lp)
{
    qr_emit *e = &choice->tokens;
    comma(e);
    emit_chat_token(reply, e, lp->token_id, lp->logprob);
    qr_emit_raw(e, ",\"top_logprobs\":[");
    int num_top = lp->num_top < reply->request->top_logprobs ? lp->num_top : reply->request->top_logprobs;
    for (int i = 0; i < num_top; i++) {
        if (i) qr_emit_raw(e, ",");
        emit_chat_token(reply, e, lp->top_ids[i], lp->top_logprobs[i]);
        qr_emit_raw(e, "}");
    }
    qr_emit_raw(e, "]}");
}

/* Two ids with the same text would be one key twice. */
static bool same_text(qr_reply *reply, int32_t a, int32_t b)
{
    if (a == b) return true;
    if (reply->request->return_tokens_as_token_ids) return false;
    const qr_token_text_entry *x = qr_token_text_get(reply->token_text, a),
                              *y = qr_token_text_get(reply->token_text, b);
    return x->bytes == y->bytes && memcmp(x->text, y->text, x->bytes) == 0;
}

/* {"text": logprob, ...}: the chosen token and the candidates asked for. */
static void emit_top_object(qr_reply *reply, qr_emit *e, const quire_token_logprobs *lp, int max_top)
{
    qr_emit_raw(e, "{");
    emit_token(reply, e, lp->token_id);
    qr_emit_raw(e, ":");
    qr_emit_logprob(e, lp->logprob);
    for (int i = 0; i < lp->num_top && i < max_top; i++) {
        bool seen = same_text(reply, lp->top_ids[i], lp->token_id);
        for (int j = 0; j < i && !seen; j++) seen = same_text(reply, lp->top_ids[i], lp->top_ids[j]);
        if (seen) continue;
        qr_emit_raw(e, ",");
        emit_token(reply, e, lp->top_ids[i]);
        qr_emit_raw(e, ":");
        qr_emit_logprob(e, lp->top_logprobs[i]);
    }
    qr_emit_raw(e, "}");
}

/* One token of a completion's four parallel arrays; lp NULL or NaN (a prompt's first token): nulls. */
static void add_completion_logprob(qr_reply *reply, qr_choice *choice, int32_t token_id, const quire_token_logprobs *lp)
{
    const qr_token_text_entry *entry = qr_token_text_get(reply->token_text, token_id);
    bool known = lp && lp->logprob == lp->logprob;
    comma(&choice->tokens);
    emit_token(reply, &choice->tokens, token_id);
    comma(&choice->token_logprobs);
    comma(&choice->top_logprobs);
    if (known) {
        qr_emit_logprob(&choice->token_logprobs, lp->logprob);
        emit_top_object(reply, &choice->top_logprobs, lp, reply->request->sampling.logprobs);
    } else {
        qr_emit_raw(&choice->token_logprobs, "null");
        qr_emit_raw(&choice->top_logprobs, "null");
    }
    comma(&choice->text_offset);
    qr_emit_int(&choice->text_offset, choice->num_chars);
    choice->num_chars += qr_utf8_num_chars(entry->text, entry->bytes);
}

/* vLLM's prompt_logprobs: [null, {"id": {"logprob", "rank", "decoded_token"}, ...}, ...] */
static void set_prompt_logprobs(qr_reply *reply, qr_emit *e, const quire_output *output)
{
    qr_emit_raw(e, "[");
    for (int i = 0; i < output->num_prompt_tokens; i++) {
        const quire_token_logprobs *lp = &output->prompt_logprobs[i];
        if (i) qr_emit_raw(e, ",");
        if (lp->logprob != lp->logprob) {
            qr_emit_raw(e, "null");
            continue;
        }
        qr_emit_raw(e, "{");
        for (int j = -1; j < lp->num_top; j++) {
            int32_t token_id = j < 0 ? lp->token_id : lp->top_ids[j];
            if (j >= 0 && token_id == lp->token_id) continue;
            qr_emit_printf(e, "%s\"%d\":{\"logprob\":", j < 0 ? "" : ",", token_id);
            qr_emit_logprob(e, j < 0 ? lp->logprob : lp->top_logprobs[j]);
            qr_emit_printf(e, ",\"rank\":%d,\"decoded_token\":", j < 0 ? lp->rank : j + 1);
            const qr_token_text_entry *entry = qr_token_text_get(reply->token_text, token_id);
            qr_emit_string(e, entry->text, entry->bytes);
            qr_emit_raw(e, "}");
        }
        qr_emit_raw(e, "}");
    }
    qr_emit_raw(e, "]");
}

/* ---- taking outputs ---- */

static void add_ids(qr_emit *e, const int32_t *ids, size_t num_ids)
{
    for (size_t i = 0; i < num_ids; i++) {
        comma(e);
        qr_emit_int(e, ids[i]);
    }
}

/* The prompt in front of a sequence, when echo asks for it. */
static void add_echo(qr_reply *reply, int prompt_idx, qr_choice *choice, const quire_output *output)
{
    const qr_api_request *request = reply->request;
    if (request->kind == QR_API_CHAT) {
        if (request->final_is_assistant && request->final_message)
            qr_emit_escaped(&choice->text, request->final_message, strlen(request->final_message));
        return;
    }
    const qr_api_prompt *prompt = &request->prompts[prompt_idx];
    qr_emit_escaped(&choice->text, prompt->text, prompt->text_bytes);
    for (size_t i = 0; request->sampling.logprobs >= 0 && i < prompt->num_ids; i++)
        add_completion_logprob(reply, choice, prompt->ids[i],
                               output->prompt_logprobs ? &output->prompt_logprobs[i] : NULL);
}

static void add_tokens(qr_reply *reply, qr_choice *choice, const quire_output *output)
{
    const qr_api_request *request = reply->request;
    if (request->echo_only) return;
    qr_emit_escaped(&choice->text, output->text, output->text_bytes);
    if (request->return_token_ids) add_ids(&choice->token_ids, output->token_ids, (size_t)output->num_tokens);
    for (int i = 0; request->sampling.logprobs >= 0 && i < output->num_tokens; i++) {
        const quire_token_logprobs *lp = output->logprobs ? &output->logprobs[i] : NULL;
        if (request->kind == QR_API_COMPLETION)
            add_completion_logprob(reply, choice, output->token_ids[i], lp);
        else if (lp)
            add_chat_logprob(reply, choice, lp);
    }
    choice->num_output_tokens = output->num_output_tokens;
}

/* ---- writing ---- */

static void emit_logprobs(const qr_reply *reply, const qr_choice *choice, qr_emit *out)
{
    if (reply->request->sampling.logprobs < 0) {
        qr_emit_raw(out, "null");
        return;
    }
    if (reply->request->kind == QR_API_CHAT) {
        qr_emit_raw(out, "{\"content\":[");
        qr_emit_join(out, &choice->tokens);
        qr_emit_raw(out, "]}");
        return;
    }
    qr_emit_raw(out, "{\"text_offset\":[");
    qr_emit_join(out, &choice->text_offset);
    qr_emit_raw(out, "],\"token_logprobs\":[");
    qr_emit_join(out, &choice->token_logprobs);
    qr_emit_raw(out, "],\"tokens\":[");
    qr_emit_join(out, &choice->tokens);
    qr_emit_raw(out, "],\"top_logprobs\":[");
    qr_emit_join(out, &choice->top_logprobs);
    qr_emit_raw(out, "]}");
}

static void emit_prompt_ids(const qr_reply *reply, int prompt_idx, qr_emit *out)
{
    const qr_api_prompt *prompt = &reply->request->prompts[prompt_idx];
    qr_emit_raw(out, ",\"prompt_token_ids\":[");
    for (size_t i = 0; i < prompt->num_ids; i++) {
        if (i) qr_emit_raw(out, ",");
        qr_emit_int(out, prompt->ids[i]);
    }
    qr_emit_raw(out, "]");
}

static void emit_finish(const qr_api_request *request, const qr_choice *choice, qr_emit *out)
{
    qr_emit_raw(out, ",\"finish_reason\":");
    const char *reason = quire_finish_reason_text(choice->finish_reason);
    qr_emit_string(out, choice->finish_reason == QUIRE_FINISH_NONE ? NULL : reason, strlen(reason));
    qr_emit_raw(out, ",\"stop_reason\":");
    if (choice->finish_reason == QUIRE_FINISH_STOP && choice->stop_token_id >= 0)
        qr_emit_int(out, choice->stop_token_id);
    else
        qr_emit_string(out, choice->stop_string, choice->stop_string ? strlen(choice->stop_string) : 0);
    bool finished = choice->finish_reason == QUIRE_FINISH_STOP || choice->finish_reason == QUIRE_FINISH_LENGTH;
    if (!finished || !(request->sampling.use_beam_search || request->sampling.best_of > request->sampling.n)) return;
    qr_emit_raw(out, ",\"cumulative_logprob\":");
    qr_emit_logprob(out, (float)choice->cumulative_logprob);
    if (!request->sampling.use_beam_search) return;
    qr_emit_raw(out, ",\"beam_score\":");
    qr_emit_logprob(out, (float)choice->beam_score);
}

/* One entry of "choices" from the fragments so far. */
static void emit_choice(qr_reply *reply, int choice_idx, bool first, qr_emit *out)
{
    const qr_api_request *request = reply->request;
    const qr_choice *choice = &reply->choices[choice_idx];
    int prompt_idx = choice_idx / request->sampling.n;
    qr_emit_raw(out, "{\"index\":");
    qr_emit_int(out, choice_idx);
    if (request->kind == QR_API_COMPLETION)
        qr_emit_raw(out, ",\"text\":\"");
    else if (request->stream)
        qr_emit_raw(out, ",\"delta\":{\"content\":\"");
    else
        qr_emit_raw(out, ",\"message\":{\"role\":\"assistant\",\"content\":\"");
    qr_emit_join(out, &choice->text);
    if (request->kind == QR_API_COMPLETION)
        qr_emit_raw(out, "\",\"logprobs\":");
    else
        qr_emit_raw(out, request->stream ? "\"},\"logprobs\":" : "\",\"refusal\":null},\"logprobs\":");
    emit_logprobs(reply, choice, out);
    emit_finish(request, choice, out);
    if (request->kind == QR_API_COMPLETION && !request->stream) {
        qr_emit_raw(out, ",\"prompt_logprobs\":");
        if (reply->prompt_logprobs[prompt_idx].buf.len)
            qr_emit_join(out, &reply->prompt_logprobs[prompt_idx]);
        else
            qr_emit_raw(out, "null");
    }
    if (request->return_token_ids) {
        if (request->kind == QR_API_COMPLETION && first) emit_prompt_ids(reply, prompt_idx, out);
        qr_emit_raw(out, ",\"token_ids\":[");
        qr_emit_join(out, &choice->token_ids);
        qr_emit_raw(out, "]");
    }
    qr_emit_raw(out, "}");
}

static void emit_usage(qr_emit *out, int64_t prompt_tokens, int64_t completion_tokens, int64_t cached_tokens)
{
    qr_emit_printf(out,
                   "\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld,\"completion_tokens\":%lld,"
                   "\"prompt_tokens_details\":{\"cached_tokens\":%lld}}",
                   (long long)prompt_tokens, (long long)(prompt_tokens + completion_tokens),
                   (long long)completion_tokens, (long long)cached_tokens);
}

static void emit_total_usage(const qr_reply *reply, qr_emit *out)
{
    int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
    for (int i = 0; i < reply->request->num_prompts; i++) {
        prompt_tokens += (int64_t)reply->request->prompts[i].num_ids;
        cached_tokens += reply->num_cached_tokens[i];
    }
    for (int i = 0; i < reply->num_choices; i++) completion_tokens += reply->choices[i].num_output_tokens;
    emit_usage(out, prompt_tokens, completion_tokens, cached_tokens);
}

static void event_begin(const qr_reply *reply, qr_emit *out)
{
    qr_emit_raw(out, "data: ");
    qr_emit_join(out, &reply->head);
    qr_emit_raw(out, "\"choices\":[");
}

static void event_end(const qr_reply *reply, int choice_idx, qr_emit *out)
{
    qr_emit_raw(out, "]");
    if (reply->request->continuous_usage_stats) {
        int prompt_idx = choice_idx / reply->request->sampling.n;
        qr_emit_raw(out, ",");
        emit_usage(out, (int64_t)reply->request->prompts[prompt_idx].num_ids,
                   reply->choices[choice_idx].num_output_tokens, reply->num_cached_tokens[prompt_idx]);
    }
    qr_emit_raw(out, "}\n\n");
}

/* A chat stream's first event of each choice carries the role alone. */
static void emit_role_event(qr_reply *reply, int choice_idx, qr_emit *out)
{
    event_begin(reply, out);
    qr_emit_printf(out,
                   "{\"index\":%d,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                   "\"finish_reason\":null}",
                   choice_idx);
    if (reply->request->return_token_ids) {
        qr_emit_raw(out, "]");
        emit_prompt_ids(reply, choice_idx / reply->request->sampling.n, out);
        qr_emit_raw(out, "}\n\n");
        return;
    }
    event_end(reply, choice_idx, out);
}

static void emit_event(qr_reply *reply, int choice_idx, bool first, qr_emit *out)
{
    qr_choice *choice = &reply->choices[choice_idx];
    event_begin(reply, out);
    emit_choice(reply, choice_idx, first, out);
    event_end(reply, choice_idx, out);
    qr_emit_clear(&choice->text);
    qr_emit_clear(&choice->token_ids);
    qr_emit_clear(&choice->tokens);
    qr_emit_clear(&choice->token_logprobs);
    qr_emit_clear(&choice->top_logprobs);
    qr_emit_clear(&choice->text_offset);
}

void qr_reply_add(qr_reply *reply, int prompt_idx, const quire_output *output, qr_emit *out)
{
    const qr_api_request *request = reply->request;
    int choice_idx = prompt_idx * request->sampling.n + output->index;
    qr_choice *choice = &reply->choices[choice_idx];
    bool first = !choice->started;
    choice->started = true;
    reply->num_cached_tokens[prompt_idx] = output->num_cached_tokens;
    if (first && request->echo) add_echo(reply, prompt_idx, choice, output);
    if (output->prompt_logprobs && request->sampling.prompt_logprobs >= 0 &&
        reply->prompt_logprobs[prompt_idx].buf.len == 0)
        set_prompt_logprobs(reply, &reply->prompt_logprobs[prompt_idx], output);
    add_tokens(reply, choice, output);
    if (output->finish_reason != QUIRE_FINISH_NONE) {
        choice->finish_reason = output->finish_reason;
        choice->stop_token_id = output->stop_token_id;
        choice->cumulative_logprob = output->cumulative_logprob;
        choice->beam_score = output->beam_score;
        if (output->stop_string) choice->stop_string = qr_strdup(output->stop_string);
    }
    if (!request->stream) return;
    if (request->kind == QR_API_CHAT && first) emit_role_event(reply, choice_idx, out);
    emit_event(reply, choice_idx, first, out);
}

void qr_reply_finish(qr_reply *reply, qr_emit *out)
{
    const qr_api_request *request = reply->request;
    if (request->stream) {
        if (request->include_usage) {
            event_begin(reply, out);
            qr_emit_raw(out, "],");
            emit_total_usage(reply, out);
            qr_emit_raw(out, "}\n\n");
        }
        qr_emit_raw(out, "data: [DONE]\n\n");
        return;
    }
    qr_emit_join(out, &reply->head);
    qr_emit_raw(out, "\"choices\":[");
    for (int i = 0; i < reply->num_choices; i++) {
        if (i) qr_emit_raw(out, ",");
        emit_choice(reply, i, true, out);
    }
    qr_emit_raw(out, "],");
    emit_total_usage(reply, out);
    if (request->kind == QR_API_CHAT) {
        qr_emit_raw(out, ",\"prompt_logprobs\":");
        if (reply->prompt_logprobs[0].buf.len)
            qr_emit_join(out, &reply->prompt_logprobs[0]);
        else
            qr_emit_raw(out, "null");
        if (request->return_token_ids) emit_prompt_ids(reply, 0, out);
    }
    qr_emit_raw(out, "}");
}

void qr_reply_error(qr_emit *out, int http_status, const char *message, const char *param)
{
    static const struct {
        int http_status;
        const char *type;
    } types[] = {{400, "BadRequestError"},        {401, "AuthenticationError"}, {404, "NotFoundError"},
                 {405, "MethodNotAllowedError"},  {411, "LengthRequiredError"}, {413, "RequestEntityTooLargeError"},
                 {503, "ServiceUnavailableError"}};
    const char *type = "InternalServerError";
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].http_status == http_status) type = types[i].type;
    qr_emit_raw(out, "{\"error\":{\"message\":");
    qr_emit_string(out, message, strlen(message));
    qr_emit_raw(out, ",\"type\":\"");
    qr_emit_raw(out, type);
    qr_emit_raw(out, "\",\"param\":");
    qr_emit_string(out, param && *param ? param : NULL, param ? strlen(param) : 0);
    qr_emit_raw(out, ",\"code\":");
    qr_emit_int(out, http_status);
    qr_emit_raw(out, "}}");
}
