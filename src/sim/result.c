#include "sim/result.h"

static json_t *distribution(const qr_sim_histogram *h)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "mean", qr_sim_histogram_mean(h), "p50",
                     qr_sim_histogram_percentile(h, 50), "p90", qr_sim_histogram_percentile(h, 90), "p99",
                     qr_sim_histogram_percentile(h, 99), "max", h->max);
}

json_t *qr_sim_result_json(const qr_sim_result *r)
{
    const double seconds = r->seconds > 0 ? r->seconds : 1;
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:o, s:o, s:o, s:f, s:f, s:{s:f, s:f, s:f, s:f, "
        "s:f}, s:f, s:f, s:f, s:{s:f, s:f, s:f, s:f, s:f, s:f, s:f}}",
        "num_requests", (json_int_t)r->num_requests, "prompt_tokens", (json_int_t)r->prompt_tokens, "output_tokens",
        (json_int_t)r->output_tokens, "computed_tokens", (json_int_t)r->computed_tokens, "num_steps",
        (json_int_t)r->num_steps, "num_preemptions", (json_int_t)r->num_preemptions, "num_swapped_groups",
        (json_int_t)r->num_swapped_groups, "seconds", r->seconds, "requests_per_second",
        (double)r->num_requests / seconds, "output_tokens_per_second", (double)r->output_tokens / seconds,
        "normalized_latency", distribution(&r->normalized_latency), "latency", distribution(&r->latency),
        "time_to_first_token", distribution(&r->time_to_first_token), "inter_token_latency",
        distribution(&r->inter_token_latency), "queue_time", distribution(&r->queue_time), "mean_batched_requests",
        r->mean_batched_requests, "mean_batched_seqs", r->mean_batched_seqs, "kv_memory", "live", r->memory.live,
        "reserved", r->memory.reserved, "internal_fragmentation", r->memory.internal, "external_fragmentation",
        r->memory.external, "free", r->memory.free, "live_slot_fraction", r->live_share, "saved_block_fraction",
        r->saved_share, "prefix_cache_hit_rate", r->prefix_hit_rate, "step_seconds", "overhead", r->time.overhead,
        "linear", r->time.linear, "attention", r->time.attention, "activations", r->time.activations, "all_reduce",
        r->time.all_reduce, "copies", r->time.copies, "swaps", r->time.swaps);
}

static json_t *numbers(const double *values, int count)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++) (void)json_array_append_new(list, json_real(values[i]));
    return list;
}

json_t *qr_sim_timeline_json(const qr_sim_timeline *t)
{
    return json_pack("{s:f, s:o, s:o, s:o, s:o}", "bin_seconds", t->bin_seconds, "live",
                     numbers(t->live, t->num_points), "used", numbers(t->used, t->num_points), "running",
                     numbers(t->running, t->num_points), "waiting", numbers(t->waiting, t->num_points));
}
