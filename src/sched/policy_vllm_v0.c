/* policy_vllm_v0: the scheduler of the paper and of vLLM's version 0: prompts first and apart, a hundredth of the
 * blocks kept back when something is admitted, so that it is not preempted at once. */
#include "sched/scheduler_internal.h"

/* What runs alone may have all. */
static int64_t watermark(const qr_sched *sched)
{
    enum { POOL_SHARE = 100 };
    return sched->num_running > 0 ? sched->options.num_blocks / POOL_SHARE : 0;
}

static bool is_swapped(const qr_request *request) { return request->num_swapped_blocks > 0; }

static void admit_prompts(qr_sched *sched)
{
    for (;;) {
        qr_request *request = qr_sched_next_waiting(sched);
        if (!request || is_swapped(request) || !qr_sched_admit(sched, request, watermark(sched))) return;
    }
}

static void admit_swapped(qr_sched *sched)
{
    for (;;) {
        qr_request *request = qr_sched_next_waiting(sched);
        if (!request || !is_swapped(request) || !qr_sched_admit(sched, request, watermark(sched))) return;
    }
}

static void schedule(qr_sched *sched)
{
    admit_prompts(sched);
    if (sched->num_entries > 0) return;
    qr_sched_run_all(sched);
    if (sched->num_preempted == 0) admit_swapped(sched);
}

const qr_policy qr_policy_vllm_v0 = {.whole_prompts = true, .schedule = schedule};
