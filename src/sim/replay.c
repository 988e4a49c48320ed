/* replay: a recorded schedule run again, and what its steps cost. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "sim/schedule.h"

/* ---- again ------------------------------------------------------------------------------------- */

typedef struct comparison {
    const qr_sim_schedule *schedule;
    qr_sim_replay *out;
    size_t step;
} comparison;

static void describe_entry(const char *who, int count, int64_t request, int seq, int start, int num_new, char *out,
                           size_t bytes)
{
    snprintf(out, bytes, "%s: %d entries, there request %lld, sequence %d, %d tokens from %d on", who, count,
             (long long)request, seq, num_new, start);
}

/* true: the step is the recorded one. */
static bool compare_step(comparison *c, const qr_sched_step *step)
{
    const qr_sim_schedule *s = c->schedule;
    if (c->step == s->num_steps) {
        snprintf(c->out->difference, sizeof c->out->difference, "the log has only %zu steps", s->num_steps);
        return false;
    }
    const qr_sim_logged_step *logged = &s->steps[c->step];
    const int count = step->num_entries < logged->num_entries ? step->num_entries : logged->num_entries;
    int i = 0;
    for (; i < count; i++) {
        const qr_sched_entry *now = &step->entries[i];
        const qr_sim_logged_entry *then = &s->entries[logged->first_entry + i];
        if ((int64_t)now->request->arrival != then->request + 1 || now->seq->idx != then->seq ||
            now->start != then->start || now->num_new_tokens != then->num_new_tokens)
            break;
    }
    if (i == step->num_entries && i == logged->num_entries) return true;
    char here[100] = "", there[100] = "";
    if (i < step->num_entries) {
        const qr_sched_entry *e = &step->entries[i];
        describe_entry("replay", step->num_entries, (int64_t)e->request->arrival, e->seq->idx, e->start,
                       e->num_new_tokens, here, sizeof here);
    }
    if (i < logged->num_entries) {
        const qr_sim_logged_entry *e = &s->entries[logged->first_entry + i];
        describe_entry("log", logged->num_entries, e->request + 1, e->seq, e->start, e->num_new_tokens, there,
                       sizeof there);
    }
    snprintf(c->out->difference, sizeof c->out->difference, "step %zu, entry %d; %s; %s", c->step + 1, i + 1, here,
             there);
    return false;
}

static quire_status on_step(void *user, const qr_sched_step *step, double *now, quire_error *error)
{
    comparison *c = user;
    const qr_sim_schedule *s = c->schedule;
    if (!compare_step(c, step)) return qr_fail(error, QUIRE_ABORTED, "the schedules differ");
    c->out->num_same_steps++;
    c->step++;
    *now = c->step < s->num_steps ? s->steps[c->step].start : s->steps[c->step - 1].end;
    return QUIRE_OK;
}

static quire_status run(const qr_sim_schedule *s, qr_sim_options *options, qr_sim_result *out, quire_error *error)
{
    options->sched = s->options;
    const qr_sim_workload_options workload = {.trace = &s->trace, .speed = 1, .num_seqs = 1};
    return qr_sim_run(options, &workload, out, error);
}

quire_status qr_sim_schedule_replay(const qr_sim_schedule *s, qr_sim_replay *out, quire_error *error)
{
    static const qr_sim_cost no_cost = {.tensor_parallel_size = 1, .block_size = 1};
    qr_sim_result *result = qr_malloc(sizeof *result);
    if (!result) return qr_fail_nomem(error, "the result", sizeof *result);
    *out = (qr_sim_replay){.num_steps = (int64_t)s->num_steps, .real_seconds = s->steps[s->num_steps - 1].end};
    comparison c = {.schedule = s, .out = out};
    qr_sim_options options = {.cost = no_cost, .on_step = on_step, .user = &c};
    quire_status status = run(s, &options, result, error);
    qr_free(result);
    if (status == QUIRE_ABORTED && *out->difference) return QUIRE_OK;
    if (status == QUIRE_OK && c.step < s->num_steps)
        snprintf(out->difference, sizeof out->difference, "the replay ends after %zu steps", c.step);
    return status;
}

quire_status qr_sim_schedule_simulate(const qr_sim_schedule *s, const qr_sim_cost *cost, qr_sim_result *out,
                                      quire_error *error)
{
    qr_sim_options options = {.cost = *cost};
    options.cost.block_size = s->options.block_size;
    return run(s, &options, out, error);
}

/* ---- least squares ----------------------------------------------------------------------------- */

enum { NUM_TERMS = 4, MIN_STEPS = 8 };

static void features(const qr_sim_schedule *s, size_t step, double out[NUM_TERMS])
{
    const qr_sim_logged_step *logged = &s->steps[step];
    qr_sim_load load = {0};
    for (int i = 0; i < logged->num_entries; i++) {
        const qr_sim_logged_entry *e = &s->entries[logged->first_entry + i];
        qr_sim_load_add(&load, e->start, e->num_new_tokens);
    }
    out[0] = 1;
    out[1] = load.num_seqs;
    out[2] = (double)load.num_tokens;
    out[3] = (double)load.num_pairs;
}

static double step_us(const qr_sim_logged_step *step) { return (step->end - step->start) * 1e6; }

/* Solve a x = b for the terms of `mask`, the others are 0; false: singular or a negative term. */
static bool solve(double a[NUM_TERMS][NUM_TERMS], const double b[NUM_TERMS], int mask, double x[NUM_TERMS])
{
    double m[NUM_TERMS][NUM_TERMS + 1];
    int used[NUM_TERMS], n = 0;
    for (int i = 0; i < NUM_TERMS; i++)
        if (mask >> i & 1) used[n++] = i;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) m[i][j] = a[used[i]][used[j]];
        m[i][n] = b[used[i]];
    }
    for (int i = 0; i < n; i++) {
        int pivot = i;
        for (int k = i + 1; k < n; k++)
            if (fabs(m[k][i]) > fabs(m[pivot][i])) pivot = k;
        if (fabs(m[pivot][i]) < 1e-12) return false;
        for (int j = 0; j <= n; j++) {
            const double swapped = m[i][j];
            m[i][j] = m[pivot][j];
            m[pivot][j] = swapped;
        }
        for (int k = 0; k < n; k++) {
            const double factor = m[k][i] / m[i][i];
            for (int j = i; k != i && j <= n; j++) m[k][j] -= factor * m[i][j];
        }
    }
    for (int i = 0; i < NUM_TERMS; i++) x[i] = 0;
    for (int i = 0; i < n; i++) {
        x[used[i]] = m[i][n] / m[i][i];
        if (x[used[i]] < 0) return false;
    }
    return true;
}

/* The best of all subsets of terms that have no negative one: with four terms the simplest exact way. */
static void fit(double a[NUM_TERMS][NUM_TERMS], const double b[NUM_TERMS], double best[NUM_TERMS])
{
    double best_gain = 0;
    for (int i = 0; i < NUM_TERMS; i++) best[i] = 0;
    for (int mask = 1; mask < 1 << NUM_TERMS; mask++) {
        double x[NUM_TERMS], gain = 0; /* how much of the sum of squares it explains: x . b */
        if (!solve(a, b, mask, x)) continue;
        for (int i = 0; i < NUM_TERMS; i++) gain += x[i] * b[i];
        if (gain <= best_gain) continue;
        best_gain = gain;
        memcpy(best, x, sizeof x);
    }
}

quire_status qr_sim_schedule_fit(const qr_sim_schedule *s, qr_sim_fit *out, quire_error *error)
{
    double a[NUM_TERMS][NUM_TERMS] = {{0}}, b[NUM_TERMS] = {0}, scale[NUM_TERMS] = {0}, f[NUM_TERMS], x[NUM_TERMS];
    if (s->num_steps < MIN_STEPS)
        return qr_fail(error, QUIRE_INVALID, "%zu steps are too few to learn from", s->num_steps);
    for (size_t k = 0; k < s->num_steps; k++) {
        features(s, k, f);
        for (int i = 0; i < NUM_TERMS; i++) scale[i] = fmax(scale[i], f[i]);
    }
    for (size_t k = 0; k < s->num_steps; k++) {
        features(s, k, f);
        for (int i = 0; i < NUM_TERMS; i++) f[i] /= scale[i];
        for (int i = 0; i < NUM_TERMS; i++) {
            for (int j = 0; j < NUM_TERMS; j++) a[i][j] += f[i] * f[j];
            b[i] += f[i] * step_us(&s->steps[k]);
        }
    }
    fit(a, b, x);
    double fitted_sum = 0, real_sum = 0, error_sum = 0;
    for (size_t k = 0; k < s->num_steps; k++) {
        double fitted = 0;
        features(s, k, f);
        for (int i = 0; i < NUM_TERMS; i++) fitted += x[i] * f[i] / scale[i];
        fitted_sum += fitted;
        real_sum += step_us(&s->steps[k]);
        error_sum += fabs(fitted - step_us(&s->steps[k]));
    }
    if (!(real_sum > 0)) return qr_fail(error, QUIRE_INVALID, "the steps took no time");
    *out = (qr_sim_fit){x[0] / scale[0], x[1] / scale[1],      x[2] / scale[2],
                        x[3] / scale[3], error_sum / real_sum, fitted_sum / real_sum - 1};
    return QUIRE_OK;
}
