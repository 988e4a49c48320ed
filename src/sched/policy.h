/* policy: how KV memory is given out and steps are filled. One file each behind this interface; qr_sched_options picks.
 *
 *   name                memory of a sequence                a step
 *   vllm                blocks as they are needed, shared   running ones first, then waiting ones; prompts are cut to
 *                       by content                          the budget; the last one is preempted (scheduler.h)
 *   vllm-v0             the same                            waiting ones' whole prompts, or when none fits the running
 *                                                           ones, then swapped ones; the last one is preempted
 *   orca-max            a region of max_model_len slots     running ones, then waiting ones with whole prompts while
 *   orca-pow2           prompt + outputs, these rounded     regions last; nobody is preempted
 *                       up to a power of two
 *   orca-oracle         prompt + outputs
 *   faster-transformer  a region of max_model_len slots     when nothing runs, all waiting ones that get a region;
 *                                                           then these alone until the last of them ends
 *
 * A region is a run of adjacent blocks from the buddy allocator (kv/buddy.h, which rounds it up to a power of two),
 * taken for every sequence of a group at admission and held until the sequence ends (faster-transformer: until the
 * batch ends, though answers are not held back that long). Nothing is shared: the prompt is computed once and copied
 * into the other sequences' regions, as is a forked beam's parent. "Outputs" are the request's expected_output_tokens.
 * Under every policy whoever is at the top of the queue is admitted next or nobody is.
 *
 * Source: Kwon et al., SOSP 2023, sections 4.5 and 6.1; vLLM 0.2, core/scheduler.py and block_manager.py; Yu et al.,
 * Orca, OSDI 2022. */
#ifndef QR_SCHED_POLICY_H
#define QR_SCHED_POLICY_H

#include "sched/scheduler.h"

typedef struct qr_policy {
    bool whole_prompts; /* a prompt is computed in one step */
    bool holds_regions; /* until nothing runs any more */
    /* Slots reserved for a sequence, at least as many as it uses (the last output needs none) and at most
     * max_model_len; NULL: no regions. */
    int32_t (*region_slots)(const qr_sched_options *options, int32_t num_prompt, int32_t num_output);
    /* Fill the step, which is empty, by qr_sched_run_all and qr_sched_admit. If anything is unfinished it gets an
     * entry. */
    void (*schedule)(qr_sched *sched);
} qr_policy;

extern const qr_policy qr_policy_vllm; /* step.c */
extern const qr_policy qr_policy_vllm_v0;
extern const qr_policy qr_policy_faster_transformer;
extern const qr_policy qr_policy_orca_max, qr_policy_orca_pow2, qr_policy_orca_oracle; /* policy_orca.c */

#endif
