/* sampler on a device: the op `sample` draws the tokens, and gives the log probabilities, ranks and likeliest tokens,
 * that the host's sampler does, compared as bytes: every kind of truncation and edit alone and together, rows with
 * ties, with few finite logits, with none, with NaN; on blocks of few and of many threads. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend_sets.h"
#include "engine/sampler.h"

enum { SMALL = 300, LARGE = 5003, MAX_TOKENS = 90, MAX_EDITS = QR_MAX_DRAWS * 3 * (MAX_TOKENS + 1) };
static const int vocab_sizes[] = {SMALL, LARGE};

static qr_backend *cpu, *cuda;
static int vocab; /* of the test that runs */
static float logits[LARGE], scratch[QR_MAX_DRAWS * LARGE], top_logits[QR_MAX_DRAWS * QR_MAX_TOP];
static int32_t top_ids[QR_MAX_DRAWS * QR_MAX_TOP];
static qr_draw draws[QR_MAX_DRAWS];
static qr_drawn drawn[QR_MAX_DRAWS];
static qr_logit_edit edits[MAX_EDITS];
static qr_sampler_scratch *host;

static uint32_t num_random;
static int below(int n) { return (int)(qr_sampler_random(7, 0, num_random++) % (uint64_t)n); }
static double uniform(void) { return (double)(qr_sampler_random(7, 0, num_random++) >> 11) * 0x1p-53; }

/* ---- what is asked */

typedef enum row_kind { SPREAD, STEPS, ALL_EQUAL, FEW_FINITE, ONE_INFINITE, WITH_NAN, NONE_FINITE, NUM_KINDS } row_kind;

static void fill_row(row_kind kind)
{
    for (int i = 0; i < vocab; i++) {
        float x = (float)((uniform() + uniform() + uniform() + uniform() - 2) * 9);
        logits[i] = kind == STEPS         ? floorf(x)
                    : kind == ALL_EQUAL   ? -0.0f * (float)(i % 2)
                    : kind == NONE_FINITE ? -INFINITY
                    : kind == FEW_FINITE  ? (i % 97 == 5 ? x : -INFINITY)
                    : kind == WITH_NAN    ? (i % 3 == 0 ? NAN : x)
                                          : x;
    }
    if (kind == ONE_INFINITE) logits[vocab / 2] = INFINITY;
}

typedef struct request {
    quire_sampling_params params;
    quire_logit_bias biases[MAX_TOKENS];
    int32_t prompt[MAX_TOKENS], output[MAX_TOKENS], stop[3];
    uint64_t key;
} request;

/* Every second value of each parameter is its default. */
static void make_request(request *r)
{
    quire_sampling_params *p = &r->params;
    quire_sampling_params_init(p);
    static const double temperatures[] = {0, 0.2, 0.7, 1.7}, top_ps[] = {0.0, 0.3, 0.9, 0.9999};
    static const int top_ks[] = {1, 2, 20, 250, SMALL};
    if (below(2)) p->temperature = temperatures[below(4)];
    if (below(2)) p->top_p = top_ps[below(4)];
    if (below(2)) p->top_k = top_ks[below(5)];
    if (below(2)) p->min_p = below(2) ? 0.05 : below(2) ? 1.0 : 1e-6;
    if (below(3) == 0) p->repetition_penalty = below(2) ? 1.3 : 0.8;
    if (below(3) == 0) p->frequency_penalty = 0.4;
    if (below(3) == 0) p->presence_penalty = -0.7;
    if (below(4) == 0) p->num_logit_bias = below(MAX_TOKENS);
    if (below(4) == 0) p->min_tokens = MAX_TOKENS, p->num_stop_token_ids = 3;
    p->logit_bias = r->biases;
    p->stop_token_ids = r->stop;
    for (int i = 0; i < MAX_TOKENS; i++) {
        const int few = below(2) ? 7 : vocab; /* often the same ones */
        r->biases[i] = (quire_logit_bias){below(few), (float)(uniform() * 6 - 3)};
        r->prompt[i] = below(few);
        r->output[i] = below(few);
    }
    for (int i = 0; i < 3; i++) r->stop[i] = below(vocab);
    r->key = (uint64_t)below(1000);
}

static qr_sample_in input(const request *r)
{
    qr_sample_in in = {.logits = logits,
                       .params = &r->params,
                       .prompt = r->prompt,
                       .output = r->output,
                       .num_prompt = below(MAX_TOKENS),
                       .num_output = below(MAX_TOKENS),
                       .key = r->key,
                       .seq_index = below(3)};
    cpu->ops->row_stats(cpu, logits, vocab, 1, vocab, &in.stats.max, &in.stats.argmax, &in.stats.sum_exp);
    return in;
}

/* ---- both ways */

static void sample(int num_draws)
{
    const qr_sample_args args = {.logits = logits,
                                 .vocab_size = vocab,
                                 .draws = draws,
                                 .num_draws = num_draws,
                                 .edits = edits,
                                 .scratch = scratch,
                                 .out = drawn,
                                 .top_ids = top_ids,
                                 .top_logits = top_logits};
    cuda->ops->sample(cuda, &args);
    cuda->ops->wait(cuda);
}

static void compare_stats(const qr_sample_in *in, int i)
{
    float logprob;
    int rank;
    const float got = drawn[i].logit - drawn[i].max - logf(drawn[i].sum_exp);
    qr_sampler_logprob(logits, &in->stats, vocab, drawn[i].token, &logprob, &rank);
    assert_int_equal(drawn[i].rank, rank);
    if (!isnan(logprob) || !isnan(got)) assert_memory_equal(&got, &logprob, sizeof got);
}

static void compare_top(const qr_sample_in *in, int i)
{
    int32_t ids[QR_MAX_TOP];
    float logprobs[QR_MAX_TOP];
    const int num = draws[i].num_top;
    if (draws[i].edited_top)
        qr_sampler_beam_candidates(host, in, num, ids, logprobs);
    else
        qr_sampler_top_logprobs(host, logits, &in->stats, num, ids, logprobs);
    for (int t = 0; t < num; t++) {
        const float got = top_logits[i * QR_MAX_TOP + t] - drawn[i].max - logf(drawn[i].sum_exp);
        assert_int_equal(top_ids[i * QR_MAX_TOP + t], ids[t]);
        if (!isnan(logprobs[t]) || !isnan(got)) assert_memory_equal(&got, &logprobs[t], sizeof got);
    }
}

/* As many draws of one row at once as a launch takes, or fewer. */
static void check_row(row_kind kind, int num_draws)
{
    static request requests[QR_MAX_DRAWS];
    static qr_sample_in in[QR_MAX_DRAWS];
    int num_edits = 0;
    fill_row(kind);
    for (int i = 0; i < num_draws; i++) {
        make_request(&requests[i]);
        in[i] = input(&requests[i]);
        assert_true(qr_sampler_max_edits(host, &in[i]) >= 0);
        const int num = qr_sampler_describe(host, &in[i], &draws[i], edits + num_edits);
        assert_true(num <= qr_sampler_max_edits(host, &in[i]));
        draws[i].first_edit = num_edits;
        num_edits += num;
        draws[i].wants_stats = below(2);
        if (below(3) == 0) draws[i].num_top = 1 + below(QR_MAX_TOP), draws[i].wants_stats = true;
        draws[i].edited_top = below(2);
        if (below(8) == 0) draws[i].given_token = below(vocab);
    }
    memset(drawn, 0xFF, sizeof drawn);
    sample(num_draws);
    for (int i = 0; i < num_draws; i++) {
        const int32_t given = draws[i].given_token;
        const int32_t expected = given >= 0 ? given : qr_sampler_sample(cpu, host, &in[i]);
        if (drawn[i].token != expected)
            fail_msg("row kind %d, draw %d: token %d, not %d", (int)kind, i, drawn[i].token, expected);
        if (draws[i].wants_stats) compare_stats(&in[i], i);
        compare_top(&in[i], i);
    }
}

static void the_same_as_on_the_host(void **state)
{
    (void)state;
    for (int s = 0; s < 2; s++) {
        vocab = vocab_sizes[s];
        assert_int_equal(qr_sampler_scratch_create(vocab, &host, NULL), QUIRE_OK);
        for (int round = 0; round < (s == 0 ? 6 : 1); round++)
            for (int kind = 0; kind < NUM_KINDS; kind++) check_row((row_kind)kind, s == 0 ? QR_MAX_DRAWS : 16);
        qr_sampler_scratch_destroy(host);
    }
}

/* What a device does not draw is said so. */
static void typical_p_stays_on_the_host(void **state)
{
    (void)state;
    request r;
    vocab = SMALL;
    assert_int_equal(qr_sampler_scratch_create(vocab, &host, NULL), QUIRE_OK);
    make_request(&r);
    qr_sample_in in = input(&r);
    r.params.typical_p = 0.9;
    assert_int_equal(qr_sampler_max_edits(host, &in), -1);
    qr_sampler_scratch_destroy(host);
}

static int open_backends(void **state)
{
    (void)state;
    return qr_cpu_backend_create(NULL, 1, &cpu, NULL) != QUIRE_OK || create_set(CUDA_SET, 1, &cuda, NULL) != QUIRE_OK;
}

static int close_backends(void **state)
{
    (void)state;
    cpu->ops->destroy(cpu);
    cuda->ops->destroy(cuda);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_same_as_on_the_host),
                                       cmocka_unit_test(typical_p_stays_on_the_host)};
    return cmocka_run_group_tests_name("engine sampler cuda", tests, open_backends, close_backends);
}
