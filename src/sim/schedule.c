#include "sim/schedule.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "sim/trace_impl.h"

typedef struct reader {
    const char *name;
    int line;
    double first_us; /* start of the first step */
    size_t num_due;  /* rows that arrived before the last step */
    bool in_step;    /* its time is not known yet */
    qr_sim_schedule *out;
    quire_error *error;
} reader;

static quire_status fail_line(const reader *r, const char *what)
{
    return qr_fail(r->error, QUIRE_FORMAT, "%s: line %d: %s", r->name, r->line, what);
}

static quire_status fail_limit(const reader *r, const char *what)
{
    return qr_fail(r->error, QUIRE_UNSUPPORTED, "%s: line %d: %s cannot be replayed", r->name, r->line, what);
}

/* ---- members ----------------------------------------------------------------------------------- */

static bool get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max) return false;
    *out = json_integer_value(value);
    return true;
}

static bool get_int32(const json_t *object, const char *key, int32_t min, int32_t *out)
{
    int64_t value;
    if (!get_int(object, key, min, INT32_MAX, &value)) return false;
    *out = (int32_t)value;
    return true;
}

static bool text_is(const json_t *object, const char *key, const char *expected)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text && strcmp(text, expected) == 0;
}

/* An array of token ids into new memory, *out NULL when it is empty. */
static quire_status get_ids(const reader *r, const json_t *list, int32_t **out, int32_t *out_count)
{
    const size_t count = json_array_size(list);
    *out = NULL;
    *out_count = 0;
    if (!json_is_array(list) || count > QR_SIM_MAX_LENGTH) return fail_line(r, "an array of token ids is expected");
    if (count == 0) return QUIRE_OK;
    int32_t *ids = qr_calloc(count, sizeof *ids);
    if (!ids) return qr_fail_nomem(r->error, "token ids", count * sizeof *ids);
    *out = ids;
    *out_count = (int32_t)count;
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return fail_line(r, "an array of token ids is expected");
        ids[i] = (int32_t)json_integer_value(id);
    }
    return QUIRE_OK;
}

/* ---- lines ------------------------------------------------------------------------------------- */

static quire_status read_options(reader *r, const json_t *object)
{
    qr_sched_options *o = &r->out->options;
    int32_t speculative = 0;
    qr_sched_options_init(o);
    if (!get_int(object, "num_blocks", 1, INT32_MAX, &o->num_blocks) ||
        !get_int(object, "num_swap_blocks", 0, INT32_MAX, &o->num_swap_blocks) ||
        !get_int32(object, "block_size", 1, &o->block_size) ||
        !get_int32(object, "max_num_seqs", 1, &o->max_num_seqs) ||
        !get_int32(object, "max_num_batched_tokens", 1, &o->max_num_batched_tokens) ||
        !get_int32(object, "max_model_len", 2, &o->max_model_len) ||
        !get_int32(object, "max_chunk_tokens", 0, &o->max_chunk_tokens) ||
        !get_int32(object, "num_speculative_tokens", 0, &speculative))
        return fail_line(r, "a schedule log's first line is expected: {\"schedule\": 1, \"num_blocks\": ...}");
    const char *allocator = json_string_value(json_object_get(object, "kv_allocator"));
    if (!allocator || !qr_kv_allocator_parse(allocator, &o->kv_allocator))
        return fail_line(r, "\"kv_allocator\": no such one");
    o->enable_chunked_prefill = json_is_true(json_object_get(object, "enable_chunked_prefill"));
    o->enable_prefix_caching = json_is_true(json_object_get(object, "enable_prefix_caching"));
    o->preemption_mode = text_is(object, "preemption_mode", "swap")   ? QR_PREEMPT_SWAP
                         : text_is(object, "preemption_mode", "auto") ? QR_PREEMPT_AUTO
                                                                      : QR_PREEMPT_RECOMPUTE;
    const char *model = json_string_value(json_object_get(object, "model"));
    snprintf(r->out->model, sizeof r->out->model, "%s", model ? model : "");
    if (speculative > 0) return fail_limit(r, "speculation");
    const char *policy = json_string_value(json_object_get(object, "policy"));
    if (!policy || !qr_sched_policy_parse(policy, &o->policy)) return fail_line(r, "\"policy\": no such one");
    if (o->policy == QR_SCHED_PRIORITY) return fail_limit(r, "scheduling by priority");
    if (o->preemption_mode == QR_PREEMPT_AUTO) return fail_limit(r, "preemption mode auto");
    return QUIRE_OK;
}

static quire_status grow(const reader *r, void *array, size_t size, size_t count, size_t *max)
{
    if (count <= *max) return QUIRE_OK;
    const size_t more = count + *max + 256;
    void *old;
    memcpy(&old, array, sizeof old);
    void *bigger = qr_realloc(old, more * size);
    if (!bigger) return qr_fail_nomem(r->error, "the schedule", more * size);
    memcpy(array, &bigger, sizeof bigger);
    *max = more;
    return QUIRE_OK;
}

static quire_status read_request(reader *r, const json_t *object)
{
    qr_sim_schedule *s = r->out;
    qr_sim_row row = {0};
    int32_t *prompt = NULL;
    int64_t id = 0;
    QR_TRY(grow(r, &s->scripts, sizeof *s->scripts, s->trace.num_rows + 1, &s->max_scripts));
    qr_sim_script script = {0};
    if (!get_int(object, "request", 1, INT64_MAX, &id) || id != (int64_t)s->trace.num_rows + 1)
        return fail_line(r, "requests must be numbered 1, 2, 3, ...");
    if (!get_int32(object, "n", 1, &script.num_seqs) || script.num_seqs > s->options.max_num_seqs ||
        !get_int32(object, "max_output_tokens", 1, &script.max_output_tokens) ||
        !get_int32(object, "expected_output_tokens", 1, &row.output_tokens))
        return fail_line(r, "\"n\", \"max_output_tokens\" and \"expected_output_tokens\" are expected");
    if (json_is_true(json_object_get(object, "lockstep"))) return fail_limit(r, "a beam search");
    const char *key = json_string_value(json_object_get(object, "extra_key"));
    script.extra_key = key ? strtoull(key, NULL, 16) : 0;
    script.no_prefix_read = json_is_true(json_object_get(object, "no_prefix_read"));
    script.num_outputs = qr_calloc((size_t)script.num_seqs, sizeof *script.num_outputs);
    script.outputs = qr_calloc((size_t)script.num_seqs, sizeof *script.outputs);
    quire_status status = QUIRE_OK;
    if (!script.num_outputs || !script.outputs)
        status = qr_fail_nomem(r->error, "a request", (size_t)script.num_seqs * sizeof *script.outputs);
    if (status == QUIRE_OK) status = get_ids(r, json_object_get(object, "prompt"), &prompt, &row.prompt_tokens);
    if (status == QUIRE_OK && !prompt) status = fail_line(r, "the prompt has no tokens");
    script.prompt = prompt;
    if (status == QUIRE_OK) status = qr_sim_trace_add(&s->trace, row, r->error);
    if (status != QUIRE_OK) {
        qr_free(prompt);
        qr_free(script.num_outputs);
        qr_free(script.outputs);
        return status;
    }
    s->scripts[s->trace.num_rows - 1] = script;
    return QUIRE_OK;
}

/* Requests since the last step arrive with this one. */
static quire_status read_step_start(reader *r, const json_t *object, qr_sim_logged_step *step)
{
    qr_sim_schedule *s = r->out;
    int64_t start_us, id;
    if (r->in_step || !get_int(object, "step", 1, INT64_MAX, &id) || id != (int64_t)s->num_steps + 1 ||
        !get_int(object, "start_us", 0, INT64_MAX, &start_us) ||
        !get_int(object, "copied_blocks", 0, INT64_MAX, &step->num_copied_blocks) ||
        !get_int(object, "swapped_blocks", 0, INT64_MAX, &step->num_swapped_blocks))
        return fail_line(r, "steps must be numbered 1, 2, 3, ..., each with its \"computed\" line");
    if (s->num_steps == 0) r->first_us = (double)start_us;
    step->start = ((double)start_us - r->first_us) * 1e-6;
    if (s->num_steps > 0 && step->start < s->steps[s->num_steps - 1].end)
        return fail_line(r, "\"start_us\" is before the end of the last step");
    for (; r->num_due < s->trace.num_rows; r->num_due++) s->trace.rows[r->num_due].arrival = step->start;
    return QUIRE_OK;
}

static quire_status read_step(reader *r, const json_t *object)
{
    qr_sim_schedule *s = r->out;
    const json_t *entries = json_object_get(object, "entries");
    const size_t count = json_array_size(entries);
    qr_sim_logged_step step = {.first_entry = (int64_t)s->num_entries, .num_entries = (int)count};
    QR_TRY(read_step_start(r, object, &step));
    if (count < 1 || count > (size_t)s->options.max_num_seqs) return fail_line(r, "\"entries\" are expected");
    QR_TRY(grow(r, &s->steps, sizeof *s->steps, s->num_steps + 1, &s->max_steps));
    QR_TRY(grow(r, &s->entries, sizeof *s->entries, s->num_entries + count, &s->max_entries));
    for (size_t i = 0; i < count; i++) {
        const json_t *entry = json_array_get(entries, i);
        int64_t v[4];
        for (size_t k = 0; k < 4; k++) {
            const json_t *value = json_array_size(entry) == 4 ? json_array_get(entry, k) : NULL;
            if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > INT32_MAX)
                return fail_line(r, "an entry is [request, sequence, position, tokens]");
            v[k] = json_integer_value(value);
        }
        if (v[0] < 1 || v[0] > (int64_t)s->trace.num_rows || v[3] < 1)
            return fail_line(r, "an entry names a request that is not there, or computes nothing");
        s->entries[s->num_entries++] = (qr_sim_logged_entry){v[0] - 1, (int32_t)v[1], (int32_t)v[2], (int32_t)v[3]};
    }
    s->steps[s->num_steps++] = step;
    r->in_step = true;
    return QUIRE_OK;
}

static quire_status read_computed(reader *r, const json_t *object)
{
    int64_t end_us;
    if (!r->in_step || !get_int(object, "end_us", 0, INT64_MAX, &end_us)) return fail_line(r, "no step was under way");
    qr_sim_logged_step *step = &r->out->steps[r->out->num_steps - 1];
    step->end = ((double)end_us - r->first_us) * 1e-6;
    if (step->end < step->start) return fail_line(r, "the step ends before it starts");
    r->in_step = false;
    return QUIRE_OK;
}

static quire_status read_finished(reader *r, const json_t *object)
{
    int64_t id;
    if (!get_int(object, "finished", 1, (int64_t)r->out->trace.num_rows, &id))
        return fail_line(r, "\"finished\" names a request that is not there");
    qr_sim_script *script = &r->out->scripts[id - 1];
    const json_t *outputs = json_object_get(object, "outputs");
    if (script->num_outputs[0] > 0) return fail_line(r, "the request is finished already");
    if (json_array_size(outputs) != (size_t)script->num_seqs)
        return fail_line(r, "\"outputs\" of each sequence are expected");
    for (int i = 0; i < script->num_seqs; i++) {
        QR_TRY(get_ids(r, json_array_get(outputs, (size_t)i), &script->outputs[i], &script->num_outputs[i]));
        if (script->num_outputs[i] < 1) return fail_limit(r, "a sequence without outputs");
        if (script->num_outputs[i] > script->max_output_tokens)
            return fail_line(r, "more outputs than \"max_output_tokens\"");
    }
    return QUIRE_OK;
}

static quire_status read_line(reader *r, const json_t *object)
{
    if (json_object_get(object, "schedule"))
        return r->line == 1 ? read_options(r, object) : fail_line(r, "a second log begins");
    if (r->line == 1) return fail_line(r, "a schedule log's first line is expected: {\"schedule\": 1, ...}");
    if (json_object_get(object, "request")) return read_request(r, object);
    if (json_object_get(object, "step")) return read_step(r, object);
    if (json_object_get(object, "computed")) return read_computed(r, object);
    if (json_object_get(object, "finished")) return read_finished(r, object);
    if (json_object_get(object, "aborted")) return fail_limit(r, "an aborted request");
    return fail_line(r, "neither request, step, computed nor finished");
}

static quire_status finish(reader *r)
{
    qr_sim_schedule *s = r->out;
    if (s->num_steps == 0) return qr_fail(r->error, QUIRE_FORMAT, "%s: no steps", r->name);
    if (r->in_step) return fail_line(r, "the last step has no \"computed\" line");
    for (size_t i = 0; i < s->trace.num_rows; i++) {
        if (s->scripts[i].num_outputs[0] == 0)
            return qr_fail(r->error, QUIRE_FORMAT, "%s: request %zu has no \"finished\" line", r->name, i + 1);
        s->trace.rows[i].script = &s->scripts[i];
    }
    s->trace.has_arrivals = true;
    return QUIRE_OK;
}

static quire_status read_all(reader *r, const char *text, size_t bytes)
{
    const char *end = text + bytes;
    for (const char *at = text, *next; at < end; at = next) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        next = newline ? newline + 1 : end;
        r->line++;
        json_t *object = json_loadb(at, (size_t)((newline ? newline : end) - at), JSON_REJECT_DUPLICATES, NULL);
        const quire_status status = json_is_object(object) ? read_line(r, object) : fail_line(r, "not a JSON object");
        json_decref(object);
        QR_TRY(status);
    }
    return finish(r);
}

quire_status qr_sim_schedule_parse(const char *name, const char *text, size_t bytes, qr_sim_schedule *out,
                                   quire_error *error)
{
    reader r = {.name = name, .out = out, .error = error};
    *out = (qr_sim_schedule){0};
    const quire_status status = read_all(&r, text, bytes);
    if (status != QUIRE_OK) qr_sim_schedule_deinit(out);
    return status;
}

void qr_sim_schedule_deinit(qr_sim_schedule *s)
{
    for (size_t i = 0; i < s->trace.num_rows; i++) {
        qr_sim_script *script = &s->scripts[i];
        for (int k = 0; k < script->num_seqs; k++) qr_free(script->outputs[k]);
        qr_free(script->outputs);
        qr_free(script->num_outputs);
        qr_free(script->prompt);
    }
    qr_sim_trace_deinit(&s->trace);
    qr_free(s->scripts);
    qr_free(s->steps);
    qr_free(s->entries);
    *s = (qr_sim_schedule){0};
}
