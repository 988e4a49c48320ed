/* hardware: the machines and models that are simulated: numbers from data sheets and papers, and constants measured.
 *
 *   qr_sim_device   one GPU (or CPU): capacity, rates, how much of them is reached, overheads of the engine
 *   qr_sim_model    shape of a decoder: what a token costs in FLOPs, weights and KV bytes
 *   qr_sim_setup    a model on so many devices, with the KV memory that the PagedAttention paper gives it
 *
 * Any of them can also be a JSON object whose members are the fields below; "base" names the row that it starts from:
 *   {"base": "a100-40gb", "name": "mine", "memory_bandwidth_gbs": 1555, "step_us": 900}
 * A calibration is such an object of measured constants, applied to a device.
 *
 * Threads: any; tables are constant. Sources: in the tables. */
#ifndef QR_SIM_HARDWARE_H
#define QR_SIM_HARDWARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { QR_SIM_NAME_BYTES = 48 };

typedef struct qr_sim_device {
    char name[QR_SIM_NAME_BYTES];
    double memory_gib;
    double memory_bandwidth_gbs; /* GB/s = 1e9 bytes a second, as are the other rates */
    double tflops;               /* dense, 16 bit */
    double link_bandwidth_gbs;   /* to the other devices, one direction */
    double link_us;              /* latency of one all-reduce */
    double host_bandwidth_gbs;   /* to host memory, one direction */
    double transfer_us;          /* overhead of one copy to or from host memory */
    /* how much of the rates is reached */
    double weight_efficiency, flops_efficiency, attention_efficiency, host_efficiency;
    /* PagedAttention reads a block at the price of so many more tokens: its start-up and indirection */
    double block_overhead_tokens;
    /* time that no rate explains: per step, per sequence in it, per token in it, per (token, earlier token) pair */
    double step_us, seq_us, token_us, pair_us;
} qr_sim_device;

typedef struct qr_sim_model {
    char name[QR_SIM_NAME_BYTES];
    double num_layers, hidden_size, num_heads, num_kv_heads, head_dim;
    double parameters_billion;
    double bytes_per_parameter, bytes_per_kv;
    double max_model_len;
} qr_sim_model;

typedef struct qr_sim_setup {
    const char *model, *device;
    int tensor_parallel_size;
    int64_t num_kv_slots; /* 0: from the device's memory */
} qr_sim_setup;

/* Rows end with a name "" (a model NULL). The first setup of a model is its default. */
extern const qr_sim_device qr_sim_devices[];
extern const qr_sim_model qr_sim_models[];
extern const qr_sim_setup qr_sim_setups[];

/* NULL: no such row. */
const qr_sim_device *qr_sim_find_device(const char *name);
const qr_sim_model *qr_sim_find_model(const char *name);
/* device NULL and tensor_parallel_size 0: any. */
const qr_sim_setup *qr_sim_find_setup(const char *model, const char *device, int tensor_parallel_size);

/* A JSON object of fields; `name` is for messages. OK | FORMAT (not JSON; an unknown field; out of range) | NOMEM;
 * *out is unchanged on failure. */
QUIRE_MUST_USE quire_status qr_sim_parse_device(const char *name, const char *json, size_t bytes, qr_sim_device *out,
                                                quire_error *error);
QUIRE_MUST_USE quire_status qr_sim_parse_model(const char *name, const char *json, size_t bytes, qr_sim_model *out,
                                               quire_error *error);
/* The same for measured constants: fields of `device`, which keeps all others. Members that are text are notes. */
QUIRE_MUST_USE quire_status qr_sim_apply_calibration(const char *name, const char *json, size_t bytes,
                                                     qr_sim_device *device, quire_error *error);

/* Bytes of K and V of one token, all layers and heads. */
double qr_sim_kv_bytes_per_token(const qr_sim_model *model);
double qr_sim_weight_bytes(const qr_sim_model *model);
/* KV slots on tensor_parallel_size devices: the setup's if the tables have this one, else what
 * gpu_memory_utilization leaves beside the weights; 0 when nothing is left. */
int64_t qr_sim_kv_slots(const qr_sim_model *model, const qr_sim_device *device, int tensor_parallel_size,
                        double gpu_memory_utilization);

#endif
