#include "sim/cost.h"

#include <math.h>

/* Activations that a layer writes and reads again, in hidden vectors: norms, QKV, attention, MLP (4 wide), residuals.
 */
enum { ACTIVATION_VECTORS = 24 };
static const double ACTIVATION_BYTES = 2;

/* Microseconds for so many bytes or FLOPs at giga per second. */
static double us(double amount, double giga_per_second) { return amount / (giga_per_second * 1e3); }

double qr_sim_cost_swap_us_per_block(const qr_sim_cost *c)
{
    const qr_sim_device *d = &c->device;
    const double bytes = qr_sim_kv_bytes_per_token(&c->model) * c->block_size / c->tensor_parallel_size;
    return 2 * c->model.num_layers * d->transfer_us + us(bytes, d->host_bandwidth_gbs * d->host_efficiency);
}

static double all_reduce_us(const qr_sim_cost *c, double num_tokens)
{
    const double n = c->tensor_parallel_size;
    if (n == 1) return 0;
    const double bytes = num_tokens * c->model.hidden_size * ACTIVATION_BYTES;
    return 2 * c->model.num_layers * (c->device.link_us + us(2 * (n - 1) / n * bytes, c->device.link_bandwidth_gbs));
}

qr_sim_step_time qr_sim_cost_terms(const qr_sim_cost *c, const qr_sim_load *load)
{
    const qr_sim_device *d = &c->device;
    const qr_sim_model *m = &c->model;
    const double n = c->tensor_parallel_size, num_tokens = (double)load->num_tokens,
                 num_pairs = (double)load->num_pairs;
    const double bandwidth = d->memory_bandwidth_gbs * n, gflops = d->tflops * 1e3 * d->flops_efficiency * n;
    const double kv_bytes = qr_sim_kv_bytes_per_token(m);
    const double paging = c->contiguous ? 1 : 1 + d->block_overhead_tokens / c->block_size;
    const double read_bytes = (double)load->context_tokens * kv_bytes * paging;
    const double activation_bytes = num_tokens * m->num_layers * m->hidden_size * ACTIVATION_VECTORS * ACTIVATION_BYTES;
    const double linear_flops = 2 * m->parameters_billion * 1e9 * num_tokens;
    const double attention_flops = 4 * m->num_layers * m->num_heads * m->head_dim * num_pairs;
    return (qr_sim_step_time){
        .overhead = d->step_us + d->seq_us * load->num_seqs + d->token_us * num_tokens + d->pair_us * num_pairs,
        .linear = fmax(us(qr_sim_weight_bytes(m), bandwidth * d->weight_efficiency), us(linear_flops, gflops)),
        .attention = fmax(us(read_bytes, bandwidth * d->attention_efficiency), us(attention_flops, gflops)),
        .activations = us(num_tokens * kv_bytes + activation_bytes, bandwidth),
        .all_reduce = all_reduce_us(c, num_tokens),
        .copies = us(2.0 * (double)load->num_copied_blocks * c->block_size * kv_bytes, bandwidth),
        .swaps = (double)load->num_swapped_blocks * qr_sim_cost_swap_us_per_block(c),
    };
}

double qr_sim_cost_step_us(const qr_sim_cost *cost, const qr_sim_load *load)
{
    const qr_sim_step_time t = qr_sim_cost_terms(cost, load);
    return t.overhead + t.linear + t.attention + t.activations + t.all_reduce + t.copies + t.swaps;
}
