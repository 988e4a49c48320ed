/* cost: how long a step takes on a device: the place of model/ in a simulation.
 *
 *   step = step_us + seq_us * sequences + token_us * tokens + pair_us * pairs              overheads, measured
 *        + max(weights / bandwidth, 2 * parameters * tokens / FLOPs)                       matrix products
 *        + max(KV read / bandwidth, 4 * layers * heads * head_dim * pairs / FLOPs)         attention
 *        + (KV written + activations) / bandwidth
 *        + 2 * layers * (link_us + all-reduce of the activations / link)                   tensor parallelism
 *        + copied blocks / bandwidth + swapped blocks over the host link
 *
 * Rates are the device's times its efficiencies; all devices of a tensor-parallel group share the work evenly. Paged
 * attention reads block_overhead_tokens more for each block; contiguous memory does not.
 * Threads: any. Source: roofline model (Williams et al., 2009); the terms of a decoder as in Pope et al., 2022. */
#ifndef QR_SIM_COST_H
#define QR_SIM_COST_H

#include "sim/hardware.h"

typedef struct qr_sim_cost {
    qr_sim_device device;
    qr_sim_model model;
    int tensor_parallel_size;
    int block_size;
    bool contiguous; /* KV lies in one piece for each sequence */
} qr_sim_cost;

/* What one step does. */
typedef struct qr_sim_load {
    int num_seqs;           /* entries */
    int64_t num_tokens;     /* new tokens */
    int64_t context_tokens; /* KV slots read: of each sequence all up to its last new token */
    int64_t num_pairs;      /* sum over new tokens of the tokens up to and with it */
    int64_t num_copied_blocks, num_swapped_blocks;
} qr_sim_load;

/* One sequence of the step computes num_new tokens from position start on. */
static inline void qr_sim_load_add(qr_sim_load *load, int64_t start, int64_t num_new)
{
    load->num_seqs++;
    load->num_tokens += num_new;
    load->context_tokens += start + num_new;
    load->num_pairs += num_new * start + num_new * (num_new + 1) / 2;
}

/* The terms, in microseconds. */
typedef struct qr_sim_step_time {
    double overhead, linear, attention, activations, all_reduce, copies, swaps;
} qr_sim_step_time;

qr_sim_step_time qr_sim_cost_terms(const qr_sim_cost *cost, const qr_sim_load *load);
/* Their sum. */
double qr_sim_cost_step_us(const qr_sim_cost *cost, const qr_sim_load *load);
/* Moving one block one way, for qr_sched_set_costs. */
double qr_sim_cost_swap_us_per_block(const qr_sim_cost *cost);

#endif
