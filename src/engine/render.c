/* quire_render_chat: a conversation as the prompt that the model was trained on, through its Jinja template, with the
 * variables that transformers' apply_chat_template sets. */
#include <jansson.h>
#include <string.h>

#include "engine/model_api.h"

void quire_render_options_init(quire_render_options *options)
{
    *options = (quire_render_options){.add_generation_prompt = true};
}

static quire_status load_json(const char *text, const char *what, json_t **out, quire_error *error)
{
    json_error_t at;
    *out = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, &at);
    if (*out) return QUIRE_OK;
    return qr_fail_param(error, what, "%s: no JSON: line %d, column %d: %s", what, at.line, at.column, at.text);
}

/* Set vars[key] to the parsed text, or to null when there is none. */
static quire_status set_json(json_t *vars, const char *key, const char *text, bool array, quire_error *error)
{
    json_t *value = NULL;
    if (!text) return json_object_set_new(vars, key, json_null()) == 0 ? QUIRE_OK : qr_fail_nomem(error, key, 0);
    QR_TRY(load_json(text, key, &value, error));
    if (array && !json_is_array(value)) {
        json_decref(value);
        return qr_fail_param(error, key, "%s: must be an array", key);
    }
    return json_object_set_new(vars, key, value) == 0 ? QUIRE_OK : qr_fail_nomem(error, key, 0);
}

static quire_status set_text(json_t *vars, const char *key, const char *given, const char *own, quire_error *error)
{
    const char *text = given ? given : own;
    if (!text || (!given && !*text)) return QUIRE_OK; /* undefined in the template */
    return json_object_set_new(vars, key, json_string(text)) == 0
               ? QUIRE_OK
               : qr_fail_param(error, key, "%s: not valid UTF-8", key);
}

static quire_status build_vars(const quire_model *model, const quire_render_options *o, json_t *vars,
                               quire_error *error)
{
    const qr_tokenizer *tok = model ? model->tokenizer : NULL;
    QR_TRY(set_json(vars, "messages", o->messages_json, true, error));
    QR_TRY(set_json(vars, "tools", o->tools_json, true, error));
    QR_TRY(set_json(vars, "documents", NULL, true, error));
    QR_TRY(set_text(vars, "bos_token", o->bos, tok ? qr_tokenizer_bos_text(tok) : NULL, error));
    QR_TRY(set_text(vars, "eos_token", o->eos, tok ? qr_tokenizer_eos_text(tok) : NULL, error));
    json_object_set_new(vars, "add_generation_prompt", json_boolean(o->add_generation_prompt));
    if (!o->template_kwargs_json) return QUIRE_OK;
    json_t *kwargs = NULL;
    QR_TRY(load_json(o->template_kwargs_json, "chat_template_kwargs", &kwargs, error));
    quire_status status = QUIRE_OK;
    if (!json_is_object(kwargs))
        status = qr_fail_param(error, "chat_template_kwargs", "chat_template_kwargs: must be an object");
    else if (json_object_update(vars, kwargs) != 0)
        status = qr_fail_nomem(error, "chat_template_kwargs", 0);
    json_decref(kwargs);
    return status;
}

quire_status quire_render_chat(const quire_model *model, const quire_render_options *o, char **out_prompt,
                               size_t *out_bytes, quire_error *error)
{
    qr_chat_template *given = NULL;
    const qr_chat_template *tmpl = model ? model->chat_template : NULL;
    if (!o->messages_json) return qr_fail_param(error, "messages", "messages: missing");
    if (o->template_text) {
        QR_TRY(qr_chat_template_parse(o->template_text, strlen(o->template_text), &given, error));
        tmpl = given;
    }
    if (!tmpl)
        return qr_fail_param(error, "messages",
                             "this model has no chat template: give one (--chat-template), or use /v1/completions");
    json_t *vars = json_object();
    qr_buf prompt = {0};
    quire_status status =
        vars ? build_vars(model, o, vars, error) : qr_fail_nomem(error, "the template's variables", 0);
    if (status == QUIRE_OK && qr_buf_reserve(&prompt, 256) != 0) status = qr_fail_nomem(error, "the prompt", 256);
    if (status == QUIRE_OK) status = qr_chat_template_render(tmpl, vars, -1, &prompt, error);
    json_decref(vars);
    qr_chat_template_destroy(given);
    if (status != QUIRE_OK) {
        qr_free(prompt.data);
        return status;
    }
    prompt.data[prompt.len] = '\0';
    *out_prompt = prompt.data;
    *out_bytes = prompt.len;
    return QUIRE_OK;
}
