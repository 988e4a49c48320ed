/* trace_made: traces that are not read: the one inside the program, shapes, chats. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/random.h"
#include "sim/embedded.h"
#include "sim/trace_impl.h"

const qr_sim_shape qr_sim_shape_alpaca = {19.31, 0.6, 58.45, 1.1, 4, 1024, 1024};
const qr_sim_shape qr_sim_shape_translation = {28, 0.6, 38, 0.6, 4, 512, 512};

enum { PAPER_MIN_TOKENS = 4, PAPER_MAX_PROMPT = 1024, PAPER_MAX_TOTAL = 2048 };

quire_status qr_sim_trace_sharegpt(qr_sim_trace *out, quire_error *error)
{
    return qr_sim_trace_parse("sharegpt_lengths.csv", qr_sim_sharegpt_csv,
                              (size_t)(qr_sim_sharegpt_csv_end - qr_sim_sharegpt_csv), out, error);
}

/* Scale, filter, and take the mean. */
static double filtered_mean(const qr_sim_trace *from, double prompt_factor, double output_factor, qr_sim_trace *to,
                            bool of_outputs)
{
    to->num_rows = from->num_rows;
    for (size_t i = 0; i < from->num_rows; i++) {
        to->rows[i].prompt_tokens = (int32_t)round(from->rows[i].prompt_tokens * prompt_factor);
        to->rows[i].output_tokens = (int32_t)round(from->rows[i].output_tokens * output_factor);
    }
    qr_sim_trace_filter(to, PAPER_MIN_TOKENS, PAPER_MAX_PROMPT, PAPER_MAX_TOTAL);
    return of_outputs ? qr_sim_trace_mean_output(to) : qr_sim_trace_mean_prompt(to);
}

/* Both means depend on both factors, a little: a few rounds of halving one, then the other. */
static void scale_to_paper(const qr_sim_trace *from, qr_sim_trace *to)
{
    double factors[2] = {1, 1};
    static const double means[2] = {161.31, 337.99};
    for (int round = 0; round < 6; round++) {
        for (int which = 0; which < 2; which++) {
            double low = 0.2, high = 5;
            for (int i = 0; i < 30; i++) {
                factors[which] = (low + high) / 2;
                if (filtered_mean(from, factors[0], factors[1], to, which == 1) < means[which])
                    low = factors[which];
                else
                    high = factors[which];
            }
        }
    }
}

quire_status qr_sim_trace_sharegpt_paper(qr_sim_trace *out, quire_error *error)
{
    qr_sim_trace raw;
    QR_TRY(qr_sim_trace_sharegpt(&raw, error));
    const quire_status status = qr_sim_trace_sharegpt(out, error);
    if (status == QUIRE_OK) scale_to_paper(&raw, out);
    qr_sim_trace_deinit(&raw);
    return status;
}

/* ---- shapes ------------------------------------------------------------------------------------ */

/* Standard normal quantile, by halving: plenty for a table. */
static double normal_quantile(double p)
{
    double low = -8, high = 8;
    for (int i = 0; i < 60; i++) {
        const double middle = (low + high) / 2;
        if (0.5 * erfc(-middle / sqrt(2)) < p)
            low = middle;
        else
            high = middle;
    }
    return (low + high) / 2;
}

typedef struct column {
    double mu, sigma;
    int32_t min, max;
} column;

static int32_t column_value(const column *c, double normal)
{
    const double value = round(exp(c->mu + c->sigma * normal));
    return value < c->min ? c->min : value > c->max ? c->max : (int32_t)value;
}

/* The mu that gives the cut and rounded values this mean. */
static void fit_mean(column *c, const double *normals, size_t count, double mean)
{
    double low = log(mean) - 4, high = log(mean) + 4;
    for (int i = 0; i < 60; i++) {
        double sum = 0;
        c->mu = (low + high) / 2;
        for (size_t k = 0; k < count; k++) sum += column_value(c, normals[k]);
        if (sum / (double)count < mean)
            low = c->mu;
        else
            high = c->mu;
    }
}

static quire_status fill_shape(const qr_sim_shape *shape, double *normals, size_t num_rows, uint64_t seed,
                               qr_sim_trace *out, quire_error *error)
{
    qr_random random = {seed};
    column prompt = {0, sqrt(log(1 + shape->cv_prompt * shape->cv_prompt)), shape->min_tokens, shape->max_prompt};
    column output = {0, sqrt(log(1 + shape->cv_output * shape->cv_output)), shape->min_tokens, shape->max_output};
    for (size_t i = 0; i < num_rows; i++) normals[i] = normal_quantile(((double)i + 0.5) / (double)num_rows);
    fit_mean(&prompt, normals, num_rows, shape->mean_prompt);
    fit_mean(&output, normals, num_rows, shape->mean_output);
    for (size_t i = 0; i < num_rows; i++)
        QR_TRY(qr_sim_trace_add(out, (qr_sim_row){.prompt_tokens = column_value(&prompt, normals[i])}, error));
    for (size_t i = num_rows; i > 1; i--) {
        const size_t other = (size_t)(qr_random_next(&random) % i);
        const double swapped = normals[i - 1];
        normals[i - 1] = normals[other];
        normals[other] = swapped;
    }
    for (size_t i = 0; i < num_rows; i++) out->rows[i].output_tokens = column_value(&output, normals[i]);
    return QUIRE_OK;
}

quire_status qr_sim_trace_from_shape(const qr_sim_shape *shape, size_t num_rows, uint64_t seed, qr_sim_trace *out,
                                     quire_error *error)
{
    *out = (qr_sim_trace){0};
    double *normals = qr_calloc(num_rows, sizeof *normals);
    if (!normals) return qr_fail_nomem(error, "lengths", num_rows * sizeof *normals);
    const quire_status status = fill_shape(shape, normals, num_rows, seed, out, error);
    qr_free(normals);
    if (status != QUIRE_OK) qr_sim_trace_deinit(out);
    return status;
}

/* ---- chats ------------------------------------------------------------------------------------- */

quire_status qr_sim_trace_chats(const qr_sim_trace *single, double mean_turns, int32_t max_prompt, int32_t max_output,
                                size_t num_rows, uint64_t seed, qr_sim_trace *out, quire_error *error)
{
    qr_random random = {seed};
    quire_status status = QUIRE_OK;
    *out = (qr_sim_trace){0};
    for (size_t i = 0; status == QUIRE_OK && i < num_rows; i++) {
        const qr_sim_row *last = &single->rows[qr_random_next(&random) % single->num_rows];
        int64_t prompt = last->prompt_tokens;
        while (prompt < max_prompt && qr_random_uniform(&random) < mean_turns / (mean_turns + 1)) {
            const qr_sim_row *turn = &single->rows[qr_random_next(&random) % single->num_rows];
            prompt += turn->prompt_tokens + turn->output_tokens;
        }
        const int32_t output = last->output_tokens;
        status = qr_sim_trace_add(out,
                                  (qr_sim_row){.prompt_tokens = (int32_t)(prompt < max_prompt ? prompt : max_prompt),
                                               .output_tokens = output < max_output ? output : max_output},
                                  error);
    }
    if (status != QUIRE_OK) qr_sim_trace_deinit(out);
    return status;
}
