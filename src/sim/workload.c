#include "sim/workload.h"

#include <assert.h>
#include <math.h>

void qr_sim_workload_init(qr_sim_workload *w, const qr_sim_workload_options *options)
{
    assert(options->trace->num_rows > 0 && (options->request_rate > 0 || options->trace->has_arrivals));
    *w = (qr_sim_workload){.options = *options};
    w->arrivals.state = options->seed;
    w->lengths.state = options->seed ^ 0x5851F42D4C957F2Du;
}

static bool draw_arrival(qr_sim_workload *w, qr_sim_arrival *out)
{
    const qr_sim_workload_options *o = &w->options;
    const qr_sim_trace *trace = o->trace;
    if (o->request_rate > 0) {
        if (!isinf(o->request_rate)) w->now -= log(qr_random_uniform(&w->arrivals)) / o->request_rate;
        out->row = &trace->rows[qr_random_next(&w->lengths) % trace->num_rows];
        return true;
    }
    if ((size_t)w->serial == trace->num_rows) return false;
    out->row = &trace->rows[w->serial];
    w->now = out->row->arrival / o->speed;
    return true;
}

bool qr_sim_workload_next(qr_sim_workload *w, qr_sim_arrival *out)
{
    const qr_sim_workload_options *o = &w->options;
    if (o->num_requests > 0 && w->serial == o->num_requests) return false;
    if (!draw_arrival(w, out) || (o->num_requests == 0 && o->duration > 0 && w->now > o->duration)) return false;
    out->serial = w->serial++;
    out->time = w->now;
    int64_t prompt = (int64_t)out->row->prompt_tokens + o->shared_prefix, output = out->row->output_tokens;
    if (o->max_model_len > 0) {
        if (prompt + output > o->max_model_len) prompt = o->max_model_len > output ? o->max_model_len - output : 1;
        if (prompt + output > o->max_model_len) output = o->max_model_len - prompt;
    }
    out->prompt_tokens = (int32_t)prompt;
    out->output_tokens = (int32_t)output;
    return true;
}

/* A block of tokens is told apart by its first one; what follows is a count. The ids of shared prefixes, of hashed
 * blocks and of requests of their own lie in different ranges. */
enum { OWN_RANGE = 1 << 30, PREFIX_TOKEN = (1 << 30) - 1 };

void qr_sim_workload_prompt(const qr_sim_workload *w, const qr_sim_arrival *a, int32_t *out)
{
    int32_t begin = 0;
    for (; begin < w->options.shared_prefix && begin < a->prompt_tokens; begin++) out[begin] = PREFIX_TOKEN - begin;
    for (int32_t i = begin; i < a->prompt_tokens; i++) out[i] = i;
    if (begin < a->prompt_tokens) out[begin] = OWN_RANGE + (int32_t)(a->serial % OWN_RANGE);
    for (int32_t h = 0; h < a->row->num_hashes; h++) {
        const int64_t at = begin + (int64_t)h * QR_SIM_HASH_TOKENS;
        if (at < a->prompt_tokens) out[at] = w->options.trace->hash_ids[a->row->first_hash + h] % OWN_RANGE;
    }
}

double qr_sim_workload_size(const qr_sim_workload *w)
{
    const qr_sim_workload_options *o = &w->options;
    double size = o->request_rate > 0 ? INFINITY : (double)o->trace->num_rows;
    if (o->num_requests > 0) return fmin(size, (double)o->num_requests);
    if (o->duration > 0 && o->request_rate > 0) return o->request_rate * o->duration;
    return size;
}
