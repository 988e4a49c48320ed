/* The scheduler under random operations, against a naive reference (sched_model.h).
 *
 * That it finds bugs is proved by tests/e2e/test_planted_bugs.py, which plants them one at a time. Arguments:
 * long_run.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "long_run.h"

static long_run seeds;
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

enum { NUM_SEEDS = 5000, OPERATIONS_PER_SEED = 300 };

static void random_operations_match_the_reference(void **state)
{
    (void)state;
    static model m;
    model sum = {0};
    uint64_t num_steps = 0;
    while (long_run_next(&seeds, &current_seed)) {
        uint64_t source = current_seed;
        model_init(&m, random_choice, &source);
        for (int i = 0; i < OPERATIONS_PER_SEED; i++) model_operation(&m);
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
        "seeds %u to %u, %llu operations, %llu steps: %llu requests added, %llu refused, %llu finished, %llu aborted; "
        "%llu group forks, %llu beam forks, %llu blocks copied on write, %llu preemptions (%llu to swap space, %llu "
        "blocks out and in), %llu tokens found, %llu "
        "resets, %llu drafts (%llu accepted)\n",
        seeds.first_seed, seeds.first_seed + seeds.done - 1, (unsigned long long)seeds.done * OPERATIONS_PER_SEED,
        (unsigned long long)num_steps, (unsigned long long)sum.num_added, (unsigned long long)sum.num_refused,
        (unsigned long long)sum.num_finished, (unsigned long long)sum.num_aborts, (unsigned long long)sum.num_forks,
        (unsigned long long)sum.num_beam_forks, (unsigned long long)sum.num_copies,
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

int main(int argc, char **argv)
{
    seeds = long_run_start(argc, argv, NUM_SEEDS);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_operations_match_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
