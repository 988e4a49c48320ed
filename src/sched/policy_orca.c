/* policy_orca: iteration-level scheduling over contiguous regions, with what is reserved in three sizes. */
#include "sched/scheduler_internal.h"

static int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

static int32_t max_slots(const qr_sched_options *options, int32_t num_prompt, int32_t num_output)
{
    (void)num_prompt, (void)num_output;
    return options->max_model_len;
}

static int32_t pow2_slots(const qr_sched_options *options, int32_t num_prompt, int32_t num_output)
{
    int32_t reserved = 1;
    while (reserved < num_output) reserved *= 2;
    return min_i32(num_prompt + reserved, options->max_model_len);
}

static int32_t oracle_slots(const qr_sched_options *options, int32_t num_prompt, int32_t num_output)
{
    (void)options;
    return num_prompt + num_output - 1;
}

static void schedule(qr_sched *sched)
{
    qr_sched_run_all(sched);
    if (sched->num_preempted > 0 && sched->num_entries > 0) return;
    sched->lacks_region = false;
    for (;;) {
        qr_request *request = qr_sched_next_waiting(sched);
        if (!request || !qr_sched_admit(sched, request, 0)) break;
    }
}

const qr_policy qr_policy_orca_max = {.whole_prompts = true, .region_slots = max_slots, .schedule = schedule};
const qr_policy qr_policy_orca_pow2 = {.whole_prompts = true, .region_slots = pow2_slots, .schedule = schedule};
const qr_policy qr_policy_orca_oracle = {.whole_prompts = true, .region_slots = oracle_slots, .schedule = schedule};
