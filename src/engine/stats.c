#include "engine/stats.h"

#include <string.h>

static void set_bounds(quire_histogram *h, const double *bounds, size_t bytes)
{
    h->num_bounds = (int)(bytes / sizeof *bounds);
    memcpy(h->bounds, bounds, bytes);
}

/* 1, 2, 5, 10, 20, 50, ... up to max */
static void set_1_2_5_bounds(quire_histogram *h, int max)
{
    static const int mantissas[] = {1, 2, 5};
    for (double decade = 1; decade <= max; decade *= 10)
        for (int i = 0; i < 3 && mantissas[i] * decade <= max && h->num_bounds < QUIRE_MAX_BUCKETS; i++)
            h->bounds[h->num_bounds++] = mantissas[i] * decade;
}

void qr_stats_init(quire_stats *stats, int max_model_len)
{
    static const double ttft[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                                  1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
    static const double itl[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,  0.3,  0.4, 0.5,
                                 0.75, 1.0,   2.5,  5.0,   7.5, 10.0, 20.0, 40.0, 80.0};
    static const double request[] = {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
                                     30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
    static const double iteration[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
    memset(stats, 0, sizeof *stats);
    set_bounds(&stats->time_to_first_token_seconds, ttft, sizeof ttft);
    set_bounds(&stats->inter_token_latency_seconds, itl, sizeof itl);
    set_bounds(&stats->e2e_request_latency_seconds, request, sizeof request);
    set_bounds(&stats->request_queue_time_seconds, request, sizeof request);
    set_bounds(&stats->iteration_tokens, iteration, sizeof iteration);
    set_1_2_5_bounds(&stats->request_prompt_tokens, max_model_len);
    set_1_2_5_bounds(&stats->request_generation_tokens, max_model_len);
}

void qr_histogram_observe(quire_histogram *h, double value)
{
    int i = 0;
    while (i < h->num_bounds && value > h->bounds[i]) i++;
    h->counts[i]++;
    h->count++;
    h->sum += value;
}
