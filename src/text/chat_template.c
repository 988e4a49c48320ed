#include "text/chat_template.h"

#include <string.h>

#include "text/jinja_interp.h"
#include "text/jinja_text.h"

struct qr_chat_template {
    qr_jarena arena;
    const qr_jnode *body;
};

/* ---- parsing ---------------------------------------------------------------------------------------------------- */

/* Nothing that this function holds changes between setjmp and the jump. */
static quire_status parse_guarded(qr_jrun *run, const char *source, size_t source_bytes, qr_chat_template *tmpl)
{
    if (setjmp(run->on_raise) != 0) return run->status;
    tmpl->body = qr_jparse_run(run, source, source_bytes);
    return QUIRE_OK;
}

quire_status qr_chat_template_parse(const char *source, size_t source_bytes, qr_chat_template **out, quire_error *error)
{
    *out = NULL;
    qr_chat_template *tmpl = qr_malloc(sizeof *tmpl);
    if (!tmpl) return qr_fail_nomem(error, "a chat template", sizeof *tmpl);
    qr_jarena_init(&tmpl->arena, QR_J_MAX_TREE_BYTES);
    qr_jrun run = {.arena = &tmpl->arena, .error = error, .line = 1, .max_depth = QR_J_MAX_PARSE_DEPTH};
    quire_status status = parse_guarded(&run, source, source_bytes, tmpl);
    if (status == QUIRE_OK)
        *out = tmpl;
    else
        qr_chat_template_destroy(tmpl);
    return status;
}

void qr_chat_template_destroy(qr_chat_template *tmpl)
{
    if (!tmpl) return;
    qr_jarena_deinit(&tmpl->arena);
    qr_free(tmpl);
}

/* ---- rendering -------------------------------------------------------------------------------------------------- */

/* Strings refer to the JSON's own text. */
static qr_jval from_json(qr_jrun *run, const json_t *json)
{
    switch (json_typeof(json)) {
    case JSON_NULL: return qr_jval_none();
    case JSON_TRUE:
    case JSON_FALSE: return qr_jval_bool(json_is_true(json));
    case JSON_INTEGER: return qr_jval_int(json_integer_value(json));
    case JSON_REAL: return qr_jval_float(json_real_value(json));
    case JSON_STRING: return qr_jval_str(run, json_string_value(json), json_string_length(json));
    default: break;
    }
    qr_jrun_enter(run);
    qr_jval value;
    if (json_is_array(json)) {
        qr_jlist *list = qr_jlist_create(run, json_array_size(json));
        for (size_t i = 0; i < json_array_size(json); i++)
            qr_jlist_add(run, list, from_json(run, json_array_get(json, i)));
        value = qr_jval_list(QR_J_LIST, list);
    } else {
        qr_jdict *dict = qr_jdict_create(run, json_object_size(json));
        /* keys are unique and there is room for all: no search */
        for (void *i = json_object_iter((json_t *)json); i; i = json_object_iter_next((json_t *)json, i)) {
            const char *key = json_object_iter_key(i);
            qr_jrun_charge(run, 1);
            dict->pairs[dict->num++] =
                (qr_jpair){qr_jval_str(run, key, strlen(key)), from_json(run, json_object_iter_value(i))};
        }
        value = qr_jval_dict(QR_J_DICT, dict);
    }
    qr_jrun_leave(run);
    return value;
}

static quire_status render_guarded(qr_jrun *run, const qr_jnode *body, const json_t *vars)
{
    if (setjmp(run->on_raise) != 0) return run->status;
    run->globals = qr_jscope_create(run, NULL);
    run->globals->vars = *from_json(run, vars).dict;
    qr_jexec_body(run, body, run->globals);
    return QUIRE_OK;
}

quire_status qr_chat_template_render(const qr_chat_template *tmpl, const json_t *vars, int64_t now, qr_buf *out,
                                     quire_error *error)
{
    if (!json_is_object(vars))
        return qr_fail(error, QUIRE_INVALID, "chat template: the variables must be a JSON object");
    qr_jarena arena;
    qr_jarena_init(&arena, QR_J_MAX_RENDER_BYTES);
    qr_jrun run = {.arena = &arena, .error = error, .line = 1, .max_depth = QR_J_MAX_DEPTH, .now = now, .out = out};
    run.out_start = out->len;
    quire_status status = render_guarded(&run, tmpl->body, vars);
    if (status != QUIRE_OK) out->len = run.out_start;
    if (out->data) out->data[out->len] = '\0';
    qr_jarena_deinit(&arena);
    return status;
}
