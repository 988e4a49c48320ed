#include "sim/observe.h"

#include <math.h>

/* ---- histograms -------------------------------------------------------------------------------- */

static const double SMALLEST = 1e-6, BIN_WIDTH = 0.01; /* bins of equal logarithm */

void qr_sim_histogram_observe_many(qr_sim_histogram *h, double value, uint64_t count)
{
    const double bin = value > SMALLEST ? log(value / SMALLEST) / BIN_WIDTH : 0;
    h->counts[bin < QR_SIM_NUM_BINS - 1 ? (int)bin : QR_SIM_NUM_BINS - 1] += count;
    h->count += count;
    h->sum += value * (double)count;
    if (count > 0 && value > h->max) h->max = value;
}

void qr_sim_histogram_observe(qr_sim_histogram *h, double value) { qr_sim_histogram_observe_many(h, value, 1); }

double qr_sim_histogram_mean(const qr_sim_histogram *h) { return h->count ? h->sum / (double)h->count : 0; }

double qr_sim_histogram_percentile(const qr_sim_histogram *h, double percent)
{
    const double rank = percent / 100 * (double)h->count;
    uint64_t below = 0;
    if (h->count == 0) return 0;
    for (int bin = 0; bin < QR_SIM_NUM_BINS; bin++) {
        below += h->counts[bin];
        if ((double)below >= rank && below > 0) return fmin(SMALLEST * exp((bin + 0.5) * BIN_WIDTH), h->max);
    }
    return h->max;
}

/* ---- timeline ---------------------------------------------------------------------------------- */

static void merge_pairs(double *values)
{
    for (int i = 0; i < QR_SIM_MAX_POINTS / 2; i++) values[i] = values[2 * i] + values[2 * i + 1];
    for (int i = QR_SIM_MAX_POINTS / 2; i < QR_SIM_MAX_POINTS; i++) values[i] = 0;
}

static void coarsen(qr_sim_timeline *t)
{
    merge_pairs(t->live);
    merge_pairs(t->used);
    merge_pairs(t->running);
    merge_pairs(t->waiting);
    merge_pairs(t->weight);
    t->bin_seconds *= 2;
    t->num_points = (t->num_points + 1) / 2;
}

/* A sample counts for the bin in which it begins; bins are many samples long, but for the first few. */
void qr_sim_timeline_observe(qr_sim_timeline *t, const qr_sim_sample *s)
{
    const double weight = s->end - s->begin;
    if (!(weight > 0)) return;
    if (t->bin_seconds == 0) t->bin_seconds = weight;
    while (s->begin >= t->bin_seconds * QR_SIM_MAX_POINTS) coarsen(t);
    const int bin = (int)(s->begin / t->bin_seconds);
    t->live[bin] += weight * s->live;
    t->used[bin] += weight * s->used;
    t->running[bin] += weight * s->running;
    t->waiting[bin] += weight * s->waiting;
    t->weight[bin] += weight;
    if (bin >= t->num_points) t->num_points = bin + 1;
}

void qr_sim_timeline_finish(qr_sim_timeline *t)
{
    for (int i = 0; i < t->num_points; i++) {
        const double scale = t->weight[i] > 0 ? 1 / t->weight[i] : 0;
        t->live[i] *= scale;
        t->used[i] *= scale;
        t->running[i] *= scale;
        t->waiting[i] *= scale;
    }
}
