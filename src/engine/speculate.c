#include "engine/speculate.h"

#include <jansson.h>
#include <string.h>

#include "base/mem.h"
#include "quire.h"

/* ---- configuration -------------------------------------------------------------------------------------- */

enum { MAX_NGRAM = 64 };

static quire_status bad(quire_error *error, const char *what)
{
    return qr_fail_param(error, "speculative_config", "speculative_config: %s", what);
}

/* *value keeps its default when the field is missing. */
static quire_status read_int(const json_t *object, const char *name, int max, int *value, quire_error *error)
{
    const json_t *field = json_object_get(object, name);
    if (!field) return QUIRE_OK;
    const json_int_t number = json_integer_value(field);
    if (!json_is_integer(field) || number < 1 || number > max)
        return qr_fail_param(error, "speculative_config", "speculative_config: %s: a whole number from 1 to %d", name,
                             max);
    *value = (int)number;
    return QUIRE_OK;
}

const char *qr_spec_method_name(qr_spec_method method)
{
    static const char *const names[] = {
        [QR_SPEC_OFF] = "", [QR_SPEC_NGRAM] = "ngram", [QR_SPEC_DRAFT_MODEL] = "draft_model"};
    return names[method];
}

static quire_status read_method(const json_t *object, qr_spec_config *out, quire_error *error)
{
    const json_t *method = json_object_get(object, "method"), *model = json_object_get(object, "model");
    const char *name = method ? json_string_value(method) : model ? "draft_model" : NULL;
    for (int i = QR_SPEC_NGRAM; i <= QR_SPEC_DRAFT_MODEL && name; i++)
        if (strcmp(name, qr_spec_method_name((qr_spec_method)i)) == 0) out->method = (qr_spec_method)i;
    if (out->method == QR_SPEC_OFF)
        return bad(error, "give \"method\": \"ngram\", or \"model\": the path of a draft model");
    return QUIRE_OK;
}

static quire_status check_fields(const json_t *object, const qr_spec_config *config, quire_error *error)
{
    static const char *const ngram[] = {"method", "num_speculative_tokens", "adaptive", "prompt_lookup_max",
                                        "prompt_lookup_min"};
    static const char *const draft_model[] = {"method", "num_speculative_tokens", "adaptive", "model"};
    const bool is_ngram = config->method == QR_SPEC_NGRAM;
    const char *const *names = is_ngram ? ngram : draft_model;
    const size_t count = is_ngram ? sizeof ngram / sizeof *ngram : sizeof draft_model / sizeof *draft_model;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        size_t i = 0;
        while (i < count && strcmp(names[i], key) != 0) i++;
        if (i == count)
            return qr_fail_param(error, "speculative_config",
                                 "speculative_config: method %s has no field \"%.40s\"; it takes %s",
                                 qr_spec_method_name(config->method), key,
                                 is_ngram ? "num_speculative_tokens, prompt_lookup_max, prompt_lookup_min and adaptive"
                                          : "model, num_speculative_tokens and adaptive");
    }
    return QUIRE_OK;
}

static quire_status read_config(const json_t *object, qr_spec_config *out, quire_error *error)
{
    if (!json_is_object(object)) return bad(error, "not a JSON object");
    QR_TRY(read_method(object, out, error));
    QR_TRY(check_fields(object, out, error));
    QR_TRY(read_int(object, "num_speculative_tokens", QUIRE_MAX_SPECULATIVE_TOKENS, &out->num_tokens, error));
    if (out->num_tokens == 0) return bad(error, "num_speculative_tokens: missing");
    QR_TRY(read_int(object, "prompt_lookup_min", MAX_NGRAM, &out->min_ngram, error));
    QR_TRY(read_int(object, "prompt_lookup_max", MAX_NGRAM, &out->max_ngram, error));
    if (out->min_ngram == 0) out->min_ngram = out->max_ngram ? out->max_ngram : 5;
    if (out->max_ngram == 0) out->max_ngram = out->min_ngram;
    if (out->min_ngram > out->max_ngram) return bad(error, "prompt_lookup_min is above prompt_lookup_max");
    const json_t *adaptive = json_object_get(object, "adaptive");
    if (adaptive && !json_is_boolean(adaptive)) return bad(error, "adaptive: true or false");
    out->adaptive = !json_is_false(adaptive);
    if (out->method != QR_SPEC_DRAFT_MODEL) return QUIRE_OK;
    const json_t *model = json_object_get(object, "model");
    if (!json_string_length(model)) return bad(error, "model: the path of a draft model");
    out->model = qr_strdup(json_string_value(model));
    return out->model ? QUIRE_OK : qr_fail_nomem(error, "the draft model's path", json_string_length(model) + 1);
}

quire_status qr_spec_parse(const char *json, qr_spec_config *out, quire_error *error)
{
    *out = (qr_spec_config){0};
    if (!json) return QUIRE_OK;
    json_error_t detail;
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &detail);
    if (!root)
        return qr_fail_param(error, "speculative_config", "speculative_config: not JSON: %s (column %d)", detail.text,
                             detail.column);
    const quire_status status = read_config(root, out, error);
    json_decref(root);
    return status;
}

void qr_spec_config_deinit(qr_spec_config *config)
{
    qr_free(config->model);
    *config = (qr_spec_config){0};
}

/* ---- what it costs and gains ------------------------------------------------------------------------------ */

static double min_double(double a, double b) { return a < b ? a : b; }

void qr_spec_observe_step(qr_spec_costs *c, int num_tokens, double us)
{
    enum { MEMORY = 64 }; /* steps */
    if (c->num < MEMORY) c->num++;
    const double weight = 1 / c->num, dn = num_tokens - c->tokens, dt = us - c->us;
    c->tokens += weight * dn;
    c->us += weight * dt;
    c->tokens_var = (1 - weight) * (c->tokens_var + weight * dn * dn);
    c->cov = (1 - weight) * (c->cov + weight * dn * dt);
    if (c->tokens_var < 0.05) return; /* all of one size: the slope stays */
    const double slope = c->cov / c->tokens_var;
    c->us_per_token = slope < 0 ? 0 : min_double(slope, c->us / c->tokens);
}

void qr_spec_observe_proposal(qr_spec_costs *c, int num_drafts, double us)
{
    const double measured = us / num_drafts;
    if (c->draft_us_per_token == 0) c->draft_us_per_token = measured;
    c->draft_us_per_token += (measured - c->draft_us_per_token) / 16;
}

/* r: the cost of one more token in a step of num_tokens, in tokens of such a step. */
static double relative_cost(const qr_spec_costs *c, int num_tokens)
{
    const double step_us = c->us + c->us_per_token * (num_tokens - c->tokens);
    const double smallest_us = c->us_per_token * num_tokens; /* nothing is fixed */
    return (c->us_per_token + c->draft_us_per_token) * num_tokens / (step_us > smallest_us ? step_us : smallest_us);
}

void qr_spec_seq_init(qr_spec_seq *seq) { *seq = (qr_spec_seq){.acceptance = 0.8}; }

static int num_that_pay(const qr_spec_seq *seq, const qr_spec_costs *c, int max_drafts, int num_seqs)
{
    const double margin = 1.1; /* costs are measured: what hardly pays is left alone */
    const double cost = c->us > 0 ? margin * relative_cost(c, num_seqs) : 0;
    double gain = seq->acceptance;
    int num = 0;
    for (; num < max_drafts && gain > cost; num++) gain *= seq->acceptance;
    return num;
}

int qr_spec_num_drafts(qr_spec_seq *seq, const qr_spec_config *config, const qr_spec_costs *c, int max_drafts,
                       int num_seqs)
{
    const int patience = config->method == QR_SPEC_NGRAM ? 32 : 4; /* following costs, waiting for a match does not */
    if (!config->adaptive) return max_drafts;
    const int num = num_that_pay(seq, c, max_drafts, num_seqs);
    if (num == 0 && ++seq->num_passed < patience) return 0;
    seq->num_passed = 0;
    if (num > 0) return num;
    if (config->method == QR_SPEC_NGRAM) return 1; /* the text may have become predictable */
    seq->draft = QR_SPEC_LEFT;
    return 0;
}

bool qr_spec_follows(qr_spec_seq *seq, const qr_spec_config *config, qr_spec_costs *c, int num_seqs)
{
    enum { ONE_IN = 64, ASKED_UNTIL_NEXT_PROBE = 64 };
    if (seq->draft == QR_SPEC_UNDECIDED) {
        const bool known = c->draft_us_per_token > 0;
        if (config->adaptive && !known && c->num_asked++ % ASKED_UNTIL_NEXT_PROBE > 0) return false;
        const bool pays = !config->adaptive || num_that_pay(seq, c, 1, num_seqs) > 0;
        seq->draft = pays || ++c->num_refused == ONE_IN ? QR_SPEC_FOLLOWED : QR_SPEC_LEFT;
        if (seq->draft == QR_SPEC_FOLLOWED) c->num_refused = 0;
    }
    return seq->draft == QR_SPEC_FOLLOWED;
}

void qr_spec_observe_drafts(qr_spec_seq *seq, int num_drafts, int num_accepted)
{
    enum { MEMORY = 16 }; /* drafts */
    for (int i = 0; i < num_drafts && i <= num_accepted; i++)
        seq->acceptance += ((i < num_accepted) - seq->acceptance) / MEMORY;
}
