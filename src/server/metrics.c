/* GET /metrics (routes.h): the engine's statistics in Prometheus' text format, as vLLM's prometheus_client prints them.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/routes.h"

typedef struct page {
    qr_emit *out;
    qr_emit labels; /* engine="0",model_name="..." */
} page;

/* A float as Prometheus' clients write it: "3.0", "0.25", "+Inf". */
static void emit_value(qr_emit *out, double value)
{
    if (isinf(value))
        qr_emit_raw(out, value > 0 ? "+Inf" : "-Inf");
    else if (value == floor(value) && fabs(value) < 1e15)
        qr_emit_printf(out, "%.1f", value);
    else
        qr_emit_printf(out, "%.15g", value);
}

static void head(page *p, const char *name, const char *type, const char *help)
{
    qr_emit_printf(p->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* name{labels,extra} value */
static void sample(page *p, const char *name, const char *extra, double value)
{
    qr_emit_printf(p->out, "%s{", name);
    qr_emit_join(p->out, &p->labels);
    if (*extra) qr_emit_printf(p->out, ",%s", extra);
    qr_emit_raw(p->out, "} ");
    emit_value(p->out, value);
    qr_emit_raw(p->out, "\n");
}

static void gauge(page *p, const char *name, const char *help, double value)
{
    head(p, name, "gauge", help);
    sample(p, name, "", value);
}

static void counter(page *p, const char *name, const char *help, uint64_t value)
{
    head(p, name, "counter", help);
    sample(p, name, "", (double)value);
}

static void histogram(page *p, const char *name, const char *help, const quire_histogram *h)
{
    char full[96], bound[64];
    head(p, name, "histogram", help);
    snprintf(full, sizeof full, "%s_bucket", name);
    uint64_t total = 0;
    for (int i = 0; i < h->num_bounds; i++) {
        total += h->counts[i];
        double value = h->bounds[i];
        snprintf(bound, sizeof bound, value == floor(value) ? "le=\"%.1f\"" : "le=\"%.12g\"", value);
        sample(p, full, bound, (double)total);
    }
    sample(p, full, "le=\"+Inf\"", (double)h->count);
    snprintf(full, sizeof full, "%s_count", name);
    sample(p, full, "", (double)h->count);
    snprintf(full, sizeof full, "%s_sum", name);
    sample(p, full, "", h->sum);
}

static void emit_state(page *p, const quire_stats *s)
{
    gauge(p, "vllm:num_requests_running", "Number of requests in model execution batches.", s->num_requests_running);
    gauge(p, "vllm:num_requests_waiting", "Number of requests waiting to be processed.", s->num_requests_waiting);
    gauge(p, "vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", s->kv_cache_usage);
    counter(p, "vllm:prefix_cache_queries_total", "Prefix cache queries, in terms of number of queried tokens.",
            s->prefix_cache_queries);
    counter(p, "vllm:prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.",
            s->prefix_cache_hits);
    counter(
        p, "vllm:external_prefix_cache_queries_total",
        "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried "
        "tokens.",
        s->external_prefix_cache_queries);
    counter(p, "vllm:external_prefix_cache_hits_total",
            "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached "
            "tokens.",
            s->external_prefix_cache_hits);
    counter(p, "vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", s->num_preemptions);
    counter(p, "quire:num_swapped_groups_total", "Preemptions that moved a request's KV blocks to swap space.",
            s->num_swapped_groups);
    counter(p, "vllm:prompt_tokens_total", "Number of prefill tokens processed.", s->prompt_tokens);
    counter(p, "vllm:generation_tokens_total", "Number of generation tokens processed.", s->generation_tokens);

    const char *name = "vllm:request_success_total";
    head(p, name, "counter", "Count of successfully processed requests.");
    sample(p, name, "finished_reason=\"stop\"", (double)s->finished_stop);
    sample(p, name, "finished_reason=\"length\"", (double)s->finished_length);
    sample(p, name, "finished_reason=\"abort\"", (double)s->finished_abort);
    sample(p, name, "finished_reason=\"error\"", (double)s->finished_error);
}

static void emit_speculation(page *p, const quire_stats *s)
{
    if (s->num_speculative_tokens == 0) return;
    counter(p, "vllm:spec_decode_num_drafts_total", "Number of spec decoding drafts.", s->spec_decode_num_drafts);
    counter(p, "vllm:spec_decode_num_draft_tokens_total", "Number of draft tokens.", s->spec_decode_num_draft_tokens);
    counter(p, "vllm:spec_decode_num_accepted_tokens_total", "Number of accepted tokens.",
            s->spec_decode_num_accepted_tokens);
    const char *name = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
    head(p, name, "counter", "Accepted tokens per draft position.");
    for (int i = 0; i < s->num_speculative_tokens; i++) {
        char position[32];
        snprintf(position, sizeof position, "position=\"%d\"", i);
        sample(p, name, position, (double)s->spec_decode_num_accepted_tokens_per_pos[i]);
    }
}

static void emit_histograms(page *p, const quire_stats *s)
{
    histogram(p, "vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.",
              &s->time_to_first_token_seconds);
    histogram(p, "vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.",
              &s->inter_token_latency_seconds);
    histogram(p, "vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.",
              &s->e2e_request_latency_seconds);
    histogram(p, "vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.",
              &s->request_queue_time_seconds);
    histogram(p, "vllm:request_prompt_tokens", "Number of prefill tokens processed.", &s->request_prompt_tokens);
    histogram(p, "vllm:request_generation_tokens", "Number of generation tokens processed.",
              &s->request_generation_tokens);
    histogram(p, "vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.", &s->iteration_tokens);
}

/* Resident bytes of this process, 0 where /proc says nothing. */
static double resident_bytes(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

/* What vLLM has no name for. */
static void emit_own(page *p, const qr_server *server, const quire_stats *s)
{
    gauge(p, "quire:num_kv_blocks", "KV blocks in the pool.", (double)s->num_kv_blocks);
    gauge(p, "quire:num_free_kv_blocks", "KV blocks that no request holds.", (double)s->num_free_kv_blocks);
    gauge(p, "quire:num_seqs_running", "Sequences in model execution batches.", s->num_seqs_running);
    gauge(p, "quire:live_slot_fraction", "Live tokens / slots of allocated KV blocks, mean over all steps.",
          s->live_slot_fraction);
    gauge(p, "quire:saved_block_fraction", "KV blocks saved by sharing / blocks without sharing, mean over all steps.",
          s->saved_block_fraction);
    const char *name = "quire:kv_slot_fraction";
    head(p, name, "gauge", "What the slots of the KV pool are used for, mean over all steps.");
    sample(p, name, "use=\"live\"", s->kv_live_fraction);
    sample(p, name, "use=\"reserved\"", s->kv_reserved_fraction);
    sample(p, name, "use=\"internal_fragmentation\"", s->kv_internal_fraction);
    sample(p, name, "use=\"external_fragmentation\"", s->kv_external_fraction);
    sample(p, name, "use=\"unused\"", s->kv_unused_fraction);
    gauge(p, "quire:mean_requests_running", "Requests in model execution batches, mean over all steps.",
          s->mean_requests_running);
    counter(p, "quire:num_steps_total", "Engine steps.", s->num_steps);
    gauge(p, "quire:max_prefix_store_blocks", "KV blocks that the stored prefix cache has room for.",
          (double)s->max_prefix_store_blocks);
    gauge(p, "quire:num_prefix_store_blocks", "KV blocks in the stored prefix cache.",
          (double)s->num_prefix_store_blocks);
    counter(p, "quire:prefix_store_written_total", "KV blocks written to the stored prefix cache.",
            s->prefix_store_written);
    counter(p, "quire:prefix_store_dropped_total", "KV blocks not kept, as the disk was too slow or full.",
            s->prefix_store_dropped);
    counter(p, "quire:prefix_store_broken_total", "KV blocks found damaged in the stored prefix cache.",
            s->prefix_store_broken);
    gauge(p, "quire:http_calls", "HTTP calls in progress.", server->num_calls);
    head(p, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
    qr_emit_raw(p->out, "process_resident_memory_bytes ");
    emit_value(p->out, resident_bytes());
    qr_emit_raw(p->out, "\n");
}

void qr_metrics_answer(qr_call *call, const char *path)
{
    (void)path;
    quire_stats stats;
    quire_engine_get_stats(call->server->options.engine, &stats);
    page p = {.out = &call->answer};
    qr_emit_raw(&p.labels, "engine=\"0\",model_name=");
    qr_emit_string(&p.labels, call->server->model_name, strlen(call->server->model_name));
    emit_state(&p, &stats);
    emit_speculation(&p, &stats);
    emit_histograms(&p, &stats);
    head(&p, "vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig");
    char extra[128];
    snprintf(extra, sizeof extra, "block_size=\"%d\",cache_dtype=\"%s\",num_gpu_blocks=\"%" PRId64 "\"",
             stats.block_size, stats.kv_cache_dtype ? stats.kv_cache_dtype : "", stats.num_kv_blocks);
    sample(&p, "vllm:cache_config_info", extra, 1);
    emit_own(&p, call->server, &stats);
    if (p.labels.failed) call->answer.failed = true;
    qr_emit_deinit(&p.labels);
    call->plain_text = true;
    call->http_status = 200;
}
