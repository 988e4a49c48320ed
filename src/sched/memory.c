/* memory: what the slots of the pool are used for, counted after each step. */
#include "sched/scheduler_internal.h"

int32_t qr_sched_num_free_blocks(const qr_sched *sched)
{
    return sched->buddy ? qr_buddy_num_free(sched->buddy) : qr_block_pool_num_free(sched->pool);
}

static qr_slot_counts count_slots(const qr_sched *sched)
{
    const int64_t block_size = sched->options.block_size;
    const int64_t num_free = qr_sched_num_free_blocks(sched) * block_size;
    const int64_t num_taken = qr_block_pool_num_blocks(sched->pool) * block_size - num_free;
    qr_slot_counts slots = {.live = qr_block_pool_num_live_slots(sched->pool)};
    if (!sched->buddy) {
        slots.internal = num_taken - slots.live;
        slots.unused = num_free;
        return slots;
    }
    if (sched->num_final_slots > slots.live) slots.reserved = sched->num_final_slots - slots.live;
    slots.internal = sched->num_region_slots - slots.live - slots.reserved;
    slots.external = num_taken - sched->num_region_slots + (sched->lacks_region ? num_free : 0);
    slots.unused = sched->lacks_region ? 0 : num_free;
    return slots;
}

void qr_sched_observe_memory(qr_sched *sched)
{
    const int32_t num_blocks = qr_block_pool_num_blocks(sched->pool);
    const int32_t num_used = num_blocks - qr_block_pool_num_free(sched->pool);
    const int32_t num_taken = num_blocks - qr_sched_num_free_blocks(sched);
    const int64_t num_in_tables = qr_block_pool_num_refs(sched->pool);
    const qr_slot_counts slots = count_slots(sched);
    sched->live_fraction_sum += (double)slots.live / ((double)num_taken * sched->options.block_size);
    sched->saved_fraction_sum += (double)(num_in_tables - num_used) / (double)num_in_tables;
    sched->slots = slots;
    sched->slots_sum.live += slots.live;
    sched->slots_sum.reserved += slots.reserved;
    sched->slots_sum.internal += slots.internal;
    sched->slots_sum.external += slots.external;
    sched->slots_sum.unused += slots.unused;
    sched->running_sum += sched->num_running;
    sched->num_steps++;
}
