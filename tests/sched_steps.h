/* sched_steps: small schedulers, made-up prompts and the engine's part of a step, for tests of the scheduler. */
#ifndef SCHED_STEPS_H
#define SCHED_STEPS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sched/scheduler.h"

static inline qr_sched_options small_options(int64_t num_blocks)
{
    qr_sched_options options;
    qr_sched_options_init(&options);
    options.num_blocks = num_blocks;
    options.block_size = 4;
    options.max_num_seqs = 8;
    options.max_num_batched_tokens = 32;
    options.max_model_len = 64;
    return options;
}

static inline qr_sched *sched_of(const qr_sched_options *options)
{
    qr_sched *sched;
    quire_error error;
    if (qr_sched_create(options, &sched, &error) != QUIRE_OK) fail_msg("%s", error.message);
    return sched;
}

/* A prompt of num_prompt tokens first, first + 1, ... */
static inline qr_request_params params_of(int32_t first, int32_t num_prompt, int32_t max_output)
{
    static int32_t prompt[64];
    for (int32_t i = 0; i < num_prompt; i++) prompt[i] = first + i;
    return (qr_request_params){
        .prompt_token_ids = prompt, .num_prompt_tokens = num_prompt, .max_output_tokens = max_output, .n = 1};
}

static inline qr_request *add(qr_sched *sched, const qr_request_params *params)
{
    qr_request *request;
    quire_error error;
    if (qr_sched_add(sched, params, &request, &error) != QUIRE_OK) fail_msg("%s", error.message);
    return request;
}

static inline qr_request *add_simple(qr_sched *sched, int32_t first, int32_t num_prompt, int32_t max_output)
{
    const qr_request_params params = params_of(first, num_prompt, max_output);
    return add(sched, &params);
}

static inline void check(const qr_sched *sched)
{
    quire_error error;
    if (qr_sched_check(sched, &error) != QUIRE_OK) fail_msg("%s", error.message);
}

static inline void take_token(qr_sched *sched, qr_seq *seq, int32_t token)
{
    qr_sched_append_token(sched, seq, token);
    if (seq->num_output_tokens == seq->request->max_output_tokens)
        qr_sched_finish_seq(sched, seq, QR_FINISHED_LENGTH_CAPPED);
}

/* The engine's part of a step; sequence i of a request samples token 1000 + i. */
static inline void finish_step(qr_sched *sched, const qr_sched_step *step)
{
    qr_sched_commit_step(sched);
    for (int i = 0; i < step->num_entries; i++) {
        const qr_sched_entry *entry = &step->entries[i];
        if (!entry->samples) continue;
        if (!entry->forks) take_token(sched, entry->seq, 1000 + entry->seq->idx);
        for (int s = 0; s < entry->request->n && entry->forks; s++)
            take_token(sched, &entry->request->seqs[s], 1000 + s);
    }
    check(sched);
}

static inline qr_sched_step run_step(qr_sched *sched)
{
    qr_sched_step step;
    qr_sched_schedule(sched, &step);
    finish_step(sched, &step);
    return step;
}

static inline void expect_entry(const qr_sched_step *step, int idx, const qr_request *request, int32_t start,
                                int32_t num_new, bool samples)
{
    assert_true(idx < step->num_entries);
    const qr_sched_entry *entry = &step->entries[idx];
    assert_ptr_equal(entry->request, request);
    assert_int_equal(entry->start, start);
    assert_int_equal(entry->num_new_tokens, num_new);
    assert_int_equal(entry->samples, samples);
}

static inline int32_t num_free(const qr_sched *sched) { return qr_block_pool_num_free(qr_sched_pool(sched)); }

#endif
