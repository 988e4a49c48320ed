/* The scheduler under random operations, against a naive reference (sched_model.h).
 *
 * Bugs planted on purpose, one at a time, and what this test then said (those of kv are in test_kv.c):
 *   preemption keeps num_computed_tokens                     "holds blocks with status" (the recount)
 *   forked sequences do not get num_computed_tokens          an assertion in append_token
 *   the first running group is preempted, not the last       "preempted a request although a later one runs"
 *   requests are admitted in a step with preemptions         "admitted in a step with preemptions"
 *   admission ignores the blocks that others still need      an assertion: a promised block was not there
 *   no budget is kept for the sequences that follow          an assertion: nothing left for a running sequence
 *   the whole prompt is taken from the cache                 an assertion: no token left to compute
 *   copies of a group that is preempted itself are kept      "copy is for nobody"
 *   a finished sequence keeps its row                        "rows used, free" (the recount)
 *   the queue ignores priorities                             "admitted out of turn"
 *   what a group shares is taken from the lengths alone       "prompt cut", or wrong K and V
 *   a forked beam does not get its parent's outputs          "token changed"
 *   a dropped beam keeps its blocks                          "holds blocks with status" (the recount)
 *   lockstep groups sample one sequence at a time            "a lockstep group samples, but not sequence"
 *   a copy withdrawn with its group is not undone            wrong K and V after the group came back
 *   a group is swapped with slots of the withdrawn step      an assertion in qr_sched_swap_out
 *   a block that two tables share is swapped twice           "holds more blocks than foreseen" (the recount)
 *   the map of moved blocks is not cleared                   wrong K and V
 *   an aborted group keeps its swap space                    "in swap space with status" (the recount)
 *   a swapped group forgets that it has forked               an assertion: nothing left to compute
 *   the waiting heap is not repaired upwards after a removal "place is before its parent" (the recount) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static unsigned current_seed;
#define MODEL_FAIL(...)                                \
    do {                                               \
        print_error("seed %u: ", current_seed);        \
        fail_msg(__VA_ARGS__);                         \
        abort(); /* not reached: fail_msg jumps out */ \
    } while (0)
#include "sched_model.h"

static uint32_t random_choice(void *source, uint32_t n)
{
    uint64_t *state = source;
    *state += 0x9e3779b97f4a7c15u;
    uint64_t x = *state;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((x ^ (x >> 31)) % n);
}

enum { NUM_RUNS = 3000, OPERATIONS_PER_RUN = 300 };

static void random_operations_match_the_reference(void **state)
{
    (void)state;
    static model m;
    model sum = {0};
    uint64_t num_steps = 0;
    for (unsigned seed = 1; seed <= NUM_RUNS; seed++) {
        current_seed = seed;
        uint64_t source = seed;
        model_init(&m, random_choice, &source);
        for (int i = 0; i < OPERATIONS_PER_RUN; i++) model_operation(&m);
        model_finish(&m);
        num_steps += m.step;
        sum.num_added += m.num_added;
        sum.num_refused += m.num_refused;
        sum.num_aborts += m.num_aborts;
        sum.num_forks += m.num_forks;
        sum.num_copies += m.num_copies;
        sum.num_preemptions += m.num_preemptions;
        sum.num_hits += m.num_hits;
        sum.num_finished += m.num_finished;
        sum.num_resets += m.num_resets;
        sum.num_swapped += m.num_swapped;
        sum.num_swap_blocks += m.num_swap_blocks;
        sum.num_beam_forks += m.num_beam_forks;
        sum.num_restarts += m.num_restarts;
        sum.store.num_kept += m.store.num_kept;
        sum.store.num_loaded += m.store.num_loaded;
        sum.num_drafts += m.num_drafts;
        sum.num_accepted += m.num_accepted;
    }
    print_message(
        "%d operations, %llu steps: %llu requests added, %llu refused, %llu finished, %llu aborted; "
        "%llu group forks, %llu beam forks, %llu blocks copied on write, %llu preemptions (%llu to swap space, %llu "
        "blocks out and in), %llu tokens found, %llu "
        "resets, %llu drafts (%llu accepted)\n",
        NUM_RUNS * OPERATIONS_PER_RUN, (unsigned long long)num_steps, (unsigned long long)sum.num_added,
        (unsigned long long)sum.num_refused, (unsigned long long)sum.num_finished, (unsigned long long)sum.num_aborts,
        (unsigned long long)sum.num_forks, (unsigned long long)sum.num_beam_forks, (unsigned long long)sum.num_copies,
        (unsigned long long)sum.num_preemptions, (unsigned long long)sum.num_swapped,
        (unsigned long long)sum.num_swap_blocks, (unsigned long long)sum.num_hits, (unsigned long long)sum.num_resets,
        (unsigned long long)sum.num_drafts, (unsigned long long)sum.num_accepted);
    assert_true(sum.num_accepted > 100 && sum.num_drafts > 2 * sum.num_accepted);
    print_message("%llu restarts; %llu blocks kept in the store, %llu loaded\n", (unsigned long long)sum.num_restarts,
                  (unsigned long long)sum.store.num_kept, (unsigned long long)sum.store.num_loaded);
    assert_true(sum.store.num_kept > 100 && sum.store.num_loaded > 100 && sum.num_restarts > 100);
    assert_true(sum.num_forks > 100 && sum.num_copies > 100 && sum.num_preemptions > 100 && sum.num_swapped > 100 &&
                sum.num_hits > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_operations_match_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
