/* policy_faster_transformer: request-level batching, as large as memory allows at the maximum length. */
#include "sched/scheduler_internal.h"

static int32_t region_slots(const qr_sched_options *options, int32_t num_prompt, int32_t num_output)
{
    (void)num_prompt, (void)num_output;
    return options->max_model_len;
}

static void schedule(qr_sched *sched)
{
    if (sched->num_running == 0) sched->batch_is_open = true;
    qr_sched_run_all(sched);
    while (sched->batch_is_open) {
        qr_request *request = qr_sched_next_waiting(sched);
        sched->lacks_region = false;
        if (request && qr_sched_admit(sched, request, 0)) continue;
        if (request && !sched->lacks_region) return; /* the step is full: the batch grows further in the next one */
        sched->batch_is_open = false;
    }
}

const qr_policy qr_policy_faster_transformer = {
    .whole_prompts = true, .holds_regions = true, .region_slots = region_slots, .schedule = schedule};
