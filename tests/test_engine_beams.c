/* Beam search: its choices against a naive reference, and whole searches that do not depend on what else runs.
 *
 * The reference is transformers' _beam_search written down with plain arrays, for one prompt: all continuations of all
 * beams are scored and sorted, whole sequences are copied. Both search a made-up model, in which a digest of all tokens
 * so far gives the log probabilities; sequences end often, so that early_stopping and length_penalty matter. (The
 * goldens of test_engine_golden.c are transformers' own, but none of them ends before its last step.) */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/beam.h"
#include "quire.h"

enum { VOCAB = 12, MAX_WIDTH = 8, MAX_TOKENS = 14, MAX_KEPT = 4 * MAX_WIDTH };

/* ---- a made-up model ----------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t digest, uint64_t value)
{
    uint64_t x = digest * 0x9e3779b97f4a7c15u + value + 1;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

typedef struct made_up {
    uint64_t key;
    int num_eos; /* tokens 0 .. num_eos - 1 end a sequence */
    float eos_bonus;
} made_up;

/* logprobs [VOCAB] of what follows the tokens. */
static void made_up_logprobs(const made_up *m, const int32_t *tokens, int num_tokens, float *logprobs)
{
    uint64_t digest = m->key;
    for (int i = 0; i < num_tokens; i++) digest = mix(digest, (uint64_t)tokens[i]);
    double sum = 0;
    for (int t = 0; t < VOCAB; t++) {
        logprobs[t] = (float)(mix(digest, 1000u + (unsigned)t) % 4096) / 1024 + (t < m->num_eos ? m->eos_bonus : 0);
        sum += exp(logprobs[t]);
    }
    for (int t = 0; t < VOCAB; t++) logprobs[t] -= (float)log(sum);
}

static bool made_up_ends(const void *ctx, int32_t token) { return token < ((const made_up *)ctx)->num_eos; }

/* ---- the naive reference ------------------------------------------------------------------------------------- */

typedef struct hypothesis {
    int32_t tokens[MAX_TOKENS];
    int num_tokens, beam;
    float logprob, score;
    bool ends, finished;
} hypothesis;

typedef struct reference {
    hypothesis running[MAX_WIDTH], finished[MAX_WIDTH];
    int num_steps;
} reference;

static int by_logprob(const void *a, const void *b)
{
    const hypothesis *x = a, *y = b;
    if (x->logprob != y->logprob) return x->logprob > y->logprob ? -1 : 1;
    return x->beam != y->beam ? x->beam - y->beam : x->tokens[x->num_tokens - 1] - y->tokens[y->num_tokens - 1];
}

static bool all_finished(const reference *r, int width)
{
    int num = 0;
    for (int i = 0; i < width; i++) num += r->finished[i].finished;
    return num == width;
}

/* Among the finished ones, behind those that are as good; the worst one goes. */
static void keep_finished(reference *r, int width, hypothesis h)
{
    int at = 0;
    while (at < width && r->finished[at].score >= h.score) at++;
    if (at == width) return;
    memmove(&r->finished[at + 1], &r->finished[at], (size_t)(width - at - 1) * sizeof h);
    h.finished = true;
    r->finished[at] = h;
}

static void search(const made_up *m, int width, int max_tokens, float penalty, quire_early_stopping early, reference *r)
{
    static hypothesis all[MAX_WIDTH * VOCAB];
    memset(r, 0, sizeof *r);
    for (int i = 0; i < width; i++) r->finished[i].score = -1e9f;
    bool likely = true;
    for (int length = 1, num_running = 1;; length++) {
        int num = 0;
        for (int b = 0; b < num_running; b++) {
            float logprobs[VOCAB];
            made_up_logprobs(m, r->running[b].tokens, length - 1, logprobs);
            for (int t = 0; t < VOCAB; t++) {
                hypothesis *h = &all[num++];
                *h = r->running[b];
                h->beam = b;
                h->tokens[h->num_tokens++] = t;
                h->logprob += logprobs[t];
                h->ends = t < m->num_eos || length == max_tokens;
            }
        }
        qsort(all, (size_t)num, sizeof *all, by_logprob);
        const int num_kept = (m->num_eos > 0 ? 1 + m->num_eos : 2) * width;
        if (num > num_kept) num = num_kept;
        const bool full = early == QUIRE_EARLY_STOPPING_TRUE && all_finished(r, width);
        num_running = 0;
        bool all_end = true;
        for (int i = 0; i < num; i++) {
            all_end &= all[i].ends;
            if (!all[i].ends && num_running < width) r->running[num_running++] = all[i];
            if (!all[i].ends || i >= width || full || !likely) continue;
            all[i].score = all[i].logprob / powf((float)length, penalty);
            keep_finished(r, width, all[i]);
        }
        r->num_steps = length;
        const float most = (float)(early == QUIRE_EARLY_STOPPING_NEVER && penalty > 0 ? max_tokens : length);
        const float best = r->running[0].logprob / powf(most, penalty);
        likely = likely && (!all_finished(r, width) || best > r->finished[width - 1].score);
        if (all_end || !likely || (early == QUIRE_EARLY_STOPPING_TRUE && all_finished(r, width))) return;
    }
}

/* ---- the real one --------------------------------------------------------------------------------------------- */

/* The best continuations of one beam, best first. */
static void best_of_row(const made_up *m, const int32_t *tokens, int num_tokens, int num, int32_t *ids, float *logprobs)
{
    float row[VOCAB];
    bool taken[VOCAB] = {false};
    made_up_logprobs(m, tokens, num_tokens, row);
    for (int i = 0; i < num; i++) {
        int best = -1;
        for (int t = 0; t < VOCAB; t++)
            if (!taken[t] && (best < 0 || row[t] > row[best])) best = t;
        taken[best] = true;
        ids[i] = best;
        logprobs[i] = row[best];
    }
}

static int real_search(const made_up *m, qr_beam_search *b)
{
    int32_t seqs[MAX_WIDTH][MAX_TOKENS], next[MAX_WIDTH][MAX_TOKENS], ids[MAX_WIDTH][MAX_KEPT];
    float logprobs[MAX_WIDTH][MAX_KEPT];
    const int32_t *rows[MAX_WIDTH], *outputs[MAX_WIDTH];
    const float *row_logprobs[MAX_WIDTH];
    for (int step = 0;; step++) {
        const int num_rows = step == 0 ? 1 : b->width;
        for (int i = 0; i < num_rows; i++) {
            best_of_row(m, seqs[i], step, b->num_candidates, ids[i], logprobs[i]);
            rows[i] = ids[i];
            row_logprobs[i] = logprobs[i];
            outputs[i] = seqs[i];
        }
        if (qr_beam_advance(b, rows, row_logprobs, outputs, num_rows, made_up_ends, m)) return step + 1;
        for (int i = 0; i < b->width; i++) {
            memcpy(next[i], seqs[b->parents[i]], sizeof next[i]);
            next[i][step] = b->tokens[i];
        }
        memcpy(seqs, next, sizeof seqs);
    }
}

static void choices_equal_the_reference(void **state)
{
    (void)state;
    static reference r;
    int num_early = 0, num_stopped = 0;
    for (unsigned seed = 0; seed < 20000; seed++) {
        const uint64_t random = mix(seed, 7);
        const made_up m = {.key = random, .num_eos = (int)(random >> 8) % 3, .eos_bonus = (float)(random >> 16 & 3)};
        const int max_kept = m.num_eos > 1 ? VOCAB / 3 : VOCAB / 2; /* a row has that many continuations */
        const int width = 1 + (int)(random >> 24 & 255) % max_kept,
                  max_tokens = 1 + (int)(random >> 32 & 255) % MAX_TOKENS;
        static const double penalties[] = {1, 0, 0.6, 2, -0.5};
        quire_sampling_params p = {.length_penalty = penalties[(random >> 40 & 255) % 5],
                                   .early_stopping = (quire_early_stopping)((random >> 48 & 255) % 3)};
        search(&m, width, max_tokens, (float)p.length_penalty, p.early_stopping, &r);
        qr_beam_search *b;
        quire_error error;
        assert_int_equal(qr_beam_create(&p, width, m.num_eos, max_tokens, &b, &error), QUIRE_OK);
        const int num_steps = real_search(&m, b);
        if (num_steps != r.num_steps) fail_msg("seed %u: %d steps, not %d", seed, num_steps, r.num_steps);
        for (int i = 0; i < width; i++) {
            const qr_beam_hypothesis *got = &b->finished[i];
            const hypothesis *want = &r.finished[i];
            if (got->finished != want->finished || got->num_tokens != want->num_tokens || got->score != want->score ||
                got->logprob != want->logprob ||
                memcmp(got->tokens, want->tokens, (size_t)want->num_tokens * sizeof *want->tokens) != 0)
                fail_msg("seed %u: beam %d of %d differs", seed, i, width);
            num_stopped += want->ends && want->num_tokens < max_tokens;
        }
        num_early += num_steps < max_tokens;
        qr_beam_destroy(b);
    }
    print_message("20000 searches: %d ended early, %d of their results before max_tokens\n", num_early, num_stopped);
    assert_true(num_early > 2000 && num_stopped > 10000);
}

/* ---- in the engine --------------------------------------------------------------------------------------------- */

enum { NUM_REQUESTS = 64, MAX_PROMPT = 40, MAX_OUTPUT = 40 };

typedef struct outcome {
    int32_t tokens[MAX_WIDTH][MAX_OUTPUT];
    int num_tokens[MAX_WIDTH];
    double score[MAX_WIDTH], logprob[MAX_WIDTH];
    quire_finish_reason reason[MAX_WIDTH];
} outcome;

static quire_request *submit(quire_engine *engine, int i)
{
    int32_t prompt[MAX_PROMPT];
    quire_request_options o;
    quire_request_options_init(&o);
    o.prompt_token_ids = prompt;
    o.num_prompt_tokens = (size_t)(1 + (i * 13) % MAX_PROMPT);
    for (size_t k = 0; k < o.num_prompt_tokens; k++)
        prompt[k] = (int32_t)(3 + (k < 18 ? k * 7 : k * (size_t)(i + 11)) % 380); /* the first 18 are common */
    prompt[0] = 3 + i;
    o.sampling.use_beam_search = true;
    o.sampling.n = i % 4 == 3 ? 2 : 8;
    o.sampling.best_of = 8;
    o.sampling.max_tokens = MAX_OUTPUT - i % 7;
    o.sampling.length_penalty = i % 3 == 0 ? 0.5 : 1;
    o.sampling.early_stopping = (quire_early_stopping)(i % 3);
    /* so that beams end: every 13th token is one that ends */
    static int32_t stops[30];
    for (int k = 0; k < 30; k++) stops[k] = 13 * k;
    o.sampling.stop_token_ids = stops;
    o.sampling.num_stop_token_ids = i % 2 ? 4 : 0;
    quire_request *request = NULL;
    quire_error error;
    if (quire_submit(engine, &o, &request, &error) != QUIRE_OK) fail_msg("request %d: %s", i, error.message);
    return request;
}

static void collect(quire_request *request, outcome *out)
{
    const quire_output *o;
    memset(out, 0, sizeof *out);
    while (quire_request_next(request, -1, &o) == QUIRE_OK) { /* each beam comes whole, best first */
        assert_true(o->finish_reason == QUIRE_FINISH_STOP || o->finish_reason == QUIRE_FINISH_LENGTH);
        assert_int_equal(o->num_tokens, o->num_output_tokens);
        memcpy(out->tokens[o->index], o->token_ids, (size_t)o->num_tokens * sizeof *o->token_ids);
        out->num_tokens[o->index] = o->num_tokens;
        out->score[o->index] = o->beam_score;
        out->logprob[o->index] = o->cumulative_logprob;
        out->reason[o->index] = o->finish_reason;
        if (o->index > 0) assert_true(o->beam_score <= out->score[o->index - 1]);
    }
    quire_request_release(request);
}

static void run(quire_model *model, quire_engine_options options, bool together, outcome *out, quire_stats *stats)
{
    quire_engine *engine;
    quire_request *requests[NUM_REQUESTS];
    quire_error error;
    if (quire_engine_create(model, &options, &engine, &error) != QUIRE_OK) fail_msg("%s", error.message);
    for (int i = 0; i < NUM_REQUESTS; i++) {
        requests[i] = submit(engine, i);
        if (!together) collect(requests[i], &out[i]);
    }
    for (int i = 0; together && i < NUM_REQUESTS; i++) collect(requests[i], &out[i]);
    assert_int_equal(quire_engine_drain(engine, 10000), QUIRE_OK);
    quire_engine_get_stats(engine, stats);
    assert_int_equal(stats->num_free_kv_blocks, stats->num_kv_blocks);
    quire_engine_destroy(engine);
}

static quire_model *open_tiny(int threads)
{
    quire_model_options options;
    quire_model *model = NULL;
    quire_error error;
    quire_model_options_init(&options);
    options.threads = threads;
    if (quire_model_open("tests/golden/tiny/llama", &options, &model, &error) != QUIRE_OK)
        fail_msg("%s", error.message);
    return model;
}

/* 64 searches of width 8 together, 512 beams in a step where memory allows, give what each gives alone. */
static void beams_do_not_depend_on_what_else_runs(void **state)
{
    (void)state;
    static outcome alone[NUM_REQUESTS], got[NUM_REQUESTS];
    static const char *const names[] = {
        "all at once", "few blocks", "steps of 20 tokens", "blocks of 8", "blocks of 128", "no prefix cache",
        "2 threads",   "swap",       "swap to a file",     "auto"};
    quire_model *model = open_tiny(1);
    quire_stats stats;
    quire_engine_options base;
    quire_engine_options_init(&base);
    base.num_kv_blocks = 2000;
    base.max_model_len = 128;
    base.max_num_seqs = 512;
    run(model, base, false, alone, &stats);
    int num_stopped = 0;
    for (int i = 0; i < NUM_REQUESTS; i++)
        for (int k = 0; k < MAX_WIDTH; k++) num_stopped += alone[i].reason[k] == QUIRE_FINISH_STOP;
    assert_true(num_stopped > 20);
    for (int v = 0; v < 10; v++) {
        quire_engine_options o = base;
        quire_model *used = v == 6 ? open_tiny(2) : model;
        if (v == 1) o.num_kv_blocks = 34;
        if (v == 2) o.max_num_batched_tokens = 20, o.max_num_seqs = 20;
        if (v == 3) o.block_size = 8;
        if (v == 4) o.block_size = 128;
        if (v == 5) o.enable_prefix_caching = false;
        if (v >= 7) {
            o.num_kv_blocks = 34;
            o.swap_space_bytes = 1 << 20;
            o.preemption_mode = v == 9 ? "auto" : "swap";
            o.swap_path = v == 8 ? "." : NULL;
        }
        run(used, o, true, got, &stats);
        print_message("%s: %llu steps, %llu preemptions (%llu by swapping), %.1f %% of the blocks saved\n", names[v],
                      (unsigned long long)stats.num_steps, (unsigned long long)stats.num_preemptions,
                      (unsigned long long)stats.num_swapped_groups, 100 * stats.saved_block_fraction);
        for (int i = 0; i < NUM_REQUESTS; i++)
            if (memcmp(&alone[i], &got[i], sizeof alone[i]) != 0) fail_msg("%s: request %d differs", names[v], i);
        assert_true(stats.saved_block_fraction > 0);
        if (v == 0) assert_int_equal(stats.num_preemptions, 0);
        if (v == 1 || v >= 7) assert_true(stats.num_preemptions > 20);
        if (v == 7 || v == 8) assert_true(stats.num_swapped_groups > 20);
        if (used != model) quire_model_close(used);
    }
    quire_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_equal_the_reference),
        cmocka_unit_test(beams_do_not_depend_on_what_else_runs),
    };
    return cmocka_run_group_tests_name("beams", tests, NULL, NULL);
}
