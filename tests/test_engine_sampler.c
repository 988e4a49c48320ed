/* sampler: each truncation against a naive reference over the sorted distribution, penalties, logprobs, and the
 * distribution of draws. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/sampler.h"

enum { VOCAB = 1000 };

typedef struct fixture {
    qr_backend *be;
    qr_sampler_scratch *scratch;
    float logits[VOCAB];
    quire_sampling_params params;
} fixture;

static uint64_t rng = 1;
static double uniform(void) { return (double)(qr_sampler_random(42, 0, (uint32_t)rng++) >> 11) * 0x1p-53; }

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    if (qr_cpu_backend_create(NULL, 1, &f->be, NULL) != QUIRE_OK) return -1;
    if (qr_sampler_scratch_create(VOCAB, &f->scratch, NULL) != QUIRE_OK) return -1;
    for (int i = 0; i < VOCAB; i++) f->logits[i] = (float)(uniform() * 12 - 6);
    quire_sampling_params_init(&f->params);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    qr_sampler_scratch_destroy(f->scratch);
    f->be->ops->destroy(f->be);
    free(f);
    return 0;
}

static qr_sample_in input(fixture *f, uint64_t key)
{
    qr_sample_in in = {.logits = f->logits, .params = &f->params, .key = key};
    f->be->ops->row_stats(f->be, f->logits, VOCAB, 1, VOCAB, &in.stats.max, &in.stats.argmax, &in.stats.sum_exp);
    return in;
}

static int32_t draw(fixture *f, uint64_t key)
{
    qr_sample_in in = input(f, key);
    return qr_sampler_sample(f->be, f->scratch, &in);
}

/* ---- the naive reference: which tokens may be drawn ---------------------------------------------------- */

typedef struct item {
    double p, key;
    int id;
} item;

static int by_p(const void *a, const void *b)
{
    const item *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p ? 1 : -1) : x->id - y->id;
}

static int by_key(const void *a, const void *b)
{
    const item *x = a, *y = b;
    return x->key != y->key ? (x->key > y->key ? 1 : -1) : by_p(a, b);
}

static void normalize(item *items, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += items[i].p;
    for (int i = 0; i < n; i++) items[i].p /= sum;
}

static int allowed_set(const fixture *f, item *items)
{
    const quire_sampling_params *p = &f->params;
    int n = VOCAB;
    for (int i = 0; i < n; i++) items[i] = (item){exp((double)f->logits[i] / p->temperature), 0, i};
    normalize(items, n);
    qsort(items, (size_t)n, sizeof *items, by_p);
    while (p->min_p > 0 && n > 1 && items[n - 1].p < p->min_p * items[0].p) n--;
    if (p->top_k > 0 && p->top_k < n) n = p->top_k;
    normalize(items, n);
    if (p->top_p < 1) {
        double sum = 0;
        int kept = 0;
        while (kept < n && sum < p->top_p) sum += items[kept++].p;
        n = kept;
        normalize(items, n);
    }
    if (p->typical_p < 1) {
        double entropy = 0, sum = 0;
        int kept = 0;
        for (int i = 0; i < n; i++) entropy -= items[i].p * log(items[i].p);
        for (int i = 0; i < n; i++) items[i].key = fabs(-log(items[i].p) - entropy);
        qsort(items, (size_t)n, sizeof *items, by_key);
        while (kept < n && sum < p->typical_p) sum += items[kept++].p;
        n = kept;
    }
    return n;
}

/* Draw often: only allowed tokens, and nearly all of their probability is seen. */
static void check_support(fixture *f)
{
    static item items[VOCAB];
    bool allowed[VOCAB] = {false}, seen[VOCAB] = {false};
    int n = allowed_set(f, items);
    for (int i = 0; i < n; i++) allowed[items[i].id] = true;
    for (uint64_t key = 0; key < 4000; key++) {
        int32_t id = draw(f, key);
        assert_true(allowed[id]);
        seen[id] = true;
    }
    double missed = 0;
    normalize(items, n);
    for (int i = 0; i < n; i++)
        if (!seen[items[i].id]) missed += items[i].p;
    assert_true(missed < 0.08);
}

static void truncations_keep_what_they_should(void **state)
{
    fixture *f = *state;
    static const struct {
        int top_k;
        double top_p, min_p, typical_p, temperature;
    } cases[] = {{0, 1, 0, 1, 1},      {5, 1, 0, 1, 1},   {0, 0.5, 0, 1, 1},       {0, 0.97, 0, 1, 1.5},
                 {0, 1, 0.1, 1, 1},    {0, 1, 0, 0.5, 1}, {300, 0.9, 0.001, 1, 2}, {40, 0.95, 0.02, 0.8, 0.7},
                 {VOCAB, 1, 0, 1, 1},  {1, 1, 0, 1, 3},   {0, 0.000001, 0, 1, 1},  {0, 1, 1, 1, 1},
                 {999, 0.999, 0, 1, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        f->params.top_k = cases[i].top_k;
        f->params.top_p = cases[i].top_p;
        f->params.min_p = cases[i].min_p;
        f->params.typical_p = cases[i].typical_p;
        f->params.temperature = cases[i].temperature;
        check_support(f);
    }
}

static void draws_follow_the_distribution(void **state)
{
    fixture *f = *state;
    enum { DRAWS = 60000 };
    for (int truncated = 0; truncated < 2; truncated++) {
        static int counts[VOCAB];
        memset(counts, 0, sizeof counts);
        for (int i = 0; i < VOCAB; i++) f->logits[i] = i < 8 ? (float)i * 0.4f : -INFINITY;
        f->params.top_k = truncated ? 8 : 0;
        for (uint64_t key = 0; key < DRAWS; key++) counts[draw(f, key)]++;
        double total = 0, chi2 = 0;
        for (int i = 0; i < 8; i++) total += exp(i * 0.4);
        for (int i = 0; i < 8; i++) {
            double expected = DRAWS * exp(i * 0.4) / total;
            chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
        }
        assert_true(chi2 < 24.3); /* 7 degrees of freedom: exceeded once in a thousand; keys are fixed */
    }
}

static void greedy_and_ties(void **state)
{
    fixture *f = *state;
    f->params.temperature = 0;
    f->logits[10] = f->logits[500] = 100;
    assert_int_equal(draw(f, 1), 10);
    for (int i = 0; i < VOCAB; i++) f->logits[i] = 1;
    f->params.temperature = 1;
    f->params.top_k = 3;
    for (uint64_t key = 0; key < 200; key++) assert_in_range(draw(f, key), 0, 2);
}

static void biases_penalties_and_min_tokens(void **state)
{
    fixture *f = *state;
    const quire_logit_bias bias[] = {{7, 100.0f}};
    const int32_t prompt[] = {3, 3, 9}, output[] = {9, 4, 4}, eos[] = {7};
    f->params.temperature = 0;
    f->params.logit_bias = bias;
    f->params.num_logit_bias = 1;
    assert_int_equal(draw(f, 0), 7);
    f->params.min_tokens = 4;
    qr_sample_in in = input(f, 0);
    in.eos_ids = eos;
    in.num_eos_ids = 1;
    in.num_output = 3;
    in.output = output;
    assert_int_not_equal(qr_sampler_sample(f->be, f->scratch, &in), 7);
    in.num_output = 4;
    const int32_t longer[] = {9, 4, 4, 1};
    in.output = longer;
    assert_int_equal(qr_sampler_sample(f->be, f->scratch, &in), 7);

    f->params.num_logit_bias = f->params.min_tokens = 0;
    for (int i = 0; i < VOCAB; i++) f->logits[i] = -10;
    f->logits[3] = 8, f->logits[4] = 7.5f, f->logits[9] = 7.6f, f->logits[5] = 5;
    in = input(f, 0);
    in.prompt = prompt, in.num_prompt = 3;
    in.output = output, in.num_output = 3;
    assert_int_equal(qr_sampler_sample(f->be, f->scratch, &in), 3);
    f->params.repetition_penalty = 2; /* 3: 4, 9: 3.8, 4: 3.75 */
    assert_int_equal(qr_sampler_sample(f->be, f->scratch, &in), 5);
    f->params.repetition_penalty = 1;
    f->params.frequency_penalty = 1; /* 4: 5.5, 9: 6.6, 3 is in the prompt only: 8 */
    f->params.presence_penalty = 2;
    assert_int_equal(qr_sampler_sample(f->be, f->scratch, &in), 3);
    f->logits[3] = 0; /* 4: 3.5, 9: 4.6 */
    assert_int_equal(qr_sampler_sample(f->be, f->scratch, &in), 5);
}

static void logprobs_and_ranks(void **state)
{
    fixture *f = *state;
    static item items[VOCAB];
    allowed_set(f, items);
    qr_sample_in in = input(f, 0);
    int32_t ids[QR_MAX_LOGPROBS];
    float logprobs[QR_MAX_LOGPROBS];
    for (int num_top = 1; num_top <= QR_MAX_LOGPROBS; num_top += 42) {
        qr_sampler_top_logprobs(f->scratch, f->logits, &in.stats, num_top, ids, logprobs);
        for (int i = 0; i < num_top; i++) {
            float logprob;
            int rank;
            assert_int_equal(ids[i], items[i].id);
            assert_true(fabs(logprobs[i] - log(items[i].p)) < 1e-4);
            qr_sampler_logprob(f->logits, &in.stats, VOCAB, ids[i], &logprob, &rank);
            assert_int_equal(rank, i + 1);
            assert_memory_equal(&logprob, &logprobs[i], sizeof logprob);
        }
    }
}

static void a_draw_depends_on_key_sequence_and_position(void **state)
{
    fixture *f = *state;
    int differ = 0;
    for (uint64_t key = 0; key < 50; key++) {
        qr_sample_in in = input(f, key);
        static const int32_t output[2] = {1, 2};
        int32_t first = qr_sampler_sample(f->be, f->scratch, &in);
        assert_int_equal(qr_sampler_sample(f->be, f->scratch, &in), first);
        in.seq_index = 1;
        differ += qr_sampler_sample(f->be, f->scratch, &in) != first;
        in.seq_index = 0;
        in.output = output;
        in.num_output = 2;
        differ += qr_sampler_sample(f->be, f->scratch, &in) != first;
    }
    assert_true(differ > 80);
    /* Philox4x32-10, Random123's known answers: counter and key all zero */
    assert_true(qr_sampler_random(0, 0, 0) == 0x6627e8d5e169c58dull);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(truncations_keep_what_they_should, setup, teardown),
        cmocka_unit_test_setup_teardown(draws_follow_the_distribution, setup, teardown),
        cmocka_unit_test_setup_teardown(greedy_and_ties, setup, teardown),
        cmocka_unit_test_setup_teardown(biases_penalties_and_min_tokens, setup, teardown),
        cmocka_unit_test_setup_teardown(logprobs_and_ranks, setup, teardown),
        cmocka_unit_test_setup_teardown(a_draw_depends_on_key_sequence_and_position, setup, teardown),
    };
    return cmocka_run_group_tests_name("engine_sampler", tests, NULL, NULL);
}
