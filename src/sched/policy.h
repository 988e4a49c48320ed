/* policy: how KV memory is given out and steps are filled. One file each behind this interface; qr_sched_options picks.
 *
 *   name                memory of a sequence                          a step
 *   vllm                blocks as they are needed, shared by content  running ones first, then waiting ones, prompts
 * cut to the budget; the last is preempted (scheduler.h) orca-max            a region of max_model_len slots all
 * running ones, then waiting ones with their orca-pow2           prompt + outputs rounded up to a power of two whole
 * prompts while regions last; nobody is orca-oracle         prompt + outputs                              preempted
 *
 * A region is a run of adjacent blocks from the buddy allocator (kv/buddy.h, which rounds it up to a power of two),
 * taken for every sequence of a group at admission and held until the sequence ends; nothing is shared: the prompt is
 * computed once and copied into the other sequences' regions, as is a forked beam's parent. "Outputs" are the request's
 * expected_output_tokens. Whoever is at the top of the queue is admitted next or nobody is.
 *
 * Source: Kwon et al., SOSP 2023, section 6.1 (baselines); Yu et al., Orca, OSDI 2022 (iterations, selective batching).
 */
#ifndef QR_SCHED_POLICY_H
#define QR_SCHED_POLICY_H

#include "sched/scheduler.h"

typedef struct qr_policy {
    bool whole_prompts; /* a prompt is computed in one step */
    /* Slots reserved for a sequence, at least as many as it uses (the last output needs none) and at most
     * max_model_len; NULL: no regions. */
    int32_t (*region_slots)(const qr_sched_options *options, int32_t num_prompt, int32_t num_output);
    /* Fill the step, which is empty, by qr_sched_run_all and qr_sched_admit. If anything is unfinished it gets an
     * entry. */
    void (*schedule)(qr_sched *sched);
} qr_policy;

extern const qr_policy qr_policy_vllm;                                                 /* step.c */
extern const qr_policy qr_policy_orca_max, qr_policy_orca_pow2, qr_policy_orca_oracle; /* policy_orca.c */

#endif
